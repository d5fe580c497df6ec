//! The tails of all partitions as one: what history doesn't have yet, in its order. It reads what
//! partitions have lent, and holds on to that until it is dropped.

use std::sync::Arc;

use crate::history::HistoryError;
use crate::names::{TenantId, ViewId};
use crate::partition::{ReadView, TailRow};

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
