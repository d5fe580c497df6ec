//! Pinned online reads that the online store can't answer: a few keys, at an instant in the past.
//! It seeks, in the tails and then in one run of files after the other, and reads only what may hold a
//! key; it never walks a table or a tail, and never has more than one file open.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hydrant_storage::history::{HistoryError, MergedRuns, RowAt, SlotSet, Sought, SoughtKeys};
use hydrant_storage::keys::{SlotRange, slot_of};
use hydrant_storage::order::Micros;
use hydrant_storage::row::OwnedRow;
use tokio::sync::OwnedSemaphorePermit;

use super::failure::JoinError;
use super::service::History;
use super::sources::{ViewRows, tails_where};
use super::work::{Stop, Stoppable, blocking};
use crate::error::{Code, Error, Result};
use crate::registry::catalog::View;
use crate::tenancy::Permit;

/// After so many rows of a key it is asked whether somebody still waits.
const ROWS_BETWEEN_LOOKS: u32 = 1_024;

/// A key that is looked for, and the greatest row found so far.
struct Wanted<'a> {
    slot: u16,
    key: &'a [u8],
    found: Option<OwnedRow>,
}

impl History {
    /// For each key of the view the row that counted at `t`, as known then: the greatest one that
    /// is visible at `t`, be it a tombstone or expired by now. RESOURCE_EXHAUSTED where history
    /// answers as many such reads as it may. Dropping the future ends the read.
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
        let place = self.take_place()?;
        let metrics = self.inner.metrics.clone();
        metrics.lookups.add_for(permit.tenant(), 1);
        metrics.lookup_keys.add_for(permit.tenant(), keys.len() as u64);
        let slots: Vec<u16> = keys.iter().map(|key| slot_of(view.slot_seed, key)).collect();
        // A partition that holds none of the keys need not be open.
        let holds = |range: SlotRange| slots.iter().any(|slot| range.contains(*slot));
        let parts = &self.inner.parts;
        let tails = tails_where(&parts.partitions, holds)?;
        let rows = ViewRows::new(&parts.tables, &parts.snapshots.load(), view, tails).await?;
        blocking(move |stop| {
            let found = find_rows(&rows, &keys, t, stop).inspect_err(|error| metrics.note_damage(error));
            drop(place);
            found
        })
        .await
    }
}

impl History {
    /// A place among the reads of the past, held as long as one is under way.
    pub(super) fn take_place(&self) -> Result<OwnedSemaphorePermit> {
        self.inner.lookups.clone().try_acquire_owned().map_err(|_| {
            Error::new(Code::ResourceExhausted, "TOO_MANY_PINNED_READS", "too many reads of the past are under way")
                .retry_after(Duration::from_millis(50))
        })
    }
}

fn find_rows(rows: &ViewRows, keys: &[Vec<u8>], t: Micros, stop: &Stop) -> Result<Vec<Option<OwnedRow>>, JoinError> {
    let view = rows.view();
    let mut order: Vec<(u16, &[u8], usize)> =
        keys.iter().enumerate().map(|(index, key)| (slot_of(view.slot_seed, key), key.as_slice(), index)).collect();
    order.sort_unstable();
    let mut wanted: Vec<Wanted<'_>> = Vec::with_capacity(keys.len());
    let mut place_of = vec![0; keys.len()];
    for (slot, key, index) in order {
        if wanted.last().is_none_or(|last| last.key != key) {
            wanted.push(Wanted { slot, key, found: None });
        }
        place_of[index] = wanted.len() - 1;
    }

    // Of older rows some are gone, and which those are says nothing.
    let kept_from = rows.table().retained_from.unwrap_or(Micros::MIN);
    find_in_tails(rows, &mut wanted, t, stop)?;
    wanted.iter_mut().for_each(|wanted| {
        wanted.found.take_if(|row| row.header().version.event_time < kept_from);
    });
    let slots: SlotSet = wanted.iter().map(|wanted| wanted.slot).collect();
    let mut keys = SoughtKeys::default();
    wanted.iter().for_each(|wanted| keys.push(wanted.slot, wanted.key, t));
    let sought =
        Arc::new(Sought { slots: Some(slots.clone()), until: Some(t), cutoff: None, keys: Some(Arc::new(keys)) });
    let all: Vec<usize> = (0..view.features.len()).collect();
    for chain in rows.table().chains_with(Some(&slots), None) {
        stop.check()?;
        let run = rows.table().open_chain_for(&chain, &all, &sought)?;
        let mut cursor = MergedRuns::new(vec![Box::new(Stoppable::new(run, stop))], None)?;
        for wanted in &mut wanted {
            let Some(row) = row_at(&mut cursor, wanted, t, stop)? else { continue };
            if row.version().event_time < kept_from {
                continue;
            }
            if wanted.is_less_than(&row) {
                wanted.found = Some(row.pack(&view.layout)?);
            }
        }
    }
    Ok(place_of.into_iter().map(|place| wanted[place].found.clone()).collect())
}

/// Of the rows that have not landed.
fn find_in_tails(rows: &ViewRows, wanted: &mut [Wanted<'_>], t: Micros, stop: &Stop) -> Result<(), JoinError> {
    for mut tail in rows.key_tails() {
        let range = tail.range();
        for wanted in wanted.iter_mut().filter(|wanted| range.contains(wanted.slot)) {
            stop.check()?;
            tail.seek_key(wanted.slot, wanted.key);
            let mut looked_at = 0u32;
            while let Some(row) = tail.advance().map_err(|error| HistoryError::Tail(error.into()))? {
                looked_at = looked_at.wrapping_add(1);
                if looked_at.is_multiple_of(ROWS_BETWEEN_LOOKS) {
                    stop.check()?;
                }
                let header = row.row.header();
                if header.version.event_time > t {
                    break;
                }
                // Rows of a key ascend, so a later one that is visible is greater.
                if header.version.is_visible_at(t) {
                    wanted.found = Some(OwnedRow::new(*header, Bytes::copy_from_slice(row.row.body())));
                }
            }
        }
    }
    Ok(())
}

/// The greatest row of the key in a run that is visible at `t`.
fn row_at(cursor: &mut MergedRuns, wanted: &Wanted<'_>, t: Micros, stop: &Stop) -> Result<Option<RowAt>, JoinError> {
    cursor.seek(wanted.slot, wanted.key)?;
    let (mut greatest, mut looked_at) = (None, 0u32);
    while let Some(row) = cursor.peek() {
        looked_at = looked_at.wrapping_add(1);
        if looked_at.is_multiple_of(ROWS_BETWEEN_LOOKS) {
            stop.check()?;
        }
        let version = row.version();
        if version.event_time > t || row.batch.compare_key(row.index, wanted.slot, wanted.key).is_ne() {
            break;
        }
        if version.is_visible_at(t) {
            greatest = Some(row.clone());
        }
        cursor.advance()?;
    }
    Ok(greatest)
}

impl Wanted<'_> {
    fn is_less_than(&self, row: &RowAt) -> bool {
        self.found.as_ref().is_none_or(|found| found.header().version < row.version())
    }
}
