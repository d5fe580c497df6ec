//! Spine columns made into what the join compares: instants in microseconds, and join keys in the
//! types of their entity, by the one lossless cast there is. What doesn't fit is refused, naming
//! rows.

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, ArrayRef, Int64Array, new_empty_array};
use arrow_schema::DataType as ArrowType;
use hydrant_storage::cast::{Exact, to_exact};
use hydrant_storage::value::{DataType, ScalarType};

use crate::error::{Error, Violation};

/// How many bad rows a refusal names.
pub const NAMED_ROWS: usize = 20;

/// Whether a spine column of the type can hold event times.
pub fn is_instant(data_type: &ArrowType) -> bool {
    match data_type {
        ArrowType::Timestamp(_, _) => true,
        ArrowType::Dictionary(_, values) => is_instant(values),
        _ => false,
    }
}

/// Whether a spine column of the type can hold join keys of `key_type`.
pub fn can_be_key(data_type: &ArrowType, key_type: ScalarType) -> bool {
    to_exact(&new_empty_array(data_type), DataType::Scalar(key_type)).is_ok()
}

/// UTC microseconds of a column of timestamps; finer times are floored. Nulls and instants that
/// microseconds can't hold are refused; `first_row` is the spine's ordinal of the column's first.
pub fn event_times(array: &ArrayRef, name: &str, first_row: u64) -> Result<Int64Array, Error> {
    let exact = exact(array, ScalarType::Timestamp, name)?;
    let times = exact.array.as_primitive::<TimestampMicrosecondType>();
    if times.null_count() == 0 {
        return Ok(Int64Array::new(times.values().clone(), None));
    }
    let bad: Vec<(usize, String)> = (0..times.len())
        .filter(|row| times.is_null(*row))
        .map(|row| match exact.misfits.iter().find(|misfit| misfit.row == row) {
            Some(misfit) => (row, misfit.reason.clone()),
            None => (row, "has no event time".to_owned()),
        })
        .collect();
    let message = format!("the spine has rows without a usable time in '{name}'");
    Err(refuse_rows("SPINE_TIME_MISSING", &message, name, first_row, &bad)
        .hint("leave these rows out of the spine, or give them a time"))
}

/// The column as join keys of `key_type`; nulls stay null.
pub fn key_column(array: &ArrayRef, key_type: ScalarType, name: &str, first_row: u64) -> Result<ArrayRef, Error> {
    let exact = exact(array, key_type, name)?;
    if exact.misfits.is_empty() {
        return Ok(exact.array);
    }
    let bad: Vec<(usize, String)> = exact.misfits.iter().map(|misfit| (misfit.row, misfit.reason.clone())).collect();
    let message = format!("the spine has rows whose '{name}' doesn't fit the join key's type {}", key_type.as_str());
    Err(refuse_rows("SPINE_KEY_VALUE", &message, name, first_row, &bad))
}

fn exact(array: &ArrayRef, scalar: ScalarType, name: &str) -> Result<Exact, Error> {
    to_exact(array, DataType::Scalar(scalar)).map_err(|error| {
        Error::invalid("SPINE_COLUMN_TYPE", format!("spine column '{name}': {error}")).with("column", name)
    })
}

fn refuse_rows(reason: &'static str, message: &str, column: &str, first_row: u64, bad: &[(usize, String)]) -> Error {
    let ordinal = |row: usize| first_row + row as u64;
    let named = &bad[..bad.len().min(NAMED_ROWS)];
    let rows: Vec<String> = named.iter().map(|(row, _)| ordinal(*row).to_string()).collect();
    let more = if bad.len() > named.len() { ", …" } else { "" };
    let violations = named
        .iter()
        .map(|(row, why)| Violation { path: format!("spine[{}].{column}", ordinal(*row)), message: why.clone() })
        .collect();
    Error::invalid(reason, format!("{message}: rows {}{more}", rows.join(", ")))
        .with("column", column)
        .violations(violations)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{
        DictionaryArray, Int32Array, LargeStringArray, TimestampMicrosecondArray, TimestampMillisecondArray,
        TimestampNanosecondArray, TimestampSecondArray, UInt64Array,
    };

    use super::*;

    fn times(array: impl Array + 'static) -> Vec<i64> {
        let array: ArrayRef = Arc::new(array);
        event_times(&array, "t", 0).expect("times").values().to_vec()
    }

    #[test]
    fn event_times_of_any_unit_become_microseconds_and_finer_ones_are_floored() {
        assert_eq!(times(TimestampSecondArray::from(vec![1, -1])), [1_000_000, -1_000_000]);
        assert_eq!(times(TimestampMillisecondArray::from(vec![1]).with_timezone("+02:00")), [1_000]);
        assert_eq!(times(TimestampMicrosecondArray::from(vec![7])), [7]);
        assert_eq!(times(TimestampNanosecondArray::from(vec![1_999, -1])), [1, -1]);
    }

    #[test]
    fn event_times_may_be_encoded_as_a_dictionary() {
        let values: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![5_999, 1_000]).with_timezone("+01:00"));
        let array: ArrayRef = Arc::new(DictionaryArray::new(Int32Array::from(vec![1, 0, 1]), values));
        assert!(is_instant(array.data_type()));
        assert_eq!(event_times(&array, "t", 0).expect("times").values().to_vec(), [1, 5, 1]);
    }

    #[test]
    fn null_event_times_are_refused_naming_up_to_twenty_rows() {
        let array: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![None; 30]));
        let error = event_times(&array, "when", 100).expect_err("refused");
        assert_eq!(error.violations.len(), 20);
        assert_eq!(error.violations[0].path, "spine[100].when");
        assert!(error.message.contains("rows 100, 101"), "{}", error.message);
        let beyond: ArrayRef = Arc::new(TimestampSecondArray::from(vec![i64::MAX]));
        assert!(event_times(&beyond, "when", 0).is_err());
    }

    #[test]
    fn join_keys_are_cast_only_where_nothing_is_lost() {
        let key = |array: ArrayRef, key_type| key_column(&array, key_type, "k", 0);
        assert!(key(Arc::new(Int32Array::from(vec![Some(5), None])), ScalarType::Int64).is_ok());
        assert!(key(Arc::new(UInt64Array::from(vec![u64::MAX])), ScalarType::Int64).is_err());
        assert!(key(Arc::new(LargeStringArray::from(vec!["a"])), ScalarType::String).is_ok());
        assert!(key(Arc::new(LargeStringArray::from(vec!["1"])), ScalarType::Int64).is_err());
    }
}
