//! Section 27, usage: every read is counted once, for what it was of and who made it.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array};
use hydrant::access::NewKey;
use hydrant::history::{Mode, WhyRequest};
use hydrant::registry::definition::Kind;
use hydrant::registry::graph::NodeKind;
use hydrant::registry::plan::Part;
use hydrant::registry::reads::{MAX_CALLERS, OTHERS, Readable};
use hydrant::registry::search::Query;
use hydrant::registry::shares::{NewShare, Shared};
use hydrant::registry::tenants::Expected;
use hydrant::serving::{OnlineRequest, Pieces};
use hydrant::tenancy::{Action, Authenticates as _, Identity, Permit, Role};
use hydrant::usage::{Usage, Wanted};
use hydrant_storage::names::Name;
use serde_json::json;

use super::{SHOP, new_key};
use crate::support::node::{AS_KNOWN, HOUR, START, TestNode, definitions_of};
use crate::support::sets::stored;
use crate::support::table::spine;

const DAY: i64 = 24 * HOUR;

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn wanted(of: &str) -> Wanted {
    Wanted { of: of.to_owned(), ..Wanted::default() }
}

/// As the operator, of the tenant `default`.
async fn usage(node: &TestNode, of: &str) -> Usage {
    let page = node.use_cases().usage.list(&node.permit(Action::ReadUsage), wanted(of)).await.expect("it is there");
    assert_eq!(page.usages.len(), 1, "{of}");
    page.usages[0].clone()
}

/// Online and training, over all days; the days and the readers say the same.
async fn counts(node: &TestNode, of: &str) -> (u64, u64) {
    let usage = usage(node, of).await;
    let of_days = usage.days.iter().fold((0, 0), |sum, (_, day)| (sum.0 + day.online, sum.1 + day.training));
    let readers = usage.readers.iter().map(|reader| reader.reads).chain(usage.others);
    let of_readers = readers.fold((0, 0), |sum, read| (sum.0 + read.counts.online, sum.1 + read.counts.training));
    assert_eq!(of_days, of_readers, "{of}");
    of_days
}

fn online(services: &[&str], features: &[&str]) -> OnlineRequest {
    let [services, features] = [services, features].map(|names| names.iter().map(|&name| name.to_owned()).collect());
    let keys: ArrayRef = Arc::new(Int64Array::from(vec![7]));
    OnlineRequest { services, features, entities: vec![("user_id".to_owned(), keys)], ..OnlineRequest::default() }
}

fn parts<'a>(names: impl IntoIterator<Item = (NodeKind, &'a str)>) -> BTreeSet<Part> {
    names.into_iter().map(|(kind, name)| (kind, name.to_owned())).collect()
}

fn permit(node: &TestNode, who: &Identity, action: Action) -> Permit {
    node.use_cases().tenancy.authorize(who, action).expect("its role allows it")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_read_counts_once_for_what_it_was_of_online_and_training_apart_and_over_a_restart() {
    let mut node = TestNode::start(SHOP).await;
    assert_eq!(usage(&node, "model@1").await.last_online, None);
    let keys = json!({"user_id": [1], "friend_id": [2]});
    for _ in 0..3 {
        node.read(&["model"], keys.clone()).await;
    }
    // A feature that the service has is read by the service.
    node.read(&["model@1", "user_facts:plan", "user_scores:score"], keys.clone()).await;
    node.read(&["user_facts:plan"], json!({"user_id": [1, 2, 3]})).await;
    assert_eq!(counts(&node, "model@1").await, (4, 0));
    assert_eq!(counts(&node, "user_facts:plan").await, (5, 0));
    assert_eq!(counts(&node, "user_clicks:amount").await, (4, 0));
    assert_eq!(counts(&node, "user_scores:score").await, (1, 0));
    assert_eq!(counts(&node, "user_audits:verdict").await, (0, 0));

    // A stream of answers once, and an explanation once; what is refused not at all.
    let bulk = node.permit(Action::ReadInBulk);
    let serving = &node.use_cases().serving;
    let stream =
        serving.begin_bulk(&bulk, online(&[], &["user_scores:score"]), Pieces { rows: Some(1), unpinned: false });
    for piece in [0..1, 0..1] {
        serving.get(&bulk, stream.as_ref().expect("it is right").request(piece, None)).await.expect("answered");
    }
    let why = WhyRequest {
        services: Vec::new(),
        features: vec!["user_scores:score".to_owned()],
        columns: Vec::new(),
        entities: online(&[], &[]).entities,
        at: START,
        mode: Mode::AsKnown,
        cutoff: None,
        losers: 0,
    };
    let history = &node.use_cases().history;
    history.why(&node.permit(Action::ReadOnline), why).await.expect("explained");
    node.try_read_at(&["user_scores:score"], json!({"user_id": [1]}), node.now() + DAY).await.expect_err("to come");
    assert_eq!(counts(&node, "user_scores:score").await, (3, 0));

    // Training sets: exchanged, pulled in parts, saved, pulled again. Making it again to verify reads nothing out.
    let rows = spine(&json!([
        {"user_id": 1, "friend_id": 2, "at": START}, {"user_id": 2, "friend_id": 3, "at": START},
    ]));
    node.train(&["model"], &rows, AS_KNOWN).await;
    assert_eq!(counts(&node, "model@1").await, (4, 1));
    let prepared = node.prepare(stored(node.store(&rows).await, &["model"], AS_KNOWN)).await;
    assert_eq!(counts(&node, "model@1").await, (4, 1), "nothing was pulled yet");
    node.pull_all(&prepared, 1).await;
    assert_eq!(counts(&node, "model@1").await, (4, 2));
    node.save("set", prepared_again(&node, &rows).await).await;
    assert_eq!(counts(&node, "model@1").await, (4, 3));
    node.pull_saved("set", 1, 1).await;
    node.verify("set", 1).await;
    assert_eq!(counts(&node, "model@1").await, (4, 4));
    assert_eq!(counts(&node, "user_facts:plan").await, (5, 4));

    node.advance(DAY).await;
    node.read(&["model"], keys).await;
    let before = usage(&node, "user_facts:plan").await;
    assert_eq!(before.days.iter().map(|(day, of)| (day % DAY, of.online)).collect::<Vec<_>>(), [(0, 5), (0, 1)]);
    assert!(before.last_online > before.last_training && before.readers[0].caller.as_deref() == Some("loopback"));
    node.restart().await;
    assert_eq!(usage(&node, "user_facts:plan").await, before);
    assert_eq!(counts(&node, "model@1").await, (5, 4));
    let unknown = node.use_cases().usage.list(&node.permit(Action::ReadUsage), wanted("nothing")).await;
    assert_eq!(unknown.expect_err("there is none").reason, "USAGE_NOT_FOUND");
    let reader = node.permit(Action::ReadDefinitions);
    assert!(node.use_cases().usage.list(&reader, wanted("")).await.is_err(), "another action's permit does not do");
}

async fn prepared_again(node: &TestNode, rows: &arrow_array::RecordBatch) -> hydrant::history::sets::StoredRequest {
    stored(node.store(rows).await, &["model"], AS_KNOWN)
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_are_told_apart_up_to_a_bound_and_beyond_it_no_read_is_lost() {
    let mut node = TestNode::start(SHOP).await;
    let callers = MAX_CALLERS + 10;
    for restarted in [false, true] {
        for number in 0..callers {
            let roles = [Role::Reader].into_iter().collect();
            let who = Identity::new(&format!("key/{number:03}"), name("default"), roles, None);
            let read = permit(&node, &who, Action::ReadOnline);
            node.get_by(&read, online(&[], &["user_scores:score"])).await.expect("answered");
        }
        let told = usage(&node, "user_scores:score").await;
        let times = if restarted { 2 } else { 1 };
        assert_eq!(
            (told.readers.len(), counts(&node, "user_scores:score").await.0),
            (MAX_CALLERS, times * callers as u64)
        );
        assert!(told.readers.iter().all(|reader| reader.caller.as_deref().is_some_and(|caller| caller != OTHERS)));
        assert_eq!(told.others.expect("some").counts.online, times * 10);
        node.restart().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_of_what_is_shared_sees_which_tenants_read_it_and_not_by_whom() {
    let node = TestNode::start(SHOP).await;
    let document = "apiVersion: hydrant/v1\nkind: Tenant\nmetadata: {name: rival}\nspec: {}\n";
    let registry = &node.use_cases().registry;
    let platform = node.permit(Action::ManageTenants);
    registry.apply_tenants(&platform, definitions_of(document), Expected::Any, None).await.expect("it is made");
    let access = &node.use_cases().access;
    let first = NewKey { tenant: Some(name("rival")), ..new_key(&[Role::Admin]) };
    let (_, token) = access.create(&platform, first).await.expect("its first key");
    let rival = access.authenticate(Some(&token.reveal())).expect("it is good");
    for of in [Shared::View(name("user_scores")), Shared::Service(name("model"))] {
        let share = NewShare { of, to: name("rival"), may_train: true, with_pii: false };
        registry.create_share(&node.permit(Action::ChangeDefinitions), share, false).await.expect("an owner may");
    }
    let read = permit(&node, &rival, Action::ReadOnline);
    let friend: ArrayRef = Arc::new(Int64Array::from(vec![8]));
    for _ in 0..2 {
        node.get_by(&read, online(&[], &["default/user_scores:score"])).await.expect("it is shared");
        let mut request = online(&["default/model"], &[]);
        request.entities.push(("friend_id".to_owned(), friend.clone()));
        node.get_by(&read, request).await.expect("it is shared");
    }
    node.read(&["user_scores:score"], json!({"user_id": [7]})).await;
    let readers = async |of: &str| {
        let told = usage(&node, of).await.readers;
        let told = told.into_iter().map(|told| (told.tenant.to_string(), told.caller, told.reads.counts.online));
        let mut told: Vec<_> = told.collect();
        told.sort();
        told
    };
    let own = ("default".to_owned(), Some("loopback".to_owned()), 1);
    assert_eq!(readers("user_scores:score").await, [own, ("rival".to_owned(), None, 2)]);
    for of in ["model@1", "user_facts:plan"] {
        assert_eq!(readers(of).await, [("rival".to_owned(), None, 2)]);
    }
    // It is told to the owner, and of what is one's own alone.
    let of_rival = permit(&node, &rival, Action::ReadUsage);
    let usages = &node.use_cases().usage;
    assert!(usages.list(&of_rival, wanted("")).await.expect("it has nothing").usages.is_empty());
    assert_eq!(usages.list(&of_rival, wanted("model")).await.expect_err("not its own").reason, "USAGE_NOT_FOUND");
    let of = Readable::parse("user_scores:score").expect("a feature");
    assert_eq!(usages.get(&of_rival, of).await.expect_err("not its own").reason, "USAGE_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_has_read_for_so_long_or_ever_is_listed_and_searched_for() {
    let node = TestNode::start(SHOP).await;
    node.read(&["user_facts:plan"], json!({"user_id": [1]})).await;
    node.read(&["user_scores:score"], json!({"user_id": [1]})).await;
    let before = usage(&node, "user_scores:score").await.last_online.expect("it was read");
    node.advance(31 * DAY).await;
    node.read(&["user_facts:plan"], json!({"user_id": [1]})).await;
    let usages = &node.use_cases().usage;
    let owner = node.permit(Action::ReadUsage);
    let mut names = Vec::new();
    let mut page = Wanted { unused_for: Some(30 * DAY), page_size: 3, ..Wanted::default() };
    loop {
        let listed = usages.list(&owner, page.clone()).await.expect("listed");
        assert!(listed.usages.len() <= 3 && listed.since <= before && listed.uncounted == 0);
        names.extend(listed.usages.iter().map(|usage| (usage.of.to_string(), usage.last_online)));
        page.page_token = listed.next_page_token;
        if page.page_token.is_empty() {
            break;
        }
    }
    let never = [
        "pair_scores:score",
        "recent_facts:level",
        "recent_facts:plan",
        "user_audits:verdict",
        "user_clicks:amount",
        "user_clicks:page",
        "user_facts:level",
        "user_reports:grade",
    ];
    let mut expected: Vec<_> = never.iter().map(|of| ((*of).to_owned(), None)).collect();
    expected.push(("user_scores:score".to_owned(), Some(before)));
    expected.push(("model@1".to_owned(), None));
    assert_eq!(names, expected);
    let longer = Wanted { of: "user_scores".to_owned(), unused_for: Some(32 * DAY), ..Wanted::default() };
    assert!(usages.list(&owner, longer).await.expect("listed").usages.is_empty(), "it was read 31 days ago");
    let forged = Wanted { page_token: "forged".to_owned(), ..Wanted::default() };
    assert_eq!(usages.list(&owner, forged).await.expect_err("no token").reason, "BAD_PAGE_TOKEN");

    let read = node.permit(Action::ReadDefinitions);
    let unread = Some(usages.unread(&read, 30 * DAY).await.expect("an owner may"));
    let query = Query { kind: Some(NodeKind::FeatureView), unread, ..Query::default() };
    let (found, _) = node.use_cases().registry.search(&read, query, 0, String::new()).await.expect("found");
    let found: Vec<_> = found.hits.into_iter().map(|hit| (hit.name, hit.last_read)).collect();
    let views = ["pair_scores", "recent_facts", "user_audits", "user_clicks", "user_reports", "user_scores"];
    let last = |view: &str| (view == "user_scores").then_some(before);
    assert_eq!(found, views.map(|view| (view.to_owned(), last(view))));
    let reader = Identity::new("key/r", name("default"), [Role::Reader].into_iter().collect(), None);
    let refused = usages.unread(&permit(&node, &reader, Action::ReadDefinitions), DAY).await;
    assert_eq!(refused.expect_err("a reader").reason, "PERMISSION_DENIED");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_about_to_change_is_told_with_how_much_it_is_read_to_those_who_may_see_that() {
    let node = TestNode::start(SHOP).await;
    let begun = node.now();
    for _ in 0..2 {
        node.read(&["model"], json!({"user_id": [1], "friend_id": [2]})).await;
    }
    node.read(&["user_scores:score"], json!({"user_id": [1]})).await;
    let usages = &node.use_cases().usage;
    node.advance(4 * DAY).await;

    let change = node.permit(Action::ChangeDefinitions);
    let ask = async || usages.so_far(&change).await.expect("asked").expect("an owner may");
    let before = ask().await;
    // With how often each is read: a service that has several features of a view is one read of the view.
    let expected = [
        (NodeKind::Entity, "user", 3),
        (NodeKind::Entity, "item", 0),
        (NodeKind::Source, "clicks", 3),
        (NodeKind::Source, "facts", 2),
        (NodeKind::Column, "facts.plan", 2),
        (NodeKind::Column, "clicks.score", 1),
        (NodeKind::Column, "clicks.user_id", 3),
        (NodeKind::Column, "clicks.happened", 3),
        (NodeKind::Column, "clicks.item_id", 0),
        (NodeKind::Column, "audits.noticed", 0),
        (NodeKind::FeatureView, "user_facts", 2),
        (NodeKind::FeatureView, "user_audits", 0),
        (NodeKind::Feature, "user_facts:plan", 2),
        (NodeKind::Feature, "user_scores:score", 1),
        (NodeKind::FeatureService, "model", 2),
        (NodeKind::FeatureService, "model@1", 2),
    ];
    let unread = [
        (NodeKind::FeatureService, "model@2"),
        (NodeKind::Feature, "user_facts:nothing"),
        (NodeKind::Column, "facts.nothing"),
        (NodeKind::FeatureView, "nothing"),
        (NodeKind::Consumer, "model"),
        (NodeKind::TrainingSet, "model"),
    ];
    let named = expected.iter().map(|(kind, name, _)| (*kind, *name));
    let told = before.told(parts(named.chain(unread))).await.expect("told");
    assert_eq!(told.len(), expected.len(), "{told:?}");
    for (kind, name, reads) in expected {
        let summary = told[&(kind, name.to_owned())];
        assert!((summary.a_day * 4.0 - f64::from(reads)).abs() < 1e-3, "{kind:?} {name}: {summary:?}");
        assert_eq!(summary.last_online.is_some(), reads > 0, "{kind:?} {name}");
        assert_eq!((summary.last_training, summary.readers), (None, usize::from(reads > 0)), "{kind:?} {name}");
        assert!(!summary.has_more_readers && summary.since <= begun, "{summary:?}");
    }

    // What was asked for before a deletion tells the reads of what has gone.
    let (before, registry) = (ask().await, &node.use_cases().registry);
    registry.delete(&change, Kind::FeatureService, &name("model"), String::new()).await.expect("nothing uses it");
    let told = before.told(parts([(NodeKind::FeatureService, "model")])).await.expect("told");
    let means: Vec<f64> = told.into_values().map(|summary| summary.a_day).collect();
    assert!(means.len() == 1 && (means[0] - 0.5).abs() < 1e-3, "{means:?}");
    let told = ask().await.told(parts([(NodeKind::FeatureService, "model")])).await.expect("told");
    assert!(told.is_empty(), "it is gone: {told:?}");

    let reader = Identity::new("key/r", name("default"), [Role::Reader].into_iter().collect(), None);
    let plan = permit(&node, &reader, Action::ReadDefinitions);
    assert!(usages.so_far(&plan).await.expect("it may plan").is_none(), "a reader sees no usage");
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_stay_those_of_the_features_when_a_service_goes_and_are_not_those_of_another_of_its_name() {
    let mut node = TestNode::start(SHOP).await;
    let keys = json!({"user_id": [1], "friend_id": [2]});
    node.read(&["model"], keys).await;
    node.read(&["user_scores:score"], json!({"user_id": [1]})).await;
    assert_eq!(counts(&node, "user_facts:plan").await, (1, 0));
    let change = node.permit(Action::ChangeDefinitions);
    let registry = node.use_cases().registry.clone();
    registry.delete(&change, Kind::FeatureService, &name("model"), String::new()).await.expect("nothing uses it");
    registry.delete(&change, Kind::FeatureView, &name("user_scores"), String::new()).await.expect("nothing uses it");
    drop(change);
    for _ in 0..2 {
        assert_eq!(counts(&node, "user_facts:plan").await, (1, 0));
        node.restart().await;
    }
    node.advance(HOUR).await;
    node.apply(SHOP).await;
    for of in ["model", "user_scores:score"] {
        assert_eq!((counts(&node, of).await, usage(&node, of).await.last_online), ((0, 0), None));
    }
    assert_eq!(counts(&node, "user_facts:plan").await, (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_an_older_version_of_a_view_has_is_told_as_long_as_that_version_is_there() {
    let mut node = TestNode::start(SHOP).await;
    let keys = json!({"user_id": [1], "friend_id": [2]});
    node.read(&["model"], keys.clone()).await;
    let tier = SHOP
        .replace("{name: plan}, {name: level, default: -1}", "{name: tier, column: plan}, {name: level, default: -1}");
    let (views, _) =
        tier.split_once("---\napiVersion: hydrant/v1\nkind: FeatureService").expect("a service at the end");
    node.apply(views).await;
    node.built().await;
    node.read(&["model@1"], keys).await;
    for _ in 0..2 {
        // Its owner has to know before the older version is deleted.
        assert_eq!(counts(&node, "user_facts:plan").await, (2, 0));
        assert_eq!(counts(&node, "user_facts:tier").await, (0, 0));
        let usages = node.use_cases().usage.clone();
        let all = usages.list(&node.permit(Action::ReadUsage), wanted("user_facts")).await.expect("listed");
        let names: Vec<String> = all.usages.iter().map(|usage| usage.of.to_string()).collect();
        assert_eq!(names, ["user_facts:level", "user_facts:plan", "user_facts:tier"]);
        drop(usages);
        node.restart().await;
    }
    let registry = node.use_cases().registry.clone();
    let change = node.permit(Action::ChangeDefinitions);
    registry.delete(&change, Kind::FeatureService, &name("model"), String::new()).await.expect("nothing uses it");
    registry.delete_view_version(&change, &name("user_facts"), 1, String::new()).await.expect("nothing reads it");
    let gone = node.use_cases().usage.list(&node.permit(Action::ReadUsage), wanted("user_facts:plan")).await;
    assert_eq!(gone.expect_err("no version has it").reason, "USAGE_NOT_FOUND");
}
