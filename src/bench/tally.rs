//! What came of a load: latencies, refusals and failures by phase, and all of them over time. It
//! counts what it is told; it never reads a clock.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::arrivals::{Arrivals, Due};
use super::timer::nanos;

/// What one answer may hold different kinds of; which ones is its target's affair.
pub const KINDS: usize = 8;

/// Kinds of failure that are told apart; the others are counted together.
const MAX_FAILURES: usize = 16;

/// Latencies are told between 0.1 µs and two minutes, to three digits.
const BOUNDS: (u64, u64) = (100, 120_000_000_000);
const DIGITS: u8 = 3;
/// Those of a window to two, so that hundreds of windows fit into memory.
const WINDOW_DIGITS: u8 = 2;

/// Windows of one run, at most.
const MAX_WINDOWS: u32 = 200;
const SHORTEST_WINDOW: Duration = Duration::from_millis(100);

/// How a call came out.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Answered(Answer),
    /// The server has too much to do. It may say after how long to come back.
    Refused {
        reason: String,
        retry_after: Option<Duration>,
    },
    Failed {
        status: String,
        message: String,
    },
}

/// What an answer held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub bytes: u64,
    pub counts: [u64; KINDS],
    /// A part of it did not arrive in time.
    pub partial: bool,
}

/// What came of the requests that were due in one phase.
#[derive(Clone, Debug)]
pub struct Tally {
    pub sent: u64,
    /// Nanoseconds from the intended start, of what was answered.
    pub latency: Histogram<u64>,
    /// The same of what was refused.
    pub refusals: Histogram<u64>,
    /// How late requests left, nanoseconds: the generator's own part of their latency.
    pub lateness: Histogram<u64>,
    pub answers: Answers,
    /// By status and, for refusals, by reason.
    pub failures: Vec<Failures>,
    pub refused_for: Vec<Failures>,
    pub delays: Delays,
    /// Sent, and without any reply when the run ended.
    pub unanswered: u64,
    /// From the phase's beginning until its last reply, or its end if that is later.
    pub lasted: Duration,
}

/// Answers, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    pub bytes: u64,
    pub counts: [u64; KINDS],
    pub partial: u64,
}

/// Replies of one kind that are no answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failures {
    pub status: String,
    pub count: u64,
    /// Of the first.
    pub message: String,
}

/// The delays that refusals asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delays {
    /// Refusals that told one.
    pub told: u64,
    pub least: Duration,
    pub most: Duration,
}

/// What came of the requests that were due within a short time.
#[derive(Clone, Debug)]
pub struct Window {
    pub sent: u64,
    pub answered: u64,
    pub refused: u64,
    pub failed: u64,
    /// Nanoseconds from the intended start, of what was answered.
    pub latency: Histogram<u64>,
}

/// A whole run: its phases, and its windows by when requests were due.
#[derive(Clone, Debug)]
pub struct Record {
    pub phases: Vec<Tally>,
    pub windows: Vec<Window>,
    /// How long a window is.
    pub window: Duration,
    begins: Vec<Duration>,
}

impl Tally {
    fn new(lasts: Duration) -> Self {
        Self {
            sent: 0,
            latency: histogram(DIGITS),
            refusals: histogram(DIGITS),
            lateness: histogram(DIGITS),
            answers: Answers::default(),
            failures: Vec::new(),
            refused_for: Vec::new(),
            delays: Delays::default(),
            unanswered: 0,
            lasted: lasts,
        }
    }

    pub fn answered(&self) -> u64 {
        self.latency.len()
    }

    pub fn refused(&self) -> u64 {
        self.refusals.len()
    }

    /// Without an answer for another reason than too much load.
    pub fn failed(&self) -> u64 {
        self.failures.iter().map(|failures| failures.count).sum::<u64>() + self.unanswered
    }

    /// Requests answered a second.
    pub fn rate(&self) -> f64 {
        self.answered() as f64 / self.lasted.as_secs_f64().max(1e-9)
    }

    /// Of what was answered; 0 where nothing was.
    pub fn percentile_micros(&self, percentile: f64) -> f64 {
        self.latency.value_at_percentile(percentile) as f64 / 1_000.0
    }

    fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        add(&mut self.latency, &other.latency);
        add(&mut self.refusals, &other.refusals);
        add(&mut self.lateness, &other.lateness);
        self.answers.bytes += other.answers.bytes;
        self.answers.partial += other.answers.partial;
        add_counts(&mut self.answers.counts, &other.answers.counts);
        for failures in &other.failures {
            count(&mut self.failures, failures.clone());
        }
        for refused in &other.refused_for {
            count(&mut self.refused_for, refused.clone());
        }
        if other.delays.told > 0 {
            self.delays.note(other.delays.least);
            self.delays.note(other.delays.most);
            self.delays.told += other.delays.told - 2;
        }
        self.unanswered += other.unanswered;
        self.lasted = self.lasted.max(other.lasted);
    }
}

impl Delays {
    fn note(&mut self, delay: Duration) {
        self.least = if self.told == 0 { delay } else { self.least.min(delay) };
        self.most = self.most.max(delay);
        self.told += 1;
    }
}

impl Window {
    fn new() -> Self {
        Self { sent: 0, answered: 0, refused: 0, failed: 0, latency: histogram(WINDOW_DIGITS) }
    }
}

impl Record {
    pub fn new(arrivals: &Arrivals) -> Self {
        let window = (arrivals.lasts() / MAX_WINDOWS).max(SHORTEST_WINDOW);
        Self {
            phases: arrivals.phases().iter().map(|phase| Tally::new(phase.lasts)).collect(),
            windows: Vec::new(),
            window,
            begins: arrivals.phases().iter().map(|phase| phase.begins).collect(),
        }
    }

    /// A request left.
    pub fn sent(&mut self, due: Due, at: Duration) {
        let tally = &mut self.phases[due.phase];
        tally.sent += 1;
        tally.lateness.saturating_record(nanos(at.saturating_sub(due.at)));
        self.window_of(due).sent += 1;
    }

    /// A request was replied to. Its latency counts from when it was due, whenever it left.
    pub fn replied(&mut self, due: Due, at: Duration, reply: Reply) {
        let latency = nanos(at.saturating_sub(due.at));
        let window = self.window_of(due);
        match &reply {
            Reply::Answered(_) => {
                window.answered += 1;
                window.latency.saturating_record(latency);
            }
            Reply::Refused { .. } => window.refused += 1,
            Reply::Failed { .. } => window.failed += 1,
        }
        let begins = self.begins[due.phase];
        let tally = &mut self.phases[due.phase];
        tally.lasted = tally.lasted.max(at.saturating_sub(begins));
        match reply {
            Reply::Answered(answer) => {
                tally.latency.saturating_record(latency);
                tally.answers.bytes += answer.bytes;
                tally.answers.partial += u64::from(answer.partial);
                add_counts(&mut tally.answers.counts, &answer.counts);
            }
            Reply::Refused { reason, retry_after } => {
                tally.refusals.saturating_record(latency);
                if let Some(delay) = retry_after {
                    tally.delays.note(delay);
                }
                count(&mut tally.refused_for, Failures { status: reason, count: 1, message: String::new() });
            }
            Reply::Failed { status, message } => count(&mut tally.failures, Failures { status, count: 1, message }),
        }
    }

    /// The run was stopped at this instant: its phases were as long as they had come.
    pub fn stopped(&mut self, at: Duration) {
        for (tally, begins) in self.phases.iter_mut().zip(&self.begins) {
            tally.lasted = tally.lasted.min(at.saturating_sub(*begins));
        }
    }

    /// What another thread recorded of the same run.
    pub fn add(&mut self, other: &Self) {
        for (tally, other) in self.phases.iter_mut().zip(&other.phases) {
            tally.add(other);
        }
        if self.windows.len() < other.windows.len() {
            self.windows.resize_with(other.windows.len(), Window::new);
        }
        for (window, other) in self.windows.iter_mut().zip(&other.windows) {
            window.sent += other.sent;
            window.answered += other.answered;
            window.refused += other.refused;
            window.failed += other.failed;
            add(&mut window.latency, &other.latency);
        }
    }

    fn window_of(&mut self, due: Due) -> &mut Window {
        let index = (due.at.as_nanos() / self.window.as_nanos()) as usize;
        if self.windows.len() <= index {
            self.windows.resize_with(index + 1, Window::new);
        }
        &mut self.windows[index]
    }
}

fn histogram(digits: u8) -> Histogram<u64> {
    let (low, high) = BOUNDS;
    Histogram::new_with_bounds(low, high, digits).expect("the bounds are sound")
}

fn add(sum: &mut Histogram<u64>, other: &Histogram<u64>) {
    sum.add(other).expect("both have the same bounds");
}

fn add_counts(sum: &mut [u64; KINDS], other: &[u64; KINDS]) {
    sum.iter_mut().zip(other).for_each(|(sum, other)| *sum += other);
}

/// Counts a kind; those beyond the bound as one of their own.
fn count(kinds: &mut Vec<Failures>, more: Failures) {
    const OTHERS: &str = "others";
    let known = kinds.iter().position(|kind| kind.status == more.status);
    let at = known.or_else(|| kinds.iter().position(|kind| kind.status == OTHERS));
    match (known, at) {
        (Some(at), _) => kinds[at].count += more.count,
        (None, _) if kinds.len() < MAX_FAILURES => kinds.push(more),
        (None, Some(at)) => kinds[at].count += more.count,
        (None, None) => kinds.push(Failures { status: OTHERS.to_owned(), ..more }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(millis: u64) -> Due {
        Due { phase: 0, at: Duration::from_millis(millis) }
    }

    fn record() -> Record {
        Record::new(&Arrivals::steady(10.0, Duration::from_secs(1)))
    }

    fn failed(status: &str) -> Reply {
        Reply::Failed { status: status.to_owned(), message: format!("{status} it is") }
    }

    #[test]
    fn refusals_are_counted_apart_from_answers_and_failures() {
        let mut record = record();
        let answer = Answer { bytes: 7, counts: [1; KINDS], partial: true };
        record.replied(due(0), Duration::from_millis(2), Reply::Answered(answer));
        for delay in [None, Some(50), Some(20)] {
            let retry_after = delay.map(Duration::from_millis);
            let refused = Reply::Refused { reason: "OVERLOADED".to_owned(), retry_after };
            record.replied(due(100), Duration::from_millis(101), refused);
        }
        record.replied(due(200), Duration::from_millis(900), failed("UNAVAILABLE"));
        let tally = &record.phases[0];
        assert_eq!((tally.answered(), tally.refused(), tally.failed()), (1, 3, 1));
        assert_eq!(tally.answers, Answers { bytes: 7, counts: [1; KINDS], partial: 1 });
        let (least, most) = (Duration::from_millis(20), Duration::from_millis(50));
        assert_eq!(tally.delays, Delays { told: 2, least, most });
        assert!((tally.percentile_micros(100.0) - 2_000.0).abs() < 5.0, "a failure is no latency of an answer");
        let replies = |window: &Window| (window.answered, window.refused, window.failed);
        let windows: Vec<_> = record.windows.iter().map(replies).collect();
        assert_eq!(windows, [(1, 0, 0), (0, 3, 0), (0, 0, 1)]);
    }

    #[test]
    fn records_of_several_threads_add_up() {
        let (mut one, mut other) = (record(), record());
        for (record, millis) in [(&mut one, 10), (&mut other, 30)] {
            record.sent(due(0), Duration::ZERO);
            record.replied(due(0), Duration::from_millis(millis), Reply::Answered(Answer::default()));
            let retry_after = Some(Duration::from_millis(millis));
            record.replied(due(500), due(501).at, Reply::Refused { reason: "FULL".to_owned(), retry_after });
            record.replied(due(500), due(501).at, failed("INTERNAL"));
        }
        one.add(&other);
        let tally = &one.phases[0];
        assert_eq!((tally.sent, tally.answered(), tally.refused(), tally.failed()), (2, 2, 2, 2));
        assert_eq!(tally.refused_for.len(), 1);
        let (least, most) = (Duration::from_millis(10), Duration::from_millis(30));
        assert_eq!(tally.delays, Delays { told: 2, least, most });
        assert_eq!(one.windows.len(), 6);
    }

    #[test]
    fn kinds_of_failure_are_bounded_and_none_goes_uncounted() {
        let mut record = record();
        for number in 0..100 {
            record.replied(due(0), due(1).at, failed(&format!("STATUS_{}", number % 40)));
        }
        let failures = &record.phases[0].failures;
        assert_eq!(failures.len(), MAX_FAILURES + 1);
        assert_eq!(record.phases[0].failed(), 100);
    }
}
