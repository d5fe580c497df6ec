//! Single values, borrowed from a packed row, and their way to and from [`Value`]s and Arrow
//! arrays. A cell that could be made is sound: its elements can be read without an error.

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};

use super::layout::{bit, bitmap_length, scalar_width};
use super::{ColumnError, DamagedRow};
use crate::value::{DataType, ScalarType, Value};

/// One value of a packed row.
#[derive(Clone, Copy, Debug)]
pub enum Cell<'a> {
    Null,
    Bool(bool),
    Int32(i32),
    Int64(i64),
    Float32(f32),
    Float64(f64),
    /// UTC microseconds.
    Timestamp(i64),
    String(&'a str),
    Bytes(&'a [u8]),
    List(ListCell<'a>),
    Vector(VectorCell<'a>),
}

impl<'a> Cell<'a> {
    pub fn to_value(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Int32(value) => Value::Int32(*value),
            Self::Int64(value) => Value::Int64(*value),
            Self::Float32(value) => Value::Float32(*value),
            Self::Float64(value) => Value::Float64(*value),
            Self::Timestamp(value) => Value::Timestamp(*value),
            Self::String(value) => Value::String((*value).to_owned()),
            Self::Bytes(value) => Value::Bytes(value.to_vec()),
            Self::List(list) => Value::List(list.iter().map(|element| element.to_value()).collect()),
            Self::Vector(vector) => Value::Vector(vector.iter().collect()),
        }
    }

    /// The cell of a value that is no list and no vector.
    pub(super) fn of_scalar(value: &'a Value) -> Option<Self> {
        Some(match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Int32(value) => Self::Int32(*value),
            Value::Int64(value) => Self::Int64(*value),
            Value::Float32(value) => Self::Float32(*value),
            Value::Float64(value) => Self::Float64(*value),
            Value::Timestamp(value) => Self::Timestamp(*value),
            Value::String(value) => Self::String(value),
            Value::Bytes(value) => Self::Bytes(value),
            Value::List(_) | Value::Vector(_) => return None,
        })
    }
}

/// A list in a packed row: `count u32 | null bitmap | elements`, where elements of variable length
/// are their u32 ends, counted from the first's begin, followed by their bytes.
#[derive(Clone, Copy, Debug)]
pub struct ListCell<'a> {
    element: ScalarType,
    len: usize,
    bitmap: &'a [u8],
    /// Values of fixed width, or ends.
    fixed: &'a [u8],
    variable: &'a [u8],
}

impl<'a> ListCell<'a> {
    pub fn element_type(&self) -> ScalarType {
        self.element
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How much of the row it takes.
    pub fn stored_bytes(&self) -> usize {
        4 + self.bitmap.len() + self.fixed.len() + self.variable.len()
    }

    /// The element at `index`, which may be [`Cell::Null`].
    ///
    /// # Panics
    /// If there is no such element.
    pub fn get(&self, index: usize) -> Cell<'a> {
        self.element_at(index).expect("a list is read through before it is handed out")
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = Cell<'a>> + Clone + use<'a> {
        let list = *self;
        (0..self.len).map(move |index| list.get(index))
    }

    /// Opens a list and reads it through, so that reading it again can't fail.
    pub(super) fn read(element: ScalarType, bytes: &'a [u8]) -> Result<Self, DamagedRow> {
        const DAMAGED: DamagedRow = DamagedRow::new("a list that doesn't fit its bytes");
        let (len, rest) = bytes.split_first_chunk::<4>().ok_or(DAMAGED)?;
        let len = u32::from_le_bytes(*len) as usize;
        let (bitmap, rest) = rest.split_at_checked(bitmap_length(len)).ok_or(DAMAGED)?;
        let width = scalar_width(element).unwrap_or(4);
        let (fixed, variable) = rest.split_at_checked(len.checked_mul(width).ok_or(DAMAGED)?).ok_or(DAMAGED)?;
        if scalar_width(element).is_some() && !variable.is_empty() {
            return Err(DAMAGED);
        }
        let list = Self { element, len, bitmap, fixed, variable };
        for index in 0..len {
            list.element_at(index)?;
        }
        Ok(list)
    }

    fn element_at(&self, index: usize) -> Result<Cell<'a>, DamagedRow> {
        assert!(index < self.len, "the list has {} elements, not one at {index}", self.len);
        if bit(self.bitmap, index) {
            return Ok(Cell::Null);
        }
        match scalar_width(self.element) {
            Some(width) => read_fixed(self.element, &self.fixed[index * width..(index + 1) * width]),
            None => {
                let begin = if index == 0 { 0 } else { self.end(index - 1) };
                let text = self.variable.get(begin..self.end(index));
                read_text(self.element, text.ok_or(DamagedRow::new("an element beyond its list"))?)
            }
        }
    }

    fn end(&self, index: usize) -> usize {
        let end = &self.fixed[index * 4..index * 4 + 4];
        u32::from_le_bytes([end[0], end[1], end[2], end[3]]) as usize
    }
}

/// A vector of float32 in a packed row.
#[derive(Clone, Copy, Debug)]
pub struct VectorCell<'a> {
    /// Little endian.
    bytes: &'a [u8],
}

impl<'a> VectorCell<'a> {
    pub fn len(&self) -> usize {
        self.bytes.len() / 4
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = f32> + use<'a> {
        self.bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }
}

/// The value of one row of a column of `data_type`.
///
/// # Errors
/// If the column is of another type.
///
/// # Panics
/// If there is no such row.
pub fn value_at(array: &dyn Array, data_type: DataType, row: usize) -> Result<Value, ColumnError> {
    if !is_column_of(array, data_type) {
        return Err(ColumnError::WrongType { expected: data_type, given: array.data_type().to_string() });
    }
    if array.is_null(row) {
        return Ok(Value::Null);
    }
    Ok(match data_type {
        DataType::Scalar(scalar) => scalar_at(array, scalar, row),
        DataType::List(element) => {
            let elements = array.as_list::<i32>().value(row);
            Value::List((0..elements.len()).map(|index| scalar_at(&elements, element, index)).collect())
        }
        DataType::Vector(_) => {
            let elements = array.as_fixed_size_list().value(row);
            Value::Vector(elements.as_primitive::<Float32Type>().values().to_vec())
        }
    })
}

/// Whether a column is of a type; the names and flags of inner fields don't matter.
pub(super) fn is_column_of(array: &dyn Array, data_type: DataType) -> bool {
    use arrow_schema::DataType as ArrowType;
    match (data_type, array.data_type()) {
        (DataType::List(element), ArrowType::List(field)) => *field.data_type() == element.to_arrow(),
        (DataType::Vector(dimension), ArrowType::FixedSizeList(field, length)) => {
            *field.data_type() == ArrowType::Float32 && i64::from(*length) == i64::from(dimension)
        }
        (data_type, given) => *given == data_type.to_arrow(),
    }
}

/// The name of a value's type, for messages.
pub fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Int32(_) => "int32",
        Value::Int64(_) => "int64",
        Value::Float32(_) => "float32",
        Value::Float64(_) => "float64",
        Value::String(_) => "string",
        Value::Bytes(_) => "bytes",
        Value::Timestamp(_) => "timestamp",
        Value::List(_) => "list",
        Value::Vector(_) => "vector",
    }
}

/// Reads a scalar of fixed width from exactly its bytes.
pub(super) fn read_fixed<'a>(scalar: ScalarType, bytes: &[u8]) -> Result<Cell<'a>, DamagedRow> {
    fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], DamagedRow> {
        bytes.try_into().map_err(|_| DamagedRow::new("a value of another width"))
    }
    Ok(match scalar {
        ScalarType::Bool => match array::<1>(bytes)? {
            [0] => Cell::Bool(false),
            [1] => Cell::Bool(true),
            _ => return Err(DamagedRow::new("a bool that is neither true nor false")),
        },
        ScalarType::Int32 => Cell::Int32(i32::from_le_bytes(array(bytes)?)),
        ScalarType::Int64 => Cell::Int64(i64::from_le_bytes(array(bytes)?)),
        ScalarType::Float32 => Cell::Float32(f32::from_le_bytes(array(bytes)?)),
        ScalarType::Float64 => Cell::Float64(f64::from_le_bytes(array(bytes)?)),
        ScalarType::Timestamp => Cell::Timestamp(i64::from_le_bytes(array(bytes)?)),
        ScalarType::String | ScalarType::Bytes => return Err(DamagedRow::new("text read as a number")),
    })
}

/// Reads a string or bytes.
pub(super) fn read_text(scalar: ScalarType, bytes: &[u8]) -> Result<Cell<'_>, DamagedRow> {
    if scalar != ScalarType::String {
        return Ok(Cell::Bytes(bytes));
    }
    std::str::from_utf8(bytes).map(Cell::String).map_err(|_| DamagedRow::new("a string that isn't UTF-8"))
}

fn scalar_at(array: &dyn Array, scalar: ScalarType, row: usize) -> Value {
    if array.is_null(row) {
        return Value::Null;
    }
    match scalar {
        ScalarType::Bool => Value::Bool(array.as_boolean().value(row)),
        ScalarType::Int32 => Value::Int32(array.as_primitive::<Int32Type>().value(row)),
        ScalarType::Int64 => Value::Int64(array.as_primitive::<Int64Type>().value(row)),
        ScalarType::Float32 => Value::Float32(array.as_primitive::<Float32Type>().value(row)),
        ScalarType::Float64 => Value::Float64(array.as_primitive::<Float64Type>().value(row)),
        ScalarType::String => Value::String(array.as_string::<i32>().value(row).to_owned()),
        ScalarType::Bytes => Value::Bytes(array.as_binary::<i32>().value(row).to_vec()),
        ScalarType::Timestamp => Value::Timestamp(array.as_primitive::<TimestampMicrosecondType>().value(row)),
    }
}
