//! FreshnessService: how views stand to what is promised of them, and silences. Beside it, what an online
//! answer carries of that where it is asked for.

use async_trait::async_trait;
use hydrant_proto::v1;
use hydrant_proto::v1::freshness_service_server::FreshnessService;
use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::status::{MessageLimit, message_too_large, to_status};
use super::unary::Outgoing;
use super::{Caller, UseCases, layers};
use crate::error::{Error, Result};
use crate::freshness::{Cause, ServedQuantiles, Silence, Standing, State};
use crate::serving::{OnlineAnswer, ViewProvenance};
use crate::tenancy::{Action, Permit};

const PAGE: usize = 500;
const LARGEST_PAGE: usize = 1_000;

#[derive(Debug)]
pub struct FreshnessRpc {
    use_cases: UseCases,
}

impl FreshnessRpc {
    pub fn new(use_cases: UseCases) -> Self {
        Self { use_cases }
    }

    fn get(&self, caller: &Caller, request: &v1::GetFreshnessRequest) -> Result<v1::GetFreshnessResponse> {
        let permit = self.use_cases.permit(caller, Action::ReadDefinitions)?;
        let standing = self.use_cases.freshness.get(&permit, &decode_name(&request.view)?)?;
        Ok(v1::GetFreshnessResponse { freshness: Some(encode(&standing)) })
    }

    fn list(&self, caller: &Caller, request: &v1::ListFreshnessRequest) -> Result<v1::ListFreshnessResponse> {
        let permit = self.use_cases.permit(caller, Action::ReadDefinitions)?;
        let size = match usize::try_from(request.page_size).unwrap_or(usize::MAX) {
            0 => PAGE,
            size => size.min(LARGEST_PAGE),
        };
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(token.parse::<Name>().map_err(|_| {
                Error::invalid("BAD_PAGE_TOKEN", "the page token is not one that this server gave out")
            })?),
        };
        let standings = self.use_cases.freshness.list(&permit)?;
        let mut left = standings.iter().filter(|standing| after.as_ref().is_none_or(|after| standing.view > *after));
        let page: Vec<&Standing> = left.by_ref().take(size).collect();
        let next = left.next().and_then(|_| page.last()).map(|last| last.view.to_string());
        Ok(v1::ListFreshnessResponse {
            freshness: page.into_iter().map(encode).collect(),
            next_page_token: next.unwrap_or_default(),
        })
    }

    async fn silence(
        &self,
        caller: &Caller,
        request: v1::SilenceFreshnessRequest,
    ) -> Result<v1::SilenceFreshnessResponse> {
        let about = vec![format!("FeatureView/{}", request.view)];
        let permit = self.use_cases.change(caller, Action::ChangeDefinitions, about).await?;
        let view = decode_name(&request.view)?;
        let duration = Micros::try_from(request.duration_micros).unwrap_or(Micros::MAX);
        let silence = self.use_cases.freshness.silence(&permit, &view, duration, &request.reason).await?;
        Ok(v1::SilenceFreshnessResponse { silence: Some(encode_silence(&silence)) })
    }

    fn silences(&self, caller: &Caller) -> Result<v1::ListSilencesResponse> {
        let permit = self.use_cases.permit(caller, Action::ReadDefinitions)?;
        let silences = self.use_cases.freshness.silences(&permit)?;
        Ok(v1::ListSilencesResponse { silences: silences.iter().map(encode_silence).collect() })
    }

    async fn unsilence(&self, caller: &Caller, id: u64) -> Result<v1::DeleteSilenceResponse> {
        let about = vec![format!("Silence/{id}")];
        let permit = self.use_cases.change(caller, Action::ChangeDefinitions, about).await?;
        let silence = self.use_cases.freshness.unsilence(&permit, id).await?;
        Ok(v1::DeleteSilenceResponse { silence: Some(encode_silence(&silence)) })
    }
}

#[async_trait]
impl FreshnessService for FreshnessRpc {
    async fn get_freshness(
        &self,
        request: Request<v1::GetFreshnessRequest>,
    ) -> Result<Response<v1::GetFreshnessResponse>, Status> {
        let caller = layers::caller(request.extensions());
        self.get(&caller, request.get_ref()).map(Response::new).map_err(to_status)
    }

    async fn list_freshness(
        &self,
        request: Request<v1::ListFreshnessRequest>,
    ) -> Result<Response<v1::ListFreshnessResponse>, Status> {
        let caller = layers::caller(request.extensions());
        self.list(&caller, request.get_ref()).map(Response::new).map_err(to_status)
    }

    async fn silence_freshness(
        &self,
        request: Request<v1::SilenceFreshnessRequest>,
    ) -> Result<Response<v1::SilenceFreshnessResponse>, Status> {
        let caller = layers::caller(request.extensions());
        self.silence(&caller, request.into_inner()).await.map(Response::new).map_err(to_status)
    }

    async fn list_silences(
        &self,
        request: Request<v1::ListSilencesRequest>,
    ) -> Result<Response<v1::ListSilencesResponse>, Status> {
        self.silences(&layers::caller(request.extensions())).map(Response::new).map_err(to_status)
    }

    async fn delete_silence(
        &self,
        request: Request<v1::DeleteSilenceRequest>,
    ) -> Result<Response<v1::DeleteSilenceResponse>, Status> {
        let caller = layers::caller(request.extensions());
        self.unsilence(&caller, request.get_ref().id).await.map(Response::new).map_err(to_status)
    }
}

/// An encoded answer with the freshness of its views behind it. A message's parts may come one after the
/// other, and its provenance is put together from both: so reads that don't ask for it write nothing more.
pub(super) fn with_freshness(
    use_cases: &UseCases,
    permit: &Permit,
    answer: &OnlineAnswer,
    mut encoded: Outgoing,
    limit: MessageLimit,
) -> Result<Outgoing> {
    // Each of its owner's, who need not be the reader.
    let of_view = |view: &ViewProvenance| {
        let owner = view.owner.as_ref().unwrap_or(permit.tenant());
        let states = use_cases.freshness.states(owner, [view.view.clone()].into_iter());
        states.first().map(|state| v1::ViewFreshness { view: view.reference(), ..encode_state(state) })
    };
    let freshness = answer.provenance.views.iter().filter_map(of_view).collect();
    let provenance = Some(v1::Provenance { freshness, ..Default::default() });
    let rest = v1::GetOnlineFeaturesResponse { provenance, ..Default::default() };
    let length = encoded.len() + rest.encoded_len();
    if length as u64 > limit.bytes {
        return Err(message_too_large(limit, "the answer with the freshness of its views is larger"));
    }
    encoded.append(&rest)?;
    Ok(encoded)
}

fn decode_name(name: &str) -> Result<Name> {
    name.parse().map_err(|error: hydrant_storage::names::InvalidName| Error::invalid("INVALID_NAME", error.to_string()))
}

fn encode_state(standing: &Standing) -> v1::ViewFreshness {
    v1::ViewFreshness {
        view: standing.view.to_string(),
        state: state(standing.state).into(),
        cause: cause(standing.cause).into(),
        since_micros: standing.since,
        age_micros: standing.age.map(Micros::unsigned_abs),
        max_age_micros: standing.promise.max_age.unsigned_abs(),
    }
}

fn encode(standing: &Standing) -> v1::Freshness {
    let to_u32 = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let (promise, seen, burn) = (&standing.promise, &standing.seen, &standing.burn);
    v1::Freshness {
        view: standing.view.to_string(),
        owner: standing.owner.clone(),
        state: state(standing.state).into(),
        cause: cause(standing.cause).into(),
        since_micros: standing.since,
        looked_at_micros: standing.looked_at,
        max_age_micros: promise.max_age.unsigned_abs(),
        target: promise.target.to_string(),
        window_micros: promise.window.unsigned_abs(),
        severity: promise.severity.as_str().to_owned(),
        age_micros: standing.age.map(Micros::unsigned_abs),
        worst_partition: seen.worst.map(|(partition, _)| to_u32(partition)),
        partitions: to_u32(seen.partitions),
        unreadable_partition: seen.unreadable.map(to_u32),
        newest_event_time: seen.newest,
        lag_micros: seen.lag.unsigned_abs(),
        good_micros: standing.spent.good.unsigned_abs(),
        bad_micros: standing.spent.bad.unsigned_abs(),
        budget_micros: promise.budget().unsigned_abs(),
        budget_left: standing.budget_left(),
        burn_rate_5m: burn.five_minutes,
        burn_rate_30m: burn.half_hour,
        burn_rate_1h: burn.hour,
        burn_rate_6h: burn.six_hours,
        served: standing.served.map(encode_served),
        silence: standing.silence.as_ref().map(encode_silence),
    }
}

fn encode_served(served: ServedQuantiles) -> v1::ServedAges {
    v1::ServedAges {
        rows: served.rows,
        p50_micros: served.p50.unsigned_abs(),
        p90_micros: served.p90.unsigned_abs(),
        p99_micros: served.p99.unsigned_abs(),
    }
}

fn encode_silence(silence: &Silence) -> v1::Silence {
    v1::Silence {
        id: silence.id,
        view: silence.view.to_string(),
        reason: silence.reason.clone(),
        until_micros: silence.until,
        created_micros: silence.created,
        created_by: silence.created_by.clone(),
    }
}

fn state(state: State) -> v1::FreshnessState {
    match state {
        State::Ok => v1::FreshnessState::Ok,
        State::AtRisk => v1::FreshnessState::AtRisk,
        State::Breached => v1::FreshnessState::Breached,
        State::NoData => v1::FreshnessState::NoData,
    }
}

fn cause(cause: Option<Cause>) -> v1::FreshnessCause {
    match cause {
        None => v1::FreshnessCause::Unspecified,
        Some(Cause::Stale) => v1::FreshnessCause::Stale,
        Some(Cause::Unreadable) => v1::FreshnessCause::Unreadable,
        Some(Cause::BudgetSpent) => v1::FreshnessCause::BudgetSpent,
        Some(Cause::BurningFast) => v1::FreshnessCause::BurningFast,
        Some(Cause::NearLimit) => v1::FreshnessCause::NearLimit,
    }
}
