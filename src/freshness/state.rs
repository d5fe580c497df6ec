//! What a view's freshness is called, as a pure function of what was seen and spent. It measures nothing
//! and tells nobody.

use hydrant_storage::order::Micros;

use super::budget::{Budget, HOUR, MINUTE};
use crate::registry::promise::FreshnessSpec;

/// How a view stands to its promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Ok,
    AtRisk,
    Breached,
    /// There has never been a row of the view that could be seen.
    NoData,
}

/// Why it isn't OK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Rows are older than they may be.
    Stale,
    /// A partition that has rows of the view can't be read.
    Unreadable,
    /// Rows are fresh, and were too old for longer than the window may bear.
    BudgetSpent,
    /// Rows are fresh, and the budget is being spent much faster than it can bear.
    BurningFast,
    /// Rows are fresh, and nearly too old.
    NearLimit,
}

impl State {
    pub const ALL: [Self; 4] = [Self::Ok, Self::AtRisk, Self::Breached, Self::NoData];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::AtRisk => "AT_RISK",
            Self::Breached => "BREACHED",
            Self::NoData => "NO_DATA",
        }
    }
}

impl Cause {
    pub const ALL: [Self; 5] = [Self::Stale, Self::Unreadable, Self::BudgetSpent, Self::BurningFast, Self::NearLimit];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::Unreadable => "unreadable",
            Self::BudgetSpent => "budget spent",
            Self::BurningFast => "burning fast",
            Self::NearLimit => "near the limit",
        }
    }
}

/// Both must be exceeded for a budget to be burning: a long span, and a short one that tells that it
/// still does (Google's SRE workbook, chapter 5, "multiwindow, multi-burn-rate alerts"). `share` of the
/// budget spent within the long span is too fast.
#[derive(Clone, Copy, Debug)]
struct BurnRule {
    long: Micros,
    short: Micros,
    share: f64,
}

const BURN_RULES: [BurnRule; 2] = [
    BurnRule { long: HOUR, short: 5 * MINUTE, share: 0.02 },
    BurnRule { long: 6 * HOUR, short: 30 * MINUTE, share: 0.05 },
];

/// A rate below it is no hurry, however short the window.
const SLOWEST_BURN: f64 = 2.0;

/// From this share of the age promised on, rows are nearly too old.
const NEAR: f64 = 0.8;

/// How fast the budget is spent, over the spans of [`BURN_RULES`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BurnRates {
    pub five_minutes: f64,
    pub half_hour: f64,
    pub hour: f64,
    pub six_hours: f64,
}

impl BurnRates {
    pub fn of(budget: &Budget, promise: &FreshnessSpec, now: Micros) -> Self {
        let over = |span| budget.burn_rate(promise, span, now);
        Self {
            five_minutes: over(BURN_RULES[0].short),
            half_hour: over(BURN_RULES[1].short),
            hour: over(BURN_RULES[0].long),
            six_hours: over(BURN_RULES[1].long),
        }
    }

    /// By the name of their span.
    pub fn named(&self) -> [(&'static str, f64); 4] {
        [("5m", self.five_minutes), ("30m", self.half_hour), ("1h", self.hour), ("6h", self.six_hours)]
    }

    fn is_too_fast(&self, promise: &FreshnessSpec) -> bool {
        let spans = [(self.hour, self.five_minutes), (self.six_hours, self.half_hour)];
        BURN_RULES.iter().zip(spans).any(|(rule, (long, short))| {
            let limit = (rule.share * promise.window as f64 / rule.long as f64).max(SLOWEST_BURN);
            long > limit && short > limit
        })
    }
}

/// What the state is made from.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub promise: &'a FreshnessSpec,
    /// `None`: no row has ever been seen.
    pub age: Option<Micros>,
    pub is_unreadable: bool,
    /// Bad time of the window.
    pub bad: Micros,
    pub burn: BurnRates,
}

/// What holds of a view at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    pub state: State,
    pub cause: Option<Cause>,
    pub is_spent: bool,
    pub is_burning: bool,
}

impl Judged {
    /// Rows can't be had as fresh as promised, now.
    pub fn is_stale(&self) -> bool {
        matches!(self.cause, Some(Cause::Stale | Cause::Unreadable))
    }
}

pub fn judge(facts: &Facts<'_>) -> Judged {
    let is_spent = facts.bad > facts.promise.budget();
    let is_burning = facts.burn.is_too_fast(facts.promise);
    let near = |age: Micros| age as f64 > facts.promise.max_age as f64 * NEAR;
    let (state, cause) = match facts.age {
        _ if facts.is_unreadable => (State::Breached, Some(Cause::Unreadable)),
        None => (State::NoData, None),
        Some(age) if age > facts.promise.max_age => (State::Breached, Some(Cause::Stale)),
        Some(_) if is_spent => (State::Breached, Some(Cause::BudgetSpent)),
        Some(_) if is_burning => (State::AtRisk, Some(Cause::BurningFast)),
        Some(age) if near(age) => (State::AtRisk, Some(Cause::NearLimit)),
        Some(_) => (State::Ok, None),
    };
    Judged { state, cause, is_spent, is_burning }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(age: Option<Micros>, bad: Micros, hour: f64, five_minutes: f64) -> (State, Option<Cause>) {
        let promise = FreshnessSpec::of(1_000);
        let burn = BurnRates { hour, five_minutes, ..Default::default() };
        let judged = judge(&Facts { promise: &promise, age, is_unreadable: false, bad, burn });
        (judged.state, judged.cause)
    }

    #[test]
    fn a_row_of_exactly_the_promised_age_is_fresh() {
        assert_eq!(judged(Some(1_000), 0, 0.0, 0.0), (State::AtRisk, Some(Cause::NearLimit)));
        assert_eq!(judged(Some(1_001), 0, 0.0, 0.0), (State::Breached, Some(Cause::Stale)));
        assert_eq!(judged(Some(800), 0, 0.0, 0.0), (State::Ok, None));
        assert_eq!(judged(Some(801), 0, 0.0, 0.0), (State::AtRisk, Some(Cause::NearLimit)));
        assert_eq!(judged(None, 0, 0.0, 0.0), (State::NoData, None));
    }

    #[test]
    fn a_budget_that_is_exactly_used_up_is_kept() {
        let budget = FreshnessSpec::of(1_000).budget();
        assert_eq!(judged(Some(0), budget, 0.0, 0.0), (State::Ok, None));
        assert_eq!(judged(Some(0), budget + 1, 0.0, 0.0), (State::Breached, Some(Cause::BudgetSpent)));
        assert_eq!(judged(Some(2_000), budget + 1, 0.0, 0.0), (State::Breached, Some(Cause::Stale)));
    }

    #[test]
    fn a_budget_burns_fast_where_it_did_over_the_hour_and_still_does() {
        assert_eq!(judged(Some(0), 0, 14.5, 14.5), (State::AtRisk, Some(Cause::BurningFast)));
        assert_eq!(judged(Some(0), 0, 14.5, 14.0), (State::Ok, None));
        assert_eq!(judged(Some(0), 0, 14.0, 90.0), (State::Ok, None));
        let promise = FreshnessSpec::of(1_000);
        let slow = BurnRates { six_hours: 6.1, half_hour: 6.1, ..Default::default() };
        assert!(slow.is_too_fast(&promise));
        let of_a_day = FreshnessSpec { window: 24 * HOUR, ..promise };
        let bearable = BurnRates { six_hours: 1.9, half_hour: 1.9, hour: 1.9, five_minutes: 1.9 };
        assert!(!bearable.is_too_fast(&of_a_day) && slow.is_too_fast(&of_a_day));
    }
}
