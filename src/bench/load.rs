//! The load that is put on a server. Open loop: requests leave at fixed times whatever the server
//! does, and their latency counts from then, so that a stall shows in every request that it delayed.
//! Closed loop: a fixed number under way, which finds what a server can do and costs. What is called,
//! and what an answer is worth, the target says.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::arrivals::{Arrivals, Due};
use super::tally::{Record, Reply};
use super::timer::Timer;

/// Requests under way beyond which an open loop waits; their latency counts all the same.
pub const MAX_UNDER_WAY: usize = 4_096;
/// How long stragglers are waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// The same after a run was stopped.
const PATIENCE_ONCE_STOPPED: Duration = Duration::from_millis(500);
/// How often the last ones are looked for.
const STRAGGLER_POLL: Duration = Duration::from_millis(1);

/// What the load is put on. Clones are cheap, and many calls are under way at a time.
pub trait Target: Clone + Send + Sync + 'static {
    /// Sends the request of this number and waits for what comes of it.
    fn call(&self, number: u64) -> impl Future<Output = Reply> + Send;
}

/// Which requests of a run one thread sends: every `of`-th, from number `index` on.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    pub index: u64,
    pub of: u64,
}

/// How far a run is, for whoever watches it, and how it is ended before its time.
#[derive(Debug, Default)]
pub struct Live {
    sent: AtomicU64,
    answered: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    stop: AtomicBool,
}

/// What is counted while a load is under way.
#[derive(Clone, Debug)]
struct Counting {
    counts: Arc<Mutex<Counts>>,
    live: Arc<Live>,
}

#[derive(Debug)]
struct Counts {
    record: Record,
    under_way: usize,
    /// Replies that come later are nobody's any more.
    closed: bool,
}

impl Share {
    pub const WHOLE: Self = Self { index: 0, of: 1 };
}

impl Live {
    /// Sends nothing more; what was measured stays.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}

/// Sends each request when it is due, by a timer that begins with the run. It ends when all are
/// replied to, or when no reply has come for a long time after the last was sent.
pub async fn open_loop<T: Target, C: Timer>(
    target: &T,
    arrivals: &Arrivals,
    share: Share,
    timer: &C,
    live: &Arc<Live>,
) -> Record {
    let counting = Counting::new(arrivals, live);
    let mut number = share.index;
    while let Some(due) = arrivals.due(number) {
        wait_until(due.at, timer, &counting).await;
        if live.stopped() {
            break;
        }
        counting.sent(due, timer.now());
        let (target, counting, timer) = (target.clone(), counting.clone(), timer.clone());
        tokio::spawn(async move {
            let reply = target.call(number).await;
            counting.replied(due, timer.now(), reply);
        });
        number += share.of;
    }
    counting.finish(timer).await
}

/// Keeps a number of requests under way for as long as asked for. Latencies count from when a
/// request was sent: there is no instant at which it should have been.
pub async fn closed_loop<T: Target, C: Timer>(
    target: &T,
    under_way: usize,
    lasts: Duration,
    share: Share,
    timer: &C,
    live: &Arc<Live>,
) -> Record {
    let counting = Counting::new(&Arrivals::phases_of(&[(0.0, lasts)]), live);
    let workers = (0..under_way as u64).map(|worker| {
        let (target, counting, timer, live) = (target.clone(), counting.clone(), timer.clone(), live.clone());
        let step = share.of * under_way as u64;
        let mut number = share.index + worker * share.of;
        tokio::spawn(async move {
            while timer.now() < lasts && !live.stopped() {
                let due = Due { phase: 0, at: timer.now() };
                counting.sent(due, due.at);
                let reply = target.call(number).await;
                counting.replied(due, timer.now(), reply);
                number += step;
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        // A worker that panicked has told so on stderr; its request stays unanswered.
        let _ = worker.await;
    }
    counting.finish(timer).await
}

async fn wait_until<C: Timer>(due: Duration, timer: &C, counting: &Counting) {
    loop {
        let now = timer.now();
        let full = counting.counts().under_way >= MAX_UNDER_WAY;
        if counting.live.stopped() || (now >= due && !full) {
            return;
        }
        timer.pause(if full { now } else { due }).await;
    }
}

impl Counting {
    fn new(arrivals: &Arrivals, live: &Arc<Live>) -> Self {
        let counts = Counts { record: Record::new(arrivals), under_way: 0, closed: false };
        Self { counts: Arc::new(Mutex::new(counts)), live: live.clone() }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sent(&self, due: Due, at: Duration) {
        let mut counts = self.counts();
        counts.under_way += 1;
        counts.record.sent(due, at);
        self.live.sent.fetch_add(1, Ordering::Relaxed);
    }

    fn replied(&self, due: Due, at: Duration, reply: Reply) {
        let mut counts = self.counts();
        if counts.closed {
            return;
        }
        counts.under_way -= 1;
        let counter = match &reply {
            Reply::Answered(_) => &self.live.answered,
            Reply::Refused { .. } => &self.live.refused,
            Reply::Failed { .. } => &self.live.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        counts.record.replied(due, at, reply);
    }

    /// Waits for stragglers, and counts who doesn't come as unanswered.
    async fn finish<C: Timer>(&self, timer: &C) -> Record {
        let sent_all = timer.now();
        let patience = if self.live.stopped() { PATIENCE_ONCE_STOPPED } else { PATIENCE };
        while self.counts().under_way > 0 && timer.now() < sent_all + patience {
            if self.live.stopped() && timer.now() > sent_all + PATIENCE_ONCE_STOPPED {
                break;
            }
            timer.pause(timer.now() + STRAGGLER_POLL).await;
        }
        let mut counts = self.counts();
        counts.closed = true;
        if self.live.stopped() {
            counts.record.stopped(timer.now());
        }
        let mut record = counts.record.clone();
        for tally in &mut record.phases {
            tally.unanswered = tally.sent - tally.answered() - tally.refused() - tally.failed();
        }
        record
    }
}

#[cfg(test)]
mod tests {
    use super::super::tally::Answer;
    use super::*;

    /// Stands still but where somebody waits for it, or moves it by hand.
    #[derive(Clone, Debug, Default)]
    struct ManualTimer(Arc<Mutex<Duration>>);

    impl ManualTimer {
        fn advance(&self, by: Duration) {
            *self.0.lock().expect("nobody panics") += by;
        }
    }

    impl Timer for ManualTimer {
        fn now(&self) -> Duration {
            *self.0.lock().expect("nobody panics")
        }

        async fn pause(&self, until: Duration) {
            // Whoever can run does so before time goes on.
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
            let mut now = self.0.lock().expect("nobody panics");
            *now = until.max(*now);
        }
    }

    /// Answers at once, but for some requests at which everything stands still for a while.
    #[derive(Clone, Debug)]
    struct Stalling {
        timer: ManualTimer,
        at: u64,
        stall: Duration,
    }

    impl Target for Stalling {
        async fn call(&self, number: u64) -> Reply {
            if number == self.at {
                self.timer.advance(self.stall);
            }
            Reply::Answered(Answer::default())
        }
    }

    /// Never answers.
    #[derive(Clone, Debug)]
    struct Silent;

    impl Target for Silent {
        async fn call(&self, _: u64) -> Reply {
            std::future::pending().await
        }
    }

    fn slowest_first(record: &Record) -> Vec<u64> {
        let recorded = record.phases[0].latency.iter_recorded();
        let mut millis: Vec<u64> = recorded
            .flat_map(|value| std::iter::repeat_n(value.value_iterated_to(), value.count_at_value() as usize))
            .map(|nanos| (nanos as f64 / 1e6).round() as u64)
            .collect();
        millis.reverse();
        millis
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_stall_shows_in_every_request_that_it_delayed() {
        let timer = ManualTimer::default();
        let target = Stalling { timer: timer.clone(), at: 3, stall: Duration::from_millis(55) };
        let arrivals = Arrivals::steady(100.0, Duration::from_millis(200));
        let record = open_loop(&target, &arrivals, Share::WHOLE, &timer, &Arc::default()).await;
        // Number 3 took 55 ms, and those due 10, 20, 30, 40 and 50 ms after it left late by the rest.
        let slowest = slowest_first(&record);
        assert_eq!(slowest.len(), 20);
        assert_eq!(slowest[..7], [55, 45, 35, 25, 15, 5, 0], "{slowest:?}");
        assert_eq!(record.phases[0].lateness.max() / 1_000_000, 45);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn shares_of_a_run_send_each_request_once() {
        let arrivals = Arrivals::steady(100.0, Duration::from_millis(110));
        let mut whole: Option<Record> = None;
        for index in 0..3 {
            let timer = ManualTimer::default();
            let target = Stalling { timer: timer.clone(), at: u64::MAX, stall: Duration::ZERO };
            let record = open_loop(&target, &arrivals, Share { index, of: 3 }, &timer, &Arc::default()).await;
            match &mut whole {
                Some(whole) => whole.add(&record),
                None => whole = Some(record),
            }
        }
        let whole = whole.expect("there are three");
        assert_eq!((whole.phases[0].sent, whole.phases[0].answered()), (11, 11));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_is_never_answered_is_counted_in_the_end() {
        let arrivals = Arrivals::steady(100.0, Duration::from_millis(50));
        let live = Arc::<Live>::default();
        let record = open_loop(&Silent, &arrivals, Share::WHOLE, &ManualTimer::default(), &live).await;
        let tally = &record.phases[0];
        assert_eq!((tally.sent, tally.answered(), tally.unanswered, tally.failed()), (5, 0, 5, 5));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_run_that_is_stopped_keeps_what_was_measured() {
        #[derive(Clone)]
        struct Stopping(Arc<Live>);
        impl Target for Stopping {
            async fn call(&self, number: u64) -> Reply {
                if number == 4 {
                    self.0.stop();
                }
                Reply::Answered(Answer::default())
            }
        }
        let live = Arc::<Live>::default();
        let arrivals = Arrivals::steady(10.0, Duration::from_secs(60));
        let target = Stopping(live.clone());
        let record = open_loop(&target, &arrivals, Share::WHOLE, &ManualTimer::default(), &live).await;
        let tally = &record.phases[0];
        assert_eq!((tally.answered(), tally.unanswered), (5, 0));
        assert!(tally.lasted < Duration::from_secs(1), "{:?}", tally.lasted);
        assert!((tally.rate() - 10.0).abs() < 3.0, "{}", tally.rate());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_closed_loop_keeps_its_number_under_way_until_its_time_is_up() {
        #[derive(Clone)]
        struct Working(ManualTimer, Arc<Mutex<Vec<u64>>>);
        impl Target for Working {
            async fn call(&self, number: u64) -> Reply {
                self.1.lock().expect("nobody panics").push(number);
                self.0.advance(Duration::from_millis(1));
                tokio::task::yield_now().await;
                Reply::Answered(Answer::default())
            }
        }
        let timer = ManualTimer::default();
        let target = Working(timer.clone(), Arc::default());
        let lasts = Duration::from_millis(100);
        let record = closed_loop(&target, 4, lasts, Share::WHOLE, &timer, &Arc::default()).await;
        let mut numbers = target.1.lock().expect("nobody panics").clone();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>(), "each request once");
        assert!((100..=104).contains(&numbers.len()), "{}", numbers.len());
        assert_eq!(record.phases[0].answered(), numbers.len() as u64);
    }
}
