use std::sync::Arc;

use arrow_array::{Array, ArrayRef, Int64Array};
use proptest::prelude::*;

use super::*;
use crate::names::{TenantId, ViewId};
use crate::value::{DataType, ScalarType, Value};

const NAME: OnlineKey<'static> = OnlineKey { slot: 700, tenant: TenantId(1), view: ViewId(9), key: b"\x04EWR\0\0" };

fn scalar(scalar: ScalarType) -> BoxedStrategy<Value> {
    let int64 = || prop_oneof![Just(i64::MIN), Just(0), Just(i64::MAX), any::<i64>()];
    match scalar {
        ScalarType::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        ScalarType::Int32 => any::<i32>().prop_map(Value::Int32).boxed(),
        ScalarType::Int64 => int64().prop_map(Value::Int64).boxed(),
        ScalarType::Timestamp => int64().prop_map(Value::Timestamp).boxed(),
        // Any bits: NaNs with payloads, -0.0 and infinities among them.
        ScalarType::Float32 => prop_oneof![Just(0x8000_0000), Just(0x7FC0_1234), any::<u32>()]
            .prop_map(|bits| Value::Float32(f32::from_bits(bits)))
            .boxed(),
        ScalarType::Float64 => prop_oneof![Just(1 << 63), Just(0x7FF0_0000_0000_0001), any::<u64>()]
            .prop_map(|bits| Value::Float64(f64::from_bits(bits)))
            .boxed(),
        ScalarType::String => proptest::collection::vec(any::<char>(), 0..6)
            .prop_map(|text| Value::String(text.into_iter().collect()))
            .boxed(),
        ScalarType::Bytes => proptest::collection::vec(any::<u8>(), 0..6).prop_map(Value::Bytes).boxed(),
    }
}

fn or_null(value: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    prop_oneof![3 => value, 1 => Just(Value::Null)].boxed()
}

fn value(data_type: DataType) -> BoxedStrategy<Value> {
    or_null(match data_type {
        DataType::Scalar(of) => scalar(of),
        DataType::List(of) => proptest::collection::vec(or_null(scalar(of)), 0..12).prop_map(Value::List).boxed(),
        DataType::Vector(dimension) => {
            proptest::collection::vec(any::<u32>().prop_map(f32::from_bits), dimension as usize)
                .prop_map(Value::Vector)
                .boxed()
        }
    })
}

fn data_type() -> impl Strategy<Value = DataType> {
    let scalar = || proptest::sample::select(ScalarType::ALL.to_vec());
    prop_oneof![
        4 => scalar().prop_map(DataType::Scalar),
        2 => scalar().prop_map(DataType::List),
        1 => (1_u32..5).prop_map(DataType::Vector),
    ]
}

/// Types, and some rows of them.
fn table() -> impl Strategy<Value = (Vec<DataType>, Vec<Vec<Value>>)> {
    proptest::collection::vec(data_type(), 0..12).prop_flat_map(|types| {
        let row: Vec<_> = types.iter().map(|data_type| value(*data_type)).collect();
        (Just(types), proptest::collection::vec(row, 1..5))
    })
}

fn columns_of(types: &[DataType], rows: &[Vec<Value>]) -> Vec<ArrayRef> {
    let column = |(index, data_type): (usize, &DataType)| {
        let mut column = ColumnBuilder::new(*data_type, rows.len());
        for row in rows {
            column.push_value(&row[index]).expect("the value is of the column's type");
        }
        column.finish()
    };
    types.iter().enumerate().map(column).collect()
}

fn bodies_of(types: &[DataType], rows: &[Vec<Value>]) -> (RowLayout, Vec<Vec<u8>>) {
    let layout = RowLayout::new(types);
    let columns = columns_of(types, rows).into_iter().map(Some).collect();
    let packer = RowPacker::new(&layout, columns).expect("columns of the layout's types");
    let body = |row| {
        let mut body = Vec::new();
        packer.pack(row, &mut body).expect("short rows");
        body
    };
    let bodies = (0..rows.len()).map(body).collect();
    (layout, bodies)
}

fn header(kind: RowKind, feature_count: usize) -> RowHeader {
    let position = Position { frame: 77, ordinal: 3 };
    let version = RowVersion { event_time: -5, known_time: 6, position };
    RowHeader { kind, version, ingest_time: 7, revision: 8, feature_count: feature_count as u16 }
}

fn stored(body: &[u8], feature_count: usize) -> Vec<u8> {
    let mut out = Vec::new();
    encode_row(&NAME, &header(RowKind::Full, feature_count), body, &mut out);
    out
}

proptest! {
    #[test]
    fn rows_of_every_type_read_as_they_were_written((types, rows) in table()) {
        let (layout, bodies) = bodies_of(&types, &rows);
        let mut builders: Vec<_> = types.iter().map(|data_type| ColumnBuilder::new(*data_type, 0)).collect();
        for (row, body) in rows.iter().zip(&bodies) {
            let bytes = stored(body, types.len());
            let read = RowRef::read(&NAME, &bytes).expect("just encoded");
            prop_assert_eq!(*read.header(), header(RowKind::Full, types.len()));
            for (index, value) in row.iter().enumerate() {
                let cell = read.cell(&layout, index).expect("just packed");
                prop_assert!(cell.to_value().same_bits(value), "{:?} became {:?}", value, cell);
                builders[index].push(cell).expect("the cell is of the column's type");
            }
        }
        for (index, builder) in builders.into_iter().enumerate() {
            let column = builder.finish();
            prop_assert_eq!(column.data_type(), &types[index].to_arrow());
            for (row, values) in rows.iter().enumerate() {
                prop_assert!(value_at(&column, types[index], row).expect("its type").same_bits(&values[index]));
            }
        }
    }

    #[test]
    fn rows_are_readable_under_layouts_with_fewer_or_more_features(
        (types, rows) in table(), known in 0_usize..12, later in proptest::collection::vec(data_type(), 0..3)
    ) {
        let (_, bodies) = bodies_of(&types, &rows);
        let fewer = RowLayout::new(&types[..known.min(types.len())]);
        let more = RowLayout::new(&types.iter().chain(&later).copied().collect::<Vec<_>>());
        for (row, body) in rows.iter().zip(&bodies) {
            let bytes = stored(body, types.len());
            let read = RowRef::read(&NAME, &bytes).expect("just encoded");
            for (layout, len) in [(&fewer, fewer.len()), (&more, types.len())] {
                for (index, value) in row.iter().enumerate().take(len) {
                    prop_assert!(read.cell(layout, index).expect("the same features").to_value().same_bits(value));
                }
            }
            for index in types.len()..more.len() {
                prop_assert!(matches!(read.cell(&more, index), Ok(Cell::Null)));
            }
        }
    }

    #[test]
    fn every_single_bit_flip_is_detected((types, rows) in table()) {
        let (_, bodies) = bodies_of(&types, &rows);
        let mut bytes = stored(&bodies[0], types.len());
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(RowRef::read(&NAME, &bytes).is_err(), "bit {} flipped unseen", bit);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        prop_assert!(RowRef::read(&NAME, &bytes).is_ok());
    }

    /// What no checksum would let through: bodies that were packed wrongly, or under another layout.
    #[test]
    fn hostile_bodies_never_panic(
        (types, rows) in table(),
        body in proptest::collection::vec(prop_oneof![0_u8..16, any::<u8>()], 0..64),
        flips in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
        feature_count in 0_usize..16,
    ) {
        let (layout, mut bodies) = bodies_of(&types, &rows);
        for flip in flips {
            let bit = flip.index(bodies[0].len() * 8);
            bodies[0][bit / 8] ^= 1 << (bit % 8);
        }
        for (body, feature_count) in [(&bodies[0], types.len()), (&bodies[0], feature_count), (&body, feature_count)] {
            let bytes = stored(body, feature_count);
            let read = RowRef::read(&NAME, &bytes).expect("the checksum is right");
            for index in 0..layout.len() + 1 {
                if let Ok(cell) = read.cell(&layout, index) {
                    cell.to_value();
                }
            }
        }
    }

    #[test]
    fn hostile_rows_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
        prop_assert!(RowRef::read(&NAME, &bytes).is_err());
        // What the checksum would let through.
        let _ = RowRef::parse(&bytes);
    }
}

#[test]
fn a_row_under_another_name_is_damaged() {
    let bytes = stored(&bodies_of(&[], &[vec![]]).1[0], 0);
    assert!(RowRef::read(&NAME, &bytes).is_ok());
    for other in [
        OnlineKey { slot: 701, ..NAME },
        OnlineKey { tenant: TenantId(2), ..NAME },
        OnlineKey { view: ViewId(8), ..NAME },
        OnlineKey { key: b"\x04EWS\0\0", ..NAME },
    ] {
        assert!(RowRef::read(&other, &bytes).is_err(), "{other:?}");
    }
}

#[test]
fn stubs_and_tombstones_have_a_header_and_no_values() {
    let layout = RowLayout::new(&[DataType::Scalar(ScalarType::Int64)]);
    for kind in [RowKind::Tombstone, RowKind::ExpiredStub] {
        let mut bytes = Vec::new();
        encode_row(&NAME, &header(kind, 1), &[], &mut bytes);
        let row = RowRef::read(&NAME, &bytes).expect("just encoded");
        assert_eq!(*row.header(), header(kind, 1));
        assert!(row.cell(&layout, 0).is_err());
        let owned = OwnedRow::read(&NAME, &bytes).expect("just encoded");
        assert!(owned.body().is_empty());
    }
}

#[test]
fn an_absent_column_is_null_and_a_foreign_one_refused() {
    let int64 = DataType::Scalar(ScalarType::Int64);
    let layout = RowLayout::new(&[int64, int64]);
    let column: ArrayRef = Arc::new(Int64Array::from(vec![4]));
    let packer = RowPacker::new(&layout, vec![None, Some(column.clone())]).expect("columns of the layout's types");
    let mut body = Vec::new();
    packer.pack(0, &mut body).expect("a short row");
    let bytes = stored(&body, 2);
    let row = RowRef::read(&NAME, &bytes).expect("just encoded");
    assert!(matches!(row.cell(&layout, 0), Ok(Cell::Null)));
    assert!(matches!(row.cell(&layout, 1), Ok(Cell::Int64(4))));

    assert!(matches!(RowPacker::new(&layout, vec![None]), Err(PackError::ColumnCount { .. })));
    let text = RowLayout::new(&[DataType::Scalar(ScalarType::String)]);
    assert!(matches!(RowPacker::new(&text, vec![Some(column)]), Err(PackError::WrongType { column: 0, .. })));
}

#[test]
fn a_column_takes_no_cell_of_another_type() {
    let mut column = ColumnBuilder::new(DataType::List(ScalarType::Int32), 0);
    assert!(column.push(Cell::Int32(1)).is_err());
    assert!(column.push_value(&Value::List(vec![Value::Int32(1), Value::Int64(2)])).is_err());
    assert!(column.push_value(&Value::Vector(vec![1.0])).is_err());
    assert!(column.is_empty());
    column.push_value(&Value::List(vec![Value::Int32(1), Value::Null])).expect("a list of int32");
    assert_eq!(column.finish().len(), 1);
    let mut vector = ColumnBuilder::new(DataType::Vector(2), 0);
    assert!(vector.push_value(&Value::Vector(vec![1.0])).is_err());
}
