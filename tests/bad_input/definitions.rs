//! Definitions that can't be read, or that don't fit together.

use serde_json::Value as Json;

use crate::scene::{DEFINITIONS, Scene};

fn places(error: &Json) -> Vec<String> {
    let violations = error["violations"].as_array().expect("places");
    violations.iter().map(|violation| format!("{} {}", violation["path"], violation["message"])).collect()
}

#[track_caller]
fn assert_told(error: &Json, file_line: &str, what: &str) {
    let places = places(error);
    let told = places.iter().any(|place| place.contains(file_line) && place.contains(what));
    assert!(told, "{file_line} … {what} is not among {places:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_t_be_read_is_told_for_all_files_at_once_with_its_lines() {
    let scene = Scene::empty("").await;
    let folder = scene.path("definitions");
    std::fs::create_dir_all(format!("{folder}/views")).expect("made");
    let write = |name: &str, content: &str| std::fs::write(format!("{folder}/{name}"), content).expect("written");
    write("a.yaml", "apiVersion: hydrant/v1\nkind: Entity\nmetadata: {name: [}\n");
    write("b.yml", "apiVersion: hydrant/v1\nkind: Entitty\nmetadata: {name: airport}\nspec: {}\n");
    let view = "apiVersion: hydrant/v1\nkind: FeatureView\nmetadata: {name: Airport__Weather}\nspec:\n  entities: [airport]\n  \
                source: weather\n  tll: 3h\n  ttl: soon\n  features: []\n";
    write("views/c.yaml", view);
    for command in ["plan", "apply"] {
        let error = scene.refused_json(&[command, "-f", &folder]);
        assert_eq!(error["reason"], "INVALID_DEFINITION");
        assert_told(&error, "a.yaml:3:", "");
        assert_told(&error, "b.yml:2:", "Entitty");
        assert_told(&error, "c.yaml:3:", "Airport__Weather");
        assert_told(&error, "c.yaml:7:", "tll");
        assert_told(&error, "c.yaml:8:", "soon");
    }
    let shown = scene.refused(&["apply", "-f", &folder]);
    assert!(shown.starts_with("error: ") && shown.contains("b.yml:2:"), "{shown}");
    assert_eq!(scene.succeed(&["get", "entities", "-o", "json"]).trim(), "[]", "nothing was applied");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_refers_to_nothing_is_told_for_all_definitions_at_once_and_nothing_is_applied() {
    let scene = Scene::empty("").await;
    let broken = DEFINITIONS
        .replace("source: weather", "source: wether")
        .replace("entities: [airport]", "entities: [harbour]")
        .replace("features: [airport_weather]", "features: [airport_weather, nothing, airport_weather:wind]")
        .replace("eventTime: event_timestamp", "eventTime: when");
    let file = scene.file("broken.yaml", &broken);
    for command in ["plan", "apply"] {
        let error = scene.refused_json(&[command, "-f", &file]);
        assert_told(&error, "broken.yaml:12:", "when");
        assert_told(&error, "broken.yaml:24:", "harbour");
        assert_told(&error, "broken.yaml:25:", "wether");
        assert_told(&error, "broken.yaml:32:", "nothing");
        assert_told(&error, "broken.yaml:32:", "wind");
    }
    for kind in ["entities", "sources", "views", "services"] {
        assert_eq!(scene.succeed(&["get", kind, "-o", "json"]).trim(), "[]", "nothing was applied");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_within_documents_and_between_them_is_told_at_once() {
    let scene = Scene::empty("").await;
    let broken = DEFINITIONS
        .replace("eventTime: event_timestamp", "eventTime: event_timestamp\n  maxFuture: never")
        .replace("entities: [airport]", "entities: [harbour]")
        .replace("features: [airport_weather]", "features: [airport_weather:wind, nothing]");
    let file = scene.file("broken.yaml", &broken);
    for command in ["plan", "apply"] {
        let error = scene.refused_json(&[command, "-f", &file]);
        assert_eq!(error["reason"], "INVALID_DEFINITION");
        let places = places(&error);
        assert_eq!(places.len(), 4, "{places:#?}");
        assert!(places[0].contains("broken.yaml:13:") && places[0].contains("never"), "{places:#?}");
        assert!(places[1].contains("broken.yaml:25:") && places[1].contains("harbour"), "{places:#?}");
        assert!(places[2].contains("broken.yaml:33:") && places[2].contains("wind"), "{places:#?}");
        assert!(places[3].contains("broken.yaml:33:") && places[3].contains("nothing"), "{places:#?}");
    }
    // Without a server what is wrong within them is told all the same, and what wasn't looked at.
    let error = scene.refused_json(&["plan", "-f", &file, "--server", "127.0.0.1:1"]);
    assert_eq!((error["reason"].as_str(), places(&error).len()), (Some("INVALID_DEFINITION"), 1), "{error}");
    assert!(error["hint"].as_str().is_some_and(|hint| hint.contains("wasn't looked at")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_problems_are_all_told() {
    let scene = Scene::empty("").await;
    let view = |number: usize| {
        format!(
            "apiVersion: hydrant/v1\nkind: FeatureView\nmetadata: {{name: view_{number}}}\nspec:\n  entities: [entity_{number}]\n  \
             source: source_{number}\n  features: [{{name: temp, type: float64}}]\n---\n"
        )
    };
    let file = scene.file("many.yaml", &(0..50).map(view).collect::<String>());
    for command in ["plan", "apply"] {
        let error = scene.refused_json(&[command, "-f", &file]);
        for number in [0, 17, 49] {
            assert_told(&error, "many.yaml:", &format!("entity_{number}"));
            assert_told(&error, "many.yaml:", &format!("source_{number}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_written_twice_is_told_with_both_places() {
    let scene = Scene::empty("").await;
    let entity = "apiVersion: hydrant/v1\nkind: Entity\nmetadata: {name: airport}\nspec:\n  joinKeys: [{name: origin, type: string}]\n";
    let file = scene.file("twice.yaml", &format!("{entity}---\n{entity}"));
    let shown = scene.refused(&["apply", "-f", &file]);
    assert!(shown.contains("airport") && shown.contains("twice.yaml:"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_without_definitions_and_one_that_is_not_there_are_named() {
    let scene = Scene::empty("").await;
    let folder = scene.path("empty");
    std::fs::create_dir(&folder).expect("made");
    let error = scene.refused_json(&["apply", "-f", &folder]);
    assert!(error["message"].as_str().is_some_and(|text| text.contains("empty") && text.contains("yaml")), "{error}");
    let error = scene.refused_json(&["plan", "-f", &scene.path("absent")]);
    assert!(error["message"].as_str().is_some_and(|text| text.contains("absent")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_tell_done_refused_wrong_usage_and_changes_apart() {
    let scene = Scene::empty("").await;
    let file = scene.file("all.yaml", DEFINITIONS);
    let code = |arguments: &[&str]| scene.run(arguments).status.code();
    assert_eq!(code(&["plan", "-f", &file]), Some(0));
    assert_eq!(code(&["plan", "-f", &file, "--exit-code"]), Some(3));
    assert_eq!(code(&["apply", "-f", &file]), Some(0));
    assert_eq!(code(&["plan", "-f", &file, "--exit-code"]), Some(0));
    assert_eq!(code(&["plan", "-f", &scene.path("absent"), "--exit-code"]), Some(1));
    assert_eq!(code(&["get", "view", "nothing"]), Some(1));
    for usage in [&["plan"][..], &["get"], &["get", "tables"], &["ingest", "weather"], &["serve", "--port", "1"]] {
        let output = scene.run(usage);
        assert_eq!(output.status.code(), Some(2), "{usage:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{usage:?}");
    }
}
