//! The columns of a history table, and how values of a view's types lie in its files. Other engines
//! read the files, so only types that all of them know are used: a vector is a list of float. The
//! names and meanings here are on disk: they may be added to, and never change.

use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, FixedSizeListArray, Float32Array, ListArray, new_null_array};
use arrow_buffer::{OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType as ArrowType, Field, FieldRef, Schema, SchemaRef};

use crate::names::Name;
use crate::value::{DataType, ScalarType};

pub const SLOT: &str = "_slot";
pub const KEY: &str = "_key";
pub const EVENT_TIME: &str = "_event_time";
pub const KNOWN_TIME: &str = "_known_time";
pub const INGEST_TIME: &str = "_ingest_time";
pub const FRAME: &str = "_frame";
pub const ORDINAL: &str = "_ordinal";
pub const REVISION: &str = "_revision";
pub const FEATURE_COUNT: &str = "_feature_count";
pub const DELETED: &str = "_deleted";

/// The columns that order a file's rows, the leading one first.
pub const SORT_COLUMNS: [&str; 6] = [SLOT, KEY, EVENT_TIME, KNOWN_TIME, FRAME, ORDINAL];

/// The columns whose bounds are known page by page, so that a reader finds the pages that it needs.
pub(crate) const BOUND_COLUMNS: [&str; 5] = [SLOT, KEY, EVENT_TIME, KNOWN_TIME, INGEST_TIME];

/// The columns that every row has besides join keys and features.
pub(crate) const ROW_COLUMNS: [&str; 10] =
    [SLOT, KEY, EVENT_TIME, KNOWN_TIME, INGEST_TIME, FRAME, ORDINAL, REVISION, FEATURE_COUNT, DELETED];

/// What history needs to know of one version of a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryViewSpec {
    pub tenant: Name,
    pub view: Name,
    pub version: u32,
    /// The parts of the entity key, in the order in which they are encoded.
    pub join_keys: Vec<(Name, ScalarType)>,
    /// In the order in which they were added.
    pub features: Vec<(Name, DataType)>,
}

/// A column of a history table. None of the columns that are there from the start is ever null.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub data_type: DataType,
    pub nullable: bool,
}

impl HistoryViewSpec {
    /// The table's directory under the root of all history.
    pub fn directory(&self) -> PathBuf {
        [self.tenant.as_str(), self.view.as_str(), &format!("v{}", self.version)].iter().collect()
    }

    pub fn key_types(&self) -> Vec<ScalarType> {
        self.join_keys.iter().map(|(_, scalar)| *scalar).collect()
    }

    /// All columns: join keys, what Hydrant knows of a row, features. New features go last.
    pub fn columns(&self) -> Vec<Column> {
        let key = |(name, scalar): &(Name, ScalarType)| required(name.as_str(), *scalar);
        let feature = |(name, data_type): &(Name, DataType)| Column {
            name: name.to_string(),
            data_type: *data_type,
            nullable: true,
        };
        let mut columns: Vec<Column> = self.join_keys.iter().map(key).collect();
        columns.extend([
            required(SLOT, ScalarType::Int32),
            required(KEY, ScalarType::Bytes),
            required(EVENT_TIME, ScalarType::Timestamp),
            required(KNOWN_TIME, ScalarType::Timestamp),
            required(INGEST_TIME, ScalarType::Timestamp),
            required(FRAME, ScalarType::Int64),
            required(ORDINAL, ScalarType::Int32),
            required(REVISION, ScalarType::Int64),
            required(FEATURE_COUNT, ScalarType::Int32),
            required(DELETED, ScalarType::Bool),
        ]);
        columns.extend(self.features.iter().map(feature));
        columns
    }

    /// The columns as Arrow has them in a file.
    pub fn file_schema(&self) -> SchemaRef {
        let field = |column: &Column| Field::new(&column.name, file_type(column.data_type), column.nullable);
        Arc::new(Schema::new(self.columns().iter().map(field).collect::<Vec<_>>()))
    }
}

fn required(name: &str, scalar: ScalarType) -> Column {
    Column { name: name.to_owned(), data_type: DataType::Scalar(scalar), nullable: false }
}

/// How a type lies in a file.
pub fn file_type(data_type: DataType) -> ArrowType {
    match data_type {
        DataType::Vector(_) => ArrowType::List(vector_element()),
        other => other.to_arrow(),
    }
}

/// A column as it goes into a file. The array is of the type's own Arrow type.
pub(crate) fn to_file(data_type: DataType, array: &ArrayRef) -> ArrayRef {
    let DataType::Vector(dimension) = data_type else { return array.clone() };
    let vectors = array.as_fixed_size_list();
    let offsets = OffsetBuffer::from_repeated_length(dimension as usize, vectors.len());
    // Only the numbers of a vector that is null may be null, and a list's element may not be there either.
    let numbers = vectors.values().as_primitive::<arrow_array::types::Float32Type>().values().clone();
    let numbers = Arc::new(Float32Array::new(numbers, None));
    Arc::new(ListArray::new(vector_element(), offsets, numbers, vectors.nulls().cloned()))
}

/// A column as it came out of a file, in the type's own Arrow type; or what is wrong with it.
pub(crate) fn from_file(data_type: DataType, array: &ArrayRef) -> Result<ArrayRef, String> {
    match data_type {
        DataType::Scalar(scalar) if *array.data_type() == scalar.to_arrow() => Ok(array.clone()),
        DataType::List(element) if is_list_of(array, &element.to_arrow()) => {
            let (_, offsets, values, nulls) = array.as_list::<i32>().clone().into_parts();
            Ok(Arc::new(ListArray::new(element_of(&data_type.to_arrow()), offsets, values, nulls)))
        }
        DataType::Vector(dimension) if is_list_of(array, &ArrowType::Float32) => {
            to_vectors(array.as_list(), dimension as usize).map(|vectors| Arc::new(vectors) as ArrayRef)
        }
        _ => Err(format!("it holds {} in place of {data_type}", array.data_type())),
    }
}

/// A column that a file doesn't have, since the feature was added later.
pub fn absent(data_type: DataType, rows: usize) -> ArrayRef {
    new_null_array(&data_type.to_arrow(), rows)
}

fn to_vectors(lists: &ListArray, dimension: usize) -> Result<FixedSizeListArray, String> {
    let numbers = lists.values();
    if numbers.null_count() > 0 {
        return Err("a vector holds a null".to_owned());
    }
    let numbers: &ScalarBuffer<f32> = numbers.as_primitive::<arrow_array::types::Float32Type>().values();
    let mut flat = Vec::with_capacity(lists.len() * dimension);
    for row in 0..lists.len() {
        if lists.is_null(row) {
            flat.resize(flat.len() + dimension, 0.0);
            continue;
        }
        let (from, to) = (lists.value_offsets()[row] as usize, lists.value_offsets()[row + 1] as usize);
        if to - from != dimension {
            return Err(format!("a vector has {} numbers, not {dimension}", to - from));
        }
        flat.extend_from_slice(&numbers[from..to]);
    }
    let size = i32::try_from(dimension).map_err(|error| error.to_string())?;
    let numbers = Arc::new(Float32Array::from(flat));
    Ok(FixedSizeListArray::new(vector_element(), size, numbers, lists.nulls().cloned()))
}

fn vector_element() -> FieldRef {
    Arc::new(Field::new("element", ArrowType::Float32, false))
}

fn is_list_of(array: &ArrayRef, element: &ArrowType) -> bool {
    matches!(array.data_type(), ArrowType::List(field) if field.data_type() == element)
}

fn element_of(list: &ArrowType) -> FieldRef {
    match list {
        ArrowType::List(field) => field.clone(),
        other => unreachable!("{other} is no list"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_goes_through_a_file_with_its_nulls_and_bits() {
        let numbers = Float32Array::from(vec![1.0, f32::from_bits(0x7fc0_0001), 9.0, 9.0, -0.0, 2.0]);
        let nulls = Some(vec![true, false, true].into());
        let vectors: ArrayRef = Arc::new(FixedSizeListArray::new(vector_element(), 2, Arc::new(numbers), nulls));
        for (from, rows) in [(0, 3), (1, 2), (2, 1), (0, 0)] {
            let slice = vectors.slice(from, rows);
            let filed = to_file(DataType::Vector(2), &slice);
            assert_eq!(*filed.data_type(), file_type(DataType::Vector(2)));
            let back = from_file(DataType::Vector(2), &filed).expect("a vector");
            assert_eq!(*back.data_type(), DataType::Vector(2).to_arrow());
            assert_eq!(back.nulls().cloned(), slice.nulls().cloned());
            for row in (0..rows).filter(|row| back.is_valid(*row)) {
                let bits = |array: &ArrayRef| -> Vec<u32> {
                    let vector = array.as_fixed_size_list().value(row);
                    let numbers = vector.as_primitive::<arrow_array::types::Float32Type>();
                    numbers.values().iter().map(|number| number.to_bits()).collect()
                };
                assert_eq!(bits(&back), bits(&slice));
            }
        }
        let missing = to_file(DataType::Vector(2), &absent(DataType::Vector(2), 3));
        let missing = from_file(DataType::Vector(2), &missing).expect("vectors that are missing");
        assert_eq!((missing.len(), missing.null_count()), (3, 3));
        assert!(from_file(DataType::Vector(3), &to_file(DataType::Vector(2), &vectors)).is_err());
        assert!(from_file(DataType::Scalar(ScalarType::Int64), &vectors).is_err());
    }
}
