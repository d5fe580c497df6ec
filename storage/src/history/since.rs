//! The rows of a run that a view still keeps. Of those that are too old some are out of the table before
//! others; readers find none of them from the first on, so that none that was superseded comes back.

use std::sync::Arc;

use arrow_buffer::BooleanBuffer;

use crate::history::{HistoryError, Run, RunBatch};
use crate::order::Micros;

/// Without rows that happened before an instant.
pub struct Since<R> {
    run: R,
    from: Option<Micros>,
}

impl<R: Run> Since<R> {
    /// `None`: with all rows.
    pub fn new(run: R, from: Option<Micros>) -> Self {
        Self { run, from }
    }
}

impl<R: Run> Run for Since<R> {
    fn next(&mut self) -> Result<Option<Arc<RunBatch>>, HistoryError> {
        while let Some(batch) = self.run.next()? {
            let Some(from) = self.from else { return Ok(Some(batch)) };
            let keep: BooleanBuffer = batch.event_times.iter().map(|time| *time >= from).collect();
            match keep.count_set_bits() {
                0 => {}
                all if all == batch.rows() => return Ok(Some(batch)),
                _ => return Ok(Some(Arc::new(batch.filtered(keep)?))),
            }
        }
        Ok(None)
    }

    fn skip_to(&mut self, slot: u16, key: &[u8]) -> Result<(), HistoryError> {
        self.run.skip_to(slot, key)
    }
}
