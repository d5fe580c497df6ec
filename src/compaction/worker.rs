//! The thread that compacts, for as long as the process lives. It is no actor: nobody sends it
//! anything but to ask for all to be done now, and all that it does is wait, read and write. It stands
//! back behind whoever answers reads, and with it the threads that its work is done on.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use hydrant_storage::threads::{Work, stand_back};
use tokio::runtime::{self, Runtime};
use tokio::sync::{mpsc, oneshot};

use super::rounds::{Rounds, Worksite};
use super::{Compacted, CompactionMetrics, CompactionOptions, CompactionParts};
use crate::error::{Code, Error, Result};
use crate::pace::Ending;

const THREAD: &str = "hydrant-compaction";

/// How many callers may wait for all to be done.
const MAX_WAITING: usize = 4;

/// Threads that reading and writing files may take at a time.
const MAX_THREADS: usize = 4;

type Asked = oneshot::Sender<Compacted>;

/// Compaction, as its callers see it. Dropping it ends it too, without waiting.
#[derive(Debug)]
pub struct Compaction {
    asking: Mutex<Option<mpsc::Sender<Asked>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    ending: Arc<Ending>,
    options: CompactionOptions,
    metrics: Arc<CompactionMetrics>,
}

impl Compaction {
    /// Starts to compact, if it is enabled.
    pub fn start(parts: CompactionParts, options: CompactionOptions) -> Result<Self> {
        let not_started = |error: std::io::Error| Error::internal(format!("compaction can't be started: {error}"));
        let (metrics, ending) = (Arc::<CompactionMetrics>::default(), Arc::<Ending>::default());
        let site = Worksite {
            parts,
            options: options.clone(),
            metrics: metrics.clone(),
            ending: ending.clone(),
            retained: Mutex::default(),
        };
        let site = Arc::new(site);
        let (asking, asked) = mpsc::channel(MAX_WAITING);
        let (started, outcome) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name(THREAD.to_owned()).spawn(move || {
            stand_back(Work::Upkeep);
            // The starter waits for the outcome and can't have gone away.
            let runtime = match working_runtime() {
                Ok(runtime) => runtime,
                Err(error) => return drop(started.send(Err(error))),
            };
            drop(started.send(Ok(())));
            runtime.block_on(work(&site, asked));
        });
        let thread = Mutex::new(Some(thread.map_err(not_started)?));
        outcome.recv().map_err(|_| Error::internal("the compaction thread did not start"))?.map_err(not_started)?;
        Ok(Self { asking: Mutex::new(Some(asking)), thread, ending, options, metrics })
    }

    /// Compacts until nothing is left to do, also of tables that have failed before.
    pub async fn settle(&self) -> Result<Compacted> {
        let stopped = || Error::new(Code::Unavailable, "SHUTTING_DOWN", "compaction has stopped");
        let asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or_else(stopped)?;
        let (reply, done) = oneshot::channel();
        asking.send(reply).await.map_err(|_| stopped())?;
        drop(asking);
        done.await.map_err(|_| stopped())
    }

    pub fn options(&self) -> &CompactionOptions {
        &self.options
    }

    pub fn metrics(&self) -> &Arc<CompactionMetrics> {
        &self.metrics
    }

    /// Gives up the merge that is under way, of which nothing is left, and ends the thread.
    pub async fn shutdown(&self) {
        self.ending.set();
        drop(self.asking.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let joined = tokio::task::spawn_blocking(move || thread.map(JoinHandle::join));
        if !matches!(joined.await, Ok(None | Some(Ok(())))) {
            tracing::error!("the compaction thread ended by a panic");
        }
    }
}

impl Drop for Compaction {
    fn drop(&mut self) {
        self.ending.set();
    }
}

/// Works whenever it is time or somebody asks, until nobody can ask any more.
async fn work(site: &Arc<Worksite>, mut asked: mpsc::Receiver<Asked>) {
    let mut rounds = Rounds::new(site.clone());
    let CompactionOptions { enabled, interval, .. } = site.options;
    loop {
        tokio::select! {
            asked = asked.recv() => {
                let Some(reply) = asked else { return };
                rounds.try_all();
                let done = rounds.work().await;
                if !site.ending.is_set() {
                    // Who asked may have gone away.
                    let _ = reply.send(done);
                }
            }
            () = tokio::time::sleep(interval), if enabled => {
                rounds.work().await;
            }
        }
    }
}

/// Where the work is done. Blocking threads are started by whoever needs one, so each stands back by
/// itself.
fn working_runtime() -> std::io::Result<Runtime> {
    runtime::Builder::new_current_thread()
        .max_blocking_threads(MAX_THREADS)
        .thread_name(THREAD)
        .on_thread_start(|| stand_back(Work::Upkeep))
        .enable_all()
        .build()
}
