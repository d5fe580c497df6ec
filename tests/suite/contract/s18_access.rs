//! Section 18, access: API keys over their life, tenants beside one another, and limited keys, through the
//! use cases of a node in process. Who may call which method is tried over sockets.

use std::path::Path;
use std::time::Duration;

use arrow_array::ArrayRef;
use arrow_array::cast::AsArray as _;
use arrow_array::types::Float64Type;
use hydrant::access::{Access, NewKey, Token};
use hydrant::error::{Code, Error};
use hydrant::registry::definition::Kind;
use hydrant::registry::tenants::Expected;
use hydrant::serving::OnlineRequest;
use hydrant::tenancy::{Action, Authenticates as _, Identity, Permit, Role};
use hydrant_storage::names::Name;
use serde_json::json;

use super::{SHOP, new_key};
use crate::support::node::{AS_KNOWN, HOUR, MINUTE, START, TestNode, definitions_of, training_of};
use crate::support::table;

const TENANT: &str = "
apiVersion: hydrant/v1
kind: Tenant
metadata: {name: rival, description: beside the other}
spec: {}
";

fn access(node: &TestNode) -> &Access {
    &node.use_cases().access
}

fn known(node: &TestNode, token: &Token) -> Result<Identity, Error> {
    access(node).authenticate(Some(&token.reveal()))
}

fn permit_of(node: &TestNode, identity: &Identity, action: Action) -> Permit {
    node.use_cases().tenancy.authorize(identity, action).expect("its role allows it")
}

/// The identity of a new key of a tenant.
async fn caller(node: &TestNode, by: &Identity, new: NewKey) -> Identity {
    let permit = permit_of(node, by, Action::ManageKeys);
    let (_, token) = access(node).create(&permit, new).await.expect("an admin may");
    known(node, &token).expect("it is good")
}

/// The first value of a column.
fn number(column: &ArrayRef) -> f64 {
    column.as_primitive::<Float64Type>().value(0)
}

async fn make_rival(node: &TestNode) -> Identity {
    let platform = node.permit(Action::ManageTenants);
    let registry = &node.use_cases().registry;
    registry.apply_tenants(&platform, definitions_of(TENANT), Expected::Any, None).await.expect("it is made");
    let rival = Some("rival".parse().expect("a name"));
    let first = NewKey { tenant: rival, ..new_key(&[Role::Admin]) };
    let (key, token) = access(node).create(&platform, first).await.expect("its first admin");
    assert_eq!(key.tenant.as_str(), "rival");
    known(node, &token).expect("it is good")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_lets_in_until_it_expires_is_rotated_or_is_revoked() {
    let node = TestNode::start("").await;
    let permit = node.permit(Action::ManageKeys);
    let expiring = NewKey { expires_after: Some(Duration::from_hours(1)), ..new_key(&[Role::Reader]) };
    let (_, expiring) = access(&node).create(&permit, expiring).await.expect("made");
    let (key, first) = access(&node).create(&permit, new_key(&[Role::Writer])).await.expect("made");
    let identity = known(&node, &first).expect("good");
    assert_eq!((identity.tenant().as_str(), identity.roles().names().as_str()), ("default", "writer"));
    assert_eq!(identity.name(), format!("key/{}", key.id));

    let (_, second) = access(&node).rotate(&permit, key.id, Duration::from_mins(10)).await.expect("rotated");
    known(&node, &first).expect("good within the overlap");
    known(&node, &second).expect("good from now on");
    node.advance(10 * MINUTE).await;
    assert_eq!(known(&node, &first).expect_err("the overlap is over").reason, "KEY_ROTATED");
    let (_, third) = access(&node).rotate(&permit, key.id, Duration::ZERO).await.expect("rotated");
    assert_eq!(known(&node, &second).expect_err("without an overlap").reason, "KEY_UNKNOWN");

    known(&node, &expiring).expect("good as yet");
    node.advance(HOUR).await;
    assert_eq!(known(&node, &expiring).expect_err("it is over").reason, "KEY_EXPIRED");

    let under_way = known(&node, &third).expect("good");
    access(&node).revoke(&permit, key.id).await.expect("revoked");
    let refused = known(&node, &third).expect_err("it was revoked");
    assert_eq!((refused.code, refused.reason), (Code::Unauthenticated, "KEY_REVOKED"));
    let refused = node.use_cases().tenancy.authorize(&under_way, Action::Write).expect_err("what was let in too");
    assert_eq!(refused.reason, "KEY_REVOKED");
    let refused = access(&node).rotate(&permit, key.id, Duration::ZERO).await.expect_err("it stays so");
    assert_eq!(refused.reason, "KEY_IS_DEAD");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_there_after_a_restart_and_their_secrets_never_were_on_disk() {
    let mut node = TestNode::start("").await;
    let permit = node.permit(Action::ManageKeys);
    let (key, token) = access(&node).create(&permit, new_key(&[Role::Trainer])).await.expect("made");
    let (revoked, gone) = access(&node).create(&permit, new_key(&[Role::Trainer])).await.expect("made");
    access(&node).revoke(&permit, revoked.id).await.expect("revoked");
    known(&node, &token).expect("good");
    drop(permit);
    node.restart().await;
    known(&node, &token).expect("good");
    assert_eq!(known(&node, &gone).expect_err("still revoked").reason, "KEY_REVOKED");
    let shown = access(&node).get(&node.permit(Action::ManageKeys), key.id).expect("it is there");
    assert!(shown.last_used.is_some_and(|used| used >= START), "when it was used is kept too: {shown:?}");

    let text = token.reveal();
    let secret = &text[15..79];
    let mut files = 0;
    for_each_file(&node.data_directory(), &mut |bytes| {
        files += 1;
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "a secret is on disk");
    });
    assert!(files > 3, "only {files} files");
}

fn for_each_file(directory: &Path, look: &mut impl FnMut(&[u8])) {
    for entry in std::fs::read_dir(directory).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            for_each_file(&path, look);
        } else {
            // What a store has deleted meanwhile holds nothing any more.
            look(&std::fs::read(&path).unwrap_or_default());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_key_is_made_once_into_a_file_of_the_server_s_user() {
    use std::os::unix::fs::PermissionsExt as _;
    let node = TestNode::start("").await;
    let path = node.data_directory().join("first-key");
    assert!(access(&node).make_first(&path).await.expect("there is none"));
    let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = std::fs::read_to_string(&path).expect("text");
    let identity = access(&node).authenticate(Some(text.trim())).expect("it is good");
    assert_eq!(identity.roles().names(), "admin, platform");
    assert!(!access(&node).make_first(&path).await.expect("there is one"));
    assert_eq!(std::fs::read_to_string(&path).expect("text"), text);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_platform_gives_a_tenant_its_first_admin_and_no_other_key() {
    let node = TestNode::start("").await;
    let admin = make_rival(&node).await;
    let permit = node.permit(Action::ManageTenants);
    let rival = || Some("rival".parse().expect("a name"));
    for roles in [&[Role::Admin][..], &[Role::Reader]] {
        let more = NewKey { tenant: rival(), ..new_key(roles) };
        let refused = access(&node).create(&permit, more).await.expect_err("it has an admin");
        assert_eq!(refused.code, Code::PermissionDenied);
    }
    let own = permit_of(&node, &admin, Action::ManageKeys);
    let (key, token) = access(&node).create(&own, new_key(&[Role::Reader])).await.expect("an admin may");
    assert_eq!(known(&node, &token).expect("good").tenant().as_str(), "rival");
    for roles in [&[Role::Platform][..], &[Role::Admin, Role::Platform]] {
        let refused = access(&node).create(&own, new_key(roles)).await.expect_err("not an admin's to give");
        assert_eq!(refused.code, Code::PermissionDenied);
    }
    let abroad = NewKey { tenant: Some("default".parse().expect("a name")), ..new_key(&[Role::Reader]) };
    assert_eq!(access(&node).create(&own, abroad).await.expect_err("another's").code, Code::PermissionDenied);

    // Of another tenant's keys an admin learns nothing; the platform sees and revokes them.
    let default_admin = node.permit(Action::ManageKeys);
    let of_default = access(&node).create(&default_admin, new_key(&[Role::Reader])).await.expect("made").0;
    assert_eq!(access(&node).get(&own, of_default.id).expect_err("another's").reason, "KEY_NOT_FOUND");
    assert_eq!(access(&node).revoke(&own, of_default.id).await.expect_err("another's").reason, "KEY_NOT_FOUND");
    assert!(access(&node).list(&own).expect("listed").iter().all(|key| key.tenant.as_str() == "rival"));
    let platform = caller_of_platform(&node).await;
    let platform = permit_of(&node, &platform, Action::ManageTenants);
    assert_eq!(access(&node).list(&platform).expect("listed").len(), 4);
    let refused = access(&node).rotate(&platform, key.id, Duration::ZERO).await.expect_err("that would show it");
    assert_eq!(refused.reason, "KEY_NOT_FOUND");
    let refused = access(&node).rotate(&platform, of_default.id, Duration::ZERO).await.expect_err("of default too");
    assert_eq!(refused.reason, "KEY_NOT_FOUND");
    access(&node).revoke(&platform, key.id).await.expect("a leak is stopped by whoever sees it");
    assert_eq!(known(&node, &token).expect_err("revoked").reason, "KEY_REVOKED");

    // Nor does it open the way to another admin that there is none left.
    let listed = access(&node).list(&platform).expect("listed");
    let mut admins = listed.iter().filter(|key| key.tenant.as_str() == "rival" && key.roles.contains(Role::Admin));
    access(&node).revoke(&platform, admins.next().expect("its admin").id).await.expect("the platform may");
    let again = NewKey { tenant: rival(), ..new_key(&[Role::Admin]) };
    let refused = access(&node).create(&platform, again).await.expect_err("it had an admin");
    assert_eq!(refused.code, Code::PermissionDenied);
}

async fn caller_of_platform(node: &TestNode) -> Identity {
    let permit = node.permit(Action::ManageTenants);
    let (_, token) = access(node).create(&permit, new_key(&[Role::Platform])).await.expect("made");
    known(node, &token).expect("good")
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tenants_use_the_same_names_and_see_only_their_own() {
    let node = TestNode::start(SHOP).await;
    let rival = make_rival(&node).await;
    let use_cases = node.use_cases();
    let change = permit_of(&node, &rival, Action::ChangeDefinitions);
    let read = |action| permit_of(&node, &rival, action);
    let question = node.question(&["user_clicks:amount"], &json!({"user_id": [1]}));
    let asked = || question.clone();
    node.put(
        "clicks",
        json!([{"user_id": 1, "item_id": "a", "happened": START, "amount": 5.0, "page": "x", "score": 1}]),
    )
    .await;

    // As long as it has defined nothing, what the other has is not there for it.
    let refused = use_cases.serving.get(&read(Action::ReadOnline), asked()).await.expect_err("it has no such view");
    assert_eq!(refused.code, Code::NotFound);
    let view = "user_clicks".parse().expect("a name");
    let refused =
        use_cases.registry.get(&read(Action::ReadDefinitions), Kind::FeatureView, &view).expect_err("no view");
    assert_eq!(refused.reason, "DEFINITION_NOT_FOUND");

    use_cases.registry.apply(&change, definitions_of(SHOP), None).await.expect("the same definitions");
    let rows = json!([{"user_id": 1, "item_id": "a", "happened": START, "amount": 9.0, "page": "y", "score": 2}]);
    let report = use_cases.ingest.ingest(&read(Action::Write), node.request("clicks", &rows)).await.expect("good rows");
    node.see(&report).await;
    let online = use_cases.serving.get(&read(Action::ReadOnline), asked()).await.expect("answered");
    assert_eq!(number(&online.to_columns().expect("columns")[0].values), 9.0);
    assert_eq!(node.one("user_clicks:amount", json!({"user_id": 1})).await.parse(), Ok(5.0));

    // Training sets of either, before and after landing.
    for landed in [false, true] {
        if landed {
            node.land().await;
        }
        let spine = table::spine(&json!([{"user_id": 1, "at": node.now()}]));
        let request = training_of(&["user_clicks:amount"], &spine, AS_KNOWN);
        let mut intake = use_cases.history.open(&read(Action::ReadHistory), request.clone()).expect("its own");
        intake.push(spine.clone()).await.expect("good keys");
        let mut stream = intake.finish().await.expect("made");
        let batch = futures::StreamExt::next(&mut stream).await.expect("a batch").expect("rows");
        assert_eq!(number(batch.column_by_name("user_clicks__amount").expect("the feature")), 9.0);
        let own = node.join(request, &spine).await.expect("made");
        assert_eq!(number(own.table.column_by_name("user_clicks__amount").expect("the feature")), 5.0);
    }

    // Backfills and history brought online, by its own.
    let batch = node.batch(
        "clicks",
        &json!([{"user_id": 7, "item_id": "a", "happened": START, "amount": 3.0, "page": "z", "score": 3}]),
    );
    let backfill = node.backfill_of("clicks", "one", std::slice::from_ref(&batch));
    let mut intake = use_cases.backfills.begin(&read(Action::Write), backfill).await.expect("begun");
    intake.push(batch).await.expect("good rows");
    intake.finish().await.expect("whole").done().await.expect("taken in");
    let begun = use_cases.materialize.begin(&read(Action::Write), "user_clicks", None).await.expect("begun");
    begun.done().await.expect("brought online");
    let asked = OnlineRequest { ..node.question(&["user_clicks:amount"], &json!({"user_id": [7]})) };
    let online = use_cases.serving.get(&read(Action::ReadOnline), asked).await.expect("answered");
    assert_eq!(number(&online.to_columns().expect("columns")[0].values), 3.0);
    let other = node.one("user_clicks:amount", json!({"user_id": 7})).await;
    assert!(other.parse::<f64>().is_err(), "{other}");

    let accounts: Vec<String> =
        use_cases.tenancy.accounts().iter().map(|account| account.tenant().to_string()).collect();
    assert_eq!(accounts, ["default", "rival"], "each has its own quotas, and its own share");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_with_definitions_or_rows_is_not_deleted_and_the_name_of_a_deleted_one_is_never_given_again() {
    let mut node = TestNode::start("").await;
    let rival = make_rival(&node).await;
    let platform = node.permit(Action::ManageTenants);
    let registry = &node.use_cases().registry;
    let key = {
        let permit = permit_of(&node, &rival, Action::ManageKeys);
        access(&node).create(&permit, new_key(&[Role::Admin])).await.expect("made").1
    };
    let (default, name) = ("default".parse().expect("a name"), "rival".parse().expect("a name"));
    let refused = registry.delete_tenant(&platform, &default, String::new()).await.expect_err("every server has it");
    assert_eq!(refused.reason, "TENANT_IN_USE");

    let change = permit_of(&node, &rival, Action::ChangeDefinitions);
    let entity = "apiVersion: hydrant/v1\nkind: Entity\nmetadata: {name: user}\nspec: {joinKeys: [{name: user_id, type: int64}]}";
    registry.apply(&change, definitions_of(entity), None).await.expect("applied");
    let refused = registry.delete_tenant(&platform, &name, String::new()).await.expect_err("it has a definition");
    assert!(refused.reason == "TENANT_IN_USE" && refused.message.contains("Entity/user"), "{refused:?}");
    registry.delete(&change, Kind::Entity, &"user".parse().expect("a name"), String::new()).await.expect("deleted");

    // By an admin of the tenant it can't be deleted.
    let refused = registry.delete_tenant(&change, &name, String::new()).await.expect_err("not its to do");
    assert_eq!(refused.code, Code::PermissionDenied);
    registry.delete_tenant(&platform, &name, String::new()).await.expect("it has nothing");
    assert_eq!(known(&node, &key).expect_err("its tenant has gone").reason, "KEY_UNKNOWN");
    let taken = |node: &TestNode| {
        let platform = node.permit(Action::ManageTenants);
        let again = definitions_of("apiVersion: hydrant/v1\nkind: Tenant\nmetadata: {name: rival}\nspec: {}");
        let refused = node.use_cases().registry.plan_tenants(&platform, &again).expect_err("its name is kept");
        assert_eq!((refused.code, refused.reason), (Code::FailedPrecondition, "TENANT_WAS_DELETED"));
    };
    taken(&node);
    node.restart().await;
    taken(&node);
    assert_eq!(known(&node, &key).expect_err("its tenant has gone").reason, "KEY_UNKNOWN");

    // Rows stay in history after their view has gone, so the tenant does.
    let (platform, registry) = (node.permit(Action::ManageTenants), &node.use_cases().registry);
    let another = "apiVersion: hydrant/v1\nkind: Tenant\nmetadata: {name: another}\nspec: {}";
    registry.apply_tenants(&platform, definitions_of(another), Expected::Any, None).await.expect("it is made");
    let name: Name = "another".parse().expect("a name");
    let again = Identity::new("ann", name.clone(), [Role::Admin].into_iter().collect(), None);
    let change = permit_of(&node, &again, Action::ChangeDefinitions);
    registry.apply(&change, definitions_of(SHOP), None).await.expect("applied");
    let mut left = Vec::new();
    for kind in [Kind::FeatureService, Kind::FeatureView, Kind::Source, Kind::Entity] {
        let read = permit_of(&node, &again, Action::ReadDefinitions);
        for item in registry.list(&read, kind, 0, "").expect("listed").items {
            let name = item.applied.definition.name().clone();
            registry.delete(&change, kind, &name, String::new()).await.expect("nothing uses it");
            left.push(name);
        }
    }
    assert!(!left.is_empty());
    let refused = registry.delete_tenant(&platform, &name, String::new()).await.expect_err("it had views");
    assert!(refused.message.contains("rows of the deleted view user_clicks"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_key_reads_and_writes_what_it_names_and_is_told_nothing_of_the_rest() {
    let node = TestNode::start(SHOP).await;
    let by = Identity::loopback();
    let names = |names: &[&str]| names.iter().map(|name| name.parse().expect("a name")).collect::<Vec<_>>();
    let limited = NewKey {
        views: names(&["user_facts", "recent_facts"]),
        services: names(&["model"]),
        ..new_key(&[Role::Reader, Role::Trainer, Role::Writer])
    };
    let identity = caller(&node, &by, limited).await;
    let permit = |action| permit_of(&node, &identity, action);
    let use_cases = node.use_cases();

    let report = node.put("facts", json!([{"user_id": 1, "happened": START, "plan": "gold", "level": 3}])).await;
    node.see(&report).await;
    let own = node.question(&["user_facts:plan"], &json!({"user_id": [1]}));
    use_cases.serving.get(&permit(Action::ReadOnline), own).await.expect("it is given");
    let other = node.question(&["user_clicks:amount"], &json!({"user_id": [1]}));
    let nobody_s = OnlineRequest { features: vec!["no_such:amount".to_owned()], ..other.clone() };
    for request in [other, nobody_s] {
        let refused = use_cases.serving.get(&permit(Action::ReadOnline), request).await.expect_err("not given");
        assert_eq!((refused.code, refused.reason), (Code::PermissionDenied, "OUT_OF_REACH"));
    }
    for service in ["other", "no_such@3"] {
        let services = [service.to_owned()];
        let refused = use_cases.history.least_spine(&permit(Action::ReadHistory), &services, &[], "at");
        assert_eq!(refused.expect_err("not given").reason, "OUT_OF_REACH");
    }

    // A source whose rows go elsewhere too is not its to write, nor is one that there isn't.
    let facts = json!([{"user_id": 2, "happened": START, "plan": "gold", "level": 3}]);
    use_cases.ingest.ingest(&permit(Action::Write), node.request("facts", &facts)).await.expect("to its views alone");
    let click = json!([{"user_id": 1, "item_id": "a", "happened": START, "amount": 5.0, "page": "x", "score": 1}]);
    for source in ["clicks", "no_such"] {
        let request = hydrant::ingest::IngestRequest { source: source.to_owned(), ..node.request("clicks", &click) };
        let refused = use_cases.ingest.ingest(&permit(Action::Write), request).await.expect_err("not given");
        assert_eq!(refused.reason, "OUT_OF_REACH");
    }
    for view in ["user_clicks", "no_such"] {
        let refused = use_cases.materialize.begin(&permit(Action::Write), view, None).await.expect_err("not given");
        assert_eq!(refused.reason, "OUT_OF_REACH");
    }

    let read = permit(Action::ReadDefinitions);
    use_cases.registry.get(&read, Kind::FeatureView, &"user_facts".parse().expect("a name")).expect("it is given");
    for name in ["user_clicks", "no_such"] {
        let refused = use_cases.registry.get(&read, Kind::FeatureView, &name.parse().expect("a name"));
        assert_eq!(refused.expect_err("not given").reason, "OUT_OF_REACH");
    }
    let refused = use_cases.registry.list(&read, Kind::FeatureView, 0, "").expect_err("that is all of them");
    assert_eq!(refused.reason, "OUT_OF_REACH");
    assert!(use_cases.training_sets.list(&permit(Action::ReadHistory)).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_makes_no_sense_is_refused() {
    let node = TestNode::start("").await;
    let permit = node.permit(Action::ManageKeys);
    let view = || vec!["weather".parse().expect("a name")];
    let long = "x".repeat(501);
    for (new, told) in [
        (new_key(&[]), "one role"),
        (NewKey { views: view(), ..new_key(&[Role::Admin]) }, "can't be limited"),
        (NewKey { views: view(), ..new_key(&[Role::Owner]) }, "can't be limited"),
        (new_key(&[Role::Platform, Role::Reader]), "stands alone"),
        (NewKey { description: long, ..new_key(&[Role::Reader]) }, "description"),
        (NewKey { description: "a\u{1b}[2J".to_owned(), ..new_key(&[Role::Reader]) }, "control characters"),
        (NewKey { expires_after: Some(Duration::ZERO), ..new_key(&[Role::Reader]) }, "later than at once"),
        (NewKey { expires_after: Some(Duration::MAX), ..new_key(&[Role::Reader]) }, "within 10 years"),
    ] {
        let refused = access(&node).create(&permit, new).await.expect_err(told);
        assert!(refused.reason == "BAD_KEY" && refused.message.contains(told), "{refused:?}");
    }
}
