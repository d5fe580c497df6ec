//! Contract, section 29: what runs is told to a lineage service, with what it read and wrote, column by
//! column; what it doesn't take is told later, in order, and never holds anybody up.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::poll_immediate;
use hydrant::access::NewKey;
use hydrant::backfill::BackfillRequest;
use hydrant::config::{ByteSize, Config, Span};
use hydrant::error::Error;
use hydrant::history::sets::{Admission, Creation, NewSet};
use hydrant::openlineage::OpenLineage;
use hydrant::registry::shares::{NewShare, Shared};
use hydrant::registry::tenants::Expected;
use hydrant::runs::Origin;
use hydrant::tenancy::{Action, Authenticates as _, Demand, Role};
use serde_json::{Value as Json, json};

use super::{SHOP, new_key};
use crate::support::node::{AS_KNOWN, DAY, HOUR, SECOND, START, TestNode, definitions_of, training_of};
use crate::support::sets::stored;
use crate::support::table;
use crate::support::webhook::{Answer, Receiver};

const VIEWS: &str = "
---
apiVersion: hydrant/v1
kind: FeatureView
metadata: {name: traits, owner: ops@example.com}
spec: {entities: [user], source: facts, features: [{name: rank, column: level}, {name: plan}]}
---
apiVersion: hydrant/v1
kind: FeatureService
metadata: {name: scoring}
spec: {features: [traits]}
";

fn telling(url: &str) -> impl FnOnce(&mut Config) + use<> {
    let url = url.to_owned();
    move |config| {
        config.openlineage.url = url;
        config.openlineage.namespace = "shop".to_owned();
        config.openlineage.timeout = Span(Duration::from_millis(300));
        config.openlineage.ingest_interval = Span(Duration::from_secs(3_600));
    }
}

async fn start(receiver: &Receiver) -> TestNode {
    TestNode::start_with(&format!("{SHOP}{VIEWS}"), telling(&receiver.url)).await
}

fn told(node: &TestNode) -> &OpenLineage {
    node.node().lineage().expect("somebody is told")
}

fn fact(user: i64, happened: i64) -> Json {
    json!({"user_id": user, "happened": happened, "plan": "p", "level": user})
}

async fn backfill(node: &TestNode, id: &str) {
    let batches = [node.batch("facts", &json!([fact(1, START - DAY), fact(2, START - DAY)]))];
    node.backfill(node.backfill_of("facts", id, &batches), &batches).await.expect("good rows");
}

/// Of a training set that is about to be made.
async fn creation(node: &TestNode) -> Creation {
    let spine = node.store(&table::spine_at(&json!({"user_id": 1}), &[START])).await;
    let new = NewSet { name: "seen".parse().expect("a name"), request: stored(spine, &["scoring"], AS_KNOWN) };
    node.sets().create(&node.permit(Action::ReadHistory), new).await.expect("it is a right request")
}

/// Kind, job and run of an event.
fn which(event: &Json) -> (String, String, String) {
    let text = |json: &Json| json.as_str().expect("a text").to_owned();
    (text(&event["eventType"]), text(&event["job"]["name"]), text(&event["run"]["runId"]))
}

fn dataset<'a>(event: &'a Json, side: &str, name: &str) -> &'a Json {
    let all = event[side].as_array().expect("a list");
    all.iter().find(|dataset| dataset["name"] == name).unwrap_or_else(|| panic!("no {name} in {event:#}"))
}

/// Where the values of a column come from: dataset and field.
fn origin(dataset: &Json, column: &str) -> (String, String) {
    let inputs = &dataset["facets"]["columnLineage"]["fields"][column]["inputFields"];
    let text = |json: &Json| json.as_str().unwrap_or_else(|| panic!("no {column} in {dataset:#}")).to_owned();
    assert_eq!(inputs.as_array().map(Vec::len), Some(1));
    (text(&inputs[0]["name"]), text(&inputs[0]["field"]))
}

fn rows(dataset: &Json) -> &Json {
    &dataset["outputFacets"]["outputStatistics"]["rowCount"]
}

async fn until(reached: impl Fn() -> bool) {
    let waiting = async {
        while !reached() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_story_is_told_with_what_was_read_and_written_column_by_column() {
    let mut receiver = Receiver::start().await;
    let node = start(&receiver).await;
    node.put("facts", json!([fact(1, START), fact(2, START), fact(3, START)])).await;
    node.put("facts", json!([fact(4, START)])).await;
    backfill(&node, "first").await;
    node.materialize("traits", None).await.expect("it has history");
    let spine = node.store(&table::spine_at(&json!({"user_id": 1}), &[START, START + 1])).await;
    node.save("seen", stored(spine, &["scoring"], AS_KNOWN)).await;
    node.advance(HOUR).await;

    let mut events = Vec::new();
    for _ in 0..8 {
        events.push(receiver.next().await.body);
    }
    let mut runs: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for event in &events {
        let (kind, job, run) = which(event);
        runs.entry(job).or_default().push((kind, run));
        assert_eq!(event["job"]["namespace"], "shop");
        assert_eq!(event["schemaURL"], "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent");
    }
    let jobs =
        ["default.backfill.facts", "default.ingest.facts", "default.materialize.traits", "default.training_set.seen"];
    assert_eq!(runs.keys().map(String::as_str).collect::<Vec<_>>(), jobs);
    for of_job in runs.values() {
        let kinds: Vec<&str> = of_job.iter().map(|(kind, _)| kind.as_str()).collect();
        assert_eq!((kinds.as_slice(), &of_job[0].1), (&["START", "COMPLETE"][..], &of_job[1].1));
    }
    let done = |job: &str| {
        let found = events.iter().find(|event| event["eventType"] == "COMPLETE" && event["job"]["name"] == job);
        found.expect("it has ended")
    };
    let ingest = done("default.ingest.facts");
    assert_eq!(rows(dataset(ingest, "outputs", "default.view.traits")), 4);
    assert_eq!(ingest["run"]["facets"]["nominalTime"]["nominalStartTime"], "2024-01-01T00:00:00Z");
    assert_eq!(ingest["run"]["facets"]["nominalTime"]["nominalEndTime"], "2024-01-01T01:00:00Z");
    let columns = &dataset(ingest, "inputs", "default.source.facts")["facets"]["schema"]["fields"];
    assert_eq!(columns[3], json!({"name": "level", "type": "int64"}));

    let view = dataset(done("default.backfill.facts"), "outputs", "default.view.traits");
    assert_eq!((rows(view), view["namespace"].as_str()), (&json!(2), Some("hydrant://shop")));
    assert_eq!(origin(view, "rank"), ("default.source.facts".to_owned(), "level".to_owned()));
    assert_eq!(origin(view, "user_id"), ("default.source.facts".to_owned(), "user_id".to_owned()));
    assert_eq!(view["facets"]["ownership"]["owners"][0]["name"], "ops@example.com");
    assert_eq!(view["facets"]["version"]["datasetVersion"], "1");

    let online = dataset(done("default.materialize.traits"), "outputs", "default.online.traits");
    assert_eq!(origin(online, "rank"), ("default.view.traits".to_owned(), "rank".to_owned()));
    let set = done("default.training_set.seen");
    dataset(set, "inputs", "default.view.traits");
    let set = dataset(set, "outputs", "default.training_set.seen");
    assert_eq!(origin(set, "traits__rank"), ("default.view.traits".to_owned(), "rank".to_owned()));
    assert_eq!((rows(set), &set["facets"]["version"]["datasetVersion"]), (&json!(2), &json!("1")));
    assert!(receiver.nothing_more());
}

/// The next two events, of one run, which are its beginning and its end.
async fn told_whole(receiver: &mut Receiver) -> Json {
    let (started, ended) = (receiver.next().await.body, receiver.next().await.body);
    assert_eq!((which(&started).0.as_str(), which(&ended).0.as_str()), ("START", "COMPLETE"));
    assert_eq!(which(&started).2, which(&ended).2);
    assert_eq!(which(&started).1, which(&ended).1);
    ended
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_training_set_that_is_not_kept_is_told_once_however_it_is_pulled() {
    let mut receiver = Receiver::start().await;
    let node = start(&receiver).await;
    let spine = table::spine_at(&json!({"user_id": 1}), &[START, START + 1, START + 2]);
    node.train(&["scoring", "user_facts:level"], &spine, AS_KNOWN).await;
    let pulled = told_whole(&mut receiver).await;
    assert_eq!(which(&pulled).1, "default.pulled_training_set.scoring+user_facts");
    for view in ["default.view.traits", "default.view.user_facts"] {
        dataset(&pulled, "inputs", view);
    }
    let set = dataset(&pulled, "outputs", "default.pulled_training_set.scoring+user_facts");
    assert_eq!(origin(set, "traits__rank"), ("default.view.traits".to_owned(), "rank".to_owned()));
    assert_eq!(origin(set, "user_facts__level"), ("default.view.user_facts".to_owned(), "level".to_owned()));
    assert_eq!(rows(set), 3);

    // By endpoints, in whatever order and however often.
    let id = node.store(&spine).await;
    let prepared = node.prepare(stored(id, &["scoring"], AS_KNOWN)).await;
    for rows in [1..3, 0..1, 0..1] {
        node.pull(&prepared, rows).await;
    }
    let walked = told_whole(&mut receiver).await;
    assert_eq!(which(&walked).1, "default.pulled_training_set.scoring");
    assert_ne!(which(&walked).2, which(&pulled).2);
    assert_eq!(rows(dataset(&walked, "outputs", "default.pulled_training_set.scoring")), 3);

    // One that is saved is told as that, and not again whoever pulls or verifies it.
    node.save("seen", stored(id, &["scoring"], AS_KNOWN)).await;
    assert_eq!(which(&told_whole(&mut receiver).await).1, "default.training_set.seen");
    node.sets().forget_found();
    node.pull_saved("seen", 1, 2).await;
    assert!(node.verify("seen", 1).await.is_same);

    // One that nobody waits for any more.
    let train = node.permit(Action::ReadHistory);
    let request = training_of(&["scoring"], &spine, AS_KNOWN);
    let mut intake = node.use_cases().history.open(&train, request).expect("it is a right request");
    intake.push(spine).await.expect("taken");
    // A task that has used up its turn is made to wait by whatever it asks for, however soon that is done.
    let mut turn = 0..1_000;
    while poll_immediate(tokio::task::consume_budget()).await.is_some() {
        turn.next().expect("a turn ends");
    }
    assert!(poll_immediate(Box::pin(intake.finish())).await.is_none(), "it has to wait");
    let (started, aborted) = (receiver.next().await.body, receiver.next().await.body);
    assert_eq!((which(&started).0.as_str(), which(&aborted).0.as_str()), ("START", "ABORT"));
    assert_eq!(which(&started).1, "default.pulled_training_set.scoring");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_tenant_shares_is_told_by_the_names_that_its_reader_knows_and_no_others() {
    let mut receiver = Receiver::start().await;
    let node = start(&receiver).await;
    let registry = node.use_cases().registry.clone();
    let platform = node.permit(Action::ManageTenants);
    let tenant = definitions_of("apiVersion: hydrant/v1\nkind: Tenant\nmetadata: {name: rival}\nspec: {}\n");
    registry.apply_tenants(&platform, tenant, Expected::Any, None).await.expect("it is made");
    let first = NewKey { tenant: Some("rival".parse().expect("a name")), ..new_key(&[Role::Admin]) };
    let access = &node.use_cases().access;
    let (_, token) = access.create(&platform, first).await.expect("they may");
    let rival = access.authenticate(Some(&token.reveal())).expect("it is good");
    let traits = Shared::View("traits".parse().expect("a name"));
    for of in [Shared::Service("scoring".parse().expect("a name")), traits] {
        let new = NewShare { of, to: "rival".parse().expect("a name"), may_train: true, with_pii: false };
        registry.create_share(&node.permit(Action::ChangeDefinitions), new, false).await.expect("an owner may");
    }
    let train = node.use_cases().tenancy.authorize(&rival, Action::ReadHistory).expect("an admin may");
    let spine = table::spine_at(&json!({"user_id": 1}), &[START]);
    let request = |what: &str| training_of(&[what], &spine, AS_KNOWN);
    let mut told = Vec::new();
    node.join_by(&train, request("default/scoring"), &spine).await.expect("it is shared");
    told.push((told_whole(&mut receiver).await, "rival.pulled_training_set.default/scoring"));
    let sets = node.sets();
    let mut upload = sets.spines().begin(train.clone(), spine.schema()).await.expect("there is room");
    upload.push(spine.clone()).await.expect("taken");
    let id = upload.finish().await.expect("stored").spine.id;
    let new = NewSet { name: "people".parse().expect("a name"), request: stored(id, &["default/scoring"], AS_KNOWN) };
    let (tenancy, who) = (node.use_cases().tenancy.clone(), rival.clone());
    let admission: Admission = Box::new(move || {
        Box::pin(async move { tenancy.admit(&who, Action::ReadHistory, Demand { cost: 1, ..Demand::default() }).await })
    });
    sets.create(&train, new).await.expect("it may train").finish(admission).await.expect("made");
    told.push((told_whole(&mut receiver).await, "rival.training_set.people"));
    for (event, output) in &told {
        let shared = dataset(event, "inputs", "rival.shared.default/scoring");
        assert_eq!(event["inputs"].as_array().map(Vec::len), Some(1));
        let columns = &shared["facets"]["schema"]["fields"];
        assert_eq!(columns[0], json!({"name": "default__traits__rank", "type": "int64"}));
        assert_eq!(
            (columns.as_array().map(Vec::len), &shared["facets"]["version"]["datasetVersion"]),
            (Some(2), &json!("1"))
        );
        let set = dataset(event, "outputs", output);
        let from = ("rival.shared.default/scoring".to_owned(), "default__traits__rank".to_owned());
        assert_eq!(origin(set, "default__traits__rank"), from);
    }
    node.join_by(&train, request("default/traits:plan"), &spine).await.expect("it is shared");
    let of_view = told_whole(&mut receiver).await;
    dataset(&of_view, "inputs", "rival.shared.default/traits");
    assert_eq!(which(&of_view).1, "rival.pulled_training_set.default/traits");
    told.push((of_view, ""));
    for (event, _) in &told {
        let text = event.to_string();
        for unknown in ["facts", "level", "ops@example.com", "default.view", "default.source"] {
            assert!(!text.contains(unknown), "{unknown}: {text}");
        }
    }
    drop((train, registry, platform));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_tells_the_files_that_its_rows_come_from() {
    let mut receiver = Receiver::start().await;
    let node = start(&receiver).await;
    let batches = [node.batch("facts", &json!([fact(1, START - DAY)]))];
    let origin = |namespace: &str, name: &str, version: Option<&str>| Origin {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        version: version.map(str::to_owned),
    };
    let origins = vec![origin("file", "/data/facts.parquet", None), origin("s3://lake", "facts", Some("7"))];
    let request = BackfillRequest { origins, ..node.backfill_of("facts", "first", &batches) };
    node.backfill(request, &batches).await.expect("good rows");
    for kind in ["START", "COMPLETE"] {
        let told = receiver.next().await.body;
        assert_eq!(told["eventType"], kind);
        dataset(&told, "inputs", "default.source.facts");
        assert_eq!(dataset(&told, "inputs", "/data/facts.parquet")["namespace"], "file");
        let table = dataset(&told, "inputs", "facts");
        let version = &table["facets"]["version"]["datasetVersion"];
        assert_eq!((&table["namespace"], version), (&json!("s3://lake"), &json!("7")));
    }

    let secret = vec![origin("https://host?sig=hunter2", "facts", None)];
    let request = BackfillRequest { origins: secret, ..node.backfill_of("facts", "second", &batches) };
    let refused = node.backfill(request, &batches).await.expect_err("it may be a secret");
    assert!(refused.reason == "BAD_BACKFILL" && !format!("{refused:?}").contains("hunter2"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_fails_says_why_and_one_that_is_given_up_is_aborted() {
    let mut receiver = Receiver::start().await;
    let node = start(&receiver).await;
    let creation = creation(&node).await;
    let refused = || Error::invalid("NOT_TODAY", "come back tomorrow");
    creation.finish(Box::new(move || Box::pin(async move { Err(refused()) }))).await.expect_err("refused");
    assert_eq!(which(&receiver.next().await.body).0, "START");
    let failed = receiver.next().await.body;
    assert_eq!(failed["eventType"], "FAIL");
    assert_eq!(failed["run"]["facets"]["errorMessage"]["message"], "NOT_TODAY: come back tomorrow");

    node.advance(SECOND).await;
    {
        let mut given_up = std::pin::pin!(creation.finish(Box::new(|| Box::pin(std::future::pending()))));
        let begun = poll_immediate(&mut given_up).await;
        assert!(begun.is_none(), "it waits");
    }
    let (started, aborted) = (receiver.next().await.body, receiver.next().await.body);
    assert_eq!((which(&started).0.as_str(), which(&aborted).0.as_str()), ("START", "ABORT"));
    assert_eq!(which(&started).2, which(&aborted).2);
    assert_ne!(which(&started).2, which(&failed).2, "made later, it is another run");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_taken_is_tried_again_in_order_and_what_is_refused_is_given_up() {
    let mut receiver = Receiver::start().await;
    receiver.answer([Answer::Status(503), Answer::Hang, Answer::Status(429)]);
    let node = start(&receiver).await;
    backfill(&node, "first").await;
    let first = receiver.next().await;
    assert_eq!(which(&first.body).0, "START");
    for attempt in 1..=3 {
        until(|| told(&node).metrics().failed.get() >= attempt).await;
        assert_eq!(told(&node).waiting(), 2, "what is newer waits behind it");
        node.advance(8 * SECOND).await;
        assert_eq!(receiver.next().await.text, first.text, "it is the same event");
    }
    assert_eq!(which(&receiver.next().await.body).0, "COMPLETE");
    until(|| told(&node).waiting() == 0).await;

    let mut elsewhere = Receiver::start().await;
    receiver.answer([Answer::Status(400), Answer::Redirect(elsewhere.url.clone())]);
    node.materialize("traits", None).await.expect("it has history");
    receiver.next().await;
    receiver.next().await;
    until(|| told(&node).metrics().dropped.get() == 2 && told(&node).waiting() == 0).await;
    assert_eq!(told(&node).metrics().sent.get(), 2);
    assert!(elsewhere.nothing_more(), "no redirect is followed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_survives_a_restart_and_the_hour_goes_on() {
    let mut receiver = Receiver::start().await;
    receiver.answer([Answer::Status(500)]);
    let mut node = start(&receiver).await;
    node.put("facts", json!([fact(1, START)])).await;
    backfill(&node, "first").await;
    let first = receiver.next().await;
    until(|| told(&node).metrics().failed.get() == 1).await;
    node.restart().await;
    node.put("facts", json!([fact(2, START), fact(3, START)])).await;
    node.advance(10 * SECOND).await;
    assert_eq!(receiver.next().await.text, first.text, "what waited is sent after the restart");
    assert_eq!(which(&receiver.next().await.body).2, which(&first.body).2);
    node.advance(HOUR).await;
    receiver.next().await;
    let hour = receiver.next().await.body;
    assert_eq!(rows(dataset(&hour, "outputs", "default.view.traits")), 3, "of before and after it");
}

/// As a machine that dies leaves it: what was told is on disk before it is sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_was_under_way_when_the_server_died_is_aborted_by_the_next_start() {
    let mut receiver = Receiver::start().await;
    let node = start(&receiver).await;
    let creation = creation(&node).await;
    let mut under_way = std::pin::pin!(creation.finish(Box::new(|| Box::pin(std::future::pending()))));
    assert!(poll_immediate(&mut under_way).await.is_none(), "it waits");
    let started = receiver.next().await.body;
    let revived = node.revive_from_log().await;
    let mut ended = receiver.next().await.body;
    if ended["eventType"] == "START" {
        // That it was taken is noted lazily, so it is told again.
        assert_eq!(ended, started);
        ended = receiver.next().await.body;
    }
    assert_eq!((&ended["eventType"], which(&ended).2), (&json!("ABORT"), which(&started).2));
    assert_eq!(which(&ended).1, "default.training_set.seen");
    drop(revived);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_events_make_the_oldest_go_are_counted_and_hold_nobody_up() {
    let bounded = |config: &mut Config| {
        telling("http://127.0.0.1:9/nobody")(config);
        config.openlineage.max_queued = 3;
        config.openlineage.max_bytes = ByteSize(64 << 10);
    };
    let node = TestNode::start_with(&format!("{SHOP}{VIEWS}"), bounded).await;
    backfill(&node, "first").await;
    for _ in 0..3 {
        node.materialize("traits", None).await.expect("it is done whoever listens");
        node.advance(SECOND).await;
    }
    assert_eq!((told(&node).waiting(), told(&node).metrics().dropped.get()), (3, 5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_address_nobody_is_told_and_nothing_is_kept() {
    let node = TestNode::start(&format!("{SHOP}{VIEWS}")).await;
    backfill(&node, "first").await;
    assert!(node.node().lineage().is_none());
    let kept = std::fs::read_dir(node.data_directory().join("registry")).expect("a folder");
    let kept = kept.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    assert!(!kept.into_iter().any(|name| name.contains("openlineage")));
}
