//! Tables out of JSON and back: what a test sends is written as rows, and what it gets is shown as
//! text, a value or the reason why there is none. Times are whole numbers, microseconds.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, TimestampMicrosecondArray};
use arrow_schema::{Field, Schema};
use hydrant::registry::values;
use hydrant_storage::row::{ColumnBuilder, value_at};
use hydrant_storage::value::{DataType, ScalarType, Value};
use serde_json::Value as Json;

pub const TIMESTAMP: DataType = DataType::Scalar(ScalarType::Timestamp);

/// A column of a type.
pub fn column(data_type: DataType, values: &[Value]) -> ArrayRef {
    let mut builder = ColumnBuilder::new(data_type, values.len());
    for value in values {
        builder.push_value(value).expect("a value of the column's type");
    }
    builder.finish()
}

/// A value of a type; a time is a number.
pub fn value_of(json: &Json, data_type: DataType) -> Value {
    match json.as_i64() {
        Some(micros) if data_type == TIMESTAMP => Value::Timestamp(micros),
        _ => values::from_json(json, data_type).expect("a value of the column's type"),
    }
}

/// Rows as a batch whose columns have the types that `type_of` tells. A column that no row has is
/// missing; what one row lacks is null.
pub fn batch(rows: &Json, type_of: impl Fn(&str) -> DataType) -> RecordBatch {
    let rows = rows.as_array().expect("a list of rows");
    let cells = |row: &Json| row.as_object().expect("a row is an object").clone();
    let names: BTreeSet<String> = rows.iter().flat_map(|row| cells(row).into_iter().map(|(name, _)| name)).collect();
    let columns = names.iter().map(|name| {
        let data_type = type_of(name);
        let values: Vec<Value> = rows.iter().map(|row| value_of(&row[name], data_type)).collect();
        (name, column(data_type, &values), true)
    });
    let columns: Vec<_> = columns.collect();
    if columns.is_empty() {
        return RecordBatch::new_empty(Arc::new(Schema::empty()));
    }
    RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length")
}

/// Rows as a spine: `at` is its event time, whole numbers are int64.
pub fn spine(rows: &Json) -> RecordBatch {
    let all = rows.as_array().expect("a list of rows");
    let type_of = |name: &str| {
        let first = all.iter().map(|row| &row[name]).find(|value| !value.is_null());
        DataType::Scalar(match first {
            _ if name == "at" => ScalarType::Timestamp,
            Some(Json::Bool(_)) => ScalarType::Bool,
            Some(Json::Number(number)) if number.is_f64() => ScalarType::Float64,
            Some(Json::Number(_)) | None => ScalarType::Int64,
            Some(_) => ScalarType::String,
        })
    };
    batch(rows, type_of)
}

/// A spine of one row per instant, each for the same keys.
pub fn spine_at(keys: &Json, instants: &[i64]) -> RecordBatch {
    let row = |at: &i64| {
        let mut row = keys.clone();
        row["at"] = Json::from(*at);
        row
    };
    spine(&instants.iter().map(row).collect())
}

/// The same table with one more or another column.
pub fn with_column(table: &RecordBatch, name: &str, array: ArrayRef) -> RecordBatch {
    let schema = table.schema();
    let kept = schema.fields().iter().cloned().zip(table.columns().iter().cloned());
    let (mut fields, mut columns): (Vec<_>, Vec<_>) = kept.filter(|(field, _)| field.name() != name).unzip();
    fields.push(Arc::new(Field::new(name, array.data_type().clone(), true)));
    columns.push(array);
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("columns of one length")
}

/// A cell as tests write it: the value, `NULL`, or the status with the default that stands in.
pub fn shown(value: &Value, status: &str) -> String {
    match (value, status) {
        (value, "PRESENT") => plain(value),
        (Value::Null, status) => status.to_owned(),
        (default, status) => format!("{status}={}", plain(default)),
    }
}

/// A value alone.
pub fn plain(value: &Value) -> String {
    match values::to_json(value) {
        Json::String(text) => text,
        other => other.to_string(),
    }
}

/// A column of values and the column of their statuses, cell by cell.
pub fn shown_column(values: &dyn Array, data_type: DataType, statuses: &[&str]) -> Vec<String> {
    let value = |row| value_at(values, data_type, row).expect("a column of its type");
    statuses.iter().enumerate().map(|(row, status)| shown(&value(row), status)).collect()
}

/// A column of UTC times.
pub fn times(micros: &[i64]) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(micros.to_vec()).with_timezone("UTC"))
}
