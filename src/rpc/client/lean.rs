//! Calls for those who measure a server: requests that are encoded beforehand go out over several
//! connections, and answers come back as their bytes, so that the caller costs little beside the
//! server. It decodes nothing that it isn't asked for, and never retries.

use std::time::Duration;

use bytes::Bytes;
use hydrant_proto::v1;
use prost::Message as _;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Request, Status};

use super::super::codec::{BytesOut, DecodeBytes};
use super::{Connection, MAX_MESSAGE, Refusal, Remote, failure, unreadable};

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    GetOnlineFeatures,
    Ingest,
}

/// Connections to one server. Calls go over them in turn, many at a time over each.
#[derive(Clone, Debug)]
pub struct LeanClient {
    server: Remote,
    connections: Vec<Connection>,
    deadline: Option<Duration>,
}

impl LeanClient {
    /// Connects as often as asked for, but once at least. Every call is given the deadline.
    pub async fn connect(server: &Remote, connections: usize, deadline: Option<Duration>) -> Result<Self, Refusal> {
        let mut channels = Vec::new();
        for _ in 0..connections.max(1) {
            channels.push(server.connect().await?);
        }
        Ok(Self { server: server.clone(), connections: channels, deadline })
    }

    /// Sends an encoded request over the connection whose turn it is by `number`, and gives the
    /// answer's bytes.
    pub async fn call(&self, number: u64, method: Method, request: Bytes) -> Result<Bytes, Refusal> {
        let connections = self.connections.len() as u64;
        let connection = self.connections[usize::try_from(number % connections).unwrap_or_default()].clone();
        self.send(connection, method, request).await.map_err(|status| failure(&self.server, &status))
    }

    async fn send(&self, connection: Connection, method: Method, request: Bytes) -> Result<Bytes, Status> {
        let mut grpc = Grpc::new(connection).max_decoding_message_size(MAX_MESSAGE);
        grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
        let mut request = Request::new(request);
        if let Some(deadline) = self.deadline {
            request.set_timeout(deadline);
        }
        Ok(grpc.unary(request, method.path(), BytesOut::<DecodeBytes>::default()).await?.into_inner())
    }
}

impl Method {
    fn path(self) -> PathAndQuery {
        PathAndQuery::from_static(match self {
            Self::GetOnlineFeatures => "/hydrant.v1.OnlineService/GetOnlineFeatures",
            Self::Ingest => "/hydrant.v1.IngestService/Ingest",
        })
    }
}

pub fn encode_read(request: &v1::GetOnlineFeaturesRequest) -> Bytes {
    request.encode_to_vec().into()
}

pub fn encode_write(request: &v1::IngestRequest) -> Bytes {
    request.encode_to_vec().into()
}

pub fn decode_read(answer: Bytes) -> Result<v1::GetOnlineFeaturesResponse, Refusal> {
    v1::GetOnlineFeaturesResponse::decode(answer).map_err(unreadable)
}

pub fn decode_write(answer: Bytes) -> Result<v1::IngestResponse, Refusal> {
    v1::IngestResponse::decode(answer).map_err(unreadable)
}
