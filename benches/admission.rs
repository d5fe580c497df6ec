//! Admission by itself: what asking it costs a read, and what a tenant feels of a greedy neighbour. All
//! callers of a server are one tenant until they have credentials, so the two tenants ask the queue of
//! a server in this process: real threads, the real clock, and reads of `ads` size from a RocksDB. What
//! a whole server does beyond what it can is measured by the online benchmark.
//!
//!     cargo bench --bench admission -- --keys 50000 --seconds 5

mod support;

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use hdrhistogram::Histogram;
use hydrant::clock::SystemTicker;
use hydrant::tenancy::admission::{Arrival, Asked, Class, Queue, Start, TenantIndex, Verdicts};
use hydrant::tenancy::{Action, AdmissionSettings, Demand, Identity, Limits, Quota, Tenancy};
use serde_json::json;
use support::machine;
use support::promise::{self, Bound};
use support::random::{Choice, Random};
use support::report::{Report, figure};
use support::rocksdb_rows::{Blocks, RocksRows};
use support::views::{ADS, RequestKeys};

/// Of requests that may begin and have not: as many as there are places.
const PLACES: usize = 1;
/// Each tenant's is a half of what can be done.
const SHARE: f64 = 0.5;
/// What the second tenant sends: half of its share, as does its neighbour where it keeps to it.
const WITHIN: f64 = SHARE / 2.0;
const GREEDY: f64 = SHARE * 10.0;
const NEIGHBOUR: TenantIndex = 0;
const OBSERVED: TenantIndex = 1;

#[derive(Debug, Parser)]
struct Options {
    /// Entity keys of each view.
    #[arg(long, default_value_t = 50_000)]
    keys: u64,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// How often the two tenants are measured; the median is told.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let settings = json!({ "keys of each view": options.keys, "seconds of each measurement": options.seconds,
        "runs of two tenants": options.runs });
    let mut report = Report::begin("admission", json!({ "hydrant": env!("CARGO_PKG_VERSION") }), settings);
    asking(&mut report)?;
    two_tenants(&options, &mut report)?;
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
            let nanos = micros as f64 * 1_000.0 / (TIMES * threads) as f64;
            let row = json!({ "tenant": name, "threads": threads, "CPU ns": figure(nanos), "promised": "under 1000" });
            report.row("admission: in and out, keys charged, CPU a request", row)?;
            let of = format!("{name}, {threads} threads");
            promise::tell(report, &of, "CPU ns to be let in, charged and out", nanos, Bound::Under(1_000.0))?;
        }
    }
    Ok(())
}

fn ask(tenancy: &Tenancy, times: usize) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let useful_until = Some(Instant::now() + Duration::from_secs(3_600));
        for _ in 0..times {
            let demand = Demand { cost: 306, bytes: 2_000, useful_until };
            let permit = tenancy.admit(&Identity::loopback(), Action::ReadOnline, demand).await?;
            // Counting them is part of reading the request.
            permit.charge_keys(|| 100)?;
            permit.run(std::future::ready(())).await;
        }
        Ok(())
    })
}

fn two_tenants(options: &Options, report: &mut Report) -> Result<()> {
    let rows = RocksRows::open(Blocks::Common)?;
    rows.load(&ADS.views.iter().map(|view| (*view, options.keys)).collect::<Vec<_>>())?;
    let drawn = ADS.draw(10_000, Choice::Uniform, options.keys);
    let duration = Duration::from_secs_f64(options.seconds);
    let capacity = capacity(&rows, &drawn, duration)?;
    let mut p99s = [Vec::new(), Vec::new()];
    for run in 0..options.runs.max(1) {
        for (neighbour, p99s) in [WITHIN, GREEDY].into_iter().zip(&mut p99s) {
            let scene = Scene::new(&rows, &drawn);
            let observed = scene.run([neighbour * capacity, WITHIN * capacity], duration, run as u64)?;
            p99s.push(observed.micros(99.0));
            let row = json!({ "of its share, the neighbour sends": neighbour / SHARE,
                "requests/s of both, as can be done": capacity.round(), "answered": observed.latency.len(),
                "refused": observed.refused, "p50 µs": figure(observed.micros(50.0)),
                "p99 µs": figure(observed.micros(99.0)), "p99.9 µs": figure(observed.micros(99.9)) });
            report.row("admission: a tenant at half of its share beside a neighbour, at the queue", row)?;
            // A machine that is busy with something else may cost it one or another.
            let refused = observed.refused as f64 / (observed.latency.len() as f64).max(1.0);
            ensure!(refused < 0.01, "a tenant within its share was refused: {} requests", observed.refused);
        }
    }
    let [modest, greedy] = p99s.map(median);
    let what = "p99 beside a neighbour at 10 times its share / beside one within it";
    promise::tell(report, "two tenants at the queue, in process", what, greedy / modest, Bound::AtMost(1.5))
}

/// Reads a second, one after the other.
fn capacity(rows: &RocksRows, drawn: &[RequestKeys], duration: Duration) -> Result<f64> {
    // A first pass fills the cache.
    drawn.iter().try_for_each(|keys| rows.read(&ADS, keys))?;
    let begun = Instant::now();
    let mut reads = 0;
    while begun.elapsed() < duration {
        rows.read(&ADS, &drawn[reads % drawn.len()])?;
        reads += 1;
    }
    Ok(reads as f64 / begun.elapsed().as_secs_f64())
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// A request of a tenant, due at an instant.
#[derive(Clone, Copy, Debug)]
struct Request {
    tenant: TenantIndex,
    due: Instant,
}

/// What came of the requests of the tenant that is observed. Latencies count from when each was due.
struct Observed {
    latency: Histogram<u64>,
    refused: u64,
}

impl Observed {
    fn micros(&self, percentile: f64) -> f64 {
        self.latency.value_at_percentile(percentile) as f64 / 1_000.0
    }
}

/// A queue, the thread that works on what it lets begin, and what is sent to it.
struct Scene<'a> {
    rows: &'a RocksRows,
    drawn: &'a [RequestKeys],
    queue: Mutex<Queue<Request>>,
    observed: Mutex<Observed>,
}

impl<'a> Scene<'a> {
    fn new(rows: &'a RocksRows, drawn: &'a [RequestKeys]) -> Self {
        let settings = AdmissionSettings { online_places: PLACES, ..AdmissionSettings::default() };
        let mut queue = Queue::new(&settings.rules());
        assert_eq!([queue.add_tenant(1), queue.add_tenant(1)], [NEIGHBOUR, OBSERVED]);
        let latency = Histogram::new_with_bounds(100, 120_000_000_000, 3).expect("the bounds are in order");
        let observed = Mutex::new(Observed { latency, refused: 0 });
        Self { rows, drawn, queue: Mutex::new(queue), observed }
    }

    /// Sends at these rates, by tenant, for so long, and waits until all are answered or refused.
    fn run(self, rates: [f64; 2], duration: Duration, seed: u64) -> Result<Observed> {
        let (begin, begun) = sync_channel(PLACES);
        std::thread::scope(|scope| {
            let scene = &self;
            let worker = scope.spawn(move || scene.work(&begun));
            self.send(rates, duration, seed, &begin);
            drop(begin);
            worker.join().expect("a thread of this program")
        })?;
        self.observed.into_inner().context("no thread panics")
    }

    /// Arrivals of each tenant are independent of one another.
    fn send(&self, rates: [f64; 2], duration: Duration, seed: u64, begin: &SyncSender<Request>) {
        let mut random = Random::new(seed);
        let mut gap = |rate: f64| Duration::from_secs_f64(-(1.0 - random.fraction()).ln() / rate);
        let start = Instant::now();
        let mut next = rates.map(|rate| start + gap(rate));
        loop {
            let tenant = if next[NEIGHBOUR] <= next[OBSERVED] { NEIGHBOUR } else { OBSERVED };
            let due = next[tenant];
            if due >= start + duration {
                return;
            }
            while Instant::now() < due {
                std::hint::spin_loop();
            }
            next[tenant] += gap(rates[tenant]);
            let (request, asked) = (Request { tenant, due }, Asked { cost: 1, bytes: 1, useful_until: None });
            let mut verdicts = Verdicts::default();
            let now = Instant::now();
            let arrival = self.queue().arrive(now, Class::Online, tenant, asked, || request, &mut verdicts);
            self.take_up(&verdicts);
            match arrival {
                Arrival::Begins(start) => verdicts.begin.push((request, start)),
                Arrival::Refused(refused) => verdicts.refused.push((request, refused)),
                Arrival::Waits(_) => {}
            }
            // There is room: no more are under way than there are places.
            self.tell(verdicts).into_iter().for_each(|request| begin.send(request).expect("the worker waits"));
        }
    }

    /// Works on what may begin, until nothing is sent any more and nobody waits.
    fn work(&self, begun: &Receiver<Request>) -> Result<()> {
        let mut number = 0;
        while let Ok(request) = begun.recv() {
            let mut next = Some(request);
            while let Some(request) = next {
                let work_begun = Instant::now();
                self.rows.read(&ADS, &self.drawn[number % self.drawn.len()])?;
                number += 1;
                let now = Instant::now();
                if request.tenant == OBSERVED {
                    let nanos = u64::try_from(now.duration_since(request.due).as_nanos()).unwrap_or(u64::MAX);
                    self.observed().latency.saturating_record(nanos);
                }
                let mut verdicts = Verdicts::default();
                self.queue().leave(|| now, Class::Online, request.tenant, true, Some(work_begun), &mut verdicts);
                self.take_up(&verdicts);
                next = self.tell(verdicts).pop();
            }
        }
        Ok(())
    }

    /// Nobody has to be woken here: who is told to begin does.
    fn take_up(&self, verdicts: &Verdicts<Request>) {
        for (_, start) in &verdicts.begin {
            self.queue().take_up(start.class, start.tenant);
        }
    }

    /// Notes who was refused, and gives who begins: as many as there are places.
    fn tell(&self, verdicts: Verdicts<Request>) -> Vec<Request> {
        let Verdicts { begin, refused } = verdicts;
        let refused = refused.iter().filter(|(request, _)| request.tenant == OBSERVED).count();
        self.observed().refused += refused as u64;
        let mut begins = Vec::with_capacity(PLACES);
        for (request, Start { pulse, .. }) in begin {
            begins.push(request);
            if pulse {
                // Nothing waits anywhere but in the queue.
                let mut let_in = Verdicts::default();
                self.queue().end_pulse(Instant::now(), &mut let_in);
                self.take_up(&let_in);
                begins.extend(self.tell(let_in));
            }
        }
        begins
    }

    fn queue(&self) -> MutexGuard<'_, Queue<Request>> {
        self.queue.lock().expect("no thread panics")
    }

    fn observed(&self) -> MutexGuard<'_, Observed> {
        self.observed.lock().expect("no thread panics")
    }
}
