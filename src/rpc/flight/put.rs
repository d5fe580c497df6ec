//! DoPut: each record batch is one ingest request, acknowledged by itself and in order. The first
//! refusal ends the stream; what was acknowledged before it stays.

use std::time::Instant;

use arrow_array::RecordBatch;
use arrow_flight::PutResult;
use futures::StreamExt as _;
use futures::stream::try_unfold;
use hydrant_proto::v1;
use hydrant_storage::slices::slice_bytes;
use prost::Message as _;
use tonic::Status;

use super::super::Caller;
use super::super::ingest::{Unseen, decode_producer, encode_report, of_request, visible_by, write_demand};
use super::super::status::to_status;
use super::super::wire::definitions::decode_request_known_time;
use super::super::wire::ipc::Decoded;
use super::{Answers, Asked, FlightRpc, Upload, backfill};
use crate::error::{Error, Result};
use crate::ingest::IngestRequest;
use crate::registry::definition::KnownTimeRule;
use crate::tenancy::Action;

/// What holds for every batch of the stream.
struct Batches {
    rpc: FlightRpc,
    caller: Caller,
    upload: Upload,
    command: v1::IngestCommand,
    known_time: Option<KnownTimeRule>,
    /// Batches acknowledged.
    taken: u64,
    deadline: Option<Instant>,
}

pub(super) async fn put(
    rpc: FlightRpc,
    caller: Caller,
    upload: Upload,
    asked: Asked,
    deadline: Option<Instant>,
) -> Result<Answers<PutResult>> {
    let command = match asked {
        Asked::Ingest(command) => command,
        Asked::Backfill(command) => return backfill::put(&rpc, &caller, upload, command).await,
        Asked::Path(kind, source) if kind == "source" => v1::IngestCommand { source, ..Default::default() },
        Asked::Path(..) | Asked::HistoricalFeatures(_) | Asked::StoreSpine | Asked::TrainingSet(_) => {
            return Err(Error::invalid("BAD_DESCRIPTOR", "DoPut takes rows of a source, or a spine")
                .hint("send an IngestCommand, a BackfillCommand, the path source/NAME, or a StoreSpineCommand"));
        }
    };
    let known_time = decode_request_known_time(command.known_time.clone())?;
    let batches = Batches { rpc, caller, upload, command, known_time, taken: 0, deadline };
    Ok(try_unfold(batches, |mut batches| async move {
        let answer = batches.take_next().await?;
        Ok(answer.map(|answer| (answer, batches)))
    })
    .boxed())
}

impl Batches {
    async fn take_next(&mut self) -> Result<Option<PutResult>, Status> {
        loop {
            match self.upload.next().await? {
                // A batch without rows asks for nothing.
                Some(Decoded::Batch(batch)) if batch.num_rows() > 0 => {
                    let answer = self.ingest(batch).await;
                    let answer = answer.map_err(|error| to_status(of_request(error, "batch", self.taken)))?;
                    self.taken += 1;
                    return Ok(Some(PutResult { app_metadata: answer.encode_to_vec().into() }));
                }
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    async fn ingest(&self, batch: RecordBatch) -> Result<v1::IngestResponse> {
        let use_cases = &self.rpc.use_cases;
        let deadline = visible_by(self.deadline);
        let demand = write_demand(batch.columns().iter().map(|column| slice_bytes(column)).sum(), self.deadline);
        let permit = use_cases.admit(&self.caller, Action::Write, demand).await?;
        let sequence = self.command.first_sequence.checked_add(self.taken);
        let sequence = sequence.ok_or_else(|| Error::invalid("BAD_SEQUENCE", "the sequences run over"))?;
        let request = IngestRequest {
            source: self.command.source.clone(),
            batch,
            producer: decode_producer(self.command.producer.clone(), sequence),
            known_time: self.known_time.clone(),
            ignore_extra: self.command.ignore_extra,
            validate_only: false,
        };
        let report = use_cases.ingest.ingest(&permit, request).await?;
        drop(permit);
        if self.command.wait_visible {
            let mut unseen = Unseen::default();
            unseen.add(&report);
            unseen.wait(&use_cases.partitions, deadline).await?;
        }
        Ok(encode_report(report))
    }
}
