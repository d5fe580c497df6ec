//! Contract, section 8: writes.

use std::time::{Duration, Instant};

use hydrant::error::Code;
use hydrant::ingest::{DeleteRequest, IngestRequest, Outcome, Producer};
use hydrant::log::LogError;
use hydrant::serving::OnlineRequest;
use hydrant::tenancy::Action;
use serde_json::{Value as Json, json};

use super::SHOP;
use crate::support::node::{AS_KNOWN, DAY, HOUR, START, TestNode, patience};

fn fact(user: i64, level: i64) -> Json {
    json!({"user_id": user, "happened": START, "level": level})
}

async fn level(node: &TestNode, user: i64) -> String {
    node.one("user_facts:level", json!({"user_id": user})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_in_the_log_on_disk() {
    let node = TestNode::start(SHOP).await;
    for round in 0..20 {
        node.try_put("facts", json!([fact(round, round)])).await.expect("the row is good");
    }
    node.delete("user_facts", json!({"user_id": [3]}), START).await;
    // Nobody has closed anything: the log and the registry, as they lie there, are enough.
    let revived = node.revive_from_log().await;
    for user in 0..20 {
        let expected = if user == 3 { "NOT_FOUND=-1".to_owned() } else { user.to_string() };
        assert_eq!(level(&revived, user).await, expected);
    }
    assert_eq!(revived.frames(), node.frames());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_one_frame_and_stands_when_the_next_is_refused() {
    let node = TestNode::start(SHOP).await;
    let rows: Json = (0..100).map(|user| fact(user, 1)).collect();
    let report = node.put("facts", rows).await;
    assert_eq!((report.frame, node.frames()), (Some(1), 1), "a hundred rows for two views");
    assert!(node.try_put("facts", json!([fact(1, 2), {"user_id": null, "happened": START}])).await.is_err());
    assert_eq!((level(&node, 1).await.as_str(), node.frames()), ("1", 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_row_refuses_the_request_before_anything_is_written() {
    let node = TestNode::start(SHOP).await;
    let mut rows: Vec<Json> = (0..2_000).map(|user| fact(user, user)).collect();
    rows[1_999]["happened"] = json!(START + DAY);
    let refused = node.try_put("facts", rows.clone().into()).await.expect_err("the last row is bad");
    assert_eq!((refused.code, refused.reason), (Code::InvalidArgument, "BAD_ROWS"));
    assert_eq!(node.frames(), 0);
    assert_eq!(level(&node, 5).await, "NOT_FOUND=-1");
    rows.pop();
    node.put("facts", rows.into()).await;
    assert_eq!(level(&node, 5).await, "5");
}

#[tokio::test(flavor = "multi_thread")]
async fn up_to_twenty_bad_rows_are_named_by_index_column_and_reason() {
    let node = TestNode::start(SHOP).await;
    let row = |n: i64| match n % 3 {
        0 => json!({"user_id": null, "happened": START, "level": n}),
        1 => json!({"user_id": n, "happened": null, "level": n}),
        _ => fact(n, n),
    };
    let refused = node.try_put("facts", (0..90).map(row).collect()).await.expect_err("60 are bad");
    assert!(refused.message.contains("60 of 90"), "{refused}");
    assert_eq!(refused.violations.len(), 20);
    for (violation, n) in refused.violations.iter().zip((0..90).filter(|n| n % 3 != 2)) {
        let expected = if n % 3 == 0 { format!("rows[{n}].key") } else { format!("rows[{n}].happened") };
        assert_eq!(violation.path, expected);
        assert!(violation.message.contains("null"), "{}", violation.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_can_be_checked_without_being_written() {
    let node = TestNode::start(SHOP).await;
    let check =
        async |rows: Json| node.ingest(IngestRequest { validate_only: true, ..node.request("facts", &rows) }).await;
    let valid = check(json!([fact(1, 1)])).await.expect("it is good");
    assert_eq!((valid.outcome, valid.frame, valid.rows), (Outcome::Valid, None, 1));
    let invalid = check(json!([fact(1, 1), {"user_id": null, "happened": START}])).await.expect_err("it is not");
    assert_eq!(invalid.reason, "BAD_ROWS");
    assert_eq!(node.frames(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_online_read_waits_for_the_position_that_it_names() {
    let node = TestNode::start(SHOP).await;
    let users: Vec<i64> = (0..50).collect();
    for round in 0..20 {
        let rows = users.iter().map(|user| fact(*user, round)).collect();
        let report = node.try_put("facts", rows).await.expect("the rows are good");
        let question = node.question(&["user_facts:level"], &json!({"user_id": users}));
        let read = node.get(OnlineRequest { at_least: report.frame, ..question }).await.expect("it waits");
        assert_eq!(read.column("user_facts__level"), vec![round.to_string(); 50]);
    }
    let question = node.question(&["user_facts:level"], &json!({"user_id": [1]}));
    let unknown = node.get(OnlineRequest { at_least: Some(node.frames() + 1), ..question }).await;
    assert_eq!(unknown.expect_err("never acknowledged").reason, "POSITION_UNKNOWN");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_can_not_be_read_before_the_deadline_is_an_error() {
    let node = TestNode::start_with(SHOP, |config| config.storage.partitions = 1).await;
    let report = node.try_put("facts", json!([fact(1, 1)])).await.expect("the row is good");
    let question = node.question(&["user_facts:level"], &json!({"user_id": [1]}));
    let late = OnlineRequest { at_least: report.frame, deadline: Some(Instant::now()), ..question.clone() };
    assert_eq!(node.get(late).await.expect_err("the deadline has passed").code, Code::DeadlineExceeded);
    let in_time = OnlineRequest { at_least: report.frame, deadline: Some(patience()), ..question };
    assert_eq!(node.get(in_time).await.expect("there is time").only(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn sequences_are_applied_in_order_gaps_allowed_and_rows_as_they_were_given() {
    let node = TestNode::start(SHOP).await;
    for (sequence, levels) in [(1, [1, 2]), (5, [3, 4]), (100, [6, 5])] {
        let rows = levels.iter().map(|level| fact(1, *level)).collect();
        let report = node.put_once("facts", rows, "p", sequence).await.expect("it is the next");
        assert_eq!(report.outcome, Outcome::Applied);
        assert_eq!(level(&node, 1).await, levels[1].to_string(), "the last row given");
    }
    assert_eq!(node.frames(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_seen_before_is_answered_as_before_and_changes_nothing() {
    let mut node = TestNode::start(SHOP).await;
    let first = node.put_once("facts", json!([fact(1, 1)]), "p", 1).await.expect("new");
    node.put_once("facts", json!([fact(1, 2)]), "p", 2).await.expect("new");
    for state in ["running", "restarted"] {
        let again = node.put_once("facts", json!([fact(1, 1)]), "p", 1).await.expect("seen before");
        assert_eq!(again.outcome, Outcome::AlreadyApplied, "{state}");
        assert_eq!((again.frame, again.ingest_time), (first.frame, first.ingest_time), "{state}");
        assert_eq!((level(&node, 1).await.as_str(), node.frames()), ("2", 2), "{state}");
        node.restart().await;
    }
    // Another producer, or none, is another request.
    assert_eq!(node.put_once("facts", json!([fact(1, 1)]), "q", 1).await.expect("new").outcome, Outcome::Applied);
    assert_eq!(node.put("facts", json!([fact(1, 1)])).await.outcome, Outcome::Applied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_seen_before_with_another_payload_is_refused() {
    let node = TestNode::start(SHOP).await;
    node.put_once("facts", json!([fact(1, 1)]), "p", 1).await.expect("new");
    for rows in [json!([fact(1, 2)]), json!([fact(2, 1)]), json!([fact(1, 1), fact(1, 1)])] {
        let refused = node.put_once("facts", rows, "p", 1).await.expect_err("not what was sent");
        assert_eq!(refused.reason, "SEQUENCE_REUSED");
    }
    let delete = DeleteRequest {
        producer: Some(Producer { id: "p".to_owned(), sequence: 1 }),
        ..node.deletion("user_facts", &json!({"user_id": [1]}), START)
    };
    let refused = node.use_cases().ingest.delete(&node.permit(Action::Write), delete).await.expect_err("nor a delete");
    assert_eq!(refused.reason, "SEQUENCE_REUSED");
    assert_eq!((level(&node, 1).await.as_str(), node.frames()), ("1", 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_never_seen_and_lower_than_the_last_is_refused() {
    let node = TestNode::start(SHOP).await;
    node.put_once("facts", json!([fact(1, 1)]), "p", 10).await.expect("new");
    let refused = node.put_once("facts", json!([fact(1, 2)]), "p", 9).await.expect_err("too late");
    assert_eq!(refused.reason, "SEQUENCE_TOO_OLD");
    assert!(refused.metadata.contains(&("last", "10".to_owned())), "{refused:?}");
    assert_eq!(level(&node, 1).await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_kept_for_a_producers_last_thousand_sequences() {
    let node = TestNode::start(SHOP).await;
    let send = async |sequence: u64, row: Json| {
        let producer = Some(Producer { id: "p".to_owned(), sequence });
        node.ingest(IngestRequest { producer, ..node.request("facts", &json!([row])) }).await
    };
    for sequence in 1..=1_001 {
        send(sequence, fact(1, 1)).await.expect("new");
    }
    let kept = send(2, fact(1, 1)).await.expect("seen before");
    assert_eq!((kept.outcome, kept.frame), (Outcome::AlreadyApplied, Some(2)));
    assert_eq!(send(2, fact(1, 9)).await.expect_err("it is known what it held").reason, "SEQUENCE_REUSED");
    // The first is older than a thousand: that it was taken is all that is known.
    let forgotten = send(1, fact(1, 9)).await.expect("seen before");
    assert_eq!(forgotten.outcome, Outcome::AlreadyApplied);
    assert_eq!(node.frames(), 1_001);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_is_remembered_for_thirty_days_since_its_last_use() {
    let mut node = TestNode::start(SHOP).await;
    node.put_once("facts", json!([fact(1, 1)]), "p", 1).await.expect("new");
    node.advance(29 * DAY).await;
    node.restart().await;
    let again = node.put_once("facts", json!([fact(1, 1)]), "p", 1).await.expect("seen before");
    assert_eq!(again.outcome, Outcome::AlreadyApplied);
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_are_known_after_the_log_was_trimmed() {
    let mut node = TestNode::start_with(SHOP, |config| config.log.segment = hydrant::config::ByteSize::mib(1)).await;
    let long = "x".repeat(600);
    let rows = |sequence: u64| -> Json {
        let row = |user: i64| json!({"user_id": user, "happened": START, "plan": format!("{long} {sequence}")});
        (0..800).map(row).collect()
    };
    for sequence in 1..=6 {
        node.put_once("facts", rows(sequence), "p", sequence).await.expect("new");
    }
    for handle in node.use_cases().partitions.handles() {
        handle.flush(patience()).await.expect("flushed");
    }
    let through = node.frames();
    tokio::task::block_in_place(|| node.node().log().trim(through)).expect("trimmed");
    node.restart().await;
    let gone = tokio::task::block_in_place(|| node.node().log().read_from(0, 1)).expect_err("the first is gone");
    assert!(matches!(gone, LogError::Trimmed { oldest } if oldest > 1), "{gone}");
    let again = node.put_once("facts", rows(1), "p", 1).await.expect("seen before");
    assert_eq!((again.outcome, again.frame), (Outcome::AlreadyApplied, Some(1)));
    assert_eq!(node.frames(), through);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_goes_to_every_view_of_its_source_under_its_own_key() {
    let node = TestNode::start(SHOP).await;
    node.put("clicks", json!([{"user_id": 1, "item_id": "a", "happened": START, "score": 5, "amount": 2.5}])).await;
    assert_eq!(node.one("user_scores:score", json!({"user_id": 1})).await, "5");
    assert_eq!(node.one("user_clicks:amount", json!({"user_id": 1})).await, "2.5");
    assert_eq!(node.one("pair_scores:score", json!({"user_id": 1, "item_id": "a"})).await, "5");
    assert_eq!(node.one("pair_scores:score", json!({"user_id": 1, "item_id": "b"})).await, "NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_whose_key_is_null_for_a_view_is_no_part_of_it_and_is_counted() {
    let node = TestNode::start(SHOP).await;
    let report = node
        .put(
            "clicks",
            json!([
                {"user_id": 1, "item_id": null, "happened": START, "score": 5},
                {"user_id": 1, "item_id": "a", "happened": START - 1, "score": 6},
            ]),
        )
        .await;
    let told: Vec<(String, usize, usize)> =
        report.views.iter().map(|view| (view.view.to_string(), view.rows, view.null_keys)).collect();
    for expected in [("pair_scores", 1, 1), ("user_clicks", 2, 0), ("user_scores", 2, 0)] {
        assert!(told.contains(&(expected.0.to_owned(), expected.1, expected.2)), "{expected:?} in {told:?}");
    }
    assert_eq!(node.use_cases().ingest.metrics().null_keys.get(), 1);
    assert_eq!(node.one("user_scores:score", json!({"user_id": 1})).await, "5");
    assert_eq!(node.one("pair_scores:score", json!({"user_id": 1, "item_id": "a"})).await, "6");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_part_of_no_view_is_a_bad_row() {
    let node = TestNode::start(SHOP).await;
    let rows = json!([
        {"user_id": 1, "item_id": "a", "happened": START, "score": 5},
        {"user_id": null, "item_id": "a", "happened": START, "score": 5},
    ]);
    let refused = node.try_put("clicks", rows).await.expect_err("no view has a key");
    assert_eq!((refused.reason, refused.violations[0].path.as_str()), ("BAD_ROWS", "rows[1].key"));
    assert_eq!(node.frames(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_overloaded_a_write_is_refused_before_anything_is_written_with_when_to_try_again() {
    let node = TestNode::start_with(SHOP, |config| {
        config.landing.tail = hydrant::config::ByteSize::mib(1);
        config.partitions.max_tail = hydrant::config::ByteSize::mib(1);
    })
    .await;
    let long = "x".repeat(2_000);
    let rows = |round: i64| -> Json {
        let row = |user: i64| json!({"user_id": user, "happened": START + round, "plan": long});
        (0..200).map(row).collect()
    };
    let mut refused = None;
    for round in 0..20 {
        match node.try_put("facts", rows(round)).await {
            Ok(report) => node.see(&report).await,
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    let refused = refused.expect("eight megabytes don't fit into one");
    assert_eq!(refused.code, Code::ResourceExhausted, "{refused}");
    assert!(refused.retry_after.is_some_and(|delay| delay > Duration::ZERO));
    let frames = node.frames();
    assert!(node.try_put("facts", rows(0)).await.is_err());
    assert_eq!(node.frames(), frames, "nothing is written");
    // Reads go on, and writes once rows have landed.
    assert_eq!(node.one("user_facts:plan", json!({"user_id": 1})).await, long);
    node.land().await;
    node.put("facts", rows(21)).await;
    let trained = node.one_trained("user_facts:plan", json!({"user_id": 1}), &[START + HOUR], AS_KNOWN).await;
    assert_eq!(trained, [long]);
}
