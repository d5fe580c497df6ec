//! Documents: what owners write is read, and what is shown can be written back.

use serde_json::json;

use super::super::definition::{KnownTimeRule, Spec};
use super::super::{documents, scenario, yaml};
use super::*;

fn source_with(known_time: &str) -> String {
    format!(
        "{{apiVersion: hydrant/v1, kind: Source, metadata: {{name: s}}, spec: {{type: push, eventTime: at, {known_time}columns: [{{name: at, type: timestamp}}]}}}}"
    )
}

#[test]
fn every_document_comes_back_as_it_was_written() {
    for definition in definitions(FLIGHTS) {
        let shown = documents::to_json(&definition);
        assert_eq!(documents::from_json(&shown), Ok(definition.clone()), "{shown}");
        let text = serde_json::to_string_pretty(&shown).expect("it is JSON");
        assert_eq!(definitions(&text), [definition], "JSON is YAML");
    }
}

#[tokio::test]
async fn the_examples_of_the_documentation_can_be_applied() {
    for text in [include_str!("../../../README.md"), include_str!("../../../docs/definitions.md")] {
        let examples: Vec<&str> = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        assert!(!examples.is_empty());
        for example in examples {
            if example.contains("kind: Test\n") {
                scenario::parse("example.test.yaml", example).expect("a test is well written");
                continue;
            }
            let registry = open(&LossyFiles::new(1)).await.expect("an empty disk opens");
            apply(&registry, definitions(example)).await.expect("an example can be applied");
        }
    }
}

#[test]
fn a_document_keeps_the_names_that_owners_know() {
    let service = documents::to_json(&definitions(FLIGHTS)[3]);
    assert_eq!(
        service,
        json!({
            "apiVersion": "hydrant/v1",
            "kind": "FeatureService",
            "metadata": {"name": "delay_model"},
            "spec": {
                "latencyBudget": "8ms",
                "features": [
                    "airport_weather",
                    "carrier_departures:dep_delay",
                    {"view": "airport_weather", "features": ["temp"], "as": "dest_weather", "keys": {"origin": "dest"}},
                ],
            },
        })
    );
    assert_eq!(documents::to_json(&definitions(FLIGHTS)[1])["spec"]["knownTime"], json!("event"));
}

#[test]
fn known_time_is_written_in_four_ways() {
    for (written, rule) in [
        ("", KnownTimeRule::Arrival),
        ("knownTime: arrival, ", KnownTimeRule::Arrival),
        ("knownTime: event, ", KnownTimeRule::Event { delay: 0 }),
        ("knownTime: {event: +10m}, ", KnownTimeRule::Event { delay: 600_000_000 }),
        ("knownTime: {column: at}, ", KnownTimeRule::Column(name("at"))),
    ] {
        let definition = definitions(&source_with(written)).remove(0);
        let Spec::Source(spec) = &definition.spec else { panic!("it is a source") };
        assert_eq!(spec.known_time, rule);
        assert_eq!(documents::from_json(&documents::to_json(&definition)), Ok(definition));
    }
}

#[test]
fn what_is_shown_with_its_status_can_be_applied_again() {
    let mut shown = documents::to_json(&definitions(FLIGHTS)[0]);
    shown["status"] = json!({"version": 1, "revision": 7});
    assert!(documents::from_json(&shown).is_ok());
}

#[test]
fn a_default_keeps_its_bits_from_file_to_definition() {
    let text = "{apiVersion: hydrant/v1, kind: FeatureView, metadata: {name: v}, spec: {entities: [e], source: s, features: [{name: a, default: -0.0}, {name: b, default: .nan}, {name: c, default: 1}, {name: d, default: 2.2250738585072011e-308}]}}";
    let definition = definitions(text).remove(0);
    let Spec::FeatureView(spec) = &definition.spec else { panic!("it is a view") };
    let defaults: Vec<_> = spec.features.iter().filter_map(|feature| feature.default.clone()).collect();
    assert_eq!(defaults[0].as_f64().map(f64::to_bits), Some((-0.0_f64).to_bits()));
    assert_eq!(defaults[1..3], [json!("NaN"), json!(1)]);
    assert_eq!(
        defaults[3].as_f64().map(f64::to_bits),
        Some("2.2250738585072011e-308".parse::<f64>().expect("a number").to_bits())
    );
}

#[test]
fn a_definition_knows_where_it_was_written() {
    let file = yaml::parse("flights.yaml", FLIGHTS).expect("it is valid");
    let view = &file.definitions[2];
    assert_eq!(view.file.as_ref(), "flights.yaml");
    let line_with = |text: &str| FLIGHTS.lines().position(|line| line.contains(text)).expect("it is there") + 1;
    assert_eq!(view.line_of("spec.ttl"), line_with("ttl: 3h"));
    assert_eq!(view.line_of("spec.features[1].column"), line_with("column: wind_speed"));
    // What isn't written stands with what is around it.
    assert_eq!(view.line_of("spec.features[1].nothing.at.all"), line_with("column: wind_speed"));
    assert_eq!(view.line_of("nothing"), view.line);
    assert_eq!(view.place_of("spec.ttl").column, 8);
}

#[test]
fn aliases_stand_for_what_they_name() {
    let text = "apiVersion: hydrant/v1\nkind: Entity\nmetadata: {name: &name airport, description: *name}\nspec: {joinKeys: [{name: *name, type: string}]}\n";
    let definition = definitions(text).remove(0);
    assert_eq!(definition.metadata.description, "airport");
}

#[tokio::test]
async fn the_example_definitions_can_be_applied() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/nycflights13/definitions");
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory).expect("the examples are there") {
        let path = entry.expect("it is listed").path();
        // Tests beside definitions are no definitions.
        if path.to_string_lossy().ends_with(".test.yaml") {
            continue;
        }
        all.extend(definitions(&std::fs::read_to_string(path).expect("it is text")));
    }
    let registry = open(&LossyFiles::new(1)).await.expect("an empty disk opens");
    apply(&registry, all).await.unwrap_or_else(|refused| panic!("{:#?}", lines(&refused)));
    assert_eq!(catalog(&registry).views.len(), 7);
}
