//! Contract, section 3: which row counts.

use hydrant::tenancy::Action;
use serde_json::json;

use super::{SHOP, audit};
use crate::support::node::{AS_KNOWN, FINAL, HOUR, MINUTE, SECOND, START, TestNode};
use crate::support::table::spine;

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_ordered_by_event_time_then_known_time_then_log_position() {
    let node = TestNode::start(SHOP).await;
    let row = |happened: i64, noticed: i64, verdict: &str| audit(1, START + happened, START + noticed, verdict);
    let steps = [
        (json!([row(-20, -5, "known later")]), "known later"),
        (json!([row(-20, -15, "known earlier, sent later")]), "known later"),
        (json!([row(-20, -5, "same times, sent later")]), "same times, sent later"),
        (json!([row(-20, -5, "same request, first"), row(-20, -5, "same request, second")]), "same request, second"),
        (json!([row(-21, 0, "happened earlier, known last")]), "same request, second"),
        (json!([row(-19, -19, "happened later, known first")]), "happened later, known first"),
    ];
    for (rows, expected) in steps {
        node.put("audits", rows).await;
        assert_eq!(node.one("user_audits:verdict", json!({"user_id": 1})).await, expected);
        let trained = node.one_trained("user_audits:verdict", json!({"user_id": 1}), &[START], AS_KNOWN).await;
        assert_eq!(trained, [expected]);
    }
    node.land().await;
    let trained = node.one_trained("user_audits:verdict", json!({"user_id": 1}), &[START - 20, START], FINAL).await;
    assert_eq!(trained, ["same request, second", "happened later, known first"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_greatest_row_at_or_before_t_counts() {
    let node = TestNode::start(SHOP).await;
    let rows = [10, 20, 30].map(|second| json!({"user_id": 1, "happened": START + second * SECOND, "level": second}));
    node.put("facts", rows.to_vec().into()).await;
    let mut online = Vec::new();
    let instants = [9_999_999, 10_000_000, 19_999_999, 20_000_000, 30_000_000].map(|micros| START + micros);
    for at in instants {
        node.set_clock(at).await;
        online.push(node.one("user_facts:level", json!({"user_id": 1})).await);
    }
    assert_eq!(online, ["NOT_FOUND=-1", "10", "10", "20", "30"]);
    assert_eq!(node.one_trained("user_facts:level", json!({"user_id": 1}), &instants, AS_KNOWN).await, online);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_row_never_overwrites_a_newer_one_online() {
    let node = TestNode::start(SHOP).await;
    let row = |happened: i64, plan: &str| json!([{"user_id": 1, "happened": happened, "plan": plan}]);
    node.put("facts", row(START - 10, "newer")).await;
    node.put("facts", row(START - 20, "late")).await;
    assert_eq!(node.one("user_facts:plan", json!({"user_id": 1})).await, "newer");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_row_is_seen_by_every_training_row_that_it_was_known_to() {
    let node = TestNode::start(SHOP).await;
    let row =
        |happened: i64, noticed: i64, verdict: &str| json!([audit(1, START + happened, START + noticed, verdict)]);
    node.put("audits", row(-40, -40, "first")).await;
    node.put("audits", row(-10, -10, "newest")).await;
    node.put("audits", row(-30, -20, "late")).await;
    let instants = [-35, -30, -21, -20, -11, -10].map(|micros| START + micros);
    let key = json!({"user_id": 1});
    let as_known = node.one_trained("user_audits:verdict", key.clone(), &instants, AS_KNOWN).await;
    assert_eq!(as_known, ["first", "first", "first", "late", "late", "newest"]);
    let finally = node.one_trained("user_audits:verdict", key, &instants, FINAL).await;
    assert_eq!(finally, ["first", "late", "late", "late", "late", "newest"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upsert_replaces_the_whole_row_of_its_view() {
    let node = TestNode::start(SHOP).await;
    node.put("facts", json!([{"user_id": 1, "happened": START - 2, "plan": "gold", "level": 3}])).await;
    node.put("facts", json!([{"user_id": 1, "happened": START - 1, "plan": "silver"}])).await;
    let both = ["user_facts:plan", "user_facts:level"];
    let read = node.read(&both, json!({"user_id": [1]})).await;
    assert_eq!(
        (read.column("user_facts__plan"), read.column("user_facts__level")),
        (vec!["silver".into()], vec!["NULL".into()])
    );
    let trained = node.train(&both, &spine(&json!([{"user_id": 1, "at": START}])), AS_KNOWN).await;
    assert_eq!(trained.column("user_facts__level"), ["NULL"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feature_column_that_is_missing_is_null() {
    let node = TestNode::start(SHOP).await;
    node.put("facts", json!([{"user_id": 1, "happened": START, "level": null}])).await;
    let read = node.read(&["user_facts:plan", "user_facts:level"], json!({"user_id": [1]})).await;
    assert_eq!(read.column("user_facts__plan"), ["NULL"]);
    assert_eq!(read.column("user_facts__level"), ["NULL"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_key_or_time_column_is_refused() {
    let node = TestNode::start(SHOP).await;
    for (source, row, missing) in [
        ("facts", json!({"happened": START, "plan": "gold"}), "columns.user_id"),
        ("facts", json!({"user_id": 1, "plan": "gold"}), "columns.happened"),
        ("clicks", json!({"user_id": 1, "happened": START}), "columns.item_id"),
        ("audits", json!({"user_id": 1, "happened": START, "verdict": "fine"}), "columns.noticed"),
    ] {
        let refused = node.try_put(source, json!([row])).await.expect_err("a column is missing");
        let paths: Vec<&str> = refused.violations.iter().map(|wrong| wrong.path.as_str()).collect();
        assert_eq!((refused.reason, paths), ("BAD_COLUMNS", vec![missing]));
    }
    assert_eq!(node.frames(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_is_a_row_with_keys_and_an_event_time() {
    let node = TestNode::start(SHOP).await;
    let row = |happened: i64, plan: &str| json!([{"user_id": 1, "happened": START + happened, "plan": plan}]);
    let online = async || node.one("user_facts:plan", json!({"user_id": 1})).await;
    node.put("facts", row(-100, "first")).await;
    node.delete("user_facts", json!({"user_id": [1]}), START - 50).await;
    assert_eq!(online().await, "NOT_FOUND");
    node.put("facts", row(-60, "late")).await;
    assert_eq!(online().await, "NOT_FOUND", "a late row does not bring it back");
    node.put("facts", row(-40, "again")).await;
    assert_eq!(online().await, "again");
    node.delete("user_facts", json!({"user_id": [1]}), START - 45).await;
    assert_eq!(online().await, "again", "a late delete hides nothing newer");
    let instants = [-100, -60, -51, -50, -41, -40].map(|micros| START + micros);
    for _ in 0..2 {
        let trained = node.one_trained("user_facts:plan", json!({"user_id": 1}), &instants, AS_KNOWN).await;
        assert_eq!(trained, ["first", "late", "late", "NOT_FOUND", "NOT_FOUND", "again"]);
        node.land().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_column_deleted_deletes_in_every_view_of_the_source_whose_key_is_not_null() {
    let node = TestNode::start(SHOP).await;
    let row = |item: Option<&str>, happened: i64, deleted: bool| {
        let happened = START + happened;
        json!({"user_id": 1, "item_id": item, "happened": happened, "score": 5, "amount": 1.5, "_deleted": deleted})
    };
    node.put("clicks", json!([row(Some("a"), -10, false), row(Some("b"), -10, false)])).await;
    // The pair's key is null in it: only the user's views lose their row.
    let report = node.put("clicks", json!([row(None, -9, true)])).await;
    let told: Vec<(String, usize, usize)> =
        report.views.iter().map(|view| (view.view.to_string(), view.rows, view.null_keys)).collect();
    assert!(told.contains(&("pair_scores".to_owned(), 0, 1)) && told.contains(&("user_scores".to_owned(), 1, 0)));
    assert_eq!(node.one("user_scores:score", json!({"user_id": 1})).await, "NOT_FOUND");
    assert_eq!(node.one("user_clicks:amount", json!({"user_id": 1})).await, "NOT_FOUND");
    let pairs = json!({"user_id": [1], "item_id": ["a", "b"]});
    assert_eq!(node.read(&["pair_scores:score"], pairs.clone()).await.column("pair_scores__score"), ["5", "5"]);
    node.put("clicks", json!([row(Some("a"), -8, true)])).await;
    assert_eq!(node.read(&["pair_scores:score"], pairs).await.column("pair_scores__score"), ["NOT_FOUND", "5"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_delete_call_deletes_in_the_view_that_it_names_alone() {
    let node = TestNode::start(SHOP).await;
    node.put("facts", json!([{"user_id": 1, "happened": START - MINUTE, "plan": "gold"}])).await;
    node.delete("recent_facts", json!({"user_id": [1]}), START).await;
    assert_eq!(node.one("recent_facts:plan", json!({"user_id": 1})).await, "NOT_FOUND=free");
    assert_eq!(node.one("user_facts:plan", json!({"user_id": 1})).await, "gold");
    let unknown = hydrant::ingest::DeleteRequest {
        view: "nothing".to_owned(),
        ..node.deletion("user_facts", &json!({"user_id": [1]}), START)
    };
    let refused = node.use_cases().ingest.delete(&node.permit(Action::Write), unknown).await.expect_err("no such view");
    assert!(refused.message.contains("nothing"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_delete_hides_is_not_found_however_old_the_delete_is() {
    let node = TestNode::start(SHOP).await;
    node.put("facts", json!([{"user_id": 1, "happened": START - 3 * HOUR, "plan": "gold"}])).await;
    node.delete("recent_facts", json!({"user_id": [1]}), START - 2 * HOUR).await;
    // The ttl is an hour; a tombstone doesn't expire.
    assert_eq!(node.one("recent_facts:plan", json!({"user_id": 1})).await, "NOT_FOUND=free");
    let trained = node.one_trained("recent_facts:plan", json!({"user_id": 1}), &[START], AS_KNOWN).await;
    assert_eq!(trained, ["NOT_FOUND=free"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_sees_a_request_within_one_partition_whole_or_not_at_all() {
    let node = TestNode::start_with(SHOP, |config| config.storage.partitions = 1).await;
    const ROUNDS: i64 = 150;
    let row = |user: i64, round: i64| json!({"user_id": user, "happened": START, "level": round});
    let users: Vec<i64> = (0..20).collect();
    node.put("facts", users.iter().map(|user| row(*user, 0)).collect()).await;
    let write = async {
        for round in 1..=ROUNDS {
            let rows = users.iter().map(|user| row(*user, round)).collect();
            node.try_put("facts", rows).await.expect("the rows are good");
        }
    };
    let read = async {
        let mut seen = 0;
        while seen < ROUNDS {
            let levels = node.read(&["user_facts:level"], json!({"user_id": users})).await.column("user_facts__level");
            assert!(levels.iter().all(|level| *level == levels[0]), "torn: {levels:?}");
            seen = levels[0].parse().expect("a number");
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(write, read);
}
