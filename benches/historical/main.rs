//! Point-in-time joins: S, skew, M, small and L, from the spine's first byte sent over Flight by a client
//! in Python to the last row that it received, beside DuckDB's ASOF join and Polars' join_asof on the
//! same Parquet data with as many threads. The answers are compared before any figure is told.
//!
//!     cargo bench --bench historical -- --parts s,skew --runs 3

#[path = "../support/mod.rs"]
mod support;

mod load;
mod promises;
mod rivals;
mod scan;
mod server;
mod workload;

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use promises::Measured;
use rivals::Rival;
use serde_json::json;
use server::{Join, Sink};
use support::machine;
use support::report::{Report, figure};
use support::training::{self, FEATURES, TTL_DAYS, VIEWS};
use workload::{History, Workload};

#[derive(Debug, Parser)]
pub struct Options {
    /// What is measured; all of it by default.
    #[arg(long, value_delimiter = ',', value_enum, default_value = "s,skew,m,small,l")]
    parts: Vec<Workload>,
    /// The share of each workload's rows, of spine and history alike.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Runs of each engine, of M and L one; the fastest is told.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Threads (cores) of each engine.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let workloads: BTreeSet<Workload> = options.parts.iter().copied().collect();
    let mut report = Report::begin(
        "historical",
        json!({ "hydrant": env!("CARGO_PKG_VERSION"), "duckdb": rivals::version_of("duckdb"),
            "polars": rivals::version_of("polars"), "pyarrow": rivals::version_of("pyarrow") }),
        json!({ "scale": options.scale, "views": VIEWS.len(), "keys": VIEWS.map(|view| view.entities),
            "features of each view": FEATURES, "ttl days": TTL_DAYS, "threads": options.threads,
            "the server's environment": format!("{}={}", load::SMALL_PAGES.0, load::SMALL_PAGES.1),
            "runs (the fastest is told; of M and L one)": options.runs }),
    );
    let cores = if options.threads == 1 { "0".to_owned() } else { format!("0-{}", options.threads - 1) };
    machine::pin(std::process::id(), &cores)?;
    let mut measured = Vec::new();
    for history in [History::S, History::M, History::L] {
        let of_history: Vec<Workload> =
            workloads.iter().copied().filter(|workload| workload.history() == history).collect();
        if !of_history.is_empty() {
            measured.extend(measure(history, &of_history, &options, &cores, &mut report).await?);
        }
    }
    promises::tell_growth(&measured, &mut report)?;
    report.finish();
    Ok(())
}

/// Loads one history, and measures what is joined with it.
async fn measure(
    history: History,
    workloads: &[Workload],
    options: &Options,
    cores: &str,
    report: &mut Report,
) -> Result<Vec<Measured>> {
    let folder = tempfile::Builder::new().prefix("hydrant-bench-history-").tempdir()?;
    load::check_disk(folder.path(), history.disk_bytes(options.scale))?;
    let rows = history.rows(options.scale);
    load::write_views(folder.path(), rows)?;
    report.part(workloads[0].name());
    let (server, client) = load::load(folder.path(), history, rows, report).await?;
    machine::pin(server.id(), cores)?;
    let (scanned, scan_seconds) = scan::scan(&server.data(), options.threads, options.runs)?;
    ensure!(scanned == rows * VIEWS.len(), "the server's files hold {scanned} rows");
    let row = json!({ "history": format!("{history:?}"), "rows": scanned, "threads": options.threads,
        "MiB": scan::bytes(&server.data())? >> 20, "seconds": figure(scan_seconds),
        "rows/s": (scanned as f64 / scan_seconds).round() as u64 });
    report.row("plain scan of the columns that a join needs, from the server's files", row)?;

    let mut all = Vec::new();
    for workload in workloads {
        report.part(workload.name());
        let spine = workload.spine(options.scale);
        let spine_path = workload.spine_path(folder.path());
        training::write_spine(&spine_path, spine)?;
        let table = format!("point-in-time join {}", workload.name());
        let sinks: &[Sink] = if *workload == Workload::S { &[Sink::Arrow, Sink::Parquet] } else { &[Sink::Arrow] };
        for sink in sinks {
            let join = Join { server: &server, client: &client, spine: &spine_path, runs: workload.runs(options.runs) };
            let own = join.run(*sink, folder.path()).await?;
            ensure!(own.rows == spine.rows, "{} rows came back of {}", own.rows, spine.rows);
            report.row(&table, own.row("hydrant over Flight to Python", *sink))?;
            let mut measured = Measured::new(*workload, *sink, &own, spine.rows, scanned, scan_seconds);
            for rival in workload.rivals() {
                let engine = Rival { name: rival, threads: options.threads, runs: workload.runs(options.runs) };
                let of_rival = engine.run(*sink, folder.path(), &spine_path)?;
                of_rival.check_same(rival, spine.rows, &own.sums)?;
                report.row(&table, of_rival.row(rival, spine.rows, *sink))?;
                measured.rivals.push((*rival, of_rival.fastest(), of_rival.peak_bytes));
            }
            measured.tell(report)?;
            all.push(measured);
        }
        std::fs::remove_file(&spine_path).context("the spine's file")?;
    }
    Ok(all)
}
