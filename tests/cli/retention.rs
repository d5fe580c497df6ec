//! Retention as the command line tells it: what a plan says of rows that go, how it is asked before they do, and
//! what answers say that lack some. The rows are of 2013, and so older than any retention here.

use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use crate::scene::{DEFINITIONS, HOUR, START, Scene, text};
use crate::server::Server;

fn keeping(ttl: &str, retention: &str) -> String {
    DEFINITIONS.replace("  ttl: 3h\n", &format!("  ttl: {ttl}\n{retention}"))
}

/// One row in history, on a server that soon lets rows go.
async fn with_history() -> Scene {
    let server = Server::start_with(&[("HYDRANT_COMPACTION__INTERVAL", "100ms")]).await.expect("the server starts");
    let scene = Scene { server, folder: tempfile::tempdir().expect("a folder") };
    let all = scene.file("all.yaml", DEFINITIONS);
    scene.succeed(&["apply", "-f", all.to_str().expect("UTF-8")]);
    let weather = scene.weather(&[Some("EWR")], &[Some(START)]);
    scene.succeed(&["backfill", "weather", &weather]);
    scene
}

fn parsed(text: &str) -> Json {
    serde_json::from_str(text).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_go_only_once_somebody_has_said_yes_to_what_the_plan_tells() {
    let scene = Scene::with_weather().await;
    let kept = scene.file("kept.yaml", &keeping("1h", "  retention: 2h\n"));
    let file = kept.to_str().expect("UTF-8");
    let plan = scene.succeed(&["plan", "-f", file]);
    assert!(plan.contains("    retention: for ever -> 2h, then rows are gone for good\n"), "{plan}");
    assert!(plan.contains("go for good; until"), "{plan}");
    let held = "model@1 keeps the rows of version 1 for its ttl of 3h, until it is deleted";
    assert!(plan.contains(held), "{plan}");
    let plan = parsed(&scene.succeed(&["plan", "-f", file, "-o", "json"]));
    let all: Vec<&Json> = plan["changes"]
        .as_array()
        .expect("changes")
        .iter()
        .flat_map(|change| change["differences"].as_array().expect("a list"))
        .collect();
    let told = all.iter().find_map(|one| one.get("rows_that_go")).expect("rows go");
    assert_eq!(told["held_back"], json!([{"service": "model@1", "version": 1, "ttl": "3h"}]));

    // Nobody is there to be asked.
    let refused = scene.refused(&["apply", "-f", file]);
    assert!(refused.contains("takes rows for good") && refused.contains("--yes"), "{refused}");
    let before = parsed(&scene.succeed(&["get", "view", "airport_weather", "-o", "json"]));
    assert_eq!(before["spec"]["retention"], Json::Null, "nothing was changed");
    scene.succeed(&["apply", "-f", file, "--yes"]);
    let shown = scene.succeed(&["describe", "view", "airport_weather"]);
    assert!(shown.contains("heldBack") && shown.contains("service: model@1"), "{shown}");

    // What is kept for longer takes nothing, and nobody is asked.
    let longer = scene.file("longer.yaml", &keeping("1h", "  retention: 400d\n"));
    scene.succeed(&["apply", "-f", longer.to_str().expect("UTF-8")]);
    let revision = parsed(&scene.succeed(&["plan", "-f", file, "-o", "json"]))["registry_revision"].to_string();
    let back = (revision.parse::<u64>().expect("a number") - 1).to_string();
    let rollback = ["rollback", "--to-revision", back.as_str()];
    let shown = scene.succeed(&[&rollback[..], &["--dry-run"]].concat());
    assert!(shown.contains("retention: 400d -> 2h, then rows are gone for good"), "{shown}");
    assert!(scene.refused(&rollback).contains("--yes"));
    scene.succeed(&[&rollback[..], &["--yes"]].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_read_of_the_past_may_lack_is_told_beside_it() {
    let scene = with_history().await;
    let at = "2013-12-30T23:00:00Z";
    let get = ["online", "get", "--service", "model", "--key", "origin=EWR", "--at", at];
    let whole = scene.run(&[&get[..], &["-o", "json"]].concat());
    assert!(text(&whole.stderr).is_empty() && !text(&whole.stdout).contains("lacks_before"), "{whole:?}");
    let kept = scene.file("kept.yaml", &keeping("3h", "  retention: 4h\n"));
    scene.succeed(&["apply", "-f", kept.to_str().expect("UTF-8"), "--yes"]);
    let told = "rows of airport_weather that counted at this instant may be gone for good";
    let patience = Instant::now() + Duration::from_secs(30);
    let mut output = scene.run(&get);
    while !text(&output.stderr).contains(told) {
        assert!(Instant::now() < patience && output.status.success(), "{output:?}");
        output = scene.run(&get);
    }
    let output = scene.run(&[&get[..], &["-o", "json"]].concat());
    assert!(text(&output.stderr).contains(told));
    assert!(parsed(&text(&output.stdout))["views"]["airport_weather"]["lacks_before"].is_string());
    // The streaming form.
    let (keys, out) = (scene.spine(&[START]), scene.path("scored.parquet"));
    let score = ["online", "score", "--service", "model", "--keys", &keys, "-o", &out, "--at", at, "--format", "json"];
    let output = scene.run(&score);
    assert!(output.status.success() && text(&output.stderr).contains(told), "{}", text(&output.stderr));
    assert!(parsed(&text(&output.stdout))["lacks_before"]["airport_weather"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_come_too_old_are_told_of() {
    let scene = Scene::empty().await;
    let kept = scene.file("kept.yaml", &keeping("3h", "  retention: 4h\n"));
    scene.succeed(&["apply", "-f", kept.to_str().expect("UTF-8")]);
    let weather = scene.weather(&[Some("EWR"); 2], &[Some(START), Some(START + HOUR)]);
    let told = "2 rows of airport_weather are older than its retention and will not be kept";
    for command in [&["backfill", "--dry-run"][..], &["backfill"], &["ingest"]] {
        let arguments = [&command[..1], &["weather", weather.as_str()], &command[1..]].concat();
        let shown = scene.succeed(&arguments);
        assert!(shown.contains(told), "{arguments:?}: {shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_gone_is_told_by_why_and_by_the_plan_of_a_longer_ttl() {
    let scene = with_history().await;
    let kept = scene.file("kept.yaml", &keeping("3h", "  retention: 4h\n"));
    let file = kept.to_str().expect("UTF-8");
    assert!(scene.succeed(&["plan", "-f", file]).contains("that is about 1 of 1 rows in history"));
    scene.succeed(&["apply", "-f", file, "--yes"]);

    let why = ["why", "--service", "model", "--key", "origin=EWR", "--at", "2013-12-30T21:00:00Z"];
    let patience = Instant::now() + Duration::from_secs(60);
    let told = loop {
        let told = parsed(&scene.succeed(&[&why[..], &["-o", "json"]].concat()));
        if told["views"][0]["rows"] == 0 {
            break told;
        }
        assert!(Instant::now() < patience, "the row is still there");
    };
    assert_eq!(told["views"][0]["features"]["airport_weather__temp"]["cause"], "PERHAPS_GONE");
    assert!(told["views"][0]["lacks_before"].is_string(), "{told}");
    let shown = scene.succeed(&why);
    assert!(shown.contains("no row counts, and one that did may be gone by the view's retention"), "{shown}");
    assert!(shown.contains("Instants from ") && shown.contains(" on are whole"), "{shown}");

    let longer = scene.file("longer.yaml", &keeping("5h", "  retention: 5h\n"));
    let plan = scene.succeed(&["plan", "-f", longer.to_str().expect("UTF-8")]);
    let gone = "are gone for good and don't come back: answers for instants before ";
    assert_eq!(plan.matches(gone).count(), 2, "of the ttl and of the retention: {plan}");
    assert!(scene.succeed(&["describe", "view", "airport_weather"]).contains("rowsGoneBefore"));
    // What is gone stays gone by a way back too, which takes nothing and asks nobody.
    let before = scene.succeed(&["rollback", "--to-revision", "2", "--dry-run"]);
    assert!(before.contains("retention: 4h -> for ever\n") && before.contains("don't come back"), "{before}");
}
