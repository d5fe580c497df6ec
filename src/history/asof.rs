//! The point-in-time merge of one view: walks the spine's wanted rows and the view's history
//! together, both in the order (slot, key, time), and tells for each wanted row which history row
//! counts. It holds one candidate, and the rows that have happened but aren't known yet. Expiry and
//! tombstones are no concern of it: the row that counts says so itself.

use hydrant_storage::order::{Micros, RowVersion};

use super::block::BlockRow;
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

/// A history row that may be the one that counts.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub version: RowVersion,
    pub deleted: bool,
    /// Its features.
    pub row: BlockRow,
}

/// A view's history, read forwards only: rows of a key in ascending order of their version, no row
/// past the cut-off.
pub trait HistoryRows {
    /// Goes to the first row at or after the key, never back.
    fn seek(&mut self, slot: u16, key: &[u8]) -> Result<(), JoinError>;

    /// The next row, if it is the key's and has happened by `until`.
    fn next_of(&mut self, slot: u16, key: &[u8], until: Micros) -> Result<Option<Candidate>, JoinError>;
}

/// What one view says about one spine row.
#[derive(Debug)]
pub struct Counted<'a> {
    pub as_known: Option<&'a Candidate>,
    pub finally: Option<&'a Candidate>,
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
    rows_read: u32,
    as_known: Option<Candidate>,
    finally: Option<Candidate>,
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
            as_known: None,
            finally: None,
            waiting,
        }
    }

    /// The rows that count for `wanted`; calls come in ascending order. Between two spine rows there
    /// may be any number of history rows, so `stop` is asked here too.
    pub fn at(&mut self, wanted: &Wanted<'_>, stop: &Stop) -> Result<Counted<'_>, JoinError> {
        const ROWS_BETWEEN_LOOKS: u32 = 16_384;
        if !self.started || self.slot != wanted.slot || self.key != wanted.key {
            self.begin_key(wanted)?;
        }
        // The last row that is only compared, never answered from.
        let mut compared = None;
        while let Some(row) = self.rows.next_of(self.slot, &self.key, wanted.time)? {
            self.rows_read = self.rows_read.wrapping_add(1);
            if self.rows_read.is_multiple_of(ROWS_BETWEEN_LOOKS) {
                stop.check()?;
            }
            let (version, deleted) = (row.version, row.deleted);
            let is_visible = version.is_visible_at(wanted.time);
            let waits = !is_visible && version.known_time <= self.last_time;
            if is_visible {
                // It is greater than all that wait, whether they are known by now or not.
                self.waiting.clear();
            }
            match self.mode {
                Mode::AsKnown => {
                    compared = Some((version, deleted));
                    if is_visible {
                        self.as_known = Some(row);
                    } else if waits {
                        self.waiting.push(row)?;
                    }
                }
                Mode::Final => {
                    if is_visible {
                        compared = Some((version, deleted));
                    } else if waits {
                        self.waiting.push(without_features(version, deleted))?;
                    }
                    self.finally = Some(row);
                }
            }
        }
        if let Some((version, deleted)) = compared {
            match self.mode {
                Mode::AsKnown => self.finally = Some(without_features(version, deleted)),
                Mode::Final => self.as_known = Some(without_features(version, deleted)),
            }
        }
        while let Some(row) = self.waiting.pop_visible(wanted.time)? {
            self.as_known = Some(row);
        }
        Ok(Counted { as_known: self.as_known.as_ref(), finally: self.finally.as_ref() })
    }

    fn begin_key(&mut self, wanted: &Wanted<'_>) -> Result<(), JoinError> {
        self.rows.seek(wanted.slot, wanted.key)?;
        self.started = true;
        self.slot = wanted.slot;
        self.key.clear();
        self.key.extend_from_slice(wanted.key);
        self.as_known = None;
        self.finally = None;
        self.waiting.clear();
        Ok(())
    }
}

fn without_features(version: RowVersion, deleted: bool) -> Candidate {
    Candidate { version, deleted, row: BlockRow::without_features() }
}
