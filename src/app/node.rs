//! The use cases, opened in the order in which one needs another and closed in the reverse. Tests
//! drive a node in process by a clock of their own; servers put listeners before it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hydrant_storage::files::{Files, LocalFiles};
use hydrant_storage::history::HistoryTables;
use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;
use hydrant_storage::partition::SharedResources;
use hydrant_storage::row::OwnedRow;
use tokio::task::JoinSet;

use super::background::{Background, BackgroundParts};
use super::data_dir::DataDir;
use super::erasing::{BackupsMade, KeptSpines, LandingLands, StagedBackfills};
use super::freshness_watch::{AgesOfServing, FreshnessWatch, freshness_options};
use super::lineage_watch::LineageWatch;
use super::options::{
    admission_settings, audit_options, backfill_options, backup_options, compaction_options, history_options,
    ingest_settings, landing_options, log_options, partition_options, partition_settings, serving_settings,
    sets_options,
};
use super::retention::{SetsWithRowsTooOld, note_gone};
use super::sweeper::Sweeper;
use super::{AppError, opening, refused, start_check};
use crate::access::Access;
use crate::audit::Audit;
use crate::backfill::{BackfillParts, Backfills, TakesIn};
use crate::backup::{AuditFiles, BackupParts, Backups, Directories, SpineFiles};
use crate::clock::{Clock, SystemTicker};
use crate::cluster::{LocalMetadata, MetadataStore};
use crate::compaction::{Compaction, CompactionParts};
use crate::config::Config;
use crate::erasure::{ErasureParts, Erasures};
use crate::error::{Error, Result};
use crate::freshness::{Freshness, FreshnessParts};
use crate::history::sets::{SetsParts, Spines, TrainingSets};
use crate::history::{History, HistoryParts};
use crate::ingest::Ingest;
use crate::landing::{Landing, LandingParts, landed_frames};
use crate::log::{LocalLog, LogMetrics, WriteLog};
use crate::materialize::{Materialize, MaterializeParts};
use crate::openlineage::OpenLineage;
use crate::partition::{Partitions, PartitionsConfig};
use crate::quotas::{QuotaParts, Quotas, SpineBytes};
use crate::registry::catalog::View;
use crate::registry::{Registry, RevisionBarrier};
use crate::rpc::UseCases;
use crate::rpc::webhook::Webhooks;
use crate::serving::{PinnedHistory, Serving};
use crate::tenancy::{Limits, Permit, Tenancy};
use crate::usage::{UsageParts, Usages};

/// The use cases of one data directory.
#[derive(Debug)]
pub struct Node {
    use_cases: UseCases,
    sweeper: Sweeper,
    background: Background,
    quota_keeper: QuotaKeeper,
    watch: FreshnessWatch,
    lineage: LineageWatch,
    landing: Landing,
    compaction: Compaction,
    tables: Arc<HistoryTables>,
    log: Arc<dyn WriteLog>,
    log_metrics: Arc<LogMetrics>,
    resources: Arc<SharedResources>,
    /// Given back last.
    _directory: DataDir,
}

impl Node {
    /// Opens the data directory, replays what has to be replayed, and starts partitions, landing and compaction.
    /// Partitions may still be opening when it returns: [`Partitions::wait_serving`] waits for them.
    pub async fn open(config: &Config, clock: Arc<dyn Clock>) -> Result<Self, AppError> {
        let root = config.storage.data_dir.clone();
        let directory = blocking(move || DataDir::open(&root)).await??;
        let files: Arc<dyn Files> = Arc::new(LocalFiles);

        let (path, options, log_files) = (directory.log(), log_options(config), files.clone());
        let opened = blocking(move || LocalLog::open(log_files, &path, options, clock)).await?;
        let (log, store_time) = opened.map_err(|error| refused("the log", error))?;
        let log_metrics = log.metrics().clone();
        let local_log = Arc::new(log);
        let log: Arc<dyn WriteLog> = local_log.clone();
        let log_end = *log.durable().borrow();

        let (path, metadata_files) = (directory.registry(), files.clone());
        let metadata = blocking(move || LocalMetadata::open(metadata_files, &path)).await?;
        let metadata = metadata.map_err(|error| AppError::Open { part: "the registry", error: error.into() })?;
        let metadata: Arc<dyn MetadataStore> = Arc::new(metadata);
        if !Registry::is_there(metadata.as_ref()).await.map_err(opening("the registry"))? {
            start_check::no_data_without_definitions(&directory, log_end).map_err(opening("the registry"))?;
        }
        let (of_audit, audit_files, audit_time) =
            (audit_options(config, &directory), files.clone(), store_time.clone());
        let audit = blocking(move || Audit::open(audit_files, audit_time, of_audit)).await?;
        let audit = audit.map_err(opening("the audit log"))?;
        let barrier = Arc::new(LogBarrier(log.clone()));
        let registry = Registry::open(metadata.clone(), store_time.clone(), barrier).await;
        let registry = registry.map_err(opening("the registry"))?;
        let snapshots = registry.reader();
        let lineage = LineageWatch::start(config, metadata.clone(), snapshots.clone(), store_time.clone()).await?;
        let access = Access::open(metadata.clone(), snapshots.clone(), store_time.clone()).await;
        let access = access.map_err(opening("the API keys"))?;

        let tables = Arc::new(HistoryTables::new(files.clone(), directory.history()));
        let landed = landed_frames(&snapshots.load(), &tables).await.map_err(opening("history"))?;
        note_gone(&snapshots, &tables);
        start_check::history_within_log(newest_in(&tables), log_end).map_err(opening("history"))?;

        let storage = partition_options(config);
        let resources = SharedResources::new(&storage).map_err(|error| refused("the online store", error))?;
        let resources = Arc::new(resources);
        let partitions = Partitions::start(PartitionsConfig {
            directory: directory.partitions(),
            settings: partition_settings(config),
            storage,
            resources: resources.clone(),
            log: log.clone(),
            snapshots: snapshots.clone(),
            store_time: store_time.clone(),
            landed: landed.clone(),
        })
        .map_err(opening("the partitions"))?;

        let history = History::new(
            HistoryParts {
                snapshots: snapshots.clone(),
                log: log.clone(),
                partitions: partitions.clone(),
                tables: tables.clone(),
                store_time: store_time.clone(),
                watcher: lineage.watcher(),
            },
            history_options(config, &directory),
        )
        .map_err(opening("history"))?;
        let sets = SetsParts {
            history: history.clone(),
            registry: registry.clone(),
            metadata: metadata.clone(),
            store_time: store_time.clone(),
            files: files.clone(),
            directory: directory.spines(),
            watcher: lineage.watcher(),
        };
        let training_sets = TrainingSets::open(sets, sets_options(config)).await.map_err(opening("training sets"))?;
        let landing = Landing::start(
            LandingParts {
                snapshots: snapshots.clone(),
                log: log.clone(),
                partitions: partitions.clone(),
                tables: tables.clone(),
                landed,
                store_time: store_time.clone(),
            },
            landing_options(config),
        )
        .map_err(opening("landing"))?;
        // What was taken in before a crash is history before anybody asks.
        if let Err(error) = landing.take_in_now().await {
            tracing::error!(%error, "training sets wait until the backfill that was taken in is history");
        }
        let taking_in = Arc::new(tokio::sync::Mutex::new(()));
        let backfill = BackfillParts {
            files: files.clone(),
            snapshots: snapshots.clone(),
            log: log.clone(),
            tables: tables.clone(),
            store_time: store_time.clone(),
            takes_in: Arc::new(LandingTakesIn(landing.clone())),
            taking_in: taking_in.clone(),
            watcher: lineage.watcher(),
        };
        let options = backfill_options(config, &directory);
        let bringing_online = Arc::new(tokio::sync::RwLock::new(()));
        let materialize = Materialize::new(MaterializeParts {
            snapshots: snapshots.clone(),
            log: log.clone(),
            partitions: partitions.clone(),
            tables: tables.clone(),
            store_time: store_time.clone(),
            bringing_online: bringing_online.clone(),
            watcher: lineage.watcher(),
        });
        let background = Background::start(BackgroundParts {
            registry: registry.clone(),
            log: log.clone(),
            partitions: partitions.clone(),
            tables: tables.clone(),
            store_time: store_time.clone(),
            materialize: materialize.clone(),
            file_bytes: options.file_bytes,
            lands: Arc::new(LandingLands(landing.clone())),
            bringing_online: bringing_online.clone(),
        });
        let backfills = Backfills::open(backfill, options).await.map_err(opening("backfills"))?;
        let compacting = CompactionParts {
            tables: tables.clone(),
            store_time: store_time.clone(),
            snapshots: snapshots.clone(),
            losses: Arc::new(SetsWithRowsTooOld(training_sets.clone())),
        };
        let compaction = Compaction::start(compacting, compaction_options(config));
        let compaction = compaction.map_err(opening("compaction"))?;
        let backup = BackupParts {
            files,
            log: local_log.clone(),
            partitions: partitions.clone(),
            tables: tables.clone(),
            snapshots: snapshots.clone(),
            store_time: store_time.clone(),
            taking_in: taking_in.clone(),
            directories: Directories {
                log: directory.log(),
                partitions: directory.partitions(),
                history: directory.history(),
                registry: directory.registry(),
                spines: directory.spines(),
                audit: directory.audit(),
            },
            spines: Arc::new(StoredSpines(training_sets.spines().clone())),
            audit: Arc::new(AuditSegments(audit.clone())),
        };
        let options = backup_options(config, &directory);
        let backups = blocking(move || Backups::open(backup, options)).await?.map_err(opening("backups"))?;
        let erasures = ErasureParts {
            snapshots: snapshots.clone(),
            metadata: metadata.clone(),
            store_time: store_time.clone(),
            log: local_log,
            partitions: partitions.clone(),
            tables: tables.clone(),
            lands: Arc::new(LandingLands(landing.clone())),
            staged: Arc::new(StagedBackfills(backfills.clone())),
            spines: Arc::new(KeptSpines(training_sets.clone(), store_time.clone())),
            max_key_bytes: config.ingest.max_key.as_usize(),
            backups: Arc::new(BackupsMade(backups.clone())),
            taking_in,
            bringing_online,
        };
        let erasures = Erasures::open(erasures).await.map_err(opening("erasures"))?;
        let ingest = Ingest::new(
            log.clone(),
            partitions.clone(),
            snapshots.clone(),
            store_time.clone(),
            ingest_settings(config),
        )
        .watched_by(lineage.watcher());
        let serving = Serving::new(
            partitions.clone(),
            snapshots.clone(),
            store_time.clone(),
            Arc::new(HistoryReads(history.clone())),
            serving_settings(config),
        );
        let secret = Some(config.alerts.secret_file.as_path()).filter(|path| !path.as_os_str().is_empty());
        let webhooks = Webhooks::open(secret, config.alerts.timeout.duration());
        let freshness = FreshnessParts {
            snapshots: snapshots.clone(),
            partitions: partitions.clone(),
            store_time: store_time.clone(),
            metadata: metadata.clone(),
            served: Arc::new(AgesOfServing(serving.served().clone())),
            sender: Arc::new(webhooks.map_err(|error| refused("alerts", error))?),
        };
        let freshness = Freshness::open(freshness, freshness_options(config)).await.map_err(opening("freshness"))?;
        let tenancy = Tenancy::with(Limits::default(), &admission_settings(config), Arc::new(SystemTicker));
        let tenancy = Arc::new(tenancy);
        let usage =
            UsageParts { snapshots: snapshots.clone(), metadata: metadata.clone(), store_time: store_time.clone() };
        let usage = Usages::open(usage).await.map_err(opening("usage"))?;
        let quotas = QuotaParts {
            tenancy: tenancy.clone(),
            snapshots,
            metadata,
            store_time: store_time.clone(),
            tables: tables.clone(),
            partitions: partitions.clone(),
            spines: Arc::new(StoredSpines(training_sets.spines().clone())),
        };
        let quotas = Quotas::open(quotas).await.map_err(opening("quotas"))?;
        let sweeper = Sweeper::start(training_sets.clone(), access.clone(), usage.clone());
        let quota_keeper = QuotaKeeper::start(quotas.clone());
        let watch = FreshnessWatch::start(&freshness);
        let use_cases = UseCases {
            tenancy,
            access,
            registry,
            ingest,
            serving,
            history,
            training_sets,
            backfills,
            materialize,
            backups,
            quotas,
            erasures,
            audit,
            freshness,
            usage,
            partitions,
            store_time,
        };
        Ok(Self {
            use_cases,
            sweeper,
            background,
            quota_keeper,
            watch,
            lineage,
            landing,
            compaction,
            tables,
            log,
            log_metrics,
            resources,
            _directory: directory,
        })
    }

    pub fn use_cases(&self) -> &UseCases {
        &self.use_cases
    }

    pub(super) fn background(&self) -> &Background {
        &self.background
    }

    /// Who is told of runs, where somebody is.
    pub fn lineage(&self) -> Option<&OpenLineage> {
        self.lineage.told()
    }

    pub fn landing(&self) -> &Landing {
        &self.landing
    }

    pub fn compaction(&self) -> &Compaction {
        &self.compaction
    }

    /// The history tables that have been opened.
    pub fn tables(&self) -> &Arc<HistoryTables> {
        &self.tables
    }

    pub fn log(&self) -> &Arc<dyn WriteLog> {
        &self.log
    }

    pub fn log_metrics(&self) -> &LogMetrics {
        &self.log_metrics
    }

    /// What the partitions share of memory.
    pub fn resources(&self) -> &Arc<SharedResources> {
        &self.resources
    }

    /// Stops a backup under way, gives up the merge that is under way, ends landing after the one under way,
    /// flushes and closes the partitions, and lets the log write what waits. What was acknowledged is durable
    /// either way.
    pub async fn close(self) {
        let Self {
            use_cases,
            sweeper,
            background,
            quota_keeper,
            watch,
            lineage,
            landing,
            compaction,
            tables,
            log,
            log_metrics: _,
            resources,
            _directory,
        } = self;
        sweeper.end().await;
        if let Err(error) = use_cases.access.persist_uses().await {
            tracing::warn!(%error, "when API keys were used last was not kept");
        }
        if let Err(error) = use_cases.usage.persist().await {
            tracing::warn!(%error, "what was read last was not kept");
        }
        use_cases.erasures.shutdown().await;
        background.shutdown().await;
        quota_keeper.end().await;
        watch.end().await;
        if let Err(error) = use_cases.freshness.close().await {
            tracing::warn!(%error, "the last freshness measured was not kept");
        }
        use_cases.backups.shutdown().await;
        use_cases.backfills.shutdown().await;
        use_cases.materialize.shutdown().await;
        lineage.end().await;
        compaction.shutdown().await;
        landing.shutdown().await;
        use_cases.partitions.shutdown().await;
        use_cases.audit.close().await;
        // Calls that are still being answered hold on to it.
        log.close().await;
        let dropped =
            blocking(move || drop((background, landing, compaction, tables, use_cases, log, resources))).await;
        if let Err(error) = dropped {
            tracing::warn!(%error, "the node was not closed in order");
        }
    }
}

/// Has the log hand back requests that were packed under older definitions, of which it doesn't know.
#[derive(Debug)]
struct LogBarrier(Arc<dyn WriteLog>);

#[async_trait]
impl RevisionBarrier for LogBarrier {
    async fn raise(&self, revision: u64) {
        self.0.require(revision).await;
    }
}

/// Lets pinned reads ask history, which serving doesn't know.
#[derive(Debug)]
struct HistoryReads(History);

#[async_trait]
impl PinnedHistory for HistoryReads {
    async fn rows_at(
        &self,
        permit: &Permit,
        view: &Arc<View>,
        keys: Vec<Vec<u8>>,
        t: Micros,
    ) -> Result<Vec<Option<OwnedRow>>> {
        self.0.rows_at(permit, view, keys, t).await
    }
}

/// Lets backups take the stored spines, of which they know nothing else.
#[derive(Debug)]
struct StoredSpines(Spines);

impl SpineFiles for StoredSpines {
    fn hold(&self) -> Box<dyn Send> {
        Box::new(self.0.hold())
    }

    fn files(&self) -> Vec<(PathBuf, String)> {
        self.0.files()
    }
}

/// Lets backups take the audit log, of which they know its files.
#[derive(Debug)]
struct AuditSegments(Audit);

#[async_trait]
impl AuditFiles for AuditSegments {
    async fn files(&self) -> Result<Vec<(PathBuf, u64)>> {
        let segments = self.0.segments().await?;
        Ok(segments.into_iter().map(|segment| (segment.path, segment.bytes)).collect())
    }
}

impl SpineBytes for StoredSpines {
    fn of(&self, tenant: &Name) -> u64 {
        self.0.usage(tenant).1
    }
}

/// Has the limits hold that are due, and measures what is in use, until it is dropped.
#[derive(Debug)]
struct QuotaKeeper(JoinSet<()>);

impl QuotaKeeper {
    const INTERVAL: Duration = Duration::from_millis(250);
    /// What is in use is measured once so often...
    const MEASURED_EACH: u32 = 4;
    /// ...and what is stored, which takes longer.
    const STORAGE_EACH: u32 = 40;

    fn start(quotas: Quotas) -> Self {
        let keep = async move {
            let mut interval = tokio::time::interval(Self::INTERVAL);
            // A machine that stood still has nothing to catch up on.
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            for round in 0_u32.. {
                interval.tick().await;
                quotas.refresh();
                if round.is_multiple_of(Self::STORAGE_EACH) {
                    let quotas = quotas.clone();
                    if let Err(error) = tokio::task::spawn_blocking(move || quotas.measure_storage()).await {
                        tracing::warn!(%error, "what is stored was not measured");
                    }
                }
                if round.is_multiple_of(Self::MEASURED_EACH) {
                    quotas.measure();
                }
            }
        };
        Self(JoinSet::from_iter([keep]))
    }

    async fn end(mut self) {
        self.0.shutdown().await;
    }
}

/// Lets backfills have landing take in what they have staged.
#[derive(Debug)]
struct LandingTakesIn(Landing);

#[async_trait]
impl TakesIn for LandingTakesIn {
    async fn take_in_now(&self) -> Result<()> {
        self.0.take_in_now().await
    }
}

/// The newest frame of which history has rows.
fn newest_in(tables: &HistoryTables) -> u64 {
    tables.opened().iter().map(|table| table.snapshot().newest_frame()).max().unwrap_or(0)
}

/// Runs what reads or writes files where it may wait for them.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, AppError> {
    let ended =
        |error| AppError::Open { part: "the node", error: Error::internal(format!("opening it ended early: {error}")) };
    tokio::task::spawn_blocking(work).await.map_err(ended)
}
