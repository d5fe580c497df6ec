//! How long a run will take, about: told at its start, so that nobody waits in vain. Reckoned from how
//! often each part measures; the page tells how long each took. It decides nothing.

use crate::{Options, Part, WARM_UP, tenants};

/// Trials of a search, each half of a measurement.
const SEARCH: f64 = 10.0 * 0.5;
/// Rows that are loaded a second, one rival after the other.
const LOADED_A_SECOND: f64 = 60_000.0;
/// Rows that are read a second to fill the caches.
const READ_A_SECOND: f64 = 500_000.0;
/// All workloads but `wide` share them.
const VIEWS: f64 = 4.0;
const WIDE_VIEWS: f64 = 10.0;
/// Starting a server again, and waiting until it idles.
const START_AGAIN: f64 = 5.0;
/// Making up requests and connecting, for each workload and choice of keys.
const PREPARE: f64 = 3.0;

pub fn told(options: &Options) -> String {
    let rows = VIEWS * options.keys as f64 + WIDE_VIEWS * options.wide_keys as f64;
    let shared = options.parts.iter().any(|part| !part.has_servers_of_its_own());
    let loading = if shared { 20.0 + rows / LOADED_A_SECOND } else { 0.0 };
    let parts: f64 = options.parts.iter().map(|part| seconds(*part, options, rows)).sum();
    format!("this takes about {:.0} minutes", ((loading + parts) / 60.0).max(1.0).ceil())
}

fn seconds(part: Part, options: &Options, rows: f64) -> f64 {
    let (workloads, choices) = (options.workloads.len() as f64, options.choices.len() as f64);
    let (one, warm_up) = (options.seconds, WARM_UP.as_secs_f64());
    let fill = 2.0 * rows / READ_A_SECOND;
    match part {
        Part::Cpu => {
            let of_each = 7.2 * one + warm_up / 2.0 + 2.0 * PREPARE;
            2.0 * (START_AGAIN + fill + workloads * warm_up) + workloads * choices * of_each
        }
        Part::Latency => {
            let of_each = (0.5 + SEARCH + 9.0) * one + PREPARE;
            // `point` is measured on the bare server too.
            fill + workloads * warm_up + (workloads + 1.0) * choices * of_each
        }
        Part::Services => warm_up + 2.0 * PREPARE + 5.0 * one,
        Part::Bursts => 2.0 * START_AGAIN + fill + 3.0 * warm_up + 7.0 * PREPARE + (9.0 + SEARCH) * one + 14.0,
        Part::Overload => PREPARE + 3.0 * one,
        Part::Writes => 3.0 * START_AGAIN + fill + warm_up + 2.0 * 8.0 + 6.0 * one,
        Part::Backfill => START_AGAIN + 2.0 * PREPARE + warm_up + 10.0 + 4.0 * one,
        Part::Disk => 2.0 * (START_AGAIN + warm_up + PREPARE + (6.0 + 2.0 * SEARCH) * one),
        Part::Tenants => 15.0 + 2.0 * PREPARE + warm_up + (2.0 * tenants::RUNS as f64 + SEARCH) * one,
        Part::Growth => {
            let rows = 21.0 * VIEWS * options.grow_keys as f64;
            4.0 * START_AGAIN + 10.0 * warm_up + 10.0 * one + rows / LOADED_A_SECOND
        }
        Part::Feast => 30.0 + 2.0 * warm_up + 8.0 * one + options.feast_keys as f64 / 150.0,
    }
}
