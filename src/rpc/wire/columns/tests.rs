//! Round trips of columns of every type, and malformed columns.

use arrow_array::builder::{
    BinaryBuilder, BooleanBuilder, FixedSizeListBuilder, Float32Builder, Float64Builder, Int32Builder, Int64Builder,
    ListBuilder, StringBuilder, TimestampMicrosecondBuilder,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

/// Columns of every type, with and without nulls, floats of every bit pattern.
fn array() -> impl Strategy<Value = ArrayRef> {
    let rows = 0..6_usize;
    prop_oneof![
        vec(option::of(any::<bool>()), rows.clone()).prop_map(|cells| {
            let mut builder = BooleanBuilder::new();
            cells.into_iter().for_each(|cell| builder.append_option(cell));
            Arc::new(builder.finish()) as ArrayRef
        }),
        vec(option::of(any::<i32>()), rows.clone()).prop_map(|cells| {
            let mut builder = Int32Builder::new();
            cells.into_iter().for_each(|cell| builder.append_option(cell));
            Arc::new(builder.finish()) as ArrayRef
        }),
        vec(option::of(any::<i64>()), rows.clone()).prop_map(|cells| {
            let mut builder = Int64Builder::new();
            cells.into_iter().for_each(|cell| builder.append_option(cell));
            Arc::new(builder.finish()) as ArrayRef
        }),
        vec(option::of(any::<u32>()), rows.clone()).prop_map(|cells| {
            let mut builder = Float32Builder::new();
            cells.into_iter().for_each(|bits| builder.append_option(bits.map(f32::from_bits)));
            Arc::new(builder.finish()) as ArrayRef
        }),
        vec(option::of(any::<u64>()), rows.clone()).prop_map(|cells| {
            let mut builder = Float64Builder::new();
            cells.into_iter().for_each(|bits| builder.append_option(bits.map(f64::from_bits)));
            Arc::new(builder.finish()) as ArrayRef
        }),
        vec(option::of(".{0,6}"), rows.clone()).prop_map(|cells| {
            let mut builder = StringBuilder::new();
            cells.into_iter().for_each(|cell| builder.append_option(cell));
            Arc::new(builder.finish()) as ArrayRef
        }),
        vec(option::of(vec(any::<u8>(), 0..6)), rows.clone()).prop_map(|cells| {
            let mut builder = BinaryBuilder::new();
            cells.into_iter().for_each(|cell| builder.append_option(cell));
            Arc::new(builder.finish()) as ArrayRef
        }),
        vec(option::of(any::<i64>()), rows.clone()).prop_map(|cells| {
            let mut builder = TimestampMicrosecondBuilder::new().with_data_type(ScalarType::Timestamp.to_arrow());
            cells.into_iter().for_each(|cell| builder.append_option(cell));
            Arc::new(builder.finish()) as ArrayRef
        }),
        vec(option::of(vec(option::of(".{0,4}"), 0..4)), rows.clone()).prop_map(|cells| {
            let field = Field::new("element", ArrowType::Utf8, true);
            let mut builder = ListBuilder::new(StringBuilder::new()).with_field(field);
            cells.into_iter().for_each(|cell| builder.append_option(cell));
            Arc::new(builder.finish()) as ArrayRef
        }),
        vec(option::of(vec(any::<u32>(), 3)), rows).prop_map(|cells| {
            let field = Field::new("element", ArrowType::Float32, false);
            let mut builder = FixedSizeListBuilder::new(Float32Builder::new(), 3).with_field(field);
            for cell in cells {
                let values = cell.clone().unwrap_or_else(|| vec![0; 3]);
                values.into_iter().for_each(|bits| builder.values().append_value(f32::from_bits(bits)));
                builder.append(cell.is_some());
            }
            Arc::new(builder.finish()) as ArrayRef
        }),
    ]
}

/// Equal to the last bit, which float equality doesn't tell.
fn same_bits(left: &ArrayRef, right: &ArrayRef) -> bool {
    let bits = |array: &ArrayRef| -> Option<Vec<Option<u64>>> {
        match array.data_type() {
            ArrowType::Float32 => {
                Some(array.as_primitive::<Float32Type>().iter().map(|cell| cell.map(|v| v.to_bits().into())).collect())
            }
            ArrowType::Float64 => {
                Some(array.as_primitive::<Float64Type>().iter().map(|cell| cell.map(f64::to_bits)).collect())
            }
            _ => None,
        }
    };
    if let ArrowType::FixedSizeList(_, _) = left.data_type() {
        let (left, right) = (left.as_fixed_size_list(), right.as_fixed_size_list());
        return left.len() == right.len()
            && (0..left.len()).all(|row| {
                left.is_null(row) == right.is_null(row)
                    && (left.is_null(row) || same_bits(&left.value(row), &right.value(row)))
            });
    }
    match (bits(left), bits(right)) {
        (Some(left), Some(right)) => left == right,
        _ => left == right,
    }
}

proptest! {
    #[test]
    fn columns_of_every_type_cross_the_wire_to_the_last_bit(array in array()) {
        let column = encode_column("feature", &array).expect("a type of Hydrant's");
        let decoded = decode_column(column).expect("it was just encoded");
        prop_assert_eq!(&decoded.name, "feature");
        prop_assert_eq!(decoded.data_type.to_arrow(), array.data_type().clone());
        prop_assert!(same_bits(&decoded.values, &array), "{:?} became {:?}", array, decoded.values);
    }

    #[test]
    fn a_slice_crosses_the_wire_as_what_it_shows(array in array(), from in 0..6_usize, length in 0..6_usize) {
        let from = from.min(array.len());
        let slice = array.slice(from, length.min(array.len() - from));
        let decoded = decode_column(encode_column("feature", &slice).expect("a type of Hydrant's")).expect("encoded");
        prop_assert!(same_bits(&decoded.values, &slice), "{:?} became {:?}", slice, decoded.values);
    }

    #[test]
    fn a_malformed_column_is_refused_and_never_panics(
        offsets in vec(any::<u32>(), 0..5),
        elements in vec(any::<i32>(), 0..5),
        dimension in any::<u32>(),
        nulls in vec(any::<bool>(), 0..5),
    ) {
        let column = |values| v1::Column { name: "c".to_owned(), values: Some(values), nulls: nulls.clone() };
        let ints = v1::Column {
            name: String::new(),
            values: Some(Values::Int32s(v1::Int32Values { values: elements.clone() })),
            nulls: Vec::new(),
        };
        let lists = v1::ListValues { offsets, elements: Some(Box::new(ints)) };
        let floats = elements.iter().map(|_| 0.5).collect();
        for values in [
            Values::Lists(Box::new(lists)),
            Values::Vectors(v1::VectorValues { dimension, values: floats }),
            Values::Int32s(v1::Int32Values { values: elements }),
        ] {
            if let Ok(decoded) = decode_column(column(values)) {
                prop_assert!(nulls.is_empty() || nulls.len() == decoded.values.len());
            }
        }
    }
}

#[test]
fn a_column_names_itself_where_it_is_malformed() {
    let column = |values| v1::Column { name: "wind".to_owned(), values, nulls: Vec::new() };
    let nested = Values::Lists(Box::new(v1::ListValues {
        offsets: vec![0],
        elements: Some(Box::new(column(Some(Values::Lists(Box::default()))))),
    }));
    for values in [None, Some(nested), Some(Values::Lists(Box::default())), Some(Values::Vectors(Default::default()))] {
        let error = decode_column(column(values)).expect_err("malformed");
        assert!(error.message.contains("'wind'"), "{error}");
    }
    let mut mismarked = column(Some(Values::Bools(v1::BoolValues { values: vec![true, false] })));
    mismarked.nulls = vec![true];
    assert!(decode_column(mismarked).expect_err("malformed").message.contains("2 values and 1 marks"));
}

#[test]
fn statuses_that_are_all_alike_are_sent_once() {
    use CellStatus::{NotFound, Present};
    assert_eq!(encode_statuses(&[Present; 500]), vec![1]);
    assert_eq!(encode_statuses(&[Present, NotFound]), vec![1, 3]);
    assert_eq!(encode_statuses(&[]), Vec::<i32>::new());
}

#[test]
fn every_type_is_known_again_by_its_arrow_type() {
    for text in
        ["bool", "int32", "int64", "float32", "float64", "string", "bytes", "timestamp", "list<bytes>", "vector<7>"]
    {
        let data_type: DataType = text.parse().expect(text);
        assert_eq!(data_type_of(&data_type.to_arrow()), Some(data_type));
    }
    assert_eq!(data_type_of(&ArrowType::Date32), None);
}
