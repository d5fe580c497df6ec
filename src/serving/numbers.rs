//! Columns of numbers and times as Arrow arrays: they are copied as the rows hold them, without asking
//! each cell for its type.

use std::sync::Arc;

use arrow_array::types::{
    ArrowPrimitiveType, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use arrow_array::{ArrayRef, PrimitiveArray};
use arrow_buffer::{NullBufferBuilder, ScalarBuffer};
use hydrant_storage::order::CellStatus;
use hydrant_storage::value::{DataType, ScalarType, Value};

use super::cells::{CellBytes, ColumnCells};

/// The values and statuses of a column, of N cells each; `None` where it is of another type.
pub(super) fn to_numbers(cells: ColumnCells<'_>) -> Option<(ArrayRef, Vec<CellStatus>)> {
    let DataType::Scalar(scalar) = cells.data_type() else { return None };
    match (scalar, &cells.column.default) {
        (ScalarType::Int32, None) => Some(numbers::<Int32Type, 4>(cells, 0, i32::from_le_bytes)),
        (ScalarType::Int32, Some(Value::Int32(default))) => {
            Some(numbers::<Int32Type, 4>(cells, *default, i32::from_le_bytes))
        }
        (ScalarType::Int64, None) => Some(numbers::<Int64Type, 8>(cells, 0, i64::from_le_bytes)),
        (ScalarType::Int64, Some(Value::Int64(default))) => {
            Some(numbers::<Int64Type, 8>(cells, *default, i64::from_le_bytes))
        }
        (ScalarType::Float32, None) => Some(numbers::<Float32Type, 4>(cells, 0.0, f32::from_le_bytes)),
        (ScalarType::Float32, Some(Value::Float32(default))) => {
            Some(numbers::<Float32Type, 4>(cells, *default, f32::from_le_bytes))
        }
        (ScalarType::Float64, None) => Some(numbers::<Float64Type, 8>(cells, 0.0, f64::from_le_bytes)),
        (ScalarType::Float64, Some(Value::Float64(default))) => {
            Some(numbers::<Float64Type, 8>(cells, *default, f64::from_le_bytes))
        }
        (ScalarType::Timestamp, None) => Some(numbers::<TimestampMicrosecondType, 8>(cells, 0, i64::from_le_bytes)),
        (ScalarType::Timestamp, Some(Value::Timestamp(default))) => {
            Some(numbers::<TimestampMicrosecondType, 8>(cells, *default, i64::from_le_bytes))
        }
        _ => None,
    }
}

/// `default` stands where a cell takes one.
fn numbers<T: ArrowPrimitiveType, const WIDTH: usize>(
    cells: ColumnCells<'_>,
    default: T::Native,
    read: fn([u8; WIDTH]) -> T::Native,
) -> (ArrayRef, Vec<CellStatus>) {
    let mut values = Vec::with_capacity(cells.len());
    let mut statuses = Vec::with_capacity(cells.len());
    let mut validity = NullBufferBuilder::new(cells.len());
    for (status, value) in cells.iter_bytes() {
        statuses.push(status);
        let value = match value {
            CellBytes::Stored(bytes) => Some(read(bytes.try_into().expect("a row's layout gives each type its width"))),
            CellBytes::Default => Some(default),
            CellBytes::None => None,
        };
        validity.append(value.is_some());
        values.push(value.unwrap_or_default());
    }
    let array = PrimitiveArray::<T>::new(ScalarBuffer::from(values), validity.finish());
    (Arc::new(array.with_data_type(cells.data_type().to_arrow())), statuses)
}
