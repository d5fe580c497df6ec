//! Everything that knows a transport: gRPC, Arrow Flight and HTTP in front of the use cases, and the
//! client of all of them. Handlers decode, call one use case and encode; they decide nothing, and
//! spawn nothing, so that a client that hangs up ends the work.

pub mod access;
pub mod audit;
pub mod backfill;
pub mod backup;
mod caller;
pub mod catalog;
pub mod client;
pub mod codec;
mod connections;
mod corked;
mod door;
pub mod erasure;
pub mod flight;
pub mod freshness;
pub mod history;
pub mod http;
pub mod ingest;
pub mod layers;
pub mod lineage;
pub mod oidc;
pub mod online;
pub mod openlineage;
pub mod quota;
mod reading;
mod reads;
pub mod registry;
mod retention;
pub mod server;
pub mod sharing;
pub mod status;
mod tenants;
pub mod tls;
mod trail;
pub mod training;
mod transport;
mod unary;
pub mod usage;
pub mod webhook;
pub mod wire;

use std::sync::Arc;

/// The messages, for callers of the client.
pub use hydrant_proto::v1;

use crate::access::Access;
use crate::audit::Audit;
use crate::backfill::Backfills;
use crate::backup::Backups;
use crate::clock::StoreTime;
use crate::erasure::Erasures;
use crate::error::Result;
use crate::freshness::Freshness;
use crate::history::History;
use crate::history::sets::TrainingSets;
use crate::ingest::Ingest;
use crate::materialize::Materialize;
use crate::partition::Partitions;
use crate::quotas::Quotas;
use crate::registry::Registry;
use crate::serving::Serving;
use crate::tenancy::{Action, Demand, Permit, Tenancy};
use crate::usage::Usages;

pub use self::caller::Caller;

/// What stands behind the handlers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct UseCases {
    pub tenancy: Arc<Tenancy>,
    pub access: Access,
    pub registry: Registry,
    pub ingest: Ingest,
    pub serving: Serving,
    pub history: History,
    pub training_sets: TrainingSets,
    pub backfills: Backfills,
    pub materialize: Materialize,
    pub backups: Backups,
    pub quotas: Quotas,
    pub erasures: Erasures,
    pub audit: Audit,
    pub freshness: Freshness,
    pub usage: Usages,
    pub partitions: Partitions,
    pub store_time: Arc<StoreTime>,
}

impl UseCases {
    /// Lets the caller do `action`, which changes nothing: for what does see [`Self::change`].
    fn permit(&self, caller: &Caller, action: Action) -> Result<Permit> {
        caller.trail.check()?;
        self.let_do(caller, action)
    }

    /// As [`Self::permit`], when it is the request's turn.
    async fn admit(&self, caller: &Caller, action: Action, demand: Demand) -> Result<Permit> {
        caller.trail.check()?;
        self.line_up(caller, action, demand).await
    }
}
