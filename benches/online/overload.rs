//! `ads` at one and a half times the highest rate that is kept up: how much is still answered, how
//! soon, and whether those that are refused are told when to come back.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::Run;
use crate::stalls::watched;
use crate::support::load::{core_percent, with_cpu};
use crate::support::promise::{self, Bound};
use crate::support::random::Choice;
use crate::support::report::figure;
use crate::support::views::ADS;
use hydrant::bench::arrivals::Arrivals;
use hydrant::bench::load::{Share, open_loop};
use hydrant::bench::timer::Monotonic;

const OVERLOAD: f64 = 1.5;

pub async fn measure(run: &mut Run) -> Result<()> {
    run.by_default().await?;
    let highest = run.kept_up(&ADS).await?;
    let drawn = run.draw(&ADS, Choice::Uniform);
    let load = run.warm_load(&ADS, &drawn).await?;
    run.systems.settle().await?;

    let rate = OVERLOAD * highest.rate;
    let arrivals = Arrivals::steady(rate, run.duration() * 2);
    let (timer, live) = (Monotonic::begin(), Arc::default());
    let server = run.systems.hydrant.id();
    let loaded = with_cpu(&timer, server, open_loop(&load, &arrivals, Share::WHOLE, &timer, &live));
    let (measured, stalls) = watched(server, loaded).await?;
    let (record, [of_server, of_load]) = measured?;
    let tally = record.phases.first().context("a steady load has a phase")?;
    let refused = tally.refused();
    let refused_after =
        |percentile| (refused > 0).then(|| figure(tally.refusals.value_at_percentile(percentile) as f64 / 1_000.0));
    let seconds = tally.lasted.as_secs_f64();
    let reasons: Vec<String> =
        tally.refused_for.iter().map(|refusals| format!("{} × {}", refusals.count, refusals.status)).collect();
    let failures: Vec<String> =
        tally.failures.iter().map(|failures| format!("{} × {}", failures.count, failures.message)).collect();
    let mut row = json!({
        "sent/s": rate.round(),
        "answered/s": tally.rate().round(),
        "of the best": figure(tally.rate() / highest.best),
        "answered p50 µs": figure(tally.percentile_micros(50.0)),
        "answered p99 µs": figure(tally.percentile_micros(99.0)),
        "answered p99.9 µs": figure(tally.percentile_micros(99.9)),
        "refused": refused,
        "with RetryInfo": tally.delays.told,
        "refused p50 µs": refused_after(50.0),
        "refused p99 µs": refused_after(99.0),
        "refused for": reasons.join(", "),
        // In all latencies: where the load's core is used up, it is the load that falls behind.
        "left late p99 µs": figure(tally.lateness.value_at_percentile(99.0) as f64 / 1_000.0),
        "server's core %": core_percent(of_server, seconds),
        "load's core %": core_percent(of_load, seconds),
        "failed": tally.failed(),
        "failures": failures.join(", "),
    });
    stalls.tell(&mut row);
    run.report.row("ads: 150 % of the highest rate, latency from the intended start", row)?;

    let of = "ads, uniform, 150 % of the highest rate";
    let (rate, p99) = (tally.rate() / highest.best, tally.percentile_micros(99.0));
    let told = tally.delays.told as f64 / refused as f64;
    run.promise(of, "answered/s / best", rate, Bound::AtLeast(0.8))?;
    run.promise(of, "p99 of what was admitted, µs", p99, Bound::Under(10_000.0))?;
    let what = "share of the refusals with RetryInfo";
    if refused == 0 {
        promise::tell_unmeasured(&mut run.report, of, what, Bound::AtLeast(1.0), "nothing was refused")
    } else {
        run.promise(of, what, told, Bound::AtLeast(1.0))
    }
}
