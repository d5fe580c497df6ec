//! Highest rates that are kept up, and latencies at shares of them, from the intended start: Hydrant
//! with its row cache, and for `point` the bare server.

use anyhow::Result;
use serde_json::Value;

use crate::costs::Bare;
use crate::rows;
use crate::support::load::{closed_loop, highest_rate, open_loop};
use crate::support::promise::Bound;
use crate::support::random::Choice;
use crate::support::transport::Calls;
use crate::support::views::{ADS, ADS500, POINT, Workload};
use crate::{Highest, Run, UNDER_WAY};

const SHARES: [f64; 3] = [0.25, 0.5, 0.75];

/// What came of one server.
struct OfServer {
    highest: Highest,
    /// At half of the highest rate, in microseconds.
    half_p99: f64,
}

pub async fn measure(run: &mut Run) -> Result<()> {
    run.by_default().await?;
    for workload in run.workloads.clone() {
        for choice in run.options.choices.clone() {
            let drawn = run.draw(&workload, choice);
            let calls = run.warm(&workload, &drawn).await?;
            let server = run.systems.hydrant.id();
            let hydrant = of_server(run, &workload, choice, "hydrant", &calls, server).await?;
            if choice == Choice::Uniform {
                run.highest.insert(workload.name, hydrant.highest);
            }
            let of = format!("{}, {choice}", workload.name);
            if workload.name == POINT.name {
                run.systems.settle().await?;
                let bare = Bare::start(run, &workload, &drawn).await?;
                let server = bare.process.id();
                let transport = of_server(run, &workload, choice, "bare tonic", &bare.calls, server).await?;
                let rates = hydrant.highest.rate / transport.highest.rate;
                run.promise(&of, "highest rate / bare tonic's", rates, Bound::AtLeast(0.7))?;
                let p99s = hydrant.half_p99 / transport.half_p99;
                run.promise(&of, "p99 at 50 % / bare tonic's", p99s, Bound::AtMost(2.0))?;
            }
            let limit = match workload.name {
                name if name == POINT.name => 1_000.0,
                name if name == ADS.name => 3_000.0,
                name if name == ADS500.name => 8_000.0,
                _ => continue,
            };
            run.promise(&of, "p99 at 50 %, µs", hydrant.half_p99, Bound::Under(limit))?;
        }
    }
    Ok(())
}

async fn of_server(
    run: &mut Run,
    workload: &Workload,
    choice: Choice,
    system: &str,
    calls: &Calls,
    server: u32,
) -> Result<OfServer> {
    let (duration, keys, title) = (run.duration(), choice.to_string(), rows::open_title(workload));
    let closed = closed_loop(calls, UNDER_WAY, duration.div_f64(2.0), server).await?;
    let (rate, best, kept_up) = highest_rate(calls, closed.rate(), duration.div_f64(2.0), server).await?;
    let share = if kept_up { "highest" } else { "not kept up" };
    run.report.row(&title, Value::Object(rows::open(&keys, system, share, rate, &best)))?;
    let mut half_p99 = f64::NAN;
    for share in SHARES {
        let outcome = open_loop(calls, rate * share, duration, server).await?;
        if share == 0.5 {
            half_p99 = outcome.percentile_micros(99.0);
        }
        let name = format!("{:.0} %", share * 100.0);
        run.report.row(&title, Value::Object(rows::open(&keys, system, &name, rate * share, &outcome)))?;
    }
    Ok(OfServer { highest: Highest { rate, best: closed.rate().max(best.rate()) }, half_p99 })
}
