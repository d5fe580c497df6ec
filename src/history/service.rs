//! The use case: opens a training set for a permitted caller, takes its spine in, fixes what will
//! be read, and lets a blocking task make the answer. In how much memory is bounded here; how many are
//! made at once, by their permits.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use hydrant_storage::history::{HistoryTables, Sought};
use hydrant_storage::names::{Name, ViewId};
use hydrant_storage::order::Micros;
use hydrant_storage::threads::{Work, standing_back};
use tokio::sync::Semaphore;

use super::asof::Mode;
use super::execute::{Findings, Outcome, RunRows};
use super::failure::{JoinError, STOPPED};
use super::fan_in::FanIn;
use super::metrics::HistoryMetrics;
use super::plan::{Plan, Shape};
use super::reading::{Access, Reading, TableFacts};
use super::report::{Report, TableVersion};
use super::sort::SortedSpine;
use super::sources::{Cut, Share, ViewRows};
use super::spill::SpillSpace;
use super::spine::{Budget, Spine, SpineWriter};
use super::stream::{Answer, HistoricalStream, answer};
use super::work::{Stop, blocking};
use crate::clock::StoreTime;
use crate::error::{Code, Error, Result};
use crate::log::WriteLog;
use crate::partition::Partitions;
use crate::registry::SnapshotReader;
use crate::registry::catalog::Snapshot;
use crate::registry::masking::Masking;
use crate::registry::reads::ReadKind;
use crate::runs::{Run, Telling, Watcher, Written};
use crate::tenancy::{Action, Held, Permit};

/// Opening the files of a view takes about as long as walking beside so many rows of a spine.
const PART_ROWS: usize = 8_192;

/// The bounds of historical reads.
#[derive(Clone, Debug)]
pub struct HistoryOptions {
    /// Bytes that one join may take for itself; what is more it spills.
    pub memory: usize,
    pub max_spine_rows: u64,
    /// Bytes of disk that one join may spill.
    pub max_spill: u64,
    /// Where joins spill.
    pub spill_directory: PathBuf,
    /// Pinned online reads that history answers at the same time.
    pub max_lookups: usize,
    /// Rows of an answer's batch at most.
    pub batch_rows: usize,
    /// Threads of one join.
    pub threads: usize,
    /// Batches that wait for a slow client at most.
    pub queued_batches: usize,
    /// How long a join waits for partitions to apply what was ingested before its cut-off.
    pub patience: Duration,
}

impl HistoryOptions {
    pub fn new(spill_directory: PathBuf) -> Self {
        Self {
            memory: 512 << 20,
            max_spine_rows: 1_000_000_000,
            max_spill: 64 << 30,
            spill_directory,
            max_lookups: 2,
            batch_rows: 16_384,
            threads: std::thread::available_parallelism().map_or(1, NonZero::get),
            queued_batches: 2,
            patience: Duration::from_secs(30),
        }
    }
}

impl HistoryOptions {
    /// RESOURCE_EXHAUSTED for a spine of more rows than may be.
    pub(super) fn check_rows(&self, rows: u64) -> Result<()> {
        let limit = self.max_spine_rows;
        if rows <= limit {
            return Ok(());
        }
        let message = format!("the spine has more than {limit} rows");
        let error = Error::new(Code::ResourceExhausted, "SPINE_TOO_LONG", message).with("limit", limit);
        Err(error.hint("ask in several parts, or raise `history.max_spine_rows`"))
    }
}

/// What history is read through.
#[derive(Clone, Debug)]
pub struct HistoryParts {
    pub snapshots: SnapshotReader,
    pub log: Arc<dyn WriteLog>,
    pub partitions: Partitions,
    pub tables: Arc<HistoryTables>,
    pub store_time: Arc<StoreTime>,
    /// Who is told of training sets that are made and not kept.
    pub watcher: Watcher,
}

/// Makes training sets. Cheap to clone.
#[derive(Clone, Debug)]
pub struct History {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub parts: HistoryParts,
    pub lookups: Arc<Semaphore>,
    pub options: HistoryOptions,
    pub metrics: Arc<HistoryMetrics>,
    /// How many were told of since the start.
    told: AtomicU64,
}

#[derive(Clone, Debug)]
pub struct HistoricalRequest {
    /// `name` or `name@N`.
    pub services: Vec<String>,
    /// `view:feature`.
    pub features: Vec<String>,
    /// The spine's column of event times.
    pub event_time: String,
    pub mode: Mode,
    /// Only rows ingested at or before it; `None`: before now.
    pub cutoff: Option<Micros>,
    pub with_status: bool,
    pub with_event_time: bool,
    /// The spine's columns.
    pub spine: SchemaRef,
}

/// Takes a spine, batch by batch.
#[derive(Debug)]
pub struct SpineIntake {
    history: Arc<Inner>,
    /// The one that the request was planned in.
    snapshot: Arc<Snapshot>,
    plan: Arc<Plan>,
    tenant: Name,
    cutoff: Option<Micros>,
    budget: Budget,
    /// `None`: a batch was refused, or its push was given up.
    taken: Option<Taken>,
}

/// The spine so far. The permit goes where its memory goes, so that a place is given back with it.
#[derive(Debug)]
struct Taken {
    writer: SpineWriter,
    permit: Permit,
    memory: Held,
}

impl History {
    pub fn new(parts: HistoryParts, options: HistoryOptions) -> Result<Self> {
        std::fs::create_dir_all(&options.spill_directory).map_err(JoinError::from)?;
        let lookups = Arc::new(Semaphore::new(options.max_lookups));
        let (metrics, told) = (Arc::default(), AtomicU64::new(0));
        Ok(Self { inner: Arc::new(Inner { parts, lookups, options, metrics, told }) })
    }

    /// What a request would do, and the columns of its answer. Reads nothing.
    pub fn plan(&self, permit: &Permit, request: &HistoricalRequest) -> Result<Plan> {
        Self::plan_in(&self.inner.parts.snapshots.load(), permit, request, Masking::AsGranted)
    }

    pub(super) fn plan_in(
        snapshot: &Snapshot,
        permit: &Permit,
        request: &HistoricalRequest,
        masking: Masking<'_>,
    ) -> Result<Plan> {
        permit.require(Action::ReadHistory)?;
        permit.check_reads(&request.services, &request.features)?;
        let tenant = snapshot.tenant(permit.tenant())?;
        let mut selection = snapshot.select(tenant, &request.services, &request.features)?;
        selection.require_unique_names()?;
        selection.require_training_rights()?;
        selection.mask(masking, permit.may_see_pii())?;
        let HistoricalRequest { event_time, mode, with_status, with_event_time, .. } = request.clone();
        Plan::new(&selection, request.spine.clone(), &Shape { event_time, mode, with_status, with_event_time })
    }

    /// Begins a training set, which holds the permit, and so its place among those being made, until
    /// it has ended.
    pub fn open(&self, permit: &Permit, request: HistoricalRequest) -> Result<SpineIntake> {
        let snapshot = self.inner.parts.snapshots.load();
        let plan = Arc::new(Self::plan_in(&snapshot, permit, &request, Masking::AsGranted)?);
        let budget = self.inner.budget(permit);
        let memory = permit.hold_training_memory(budget.memory)?;
        let writer = SpineWriter::new(plan.clone(), &budget);
        Ok(SpineIntake {
            history: self.inner.clone(),
            snapshot,
            taken: Some(Taken { writer, permit: permit.clone(), memory }),
            plan,
            tenant: permit.tenant().clone(),
            cutoff: request.cutoff,
            budget,
        })
    }

    /// What one training set may take.
    pub(super) fn budget(&self, permit: &Permit) -> Budget {
        self.inner.budget(permit)
    }

    /// The bytes that lie in spill files now.
    pub fn spilled_bytes(&self) -> u64 {
        self.inner.metrics.spilled_now()
    }

    pub fn metrics(&self) -> &HistoryMetrics {
        &self.inner.metrics
    }
}

impl SpineIntake {
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The rows taken so far.
    pub fn rows(&self) -> u64 {
        self.taken.as_ref().map_or(0, |taken| taken.writer.rows())
    }

    /// Takes the next rows; ready for more when it returns. After an error, or if the future is
    /// dropped, the training set can't be made any more.
    pub async fn push(&mut self, batch: RecordBatch) -> Result<()> {
        let mut taken = self.taken.take().ok_or_else(abandoned)?;
        self.history.options.check_rows(taken.writer.rows().saturating_add(batch.num_rows() as u64))?;
        let pushed = blocking(move |stop| {
            let pushed = standing_back(Work::Training, || taken.writer.push(&batch, stop));
            pushed.map_err(|error| Error::internal(format!("no thread for a spine: {error}")))??;
            Ok(taken)
        });
        self.taken = Some(pushed.await?);
        Ok(())
    }

    /// The spine is whole: fixes what is read, and begins to read.
    pub async fn finish(self) -> Result<HistoricalStream> {
        let Self { history, snapshot, plan, tenant, cutoff, budget, taken } = self;
        let Taken { writer, permit, memory } = taken.ok_or_else(abandoned)?;
        let telling = history.telling(&tenant, &plan);
        let beginning = async {
            let (spine, permit, memory) = blocking(move |stop| Ok((writer.finish(stop)?, permit, memory))).await?;
            let task = history.task(&snapshot, plan.clone(), spine, budget, cutoff).await?;
            Ok::<_, Error>((task, permit, memory))
        };
        let (task, permit, memory) = match beginning.await {
            Ok(begun) => begun,
            Err(error) => {
                telling.end(Err(&error), STOPPED);
                return Err(error);
            }
        };
        tracing::debug!(plan = %task.reading.shown(&plan), "a training set is planned");
        history.note_read(&permit, &plan);
        let (sender, stream) = answer(plan, task.reading.clone(), history.options.queued_batches);
        let span = tracing::debug_span!("join", %tenant, rows = task.spine.rows, views = task.views.len());
        tokio::task::spawn_blocking(move || {
            let _span = span.entered();
            // A thread of the runtime has to serve others afterwards, and can't be raised again.
            let not_started = |error| Error::internal(format!("no thread for a training set: {error}"));
            let made = standing_back(Work::Training, || task.run(&sender));
            let outcome = made.unwrap_or_else(|error| Err(not_started(error).into()));
            history.metrics.note(&tenant, &outcome);
            let outcome = outcome.map_err(Error::from);
            if let Err(error) = &outcome {
                tracing::info!(%error, "a training set was not made");
            }
            // Whoever sees the end may ask for the next.
            drop((permit, memory));
            telling.end(outcome.as_ref().map(|report| pulled(report.rows)), STOPPED);
            sender.end(outcome);
        });
        Ok(stream)
    }
}

impl Inner {
    /// Counts a training set as read.
    pub(super) fn note_read(&self, permit: &Permit, plan: &Plan) {
        self.parts.snapshots.reads().note(permit.caller(), &plan.reads, ReadKind::Training);
    }

    /// Tells that a training set begins that is not kept.
    pub(super) fn telling(&self, tenant: &Name, plan: &Plan) -> Telling {
        let (made_of, begun) = (plan.made_of.clone(), self.parts.store_time.read());
        let run = Run::Pull { made_of, begun, number: self.told.fetch_add(1, Ordering::Relaxed) };
        Telling::begin(self.parts.watcher.clone(), tenant.clone(), run)
    }

    /// What one training set of the tenant may take.
    pub(super) fn budget(&self, permit: &Permit) -> Budget {
        let &HistoryOptions { memory, batch_rows, threads, max_spill, .. } = &self.options;
        let memory = permit.training_memory(memory);
        let spill = SpillSpace::new(&self.options.spill_directory, max_spill, self.metrics.clone());
        Budget { memory, spill, batch_rows, threads, part_rows: PART_ROWS }
    }

    /// Fixes what is read for a whole spine, once everything up to the cut-off can be.
    pub(super) async fn task(
        &self,
        snapshot: &Snapshot,
        plan: Arc<Plan>,
        spine: Spine,
        budget: Budget,
        cutoff: Option<Micros>,
    ) -> Result<Task> {
        let HistoryParts { log, partitions, tables, .. } = &self.parts;
        let cut = Cut::take(log.as_ref(), partitions, cutoff, self.options.patience).await?;
        let mut views: BTreeMap<ViewId, ViewRows> = BTreeMap::new();
        for join in &plan.joins {
            if let Entry::Vacant(place) = views.entry(join.view.id) {
                place.insert(cut.rows_of(tables, snapshot, &join.view).await?);
            }
        }
        let tables: Vec<TableFacts> = plan.joins.iter().map(|join| views[&join.view.id].facts(cut.cutoff)).collect();
        let reading = Arc::new(Reading::new(&plan, spine.facts(), &tables, &budget));
        Ok(Task { plan, reading, spine, budget, views, cutoff: cut.cutoff })
    }
}

/// A join with all that it reads.
pub(super) struct Task {
    plan: Arc<Plan>,
    reading: Arc<Reading>,
    spine: Spine,
    budget: Budget,
    views: BTreeMap<ViewId, ViewRows>,
    cutoff: Micros,
}

impl Task {
    fn run(self, answer: &Answer) -> Result<Report, JoinError> {
        let (plan, cutoff) = (self.plan.clone(), self.cutoff);
        let (findings, tables) = self.walk(&answer.stop)?;
        let outcome = findings.answer(&answer.stop, |batch| answer.send(batch))?;
        Ok(report(&plan, tables, cutoff, outcome))
    }

    /// Finds all rows that count, and lets go of history: a slow client must not keep old rows on disk.
    pub(super) fn walk(self, stop: &Stop) -> Result<(Findings, Vec<TableVersion>), JoinError> {
        let Self { plan, reading, spine, budget, views, cutoff } = self;
        let (first_time, last_time) = (spine.first_time, spine.last_time);
        let open = |number: usize, part: &SortedSpine| {
            let join = &plan.joins[number];
            let (slots, memory) = (&part.slots, budget.for_runs(&plan));
            let wanted = FanIn { slots, cutoff: Some(cutoff), memory, spill: &budget.spill };
            let is_told = plan.joins[..number].iter().all(|other| other.view.id != join.view.id);
            let share = Share { slots: part.range, is_told };
            let keys = if reading.access(number) == Access::Seek { part.sought().map(Arc::new) } else { None };
            let (until, cutoff) = (Some(last_time), Some(cutoff));
            let sought = Arc::new(Sought { slots: Some(slots.clone()), until, cutoff, keys });
            let view = &views[&join.view.id];
            Ok(RunRows::new(view.open(&join.features, &wanted, &sought, share, stop)?))
        };
        let findings = Findings::walk(&plan, spine, &budget, open, stop)?;
        let version = |view: &ViewRows| {
            let lookups = plan.lookups.iter().filter(|lookup| plan.joins[lookup.join].view.id == view.view().id);
            let mut ttls = lookups.map(|lookup| lookup.ttl);
            let name = plan.joins.iter().find(|join| join.view.id == view.view().id).map(|join| join.name.as_str());
            let ttl = ttls.try_fold(0, |longest: Micros, ttl| Some(longest.max(ttl?)));
            view.version(name.unwrap_or_else(|| view.view().name.as_str()), first_time, ttl)
        };
        Ok((findings, views.values().map(version).collect()))
    }
}

/// What came of a training set that is not kept.
pub(super) fn pulled(rows: u64) -> Vec<Written> {
    vec![Written { name: String::new(), rows, bytes: None }]
}

pub(super) fn report(plan: &Plan, tables: Vec<TableVersion>, cutoff: Micros, outcome: Outcome) -> Report {
    let names = plan.columns.iter().map(|column| column.name.clone());
    Report {
        rows: outcome.rows,
        differing_rows: outcome.differing,
        row_view_pairs: outcome.row_view_pairs,
        mode: plan.mode,
        cutoff,
        registry_revision: plan.revision,
        services: plan.services.clone(),
        spine_hash: outcome.spine_hash,
        content_hash: outcome.content_hash,
        tables,
        nulls: names.zip(outcome.nulls).collect(),
        masked: plan.masked().map(str::to_owned).collect(),
    }
}

fn abandoned() -> Error {
    Error::new(Code::FailedPrecondition, "SPINE_ABANDONED", "an earlier batch of the spine was not taken")
}
