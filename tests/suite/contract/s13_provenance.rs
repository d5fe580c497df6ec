//! Contract, section 13: every answer says what it was made from.

use std::collections::BTreeMap;

use serde_json::json;

use super::SHOP;
use crate::support::node::{AS_KNOWN, FINAL, MINUTE, SECOND, START, TestNode};
use crate::support::table::{spine, spine_at};

#[tokio::test(flavor = "multi_thread")]
async fn an_online_answer_carries_its_instant_revision_versions_and_how_far_each_view_is() {
    let node = TestNode::start(SHOP).await;
    let revision = node.use_cases().registry.snapshot().revision;
    node.put("facts", json!([{"user_id": 1, "happened": START - 5, "plan": "gold"}])).await;
    let last = node.put("clicks", json!([{"user_id": 1, "item_id": "a", "happened": START - 9, "score": 5}])).await;
    node.advance(SECOND).await;
    let read = node.read(&["model"], json!({"user_id": [1], "friend_id": [1]})).await;
    let provenance = &read.0.provenance;
    assert_eq!((provenance.t, provenance.registry_revision), (START + SECOND, revision));
    let [service] = read.0.services.as_slice() else { panic!("one service: {:?}", read.0.services) };
    assert_eq!((service.version.service.as_str(), service.version.number), ("model", 1));
    assert_eq!(service.columns, [0, 1, 2, 3]);
    let views: BTreeMap<&str, _> = provenance.views.iter().map(|view| (view.view.as_str(), view)).collect();
    assert_eq!(views.keys().copied().collect::<Vec<_>>(), ["user_clicks", "user_facts"]);
    assert_eq!(views["user_facts"].newest_event_time, Some(START - 5));
    assert_eq!(views["user_clicks"].newest_event_time, Some(START - 9));
    for view in views.values() {
        // Every partition has passed over the last request.
        assert_eq!((Some(view.complete_through), view.version), (last.ingest_time, 1));
    }
}

/// Over all partitions touched, and under writes that are still being applied: the answer is the one
/// that training gives with the ingest time that it names as the cut-off.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_holds_every_row_up_to_the_ingest_time_that_it_names() {
    const ROUNDS: i64 = 200;
    let node = TestNode::start(SHOP).await;
    let users: Vec<i64> = (0..8).collect();
    let row = |user: i64, round: i64| json!({"user_id": user, "item_id": "a", "happened": START - 1, "score": round});
    node.put("clicks", users.iter().map(|user| row(*user, 0)).collect()).await;
    let write = async {
        for round in 1..=ROUNDS {
            let user = users[usize::try_from(round).expect("small") % users.len()];
            node.try_put("clicks", json!([row(user, round)])).await.expect("the row is good");
        }
    };
    let mut answers = Vec::new();
    let read = async {
        let mut newest = 0;
        while newest < ROUNDS {
            let user = users[answers.len() % users.len()];
            let read = node.read(&["user_scores:score"], json!({"user_id": [user]})).await;
            let [view] = read.0.provenance.views.as_slice() else { panic!("one view") };
            assert!(view.complete_through <= read.0.provenance.t);
            newest = newest.max(read.only().parse().expect("a number"));
            answers.push((user, read.0.provenance.t, view.complete_through, read.only()));
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(write, read);
    // A few of the many, over all of their time.
    for (user, t, complete_through, cell) in answers.iter().step_by(answers.len().div_ceil(25)) {
        let wanted = spine_at(&json!({"user_id": user}), &[*t]);
        let trained = node.train(&["user_scores:score"], &wanted, AS_KNOWN.up_to(*complete_through)).await;
        assert_eq!(trained.column("user_scores__score"), [cell.as_str()], "user {user} at {t}");
    }
    let all = node.read(&["user_scores:score"], json!({"user_id": users})).await;
    assert_eq!(all.0.provenance.views.len(), 1, "the minimum over the partitions touched");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_does_not_answer_does_not_vouch_for_completeness() {
    let node = TestNode::start_with(SHOP, |config| config.storage.partitions = 1).await;
    node.put("facts", json!([{"user_id": 1, "happened": START, "plan": "gold"}])).await;
    node.use_cases().partitions.park(0, "the test wants it so");
    let deadline = crate::support::node::patience();
    while node.use_cases().partitions.handles()[0].is_serving() {
        assert!(std::time::Instant::now() < deadline, "it does not park");
        tokio::task::yield_now().await;
    }
    let read = node.read(&["user_facts:plan"], json!({"user_id": [1]})).await;
    let [view] = read.0.provenance.views.as_slice() else { panic!("one view") };
    assert_eq!((read.only().as_str(), view.newest_event_time, view.complete_through), ("NOT_READY", None, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_training_set_records_all_that_it_was_made_from() {
    let node = TestNode::start(SHOP).await;
    let revision = node.use_cases().registry.snapshot().revision;
    node.put("facts", json!([{"user_id": 1, "happened": START - MINUTE, "plan": "gold"}])).await;
    node.land().await;
    let last = node.put("facts", json!([{"user_id": 2, "happened": START - MINUTE, "plan": "free"}])).await;
    let wanted = spine(&json!([
        {"user_id": 1, "friend_id": 2, "at": START},
        {"user_id": 2, "friend_id": 1, "at": START},
        {"user_id": 3, "friend_id": 3, "at": START},
    ]));
    let report = node.train(&["model"], &wanted, AS_KNOWN).await.report;
    assert_eq!((report.rows, report.registry_revision), (3, revision));
    assert_eq!(report.services, ["model@1"]);
    assert_eq!(report.mode, hydrant::history::Mode::AsKnown);
    assert!(report.cutoff >= last.ingest_time.expect("it was written"));
    let tables: BTreeMap<&str, _> = report.tables.iter().map(|table| (table.view.as_str(), table)).collect();
    let (facts, clicks) = (tables["user_facts"], tables["user_clicks"]);
    assert_eq!((facts.view_version, facts.definition_revision), (1, revision));
    assert!(facts.delta_version.is_some(), "the first row has landed");
    assert_eq!((clicks.delta_version, clicks.tail_rows), (None, 0));
    let nulls: BTreeMap<&str, u64> = report.nulls.iter().map(|(name, nulls)| (name.as_str(), *nulls)).collect();
    assert_eq!((nulls["user_facts__plan"], nulls["user_clicks__amount"]), (1, 3));

    // Hashes tell spines and contents apart, and nothing else.
    let again = node.train(&["model"], &wanted, AS_KNOWN.up_to(report.cutoff)).await.report;
    assert_eq!((&again.spine_hash, &again.content_hash), (&report.spine_hash, &report.content_hash));
    let other_spine = node.train(&["model"], &wanted.slice(0, 2), AS_KNOWN).await.report;
    assert_ne!(other_spine.spine_hash, report.spine_hash);
    let before = node.train(&["model"], &wanted, FINAL.up_to(START - MINUTE)).await.report;
    assert_eq!((&before.spine_hash, before.mode), (&report.spine_hash, hydrant::history::Mode::Final));
    assert_ne!(before.content_hash, report.content_hash);
}
