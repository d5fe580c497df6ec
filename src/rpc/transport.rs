//! HTTP/2 over the connections of a port. What tonic's own transport does, made for calls that are over
//! as soon as they are begun: those are worked off where they are read, without a task for each, and
//! the answers of one turn go out together. What is said over a connection is the services' matter.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::future::poll_fn;
use futures::{Stream, StreamExt as _};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::transport::server::TcpConnectInfo;
use tower::util::Oneshot;
use tower::{BoxError, Service, ServiceExt as _};

use super::connections::Connection;
use super::reading::Refusals;

/// How often a connection without traffic is asked whether its client still lives.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long the client then has for its answer.
const KEEPALIVE_PATIENCE: Duration = Duration::from_secs(20);
/// Until the next attempt to accept a connection, where one failed (there may be no file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Calls of one connection that are worked off in one turn of it. Its later ones get tasks, so that
/// other connections come in between.
const AT_ONCE: u32 = 16;

/// How a port speaks HTTP/2.
#[derive(Clone, Copy, Debug)]
pub(super) struct Http2 {
    /// Calls of one connection at a time.
    pub max_streams: u32,
    /// Bytes of one call that a client may send before they are taken; `None`: as hyper has it.
    pub stream_window: Option<u32>,
    /// The same, of all calls of a connection.
    pub connection_window: Option<u32>,
    /// Which calls, by their paths, are as a rule over as soon as they are begun.
    pub is_short: fn(&str) -> bool,
}

/// Serves until it is stopped: takes no more connections then, bids its clients begin no more calls, and ends when
/// those under way have. Dropped before, it ends the connections.
pub(super) async fn serve<S>(
    incoming: impl Stream<Item = io::Result<Connection>>,
    service: S,
    http2: Http2,
    stop: CancellationToken,
) where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    S::Error: std::error::Error + Send + Sync + 'static,
{
    let mut connections = JoinSet::new();
    let (stopping, stopped) = watch::channel(());
    // Dropped before the connections are waited for, so that the port is closed.
    {
        let mut incoming = pin!(incoming);
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                Some(_ended) = connections.join_next() => continue,
                accepted = incoming.next() => accepted,
            };
            match accepted {
                Some(Ok(connection)) => {
                    let spoken = speak(connection, service.clone(), http2, stopped.clone());
                    connections.spawn(spoken);
                }
                Some(Err(error)) if is_of_one_client(&error) => {
                    tracing::debug!(%error, "a connection failed before it was accepted");
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "no connection can be accepted; it is tried again soon");
                    let _stopped_first = tokio::time::timeout(ACCEPT_PAUSE, stop.cancelled()).await;
                }
                None => break,
            }
        }
    }
    drop(stopping);
    while connections.join_next().await.is_some() {}
}

/// Of what can go wrong in accepting a connection, what says nothing of the next one.
fn is_of_one_client(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, Interrupted, InvalidInput, NotConnected};
    let kinds = [BrokenPipe, ConnectionAborted, ConnectionReset, Interrupted, InvalidInput, NotConnected];
    kinds.contains(&error.kind())
}

/// One connection, until it is closed.
async fn speak<S>(connection: Connection, service: S, options: Http2, stopped: watch::Receiver<()>)
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    S::Error: std::error::Error + Send + Sync + 'static,
{
    let (cork, peer, greeted) = (connection.cork(), connection.peer(), connection.greeted());
    let refusals = connection.refusals();
    let (turn, tasks) = (Arc::new(Turn::default()), Tasks::default());
    let mut http = http2::Builder::new(AtOnce { turn: turn.clone(), tasks: tasks.clone() });
    http.timer(TokioTimer::new())
        .max_concurrent_streams(options.max_streams)
        .initial_stream_window_size(options.stream_window)
        .initial_connection_window_size(options.connection_window)
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_PATIENCE)
        // gRPC has no use for it.
        .auto_date_header(false);
    let calls =
        ConnectionCalls { service, peer: peer.clone(), refusals, turn: turn.clone(), is_short: options.is_short };
    let mut http = pin!(http.serve_connection(TokioIo::new(connection), calls));

    let (mut watched, mut is_stopping) = (stopped.clone(), false);
    let mut told = pin!(watched.changed());
    // Asked once, so that this task is woken; later a look at the other receiver is enough.
    let mut is_told = poll_fn(|context| Poll::Ready(told.as_mut().poll(context).is_ready())).await;
    let mut may_put_off = true;
    let ended = poll_fn(|context| {
        is_told |= stopped.has_changed().is_err();
        if is_told && !is_stopping {
            is_stopping = true;
            http.as_mut().graceful_shutdown();
        }
        turn.begin();
        let polled = http.as_mut().poll(context).map_err(BoxError::from);
        // HTTP/2 would wait for what the client begins with.
        if is_stopping && polled.is_pending() && !greeted.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        // Those of its calls that have tasks and are ready get a turn first: what they answer goes out with it.
        if may_put_off && polled.is_pending() && tasks.are_any() && cork.holds_back() {
            may_put_off = false;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        // Where it can't be sent now, this task is woken when it can, and then sends at once. What is left when the
        // connection has failed is lost.
        let sent = cork.poll_send(context);
        may_put_off = sent.is_ready();
        match sent {
            Poll::Ready(Err(error)) if polled.is_pending() => Poll::Ready(Err(error.into())),
            _ => polled,
        }
    });
    if let Err(error) = ended.await {
        tracing::debug!(peer = ?peer.remote_addr(), %error, "a connection failed");
    }
    // The socket is closed with the connection, before its place is free.
    drop(cork);
}

/// What one connection's calls go to.
struct ConnectionCalls<S> {
    service: S,
    peer: TcpConnectInfo,
    refusals: Arc<Refusals>,
    turn: Arc<Turn>,
    is_short: fn(&str) -> bool,
}

impl<S> hyper::service::Service<Request<Incoming>> for ConnectionCalls<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Oneshot<S, Request<Body>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(self.peer.clone());
        request.extensions_mut().insert(self.refusals.clone());
        self.turn.is_short.store((self.is_short)(request.uri().path()), Ordering::Relaxed);
        // The call begins when this is polled, by the executor.
        self.service.clone().oneshot(request)
    }
}

/// What a connection does from one poll of it to the next.
#[derive(Debug, Default)]
struct Turn {
    /// Calls that may still be worked off in it.
    left: AtomicU32,
    /// Whether the call that has just been made is a short one: hyper executes each as soon as it has made it.
    is_short: AtomicBool,
}

/// How many of a connection's calls have tasks.
#[derive(Clone, Debug, Default)]
struct Tasks(Arc<AtomicU32>);

/// One of them, until this is dropped.
struct Task(Tasks);

impl Turn {
    fn begin(&self) {
        self.left.store(AT_ONCE, Ordering::Relaxed);
    }

    /// Whether the call that has just been made is worked off in this turn.
    fn takes(&self) -> bool {
        let (is_short, left) = (self.is_short.swap(false, Ordering::Relaxed), self.left.load(Ordering::Relaxed));
        let takes = is_short && left > 0;
        if takes {
            self.left.store(left - 1, Ordering::Relaxed);
        }
        takes
    }
}

impl Tasks {
    fn spawn(&self, call: impl Future<Output = ()> + Send + 'static) {
        self.0.fetch_add(1, Ordering::Relaxed);
        let task = Task(self.clone());
        tokio::spawn(async move {
            call.await;
            drop(task);
        });
    }

    fn are_any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Works short calls off in the connection's own task, and gives tasks to all others and to those that
/// have to wait for something.
#[derive(Clone, Debug)]
struct AtOnce {
    turn: Arc<Turn>,
    tasks: Tasks,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for AtOnce {
    fn execute(&self, call: F) {
        if !self.turn.takes() {
            self.tasks.spawn(call);
            return;
        }
        let mut call = Box::pin(call);
        // Who waits is polled again by its own task, so nobody has to be woken for it yet. A call that panics
        // ends by itself, as in a task, and not with its connection.
        let begun = catch_unwind(AssertUnwindSafe(move || {
            let polled = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            polled.is_pending().then_some(call)
        }));
        if let Ok(Some(call)) = begun {
            self.tasks.spawn(async move {
                // A task that has just been made would be the next to run: who gave way means everybody.
                tokio::task::yield_now().await;
                call.await;
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::net::SocketAddr;
    use std::sync::Mutex;
    use std::time::Instant;

    use futures::future::{BoxFuture, join_all};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::sync::Semaphore;
    use tokio::task::JoinHandle;
    use tonic::transport::Channel;
    use tonic::transport::server::TcpIncoming;

    use super::super::connections::{self, Bounds};
    use super::super::corked::SMALL_ANSWERS;
    use super::super::reading::tests::Others;
    use super::*;

    /// A port whose calls say by their paths what becomes of them.
    struct Port {
        address: SocketAddr,
        accepted: Arc<AtomicU32>,
        /// Has a permit for each call to `/held` that has begun...
        begun: Arc<Semaphore>,
        /// ...and one for each that may end.
        released: Arc<Semaphore>,
        /// They go before whoever called `/refused`.
        others: Others,
        stop: CancellationToken,
        served: JoinHandle<()>,
    }

    async fn port(is_short: fn(&str) -> bool) -> Port {
        port_with(is_short, Duration::from_secs(3_600)).await
    }

    async fn port_with(is_short: fn(&str) -> bool, greeting_time: Duration) -> Port {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (accepted, stop) = (Arc::new(AtomicU32::new(0)), CancellationToken::new());
        let [begun, released] = [(); 2].map(|()| Arc::new(Semaphore::new(0)));
        let counted = accepted.clone();
        let bounds = Bounds { connections: 10, held_back: SMALL_ANSWERS, greeting_time };
        let incoming = connections::bounded(TcpIncoming::from(listener), bounds, None).inspect(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let http2 = Http2 { max_streams: 1_000, stream_window: None, connection_window: None, is_short };
        let others = Others::new();
        let (held, refused_for) = ((begun.clone(), released.clone()), others.clone());
        let service = tower::service_fn(move |request: Request<Body>| {
            assert!(request.extensions().get::<TcpConnectInfo>().is_some(), "it is told where the call comes from");
            let (path, (begun, released)) = (request.uri().path().to_owned(), held.clone());
            assert!(path != "/panics-at-once", "a defect");
            if path == "/refused" {
                let refusals = request.extensions().get::<Arc<Refusals>>().expect("it can say so");
                let tenant = "ads".parse().expect("a name");
                // It stays one of lately for as long as the test takes.
                let soon = Instant::now() + Duration::from_secs(3_600);
                refusals.note_refused(&tenant, soon, || Arc::new(refused_for.clone()));
            }
            async move {
                match path.as_str() {
                    "/later" => tokio::time::sleep(Duration::from_millis(1)).await,
                    "/gives-way" => tokio::task::yield_now().await,
                    "/panics" => panic!("a defect"),
                    "/held" => {
                        begun.add_permits(1);
                        released.acquire().await.expect("it is open").forget();
                    }
                    _ => {}
                }
                Ok::<_, Infallible>(Response::new(Body::empty()))
            }
        });
        let served = tokio::spawn(serve(incoming, service, http2, stop.clone()));
        Port { address, accepted, begun, released, others, stop, served }
    }

    impl Port {
        async fn connect(&self) -> Channel {
            let address = format!("http://{}", self.address);
            Channel::from_shared(address).expect("an address").connect().await.expect("connected")
        }
    }

    async fn call(channel: &Channel, path: &str) -> Result<Response<Body>, tonic::transport::Error> {
        let mut channel = channel.clone();
        let request = Request::builder().method("POST").uri(format!("http://port{path}"));
        channel.ready().await?.call(request.body(Body::empty()).expect("a request")).await
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn calls_end_by_themselves_whether_they_are_short_wait_give_way_or_panic() {
        for is_short in [|_: &str| true, |_: &str| false, |path: &str| path != "/now"] {
            let port = port(is_short).await;
            let channel = port.connect().await;
            let paths = ["/now", "/later", "/gives-way", "/panics", "/panics-at-once", "/now"];
            // More than a connection works off in one turn.
            let calls = (0..200).map(|number| {
                let (path, channel) = (paths[number % paths.len()], &channel);
                async move { (path, call(channel, path).await) }
            });
            for (path, answered) in join_all(calls).await {
                assert_eq!(answered.is_err(), path.starts_with("/panics"), "{path}: {answered:?}");
            }
            call(&channel, "/now").await.expect("the connection goes on");
            assert_eq!(port.accepted.load(Ordering::Relaxed), 1);
        }
    }

    #[tokio::test]
    async fn a_connection_whose_calls_were_refused_is_left_unread_while_others_go_first() {
        let port = port(|_| true).await;
        let (refused, other) = (port.connect().await, port.connect().await);
        call(&refused, "/refused").await.expect("answered");
        port.others.go_first(true);
        let later = tokio::spawn(async move { call(&refused, "/now").await.is_ok() });
        for _ in 0..20 {
            call(&other, "/now").await.expect("answered");
        }
        assert!(!later.is_finished());
        port.others.go_first(false);
        assert!(later.await.expect("it ends"), "nothing was lost");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_under_way_ends_when_the_port_is_stopped_and_nothing_more_begins() {
        let port = port(|_| true).await;
        let (channel, idle) = (port.connect().await, port.connect().await);
        call(&idle, "/now").await.expect("answered");
        let under_way = tokio::spawn(async move { call(&channel, "/held").await });
        port.begun.acquire().await.expect("it is open").forget();
        port.stop.cancel();
        // The client holds its connection open, and the server closes it.
        while call(&idle, "/now").await.is_ok() {}
        call(&idle, "/held").await.expect_err("it is closed");
        assert_eq!(port.begun.available_permits(), 0, "nothing has begun");
        assert!(!port.served.is_finished());
        port.released.add_permits(1);
        under_way.await.expect("no panic").expect("it was answered");
        tokio::time::timeout(Duration::from_secs(10), port.served).await.expect("it ends").expect("no panic");
    }

    #[tokio::test]
    async fn who_does_not_begin_with_http2_is_cut_off() {
        let port = port_with(|_| true, Duration::from_secs(1)).await;
        let channel = port.connect().await;
        let ends = |said: &'static str| async move {
            let mut silent = TcpStream::connect(port.address).await.expect("connected");
            silent.write_all(said.as_bytes()).await.expect("written");
            let mut told = Vec::new();
            let ended = tokio::time::timeout(Duration::from_secs(10), silent.read_to_end(&mut told));
            ended.await.expect("it is cut off").expect("in an orderly way");
        };
        join_all(["", "PRI * HTTP/2.0"].map(ends)).await;
        call(&channel, "/now").await.expect("whoever began with it is not");
        assert_eq!(port.accepted.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn who_says_nothing_holds_up_no_stop() {
        let port = port(|_| true).await;
        let _silent = TcpStream::connect(port.address).await.expect("connected");
        // Accepted after it.
        call(&port.connect().await, "/now").await.expect("answered");
        port.stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), port.served).await.expect("it ends").expect("no panic");
    }

    #[tokio::test]
    async fn connections_end_with_whoever_serves_them() {
        let port = port(|_| true).await;
        let channel = port.connect().await;
        let under_way = tokio::spawn(async move { call(&channel, "/held").await });
        port.begun.acquire().await.expect("it is open").forget();
        port.served.abort();
        let answered = tokio::time::timeout(Duration::from_secs(10), under_way).await.expect("it ends");
        answered.expect("no panic").expect_err("it was cut off");
    }

    /// The runtime runs what was spawned last first; a call that gives way means everybody.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn who_gives_way_comes_after_all_that_waits() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let note = |what: &'static str| {
            let order = order.clone();
            move || order.lock().expect("no panic").push(what)
        };
        let (began, waited, gave_way) = (note("began"), note("waited"), note("gave way"));
        let (sender, ended) = tokio::sync::oneshot::channel();
        let worker = tokio::spawn(async move {
            tokio::spawn(async move { waited() });
            let turn = Arc::new(Turn::default());
            turn.begin();
            turn.is_short.store(true, Ordering::Relaxed);
            AtOnce { turn, tasks: Tasks::default() }.execute(async move {
                began();
                tokio::task::yield_now().await;
                gave_way();
                sender.send(()).expect("it is waited for");
            });
        });
        worker.await.expect("no panic");
        ended.await.expect("no panic");
        assert_eq!(*order.lock().expect("no panic"), ["began", "waited", "gave way"]);
    }

    #[tokio::test]
    async fn calls_count_as_tasks_while_they_have_one() {
        let executor = AtOnce { turn: Arc::new(Turn::default()), tasks: Tasks::default() };
        let execute = |is_short: bool, call: BoxFuture<'static, ()>| {
            executor.turn.begin();
            executor.turn.is_short.store(is_short, Ordering::Relaxed);
            executor.execute(call);
            executor.tasks.are_any()
        };
        assert!(!execute(true, Box::pin(async {})), "it is over");
        for (is_short, is_sound) in [(false, true), (true, true), (false, false), (true, false)] {
            let (release, released) = tokio::sync::oneshot::channel();
            let call = async move {
                released.await.expect("it is released");
                assert!(is_sound, "a defect");
            };
            assert!(execute(is_short, Box::pin(call)));
            release.send(()).expect("it waits");
            while executor.tasks.are_any() {
                tokio::task::yield_now().await;
            }
        }
    }

    #[test]
    fn a_turn_takes_short_calls_and_only_so_many() {
        let turn = Turn::default();
        turn.begin();
        let takes = |is_short| {
            turn.is_short.store(is_short, Ordering::Relaxed);
            turn.takes()
        };
        assert!(!takes(false));
        assert_eq!((0..2 * AT_ONCE).filter(|_| takes(true)).count(), AT_ONCE as usize);
    }
}
