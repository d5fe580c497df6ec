//! Finds the rows of a request: takes the views of the partitions it touches, then one instant, and
//! reads each distinct key once. Rows in memory are read on the calling thread; the others move to
//! the read threads. What does not answer in time is NOT_READY, never waited for beyond the
//! request's limits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use hydrant_storage::keys::OnlineKey;
use hydrant_storage::order::Micros;
use hydrant_storage::partition::{Lookup, ReadMode, ReadView};
use hydrant_storage::row::OwnedRow;

use super::keys::RequestKeys;
use super::misses::Missing;
use super::{OnlineRequest, Serving, ViewProvenance, in_bulk};
use crate::clock::rfc3339;
use crate::error::{Code, Error, Result};
use crate::partition::{PartitionError, Partitions};
use crate::registry::selection::Selection;
use crate::tenancy::Permit;

/// How often a read takes its views anew because rows fell due meanwhile.
const MAX_PROMOTIONS: usize = 8;
/// After so many keys a read lets others have the thread...
const KEYS_AT_A_TIME: usize = 1_024;
/// ...and a read in bulk, before which others go.
const BULK_KEYS_AT_A_TIME: usize = 128;

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
    /// Per view of the selection, per key.
    pub rows: Vec<Vec<Found>>,
    pub views: Vec<ViewProvenance>,
    pub from_history: usize,
    /// Why the first of what is not ready is not.
    pub not_ready: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) enum Found {
    Row(Arc<OwnedRow>),
    Absent,
    Damaged,
    NotReady,
}

/// A key of a request: the index of its view, and its own among the view's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub view: usize,
    pub key: usize,
}

/// A partition that a request needs.
struct Touched {
    partition: usize,
    places: Vec<Place>,
    /// None as long as it isn't taken, or if the partition can't answer.
    view: Option<Arc<ReadView>>,
    failed: Option<String>,
}

/// The state of a read under way.
struct Reading {
    touched: Vec<Touched>,
}

impl Limits {
    pub fn wait_until(self) -> Instant {
        self.budget_end.map_or(self.deadline, |end| end.min(self.deadline))
    }

    /// After a wait that has run out: an error past the deadline, and nothing past the budget only.
    pub fn check(self, what: &str) -> Result<()> {
        if Instant::now() < self.deadline {
            return Ok(());
        }
        Err(Error::new(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", format!("the deadline passed while {what}")))
    }

    /// Between two pieces of work: whether the budget has run out. An error past the deadline.
    fn is_over(self) -> Result<bool> {
        let over = Instant::now() >= self.wait_until();
        if over {
            self.check("rows were looked up")?;
        }
        Ok(over)
    }
}

impl Serving {
    // What is rarely waited for is boxed, so that the future of every read stays small: it is moved.
    pub(super) async fn read(
        &self,
        permit: &Permit,
        request: &OnlineRequest,
        selection: &Selection,
        keys: &RequestKeys,
        limits: Limits,
    ) -> Result<RowsRead> {
        limits.check("the request arrived")?;
        let mut reading = Reading::plan(&self.partitions, selection, keys);
        if let Some(frame) = request.at_least {
            Box::pin(self.wait_applied(frame, &mut reading, limits)).await?;
        }
        let t = self.take_views(request.at, &mut reading, limits).await?;
        let (mut rows, late) = self.look_up(permit, selection, keys, &reading, limits).await?;
        let mut from_history = 0;
        let mut not_ready = reading.touched.iter().find_map(|touched| touched.failed.clone()).or(late);
        if request.at.is_some() {
            let past = Box::pin(self.ask_history(permit, selection, keys, &mut rows, t, limits)).await?;
            from_history = past.answered;
            not_ready = not_ready.or(past.not_ready);
        }
        let missing = rows.iter().flatten().filter(|found| matches!(found, Found::NotReady)).count();
        if missing > 0 {
            self.metrics.not_ready_keys.add_for(permit.tenant(), missing as u64);
        }
        let mut views = reading.provenance(selection);
        self.tell_gone(&mut views, selection, t);
        Ok(RowsRead { t, rows, views, from_history, not_ready })
    }

    async fn wait_applied(&self, frame: u64, reading: &mut Reading, limits: Limits) -> Result<()> {
        let durable = self.partitions.durable_frame();
        if frame > durable {
            let message = "the position in `at_least` was never acknowledged by this store";
            return Err(Error::invalid("POSITION_UNKNOWN", message).hint("take positions from this store's answers"));
        }
        let waits = reading
            .touched
            .iter()
            .map(|touched| self.partitions.handles()[touched.partition].wait_applied(frame, limits.wait_until()));
        let waited = join_all(waits).await;
        for (touched, waited) in reading.touched.iter_mut().zip(waited) {
            touched.note(waited, "waiting until the position could be read", limits)?;
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
            for touched in &mut reading.touched {
                touched.view = None;
                if touched.failed.is_none() {
                    match self.partitions.handles()[touched.partition].view() {
                        Ok(view) => touched.view = Some(view),
                        Err(error) => touched.note(Err(error), "taking its view", limits)?,
                    }
                }
            }
            let t = at.unwrap_or_else(|| self.store_time.read());
            let is_due = |view: &Arc<ReadView>| view.next_due().is_some_and(|due| due <= t);
            let due: Vec<&mut Touched> =
                reading.touched.iter_mut().filter(|touched| touched.view.as_ref().is_some_and(is_due)).collect();
            if due.is_empty() {
                return Ok(t);
            }
            Box::pin(self.promote(due, t, limits)).await?;
        }
        let message = "rows fall due faster than they can be made readable";
        Err(Error::new(Code::Unavailable, "ROWS_FALLING_DUE", message).retry_after(Duration::from_millis(20)))
    }

    /// Waits until rows that are due can be read.
    async fn promote(&self, mut due: Vec<&mut Touched>, t: Micros, limits: Limits) -> Result<()> {
        self.metrics.promotions_awaited.add(1);
        let promotions =
            due.iter().map(|touched| self.partitions.handles()[touched.partition].promote(t, limits.wait_until()));
        let promoted = join_all(promotions).await;
        for (touched, promoted) in due.iter_mut().zip(promoted) {
            touched.note(promoted, "waiting until due rows could be read", limits)?;
        }
        Ok(())
    }

    /// What is found for each key, and why it isn't for all of them, where time ran out.
    async fn look_up(
        &self,
        permit: &Permit,
        selection: &Selection,
        keys: &RequestKeys,
        reading: &Reading,
        limits: Limits,
    ) -> Result<(Vec<Vec<Found>>, Option<String>)> {
        let unread = |view| vec![Found::NotReady; keys.of_view(selection, view).len()];
        let mut rows: Vec<Vec<Found>> = (0..selection.views.len()).map(unread).collect();
        let mut missing = Vec::new();
        let at_a_time = if in_bulk(permit) { BULK_KEYS_AT_A_TIME } else { KEYS_AT_A_TIME };
        let mut since_yield = 0;
        for touched in &reading.touched {
            let Some(view) = &touched.view else { continue };
            self.metrics.keys_read.add(touched.places.len() as u64);
            for places in touched.places.chunks(at_a_time) {
                if since_yield + places.len() > at_a_time {
                    permit.give_way().await;
                    since_yield = 0;
                    if limits.is_over()? {
                        return Ok((rows, Some("its rows were not looked up within the latency budget".to_owned())));
                    }
                }
                since_yield += places.len();
                let names: Vec<OnlineKey<'_>> = places
                    .iter()
                    .map(|&Place { view, key }| {
                        keys.of_view(selection, view).online_key(&selection.views[view].view, key)
                    })
                    .collect();
                let found = match in_bulk(permit) {
                    true => view.lookup_in_passing(&names, ReadMode::CachedOnly),
                    false => view.lookup(&names, ReadMode::CachedOnly),
                };
                let mut missed = Missing::new(touched.partition, view);
                for ((place, name), found) in places.iter().zip(&names).zip(found) {
                    match self.found(found) {
                        Some(found) => rows[place.view][place.key] = found,
                        None => missed.push(*place, name),
                    }
                }
                if !missed.is_empty() {
                    missing.push(missed);
                }
            }
        }
        let late = match missing.is_empty() {
            true => None,
            false if in_bulk(permit) => {
                Box::pin(self.read_missing_in_passing(permit, missing, &mut rows, limits)).await?
            }
            false => Box::pin(self.read_missing(permit, missing, &mut rows, limits)).await?,
        };
        Ok((rows, late))
    }

    /// `None` where the row is not in memory.
    pub(super) fn found(&self, lookup: Lookup) -> Option<Found> {
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
}

impl Reading {
    /// Which partitions hold the keys.
    fn plan(partitions: &Partitions, selection: &Selection, keys: &RequestKeys) -> Self {
        const NOT_TOUCHED: usize = usize::MAX;
        let mut index_of = vec![NOT_TOUCHED; partitions.handles().len()];
        let mut touched: Vec<Touched> = Vec::new();
        for view in 0..selection.views.len() {
            let of_view = keys.of_view(selection, view);
            for key in 0..of_view.len() {
                let partition = partitions.of_slot(of_view.slot(key)).index();
                if index_of[partition] == NOT_TOUCHED {
                    index_of[partition] = touched.len();
                    touched.push(Touched { partition, places: Vec::new(), view: None, failed: None });
                }
                touched[index_of[partition]].places.push(Place { view, key });
            }
        }
        Self { touched }
    }

    fn provenance(&self, selection: &Selection) -> Vec<ViewProvenance> {
        let mut views: Vec<ViewProvenance> = selection.views.iter().map(ViewProvenance::of).collect();
        let mut complete_through: Vec<Option<Micros>> = vec![None; views.len()];
        for touched in &self.touched {
            // Its places are grouped by view.
            for of_view in touched.places.chunk_by(|one, other| one.view == other.view) {
                let index = of_view[0].view;
                // Nothing is known to be in the answer from a partition that gave none.
                let through = touched.view.as_ref().map_or(0, |view| view.applied().ingest_time);
                let newest =
                    touched.view.as_ref().and_then(|view| view.newest_event_time(selection.views[index].view.id));
                let known = &mut complete_through[index];
                *known = Some(known.map_or(through, |known| known.min(through)));
                views[index].newest_event_time = views[index].newest_event_time.max(newest);
            }
        }
        for (view, through) in views.iter_mut().zip(complete_through) {
            view.complete_through = through.unwrap_or(0);
        }
        views
    }
}

impl Touched {
    /// Notes why the partition can't answer: past the deadline that ends the call, otherwise its
    /// cells are NOT_READY.
    fn note(&mut self, outcome: Result<(), PartitionError>, what: &str, limits: Limits) -> Result<()> {
        let Err(error) = outcome else { return Ok(()) };
        if matches!(error, PartitionError::DeadlineExceeded { .. }) {
            limits.check(what)?;
        }
        self.view = None;
        self.failed = Some(error.to_string());
        Ok(())
    }
}
