//! Clients that are killed in the middle: what they began leaves nothing half done, and is finished
//! by beginning again.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{ArrayRef, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray};
use serde_json::Value as Json;

use crate::scene::{START, Scene, files_below};

const ROWS: usize = 200_000;
const PATIENCE: Duration = Duration::from_secs(60);

fn many_rows(scene: &Scene) -> String {
    let origins: ArrayRef = Arc::new((0..ROWS).map(|row| Some(format!("B{row:06}"))).collect::<StringArray>());
    let instants = (0..ROWS).map(|row| START + i64::try_from(row).expect("few"));
    let instants: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(instants));
    let temps: ArrayRef = Arc::new(Float64Array::from_iter_values((0..ROWS).map(|row| row as f64)));
    scene.parquet("many.parquet", vec![("origin", origins), ("event_timestamp", instants), ("temp", temps)])
}

fn begin(scene: &Scene, arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hydrant"));
    command.args(arguments).env("HYDRANT_SERVER", scene.server.grpc());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary runs")
}

fn kill(mut child: Child) {
    // It has ended by itself, or ends now.
    let _ = child.kill();
    child.wait().expect("a child");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingest_that_was_killed_is_finished_by_the_same_command() {
    let scene = Scene::with_definitions("").await;
    let file = many_rows(&scene);
    let ingest = begin(&scene, &["ingest", "weather", &file]);
    let begun = Instant::now();
    while scene.temperature("B000000").0 != "PRESENT" {
        assert!(begun.elapsed() < PATIENCE, "no row arrives");
    }
    kill(ingest);
    let report = |shown: String| serde_json::from_str::<Json>(&shown).expect("JSON")["files"][0].clone();
    let first = report(scene.succeed(&["ingest", "weather", &file, "-o", "json"]));
    assert_eq!(first["rows"], ROWS);
    let applied = first["applied"].as_u64().expect("a number");
    assert!(applied < ROWS as u64, "what was acknowledged before is not taken again: {first}");
    let second = report(scene.succeed(&["ingest", "weather", &file, "-o", "json"]));
    assert_eq!((&second["rows"], &second["applied"]), (&ROWS.into(), &0.into()));
    for row in [0, ROWS / 2, ROWS - 1] {
        assert_eq!(scene.temperature(&format!("B{row:06}")), ("PRESENT".to_owned(), (row as f64).into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_training_set_whose_reader_was_killed_gives_its_place_and_its_disk_back() {
    let scene = Scene::with_definitions("[history]\nmax_joins = 1\nmemory = \"16MiB\"").await;
    let file = many_rows(&scene);
    scene.succeed(&["ingest", "weather", &file]);
    let origins: ArrayRef = Arc::new((0..ROWS).map(|row| Some(format!("B{row:06}"))).collect::<StringArray>());
    let at: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![START + ROWS as i64; ROWS]));
    let carried: ArrayRef = Arc::new(Int64Array::from_iter_values(0..ROWS as i64));
    let spine = scene.parquet("spine.parquet", vec![("origin", origins), ("at", at), ("carried", carried)]);
    let out = scene.path("out.parquet");
    let get = ["historical", "get", "--service", "model", "--spine", &spine, "--event-time", "at", "-o", &out];
    for _ in 0..3 {
        let mut reader = begin(&scene, &get);
        let begun = Instant::now();
        // Its output has begun: the answer is on its way. Should it be faster, it has ended.
        while scene.left_behind().is_empty() && !std::path::Path::new(&out).exists() {
            assert!(begun.elapsed() < PATIENCE, "no training set begins:\n{}", scene.server.log());
            // The place of the one before may not have been given back yet.
            if reader.try_wait().expect("a child").is_some() {
                reader = begin(&scene, &get);
            }
            std::thread::yield_now();
        }
        kill(reader);
        scene.left_behind().iter().for_each(|file| std::fs::remove_file(file).expect("removed"));
        let _ = std::fs::remove_file(&out);
    }
    let begun = Instant::now();
    let mut output = scene.run(&get);
    while !output.status.success() {
        assert!(begun.elapsed() < PATIENCE, "its place is not given back: {output:?}");
        output = scene.run(&get);
    }
    let spilled = files_below(&scene.setup.data().join("spill"));
    assert!(spilled.is_empty(), "spill files are left behind: {spilled:?}");
}
