//! One message in and one out, framed as gRPC frames them (its `PROTOCOL-HTTP2` document), for calls that
//! are made so often that what tonic keeps for streams and compression would cost them more than their
//! work: no buffer is kept, and no message is copied. It knows nothing of what a message says.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, HeaderValue, Response, header};

use super::status::{MessageLimit, is_cancelled, malformed, message_too_large, to_status};
use crate::error::Error;

/// A byte that says whether the message is compressed, and its length.
const PREFIX: usize = 5;

/// A message with room for its prefix before it, so that it goes out as it is.
#[derive(Debug)]
pub struct Outgoing(Vec<u8>);

impl Outgoing {
    /// An empty one, with room for so many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        let mut framed = Vec::with_capacity(PREFIX + bytes);
        framed.resize(PREFIX, 0);
        Self(framed)
    }

    /// Of the message.
    pub fn len(&self) -> usize {
        self.0.len() - PREFIX
    }

    /// What the message is appended to.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    pub fn append(&mut self, message: &impl prost::Message) -> Result<(), Error> {
        message.encode(&mut self.0).map_err(|error| Error::internal(format!("encoding an answer: {error}")))
    }

    pub fn message(self) -> Bytes {
        Bytes::from(self.0).split_off(PREFIX)
    }

    fn framed(mut self) -> Bytes {
        // Ports take and send no message of 4 GiB.
        let length = u32::try_from(self.len()).unwrap_or(u32::MAX);
        self.0[1..PREFIX].copy_from_slice(&length.to_be_bytes());
        self.0.into()
    }
}

/// The answer to a call that succeeded.
pub fn answer(message: Outgoing) -> Response<Body> {
    let mut response = Response::new(Body::new(OneMessage { framed: Some(message.framed()), is_ended: false }));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// The one message of a call, whatever frames it comes in; what follows it is let go. INVALID_ARGUMENT where it
/// isn't whole, RESOURCE_EXHAUSTED as soon as it is known to be larger than allowed.
pub async fn read_message(mut body: Body, limit: MessageLimit) -> Result<Bytes, Status> {
    let mut taken = Taken::default();
    while let Some(data) = next_data(&mut body).await? {
        taken.push(data);
        if let Some(length) = taken.length(limit)?
            && taken.has(length)
        {
            let message = taken.take(length);
            // As a rule this was all.
            if !body.is_end_stream() {
                pass_over(body, limit).await?;
            }
            return Ok(message);
        }
    }
    let told = if taken.is_empty() { "there is no message in the request" } else { "the message ends in the middle" };
    Err(to_status(malformed(told)))
}

/// Lets go of what comes of a body, and keeps nothing of it. INVALID_ARGUMENT once it is more than one message can
/// have.
async fn pass_over(mut body: Body, limit: MessageLimit) -> Result<(), Status> {
    let mut left = limit.bytes.saturating_add(PREFIX as u64);
    while let Some(data) = next_data(&mut body).await? {
        let rest = left.checked_sub(data.len() as u64);
        left = rest.ok_or_else(|| to_status(malformed("there is more than one message in the request")))?;
    }
    Ok(())
}

/// The next bytes; `None` at the end.
async fn next_data(body: &mut Body) -> Result<Option<Bytes>, Status> {
    match poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await {
        // Trailers end it.
        Some(Ok(frame)) => Ok(frame.into_data().ok()),
        None => Ok(None),
        // Nobody hears what is said to a call that was given up.
        Some(Err(status)) if is_cancelled(&status) => Ok(None),
        Some(Err(status)) => Err(status),
    }
}

/// What has come of a body.
#[derive(Debug, Default)]
struct Taken {
    first: Bytes,
    /// All of it, if it came in several pieces.
    joined: BytesMut,
}

impl Taken {
    fn push(&mut self, data: Bytes) {
        if self.first.is_empty() && self.joined.is_empty() {
            self.first = data;
            return;
        }
        if self.joined.is_empty() {
            self.joined.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.joined.extend_from_slice(&data);
    }

    fn bytes(&self) -> &[u8] {
        if self.joined.is_empty() { &self.first } else { &self.joined }
    }

    fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    /// Of the message, once its prefix has come.
    fn length(&self, limit: MessageLimit) -> Result<Option<usize>, Status> {
        let Some((&[flag, ref length @ ..], _)) = self.bytes().split_first_chunk::<PREFIX>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length);
        match flag {
            0 if u64::from(length) > limit.bytes => {
                Err(to_status(message_too_large(limit, &format!("a message of {length} bytes is too large"))))
            }
            0 => Ok(Some(length as usize)),
            1 => {
                Err(to_status(malformed("a message is said to be compressed, and no header `grpc-encoding` says how")))
            }
            flag => {
                Err(to_status(malformed(format!("a message begins with the byte {flag}, which is neither 0 nor 1"))))
            }
        }
    }

    fn has(&self, length: usize) -> bool {
        self.bytes().len() - PREFIX >= length
    }

    fn take(&mut self, length: usize) -> Bytes {
        let mut all =
            if self.joined.is_empty() { std::mem::take(&mut self.first) } else { self.joined.split().freeze() };
        all.advance(PREFIX);
        all.truncate(length);
        all
    }
}

/// A message, then the trailers of success.
struct OneMessage {
    framed: Option<Bytes>,
    is_ended: bool,
}

impl HttpBody for OneMessage {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(framed) = self.framed.take() {
            return Poll::Ready(Some(Ok(Frame::data(framed))));
        }
        if std::mem::replace(&mut self.is_ended, true) {
            return Poll::Ready(None);
        }
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_ended
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::super::status::from_status;
    use super::*;

    const LIMIT: MessageLimit = MessageLimit { option: "server.grpc_max_message", bytes: 100 };

    /// Gives frames one by one.
    struct Frames(VecDeque<Frame<Bytes>>);

    impl HttpBody for Frames {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }
    }

    fn read(pieces: &[&[u8]], has_trailers: bool) -> Result<Bytes, Status> {
        let data = pieces.iter().map(|piece| Frame::data(Bytes::copy_from_slice(piece)));
        let trailers = has_trailers.then(|| Frame::trailers(HeaderMap::new()));
        let body = Body::new(Frames(data.chain(trailers).collect()));
        futures::executor::block_on(read_message(body, LIMIT))
    }

    fn reason(refused: Result<Bytes, Status>) -> String {
        from_status(&refused.expect_err("it is refused")).reason
    }

    proptest! {
        #[test]
        fn a_message_is_read_from_whatever_frames_it_comes_in(
            message in prop::collection::vec(any::<u8>(), 0..60),
            cuts in prop::collection::vec(0usize..70, 0..6),
            behind in prop::collection::vec(any::<u8>(), 0..10),
            has_trailers in any::<bool>(),
        ) {
            let mut outgoing = Outgoing::with_capacity(0);
            outgoing.buffer().extend_from_slice(&message);
            prop_assert_eq!(outgoing.len(), message.len());
            let mut bytes = outgoing.framed().to_vec();
            bytes.extend_from_slice(&behind);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            let ends = cuts.iter().copied().chain([bytes.len()]);
            let starts = [0].into_iter().chain(cuts.iter().copied());
            let pieces: Vec<&[u8]> = starts.zip(ends).map(|(start, end)| &bytes[start..end]).collect();
            prop_assert_eq!(read(&pieces, has_trailers).expect("read"), message);
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let cut: [&[&[u8]]; 4] = [&[], &[&[]], &[&[0, 0, 0]], &[&[0, 0, 0, 0, 5], &[1, 2, 3, 4]]];
        for pieces in cut {
            assert_eq!(reason(read(pieces, true)), "MALFORMED_MESSAGE", "{pieces:?}");
        }
        for flag in [1, 2, 255] {
            assert_eq!(reason(read(&[&[flag, 0, 0, 0, 0]], false)), "MALFORMED_MESSAGE");
        }
    }

    #[test]
    fn what_follows_a_message_without_end_is_refused() {
        let more = [0; 60];
        assert!(read(&[&[0, 0, 0, 0, 1, 7], &more], false).is_ok());
        assert_eq!(reason(read(&[&[0, 0, 0, 0, 1, 7], &more, &more], false)), "MALFORMED_MESSAGE");
    }

    #[test]
    fn a_message_over_the_limit_is_refused_by_its_prefix() {
        assert_eq!(reason(read(&[&[0, 0, 0, 0, 101]], false)), "MESSAGE_TOO_LARGE");
        let just = [&[0, 0, 0, 0, 100][..], &[7; 100]].concat();
        assert_eq!(read(&[&just], false).expect("read").len(), 100);
    }

    #[test]
    fn an_answer_is_one_message_and_then_its_status() {
        let mut outgoing = Outgoing::with_capacity(3);
        outgoing.buffer().extend_from_slice(&[1, 2, 3]);
        let response = answer(outgoing);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/grpc");
        let mut body = response.into_body();
        let mut next = || futures::executor::block_on(poll_fn(|context| Pin::new(&mut body).poll_frame(context)));
        let data = next().expect("a frame").expect("no error").into_data().expect("data");
        assert_eq!(data, [0, 0, 0, 0, 3, 1, 2, 3].as_slice());
        let trailers = next().expect("a frame").expect("no error").into_trailers().expect("trailers");
        assert_eq!(trailers[Status::GRPC_STATUS], "0");
        assert!(next().is_none());
    }
}
