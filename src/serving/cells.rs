//! What every cell of an answer is: its status, and its value or the feature's default, by the one
//! rule of `storage::order` that training follows too. Cells are read straight from the rows, column
//! by column, when the answer is written; nothing here waits, reads a store or knows a transport.

use std::ops::Range;

use hydrant_storage::order::{CellStatus, Micros, RowStatus, missing_cell_status, row_status};
use hydrant_storage::row::{Cell, DamagedRow, OpenRow, OwnedRow, RowKind, RowLayout};
use hydrant_storage::value::{DataType, Value};

use super::OnlineAnswer;
use super::read::Found;
use crate::registry::catalog::{Lookup, ServiceColumn};

/// The cells of an answer.
#[derive(Debug)]
pub struct AnswerCells<'a> {
    answer: &'a OnlineAnswer,
    /// Of all lookups, one behind the other, per request row.
    rows: Vec<RowCells<'a>>,
    /// Where those of each lookup end.
    ends: Vec<usize>,
}

/// What a row means to one lookup, for all of its cells.
#[derive(Clone, Copy, Debug)]
enum RowCells<'a> {
    /// No row to read: the same status in every cell.
    Without(CellStatus),
    /// A row that doesn't count any more, or can't be read, of so many features.
    Unread {
        status: CellStatus,
        feature_count: usize,
    },
    Live(OpenRow<'a>),
}

/// The cells of one feature.
#[derive(Clone, Copy, Debug)]
pub struct ColumnCells<'a> {
    pub column: &'a ServiceColumn,
    layout: &'a RowLayout,
    rows: &'a [RowCells<'a>],
}

/// One cell's value.
#[derive(Clone, Copy, Debug)]
pub enum CellValue<'a> {
    /// As the row has it; never [`Cell::Null`].
    Stored(Cell<'a>),
    Default(&'a Value),
    /// Null, or missing without a default.
    None,
}

/// One cell's value, of a type of fixed width, little endian.
#[derive(Clone, Copy, Debug)]
pub enum CellBytes<'a> {
    Stored(&'a [u8]),
    Default,
    None,
}

impl<'a> AnswerCells<'a> {
    pub(super) fn of(answer: &'a OnlineAnswer) -> Self {
        let selection = &answer.selection;
        let keys_of = |lookup| answer.keys.of_lookup(selection, lookup);
        let mut rows = Vec::with_capacity((0..selection.lookups.len()).map(|lookup| keys_of(lookup).len()).sum());
        let mut ends = Vec::with_capacity(selection.lookups.len());
        for (index, lookup) in selection.lookups.iter().enumerate() {
            let found = &answer.found[selection.view_of[index]];
            rows.extend(
                keys_of(index)
                    .iter()
                    .map(|key| row_cells(key.map(|key| &found[key as usize]), lookup, answer.provenance.t)),
            );
            ends.push(rows.len());
        }
        Self { answer, rows, ends }
    }

    fn rows_of(&self, lookup: usize) -> &[RowCells<'a>] {
        let begin = lookup.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.rows[begin..self.ends[lookup]]
    }

    /// The values of consecutive features of one lookup, all numbers or times, one behind the other: where the
    /// lookup has one row and all of them are in it. Whether they are masked isn't looked at: not to be asked for
    /// those that are.
    pub fn only_present(&self, lookup: usize, features: Range<usize>) -> Option<&'a [u8]> {
        let [RowCells::Live(open)] = self.rows_of(lookup) else { return None };
        open.fixed_run(&self.answer.selection.lookups[lookup].view.layout, features)
    }

    /// In the order of the answer's columns.
    pub fn columns(&self) -> impl Iterator<Item = ColumnCells<'_>> {
        self.answer.selection.columns.iter().map(|column| {
            let lookup = &self.answer.selection.lookups[column.lookup];
            ColumnCells { column, layout: &lookup.view.layout, rows: self.rows_of(column.lookup) }
        })
    }
}

impl<'a> ColumnCells<'a> {
    pub fn data_type(&self) -> DataType {
        self.column.data_type
    }

    /// N, or 1 where all keys of the column had length 1.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Each cell, row by row.
    pub fn iter(self) -> impl Iterator<Item = (CellStatus, CellValue<'a>)> {
        self.rows.iter().map(move |row| {
            let (status, stored) = self.read(row, |open| match open.cell(self.layout, self.column.feature)? {
                Cell::Null => Ok(None),
                cell => Ok(Some(cell)),
            });
            let value = match stored {
                Some(cell) => CellValue::Stored(cell),
                None => self.default_for(status).map_or(CellValue::None, CellValue::Default),
            };
            (status, value)
        })
    }

    /// Each cell of a column of numbers, times or vectors, row by row, without reading its value.
    pub fn iter_bytes(self) -> impl Iterator<Item = (CellStatus, CellBytes<'a>)> {
        self.rows.iter().map(move |row| {
            let (status, stored) = self.read(row, |open| open.fixed_bytes(self.layout, self.column.feature));
            let value = match stored {
                Some(bytes) => CellBytes::Stored(bytes),
                None => self.default_for(status).map_or(CellBytes::None, |_| CellBytes::Default),
            };
            (status, value)
        })
    }

    fn default_for(&self, status: CellStatus) -> Option<&'a Value> {
        self.column.default.as_ref().filter(|_| status.takes_default())
    }

    fn read<T>(
        &self,
        row: &RowCells<'a>,
        value: impl FnOnce(&OpenRow<'a>) -> Result<Option<T>, DamagedRow>,
    ) -> (CellStatus, Option<T>) {
        if self.column.is_masked {
            return (CellStatus::Masked, None);
        }
        let feature = self.column.feature;
        match row {
            RowCells::Without(status) => (*status, None),
            RowCells::Unread { feature_count, .. } if feature >= *feature_count => (CellStatus::NotFound, None),
            RowCells::Unread { status, .. } => (*status, None),
            RowCells::Live(open) => match missing_cell_status(RowStatus::Live, feature, open.feature_count()) {
                Some(status) => (status, None),
                None => match value(open) {
                    Ok(Some(value)) => (CellStatus::Present, Some(value)),
                    Ok(None) => (CellStatus::Null, None),
                    Err(_) => (CellStatus::Damaged, None),
                },
            },
        }
    }
}

fn row_cells<'a>(found: Option<&'a Found>, lookup: &Lookup, t: Micros) -> RowCells<'a> {
    let row = match found {
        None | Some(Found::Absent) => return RowCells::Without(CellStatus::NotFound),
        Some(Found::NotReady) => return RowCells::Without(CellStatus::NotReady),
        Some(Found::Damaged) => return RowCells::Without(CellStatus::Damaged),
        Some(Found::Row(row)) => row,
    };
    let feature_count = usize::from(row.header().feature_count);
    match status_of(row, lookup.ttl, t) {
        RowStatus::NotFound => RowCells::Without(CellStatus::NotFound),
        RowStatus::Expired => RowCells::Unread { status: CellStatus::Expired, feature_count },
        RowStatus::Live => match row.as_row().open(&lookup.view.layout) {
            Ok(open) => RowCells::Live(open),
            Err(_) => RowCells::Unread { status: CellStatus::Damaged, feature_count },
        },
    }
}

/// What a row says at `t` under a lookup's ttl.
pub(super) fn status_of(row: &OwnedRow, ttl: Option<Micros>, t: Micros) -> RowStatus {
    let header = row.header();
    match header.kind {
        // Only its header is left: it had expired under the longest ttl there is.
        RowKind::ExpiredStub => RowStatus::Expired,
        RowKind::Full | RowKind::Tombstone => {
            row_status(Some((header.version.event_time, header.kind == RowKind::Tombstone)), t, ttl)
        }
    }
}
