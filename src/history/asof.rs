//! The point-in-time merge of one view: walks the spine's wanted rows and the view's history
//! together, both in the order (slot, key, time), and tells for each wanted row which history row
//! counts. It holds one candidate, and the rows that have happened but aren't known yet. Expiry and
//! tombstones are no concern of it: the row that counts says so itself.

use std::ops::Range;
use std::sync::Arc;

use hydrant_storage::history::RunBatch;
use hydrant_storage::order::{Micros, RowVersion};

use super::block::{Block, BlockRow};
use super::failure::JoinError;
use super::sort::Wanted;
use super::waiting::WaitingRows;
use super::work::Stop;

/// Which rows count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Those known at the spine row's time.
    AsKnown,
    /// All, as if known at their event time.
    Final,
}

/// What is compared of a history row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub version: RowVersion,
    pub deleted: bool,
}

/// A history row that may be the one that counts.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub seen: Seen,
    /// Its features.
    pub row: BlockRow,
}

/// A view's history, read forwards only: rows of a key in ascending order of their version, no row
/// past the cut-off.
pub trait HistoryRows {
    /// Goes to the first row at or after the key, never back.
    fn seek(&mut self, slot: u16, key: &[u8]) -> Result<(), JoinError>;

    /// The rows that come next and lie side by side, if they are of the key that was sought last and
    /// have happened by `until`. Together, calls give all of these, and each once.
    fn next_of(&mut self, slot: u16, key: &[u8], until: Micros) -> Result<Option<Stretch<'_>>, JoinError>;
}

/// Some rows of one key side by side in one batch; never none.
#[derive(Debug)]
pub struct Stretch<'a> {
    pub batch: &'a RunBatch,
    /// Their features.
    pub block: &'a Arc<Block>,
    pub rows: Range<usize>,
}

impl Stretch<'_> {
    fn seen(&self, row: usize) -> Seen {
        Seen { version: self.batch.version(row), deleted: self.batch.deleted.value(row) }
    }

    fn candidate(&self, row: usize) -> Candidate {
        Candidate { seen: self.seen(row), row: BlockRow { block: self.block.clone(), index: row as u32 } }
    }

    fn without_features(&self, row: usize) -> Candidate {
        Candidate { seen: self.seen(row), row: BlockRow::without_features() }
    }

    /// The row as the one to be answered from.
    fn answer_from(&self, row: usize, answered: &mut Option<Candidate>) {
        match answered {
            // Most rows lie in the batch of the one before, whose count of holders need not change.
            Some(Candidate { seen, row: place }) if Arc::ptr_eq(&place.block, self.block) => {
                (*seen, place.index) = (self.seen(row), row as u32);
            }
            _ => *answered = Some(self.candidate(row)),
        }
    }
}

/// What one view says about one spine row.
#[derive(Debug)]
pub struct Counted<'a> {
    /// The row that counts in the mode asked for.
    pub answered: Option<&'a Candidate>,
    /// The one that would count in the other.
    pub otherwise: Option<Seen>,
}

#[derive(Debug)]
pub struct AsOf<R> {
    rows: R,
    mode: Mode,
    /// The greatest time in the spine: a row known only later is never the one that is known.
    last_time: Micros,
    slot: u16,
    key: Vec<u8>,
    started: bool,
    /// Since the stop was asked.
    rows_read: usize,
    answered: Option<Candidate>,
    otherwise: Option<Seen>,
    waiting: WaitingRows,
}

impl<R: HistoryRows> AsOf<R> {
    /// Features are kept for `mode`'s rows only; of the others, which are compared, their versions.
    pub fn new(rows: R, mode: Mode, last_time: Micros, waiting: WaitingRows) -> Self {
        Self {
            rows,
            mode,
            last_time,
            slot: 0,
            key: Vec::new(),
            started: false,
            rows_read: 0,
            answered: None,
            otherwise: None,
            waiting,
        }
    }

    /// The rows that count for `wanted`; calls come in ascending order. Between two spine rows there
    /// may be any number of history rows, so `stop` is asked here too.
    pub fn at(&mut self, wanted: &Wanted<'_>, stop: &Stop) -> Result<Counted<'_>, JoinError> {
        const ROWS_BETWEEN_LOOKS: usize = 16_384;
        if !self.started || self.slot != wanted.slot || self.key != wanted.key {
            self.begin_key(wanted)?;
        }
        while let Some(stretch) = self.rows.next_of(self.slot, &self.key, wanted.time)? {
            self.rows_read += stretch.rows.len();
            if self.rows_read >= ROWS_BETWEEN_LOOKS {
                stop.check()?;
                self.rows_read = 0;
            }
            let Range { start, end } = stretch.rows.clone();
            // All of them have happened: the greatest of those that are known is visible.
            let visible = (start..end).rev().find(|row| stretch.batch.known_times[*row] <= wanted.time);
            if visible.is_some() {
                // It is greater than all that wait, whether they are known by now or not.
                self.waiting.clear();
            }
            for row in visible.map_or(start, |row| row + 1)..end {
                if stretch.batch.known_times[row] <= self.last_time {
                    self.waiting.push(match self.mode {
                        Mode::AsKnown => stretch.candidate(row),
                        Mode::Final => stretch.without_features(row),
                    })?;
                }
            }
            match (self.mode, visible) {
                (Mode::AsKnown, visible) => {
                    if let Some(row) = visible {
                        stretch.answer_from(row, &mut self.answered);
                    }
                    self.otherwise = Some(stretch.seen(end - 1));
                }
                (Mode::Final, visible) => {
                    stretch.answer_from(end - 1, &mut self.answered);
                    self.otherwise = visible.map(|row| stretch.seen(row)).or(self.otherwise);
                }
            }
        }
        while let Some(row) = self.waiting.pop_visible(wanted.time)? {
            match self.mode {
                Mode::AsKnown => self.answered = Some(row),
                Mode::Final => self.otherwise = Some(row.seen),
            }
        }
        Ok(Counted { answered: self.answered.as_ref(), otherwise: self.otherwise })
    }

    fn begin_key(&mut self, wanted: &Wanted<'_>) -> Result<(), JoinError> {
        self.rows.seek(wanted.slot, wanted.key)?;
        self.started = true;
        self.slot = wanted.slot;
        self.key.clear();
        self.key.extend_from_slice(wanted.key);
        self.answered = None;
        self.otherwise = None;
        self.waiting.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    use arrow_array::{ArrayRef, BinaryArray, Int64Array};
    use hydrant_storage::history::{HistoryError, MergedRuns, Run};
    use hydrant_storage::order::Position;
    use proptest::prelude::*;

    use super::super::execute::RunRows;
    use super::super::spill::SpillSpace;
    use super::*;

    #[derive(Clone, Copy, Debug)]
    struct Row {
        slot: u16,
        key: u8,
        seen: Seen,
        ingest_time: Micros,
        run: usize,
    }

    struct Batches(std::vec::IntoIter<Arc<RunBatch>>);

    impl Run for Batches {
        fn next(&mut self) -> Result<Option<Arc<RunBatch>>, HistoryError> {
            Ok(self.0.next())
        }
    }

    /// The rows' features are their ordinals.
    fn batch(rows: &[Row]) -> Arc<RunBatch> {
        let ordinals = rows.iter().map(|row| i64::from(row.seen.version.position.ordinal));
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(ordinals));
        Arc::new(RunBatch {
            slots: rows.iter().map(|row| row.slot).collect(),
            keys: BinaryArray::from_iter_values(rows.iter().map(|row| [row.key])),
            event_times: rows.iter().map(|row| row.seen.version.event_time).collect(),
            known_times: rows.iter().map(|row| row.seen.version.known_time).collect(),
            ingest_times: rows.iter().map(|row| row.ingest_time).collect(),
            frames: rows.iter().map(|row| row.seen.version.position.frame).collect(),
            ordinals: rows.iter().map(|row| row.seen.version.position.ordinal).collect(),
            revisions: rows.iter().map(|_| 1).collect(),
            feature_counts: rows.iter().map(|_| 1).collect(),
            deleted: rows.iter().map(|row| row.seen.deleted).collect(),
            features: vec![numbers],
        })
    }

    fn rows() -> impl Strategy<Value = Vec<Row>> {
        let times = (0i64..12, prop_oneof![3 => Just(0i64), 1 => -3i64..6, 1 => Just(100)], 0i64..10);
        let row = ((0u16..2, 0u8..2), times, prop::bool::weighted(0.2), 0usize..4);
        prop::collection::vec(row, 0..80).prop_map(|drawn| {
            let made = drawn.into_iter().zip(0u32..).map(
                |(((slot, key), (event_time, delay, ingest_time), deleted, run), ordinal)| {
                    let position = Position { frame: 1, ordinal };
                    let version = RowVersion { event_time, known_time: event_time + delay, position };
                    Row { slot, key, seen: Seen { version, deleted }, ingest_time, run }
                },
            );
            made.collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

        /// Whether rows lie in one run or in several, interleaved or one behind the other, and wherever
        /// a batch ends: in the middle of a key, of rows at one time, or of rows nobody knows yet.
        #[test]
        fn both_modes_find_what_looking_at_every_row_finds(
            mut history in rows(),
            mut wanted in prop::collection::vec((0u16..2, 0u8..2, -1i64..20), 1..40),
            runs in 1usize..5,
            interleaved in any::<bool>(),
            batch_rows in 1usize..12,
            cutoff in prop::option::of(0i64..10),
            is_final in any::<bool>(),
            memory in prop::sample::select(vec![0usize, 1 << 20]),
        ) {
            let mode = if is_final { Mode::Final } else { Mode::AsKnown };
            wanted.sort_unstable();
            history.sort_by_key(|row| (row.slot, row.key, row.seen.version));
            if !interleaved {
                let rows = history.len();
                history.iter_mut().enumerate().for_each(|(n, row)| row.run = n * runs / rows);
            }
            let run = |number: usize| {
                let rows: Vec<Row> = history.iter().copied().filter(|row| row.run % runs == number).collect();
                let batches: Vec<Arc<RunBatch>> = rows.chunks(batch_rows).map(batch).collect();
                Box::new(Batches(batches.into_iter())) as Box<dyn Run>
            };
            let merged = MergedRuns::new((0..runs).map(run).collect(), cutoff).expect("merged");
            let directory = tempfile::tempdir().expect("a directory");
            let waiting = WaitingRows::new(memory, &SpillSpace::new(directory.path(), 1 << 30, Arc::default()));
            let last_time = wanted.iter().map(|(_, _, time)| *time).max().unwrap_or_default();
            let mut as_of = AsOf::new(RunRows::new(merged), mode, last_time, waiting);
            for ((slot, key, time), ordinal) in wanted.into_iter().zip(0..) {
                let of_key = history.iter().filter(|row| (row.slot, row.key) == (slot, key));
                let taken = of_key.filter(|row| cutoff.is_none_or(|cutoff| row.ingest_time <= cutoff));
                let happened: Vec<Seen> =
                    taken.map(|row| row.seen).filter(|seen| seen.version.event_time <= time).collect();
                let finally = happened.iter().max_by_key(|seen| seen.version).copied();
                let known = happened.iter().filter(|seen| seen.version.known_time <= time);
                let as_known = known.max_by_key(|seen| seen.version).copied();
                let expected = if is_final { (finally, as_known) } else { (as_known, finally) };

                let wanted = Wanted { slot, key: &[key], time, ordinal };
                let Counted { answered, otherwise } = as_of.at(&wanted, &Stop::default()).expect("found");
                prop_assert_eq!((answered.map(|row| row.seen), otherwise), expected, "{:?}", wanted);
                if let Some(row) = answered {
                    let number = row.row.block.features[0].as_primitive::<Int64Type>().value(row.row.index as usize);
                    prop_assert_eq!(number, i64::from(row.seen.version.position.ordinal));
                }
            }
        }
    }
}
