//! Refills: when a view's ttl is raised, rows that had expired and count again get their values back online,
//! from history. They go through the log as rows that keep their times and position, so nothing else changes
//! what a partition answers. Reads go by the old ttl until all of them are applied; then the registry puts
//! the raised one in effect, in one revision. What a restart cuts off begins anew, and finds what is done. It
//! reads history and the partitions' stubs, and decides nothing about definitions.

mod metrics;
mod work;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hydrant_storage::history::HistoryTables;
use hydrant_storage::names::Name;
use hydrant_storage::threads::{Work, stand_back};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

pub use self::metrics::RefillMetrics;

use self::work::Task;
use crate::clock::StoreTime;
use crate::error::{Error, Result};
use crate::lands::Lands;
use crate::log::WriteLog;
use crate::partition::Partitions;
use crate::registry::Registry;
use crate::registry::catalog::{Refill, View};

/// After a refill failed, it is tried again after so long, then twice as long, and so on.
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_mins(1);

/// What refills are made with.
#[derive(Clone, Debug)]
pub struct RefillParts {
    pub registry: Registry,
    pub log: Arc<dyn WriteLog>,
    pub partitions: Partitions,
    pub tables: Arc<HistoryTables>,
    pub store_time: Arc<StoreTime>,
    pub lands: Arc<dyn Lands>,
    /// Shared while rows are brought online, so that none of those that an erasure is about is on its way.
    pub bringing_online: Arc<tokio::sync::RwLock<()>>,
}

/// The one that makes refills, one view after the other.
#[derive(Debug)]
pub struct Refills {
    metrics: Arc<RefillMetrics>,
    stopping: Arc<AtomicBool>,
    stop: watch::Sender<bool>,
    worker: std::sync::Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Worker {
    parts: RefillParts,
    metrics: Arc<RefillMetrics>,
    stopping: Arc<AtomicBool>,
    stopped: watch::Receiver<bool>,
}

impl Refills {
    /// Goes on with what an earlier process had begun, and does what definitions ask for from then on.
    pub fn start(parts: RefillParts) -> Self {
        let (metrics, stopping) = (Arc::new(RefillMetrics::default()), Arc::new(AtomicBool::new(false)));
        let (stop, stopped) = watch::channel(false);
        let worker = Worker { parts, metrics: metrics.clone(), stopping: stopping.clone(), stopped };
        let worker = tokio::spawn(worker.run());
        Self { metrics, stopping, stop, worker: std::sync::Mutex::new(Some(worker)) }
    }

    pub fn metrics(&self) -> &RefillMetrics {
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
            tracing::error!(%error, "the worker of refills ended early");
        }
    }
}

impl Drop for Refills {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
    }
}

impl Worker {
    async fn run(mut self) {
        let mut revisions = self.parts.registry.subscribe();
        let mut delay = FIRST_DELAY;
        loop {
            revisions.borrow_and_update();
            let (mut failed, mut due) = (false, self.due());
            while let Some((tenant, view, refill)) = due.pop() {
                if self.stopping.load(Ordering::Acquire) {
                    return;
                }
                if let Err(error) = self.refill(tenant, &view, refill).await
                    && !self.stopping.load(Ordering::Acquire)
                {
                    failed = true;
                    self.metrics.failures.add(1);
                    tracing::error!(view = %view.name, %error, "a refill failed and will be tried again; reads keep the old ttl");
                }
            }
            delay = if failed { (delay * 2).min(LONGEST_DELAY) } else { FIRST_DELAY };
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
        }
    }

    /// The views that wait for a refill.
    fn due(&self) -> Vec<(Name, Arc<View>, Refill)> {
        let snapshot = self.parts.registry.snapshot();
        let views = snapshot.tenants.values().flat_map(|tenant| tenant.views.values().map(move |view| (tenant, view)));
        views.filter_map(|(tenant, view)| Some((tenant.name.clone(), view.clone(), view.refill?))).collect()
    }

    async fn refill(&self, tenant: Name, view: &Arc<View>, refill: Refill) -> Result<()> {
        let shared = self.parts.bringing_online.clone().read_owned().await;
        let (done, outcome) = oneshot::channel();
        let task = Task { parts: self.parts.clone(), tenant: tenant.clone(), view: view.clone(), refill };
        let (runtime, stopping, metrics) = (Handle::current(), self.stopping.clone(), self.metrics.clone());
        let thread = std::thread::Builder::new().name("hydrant-refill".to_owned());
        let started = thread.spawn(move || {
            stand_back(Work::Training);
            let ran = task.run(&runtime, &stopping, &metrics);
            drop(shared);
            // Whoever waited may have gone.
            let _ = done.send(ran);
        });
        started.map_err(|error| Error::internal(format!("no thread for a refill: {error}")))?;
        let ended = |_| Error::internal("the thread of a refill ended early");
        if !outcome.await.map_err(ended)?? {
            return Ok(());
        }
        if let Some(revision) = self.parts.registry.refilled(&tenant, view.id, refill.since).await? {
            self.metrics.runs.add(1);
            tracing::info!(view = %view.name, revision, "a raised ttl is in effect");
        }
        Ok(())
    }
}
