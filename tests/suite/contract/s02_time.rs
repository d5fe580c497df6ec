//! Contract, section 2: the four times, and store time.

use std::sync::Arc;

use arrow_array::{ArrayRef, TimestampMicrosecondArray, TimestampNanosecondArray, TimestampSecondArray};
use futures::future::join_all;
use hydrant::error::Code;
use hydrant::ingest::IngestRequest;
use hydrant::registry::definition::KnownTimeRule;
use hydrant::serving::OnlineRequest;
use serde_json::json;

use super::{SHOP, audit};
use crate::support::node::{AS_KNOWN, DAY, HOUR, MINUTE, SECOND, START, TestNode};
use crate::support::table::{spine, with_column};

#[tokio::test(flavor = "multi_thread")]
async fn event_time_is_given_by_the_producer_and_stored_as_sent() {
    let node = TestNode::start(SHOP).await;
    let times = [-1_234_567, 0, START - 1, START];
    let rows = times.iter().enumerate().map(|(user, time)| json!({"user_id": user, "happened": time, "plan": "gold"}));
    node.put("facts", rows.collect()).await;
    let expected: Vec<Option<i64>> = times.iter().copied().map(Some).collect();
    let read = node.read(&["user_facts:plan"], json!({"user_id": [0, 1, 2, 3]})).await;
    assert_eq!(read.event_times(), expected);
    node.land().await;
    let wanted: Vec<_> = (0..4).map(|user| json!({"user_id": user, "at": START})).collect();
    let trained = node.train(&["user_facts:plan"], &spine(&wanted.into()), AS_KNOWN).await;
    assert_eq!(trained.event_times("user_facts__plan"), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_without_an_event_time_is_refused() {
    let node = TestNode::start(SHOP).await;
    let missing = node.try_put("facts", json!([{"user_id": 1, "plan": "gold"}])).await.expect_err("no column");
    assert_eq!((missing.reason, missing.violations[0].path.as_str()), ("BAD_COLUMNS", "columns.happened"));
    let rows = json!([{"user_id": 1, "happened": START, "plan": "a"}, {"user_id": 2, "happened": null, "plan": "b"}]);
    let null = node.try_put("facts", rows).await.expect_err("a null");
    assert_eq!((null.reason, null.violations[0].path.as_str()), ("BAD_ROWS", "rows[1].happened"));
    assert_eq!(node.frames(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ingest_time_is_store_time_at_the_moment_the_row_enters_the_log() {
    let node = TestNode::start(SHOP).await;
    for second in 1..4 {
        node.set_clock(START + second * SECOND).await;
        let before = node.now();
        assert_eq!(before, START + second * SECOND);
        let report = node.put("clicks", json!([{"user_id": 1, "item_id": "a", "happened": START, "score": 1}])).await;
        let ingest_time = report.ingest_time.expect("it was written");
        assert!(before < ingest_time && ingest_time <= node.now() && node.now() < before + 10, "{ingest_time}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_known_on_arrival_unless_its_source_says_otherwise() {
    let node = TestNode::start(SHOP).await;
    let happened = START - HOUR;
    let report = node.put("clicks", json!([{"user_id": 1, "item_id": "a", "happened": happened, "score": 7}])).await;
    let arrived = report.ingest_time.expect("it was written");
    let instants = [happened, arrived - 1, arrived, arrived + 1];
    let trained = node.one_trained("user_scores:score", json!({"user_id": 1}), &instants, AS_KNOWN).await;
    assert_eq!(trained, ["NOT_FOUND", "NOT_FOUND", "7", "7"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_known_time_event_a_row_is_known_when_it_happens() {
    let node = TestNode::start(SHOP).await;
    let happened = START - HOUR;
    node.put("facts", json!([{"user_id": 1, "happened": happened, "plan": "gold"}])).await;
    let instants = [happened - 1, happened, START];
    let trained = node.one_trained("user_facts:plan", json!({"user_id": 1}), &instants, AS_KNOWN).await;
    assert_eq!(trained, ["NOT_FOUND", "gold", "gold"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_delay_a_row_is_known_that_long_after_it_happens() {
    let node = TestNode::start(SHOP).await;
    let happened = START - HOUR;
    node.put("reports", json!([{"user_id": 1, "happened": happened, "grade": "A"}])).await;
    let known = happened + 10 * MINUTE;
    let instants = [happened, known - 1, known, START];
    let trained = node.one_trained("user_reports:grade", json!({"user_id": 1}), &instants, AS_KNOWN).await;
    assert_eq!(trained, ["NOT_FOUND", "NOT_FOUND", "A", "A"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_known_time_column_the_producer_says_when_a_row_was_known() {
    let node = TestNode::start(SHOP).await;
    let (happened, noticed) = (START - HOUR, START - MINUTE);
    let rows = json!([{"user_id": 1, "happened": happened, "noticed": noticed, "verdict": "fine"}]);
    node.put("audits", rows).await;
    let instants = [happened, noticed - 1, noticed, START];
    let trained = node.one_trained("user_audits:verdict", json!({"user_id": 1}), &instants, AS_KNOWN).await;
    assert_eq!(trained, ["NOT_FOUND", "NOT_FOUND", "fine", "fine"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_may_override_the_known_time_of_its_source() {
    let node = TestNode::start(SHOP).await;
    let happened = START - HOUR;
    let row = |user: i64| json!([{"user_id": user, "item_id": "a", "happened": happened, "score": user}]);
    node.put("clicks", row(1)).await;
    node.put_known("clicks", row(2), KnownTimeRule::Event { delay: 0 }).await;
    node.put_known("clicks", row(3), KnownTimeRule::Event { delay: MINUTE }).await;
    let at = [happened, happened + MINUTE, START + MINUTE];
    let trained =
        async |user: i64| node.one_trained("user_scores:score", json!({"user_id": user}), &at, AS_KNOWN).await;
    assert_eq!(trained(1).await, ["NOT_FOUND", "NOT_FOUND", "1"]);
    assert_eq!(trained(2).await, ["2", "2", "2"]);
    assert_eq!(trained(3).await, ["NOT_FOUND", "3", "3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_online_read_is_as_of_store_time_unless_it_pins_another_instant() {
    let node = TestNode::start(SHOP).await;
    node.put("facts", json!([{"user_id": 1, "happened": START - HOUR, "plan": "old"}])).await;
    node.put("facts", json!([{"user_id": 1, "happened": START, "plan": "new"}])).await;
    let now = node.read(&["user_facts:plan"], json!({"user_id": [1]})).await;
    assert_eq!((now.only().as_str(), now.0.provenance.t), ("new", node.now()));
    let pinned = node.read_at(&["user_facts:plan"], json!({"user_id": [1]}), START - 1).await;
    assert_eq!((pinned.only().as_str(), pinned.0.provenance.t), ("old", START - 1));
    let ahead = node.try_read_at(&["user_facts:plan"], json!({"user_id": [1]}), START + DAY).await;
    assert_eq!(ahead.expect_err("it has not come").reason, "AT_IN_FUTURE");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_training_row_is_read_as_of_its_own_event_time() {
    let node = TestNode::start(SHOP).await;
    let rows = (0..5).map(|n| json!({"user_id": 1, "happened": START + n * SECOND - HOUR, "level": n})).collect();
    node.put("facts", rows).await;
    let at: Vec<i64> = [3, 0, 4, 1].iter().map(|n| START + n * SECOND - HOUR).collect();
    let trained = node.one_trained("user_facts:level", json!({"user_id": 1}), &at, AS_KNOWN).await;
    assert_eq!(trained, ["3", "0", "4", "1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn store_time_never_runs_backwards_across_clock_steps_and_restarts() {
    let mut node = TestNode::start(SHOP).await;
    let row = json!([{"user_id": 1, "happened": START, "plan": "gold"}]);
    let mut last = node.now();
    for (round, clock) in [START + HOUR, START - DAY, START + 2 * HOUR, 0].into_iter().enumerate() {
        node.clock.set(clock);
        let read = node.read(&["user_facts:plan"], json!({"user_id": [1]})).await.0.provenance.t;
        assert!(read >= last, "round {round}: {read} after {last}");
        let ingest_time = node.put("facts", row.clone()).await.ingest_time.expect("it was written");
        assert!(ingest_time > read, "round {round}: {ingest_time} after {read}");
        node.restart().await;
        last = node.now();
        assert!(last >= ingest_time, "round {round}: {last} after {ingest_time}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unpinned_read_sees_every_row_that_is_due_at_its_one_instant() {
    let node = TestNode::start(SHOP).await;
    let due = START + 10 * SECOND;
    let users: Vec<i64> = (0..40).collect();
    let rows = users.iter().map(|user| json!({"user_id": user, "happened": due, "level": user})).collect();
    node.put("facts", rows).await;
    for (clock, expected) in [(due - 1, "NOT_FOUND=-1"), (due, "the user's")] {
        node.set_clock(clock).await;
        let read = node.read(&["user_facts:level"], json!({"user_id": users})).await;
        assert_eq!(read.0.provenance.t, clock, "one instant for all partitions");
        for (user, cell) in users.iter().zip(read.column("user_facts__level")) {
            let expected = if expected == "the user's" { user.to_string() } else { expected.to_owned() };
            assert_eq!(cell, expected, "user {user} at {clock}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_later_request_is_stamped_after_every_instant_and_cut_off_given_out() {
    let node = TestNode::start(SHOP).await;
    let row = json!([{"user_id": 1, "happened": START, "plan": "gold"}]);
    let wanted = spine(&json!([{"user_id": 1, "at": START}]));
    // The clock stands still.
    for round in 0..10 {
        let read = node.read(&["user_facts:plan"], json!({"user_id": [1]})).await.0.provenance.t;
        let written = node.put("facts", row.clone()).await.ingest_time.expect("it was written");
        assert!(written > read, "round {round}: {written} after the instant {read}");
        let cutoff = node.train(&["user_facts:plan"], &wanted, AS_KNOWN).await.report.cutoff;
        assert!(cutoff >= written, "round {round}: the cut-off {cutoff} after {written}");
        let written = node.put("facts", row.clone()).await.ingest_time.expect("it was written");
        assert!(written > cutoff, "round {round}: {written} after the cut-off {cutoff}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_ahead_of_store_time_becomes_visible_when_both_its_times_have_come() {
    let node = TestNode::start(SHOP).await;
    let (first, second) = (START + MINUTE, START + 2 * MINUTE);
    node.put("audits", json!([audit(1, first, second, "fine"), audit(2, second, first, "fine")])).await;
    let both = json!({"user_id": [1, 2]});
    for (at, expected) in [(START, "NOT_FOUND"), (first, "NOT_FOUND"), (second - 1, "NOT_FOUND"), (second, "fine")] {
        node.set_clock(at).await;
        let read = node.read(&["user_audits:verdict"], both.clone()).await;
        assert_eq!(read.column("user_audits__verdict"), [expected, expected], "at {}", at - START);
    }
    // It was kept as it was sent.
    let read = node.read(&["user_audits:verdict"], both).await;
    assert_eq!(read.event_times(), [Some(first), Some(second)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_too_far_ahead_is_refused_naming_the_row_and_the_times() {
    let node = TestNode::start(SHOP).await;
    let rows = |ahead: i64| {
        json!([
            {"user_id": 1, "happened": START, "plan": "gold"},
            {"user_id": 2, "happened": START + ahead, "plan": "gold"},
        ])
    };
    let refused = node.try_put("facts", rows(5 * MINUTE + 1)).await.expect_err("beyond five minutes, the default");
    assert_eq!((refused.code, refused.reason), (Code::InvalidArgument, "BAD_ROWS"));
    let [only] = refused.violations.as_slice() else { panic!("one row is bad: {refused:?}") };
    assert_eq!(only.path, "rows[1].happened");
    for time in ["2024-01-01T00:05:00.000001Z", "2024-01-01T00:00:00Z", "300s"] {
        assert!(only.message.contains(time), "'{time}' in: {}", only.message);
    }
    assert_eq!(node.frames(), 0);
    node.try_put("facts", rows(5 * MINUTE)).await.expect("exactly as far as is allowed");
    // A known time ahead counts too; this source allows an hour.
    let report = |ahead: i64| json!([{"user_id": 1, "happened": START + ahead, "grade": "A"}]);
    node.try_put("reports", report(50 * MINUTE)).await.expect("known an hour ahead");
    assert!(node.try_put("reports", report(50 * MINUTE + SECOND)).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_read_is_as_known() {
    let node = TestNode::start(SHOP).await;
    node.put("audits", json!([audit(1, START - 60 * SECOND, START - 60 * SECOND, "first")])).await;
    node.put("audits", json!([audit(1, START - 50 * SECOND, START - 10 * SECOND, "noticed late")])).await;
    let instants = [-61, -60, -40, -11, -10, 0].map(|seconds| START + seconds * SECOND);
    let mut read = Vec::new();
    for at in instants {
        read.push(node.one_at("user_audits:verdict", json!({"user_id": 1}), at).await);
    }
    assert_eq!(read, ["NOT_FOUND", "first", "first", "first", "noticed late", "noticed late"]);
    assert_eq!(node.one_trained("user_audits:verdict", json!({"user_id": 1}), &instants, AS_KNOWN).await, read);
}

#[tokio::test(flavor = "multi_thread")]
async fn history_answers_a_pinned_read_that_lies_before_the_online_row_and_says_so() {
    let node = TestNode::start(SHOP).await;
    node.put("audits", json!([audit(1, START - 60, START - 60, "first")])).await;
    // Online lies this one, by event time after START - 30 and by known time after START - 20.
    node.put("audits", json!([audit(1, START - 30, START - 20, "second")])).await;
    for landed in [false, true] {
        for (at, expected, from_history) in [
            (START - 61, "NOT_FOUND", 1),
            (START - 31, "first", 1),
            (START - 21, "first", 1),
            (START - 20, "second", 0),
            (START, "second", 0),
        ] {
            let read = node.read_at(&["user_audits:verdict"], json!({"user_id": [1]}), at).await;
            assert_eq!(read.only(), expected, "at {}, landed: {landed}", at - START);
            assert_eq!(read.0.provenance.rows_from_history, from_history, "at {}, landed: {landed}", at - START);
        }
        node.land().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn history_answers_for_an_expired_stub_that_had_not_expired_at_the_instant() {
    let node = TestNode::start(SHOP).await;
    // Two hours old under a ttl of one: only its header is kept online.
    node.put("facts", json!([{"user_id": 1, "happened": START - 2 * HOUR, "plan": "gold"}])).await;
    assert_eq!(node.one("recent_facts:plan", json!({"user_id": 1})).await, "EXPIRED=free");
    for landed in [false, true] {
        let alive = node.read_at(&["recent_facts:plan"], json!({"user_id": [1]}), START - HOUR).await;
        assert_eq!((alive.only().as_str(), alive.0.provenance.rows_from_history), ("gold", 1), "landed: {landed}");
        let expired = node.read_at(&["recent_facts:plan"], json!({"user_id": [1]}), START - HOUR + 1).await;
        assert_eq!((expired.only().as_str(), expired.0.provenance.rows_from_history), ("EXPIRED=free", 0));
        node.land().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_of_the_past_have_a_cap_of_their_own() {
    let node = TestNode::start_with(SHOP, |config| config.serving.max_history_reads = 1).await;
    node.put("facts", json!([{"user_id": 1, "happened": START, "plan": "gold"}])).await;
    let question = node.question(&["user_facts:plan"], &json!({"user_id": [1]}));
    let pinned = || node.get(OnlineRequest { at: Some(START - 1), ..question.clone() });
    let answers = join_all((0..64).map(|_| pinned())).await;
    let refused: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    assert!(!refused.is_empty() && refused.len() < answers.len(), "{} of 64 were refused", refused.len());
    for error in refused {
        assert_eq!(error.code, Code::ResourceExhausted, "{error}");
        assert!(error.retry_after.is_some());
    }
    let unpinned = join_all((0..64).map(|_| node.get(question.clone()))).await;
    assert!(unpinned.iter().all(Result::is_ok), "unpinned reads need no place in history");
    assert_eq!(pinned().await.expect("there is a place again").only(), "NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_without_history_refuses_reads_that_only_history_could_answer() {
    let without_history = SHOP.replace(
        "  features: [{name: plan}, {name: level, default: -1}]",
        "  offline: false\n  features: [{name: plan}, {name: level, default: -1}]",
    );
    let service = without_history.rfind("---").expect("the service comes last");
    let node = TestNode::start(&without_history[..service]).await;
    node.put("facts", json!([{"user_id": 1, "happened": START, "plan": "gold"}])).await;
    let refused = node.try_read_at(&["user_facts:plan"], json!({"user_id": [1]}), START - 1).await;
    let refused = refused.expect_err("the past is not kept");
    assert_eq!((refused.code, refused.reason), (Code::FailedPrecondition, "VIEW_WITHOUT_HISTORY"));
    assert!(refused.message.contains("user_facts"), "{refused}");
    let trained = node.try_train(&["user_facts:plan"], &spine(&json!([{"user_id": 1, "at": START}])), AS_KNOWN).await;
    assert_eq!(trained.expect_err("nor trained on").reason, "VIEW_WITHOUT_HISTORY");
    assert_eq!(node.one_at("user_facts:plan", json!({"user_id": 1}), START).await, "gold");
    assert_eq!(node.one("user_facts:plan", json!({"user_id": 1})).await, "gold");
}

#[tokio::test(flavor = "multi_thread")]
async fn times_finer_than_a_microsecond_are_floored_for_rows_and_spines_alike() {
    let node = TestNode::start(SHOP).await;
    let rows = json!([{"user_id": 1, "happened": 0, "plan": "a"}, {"user_id": 2, "happened": 0, "plan": "b"}]);
    let mut request = node.request("facts", &rows);
    let nanos: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![-1, 1_999]));
    request.batch = with_column(&request.batch, "happened", nanos);
    let report = node.ingest(request).await.expect("nanoseconds are taken");
    node.see(&report).await;
    let read = node.read(&["user_facts:plan"], json!({"user_id": [1, 2]})).await;
    assert_eq!(read.event_times(), [Some(-1), Some(1)]);

    let wanted = spine(
        &json!([{"user_id": 1, "at": 0}, {"user_id": 1, "at": 0}, {"user_id": 2, "at": 0}, {"user_id": 2, "at": 0}]),
    );
    let nanos: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![-1_001, -1_000, 999, 1_000]));
    let trained = node.train(&["user_facts:plan"], &with_column(&wanted, "at", nanos), AS_KNOWN).await;
    assert_eq!(trained.column("user_facts__plan"), ["NOT_FOUND", "a", "NOT_FOUND", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn zoned_times_become_utc_and_naive_times_are_utc() {
    let node = TestNode::start(SHOP).await;
    // Arrow holds a zoned time as its instant; how it is shown is another matter.
    let seconds = || TimestampSecondArray::from(vec![START / SECOND]);
    let zoned: ArrayRef = Arc::new(seconds().with_timezone("+05:30"));
    let named: ArrayRef = Arc::new(seconds().with_timezone("UTC"));
    let naive: ArrayRef = Arc::new(seconds());
    for (user, array) in [(1, &zoned), (2, &named), (3, &naive)] {
        let request = node.request("facts", &json!([{"user_id": user, "happened": 0, "plan": "gold"}]));
        let batch = with_column(&request.batch, "happened", array.clone());
        let report = node.ingest(IngestRequest { batch, ..request }).await.expect("any zone is taken");
        node.see(&report).await;
    }
    let read = node.read(&["user_facts:plan"], json!({"user_id": [1, 2, 3]})).await;
    assert_eq!(read.event_times(), [Some(START); 3]);
    for array in [zoned, named, naive, Arc::new(TimestampMicrosecondArray::from(vec![START]))] {
        let wanted = with_column(&spine(&json!([{"user_id": 3, "at": 0}])), "at", array);
        let trained = node.train(&["user_facts:plan"], &wanted, AS_KNOWN).await;
        assert_eq!(trained.column("user_facts__plan"), ["gold"]);
    }
}
