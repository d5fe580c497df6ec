//! The point-in-time join S: a spine of a million rows against three views of five million rows each,
//! from the spine's first byte sent over Flight to the last row received by a client, beside DuckDB's
//! ASOF join and Polars' join_asof on the same Parquet data with as many threads. The answers are
//! compared before any figure is told.
//!
//!     cargo bench --bench historical -- --scale 1.0 --runs 3

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use arrow_array::cast::AsArray as _;
use arrow_array::types::Float64Type;
use arrow_array::{Array as _, RecordBatch};
use clap::Parser;
use hydrant::error::Code;
use hydrant::rpc::client::{Client, Refusal};
use hydrant_proto::v1;
use serde::Deserialize;
use serde_json::json;
use support::machine;
use support::process::{Hydrant, definitions};
use support::report::{Report, figure};
use support::training::{self, FEATURES, SERVICE, TTL_DAYS, VIEWS};

const SPINE_ROWS: f64 = 1_000_000.0;
const HISTORY_ROWS: f64 = 5_000_000.0;
const SPINE_BATCH: usize = 65_536;
/// How long landing and compaction may take after the last row was acknowledged.
const LANDING_PATIENCE: Duration = Duration::from_secs(300);
const TABLE: &str = "point-in-time join S";

#[derive(Debug, Parser)]
struct Options {
    /// The share of S's rows, of spine and history alike.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Runs of each engine; the fastest is told.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Threads (cores) of each engine.
    #[arg(long, value_delimiter = ',', default_value = "2")]
    threads: Vec<usize>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Per feature column: the sum of its values and the number of its nulls.
type Sums = BTreeMap<String, (f64, usize)>;

/// One training set as a client got it.
struct Received {
    rows: usize,
    first_batch: f64,
    seconds: f64,
    sums: Sums,
    tail_rows: u64,
}

/// What the rivals' script tells.
#[derive(Debug, Deserialize)]
struct OfRival {
    seconds: Vec<f64>,
    peak_bytes: u64,
    rows: usize,
    sums: Sums,
    version: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let spine_rows = (SPINE_ROWS * options.scale) as usize;
    let history_rows = (HISTORY_ROWS * options.scale) as usize;
    let mut report = Report::begin(
        "historical",
        json!({ "hydrant": env!("CARGO_PKG_VERSION"), "duckdb": version_of("duckdb"), "polars": version_of("polars") }),
        json!({ "spine rows": spine_rows, "views": VIEWS.len(), "rows of each view": history_rows,
            "keys": VIEWS.map(|view| view.entities), "features of each view": FEATURES, "ttl days": TTL_DAYS,
            "runs (the fastest is told)": options.runs }),
    );
    let folder = tempfile::Builder::new().prefix("hydrant-bench-history-").tempdir()?;
    for view in VIEWS {
        view.write(folder.path(), history_rows)?;
    }
    training::write_spine(folder.path(), spine_rows)?;
    tell_scan(folder.path(), history_rows, &mut report)?;

    let (server, client) = load(folder.path(), history_rows, &mut report).await?;
    let mut fastest = Vec::new();
    for threads in &options.threads {
        let cores = if *threads == 1 { "0".to_owned() } else { format!("0-{}", threads - 1) };
        machine::pin(server.id(), &cores)?;
        machine::pin(std::process::id(), &cores)?;
        for sink in ["arrow", "parquet"] {
            let (own, sums) = measure(&server, &client, &options, *threads, sink, folder.path(), &mut report).await?;
            for rival in ["duckdb", "polars"] {
                let of_rival = run_rival(rival, *threads, &options, sink, folder.path())?;
                check_same(rival, &of_rival, spine_rows, &sums)?;
                let seconds = of_rival.seconds.iter().copied().fold(f64::INFINITY, f64::min);
                let name = format!("{rival} {}", of_rival.version);
                let figures = json!({ "system": name, "threads": threads, "answer as": sink,
                    "seconds": figure(seconds), "rows/s": (spine_rows as f64 / seconds).round() as u64,
                    "first batch s": null, "peak memory MiB": of_rival.peak_bytes >> 20 });
                report.row(TABLE, figures)?;
                fastest.push((rival, *threads, sink, own / seconds));
            }
        }
    }
    for (rival, threads, sink, ratio) in fastest {
        let what = format!("seconds against {rival}, {threads} threads, as {sink}");
        report.row("against the rivals", json!({ "ratio": what, "measured": figure(ratio) }))?;
    }
    report.finish();
    Ok(())
}

/// Loads the history through ingest and waits until it has landed and is compacted.
async fn load(folder: &Path, history_rows: usize, report: &mut Report) -> Result<(Hydrant, Client)> {
    let server = Hydrant::start(&[("LANDING__INTERVAL", "2s"), ("COMPACTION__INTERVAL", "1s")]).await?;
    let client = server.client().await?;
    client.apply(&definitions(&training::definitions())?, None).await?;
    let begun = Instant::now();
    let loaded = futures::future::try_join_all(VIEWS.iter().map(|view| view.load(&client, folder))).await?;
    let seconds = begun.elapsed().as_secs_f64();
    ensure!(loaded.iter().all(|rows| *rows == history_rows as u64), "{loaded:?} rows of {history_rows} were taken");
    let (mut tail_rows, mut to_merge) = (u64::MAX, f64::MAX);
    while (tail_rows > 0 || to_merge > 0.0) && begun.elapsed() < LANDING_PATIENCE {
        server.wait_until_quiet(LANDING_PATIENCE).await?;
        tail_rows = receive(&client, folder, None).await?.tail_rows;
        to_merge = server.counter("hydrant_compaction_to_merge")?;
    }
    ensure!(tail_rows == 0, "{tail_rows} rows have not landed: {}", server.log());
    ensure!(to_merge == 0.0, "{to_merge} runs have not been merged: {}", server.log());
    let rows = (VIEWS.len() * history_rows) as f64;
    let row = json!({ "rows": rows as u64, "seconds until acknowledged": figure(seconds), "rows/s": (rows / seconds).round() as u64,
        "seconds until landed and idle": figure(begun.elapsed().as_secs_f64()),
        "server's peak memory MiB": machine::peak_memory(server.id())? >> 20 });
    report.row("loading by Flight DoPut, three streams", row)?;
    let runs: BTreeMap<String, f64> = server.metric("hydrant_history_runs")?.into_iter().collect();
    for (labels, files) in server.metric("hydrant_history_files")? {
        let view = VIEWS.iter().find(|view| labels.contains(&format!("view=\"{}\"", view.name)));
        let view = view.with_context(|| format!("files of another view: {labels}"))?;
        let row = json!({ "view": view.name, "files": files, "runs": runs.get(&labels) });
        report.row("history of each view when it is measured", row)?;
    }
    let row = json!({ "merges": server.counter("hydrant_compaction_merges_total")?,
        "written MiB": figure(server.counter("hydrant_compaction_written_bytes_total")? / f64::from(1 << 20)),
        "landed MiB": figure(server.counter("hydrant_landing_written_bytes_total")? / f64::from(1 << 20)) });
    report.row("compaction until then", row)?;
    Ok((server, client))
}

/// The fastest of some runs, and its sums.
async fn measure(
    server: &Hydrant,
    client: &Client,
    options: &Options,
    threads: usize,
    sink: &str,
    folder: &Path,
    report: &mut Report,
) -> Result<(f64, Sums)> {
    let output = (sink == "parquet").then(|| folder.join("hydrant-answer.parquet"));
    let mut fastest: Option<Received> = None;
    let (read_before, cpu_before) = (machine::bytes_read(server.id())?, machine::cpu_micros(server.id())?);
    for _ in 0..options.runs {
        let received = receive(client, folder, output.as_deref()).await?;
        if fastest.as_ref().is_none_or(|fastest| received.seconds < fastest.seconds) {
            fastest = Some(received);
        }
    }
    let runs = options.runs as u64;
    let read = (machine::bytes_read(server.id())? - read_before) / runs;
    let cpu = (machine::cpu_micros(server.id())? - cpu_before) / runs;
    let fastest = fastest.context("at least one run")?;
    let figures = json!({
        "system": "hydrant over Flight",
        "threads": threads,
        "answer as": sink,
        "seconds": figure(fastest.seconds),
        "rows/s": (fastest.rows as f64 / fastest.seconds).round() as u64,
        "first batch s": figure(fastest.first_batch),
        "peak memory MiB": machine::peak_memory(server.id())? >> 20,
        "server CPU s": figure(cpu as f64 / 1e6),
        "server read MiB": read >> 20,
    });
    report.row(TABLE, figures)?;
    Ok((fastest.seconds, fastest.sums))
}

/// Sends the spine and takes the whole answer, in memory or into a Parquet file.
async fn receive(client: &Client, folder: &Path, output: Option<&Path>) -> Result<Received> {
    let begun = Instant::now();
    let spine = training::read(&training::spine_path(folder), SPINE_BATCH)?;
    let schema = spine.schema_without_metadata();
    let batches = futures::stream::iter(spine.0.map(|batch| {
        batch.map_err(|error| Refusal::new(Code::Internal, "SPINE", format!("the spine can't be read: {error}")))
    }));
    let command = v1::HistoricalFeaturesCommand {
        services: vec![SERVICE.to_owned()],
        event_time: "event_timestamp".to_owned(),
        ..Default::default()
    };
    let mut set = client.training_set(command, schema, batches).await?;
    let mut writer = output.map(|path| training::writer(path, set.schema())).transpose()?;
    let mut first_batch = None;
    let mut received: Vec<RecordBatch> = Vec::new();
    while let Some(batch) = set.next().await? {
        first_batch.get_or_insert_with(|| begun.elapsed().as_secs_f64());
        if let Some(writer) = &mut writer {
            writer.write(&batch)?;
        }
        received.push(batch);
    }
    if let Some(writer) = writer {
        writer.close()?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let report = set.report().context("a training set ends with its report")?;
    let tail_rows = report.tables.iter().map(|table| table.tail_rows).sum();
    let rows = received.iter().map(RecordBatch::num_rows).sum();
    Ok(Received { rows, first_batch: first_batch.unwrap_or(seconds), seconds, sums: sums_of(&received)?, tail_rows })
}

fn sums_of(batches: &[RecordBatch]) -> Result<Sums> {
    let mut sums = Sums::new();
    for batch in batches {
        for view in VIEWS {
            for feature in 0..FEATURES {
                let name = format!("{}__f{feature}", view.name);
                let column = batch.column_by_name(&name).with_context(|| format!("no column {name}"))?;
                let column = column.as_primitive::<Float64Type>();
                let sum = sums.entry(name).or_default();
                sum.0 += column.iter().flatten().sum::<f64>();
                sum.1 += column.null_count();
            }
        }
    }
    Ok(sums)
}

fn run_rival(rival: &str, threads: usize, options: &Options, sink: &str, folder: &Path) -> Result<OfRival> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/support/rivals.py");
    let mut command = Command::new(python());
    command.arg(script).arg(rival).arg(folder).arg(threads.to_string()).arg(options.runs.to_string());
    let output = command.arg(sink).arg(TTL_DAYS.to_string()).output().context("can't run .venv's Python")?;
    ensure!(output.status.success(), "{rival} failed: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).with_context(|| format!("{rival} told something else"))
}

/// Refuses figures for an answer that is another one.
fn check_same(rival: &str, of_rival: &OfRival, rows: usize, sums: &Sums) -> Result<()> {
    ensure!(of_rival.rows == rows, "{rival} gave {} rows, not {rows}", of_rival.rows);
    for (column, (sum, nulls)) in sums {
        let (other_sum, other_nulls) = of_rival.sums.get(column).with_context(|| format!("{rival} has no {column}"))?;
        let same = nulls == other_nulls && (sum - other_sum).abs() <= 1e-6 * sum.abs().max(1.0);
        ensure!(same, "{column}: {sum} and {nulls} nulls, by {rival} {other_sum} and {other_nulls}");
    }
    Ok(())
}

/// What reading all the columns of history takes by itself, on one thread: the limit of the format.
fn tell_scan(folder: &Path, history_rows: usize, report: &mut Report) -> Result<()> {
    let begun = Instant::now();
    let mut rows = 0;
    for view in VIEWS {
        for batch in training::read(&view.path(folder), 8_192)?.0 {
            rows += batch?.num_rows();
        }
    }
    ensure!(rows == VIEWS.len() * history_rows, "the files hold {rows} rows");
    let seconds = begun.elapsed().as_secs_f64();
    let figures = json!({ "rows": rows, "seconds": figure(seconds), "rows/s": (rows as f64 / seconds).round() as u64 });
    report.row("plain scan of the same columns, parquet crate, one thread", figures)
}

fn version_of(package: &str) -> String {
    let script = format!("import {package}; print({package}.__version__)");
    let output = Command::new(python()).args(["-c", &script]).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

fn python() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python")
}
