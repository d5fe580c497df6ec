//! The load that is put on a server. Open loop: requests leave at fixed times whatever the server
//! does, and their latency counts from then, so that a stall shows in every request that it delayed.
//! Closed loop: a fixed number under way, which finds what a server can do and costs.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use tonic::Status;

use super::machine::cpu_micros;
use super::report::figure;
use super::transport::Calls;

/// Requests under way beyond which an open loop waits; their latency counts all the same.
const MAX_UNDER_WAY: usize = 4_096;
/// Below this, waiting is done by looking at the clock: the timers' grain is a millisecond.
const TIMER_GRAIN: Duration = Duration::from_millis(3);
/// How long stragglers are waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// What came of a load.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Nanoseconds, of the requests that were answered.
    pub latency: Histogram<u64>,
    pub errors: u64,
    pub first_error: Option<String>,
    pub seconds: f64,
    pub server_cpu_micros: u64,
    pub client_cpu_micros: u64,
}

/// Latencies and errors while a load is under way.
#[derive(Clone, Debug)]
struct Tally(Arc<Mutex<Counts>>);

#[derive(Debug)]
struct Counts {
    latency: Histogram<u64>,
    under_way: usize,
    errors: u64,
    first_error: Option<String>,
    last: Instant,
}

impl Outcome {
    pub fn answered(&self) -> u64 {
        self.latency.len()
    }

    /// Requests answered a second.
    pub fn rate(&self) -> f64 {
        self.answered() as f64 / self.seconds
    }

    pub fn percentile_micros(&self, percentile: f64) -> f64 {
        self.latency.value_at_percentile(percentile) as f64 / 1_000.0
    }

    pub fn server_cpu_per_request(&self) -> f64 {
        self.server_cpu_micros as f64 / self.answered().max(1) as f64
    }

    pub fn client_cpu_per_request(&self) -> f64 {
        self.client_cpu_micros as f64 / self.answered().max(1) as f64
    }

    /// Rates, latencies in microseconds, errors, and the server's CPU time a request.
    pub fn figures(&self) -> Map<String, Value> {
        let mut figures = Map::new();
        figures.insert("requests/s".to_owned(), json!(self.rate().round() as u64));
        for (name, percentile) in [("p50 µs", 50.0), ("p99 µs", 99.0), ("p99.9 µs", 99.9), ("p99.99 µs", 99.99)] {
            figures.insert(name.to_owned(), figure(self.percentile_micros(percentile)));
        }
        figures.insert("server CPU µs".to_owned(), figure(self.server_cpu_per_request()));
        figures.insert("errors".to_owned(), json!(self.errors));
        figures
    }
}

impl Tally {
    fn new() -> Result<Self> {
        let latency = Histogram::new_with_bounds(100, 120_000_000_000, 3)?;
        let counts = Counts { latency, under_way: 0, errors: 0, first_error: None, last: Instant::now() };
        Ok(Self(Arc::new(Mutex::new(counts))))
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, outcome: Result<(), Status>, since: Instant) {
        let mut counts = self.counts();
        counts.last = Instant::now();
        match outcome {
            Ok(()) => counts.latency.saturating_record(u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)),
            Err(status) => {
                counts.errors += 1;
                counts.first_error.get_or_insert_with(|| status.to_string());
            }
        }
    }
}

/// Sends at a fixed rate, in requests a second, for as long as asked for.
pub async fn open_loop(calls: &Calls, rate: f64, duration: Duration, server: u32) -> Result<Outcome> {
    let tally = Tally::new()?;
    let requests = (rate * duration.as_secs_f64()) as usize;
    measured(&tally, server, async {
        let begun = Instant::now();
        for number in 0..requests {
            let due = begun + Duration::from_secs_f64(number as f64 / rate);
            wait_until(due, &tally).await;
            tally.counts().under_way += 1;
            let (calls, tally) = (calls.clone(), tally.clone());
            tokio::spawn(async move {
                let outcome = calls.call(number).await;
                tally.note(outcome, due);
                tally.counts().under_way -= 1;
            });
        }
        let all_in = async {
            while tally.counts().under_way > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, all_in).await.context("requests are still unanswered")?;
        Ok(begun)
    })
    .await
}

/// Keeps a number of requests under way for as long as asked for.
pub async fn closed_loop(calls: &Calls, under_way: usize, duration: Duration, server: u32) -> Result<Outcome> {
    let tally = Tally::new()?;
    measured(&tally, server, async {
        let begun = Instant::now();
        let workers = (0..under_way).map(|worker| {
            let (calls, tally) = (calls.clone(), tally.clone());
            tokio::spawn(async move {
                let mut number = worker;
                while begun.elapsed() < duration {
                    let sent = Instant::now();
                    let outcome = calls.call(number).await;
                    tally.note(outcome, sent);
                    number += under_way;
                }
            })
        });
        for worker in workers.collect::<Vec<_>>() {
            worker.await?;
        }
        Ok(begun)
    })
    .await
}

/// The highest rate that is kept up: nearly all that is sent is answered in the same time, soon
/// enough, and without errors. It is sought downwards from what a closed loop reaches; `false` where
/// even the lowest rate tried was not kept up, as on a machine that is busy with something else.
pub async fn highest_rate(calls: &Calls, reached: f64, trial: Duration, server: u32) -> Result<(f64, Outcome, bool)> {
    const LATE_MICROS: f64 = 20_000.0;
    const LOWEST: f64 = 0.35;
    let mut share = 0.95;
    loop {
        let rate = reached * share;
        let outcome = open_loop(calls, rate, trial, server).await?;
        let in_time = outcome.rate() >= 0.985 * rate && outcome.percentile_micros(99.0) < LATE_MICROS;
        let kept_up = in_time && outcome.errors == 0;
        if kept_up || share < LOWEST {
            return Ok((rate, outcome, kept_up));
        }
        share -= if share > 0.8 { 0.05 } else { 0.1 };
    }
}

async fn measured(tally: &Tally, server: u32, load: impl Future<Output = Result<Instant>>) -> Result<Outcome> {
    let own = std::process::id();
    let (server_before, client_before) = (cpu_micros(server)?, cpu_micros(own)?);
    let begun = load.await?;
    let (server_after, client_after) = (cpu_micros(server)?, cpu_micros(own)?);
    let counts = tally.counts();
    ensure!(!counts.latency.is_empty(), "nothing was answered: {:?}", counts.first_error);
    Ok(Outcome {
        latency: counts.latency.clone(),
        errors: counts.errors,
        first_error: counts.first_error.clone(),
        seconds: (counts.last - begun).as_secs_f64(),
        server_cpu_micros: server_after - server_before,
        client_cpu_micros: client_after - client_before,
    })
}

async fn wait_until(due: Instant, tally: &Tally) {
    loop {
        let left = due.saturating_duration_since(Instant::now());
        if left > TIMER_GRAIN {
            tokio::time::sleep(left - TIMER_GRAIN).await;
        } else if !left.is_zero() || tally.counts().under_way >= MAX_UNDER_WAY {
            tokio::task::yield_now().await;
        } else {
            return;
        }
    }
}
