//! Creating a saved training set: it is made to its end once, which gives its hash and its statistics,
//! and kept only then; whoever gives up before leaves nothing. Verifying one makes it again, from a walk
//! of its own, and compares.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError};

use arrow_array::RecordBatch;
use hydrant_storage::names::Name;
use hydrant_storage::threads::{Work, standing_back};

use super::super::asof::Mode;
use super::super::execute::Outcome;
use super::super::failure::JoinError;
use super::super::report::TableVersion;
use super::super::work::blocking;
use super::super::zip::StatusCounts;
use super::jobs::{Admission, Kept, Progress, Tells, Walk};
use super::prepared::{Prepared, StoredRequest};
use super::saved::{SavedSet, SavedTable};
use super::statistics::{ColumnStatistics, Counting};
use super::{Needs, TrainingSets, hold_services, too_many};
use crate::error::{Error, Result};
use crate::registry::uses::UseHold;
use crate::runs::{Run, Telling, Written};
use crate::tenancy::{Action, Permit};

/// What is to be saved.
#[derive(Clone, Debug)]
pub struct NewSet {
    pub name: Name,
    /// By services alone, whose versions don't change.
    pub request: StoredRequest,
}

/// A training set that is about to be saved, or being made.
#[derive(Debug)]
pub struct Creation {
    making: Making,
    name: Name,
    permit: Permit,
    /// Nobody deletes the services meanwhile.
    _services: Vec<UseHold>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Created {
    pub set: SavedSet,
    /// `false`: the newest version of the name has the same rows, asked for in the same way.
    pub is_new: bool,
}

/// A saved training set that is about to be made again, or being made.
#[derive(Debug)]
pub struct Verification {
    making: Making,
    set: SavedSet,
    permit: Permit,
    walk: OnceLock<Walk>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// The rows have the hash that they had.
    pub is_same: bool,
    /// Of the rows as they are now.
    pub content_hash: String,
    pub rows: u64,
    /// With what it has lost until the end.
    pub set: SavedSet,
}

/// A prepared training set, made from its first row to its last.
#[derive(Debug)]
struct Making {
    sets: TrainingSets,
    prepared: Prepared,
    rows_done: Arc<AtomicU64>,
}

/// What is known at the end.
struct Made {
    outcome: Outcome,
    statistics: Vec<ColumnStatistics>,
}

impl TrainingSets {
    /// Checks and plans a training set that is to be saved. Until what is returned is dropped, the
    /// versions of its services stay.
    pub async fn create(&self, permit: &Permit, new: NewSet) -> Result<Creation> {
        permit.require(Action::ReadHistory)?;
        let NewSet { name, request } = new;
        if request.services.is_empty() || !request.features.is_empty() {
            let message = "a training set is saved by feature services, whose versions never change";
            return Err(Error::invalid("TRAINING_SET_WITHOUT_SERVICE", message)
                .hint("apply a FeatureService with the features that the model needs, and name it"));
        }
        // Before the spine is looked for, as of all that is read.
        permit.check_reads(&request.services, &[])?;
        let prepared = self.prepare(permit, request).await?;
        let being_made = format!("{name} (being made)");
        let services = hold_services(&self.inner.registry, permit.tenant(), &prepared.request.services, &being_made);
        // A deletion that was begun before the services were held has ended by now.
        self.inner.registry.settle().await;
        let prepared = self.plan(permit, prepared.request)?;
        let making = Making { sets: self.clone(), prepared, rows_done: Arc::default() };
        Ok(Creation { making, name, permit: permit.clone(), _services: services })
    }

    /// Begins to make a saved training set again.
    pub async fn verify(&self, permit: &Permit, name: &Name, version: Option<u32>) -> Result<Verification> {
        let (set, prepared) = self.prepare_saved(permit, name, version).await?;
        let making = Making { sets: self.clone(), prepared, rows_done: Arc::default() };
        Ok(Verification { making, set, permit: permit.clone(), walk: OnceLock::new() })
    }

    /// Keeps a set under the next number of its name; runs to its end even if nobody waits for it.
    async fn save(&self, permit: Permit, prepared: Prepared, mut set: SavedSet) -> Result<Created> {
        let sets = self.clone();
        // Whoever asked may go while it is saved, and the services must stay.
        let meanwhile = hold_services(&self.inner.registry, permit.tenant(), &set.services, set.name.as_str());
        let saving = tokio::spawn(async move {
            let _meanwhile = meanwhile;
            let (inner, tenant) = (sets.inner.as_ref(), permit.tenant());
            let mut persisted = inner.writer.lock().await;
            // An erasure may have taken rows of it since it was read.
            inner.spines.get(tenant, set.spine)?;
            sets.note_what_went(tenant, &mut set);
            let catalog = inner.catalog.load_full();
            if let Some(newest) = catalog.find(tenant, &set.name, None).ok().filter(|newest| newest.is_same_as(&set)) {
                return Ok(Created { set: newest.clone(), is_new: false });
            }
            let (kept, limit) = (catalog.of(tenant).count(), inner.max_sets);
            if kept >= limit {
                let told = format!("{kept} training sets are saved already, and 'training_sets.max_saved' is {limit}");
                return Err(too_many(told).with("limit", limit));
            }
            let (next, set) = catalog.with(tenant, set);
            let needs = Needs::of(&inner.registry, tenant, &set, Some(prepared.spine));
            sets.persist(&mut persisted, next).await?;
            let key = (tenant.clone(), set.name.clone(), set.version);
            inner.needs.lock().unwrap_or_else(PoisonError::into_inner).insert(key, needs);
            tracing::info!(training_set = set.reference(), rows = set.rows, "a training set was saved");
            Ok(Created { set, is_new: true })
        });
        saving.await.map_err(|failed| Error::internal(format!("saving a training set ended early: {failed}")))?
    }
}

impl Creation {
    pub fn prepared(&self) -> &Prepared {
        &self.making.prepared
    }

    /// How far it is, and how many rows are done of what comes behind the walk.
    pub fn progress(&self) -> (Progress, u64) {
        let Making { sets, prepared, rows_done } = &self.making;
        (sets.progress(prepared), rows_done.load(Ordering::Relaxed))
    }

    /// Makes it and keeps it. Dropping the future stops it, and then nothing is kept.
    pub async fn finish(&self, admission: Admission) -> Result<Created> {
        let inner = &self.making.sets.inner;
        let (name, made_of) = (self.name.clone(), self.making.prepared.plan.made_of.clone());
        let run = Run::TrainingSet { name, made_of, begun: self.making.sets.now() };
        let telling = Telling::begin(inner.watcher.clone(), self.permit.tenant().clone(), run);
        let outcome = self.make(admission).await;
        let written =
            |created: &Created| vec![Written { name: created.set.reference(), rows: created.set.rows, bytes: None }];
        // Whoever gives up drops the future, which is told too.
        telling.end(outcome.as_ref().map(written), "");
        outcome
    }

    async fn make(&self, admission: Admission) -> Result<Created> {
        let Making { sets, prepared, .. } = &self.making;
        let making = async {
            let kept = sets.found(prepared, admission, Tells::Nothing).await?;
            let made = self.making.answer(kept.clone()).await?;
            Ok::<_, Error>((kept, made))
        };
        let (kept, made) = self.permit.while_known(making).await??;
        self.permit.check_still()?;
        sets.history().inner.note_read(&self.permit, &prepared.plan);
        let set = self.described(&kept, made)?;
        sets.save(self.permit.clone(), prepared.clone(), set).await
    }

    fn described(&self, kept: &Kept, made: Made) -> Result<SavedSet> {
        let Prepared { request, plan, spine, .. } = &self.making.prepared;
        let Made { outcome, statistics } = made;
        let fields = plan.output.fields().iter();
        let table = |table: &TableVersion| SavedTable {
            view: table.view.clone(),
            view_version: table.view_version,
            delta_version: table.delta_version,
            tail_rows: table.tail_rows,
            definition_revision: table.definition_revision,
            lacks_before: table.lacks_before,
        };
        Ok(SavedSet {
            name: self.name.clone(),
            version: 0,
            services: request.services.clone(),
            spine: spine.id,
            spine_hash: outcome.spine_hash,
            event_time: request.event_time.clone(),
            is_final: request.mode == Mode::Final,
            cutoff: request.cutoff,
            with_status: request.with_status,
            with_event_time: request.with_event_time,
            rows: outcome.rows,
            spine_columns: plan.spine.fields().len(),
            columns: fields.map(|field| (field.name().clone(), field.data_type().to_string())).collect(),
            content_hash: outcome.content_hash,
            differing_rows: outcome.differing,
            row_view_pairs: outcome.row_view_pairs,
            registry_revision: plan.revision,
            tables: kept.tables.iter().map(table).collect(),
            statistics,
            masked: request.masked.clone(),
            lost: Vec::new(),
            too_old: Vec::new(),
            first_time: Some(kept.findings.first_time),
            created: self.making.sets.now(),
            created_by: self.permit.caller().to_owned(),
        })
    }
}

impl Verification {
    pub fn prepared(&self) -> &Prepared {
        &self.making.prepared
    }

    pub fn progress(&self) -> (Progress, u64) {
        let walk = self.walk.get().map_or(Progress::NotBegun, Walk::progress);
        (walk, self.making.rows_done.load(Ordering::Relaxed))
    }

    /// Makes it again. Dropping the future stops it, and so does the end of the caller's credential
    /// (UNAUTHENTICATED).
    pub async fn finish(&self, admission: Admission) -> Result<Verified> {
        let making = async {
            let kept = self.making.sets.found_anew(&self.making.prepared, admission, &self.walk).await?;
            self.making.answer(kept).await
        };
        let Outcome { content_hash, rows, .. } = self.permit.while_known(making).await??.outcome;
        let is_same = content_hash == self.set.content_hash && rows == self.set.rows;
        // What it has lost may have been noted meanwhile.
        let (tenant, version) = (&self.making.prepared.tenant, Some(self.set.version));
        let newest = self.making.sets.inner.catalog.load().find(tenant, &self.set.name, version).cloned();
        let set = newest.unwrap_or_else(|_| self.set.clone());
        Ok(Verified { is_same, content_hash, rows, set })
    }
}

impl Making {
    /// Goes through all rows, in a pull's place.
    async fn answer(&self, kept: Arc<Kept>) -> Result<Made> {
        let place = self.sets.pulls().line_up(&self.prepared.tenant)?.enter().await?;
        let (plan, rows_done) = (self.prepared.plan.clone(), self.rows_done.clone());
        blocking(move |stop| {
            let mut counting = Counting::new(&plan);
            let count = |batch: RecordBatch| {
                rows_done.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
                counting.update(&batch)
            };
            let not_started = |error| Error::internal(format!("no thread for a training set: {error}"));
            let answered = standing_back(Work::Training, || kept.findings.answer_counting(stop, count));
            let (outcome, statuses): (Outcome, Vec<StatusCounts>) =
                answered.unwrap_or_else(|error| Err(JoinError::from(not_started(error))))?;
            let statistics = counting.finish(&plan, &outcome.nulls, &statuses);
            drop(place);
            Ok(Made { outcome, statistics })
        })
        .await
    }
}
