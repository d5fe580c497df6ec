//! Finds the rows of a request: takes the views of the partitions it touches, then one instant, and
//! reads each distinct key once. Rows in memory are read on the calling thread; the others move to
//! the blocking pool, bounded and counted. What does not answer in time is NOT_READY, never waited
//! for beyond the request's limits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use futures::future::{join_all, try_join_all};
use hydrant_storage::keys::OnlineKey;
use hydrant_storage::names::{TenantId, ViewId};
use hydrant_storage::order::Micros;
use hydrant_storage::partition::{Lookup, ReadMode, ReadView};
use hydrant_storage::row::OwnedRow;

use super::keys::{RequestKeys, ViewKeys};
use super::pinned::needs_history;
use super::{OnlineRequest, Serving, ViewProvenance};
use crate::clock::rfc3339;
use crate::error::{Code, Error, Result};
use crate::partition::PartitionError;
use crate::tenancy::Permit;

/// How often a read takes its views anew because rows fell due meanwhile.
const MAX_PROMOTIONS: usize = 8;

/// When a request's waits end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Past it the call fails.
    pub deadline: Instant,
    /// Past it what is missing is NOT_READY.
    pub budget_end: Option<Instant>,
}

/// What was found for a request's keys.
#[derive(Debug)]
pub(super) struct RowsRead {
    pub t: Micros,
    /// Per view of the request's keys, per key.
    pub rows: Vec<Vec<Found>>,
    pub views: Vec<ViewProvenance>,
    pub from_history: usize,
    /// Why the first partition that did not answer did not.
    pub not_ready: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) enum Found {
    Row(OwnedRow),
    Absent,
    Damaged,
    NotReady,
}

/// The keys that one partition holds: (view, key), as indices.
type PartitionKeys = BTreeMap<usize, Vec<(usize, usize)>>;

/// The state of a read under way.
struct Reading {
    keys_of: PartitionKeys,
    /// Of the partitions that answer.
    views: BTreeMap<usize, Arc<ReadView>>,
    failed: BTreeMap<usize, String>,
}

/// A key that was not in memory, on its way to another thread.
struct Miss {
    place: (usize, usize),
    slot: u16,
    tenant: TenantId,
    view: ViewId,
    key: Vec<u8>,
}

impl Limits {
    fn wait_until(self) -> Instant {
        self.budget_end.map_or(self.deadline, |end| end.min(self.deadline))
    }

    /// After a wait that has run out: an error past the deadline, and nothing past the budget only.
    fn check(self, what: &str) -> Result<()> {
        if Instant::now() < self.deadline {
            return Ok(());
        }
        Err(Error::new(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", format!("the deadline passed while {what}")))
    }
}

impl Serving {
    pub(super) async fn read(
        &self,
        permit: &Permit,
        request: &OnlineRequest,
        keys: &RequestKeys,
        limits: Limits,
    ) -> Result<RowsRead> {
        limits.check("the request arrived")?;
        let mut reading = self.plan(keys);
        if let Some(frame) = request.at_least {
            self.wait_applied(frame, &mut reading, limits).await?;
        }
        let t = self.take_views(request.at, &mut reading, limits).await?;
        let mut rows = self.look_up(keys, &mut reading, limits).await?;
        let mut from_history = 0;
        if request.at.is_some() {
            from_history = self.ask_history(permit, keys, &mut rows, t, limits).await?;
        }
        let not_ready = rows.iter().flatten().filter(|found| matches!(found, Found::NotReady)).count();
        self.metrics.not_ready_keys.add_for(permit.tenant(), not_ready as u64);
        let views = Self::provenance(keys, &reading);
        Ok(RowsRead { t, rows, views, from_history, not_ready: reading.failed.into_values().next() })
    }

    fn plan(&self, keys: &RequestKeys) -> Reading {
        let mut keys_of = PartitionKeys::new();
        for (view, of_view) in keys.views.iter().enumerate() {
            for (key, entity_key) in of_view.keys.iter().enumerate() {
                let partition = self.partitions.of_slot(entity_key.slot).index();
                keys_of.entry(partition).or_default().push((view, key));
            }
        }
        Reading { keys_of, views: BTreeMap::new(), failed: BTreeMap::new() }
    }

    async fn wait_applied(&self, frame: u64, reading: &mut Reading, limits: Limits) -> Result<()> {
        let durable = self.partitions.durable_frame();
        if frame > durable {
            let message = "the position in `at_least` was never acknowledged by this store";
            return Err(Error::invalid("POSITION_UNKNOWN", message).hint("take positions from this store's answers"));
        }
        let touched: Vec<usize> = reading.keys_of.keys().copied().collect();
        let waits = touched
            .iter()
            .map(|partition| self.partitions.handles()[*partition].wait_applied(frame, limits.wait_until()));
        let waited = join_all(waits).await;
        for (partition, waited) in touched.into_iter().zip(waited) {
            reading.note(partition, waited, "waiting until the position could be read", limits)?;
        }
        Ok(())
    }

    /// Takes the views of all partitions touched, then the instant of the read, so that every row
    /// due at it is in them.
    async fn take_views(&self, at: Option<Micros>, reading: &mut Reading, limits: Limits) -> Result<Micros> {
        if let Some(at) = at {
            let now = self.store_time.read();
            if at > now {
                let (shown, now_shown) = (rfc3339(at), rfc3339(now));
                let message = format!("the instant {shown} of the read has not come: store time is {now_shown}");
                return Err(Error::invalid("AT_IN_FUTURE", message).with("at", at).with("store_time", now));
            }
        }
        for _ in 0..MAX_PROMOTIONS {
            reading.views.clear();
            let touched = reading.keys_of.keys().filter(|partition| !reading.failed.contains_key(partition));
            for partition in touched.copied().collect::<Vec<_>>() {
                match self.partitions.handles()[partition].view() {
                    Ok(view) => drop(reading.views.insert(partition, view)),
                    Err(error) => reading.note(partition, Err(error), "taking its view", limits)?,
                }
            }
            let t = at.unwrap_or_else(|| self.store_time.read());
            let is_due = |view: &ReadView| view.next_due().is_some_and(|due| due <= t);
            let due: Vec<usize> =
                reading.views.iter().filter(|(_, view)| is_due(view)).map(|(partition, _)| *partition).collect();
            if due.is_empty() {
                return Ok(t);
            }
            self.metrics.promotions_awaited.add(1);
            let promotions =
                due.iter().map(|partition| self.partitions.handles()[*partition].promote(t, limits.wait_until()));
            let promoted = join_all(promotions).await;
            for (partition, promoted) in due.into_iter().zip(promoted) {
                reading.note(partition, promoted, "waiting until due rows could be read", limits)?;
            }
        }
        let message = "rows fall due faster than they can be made readable";
        Err(Error::new(Code::Unavailable, "ROWS_FALLING_DUE", message)
            .retry_after(std::time::Duration::from_millis(20)))
    }

    async fn look_up(&self, keys: &RequestKeys, reading: &mut Reading, limits: Limits) -> Result<Vec<Vec<Found>>> {
        let mut rows: Vec<Vec<Found>> = keys.views.iter().map(|view| vec![Found::NotReady; view.keys.len()]).collect();
        let mut missed = Vec::new();
        for (partition, view) in &reading.views {
            let places = &reading.keys_of[partition];
            self.metrics.keys_read.add(places.len() as u64);
            let online: Vec<OnlineKey<'_>> =
                places.iter().map(|(of_view, key)| online_key(&keys.views[*of_view], *key)).collect();
            let mut misses = Vec::new();
            for (place, found) in places.iter().zip(view.lookup(&online, ReadMode::CachedOnly)) {
                match self.found(found) {
                    Some(found) => rows[place.0][place.1] = found,
                    None => misses.push(Miss::new(*place, &keys.views[place.0])),
                }
            }
            if !misses.is_empty() {
                missed.push((*partition, view.clone(), misses));
            }
        }
        if missed.is_empty() {
            return Ok(rows);
        }
        let reads = missed.into_iter().map(|(partition, view, misses)| self.read_misses(partition, view, misses));
        let until = limits.wait_until();
        match tokio::time::timeout_at(until.into(), try_join_all(reads)).await {
            Ok(read) => {
                for ((of_view, key), found) in read?.into_iter().flatten() {
                    rows[of_view][key] = found;
                }
            }
            Err(_) => {
                limits.check("reading rows that were not in memory")?;
                let reason = "rows that were not in memory did not arrive within the latency budget";
                reading.failed.insert(usize::MAX, reason.to_owned());
            }
        }
        Ok(rows)
    }

    /// Reads keys that may have to come from disk, away from the calling thread.
    async fn read_misses(
        &self,
        partition: usize,
        view: Arc<ReadView>,
        misses: Vec<Miss>,
    ) -> Result<Vec<((usize, usize), Found)>> {
        self.metrics.keys_not_cached.add(misses.len() as u64);
        let ended = || Error::internal(format!("a read of partition {partition} ended early"));
        let place = self.blocking.clone().acquire_owned().await.map_err(|_| ended())?;
        let reading = tokio::task::spawn_blocking(move || {
            let online: Vec<OnlineKey<'_>> = misses.iter().map(Miss::online_key).collect();
            let found = view.lookup(&online, ReadMode::MayBlock);
            drop(place);
            let places: Vec<(usize, usize)> = misses.iter().map(|miss| miss.place).collect();
            (places, found)
        });
        let (places, found) = reading.await.map_err(|_| ended())?;
        let found = found.into_iter().map(|found| self.found(found).unwrap_or(Found::NotReady));
        Ok(places.into_iter().zip(found).collect())
    }

    /// `None` where the row is not in memory.
    fn found(&self, lookup: Lookup) -> Option<Found> {
        match lookup {
            Lookup::Row(row) => Some(Found::Row(row)),
            Lookup::Absent => Some(Found::Absent),
            Lookup::Damaged => {
                self.metrics.damaged_rows.add(1);
                Some(Found::Damaged)
            }
            Lookup::Unreadable(error) => {
                tracing::error!(%error, "a row could not be read; it is answered NOT_READY");
                Some(Found::NotReady)
            }
            Lookup::NotCached => None,
        }
    }

    /// Replaces online rows that can't answer at `t` by history's; how many keys it answered.
    async fn ask_history(
        &self,
        permit: &Permit,
        keys: &RequestKeys,
        rows: &mut [Vec<Found>],
        t: Micros,
        limits: Limits,
    ) -> Result<usize> {
        let mut answered = 0;
        for (of_view, found) in keys.views.iter().zip(rows) {
            let unanswered = |found: &Found| match found {
                Found::Row(row) => needs_history(row, t, of_view.longest_ttl),
                _ => false,
            };
            let wanted: Vec<usize> = (0..found.len()).filter(|key| unanswered(&found[*key])).collect();
            if wanted.is_empty() {
                continue;
            }
            let mut answers = self.ask_together(permit, of_view, &wanted, t, limits).await?;
            // Something of what was read is damaged: which keys it belongs to shows one by one.
            if answers.is_none() && wanted.len() > 1 {
                let mut each = Vec::with_capacity(wanted.len());
                for key in &wanted {
                    let answer = self.ask_together(permit, of_view, &[*key], t, limits).await?;
                    each.push(answer.and_then(|mut answer| answer.pop()).unwrap_or(Found::Damaged));
                }
                answers = Some(each);
            }
            let answers = answers.unwrap_or_else(|| vec![Found::Damaged; wanted.len()]);
            for (key, answer) in wanted.into_iter().zip(answers) {
                match answer {
                    Found::Row(_) | Found::Absent => answered += 1,
                    Found::Damaged => self.metrics.damaged_rows.add(1),
                    Found::NotReady => {}
                }
                found[key] = answer;
            }
        }
        self.metrics.keys_from_history.add_for(permit.tenant(), answered as u64);
        Ok(answered)
    }

    /// What history answers for keys of one view; `None` where it met damage.
    async fn ask_together(
        &self,
        permit: &Permit,
        of_view: &ViewKeys,
        wanted: &[usize],
        t: Micros,
        limits: Limits,
    ) -> Result<Option<Vec<Found>>> {
        let bytes = wanted.iter().map(|key| of_view.keys[*key].bytes.clone()).collect();
        let answer = self.history.rows_at(permit, &of_view.view, bytes, t);
        let Ok(answered) = tokio::time::timeout_at(limits.wait_until().into(), answer).await else {
            limits.check("history was read")?;
            return Ok(Some(vec![Found::NotReady; wanted.len()]));
        };
        let answered = match answered {
            Ok(answered) => answered,
            Err(error) if error.code == Code::DataLoss => {
                tracing::error!(view = %of_view.view.name, keys = wanted.len(), %error, "history is damaged");
                return Ok(None);
            }
            Err(error) if error.code == Code::Unavailable => {
                tracing::warn!(view = %of_view.view.name, keys = wanted.len(), %error, "history can't be read now");
                return Ok(Some(vec![Found::NotReady; wanted.len()]));
            }
            Err(error) => return Err(error),
        };
        if answered.len() != wanted.len() {
            return Err(Error::internal("history answered another number of keys than it was asked for"));
        }
        Ok(Some(answered.into_iter().map(|row| row.map_or(Found::Absent, Found::Row)).collect()))
    }

    fn provenance(keys: &RequestKeys, reading: &Reading) -> Vec<ViewProvenance> {
        let of_view = |(index, of_view): (usize, &ViewKeys)| {
            let touches = |partition: &usize| reading.keys_of[partition].iter().any(|(view, _)| *view == index);
            let touched: Vec<&ReadView> =
                reading.views.iter().filter(|(partition, _)| touches(partition)).map(|(_, view)| &**view).collect();
            let view = &of_view.view;
            ViewProvenance {
                view: view.name.clone(),
                version: view.version,
                newest_event_time: touched.iter().filter_map(|read| read.newest_event_time(view.id)).max(),
                complete_through: touched.iter().map(|read| read.applied().ingest_time).min().unwrap_or(0),
            }
        };
        keys.views.iter().enumerate().map(of_view).collect()
    }
}

impl Reading {
    /// Notes a partition that can't answer: past the deadline that ends the call, otherwise its
    /// cells are NOT_READY.
    fn note(
        &mut self,
        partition: usize,
        outcome: Result<(), PartitionError>,
        what: &str,
        limits: Limits,
    ) -> Result<()> {
        let Err(error) = outcome else { return Ok(()) };
        if matches!(error, PartitionError::DeadlineExceeded { .. }) {
            limits.check(what)?;
        }
        self.failed.insert(partition, error.to_string());
        Ok(())
    }
}

impl Miss {
    fn new(place: (usize, usize), of_view: &ViewKeys) -> Self {
        let key = &of_view.keys[place.1];
        let (tenant, view) = (of_view.view.tenant, of_view.view.id);
        Self { place, slot: key.slot, tenant, view, key: key.bytes.clone() }
    }

    fn online_key(&self) -> OnlineKey<'_> {
        OnlineKey { slot: self.slot, tenant: self.tenant, view: self.view, key: &self.key }
    }
}

fn online_key(of_view: &ViewKeys, key: usize) -> OnlineKey<'_> {
    let entity_key = &of_view.keys[key];
    OnlineKey { slot: entity_key.slot, tenant: of_view.view.tenant, view: of_view.view.id, key: &entity_key.bytes }
}
