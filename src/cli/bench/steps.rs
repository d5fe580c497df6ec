//! The course of a measurement: warm-up, the search for the highest rate where it is asked for, then
//! each rate by itself, steady or with a burst. It decides what is sent when; what comes of it is
//! told elsewhere.

use std::time::Duration;

use super::super::{Failure, output};
use super::drive::{Drivers, Ran, Work};
use super::options::LoadOptions;
use crate::bench::arrivals::Arrivals;
use crate::bench::search::{IN_TIME, RateSearch, kept_up};
use crate::bench::tally::Tally;

/// Requests under way in a closed loop, of all threads together.
const UNDER_WAY: usize = 32;
/// The shares of the highest rate that are measured once it is found. The last one is overload.
const SHARES: [f64; 4] = [0.25, 0.5, 0.75, 1.5];
/// A trial of the search lasts this part of a measurement, but a second at least.
const TRIAL_PART: f64 = 0.5;
const SHORTEST_TRIAL: Duration = Duration::from_secs(1);

/// All that was measured, in the order in which it was.
#[derive(Clone, Debug)]
pub struct Measured {
    pub search: Option<Found>,
    pub runs: Vec<Run>,
    /// Ctrl-C came before the end.
    pub interrupted: bool,
}

/// How the search for the highest rate went; rates in requests a second.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// What a closed loop got.
    pub closed_loop: f64,
    /// `None` where no rate was kept up.
    pub highest: Option<f64>,
    pub trials: Vec<Trial>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trial {
    pub rate: f64,
    pub answered_rate: f64,
    pub p99_micros: f64,
    pub kept_up: bool,
}

/// One rate, steady or with a burst in its middle.
#[derive(Clone, Debug)]
pub struct Run {
    /// Requests a second; those of a burst's other parts.
    pub rate: f64,
    pub arrivals: Arrivals,
    pub ran: Ran,
}

/// A part of a run in which the rate was one.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    pub run: &'a Run,
    pub part: Part,
    /// Requests a second that were due.
    pub rate: f64,
    pub tally: &'a Tally,
    /// How long after a change of rate latencies were steady.
    pub settled_after: Option<Settled>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Steady,
    Before,
    Burst,
    After,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    After(Duration),
    /// Not by the end of the part.
    Never,
}

/// Latencies are settled where they stay below this multiple of what they are in the part's second
/// half...
const SETTLED_FACTOR: f64 = 2.0;
/// ...and are taken as settled below this, which is noise.
const SETTLED_ANYWAY_MICROS: f64 = 1_000.0;

/// Measures as the options say. `per_request` is what a request counts as in the options' rates.
pub async fn measure(options: &LoadOptions, drivers: &mut Drivers, per_request: f64) -> Result<Measured, Failure> {
    let mut rates: Vec<f64> = options.given_rates().into_iter().map(|rate| rate / per_request).collect();
    let mut measured = Measured { search: None, runs: Vec::new(), interrupted: false };
    warm_up(options, drivers, rates.first().copied()).await?;
    if rates.is_empty() && !drivers.interrupted() {
        let found = find(options, drivers).await?;
        let base = found.highest.or(found.trials.last().map(|trial| trial.rate)).unwrap_or(found.closed_loop);
        rates = SHARES.iter().map(|share| share * base).collect();
        measured.search = Some(found);
    }
    for (index, rate) in rates.iter().enumerate() {
        if drivers.interrupted() {
            break;
        }
        let lasts = options.duration.duration();
        let arrivals = match options.burst {
            None => Arrivals::steady(*rate, lasts),
            Some(factor) => Arrivals::burst(*rate, factor, lasts),
        };
        let shown = output::count((rate * per_request).round() as u64);
        let label = format!("{shown} a second ({} of {})", index + 1, rates.len());
        let ran = drivers.run(Work::Open(arrivals.clone()), &label).await?;
        measured.runs.push(Run { rate: *rate, arrivals, ran });
    }
    measured.interrupted = drivers.interrupted();
    let replies = |run: &Run| run.ran.record.phases.iter().any(|tally| tally.sent > 0);
    if measured.interrupted && !measured.runs.iter().any(replies) {
        return Err(super::Interrupt::failure());
    }
    Ok(measured)
}

async fn warm_up(options: &LoadOptions, drivers: &mut Drivers, rate: Option<f64>) -> Result<(), Failure> {
    let lasts = options.warm_up.duration();
    if lasts.is_zero() {
        return Ok(());
    }
    let work = match rate {
        Some(rate) => Work::Open(Arrivals::steady(rate, lasts)),
        None => Work::Closed { under_way: UNDER_WAY, lasts },
    };
    drivers.run(work, "warming up").await.map(drop)
}

async fn find(options: &LoadOptions, drivers: &mut Drivers) -> Result<Found, Failure> {
    let lasts = options.duration.duration().mul_f64(TRIAL_PART).max(SHORTEST_TRIAL);
    let closed = drivers.run(Work::Closed { under_way: UNDER_WAY, lasts }, "as fast as it goes").await?;
    let tally = &closed.record.phases[0];
    let mut found = Found { closed_loop: tally.rate(), highest: None, trials: Vec::new() };
    if tally.answered() == 0 {
        let failures = tally.failures.first().or(tally.refused_for.first());
        let told = failures.map_or_else(String::new, |first| format!(": {} {}", first.status, first.message));
        let message = format!("nothing was answered{told}");
        return Err(if drivers.interrupted() {
            super::Interrupt::failure()
        } else {
            Failure::new("NO_ANSWERS", message)
        });
    }
    let limit = options.p99_limit.duration().as_secs_f64() * 1e6;
    let mut search = RateSearch::from(found.closed_loop);
    while let Some(rate) = search.next().filter(|_| !drivers.interrupted()) {
        let label = format!("are {} a second kept up?", output::count(rate.round() as u64));
        let ran = drivers.run(Work::Open(Arrivals::steady(rate, lasts)), &label).await?;
        let tally = &ran.record.phases[0];
        let kept_up = kept_up(tally, rate, limit);
        let (answered_rate, p99_micros) = (tally.rate(), tally.percentile_micros(99.0));
        found.trials.push(Trial { rate, answered_rate, p99_micros, kept_up });
        search.tell(kept_up);
    }
    found.highest = search.found();
    Ok(found)
}

impl Run {
    /// Its parts, in their order.
    pub fn steps(&self) -> impl Iterator<Item = Step<'_>> {
        let parts: &[Part] =
            if self.arrivals.phases().len() == 1 { &[Part::Steady] } else { &[Part::Before, Part::Burst, Part::After] };
        let of_phase = self.arrivals.phases().iter().zip(&self.ran.record.phases).zip(parts);
        of_phase.filter(|((_, tally), _)| tally.sent > 0).map(|((phase, tally), part)| Step {
            run: self,
            part: *part,
            rate: phase.rate,
            tally,
            settled_after: matches!(part, Part::Burst | Part::After).then(|| {
                // A queue that grows to the end is no state to settle in.
                let replied = (tally.answered() + tally.refused()) as f64 / tally.lasted.as_secs_f64().max(1e-9);
                let in_time = replied >= IN_TIME * phase.rate;
                if in_time { self.settled(phase.begins, phase.lasts) } else { Settled::Never }
            }),
        })
    }

    /// When after the beginning of a part its latencies came down to what they were at its end.
    fn settled(&self, begins: Duration, lasts: Duration) -> Settled {
        let record = &self.ran.record;
        let index = |at: Duration| (at.as_nanos() / record.window.as_nanos()) as usize;
        let (first, end) = (index(begins), index(begins + lasts).min(record.windows.len()));
        let windows = record.windows.get(first..end).unwrap_or_default();
        settled(&windows.iter().map(|window| window.latency.value_at_quantile(0.99) as f64 / 1e3).collect::<Vec<_>>())
            .map_or(Settled::Never, |windows| {
                Settled::After(record.window * u32::try_from(windows).unwrap_or(u32::MAX))
            })
    }
}

/// How many windows passed before the 99th percentiles were down for good; `None` where they never
/// were.
fn settled(percentiles: &[f64]) -> Option<usize> {
    let mut last_half = percentiles[percentiles.len() / 2..].to_vec();
    last_half.sort_by(f64::total_cmp);
    let usual = *last_half.get(last_half.len() / 2)?;
    let limit = (usual * SETTLED_FACTOR).max(SETTLED_ANYWAY_MICROS);
    let above = percentiles.iter().rposition(|p99| *p99 > limit).map_or(0, |last| last + 1);
    (above < percentiles.len()).then_some(above)
}

impl Part {
    pub fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Before => "before",
            Self::Burst => "burst",
            Self::After => "after",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_has_settled_once_latencies_stay_down() {
        let steady = [2_000.0; 10];
        assert_eq!(settled(&steady), Some(0));
        let mut with_a_hill = steady;
        with_a_hill[..3].copy_from_slice(&[90_000.0, 50_000.0, 9_000.0]);
        assert_eq!(settled(&with_a_hill), Some(3));
        let mut late = steady;
        late[9] = 50_000.0;
        assert_eq!(settled(&late), None);
        assert_eq!(settled(&[]), None);
        assert_eq!(settled(&[100.0, 900.0, 100.0, 100.0]), Some(0), "noise below a millisecond");
    }
}
