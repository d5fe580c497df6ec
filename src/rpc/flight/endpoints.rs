//! Endpoints of training sets: GetFlightInfo gives one for each range of a stored spine's rows, with a
//! ticket; DoGet gives the rows of a ticket, and a last message that says that they are all. It asks for
//! leave to walk history only where the use case has to.

use std::future::ready;
use std::ops::Range;
use std::time::Instant;

use arrow_array::RecordBatch;
use arrow_flight::{FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, SchemaResult, Ticket};
use futures::stream::{self, once, try_unfold};
use futures::{StreamExt as _, TryStreamExt as _};
use hydrant_proto::v1;
use hydrant_storage::names::Name;
use prost::Message as _;
use tonic::Status;

use super::super::status::to_status;
use super::super::training::{admission, decode_reference};
use super::super::wire::ipc::encode_schema;
use super::super::wire::messages::{FlightEncoder, MESSAGE_BYTES};
use super::super::{Caller, UseCases};
use super::{Answers, Asked, read_descriptor, tickets, while_known};
use crate::error::{Error, Result};
use crate::history::Mode;
use crate::history::sets::{Prepared, PulledRows, SavedSet, StoredRequest};
use crate::tenancy::Action;

/// The kind of path that names a saved training set.
const TRAINING_SET: &str = "training_set";

/// What has endpoints.
#[derive(Clone, Debug)]
pub(super) enum WithEndpoints {
    /// A stored spine with the features that are wanted.
    Spine(v1::HistoricalFeaturesCommand),
    Saved {
        name: Name,
        version: Option<u32>,
        endpoint_rows: u64,
    },
}

/// Whether the descriptor asks for something that has endpoints.
pub(super) fn asked(descriptor: &FlightDescriptor) -> Result<Option<WithEndpoints>> {
    match read_descriptor(descriptor.clone())? {
        Asked::HistoricalFeatures(command) if !command.spine.is_empty() => Ok(Some(WithEndpoints::Spine(command))),
        Asked::HistoricalFeatures(command) if command.endpoint_rows > 0 => {
            Err(Error::invalid("BAD_DESCRIPTOR", "there are no endpoints without a stored spine")
                .hint("put the spine (DoPut), and name its id in `spine`"))
        }
        Asked::TrainingSet(command) => {
            let (name, version) = decode_reference(&command.name)?;
            Ok(Some(WithEndpoints::Saved { name, version, endpoint_rows: command.endpoint_rows }))
        }
        Asked::Path(kind, name) if kind == TRAINING_SET => {
            let (name, version) = decode_reference(&name)?;
            Ok(Some(WithEndpoints::Saved { name, version, endpoint_rows: 0 }))
        }
        _ => Ok(None),
    }
}

pub(super) async fn info(
    use_cases: &UseCases,
    caller: &Caller,
    descriptor: FlightDescriptor,
    asked: WithEndpoints,
) -> Result<FlightInfo> {
    let endpoint_rows = match &asked {
        WithEndpoints::Spine(command) => command.endpoint_rows,
        WithEndpoints::Saved { endpoint_rows, .. } => *endpoint_rows,
    };
    let (saved, prepared) = prepare(use_cases, caller, asked).await?;
    // All tickets have to fit into one message.
    let ticket_bytes = tickets::encode(&prepared.request, &(0..prepared.rows())).ticket.len();
    let endpoints = prepared.endpoints(endpoint_rows, (MESSAGE_BYTES / ticket_bytes) as u64)?;
    let endpoint = |rows: Range<u64>| {
        let ticket = tickets::encode(&prepared.request, &rows);
        FlightEndpoint { ticket: Some(ticket), ..FlightEndpoint::default() }
    };
    let info = FlightInfo {
        schema: encode_schema(&prepared.plan.output)?,
        endpoint: endpoints.into_iter().map(endpoint).collect(),
        total_records: i64::try_from(prepared.rows()).unwrap_or(-1),
        total_bytes: -1,
        ordered: true,
        app_metadata: encode_prepared(saved.as_ref(), &prepared)?.encode_to_vec().into(),
        ..FlightInfo::default()
    };
    Ok(info.with_descriptor(descriptor))
}

pub(super) async fn schema(use_cases: &UseCases, caller: &Caller, asked: WithEndpoints) -> Result<SchemaResult> {
    let (_, prepared) = prepare(use_cases, caller, asked).await?;
    Ok(SchemaResult { schema: encode_schema(&prepared.plan.output)? })
}

async fn prepare(use_cases: &UseCases, caller: &Caller, asked: WithEndpoints) -> Result<(Option<SavedSet>, Prepared)> {
    let permit = use_cases.permit(caller, Action::ReadHistory)?;
    match asked {
        WithEndpoints::Spine(command) => {
            let request = StoredRequest {
                spine: super::super::training::decode_spine(&command.spine)?,
                services: command.services,
                features: command.features,
                event_time: command.event_time,
                mode: if command.r#final { Mode::Final } else { Mode::AsKnown },
                cutoff: command.cutoff,
                with_status: command.with_status,
                with_event_time: command.with_event_time,
            };
            Ok((None, use_cases.training_sets.prepare(&permit, request).await?))
        }
        WithEndpoints::Saved { name, version, .. } => {
            let (set, prepared) = use_cases.training_sets.prepare_saved(&permit, &name, version).await?;
            Ok((Some(set), prepared))
        }
    }
}

/// The rows of a ticket.
pub(super) async fn get(
    use_cases: &UseCases,
    caller: &Caller,
    ticket: &Ticket,
    deadline: Option<Instant>,
) -> Result<Answers<FlightData>> {
    let permit = use_cases.permit(caller, Action::ReadHistory)?;
    let (request, rows) = tickets::decode(&ticket.ticket)?;
    let prepared = use_cases.training_sets.reopen(&permit, request)?;
    let pulled =
        use_cases.training_sets.pull(permit, &prepared, rows.clone(), admission(use_cases, caller, deadline)).await?;
    Ok(while_known(caller, encode(pulled, rows)))
}

/// An endpoint under way.
struct Pulling {
    pulled: PulledRows,
    encoder: FlightEncoder,
    rows: Range<u64>,
    sent: u64,
    ended: bool,
}

fn encode(pulled: PulledRows, rows: Range<u64>) -> Answers<FlightData> {
    let (encoder, schema) = FlightEncoder::begin(&pulled.schema(), MESSAGE_BYTES);
    let pulling = Pulling { pulled, encoder, rows, sent: 0, ended: false };
    let messages = try_unfold(pulling, |mut pulling| async move {
        let messages = pulling.next().await.map_err(to_status)?;
        Ok::<_, Status>(messages.map(|messages| (stream::iter(messages.into_iter().map(Ok)), pulling)))
    });
    once(ready(Ok(schema))).chain(messages.try_flatten()).boxed()
}

impl Pulling {
    /// The messages of the next rows, or at last the one that says that these were all; then `None`.
    async fn next(&mut self) -> Result<Option<Vec<FlightData>>> {
        if self.ended {
            return Ok(None);
        }
        if let Some(batch) = self.pulled.next().await.transpose()? {
            self.sent += batch.num_rows() as u64;
            return self.encode(&batch).map(Some);
        }
        self.ended = true;
        let (first_row, rows) = (self.rows.start, self.rows.end - self.rows.start);
        if self.sent != rows {
            return Err(Error::internal(format!("an endpoint of {rows} rows ended after {}", self.sent)));
        }
        let report = v1::EndpointReport { first_row, rows, whole: true }.encode_to_vec();
        // A batch, since not every client takes messages that have only metadata.
        let mut messages = self.encode(&RecordBatch::new_empty(self.pulled.schema()))?;
        let last = messages.last_mut().ok_or_else(|| Error::internal("a batch without rows has no message"))?;
        last.app_metadata = report.into();
        Ok(Some(messages))
    }

    fn encode(&mut self, batch: &RecordBatch) -> Result<Vec<FlightData>> {
        let encoded = self.encoder.encode(batch);
        encoded.map_err(|error| Error::internal(format!("the rows can't be sent: {error}")))
    }
}

fn encode_prepared(saved: Option<&SavedSet>, prepared: &Prepared) -> Result<v1::PreparedTrainingSet> {
    let Prepared { request, plan, spine, .. } = prepared;
    let about = spine.about()?;
    Ok(v1::PreparedTrainingSet {
        spine: spine.id.to_string(),
        spine_hash: about.spine_hash.clone(),
        rows: about.rows,
        r#final: request.mode == Mode::Final,
        cutoff: request.cutoff,
        registry_revision: plan.revision,
        services: request.services.clone(),
        spine_columns: u32::try_from(plan.spine.fields().len()).unwrap_or(u32::MAX),
        content_hash: saved.map(|set| set.content_hash.clone()).unwrap_or_default(),
        training_set: saved.map(SavedSet::reference).unwrap_or_default(),
    })
}
