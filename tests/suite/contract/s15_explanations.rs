//! Contract, section 15: why values are what they are, and how training sets are made.

use hydrant::error::{Code, Result};
use hydrant::history::{Cause, HistoricalRequest, Mode, Rule, Why, WhyRequest};
use hydrant::tenancy::Action;
use hydrant_storage::value::{DataType, ScalarType, Value};
use serde_json::json;

use super::{SHOP, audit};
use crate::support::node::{AS_KNOWN, FINAL, HOUR, MINUTE, SECOND, START, TestNode};
use crate::support::table::{column, plain, shown, spine};

const USER: DataType = DataType::Scalar(ScalarType::Int64);

fn asked(features: &[&str], at: i64, mode: Mode) -> WhyRequest {
    WhyRequest {
        services: Vec::new(),
        features: features.iter().map(|feature| (*feature).to_owned()).collect(),
        columns: Vec::new(),
        entities: vec![("user_id".to_owned(), column(USER, &[Value::Int64(1)]))],
        at,
        mode,
        cutoff: None,
        losers: 10,
    }
}

async fn why(node: &TestNode, request: WhyRequest) -> Result<Why> {
    node.use_cases().history.why(&node.permit(Action::ReadOnline), request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_explained_by_the_row_that_counts_and_each_that_lost_by_its_rule() {
    let node = TestNode::start(SHOP).await;
    node.set_clock(START + HOUR).await;
    let put = |rows| node.put("audits", rows);
    put(json!([audit(1, START, START, "older")])).await;
    put(json!([audit(1, START + MINUTE, START + MINUTE, "known before")])).await;
    put(json!([audit(1, START + MINUTE, START + 2 * MINUTE, "earlier in the log")])).await;
    let counts =
        node.put_once("audits", json!([audit(1, START + MINUTE, START + 2 * MINUTE, "counts")]), "desk", 7).await;
    let counts = counts.expect("taken");
    put(json!([audit(1, START + MINUTE + SECOND, START + 30 * MINUTE, "known later")])).await;
    put(json!([audit(1, START + 20 * MINUTE, START + 20 * MINUTE, "happens later")])).await;
    let cutoff = node.now();
    node.set_clock(START + 2 * HOUR).await;
    put(json!([audit(1, START + 3 * MINUTE, START + 3 * MINUTE, "after the cut-off")])).await;
    let rules = |why: &Why| why.lookups[0].losers.iter().map(|lost| lost.rule).collect::<Vec<_>>();
    for is_landed in [false, true] {
        if is_landed {
            assert!(node.land().await > 0);
        }
        let request =
            WhyRequest { cutoff: Some(cutoff), ..asked(&["user_audits:verdict"], START + 10 * MINUTE, Mode::AsKnown) };
        let told = why(&node, request.clone()).await.expect("explained");
        assert_eq!((plain(&told.cells[0].value), told.cells[0].cause), ("counts".to_owned(), Cause::Written));
        let winner = told.lookups[0].winner.as_ref().expect("a row counts");
        assert_eq!(winner.version.event_time, START + MINUTE);
        assert_eq!((Some(winner.version.position.frame), winner.version.position.ordinal), (counts.frame, 0));
        assert_eq!((winner.has_landed, winner.deleted, winner.is_expired), (is_landed, false, false));
        assert_eq!(winner.revision, told.revision);
        // The log still has the request.
        assert_eq!(winner.sent_by.map(|stamp| stamp.sequence), Some(7));
        // Nearest to ten minutes after the start; of two as near the greater.
        let expected = [
            Rule::AfterCutoff,
            Rule::NotYetKnown,
            Rule::EarlierPosition,
            Rule::SmallerKnownTime,
            Rule::LaterThanInstant,
            Rule::SmallerEventTime,
        ];
        assert_eq!(rules(&told), expected[..]);
        assert_eq!(told.lookups[0].rows, 7);
        let few = why(&node, WhyRequest { losers: 2, ..request.clone() }).await.expect("explained");
        assert_eq!((rules(&few), few.lookups[0].rows), (expected[..2].to_vec(), 7));
        // As a final training set has it, the correction counts.
        let told = why(&node, WhyRequest { mode: Mode::Final, ..request }).await.expect("explained");
        assert_eq!(plain(&told.cells[0].value), "known later");
        let told =
            why(&node, asked(&["user_audits:verdict"], START + 10 * MINUTE, Mode::AsKnown)).await.expect("explained");
        assert_eq!(plain(&told.cells[0].value), "after the cut-off");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_status_is_explained() {
    let node = TestNode::start(SHOP).await;
    node.put("facts", json!([{"user_id": 1, "happened": START - 2 * HOUR, "plan": null, "level": 3}])).await;
    // The value, or the status and the default that stands in, and the cause.
    let cell = async |feature: &str, at: i64, user: Value| {
        let entities = vec![("user_id".to_owned(), column(USER, &[user]))];
        let told =
            why(&node, WhyRequest { entities, ..asked(&[feature], at, Mode::AsKnown) }).await.expect("explained");
        let cell = &told.cells[0];
        assert_eq!(cell.is_default, cell.status.takes_default() && !matches!(cell.value, Value::Null));
        (shown(&cell.value, cell.status.as_str()), cell.cause)
    };
    let one = || Value::Int64(1);
    let is = |shown: &str, cause| (shown.to_owned(), cause);
    assert_eq!(cell("user_facts:plan", START, one()).await, is("NULL", Cause::Written));
    assert_eq!(cell("user_facts:level", START, one()).await, is("3", Cause::Written));
    assert_eq!(cell("user_facts:level", START, Value::Int64(2)).await, is("NOT_FOUND=-1", Cause::NoRow));
    assert_eq!(cell("user_facts:plan", START - 3 * HOUR, one()).await, is("NOT_FOUND", Cause::NoneCounts));
    assert_eq!(cell("user_facts:plan", START, Value::Null).await, is("NOT_FOUND", Cause::NullKey));
    // To the microsecond.
    let last = START - HOUR;
    assert_eq!(cell("recent_facts:plan", last, one()).await, is("NULL", Cause::Written));
    assert_eq!(cell("recent_facts:plan", last + 1, one()).await, is("EXPIRED=free", Cause::Expired));
    let grown = SHOP.replace("{name: level, default: -1}]", "{name: level, default: -1}, {name: rank, column: level}]");
    node.apply(&grown).await;
    assert_eq!(cell("user_facts:rank", START, one()).await, is("NOT_FOUND", Cause::OlderThanFeature));
    node.delete("user_facts", json!({"user_id": [1]}), START - HOUR).await;
    assert_eq!(cell("user_facts:level", START, one()).await, is("NOT_FOUND=-1", Cause::Deleted));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_explained_is_refused_with_the_way_out() {
    let without_history = SHOP.replace(
        "  features: [{name: plan}, {name: level, default: -1}]",
        "  offline: false\n  features: [{name: plan}, {name: level, default: -1}]",
    );
    let node = TestNode::start_with(&without_history, |config| config.serving.max_history_reads = 1).await;
    let refused = |request| async { why(&node, request).await.expect_err("refused") };
    let error = refused(asked(&["user_facts:plan"], START, Mode::AsKnown)).await;
    assert_eq!((error.code, error.reason), (Code::FailedPrecondition, "VIEW_WITHOUT_HISTORY"));
    assert!(error.message.contains("user_facts"), "{error}");
    let of_clicks = asked(&["user_clicks:amount"], START, Mode::AsKnown);
    let error = refused(WhyRequest { losers: 101, ..of_clicks.clone() }).await;
    assert_eq!(error.reason, "TOO_MANY_LOSERS");
    let error = refused(WhyRequest { columns: vec!["user_clicks__amont".into()], ..of_clicks.clone() }).await;
    assert_eq!((error.code, error.reason), (Code::NotFound, "COLUMN_NOT_FOUND"));
    assert!(error.hint.expect("a hint").contains("user_clicks__amount"));
    for entities in [
        Vec::new(),
        vec![("user_id".to_owned(), column(USER, &[Value::Int64(1), Value::Int64(2)]))],
        vec![("user".to_owned(), column(USER, &[Value::Int64(1)]))],
    ] {
        let error = refused(WhyRequest { entities, ..of_clicks.clone() }).await;
        assert_eq!((error.code, error.reason), (Code::InvalidArgument, "BAD_ENTITY_COLUMNS"));
        assert!(!error.violations.is_empty() && error.hint.is_some());
    }
    let error = refused(WhyRequest { cutoff: Some(node.now() + HOUR), ..of_clicks.clone() }).await;
    assert_eq!(error.reason, "CUTOFF_IN_FUTURE");
    // Beside other views, one without history is no hindrance to ask for theirs.
    let of_model = WhyRequest {
        services: vec!["model".into()],
        features: Vec::new(),
        columns: vec!["user_clicks__page".into()],
        ..of_clicks.clone()
    };
    let told = why(&node, of_model).await.expect("explained");
    assert_eq!((told.cells.len(), told.lookups.len(), told.cells[0].name.as_str()), (1, 1, "user_clicks__page"));
    // Under the cap of reads of the past.
    let answers = futures::future::join_all((0..64).map(|_| why(&node, of_clicks.clone()))).await;
    let refused: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    assert!(!refused.is_empty() && refused.len() < answers.len(), "{} of 64 were refused", refused.len());
    assert!(refused.iter().all(|error| error.reason == "TOO_MANY_PINNED_READS" && error.retry_after.is_some()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_of_a_training_set_before_is_how_it_is_made() {
    let node = TestNode::start(SHOP).await;
    for step in 0..3 {
        let rows =
            (0..50).map(|user| json!({"user_id": user, "happened": START - user, "plan": "gold", "level": step}));
        node.put("facts", rows.collect()).await;
        if step < 2 {
            node.land().await;
        }
    }
    let what = ["user_clicks:amount", "user_facts:plan", "recent_facts:level"];
    for rows in [0, 1, 700] {
        let wanted = spine(&(0..700).map(|n| json!({"user_id": n % 60, "at": START - n, "label": "x"})).collect());
        let wanted = wanted.slice(0, rows);
        for ask in [AS_KNOWN, FINAL.up_to(node.now())] {
            let request = HistoricalRequest {
                services: Vec::new(),
                features: what.iter().map(|feature| (*feature).to_owned()).collect(),
                event_time: "at".to_owned(),
                mode: ask.mode,
                cutoff: ask.cutoff,
                with_status: true,
                with_event_time: true,
                spine: wanted.schema(),
            };
            let history = &node.use_cases().history;
            let told = history.explain(&node.permit(Action::ReadHistory), &request, rows as u64).await.expect("told");
            let made = node.train(&what, &wanted, ask).await;
            assert_eq!(told.plan.to_string(), made.plan.to_string());
            assert_eq!(told.reading.views, made.reading.views);
            let figures = |reading: &hydrant::history::reading::Reading| {
                (
                    reading.spine.rows,
                    reading.threads,
                    reading.parts,
                    reading.memory,
                    reading.spine_bytes,
                    reading.spilled,
                )
            };
            assert_eq!(figures(&told.reading), figures(&made.reading));
            // What is read of history, and what has not landed, is what the report tells.
            for (view, table) in told.reading.views.iter().zip(&made.report.tables) {
                let name = &told.plan.joins[view.join].view.name;
                let table = made.report.tables.iter().find(|table| table.view == name.as_str()).unwrap_or(table);
                assert_eq!(view.table.delta_version.map(|version| version as i64), table.delta_version, "{name}");
            }
            let facts =
                told.plan.joins.iter().position(|join| join.view.name.as_str() == "user_facts").expect("joined");
            assert_eq!((told.reading.views[facts].table.rows(), told.reading.views[facts].table.tail_rows), (100, 50));
        }
    }
    let too_long = |config: &mut hydrant::config::Config| config.history.max_spine_rows = 10;
    let node = TestNode::start_with(SHOP, too_long).await;
    let spine = spine(&json!([{"user_id": 1, "at": START}])).schema();
    let request = HistoricalRequest {
        services: Vec::new(),
        features: vec!["user_facts:plan".into()],
        event_time: "at".into(),
        mode: Mode::AsKnown,
        cutoff: None,
        with_status: false,
        with_event_time: false,
        spine,
    };
    let history = &node.use_cases().history;
    let refused = history.explain(&node.permit(Action::ReadHistory), &request, 11).await.expect_err("too long");
    assert_eq!(refused.reason, "SPINE_TOO_LONG");
}
