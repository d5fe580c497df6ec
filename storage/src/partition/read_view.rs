//! What readers of a partition see: one instant of its store, which neither writing nor closing
//! changes under them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rocksdb::{DB, Direction, IteratorMode, ReadOptions, ReadTier, Snapshot};

use super::database::Database;
use super::row_cache::{Known, ViewVersion};
use super::tail::TailRows;
use super::{Applied, StoreError, ViewState};
use crate::keys::{OnlineKey, SlotRange, prefix_end};
use crate::names::{TenantId, ViewId};
use crate::order::{Micros, RowVersion};
use crate::row::{OwnedRow, RowKind, RowRef};

/// Whether a read may wait for the disk. On threads that must not block, read what is cached, and
/// hand the keys that were not to a thread that may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadMode {
    CachedOnly,
    MayBlock,
}

/// What of the rows read stays in memory for those who follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    Rows,
    Nothing,
}

/// What a lookup found under a key.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// The greatest row visible when the view was published: full, a tombstone or an expired stub.
    Row(Arc<OwnedRow>),
    Absent,
    /// There is something, and it isn't what was written.
    Damaged,
    /// Only with [`ReadMode::CachedOnly`]: it takes a read from disk to tell.
    NotCached,
    /// The disk failed, or the key is of another partition.
    Unreadable(StoreError),
}

/// A key of which only the header of its row is online, since the row had expired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stub {
    pub slot: u16,
    pub key: Vec<u8>,
    pub version: RowVersion,
}

/// An immutable view of a partition. It is cheap to hold for the length of a request; held for long
/// it keeps old rows on disk, and a store can't be reopened before its last view is gone.
pub struct ReadView {
    // Fields are dropped in this order: what reads at the snapshot, the snapshot, and then the
    // database that it is of.
    cached_only: ReadOptions,
    may_block: ReadOptions,
    snapshot: Snapshot<'static>,
    database: Arc<Database>,
    seen: Seen,
    views: Arc<HashMap<ViewId, ViewState>>,
    /// For the row cache: which changes of rows the view sees.
    in_cache: ViewVersion,
}

/// What a view knows of its store as a whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub range: SlotRange,
    pub applied: Applied,
    pub next_due: Option<Micros>,
}

impl ReadView {
    pub(super) fn new(database: Arc<Database>, seen: Seen, views: Arc<HashMap<ViewId, ViewState>>) -> Self {
        let rocksdb: *const DB = database.rocksdb();
        // SAFETY: `rocksdb` points into the heap allocation of `database`, which neither moves nor
        // is freed before the view's Arc of it is dropped; that is after the snapshot, since fields
        // are dropped in the order of their declaration, and neither is ever replaced or handed out
        // by value. RocksDB allows snapshots of one database to be taken and read by any thread.
        let rocksdb: &'static DB = unsafe { &*rocksdb };
        let snapshot = rocksdb.snapshot();
        let (mut cached_only, may_block) = (reading_at(&snapshot), reading_at(&snapshot));
        cached_only.set_read_tier(ReadTier::BlockCache);
        // Rows that change from now on are not of this view.
        let version = database.row_cache().next_version();
        let in_cache = ViewVersion { version, opened: database.opened() };
        Self { cached_only, may_block, snapshot, database, seen, views, in_cache }
    }

    pub fn range(&self) -> SlotRange {
        self.seen.range
    }

    /// The last frame that the view shows.
    pub fn applied(&self) -> Applied {
        self.seen.applied
    }

    /// When the next row falls due that the view doesn't show; a read at or after it needs a later
    /// view.
    pub fn next_due(&self) -> Option<Micros> {
        self.seen.next_due
    }

    /// Puts what is on disk of the store into a directory that is not there yet, as links where the file
    /// system can and as copies elsewhere: what a store would be opened with if the process died now,
    /// which may be older or newer than the view. Writes nothing to the store and flushes nothing, so it
    /// may be called by anybody at any time. It blocks, and syncs no copy.
    pub fn checkpoint(&self, directory: &Path) -> Result<(), StoreError> {
        self.database.checkpoint(directory)
    }

    /// Where the store lies.
    pub fn directory(&self) -> PathBuf {
        self.database.directory()
    }

    /// The greatest event time among the view's rows that were visible.
    pub fn newest_event_time(&self, view: ViewId) -> Option<Micros> {
        self.views.get(&view)?.newest_event_time
    }

    /// `None`: no row of the view was ever applied here.
    pub fn view_state(&self, view: ViewId) -> Option<ViewState> {
        self.views.get(&view).copied()
    }

    /// The states of all views that have ever had rows here, in no order.
    pub fn view_states(&self) -> impl Iterator<Item = (ViewId, ViewState)> {
        self.views.iter().map(|(view, state)| (*view, *state))
    }

    /// Looks up keys; the answers are in the order of the keys. No error concerns more than its key.
    pub fn lookup(&self, keys: &[OnlineKey<'_>], mode: ReadMode) -> Vec<Lookup> {
        self.look_up(keys, mode, Keep::Rows)
    }

    /// The same, without leaving anything in memory: for keys by the million, which would otherwise
    /// take the place of those that are asked for again and again.
    pub fn lookup_in_passing(&self, keys: &[OnlineKey<'_>], mode: ReadMode) -> Vec<Lookup> {
        self.look_up(keys, mode, Keep::Nothing)
    }

    fn look_up(&self, keys: &[OnlineKey<'_>], mode: ReadMode, keep: Keep) -> Vec<Lookup> {
        let (rows, range) = (self.database.row_cache(), self.seen.range);
        let mut unknown = Vec::new();
        let mut answers = Vec::with_capacity(keys.len());
        rows.get_each(keys, self.in_cache, |index, known| {
            let slot = keys[index].slot;
            answers.push(match known {
                // Never read: that it isn't here says nothing.
                _ if !range.contains(slot) => Lookup::Unreadable(StoreError::ForeignSlot { slot, range }),
                Some(known) => {
                    known.iter().for_each(|row| row.soon_read());
                    Lookup::of(known)
                }
                None => {
                    unknown.push(index);
                    Lookup::NotCached
                }
            });
        });
        // A key that moved to a thread which may block has been counted.
        if mode == ReadMode::CachedOnly && keep == Keep::Rows {
            rows.count(keys.len() - unknown.len(), unknown.len());
        }
        if unknown.is_empty() {
            return answers;
        }
        match mode {
            ReadMode::MayBlock => self.read_together(keys, &unknown, keep, &mut answers),
            ReadMode::CachedOnly => self.read_cached(keys, &unknown, keep, &mut answers),
        }
        answers
    }

    /// Reads what RocksDB has in memory. One by one: its batched reads go to the disk whatever the
    /// read tier says.
    fn read_cached(&self, keys: &[OnlineKey<'_>], unknown: &[usize], keep: Keep, answers: &mut [Lookup]) {
        let (rocksdb, latest) = (self.database.rocksdb(), self.database.latest());
        let mut name = Vec::with_capacity(64);
        for index in unknown {
            let key = &keys[*index];
            name.clear();
            key.encode(&mut name);
            answers[*index] = self.answer(key, rocksdb.get_pinned_cf_opt(latest, &name, &self.cached_only), keep);
        }
    }

    fn read_together(&self, keys: &[OnlineKey<'_>], unknown: &[usize], keep: Keep, answers: &mut [Lookup]) {
        let mut in_passing = None;
        let options = match keep {
            Keep::Rows => &self.may_block,
            Keep::Nothing => {
                let options = in_passing.insert(self.read_options());
                options.fill_cache(false);
                options
            }
        };
        let mut names: Vec<(Vec<u8>, usize)> = unknown.iter().map(|index| (encoded(&keys[*index]), *index)).collect();
        names.sort_unstable();
        let (rocksdb, latest) = (self.database.rocksdb(), self.database.latest());
        let sorted = names.iter().map(|(name, _)| name.as_slice());
        let stored = rocksdb.batched_multi_get_cf_opt(latest, sorted, true, options);
        for ((_, index), stored) in names.iter().zip(stored) {
            answers[*index] = self.answer(&keys[*index], stored, keep);
        }
    }

    /// Keys of a view whose online row is an expired stub of which `wanted` says so, in order of slot and key,
    /// `limit` at most: those after a place, or from the first on. It blocks, and leaves nothing in memory.
    /// What is damaged is no stub.
    pub fn stubs(
        &self,
        (tenant, view): (TenantId, ViewId),
        after: Option<&Stub>,
        limit: usize,
        wanted: impl Fn(&RowVersion) -> bool,
    ) -> Result<Vec<Stub>, StoreError> {
        let mut stubs = Vec::new();
        let (mut begin, mut prefix) = (Vec::new(), Vec::new());
        for slot in after.map_or(self.seen.range.first, |after| after.slot)..=self.seen.range.last {
            prefix.clear();
            OnlineKey { slot, tenant, view, key: &[] }.encode(&mut prefix);
            begin.clone_from(&prefix);
            if let Some(after) = after.filter(|after| after.slot == slot) {
                begin.extend_from_slice(&after.key);
            }
            let mut options = self.read_options();
            options.fill_cache(false);
            if let Some(end) = prefix_end(&prefix) {
                options.set_iterate_upper_bound(end);
            }
            let mut rows = self.database.rocksdb().raw_iterator_cf_opt(self.database.latest(), options);
            rows.seek(&begin);
            while let (Some(stored_key), Some(stored)) = (rows.key(), rows.value()) {
                let name = OnlineKey::decode(stored_key);
                let name = name.ok_or_else(|| StoreError::damaged("latest", "a key that is none"))?;
                let is_after = after.is_none_or(|after| (name.slot, name.key) > (after.slot, after.key.as_slice()));
                if let Ok(row) = RowRef::read(&name, stored)
                    && is_after
                    && row.header().kind == RowKind::ExpiredStub
                    && wanted(&row.header().version)
                {
                    stubs.push(Stub { slot, key: name.key.to_vec(), version: row.header().version });
                    if stubs.len() >= limit {
                        return Ok(stubs);
                    }
                }
                rows.next();
            }
            rows.status().map_err(StoreError::of_rocksdb("looking for stubs"))?;
        }
        Ok(stubs)
    }

    /// The rows of a view that are not known to have landed, of frames after `after_frame`, in
    /// history order: by slot, key, event time, known time and position.
    pub fn tail(self: &Arc<Self>, tenant: TenantId, view: ViewId, after_frame: u64) -> TailRows {
        TailRows::new(self.clone(), tenant, view, after_frame)
    }

    /// Bytes that the store's newest rows take on disk, about: of rows that may be read online, and of those
    /// that are still to come. What lies in memory only is not among them.
    pub fn online_bytes(&self) -> u64 {
        let (rocksdb, families) = (self.database.rocksdb(), [self.database.latest(), self.database.pending()]);
        let estimated = families.map(|family| {
            // A store that can't tell is one that nothing is known of.
            rocksdb.property_int_value_cf(family, rocksdb::properties::ESTIMATE_LIVE_DATA_SIZE).ok().flatten()
        });
        estimated.into_iter().flatten().sum()
    }

    /// Whose the rows are that may be read online, by a sample: for each tenant the bytes of at most
    /// `rows` rows from each of these slots on. It leaves nothing in memory. Blocks.
    pub fn sample(&self, slots: &[u16], rows: usize) -> Result<BTreeMap<TenantId, u64>, StoreError> {
        let mut found = BTreeMap::new();
        for slot in slots.iter().filter(|slot| self.seen.range.contains(**slot)) {
            let mut options = self.read_options();
            options.fill_cache(false);
            let first = OnlineKey { slot: *slot, tenant: TenantId(0), view: ViewId(0), key: &[] }.prefix();
            let from = IteratorMode::From(&first, Direction::Forward);
            for row in self.database.rocksdb().iterator_cf_opt(self.database.latest(), options, from).take(rows) {
                let (key, value) = row.map_err(StoreError::of_rocksdb("sampling rows"))?;
                if let Some(key) = OnlineKey::decode(&key) {
                    *found.entry(key.tenant).or_default() += (key.key.len() + value.len()) as u64;
                }
            }
        }
        Ok(found)
    }

    /// The oldest instant of the store that anybody still reads at, and this view's own.
    pub(super) fn oldest_instant_and_own(&self) -> Result<(u64, u64), StoreError> {
        let oldest = self.database.rocksdb().property_int_value("rocksdb.oldest-snapshot-sequence");
        let oldest = oldest.map_err(StoreError::of_rocksdb("asking for the oldest snapshot"))?;
        // What isn't told is taken for the oldest.
        Ok((oldest.unwrap_or(0), self.snapshot.sequence_number()))
    }

    pub(super) fn database(&self) -> &Database {
        &self.database
    }

    pub(super) fn read_options(&self) -> ReadOptions {
        reading_at(&self.snapshot)
    }

    fn answer(
        &self,
        key: &OnlineKey<'_>,
        stored: Result<Option<rocksdb::DBPinnableSlice<'_>>, rocksdb::Error>,
        keep: Keep,
    ) -> Lookup {
        let known = match stored {
            Ok(None) => None,
            Ok(Some(stored)) => match OwnedRow::read(key, &stored) {
                Ok(row) => Some(Arc::new(row)),
                Err(_) => return Lookup::Damaged,
            },
            Err(error) => {
                return match error.kind() {
                    rocksdb::ErrorKind::Incomplete => Lookup::NotCached,
                    rocksdb::ErrorKind::Corruption => Lookup::Damaged,
                    _ => Lookup::Unreadable(StoreError::of_rocksdb("looking up rows")(error)),
                };
            }
        };
        if keep == Keep::Rows {
            self.database.row_cache().put(key, &known, self.in_cache);
        }
        Lookup::of(known)
    }
}

impl Lookup {
    fn of(known: Known) -> Self {
        known.map_or(Self::Absent, Self::Row)
    }
}

fn reading_at(snapshot: &Snapshot<'_>) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_snapshot(snapshot);
    options
}

impl fmt::Debug for ReadView {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ReadView").field("database", &self.database).field("seen", &self.seen).finish()
    }
}

fn encoded(key: &OnlineKey<'_>) -> Vec<u8> {
    let mut name = Vec::with_capacity(crate::keys::ONLINE_PREFIX_LENGTH + key.key.len());
    key.encode(&mut name);
    name
}
