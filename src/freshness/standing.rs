//! How a view stands, as it is told to people and programs. Nothing is measured here.

use std::collections::VecDeque;

use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;

use super::alerts::{Silence, Whose};
use super::budget::Spent;
use super::measure::Seen;
use super::payload::Told;
use super::state::{BurnRates, Cause, State};
use super::{Watched, budget};
use crate::clock::rfc3339;
use crate::config::durations;
use crate::counter::Spread;
use crate::registry::promise::FreshnessSpec;

/// How a view stands to its promise, as of the last look.
#[derive(Clone, Debug)]
pub struct Standing {
    pub tenant: Name,
    pub view: Name,
    /// Of the view; may be empty.
    pub owner: String,
    pub promise: FreshnessSpec,
    pub state: State,
    pub cause: Option<Cause>,
    /// When the state began.
    pub since: Micros,
    /// Store time of the last look.
    pub looked_at: Micros,
    /// Of the newest row in the partition that is worst off; `None`: there never was one.
    pub age: Option<Micros>,
    pub seen: Seen,
    /// Of the window.
    pub spent: Spent,
    pub burn: BurnRates,
    pub served: Option<ServedQuantiles>,
    pub silence: Option<Silence>,
}

/// Ages of the rows that answered online reads over about the last hour, of a share of the reads; upper
/// bounds, at most an eighth above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServedQuantiles {
    pub rows: u64,
    pub p50: Micros,
    pub p90: Micros,
    pub p99: Micros,
}

/// How many rows of which age had been served by when, now and then.
#[derive(Debug, Default)]
pub(super) struct RecentAges(VecDeque<(Micros, Vec<u64>)>);

impl RecentAges {
    const EVERY: Micros = 5 * budget::MINUTE;
    const KEPT: usize = 12;

    pub fn note(&mut self, now: Micros, spread: Option<&Spread>) {
        let Some(spread) = spread else { return };
        if self.0.back().is_none_or(|(at, _)| now.saturating_sub(*at) >= Self::EVERY) {
            // Before the first, nothing had been served.
            let counts = if self.0.is_empty() { Vec::new() } else { spread.counts() };
            self.0.push_back((now, counts));
            if self.0.len() > Self::KEPT {
                self.0.pop_front();
            }
        }
    }

    fn quantiles(&self, spread: &Spread) -> Option<ServedQuantiles> {
        let before = self.0.front().map(|(_, counts)| counts.as_slice()).unwrap_or_default();
        let mut counts = spread.counts();
        for (count, before) in counts.iter_mut().zip(before) {
            *count = count.saturating_sub(*before);
        }
        let rows: u64 = counts.iter().sum();
        let of = |share| Spread::quantile(&counts, share).and_then(|bound| Micros::try_from(bound).ok());
        Some(ServedQuantiles { rows, p50: of(0.5)?, p90: of(0.9)?, p99: of(0.99)? })
    }
}

impl Standing {
    pub(super) fn of(
        (tenant, view): &Whose,
        watched: &Watched,
        silence: Option<Silence>,
        spread: Option<&Spread>,
    ) -> Self {
        let Watched { owner, promise, kept, seen, burn, .. } = watched;
        Self {
            tenant: tenant.clone(),
            view: view.clone(),
            owner: owner.clone(),
            promise: *promise,
            state: kept.state,
            cause: kept.cause,
            since: kept.since,
            looked_at: kept.looked_at,
            age: seen.age(),
            seen: *seen,
            spent: kept.budget.in_window(promise.window, kept.looked_at),
            burn: *burn,
            served: spread.and_then(|spread| watched.ages.quantiles(spread)),
            silence,
        }
    }

    /// The share of the window's measured time in which rows were fresh.
    pub fn attained(&self) -> Option<f64> {
        let measured = self.spent.good + self.spent.bad;
        (measured > 0).then(|| self.spent.good as f64 / measured as f64)
    }

    /// The share of the error budget that is left; below 0 where more was spent.
    pub fn budget_left(&self) -> f64 {
        1.0 - self.spent.bad as f64 / self.promise.budget().max(1) as f64
    }
}

/// What people read of a view's alerts.
pub(super) fn told(view: &Name, watched: &Watched, now: Micros) -> Told {
    let (promise, seen) = (&watched.promise, &watched.seen);
    let age = seen.age().map_or_else(|| "unknown".to_owned(), in_seconds);
    let spent = watched.kept.budget.in_window(promise.window, now).bad;
    let worst = match (seen.unreadable, seen.worst) {
        (Some(partition), _) => format!("partition {partition} can't be read"),
        (None, Some((partition, newest))) => {
            format!("the newest row of partition {partition} is of {}", rfc3339(newest))
        }
        (None, None) => "there are no rows".to_owned(),
    };
    Told {
        severity: promise.severity,
        owner: watched.owner.clone(),
        summary: format!(
            "view {view} is {}{}: age {age}, promised {}",
            watched.kept.state.as_str(),
            watched.kept.cause.map(|cause| format!(" ({})", cause.as_str())).unwrap_or_default(),
            durations::format(promise.max_age),
        ),
        description: format!(
            "{worst}; {} of {} of the error budget ({} over {}) is spent",
            in_seconds(spent),
            in_seconds(promise.budget()),
            promise.target,
            durations::format(promise.window),
        ),
    }
}

pub(super) fn told_of_gone(view: &Name) -> Told {
    Told {
        severity: crate::registry::promise::Severity::Info,
        owner: String::new(),
        summary: format!("nothing is promised of the freshness of view {view} any more"),
        description: "the view was deleted, or its promise withdrawn".to_owned(),
    }
}

/// Cut to whole seconds, such as `2h3m5s`.
fn in_seconds(span: Micros) -> String {
    const UNITS: [(&str, Micros); 4] =
        [("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000)];
    let (mut left, mut text) = (span.max(0), String::new());
    for (name, unit) in UNITS {
        if left >= unit {
            text.push_str(&format!("{}{name}", left / unit));
            left %= unit;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}
