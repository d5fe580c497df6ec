//! Backfills: rows of a source straight into history, past the partitions. They are checked as ingest
//! checks rows, sorted outside memory and written as files of the views' tables; then one control record
//! in the log takes them all in, whose position and ingest time are every row's. Until that record is
//! durable nothing can be seen of a backfill, and from then on it is done, whatever happens. One is made
//! at a time, by threads that stand back behind online reads. It brings no row online.

mod abandon;
mod check;
mod failure;
mod finish;
mod give_up;
mod intake;
mod ledger;
mod metrics;
mod target;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use hydrant_storage::files::Files;
use hydrant_storage::history::{HistoryTables, TakeIn};
use hydrant_storage::names::{Name, ViewId};
use hydrant_storage::order::Micros;
use tokio::sync::OwnedSemaphorePermit;

pub use self::finish::{Finishing, Phase, Progress, Told};
pub use self::intake::Intake;
pub use self::metrics::BackfillMetrics;

use self::failure::{disk_error, staging_error};
use self::ledger::Ledger;
use self::target::Target;
use crate::clock::StoreTime;
use crate::error::{Code, Error, Result};
use crate::log::WriteLog;
use crate::one_at_a_time::OneAtATime;
use crate::registry::SnapshotReader;
use crate::registry::catalog::View;
use crate::registry::definition::KnownTimeRule;
use crate::runs::{Origin, Watcher};
use crate::tenancy::{Action, Permit};

/// Rows of one backfill at most: history counts them in an int32.
pub const MAX_ROWS: u64 = (1 << 31) - 1;

/// Backfills that did not come to their end and whose staged rows are kept to go on with.
const MAX_UNFINISHED: usize = 4;

/// Makes staged files history, once the log has taken them in.
#[async_trait]
pub trait TakesIn: Send + Sync + Debug {
    /// Does what the control records in the log ask for.
    async fn take_in_now(&self) -> Result<()>;
}

/// What backfills are made with.
#[derive(Clone, Debug)]
pub struct BackfillParts {
    pub files: Arc<dyn Files>,
    pub snapshots: SnapshotReader,
    pub log: Arc<dyn WriteLog>,
    pub tables: Arc<HistoryTables>,
    pub store_time: Arc<StoreTime>,
    pub takes_in: Arc<dyn TakesIn>,
    /// Held from a control record to the commits that it asks for. Who copies log and tables holds it too.
    pub taking_in: Arc<tokio::sync::Mutex<()>>,
    /// Who is told of backfills.
    pub watcher: Watcher,
}

#[derive(Clone, Debug)]
pub struct BackfillOptions {
    /// Where sorted runs lie until they are merged.
    pub directory: PathBuf,
    /// Bytes that the rows of a backfill may take in memory.
    pub memory: usize,
    pub threads: usize,
    /// Bytes of disk that the sorted runs of a backfill may take.
    pub max_staged: u64,
    /// Bytes that a backfill writes a second at most.
    pub bytes_per_second: u64,
    pub max_key_bytes: usize,
    /// As compaction cuts files, and as it sees levels: of a landing's bytes, of so many times as many, …
    pub file_bytes: u64,
    pub runs_per_level: usize,
    pub landing_bytes: u64,
    /// How long a backfill waits for its files to become history.
    pub patience: Duration,
}

#[derive(Clone, Debug)]
pub struct BackfillRequest {
    pub source: String,
    /// What makes it the same backfill when it is asked for again: to be made of its content.
    pub id: String,
    /// All rows that will be sent, those before `first_row` included.
    pub rows: u64,
    /// The first row that will be sent: as many as [`Standing::Staged`] told.
    pub first_row: u64,
    /// In the place of the source's rule.
    pub known_time: Option<KnownTimeRule>,
    /// Event times, from the first until before the second.
    pub from: Option<Micros>,
    pub to: Option<Micros>,
    pub ignore_extra: bool,
    /// Check and write nothing.
    pub validate_only: bool,
    /// Where the rows come from, for those who are told of it.
    pub origins: Vec<Origin>,
}

/// How far a backfill is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// So many of its first rows need not be sent again.
    Staged { rows: u64 },
    /// It was taken in, with this frame.
    TakenIn { frame: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Applied,
    /// It was taken in before; nothing has changed.
    AlreadyApplied,
    /// Only validation was asked for, and the rows passed.
    Valid,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackfillReport {
    pub outcome: Outcome,
    /// Where it is in the log; `None` where nothing was to be written.
    pub frame: Option<u64>,
    pub ingest_time: Option<Micros>,
    /// Rows within the range of event times.
    pub rows: u64,
    pub views: Vec<BackfilledView>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackfilledView {
    pub view: Name,
    pub rows: u64,
    /// Rows that are no part of the view because its key is null in them.
    pub null_keys: u64,
    /// Of its rows those that are older than its retention, and go soon.
    pub too_old: u64,
    /// Bytes of its files.
    pub bytes: u64,
    pub online: bool,
}

/// The use case. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Backfills {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    parts: BackfillParts,
    options: BackfillOptions,
    /// One backfill at a time.
    working: OneAtATime,
    /// The views of which an erasure has given up what is staged, with how often that was.
    given_up: Mutex<HashMap<ViewId, u64>>,
    metrics: Arc<BackfillMetrics>,
}

impl Backfills {
    /// Removes what is of no use any more of backfills that did not come to their end.
    pub async fn open(parts: BackfillParts, options: BackfillOptions) -> Result<Self> {
        let (files, directory) = (parts.files.clone(), options.directory.clone());
        let listed = blocking(move || {
            let made = files.create_dir_all(&directory);
            let listed = made.and_then(|()| ledger::unfinished(files.as_ref(), &directory));
            listed.map_err(|error| disk_error(&directory, &error))
        });
        let mut done = Vec::new();
        for backfill in listed.await? {
            for table in parts.tables.opened() {
                if table.taken_in(&backfill).await.map_err(|error| staging_error(&error))?.is_some() {
                    done.push(backfill);
                    break;
                }
            }
        }
        let (files, directory) = (parts.files.clone(), options.directory.clone());
        blocking(move || {
            let kept = ledger::keep_newest(files.as_ref(), &directory, &done, MAX_UNFINISHED);
            kept.map_err(|error| disk_error(&directory, &error))
        })
        .await?;
        let records = parts.log.unsettled().into_iter().filter_map(|frame| frame.control.clone());
        let pending = records.filter_map(|record| TakeIn::decode(&record).ok()).map(|take_in| take_in.backfill);
        let pending: HashSet<String> = pending.collect();
        for table in parts.tables.opened() {
            table.remove_staged(pending.clone()).await.map_err(|error| staging_error(&error))?;
        }
        let (working, metrics) = (OneAtATime::default(), Arc::default());
        let given_up = Mutex::default();
        Ok(Self { inner: Arc::new(Inner { parts, options, working, given_up, metrics }) })
    }

    /// How far the backfill is that a request stands for.
    pub async fn standing(&self, permit: &Permit, request: &BackfillRequest) -> Result<Standing> {
        permit.require(Action::Write)?;
        let target = Target::new(permit, self.inner.parts.snapshots.load(), request)?;
        self.inner.standing(&target).await
    }

    /// The views that a backfill of a source goes to.
    pub fn views(&self, permit: &Permit, request: &BackfillRequest) -> Result<Vec<BackfilledView>> {
        let target = Target::new(permit, self.inner.parts.snapshots.load(), request)?;
        let view = |view: &Arc<View>| BackfilledView {
            view: view.name.clone(),
            rows: 0,
            null_keys: 0,
            too_old: 0,
            bytes: 0,
            online: view.online,
        };
        Ok(target.views.iter().filter(|view| view.is_served()).map(view).collect())
    }

    /// Begins a backfill, or goes on with it. Refusals: INVALID_ARGUMENT (a request that makes no sense),
    /// NOT_FOUND (no such source), FAILED_PRECONDITION (no view keeps history; it was taken in; or rows are to
    /// come first that are staged already, or after others), RESOURCE_EXHAUSTED (another is being made).
    pub async fn begin(&self, permit: &Permit, request: BackfillRequest) -> Result<Intake> {
        permit.require(Action::Write)?;
        let place = self.enter()?;
        let target = Arc::new(Target::new(permit, self.inner.parts.snapshots.load(), &request)?);
        if request.rows > MAX_ROWS {
            let message = format!("a backfill has {MAX_ROWS} rows at most, and this one has {}", request.rows);
            let hint = "load it in several parts: some of the files, or ranges of event times (--from, --to)";
            return Err(Error::invalid("BACKFILL_TOO_LONG", message).with("limit", MAX_ROWS).hint(hint));
        }
        let expected = match self.inner.standing(&target).await? {
            _ if request.validate_only => 0,
            Standing::Staged { rows } => rows,
            Standing::TakenIn { frame } => {
                let message = format!("this backfill of '{}' was taken in before", request.source);
                return Err(Error::new(Code::FailedPrecondition, "BACKFILL_TAKEN_IN", message).with("frame", frame));
            }
        };
        if request.first_row != expected {
            let message = format!("the first row to be sent is {expected}, not {}", request.first_row);
            return Err(Error::new(Code::FailedPrecondition, "BACKFILL_OUT_OF_STEP", message)
                .with("first_row", expected)
                .hint("ask for where the backfill stands, and go on from there"));
        }
        let (inner, of_ledger) = (self.inner.clone(), target.clone());
        let ledger = match request.validate_only {
            true => None,
            false => Some(
                blocking(move || {
                    let directory = inner.options.directory.clone();
                    let (id, fingerprint) = (of_ledger.id.clone(), of_ledger.fingerprint()?);
                    Ledger::open(&inner.parts.files, directory, id, fingerprint)
                })
                .await?,
            ),
        };
        let mut storage = permit.hold_storage();
        storage.grow_to(ledger.as_ref().map_or(0, Ledger::bytes))?;
        Ok(Intake::new(self.inner.clone(), (permit.clone(), storage), place, target, request, ledger))
    }

    pub fn metrics(&self) -> &BackfillMetrics {
        &self.inner.metrics
    }

    /// Lets none begin, and waits for the one that is under way to stop or to be taken in.
    pub async fn shutdown(&self) {
        self.inner.working.close().await;
    }

    fn enter(&self) -> Result<OwnedSemaphorePermit> {
        self.inner.working.enter(|| {
            Error::new(Code::ResourceExhausted, "BACKFILL_BUSY", "another backfill is being made")
                .hint("wait until it has ended: there is one at a time")
                .retry_after(Duration::from_secs(5))
        })
    }
}

impl Inner {
    async fn standing(&self, target: &Target) -> Result<Standing> {
        for record in self.parts.log.unsettled() {
            let take_in = record.control.as_ref().and_then(|control| TakeIn::decode(control).ok());
            if take_in.is_some_and(|take_in| take_in.backfill == target.id) {
                return Ok(Standing::TakenIn { frame: record.number });
            }
        }
        for view in &target.views {
            let table = self.parts.tables.table(target.spec_of(view)).await;
            let table = table.map_err(|error| staging_error(&error))?;
            if let Some(frame) = table.taken_in(&target.id).await.map_err(|error| staging_error(&error))? {
                return Ok(Standing::TakenIn { frame });
            }
        }
        let (files, directory) = (self.parts.files.clone(), self.options.directory.clone());
        let (id, fingerprint) = (target.id.clone(), target.fingerprint()?);
        let staged = move || ledger::staged_rows(files.as_ref(), &directory, &id, &fingerprint);
        Ok(Standing::Staged { rows: blocking(staged).await? })
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Error::internal(format!("work on a backfill ended early: {error}"))))
}
