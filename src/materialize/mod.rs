//! Brings history online: of each key of a view the newest row that has come, and the rows that are still
//! to come, as rows of the log that keep the position and the times with which they were taken in first.
//! Partitions apply them by the one comparator, so that nothing newer is overwritten, and to bring the same
//! once more changes nothing. It writes to the log only, and stands back behind reads and other writes.

mod metrics;
mod work;

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hydrant_storage::history::HistoryTables;
use hydrant_storage::names::Name;
use hydrant_storage::threads::{Work, stand_back};
use tokio::runtime::Handle;
use tokio::sync::{OwnedRwLockReadGuard, OwnedSemaphorePermit, RwLock, oneshot, watch};

pub use self::metrics::MaterializeMetrics;

use self::work::Task;
use crate::clock::StoreTime;
use crate::error::{Code, Error, Result};
use crate::log::WriteLog;
use crate::one_at_a_time::OneAtATime;
use crate::partition::Partitions;
use crate::registry::SnapshotReader;
use crate::registry::catalog::View;
use crate::registry::selection::is_of_another;
use crate::runs::{Run, Telling, Watcher, Written};
use crate::tenancy::{Action, Permit};

/// What history is brought online with.
#[derive(Clone, Debug)]
pub struct MaterializeParts {
    pub snapshots: SnapshotReader,
    pub log: Arc<dyn WriteLog>,
    pub partitions: Partitions,
    pub tables: Arc<HistoryTables>,
    pub store_time: Arc<StoreTime>,
    /// Shared while rows are brought online, so that none of those that an erasure is about is on its way.
    pub bringing_online: Arc<RwLock<()>>,
    /// Who is told of it.
    pub watcher: Watcher,
}

/// The use case. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Materialize {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    parts: MaterializeParts,
    /// One view at a time.
    working: OneAtATime,
    stopping: AtomicBool,
    metrics: MaterializeMetrics,
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Rows of history that were read, of so many.
    pub rows: u64,
    pub total_rows: u64,
    /// Keys of those rows; one that lies in several runs of files counts once in each.
    pub keys: u64,
    /// Rows that were brought online, or are to come online when they are due.
    pub written: u64,
}

/// What is told of it.
#[derive(Debug)]
pub enum Told {
    Progress(Progress),
    /// Nothing follows.
    Done(Result<Progress>),
}

/// History on its way online. Dropping it stops the work; what was brought online stays.
#[derive(Debug)]
pub struct Materializing {
    progress: watch::Receiver<Progress>,
    outcome: oneshot::Receiver<Result<Progress>>,
}

impl Materialize {
    pub fn new(parts: MaterializeParts) -> Self {
        let (working, stopping) = (OneAtATime::default(), AtomicBool::new(false));
        Self { inner: Arc::new(Inner { parts, working, stopping, metrics: MaterializeMetrics::default() }) }
    }

    /// Begins with a view of the caller's tenant; with a frame, only with files that hold rows of it or of
    /// later ones. Refusals: NOT_FOUND (no such view), FAILED_PRECONDITION (it keeps no history, or is not
    /// online), RESOURCE_EXHAUSTED (another is being brought online). It ends (UNAUTHENTICATED) at its next
    /// step where the caller's credential holds no more.
    pub async fn begin(&self, permit: &Permit, view: &str, since_frame: Option<u64>) -> Result<Materializing> {
        permit.require(Action::Write)?;
        permit.check_view(view)?;
        let inner = self.inner.clone();
        let snapshot = inner.parts.snapshots.load();
        let versions: Vec<Arc<View>> = snapshot.tenant(permit.tenant())?.versions_of(view).cloned().collect();
        let found = versions.first().ok_or_else(|| {
            let missing = Error::not_found("VIEW_NOT_FOUND", format!("there is no view '{view}'")).with("view", view);
            match is_of_another(view) {
                true => missing.hint("what another tenant shares is brought online by that tenant"),
                false => missing,
            }
        })?;
        if !found.offline {
            let message = format!("view '{view}' keeps no history (offline: false) to bring online");
            return Err(Error::new(Code::FailedPrecondition, "VIEW_WITHOUT_HISTORY", message).with("view", view));
        }
        if !found.online {
            let message = format!("view '{view}' is not online (online: false)");
            return Err(Error::new(Code::FailedPrecondition, "VIEW_NOT_ONLINE", message).with("view", view));
        }
        let place = self.enter()?;
        let shared = inner.parts.bringing_online.clone().try_read_owned().map_err(|_| {
            Error::new(
                Code::ResourceExhausted,
                "ERASURE_UNDER_WAY",
                "a key is being erased, and no row may be brought online",
            )
            .hint("`hydrant erase list` tells how far it is; try again then")
            .retry_after(Duration::from_secs(1))
        })?;
        self.begin_all(permit.tenant(), versions, since_frame, Some(permit.clone()), (place, shared)).await
    }

    /// Begins with one version of a view, for whoever builds it, once nothing else is brought online and no key
    /// is being erased.
    pub async fn begin_version(&self, tenant: &Name, version: &Arc<View>) -> Result<Materializing> {
        let place = self.inner.working.wait().await?;
        let shared = self.inner.parts.bringing_online.clone().read_owned().await;
        self.begin_all(tenant, vec![version.clone()], None, None, (place, shared)).await
    }

    async fn begin_all(
        &self,
        tenant: &Name,
        versions: Vec<Arc<View>>,
        since_frame: Option<u64>,
        permit: Option<Permit>,
        (place, shared): (OwnedSemaphorePermit, OwnedRwLockReadGuard<()>),
    ) -> Result<Materializing> {
        let inner = self.inner.clone();
        let mut tasks = Vec::with_capacity(versions.len());
        for view in versions {
            let table = inner.parts.tables.table(view.history_spec(tenant)).await;
            let table = table.map_err(|error| work::history_error(&error))?.snapshot();
            tasks.push(Task { tenant: tenant.clone(), view, table, since_frame });
        }
        let (told, progress) = watch::channel(Progress::default());
        let (done, outcome) = oneshot::channel();
        let runtime = Handle::current();
        let thread = std::thread::Builder::new().name("hydrant-materialize".to_owned());
        let started = thread.spawn(move || {
            stand_back(Work::Training);
            inner.run(&tasks, &runtime, permit.as_ref(), (place, shared), &told, done);
        });
        started.map_err(|error| Error::internal(format!("no thread to bring history online: {error}")))?;
        Ok(Materializing { progress, outcome })
    }

    pub fn metrics(&self) -> &MaterializeMetrics {
        &self.inner.metrics
    }

    /// Stops what is under way and lets none begin.
    pub async fn shutdown(&self) {
        self.inner.stopping.store(true, Ordering::Release);
        self.inner.working.close().await;
    }

    fn enter(&self) -> Result<OwnedSemaphorePermit> {
        self.inner.working.enter(|| {
            Error::new(Code::ResourceExhausted, "MATERIALIZE_BUSY", "the history of a view is being brought online")
                .hint("wait until that has ended: there is one at a time")
                .retry_after(Duration::from_secs(1))
        })
    }
}

impl Inner {
    /// To be called where it may block.
    fn run(
        &self,
        tasks: &[Task],
        runtime: &Handle,
        permit: Option<&Permit>,
        place: (OwnedSemaphorePermit, OwnedRwLockReadGuard<()>),
        told: &watch::Sender<Progress>,
        done: oneshot::Sender<Result<Progress>>,
    ) {
        let Some(first) = tasks.first() else { return };
        let view = first.view.name.clone();
        let run = Run::Materialize { view: view.clone(), begun: self.parts.store_time.read() };
        let telling = Telling::begin(self.parts.watcher.clone(), first.tenant.clone(), run);
        // All versions of the view, one after the other.
        let mut outcome = Ok(Progress::default());
        let check_still = || permit.map_or(Ok(()), Permit::check_still);
        for task in tasks {
            let Ok(before) = outcome else { break };
            let mut proceed = |progress: &Progress| {
                told.send_replace(before.and(progress));
                !done.is_closed() && !self.stopping.load(Ordering::Acquire) && check_still().is_ok()
            };
            outcome = task.run(&self.parts, runtime, &mut proceed).map(|progress| before.and(&progress));
        }
        outcome = outcome.or_else(|error| check_still().and(Err(error)));
        self.metrics.note(&outcome);
        let written = |done: &Progress| vec![Written { name: view.to_string(), rows: done.written, bytes: None }];
        telling.end(outcome.as_ref().map(written), work::STOPPED);
        match &outcome {
            Ok(Progress { rows, keys, written, .. }) => {
                tracing::info!(%view, rows, keys, written, "history was brought online");
            }
            Err(error) => tracing::info!(%view, %error, "history was not brought online to its end"),
        }
        drop(place);
        // Whoever asked may have gone.
        let _ = done.send(outcome);
    }
}

impl Progress {
    fn and(&self, other: &Self) -> Self {
        Self {
            rows: self.rows + other.rows,
            total_rows: self.total_rows + other.total_rows,
            keys: self.keys + other.keys,
            written: self.written + other.written,
        }
    }
}

impl Materializing {
    /// What there is to tell next: progress now and then, and in the end what came of it.
    pub async fn next(&mut self) -> Told {
        let ended = || Err(Error::internal("the thread that brings history online ended early"));
        tokio::select! {
            biased;
            outcome = &mut self.outcome => Told::Done(outcome.unwrap_or_else(|_| ended())),
            Ok(()) = self.progress.changed() => Told::Progress(*self.progress.borrow_and_update()),
        }
    }

    /// Waits for the end.
    pub async fn done(mut self) -> Result<Progress> {
        loop {
            if let Told::Done(outcome) = self.next().await {
                return outcome;
            }
        }
    }
}
