//! `hydrant backup`: made, listed and deleted through a server; verified and restored without one.

use std::process::{Command, Output};

use serde_json::Value as Json;

use crate::scene::{DEFINITIONS, START, Scene, text, weather_columns};
use crate::server::Server;

/// Of what needs no server, none is told.
fn offline(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hydrant"));
    command.args(arguments).env("HYDRANT_SERVER", "no address").output().expect("it runs")
}

#[track_caller]
fn done(arguments: &[&str]) -> String {
    let output = offline(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

#[track_caller]
fn refused(arguments: &[&str]) -> Json {
    let output = offline(&[arguments, &["-o", "json"]].concat());
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", text(&output.stdout));
    assert_eq!(text(&output.stdout), "");
    let error: Json = serde_json::from_str(&text(&output.stderr)).expect("one JSON object on stderr");
    error["error"].clone()
}

async fn scene() -> Scene {
    let scene = Scene::empty().await;
    let lasting = scene.file("all.yaml", &DEFINITIONS.replace("  ttl: 3h\n", ""));
    scene.succeed(&["apply", "-f", lasting.to_str().expect("UTF-8")]);
    let weather = scene.parquet("weather.parquet", weather_columns(&[Some("EWR")], &[Some(START)]));
    scene.succeed(&["ingest", "weather", &weather]);
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_made_listed_verified_restored_and_served() {
    let scene = scene().await;
    assert_eq!(scene.succeed(&["backup", "list"]), "there are no backups\n");
    let shown = scene.succeed(&["backup", "create", "monday"]);
    assert!(shown.starts_with("backup monday made in ") && shown.contains(" files, "), "{shown}");
    let path = shown.lines().nth(1).expect("its place").to_owned();
    let second: Json =
        serde_json::from_str(&scene.succeed(&["backup", "create", "tuesday", "-o", "json"])).expect("JSON");
    for number in ["frame", "registry_revision", "files", "linked_bytes", "copied_bytes", "read_bytes"] {
        assert!(second[number].is_u64(), "{number}: {second}");
    }
    assert!(second["seconds"].is_f64() && second["made"].is_string() && second["name"] == "tuesday", "{second}");
    let listed = scene.succeed(&["backup", "list"]);
    let (monday, tuesday) = (listed.find("monday").expect("it is there"), listed.find("tuesday").expect("so is it"));
    assert!(monday < tuesday && listed.starts_with("NAME"), "{listed}");
    let listed: Json = serde_json::from_str(&scene.succeed(&["backup", "list", "-o", "json"])).expect("JSON");
    assert_eq!((listed["backups"][0]["path"].as_str(), listed["backups"][1].clone()), (Some(path.as_str()), second));
    assert_eq!(scene.succeed(&["backup", "delete", "tuesday"]), "deleted backup tuesday\n");

    let verified = done(&["backup", "verify", &path]);
    assert!(verified.starts_with("backup monday is whole: "), "{verified}");
    let restored = scene.path("restored/data");
    let shown = done(&["backup", "restore", &path, &restored]);
    assert!(shown.contains(&format!("hydrant serve --data-dir {restored}")), "{shown}");

    let server = Server::start_on(restored.as_ref()).await.expect("it starts on what was restored");
    let get =
        ["online", "get", "--service", "model", "--key", "origin=EWR", "-o", "json", "--server", server.address()];
    let shown: Json = serde_json::from_str(&scene.succeed(&get)).expect("JSON");
    assert_eq!(shown["rows"][0]["features"]["airport_weather__temp"]["value"], 30.0);
    let list = ["backup", "list", "--server", server.address()];
    assert_eq!(scene.succeed(&list), "there are no backups\n", "those of another server");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_backup_is_told_with_the_way_out() {
    let scene = scene().await;
    scene.succeed(&["backup", "create", "monday"]);
    let path = scene.server.folder().join("data/backups/monday");
    let path = path.to_str().expect("UTF-8");
    for (arguments, reason) in [
        (["backup", "create", "monday"], "BACKUP_EXISTS"),
        (["backup", "create", "Monday!"], "INVALID_NAME"),
        (["backup", "create", "../monday"], "INVALID_NAME"),
        (["backup", "delete", "tuesday"], "BACKUP_NOT_FOUND"),
        (["backup", "delete", ".."], "INVALID_NAME"),
    ] {
        let error = scene.refused_json(&[&arguments[..], &["-o", "json"]].concat());
        assert_eq!(error["reason"], reason, "{arguments:?}: {error}");
    }
    let data = scene.server.folder().join("data");
    let data = data.to_str().expect("UTF-8");
    assert_eq!(refused(&["backup", "verify", data])["reason"], "NO_BACKUP");
    assert_eq!(refused(&["backup", "restore", path, data])["reason"], "DATA_DIR_NOT_EMPTY");
    let free = "127.0.0.1:0";
    let addresses = ["--grpc-addr", free, "--flight-addr", free, "--http-addr", free];
    let told = offline(&[&["serve", "--data-dir", path], &addresses[..]].concat());
    assert!(!told.status.success() && text(&told.stderr).contains("hydrant backup restore"), "{}", text(&told.stderr));

    let count = format!("{path}/partitions/COUNT");
    std::fs::remove_file(&count).expect("removed");
    std::fs::write(&count, "5\n").expect("written");
    let error = refused(&["backup", "verify", path]);
    assert_eq!(
        (error["reason"].as_str(), error["violations"][0]["path"].as_str()),
        (Some("BACKUP_DAMAGED"), Some("partitions/COUNT"))
    );
    let shown = text(&offline(&["backup", "verify", path]).stderr);
    assert!(shown.contains("partitions/COUNT") && shown.contains("checksum"), "{shown}");
    let target = scene.path("restored");
    let error = refused(&["backup", "restore", path, &target]);
    assert!(error["message"].as_str().is_some_and(|told| told.contains("partitions/COUNT")), "{error}");
    assert!(!std::path::Path::new(&target).exists(), "nothing is left of it");
}
