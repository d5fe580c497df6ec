//! Random types and values of them, with those that are easily got wrong: NaN with a payload, minus
//! zero, empty and unnormalised text, empty lists, nulls in lists, times before 1970.

use hydrant_storage::value::{DataType, ScalarType, Value};

use crate::support::random::Random;

pub fn any_type(random: &mut Random) -> DataType {
    let scalar = *random.pick(&ScalarType::ALL);
    match random.below(10) {
        0..=5 => DataType::Scalar(scalar),
        6..=8 => DataType::List(scalar),
        _ => DataType::Vector(u32::try_from(random.between(1, 4)).expect("small")),
    }
}

pub fn key_type(random: &mut Random) -> ScalarType {
    let types: Vec<ScalarType> = ScalarType::ALL.into_iter().filter(|scalar| scalar.is_key_type()).collect();
    *random.pick(&types)
}

/// The parts of keys that are written; the last of them never is.
pub fn key_parts(key_type: ScalarType) -> Vec<Value> {
    match key_type {
        ScalarType::Bool => vec![Value::Bool(true), Value::Bool(false)],
        ScalarType::Int32 => [0, -1, i32::MAX, i32::MIN].map(Value::Int32).to_vec(),
        ScalarType::Int64 => [1, -1, i64::MIN, i64::MAX].map(Value::Int64).to_vec(),
        ScalarType::String => ["", "a", "a\0", "\u{e4}"].map(|text| Value::String(text.to_owned())).to_vec(),
        ScalarType::Bytes => [&b""[..], b"\0", b"\0\xff", b"\xff"].map(|bytes| Value::Bytes(bytes.to_vec())).to_vec(),
        ScalarType::Timestamp => [0, -1, 1_700_000_000_000_000, i64::MAX].map(Value::Timestamp).to_vec(),
        ScalarType::Float32 | ScalarType::Float64 => unreachable!("no key is a float"),
    }
}

/// A part of a key that is written.
pub fn key_part(random: &mut Random, key_type: ScalarType) -> Value {
    let parts = key_parts(key_type);
    if random.chance(55) { parts[0].clone() } else { parts[random.below((parts.len() - 1).max(1))].clone() }
}

pub fn any_value(random: &mut Random, data_type: DataType) -> Value {
    match data_type {
        DataType::Scalar(scalar) => any_scalar(random, scalar),
        DataType::List(element) => {
            let length = random.below(4);
            let element = |random: &mut Random| {
                if random.chance(20) { Value::Null } else { any_scalar(random, element) }
            };
            Value::List((0..length).map(|_| element(random)).collect())
        }
        DataType::Vector(dimension) => Value::Vector((0..dimension).map(|_| any_float32(random)).collect()),
    }
}

fn any_scalar(random: &mut Random, scalar: ScalarType) -> Value {
    match scalar {
        ScalarType::Bool => Value::Bool(random.chance(50)),
        ScalarType::Int32 => Value::Int32(random.next() as i32),
        ScalarType::Int64 => Value::Int64(random.next().cast_signed()),
        ScalarType::Float32 => Value::Float32(any_float32(random)),
        ScalarType::Float64 => Value::Float64(match random.below(5) {
            0 => -0.0,
            1 => f64::from_bits(0x7FF8_0000_0000_0BAD),
            2 => f64::NEG_INFINITY,
            _ => random.next() as f64 / 3.0,
        }),
        ScalarType::String => {
            Value::String(random.pick(&["", "a", "\u{e4}", "a\u{308}", "a longer text with a \0 in it"]).to_string())
        }
        ScalarType::Bytes => Value::Bytes((0..random.below(5)).map(|_| random.next() as u8).collect()),
        ScalarType::Timestamp => Value::Timestamp(random.between(-10_000_000, 10_000_000) * 1_000_003),
    }
}

fn any_float32(random: &mut Random) -> f32 {
    match random.below(5) {
        0 => -0.0,
        1 => f32::from_bits(0x7FC0_0BAD),
        2 => f32::MIN_POSITIVE / 2.0,
        _ => random.between(-1_000, 1_000) as f32 / 7.0,
    }
}

/// A default that a definition can hold.
pub fn any_default(random: &mut Random, data_type: DataType) -> Option<Value> {
    let value = match data_type {
        DataType::Scalar(ScalarType::Bool) => Value::Bool(true),
        DataType::Scalar(ScalarType::Int32) => Value::Int32(-7),
        DataType::Scalar(ScalarType::Int64) => Value::Int64(i64::MAX),
        DataType::Scalar(ScalarType::Float32) => Value::Float32(-0.0),
        DataType::Scalar(ScalarType::Float64) => Value::Float64(0.1),
        DataType::Scalar(ScalarType::String) => Value::String("none".to_owned()),
        DataType::Scalar(ScalarType::Bytes) => Value::Bytes(vec![0, 255]),
        DataType::Scalar(ScalarType::Timestamp) => Value::Timestamp(-1),
        DataType::List(_) => Value::List(vec![Value::Null]),
        DataType::Vector(dimension) => Value::Vector(vec![0.5; dimension as usize]),
    };
    random.chance(35).then_some(value)
}
