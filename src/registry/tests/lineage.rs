//! Lineage column by column: what leads where, and what doesn't.

use std::collections::BTreeSet;

use super::super::graph::{Direction, Graph, MAX_NAME_BYTES, NodeKind};
use super::*;
use crate::error::Code;

/// [`FLIGHTS`] with consumers, a service that takes one feature of two, and a saved training set.
async fn world() -> (Registry, super::super::uses::UseHold) {
    let registry = flights().await;
    let windy = "{apiVersion: hydrant/v1, kind: FeatureService, metadata: {name: windy}, spec: {features: ['airport_weather:wind']}}";
    apply(&registry, definitions(windy)).await.expect("it fits");
    apply(&registry, definitions(CONSUMERS)).await.expect("what they use is there");
    let hold = registry.uses().hold(&name("default"), version_1(), "flights@2");
    (registry, hold)
}

fn graph(registry: &Registry) -> Graph {
    registry.graph(&permit(Action::ReadDefinitions)).expect("definitions are there").0
}

/// The names of what lies in one direction, without where it began.
fn reached(graph: &Graph, of: &str, direction: Direction) -> Vec<String> {
    let starts = graph.named(of, None).unwrap_or_else(|refused| panic!("{refused:?}"));
    let part = graph.around(&starts, direction).expect("it is small");
    let begun: BTreeSet<&str> = starts.iter().map(|start| graph.nodes[*start].name.as_str()).collect();
    part.nodes.iter().map(|node| node.name.clone()).filter(|name| !begun.contains(name.as_str())).collect()
}

#[tokio::test]
async fn a_column_leads_to_the_features_services_training_sets_and_consumers_that_are_made_of_it() {
    let (registry, _hold) = world().await;
    let graph = graph(&registry);
    assert_eq!(
        reached(&graph, "weather.temp", Direction::Down),
        ["airport_weather", "airport_weather:temp", "delay_model@1", "flights@2", "delay_board", "delay_predictor"]
    );
    // The other column of the same view leads to the other service too.
    assert!(reached(&graph, "weather.wind_speed", Direction::Down).contains(&"windy@1".to_owned()));
    let labels = |of: &str| {
        let part = graph.around(&graph.named(of, None).expect("there"), Direction::Down).expect("small");
        part.edges.iter().map(|edge| edge.label.clone()).filter(|label| !label.is_empty()).collect::<Vec<_>>()
    };
    // The service takes it twice, under two keys.
    assert_eq!(labels("airport_weather:temp"), ["airport_weather__temp, dest_weather__temp"]);
}

#[tokio::test]
async fn a_service_is_made_of_the_features_that_it_takes_and_of_the_keys_and_times_of_their_views() {
    let (registry, _hold) = world().await;
    let graph = graph(&registry);
    assert_eq!(
        reached(&graph, "windy@1", Direction::Up),
        [
            "airport",
            "weather",
            "weather.event_timestamp",
            "weather.origin",
            "weather.wind_speed",
            "airport_weather",
            "airport_weather:wind"
        ]
    );
    assert!(reached(&graph, "windy", Direction::Down).is_empty());
    // Both directions, and a bare name means every version.
    apply(&registry, flights_with(&[("ttl: 3h", "ttl: 2h")])).await.expect("another version");
    let graph = self::graph(&registry);
    let starts = graph.named("delay_model", None).expect("it is there");
    let names: Vec<&str> = starts.iter().map(|start| graph.nodes[*start].name.as_str()).collect();
    assert_eq!(names, ["delay_model@1", "delay_model@2"]);
    assert!(reached(&graph, "delay_model", Direction::Both).contains(&"weather.temp".to_owned()));
    assert_eq!(reached(&graph, "delay_model@2", Direction::Down), ["delay_board"]);
}

#[tokio::test]
async fn a_training_set_is_made_of_services_and_a_spine_and_may_train_the_consumers_of_all_its_services() {
    let (registry, _hold) = world().await;
    let hold = |used, set| registry.uses().hold(&name("default"), used, set);
    let shared = || Used::Service { name: "acme/model".to_owned(), number: 3 };
    let windy = || Used::Service { name: "windy".to_owned(), number: 1 };
    let spine = || Used::Spine("5f1e".to_owned());
    let _holds = [
        hold(spine(), "flights@2"),
        hold(spine(), "mixed@1"),
        hold(shared(), "mixed@1"),
        hold(windy(), "mixed@1"),
        hold(version_1(), "both@1"),
        hold(windy(), "both@1"),
        hold(shared(), "theirs@1"),
    ];
    let graph = graph(&registry);
    let up = reached(&graph, "flights", Direction::Up);
    for of in ["delay_model@1", "5f1e", "airport_weather", "airport_weather:temp", "weather", "weather.temp"] {
        assert!(up.contains(&of.to_owned()), "{of}: {up:?}");
    }
    assert_eq!(reached(&graph, "flights@2", Direction::Down), ["delay_board", "delay_predictor"]);
    // No consumer uses both services, and none can use another tenant's.
    for set in ["both@1", "mixed@1", "theirs@1"] {
        assert_eq!(reached(&graph, set, Direction::Down), [""; 0], "{set}");
    }
    // Of what another tenant shares the name is known, and nothing that it is made of.
    assert_eq!(reached(&graph, "theirs@1", Direction::Up), ["acme/model@3"]);
    assert_eq!(reached(&graph, "acme/model", Direction::Down), ["mixed@1", "theirs@1"]);
    let of_another = &graph.nodes[graph.named("acme/model@3", None).expect("it is there")[0]];
    assert_eq!((of_another.kind, of_another.owner.as_str()), (NodeKind::FeatureService, "tenant acme"));
    assert_eq!(reached(&graph, "5f1e", Direction::Down)[..2], ["flights@2", "mixed@1"]);
}

#[tokio::test]
async fn keys_entities_and_whole_views_lead_to_all_that_looks_their_rows_up() {
    let (registry, _hold) = world().await;
    let graph = graph(&registry);
    for of in ["weather.origin", "weather.event_timestamp", "airport", "airport_weather", "weather"] {
        let down = reached(&graph, of, Direction::Down);
        for user in ["delay_model@1", "windy@1", "flights@2", "delay_board", "delay_predictor"] {
            assert!(down.contains(&user.to_owned()), "{of} leads to {user}: {down:?}");
        }
    }
    // A consumer of a single feature is told of its view.
    assert!(reached(&graph, "carrier", Direction::Down).contains(&"delay_predictor".to_owned()));
    let up = reached(&graph, "delay_predictor", Direction::Up);
    assert!(
        ["departures.dep_delay", "departures", "carrier"].iter().all(|one| up.contains(&(*one).to_owned())),
        "{up:?}"
    );
}

#[tokio::test]
async fn a_name_of_several_kinds_is_refused_with_those_that_it_may_mean() {
    let registry = flights().await;
    let text = "
apiVersion: hydrant/v1
kind: FeatureService
metadata: {name: airport}
spec: {features: [airport_weather]}
";
    apply(&registry, definitions(text)).await.expect("names are of a kind");
    let graph = graph(&registry);
    let refused = graph.named("airport", None).expect_err("two kinds");
    assert_eq!((refused.code, refused.reason), (Code::InvalidArgument, "AMBIGUOUS_NAME"));
    assert!(refused.message.ends_with("Entity/airport, FeatureService/airport"), "{refused}");
    assert_eq!(refused.hint.as_deref(), Some("say which is meant: --kind Entity, --kind FeatureService"));
    assert_eq!(graph.named("airport", Some(NodeKind::Entity)).expect("one kind").len(), 1);
    let unknown = graph.named("airport_weather:tem", None).expect_err("no such feature");
    assert_eq!((unknown.code, unknown.reason), (Code::NotFound, "LINEAGE_NODE_NOT_FOUND"));
    let hint = unknown.hint.expect("there is one near");
    assert!(hint.contains("Feature/airport_weather:temp"), "{hint}");
    let long = graph.named(&"a".repeat(MAX_NAME_BYTES + 1), None).expect_err("too long");
    assert_eq!(long.reason, "INVALID_NAME");
    assert_eq!(graph.named("", None).expect_err("nothing").reason, "LINEAGE_NODE_NOT_FOUND");
}

#[tokio::test]
async fn what_is_made_of_something_is_what_that_is_made_of_seen_from_the_other_end() {
    let (registry, _hold) = world().await;
    let graph = graph(&registry);
    let is_view = |name: &str| graph.nodes.iter().any(|node| node.name == name && node.kind == NodeKind::FeatureView);
    for node in graph.nodes.iter().filter(|node| node.kind != NodeKind::FeatureView) {
        for user in reached(&graph, &node.name, Direction::Down) {
            // A view says only where features belong and which rows are looked up.
            if is_view(&user) {
                continue;
            }
            let up = reached(&graph, &user, Direction::Up);
            assert!(up.contains(&node.name), "{} leads to {user}, which is made of {up:?}", node.name);
        }
    }
}
