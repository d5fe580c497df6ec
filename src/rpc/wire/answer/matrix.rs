//! An answer whose values are matrices: row after row of float64, as a model takes them. The same
//! cells as in the plain form, without names and of one type.

use hydrant_proto::v1;
use hydrant_storage::order::CellStatus;
use hydrant_storage::row::Cell;
use hydrant_storage::value::{DataType, ScalarType, Value};

use super::template::Template;
use super::{encode_whole, little_endian, rest_of, to_u32};
use crate::error::{Error, Result};
use crate::rpc::status::{MessageLimit, message_too_large};
use crate::rpc::unary::Outgoing;
use crate::serving::{CellBytes, CellValue, ColumnCells, OnlineAnswer};

/// What a value takes in the message.
const VALUE_BYTES: usize = size_of::<f64>();

/// The bytes of an answer, all of whose columns are numbers. RESOURCE_EXHAUSTED as soon as there are
/// more than `limit` allows.
pub(super) fn encode(answer: &OnlineAnswer, first_row: u64, limit: MessageLimit) -> Result<Outgoing> {
    let too_large = || message_too_large(limit, "the answer is larger");
    let most = usize::try_from(limit.bytes).unwrap_or(usize::MAX);
    let (cells, rows) = (answer.cells(), answer.rows());
    let (each, shared): (Vec<_>, Vec<_>) = cells.columns().enumerate().partition(|(_, column)| column.len() == rows);
    let mut room = most;
    let mut matrices = Vec::with_capacity(2);
    for columns in [each, shared].into_iter().filter(|columns| !columns.is_empty()) {
        let bytes = values_of(&columns).saturating_mul(VALUE_BYTES);
        room = room.checked_sub(bytes).ok_or_else(too_large)?;
        matrices.push(matrix(&columns)?);
    }
    let response = v1::GetOnlineFeaturesResponse { matrices, ..rest_of(answer, first_row) };
    encode_whole(&Template::of(answer.selection()).services, &response, limit)
}

/// How many values columns of one length have.
fn values_of(columns: &[(usize, ColumnCells<'_>)]) -> usize {
    let in_row: usize = columns.iter().map(|(_, column)| width(column.data_type())).sum();
    in_row.saturating_mul(columns.first().map_or(0, |(_, column)| column.len()))
}

fn matrix(columns: &[(usize, ColumnCells<'_>)]) -> Result<v1::FeatureMatrix> {
    let rows = columns.first().map_or(0, |(_, column)| column.len());
    let widths: Vec<usize> = columns.iter().map(|(_, column)| width(column.data_type())).collect();
    let in_row: usize = widths.iter().sum();
    let mut values = vec![f64::NAN; rows * in_row];
    let mut statuses = vec![0; rows * columns.len()];
    let mut begin = 0;
    for (place, ((_, column), width)) in columns.iter().zip(&widths).enumerate() {
        // Every row's part of the column, and its status there.
        let values = values.chunks_exact_mut(in_row).map(|row| &mut row[begin..begin + width]);
        let statuses = statuses.iter_mut().skip(place).step_by(columns.len());
        read(*column, values.zip(statuses))?;
        begin += width;
    }
    if statuses.iter().all(|status| *status == statuses[0]) {
        statuses.truncate(1);
    }
    let widths = if in_row == columns.len() { Vec::new() } else { widths.into_iter().map(to_u32).collect() };
    let columns = columns.iter().map(|(number, _)| to_u32(*number)).collect();
    Ok(v1::FeatureMatrix { rows: to_u32(rows), columns, widths, values, statuses })
}

/// How many values of a row a column takes.
fn width(data_type: DataType) -> usize {
    match data_type {
        DataType::Vector(dimension) => dimension as usize,
        DataType::Scalar(_) | DataType::List(_) => 1,
    }
}

/// Fills the places of a column in.
fn read<'a>(column: ColumnCells<'_>, places: impl Iterator<Item = (&'a mut [f64], &'a mut i32)>) -> Result<()> {
    match column.data_type() {
        DataType::Scalar(ScalarType::Float64) => numbers(column, places, f64::from_le_bytes),
        DataType::Scalar(ScalarType::Float32) | DataType::Vector(_) => {
            numbers(column, places, |bytes| f32::from_le_bytes(bytes).into())
        }
        DataType::Scalar(ScalarType::Int32) => numbers(column, places, |bytes| i32::from_le_bytes(bytes).into()),
        // The nearest, where it is no float64.
        DataType::Scalar(ScalarType::Int64 | ScalarType::Timestamp) => {
            numbers(column, places, |bytes| i64::from_le_bytes(bytes) as f64)
        }
        // A byte that is neither true nor false is damage, which only the cell tells.
        DataType::Scalar(ScalarType::Bool) => {
            for ((status, value), (place, told)) in column.iter().zip(places) {
                *told = wire(status);
                match value {
                    CellValue::Stored(Cell::Bool(value)) => place[0] = f64::from(u8::from(value)),
                    CellValue::Default(Value::Bool(value)) => place[0] = f64::from(u8::from(*value)),
                    CellValue::None => {}
                    CellValue::Stored(_) | CellValue::Default(_) => return Err(no_number(column)),
                }
            }
            Ok(())
        }
        DataType::Scalar(ScalarType::String | ScalarType::Bytes) | DataType::List(_) => Err(no_number(column)),
    }
}

/// Of numbers of `N` bytes, one or several a cell.
fn numbers<'a, const N: usize>(
    column: ColumnCells<'_>,
    places: impl Iterator<Item = (&'a mut [f64], &'a mut i32)>,
    to_number: impl Fn([u8; N]) -> f64,
) -> Result<()> {
    let default = column.column.default.as_ref().map(little_endian).unwrap_or_default();
    for ((status, value), (place, told)) in column.iter_bytes().zip(places) {
        *told = wire(status);
        let bytes = match value {
            CellBytes::Stored(bytes) => bytes,
            CellBytes::Default => &default,
            CellBytes::None => continue,
        };
        let (numbers, rest) = bytes.as_chunks::<N>();
        if numbers.len() != place.len() || !rest.is_empty() {
            return Err(no_number(column));
        }
        place.iter_mut().zip(numbers).for_each(|(place, bytes)| *place = to_number(*bytes));
    }
    Ok(())
}

fn wire(status: CellStatus) -> i32 {
    i32::from(status as u8)
}

/// Selections of other columns are refused before anything is read.
fn no_number(column: ColumnCells<'_>) -> Error {
    Error::internal(format!("column '{}' holds no numbers", column.column.name))
}
