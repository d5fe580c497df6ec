//! The tail of a view as a sorted run: rows that partitions hold and history doesn't have yet, put
//! into columns. It takes rows in the order given and leaves out only frames that are out of bounds.

use std::ops::RangeInclusive;
use std::sync::Arc;

use arrow_array::builder::BinaryBuilder;
use arrow_buffer::BooleanBufferBuilder;

use crate::history::{HistoryError, Run, RunBatch};
use crate::order::Position;
use crate::partition::TailRow;
use crate::row::{Cell, ColumnBuilder, RowKind, RowLayout};

/// The rows and bytes of a batch at most; a longer row is a batch of its own.
const BATCH_ROWS: usize = 4 * 1024;
const BATCH_BYTES: usize = 4 << 20;

/// The rows of a view's tail: of one partition, or of several one after the other in slot order.
pub struct TailRun<I> {
    rows: I,
    layout: Arc<RowLayout>,
    projection: Vec<usize>,
    frames: RangeInclusive<u64>,
}

impl<I: Iterator<Item = Result<TailRow, HistoryError>> + Send> TailRun<I> {
    /// `rows` come in history order. `projection` has indices into the layout, and only rows of the
    /// given frames are taken.
    pub fn new(rows: I, layout: Arc<RowLayout>, projection: Vec<usize>, frames: RangeInclusive<u64>) -> Self {
        Self { rows, layout, projection, frames }
    }

    fn push_cells(&self, tail: &TailRow, features: &mut [ColumnBuilder]) -> Result<(), HistoryError> {
        let row = &tail.row;
        for (index, column) in self.projection.iter().zip(features) {
            let cell = match row.header().kind {
                RowKind::Full => row.cell(&self.layout, *index).map_err(|error| HistoryError::Tail(error.into()))?,
                RowKind::Tombstone | RowKind::ExpiredStub => Cell::Null,
            };
            column.push(cell).map_err(|error| HistoryError::Tail(error.into()))?;
        }
        Ok(())
    }
}

impl<I: Iterator<Item = Result<TailRow, HistoryError>> + Send> Run for TailRun<I> {
    fn next(&mut self) -> Result<Option<Arc<RunBatch>>, HistoryError> {
        let types = self.layout.types();
        let mut features: Vec<ColumnBuilder> =
            self.projection.iter().map(|index| ColumnBuilder::new(types[*index], 0)).collect();
        let (mut slots, mut keys, mut deleted) = (Vec::new(), BinaryBuilder::new(), BooleanBufferBuilder::new(0));
        let (mut event_times, mut known_times, mut ingest_times) = (Vec::new(), Vec::new(), Vec::new());
        let (mut frames, mut ordinals) = (Vec::new(), Vec::new());
        let (mut revisions, mut feature_counts) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        while slots.len() < BATCH_ROWS && bytes < BATCH_BYTES {
            let Some(tail) = self.rows.next().transpose()? else { break };
            let header = *tail.row.header();
            let Position { frame, ordinal } = header.version.position;
            if !self.frames.contains(&frame) {
                continue;
            }
            self.push_cells(&tail, &mut features)?;
            slots.push(tail.slot);
            keys.append_value(&tail.key);
            event_times.push(header.version.event_time);
            known_times.push(header.version.known_time);
            ingest_times.push(header.ingest_time);
            frames.push(frame);
            ordinals.push(ordinal);
            revisions.push(header.revision);
            feature_counts.push(header.feature_count);
            deleted.append(header.kind == RowKind::Tombstone);
            bytes += tail.key.len() + tail.row.body().len();
        }
        if slots.is_empty() {
            return Ok(None);
        }
        Ok(Some(Arc::new(RunBatch {
            slots: slots.into(),
            keys: keys.finish(),
            event_times: event_times.into(),
            known_times: known_times.into(),
            ingest_times: ingest_times.into(),
            frames: frames.into(),
            ordinals: ordinals.into(),
            revisions: revisions.into(),
            feature_counts: feature_counts.into(),
            deleted: deleted.finish(),
            features: features.into_iter().map(ColumnBuilder::finish).collect(),
        })))
    }
}
