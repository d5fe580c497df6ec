//! What readers of a partition see: one instant of its store, which neither writing nor closing
//! changes under them.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::{DB, ReadOptions, ReadTier, Snapshot};

use super::database::Database;
use super::tail::TailRows;
use super::{Applied, StoreError, ViewState};
use crate::keys::{OnlineKey, SlotRange};
use crate::names::{TenantId, ViewId};
use crate::order::Micros;
use crate::row::OwnedRow;

/// Whether a read may wait for the disk. On threads that must not block, read what is cached, and
/// hand the keys that were not to a thread that may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadMode {
    CachedOnly,
    MayBlock,
}

/// What a lookup found under a key.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// The greatest row visible when the view was published: full, a tombstone or an expired stub.
    Row(OwnedRow),
    Absent,
    /// There is something, and it isn't what was written.
    Damaged,
    /// Only with [`ReadMode::CachedOnly`]: it takes a read from disk to tell.
    NotCached,
    /// The disk failed, or the key is of another partition.
    Unreadable(StoreError),
}

/// An immutable view of a partition. It is cheap to hold for the length of a request; held for long
/// it keeps old rows on disk, and a store can't be reopened before its last view is gone.
pub struct ReadView {
    // Fields are dropped in this order: the snapshot before the database that it is of.
    snapshot: Snapshot<'static>,
    database: Arc<Database>,
    seen: Seen,
    views: Arc<HashMap<ViewId, ViewState>>,
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
        Self { snapshot: rocksdb.snapshot(), database, seen, views }
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
        let names: Vec<Vec<u8>> = keys.iter().map(encoded).collect();
        let mut order: Vec<usize> = (0..keys.len()).collect();
        order.sort_unstable_by(|left, right| names[*left].cmp(&names[*right]));
        let sorted = order.iter().map(|index| names[*index].as_slice());
        let (rocksdb, latest, mut options) = (self.database.rocksdb(), self.database.latest(), self.read_options());
        let stored = match mode {
            ReadMode::MayBlock => rocksdb.batched_multi_get_cf_opt(latest, sorted, true, &options),
            // One by one: RocksDB's batched reads go to the disk whatever the read tier says.
            ReadMode::CachedOnly => {
                options.set_read_tier(ReadTier::BlockCache);
                sorted.map(|name| rocksdb.get_pinned_cf_opt(latest, name, &options)).collect()
            }
        };
        let mut answers: Vec<Lookup> = Vec::new();
        answers.resize_with(keys.len(), || Lookup::Absent);
        for (index, stored) in order.into_iter().zip(stored) {
            answers[index] = self.answer(&keys[index], stored);
        }
        answers
    }

    /// The rows of a view that are not known to have landed, of frames after `after_frame`, in
    /// history order: by slot, key, event time, known time and position.
    pub fn tail(self: &Arc<Self>, tenant: TenantId, view: ViewId, after_frame: u64) -> TailRows {
        TailRows::new(self.clone(), tenant, view, after_frame)
    }

    pub(super) fn database(&self) -> &Database {
        &self.database
    }

    pub(super) fn read_options(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.snapshot);
        options
    }

    fn answer(
        &self,
        key: &OnlineKey<'_>,
        stored: Result<Option<rocksdb::DBPinnableSlice<'_>>, rocksdb::Error>,
    ) -> Lookup {
        let range = self.seen.range;
        if !range.contains(key.slot) {
            return Lookup::Unreadable(StoreError::ForeignSlot { slot: key.slot, range });
        }
        match stored {
            Ok(None) => Lookup::Absent,
            Ok(Some(stored)) => {
                OwnedRow::read(key, &Bytes::copy_from_slice(&stored)).map_or(Lookup::Damaged, Lookup::Row)
            }
            Err(error) => match error.kind() {
                rocksdb::ErrorKind::Incomplete => Lookup::NotCached,
                rocksdb::ErrorKind::Corruption => Lookup::Damaged,
                _ => Lookup::Unreadable(StoreError::of_rocksdb("looking up rows")(error)),
            },
        }
    }
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
