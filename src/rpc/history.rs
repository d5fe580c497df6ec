//! HistoryService: how training sets are made, and why values are what they are. It reads, and changes
//! nothing.

use std::sync::Arc;

use async_trait::async_trait;
use hydrant_proto::v1;
use hydrant_proto::v1::history_service_server::HistoryService;
use tonic::{Request, Response, Status};

use super::UseCases;
use super::status::to_status;
use super::wire::ipc::{Decoded, IpcDecoder};
use crate::error::{Error, Result};
use crate::history::reading::Access;
use crate::history::{Explained, HistoricalRequest, Mode};
use crate::tenancy::Action;

#[derive(Debug)]
pub struct HistoryRpc {
    use_cases: UseCases,
    /// Of messages.
    max_message: u64,
}

impl HistoryRpc {
    pub fn new(use_cases: UseCases, max_message: u64) -> Self {
        Self { use_cases, max_message }
    }

    async fn explain(&self, request: v1::ExplainTrainingSetRequest) -> Result<v1::ExplainTrainingSetResponse> {
        let permit = self.use_cases.permit(Action::ReadHistory)?;
        let command = request.command.unwrap_or_default();
        let spine = match request.spine_schema {
            empty if empty.is_empty() => self.use_cases.history.least_spine(
                &permit,
                &command.services,
                &command.features,
                &command.event_time,
            )?,
            header => match IpcDecoder::new(self.max_message, 0).decode(&header, Default::default())? {
                Decoded::Schema(schema) => schema,
                Decoded::Batch(_) | Decoded::Nothing => {
                    let told = "`spine_schema` holds no schema";
                    return Err(
                        Error::invalid("BAD_SPINE_SCHEMA", told).hint("send the header of a Flight schema message")
                    );
                }
            },
        };
        let request_of = HistoricalRequest {
            services: command.services,
            features: command.features,
            event_time: command.event_time,
            mode: if command.r#final { Mode::Final } else { Mode::AsKnown },
            cutoff: command.cutoff,
            with_status: command.with_status,
            with_event_time: command.with_event_time,
            spine: Arc::clone(&spine),
        };
        let explained = self.use_cases.history.explain(&permit, &request_of, request.rows).await?;
        Ok(encode_explained(&explained))
    }
}

#[async_trait]
impl HistoryService for HistoryRpc {
    async fn explain_training_set(
        &self,
        request: Request<v1::ExplainTrainingSetRequest>,
    ) -> Result<Response<v1::ExplainTrainingSetResponse>, Status> {
        self.explain(request.into_inner()).await.map(Response::new).map_err(to_status)
    }
}

fn encode_explained(explained: &Explained) -> v1::ExplainTrainingSetResponse {
    let Explained { plan, reading, cutoff } = explained;
    let sorts = plan.sorts.iter().map(|sort| v1::SpineSort {
        columns: sort.keys.iter().map(|(column, _)| plan.spine.field(*column).name().clone()).collect(),
    });
    let views = reading.views.iter().map(|of_view| {
        let join = &plan.joins[of_view.join];
        let access = match of_view.access {
            Access::Seek => v1::Access::Seek,
            Access::Merge => v1::Access::Merge,
        };
        v1::ViewReading {
            view: join.view.name.to_string(),
            view_version: join.view.version,
            sort: count(join.sort),
            access: access.into(),
            reason: of_view.reason.clone(),
            features: join.features.iter().map(|feature| join.view.features[*feature].name.to_string()).collect(),
            delta_version: of_view.table.delta_version.and_then(|version| i64::try_from(version).ok()),
            runs: of_view.table.runs.len() as u64,
            files: of_view.table.files,
            table_rows: of_view.table.rows(),
            table_bytes: of_view.table.bytes,
            read_rows: of_view.rows,
            read_bytes: of_view.bytes,
            tail_rows: of_view.table.tail_rows,
        }
    });
    v1::ExplainTrainingSetResponse {
        r#final: plan.mode == Mode::Final,
        cutoff: *cutoff,
        registry_revision: plan.revision,
        services: plan.services.clone(),
        rows: reading.spine.rows,
        sorts: sorts.collect(),
        views: views.collect(),
        threads: count(reading.threads),
        parts: count(reading.parts),
        memory: reading.memory,
        spine_bytes: reading.spine_bytes,
        spilled_bytes: reading.spilled,
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
