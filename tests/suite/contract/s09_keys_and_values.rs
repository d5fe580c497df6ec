//! Contract, section 9: keys and values.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, Float32Array, Float64Array, Int16Array, Int32Array, Int64Array, LargeStringArray, RecordBatch,
    StringArray, StringViewArray, UInt32Array, UInt64Array,
};
use hydrant::ingest::IngestRequest;
use hydrant::serving::OnlineRequest;
use hydrant_storage::row::value_at;
use hydrant_storage::value::{DataType, ScalarType, Value};
use serde_json::json;

use super::SHOP;
use crate::support::node::{AS_KNOWN, START, TestNode};
use crate::support::table::{column, plain, spine, times, with_column};

/// One entity, source and view, keyed by a type.
fn keyed_by(key_type: &str) -> String {
    format!(
        "
apiVersion: hydrant/v1
kind: Entity
metadata: {{name: thing}}
spec: {{joinKeys: [{{name: k, type: {key_type}}}]}}
---
apiVersion: hydrant/v1
kind: Source
metadata: {{name: s}}
spec:
  type: push
  eventTime: happened
  knownTime: event
  columns: [{{name: k, type: {key_type}}}, {{name: happened, type: timestamp}}, {{name: x, type: int64}}]
---
apiVersion: hydrant/v1
kind: FeatureView
metadata: {{name: v}}
spec: {{entities: [thing], source: s, features: [{{name: x}}]}}
"
    )
}

/// Puts one row for each key, and finds each again online and in training.
async fn finds_each(key_type: ScalarType, keys: &[Value]) {
    let node = TestNode::start(&keyed_by(key_type.as_str())).await;
    let keys = column(DataType::Scalar(key_type), keys);
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..keys.len() as i64));
    let rows = [("k", keys.clone()), ("happened", times(&vec![START; keys.len()])), ("x", numbers)];
    let batch = RecordBatch::try_from_iter(rows).expect("columns of one length");
    let report = node.ingest(IngestRequest { batch, ..node.request("s", &json!([])) }).await.expect("good rows");
    node.see(&report).await;
    let expected: Vec<String> = (0..keys.len()).map(|number| number.to_string()).collect();
    let entities = vec![("k".to_owned(), keys.clone())];
    let request = OnlineRequest { features: vec!["v:x".to_owned()], entities, ..OnlineRequest::default() };
    assert_eq!(node.get(request).await.expect("read").column("v__x"), expected, "{key_type:?}");
    node.land().await;
    let wanted = RecordBatch::try_from_iter([("k", keys.clone()), ("at", times(&vec![START; keys.len()]))]);
    let trained = node.train(&["v:x"], &wanted.expect("columns of one length"), AS_KNOWN).await;
    assert_eq!(trained.column("v__x"), expected, "{key_type:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn join_keys_are_of_every_type_without_parts_but_floats() {
    finds_each(ScalarType::Bool, &[Value::Bool(false), Value::Bool(true)]).await;
    finds_each(ScalarType::Int32, &[i32::MIN, -1, 0, 1, i32::MAX].map(Value::Int32)).await;
    finds_each(ScalarType::Int64, &[i64::MIN, -1, 0, 1, i64::MAX].map(Value::Int64)).await;
    finds_each(ScalarType::Timestamp, &[-1, 0, START].map(Value::Timestamp)).await;
    let bytes = [&b""[..], b"\0", b"\0\0", b"\0\xff", b"\xff", b"a"].map(|bytes| Value::Bytes(bytes.to_vec()));
    finds_each(ScalarType::Bytes, &bytes).await;
    let node = TestNode::start("").await;
    for key_type in ["float32", "float64", "list<int64>", "vector<2>"] {
        let refused = node.try_apply(&keyed_by(key_type)).await.expect_err("no key");
        assert!(refused.violations.iter().any(|wrong| wrong.path.contains("joinKeys[0].type")), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strings_compare_bytewise_are_not_normalised_and_may_be_empty() {
    // The same letter composed and decomposed, cases, blanks, a zero byte: all are different keys.
    let keys = ["", " ", "a", "A", "a ", "a\0", "\u{e4}", "a\u{308}", "\u{df}", "ss"];
    finds_each(ScalarType::String, &keys.map(|key| Value::String(key.to_owned()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn input_is_cast_only_where_nothing_is_lost() {
    let node = TestNode::start(SHOP).await;
    let base = node.request("facts", &json!([{"user_id": 1, "happened": START, "plan": "gold", "level": 0}]));
    let send = async |name: &str, array: ArrayRef| {
        let batch = with_column(&base.batch, name, array);
        node.ingest(IngestRequest { batch, ..base.clone() }).await
    };
    let taken: [(&str, ArrayRef); 6] = [
        ("level", Arc::new(Int16Array::from(vec![3]))),
        ("level", Arc::new(UInt32Array::from(vec![3]))),
        ("user_id", Arc::new(Int32Array::from(vec![1]))),
        ("plan", Arc::new(LargeStringArray::from(vec!["gold"]))),
        ("plan", Arc::new(StringViewArray::from(vec!["gold"]))),
        ("level", arrow_array::new_null_array(&arrow_schema::DataType::Null, 1)),
    ];
    for (name, array) in taken {
        let shown = format!("{name}: {}", array.data_type());
        send(name, array).await.expect(&shown);
    }
    let refused: [(&str, ArrayRef); 6] = [
        ("level", Arc::new(UInt64Array::from(vec![3]))),
        ("level", Arc::new(Float64Array::from(vec![3.0]))),
        ("level", Arc::new(StringArray::from(vec!["3"]))),
        ("user_id", Arc::new(Float32Array::from(vec![1.0]))),
        ("plan", Arc::new(Int64Array::from(vec![3]))),
        ("happened", Arc::new(Int64Array::from(vec![START]))),
    ];
    let frames = node.frames();
    for (name, array) in refused {
        let error = send(name, array).await.expect_err("something would be lost");
        assert_eq!((error.reason, &error.violations[0].path), ("BAD_COLUMNS", &format!("columns.{name}")));
    }
    assert_eq!(node.frames(), frames);
    // Keys of online reads and of spines follow the same rule.
    let narrow = vec![("user_id".to_owned(), Arc::new(Int32Array::from(vec![1])) as ArrayRef)];
    let question =
        OnlineRequest { features: vec!["user_facts:plan".to_owned()], entities: narrow, ..OnlineRequest::default() };
    assert_eq!(node.get(question.clone()).await.expect("it widens").0.rows, 1);
    let lossy = vec![("user_id".to_owned(), Arc::new(Float64Array::from(vec![1.0])) as ArrayRef)];
    assert!(node.get(OnlineRequest { entities: lossy.clone(), ..question }).await.is_err());
    let wanted = with_column(&spine(&json!([{"user_id": 1, "at": START}])), "user_id", lossy[0].1.clone());
    assert!(node.try_train(&["user_facts:plan"], &wanted, AS_KNOWN).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn nan_and_minus_zero_keep_their_bits() {
    let floats = "
apiVersion: hydrant/v1
kind: Entity
metadata: {name: thing}
spec: {joinKeys: [{name: k, type: int64}]}
---
apiVersion: hydrant/v1
kind: Source
metadata: {name: s}
spec:
  type: push
  eventTime: happened
  knownTime: event
  columns:
    - {name: k, type: int64}
    - {name: happened, type: timestamp}
    - {name: single, type: float32}
    - {name: double, type: float64}
    - {name: vector, type: vector<2>}
    - {name: list, type: list<float64>}
---
apiVersion: hydrant/v1
kind: FeatureView
metadata: {name: v}
spec: {entities: [thing], source: s, features: [{name: single}, {name: double}, {name: vector}, {name: list}]}
";
    let node = TestNode::start(floats).await;
    let doubles =
        [0.0, -0.0, f64::from_bits(0x7FF8_0000_0000_0BAD), f64::from_bits(0xFFF8_0000_0000_0001), f64::INFINITY];
    let singles = [0.0, -0.0, f32::from_bits(0x7FC0_0BAD), f32::from_bits(0xFFC0_0001), f32::NEG_INFINITY];
    let columns: Vec<(&str, DataType, Vec<Value>)> = vec![
        ("single", DataType::Scalar(ScalarType::Float32), singles.map(Value::Float32).to_vec()),
        ("double", DataType::Scalar(ScalarType::Float64), doubles.map(Value::Float64).to_vec()),
        ("vector", DataType::Vector(2), singles.map(|single| Value::Vector(vec![single, -single])).to_vec()),
        (
            "list",
            DataType::List(ScalarType::Float64),
            doubles.map(|double| Value::List(vec![Value::Float64(double)])).to_vec(),
        ),
    ];
    let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(0..5));
    let fixed = [("k", keys.clone()), ("happened", times(&[START; 5]))];
    let arrays = columns.iter().map(|(name, data_type, values)| (*name, column(*data_type, values)));
    let batch = RecordBatch::try_from_iter(fixed.into_iter().chain(arrays)).expect("columns of one length");
    let report = node.ingest(IngestRequest { batch, ..node.request("s", &json!([])) }).await.expect("good rows");
    node.see(&report).await;
    let what = ["v:single", "v:double", "v:vector", "v:list"];
    let same = |array: &ArrayRef, data_type: DataType, values: &[Value], where_from: &str| {
        for (row, value) in values.iter().enumerate() {
            let found = value_at(array, data_type, row).expect("its type");
            assert!(value.same_bits(&found), "{where_from}: {} became {} ({found:?})", plain(value), plain(&found));
        }
    };
    let read = node.read(&what, json!({"k": [0, 1, 2, 3, 4]})).await;
    for (name, data_type, values) in &columns {
        same(&read.find(&format!("v__{name}")).values, *data_type, values, "online");
    }
    let wanted = RecordBatch::try_from_iter([("k", keys), ("at", times(&[START; 5]))]).expect("columns of one length");
    for where_from in ["the tail", "history"] {
        let trained = node.train(&what, &wanted, AS_KNOWN).await;
        for (name, data_type, values) in &columns {
            same(trained.array(&format!("v__{name}")), *data_type, values, where_from);
        }
        node.land().await;
    }
}
