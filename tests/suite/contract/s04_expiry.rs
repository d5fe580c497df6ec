//! Contract, section 4: for how long a row counts.

use serde_json::json;

use super::SHOP;
use crate::support::node::{AS_KNOWN, DAY, HOUR, MINUTE, SECOND, START, TestNode};
use crate::support::table::spine;

#[tokio::test(flavor = "multi_thread")]
async fn a_row_counts_while_it_is_at_most_as_old_as_the_ttl_both_ends_included() {
    let node = TestNode::start(SHOP).await;
    node.put("facts", json!([{"user_id": 1, "happened": START, "level": 7}])).await;
    let instants = [START + SECOND, START + HOUR - 1, START + HOUR, START + HOUR + 1, START + 2 * HOUR];
    let mut online = Vec::new();
    for at in instants {
        node.set_clock(at).await;
        let read = node.read(&["recent_facts:level"], json!({"user_id": [1]})).await;
        assert_eq!(read.0.provenance.t, at);
        online.push(read.only());
    }
    assert_eq!(online, ["7", "7", "7", "EXPIRED", "EXPIRED"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_ttl_a_row_counts_for_ever() {
    let node = TestNode::start(SHOP).await;
    node.put("facts", json!([{"user_id": 1, "happened": -400 * 365 * DAY, "level": 7}])).await;
    node.advance(400 * 365 * DAY).await;
    assert_eq!(node.one("user_facts:level", json!({"user_id": 1})).await, "7");
    let trained = node.one_trained("user_facts:level", json!({"user_id": 1}), &[node.now()], AS_KNOWN).await;
    assert_eq!(trained, ["7"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn past_its_ttl_a_value_is_expired_online_and_in_training_alike() {
    let node = TestNode::start(SHOP).await;
    node.put("facts", json!([{"user_id": 1, "happened": START, "plan": "gold", "level": null}])).await;
    let instants: Vec<i64> = [-1, 0, 1].map(|micros| START + HOUR + micros).to_vec();
    let both = ["recent_facts:plan", "recent_facts:level"];
    let (mut plans, mut levels) = (Vec::new(), Vec::new());
    for at in &instants {
        node.set_clock(*at).await;
        let read = node.read(&both, json!({"user_id": [1]})).await;
        plans.extend(read.column("recent_facts__plan"));
        levels.extend(read.column("recent_facts__level"));
        // The row still says when it happened.
        assert_eq!(read.event_times(), [Some(START)]);
    }
    assert_eq!(plans, ["gold", "gold", "EXPIRED=free"]);
    assert_eq!(levels, ["NULL", "NULL", "EXPIRED"]);
    for _ in 0..2 {
        let wanted: Vec<_> = instants.iter().map(|at| json!({"user_id": 1, "at": at})).collect();
        let trained = node.train(&both, &spine(&wanted.into()), AS_KNOWN).await;
        assert_eq!(trained.column("recent_facts__plan"), plans);
        assert_eq!(trained.column("recent_facts__level"), levels);
        node.land().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_row_does_not_bring_back_an_expired_one_nor_change_what_is_answered() {
    let mut node = TestNode::start(SHOP).await;
    let row = |happened: i64, plan: &str| json!([{"user_id": 1, "happened": happened, "plan": plan}]);
    node.put("facts", row(START - 2 * HOUR, "expired")).await;
    let expired = node.read(&["recent_facts:plan"], json!({"user_id": [1]})).await;
    assert_eq!((expired.only().as_str(), expired.event_times()), ("EXPIRED=free", vec![Some(START - 2 * HOUR)]));
    // Older still, and so never the greatest.
    node.put("facts", row(START - 3 * HOUR, "late")).await;
    node.restart().await;
    let after = node.read(&["recent_facts:plan"], json!({"user_id": [1]})).await;
    assert_eq!((after.only(), after.event_times()), (expired.only(), expired.event_times()));
    node.put("facts", row(START - MINUTE, "fresh")).await;
    assert_eq!(node.one("recent_facts:plan", json!({"user_id": 1})).await, "fresh");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_row_does_not_bring_back_what_a_delete_hid() {
    let mut node = TestNode::start(SHOP).await;
    let row = |happened: i64| json!([{"user_id": 1, "happened": happened, "plan": "gold"}]);
    node.put("facts", row(START - 2 * SECOND)).await;
    node.delete("recent_facts", json!({"user_id": [1]}), START).await;
    node.advance(2 * HOUR).await;
    node.land().await;
    node.restart().await;
    node.put("facts", row(START - SECOND)).await;
    assert_eq!(node.one("recent_facts:plan", json!({"user_id": 1})).await, "NOT_FOUND=free");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_kept_for_the_longest_ttl_among_the_view_and_its_service_versions() {
    let node = TestNode::start(SHOP).await;
    node.apply(
        "{apiVersion: hydrant/v1, kind: FeatureService, metadata: {name: patient}, spec: {features: [recent_facts]}}",
    )
    .await;
    // The service has frozen an hour; the view itself goes down to a minute.
    let shorter = SHOP.replace("  source: facts\n  ttl: 1h", "  source: facts\n  ttl: 1m");
    assert_ne!(shorter, SHOP);
    node.apply(&shorter).await;
    // Already older than a minute when it comes.
    node.put("facts", json!([{"user_id": 1, "happened": START - 10 * MINUTE, "plan": "gold"}])).await;
    let read = async |what: &str| {
        let read = node.read(&[what], json!({"user_id": [1]})).await;
        read.column("recent_facts__plan").remove(0)
    };
    assert_eq!(read("patient@1").await, "gold");
    assert_eq!(read("recent_facts:plan").await, "EXPIRED=free");
    node.advance(50 * MINUTE + 1).await;
    assert_eq!(read("patient@1").await, "EXPIRED=free");
}

/// `recent_facts` with another ttl.
fn recent_for(ttl: &str) -> String {
    let changed = SHOP.replace("  source: facts\n  ttl: 1h", &format!("  source: facts\n{ttl}"));
    assert_ne!(changed, SHOP);
    changed
}

const RECENT: &str = "recent_facts:plan";

#[tokio::test(flavor = "multi_thread")]
async fn raising_a_ttl_brings_expired_rows_back_from_history_online_and_in_training_alike() {
    let mut node = TestNode::start(SHOP).await;
    let fact = |user: i64, happened: i64, plan: &str| json!({"user_id": user, "happened": happened, "plan": plan});
    node.put("facts", json!([fact(1, START - 90 * MINUTE, "landed"), fact(4, START - 5 * HOUR, "too old")])).await;
    node.put("facts", json!([fact(6, START - 90 * MINUTE, "deleted")])).await;
    node.delete("recent_facts", json!({"user_id": [6]}), START - 80 * MINUTE).await;
    node.land().await;
    // In the tail, and one that becomes a stub only later.
    node.put("facts", json!([fact(2, START - 100 * MINUTE, "in the tail"), fact(3, START, "fresh")])).await;
    node.advance(HOUR + 1).await;
    let users = json!({"user_id": [1, 2, 3, 4, 5, 6]});
    let before = node.read(&[RECENT], users.clone()).await;
    let expired = ["EXPIRED=free", "EXPIRED=free", "EXPIRED=free", "EXPIRED=free", "NOT_FOUND=free", "NOT_FOUND=free"];
    assert_eq!(before.column("recent_facts__plan"), expired);

    node.apply(&recent_for("  ttl: 3h")).await;
    node.refilled().await;
    let after = ["landed", "in the tail", "fresh", "EXPIRED=free", "NOT_FOUND=free", "NOT_FOUND=free"];
    for _ in 0..2 {
        let online = node.read(&[RECENT], users.clone()).await;
        assert_eq!(online.column("recent_facts__plan"), after);
        assert_eq!(online.event_times()[0], Some(START - 90 * MINUTE), "it is the row that it was");
        let now = node.now();
        let wanted: Vec<_> = (1..=6).map(|user| json!({"user_id": user, "at": now})).collect();
        let trained = node.train(&[RECENT], &spine(&wanted.into()), AS_KNOWN).await;
        assert_eq!(trained.column("recent_facts__plan"), after);
        node.land().await;
        node.restart().await;
    }
    // A late row is as late as before, and nothing was kept for longer than it counts.
    node.put("facts", json!([fact(1, START - 95 * MINUTE, "late")])).await;
    assert_eq!(node.one(RECENT, json!({"user_id": 1})).await, "landed");
    node.advance(HOUR).await;
    assert_eq!(node.one(RECENT, json!({"user_id": 1})).await, "EXPIRED=free");

    node.apply(&recent_for("")).await;
    node.refilled().await;
    assert_eq!(node.one(RECENT, json!({"user_id": 1})).await, "landed");
    assert_eq!(node.one(RECENT, json!({"user_id": 4})).await, "too old");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raised_ttl_takes_effect_at_once_when_all_is_refilled_and_not_before() {
    let mut node = TestNode::start(SHOP).await;
    let users: Vec<i64> = (0..300).collect();
    let rows: Vec<_> =
        users.iter().map(|user| json!({"user_id": user, "happened": START - 2 * HOUR, "plan": "gold"})).collect();
    node.put("facts", rows.into()).await;
    node.apply(
        "{apiVersion: hydrant/v1, kind: FeatureService, metadata: {name: patient}, spec: {features: [recent_facts]}}",
    )
    .await;
    node.apply(&recent_for("  ttl: 3h")).await;
    // Whatever a read meets: never some of the keys.
    let (mut expired, mut present) = (0, 0);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while present == 0 {
        let read = node.read(&[RECENT], json!({"user_id": users})).await.column("recent_facts__plan");
        let found = read.iter().filter(|plan| *plan == "gold").count();
        assert!(found == 0 || found == users.len(), "{found} of {}", users.len());
        if found == 0 {
            expired += 1
        } else {
            present += 1
        }
        assert!(std::time::Instant::now() < deadline, "not refilled after {expired} reads");
    }
    // What was frozen before stays so; what is applied now is made of the raised one.
    let of_version = async |node: &TestNode, version: &str| {
        node.read(&[version], json!({"user_id": [7]})).await.column("recent_facts__plan").remove(0)
    };
    assert_eq!(of_version(&node, "patient@1").await, "EXPIRED=free");
    node.apply(
        "{apiVersion: hydrant/v1, kind: FeatureService, metadata: {name: patient}, spec: {features: [recent_facts]}}",
    )
    .await;
    assert_eq!(of_version(&node, "patient@2").await, "gold");
    node.restart().await;
    assert_eq!(
        (of_version(&node, "patient@1").await, of_version(&node, "patient@2").await),
        ("EXPIRED=free".to_owned(), "gold".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refill_that_was_cut_off_goes_on_after_the_next_start() {
    let mut node = TestNode::start(SHOP).await;
    node.put("facts", json!([{"user_id": 1, "happened": START - 2 * HOUR, "plan": "gold"}])).await;
    for _ in 0..4 {
        node.apply(&recent_for("  ttl: 3h")).await;
        node.restart().await;
        node.refilled().await;
        assert_eq!(node.one(RECENT, json!({"user_id": 1})).await, "gold");
        // And back: its row is let go again.
        node.apply(SHOP).await;
        assert_eq!(node.one(RECENT, json!({"user_id": 1})).await, "EXPIRED=free");
    }
    // Lowered again before it was refilled.
    node.apply(&recent_for("  ttl: 3h")).await;
    node.apply(SHOP).await;
    node.refilled().await;
    assert_eq!(node.one(RECENT, json!({"user_id": 1})).await, "EXPIRED=free");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_keeps_no_history_is_not_refilled_and_its_ttl_not_raised() {
    let shop = SHOP.replace("  source: facts\n  ttl: 1h", "  source: facts\n  offline: false\n  ttl: 1h");
    let node = TestNode::start(&shop).await;
    let refused =
        node.try_apply(&shop.replace("ttl: 1h", "ttl: 2h")).await.expect_err("there is nothing to refill from");
    assert!(refused.violations.iter().any(|wrong| wrong.path.ends_with("spec.ttl")), "{refused:?}");
    assert!(refused.hint.is_some());
    node.apply(&shop.replace("ttl: 1h", "ttl: 30m")).await;
}
