//! Files of rows, spines and keys that are no good.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, Int32Array, Int64Array, TimestampMicrosecondArray, TimestampNanosecondArray, TimestampSecondArray,
};
use hydrant::clock::{Clock as _, SystemClock};

use crate::scene::{HOUR, START, Scene, airports, floats, strings, times};

#[tokio::test(flavor = "multi_thread")]
async fn twenty_bad_rows_are_named_and_the_others_counted() {
    let scene = Scene::with_definitions("").await;
    let origins: Vec<Option<&str>> = (0..100).map(|row| (row % 2 == 0).then_some("EWR")).collect();
    let instants: Vec<Option<i64>> = (0..100).map(|row| (row % 10 != 4).then_some(START + row)).collect();
    let file = scene.parquet("bad.parquet", vec![("origin", strings(&origins)), ("event_timestamp", times(&instants))]);
    let error = scene.refused_json(&["ingest", "weather", &file]);
    assert_eq!(error["reason"], "BAD_ROWS");
    assert_eq!((&error["metadata"]["bad_rows"], &error["metadata"]["rows"]), (&"60".into(), &"100".into()));
    let named = error["violations"].as_array().expect("rows");
    assert_eq!(named[0]["path"], "row 1, key");
    assert!(named.iter().any(|row| row["path"] == "row 4, event_timestamp"), "{named:?}");
    assert!(
        named.last().is_some_and(|last| last["message"].as_str().is_some_and(|text| text.contains("40 rows more")))
    );
    assert_eq!(scene.temperature("EWR").0, "NOT_FOUND", "nothing was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_too_far_ahead_is_refused_naming_row_and_times() {
    let scene = Scene::with_definitions("").await;
    let ahead = SystemClock.now() + HOUR;
    let instants = times(&[Some(START), Some(ahead)]);
    let file =
        scene.parquet("ahead.parquet", vec![("origin", strings(&[Some("EWR"); 2])), ("event_timestamp", instants)]);
    let shown = scene.refused(&["ingest", "weather", &file]);
    assert!(shown.contains("row 1, event_timestamp") && shown.contains("300s"), "{shown}");
    assert!(shown.contains("T") && shown.contains("Z"), "the times are told as people read them: {shown}");
    assert_eq!(scene.temperature("EWR").0, "NOT_FOUND", "nothing was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_no_parquet_are_named() {
    let scene = Scene::with_definitions("").await;
    let good = scene.parquet("good.parquet", airports(0..3));
    let notes = scene.file("notes.parquet", "not a table");
    let whole = std::fs::read(&good).expect("readable");
    let cut = scene.path("cut.parquet");
    std::fs::write(&cut, &whole[..whole.len() / 2]).expect("written");
    let nothing = scene.file("nothing.parquet", "");
    for file in [notes, cut, nothing, scene.path("absent.parquet"), scene.path("")] {
        let error = scene.refused_json(&["ingest", "weather", &good, &file]);
        assert_eq!(error["reason"], "FILE_FAILED", "{error}");
        assert!(error["message"].as_str().is_some_and(|message| message.starts_with(&file)), "{error}");
    }
    assert_eq!(scene.temperature("A000").0, "NOT_FOUND", "the good file was not sent either");
    assert_eq!(scene.run(&["ingest", "weather", &good]).status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_never_bent_into_another_type() {
    let scene = Scene::with_definitions("").await;
    let row = |temp: ArrayRef, time: ArrayRef| {
        scene.parquet(
            "row.parquet",
            vec![("origin", strings(&[Some("EWR")])), ("event_timestamp", time), ("temp", temp)],
        )
    };
    // Nothing is lost: an integer that every float of the type holds, a time in seconds.
    let whole: ArrayRef = Arc::new(Int32Array::from(vec![30]));
    let seconds: ArrayRef = Arc::new(TimestampSecondArray::from(vec![START / 1_000_000]));
    scene.succeed(&["ingest", "weather", &row(whole, seconds)]);
    assert_eq!(scene.temperature("EWR"), ("PRESENT".to_owned(), 30.0.into()));

    let wide: ArrayRef = Arc::new(Int64Array::from(vec![30]));
    let refused = scene.refused(&["ingest", "weather", &row(wide, times(&[Some(START + 1)]))]);
    assert!(refused.contains("temp"), "{refused}");
    let refused = scene.refused(&["ingest", "weather", &row(strings(&[Some("30")]), times(&[Some(START + 1)]))]);
    assert!(refused.contains("temp"), "{refused}");
    let refused = scene.refused(&["ingest", "weather", &row(floats(&[30.0]), strings(&[Some("2013-12-30")]))]);
    assert!(refused.contains("event_timestamp"), "{refused}");
    assert_eq!(scene.temperature("EWR"), ("PRESENT".to_owned(), 30.0.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn naive_and_zoned_times_of_a_spine_mean_the_same_instants() {
    let scene = Scene::with_definitions("").await;
    scene.ingest_airports(3);
    let origins = strings(&[Some("A000"), Some("A000")]);
    let micros = [START - 1, START];
    let nanos: Vec<i64> = micros.iter().map(|micros| micros * 1_000 + 999).collect();
    let zoned =
        |zone: &str| -> ArrayRef { Arc::new(TimestampMicrosecondArray::from(micros.to_vec()).with_timezone(zone)) };
    let naive: ArrayRef = Arc::new(TimestampMicrosecondArray::from(micros.to_vec()));
    // Finer than a microsecond: floored.
    let finer: ArrayRef = Arc::new(TimestampNanosecondArray::from(nanos));
    for at in [naive, zoned("UTC"), zoned("+02:00"), zoned("America/New_York"), finer] {
        let told = format!("{:?}", at.data_type());
        let spine = scene.parquet("spine.parquet", vec![("origin", origins.clone()), ("at", at)]);
        let out = scene.path("out.parquet");
        let get = ["historical", "get", "--service", "model", "--spine", &spine, "--event-time", "at", "-o", &out];
        let shown = scene.succeed(&get);
        assert!(shown.contains("2 rows"), "{told}: {shown}");
        let file = std::fs::File::open(&out).expect("written");
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet");
        let batch = reader.build().expect("readable").next().expect("a batch").expect("sound");
        let temps = batch.column_by_name("airport_weather__temp").expect("a feature").clone();
        assert!(temps.is_null(0) && !temps.is_null(1), "{told}: {temps:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spine_that_is_no_good_is_refused_and_leaves_no_file() {
    let scene = Scene::with_definitions("").await;
    scene.ingest_airports(3);
    let out = scene.path("out.parquet");
    let origin = || strings(&[Some("A000"), Some("A001"), Some("A002")]);
    let at = || times(&[Some(START); 3]);
    let cases = [
        ("no key", vec![("at", at())], "origin"),
        ("no time", vec![("origin", origin())], "'at'"),
        ("null times", vec![("origin", origin()), ("at", times(&[Some(START), None, None]))], "[1]"),
        ("time as text", vec![("origin", origin()), ("at", strings(&[Some("2013-12-30T20:00:00Z"); 3]))], "'at'"),
        ("key of another type", vec![("origin", floats(&[0.5; 3])), ("at", at())], "origin"),
        (
            "a feature's name",
            vec![("origin", origin()), ("at", at()), ("airport_weather__temp", floats(&[0.0; 3]))],
            "airport_weather__temp",
        ),
    ];
    for (name, columns, told) in cases {
        let spine = scene.parquet("spine.parquet", columns);
        let get = ["historical", "get", "--service", "model", "--spine", &spine, "--event-time", "at", "-o", &out];
        let shown = scene.refused(&get);
        assert!(shown.contains(told), "{name}: {shown}");
        assert!(!std::path::Path::new(&out).exists(), "{name}");
    }
    let spine = scene.parquet("spine.parquet", vec![("origin", origin()), ("at", at())]);
    for (service, out, told) in [
        ("modell", out.clone(), "modell"),
        ("model@9", out.clone(), "no version 9"),
        ("model", scene.path("no/such/folder/out.parquet"), "no/such/folder"),
    ] {
        let get = ["historical", "get", "--service", service, "--spine", &spine, "--event-time", "at", "-o", &out];
        assert!(scene.refused(&get).contains(told), "{service}");
    }
    assert_eq!(scene.left_behind(), Vec::<std::path::PathBuf>::new());
    assert_eq!(scene.temperature("A001").0, "PRESENT", "it serves on");
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_things_are_named_by_every_command() {
    let scene = Scene::with_definitions("").await;
    let rows = scene.parquet("rows.parquet", airports(0..1));
    let named = |arguments: &[&str], told: &str| {
        let error = scene.refused_json(arguments);
        assert!(error["message"].as_str().is_some_and(|message| message.contains(told)), "{arguments:?}: {error}");
    };
    named(&["get", "entity", "harbour"], "harbour");
    named(&["get", "view", "harbour_weather"], "harbour_weather");
    named(&["describe", "service", "modell"], "modell");
    named(&["ingest", "wether", &rows], "wether");
    named(&["online", "get", "--service", "modell", "--key", "origin=EWR"], "modell");
    named(&["online", "get", "--service", "model@9", "--key", "origin=EWR"], "no version 9");
    named(&["online", "get", "--service", "model", "--key", "harbour=EWR"], "harbour");
    assert!(scene.refused(&["delete", "view", "harbour_weather"]).contains("harbour_weather"));

    let request = |features: &str| hydrant::rpc::v1::GetOnlineFeaturesRequest {
        features: vec![features.to_owned()],
        ..Default::default()
    };
    let client = scene.client().await;
    for (feature, told) in
        [("harbour_weather:temp", "harbour_weather"), ("airport_weather:wind", "wind"), ("temp", "temp")]
    {
        let refusal = client.get_online_features(request(feature)).await.expect_err("there is none");
        assert!(refusal.message.contains(told) && !refusal.reason.is_empty(), "{refusal:?}");
    }
}
