//! The tails of all partitions as one: what history doesn't have yet, in its order. It reads what
//! partitions have lent, and holds on to that until it is dropped.

use std::sync::Arc;

use crate::history::{HistoryError, SoughtKeys};
use crate::names::{TenantId, ViewId};
use crate::partition::{ReadView, StoreError, TailRow, TailRows};

/// The rows of a view after frame `after_frame`, in history order. `partitions` ascend by their
/// slots. Reading blocks.
pub fn tail_rows(
    partitions: Arc<[Arc<ReadView>]>,
    tenant: TenantId,
    view: ViewId,
    after_frame: u64,
) -> impl Iterator<Item = Result<TailRow, HistoryError>> + Send + 'static {
    let rows = (0..partitions.len()).flat_map(move |number| partitions[number].tail(tenant, view, after_frame));
    rows.map(|row| row.map_err(|error| HistoryError::Tail(Box::new(error))))
}

/// Of the same rows those of some keys, sought one by one.
pub fn tail_rows_of(
    partitions: Arc<[Arc<ReadView>]>,
    tenant: TenantId,
    view: ViewId,
    after_frame: u64,
    keys: Arc<SoughtKeys>,
) -> impl Iterator<Item = Result<TailRow, HistoryError>> + Send + 'static {
    let rows = (0..partitions.len()).flat_map(move |number| {
        let tail = partitions[number].tail(tenant, view, after_frame);
        let range = keys.of_slots(tail.range());
        RowsOfKeys { tail, keys: keys.clone(), next: range.start, end: range.end, is_seeking: false }
    });
    rows.map(|row| row.map_err(|error| HistoryError::Tail(Box::new(error))))
}

/// One partition's rows of some keys, which ascend.
struct RowsOfKeys {
    tail: TailRows,
    keys: Arc<SoughtKeys>,
    next: usize,
    end: usize,
    /// Whether a key has been sought whose rows have not ended.
    is_seeking: bool,
}

impl Iterator for RowsOfKeys {
    type Item = Result<TailRow, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.is_seeking {
                match self.tail.next() {
                    Some(row) => return Some(row),
                    None => self.is_seeking = false,
                }
            }
            if self.next == self.end {
                return None;
            }
            let (slot, key) = self.keys.get(self.next);
            self.tail.seek_key(slot, key);
            self.next += 1;
            self.is_seeking = true;
        }
    }
}
