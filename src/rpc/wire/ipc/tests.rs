//! Streams as real writers make them, and the same streams broken at every place.

use arrow_array::types::Int32Type;
use arrow_array::{DictionaryArray, Int64Array, StringArray};
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{IpcWriteOptions, StreamWriter};
use arrow_schema::{DataType, Field};
use proptest::prelude::*;

use super::*;

const MESSAGE: u64 = 1 << 20;
const ROWS: u64 = 1_000_000;

fn batch(rows: usize) -> RecordBatch {
    let fields = vec![
        Field::new("key", DataType::Utf8, true),
        Field::new("value", DataType::Int64, true),
        Field::new_dictionary("kind", DataType::Int32, DataType::Utf8, true),
    ];
    let keys: StringArray = (0..rows).map(|row| (row % 7 != 0).then(|| format!("key {row}"))).collect();
    let values: Int64Array = (0..rows).map(|row| i64::try_from(row).ok().filter(|row| row % 5 != 0)).collect();
    let kinds: DictionaryArray<Int32Type> = (0..rows).map(|row| Some(["a", "b", "c"][row % 3])).collect();
    let columns: Vec<ArrayRef> = vec![Arc::new(keys), Arc::new(values), Arc::new(kinds)];
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("columns fit the schema")
}

fn stream(batches: &[RecordBatch], compression: Option<CompressionType>) -> Vec<u8> {
    let options = IpcWriteOptions::default().try_with_compression(compression).expect("a known codec");
    let mut bytes = Vec::new();
    let schema = batches[0].schema();
    let mut writer = StreamWriter::try_new_with_options(&mut bytes, &schema, options).expect("a schema");
    batches.iter().for_each(|batch| writer.write(batch).expect("written"));
    writer.finish().expect("finished");
    bytes
}

#[test]
fn a_stream_reads_as_it_was_written_compressed_or_not() {
    for compression in [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)] {
        for rows in [0, 1, 1_000, 50_000] {
            let batch = batch(rows);
            let read = decode_single_batch(&stream(std::slice::from_ref(&batch), compression), MESSAGE, ROWS);
            assert_eq!(read.expect("well-formed"), batch, "{compression:?}");
        }
    }
}

#[test]
fn a_stream_of_several_batches_is_no_single_request() {
    let error = decode_single_batch(&stream(&[batch(1), batch(1)], None), MESSAGE, ROWS).expect_err("two requests");
    assert!(error.message.contains("several record batches"), "{error}");
}

#[test]
fn a_batch_with_too_many_rows_is_refused_before_it_is_read() {
    let error = decode_single_batch(&stream(&[batch(11)], None), MESSAGE, 10).expect_err("too many");
    assert_eq!(error.reason, "BATCH_TOO_LARGE");
}

#[test]
fn a_compression_bomb_is_refused_before_it_is_decompressed() {
    let zeros: ArrayRef = Arc::new(Int64Array::from(vec![0; 1 << 20]));
    let bomb = RecordBatch::try_from_iter([("zeros", zeros)]).expect("one column");
    for compression in [CompressionType::LZ4_FRAME, CompressionType::ZSTD] {
        let bytes = stream(std::slice::from_ref(&bomb), Some(compression));
        let error = decode_single_batch(&bytes, 64 << 10, ROWS * 2).expect_err("8 MiB out of a few KiB");
        assert_eq!(error.reason, "BATCH_TOO_LARGE", "{error}");
    }
}

#[test]
fn an_lz4_frame_that_states_less_than_it_holds_is_measured_by_its_blocks() {
    let zeros: ArrayRef = Arc::new(Int64Array::from(vec![0; 1 << 20]));
    let bomb = RecordBatch::try_from_iter([("zeros", zeros)]).expect("one column");
    let mut bytes = stream(std::slice::from_ref(&bomb), Some(CompressionType::LZ4_FRAME));
    let stated = (8_u64 << 20).to_le_bytes();
    let place = bytes.windows(8).position(|window| window == stated).expect("the size is stated");
    bytes[place..place + 8].copy_from_slice(&16_u64.to_le_bytes());
    let error = decode_single_batch(&bytes, 64 << 10, ROWS * 2).expect_err("8 MiB that claim to be 16 bytes");
    assert_eq!(error.reason, "BATCH_TOO_LARGE", "{error}");
}

#[test]
fn messages_out_of_place_are_refused() {
    let bytes = stream(&[batch(3)], None);
    let mut rest = bytes.as_slice();
    let (schema, _) = next_message(&mut rest).expect("well-formed").expect("the schema");
    let mut decoder = IpcDecoder::new(MESSAGE, ROWS);
    assert!(matches!(decoder.decode(schema, Bytes::new()), Ok(Decoded::Schema(_))));
    assert!(decoder.decode(schema, Bytes::new()).expect_err("a second schema").message.contains("twice"));

    let (dictionary, body) = next_message(&mut rest).expect("well-formed").expect("a dictionary");
    let early = IpcDecoder::new(MESSAGE, ROWS).decode(dictionary, Bytes::copy_from_slice(body));
    assert!(early.expect_err("no schema yet").message.contains("before the schema"));
    assert!(matches!(IpcDecoder::new(MESSAGE, ROWS).decode(&[], Bytes::new()), Ok(Decoded::Nothing)));
}

proptest! {
    #[test]
    fn a_broken_stream_is_refused_and_never_panics(
        compression in 0..3_usize,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let compression = [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)][compression];
        let mut bytes = stream(&[batch(40)], compression);
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        let cut = cut.index(bytes.len() + 1);
        // Whatever it says, it says it as a value.
        let _ = decode_single_batch(&bytes, MESSAGE, ROWS);
        let _ = decode_single_batch(&bytes[..cut], MESSAGE, ROWS);
    }
}

/// Everything that a stranger's column may be.
fn types() -> Vec<DataType> {
    use DataType::*;
    use arrow_schema::{IntervalUnit, TimeUnit, UnionFields, UnionMode};
    let field = |name: &str, data_type: DataType| Arc::new(Field::new(name, data_type, true));
    let of = |data_type: DataType| field("item", data_type);
    let entries = Struct(vec![Arc::new(Field::new("key", Utf8, false)), field("value", Int8)].into());
    let mut types = vec![
        Null,
        Boolean,
        Int8,
        Int16,
        Int32,
        Int64,
        UInt8,
        UInt16,
        UInt32,
        UInt64,
        Float16,
        Float32,
        Float64,
        Date32,
        Date64,
        Utf8,
        LargeUtf8,
        Utf8View,
        Binary,
        LargeBinary,
        BinaryView,
    ];
    types.extend([
        Time32(TimeUnit::Second),
        Time32(TimeUnit::Millisecond),
        Time64(TimeUnit::Microsecond),
        Time64(TimeUnit::Nanosecond),
        Timestamp(TimeUnit::Second, None),
        Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
        Duration(TimeUnit::Microsecond),
        Interval(IntervalUnit::YearMonth),
        Interval(IntervalUnit::DayTime),
        Interval(IntervalUnit::MonthDayNano),
        Decimal128(38, 10),
        Decimal256(76, -3),
        FixedSizeBinary(0),
        FixedSizeBinary(7),
        List(of(List(of(Utf8)))),
        LargeList(of(Boolean)),
        ListView(of(Int8)),
        FixedSizeList(of(Float32), 3),
        Struct(vec![field("a", Int64), field("b", List(of(Utf8)))].into()),
        Map(Arc::new(Field::new("entries", entries, false)), false),
        Dictionary(Box::new(Int8), Box::new(Utf8)),
        Union(UnionFields::from_fields(vec![Field::new("a", Int64, true)]), UnionMode::Sparse),
    ]);
    types
}

/// What is looked at before the decoder is asked refuses nothing that it reads.
#[test]
fn columns_of_every_type_are_read_with_all_their_nulls() {
    for data_type in &types() {
        for rows in [0, 1, 9] {
            let columns = [data_type, &DataType::Int64].map(|of| arrow_array::new_null_array(of, rows));
            let fields = vec![Field::new("a", data_type.clone(), true), Field::new("b", DataType::Int64, true)];
            let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.to_vec()).expect("a batch");
            for compression in [None, Some(CompressionType::LZ4_FRAME)] {
                let bytes = stream(std::slice::from_ref(&batch), compression);
                let read = decode_single_batch(&bytes, MESSAGE, ROWS);
                assert_eq!(read.unwrap_or_else(|error| panic!("{data_type}, {rows} rows: {error:?}")), batch);
            }
        }
    }
}

/// Every byte of a schema changed, in every way that tells something: what passes the check makes no
/// panic.
#[test]
fn a_schema_with_a_wrong_byte_anywhere_is_refused_before_the_decoder_is_asked_or_read() {
    let options = IpcWriteOptions::default();
    let mut refused = 0;
    for data_type in types() {
        let schema = Schema::new(vec![Field::new("a", data_type, true)]);
        let message: arrow_flight::FlightData = arrow_flight::SchemaAsIpc::new(&schema, &options).into();
        for at in 0..message.data_header.len() {
            for value in [0, 1, 2, 3, 9, 0x40, 0x7f, 0x80, 0xff] {
                let mut broken = message.data_header.to_vec();
                broken[at] = value;
                let Ok(message) = arrow_ipc::root_as_message(&broken) else { continue };
                let Some(schema) = message.header_as_schema() else { continue };
                match check::schema(schema) {
                    Ok(()) => drop(arrow_ipc::convert::fb_to_schema(schema)),
                    Err(_) => refused += 1,
                }
            }
        }
    }
    assert!(refused > 1_000, "{refused}");
}

#[test]
fn nulls_that_are_not_there_are_refused_before_they_are_decoded() {
    let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
    let refused = |rows: i64, nulls: i64, sizes: Vec<u64>| {
        let node = arrow_ipc::FieldNode::new(rows, nulls);
        check::nulls(&schema, std::iter::once(&node), sizes.into_iter()).err()
    };
    assert_eq!(refused(9, 1, vec![2, 72]), None);
    assert_eq!(refused(9, 0, vec![0, 72]), None);
    assert!(refused(9, 1, vec![1, 72]).is_some());
    assert!(refused(-1, 0, vec![0, 0]).is_some());
    assert!(refused(9, 0, vec![0]).is_some());
    assert!(check::nulls(&schema, std::iter::empty(), std::iter::empty()).is_err());
}
