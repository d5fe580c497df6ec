//! `ads` at a quarter of its highest rate while rows of the view that it reads most are written, each
//! request acknowledged after its sync, often flushed, compacted and landed meanwhile. Writes and reads
//! come from the same client core. The product has no checkpoint yet, so none runs.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
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
use crate::support::load::open_loop;
use crate::support::machine;
use crate::support::promise::{self, Bound};
use crate::support::random::{Choice, Random};
use crate::support::report::figure;
use crate::support::views::ADS;

const ROWS_A_SECOND: f64 = 20_000.0;
const ROWS_A_REQUEST: usize = 100;
const SHARE: f64 = 0.25;
/// Writes alone before reads are measured, so that there is something to compact.
const AHEAD: Duration = Duration::from_secs(8);
/// More often than by default, so that flushes and compactions happen within so short a time.
const FLUSH_INTERVAL: (&str, &str) = ("PARTITIONS__FLUSH_INTERVAL", "1s");
/// As by default: landings happen too.
const TAIL: (&str, &str) = ("LANDING__TAIL", "64MiB");

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

pub async fn measure(run: &mut Run) -> Result<()> {
    run.by_default().await?;
    let rate = SHARE * run.kept_up(&ADS).await?.rate;
    run.systems.configure(&[crate::ROW_CACHE, FLUSH_INTERVAL, TAIL], &mut run.report).await?;
    let drawn = run.draw(&ADS, Choice::Uniform);
    let calls = run.warm(&ADS, &drawn).await?;
    run.systems.settle().await?;
    let server = run.systems.hydrant.id();
    let reading = run.duration() * 2;
    let title = "ads at 25 % under durable writes, with compaction and landing; no checkpoint: there is none yet";

    let (alone, stalls) = watched(server, open_loop(&calls, rate, reading, server)).await?;
    let mut row = Value::Object(rows::open("uniform", "hydrant, no writes", "25 %", rate, &alone?));
    stalls.tell(&mut row);
    run.report.row(title, row)?;

    let batches = ROWS_A_SECOND / ROWS_A_REQUEST as f64;
    let arrivals = Arrivals::phases_of(&[(batches, AHEAD), (batches, reading)]);
    let writes = made_up(run, arrivals.requests() as usize).await?;
    let written_before = machine::bytes_written(server)?;
    let (timer, live) = (Monotonic::begin(), Arc::default());
    let writing = send(&writes, &arrivals, Share::WHOLE, &timer, &live);
    let reads = async {
        tokio::time::sleep(AHEAD).await;
        watched(server, open_loop(&calls, rate, reading, server)).await
    };
    let (writing, reads) = tokio::join!(writing, reads);
    let (reads, stalls) = reads?;
    let (reads, written) = (reads?, machine::bytes_written(server)? - written_before);

    let meanwhile = writing.phases.last().context("writes have two phases")?;
    let rows_a_second = meanwhile.rate() * ROWS_A_REQUEST as f64;
    let failures: Vec<&str> = meanwhile.failures.iter().map(|failures| failures.message.as_str()).collect();
    let mut row = Value::Object(rows::open("uniform", "hydrant, under writes", "25 %", rate, &reads));
    stalls.tell(&mut row);
    row["rows/s acknowledged"] = json!(rows_a_second.round());
    row["write p99 µs"] = figure(meanwhile.percentile_micros(99.0));
    row["writes refused or failed"] = json!(meanwhile.failed() + meanwhile.refused());
    row["why"] = json!(failures.first().unwrap_or(&""));
    let seconds = arrivals.lasts().as_secs_f64();
    row["server wrote MiB/s"] = figure(written as f64 / seconds / 1_048_576.0);
    run.report.row(title, row)?;

    let of = "ads, uniform, 25 %, under 20,000 rows/s with compaction, without a checkpoint";
    run.promise(of, "rows/s acknowledged / 20,000", rows_a_second / ROWS_A_SECOND, Bound::AtLeast(0.98))?;
    run.promise(of, "p99, µs", reads.percentile_of_all_micros(99.0), Bound::Under(10_000.0))?;
    run.promise(of, "p99.9, µs", reads.percentile_of_all_micros(99.9), Bound::Under(20_000.0))?;
    let of = "ads, uniform, 25 %, under 20,000 rows/s with compaction and a running checkpoint";
    let why = "the product has no checkpoint yet";
    promise::tell_unmeasured(&mut run.report, of, "p99, µs", Bound::Under(10_000.0), why)?;
    promise::tell_unmeasured(&mut run.report, of, "p99.9, µs", Bound::Under(20_000.0), why)
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
