//! TrainingSetService: saved training sets, made, shown, verified and deleted. Their rows are pulled by
//! Arrow Flight. A client that hangs up while one is made drops what makes it, which stops the work.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, unfold};
use hydrant_proto::v1;
use hydrant_proto::v1::training_set_service_server::TrainingSetService;
use hydrant_storage::names::Name;
use hydrant_storage::spines::SpineId;
use tonic::{Request, Response, Status};

use super::status::to_status;
use super::wire::definitions::decode_name;
use super::{Caller, UseCases, layers};
use crate::error::{Error, Result};
use crate::history::sets::{
    Admission, ColumnStatistics, Creation, LostRows, NewSet, Prepared, Progress, SavedSet, SavedTable, StoredRequest,
    TooOld, Verification,
};
use crate::history::{Mode, Report};
use crate::tenancy::{Action, Demand};

/// How often it is told how far the work is.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// Sets of a page where the request doesn't say, and at most.
const DEFAULT_PAGE_SIZE: u32 = 100;
const MAX_PAGE_SIZE: u32 = 1_000;

#[derive(Debug)]
pub struct TrainingSetRpc {
    use_cases: UseCases,
}

impl TrainingSetRpc {
    pub fn new(use_cases: UseCases) -> Self {
        Self { use_cases }
    }

    async fn create(&self, caller: &Caller, request: v1::CreateTrainingSetRequest) -> Result<Creation> {
        let named = vec![format!("TrainingSet/{}", request.name)];
        let permit = self.use_cases.change(caller, Action::ReadHistory, named).await?;
        let name = decode_name("name", &request.name)?;
        let request = StoredRequest {
            spine: decode_spine(&request.spine)?,
            services: request.services,
            features: Vec::new(),
            event_time: request.event_time,
            mode: if request.r#final { Mode::Final } else { Mode::AsKnown },
            cutoff: request.cutoff,
            with_status: request.with_status,
            with_event_time: request.with_event_time,
        };
        self.use_cases.training_sets.create(&permit, NewSet { name, request }).await
    }

    async fn verify(&self, caller: &Caller, name: &str) -> Result<Verification> {
        let permit = self.use_cases.permit(caller, Action::ReadHistory)?;
        let (name, version) = decode_reference(name)?;
        self.use_cases.training_sets.verify(&permit, &name, version).await
    }

    fn get(&self, caller: &Caller, name: &str) -> Result<v1::TrainingSet> {
        let permit = self.use_cases.permit(caller, Action::ReadHistory)?;
        let (name, version) = decode_reference(name)?;
        let (set, left_out) = self.use_cases.training_sets.describe(&permit, &name, version)?;
        Ok(v1::TrainingSet { statistics_left_out: left_out.unwrap_or_default(), ..encode_set(&set) })
    }

    fn list(&self, caller: &Caller, request: &v1::ListTrainingSetsRequest) -> Result<v1::ListTrainingSetsResponse> {
        let permit = self.use_cases.permit(caller, Action::ReadHistory)?;
        let after = decode_page_token(&request.page_token)?;
        let size =
            if request.page_size == 0 { DEFAULT_PAGE_SIZE } else { request.page_size.min(MAX_PAGE_SIZE) } as usize;
        let mut sets = self.use_cases.training_sets.list(&permit)?;
        if let Some(after) = after {
            sets.retain(|set| (set.name.clone(), set.version) > after);
        }
        let next_page_token = match sets.get(size.wrapping_sub(1)) {
            Some(last) if sets.len() > size => URL_SAFE_NO_PAD.encode(last.reference()),
            _ => String::new(),
        };
        sets.truncate(size);
        let brief = |set: &SavedSet| v1::TrainingSet { columns: Vec::new(), statistics: Vec::new(), ..encode_set(set) };
        Ok(v1::ListTrainingSetsResponse { training_sets: sets.iter().map(brief).collect(), next_page_token })
    }

    async fn remove(&self, caller: &Caller, name: &str) -> Result<v1::DeleteTrainingSetResponse> {
        let named = vec![format!("TrainingSet/{name}")];
        let permit = self.use_cases.change(caller, Action::ReadHistory, named).await?;
        let (name, version) = decode_reference(name)?;
        let deleted = self.use_cases.training_sets.delete(&permit, name, version).await?;
        Ok(v1::DeleteTrainingSetResponse { deleted })
    }
}

#[async_trait]
impl TrainingSetService for TrainingSetRpc {
    type CreateTrainingSetStream = BoxStream<'static, Result<v1::CreateTrainingSetResponse, Status>>;
    type VerifyTrainingSetStream = BoxStream<'static, Result<v1::VerifyTrainingSetResponse, Status>>;

    async fn create_training_set(
        &self,
        request: Request<v1::CreateTrainingSetRequest>,
    ) -> Result<Response<Self::CreateTrainingSetStream>, Status> {
        use v1::create_training_set_response::Told;
        let admission = admission(
            &self.use_cases,
            &layers::caller(request.extensions()),
            layers::stream_deadline(request.extensions()),
        );
        let caller = layers::caller(request.extensions());
        let creation = std::sync::Arc::new(self.create(&caller, request.into_inner()).await.map_err(to_status)?);
        let making = creation.clone();
        let made = Box::pin(async move { making.finish(admission).await });
        let progress = move || {
            let (progress, rows_done) = creation.progress();
            Told::Progress(encode_progress(creation.prepared(), &progress, rows_done))
        };
        let told = told_until(made, progress, |created| {
            let set = &created.set;
            let tables = set.tables.iter().map(|table| (table.view.as_str(), table.lacks_before));
            let warning = Report::warning_of(set.mode(), set.differing_rows, set.row_view_pairs, tables);
            let warning = warning.unwrap_or_default();
            let training_set = Some(encode_set(set));
            Ok(Told::Created(v1::CreatedTrainingSet { training_set, was_there: !created.is_new, warning }))
        });
        let answer = |told: Result<Told>| match told {
            Ok(told) => Ok(v1::CreateTrainingSetResponse { told: Some(told) }),
            Err(error) => Err(to_status(error)),
        };
        Ok(Response::new(told.map(answer).boxed()))
    }

    async fn get_training_set(
        &self,
        request: Request<v1::GetTrainingSetRequest>,
    ) -> Result<Response<v1::TrainingSet>, Status> {
        self.get(&layers::caller(request.extensions()), &request.get_ref().name).map(Response::new).map_err(to_status)
    }

    async fn list_training_sets(
        &self,
        request: Request<v1::ListTrainingSetsRequest>,
    ) -> Result<Response<v1::ListTrainingSetsResponse>, Status> {
        self.list(&layers::caller(request.extensions()), request.get_ref()).map(Response::new).map_err(to_status)
    }

    async fn verify_training_set(
        &self,
        request: Request<v1::VerifyTrainingSetRequest>,
    ) -> Result<Response<Self::VerifyTrainingSetStream>, Status> {
        use v1::verify_training_set_response::Told;
        let admission = admission(
            &self.use_cases,
            &layers::caller(request.extensions()),
            layers::stream_deadline(request.extensions()),
        );
        let verification = std::sync::Arc::new(
            self.verify(&layers::caller(request.extensions()), &request.get_ref().name).await.map_err(to_status)?,
        );
        let making = verification.clone();
        let made = Box::pin(async move { making.finish(admission).await });
        let progress = move || {
            let (progress, rows_done) = verification.progress();
            Told::Progress(encode_progress(verification.prepared(), &progress, rows_done))
        };
        let told = told_until(made, progress, move |verified| {
            let set = verified.set;
            Ok(Told::Verified(v1::VerifiedTrainingSet {
                name: set.reference(),
                is_same: verified.is_same,
                lost: set.lost.iter().map(encode_lost).collect(),
                too_old: set.too_old.iter().map(encode_too_old).collect(),
                content_hash: set.content_hash,
                found_hash: verified.content_hash,
                rows: verified.rows,
            }))
        });
        let answer = |told: Result<Told>| match told {
            Ok(told) => Ok(v1::VerifyTrainingSetResponse { told: Some(told) }),
            Err(error) => Err(to_status(error)),
        };
        Ok(Response::new(told.map(answer).boxed()))
    }

    async fn delete_training_set(
        &self,
        request: Request<v1::DeleteTrainingSetRequest>,
    ) -> Result<Response<v1::DeleteTrainingSetResponse>, Status> {
        self.remove(&layers::caller(request.extensions()), &request.get_ref().name)
            .await
            .map(Response::new)
            .map_err(to_status)
    }
}

/// What is told while work is under way, and in the end what came of it.
fn told_until<T: Send + 'static, M: Send + 'static>(
    work: BoxFuture<'static, Result<T>>,
    progress: impl Fn() -> M + Send + Sync + 'static,
    end: impl FnOnce(T) -> Result<M> + Send + 'static,
) -> BoxStream<'static, Result<M>> {
    let begun = (work, progress, end, true);
    unfold(Some(begun), |state| async move {
        let (mut work, progress, end, first) = state?;
        if !first {
            tokio::select! {
                biased;
                done = &mut work => return Some((done.and_then(end), None)),
                () = tokio::time::sleep(PROGRESS_INTERVAL) => {}
            }
        }
        Some((Ok(progress()), Some((work, progress, end, false))))
    })
    .boxed()
}

/// Asks for a place among the training sets that are made, when it is needed.
pub(super) fn admission(use_cases: &UseCases, caller: &Caller, deadline: Option<Instant>) -> Admission {
    let (use_cases, caller) = (use_cases.clone(), caller.clone());
    let demand = Demand { cost: 1, bytes: 0, useful_until: deadline };
    Box::new(move || Box::pin(async move { use_cases.admit(&caller, Action::ReadHistory, demand).await }))
}

/// `name` or `name@N`.
pub(super) fn decode_reference(text: &str) -> Result<(Name, Option<u32>)> {
    let Some((name, version)) = text.split_once('@') else { return Ok((decode_name("training set", text)?, None)) };
    let digits = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| version.parse::<u32>().ok()).flatten();
    let shown = || text.chars().take(80).collect::<String>();
    let wrong =
        || Error::invalid("INVALID_NAME", format!("'{}' names no version of a training set: use NAME@N", shown()));
    Ok((decode_name("training set", name)?, Some(number.ok_or_else(wrong)?)))
}

pub(super) fn decode_spine(text: &str) -> Result<SpineId> {
    text.parse().map_err(|error: hydrant_storage::spines::InvalidSpineId| {
        Error::invalid("BAD_SPINE_ID", error.to_string()).hint("use the id that DoPut of the spine was answered with")
    })
}

fn decode_page_token(token: &str) -> Result<Option<(Name, u32)>> {
    if token.is_empty() {
        return Ok(None);
    }
    let wrong = || Error::invalid("BAD_PAGE_TOKEN", "the page token is none of a listing of training sets");
    let bytes = Some(token).filter(|token| token.len() < 256).and_then(|token| URL_SAFE_NO_PAD.decode(token).ok());
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(wrong)?;
    let (name, version) = text.split_once('@').ok_or_else(wrong)?;
    Ok(Some((name.parse().map_err(|_| wrong())?, version.parse().map_err(|_| wrong())?)))
}

pub(super) fn encode_progress(prepared: &Prepared, progress: &Progress, rows_done: u64) -> v1::TrainingSetProgress {
    use v1::training_set_progress::State;
    let rows = prepared.rows();
    let told = v1::TrainingSetProgress { rows, rows_done, ..Default::default() };
    match *progress {
        Progress::NotBegun => v1::TrainingSetProgress { state: State::NotBegun.into(), ..told },
        Progress::Found => v1::TrainingSetProgress { state: State::Found.into(), rows_taken: rows, ..told },
        Progress::Walking { rows_taken, rows_walked, rows_to_walk } => {
            v1::TrainingSetProgress { state: State::Walking.into(), rows_taken, rows_walked, rows_to_walk, ..told }
        }
    }
}

fn encode_set(set: &SavedSet) -> v1::TrainingSet {
    let column =
        |(name, data_type): &(String, String)| v1::TrainingSetColumn { name: name.clone(), r#type: data_type.clone() };
    let table = |table: &SavedTable| v1::TableVersion {
        view: table.view.clone(),
        view_version: table.view_version,
        delta_version: table.delta_version,
        tail_rows: table.tail_rows,
        definition_revision: table.definition_revision,
        lacks_before: table.lacks_before,
    };
    v1::TrainingSet {
        name: set.name.to_string(),
        version: set.version,
        services: set.services.clone(),
        spine: set.spine.to_string(),
        spine_hash: set.spine_hash.clone(),
        event_time: set.event_time.clone(),
        r#final: set.is_final,
        cutoff: set.cutoff,
        with_status: set.with_status,
        with_event_time: set.with_event_time,
        rows: set.rows,
        columns: set.columns.iter().map(column).collect(),
        spine_columns: u32::try_from(set.spine_columns).unwrap_or(u32::MAX),
        content_hash: set.content_hash.clone(),
        differing_rows: set.differing_rows,
        row_view_pairs: set.row_view_pairs,
        registry_revision: set.registry_revision,
        tables: set.tables.iter().map(table).collect(),
        statistics: set.statistics.iter().map(encode_statistics).collect(),
        created_micros: set.created,
        created_by: set.created_by.clone(),
        masked: set.masked.clone(),
        lost: set.lost.iter().map(encode_lost).collect(),
        too_old: set.too_old.iter().map(encode_too_old).collect(),
        statistics_left_out: String::new(),
    }
}

fn encode_too_old(rows: &TooOld) -> v1::RowsTooOld {
    let TooOld { view, view_version, before, at } = rows;
    v1::RowsTooOld { view: view.clone(), view_version: *view_version, before_micros: *before, at_micros: *at }
}

fn encode_lost(lost: &LostRows) -> v1::LostRows {
    v1::LostRows { erasure: lost.erasure.clone(), at_micros: lost.at, rows: lost.rows }
}

fn encode_statistics(column: &ColumnStatistics) -> v1::ColumnStatistics {
    let numbers = column.numbers;
    v1::ColumnStatistics {
        name: column.name.clone(),
        r#type: column.data_type.clone(),
        nulls: column.nulls,
        present: column.statuses.present,
        written_null: column.statuses.null,
        not_found: column.statuses.not_found,
        expired: column.statuses.expired,
        masked: column.statuses.masked,
        min: numbers.map(|numbers| numbers.min),
        max: numbers.map(|numbers| numbers.max),
        mean: numbers.map(|numbers| numbers.mean),
    }
}
