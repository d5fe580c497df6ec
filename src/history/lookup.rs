//! Pinned online reads that the online store can't answer: a few keys, at an instant in the past.
//! It seeks, and reads only the row groups that may hold a key; it never walks a table.

use std::sync::Arc;
use std::time::Duration;

use arrow_array::{Array, ArrayRef};
use hydrant_storage::history::{HistoryError, MergedRuns, RowAt, SlotSet};
use hydrant_storage::keys::{SlotRange, slot_of};
use hydrant_storage::order::Micros;
use hydrant_storage::row::{OwnedRow, RowHeader, RowKind, RowLayout, RowPacker};

use super::failure::JoinError;
use super::service::{History, blocking};
use super::sources::{ViewRows, tails_where};
use crate::error::{Code, Error, Result};
use crate::registry::catalog::View;
use crate::tenancy::Permit;

impl History {
    /// For each key of the view the row that counted at `t`, as known then: the greatest one that
    /// is visible at `t`, be it a tombstone or expired by now. RESOURCE_EXHAUSTED where history
    /// answers as many such reads as it may.
    pub async fn rows_at(
        &self,
        permit: &Permit,
        view: &Arc<View>,
        keys: Vec<Vec<u8>>,
        t: Micros,
    ) -> Result<Vec<Option<OwnedRow>>> {
        if !view.offline {
            let message = format!("view '{}' keeps no history (offline: false), so the past can't be read", view.name);
            return Err(Error::new(Code::FailedPrecondition, "VIEW_WITHOUT_HISTORY", message).with("view", &view.name));
        }
        let place = self.inner.lookups.clone().try_acquire_owned().map_err(|_| {
            Error::new(Code::ResourceExhausted, "TOO_MANY_PINNED_READS", "too many reads of the past are under way")
                .retry_after(Duration::from_millis(50))
        })?;
        let metrics = self.inner.metrics.clone();
        metrics.lookups.add_for(permit.tenant(), 1);
        metrics.lookup_keys.add_for(permit.tenant(), keys.len() as u64);
        let slots: Vec<u16> = keys.iter().map(|key| slot_of(view.slot_seed, key)).collect();
        // A partition that holds none of the keys need not be open.
        let holds = |range: SlotRange| slots.iter().any(|slot| range.contains(*slot));
        let tails = tails_where(&self.inner.parts.partitions, holds)?;
        let rows = ViewRows::new(&self.inner.parts.tables, permit.tenant(), view, tails).await?;
        blocking(move || {
            let found = find_rows(&rows, &keys, t).inspect_err(|error| metrics.note_damage(error));
            drop(place);
            found
        })
        .await
    }
}

fn find_rows(rows: &ViewRows, keys: &[Vec<u8>], t: Micros) -> Result<Vec<Option<OwnedRow>>, JoinError> {
    let view = rows.view();
    let mut wanted: Vec<(u16, usize)> =
        keys.iter().enumerate().map(|(index, key)| (slot_of(view.slot_seed, key), index)).collect();
    wanted.sort_by(|a, b| (a.0, &keys[a.1]).cmp(&(b.0, &keys[b.1])));
    let slots: SlotSet = wanted.iter().map(|(slot, _)| *slot).collect();
    let all: Vec<usize> = (0..view.features.len()).collect();
    let mut merged = rows.open(&all, Some(&slots), None)?;

    let mut found: Vec<Option<OwnedRow>> = vec![None; keys.len()];
    let mut previous: Option<usize> = None;
    for (slot, index) in wanted {
        found[index] = match previous {
            // The cursor has passed it.
            Some(previous) if keys[previous] == keys[index] => found[previous].clone(),
            _ => match row_at(&mut merged, slot, &keys[index], t)? {
                Some(row) => Some(pack(&row, &view.layout)?),
                None => None,
            },
        };
        previous = Some(index);
    }
    Ok(found)
}

/// The greatest row of the key that is visible at `t`.
fn row_at(merged: &mut MergedRuns, slot: u16, key: &[u8], t: Micros) -> Result<Option<RowAt>, HistoryError> {
    merged.seek(slot, key)?;
    let mut greatest = None;
    while let Some(row) = merged.peek() {
        let version = row.version();
        if version.event_time > t || row.batch.compare_key(row.index, slot, key).is_ne() {
            break;
        }
        // Rows of a key ascend, so a later one that is visible is greater.
        if version.is_visible_at(t) {
            greatest = Some(row.clone());
        }
        merged.advance()?;
    }
    Ok(greatest)
}

/// The row as the online store would have it.
fn pack(row: &RowAt, layout: &RowLayout) -> Result<OwnedRow, JoinError> {
    let feature_count = row.feature_count();
    let kind = if row.deleted() { RowKind::Tombstone } else { RowKind::Full };
    let header = RowHeader {
        kind,
        version: row.version(),
        ingest_time: row.ingest_time(),
        revision: row.revision(),
        feature_count,
    };
    let mut body = Vec::new();
    if kind == RowKind::Full {
        // A row is packed with the features that it was written with.
        let known = usize::from(feature_count).min(layout.len());
        let written_with = RowLayout::new(&layout.types()[..known]);
        let cells = row.batch.features[..known].iter().map(|column| Some(column.slice(row.index, 1) as ArrayRef));
        let packed = RowPacker::new(&written_with, cells.collect()).and_then(|packer| packer.pack(0, &mut body));
        packed.map_err(|error| Error::internal(format!("a row of history doesn't fit its view: {error}")))?;
    }
    Ok(OwnedRow::new(header, body.into()))
}
