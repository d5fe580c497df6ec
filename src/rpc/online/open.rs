//! Streams of online reads that are open: how many there may be, of one tenant and of all, and when one is given up
//! that its client doesn't read on. HTTP/2 asks for the next answer only when there is room for it, so nobody would
//! notice otherwise.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use hydrant_storage::names::Name;
use tokio::sync::mpsc;
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
pub(super) trait Makes: Send + 'static {
    /// `None` after the last.
    fn next(&mut self) -> impl Future<Output = Result<Option<Bytes>>> + Send;
}

impl Streams {
    pub fn new(most: usize) -> Self {
        Self { most, open: Arc::default() }
    }

    /// RESOURCE_EXHAUSTED where there are as many as may be, or too few left for others.
    pub fn open(&self, tenant: &Name) -> Result<StreamPlace> {
        let mut open = self.lock();
        let (own, free) = (open.of.get(tenant).copied().unwrap_or(0), self.most - open.all);
        // Of one tenant no more than are left, so that some are left for whoever comes.
        if free == 0 || own > free {
            let message = match own {
                0 => "as many streams of online reads as may be are open already ('serving.max_streams')".to_owned(),
                _ => format!("{own} streams of online reads are open already, and {free} are left for other tenants"),
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
/// its client likes. Where that one takes none for `patience`, or until the deadline, what makes them is dropped; then
/// a refusal (DEADLINE_EXCEEDED) follows what was made before. To be called on a runtime.
pub(super) fn answers(
    mut of: impl Makes,
    patience: Duration,
    deadline: Option<Instant>,
) -> BoxStream<'static, Result<Bytes>> {
    // One waits, and the next is made when that one is taken.
    let (waiting, taken) = mpsc::channel(1);
    let make = async move {
        loop {
            let until = tokio::time::Instant::now() + patience;
            let until = deadline.map_or(until, |deadline| until.min(deadline.into()));
            let Ok(room) = tokio::time::timeout_at(until, waiting.reserve()).await else { break };
            let Ok(room) = room else { return };
            let answer = tokio::select! {
                // The client is gone.
                () = waiting.closed() => return,
                answer = of.next() => answer,
            };
            let is_last = !matches!(answer, Ok(Some(_)));
            room.send(answer);
            if is_last {
                return;
            }
        }
        drop(of);
        // Until its client reads on, or is gone; nothing is held any more.
        let _ = waiting.send(Err(stands_still(patience, deadline))).await;
    };
    tokio::spawn(make.in_current_span());
    let ended_early = || Error::internal("a stream of online reads ended early");
    let taken = futures::stream::unfold(Some(taken), move |taken| async move {
        let mut taken = taken?;
        match taken.recv().await.unwrap_or_else(|| Err(ended_early())) {
            Ok(answer) => answer.map(|answer| (Ok(answer), Some(taken))),
            Err(error) => Some((Err(error), None)),
        }
    });
    taken.boxed()
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
    use super::*;

    #[test]
    fn a_tenant_leaves_streams_for_others_and_all_together_have_no_more_than_may_be() {
        let streams = Streams::new(8);
        let most = |tenant: &str| {
            let tenant: Name = tenant.parse().expect("a name");
            (0..20).map_while(|_| streams.open(&tenant).ok()).collect::<Vec<_>>()
        };
        let (ads, payments) = (most("ads"), most("payments"));
        assert_eq!((ads.len(), payments.len()), (5, 2));
        let one = most("search");
        assert_eq!(one.len(), 1);
        let refused = streams.open(&"more".parse().expect("a name")).expect_err("all are open");
        assert_eq!((refused.reason, refused.retry_after), ("TOO_MANY_STREAMS", Some(RETRY)));
        drop((ads, payments, one));
        assert_eq!(most("payments").len(), 5, "all were given back");
        let open = streams.lock();
        assert_eq!((open.all, open.of.len()), (0, 0));
    }

    /// Counts up to its end, and tells when it is dropped.
    struct Counts {
        next: u8,
        end: u8,
        _dropped: tokio::sync::oneshot::Sender<()>,
    }

    impl Makes for Counts {
        async fn next(&mut self) -> Result<Option<Bytes>> {
            tokio::task::yield_now().await;
            assert!(self.next != 66, "a defect");
            self.next += 1;
            Ok((self.next <= self.end).then(|| Bytes::copy_from_slice(&[self.next])))
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
            let mut answers = answers(Counts { next: 0, end: 9, _dropped }, patience, deadline);
            if reason.is_none() {
                assert_eq!(rest(&mut answers).await, ((1..=9).collect(), None));
                continue;
            }
            dropped.await.expect_err("it is gone before anybody asks");
            assert_eq!(rest(&mut answers).await, (vec![1], reason), "one was made ahead");
            assert!(answers.next().await.is_none());
        }
    }

    #[tokio::test]
    async fn whoever_hangs_up_ends_the_work_and_a_defect_isn_t_taken_for_the_end() {
        let (_dropped, dropped) = tokio::sync::oneshot::channel();
        let mut of = answers(Counts { next: 0, end: 255, _dropped }, Duration::from_secs(3_600), None);
        of.next().await.expect("one").expect("made");
        drop(of);
        dropped.await.expect_err("nobody has it any more");
        let (_dropped, _) = tokio::sync::oneshot::channel();
        let mut of = answers(Counts { next: 64, end: 255, _dropped }, Duration::from_secs(3_600), None);
        assert_eq!(rest(&mut of).await, (vec![65, 66], Some("INTERNAL")));
    }
}
