//! The writer of a partition. What it writes for a frame, and that the frame is applied, become
//! visible and durable together; whatever is applied twice changes nothing. It reads no clock:
//! every instant is handed in.

use std::collections::{BTreeMap, HashMap};
use std::mem;
use std::path::Path;
use std::sync::Arc;

use rocksdb::{DBRawIterator, ReadOptions, WriteBatch};

use super::database::{Database, SharedResources};
use super::{
    Applied, ApplyReport, PartitionOptions, ReadView, StoreError, SweepReport, ViewPolicies, ViewState, read_view,
};
use crate::keys::{OnlineKey, PendingKey, SlotRange, TailKey, ordered_time, prefix_end};
use crate::names::{TenantId, ViewId};
use crate::order::{Micros, RowVersion, is_expired};
use crate::record::RowRecord;
use crate::row::{RowHeader, RowKind, RowRef, encode_row};

/// A write batch has at most this many rows, and ends after this many bytes of them.
const CHUNK_ROWS: usize = 1024;
const CHUNK_BYTES: usize = 4 << 20;

/// One partition's store. It has one owner, which alone writes.
///
/// A damaged row of an online key stays where it is, whatever is written for that key after it:
/// whether it was the greatest can't be told, so the key reads as damaged until the store is rebuilt.
#[derive(Debug)]
pub struct PartitionStore {
    database: Arc<Database>,
    range: SlotRange,
    applied: Applied,
    /// Whether `applied` is ahead of what was written: frames without rows here are not written one
    /// by one.
    applied_unwritten: bool,
    /// The last position read back from disk.
    flushed: u64,
    next_due: Option<Micros>,
    views: Arc<HashMap<ViewId, ViewState>>,
    /// Where the next step of the sweep begins.
    sweep_from: Vec<u8>,
    /// How far the drop of a view's landed rows has come.
    drops: HashMap<(TenantId, ViewId), TailDrop>,
}

#[derive(Debug)]
struct TailDrop {
    through: u64,
    next_key: Vec<u8>,
}

impl PartitionStore {
    /// Opens the store of a range of slots, or creates it.
    pub fn open(
        directory: &Path,
        range: SlotRange,
        options: &PartitionOptions,
        shared: &SharedResources,
    ) -> Result<Self, StoreError> {
        let database = Arc::new(Database::open(directory, options, shared)?);
        database.check_format(range)?;
        let applied = database.applied()?;
        let views = Arc::new(database.view_states()?.into_iter().collect());
        let mut store = Self {
            range,
            applied,
            applied_unwritten: false,
            flushed: applied.frame,
            next_due: None,
            views,
            sweep_from: Vec::new(),
            drops: HashMap::new(),
            database,
        };
        let next_due = due_at(&mut store.scan(store.database.pending(), &[])?)?;
        store.next_due = next_due;
        Ok(store)
    }

    pub fn range(&self) -> SlotRange {
        self.range
    }

    /// How far the log has been applied; the next frame to apply comes after it.
    pub fn applied(&self) -> Applied {
        self.applied
    }

    /// How far the log was applied in what a reopened store would start from. It is read back from
    /// what is on disk; where that fails, the last position that was read stands, which is no later.
    pub fn flushed_frame(&self) -> u64 {
        match self.database.flushed() {
            Ok(flushed) => flushed.frame.max(self.flushed),
            Err(error) => {
                tracing::warn!(%error, directory = %self.database.directory().display(), "the flushed position can't be read back");
                self.flushed
            }
        }
    }

    /// The due time of the next row that [`PartitionStore::promote`] will make visible.
    pub fn next_due(&self) -> Option<Micros> {
        self.next_due
    }

    /// Bytes of rows not yet dropped as landed, over all views.
    pub fn tail_bytes(&self) -> u64 {
        self.views.values().map(|state| state.tail_bytes).sum()
    }

    pub fn view_state(&self, view: ViewId) -> Option<ViewState> {
        self.views.get(&view).copied()
    }

    /// Applies the rows that a frame has for this partition, in ascending order of ordinals within
    /// a slot. Frames come in ascending order; those without rows here may be left out, but the
    /// last of a run of them should be passed, so that the position advances. A frame at or before
    /// [`PartitionStore::applied`] changes nothing.
    ///
    /// `now` is store time at or after `ingest_time`: rows due by it are visible at once. It must
    /// not exceed what later reads may be given.
    ///
    /// After an error other than [`StoreError::ForeignSlot`] part of the frame may be written; the
    /// position has not advanced, and applying the frame again makes it whole.
    pub fn apply(
        &mut self,
        frame: u64,
        ingest_time: Micros,
        rows: &[RowRecord],
        now: Micros,
        policies: &dyn ViewPolicies,
    ) -> Result<ApplyReport, StoreError> {
        if frame <= self.applied.frame {
            return Ok(ApplyReport { already_applied: true, ..ApplyReport::default() });
        }
        if let Some(foreign) = rows.iter().find(|row| !self.range.contains(row.slot)) {
            return Err(StoreError::ForeignSlot { slot: foreign.slot, range: self.range });
        }
        let applied = Applied { frame, ingest_time };
        let mut step = Step { report: ApplyReport::default(), views: HashMap::new() };
        let mut rest = rows;
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(chunk_length(rest));
            rest = after;
            let mut batch = WriteBatch::default();
            let next_due = self.stage_rows(&mut batch, &mut step, chunk, applied, now, policies)?;
            if rest.is_empty() {
                self.database.put_applied(&mut batch, applied);
                self.put_views(&mut batch, &step.views);
            }
            self.database.write(batch)?;
            self.next_due = earlier(self.next_due, next_due);
        }
        self.applied = applied;
        self.applied_unwritten = rows.is_empty();
        self.take_views(step.views);
        Ok(step.report)
    }

    /// Makes rows visible that are due at or before `through`, `limit` at most; whether more are.
    pub fn promote(&mut self, through: Micros, limit: usize) -> Result<bool, StoreError> {
        if self.next_due.is_none_or(|due| due > through) {
            return Ok(false);
        }
        let mut batch = WriteBatch::default();
        let mut candidates: BTreeMap<Vec<u8>, Candidate> = BTreeMap::new();
        let mut views = HashMap::new();
        // Everything due before `next_due` was promoted and deleted: not to be passed over again.
        let begin = self.next_due.map(ordered_time).unwrap_or_default();
        let mut pending = self.scan(self.database.pending(), &begin)?;
        let mut next_due = due_at(&mut pending)?;
        for _ in 0..limit.max(1) {
            if next_due.is_none_or(|due| due > through) {
                break;
            }
            let (Some(stored_key), Some(stored)) = (pending.key(), pending.value()) else { break };
            let key = PendingKey::decode(stored_key).ok_or_else(|| damaged_key("pending"))?;
            let row = RowRef::read(&key.name, stored).ok();
            let row = row.filter(|row| {
                let version = row.header().version;
                version.position == key.position && version.due_time() == key.due
            });
            let mut name = Vec::new();
            key.name.encode(&mut name);
            let candidate = Candidate { version: row.map(|row| row.header().version), stored: stored.to_vec() };
            if let Some(version) = candidate.version {
                self.view_for(&mut views, key.name.tenant, key.name.view).saw(version.event_time);
            }
            match candidates.get_mut(&name) {
                Some(greatest) => greatest.raise_to(candidate),
                None => {
                    candidates.insert(name, candidate);
                }
            }
            batch.delete_cf(self.database.pending(), stored_key);
            pending.next();
            next_due = due_at(&mut pending)?;
        }
        drop(pending);
        let names: Vec<&[u8]> = candidates.keys().map(Vec::as_slice).collect();
        for ((name, candidate), current) in candidates.iter().zip(self.current_versions(&names)?) {
            let wins = match (current, candidate.version) {
                (Current::Damaged, _) => false,
                // It can't be told whether it would have been the greatest: the key is damaged.
                (_, None) => true,
                (Current::None, Some(_)) => true,
                (Current::Row(current), Some(version)) => version > current,
            };
            if wins {
                batch.put_cf(self.database.latest(), name, &candidate.stored);
            }
        }
        self.put_views(&mut batch, &views);
        self.database.write(batch)?;
        self.take_views(views);
        self.next_due = next_due;
        Ok(next_due.is_some_and(|due| due <= through))
    }

    /// Turns online rows that have expired under their view's longest ttl into stubs. Looks at
    /// `limit` rows and goes on there the next time.
    pub fn sweep_expired(
        &mut self,
        now: Micros,
        policies: &dyn ViewPolicies,
        limit: usize,
    ) -> Result<SweepReport, StoreError> {
        let mut report = SweepReport::default();
        let mut batch = WriteBatch::default();
        let mut buffer = Vec::new();
        let mut rows = self.scan(self.database.latest(), &self.sweep_from)?;
        while report.examined_rows < limit.max(1) {
            let (Some(stored_key), Some(stored)) = (rows.key(), rows.value()) else { break };
            report.examined_rows += 1;
            let name = OnlineKey::decode(stored_key).ok_or_else(|| damaged_key("latest"))?;
            match RowRef::read(&name, stored) {
                Err(_) => report.damaged_rows += 1,
                Ok(row) if row.header().kind == RowKind::Full => {
                    let header = *row.header();
                    let ttl = policies.policy(name.tenant, name.view).and_then(|policy| policy.longest_ttl);
                    if is_expired(header.version.event_time, now, ttl) {
                        report.expired_rows += 1;
                        buffer.clear();
                        let stub = RowHeader { kind: RowKind::ExpiredStub, ..header };
                        encode_row(&name, &stub, &[], &mut buffer);
                        batch.put_cf(self.database.latest(), stored_key, &buffer);
                    }
                }
                Ok(_) => {}
            }
            rows.next();
        }
        let next = rows.key().map(<[u8]>::to_vec);
        rows.status().map_err(StoreError::of_rocksdb("sweeping"))?;
        drop(rows);
        if !batch.is_empty() {
            self.database.write(batch)?;
        }
        report.finished = next.is_none();
        self.sweep_from = next.unwrap_or_default();
        Ok(report)
    }

    /// Drops a view's rows of frames up to `through`, which have landed, from the tail. Looks at
    /// `limit` rows and goes on there the next time; whether more are to be looked at.
    pub fn drop_tail(&mut self, view: (TenantId, ViewId), through: u64, limit: usize) -> Result<bool, StoreError> {
        let through = through.min(self.applied.frame);
        let mut begin = Vec::new();
        TailKey::encode_view(view.0, view.1, &mut begin);
        let end = prefix_end(&begin);
        if let Some(drop) = self.drops.get_mut(&view).filter(|drop| drop.through == through) {
            begin = mem::take(&mut drop.next_key);
        }
        let mut views = HashMap::new();
        let mut batch = WriteBatch::default();
        let mut rows = self.scan_until(self.database.tail(), &begin, end.as_deref())?;
        for _ in 0..limit.max(1) {
            let (Some(stored_key), Some(stored)) = (rows.key(), rows.value()) else { break };
            let key = TailKey::decode(stored_key).ok_or_else(|| damaged_key("tail"))?;
            if key.version.position.frame <= through {
                batch.delete_cf(self.database.tail(), stored_key);
                let state = self.view_for(&mut views, view.0, view.1);
                state.tail_rows = state.tail_rows.saturating_sub(1);
                state.tail_bytes = state.tail_bytes.saturating_sub((stored_key.len() + stored.len()) as u64);
            }
            rows.next();
        }
        let next = rows.key().map(<[u8]>::to_vec);
        rows.status().map_err(StoreError::of_rocksdb("dropping landed rows"))?;
        drop(rows);
        if !batch.is_empty() {
            self.put_views(&mut batch, &views);
            self.database.write(batch)?;
            self.take_views(views);
        }
        let Some(next_key) = next else {
            self.drops.remove(&view);
            return Ok(false);
        };
        self.drops.insert(view, TailDrop { through, next_key });
        Ok(true)
    }

    /// Makes everything applied durable, all families at once.
    pub fn flush(&mut self) -> Result<(), StoreError> {
        if self.applied_unwritten {
            let mut batch = WriteBatch::default();
            self.database.put_applied(&mut batch, self.applied);
            self.database.write(batch)?;
            self.applied_unwritten = false;
        }
        self.database.flush()?;
        self.flushed = self.database.flushed()?.frame;
        Ok(())
    }

    /// What readers are to see from now on: all that has been applied and promoted.
    pub fn publish(&mut self) -> Arc<ReadView> {
        let seen = read_view::Seen { range: self.range, applied: self.applied, next_due: self.next_due };
        Arc::new(ReadView::new(self.database.clone(), seen, self.views.clone()))
    }

    /// Adds rows of one frame to a batch; the earliest due time among those that are pending.
    fn stage_rows(
        &self,
        batch: &mut WriteBatch,
        step: &mut Step,
        rows: &[RowRecord],
        applied: Applied,
        now: Micros,
        policies: &dyn ViewPolicies,
    ) -> Result<Option<Micros>, StoreError> {
        let mut next_due = None;
        // Of each key the greatest visible row, and what its view's ttl is.
        let mut candidates: BTreeMap<Vec<u8>, (RowVersion, &RowRecord, Option<Micros>)> = BTreeMap::new();
        let (mut key_buffer, mut row_buffer) = (Vec::new(), Vec::new());
        for row in rows {
            let Some(policy) = policies.policy(row.tenant, row.view) else {
                step.report.unknown_view_rows += 1;
                continue;
            };
            let name = name_of(row);
            let version = row.version(applied.frame, applied.ingest_time);
            let visible = version.is_visible_at(now);
            let header = header_of(row, version, applied);
            row_buffer.clear();
            encode_row(&name, &header, &row.body, &mut row_buffer);
            if policy.offline && applied.frame > policy.landed {
                key_buffer.clear();
                TailKey { name, version }.encode(&mut key_buffer);
                batch.put_cf(self.database.tail(), &key_buffer, &row_buffer);
                step.report.tailed_rows += 1;
                let state = self.view_for(&mut step.views, row.tenant, row.view);
                state.tail_rows += 1;
                state.tail_bytes += (key_buffer.len() + row_buffer.len()) as u64;
            }
            if visible {
                self.view_for(&mut step.views, row.tenant, row.view).saw(version.event_time);
            }
            if !policy.online {
                continue;
            }
            key_buffer.clear();
            if !visible {
                let due = version.due_time();
                PendingKey { due, name, position: version.position }.encode(&mut key_buffer);
                batch.put_cf(self.database.pending(), &key_buffer, &row_buffer);
                step.report.pending_rows += 1;
                next_due = earlier(next_due, Some(due));
                continue;
            }
            name.encode(&mut key_buffer);
            match candidates.get_mut(&key_buffer) {
                Some(greatest) => {
                    step.report.late_rows += 1;
                    if version > greatest.0 {
                        *greatest = (version, row, policy.longest_ttl);
                    }
                }
                None => {
                    candidates.insert(key_buffer.clone(), (version, row, policy.longest_ttl));
                }
            }
        }
        let names: Vec<&[u8]> = candidates.keys().map(Vec::as_slice).collect();
        for ((name, (version, row, ttl)), current) in candidates.iter().zip(self.current_versions(&names)?) {
            match current {
                Current::Damaged => step.report.shadowed_rows += 1,
                Current::Row(current) if *version <= current => step.report.late_rows += 1,
                Current::None | Current::Row(_) => {
                    let mut header = header_of(row, *version, applied);
                    if header.kind == RowKind::Full && is_expired(version.event_time, now, *ttl) {
                        header.kind = RowKind::ExpiredStub;
                        step.report.expired_rows += 1;
                    }
                    let body: &[u8] = if header.kind == RowKind::Full { &row.body } else { &[] };
                    row_buffer.clear();
                    encode_row(&name_of(row), &header, body, &mut row_buffer);
                    batch.put_cf(self.database.latest(), name, &row_buffer);
                    step.report.current_rows += 1;
                }
            }
        }
        Ok(next_due)
    }

    /// The versions of the online rows under encoded names, which are sorted.
    fn current_versions(&self, names: &[&[u8]]) -> Result<Vec<Current>, StoreError> {
        let (database, options) = (&self.database, ReadOptions::default());
        let stored =
            database.rocksdb().batched_multi_get_cf_opt(database.latest(), names.iter().copied(), true, &options);
        let version_of = |(name, stored): (&&[u8], Result<Option<rocksdb::DBPinnableSlice<'_>>, rocksdb::Error>)| {
            let stored = match stored {
                Ok(Some(stored)) => stored,
                Ok(None) => return Ok(Current::None),
                Err(error) if error.kind() == rocksdb::ErrorKind::Corruption => return Ok(Current::Damaged),
                Err(error) => return Err(StoreError::of_rocksdb("reading current rows")(error)),
            };
            let name = OnlineKey::decode(name).ok_or_else(|| damaged_key("latest"))?;
            let row = RowRef::read(&name, &stored);
            Ok(row.map_or(Current::Damaged, |row| Current::Row(row.header().version)))
        };
        names.iter().zip(stored).map(version_of).collect()
    }

    /// The state of a view in a step: as it is, until the step changes it.
    fn view_for<'a>(
        &self,
        changed: &'a mut HashMap<ViewId, ViewState>,
        tenant: TenantId,
        view: ViewId,
    ) -> &'a mut ViewState {
        let current = || ViewState { tenant, newest_event_time: None, tail_rows: 0, tail_bytes: 0 };
        changed.entry(view).or_insert_with(|| self.views.get(&view).copied().unwrap_or_else(current))
    }

    fn put_views(&self, batch: &mut WriteBatch, changed: &HashMap<ViewId, ViewState>) {
        for (view, state) in changed {
            if self.views.get(view) != Some(state) {
                self.database.put_view(batch, *view, state);
            }
        }
    }

    fn take_views(&mut self, changed: HashMap<ViewId, ViewState>) {
        if !changed.is_empty() {
            Arc::make_mut(&mut self.views).extend(changed);
        }
    }

    fn scan(&self, family: &rocksdb::ColumnFamily, begin: &[u8]) -> Result<DBRawIterator<'_>, StoreError> {
        self.scan_until(family, begin, None)
    }

    /// The entries from `begin` until before `end`, without filling the cache.
    fn scan_until(
        &self,
        family: &rocksdb::ColumnFamily,
        begin: &[u8],
        end: Option<&[u8]>,
    ) -> Result<DBRawIterator<'_>, StoreError> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        if let Some(end) = end {
            options.set_iterate_upper_bound(end);
        }
        let mut entries = self.database.rocksdb().raw_iterator_cf_opt(family, options);
        entries.seek(begin);
        entries.status().map_err(StoreError::of_rocksdb("scanning"))?;
        Ok(entries)
    }
}

/// What applying a frame has done so far. Taken over only with the frame's last batch, so that a
/// frame which is applied again after a crash in its middle isn't counted twice.
struct Step {
    report: ApplyReport,
    views: HashMap<ViewId, ViewState>,
}

/// A row to become the online one of its key; without a version, it is damaged.
struct Candidate {
    version: Option<RowVersion>,
    stored: Vec<u8>,
}

impl Candidate {
    fn raise_to(&mut self, other: Self) {
        // Damage stays: what it hides can't be told.
        let greater = match (self.version, other.version) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(own), Some(others)) => others > own,
        };
        if greater {
            *self = other;
        }
    }
}

enum Current {
    None,
    Row(RowVersion),
    Damaged,
}

impl ViewState {
    fn saw(&mut self, event_time: Micros) {
        self.newest_event_time = self.newest_event_time.max(Some(event_time));
    }
}

fn name_of(row: &RowRecord) -> OnlineKey<'_> {
    OnlineKey { slot: row.slot, tenant: row.tenant, view: row.view, key: &row.key }
}

fn header_of(row: &RowRecord, version: RowVersion, applied: Applied) -> RowHeader {
    RowHeader {
        kind: if row.tombstone { RowKind::Tombstone } else { RowKind::Full },
        version,
        ingest_time: applied.ingest_time,
        revision: row.revision,
        feature_count: row.feature_count,
    }
}

/// How many of the rows, which are some, go into one batch.
fn chunk_length(rows: &[RowRecord]) -> usize {
    let mut bytes = 0;
    let fits = |row: &&RowRecord| {
        let room = bytes < CHUNK_BYTES;
        bytes += row.key.len() + row.body.len();
        room
    };
    rows.iter().take(CHUNK_ROWS).take_while(fits).count()
}

/// The due time of the pending row that the iterator is at.
fn due_at(pending: &mut DBRawIterator<'_>) -> Result<Option<Micros>, StoreError> {
    let Some(key) = pending.key() else {
        pending.status().map_err(StoreError::of_rocksdb("reading pending rows"))?;
        return Ok(None);
    };
    Ok(Some(PendingKey::decode(key).ok_or_else(|| damaged_key("pending"))?.due))
}

fn earlier(left: Option<Micros>, right: Option<Micros>) -> Option<Micros> {
    match (left, right) {
        (Some(left), Some(right)) => Some(left.min(right)),
        (left, right) => left.or(right),
    }
}

fn damaged_key(family: &'static str) -> StoreError {
    StoreError::damaged(family, "a key that is none")
}

/// What tests do to a store behind its back.
#[cfg(test)]
impl PartitionStore {
    pub(super) fn stored_row(&self, name: &[u8]) -> Vec<u8> {
        let stored = self.database.rocksdb().get_cf(self.database.latest(), name).expect("readable");
        stored.expect("there is a row")
    }

    pub(super) fn overwrite_row(&self, name: &[u8], tail_key: &[u8], stored: &[u8]) {
        let mut batch = WriteBatch::default();
        batch.put_cf(self.database.latest(), name, stored);
        if !tail_key.is_empty() {
            batch.put_cf(self.database.tail(), tail_key, stored);
        }
        self.database.write(batch).expect("written");
    }

    /// Flips a bit of the first pending row.
    pub(super) fn damage_first_pending(&self) {
        let (key, mut stored) = {
            let pending = self.scan(self.database.pending(), &[]).expect("readable");
            (pending.key().expect("a row").to_vec(), pending.value().expect("a row").to_vec())
        };
        let last = stored.len() - 1;
        stored[last] ^= 1;
        let mut batch = WriteBatch::default();
        batch.put_cf(self.database.pending(), key, stored);
        self.database.write(batch).expect("written");
    }

    /// As if the position had been lost in a crash, and nothing else.
    pub(super) fn forget_applied(&mut self, frame: u64) {
        self.applied.frame = frame;
    }
}
