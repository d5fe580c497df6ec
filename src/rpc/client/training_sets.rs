//! Spines that are stored, endpoints that are pulled, and saved training sets.

use std::fmt;

use arrow_array::RecordBatch;
use arrow_flight::{Action, FlightData, FlightDescriptor, Ticket};
use arrow_schema::{Schema, SchemaRef};
use bytes::Bytes;
use futures::Stream;
use hydrant_proto::v1;
use hydrant_proto::v1::training_set_service_client::TrainingSetServiceClient;
use prost::Message as _;
use tonic::Streaming;

use super::super::wire::ipc::{Decoded, IpcDecoder};
use super::super::wire::messages::MESSAGE_BYTES;
use super::{Client, Connection, MAX_MESSAGE, Refusal, Remote, failure, unreadable, upload};

/// Training sets of one page when all are listed.
const PAGE: u32 = 500;

/// A training set that can be pulled in parts.
#[derive(Clone, Debug)]
pub struct Endpoints {
    /// The spine's columns, then the features'.
    pub schema: SchemaRef,
    pub prepared: v1::PreparedTrainingSet,
    /// Each gives some rows, in the spine's order.
    pub tickets: Vec<Bytes>,
}

/// The rows of an endpoint as they arrive.
pub struct Endpoint {
    server: Remote,
    answer: Streaming<FlightData>,
    decoder: IpcDecoder,
    rows: u64,
    report: Option<v1::EndpointReport>,
}

impl Client {
    /// Stores a spine, once however often it is sent; the answer comes when it is durable.
    pub async fn store_spine(
        &self,
        schema: SchemaRef,
        spine: impl Stream<Item = Result<RecordBatch, Refusal>> + Send + 'static,
    ) -> Result<v1::StoredSpine, Refusal> {
        let command = v1::flight_command::Command::StoreSpine(v1::StoreSpineCommand {});
        let (upload, failed) = upload(v1::FlightCommand { command: Some(command) }, schema, spine, MESSAGE_BYTES);
        let mut flight = self.flight().await?;
        let answer = match flight.do_put(upload).await {
            Ok(answers) => answers.into_inner().message().await,
            Err(status) => Err(status),
        };
        // To the server an upload that broke off looks like one that ended.
        if let Some(refusal) = failed.take() {
            return Err(refusal);
        }
        let answer = answer.map_err(|status| failure(&self.server, &status))?;
        let answer = answer.ok_or_else(|| unreadable("the spine was stored without an answer"))?;
        v1::StoredSpine::decode(answer.app_metadata).map_err(unreadable)
    }

    /// Endpoints of a stored spine, or of a saved training set.
    pub async fn endpoints(&self, command: v1::flight_command::Command) -> Result<Endpoints, Refusal> {
        let command = v1::FlightCommand { command: Some(command) };
        let mut flight = self.flight().await?;
        let info = flight.get_flight_info(FlightDescriptor::new_cmd(command.encode_to_vec())).await;
        let info = self.answer(info)?;
        let tickets = info.endpoint.iter().filter_map(|endpoint| endpoint.ticket.clone());
        let tickets = tickets.map(|ticket| ticket.ticket).collect();
        let prepared = v1::PreparedTrainingSet::decode(info.app_metadata.clone()).map_err(unreadable)?;
        let schema: Schema = info.try_decode_schema().map_err(unreadable)?;
        Ok(Endpoints { schema: schema.into(), prepared, tickets })
    }

    /// Begins to pull an endpoint.
    pub async fn pull(&self, ticket: Bytes) -> Result<Endpoint, Refusal> {
        let mut flight = self.flight().await?;
        let answer = flight.do_get(Ticket { ticket }).await;
        let answer = self.answer(answer)?;
        let decoder = IpcDecoder::new(MAX_MESSAGE as u64, u64::MAX);
        Ok(Endpoint { server: self.server.clone(), answer, decoder, rows: 0, report: None })
    }

    /// How far the training set of a ticket is.
    pub async fn training_set_progress(&self, ticket: Bytes) -> Result<v1::TrainingSetProgress, Refusal> {
        let mut flight = self.flight().await?;
        let action = Action { r#type: "training_set.progress".to_owned(), body: ticket };
        let mut answer = self.answer(flight.do_action(action).await)?;
        let result = answer.message().await.map_err(|status| failure(&self.server, &status))?;
        let result = result.ok_or_else(|| unreadable("the action has no result"))?;
        v1::TrainingSetProgress::decode(result.body).map_err(unreadable)
    }

    /// Makes a training set and saves it. `progress` is told of it now and then; dropping the future
    /// stops it.
    pub async fn create_training_set(
        &self,
        request: v1::CreateTrainingSetRequest,
        mut progress: impl FnMut(&v1::TrainingSetProgress),
    ) -> Result<v1::CreatedTrainingSet, Refusal> {
        let mut told = self.answer(self.training_sets().create_training_set(request).await)?;
        loop {
            let message = told.message().await.map_err(|status| failure(&self.server, &status))?;
            match message.map(|message| message.told) {
                Some(Some(v1::create_training_set_response::Told::Progress(counts))) => progress(&counts),
                Some(Some(v1::create_training_set_response::Told::Created(created))) => return Ok(created),
                Some(None) => {}
                None => return Err(unreadable("the training set's progress ended without telling what came of it")),
            }
        }
    }

    /// Makes a saved training set again and compares.
    pub async fn verify_training_set(
        &self,
        name: &str,
        mut progress: impl FnMut(&v1::TrainingSetProgress),
    ) -> Result<v1::VerifiedTrainingSet, Refusal> {
        let request = v1::VerifyTrainingSetRequest { name: name.to_owned() };
        let mut told = self.answer(self.training_sets().verify_training_set(request).await)?;
        loop {
            let message = told.message().await.map_err(|status| failure(&self.server, &status))?;
            match message.map(|message| message.told) {
                Some(Some(v1::verify_training_set_response::Told::Progress(counts))) => progress(&counts),
                Some(Some(v1::verify_training_set_response::Told::Verified(verified))) => return Ok(verified),
                Some(None) => {}
                None => return Err(unreadable("the verification ended without telling what came of it")),
            }
        }
    }

    /// A saved training set, by `name` or `name@N`.
    pub async fn get_training_set(&self, name: &str) -> Result<v1::TrainingSet, Refusal> {
        let request = v1::GetTrainingSetRequest { name: name.to_owned() };
        let answer = self.training_sets().get_training_set(self.request(request)).await;
        self.answer(answer)
    }

    /// What a saved training set is made of.
    pub async fn get_training_set_lineage(&self, name: &str) -> Result<v1::GetLineageResponse, Refusal> {
        let request = v1::GetLineageRequest { kind: v1::Kind::TrainingSet.into(), name: name.to_owned() };
        let answer = self.registry().get_lineage(self.request(request)).await;
        self.answer(answer)
    }

    /// Every version of every saved training set, page after page.
    pub async fn list_training_sets(&self) -> Result<Vec<v1::TrainingSet>, Refusal> {
        let (mut sets, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = v1::ListTrainingSetsRequest { page_size: PAGE, page_token };
            let answer = self.training_sets().list_training_sets(self.request(request)).await;
            let page = self.answer(answer)?;
            sets.extend(page.training_sets);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(sets);
            }
        }
    }

    /// Deletes `name@N`, or with `name` all of its versions; which ones went.
    pub async fn delete_training_set(&self, name: &str) -> Result<Vec<String>, Refusal> {
        let request = v1::DeleteTrainingSetRequest { name: name.to_owned() };
        let answer = self.training_sets().delete_training_set(self.request(request)).await;
        Ok(self.answer(answer)?.deleted)
    }

    fn training_sets(&self) -> TrainingSetServiceClient<Connection> {
        TrainingSetServiceClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE)
    }
}

impl Endpoint {
    /// The next rows, in the spine's order; `None` after the last. An endpoint that ends early is an
    /// error.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, Refusal> {
        loop {
            let message = self.answer.message().await.map_err(|status| failure(&self.server, &status))?;
            let Some(message) = message else { break };
            if !message.app_metadata.is_empty() {
                self.report = Some(v1::EndpointReport::decode(message.app_metadata).map_err(unreadable)?);
            }
            let decoded = self.decoder.decode(&message.data_header, message.data_body).map_err(unreadable)?;
            if let Decoded::Batch(batch) = decoded
                && batch.num_rows() > 0
            {
                self.rows += batch.num_rows() as u64;
                return Ok(Some(batch));
            }
        }
        match &self.report {
            Some(report) if report.whole && report.rows == self.rows => Ok(None),
            _ => Err(unreadable(format!("an endpoint ended after {} rows, before its end", self.rows))),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Endpoint")
            .field("server", &self.server)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}
