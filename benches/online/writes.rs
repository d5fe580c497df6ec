//! `ads` at a quarter of its highest rate while rows of the view that it reads most are written, each
//! request acknowledged after its sync, often flushed, compacted and landed meanwhile; and once more while
//! one backup after the other is made. Writes and reads come from the same client core.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use hydrant::bench::arrivals::Arrivals;
use hydrant::bench::load::{Share, Target, open_loop as send};
use hydrant::bench::tally::{Answer, Reply};
use hydrant::bench::timer::Monotonic;
use hydrant::rpc::client::Client;
use hydrant_proto::v1;
use serde_json::{Value, json};

use crate::Run;
use crate::rows;
use crate::stalls::watched;
use crate::support::load::{Outcome, open_loop};
use crate::support::machine;
use crate::support::promise::Bound;
use crate::support::random::{Choice, Random};
use crate::support::report::figure;
use crate::support::streams::Streams;
use crate::support::views::ADS;

const TITLE: &str = "ads at 25 % under durable writes, with compaction and landing, without and with backups";

const ROWS_A_SECOND: f64 = 20_000.0;
const ROWS_A_REQUEST: usize = 100;
const SHARE: f64 = 0.25;
/// Writes alone before reads are measured, so that there is something to compact.
const AHEAD: Duration = Duration::from_secs(8);
/// More often than by default, so that flushes and compactions happen within so short a time.
const FLUSH_INTERVAL: (&str, &str) = ("PARTITIONS__FLUSH_INTERVAL", "1s");
/// As by default: landings happen too.
const TAIL: (&str, &str) = ("LANDING__TAIL", "64MiB");

const BACKUP_PREFIX: &str = "bench_";
/// How often it is looked whether the last backup has ended.
const PATIENCE_TRIES: usize = 300;

/// Requests that were made up beforehand, each sent once.
#[derive(Clone)]
struct Writes {
    client: Client,
    requests: Arc<Vec<v1::IngestRequest>>,
}

impl Target for Writes {
    async fn call(&self, number: u64) -> Reply {
        let request = self.requests[number as usize % self.requests.len()].clone();
        match self.client.ingest(request).await {
            Ok(answer) if answer.rows == ROWS_A_REQUEST as u64 => Reply::Answered(Answer::default()),
            Ok(answer) => Reply::Failed { status: "FEWER".to_owned(), message: format!("{} rows", answer.rows) },
            Err(refusal) => Reply::Failed { status: refusal.reason.clone(), message: refusal.to_string() },
        }
    }
}

/// What was measured while rows were written.
struct UnderWrites {
    reads: Outcome,
    rows_a_second: f64,
}

pub async fn measure(run: &mut Run) -> Result<()> {
    run.by_default().await?;
    let rate = SHARE * run.kept_up(&ADS).await?.rate;
    run.systems.configure(&[crate::ROW_CACHE, FLUSH_INTERVAL, TAIL], &mut run.report).await?;
    let drawn = run.draw(&ADS, Choice::Uniform);
    let load = run.warm_load(&ADS, &drawn).await?;
    run.systems.settle().await?;
    let server = run.systems.hydrant.id();

    let (alone, stalls) = watched(server, open_loop(&load, rate, run.duration() * 2, server)).await?;
    let mut row = Value::Object(rows::open("uniform", "hydrant, no writes", "25 %", rate, &alone?));
    stalls.tell(&mut row);
    run.report.row(TITLE, row)?;

    for (backups, system, of) in [
        (false, "hydrant, under writes", "without a backup"),
        (true, "hydrant, under writes and backups", "while backups are made"),
    ] {
        let UnderWrites { reads, rows_a_second } = under_writes(run, &load, rate, backups, system).await?;
        let of = format!("ads, uniform, 25 %, under 20,000 rows/s with compaction, {of}");
        let acknowledged = rows_a_second / ROWS_A_SECOND;
        run.promise(&of, "rows/s acknowledged / 20,000", acknowledged, Bound::AtLeast(0.98))?;
        run.promise(&of, "p99, µs", reads.percentile_of_all_micros(99.0), Bound::Under(10_000.0))?;
        run.promise(&of, "p99.9, µs", reads.percentile_of_all_micros(99.9), Bound::Under(20_000.0))?;
        run.systems.settle().await?;
    }
    Ok(())
}

async fn under_writes(run: &mut Run, load: &Streams, rate: f64, backups: bool, system: &str) -> Result<UnderWrites> {
    let (server, reading) = (run.systems.hydrant.id(), run.duration() * 2);
    let batches = ROWS_A_SECOND / ROWS_A_REQUEST as f64;
    let arrivals = Arrivals::phases_of(&[(batches, AHEAD), (batches, reading)]);
    let writes = made_up(run, arrivals.requests() as usize).await?;
    let written_before = machine::bytes_written(server)?;
    let (timer, live) = (Monotonic::begin(), Arc::default());
    let writing = send(&writes, &arrivals, Share::WHOLE, &timer, &live);
    let reads = async {
        tokio::time::sleep(AHEAD).await;
        watched(server, open_loop(load, rate, reading, server)).await
    };
    let mut made: Vec<v1::Backup> = Vec::new();
    let work = async { tokio::join!(writing, reads) };
    let (writing, reads) = if backups {
        let client = run.systems.hydrant.client().await?;
        let outcome = tokio::select! {
            biased;
            outcome = work => outcome,
            failed = back_up_for_ever(&client, &mut made) => return Err(failed),
        };
        remove_backups(&client).await?;
        outcome
    } else {
        work.await
    };
    let (reads, stalls) = reads?;
    let (reads, written) = (reads?, machine::bytes_written(server)? - written_before);

    let meanwhile = writing.phases.last().context("writes have two phases")?;
    let rows_a_second = meanwhile.rate() * ROWS_A_REQUEST as f64;
    let failures: Vec<&str> = meanwhile.failures.iter().map(|failures| failures.message.as_str()).collect();
    let mut row = Value::Object(rows::open("uniform", system, "25 %", rate, &reads));
    stalls.tell(&mut row);
    row["rows/s acknowledged"] = json!(rows_a_second.round());
    row["write p99 µs"] = figure(meanwhile.percentile_micros(99.0));
    row["writes refused or failed"] = json!(meanwhile.failed() + meanwhile.refused());
    row["why"] = json!(failures.first().unwrap_or(&""));
    let seconds = arrivals.lasts().as_secs_f64();
    row["server wrote MiB/s"] = figure(written as f64 / seconds / 1_048_576.0);
    if backups {
        row["backups made"] = json!(made.len());
        // Where none came to its end, the first was under way all the time.
        row["longest backup s"] = match made.iter().map(|backup| backup.took_micros).max() {
            Some(longest) => figure(longest as f64 / 1e6),
            None => json!(format!("more than {seconds}")),
        };
        let of_all = |bytes: fn(&v1::Backup) -> u64| made.iter().map(bytes).sum::<u64>() as f64 / 1_048_576.0;
        row["backups read MiB"] = figure(of_all(|backup| backup.read_bytes));
        row["backups copied MiB"] = figure(of_all(|backup| backup.copied_bytes));
    }
    run.report.row(TITLE, row)?;
    Ok(UnderWrites { reads, rows_a_second })
}

/// One backup after the other; the one before is deleted when the next is whole, as an operator would.
/// Ends only when something fails.
async fn back_up_for_ever(client: &Client, made: &mut Vec<v1::Backup>) -> anyhow::Error {
    loop {
        let name = format!("{BACKUP_PREFIX}{}", made.len());
        match client.create_backup(&name, |_| ()).await {
            Ok(backup) => made.push(backup),
            Err(refusal) => return anyhow!("backup {name}: {refusal}"),
        }
        let Some(before) = made.len().checked_sub(2).map(|before| made[before].name.clone()) else { continue };
        if let Err(refusal) = client.delete_backup(&before).await {
            return anyhow!("deleting backup {before}: {refusal}");
        }
    }
}

/// What is left of backups; the last is stopped when nobody waits for it any more.
async fn remove_backups(client: &Client) -> Result<()> {
    for _ in 0..PATIENCE_TRIES {
        let listed = client.list_backups().await?;
        let mut busy = false;
        for backup in listed.iter().filter(|backup| backup.name.starts_with(BACKUP_PREFIX)) {
            match client.delete_backup(&backup.name).await {
                Err(refusal) if refusal.reason == "BACKUP_BUSY" => busy = true,
                outcome => outcome?,
            }
        }
        if !busy {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("a backup that nobody waits for does not end")
}

async fn made_up(run: &Run, requests: usize) -> Result<Writes> {
    let client = run.systems.hydrant.client().await?;
    let now = client.server_info().await?.store_time;
    let (view, mut random) = (ADS.views[0], Random::new(23));
    let mut made = Vec::with_capacity(requests);
    for _ in 0..requests {
        let keys: Vec<u64> = (0..ROWS_A_REQUEST).map(|_| random.below(run.options.keys)).collect();
        made.push(view.ingest_request(&keys, now)?);
    }
    Ok(Writes { client, requests: Arc::new(made) })
}
