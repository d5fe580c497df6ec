//! `hydrant sla`: the board, silences, and what is refused.

use serde_json::{Value as Json, json};

use crate::scene::{DEFINITIONS, START, Scene, text, weather_columns};

fn json_of(scene: &Scene, arguments: &[&str]) -> Json {
    let shown = scene.succeed(&[arguments, &["-o", "json"]].concat());
    serde_json::from_str(&shown).expect("JSON")
}

#[track_caller]
fn refused(scene: &Scene, arguments: &[&str]) -> Json {
    let output = scene.run(&[arguments, &["-o", "json"]].concat());
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", text(&output.stdout));
    let error: Json = serde_json::from_str(&text(&output.stderr)).expect("one JSON object on stderr");
    error["error"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_board_shows_promises_and_silences_come_and_go() {
    let scene = Scene::empty().await;
    let promised = DEFINITIONS.replace("  ttl: 3h\n", "  freshness: {maxAge: 5m, target: 99.5%}\n");
    let file = scene.file("all.yaml", &promised);
    scene.succeed(&["apply", "-f", file.to_str().expect("UTF-8")]);
    let shown: Json = serde_json::from_str(&scene.succeed(&["get", "views", "-o", "json"])).expect("JSON");
    let freshness = json!({"maxAge": "5m", "target": "99.5%", "window": "30d", "severity": "ticket"});
    assert_eq!(shown[0]["spec"]["freshness"], freshness);
    let weather = scene.parquet("weather.parquet", weather_columns(&[Some("EWR")], &[Some(START)]));
    scene.succeed(&["ingest", "weather", &weather]);

    // It is looked at within a second.
    let view = loop {
        let output = scene.run(&["sla", "airport_weather", "-o", "json"]);
        let shown: Json = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if shown["views"][0]["state"] == "BREACHED" {
            break shown["views"][0].clone();
        }
    };
    assert_eq!(
        (&view["cause"], &view["target"], &view["budget_seconds"]),
        (&json!("stale"), &json!("99.5%"), &json!(12_960.0))
    );
    assert!(view["age_seconds"].as_f64().expect("a number") > 300.0 && view["since"].is_string(), "{view}");
    let board = scene.succeed(&["sla"]);
    assert!(board.starts_with("VIEW") && board.contains("BREACHED (stale)") && board.contains("99.5%"), "{board}");

    assert_eq!(scene.succeed(&["sla", "silences"]), "there are no silences\n");
    let made = json_of(&scene, &["sla", "silence", "airport_weather", "--for", "2h", "--reason", "moving"]);
    assert_eq!(
        (&made["view"], &made["reason"], &made["created_by"]),
        (&json!("airport_weather"), &json!("moving"), &json!("loopback"))
    );
    let listed = scene.succeed(&["sla", "silences"]);
    assert!(listed.starts_with("ID") && listed.contains("moving"), "{listed}");
    assert_eq!(json_of(&scene, &["sla", "airport_weather"])["views"][0]["silence"], made);
    let id = made["id"].to_string();
    assert_eq!(scene.succeed(&["sla", "unsilence", &id]), format!("silence {id} of airport_weather is ended\n"));
    assert_eq!(refused(&scene, &["sla", "unsilence", &id])["reason"], "SILENCE_NOT_FOUND");
    assert_eq!(refused(&scene, &["sla", "nothing"])["reason"], "VIEW_NOT_FOUND");
    assert_eq!(
        refused(&scene, &["sla", "silence", "airport_weather", "--for", "31d", "--reason", "r"])["reason"],
        "BAD_SILENCE"
    );
    let audited = scene.succeed(&["audit", "list", "--action", "SilenceFreshness"]);
    assert!(audited.contains("FeatureView/airport_weather"), "{audited}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_promise_is_refused_with_its_place() {
    let scene = Scene::empty().await;
    for (written, told) in [
        ("{target: 99%}", "maxAge"),
        ("{maxAge: 5m, target: 100%}", "leaves no time for anything to go wrong"),
        ("{maxAge: 5m, target: 0.99}", "write a percentage from 50% to 99.9999%"),
        ("{maxAge: 5m, window: 91d}", "91d is not between 1d and 90d"),
        ("{maxAge: 2d, window: 1d}", "2d is longer than the window (1d)"),
        ("{maxAge: 5m, severity: loud}", "write page, ticket or info"),
        ("{maxAge: 0s}", "longer than nothing"),
        ("{maxAge: 5m, maxage: 5m}", "maxage"),
    ] {
        let wrong = DEFINITIONS.replace("  ttl: 3h\n", &format!("  freshness: {written}\n"));
        let file = scene.file("wrong.yaml", &wrong);
        let shown = scene.refused(&["apply", "-f", file.to_str().expect("UTF-8")]);
        assert!(shown.contains(told) && shown.contains("freshness"), "{written}: {shown}");
    }
}
