//! Columns of the wire and Arrow arrays, one type to one type, both ways and to the last bit. A
//! column that comes in is checked whole: lengths, offsets and dimensions are a stranger's.

use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{
    ArrowPrimitiveType, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, FixedSizeListArray, Float32Array, ListArray, PrimitiveArray,
    StringArray,
};
use arrow_buffer::{BooleanBuffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType as ArrowType, Field, TimeUnit};
use hydrant_proto::v1;
use hydrant_proto::v1::column::Values;
use hydrant_storage::order::CellStatus;
use hydrant_storage::value::{DataType, ScalarType};

use crate::error::{Code, Error, Result};

/// A column as it came in.
#[derive(Clone, Debug)]
pub struct DecodedColumn {
    pub name: String,
    pub data_type: DataType,
    /// Of the type's Arrow type.
    pub values: ArrayRef,
}

/// A column of the wire as an Arrow array. The message is used up, so that fixed-width values are
/// moved and not copied.
pub fn decode_column(column: v1::Column) -> Result<DecodedColumn> {
    let v1::Column { name, values, nulls } = column;
    let Some(values) = values else {
        return Err(malformed(&name, "it has no values; an empty column still says its type"));
    };
    let (data_type, values) = decode_values(&name, values, nulls)?;
    Ok(DecodedColumn { name, data_type, values })
}

/// The rows of a column as it came in, unchecked.
pub fn column_length(column: &v1::Column) -> usize {
    match &column.values {
        None => 0,
        Some(Values::Bools(bools)) => bools.values.len(),
        Some(Values::Int32s(ints)) => ints.values.len(),
        Some(Values::Int64s(ints)) => ints.values.len(),
        Some(Values::Float32s(floats)) => floats.values.len(),
        Some(Values::Float64s(floats)) => floats.values.len(),
        Some(Values::Strings(strings)) => strings.values.len(),
        Some(Values::Bytes(bytes)) => bytes.values.len(),
        Some(Values::Timestamps(times)) => times.micros.len(),
        Some(Values::Lists(lists)) => lists.offsets.len().saturating_sub(1),
        Some(Values::Vectors(vectors)) => vectors.values.len() / (vectors.dimension as usize).max(1),
    }
}

/// An Arrow array as a column of the wire, with its nulls marked.
pub fn encode_column(name: &str, array: &dyn Array) -> Result<v1::Column> {
    let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
    let nulls = nulls.map(|nulls| nulls.iter().map(|valid| !valid).collect()).unwrap_or_default();
    Ok(v1::Column { name: name.to_owned(), values: Some(encode_values(name, array)?), nulls })
}

/// One status a cell, or a single one where all are alike.
pub fn encode_statuses(statuses: &[CellStatus]) -> Vec<i32> {
    let wire = |status: &CellStatus| i32::from(*status as u8);
    match statuses {
        [first, rest @ ..] if rest.iter().all(|status| status == first) => vec![wire(first)],
        _ => statuses.iter().map(wire).collect(),
    }
}

/// The type of Hydrant's that an Arrow type stands for, where there is one: for schemas that are
/// told, not for values that are cast.
pub fn data_type_of(arrow: &ArrowType) -> Option<DataType> {
    let scalar = |arrow: &ArrowType| ScalarType::ALL.into_iter().find(|scalar| same_type(&scalar.to_arrow(), arrow));
    match arrow {
        ArrowType::List(element) => scalar(element.data_type()).map(DataType::List),
        ArrowType::FixedSizeList(element, dimension) if element.data_type() == &ArrowType::Float32 => {
            u32::try_from(*dimension).ok().filter(|n| (1..=DataType::MAX_DIMENSION).contains(n)).map(DataType::Vector)
        }
        arrow => scalar(arrow).map(DataType::Scalar),
    }
}

/// Equal types; timestamps in microseconds are equal whatever their zone is called.
fn same_type(own: &ArrowType, other: &ArrowType) -> bool {
    let micros = |arrow: &ArrowType| matches!(arrow, ArrowType::Timestamp(TimeUnit::Microsecond, _));
    own == other || (micros(own) && micros(other))
}

fn decode_values(name: &str, values: Values, nulls: Vec<bool>) -> Result<(DataType, ArrayRef)> {
    let scalar = |scalar: ScalarType, array: Result<ArrayRef>| Ok((DataType::Scalar(scalar), array?));
    match values {
        Values::Bools(v1::BoolValues { values }) => {
            let nulls = null_buffer(name, nulls, values.len())?;
            scalar(ScalarType::Bool, Ok(Arc::new(BooleanArray::new(BooleanBuffer::from(values), nulls))))
        }
        Values::Int32s(v1::Int32Values { values }) => {
            scalar(ScalarType::Int32, primitive::<Int32Type>(name, values, nulls))
        }
        Values::Int64s(v1::Int64Values { values }) => {
            scalar(ScalarType::Int64, primitive::<Int64Type>(name, values, nulls))
        }
        Values::Float32s(v1::Float32Values { values }) => {
            scalar(ScalarType::Float32, primitive::<Float32Type>(name, values, nulls))
        }
        Values::Float64s(v1::Float64Values { values }) => {
            scalar(ScalarType::Float64, primitive::<Float64Type>(name, values, nulls))
        }
        Values::Timestamps(v1::TimestampValues { micros }) => {
            let nulls = null_buffer(name, nulls, micros.len())?;
            let array = PrimitiveArray::<TimestampMicrosecondType>::new(ScalarBuffer::from(micros), nulls);
            scalar(ScalarType::Timestamp, Ok(Arc::new(array.with_data_type(ScalarType::Timestamp.to_arrow()))))
        }
        Values::Strings(v1::StringValues { values }) => {
            let nulls = null_buffer(name, nulls, values.len())?;
            check_total_length(name, values.iter().map(String::len))?;
            let present = |row: usize| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
            let cells = values.iter().enumerate().map(|(row, value)| present(row).then_some(value.as_str()));
            scalar(ScalarType::String, Ok(Arc::new(cells.collect::<StringArray>())))
        }
        Values::Bytes(v1::BytesValues { values }) => {
            let nulls = null_buffer(name, nulls, values.len())?;
            check_total_length(name, values.iter().map(Vec::len))?;
            let present = |row: usize| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
            let cells = values.iter().enumerate().map(|(row, value)| present(row).then_some(value.as_slice()));
            scalar(ScalarType::Bytes, Ok(Arc::new(cells.collect::<BinaryArray>())))
        }
        Values::Lists(lists) => decode_lists(name, *lists, nulls),
        Values::Vectors(vectors) => decode_vectors(name, vectors, nulls),
    }
}

fn primitive<T: ArrowPrimitiveType>(name: &str, values: Vec<T::Native>, nulls: Vec<bool>) -> Result<ArrayRef> {
    let nulls = null_buffer(name, nulls, values.len())?;
    Ok(Arc::new(PrimitiveArray::<T>::new(ScalarBuffer::from(values), nulls)))
}

fn decode_lists(name: &str, lists: v1::ListValues, nulls: Vec<bool>) -> Result<(DataType, ArrayRef)> {
    let Some(elements) = lists.elements else {
        return Err(malformed(name, "its lists have no elements; empty lists still say their type"));
    };
    let v1::Column { values, nulls: element_nulls, .. } = *elements;
    let Some(values) = values.filter(|values| !matches!(values, Values::Lists(_) | Values::Vectors(_))) else {
        return Err(malformed(name, "the elements of its lists are no scalars"));
    };
    let (element_type, elements) = decode_values(name, values, element_nulls)?;
    let DataType::Scalar(element_type) = element_type else {
        return Err(malformed(name, "the elements of its lists are no scalars"));
    };
    let offsets: Option<Vec<i32>> = lists.offsets.iter().map(|offset| i32::try_from(*offset).ok()).collect();
    let fits = |offsets: &Vec<i32>| {
        let ends = offsets.first().zip(offsets.last());
        ends.is_some_and(|(first, last)| *first == 0 && usize::try_from(*last) == Ok(elements.len()))
            && offsets.is_sorted()
    };
    let Some(offsets) = offsets.filter(fits) else {
        return Err(malformed(name, "its offsets don't ascend from 0 to the number of elements"));
    };
    let nulls = null_buffer(name, nulls, offsets.len() - 1)?;
    let data_type = DataType::List(element_type);
    let ArrowType::List(field) = data_type.to_arrow() else { unreachable!("the Arrow type of a list is a list") };
    let array = ListArray::try_new(field, OffsetBuffer::new(ScalarBuffer::from(offsets)), elements, nulls);
    let array = array.map_err(|error| malformed(name, &error.to_string()))?;
    Ok((data_type, Arc::new(array)))
}

fn decode_vectors(name: &str, vectors: v1::VectorValues, nulls: Vec<bool>) -> Result<(DataType, ArrayRef)> {
    let v1::VectorValues { dimension, values } = vectors;
    if !(1..=DataType::MAX_DIMENSION).contains(&dimension) {
        let told = format!("its dimension is {dimension}, not between 1 and {}", DataType::MAX_DIMENSION);
        return Err(malformed(name, &told));
    }
    let size = usize::try_from(dimension).unwrap_or(usize::MAX);
    if !values.len().is_multiple_of(size) {
        let told = format!("{} values are no whole number of vectors of dimension {dimension}", values.len());
        return Err(malformed(name, &told));
    }
    let nulls = null_buffer(name, nulls, values.len() / size)?;
    let data_type = DataType::Vector(dimension);
    let ArrowType::FixedSizeList(field, width) = data_type.to_arrow() else {
        unreachable!("the Arrow type of a vector is a list of fixed size")
    };
    let elements = Arc::new(Float32Array::from(values));
    let array = FixedSizeListArray::try_new(field, width, elements, nulls);
    let array = array.map_err(|error| malformed(name, &error.to_string()))?;
    Ok((data_type, Arc::new(array)))
}

fn null_buffer(name: &str, nulls: Vec<bool>, rows: usize) -> Result<Option<NullBuffer>> {
    if nulls.is_empty() {
        return Ok(None);
    }
    if nulls.len() != rows {
        return Err(malformed(name, &format!("it has {rows} values and {} marks of null", nulls.len())));
    }
    let valid: BooleanBuffer = nulls.into_iter().map(|null| !null).collect();
    Ok(Some(NullBuffer::new(valid)))
}

/// Offsets of strings and bytes are int32.
fn check_total_length(name: &str, lengths: impl Iterator<Item = usize>) -> Result<()> {
    let total: usize = lengths.fold(0, usize::saturating_add);
    if i32::try_from(total).is_err() {
        return Err(malformed(
            name,
            &format!("its values are {total} bytes together; at most 2 GiB fit into one column"),
        ));
    }
    Ok(())
}

fn encode_values(name: &str, array: &dyn Array) -> Result<Values> {
    match array.data_type() {
        ArrowType::Boolean => {
            let array = array.as_boolean();
            let values = (0..array.len()).map(|row| array.is_valid(row) && array.value(row)).collect();
            Ok(Values::Bools(v1::BoolValues { values }))
        }
        ArrowType::Int32 => Ok(Values::Int32s(v1::Int32Values { values: natives::<Int32Type>(array) })),
        ArrowType::Int64 => Ok(Values::Int64s(v1::Int64Values { values: natives::<Int64Type>(array) })),
        ArrowType::Float32 => Ok(Values::Float32s(v1::Float32Values { values: natives::<Float32Type>(array) })),
        ArrowType::Float64 => Ok(Values::Float64s(v1::Float64Values { values: natives::<Float64Type>(array) })),
        ArrowType::Timestamp(TimeUnit::Microsecond, _) => {
            Ok(Values::Timestamps(v1::TimestampValues { micros: natives::<TimestampMicrosecondType>(array) }))
        }
        ArrowType::Utf8 => {
            let values = array.as_string::<i32>().iter().map(|value| value.unwrap_or_default().to_owned()).collect();
            Ok(Values::Strings(v1::StringValues { values }))
        }
        ArrowType::Binary => {
            let values = array.as_binary::<i32>().iter().map(|value| value.unwrap_or_default().to_vec()).collect();
            Ok(Values::Bytes(v1::BytesValues { values }))
        }
        ArrowType::List(element) if data_type_of(array.data_type()).is_some() => encode_lists(element, array.as_list()),
        ArrowType::FixedSizeList(_, _) if data_type_of(array.data_type()).is_some() => {
            Ok(encode_vectors(array.as_fixed_size_list()))
        }
        other => {
            Err(Error::internal(format!("column '{name}' has Arrow type {other}, which no type of Hydrant's has")))
        }
    }
}

/// The values, with the type's zero where there is none.
fn natives<T: ArrowPrimitiveType>(array: &dyn Array) -> Vec<T::Native> {
    let array = array.as_primitive::<T>();
    match array.nulls().filter(|nulls| nulls.null_count() > 0) {
        None => array.values().to_vec(),
        Some(_) => array.iter().map(Option::unwrap_or_default).collect(),
    }
}

fn encode_lists(element: &Field, lists: &ListArray) -> Result<Values> {
    let mut offsets = Vec::with_capacity(lists.len() + 1);
    let mut pieces = Vec::new();
    let mut end = 0_u32;
    offsets.push(end);
    for row in 0..lists.len() {
        // What lies under a null is nobody's.
        if lists.is_valid(row) {
            let elements = lists.value(row);
            end = u32::try_from(elements.len()).ok().and_then(|length| end.checked_add(length)).ok_or_else(|| {
                Error::new(
                    Code::ResourceExhausted,
                    "ANSWER_TOO_LARGE",
                    "the lists of one column have too many elements",
                )
            })?;
            pieces.push(elements);
        }
        offsets.push(end);
    }
    let elements = if pieces.is_empty() {
        arrow_array::new_empty_array(element.data_type())
    } else {
        let pieces: Vec<&dyn Array> = pieces.iter().map(AsRef::as_ref).collect();
        arrow_select::concat::concat(&pieces)
            .map_err(|error| Error::internal(format!("lists can't be joined: {error}")))?
    };
    let elements = Some(Box::new(encode_column("", &elements)?));
    Ok(Values::Lists(Box::new(v1::ListValues { offsets, elements })))
}

fn encode_vectors(vectors: &FixedSizeListArray) -> Values {
    let dimension = usize::try_from(vectors.value_length()).unwrap_or_default();
    let mut values = vectors.values().as_primitive::<Float32Type>().values()[..dimension * vectors.len()].to_vec();
    if vectors.null_count() > 0 {
        for row in (0..vectors.len()).filter(|row| vectors.is_null(*row)) {
            values[row * dimension..(row + 1) * dimension].fill(0.0);
        }
    }
    Values::Vectors(v1::VectorValues { dimension: u32::try_from(dimension).unwrap_or_default(), values })
}

fn malformed(column: &str, told: &str) -> Error {
    Error::invalid("MALFORMED_COLUMN", format!("column '{column}' is malformed: {told}")).with("column", column)
}

#[cfg(test)]
mod tests;
