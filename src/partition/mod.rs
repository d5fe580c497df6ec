//! The partitions of the online store: who writes them, who may read them and who keeps them
//! running. Each has one writer, an actor that follows the log; reads never queue behind it. Only
//! `actor` and `supervisor` know actix, and nobody outside holds an actor's address.

mod actor;
mod handle;
mod metrics;
mod options;
mod policies;
mod router;
mod supervisor;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use hydrant_storage::files::{self, LocalFiles};
use hydrant_storage::keys::SlotRange;
use hydrant_storage::order::Micros;
use hydrant_storage::partition::{PartitionOptions, SharedResources};

pub use self::handle::{PartitionError, PartitionHandle, PartitionState};
pub use self::metrics::PartitionMetrics;
pub use self::options::PartitionSettings;
pub use self::policies::LandedFrames;
pub use self::router::Router;

use self::actor::PartitionParts;
use self::handle::Shared;
use self::supervisor::SupervisorHandle;
use crate::clock::StoreTime;
use crate::error::{Code, Error, Result};
use crate::log::WriteLog;
use crate::registry::SnapshotReader;

/// The most partitions of one node.
const MAX_PARTITIONS: u16 = 1_024;

/// What the partitions are made of.
#[derive(Debug)]
pub struct PartitionsConfig {
    /// Holds one directory per partition.
    pub directory: PathBuf,
    pub settings: PartitionSettings,
    pub storage: PartitionOptions,
    pub resources: Arc<SharedResources>,
    pub log: Arc<dyn WriteLog>,
    pub snapshots: SnapshotReader,
    pub store_time: Arc<StoreTime>,
    pub landed: Arc<LandedFrames>,
}

/// All partitions of the node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Partitions {
    handles: Arc<[PartitionHandle]>,
    router: Arc<Router>,
    supervisor: SupervisorHandle,
    settings: Arc<PartitionSettings>,
    log: Arc<dyn WriteLog>,
    /// The end of the log at the start.
    started_at: u64,
    store_time: Arc<StoreTime>,
    metrics: Arc<PartitionMetrics>,
}

/// How far a partition is behind the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    pub partition: usize,
    /// Durable frames that reads don't see yet.
    pub frames: u64,
    /// Rows that are not yet in history.
    pub tail_bytes: u64,
}

impl Partitions {
    /// Starts every partition on threads of its own and returns at once; [`Self::wait_serving`]
    /// waits until they can be read. Refuses (FAILED_PRECONDITION) a data directory that was made
    /// with another number of partitions.
    pub fn start(config: PartitionsConfig) -> Result<Self> {
        let PartitionsConfig { directory, settings, storage, resources, log, snapshots, store_time, landed } = config;
        let count = check_count(&directory, settings.count)?;
        let started_at = *log.durable().borrow();
        let metrics = Arc::new(PartitionMetrics::default());
        let ranges = SlotRange::split_evenly(count);
        let router = Router::new(&ranges);
        let make_parts = |(index, range): (usize, SlotRange)| {
            Arc::new(PartitionParts {
                shared: Shared::new(index, range, settings.max_in_flight),
                directory: directory.join(index.to_string()),
                storage: storage.clone(),
                resources: resources.clone(),
                settings: settings.clone(),
                log: log.clone(),
                snapshots: snapshots.clone(),
                landed: landed.clone(),
                store_time: store_time.clone(),
                metrics: metrics.clone(),
            })
        };
        let parts: Vec<Arc<PartitionParts>> = ranges.into_iter().enumerate().map(make_parts).collect();
        let handles = parts.iter().map(|parts| PartitionHandle::new(parts.shared.clone())).collect();
        let supervisor = supervisor::start(parts, &settings)
            .map_err(|error| Error::internal(format!("the partitions' threads could not be started: {error}")))?;
        Ok(Self {
            handles,
            router: Arc::new(router),
            supervisor,
            settings: Arc::new(settings),
            log,
            started_at,
            store_time,
            metrics,
        })
    }

    /// In the order of their slots.
    pub fn handles(&self) -> &[PartitionHandle] {
        &self.handles
    }

    pub fn of_slot(&self, slot: u16) -> &PartitionHandle {
        &self.handles[self.router.partition_of(slot)]
    }

    pub fn lag(&self) -> Vec<Lag> {
        let durable = self.durable_frame();
        let lag = |handle: &PartitionHandle| Lag {
            partition: handle.index(),
            frames: durable.saturating_sub(handle.applied_frame()),
            tail_bytes: handle.tail_bytes(),
        };
        self.handles.iter().map(lag).collect()
    }

    /// For how long the oldest durable request that reads of each partition don't see has waited, in
    /// microseconds; 0 where they see all, and nothing where the log can't tell. For metrics: it may
    /// read the log's files.
    pub fn behind(&self) -> Vec<(usize, Micros)> {
        let durable = self.durable_frame();
        let behind = |handle: &PartitionHandle| {
            let applied = handle.applied_frame();
            if applied >= durable {
                return Some((handle.index(), 0));
            }
            let next = self.log.read_from(applied, 1).ok()?.into_iter().next()?;
            Some((handle.index(), self.store_time.read().saturating_sub(next.ingest_time).max(0)))
        };
        self.handles.iter().filter_map(behind).collect()
    }

    /// The newest durable frame of the log that the partitions follow.
    pub fn durable_frame(&self) -> u64 {
        *self.log.durable().borrow()
    }

    /// Refuses new writes (RESOURCE_EXHAUSTED, with when to try again) while the tails are full or
    /// a partition is too far behind.
    pub fn admit_write(&self) -> Result<()> {
        let lag = self.lag();
        let tails: u64 = lag.iter().map(|lag| lag.tail_bytes).sum();
        // How far a partition is that could not be opened since the start isn't known. It would seem to
        // be behind by all that was ever written, and one damaged partition must not end the writes to
        // the others: what is written from the start on counts.
        let durable = self.durable_frame();
        let behind = |handle: &PartitionHandle| match handle.applied_frame() {
            0 => durable.saturating_sub(self.started_at),
            applied => durable.saturating_sub(applied),
        };
        let furthest = self.handles.iter().map(|handle| (behind(handle), handle.index())).max();
        let furthest = furthest.filter(|(frames, _)| *frames > self.settings.max_lag_frames);
        let too_much = if tails > self.settings.max_tail_bytes {
            format!("{tails} bytes of rows are not yet in history")
        } else if let Some((frames, partition)) = furthest {
            format!("partition {partition} is {frames} requests behind the log")
        } else {
            return Ok(());
        };
        self.metrics.writes_refused.add(1);
        Err(Error::new(Code::ResourceExhausted, "OVERLOADED", format!("no new writes for now: {too_much}"))
            .retry_after(self.settings.write_retry_after))
    }

    /// Waits until every partition can be read.
    pub async fn wait_serving(&self, deadline: Instant) -> Result<(), PartitionError> {
        for handle in self.handles.iter() {
            handle.wait_serving(deadline).await?;
        }
        Ok(())
    }

    /// Waits until every partition has applied `frame`.
    pub async fn wait_applied(&self, frame: u64, deadline: Instant) -> Result<(), PartitionError> {
        for handle in self.handles.iter() {
            handle.wait_applied(frame, deadline).await?;
        }
        Ok(())
    }

    /// Closes a partition until it is reopened; its cells are NOT_READY meanwhile.
    pub fn park(&self, partition: usize, reason: &str) {
        self.supervisor.park(partition, reason.into());
    }

    /// Opens a parked partition again, or one that waits to be reopened. Whoever waits for it from now
    /// on waits until it serves, or is parked anew.
    pub fn reopen(&self, partition: usize) {
        if let Some(handle) = self.handles.get(partition) {
            handle.expect_opening();
        }
        self.supervisor.reopen(partition);
    }

    /// Flushes and closes every partition and ends their threads.
    pub async fn shutdown(&self) {
        self.supervisor.shutdown().await;
    }

    pub fn metrics(&self) -> &PartitionMetrics {
        &self.metrics
    }
}

/// Slots are spread over the partitions by their number, so a directory can't be opened with
/// another one.
fn check_count(directory: &Path, count: usize) -> Result<u16> {
    let in_range = u16::try_from(count).ok().filter(|count| (1..=MAX_PARTITIONS).contains(count));
    let Some(valid) = in_range else {
        return Err(Error::invalid("BAD_PARTITION_COUNT", format!("{count} partitions: give 1 to {MAX_PARTITIONS}")));
    };
    let failed = |error: std::io::Error| Error::internal(format!("the partitions' directory can't be used: {error}"));
    std::fs::create_dir_all(directory).map_err(failed)?;
    let path = directory.join("COUNT");
    let made_with = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // Before any partition exists, so that none ever does without it.
            files::replace(&LocalFiles, &path, format!("{count}\n").as_bytes()).map_err(failed)?;
            return Ok(valid);
        }
        Err(error) => return Err(failed(error)),
    };
    if made_with.trim() == count.to_string() {
        return Ok(valid);
    }
    let made_with = made_with.trim();
    let message = format!("the data directory was made with {made_with} partitions, and {count} are configured");
    Err(Error::new(Code::FailedPrecondition, "PARTITION_COUNT_CHANGED", message)
        .hint(format!("set the number of partitions to {made_with}, or begin with an empty data directory")))
}
