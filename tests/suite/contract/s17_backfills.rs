//! Contract, section 17: a backfill is history as a whole or not at all, once; and what is brought online
//! of it overwrites nothing newer.

use arrow_array::RecordBatch;
use bytes::Bytes;
use hydrant::backfill::{BackfillRequest, Outcome, Standing};
use hydrant::config::{ByteSize, Config, Span};
use hydrant::error::Code;
use hydrant::log::AppendRequest;
use hydrant::registry::definition::KnownTimeRule;
use hydrant::tenancy::{Action, DEFAULT_TENANT, Identity, Permit, Role};
use hydrant_storage::history::TakeIn;
use serde_json::{Value as Json, json};

use super::SHOP;
use crate::support::node::{AS_KNOWN, DAY, FINAL, HOUR, MINUTE, START, TestNode};

const VIEWS: [&str; 2] = ["recent_facts", "user_facts"];

fn fact(user: i64, happened: i64, plan: &str, level: i64) -> Json {
    json!({"user_id": user, "happened": happened, "plan": plan, "level": level})
}

/// So little memory that rows are staged in several pieces.
fn small(config: &mut Config) {
    config.backfill.memory = ByteSize::mib(16);
}

/// Rows of one user after the other, each an hour older; some megabytes of them.
fn many(node: &TestNode, users: i64, rows: i64) -> Vec<RecordBatch> {
    let batch = |user: i64| {
        let plan = |hour: i64| format!("plan {user} {hour} {}", "x".repeat(400));
        let rows: Json = (0..rows).map(|hour| fact(user, START - hour * HOUR, &plan(hour), hour)).collect();
        node.batch("facts", &rows)
    };
    (0..users).map(batch).collect()
}

/// Somebody who may write, until that is revoked.
fn writer(node: &TestNode) -> (Identity, Permit) {
    let tenant = DEFAULT_TENANT.parse().expect("a name");
    let ann = Identity::new("ann", tenant, [Role::Writer].into_iter().collect(), None);
    let permit = node.use_cases().tenancy.authorize(&ann, Action::Write).expect("it may");
    (ann, permit)
}

async fn standing(node: &TestNode, request: &BackfillRequest) -> Standing {
    node.use_cases().backfills.standing(&node.permit(Action::Write), request).await.expect("it is told")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_is_taken_in_as_a_whole_at_one_ingest_time() {
    let node = TestNode::start(SHOP).await;
    node.put("facts", json!([fact(1, START - 3 * DAY, "basic", 1)])).await;
    node.advance(MINUTE).await;
    let before = node.now();
    let batches = [
        node.batch("facts", &json!([fact(1, START - 2 * DAY, "gold", 2), fact(2, START - DAY, "basic", 3)])),
        node.batch("facts", &json!([fact(1, START - DAY, "none", 4)])),
    ];
    let report = node.backfill(node.backfill_of("facts", "a", &batches), &batches).await.expect("good rows");
    assert_eq!((report.outcome, report.rows), (Outcome::Applied, 3));
    let taken_in = report.ingest_time.expect("it was taken in");
    assert!(taken_in > before);
    assert!(report.views.iter().all(|view| (view.rows, view.null_keys) == (3, 0)), "{report:?}");

    let instants = [START - 3 * DAY, START - 2 * DAY, START - DAY, START];
    let plans = async |ask| node.one_trained("user_facts:plan", json!({"user_id": 1}), &instants, ask).await;
    let whole = ["basic", "gold", "none", "none"];
    assert_eq!(plans(AS_KNOWN).await, whole);
    assert_eq!(plans(FINAL.up_to(taken_in)).await, whole);
    assert_eq!(plans(AS_KNOWN.up_to(taken_in - 1)).await, ["basic"; 4]);
    node.advance(MINUTE).await;
    node.put("facts", json!([fact(1, START, "late", 5)])).await;
    node.land().await;
    while node.compact().await > 0 {}
    assert_eq!(plans(AS_KNOWN.up_to(taken_in)).await, whole, "merged with what landed, it keeps its ingest time");
    assert_eq!(plans(AS_KNOWN.up_to(taken_in - 1)).await, ["basic"; 4]);
    assert_eq!(plans(AS_KNOWN).await[3], "late");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_of_the_past_find_what_was_backfilled() {
    let node = TestNode::start(SHOP).await;
    node.put("facts", json!([fact(1, START, "now", 9)])).await;
    let batches = [node.batch("facts", &json!([fact(1, START - 2 * DAY, "then", 2)]))];
    node.backfill(node.backfill_of("facts", "a", &batches), &batches).await.expect("good rows");
    let at = node.read_at(&["user_facts:plan"], json!({"user_id": [1]}), START - DAY).await;
    assert_eq!(at.only(), "then");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_row_refuses_the_whole_backfill_and_the_first_are_named() {
    let node = TestNode::start(SHOP).await;
    let good = node.batch("facts", &json!([fact(1, START, "a", 1), fact(2, START, "b", 2)]));
    let bad = node.batch(
        "facts",
        &json!([fact(3, START, "c", 3), {"user_id": null, "happened": START, "plan": "d", "level": 1}]),
    );
    let late = node.batch("facts", &json!([fact(4, START + DAY, "e", 5)]));
    let batches = [good.clone(), bad, good, late];
    let frames = node.frames();
    let request = node.backfill_of("facts", "a", &batches);
    let refused = node.backfill(request.clone(), &batches).await.expect_err("rows are bad");
    assert_eq!((refused.code, refused.reason), (Code::InvalidArgument, "BAD_ROWS"), "{refused:?}");
    let places: Vec<&str> = refused.violations.iter().map(|wrong| wrong.path.as_str()).collect();
    assert_eq!(places, ["rows[3].key", "rows[6].happened"]);
    assert_eq!(node.frames(), frames, "nothing is in the log");
    assert_eq!(standing(&node, &request).await, Standing::Staged { rows: 0 }, "and nothing is staged");
    let found = node.one_trained("user_facts:plan", json!({"user_id": 1}), &[START], AS_KNOWN).await;
    assert_eq!(found, ["NOT_FOUND"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_bad_rows_are_counted_and_the_first_twenty_named() {
    let node = TestNode::start(SHOP).await;
    let rows: Json = (0..30).map(|row| fact(row, START + DAY, "early", row)).collect();
    let batches = [node.batch("facts", &rows), node.batch("facts", &rows)];
    let refused = node.backfill(node.backfill_of("facts", "a", &batches), &batches).await.expect_err("bad rows");
    assert_eq!(refused.metadata[0], ("bad_rows", "60".to_owned()));
    assert_eq!((refused.violations.len(), refused.violations[19].path.as_str()), (20, "rows[19].happened"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_backfill_again_changes_nothing() {
    let mut node = TestNode::start(SHOP).await;
    let batches = [node.batch("facts", &json!([fact(1, START, "gold", 2)]))];
    let request = node.backfill_of("facts", "a", &batches);
    let report = node.backfill(request.clone(), &batches).await.expect("good rows");
    let frame = report.frame.expect("it was taken in");
    for restarted in [false, true] {
        if restarted {
            node.restart().await;
        }
        assert_eq!(standing(&node, &request).await, Standing::TakenIn { frame });
        let refused = node.backfill(request.clone(), &batches).await.expect_err("it was taken in");
        assert_eq!((refused.code, refused.reason), (Code::FailedPrecondition, "BACKFILL_TAKEN_IN"));
        assert_eq!(node.frames(), frame);
    }
    let other = BackfillRequest { id: "b".to_owned(), ..request };
    assert_eq!(standing(&node, &other).await, Standing::Staged { rows: 0 }, "another one has another id");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_that_was_cut_off_goes_on_after_what_is_durable() {
    let mut node = TestNode::start_with(SHOP, small).await;
    let batches = many(&node, 40, 600);
    let request = node.backfill_of("facts", "a", &batches);
    let mut intake =
        node.use_cases().backfills.begin(&node.permit(Action::Write), request.clone()).await.expect("begun");
    let busy = node.use_cases().backfills.begin(&node.permit(Action::Write), request.clone()).await;
    assert_eq!(busy.expect_err("there is one at a time").reason, "BACKFILL_BUSY");
    for batch in &batches[..30] {
        intake.push(batch.clone()).await.expect("good rows");
    }
    drop(intake);
    // What is being staged when its client goes comes to its end by itself.
    node.restart().await;
    let Standing::Staged { rows: staged } = standing(&node, &request).await else { panic!("it was not taken in") };
    assert!((600..=18_000).contains(&staged) && staged.is_multiple_of(600), "{staged} rows are staged");

    let out_of_step = node.backfill(request.clone(), &batches).await.expect_err("they are staged");
    assert_eq!(out_of_step.reason, "BACKFILL_OUT_OF_STEP");
    let rest = BackfillRequest { first_row: staged, ..request.clone() };
    let from = usize::try_from(staged / 600).expect("few batches");
    let short = node.backfill(rest.clone(), &batches[from..35]).await.expect_err("some are missing");
    assert_eq!(short.reason, "BACKFILL_INCOMPLETE");
    let Standing::Staged { rows } = standing(&node, &request).await else { panic!("it was not taken in") };
    let from = usize::try_from(rows / 600).expect("few batches");
    let rest = BackfillRequest { first_row: rows, ..request };
    let report = node.backfill(rest, &batches[from..]).await.expect("good rows");
    assert_eq!((report.rows, report.views[0].rows), (24_000, 24_000));
    for user in [0, 17, 39] {
        let instants: Vec<i64> = (0..600).map(|hour| START - hour * HOUR).collect();
        let levels = node.one_trained("user_facts:level", json!({"user_id": user}), &instants, AS_KNOWN).await;
        assert!(levels.iter().enumerate().all(|(hour, level)| *level == hour.to_string()), "{levels:?}");
    }
    let left = std::fs::read_dir(node.data_directory().join("backfill")).expect("a directory");
    assert_eq!(left.count(), 0, "what was staged goes when it is history");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_hangs_up_before_it_is_taken_in_stops_it() {
    let node = TestNode::start_with(SHOP, small).await;
    let batches = many(&node, 20, 600);
    let request = node.backfill_of("facts", "a", &batches);
    let mut intake =
        node.use_cases().backfills.begin(&node.permit(Action::Write), request.clone()).await.expect("begun");
    for batch in &batches {
        intake.push(batch.clone()).await.expect("good rows");
    }
    let frames = node.frames();
    drop(intake.finish().await.expect("all rows are there"));
    // Its place is given back when it has ended.
    let report = loop {
        match standing(&node, &request).await {
            // It may have been taken in before that was noticed: then as a whole.
            Standing::TakenIn { .. } => break None,
            Standing::Staged { rows } => {
                assert_eq!(rows, request.rows, "all is staged");
                match node.backfill(BackfillRequest { first_row: rows, ..request.clone() }, &[]).await {
                    Ok(report) => break Some(report),
                    Err(error) => assert!(["BACKFILL_BUSY", "BACKFILL_TAKEN_IN"].contains(&error.reason), "{error:?}"),
                }
            }
        }
        tokio::task::yield_now().await;
    };
    assert!(report.is_none_or(|report| report.rows == 12_000));
    assert_eq!(node.frames(), frames + 1);
    let levels = node.one_trained("user_facts:level", json!({"user_id": 7}), &[START - 5 * HOUR], AS_KNOWN).await;
    assert_eq!(levels, ["5"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_whose_caller_s_credential_ends_is_not_taken_in_and_goes_on_by_another() {
    let node = TestNode::start_with(SHOP, small).await;
    let batches = many(&node, 20, 600);
    let request = node.backfill_of("facts", "a", &batches);
    let backfills = &node.use_cases().backfills;
    let (ann, permit) = writer(&node);
    let mut intake = backfills.begin(&permit, request.clone()).await.expect("begun");
    for batch in &batches {
        intake.push(batch.clone()).await.expect("good rows");
    }
    let frames = node.frames();
    ann.revoke();
    let refused = intake.finish().await.expect("all rows are there").done().await.expect_err("it is hers no more");
    assert_eq!((refused.code, refused.reason), (Code::Unauthenticated, "KEY_REVOKED"));
    assert_eq!(standing(&node, &request).await, Standing::Staged { rows: request.rows });
    assert_eq!(node.frames(), frames, "nothing was taken in");
    let (bob, permit) = writer(&node);
    let mut other = backfills.begin(&permit, node.backfill_of("facts", "b", &batches)).await.expect("begun");
    bob.revoke();
    assert_eq!(other.push(batches[0].clone()).await.expect_err("it is his no more").reason, "KEY_REVOKED");
    drop(other);

    let rest = BackfillRequest { first_row: request.rows, ..request };
    assert_eq!(node.backfill(rest, &[]).await.expect("it goes on").rows, 12_000);
    let (ann, permit) = writer(&node);
    ann.revoke();
    let online = node.use_cases().materialize.begin(&permit, "user_facts", None).await.expect("it was let in before");
    assert_eq!(online.done().await.expect_err("it is hers no more").reason, "KEY_REVOKED");
    let plan =
        async || node.read(&["user_facts:plan"], json!({"user_id": [7]})).await.column("user_facts__plan").remove(0);
    assert_eq!(plan().await, "NOT_FOUND");
    node.materialize("user_facts", None).await.expect("by somebody else");
    assert!(plan().await.starts_with("plan 7 0 "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_rows_within_the_range_of_event_times_are_taken() {
    let node = TestNode::start(SHOP).await;
    let batches = many(&node, 2, 10);
    let request = node.backfill_of("facts", "a", &batches);
    let (from, to) = (Some(START - 6 * HOUR), Some(START - 2 * HOUR));
    let report = node.backfill(BackfillRequest { from, to, ..request }, &batches).await.expect("good rows");
    assert_eq!((report.rows, report.views[0].rows), (8, 8));
    let instants: Vec<i64> = [8, 6, 4, 3, 2, 0].iter().map(|hour| START - hour * HOUR).collect();
    let levels = node.one_trained("user_facts:level", json!({"user_id": 1}), &instants, AS_KNOWN).await;
    assert_eq!(levels, ["NOT_FOUND=-1", "6", "4", "3", "3", "3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_may_override_the_known_time_of_its_source() {
    let node = TestNode::start(SHOP).await;
    let batches = [node.batch("facts", &json!([fact(1, START - DAY, "gold", 2)]))];
    let levels = async |at| node.one_trained("user_facts:level", json!({"user_id": 1}), &[at], AS_KNOWN).await;
    for (id, rule) in [("a", KnownTimeRule::Arrival), ("b", KnownTimeRule::Event { delay: 10 * MINUTE })] {
        let request = BackfillRequest { known_time: Some(rule.clone()), ..node.backfill_of("facts", id, &batches) };
        let report = node.backfill(request, &batches).await.expect("good rows");
        let known = match rule {
            KnownTimeRule::Arrival => report.ingest_time.expect("it was taken in"),
            _ => START - DAY + 10 * MINUTE,
        };
        assert_eq!(levels(known - 1).await, ["NOT_FOUND=-1"]);
        assert_eq!(levels(known).await, ["2"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_can_be_checked_without_being_written() {
    let node = TestNode::start(SHOP).await;
    let batches = many(&node, 2, 10);
    let request = BackfillRequest { validate_only: true, ..node.backfill_of("facts", "a", &batches) };
    let frames = node.frames();
    let report = node.backfill(request.clone(), &batches).await.expect("good rows");
    assert_eq!((report.outcome, report.frame, report.rows, report.views[0].rows), (Outcome::Valid, None, 20, 20));
    assert_eq!((node.frames(), standing(&node, &request).await), (frames, Standing::Staged { rows: 0 }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_is_brought_online_and_overwrites_nothing_newer() {
    let mut node = TestNode::start(SHOP).await;
    node.put("facts", json!([fact(1, START, "newer", 9), fact(2, START - 3 * DAY, "older", 1)])).await;
    let batches = [node.batch(
        "facts",
        &json!([
            fact(1, START - DAY, "then", 2),
            fact(2, START - DAY, "then", 3),
            fact(3, START - 2 * DAY, "first", 4),
            fact(3, START - DAY, "then", 5),
            fact(4, START + MINUTE, "soon", 6),
            fact(4, START - DAY, "then", 7)
        ]),
    )];
    let report = node.backfill(node.backfill_of("facts", "a", &batches), &batches).await.expect("good rows");
    let plans = async |node: &TestNode| {
        node.read(&["user_facts:plan"], json!({"user_id": [1, 2, 3, 4]})).await.column("user_facts__plan")
    };
    assert_eq!(plans(&node).await, ["newer", "older", "NOT_FOUND", "NOT_FOUND"], "nothing is online by itself");
    for view in VIEWS {
        let online = node.materialize(view, report.frame).await.expect("brought online");
        assert_eq!((online.rows, online.written), (6, 4), "{view}: two users are newer, one is also to come");
    }
    let expected = ["newer", "then", "then", "then"];
    assert_eq!(plans(&node).await, expected);
    let frames = node.frames();
    for view in VIEWS {
        assert_eq!(node.materialize(view, None).await.expect("brought online").written, 1, "what is to come");
    }
    assert_eq!((plans(&node).await, node.frames()), (expected.map(str::to_owned).to_vec(), frames + 2));
    node.restart().await;
    assert_eq!(plans(&node).await, expected);
    node.set_clock(START + MINUTE).await;
    assert_eq!(plans(&node).await, ["newer", "then", "then", "soon"]);
    let read = node.read(&["user_facts:plan"], json!({"user_id": [2]})).await;
    assert_eq!(read.event_times(), [Some(START - DAY)], "with the times that it had");
    assert_eq!(node.land().await, 4, "two rows in two views: what was brought online does not land again");
    // An answer as of now and a training set as of now are one.
    let trained = node.one_trained("user_facts:plan", json!({"user_id": 4}), &[START + MINUTE], AS_KNOWN).await;
    assert_eq!(trained, ["soon"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_online_or_keeps_no_history_is_not_brought_online() {
    let node = TestNode::start(SHOP).await;
    let refused = node.materialize("no_view", None).await.expect_err("there is no such view");
    assert_eq!(refused.reason, "VIEW_NOT_FOUND");
    node.apply(
        "apiVersion: hydrant/v1\nkind: FeatureView\nmetadata: {name: hidden}\n\
         spec: {entities: [user], source: facts, online: false, features: [{name: plan}]}\n---\n\
         apiVersion: hydrant/v1\nkind: FeatureView\nmetadata: {name: fleeting}\n\
         spec: {entities: [user], source: facts, offline: false, features: [{name: plan}]}\n",
    )
    .await;
    for (view, reason) in [("hidden", "VIEW_NOT_ONLINE"), ("fleeting", "VIEW_WITHOUT_HISTORY")] {
        assert_eq!(node.materialize(view, None).await.expect_err("refused").reason, reason);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_begins_anew_where_its_views_were_changed_and_has_every_view_that_was_applied_before_it() {
    let node = TestNode::start_with(SHOP, small).await;
    let batches = many(&node, 20, 600);
    let request = node.backfill_of("facts", "a", &batches);
    let mut intake =
        node.use_cases().backfills.begin(&node.permit(Action::Write), request.clone()).await.expect("begun");
    for batch in &batches {
        intake.push(batch.clone()).await.expect("good rows");
    }
    node.apply(
        "apiVersion: hydrant/v1\nkind: FeatureView\nmetadata: {name: more_facts}\n\
         spec: {entities: [user], source: facts, features: [{name: level}]}\n",
    )
    .await;
    let changed = intake.finish().await.expect("all rows are there").done().await.expect_err("there is a view more");
    assert_eq!((changed.code, changed.reason), (Code::Aborted, "DEFINITIONS_CHANGED"));
    assert_eq!(standing(&node, &request).await, Standing::Staged { rows: 0 });
    node.backfill(request, &batches).await.expect("good rows");
    let levels = node.one_trained("more_facts:level", json!({"user_id": 7}), &[START - 5 * HOUR], AS_KNOWN).await;
    assert_eq!(levels, ["5"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_whose_views_keep_no_history_is_refused() {
    let node = TestNode::start(SHOP).await;
    node.apply(
        "apiVersion: hydrant/v1\nkind: Source\nmetadata: {name: pings}\n\
         spec: {type: push, eventTime: at, columns: [{name: user_id, type: int64}, {name: at, type: timestamp}]}\n",
    )
    .await;
    let batches = [node.batch("pings", &json!([{"user_id": 1, "at": START}]))];
    let refused = node.backfill(node.backfill_of("pings", "a", &batches), &batches).await.expect_err("no view");
    assert_eq!((refused.code, refused.reason), (Code::FailedPrecondition, "SOURCE_WITHOUT_HISTORY"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_training_set_waits_for_what_the_log_has_taken_in_and_never_reads_half_of_it() {
    let briefly = |config: &mut Config| config.history.patience = Span(std::time::Duration::from_millis(50));
    let node = TestNode::start_with(SHOP, briefly).await;
    let log = node.node().log();
    // Nobody can do what this asks for.
    let record = AppendRequest::of_control(Bytes::from_static(b"no record"), None, u64::MAX);
    let appended = log.append(record).await.expect("the log takes it");
    let spine = crate::support::table::spine_at(&json!({"user_id": 1}), &[START]);
    let refused = node.try_train(&["user_facts:plan"], &spine, AS_KNOWN).await.expect_err("it is pending");
    assert_eq!((refused.code, refused.reason), (Code::Unavailable, "BACKFILL_PENDING"));
    assert_eq!(node.back_up("b").await.expect_err("it is pending").reason, "BACKFILL_PENDING");
    log.settle(appended.frame);
    node.train(&["user_facts:plan"], &spine, AS_KNOWN).await;
    node.back_up("b").await.expect("nothing is pending");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_that_can_not_become_history_is_given_up_and_cut_offs_are_true_again() {
    let briefly = |config: &mut Config| config.history.patience = Span(std::time::Duration::from_millis(50));
    let mut node = TestNode::start_with(SHOP, briefly).await;
    let batches = [node.batch("facts", &json!([{"user_id": 1, "happened": START - HOUR, "plan": "gold"}]))];
    let done = node.backfill(node.backfill_of("facts", "sound", &batches), &batches).await.expect("good rows");
    let taken_in = done.frame.expect("it was taken in");
    let refused = node.abandon(taken_in).await.expect_err("it is history");
    assert_eq!((refused.code, refused.reason), (Code::NotFound, "BACKFILL_NOT_FOUND"));

    // One whose files have gone after the log took it in.
    let frames = node.node().log().read_from(taken_in - 1, 1 << 20).expect("the log has it");
    let record = frames[0].control.clone().expect("a control record");
    let id = TakeIn::decode(&record).expect("of a backfill").backfill;
    let lost = String::from_utf8(record.to_vec()).expect("JSON").replace(&id, &"0123456789abcdef".repeat(2));
    let lost = AppendRequest::of_control(Bytes::from(lost), None, u64::MAX);
    let lost = node.node().log().append(lost).await.expect("the log takes it");
    let spine = crate::support::table::spine_at(&json!({"user_id": 1}), &[START]);
    let before = AS_KNOWN.up_to(lost.ingest_time - 1);
    let first = node.train(&["user_facts:plan"], &spine, before).await;
    let refused = node.try_train(&["user_facts:plan"], &spine, AS_KNOWN).await.expect_err("it is pending");
    assert_eq!((refused.code, refused.reason), (Code::Unavailable, "BACKFILL_PENDING"));
    let told = refused.metadata.iter().find(|(key, _)| *key == "frame").map(|(_, frame)| frame.clone());
    assert_eq!(told, Some(lost.frame.to_string()));

    node.abandon(lost.frame).await.expect("nothing of it is history");
    for _ in 0..2 {
        let refused = node.abandon(lost.frame).await.expect_err("it waits no more");
        assert_eq!(refused.reason, "BACKFILL_NOT_FOUND");
        let again = node.train(&["user_facts:plan"], &spine, before).await;
        assert_eq!(again.report.content_hash, first.report.content_hash);
        let now = node.train(&["user_facts:plan"], &spine, AS_KNOWN).await;
        assert_eq!(now.report.content_hash, first.report.content_hash, "none of it was loaded");
        assert!(node.node().log().unsettled().is_empty());
        node.restart().await;
    }
}
