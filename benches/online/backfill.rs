//! `ads` at a quarter of its highest rate while history is loaded by a backfill, which the server sorts
//! and writes beside it. The command that sends the rows shares the load's core, and stands back from it:
//! whoever loads a store does it from another machine.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::rows;
use crate::stalls::watched;
use crate::support::load::open_loop;
use crate::support::machine;
use crate::support::process::{Process, binary, definitions};
use crate::support::promise::Bound;
use crate::support::random::Choice;
use crate::support::report::figure;
use crate::support::training::{VIEWS, definitions as history_definitions};
use crate::support::views::ADS;
use crate::{CLIENT_CORE, ROW_CACHE, Run};

const TITLE: &str = "ads at 25 % while history is loaded by a backfill";
const SHARE: f64 = 0.25;
/// So many that the backfill lasts longer than the measurement.
const ROWS_A_SECOND: f64 = 1_000_000.0;
/// The backfill alone before reads are measured, so that it sorts and writes.
const AHEAD: Duration = Duration::from_secs(3);

pub async fn measure(run: &mut Run) -> Result<()> {
    run.by_default().await?;
    let rate = SHARE * run.kept_up(&ADS).await?.rate;
    let drawn = run.draw(&ADS, Choice::Uniform);
    run.systems.configure(&[ROW_CACHE], &mut run.report).await?;
    let load = run.warm_load(&ADS, &drawn).await?;
    let (view, folder, reading) = (VIEWS[0], tempfile::tempdir()?, run.duration() * 2);
    let history_rows = ROWS_A_SECOND * (AHEAD + reading).as_secs_f64();
    view.write(folder.path(), history_rows as usize)?;
    let client = run.systems.hydrant.client().await?;
    client.apply(&definitions(&history_definitions())?, None).await?;
    run.systems.settle().await?;
    let server = run.systems.hydrant.id();

    let (alone, stalls) = watched(server, open_loop(&load, rate, reading, server)).await?;
    let mut row = Value::Object(rows::open("uniform", "hydrant, no backfill", "25 %", rate, &alone?));
    stalls.tell(&mut row);
    run.report.row(TITLE, row)?;

    let mut command = Command::new("nice");
    command.args(["-n", "19"]).arg(binary()?).arg("backfill").arg(view.source()).arg(view.path(folder.path()));
    command.args(["--ignore-extra", "--server", run.systems.hydrant.address()]);
    let mut backfill = Process::spawn(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
    machine::pin(backfill.id(), CLIENT_CORE)?;
    tokio::time::sleep(AHEAD).await;
    let written_before = machine::bytes_written(server)?;
    let (reads, stalls) = watched(server, open_loop(&load, rate, reading, server)).await?;
    let (reads, written) = (reads?, machine::bytes_written(server)? - written_before);
    backfill.check_running().context("the backfill ended before its reads were measured")?;
    let mut row = Value::Object(rows::open("uniform", "hydrant, beside a backfill", "25 %", rate, &reads));
    stalls.tell(&mut row);
    row["server wrote MiB/s"] = figure(written as f64 / reading.as_secs_f64() / 1_048_576.0);
    run.report.row(TITLE, row)?;
    let of = "ads, uniform, 25 %, while history is loaded by a backfill";
    run.promise(of, "p99, µs", reads.percentile_of_all_micros(99.0), Bound::Under(10_000.0))?;
    // What it has not taken in is given up, and the server is at rest for what comes next.
    drop(backfill);
    run.systems.settle().await
}
