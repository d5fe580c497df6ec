//! Arrow Flight: training sets by DoExchange, or by DoGet from spines that DoPut has stored; bulk ingest
//! by DoPut; and what there is to read and write by ListFlights, GetFlightInfo and GetSchema. What is sent comes from strangers: every
//! message is measured and decoded off the runtime's threads, and an odd one is refused.

mod actions;
mod backfill;
mod endpoints;
mod exchange;
mod info;
mod put;
mod store;
mod tickets;

use std::time::Duration;

use arrow_flight::flight_descriptor::DescriptorType;
use arrow_flight::flight_service_server::FlightService;
use arrow_flight::{
    Action as FlightAction, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest,
    HandshakeResponse, PollInfo, PutResult, Result as ActionResult, SchemaResult, Ticket,
};
use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use hydrant_proto::v1;
use prost::Message as _;
use tonic::{Request, Response, Status, Streaming};

use super::ingest::DecodeLimits;
use super::status::{not_yet_served, to_status};
use super::wire::ipc::{Decoded, IpcDecoder};
use super::{Caller, UseCases, layers};
use crate::error::{Code, Error, Result};
use crate::tenancy::Identity;

/// Bounds of this port.
#[derive(Clone, Copy, Debug)]
pub struct FlightLimits {
    pub decode: DecodeLimits,
    /// An upload that stands still for so long is given up.
    pub idle_time: Duration,
}

#[derive(Clone, Debug)]
pub struct FlightRpc {
    use_cases: UseCases,
    limits: FlightLimits,
}

impl FlightRpc {
    pub fn new(use_cases: UseCases, limits: FlightLimits) -> Self {
        Self { use_cases, limits }
    }
}

type Answers<T> = BoxStream<'static, Result<T, Status>>;

/// The answers, and the work behind them, for as long as their caller's credential holds; then a refusal
/// (UNAUTHENTICATED) ends them.
fn while_known<T: Send + 'static>(caller: &Caller, answers: Answers<T>) -> Answers<T> {
    let known = Some((answers, caller.identity.clone()));
    let answers = stream::unfold(known, |known| async move {
        let (mut answers, identity) = known?;
        match identity.while_known(answers.next()).await {
            Ok(answer) => answer.map(|answer| (answer, Some((answers, identity)))),
            Err(refused) => Some((Err(to_status(refused)), None)),
        }
    });
    answers.boxed()
}

#[async_trait]
impl FlightService for FlightRpc {
    type HandshakeStream = Answers<HandshakeResponse>;
    type ListFlightsStream = Answers<FlightInfo>;
    type DoGetStream = Answers<FlightData>;
    type DoPutStream = Answers<PutResult>;
    type DoActionStream = Answers<ActionResult>;
    type ListActionsStream = Answers<ActionType>;
    type DoExchangeStream = Answers<FlightData>;

    async fn handshake(
        &self,
        _: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        Err(to_status(
            not_yet_served("Handshake", "HANDSHAKE_NOT_SERVED")
                .hint("call without one: a credential goes with every call, in the header `authorization`"),
        ))
    }

    async fn list_flights(&self, request: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        let flights = info::list(&self.use_cases, &layers::caller(request.extensions())).map_err(to_status)?;
        Ok(Response::new(stream::iter(flights.into_iter().map(Ok)).boxed()))
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        let caller = layers::caller(request.extensions());
        let descriptor = request.into_inner();
        let info = match endpoints::asked(&descriptor).map_err(to_status)? {
            Some(asked) => endpoints::info(&self.use_cases, &caller, descriptor, asked).await,
            None => info::of(&self.use_cases, &caller, descriptor),
        };
        info.map(Response::new).map_err(to_status)
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        Err(to_status(
            not_yet_served("PollFlightInfo", "POLL_NOT_SERVED")
                .hint("use GetFlightInfo, and the action training_set.progress"),
        ))
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        let caller = layers::caller(request.extensions());
        let descriptor = request.into_inner();
        let schema = match endpoints::asked(&descriptor).map_err(to_status)? {
            Some(asked) => endpoints::schema(&self.use_cases, &caller, asked).await,
            None => info::schema_of(&self.use_cases, &caller, descriptor),
        };
        schema.map(Response::new).map_err(to_status)
    }

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        let deadline = layers::stream_deadline(request.extensions());
        let caller = layers::caller(request.extensions());
        let ticket = request.into_inner();
        endpoints::get(&self.use_cases, &caller, &ticket, deadline).await.map(Response::new).map_err(to_status)
    }

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        let deadline = layers::stream_deadline(request.extensions());
        let caller = layers::caller(request.extensions());
        let mut upload = Upload::begin(request.into_inner(), &caller, self.limits).await?;
        match upload.asked().map_err(to_status)? {
            Asked::StoreSpine => store::store(self, &caller, upload).await.map(Response::new),
            asked => {
                put::put(self.clone(), caller, upload, asked, deadline).await.map(Response::new).map_err(to_status)
            }
        }
    }

    async fn do_exchange(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        let caller = layers::caller(request.extensions());
        let upload = Upload::begin(request.into_inner(), &caller, self.limits).await?;
        exchange::exchange(self, &caller, upload).await.map(Response::new)
    }

    async fn do_action(&self, request: Request<FlightAction>) -> Result<Response<Self::DoActionStream>, Status> {
        let caller = layers::caller(request.extensions());
        let result = actions::act(&self.use_cases, &caller, request.into_inner()).map_err(to_status)?;
        Ok(Response::new(stream::iter([Ok(result)]).boxed()))
    }

    async fn list_actions(&self, _: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        Ok(Response::new(stream::iter(actions::all().map(Ok)).boxed()))
    }
}

/// What a descriptor asks for.
#[derive(Clone, Debug, PartialEq)]
enum Asked {
    HistoricalFeatures(v1::HistoricalFeaturesCommand),
    Ingest(v1::IngestCommand),
    StoreSpine,
    TrainingSet(v1::TrainingSetCommand),
    Backfill(v1::BackfillCommand),
    /// `source`, `view` or `service`, and its name.
    Path(String, String),
}

/// Reads a descriptor: a FlightCommand, or a path of a kind and a name.
fn read_descriptor(descriptor: FlightDescriptor) -> Result<Asked> {
    let hint = "send a FlightCommand of package hydrant.v1, or a path such as source/weather, view/airport_weather, service/delay_model, training_set/flights@1";
    let wrong = |told: String| Error::invalid("BAD_DESCRIPTOR", told).hint(hint);
    match descriptor.r#type() {
        DescriptorType::Cmd => {
            let command = v1::FlightCommand::decode(descriptor.cmd);
            let command = command.map_err(|error| wrong(format!("the descriptor's command can't be read: {error}")))?;
            match command.command {
                Some(v1::flight_command::Command::HistoricalFeatures(command)) => {
                    Ok(Asked::HistoricalFeatures(command))
                }
                Some(v1::flight_command::Command::Ingest(command)) => Ok(Asked::Ingest(command)),
                Some(v1::flight_command::Command::StoreSpine(_)) => Ok(Asked::StoreSpine),
                Some(v1::flight_command::Command::TrainingSet(command)) => Ok(Asked::TrainingSet(command)),
                Some(v1::flight_command::Command::Backfill(command)) => Ok(Asked::Backfill(command)),
                None => Err(wrong("the descriptor's command is empty".to_owned())),
            }
        }
        DescriptorType::Path => match <[String; 2]>::try_from(descriptor.path) {
            Ok([kind, name]) => Ok(Asked::Path(kind, name)),
            Err(path) => Err(wrong(format!("a path has a kind and a name, and this one has {} parts", path.len()))),
        },
        DescriptorType::Unknown => Err(wrong("the descriptor is neither a command nor a path".to_owned())),
    }
}

/// The messages of one upload, decoded in order.
struct Upload {
    messages: Streaming<FlightData>,
    /// Whose it is: it ends when their credential does.
    identity: Identity,
    descriptor: Option<FlightDescriptor>,
    first: Option<FlightData>,
    decoder: Option<IpcDecoder>,
    idle_time: Duration,
}

impl Upload {
    /// Takes the first message, which has to say what the upload is for.
    async fn begin(messages: Streaming<FlightData>, caller: &Caller, limits: FlightLimits) -> Result<Self, Status> {
        let DecodeLimits { max_message, max_rows } = limits.decode;
        let decoder = Some(IpcDecoder::new(max_message, max_rows));
        let (identity, idle_time) = (caller.identity.clone(), limits.idle_time);
        let mut upload = Self { messages, identity, descriptor: None, first: None, decoder, idle_time };
        let mut first = upload.message().await?.unwrap_or_default();
        upload.descriptor = first.flight_descriptor.take();
        upload.first = Some(first);
        Ok(upload)
    }

    fn asked(&mut self) -> Result<Asked> {
        let missing =
            || Error::invalid("BAD_DESCRIPTOR", "the first message has no descriptor that says what this is for");
        read_descriptor(self.descriptor.take().ok_or_else(missing)?)
    }

    /// What the next message that holds something holds; `None` at the end.
    async fn next(&mut self) -> Result<Option<Decoded>, Status> {
        loop {
            let message = match self.first.take() {
                Some(first) => first,
                None => match self.message().await? {
                    Some(message) => message,
                    None => return Ok(None),
                },
            };
            match self.decode(message).await.map_err(to_status)? {
                Decoded::Nothing => {}
                held => return Ok(Some(held)),
            }
        }
    }

    async fn message(&mut self) -> Result<Option<FlightData>, Status> {
        let message = tokio::time::timeout(self.idle_time, self.messages.message());
        match self.identity.while_known(message).await.map_err(to_status)? {
            Ok(message) => message,
            Err(_) => {
                let told = format!("nothing was sent for {} seconds", self.idle_time.as_secs());
                Err(to_status(Error::new(Code::DeadlineExceeded, "UPLOAD_STANDS_STILL", told)))
            }
        }
    }

    /// Decompressing and checking a message takes its time, which is not the runtime's.
    async fn decode(&mut self, message: FlightData) -> Result<Decoded> {
        let ended = || Error::internal("an upload was read on after its end");
        let mut decoder = self.decoder.take().ok_or_else(ended)?;
        let decode = move || {
            let decoded = decoder.decode(&message.data_header, message.data_body);
            (decoder, decoded)
        };
        let (decoder, decoded) = tokio::task::spawn_blocking(decode)
            .await
            .map_err(|error| Error::internal(format!("decoding a message ended early: {error}")))?;
        self.decoder = Some(decoder);
        decoded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_is_a_command_or_a_kind_and_a_name() {
        let command = v1::IngestCommand { source: "weather".to_owned(), ..Default::default() };
        let wire = v1::FlightCommand { command: Some(v1::flight_command::Command::Ingest(command.clone())) };
        let read = read_descriptor(FlightDescriptor::new_cmd(wire.encode_to_vec())).expect("a command");
        assert_eq!(read, Asked::Ingest(command));

        let path = FlightDescriptor::new_path(vec!["view".to_owned(), "planes".to_owned()]);
        assert_eq!(read_descriptor(path).expect("a path"), Asked::Path("view".to_owned(), "planes".to_owned()));
    }

    #[test]
    fn other_descriptors_are_refused_with_the_way_out() {
        for descriptor in [
            FlightDescriptor::new_cmd("no protobuf"),
            FlightDescriptor::new_cmd(""),
            FlightDescriptor::new_path(vec!["weather".to_owned()]),
            FlightDescriptor::default(),
        ] {
            let error = read_descriptor(descriptor).expect_err("refused");
            assert_eq!((error.reason, error.hint.is_some()), ("BAD_DESCRIPTOR", true));
        }
    }
}
