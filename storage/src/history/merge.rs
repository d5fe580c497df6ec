//! The merge of sorted runs into one: a cursor over all rows of a view in history order, forward
//! only. It leaves out rows taken in after a cut-off, and nothing else; two rows of one position are
//! a bug of who gave the runs, not repaired here.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use arrow_buffer::BooleanBuffer;

use crate::history::run::first_past;
use crate::history::{HistoryError, RowAt, Run, RunBatch};
use crate::order::Micros;

/// A cursor over the rows of several runs in history order.
pub struct MergedRuns {
    /// A binary heap: the least row is first. Runs at their end are gone.
    heads: Vec<Head>,
    /// Where, in the first head's batch, another head's row comes first; `None` if that isn't known.
    stretch_end: Option<usize>,
    cutoff: Option<Micros>,
}

struct Head {
    row: RowAt,
    run: Box<dyn Run>,
}

impl MergedRuns {
    /// A cursor on the first row of all runs. With a cut-off, only rows ingested at or before it.
    pub fn new(runs: Vec<Box<dyn Run>>, cutoff: Option<Micros>) -> Result<Self, HistoryError> {
        let mut heads = Vec::with_capacity(runs.len());
        for mut run in runs {
            if let Some(batch) = next_batch(run.as_mut(), cutoff)? {
                heads.push(Head { row: RowAt { batch, index: 0 }, run });
            }
        }
        let mut merged = Self { heads, stretch_end: None, cutoff };
        for parent in (0..merged.heads.len() / 2).rev() {
            merged.sift_down(parent);
        }
        Ok(merged)
    }

    /// The row that the cursor is on; `None` at the end.
    pub fn peek(&self) -> Option<&RowAt> {
        self.heads.first().map(|head| &head.row)
    }

    /// To the next row in history order.
    pub fn advance(&mut self) -> Result<(), HistoryError> {
        self.pass(1)
    }

    /// The rows that come next and lie side by side in one batch, from the one that the cursor is on up
    /// to where another run's row comes; `None` at the end.
    pub fn stretch(&mut self) -> Option<(&Arc<RunBatch>, Range<usize>)> {
        let first = self.heads.first()?;
        let end = *self.stretch_end.get_or_insert_with(|| stretch_end(&self.heads));
        Some((&first.row.batch, first.row.index..end))
    }

    /// Passes so many rows of the [`MergedRuns::stretch`], all of them at most.
    pub fn pass(&mut self, rows: usize) -> Result<(), HistoryError> {
        let Some(first) = self.heads.first_mut() else { return Ok(()) };
        first.row.index += rows;
        if self.stretch_end.is_some_and(|end| first.row.index < end) {
            return Ok(());
        }
        let has_row = first.row.index < first.row.batch.rows() || first.refill(self.cutoff)?;
        self.settle_first(has_row);
        Ok(())
    }

    /// To the first row whose (slot, key) is at or after the given one. The cursor never goes back.
    pub fn seek(&mut self, slot: u16, key: &[u8]) -> Result<(), HistoryError> {
        while let Some(first) = self.heads.first_mut() {
            let RowAt { batch, index } = &mut first.row;
            if batch.compare_key(*index, slot, key) != Ordering::Less {
                break;
            }
            *index = batch.first_at_or_after(*index, slot, key);
            if self.stretch_end.is_some_and(|end| *index < end) {
                break;
            }
            let has_row = *index < batch.rows() || first.seek_on(slot, key, self.cutoff)?;
            self.settle_first(has_row);
        }
        Ok(())
    }

    fn settle_first(&mut self, has_row: bool) {
        if !has_row {
            self.heads.swap_remove(0);
        }
        self.stretch_end = None;
        self.sift_down(0);
    }

    fn sift_down(&mut self, mut parent: usize) {
        loop {
            let left = 2 * parent + 1;
            if left >= self.heads.len() {
                return;
            }
            let right = left + 1;
            let least = if right < self.heads.len() && self.is_before(right, left) { right } else { left };
            if !self.is_before(least, parent) {
                return;
            }
            self.heads.swap(parent, least);
            parent = least;
        }
    }

    fn is_before(&self, left: usize, right: usize) -> bool {
        self.heads[left].row.compare(&self.heads[right].row) == Ordering::Less
    }
}

/// Where, in the first head's batch, the next head's row comes before the batch's own.
fn stretch_end(heads: &[Head]) -> usize {
    let [first, others @ ..] = heads else { return 0 };
    let rows = first.row.batch.rows();
    let next = match others {
        [] => return rows,
        [only] => &only.row,
        [left, right, ..] => {
            if right.row.compare(&left.row).is_lt() {
                &right.row
            } else {
                &left.row
            }
        }
    };
    let is_before = |row: usize| first.row.batch.compare_row(row, next).is_lt();
    let following = first.row.index + 1;
    if following == rows || !is_before(following) {
        return following;
    }
    // Runs that lie one behind the other are the rule.
    if is_before(rows - 1) { rows } else { first_past(following, rows, is_before) }
}

/// The next batch that holds rows under the cut-off, without the others.
fn next_batch(run: &mut dyn Run, cutoff: Option<Micros>) -> Result<Option<Arc<RunBatch>>, HistoryError> {
    while let Some(batch) = run.next()? {
        let Some(cutoff) = cutoff else { return Ok(Some(batch)) };
        let in_time = batch.ingest_times.iter().filter(|time| **time <= cutoff).count();
        if in_time == batch.rows() {
            return Ok(Some(batch));
        }
        if in_time > 0 {
            let keep = BooleanBuffer::collect_bool(batch.rows(), |row| batch.ingest_times[row] <= cutoff);
            return Ok(Some(Arc::new(batch.filtered(keep)?)));
        }
    }
    Ok(None)
}

impl Head {
    /// Beyond this batch, to the run's first row at or after a key and under the cut-off; false at its end.
    fn seek_on(&mut self, slot: u16, key: &[u8], cutoff: Option<Micros>) -> Result<bool, HistoryError> {
        loop {
            self.run.skip_to(slot, key)?;
            if !self.refill(cutoff)? {
                return Ok(false);
            }
            self.row.index = self.row.batch.first_at_or_after(0, slot, key);
            if self.row.index < self.row.batch.rows() {
                return Ok(true);
            }
        }
    }

    /// To the first row of the run's next batch; false at its end.
    fn refill(&mut self, cutoff: Option<Micros>) -> Result<bool, HistoryError> {
        let Some(batch) = next_batch(self.run.as_mut(), cutoff)? else { return Ok(false) };
        self.row = RowAt { batch, index: 0 };
        Ok(true)
    }
}
