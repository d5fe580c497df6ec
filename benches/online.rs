//! Online reads through a real server process over loopback, beside a bare tonic server that answers
//! the same bytes from memory, Redis (HMGET pipelined, and MGET of packed rows), and RocksDB's own
//! multi-get in this process: all on the same keys in the same minutes. The server is kept on one
//! core and the load on the other.
//!
//!     cargo bench --bench online -- --keys 1000000 --seconds 5

mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clap::Parser;
use serde_json::{Map, Value, json};
use support::load::{Outcome, closed_loop, highest_rate, open_loop};
use support::machine;
use support::process::{Hydrant, Process, definitions, wait_until_quiet};
use support::random::Choice;
use support::redis_reads::{self, Layout};
use support::redis_server::{self, RedisServer};
use support::report::{Report, figure};
use support::rocksdb_rows::RocksRows;
use support::transport::{Calls, serve_recorded, start_bare_server};
use support::views::{ADS, POINT, RequestKeys, Workload};

const SERVER_CORE: &str = "1";
const CLIENT_CORE: &str = "0";
const CONNECTIONS: usize = 4;
/// Requests under way in the closed loop.
const UNDER_WAY: usize = 16;
/// Answers that the bare server has in memory.
const RECORDED: usize = 256;
/// Held in memory: all rows of both workloads.
const BLOCK_CACHE: &str = "3GiB";
const SETTLE: Duration = Duration::from_secs(45);

#[derive(Debug, Parser)]
struct Options {
    /// Entity keys of each view.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// `point` and `ads`.
    #[arg(long, value_delimiter = ',', default_value = "point,ads")]
    workloads: Vec<String>,
    /// How keys are chosen: `uniform` and `zipf` (0.99).
    #[arg(long, value_delimiter = ',', default_value = "uniform,zipf")]
    choices: Vec<Choice>,
    /// Be the bare server, answering what this file holds.
    #[arg(long, hide = true)]
    bare_server: Option<PathBuf>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What a workload is measured against: all loaded with the same rows.
struct Systems {
    hydrant: Hydrant,
    redis: RedisServer,
    rocks: RocksRows,
}

/// The figures of one workload and choice that the ratios are made of.
struct Measured {
    rate: f64,
    bare_rate: f64,
    cpu: f64,
    bare_cpu: f64,
    both_cpu: f64,
    half_p99: f64,
    bare_half_p99: f64,
    multi_get: f64,
    hmget_cpu: f64,
    mget_cpu: f64,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match &options.bare_server {
        Some(answers) => tokio::runtime::Runtime::new()?.block_on(serve_recorded(answers)),
        None => runtime.block_on(run(&options)),
    }
}

async fn run(options: &Options) -> Result<()> {
    let workloads = options.workloads.iter().map(|name| match name.as_str() {
        "point" => Ok(POINT),
        "ads" => Ok(ADS),
        other => anyhow::bail!("'{other}' is neither point nor ads"),
    });
    let workloads: Vec<Workload> = workloads.collect::<Result<_>>()?;
    let mut report = Report::begin(
        "online",
        json!({ "hydrant": env!("CARGO_PKG_VERSION"), "redis": redis_server::version(), "tonic": "0.14", "rocksdb": "11.8" }),
        json!({
            "keys of each view": options.keys,
            "seconds of each measurement": options.seconds,
            "server core": SERVER_CORE, "client core": CLIENT_CORE, "connections": CONNECTIONS,
            "block cache": BLOCK_CACHE,
        }),
    );
    let systems = load(&workloads, options.keys, &mut report).await?;
    machine::pin(std::process::id(), CLIENT_CORE)?;
    for workload in &workloads {
        for choice in &options.choices {
            let measured = measure(workload, *choice, options, &systems, &mut report).await?;
            tell_ratios(workload, *choice, &measured, &mut report)?;
        }
    }
    report.finish();
    Ok(())
}

async fn load(workloads: &[Workload], keys: u64, report: &mut Report) -> Result<Systems> {
    let tail = "1GiB";
    let hydrant = Hydrant::start(&[("STORAGE__BLOCK_CACHE", BLOCK_CACHE), ("LANDING__TAIL", tail)]).await?;
    let client = hydrant.client().await?;
    let views: Vec<_> = workloads.iter().flat_map(|workload| workload.views).copied().collect();
    for workload in workloads {
        client.apply(&definitions(&workload.definitions())?, None).await?;
    }
    let begun = std::time::Instant::now();
    futures::future::try_join_all(views.iter().map(|view| view.load(&client, keys))).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let rows = keys * views.len() as u64;
    let row = json!({ "rows": rows, "seconds": figure(seconds), "rows/s": figure(rows as f64 / seconds) });
    report.row("loading by Flight DoPut, batches of 10,000 rows", row)?;

    let redis = RedisServer::start(&["--appendonly", "no", "--hash-max-listpack-value", "512"]).await?;
    redis_reads::load(&redis, &views, keys).context("loading Redis")?;
    let rocks = RocksRows::open()?;
    rocks.load(&views, keys).context("loading RocksDB")?;
    hydrant.wait_until_quiet(SETTLE).await?;
    machine::pin(hydrant.id(), SERVER_CORE)?;
    machine::pin(redis.id(), SERVER_CORE)?;
    let memory = json!({
        "hydrant": mebibytes(machine::peak_memory(hydrant.id())?),
        "redis, hashes and packed": mebibytes(redis.memory()?),
    });
    report.row("memory after loading, MiB", memory)?;
    Ok(Systems { hydrant, redis, rocks })
}

async fn measure(
    workload: &Workload,
    choice: Choice,
    options: &Options,
    systems: &Systems,
    report: &mut Report,
) -> Result<Measured> {
    let drawn = workload.draw(200_000 / workload.candidates.min(20), choice, options.keys);
    let requests = drawn.iter().map(|keys| workload.encode(keys)).collect::<Result<Vec<Bytes>>>()?;
    let requests = Arc::new(requests);
    let duration = Duration::from_secs_f64(options.seconds);

    let calls = Calls::connect(systems.hydrant.address(), CONNECTIONS, requests.clone()).await?;
    let recorded = record(&calls).await?;
    let hydrant = measure_grpc("hydrant", &calls, systems.hydrant.id(), workload, choice, duration, report).await?;
    wait_until_quiet(systems.hydrant.id(), SETTLE).await?;

    let folder = tempfile::tempdir()?;
    let (bare, address): (Process, String) = start_bare_server(&recorded, folder.path())?;
    machine::pin(bare.id(), SERVER_CORE)?;
    let calls = Calls::connect(&address, CONNECTIONS, requests).await?;
    let transport = measure_grpc("bare tonic", &calls, bare.id(), workload, choice, duration, report).await?;
    drop(bare);

    let hmget_cpu = measure_redis(Layout::Hashes, workload, choice, &drawn, duration, systems, report)?;
    let mget_cpu = measure_redis(Layout::Packed, workload, choice, &drawn, duration, systems, report)?;
    let multi_get = systems.rocks.measure(workload, &drawn, duration)?;
    report.row(
        &closed_title(workload),
        row(
            choice,
            "RocksDB multi-get in process",
            [("server CPU µs", figure(multi_get)), ("p50 µs", figure(multi_get))],
        ),
    )?;
    Ok(Measured {
        rate: hydrant.rate,
        bare_rate: transport.rate,
        cpu: hydrant.closed.server_cpu_per_request(),
        bare_cpu: transport.closed.server_cpu_per_request(),
        both_cpu: hydrant.closed.server_cpu_per_request() + hydrant.closed.client_cpu_per_request(),
        half_p99: hydrant.half_p99,
        bare_half_p99: transport.half_p99,
        multi_get,
        hmget_cpu,
        mget_cpu,
    })
}

/// What came of one gRPC server.
struct OfServer {
    closed: Outcome,
    rate: f64,
    half_p99: f64,
}

async fn measure_grpc(
    system: &str,
    calls: &Calls,
    server: u32,
    workload: &Workload,
    choice: Choice,
    duration: Duration,
    report: &mut Report,
) -> Result<OfServer> {
    // Connections, caches and allocators warm up unseen.
    closed_loop(calls, UNDER_WAY, duration.mul_f64(0.4), server).await?;
    let closed = closed_loop(calls, UNDER_WAY, duration, server).await?;
    report.row(&closed_title(workload), closed_row(choice, system, &closed))?;
    let (rate, best, kept_up) = highest_rate(calls, closed.rate(), duration.mul_f64(0.5), server).await?;
    let table = format!("{}: open loop, latency from the intended start", workload.name);
    report.row(&table, open_row(choice, system, if kept_up { "highest" } else { "not kept up" }, rate, &best))?;
    let mut half_p99 = 0.0;
    for share in [0.25, 0.5, 0.75] {
        let outcome = open_loop(calls, rate * share, duration, server).await?;
        if share == 0.5 {
            half_p99 = outcome.percentile_micros(99.0);
        }
        report.row(&table, open_row(choice, system, &format!("{:.0} %", share * 100.0), rate * share, &outcome))?;
    }
    Ok(OfServer { closed, rate, half_p99 })
}

/// CPU of server and client a request.
fn measure_redis(
    layout: Layout,
    workload: &Workload,
    choice: Choice,
    drawn: &[RequestKeys],
    duration: Duration,
    systems: &Systems,
    report: &mut Report,
) -> Result<f64> {
    let outcome = redis_reads::measure(&systems.redis, layout, workload, drawn, duration)?;
    report.row(&closed_title(workload), closed_row(choice, layout.name(), &outcome))?;
    Ok(outcome.server_cpu_per_request() + outcome.client_cpu_per_request())
}

/// The first answers, for the bare server to give.
async fn record(calls: &Calls) -> Result<Vec<Bytes>> {
    let mut answers = Vec::with_capacity(RECORDED);
    for number in 0..RECORDED {
        calls.call(number).await?;
        answers.push(calls.bytes(number).await?);
    }
    ensure!(!answers.iter().any(Bytes::is_empty), "an answer is empty");
    Ok(answers)
}

fn tell_ratios(workload: &Workload, choice: Choice, measured: &Measured, report: &mut Report) -> Result<()> {
    let point = workload.name == POINT.name;
    let mut ratio = |what: &str, value: f64, promised: &str| {
        let figures = json!({ "workload": workload.name, "keys": choice.to_string(), "ratio or figure": what,
            "measured": figure(value), "promised": promised });
        report.row("against the promises", figures)
    };
    let limit = measured.bare_cpu + 1.3 * measured.multi_get;
    ratio("server CPU / (bare tonic's + 1.3 × multi-get)", measured.cpu / limit, "at most 1")?;
    if point {
        ratio("highest rate / bare tonic's", measured.rate / measured.bare_rate, "at least 0.7")?;
        ratio("p99 at 50 %, µs", measured.half_p99, "under 1000")?;
        ratio("p99 at 50 % / bare tonic's", measured.half_p99 / measured.bare_half_p99, "at most 2")?;
    } else {
        ratio("p99 at 50 %, µs", measured.half_p99, "under 3000")?;
        let packed = if choice == Choice::Uniform { "at most 2.5" } else { "at most 1.5" };
        ratio("CPU of both / Redis HMGET pipelined", measured.both_cpu / measured.hmget_cpu, "at most 0.5")?;
        ratio("CPU of both / Redis MGET packed", measured.both_cpu / measured.mget_cpu, packed)?;
    }
    Ok(())
}

fn closed_title(workload: &Workload) -> String {
    format!("{}: closed loop, {UNDER_WAY} requests under way, CPU a request", workload.name)
}

fn closed_row(choice: Choice, system: &str, outcome: &Outcome) -> Value {
    let mut figures = Map::new();
    figures.insert("keys".to_owned(), choice.to_string().into());
    figures.insert("system".to_owned(), system.into());
    figures.extend(outcome.figures());
    figures.remove("p99.99 µs");
    let client = outcome.client_cpu_per_request();
    figures.insert("client CPU µs".to_owned(), figure(client));
    figures.insert("both CPU µs".to_owned(), figure(outcome.server_cpu_per_request() + client));
    Value::Object(figures)
}

fn open_row(choice: Choice, system: &str, share: &str, rate: f64, outcome: &Outcome) -> Value {
    let mut figures = Map::new();
    figures.insert("keys".to_owned(), choice.to_string().into());
    figures.insert("system".to_owned(), system.into());
    figures.insert("share of highest".to_owned(), share.into());
    figures.insert("sent/s".to_owned(), json!(rate.round() as u64));
    figures.extend(outcome.figures());
    Value::Object(figures)
}

fn row<const N: usize>(choice: Choice, system: &str, figures: [(&str, Value); N]) -> Value {
    let mut row = Map::new();
    row.insert("keys".to_owned(), choice.to_string().into());
    row.insert("system".to_owned(), system.into());
    row.extend(figures.into_iter().map(|(name, value)| (name.to_owned(), value)));
    Value::Object(row)
}

fn mebibytes(bytes: u64) -> u64 {
    bytes >> 20
}
