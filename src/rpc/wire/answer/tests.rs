//! The bytes that are written cell by cell are those of the message made of whole columns.

use std::collections::BTreeMap;

use arrow_array::cast::AsArray as _;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array as _, ArrayRef, RecordBatch, UInt32Array};
use arrow_ipc::reader::StreamReader;
use bytes::Bytes;
use hydrant_storage::order::{Micros, Position, RowVersion};
use hydrant_storage::row::{ColumnBuilder, OwnedRow, RowHeader, RowKind, RowLayout, RowPacker};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::super::columns::decode_column;
use super::*;
use crate::registry::catalog::{Lookup, ServiceColumn};
use crate::registry::selection::Selection;
use crate::serving::MadeUp;
use crate::testing::{made_up_view, name};

const NOW: Micros = 1_000;
const TTL: Micros = 100;
const UNBOUNDED: MessageLimit = MessageLimit { option: "server.grpc_max_message", bytes: u64::MAX };

/// The answer by way of messages.
fn plainly(answer: &OnlineAnswer) -> v1::GetOnlineFeaturesResponse {
    let columns = answer.to_columns().expect("its columns");
    let columns = columns.iter().map(|column| encode_feature(column).expect("its message")).collect();
    let services = services_of(answer.selection()).collect();
    v1::GetOnlineFeaturesResponse { columns, services, ..rest_of(answer, 0) }
}

fn scalar(scalar: ScalarType) -> BoxedStrategy<Value> {
    match scalar {
        ScalarType::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        ScalarType::Int32 => any::<i32>().prop_map(Value::Int32).boxed(),
        ScalarType::Int64 => any::<i64>().prop_map(Value::Int64).boxed(),
        ScalarType::Float32 => any::<u32>().prop_map(|bits| Value::Float32(f32::from_bits(bits))).boxed(),
        ScalarType::Float64 => any::<u64>().prop_map(|bits| Value::Float64(f64::from_bits(bits))).boxed(),
        ScalarType::String => ".{0,5}".prop_map(Value::String).boxed(),
        ScalarType::Bytes => vec(any::<u8>(), 0..5).prop_map(Value::Bytes).boxed(),
        ScalarType::Timestamp => any::<i64>().prop_map(Value::Timestamp).boxed(),
    }
}

fn value(data_type: DataType) -> BoxedStrategy<Value> {
    match data_type {
        DataType::Scalar(of) => scalar(of),
        DataType::List(of) => {
            let element = prop_oneof![4 => scalar(of), 1 => Just(Value::Null)];
            vec(element, 0..4).prop_map(Value::List).boxed()
        }
        DataType::Vector(dimension) => {
            let bits = vec(any::<u32>(), dimension as usize);
            bits.prop_map(|bits| Value::Vector(bits.into_iter().map(f32::from_bits).collect())).boxed()
        }
    }
}

fn data_type() -> impl Strategy<Value = DataType> {
    let scalar = prop::sample::select(ScalarType::ALL.to_vec());
    prop_oneof![
        6 => scalar.clone().prop_map(DataType::Scalar),
        1 => scalar.prop_map(DataType::List),
        1 => (1..4_u32).prop_map(DataType::Vector),
    ]
}

/// A type, and a default for it.
fn feature() -> impl Strategy<Value = (DataType, Option<Value>)> {
    data_type().prop_flat_map(|data_type| (Just(data_type), option::of(value(data_type))))
}

/// What is found for a key: full rows may have fewer features than the view, or be expired.
fn row(types: Vec<DataType>) -> impl Strategy<Value = MadeUp> {
    let full = (0..=types.len(), any::<bool>()).prop_flat_map(move |(count, old)| {
        let values: Vec<_> = types[..count]
            .iter()
            .map(|data_type| prop_oneof![4 => value(*data_type), 1 => Just(Value::Null)])
            .collect();
        let types = types[..count].to_vec();
        values.prop_map(move |values| {
            MadeUp::Row(stored(RowKind::Full, if old { 0 } else { NOW }, count, packed(&types, &values)))
        })
    });
    let stub = |kind| MadeUp::Row(stored(kind, 0, 2, Bytes::new()));
    prop_oneof![
        8 => full,
        1 => Just(MadeUp::Absent),
        1 => Just(MadeUp::Damaged),
        1 => Just(MadeUp::NotReady),
        1 => Just(stub(RowKind::Tombstone)),
        1 => Just(stub(RowKind::ExpiredStub)),
        // A body that isn't what its header says.
        1 => Just(MadeUp::Row(stored(RowKind::Full, NOW, 2, Bytes::from_static(b"\xff\xff")))),
    ]
}

fn packed(types: &[DataType], values: &[Value]) -> Bytes {
    let layout = RowLayout::new(types);
    let column = |(data_type, value): (&DataType, &Value)| {
        let mut column = ColumnBuilder::new(*data_type, 1);
        column.push_value(value).expect("of its type");
        Some(column.finish())
    };
    let columns = types.iter().zip(values).map(column).collect();
    let mut body = Vec::new();
    RowPacker::new(&layout, columns).expect("of their types").pack(0, &mut body).expect("it packs");
    body.into()
}

fn stored(kind: RowKind, event_time: Micros, features: usize, body: Bytes) -> OwnedRow {
    let position = Position { frame: 1, ordinal: 0 };
    let version = RowVersion { event_time, known_time: 0, position };
    let feature_count = u16::try_from(features).expect("a few");
    OwnedRow::new(RowHeader { kind, version, ingest_time: 0, revision: 1, feature_count }, body)
}

/// Some columns have a key a row, and others one key for all rows.
fn answer() -> impl Strategy<Value = OnlineAnswer> {
    vec((feature(), any::<bool>()), 1..6).prop_flat_map(|features| {
        let types: Vec<DataType> = features.iter().map(|((data_type, _), _)| *data_type).collect();
        let rows = vec(row(types), 1..4);
        let keys = vec(option::of(0..3_u32), 0..6);
        (Just(features), rows, keys, option::of(0..3_u32), any::<bool>()).prop_map(
            |(features, rows, keys, shared, times)| {
                let typed: Vec<_> = features.iter().map(|((data_type, _), _)| ("f", *data_type, None)).collect();
                let view = made_up_view(1, &[("k", ScalarType::Int64)], &typed);
                let lookup = |key| Lookup { view: view.clone(), keys: vec![name(key)], ttl: Some(TTL) };
                let lookups = vec![lookup("each"), lookup("shared")];
                let column =
                    |(feature, ((data_type, default), shared)): (usize, ((DataType, _), bool))| ServiceColumn {
                        name: format!("f{feature}"),
                        lookup: usize::from(shared),
                        feature,
                        data_type,
                        default,
                        is_masked: false,
                        withholds_pii: false,
                    };
                let columns = features.into_iter().enumerate().map(column).collect();
                let selection = Selection::new(Vec::new(), Vec::new(), lookups, columns, 7).expect("of two lookups");
                let of_rows = |key: Option<u32>| key.map(|key| key % rows.len() as u32);
                let keys: Vec<_> = keys.into_iter().map(of_rows).collect();
                let (count, shared) = (keys.len(), vec![of_rows(shared)]);
                OnlineAnswer::made_up(selection, count, vec![keys, shared], vec![rows], times, NOW)
            },
        )
    })
}

/// The record batch of an answer in Arrow, whole as pyarrow would read it.
fn in_arrow(answer: &OnlineAnswer, beside: Beside) -> (RecordBatch, v1::GetOnlineFeaturesResponse) {
    let written = encode_answer(answer, AnswerForm::Arrow(beside), 7, UNBOUNDED).expect("it is written").message();
    let mut response = v1::GetOnlineFeaturesResponse::decode(written).expect("a message");
    let stream = std::mem::take(&mut response.arrow_ipc);
    let mut batches = StreamReader::try_new(stream.as_slice(), None).expect("a stream of Arrow");
    let batch = batches.next().expect("one batch").expect("sound");
    assert!(batches.next().is_none(), "and no more");
    (batch, response)
}

/// The values of a column for every row.
fn for_all_rows(column: &ArrayRef, rows: usize) -> ArrayRef {
    let index = |row: usize| if column.len() == 1 { 0 } else { row as u32 };
    arrow_select::take::take(column, &UInt32Array::from_iter_values((0..rows).map(index)), None).expect("taken")
}

proptest! {
    #[test]
    fn an_answer_in_arrow_has_the_cells_of_the_plain_one(answer in answer(), status: bool, event_time: bool) {
        let beside = Beside { status, event_time };
        let (batch, rest) = in_arrow(&answer, beside);
        let plain = plainly(&answer);
        prop_assert_eq!(&rest, &v1::GetOnlineFeaturesResponse { columns: Vec::new(), first_row: 7, ..plain.clone() });
        let rows = answer.rows();
        prop_assert_eq!(batch.num_rows(), rows);
        let mut columns = batch.schema_ref().fields().iter().zip(batch.columns());
        let keys = ["each", "shared"].into_iter().zip(answer.key_columns());
        for (name, keys) in keys.filter(|(name, _)| answer.selection().request_columns.iter().any(|key| key.name.as_str() == *name)) {
            let (field, column) = columns.next().expect("a column of keys");
            prop_assert_eq!(field.name(), name);
            prop_assert_eq!(column, &for_all_rows(keys, rows));
        }
        for (plain, cells) in plain.columns.into_iter().zip(answer.selection().columns.clone()) {
            let statuses: Vec<v1::CellStatus> = plain.statuses().collect();
            let plain = decode_column(plain.column.expect("values")).expect("well-formed");
            let (field, column) = columns.next().expect("a column of values");
            prop_assert_eq!((field.name(), field.data_type()), (&plain.name, &cells.data_type.to_arrow()));
            prop_assert_eq!(column, &for_all_rows(&plain.values, rows));
            let status_of = |row: usize| statuses[if statuses.len() == 1 { 0 } else { row }];
            if status {
                let (field, column) = columns.next().expect("a column of statuses");
                prop_assert_eq!(field.name(), &format!("{}__status", plain.name));
                let texts: Vec<&str> = column.as_string::<i32>().iter().map(|text| text.expect("never null")).collect();
                prop_assert_eq!(texts, (0..rows).map(|row| status_of(row).as_str_name()).collect::<Vec<_>>());
            }
            if event_time {
                let (field, column) = columns.next().expect("a column of times");
                prop_assert_eq!(field.name(), &format!("{}__event_time", plain.name));
                let of_lookup = answer.times_of(cells.lookup);
                let time = |row: usize| of_lookup[if of_lookup.len() == 1 { 0 } else { row }];
                let expected = (0..rows).map(|row| time(row).filter(|_| status_of(row) != v1::CellStatus::NotFound));
                let told: Vec<_> = column.as_primitive::<TimestampMicrosecondType>().iter().collect();
                prop_assert_eq!(told, expected.collect::<Vec<_>>());
            }
        }
        prop_assert!(columns.next().is_none());
    }
}

/// The value of a feature in a matrix: several numbers of a vector. Written by hand, of the plain form.
fn as_numbers(column: &v1::Column, row: usize) -> Vec<f64> {
    use hydrant_proto::v1::column::Values;
    let is_null = column.nulls.get(row).copied().unwrap_or_default();
    match column.values.as_ref().expect("values") {
        Values::Vectors(vectors) => {
            let dimension = vectors.dimension as usize;
            let values = &vectors.values[row * dimension..(row + 1) * dimension];
            values.iter().map(|value| if is_null { f64::NAN } else { f64::from(*value) }).collect()
        }
        _ if is_null => vec![f64::NAN],
        Values::Bools(bools) => vec![if bools.values[row] { 1.0 } else { 0.0 }],
        Values::Int32s(ints) => vec![ints.values[row].into()],
        Values::Int64s(ints) => vec![ints.values[row] as f64],
        Values::Float32s(floats) => vec![floats.values[row].into()],
        Values::Float64s(floats) => vec![floats.values[row]],
        Values::Timestamps(times) => vec![times.micros[row] as f64],
        Values::Strings(_) | Values::Bytes(_) | Values::Lists(_) => panic!("no numbers"),
    }
}

proptest! {
    #[test]
    fn an_answer_in_matrices_has_the_cells_of_the_plain_one(answer in answer(), first_row: u64) {
        let refused = answer.selection().require_numbers().is_err();
        let texts = |column: &ServiceColumn| matches!(
            column.data_type,
            DataType::List(_) | DataType::Scalar(ScalarType::String | ScalarType::Bytes)
        );
        prop_assert_eq!(refused, answer.selection().columns.iter().any(texts));
        if refused {
            prop_assert!(encode_answer(&answer, AnswerForm::Matrix, 0, UNBOUNDED).is_err());
            return Ok(());
        }
        let written = encode_answer(&answer, AnswerForm::Matrix, first_row, UNBOUNDED).expect("it is written").message();
        let mut response = v1::GetOnlineFeaturesResponse::decode(written).expect("a message");
        let matrices = std::mem::take(&mut response.matrices);
        let plain = plainly(&answer);
        prop_assert_eq!(&response, &v1::GetOnlineFeaturesResponse { columns: Vec::new(), first_row, ..plain.clone() });

        let mut told: BTreeMap<usize, Vec<(Vec<u64>, i32)>> = BTreeMap::new();
        for matrix in &matrices {
            let rows = matrix.rows as usize;
            let width = |place: usize| matrix.widths.get(place).map_or(1, |width| *width as usize);
            let in_row: usize = (0..matrix.columns.len()).map(width).sum();
            prop_assert_eq!(matrix.values.len(), rows * in_row);
            let mut begin = 0;
            for (place, column) in matrix.columns.iter().enumerate() {
                let cells = (0..rows).map(|row| {
                    let values = &matrix.values[row * in_row + begin..][..width(place)];
                    let status = row * matrix.columns.len() + place;
                    let status = matrix.statuses[if matrix.statuses.len() == 1 { 0 } else { status }];
                    (values.iter().map(|value| value.to_bits()).collect(), status)
                });
                prop_assert!(told.insert(*column as usize, cells.collect()).is_none(), "a column stands once");
                begin += width(place);
            }
        }
        prop_assert_eq!(told.len(), plain.columns.len());
        for (number, plain) in plain.columns.iter().enumerate() {
            let column = plain.column.as_ref().expect("values");
            let cells = &told[&number];
            prop_assert_eq!(cells.len(), super::super::columns::column_length(column));
            for (row, (values, status)) in cells.iter().enumerate() {
                let wanted: Vec<u64> = as_numbers(column, row).iter().map(|value| value.to_bits()).collect();
                prop_assert_eq!(values, &wanted);
                prop_assert_eq!(*status, plain.statuses[if plain.statuses.len() == 1 { 0 } else { row }]);
            }
        }
    }
}

proptest! {
    #[test]
    fn the_bytes_of_an_answer_are_those_of_its_message(answer in answer()) {
        let written = encode_answer(&answer, AnswerForm::Columns, 0, UNBOUNDED).expect("it is written").message();
        let plain = plainly(&answer);
        prop_assert_eq!(v1::GetOnlineFeaturesResponse::decode(written.clone()).expect("a message").columns.len(), plain.columns.len());
        prop_assert_eq!(written, Bytes::from(plain.encode_to_vec()));
    }
}

/// Numbers of one entity from two views, in any order, mostly all there.
fn numbers_of_one() -> impl Strategy<Value = OnlineAnswer> {
    let number = prop::sample::select(vec![ScalarType::Float32, ScalarType::Float64, ScalarType::Timestamp]);
    // Runs of consecutive features, and others.
    let feature = prop_oneof![3 => Just(None), 1 => any::<prop::sample::Index>().prop_map(Some)];
    let column = (prop::bool::weighted(0.2), feature, prop_oneof![20 => 1..70_usize, 1 => Just(0)], any::<bool>());
    (vec(number.prop_map(DataType::Scalar), 1..8), vec(column, 1..16)).prop_flat_map(|(types, columns)| {
        let of_first = |count: usize| {
            let types = types[..count].to_vec();
            let present: Vec<_> = types.iter().map(|data_type| value(*data_type)).collect();
            present
                .prop_map(move |values| MadeUp::Row(stored(RowKind::Full, NOW, types.len(), packed(&types, &values))))
        };
        // One from before some features were added.
        let older = of_first(types.len().div_ceil(2));
        let found = prop_oneof![6 => of_first(types.len()), 1 => older, 1 => row(types.clone())].boxed();
        (Just((types, columns)), [found.clone(), found], prop::bool::weighted(0.1)).prop_map(
            |((types, columns), found, is_masked)| {
                let typed: Vec<_> = types.iter().map(|data_type| ("f", *data_type, None)).collect();
                let lookup = |view| {
                    let view = made_up_view(view, &[("k", ScalarType::Int64)], &typed);
                    Lookup { view, keys: vec![name("k")], ttl: Some(TTL) }
                };
                let mut last = (0, 0);
                let columns = columns.into_iter().map(|(is_other, feature, length, masked)| {
                    let lookup = if is_other { 1 - last.0 } else { last.0 };
                    let feature = feature.map_or(last.1 % types.len(), |feature| feature.index(types.len()));
                    last = (lookup, feature + 1);
                    ServiceColumn {
                        name: "n".repeat(length),
                        lookup,
                        feature,
                        data_type: types[feature],
                        default: None,
                        is_masked: is_masked && masked,
                        withholds_pii: false,
                    }
                });
                let (columns, lookups) = (columns.collect(), vec![lookup(1), lookup(2)]);
                let selection = Selection::new(Vec::new(), Vec::new(), lookups, columns, 7).expect("of two lookups");
                let found = found.into_iter().map(|found| vec![found]).collect();
                OnlineAnswer::made_up(selection, 1, vec![vec![Some(0)]; 2], found, false, NOW)
            },
        )
    })
}

proptest! {
    /// The first answer to a selection makes what the others begin with.
    #[test]
    fn the_bytes_of_an_answer_to_one_entity_are_those_of_its_message(answer in numbers_of_one()) {
        let plain = Bytes::from(plainly(&answer).encode_to_vec());
        for _ in 0..2 {
            let written = encode_answer(&answer, AnswerForm::Columns, 0, UNBOUNDED).expect("it is written");
            prop_assert_eq!(written.message(), plain.clone());
        }
    }
}

proptest! {
    #[test]
    fn an_answer_beyond_the_limit_is_refused_and_one_within_it_is_not(answer in answer()) {
        let length = encode_answer(&answer, AnswerForm::Columns, 0, UNBOUNDED).expect("it is written").len() as u64;
        let within = MessageLimit { bytes: length, ..UNBOUNDED };
        prop_assert!(encode_answer(&answer, AnswerForm::Columns, 0, within).is_ok());
        let beyond = encode_answer(&answer, AnswerForm::Columns, 0, MessageLimit { bytes: length - 1, ..UNBOUNDED });
        prop_assert_eq!(beyond.expect_err("too large").reason, "MESSAGE_TOO_LARGE");
    }
}

proptest! {
    #[test]
    fn an_answer_in_arrow_beyond_the_limit_is_refused_and_one_within_it_is_not(answer in answer()) {
        let form = AnswerForm::Arrow(Beside { status: true, event_time: false });
        let length = encode_answer(&answer, form, 0, UNBOUNDED).expect("it is written").len() as u64;
        let within = MessageLimit { bytes: length, ..UNBOUNDED };
        prop_assert!(encode_answer(&answer, form, 0, within).is_ok());
        let beyond = encode_answer(&answer, form, 0, MessageLimit { bytes: length - 1, ..UNBOUNDED });
        prop_assert_eq!(beyond.expect_err("too large").reason, "MESSAGE_TOO_LARGE");
    }
}

/// One key of a long text stands for all rows: written out it would be a thousand times as large.
#[test]
fn one_value_that_stands_for_many_rows_is_not_written_out_beyond_the_limit() {
    let text = DataType::Scalar(ScalarType::String);
    let view = made_up_view(1, &[("k", ScalarType::Int64)], &[("f", text, None)]);
    let lookup = |key| Lookup { view: view.clone(), keys: vec![name(key)], ttl: None };
    let column = ServiceColumn {
        name: "f".to_owned(),
        lookup: 0,
        feature: 0,
        data_type: text,
        default: None,
        is_masked: false,
        withholds_pii: false,
    };
    let lookups = vec![lookup("shared"), lookup("each")];
    let selection = Selection::new(Vec::new(), Vec::new(), lookups, vec![column], 7).expect("of two lookups");
    let long = packed(&[text], &[Value::String("x".repeat(1 << 20))]);
    let row = MadeUp::Row(stored(RowKind::Full, NOW, 1, long));
    let keys = vec![vec![Some(0)], vec![Some(0); 1_000]];
    let answer = OnlineAnswer::made_up(selection, 1_000, keys, vec![vec![row]], false, NOW);
    let limit = MessageLimit { bytes: 16 << 20, ..UNBOUNDED };
    assert!(encode_answer(&answer, AnswerForm::Columns, 0, limit).expect("once").len() < 2 << 20);
    let refused = encode_answer(&answer, AnswerForm::Arrow(Beside::default()), 0, limit).expect_err("a thousand times");
    assert_eq!(refused.reason, "MESSAGE_TOO_LARGE");
}

#[test]
fn every_kind_of_cell_occurs_among_the_answers() {
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut statuses: BTreeMap<&str, usize> = BTreeMap::new();
    for _ in 0..500 {
        let answer = answer().new_tree(&mut runner).expect("an answer").current();
        for column in answer.cells().columns() {
            column.iter().for_each(|(status, _)| *statuses.entry(status.as_str()).or_default() += 1);
        }
    }
    let all = ["DAMAGED", "EXPIRED", "NOT_FOUND", "NOT_READY", "NULL", "PRESENT"];
    assert_eq!(statuses.keys().copied().collect::<Vec<_>>(), all, "{statuses:?}");
}
