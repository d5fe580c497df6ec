//! A history as Parquet files, and a server that has taken it in.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hydrant::rpc::client::Client;
use serde_json::json;

use crate::support::machine;
use crate::support::process::{Hydrant, binary, definitions};
use crate::support::report::{Report, figure};
use crate::support::training::{self, VIEWS};
use crate::workload::History;

/// How long compaction may take after the last view was loaded.
const PATIENCE: Duration = Duration::from_secs(1_800);

/// Says what is missing before hours are spent on it.
pub fn check_disk(folder: &Path, needed: u64) -> Result<()> {
    let free = machine::free_disk(folder)?;
    let gib = |bytes: u64| bytes >> 30;
    ensure!(
        free >= needed,
        "{} GiB of disk are needed in {}, {} are free: set TMPDIR to a larger disk, or leave this workload out (--parts)",
        gib(needed),
        folder.display(),
        gib(free)
    );
    Ok(())
}

/// As `docs/operate.md` advises for a server that makes training sets.
pub const SMALL_PAGES: (&str, &str) = ("MIMALLOC_ALLOW_THP", "0");

pub fn write_views(folder: &Path, rows: usize) -> Result<()> {
    std::thread::scope(|scope| {
        let writers = VIEWS.map(|view| scope.spawn(move || view.write(folder, rows)));
        writers
            .into_iter()
            .try_for_each(|writer| writer.join().map_err(|_| anyhow::anyhow!("a writer has panicked"))?)
    })
}

/// Loads the views by backfill, one after the other, and waits until they are compacted.
pub async fn load(folder: &Path, history: History, rows: usize, report: &mut Report) -> Result<(Hydrant, Client)> {
    // Before the figures are taken, compaction may take all that the disk gives.
    let loading = [("COMPACTION__INTERVAL", "1s"), ("COMPACTION__RATE", "1GiB")];
    let options: Vec<(&str, &str)> = history.options().iter().copied().chain(loading).chain([SMALL_PAGES]).collect();
    let server = Hydrant::start(&options).await?;
    let client = server.client().await?;
    client.apply(&definitions(&training::definitions())?, None).await?;
    for view in VIEWS {
        let (begun, cpu) = (Instant::now(), machine::cpu_micros(server.id())?);
        let mut command = Command::new(binary()?);
        command.arg("backfill").arg(view.source()).arg(view.path(folder)).arg("--ignore-extra");
        let done = command.args(["--server", server.address()]).output().context("can't run hydrant")?;
        ensure!(done.status.success(), "the backfill failed: {}", String::from_utf8_lossy(&done.stderr));
        let seconds = begun.elapsed().as_secs_f64();
        let row = json!({ "history": format!("{history:?}"), "view": view.name, "rows": rows, "seconds": figure(seconds),
            "rows/s": (rows as f64 / seconds).round() as u64,
            "server CPU s": figure((machine::cpu_micros(server.id())? - cpu) as f64 / 1e6),
            "server's peak memory MiB": machine::peak_memory(server.id())? >> 20 });
        report.row("loading by backfill", row)?;
    }
    let begun = Instant::now();
    let mut to_merge = f64::MAX;
    while to_merge > 0.0 && begun.elapsed() < PATIENCE {
        server.wait_until_quiet(PATIENCE).await?;
        to_merge = server.counter("hydrant_compaction_to_merge")?;
    }
    ensure!(to_merge == 0.0, "{to_merge} runs have not been merged: {}", server.log());
    let runs: BTreeMap<String, f64> = server.metric("hydrant_history_runs")?.into_iter().collect();
    for (labels, files) in server.metric("hydrant_history_files")? {
        let view = VIEWS.iter().find(|view| labels.contains(&format!("view=\"{}\"", view.name)));
        let view = view.with_context(|| format!("files of another view: {labels}"))?;
        let row = json!({ "history": format!("{history:?}"), "view": view.name, "files": files,
            "runs": runs.get(&labels), "seconds of compaction until then": figure(begun.elapsed().as_secs_f64()) });
        report.row("history of each view when it is measured", row)?;
    }
    Ok((server, client))
}
