//! The command line against a real server: what is printed where, exit codes, and the answer to bad
//! input. Each test has a server of its own.

#[path = "cli/access.rs"]
mod access;
#[path = "support/authority.rs"]
mod authority;
#[path = "cli/backfill.rs"]
mod backfill;
#[path = "cli/backup.rs"]
mod backup;
#[path = "cli/bench.rs"]
mod bench;
#[path = "cli/definitions.rs"]
mod definitions;
#[path = "cli/diff.rs"]
mod diff;
#[path = "support/process.rs"]
mod process;
#[path = "cli/quota.rs"]
mod quota;
#[path = "cli/retention.rs"]
mod retention;
#[path = "cli/scene.rs"]
mod scene;
#[path = "cli/score.rs"]
mod score;
#[path = "../examples/nycflights13/server.rs"]
#[expect(dead_code, reason = "the story shows its commands; tests look at what they print")]
mod server;
#[path = "cli/sla.rs"]
mod sla;
#[path = "cli/tls.rs"]
mod tls;
#[path = "cli/training_set.rs"]
mod training_set;
#[path = "cli/usage.rs"]
mod usage;
#[path = "cli/ways_out.rs"]
mod ways_out;

use std::process::Command;
use std::sync::Arc;

use arrow_array::{Array as _, ArrayRef, Float64Array, StringArray, TimestampMicrosecondArray};
use serde_json::{Value as Json, json};

use scene::{DEFINITIONS, HOUR, START, Scene, read, text, weather_columns};

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_tells_by_its_exit_code_whether_applying_would_change_anything() {
    let scene = Scene::empty().await;
    let file = scene.file("all.yaml", DEFINITIONS);
    let plan = ["plan", "--exit-code", "-f", file.to_str().expect("UTF-8")];
    let output = scene.run(&plan);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stdout).contains("+ FeatureView/airport_weather"), "{}", text(&output.stdout));
    scene.succeed(&["apply", "-f", plan[3]]);
    assert!(scene.succeed(&plan).contains("0 to create, 0 to update, 4 unchanged"));

    let changed = scene.file("all.yaml", &DEFINITIONS.replace("ttl: 3h", "ttl: 2h"));
    let shown = scene.succeed(&["plan", "-f", changed.to_str().expect("UTF-8")]);
    assert!(shown.contains("~ FeatureView/airport_weather") && shown.contains("3h") && shown.contains("2h"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_wrong_with_definitions_is_told_at_once_with_file_and_line() {
    let scene = Scene::empty().await;
    let broken =
        DEFINITIONS.replace("source: weather", "source: wether").replace("entities: [airport]", "entities: [harbour]");
    let file = scene.file("broken.yaml", &broken);
    for command in ["plan", "apply"] {
        let shown = scene.refused(&[command, "-f", file.to_str().expect("UTF-8")]);
        assert!(shown.contains("broken.yaml:23:") && shown.contains("harbour"), "{shown}");
        assert!(shown.contains("broken.yaml:24:") && shown.contains("wether"), "{shown}");
    }
    assert_eq!(scene.succeed(&["get", "entities", "-o", "json"]).trim(), "[]", "nothing was applied");
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_come_back_as_the_documents_that_were_applied() {
    let scene = Scene::with_definitions().await;
    let shown = scene.succeed(&["get", "view", "airport_weather", "-o", "json"]);
    let shown: Json = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(shown[0]["kind"], "FeatureView");
    assert_eq!(shown[0]["spec"]["ttl"], "3h");
    assert_eq!(shown[0]["status"]["version"], 1);

    let yaml = scene.file("again.yaml", &scene.succeed(&["get", "views", "-o", "yaml"]));
    let unchanged = scene.succeed(&["plan", "--exit-code", "-f", yaml.to_str().expect("UTF-8")]);
    assert!(unchanged.contains("1 unchanged"), "{unchanged}");

    let described = scene.succeed(&["describe", "service", "model"]);
    assert!(
        described.contains("airport_weather__temp") && described.contains("FeatureView/airport_weather"),
        "{described}"
    );

    let refused = scene.refused(&["delete", "view", "airport_weather"]);
    assert!(refused.contains("model"), "{refused}");
    scene.succeed(&["delete", "service", "model"]);
    scene.succeed(&["delete", "view", "airport_weather"]);
    let gone = scene.refused_json(&["get", "view", "airport_weather", "-o", "json"]);
    assert!(gone["message"].as_str().is_some_and(|message| message.contains("airport_weather")), "{gone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_file_twice_changes_nothing() {
    let scene = Scene::with_definitions().await;
    let weather = scene.weather(&[Some("EWR"); 2], &[Some(START), Some(START + HOUR)]);
    let ingest = ["ingest", "weather", weather.as_str(), "-o", "json"];
    let report = |shown: String| serde_json::from_str::<Json>(&shown).expect("JSON")["files"][0].clone();
    let first = report(scene.succeed(&ingest));
    assert_eq!((&first["rows"], &first["applied"]), (&json!(2), &json!(2)));
    let second = report(scene.succeed(&ingest));
    assert_eq!((&second["rows"], &second["applied"]), (&json!(2), &json!(0)));
    let again = [&ingest[..], &["--again", "for a newer view"]].concat();
    for applied in [2, 0] {
        let report = report(scene.succeed(&again));
        assert_eq!((&report["rows"], &report["applied"]), (&json!(2), &json!(applied)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_row_refuses_its_whole_file_and_every_file_with_it() {
    let scene = Scene::with_definitions().await;
    let good = scene.parquet("good.parquet", weather_columns(&[Some("JFK")], &[Some(START)]));
    let bad = scene.weather(&[Some("EWR"), None, Some("EWR")], &[Some(START), Some(START), None]);
    let error = scene.refused_json(&["ingest", "weather", &good, &bad, "-o", "json"]);
    assert_eq!(error["reason"], "BAD_ROWS");
    assert!(error["message"].as_str().expect("text").contains("weather.parquet: 2 of 3 rows are bad"), "{error}");
    let rows: Vec<&str> =
        error["violations"].as_array().expect("rows").iter().map(|row| row["path"].as_str().expect("text")).collect();
    assert!(rows.len() == 2 && rows[0].starts_with("row 1") && rows[1] == "row 2, event_timestamp", "{rows:?}");

    let read = scene.succeed(&["online", "get", "--service", "model", "--key", "origin=JFK", "-o", "json"]);
    assert!(read.contains("NOT_FOUND"), "the good file was not sent either: {read}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_explained_in_words_and_for_programs() {
    let scene = Scene::with_weather().await;
    let why = ["why", "--service", "model", "--key", "origin=EWR", "--at", "2013-12-30T21:30:00Z"];
    let shown = scene.succeed(&why);
    for told in [
        "model@1 at 2013-12-30T21:30:00Z, as known",
        "airport_weather of origin=EWR",
        "PRESENT  written",
        "counted: the row of 2013-12-30T21:00:00Z (30 min before), known when it happened",
        "happened 30 min after the instant",
        "60 min older than the row that counts",
        "sent by producer",
    ] {
        assert!(shown.contains(told), "{told} is missing in:\n{shown}");
    }
    let json = scene.succeed(&[&why[..], &["--feature", "airport_weather:temp", "-o", "json"]].concat());
    let json: Json = serde_json::from_str(&json).expect("JSON");
    let view = &json["views"][0];
    let temp = &view["features"]["airport_weather__temp"];
    assert_eq!((&temp["value"], &temp["cause"]), (&json!(31.0), &json!("WRITTEN")));
    assert_eq!(view["winner"]["event_time"], "2013-12-30T21:00:00Z");
    assert_eq!((&view["losers"][0]["rule"], &view["rows"]), (&json!("LATER_THAN_INSTANT"), &json!(3)));
    let late = scene.succeed(&["why", "--service", "model", "--key", "origin=EWR", "--at", "2013-12-31T03:00:00Z"]);
    assert!(late.contains("EXPIRED  5 h old, and the ttl is 3 h"), "{late}");
    let nobody = scene.succeed(&["why", "--service", "model", "--key", "origin=XXX", "--at", "2013-12-31T03:00:00Z"]);
    assert!(nobody.contains("there is no row of this key"), "{nobody}");
    let refused = scene.refused_json(&[&why[..], &["--feature", "temp", "-o", "json"]].concat());
    assert_eq!(refused["reason"], "COLUMN_NOT_FOUND");
    assert!(refused["hint"].as_str().expect("a hint").contains("airport_weather__temp"));
}

#[tokio::test(flavor = "multi_thread")]
async fn how_a_training_set_would_be_made_is_told_of_a_file_or_of_a_number_of_rows() {
    let scene = Scene::with_weather().await;
    let shown = scene.succeed(&["historical", "explain", "--service", "model", "--rows", "1000000"]);
    assert!(shown.contains("1,000,000 rows of a spine, sorted by (origin)"), "{shown}");
    assert!(shown.contains("nothing has landed"), "{shown}");
    let spine = scene.weather(&[Some("EWR"); 2], &[Some(START), Some(START + HOUR)]);
    let of_file = ["historical", "explain", "--service", "model", "--spine", &spine, "--event-time", "event_timestamp"];
    let json = scene.succeed(&[&of_file[..], &["--format", "json"]].concat());
    let json: Json = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&json["rows"], &json["mode"], &json["spilled_bytes"]), (&json!(2), &json!("as_known"), &json!(0)));
    let view = &json["views"][0];
    assert_eq!(
        (&view["view"], &view["access"], &view["tail_rows"]),
        (&json!("airport_weather@1"), &json!("merge"), &json!(3))
    );
    let wrong =
        ["historical", "explain", "--service", "model", "--spine", &spine, "--event-time", "when", "--format", "json"];
    assert_eq!(scene.refused_json(&wrong)["reason"], "SPINE_MISMATCH");
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_must_be_those_of_the_source() {
    let scene = Scene::with_definitions().await;
    let mut columns = weather_columns(&[Some("EWR")], &[Some(START)]);
    columns.push(("wind", Arc::new(Float64Array::from(vec![1.0]))));
    let extra = scene.parquet("extra.parquet", columns);
    assert!(scene.refused(&["ingest", "weather", &extra]).contains("wind"));
    scene.succeed(&["ingest", "weather", &extra, "--ignore-extra"]);

    let mut columns = weather_columns(&[Some("EWR")], &[Some(START)]);
    columns.remove(1);
    let missing = scene.parquet("missing.parquet", columns);
    assert!(scene.refused(&["ingest", "weather", &missing]).contains("event_timestamp"));

    let mut columns = weather_columns(&[Some("EWR")], &[Some(START)]);
    columns[2].1 = Arc::new(StringArray::from(vec!["warm"]));
    let wrong = scene.parquet("wrong.parquet", columns);
    assert!(scene.refused(&["ingest", "weather", &wrong]).contains("temp"));
    assert!(scene.refused(&["ingest", "wether", &extra]).contains("wether"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_key_that_nobody_gives_is_refused_in_the_same_words_everywhere() {
    const ROUTES: &str = "\
apiVersion: hydrant/v1
kind: Entity
metadata: {name: route}
spec:
  joinKeys: [{name: origin, type: string}, {name: dest, type: string}]
---
apiVersion: hydrant/v1
kind: Source
metadata: {name: flights}
spec:
  type: push
  eventTime: t
  columns:
    - {name: origin, type: string}
    - {name: dest, type: string}
    - {name: t, type: timestamp}
    - {name: delay, type: float64}
---
apiVersion: hydrant/v1
kind: FeatureView
metadata: {name: route_delay}
spec:
  entities: [route]
  source: flights
  features: [{name: delay}]
---
apiVersion: hydrant/v1
kind: FeatureService
metadata: {name: routes}
spec: {features: [route_delay]}
";
    let scene = Scene::empty().await;
    scene.succeed(&["apply", "-f", scene.file("all.yaml", ROUTES).to_str().expect("UTF-8")]);
    let origins: ArrayRef = Arc::new(StringArray::from(vec!["EWR"]));
    let keys = scene.parquet("keys.parquet", vec![("origin", origins)]);
    let ways: [&[&str]; 4] = [
        &["online", "get", "--key", "origin=EWR"],
        &["online", "get", "--keys", &keys],
        &["bench", "online", "--rate", "1", "--key", "origin=EWR"],
        &["bench", "online", "--rate", "1", "--keys", &keys],
    ];
    for way in ways {
        let error = scene.refused_json(&[way, &["--service", "routes", "-o", "json"]].concat());
        assert_eq!(error["reason"], "NO_KEYS", "{way:?}: {error}");
        assert!(error["message"].as_str().expect("text").contains("dest"), "{way:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_online_answer_has_the_documented_shape() {
    let scene = Scene::with_weather().await;
    let get = ["online", "get", "--service", "model", "-o", "json", "--key", "origin=EWR", "--key", "origin=LGA"];
    let shown = scene.succeed(&[&get[..], &["--at", "2013-12-30T21:30:00Z"]].concat());
    let mut shown: Json = serde_json::from_str(&shown).expect("JSON");
    let views = shown["views"].take();
    assert!(views["airport_weather"]["complete_through"].is_string(), "{views}");
    assert_eq!(views["airport_weather"]["newest_event_time"], "2013-12-30T22:00:00Z");
    shown["registry_revision"].take();
    let expected = json!({
        "rows": [
            {"key": {"origin": "EWR"}, "features": {
                "airport_weather__temp": {"value": 31.0, "status": "PRESENT", "event_time": "2013-12-30T21:00:00Z"}}},
            {"key": {"origin": "LGA"}, "features": {"airport_weather__temp": {"value": null, "status": "NOT_FOUND"}}},
        ],
        "service": "model@1", "registry_revision": null, "t": "2013-12-30T21:30:00Z", "views": null, "rows_from_history": 1,
    });
    assert_eq!(shown, expected);

    let now: Json = serde_json::from_str(&scene.succeed(&get)).expect("JSON");
    assert_eq!(now["rows"][0]["features"]["airport_weather__temp"]["status"], "EXPIRED");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_online_read_names_has_to_exist() {
    let scene = Scene::with_weather().await;
    let error = scene.refused_json(&["online", "get", "--service", "modell", "--key", "origin=EWR", "-o", "json"]);
    assert!(error["message"].as_str().expect("text").contains("modell"), "{error}");
    assert!(scene.refused(&["online", "get", "--service", "model@9", "--key", "origin=EWR"]).contains('9'));
    assert!(scene.refused(&["online", "get", "--service", "model", "--key", "orign=EWR"]).contains("orign"));
    let ahead =
        scene.refused(&["online", "get", "--service", "model", "--key", "origin=EWR", "--at", "2999-01-01T00:00:00Z"]);
    assert!(ahead.contains("2999"), "{ahead}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_training_set_keeps_the_spine_and_adds_a_column_per_feature() {
    let scene = Scene::with_weather().await;
    let labels: ArrayRef = Arc::new(Float64Array::from(vec![1.0, 2.0, 3.0, 4.0]));
    let origins: ArrayRef = Arc::new(StringArray::from(vec![Some("EWR"), None, Some("EWR"), Some("EWR")]));
    let times: ArrayRef =
        Arc::new(TimestampMicrosecondArray::from(vec![START + HOUR, START, START - 1, START + 5 * HOUR + 1]));
    let spine = scene.parquet("spine.parquet", vec![("label", labels), ("origin", origins), ("t", times)]);
    let out = scene.folder.path().join("out.parquet");
    let get = [
        "historical",
        "get",
        "--service",
        "model",
        "--spine",
        &spine,
        "--event-time",
        "t",
        "-o",
        out.to_str().expect("UTF-8"),
    ];
    let shown = scene.succeed(&[&get[..], &["--with-status", "--with-event-time"]].concat());
    assert!(shown.contains("4 rows") && shown.contains("airport_weather__temp"), "{shown}");
    let set = read(&out);
    let schema = set.schema();
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(&names[..4], ["label", "origin", "t", "airport_weather__temp"]);
    assert!(names.contains(&"airport_weather__temp__status") && names.contains(&"airport_weather__temp__event_time"));
    let temps = set.column(3).as_any().downcast_ref::<Float64Array>().expect("float64");
    let temps: Vec<Option<f64>> = temps.iter().collect();
    assert_eq!(temps, [Some(31.0), None, None, None], "found, null key, before the first row, expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_spine_leaves_no_file_behind() {
    let scene = Scene::with_weather().await;
    let out = scene.folder.path().join("out.parquet");
    let time = |time: Option<i64>| -> ArrayRef { Arc::new(TimestampMicrosecondArray::from(vec![time])) };
    let origin = || -> ArrayRef { Arc::new(StringArray::from(vec!["EWR"])) };
    let cases = [
        ("no_key.parquet", vec![("t", time(Some(START)))], "t", "origin"),
        ("no_time.parquet", vec![("origin", origin())], "t", "'t'"),
        ("null_time.parquet", vec![("origin", origin()), ("t", time(None))], "t", "no event time"),
        ("wrong_time.parquet", vec![("origin", origin()), ("t", origin())], "t", "'t'"),
    ];
    for (name, columns, event_time, told) in cases {
        let spine = scene.parquet(name, columns);
        let get = ["historical", "get", "--service", "model", "--spine", &spine, "--event-time", event_time, "-o"];
        let refused = scene.refused(&[&get[..], &[out.to_str().expect("UTF-8")]].concat());
        assert!(refused.contains(told), "{name}: {refused}");
        assert!(!out.exists(), "{name}");
    }
    let left: Vec<_> = std::fs::read_dir(scene.folder.path())
        .expect("readable")
        .map(|entry| entry.expect("one").file_name())
        .collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("tmp")), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_has_one_server() {
    let scene = Scene::empty().await;
    let data = scene.server.folder().join("data");
    let serve = ["serve", "--data-dir", data.to_str().expect("UTF-8"), "--grpc-addr", "127.0.0.1:0"];
    let refused =
        scene.refused(&[&serve[..], &["--flight-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"]].concat());
    assert!(refused.contains("in use") && refused.contains("data"), "{refused}");
}

#[test]
fn without_a_server_a_command_tells_how_to_get_one() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hydrant"));
    let output = command.args(["get", "views", "--server", "127.0.0.1:1"]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    assert!(told.contains("127.0.0.1:1") && told.contains("hydrant serve"), "{told}");
}

#[test]
fn wrong_usage_exits_with_two() {
    let output = Command::new(env!("CARGO_BIN_EXE_hydrant")).arg("frobnicate").output().expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(!output.stderr.is_empty() && output.stdout.is_empty());
}
