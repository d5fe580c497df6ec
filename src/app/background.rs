//! What goes on beside requests because definitions ask for it: refills after a raised ttl, and new versions of
//! views. It wires the two to landing and to what brings history online.

use std::sync::Arc;

use async_trait::async_trait;
use hydrant_storage::history::HistoryTables;
use hydrant_storage::names::Name;

use super::erasing::LandingLands;
use crate::clock::StoreTime;
use crate::counter::Counter;
use crate::error::Result;
use crate::log::WriteLog;
use crate::materialize::{Materialize, Told};
use crate::partition::Partitions;
use crate::refill::{RefillParts, Refills};
use crate::registry::Registry;
use crate::registry::catalog::View;
use crate::versions::{BringsOnline, VersionParts, Versions};

/// What both are made with.
pub(super) struct BackgroundParts {
    pub registry: Registry,
    pub log: Arc<dyn WriteLog>,
    pub partitions: Partitions,
    pub tables: Arc<HistoryTables>,
    pub store_time: Arc<StoreTime>,
    pub lands: Arc<LandingLands>,
    pub bringing_online: Arc<tokio::sync::RwLock<()>>,
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
        let BackgroundParts { registry, log, partitions, tables, store_time, lands, .. } = parts;
        let BackgroundParts { bringing_online, materialize, file_bytes, .. } = parts;
        let refills = Refills::start(RefillParts {
            registry: registry.clone(),
            log: log.clone(),
            partitions: partitions.clone(),
            tables: tables.clone(),
            store_time: store_time.clone(),
            lands: lands.clone(),
            bringing_online: bringing_online.clone(),
        });
        let online = Arc::new(MaterializeBrings(materialize));
        let versions =
            VersionParts { registry, log, partitions, tables, store_time, lands, bringing_online, online, file_bytes };
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

/// Has the history of a version brought online.
#[derive(Debug)]
struct MaterializeBrings(Materialize);

#[async_trait]
impl BringsOnline for MaterializeBrings {
    async fn bring_online(
        &self,
        tenant: &Name,
        version: &Arc<View>,
        told: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> Result<()> {
        let mut materializing = self.0.begin_version(tenant, version).await?;
        loop {
            match materializing.next().await {
                Told::Progress(progress) => told(progress.rows, progress.total_rows),
                Told::Done(outcome) => return outcome.map(drop),
            }
        }
    }
}
