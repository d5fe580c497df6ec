//! An online answer whose values are one stream of Arrow's IPC format: the same cells as in the plain
//! form, read from the same rows into Arrow's builders, in the columns of a training set.

use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray, UInt32Array};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, Schema};
use arrow_select::take::take;
use hydrant_proto::v1;
use hydrant_storage::order::{CellStatus, Micros};
use hydrant_storage::slices::slice_bytes;

use super::{encode_whole, rest_of, services_of, to_u32};
use crate::error::{Error, Result};
use crate::registry::table::Beside;
use crate::rpc::status::{MessageLimit, message_too_large};
use crate::rpc::unary::Outgoing;
use crate::serving::{OnlineAnswer, to_column};

/// The bytes of an answer. RESOURCE_EXHAUSTED as soon as its columns take more than `limit` allows.
pub(super) fn encode(answer: &OnlineAnswer, beside: Beside, first_row: u64, limit: MessageLimit) -> Result<Outgoing> {
    let too_large = || message_too_large(limit, "the answer is larger");
    let most = usize::try_from(limit.bytes).unwrap_or(usize::MAX);
    let mut table = Table { rows: answer.rows(), columns: Vec::new(), bytes: 0, most, first: None };
    for keys in answer.key_columns() {
        table.push(keys.clone())?.ok_or_else(too_large)?;
    }
    let cells = answer.cells();
    // Columns of one lookup mostly stand together.
    let mut times: Option<(usize, Vec<Option<Micros>>)> = None;
    for cells in cells.columns() {
        let column = to_column(cells, most - table.bytes)?.ok_or_else(too_large)?;
        let length = column.values.len();
        table.push(column.values)?.ok_or_else(too_large)?;
        if beside.status {
            table.push(status_column(&column.statuses, length))?.ok_or_else(too_large)?;
        }
        if beside.event_time {
            let lookup = cells.column.lookup;
            let (_, times) = match times.take() {
                Some(known) if known.0 == lookup => times.insert(known),
                _ => times.insert((lookup, answer.times_of(lookup))),
            };
            table.push(time_column(times, &column.statuses))?.ok_or_else(too_large)?;
        }
    }
    let response = v1::GetOnlineFeaturesResponse {
        arrow_ipc: table.into_stream(beside.schema(answer.selection()))?,
        services: places_of_services(answer, beside),
        ..rest_of(answer, first_row)
    };
    encode_whole(&[], &response, limit)
}

/// The services with the places of their features among the record batch's columns.
fn places_of_services(answer: &OnlineAnswer, beside: Beside) -> Vec<v1::ServiceColumns> {
    let keys = answer.key_columns().len();
    let mut services: Vec<v1::ServiceColumns> = services_of(answer.selection()).collect();
    for column in services.iter_mut().flat_map(|service| &mut service.columns) {
        *column = to_u32(keys + *column as usize * beside.width());
    }
    services
}

/// The columns of a record batch, as far as they are made.
struct Table {
    rows: usize,
    columns: Vec<ArrayRef>,
    /// What they take, and may take.
    bytes: usize,
    most: usize,
    /// For each row the first.
    first: Option<UInt32Array>,
}

impl Table {
    /// A column of as many values as there are rows, or of one that stands for all; `None` where it
    /// has no room.
    fn push(&mut self, column: ArrayRef) -> Result<Option<()>> {
        let is_whole = column.len() == self.rows;
        let repeats = if is_whole { 1 } else { self.rows };
        let bytes = bytes_of(&column).saturating_mul(repeats).saturating_add(self.bytes);
        if bytes > self.most {
            return Ok(None);
        }
        self.bytes = bytes;
        let first = || UInt32Array::from(vec![0; self.rows]);
        let column = match is_whole {
            true => column,
            false => take(&column, self.first.get_or_insert_with(first), None).map_err(unwritten)?,
        };
        self.columns.push(column);
        Ok(Some(()))
    }

    fn into_stream(self, schema: Schema) -> Result<Vec<u8>> {
        let written = || {
            let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
            // Beside the values each column has its name and type, and its buffers are padded.
            let mut stream = Vec::with_capacity(1_024 + self.bytes + 384 * self.columns.len());
            let batch = RecordBatch::try_new_with_options(Arc::new(schema), self.columns, &options)?;
            let mut writer = StreamWriter::try_new(&mut stream, &batch.schema())?;
            writer.write(&batch)?;
            writer.finish()?;
            drop(writer);
            Ok(stream)
        };
        written().map_err(unwritten)
    }
}

/// What a column takes, about.
fn bytes_of(column: &ArrayRef) -> usize {
    match column.data_type().primitive_width() {
        Some(width) => width * column.len(),
        None => slice_bytes(column),
    }
}

/// One status each, or a single one where all are alike.
fn status_column(statuses: &[CellStatus], length: usize) -> ArrayRef {
    let mut texts = StringBuilder::with_capacity(length, length * 8);
    for row in 0..length {
        texts.append_value(statuses[if statuses.len() == 1 { 0 } else { row }].as_str());
    }
    Arc::new(texts.finish())
}

/// The times of the cells' rows; a feature that its row doesn't have yet has none, nor has what is masked.
fn time_column(times: &[Option<Micros>], statuses: &[CellStatus]) -> ArrayRef {
    let status = |row: usize| statuses[if statuses.len() == 1 { 0 } else { row }];
    let times = times
        .iter()
        .enumerate()
        .map(|(row, time)| time.filter(|_| !matches!(status(row), CellStatus::NotFound | CellStatus::Masked)));
    Arc::new(times.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

fn unwritten(error: ArrowError) -> Error {
    Error::internal(format!("an answer can't be written in Arrow: {error}"))
}
