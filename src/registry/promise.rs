//! A freshness promise: how old a view's newest rows may be, for which share of which window, and how
//! loudly its breach is told. It is read and written here, and never watched: that is `freshness`.

use std::fmt;
use std::str::FromStr;

use hydrant_storage::order::Micros;
use serde::{Deserialize, Serialize};

use crate::config::durations;

const DAY: Micros = 86_400_000_000;

/// What a view's owner promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub struct FreshnessSpec {
    /// Microseconds. A row of exactly this age is fresh.
    pub max_age: Micros,
    pub target: Target,
    /// Microseconds over which the target is reckoned.
    pub window: Micros,
    pub severity: Severity,
}

impl FreshnessSpec {
    pub const DEFAULT_WINDOW: Micros = 30 * DAY;
    pub const SHORTEST_WINDOW: Micros = DAY;
    pub const LONGEST_WINDOW: Micros = 90 * DAY;

    /// Only the age is promised; the rest is the default.
    pub fn of(max_age: Micros) -> Self {
        Self { max_age, target: Target::default(), window: Self::DEFAULT_WINDOW, severity: Severity::default() }
    }

    /// Time that rows may be too old in each window.
    pub fn budget(&self) -> Micros {
        // Both are bounded, so that this is far from overflowing 128 bits, and fits in 64.
        let budget = i128::from(self.window) * i128::from(Target::WHOLE - self.target.0) / i128::from(Target::WHOLE);
        Micros::try_from(budget).unwrap_or(Micros::MAX)
    }

    /// Every breach of the rules, with the field's name.
    pub fn breaches(&self) -> Vec<(&'static str, String)> {
        let mut breaches = Vec::new();
        if self.max_age <= 0 {
            breaches.push(("maxAge", "must be longer than nothing".to_owned()));
        }
        if !(Self::SHORTEST_WINDOW..=Self::LONGEST_WINDOW).contains(&self.window) {
            let (least, most) = (durations::format(Self::SHORTEST_WINDOW), durations::format(Self::LONGEST_WINDOW));
            breaches.push(("window", format!("{} is not between {least} and {most}", durations::format(self.window))));
        } else if self.max_age > self.window {
            let (max_age, window) = (durations::format(self.max_age), durations::format(self.window));
            breaches
                .push(("maxAge", format!("{max_age} is longer than the window ({window}), which could never tell")));
        }
        breaches
    }
}

/// A share of time in millionths, such as `99.5%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Target(u32);

/// Why a text or number is no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{shown}' is no target: write a percentage from 50% to 99.9999%, such as 99.5%, with at most four decimals{why}"
)]
pub struct InvalidTarget {
    shown: String,
    why: &'static str,
}

impl Target {
    const WHOLE: u32 = 1_000_000;
    const LEAST: u32 = 500_000;
    const MOST: u32 = Self::WHOLE - 1;

    pub fn millionths(self) -> u32 {
        self.0
    }

    /// The share of time that rows may be too old: never 0.
    pub fn allowance(self) -> f64 {
        f64::from(Self::WHOLE - self.0) / f64::from(Self::WHOLE)
    }
}

impl Default for Target {
    fn default() -> Self {
        Self(990_000)
    }
}

impl FromStr for Target {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        let wrong = |why| InvalidTarget { shown: text.chars().take(40).collect(), why };
        let number = text.strip_suffix('%').map(str::trim_end).ok_or_else(|| wrong(""))?;
        let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
        let digits =
            |text: &str, most| (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole, 3) || !digits(decimals, 4) {
            return Err(wrong(""));
        }
        let millionths = format!("{whole}{decimals:0<4}").parse::<u32>().map_err(|_| wrong(""))?;
        if millionths >= Self::WHOLE {
            return Err(wrong(": 100% leaves no time for anything to go wrong"));
        }
        Self::try_from(millionths).map_err(|_| wrong(""))
    }
}

impl TryFrom<u32> for Target {
    type Error = InvalidTarget;

    fn try_from(millionths: u32) -> Result<Self, InvalidTarget> {
        let in_range = (Self::LEAST..=Self::MOST).contains(&millionths);
        in_range
            .then_some(Self(millionths))
            .ok_or_else(|| InvalidTarget { shown: format!("{}%", f64::from(millionths) / 10_000.0), why: "" })
    }
}

impl From<Target> for u32 {
    fn from(target: Target) -> Self {
        target.0
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, decimals) = (self.0 / 10_000, format!("{:04}", self.0 % 10_000));
        match decimals.trim_end_matches('0') {
            "" => write!(formatter, "{whole}%"),
            decimals => write!(formatter, "{whole}.{decimals}%"),
        }
    }
}

/// How loudly a breach is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Somebody is woken.
    Page,
    /// Somebody looks at it in working hours.
    #[default]
    Ticket,
    /// It is written down.
    Info,
}

impl Severity {
    pub const ALL: [Self; 3] = [Self::Page, Self::Ticket, Self::Info];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Page => "page",
            Self::Ticket => "ticket",
            Self::Info => "info",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no severity: write page, ticket or info")]
pub struct InvalidSeverity(String);

impl FromStr for Severity {
    type Err = InvalidSeverity;

    fn from_str(text: &str) -> Result<Self, InvalidSeverity> {
        let found = Self::ALL.into_iter().find(|severity| severity.as_str() == text);
        found.ok_or_else(|| InvalidSeverity(text.chars().take(40).collect()))
    }
}

/// As it may lie in a registry: builds that watched nothing kept the age alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum Stored {
    MaxAge(Micros),
    Whole { max_age: Micros, target: Target, window: Micros, severity: Severity },
}

impl From<Stored> for FreshnessSpec {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::MaxAge(max_age) => Self::of(max_age),
            Stored::Whole { max_age, target, window, severity } => Self { max_age, target, window, severity },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_read_as_they_are_written() {
        for text in ["99%", "99.5%", "50%", "99.9999%", "97.25%"] {
            assert_eq!(text.parse::<Target>().expect(text).to_string(), text);
        }
        assert_eq!("99.50 %".parse::<Target>().expect("blanks").to_string(), "99.5%");
        for text in ["", "%", "99", "49.9999%", "100%", "100.0%", "999%", "-99%", "+99%", "99.%", ".5%", "99.99999%"] {
            let refused = text.parse::<Target>().expect_err(text).to_string();
            assert!(refused.starts_with(&format!("'{text}' is no target: write a percentage")), "{refused}");
        }
        assert!(
            "100%".parse::<Target>().expect_err("all").to_string().ends_with("leaves no time for anything to go wrong")
        );
    }

    #[test]
    fn a_budget_is_the_share_of_the_window_that_the_target_leaves() {
        assert_eq!(FreshnessSpec::of(1).budget(), 30 * DAY / 100);
        let narrow =
            FreshnessSpec { target: "99.9999%".parse().expect("a target"), window: DAY, ..FreshnessSpec::of(1) };
        assert_eq!(narrow.budget(), 86_400);
    }

    #[test]
    fn a_promise_of_an_earlier_build_is_its_age_with_defaults() {
        let old: FreshnessSpec = serde_json::from_str("7200000000").expect("an age");
        assert_eq!(old, FreshnessSpec::of(7_200_000_000));
        let text = serde_json::to_string(&old).expect("JSON");
        assert_eq!(serde_json::from_str::<FreshnessSpec>(&text).expect("as written"), old);
        assert!(serde_json::from_str::<FreshnessSpec>(&text.replace("990000", "1000000")).is_err());
    }
}
