//! gRPC as bare as HTTP/2 has it, for loads of a fixed rate from one core: a client such as services use takes a third
//! to a half of that core more, and what it then does late would be in every latency.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::{BufMut as _, Bytes, BytesMut};
use h2::RecvStream;
use h2::client::{Builder, SendRequest};
use hydrant::bench::load::Target;
use hydrant::bench::random::mix;
use hydrant::bench::tally::{Answer, Reply};
use hydrant_proto::v1;
use prost::Message as _;
use tokio::net::TcpStream;
use tonic::Status;
use tonic::codegen::http::{HeaderMap, Request};

use super::transport::{METHOD, has_every_value, reply_without_answer};

/// Bytes of answers that may be on their way, of a call and of a connection: as tonic's client allows for.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 5 << 20;
/// A byte that says whether the message is compressed, and its length.
const PREFIX: usize = 5;
/// One answer in so many, drawn by lot, is decoded and checked: one core could not check all of them in time.
/// Refusals are all read.
const CHECKED: u64 = 16;

/// Connections to one server, and the requests to be sent to it, over and over.
#[derive(Clone, Debug)]
pub struct Streams {
    connections: Vec<SendRequest<Bytes>>,
    /// With their prefixes.
    messages: Arc<Vec<Bytes>>,
    head: Request<()>,
}

impl Streams {
    /// With an API key, where the server asks.
    pub async fn connect(address: &str, connections: usize, requests: &[Bytes], token: Option<&str>) -> Result<Self> {
        let mut opened = Vec::with_capacity(connections);
        for _ in 0..connections {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let mut builder = Builder::new();
            builder.initial_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
            let (sender, connection) = builder.handshake(stream).await?;
            // It ends with the last of its senders; what fails, fails the calls.
            tokio::spawn(connection);
            opened.push(sender);
        }
        let mut head = Request::post(format!("http://{address}{METHOD}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(token) = token {
            head = head.header("authorization", format!("Bearer {token}"));
        }
        let framed = |request: &Bytes| {
            let mut framed = BytesMut::with_capacity(PREFIX + request.len());
            framed.put_u8(0);
            framed.put_u32(request.len() as u32);
            framed.extend_from_slice(request);
            framed.freeze()
        };
        let messages = Arc::new(requests.iter().map(framed).collect());
        Ok(Self { connections: opened, messages, head: head.body(()).context("a request's head")? })
    }

    async fn send(&self, number: u64) -> Result<Result<(), Status>, h2::Error> {
        let connection = self.connections[number as usize % self.connections.len()].clone();
        let message = self.messages[number as usize % self.messages.len()].clone();
        let (response, mut body) = connection.ready().await?.send_request(self.head.clone(), false)?;
        body.send_data(message, true)?;
        let (head, mut body) = response.await?.into_parts();
        let mut checked = mix(number).is_multiple_of(CHECKED).then(BytesMut::new);
        let trailers = read(&mut body, &mut checked).await?;
        let status = Status::from_header_map(trailers.as_ref().unwrap_or(&head.headers));
        Ok(match status {
            None => Err(Status::unknown("an answer has no status")),
            Some(status) if status.code() != tonic::Code::Ok => Err(status),
            Some(_) => checked.map_or(Ok(()), |answer| check(&answer)),
        })
    }
}

/// Reads to the end, and keeps what is to be checked.
async fn read(body: &mut RecvStream, kept: &mut Option<BytesMut>) -> Result<Option<HeaderMap>, h2::Error> {
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        if let Some(kept) = kept {
            kept.extend_from_slice(&data);
        }
    }
    body.trailers().await
}

fn check(framed: &[u8]) -> Result<(), Status> {
    let message = framed.get(PREFIX..).ok_or_else(|| Status::data_loss("an answer is cut off"))?;
    let answer =
        v1::GetOnlineFeaturesResponse::decode(message).map_err(|error| Status::data_loss(error.to_string()))?;
    if has_every_value(&answer) { Ok(()) } else { Err(Status::data_loss("an answer lacks values")) }
}

impl Target for Streams {
    async fn call(&self, number: u64) -> Reply {
        match self.send(number).await {
            Ok(Ok(())) => Reply::Answered(Answer::default()),
            Ok(Err(status)) => reply_without_answer(status),
            Err(error) => reply_without_answer(Status::unavailable(error.to_string())),
        }
    }
}
