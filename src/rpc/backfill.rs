//! BackfillService: where a backfill stands, and history brought online. The rows of a backfill come by
//! Flight.

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::{BoxStream, unfold};
use hydrant_proto::v1;
use hydrant_proto::v1::backfill_service_server::BackfillService;
use tonic::{Request, Response, Status};

use super::status::to_status;
use super::wire::definitions::decode_request_known_time;
use super::{Caller, UseCases, layers};
use crate::backfill::{BackfillReport, BackfillRequest, BackfilledView, Outcome, Standing};
use crate::error::{Error, Result};
use crate::materialize::{Materializing, Progress, Told};
use crate::runs::Origin;
use crate::tenancy::Action;

#[derive(Debug)]
pub struct BackfillRpc {
    use_cases: UseCases,
}

impl BackfillRpc {
    pub fn new(use_cases: UseCases) -> Self {
        Self { use_cases }
    }

    async fn standing(&self, caller: &Caller, request: v1::GetBackfillRequest) -> Result<v1::GetBackfillResponse> {
        let missing = || Error::invalid("BAD_BACKFILL", "the request names no backfill");
        let request = decode_request(request.backfill.ok_or_else(missing)?)?;
        let permit = self.use_cases.permit(caller, Action::Write)?;
        let backfills = &self.use_cases.backfills;
        let views = backfills.views(&permit, &request)?.iter().map(encode_view).collect();
        let standing = match backfills.standing(&permit, &request).await? {
            Standing::Staged { rows } => v1::get_backfill_response::Standing::StagedRows(rows),
            Standing::TakenIn { frame } => v1::get_backfill_response::Standing::TakenIn(frame),
        };
        Ok(v1::GetBackfillResponse { standing: Some(standing), views })
    }

    async fn abandon(&self, caller: &Caller, frame: u64) -> Result<u64> {
        let permit = self.use_cases.change(caller, Action::Write, vec![format!("Backfill/{frame}")]).await?;
        self.use_cases.backfills.abandon(&permit, frame).await
    }

    async fn begin(&self, caller: &Caller, request: v1::MaterializeRequest) -> Result<Materializing> {
        let named = vec![format!("FeatureView/{}", request.view)];
        let permit = self.use_cases.change(caller, Action::Write, named).await?;
        self.use_cases.materialize.begin(&permit, &request.view, request.since_frame).await
    }
}

#[async_trait]
impl BackfillService for BackfillRpc {
    type MaterializeStream = BoxStream<'static, Result<v1::MaterializeResponse, Status>>;

    async fn get_backfill(
        &self,
        request: Request<v1::GetBackfillRequest>,
    ) -> Result<Response<v1::GetBackfillResponse>, Status> {
        self.standing(&layers::caller(request.extensions()), request.into_inner())
            .await
            .map(Response::new)
            .map_err(to_status)
    }

    async fn abandon_backfill(
        &self,
        request: Request<v1::AbandonBackfillRequest>,
    ) -> Result<Response<v1::AbandonBackfillResponse>, Status> {
        let caller = layers::caller(request.extensions());
        let frame = self.abandon(&caller, request.into_inner().frame).await.map_err(to_status)?;
        Ok(Response::new(v1::AbandonBackfillResponse { frame }))
    }

    async fn materialize(
        &self,
        request: Request<v1::MaterializeRequest>,
    ) -> Result<Response<Self::MaterializeStream>, Status> {
        let materializing =
            self.begin(&layers::caller(request.extensions()), request.into_inner()).await.map_err(to_status)?;
        let told = unfold(Some(materializing), |materializing| async {
            let mut materializing = materializing?;
            match materializing.next().await {
                Told::Progress(progress) => Some((Ok(encode_materialized(progress, false)), Some(materializing))),
                Told::Done(outcome) => {
                    let last = outcome.map(|progress| encode_materialized(progress, true));
                    Some((last.map_err(to_status), None))
                }
            }
        });
        Ok(Response::new(told.boxed()))
    }
}

pub(super) fn decode_request(command: v1::BackfillCommand) -> Result<BackfillRequest> {
    let known_time = decode_request_known_time(command.known_time)?;
    let v1::BackfillCommand { source, id, rows, first_row, from, to, ignore_extra, validate_only, .. } = command;
    let origins = command.origins.into_iter();
    let origins = origins.map(|v1::BackfillOrigin { namespace, name, version }| Origin { namespace, name, version });
    let origins = origins.collect();
    Ok(BackfillRequest { source, id, rows, first_row, known_time, from, to, ignore_extra, validate_only, origins })
}

pub(super) fn encode_report(report: &BackfillReport) -> v1::BackfillReport {
    let outcome = match report.outcome {
        Outcome::Applied => v1::backfill_report::Outcome::Applied,
        Outcome::AlreadyApplied => v1::backfill_report::Outcome::AlreadyApplied,
        Outcome::Valid => v1::backfill_report::Outcome::Valid,
    };
    v1::BackfillReport {
        outcome: outcome.into(),
        frame: report.frame,
        ingest_time: report.ingest_time,
        rows: report.rows,
        views: report.views.iter().map(encode_view).collect(),
    }
}

fn encode_view(view: &BackfilledView) -> v1::BackfilledView {
    let BackfilledView { ref view, rows, null_keys, too_old, bytes, online } = *view;
    v1::BackfilledView { view: view.to_string(), rows, null_keys, bytes, online, too_old }
}

fn encode_materialized(progress: Progress, done: bool) -> v1::MaterializeResponse {
    let Progress { rows, total_rows, keys, written } = progress;
    v1::MaterializeResponse { rows, total_rows, keys, written, done }
}
