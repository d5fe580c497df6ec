//! Single values in JSON, by the mapping of proto3: 64-bit integers as text (numbers are read too),
//! NaN and infinities by name, bytes as base64, times as RFC 3339. Values are read by a type and
//! never guessed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hydrant_storage::value::{DataType, ScalarType, Value};
use serde_json::{Number, Value as Json};

use crate::clock::{parse_rfc3339, rfc3339};

/// Reads a value of a type. The error says what the type wants. `null` is [`Value::Null`].
pub fn from_json(json: &Json, data_type: DataType) -> Result<Value, String> {
    if json.is_null() {
        return Ok(Value::Null);
    }
    match data_type {
        DataType::Scalar(scalar) => scalar_from_json(json, scalar),
        DataType::List(element) => {
            let elements = json.as_array().ok_or_else(|| wanted(json, data_type, "a list"))?;
            let read = |element_json: &Json| match element_json {
                Json::Null => Ok(Value::Null),
                other => scalar_from_json(other, element),
            };
            elements.iter().map(read).collect::<Result<_, _>>().map(Value::List)
        }
        DataType::Vector(dimension) => {
            let elements = json.as_array().ok_or_else(|| wanted(json, data_type, "a list of numbers"))?;
            if elements.len() != dimension as usize {
                return Err(format!("a {data_type} has {dimension} elements, not {}", elements.len()));
            }
            let read = |element: &Json| match scalar_from_json(element, ScalarType::Float32)? {
                Value::Float32(number) => Ok(number),
                _ => Err("a vector holds no nulls".to_owned()),
            };
            elements.iter().map(read).collect::<Result<_, _>>().map(Value::Vector)
        }
    }
}

/// Writes a value; [`from_json`] with its type gives it back.
pub fn to_json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int32(value) => Json::from(*value),
        Value::Int64(value) => Json::String(value.to_string()),
        Value::Float32(value) => float32_to_json(*value),
        Value::Float64(value) => float_to_json(*value),
        Value::String(value) => Json::String(value.clone()),
        Value::Bytes(value) => Json::String(BASE64.encode(value)),
        Value::Timestamp(micros) => Json::String(rfc3339(*micros)),
        Value::List(elements) => Json::Array(elements.iter().map(to_json).collect()),
        Value::Vector(elements) => Json::Array(elements.iter().copied().map(float32_to_json).collect()),
    }
}

fn scalar_from_json(json: &Json, scalar: ScalarType) -> Result<Value, String> {
    let data_type = DataType::Scalar(scalar);
    match scalar {
        ScalarType::Bool => json.as_bool().map(Value::Bool).ok_or_else(|| wanted(json, data_type, "true or false")),
        ScalarType::Int32 => {
            let value = integer(json).and_then(|value| i32::try_from(value).ok());
            value.map(Value::Int32).ok_or_else(|| wanted(json, data_type, "a whole number of 32 bits"))
        }
        ScalarType::Int64 => {
            integer(json).map(Value::Int64).ok_or_else(|| wanted(json, data_type, "a whole number of 64 bits"))
        }
        ScalarType::Float32 => float32(json).map(Value::Float32).ok_or_else(|| wanted(json, data_type, "a number")),
        ScalarType::Float64 => float64(json).map(Value::Float64).ok_or_else(|| wanted(json, data_type, "a number")),
        ScalarType::String => {
            let text = json.as_str().ok_or_else(|| wanted(json, data_type, "a text (quote it)"))?;
            Ok(Value::String(text.to_owned()))
        }
        ScalarType::Bytes => {
            let bytes = json.as_str().and_then(|text| BASE64.decode(text).ok());
            bytes.map(Value::Bytes).ok_or_else(|| wanted(json, data_type, "a text in base64"))
        }
        ScalarType::Timestamp => {
            let time = json.as_str().and_then(|text| parse_rfc3339(text).ok());
            time.map(Value::Timestamp).ok_or_else(|| wanted(json, data_type, "a time such as 2013-12-31T00:30:00Z"))
        }
    }
}

fn wanted(json: &Json, data_type: DataType, what: &str) -> String {
    let shown: String = json.to_string().chars().take(40).collect();
    format!("{shown} is no {data_type}: give {what}")
}

fn integer(json: &Json) -> Option<i64> {
    match json {
        Json::Number(number) => number.as_i64(),
        Json::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn float64(json: &Json) -> Option<f64> {
    match json {
        Json::Number(number) => number.as_f64().filter(|value| value.is_finite()),
        Json::String(text) => named_float(text).or_else(|| finite_text(text)),
        _ => None,
    }
}

/// Rounded to the nearest; a finite number that would become infinite is none.
fn float32(json: &Json) -> Option<f32> {
    let wide = float64(json)?;
    let narrow = wide as f32;
    (narrow.is_finite() || !wide.is_finite()).then_some(narrow)
}

fn named_float(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

fn finite_text(text: &str) -> Option<f64> {
    let numeric = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    text.parse::<f64>().ok().filter(|value| numeric && value.is_finite())
}

fn float_to_json(value: f64) -> Json {
    match Number::from_f64(value) {
        Some(number) => Json::Number(number),
        None if value.is_nan() => Json::String("NaN".to_owned()),
        None if value > 0.0 => Json::String("Infinity".to_owned()),
        None => Json::String("-Infinity".to_owned()),
    }
}

/// With the shortest digits that name the float32, not those of its float64 twin.
fn float32_to_json(value: f32) -> Json {
    let shortest = value.to_string().parse::<f64>().unwrap_or(f64::from(value));
    float_to_json(if value.is_finite() { shortest } else { f64::from(value) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(json: Json, data_type: &str) -> Result<Value, String> {
        from_json(&json, data_type.parse().expect("a type"))
    }

    #[test]
    fn values_read_as_they_are_written() {
        for (json, data_type) in [
            (json!(true), "bool"),
            (json!(-5), "int32"),
            (json!("9007199254740993"), "int64"),
            (json!(0.1), "float32"),
            (json!(0.1), "float64"),
            (json!("NaN"), "float64"),
            (json!("-Infinity"), "float32"),
            (json!(""), "string"),
            (json!("AAEC"), "bytes"),
            (json!("2013-12-31T00:30:00Z"), "timestamp"),
            (json!("2013-12-31T00:30:00.000001Z"), "timestamp"),
            (json!(["a", null]), "list<string>"),
            (json!([0.5, 1.25]), "vector<2>"),
        ] {
            let value = read(json.clone(), data_type).expect("it fits");
            assert_eq!(to_json(&value), json, "{data_type}");
        }
    }

    #[test]
    fn values_of_another_type_are_refused_and_never_guessed() {
        for (json, data_type) in [
            (json!("true"), "bool"),
            (json!(1), "bool"),
            (json!(2_147_483_648_i64), "int32"),
            (json!(1.5), "int64"),
            (json!("0x10"), "int64"),
            (json!(1e300), "float32"),
            (json!("inf"), "float64"),
            (json!(5), "string"),
            (json!("not base64!"), "bytes"),
            (json!("yesterday"), "timestamp"),
            (json!([1.0]), "vector<2>"),
            (json!([1.0, null]), "vector<2>"),
            (json!("a"), "list<string>"),
        ] {
            assert!(read(json.clone(), data_type).is_err(), "{json} as {data_type}");
        }
    }
}
