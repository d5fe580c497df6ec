//! `hydrant backfill` and `hydrant materialize`, as a reader of the manual would run them.

use serde_json::{Value as Json, json};

use crate::scene::{HOUR, START, Scene, weather_columns};

fn print(scene: &Scene, arguments: &[&str]) -> Json {
    serde_json::from_str(&scene.succeed(arguments)).expect("JSON")
}

fn backfill(scene: &Scene, more: &[&str], files: &[&str]) -> Json {
    print(scene, &[&["backfill", "weather"][..], files, &["-o", "json"], more].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_history_at_once_and_online_once_and_again_they_change_nothing() {
    let scene = Scene::with_definitions().await;
    let old = scene.weather(&[Some("EWR"); 3], &[Some(START), Some(START + HOUR), Some(START + 2 * HOUR)]);
    let done = backfill(&scene, &[], &[&old]);
    assert_eq!((&done["outcome"], &done["rows"]), (&json!("applied"), &json!(3)));
    assert_eq!(done["online"][0]["view"], "airport_weather");
    assert_eq!((&done["online"][0]["rows"], &done["online"][0]["written"]), (&json!(3), &json!(1)));
    let at = ["--key", "origin=EWR", "--at", "2013-12-30T21:30:00Z", "-o", "json"];
    let read = print(&scene, &[&["online", "get", "--service", "model"][..], &at[..]].concat());
    assert_eq!(read["rows"][0]["features"]["airport_weather__temp"]["value"], 31.0);
    assert_eq!(read["rows"][0]["features"]["airport_weather__temp"]["status"], "PRESENT");

    let again = backfill(&scene, &[], &[&old]);
    assert_eq!((&again["outcome"], &again["frame"]), (&json!("already_applied"), &done["frame"]));
    assert_eq!(again["online"][0]["written"], 0);
    let labelled = backfill(&scene, &["--again", "for a new view", "--no-materialize"], &[&old]);
    assert_eq!((&labelled["outcome"], labelled["online"].as_array().expect("a list").len()), (&json!("applied"), 0));
    let online = print(&scene, &["materialize", "airport_weather", "-o", "json"]);
    assert_eq!((&online["views"][0]["rows"], &online["views"][0]["written"]), (&json!(6), &json!(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_taken_and_a_dry_run_takes_nothing() {
    let scene = Scene::with_definitions().await;
    let old = scene.weather(&[Some("EWR"); 3], &[Some(START), Some(START + HOUR), Some(START + 2 * HOUR)]);
    let checked = backfill(&scene, &["--dry-run"], &[&old]);
    assert_eq!((&checked["outcome"], &checked["rows"], &checked["frame"]), (&json!("valid"), &json!(3), &json!(null)));
    let done = backfill(&scene, &["--from", "2013-12-30T21:00:00Z", "--to", "2013-12-30T22:00:00Z"], &[&old]);
    assert_eq!((&done["outcome"], &done["rows"]), (&json!("applied"), &json!(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_rows_are_named_by_their_file_and_their_place_in_it() {
    let scene = Scene::with_definitions().await;
    let good = scene.parquet("good.parquet", weather_columns(&[Some("EWR"); 2], &[Some(START), Some(START + HOUR)]));
    let bad = scene.weather(&[Some("EWR"), None], &[Some(START), Some(START)]);
    let error = scene.refused_json(&["backfill", "weather", &good, &bad, "-o", "json"]);
    assert_eq!((&error["reason"], &error["metadata"]["bad_rows"]), (&json!("BAD_ROWS"), &json!("1")), "{error}");
    assert_eq!(error["violations"][0]["path"], format!("{bad}: rows[1].key"));
    assert!(error["message"].as_str().is_some_and(|told| told.contains("nothing was taken in")), "{error}");

    let mut columns = weather_columns(&[Some("EWR")], &[Some(START)]);
    columns.push(("wind", columns[2].1.clone()));
    let other = scene.parquet("other.parquet", columns);
    assert_eq!(scene.refused_json(&["backfill", "weather", &good, &other, "-o", "json"])["reason"], "FILES_DIFFER");
    assert_eq!(scene.refused_json(&["backfill", "weather", &other, "-o", "json"])["reason"], "BAD_COLUMNS");
    assert_eq!(backfill(&scene, &["--ignore-extra"], &[&other])["rows"], 1);
    assert_eq!(scene.refused_json(&["materialize", "no_view", "-o", "json"])["reason"], "VIEW_NOT_FOUND");
}
