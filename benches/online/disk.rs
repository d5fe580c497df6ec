//! Data ten times the block cache, without a row cache, and past the page cache of the operating
//! system: nearly every row comes from the disk.

use anyhow::Result;
use serde_json::{Value, json};

use crate::rows;
use crate::stalls::watched;
use crate::support::load::{closed_loop, open_loop, seek_highest_rate};
use crate::support::promise::Bound;
use crate::support::random::Choice;
use crate::support::report::figure;
use crate::support::streams::Streams;
use crate::support::views::{ADS, POINT};
use crate::{CONNECTIONS, NO_ROW_CACHE, Run, UNDER_WAY, WARM_UP, encoded};

const DIRECT: (&str, &str) = ("STORAGE__DIRECT_READS", "true");
const MEBIBYTE: u64 = 1 << 20;
const SHARE: f64 = 0.5;
/// Reads from a disk are few, and a 99th percentile wants many.
const LONGER: u32 = 5;

pub async fn measure(run: &mut Run) -> Result<()> {
    for workload in [POINT, ADS] {
        let data = workload.stored_bytes(run.options.keys_of(&workload));
        let cache = format!("{}MiB", (data / 10 / MEBIBYTE).max(1));
        let settings = [NO_ROW_CACHE, DIRECT, ("STORAGE__BLOCK_CACHE", cache.as_str())];
        run.systems.configure(&settings, &mut run.report).await?;
        let drawn = run.draw(&workload, Choice::Uniform);
        // No cache holds what reading all rows would bring in, so that is left out.
        let requests = encoded(&workload, &drawn)?;
        let load = Streams::connect(run.systems.hydrant.address(), CONNECTIONS, &requests, None).await?;
        let (server, duration) = (run.systems.hydrant.id(), run.duration());
        closed_loop(&load, UNDER_WAY, WARM_UP, server).await?;
        let closed = closed_loop(&load, UNDER_WAY, duration, server).await?;
        let sought = seek_highest_rate(&load, closed.rate(), duration, server).await?;
        let rate = sought.rate * SHARE;
        let before = run.systems.reads()?;
        let (outcome, stalls) = watched(server, open_loop(&load, rate, duration * LONGER, server)).await?;
        let outcome = outcome?;
        let disk_percent = run.systems.reads()?.disk_percent(&before);
        let mut half = Value::Object(rows::open("uniform", "hydrant", "50 %", rate, &outcome));
        half["keys from disk %"] = figure(disk_percent);
        stalls.tell(&mut half);
        let title = format!("{}: data 10 times the block cache, direct I/O, no row cache", workload.name);
        for mut row in [Value::Object(rows::highest("uniform", "hydrant", &sought)), half] {
            row["data MiB, about"] = json!(data / MEBIBYTE);
            row["block cache"] = json!(cache);
            run.report.row(&title, row)?;
        }
        let of = format!("{}, uniform, data 10 times the block cache, direct I/O", workload.name);
        run.promise_at_rate(
            sought.kept_up,
            &of,
            "p99 at 50 %, µs",
            outcome.percentile_of_all_micros(99.0),
            Bound::Under(10_000.0),
        )?;
    }
    Ok(())
}
