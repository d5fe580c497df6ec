//! Data ten times the block cache, without a row cache, and past the page cache of the operating
//! system: nearly every row comes from the disk.

use anyhow::Result;
use serde_json::{Value, json};

use crate::rows;
use crate::support::load::{closed_loop, highest_rate, open_loop};
use crate::support::promise::Bound;
use crate::support::random::Choice;
use crate::support::report::figure;
use crate::support::views::{ADS, POINT};
use crate::{NO_ROW_CACHE, Run, UNDER_WAY};

const DIRECT: (&str, &str) = ("STORAGE__DIRECT_READS", "true");
const MEBIBYTE: u64 = 1 << 20;

pub async fn measure(run: &mut Run) -> Result<()> {
    for workload in [POINT, ADS] {
        let data = workload.stored_bytes(run.options.keys_of(&workload));
        let cache = format!("{}MiB", (data / 10 / MEBIBYTE).max(1));
        let settings = [NO_ROW_CACHE, DIRECT, ("STORAGE__BLOCK_CACHE", cache.as_str())];
        run.systems.configure(&settings, &mut run.report).await?;
        let drawn = run.draw(&workload, Choice::Uniform);
        let calls = run.warm(&workload, &drawn).await?;
        let (server, duration) = (run.systems.hydrant.id(), run.duration());
        let closed = closed_loop(&calls, UNDER_WAY, duration, server).await?;
        let (rate, best, kept_up) = highest_rate(&calls, closed.rate(), duration.div_f64(2.0), server).await?;
        let title = format!("{}: data 10 times the block cache, direct I/O, no row cache", workload.name);
        let share = if kept_up { "highest" } else { "not kept up" };
        run.report.row(&title, Value::Object(rows::open("uniform", "hydrant", share, rate, &best)))?;
        let before = run.systems.reads()?;
        let outcome = open_loop(&calls, rate * 0.5, duration * 2, server).await?;
        let disk_percent = run.systems.reads()?.disk_percent(&before);
        let mut row = rows::open("uniform", "hydrant", "50 %", rate * 0.5, &outcome);
        row.insert("data MiB, about".to_owned(), json!(data / MEBIBYTE));
        row.insert("block cache".to_owned(), cache.into());
        row.insert("keys from disk %".to_owned(), figure(disk_percent));
        run.report.row(&title, Value::Object(row))?;
        let of = format!("{}, uniform, data 10 times the block cache, direct I/O", workload.name);
        run.promise(&of, "p99 at 50 %, µs", outcome.percentile_micros(99.0), Bound::Under(10_000.0))?;
    }
    Ok(())
}
