//! What is told of runs, and by whom: nothing without an address. It tells and decides nothing itself.

use std::path::Path;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::{AppError, opening, refused};
use crate::clock::StoreTime;
use crate::cluster::MetadataStore;
use crate::config::{Config, OpenLineageConfig};
use crate::openlineage::{OpenLineage, OpenLineageOptions, OpenLineageParts};
use crate::registry::SnapshotReader;
use crate::rpc::openlineage::EventSender;
use crate::runs::Watcher;

const PART: &str = "events of lineage";

/// Has events kept and sent, until it is dropped.
#[derive(Debug)]
pub(super) struct LineageWatch {
    told: Option<OpenLineage>,
    tasks: JoinSet<()>,
}

impl LineageWatch {
    pub async fn start(
        config: &Config,
        metadata: Arc<dyn MetadataStore>,
        snapshots: SnapshotReader,
        store_time: Arc<StoreTime>,
    ) -> Result<Self, AppError> {
        let OpenLineageConfig { url, namespace, timeout, max_queued, max_bytes, .. } = &config.openlineage;
        if url.is_empty() {
            return Ok(Self { told: None, tasks: JoinSet::new() });
        }
        let named = |path: &'_ Path| Some(path.to_owned()).filter(|path| !path.as_os_str().is_empty());
        let (key, ca) = (named(&config.openlineage.api_key_file), named(&config.openlineage.ca));
        let sender = EventSender::open(url, key.as_deref(), ca.as_deref(), timeout.duration());
        let sender = Arc::new(sender.map_err(|error| refused(PART, error))?);
        let parts = OpenLineageParts { snapshots, store_time, metadata, sender };
        let options = OpenLineageOptions {
            url: url.clone(),
            namespace: namespace.clone(),
            max_queued: *max_queued,
            max_bytes: max_bytes.0,
            ingest_interval: i64::try_from(config.openlineage.ingest_interval.duration().as_micros())
                .unwrap_or(i64::MAX),
        };
        let told = OpenLineage::open(parts, options).await.map_err(opening(PART))?;
        let tasks = JoinSet::from_iter(told.tasks());
        Ok(Self { told: Some(told), tasks })
    }

    /// For those who work.
    pub fn watcher(&self) -> Watcher {
        self.told.clone().map(|told| Arc::new(told) as _)
    }

    pub fn told(&self) -> Option<&OpenLineage> {
        self.told.as_ref()
    }

    /// To be called once all work has ended.
    pub async fn end(mut self) {
        self.tasks.shutdown().await;
        if let Some(told) = &self.told
            && let Err(error) = told.save().await
        {
            tracing::warn!(%error, "the last events of lineage were not kept");
        }
    }
}
