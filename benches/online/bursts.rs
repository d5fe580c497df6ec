//! Live events: hot keys beside uniform ones, and a rate that becomes ten times as high from one
//! moment to the next.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use hydrant::bench::arrivals::Arrivals;
use hydrant::bench::load::{Share, open_loop};
use hydrant::bench::tally::{Record, Tally, Window};
use hydrant::bench::timer::Monotonic;
use serde_json::{Value, json};

use crate::rows;
use crate::stalls::watched;
use crate::support::promise::Bound;
use crate::support::random::Choice;
use crate::support::report::figure;
use crate::support::views::{ADS, POINT, RequestKeys, Workload};
use crate::{ROW_CACHE, Run, requests_of};

const LIVE_EVENT: Choice = Choice::Zipf(1.2);
/// What two measurements of the same thing differ by.
const NOISE: f64 = 0.05;

const CALM: f64 = 0.05;
const BURST: f64 = 0.5;
/// At the higher rate, to begin with, so that it is known what there is to settle to.
const STEADY_TIME: Duration = Duration::from_secs(4);
const CALM_TIME: Duration = Duration::from_secs(4);
const BURST_TIME: Duration = Duration::from_secs(6);
/// Of a steady rate, to begin with, while connections and timers wake up.
const IGNORED: Duration = Duration::from_millis(500);
/// What a window's p99 may be against that of the same rate, once the step has settled.
const SETTLED: f64 = 2.0;
/// Windows in a row that have to be so: a second.
const STEADY_WINDOWS: usize = 10;

pub async fn measure(run: &mut Run) -> Result<()> {
    run.for_closed_loops(ROW_CACHE).await?;
    for workload in [POINT, ADS] {
        hot_keys(run, &workload).await?;
    }
    run.by_default().await?;
    step(run).await
}

async fn hot_keys(run: &mut Run, workload: &Workload) -> Result<()> {
    let (requests, keys) = (requests_of(workload), run.options.keys_of(workload));
    let drawn: [(&str, Vec<RequestKeys>); 3] = [
        ("uniform", run.draw(workload, Choice::Uniform)),
        ("zipf 1.2", run.draw(workload, LIVE_EVENT)),
        ("one key in half of the requests", workload.draw_one_hot(requests, keys)),
    ];
    let mut uniform_rate = None;
    for (name, drawn) in drawn {
        let calls = run.warm(workload, &drawn).await?;
        run.closed(&calls, run.duration().mul_f64(0.3)).await?;
        let outcome = run.closed(&calls, run.duration()).await?;
        let title = format!("{}: hot keys, closed loop", workload.name);
        run.report.row(&title, Value::Object(rows::closed(name, "hydrant", &outcome)))?;
        let uniform = *uniform_rate.get_or_insert(outcome.rate());
        if name != "uniform" {
            let what = "requests/s / those with uniform keys (1, less noise)";
            let of = format!("{}, {name}", workload.name);
            run.promise(&of, what, outcome.rate() / uniform, Bound::AtLeast(1.0 - NOISE))?;
        }
    }
    Ok(())
}

/// From a twentieth of the highest rate to half of it. It has settled once latencies are what they are at that rate
/// when nothing changes, which is seen beforehand.
async fn step(run: &mut Run) -> Result<()> {
    let highest = run.kept_up(&ADS).await?;
    let drawn = run.draw(&ADS, Choice::Uniform);
    let load = run.warm_load(&ADS, &drawn).await?;
    run.systems.settle().await?;
    let (from, to) = (CALM * highest.rate, BURST * highest.rate);
    let arrivals = Arrivals::phases_of(&[(to, STEADY_TIME), (from, CALM_TIME), (to, BURST_TIME)]);
    let (timer, live) = (Monotonic::begin(), Arc::default());
    let (record, stalls) =
        watched(run.systems.hydrant.id(), open_loop(&load, &arrivals, Share::WHOLE, &timer, &live)).await?;
    let [steady, calm, burst] = record.phases.as_slice() else { bail!("a load of three rates has three phases") };

    let step_at = STEADY_TIME + CALM_TIME;
    let before = p99_between(&record, STEADY_TIME + IGNORED, step_at)?;
    let at_that_rate = p99_between(&record, IGNORED, STEADY_TIME)?;
    let windows = &record.windows[windows_in(&record, step_at)..];
    let within = |limit: f64| settle_millis(windows, SETTLED * limit, record.window);
    let settled = within(at_that_rate);
    let reasons: Vec<String> =
        burst.refused_for.iter().map(|refusals| format!("{} × {}", refusals.count, refusals.status)).collect();
    let mut row = json!({
        "from/s": from.round(), "to/s": to.round(),
        "p99 before µs": figure(before),
        "p99 at the higher rate, steady µs": figure(at_that_rate),
        "p99 after µs": figure(burst.percentile_micros(99.0)),
        "highest p99 of 100 ms µs": windows.iter().filter_map(p99).max_by(f64::total_cmp).map(figure),
        "ms until within 2 × of steady": settled,
        "ms until within 2 × of before": within(before),
        "sent after": burst.sent, "answered": burst.answered(), "refused": burst.refused(),
        "refused for": reasons.join(", "), "failed": burst.failed(),
        "refused or failed before": lost_of(steady) + lost_of(calm),
    });
    stalls.tell(&mut row);
    run.report.row("ads: a tenfold step in rate, 5 % to 50 % of the highest, p99 of 100 ms windows", row)?;
    let of = "ads, uniform, a tenfold step in rate";
    // Refusing is no way of being in time.
    let is_kept_up = |phase: &Tally| lost_of(phase) * 100 <= phase.sent;
    let measured =
        settled.filter(|_| is_kept_up(steady) && is_kept_up(burst)).map_or(f64::INFINITY, |millis| millis as f64);
    run.promise(of, "ms until p99 is within 2 × of what it is at that rate", measured, Bound::AtMost(1_000.0))
}

fn lost_of(phase: &Tally) -> u64 {
    phase.refused() + phase.failed()
}

/// In microseconds.
fn p99_between(record: &Record, from: Duration, to: Duration) -> Result<f64> {
    let windows = &record.windows[windows_in(record, from)..windows_in(record, to)];
    p99_of(windows).context("nothing was answered before the step")
}

fn windows_in(record: &Record, time: Duration) -> usize {
    (time.as_nanos() / record.window.as_nanos()) as usize
}

/// Milliseconds from the first window until those that follow stay within the limit; `None` where
/// they never do.
fn settle_millis(windows: &[Window], limit: f64, window: Duration) -> Option<u64> {
    let within = |window: &Window| p99(window).is_some_and(|p99| p99 <= limit);
    let steady = windows.windows(STEADY_WINDOWS).position(|windows| windows.iter().all(within))?;
    Some(steady as u64 * window.as_millis() as u64)
}

/// Microseconds; `None` where nothing was answered.
fn p99(window: &Window) -> Option<f64> {
    (!window.latency.is_empty()).then(|| window.latency.value_at_percentile(99.0) as f64 / 1_000.0)
}

fn p99_of(windows: &[Window]) -> Option<f64> {
    let (first, others) = windows.split_first()?;
    let mut latency = first.latency.clone();
    for window in others {
        latency.add(&window.latency).ok()?;
    }
    (!latency.is_empty()).then(|| latency.value_at_percentile(99.0) as f64 / 1_000.0)
}
