//! A bound on the connections of a port: each holds a place until it is closed, and without a free
//! place none is accepted. Where the port speaks TLS, it is agreed on when the connection is first
//! read or written, by whoever does that, so that no client can keep others from being accepted. What is
//! written may be held back until the connection's cork sends it, flushed or not ([`super::corked`]). What
//! is said over a connection is not looked at here.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::stream::unfold;
use futures::{Stream, StreamExt as _};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};
use tonic::transport::server::{Connected as _, TcpConnectInfo, TcpIncoming};

use super::corked::{Cork, Corked};
use super::tls::Tls;

/// How long a client may take to agree on TLS.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// What gRPC and Flight are spoken over.
const PROTOCOLS: [&[u8]; 1] = [b"h2"];

/// A connection with its place.
#[derive(Debug)]
pub(super) struct Connection {
    transport: Transport,
    cork: Cork,
    peer: TcpConnectInfo,
    _place: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum Transport {
    Plain(Corked),
    Greeting(Box<Greeting>),
    Secure(Box<TlsStream<Corked>>),
    /// TLS was not agreed on.
    Closed,
}

/// TLS that is not agreed on yet.
struct Greeting {
    accept: Accept<Corked>,
    give_up: Pin<Box<Sleep>>,
    tls: Tls,
}

/// What every connection of a port begins TLS with.
#[derive(Clone)]
struct Security {
    acceptor: TlsAcceptor,
    tls: Tls,
}

/// Accepts a connection only while fewer than `max` are open; others wait in the system's backlog. Each holds
/// back so many bytes of what is written at most.
pub(super) fn bounded(
    incoming: TcpIncoming,
    max: usize,
    tls: Option<&Tls>,
    held_back: usize,
) -> impl Stream<Item = io::Result<Connection>> + use<> {
    let places = Arc::new(Semaphore::new(max));
    let security = tls.map(|tls| {
        let config: Arc<ServerConfig> = Arc::new(tls.server_config(&PROTOCOLS));
        Security { acceptor: TlsAcceptor::from(config), tls: tls.clone() }
    });
    unfold((incoming, places, security), move |(mut incoming, places, security)| async move {
        // The semaphore is never closed.
        let place = places.clone().acquire_owned().await.ok()?;
        let accepted = incoming.next().await?;
        let connection = accepted.map(|stream| Connection::new(stream, held_back, place, security.as_ref()));
        Some((connection, (incoming, places, security)))
    })
}

impl Connection {
    fn new(stream: TcpStream, held_back: usize, place: OwnedSemaphorePermit, security: Option<&Security>) -> Self {
        let (peer, stream) = (stream.connect_info(), Corked::new(stream, held_back));
        let cork = stream.cork();
        let transport = match security {
            None => Transport::Plain(stream),
            Some(Security { acceptor, tls }) => Transport::Greeting(Box::new(Greeting {
                accept: acceptor.accept(stream),
                give_up: Box::pin(tokio::time::sleep(HANDSHAKE_TIME)),
                tls: tls.clone(),
            })),
        };
        Self { transport, cork, peer, _place: place }
    }

    /// What is written to the connection goes out when this sends it.
    pub fn cork(&self) -> Cork {
        self.cork.clone()
    }

    pub fn peer(&self) -> TcpConnectInfo {
        self.peer.clone()
    }

    /// Goes on with agreeing on TLS, if that is still to be done.
    fn poll_agreed(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Transport::Greeting(greeting) = &mut self.transport else { return Poll::Ready(Ok(())) };
        let outcome = match Pin::new(&mut greeting.accept).poll(context) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => {
                ready!(greeting.give_up.as_mut().poll(context));
                Err(io::Error::new(io::ErrorKind::TimedOut, "the client took too long to agree on TLS"))
            }
        };
        match outcome {
            Ok(stream) => {
                self.transport = Transport::Secure(Box::new(stream));
                Poll::Ready(Ok(()))
            }
            Err(error) => {
                greeting.tls.note_failed_handshake();
                tracing::debug!(peer = ?self.peer.remote_addr(), %error, "TLS was not agreed on");
                self.transport = Transport::Closed;
                Poll::Ready(Err(error))
            }
        }
    }
}

/// Nothing is sent or received over it any more.
fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "TLS was not agreed on")
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_agreed(context))?;
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Transport::Secure(stream) => Pin::new(stream).poll_read(context, buffer),
            Transport::Greeting(_) | Transport::Closed => Poll::Ready(Err(closed())),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_agreed(context))?;
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Transport::Secure(stream) => Pin::new(stream).poll_write(context, bytes),
            Transport::Greeting(_) | Transport::Closed => Poll::Ready(Err(closed())),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_agreed(context))?;
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Transport::Secure(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Transport::Greeting(_) | Transport::Closed => Poll::Ready(Err(closed())),
        }
    }

    /// Both kinds of transport do it, and it has to be known before TLS is agreed on.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_agreed(context))?;
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(context),
            Transport::Secure(stream) => Pin::new(stream).poll_flush(context),
            Transport::Greeting(_) | Transport::Closed => Poll::Ready(Err(closed())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Transport::Secure(stream) => Pin::new(stream).poll_shutdown(context),
            // There is nobody to say goodbye to.
            Transport::Greeting(_) | Transport::Closed => Poll::Ready(Ok(())),
        }
    }
}

impl std::fmt::Debug for Greeting {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Greeting").finish_non_exhaustive()
    }
}
