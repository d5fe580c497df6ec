//! From rows to columns: every cell gets its value or default and its status, by the one rule of
//! `storage::order` that training follows too. Nothing here waits or reads a store.

use hydrant_storage::order::{CellStatus, Micros, RowStatus, missing_cell_status, row_status};
use hydrant_storage::row::{ColumnBuilder, OwnedRow, RowKind};

use super::keys::RequestKeys;
use super::read::{Found, RowsRead};
use super::{AnswerColumn, AnswerService, EventTimes, OnlineAnswer, OnlineRequest, Provenance};
use crate::error::{Code, Error, Result};
use crate::registry::catalog::{Lookup, ServiceColumn};
use crate::registry::selection::Selection;

/// What a row means to one lookup, for all of its cells.
enum Outcome<'a> {
    /// No row to read: the same status in every cell.
    Without(CellStatus),
    Row {
        row: &'a OwnedRow,
        status: RowStatus,
    },
}

pub(super) fn assemble(
    selection: &Selection,
    keys: &RequestKeys,
    read: RowsRead,
    request: &OnlineRequest,
) -> Result<OnlineAnswer> {
    let outcomes: Vec<Vec<Outcome<'_>>> = selection
        .lookups
        .iter()
        .zip(&keys.lookups)
        .map(|(lookup, of_lookup)| {
            let rows = &read.rows[of_lookup.view];
            of_lookup.rows.iter().map(|key| outcome(key.map(|key| &rows[key]), read.t, lookup.ttl)).collect()
        })
        .collect();
    let mut columns = Vec::with_capacity(selection.columns.len());
    for column in &selection.columns {
        columns.push(answer_column(column, &selection.lookups[column.lookup], &outcomes[column.lookup])?);
    }
    if request.strict {
        refuse_incomplete(&columns, read.not_ready.as_deref())?;
    }
    let event_times = match request.include_event_times {
        true => selection.lookups.iter().zip(&outcomes).map(|(lookup, rows)| event_times(lookup, rows)).collect(),
        false => Vec::new(),
    };
    let services = selection.services.iter().map(|selected| AnswerService {
        service: selected.version.service.clone(),
        version: selected.version.number,
        columns: selected.columns.clone(),
    });
    Ok(OnlineAnswer {
        columns,
        services: services.collect(),
        features: selection.features.clone(),
        rows: keys.rows,
        event_times,
        provenance: Provenance {
            t: read.t,
            registry_revision: selection.revision,
            views: read.views,
            rows_from_history: read.from_history,
        },
    })
}

fn outcome(found: Option<&Found>, t: Micros, ttl: Option<Micros>) -> Outcome<'_> {
    let row = match found {
        None | Some(Found::Absent) => return Outcome::Without(CellStatus::NotFound),
        Some(Found::NotReady) => return Outcome::Without(CellStatus::NotReady),
        Some(Found::Damaged) => return Outcome::Without(CellStatus::Damaged),
        Some(Found::Row(row)) => row,
    };
    let header = row.header();
    let tombstone = header.kind == RowKind::Tombstone;
    let status = match header.kind {
        // Only its header is left: it had expired under the longest ttl there is.
        RowKind::ExpiredStub => RowStatus::Expired,
        RowKind::Full | RowKind::Tombstone => row_status(Some((header.version.event_time, tombstone)), t, ttl),
    };
    Outcome::Row { row, status }
}

fn answer_column(column: &ServiceColumn, lookup: &Lookup, rows: &[Outcome<'_>]) -> Result<AnswerColumn> {
    let mut values = ColumnBuilder::new(column.data_type, rows.len());
    let mut statuses = Vec::with_capacity(rows.len());
    let full = |error| Error::internal(format!("column '{}': {error}", column.name));
    for outcome in rows {
        let status = match outcome {
            Outcome::Without(status) => *status,
            Outcome::Row { row, status } => {
                let feature_count = usize::from(row.header().feature_count);
                match missing_cell_status(*status, column.feature, feature_count) {
                    Some(status) => status,
                    None => match row.cell(&lookup.view.layout, column.feature) {
                        Ok(hydrant_storage::row::Cell::Null) => CellStatus::Null,
                        Ok(cell) => {
                            values.push(cell).map_err(full)?;
                            statuses.push(CellStatus::Present);
                            continue;
                        }
                        Err(_) => CellStatus::Damaged,
                    },
                }
            }
        };
        match column.default.as_ref().filter(|_| status.takes_default()) {
            Some(default) => values.push_value(default).map_err(full)?,
            None => values.push_null(),
        }
        statuses.push(status);
    }
    if statuses.windows(2).all(|pair| pair[0] == pair[1]) {
        statuses.truncate(1);
    }
    let name = column.name.clone();
    Ok(AnswerColumn { name, data_type: column.data_type, values: values.finish(), statuses })
}

fn event_times(lookup: &Lookup, rows: &[Outcome<'_>]) -> EventTimes {
    let time = |outcome: &Outcome<'_>| match outcome {
        Outcome::Row { row, status } if *status != RowStatus::NotFound => Some(row.header().version.event_time),
        _ => None,
    };
    EventTimes { view: lookup.view.name.clone(), keys: lookup.keys.clone(), times: rows.iter().map(time).collect() }
}

/// A strict request takes all or nothing.
fn refuse_incomplete(columns: &[AnswerColumn], not_ready: Option<&str>) -> Result<()> {
    let first = |status: CellStatus| {
        columns.iter().find_map(|column| {
            let row = column.statuses.iter().position(|found| *found == status)?;
            Some((&column.name, row))
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
            .retry_after(std::time::Duration::from_millis(100)));
    }
    Ok(())
}
