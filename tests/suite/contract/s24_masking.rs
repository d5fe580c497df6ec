//! Section 24, masking: what is personal is nobody's to see without the grant, wherever it is asked for.

use hydrant::access::NewKey;
use hydrant::error::Code;
use hydrant::history::{HistoricalRequest, Mode, WhyRequest};
use hydrant::serving::OnlineRequest;
use hydrant::tenancy::{Action, Authenticates as _, Identity, Permit, Role};
use hydrant_storage::order::CellStatus;
use serde_json::json;

use crate::support::node::{HOUR, START, TestNode};
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
    let new = NewKey {
        tenant: None,
        roles: roles.iter().copied().collect(),
        views: Vec::new(),
        services: Vec::new(),
        description: String::new(),
        expires_after: None,
    };
    let access = &node.use_cases().access;
    let (_, token) = access.create(&node.permit(Action::ManageKeys), new).await.expect("an admin may");
    access.authenticate(Some(&token.reveal())).expect("it is good")
}

fn permit(node: &TestNode, who: &Identity, action: Action) -> Permit {
    node.use_cases().tenancy.authorize(who, action).expect("its role allows it")
}

fn training(node: &TestNode) -> (HistoricalRequest, arrow_array::RecordBatch) {
    let spine = table::spine_at(&json!({"user_id": 7}), &[node.now()]);
    let request = HistoricalRequest {
        services: vec!["model".to_owned()],
        features: Vec::new(),
        event_time: "at".to_owned(),
        mode: Mode::AsKnown,
        cutoff: None,
        with_status: true,
        with_event_time: true,
        spine: spine.schema(),
    };
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
async fn who_may_not_see_what_is_personal_can_not_take_its_tag_away() {
    let node = node().await;
    let definitions = untagged();
    let owner = somebody(&node, &[Role::Owner]).await;
    let change = permit(&node, &owner, Action::ChangeDefinitions);
    let definitions = crate::support::node::definitions_of(&definitions);
    let refused =
        node.use_cases().registry.apply(&change, definitions.clone(), None).await.expect_err("it would show it");
    assert_eq!((refused.code, refused.reason), (Code::PermissionDenied, "PII_NOT_GRANTED"));
    let granted = somebody(&node, &[Role::Owner, Role::Pii]).await;
    let change = permit(&node, &granted, Action::ChangeDefinitions);
    node.use_cases().registry.apply(&change, definitions, None).await.expect("it is theirs to say");
}

fn untagged() -> String {
    PEOPLE.replace(", tags: {pii: \"true\"}", "")
}
