//! The walks behind endpoints. However many endpoints of a training set are pulled at once, history is
//! walked once for all of them: the first starts the walk, the others wait for it, and when nobody waits
//! any more it stops. What it found stays on disk for endpoints that are pulled later or again, within a
//! bound and for a while; what has gone is found again, and is the same.
//!
//! The whole spine is walked even where few of its rows are asked for. History lies by key and not by
//! time, so a walk beside a hundredth of the spine reads as many pages as one beside all of it, unless
//! the spine is small; and after a restart all workers come back, not one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use futures::future::BoxFuture;
use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;
use hydrant_storage::threads::{Work, standing_back};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::super::execute::Findings;
use super::super::failure::{JoinError, STOPPED};
use super::super::report::TableVersion;
use super::super::service::pulled;
use super::super::spill::SpillSpace;
use super::super::spine::SpineWriter;
use super::super::work::{Stop, begin, blocking_until};
use super::TrainingSets;
use super::prepared::{FixedRequest, Prepared};
use crate::error::{Error, Result};
use crate::tenancy::Permit;

/// Leave to walk, which is asked for only where there is nothing found yet.
pub type Admission = Box<dyn FnOnce() -> BoxFuture<'static, Result<Permit>> + Send>;

/// How long, and how much of, what was found stays on disk.
#[derive(Clone, Copy, Debug)]
pub struct KeepOptions {
    /// Bytes of disk of all that nobody reads. The newest stays in any case.
    pub max_bytes: u64,
    /// Microseconds since it was used last.
    pub keep: Micros,
}

/// What a walk found, on disk.
#[derive(Debug)]
pub struct Kept {
    pub findings: Findings,
    pub tables: Vec<TableVersion>,
    spill: Arc<SpillSpace>,
}

/// How far a training set is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nobody has pulled an endpoint yet, or what was found has gone.
    NotBegun,
    /// The spine is taken in, and then walked beside history once for each set of keys.
    Walking { rows_taken: u64, rows_walked: u64, rows_to_walk: u64 },
    /// Endpoints are answered at once.
    Found,
}

/// By tenant and request.
type Key = (Name, FixedRequest);

/// All walks under way, and what they found.
#[derive(Debug)]
pub struct Jobs {
    options: KeepOptions,
    table: Mutex<HashMap<Key, Job>>,
    /// Counts how often all was forgotten: what a walk finds that began before is kept for nobody.
    forgotten: AtomicU64,
}

#[derive(Debug)]
enum Job {
    Walking(Weak<Walking>),
    Found { kept: Arc<Kept>, last_used: Micros },
}

/// A walk under way, held by all who wait for it.
#[derive(Debug)]
struct Walking {
    outcome: watch::Receiver<Option<Result<Arc<Kept>>>>,
    walk: Walk,
    task: AbortHandle,
}

/// How far a walk is, and what ends it. Clones are the same.
#[derive(Clone, Debug)]
pub struct Walk {
    counts: Arc<Counts>,
    stop: Stop,
}

#[derive(Debug, Default)]
struct Counts {
    rows_taken: AtomicU64,
    rows_to_walk: u64,
}

impl Drop for Walking {
    fn drop(&mut self) {
        // Nobody waits any more. After its end this stops nothing.
        self.walk.stop.set();
        self.task.abort();
    }
}

impl Jobs {
    pub fn new(options: KeepOptions) -> Self {
        Self { options, table: Mutex::default(), forgotten: AtomicU64::new(0) }
    }

    /// Lets go of what was found, except for those who read it now.
    pub fn forget_all(&self) {
        let mut table = self.lock();
        self.forgotten.fetch_add(1, Ordering::Relaxed);
        let gone: Vec<(Key, Job)> = table.extract_if(|_, job| matches!(job, Job::Found { .. })).collect();
        drop(table);
        drop(gone);
    }

    /// Lets go of what has not been used for long enough, or is too much. Blocks: large files take their
    /// time to go, though nobody waits for the table meanwhile.
    pub fn trim(&self, now: Micros) {
        let mut table = self.lock();
        let oldest = now.saturating_sub(self.options.keep);
        let is_old = |job: &mut Job| match job {
            Job::Walking(walking) => walking.strong_count() == 0,
            Job::Found { last_used, .. } => *last_used < oldest,
        };
        let mut gone: Vec<Job> = table.extract_if(|_, job| is_old(job)).map(|(_, job)| job).collect();
        let mut found: Vec<(Micros, Key, u64)> = table
            .iter()
            .filter_map(|(key, job)| match job {
                Job::Walking(_) => None,
                Job::Found { kept, last_used } => Some((*last_used, key.clone(), kept.spill.used())),
            })
            .collect();
        found.sort_by_key(|(last_used, ..)| *last_used);
        let mut bytes: u64 = found.iter().map(|(.., bytes)| bytes).sum();
        found.pop();
        for (_, key, of_it) in found {
            if bytes <= self.options.max_bytes {
                break;
            }
            bytes -= of_it;
            gone.extend(table.remove(&key));
        }
        drop(table);
        drop(gone);
    }

    pub fn progress(&self, prepared: &Prepared) -> Progress {
        match self.lock().get(&key_of(prepared)) {
            None => Progress::NotBegun,
            Some(Job::Found { .. }) => Progress::Found,
            Some(Job::Walking(walking)) => match walking.upgrade() {
                None => Progress::NotBegun,
                Some(walking) => walking.walk.progress(),
            },
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Job>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Walk {
    fn new(prepared: &Prepared, stop: Stop) -> Self {
        let rows_to_walk = prepared.rows() * prepared.plan.sorts.len() as u64;
        Self { counts: Arc::new(Counts { rows_taken: AtomicU64::new(0), rows_to_walk }), stop }
    }

    pub fn progress(&self) -> Progress {
        let Counts { rows_taken, rows_to_walk } = self.counts.as_ref();
        Progress::Walking {
            rows_taken: rows_taken.load(Ordering::Relaxed),
            rows_walked: self.stop.passed().min(*rows_to_walk),
            rows_to_walk: *rows_to_walk,
        }
    }
}

/// Whether a walk is told of as a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tells {
    Itself,
    /// It is part of something that is told of, or that was.
    Nothing,
}

fn key_of(prepared: &Prepared) -> Key {
    (prepared.tenant.clone(), prepared.request.clone())
}

impl TrainingSets {
    /// What counts for each row of a prepared training set: as it was found before, by a walk under way,
    /// or by a new one. Dropping the future ends a walk that nobody else waits for.
    pub(super) async fn found(&self, prepared: &Prepared, admission: Admission, tells: Tells) -> Result<Arc<Kept>> {
        let (mut admission, mut has_waited) = (Some(admission), false);
        loop {
            let walking = match self.known_or_begun(prepared, &mut admission, tells) {
                Known::Found(kept) => return Ok(kept),
                Known::Walking(walking) => walking,
                Known::Nothing => return Err(Error::internal("a walk was begun, and is not there")),
            };
            let mut outcome = walking.outcome.clone();
            let ended = outcome.wait_for(Option::is_some).await;
            let ended = ended.map_err(|_| Error::internal("a walk ended without an outcome"))?;
            match ended.as_ref().expect("it was waited for") {
                // Whoever began it was not let in, or had no time left; that says nothing of the others.
                Err(error) if admission.is_some() && !has_waited && is_of_its_caller(error) => has_waited = true,
                ended => return ended.clone(),
            }
        }
    }

    /// Walks anew, whatever was found before; `told` is where it can be asked how far it is.
    pub(super) async fn found_anew(
        &self,
        prepared: &Prepared,
        admission: Admission,
        told: &OnceLock<Walk>,
    ) -> Result<Arc<Kept>> {
        let (_waiter, stop) = begin();
        let walk = Walk::new(prepared, stop);
        // Nobody else sets it.
        let _ = told.set(walk.clone());
        self.walk(prepared.clone(), admission, walk, Tells::Nothing).await
    }

    /// Takes the admission where it begins a walk.
    fn known_or_begun(&self, prepared: &Prepared, admission: &mut Option<Admission>, tells: Tells) -> Known {
        let mut table = self.jobs().lock();
        let key = key_of(prepared);
        match table.get_mut(&key) {
            Some(Job::Found { kept, last_used }) => {
                *last_used = self.now();
                return Known::Found(kept.clone());
            }
            Some(Job::Walking(walking)) => {
                if let Some(walking) = walking.upgrade() {
                    return Known::Walking(walking);
                }
            }
            None => {}
        }
        let Some(admission) = admission.take() else { return Known::Nothing };
        let walking = self.begin_walk(prepared, admission, tells);
        table.insert(key, Job::Walking(Arc::downgrade(&walking)));
        Known::Walking(walking)
    }

    fn begin_walk(&self, prepared: &Prepared, admission: Admission, tells: Tells) -> Arc<Walking> {
        let (sender, outcome) = watch::channel(None);
        let walk = Walk::new(prepared, Stop::default());
        let (sets, prepared, begun) = (self.clone(), prepared.clone(), walk.clone());
        let forgotten = self.jobs().forgotten.load(Ordering::Relaxed);
        let task = tokio::spawn(async move {
            let key = key_of(&prepared);
            let walked = sets.walk(prepared, admission, begun, tells).await;
            {
                let mut table = sets.jobs().lock();
                let is_current = sets.jobs().forgotten.load(Ordering::Relaxed) == forgotten;
                match &walked {
                    Ok(kept) if is_current => {
                        table.insert(key, Job::Found { kept: kept.clone(), last_used: sets.now() })
                    }
                    _ => table.remove(&key),
                };
            }
            // Whoever waited may have gone.
            let _ = sender.send(Some(walked));
            let trimmed = tokio::task::spawn_blocking(move || sets.jobs().trim(sets.now())).await;
            if let Err(error) = trimmed {
                tracing::warn!(%error, "what was found before was not looked through");
            }
        });
        Arc::new(Walking { outcome, walk, task: task.abort_handle() })
    }

    async fn walk(&self, prepared: Prepared, admission: Admission, walk: Walk, tells: Tells) -> Result<Arc<Kept>> {
        let permit = admission().await?;
        let rows = prepared.rows();
        let telling = || self.history().inner.telling(&prepared.tenant, &prepared.plan);
        let telling = (tells == Tells::Itself).then(telling);
        // Given up, it is dropped, which is told too.
        let walked = self.walk_admitted(prepared, permit, walk).await;
        if let Some(telling) = telling {
            telling.end(walked.as_ref().map(|_| pulled(rows)), STOPPED);
        }
        walked
    }

    async fn walk_admitted(&self, prepared: Prepared, permit: Permit, walk: Walk) -> Result<Arc<Kept>> {
        let Walk { counts, stop } = walk;
        let history = self.history().inner.clone();
        let budget = history.budget(&permit);
        let memory = permit.hold_training_memory(budget.memory)?;
        let spill = budget.spill.clone();
        let Prepared { tenant, request, plan, spine, snapshot, .. } = prepared;
        let (planned, taking) = (plan.clone(), budget.clone());
        // The place is given back when the work ends, and not with who waited.
        let taken = blocking_until(stop.clone(), move |stop| {
            let mut writer = SpineWriter::new(planned, &taking);
            for batch in spine.batches()? {
                stop.check()?;
                let batch = batch?;
                writer.push(&batch, stop)?;
                counts.rows_taken.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
            }
            Ok((writer.finish(stop)?, permit, memory))
        });
        let (taken, permit, memory) = taken.await?;
        let task = history.task(&snapshot, plan, taken, budget, Some(request.cutoff)).await?;
        let metrics = history.metrics.clone();
        let walked = blocking_until(stop, move |stop| {
            let not_started = |error| Error::internal(format!("no thread for a training set: {error}"));
            let walked = standing_back(Work::Training, || {
                let (findings, tables) = task.walk(stop)?;
                Ok::<_, JoinError>((findings.put_down(stop)?, tables))
            });
            let walked = walked.unwrap_or_else(|error| Err(not_started(error).into()));
            metrics.note_walk(&tenant, &walked);
            // Whoever sees the end may ask for the next.
            drop((permit, memory));
            walked
        });
        let (findings, tables) = walked.await?;
        Ok(Arc::new(Kept { findings, tables, spill }))
    }
}

/// What is there for a request.
enum Known {
    Found(Arc<Kept>),
    Walking(Arc<Walking>),
    /// And whoever asks has begun one already.
    Nothing,
}

/// Whether a walk was not begun for reasons of whoever wanted to.
fn is_of_its_caller(error: &Error) -> bool {
    ["DEADLINE_EXCEEDED", "TOO_MANY_JOINS", "QUOTA_EXCEEDED"].contains(&error.reason)
}
