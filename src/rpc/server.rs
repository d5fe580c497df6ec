//! The listeners and what is served on them: gRPC with health and reflection, Arrow Flight on a
//! port of its own, HTTP for operators. It makes tasks and hands them out, but starts none.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use arrow_flight::flight_service_server::FlightServiceServer;
use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream};
use hydrant_proto::v1;
use hydrant_proto::v1::access_service_server::AccessServiceServer;
use hydrant_proto::v1::audit_service_server::AuditServiceServer;
use hydrant_proto::v1::backfill_service_server::BackfillServiceServer;
use hydrant_proto::v1::backup_service_server::BackupServiceServer;
use hydrant_proto::v1::catalog_service_server::CatalogServiceServer;
use hydrant_proto::v1::erasure_service_server::ErasureServiceServer;
use hydrant_proto::v1::freshness_service_server::FreshnessServiceServer;
use hydrant_proto::v1::history_service_server::HistoryServiceServer;
use hydrant_proto::v1::ingest_service_server::IngestServiceServer;
use hydrant_proto::v1::lineage_service_server::LineageServiceServer;
use hydrant_proto::v1::quota_service_server::QuotaServiceServer;
use hydrant_proto::v1::registry_service_server::RegistryServiceServer;
use hydrant_proto::v1::sharing_service_server::SharingServiceServer;
use hydrant_proto::v1::training_set_service_server::TrainingSetServiceServer;
use hydrant_proto::v1::usage_service_server::UsageServiceServer;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, health_reporter};
use tower::Layer as _;

use super::UseCases;
use super::access::AccessRpc;
use super::audit::AuditRpc;
use super::backfill::BackfillRpc;
use super::backup::BackupRpc;
use super::catalog::CatalogRpc;
use super::connections::{self, Bounds, Connection, GREETING_TIME};
use super::corked::SMALL_ANSWERS;
use super::door::Door;
use super::erasure::ErasureRpc;
use super::flight::{FlightLimits, FlightRpc};
use super::freshness::FreshnessRpc;
use super::history::HistoryRpc;
use super::http::{self, HttpHandle, HttpState};
use super::ingest::{DecodeLimits, IngestRpc};
use super::layers::{CallLayer, Calls};
use super::lineage::LineageRpc;
use super::online::{self, OnlineFirst, OnlineRpc, OnlineServer};
use super::quota::QuotaRpc;
use super::registry::{OtherPorts, RegistryRpc};
use super::sharing::SharingRpc;
use super::status::MessageLimit;
use super::tls::Tls;
use super::training::TrainingSetRpc;
use super::transport::{self, Http2};
use super::usage::UsageRpc;
use crate::config::{Config, ServerConfig};
use crate::tenancy::Authenticates;

/// A bound on rows of one Flight message where no use case sets a lower one: Arrow counts in int32.
const MAX_MESSAGE_ROWS: u64 = i32::MAX as u64;

/// Where the server listens, with the ports that were really taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub grpc: SocketAddr,
    pub flight: SocketAddr,
    pub http: SocketAddr,
}

/// Why the server can't listen or serve.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("option '{option}': can't listen on {address}: {source}")]
    Bind { option: &'static str, address: SocketAddr, source: io::Error },
    #[error("the {task} ended: {message}")]
    Task { task: &'static str, message: String },
}

impl ServerError {
    /// The way out, where there is one beside the message.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Bind { source, .. } if source.kind() == io::ErrorKind::AddrInUse => Some(
                "something listens there already: end it, or choose another port by --grpc-addr, --flight-addr or --http-addr; a second server needs three ports, and a --data-dir of its own",
            ),
            Self::Bind { .. } | Self::Task { .. } => None,
        }
    }
}

/// The ports, taken before anything else is started, so that a second server ends at once.
#[derive(Debug)]
pub struct Listeners {
    grpc: TcpListener,
    flight: TcpListener,
    http: TcpListener,
    addresses: Addresses,
}

/// What every port asks of whoever comes to it.
#[derive(Clone, Debug)]
pub struct Doors {
    pub tls: Option<Tls>,
    pub authenticates: Arc<dyn Authenticates>,
}

/// A task of the server, by its name.
pub type NamedTask = (&'static str, BoxFuture<'static, Result<(), ServerError>>);

/// A server that is put together.
pub struct Server {
    addresses: Addresses,
    health: HealthReporter,
    stop: CancellationToken,
    http: HttpHandle,
    tasks: Vec<NamedTask>,
}

/// What the server can still be told while its tasks run.
#[derive(Clone)]
pub struct ServerControl {
    health: HealthReporter,
    stop: CancellationToken,
    http: HttpHandle,
}

impl Listeners {
    pub fn bind(config: &ServerConfig) -> Result<Self, ServerError> {
        let (grpc, grpc_address) = bind("server.grpc_addr", config.grpc_addr)?;
        let (flight, flight_address) = bind("server.flight_addr", config.flight_addr)?;
        let (http, http_address) = bind("server.http_addr", config.http_addr)?;
        let addresses = Addresses { grpc: grpc_address, flight: flight_address, http: http_address };
        Ok(Self { grpc, flight, http, addresses })
    }

    pub fn addresses(&self) -> Addresses {
        self.addresses
    }
}

impl Server {
    /// Puts the services on their ports. NOT_SERVING until [`ServerControl::announce`] says otherwise.
    /// To be called on the runtime that serves.
    pub async fn new(
        listeners: Listeners,
        use_cases: UseCases,
        state: HttpState,
        doors: Doors,
        config: &Config,
    ) -> Result<Self, ServerError> {
        let Listeners { grpc, flight, http, addresses } = listeners;
        let Doors { tls, authenticates } = doors;
        let door = Door::new(authenticates, use_cases.audit.clone());
        let (health, health_service) = health_reporter();
        let stop = CancellationToken::new();
        let instruments = state.telemetry.instruments();

        let (limit, max_connections) = (config.server.grpc_max_message, config.server.max_connections);
        let calls = Calls::new(
            &instruments,
            MessageLimit { option: "server.grpc_max_message", bytes: limit.0 },
            Some(config.server.max_call_time.duration()),
            door.clone(),
        );
        if let Some(tls) = &tls {
            tls.observe(&instruments, &use_cases.store_time);
        }
        let store_time = use_cases.store_time.clone();
        let ports = OtherPorts { flight: addresses.flight.port(), http: addresses.http.port() };
        let decode = DecodeLimits { max_message: limit.0, max_rows: to_u64(config.ingest.max_rows) };
        let online = OnlineServer::new(OnlineRpc::new(
            use_cases.clone(),
            MessageLimit { option: "server.grpc_max_message", bytes: limit.0 },
            config.serving.max_streams,
            config.serving.stream_idle_time.duration(),
        ));
        let ingest = IngestServiceServer::new(IngestRpc::new(use_cases.clone(), decode))
            .max_decoding_message_size(limit.as_usize())
            .max_encoding_message_size(limit.as_usize());
        let registry = RegistryServiceServer::new(RegistryRpc::new(use_cases.clone(), ports))
            .max_decoding_message_size(limit.as_usize())
            .max_encoding_message_size(limit.as_usize());
        let access = AccessServiceServer::new(AccessRpc::new(use_cases.clone()));
        let backfill = BackfillServiceServer::new(BackfillRpc::new(use_cases.clone()));
        let backup = BackupServiceServer::new(BackupRpc::new(use_cases.clone()));
        let erasures = ErasureServiceServer::new(ErasureRpc::new(use_cases.clone()));
        let quotas = QuotaServiceServer::new(QuotaRpc::new(use_cases.clone()));
        let sharing =
            SharingServiceServer::new(SharingRpc::new(use_cases.clone())).max_encoding_message_size(limit.as_usize());
        let usage =
            UsageServiceServer::new(UsageRpc::new(use_cases.clone())).max_encoding_message_size(limit.as_usize());
        let audit =
            AuditServiceServer::new(AuditRpc::new(use_cases.clone())).max_encoding_message_size(limit.as_usize());
        let freshness = FreshnessServiceServer::new(FreshnessRpc::new(use_cases.clone()))
            .max_encoding_message_size(limit.as_usize());
        let history = HistoryServiceServer::new(HistoryRpc::new(use_cases.clone(), limit.0))
            .max_decoding_message_size(limit.as_usize())
            .max_encoding_message_size(limit.as_usize());
        let catalog =
            CatalogServiceServer::new(CatalogRpc::new(use_cases.clone())).max_encoding_message_size(limit.as_usize());
        let lineage =
            LineageServiceServer::new(LineageRpc::new(use_cases.clone())).max_encoding_message_size(limit.as_usize());
        let training_sets = TrainingSetServiceServer::new(TrainingSetRpc::new(use_cases.clone()))
            .max_encoding_message_size(limit.as_usize());
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let services = Routes::new(online.clone())
            .add_service(ingest)
            .add_service(registry)
            .add_service(access)
            .add_service(backfill)
            .add_service(backup)
            .add_service(quotas)
            .add_service(sharing)
            .add_service(usage)
            .add_service(erasures)
            .add_service(audit)
            .add_service(freshness)
            .add_service(history)
            .add_service(catalog)
            .add_service(lineage)
            .add_service(training_sets)
            .add_service(health_service.clone())
            .add_service(reflection().build_v1().expect("the compiled-in descriptors are whole"))
            .add_service(reflection().build_v1alpha().expect("the compiled-in descriptors are whole"));
        let by_default = Http2 {
            max_streams: config.server.max_streams_per_connection,
            stream_window: None,
            connection_window: None,
            is_short: |_| false,
        };
        let bounds = Bounds { connections: max_connections, held_back: SMALL_ANSWERS, greeting_time: GREETING_TIME };
        let grpc_task = transport::serve(
            incoming(("server.grpc_addr", addresses.grpc), grpc, bounds, tls.as_ref())?,
            CallLayer(calls).layer(OnlineFirst(online).layer(services.prepare())),
            Http2 { is_short: online::is_read, ..by_default },
            stop.clone(),
        );

        let limit = config.server.flight_max_message;
        // A training set takes as long as it takes: only its client bounds it.
        let calls = Calls::new(
            &instruments,
            MessageLimit { option: "server.flight_max_message", bytes: limit.0 },
            None,
            door.clone(),
        );
        let limits = FlightLimits {
            decode: DecodeLimits { max_message: limit.0, max_rows: MAX_MESSAGE_ROWS },
            idle_time: config.server.idle_time.duration(),
        };
        let flight_service = FlightServiceServer::new(FlightRpc::new(use_cases, limits))
            .max_decoding_message_size(limit.as_usize())
            .max_encoding_message_size(limit.as_usize());
        let services = Routes::new(flight_service).add_service(health_service);
        let flight_task = transport::serve(
            incoming(
                ("server.flight_addr", addresses.flight),
                flight,
                Bounds { held_back: 0, ..bounds },
                tls.as_ref(),
            )?,
            CallLayer(calls).layer(services.prepare()),
            Http2 { stream_window: Some(4 << 20), connection_window: Some(16 << 20), ..by_default },
            stop.clone(),
        );

        // Which protocols it speaks it says itself.
        let http_tls = tls.as_ref().map(|tls| tls.server_config(&[]));
        let drain_time = config.server.drain_time.duration();
        let (http_handle, http_task) = http::serve(http, (state, door.clone()), drain_time, max_connections, http_tls)
            .map_err(|source| ServerError::Bind { option: "server.http_addr", address: addresses.http, source })?;

        let mut tasks = vec![
            named("gRPC server", grpc_task.map(Ok::<_, ServerError>)),
            named("Flight server", flight_task.map(Ok::<_, ServerError>)),
            named("HTTP server", http_task),
        ];
        tasks.extend(tls.map(|tls| {
            let (watch, stopped) = (tls.watch(store_time), stop.clone().cancelled_owned());
            let until_stopped = async move {
                tokio::select! {
                    () = watch => {}
                    () = stopped => {}
                }
                Ok::<_, ServerError>(())
            };
            named("watch over certificates", until_stopped)
        }));
        let server = Self { addresses, health, stop, http: http_handle, tasks };
        server.control().announce(false).await;
        Ok(server)
    }

    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    pub fn control(&self) -> ServerControl {
        ServerControl { health: self.health.clone(), stop: self.stop.clone(), http: self.http.clone() }
    }

    /// The tasks that serve; whoever takes them runs them.
    pub fn into_tasks(self) -> Vec<NamedTask> {
        self.tasks
    }
}

impl ServerControl {
    /// Tells health checks whether the server serves, for the whole and for each service.
    pub async fn announce(&self, serves: bool) {
        let status = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
        let services = [
            "",
            OnlineServer::NAME,
            IngestServiceServer::<IngestRpc>::NAME,
            RegistryServiceServer::<RegistryRpc>::NAME,
            AccessServiceServer::<AccessRpc>::NAME,
            BackfillServiceServer::<BackfillRpc>::NAME,
            BackupServiceServer::<BackupRpc>::NAME,
            QuotaServiceServer::<QuotaRpc>::NAME,
            SharingServiceServer::<SharingRpc>::NAME,
            UsageServiceServer::<UsageRpc>::NAME,
            ErasureServiceServer::<ErasureRpc>::NAME,
            AuditServiceServer::<AuditRpc>::NAME,
            FreshnessServiceServer::<FreshnessRpc>::NAME,
            HistoryServiceServer::<HistoryRpc>::NAME,
            CatalogServiceServer::<CatalogRpc>::NAME,
            LineageServiceServer::<LineageRpc>::NAME,
            TrainingSetServiceServer::<TrainingSetRpc>::NAME,
            FlightServiceServer::<FlightRpc>::NAME,
        ];
        for service in services {
            self.health.set_service_status(service, status).await;
        }
    }

    /// Takes no more connections and requests; the tasks end when the requests under way have.
    pub async fn drain(&self) {
        self.stop.cancel();
        self.http.stop(true).await;
    }
}

fn bind(option: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServerError> {
    let failed = |source| ServerError::Bind { option, address, source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    let taken = listener.local_addr().map_err(failed)?;
    Ok((listener, taken))
}

fn incoming(
    (option, address): (&'static str, SocketAddr),
    listener: TcpListener,
    bounds: Bounds,
    tls: Option<&Tls>,
) -> Result<impl Stream<Item = io::Result<Connection>> + use<>, ServerError> {
    let failed = |source| ServerError::Bind { option, address, source };
    listener.set_nonblocking(true).map_err(failed)?;
    let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
    Ok(connections::bounded(TcpIncoming::from(listener).with_nodelay(Some(true)), bounds, tls))
}

fn named<E: fmt::Display>(
    task: &'static str,
    future: impl Future<Output = Result<(), E>> + Send + 'static,
) -> NamedTask {
    let ended =
        move |outcome: Result<(), E>| outcome.map_err(|error| ServerError::Task { task, message: error.to_string() });
    (task, future.map(ended).boxed())
}

fn to_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

impl fmt::Debug for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Server").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl fmt::Debug for ServerControl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ServerControl").finish_non_exhaustive()
    }
}
