//! Admission: what asking it costs a read, and what becomes of `ads` reads when half as many again
//! come in as can be served. The server is a process of its own, on one core, with the load on the
//! other.
//!
//!     cargo bench --bench overload -- --keys 100000 --seconds 5

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use hdrhistogram::Histogram;
use hydrant::clock::SystemTicker;
use hydrant::tenancy::{Action, AdmissionSettings, Demand, Identity, Limits, Quota, Tenancy};
use serde_json::{Map, Value, json};
use support::load::{closed_loop, highest_rate};
use support::machine;
use support::process::{Hydrant, definitions};
use support::random::Choice;
use support::report::{Report, figure};
use support::transport::Calls;
use support::views::ADS;
use tonic::Status;
use tonic_types::StatusExt as _;

const SERVER_CORE: &str = "1";
const CLIENT_CORE: &str = "0";
const CONNECTIONS: usize = 4;
const UNDER_WAY: usize = 16;
const SETTLE: Duration = Duration::from_secs(45);
/// Requests under way beyond which the load waits.
const MAX_UNDER_WAY: usize = 4_096;

#[derive(Debug, Parser)]
struct Options {
    /// Entity keys of each view.
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Of the sustainable rate.
    #[arg(long, value_delimiter = ',', default_value = "0.5,1.0,1.5,3.0")]
    shares: Vec<f64>,
    /// Only what asking costs.
    #[arg(long)]
    cost_only: bool,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What came of an overload. Latencies count from the intended start.
struct Overload {
    answered: Histogram<u64>,
    refused: Histogram<u64>,
    without_delay: u64,
    other: Option<String>,
    seconds: f64,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let settings = json!({
        "keys of each view": options.keys, "seconds of each measurement": options.seconds,
        "server core": SERVER_CORE, "client core": CLIENT_CORE, "connections": CONNECTIONS,
    });
    let mut report = Report::begin("overload", json!({ "hydrant": env!("CARGO_PKG_VERSION") }), settings);
    asking(&mut report)?;
    if !options.cost_only {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(&options, &mut report))?;
    }
    report.finish();
    Ok(())
}

/// What it costs to be let in and to leave again, where nobody waits.
fn asking(report: &mut Report) -> Result<()> {
    const TIMES: usize = 1_000_000;
    let mut limited = Limits::default();
    for quota in Quota::ALL {
        limited = limited.with(quota, 1 << 40);
    }
    for (name, limits) in [("without quotas", Limits::default()), ("every quota set", limited)] {
        for threads in [1, 2] {
            let settings = AdmissionSettings { online_places: 64, ..AdmissionSettings::default() };
            let tenancy = Tenancy::with(limits.clone(), &settings, Arc::new(SystemTicker));
            let before = machine::cpu_micros(std::process::id())?;
            std::thread::scope(|scope| {
                let threads: Vec<_> = (0..threads).map(|_| scope.spawn(|| ask(&tenancy, TIMES))).collect();
                threads.into_iter().try_for_each(|thread| thread.join().expect("a thread of this program"))
            })?;
            let micros = machine::cpu_micros(std::process::id())? - before;
            let nanos = figure(micros as f64 * 1_000.0 / (TIMES * threads) as f64);
            let row = json!({ "tenant": name, "threads": threads, "CPU ns": nanos, "promised": "under 1000" });
            report.row("admission: in and out, CPU a request", row)?;
        }
    }
    Ok(())
}

fn ask(tenancy: &Tenancy, times: usize) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let useful_until = Some(Instant::now() + Duration::from_secs(3_600));
        for _ in 0..times {
            let demand = Demand { keys: 102, cost: 306, bytes: 2_000, useful_until };
            let permit = tenancy.admit(&Identity::loopback(), Action::ReadOnline, demand).await?;
            permit.run(std::future::ready(())).await;
        }
        Ok(())
    })
}

async fn run(options: &Options, report: &mut Report) -> Result<()> {
    let hydrant = Hydrant::start(&[("STORAGE__BLOCK_CACHE", "1GiB"), ("LANDING__TAIL", "1GiB")]).await?;
    let client = hydrant.client().await?;
    client.apply(&definitions(&ADS.definitions())?, None).await?;
    futures::future::try_join_all(ADS.views.iter().map(|view| view.load(&client, options.keys))).await?;
    hydrant.wait_until_quiet(SETTLE).await?;
    machine::pin(hydrant.id(), SERVER_CORE)?;
    machine::pin(std::process::id(), CLIENT_CORE)?;

    let drawn = ADS.draw(10_000, Choice::Uniform, options.keys);
    let requests = drawn.iter().map(|keys| ADS.encode(keys)).collect::<Result<Vec<_>>>()?;
    let calls = Calls::connect(hydrant.address(), CONNECTIONS, Arc::new(requests)).await?;
    let duration = Duration::from_secs_f64(options.seconds);
    closed_loop(&calls, UNDER_WAY, duration, hydrant.id()).await?;
    let closed = closed_loop(&calls, UNDER_WAY, duration, hydrant.id()).await?;
    let (rate, at_rate, kept_up) = highest_rate(&calls, closed.rate(), duration, hydrant.id()).await?;
    let best = closed.rate().max(at_rate.rate());
    let figures = json!({ "closed loop/s": closed.rate().round(), "sustainable/s": rate.round(),
        "kept up": kept_up, "p99 µs": figure(at_rate.percentile_micros(99.0)),
        "server CPU µs": figure(closed.server_cpu_per_request()) });
    report.row("ads: what can be served", figures)?;
    for share in &options.shares {
        let outcome = overload(&calls, rate * share, duration).await?;
        report.row("ads: overload, latency from the intended start", outcome.row(*share, rate, best))?;
    }
    Ok(())
}

async fn overload(calls: &Calls, rate: f64, duration: Duration) -> Result<Overload> {
    let histogram = || Histogram::new_with_bounds(100, 120_000_000_000, 3);
    let tally = Overload { answered: histogram()?, refused: histogram()?, without_delay: 0, other: None, seconds: 0.0 };
    let (tally, under_way) = (Arc::new(Mutex::new(tally)), Arc::new(AtomicUsize::new(0)));
    let begun = Instant::now();
    for number in 0..(rate * duration.as_secs_f64()) as usize {
        let due = begun + Duration::from_secs_f64(number as f64 / rate);
        while Instant::now() < due || under_way.load(Ordering::Relaxed) >= MAX_UNDER_WAY {
            tokio::task::yield_now().await;
        }
        under_way.fetch_add(1, Ordering::Relaxed);
        let (calls, tally, under_way) = (calls.clone(), tally.clone(), under_way.clone());
        tokio::spawn(async move {
            let outcome = calls.call(number).await;
            tally.lock().expect("no task panics").note(outcome, due, begun);
            under_way.fetch_sub(1, Ordering::Relaxed);
        });
    }
    while under_way.load(Ordering::Relaxed) > 0 {
        ensure!(begun.elapsed() < duration + SETTLE, "requests are still unanswered");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let tally = Arc::into_inner(tally).context("a task holds on to the tally")?;
    Ok(tally.into_inner().expect("no task panics"))
}

impl Overload {
    fn note(&mut self, outcome: Result<(), Status>, due: Instant, begun: Instant) {
        let nanos = u64::try_from(due.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.seconds = begun.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => self.answered.saturating_record(nanos),
            Err(status) if status.code() == tonic::Code::ResourceExhausted => {
                self.refused.saturating_record(nanos);
                self.without_delay += u64::from(status.get_details_retry_info().is_none());
            }
            Err(status) => self.other = Some(status.to_string()),
        }
    }

    fn row(&self, share: f64, sustainable: f64, best: f64) -> Value {
        let micros = |histogram: &Histogram<u64>, percentile: f64| {
            figure(histogram.value_at_percentile(percentile) as f64 / 1_000.0)
        };
        let rate = self.answered.len() as f64 / self.seconds;
        let mut row = Map::new();
        row.insert("share".to_owned(), json!(share));
        row.insert("sent/s".to_owned(), json!((share * sustainable).round()));
        row.insert("answered/s".to_owned(), json!(rate.round()));
        row.insert("of the best".to_owned(), figure(rate / best));
        for (name, histogram) in [("answered", &self.answered), ("refused", &self.refused)] {
            for percentile in [50.0, 99.0, 99.9] {
                row.insert(format!("{name} p{percentile} µs"), micros(histogram, percentile));
            }
        }
        row.insert("refused".to_owned(), json!(self.refused.len()));
        row.insert("without a delay".to_owned(), json!(self.without_delay));
        row.insert("other errors".to_owned(), json!(self.other));
        Value::Object(row)
    }
}
