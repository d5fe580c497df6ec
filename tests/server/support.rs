//! A server for one test: a data directory that goes away, ports that the system chooses, small
//! caches, and definitions of two views over one source.

use std::sync::Arc;
use std::time::Duration;

use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use hydrant::app::{App, AppError};
use hydrant::config::{ByteSize, Config};
use hydrant::registry::definition::Definition;
use hydrant::registry::documents;
use hydrant::rpc::client::{Client, Remote};
use hydrant::rpc::server::Addresses;
use hydrant::rpc::v1;
use hydrant::rpc::wire::columns::encode_column;
use hydrant::telemetry::Telemetry;
use hydrant::tenancy::Tenancy;
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// 2013-12-30T23:00:00Z.
pub const NOON: i64 = 1_388_444_400_000_000;
pub const HOUR: i64 = 3_600_000_000;

/// The longest that anything in these tests may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct TestServer {
    pub addresses: Addresses,
    pub client: Client,
    pub directory: TempDir,
    /// The server's own.
    pub tenancy: Arc<Tenancy>,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), AppError>>,
}

/// Free ports, little memory, a fresh directory.
pub fn config(directory: &TempDir) -> Config {
    let mut config = Config::embedded();
    let any = "127.0.0.1:0".parse().expect("an address");
    (config.server.grpc_addr, config.server.flight_addr, config.server.http_addr) = (any, any, any);
    config.server.drain_time = "5s".parse().expect("a duration");
    config.storage.data_dir = directory.path().to_owned();
    config.storage.partitions = 2;
    config.storage.block_cache = ByteSize::mib(8);
    config.storage.write_buffers = ByteSize::mib(8);
    config
}

impl TestServer {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Self::start_in(directory, change).await
    }

    pub async fn start_in(directory: TempDir, change: impl FnOnce(&mut Config)) -> Self {
        Self::start_at(directory, change, Remote::plain).await
    }

    /// As it is reached by a `remote` of its gRPC address on `localhost`.
    pub async fn start_at(
        directory: TempDir,
        change: impl FnOnce(&mut Config),
        remote: impl FnOnce(&str) -> Remote,
    ) -> Self {
        let mut config = config(&directory);
        change(&mut config);
        let telemetry = Arc::new(Telemetry::metrics_only().expect("metrics"));
        let app = App::build(&config, telemetry).await.expect("a server");
        let (addresses, tenancy) = (app.addresses(), app.node().use_cases().tenancy.clone());
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(app.run(async {
            stopped.await.ok();
        }));
        let remote = remote(&format!("localhost:{}", addresses.grpc.port()));
        let client = Client::connect_to(remote).await.expect("it listens");
        let server = Self { addresses, client, directory, tenancy, stop, running };
        server.wait_until_serving("").await;
        server
    }

    /// Waits for health checking to say SERVING. A watch tells each change, so nothing is asked twice.
    pub async fn wait_until_serving(&self, service: &str) {
        let mut health = HealthClient::new(self.client.channel());
        let request = HealthCheckRequest { service: service.to_owned() };
        let mut states = health.watch(request).await.expect("it is known").into_inner();
        let serving = async {
            while let Some(state) = states.message().await.expect("told") {
                if state.status() == ServingStatus::Serving {
                    return true;
                }
            }
            false
        };
        assert!(tokio::time::timeout(PATIENCE, serving).await.expect("in time"), "{service}");
    }

    /// Stops the server in order and gives its directory back.
    pub async fn stop(self) -> TempDir {
        let Self { client, directory, stop, running, .. } = self;
        drop(client);
        stop.send(()).expect("it runs");
        let outcome = tokio::time::timeout(PATIENCE, running).await.expect("it stops in time");
        outcome.expect("it does not panic").expect("it stops without an error");
        directory
    }

    pub async fn apply_weather(&self) {
        self.client.apply(&weather(), None).await.expect("they fit together");
    }

    /// The same, with a promise of freshness.
    pub async fn apply_promised_weather(&self) {
        let promised = weather().into_iter().map(|definition| {
            let mut document = documents::to_json(&definition);
            if document["kind"] == "FeatureView" {
                document["spec"]["freshness"] = json!({"maxAge": "5m", "target": "99.5%", "severity": "page"});
            }
            documents::from_json(&document).expect("a definition")
        });
        self.client.apply(&promised.collect::<Vec<_>>(), None).await.expect("they fit together");
    }

    /// Two airports, at noon and an hour later, visible when this returns.
    pub async fn ingest_weather(&self) -> v1::IngestResponse {
        self.client.ingest(ingest_request(&weather_rows())).await.expect("good rows")
    }

    /// What the path answers over HTTP: the status line's code and the body.
    pub async fn http(&self, path: &str) -> (u16, String) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(self.addresses.http).await.expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("text");
        let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
        (code, body)
    }
}

/// An entity, a source whose rows are known at their event time, a view and a service over it.
pub fn weather() -> Vec<Definition> {
    let documents = [
        json!({"apiVersion": "hydrant/v1", "kind": "Entity", "metadata": {"name": "airport"},
               "spec": {"joinKeys": [{"name": "origin", "type": "string"}]}}),
        json!({"apiVersion": "hydrant/v1", "kind": "Source", "metadata": {"name": "weather"},
               "spec": {"type": "push", "eventTime": "event_timestamp", "knownTime": "event",
                        "columns": [{"name": "origin", "type": "string"},
                                    {"name": "event_timestamp", "type": "timestamp"},
                                    {"name": "temp", "type": "float64"}]}}),
        json!({"apiVersion": "hydrant/v1", "kind": "FeatureView", "metadata": {"name": "airport_weather"},
               "spec": {"entities": ["airport"], "source": "weather", "features": [{"name": "temp"}]}}),
        json!({"apiVersion": "hydrant/v1", "kind": "FeatureService", "metadata": {"name": "delay_model"},
               "spec": {"features": ["airport_weather"]}}),
    ];
    documents.iter().map(|document| documents::from_json(document).expect("a definition")).collect()
}

pub fn weather_batch(origins: &[Option<&str>], times: &[i64], temps: &[f64]) -> RecordBatch {
    let origins: ArrayRef = Arc::new(origins.iter().copied().collect::<StringArray>());
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(times.to_vec()).with_timezone("UTC"));
    let temps: ArrayRef = Arc::new(Float64Array::from(temps.to_vec()));
    let columns = [("origin", origins, true), ("event_timestamp", times, true), ("temp", temps, true)];
    RecordBatch::try_from_iter_with_nullable(columns).expect("a batch")
}

pub fn weather_rows() -> RecordBatch {
    let origins = [Some("EWR"), Some("JFK"), Some("EWR")];
    weather_batch(&origins, &[NOON, NOON, NOON + HOUR], &[39.0, 40.5, 37.25])
}

pub fn columns_of(batch: &RecordBatch) -> Vec<v1::Column> {
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns());
    columns.map(|(field, array)| encode_column(field.name(), array).expect("a type of Hydrant's")).collect()
}

/// Answered when the rows can be read.
pub fn ingest_request(batch: &RecordBatch) -> v1::IngestRequest {
    let columns = v1::Columns { columns: columns_of(batch) };
    v1::IngestRequest {
        source: "weather".to_owned(),
        rows: Some(v1::ingest_request::Rows::Columns(columns)),
        wait_visible: true,
        ..Default::default()
    }
}

pub fn read_request(origins: &[&str]) -> v1::GetOnlineFeaturesRequest {
    let origins: ArrayRef = Arc::new(StringArray::from(origins.to_vec()));
    v1::GetOnlineFeaturesRequest {
        services: vec!["delay_model".to_owned()],
        entities: vec![encode_column("origin", &origins).expect("strings")],
        ..Default::default()
    }
}
