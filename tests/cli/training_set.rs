//! `hydrant training-set`: saved, shown, pulled, verified and deleted.

use std::sync::Arc;

use arrow_array::{ArrayRef, StringArray, TimestampMicrosecondArray};
use serde_json::Value as Json;

use crate::scene::{HOUR, START, Scene, read};

fn spine(scene: &Scene, name: &str, rows: usize) -> String {
    let origins: ArrayRef = Arc::new((0..rows).map(|row| Some(["EWR", "JFK"][row % 2])).collect::<StringArray>());
    let times = (0..rows as i64).map(|row| START + row % 3 * HOUR);
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"));
    scene.parquet(name, vec![("origin", origins), ("at", times)])
}

fn json(text: &str) -> Json {
    serde_json::from_str(text).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_training_set_is_saved_shown_pulled_verified_and_deleted() {
    let scene = Scene::with_weather().await;
    assert_eq!(scene.succeed(&["training-set", "list"]), "there are no saved training sets\n");
    let spine = spine(&scene, "spine.parquet", 1_000);
    let create = ["training-set", "create", "flights", "--service", "model", "--spine", &spine, "--event-time", "at"];
    let shown = scene.succeed(&create);
    assert!(shown.starts_with("flights@1 saved: 1,000 rows in ") && shown.contains("content hash "), "{shown}");
    assert!(shown.contains("airport_weather__temp  float64"), "{shown}");
    let again = scene.succeed(&create);
    assert!(again.starts_with("flights@1 has these rows already"), "{again}");

    // The hash is that of the same request without a name.
    let set = json(&scene.succeed(&["training-set", "get", "flights", "-o", "json"]));
    let out = scene.path("plain.parquet");
    let cutoff = set["cutoff"].as_str().expect("a time").to_owned();
    let plain = [
        "historical",
        "get",
        "--service",
        "model",
        "--spine",
        &spine,
        "--event-time",
        "at",
        "-o",
        &out,
        "--cutoff",
        &cutoff,
        "--format",
        "json",
    ];
    let plain = json(&scene.succeed(&plain));
    assert_eq!((&plain["content_hash"], &plain["spine_hash"]), (&set["content_hash"], &set["spine_hash"]));
    assert_eq!(
        (&set["name"], &set["services"][0], &set["rows"]),
        (&"flights@1".into(), &"model@1".into(), &1_000.into())
    );
    assert_eq!(set["statistics"][0]["statuses"]["PRESENT"], 500);

    let pulled = scene.path("pulled.parquet");
    let shown = scene.succeed(&["training-set", "pull", "flights@1", "-o", &pulled, "--parallel", "3"]);
    assert!(shown.contains("1,000 rows in ") && shown.contains("as it was saved"), "{shown}");
    assert_eq!(read(pulled.as_ref()), read(out.as_ref()));
    let verified = json(&scene.succeed(&["training-set", "verify", "flights", "-o", "json"]));
    assert_eq!((&verified["same"], &verified["content_hash"]), (&true.into(), &set["content_hash"]));

    let described = scene.succeed(&["training-set", "get", "flights"]);
    assert!(described.contains("FeatureService/model@1 -> TrainingSet/flights@1"), "{described}");
    assert!(described.contains("Source/weather -> FeatureView/airport_weather"), "{described}");
    let lineage = scene.succeed(&["lineage", "flights"]);
    assert!(lineage.contains("├─ FeatureService model@1 [is trained on in]"), "{lineage}");
    assert!(lineage.contains("Source weather [has]"), "{lineage}");
    let spine_id = set["spine"].as_str().expect("an id");
    assert!(lineage.contains(&format!("└─ Spine {spine_id} [is the spine of]")), "{lineage}");
    let of_spine = scene.succeed(&["lineage", spine_id, "--kind", "spine", "--down"]);
    assert!(of_spine.contains("TrainingSet flights@1"), "{of_spine}");
    let used = scene.succeed(&["describe", "source", "weather"]);
    assert!(used.contains("FeatureService/model -> TrainingSet/flights@1"), "{used}");
    let refused = scene.refused_json(&["delete", "service", "model", "-o", "json"]);
    assert_eq!(
        (&refused["reason"], &refused["metadata"]["used_by"]),
        (&"DEFINITION_IN_USE".into(), &"TrainingSet/flights@1".into())
    );
    let listed = scene.succeed(&["training-set", "list"]);
    assert!(listed.starts_with("NAME") && listed.contains("flights@1"), "{listed}");

    assert_eq!(scene.succeed(&["training-set", "delete", "flights"]), "deleted flights@1\n");
    scene.succeed(&["delete", "service", "model"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_about_a_training_set_is_told_with_the_way_out_and_leaves_no_file() {
    let scene = Scene::with_weather().await;
    let spine = spine(&scene, "spine.parquet", 10);
    let out = scene.path("out.parquet");
    let create = |name, service, time| {
        ["training-set", "create", name, "--service", service, "--spine", &spine, "--event-time", time]
    };
    for (arguments, reason) in [
        (create("Flights", "model", "at").to_vec(), "INVALID_NAME"),
        (create("flights", "nobody", "at").to_vec(), "SERVICE_NOT_FOUND"),
        (create("flights", "model", "when").to_vec(), "SPINE_MISMATCH"),
        (vec!["training-set", "get", "flights"], "TRAINING_SET_NOT_FOUND"),
        (vec!["training-set", "get", "flights@"], "INVALID_NAME"),
        (vec!["training-set", "verify", "flights@7"], "TRAINING_SET_NOT_FOUND"),
        (vec!["training-set", "delete", "flights"], "TRAINING_SET_NOT_FOUND"),
    ] {
        let error = scene.refused_json(&[&arguments[..], &["-o", "json"]].concat());
        assert_eq!(error["reason"], reason, "{arguments:?}: {error}");
    }
    let error = scene.refused_json(&["training-set", "pull", "flights", "-o", &out, "--format", "json"]);
    assert_eq!(error["reason"], "TRAINING_SET_NOT_FOUND");
    assert!(!std::path::Path::new(&out).exists());
    assert_eq!(scene.succeed(&["training-set", "list"]), "there are no saved training sets\n");
}
