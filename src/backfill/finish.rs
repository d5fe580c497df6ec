//! The end of a backfill, once all of its rows are staged: runs are merged into the tables' files, and one
//! control record takes them in. Whoever doesn't wait any more stops the merge; from the control record on
//! it goes on to its end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hydrant_storage::history::{StagedFile, Staging, StagingOptions, StagingWatch, TakeIn, TakeInTable};
use hydrant_storage::names::Name;
use hydrant_storage::record::ProducerStamp;
use hydrant_storage::threads::{Work, standing_back};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};
use xxhash_rust::xxh3::xxh3_128;

use super::failure::{STOPPED, staging_error, stopped};
use super::ledger::{Ledger, Piece, StagedView};
use super::target::Target;
use super::{BackfillReport, BackfillRequest, BackfilledView, Inner, Outcome, Standing, blocking};
use crate::error::{Code, Error, Result};
use crate::log::{AppendError, AppendRequest, Appended, wait_settled};
use crate::pace::{Ending, Pace};
use crate::registry::definition::KnownTimeRule;
use crate::runs::{Run, Telling, Written};
use crate::tenancy::{Held, Permit};

/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// How often a control record is sent where definitions keep changing.
const MAX_ATTEMPTS: usize = 8;

/// The share of a backfill's memory that the runs of a merge take.
const MERGE_SHARE: usize = 2;

/// What a backfill is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Merging,
    TakingIn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub phase: Phase,
    /// Rows of all views written for their tables, of so many.
    pub merged: u64,
    pub to_merge: u64,
}

/// What is told of a backfill.
#[derive(Debug)]
pub enum Told {
    Progress(Progress),
    /// Nothing follows.
    Done(Result<BackfillReport>),
}

/// The end of a backfill under way. Dropping it stops the work, if it isn't taken in already.
#[derive(Debug)]
pub struct Finishing {
    progress: watch::Receiver<Progress>,
    outcome: oneshot::Receiver<Result<BackfillReport>>,
    _ending: EndOnDrop,
}

/// A backfill of which all rows are staged.
#[derive(Debug)]
pub(super) struct Whole {
    pub inner: Arc<Inner>,
    pub permit: Permit,
    pub place: Arc<OwnedSemaphorePermit>,
    pub target: Arc<Target>,
    pub request: BackfillRequest,
    pub ledger: Ledger,
    pub pace: Arc<Pace>,
    /// How often its views were given up before it began.
    pub given_up: u64,
}

/// The files of a view, for its table.
#[derive(Debug)]
struct Merged {
    view: usize,
    table: std::path::PathBuf,
    files: Vec<StagedFile>,
}

/// Ends a backfill's work, or its waits for its turn, with whoever holds it.
#[derive(Debug, Default)]
pub(super) struct EndOnDrop(pub Arc<Ending>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.set();
    }
}

impl Finishing {
    pub(super) fn begin(whole: Whole, mut storage: Held, ending: EndOnDrop) -> Self {
        let to_merge = whole.ledger.manifest.views.values().map(StagedView::rows).sum();
        let (told, progress) = watch::channel(Progress { phase: Phase::Merging, merged: 0, to_merge });
        let (done, outcome) = oneshot::channel();
        let of_work = ending.0.clone();
        tokio::spawn(async move {
            let (metrics, telling) = (whole.inner.metrics.clone(), whole.telling());
            let finished = whole.finish(&of_work, &told).await;
            metrics.note(&finished);
            telling.end(finished.as_ref().map(written), STOPPED);
            if finished.is_ok() {
                storage.stays();
            }
            // Whoever asked may have gone.
            let _ = done.send(finished);
        });
        Self { progress, outcome, _ending: ending }
    }

    /// Rows that were only to be checked, and passed.
    pub(super) fn of_valid(target: &Target, piece: &Piece) -> Self {
        let counts = target.views.iter().zip(&piece.counts).zip(&piece.only_counted);
        let counts = counts.filter(|((view, _), _)| view.is_served());
        let views = counts.map(|((view, counts), rows)| BackfilledView {
            view: view.name.clone(),
            rows: *rows,
            null_keys: counts.null_keys,
            too_old: counts.too_old,
            bytes: 0,
            online: view.online,
        });
        let report = BackfillReport {
            outcome: Outcome::Valid,
            frame: None,
            ingest_time: None,
            rows: piece.selected,
            views: views.collect(),
        };
        let (_, progress) = watch::channel(Progress { phase: Phase::Merging, merged: 0, to_merge: 0 });
        let (done, outcome) = oneshot::channel();
        let _ = done.send(Ok(report));
        Self { progress, outcome, _ending: EndOnDrop::default() }
    }

    /// What there is to tell next: progress now and then, and in the end what came of it.
    pub async fn next(&mut self) -> Told {
        let ended = || Err(Error::internal("a backfill ended early"));
        tokio::select! {
            biased;
            outcome = &mut self.outcome => Told::Done(outcome.unwrap_or_else(|_| ended())),
            Ok(()) = self.progress.changed() => Told::Progress(*self.progress.borrow_and_update()),
        }
    }

    /// Waits for the end.
    pub async fn done(mut self) -> Result<BackfillReport> {
        loop {
            if let Told::Done(outcome) = self.next().await {
                return outcome;
            }
        }
    }
}

/// What a backfill has made, for those who are told of it.
fn written(report: &BackfillReport) -> Vec<Written> {
    let view =
        |view: &BackfilledView| Written { name: view.view.to_string(), rows: view.rows, bytes: Some(view.bytes) };
    report.views.iter().map(view).collect()
}

impl Whole {
    fn telling(&self) -> Telling {
        let Target { tenant, source, id, .. } = self.target.as_ref();
        // It was found among the definitions, so it is a name.
        let (watcher, source) = (self.inner.parts.watcher.clone(), source.parse::<Name>());
        let watcher = watcher.filter(|_| source.is_ok());
        let source = source.unwrap_or_else(|_| tenant.clone());
        let (id, origins) = (id.clone(), self.request.origins.clone());
        Telling::begin(watcher, tenant.clone(), Run::Backfill { source, id, origins })
    }

    async fn finish(self, ending: &Ending, told: &watch::Sender<Progress>) -> Result<BackfillReport> {
        let merged = match self.merge(ending, told).await {
            Ok(merged) => merged,
            Err(error) => {
                // What is damaged is of no use to whoever tries again.
                if error.code == Code::DataLoss {
                    self.end().await;
                    return Err(error);
                }
                self.permit.check_still()?;
                return Err(error);
            }
        };
        if let Some(error) = self.permit.check_still().err().or_else(|| ending.is_set().then(stopped)) {
            self.discard(merged).await;
            return Err(error);
        }
        if let Err(error) = self.inner.check_not_given_up(&self.target, self.given_up) {
            self.discard(merged).await;
            self.end().await;
            return Err(error);
        }
        told.send_modify(|progress| progress.phase = Phase::TakingIn);
        let alone = self.inner.parts.taking_in.clone().lock_owned().await;
        // It may have been a long wait. From here on it goes on to its end.
        if let Err(refused) = self.permit.check_still() {
            self.discard(merged).await;
            return Err(refused);
        }
        let appended = match self.append(&merged).await {
            Ok(appended) => appended,
            Err((is_certain, error)) => {
                // What may be taken in after all is looked after by the next start.
                if is_certain {
                    self.discard(merged).await;
                }
                return Err(error);
            }
        };
        if appended.already {
            // The same backfill was taken in by a request whose answer was lost: its own files are history.
            self.discard(merged).await;
            let report = self.report(&[], appended, Outcome::AlreadyApplied);
            self.end().await;
            return Ok(report);
        }
        let inner = self.inner.clone();
        if let Err(error) = inner.parts.takes_in.take_in_now().await {
            tracing::warn!(%error, frame = appended.frame, "a backfill that the log has taken in is not history yet");
        }
        let deadline = Instant::now() + inner.options.patience;
        if !wait_settled(inner.parts.log.as_ref(), appended.frame, deadline).await {
            let message = "the backfill was taken in by the log, and its rows are not in history yet";
            return Err(Error::new(Code::Unavailable, "BACKFILL_PENDING", message).hint(
                "nothing is to be sent again: the server goes on with it, and its log tells what is in the way",
            ));
        }
        drop(alone);
        let report = self.report(&merged, appended, Outcome::Applied);
        self.end().await;
        Ok(report)
    }

    /// Merges the runs of each view into files for its table. Stops where nobody waits for it, or the caller's
    /// credential holds no more.
    async fn merge(&self, ending: &Ending, told: &watch::Sender<Progress>) -> Result<Vec<Merged>> {
        let mut merged = Vec::with_capacity(self.target.views.len());
        let pace = self.pace.clone();
        let watch = Arc::new(StagingWatch::new(move |bytes| pace.may_go_on_after(bytes)));
        for (index, view) in self.target.views.iter().enumerate() {
            let spec = self.target.spec_of(view);
            let table = self.inner.parts.tables.table(spec.clone()).await.map_err(|error| staging_error(&error))?;
            let runs = self.ledger.manifest.views.get(&view.id.0).map(|view| view.runs.clone()).unwrap_or_default();
            let table = table.directory().to_owned();
            let (files, directory) = (self.inner.parts.files.clone(), self.ledger.directory().to_owned());
            let (id, of_watch, of_table) = (self.target.id.clone(), watch.clone(), table.clone());
            let options = self.staging_options(&runs);
            let mut work = Box::pin(blocking(move || {
                let staging = Staging { files: &files, spec: &spec, runs: &directory, table: &of_table, backfill: &id };
                let merged = standing_back(Work::Training, || staging.merge(&runs, &options, &of_watch));
                let merged = merged.map_err(|error| Error::internal(format!("no thread for a merge: {error}")))?;
                merged.map_err(|error| staging_error(&error))
            }));
            let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
            let files = loop {
                tokio::select! {
                    files = &mut work => break files,
                    _ = ticks.tick() => {
                        let rows = watch.merged.load(Ordering::Relaxed);
                        told.send_modify(|progress| progress.merged = rows);
                        if self.permit.check_still().is_err() {
                            ending.set();
                        }
                    }
                }
            };
            match files {
                Ok(files) => merged.push(Merged { view: index, table, files }),
                Err(error) => {
                    self.discard(merged).await;
                    return Err(error);
                }
            }
        }
        Ok(merged)
    }

    fn staging_options(&self, runs: &[StagedFile]) -> StagingOptions {
        let options = &self.inner.options;
        let bytes: u64 = runs.iter().map(|run| run.bytes).sum();
        // As many landings would have come to a run of this size.
        let (mut level, mut of_level) = (0, options.landing_bytes.max(1));
        while of_level < bytes {
            of_level = of_level.saturating_mul(options.runs_per_level.max(2) as u64);
            level += 1;
        }
        let (memory, threads, file_bytes) = (options.memory / MERGE_SHARE, options.threads, options.file_bytes);
        StagingOptions { memory, threads, file_bytes, level }
    }

    /// Has the log take the files in; or whether that is certain not to have happened, and why.
    async fn append(&self, merged: &[Merged]) -> Result<Appended, (bool, Error)> {
        let on_arrival = self.target.known_time == KnownTimeRule::Arrival;
        let tables = merged.iter().map(|merged| {
            let view = &self.target.views[merged.view];
            TakeInTable::new(view.tenant, view.id, merged.files.clone())
        });
        let take_in = TakeIn::new(self.target.id.clone(), on_arrival, tables.collect());
        let record = bytes::Bytes::from(take_in.encode());
        // The files' names differ each time; the same id for the same views is the same backfill.
        let fingerprint = self.target.fingerprint().map_err(|error| (true, error))?;
        let producer = xxh3_128(format!("hydrant-backfill\0{}\0{fingerprint}", self.target.id).as_bytes());
        // One that was given up is another after that, under the next number.
        let mut sequence = 1;
        let mut prepared = self.target.snapshot.revision;
        for _ in 0..MAX_ATTEMPTS {
            let stamp = ProducerStamp { producer, sequence, payload_hash: producer };
            let request = AppendRequest::of_control(record.clone(), Some(stamp), prepared);
            match self.inner.parts.log.append(request).await {
                Ok(appended) if appended.already => {
                    match self.inner.standing(&self.target).await.map_err(|error| (false, error))? {
                        Standing::TakenIn { .. } => return Ok(appended),
                        Standing::Staged { .. } => sequence += 1,
                    }
                }
                Ok(appended) => return Ok(appended),
                Err(AppendError::Outdated { .. }) => {
                    let newer = self.inner.parts.snapshots.load();
                    prepared = newer.revision;
                    let same = self.target.is_same_under(&self.permit, newer, &self.request);
                    if !same.map_err(|error| (true, error))? {
                        let message = "the source or its views were changed while the backfill was made";
                        let changed = Error::new(Code::Aborted, "DEFINITIONS_CHANGED", message);
                        return Err((true, changed.hint("run the same command again: it begins anew")));
                    }
                }
                Err(AppendError::Overloaded { retry_after }) => tokio::time::sleep(retry_after).await,
                Err(AppendError::Closed) => {
                    let message = "the log ended before it acknowledged the backfill, which may have been taken in";
                    let unknown = Error::new(Code::Unavailable, "OUTCOME_UNKNOWN", message);
                    return Err((false, unknown.hint("run the same command again: it is taken in once")));
                }
                Err(error) => {
                    let message = format!("the log did not take the backfill in: {error}");
                    let refused = Error::new(Code::Unavailable, "BACKFILL_FAILED", message);
                    return Err((true, refused.hint("run the same command again: it goes on where it was")));
                }
            }
        }
        let message = "the log took no more requests, or definitions kept changing";
        let error = Error::new(Code::Unavailable, "BACKFILL_FAILED", message).retry_after(Duration::from_secs(1));
        Err((true, error))
    }

    /// Files that were written for tables and are not to be taken in.
    async fn discard(&self, merged: Vec<Merged>) {
        let (files, target) = (self.inner.parts.files.clone(), self.target.clone());
        let discarded = blocking(move || {
            for Merged { view, table, files: staged } in merged {
                let spec = target.spec_of(&target.views[view]);
                let staging = Staging { files: &files, spec: &spec, runs: &table, table: &table, backfill: &target.id };
                staging.discard(&staged);
            }
            Ok(())
        });
        if let Err(error) = discarded.await {
            tracing::warn!(%error, "files of a backfill are left until the next start");
        }
    }

    fn report(&self, merged: &[Merged], appended: Appended, outcome: Outcome) -> BackfillReport {
        let staged = &self.ledger.manifest;
        let views = self.target.views.iter().enumerate().map(|(index, view)| {
            let of_view = staged.views.get(&view.id.0);
            let files = merged.iter().filter(|merged| merged.view == index).flat_map(|merged| &merged.files);
            BackfilledView {
                view: view.name.clone(),
                rows: of_view.map_or(0, StagedView::rows),
                null_keys: of_view.map_or(0, |view| view.counts.null_keys),
                too_old: of_view.map_or(0, |view| view.counts.too_old),
                bytes: files.map(|file| file.bytes).sum(),
                online: view.online,
            }
        });
        let views = views.zip(&self.target.views).filter(|(_, view)| view.is_served()).map(|(told, _)| told);
        BackfillReport {
            outcome,
            frame: Some(appended.frame),
            ingest_time: Some(appended.ingest_time),
            rows: staged.selected,
            views: views.collect(),
        }
    }

    /// What was staged is history.
    async fn end(self) {
        let Self { ledger, place, .. } = self;
        let removing = blocking(move || {
            ledger.remove();
            Ok(())
        });
        if let Err(error) = removing.await {
            tracing::warn!(%error, "what a backfill had staged is left");
        }
        drop(place);
    }
}
