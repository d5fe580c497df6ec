//! Contract, section 28: a new version of a view is built beside the one that is served.

use hydrant::registry::BuildStep;
use hydrant::registry::definition::Kind;
use serde_json::{Value as Json, json};

use super::SHOP;
use crate::support::node::{AS_KNOWN, Ask, FINAL, HOUR, MINUTE, SECOND, START, TestNode};
use crate::support::sets::{set_name, stored};
use crate::support::table::spine;

/// The shop without its service, and with `user_facts` of these features.
fn facts_of(features: &str) -> String {
    let (views, _) =
        SHOP.split_once("---\napiVersion: hydrant/v1\nkind: FeatureService").expect("a service at the end");
    let all = "features: [{name: plan}, {name: level, default: -1}]";
    assert!(views.contains(all));
    views.replace(all, &format!("features: [{features}]"))
}

fn service(name: &str, features: &str) -> String {
    format!(
        "{{apiVersion: hydrant/v1, kind: FeatureService, metadata: {{name: {name}}}, spec: {{features: [{features}]}}}}"
    )
}

/// `plan` is called otherwise and comes first, `level` second.
const RENAMED: &str = "{name: level, default: -1}, {name: tier, column: plan}";

fn fact(user: i64, happened: i64, plan: &str, level: Option<i64>) -> Json {
    json!({"user_id": user, "happened": happened, "plan": plan, "level": level})
}

/// Rows in history, of a backfill, in the tails, deleted, late, and still to come.
async fn busy() -> TestNode {
    let node = TestNode::start(SHOP).await;
    let filed: Vec<Json> =
        (0..50).map(|user| fact(user, START - 5 * HOUR + user * MINUTE, "filed", Some(user))).collect();
    let batch = node.batch("facts", &filed.into());
    let request = node.backfill_of("facts", "filed", std::slice::from_ref(&batch));
    let report = node.backfill(request, &[batch]).await.expect("taken in");
    node.materialize("user_facts", report.frame).await.expect("online");
    node.put("facts", json!([fact(1, START - 3 * HOUR, "first", Some(1)), fact(2, START - 3 * HOUR, "two", None)]))
        .await;
    node.advance(MINUTE).await;
    node.land().await;
    node.put("facts", json!([fact(1, START - HOUR, "second", Some(2)), fact(3, START - HOUR, "three", Some(3))])).await;
    node.delete("user_facts", json!({"user_id": [3]}), START - 30 * MINUTE).await;
    node.put("facts", json!([fact(1, START - 2 * HOUR, "late", Some(9))])).await;
    node.advance(MINUTE).await;
    node.put("facts", json!([fact(4, START + 4 * MINUTE, "to come", Some(4))])).await;
    node
}

/// What a feature says of all users at many instants, in both modes and with cut-offs.
async fn trained(node: &TestNode, what: &str, column: &str) -> Vec<Vec<String>> {
    let instants: Vec<i64> = (0..13).map(|hour| START - 6 * HOUR + hour * 30 * MINUTE).chain([START + HOUR]).collect();
    let wanted: Vec<Json> = (0..6)
        .flat_map(|user| instants.iter().map(move |at| json!({"user_id": user, "friend_id": user, "at": at})))
        .collect();
    let wanted = spine(&wanted.into());
    let asks = [AS_KNOWN, FINAL, AS_KNOWN.up_to(START + 30 * SECOND), FINAL.up_to(START + MINUTE + SECOND)];
    let mut all = Vec::new();
    for ask in asks {
        let ask: Ask = ask;
        all.push(node.train(&[what], &wanted, ask).await.column(column));
    }
    all
}

async fn online(node: &TestNode, what: &str, column: &str) -> Vec<String> {
    let users = json!([0, 1, 2, 3, 4, 60]);
    let keys =
        if what.contains(':') { json!({"user_id": users}) } else { json!({"user_id": users, "friend_id": users}) };
    node.read(&[what], keys).await.column(column)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_answers_as_the_old_one_did_for_all_times_and_cut_offs() {
    let mut node = busy().await;
    let plan_before = trained(&node, "user_facts:plan", "user_facts__plan").await;
    let level_before = trained(&node, "user_facts:level", "user_facts__level").await;
    let online_before = online(&node, "user_facts:plan", "user_facts__plan").await;
    node.apply(&facts_of(RENAMED)).await;
    node.built().await;
    assert_eq!(node.catalog().views["user_facts"].version, 2);
    for _ in 0..3 {
        assert_eq!(trained(&node, "user_facts:tier", "user_facts__tier").await, plan_before);
        assert_eq!(trained(&node, "user_facts:level", "user_facts__level").await, level_before);
        assert_eq!(online(&node, "user_facts:tier", "user_facts__tier").await, online_before);
        assert_eq!(
            online(&node, "model@1", "user_facts__plan").await,
            online_before,
            "what was frozen reads the old one"
        );
        node.land().await;
        node.compact().await;
        node.restart().await;
    }
    // Rows, deletions and files go to both.
    node.advance(10 * MINUTE).await;
    node.put("facts", json!([fact(0, START + MINUTE, "newest", Some(7))])).await;
    node.delete("user_facts", json!({"user_id": [2]}), START + MINUTE).await;
    let batch = node.batch("facts", &json!([fact(60, START, "later filed", None)]));
    let report = node.backfill(node.backfill_of("facts", "later", std::slice::from_ref(&batch)), &[batch]).await;
    let report = report.expect("taken in");
    assert_eq!(report.views.len(), 2, "each view is told once: {:?}", report.views);
    node.materialize("user_facts", report.frame).await.expect("online");
    let expected = ["newest", "second", "NOT_FOUND", "NOT_FOUND", "to come", "later filed"];
    assert_eq!(online(&node, "user_facts:tier", "user_facts__tier").await, expected);
    assert_eq!(online(&node, "model@1", "user_facts__plan").await, expected);
    let after = trained(&node, "user_facts:tier", "user_facts__tier").await;
    assert_eq!(after, trained(&node, "model@1", "user_facts__plan").await);
    assert_ne!(after, plan_before);
    // And so in a backup.
    node.back_up("whole").await.expect("backed up");
    let restored = node.restored("whole").await;
    assert_eq!(trained(&restored, "user_facts:tier", "user_facts__tier").await, after);
    assert_eq!(online(&restored, "model@1", "user_facts__plan").await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_come_while_a_version_is_built_are_in_both_once_and_a_build_that_is_cut_off_goes_on() {
    let mut node = busy().await;
    for round in 0..4_i64 {
        // Each round makes another version from the one before.
        let name = format!("plan{round}");
        node.apply(&facts_of(&format!("{{name: level, default: -1}}, {{name: {name}, column: plan}}"))).await;
        node.put("facts", json!([fact(5, START + round, &name, None)])).await;
        if round % 2 == 0 {
            node.restart().await;
        }
        node.put("facts", json!([fact(6, START + round, &name, None)])).await;
        node.built().await;
        let view = node.catalog().views["user_facts"].clone();
        assert_eq!(i64::from(view.version), round + 2);
        let read = node.read(&[&format!("user_facts:{name}")], json!({"user_id": [5, 6, 1]})).await;
        assert_eq!(read.column(&format!("user_facts__{name}")), [name.as_str(), name.as_str(), "second"]);
        node.land().await;
        // Every row is there once in each version.
        let mut counts = Vec::new();
        for version in node.catalog().versions_of("user_facts") {
            counts.push(rows_of(&node, version.version).await);
        }
        assert!(counts.iter().all(|count| *count == counts[0]), "{counts:?}");
    }
}

/// The rows of a version's table.
async fn rows_of(node: &TestNode, version: u32) -> u64 {
    let catalog = node.catalog();
    let view = catalog.versions_of("user_facts").find(|view| view.version == version).expect("it is there").clone();
    let files = hydrant_storage::history::HistoryTables::new(
        std::sync::Arc::new(hydrant_storage::files::LocalFiles),
        node.data_directory().join("history"),
    );
    let table = files.table(view.history_spec(&catalog.name)).await.expect("it is there");
    table.snapshot().files.iter().map(|file| file.rows()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_is_switched_to_for_all_keys_at_once_and_services_go_over_when_they_are_applied() {
    let node = TestNode::start(SHOP).await;
    let users: Vec<i64> = (0..300).collect();
    let rows: Vec<Json> = users.iter().map(|user| fact(*user, START - HOUR, "gold", Some(*user))).collect();
    node.put("facts", rows.into()).await;
    node.apply(&service("patient", "'user_facts:plan'")).await;
    node.apply(&facts_of("{name: tier, column: plan}")).await;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while node.catalog().views["user_facts"].version == 1 {
        let read = node.read(&["patient"], json!({"user_id": users})).await.column("user_facts__plan");
        assert!(read.iter().all(|plan| plan == "gold"));
        assert!(std::time::Instant::now() < deadline, "not built");
    }
    let read = node.read(&["user_facts:tier"], json!({"user_id": users})).await.column("user_facts__tier");
    assert!(read.iter().all(|plan| plan == "gold"), "all of it is there when it is served");
    node.apply(&service("patient", "'user_facts:tier'")).await;
    let of = async |version: &str, column: &str| {
        node.read(&[version], json!({"user_id": [7]})).await.column(column).remove(0)
    };
    assert_eq!(
        (of("patient@1", "user_facts__plan").await, of("patient@2", "user_facts__tier").await),
        ("gold".to_owned(), "gold".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn saved_training_sets_of_the_older_version_are_the_same_to_the_byte() {
    let mut node = busy().await;
    node.advance(HOUR).await;
    let wanted: Vec<Json> = (0..6).map(|user| json!({"user_id": user, "friend_id": 1, "at": START})).collect();
    let id = node.store(&spine(&wanted.into())).await;
    node.save("set", stored(id, &["model"], AS_KNOWN)).await;
    let rows = node.pull_saved("set", 1, 0).await;
    node.apply(&facts_of("{name: tier, column: plan}")).await;
    node.built().await;
    for _ in 0..2 {
        assert_eq!(node.pull_saved("set", 1, 0).await, rows);
        assert!(node.verify("set", 1).await.is_same);
        node.put("facts", json!([fact(1, START - 10 * MINUTE, "afterwards", None)])).await;
        node.land().await;
        node.compact().await;
        node.restart().await;
    }
    let permit = node.permit(hydrant::tenancy::Action::ReadHistory);
    assert!(node.sets().get(&permit, &set_name("set"), None).is_ok());
    drop(permit);
}

#[tokio::test(flavor = "multi_thread")]
async fn going_back_serves_the_old_version_with_all_that_has_come_since() {
    let mut node = busy().await;
    node.apply(&facts_of("{name: tier, column: plan}")).await;
    node.built().await;
    node.put("facts", json!([fact(0, START, "since", Some(5))])).await;
    node.apply(&facts_of("{name: plan}, {name: level, default: -1}")).await;
    assert_eq!(node.catalog().views["user_facts"].version, 1, "at once");
    for _ in 0..2 {
        assert_eq!(node.one("user_facts:plan", json!({"user_id": 0})).await, "since");
        assert_eq!(node.one("user_facts:level", json!({"user_id": 0})).await, "5");
        assert_eq!(
            trained(&node, "user_facts:plan", "user_facts__plan").await,
            trained(&node, "model@1", "user_facts__plan").await
        );
        node.restart().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wider_type_has_the_values_that_were_there_and_a_new_column_none() {
    let source = "
apiVersion: hydrant/v1
kind: Entity
metadata: {name: user}
spec: {joinKeys: [{name: user_id, type: int64}]}
---
apiVersion: hydrant/v1
kind: Source
metadata: {name: facts}
spec:
  type: push
  eventTime: happened
  knownTime: event
  columns: [{name: user_id, type: int64}, {name: happened, type: timestamp}, {name: steps, type: int32}, {name: weight, type: float32}, {name: mood, type: string}]
---
";
    let view = |features: &str| {
        format!(
            "{source}{{apiVersion: hydrant/v1, kind: FeatureView, metadata: {{name: body}}, spec: {{entities: [user], source: facts, features: [{features}]}}}}"
        )
    };
    let mut node = TestNode::start(&view("{name: steps}, {name: weight}")).await;
    node.put("facts", json!([{"user_id": 1, "happened": START - HOUR, "steps": -7, "weight": 70.5, "mood": "good"}]))
        .await;
    node.put("facts", json!([{"user_id": 2, "happened": START - HOUR, "steps": null, "weight": null, "mood": "bad"}]))
        .await;
    node.apply(&view("{name: mood}, {name: weight, type: float64}, {name: steps, type: int64}")).await;
    node.built().await;
    node.put("facts", json!([{"user_id": 3, "happened": START - HOUR, "steps": 1, "weight": 0.1, "mood": "new"}]))
        .await;
    let all = ["body:steps", "body:weight", "body:mood"];
    for _ in 0..2 {
        let read = node.read(&all, json!({"user_id": [1, 2, 3]})).await;
        let wanted: Vec<Json> = (1..=3).map(|user| json!({"user_id": user, "at": START})).collect();
        let trained = node.train(&all, &spine(&wanted.into()), AS_KNOWN).await;
        let expected = [("body__steps", ["-7", "NULL", "1"]), ("body__mood", ["NOT_FOUND", "NOT_FOUND", "new"])];
        for (column, expected) in expected {
            assert_eq!(read.column(column), expected);
            assert_eq!(trained.column(column), expected);
        }
        let weights = read.column("body__weight");
        assert_eq!((weights[0].as_str(), weights[1].as_str()), ("70.5", "NULL"));
        assert_eq!(weights[2], f64::from(0.1_f32).to_string(), "as float32 has it");
        assert_eq!(trained.column("body__weight"), weights);
        node.land().await;
        node.restart().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_tells_how_far_it_is_until_it_is_served() {
    let node = busy().await;
    node.apply(&facts_of(RENAMED)).await;
    let read = node.permit(hydrant::tenancy::Action::ReadDefinitions);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let mut seen: Vec<BuildStep> = Vec::new();
    loop {
        let described = node.use_cases().registry.get(&read, Kind::FeatureView, &set_name("user_facts"));
        let described = described.expect("it is there");
        match (described.served, described.built) {
            (Some(1), Some(built)) => {
                assert!(built.rows <= built.total_rows, "{built:?}");
                if seen.last() != Some(&built.step) {
                    seen.push(built.step);
                }
            }
            // Once it has begun, it is told without a gap.
            (Some(1), None) => assert!(seen.is_empty() || node.catalog().views["user_facts"].version == 2),
            (served, built) => {
                assert_eq!((served, built.is_none()), (None, true));
                break;
            }
        }
        assert!(std::time::Instant::now() < deadline, "not built");
        tokio::task::yield_now().await;
    }
    let in_order = [BuildStep::History, BuildStep::Online];
    assert!(in_order.starts_with(&seen) || in_order.ends_with(&seen), "{seen:?}");
    drop(read);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_waits_for_its_turn_to_be_brought_online() {
    let node = busy().await;
    node.land().await;
    let (materialize, catalog) = (node.use_cases().materialize.clone(), node.catalog());
    for _ in 0..20 {
        let permit = node.permit(hydrant::tenancy::Action::Write);
        let first = materialize.begin(&permit, "user_facts", None).await.expect("it is free");
        let version = materialize.begin_version(&catalog.name, &catalog.views["user_facts"]);
        let version = version.await.expect("it waits, and is not refused");
        assert!(first.done().await.expect("online").rows > 0);
        assert!(version.done().await.expect("online").rows > 0);
    }
}
