//! The merge of sorted runs into one: a cursor over all rows of a view in history order, forward
//! only. It leaves out rows taken in after a cut-off, and nothing else; two rows of one position are
//! a bug of who gave the runs, not repaired here.

use std::cmp::Ordering;

use crate::history::{HistoryError, RowAt, Run};
use crate::order::Micros;

/// A cursor over the rows of several runs in history order.
pub struct MergedRuns {
    /// A binary heap: the least row is first. Runs at their end are gone.
    heads: Vec<Head>,
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
            if let Some(batch) = run.next()? {
                let mut head = Head { row: RowAt { batch, index: 0 }, run };
                let has_row = if head.is_filtered(cutoff) { head.step(cutoff)? } else { true };
                if has_row {
                    heads.push(head);
                }
            }
        }
        let mut merged = Self { heads, cutoff };
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
        let cutoff = self.cutoff;
        if let Some(first) = self.heads.first_mut() {
            let has_row = first.step(cutoff)?;
            self.settle_first(has_row);
        }
        Ok(())
    }

    /// To the first row whose (slot, key) is at or after the given one. The cursor never goes back.
    pub fn seek(&mut self, slot: u16, key: &[u8]) -> Result<(), HistoryError> {
        let cutoff = self.cutoff;
        while let Some(first) = self.heads.first_mut() {
            if first.row.batch.compare_key(first.row.index, slot, key) != Ordering::Less {
                break;
            }
            let has_row = first.seek(slot, key, cutoff)?;
            self.settle_first(has_row);
        }
        Ok(())
    }

    fn settle_first(&mut self, has_row: bool) {
        if !has_row {
            self.heads.swap_remove(0);
        }
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

impl Head {
    fn is_filtered(&self, cutoff: Option<Micros>) -> bool {
        cutoff.is_some_and(|cutoff| self.row.ingest_time() > cutoff)
    }

    /// To the run's next row under the cut-off; false at its end.
    fn step(&mut self, cutoff: Option<Micros>) -> Result<bool, HistoryError> {
        loop {
            self.row.index += 1;
            if self.row.index >= self.row.batch.rows() && !self.refill()? {
                return Ok(false);
            }
            if !self.is_filtered(cutoff) {
                return Ok(true);
            }
        }
    }

    /// To the run's first row at or after a key and under the cut-off; false at its end.
    fn seek(&mut self, slot: u16, key: &[u8], cutoff: Option<Micros>) -> Result<bool, HistoryError> {
        loop {
            self.row.index = self.row.batch.first_at_or_after(self.row.index, slot, key);
            if self.row.index < self.row.batch.rows() {
                break;
            }
            self.run.skip_to(slot, key)?;
            if !self.refill()? {
                return Ok(false);
            }
        }
        if self.is_filtered(cutoff) { self.step(cutoff) } else { Ok(true) }
    }

    fn refill(&mut self) -> Result<bool, HistoryError> {
        let Some(batch) = self.run.next()? else { return Ok(false) };
        self.row = RowAt { batch, index: 0 };
        Ok(true)
    }
}
