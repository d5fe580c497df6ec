//! Columns as they come, made into columns of the exact type, and only where nothing is lost:
//! narrower integers widen, float32 becomes float64, every encoding of strings and bytes becomes the
//! plain one, and times of any unit and zone become UTC microseconds. A value that doesn't fit is
//! reported with its row; a type that can't fit is refused as a whole.

use std::sync::Arc;

use arrow_array::builder::BooleanBufferBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Float32Type, Int64Type, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use arrow_array::{Array, ArrayRef, FixedSizeListArray, ListArray, PrimitiveArray, new_null_array};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_schema::{DataType as ArrowType, Field, TimeUnit};

use crate::value::{DataType, ScalarType};

/// A column of the exact type, and the rows whose value did not fit.
#[derive(Clone, Debug)]
pub struct Exact {
    /// Of type [`DataType::to_arrow`]; null in the rows that did not fit.
    pub array: ArrayRef,
    /// Ascending by row.
    pub misfits: Vec<Misfit>,
}

/// A value that its column's type can't hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    pub row: usize,
    pub reason: String,
}

/// Why a whole column can't be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a column of {given} can't become {wanted} without loss")]
pub struct LossyCast {
    pub given: String,
    pub wanted: DataType,
}

impl Exact {
    fn whole(array: ArrayRef) -> Self {
        Self { array, misfits: Vec::new() }
    }
}

/// Makes a column of the exact Arrow type of `wanted`.
pub fn to_exact(array: &ArrayRef, wanted: DataType) -> Result<Exact, LossyCast> {
    let exact_type = wanted.to_arrow();
    if *array.data_type() == exact_type {
        return Ok(Exact::whole(array.clone()));
    }
    if *array.data_type() == ArrowType::Null {
        return Ok(Exact::whole(new_null_array(&exact_type, array.len())));
    }
    let lossy = || LossyCast { given: array.data_type().to_string(), wanted };
    if let ArrowType::Dictionary(_, values) = array.data_type() {
        let plain = arrow_cast::cast(array, values).map_err(|_| lossy())?;
        return to_exact(&plain, wanted).map_err(|_| lossy());
    }
    match wanted {
        DataType::Scalar(ScalarType::Timestamp) => timestamps(array).ok_or_else(lossy),
        DataType::Scalar(scalar) if widens(array.data_type(), scalar) => {
            arrow_cast::cast(array, &exact_type).map(Exact::whole).map_err(|_| lossy())
        }
        DataType::Scalar(_) => Err(lossy()),
        DataType::List(element) => list(array, element).ok_or_else(lossy),
        DataType::Vector(dimension) => vector(array, dimension).ok_or_else(lossy),
    }
}

/// Whether every value of `from` is a value of `to`, bit for bit in meaning.
fn widens(from: &ArrowType, to: ScalarType) -> bool {
    use ArrowType::*;
    match to {
        ScalarType::Bool => matches!(from, Boolean),
        ScalarType::Int32 => matches!(from, Int8 | Int16 | Int32 | UInt8 | UInt16),
        ScalarType::Int64 => matches!(from, Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32),
        ScalarType::Float32 => matches!(from, Float16 | Float32 | Int8 | Int16 | UInt8 | UInt16),
        ScalarType::Float64 => {
            matches!(from, Float16 | Float32 | Float64 | Int8 | Int16 | Int32 | UInt8 | UInt16 | UInt32)
        }
        ScalarType::String => matches!(from, Utf8 | LargeUtf8 | Utf8View),
        ScalarType::Bytes => matches!(from, Binary | LargeBinary | BinaryView | FixedSizeBinary(_)),
        ScalarType::Timestamp => false,
    }
}

/// A zone is only how a time is shown: Arrow keeps zoned times as instants, and naive ones are UTC.
fn timestamps(array: &ArrayRef) -> Option<Exact> {
    let ArrowType::Timestamp(unit, _) = array.data_type() else { return None };
    Some(match unit {
        TimeUnit::Second => scaled::<TimestampSecondType>(array, |seconds| seconds.checked_mul(1_000_000)),
        TimeUnit::Millisecond => scaled::<TimestampMillisecondType>(array, |millis| millis.checked_mul(1_000)),
        TimeUnit::Microsecond => scaled::<TimestampMicrosecondType>(array, Some),
        TimeUnit::Nanosecond => scaled::<TimestampNanosecondType>(array, |nanos| Some(nanos.div_euclid(1_000))),
    })
}

fn scaled<T: ArrowPrimitiveType<Native = i64>>(array: &ArrayRef, to_micros: impl Fn(i64) -> Option<i64>) -> Exact {
    let given = array.as_primitive::<T>();
    let mut misfits = Vec::new();
    let micros = given.iter().enumerate().map(|(row, value)| {
        let value = value?;
        let micros = to_micros(value);
        if micros.is_none() {
            misfits.push(Misfit { row, reason: format!("the time {value} leaves the range of microseconds") });
        }
        micros
    });
    let micros: PrimitiveArray<TimestampMicrosecondType> = micros.collect();
    Exact { array: Arc::new(micros.with_timezone("UTC")), misfits }
}

/// The elements of any kind of list with where each list begins and ends.
fn list_parts(array: &ArrayRef) -> Option<(ArrayRef, Vec<(usize, usize)>)> {
    let place = |offset: i64| usize::try_from(offset).unwrap_or(0);
    match array.data_type() {
        ArrowType::List(_) => {
            let list = array.as_list::<i32>();
            let bounds = list.value_offsets().windows(2);
            let bounds = bounds.map(|ends| (place(i64::from(ends[0])), place(i64::from(ends[1])))).collect();
            Some((list.values().clone(), bounds))
        }
        ArrowType::LargeList(_) => {
            let list = array.as_list::<i64>();
            let bounds = list.value_offsets().windows(2).map(|ends| (place(ends[0]), place(ends[1]))).collect();
            Some((list.values().clone(), bounds))
        }
        ArrowType::FixedSizeList(_, _) => {
            let list = array.as_fixed_size_list();
            let width = usize::try_from(list.value_length()).ok()?;
            let bounds = (0..list.len()).map(|row| (row * width, (row + 1) * width)).collect();
            Some((list.values().clone(), bounds))
        }
        _ => None,
    }
}

fn list(array: &ArrayRef, element: ScalarType) -> Option<Exact> {
    let (elements, bounds) = list_parts(array)?;
    let Exact { array: elements, misfits: bad_elements } = to_exact(&elements, DataType::Scalar(element)).ok()?;
    let of_row = |row: usize| if array.is_null(row) { (0, 0) } else { bounds[row] };
    let mut misfits = Vec::new();
    for row in 0..array.len() {
        let (from, to) = of_row(row);
        let first_bad = bad_elements.get(bad_elements.partition_point(|misfit| misfit.row < from));
        if let Some(bad) = first_bad.filter(|misfit| misfit.row < to) {
            misfits.push(Misfit { row, reason: format!("element {}: {}", bad.row - from, bad.reason) });
        }
    }
    let lengths = (0..array.len()).map(|row| of_row(row).1 - of_row(row).0);
    let kept: arrow_array::UInt64Array =
        (0..array.len()).flat_map(|row| of_row(row).0 as u64..of_row(row).1 as u64).collect::<Vec<_>>().into();
    let elements = arrow_select::take::take(&elements, &kept, None).ok()?;
    let field = Arc::new(Field::new("element", element.to_arrow(), true));
    let nulls = valid_rows(array, &misfits);
    let lists = ListArray::try_new(field, OffsetBuffer::from_lengths(lengths), elements, nulls).ok()?;
    Some(Exact { array: Arc::new(lists), misfits })
}

fn vector(array: &ArrayRef, dimension: u32) -> Option<Exact> {
    let (elements, bounds) = list_parts(array)?;
    let elements = to_exact(&elements, DataType::Scalar(ScalarType::Float32)).ok()?.array;
    let elements = elements.as_primitive::<Float32Type>();
    let wanted = dimension as usize;
    let mut values = Vec::with_capacity(array.len() * wanted);
    let mut misfits = Vec::new();
    for (row, (from, to)) in bounds.into_iter().enumerate() {
        let given = if array.is_null(row) { &[][..] } else { &elements.values()[from..to] };
        let has_null = !array.is_null(row) && (from..to).any(|index| elements.is_null(index));
        let fits = given.len() == wanted && !has_null;
        if fits {
            values.extend_from_slice(given);
            continue;
        }
        values.resize(values.len() + wanted, 0.0);
        if !array.is_null(row) {
            let reason = match has_null {
                true => "an element of the vector is null".to_owned(),
                false => format!("{} elements in place of {wanted}", given.len()),
            };
            misfits.push(Misfit { row, reason });
        }
    }
    let field = Arc::new(Field::new("element", ArrowType::Float32, false));
    let nulls = valid_rows(array, &misfits);
    let values = Arc::new(PrimitiveArray::<Float32Type>::from(values));
    let vectors = FixedSizeListArray::try_new(field, i32::try_from(dimension).ok()?, values, nulls).ok()?;
    Some(Exact { array: Arc::new(vectors), misfits })
}

fn valid_rows(array: &ArrayRef, misfits: &[Misfit]) -> Option<NullBuffer> {
    if misfits.is_empty() {
        return array.nulls().cloned();
    }
    let mut valid = BooleanBufferBuilder::new(array.len());
    for row in 0..array.len() {
        valid.append(array.is_valid(row) && misfits.binary_search_by_key(&row, |misfit| misfit.row).is_err());
    }
    Some(NullBuffer::new(valid.finish()))
}

/// The values of a timestamp or int64 column of the exact type.
pub fn micros_of(array: &ArrayRef) -> Option<&[i64]> {
    match array.data_type() {
        ArrowType::Timestamp(TimeUnit::Microsecond, _) => {
            Some(array.as_primitive::<TimestampMicrosecondType>().values())
        }
        ArrowType::Int64 => Some(array.as_primitive::<Int64Type>().values()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::{
        Float32Array, Float64Array, Int8Array, Int64Array, StringArray, TimestampMillisecondArray,
        TimestampNanosecondArray, TimestampSecondArray, types::Int32Type,
    };

    use super::*;

    fn exact(array: impl Array + 'static, wanted: &str) -> Result<Exact, LossyCast> {
        to_exact(&(Arc::new(array) as ArrayRef), wanted.parse().expect("a type"))
    }

    #[test]
    fn a_column_is_cast_only_where_nothing_is_lost() {
        let widened = exact(Int8Array::from(vec![Some(-1), None]), "int64").expect("int8 widens");
        assert_eq!(widened.array.as_primitive::<Int64Type>(), &Int64Array::from(vec![Some(-1), None]));
        assert!(exact(Float32Array::from(vec![0.1]), "float64").is_ok());
        assert!(exact(Float64Array::from(vec![0.1]), "float32").is_err());
        assert!(exact(Int64Array::from(vec![1]), "int32").is_err());
        assert!(exact(Int64Array::from(vec![1]), "float64").is_err());
        assert!(exact(StringArray::from(vec!["1"]), "int32").is_err());
        assert!(exact(Int64Array::from(vec![1]), "timestamp").is_err());
        assert!(exact(StringArray::from(vec!["x"]), "bytes").is_err());
    }

    #[test]
    fn every_encoding_of_strings_is_taken() {
        let dictionary: arrow_array::DictionaryArray<Int32Type> =
            vec![Some("a"), None, Some("a")].into_iter().collect();
        let expected = StringArray::from(vec![Some("a"), None, Some("a")]);
        let plain = exact(dictionary, "string").expect("a dictionary of strings");
        assert_eq!(plain.array.as_string::<i32>(), &expected);
        let view = arrow_array::StringViewArray::from(vec![Some("a"), None, Some("a")]);
        assert_eq!(exact(view, "string").expect("a view").array.as_string::<i32>(), &expected);
    }

    #[test]
    fn times_finer_than_a_microsecond_are_floored_also_before_1970() {
        let cast = exact(TimestampNanosecondArray::from(vec![1_999, -1, -1_000, -1_001]), "timestamp").expect("nanos");
        assert_eq!(micros_of(&cast.array).expect("micros"), [1, -1, -1, -2]);
        let zoned = TimestampMillisecondArray::from(vec![5]).with_timezone("+02:00");
        let cast = exact(zoned, "timestamp").expect("millis");
        assert_eq!(*cast.array.data_type(), ScalarType::Timestamp.to_arrow());
        assert_eq!(micros_of(&cast.array).expect("micros"), [5_000]);
    }

    #[test]
    fn a_time_beyond_the_range_is_a_misfit_of_its_row() {
        let cast = exact(TimestampSecondArray::from(vec![1, i64::MAX]), "timestamp").expect("seconds");
        assert_eq!(cast.misfits.len(), 1);
        assert_eq!(cast.misfits[0].row, 1);
        assert!(cast.array.is_null(1));
    }

    #[test]
    fn a_list_of_float32_is_a_vector_where_its_length_is_right() {
        let lists = ListArray::from_iter_primitive::<Float32Type, _, _>(vec![
            Some(vec![Some(1.0), Some(2.0)]),
            None,
            Some(vec![Some(1.0)]),
            Some(vec![Some(1.0), None]),
        ]);
        let cast = exact(lists, "vector<2>").expect("lists of float32");
        let rows: Vec<usize> = cast.misfits.iter().map(|misfit| misfit.row).collect();
        assert_eq!(rows, [2, 3]);
        assert_eq!(cast.array.null_count(), 3);
        let doubles =
            ListArray::from_iter_primitive::<arrow_array::types::Float64Type, _, _>(vec![Some(vec![Some(1.0)])]);
        assert!(exact(doubles, "vector<1>").is_err());
    }

    #[test]
    fn lists_of_narrower_elements_widen_and_keep_their_nulls() {
        let lists =
            ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1), None]), None, Some(vec![])]);
        let cast = exact(lists.slice(0, 3), "list<int64>").expect("lists of int32");
        let wide = cast.array.as_list::<i32>();
        assert_eq!(wide.value(0).as_primitive::<Int64Type>(), &Int64Array::from(vec![Some(1), None]));
        assert!(wide.is_null(1) && !wide.is_null(2));
        assert_eq!(*cast.array.data_type(), "list<int64>".parse::<DataType>().expect("a type").to_arrow());
    }
}
