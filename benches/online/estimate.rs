//! How long a run will take, about: told at its start, so that nobody waits in vain. Measured on two
//! cores; it decides nothing.

use crate::{Options, Part, WARM_UP};

/// What a part takes whatever is asked for, such as starting servers again; measurements of
/// `--seconds`; and seconds for each million of keys.
struct Cost {
    fixed: f64,
    measurements: f64,
    per_million_keys: f64,
}

/// Rows that are loaded a second, into Hydrant and its rivals.
const LOADED_A_SECOND: f64 = 60_000.0;
/// Views beside those of `wide`: all other workloads share them.
const VIEWS: f64 = 4.0;
const WIDE_VIEWS: f64 = 10.0;

pub fn told(options: &Options) -> String {
    let rows = VIEWS * options.keys as f64 + WIDE_VIEWS * options.wide_keys as f64;
    let loading = if options.parts.iter().all(|part| part.has_servers_of_its_own()) { 0.0 } else { 20.0 };
    let loading = if loading > 0.0 { loading + rows / LOADED_A_SECOND } else { 0.0 };
    let parts: f64 = options.parts.iter().map(|part| seconds(*part, options)).sum();
    format!("this takes about {:.0} minutes", ((loading + parts) / 60.0).max(1.0).ceil())
}

fn seconds(part: Part, options: &Options) -> f64 {
    let combinations = (options.workloads.len() * options.choices.len()) as f64;
    let warm_up = WARM_UP.as_secs_f64();
    let cost = match part {
        Part::Cpu => Cost {
            fixed: 20.0 + 2.5 * warm_up * combinations,
            measurements: 6.0 * combinations,
            per_million_keys: 30.0,
        },
        Part::Services => Cost { fixed: 5.0, measurements: 5.0, per_million_keys: 0.0 },
        Part::Bursts => Cost { fixed: 45.0, measurements: 14.0, per_million_keys: 15.0 },
        Part::Latency => {
            Cost { fixed: 15.0 + warm_up * combinations, measurements: 17.0 * combinations, per_million_keys: 30.0 }
        }
        Part::Overload => Cost { fixed: 5.0, measurements: 3.0, per_million_keys: 0.0 },
        Part::Writes => Cost { fixed: 45.0, measurements: 4.0, per_million_keys: 10.0 },
        Part::Disk => Cost { fixed: 30.0, measurements: 30.0, per_million_keys: 60.0 },
        Part::Growth => Cost { fixed: 60.0, measurements: 10.0, per_million_keys: 0.0 },
        Part::Feast => Cost { fixed: 100.0, measurements: 8.0, per_million_keys: 0.0 },
    };
    let keys = options.keys as f64 / 1e6;
    cost.fixed + cost.measurements * options.seconds + cost.per_million_keys * keys
}
