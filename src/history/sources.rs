//! Where a view's rows lie, at one cut: the tails of all partitions, and the table. The tails are
//! taken first and the table after, and of the tails only rows that the table doesn't have count;
//! so no row is missed and none is read twice, whatever lands meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hydrant_storage::history::{
    Chain, HistoryError, HistoryTables, MergedRuns, Run, RunBatch, Since, Sought, TableSnapshot, TailRun, tail_rows,
    tail_rows_of,
};
use hydrant_storage::keys::SlotRange;
use hydrant_storage::order::{Micros, none_counts_from};
use hydrant_storage::partition::{ReadView, TailRow, TailRows};

use super::failure::{JoinError, history_error};
use super::fan_in::{FanIn, OpenRun};
use super::reading::TableFacts;
use super::report::TableVersion;
use super::work::{Stop, Stoppable};
use crate::clock::rfc3339;
use crate::error::{Code, Error, Result};
use crate::log::{LogError, WriteLog, wait_settled};
use crate::partition::Partitions;
use crate::registry::catalog::{Snapshot, View};
use crate::registry::selection::is_of_another;

/// All rows ingested at or before an instant, as they lie now.
#[derive(Debug)]
pub struct Cut {
    /// Ingest time; no later row is read.
    pub cutoff: Micros,
    tails: Arc<[Arc<ReadView>]>,
}

/// A view's rows at a cut.
#[derive(Clone, Debug)]
pub struct ViewRows {
    view: Arc<View>,
    table: Arc<TableSnapshot>,
    tails: Arc<[Arc<ReadView>]>,
    tail_rows: Arc<AtomicU64>,
}

/// What one walk of a view reads of it.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    pub slots: SlotRange,
    /// Whether the report tells of its tail rows; of the walks of one view, only one may for each slot.
    pub is_told: bool,
}

impl Cut {
    /// Everything ingested at or before `cutoff`, or before now. Refuses (INVALID_ARGUMENT) a
    /// cut-off that is still to come; waits until every partition has applied what lies before it.
    pub async fn take(
        log: &dyn WriteLog,
        partitions: &Partitions,
        cutoff: Option<Micros>,
        patience: Duration,
    ) -> Result<Self> {
        let sealed = log.seal().await.map_err(log_error)?;
        let cutoff = cutoff.unwrap_or(sealed.time);
        if cutoff > sealed.time {
            return Err(cutoff_in_future(cutoff, sealed.time));
        }
        let deadline = Instant::now() + patience;
        partitions.wait_applied(sealed.frame, deadline).await?;
        // What a control record takes in is ingested with it, and its tables must have it.
        let taken_in = log.unsettled().into_iter().filter(|frame| frame.ingest_time <= cutoff);
        if let Some(last) = taken_in.map(|frame| frame.number).max()
            && !wait_settled(log, last, deadline).await
        {
            let message =
                "a backfill was taken in by the log before the cut-off, and history doesn't have its rows yet";
            return Err(Error::new(Code::Unavailable, "BACKFILL_PENDING", message)
                .retry_after(Duration::from_secs(1))
                .with("frame", last)
                .hint(format!(
                    "ask again; if it stays so, the server's log tells why the rows can't be taken in, and \
                     `hydrant backfill --abandon {last}` gives the backfill up"
                )));
        }
        Ok(Self { cutoff, tails: tails(partitions)? })
    }

    /// The view's rows; the table is looked at only now.
    pub async fn rows_of(&self, tables: &HistoryTables, snapshot: &Snapshot, view: &Arc<View>) -> Result<ViewRows> {
        ViewRows::new(tables, snapshot, view, self.tails.clone()).await
    }
}

/// What every partition holds now.
pub fn tails(partitions: &Partitions) -> Result<Arc<[Arc<ReadView>]>> {
    tails_where(partitions, |_| true)
}

/// What the partitions hold now whose range of slots is wanted; the others need not answer.
pub fn tails_where(partitions: &Partitions, wanted: impl Fn(SlotRange) -> bool) -> Result<Arc<[Arc<ReadView>]>> {
    let wanted = partitions.handles().iter().filter(|handle| wanted(handle.range()));
    let views: Result<Vec<_>, _> = wanted.map(|handle| handle.view()).collect();
    Ok(views?.into())
}

impl ViewRows {
    /// `tails` were taken before. The table is the view's owner's, whoever asks.
    pub async fn new(
        tables: &HistoryTables,
        snapshot: &Snapshot,
        view: &Arc<View>,
        tails: Arc<[Arc<ReadView>]>,
    ) -> Result<Self> {
        let spec = view.history_spec(snapshot.owner_of(view)?);
        let table = tables.table(spec).await.map_err(history_error)?.snapshot();
        Ok(Self { view: view.clone(), table, tails, tail_rows: Arc::default() })
    }

    /// The rows of the features in `projection`, in history order, of a walk's share at least, but for
    /// those in files that nobody looks for. Blocks, but not for long once `stop` is set.
    pub fn open(
        &self,
        projection: &[usize],
        wanted: &FanIn<'_>,
        sought: &Arc<Sought>,
        share: Share,
        stop: &Stop,
    ) -> Result<MergedRuns, JoinError> {
        let (slots, cutoff, kept_from) = (Some(wanted.slots), wanted.cutoff, self.table.retained_from);
        let open = |chain: &Chain<'_>| {
            stop.check()?;
            let run = self.table.open_chain_in_order(chain, projection, sought, cutoff)?;
            Ok(OpenRun { bytes: run.open_bytes(), run: Box::new(Since::new(Stoppable::new(run, stop), kept_from)) })
        };
        let mut chains = self.table.chains_with(slots, cutoff);
        // Where not all can be open at once, those that are merged on disk are the small ones.
        chains.sort_by_key(Chain::bytes);
        let mut runs = wanted.reduce(chains.iter().map(open))?;
        let landed = self.table.landed_through;
        let Share { slots: range, .. } = share;
        let shared = self.tails.iter().filter(|tail| {
            let held = tail.range();
            held.first <= range.last && range.first <= held.last
        });
        let (shared, tenant, id) = (shared.cloned().collect(), self.view.tenant, self.view.id);
        runs.push(match &sought.keys {
            Some(keys) => {
                let rows = tail_rows_of(shared, tenant, id, landed, keys.clone());
                Box::new(Since::new(Stoppable::new(self.tail_run(rows, projection, cutoff, share), stop), kept_from))
            }
            None => {
                let rows = tail_rows(shared, tenant, id, landed);
                Box::new(Since::new(Stoppable::new(self.tail_run(rows, projection, cutoff, share), stop), kept_from))
            }
        });
        Ok(MergedRuns::new(runs, cutoff)?)
    }

    /// Rows of the tails as a run, counted for the report.
    fn tail_run<I>(&self, rows: I, projection: &[usize], cutoff: Option<Micros>, share: Share) -> Counted<TailRun<I>>
    where
        I: Iterator<Item = Result<TailRow, HistoryError>> + Send,
    {
        let frames = self.table.landed_through + 1..=u64::MAX;
        let run = TailRun::new(rows, self.view.layout.clone(), projection.to_vec(), frames);
        Counted { run, cutoff, share, rows: self.tail_rows.clone() }
    }

    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    pub fn table(&self) -> &TableSnapshot {
        &self.table
    }

    /// The tail rows of each partition that the table doesn't have, to be sought in by key.
    pub fn key_tails(&self) -> impl Iterator<Item = TailRows> {
        let View { tenant, id, .. } = *self.view;
        self.tails.iter().map(move |tail| tail.tail(tenant, id, self.table.landed_through))
    }

    /// What there is to be read of rows ingested at or before the cut-off.
    pub fn facts(&self, cutoff: Micros) -> TableFacts {
        let chains = self.table.chains_with(None, Some(cutoff));
        let rows = |chain: &Chain<'_>| chain.files().iter().map(|file| file.rows()).sum();
        let tails = self.tails.iter().filter_map(|tail| tail.view_state(self.view.id));
        TableFacts {
            delta_version: (!self.table.files.is_empty()).then_some(self.table.delta_version),
            runs: chains.iter().map(rows).collect(),
            files: chains.iter().map(|chain| chain.files().len() as u64).sum(),
            bytes: chains.iter().map(Chain::bytes).sum(),
            tail_rows: tails.map(|state| state.tail_rows).sum(),
        }
    }

    /// What was read, for the report of a spine whose least event time is `first_time`, under ttls of which
    /// the longest is `ttl`. Of a view that is another tenant's by its `name`, not how its table is kept and how
    /// many rows wait to land: that is its owner's to know.
    pub fn version(&self, name: &str, first_time: Micros, ttl: Option<Micros>) -> TableVersion {
        let (is_told, has_files) = (!is_of_another(name), !self.table.files.is_empty());
        let delta_version = || i64::try_from(self.table.delta_version).unwrap_or(i64::MAX);
        TableVersion {
            view: name.to_owned(),
            view_version: self.view.version,
            delta_version: (is_told && has_files).then(delta_version),
            tail_rows: if is_told { self.tail_rows.load(Ordering::Relaxed) } else { 0 },
            definition_revision: self.view.applied.revision,
            lacks_before: self.lacks_before(first_time, ttl),
        }
    }

    /// Rows that counted under a ttl at an instant may be gone; from which one on none is. `None`: none is gone.
    pub fn lacks_before(&self, at: Micros, ttl: Option<Micros>) -> Option<Micros> {
        let whole_from = self.table.retained_from.map(|from| none_counts_from(from, ttl));
        whole_from.filter(|whole_from| at < *whole_from)
    }
}

/// Counts the rows of the share that pass, up to the cut-off.
struct Counted<R> {
    run: R,
    cutoff: Option<Micros>,
    share: Share,
    rows: Arc<AtomicU64>,
}

impl<R: Run> Run for Counted<R> {
    fn next(&mut self) -> Result<Option<Arc<RunBatch>>, HistoryError> {
        let batch = self.run.next()?;
        if let Some(batch) = batch.as_ref().filter(|_| self.share.is_told) {
            let counts = |(slot, time): &(&u16, &Micros)| {
                self.share.slots.contains(**slot) && self.cutoff.is_none_or(|cutoff| **time <= cutoff)
            };
            let counted = batch.slots.iter().zip(batch.ingest_times.iter()).filter(counts).count();
            self.rows.fetch_add(counted as u64, Ordering::Relaxed);
        }
        Ok(batch)
    }

    fn skip_to(&mut self, slot: u16, key: &[u8]) -> Result<(), HistoryError> {
        self.run.skip_to(slot, key)
    }
}

pub(super) fn cutoff_in_future(cutoff: Micros, now: Micros) -> Error {
    let message = format!("the cut-off {} has not come: store time is {}", rfc3339(cutoff), rfc3339(now));
    Error::invalid("CUTOFF_IN_FUTURE", message).with("cutoff", cutoff).with("store_time", now)
}

pub(super) fn log_error(error: LogError) -> Error {
    let message = format!("the log can't be sealed: {error}");
    match error {
        LogError::Overloaded => {
            Error::new(Code::Unavailable, "LOG_OVERLOADED", message).retry_after(Duration::from_millis(100))
        }
        _ => Error::new(Code::Unavailable, "LOG_UNAVAILABLE", message),
    }
}
