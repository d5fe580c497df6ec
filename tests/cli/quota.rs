//! `hydrant quota` and `hydrant audit`: set, told, raised and refused; and who did it.

use serde_json::{Value as Json, json};

use crate::scene::{Scene, text};

fn json_of(scene: &Scene, arguments: &[&str]) -> Json {
    let shown = scene.succeed(&[arguments, &["-o", "json"]].concat());
    serde_json::from_str(&shown).expect("JSON")
}

fn quota<'a>(quotas: &'a Json, name: &str) -> &'a Json {
    let all = quotas["quotas"].as_array().expect("a list");
    all.iter().find(|quota| quota["quota"] == name).expect("every quota is told")
}

#[track_caller]
fn refused(scene: &Scene, arguments: &[&str]) -> Json {
    let output = scene.run(&[arguments, &["-o", "json"]].concat());
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", text(&output.stdout));
    let error: Json = serde_json::from_str(&text(&output.stderr)).expect("one JSON object on stderr");
    error["error"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_are_set_told_raised_and_held_to() {
    let scene = Scene::with_weather().await;
    let told = scene.succeed(&["quota", "get"]);
    assert!(told.starts_with("tenant default, weight 1\nQUOTA") && told.contains("requests_per_second"), "{told}");
    let dry = json_of(&scene, &["quota", "set", "default", "features=1", "--dry-run"]);
    assert_eq!((&dry["dry_run"], &quota(&dry, "features")["limit"]), (&json!(true), &json!(1)));
    let set = json_of(&scene, &["quota", "set", "default", "features=1", "storage_bytes=1GiB", "--weight", "3"]);
    assert_eq!((&set["weight"], &set["updated_by"]), (&json!(3), &json!("loopback")));
    assert_eq!(quota(&set, "storage_bytes")["limit"], 1 << 30);

    // One feature is there already; the quota says so before anything else is said of the view.
    let more = scene.file(
        "more.yaml",
        "apiVersion: hydrant/v1\nkind: FeatureView\nmetadata: {name: more}\nspec: {entities: [nobody], source: nothing, features: [{name: x}]}\n",
    );
    let over = refused(&scene, &["apply", "-f", more.to_str().expect("UTF-8")]);
    assert_eq!(over["reason"], "QUOTA_EXCEEDED", "{over}");
    assert_eq!((&over["metadata"]["quota"], &over["metadata"]["limit"]), (&json!("features"), &json!("1")));

    let raised = json_of(&scene, &["quota", "raise", "default", "features=50", "--for", "2h"]);
    let features = quota(&raised, "features");
    assert_eq!((&features["limit"], &features["set"]), (&json!(50), &json!(1)));
    assert!(features["raised_until"].is_string(), "{features}");
    let shown = scene.succeed(&["quota", "get", "default"]);
    assert!(shown.lines().any(|line| line.starts_with("features") && line.ends_with('Z')), "{shown}");
    let ended = json_of(&scene, &["quota", "raise", "default", "--end", "features"]);
    assert_eq!(quota(&ended, "features")["limit"], 1);

    let stale = refused(&scene, &["quota", "set", "default", "--unset", "features", "--etag", "1"]);
    assert_eq!(stale["reason"], "ETAG_MISMATCH");
    assert_eq!(refused(&scene, &["quota", "set", "default", "cells_per_second=1"])["reason"], "UNKNOWN_QUOTA");
    assert_eq!(refused(&scene, &["quota", "get", "nobody"])["reason"], "TENANT_NOT_FOUND");
    let etag = ended["etag"].as_str().expect("an etag");
    let unset = json_of(&scene, &["quota", "set", "default", "--unset", "features", "--etag", etag]);
    assert_eq!(quota(&unset, "features")["limit"], Json::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_changed_what_is_listed_and_verified_by_command() {
    let scene = Scene::with_weather().await;
    scene.succeed(&["quota", "set", "default", "features=100"]);
    let first = json_of(&scene, &["audit", "verify"]);
    let head = first["head"].as_str().expect("a head").to_owned();
    assert!(refused(&scene, &["backup", "delete", "monday"])["reason"] == "BACKUP_NOT_FOUND");

    let listed = json_of(&scene, &["audit", "list"]);
    let records = listed["records"].as_array().expect("a list");
    let newest = &records[0];
    assert_eq!((&newest["outcome"], &newest["reason"]), (&json!("failed"), &json!("BACKUP_NOT_FOUND")));
    assert_eq!((&newest["caller"], &newest["resources"]), (&json!("loopback"), &json!(["Backup/monday"])));
    let oldest = records.last().expect("some");
    assert_eq!((&oldest["sequence"], &oldest["action"]), (&json!(1), &json!("RegistryService/Apply")));
    let table = scene.succeed(&["audit", "list", "--action", "QuotaService", "--outcome", "done"]);
    assert_eq!(table.lines().count(), 2, "{table}");
    assert!(table.contains("default") && table.contains("QuotaService/UpdateQuotas"), "{table}");
    let of_view = json_of(&scene, &["audit", "list", "--resource", "airport_weather", "--limit", "1"]);
    assert_eq!((of_view["records"].as_array().map(Vec::len), &of_view["more"]), (Some(1), &json!(true)));
    assert_eq!(refused(&scene, &["audit", "list", "--outcome", "perhaps"])["reason"], "BAD_FILTER");

    let told = scene.succeed(&["audit", "verify", "--noted", &head]);
    assert!(told.starts_with("the audit log is whole: "), "{told}");
    let other = format!("{}:{}", head.split(':').next().expect("a number"), "0".repeat(64));
    assert_eq!(refused(&scene, &["audit", "verify", "--noted", &other])["reason"], "AUDIT_DAMAGED");
    assert_eq!(refused(&scene, &["audit", "verify", "--noted", "x"])["reason"], "BAD_HEAD");
}
