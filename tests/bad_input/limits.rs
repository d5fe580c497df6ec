//! Requests that are too large: the error names the option that says so.

use std::sync::Arc;

use arrow_array::{ArrayRef, StringArray};

use crate::scene::{START, Scene, airports, times};

#[track_caller]
fn assert_names(shown: &str, option: &str) {
    assert!(shown.contains(option), "'{option}' is not named: {shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_ingest_names_the_option() {
    for (config, option) in [
        ("[server]\ngrpc_max_message = \"64KiB\"", "server.grpc_max_message"),
        ("[ingest]\nmax_rows = 100", "ingest.max_rows"),
        ("[ingest]\nmax_request = \"64KiB\"", "ingest.max_request"),
    ] {
        let scene = Scene::with_definitions(config).await;
        let file = scene.parquet("large.parquet", airports(0..3_000));
        assert_names(&scene.refused(&["ingest", "weather", &file]), option);
        assert_eq!(scene.temperature("A000").0, "NOT_FOUND", "{option}: nothing was written");
        let file = scene.parquet("small.parquet", airports(0..50));
        scene.succeed(&["ingest", "weather", &file]);
        assert_eq!(scene.temperature("A001").0, "PRESENT", "{option}: it serves on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_key_names_the_option() {
    let scene = Scene::with_definitions("[ingest]\nmax_key = \"64B\"").await;
    let long: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(200)]));
    let file = scene.parquet("long.parquet", vec![("origin", long), ("event_timestamp", times(&[Some(START)]))]);
    assert_names(&scene.refused(&["ingest", "weather", &file]), "ingest.max_key");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_read_names_the_option() {
    let keys: Vec<String> = (0..20).map(|number| format!("origin=A{number:03}")).collect();
    let keys: Vec<&str> = keys.iter().flat_map(|key| ["--key", key]).collect();
    for (config, option) in
        [("[serving]\nmax_rows = 10", "serving.max_rows"), ("[serving]\nmax_cells = 30", "serving.max_cells")]
    {
        let scene = Scene::with_definitions(config).await;
        scene.ingest_airports(2);
        let read = [&["online", "get", "--service", "model"][..], &keys].concat();
        assert_names(&scene.refused(&read), option);
        assert_eq!(scene.temperature("A001").0, "PRESENT", "{option}: it serves on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_spine_names_the_option_and_leaves_no_file() {
    let scene = Scene::with_definitions("[server]\nflight_max_message = \"1MiB\"").await;
    let wide: ArrayRef = Arc::new((0..10_000).map(|row| Some(format!("{row:0400}"))).collect::<StringArray>());
    let origins: ArrayRef = Arc::new((0..10_000).map(|_| Some("A000")).collect::<StringArray>());
    let at = times(&vec![Some(START); 10_000]);
    let spine = scene.parquet("spine.parquet", vec![("origin", origins), ("at", at), ("wide", wide)]);
    let out = scene.path("out.parquet");
    let get = ["historical", "get", "--service", "model", "--spine", &spine, "--event-time", "at", "-o", &out];
    assert_names(&scene.refused(&get), "server.flight_max_message");
    assert!(!std::path::Path::new(&out).exists());
}
