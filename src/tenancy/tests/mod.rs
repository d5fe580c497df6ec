//! Tests of admission: the queue by itself, under random operations, in a simulation, and as one thread has
//! it that also reads and refuses; the gate before it; and permits.

mod gate;
mod permits;
mod queue;
mod random;
mod simulation;
mod simulator;
mod worker;

use std::time::Duration;

use super::rules::{ClassRules, Rules};
use super::settings::AdmissionSettings;

const MILLI: Duration = Duration::from_millis(1);

/// The rules of the defaults with so many places for online reads, and no pulses.
fn rules(online_places: usize) -> Rules {
    let rules = AdmissionSettings { online_places, ..AdmissionSettings::default() }.rules();
    let never = Duration::from_secs(1_000_000);
    Rules { pulse: never, shared_pulse: never, ..rules }
}

fn with_online(rules: Rules, change: impl FnOnce(&mut ClassRules)) -> Rules {
    let mut rules = rules;
    change(&mut rules.classes[0]);
    rules
}
