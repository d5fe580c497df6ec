//! Calls as frames and headers, below what a client library would let through: whatever it is that is
//! sent, and how the call ended.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use prost::Message as _;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, HeaderName, HeaderValue, Request};
use tonic::transport::Channel;
use tower::Service as _;

/// The longest that a call may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long more is waited for of a stream that has begun to answer and may not end.
const MORE: Duration = Duration::from_millis(20);
/// Answers are read so far.
const MOST_FRAMES: usize = 64;

#[derive(Clone, Debug, Default)]
pub struct Call {
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub chunks: VecDeque<Bytes>,
    /// The client goes away in the middle.
    pub given_up: bool,
}

/// How a call ended.
#[derive(Debug)]
pub enum End {
    Ok,
    Refused(Status),
    /// Below gRPC: the stream was reset, or answered as HTTP.
    Http(String),
    /// It goes on, and nobody waits for it.
    Endless,
    /// No answer in [`PATIENCE`].
    Never,
}

pub struct Outcome {
    pub end: End,
    /// Whether a message was answered.
    pub answered: bool,
}

pub async fn call(mut channel: Channel, method: &str, call: Call) -> Outcome {
    let mut request = Request::builder().method("POST").uri(format!("http://localhost/{method}"));
    for (name, value) in call.headers {
        request = request.header(name, value);
    }
    let request = request.body(Body::new(Chunks { chunks: call.chunks, given_up: call.given_up })).expect("a request");
    let answered = async {
        poll_fn(|context| channel.poll_ready(context)).await?;
        channel.call(request).await
    };
    let response = match tokio::time::timeout(PATIENCE, answered).await {
        Err(_) => return Outcome { end: End::Never, answered: false },
        Ok(Err(error)) => return Outcome { end: End::Http(format!("{error:?}")), answered: false },
        Ok(Ok(response)) => response,
    };
    let (head, mut body) = response.into_parts();
    if let Some(status) = Status::from_header_map(&head.headers) {
        return Outcome { end: ended(status), answered: false };
    }
    if !head.status.is_success() {
        return Outcome { end: End::Http(head.status.to_string()), answered: false };
    }
    let mut frames = 0;
    loop {
        let patience = if frames == 0 { PATIENCE } else { MORE };
        let next = poll_fn(|context| Pin::new(&mut body).poll_frame(context));
        let end = match tokio::time::timeout(patience, next).await {
            Err(_) if frames == 0 => End::Never,
            Err(_) => End::Endless,
            Ok(None) => End::Http("no trailers".to_owned()),
            Ok(Some(Err(status))) => End::Http(format!("{status:?}")),
            Ok(Some(Ok(frame))) => match frame.into_trailers() {
                Ok(trailers) => trailers_end(&trailers),
                Err(_) => {
                    frames += 1;
                    if frames < MOST_FRAMES {
                        continue;
                    }
                    End::Endless
                }
            },
        };
        return Outcome { end, answered: frames > 0 };
    }
}

fn trailers_end(trailers: &HeaderMap) -> End {
    Status::from_header_map(trailers).map_or_else(|| End::Http("no status".to_owned()), ended)
}

fn ended(status: Status) -> End {
    if status.code() == tonic::Code::Ok { End::Ok } else { End::Refused(status) }
}

/// The reason of every ErrorInfo that a status has.
pub fn reasons(status: &Status) -> Vec<String> {
    let details = tonic_types::pb::Status::decode(status.details()).map(|status| status.details).unwrap_or_default();
    let infos = details.iter().filter(|detail| detail.type_url.ends_with("google.rpc.ErrorInfo"));
    infos
        .map(|detail| {
            tonic_types::pb::ErrorInfo::decode(detail.value.as_slice()).map(|info| info.reason).unwrap_or_default()
        })
        .collect()
}

/// A message in its frame.
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("no message here is that long");
    [&[0], &length.to_be_bytes()[..], message].concat()
}

struct Chunks {
    chunks: VecDeque<Bytes>,
    given_up: bool,
}

impl HttpBody for Chunks {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(match self.chunks.pop_front() {
            Some(chunk) => Some(Ok(Frame::data(chunk))),
            None if self.given_up => {
                self.given_up = false;
                Some(Err(Status::cancelled("given up")))
            }
            None => None,
        })
    }
}
