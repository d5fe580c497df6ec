//! Section 24, masking: what is personal is nobody's to see without the grant, wherever it is asked for.

use hydrant::error::{Code, Error};
use hydrant::history::sets::{NewSet, StoredRequest};
use hydrant::history::{HistoricalRequest, Mode, WhyRequest};
use hydrant::serving::OnlineRequest;
use hydrant::tenancy::{Action, Authenticates as _, Identity, Permit, Role};
use hydrant_storage::names::Name;
use hydrant_storage::order::CellStatus;
use serde_json::json;

use super::new_key;
use crate::support::node::{AS_KNOWN, HOUR, START, TestNode, training_of};
use crate::support::table;

const PEOPLE: &str = "
apiVersion: hydrant/v1
kind: Entity
metadata: {name: user}
spec: {joinKeys: [{name: user_id, type: int64}]}
---
apiVersion: hydrant/v1
kind: Source
metadata: {name: profiles}
spec:
  type: push
  eventTime: happened
  knownTime: event
  columns:
    - {name: user_id, type: int64}
    - {name: happened, type: timestamp}
    - {name: income, type: float64}
    - {name: visits, type: int64}
---
apiVersion: hydrant/v1
kind: FeatureView
metadata: {name: profile}
spec:
  entities: [user]
  source: profiles
  features:
    - {name: income, default: 1.5, tags: {pii: \"true\"}}
    - {name: visits}
---
apiVersion: hydrant/v1
kind: FeatureService
metadata: {name: model}
spec: {features: [profile]}
";

async fn node() -> TestNode {
    let node = TestNode::start(PEOPLE).await;
    let rows = json!([{"user_id": 7, "happened": START - HOUR, "income": 77_777.25, "visits": 3}]);
    node.see(&node.put("profiles", rows).await).await;
    node
}

/// Somebody with these roles.
async fn somebody(node: &TestNode, roles: &[Role]) -> Identity {
    let access = &node.use_cases().access;
    let (_, token) = access.create(&node.permit(Action::ManageKeys), new_key(roles)).await.expect("an admin may");
    access.authenticate(Some(&token.reveal())).expect("it is good")
}

fn permit(node: &TestNode, who: &Identity, action: Action) -> Permit {
    node.use_cases().tenancy.authorize(who, action).expect("its role allows it")
}

fn training(node: &TestNode) -> (HistoricalRequest, arrow_array::RecordBatch) {
    let spine = table::spine_at(&json!({"user_id": 7}), &[node.now()]);
    let request =
        HistoricalRequest { with_status: true, with_event_time: true, ..training_of(&["model"], &spine, AS_KNOWN) };
    (request, spine)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_personal_is_masked_online_for_whoever_has_no_grant_and_nothing_else_is() {
    let node = node().await;
    let question = || node.question(&["model"], &json!({"user_id": [7, 8]}));
    let granted = somebody(&node, &[Role::Reader, Role::Pii]).await;
    let seen = node.get_by(&permit(&node, &granted, Action::ReadOnline), question()).await.expect("answered");
    assert_eq!(seen.statuses("profile__income"), [CellStatus::Present, CellStatus::NotFound]);

    // Not even an admin has the grant by being one.
    for roles in [[Role::Reader], [Role::Admin]] {
        let other = somebody(&node, &roles).await;
        let read = permit(&node, &other, Action::ReadOnline);
        let masked = node.get_by(&read, question()).await.expect("answered");
        // A default would tell that there is no row.
        assert_eq!(masked.statuses("profile__income"), [CellStatus::Masked; 2]);
        let income = &masked.find("profile__income").values;
        assert_eq!(income.null_count(), 2, "{income:?}");
        assert_eq!(masked.statuses("profile__visits"), [CellStatus::Present, CellStatus::NotFound]);
        assert_eq!(masked.column("profile__visits"), seen.column("profile__visits"));

        // Asked for alone, nothing of the row is told, its time neither.
        let alone = OnlineRequest { services: Vec::new(), features: vec!["profile:income".to_owned()], ..question() };
        let alone = node.get_by(&read, alone).await.expect("answered");
        assert_eq!(alone.statuses("profile__income"), [CellStatus::Masked; 2]);
        let told = format!("{:?}", alone.0);
        assert!(!told.contains("77777"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_personal_is_masked_in_training_sets_and_in_why() {
    let node = node().await;
    let (request, spine) = training(&node);
    let granted = somebody(&node, &[Role::Trainer, Role::Pii]).await;
    let history = permit(&node, &granted, Action::ReadHistory);
    let seen = node.join_by(&history, request.clone(), &spine).await.expect("made");
    assert_eq!(seen.statuses("profile__income"), ["PRESENT"]);

    let other = somebody(&node, &[Role::Trainer]).await;
    let masked = node.join_by(&permit(&node, &other, Action::ReadHistory), request, &spine).await.expect("made");
    assert_eq!(masked.statuses("profile__income"), ["MASKED"]);
    assert_eq!(masked.array("profile__income").null_count(), 1);
    assert_eq!(masked.event_times("profile__income"), [None]);
    assert_eq!(masked.column("profile__visits"), seen.column("profile__visits"));
    assert_ne!(masked.report.content_hash, seen.report.content_hash, "they are two sets");

    // A set of which nothing may be seen is made all the same.
    let (request, spine) = training(&node);
    let alone = HistoricalRequest { services: Vec::new(), features: vec!["profile:income".to_owned()], ..request };
    let alone = node.join_by(&permit(&node, &other, Action::ReadHistory), alone, &spine).await.expect("made");
    assert_eq!((alone.statuses("profile__income"), alone.table.num_rows()), (vec!["MASKED".to_owned()], 1));

    let question = node.question(&["model"], &json!({"user_id": [7]}));
    let why = |losers| WhyRequest {
        services: question.services.clone(),
        features: Vec::new(),
        columns: Vec::new(),
        entities: question.entities.clone(),
        at: node.now(),
        mode: Mode::AsKnown,
        cutoff: None,
        losers,
    };
    let reader = somebody(&node, &[Role::Reader]).await;
    let told = node.use_cases().history.why(&permit(&node, &reader, Action::ReadOnline), why(5)).await.expect("told");
    let told = format!("{told:?}");
    assert!(told.contains("Masked") && !told.contains("77777"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_s_tag_holds_for_each_feature_that_does_not_say_otherwise() {
    let tagged = untagged()
        .replace("{name: profile}", "{name: profile, tags: {pii: \"true\"}}")
        .replace("- {name: visits}", "- {name: visits, tags: {pii: \"false\"}}");
    let node = TestNode::start(&tagged).await;
    let rows = json!([{"user_id": 7, "happened": START - HOUR, "income": 1.0, "visits": 3}]);
    node.see(&node.put("profiles", rows).await).await;
    let reader = somebody(&node, &[Role::Reader]).await;
    let question = node.question(&["model"], &json!({"user_id": [7]}));
    let masked = node.get_by(&permit(&node, &reader, Action::ReadOnline), question).await.expect("answered");
    assert_eq!(masked.statuses("profile__income"), [CellStatus::Masked]);
    assert_eq!(masked.statuses("profile__visits"), [CellStatus::Present]);

    let unclear = PEOPLE.replace("pii: \"true\"", "pii: \"maybe\"");
    let refused = node.try_apply(&unclear).await.expect_err("it is neither");
    assert!(refused.violations.iter().any(|violation| violation.message.contains("pii")), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saved_training_set_is_pulled_unmasked_with_the_grant_only() {
    let node = node().await;
    let granted = somebody(&node, &[Role::Trainer, Role::Pii]).await;
    let other = somebody(&node, &[Role::Trainer]).await;
    let (seen, masked) = (save(&node, &granted, "seen").await, save(&node, &other, "masked").await);
    assert_ne!(seen, masked, "they are two sets");
    let sets = &node.use_cases().training_sets;
    let left_out = |who, called| {
        let (set, left_out) =
            sets.describe(&permit(&node, who, Action::ReadHistory), &name(called), None).expect("there");
        (set.statistics.len(), left_out.unwrap_or_default())
    };
    assert_eq!(left_out(&granted, "seen"), (2, String::new()));
    let (told, why) = left_out(&other, "seen");
    assert!(told == 1 && why.contains("profile__income") && why.contains("personal"), "{why}");
    assert_eq!(left_out(&other, "masked"), (2, String::new()), "what is masked tells nothing");
    let refused = sets.prepare_saved(&permit(&node, &other, Action::ReadHistory), &name("seen"), None).await;
    assert_eq!(refused.expect_err("it shows what is personal").reason, "PII_NOT_GRANTED");
    for who in [&granted, &other] {
        let again = sets.prepare_saved(&permit(&node, who, Action::ReadHistory), &name("masked"), None).await;
        let (set, _) = again.expect("nothing of it is personal");
        assert_eq!(set.content_hash, masked, "whoever pulls it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_see_what_is_personal_can_not_take_its_tag_away() {
    let node = node().await;
    let definitions = untagged();
    let owner = somebody(&node, &[Role::Owner]).await;
    refused_and_granted(&node, &owner, &definitions).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_see_what_is_personal_can_not_make_it_a_key() {
    let node = node().await;
    let owner = somebody(&node, &[Role::Owner]).await;
    let by_visits = PEOPLE
        .split("---")
        .nth(2)
        .expect("the view")
        .replace("profile}", "by_visits}")
        .replace("[user]", "[visitor]")
        .replace(
            "    - {name: income, default: 1.5, tags: {pii: \"true\"}}\n    - {name: visits}",
            "    - {name: user_id}",
        );
    let entity = "apiVersion: hydrant/v1\nkind: Entity\nmetadata: {name: visitor}\nspec: {joinKeys: [{name: visits, type: int64}]}\n";
    let keyed = format!("{entity}---{by_visits}");
    node.apply(&PEOPLE.replace("- {name: visits}", "- {name: visits, tags: {pii: \"true\"}}")).await;
    let told = refused_and_granted(&node, &owner, &keyed).await;
    for name in ["by_visits", "'visits'", "'profile'"] {
        assert!(told.message.contains(name), "{told:?}");
    }
    let change = permit(&node, &owner, Action::ChangeDefinitions);
    let again = crate::support::node::definitions_of(&keyed.replace("by_visits}", "by_visits, description: other}"));
    node.use_cases().registry.apply(&change, again, None).await.expect("it is keyed by it already");
}

/// Plan and apply refuse a change to one who has no grant, in the same words, and allow it to one who has. The
/// refusal.
async fn refused_and_granted(node: &TestNode, owner: &Identity, definitions: &str) -> Error {
    let registry = &node.use_cases().registry;
    let definitions = crate::support::node::definitions_of(definitions);
    let change = permit(node, owner, Action::ChangeDefinitions);
    let refused = registry.apply(&change, definitions.clone(), None).await.expect_err("it would show it");
    assert_eq!((refused.code, refused.reason), (Code::PermissionDenied, "PII_NOT_GRANTED"));
    let read = permit(node, owner, Action::ReadDefinitions);
    let planned = registry.plan(&read, &definitions).expect_err("a plan says what apply would");
    assert_eq!((planned.reason, &planned.message, &planned.hint), (refused.reason, &refused.message, &refused.hint));
    let granted = somebody(node, &[Role::Owner, Role::Pii]).await;
    registry.plan(&permit(node, &granted, Action::ReadDefinitions), &definitions).expect("it is theirs to say");
    registry.apply(&permit(node, &granted, Action::ChangeDefinitions), definitions, None).await.expect("and to do");
    refused
}

/// A training set saved by somebody; its hash.
async fn save(node: &TestNode, who: &Identity, called: &str) -> String {
    let spine = table::spine_at(&json!({"user_id": 7}), &[node.now()]);
    let request = StoredRequest {
        spine: node.store(&spine).await,
        services: vec!["model".to_owned()],
        features: Vec::new(),
        event_time: "at".to_owned(),
        mode: Mode::AsKnown,
        cutoff: None,
        with_status: true,
        with_event_time: false,
    };
    let new = NewSet { name: name(called), request };
    let sets = &node.use_cases().training_sets;
    let creation = sets.create(&permit(node, who, Action::ReadHistory), new).await.expect("it is right");
    creation.finish(node.admission()).await.expect("it is saved").set.content_hash
}

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn untagged() -> String {
    PEOPLE.replace(", tags: {pii: \"true\"}", "")
}
