//! Columns out of cells: what turns looked-up rows into an answer, and stored rows into a file.

use std::sync::Arc;

use arrow_array::builder::{
    BinaryBuilder, BooleanBuilder, Float32Builder, Float64Builder, Int32Builder, Int64Builder, StringBuilder,
    TimestampMicrosecondBuilder,
};
use arrow_array::{ArrayRef, FixedSizeListArray, Float32Array, ListArray};
use arrow_buffer::{NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use arrow_schema::DataType as ArrowType;

use super::cell::{Cell, type_name};
use crate::value::{DataType, ScalarType, Value};

/// Why a cell or a column doesn't fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ColumnError {
    #[error("{given} where the column is of {expected}")]
    WrongType { expected: DataType, given: String },
    /// Arrow counts a column's text and list elements in 31 bits.
    #[error("the column holds as much text or as many elements as one column can")]
    Full,
}

/// Builds one column of one type, cell by cell.
#[derive(Debug)]
pub struct ColumnBuilder {
    data_type: DataType,
    column: Column,
}

#[derive(Debug)]
enum Column {
    Bool(BooleanBuilder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Float32(Float32Builder),
    Float64(Float64Builder),
    String(StringBuilder),
    Bytes(BinaryBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    List { elements: Box<ColumnBuilder>, ends: Vec<i32>, validity: NullBufferBuilder },
    Vector { values: Vec<f32>, dimension: usize, validity: NullBufferBuilder },
}

impl ColumnBuilder {
    pub fn new(data_type: DataType, capacity: usize) -> Self {
        let column = match data_type {
            DataType::Scalar(ScalarType::Bool) => Column::Bool(BooleanBuilder::with_capacity(capacity)),
            DataType::Scalar(ScalarType::Int32) => Column::Int32(Int32Builder::with_capacity(capacity)),
            DataType::Scalar(ScalarType::Int64) => Column::Int64(Int64Builder::with_capacity(capacity)),
            DataType::Scalar(ScalarType::Float32) => Column::Float32(Float32Builder::with_capacity(capacity)),
            DataType::Scalar(ScalarType::Float64) => Column::Float64(Float64Builder::with_capacity(capacity)),
            DataType::Scalar(ScalarType::String) => Column::String(StringBuilder::with_capacity(capacity, 0)),
            DataType::Scalar(ScalarType::Bytes) => Column::Bytes(BinaryBuilder::with_capacity(capacity, 0)),
            DataType::Scalar(ScalarType::Timestamp) => Column::Timestamp(
                TimestampMicrosecondBuilder::with_capacity(capacity).with_data_type(ScalarType::Timestamp.to_arrow()),
            ),
            DataType::List(element) => {
                let mut ends = Vec::with_capacity(capacity + 1);
                ends.push(0);
                let elements = Box::new(Self::new(DataType::Scalar(element), capacity));
                Column::List { elements, ends, validity: NullBufferBuilder::new(capacity) }
            }
            DataType::Vector(dimension) => Column::Vector {
                values: Vec::with_capacity(capacity * dimension as usize),
                dimension: dimension as usize,
                validity: NullBufferBuilder::new(capacity),
            },
        };
        Self { data_type, column }
    }

    pub fn data_type(&self) -> DataType {
        self.data_type
    }

    /// Appends a cell of the column's type, or a null; on an error the column has not changed.
    pub fn push(&mut self, cell: Cell<'_>) -> Result<(), ColumnError> {
        if !self.has_room_for(&cell) {
            return Err(ColumnError::Full);
        }
        match (&mut self.column, cell) {
            (_, Cell::Null) => self.push_null(),
            (Column::Bool(column), Cell::Bool(value)) => column.append_value(value),
            (Column::Int32(column), Cell::Int32(value)) => column.append_value(value),
            (Column::Int64(column), Cell::Int64(value)) => column.append_value(value),
            (Column::Float32(column), Cell::Float32(value)) => column.append_value(value),
            (Column::Float64(column), Cell::Float64(value)) => column.append_value(value),
            (Column::String(column), Cell::String(value)) => column.append_value(value),
            (Column::Bytes(column), Cell::Bytes(value)) => column.append_value(value),
            (Column::Timestamp(column), Cell::Timestamp(value)) => column.append_value(value),
            (Column::List { elements, ends, validity }, Cell::List(list))
                if elements.data_type == DataType::Scalar(list.element_type()) =>
            {
                push_elements(elements, list.iter())?;
                ends.push(elements.end());
                validity.append_non_null();
            }
            (Column::Vector { values, dimension, validity }, Cell::Vector(vector)) if vector.len() == *dimension => {
                values.extend(vector.iter());
                validity.append_non_null();
            }
            (_, cell) => return Err(self.wrong_type(type_name(&cell.to_value()))),
        }
        Ok(())
    }

    pub fn push_null(&mut self) {
        match &mut self.column {
            Column::Bool(column) => column.append_null(),
            Column::Int32(column) => column.append_null(),
            Column::Int64(column) => column.append_null(),
            Column::Float32(column) => column.append_null(),
            Column::Float64(column) => column.append_null(),
            Column::String(column) => column.append_null(),
            Column::Bytes(column) => column.append_null(),
            Column::Timestamp(column) => column.append_null(),
            Column::List { elements, ends, validity } => {
                ends.push(elements.end());
                validity.append_null();
            }
            Column::Vector { values, dimension, validity } => {
                values.resize(values.len() + *dimension, 0.0);
                validity.append_null();
            }
        }
    }

    /// Appends a single value, such as a feature's default; on an error the column has not changed.
    pub fn push_value(&mut self, value: &Value) -> Result<(), ColumnError> {
        match (&mut self.column, value) {
            (Column::List { elements, ends, validity }, Value::List(list)) => {
                let cells: Option<Vec<_>> = list.iter().map(Cell::of_scalar).collect();
                let Some(cells) = cells.filter(|cells| cells.iter().all(|cell| elements.takes(cell))) else {
                    return Err(self.wrong_type("list of others"));
                };
                push_elements(elements, cells.into_iter())?;
                ends.push(elements.end());
                validity.append_non_null();
                Ok(())
            }
            (Column::Vector { values, dimension, validity }, Value::Vector(vector)) if vector.len() == *dimension => {
                values.extend_from_slice(vector);
                validity.append_non_null();
                Ok(())
            }
            (_, value) => match Cell::of_scalar(value) {
                Some(cell) => self.push(cell),
                None => Err(self.wrong_type(type_name(value))),
            },
        }
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        match &self.column {
            Column::Bool(column) => arrow_array::builder::ArrayBuilder::len(column),
            Column::Int32(column) => arrow_array::builder::ArrayBuilder::len(column),
            Column::Int64(column) => arrow_array::builder::ArrayBuilder::len(column),
            Column::Float32(column) => arrow_array::builder::ArrayBuilder::len(column),
            Column::Float64(column) => arrow_array::builder::ArrayBuilder::len(column),
            Column::String(column) => arrow_array::builder::ArrayBuilder::len(column),
            Column::Bytes(column) => arrow_array::builder::ArrayBuilder::len(column),
            Column::Timestamp(column) => arrow_array::builder::ArrayBuilder::len(column),
            Column::List { validity, .. } | Column::Vector { validity, .. } => validity.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The column, of the Arrow type of [`DataType::to_arrow`].
    pub fn finish(self) -> ArrayRef {
        match self.column {
            Column::Bool(mut column) => Arc::new(column.finish()),
            Column::Int32(mut column) => Arc::new(column.finish()),
            Column::Int64(mut column) => Arc::new(column.finish()),
            Column::Float32(mut column) => Arc::new(column.finish()),
            Column::Float64(mut column) => Arc::new(column.finish()),
            Column::String(mut column) => Arc::new(column.finish()),
            Column::Bytes(mut column) => Arc::new(column.finish()),
            Column::Timestamp(mut column) => Arc::new(column.finish()),
            Column::List { elements, ends, mut validity } => {
                let ArrowType::List(field) = self.data_type.to_arrow() else {
                    unreachable!("a list's Arrow type is a list");
                };
                let ends = OffsetBuffer::new(ScalarBuffer::from(ends));
                Arc::new(ListArray::new(field, ends, elements.finish(), validity.finish()))
            }
            Column::Vector { values, mut validity, .. } => {
                let ArrowType::FixedSizeList(field, dimension) = self.data_type.to_arrow() else {
                    unreachable!("a vector's Arrow type is a list of fixed size");
                };
                let values = Arc::new(Float32Array::from(values));
                Arc::new(FixedSizeListArray::new(field, dimension, values, validity.finish()))
            }
        }
    }

    /// Whether a cell still fits, as far as Arrow's 31-bit counts go.
    pub fn has_room_for(&self, cell: &Cell<'_>) -> bool {
        const MOST: usize = i32::MAX as usize;
        match (&self.column, cell) {
            (Column::String(column), Cell::String(value)) => column.values_slice().len() + value.len() <= MOST,
            (Column::Bytes(column), Cell::Bytes(value)) => column.values_slice().len() + value.len() <= MOST,
            (Column::List { elements, .. }, Cell::List(list)) => elements.has_room_for_all(list.len(), list.iter()),
            _ => true,
        }
    }

    fn has_room_for_all<'a>(&self, count: usize, cells: impl Iterator<Item = Cell<'a>>) -> bool {
        const MOST: usize = i32::MAX as usize;
        let text: usize = match &self.column {
            Column::String(column) => column.values_slice().len() + cells.map(|cell| text_length(&cell)).sum::<usize>(),
            Column::Bytes(column) => column.values_slice().len() + cells.map(|cell| text_length(&cell)).sum::<usize>(),
            _ => 0,
        };
        self.len() + count <= MOST && text <= MOST
    }

    /// Whether a scalar cell is of the column's type, or null.
    fn takes(&self, cell: &Cell<'_>) -> bool {
        matches!(
            (&self.column, cell),
            (_, Cell::Null)
                | (Column::Bool(_), Cell::Bool(_))
                | (Column::Int32(_), Cell::Int32(_))
                | (Column::Int64(_), Cell::Int64(_))
                | (Column::Float32(_), Cell::Float32(_))
                | (Column::Float64(_), Cell::Float64(_))
                | (Column::String(_), Cell::String(_))
                | (Column::Bytes(_), Cell::Bytes(_))
                | (Column::Timestamp(_), Cell::Timestamp(_))
        )
    }

    /// The number of rows, as Arrow counts the ends of lists; [`ColumnBuilder::has_room_for`] has
    /// seen to it that it fits.
    fn end(&self) -> i32 {
        i32::try_from(self.len()).expect("a full column takes no more elements")
    }

    fn wrong_type(&self, given: &str) -> ColumnError {
        ColumnError::WrongType { expected: self.data_type, given: given.to_owned() }
    }
}

/// Appends all cells, each of which is of the column's type, or none.
fn push_elements<'a>(
    elements: &mut ColumnBuilder,
    mut cells: impl ExactSizeIterator<Item = Cell<'a>> + Clone,
) -> Result<(), ColumnError> {
    if !elements.has_room_for_all(cells.len(), cells.clone()) {
        return Err(ColumnError::Full);
    }
    cells.try_for_each(|cell| elements.push(cell))
}

fn text_length(cell: &Cell<'_>) -> usize {
    match cell {
        Cell::String(value) => value.len(),
        Cell::Bytes(value) => value.len(),
        _ => 0,
    }
}
