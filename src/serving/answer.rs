//! An answer: the rows that were found, and how the request's columns are read from them. It holds
//! rows and not columns, so that who sends it writes each cell once, straight into its message.

use std::sync::Arc;
use std::time::Duration;

use arrow_array::ArrayRef;
use hydrant_storage::names::Name;
use hydrant_storage::order::{CellStatus, Micros, RowStatus};
#[cfg(test)]
use hydrant_storage::row::OwnedRow;
use hydrant_storage::row::{Cell, ColumnBuilder};
use hydrant_storage::value::{DataType, ScalarType, Value};

use super::cells::{AnswerCells, CellValue, ColumnCells, status_of};
use super::keys::RequestKeys;
use super::numbers::to_numbers;
use super::read::{Found, RowsRead};
use super::{OnlineRequest, Provenance};
use crate::error::{Code, Error, Result};
use crate::registry::catalog::{Lookup, ServiceColumn};
use crate::registry::selection::Selection;

/// The answer to one online read.
#[derive(Debug)]
pub struct OnlineAnswer {
    pub(super) selection: Arc<Selection>,
    pub(super) keys: RequestKeys,
    /// Per view of the selection, per key.
    pub(super) found: Vec<Vec<Found>>,
    include_event_times: bool,
    pub provenance: Provenance,
}

/// The values of one feature, as a whole.
#[derive(Clone, Debug)]
pub struct AnswerColumn {
    pub name: String,
    pub data_type: DataType,
    /// Of [`DataType::to_arrow`]; N values, or one where all its keys had length 1. Null where the
    /// status gives no value and there is no default.
    pub values: ArrayRef,
    /// One per value, or a single one where all are alike.
    pub statuses: Vec<CellStatus>,
}

/// The event times of the rows that counted, per view and key mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventTimes {
    /// `name`, or `owner/name` of another tenant's.
    pub view: String,
    /// The request column of each join key.
    pub keys: Vec<Name>,
    /// `None` where no row counts; as long as the lookup's columns.
    pub times: Vec<Option<Micros>>,
}

impl OnlineAnswer {
    pub(super) fn new(
        selection: Arc<Selection>,
        keys: RequestKeys,
        read: RowsRead,
        request: &OnlineRequest,
    ) -> Result<Self> {
        let provenance = Provenance {
            t: read.t,
            registry_revision: selection.revision,
            views: read.views,
            rows_from_history: read.from_history,
        };
        let include_event_times = request.include_event_times;
        let answer = Self { selection, keys, found: read.rows, include_event_times, provenance };
        if request.strict {
            answer.refuse_incomplete(read.not_ready.as_deref())?;
        }
        Ok(answer)
    }

    /// What was asked for. The columns of the answer are the selection's, in its order: the frozen
    /// order of the services, then the single features; each once.
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// N, the number of entity rows. A column whose keys all had one value has one cell.
    pub fn rows(&self) -> usize {
        self.keys.rows
    }

    /// How many cells there are.
    pub fn cell_count(&self) -> usize {
        if self.rows() == 1 {
            return self.selection.columns.len();
        }
        let rows_of = |column: &ServiceColumn| self.keys.of_lookup(&self.selection, column.lookup).len();
        self.selection.columns.iter().map(rows_of).sum()
    }

    /// The entity columns as they were read, in the order of the selection's request columns. Each has
    /// N values, or one for all rows.
    pub fn key_columns(&self) -> &[ArrayRef] {
        &self.keys.columns
    }

    /// The columns, cell by cell.
    pub fn cells(&self) -> AnswerCells<'_> {
        AnswerCells::of(self)
    }

    /// The columns as Arrow arrays.
    pub fn to_columns(&self) -> Result<Vec<AnswerColumn>> {
        let whole = |cells| to_column(cells, usize::MAX).map(|column| column.expect("there is no bound"));
        self.cells().columns().map(whole).collect()
    }

    /// One per lookup, where asked for.
    pub fn event_times(&self) -> Vec<EventTimes> {
        if !self.include_event_times {
            return Vec::new();
        }
        let lookups = self.selection.lookups.iter().enumerate();
        let of_lookup = |(index, lookup): (usize, &Lookup)| EventTimes {
            view: self.selection.views[self.selection.view_of[index]].reference(),
            keys: lookup.keys.clone(),
            times: self.times_of(index),
        };
        lookups.map(of_lookup).collect()
    }

    /// The event time of the row that counts for each of a lookup's keys.
    pub fn times_of(&self, lookup: usize) -> Vec<Option<Micros>> {
        let found = &self.found[self.selection.view_of[lookup]];
        let ttl = self.selection.lookups[lookup].ttl;
        let time = |key: &Option<u32>| match key.map(|key| &found[key as usize]) {
            Some(Found::Row(row)) if status_of(row, ttl, self.provenance.t) != RowStatus::NotFound => {
                Some(row.header().version.event_time)
            }
            _ => None,
        };
        self.keys.of_lookup(&self.selection, lookup).iter().map(time).collect()
    }

    /// A strict request takes all or nothing.
    fn refuse_incomplete(&self, not_ready: Option<&str>) -> Result<()> {
        let cells = self.cells();
        let first = |wanted: CellStatus| {
            cells.columns().find_map(|column| {
                let row = column.iter().position(|(status, _)| status == wanted)?;
                Some((column.column.name.clone(), row))
            })
        };
        if let Some((name, row)) = first(CellStatus::Damaged) {
            let message = format!("the stored row behind column '{name}', row {row}, fails its checksum");
            return Err(Error::new(Code::DataLoss, "ROW_DAMAGED", message).with("column", name).with("row", row));
        }
        if let Some((name, row)) = first(CellStatus::NotReady) {
            let why = not_ready.unwrap_or("its partition did not answer");
            let message = format!("column '{name}', row {row}, is not ready: {why}");
            return Err(Error::new(Code::Unavailable, "NOT_READY", message)
                .with("column", name)
                .with("row", row)
                .retry_after(Duration::from_millis(100)));
        }
        Ok(())
    }
}

impl AnswerColumn {
    fn new(cells: ColumnCells<'_>, values: ArrayRef, mut statuses: Vec<CellStatus>) -> Self {
        if statuses.windows(2).all(|pair| pair[0] == pair[1]) {
            statuses.truncate(1);
        }
        Self { name: cells.column.name.clone(), data_type: cells.data_type(), values, statuses }
    }
}

/// A column as an Arrow array; `None` once its values have more than `most` bytes.
pub fn to_column(cells: ColumnCells<'_>, most: usize) -> Result<Option<AnswerColumn>> {
    let column = cells.column;
    let full = |error| Error::internal(format!("column '{}': {error}", column.name));
    let default_bytes = column.default.as_ref().map_or(0, bytes_beside);
    let mut bytes = cells.len().saturating_mul(fixed_bytes(column.data_type));
    if bytes > most {
        return Ok(None);
    }
    if let Some((values, statuses)) = to_numbers(cells) {
        return Ok(Some(AnswerColumn::new(cells, values, statuses)));
    }
    let mut values = ColumnBuilder::new(column.data_type, cells.len());
    let mut statuses = Vec::with_capacity(cells.len());
    for (status, value) in cells.iter() {
        bytes = bytes.saturating_add(match &value {
            CellValue::Stored(Cell::String(text)) => text.len(),
            CellValue::Stored(Cell::Bytes(bytes)) => bytes.len(),
            CellValue::Stored(Cell::List(list)) => list.stored_bytes(),
            CellValue::Default(_) => default_bytes,
            _ => 0,
        });
        if bytes > most {
            return Ok(None);
        }
        match value {
            CellValue::Stored(cell) => values.push(cell).map_err(full)?,
            CellValue::Default(default) => values.push_value(default).map_err(full)?,
            CellValue::None => values.push_null(),
        }
        statuses.push(status);
    }
    Ok(Some(AnswerColumn::new(cells, values.finish(), statuses)))
}

/// What a cell takes in its column whatever its value, at least.
fn fixed_bytes(data_type: DataType) -> usize {
    match data_type {
        DataType::Scalar(ScalarType::Bool) => 0,
        DataType::Scalar(ScalarType::Int64 | ScalarType::Float64 | ScalarType::Timestamp) => 8,
        // Of text and lists it is where they end.
        DataType::Scalar(_) | DataType::List(_) => 4,
        DataType::Vector(dimension) => dimension as usize * 4,
    }
}

/// What a value takes beside that, about.
fn bytes_beside(value: &Value) -> usize {
    let element = |value: &Value| match value {
        Value::String(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        _ => 8,
    };
    match value {
        Value::String(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        Value::List(elements) => elements.iter().map(element).sum(),
        _ => 0,
    }
}

/// What a test says was found for a key.
#[cfg(test)]
#[derive(Clone, Debug)]
pub(crate) enum MadeUp {
    Row(OwnedRow),
    Absent,
    Damaged,
    NotReady,
}

#[cfg(test)]
impl OnlineAnswer {
    /// An answer of so many rows at `t`: for each lookup, which has one request column, which key each
    /// row has, or one for all rows; for each view what was found for its keys.
    pub(crate) fn made_up(
        selection: Selection,
        rows: usize,
        lookups: Vec<Vec<Option<u32>>>,
        views: Vec<Vec<MadeUp>>,
        include_event_times: bool,
        t: Micros,
    ) -> Self {
        let found = |made_up: MadeUp| match made_up {
            MadeUp::Row(row) => Found::Row(Arc::new(row)),
            MadeUp::Absent => Found::Absent,
            MadeUp::Damaged => Found::Damaged,
            MadeUp::NotReady => Found::NotReady,
        };
        let found = views.into_iter().map(|view| view.into_iter().map(found).collect()).collect();
        let provenance = Provenance { t, registry_revision: 1, views: Vec::new(), rows_from_history: 0 };
        let keys = RequestKeys::made_up(&selection, rows, lookups);
        Self { selection: Arc::new(selection), keys, found, include_event_times, provenance }
    }
}
