//! Bodies out of columns: what ingest does once for each row, before the log.

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef};

use super::cell::is_column_of;
use super::layout::{PREFIX_LENGTH, RowLayout, bitmap_length, fixed_width, scalar_width, set_bit};
use super::{ColumnError, MAX_BODY_LENGTH};
use crate::value::{DataType, ScalarType};

/// Why columns can't be packed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    #[error("{given} columns for a row of {expected} features")]
    ColumnCount { expected: usize, given: usize },
    #[error("column {column}: {source}")]
    WrongType { column: usize, source: ColumnError },
    #[error("column {column} has {given} rows where others have {expected}")]
    UnevenColumns { column: usize, expected: usize, given: usize },
    #[error("column {column}, row {row}: a vector with a null element")]
    NullInVector { column: usize, row: usize },
    #[error("row {row} takes more than {MAX_BODY_LENGTH} bytes")]
    TooLong { row: usize },
}

/// Packs the rows of a batch.
#[derive(Debug)]
pub struct RowPacker<'a> {
    layout: &'a RowLayout,
    columns: Vec<Option<ArrayRef>>,
}

impl<'a> RowPacker<'a> {
    /// `columns` are the features' columns in the layout's order, of their types and of one length;
    /// `None` where the batch has no such column, and the feature is null.
    pub fn new(layout: &'a RowLayout, columns: Vec<Option<ArrayRef>>) -> Result<Self, PackError> {
        if columns.len() != layout.len() {
            return Err(PackError::ColumnCount { expected: layout.len(), given: columns.len() });
        }
        let mut rows = None;
        for (column, (array, data_type)) in columns.iter().zip(layout.types()).enumerate() {
            let Some(array) = array else { continue };
            if !is_column_of(array, *data_type) {
                let source = ColumnError::WrongType { expected: *data_type, given: array.data_type().to_string() };
                return Err(PackError::WrongType { column, source });
            }
            let expected = *rows.get_or_insert(array.len());
            if array.len() != expected {
                return Err(PackError::UnevenColumns { column, expected, given: array.len() });
            }
        }
        Ok(Self { layout, columns })
    }

    /// How many features a packed body holds.
    pub fn feature_count(&self) -> u16 {
        u16::try_from(self.layout.len()).expect("a layout has at most 65,535 features")
    }

    /// Appends the body of one row to `out`; on an error nothing is appended.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn pack(&self, row: usize, out: &mut Vec<u8>) -> Result<(), PackError> {
        let begin = out.len();
        let packed = self.pack_at(begin, row, out);
        if packed.is_err() {
            out.truncate(begin);
        }
        packed
    }

    fn pack_at(&self, begin: usize, row: usize, out: &mut Vec<u8>) -> Result<(), PackError> {
        let fixed_end = self.layout.fixed_end();
        if fixed_end > MAX_BODY_LENGTH {
            return Err(PackError::TooLong { row });
        }
        out.resize(begin + fixed_end, 0);
        // Lengths are checked against MAX_BODY_LENGTH, so that each fits a u32.
        out[begin..begin + PREFIX_LENGTH].copy_from_slice(&(fixed_end as u32).to_le_bytes());
        let bitmap = begin + PREFIX_LENGTH;
        let mut fixed = bitmap + bitmap_length(self.layout.len());
        for (column, (array, data_type)) in self.columns.iter().zip(self.layout.types()).enumerate() {
            let width = fixed_width(*data_type);
            let place = fixed..fixed + width;
            fixed += width;
            let present = array.as_ref().filter(|array| array.is_valid(row));
            if present.is_none() {
                set_bit(&mut out[bitmap..], column);
            }
            match (present, *data_type) {
                (Some(array), DataType::Scalar(scalar)) if scalar_width(scalar).is_some() => {
                    write_fixed(array, scalar, row, &mut out[place]);
                    continue;
                }
                (Some(array), DataType::Vector(_)) => {
                    write_vector(array, row, &mut out[place]).map_err(|()| PackError::NullInVector { column, row })?;
                    continue;
                }
                (None, DataType::Vector(_)) => continue,
                (None, DataType::Scalar(scalar)) if scalar_width(scalar).is_some() => continue,
                (Some(array), DataType::Scalar(scalar)) => out.extend_from_slice(text_at(array, scalar, row)),
                (Some(array), DataType::List(element)) => {
                    append_list(&array.as_list::<i32>().value(row), element, row, out)?;
                }
                (None, _) => {}
            }
            if out.len() - begin > MAX_BODY_LENGTH {
                return Err(PackError::TooLong { row });
            }
            let end = (out.len() - begin - fixed_end) as u32;
            out[place].copy_from_slice(&end.to_le_bytes());
        }
        Ok(())
    }
}

/// Writes a value of fixed width, which isn't null, to exactly its bytes.
fn write_fixed(array: &dyn Array, scalar: ScalarType, row: usize, place: &mut [u8]) {
    match scalar {
        ScalarType::Bool => place[0] = u8::from(array.as_boolean().value(row)),
        ScalarType::Int32 => place.copy_from_slice(&array.as_primitive::<Int32Type>().value(row).to_le_bytes()),
        ScalarType::Int64 => place.copy_from_slice(&array.as_primitive::<Int64Type>().value(row).to_le_bytes()),
        ScalarType::Float32 => place.copy_from_slice(&array.as_primitive::<Float32Type>().value(row).to_le_bytes()),
        ScalarType::Float64 => place.copy_from_slice(&array.as_primitive::<Float64Type>().value(row).to_le_bytes()),
        ScalarType::Timestamp => {
            place.copy_from_slice(&array.as_primitive::<TimestampMicrosecondType>().value(row).to_le_bytes());
        }
        ScalarType::String | ScalarType::Bytes => unreachable!("text has no fixed width"),
    }
}

fn text_at(array: &dyn Array, scalar: ScalarType, row: usize) -> &[u8] {
    if scalar == ScalarType::String {
        array.as_string::<i32>().value(row).as_bytes()
    } else {
        array.as_binary::<i32>().value(row)
    }
}

fn write_vector(array: &dyn Array, row: usize, place: &mut [u8]) -> Result<(), ()> {
    let elements = array.as_fixed_size_list().value(row);
    if elements.null_count() > 0 {
        return Err(());
    }
    let values = elements.as_primitive::<Float32Type>().values();
    for (value, place) in values.iter().zip(place.chunks_exact_mut(4)) {
        place.copy_from_slice(&value.to_le_bytes());
    }
    Ok(())
}

/// See [`super::ListCell`] for the bytes.
fn append_list(elements: &dyn Array, element: ScalarType, row: usize, out: &mut Vec<u8>) -> Result<(), PackError> {
    let width = scalar_width(element).unwrap_or(4);
    let fixed_length = elements.len().saturating_mul(width);
    if fixed_length > MAX_BODY_LENGTH {
        return Err(PackError::TooLong { row });
    }
    out.extend_from_slice(&(elements.len() as u32).to_le_bytes());
    let bitmap = out.len();
    let fixed = bitmap + bitmap_length(elements.len());
    let variable = fixed + fixed_length;
    out.resize(variable, 0);
    for index in 0..elements.len() {
        let place = fixed + index * width..fixed + (index + 1) * width;
        let null = elements.is_null(index);
        if null {
            set_bit(&mut out[bitmap..], index);
        }
        if scalar_width(element).is_some() {
            if !null {
                write_fixed(elements, element, index, &mut out[place]);
            }
            continue;
        }
        if !null {
            out.extend_from_slice(text_at(elements, element, index));
        }
        if out.len() - variable > MAX_BODY_LENGTH {
            return Err(PackError::TooLong { row });
        }
        let end = (out.len() - variable) as u32;
        out[place].copy_from_slice(&end.to_le_bytes());
    }
    Ok(())
}
