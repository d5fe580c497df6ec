//! Contract, section 6: the point-in-time join.

use std::sync::Arc;

use arrow_array::types::Int8Type;
use arrow_array::{
    Array as _, ArrayRef, Decimal128Array, DictionaryArray, Int64Array, LargeBinaryArray, ListArray, RecordBatch,
    StructArray,
};
use arrow_schema::{DataType, Field};
use hydrant::error::Code;
use hydrant::history::HistoricalRequest;
use serde_json::json;

use super::{SHOP, audit};
use crate::support::node::{AS_KNOWN, FINAL, HOUR, MINUTE, SECOND, START, TestNode};
use crate::support::table::{spine, spine_at, times, with_column};

#[tokio::test(flavor = "multi_thread")]
async fn a_spine_is_any_table_with_keys_and_a_time_and_other_columns_pass_untouched() {
    let node = TestNode::start(SHOP).await;
    node.put("facts", json!([{"user_id": 1, "happened": START, "plan": "gold"}])).await;
    let words: ArrayRef = Arc::new(vec![Some("a"), None, Some("a")].into_iter().collect::<DictionaryArray<Int8Type>>());
    let prices = Decimal128Array::from(vec![Some(1), None, Some(-3)]).with_precision_and_scale(9, 2).expect("it fits");
    let lists = ListArray::from_iter_primitive::<Int8Type, _, _>(vec![Some(vec![Some(1), None]), None, Some(vec![])]);
    let field = Arc::new(Field::new("inside", DataType::Int64, true));
    let inside: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]));
    let structs = StructArray::new(vec![field].into(), vec![inside], Some(vec![true, true, false].into()));
    let blobs = LargeBinaryArray::from(vec![Some(&b"x"[..]), None, Some(b"")]);
    let mut wanted = spine(&json!([{"user_id": 1, "at": START}, {"user_id": 2, "at": START}, {"user_id": 1, "at": 0}]));
    let carried: [(&str, ArrayRef); 5] = [
        ("words", words),
        ("prices", Arc::new(prices)),
        ("lists", Arc::new(lists)),
        ("structs", Arc::new(structs)),
        ("blobs", Arc::new(blobs)),
    ];
    for (name, array) in &carried {
        wanted = with_column(&wanted, name, array.clone());
    }
    let trained = node.train(&["user_facts:plan"], &wanted, AS_KNOWN).await;
    assert_eq!(trained.column("user_facts__plan"), ["gold", "NOT_FOUND", "NOT_FOUND"]);
    for (name, array) in &carried {
        assert_eq!(trained.array(name), array, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_and_feature_references_are_asked_for_alone_or_together() {
    let node = TestNode::start(SHOP).await;
    node.put("facts", json!([{"user_id": 1, "happened": START, "plan": "gold", "level": 7}])).await;
    let wanted = spine(&json!([{"user_id": 1, "friend_id": 1, "at": START}]));
    let whole = ["user_clicks__amount", "user_clicks__page", "user_facts__plan", "friend__level"];
    for (what, names) in [
        (vec!["model"], whole.to_vec()),
        (vec!["model@1"], whole.to_vec()),
        (vec!["user_facts:level"], vec!["user_facts__level"]),
        // What both need is there once.
        (vec!["model", "user_facts:level", "user_facts:plan"], [&whole[..], &["user_facts__level"]].concat()),
    ] {
        let trained = node.train(&what, &wanted, AS_KNOWN).await;
        let columns: Vec<&str> = trained.plan.columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(columns, names, "{what:?}");
    }
    let unknown = node.use_cases().history.open(
        &node.permit(hydrant::tenancy::Action::ReadHistory),
        HistoricalRequest { services: vec!["nothing".to_owned()], ..request(&wanted) },
    );
    assert_eq!(unknown.expect_err("no such service").code, Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_view_gives_the_row_that_counts_at_the_spine_rows_time_unless_expired() {
    let node = TestNode::start(SHOP).await;
    let rows =
        [-120, -90, -30].map(|minute| json!({"user_id": 1, "happened": START + minute * MINUTE, "level": minute}));
    node.put("facts", rows.to_vec().into()).await;
    node.put("audits", json!([{"user_id": 1, "happened": START - HOUR, "noticed": START - HOUR, "verdict": "fine"}]))
        .await;
    let instants = [-121, -120, -91, -89, -31, -30, 30, 31].map(|minute| START + minute * MINUTE);
    for _ in 0..2 {
        let what = ["recent_facts:level", "user_audits:verdict"];
        let trained = node.train(&what, &spine_at(&json!({"user_id": 1}), &instants), AS_KNOWN).await;
        let levels = trained.column("recent_facts__level");
        assert_eq!(levels, ["NOT_FOUND", "-120", "-120", "-90", "-90", "-30", "-30", "EXPIRED"]);
        let verdicts = trained.column("user_audits__verdict");
        assert_eq!(verdicts, ["NOT_FOUND", "NOT_FOUND", "NOT_FOUND", "NOT_FOUND", "fine", "fine", "fine", "fine"]);
        node.land().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn as_known_takes_only_rows_known_at_the_spine_rows_time_and_final_takes_corrections_too() {
    let node = TestNode::start(SHOP).await;
    let row = |happened: i64, noticed: i64, verdict: &str| audit(1, START + happened, START + noticed, verdict);
    node.put("audits", json!([row(-50, -50, "first"), row(-50, -20, "corrected"), row(-30, -10, "late")])).await;
    let instants = [-51, -50, -31, -30, -21, -20, -11, -10].map(|micros| START + micros);
    let key = json!({"user_id": 1});
    let as_known = node.one_trained("user_audits:verdict", key.clone(), &instants, AS_KNOWN).await;
    assert_eq!(as_known, ["NOT_FOUND", "first", "first", "first", "first", "corrected", "corrected", "late"]);
    let finally = node.one_trained("user_audits:verdict", key, &instants, FINAL).await;
    assert_eq!(finally, ["NOT_FOUND", "corrected", "corrected", "late", "late", "late", "late", "late"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_modes_tell_the_share_of_rows_that_the_choice_left_out_and_a_large_one_loudly() {
    let node = TestNode::start(SHOP).await;
    let happened = START - HOUR;
    let rows = (0..10).map(|user| json!({"user_id": user, "happened": happened, "plan": "gold"})).collect();
    node.put("facts", rows).await;
    // Loaded as history without saying so: known only on arrival.
    node.put(
        "clicks",
        (0..10).map(|user| json!({"user_id": user, "item_id": "a", "happened": happened, "score": 1})).collect(),
    )
    .await;
    let wanted: Vec<_> = (0..10).map(|user| json!({"user_id": user, "at": START - MINUTE})).collect();
    let wanted = spine(&wanted.into());
    let what = ["user_facts:plan", "user_scores:score"];
    for ask in [AS_KNOWN, FINAL] {
        let report = node.train(&what, &wanted, ask).await.report;
        assert_eq!((report.differing_rows, report.row_view_pairs), (10, 20), "{ask:?}");
        assert!((report.differing_share() - 0.5).abs() < f64::EPSILON);
        match (ask.mode, report.warning()) {
            (hydrant::history::Mode::AsKnown, Some(warning)) => {
                assert!(
                    warning.contains("50.0 %") && warning.contains("`event`") && warning.contains("`final`"),
                    "{warning}"
                );
            }
            (hydrant::history::Mode::Final, None) => {}
            (mode, warning) => panic!("{mode:?} says {warning:?}"),
        }
    }
    let quiet = node.train(&["user_facts:plan"], &wanted, AS_KNOWN).await.report;
    assert_eq!((quiet.differing_rows, quiet.warning()), (0, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_off_is_by_ingest_time_in_both_modes() {
    let node = TestNode::start(SHOP).await;
    let row = |level: i64| json!([{"user_id": 1, "happened": START - SECOND, "level": level}]);
    let first = node.put("facts", row(1)).await.ingest_time.expect("it was written");
    node.advance(SECOND).await;
    let second = node.put("facts", row(2)).await.ingest_time.expect("it was written");
    let key = json!({"user_id": 1});
    for landed in [false, true] {
        for ask in [AS_KNOWN, FINAL] {
            for (cutoff, expected) in
                [(first - 1, "NOT_FOUND=-1"), (first, "1"), (second - 1, "1"), (second, "2"), (node.now(), "2")]
            {
                let trained = node.one_trained("user_facts:level", key.clone(), &[START], ask.up_to(cutoff)).await;
                assert_eq!(trained, [expected], "{ask:?} up to {cutoff}, landed: {landed}");
            }
        }
        node.land().await;
    }
    let ahead =
        node.try_train(&["user_facts:level"], &spine_at(&key, &[START]), AS_KNOWN.up_to(node.now() + HOUR)).await;
    assert_eq!(ahead.expect_err("it has not come").reason, "CUTOFF_IN_FUTURE");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_has_every_row_acknowledged_before_it() {
    let node = TestNode::start(SHOP).await;
    let wanted: Vec<_> = (0..200).map(|user| json!({"user_id": user, "at": START})).collect();
    let wanted = spine(&wanted.into());
    for round in 0..5 {
        let rows = (0..200).map(|user| json!({"user_id": user, "happened": START, "level": round})).collect();
        // Nobody waits until partitions have it.
        node.try_put("facts", rows).await.expect("the rows are good");
        let trained = node.train(&["user_facts:level"], &wanted, AS_KNOWN).await;
        assert_eq!(trained.column("user_facts__level"), vec![round.to_string(); 200]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_with_the_same_cut_off_gives_the_same_bits_over_any_later_state() {
    let mut node = TestNode::start(SHOP).await;
    let rows = |round: i64, plan: &str| {
        let happened = |user: i64| START - 60 * SECOND + round * SECOND + user;
        (0..50).map(|user| json!({"user_id": user, "happened": happened(user), "plan": plan, "level": user})).collect()
    };
    for (round, plan) in ["bronze", "silver", "gold", "platinum"].into_iter().enumerate() {
        node.put("facts", rows(round as i64, plan)).await;
    }
    let wanted: Vec<_> = (0..300).map(|n| json!({"user_id": n % 60, "at": START - 61 * SECOND + n * 20_000})).collect();
    let wanted = spine(&wanted.into());
    let what = ["user_facts:plan", "user_facts:level", "recent_facts:plan"];
    let first = node.train(&what, &wanted, AS_KNOWN).await;
    let cutoff = first.report.cutoff;
    let again = async |node: &TestNode, state: &str| {
        let again = node.train(&what, &wanted, AS_KNOWN.up_to(cutoff)).await;
        assert_eq!(again.table, first.table, "{state}");
        assert_eq!(again.report.content_hash, first.report.content_hash, "{state}");
        assert_eq!(again.report.spine_hash, first.report.spine_hash, "{state}");
    };
    again(&node, "as it was").await;
    node.land().await;
    again(&node, "landed").await;
    node.put("facts", rows(2, "corrected")).await;
    node.delete("user_facts", json!({"user_id": [1, 2, 3]}), START - 59 * SECOND).await;
    again(&node, "with later rows").await;
    node.land().await;
    again(&node, "with later rows landed").await;
    assert!(node.compact().await > 0, "two landings are merged");
    again(&node, "compacted").await;
    for user in [4, 5] {
        node.delete("user_facts", json!({"user_id": [user]}), START - 58 * SECOND).await;
        node.land().await;
    }
    again(&node, "with more rows landed since").await;
    node.restart().await;
    again(&node, "restarted").await;
    assert!(node.compact().await > 0, "and again");
    again(&node, "compacted again").await;
    let newer = node.train(&what, &wanted, AS_KNOWN).await;
    assert_ne!(newer.report.content_hash, first.report.content_hash);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_order_and_columns_of_the_spine_are_kept() {
    let node = TestNode::start(SHOP).await;
    let rows = (0..20).map(|user| json!({"user_id": user, "happened": START - user, "level": user})).collect();
    node.put("facts", rows).await;
    // Neither by key nor by time, some twice, some unknown.
    let row = |n: i64| json!({"user_id": n * 7 % 23, "at": START - n * 11 % 30, "label": n});
    let wanted = spine(&(0..500).map(row).collect());
    let trained = node.train(&["user_facts:level"], &wanted, AS_KNOWN).await;
    assert_eq!(trained.table.num_rows(), 500);
    let names: Vec<String> = wanted.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(trained.names()[..names.len()], names);
    for name in &names {
        assert_eq!(trained.array(name), wanted.column_by_name(name).expect("it has it"), "{name}");
    }
    let expected = (0..500).map(|n| match (n * 7 % 23, START - n * 11 % 30) {
        (user, at) if user < 20 && START - user <= at => user.to_string(),
        _ => "NOT_FOUND=-1".to_owned(),
    });
    assert_eq!(trained.column("user_facts__level"), expected.collect::<Vec<_>>());
    let empty = node.train(&["user_facts:level"], &wanted.slice(0, 0), AS_KNOWN).await;
    assert_eq!((empty.table.num_rows(), empty.names()), (0, trained.names()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_a_null_part_finds_nothing() {
    let node = TestNode::start(SHOP).await;
    node.put("clicks", json!([{"user_id": 1, "item_id": "a", "happened": START, "score": 5}])).await;
    let at = node.now();
    let wanted = spine(&json!([
        {"user_id": 1, "item_id": "a", "at": at},
        {"user_id": null, "item_id": "a", "at": at},
        {"user_id": 1, "item_id": null, "at": at},
        {"user_id": null, "item_id": null, "at": at},
    ]));
    let trained = node.train(&["pair_scores:score", "user_scores:score"], &wanted, AS_KNOWN).await;
    assert_eq!(trained.column("pair_scores__score"), ["5", "NOT_FOUND", "NOT_FOUND", "NOT_FOUND"]);
    assert_eq!(trained.column("user_scores__score"), ["5", "NOT_FOUND", "5", "NOT_FOUND"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn null_times_in_a_spine_are_refused_naming_rows() {
    let node = TestNode::start(SHOP).await;
    let wanted = spine(&json!([{"user_id": 1, "at": START}, {"user_id": 2, "at": null}, {"user_id": 3, "at": null}]));
    let refused = node.try_train(&["user_facts:level"], &wanted, AS_KNOWN).await.expect_err("times are null");
    assert_eq!(refused.code, Code::InvalidArgument);
    let paths: Vec<&str> = refused.violations.iter().map(|wrong| wrong.path.as_str()).collect();
    assert_eq!(paths, ["spine[1].at", "spine[2].at"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn output_columns_are_named_by_view_and_feature_or_by_the_alias_of_the_service() {
    let node = TestNode::start(SHOP).await;
    node.put("facts", json!([{"user_id": 1, "happened": START, "plan": "gold", "level": 1}])).await;
    node.put("facts", json!([{"user_id": 2, "happened": START, "plan": "free", "level": 2}])).await;
    let wanted = spine(&json!([{"user_id": 1, "friend_id": 2, "at": START}]));
    let request = HistoricalRequest { with_status: false, with_event_time: false, ..request(&wanted) };
    let trained = node.join(request.clone(), &wanted).await.expect("joined");
    let features = ["user_clicks__amount", "user_clicks__page", "user_facts__plan", "friend__level"];
    assert_eq!(trained.names()[3..], features);
    let levels = trained.array("friend__level").as_any().downcast_ref::<Int64Array>().expect("int64");
    assert_eq!(levels.value(0), 2, "under the friend's key");
    // A spine that has such a name already is refused.
    let clash = with_column(&wanted, "friend__level", times(&[START]));
    let refused = node.join(HistoricalRequest { spine: clash.schema(), ..request }, &clash).await.expect_err("twice");
    assert_eq!(refused.violations[0].path, "spine.friend__level");
}

fn request(wanted: &RecordBatch) -> HistoricalRequest {
    HistoricalRequest {
        services: vec!["model".to_owned()],
        features: Vec::new(),
        event_time: "at".to_owned(),
        mode: hydrant::history::Mode::AsKnown,
        cutoff: None,
        with_status: true,
        with_event_time: true,
        spine: wanted.schema(),
    }
}
