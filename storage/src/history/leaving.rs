//! Files of a table written anew without some of their rows, for those who may take rows out of it. It
//! decides nothing about which, and commits nothing.

use std::sync::Arc;

use arrow_buffer::BooleanBuffer;

use crate::history::outputs::{Outputs, Target, write_run};
use crate::history::snapshot::{DataFile, TableSnapshot};
use crate::history::writer::{Purpose, RowChecks};
use crate::history::{HistoryError, Run, RunBatch, SlotSet};

/// Whether a row of a batch leaves.
pub(super) type Leaves<'a> = &'a (dyn Fn(&RunBatch, usize) -> bool + Sync);

impl TableSnapshot {
    /// How many rows of a file leave; only rows of these slots do. Blocks.
    pub(super) fn count_leaving(
        &self,
        file: &DataFile,
        slots: Option<&SlotSet>,
        leaves: Leaves<'_>,
    ) -> Result<u64, HistoryError> {
        let mut run = self.open_run(file, &[], slots)?;
        let mut rows = 0;
        while let Some(batch) = run.next()? {
            rows += (0..batch.rows()).filter(|row| leaves(&batch, *row)).count() as u64;
        }
        Ok(rows)
    }

    /// Writes files anew, each without so many rows that leave; nobody knows of what is written. Blocks.
    pub(super) fn write_without(
        &self,
        found: &[(DataFile, u64)],
        leaves: Leaves<'_>,
        pace: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Outputs, HistoryError> {
        let all: Vec<usize> = (0..self.spec.features.len()).collect();
        let mut outputs = Outputs::new(self.store.clone(), self.directory.clone());
        let through = self.newest_frame();
        for (file, rows) in found {
            let mut kept = KeptRows { run: self.open_run(file, &all, None)?, leaves };
            let (files, directory, spec) = (&self.store, self.directory.as_path(), self.spec.as_ref());
            let target = Target { files, directory, spec, purpose: Purpose::Table(self.shape), file_bytes: u64::MAX };
            let new_name = || self.new_name(through);
            let mut written = write_run(&mut kept, &target, &new_name, RowChecks::new(0, through), pace)?;
            if written.rows() + rows != file.rows() {
                let reason = format!("{} rows came out of {} without {rows}", written.rows(), file.rows());
                return Err(HistoryError::BadRows { reason });
            }
            for (name, mut new) in written.keep() {
                // It stands where the old one stood. What a backfill's tag said of its rows is in them now.
                new.facts.place = file.facts.place;
                outputs.written.push((name, new));
            }
        }
        Ok(outputs)
    }
}

/// The rows of a file but for those that leave.
struct KeptRows<'a, R> {
    run: R,
    leaves: Leaves<'a>,
}

impl<R: Run> Run for KeptRows<'_, R> {
    fn next(&mut self) -> Result<Option<Arc<RunBatch>>, HistoryError> {
        while let Some(batch) = self.run.next()? {
            let keep: BooleanBuffer = (0..batch.rows()).map(|row| !(self.leaves)(&batch, row)).collect();
            match keep.count_set_bits() {
                0 => {}
                all if all == batch.rows() => return Ok(Some(batch)),
                _ => return Ok(Some(Arc::new(batch.filtered(keep)?))),
            }
        }
        Ok(None)
    }
}
