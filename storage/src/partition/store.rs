//! The writer of a partition, apart from how frames are applied: what falls due, expires or has
//! landed, what becomes durable, and what readers are lent. It reads no clock: every instant is
//! handed in.

use std::collections::{BTreeMap, HashMap};
use std::mem;
use std::path::Path;
use std::sync::Arc;

use rocksdb::{DBRawIterator, ReadOptions, WriteBatch};

use super::apply::Unfinished;
use super::database::{Database, SharedResources};
use super::{Applied, PartitionOptions, ReadView, StoreError, SweepReport, ViewPolicies, ViewState, read_view};
use crate::keys::{OnlineKey, PendingKey, SlotRange, TailKey, ordered_time, prefix_end};
use crate::names::{TenantId, ViewId};
use crate::order::{Micros, RowVersion, is_expired};
use crate::row::{RowHeader, RowKind, RowRef, encode_row};

/// One partition's store. It has one owner, which alone writes.
///
/// A damaged row of an online key stays where it is, whatever is written for that key after it:
/// whether it was the greatest can't be told, so the key reads as damaged until the store is rebuilt.
#[derive(Debug)]
pub struct PartitionStore {
    pub(super) database: Arc<Database>,
    pub(super) range: SlotRange,
    pub(super) applied: Applied,
    /// Whether `applied` is ahead of what was written: frames without rows here are not written one
    /// by one.
    pub(super) applied_unwritten: bool,
    /// The frame of which rows are written, and not all.
    pub(super) unfinished: Option<Unfinished>,
    /// The last position read back from disk.
    flushed: u64,
    pub(super) next_due: Option<Micros>,
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
        let unfinished = database.unfinished()?.map(Unfinished::found);
        let views = Arc::new(database.view_states()?.into_iter().collect());
        let mut store = Self {
            range,
            applied,
            applied_unwritten: false,
            unfinished,
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

    /// The frame of which some rows are written and others not yet: it has to be applied to its end
    /// before anything can be published. After a crash in its middle, too.
    pub fn unfinished_frame(&self) -> Option<u64> {
        self.unfinished.as_ref().map(Unfinished::frame)
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
        let mut changed = Vec::new();
        for ((name, candidate), current) in candidates.iter().zip(self.current_versions(&names)?) {
            let wins = match (current, candidate.version) {
                (Current::Damaged, _) => false,
                // It can't be told whether it would have been the greatest: the key is damaged.
                (_, None) => true,
                (Current::None, Some(_)) => true,
                (Current::Row(current, _), Some(version)) => version > current,
            };
            if wins {
                batch.put_cf(self.database.latest(), name, &candidate.stored);
                changed.push(name.as_slice());
            }
        }
        self.put_views(&mut batch, &views);
        self.changes_rows(changed.into_iter());
        self.database.write(batch)?;
        self.take_views(views);
        self.next_due = next_due;
        Ok(next_due.is_some_and(|due| due <= through))
    }

    /// Turns online rows that have expired under their view's longest ttl into stubs, and removes what is
    /// older than its retention: nothing later than it can be late against it and count. Looks at
    /// `limit` rows and goes on there the next time. What lies behind a damaged block is left as it
    /// is, and read as expired all the same: a block that can't be read is no reason to stop serving
    /// the others.
    pub fn sweep_expired(
        &mut self,
        now: Micros,
        policies: &dyn ViewPolicies,
        limit: usize,
    ) -> Result<SweepReport, StoreError> {
        let mut report = SweepReport::default();
        let mut batch = WriteBatch::default();
        let mut buffer = Vec::new();
        let mut changed: Vec<Vec<u8>> = Vec::new();
        let begin = mem::take(&mut self.sweep_from);
        let mut rows = match self.scan(self.database.latest(), &begin) {
            Err(error) if error.is_damage() => {
                return Ok(SweepReport { damaged_blocks: 1, finished: true, ..report });
            }
            rows => rows?,
        };
        while report.examined_rows < limit.max(1) {
            let (Some(stored_key), Some(stored)) = (rows.key(), rows.value()) else { break };
            report.examined_rows += 1;
            let name = OnlineKey::decode(stored_key).ok_or_else(|| damaged_key("latest"))?;
            match RowRef::read(&name, stored) {
                Err(_) => report.damaged_rows += 1,
                Ok(row) => {
                    let header = *row.header();
                    let policy = policies.policy(name.tenant, name.view);
                    let event_time = header.version.event_time;
                    let is_past = |age: Option<Micros>| is_expired(event_time, now, age);
                    if policy.and_then(|policy| policy.gone_before).is_some_and(|before| event_time < before) {
                        report.removed_rows += 1;
                        batch.delete_cf(self.database.latest(), stored_key);
                        changed.push(stored_key.to_vec());
                    } else if header.kind == RowKind::Full && is_past(policy.and_then(|policy| policy.longest_ttl)) {
                        report.expired_rows += 1;
                        buffer.clear();
                        let stub = RowHeader { kind: RowKind::ExpiredStub, ..header };
                        encode_row(&name, &stub, &[], &mut buffer);
                        batch.put_cf(self.database.latest(), stored_key, &buffer);
                        changed.push(stored_key.to_vec());
                    }
                }
            }
            rows.next();
        }
        let mut next = rows.key().map(<[u8]>::to_vec);
        match rows.status().map_err(StoreError::of_rocksdb("sweeping")) {
            Err(error) if error.is_damage() => {
                report.damaged_blocks += 1;
                next = None;
            }
            status => status?,
        }
        drop(rows);
        if !batch.is_empty() {
            self.changes_rows(changed.iter().map(Vec::as_slice));
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

    /// What readers are to see from now on: all that has been applied and promoted. `None` in the
    /// middle of a frame, since a frame is seen whole or not at all; views published before it stay
    /// as they are.
    pub fn publish(&mut self) -> Option<Arc<ReadView>> {
        if self.unfinished.is_some() {
            return None;
        }
        let seen = read_view::Seen { range: self.range, applied: self.applied, next_due: self.next_due };
        Some(Arc::new(ReadView::new(self.database.clone(), seen, self.views.clone())))
    }

    /// Before a batch is written that changes the online rows under these encoded names. Gives the
    /// change's version.
    pub(super) fn changes_rows<'a>(&self, names: impl Iterator<Item = &'a [u8]>) -> u64 {
        self.database.row_cache().change(names.filter_map(OnlineKey::decode))
    }

    /// The versions of the online rows under encoded names, which are sorted.
    pub(super) fn current_versions(&self, names: &[&[u8]]) -> Result<Vec<Current>, StoreError> {
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
            Ok(row.map_or(Current::Damaged, |row| Current::Row(row.header().version, row.header().kind)))
        };
        names.iter().zip(stored).map(version_of).collect()
    }

    /// The state of a view in a step: as it is, until the step changes it.
    pub(super) fn view_for<'a>(
        &self,
        changed: &'a mut HashMap<ViewId, ViewState>,
        tenant: TenantId,
        view: ViewId,
    ) -> &'a mut ViewState {
        let current = || ViewState { tenant, newest_event_time: None, tail_rows: 0, tail_bytes: 0 };
        changed.entry(view).or_insert_with(|| self.views.get(&view).copied().unwrap_or_else(current))
    }

    pub(super) fn put_views(&self, batch: &mut WriteBatch, changed: &HashMap<ViewId, ViewState>) {
        for (view, state) in changed {
            if self.views.get(view) != Some(state) {
                self.database.put_view(batch, *view, state);
            }
        }
    }

    pub(super) fn take_views(&mut self, changed: HashMap<ViewId, ViewState>) {
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

pub(super) enum Current {
    None,
    Row(RowVersion, RowKind),
    Damaged,
}

/// The due time of the pending row that the iterator is at.
fn due_at(pending: &mut DBRawIterator<'_>) -> Result<Option<Micros>, StoreError> {
    let Some(key) = pending.key() else {
        pending.status().map_err(StoreError::of_rocksdb("reading pending rows"))?;
        return Ok(None);
    };
    Ok(Some(PendingKey::decode(key).ok_or_else(|| damaged_key("pending"))?.due))
}

pub(super) fn earlier(left: Option<Micros>, right: Option<Micros>) -> Option<Micros> {
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
        self.changes_rows([name].into_iter());
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
