//! `hydrant usage` and `hydrant search --unused`.

use serde_json::{Value as Json, json};

use crate::scene::Scene;

fn json_of(scene: &Scene, arguments: &[&str]) -> Json {
    let shown = scene.succeed(&[arguments, &["-o", "json"]].concat());
    serde_json::from_str(&shown).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_what_and_what_nobody_reads_is_told_by_command() {
    let scene = Scene::with_weather().await;
    let unused = scene.succeed(&["usage", "--unused", "30d"]);
    assert!(unused.contains("airport_weather:temp") && unused.contains("never"), "{unused}");
    let found = json_of(&scene, &["search", "--unused", "30d"]);
    let names: Vec<&str> =
        found["hits"].as_array().expect("hits").iter().filter_map(|hit| hit["name"].as_str()).collect();
    assert_eq!(names, ["airport_weather", "airport_weather:temp", "model"]);
    assert_eq!(found["hits"][0]["last_read"], Json::Null);
    assert!(scene.succeed(&["search", "--unused", "30d"]).starts_with("KIND"));

    for _ in 0..3 {
        scene.succeed(&["online", "get", "--service", "model", "--key", "origin=EWR"]);
    }
    let told = json_of(&scene, &["usage", "airport_weather:temp"]);
    let feature = &told["usage"][0];
    assert_eq!((&feature["name"], &feature["kind"]), (&json!("airport_weather:temp"), &json!("Feature")));
    assert_eq!(feature["resource"], "tenants/default/usage/airport_weather:temp");
    assert_eq!((&feature["days"][0]["online"], &feature["last_training"]), (&json!(3), &Json::Null));
    let reader = &feature["readers"][0];
    assert_eq!((&reader["caller"], &reader["online"]), (&json!("loopback"), &json!(3)));
    let table = scene.succeed(&["usage"]);
    let line = table.lines().find(|line| line.contains("model@1")).expect("a line of the service");
    assert!(line.contains(" ago") && line.contains("3.0") && line.contains("loopback"), "{table}");
    let readers = scene.succeed(&["usage", "model", "--by-caller"]);
    let words: Vec<&str> = readers.lines().nth(1).expect("a line").split_whitespace().collect();
    assert_eq!(words[..4], ["model@1", "loopback", "3", "0"]);
    assert_eq!(scene.succeed(&["usage", "--unused", "1h"]), "nothing is unused\n");
    assert!(scene.refused(&["usage", "nothing"]).contains("there is no view, feature or service 'nothing'"));
}
