//! Streams of online reads that are open: how many there may be, of one tenant and of all, and how one is given up
//! whose client doesn't read on. HTTP/2 asks for the next answer only when there is room for it, so nobody would
//! notice otherwise.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::Stream;
use hydrant_storage::names::Name;
use tokio::sync::Notify;
use tracing::Instrument as _;

use crate::error::{Code, Error, Result};
use crate::rpc::status::deadline_exceeded;

/// When another stream may have ended, perhaps.
const RETRY: Duration = Duration::from_secs(1);

/// Places of streams. A clone is the same.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    most: usize,
    open: Arc<Mutex<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    of: HashMap<Name, usize>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct StreamPlace {
    streams: Streams,
    tenant: Name,
}

/// What makes the answers of a stream, one after the other.
pub(super) trait MakesAnswers: Send + 'static {
    fn next(&mut self) -> impl Future<Output = Result<Made>> + Send;
}

/// An answer.
#[derive(Debug)]
pub(super) struct Made {
    pub answer: Bytes,
    /// The row of the request with which it begins.
    pub first_row: usize,
    pub is_last: bool,
}

/// Where an answer waits to be taken.
#[derive(Debug, Default)]
struct Slot {
    state: Mutex<SlotState>,
    /// For whoever takes: there may be an answer, or never will be.
    filled: Notify,
    /// For whoever makes them: it may be taken, or never will be.
    emptied: Notify,
}

#[derive(Debug, Default)]
struct SlotState {
    waiting: Option<Result<Made>>,
    is_client_gone: bool,
    is_maker_gone: bool,
}

/// The client's side of it.
struct Takes(Arc<Slot>);

/// The other one.
struct Fills(Arc<Slot>);

impl Streams {
    pub fn new(most: usize) -> Self {
        Self { most, open: Arc::default() }
    }

    /// RESOURCE_EXHAUSTED where there are as many as may be, or too few left for others.
    pub fn open(&self, tenant: &Name) -> Result<StreamPlace> {
        let mut open = self.lock();
        let (own, free) = (open.of.get(tenant).copied().unwrap_or(0), self.most - open.all);
        // Of one tenant no more than are left, so that some are left for whoever comes.
        if own >= free {
            let message = match own.min(free) {
                0 => "as many streams of online reads as may be are open already ('serving.max_streams')".to_owned(),
                _ => format!(
                    "the tenant has {own} streams of online reads open, and the {free} that are left are for others \
                     ('serving.max_streams')"
                ),
            };
            return Err(Error::new(Code::ResourceExhausted, "TOO_MANY_STREAMS", message).retry_after(RETRY));
        }
        open.all += 1;
        *open.of.entry(tenant.clone()).or_default() += 1;
        Ok(StreamPlace { streams: self.clone(), tenant: tenant.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().expect("nobody panics with what is open in hand")
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let mut open = self.streams.lock();
        open.all -= 1;
        if let Some(own) = open.of.get_mut(&self.tenant) {
            *own -= 1;
            if *own == 0 {
                open.of.remove(&self.tenant);
            }
        }
    }
}

/// The answers, each made when the one before has been taken, on a task of their own: HTTP/2 doesn't poll what it has
/// no room for, and what is made where it polls would keep all that it holds, in the middle of its work, for as long as
/// its client likes. Where that one doesn't take an answer within `patience`, or until the deadline, a refusal
/// (DEADLINE_EXCEEDED) takes its place, which tells its row as `first_row`, and nothing else is kept. To be called on a
/// runtime.
pub(super) fn answers(
    mut of: impl MakesAnswers,
    patience: Duration,
    deadline: Option<Instant>,
) -> impl Stream<Item = Result<Bytes>> + Send + 'static {
    let slot = Arc::new(Slot::default());
    let (fills, takes) = (Fills(slot.clone()), Takes(slot));
    let make = async move {
        loop {
            let made = tokio::select! {
                () = fills.client_gone() => return,
                made = of.next() => made,
            };
            let waits = made.as_ref().ok().map(|made| (made.first_row, made.is_last));
            fills.put(made);
            let Some((first_row, is_last)) = waits else { return };
            let until = tokio::time::Instant::now() + patience;
            let until = deadline.map_or(until, |deadline| until.min(deadline.into()));
            let is_late = tokio::time::timeout_at(until, fills.taken()).await.is_err();
            if is_late && fills.put_instead(stands_still(patience, deadline).with("first_row", first_row)) {
                tracing::debug!(first_row, "a stream of online reads is given up: its client takes no answer");
                return;
            }
            if is_last {
                return;
            }
        }
    };
    tokio::spawn(make.in_current_span());
    futures::stream::unfold(Some(takes), |takes| async move {
        let takes = takes?;
        match takes.next().await {
            Ok(Made { answer, is_last, .. }) => Some((Ok(answer), (!is_last).then_some(takes))),
            Err(error) => Some((Err(error), None)),
        }
    })
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, SlotState> {
        self.state.lock().expect("nobody panics with what waits in hand")
    }
}

impl Fills {
    fn put(&self, made: Result<Made>) {
        self.0.state().waiting = Some(made);
        self.0.filled.notify_one();
    }

    /// In the place of what waits; `false` where it was taken after all.
    fn put_instead(&self, refused: Error) -> bool {
        let mut state = self.0.state();
        let waits = state.waiting.is_some();
        state.waiting = waits.then_some(Err(refused));
        waits
    }

    /// Until nothing waits, or nobody takes it any more.
    async fn taken(&self) {
        while !matches!(*self.0.state(), SlotState { waiting: None, .. } | SlotState { is_client_gone: true, .. }) {
            self.0.emptied.notified().await;
        }
    }

    async fn client_gone(&self) {
        while !self.0.state().is_client_gone {
            self.0.emptied.notified().await;
        }
    }
}

impl Takes {
    async fn next(&self) -> Result<Made> {
        loop {
            let is_maker_gone = {
                let mut state = self.0.state();
                if let Some(made) = state.waiting.take() {
                    self.0.emptied.notify_one();
                    return made;
                }
                state.is_maker_gone
            };
            if is_maker_gone {
                return Err(Error::internal("a stream of online reads ended early"));
            }
            self.0.filled.notified().await;
        }
    }
}

impl Drop for Fills {
    fn drop(&mut self) {
        self.0.state().is_maker_gone = true;
        self.0.filled.notify_one();
    }
}

impl Drop for Takes {
    fn drop(&mut self) {
        *self.0.state() = SlotState { is_client_gone: true, ..SlotState::default() };
        self.0.emptied.notify_one();
    }
}

fn stands_still(patience: Duration, deadline: Option<Instant>) -> Error {
    if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
        return deadline_exceeded();
    }
    let message = format!("no answer of the stream was taken for {} seconds", patience.as_secs_f64());
    Error::new(Code::DeadlineExceeded, "STREAM_STANDS_STILL", message)
        .hint("take answers sooner, in fewer rows if need be, and go on with the rest of the rows")
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use futures::stream::BoxStream;

    use super::*;

    #[test]
    fn a_tenant_leaves_streams_for_others_and_all_together_have_no_more_than_may_be() {
        let streams = Streams::new(8);
        let most = |tenant: &str| {
            let tenant: Name = tenant.parse().expect("a name");
            (0..20).map_while(|_| streams.open(&tenant).ok()).collect::<Vec<_>>()
        };
        let (ads, payments) = (most("ads"), most("payments"));
        assert_eq!((ads.len(), payments.len()), (4, 2));
        let one = most("search");
        assert_eq!(one.len(), 1);
        let last = most("last");
        assert_eq!(last.len(), 1);
        let refused = streams.open(&"more".parse().expect("a name")).expect_err("all are open");
        assert_eq!((refused.reason, refused.retry_after), ("TOO_MANY_STREAMS", Some(RETRY)));
        drop((ads, payments, one, last));
        assert_eq!(most("payments").len(), 4, "all were given back");
        let open = streams.lock();
        assert_eq!((open.all, open.of.len()), (0, 0));
    }

    /// Counts up to its end, and tells when it is dropped.
    struct Counts {
        next: u8,
        end: u8,
        _dropped: tokio::sync::oneshot::Sender<()>,
    }

    impl MakesAnswers for Counts {
        async fn next(&mut self) -> Result<Made> {
            tokio::task::yield_now().await;
            assert!(self.next != 66, "a defect");
            self.next += 1;
            let answer = Bytes::copy_from_slice(&[self.next]);
            Ok(Made { answer, first_row: usize::from(self.next) * 10, is_last: self.next == self.end })
        }
    }

    async fn rest(answers: &mut BoxStream<'static, Result<Bytes>>) -> (Vec<u8>, Option<&'static str>) {
        let mut told = Vec::new();
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(answer) => told.push(answer[0]),
                Err(refused) => return (told, Some(refused.reason)),
            }
        }
        (told, None)
    }

    #[tokio::test]
    async fn what_its_client_doesn_t_take_is_given_up_after_a_while_or_at_its_deadline() {
        let (long, short) = (Duration::from_secs(3_600), Duration::from_millis(1));
        let soon = Some(Instant::now() + short);
        for (patience, deadline, reason) in
            [(long, None, None), (short, None, Some("STREAM_STANDS_STILL")), (long, soon, Some("DEADLINE_EXCEEDED"))]
        {
            let (_dropped, dropped) = tokio::sync::oneshot::channel();
            let mut answers = answers(Counts { next: 0, end: 9, _dropped }, patience, deadline).boxed();
            if reason.is_none() {
                assert_eq!(rest(&mut answers).await, ((1..=9).collect(), None));
                dropped.await.expect_err("with the last one taken nothing is kept");
                continue;
            }
            dropped.await.expect_err("it is gone before anybody asks");
            let refused = answers.next().await.expect("it is told").expect_err("given up");
            assert_eq!(Some(refused.reason), reason);
            assert!(refused.metadata.iter().any(|(name, row)| *name == "first_row" && row == "10"), "{refused:?}");
            assert!(answers.next().await.is_none());
        }
    }

    #[tokio::test]
    async fn whoever_hangs_up_ends_the_work_and_a_defect_isn_t_taken_for_the_end() {
        let (_dropped, dropped) = tokio::sync::oneshot::channel();
        let mut of = answers(Counts { next: 0, end: 255, _dropped }, Duration::from_secs(3_600), None).boxed();
        of.next().await.expect("one").expect("made");
        drop(of);
        dropped.await.expect_err("nobody has it any more");
        let (_dropped, _) = tokio::sync::oneshot::channel();
        let mut of = answers(Counts { next: 64, end: 255, _dropped }, Duration::from_secs(3_600), None).boxed();
        assert_eq!(rest(&mut of).await, (vec![65, 66], Some("INTERNAL")));
    }
}
