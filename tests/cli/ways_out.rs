//! What a command says where something is wrong or broke off, and that the way out it names works.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array};
use serde_json::{Value as Json, json};

use crate::scene::{AtTheEnd, DEFINITIONS, HOUR, Passage, START, Scene, historical, text, weather_columns};

#[tokio::test(flavor = "multi_thread")]
async fn wrong_columns_are_told_once_each_and_the_way_out_fits_them() {
    let scene = Scene::with_definitions().await;
    let wind = || -> ArrayRef { Arc::new(Float64Array::from(vec![1.0])) };
    let mut columns = weather_columns(&[Some("EWR")], &[Some(START)]);
    columns.push(("wind", wind()));
    let extra = scene.parquet("extra.parquet", columns.clone());
    let told = scene.refused(&["ingest", "weather", &extra]);
    assert_eq!(told.matches("wind").count(), 1, "{told}");
    assert!(told.contains("hint:") && told.contains("--ignore-extra"), "{told}");

    columns.push(("gust", wind()));
    let told = scene.refused(&["ingest", "weather", &scene.parquet("extra.parquet", columns.clone())]);
    assert_eq!(told.matches("does not declare").count(), 2, "{told}");
    assert!(told.contains("--ignore-extra"), "{told}");

    // A column under another name is missed as much as it is too many.
    columns[0].0 = "orign";
    let told = scene.refused(&["ingest", "weather", &scene.parquet("extra.parquet", columns)]);
    assert!(told.contains("is missing") && !told.contains("--ignore-extra"), "{told}");
    assert!(told.contains("the source has origin, event_timestamp, temp"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn history_loaded_as_news_is_warned_about_and_the_way_out_works() {
    let scene = Scene::with_definitions().await;
    let weather = scene.weather(&[Some("EWR")], &[Some(START)]);
    let output = scene.run(&["ingest", "weather", &weather, "--known", "arrival"]);
    assert!(output.status.success());
    assert!(text(&output.stderr).contains("--known event"), "{}", text(&output.stderr));

    let spine = scene.spine(&[START + HOUR]);
    let (as_known, warned) = scene.trained(&spine, &[]);
    assert_eq!(as_known, [None], "it was not known then");
    assert!(warned.contains("1 of 1 (row, view) pairs (100.0 %)"), "{warned}");
    assert!(warned.contains("--known event") && warned.contains("--final"), "{warned}");
    let (finally, warned) = scene.trained(&spine, &["--final"]);
    assert_eq!((finally, warned.as_str()), (vec![Some(30.0)], ""));

    let output = scene.run(&["ingest", "weather", &weather, "--known", "event"]);
    assert_eq!(text(&output.stderr), "", "what happened was known then");
    let (as_known, warned) = scene.trained(&spine, &[]);
    assert_eq!(as_known, [Some(30.0)]);
    assert!(warned.contains("still counted"), "{warned}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_told_with_what_is() {
    let scene = Scene::with_definitions().await;
    let hint = |arguments: &[&str]| {
        let told = scene.refused(arguments);
        told.split("hint: ").nth(1).unwrap_or_else(|| panic!("{arguments:?}: {told}")).trim().to_owned()
    };
    assert_eq!(hint(&["get", "view", "airport_wether"]), "is it 'airport_weather'? `hydrant get views` lists all");
    assert_eq!(hint(&["describe", "entity", "harbour"]), "there are: airport");
    assert_eq!(hint(&["delete", "source", "x"]), "there are: weather");
    let weather = scene.weather(&[Some("EWR")], &[Some(START)]);
    assert!(hint(&["ingest", "wether", &weather]).contains("'weather'"));
    assert!(hint(&["online", "get", "--service", "modell", "--key", "origin=EWR"]).contains("'model'"));
    let version = hint(&["online", "get", "--service", "model@9", "--key", "origin=EWR"]);
    assert_eq!(version, "the versions that are served: 1");
    let (spine, out) = (scene.spine(&[START]), scene.path("out.parquet"));
    let mut get = historical(&spine, &out);
    get[3] = "modle";
    assert!(hint(&get).contains("'model'"));
    get[3] = "model@9";
    assert!(hint(&get).contains("hydrant describe service model"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wrong_port_is_told_by_what_answers_there() {
    let scene = Scene::empty().await;
    for (port, told) in [("flight_port", "Flight port"), ("http_port", "HTTP port")] {
        let address = format!("127.0.0.1:{}", scene.port(port));
        for command in [["get", "views"], ["get", "services"]] {
            let error = scene.refused_json(&[&command[..], &["-o", "json", "--server", &address]].concat());
            assert_eq!(error["reason"], "WRONG_PORT", "{error}");
            let message = error["message"].as_str().expect("text");
            assert!(message.contains(&address) && message.contains(told), "{message}");
            assert!(error["hint"].as_str().is_some_and(|hint| hint.contains("gRPC")), "{error}");
        }
    }
    for (address, told) in [("localhost", "no port"), ("localhost:0", "port 0"), ("ftp://localhost:1", "only http")] {
        let output = scene.run(&["get", "views", "--server", address]);
        assert_eq!(output.status.code(), Some(2), "{address}");
        assert!(text(&output.stderr).contains(told), "{}", text(&output.stderr));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_define_nothing_are_told() {
    let scene = Scene::empty().await;
    std::fs::create_dir(scene.folder.path().join("definitions")).expect("made");
    let folder = scene.path("definitions");
    scene.file("definitions/empty.yaml", "");
    scene.file("definitions/comments.yaml", "# nothing yet\n---\n# nor here\n");
    for command in ["plan", "apply"] {
        let error = scene.refused_json(&[command, "-f", &folder, "-o", "json"]);
        assert_eq!(error["reason"], "NO_DEFINITIONS", "{error}");
    }
    scene.file("definitions/all.yaml", DEFINITIONS);
    for command in ["plan", "apply"] {
        let output = scene.run(&[command, "-f", &folder]);
        assert!(output.status.success());
        let warned = text(&output.stderr);
        for file in ["empty.yaml", "comments.yaml"] {
            assert!(warned.contains(&format!("{file}: it holds no definition")), "{warned}");
        }
        assert!(!warned.contains("all.yaml"), "{warned}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_affects_what_is_frozen_anew_and_not_what_stays_frozen() {
    let scene = Scene::with_definitions().await;
    let changed = DEFINITIONS.replace("ttl: 3h", "ttl: 2h");
    let plan = |file: PathBuf| scene.succeed(&["plan", "-f", file.to_str().expect("UTF-8")]);
    let with_service = plan(scene.file("all.yaml", &changed));
    assert!(with_service.contains("affects FeatureService/model"), "{with_service}");
    let (without_service, _) = changed.rsplit_once("---").expect("the service stands last");
    let alone = plan(scene.file("views.yaml", without_service));
    assert!(alone.contains("ttl: 3h -> 2h") && !alone.contains("affects"), "{alone}");
    let known = plan(scene.file("known.yaml", &without_service.replace("knownTime: event", "knownTime: arrival")));
    assert!(known.contains("affects FeatureView/airport_weather, FeatureService/model"), "{known}");
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_of_a_service_are_shown_and_deleted_one_by_one() {
    let scene = Scene::with_weather().await;
    let second = DEFINITIONS.replace("ttl: 3h", "ttl: 2h").replace("{name: temp}", "{name: temp, default: 0.5}");
    scene.succeed(&["apply", "-f", scene.file("all.yaml", &second).to_str().expect("UTF-8")]);
    let get = |name: &str| {
        let shown = scene.succeed(&["get", "service", name, "-o", "json"]);
        serde_json::from_str::<Json>(&shown).expect("JSON")[0].clone()
    };
    let (first, second, current) = (get("model@1"), get("model@2"), get("model"));
    assert_eq!(second, current);
    assert_eq!((&first["status"]["version"], &second["status"]["version"]), (&json!(1), &json!(2)));
    assert_eq!(first["status"]["versions"], json!([1, 2]));
    assert_eq!(first["spec"], json!({"features": ["airport_weather:temp"]}));
    let column = |shown: &Json, field: &str| shown["status"]["columns"][0][field].clone();
    assert_eq!((column(&first, "ttl"), column(&second, "ttl")), (json!("3h"), json!("2h")));
    assert_eq!((column(&first, "default"), column(&second, "default")), (Json::Null, json!(0.5)));
    let described = scene.succeed(&["describe", "service", "model@1"]);
    assert!(described.contains("TTL") && described.contains("3h") && described.contains("made of"), "{described}");
    assert!(scene.refused(&["get", "entity", "airport@1"]).contains("only a FeatureService"));
    assert!(scene.refused(&["get", "service", "model@x"]).contains("name@N"));

    let deleted = scene.succeed(&["delete", "service", "model@1", "-o", "json"]);
    let deleted: Json = serde_json::from_str(&deleted).expect("JSON");
    assert_eq!(deleted["deleted"], "FeatureService/model@1");
    for command in [&["get", "service", "model@1", "-o", "json"][..], &["delete", "service", "model@1", "-o", "json"]] {
        let gone = scene.refused_json(command);
        assert_eq!(gone["reason"], "SERVICE_VERSION_NOT_FOUND", "{gone}");
    }
    let read = ["online", "get", "--key", "origin=EWR", "--service"];
    assert!(scene.refused(&[&read[..], &["model@1"]].concat()).contains("no version 1"));
    assert!(scene.succeed(&[&read[..], &["model"]].concat()).contains("model@2"));
    let refused = scene.refused_json(&["delete", "service", "model@2", "-o", "json"]);
    assert_eq!(refused["reason"], "VERSION_IS_CURRENT");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_training_set_is_not_begun_where_it_could_not_be_written() {
    let scene = Scene::with_weather().await;
    let spine = scene.spine(&[START]);
    let before = std::fs::read(&spine).expect("readable");
    let link = scene.path("link.parquet");
    std::os::unix::fs::symlink(&spine, &link).expect("linked");
    let folder = scene.folder.path().to_str().expect("UTF-8").to_owned();
    let places = [
        (scene.path("no/such/out.parquet"), "there is no folder"),
        (folder, "folder"),
        (spine.clone(), "spine"),
        (link, "spine"),
    ];
    for (place, told) in places {
        // Nothing listens there: what is told was found out without a server.
        let options = ["--format", "json", "--server", "127.0.0.1:1"];
        let error = scene.refused_json(&[&historical(&spine, &place)[..], &options].concat());
        assert_eq!(error["reason"], "FILE_FAILED", "{error}");
        let message = error["message"].as_str().expect("text");
        assert!(message.starts_with(&place) && message.contains(told), "{message}");
    }
    assert_eq!(std::fs::read(&spine).expect("readable"), before, "the spine is as it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spine_without_a_column_is_told_once_with_the_columns_it_has() {
    let scene = Scene::with_weather().await;
    let (spine, out) = (scene.spine(&[START]), scene.path("out.parquet"));
    let mut get = historical(&spine, &out);
    get[7] = "time";
    let told = scene.refused(&get);
    assert_eq!(told.matches("lacks this column").count(), 1, "{told}");
    assert!(told.contains("the spine has the columns origin, t"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_training_set_reports_to_programs_too() {
    let scene = Scene::with_weather().await;
    let (spine, out) = (scene.spine(&[START, START - 1]), scene.path("out.parquet"));
    let shown = scene.succeed(&[&historical(&spine, &out)[..], &["--format", "json"]].concat());
    let shown: Json = serde_json::from_str(&shown).expect("JSON");
    assert_eq!((&shown["rows"], &shown["file"]), (&json!(2), &json!(out)));
    assert_eq!(shown["nulls"], json!({"airport_weather__temp": 1}));
    assert!(shown["content_hash"].as_str().is_some_and(|hash| !hash.is_empty()), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingest_that_broke_off_says_how_to_go_on_and_does() {
    const ROWS: usize = 100_000;
    let scene = Scene::with_definitions().await;
    let times: Vec<Option<i64>> = (0..ROWS as i64).map(|row| Some(START - row)).collect();
    let weather = scene.weather(&vec![Some("EWR"); ROWS], &times);
    // The file passes once to be checked, and a second time to be written: in the middle of that.
    let middle = std::fs::metadata(&weather).expect("written").len().max(23 * ROWS as u64) * 3 / 2;

    let broken = Passage::open(scene.server.address(), middle, AtTheEnd::Close).await;
    let error = scene.refused_json(&["ingest", "weather", &weather, "-o", "json", "--server", &broken.address]);
    assert_eq!(error["reason"], "SERVER_UNREACHABLE", "{error}");
    assert!(error["hint"].as_str().is_some_and(|hint| hint.contains("run the same command again")), "{error}");

    let mut held = Passage::open(scene.server.address(), middle, AtTheEnd::Hold).await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_hydrant"));
    command.args(["ingest", "weather", &weather, "--server", &held.address]);
    let ingest = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    held.reached.recv().await.expect("the middle is reached");
    let interrupted = Command::new("kill").args(["-INT", &ingest.id().to_string()]).status().expect("it runs");
    assert!(interrupted.success());
    let output = ingest.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    assert!(told.contains("interrupted") && told.contains("run the same command again"), "{told}");

    let ingest = || {
        let shown = scene.succeed(&["ingest", "weather", &weather, "-o", "json"]);
        let shown: Json = serde_json::from_str(&shown).expect("JSON");
        let count = |field: &str| shown["files"][0][field].as_u64().expect("a number") as usize;
        (count("rows"), count("applied"), count("already_applied"))
    };
    let (rows, applied, already) = ingest();
    assert_eq!((rows, applied + already), (ROWS, ROWS));
    assert!(applied > 0, "it had not come to the end");
    assert_eq!(ingest(), (ROWS, 0, ROWS));
}

#[test]
fn every_option_is_printed_with_its_default_as_a_configuration_file() {
    let serve = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_hydrant"));
        command.arg("serve").args(arguments).output().expect("it runs")
    };
    let printed = serve(&["--print-defaults"]);
    assert!(printed.status.success());
    assert_eq!(text(&printed.stdout), include_str!("../../src/config/default.toml"));
    assert_eq!(serve(&["--print-defaults", "--insecure"]).status.code(), Some(2), "nothing is served");
}
