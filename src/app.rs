//! The composition root: a [`Node`] is the use cases wired together, without any transport; an [`App`]
//! is a node with its listeners. Every task that runs for as long as the server is started here, by
//! its name. Nothing is decided here but order: what starts before what, and stops after what.

mod background;
mod data_dir;
mod erasing;
mod freshness_watch;
mod gauges;
mod lineage_watch;
mod node;
mod options;
pub mod rehearsal;
mod retention;
mod start_check;
mod sweeper;

use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::access::Callers;
use crate::access::oidc::Oidc;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::error::{Code, Error};
use crate::rpc::http::{HttpState, Readiness};
use crate::rpc::oidc::KeyFetcher;
use crate::rpc::server::{Addresses, Doors, Listeners, Server, ServerControl, ServerError};
use crate::rpc::tls::{Tls, TlsError};
use crate::telemetry::Telemetry;
use crate::tenancy::{Authenticates, LoopbackOnly};

use gauges::Observed;

pub use data_dir::DataDirError;
pub use node::Node;

/// In the data directory: the key that is made at the first start with authentication.
const FIRST_KEY: &str = "first-key";

/// How often a starting server looks whether all partitions can be read.
const READY_POLL: Duration = Duration::from_millis(50);

/// Why a server did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A part of the node could not be opened.
    #[error("{part}: {error}")]
    Open { part: &'static str, error: Error },
}

impl AppError {
    /// The way out, where there is one beside the message.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Open { error, .. } => error.hint.as_deref(),
            Self::Server(error) => error.hint(),
            Self::DataDir(_) | Self::Tls(_) => None,
        }
    }
}

/// What could not be opened, of a part.
fn opening(part: &'static str) -> impl Fn(Error) -> AppError {
    move |error| AppError::Open { part, error }
}

/// What can't be opened is told in its own words, which name the file and the way out.
fn refused(part: &'static str, error: impl Display) -> AppError {
    AppError::Open { part, error: Error::new(Code::FailedPrecondition, "CANNOT_OPEN", error.to_string()) }
}

/// A server that is ready to run.
#[derive(Debug)]
pub struct App {
    node: Node,
    server: Server,
    telemetry: Arc<Telemetry>,
    observed: Arc<Observed>,
    /// What runs for as long as the server, beside its listeners.
    kept: JoinSet<()>,
    drain_time: Duration,
}

impl App {
    /// Takes the ports, opens the data directory and starts what serves. To be called on the runtime
    /// that the server is to run on.
    pub async fn build(config: &Config, telemetry: Arc<Telemetry>) -> Result<Self, AppError> {
        Self::build_with_clock(config, telemetry, Arc::new(SystemClock)).await
    }

    /// As [`App::build`], by another clock.
    pub async fn build_with_clock(
        config: &Config,
        telemetry: Arc<Telemetry>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, AppError> {
        let tls = Tls::open(&config.tls)?;
        let listeners = Listeners::bind(&config.server)?;
        let node = Node::open(config, clock).await?;
        let observed = gauges::observe(&telemetry.instruments(), &node);
        let state = HttpState { telemetry: telemetry.clone(), readiness: readiness(&node) };
        let mut kept = JoinSet::new();
        let authenticates = authenticates(config, &node, &mut kept).await?;
        let doors = Doors { tls, authenticates };
        let server = Server::new(listeners, node.use_cases().clone(), state, doors, config).await?;
        Ok(Self { node, server, telemetry, observed, kept, drain_time: config.server.drain_time.duration() })
    }

    /// Where the server listens.
    pub fn addresses(&self) -> Addresses {
        self.server.addresses()
    }

    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Serves until `shutdown` is ready or a listener fails; then says NOT_SERVING, lets the requests
    /// under way end, flushes, and stops.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), AppError> {
        let Self { node, server, telemetry, observed, mut kept, drain_time } = self;
        let control = server.control();
        let mut tasks = JoinSet::new();
        for (name, task) in server.into_tasks() {
            tasks.spawn(async move { (name, task.await) });
        }
        let starting = announce_when_ready(&node, &control);
        let serving = async {
            starting.await;
            std::future::pending::<()>().await;
        };
        let outcome = tokio::select! {
            () = shutdown => Ok(()),
            ended = tasks.join_next() => Err(unexpected_end(ended)),
            () = serving => Ok(()),
        };

        tracing::info!("stopping: no new requests are taken");
        control.announce(false).await;
        let drain = async {
            control.drain().await;
            while tasks.join_next().await.is_some() {}
        };
        if timeout(drain_time, drain).await.is_err() {
            tracing::warn!(?drain_time, "requests were cut off: option 'server.drain_time'");
            tasks.shutdown().await;
        }
        kept.shutdown().await;
        drop(observed);
        node.close().await;
        // Exporters block while they send what they hold.
        let flushed = tokio::task::spawn_blocking(move || telemetry.shut_down()).await;
        if let Err(error) = flushed {
            tracing::warn!(%error, "telemetry was not flushed");
        }
        outcome
    }
}

/// Who knows the callers, which is said at the start; with authentication, a first key is made where there
/// is none, and the keys of issuers are kept by a task.
async fn authenticates(
    config: &Config,
    node: &Node,
    kept: &mut JoinSet<()>,
) -> Result<Arc<dyn Authenticates>, AppError> {
    if !config.auth.enabled {
        tracing::warn!(
            "callers are not asked for keys: every program on this machine may do everything, and nobody else is \
             listened to (option 'auth.enabled')"
        );
        return Ok(Arc::new(LoopbackOnly));
    }
    if config.auth.insecure && !config.tls.is_on() {
        tracing::warn!(
            "INSECURE: keys and data go over the network in the clear, for everybody on the way to read (--insecure)"
        );
    }
    let access = node.use_cases().access.clone();
    let first_key = config.storage.data_dir.join(FIRST_KEY);
    let made = access.make_first(&first_key).await;
    if made.map_err(|error| AppError::Open { part: "the API keys", error })? {
        let path = first_key.display();
        tracing::warn!(%path, "the first API key was made: make others with it, then revoke it and remove the file");
    }
    let (registry, time) = (node.use_cases().registry.reader(), node.use_cases().store_time.clone());
    let tokens = Oidc::new(&config.auth, registry, time, |of| KeyFetcher::open(of).map(KeyFetcher::shared));
    let tokens = tokens.map_err(|told| AppError::Open {
        part: "the issuers of tokens",
        error: Error::new(Code::FailedPrecondition, "CANNOT_OPEN", told),
    })?;
    kept.spawn(tokens.clone().keep());
    Ok(Arc::new(Callers::new(access, tokens)))
}

/// Says SERVING once every partition can be read.
async fn announce_when_ready(node: &Node, control: &ServerControl) {
    let readiness = readiness(node);
    while readiness().is_err() {
        tokio::time::sleep(READY_POLL).await;
    }
    control.announce(true).await;
    tracing::info!("serving");
}

fn readiness(node: &Node) -> Readiness {
    let partitions = node.use_cases().partitions.clone();
    Arc::new(move || {
        let waiting: Vec<String> = partitions
            .handles()
            .iter()
            .filter(|handle| !handle.is_serving())
            .map(|handle| format!("partition {}: {}", handle.index(), handle.state()))
            .collect();
        if waiting.is_empty() { Ok(()) } else { Err(waiting.join("; ")) }
    })
}

type Ended = Option<Result<(&'static str, Result<(), ServerError>), tokio::task::JoinError>>;

/// A listener that ends by itself has failed.
fn unexpected_end(ended: Ended) -> AppError {
    let error = match ended {
        Some(Ok((_, Err(error)))) => error,
        Some(Ok((task, Ok(())))) => ServerError::Task { task, message: "without being told to".to_owned() },
        Some(Err(error)) => ServerError::Task { task: "server", message: error.to_string() },
        None => ServerError::Task { task: "server", message: "there are no tasks".to_owned() },
    };
    error.into()
}
