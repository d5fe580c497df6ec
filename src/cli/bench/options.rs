//! The options that every load has: how much of it, for how long, over which connections. They are
//! checked here, so that what measures needs not doubt them.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::super::Failure;
use crate::config::Span;

/// How much load, and for how long.
#[derive(Clone, Debug, clap::Args)]
pub struct LoadOptions {
    #[command(flatten)]
    pub rates: RateOptions,

    /// How long each rate is measured
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    pub duration: Span,

    /// How long the first rate is sent before anything is measured; 0s for a cold start
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    pub warm_up: Span,

    /// Measure each rate in three parts: as it is, so many times as much, and as it is again
    #[arg(long, value_name = "FACTORx", value_parser = factor, conflicts_with = "find_rate")]
    pub burst: Option<f64>,

    /// Connections to the server; each carries many requests at a time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1_024))]
    pub connections: u16,

    /// Threads that send, each with its share of the connections
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub threads: u16,

    /// Give every request this deadline
    #[arg(long, value_name = "DURATION")]
    pub deadline: Option<Span>,

    /// With --find-rate: the 99th percentile beyond which a rate does not count as kept up
    #[arg(long, value_name = "DURATION", default_value = "20ms")]
    pub p99_limit: Span,

    /// The server's process, if it runs on this machine: tells its CPU time a request
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,

    /// Write a page with plots
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
}

#[derive(Clone, Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct RateOptions {
    /// Requests a second, sent at even distances whatever the server does
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub rate: Option<f64>,

    /// Several rates, one after the other
    #[arg(long, value_name = "RATE,…", value_delimiter = ',', value_parser = rate)]
    pub rates: Vec<f64>,

    /// Find the highest rate that the server keeps up, then measure at 25, 50, 75 and 150 % of it
    #[arg(long)]
    pub find_rate: bool,
}

/// Requests of one run, at most: beyond it a slip of the keyboard is likelier than a plan.
const MAX_RATE: f64 = 10_000_000.0;
const LONGEST: Duration = Duration::from_secs(24 * 3_600);
const SHORTEST: Duration = Duration::from_millis(10);

impl LoadOptions {
    pub fn check(&self) -> Result<(), Failure> {
        let wrong = |message: &str| Err(Failure::new("BAD_LOAD", message));
        if !(SHORTEST..=LONGEST).contains(&self.duration.duration()) {
            return wrong("--duration lies between 10ms and 24h");
        }
        if self.warm_up.duration() > LONGEST {
            return wrong("--warm-up is at most 24h");
        }
        if self.deadline.is_some_and(|deadline| deadline.duration().is_zero()) {
            return wrong("--deadline is longer than nothing");
        }
        if self.threads > self.connections {
            return wrong("--threads is at most the number of --connections: each thread needs one");
        }
        Ok(())
    }

    /// The rates asked for; none where they are to be found.
    pub fn given_rates(&self) -> Vec<f64> {
        self.rates.rate.into_iter().chain(self.rates.rates.iter().copied()).collect()
    }

    pub fn settings(&self) -> Json {
        json!({
            "duration_s": self.duration.duration().as_secs_f64(),
            "warm_up_s": self.warm_up.duration().as_secs_f64(),
            "burst": self.burst,
            "connections": self.connections,
            "threads": self.threads,
            "deadline_ms": self.deadline.map(|deadline| deadline.duration().as_secs_f64() * 1_000.0),
        })
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.trim().parse::<f64>().ok().filter(|rate| *rate > 0.0 && *rate <= MAX_RATE);
    rate.ok_or_else(|| "write a number above 0 and up to 10000000".to_owned())
}

fn factor(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('x').unwrap_or(text).parse::<f64>();
    number
        .ok()
        .filter(|factor| *factor > 1.0 && *factor <= 1_000.0)
        .ok_or_else(|| "write a factor such as 10x".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_factors_are_numbers_that_make_sense() {
        assert_eq!(rate("0.5"), Ok(0.5));
        assert_eq!(factor("10x"), Ok(10.0));
        assert_eq!(factor("2.5"), Ok(2.5));
        for wrong in ["0", "-1", "NaN", "inf", "many", ""] {
            assert!(rate(wrong).is_err(), "{wrong}");
            assert!(factor(wrong).is_err(), "{wrong}");
        }
        assert!(factor("1x").is_err());
    }
}
