//! Bounds and intervals of the partitions. Every queue, step and wait of this module has its number
//! here; what RocksDB is told is in `hydrant_storage::partition::PartitionOptions`.

use std::time::Duration;

#[derive(Clone, Debug)]
pub struct PartitionSettings {
    /// How many partitions there are. Fixed once a data directory has been made.
    pub count: usize,
    /// Arbiter threads; partitions are spread over them.
    pub threads: usize,
    /// Rows applied before the actor yields, in the middle of a frame too.
    pub apply_rows: usize,
    /// Frames passed over before the actor yields, with or without rows of its own.
    pub apply_frames: usize,
    /// Bytes of frames read from the log at a time.
    pub read_bytes: usize,
    /// Pending rows promoted before the actor yields.
    pub promote_rows: usize,
    /// Landed rows dropped from the tail before the actor yields.
    pub drop_rows: usize,
    /// Rows looked at for expiry in one sweep step, one step each housekeeping interval.
    pub sweep_rows: usize,
    /// How often flushes and sweeps are considered; twice in a flush interval that is shorter.
    pub housekeeping_interval: Duration,
    /// The longest that an applied frame stays unflushed.
    pub flush_interval: Duration,
    /// How often the log is trimmed through what every partition has flushed.
    pub trim_interval: Duration,
    /// New writes are refused while the tails of all partitions together hold more than this.
    pub max_tail_bytes: u64,
    /// New writes are refused while any partition is further behind the log than this.
    pub max_lag_frames: u64,
    /// When a refused writer may try again.
    pub write_retry_after: Duration,
    /// Flushes and tail drops under way or queued, per partition.
    pub max_in_flight: usize,
    /// Before the first reopening; doubles with each that fails.
    pub reopen_delay: Duration,
    pub max_reopen_delay: Duration,
    /// Failures in a row after which a partition is parked.
    pub max_reopens: u32,
    /// A partition that has run for so long counts as well again.
    pub healthy_after: Duration,
}

impl PartitionSettings {
    pub(super) fn housekeeping_every(&self) -> Duration {
        self.housekeeping_interval.min(self.flush_interval / 2)
    }
}

impl Default for PartitionSettings {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            count: 4,
            threads: cores.min(4),
            apply_rows: 512,
            apply_frames: 1_024,
            read_bytes: 4 << 20,
            promote_rows: 512,
            drop_rows: 2_048,
            sweep_rows: 512,
            housekeeping_interval: Duration::from_secs(1),
            flush_interval: Duration::from_secs(30),
            trim_interval: Duration::from_secs(10),
            max_tail_bytes: 4 << 30,
            max_lag_frames: 100_000,
            write_retry_after: Duration::from_millis(500),
            max_in_flight: 16,
            reopen_delay: Duration::from_millis(100),
            max_reopen_delay: Duration::from_secs(30),
            max_reopens: 10,
            healthy_after: Duration::from_secs(60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_interval_shorter_than_that_of_housekeeping_is_kept() {
        let every = |flush_interval| PartitionSettings { flush_interval, ..Default::default() }.housekeeping_every();
        assert_eq!(every(Duration::from_secs(30)), Duration::from_secs(1));
        assert_eq!(every(Duration::from_millis(100)), Duration::from_millis(50));
    }
}
