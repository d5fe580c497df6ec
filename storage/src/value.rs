//! Types and single values. Every type maps to one Arrow type and back; whole columns are Arrow
//! arrays, and a [`Value`] is for what comes one at a time: defaults, keys on a command line, tests.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use arrow_schema::{DataType as ArrowType, Field, TimeUnit};
use serde::{Deserialize, Serialize};

use crate::order::Micros;

/// A type without parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScalarType {
    Bool,
    Int32,
    Int64,
    Float32,
    Float64,
    String,
    Bytes,
    /// UTC microseconds.
    Timestamp,
}

/// The type of a column: a scalar, a list of scalars, or a vector of float32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DataType {
    Scalar(ScalarType),
    /// A list of any length; its elements may be null.
    List(ScalarType),
    /// A fixed number of float32, none of them null.
    Vector(u32),
}

/// Why a text names no type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{shown}' is no type: use bool, int32, int64, float32, float64, string, bytes, timestamp, list<T> or vector<N> with N from 1 to {}",
    DataType::MAX_DIMENSION
)]
pub struct InvalidType {
    shown: String,
}

impl ScalarType {
    pub const ALL: [Self; 8] = [
        Self::Bool,
        Self::Int32,
        Self::Int64,
        Self::Float32,
        Self::Float64,
        Self::String,
        Self::Bytes,
        Self::Timestamp,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Float32 => "float32",
            Self::Float64 => "float64",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::Timestamp => "timestamp",
        }
    }

    /// Whether an entity may be keyed by it: no floats, since equality must be exact.
    pub fn is_key_type(self) -> bool {
        !matches!(self, Self::Float32 | Self::Float64)
    }

    pub fn to_arrow(self) -> ArrowType {
        match self {
            Self::Bool => ArrowType::Boolean,
            Self::Int32 => ArrowType::Int32,
            Self::Int64 => ArrowType::Int64,
            Self::Float32 => ArrowType::Float32,
            Self::Float64 => ArrowType::Float64,
            Self::String => ArrowType::Utf8,
            Self::Bytes => ArrowType::Binary,
            Self::Timestamp => ArrowType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scalar| scalar.as_str() == text)
    }
}

impl DataType {
    /// The longest vector.
    pub const MAX_DIMENSION: u32 = 65_536;

    /// The Arrow type of a column of it.
    pub fn to_arrow(self) -> ArrowType {
        match self {
            Self::Scalar(scalar) => scalar.to_arrow(),
            Self::List(element) => ArrowType::List(Arc::new(Field::new("element", element.to_arrow(), true))),
            Self::Vector(dimension) => ArrowType::FixedSizeList(
                Arc::new(Field::new("element", ArrowType::Float32, false)),
                i32::try_from(dimension).expect("a dimension is at most MAX_DIMENSION"),
            ),
        }
    }
}

impl FromStr for DataType {
    type Err = InvalidType;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parameter = |prefix: &str| text.strip_prefix(prefix)?.strip_suffix('>');
        let parsed = if let Some(element) = parameter("list<") {
            ScalarType::parse(element).map(Self::List)
        } else if let Some(dimension) = parameter("vector<") {
            let digits = !dimension.is_empty() && dimension.bytes().all(|byte| byte.is_ascii_digit());
            let dimension = dimension.parse().ok().filter(|_| digits);
            dimension.filter(|n| (1..=Self::MAX_DIMENSION).contains(n)).map(Self::Vector)
        } else {
            ScalarType::parse(text).map(Self::Scalar)
        };
        parsed.ok_or_else(|| InvalidType { shown: text.chars().take(80).collect() })
    }
}

impl TryFrom<String> for DataType {
    type Error = InvalidType;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<DataType> for String {
    fn from(data_type: DataType) -> Self {
        data_type.to_string()
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scalar(scalar) => formatter.write_str(scalar.as_str()),
            Self::List(element) => write!(formatter, "list<{}>", element.as_str()),
            Self::Vector(dimension) => write!(formatter, "vector<{dimension}>"),
        }
    }
}

/// One value, or null. Floats keep their bits (NaN payloads and -0.0 too): compare values by
/// [`Value::same_bits`].
#[derive(Clone, Debug)]
pub enum Value {
    Null,
    Bool(bool),
    Int32(i32),
    Int64(i64),
    Float32(f32),
    Float64(f64),
    String(String),
    Bytes(Vec<u8>),
    Timestamp(Micros),
    /// The elements are scalars or [`Value::Null`].
    List(Vec<Value>),
    Vector(Vec<f32>),
}

impl Value {
    /// Whether two values are the same to the last bit.
    pub fn same_bits(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Int32(a), Self::Int32(b)) => a == b,
            (Self::Int64(a), Self::Int64(b)) | (Self::Timestamp(a), Self::Timestamp(b)) => a == b,
            (Self::Float32(a), Self::Float32(b)) => a.to_bits() == b.to_bits(),
            (Self::Float64(a), Self::Float64(b)) => a.to_bits() == b.to_bits(),
            (Self::String(a), Self::String(b)) => a == b,
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::List(a), Self::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same_bits(b)),
            (Self::Vector(a), Self::Vector(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_read_as_they_are_written() {
        for text in [
            "bool",
            "int32",
            "int64",
            "float32",
            "float64",
            "string",
            "bytes",
            "timestamp",
            "list<string>",
            "vector<64>",
        ] {
            assert_eq!(text.parse::<DataType>().expect(text).to_string(), text);
        }
        for text in
            ["", "int", "list<>", "list<list<int32>>", "vector<0>", "vector<+3>", "vector<65537>", "vector<64", "Int32"]
        {
            assert!(text.parse::<DataType>().is_err(), "{text}");
        }
    }
}
