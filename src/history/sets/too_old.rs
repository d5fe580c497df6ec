//! What saved training sets say of rows that history keeps no more, since a view keeps rows only for so
//! long: noted before the rows go, by all sets that may have had them. A set is made of history whenever
//! it is pulled, so nothing of it changes here.

use std::sync::{Arc, PoisonError};

use hydrant_storage::history::RowsTooOld;
use hydrant_storage::names::{Name, TenantId};
use hydrant_storage::order::{Micros, none_counts_from};

use super::TrainingSets;
use super::saved::{SavedSet, SavedTable, TooOld};
use crate::error::Result;
use crate::registry::catalog::{Lookup, Snapshot};

impl TrainingSets {
    /// Notes in every saved set that may lose values what it loses; how many those are.
    pub async fn note_too_old(&self, rows: &RowsTooOld) -> Result<u64> {
        let mut persisted = self.inner.writer.lock().await;
        let (now, snapshot) = (self.now(), self.inner.registry.snapshot());
        let (next, changed) = self
            .inner
            .catalog
            .load_full()
            .with_too_old(|tenant, set| loses(&snapshot, tenant, set, rows).then(|| too_old(tenant, rows, now)));
        if changed > 0 {
            self.persist(&mut persisted, next).await?;
        }
        let mut going = self.inner.going.lock().unwrap_or_else(PoisonError::into_inner);
        going.retain(|known| !is_of_same_version(known, rows));
        going.push(rows.clone());
        Ok(changed)
    }

    /// Which sets of a tenant would lose values if rows of its own went, by name and version. Those of others that
    /// read them by a share are theirs to know.
    pub fn would_lose(&self, rows: &RowsTooOld) -> Vec<String> {
        let (catalog, snapshot) = (self.inner.catalog.load(), self.inner.registry.snapshot());
        let losing = catalog.of(&rows.tenant).filter(|set| loses(&snapshot, &rows.tenant, set, rows));
        losing.map(SavedSet::reference).collect()
    }

    /// Notes in a set that is about to be saved what has gone since it was begun, as far as it didn't find that
    /// out by itself. The writer is held.
    pub(super) fn note_what_went(&self, tenant: &Name, set: &mut SavedSet) {
        let snapshot = self.inner.registry.snapshot();
        let going = self.inner.going.lock().unwrap_or_else(PoisonError::into_inner);
        for rows in going.iter() {
            let is_known = |table: &SavedTable| {
                is_of_version(table, rows) && table.lacks_before.is_some_and(|lacks| lacks > rows.before)
            };
            if !set.tables.iter().any(is_known) && loses(&snapshot, tenant, set, rows) {
                set.too_old.push(too_old(tenant, rows, self.now()));
            }
        }
    }
}

fn is_of_same_version(one: &RowsTooOld, other: &RowsTooOld) -> bool {
    (&one.tenant, &one.view, one.version) == (&other.tenant, &other.view, other.version)
}

/// A table of another tenant's view is told with its owner; in sets that were saved before that, by the view's
/// name alone.
fn is_of_version(table: &SavedTable, rows: &RowsTooOld) -> bool {
    let of_owner = table.view.strip_prefix(rows.tenant.as_str()).and_then(|rest| rest.strip_prefix('/'));
    (of_owner.unwrap_or(&table.view), table.view_version) == (rows.view.as_str(), rows.version)
}

fn too_old(tenant: &Name, rows: &RowsTooOld, now: Micros) -> TooOld {
    let RowsTooOld { tenant: owner, view, version, before } = rows;
    let view = if tenant == owner { view.to_string() } else { format!("{owner}/{view}") };
    TooOld { view, view_version: *version, before: *before, at: now }
}

/// Whether a set may have had one of the rows: for an instant of its spine at which it counted, or to tell
/// that it had expired.
fn loses(snapshot: &Arc<Snapshot>, tenant: &Name, set: &SavedSet, rows: &RowsTooOld) -> bool {
    let owner = snapshot.tenant(&rows.tenant).map(|owner| owner.id);
    let selection = snapshot.tenant(tenant).and_then(|tenant| snapshot.select(tenant, &set.services, &[]));
    let Ok((owner, selection)) = owner.and_then(|owner: TenantId| Ok((owner, selection?))) else {
        // What it reads can't be found out, such as by a share that has ended and may be given again.
        return set.tables.iter().any(|table| is_of_version(table, rows));
    };
    let is_of_view = |lookup: &&Lookup| {
        lookup.view.tenant == owner && lookup.view.name == rows.view && lookup.view.version == rows.version
    };
    let counts = |lookup: &Lookup| {
        let until = none_counts_from(rows.before, lookup.ttl);
        set.with_status || set.with_event_time || set.first_time.is_none_or(|first| first < until)
    };
    selection.lookups.iter().filter(is_of_view).any(counts)
}
