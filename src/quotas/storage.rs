//! What is stored of each tenant: the files of its history tables, its stored spines, and its share of the
//! online store, which is estimated. The log is not counted: it is one for all, and trimmed. Nothing here
//! reads a row's values.

use std::collections::BTreeMap;
use std::sync::Arc;

use hydrant_storage::history::HistoryTables;
use hydrant_storage::names::{Name, TenantId};
use hydrant_storage::threads::{Work, standing_back};

use super::SpineBytes;
use crate::partition::Partitions;
use crate::registry::catalog::Snapshot;

/// Places of each partition at which rows are looked at, where there are several tenants.
const PLACES: u32 = 64;
/// Rows looked at from each place on.
const ROWS: usize = 16;

#[derive(Debug)]
pub struct StorageMeter {
    pub tables: Arc<HistoryTables>,
    pub partitions: Partitions,
    pub spines: Arc<dyn SpineBytes>,
}

impl StorageMeter {
    /// Bytes by tenant. Blocks: it may read some rows from the disk.
    pub fn measure(&self, snapshot: &Snapshot) -> BTreeMap<Name, u64> {
        let mut stored: BTreeMap<Name, u64> = BTreeMap::new();
        for table in self.tables.opened() {
            let table = table.snapshot();
            let bytes: u64 = table.files.iter().map(|file| file.bytes).sum();
            *stored.entry(table.spec().tenant.clone()).or_default() += bytes;
        }
        for tenant in snapshot.tenants.keys() {
            *stored.entry(tenant.clone()).or_default() += self.spines.of(tenant);
        }
        let online: u64 = self
            .partitions
            .handles()
            .iter()
            .map(|handle| handle.tail_bytes() + handle.view().map_or(0, |view| view.online_bytes()))
            .sum();
        for (tenant, share) in self.shares(snapshot) {
            // Whole numbers: a share is of the sampled bytes.
            let (part, whole) = share;
            let bytes = u128::from(online) * u128::from(part) / u128::from(whole.max(1));
            *stored.entry(tenant).or_default() += u64::try_from(bytes).unwrap_or(u64::MAX);
        }
        stored
    }

    /// Of how much of the online store rows are a tenant's, by a sample; a single tenant has all of it.
    fn shares(&self, snapshot: &Snapshot) -> Vec<(Name, (u64, u64))> {
        if let [only] = snapshot.tenants.keys().collect::<Vec<_>>().as_slice() {
            return vec![((*only).clone(), (1, 1))];
        }
        let sampled = match standing_back(Work::Upkeep, || self.sample()) {
            Ok(sampled) => sampled,
            Err(error) => {
                tracing::warn!(%error, "whose the rows of the online store are could not be looked at");
                return Vec::new();
            }
        };
        let whole = sampled.values().sum();
        let share = |(name, id): (&Name, TenantId)| (name.clone(), (sampled.get(&id).copied().unwrap_or(0), whole));
        snapshot.tenants.iter().map(|(name, tenant)| share((name, tenant.id))).collect()
    }

    fn sample(&self) -> BTreeMap<TenantId, u64> {
        let mut all: BTreeMap<TenantId, u64> = BTreeMap::new();
        for handle in self.partitions.handles() {
            // What is closed is looked at another time.
            let Ok(view) = handle.view() else { continue };
            let (first, last) = (u32::from(handle.range().first), u32::from(handle.range().last));
            let step = ((last - first) / PLACES).max(1);
            let slots: Vec<u16> =
                (first..=last).step_by(step as usize).filter_map(|slot| u16::try_from(slot).ok()).collect();
            match view.sample(&slots, ROWS) {
                Ok(found) => found.into_iter().for_each(|(tenant, bytes)| *all.entry(tenant).or_default() += bytes),
                Err(error) => tracing::warn!(partition = handle.index(), %error, "a partition could not be sampled"),
            }
        }
        all
    }
}
