//! Highest rates that are kept up, and latencies at shares of them, from the intended start: Hydrant
//! with its row cache, and the bare server, for `point` at shares of its own highest rate. For the other
//! workloads it answers at Hydrant's rates: what is left of their latencies is the transport's and the
//! machine's. The load is HTTP/2 and no more, so that what is late is the server and not a client that is busy.

use anyhow::Result;
use serde_json::{Value, json};

use crate::costs::Bare;
use crate::rows;
use crate::stalls::{Stalls, watched};
use crate::support::load::{Outcome, closed_loop, core_percent, open_loop, seek_highest_rate};
use crate::support::promise::Bound;
use crate::support::random::Choice;
use crate::support::report::figure;
use crate::support::streams::Streams;
use crate::support::views::{ADS, ADS500, POINT, Workload};
use crate::{Highest, Run, UNDER_WAY};

const SHARES: [f64; 3] = [0.25, 0.5, 0.75];

/// As it is named in the tables.
const BARE_AT_RATE: &str = "bare tonic, at the same rates";

/// Each rate is measured so often; the run whose p99 is the median is told, and the range of all.
const RUNS: usize = 3;

/// What came of one server.
struct OfServer {
    highest: Highest,
    rate: f64,
    /// At half of the highest rate, in microseconds.
    half_p99: f64,
}

pub async fn measure(run: &mut Run) -> Result<()> {
    run.by_default().await?;
    for workload in run.workloads.clone() {
        for choice in run.options.choices.clone() {
            let drawn = run.draw(&workload, choice);
            let load = run.warm_load(&workload, &drawn).await?;
            let server = run.systems.hydrant.id();
            let hydrant = of_server(run, &workload, choice, "hydrant", &load, server).await?;
            if choice == Choice::Uniform {
                run.highest.insert(workload.name, hydrant.highest);
            }
            let of = format!("{}, {choice}", workload.name);
            run.systems.settle().await?;
            let bare = Bare::start(run, &workload, &drawn).await?;
            let (load, server) = (bare.load().await?, bare.process.id());
            if workload.name == POINT.name {
                let transport = of_server(run, &workload, choice, "bare tonic", &load, server).await?;
                let both = hydrant.highest.kept_up && transport.highest.kept_up;
                let rates = hydrant.highest.rate / transport.highest.rate;
                run.promise_at_rate(both, &of, "highest rate / bare tonic's", rates, Bound::AtLeast(0.7))?;
                let p99s = hydrant.half_p99 / transport.half_p99;
                run.promise_at_rate(both, &of, "p99 at 50 % / bare tonic's", p99s, Bound::AtMost(2.0))?;
            } else {
                at_shares(run, &workload, choice, BARE_AT_RATE, &load, server, hydrant.rate).await?;
            }
            let limit = match workload.name {
                name if name == POINT.name => 1_000.0,
                name if name == ADS.name => 3_000.0,
                name if name == ADS500.name => 8_000.0,
                _ => continue,
            };
            let (kept_up, p99) = (hydrant.highest.kept_up, hydrant.half_p99);
            run.promise_at_rate(kept_up, &of, "p99 at 50 %, µs", p99, Bound::Under(limit))?;
        }
    }
    Ok(())
}

async fn of_server(
    run: &mut Run,
    workload: &Workload,
    choice: Choice,
    system: &str,
    load: &Streams,
    server: u32,
) -> Result<OfServer> {
    let (duration, keys, title) = (run.duration(), choice.to_string(), rows::open_title(workload));
    let closed = closed_loop(load, UNDER_WAY, duration.div_f64(2.0), server).await?;
    let sought = seek_highest_rate(load, closed.rate(), duration.div_f64(2.0), server).await?;
    run.report.row(&title, Value::Object(rows::highest(&keys, system, &sought)))?;
    let half_p99 = at_shares(run, workload, choice, system, load, server, sought.rate).await?;
    Ok(OfServer { highest: Highest::of(&sought, &closed), rate: sought.rate, half_p99 })
}

/// Latencies at shares of a rate; gives the p99 at half of it, in microseconds.
async fn at_shares(
    run: &mut Run,
    workload: &Workload,
    choice: Choice,
    system: &str,
    load: &Streams,
    server: u32,
    rate: f64,
) -> Result<f64> {
    let (duration, keys, title) = (run.duration(), choice.to_string(), rows::open_title(workload));
    // A rate's runs lie apart, so that what disturbs the machine for some seconds disturbs one of them.
    let mut runs: [Vec<(Outcome, Stalls)>; SHARES.len()] = Default::default();
    for _ in 0..RUNS {
        for (share, of_share) in SHARES.into_iter().zip(&mut runs) {
            let (outcome, stalls) = watched(server, open_loop(load, rate * share, duration, server)).await?;
            of_share.push((outcome?, stalls));
        }
    }
    let mut half_p99 = f64::NAN;
    for (share, mut of_share) in SHARES.into_iter().zip(runs) {
        let of_all = |outcome: &Outcome| outcome.percentile_of_all_micros(99.0);
        of_share.sort_by(|(one, _), (other, _)| of_all(one).total_cmp(&of_all(other)));
        let (median, stalls) = &of_share[of_share.len() / 2];
        if share == 0.5 {
            half_p99 = of_all(median);
        }
        let name = format!("{:.0} %", share * 100.0);
        let mut row = Value::Object(rows::open(&keys, system, &name, rate * share, median));
        let p99s = of_share.iter().map(|(outcome, _)| p99(outcome));
        let (least, most) = (p99s.clone().fold(f64::INFINITY, f64::min), p99s.fold(0.0, f64::max));
        row["errors of all runs"] = json!(of_share.iter().map(|(outcome, _)| outcome.errors).sum::<u64>());
        row["runs"] = json!(of_share.len());
        row["least p99 µs"] = figure(least);
        row["greatest p99 µs"] = figure(most);
        row["server's core %"] = core_percent(median.server_cpu_micros, median.seconds);
        row["load's core %"] = core_percent(median.client_cpu_micros, median.seconds);
        stalls.tell(&mut row);
        run.report.row(&title, row)?;
    }
    Ok(half_p99)
}

fn p99(outcome: &Outcome) -> f64 {
    outcome.percentile_micros(99.0)
}
