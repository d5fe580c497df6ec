//! Feature values for inference: the row that counts for each key, as of one instant, in columns
//! with a status for every cell. A read never queues behind a write and never blocks the calling
//! thread on a disk; missing data is a status, and only a wrong or refused request is an error.

mod ages;
mod answer;
mod bulk;
mod cells;
mod gone;
mod keys;
mod metrics;
mod misses;
mod numbers;
mod past;
mod pinned;
mod read;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::ArrayRef;
use dashmap::DashMap;
use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;
use tokio::sync::Semaphore;
use tracing::Instrument as _;

pub use self::ages::ServedRows;
#[cfg(test)]
pub(crate) use self::answer::MadeUp;
pub use self::answer::{AnswerColumn, EventTimes, OnlineAnswer, to_column};
pub use self::bulk::{BulkRead, Pieces};
pub use self::cells::{AnswerCells, CellBytes, CellValue, ColumnCells};
pub use self::metrics::ServingMetrics;
pub use self::pinned::PinnedHistory;

use self::keys::RequestKeys;
use self::misses::Flights;
use self::read::Limits;
use crate::clock::StoreTime;
use crate::error::{Code, Error, Result};
use crate::partition::Partitions;
use crate::registry::SnapshotReader;
use crate::registry::reads::ReadKind;
use crate::registry::selection::{SelectedView, Selection};
use crate::tenancy::{Action, Permit};

/// Bounds of online reads.
#[derive(Clone, Debug)]
pub struct ServingSettings {
    /// Rows of entity keys in one request.
    pub max_rows: usize,
    /// Rows × columns of one request.
    pub max_cells: usize,
    /// The time of a request that states no deadline.
    pub default_deadline: Duration,
}

impl Default for ServingSettings {
    fn default() -> Self {
        Self { max_rows: 100_000, max_cells: 10_000_000, default_deadline: Duration::from_secs(30) }
    }
}

/// One online read.
#[derive(Clone, Debug, Default)]
pub struct OnlineRequest {
    /// `name` or `name@N`.
    pub services: Vec<String>,
    /// `view:feature`.
    pub features: Vec<String>,
    /// One column per join key name, each of N values, or of one that then holds for all N rows.
    pub entities: Vec<(String, ArrayRef)>,
    /// As of this instant instead of now.
    pub at: Option<Micros>,
    /// Wait until this frame of the log can be read.
    pub at_least: Option<u64>,
    /// NOT_READY and DAMAGED cells fail the whole call.
    pub strict: bool,
    pub include_event_times: bool,
    pub shape: AnswerShape,
    pub deadline: Option<Instant>,
    /// When the request arrived, if that was before it is handed in: its budget runs from then.
    pub arrived: Option<Instant>,
    /// After this long, what has arrived is the answer; the rest is NOT_READY. It stands in the place
    /// of the services' own.
    pub latency_budget: Option<Duration>,
}

/// What the columns of an answer are to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AnswerShape {
    #[default]
    Columns,
    /// A table, in which no two columns have one name.
    Table,
    /// All of them numbers, or vectors of numbers.
    Matrix,
}

/// What an answer was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// The instant of the read.
    pub t: Micros,
    pub registry_revision: u64,
    /// Per view read, by name and version.
    pub views: Vec<ViewProvenance>,
    /// Entity keys that history answered.
    pub rows_from_history: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewProvenance {
    pub view: Name,
    /// Whose it is, where it is another tenant's.
    pub owner: Option<Name>,
    pub version: u32,
    /// The newest among the partitions touched; `None` where they hold no row of the view.
    pub newest_event_time: Option<Micros>,
    /// Every row accepted up to this ingest time is in the answer: the minimum over the partitions
    /// touched, 0 if one of them did not answer.
    pub complete_through: Micros,
    /// The read is of an instant before this one, at which rows that counted may be gone by the view's retention.
    /// `None`: none are.
    pub lacks_before: Option<Micros>,
}

impl ViewProvenance {
    /// Of a view of which nothing has been read yet.
    fn of(selected: &SelectedView) -> Self {
        let (view, owner) = (selected.view.name.clone(), selected.owner.clone());
        Self {
            view,
            owner,
            version: selected.view.version,
            newest_event_time: None,
            complete_through: 0,
            lacks_before: None,
        }
    }

    /// `name`, or `owner/name` of another tenant's.
    pub fn reference(&self) -> String {
        match &self.owner {
            None => self.view.to_string(),
            Some(owner) => format!("{owner}/{}", self.view),
        }
    }
}

/// The use case. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Serving {
    partitions: Partitions,
    snapshots: SnapshotReader,
    store_time: Arc<StoreTime>,
    history: Arc<dyn PinnedHistory>,
    settings: ServingSettings,
    /// Of each tenant the one piece of a read in bulk that may wait for a disk...
    bulk_disk: Arc<DashMap<Name, Arc<Semaphore>>>,
    /// ...and of all the one that may ask history.
    bulk_history: Arc<Semaphore>,
    flights: Flights,
    metrics: Arc<ServingMetrics>,
    served: Arc<ServedRows>,
}

impl Serving {
    pub fn new(
        partitions: Partitions,
        snapshots: SnapshotReader,
        store_time: Arc<StoreTime>,
        history: Arc<dyn PinnedHistory>,
        settings: ServingSettings,
    ) -> Self {
        Self {
            partitions,
            snapshots,
            store_time,
            history,
            settings,
            bulk_disk: Arc::default(),
            bulk_history: Arc::new(Semaphore::new(1)),
            flights: Flights::default(),
            metrics: Arc::default(),
            served: Arc::default(),
        }
    }

    /// Answers one read. Refusals: INVALID_ARGUMENT (columns, bounds, an instant that has not come),
    /// NOT_FOUND (services, features), FAILED_PRECONDITION (a view that isn't online, or that the
    /// past can't be read of), DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED (history answers as many reads as
    /// it may); with `strict` also UNAVAILABLE and DATA_LOSS.
    pub async fn get(&self, permit: &Permit, request: OnlineRequest) -> Result<OnlineAnswer> {
        let tenant = permit.tenant();
        let answered = self.answer(permit, request).instrument(tracing::debug_span!("online_read", %tenant)).await;
        match &answered {
            Ok(answer) => {
                self.metrics.requests.add_for(tenant, 1);
                self.metrics.cells.add_for(tenant, answer.cell_count() as u64);
            }
            Err(_) => self.metrics.refused.add_for(tenant, 1),
        }
        answered
    }

    pub fn metrics(&self) -> &ServingMetrics {
        &self.metrics
    }

    /// How old the rows are that answer reads.
    pub fn served(&self) -> &Arc<ServedRows> {
        &self.served
    }

    async fn answer(&self, permit: &Permit, request: OnlineRequest) -> Result<OnlineAnswer> {
        if !in_bulk(permit) {
            permit.require(Action::ReadOnline)?;
        }
        let begun = request.arrived.unwrap_or_else(Instant::now);
        let selection = self.select(permit, &request)?;
        // Of many keys the instant that all pieces have in common may be the server's own choice.
        if request.at.is_some() && !in_bulk(permit) {
            selection.require_training_rights()?;
        }
        let keys = RequestKeys::read(&selection, &request.entities, &self.settings)?;
        permit.charge_keys(|| keys.distinct(&selection))?;
        let deadline = request.deadline.unwrap_or(begun + self.settings.default_deadline);
        let budget = budget_of(permit, &request, &selection);
        let limits = Limits { deadline, budget_end: budget.and_then(|budget| begun.checked_add(budget)) };
        let read = self.read(permit, &request, &selection, &keys, limits).await?;
        if request.at.is_none() {
            self.served.note(permit.tenant(), &selection, &read);
        }
        let answer = OnlineAnswer::new(selection, keys, read, &request)?;
        // Of many keys the stream was counted when it began.
        if !in_bulk(permit) {
            self.snapshots.reads().note(permit.caller(), answer.selection().reads(), ReadKind::Online);
        }
        Ok(answer)
    }

    /// What a request asks for, if it can be read online and answered in its form.
    fn select(&self, permit: &Permit, request: &OnlineRequest) -> Result<Arc<Selection>> {
        permit.check_reads(&request.services, &request.features)?;
        let snapshot = self.snapshots.load();
        let tenant = snapshot.tenant(permit.tenant())?;
        let selection = snapshot.selection(tenant, &request.services, &request.features, permit.may_see_pii())?;
        refuse_offline_views(&selection)?;
        match request.shape {
            AnswerShape::Columns => {}
            AnswerShape::Table => selection.require_unique_names()?,
            AnswerShape::Matrix => selection.require_numbers()?,
        }
        Ok(selection)
    }
}

/// Whether what is read is a piece of many keys, which nobody waits for.
fn in_bulk(permit: &Permit) -> bool {
    permit.action() == Action::ReadInBulk
}

/// The request's latency budget, or else the shortest among its services. Those are set for inference:
/// a read of the past, or in bulk, has none but its own.
fn budget_of(permit: &Permit, request: &OnlineRequest, selection: &Selection) -> Option<Duration> {
    if request.latency_budget.is_some() || request.at.is_some() || in_bulk(permit) {
        return request.latency_budget;
    }
    let budgets = selection.services.iter().filter_map(|service| service.version.latency_budget);
    budgets.min().map(|micros| Duration::from_micros(micros.max(0).unsigned_abs()))
}

fn refuse_offline_views(selection: &Selection) -> Result<()> {
    match selection.lookups.iter().find(|lookup| !lookup.view.online) {
        None => Ok(()),
        Some(lookup) => {
            let name = &lookup.view.name;
            let message = format!("view '{name}' is not kept online (online: false)");
            Err(Error::new(Code::FailedPrecondition, "VIEW_NOT_ONLINE", message).with("view", name))
        }
    }
}
