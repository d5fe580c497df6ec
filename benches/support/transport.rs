//! gRPC without what a client or server usually adds: requests that are encoded beforehand, answers
//! decoded into typed columns and checked, and a bare tonic server that gives recorded answers from
//! memory, which is the limit of the transport.

use std::convert::Infallible;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use anyhow::{Context as _, Result, ensure};
use bytes::{Buf as _, BufMut as _, Bytes};
use futures::future::{BoxFuture, Ready, ready};
use hydrant::bench::load::Target;
use hydrant::bench::tally::{Answer, Reply};
use hydrant::rpc::codec::{BytesOut, DecodeBytes};
use hydrant_proto::v1;
use prost::Message as _;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::http::{Request as HttpRequest, Response as HttpResponse};
use tonic::metadata::AsciiMetadataValue;
use tonic::server::{NamedService, UnaryService};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt as _;
use tower::Service;

use super::process::Process;

pub(super) const METHOD: &str = "/hydrant.v1.OnlineService/GetOnlineFeatures";
/// The hidden argument that makes a benchmark's program a bare server.
pub const BARE_SERVER: &str = "--bare-server";

/// Connections to one server, and the requests to be sent to it, over and over.
#[derive(Clone, Debug)]
pub struct Calls {
    connections: Vec<Channel>,
    requests: Arc<Vec<Bytes>>,
    /// What says who is calling, where the server asks.
    credential: Option<AsciiMetadataValue>,
}

/// Reads an answer.
#[derive(Clone, Copy, Debug, Default)]
struct DecodeAnswer;

impl Calls {
    pub async fn connect(address: &str, connections: usize, requests: Arc<Vec<Bytes>>) -> Result<Self> {
        Self::connect_as(address, connections, requests, None).await
    }

    /// With an API key.
    pub async fn connect_as(
        address: &str,
        connections: usize,
        requests: Arc<Vec<Bytes>>,
        token: Option<&str>,
    ) -> Result<Self> {
        let credential = token.map(|token| format!("Bearer {token}").parse()).transpose()?;
        let mut channels = Vec::with_capacity(connections);
        for _ in 0..connections {
            channels.push(Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true).connect().await?);
        }
        Ok(Self { connections: channels, requests, credential })
    }

    /// Sends a request and decodes its answer, which must have every value.
    pub async fn call(&self, number: usize) -> Result<(), Status> {
        let answer: v1::GetOnlineFeaturesResponse = self.send(number, BytesOut::<DecodeAnswer>::default()).await?;
        if has_every_value(&answer) { Ok(()) } else { Err(Status::data_loss("an answer lacks values")) }
    }

    /// Sends a request and gives the answer's bytes.
    pub async fn bytes(&self, number: usize) -> Result<Bytes, Status> {
        self.send(number, BytesOut::<DecodeBytes>::default()).await
    }

    async fn send<C, T>(&self, number: usize, codec: C) -> Result<T, Status>
    where
        C: Codec<Encode = Bytes, Decode = T>,
        T: Send + Sync + 'static,
    {
        let connection = self.connections[number % self.connections.len()].clone();
        let request = self.requests[number % self.requests.len()].clone();
        let mut grpc = Grpc::new(connection).max_decoding_message_size(64 << 20);
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut request = Request::new(request);
        if let Some(credential) = &self.credential {
            request.metadata_mut().insert("authorization", credential.clone());
        }
        let answer = grpc.unary(request, PathAndQuery::from_static(METHOD), codec).await?;
        Ok(answer.into_inner())
    }
}

impl Target for Calls {
    async fn call(&self, number: u64) -> Reply {
        Calls::call(self, number as usize)
            .await
            .map_or_else(reply_without_answer, |()| Reply::Answered(Answer::default()))
    }
}

pub(super) fn reply_without_answer(status: Status) -> Reply {
    if status.code() == Code::ResourceExhausted {
        let details = status.get_error_details();
        let reason = details.error_info().map_or_else(|| status.to_string(), |info| info.reason.clone());
        let retry_after = details.retry_info().and_then(|retry| retry.retry_delay);
        return Reply::Refused { reason, retry_after };
    }
    Reply::Failed { status: format!("{:?}", status.code()), message: status.to_string() }
}

/// A server measured on missing rows would look faster than it is.
pub(super) fn has_every_value(answer: &v1::GetOnlineFeaturesResponse) -> bool {
    let present = i32::from(v1::CellStatus::Present);
    let all_present = |statuses: &[i32]| !statuses.is_empty() && statuses.iter().all(|status| *status == present);
    let in_columns = answer.columns.iter().all(|column| {
        all_present(&column.statuses) && column.column.as_ref().is_some_and(|column| column.values.is_some())
    });
    let in_matrices = answer.matrices.iter().all(|matrix| all_present(&matrix.statuses) && !matrix.values.is_empty());
    !(answer.columns.is_empty() && answer.matrices.is_empty()) && in_columns && in_matrices
}

/// The bare server in a process of its own. Gives its address too.
pub fn start_bare_server(answers: &[Bytes], folder: &Path) -> Result<(Process, String)> {
    let path = folder.join("answers");
    let mut file = Vec::new();
    for answer in answers {
        file.put_u32_le(u32::try_from(answer.len())?);
        file.put_slice(answer);
    }
    fs::write(&path, file)?;
    let mut command = Command::new(std::env::current_exe()?);
    let mut process = Process::spawn(command.arg(BARE_SERVER).arg(&path).stdout(Stdio::piped()))?;
    let address = process.first_line()?;
    Ok((process, address))
}

/// Answers every call with the next of the recorded answers, until it is killed.
pub async fn serve_recorded(answers: &Path) -> Result<()> {
    let mut file = Bytes::from(fs::read(answers)?);
    let mut answers = Vec::new();
    while file.has_remaining() {
        let length = file.get_u32_le() as usize;
        answers.push(file.split_to(length));
    }
    ensure!(!answers.is_empty(), "no answers were recorded");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let service = RecordedService { answers: Arc::new(answers), next: Arc::default() };
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Server::builder().add_service(service).serve_with_incoming(incoming).await.context("the bare server ended")
}

#[derive(Clone, Debug)]
struct RecordedService {
    answers: Arc<Vec<Bytes>>,
    next: Arc<AtomicUsize>,
}

impl NamedService for RecordedService {
    const NAME: &'static str = "hydrant.v1.OnlineService";
}

impl Service<HttpRequest<Body>> for RecordedService {
    type Response = HttpResponse<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<Body>) -> Self::Future {
        let method = self.clone();
        Box::pin(async move {
            Ok(tonic::server::Grpc::new(BytesOut::<DecodeBytes>::default()).unary(method, request).await)
        })
    }
}

impl UnaryService<Bytes> for RecordedService {
    type Response = Bytes;
    type Future = Ready<Result<Response<Bytes>, Status>>;

    fn call(&mut self, _: Request<Bytes>) -> Self::Future {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        ready(Ok(Response::new(self.answers[number % self.answers.len()].clone())))
    }
}

impl Decoder for DecodeAnswer {
    type Item = v1::GetOnlineFeaturesResponse;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        let answer = v1::GetOnlineFeaturesResponse::decode(buffer);
        answer.map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
