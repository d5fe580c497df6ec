//! Contract, section 19: how much a tenant may use is set, kept, told, and held to before work begins.

use std::time::Duration;

use hydrant::access::Token;
use hydrant::error::{Code, Error};
use hydrant::history::HistoricalRequest;
use hydrant::quotas::{Change, QuotaStatus, Raise, TenantQuotas};
use hydrant::tenancy::{Action, Authenticates as _, DEFAULT_TENANT, Limits, Quota, Role};
use hydrant_storage::names::Name;
use serde_json::{Value as Json, json};

use super::{SHOP, new_key};
use crate::support::node::{AS_KNOWN, DAY, HOUR, START, TestNode, definitions_of};
use crate::support::sets::stored;
use crate::support::table::spine;

const MINUTE: Duration = Duration::from_mins(1);

fn tenant() -> Name {
    DEFAULT_TENANT.parse().expect("a name")
}

fn limits(set: &[(Quota, u64)]) -> Change {
    Change { set: set.to_vec(), ..Change::default() }
}

async fn try_set(node: &TestNode, change: Change, etag: &str) -> Result<TenantQuotas, Error> {
    let permit = node.permit(Action::ChangeQuotas);
    node.use_cases().quotas.update(&permit, &tenant(), change, etag, false).await
}

async fn set(node: &TestNode, set: &[(Quota, u64)]) -> TenantQuotas {
    try_set(node, limits(set), "").await.expect("limits")
}

async fn try_raise(node: &TestNode, raise: Raise) -> Result<TenantQuotas, Error> {
    let permit = node.permit(Action::ChangeQuotas);
    node.use_cases().quotas.raise(&permit, &tenant(), raise, "", false).await
}

fn get(node: &TestNode) -> TenantQuotas {
    node.use_cases().quotas.get(&node.permit(Action::ReadQuotas), &tenant()).expect("there is the tenant")
}

fn status(quotas: &TenantQuotas, quota: Quota) -> QuotaStatus {
    *quotas.quotas.iter().find(|status| status.quota == quota).expect("every quota is told")
}

/// That it was refused because of this quota, naming it with usage and limit; and whether to try again.
#[track_caller]
fn is_of<T: std::fmt::Debug>(refused: Result<T, Error>, quota: Quota, limit: u64) -> Option<Duration> {
    let refused = refused.expect_err("over the quota");
    assert_eq!((refused.code, refused.reason), (Code::ResourceExhausted, "QUOTA_EXCEEDED"), "{refused}");
    let told = refused.quota.expect("which quota");
    let found = (told.subject.as_str(), told.quota.as_str(), told.limit);
    assert_eq!(found, ("tenants/default", quota.as_str(), limit));
    refused.retry_after
}

fn clicks(users: std::ops::Range<i64>) -> Json {
    users.map(|user| json!({"user_id": user, "item_id": "i", "happened": START, "amount": 1.5})).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_limited_until_it_is_set_and_what_is_set_holds_at_once_and_after_a_restart() {
    let mut node = TestNode::start(SHOP).await;
    let quotas = get(&node);
    assert!(quotas.quotas.iter().all(|status| status.limit.is_none()) && quotas.updated.is_none(), "{quotas:?}");
    assert_eq!(quotas.quotas.len(), Quota::ALL.len());
    let told = set(&node, &[(Quota::IngestRowsPerSecond, 1)]).await;
    assert_eq!(status(&told, Quota::IngestRowsPerSecond).limit, Some(1));
    assert_eq!(told.updated.as_ref().map(|(_, by)| by.as_str()), Some("loopback"));
    // More than a second's worth is taken where nothing is owed, and is owed then.
    node.put("clicks", clicks(0..100)).await;
    let retry = is_of(node.try_put("clicks", clicks(0..1)).await, Quota::IngestRowsPerSecond, 1);
    assert!(retry.is_some(), "it helps to wait");
    node.restart().await;
    assert_eq!(get(&node).etag, told.etag);
    node.put("clicks", clicks(0..100)).await;
    is_of(node.try_put("clicks", clicks(0..1)).await, Quota::IngestRowsPerSecond, 1);
    let unset = Change { unset: vec![Quota::IngestRowsPerSecond], ..Change::default() };
    try_set(&node, unset, &told.etag).await.expect("it was seen");
    node.put("clicks", clicks(0..9)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_was_seen_is_changed_and_validation_changes_nothing() {
    let node = TestNode::start("").await;
    let seen = set(&node, &[(Quota::Features, 10)]).await;
    let permit = node.permit(Action::ChangeQuotas);
    let change = limits(&[(Quota::Features, 20)]);
    let quotas = &node.use_cases().quotas;
    let would = quotas.update(&permit, &tenant(), change.clone(), &seen.etag, true).await.expect("valid");
    assert_eq!(status(&would, Quota::Features).limit, Some(20));
    assert_eq!(get(&node), seen, "nothing was changed");
    try_set(&node, change.clone(), &seen.etag).await.expect("it was seen");
    let refused = try_set(&node, limits(&[(Quota::Features, 30)]), &seen.etag).await.expect_err("it was not");
    assert_eq!((refused.code, refused.reason), (Code::Aborted, "ETAG_MISMATCH"));
    let before = get(&node);
    assert_eq!(try_set(&node, change, "").await.expect("as it is").etag, before.etag, "what changes nothing");
    for (wrong, reason) in [
        (Change::default(), "BAD_QUOTA"),
        (limits(&[(Quota::TrainingMemoryBytes, 1)]), "BAD_QUOTA"),
        (limits(&[(Quota::Features, u64::MAX)]), "BAD_QUOTA"),
        (limits(&[(Quota::Features, 1), (Quota::Features, 2)]), "BAD_QUOTA"),
        (Change { weight: Some(0), ..Change::default() }, "BAD_QUOTA"),
    ] {
        let refused = try_set(&node, wrong, "").await.expect_err("no limit");
        assert_eq!((refused.code, refused.reason), (Code::InvalidArgument, reason));
    }
    let nobody: Name = "nobody".parse().expect("a name");
    let refused = quotas.get(&node.permit(Action::ReadQuotas), &nobody).expect_err("there is no such tenant");
    assert_eq!(refused.reason, "TENANT_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_raise_falls_back_by_itself_also_over_a_restart() {
    let mut node = TestNode::start("").await;
    let raise = |limit, lasts| Raise { limits: vec![(Quota::KeysPerSecond, limit)], lasts, end: Vec::new() };
    let refused = try_raise(&node, raise(5_000, 2 * MINUTE)).await.expect_err("there is no limit");
    assert_eq!((refused.code, refused.reason), (Code::FailedPrecondition, "QUOTA_NOT_SET"));
    set(&node, &[(Quota::KeysPerSecond, 500)]).await;
    assert_eq!(try_raise(&node, raise(500, MINUTE)).await.expect_err("no raise").reason, "BAD_QUOTA");
    assert_eq!(try_raise(&node, raise(600, Duration::ZERO)).await.expect_err("for no time").reason, "BAD_QUOTA");
    let raised = try_raise(&node, raise(5_000, 2 * MINUTE)).await.expect("raised");
    let end = START + 120_000_000;
    let expected = QuotaStatus {
        quota: Quota::KeysPerSecond,
        used: Some(0),
        limit: Some(5_000),
        set: Some(500),
        raised_until: Some(end),
    };
    assert_eq!(status(&raised, Quota::KeysPerSecond), expected);
    let held = |node: &TestNode| node.use_cases().tenancy.account(&tenant()).expect("it is there").limits();
    assert_eq!(held(&node).of(Quota::KeysPerSecond), Some(5_000));
    node.set_clock(end - 1).await;
    node.restart().await;
    assert_eq!(held(&node).of(Quota::KeysPerSecond), Some(5_000), "it lasts over a restart");
    node.set_clock(end).await;
    node.use_cases().quotas.refresh();
    assert_eq!(held(&node).of(Quota::KeysPerSecond), Some(500));
    assert_eq!(status(&get(&node), Quota::KeysPerSecond).raised_until, None);

    try_raise(&node, raise(5_000, 2 * MINUTE)).await.expect("raised");
    node.close().await;
    node.clock.advance(2 * MINUTE);
    node.open().await.expect("it opens");
    assert_eq!(held(&node).of(Quota::KeysPerSecond), Some(500), "it ended while nothing ran");
    try_raise(&node, raise(5_000, 2 * MINUTE)).await.expect("raised");
    let ended = Raise { end: vec![Quota::KeysPerSecond], ..Raise::default() };
    assert_eq!(status(&try_raise(&node, ended).await.expect("ended"), Quota::KeysPerSecond).limit, Some(500));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weights_are_kept_and_taken_turns_by() {
    let mut node = TestNode::start("").await;
    let heavier = Change { weight: Some(7), ..Change::default() };
    assert_eq!(try_set(&node, heavier, "").await.expect("a weight").weight, 7);
    node.restart().await;
    assert_eq!(get(&node).weight, 7);
    let account = node.use_cases().tenancy.account(&tenant()).expect("it is there");
    assert_eq!(account.limits(), Limits::default().weight(7));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_used_up_everything_can_still_see_it_and_have_it_raised() {
    let node = TestNode::start("").await;
    set(&node, &[(Quota::RequestsPerSecond, 0), (Quota::ConcurrentRequests, 0)]).await;
    let identity = hydrant::tenancy::Identity::loopback();
    let tried = node.use_cases().tenancy.authorize(&identity, Action::Write);
    assert_eq!(is_of(tried, Quota::RequestsPerSecond, 0), None, "waiting is in vain");
    assert_eq!(status(&get(&node), Quota::RequestsPerSecond).limit, Some(0));
    let unset = vec![Quota::RequestsPerSecond, Quota::ConcurrentRequests];
    try_set(&node, Change { unset, ..Change::default() }, "").await.expect("not charged");
    node.apply(SHOP).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_and_features_over_the_quota_are_refused_before_anything_else_about_them() {
    let node = TestNode::start(SHOP).await;
    node.use_cases().quotas.measure();
    let quotas = get(&node);
    let views = status(&quotas, Quota::FeatureViews).used.expect("counted");
    let features = status(&quotas, Quota::Features).used.expect("counted");
    assert!(views >= 6 && features > views, "{quotas:?}");
    let view = |name: &str, features: &str| {
        format!(
            "apiVersion: hydrant/v1\nkind: FeatureView\nmetadata: {{name: {name}}}\nspec: {{entities: [user], source: facts, features: [{features}]}}\n"
        )
    };
    set(&node, &[(Quota::FeatureViews, views)]).await;
    // The feature is none of the source's: of that nothing is said.
    let more = view("one_more", "{name: nonsense}");
    assert_eq!(is_of(node.try_apply(&more).await, Quota::FeatureViews, views), None);
    let planned = node.use_cases().registry.plan(&node.permit(Action::ReadDefinitions), &definitions_of(&more));
    is_of(planned, Quota::FeatureViews, views);
    set(&node, &[(Quota::FeatureViews, views + 1), (Quota::Features, features)]).await;
    is_of(node.try_apply(&view("one_more", "{name: plan}")).await, Quota::Features, features);
    set(&node, &[(Quota::FeatureViews, 1), (Quota::Features, features)]).await;
    node.apply(SHOP).await;
    set(&node, &[(Quota::FeatureViews, views + 1), (Quota::Features, features + 1)]).await;
    node.apply(&view("one_more", "{name: plan}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn training_sets_have_no_more_memory_than_the_tenant_and_are_the_same_with_less() {
    let node = TestNode::start(SHOP).await;
    let rows: Json =
        (0..50).map(|user| json!({"user_id": user, "happened": START - HOUR, "plan": "gold", "level": user})).collect();
    node.put("facts", rows).await;
    let wanted = spine(&(0..50).map(|user| json!({"user_id": user, "friend_id": user, "at": START})).collect());
    let whole = node.train(&["model"], &wanted, AS_KNOWN).await;
    let least = Quota::LEAST_TRAINING_MEMORY;
    set(&node, &[(Quota::TrainingSetMemoryBytes, least)]).await;
    let with_less = node.train(&["model"], &wanted, AS_KNOWN).await;
    assert_eq!(with_less.report.content_hash, whole.report.content_hash);

    set(&node, &[(Quota::TrainingSetMemoryBytes, least), (Quota::TrainingMemoryBytes, least * 3 / 2)]).await;
    let permit = node.permit(Action::ReadHistory);
    let request = HistoricalRequest {
        services: vec!["model".to_owned()],
        features: Vec::new(),
        event_time: "at".to_owned(),
        mode: AS_KNOWN.mode,
        cutoff: None,
        with_status: false,
        with_event_time: false,
        spine: wanted.schema(),
    };
    let open = || node.use_cases().history.open(&permit, request.clone());
    let first = open().expect("the first has room");
    let refused = open().map(|_| ());
    assert!(is_of(refused, Quota::TrainingMemoryBytes, least * 3 / 2).is_some(), "it helps to wait");
    drop(first);
    drop(open().expect("it was given back"));

    // Walks of stored spines take it too.
    let spine = node.store(&wanted).await;
    let held = open().expect("room");
    let prepared = node.prepare(stored(spine, &["model"], AS_KNOWN)).await;
    is_of(node.try_pull(&prepared, 0..50).await, Quota::TrainingMemoryBytes, least * 3 / 2);
    drop(held);
    assert_eq!(node.try_pull(&prepared, 0..50).await.expect("room again").num_rows(), 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storage_over_the_quota_refuses_ingest_backfills_and_spines_before_they_begin() {
    let node = TestNode::start(SHOP).await;
    let facts: Json = (0..2_000)
        .map(|user| json!({"user_id": user, "happened": START - DAY, "plan": format!("plan {user}"), "level": user}))
        .collect();
    node.put("facts", facts).await;
    node.land().await;
    let quotas = &node.use_cases().quotas;
    quotas.measure_storage();
    let stored = status(&get(&node), Quota::StorageBytes).used.expect("counted");
    assert!(stored > 10_000, "the files of history: {stored}");

    let batch = node.batch("facts", &json!([{"user_id": 1, "happened": START, "plan": "x".repeat(600), "level": 1}]));
    let limit = stored + 500;
    set(&node, &[(Quota::StorageBytes, limit)]).await;
    let refused = node.try_put("clicks", clicks(0..200)).await;
    assert_eq!(is_of(refused, Quota::StorageBytes, limit), None, "waiting does not help");
    let request = node.backfill_of("facts", "one", std::slice::from_ref(&batch));
    is_of(node.backfill(request.clone(), std::slice::from_ref(&batch)).await, Quota::StorageBytes, limit);
    let wanted = spine(&(0..500).map(|user| json!({"user_id": user, "at": START})).collect());
    is_of(node.try_store(&wanted).await, Quota::StorageBytes, limit);
    let permit = node.permit(Action::Write);
    let checked = hydrant::backfill::BackfillRequest { validate_only: true, ..request.clone() };
    let mut intake = node.use_cases().backfills.begin(&permit, checked).await.expect("only checked");
    intake.push(batch.clone()).await.expect("what is only checked takes no storage");
    drop(intake);

    set(&node, &[(Quota::StorageBytes, stored * 10)]).await;
    node.store(&wanted).await;
    node.backfill(request, &[batch]).await.expect("room");
    let before = status(&get(&node), Quota::StorageBytes).used;
    assert!(before > Some(stored), "what is made counts before it is measured");
    quotas.measure_storage();
    assert!(status(&get(&node), Quota::StorageBytes).used > Some(stored), "and after");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn most_of_a_quota_in_use_is_shown_where_it_is_told() {
    let node = TestNode::start(SHOP).await;
    node.use_cases().quotas.measure();
    let views = status(&get(&node), Quota::FeatureViews).used.expect("counted");
    set(&node, &[(Quota::FeatureViews, views * 2)]).await;
    assert!(!status(&get(&node), Quota::FeatureViews).is_near());
    set(&node, &[(Quota::FeatureViews, views)]).await;
    assert!(status(&get(&node), Quota::FeatureViews).is_near());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backups_have_the_quotas() {
    let node = TestNode::start(SHOP).await;
    set(&node, &[(Quota::Features, 1_000)]).await;
    node.back_up("with_quotas").await.expect("made");
    set(&node, &[(Quota::Features, 2_000)]).await;
    assert_eq!(status(&get(&node.restored("with_quotas").await), Quota::Features).limit, Some(1_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_s_limits_hold_beside_its_tenant_s_and_the_refusal_names_it() {
    let mut node = TestNode::start(SHOP).await;
    let make = async |node: &TestNode| {
        let manage = node.permit(Action::ManageKeys);
        let made = node.use_cases().access.create(&manage, new_key(&[Role::Reader])).await;
        made.expect("an admin may")
    };
    let ((limited, limited_token), (_, other_token)) = (make(&node).await, make(&node).await);
    let id = limited.id.to_string();
    let read = async |node: &TestNode, token: &Token| {
        let identity = node.use_cases().access.authenticate(Some(&token.reveal()))?;
        let permit = node.use_cases().tenancy.authorize(&identity, Action::ReadOnline)?;
        let question = node.question(&["user_scores:score"], &json!({"user_id": [1, 2]}));
        node.get_by(&permit, question).await.map(|_| ())
    };
    let set = async |node: &TestNode, change: Change| {
        let manage = node.permit(Action::ManageKeys);
        let quotas = &node.use_cases().quotas;
        quotas.update_key(&manage, (&tenant(), &id), change, "", false).await.expect("an admin may")
    };
    read(&node, &limited_token).await.expect("nothing is limited");
    let told = set(&node, limits(&[(Quota::KeysPerSecond, 1), (Quota::RequestsPerSecond, 1_000)])).await;
    assert_eq!((told.key.as_deref(), status(&told, Quota::KeysPerSecond).limit), (Some(id.as_str()), Some(1)));
    for _ in 0..2 {
        // A request may ask for more than a second's worth where nothing is owed.
        read(&node, &limited_token).await.expect("nothing is owed");
        let refused = read(&node, &limited_token).await.expect_err("it is used up");
        let quota = refused.quota.as_ref().expect("which quota");
        assert_eq!((refused.code, refused.reason), (Code::ResourceExhausted, "QUOTA_EXCEEDED"));
        let subject = format!("tenants/default/keys/{id}");
        assert_eq!(
            (quota.subject.as_str(), quota.quota.as_str(), quota.limit),
            (subject.as_str(), "keys_per_second", 1)
        );
        assert!(refused.retry_after.is_some() && refused.message.contains(&format!("key '{id}'")), "{refused}");
        for _ in 0..20 {
            read(&node, &other_token).await.expect("the tenant's other keys have what there is");
        }
        node.restart().await;
    }
    let manage = node.permit(Action::ManageKeys);
    let listed = node.use_cases().quotas.list_keys(&manage, &tenant()).expect("listed");
    assert_eq!(listed.len(), 1);
    let raise = Raise { limits: vec![(Quota::KeysPerSecond, 1_000_000)], lasts: MINUTE, ..Raise::default() };
    let of_key = (&tenant(), id.as_str());
    node.use_cases().quotas.raise_key(&manage, of_key, raise, "", false).await.expect("an admin may");
    for _ in 0..20 {
        read(&node, &limited_token).await.expect("it is raised");
    }
    // The tenant's limit holds for the key too, and names the tenant.
    try_set(&node, limits(&[(Quota::KeysPerSecond, 0)]), "").await.expect("the platform may");
    is_of(read(&node, &limited_token).await, Quota::KeysPerSecond, 0);
    let unset = Change { unset: vec![Quota::KeysPerSecond], ..Change::default() };
    try_set(&node, unset.clone(), "").await.expect("the platform may");
    set(&node, unset).await;
    set(&node, limits(&[(Quota::RequestsPerSecond, 0)])).await;
    let refused = read(&node, &limited_token).await.expect_err("before anything is done");
    assert_eq!(refused.quota.expect("which quota").subject, format!("tenants/default/keys/{id}"));
    set(&node, Change { unset: vec![Quota::RequestsPerSecond], ..Change::default() }).await;
    read(&node, &limited_token).await.expect("nothing is limited any more");
    assert!(node.use_cases().quotas.list_keys(&manage, &tenant()).expect("listed").is_empty());
    drop(manage);
    node.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_of_keys_are_for_whoever_manages_the_keys_and_what_is_kept_has_none() {
    let node = TestNode::start("").await;
    let quotas = &node.use_cases().quotas;
    let (manage, change) = (node.permit(Action::ManageKeys), limits(&[(Quota::RequestsPerSecond, 5)]));
    let of_key = (&tenant(), "abcdefghjk");
    for action in [Action::ChangeQuotas, Action::ReadQuotas, Action::ReadOnline] {
        let refused = quotas.update_key(&node.permit(action), of_key, change.clone(), "", false).await;
        assert_eq!(refused.expect_err("for something else").code, Code::PermissionDenied);
    }
    for wrong in [
        limits(&[(Quota::StorageBytes, 1 << 30)]),
        limits(&[(Quota::FeatureViews, 1)]),
        Change { unset: vec![Quota::Features], ..Change::default() },
        Change { weight: Some(2), ..Change::default() },
    ] {
        let refused = quotas.update_key(&manage, of_key, wrong, "", false).await.expect_err("it is the tenant's");
        assert_eq!((refused.code, refused.reason), (Code::InvalidArgument, "BAD_QUOTA"), "{refused}");
    }
    let raise = Raise { limits: vec![(Quota::StorageBytes, 1 << 40)], lasts: MINUTE, ..Raise::default() };
    assert_eq!(quotas.raise_key(&manage, of_key, raise, "", false).await.expect_err("neither").reason, "BAD_QUOTA");
    quotas.update_key(&manage, of_key, change.clone(), "", true).await.expect("it could be");
    assert!(quotas.list_keys(&manage, &tenant()).expect("listed").is_empty(), "it was only checked");
    let told = quotas.update_key(&manage, of_key, change.clone(), "", false).await.expect("an admin may");
    let stale = quotas.update_key(&manage, of_key, change, "77", false).await.expect_err("it was not seen");
    assert_eq!(stale.reason, "ETAG_MISMATCH");
    assert_eq!(quotas.get_key(&manage, &tenant(), "abcdefghjk").expect("told").etag, told.etag);
    assert!(get(&node).quotas.iter().all(|status| status.limit.is_none()), "the tenant's are as they were");
}
