//! The rows of a view that are not in history yet, in history's order: what joins read beside the
//! table, and what landing writes into it.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::DBRawIterator;

use super::{ReadView, StoreError};
use crate::keys::{OnlineKey, SlotRange, TailKey, prefix_end};
use crate::names::{TenantId, ViewId};
use crate::row::{OwnedRow, RowRef};

/// A row of the tail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TailRow {
    pub slot: u16,
    /// The encoded entity key.
    pub key: Bytes,
    pub row: OwnedRow,
}

/// A row of the tail, borrowed until the next one is asked for.
#[derive(Clone, Copy, Debug)]
pub struct TailRowRef<'a> {
    pub slot: u16,
    /// The encoded entity key.
    pub key: &'a [u8],
    pub row: RowRef<'a>,
}

/// Walks a view's tail. It blocks on the disk. A damaged row is an error that names it and ends the
/// walk: a training set without it would be wrong.
pub struct TailRows {
    // Fields are dropped in this order: the iterator before the view that holds its database and
    // snapshot.
    rows: DBRawIterator<'static>,
    view: Arc<ReadView>,
    tenant: TenantId,
    view_id: ViewId,
    after_frame: u64,
    place: Place,
    /// With what the entries begin that are handed out, if not all of the view are.
    sought: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// At an entry that has not been handed out.
    AtNext,
    /// At the entry that was handed out last.
    AtLast,
    Ended,
}

impl TailRows {
    pub(super) fn new(view: Arc<ReadView>, tenant: TenantId, view_id: ViewId, after_frame: u64) -> Self {
        let mut begin = Vec::new();
        TailKey::encode_view(tenant, view_id, &mut begin);
        let mut options = view.read_options();
        // Training must not push serving's blocks out of the cache.
        options.fill_cache(false);
        if let Some(end) = prefix_end(&begin) {
            options.set_iterate_upper_bound(end);
        }
        let rows = view.database().rocksdb().raw_iterator_cf_opt(view.database().tail(), options);
        // SAFETY: only the lifetime changes. The iterator uses the database and the snapshot of
        // `view`, both of which live in the heap allocation of an Arc that this struct holds for as
        // long as the iterator: it is declared, and so dropped, before the Arc. The snapshot named
        // in the options is that of `view`.
        let mut rows = unsafe { std::mem::transmute::<DBRawIterator<'_>, DBRawIterator<'static>>(rows) };
        rows.seek(begin);
        Self { rows, view, tenant, view_id, after_frame, place: Place::AtNext, sought: None }
    }

    /// The slots that there may be rows of.
    pub fn range(&self) -> SlotRange {
        self.view.range()
    }

    /// Goes to the rows of a key, and to no others: after its last the walk ends, until the next key
    /// is sought.
    pub fn seek_key(&mut self, slot: u16, key: &[u8]) {
        let mut target = self.sought.take().unwrap_or_default();
        target.clear();
        TailKey::encode_seek(&OnlineKey { slot, tenant: self.tenant, view: self.view_id, key }, &mut target);
        self.rows.seek(&target);
        self.sought = Some(target);
        self.place = Place::AtNext;
    }

    /// The next row, without a copy of it.
    pub fn advance(&mut self) -> Result<Option<TailRowRef<'_>>, StoreError> {
        let applied = self.view.applied().frame;
        loop {
            match self.place {
                Place::Ended => return Ok(None),
                Place::AtLast => self.rows.next(),
                Place::AtNext => {}
            }
            // Whatever goes wrong below ends the walk.
            self.place = Place::Ended;
            let Some(stored_key) = self.rows.key() else {
                self.rows.status().map_err(StoreError::of_rocksdb("reading the tail"))?;
                return Ok(None);
            };
            // No key is a prefix of another.
            if self.sought.as_ref().is_some_and(|sought| !stored_key.starts_with(sought)) {
                return Ok(None);
            }
            let Some(key) = TailKey::decode(stored_key) else {
                return Err(StoreError::damaged("tail", "a key that is none"));
            };
            self.place = Place::AtLast;
            let frame = key.version.position.frame;
            // Of a frame that is being applied, rows may be there before the frame counts.
            if frame > self.after_frame && frame <= applied {
                break;
            }
        }
        match self.read_entry() {
            Ok(row) => Ok(Some(row)),
            Err(reason) => Err(self.damaged(reason)),
        }
    }

    /// Reads the entry that the iterator is at.
    fn read_entry(&self) -> Result<TailRowRef<'_>, &'static str> {
        let (Some(stored_key), Some(stored)) = (self.rows.key(), self.rows.value()) else {
            return Err("no row under its key");
        };
        let key = TailKey::decode(stored_key).ok_or("a key that is none")?;
        if !self.view.range().contains(key.name.slot) {
            return Err("a row of another partition");
        }
        let row = RowRef::read(&key.name, stored).map_err(|damaged| damaged.reason)?;
        if row.header().version != key.version {
            return Err("a row under another row's key");
        }
        Ok(TailRowRef { slot: key.name.slot, key: key.name.key, row })
    }

    fn damaged(&self, reason: &'static str) -> StoreError {
        let place = self.rows.key().and_then(TailKey::decode).map_or_else(String::new, |key| {
            format!(" (slot {}, key {}, position {})", key.name.slot, key.name.key.escape_ascii(), key.version.position)
        });
        let (tenant, view) = (self.tenant.0, self.view_id.0);
        StoreError::damaged("tail", format!("{reason}, in view {view} of tenant {tenant}{place}"))
    }
}

impl Iterator for TailRows {
    type Item = Result<TailRow, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance().transpose()?.map(|next| TailRow {
            slot: next.slot,
            key: Bytes::copy_from_slice(next.key),
            row: OwnedRow::new(*next.row.header(), Bytes::copy_from_slice(next.row.body())),
        });
        if next.is_err() {
            self.place = Place::Ended;
        }
        Some(next)
    }
}

impl fmt::Debug for TailRows {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TailRows")
            .field("view", &self.view_id)
            .field("after_frame", &self.after_frame)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}
