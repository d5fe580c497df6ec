//! Carries a plan out over a whole spine and the sorted runs of its views: walks, then zips. It
//! knows nothing of where the runs come from, nor where the answer goes.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::{RecordBatch, UInt16Array};
use hydrant_storage::history::{MergedRuns, RunBatch};
use hydrant_storage::order::Micros;

use super::asof::{AsOf, HistoryRows, Stretch};
use super::block::Block;
use super::digest::content_hash;
use super::failure::JoinError;
use super::hits::{HitLimits, HitMemory, HitWriter, Hits};
use super::metrics::HistoryMetrics;
use super::plan::Plan;
use super::sort::{SortedSpine, SpineSorter};
use super::spine::{Budget, Spine};
use super::waiting::WaitingRows;
use super::walk::{JoinWalk, Kept, walk};
use super::work::{Stop, in_parallel};
use super::zip::{Found, StatusCounts, Zip};

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

/// All rows that count, found and put down; history isn't read any more. Clones are the same.
#[derive(Clone, Debug)]
pub struct Findings {
    found: Arc<Found>,
    pub rows: u64,
    /// The least event time of the spine; greater than any where it has no rows.
    pub first_time: Micros,
    differing: u64,
    spine_hash: String,
    metrics: Arc<HistoryMetrics>,
}

impl Findings {
    /// Walks all views, on as many threads as the budget has. `open` gives the rows of a join, by its
    /// number in the plan, for a part of the sorted spine; `stop` is asked now and then, and set when
    /// a walk has failed.
    pub fn walk<R: HistoryRows>(
        plan: &Arc<Plan>,
        spine: Spine,
        budget: &Budget,
        open: impl Fn(usize, &SortedSpine) -> Result<R, JoinError> + Sync,
        stop: &Stop,
    ) -> Result<Self, JoinError> {
        budget.spill.metrics().timed(|metrics| &metrics.walk_time, || Self::find(plan, spine, budget, open, stop))
    }

    fn find<R: HistoryRows>(
        plan: &Arc<Plan>,
        spine: Spine,
        budget: &Budget,
        open: impl Fn(usize, &SortedSpine) -> Result<R, JoinError> + Sync,
        stop: &Stop,
    ) -> Result<Self, JoinError> {
        let for_hits = budget.for_hits(&spine);
        let (pending_bytes, memory) = (budget.for_pending_hits(plan, for_hits), HitMemory::new(for_hits / 4 * 3));
        let limits = HitLimits { pending_bytes, memory };
        let Spine { sorters, pieces, rows, first_time, last_time, digest } = spine;
        let (ranges, range_of) = pieces.ranges(plan, budget);
        let ranges = Arc::new(ranges);
        let sort = |(number, sorter): (usize, SpineSorter)| Ok((number, sorter.finish(stop)?));
        let sorted = in_parallel(sorters.into_iter().enumerate().collect(), budget.threads, sort, stop)?;
        let parts: Vec<(usize, SortedSpine)> =
            sorted.into_iter().flat_map(|(sort, parts)| parts.into_iter().map(move |part| (sort, part))).collect();

        let joins_of = |sort: usize| (0..plan.joins.len()).filter(move |join| plan.joins[*join].sort == sort);
        // The views of one sort are walked side by side, beside one reading of the spine.
        let walk_part = |(sort, part): (usize, SortedSpine)| {
            let mut walks = Vec::new();
            for join in joins_of(sort) {
                let rows = open(join, &part)?;
                let waiting = WaitingRows::new(budget.for_waiting(plan), &budget.spill);
                let as_of = AsOf::new(rows, plan.mode, last_time, waiting);
                let kept = Kept::new(plan, join);
                let hits = HitWriter::new(ranges.clone(), kept.has_times(), limits.clone(), &budget.spill, stop);
                walks.push(JoinWalk::new(as_of, hits, kept));
            }
            Ok(joins_of(sort).zip(walk(part, walks, stop)?).collect::<Vec<_>>())
        };
        let walked = in_parallel(parts, budget.threads, walk_part, stop)?;
        let mut hits: Vec<Vec<Hits>> = plan.joins.iter().map(|_| Vec::new()).collect();
        let mut differing = 0;
        for (join, walked) in walked.into_iter().flatten() {
            hits[join].push(walked.hits);
            differing += walked.differing;
        }
        let spine_hash = digest.finish(&plan.spine);
        let found = Found { plan: plan.clone(), pieces, ranges, range_of, hits };
        let (found, metrics) = (Arc::new(found), budget.spill.metrics().clone());
        Ok(Self { found, rows, first_time, differing, spine_hash, metrics })
    }

    /// Puts all that is in memory on disk, for answers that are asked for later.
    pub fn put_down(mut self, stop: &Stop) -> Result<Self, JoinError> {
        let whole = Arc::get_mut(&mut self.found).expect("nobody else has it before it is put down");
        whole.put_down(stop)?;
        Ok(self)
    }

    pub fn plan(&self) -> &Arc<Plan> {
        &self.found.plan
    }

    /// Answers through `emit`, in the spine's order.
    pub fn answer(
        &self,
        stop: &Stop,
        emit: impl FnMut(RecordBatch) -> Result<(), JoinError>,
    ) -> Result<Outcome, JoinError> {
        Ok(self.outcome(&self.answer_to(0..self.rows, stop, emit)?))
    }

    /// Of a zip that has given all rows.
    fn outcome(&self, zip: &Zip) -> Outcome {
        Outcome {
            rows: self.rows,
            row_view_pairs: self.rows * self.plan().lookups.len() as u64,
            differing: self.differing,
            spine_hash: self.spine_hash.clone(),
            content_hash: content_hash(&self.spine_hash, &zip.digest()),
            nulls: zip.nulls().to_vec(),
        }
    }

    /// As [`Self::answer`], counting statuses.
    pub fn answer_counting(
        &self,
        stop: &Stop,
        emit: impl FnMut(RecordBatch) -> Result<(), JoinError>,
    ) -> Result<(Outcome, Vec<StatusCounts>), JoinError> {
        let mut zip = Zip::new(self.found.clone(), 0..self.rows)?;
        zip.count_statuses();
        self.give_all(&mut zip, stop, emit)?;
        Ok((self.outcome(&zip), zip.statuses().to_vec()))
    }

    /// Answers to these rows of the spine alone.
    pub fn answer_rows(
        &self,
        rows: Range<u64>,
        stop: &Stop,
        emit: impl FnMut(RecordBatch) -> Result<(), JoinError>,
    ) -> Result<(), JoinError> {
        self.answer_to(rows, stop, emit).map(drop)
    }

    fn answer_to(
        &self,
        rows: Range<u64>,
        stop: &Stop,
        emit: impl FnMut(RecordBatch) -> Result<(), JoinError>,
    ) -> Result<Zip, JoinError> {
        let mut zip = Zip::new(self.found.clone(), rows)?;
        self.give_all(&mut zip, stop, emit)?;
        Ok(zip)
    }

    fn give_all(
        &self,
        zip: &mut Zip,
        stop: &Stop,
        mut emit: impl FnMut(RecordBatch) -> Result<(), JoinError>,
    ) -> Result<(), JoinError> {
        while let Some(batch) = self.metrics.timed(|metrics| &metrics.zip_time, || zip.next_batch())? {
            stop.check()?;
            emit(batch)?;
        }
        Ok(())
    }
}

/// A view's runs as the walk reads them.
pub struct RunRows {
    merged: MergedRuns,
    /// The batch that rows were handed out of last.
    current: Option<(Arc<RunBatch>, Arc<Block>)>,
    /// The batches that the runs are at, as blocks.
    blocks: HashMap<*const RunBatch, (Arc<RunBatch>, Arc<Block>)>,
    /// How many rows of the merged runs' stretch were handed out.
    handed_out: usize,
    /// Where the rows of the key that was sought last end in that stretch, once it is known.
    key_end: Option<usize>,
}

impl RunRows {
    pub fn new(merged: MergedRuns) -> Self {
        Self { merged, current: None, blocks: HashMap::new(), handed_out: 0, key_end: None }
    }

    fn pass_handed_out(&mut self) -> Result<(), JoinError> {
        match std::mem::take(&mut self.handed_out) {
            0 => Ok(()),
            rows => Ok(self.merged.pass(rows)?),
        }
    }
}

impl HistoryRows for RunRows {
    fn seek(&mut self, slot: u16, key: &[u8]) -> Result<(), JoinError> {
        self.pass_handed_out()?;
        self.key_end = None;
        Ok(self.merged.seek(slot, key)?)
    }

    fn next_of(&mut self, slot: u16, key: &[u8], until: Micros) -> Result<Option<Stretch<'_>>, JoinError> {
        self.pass_handed_out()?;
        let Some((batch, rows)) = self.merged.stretch() else { return Ok(None) };
        let Range { start, end } = rows;
        let key_end = *self.key_end.get_or_insert_with(|| batch.first_after(start..end, slot, key));
        let later = batch.first_later(start..key_end, until);
        if later == start {
            return Ok(None);
        }
        if later == end {
            self.key_end = None;
        }
        self.handed_out = later - start;
        if self.current.as_ref().is_none_or(|(current, _)| !Arc::ptr_eq(current, batch)) {
            // The batch of before is held no longer than its run does.
            self.current = None;
            self.current = Some((batch.clone(), block_of(&mut self.blocks, batch)));
        }
        let (batch, block) = self.current.as_ref().expect("it was set");
        Ok(Some(Stretch { batch, block, rows: start..later }))
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
