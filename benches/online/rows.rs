//! Rows of the tables of this benchmark.

use serde_json::{Map, Value, json};

use crate::UNDER_WAY;
use crate::support::load::{Outcome, Sought};
use crate::support::report::figure;
use crate::support::views::Workload;

pub fn closed_title(workload: &Workload) -> String {
    format!("{}: closed loop, {UNDER_WAY} requests under way, CPU a request", workload.name)
}

pub fn open_title(workload: &Workload) -> String {
    format!("{}: open loop, latency from the intended start", workload.name)
}

/// CPU of server and client a request, in microseconds.
pub fn both_cpu(outcome: &Outcome) -> f64 {
    outcome.server_cpu_per_request() + outcome.client_cpu_per_request()
}

pub fn closed(keys: &str, system: &str, outcome: &Outcome) -> Map<String, Value> {
    let mut figures = begin(keys, system);
    figures.extend(outcome.figures());
    figures.remove("p99.99 µs");
    figures.insert("client CPU µs".to_owned(), figure(outcome.client_cpu_per_request()));
    figures.insert("both CPU µs".to_owned(), figure(both_cpu(outcome)));
    figures
}

pub fn open(keys: &str, system: &str, share: &str, rate: f64, outcome: &Outcome) -> Map<String, Value> {
    let mut figures = begin(keys, system);
    figures.insert("share of highest".to_owned(), share.into());
    figures.insert("sent/s".to_owned(), json!(rate.round() as u64));
    figures.extend(outcome.figures());
    figures
}

/// The row of a highest rate: how often one was tried, too.
pub fn highest(keys: &str, system: &str, sought: &Sought) -> Map<String, Value> {
    let share = if sought.kept_up { "highest" } else { "not kept up" };
    let mut figures = open(keys, system, share, sought.rate, &sought.outcome);
    figures.insert("rates tried".to_owned(), json!(sought.trials));
    figures.insert("tried again".to_owned(), json!(sought.repeated));
    figures
}

/// A row with the server's CPU alone.
pub fn server_cpu(keys: &str, system: &str, micros: f64) -> Map<String, Value> {
    let mut figures = begin(keys, system);
    figures.insert("server CPU µs".to_owned(), figure(micros));
    figures
}

fn begin(keys: &str, system: &str) -> Map<String, Value> {
    let mut figures = Map::new();
    figures.insert("keys".to_owned(), keys.into());
    figures.insert("system".to_owned(), system.into());
    figures
}
