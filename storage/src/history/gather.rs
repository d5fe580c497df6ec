//! Several runs as one: the rows of a merge put together into batches again. It leaves none out,
//! changes none, and holds a bounded number of the batches that they come from.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef};
use arrow_buffer::ScalarBuffer;
use arrow_select::interleave::interleave;

use crate::history::{HistoryError, MergedRuns, Run, RunBatch};

/// The rows of a batch at most, its bytes about, and the batches that they come from. Files are cut
/// where a batch ends, and tests want many.
pub(super) const BATCH_ROWS: usize = if cfg!(test) { 16 } else { 8 * 1024 };
const BATCH_BYTES: usize = 1 << 20;
const BATCH_SOURCES: usize = 64;

/// The rows of merged runs, as a run.
pub(crate) struct GatheredRun {
    merged: MergedRuns,
}

impl GatheredRun {
    pub fn new(merged: MergedRuns) -> Self {
        Self { merged }
    }
}

impl Run for GatheredRun {
    fn next(&mut self) -> Result<Option<Arc<RunBatch>>, HistoryError> {
        let mut sources: Vec<(Arc<RunBatch>, usize)> = Vec::new();
        let (mut rows, mut bytes): (Vec<(usize, usize)>, usize) = (Vec::new(), 0);
        while rows.len() < BATCH_ROWS && bytes < BATCH_BYTES && sources.len() < BATCH_SOURCES {
            let Some(row) = self.merged.peek() else { break };
            // Few runs are merged, and their batches are at the end of the list.
            let known = sources.iter().rposition(|(source, _)| Arc::ptr_eq(source, &row.batch));
            let source = known.unwrap_or_else(|| {
                sources.push((row.batch.clone(), row.batch.row_bytes()));
                sources.len() - 1
            });
            rows.push((source, row.index));
            bytes += sources[source].1;
            self.merged.advance()?;
        }
        let sources: Vec<Arc<RunBatch>> = sources.into_iter().map(|(source, _)| source).collect();
        if rows.is_empty() { Ok(None) } else { gather(&sources, &rows).map(|batch| Some(Arc::new(batch))) }
    }
}

/// The rows, each given by its batch and its place there. There is at least one.
pub(super) fn gather(sources: &[Arc<RunBatch>], rows: &[(usize, usize)]) -> Result<RunBatch, HistoryError> {
    fn values<T: arrow_buffer::ArrowNativeType>(
        sources: &[Arc<RunBatch>],
        rows: &[(usize, usize)],
        column: impl Fn(&RunBatch) -> &ScalarBuffer<T>,
    ) -> ScalarBuffer<T> {
        let columns: Vec<&ScalarBuffer<T>> = sources.iter().map(|source| column(source)).collect();
        rows.iter().map(|(source, index)| columns[*source][*index]).collect()
    }
    let arrays = |column: &dyn Fn(&RunBatch) -> ArrayRef| -> Result<ArrayRef, HistoryError> {
        let columns: Vec<ArrayRef> = sources.iter().map(|source| column(source)).collect();
        let columns: Vec<&dyn Array> = columns.iter().map(AsRef::as_ref).collect();
        Ok(interleave(&columns, rows)?)
    };
    let keys = arrays(&|batch| Arc::new(batch.keys.clone()))?;
    let features = (0..sources[0].features.len()).map(|feature| arrays(&|batch| batch.features[feature].clone()));
    Ok(RunBatch {
        slots: values(sources, rows, |batch| &batch.slots),
        keys: arrow_array::cast::AsArray::as_binary(&keys).clone(),
        event_times: values(sources, rows, |batch| &batch.event_times),
        known_times: values(sources, rows, |batch| &batch.known_times),
        ingest_times: values(sources, rows, |batch| &batch.ingest_times),
        frames: values(sources, rows, |batch| &batch.frames),
        ordinals: values(sources, rows, |batch| &batch.ordinals),
        revisions: values(sources, rows, |batch| &batch.revisions),
        feature_counts: values(sources, rows, |batch| &batch.feature_counts),
        deleted: rows.iter().map(|(source, index)| sources[*source].deleted.value(*index)).collect(),
        features: features.collect::<Result<_, _>>()?,
    })
}
