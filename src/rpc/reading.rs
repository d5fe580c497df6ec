//! When a connection is left unread although its client may have sent something: after its online reads were refused
//! as too much, while those of another tenant go first. What waits in the socket slows its sender down, and is read
//! some milliseconds later. What a call says is not looked at here, and nothing is lost.

use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use hydrant_storage::names::Name;

use crate::tenancy::Backpressure;

/// For so long after a refusal more of them are expected.
const LATELY: Duration = Duration::from_millis(100);
/// For so long after another tenant's read a connection is taken for one of several tenants, and always read.
const SHARED: Duration = Duration::from_secs(1);

/// Says whether a tenant's connection is better left unread.
pub(super) trait LeavesUnread: fmt::Debug + Send + Sync {
    /// Until when; `None`: it isn't.
    fn until(&self) -> Option<BoxFuture<'static, ()>>;

    /// Whether others ask as well, to whom a turn has to come soon.
    fn is_shared(&self) -> bool;
}

/// What is known of the refusals over a connection, by it and by its calls.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// Whether there was one, for whoever has no time for more.
    were: AtomicBool,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    latest: Option<Refused>,
    /// When another tenant than that one asked.
    shared_at: Option<Instant>,
}

#[derive(Debug)]
struct Refused {
    tenant: Name,
    at: Instant,
    by: Arc<dyn LeavesUnread>,
}

/// A connection's own side: when it may be read.
pub(super) struct Reading {
    refusals: Arc<Refusals>,
    put_off: Option<PutOff>,
    /// Since it was put off last.
    has_read: bool,
}

enum PutOff {
    Until(BoxFuture<'static, ()>),
    OthersTurn(Arc<OthersTurn>),
}

/// Set when the runtime has run all that was ready, and looked at its sockets. `yield_now` alone wouldn't do: it is
/// ready when it is polled again, and HTTP/2 tries to read several times in one poll of its connection.
struct OthersTurn {
    is_over: AtomicBool,
    connection: Waker,
}

impl LeavesUnread for Backpressure {
    fn until(&self) -> Option<BoxFuture<'static, ()>> {
        let backpressure = self.is_on().then(|| self.clone())?;
        Some(Box::pin(async move { backpressure.passed().await }))
    }

    fn is_shared(&self) -> bool {
        Self::is_shared(self)
    }
}

impl Refusals {
    /// A tenant asks for a read.
    pub fn note_read(&self, tenant: &Name, now: Instant) {
        if !self.were.load(Ordering::Relaxed) {
            return;
        }
        let mut known = self.known();
        if known.latest.as_ref().is_some_and(|refused| refused.tenant != *tenant) {
            known.shared_at = Some(now);
        }
    }

    /// One was refused because more comes in than can be done.
    pub fn note_refused(&self, tenant: &Name, now: Instant, by: impl FnOnce() -> Arc<dyn LeavesUnread>) {
        let mut known = self.known();
        match &mut known.latest {
            Some(refused) if refused.tenant == *tenant => refused.at = now,
            latest => {
                let before = latest.replace(Refused { tenant: tenant.clone(), at: now, by: by() });
                known.shared_at = before.map(|_| now);
            }
        }
        self.were.store(true, Ordering::Relaxed);
    }

    /// Where the connection may have to be left unread, whoever says so.
    fn latest(&self, now: impl FnOnce() -> Instant) -> Option<Arc<dyn LeavesUnread>> {
        if !self.were.load(Ordering::Relaxed) {
            return None;
        }
        let mut known = self.known();
        let refused = known.latest.as_ref()?;
        let now = now();
        let is_shared = known.shared_at.is_some_and(|at| now.saturating_duration_since(at) < SHARED);
        if is_shared {
            return None;
        }
        if now.saturating_duration_since(refused.at) > LATELY {
            *known = Known::default();
            self.were.store(false, Ordering::Relaxed);
            return None;
        }
        Some(refused.by.clone())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("nobody panics with what is known in hand")
    }
}

impl Reading {
    pub fn new() -> Self {
        Self { refusals: Arc::default(), put_off: None, has_read: false }
    }

    pub fn refusals(&self) -> Arc<Refusals> {
        self.refusals.clone()
    }

    /// Ready when the connection may be read, once; otherwise the task is woken when it may.
    pub fn poll_may(&mut self, now: impl FnOnce() -> Instant, context: &mut Context<'_>) -> Poll<()> {
        if self.put_off.is_none() {
            self.put_off = self.refusals.latest(now).and_then(|by| match by.until() {
                Some(until) => Some(PutOff::Until(until)),
                None if self.has_read && by.is_shared() => Some(PutOff::OthersTurn(OthersTurn::begin(context.waker()))),
                None => None,
            });
        }
        if let Some(put_off) = &mut self.put_off {
            match put_off {
                PutOff::Until(until) => ready!(until.as_mut().poll(context)),
                PutOff::OthersTurn(turn) if !turn.is_over.load(Ordering::Acquire) => return Poll::Pending,
                PutOff::OthersTurn(_) => {}
            }
            self.put_off = None;
            self.has_read = false;
        }
        Poll::Ready(())
    }

    /// The connection was read, so that others have a turn first where it has to give way.
    pub fn note(&mut self) {
        self.has_read = true;
    }
}

impl OthersTurn {
    /// To be called from the task that is to be woken, which stays the same.
    fn begin(connection: &Waker) -> Arc<Self> {
        let turn = Arc::new(Self { is_over: AtomicBool::new(false), connection: connection.clone() });
        let waker = Waker::from(turn.clone());
        // The runtime has the waker from here on.
        if pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&waker)).is_ready() {
            waker.wake();
        }
        turn
    }
}

impl Wake for OthersTurn {
    fn wake(self: Arc<Self>) {
        self.is_over.store(true, Ordering::Release);
        self.connection.wake_by_ref();
    }
}

impl fmt::Debug for Reading {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_put_off = self.put_off.is_some();
        formatter.debug_struct("Reading").field("refusals", &self.refusals).field("is_put_off", &is_put_off).finish()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use tokio::sync::watch;

    use super::*;

    /// Whether others go first, as a test says.
    #[derive(Clone, Debug)]
    pub(in crate::rpc) struct Others(watch::Sender<bool>);

    impl Others {
        pub fn new() -> Self {
            Self(watch::Sender::new(false))
        }

        pub fn go_first(&self, go_first: bool) {
            self.0.send_replace(go_first);
        }
    }

    impl LeavesUnread for Others {
        fn until(&self) -> Option<BoxFuture<'static, ()>> {
            let mut go_first = self.0.subscribe();
            let go_first_now = *go_first.borrow();
            go_first_now.then(|| {
                Box::pin(async move {
                    go_first.wait_for(|go_first| !go_first).await.expect("the test goes on");
                }) as BoxFuture<'static, ()>
            })
        }

        fn is_shared(&self) -> bool {
            true
        }
    }

    const MILLI: Duration = Duration::from_millis(1);

    fn tenant(name: &str) -> Name {
        name.parse().expect("a name")
    }

    /// Whether it may be read at once.
    fn may(reading: &mut Reading, now: Instant) -> bool {
        reading.poll_may(|| now, &mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn only_a_connection_whose_reads_were_refused_lately_is_left_unread_and_only_while_others_go_first() {
        let (others, mut reading, begun) = (Others::new(), Reading::new(), Instant::now());
        others.go_first(true);
        assert!(may(&mut reading, begun), "nobody was refused");
        let refusals = reading.refusals();
        let refuse = |at| refusals.note_refused(&tenant("ads"), at, || Arc::new(others.clone()));
        refuse(begun);
        assert!(may(&mut reading, begun + LATELY + MILLI));
        refuse(begun);
        assert!(!may(&mut reading, begun + LATELY - MILLI));
        refusals.note_read(&tenant("ads"), begun);
        assert!(!may(&mut reading, begun));
        others.go_first(false);
        assert!(may(&mut reading, begun));
        others.go_first(true);
        assert!(!may(&mut reading, begun), "once only");
    }

    #[test]
    fn a_connection_of_several_tenants_is_read_whatever_is_refused() {
        let (others, mut reading, begun) = (Others::new(), Reading::new(), Instant::now());
        others.go_first(true);
        let refusals = reading.refusals();
        let refuse = |name, at| refusals.note_refused(&tenant(name), at, || Arc::new(others.clone()));
        refuse("ads", begun);
        refusals.note_read(&tenant("payments"), begun);
        assert!(may(&mut reading, begun));
        let almost = begun + SHARED - MILLI;
        refuse("ads", almost);
        assert!(may(&mut reading, almost), "the other may use it again");
        refuse("payments", almost);
        assert!(may(&mut reading, almost), "and so may the one before");
        let (before, after) = (almost + SHARED - MILLI, almost + SHARED + MILLI);
        refuse("payments", before);
        assert!(may(&mut reading, before));
        assert!(!may(&mut reading, after), "nobody else has asked for long");
    }

    #[tokio::test]
    async fn between_two_reads_all_others_have_a_turn_however_often_it_is_tried() {
        let (others, mut reading) = (Others::new(), Reading::new());
        reading.refusals().note_refused(&tenant("ads"), Instant::now(), || Arc::new(others));
        let now = Instant::now();
        assert!(may(&mut reading, now), "nothing was read yet");
        reading.note();
        let other = tokio::spawn(async {});
        let mut tried = 0;
        std::future::poll_fn(|context| {
            tried += 1;
            let may = [(); 3].map(|()| reading.poll_may(|| now, context).is_ready());
            assert!(may == [other.is_finished(); 3], "{may:?}");
            if may[0] { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        assert_eq!(tried, 2, "it was woken");
    }
}
