//! Promises and whether they are kept: a bound beside what was measured, in one table of a report.

use std::fmt;

use anyhow::Result;
use serde_json::json;

use super::report::{Report, figure};

const TABLE: &str = "against the promises";

/// What a figure has to keep to.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    AtMost(f64),
    AtLeast(f64),
    Under(f64),
}

impl Bound {
    /// What was not measured is not kept.
    pub fn kept(self, measured: f64) -> bool {
        match self {
            Self::AtMost(bound) => measured <= bound,
            Self::AtLeast(bound) => measured >= bound,
            Self::Under(bound) => measured < bound,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(bound) => write!(formatter, "at most {bound}"),
            Self::AtLeast(bound) => write!(formatter, "at least {bound}"),
            Self::Under(bound) => write!(formatter, "under {bound}"),
        }
    }
}

/// Tells one promise. `of` says what it was measured on: workload, keys, server.
pub fn tell(report: &mut Report, of: &str, what: &str, measured: f64, bound: Bound) -> Result<()> {
    let kept = if bound.kept(measured) { "yes" } else { "no" };
    // Such as the time until something that never came.
    let told = if measured == f64::INFINITY { json!("never") } else { figure(measured) };
    let row = json!({ "of": of, "what": what, "measured": told, "promised": bound.to_string(), "kept": kept });
    report.row(TABLE, row)
}

/// A promise that this run can't measure, and why.
pub fn tell_unmeasured(report: &mut Report, of: &str, what: &str, bound: Bound, why: &str) -> Result<()> {
    let kept = format!("not measured: {why}");
    let row = json!({ "of": of, "what": what, "measured": null, "promised": bound.to_string(), "kept": kept });
    report.row(TABLE, row)
}
