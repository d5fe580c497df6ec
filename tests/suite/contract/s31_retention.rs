//! Contract, section 31: for how long rows are kept.

use std::path::Path;
use std::time::{Duration, Instant};

use hydrant::backfill::BackfillRequest;
use hydrant::config::Span;
use hydrant::error::Code;
use hydrant::history::sets::StoredRequest;
use hydrant::history::{Cause, Mode, WhyLookup, WhyRequest};
use hydrant::registry::catalog::retention_horizon;
use hydrant::registry::definition::Kind;
use hydrant::registry::keeping::{HeldBack, Keeping, RowsThatGo};
use hydrant::serving::OnlineRequest;
use hydrant::tenancy::Action;
use hydrant_storage::history::RowsTooOld;
use hydrant_storage::order::Micros;
use hydrant_storage::value::{DataType, ScalarType, Value};
use serde_json::{Value as Json, json};

use crate::support::node::{AS_KNOWN, HOUR, MINUTE, START, TestNode, definitions_of, patience};
use crate::support::sets::{set_name, stored};
use crate::support::table::{column, spine, spine_at};

const TTL: Micros = HOUR;
const RETENTION: Micros = 4 * HOUR;
/// How much later than that rows go at the latest.
const STEP: Micros = RETENTION / 20;
const USERS: i64 = 12;
/// Minutes between two rows of a user.
const EVERY: i64 = 10;

fn definitions(ttl: &str, retention: &str) -> String {
    format!(
        "
apiVersion: hydrant/v1
kind: Entity
metadata: {{name: user}}
spec: {{joinKeys: [{{name: user_id, type: int64}}]}}
---
apiVersion: hydrant/v1
kind: Source
metadata: {{name: clicks}}
spec:
  type: push
  eventTime: at
  knownTime: event
  columns:
    - {{name: user_id, type: int64}}
    - {{name: at, type: timestamp}}
    - {{name: page, type: string}}
    - {{name: seconds, type: int32}}
---
apiVersion: hydrant/v1
kind: FeatureView
metadata: {{name: pages}}
spec: {{entities: [user], source: clicks, {ttl} {retention} features: [{{name: page}}, {{name: seconds}}]}}
---
apiVersion: hydrant/v1
kind: FeatureService
metadata: {{name: model}}
spec: {{features: [pages]}}
"
    )
}

fn kept() -> String {
    definitions("ttl: 1h,", "retention: 4h,")
}

fn page(user: i64, at: Micros) -> String {
    format!("page-of-{user}-at-{}", (at - START) / MINUTE)
}

fn click(user: i64, at: Micros, page: &str) -> Json {
    json!({"user_id": user, "at": at, "page": page, "seconds": user})
}

/// A row of each user every ten minutes, over so many hours until the start.
fn clicks(hours: i64) -> Json {
    let minutes = (0..=hours * 60).step_by(EVERY as usize);
    let of_minute = |ago: i64| {
        let at = START - ago * MINUTE;
        (0..USERS).map(move |user| click(user, at, &page(user, at)))
    };
    minutes.flat_map(of_minute).collect()
}

async fn start(definitions: &str) -> TestNode {
    // What is out of history is off the disk at once.
    TestNode::start_with(definitions, |config| config.compaction.retention = Span(Duration::ZERO)).await
}

/// Rows of six hours in history, in files of several runs.
async fn with_history(definitions: &str) -> TestNode {
    let node = start(definitions).await;
    for half in [0, 1] {
        let rows = clicks(6).as_array().expect("rows").iter().skip(half).step_by(2).cloned().collect();
        node.put("clicks", rows).await;
        node.land().await;
    }
    node
}

async fn take_out(node: &TestNode) -> u64 {
    let done = node.node().compaction().settle().await.expect("it is running");
    assert_eq!(done.failures, 0);
    done.rows_too_old
}

/// The rows that the newest version of a view's table has, all versions of the view together.
fn event_times(node: &TestNode) -> Vec<Micros> {
    let mut times = Vec::new();
    parquet_files(&node.data_directory().join("history/default/pages"), &mut |path| {
        let file = std::fs::File::open(path).expect("readable");
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet");
        for batch in reader.build().expect("a reader") {
            let batch = batch.expect("rows");
            let column = batch.column_by_name("_event_time").expect("every row has one");
            let column = arrow_cast::cast(column, &arrow_schema::DataType::Int64).expect("microseconds");
            let column = arrow_array::cast::AsArray::as_primitive::<arrow_array::types::Int64Type>(&column);
            times.extend(column.values().iter().copied());
        }
    });
    times.sort_unstable();
    times
}

fn parquet_files(directory: &Path, each: &mut dyn FnMut(&Path)) {
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            parquet_files(&path, each);
        } else if path.extension().is_some_and(|extension| extension == "parquet")
            && !path.to_string_lossy().contains("_delta_log")
        {
            each(&path);
        }
    }
}

fn key(user: i64) -> Json {
    json!({ "user_id": user })
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_too_old_leave_history_and_what_still_counts_is_answered_as_before() {
    let mut node = with_history(&kept()).await;
    assert_eq!(event_times(&node).first(), Some(&(START - 6 * HOUR)));
    let instants: Vec<Micros> = (0..=6 * 60).step_by(7).map(|minutes| START - minutes * MINUTE).collect();
    let before = node.one_trained("pages:page", key(3), &instants, AS_KNOWN).await;
    assert!(take_out(&node).await > 0, "rows of the first two hours are older than four");
    for _ in 0..2 {
        let horizon = *event_times(&node).first().expect("rows are left");
        assert!(horizon > node.now() - RETENTION - STEP - EVERY * MINUTE, "older rows are on disk: {horizon}");
        let after = node.one_trained("pages:page", key(3), &instants, AS_KNOWN).await;
        for ((at, before), after) in instants.iter().zip(&before).zip(&after) {
            if *at >= node.now() - RETENTION + TTL {
                assert_eq!(after, before, "{at}");
            } else if *at < horizon {
                assert_eq!(after, "NOT_FOUND", "{at}");
            }
        }
        // As often as is asked, nothing more goes until time has passed.
        assert_eq!(take_out(&node).await, 0);
        node.restart().await;
    }
    let left = event_times(&node).len();
    node.advance(10 * HOUR).await;
    assert_eq!(take_out(&node).await as usize, left);
    assert!(event_times(&node).is_empty());
    // Life goes on.
    let now = node.now();
    node.put("clicks", json!([click(3, now, "new")])).await;
    node.land().await;
    assert_eq!(take_out(&node).await, 0);
    assert_eq!(node.one_trained("pages:page", key(3), &[now], AS_KNOWN).await, ["new"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn online_nothing_is_left_of_a_row_that_is_too_old() {
    let node = start(&kept()).await;
    node.put("clicks", json!([click(1, START, "p"), click(2, START, "q")])).await;
    node.delete("pages", json!({"user_id": [2]}), START + MINUTE).await;
    node.set_clock(START + RETENTION).await;
    // A row that is exactly as old is kept, and has expired.
    let expired = node.read(&["pages:page"], json!({"user_id": [1, 2]})).await;
    assert_eq!(expired.column("pages__page"), ["EXPIRED", "NOT_FOUND"]);
    assert_eq!(expired.event_times(), [Some(START), None]);
    node.set_clock(START + RETENTION + STEP + 2 * MINUTE).await;
    node.land().await;
    assert!(take_out(&node).await > 0);
    let patience: Instant = patience();
    while node.one("pages:page", key(1)).await != "NOT_FOUND" {
        assert!(Instant::now() < patience, "the row is still there");
        tokio::task::yield_now().await;
    }
    // A later row of it is a row like any other.
    let now = node.now();
    node.put("clicks", json!([click(1, now, "new")])).await;
    assert_eq!(node.one("pages:page", key(1)).await, "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_training_set_says_where_rows_are_gone_that_it_would_have_had() {
    let mut node = with_history(&kept()).await;
    let rows = |from: i64, to: i64| -> Json {
        (from..to).map(|ago| json!({"user_id": ago % USERS, "at": START - ago * MINUTE})).collect()
    };
    let (early, late) = (spine(&rows(0, 350)), spine(&rows(0, 100)));
    let saved_early = node.save("early", stored(node.store(&early).await, &["model"], AS_KNOWN)).await;
    let saved_late = node.save("late", stored(node.store(&late).await, &["model"], AS_KNOWN)).await;
    let before = node.train(&["model"], &early, AS_KNOWN).await;
    assert_eq!((before.report.tables[0].lacks_before, before.report.warning()), (None, None));
    assert!(take_out(&node).await > 0);

    for _ in 0..2 {
        let after = node.train(&["model"], &early, AS_KNOWN).await;
        let lacks = after.report.tables[0].lacks_before.expect("rows are gone");
        assert!(lacks <= node.now() - RETENTION + TTL && lacks > node.now() - RETENTION - STEP + TTL);
        let warning = after.report.warning().expect("it is said");
        assert!(warning.contains("pages") && warning.contains("retention"), "{warning}");
        assert_eq!(node.train(&["model"], &late, AS_KNOWN).await.report.tables[0].lacks_before, None);

        let get = |name: &str| {
            node.sets().get(&node.permit(Action::ReadHistory), &set_name(name), Some(1)).expect("it is kept")
        };
        let told = get("early").too_old;
        assert_eq!(told.iter().map(|rows| (rows.view.as_str(), rows.view_version)).collect::<Vec<_>>(), [("pages", 1)]);
        assert_eq!(told[0].before + TTL, lacks);
        assert_eq!(get("early").content_hash, saved_early.content_hash);
        let (early, late) = (node.verify("early", 1).await, node.verify("late", 1).await);
        assert!(!early.is_same && late.is_same, "only one has lost values");
        assert_eq!(late.content_hash, saved_late.content_hash);
        node.restart().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_stay_as_long_as_a_version_of_a_service_may_need_them() {
    let node = with_history(&definitions("ttl: 5h,", "retention: 5h,")).await;
    // The first version of the service froze a ttl of five hours.
    node.apply(&kept()).await;
    take_out(&node).await;
    let first = *event_times(&node).first().expect("rows");
    assert!(first <= START - 5 * HOUR + EVERY * MINUTE, "{first}");
    let read = node.one_trained("pages:page", key(1), &[START - HOUR], AS_KNOWN).await;
    assert_eq!(read, [page(1, START - HOUR)]);
    let model = "model".parse().expect("a name");
    let etag = String::new();
    node.use_cases()
        .registry
        .delete_version(&node.permit(Action::ChangeDefinitions), &model, 1, etag)
        .await
        .expect("deleted");
    assert!(take_out(&node).await > 0, "nobody needs them any more");
    assert!(*event_times(&node).first().expect("rows") >= START - RETENTION - STEP - EVERY * MINUTE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_of_a_view_lacks_the_same_rows_and_says_so() {
    let node = with_history(&kept()).await;
    assert!(take_out(&node).await > 0);
    let early = spine_at(&key(3), &[START - 5 * HOUR]);
    let lacks = |of: &crate::support::node::Training| of.report.tables[0].lacks_before.expect("rows are gone");
    let before = lacks(&node.train(&["pages:page"], &early, AS_KNOWN).await);
    node.apply(&kept().replace(", {name: seconds}", "")).await;
    node.built().await;
    let after = node.train(&["pages:page"], &early, AS_KNOWN).await;
    assert_eq!((after.report.tables[0].view_version, lacks(&after)), (2, before));
    // Of both versions rows go on to go.
    node.advance(10 * HOUR).await;
    take_out(&node).await;
    assert!(event_times(&node).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_was_superseded_does_not_come_back_where_the_later_one_is_gone_first() {
    let node = start(&kept()).await;
    let old = START - RETENTION - HOUR;
    // The later one lies in an earlier file, and the earlier one has not even landed.
    node.put("clicks", json!([click(1, old + MINUTE, "later"), click(2, START, "young")])).await;
    node.land().await;
    let at = [old + 2 * MINUTE];
    assert_eq!(node.one_trained("pages:page", key(1), &at, AS_KNOWN).await, ["later"]);
    assert!(take_out(&node).await > 0);
    node.put("clicks", json!([click(1, old, "earlier")])).await;
    for _ in 0..2 {
        assert_eq!(node.one_trained("pages:page", key(1), &at, AS_KNOWN).await, ["NOT_FOUND"]);
        assert_eq!(node.one_at("pages:page", key(1), at[0]).await, "NOT_FOUND");
        node.land().await;
    }
    // It came late, and goes all the same.
    assert_eq!(take_out(&node).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retention_that_is_raised_holds_at_once_and_takes_back_nothing_that_was_said() {
    let node = with_history(&kept()).await;
    assert!(take_out(&node).await > 0);
    let early = spine_at(&key(3), &[START - 5 * HOUR]);
    let lacks = node.train(&["pages:page"], &early, AS_KNOWN).await.report.tables[0].lacks_before;
    assert!(lacks.is_some());
    node.apply(&definitions("ttl: 1h,", "retention: 400d,")).await;
    node.advance(10 * HOUR).await;
    assert_eq!(take_out(&node).await, 0, "all that is left is young enough");
    // One that is older than that goes, and what was gone before stays said.
    node.put("clicks", json!([click(1, START - 500 * 24 * HOUR, "ancient")])).await;
    node.land().await;
    assert_eq!(take_out(&node).await, 1);
    assert_eq!(node.train(&["pages:page"], &early, AS_KNOWN).await.report.tables[0].lacks_before, lacks);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_view_that_was_deleted_go_too() {
    // A version that was made before the retention was declared goes by it too.
    let mut node = with_history(&definitions("ttl: 1h,", "")).await;
    node.apply(&kept().replace(", {name: seconds}", "")).await;
    node.built().await;
    let permit = node.permit(Action::ChangeDefinitions);
    for (kind, name) in [(Kind::FeatureService, "model"), (Kind::FeatureView, "pages")] {
        let name = name.parse().expect("a name");
        node.use_cases().registry.delete(&permit, kind, &name, String::new()).await.expect("deleted");
    }
    drop(permit);
    node.restart().await;
    node.advance(RETENTION + STEP).await;
    take_out(&node).await;
    assert!(event_times(&node).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_not_kept_for_a_shorter_time_than_they_count() {
    for (ttl, told) in [("", "set a ttl too"), ("ttl: 5h,", "at least the ttl")] {
        let node = TestNode::start(&definitions(ttl, "")).await;
        let refused = node.try_apply(&definitions(ttl, "retention: 4h,")).await.expect_err("it is too short");
        assert_eq!(refused.code, Code::InvalidArgument);
        let text = format!("{refused:?}");
        assert!(text.contains(told) && text.contains("spec.retention"), "{text}");
    }
    let node = TestNode::start(&kept()).await;
    let one = node.train(&["pages:page"], &spine_at(&key(1), &[START]), AS_KNOWN).await;
    assert_eq!(one.report.tables[0].lacks_before, None);
}

/// What an answer says that the view may lack; now, or at an instant.
async fn told_lacking(node: &TestNode, at: Option<Micros>) -> Option<Micros> {
    let question = node.question(&["pages:page"], &json!({"user_id": [3]}));
    let answer = node.get(OnlineRequest { at, ..question }).await.expect("it is answered");
    answer.0.provenance.views[0].lacks_before
}

/// Why a page is what it was at an instant.
async fn explained(node: &TestNode, at: Micros) -> (Cause, WhyLookup) {
    let user = column(DataType::Scalar(ScalarType::Int64), &[Value::Int64(3)]);
    let request = WhyRequest {
        services: Vec::new(),
        features: vec!["pages:page".to_owned()],
        columns: Vec::new(),
        entities: vec![("user_id".to_owned(), user)],
        at,
        mode: Mode::AsKnown,
        cutoff: None,
        losers: 10,
    };
    let why = node.use_cases().history.why(&node.permit(Action::ReadOnline), request).await.expect("it is explained");
    (why.cells[0].cause, why.lookups[0].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_online_answer_and_an_explanation_say_where_rows_are_gone_that_counted() {
    let mut node = with_history(&kept()).await;
    let early = START - 5 * HOUR;
    assert_eq!(told_lacking(&node, None).await, None);
    assert_eq!(explained(&node, early).await.0, Cause::Written);
    assert!(take_out(&node).await > 0);
    let trained = node.train(&["pages:page"], &spine_at(&key(3), &[early]), AS_KNOWN).await;
    let whole_from = trained.report.tables[0].lacks_before.expect("rows are gone");
    for _ in 0..2 {
        assert_eq!(node.one_at("pages:page", key(3), early).await, "NOT_FOUND");
        assert_eq!(told_lacking(&node, Some(early)).await, Some(whole_from), "as a training set says it");
        assert_eq!(told_lacking(&node, Some(whole_from - 1)).await, Some(whole_from));
        assert_eq!(told_lacking(&node, Some(whole_from)).await, None);
        assert_eq!(told_lacking(&node, None).await, None, "what counts now is there");
        let (cause, lookup) = explained(&node, early).await;
        assert_eq!((cause, lookup.lacks_before, lookup.winner), (Cause::PerhapsGone, Some(whole_from), None));
        let (cause, lookup) = explained(&node, whole_from).await;
        assert_eq!((cause, lookup.lacks_before), (Cause::Written, None));
        node.restart().await;
    }
    // A view that keeps all its rows lacks none, however long ago.
    let node = with_history(&definitions("ttl: 1h,", "")).await;
    assert_eq!(told_lacking(&node, Some(START - 500 * 24 * HOUR)).await, None);
    assert_eq!(explained(&node, START - 500 * 24 * HOUR).await.0, Cause::NoneCounts);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_history_keeps_the_online_store_keeps_however_long_ago_it_could_have_gone() {
    let node = start(&kept()).await;
    node.put("clicks", json!([click(3, START, "p")])).await;
    node.land().await;
    node.set_clock(START + RETENTION + STEP + 2 * MINUTE).await;
    // The sweep has looked at it, which makes it a stub once it has expired.
    let snapshot = node.use_cases().registry.snapshot();
    let of = &snapshot.tenant(&"default".parse().expect("a name")).expect("it is there").views["pages"];
    let is_stub = || {
        let partitions = node.use_cases().partitions.handles().iter();
        let mut views = partitions.map(|partition| partition.view().expect("it is open"));
        views.any(|view| !view.stubs((of.tenant, of.id), None, 1, |_| true).expect("it is read").is_empty())
    };
    let patience: Instant = patience();
    while !is_stub() {
        assert!(Instant::now() < patience, "the row is no stub");
        tokio::task::yield_now().await;
    }
    // Compaction has not come to it before the view keeps all rows again.
    node.apply(&definitions("ttl: 1h,", "")).await;
    assert_eq!(take_out(&node).await, 0);
    assert_eq!(told_lacking(&node, Some(START)).await, None);
    assert_eq!(node.one_at("pages:page", key(3), START).await, "p");
}

/// How the plan of definitions says that rows are kept otherwise, by the text of each difference.
fn planned(node: &TestNode, definitions: &str) -> Vec<(String, Keeping)> {
    let permit = node.permit(Action::ReadDefinitions);
    let plan = node.use_cases().registry.plan(&permit, &definitions_of(definitions)).expect("they are good");
    let differences = plan.changes.into_iter().flat_map(|change| change.differences);
    differences.filter_map(|difference| Some((difference.text, difference.keeping?))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ttl_that_is_raised_after_rows_went_is_planned_as_what_it_is_and_reads_of_now_tell_it() {
    let node = with_history(&kept()).await;
    assert!(take_out(&node).await > 0);
    let lacking = node.train(&["pages:page"], &spine_at(&key(3), &[START - 5 * HOUR]), AS_KNOWN).await;
    let gone_before = lacking.report.tables[0].lacks_before.expect("rows are gone") - TTL;
    let longer = definitions("ttl: 10h,", "retention: 10h,");
    let back = |ttl: Micros| Keeping::ComesBack { ttl: Some(ttl) };
    let expected = [
        ("ttl: 1h -> 10h".to_owned(), back(10 * HOUR)),
        ("retention: 4h -> 10h, then rows are gone for good".to_owned(), back(10 * HOUR)),
    ];
    assert_eq!(planned(&node, &longer), expected);
    let described = |node: &TestNode| {
        let (permit, name) = (node.permit(Action::ReadDefinitions), "pages".parse().expect("a name"));
        node.use_cases().registry.get(&permit, Kind::FeatureView, &name).expect("it is there")
    };
    assert_eq!(described(&node).gone_before, Some(gone_before));
    assert_eq!(told_lacking(&node, None).await, None);
    node.apply(&longer).await;
    node.refilled().await;
    assert_eq!(told_lacking(&node, None).await, Some(gone_before + 10 * HOUR), "rows would count now that are gone");
    node.set_clock(gone_before + 10 * HOUR).await;
    assert_eq!(told_lacking(&node, None).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_of_a_shorter_retention_tells_what_goes_what_is_held_back_and_who_loses() {
    let node = with_history(&definitions("ttl: 5h,", "")).await;
    let early = spine(&json!([{"user_id": 1, "at": START - 5 * HOUR - 30 * MINUTE}]));
    let late = spine(&json!([{"user_id": 1, "at": START}]));
    for (name, spine) in [("early", &early), ("late", &late)] {
        let request = stored(node.store(spine).await, &["model"], AS_KNOWN);
        // With statuses a set may change at any instant.
        node.save(name, StoredRequest { with_status: false, with_event_time: false, ..request }).await;
    }
    let [(text, Keeping::Goes(rows))] = <[_; 1]>::try_from(planned(&node, &kept())).expect("one difference") else {
        panic!("rows go");
    };
    assert_eq!(text, "retention: for ever -> 4h, then rows are gone for good");
    let (declared, held) = (retention_horizon(node.now(), RETENTION), retention_horizon(node.now(), 5 * HOUR));
    let held_back = vec![HeldBack { service: "model@1".to_owned(), view_version: 1, ttl: Some(5 * HOUR) }];
    let expected = RowsThatGo { declared_before: declared, versions: vec![(1, Some(held))], held_back };
    assert_eq!(rows, expected);

    let version = node.catalog().views["pages"].clone();
    let (history, permit) = (node.use_cases().history.clone(), node.permit(Action::ReadDefinitions));
    let about = async |before| {
        let told = history.rows_before(&permit, &[(version.clone(), before)], &mut 1_000).await;
        told.expect("it is told").expect("few files")
    };
    let all = event_times(&node);
    assert_eq!((about(None).await.about, about(None).await.of), (0, all.len() as u64));
    for before in [START - 7 * HOUR, held, declared, START + 1] {
        let go = all.iter().filter(|time| **time < before).count() as i64;
        let told = about(Some(before)).await.about as i64;
        assert!((told - go).abs() <= 2 * USERS, "{told} of {go}");
    }
    let (tenant, view) = ("default".parse().expect("a name"), "pages".parse().expect("a name"));
    let losing = node.sets().would_lose(&RowsTooOld { tenant, view, version: 1, before: held });
    assert_eq!(losing, ["early@1"]);

    node.apply(&kept()).await;
    let name = "pages".parse().expect("a name");
    let described = node.use_cases().registry.get(&permit, Kind::FeatureView, &name).expect("it is there");
    assert_eq!((described.held_back, described.gone_before), (rows.held_back, None));
    let shorter = planned(&node, &definitions("ttl: 1h,", "retention: 3h,"));
    let said_once = "retention: 4h -> 3h, then rows are gone for good";
    assert!(matches!(&shorter[..], [(text, Keeping::Goes(_))] if text == said_once), "{shorter:?}");
    let for_ever = planned(&node, &definitions("ttl: 1h,", ""));
    assert_eq!(for_ever, [("retention: 4h -> for ever".to_owned(), Keeping::ComesBack { ttl: Some(TTL) })]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_come_too_old_are_counted() {
    let node = start(&kept()).await;
    let old = START - RETENTION;
    let rows = json!([click(1, old - 1, "too old"), click(1, old + MINUTE, "just"), click(2, START, "new")]);
    assert_eq!(node.put("clicks", rows.clone()).await.views[0].too_old, 1);
    let batches = [node.batch("clicks", &rows)];
    let request = node.backfill_of("clicks", "a", &batches);
    for validate_only in [true, false] {
        let request = BackfillRequest { validate_only, ..request.clone() };
        let report = node.backfill(request, &batches).await.expect("good rows");
        assert_eq!(report.views[0].too_old, 1);
    }
    node.apply(&definitions("ttl: 1h,", "")).await;
    assert_eq!(node.put("clicks", rows).await.views[0].too_old, 0);
}
