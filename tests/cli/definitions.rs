//! What owners do with definitions: see where they lead, plan who is touched, prune, go back, find, and
//! test them.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use crate::scene::{DEFINITIONS, HOUR, START, Scene, text};

const CONSUMER: &str = "\
---
apiVersion: hydrant/v1
kind: Consumer
metadata: {name: predictor, owner: ml@example.com}
spec:
  version: \"3\"
  services: [model]
";

const TESTS: &str = "\
apiVersion: hydrant/v1
kind: Test
metadata: {name: weather_expires}
spec:
  rows:
    - source: weather
      rows: [{origin: EWR, event_timestamp: 2013-12-30T20:00:00Z, temp: 39.02}]
  expect:
    - {service: model, at: 2013-12-30T22:00:00Z, keys: {origin: EWR}, values: {airport_weather__temp: 39.02}}
    - {service: model, at: 2013-12-30T23:30:00Z, keys: {origin: EWR}, values: {airport_weather__temp: {status: EXPIRED}}}
";

async fn with_consumer() -> Scene {
    let scene = Scene::empty().await;
    apply(&scene, &format!("{DEFINITIONS}{CONSUMER}"), &[]);
    scene
}

#[track_caller]
fn apply(scene: &Scene, definitions: &str, options: &[&str]) -> String {
    let file = scene.file("all.yaml", definitions);
    scene.succeed(&[&["apply", "-f", file.to_str().expect("UTF-8")], options].concat())
}

fn json_of(text: &str) -> Json {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn lineage_is_drawn_for_people_programs_and_pages() {
    let scene = with_consumer().await;
    let tree = scene.succeed(&["lineage", "weather.temp", "--down"]);
    let expected = "\
Column weather.temp (float64) makes
└─ Feature airport_weather:temp (float64) [feeds]
   ├─ FeatureView airport_weather [is part of]
   └─ FeatureService model@1 [is taken by, as airport_weather__temp]
      └─ Consumer predictor (3, ml@example.com) [is used by]
";
    assert_eq!(tree, expected);
    assert!(scene.succeed(&["lineage", "predictor"]).contains("made of\n└─ FeatureService model@1 [is used by]"));
    let graph = json_of(&scene.succeed(&["lineage", "airport_weather:temp", "--up", "-o", "json"]));
    assert_eq!(graph["of"], json!(["Feature/airport_weather:temp"]));
    assert_eq!(graph["edges"].as_array().map(Vec::len), Some(2), "{graph:#}");
    assert!(scene.succeed(&["lineage", "model", "-o", "dot"]).starts_with("digraph lineage {"));
    assert!(scene.succeed(&["lineage", "model@1", "-o", "mermaid"]).starts_with("flowchart LR\n"));

    let refused = scene.refused_json(&["lineage", "weather.temperature", "-o", "json"]);
    assert_eq!(refused["reason"], "LINEAGE_NODE_NOT_FOUND");
    apply(
        &scene,
        &DEFINITIONS.replace(
            "kind: FeatureService\nmetadata: {name: model}",
            "kind: FeatureService\nmetadata: {name: airport}",
        ),
        &[],
    );
    let refused = scene.refused(&["lineage", "airport"]);
    assert!(
        refused.contains("Entity/airport, FeatureService/airport") && refused.contains("--kind Entity"),
        "{refused}"
    );
    assert!(scene.succeed(&["lineage", "airport", "--kind", "entity", "--up"]).contains("made of nothing"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_names_whom_a_breaking_change_would_hurt_and_is_told_as_refused() {
    let scene = with_consumer().await;
    // The source is left without a column that the view takes.
    let breaking = DEFINITIONS.replace("    - {name: temp, type: float64}\n", "    - {name: warmth, type: float64}\n");
    let breaking = breaking.replace("    - {name: temp}\n", "    - {name: temp, column: warmth}\n");
    assert_ne!(breaking, DEFINITIONS);
    let file = scene.file("breaking.yaml", &breaking);
    let plan = ["plan", "-f", file.to_str().expect("UTF-8")];
    let output = scene.run(&plan);
    assert_eq!(output.status.code(), Some(1));
    let shown = text(&output.stdout);
    assert!(
        shown.contains("- columns.temp: float64\n        needs a new version of the view, which can't be built: "),
        "{shown}"
    );
    assert!(shown.contains("\n    touches FeatureService/model@1, Consumer/predictor (ml@example.com)"), "{shown}");
    let told = text(&output.stderr);
    let hurt = "it would hurt FeatureService/model@1, Consumer/predictor (ml@example.com)";
    assert!(told.contains("has no column 'temp'") && told.contains(hurt), "{told}");
    assert!(told.contains("breaking.yaml:"), "{told}");
    let output = scene.run(&[&plan[..], &["-o", "json"]].concat());
    let difference = &json_of(&text(&output.stdout))["changes"][1]["differences"];
    let classes: Vec<&str> =
        difference.as_array().expect("a list").iter().filter_map(|one| one["class"].as_str()).collect();
    assert!(classes.contains(&"NEW_VIEW_VERSION") && classes.contains(&"IN_PLACE"), "{classes:?}");
    assert_eq!(json_of(&text(&output.stderr))["error"]["reason"], "INCOMPATIBLE_CHANGE");
    assert!(scene.refused(&["apply", "-f", plan[2]]).contains(hurt));
    let refused = scene.refused(&["delete", "service", "model"]);
    assert!(refused.contains("Consumer/predictor (ml@example.com)"), "{refused}");
    // The way out is that of the kind.
    assert!(
        refused.contains("hydrant training-set delete") && !refused.contains("hydrant delete service"),
        "{refused}"
    );
    let refused = scene.refused(&["delete", "entity", "airport"]);
    assert!(refused.contains("delete the views that are named") && !refused.contains("hydrant share"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_of_a_view_is_planned_built_shown_compared_and_gone_back_from() {
    let scene = with_consumer().await;
    let weather = scene.weather(&[Some("EWR"); 3], &[Some(START), Some(START + HOUR), Some(START + 2 * HOUR)]);
    scene.succeed(&["ingest", "weather", &weather]);
    let views = |feature: &str| {
        let (views, _) = DEFINITIONS.split_once("---\napiVersion: hydrant/v1\nkind: FeatureService").expect("the last");
        views.replace("    - {name: temp}\n", &format!("    - {feature}\n"))
    };
    let file = scene.file("renamed.yaml", &views("{name: warmth, column: temp}"));
    let file = file.to_str().expect("UTF-8");
    let shown = scene.succeed(&["plan", "-f", file]);
    let once =
        "    features.temp is called warmth (column temp)\n    + new version: 2, built from the history of version 1";
    assert!(shown.contains(once) && shown.matches("touches").count() == 1, "{shown}");
    assert!(shown.contains("\n    touches FeatureService/model@1, Consumer/predictor (ml@example.com)"), "{shown}");
    let applied = scene.succeed(&["apply", "-f", file]);
    assert!(applied.contains("    version 2 is built in the background"), "{applied}");
    assert!(applied.contains("    apply again then, to have them read it: FeatureService/model\n"), "{applied}");
    let deadline = Instant::now() + Duration::from_secs(60);
    let status = loop {
        let status = json_of(&scene.succeed(&["get", "view", "airport_weather", "-o", "json"]))[0]["status"].clone();
        assert_eq!(status["version"], 2, "as it was applied last: {status}");
        if status.get("servedVersion").is_none() {
            break status;
        }
        assert_eq!(status["servedVersion"], 1, "{status}");
        assert!(Instant::now() < deadline, "not built: {status}");
    };
    assert_eq!(status["versions"], json!([1, 2]));
    let old = json_of(&scene.succeed(&["get", "view", "airport_weather@1", "-o", "json"]))[0].clone();
    assert_eq!((&old["spec"]["features"], &old["status"]["version"]), (&json!([{"name": "temp"}]), &json!(1)));

    // The service goes over when it is applied, and its columns are called as before.
    let service = "apiVersion: hydrant/v1\nkind: FeatureService\nmetadata: {name: other}\nspec: {features: ['airport_weather:warmth']}\n";
    apply(&scene, service, &[]);
    let at = ["--key", "origin=EWR", "--at", "2013-12-30T22:30:00Z", "-o", "json"];
    let diff = json_of(&scene.succeed(&[&["diff", "model@1", "other@1"][..], &at].concat()));
    assert_eq!(
        (&diff["only_left"], &diff["only_right"]),
        (&json!(["airport_weather__temp"]), &json!(["airport_weather__warmth"]))
    );
    let value = |service: &str, feature: &str| {
        let read = json_of(&scene.succeed(&[&["online", "get", "--service", service][..], &at].concat()));
        read["rows"][0]["features"][feature]["value"].clone()
    };
    assert_eq!(value("model@1", "airport_weather__temp"), json!(32.0));
    assert_eq!(value("other", "airport_weather__warmth"), json!(32.0));

    let refused = scene.refused(&["delete", "view", "airport_weather@1"]);
    assert!(refused.contains("FeatureService/model@1"), "{refused}");
    let back = scene.file("back.yaml", &views("{name: temp}"));
    scene.succeed(&["apply", "-f", back.to_str().expect("UTF-8")]);
    let status = json_of(&scene.succeed(&["get", "view", "airport_weather", "-o", "json"]))[0]["status"].clone();
    assert_eq!((&status["version"], &status["versions"]), (&json!(1), &json!([1, 2])), "at once");
    scene.succeed(&["delete", "service", "other"]);
    scene.succeed(&["delete", "view", "airport_weather@2"]);
    let history = scene.succeed(&["history", "view", "airport_weather"]);
    let lines = [
        " by new version\n  ~ FeatureView/airport_weather@2 is served\n",
        "@1 is served\n",
        "  - FeatureView/airport_weather@2\n",
    ];
    assert!(lines.iter().all(|line| history.contains(line)), "{history}");
    let gone = scene.refused_json(&["get", "view", "airport_weather@2", "-o", "json"]);
    assert_eq!(gone["reason"], "VIEW_VERSION_NOT_FOUND", "{gone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_shows_and_then_deletes_what_is_gone_or_refuses_as_a_whole() {
    let scene = with_consumer().await;
    let part = |count: usize| DEFINITIONS.split("---\n").take(count).collect::<Vec<_>>().join("---\n");
    let other = "---\napiVersion: hydrant/v1\nkind: FeatureService\nmetadata: {name: other}\nspec: {features: [airport_weather]}\n";
    let without_model = scene.file("without.yaml", &format!("{}{other}", part(3)));
    let file = without_model.to_str().expect("UTF-8");
    let output = scene.run(&["plan", "--prune", "-f", file]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("- FeatureService/model\n    touches Consumer/predictor (ml@example.com)\n"));
    assert!(
        text(&output.stderr).contains("is in use by Consumer/predictor (ml@example.com)"),
        "{}",
        text(&output.stderr)
    );
    scene.refused(&["apply", "--prune", "-f", file]);
    assert!(!scene.succeed(&["get", "services"]).contains("other"), "nothing of it was applied");

    scene.succeed(&["delete", "consumer", "predictor"]);
    let plan = json_of(&scene.succeed(&["plan", "--prune", "-f", file, "-o", "json"]));
    let revision = plan["registry_revision"].to_string();
    let stale = scene.refused_json(&["apply", "--prune", "-f", file, "--revision", "1", "-o", "json"]);
    assert_eq!(stale["reason"], "REVISION_MISMATCH");
    let shown = scene.succeed(&["apply", "--prune", "-f", file, "--revision", &revision]);
    assert!(shown.contains("1 created, 0 updated, 1 deleted, 3 unchanged"), "{shown}");
    assert!(scene.succeed(&["plan", "--prune", "--exit-code", "-f", file]).contains("4 unchanged"));
}

#[tokio::test(flavor = "multi_thread")]
async fn history_tells_who_changed_what_and_a_rollback_goes_back() {
    let scene = Scene::with_definitions().await;
    let first = json_of(&scene.succeed(&["history", "-o", "json"]))["registry_revision"].to_string();
    apply(&scene, &DEFINITIONS.replace("metadata: {name: model}", "metadata: {name: model, description: Better}"), &[]);
    let history = scene.succeed(&["history", "service", "model"]);
    assert!(history.contains("  ~ FeatureService/model (version 1)\n      + description: \"Better\"\n"), "{history}");
    assert!(history.contains("  + FeatureService/model (version 1)\n"), "{history}");
    let one = json_of(&scene.succeed(&["history", "--limit", "1", "-o", "json"]));
    assert_eq!(one["revisions"].as_array().map(Vec::len), Some(1));
    assert_eq!(one["revisions"][0]["cause"], "CHANGE");

    let shown = scene.succeed(&["rollback", "--to-revision", &first, "--dry-run"]);
    assert!(shown.contains("~ FeatureService/model\n    - description: \"Better\"\n"), "{shown}");
    assert!(scene.succeed(&["describe", "service", "model"]).contains("Better"), "nothing was done");
    scene.succeed(&["rollback", "--to-revision", &first]);
    assert!(!scene.succeed(&["describe", "service", "model"]).contains("Better"));
    assert!(scene.succeed(&["history"]).contains(&format!(", a rollback to {first}\n")));
    let refused = scene.refused_json(&["rollback", "--to-revision", "99", "-o", "json"]);
    assert_eq!(refused["reason"], "REVISION_NOT_FOUND");
    let refused = scene.refused_json(&["history", "view", "nosuch", "-o", "json"]);
    assert_eq!(refused["reason"], "DEFINITION_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_are_found_by_words_kinds_types_and_owners() {
    let scene = with_consumer().await;
    let names = |arguments: &[&str]| -> Vec<String> {
        let found = json_of(&scene.succeed(&[&["search"], arguments, &["-o", "json"]].concat()));
        let hits = found["hits"].as_array().expect("a list").clone();
        assert_eq!(found["total"].as_u64(), Some(hits.len() as u64));
        hits.iter().map(|hit| format!("{}/{}", hit["kind"].as_str().unwrap(), hit["name"].as_str().unwrap())).collect()
    };
    assert_eq!(names(&["temp"]), ["Feature/airport_weather:temp"]);
    assert_eq!(names(&["--kind", "column", "--type", "float64"]), ["Column/weather.temp"]);
    assert_eq!(names(&["--owner", "ml@"]), ["Consumer/predictor"]);
    assert_eq!(names(&["--entity", "airport", "--kind", "view"]), ["FeatureView/airport_weather"]);
    assert!(scene.succeed(&["search", "weather", "--limit", "1"]).lines().count() == 2);
    let refused = scene.refused_json(&["search", "--type", "float63", "-o", "json"]);
    assert_eq!(refused["reason"], "BAD_SEARCH");
}

/// Runs `hydrant test` on a folder, with no server anywhere.
fn tested(folder: &Path, options: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hydrant"));
    command.args(["test", "-f"]).arg(folder).args(options).env_remove("HYDRANT_SERVER").output().expect("it runs")
}

#[test]
fn tests_beside_definitions_are_run_without_a_server_and_tell_what_differs() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
    write("all.yaml", DEFINITIONS);
    write("weather.test.yaml", TESTS);
    let output = tested(folder.path(), &[]);
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{shown}{}", text(&output.stderr));
    assert!(shown.contains("ok     weather_expires (4 cells, "), "{shown}");
    assert!(shown.ends_with("1 passed, 0 failed, 4 cells compared\n"), "{shown}");

    // The definitions change, and what they were held to doesn't.
    write("all.yaml", &DEFINITIONS.replace("ttl: 3h", "ttl: 1h"));
    let junit = folder.path().join("report.xml");
    let output = tested(folder.path(), &["--junit", junit.to_str().expect("UTF-8")]);
    assert_eq!(output.status.code(), Some(1));
    let shown = text(&output.stdout);
    for read in ["online", "historical"] {
        let told = format!(
            "weather.test.yaml:9: airport_weather__temp, {read} at 2013-12-30T22:00:00Z\n    - expected 39.02\n    + found    EXPIRED\n"
        );
        assert!(shown.contains(&told), "{shown}");
    }
    assert_eq!(text(&output.stderr), "");
    let report = std::fs::read_to_string(&junit).expect("it was written");
    assert!(
        report.contains("tests=\"1\" failures=\"1\" errors=\"0\"") && report.contains("expected 39.02, found EXPIRED")
    );
    let output = tested(folder.path(), &["-o", "json"]);
    let json = json_of(&text(&output.stdout));
    assert_eq!((output.status.code(), json["failed"].as_u64()), (Some(1), Some(1)));
    assert_eq!(json["tests"][0]["mismatches"].as_array().map(Vec::len), Some(2));
}

#[test]
fn tests_that_can_not_be_run_are_told_by_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
    write("all.yaml", DEFINITIONS);
    let none = tested(folder.path(), &[]);
    assert_eq!(none.status.code(), Some(1));
    assert!(text(&none.stderr).contains("there is no test"), "{}", text(&none.stderr));
    for (from, to, told) in [
        ("temp: 39.02}", "temp: warm}", "column 'temp'"),
        ("temp: 39.02}", "heat: 39.02}", "the source declares no column 'heat'"),
        ("source: weather", "source: wether", "there is no source 'wether'"),
        ("event_timestamp: 2013-12-30T20:00:00Z", "event_timestamp: 1969-12-30T20:00:00Z", "a test begins after 1970"),
        ("event_timestamp: 2013-12-30T20:00:00Z, ", "", "it has no 'event_timestamp'"),
        ("origin: EWR, event", "origin: null, event", "its key is null for every view"),
        ("service: model", "service: modle", "modle"),
        (
            "keys: {origin: EWR}, values: {airport_weather__temp: 39.02}",
            "keys: {}, values: {airport_weather__temp: 39.02}",
            "the key 'origin' is missing",
        ),
        ("airport_weather__temp: 39.02", "airport_weather__tmp: 39.02", "there is no column 'airport_weather__tmp'"),
        ("airport_weather__temp: 39.02", "airport_weather__temp: warm", "'airport_weather__temp'"),
    ] {
        let changed = TESTS.replacen(from, to, 1);
        assert_ne!(changed, TESTS, "{from}");
        write("weather.test.yaml", &changed);
        let output = tested(folder.path(), &[]);
        let shown = text(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{to}: {shown}{}", text(&output.stderr));
        assert!(
            shown.contains("FAILED weather_expires") && shown.contains("can't be run: ") && shown.contains(told),
            "{to}: {shown}"
        );
    }
    write("weather.test.yaml", &TESTS.replace("kind: Test", "kind: Tset"));
    let output = tested(folder.path(), &["-o", "json"]);
    let error = &json_of(&text(&output.stderr))["error"];
    assert_eq!((error["reason"].as_str(), output.status.code()), (Some("INVALID_TEST"), Some(1)));
    assert!(
        error["violations"][0]["path"].as_str().is_some_and(|path| path.ends_with("weather.test.yaml:2:7")),
        "{error}"
    );
}

#[test]
fn the_definitions_of_the_example_pass_their_tests() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/nycflights13/definitions");
    let output = tested(&folder, &[]);
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{shown}{}", text(&output.stderr));
    assert!(shown.contains("3 passed, 0 failed"), "{shown}");
}
