//! The landing actor: decides when rows land, and does one landing at a time. It runs on a thread
//! of its own; the work itself, which waits and writes, runs on a runtime of its own too, whose threads
//! stand back behind those that answer online reads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Actor, ActorFutureExt, Addr, AsyncContext, AtomicResponse, Context, Handler, Message, System, WrapFuture};
use hydrant_storage::threads::{Work, stand_back};
use tokio::runtime::{self, Handle, Runtime};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;
use tracing::Instrument as _;

use super::{Landed, LandingFailed, LandingMetrics, LandingOptions, LandingParts, round, take_in};
use crate::error::{Code, Error, Result};

/// Landing, as its callers see it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Landing {
    actor: Addr<LandingActor>,
    /// Bounds the actor's mailbox.
    places: Arc<Semaphore>,
    metrics: Arc<LandingMetrics>,
}

const THREAD: &str = "hydrant-landing";

/// How many callers may wait for a landing.
const MAX_WAITING: usize = 16;

/// Threads that a landing's reads and writes of files may take at a time.
const MAX_THREADS: usize = 16;

impl Landing {
    /// Starts to land by size and time.
    pub fn start(parts: LandingParts, options: LandingOptions) -> Result<Self> {
        let metrics = Arc::new(LandingMetrics::default());
        let counted = metrics.clone();
        let (started, address) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name(THREAD.to_owned()).spawn(move || {
            stand_back(Work::Upkeep);
            // The starter waits for the address and can't have gone away.
            let runtime = match working_runtime() {
                Ok(runtime) => runtime,
                Err(error) => return drop(started.send(Err(error))),
            };
            let of_work = runtime.handle().clone();
            let system = System::new();
            system.block_on(async move {
                let (metrics, last) = (counted, Instant::now());
                let actor = LandingActor { parts, options, runtime: of_work, metrics, last, failed: false };
                drop(started.send(Ok(actor.start())));
            });
            if let Err(error) = system.run() {
                tracing::error!(%error, "the landing actor's thread ended with an error");
            }
        });
        let not_started = |error| Error::internal(format!("the landing actor can't be started: {error}"));
        thread.map_err(not_started)?;
        let actor = address.recv().map_err(|_| Error::internal("the landing actor did not start"))?;
        let actor = actor.map_err(not_started)?;
        Ok(Self { actor, places: Arc::new(Semaphore::new(MAX_WAITING)), metrics })
    }

    /// Lands everything that is durable in the log now, and lets the tails go.
    pub async fn land_now(&self) -> Result<Landed, LandingFailed> {
        let _place = self.enter()?;
        self.actor.send(Land).await.unwrap_or_else(|_| Err(stopped().into()))
    }

    /// Takes in what backfills have staged, as far as control records in the log say so now.
    pub async fn take_in_now(&self) -> Result<()> {
        let _place = self.enter()?;
        self.actor.send(TakeInStaged).await.unwrap_or_else(|_| Err(stopped()))
    }

    fn enter(&self) -> Result<SemaphorePermit<'_>> {
        self.places.try_acquire().map_err(|_| {
            Error::new(Code::ResourceExhausted, "LANDING_BUSY", "many callers wait for a landing already")
                .retry_after(Duration::from_secs(1))
        })
    }

    pub fn metrics(&self) -> &LandingMetrics {
        &self.metrics
    }

    /// Ends the actor, after the landing that is under way; what hasn't landed stays in the tails.
    pub async fn shutdown(&self) {
        if self.actor.send(Stop).await.is_err() {
            tracing::debug!("the landing actor had stopped already");
        }
    }
}

#[derive(Debug)]
struct LandingActor {
    parts: LandingParts,
    options: LandingOptions,
    runtime: Handle,
    metrics: Arc<LandingMetrics>,
    last: Instant,
    /// Whether the last landing failed, so that the next doesn't wait for the whole interval.
    failed: bool,
}

#[derive(Debug)]
struct Land;

impl Message for Land {
    type Result = Result<Landed, LandingFailed>;
}

#[derive(Debug)]
struct TakeInStaged;

impl Message for TakeInStaged {
    type Result = Result<()>;
}

#[derive(Debug)]
struct LandIfDue;

impl Message for LandIfDue {
    type Result = ();
}

#[derive(Debug)]
struct Stop;

impl Message for Stop {
    type Result = ();
}

impl Actor for LandingActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.run_interval(self.options.check_every(), |actor, context| {
            if actor.is_due() {
                context.notify(LandIfDue);
            }
        });
    }
}

impl Handler<Land> for LandingActor {
    /// The mailbox rests meanwhile, so that there is one landing at a time.
    type Result = AtomicResponse<Self, Result<Landed, LandingFailed>>;

    fn handle(&mut self, _: Land, _: &mut Self::Context) -> Self::Result {
        let work = self.begin();
        let done = async move { work.await.unwrap_or_else(|error| Err(ended(&error).into())) };
        AtomicResponse::new(Box::pin(done.into_actor(self).map(|outcome, actor, _| {
            actor.last = Instant::now();
            actor.failed = outcome.is_err();
            outcome
        })))
    }
}

impl Handler<TakeInStaged> for LandingActor {
    type Result = AtomicResponse<Self, Result<()>>;

    fn handle(&mut self, _: TakeInStaged, _: &mut Self::Context) -> Self::Result {
        let (parts, options) = (self.parts.clone(), self.options.clone());
        let work = self.runtime.spawn(async move { take_in::take_in(&parts, &options).await });
        let done = async move { work.await.unwrap_or_else(|error| Err(ended(&error))) };
        AtomicResponse::new(Box::pin(done.into_actor(self)))
    }
}

impl Handler<LandIfDue> for LandingActor {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, _: LandIfDue, _: &mut Self::Context) -> Self::Result {
        let work = self.is_due().then(|| self.begin());
        let done = async move {
            let work = work?;
            let outcome = work.await.unwrap_or_else(|error| Err(ended(&error).into()));
            if let Err(LandingFailed { landed, error }) = &outcome {
                tracing::warn!(%error, landed_rows = landed.rows(), "a landing failed and will be tried again");
            }
            Some(outcome.is_err())
        };
        AtomicResponse::new(Box::pin(done.into_actor(self).map(|failed: Option<bool>, actor, _| {
            if let Some(failed) = failed {
                actor.last = Instant::now();
                actor.failed = failed;
            }
        })))
    }
}

impl Handler<Stop> for LandingActor {
    type Result = ();

    fn handle(&mut self, _: Stop, _: &mut Self::Context) {
        System::current().stop();
    }
}

impl LandingActor {
    fn begin(&self) -> JoinHandle<Result<Landed, LandingFailed>> {
        let (parts, options, metrics) = (self.parts.clone(), self.options.clone(), self.metrics.clone());
        let landing = async move {
            let outcome = round::land(&parts, &options).await;
            metrics.note(&outcome);
            outcome
        };
        self.runtime.spawn(landing.instrument(tracing::debug_span!("landing")))
    }

    fn is_due(&self) -> bool {
        let tail_bytes: u64 = self.parts.partitions.lag().iter().map(|lag| lag.tail_bytes).sum();
        let waited = self.last.elapsed();
        // After a failure the tails are as full as before: soon again, but not at once.
        let soon = waited >= self.options.check_every() * 5;
        let full = tail_bytes >= self.options.tail_bytes;
        let is_staged = !self.parts.log.unsettled().is_empty();
        if is_staged && (soon || !self.failed) {
            return true;
        }
        tail_bytes > 0 && (waited >= self.options.interval || soon && (full || self.failed))
    }
}

/// Where landings work. Blocking threads are started by whoever needs one, so each stands back by itself.
fn working_runtime() -> std::io::Result<Runtime> {
    runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(MAX_THREADS)
        .thread_name(THREAD)
        .on_thread_start(|| stand_back(Work::Upkeep))
        .enable_all()
        .build()
}

fn stopped() -> Error {
    Error::new(Code::Unavailable, "SHUTTING_DOWN", "landing has stopped")
}

fn ended(error: &tokio::task::JoinError) -> Error {
    if error.is_panic() { Error::internal(format!("a landing panicked: {error}")) } else { stopped() }
}
