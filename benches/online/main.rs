//! Online reads through a real server process over loopback, beside a bare tonic server that answers
//! the same bytes from memory, Redis (HMGET pipelined, and MGET of packed rows), RocksDB's own
//! multi-get in this process, and Feast's feature server: all on the same keys in the same run. The
//! server is kept on one core and the load on the other. Each part has a module of its own.
//!
//!     cargo bench --bench online -- --keys 1000000 --seconds 3 --parts cpu,latency

mod backfill;
mod bursts;
mod costs;
mod disk;
mod estimate;
mod feast;
mod growth;
mod latency;
mod overload;
mod rows;
mod services;
mod stalls;
#[path = "../support/mod.rs"]
mod support;
mod systems;
mod tenants;
mod writes;

use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use clap::{Parser, ValueEnum};
use serde_json::{Value, json};
use support::load::{Outcome, Sought, closed_loop, seek_highest_rate};
use support::machine;
use support::promise::{self, Bound};
use support::random::Choice;
use support::redis_server;
use support::report::{Report, figure};
use support::streams::Streams;
use support::transport::{Calls, serve_recorded};
use support::views::{ADS, ADS500, POINT, RequestKeys, WIDE, Workload};
use systems::{NO_ROW_CACHE, PATIENT, ROW_CACHE, Setting, Systems};

const SERVER_CORE: &str = "1";
const CLIENT_CORE: &str = "0";
const BOTH_CORES: &str = "0-1";
const CONNECTIONS: usize = 4;
/// Requests under way in the closed loop.
const UNDER_WAY: usize = 16;
/// Load before the first figure of a server and workload.
const WARM_UP: Duration = Duration::from_secs(5);
/// A part that takes longer has gone wrong, and must not cost those after it.
const PART_LIMIT: Duration = Duration::from_secs(20 * 60);
const NOT_KEPT_UP: &str = "no rate was kept up, as on a machine that is busy with something else";
/// Letters of the reason why a part failed that are told on the page.
const MAX_REASON: usize = 400;

#[derive(Clone, Debug, Parser)]
struct Options {
    /// Entity keys of each view.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Entity keys of each of the ten views of `wide`.
    #[arg(long, default_value_t = 100_000)]
    wide_keys: u64,
    /// Entity keys that Feast is measured on: it takes a minute to write 10,000 of them.
    #[arg(long, default_value_t = 10_000)]
    feast_keys: u64,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    #[arg(long, value_delimiter = ',', default_value = "point,wide,ads,ads500")]
    workloads: Vec<String>,
    /// How keys are chosen: `uniform` and `zipf` (0.99).
    #[arg(long, value_delimiter = ',', default_value = "uniform,zipf")]
    choices: Vec<Choice>,
    /// What is measured, in this order.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "cpu,services,bursts,latency,overload,writes,backfill,disk,tenants,growth,feast"
    )]
    parts: Vec<Part>,
    /// Entity keys of each view where growth begins; it ends at 16 times as many.
    #[arg(long, default_value_t = 62_500)]
    grow_keys: u64,
    /// Be the bare server, answering what this file holds.
    #[arg(long, hide = true)]
    bare_server: Option<PathBuf>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// CPU a request, with and without the row cache, beside all rivals.
    Cpu,
    /// Ten services in one request.
    Services,
    /// Hot keys, and a sudden step in rate.
    Bursts,
    /// Highest rates, and latencies at shares of them.
    Latency,
    /// One and a half times what can be served.
    Overload,
    /// Reads while rows are written, and backups made.
    Writes,
    /// Reads while history is loaded.
    Backfill,
    /// Data ten times the block cache, past the page cache.
    Disk,
    /// A greedy neighbour, by API keys.
    Tenants,
    /// How CPU grows with the keys, and with a second core.
    Growth,
    /// Feast's feature server.
    Feast,
}

/// The highest rate that a server keeps up.
#[derive(Clone, Copy, Debug)]
struct Highest {
    /// Requests a second, sent.
    rate: f64,
    /// The most that were answered a second, in a closed loop or an open one.
    best: f64,
    /// `false` where none was, and this is the lowest that was tried.
    kept_up: bool,
}

/// What was asked for, what it is measured on, and the figures that later parts need.
struct Run {
    options: Options,
    workloads: Vec<Workload>,
    report: Report,
    systems: Systems,
    /// Of Hydrant with the row cache and uniform keys, by workload.
    highest: HashMap<&'static str, Highest>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(answers) = &options.bare_server {
        return tokio::runtime::Runtime::new()?.block_on(serve_recorded(answers));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(options))
}

async fn run(options: Options) -> Result<()> {
    let workloads = options.workloads.iter().map(|name| {
        let known = [POINT, WIDE, ADS, ADS500].into_iter().find(|workload| workload.name == name);
        known.ok_or_else(|| anyhow::anyhow!("there is no workload '{name}'"))
    });
    let workloads = workloads.collect::<Result<Vec<_>>>()?;
    let mut report = Report::begin("online", versions(), settings(&options));
    eprintln!("{}", estimate::told(&options));
    let (of_own, of_shared): (Vec<Part>, Vec<Part>) =
        options.parts.iter().partition(|part| part.has_servers_of_its_own());
    let mut failed = 0;
    if !of_shared.is_empty() {
        report.part("loading");
        let rivals = of_shared.contains(&Part::Cpu);
        match Systems::load(&workloads, &options, rivals, &mut report).await {
            Ok(systems) => {
                let mut run = Run { options: options.clone(), workloads, report, systems, highest: HashMap::new() };
                failed += run.parts(&of_shared).await?;
                report = run.report;
            }
            Err(error) => {
                failed += of_shared.len();
                let error = error.context("loading");
                for part in of_shared {
                    begin(&mut report, part);
                    tell_failure(&mut report, part, &error)?;
                }
            }
        }
    }
    for part in of_own {
        begin(&mut report, part);
        let measured = async {
            match part {
                Part::Tenants => tenants::measure(&options, &mut report).await,
                Part::Growth => growth::measure(&options, &mut report).await,
                _ => feast::measure(&options, &mut report).await,
            }
        };
        let outcome = within_limit(measured).await;
        failed += usize::from(!told(&mut report, part, outcome)?);
    }
    report.finish();
    ensure!(failed == 0, "{failed} parts failed: see the table of what was not measured");
    Ok(())
}

impl Run {
    /// One part after the other; what fails doesn't keep the others from being measured. Gives how
    /// many failed.
    async fn parts(&mut self, parts: &[Part]) -> Result<usize> {
        machine::pin(std::process::id(), CLIENT_CORE)?;
        let mut failed = 0;
        for part in parts.iter().copied() {
            begin(&mut self.report, part);
            let measured = async {
                match part {
                    Part::Cpu => costs::measure(self).await,
                    Part::Latency => latency::measure(self).await,
                    Part::Overload => overload::measure(self).await,
                    Part::Bursts => bursts::measure(self).await,
                    Part::Services => services::measure(self).await,
                    Part::Writes => writes::measure(self).await,
                    Part::Backfill => backfill::measure(self).await,
                    Part::Disk => disk::measure(self).await,
                    Part::Tenants | Part::Growth | Part::Feast => bail!("it has servers of its own"),
                }
            };
            let outcome = within_limit(measured).await;
            failed += usize::from(!told(&mut self.report, part, outcome)?);
        }
        Ok(failed)
    }

    fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.options.seconds)
    }

    /// The server as it is by default, but with caches that hold everything.
    async fn by_default(&mut self) -> Result<()> {
        self.systems.configure(&[ROW_CACHE], &mut self.report).await
    }

    /// The same for closed loops, which keep more requests waiting than are let in by default: none
    /// is refused.
    async fn for_closed_loops(&mut self, row_cache: Setting) -> Result<()> {
        self.systems.configure(&[row_cache, PATIENT], &mut self.report).await
    }

    /// Requests of a workload over keys that exist.
    fn draw(&self, workload: &Workload, choice: Choice) -> Vec<RequestKeys> {
        workload.draw(requests_of(workload), choice, self.options.keys_of(workload))
    }

    /// Connections to Hydrant with these requests, its caches filled and all warmed up.
    async fn warm(&mut self, workload: &Workload, drawn: &[RequestKeys]) -> Result<Calls> {
        self.warm_with(workload, encoded(workload, drawn)?).await
    }

    async fn warm_with(&mut self, workload: &Workload, requests: Arc<Vec<Bytes>>) -> Result<Calls> {
        let calls = Calls::connect(self.systems.hydrant.address(), CONNECTIONS, requests).await?;
        if self.systems.fill(workload, self.options.keys_of(workload)).await? {
            closed_loop(&calls, UNDER_WAY, WARM_UP, self.systems.hydrant.id()).await?;
        }
        Ok(calls)
    }

    /// The same with connections for loads of a fixed rate, which are HTTP/2 and no more: a client that is busy itself
    /// would be in every latency.
    async fn warm_load(&mut self, workload: &Workload, drawn: &[RequestKeys]) -> Result<Streams> {
        let requests = encoded(workload, drawn)?;
        self.warm_with(workload, requests.clone()).await?;
        Streams::connect(self.systems.hydrant.address(), CONNECTIONS, &requests, None).await
    }

    /// A closed loop in which nothing fails or is refused.
    async fn closed(&self, calls: &Calls, duration: Duration) -> Result<Outcome> {
        let outcome = closed_loop(calls, UNDER_WAY, duration, self.systems.hydrant.id()).await?;
        ensure!(outcome.errors == 0, "{} requests failed: {:?}", outcome.errors, outcome.first_error);
        Ok(outcome)
    }

    /// The highest rate of Hydrant as it runs, with uniform keys; sought once a workload, and again
    /// where none was kept up.
    async fn highest(&mut self, workload: &Workload) -> Result<Highest> {
        if let Some(known) = self.highest.get(workload.name).filter(|known| known.kept_up) {
            return Ok(*known);
        }
        let drawn = self.draw(workload, Choice::Uniform);
        let load = self.warm_load(workload, &drawn).await?;
        let closed = closed_loop(&load, UNDER_WAY, self.duration(), self.systems.hydrant.id()).await?;
        let trial = self.duration().div_f64(2.0);
        let sought = seek_highest_rate(&load, closed.rate(), trial, self.systems.hydrant.id()).await?;
        let highest = Highest::of(&sought, &closed);
        self.highest.insert(workload.name, highest);
        Ok(highest)
    }

    /// The same, where there is one: without it, shares of it mean nothing.
    async fn kept_up(&mut self, workload: &Workload) -> Result<Highest> {
        let highest = self.highest(workload).await?;
        ensure!(highest.kept_up, NOT_KEPT_UP);
        Ok(highest)
    }

    /// A promise at a share of the highest rate.
    fn promise_at_rate(&mut self, kept_up: bool, of: &str, what: &str, measured: f64, bound: Bound) -> Result<()> {
        if kept_up {
            return self.promise(of, what, measured, bound);
        }
        promise::tell_unmeasured(&mut self.report, of, what, bound, NOT_KEPT_UP)
    }

    fn promise(&mut self, of: &str, what: &str, measured: f64, bound: Bound) -> Result<()> {
        promise::tell(&mut self.report, of, what, measured, bound)
    }
}

impl Highest {
    fn of(sought: &Sought, closed: &Outcome) -> Self {
        Self { rate: sought.rate, best: closed.rate().max(sought.outcome.rate()), kept_up: sought.kept_up }
    }
}

impl Part {
    /// As it is written in `--parts`.
    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// It neither needs what the others are measured on, nor may run beside it.
    fn has_servers_of_its_own(self) -> bool {
        matches!(self, Self::Tenants | Self::Growth | Self::Feast)
    }
}

impl Options {
    fn keys_of(&self, workload: &Workload) -> u64 {
        if workload.name == WIDE.name { self.wide_keys } else { self.keys }
    }
}

/// So many that no cache of a processor holds what they ask for.
fn requests_of(workload: &Workload) -> usize {
    200_000 / workload.candidates.clamp(1, 20)
}

fn encoded(workload: &Workload, drawn: &[RequestKeys]) -> Result<Arc<Vec<Bytes>>> {
    Ok(Arc::new(drawn.iter().map(|keys| workload.encode(keys)).collect::<Result<Vec<_>>>()?))
}

fn begin(report: &mut Report, part: Part) {
    eprintln!("part: {}", part.name());
    report.part(&part.name());
}

/// What came of a part, and how long it took.
async fn within_limit(measured: impl Future<Output = Result<()>>) -> (Result<()>, Duration) {
    let begun = Instant::now();
    let outcome = tokio::time::timeout(PART_LIMIT, measured).await;
    let outcome = outcome.unwrap_or_else(|_| bail!("it was not done after {} minutes", PART_LIMIT.as_secs() / 60));
    (outcome, begun.elapsed())
}

/// `false` where a part failed; the report says why.
fn told(report: &mut Report, part: Part, (outcome, took): (Result<()>, Duration)) -> Result<bool> {
    report.row("how long it took", json!({ "what": part.name(), "seconds": figure(took.as_secs_f64()) }))?;
    let Err(error) = outcome else { return Ok(true) };
    tell_failure(report, part, &error)?;
    Ok(false)
}

fn tell_failure(report: &mut Report, part: Part, error: &anyhow::Error) -> Result<()> {
    eprintln!("part {} failed: {error:#}", part.name());
    // A server's whole log may be in it.
    let why: String = format!("{error:#}").chars().take(MAX_REASON).collect();
    report.row("not measured", json!({ "part": part.name(), "why": why }))
}

fn versions() -> Value {
    json!({ "hydrant": env!("CARGO_PKG_VERSION"), "redis": redis_server::version(), "tonic": "0.14",
        "rocksdb": "11.8", "feast": support::feast::version() })
}

fn settings(options: &Options) -> Value {
    json!({
        "keys of each view": options.keys,
        "keys of each view of wide": options.wide_keys,
        "keys of Feast": options.feast_keys,
        "seconds of each measurement": options.seconds,
        "warm-up seconds": WARM_UP.as_secs(),
        "server core": SERVER_CORE, "client core": CLIENT_CORE, "connections": CONNECTIONS,
        "block cache": systems::BLOCK_CACHE, "row cache where there is one": ROW_CACHE.1,
    })
}
