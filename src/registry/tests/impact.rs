//! What a plan says of each difference: what it asks for, whom it touches, and why not.

use super::super::plan::{Action as Planned, Class, Plan, Prune, Touches};
use super::*;
use crate::error::Code;

async fn world() -> Registry {
    let registry = flights().await;
    apply(&registry, definitions(CONSUMERS)).await.expect("what they use is there");
    registry
}

fn planned(registry: &Registry, definitions: &[Definition], prune: Prune) -> Plan {
    registry.plan_with(&permit(Action::ReadDefinitions), definitions, prune).expect("good definitions")
}

/// Class and those touched of each line of one definition.
fn told(plan: &Plan, kind: Kind, name: &str) -> Vec<(String, Class, String)> {
    let change = plan.changes.iter().find(|change| change.kind == kind && change.name.as_str() == name);
    let differences = &change.expect("it is in the plan").differences;
    let touches = |all: &Touches| all.named.iter().map(ToString::to_string).collect::<Vec<_>>();
    let one = |difference: &super::super::plan::Difference| {
        (difference.text.clone(), difference.class, touches(&difference.touches).join(", "))
    };
    differences.iter().map(one).collect()
}

const ALL: &str =
    "FeatureService/delay_model@1, Consumer/delay_board (web@example.com), Consumer/delay_predictor (ml@example.com)";

#[tokio::test]
async fn each_difference_is_classified_and_names_services_training_sets_and_consumers_downstream() {
    let registry = world().await;
    let _hold = registry.uses().hold(&name("default"), version_1(), "flights@2");
    let changed = flights_with(&[
        ("  online: true\n", "  online: false\n"),
        ("default: 0.0", "default: 1.5"),
        ("\"Hourly weather\"", "\"Weather\""),
        ("{name: temp, description: \"Air temperature, °F\"}", "{name: temp, column: wind_speed}"),
    ]);
    let plan = planned(&registry, &changed, Prune::Nothing);
    let of_service = "FeatureService/delay_model@1, TrainingSet/flights@2, Consumer/delay_board (web@example.com), Consumer/delay_predictor (ml@example.com)";
    let line = |text: &str, class, touches: &str| (text.to_owned(), class, touches.to_owned());
    assert_eq!(
        told(&plan, Kind::FeatureView, "airport_weather"),
        [
            line("description: \"Hourly weather\" -> \"Weather\"", Class::InPlace, ""),
            line("features.temp.column: temp -> wind_speed", Class::NewViewVersion, of_service),
            line("features.wind.default: 0.0 -> 1.5", Class::InPlace, of_service),
            line("online: true -> false", Class::Refused, of_service),
            line("- features.temp.description: \"Air temperature, °F\"", Class::InPlace, ""),
        ]
    );
    // Whom a new version of the service reaches: who follows it.
    let service = told(&plan, Kind::FeatureService, "delay_model");
    assert!(service.iter().all(|(_, class, _)| *class == Class::NewServiceVersion), "{service:?}");
    assert!(service.iter().all(|(.., touched)| touched == "Consumer/delay_board (web@example.com)"), "{service:?}");
    // A plan that can't be applied says why, and naming whom it would hurt.
    let refusal = plan.refusal().expect("two changes don't fit");
    assert_eq!((refusal.code, refusal.reason), (Code::FailedPrecondition, "INCOMPATIBLE_CHANGE"));
    assert_eq!(refusal.violations.len(), 2);
    assert!(refusal.violations[0].message.ends_with(&format!("; it would hurt {of_service}")), "{refusal:?}");
    let refused = apply(&registry, changed).await.expect_err("it is the same");
    assert_eq!(lines(&refused), lines(&refusal));
}

#[tokio::test]
async fn a_change_of_a_source_is_told_by_its_columns() {
    let registry = world().await;
    let retyped =
        [("{name: wind_speed, type: float64}", "{name: wind_speed, type: float32}\n    - {name: gust, type: float32}")];
    let mut changed = flights_with(&retyped);
    changed.retain(|definition| definition.kind() == Kind::Source);
    let plan = planned(&registry, &changed, Prune::Nothing);
    let lines = told(&plan, Kind::Source, "weather");
    let class_of = |key: &str| {
        let found = lines.iter().find(|(text, ..)| text.contains(key));
        found.map(|(_, class, touched)| (*class, touched.as_str())).unwrap_or_else(|| panic!("{key}: {lines:?}"))
    };
    // A float32 feeds a float64 without loss, but the view took its type from the column where it names none.
    assert_eq!(class_of("columns.gust"), (Class::InPlace, ""));
    assert_eq!(class_of("columns.wind_speed"), (Class::InPlace, ALL));
    let gone = flights_with(&[("    - {name: temp, type: float64}\n", "")]);
    let gone: Vec<Definition> = gone.into_iter().filter(|one| one.name().as_str() == "weather").collect();
    let plan = planned(&registry, &gone, Prune::Nothing);
    let lines = told(&plan, Kind::Source, "weather");
    let removed = lines.iter().find(|(text, ..)| text.starts_with("- columns.temp")).expect("it is told");
    assert_eq!((removed.1, removed.2.as_str()), (Class::NewViewVersion, ALL));
    assert!(plan.refusal().is_some_and(|refusal| refusal.violations[0].message.contains("it would hurt")));
}

#[tokio::test]
async fn pruning_takes_away_what_is_gone_from_the_files_and_only_kinds_that_they_hold() {
    let registry = world().await;
    let before = registry.snapshot();
    // Everything about carriers is gone; there is no consumer among the files, so consumers stay.
    let mut kept = flights_with(&[("    - carrier_departures:dep_delay\n", "")]);
    kept.retain(|definition| !["carrier", "departures", "carrier_departures"].contains(&definition.name().as_str()));
    let plan = planned(&registry, &kept, Prune::KindsOfRequest);
    let deleted: Vec<String> = plan
        .changes
        .iter()
        .filter(|change| change.action == Planned::Delete)
        .map(|change| change.name.to_string())
        .collect();
    assert_eq!(deleted, ["carrier", "departures", "carrier_departures"]);
    let view = plan.changes.iter().find(|change| change.name.as_str() == "carrier_departures").expect("planned");
    let touched: Vec<String> = view.touches.named.iter().map(ToString::to_string).collect();
    assert_eq!(touched.join(", "), ALL);
    // Version 1 of the service and a consumer need the view: nothing at all is done.
    let refusal = plan.refusal().expect("it is in use");
    assert_eq!((refusal.code, refusal.reason), (Code::FailedPrecondition, "DEFINITION_IN_USE"));
    assert_eq!(
        lines(&refusal),
        [
            "FeatureView/carrier_departures: FeatureView 'carrier_departures' is in use by FeatureService/delay_model@1, \
          Consumer/delay_predictor (ml@example.com)"
        ]
    );
    let change = permit(Action::ChangeDefinitions);
    let refused =
        registry.apply_with(&change, kept.clone(), Prune::KindsOfRequest, None).await.expect_err("as planned");
    assert_eq!(lines(&refused), lines(&refusal));
    assert!(Arc::ptr_eq(&before, &registry.snapshot()));

    delete(&registry, Kind::Consumer, "delay_predictor").await.expect("nothing uses it");
    apply(&registry, kept.clone()).await.expect("another version of the service");
    registry.delete_version(&change, &name("delay_model"), 1, String::new()).await.expect("it is not current");
    let revision = registry.snapshot().revision;
    let applied = registry.apply_with(&change, kept.clone(), Prune::KindsOfRequest, Some(revision)).await;
    assert_eq!(applied.expect("nothing uses them").revision, revision + 1);
    let catalog = catalog(&registry);
    assert_eq!((catalog.views.len(), catalog.entities.len(), catalog.consumers.len()), (1, 1, 1));
    let again = registry.apply_with(&change, kept, Prune::KindsOfRequest, None).await.expect("as before");
    assert!(again.plan.is_empty());
}

#[tokio::test]
async fn pruning_spares_what_a_definition_of_the_same_request_refers_to_by_refusing_as_a_whole() {
    let registry = flights().await;
    // The view is kept and its entity is not.
    let mut kept = definitions(FLIGHTS);
    kept.retain(|definition| definition.name().as_str() != "airport");
    let plan = planned(&registry, &kept, Prune::KindsOfRequest);
    let refusal = plan.refusal().expect("the view needs it");
    assert_eq!(lines(&refusal), ["Entity/airport: Entity 'airport' is in use by FeatureView/airport_weather"]);
}

#[tokio::test]
async fn pruning_leaves_what_saved_training_sets_need() {
    let registry = flights().await;
    let hold = registry.uses().hold(&name("default"), version_1(), "flights@2");
    let other =
        "{apiVersion: hydrant/v1, kind: FeatureService, metadata: {name: other}, spec: {features: [airport_weather]}}";
    let plan = planned(&registry, &definitions(other), Prune::KindsOfRequest);
    let refusal = plan.refusal().expect("a training set needs it");
    assert!(refusal.message.contains("TrainingSet/flights@2"), "{refusal}");
    drop(hold);
    let plan = planned(&registry, &definitions(other), Prune::KindsOfRequest);
    assert!(plan.refusal().is_none(), "{plan}");
}

#[tokio::test]
async fn of_very_many_who_are_touched_some_are_named_and_the_others_counted() {
    let registry = flights().await;
    let consumer = |number: usize| {
        let text = format!(
            "{{apiVersion: hydrant/v1, kind: Consumer, metadata: {{name: c{number}, owner: o}}, spec: {{version: '1', services: [delay_model]}}}}"
        );
        definitions(&text).remove(0)
    };
    apply(&registry, (0..300).map(consumer).collect()).await.expect("what they use is there");
    let plan = planned(&registry, &flights_with(&[("  online: true\n", "  online: false\n")]), Prune::Nothing);
    let view = plan.changes.iter().find(|change| change.name.as_str() == "airport_weather").expect("planned");
    let touches = &view.differences[0].touches;
    assert_eq!((touches.named.len(), touches.more), (200, 101), "a service and its consumers");
    let refusal = plan.refusal().expect("it is online");
    assert!(refusal.message.ends_with(" and 281 more"), "{refusal}");
}
