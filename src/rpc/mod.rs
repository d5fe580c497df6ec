//! Everything that knows a transport: gRPC, Arrow Flight and HTTP in front of the use cases, and the
//! client of all of them. Handlers decode, call one use case and encode; they decide nothing, and
//! spawn nothing, so that a client that hangs up ends the work.

pub mod backfill;
pub mod backup;
mod caller;
pub mod catalog;
pub mod client;
pub mod codec;
mod connections;
mod door;
pub mod flight;
pub mod history;
pub mod http;
pub mod ingest;
pub mod layers;
pub mod lineage;
pub mod online;
pub mod registry;
pub mod server;
pub mod status;
pub mod tls;
pub mod training;
pub mod wire;

use std::sync::Arc;

/// The messages, for callers of the client.
pub use hydrant_proto::v1;

use crate::backfill::Backfills;
use crate::backup::Backups;
use crate::clock::StoreTime;
use crate::error::Result;
use crate::history::History;
use crate::history::sets::TrainingSets;
use crate::ingest::Ingest;
use crate::materialize::Materialize;
use crate::partition::Partitions;
use crate::registry::Registry;
use crate::serving::Serving;
use crate::tenancy::{Action, Demand, Permit, Tenancy};

pub use self::caller::Caller;

/// What stands behind the handlers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct UseCases {
    pub tenancy: Arc<Tenancy>,
    pub registry: Registry,
    pub ingest: Ingest,
    pub serving: Serving,
    pub history: History,
    pub training_sets: TrainingSets,
    pub backfills: Backfills,
    pub materialize: Materialize,
    pub backups: Backups,
    pub partitions: Partitions,
    pub store_time: Arc<StoreTime>,
}

impl UseCases {
    /// Lets the caller do `action`.
    fn permit(&self, caller: &Caller, action: Action) -> Result<Permit> {
        self.tenancy.authorize(&caller.identity, action)
    }

    /// As [`Self::permit`], when it is the request's turn.
    async fn admit(&self, caller: &Caller, action: Action, demand: Demand) -> Result<Permit> {
        self.tenancy.admit(&caller.identity, action, demand).await
    }
}
