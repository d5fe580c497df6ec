//! `hydrant diff`: two versions of a service, held against each other over the same keys.

use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, StringArray, TimestampMicrosecondArray};
use serde_json::{Value as Json, json};

use crate::scene::{DEFINITIONS, START, Scene, text, weather_columns};

/// Beside the weather at airports, that of stations; the second version of the model has the one in place of
/// the other.
const STATIONS: &str = "\
apiVersion: hydrant/v1
kind: Source
metadata: {name: stations}
spec:
  type: push
  eventTime: event_timestamp
  knownTime: event
  columns:
    - {name: origin, type: string}
    - {name: event_timestamp, type: timestamp}
    - {name: temp, type: float64}
---
apiVersion: hydrant/v1
kind: FeatureView
metadata: {name: station_weather}
spec: {entities: [airport], source: stations, ttl: 3h, features: [{name: temp}]}
---
apiVersion: hydrant/v1
kind: FeatureService
metadata: {name: model}
spec:
  features:
";

const AT: &str = "2013-12-30T20:30:00Z";

/// Of 200 airports, A0 to A199, all are known to the first version; the second has them up to A149, half a
/// degree warmer from A100 on.
async fn scene() -> Scene {
    let scene = Scene::with_definitions().await;
    let apply = |name: &str, features: &str| {
        let file = scene.file(name, &format!("{STATIONS}{features}"));
        scene.succeed(&["apply", "-f", file.to_str().expect("UTF-8")]);
    };
    apply("first.yaml", "    - airport_weather\n    - {view: station_weather, as: station}\n");
    let names: Vec<String> = (0..200).map(|number| format!("A{number}")).collect();
    let origins: Vec<Option<&str>> = names.iter().map(|name| Some(name.as_str())).collect();
    let weather = scene.parquet("weather.parquet", weather_columns(&origins, &[Some(START); 200]));
    scene.succeed(&["ingest", "weather", &weather]);
    let temps = (0..150).map(|row| 30.0 + f64::from(row) + if row < 100 { 0.0 } else { 0.5 });
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("origin", Arc::new(StringArray::from(origins[..150].to_vec()))),
        ("event_timestamp", Arc::new(TimestampMicrosecondArray::from(vec![START; 150]))),
        ("temp", Arc::new(temps.collect::<Float64Array>())),
    ];
    let stations = scene.parquet("stations.parquet", columns);
    scene.succeed(&["ingest", "stations", &stations]);
    apply("second.yaml", "    - {view: station_weather, as: airport_weather}\n");
    scene.parquet("keys.parquet", vec![("origin", Arc::new(StringArray::from(origins)) as ArrayRef)]);
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn two_versions_are_held_against_each_other_over_a_file_of_keys() {
    let scene = scene().await;
    let keys = scene.path("keys.parquet");
    let diff = ["diff", "model@2", "model@3", "--keys", keys.as_str(), "--at", AT];
    let options = ["--batch-size", "30", "--repeat", "2", "-o", "json"];
    let told: Json = serde_json::from_str(&scene.succeed(&[&diff[..], &options].concat())).expect("JSON");
    assert_eq!((&told["rows"], &told["differs"], &told["t"]), (&json!(400), &json!(true), &json!(AT)));
    assert_eq!((&told["only_left"], &told["only_right"]), (&json!(["station__temp"]), &json!([])));
    let [feature] = told["features"].as_array().expect("a list").as_slice() else { panic!("{told}") };
    assert_eq!(feature["feature"], "airport_weather__temp");
    let counts = ["equal", "values_differ", "statuses_differ"].map(|count| feature[count].as_u64().expect("a count"));
    assert_eq!(counts, [200, 100, 100], "each row twice: the same of 100, warmer by half a degree 50, without 50");
    assert_eq!(feature["statuses"], json!([{"left": "PRESENT", "right": "NOT_FOUND", "cells": 100}]));
    assert_eq!((&feature["max_difference"], feature["mean_difference"].as_f64()), (&json!(0.5), Some(0.5 / 3.0)));
    let example = &feature["examples"][0];
    assert_eq!((&example["key"]["origin"], &example["left"]["value"]), (&json!("A100"), &json!(130.0)));
    assert_eq!(example["right"], json!({"value": 130.5, "status": "PRESENT"}));
    for (side, service) in [("left", "model@2"), ("right", "model@3")] {
        let side = &told[side];
        assert_eq!((&side["service"], &side["reads"]), (&json!(service), &json!(14)), "7 reads of 30 keys, twice");
        let (p50, p99) = (side["p50_us"].as_u64().expect("a number"), side["p99_us"].as_u64().expect("a number"));
        assert!(0 < p50 && p50 <= p99, "{side}");
    }

    let shown = scene.succeed(&diff);
    for part in ["airport_weather__temp", "only in model@2: station__temp", "PRESENT and NOT_FOUND: 50 cells", "P99"] {
        assert!(shown.contains(part), "{part} is missing in:\n{shown}");
    }
    assert!(
        shown.contains("origin=A100: 130.0 and 130.5") && shown.contains("they differ; 200 rows compared"),
        "{shown}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_difference_ends_with_3_where_that_is_asked_for_and_tolerance_says_what_is_one() {
    let scene = scene().await;
    let ended = |arguments: &[&str]| {
        let output = scene.run(arguments);
        (output.status.code(), text(&output.stdout))
    };
    let same = ["diff", "model@3", "model", "--key", "origin=A120", "--at", AT, "--exit-code"];
    let (code, shown) = ended(&same);
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("no difference; 1 row compared"), "{shown}");

    let other = scene
        .file("third.yaml", &DEFINITIONS.replace("features: [airport_weather]", "features: [airport_weather:temp]"));
    scene.succeed(&["apply", "-f", other.to_str().expect("UTF-8")]);
    let differing = ["diff", "model@3", "model@4", "--key", "origin=A120", "--at", AT, "--exit-code"];
    assert_eq!(ended(&differing).0, Some(3));
    assert_eq!(ended(&[&differing[..], &["--tolerance", "0.5"]].concat()).0, Some(0));
    assert_eq!(ended(&differing[..differing.len() - 1]).0, Some(0), "nobody asked");
    let newest = ["diff", "model@3", "model@4", "--key", "origin=A120", "--unpinned", "--exit-code"];
    let (code, shown) = ended(&newest);
    assert_eq!(code, Some(0), "by now both have expired: {shown}");

    assert!(scene.refused(&["diff", "model@3", "model@9", "--key", "origin=A1"]).contains("no version 9"));
    let wrong = scene.refused_json(&["diff", "model@3", "model@4", "--key", "dest=A1", "-o", "json"]);
    assert_eq!(wrong["reason"], "UNKNOWN_KEY", "{wrong}");
}
