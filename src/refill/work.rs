//! One view's refill: the stubs of each partition that count under the raised ttl, some thousand at a time,
//! are looked for in history by their exact version, and written to the log as what they were.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hydrant_storage::history::{HistoryError, MergedRuns, RowAt, SlotSet, Sought, TableSnapshot};
use hydrant_storage::names::Name;
use hydrant_storage::order::{Micros, RowVersion, is_expired};
use hydrant_storage::partition::Stub;
use hydrant_storage::record::{Origin, RowRecord};
use tokio::runtime::Handle;

use super::{RefillMetrics, RefillParts};
use crate::error::{Code, Error, Result};
use crate::log::{AppendError, AppendRequest};
use crate::registry::catalog::{Refill, View};

/// Stubs that are looked for together: history is read once for them.
const STUBS: usize = 65_536;
/// Rows of one request at most, and their bytes about.
const BATCH_ROWS: usize = 4_000;
const BATCH_BYTES: usize = 2 << 20;
/// How long a request waits for the partitions, or for its turn, before that is a failure.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Task {
    pub parts: RefillParts,
    pub tenant: Name,
    pub view: Arc<View>,
    pub refill: Refill,
}

struct Work<'a> {
    task: &'a Task,
    runtime: &'a Handle,
    stopping: &'a AtomicBool,
    table: Arc<TableSnapshot>,
    /// Stubs of which history has no row.
    missing: u64,
}

impl Task {
    /// Whether all is done, and not: the view was changed meanwhile. Blocks.
    pub fn run(&self, runtime: &Handle, stopping: &AtomicBool, metrics: &RefillMetrics) -> Result<bool> {
        // A partition takes new definitions over with the next frame that it applies, and nothing becomes a
        // stub by the old ttl after that. So all that is to be looked for is older than this frame.
        let Some(barrier) = self.append(runtime, stopping, Vec::new())? else { return Ok(false) };
        self.wait(runtime, barrier)?;
        runtime.block_on(self.parts.lands.land_now())?;
        let table = runtime.block_on(self.parts.tables.table(self.view.history_spec(&self.tenant)));
        let table = table.map_err(|error| history_error(&error))?.snapshot();
        let kept_from = table.retained_from.unwrap_or(Micros::MIN);
        let mut work = Work { task: self, runtime, stopping, table, missing: 0 };
        let mut refilled = 0;
        for partition in self.parts.partitions.handles() {
            let mut last: Option<Stub> = None;
            loop {
                let view = partition.view().map_err(Error::from)?;
                let now = self.parts.store_time.read();
                // What history keeps no more stays a stub until it goes too.
                let is_kept = |version: &RowVersion| version.event_time >= kept_from;
                let counts =
                    |version: &RowVersion| is_kept(version) && !is_expired(version.event_time, now, self.refill.ttl);
                let stubs = view.stubs((self.view.tenant, self.view.id), last.as_ref(), STUBS, counts);
                let stubs = stubs.map_err(|error| unavailable(format!("the online store can't be read: {error}")))?;
                drop(view);
                let Some(end) = stubs.last().cloned() else { break };
                let Some(rows) = work.bring(&stubs)? else { return Ok(false) };
                metrics.rows.add(rows);
                refilled += rows;
                last = Some(end);
            }
        }
        if work.missing > 0 {
            let message = format!("history has no row of {} that had expired online", work.missing);
            return Err(Error::new(Code::DataLoss, "REFILL_INCOMPLETE", message).with("view", &self.view.name));
        }
        tracing::info!(view = %self.view.name, rows = refilled, "rows that count again were refilled from history");
        Ok(true)
    }

    /// The frame of a request; `None`: the view is not to be refilled like this any more.
    fn append(&self, runtime: &Handle, stopping: &AtomicBool, rows: Vec<RowRecord>) -> Result<Option<u64>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let Some(prepared) = self.prepared() else { return Ok(None) };
            if stopping.load(Ordering::Acquire) {
                return Err(unavailable("the server stops".to_owned()));
            }
            let refused = match self.parts.partitions.admit_write() {
                Err(refused) => refused,
                Ok(()) => {
                    let request = AppendRequest::of_rows(rows.clone(), None, prepared);
                    match runtime.block_on(self.parts.log.append(request)) {
                        Ok(appended) => return Ok(Some(appended.frame)),
                        // The rows are packed with the features that they were written with: they stay right.
                        Err(AppendError::Outdated { .. }) => continue,
                        Err(error) => unavailable(format!("the log takes no rows: {error}")),
                    }
                }
            };
            if Instant::now() >= deadline {
                return Err(refused);
            }
            let delay = refused.retry_after.unwrap_or(Duration::from_millis(100));
            runtime.block_on(async move { tokio::time::sleep(delay).await });
        }
    }

    /// The newest definitions' revision, if they still ask for this refill.
    fn prepared(&self) -> Option<u64> {
        let snapshot = self.parts.registry.snapshot();
        let view = snapshot.tenant(&self.tenant).ok()?.views.get(self.view.name.as_str())?;
        let since = view.refill.filter(|_| view.id == self.view.id)?.since;
        (since == self.refill.since).then_some(snapshot.revision)
    }

    /// Until the partitions show a frame.
    fn wait(&self, runtime: &Handle, frame: u64) -> Result<()> {
        let applied = self.parts.partitions.wait_applied(frame, Instant::now() + PATIENCE);
        runtime.block_on(applied).map_err(Into::into)
    }
}

impl Work<'_> {
    /// Brings the rows of stubs online and waits until they are; how many. `None`: nobody wants them any more.
    fn bring(&mut self, stubs: &[Stub]) -> Result<Option<u64>> {
        let mut missing: BTreeMap<(u16, &[u8]), &Stub> =
            stubs.iter().map(|stub| ((stub.slot, stub.key.as_slice()), stub)).collect();
        let slots: SlotSet = stubs.iter().map(|stub| stub.slot).collect();
        let until = stubs.iter().map(|stub| stub.version.event_time).max();
        // By slots alone: a row may be hidden, at its own instant, by one that was never brought online.
        let sought = Arc::new(Sought { slots: Some(slots.clone()), until, cutoff: None, keys: None });
        let all: Vec<usize> = (0..self.task.view.features.len()).collect();
        let (mut written, mut batch, mut bytes, mut last) = (0, Vec::new(), 0, None);
        let table = self.table.clone();
        for chain in table.chains_with(Some(&slots), None) {
            let run = table.open_chain_for(&chain, &all, &sought).map_err(|error| history_error(&error))?;
            let mut rows = MergedRuns::new(vec![Box::new(run)], None).map_err(|error| history_error(&error))?;
            // Both ascend, by slot and key.
            let wanted: Vec<&Stub> = missing.values().copied().collect();
            for stub in wanted {
                let Some(row) = self.find(&mut rows, stub)? else { continue };
                let record = self.record(&row)?;
                bytes += record.body.len() + record.key.len();
                batch.push(record);
                missing.remove(&(stub.slot, stub.key.as_slice()));
                if batch.len() >= BATCH_ROWS || bytes >= BATCH_BYTES {
                    bytes = 0;
                    let Some(rows) = self.write(std::mem::take(&mut batch), &mut last)? else { return Ok(None) };
                    written += rows;
                }
            }
        }
        let Some(rows) = self.write(batch, &mut last)? else { return Ok(None) };
        if let Some(frame) = last {
            self.task.wait(self.runtime, frame)?;
        }
        self.missing += missing.len() as u64;
        Ok(Some(written + rows))
    }

    /// The row of a run that a stub is of.
    fn find(&self, rows: &mut MergedRuns, stub: &Stub) -> Result<Option<RowAt>> {
        rows.seek(stub.slot, &stub.key).map_err(|error| history_error(&error))?;
        while let Some(row) = rows.peek() {
            let version = row.version();
            if version > stub.version || row.batch.compare_key(row.index, stub.slot, &stub.key).is_ne() {
                return Ok(None);
            }
            if version == stub.version {
                return Ok(Some(row.clone()));
            }
            rows.advance().map_err(|error| history_error(&error))?;
        }
        Ok(None)
    }

    fn record(&self, row: &RowAt) -> Result<RowRecord> {
        let view = &self.task.view;
        let packed = row.pack(&view.layout).map_err(|error| history_error(&error))?;
        let (header, body) = (*packed.header(), packed.body().clone());
        Ok(RowRecord {
            tenant: view.tenant,
            view: view.id,
            slot: row.slot(),
            ordinal: 0,
            key: Bytes::copy_from_slice(row.key()),
            event_time: header.version.event_time,
            known_time: Some(header.version.known_time),
            tombstone: false,
            revision: header.revision,
            feature_count: header.feature_count,
            body,
            origin: Some(Origin { position: header.version.position, ingest_time: header.ingest_time }),
        })
    }

    /// Writes rows of one run, once those before them are applied.
    fn write(&self, mut rows: Vec<RowRecord>, last: &mut Option<u64>) -> Result<Option<u64>> {
        if rows.is_empty() {
            return Ok(Some(0));
        }
        rows.sort_by_key(|row| row.slot);
        for (row, ordinal) in rows.iter_mut().zip(0..) {
            row.ordinal = ordinal;
        }
        if let Some(frame) = *last {
            self.task.wait(self.runtime, frame)?;
        }
        let written = rows.len() as u64;
        let Some(frame) = self.task.append(self.runtime, self.stopping, rows)? else { return Ok(None) };
        *last = Some(frame);
        Ok(Some(written))
    }
}

fn unavailable(message: String) -> Error {
    Error::new(Code::Unavailable, "REFILL_FAILED", message)
}

fn history_error(error: &HistoryError) -> Error {
    let (code, reason) = match error.is_damage() {
        true => (Code::DataLoss, "HISTORY_DAMAGED"),
        false => (Code::Unavailable, "HISTORY_UNAVAILABLE"),
    };
    Error::new(code, reason, format!("history can't be read: {error}"))
}
