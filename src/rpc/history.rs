//! HistoryService: how training sets are made, and why values are what they are. It reads, and changes
//! nothing.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use hydrant_proto::v1;
use hydrant_proto::v1::history_service_server::HistoryService;
use hydrant_storage::row::ColumnBuilder;
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::online::cost_of;
use super::status::to_status;
use super::wire::columns::{decode_column, encode_column};
use super::wire::ipc::{Decoded, IpcDecoder};
use super::{Caller, UseCases, layers};
use crate::error::{Error, Result};
use crate::history::reading::Access;
use crate::history::{
    Cause, Explained, HistoricalRequest, Lost, Mode, Rule, ToldRow, Why, WhyCell, WhyLookup, WhyRequest,
};
use crate::registry::selection::is_of_another;
use crate::tenancy::{Action, Demand};

/// Rows that lost, of each view, unless the request says otherwise.
const LOSERS: usize = 10;

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

    async fn explain(
        &self,
        caller: &Caller,
        request: v1::ExplainTrainingSetRequest,
    ) -> Result<v1::ExplainTrainingSetResponse> {
        let permit = self.use_cases.permit(caller, Action::ReadHistory)?;
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

    async fn explain_values(
        &self,
        caller: &Caller,
        request: v1::WhyRequest,
        deadline: Option<Instant>,
    ) -> Result<v1::WhyResponse> {
        let demand = Demand { cost: cost_of(1), bytes: request.encoded_len(), useful_until: deadline };
        let permit = self.use_cases.admit(caller, Action::ReadOnline, demand).await?;
        let explained = async {
            let mut entities = Vec::with_capacity(request.entities.len());
            for column in request.entities {
                let column = decode_column(column)?;
                entities.push((column.name, column.values));
            }
            let request = WhyRequest {
                services: request.services,
                features: request.features,
                columns: request.columns,
                entities,
                at: request.at.unwrap_or_else(|| self.use_cases.store_time.read()),
                mode: if request.r#final { Mode::Final } else { Mode::AsKnown },
                cutoff: request.cutoff,
                losers: request.losers.map_or(LOSERS, |losers| usize::try_from(losers).unwrap_or(usize::MAX)),
            };
            encode_why(self.use_cases.history.why(&permit, request).await?)
        };
        permit.run(explained).await
    }
}

#[async_trait]
impl HistoryService for HistoryRpc {
    async fn explain_training_set(
        &self,
        request: Request<v1::ExplainTrainingSetRequest>,
    ) -> Result<Response<v1::ExplainTrainingSetResponse>, Status> {
        self.explain(&layers::caller(request.extensions()), request.into_inner())
            .await
            .map(Response::new)
            .map_err(to_status)
    }

    async fn why(&self, request: Request<v1::WhyRequest>) -> Result<Response<v1::WhyResponse>, Status> {
        let deadline = layers::deadline(request.extensions());
        let caller = layers::caller(request.extensions());
        self.explain_values(&caller, request.into_inner(), deadline).await.map(Response::new).map_err(to_status)
    }
}

fn encode_why(why: Why) -> Result<v1::WhyResponse> {
    let Why { at, mode, cutoff, revision, services, lookups, cells } = why;
    Ok(v1::WhyResponse {
        at,
        r#final: mode == Mode::Final,
        cutoff,
        registry_revision: revision,
        services,
        views: lookups.into_iter().map(encode_lookup).collect(),
        values: cells.iter().map(encode_cell).collect::<Result<_>>()?,
    })
}

fn encode_lookup(lookup: WhyLookup) -> v1::ExplainedView {
    let WhyLookup { view, name, keys, ttl, winner, losers, rows, lacks_before } = lookup;
    let lost = |Lost { row, rule }: Lost| {
        let rule = match rule {
            Rule::AfterCutoff => v1::LostBy::AfterCutoff,
            Rule::LaterThanInstant => v1::LostBy::LaterThanInstant,
            Rule::NotYetKnown => v1::LostBy::NotYetKnown,
            Rule::SmallerEventTime => v1::LostBy::SmallerEventTime,
            Rule::SmallerKnownTime => v1::LostBy::SmallerKnownTime,
            Rule::EarlierPosition => v1::LostBy::EarlierPosition,
        };
        v1::LostRow { row: Some(encode_row(&row)), rule: rule.into() }
    };
    v1::ExplainedView {
        view: name,
        view_version: view.version,
        keys: keys.iter().map(ToString::to_string).collect(),
        ttl,
        winner: winner.as_ref().map(encode_row),
        losers: losers.into_iter().map(lost).collect(),
        rows,
        lacks_before,
    }
}

fn encode_row(row: &ToldRow) -> v1::HistoryRow {
    v1::HistoryRow {
        event_time: row.version.event_time,
        known_time: row.version.known_time,
        ingest_time: row.ingest_time,
        frame: row.version.position.frame,
        ordinal: row.version.position.ordinal,
        deleted: row.deleted,
        definition_revision: row.revision,
        landed: row.has_landed,
        expired: row.is_expired,
        producer_hash: row.sent_by.map(|stamp| format!("{:032x}", stamp.producer)).unwrap_or_default(),
        sequence: row.sent_by.map(|stamp| stamp.sequence),
    }
}

fn encode_cell(cell: &WhyCell) -> Result<v1::ExplainedValue> {
    let mut column = ColumnBuilder::new(cell.data_type, 1);
    column
        .push_value(&cell.value)
        .map_err(|error| Error::internal(format!("the value of '{}' is of another type: {error}", cell.name)))?;
    let cause = match cell.cause {
        Cause::Written => v1::StatusCause::Written,
        Cause::NullKey => v1::StatusCause::NullKey,
        Cause::NoRow => v1::StatusCause::NoRow,
        Cause::NoneCounts => v1::StatusCause::NoneCounts,
        Cause::PerhapsGone => v1::StatusCause::PerhapsGone,
        Cause::Deleted => v1::StatusCause::Deleted,
        Cause::OlderThanFeature => v1::StatusCause::OlderThanFeature,
        Cause::Expired => v1::StatusCause::PastTtl,
        Cause::Masked => v1::StatusCause::NotGranted,
    };
    Ok(v1::ExplainedValue {
        value: Some(encode_column(&cell.name, &column.finish())?),
        status: i32::from(cell.status as u8),
        view: count(cell.lookup),
        cause: cause.into(),
        is_default: cell.is_default,
    })
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
        let told = v1::ViewReading {
            view: join.name.clone(),
            view_version: join.view.version,
            sort: count(join.sort),
            features: join.features.iter().map(|feature| join.view.features[*feature].name.to_string()).collect(),
            ..Default::default()
        };
        // What there is of another tenant's view is that tenant's to know, and how it is read follows from that.
        if is_of_another(&join.name) {
            return v1::ViewReading { reason: "another tenant's: what there is of it is not told".to_owned(), ..told };
        }
        v1::ViewReading {
            access: access.into(),
            reason: of_view.reason.clone(),
            delta_version: of_view.table.delta_version.and_then(|version| i64::try_from(version).ok()),
            runs: of_view.table.runs.len() as u64,
            files: of_view.table.files,
            table_rows: of_view.table.rows(),
            table_bytes: of_view.table.bytes,
            read_rows: of_view.rows,
            read_bytes: of_view.bytes,
            tail_rows: of_view.table.tail_rows,
            ..told
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
