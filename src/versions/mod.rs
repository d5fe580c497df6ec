//! New versions of views are built beside those that are served: from the history of one that is there, whose
//! rows keep their times and positions, and then online. Rows that come meanwhile go to both. When all of it
//! is there, the registry has the new version served, in one revision; until then nobody reads it. Each step
//! is noted in the version's own table, so that what a restart cuts off goes on where it was. It decides
//! nothing about definitions.

mod metrics;

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hydrant_storage::history::{HistoryError, HistoryTable, HistoryTables, Succession};
use hydrant_storage::names::{Name, ViewId};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use self::metrics::VersionMetrics;

use crate::clock::StoreTime;
use crate::error::{Code, Error, Result};
use crate::lands::Lands;
use crate::log::{AppendError, AppendRequest, WriteLog};
use crate::partition::Partitions;
use crate::registry::catalog::{Standing, View};
use crate::registry::{BuildProgress, BuildStep, Registry};

/// After a build failed, it is tried again after so long, then twice as long, and so on.
const FIRST_DELAY: Duration = Duration::from_millis(250);
const LONGEST_DELAY: Duration = Duration::from_mins(1);
/// How long a request waits for the partitions, or for its turn, before that is a failure.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is noted in a version's table: the frame from which on all rows go to it too,
const BARRIER: &str = "version-barrier";
/// and that what came before is in it.
const HISTORY: &str = "version-history";

/// Brings the history of one version of a view online.
#[async_trait]
pub trait BringsOnline: Send + Sync + Debug {
    /// All that counts of it is online when it returns. `told` hears now and then how many rows of history
    /// were read, of so many.
    async fn bring_online(
        &self,
        tenant: &Name,
        version: &Arc<View>,
        told: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> Result<()>;
}

/// What versions are built with.
#[derive(Clone, Debug)]
pub struct VersionParts {
    pub registry: Registry,
    pub log: Arc<dyn WriteLog>,
    pub partitions: Partitions,
    pub tables: Arc<HistoryTables>,
    pub store_time: Arc<StoreTime>,
    pub lands: Arc<dyn Lands>,
    /// Shared while history is read and written anew, so that none of the rows that an erasure is about is on
    /// its way.
    pub bringing_online: Arc<tokio::sync::RwLock<()>>,
    pub online: Arc<dyn BringsOnline>,
    /// A file of history ends once it has about so many bytes.
    pub file_bytes: u64,
}

/// The one that builds versions, one after the other.
#[derive(Debug)]
pub struct Versions {
    metrics: Arc<VersionMetrics>,
    stopping: Arc<AtomicBool>,
    stop: watch::Sender<bool>,
    worker: std::sync::Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Worker {
    parts: VersionParts,
    metrics: Arc<VersionMetrics>,
    stopping: Arc<AtomicBool>,
    stopped: watch::Receiver<bool>,
}

/// A version that is to be built.
#[derive(Clone, Debug)]
struct Build {
    tenant: Name,
    view: Arc<View>,
    from: Arc<View>,
    since: u64,
}

impl Versions {
    /// Goes on with what an earlier process had begun, and does what definitions ask for from then on.
    pub fn start(parts: VersionParts) -> Self {
        let (metrics, stopping) = (Arc::new(VersionMetrics::default()), Arc::new(AtomicBool::new(false)));
        let (stop, stopped) = watch::channel(false);
        let worker = Worker { parts, metrics: metrics.clone(), stopping: stopping.clone(), stopped };
        let worker = tokio::spawn(worker.run());
        Self { metrics, stopping, stop, worker: std::sync::Mutex::new(Some(worker)) }
    }

    pub fn metrics(&self) -> &VersionMetrics {
        &self.metrics
    }

    /// Stops what is under way, to go on at the next start.
    pub async fn shutdown(&self) {
        self.stopping.store(true, Ordering::Release);
        self.stop.send_replace(true);
        let worker = self.worker.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(worker) = worker
            && let Err(error) = worker.await
        {
            tracing::error!(%error, "the worker that builds versions of views ended early");
        }
    }
}

impl Drop for Versions {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
    }
}

impl Worker {
    async fn run(mut self) {
        let mut revisions = self.parts.registry.subscribe();
        let mut delay = FIRST_DELAY;
        loop {
            // A revision is told once the log refuses rows that were made under those before: not until then
            // do all of them go to its versions too.
            let revision = *revisions.borrow_and_update();
            let mut failed = false;
            for build in self.due(revision) {
                if self.stopping.load(Ordering::Acquire) {
                    return;
                }
                if let Err(error) = self.build(&build).await
                    && self.is_due(&build)
                    && !self.stopping.load(Ordering::Acquire)
                {
                    failed = true;
                    self.metrics.failures.add(1);
                    let (view, version) = (&build.view.name, build.view.version);
                    tracing::error!(%view, version, %error, "a version could not be built and will be tried again; reads keep the one before");
                }
            }
            let again = async {
                if failed {
                    tokio::time::sleep(delay).await;
                } else {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                changed = revisions.changed() => if changed.is_err() { return },
                _ = self.stopped.changed() => return,
                () = again => {}
            }
            delay = if failed { (delay * 2).min(LONGEST_DELAY) } else { FIRST_DELAY };
        }
    }

    /// The versions that are to be built by a revision.
    fn due(&self, revision: u64) -> Vec<Build> {
        let snapshot = self.parts.registry.snapshot();
        let mut due = Vec::new();
        for tenant in snapshot.tenants.values() {
            for view in tenant.versions.values().flatten() {
                let Standing::Building { since, from } = view.standing else { continue };
                if since > revision {
                    continue;
                }
                let from = |version: &&Arc<View>| version.id == from;
                // What is built from goes only with the view.
                let Some(from) = tenant.versions_of(view.name.as_str()).find(from) else { continue };
                due.push(Build { tenant: tenant.name.clone(), view: view.clone(), from: from.clone(), since });
            }
        }
        due
    }

    fn is_due(&self, build: &Build) -> bool {
        is_due(&self.parts.registry, &build.tenant, build.view.id)
    }

    async fn build(&self, build: &Build) -> Result<()> {
        let built = self.build_all(build).await;
        // Served, or to be tried again.
        self.parts.registry.tell_progress(build.view.id, None);
        built
    }

    async fn build_all(&self, build: &Build) -> Result<()> {
        let Build { tenant, view, from, since } = build;
        let table = self.table(tenant, view).await?;
        if table.noted(HISTORY).await.map_err(|error| history_error(&error))?.is_none() {
            self.build_history(build, &table).await?;
        }
        if view.online {
            let registry = &self.parts.registry;
            let told = |rows: u64, total_rows: u64| {
                let (step, rows) = (BuildStep::Online, Arc::new(AtomicU64::new(rows)));
                registry.tell_progress(view.id, Some(BuildProgress { step, rows, total_rows }));
            };
            // It may have to wait for its turn.
            told(0, rows_of(&table));
            // What was brought until then stays; the next start brings the rest.
            let mut stopped = self.stopped.clone();
            tokio::select! {
                brought = self.parts.online.bring_online(tenant, view, &told) => brought?,
                _ = stopped.wait_for(|stops| *stops) => return Err(unavailable("the server stops")),
            }
        }
        if let Some(revision) = self.parts.registry.built(tenant, view.id, *since).await? {
            self.metrics.built.add(1);
            let (name, version, before) = (&view.name, view.version, from.version);
            tracing::info!(view = %name, version, built_from = before, revision, "a new version of a view is served");
        }
        Ok(())
    }

    async fn build_history(&self, build: &Build, table: &HistoryTable) -> Result<()> {
        let through = match table.noted(BARRIER).await.map_err(|error| history_error(&error))? {
            Some(frame) => frame,
            None => {
                // Rows that were made before the definitions had the version are all before this frame: the log
                // refuses those that come later.
                let frame = self.append(build).await?;
                table.note(BARRIER, frame, self.parts.store_time.read()).await.map_err(|error| history_error(&error))?
            }
        };
        let applied = self.parts.partitions.wait_applied(through, Instant::now() + PATIENCE);
        applied.await.map_err(Error::from)?;
        self.parts.lands.land_now().await?;
        let _shared = self.parts.bringing_online.read().await;
        let from = self.table(&build.tenant, &build.from).await?;
        let (total_rows, from) = (rows_of(&from), from.snapshot());
        let progress = BuildProgress { step: BuildStep::History, rows: Arc::default(), total_rows };
        self.parts.registry.tell_progress(build.view.id, Some(progress.clone()));
        let succession = Succession {
            from,
            origins: build.view.origins_in(&build.from),
            through,
            file_bytes: self.parts.file_bytes,
            rows: progress.rows,
        };
        let (stopping, registry) = (self.stopping.clone(), self.parts.registry.clone());
        let (tenant, version) = (build.tenant.clone(), build.view.id);
        let pace = Box::new(move |_| !stopping.load(Ordering::Acquire) && is_due(&registry, &tenant, version));
        let rows = table.succeed(succession, HISTORY, self.parts.store_time.read(), pace).await;
        self.metrics.rows.add(rows.map_err(|error| history_error(&error))?);
        // What is gone of the version that it is made of is not in it either.
        if let Some(before) = table.snapshot().retained_from {
            self.parts.registry.reader().gone().note(build.view.id, before);
        }
        Ok(())
    }

    async fn table(&self, tenant: &Name, view: &View) -> Result<HistoryTable> {
        let table = self.parts.tables.table(view.history_spec(tenant)).await;
        table.map_err(|error| history_error(&error))
    }

    /// The frame of a request without rows.
    async fn append(&self, build: &Build) -> Result<u64> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if !self.is_due(build) || self.stopping.load(Ordering::Acquire) {
                return Err(unavailable("it is not to be built any more"));
            }
            let request = AppendRequest::of_rows(Vec::new(), None, self.parts.registry.snapshot().revision);
            let delay = match self.parts.log.append(request).await {
                Ok(appended) => return Ok(appended.frame),
                Err(AppendError::Outdated { .. }) => continue,
                Err(AppendError::Overloaded { retry_after }) if Instant::now() < deadline => retry_after,
                Err(error) => return Err(unavailable(&format!("the log takes no rows: {error}"))),
            };
            tokio::time::sleep(delay).await;
        }
    }
}

/// Rows of a version's history.
fn rows_of(table: &HistoryTable) -> u64 {
    table.snapshot().files.iter().map(|file| file.rows()).sum()
}

/// Whether a version is still to be built.
fn is_due(registry: &Registry, tenant: &Name, version: ViewId) -> bool {
    let snapshot = registry.snapshot();
    let Ok(tenant) = snapshot.tenant(tenant) else { return false };
    let found = tenant.versions.values().flatten().find(|view| view.id == version);
    found.is_some_and(|view| matches!(view.standing, Standing::Building { .. }))
}

fn unavailable(message: &str) -> Error {
    Error::new(Code::Unavailable, "VERSION_NOT_BUILT", message)
}

fn history_error(error: &HistoryError) -> Error {
    let (code, reason) = match error.is_damage() {
        true => (Code::DataLoss, "HISTORY_DAMAGED"),
        false => (Code::Unavailable, "HISTORY_UNAVAILABLE"),
    };
    Error::new(code, reason, format!("history can't be read or written: {error}"))
}
