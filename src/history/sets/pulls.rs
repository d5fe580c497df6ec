//! Pulling an endpoint: some rows of a prepared training set, batch by batch, as fast as the client
//! takes them. A pull holds a place among its tenant's until its work ends; it takes none among the
//! training sets that are made, since it mostly waits for its client.

use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use futures::Stream;
use hydrant_storage::names::Name;
use hydrant_storage::threads::{Work, standing_back};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::super::failure::JoinError;
use super::super::work::{Stop, Waiter, begin};
use super::TrainingSets;
use super::jobs::{Admission, Kept, Tells};
use super::prepared::Prepared;
use crate::error::{Code, Error, Result};
use crate::tenancy::{Action, Permit};

#[derive(Clone, Copy, Debug)]
pub struct PullOptions {
    /// Of each tenant at a time.
    pub max_pulls: usize,
    /// Batches that wait for a slow client at most.
    pub queued_batches: usize,
}

/// How long a pull waits for another of its tenant to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pulls of a tenant that wait at a time, for each that is under way.
const MAX_WAITING: usize = 8;

/// The places of all tenants' pulls.
#[derive(Debug)]
pub struct Pulls {
    options: PullOptions,
    tenants: Mutex<Vec<(Name, Places)>>,
}

#[derive(Clone, Debug)]
struct Places {
    under_way: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    limit: usize,
}

/// A pull that waits: for a walk, and then for its place.
#[derive(Debug)]
pub(super) struct Waiting {
    places: Places,
    _line: OwnedSemaphorePermit,
}

/// The rows of an endpoint. Dropping it ends the work.
#[derive(Debug)]
pub struct PulledRows {
    schema: SchemaRef,
    batches: mpsc::Receiver<Result<RecordBatch>>,
    _waiter: Waiter,
}

impl Pulls {
    pub fn new(options: PullOptions) -> Self {
        Self { options, tenants: Mutex::default() }
    }

    /// Lines up for a place; RESOURCE_EXHAUSTED if too many wait already.
    pub(super) fn line_up(&self, tenant: &Name) -> Result<Waiting> {
        let places = self.of(tenant);
        let line = places.waiting.clone().try_acquire_owned();
        line.map(|line| Waiting { _line: line, places: places.clone() }).map_err(|_| places.refused())
    }

    /// There are as many tenants as the registry has made.
    fn of(&self, tenant: &Name) -> Places {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, places)) = tenants.iter().find(|(name, _)| name == tenant) {
            return places.clone();
        }
        let max = self.options.max_pulls;
        let places = Places {
            under_way: Arc::new(Semaphore::new(max)),
            waiting: Arc::new(Semaphore::new(max * MAX_WAITING)),
            limit: max,
        };
        tenants.push((tenant.clone(), places.clone()));
        places
    }
}

impl Places {
    fn refused(&self) -> Error {
        let limit = self.limit;
        let message = format!("{limit} endpoints are pulled at a time already ('training_sets.max_pulls')");
        Error::new(Code::ResourceExhausted, "TOO_MANY_PULLS", message)
            .hint("pull as many at a time as there may be, or raise the option")
            .retry_after(Duration::from_secs(1))
            .with("limit", limit)
    }
}

impl Waiting {
    /// A place; RESOURCE_EXHAUSTED if there is none for long.
    pub(super) async fn enter(self) -> Result<OwnedSemaphorePermit> {
        match tokio::time::timeout(PATIENCE, self.places.under_way.clone().acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(self.places.refused()),
        }
    }
}

impl TrainingSets {
    /// Some rows of a training set: the same whenever they are asked for. History is walked first where
    /// it has not been; `admission` is then asked for leave. Ends (UNAUTHENTICATED) with the caller's
    /// credential until the first rows; from then on whoever takes them looks to that.
    pub async fn pull(
        &self,
        permit: Permit,
        prepared: &Prepared,
        rows: Range<u64>,
        admission: Admission,
    ) -> Result<PulledRows> {
        permit.require(Action::ReadHistory)?;
        prepared.check_rows(&rows)?;
        let waiting = self.pulls().line_up(permit.tenant())?;
        // One that is saved was told of when it was, whoever makes it again.
        let is_saved = self.inner.catalog.load().of(permit.tenant()).any(|set| set.is_made_by(&prepared.request));
        let tells = if is_saved { Tells::Nothing } else { Tells::Itself };
        let kept = permit.while_known(self.found(prepared, admission, tells)).await??;
        // A walk may take longer than one waits for a place.
        let place = waiting.enter().await?;
        // Once, however many endpoints there are.
        if rows.start == 0 {
            self.history().inner.note_read(&permit, &prepared.plan);
        }
        let (sender, batches) = mpsc::channel(self.pulls().options.queued_batches.max(1));
        let (waiter, stop) = begin();
        let metrics = self.history().inner.metrics.clone();
        tokio::task::spawn_blocking(move || {
            let pulled = answer(&kept, rows.clone(), &stop, &sender);
            metrics.note_pull(permit.tenant(), rows.end - rows.start, &pulled);
            drop((kept, place, permit));
            if let Err(error) = pulled {
                // A client that has gone needs no answer.
                drop(sender.blocking_send(Err(error.into())));
            }
        });
        Ok(PulledRows { schema: prepared.plan.output.clone(), batches, _waiter: waiter })
    }
}

/// To be called where it may block.
fn answer(
    kept: &Kept,
    rows: Range<u64>,
    stop: &Stop,
    batches: &mpsc::Sender<Result<RecordBatch>>,
) -> Result<(), JoinError> {
    let not_started = |error| Error::internal(format!("no thread for an endpoint: {error}"));
    let send = |batch| batches.blocking_send(Ok(batch)).map_err(|_| JoinError::Stopped);
    let answered = standing_back(Work::Training, || kept.findings.answer_rows(rows, stop, send));
    answered.unwrap_or_else(|error| Err(not_started(error).into()))
}

impl PulledRows {
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}

impl Stream for PulledRows {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.batches.poll_recv(context)
    }
}
