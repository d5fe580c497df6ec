//! A server with definitions of weather, the commands that talk to it, and the files they are given.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use arrow_array::{Array as _, ArrayRef, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value as Json;
use tokio::io::AsyncReadExt as _;

use crate::server::Server;

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
---
apiVersion: hydrant/v1
kind: FeatureView
metadata: {name: airport_weather}
spec:
  entities: [airport]
  source: weather
  ttl: 3h
  features:
    - {name: temp}
---
apiVersion: hydrant/v1
kind: FeatureService
metadata: {name: model}
spec:
  features: [airport_weather]
";

pub const HOUR: i64 = 3_600_000_000;
/// 2013-12-30T20:00:00Z
pub const START: i64 = 1_388_433_600_000_000;

pub struct Scene {
    pub server: Server,
    pub folder: tempfile::TempDir,
}

impl Scene {
    pub async fn empty() -> Self {
        let server = Server::start().await.expect("the server starts");
        Self { server, folder: tempfile::tempdir().expect("a folder") }
    }

    pub async fn with_definitions() -> Self {
        let scene = Self::empty().await;
        scene.succeed(&["apply", "-f", scene.file("all.yaml", DEFINITIONS).to_str().expect("UTF-8")]);
        scene
    }

    /// With the hourly weather at EWR, of 30, 31 and 32 degrees, from `START` on.
    pub async fn with_weather() -> Self {
        let scene = Self::with_definitions().await;
        let weather = scene.weather(&[Some("EWR"); 3], &[Some(START), Some(START + HOUR), Some(START + 2 * HOUR)]);
        scene.succeed(&["ingest", "weather", &weather]);
        scene
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hydrant"));
        command.args(arguments).env("HYDRANT_SERVER", self.server.address()).output().expect("it runs")
    }

    #[track_caller]
    pub fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Runs what must be refused, and gives what stands on stderr.
    #[track_caller]
    pub fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
        assert_eq!(text(&output.stdout), "", "data in spite of a refusal");
        text(&output.stderr)
    }

    #[track_caller]
    pub fn refused_json(&self, arguments: &[&str]) -> Json {
        let error: Json = serde_json::from_str(&self.refused(arguments)).expect("one JSON object on stderr");
        error["error"].clone()
    }

    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).expect("written");
        path
    }

    pub fn parquet(&self, name: &str, columns: Vec<(&str, ArrayRef)>) -> String {
        write_parquet(&self.folder.path().join(name), columns)
    }

    /// Requests for EWR.
    pub fn spine(&self, times: &[i64]) -> String {
        let origins: ArrayRef = Arc::new(StringArray::from(vec!["EWR"; times.len()]));
        let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(times.to_vec()));
        self.parquet("spine.parquet", vec![("origin", origins), ("t", times)])
    }

    /// The temperatures of a training set, and what was said of it on stderr.
    #[track_caller]
    pub fn trained(&self, spine: &str, options: &[&str]) -> (Vec<Option<f64>>, String) {
        let out = self.path("trained.parquet");
        let output = self.run(&[&historical(spine, &out)[..], options].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        let set = read(Path::new(&out));
        let temps = set.column_by_name("airport_weather__temp").expect("a feature").clone();
        let temps = temps.as_any().downcast_ref::<Float64Array>().expect("float64");
        (temps.iter().collect(), text(&output.stderr))
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    /// A port of the server.
    pub fn port(&self, of: &str) -> u64 {
        let version: Json = serde_json::from_str(&self.succeed(&["version", "-o", "json"])).expect("JSON");
        version["server"][of].as_u64().expect("a port")
    }

    /// A file for source `weather`; the temperatures count up from 30.
    pub fn weather(&self, origins: &[Option<&str>], times: &[Option<i64>]) -> String {
        self.parquet("weather.parquet", weather_columns(origins, times))
    }
}

/// Writes a file, and gives its path.
pub fn write_parquet(path: &Path, columns: Vec<(&str, ArrayRef)>) -> String {
    let batch =
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)));
    let batch = batch.expect("equal lengths");
    let mut writer = ArrowWriter::try_new(File::create(path).expect("created"), batch.schema(), None).expect("started");
    writer.write(&batch).expect("written");
    writer.close().expect("finished");
    path.to_str().expect("UTF-8").to_owned()
}

pub fn weather_columns(origins: &[Option<&str>], times: &[Option<i64>]) -> Vec<(&'static str, ArrayRef)> {
    let temps = (0..origins.len()).map(|row| 30.0 + row as f64);
    vec![
        ("origin", Arc::new(StringArray::from(origins.to_vec()))),
        ("event_timestamp", Arc::new(TimestampMicrosecondArray::from(times.to_vec()))),
        ("temp", Arc::new(temps.collect::<Float64Array>())),
    ]
}

pub fn historical<'a>(spine: &'a str, out: &'a str) -> [&'a str; 10] {
    ["historical", "get", "--service", "model", "--spine", spine, "--event-time", "t", "-o", out]
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn read(path: &Path) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).expect("written")).expect("Parquet").build();
    let batches: Vec<RecordBatch> = reader.expect("readable").map(|batch| batch.expect("sound")).collect();
    arrow_select::concat::concat_batches(&batches[0].schema(), &batches).expect("one schema")
}

/// What lies between a command and its server, and lets through so many bytes of the command's.
pub struct Passage {
    pub address: String,
    /// Tells once that they have passed.
    pub reached: tokio::sync::mpsc::Receiver<()>,
}

#[derive(Clone, Copy, PartialEq)]
pub enum AtTheEnd {
    Close,
    Hold,
}

impl Passage {
    pub async fn open(server: &str, bytes: u64, at_the_end: AtTheEnd) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let (sender, reached) = tokio::sync::mpsc::channel(1);
        let server = server.to_owned();
        tokio::spawn(async move {
            let (command, _) = listener.accept().await.expect("the command connects");
            let server = tokio::net::TcpStream::connect(server).await.expect("the server listens");
            let (mut from_command, mut to_command) = command.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            let back = tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_command).await });
            let passed = tokio::io::copy(&mut (&mut from_command).take(bytes), &mut to_server).await;
            assert_eq!(passed.expect("both ends are there"), bytes, "the command ended before");
            sender.send(()).await.ok();
            if at_the_end == AtTheEnd::Hold {
                // Until the command has gone.
                let mut rest = [0; 1 << 10];
                while from_command.read(&mut rest).await.is_ok_and(|length| length > 0) {}
            }
            back.abort();
        });
        Self { address, reached }
    }
}
