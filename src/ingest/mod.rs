//! Rows into the log: a request's columns are checked and cast, its rows packed once for every view
//! over the source, and then it is one frame, or nothing. Ingest writes to no store and waits for no
//! partition; what it acknowledges is durable, and visible once applied.

mod metrics;
mod payload;
mod records;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use arrow_array::{Array, ArrayRef, RecordBatch};
use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;
use hydrant_storage::record::{ProducerStamp, RowRecord};
use hydrant_storage::slices::slice_bytes;
use tracing::Instrument as _;

pub use self::metrics::IngestMetrics;

use crate::clock::StoreTime;
use crate::error::{Code, Error, Result};
use crate::log::{AppendError, AppendRequest, WriteLog};
use crate::partition::Partitions;
use crate::registry::SnapshotReader;
use crate::registry::catalog::TenantCatalog;
use crate::registry::definition::KnownTimeRule;
use crate::runs::Watcher;
use crate::tenancy::{Action, Permit};

/// Bounds of one request.
#[derive(Clone, Debug)]
pub struct IngestSettings {
    pub max_rows: usize,
    /// Of the request's columns, in memory.
    pub max_bytes: usize,
    /// Of one encoded entity key.
    pub max_key_bytes: usize,
    /// Requests with more rows are checked and packed on the blocking pool.
    pub inline_rows: usize,
}

impl Default for IngestSettings {
    fn default() -> Self {
        Self { max_rows: 50_000, max_bytes: 16 << 20, max_key_bytes: 4 << 10, inline_rows: 512 }
    }
}

/// Rows of a source.
#[derive(Clone, Debug)]
pub struct IngestRequest {
    pub source: String,
    pub batch: RecordBatch,
    pub producer: Option<Producer>,
    /// In place of the source's rule.
    pub known_time: Option<KnownTimeRule>,
    /// Leave out columns that the source doesn't declare.
    pub ignore_extra: bool,
    /// Check and write nothing.
    pub validate_only: bool,
}

/// Makes a request idempotent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Producer {
    pub id: String,
    pub sequence: u64,
}

/// Tombstones for one view.
#[derive(Clone, Debug)]
pub struct DeleteRequest {
    pub view: String,
    /// One column per join key of the view.
    pub keys: Vec<(String, ArrayRef)>,
    /// When each deletion became true: one per key, or one for all.
    pub event_times: Vec<Micros>,
    pub producer: Option<Producer>,
    /// In place of the rule of the view's source.
    pub known_time: Option<KnownTimeRule>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Applied,
    /// The sequence was taken earlier; nothing has changed.
    AlreadyApplied,
    /// Only validation was asked for, and the rows passed.
    Valid,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngestReport {
    pub outcome: Outcome,
    /// Where the request is in the log; `None` where nothing was to be written.
    pub frame: Option<u64>,
    pub ingest_time: Option<Micros>,
    pub rows: usize,
    /// Per view over the source, by name.
    pub views: Vec<ViewRows>,
    /// The partitions that have rows of it: the rows can be read when these have applied the frame.
    pub partitions: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewRows {
    pub view: Name,
    pub rows: usize,
    /// Rows that are no part of the view because its key is null in them.
    pub null_keys: usize,
    /// Of its rows those that are older than its retention, and go soon.
    pub too_old: usize,
}

/// The use case. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Ingest {
    log: Arc<dyn WriteLog>,
    partitions: Partitions,
    snapshots: SnapshotReader,
    store_time: Arc<StoreTime>,
    settings: IngestSettings,
    metrics: Arc<IngestMetrics>,
    watcher: Watcher,
}

/// A request that has passed every check.
#[derive(Debug)]
struct Prepared {
    rows: Vec<RowRecord>,
    request_rows: usize,
    deletes: usize,
    views: Vec<ViewRows>,
    stamp: Option<ProducerStamp>,
}

/// How a request becomes records, under the definitions of one moment.
trait Pack: Fn(&TenantCatalog, Micros, &IngestSettings) -> Result<Prepared> + Send + Sync + 'static {}

impl<F: Fn(&TenantCatalog, Micros, &IngestSettings) -> Result<Prepared> + Send + Sync + 'static> Pack for F {}

/// How often a request is packed where definitions keep changing under it.
const MAX_PREPARATIONS: usize = 8;

impl Ingest {
    pub fn new(
        log: Arc<dyn WriteLog>,
        partitions: Partitions,
        snapshots: SnapshotReader,
        store_time: Arc<StoreTime>,
        settings: IngestSettings,
    ) -> Self {
        Self { log, partitions, snapshots, store_time, settings, metrics: Arc::default(), watcher: None }
    }

    /// With somebody who is told what was ingested.
    #[must_use]
    pub fn watched_by(mut self, watcher: Watcher) -> Self {
        self.watcher = watcher;
        self
    }

    /// Takes all rows of the request or none. Refusals: INVALID_ARGUMENT (naming columns, or up to
    /// [`MAX_NAMED`](crate::rows::MAX_NAMED) bad rows), NOT_FOUND (no such source), FAILED_PRECONDITION (a source without
    /// views), RESOURCE_EXHAUSTED (a quota is used up, too much has not landed, or the disk is full),
    /// UNAVAILABLE (the log takes no more for the moment, or definitions keep changing, with when to try
    /// again; or OUTCOME_UNKNOWN: the log ended before it answered), FAILED_PRECONDITION or
    /// ALREADY_EXISTS by the producer's sequence.
    pub async fn ingest(&self, permit: &Permit, request: IngestRequest) -> Result<IngestReport> {
        let tenant = permit.tenant();
        let span = tracing::debug_span!("ingest", %tenant, source = request.source, rows = request.batch.num_rows());
        let ingested = self.ingest_counted(permit, request).instrument(span).await;
        self.count_refusal(tenant, ingested)
    }

    /// Deletes keys of one view; refusals as for [`Self::ingest`].
    pub async fn delete(&self, permit: &Permit, request: DeleteRequest) -> Result<IngestReport> {
        let tenant = permit.tenant();
        let span = tracing::debug_span!("delete", %tenant, view = request.view);
        let deleted = self.delete_counted(permit, request).instrument(span).await;
        self.count_refusal(tenant, deleted)
    }

    pub fn metrics(&self) -> &IngestMetrics {
        &self.metrics
    }

    async fn ingest_counted(&self, permit: &Permit, request: IngestRequest) -> Result<IngestReport> {
        permit.require(Action::Write)?;
        let rows = request.batch.num_rows();
        let bytes = self.check_size(rows, request.batch.columns())?;
        let validate_only = request.validate_only;
        let (by, of_source) = (permit.clone(), request.source.clone());
        let pack = Arc::new(move |tenant: &TenantCatalog, now: Micros, settings: &IngestSettings| {
            let source = tenant.sources.get(request.source.as_str());
            by.check_source(&request.source, source.map(|source| source.views.iter().map(|view| &view.name)))?;
            records::prepare_rows(tenant, &request, now, settings)
        });
        if validate_only {
            permit.charge_write(rows, bytes, false)?;
            let (_, Prepared { request_rows, views, .. }) = self.prepare(permit, rows, pack).await?;
            return Ok(IngestReport {
                outcome: Outcome::Valid,
                frame: None,
                ingest_time: None,
                rows: request_rows,
                views,
                partitions: Vec::new(),
            });
        }
        let report = self.write(permit, rows, bytes, pack).await?;
        if let Some(watcher) = self.watcher.as_ref().filter(|_| report.outcome == Outcome::Applied) {
            let mut views = report.views.iter().map(|view| (&view.view, view.rows as u64));
            watcher.ingested(permit.tenant(), &of_source, report.rows as u64, &mut views);
        }
        Ok(report)
    }

    async fn delete_counted(&self, permit: &Permit, request: DeleteRequest) -> Result<IngestReport> {
        permit.require(Action::Write)?;
        permit.check_view(&request.view)?;
        let rows = request.keys.first().map_or(0, |(_, column)| column.len());
        let columns: Vec<ArrayRef> = request.keys.iter().map(|(_, column)| column.clone()).collect();
        let bytes = self.check_size(rows, &columns)?;
        let pack = Arc::new(move |tenant: &TenantCatalog, now: Micros, settings: &IngestSettings| {
            records::prepare_deletes(tenant, &request, now, settings)
        });
        self.write(permit, rows, bytes, pack).await
    }

    /// Packs rows and appends them; again where definitions have changed in between, since a view
    /// that was added meanwhile must have every row that is acknowledged from then on.
    async fn write<P: Pack>(&self, permit: &Permit, rows: usize, bytes: usize, pack: Arc<P>) -> Result<IngestReport> {
        self.partitions.admit_write()?;
        // What isn't taken for the store's own sake costs the tenant nothing.
        permit.charge_write(rows, bytes, true)?;
        for _ in 0..MAX_PREPARATIONS {
            let (revision, prepared) = self.prepare(permit, rows, Arc::clone(&pack)).await?;
            match self.append(permit.tenant(), prepared, revision).await {
                Err(AppendError::Outdated { prepared, required }) => {
                    tracing::debug!(prepared, required, "definitions have changed: the request is prepared again");
                }
                appended => return appended.map_err(append_refusal),
            }
        }
        let message = format!("definitions changed {MAX_PREPARATIONS} times while the request was prepared");
        Err(Error::new(Code::Unavailable, "DEFINITIONS_CHANGING", message)
            .retry_after(Duration::from_millis(200))
            .hint("send it again: nothing of the request was written"))
    }

    /// Checks and packs under the newest definitions, whose revision it tells; many rows where they keep
    /// nobody waiting.
    async fn prepare<P: Pack>(&self, permit: &Permit, rows: usize, pack: Arc<P>) -> Result<(u64, Prepared)> {
        let (snapshot, tenant) = (self.snapshots.load(), permit.tenant().clone());
        let (now, settings) = (self.store_time.read(), self.settings.clone());
        let prepare = move || Ok((snapshot.revision, pack(snapshot.tenant(&tenant)?, now, &settings)?));
        if rows <= self.settings.inline_rows { prepare() } else { off_thread(prepare).await }
    }

    async fn append(&self, tenant: &Name, prepared: Prepared, revision: u64) -> Result<IngestReport, AppendError> {
        let Prepared { rows, request_rows, deletes, views, stamp } = prepared;
        let partitions = self.partitions_of(&rows);
        let appended = self.log.append(AppendRequest::of_rows(rows, stamp, revision)).await?;
        let outcome = if appended.already { Outcome::AlreadyApplied } else { Outcome::Applied };
        self.metrics.requests.add_for(tenant, 1);
        if appended.already {
            self.metrics.duplicates.add_for(tenant, 1);
        } else {
            self.metrics.rows.add_for(tenant, request_rows as u64);
            self.metrics.deletes.add_for(tenant, deletes as u64);
            self.metrics.null_keys.add_for(tenant, views.iter().map(|view| view.null_keys as u64).sum());
        }
        Ok(IngestReport {
            outcome,
            frame: Some(appended.frame),
            ingest_time: Some(appended.ingest_time),
            rows: request_rows,
            views,
            partitions,
        })
    }

    /// The partitions that have some of these rows, which ascend by slot.
    fn partitions_of(&self, mut rows: &[RowRecord]) -> Vec<usize> {
        let mut partitions = Vec::new();
        while let Some(first) = rows.first() {
            let handle = self.partitions.of_slot(first.slot);
            partitions.push(handle.index());
            rows = &rows[rows.partition_point(|row| row.slot <= handle.range().last)..];
        }
        partitions
    }

    /// How many bytes the columns hold; what is too large is refused.
    fn check_size(&self, rows: usize, columns: &[ArrayRef]) -> Result<usize> {
        if rows == 0 {
            return Err(Error::invalid("NO_ROWS", "the request holds no rows"));
        }
        let bytes: usize = columns.iter().map(|column| slice_bytes(column)).sum();
        let IngestSettings { max_rows, max_bytes, .. } = self.settings;
        let too_large = |told: String, option: &'static str, limit: usize| {
            let hint = format!("send the rows in smaller requests, or raise '{option}' in the server's configuration");
            let message = format!("the request has {told}; '{option}' allows {limit}");
            Error::invalid("REQUEST_TOO_LARGE", message).with("option", option).with("limit", limit).hint(hint)
        };
        if rows > max_rows {
            return Err(too_large(format!("{rows} rows"), "ingest.max_rows", max_rows));
        }
        if bytes > max_bytes {
            return Err(too_large(format!("columns of {bytes} bytes"), "ingest.max_request", max_bytes));
        }
        Ok(bytes)
    }

    fn count_refusal(&self, tenant: &Name, answered: Result<IngestReport>) -> Result<IngestReport> {
        if answered.is_err() {
            self.metrics.refused.add_for(tenant, 1);
        }
        answered
    }
}

/// What the log's refusal means to a producer.
fn append_refusal(error: AppendError) -> Error {
    let message = error.to_string();
    match error {
        AppendError::TooLarge { limit, .. } => Error::invalid("REQUEST_TOO_LARGE", message)
            .with("option", "log.max_request")
            .with("limit", limit)
            .hint("send the rows in smaller requests, or raise 'log.max_request' in the server's configuration"),
        AppendError::SequenceReused { sequence } => Error::new(Code::AlreadyExists, "SEQUENCE_REUSED", message)
            .with("sequence", sequence)
            .hint("a sequence stands for the rows that it was first sent with: give other rows a new one"),
        AppendError::SequenceTooOld { sequence, last } => {
            Error::new(Code::FailedPrecondition, "SEQUENCE_TOO_OLD", message)
                .with("sequence", sequence)
                .with("last", last)
                .hint("sequences of a producer only rise; gaps are allowed")
        }
        AppendError::TooManyProducers { limit } => Error::new(Code::ResourceExhausted, "TOO_MANY_PRODUCERS", message)
            .with("option", "log.producers")
            .with("limit", limit)
            .retry_after(Duration::from_mins(1))
            .hint(
                "use one producer id for each writer, not for each request; or raise 'log.producers' in the \
                 server's configuration. Room is made when producers were not used for 'log.producer_horizon'",
            ),
        AppendError::Overloaded { retry_after } => {
            Error::new(Code::Unavailable, "LOG_OVERLOADED", message).retry_after(retry_after)
        }
        AppendError::Full => Error::new(Code::ResourceExhausted, "DISK_FULL", message)
            .retry_after(Duration::from_secs(10))
            .hint("free some disk space; nothing of the request was written"),
        AppendError::Storage(_) => Error::new(Code::Unavailable, "LOG_UNAVAILABLE", message)
            .retry_after(Duration::from_secs(1))
            .hint("nothing of the request was written; the server's log tells what the disk reported"),
        AppendError::Closed => Error::new(Code::Unavailable, "OUTCOME_UNKNOWN", message).hint(
            "send it again with the same producer and sequence: it is taken once, whatever became of it; without a \
             producer it may be taken twice",
        ),
        // Outdated requests are prepared again before it comes to this.
        AppendError::Unordered | AppendError::Outdated { .. } => Error::internal(message),
    }
}

async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let worked = tokio::task::spawn_blocking(work).await;
    worked.map_err(|error| Error::internal(format!("checking the rows ended early: {error}")))?
}
