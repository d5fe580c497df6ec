//! What the configuration means to each use case.

use std::time::Duration;

use hydrant_storage::order::Micros;
use hydrant_storage::partition::PartitionOptions;

use super::data_dir::DataDir;
use crate::audit::AuditOptions;
use crate::backfill::BackfillOptions;
use crate::backup::BackupOptions;
use crate::compaction::{CompactionOptions, MergeOptions};
use crate::config::Config;
use crate::history::HistoryOptions;
use crate::history::sets::{KeepOptions, PullOptions, SetsOptions, SpineOptions};
use crate::ingest::IngestSettings;
use crate::landing::LandingOptions;
use crate::log::LogOptions;
use crate::partition::PartitionSettings;
use crate::serving::ServingSettings;
use crate::tenancy::AdmissionSettings;

pub(super) fn log_options(config: &Config) -> LogOptions {
    LogOptions {
        segment_bytes: config.log.segment.0,
        max_request_bytes: config.log.max_request.as_usize(),
        queue_requests: config.log.max_waiting,
        recent_bytes: config.log.recent.as_usize(),
        producer_horizon: config.log.producer_horizon.duration(),
        producers_bytes: config.log.producers.as_usize(),
        ..LogOptions::default()
    }
}

pub(super) fn partition_options(config: &Config) -> PartitionOptions {
    PartitionOptions {
        block_cache_bytes: config.storage.block_cache.as_usize(),
        row_cache_bytes: config.storage.row_cache.as_usize(),
        write_buffer_bytes: config.storage.write_buffers.as_usize(),
        background_threads: config.storage.background_threads,
        direct_reads: config.storage.direct_reads,
        ..PartitionOptions::default()
    }
}

pub(super) fn partition_settings(config: &Config) -> PartitionSettings {
    let defaults = PartitionSettings::default();
    let threads = config.partitions.threads;
    PartitionSettings {
        count: config.storage.partitions,
        threads: if threads == 0 { defaults.threads } else { threads },
        flush_interval: config.partitions.flush_interval.duration(),
        trim_interval: config.partitions.trim_interval.duration(),
        max_tail_bytes: config.partitions.max_tail.0,
        max_lag_frames: config.partitions.max_lag,
        reopen_delay: config.partitions.reopen_delay.duration(),
        max_reopen_delay: config.partitions.max_reopen_delay.duration(),
        max_reopens: config.partitions.max_reopens,
        ..defaults
    }
}

pub(super) fn history_options(config: &Config, directory: &DataDir) -> HistoryOptions {
    let defaults = HistoryOptions::new(directory.spill());
    let threads = config.history.threads;
    HistoryOptions {
        memory: config.history.memory.as_usize(),
        threads: if threads == 0 { defaults.threads } else { threads },
        max_spine_rows: config.history.max_spine_rows,
        max_spill: config.history.max_spill.0,
        max_lookups: config.serving.max_history_reads,
        patience: config.history.patience.duration(),
        ..defaults
    }
}

pub(super) fn sets_options(config: &Config) -> SetsOptions {
    let sets = &config.training_sets;
    let micros = |span: Duration| Micros::try_from(span.as_micros()).unwrap_or(Micros::MAX);
    SetsOptions {
        spines: SpineOptions {
            max_bytes: sets.spine_bytes.0,
            max_count: sets.max_spines,
            keep: micros(sets.keep_spines.duration()),
            max_rows: config.history.max_spine_rows,
        },
        keep: KeepOptions { max_bytes: sets.found_bytes.0, keep: micros(sets.keep_found.duration()) },
        pulls: PullOptions { max_pulls: sets.max_pulls, queued_batches: 2 },
        max_sets: sets.max_saved,
    }
}

pub(super) fn landing_options(config: &Config) -> LandingOptions {
    LandingOptions {
        tail_bytes: config.landing.tail.0,
        interval: config.landing.interval.duration(),
        ..LandingOptions::default()
    }
}

pub(super) fn compaction_options(config: &Config) -> CompactionOptions {
    let compaction = &config.compaction;
    CompactionOptions {
        enabled: compaction.enabled,
        interval: compaction.interval.duration(),
        bytes_per_second: compaction.rate.0,
        retention: compaction.retention.duration(),
        merging: MergeOptions {
            runs_per_level: compaction.runs_per_level,
            file_bytes: compaction.file.0,
            memory: compaction.memory.as_usize(),
            merge_bytes: compaction.max_merge.0,
        },
        ..CompactionOptions::default()
    }
}

pub(super) fn backfill_options(config: &Config, directory: &DataDir) -> BackfillOptions {
    let threads = match config.backfill.threads {
        // One of them waits for the disk.
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get) + 1,
        threads => threads,
    };
    BackfillOptions {
        directory: directory.backfill(),
        memory: config.backfill.memory.as_usize(),
        threads,
        max_staged: config.backfill.max_staged.0,
        bytes_per_second: config.backfill.rate.0,
        max_key_bytes: config.ingest.max_key.as_usize(),
        file_bytes: config.compaction.file.0,
        runs_per_level: config.compaction.runs_per_level,
        landing_bytes: config.landing.tail.0,
        patience: config.history.patience.duration(),
    }
}

pub(super) fn audit_options(config: &Config, directory: &DataDir) -> AuditOptions {
    AuditOptions {
        directory: directory.audit(),
        segment_bytes: config.audit.segment.0,
        retention: config.audit.retention.duration(),
    }
}

pub(super) fn backup_options(config: &Config, directory: &DataDir) -> BackupOptions {
    let configured = config.backup.directory.clone();
    let directory = if configured.as_os_str().is_empty() { directory.backups() } else { configured };
    // It is told to callers, who are elsewhere.
    let directory = std::path::absolute(&directory).unwrap_or(directory);
    BackupOptions { directory, max_kept: config.backup.max_kept }
}

pub(super) fn admission_settings(config: &Config) -> AdmissionSettings {
    AdmissionSettings {
        online_places: config.admission.online_places,
        online_in_flight: config.serving.max_in_flight,
        disk_places: config.serving.read_threads,
        ingest_places: config.ingest.max_in_flight,
        training_places: config.history.max_joins,
        max_waiting: config.admission.max_waiting,
        max_waiting_bytes: config.admission.max_waiting_bytes.as_usize(),
        target_wait: config.admission.target_wait.duration(),
    }
}

pub(super) fn ingest_settings(config: &Config) -> IngestSettings {
    IngestSettings {
        max_rows: config.ingest.max_rows,
        max_bytes: config.ingest.max_request.as_usize(),
        max_key_bytes: config.ingest.max_key.as_usize(),
        ..IngestSettings::default()
    }
}

pub(super) fn serving_settings(config: &Config) -> ServingSettings {
    ServingSettings {
        max_rows: config.serving.max_rows,
        max_cells: config.serving.max_cells,
        default_deadline: config.server.max_call_time.duration(),
    }
}
