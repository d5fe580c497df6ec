//! A bound on the connections of a port: each holds a place until it is closed, and without a free
//! place none is accepted. Where the port speaks TLS, it is agreed on when the connection is first
//! read or written, by whoever does that, so that no client can keep others from being accepted. Who connects
//! and then doesn't say what HTTP/2 begins with loses its place again. What is
//! written may be held back until the connection's cork sends it, flushed or not ([`super::corked`]). What
//! is said over a connection is not looked at here.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

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
use super::reading::{Reading, Refusals};
use super::tls::Tls;

/// How long a client may take to agree on TLS and to send its preface.
pub(super) const GREETING_TIME: Duration = Duration::from_secs(10);
/// Bytes of the preface that every client of HTTP/2 begins with (RFC 9113, 3.4).
const PREFACE: usize = 24;

/// What gRPC and Flight are spoken over.
const PROTOCOLS: [&[u8]; 1] = [b"h2"];

/// A connection with its place.
#[derive(Debug)]
pub(super) struct Connection {
    transport: Transport,
    cork: Cork,
    peer: TcpConnectInfo,
    greeting: Greeting,
    reading: Reading,
    _place: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum Transport {
    Plain(Corked),
    Agreeing(Box<Agreeing>),
    Secure(Box<TlsStream<Corked>>),
    /// TLS was not agreed on.
    Closed,
}

/// TLS that is not agreed on yet.
struct Agreeing {
    accept: Accept<Corked>,
    tls: Tls,
}

/// What a client has to say first.
#[derive(Debug)]
struct Greeting {
    /// Bytes of it that have not come yet.
    left: usize,
    /// `None` once it has all come.
    give_up: Option<Pin<Box<Sleep>>>,
    is_over: Arc<AtomicBool>,
}

/// What a port's connections may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// How many are open at a time.
    pub connections: usize,
    /// Bytes of what is written to one that may be held back.
    pub held_back: usize,
    pub greeting_time: Duration,
}

/// What every connection of a port begins TLS with.
#[derive(Clone)]
struct Security {
    acceptor: TlsAcceptor,
    tls: Tls,
}

/// Accepts a connection only while fewer are open than may be; others wait in the system's backlog.
pub(super) fn bounded(
    incoming: TcpIncoming,
    bounds: Bounds,
    tls: Option<&Tls>,
) -> impl Stream<Item = io::Result<Connection>> + use<> {
    let places = Arc::new(Semaphore::new(bounds.connections));
    let security = tls.map(|tls| {
        let config: Arc<ServerConfig> = Arc::new(tls.server_config(&PROTOCOLS));
        Security { acceptor: TlsAcceptor::from(config), tls: tls.clone() }
    });
    unfold((incoming, places, security), move |(mut incoming, places, security)| async move {
        // The semaphore is never closed.
        let place = places.clone().acquire_owned().await.ok()?;
        let accepted = incoming.next().await?;
        let connection = accepted.map(|stream| Connection::new(stream, bounds, place, security.as_ref()));
        Some((connection, (incoming, places, security)))
    })
}

impl Connection {
    fn new(stream: TcpStream, bounds: Bounds, place: OwnedSemaphorePermit, security: Option<&Security>) -> Self {
        let (peer, stream) = (stream.connect_info(), Corked::new(stream, bounds.held_back));
        let cork = stream.cork();
        let transport = match security {
            None => Transport::Plain(stream),
            Some(Security { acceptor, tls }) => {
                Transport::Agreeing(Box::new(Agreeing { accept: acceptor.accept(stream), tls: tls.clone() }))
            }
        };
        let give_up = Some(Box::pin(tokio::time::sleep(bounds.greeting_time)));
        let greeting = Greeting { left: PREFACE, give_up, is_over: Arc::default() };
        Self { transport, cork, peer, greeting, reading: Reading::new(), _place: place }
    }

    /// What is written to the connection goes out when this sends it.
    pub fn cork(&self) -> Cork {
        self.cork.clone()
    }

    pub fn peer(&self) -> TcpConnectInfo {
        self.peer.clone()
    }

    /// Whether the client has sent as much as its preface takes.
    pub fn greeted(&self) -> Arc<AtomicBool> {
        self.greeting.is_over.clone()
    }

    /// Where its calls say that they were refused.
    pub fn refusals(&self) -> Arc<Refusals> {
        self.reading.refusals()
    }

    /// Goes on with agreeing on TLS, if that is still to be done.
    fn poll_agreed(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Transport::Agreeing(agreeing) = &mut self.transport else { return Poll::Ready(Ok(())) };
        let outcome = match Pin::new(&mut agreeing.accept).poll(context) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => Err(ready!(self.greeting.poll_late(context))),
        };
        match outcome {
            Ok(stream) => {
                self.transport = Transport::Secure(Box::new(stream));
                Poll::Ready(Ok(()))
            }
            Err(error) => {
                agreeing.tls.note_failed_handshake();
                tracing::debug!(peer = ?self.peer.remote_addr(), %error, "TLS was not agreed on");
                self.transport = Transport::Closed;
                Poll::Ready(Err(error))
            }
        }
    }
}

impl Greeting {
    /// Ready when the client has taken too long.
    fn poll_late(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let Some(give_up) = &mut self.give_up else { return Poll::Pending };
        ready!(give_up.as_mut().poll(context));
        let late = "the client took too long to agree on TLS or to begin with HTTP/2";
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, late))
    }

    fn note(&mut self, read: usize) {
        self.left = self.left.saturating_sub(read);
        if self.left == 0 {
            self.give_up = None;
            self.is_over.store(true, Ordering::Relaxed);
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
        ready!(self.reading.poll_may(Instant::now, context));
        let before = buffer.filled().len();
        let read = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Transport::Secure(stream) => Pin::new(stream).poll_read(context, buffer),
            Transport::Agreeing(_) | Transport::Closed => Poll::Ready(Err(closed())),
        };
        if read.is_ready() {
            self.reading.note();
        }
        if self.greeting.give_up.is_some() {
            if read.is_pending() {
                return Poll::Ready(Err(ready!(self.greeting.poll_late(context))));
            }
            self.greeting.note(buffer.filled().len() - before);
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_agreed(context))?;
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Transport::Secure(stream) => Pin::new(stream).poll_write(context, bytes),
            Transport::Agreeing(_) | Transport::Closed => Poll::Ready(Err(closed())),
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
            Transport::Agreeing(_) | Transport::Closed => Poll::Ready(Err(closed())),
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
            Transport::Agreeing(_) | Transport::Closed => Poll::Ready(Err(closed())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Transport::Secure(stream) => Pin::new(stream).poll_shutdown(context),
            // There is nobody to say goodbye to.
            Transport::Agreeing(_) | Transport::Closed => Poll::Ready(Ok(())),
        }
    }
}

impl std::fmt::Debug for Agreeing {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Agreeing").finish_non_exhaustive()
    }
}
