//! Carries a plan out over a whole spine and the sorted runs of its views: walks, then zips. It
//! knows nothing of where the runs come from, nor where the answer goes.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{RecordBatch, UInt16Array};
use hydrant_storage::history::{MergedRuns, RunBatch};
use hydrant_storage::order::Micros;
use xxhash_rust::xxh3::Xxh3;

use super::asof::{AsOf, Candidate, HistoryRows};
use super::block::{Block, BlockRow};
use super::failure::JoinError;
use super::hits::HitWriter;
use super::plan::Plan;
use super::sort::SortedSpine;
use super::spine::{Budget, Spine};
use super::waiting::WaitingRows;
use super::walk::{JoinWalk, Walked, walk};
use super::work::{Stop, in_parallel};
use super::zip::Zip;

/// What is known when the last row has been answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub rows: u64,
    /// One for each row and lookup.
    pub row_view_pairs: u64,
    /// How many of these the other mode would have answered otherwise.
    pub differing: u64,
    pub spine_hash: String,
    pub content_hash: String,
    /// By output column.
    pub nulls: Vec<u64>,
}

/// All rows that count, found and put down; history isn't read any more.
#[derive(Debug)]
pub struct Findings {
    plan: Arc<Plan>,
    zip: Zip,
    rows: u64,
    differing: u64,
    spine_hash: String,
}

impl Findings {
    /// Walks all views, on as many threads as the budget has. `open` gives the rows of a join, by its
    /// number in the plan; `stop` is asked now and then, and set when a walk has failed.
    pub fn walk<R: HistoryRows>(
        plan: &Arc<Plan>,
        mut spine: Spine,
        budget: &Budget,
        open: impl Fn(usize, &Spine) -> Result<R, JoinError> + Sync,
        stop: &Stop,
    ) -> Result<Self, JoinError> {
        let (ranges, range_of) = spine.pieces.ranges(plan, budget);
        let ranges = Arc::new(ranges);
        let joins = plan.joins.len();
        let sorts = std::mem::take(&mut spine.sorts);
        // The views of one sort are walked side by side, beside one reading of the spine.
        let walk_sort = |(number, sorted): (usize, SortedSpine)| {
            let numbers: Vec<usize> = (0..joins).filter(|join| plan.joins[*join].sort == number).collect();
            let mut walks = Vec::with_capacity(numbers.len());
            for join in &numbers {
                let rows = open(*join, &spine)?;
                let waiting = WaitingRows::new(budget.for_waiting(joins), &budget.spill);
                let as_of = AsOf::new(rows, plan.mode, spine.last_time, waiting);
                let hits = HitWriter::new(ranges.clone(), budget.for_hits(joins), &budget.spill);
                let lookups = plan.lookups.iter().filter(|lookup| lookup.join == *join);
                walks.push(JoinWalk::new(as_of, plan.mode, hits, lookups.map(|lookup| lookup.ttl).collect()));
            }
            Ok(numbers.into_iter().zip(walk(sorted, walks, stop)?).collect::<Vec<_>>())
        };
        let work: Vec<_> = sorts.into_iter().enumerate().collect();
        let mut walked: Vec<(usize, Walked)> =
            in_parallel(work, budget.threads, walk_sort, stop)?.into_iter().flatten().collect();
        walked.sort_by_key(|(join, _)| *join);
        let differing = walked.iter().map(|(_, walked)| walked.differing).sum();
        let hits = walked.into_iter().map(|(_, walked)| walked.hits).collect();
        let spine_hash = spine.digest.finish(&plan.spine);
        let zip = Zip::new(plan.clone(), spine.pieces, ranges, range_of, hits)?;
        Ok(Self { plan: plan.clone(), zip, rows: spine.rows, differing, spine_hash })
    }

    /// Answers through `emit`, in the spine's order.
    pub fn answer(
        mut self,
        stop: &Stop,
        mut emit: impl FnMut(RecordBatch) -> Result<(), JoinError>,
    ) -> Result<Outcome, JoinError> {
        while let Some(batch) = self.zip.next_batch()? {
            stop.check()?;
            emit(batch)?;
        }
        let mut content = Xxh3::new();
        content.update(self.spine_hash.as_bytes());
        content.update(self.zip.digest().as_bytes());
        Ok(Outcome {
            rows: self.rows,
            row_view_pairs: self.rows * self.plan.lookups.len() as u64,
            differing: self.differing,
            spine_hash: self.spine_hash,
            content_hash: format!("{:032x}", content.digest128()),
            nulls: self.zip.nulls().to_vec(),
        })
    }
}

/// A view's runs as the walk reads them.
pub struct RunRows {
    merged: MergedRuns,
    /// The batches that the runs are at, as blocks.
    blocks: HashMap<*const RunBatch, (Arc<RunBatch>, Arc<Block>)>,
}

impl RunRows {
    pub fn new(merged: MergedRuns) -> Self {
        Self { merged, blocks: HashMap::new() }
    }
}

impl HistoryRows for RunRows {
    fn seek(&mut self, slot: u16, key: &[u8]) -> Result<(), JoinError> {
        Ok(self.merged.seek(slot, key)?)
    }

    fn next_of(&mut self, slot: u16, key: &[u8], until: Micros) -> Result<Option<Candidate>, JoinError> {
        let Some(row) = self.merged.peek() else { return Ok(None) };
        if row.batch.event_times[row.index] > until || row.batch.compare_key(row.index, slot, key).is_ne() {
            return Ok(None);
        }
        let block = block_of(&mut self.blocks, &row.batch);
        let index = row.index as u32;
        let candidate = Candidate { version: row.version(), deleted: row.deleted(), row: BlockRow { block, index } };
        self.merged.advance()?;
        Ok(Some(candidate))
    }
}

fn block_of(blocks: &mut HashMap<*const RunBatch, (Arc<RunBatch>, Arc<Block>)>, batch: &Arc<RunBatch>) -> Arc<Block> {
    if let Some((_, block)) = blocks.get(&Arc::as_ptr(batch)) {
        return block.clone();
    }
    // A batch that only this holds has been passed by its run.
    blocks.retain(|_, (passed, _)| Arc::strong_count(passed) > 1);
    let block = Arc::new(Block::new(UInt16Array::new(batch.feature_counts.clone(), None), batch.features.clone()));
    blocks.insert(Arc::as_ptr(batch), (batch.clone(), block.clone()));
    block
}
