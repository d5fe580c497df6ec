//! The server that is attacked, with keys asked for; and all that it keeps, as it can be compared.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use hydrant::app::{App, AppError};
use hydrant::config::{ByteSize, Span};
use hydrant::log::WriteLog;
use hydrant::registry::definition::Kind;
use hydrant::rpc::client::{Client, Refusal, Remote};
use hydrant::rpc::server::Addresses;
use hydrant::rpc::v1;
use hydrant::telemetry::Telemetry;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

use crate::support::{PATIENCE, config, read_request, weather};
use crate::{hash_of, seeds};

const DAY: std::time::Duration = std::time::Duration::from_secs(86_400);
/// Connections to each port.
const CONNECTIONS: usize = 4;

pub struct Store {
    pub addresses: Addresses,
    /// May do everything.
    pub admin: Client,
    pub admin_token: String,
    /// May read online, and nothing else.
    pub reader_token: String,
    /// Of a training set that was prepared.
    pub ticket: Bytes,
    pub grpc: Vec<Channel>,
    pub flight: Vec<Channel>,
    directory: TempDir,
    log: Arc<dyn WriteLog>,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), AppError>>,
}

impl Store {
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut config = config(&directory);
        config.auth.enabled = true;
        config.server.grpc_max_message = ByteSize::mib(1);
        config.server.flight_max_message = ByteSize::mib(1);
        config.ingest.max_request = ByteSize::mib(1);
        // Nothing moves by itself.
        (config.landing.interval, config.freshness.save_interval) = (Span(DAY), Span(DAY));
        config.compaction.enabled = false;
        let app = App::build(&config, Arc::new(Telemetry::metrics_only().expect("metrics"))).await.expect("a server");
        let (addresses, log) = (app.addresses(), app.node().log().clone());
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(app.run(async {
            stopped.await.ok();
        }));
        let admin_token = std::fs::read_to_string(directory.path().join("first-key")).expect("it was made");
        let admin_token = admin_token.trim().to_owned();
        let remote = Remote::plain(&format!("127.0.0.1:{}", addresses.grpc.port()));
        let remote = remote.with_token(&admin_token).expect("it looks like a key");
        let admin = Client::connect_to(remote).await.expect("it listens");
        admin.apply(&weather(), None).await.expect("an admin may");
        admin.ingest(seeds::first_rows()).await.expect("an admin may");
        let reader = v1::CreateKeyRequest { roles: vec![v1::Role::Reader.into()], ..Default::default() };
        let reader_token = admin.create_key(reader).await.expect("an admin may").token;
        let spine = seeds::spine();
        let rows = futures::stream::iter([Ok(spine.clone())]);
        let stored = admin.store_spine(spine.schema(), rows).await.expect("stored");
        let command = v1::HistoricalFeaturesCommand { spine: stored.id, ..seeds::historical() };
        let endpoints = admin.endpoints(v1::flight_command::Command::HistoricalFeatures(command)).await;
        let ticket = endpoints.expect("prepared").tickets.remove(0);
        // The first read of history makes its tables.
        let mut endpoint = admin.pull(ticket.clone()).await.expect("it is good");
        while endpoint.next().await.expect("pulled").is_some() {}
        let connect = |port: u16| async move {
            let mut channels = Vec::new();
            for _ in 0..CONNECTIONS {
                let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).expect("an address");
                channels.push(endpoint.connect().await.expect("it listens"));
            }
            channels
        };
        let (grpc, flight) = (connect(addresses.grpc.port()).await, connect(addresses.flight.port()).await);
        Self { addresses, admin, admin_token, reader_token, ticket, grpc, flight, directory, log, stop, running }
    }

    /// Everything that a request may change, part by part; why it can't be told, where it can't.
    pub async fn state(&self) -> Result<BTreeMap<String, String>, Refusal> {
        let mut state = BTreeMap::new();
        let mut put = |part: &str, told: String| drop(state.insert(part.to_owned(), told));
        let admin = &self.admin;
        put("frames of the log", self.log.durable().borrow().to_string());
        for kind in [Kind::Entity, Kind::Source, Kind::FeatureView, Kind::FeatureService, Kind::Tenant, Kind::Consumer]
        {
            put(&format!("{kind:?}"), format!("{:?}", admin.list_definitions(kind).await?));
        }
        let revisions = admin.list_revisions(v1::ListRevisionsRequest::default()).await?;
        put("revisions", format!("{:?}", revisions.revisions));
        let mut keys = admin.list_keys().await?;
        keys.iter_mut().for_each(|key| key.last_used_micros = None);
        put("keys", format!("{keys:?}"));
        let mut quotas = admin.list_quotas().await?;
        // What is in use is no effect, and flows back.
        quotas.iter_mut().flat_map(|tenant| &mut tenant.quotas).for_each(|quota| {
            (quota.used, quota.near) = (None, false);
        });
        put("quotas", format!("{quotas:?}"));
        put("training sets", format!("{:?}", admin.list_training_sets().await?));
        put("silences", format!("{:?}", admin.list_silences().await?));
        put("backups", format!("{:?}", admin.list_backups().await?));
        let mut answer = admin.get_online_features(read_request(&["EWR", "JFK", "LGA"])).await?;
        answer.provenance = None;
        put("rows", format!("{answer:?}"));
        for folder in ["registry", "backfill", "spines", "spill", "access", "quotas", "backups", "history"] {
            let mut files = Vec::new();
            list(&self.directory.path().join(folder), &mut files);
            files.sort();
            put(&format!("files of {folder}"), files.join("\n"));
        }
        Ok(state)
    }

    /// What it has counted, by Prometheus.
    pub async fn metrics(&self) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(self.addresses.http).await.expect("it listens");
        let request = format!(
            "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
            self.admin_token
        );
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("text");
        answer
    }

    pub async fn stop(self) {
        let Self { admin, grpc, flight, stop, running, .. } = self;
        drop((admin, grpc, flight));
        stop.send(()).expect("it runs");
        let outcome = tokio::time::timeout(PATIENCE, running).await.expect("it stops in time");
        outcome.expect("it does not panic").expect("it stops without an error");
    }
}

/// Every file with its size; of small ones, what they hold.
fn list(folder: &Path, files: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            list(&path, files);
        } else if !is_timed(&path) {
            let bytes = std::fs::read(&path).unwrap_or_default();
            let told = if bytes.len() < 4_096 { hash_of(&bytes) } else { String::new() };
            files.push(format!("{}: {} bytes {told}", path.display(), bytes.len()));
        }
    }
}

/// The last use of keys, the spent budgets and what was read are written now and then.
fn is_timed(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    ["freshness_budgets", "api_key_uses", "usage"].iter().any(|timed| name.starts_with(timed))
}
