//! How compaction, which takes rows out of history that are too old, has saved training sets say so; and what
//! is gone already at the start.

use std::collections::HashMap;
use std::path::PathBuf;

use async_trait::async_trait;
use hydrant_storage::history::HistoryTables;
use hydrant_storage::order::Micros;

use crate::compaction::{NotesLosses, RowsTooOld};
use crate::error::Result;
use crate::history::sets::TrainingSets;
use crate::registry::SnapshotReader;

#[derive(Debug)]
pub(super) struct SetsWithRowsTooOld(pub TrainingSets);

#[async_trait]
impl NotesLosses for SetsWithRowsTooOld {
    async fn note(&self, rows: &RowsTooOld) -> Result<()> {
        self.0.note_too_old(rows).await.map(drop)
    }
}

/// Has whoever answers know which rows are gone, as the tables that are open tell.
pub(super) fn note_gone(snapshots: &SnapshotReader, tables: &HistoryTables) {
    let of_table = tables.opened().into_iter().filter_map(|table| {
        let snapshot = table.snapshot();
        Some((snapshot.spec().directory(), snapshot.retained_from?))
    });
    let before: HashMap<PathBuf, Micros> = of_table.collect();
    let snapshot = snapshots.load();
    for (version, spec) in snapshot.tenants.values().flat_map(|tenant| tenant.history_tables()) {
        if let Some(before) = before.get(&spec.directory()) {
            snapshots.gone().note(version, *before);
        }
    }
}
