use std::cmp::Ordering;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::names::ViewId;
use crate::order::{Position, RowVersion};

const TYPES: [ScalarType; 6] = [
    ScalarType::Bool,
    ScalarType::Int32,
    ScalarType::Int64,
    ScalarType::String,
    ScalarType::Bytes,
    ScalarType::Timestamp,
];

/// The natural order of two keys' values: what the order of their bytes must be.
fn natural_order(left: &[Value], right: &[Value]) -> Ordering {
    let part_order = |(left, right): (&Value, &Value)| match (left, right) {
        (Value::Bool(left), Value::Bool(right)) => left.cmp(right),
        (Value::Int32(left), Value::Int32(right)) => left.cmp(right),
        (Value::Int64(left), Value::Int64(right)) => left.cmp(right),
        (Value::Timestamp(left), Value::Timestamp(right)) => left.cmp(right),
        (Value::String(left), Value::String(right)) => left.as_bytes().cmp(right.as_bytes()),
        (Value::Bytes(left), Value::Bytes(right)) => left.cmp(right),
        other => panic!("not two values of one key type: {other:?}"),
    };
    left.iter().zip(right).map(part_order).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

/// Few distinct values, so that keys share parts, beginnings and zero bytes.
fn key_value(key_type: ScalarType) -> BoxedStrategy<Value> {
    let int64 = || prop_oneof![Just(i64::MIN), Just(-1), Just(0), Just(1), Just(256), Just(i64::MAX), any::<i64>()];
    match key_type {
        ScalarType::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        ScalarType::Int32 => {
            prop_oneof![Just(i32::MIN), Just(-1), Just(0), Just(i32::MAX), any::<i32>()].prop_map(Value::Int32).boxed()
        }
        ScalarType::Int64 => int64().prop_map(Value::Int64).boxed(),
        ScalarType::Timestamp => int64().prop_map(Value::Timestamp).boxed(),
        ScalarType::String => {
            let letter = prop_oneof![Just('\0'), Just('a'), Just('b'), Just('\u{7f}'), Just('é'), any::<char>()];
            let text = proptest::collection::vec(letter, 0..4);
            text.prop_map(|letters| Value::String(letters.into_iter().collect())).boxed()
        }
        ScalarType::Bytes => {
            let byte = prop_oneof![Just(0_u8), Just(1), Just(0xFE), Just(0xFF), any::<u8>()];
            proptest::collection::vec(byte, 0..5).prop_map(Value::Bytes).boxed()
        }
        ScalarType::Float32 | ScalarType::Float64 => unreachable!("no key has floats"),
    }
}

fn types() -> impl Strategy<Value = Vec<ScalarType>> {
    proptest::collection::vec(proptest::sample::select(TYPES.to_vec()), 1..4)
}

fn key_of(types: &[ScalarType]) -> BoxedStrategy<Vec<Value>> {
    types.iter().map(|key_type| key_value(*key_type)).collect::<Vec<_>>().boxed()
}

fn encoded(values: &[Value], types: &[ScalarType]) -> Vec<u8> {
    let mut key = Vec::new();
    assert!(encode_values(values, types, &mut key).expect("the values are of the types"));
    key
}

fn same(left: &[Value], right: &[Value]) -> bool {
    left.len() == right.len() && left.iter().zip(right).all(|(left, right)| left.same_bits(right))
}

proptest! {
    #[test]
    fn keys_order_as_their_values_and_none_begins_another(
        (types, left, right) in types().prop_flat_map(|types| {
            let (left, right) = (key_of(&types), key_of(&types));
            (Just(types), left, right)
        })
    ) {
        let (left_key, right_key) = (encoded(&left, &types), encoded(&right, &types));
        prop_assert_eq!(left_key.cmp(&right_key), natural_order(&left, &right));
        prop_assert!(left_key == right_key || !left_key.starts_with(&right_key));
    }

    #[test]
    fn keys_read_as_they_were_written(
        (types, keys) in types().prop_flat_map(|types| {
            let keys = proptest::collection::vec(key_of(&types), 1..6);
            (Just(types), keys)
        })
    ) {
        let mut builder = KeyColumnsBuilder::new(&types, keys.len());
        for key in &keys {
            let bytes = encoded(key, &types);
            prop_assert!(same(&decode_key(&bytes, &types).expect("just encoded"), key));
            builder.append(&bytes).expect("just encoded");
        }
        let reader = KeyReader::new(&builder.finish(), &types).expect("columns of the key's types");
        prop_assert_eq!(reader.len(), keys.len());
        prop_assert_eq!(reader.null_count(), 0);
        for (row, key) in keys.iter().enumerate() {
            let mut bytes = Vec::new();
            prop_assert!(reader.encode(row, &mut bytes));
            prop_assert_eq!(bytes, encoded(key, &types));
        }
    }

    #[test]
    fn hostile_key_bytes_are_refused_or_are_the_one_encoding_of_what_they_say(
        types in types(), bytes in proptest::collection::vec(prop_oneof![0_u8..8, Just(0xFF), any::<u8>()], 0..24)
    ) {
        if let Ok(values) = decode_key(&bytes, &types) {
            prop_assert_eq!(encoded(&values, &types), bytes);
        }
    }
}

#[test]
fn a_key_with_a_null_part_is_no_key() {
    let types = [ScalarType::String, ScalarType::Int32];
    let arrays: [ArrayRef; 2] = [
        Arc::new(StringArray::from(vec![Some("a"), None, Some("")])),
        Arc::new(Int32Array::from(vec![None, Some(1), Some(2)])),
    ];
    let reader = KeyReader::new(&arrays, &types).expect("columns of the key's types");
    assert_eq!(reader.null_count(), 2);
    let mut key = vec![7];
    assert!(!reader.encode(0, &mut key) && !reader.encode(1, &mut key));
    assert_eq!(key, [7]);
    assert!(reader.encode(2, &mut key));
    assert!(!encode_values(&[Value::String("a".into()), Value::Null], &types, &mut key).expect("right types"));
}

#[test]
fn columns_of_another_type_are_refused() {
    let column: ArrayRef = Arc::new(Int32Array::from(vec![1]));
    assert!(matches!(
        KeyReader::new(std::slice::from_ref(&column), &[ScalarType::Int64]),
        Err(KeyError::WrongType { part: 0, .. })
    ));
    assert!(matches!(KeyReader::new(std::slice::from_ref(&column), &[]), Err(KeyError::PartCount { .. })));
    let naive: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![1]));
    assert!(KeyReader::new(&[naive], &[ScalarType::Timestamp]).is_err());
    assert!(matches!(KeyReader::new(&[column], &[ScalarType::Float64]), Err(KeyError::NotAKeyType { part: 0, .. })));
}

#[test]
fn slot_ranges_cover_every_slot_once() {
    for count in [1, 2, 3, 4, 7, 1_000, u16::MAX] {
        let ranges = SlotRange::split_evenly(count);
        assert_eq!(ranges.len(), usize::from(count));
        assert_eq!((ranges[0].first, ranges[ranges.len() - 1].last), (0, u16::MAX));
        assert!(ranges.windows(2).all(|pair| pair[0].last + 1 == pair[1].first));
    }
    assert_eq!(SlotRange::split_evenly(1), [SlotRange::ALL]);
}

/// These numbers place every stored row: they can't change without a rewrite of all data.
#[test]
fn slots_stay_what_they_were() {
    let seed = slot_seed(TenantId(1), &["airport", "carrier"]);
    assert_ne!(seed, slot_seed(TenantId(2), &["airport", "carrier"]));
    assert_ne!(seed, slot_seed(TenantId(1), &["carrier", "airport"]));
    assert_ne!(slot_seed(TenantId(1), &["ab", "c"]), slot_seed(TenantId(1), &["a", "bc"]));
    let key = encoded(&[Value::String("EWR".into())], &[ScalarType::String]);
    assert_eq!(key, [4, b'E', b'W', b'R', 0, 0]);
    assert_eq!((seed, slot_of(seed, &key)), (1_354_247_912_713_094_390, 17_202));
}

#[test]
fn online_keys_order_by_slot_then_tenant_then_view_then_key() {
    let key = |slot, tenant, view, key| OnlineKey { slot, tenant: TenantId(tenant), view: ViewId(view), key };
    let ascending =
        [key(1, 9, 9, b"z"), key(256, 1, 9, b"z"), key(256, 2, 1, b"z"), key(256, 2, 2, b""), key(256, 2, 2, b"a")];
    let bytes = ascending.map(|key| {
        let mut out = Vec::new();
        key.encode(&mut out);
        assert_eq!(OnlineKey::decode(&out), Some(key));
        out
    });
    assert!(bytes.is_sorted() && ascending.is_sorted());
    assert_eq!(OnlineKey::decode(&[0; 9]), None);
}

proptest! {
    #[test]
    fn tail_keys_order_as_history_does_and_read_as_they_were_written(
        rows in proptest::collection::vec(
            (0_u16..3, "[ab]{0,2}", -2_i64..3, -2_i64..3, 0_u64..3, 0_u32..3, 0_u32..2, 0_u32..2), 2..12
        )
    ) {
        let rows: Vec<_> = rows
            .into_iter()
            .map(|(slot, text, event_time, known_time, frame, ordinal, tenant, view)| {
                let key = encoded(&[Value::String(text)], &[ScalarType::String]);
                let version = RowVersion { event_time, known_time, position: Position { frame, ordinal } };
                (TenantId(tenant), ViewId(view), slot, key, version)
            })
            .collect();
        for left in &rows {
            let (tenant, view, slot, key, version) = left;
            let name = OnlineKey { slot: *slot, tenant: *tenant, view: *view, key };
            let (mut tail, mut pending) = (Vec::new(), Vec::new());
            TailKey { name, version: *version }.encode(&mut tail);
            prop_assert_eq!(TailKey::decode(&tail), Some(TailKey { name, version: *version }));
            PendingKey { due: version.due_time(), name, position: version.position }.encode(&mut pending);
            let read = PendingKey::decode(&pending).expect("just encoded");
            prop_assert_eq!(read, PendingKey { due: version.due_time(), name, position: version.position });
            for right in &rows {
                let name = OnlineKey { slot: right.2, tenant: right.0, view: right.1, key: &right.3 };
                let (mut other_tail, mut other_pending) = (Vec::new(), Vec::new());
                TailKey { name, version: right.4 }.encode(&mut other_tail);
                prop_assert_eq!(tail.cmp(&other_tail), left.cmp(right));
                PendingKey { due: right.4.due_time(), name, position: right.4.position }.encode(&mut other_pending);
                let by_due = version.due_time().cmp(&right.4.due_time());
                prop_assert!(by_due.is_eq() || by_due == pending.cmp(&other_pending));
            }
        }
    }
}
