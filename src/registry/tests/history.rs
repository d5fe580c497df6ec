//! Who changed what and when, and the way back.

use hydrant_storage::files::lossy::Fault;

use super::super::plan::Action as Planned;
use super::super::revisions::{Cause, MAX_BYTES, Recorded, Revision, Revisions, What};
use super::super::{RevisionPage, ToldRevision};
use super::*;
use crate::error::Code;

async fn history(registry: &Registry, kind: Option<Kind>, of: Option<&str>) -> Vec<ToldRevision> {
    page(registry, (kind, of), 0, "").await.revisions
}

async fn page(registry: &Registry, of: (Option<Kind>, Option<&str>), size: u32, token: &str) -> RevisionPage {
    let of_name = of.1.map(name);
    let read = permit(Action::ReadDefinitions);
    registry.revisions(&read, (of.0, of_name.as_ref()), size, token).await.expect("told")
}

async fn back_to(registry: &Registry, revision: u64) -> Result<super::super::Applied> {
    registry.rollback(&permit(Action::ChangeDefinitions), revision, None).await
}

#[tokio::test]
async fn every_change_is_told_with_who_made_it_when_and_what_differs() {
    let files = LossyFiles::new(1);
    let registry = open(&files).await.expect("an empty disk opens");
    apply(&registry, definitions(FLIGHTS)).await.expect("they fit");
    apply(&registry, flights_with(&[("ttl: 3h", "ttl: 2h")])).await.expect("compatible");
    apply(&registry, flights_with(&[("ttl: 3h", "ttl: 2h")])).await.expect("changes nothing");
    let change = permit(Action::ChangeDefinitions);
    registry.delete_version(&change, &name("delay_model"), 1, String::new()).await.expect("not current");
    delete(&registry, Kind::FeatureService, "delay_model").await.expect("unused");
    for registry in [registry, open(&files.after_power_cut(3)).await.expect("it opens again")] {
        let told = history(&registry, None, None).await;
        let revisions: Vec<u64> = told.iter().map(|one| one.revision).collect();
        assert_eq!(revisions, [5, 4, 3, 2], "newest first, and what changed nothing made none");
        assert!(told.iter().all(|one| one.at == NOW && !one.by.is_empty() && one.cause == Cause::Change));
        let what = |index: usize| {
            told[index].changes.iter().map(|one| (one.what, one.name.to_string(), one.version)).collect::<Vec<_>>()
        };
        assert_eq!(what(0), [(What::Deleted, "delay_model".to_owned(), None)]);
        assert_eq!(what(1), [(What::VersionDeleted(1), "delay_model".to_owned(), Some(2))]);
        assert_eq!(
            what(2),
            [(What::Updated, "airport_weather".to_owned(), None), (What::Updated, "delay_model".to_owned(), Some(2))]
        );
        assert_eq!(told[2].changes[0].details, ["ttl: 3h -> 2h"]);
        assert_eq!(told[3].changes.len(), 7);
        let of_view = history(&registry, Some(Kind::FeatureView), Some("airport_weather")).await;
        assert_eq!(of_view.iter().map(|one| one.revision).collect::<Vec<_>>(), [3, 2]);
        assert_eq!(of_view[0].changes.len(), 1);
        // Page by page.
        let (mut token, mut paged) = (String::new(), Vec::new());
        loop {
            let page = page(&registry, (None, None), 1, &token).await;
            assert_eq!(page.revisions.len(), 1);
            paged.extend(page.revisions);
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(paged, told);
        let bad = registry.revisions(&permit(Action::ReadDefinitions), (None, None), 0, "eA").await;
        assert_eq!(bad.expect_err("no token").reason, "BAD_PAGE_TOKEN");
    }
}

#[tokio::test]
async fn going_back_makes_a_new_revision_of_what_was_defined_then() {
    let registry = flights().await;
    let first = registry.snapshot().revision;
    apply(
        &registry,
        flights_with(&[("\"Hourly weather\"", "\"Weather\""), ("latencyBudget: 8ms", "latencyBudget: 9ms")]),
    )
    .await
    .expect("compatible");
    let more = "{apiVersion: hydrant/v1, kind: Entity, metadata: {name: plane}, spec: {joinKeys: [{name: tail, type: string}]}}";
    apply(&registry, definitions(more)).await.expect("it fits");
    let before = registry.snapshot();
    let plan = registry.plan_rollback(&permit(Action::ReadDefinitions), first, None).await.expect("it is kept");
    let planned: Vec<(Planned, String)> = plan
        .changes
        .iter()
        .filter(|change| change.action != Planned::Unchanged)
        .map(|change| (change.action, change.name.to_string()))
        .collect();
    assert_eq!(
        planned,
        [
            (Planned::Delete, "plane".to_owned()),
            (Planned::Update, "airport_weather".to_owned()),
            (Planned::Update, "delay_model".to_owned())
        ]
    );
    assert!(Arc::ptr_eq(&before, &registry.snapshot()), "a plan changes nothing");
    let stale = registry.rollback(&permit(Action::ChangeDefinitions), first, Some(first)).await;
    assert_eq!(stale.expect_err("it was overtaken").reason, "REVISION_MISMATCH");

    let applied = back_to(&registry, first).await.expect("it is compatible");
    assert_eq!(applied.revision, before.revision + 1);
    let catalog = catalog(&registry);
    assert!(!catalog.entities.contains_key("plane"));
    let again = apply(&registry, definitions(FLIGHTS)).await.expect("they fit");
    assert!(again.plan.is_empty(), "what is defined is what was: {}", again.plan);
    // Versions are never made again: the third has what the first has.
    let versions = &catalog.services["delay_model"].versions;
    assert_eq!(versions.iter().map(|version| version.number).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(versions[0].shape_hash, versions[2].shape_hash);
    let told = history(&registry, None, None).await;
    assert_eq!(told[0].cause, Cause::Rollback { to: first });
    // And forward again.
    back_to(&registry, before.revision).await.expect("a rollback is a revision like any other");
    assert!(self::catalog(&registry).entities.contains_key("plane"));
}

#[tokio::test]
async fn a_way_back_that_data_or_users_do_not_allow_is_refused_as_a_whole_naming_why() {
    // Without history no other version can be built.
    let online_only = ("offline: true", "offline: false");
    let registry = open(&LossyFiles::new(1)).await.expect("an empty disk opens");
    apply(&registry, flights_with(&[online_only])).await.expect("they fit together");
    let first = registry.snapshot().revision;
    let gust = (
        "    - {name: temp, description",
        "    - {name: gust, type: float64, column: wind_speed}\n    - {name: temp, description",
    );
    let grown = flights_with(&[online_only, gust]);
    apply(&registry, grown).await.expect("a feature is added");
    let refused = back_to(&registry, first).await.expect_err("rows have the feature");
    assert_eq!((refused.code, refused.reason), (Code::FailedPrecondition, "INCOMPATIBLE_CHANGE"));
    assert!(refused.message.contains("feature 'gust' can't be removed or renamed"), "{refused}");

    let registry = flights().await;
    let empty = 1;
    let _hold = registry.uses().hold(&name("default"), version_1(), "flights@2");
    let before = registry.snapshot();
    let refused = back_to(&registry, empty).await.expect_err("a training set needs the service");
    assert_eq!(refused.reason, "DEFINITION_IN_USE");
    assert!(refused.message.contains("TrainingSet/flights@2"), "{refused}");
    assert!(Arc::ptr_eq(&before, &registry.snapshot()));
    for revision in [0, before.revision + 1, u64::MAX] {
        let refused = back_to(&registry, revision).await.expect_err("no such revision");
        assert_eq!((refused.code, refused.reason), (Code::NotFound, "REVISION_NOT_FOUND"), "{revision}");
        assert!(refused.hint.is_some_and(|hint| hint.contains("since revision 1")));
    }
}

#[tokio::test]
async fn what_was_deleted_comes_back_as_another_view_that_is_empty() {
    let registry = flights().await;
    let first = registry.snapshot().revision;
    let view = catalog(&registry).views["airport_weather"].clone();
    delete(&registry, Kind::FeatureService, "delay_model").await.expect("unused");
    delete(&registry, Kind::FeatureView, "airport_weather").await.expect("unused");
    back_to(&registry, first).await.expect("it fits");
    let again = catalog(&registry).views["airport_weather"].clone();
    assert_eq!((view.version, again.version), (1, 2));
    assert_ne!(view.id, again.id);
    assert_eq!(catalog(&registry).services["delay_model"].versions[0].number, 2);
}

#[tokio::test]
async fn a_power_cut_in_a_change_leaves_no_revision_that_was_not_made() {
    let mut outcomes = std::collections::BTreeSet::new();
    for seed in 0..8 {
        let files = LossyFiles::new(seed);
        let registry = open(&files).await.expect("an empty disk opens");
        apply(&registry, definitions(FLIGHTS)).await.expect("they fit");
        for cut in 0..40 {
            let files = files.after_power_cut(cut);
            let registry = open(&files).await.expect("it opens");
            files.fail_on(cut % 20, Fault::Device);
            let changed = apply(&registry, flights_with(&[("ttl: 3h", "ttl: 2h")])).await;
            let after = open(&files.after_power_cut(cut + 1)).await.expect("nothing is damaged");
            let revision = after.snapshot().revision;
            outcomes.insert((changed.is_ok(), revision));
            assert!(changed.is_err() || revision == 3, "seed {seed}, cut {cut}: what was answered is there");
            let told = history(&after, None, None).await;
            assert_eq!(told[0].revision, revision, "seed {seed}, cut {cut}");
            // The next change is recorded after it, whatever was on the way.
            apply(&after, flights_with(&[("ttl: 3h", "ttl: 1h")])).await.expect("compatible");
            let told = history(&after, None, None).await;
            assert_eq!(told[0].revision, revision + 1, "seed {seed}, cut {cut}");
            let old = if revision == 3 { "ttl: 2h -> 1h" } else { "ttl: 3h -> 1h" };
            assert_eq!(told[0].changes[0].details, [old], "seed {seed}, cut {cut}");
        }
    }
    // Some fail before anything is made, some are made and answered.
    assert!(outcomes.contains(&(false, 2)) && outcomes.contains(&(true, 3)), "{outcomes:?}");
}

#[test]
fn revisions_take_bounded_space_and_the_oldest_that_is_kept_can_be_gone_back_to() {
    let entity = |description: String| {
        let text = "{apiVersion: hydrant/v1, kind: Entity, metadata: {name: airport}, spec: {joinKeys: [{name: a, type: string}]}}";
        let mut definition = definitions(text).remove(0);
        definition.metadata.description = description;
        definition
    };
    let revision = |revision: u64| Revision {
        revision,
        at: NOW,
        by: "ana".to_owned(),
        cause: Cause::Change,
        changes: vec![Recorded {
            kind: Kind::Entity,
            name: name("airport"),
            what: if revision == 1 { What::Created } else { What::Updated },
            definition: Some(entity(format!("{revision} {}", "x".repeat(4_000)))),
            version: None,
        }],
    };
    let mut revisions = Revisions::before_all();
    let mut largest = 0;
    for number in 1..=5_000 {
        revisions.push(revision(number));
        if number % 100 == 0 {
            let encoded = revisions.encode();
            largest = largest.max(encoded.len());
            assert_eq!(Revisions::decode(&encoded).as_ref(), Ok(&revisions));
        }
    }
    assert!(largest > MAX_BYTES / 2 && largest < MAX_BYTES + MAX_BYTES / 50, "{largest} bytes");
    let oldest = revisions.oldest();
    assert!(oldest > 1_000 && oldest < 5_000, "{oldest}");
    for at in [oldest, oldest + 1, 4_999, 5_000] {
        let description = revisions.definitions_at(at).into_values().next().expect("it is there").metadata.description;
        assert!(description.starts_with(&format!("{at} ")), "{at}: {}", &description[..20]);
    }
    assert!(Revisions::decode(b"{\"format\": 9, \"base\": [], \"base_revision\": 0, \"kept\": []}").is_err());
}

#[test]
fn one_revision_that_is_larger_than_the_bound_is_what_can_be_gone_back_to() {
    let mut changes = Vec::new();
    for number in 0..2_500 {
        let text = format!(
            "{{apiVersion: hydrant/v1, kind: Entity, metadata: {{name: e{number}}}, spec: {{joinKeys: [{{name: a, type: string}}]}}}}"
        );
        let mut definition = definitions(&text).remove(0);
        definition.metadata.description = "x".repeat(4_000);
        let (kind, name, what) = (Kind::Entity, definition.name().clone(), What::Created);
        changes.push(Recorded { kind, name, what, definition: Some(definition), version: None });
    }
    let mut revisions = Revisions::before_all();
    revisions.push(Revision { revision: 7, at: NOW, by: "ana".to_owned(), cause: Cause::Change, changes });
    assert_eq!(revisions.oldest(), 7);
    assert_eq!(revisions.definitions_at(7).len(), 2_500);
}
