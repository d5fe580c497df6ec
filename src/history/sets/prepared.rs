//! A training set that is asked for by a stored spine: everything that it takes to make it, or any rows
//! of it, again at any time and anywhere: that is what a ticket carries. Preparing one checks and plans
//! it, and fixes its cut-off; it reads no history.

use std::ops::Range;
use std::sync::Arc;

use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;
use hydrant_storage::spines::SpineId;
use xxhash_rust::xxh3::xxh3_64;

use super::super::asof::Mode;
use super::super::plan::Plan;
use super::super::service::{HistoricalRequest, History};
use super::super::sources::log_error;
use super::TrainingSets;
use super::spines::StoredSpine;
use crate::error::{Code, Error, Result};
use crate::registry::catalog::Snapshot;
use crate::registry::masking::Masking;
use crate::tenancy::Permit;

/// Endpoints of one training set where the client doesn't say how many rows each has.
const USUAL_ENDPOINTS: u64 = 256;
/// Endpoints of one training set.
pub const MAX_ENDPOINTS: u64 = 1_000;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRequest {
    pub spine: SpineId,
    /// `name` or `name@N`.
    pub services: Vec<String>,
    /// `view:feature`.
    pub features: Vec<String>,
    pub event_time: String,
    pub mode: Mode,
    /// `None`: now.
    pub cutoff: Option<Micros>,
    pub with_status: bool,
    pub with_event_time: bool,
}

/// What is made: the same rows, whenever it is asked for. The tenant is that of whoever asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FixedRequest {
    pub spine: SpineId,
    /// `name@N`.
    pub services: Vec<String>,
    pub features: Vec<String>,
    pub event_time: String,
    pub mode: Mode,
    pub cutoff: Micros,
    pub with_status: bool,
    pub with_event_time: bool,
    /// The columns that are masked, whoever asks.
    pub masked: Vec<String>,
    /// Over all of the plan that decides what comes out.
    pub fingerprint: u64,
}

/// A training set that is checked and planned.
#[derive(Clone, Debug)]
pub struct Prepared {
    pub tenant: Name,
    pub request: FixedRequest,
    pub plan: Arc<Plan>,
    pub spine: Arc<StoredSpine>,
    /// The one that it was planned in.
    pub(super) snapshot: Arc<Snapshot>,
    /// Rows of an endpoint that suit the server.
    usual_rows: u64,
}

impl Prepared {
    /// As many as the spine has.
    pub fn rows(&self) -> u64 {
        self.spine.about().map_or(0, |about| about.rows)
    }

    /// Cuts the rows into endpoints of `wanted` rows each, or (0) of as many as suit the server; `most`
    /// endpoints at most, and never more than [`MAX_ENDPOINTS`].
    pub fn endpoints(&self, wanted: u64, most: u64) -> Result<Vec<Range<u64>>> {
        let (rows, most) = (self.rows(), most.clamp(1, MAX_ENDPOINTS));
        let least = rows.div_ceil(most);
        let each = if wanted == 0 { self.usual_rows.max(least) } else { wanted };
        if rows.div_ceil(each) > most {
            let message = format!("{rows} rows in endpoints of {each} are more than {most} endpoints");
            return Err(Error::invalid("TOO_MANY_ENDPOINTS", message)
                .hint(format!("ask for endpoints of at least {least} rows, or leave their size to the server (0)"))
                .with("least_rows", least));
        }
        // A client that reads all endpoints of a spine without rows gets its columns all the same.
        let starts = (0..rows.div_ceil(each).max(1)).map(|number| number * each);
        Ok(starts.map(|start| start..start.saturating_add(each).min(rows)).collect())
    }

    /// Refuses rows that the spine doesn't have.
    pub fn check_rows(&self, rows: &Range<u64>) -> Result<()> {
        if rows.start <= rows.end && rows.end <= self.rows() {
            return Ok(());
        }
        let message = format!("the spine has {} rows, and none from {} to {}", self.rows(), rows.start, rows.end);
        Err(Error::invalid("BAD_TICKET", message).hint("use a ticket as GetFlightInfo gave it"))
    }
}

impl TrainingSets {
    /// Checks and plans a training set, and fixes its cut-off and what of it is masked: what the caller may
    /// not see.
    pub async fn prepare(&self, permit: &Permit, request: StoredRequest) -> Result<Prepared> {
        self.prepare_masked(permit, request, Masking::AsGranted).await
    }

    pub(super) async fn prepare_masked(
        &self,
        permit: &Permit,
        request: StoredRequest,
        masking: Masking<'_>,
    ) -> Result<Prepared> {
        let StoredRequest { spine, services, features, event_time, mode, cutoff, with_status, with_event_time } =
            request;
        let cutoff = self.cutoff(cutoff).await?;
        let request = FixedRequest {
            spine,
            services,
            features,
            event_time,
            mode,
            cutoff,
            with_status,
            with_event_time,
            masked: Vec::new(),
            fingerprint: 0,
        };
        let mut prepared = self.plan_masked(permit, request, masking)?;
        prepared.request.masked = prepared.plan.masked().map(str::to_owned).collect();
        prepared.request.fingerprint = fingerprint(&prepared.plan);
        prepared.request.services.clone_from(&prepared.plan.services);
        Ok(prepared)
    }

    /// Plans again what was prepared before. FAILED_PRECONDITION where it would not be the same any more,
    /// since a feature that was asked for by itself was defined otherwise.
    pub fn reopen(&self, permit: &Permit, request: FixedRequest) -> Result<Prepared> {
        let prepared = self.plan(permit, request)?;
        if fingerprint(&prepared.plan) == prepared.request.fingerprint {
            return Ok(prepared);
        }
        let message = "the definitions that the ticket was made under have changed, so its rows would be others";
        Err(Error::new(Code::FailedPrecondition, "TICKET_OUTDATED", message)
            .hint("ask for endpoints anew (GetFlightInfo); by versions of services (NAME@N) this can't happen"))
    }

    pub(super) fn plan(&self, permit: &Permit, request: FixedRequest) -> Result<Prepared> {
        let masked = request.masked.clone();
        self.plan_masked(permit, request, Masking::Exactly(&masked))
    }

    fn plan_masked(&self, permit: &Permit, request: FixedRequest, masking: Masking<'_>) -> Result<Prepared> {
        permit.check_reads(&request.services, &request.features)?;
        let spine = self.spines().get(permit.tenant(), request.spine)?;
        let snapshot = self.history().inner.parts.snapshots.load();
        let asked = HistoricalRequest {
            services: request.services.clone(),
            features: request.features.clone(),
            event_time: request.event_time.clone(),
            mode: request.mode,
            cutoff: Some(request.cutoff),
            with_status: request.with_status,
            with_event_time: request.with_event_time,
            spine: spine.schema()?,
        };
        let plan = Arc::new(History::plan_in(&snapshot, permit, &asked, masking)?);
        let usual_rows = self.history().inner.budget(permit).endpoint_rows(&plan, spine.about()?.rows, USUAL_ENDPOINTS);
        Ok(Prepared { tenant: permit.tenant().clone(), request, plan, spine, snapshot, usual_rows })
    }

    /// The instant, which must have come, or now; no later request is accepted at it or before.
    pub(super) async fn cutoff(&self, wanted: Option<Micros>) -> Result<Micros> {
        let sealed = self.history().inner.parts.log.seal().await.map_err(log_error)?;
        match wanted {
            Some(cutoff) if cutoff > sealed.time => Err(super::super::sources::cutoff_in_future(cutoff, sealed.time)),
            wanted => Ok(wanted.unwrap_or(sealed.time)),
        }
    }
}

/// Of what decides which values come out, under which names and types.
fn fingerprint(plan: &Plan) -> u64 {
    let Plan { mode, event_time, sorts, joins, lookups, columns, output, .. } = plan;
    let joins: Vec<_> = joins.iter().map(|join| (join.view.id, join.view.version, join.sort, &join.features)).collect();
    let lookups: Vec<_> = lookups.iter().map(|lookup| (lookup.join, lookup.ttl)).collect();
    let columns: Vec<_> = columns
        .iter()
        .map(|column| (&column.name, column.lookup, column.feature, column.data_type, &column.default))
        .collect();
    let output: Vec<_> = output
        .fields()
        .iter()
        .map(|field| (field.name(), field.data_type().to_string(), field.is_nullable()))
        .collect();
    xxh3_64(format!("{mode:?} {event_time} {sorts:?} {joins:?} {lookups:?} {columns:?} {output:?}").as_bytes())
}
