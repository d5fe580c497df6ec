//! The actor that keeps partitions running: it starts each on its arbiter thread, and where one
//! ends by an error or a panic, opens it again after a stated delay or parks it with a stated
//! reason. It never touches RocksDB, and never serves a read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Arbiter, AsyncContext, Context, Handler, Message, System};
use hydrant_storage::threads::{Work, stand_back};
use tokio::sync::{Semaphore, oneshot};

use super::actor::{PartitionActor, PartitionParts};
use super::handle::{Command, PartitionState, Shared, StopReason};
use super::options::PartitionSettings;

/// Why a partition's actor ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ExitCause {
    Stopped(StopReason),
    /// Opening again may help.
    Failed(String),
    /// Its files are still held by a reader of a view lent earlier: opening again will help, when
    /// that has ended.
    InUse(String),
    /// Opening again can't help: bytes are wrong, and somebody has to look.
    Damaged(String),
    Panicked(String),
}

/// What to do about a partition that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Rest,
    Park { reason: Arc<str> },
    Reopen { reason: Arc<str>, delay: Duration, attempt: u32 },
}

/// Decides about a partition that ended after `failures` failures in a row before this one.
pub(super) fn decide(cause: &ExitCause, failures: u32, settings: &PartitionSettings) -> Decision {
    let reason: Arc<str> = match cause {
        ExitCause::Stopped(StopReason::Shutdown) => return Decision::Rest,
        ExitCause::Stopped(StopReason::Park(reason)) => return Decision::Park { reason: reason.clone() },
        ExitCause::Damaged(reason) => return Decision::Park { reason: reason.as_str().into() },
        ExitCause::Failed(reason) | ExitCause::InUse(reason) => reason.as_str().into(),
        ExitCause::Panicked(message) => format!("its actor panicked: {message}").into(),
    };
    let attempt = failures.saturating_add(1);
    let waits_for_readers = matches!(cause, ExitCause::InUse(_));
    if attempt > settings.max_reopens && !waits_for_readers {
        return Decision::Park {
            reason: format!("{failures} reopenings in a row have failed; the last: {reason}").into(),
        };
    }
    let doubled = settings.reopen_delay.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX));
    Decision::Reopen { reason, delay: doubled.min(settings.max_reopen_delay), attempt }
}

/// The supervisor's address, for the module's front.
#[derive(Clone, Debug)]
pub(super) struct SupervisorHandle(Addr<PartitionSupervisor>);

impl SupervisorHandle {
    /// Stops all partitions, flushed, and then the actor threads.
    pub async fn shutdown(&self) {
        let (reply, stopped) = oneshot::channel();
        post(&self.0, Order::Shutdown(reply));
        // The reply is dropped unsent where the supervisor has already gone: nothing is left to stop.
        drop(stopped.await);
    }

    pub fn park(&self, partition: usize, reason: Arc<str>) {
        post(&self.0, Order::Park { partition, reason });
    }

    pub fn reopen(&self, partition: usize) {
        post(&self.0, Order::Reopen { partition });
    }
}

/// Starts the supervisor and its partitions on threads of their own.
pub(super) fn start(
    parts: Vec<Arc<PartitionParts>>,
    settings: &PartitionSettings,
) -> std::io::Result<SupervisorHandle> {
    let (started, address) = std::sync::mpsc::sync_channel(1);
    let settings = settings.clone();
    std::thread::Builder::new().name("hydrant-supervisor".to_owned()).spawn(move || {
        // And so do the arbiters, which are started from here.
        stand_back(Work::Applying);
        let system = System::new();
        system.block_on(async move {
            let threads = settings.threads.clamp(1, parts.len().max(1));
            let arbiters: Vec<Arbiter> = (0..threads).map(|_| Arbiter::new()).collect();
            let supervisor = PartitionSupervisor::new(parts, arbiters, settings);
            // The starter waits for the address and can't have gone away.
            drop(started.send(supervisor.start()));
        });
        if let Err(error) = system.run() {
            tracing::error!(%error, "the actor system ended with an error");
        }
    })?;
    let address = address.recv().map_err(|_| std::io::Error::other("the actor system did not start"))?;
    Ok(SupervisorHandle(address))
}

/// Queues a message whatever the mailbox holds. The senders bound what is queued: a nudge is on its
/// way at most once, commands hold a place among those in flight, and the supervisor is told of each
/// actor's end once. An actor that has ended drops it, which a waiting caller sees by its reply.
#[expect(clippy::disallowed_methods, reason = "the senders bound the queue, and a dropped reply is noticed")]
pub(super) fn post<A, M>(address: &Addr<A>, message: M)
where
    A: Actor + Handler<M>,
    A::Context: ToEnvelope<A, M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    address.do_send(message);
}

/// The map partition → state.
#[derive(Debug)]
pub(super) struct PartitionSupervisor {
    partitions: Vec<Supervised>,
    arbiters: Vec<Arbiter>,
    settings: PartitionSettings,
    /// How far the log was trimmed; a trim that failed doesn't move it.
    trimmed: Arc<AtomicU64>,
    /// One trim at a time: a slow disk must not pile them up.
    trimming: Arc<Semaphore>,
    closing: Vec<oneshot::Sender<()>>,
}

#[derive(Debug)]
struct Supervised {
    parts: Arc<PartitionParts>,
    /// Counts the actors that the partition has had, so that a late report is told apart.
    generation: u64,
    running: bool,
    started: Instant,
    failures: u32,
}

impl PartitionSupervisor {
    fn new(parts: Vec<Arc<PartitionParts>>, arbiters: Vec<Arbiter>, settings: PartitionSettings) -> Self {
        let supervised =
            |parts| Supervised { parts, generation: 0, running: false, started: Instant::now(), failures: 0 };
        let partitions = parts.into_iter().map(supervised).collect();
        Self {
            partitions,
            arbiters,
            settings,
            trimmed: Arc::default(),
            trimming: Arc::new(Semaphore::new(1)),
            closing: Vec::new(),
        }
    }

    fn open(&mut self, partition: usize, context: &Context<Self>) {
        let Some(supervised) = self.partitions.get_mut(partition) else { return };
        if supervised.running || !self.closing.is_empty() {
            return;
        }
        supervised.generation += 1;
        supervised.running = true;
        supervised.started = Instant::now();
        let generation = supervised.generation;
        let parts = supervised.parts.clone();
        parts.shared.revoke(PartitionState::Opening);
        let supervisor = context.address();
        // At most one report per actor that was started, so the supervisor's queue stays short.
        let report = move |cause| post(&supervisor, Exited { partition, generation, cause });
        let arbiter = &self.arbiters[partition % self.arbiters.len()];
        PartitionActor::launch(parts, arbiter, Box::new(report));
    }

    fn trim_log(&mut self) {
        let flushed = self.partitions.iter().map(|supervised| supervised.parts.shared.flushed.load(Ordering::Acquire));
        let through = flushed.min().unwrap_or(0);
        if through <= self.trimmed.load(Ordering::Acquire) {
            return;
        }
        let Some(parts) = self.partitions.first().map(|supervised| supervised.parts.clone()) else { return };
        let Ok(place) = self.trimming.clone().try_acquire_owned() else { return };
        // Writing what producers have sent and unlinking segments may touch the disk for a while.
        let trimmed = self.trimmed.clone();
        tokio::task::spawn_blocking(move || {
            match parts.log.trim(through) {
                Ok(()) => trimmed.store(through, Ordering::Release),
                Err(error) => {
                    parts.metrics.trim_failures.add(1);
                    tracing::warn!(%error, through, "the log could not be trimmed; it is tried again later");
                }
            }
            drop(place);
        });
    }

    fn finish_closing(&mut self) {
        if self.closing.is_empty() || self.partitions.iter().any(|supervised| supervised.running) {
            return;
        }
        for arbiter in &self.arbiters {
            arbiter.stop();
        }
        for reply in self.closing.drain(..) {
            // Whoever asked may have stopped waiting.
            reply.send(()).ok();
        }
        System::current().stop();
    }
}

impl Actor for PartitionSupervisor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        for partition in 0..self.partitions.len() {
            self.open(partition, context);
        }
        context.run_interval(self.settings.trim_interval, |supervisor, _| supervisor.trim_log());
    }
}

/// A partition's actor has ended.
#[derive(Debug)]
struct Exited {
    partition: usize,
    generation: u64,
    cause: ExitCause,
}

impl Message for Exited {
    type Result = ();
}

impl Handler<Exited> for PartitionSupervisor {
    type Result = ();

    fn handle(&mut self, exited: Exited, context: &mut Self::Context) {
        let partition = exited.partition;
        let closing = !self.closing.is_empty();
        let supervised = &mut self.partitions[partition];
        if supervised.generation != exited.generation {
            return;
        }
        supervised.running = false;
        if supervised.started.elapsed() >= self.settings.healthy_after {
            supervised.failures = 0;
        }
        let shared: &Shared = &supervised.parts.shared;
        let metrics = &supervised.parts.metrics;
        if matches!(exited.cause, ExitCause::Panicked(_)) {
            metrics.panics.add(1);
        }
        let decision = decide(&exited.cause, supervised.failures, &self.settings);
        match decision {
            _ if closing => shared.revoke(PartitionState::Stopped),
            Decision::Rest => shared.revoke(PartitionState::Stopped),
            Decision::Park { reason } => {
                tracing::error!(partition, %reason, "partition parked");
                metrics.parked.add(1);
                shared.revoke(PartitionState::Parked { reason });
            }
            Decision::Reopen { reason, delay, attempt } => {
                tracing::warn!(partition, %reason, ?delay, attempt, "partition failed and will be reopened");
                metrics.reopened.add(1);
                supervised.failures = attempt;
                shared.revoke(PartitionState::Reopening { reason, delay, attempt });
                context.run_later(delay, move |supervisor, context| {
                    // An operator may have parked or reopened it meanwhile.
                    let state = &supervisor.partitions[partition].parts.shared.progress.borrow().state.clone();
                    if matches!(state, PartitionState::Reopening { .. }) {
                        supervisor.open(partition, context);
                    }
                });
            }
        }
        self.finish_closing();
    }
}

/// What the supervisor can be told from outside.
#[derive(Debug)]
enum Order {
    Park { partition: usize, reason: Arc<str> },
    Reopen { partition: usize },
    Shutdown(oneshot::Sender<()>),
}

impl Message for Order {
    type Result = ();
}

impl Handler<Order> for PartitionSupervisor {
    type Result = ();

    fn handle(&mut self, order: Order, context: &mut Self::Context) {
        match order {
            Order::Park { partition, reason } => {
                let Some(supervised) = self.partitions.get(partition) else { return };
                if supervised.running {
                    tell(&supervised.parts.shared, Command::Stop { why: StopReason::Park(reason) });
                } else {
                    supervised.parts.shared.revoke(PartitionState::Parked { reason });
                }
            }
            Order::Reopen { partition } => {
                if let Some(supervised) = self.partitions.get_mut(partition) {
                    supervised.failures = 0;
                }
                self.open(partition, context);
            }
            Order::Shutdown(reply) => {
                self.closing.push(reply);
                for supervised in &self.partitions {
                    if supervised.running {
                        tell(&supervised.parts.shared, Command::Stop { why: StopReason::Shutdown });
                    } else {
                        supervised.parts.shared.revoke(PartitionState::Stopped);
                    }
                }
                self.finish_closing();
            }
        }
    }
}

fn tell(shared: &Shared, command: Command) {
    if let Some(mailbox) = shared.mailbox.load_full() {
        mailbox.tell(command);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_partition_is_reopened_with_growing_delays_and_then_parked() {
        let settings = PartitionSettings {
            reopen_delay: Duration::from_millis(100),
            max_reopen_delay: Duration::from_millis(350),
            max_reopens: 3,
            ..PartitionSettings::default()
        };
        let cause = ExitCause::Failed("the disk is full".to_owned());
        let delays: Vec<_> = (0..3)
            .map(|failures| match decide(&cause, failures, &settings) {
                Decision::Reopen { delay, attempt, .. } => (delay.as_millis(), attempt),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(delays, [(100, 1), (200, 2), (350, 3)]);
        assert!(matches!(decide(&cause, 3, &settings), Decision::Park { .. }));
    }

    #[test]
    fn a_partition_whose_files_a_reader_still_holds_is_never_parked_for_that() {
        let cause = ExitCause::InUse("the store is in use".to_owned());
        let settings = PartitionSettings::default();
        let decision = decide(&cause, u32::MAX - 1, &settings);
        assert!(matches!(decision, Decision::Reopen { delay, .. } if delay == settings.max_reopen_delay));
    }

    #[test]
    fn a_damaged_partition_is_parked_at_once_with_the_reason() {
        let cause = ExitCause::Damaged("bad block".to_owned());
        let decision = decide(&cause, 0, &PartitionSettings::default());
        assert_eq!(decision, Decision::Park { reason: "bad block".into() });
    }
}
