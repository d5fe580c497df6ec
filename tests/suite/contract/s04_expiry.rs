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

#[tokio::test(flavor = "multi_thread")]
async fn raising_a_ttl_is_refused_until_refills_are_served() {
    let node = TestNode::start(SHOP).await;
    let longer = SHOP.replace("ttl: 1h", "ttl: 2h");
    let refused = node.try_apply(&longer).await.expect_err("rows that have gone can't come back yet");
    assert!(refused.violations.iter().any(|wrong| wrong.path.ends_with("spec.ttl")), "{refused:?}");
}
