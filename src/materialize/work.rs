//! One view's history on its way online: run after run of its files is walked, and of each key what counts
//! is held against what is online; what is newer goes into the log, some thousand rows a request, and no
//! further request before the partitions have applied the one before. Runs need not be merged for it:
//! which row of a key wins in the end is the partitions' to decide.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hydrant_storage::history::{Chain, HistoryError, MergedRuns, RowAt, TableSnapshot};
use hydrant_storage::keys::OnlineKey;
use hydrant_storage::names::Name;
use hydrant_storage::order::{Micros, RowVersion};
use hydrant_storage::partition::{Lookup, ReadMode};
use hydrant_storage::record::{Origin, RowRecord};
use hydrant_storage::row::RowKind;
use tokio::runtime::Handle;

use super::{MaterializeParts, Progress};
use crate::error::{Code, Error, Result};
use crate::log::{AppendError, AppendRequest};
use crate::registry::catalog::View;

/// The reason of a refusal where nobody waits any more.
pub(super) const STOPPED: &str = "MATERIALIZE_STOPPED";

/// Rows of one request at most, and their bytes about.
const BATCH_ROWS: usize = 4_000;
const BATCH_BYTES: usize = 2 << 20;

/// How long a request waits for the partitions, or for its turn, before that is a failure.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Task {
    pub tenant: Name,
    pub view: Arc<View>,
    pub table: Arc<TableSnapshot>,
    pub since_frame: Option<u64>,
}

/// Told of progress; whether to go on.
type Proceed<'a> = &'a mut dyn FnMut(&Progress) -> bool;

struct Walk<'a> {
    task: &'a Task,
    parts: &'a MaterializeParts,
    runtime: &'a Handle,
    /// Rows due by it have come.
    now: Micros,
    progress: Progress,
    candidates: Vec<RowRecord>,
    bytes: usize,
    /// The last request's frame.
    last_frame: Option<u64>,
}

impl Task {
    /// Blocks.
    pub fn run(&self, parts: &MaterializeParts, runtime: &Handle, proceed: Proceed<'_>) -> Result<Progress> {
        let is_wanted = |chain: &Chain<'_>| {
            let newest = chain.files().iter().map(|file| file.last_frame()).max();
            self.since_frame.is_none_or(|since| newest.is_some_and(|newest| newest >= since))
        };
        let chains: Vec<Chain<'_>> = self.table.chains_with(None, None).into_iter().filter(is_wanted).collect();
        let total_rows = chains.iter().flat_map(Chain::files).map(|file| file.rows()).sum();
        let mut walk = Walk {
            task: self,
            parts,
            runtime,
            now: parts.store_time.read(),
            progress: Progress { total_rows, ..Progress::default() },
            candidates: Vec::new(),
            bytes: 0,
            last_frame: None,
        };
        for chain in &chains {
            walk.chain(chain, proceed)?;
        }
        walk.wait()?;
        Ok(walk.progress)
    }
}

impl Walk<'_> {
    fn chain(&mut self, chain: &Chain<'_>, proceed: Proceed<'_>) -> Result<()> {
        let all: Vec<usize> = (0..self.task.view.features.len()).collect();
        let run = self.task.table.open_chain(chain, &all, None).map_err(|error| history_error(&error))?;
        let mut rows = MergedRuns::new(vec![Box::new(run)], None).map_err(|error| history_error(&error))?;
        let mut newest: Option<RowAt> = None;
        while let Some((batch, range)) = rows.stretch() {
            let (batch, range) = (batch.clone(), range);
            for index in range.clone() {
                let row = RowAt { batch: batch.clone(), index };
                let is_same =
                    newest.as_ref().is_some_and(|newest| batch.compare_key(index, newest.slot(), newest.key()).is_eq());
                if !is_same {
                    self.take(newest.take())?;
                }
                // Rows of a key ascend, so a later one that has come is greater.
                if row.version().is_visible_at(self.now) {
                    newest = Some(row);
                } else {
                    self.take(Some(row))?;
                }
            }
            self.progress.rows += range.len() as u64;
            rows.pass(range.len()).map_err(|error| history_error(&error))?;
            if self.candidates.len() >= BATCH_ROWS || self.bytes >= BATCH_BYTES || !proceed(&self.progress) {
                self.write(proceed)?;
            }
        }
        self.take(newest)?;
        // Those of one run ascend by their slots.
        self.write(proceed)
    }

    /// Takes a row that may have to come online.
    fn take(&mut self, row: Option<RowAt>) -> Result<()> {
        let Some(row) = row else { return Ok(()) };
        self.progress.keys += 1;
        let view = &self.task.view;
        let packed = row.pack(&view.layout).map_err(|error| history_error(&error))?;
        let (header, body) = (*packed.header(), packed.body().clone());
        let RowVersion { event_time, known_time, position } = header.version;
        self.bytes += body.len() + row.key().len();
        self.candidates.push(RowRecord {
            tenant: view.tenant,
            view: view.id,
            slot: row.slot(),
            ordinal: 0,
            key: Bytes::copy_from_slice(row.key()),
            event_time,
            known_time: Some(known_time),
            tombstone: header.kind == RowKind::Tombstone,
            revision: header.revision,
            feature_count: header.feature_count,
            body,
            origin: Some(Origin { position, ingest_time: header.ingest_time }),
        });
        Ok(())
    }

    /// Writes what has come together, some rows a request, once the request before is applied.
    fn write(&mut self, proceed: Proceed<'_>) -> Result<()> {
        let candidates = std::mem::take(&mut self.candidates);
        self.bytes = 0;
        for candidates in candidates.chunks(BATCH_ROWS) {
            let mut rows = self.newer_than_online(candidates)?;
            if !proceed(&self.progress) {
                let message = "nobody waits for the history that is brought online any more";
                return Err(Error::new(Code::Unavailable, STOPPED, message));
            }
            if rows.is_empty() {
                continue;
            }
            rows.sort_by_key(|row| row.slot);
            for (row, ordinal) in rows.iter_mut().zip(0..) {
                row.ordinal = ordinal;
            }
            self.wait()?;
            let written = rows.len() as u64;
            self.last_frame = Some(self.append(rows, proceed)?);
            self.progress.written += written;
        }
        if proceed(&self.progress) {
            return Ok(());
        }
        let message = "nobody waits for the history that is brought online any more";
        Err(Error::new(Code::Unavailable, STOPPED, message))
    }

    /// The rows that are greater than what is online of their keys, and those that are still to come. A
    /// partition that can't be read now is asked by what it applies.
    fn newer_than_online(&self, rows: &[RowRecord]) -> Result<Vec<RowRecord>> {
        let mut newer = Vec::new();
        let mut rest = rows;
        while let Some(first) = rest.first() {
            let handle = self.parts.partitions.of_slot(first.slot);
            let of_partition = rest.partition_point(|row| handle.range().contains(row.slot)).max(1);
            let (here, later) = rest.split_at(of_partition);
            rest = later;
            let keys: Vec<OnlineKey<'_>> = here.iter().map(key_of).collect();
            let online = match handle.view() {
                Ok(view) => view.lookup_in_passing(&keys, ReadMode::MayBlock),
                Err(error) => return Err(error.into()),
            };
            for (row, online) in here.iter().zip(online) {
                let version = version_of(row);
                let is_newer = match online {
                    Lookup::Row(online) => version > online.header().version,
                    // What is damaged stays so, whatever is written.
                    Lookup::Damaged => false,
                    Lookup::Absent | Lookup::NotCached | Lookup::Unreadable(_) => true,
                };
                if is_newer {
                    newer.push(row.clone());
                }
            }
        }
        Ok(newer)
    }

    fn append(&self, rows: Vec<RowRecord>, proceed: Proceed<'_>) -> Result<u64> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let prepared = self.prepared()?;
            let admitted = self.parts.partitions.admit_write();
            let refused = match admitted {
                Err(refused) => refused,
                Ok(()) => {
                    let request = AppendRequest::of_rows(rows.clone(), None, prepared);
                    match self.runtime.block_on(self.parts.log.append(request)) {
                        Ok(appended) => return Ok(appended.frame),
                        // The rows are packed with the features that they were written with: they stay right.
                        Err(AppendError::Outdated { .. }) => continue,
                        Err(error) => {
                            let message = format!("the log takes no rows: {error}");
                            Error::new(Code::Unavailable, "LOG_UNAVAILABLE", message)
                        }
                    }
                }
            };
            if Instant::now() >= deadline || !proceed(&self.progress) {
                return Err(refused);
            }
            let delay = refused.retry_after.unwrap_or(Duration::from_millis(100));
            self.runtime.block_on(async move { tokio::time::sleep(delay).await });
        }
    }

    /// The newest definitions' revision, if they still have the view.
    fn prepared(&self) -> Result<u64> {
        let (snapshot, wanted) = (self.parts.snapshots.load(), &self.task.view);
        let mut versions = snapshot.tenant(&self.task.tenant)?.versions_of(wanted.name.as_str());
        match versions.any(|view| view.id == wanted.id) {
            true => Ok(snapshot.revision),
            false => Err(Error::not_found("VIEW_NOT_FOUND", format!("view '{}' was deleted", wanted.name))),
        }
    }

    /// Until the last request is applied.
    fn wait(&self) -> Result<()> {
        let Some(frame) = self.last_frame else { return Ok(()) };
        let applied = self.parts.partitions.wait_applied(frame, Instant::now() + PATIENCE);
        self.runtime.block_on(applied).map_err(Into::into)
    }
}

fn key_of(row: &RowRecord) -> OnlineKey<'_> {
    OnlineKey { slot: row.slot, tenant: row.tenant, view: row.view, key: &row.key }
}

fn version_of(row: &RowRecord) -> RowVersion {
    // Both are its own: it has an origin and a known time.
    row.version(0, 0)
}

pub(super) fn history_error(error: &HistoryError) -> Error {
    let message = format!("history can't be read: {error}");
    let (code, reason) = match error.is_damage() {
        true => (Code::DataLoss, "HISTORY_DAMAGED"),
        false => (Code::Unavailable, "HISTORY_UNAVAILABLE"),
    };
    Error::new(code, reason, message)
}
