//! What every gRPC and Flight call passes through: its deadline, its trace, its metrics, and the
//! last resort for what a handler or tonic itself leaves rough (a panic, an oversized message, an
//! unknown method). It never looks into a message.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Sleep;
use tokio::time::error::Elapsed;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Extensions, HeaderMap, Request, Response};
use tower::{Layer, Service};
use tracing::Instrument as _;

use super::Caller;
use super::door::{Door, Turned, method_of};
use super::status::{self, MessageLimit};
use crate::telemetry::{Histogram, Instruments, Label, Metric, UpDownCounter, adopt_trace};
use crate::tenancy::OUT_OF_REACH;

const DURATION: Metric = Metric {
    name: "hydrant.rpc.duration",
    unit: Metric::SECONDS,
    help: "Time from a call's arrival to the end of its answer, by method and status.",
};
const IN_FLIGHT: Metric =
    Metric { name: "hydrant.rpc.in_flight", unit: Metric::COUNT, help: "Calls whose answer has not ended yet." };

/// Who calls, and when they stop waiting. Stands in the extensions of every request.
#[derive(Clone, Debug)]
struct Noted {
    caller: Caller,
    /// The client's deadline, or what the port allows if that is earlier.
    call: Option<Instant>,
    client: Option<Instant>,
}

/// Who calls, as the layer verified it.
pub fn caller(extensions: &Extensions) -> Caller {
    extensions.get::<Noted>().expect("the layer lets nobody in whom it hasn't noted").caller.clone()
}

/// The deadline of a unary call, as the layer noted it.
pub fn deadline(extensions: &Extensions) -> Option<Instant> {
    extensions.get::<Noted>().and_then(|noted| noted.call)
}

/// The deadline of a stream, which its client alone bounds.
pub fn stream_deadline(extensions: &Extensions) -> Option<Instant> {
    extensions.get::<Noted>().and_then(|noted| noted.client)
}

/// What one port's calls share.
#[derive(Debug)]
pub struct Calls {
    limit: MessageLimit,
    max_call_time: Option<Duration>,
    door: Door,
    duration: Histogram<f64>,
    in_flight: UpDownCounter<i64>,
}

impl Calls {
    /// `max_call_time` bounds the calls whose client gave no deadline, or a later one.
    pub fn new(
        instruments: &Instruments,
        limit: MessageLimit,
        max_call_time: Option<Duration>,
        door: Door,
    ) -> Arc<Self> {
        let (duration, in_flight) = (instruments.latency(&DURATION), instruments.up_down(&IN_FLIGHT));
        Arc::new(Self { limit, max_call_time, door, duration, in_flight })
    }
}

/// Puts [`CallService`] around every service of a port.
#[derive(Clone, Debug)]
pub struct CallLayer(pub Arc<Calls>);

impl<S> Layer<S> for CallLayer {
    type Service = CallService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CallService { inner, calls: self.0.clone() }
    }
}

#[derive(Clone, Debug)]
pub struct CallService<S> {
    inner: S,
    calls: Arc<Calls>,
}

impl<S> Service<Request<Body>> for CallService<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let begun = Instant::now();
        let known = method_of(request.uri().path());
        let method = known.map_or("unknown", |method| method.name);
        let client_time = client_time(request.headers());
        let allowed = [client_time, self.calls.max_call_time].into_iter().flatten().min();
        // A deadline too far away to be told is none.
        let deadline = allowed.and_then(|allowed| begun.checked_add(allowed));
        let answer_deadline = client_time.and_then(|allowed| begun.checked_add(allowed));
        // Where nothing is traced it costs nothing, as the use cases' spans.
        let span = tracing::debug_span!("call", method);
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
        if let Some(parent) = header("traceparent").filter(|_| !span.is_disabled()) {
            adopt_trace(&span, Some(parent), header("tracestate"));
        }

        let mut call = Call::begin(self.calls.clone(), method, begun);
        let limits = Limits { deadline, answer_deadline };
        match self.calls.door.let_in(known, request.headers(), request.extensions(), true) {
            Ok(caller) => {
                call.note_caller(caller, &mut request, limits);
                Box::pin(handled(self.inner.call(request), call, limits).instrument(span))
            }
            Err(Turned::Away(refusal)) => {
                let answer = call.answer(status::to_status(refusal).into_http(), answer_deadline);
                Box::pin(async move { Ok(answer) })
            }
            Err(Turned::Later(awaited)) => {
                // The one that was said to be ready is the one that is called.
                let another = self.inner.clone();
                let mut inner = std::mem::replace(&mut self.inner, another);
                let door = self.calls.door.clone();
                let answer = async move {
                    if within(deadline, awaited).await.is_err() {
                        let late = status::to_status(status::deadline_exceeded());
                        return Ok(call.answer(late.into_http(), answer_deadline));
                    }
                    match door.let_in(known, request.headers(), request.extensions(), false) {
                        Ok(caller) => {
                            call.note_caller(caller, &mut request, limits);
                            handled(inner.call(request), call, limits).await
                        }
                        Err(Turned::Away(refusal)) => {
                            Ok(call.answer(status::to_status(refusal).into_http(), answer_deadline))
                        }
                        Err(Turned::Later(_)) => {
                            let defect = status::defect("a credential that is waited for twice");
                            Ok(call.answer(status::to_status(defect).into_http(), answer_deadline))
                        }
                    }
                };
                Box::pin(answer.instrument(span))
            }
        }
    }
}

/// What comes before the deadline, where there is one.
async fn within<T>(deadline: Option<Instant>, awaited: impl Future<Output = T>) -> Result<T, Elapsed> {
    match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline.into(), awaited).await,
        None => Ok(awaited.await),
    }
}

/// Until when a call and its answer are of use.
#[derive(Clone, Copy, Debug)]
struct Limits {
    deadline: Option<Instant>,
    answer_deadline: Option<Instant>,
}

/// What a handler answers, within the call's time, also where it panics.
async fn handled<E>(
    handler: impl Future<Output = Result<Response<Body>, E>>,
    call: Call,
    Limits { deadline, answer_deadline }: Limits,
) -> Result<Response<Body>, E> {
    let response = match within(deadline, AssertUnwindSafe(handler).catch_unwind()).await {
        Ok(Ok(response)) => response?,
        Ok(Err(panic)) => status::to_status(status::defect(&panic_message(&*panic))).into_http(),
        Err(Elapsed { .. }) => status::to_status(status::deadline_exceeded()).into_http(),
    };
    Ok(call.answer(response, answer_deadline))
}

/// A call under way; it is measured when its answer has ended or was given up.
struct Call {
    calls: Arc<Calls>,
    method: &'static str,
    begun: Instant,
    /// As gRPC names it; of an answer given up by its client if nothing else came.
    code: &'static str,
    /// Who was let in.
    caller: Option<Caller>,
}

impl Call {
    fn begin(calls: Arc<Calls>, method: &'static str, begun: Instant) -> Self {
        calls.in_flight.add(1, &[]);
        Self { calls, method, begun, code: status::GIVEN_UP, caller: None }
    }

    fn note_caller(&mut self, caller: Caller, request: &mut Request<Body>, limits: Limits) {
        self.caller = Some(caller.clone());
        request.extensions_mut().insert(Noted { caller, call: limits.deadline, client: limits.answer_deadline });
    }

    fn answer(mut self, response: Response<Body>, deadline: Option<Instant>) -> Response<Body> {
        let (mut head, body) = response.into_parts();
        // A refusal without a message stands in the headers.
        self.note_status(&mut head.headers);
        let sleep = deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline.into())));
        Response::from_parts(head, Body::new(AnswerBody { body, call: Some(self), deadline: sleep }))
    }

    /// Takes note of the status among headers or trailers, where there is one.
    fn note_status(&mut self, headers: &mut HeaderMap) {
        // Of other answers to calls that leave no trail, such as reads, there is nothing to tell.
        if let Some(caller) = &self.caller
            && (caller.trail.is_kept() || status::is_denied(headers))
            && let Some(status) = Status::from_header_map(headers)
        {
            let (code, reason) = status::ended(&status);
            if !caller.trail.end(code, &reason) && reason == OUT_OF_REACH {
                self.calls.door.note_outside(caller, &reason);
            }
        }
        if let Some(code) = status::well_told(headers) {
            self.code = code;
        } else if let Some(status) = Status::from_header_map(headers) {
            self.conclude(&status, headers);
        }
    }

    /// Takes note of how the call ended, and says clearly what tonic says in its own way.
    fn conclude(&mut self, status: &Status, headers: &mut HeaderMap) {
        self.code = status::code_name(status.code());
        if let Some(clearer) = status::clarify(status, self.calls.limit) {
            self.code = status::code_name(clearer.code());
            replace_status(headers, &clearer);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.calls.in_flight.add(-1, &[]);
        if let Some(caller) = &self.caller {
            caller.trail.give_up();
        }
        let labels = [Label::new("method", self.method), Label::new("code", self.code)];
        self.calls.duration.record(self.begun.elapsed().as_secs_f64(), &labels);
    }
}

/// An answer on its way out.
struct AnswerBody {
    body: Body,
    call: Option<Call>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if self.call.is_none() {
            return Poll::Ready(None);
        }
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(self.pass(frame)))),
            Poll::Ready(end_or_error) => {
                self.call = None;
                Poll::Ready(end_or_error)
            }
            Poll::Pending => {
                let due = self.deadline.as_mut().is_some_and(|sleep| sleep.as_mut().poll(context).is_ready());
                if due { Poll::Ready(Some(Ok(self.cut_off()))) } else { Poll::Pending }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl AnswerBody {
    fn pass(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        let mut trailers = match frame.into_trailers() {
            Ok(trailers) => trailers,
            Err(data) => return data,
        };
        if let Some(mut call) = self.call.take() {
            call.note_status(&mut trailers);
        }
        Frame::trailers(trailers)
    }

    /// Ends an answer whose deadline has passed.
    fn cut_off(&mut self) -> Frame<Bytes> {
        let status = status::to_status(status::deadline_exceeded());
        let mut trailers = HeaderMap::new();
        if let Some(mut call) = self.call.take() {
            call.code = status::code_name(status.code());
        }
        replace_status(&mut trailers, &status);
        self.body = Body::empty();
        Frame::trailers(trailers)
    }
}

fn replace_status(headers: &mut HeaderMap, status: &Status) {
    for name in ["grpc-status", "grpc-message", "grpc-status-details-bin"] {
        headers.remove(name);
    }
    if let Err(status) = status.add_header(headers) {
        tracing::error!(%status, "a status does not fit into headers");
    }
}

/// The time that the caller gives the call (<https://grpc.io/docs/guides/deadlines/>).
fn client_time(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3_600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Code, Error};
    use crate::tenancy::{Authenticates, Identity};

    fn headers(timeout: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", timeout.parse().expect("a header's value"));
        headers
    }

    #[test]
    fn a_client_s_deadline_is_read_in_every_unit() {
        for (text, expected) in [
            ("2H", Duration::from_secs(7_200)),
            ("3M", Duration::from_secs(180)),
            ("4S", Duration::from_secs(4)),
            ("5m", Duration::from_millis(5)),
            ("6u", Duration::from_micros(6)),
            ("7n", Duration::from_nanos(7)),
        ] {
            assert_eq!(client_time(&headers(text)), Some(expected));
        }
        for text in ["", "5", "S", "-1S", "123456789S", "5x", "٣S"] {
            assert_eq!(
                text.parse::<tonic::codegen::http::HeaderValue>().ok().and_then(|_| client_time(&headers(text))),
                None
            );
        }
    }

    #[tokio::test]
    async fn a_call_ends_at_its_client_s_deadline_or_at_the_longest_call_time() {
        let limit = MessageLimit { option: "server.grpc_max_message", bytes: 1 };
        for (client, server) in [(Some("5m"), None), (Some("1H"), Some(Duration::from_millis(5)))] {
            let calls = Calls::new(&Instruments::unread(), limit, server, Door::open());
            let never = tower::service_fn(|request: Request<Body>| async move {
                assert!(deadline(request.extensions()).is_some(), "the handler is told");
                std::future::pending::<Result<Response<Body>, std::convert::Infallible>>().await
            });
            let mut request = Request::new(Body::empty());
            request.headers_mut().extend(client.map(headers).unwrap_or_default());
            let response = CallLayer(calls).layer(never).call(request).await.expect("an answer");
            let refusal = status::from_status(&Status::from_header_map(response.headers()).expect("a status"));
            assert_eq!(refusal.reason, "DEADLINE_EXCEEDED");
        }
    }

    /// Whether a credential is good is known when nobody waits any more.
    #[derive(Debug)]
    struct KnownTooLate;

    impl Authenticates for KnownTooLate {
        fn authenticate(&self, _: Option<&str>) -> crate::error::Result<Identity> {
            Err(Error::new(Code::Unauthenticated, "NOT_YET", "nobody knows yet"))
        }

        fn awaits(&self, _: Option<&str>) -> Option<BoxFuture<'static, ()>> {
            Some(Box::pin(std::future::pending()))
        }
    }

    #[tokio::test]
    async fn a_call_s_deadline_bounds_the_wait_for_its_credential_too() {
        let limit = MessageLimit { option: "server.grpc_max_message", bytes: 1 };
        let calls = Calls::new(&Instruments::unread(), limit, None, Door::of(Arc::new(KnownTooLate)));
        let unreached = tower::service_fn(|_: Request<Body>| async {
            Err::<Response<Body>, _>(std::io::Error::other("nobody is let in"))
        });
        let mut request = Request::new(Body::empty());
        request.headers_mut().extend(headers("5m"));
        let response = CallLayer(calls).layer(unreached).call(request).await.expect("an answer");
        let refusal = status::from_status(&Status::from_header_map(response.headers()).expect("a status"));
        assert_eq!(refusal.reason, "DEADLINE_EXCEEDED");
    }

    #[tokio::test]
    async fn a_panic_in_a_handler_is_an_answer_and_is_counted() {
        let telemetry = crate::telemetry::Telemetry::metrics_only().expect("set up");
        let limit = MessageLimit { option: "server.grpc_max_message", bytes: 1 };
        let calls = Calls::new(&telemetry.instruments(), limit, None, Door::open());
        let handler = tower::service_fn(|_: Request<Body>| async {
            if true {
                panic!("a defect");
            }
            Ok::<_, std::convert::Infallible>(Response::new(Body::empty()))
        });
        let request = Request::new(Body::empty());
        let response = CallLayer(calls).layer(handler).call(request).await.expect("an answer");
        let refusal = status::from_status(&Status::from_header_map(response.headers()).expect("a status"));
        assert_eq!(refusal.reason, "INTERNAL");
        drop(response);
        let (_, text) = telemetry.prometheus_text().expect("encoded");
        let text = String::from_utf8(text).expect("text");
        assert!(text.contains("code=\"INTERNAL\"") && text.contains("hydrant_rpc_in_flight{"), "{text}");
    }
}
