//! How erasures reach what they know nothing of: landing (as refills do), staged backfills, stored spines
//! and backups.

use std::sync::Arc;

use async_trait::async_trait;
use hydrant_storage::names::{Name, ViewId};

use crate::backfill::Backfills;
use crate::backup::Backups;
use crate::clock::StoreTime;
use crate::erasure::{GivesUpStaged, KeepsSpines, KeyColumns, ListsBackups, SpineRows};
use crate::error::Result;
use crate::history::sets::{ErasedFromSets, SpineKey, TrainingSets};
use crate::landing::Landing;
use crate::lands::Lands;

/// Lets refills, new versions of views and erasures have rows land: they look for them in history.
#[derive(Debug)]
pub(super) struct LandingLands(pub Landing);

#[async_trait]
impl Lands for LandingLands {
    async fn land_now(&self) -> Result<()> {
        self.0.land_now().await.map(drop).map_err(|failed| failed.error)
    }
}

#[derive(Debug)]
pub(super) struct StagedBackfills(pub Backfills);

#[async_trait]
impl GivesUpStaged for StagedBackfills {
    async fn give_up(&self, views: &[ViewId]) -> Result<(Box<dyn Send>, u64)> {
        let (place, removed) = self.0.give_up(views).await?;
        Ok((Box::new(place), removed))
    }
}

#[derive(Debug)]
pub(super) struct KeptSpines(pub TrainingSets, pub Arc<StoreTime>);

#[async_trait]
impl KeepsSpines for KeptSpines {
    async fn count(&self, tenant: &Name, keys: Vec<KeyColumns>) -> Result<SpineRows> {
        self.0.count_erasable(tenant, spine_keys(keys)).await.map(spine_rows)
    }

    async fn erase(&self, tenant: &Name, keys: Vec<KeyColumns>, erasure: u64) -> Result<SpineRows> {
        let now = self.1.read();
        self.0.erase(tenant, spine_keys(keys), &erasure.to_string(), now).await.map(spine_rows)
    }
}

#[derive(Debug)]
pub(super) struct BackupsMade(pub Backups);

#[async_trait]
impl ListsBackups for BackupsMade {
    async fn names(&self) -> Result<Vec<Name>> {
        self.0.names().await
    }
}

fn spine_keys(keys: Vec<KeyColumns>) -> Vec<SpineKey> {
    keys.into_iter()
        .map(|KeyColumns { entity, columns, types, key }| SpineKey { entity, columns, types, key })
        .collect()
}

fn spine_rows(erased: ErasedFromSets) -> SpineRows {
    let ErasedFromSets { rows, spines, sets } = erased;
    SpineRows { rows, spines, training_sets: sets }
}
