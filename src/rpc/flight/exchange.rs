//! DoExchange: the whole spine comes in and is spooled before the first answer row, since many
//! clients write everything before they read; then the joined rows stream out, and a last message
//! without rows carries the report.

use std::future::ready;

use arrow_array::RecordBatch;
use arrow_flight::FlightData;
use arrow_schema::SchemaRef;
use futures::stream::{self, once, try_unfold};
use futures::{StreamExt as _, TryStreamExt as _};
use hydrant_proto::v1;
use prost::Message as _;
use tonic::Status;

use super::super::Caller;
use super::super::status::to_status;
use super::super::wire::ipc::Decoded;
use super::super::wire::messages::{FlightEncoder, MESSAGE_BYTES};
use super::{Answers, Asked, FlightRpc, Upload, while_known};
use crate::error::{Error, Result};
use crate::history::{HistoricalRequest, HistoricalStream, Mode, Report, SpineIntake};
use crate::tenancy::{Action, Demand};

pub(super) async fn exchange(
    rpc: &FlightRpc,
    caller: &Caller,
    mut upload: Upload,
) -> Result<Answers<FlightData>, Status> {
    let command = match upload.asked().map_err(to_status)? {
        Asked::HistoricalFeatures(command) if command.spine.is_empty() && command.endpoint_rows == 0 => command,
        Asked::HistoricalFeatures(_) => {
            let refusal =
                Error::invalid("BAD_DESCRIPTOR", "the command names a stored spine, which DoExchange has no use for");
            return Err(to_status(
                refusal.hint("ask GetFlightInfo for endpoints, or leave `spine` and `endpoint_rows` out"),
            ));
        }
        Asked::Ingest(_) | Asked::Backfill(_) | Asked::Path(..) | Asked::StoreSpine | Asked::TrainingSet(_) => {
            let refusal = Error::invalid("BAD_DESCRIPTOR", "DoExchange takes a spine");
            return Err(to_status(refusal.hint("send a HistoricalFeaturesCommand")));
        }
    };
    let mut intake = None;
    while let Some(held) = upload.next().await? {
        match (held, intake.as_mut()) {
            (Decoded::Schema(schema), _) => {
                intake = Some(open(rpc, caller, &command, schema).await.map_err(to_status)?)
            }
            (Decoded::Batch(batch), Some(intake)) => intake.push(batch).await.map_err(to_status)?,
            (Decoded::Batch(_), None) | (Decoded::Nothing, _) => {}
        }
    }
    let missing =
        || to_status(Error::invalid("NO_SPINE", "the spine has no schema").hint("send the spine's schema and rows"));
    let finishing = intake.ok_or_else(missing)?.finish();
    let rows = caller.identity.while_known(finishing).await.and_then(|rows| rows).map_err(to_status)?;
    Ok(while_known(caller, encode(rows)))
}

async fn open(
    rpc: &FlightRpc,
    caller: &Caller,
    command: &v1::HistoricalFeaturesCommand,
    spine: SchemaRef,
) -> Result<SpineIntake> {
    let permit = rpc.use_cases.admit(caller, Action::ReadHistory, Demand { cost: 1, ..Demand::default() }).await?;
    let command = command.clone();
    let request = HistoricalRequest {
        services: command.services,
        features: command.features,
        event_time: command.event_time,
        mode: if command.r#final { Mode::Final } else { Mode::AsKnown },
        cutoff: command.cutoff,
        with_status: command.with_status,
        with_event_time: command.with_event_time,
        spine,
    };
    rpc.use_cases.history.open(&permit, request)
}

/// The rows as Flight messages, and the report with the last of them, which has no rows.
fn encode(rows: HistoricalStream) -> Answers<FlightData> {
    let (encoder, schema) = FlightEncoder::begin(&rows.schema(), MESSAGE_BYTES);
    let answering = Answering { rows, encoder, ended: false };
    let messages = try_unfold(answering, |mut answering| async move {
        let messages = answering.next().await.map_err(to_status)?;
        Ok::<_, Status>(messages.map(|messages| (stream::iter(messages.into_iter().map(Ok)), answering)))
    });
    once(ready(Ok(schema))).chain(messages.try_flatten()).boxed()
}

/// An answer under way.
struct Answering {
    rows: HistoricalStream,
    encoder: FlightEncoder,
    ended: bool,
}

impl Answering {
    /// The messages of the next rows, or at last those of the report; then `None`.
    async fn next(&mut self) -> Result<Option<Vec<FlightData>>> {
        if self.ended {
            return Ok(None);
        }
        if let Some(batch) = self.rows.next().await.transpose()? {
            return self.encode(&batch).map(Some);
        }
        self.ended = true;
        let report = self.rows.report().ok_or_else(|| Error::internal("the rows ended without a report"))?;
        let report = encode_report(report).encode_to_vec();
        // A batch, since not every client takes messages that have only metadata.
        let mut messages = self.encode(&RecordBatch::new_empty(self.rows.schema()))?;
        let last = messages.last_mut().ok_or_else(|| Error::internal("a batch without rows has no message"))?;
        last.app_metadata = report.into();
        Ok(Some(messages))
    }

    fn encode(&mut self, batch: &RecordBatch) -> Result<Vec<FlightData>> {
        let encoded = self.encoder.encode(batch);
        encoded.map_err(|error| Error::internal(format!("the rows can't be sent: {error}")))
    }
}

fn encode_report(report: &Report) -> v1::TrainingSetReport {
    let tables = report.tables.iter().map(|table| v1::TableVersion {
        view: table.view.clone(),
        view_version: table.view_version,
        delta_version: table.delta_version,
        tail_rows: table.tail_rows,
        definition_revision: table.definition_revision,
        lacks_before: table.lacks_before,
    });
    let features = report.nulls.iter().map(|(feature, nulls)| v1::FeatureNulls {
        feature: feature.clone(),
        nulls: *nulls,
        masked: report.masked.contains(feature),
    });
    v1::TrainingSetReport {
        rows: report.rows,
        differing_rows: report.differing_rows,
        row_view_pairs: report.row_view_pairs,
        r#final: report.mode == Mode::Final,
        cutoff: report.cutoff,
        registry_revision: report.registry_revision,
        services: report.services.clone(),
        spine_hash: report.spine_hash.clone(),
        content_hash: report.content_hash.clone(),
        tables: tables.collect(),
        features: features.collect(),
        warning: report.warning().unwrap_or_default(),
    }
}
