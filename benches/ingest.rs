//! Durable writes by gRPC in batches of 1, 100 and 10,000 rows of 10 features, each acknowledged after
//! its sync; beside Redis with `appendfsync always` pipelined, and RocksDB's synced write batches of
//! the same bytes, with as many batches under way. Before them, what one sync of this disk takes.
//!
//!     cargo bench --bench ingest -- --seconds 5

mod support;

use std::fs::File;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use arrow_array::Array as _;
use clap::Parser;
use hdrhistogram::Histogram;
use hydrant::rpc::client::Client;
use hydrant::rpc::wire::columns::encode_column;
use hydrant_proto::v1;
use serde_json::json;
use support::machine;
use support::process::{Hydrant, definitions};
use support::promise::{self, Bound};
use support::random::Random;
use support::redis_server::{self, RedisServer};
use support::report::{Report, figure};
use support::rocksdb_rows::{Blocks, RocksRows};
use support::views::{POINT, ViewShape};

/// Rows of a batch, and batches under way.
const BATCHES: [(u64, usize); 3] = [(1, 64), (100, 16), (10_000, 4)];
/// Keys that rows are written for.
const KEYS: u64 = 1_000_000;
/// Made up beforehand and sent over and over.
const REQUESTS: usize = 32;
/// Rows of a batch for which a promise is made.
const PROMISED: u64 = 100;
const TABLE: &str = "rows acknowledged durable";

#[derive(Debug, Parser)]
struct Options {
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What came of writing for a while.
struct Outcome {
    batches: u64,
    rows: u64,
    seconds: f64,
    /// Nanoseconds until a batch was acknowledged.
    latency: Histogram<u64>,
    cpu_micros: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let duration = Duration::from_secs_f64(options.seconds);
    let mut report = Report::begin(
        "ingest",
        json!({ "hydrant": env!("CARGO_PKG_VERSION"), "redis": redis_server::version(), "rocksdb": "11.8" }),
        json!({ "seconds of each measurement": options.seconds, "keys": KEYS, "features": POINT.views[0].floats }),
    );
    let sync = sync_latency(duration.mul_f64(0.3))?;
    let figures = json!({
        "p50 µs": figure(sync.value_at_percentile(50.0) as f64 / 1_000.0),
        "p99 µs": figure(sync.value_at_percentile(99.0) as f64 / 1_000.0),
    });
    report.row("one 4 KiB append and fdatasync on this disk", figures)?;

    let view = POINT.views[0];
    for (rows, under_way) in BATCHES {
        let hydrant = write_hydrant(&view, rows, under_way, duration).await.context("Hydrant")?;
        tell(&mut report, "hydrant by gRPC", rows, under_way, &hydrant)?;
        let redis = write_redis(&view, rows, under_way, duration).await.context("Redis")?;
        tell(&mut report, "Redis HSET, appendfsync always", rows, under_way, &redis)?;
        let rocks = write_rocksdb(&view, rows, under_way, duration).context("RocksDB")?;
        tell(&mut report, "RocksDB synced WriteBatch", rows, under_way, &rocks)?;
        let (to_rocks, to_redis) = (hydrant.rate() / rocks.rate(), hydrant.rate() / redis.rate());
        let ratios = json!({ "rows a batch": rows, "of RocksDB's rows/s": figure(to_rocks),
            "of Redis' rows/s": figure(to_redis) });
        report.row("against the rivals", ratios)?;
        if rows == PROMISED {
            let what = "rows/s / those of a synced RocksDB WriteBatch";
            promise::tell(&mut report, "batches of 100 rows", what, to_rocks, Bound::AtLeast(0.5))?;
        }
    }
    report.finish();
    Ok(())
}

async fn write_hydrant(view: &ViewShape, rows: u64, under_way: usize, duration: Duration) -> Result<Outcome> {
    let server = Hydrant::start(&[]).await?;
    let client = server.client().await?;
    client.apply(&definitions(&POINT.definitions())?, None).await?;
    let requests = requests(view, rows, &client).await?;
    let cpu_before = machine::cpu_micros(server.id())?;
    let begun = Instant::now();
    let workers: Vec<_> = (0..under_way)
        .map(|worker| {
            let (client, requests) = (client.clone(), requests.clone());
            tokio::spawn(async move {
                let mut latency = Histogram::<u64>::new_with_bounds(100, 120_000_000_000, 3)?;
                let mut number = worker;
                while begun.elapsed() < duration {
                    let request = requests[number % requests.len()].clone();
                    let sent = Instant::now();
                    let answer = client.ingest(request).await?;
                    ensure!(answer.rows == rows, "{} of {rows} rows were taken", answer.rows);
                    latency.saturating_record(u64::try_from(sent.elapsed().as_nanos())?);
                    number += under_way;
                }
                anyhow::Ok(latency)
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for worker in workers {
        latencies.push(worker.await??);
    }
    let seconds = begun.elapsed().as_secs_f64();
    Outcome::of(rows, seconds, latencies, machine::cpu_micros(server.id())? - cpu_before)
}

async fn requests(view: &ViewShape, rows: u64, client: &Client) -> Result<std::sync::Arc<Vec<v1::IngestRequest>>> {
    let now = client.server_info().await?.store_time;
    let mut random = Random::new(11);
    let mut requests = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        let keys: Vec<u64> = (0..rows).map(|_| random.below(KEYS)).collect();
        let batch = view.rows(&keys, now)?;
        let mut columns = Vec::with_capacity(batch.num_columns());
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            ensure!(column.null_count() == 0, "made-up rows have no nulls");
            columns.push(encode_column(field.name(), column)?);
        }
        let rows = Some(v1::ingest_request::Rows::Columns(v1::Columns { columns }));
        requests.push(v1::IngestRequest { source: view.source(), rows, ..Default::default() });
    }
    Ok(std::sync::Arc::new(requests))
}

async fn write_redis(view: &ViewShape, rows: u64, under_way: usize, duration: Duration) -> Result<Outcome> {
    let server = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]).await?;
    let names = view.feature_names();
    let cpu_before = machine::cpu_micros(server.id())?;
    let mut outcome = write_from_threads(rows, under_way, duration, || {
        let mut connection = server.connect()?;
        let (view, names) = (*view, names.clone());
        Ok(move |keys: &[u64]| {
            let mut pipeline = redis::pipe();
            for key in keys {
                let packed = view.packed(*key);
                let hash = pipeline.cmd("HSET").arg(format!("h:{}:{key}", view.name));
                names.iter().zip(packed.chunks_exact(8)).for_each(|(name, value)| {
                    hash.arg(name).arg(value);
                });
            }
            Ok(pipeline.exec(&mut connection)?)
        })
    })?;
    outcome.cpu_micros = machine::cpu_micros(server.id())? - cpu_before;
    Ok(outcome)
}

fn write_rocksdb(view: &ViewShape, rows: u64, under_way: usize, duration: Duration) -> Result<Outcome> {
    let store = RocksRows::open(Blocks::Common)?;
    let own = std::process::id();
    let cpu_before = machine::cpu_micros(own)?;
    let mut outcome = write_from_threads(rows, under_way, duration, || {
        Ok(|keys: &[u64]| store.write_synced(view, keys.iter().copied()))
    })?;
    outcome.cpu_micros = machine::cpu_micros(own)? - cpu_before;
    Ok(outcome)
}

/// Writes batches from as many threads as there are batches under way.
fn write_from_threads<W: FnMut(&[u64]) -> Result<()>>(
    rows: u64,
    under_way: usize,
    duration: Duration,
    writer: impl Fn() -> Result<W> + Sync,
) -> Result<Outcome> {
    let begun = Instant::now();
    let seeds = AtomicU64::new(0);
    let work = || -> Result<Histogram<u64>> {
        let mut write = writer()?;
        let mut random = Random::new(seeds.fetch_add(1, Ordering::Relaxed));
        let mut latency = Histogram::new_with_bounds(100, 120_000_000_000, 3)?;
        while begun.elapsed() < duration {
            let keys: Vec<u64> = (0..rows).map(|_| random.below(KEYS)).collect();
            let sent = Instant::now();
            write(&keys)?;
            latency.saturating_record(u64::try_from(sent.elapsed().as_nanos())?);
        }
        Ok(latency)
    };
    let latencies = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..under_way).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().expect("no worker panics")).collect::<Result<Vec<_>>>()
    })?;
    Outcome::of(rows, begun.elapsed().as_secs_f64(), latencies, 0)
}

/// What the disk takes for one small append, which bounds whatever waits for a sync by itself.
fn sync_latency(duration: Duration) -> Result<Histogram<u64>> {
    let folder = tempfile::Builder::new().prefix("hydrant-bench-sync-").tempdir()?;
    let mut file = File::create(folder.path().join("appended"))?;
    let mut latency = Histogram::new_with_bounds(100, 120_000_000_000, 3)?;
    let begun = Instant::now();
    while begun.elapsed() < duration {
        let sent = Instant::now();
        file.write_all(&[7; 4_096])?;
        file.sync_data()?;
        latency.saturating_record(u64::try_from(sent.elapsed().as_nanos())?);
    }
    Ok(latency)
}

fn tell(report: &mut Report, system: &str, rows: u64, under_way: usize, outcome: &Outcome) -> Result<()> {
    let micros = |percentile: f64| figure(outcome.latency.value_at_percentile(percentile) as f64 / 1_000.0);
    let figures = json!({
        "system": system,
        "rows a batch": rows,
        "batches under way": under_way,
        "rows/s": outcome.rate().round() as u64,
        "batches/s": figure(outcome.batches as f64 / outcome.seconds),
        "p50 µs": micros(50.0),
        "p99 µs": micros(99.0),
        "CPU µs a row": figure(outcome.cpu_micros as f64 / outcome.rows.max(1) as f64),
    });
    report.row(TABLE, figures)
}

impl Outcome {
    fn of(rows: u64, seconds: f64, latencies: Vec<Histogram<u64>>, cpu_micros: u64) -> Result<Self> {
        let mut latency = Histogram::new_with_bounds(100, 120_000_000_000, 3)?;
        for of_worker in latencies {
            latency.add(of_worker)?;
        }
        let batches = latency.len();
        ensure!(batches > 0, "nothing was acknowledged");
        Ok(Self { batches, rows: batches * rows, seconds, latency, cpu_micros })
    }

    fn rate(&self) -> f64 {
        self.rows as f64 / self.seconds
    }
}
