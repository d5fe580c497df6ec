//! Contract, section 5: missing data is a status, and never an error.

use hydrant::error::Code;
use hydrant::rpc::v1;
use hydrant::serving::OnlineRequest;
use hydrant_storage::order::CellStatus;
use serde_json::json;

use super::SHOP;
use super::s12_corruption::damage_online_row;
use crate::support::node::{AS_KNOWN, HOUR, MINUTE, START, TestNode};
use crate::support::table::spine_at;

const ALL: [CellStatus; 7] = [
    CellStatus::Present,
    CellStatus::Null,
    CellStatus::NotFound,
    CellStatus::Expired,
    CellStatus::NotReady,
    CellStatus::Damaged,
    CellStatus::Masked,
];

#[tokio::test(flavor = "multi_thread")]
async fn a_cell_is_present_null_not_found_or_expired() {
    let node = TestNode::start(SHOP).await;
    node.put(
        "facts",
        json!([
            {"user_id": 1, "happened": START, "level": 7},
            {"user_id": 2, "happened": START, "level": null},
            {"user_id": 4, "happened": START - 2 * HOUR, "level": 9},
        ]),
    )
    .await;
    let read = node.read(&["recent_facts:level"], json!({"user_id": [1, 2, 3, 4, null]})).await;
    assert_eq!(read.column("recent_facts__level"), ["7", "NULL", "NOT_FOUND", "EXPIRED", "NOT_FOUND"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_older_than_the_feature_is_not_found() {
    let node = TestNode::start(SHOP).await;
    node.put("facts", json!([{"user_id": 1, "happened": START - 2, "plan": "gold", "level": 7}])).await;
    let more = SHOP
        .replace(
            "    - {name: level, type: int64}",
            "    - {name: level, type: int64}\n    - {name: city, type: string}",
        )
        .replace("{name: level, default: -1}]", "{name: level, default: -1}, {name: city}]");
    node.apply(&more).await;
    let both = ["user_facts:level", "user_facts:city"];
    let read = async || {
        let read = node.read(&both, json!({"user_id": [1]})).await;
        [read.column("user_facts__level").remove(0), read.column("user_facts__city").remove(0)]
    };
    assert_eq!(read().await, ["7", "NOT_FOUND"]);
    for _ in 0..2 {
        let trained = node.one_trained("user_facts:city", json!({"user_id": 1}), &[START], AS_KNOWN).await;
        assert_eq!(trained, ["NOT_FOUND"]);
        node.land().await;
    }
    // Written since, it is null where the row says nothing of it.
    node.put("facts", json!([{"user_id": 1, "happened": START - 1, "level": 8}])).await;
    assert_eq!(read().await, ["8", "NULL"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_does_not_answer_makes_its_cells_not_ready_and_no_others() {
    let node = TestNode::start(SHOP).await;
    let users: Vec<i64> = (0..60).collect();
    let rows = users.iter().map(|user| json!({"user_id": user, "happened": START, "level": user})).collect();
    node.put("facts", rows).await;
    park(&node, 1).await;
    let cells = node.read(&["user_facts:level"], json!({"user_id": users})).await.column("user_facts__level");
    let missing = cells.iter().filter(|cell| *cell == "NOT_READY=-1").count();
    assert!((1..60).contains(&missing), "{missing} of 60 cells are not ready");
    for (user, cell) in users.iter().zip(&cells) {
        assert!(cell == "NOT_READY=-1" || *cell == user.to_string(), "user {user}: {cell}");
    }
    node.use_cases().partitions.reopen(1);
    node.use_cases().partitions.wait_serving(crate::support::node::patience()).await.expect("it opens again");
    let cells = node.read(&["user_facts:level"], json!({"user_id": users})).await.column("user_facts__level");
    assert!(users.iter().zip(&cells).all(|(user, cell)| *cell == user.to_string()), "{cells:?}");
}

#[test]
fn a_status_is_never_sent_as_unspecified() {
    for status in ALL {
        let number = status as i32;
        assert_ne!(number, v1::CellStatus::Unspecified as i32);
        let on_the_wire = v1::CellStatus::try_from(number).expect("the wire knows it");
        assert_eq!(on_the_wire.as_str_name().trim_start_matches("CELL_STATUS_"), status.as_str());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_default_fills_every_status_but_present_and_null_online_and_in_training_alike() {
    let node = TestNode::start(SHOP).await;
    node.put(
        "facts",
        json!([
            {"user_id": 1, "happened": START, "plan": "gold"},
            {"user_id": 2, "happened": START, "plan": null},
            {"user_id": 4, "happened": START - 2 * HOUR, "plan": "old"},
        ]),
    )
    .await;
    let expected = ["gold", "NULL", "NOT_FOUND=free", "EXPIRED=free"];
    let read = node.read(&["recent_facts:plan"], json!({"user_id": [1, 2, 3, 4]})).await;
    assert_eq!(read.column("recent_facts__plan"), expected);
    for (user, expected) in (1..).zip(expected) {
        let wanted = spine_at(&json!({"user_id": user}), &[START + MINUTE]);
        let trained = node.train(&["recent_facts:plan"], &wanted, AS_KNOWN).await;
        assert_eq!(trained.column("recent_facts__plan"), [expected]);
    }
    for status in ALL {
        let never = matches!(status, CellStatus::Present | CellStatus::Null | CellStatus::Masked);
        assert_eq!(status.takes_default(), !never, "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_request_turns_not_ready_and_damaged_into_errors_of_the_whole_call() {
    let mut node = TestNode::start_with(SHOP, |config| config.storage.partitions = 1).await;
    node.put(
        "facts",
        json!([
            {"user_id": 1, "happened": START, "plan": "damage me"},
            {"user_id": 2, "happened": START, "plan": "gold"},
        ]),
    )
    .await;
    damage_online_row(&mut node, "damage me").await;
    let strict = async |keys: serde_json::Value| {
        let question = node.question(&["user_facts:plan"], &keys);
        node.get(OnlineRequest { strict: true, ..question }).await
    };
    let damaged = strict(json!({"user_id": [1, 2]})).await.expect_err("a row is damaged");
    assert_eq!(damaged.code, Code::DataLoss, "{damaged}");
    assert_eq!(
        strict(json!({"user_id": [2, 3]})).await.expect("whole").column("user_facts__plan"),
        ["gold", "NOT_FOUND"]
    );
    park(&node, 0).await;
    let not_ready = strict(json!({"user_id": [2]})).await.expect_err("the partition is parked");
    assert_eq!(not_ready.code, Code::Unavailable, "{not_ready}");
    assert!(not_ready.retry_after.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_cell_never_fails_the_other_499_candidates() {
    let mut node = TestNode::start(SHOP).await;
    let users: Vec<i64> = (0..500).collect();
    let plan = |user: &i64| if *user == 250 { "damage me".to_owned() } else { format!("plan {user}") };
    let rows = users.iter().map(|user| json!({"user_id": user, "happened": START, "plan": plan(user)})).collect();
    node.put("facts", rows).await;
    damage_online_row(&mut node, "damage me").await;
    let cells = node.read(&["user_facts:plan"], json!({"user_id": users})).await.column("user_facts__plan");
    for (user, cell) in users.iter().zip(&cells) {
        let expected = if *user == 250 { "DAMAGED".to_owned() } else { plan(user) };
        assert_eq!(*cell, expected, "user {user}");
    }
}

/// Closes a partition, and waits until it has.
async fn park(node: &TestNode, partition: usize) {
    let partitions = &node.use_cases().partitions;
    partitions.park(partition, "the test wants it so");
    let deadline = crate::support::node::patience();
    while partitions.handles()[partition].is_serving() {
        assert!(std::time::Instant::now() < deadline, "it does not park");
        tokio::task::yield_now().await;
    }
}
