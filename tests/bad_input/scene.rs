//! A server with definitions of weather, the commands that talk to it, and the files they are given.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use hydrant::rpc::client::Client;
use parquet::arrow::ArrowWriter;
use serde_json::Value as Json;
use tempfile::TempDir;

use crate::process::{self, ServerProcess, Setup};

pub const DEFINITIONS: &str = "\
apiVersion: hydrant/v1
kind: Entity
metadata: {name: airport}
spec:
  joinKeys: [{name: origin, type: string}]
---
apiVersion: hydrant/v1
kind: Source
metadata: {name: weather}
spec:
  type: push
  eventTime: event_timestamp
  knownTime: event
  columns:
    - {name: origin, type: string}
    - {name: event_timestamp, type: timestamp}
    - {name: temp, type: float64}
    - {name: note, type: string}
---
apiVersion: hydrant/v1
kind: FeatureView
metadata: {name: airport_weather}
spec:
  entities: [airport]
  source: weather
  features: [{name: temp}, {name: note}]
---
apiVersion: hydrant/v1
kind: FeatureService
metadata: {name: model}
spec:
  features: [airport_weather]
";

pub const HOUR: i64 = 3_600_000_000;
/// 2013-12-30T20:00:00Z.
pub const START: i64 = 1_388_433_600_000_000;

pub struct Scene {
    pub server: ServerProcess,
    pub setup: Setup,
    folder: TempDir,
}

/// A server that was stopped, whose files a test may damage.
pub struct Stopped {
    pub setup: Setup,
    folder: TempDir,
}

impl Scene {
    pub async fn empty(config: &str) -> Self {
        Self::of(|setup| setup.config(config)).await
    }

    pub async fn of(change: impl FnOnce(Setup) -> Setup) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let setup = change(Setup::new(folder.path()));
        let server = setup.start().await;
        Self { server, setup, folder }
    }

    pub async fn with_definitions(config: &str) -> Self {
        let scene = Self::empty(config).await;
        scene.apply();
        scene
    }

    pub fn apply(&self) {
        self.succeed(&["apply", "-f", &self.file("all.yaml", DEFINITIONS)]);
    }

    pub async fn client(&self) -> Client {
        self.server.client().await
    }

    pub async fn stop(self) -> Stopped {
        self.server.stop().await;
        Stopped { setup: self.setup, folder: self.folder }
    }

    /// As after `stop`, but by kill -9, and without a limit from then on.
    pub fn killed(self) -> Stopped {
        self.server.kill();
        Stopped { setup: Setup::new(self.folder.path()), folder: self.folder }
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        process::hydrant(self.server.grpc(), arguments)
    }

    #[track_caller]
    pub fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}\n{}", text(&output.stderr), self.server.log());
        text(&output.stdout)
    }

    /// What stands on stderr of a command that must be refused: exit code 1, and no data.
    #[track_caller]
    pub fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
        assert_eq!(text(&output.stdout), "", "data in spite of a refusal");
        text(&output.stderr)
    }

    /// The same, with `-o json`: one object on stderr and nothing beside it.
    #[track_caller]
    pub fn refused_json(&self, arguments: &[&str]) -> Json {
        let shown = self.refused(&[arguments, &["-o", "json"]].concat());
        let error: Json = serde_json::from_str(&shown).unwrap_or_else(|error| panic!("{error}: {shown}"));
        let error = error["error"].clone();
        for field in ["reason", "message"] {
            assert!(error[field].as_str().is_some_and(|text| !text.is_empty()), "no {field}: {error}");
        }
        assert!(error["metadata"].is_object(), "{error}");
        error
    }

    /// The temperature at an airport with its status, as `online get` tells it.
    #[track_caller]
    pub fn temperature(&self, origin: &str) -> (String, Json) {
        let key = format!("origin={origin}");
        let shown = self.succeed(&["online", "get", "--service", "model", "--key", &key, "-o", "json"]);
        let mut shown: Json = serde_json::from_str(&shown).expect("JSON");
        let mut cell = shown["rows"][0]["features"]["airport_weather__temp"].take();
        (cell["status"].as_str().expect("a status").to_owned(), cell["value"].take())
    }

    pub fn path(&self, name: &str) -> String {
        path_in(&self.folder, name)
    }

    pub fn file(&self, name: &str, content: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, content).expect("written");
        path
    }

    pub fn parquet(&self, name: &str, columns: Vec<(&str, ArrayRef)>) -> String {
        let path = self.path(name);
        let columns = columns.into_iter().map(|(name, column)| (name, column, true));
        let batch = RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length");
        let file = File::create(&path).expect("created");
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).expect("started");
        writer.write(&batch).expect("written");
        writer.close().expect("finished");
        path
    }

    /// Weather at airports `A000`, `A001`, …, an hour apart, `temp` their number, and a note.
    pub fn ingest_airports(&self, count: usize) {
        let file = self.parquet("airports.parquet", airports(0..count));
        self.succeed(&["ingest", "weather", &file]);
    }

    /// Temporary files of the command line in the folder of its results.
    pub fn left_behind(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder.path()).expect("readable");
        let paths = entries.map(|entry| entry.expect("readable").path());
        let is_temporary =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".hydrant-"));
        paths.filter(is_temporary).collect()
    }
}

impl Stopped {
    pub async fn start(self) -> Scene {
        let server = self.setup.start().await;
        Scene { server, setup: self.setup, folder: self.folder }
    }

    pub fn data(&self) -> PathBuf {
        self.setup.data()
    }
}

pub fn airport(number: usize) -> String {
    format!("A{number:03}")
}

/// A text by which a row is found in a file.
pub fn mark(number: usize) -> String {
    format!("marked-{}-{:032x}", airport(number), (number as u128 + 1) * 0x9e37_79b9_7f4a_7c15_f39c)
}

pub fn airports(numbers: std::ops::Range<usize>) -> Vec<(&'static str, ArrayRef)> {
    let numbers: Vec<usize> = numbers.collect();
    let hours = numbers.iter().map(|number| START + i64::try_from(*number).expect("few") * HOUR);
    vec![
        ("origin", Arc::new(numbers.iter().map(|number| Some(airport(*number))).collect::<StringArray>())),
        ("event_timestamp", times(&hours.map(Some).collect::<Vec<_>>())),
        ("temp", Arc::new(numbers.iter().map(|number| Some(*number as f64)).collect::<Float64Array>())),
        ("note", Arc::new(numbers.iter().map(|number| Some(mark(*number))).collect::<StringArray>())),
    ]
}

pub fn times(times: &[Option<i64>]) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(times.to_vec()))
}

pub fn strings(texts: &[Option<&str>]) -> ArrayRef {
    Arc::new(texts.iter().copied().collect::<StringArray>())
}

pub fn floats(numbers: &[f64]) -> ArrayRef {
    Arc::new(Float64Array::from(numbers.to_vec()))
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn path_in(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).to_str().expect("UTF-8").to_owned()
}

/// Every file below a folder.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}
