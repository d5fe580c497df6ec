//! Loads as the benchmarks put them on: what is sent, by the clock of this machine, with the CPU time
//! that server and client took meanwhile. How a load is made is `hydrant::bench`'s affair.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use hydrant::bench::arrivals::Arrivals;
use hydrant::bench::load::{self, Share, Target};
use hydrant::bench::search::{IN_TIME, RateSearch};
use hydrant::bench::tally::Record;
use hydrant::bench::timer::{Monotonic, Timer as _};
use serde_json::{Map, Value, json};

use super::machine::cpu_micros;
use super::report::figure;

/// The 99th percentile beyond which a rate is not kept up.
const LATE_MICROS: f64 = 20_000.0;

/// What came of a load.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Nanoseconds, of the requests that were answered.
    pub latency: Histogram<u64>,
    pub errors: u64,
    pub first_error: Option<String>,
    pub seconds: f64,
    pub server_cpu_micros: u64,
    /// Without the time spent looking at the clock.
    pub client_cpu_micros: u64,
}

/// The highest rate that was kept up, and how it was found.
#[derive(Clone, Debug)]
pub struct Sought {
    /// Requests a second, sent.
    pub rate: f64,
    pub outcome: Outcome,
    /// `false` where not even the lowest rate tried was kept up, as on a machine that is busy with
    /// something else.
    pub kept_up: bool,
    /// Rates tried, those among them included that were tried again because they had failed.
    pub trials: u32,
    pub repeated: u32,
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

    /// Of all requests, those counted that were refused or failed: as if their answers never came.
    pub fn percentile_of_all_micros(&self, percentile: f64) -> f64 {
        let rank = (self.answered() + self.errors) as f64 * percentile / 100.0;
        let of_answered = rank / self.answered().max(1) as f64 * 100.0;
        if of_answered > 100.0 { f64::INFINITY } else { self.percentile_micros(of_answered) }
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

/// Sends at a fixed rate, in requests a second, for as long as asked for.
pub async fn open_loop<T: Target>(target: &T, rate: f64, duration: Duration, server: u32) -> Result<Outcome> {
    let arrivals = Arrivals::steady(rate, duration);
    let timer = Monotonic::begin();
    measured(&timer, server, load::open_loop(target, &arrivals, Share::WHOLE, &timer, &Arc::default())).await
}

/// Keeps a number of requests under way for as long as asked for.
pub async fn closed_loop<T: Target>(target: &T, under_way: usize, duration: Duration, server: u32) -> Result<Outcome> {
    let timer = Monotonic::begin();
    let live = Arc::default();
    let load = load::closed_loop(target, under_way, duration, Share::WHOLE, &timer, &live);
    measured(&timer, server, load).await
}

/// The highest rate that is kept up, sought from what a closed loop reaches.
pub async fn seek_highest_rate<T: Target>(target: &T, reached: f64, trial: Duration, server: u32) -> Result<Sought> {
    let mut search = RateSearch::from(reached);
    let (mut last, mut best) = (None, None::<(f64, Outcome)>);
    while let Some(rate) = search.next() {
        let outcome = open_loop(target, rate, trial, server).await?;
        let in_time = outcome.rate() >= IN_TIME * rate && outcome.percentile_micros(99.0) <= LATE_MICROS;
        let kept_up = in_time && outcome.errors == 0;
        search.tell(kept_up);
        if kept_up && best.as_ref().is_none_or(|(best, _)| rate > *best) {
            best = Some((rate, outcome));
        } else {
            last = Some((rate, outcome));
        }
    }
    let kept_up = best.is_some();
    let (rate, outcome) = best.or(last).context("no rate was tried")?;
    Ok(Sought { rate, outcome, kept_up, trials: search.trials(), repeated: search.repeated() })
}

/// What came of a load, and the CPU time in microseconds that the server and this process took meanwhile, of the latter
/// without the time spent looking at the clock.
pub async fn with_cpu(
    timer: &Monotonic,
    server: u32,
    load: impl Future<Output = Record>,
) -> Result<(Record, [u64; 2])> {
    let own = std::process::id();
    let (server_before, client_before) = (cpu_micros(server)?, cpu_micros(own)?);
    let record = load.await;
    let (server_after, client_after) = (cpu_micros(server)?, cpu_micros(own)?);
    let waited = timer.spent_waiting().as_micros() as u64;
    Ok((record, [server_after - server_before, (client_after - client_before).saturating_sub(waited)]))
}

/// What CPU time is of one core, in percent.
pub fn core_percent(cpu_micros: u64, seconds: f64) -> Value {
    figure(cpu_micros as f64 / seconds / 1e4)
}

async fn measured(timer: &Monotonic, server: u32, load: impl Future<Output = Record>) -> Result<Outcome> {
    let (record, [server_cpu_micros, client_cpu_micros]) = with_cpu(timer, server, load).await?;
    let [tally] = record.phases.as_slice() else { anyhow::bail!("a load of one rate has one phase") };
    ensure!(tally.answered() > 0, "nothing was answered: {:?}", tally.failures);
    ensure!(tally.unanswered == 0, "{} requests are still unanswered", tally.unanswered);
    let first = tally.failures.iter().chain(&tally.refused_for).next();
    Ok(Outcome {
        latency: tally.latency.clone(),
        errors: tally.failed() + tally.refused(),
        first_error: first.map(|first| format!("{}: {}", first.status, first.message)),
        seconds: tally.lasted.as_secs_f64(),
        server_cpu_micros,
        client_cpu_micros,
    })
}
