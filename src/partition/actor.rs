//! The one writer of a partition: an actor that owns the partition's files, pulls frames from the
//! log, applies them in bounded steps and publishes what readers see. It never awaits inside a
//! handler, and calls neither the registry nor the network nor another actor; a step that has more
//! to do gives way to the other partitions of its thread and goes on afterwards.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{Actor, ActorContext, Addr, Arbiter, AsyncContext, Context, Handler, Message, SpawnHandle, StreamHandler};
use futures::stream;
use hydrant_storage::names::{TenantId, ViewId};
use hydrant_storage::order::Micros;
use hydrant_storage::partition::{PartitionOptions, PartitionStore, Progress, SharedResources, StoreError};
use hydrant_storage::record::{RowRecord, SharedFrame};
use tokio::sync::watch;

use super::handle::{Command, Mailbox, PartitionState, Reply, Shared, StopReason};
use super::metrics::PartitionMetrics;
use super::options::PartitionSettings;
use super::policies::{CatalogPolicies, LandedFrames};
use super::supervisor::{ExitCause, post};
use crate::clock::StoreTime;
use crate::log::{LogError, WriteLog};
use crate::registry::SnapshotReader;

/// All that an actor of this partition is made from, again after each failure.
#[derive(Debug)]
pub(super) struct PartitionParts {
    pub shared: Arc<Shared>,
    pub directory: PathBuf,
    pub storage: PartitionOptions,
    pub resources: Arc<SharedResources>,
    pub settings: PartitionSettings,
    pub log: Arc<dyn WriteLog>,
    pub snapshots: SnapshotReader,
    pub landed: Arc<LandedFrames>,
    pub store_time: Arc<StoreTime>,
    pub metrics: Arc<PartitionMetrics>,
}

/// How an actor's end is reported.
pub(super) type Report = Box<dyn FnOnce(ExitCause) + Send>;

pub(super) struct PartitionActor {
    parts: Arc<PartitionParts>,
    /// `None` only before the files are open.
    open: Option<Open>,
    stepping: bool,
    /// Whether readers or a timer wait for a look at due rows.
    publish_wanted: bool,
    drops: VecDeque<TailDrop>,
    promotion_timer: Option<SpawnHandle>,
    /// Last, so that the files are closed before the end is reported.
    exit: Exit,
}

/// What exists while the files are open.
struct Open {
    store: PartitionStore,
    policies: CatalogPolicies,
    /// Frames read from the log and not yet applied; at most one read's worth.
    ahead: VecDeque<SharedFrame>,
    durable: watch::Receiver<u64>,
    /// The end of the log when the files were opened; nothing is lent before it is applied.
    replay_through: u64,
    /// Whether a large frame has waited for a step already, so that what was applied before it could
    /// be published.
    large_waited: bool,
    last_flush: Instant,
    /// Whether the sweep has met damage, so that it is said once.
    damage_told: bool,
}

struct TailDrop {
    tenant: TenantId,
    view: ViewId,
    through: u64,
    reply: Reply<()>,
}

/// Reports the end of an actor, whichever way it comes: without a stated cause it was a panic.
struct Exit {
    shared: Arc<Shared>,
    cause: Option<ExitCause>,
    report: Option<Report>,
}

impl Drop for Exit {
    fn drop(&mut self) {
        self.shared.view.store(None);
        self.shared.mailbox.store(None);
        let unstated = || ExitCause::Panicked("outside a step".to_owned());
        if let Some(report) = self.report.take() {
            report(self.cause.take().unwrap_or_else(unstated));
        }
    }
}

impl PartitionActor {
    /// Starts an actor for the partition on `arbiter`; `report` is called once, when it has ended.
    pub fn launch(parts: Arc<PartitionParts>, arbiter: &Arbiter, report: Report) {
        let shared = parts.shared.clone();
        let exit = Exit { shared: shared.clone(), cause: None, report: Some(report) };
        let address = Self::start_in_arbiter(&arbiter.handle(), move |_| Self {
            parts,
            open: None,
            stepping: false,
            publish_wanted: true,
            drops: VecDeque::new(),
            promotion_timer: None,
            exit,
        });
        let mailbox: Box<dyn Mailbox> = Box::new(ActorMailbox(address));
        shared.mailbox.store(Some(Arc::new(mailbox)));
    }

    /// Runs one piece of work; an error or a panic in it ends the actor with the cause stated.
    fn guarded<T>(
        &mut self,
        context: &mut Context<Self>,
        work: impl FnOnce(&mut Self) -> Result<T, ExitCause>,
    ) -> Option<T> {
        let worked = catch_unwind(AssertUnwindSafe(|| work(self)));
        let cause = match worked {
            Ok(Ok(done)) => return Some(done),
            Ok(Err(cause)) => cause,
            Err(panic) => ExitCause::Panicked(panic_message(&*panic)),
        };
        self.end(context, cause);
        None
    }

    fn end(&mut self, context: &mut Context<Self>, cause: ExitCause) {
        self.parts.shared.view.store(None);
        self.exit.cause.get_or_insert(cause);
        context.stop();
    }

    fn open_files(&mut self) -> Result<watch::Receiver<u64>, ExitCause> {
        let parts = &self.parts;
        let shared = &parts.shared;
        let store = PartitionStore::open(&parts.directory, shared.range, &parts.storage, &parts.resources)
            .map_err(store_failure)?;
        let mut durable = parts.log.durable();
        let replay_through = *durable.borrow_and_update();
        let holds = store.unfinished_frame().unwrap_or(0).max(store.applied().frame);
        if holds > replay_through {
            // Its rows would stand for frames that the log has no more, or will number anew.
            return Err(ExitCause::Damaged(ahead_of_log(&parts.directory, holds, replay_through)));
        }
        shared.flushed.store(store.flushed_frame(), Ordering::Release);
        shared.tail_bytes.store(store.tail_bytes(), Ordering::Release);
        let replaying = PartitionState::Replaying { through: replay_through };
        shared.progress.send_modify(|progress| progress.state = replaying);
        let gone = parts.snapshots.gone().clone();
        let policies = CatalogPolicies::new(&parts.snapshots.load(), parts.landed.clone(), gone);
        self.open = Some(Open {
            store,
            policies,
            ahead: VecDeque::new(),
            durable: durable.clone(),
            replay_through,
            large_waited: false,
            last_flush: Instant::now(),
            damage_told: false,
        });
        Ok(durable)
    }

    /// Looks for work now, unless a step is under way that will.
    fn wake(&mut self, context: &mut Context<Self>) {
        if !self.stepping {
            self.run_step(context);
        }
    }

    fn run_step(&mut self, context: &mut Context<Self>) {
        let Some(more) = self.guarded(context, Self::step) else { return };
        self.arm_promotion(context);
        self.stepping = more;
        if more {
            // Given way through the thread's scheduler: a message to itself would be handled at
            // once, before the thread's other partitions and timers.
            let yielded = wrap_future::<_, Self>(tokio::task::yield_now());
            context.spawn(yielded.map(|(), actor, context| actor.run_step(context)));
        }
    }

    /// A bounded piece of everything that waits; whether more is left.
    fn step(&mut self) -> Result<bool, ExitCause> {
        let parts = self.parts.clone();
        let Some(open) = &mut self.open else { return Ok(false) };
        let advanced = open.apply_some(&parts, self.publish_wanted)?;
        let now = parts.store_time.read();
        let more_due = open.store.promote(now, parts.settings.promote_rows).map_err(store_failure)?;
        let dropped = Self::drop_some(&mut self.drops, open, &parts)?;
        parts.shared.tail_bytes.store(open.store.tail_bytes(), Ordering::Release);
        let wanted = more_due || advanced || dropped || self.publish_wanted;
        self.publish_wanted = wanted && (more_due || !open.publish(&parts, now));
        Ok(more_due || !self.drops.is_empty() || open.is_behind())
    }

    /// Whether a drop has ended, so that a view without the dropped rows should be published.
    fn drop_some(drops: &mut VecDeque<TailDrop>, open: &mut Open, parts: &PartitionParts) -> Result<bool, ExitCause> {
        let Some(next) = drops.front() else { return Ok(false) };
        let limit = parts.settings.drop_rows;
        let more = open.store.drop_tail((next.tenant, next.view), next.through, limit).map_err(store_failure)?;
        parts.metrics.tail_drops.add(1);
        if more {
            return Ok(false);
        }
        if let Some(done) = drops.pop_front() {
            done.reply.send(());
        }
        Ok(true)
    }

    /// Whether rows became stubs or went, so that a view without their bodies should be published.
    fn housekeeping(&mut self) -> Result<bool, ExitCause> {
        let parts = self.parts.clone();
        let Some(open) = &mut self.open else { return Ok(false) };
        let now = parts.store_time.read();
        open.policies.note_gone(now);
        let swept = open.store.sweep_expired(now, &open.policies, parts.settings.sweep_rows).map_err(store_failure)?;
        parts.metrics.rows_damaged.add(swept.damaged_rows as u64);
        parts.metrics.blocks_damaged.add(swept.damaged_blocks as u64);
        let is_damaged = swept.damaged_rows + swept.damaged_blocks > 0;
        if is_damaged && !std::mem::replace(&mut open.damage_told, true) {
            let (partition, rows, blocks) = (parts.shared.index, swept.damaged_rows, swept.damaged_blocks);
            tracing::error!(partition, rows, blocks, "the online store is damaged; its other rows are served on");
        }
        // The applied position of an idle partition reaches the disk this way too.
        let unflushed = open.store.applied().frame > parts.shared.flushed.load(Ordering::Acquire);
        if unflushed && open.last_flush.elapsed() >= parts.settings.flush_interval {
            open.flush(&parts)?;
        }
        Ok(swept.expired_rows + swept.removed_rows > 0)
    }

    /// Looks again when the next pending row falls due. Under a clock that isn't wall time the
    /// timer may come early or late; readers ask by themselves.
    fn arm_promotion(&mut self, context: &mut Context<Self>) {
        const SHORTEST: Duration = Duration::from_millis(5);
        const LONGEST: Duration = Duration::from_secs(60);
        if let Some(timer) = self.promotion_timer.take() {
            context.cancel_future(timer);
        }
        let Some(view) = self.parts.shared.view.load_full() else { return };
        let Some(due) = view.next_due() else { return };
        let micros = due.saturating_sub(self.parts.store_time.read()).max(0);
        let delay = Duration::from_micros(micros.unsigned_abs()).clamp(SHORTEST, LONGEST);
        self.promotion_timer = Some(context.run_later(delay, |actor, context| {
            actor.promotion_timer = None;
            actor.publish_wanted = true;
            actor.wake(context);
        }));
    }
}

impl Open {
    /// Applies rows up to the bounds of one step; whether any frame was applied to its end. A frame
    /// larger than a step is applied over several, and nothing is published meanwhile; so it is not
    /// begun while something waits for that, unless it has stepped back once before.
    fn apply_some(&mut self, parts: &PartitionParts, publish_wanted: bool) -> Result<bool, ExitCause> {
        let settings = &parts.settings;
        let before = self.store.applied().frame;
        if self.ahead.is_empty() && *self.durable.borrow() > before {
            self.ahead.extend(parts.log.read_from(before, settings.read_bytes).map_err(log_failure)?);
        }
        if self.ahead.is_empty() {
            return Ok(false);
        }
        let _span = tracing::debug_span!("apply", partition = parts.shared.index, after = before).entered();
        let snapshot = parts.snapshots.load();
        // A frame is applied under one revision.
        if snapshot.revision != self.policies.revision && self.store.unfinished_frame().is_none() {
            self.policies = CatalogPolicies::new(&snapshot, parts.landed.clone(), parts.snapshots.gone().clone());
        }
        let (mut frames, mut rows_left) = (0, settings.apply_rows.max(1));
        while frames < settings.apply_frames && rows_left > 0 {
            let Some(frame) = self.ahead.front().cloned() else { break };
            let expected = self.store.applied().frame + 1;
            if frame.number != expected {
                return Err(ExitCause::Damaged(format!("the log gave frame {} in place of {expected}", frame.number)));
            }
            let rows = frame.rows_of_slots(parts.shared.range.first, parts.shared.range.last);
            let would_begin_large = rows.len() > rows_left && self.store.unfinished_frame().is_none();
            let others_wait = frames > 0 || (publish_wanted && !self.large_waited);
            if would_begin_large && others_wait {
                self.large_waited |= frames == 0;
                break;
            }
            self.large_waited = false;
            if !self.apply_chunk(parts, &frame, rows, rows_left)? {
                break;
            }
            self.ahead.pop_front();
            frames += 1;
            rows_left = rows_left.saturating_sub(rows.len());
        }
        parts.metrics.frames_applied.add(frames as u64);
        Ok(frames > 0)
    }

    /// Whether the frame is applied to its end.
    fn apply_chunk(
        &mut self,
        parts: &PartitionParts,
        frame: &SharedFrame,
        rows: &[RowRecord],
        limit: usize,
    ) -> Result<bool, ExitCause> {
        let now = parts.store_time.read();
        let (number, ingest_time) = (frame.number, frame.ingest_time);
        let applied = self.store.apply_some(number, ingest_time, rows, limit, now, &self.policies);
        if !rows.is_empty() {
            parts.metrics.apply_chunks.add(1);
        }
        let Progress::Done(report) = applied.map_err(store_failure)? else { return Ok(false) };
        parts.metrics.rows_applied.add(rows.len() as u64);
        parts.metrics.rows_late.add(report.late_rows as u64);
        parts.metrics.rows_pending.add(report.pending_rows as u64);
        parts.metrics.rows_dropped.add(report.unknown_view_rows as u64);
        parts.metrics.rows_damaged.add(report.shadowed_rows as u64);
        Ok(true)
    }

    fn is_behind(&self) -> bool {
        !self.ahead.is_empty() || *self.durable.borrow() > self.store.applied().frame
    }

    /// Whether a view was lent: not before the log is replayed, and not in the middle of a frame.
    fn publish(&mut self, parts: &PartitionParts, promoted: Micros) -> bool {
        let applied = self.store.applied().frame;
        if applied < self.replay_through {
            return false;
        }
        let Some(view) = self.store.publish() else { return false };
        let shared = &parts.shared;
        shared.view.store(Some(view));
        shared.progress.send_modify(|progress| {
            progress.state = PartitionState::Serving;
            progress.applied = applied;
            progress.promoted = promoted;
        });
        true
    }

    fn flush(&mut self, parts: &PartitionParts) -> Result<u64, ExitCause> {
        self.store.flush().map_err(store_failure)?;
        self.last_flush = Instant::now();
        parts.metrics.flushes.add(1);
        let flushed = self.store.flushed_frame();
        parts.shared.flushed.store(flushed, Ordering::Release);
        Ok(flushed)
    }
}

impl Actor for PartitionActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        let Some(durable) = self.guarded(context, Self::open_files) else { return };
        self.parts.shared.nudged.store(false, Ordering::Release);
        let changes = stream::unfold(durable, |mut durable| async move {
            durable.changed().await.ok()?;
            Some((LogAdvanced, durable))
        });
        context.add_stream(changes);
        context.run_interval(self.parts.settings.housekeeping_every(), |actor, context| {
            if actor.guarded(context, Self::housekeeping) == Some(true) {
                actor.publish_wanted = true;
                actor.wake(context);
            }
        });
        self.wake(context);
    }
}

/// More of the log is durable.
struct LogAdvanced;

impl StreamHandler<LogAdvanced> for PartitionActor {
    fn handle(&mut self, _: LogAdvanced, context: &mut Self::Context) {
        self.wake(context);
    }

    // A log that has closed advances no more; what is applied stays readable until shutdown.
    fn finished(&mut self, _: &mut Self::Context) {}
}

impl Message for Command {
    type Result = ();
}

impl Handler<Command> for PartitionActor {
    type Result = ();

    fn handle(&mut self, command: Command, context: &mut Self::Context) {
        match command {
            Command::Nudge => {
                self.parts.shared.nudged.store(false, Ordering::Release);
                self.publish_wanted = true;
                self.wake(context);
            }
            Command::Flush { reply } => {
                let flushed = self.guarded(context, |actor| match &mut actor.open {
                    Some(open) => open.flush(&actor.parts),
                    None => Ok(0),
                });
                if let Some(flushed) = flushed {
                    reply.send(flushed);
                }
            }
            Command::DropTail { tenant, view, through, reply } => {
                self.drops.push_back(TailDrop { tenant, view, through, reply });
                self.wake(context);
            }
            Command::Erase { rows, through, reply } => {
                let erased = self.guarded(context, |actor| match &mut actor.open {
                    Some(open) => open.store.erase(&rows, through).map(|()| true).map_err(store_failure),
                    None => Ok(false),
                });
                // Unanswered, it is asked again.
                if erased == Some(true) {
                    self.publish_wanted = true;
                    self.wake(context);
                    reply.send(());
                }
            }
            Command::Stop { why } => {
                // A flush saves replaying; without it nothing is lost but time.
                self.guarded(context, |actor| match &mut actor.open {
                    Some(open) => open.flush(&actor.parts).map(drop),
                    None => Ok(()),
                });
                self.exit.cause = Some(ExitCause::Stopped(why));
                self.end(context, ExitCause::Stopped(StopReason::Shutdown));
            }
        }
    }
}

impl fmt::Debug for PartitionActor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PartitionActor").field("partition", &self.parts.shared.index).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct ActorMailbox(Addr<PartitionActor>);

impl Mailbox for ActorMailbox {
    fn tell(&self, command: Command) {
        post(&self.0, command);
    }
}

fn store_failure(error: StoreError) -> ExitCause {
    let reason = error.to_string();
    match error {
        StoreError::InUse { .. } => ExitCause::InUse(reason),
        _ if error.is_damage() || error.is_format() => ExitCause::Damaged(reason),
        _ => ExitCause::Failed(reason),
    }
}

fn log_failure(error: LogError) -> ExitCause {
    let reason = format!("reading the log: {error}");
    match error {
        LogError::Trimmed { .. } => ExitCause::Damaged(format!(
            "{reason}, and this partition has not applied that: its files are an older copy, or were removed; stop the \
             node and put back files that belong to this log"
        )),
        LogError::Damaged { .. } | LogError::Missing { .. } => ExitCause::Damaged(reason),
        _ => ExitCause::Failed(reason),
    }
}

fn ahead_of_log(directory: &Path, holds: u64, log_end: u64) -> String {
    format!(
        "{} holds rows of frame {holds}, and the log ends at frame {log_end}: the log was lost or is an older copy; stop \
         the node and put back the log that belongs to these partitions, or, if there is none any more, begin with an \
         empty data directory and send the rows again",
        directory.display()
    )
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".to_owned())
}
