//! `hydrant online score`: a file of keys in, the same rows with their features out.

use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::Float64Type;
use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value as Json, json};

use crate::scene::{DEFINITIONS, START, Scene, read, text, weather_columns};

/// A request of the command has fewer rows, and an answer far fewer.
const ROWS: usize = 40_000;

fn airports(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("A{number}")).collect()
}

fn strings(values: &[String]) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

/// A view without a ttl, and the weather of A0 to A999: 30 degrees, 31 degrees and so on.
async fn scene() -> Scene {
    let scene = Scene::empty().await;
    let lasting = scene.file("all.yaml", &DEFINITIONS.replace("  ttl: 3h\n", ""));
    scene.succeed(&["apply", "-f", lasting.to_str().expect("UTF-8")]);
    let names = airports(1_000);
    let origins: Vec<Option<&str>> = names.iter().map(|name| Some(name.as_str())).collect();
    let weather = scene.parquet("weather.parquet", weather_columns(&origins, &vec![Some(START); 1_000]));
    scene.succeed(&["ingest", "weather", &weather]);
    scene
}

fn score<'a>(keys: &'a str, out: &'a str) -> [&'a str; 8] {
    ["online", "score", "--service", "model", "--keys", keys, "-o", out]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_any_length_comes_back_with_its_features_as_of_one_instant() {
    let scene = scene().await;
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..ROWS as i64));
    let keys = scene.parquet("keys.parquet", vec![("id", ids.clone()), ("origin", strings(&airports(ROWS)))]);
    let out = scene.path("out.parquet");
    let shown =
        scene.succeed(&[&score(&keys, &out)[..], &["--with-status", "--with-event-time", "--format", "json"]].concat());
    let shown: Json = serde_json::from_str(&shown).expect("JSON");
    assert_eq!((&shown["rows"], &shown["service"]), (&json!(ROWS), &json!("model@1")));
    assert_eq!(shown["nulls"], json!({"airport_weather__temp": ROWS - 1_000}));
    assert_eq!((&shown["not_ready"], &shown["damaged"]), (&json!(0), &json!(0)));

    let scored = read(Path::new(&out));
    let names: Vec<&str> = scored.schema_ref().fields().iter().map(|field| field.name().as_str()).collect();
    let added = ["airport_weather__temp", "airport_weather__temp__status", "airport_weather__temp__event_time"];
    assert_eq!(names, [&["id", "origin"][..], &added].concat());
    assert_eq!(scored.column(0), &ids, "the file's own columns, in its order");
    let temps = scored.column(2).as_primitive::<Float64Type>();
    let expected: Float64Array = (0..ROWS).map(|row| (row < 1_000).then_some(30.0 + row as f64)).collect();
    assert_eq!(temps, &expected);
    let statuses = scored.column(3).as_string::<i32>();
    assert_eq!((statuses.value(999), statuses.value(1_000)), ("PRESENT", "NOT_FOUND"));

    let file = std::fs::File::open(&out).expect("written");
    let metadata = ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet").metadata().clone();
    let notes = metadata.file_metadata().key_value_metadata().expect("notes").clone();
    let note = notes.into_iter().find(|note| note.key == "hydrant.online_read").and_then(|note| note.value);
    let note: Json = serde_json::from_str(&note.expect("how it was read")).expect("JSON");
    assert_eq!((&note["t"], &note["rows"]), (&shown["t"], &json!(ROWS)));

    // The same again, as of the same instant, in other pieces.
    let again = scene.path("again.parquet");
    let at = shown["t"].as_str().expect("an instant");
    let options = ["--at", at, "--batch-size", "777", "--with-status", "--with-event-time", "--strict"];
    let told = scene.succeed(&[&score(&keys, &again)[..], &options].concat());
    assert!(told.contains("40,000 rows in") && told.contains("model@1, as of"), "{told}");
    assert_eq!(read(Path::new(&again)), scored);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_rows_comes_back_with_the_columns_alone() {
    let scene = scene().await;
    let keys = scene.parquet("keys.parquet", vec![("origin", strings(&[]))]);
    let out = scene.path("out.parquet");
    scene.succeed(&[&score(&keys, &out)[..], &["--unpinned"]].concat());
    let file = std::fs::File::open(&out).expect("written");
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet");
    let names: Vec<String> = reader.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["origin", "airport_weather__temp"]);
    assert_eq!(
        reader
            .build()
            .expect("readable")
            .map(|batch| batch.map(|batch: RecordBatch| batch.num_rows()).expect("sound"))
            .sum::<usize>(),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_file_of_keys_is_refused_and_leaves_none_behind() {
    let scene = scene().await;
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![7]));
    let origins = || strings(&airports(1));
    let out = scene.path("out.parquet");
    for (name, columns, reason, told) in [
        ("other.parquet", vec![("orign", origins())], "NO_KEYS", "join keys are: origin"),
        ("number.parquet", vec![("origin", numbers)], "WRONG_KEY", "origin"),
        (
            "taken.parquet",
            vec![("origin", origins()), ("airport_weather__temp", origins())],
            "COLUMN_TAKEN",
            "airport_weather__temp",
        ),
    ] {
        let keys = scene.parquet(name, columns);
        let error = scene.refused_json(&[&score(&keys, &out)[..], &["--format", "json"]].concat());
        assert_eq!(error["reason"], reason, "{error}");
        assert!(error.to_string().contains(told), "{error}");
    }
    let keys = scene.parquet("keys.parquet", vec![("origin", origins())]);
    assert!(scene.refused(&score(&keys, &keys)).contains("would be lost"));
    let ahead = scene.refused(&[&score(&keys, &out)[..], &["--at", "2999-01-01T00:00:00Z"]].concat());
    assert!(ahead.contains("2999"), "{ahead}");
    let absent = scene.run(&["online", "score", "--service", "modell", "--keys", &keys, "-o", &out]);
    assert!(text(&absent.stderr).contains("modell"));
    let left: Vec<_> = std::fs::read_dir(scene.folder.path())
        .expect("readable")
        .map(|entry| entry.expect("one").file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains("tmp") || name.contains("out"))
        .collect();
    assert_eq!(left, [] as [String; 0]);
}
