//! Feature values for inference: the row that counts for each key, as of one instant, in columns
//! with a status for every cell. A read never queues behind a write and never blocks the calling
//! thread on a disk; missing data is a status, and only a wrong or refused request is an error.

mod answer;
mod keys;
mod metrics;
mod pinned;
mod read;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::ArrayRef;
use hydrant_storage::names::Name;
use hydrant_storage::order::{CellStatus, Micros};
use hydrant_storage::value::DataType;
use tokio::sync::Semaphore;
use tracing::Instrument as _;

pub use self::metrics::ServingMetrics;
pub use self::pinned::PinnedHistory;

use self::keys::RequestKeys;
use self::read::Limits;
use crate::clock::StoreTime;
use crate::error::{Code, Error, Result};
use crate::partition::Partitions;
use crate::registry::SnapshotReader;
use crate::registry::selection::Selection;
use crate::tenancy::{Action, Permit};

/// Bounds of online reads.
#[derive(Clone, Debug)]
pub struct ServingSettings {
    /// Rows of entity keys in one request.
    pub max_rows: usize,
    /// Rows × columns of one request.
    pub max_cells: usize,
    /// Reads that may wait for a disk at a time, over all requests.
    pub read_threads: usize,
    /// The time of a request that states no deadline.
    pub default_deadline: Duration,
}

impl Default for ServingSettings {
    fn default() -> Self {
        Self { max_rows: 100_000, max_cells: 10_000_000, read_threads: 4, default_deadline: Duration::from_secs(30) }
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
    pub deadline: Option<Instant>,
}

#[derive(Clone, Debug)]
pub struct OnlineAnswer {
    /// In the frozen order of the services, then the single features; each once.
    pub columns: Vec<AnswerColumn>,
    /// In the order of the request.
    pub services: Vec<AnswerService>,
    /// The columns of the single features, in the order of the request.
    pub features: Vec<usize>,
    /// N.
    pub rows: usize,
    /// One per lookup, where asked for.
    pub event_times: Vec<EventTimes>,
    pub provenance: Provenance,
}

/// The values of one feature.
#[derive(Clone, Debug)]
pub struct AnswerColumn {
    pub name: String,
    pub data_type: DataType,
    /// Of [`DataType::to_arrow`]; N values, or one where all its keys had length 1. Null where the
    /// status gives no value and there is no default.
    pub values: ArrayRef,
    /// One per value, or a single one where all are alike.
    pub statuses: Vec<CellStatus>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerService {
    pub service: Name,
    pub version: u32,
    /// Indices into the answer's columns, in the frozen order.
    pub columns: Vec<usize>,
}

/// The event times of the rows that counted, per view and key mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventTimes {
    pub view: Name,
    /// The request column of each join key.
    pub keys: Vec<Name>,
    /// `None` where no row counts; as long as the lookup's columns.
    pub times: Vec<Option<Micros>>,
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
    pub version: u32,
    /// The newest among the partitions touched; `None` where they hold no row of the view.
    pub newest_event_time: Option<Micros>,
    /// Every row accepted up to this ingest time is in the answer: the minimum over the partitions
    /// that answered, 0 where none did.
    pub complete_through: Micros,
}

/// The use case. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Serving {
    partitions: Partitions,
    snapshots: SnapshotReader,
    store_time: Arc<StoreTime>,
    history: Arc<dyn PinnedHistory>,
    settings: ServingSettings,
    blocking: Arc<Semaphore>,
    metrics: Arc<ServingMetrics>,
}

impl Serving {
    pub fn new(
        partitions: Partitions,
        snapshots: SnapshotReader,
        store_time: Arc<StoreTime>,
        history: Arc<dyn PinnedHistory>,
        settings: ServingSettings,
    ) -> Self {
        let blocking = Arc::new(Semaphore::new(settings.read_threads));
        Self { partitions, snapshots, store_time, history, settings, blocking, metrics: Arc::default() }
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
                let cells: usize = answer.columns.iter().map(|column| column.values.len()).sum();
                self.metrics.cells.add_for(tenant, cells as u64);
            }
            Err(_) => self.metrics.refused.add_for(tenant, 1),
        }
        answered
    }

    pub fn metrics(&self) -> &ServingMetrics {
        &self.metrics
    }

    async fn answer(&self, permit: &Permit, request: OnlineRequest) -> Result<OnlineAnswer> {
        permit.require(Action::ReadOnline)?;
        let begun = Instant::now();
        let snapshot = self.snapshots.load();
        let tenant = snapshot.tenant(permit.tenant())?;
        let selection = snapshot.select(tenant, &request.services, &request.features)?;
        refuse_offline_views(&selection)?;
        let keys = RequestKeys::read(&selection, &request.entities, &self.settings)?;
        let deadline = request.deadline.unwrap_or(begun + self.settings.default_deadline);
        let limits = Limits { deadline, budget_end: budget_of(&selection).map(|budget| begun + budget) };
        let read = self.read(permit, &request, &keys, limits).await?;
        answer::assemble(&selection, &keys, read, &request)
    }
}

/// The shortest latency budget among the services.
fn budget_of(selection: &Selection) -> Option<Duration> {
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
