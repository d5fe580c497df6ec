//! What goes on beside requests because definitions ask for it: refills after a raised ttl, and new versions of
//! views. It wires the two to landing and to what brings history online.

use std::sync::Arc;

use async_trait::async_trait;
use hydrant_storage::history::HistoryTables;
use hydrant_storage::names::Name;

use crate::clock::StoreTime;
use crate::counter::Counter;
use crate::error::Result;
use crate::landing::Landing;
use crate::log::WriteLog;
use crate::materialize::Materialize;
use crate::partition::Partitions;
use crate::refill::{self, RefillParts, Refills};
use crate::registry::Registry;
use crate::registry::catalog::View;
use crate::versions::{self, BringsOnline, VersionParts, Versions};

/// What both are made with.
pub(super) struct BackgroundParts {
    pub registry: Registry,
    pub log: Arc<dyn WriteLog>,
    pub partitions: Partitions,
    pub tables: Arc<HistoryTables>,
    pub store_time: Arc<StoreTime>,
    pub landing: Landing,
    pub materialize: Materialize,
    pub file_bytes: u64,
}

#[derive(Debug)]
pub(super) struct Background {
    refills: Refills,
    versions: Versions,
}

impl Background {
    pub fn start(parts: BackgroundParts) -> Self {
        let BackgroundParts { registry, log, partitions, tables, store_time, landing, materialize, file_bytes } = parts;
        let lands = Arc::new(LandingLands(landing));
        let refills = Refills::start(RefillParts {
            registry: registry.clone(),
            log: log.clone(),
            partitions: partitions.clone(),
            tables: tables.clone(),
            store_time: store_time.clone(),
            lands: lands.clone(),
        });
        let online = Arc::new(MaterializeBrings(materialize));
        let versions = VersionParts { registry, log, partitions, tables, store_time, lands, online, file_bytes };
        Self { refills, versions: Versions::start(versions) }
    }

    pub fn counters(&self) -> Vec<Arc<Counter>> {
        [self.refills.metrics().counters(), self.versions.metrics().counters()].concat()
    }

    /// Stops what is under way, to go on at the next start.
    pub async fn shutdown(&self) {
        self.refills.shutdown().await;
        self.versions.shutdown().await;
    }
}

/// Has rows land, since both look for them in history.
#[derive(Debug)]
struct LandingLands(Landing);

#[async_trait]
impl refill::Lands for LandingLands {
    async fn land_now(&self) -> Result<()> {
        self.0.land_now().await.map(drop).map_err(|failed| failed.error)
    }
}

#[async_trait]
impl versions::Lands for LandingLands {
    async fn land_now(&self) -> Result<()> {
        self.0.land_now().await.map(drop).map_err(|failed| failed.error)
    }
}

/// Has the history of a version brought online.
#[derive(Debug)]
struct MaterializeBrings(Materialize);

#[async_trait]
impl BringsOnline for MaterializeBrings {
    async fn bring_online(&self, tenant: &Name, version: &Arc<View>) -> Result<()> {
        self.0.begin_version(tenant, version).await?.done().await.map(drop)
    }
}
