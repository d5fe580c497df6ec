//! The gRPC face of OnlineService. As generated code would be, but for the answers: they go out as the
//! bytes that were written for them, so that a read makes no message.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::TryFutureExt as _;
use futures::future::{BoxFuture, Either, ErrInto};
use hydrant_proto::v1::online_service_server::SERVICE_NAME;
use tonic::body::Body;
use tonic::codec::Codec;
use tonic::codegen::http::{Request as HttpRequest, Response as HttpResponse};
use tonic::server::{Grpc, NamedService, ServerStreamingService};
use tonic::{Request, Response, Status};
use tower::{Layer, Service};

use super::OnlineRpc;
use super::stream::Answers;
use crate::rpc::codec::{BytesOut, DecodeBytes};
use crate::rpc::status::unknown_method;
use crate::rpc::unary;

const GET_ONLINE_FEATURES: &str = "/hydrant.v1.OnlineService/GetOnlineFeatures";
const STREAM_ONLINE_FEATURES: &str = "/hydrant.v1.OnlineService/StreamOnlineFeatures";

/// Whether a call is one read, by its path.
pub fn is_read(path: &str) -> bool {
    path == GET_ONLINE_FEATURES
}

/// What a port serves.
#[derive(Clone, Debug)]
pub struct OnlineServer {
    rpc: Arc<OnlineRpc>,
    max_message: usize,
}

/// Takes reads to their service without the router that finds the services of a port, which a profile
/// of small reads showed with some percent of their CPU.
#[derive(Clone, Debug)]
pub struct OnlineFirst(pub OnlineServer);

type OnlineFuture<E> = ErrInto<BoxFuture<'static, Result<HttpResponse<Body>, Infallible>>, E>;

/// A port whose reads don't pass its router.
#[derive(Clone, Debug)]
pub struct OnlineOr<S> {
    online: OnlineServer,
    others: S,
}

/// StreamOnlineFeatures of one call.
struct StreamOnlineFeatures(Arc<OnlineRpc>);

impl OnlineServer {
    pub fn new(rpc: OnlineRpc) -> Self {
        let max_message = usize::try_from(rpc.limit.bytes).unwrap_or(usize::MAX);
        Self { rpc: Arc::new(rpc), max_message }
    }
}

impl NamedService for OnlineServer {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<HttpRequest<Body>> for OnlineServer {
    type Response = HttpResponse<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<Body>) -> Self::Future {
        let (rpc, max_message) = (self.rpc.clone(), self.max_message);
        match request.uri().path() {
            GET_ONLINE_FEATURES => Box::pin(async move {
                Ok(match rpc.get_online_features(request).await {
                    Ok(message) => unary::answer(message),
                    Err(status) => status.into_http(),
                })
            }),
            STREAM_ONLINE_FEATURES => Box::pin(async move {
                let mut grpc = bounded(BytesOut::<DecodeBytes>::default(), max_message);
                Ok(grpc.server_streaming(StreamOnlineFeatures(rpc), request).await)
            }),
            _ => Box::pin(async { Ok(unknown_method().into_http()) }),
        }
    }
}

/// With the bound on messages, both ways.
fn bounded<C: Codec>(codec: C, max_message: usize) -> Grpc<C> {
    Grpc::new(codec).max_decoding_message_size(max_message).max_encoding_message_size(max_message)
}

impl<S> Layer<S> for OnlineFirst {
    type Service = OnlineOr<S>;

    fn layer(&self, others: S) -> Self::Service {
        OnlineOr { online: self.0.clone(), others }
    }
}

impl<S> Service<HttpRequest<Body>> for OnlineOr<S>
where
    S: Service<HttpRequest<Body>, Response = HttpResponse<Body>>,
    S::Error: From<Infallible>,
{
    type Response = HttpResponse<Body>;
    type Error = S::Error;
    type Future = Either<OnlineFuture<S::Error>, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.others.poll_ready(context)
    }

    fn call(&mut self, request: HttpRequest<Body>) -> Self::Future {
        if is_read(request.uri().path()) {
            return Either::Left(self.online.call(request).err_into());
        }
        Either::Right(self.others.call(request))
    }
}

impl ServerStreamingService<Bytes> for StreamOnlineFeatures {
    type Response = Bytes;
    type ResponseStream = Answers;
    type Future = BoxFuture<'static, Result<Response<Answers>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let rpc = self.0.clone();
        Box::pin(async move { rpc.stream_online_features(request).await })
    }
}
