//! DoExchange: the whole spine comes in and is spooled before the first answer row, since many
//! clients write everything before they read; then the joined rows stream out, and a last message
//! without rows carries the report.

use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::RecordBatch;
use arrow_flight::encode::{DictionaryHandling, FlightDataEncoderBuilder};
use arrow_flight::error::FlightError;
use arrow_flight::{FlightData, utils};
use arrow_schema::SchemaRef;
use futures::stream::{once, unfold};
use futures::{StreamExt as _, TryStreamExt as _};
use hydrant_proto::v1;
use prost::Message as _;
use tonic::Status;

use super::super::status::to_status;
use super::super::wire::ipc::Decoded;
use super::{Answers, Asked, FlightRpc, Upload};
use crate::error::{Error, Result};
use crate::history::{HistoricalRequest, HistoricalStream, Mode, Report, SpineIntake};
use crate::tenancy::Action;

/// Where the report is put between the end of the rows and the last message.
type LastReport = Arc<Mutex<Option<Report>>>;

pub(super) async fn exchange(rpc: &FlightRpc, mut upload: Upload) -> Result<Answers<FlightData>, Status> {
    let command = match upload.asked().map_err(to_status)? {
        Asked::HistoricalFeatures(command) => command,
        Asked::Ingest(_) | Asked::Path(..) => {
            let refusal = Error::invalid("BAD_DESCRIPTOR", "DoExchange takes a spine");
            return Err(to_status(refusal.hint("send a HistoricalFeaturesCommand")));
        }
    };
    let mut intake = None;
    while let Some(held) = upload.next().await? {
        match (held, intake.as_mut()) {
            (Decoded::Schema(schema), _) => intake = Some(open(rpc, &command, schema).map_err(to_status)?),
            (Decoded::Batch(batch), Some(intake)) => intake.push(batch).await.map_err(to_status)?,
            (Decoded::Batch(_), None) | (Decoded::Nothing, _) => {}
        }
    }
    let missing =
        || to_status(Error::invalid("NO_SPINE", "the spine has no schema").hint("send the spine's schema and rows"));
    let rows = intake.ok_or_else(missing)?.finish().await.map_err(to_status)?;
    Ok(encode(rows))
}

fn open(rpc: &FlightRpc, command: &v1::HistoricalFeaturesCommand, spine: SchemaRef) -> Result<SpineIntake> {
    let permit = rpc.use_cases.permit(Action::ReadHistory)?;
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

/// The rows as Flight messages, then the report. Dictionaries are sent as they are: the spine's
/// columns come back untouched.
fn encode(rows: HistoricalStream) -> Answers<FlightData> {
    let schema = rows.schema();
    let report = LastReport::default();
    let kept = report.clone();
    let batches = unfold(rows, move |mut rows| {
        let kept = kept.clone();
        async move {
            let next: Option<Result<RecordBatch>> = rows.next().await;
            if next.is_none() {
                *kept.lock().unwrap_or_else(PoisonError::into_inner) = rows.report().cloned();
            }
            next.map(|batch| (batch.map_err(|error| FlightError::ExternalError(Box::new(error))), rows))
        }
    });
    let messages = FlightDataEncoderBuilder::new()
        .with_schema(schema.clone())
        .with_dictionary_handling(DictionaryHandling::Resend)
        .build(batches)
        .map_err(to_refusal);
    let last = once(async move {
        let report = report.lock().unwrap_or_else(PoisonError::into_inner).take();
        report.map(|report| last_messages(&schema, &report).map_err(to_status))
    });
    let last = last.flat_map(|messages| {
        let messages: Vec<Result<FlightData, Status>> = match messages {
            Some(Ok(messages)) => messages.into_iter().map(Ok).collect(),
            Some(Err(status)) => vec![Err(status)],
            // The rows ended with an error, which has been sent.
            None => Vec::new(),
        };
        futures::stream::iter(messages)
    });
    messages.chain(last).boxed()
}

/// A batch without rows, with whatever dictionaries it needs, and the report beside it.
fn last_messages(schema: &SchemaRef, report: &Report) -> Result<Vec<FlightData>> {
    let empty = vec![RecordBatch::new_empty(schema.clone())];
    let messages = utils::batches_to_flight_data(schema, empty);
    let messages = messages.map_err(|error| Error::internal(format!("the report can't be sent: {error}")))?;
    // The first holds the schema, which has been sent.
    let mut messages: Vec<FlightData> = messages.into_iter().skip(1).collect();
    let last = messages.last_mut().ok_or_else(|| Error::internal("a batch without rows has no message"))?;
    last.app_metadata = encode_report(report).encode_to_vec().into();
    Ok(messages)
}

fn to_refusal(error: FlightError) -> Status {
    match error {
        FlightError::ExternalError(error) => match error.downcast::<Error>() {
            Ok(error) => to_status(*error),
            Err(error) => to_status(Error::internal(format!("the rows can't be sent: {error}"))),
        },
        error => to_status(Error::internal(format!("the rows can't be sent: {error}"))),
    }
}

fn encode_report(report: &Report) -> v1::TrainingSetReport {
    let tables = report.tables.iter().map(|table| v1::TableVersion {
        view: table.view.clone(),
        view_version: table.view_version,
        delta_version: table.delta_version,
        tail_rows: table.tail_rows,
        definition_revision: table.definition_revision,
    });
    let features =
        report.nulls.iter().map(|(feature, nulls)| v1::FeatureNulls { feature: feature.clone(), nulls: *nulls });
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
    }
}
