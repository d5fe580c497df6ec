//! Fairness and shedding as promised, over simulated seconds.

use std::time::Duration;

use super::super::admission::Class;
use super::super::rules::Rules;
use super::simulator::{Load, Outcome, Stall, percentile, served, simulate, simulate_stalling, within};
use super::{MILLI, rules};

const SEEDS: std::ops::Range<u64> = 0..8;
const SECOND: Duration = Duration::from_secs(1);
/// Of an `ads` request.
const WORK: Duration = Duration::from_micros(300);
const PLACES: usize = 2;
/// Requests a second that the places can do.
const CAPACITY: f64 = PLACES as f64 / 300e-6;

fn pulsing() -> Rules {
    pulsing_with(PLACES)
}

fn pulsing_with(places: usize) -> Rules {
    Rules { pulse: MILLI, shared_pulse: MILLI / 4, ..rules(places) }
}

fn p99(outcomes: &[Outcome]) -> Duration {
    percentile(outcomes.iter().filter_map(|outcome| outcome.served), 0.99)
}

#[test]
fn at_half_as_much_again_as_can_be_done_nothing_is_lost_and_who_is_served_is_served_soon() {
    for seed in SEEDS {
        let outcomes = simulate(&pulsing(), &[Load::online(1.5 * CAPACITY, WORK)], 5 * SECOND, seed);
        let all = within(&outcomes, 0, Duration::ZERO, 5 * SECOND);
        let done = served(&all) as f64 / (5.0 * CAPACITY);
        assert!(done > 0.98, "seed {seed}: {done} of the best");
        assert!(p99(&all) < 10 * MILLI, "seed {seed}: p99 {:?}", p99(&all));
        let steady = within(&outcomes, 0, SECOND, 5 * SECOND);
        let median = percentile(steady.iter().filter_map(|outcome| outcome.served), 0.5);
        assert!(median < 3 * MILLI, "seed {seed}: the newest first: {median:?}");
        let refusals = || steady.iter().filter_map(|outcome| outcome.refused);
        assert!(refusals().count() > steady.len() / 4, "seed {seed}");
        assert_eq!(percentile(refusals(), 0.5), Duration::ZERO, "seed {seed}: most as soon as they come");
        assert!(percentile(refusals(), 0.999) < 7 * MILLI, "seed {seed}: {:?}", percentile(refusals(), 0.999));
        let from_the_start = percentile(all.iter().filter_map(|outcome| outcome.refused), 0.99);
        assert!(from_the_start < 8 * MILLI, "seed {seed}: {from_the_start:?}");
        assert!(all.iter().all(|outcome| outcome.served.is_some() != outcome.refused.is_some()));
    }
}

#[test]
fn below_what_can_be_done_nothing_is_refused() {
    for seed in SEEDS {
        let outcomes = simulate(&pulsing(), &[Load::online(0.85 * CAPACITY, WORK)], 5 * SECOND, seed);
        assert_eq!(served(&outcomes), outcomes.len(), "seed {seed}");
    }
}

/// Every so often, and for how long.
fn stalls(every: Duration, lasting: Duration, until: Duration) -> Vec<Stall> {
    (1..).map(|number| every * number).take_while(|at| *at < until).map(|at| at..at + lasting).collect()
}

#[test]
fn what_has_come_while_the_machine_stood_still_is_worked_off_and_not_refused() {
    for (load, every, lasting) in
        [(0.75, 500 * MILLI, 40 * MILLI), (0.75, 60 * MILLI, 10 * MILLI), (0.5, 50 * MILLI, 20 * MILLI)]
    {
        for seed in SEEDS {
            let stalls = stalls(every, lasting, 5 * SECOND);
            let loads = [Load::online(load * CAPACITY, WORK)];
            let outcomes = simulate_stalling(&pulsing(), &loads, &stalls, 5 * SECOND, seed);
            assert_eq!(served(&outcomes), outcomes.len(), "seed {seed}: {load} with {lasting:?} every {every:?}");
        }
    }
}

#[test]
fn more_than_can_be_done_is_refused_soon_also_where_the_machine_stands_still_now_and_then() {
    for seed in SEEDS {
        let stalls = stalls(250 * MILLI, 20 * MILLI, 5 * SECOND);
        let loads = [Load::online(1.5 * CAPACITY, WORK)];
        let outcomes = simulate_stalling(&pulsing(), &loads, &stalls, 5 * SECOND, seed);
        // 8 % of the time nothing runs.
        let done = served(&outcomes) as f64 / (5.0 * CAPACITY);
        assert!(done > 0.9, "seed {seed}: {done} of the best");
        let refused = |share| percentile(outcomes.iter().filter_map(|outcome| outcome.refused), share);
        assert!(refused(0.5) < 7 * MILLI, "seed {seed}: {:?}", refused(0.5));
        // Whoever came at the beginning of a stall waited for its end too.
        assert!(refused(0.99) < 30 * MILLI, "seed {seed}: {:?}", refused(0.99));
    }
}

#[test]
fn a_burst_is_worked_off_and_not_refused() {
    // 200 requests within a millisecond, every half second: 30 ms of work.
    let mut load = Load::online(0.0, WORK);
    load.rates = (0..10).flat_map(|at| [(at * 500 * MILLI, 200_000.0), (at * 500 * MILLI + MILLI, 0.0)]).collect();
    for seed in SEEDS {
        let outcomes = simulate(&pulsing(), &[load.clone()], 5 * SECOND, seed);
        assert!(outcomes.len() > 1_500, "seed {seed}: {}", outcomes.len());
        assert_eq!(served(&outcomes), outcomes.len(), "seed {seed}");
    }
}

#[test]
fn a_tenant_within_its_share_hardly_feels_one_at_ten_times_its_share() {
    for seed in SEEDS {
        let of_second = |first: f64| {
            let loads = [Load::online(first * CAPACITY, WORK), Load::online(0.25 * CAPACITY, WORK)];
            let outcomes = simulate(&pulsing(), &loads, 5 * SECOND, seed);
            let second = within(&outcomes, 1, Duration::ZERO, 5 * SECOND);
            assert_eq!(served(&second), second.len(), "seed {seed}: it is within its share");
            p99(&second)
        };
        // A half is the share of each.
        let (beside_modest, beside_greedy) = (of_second(0.5), of_second(5.0));
        let ratio = beside_greedy.as_secs_f64() / beside_modest.as_secs_f64();
        assert!(ratio <= 1.5, "seed {seed}: {beside_greedy:?} beside {beside_modest:?}");
    }
}

#[test]
fn what_there_is_is_shared_by_weight_and_by_cost() {
    for seed in SEEDS {
        // The second has three times the weight; its requests are four times as large.
        let mut loads = [Load::online(2.0 * CAPACITY, WORK), Load::online(CAPACITY, 4 * WORK)];
        loads[1].weight = 3;
        loads[1].cost = 4 * loads[0].cost;
        let outcomes = simulate(&pulsing(), &loads, 5 * SECOND, seed);
        let work = |tenant: usize| {
            let done = served(&within(&outcomes, tenant, SECOND, 5 * SECOND));
            done as f64 * loads[tenant].work.as_secs_f64()
        };
        let ratio = work(1) / work(0);
        assert!((2.8..3.2).contains(&ratio), "seed {seed}: {ratio}");
    }
}

#[test]
fn a_tenfold_step_in_rate_settles_within_a_second() {
    let mut load = Load::online(0.0, WORK);
    load.rates = vec![(Duration::ZERO, 0.3 * CAPACITY), (2 * SECOND, 3.0 * CAPACITY), (4 * SECOND, 0.3 * CAPACITY)];
    for seed in SEEDS {
        let outcomes = simulate(&pulsing(), &[load.clone()], 6 * SECOND, seed);
        let between = |from: Duration, to: Duration| within(&outcomes, 0, from, to);
        let stepped = between(2 * SECOND + 200 * MILLI, 4 * SECOND);
        assert!(p99(&stepped) < 10 * MILLI, "seed {seed}: {:?}", p99(&stepped));
        let done = served(&stepped) as f64 / (1.8 * CAPACITY);
        assert!(done > 0.98, "seed {seed}: {done} of the best");
        let after = between(4 * SECOND + 200 * MILLI, 6 * SECOND);
        assert_eq!(served(&after), after.len(), "seed {seed}: nothing is refused any more");
        assert!(p99(&after) < 3 * WORK, "seed {seed}: {:?}", p99(&after));
    }
}

#[test]
fn after_too_much_nothing_is_refused_soon_although_a_short_queue_would_be_full_now_and_then() {
    for (places, then) in [(PLACES, 0.85), (PLACES, 0.95), (1, 0.85), (1, 0.95)] {
        let capacity = places as f64 / WORK.as_secs_f64();
        let mut load = Load::online(0.0, WORK);
        load.rates = vec![(Duration::ZERO, 1.5 * capacity), (SECOND, then * capacity)];
        for seed in SEEDS {
            let outcomes = simulate(&pulsing_with(places), &[load.clone()], 6 * SECOND, seed);
            let refused = |from: Duration, to: Duration| {
                let all = within(&outcomes, 0, from, to);
                1.0 - served(&all) as f64 / all.len() as f64
            };
            assert!(refused(Duration::ZERO, SECOND) > 0.25, "seed {seed}: it is too much at first");
            let soon = refused(SECOND, 2 * SECOND);
            assert!(soon < 0.08, "seed {seed}: {places} at {then}: {soon}");
            let after = refused(2 * SECOND, 6 * SECOND);
            assert!(after < 0.04, "seed {seed}: {places} at {then}: {after}");
        }
    }
}

#[test]
fn a_little_more_than_can_be_done_leaves_no_place_idle() {
    for places in [1, PLACES] {
        let capacity = places as f64 / WORK.as_secs_f64();
        for seed in SEEDS {
            let outcomes = simulate(&pulsing_with(places), &[Load::online(1.05 * capacity, WORK)], 5 * SECOND, seed);
            let done = served(&outcomes) as f64 / (5.0 * capacity);
            assert!(done > 0.93, "seed {seed}: {places}: {done} of the best");
        }
    }
}

#[test]
fn requests_with_a_deadline_are_served_within_it_or_refused_by_then() {
    let mut load = Load::online(2.0 * CAPACITY, WORK);
    load.deadline = Some(4 * MILLI);
    for seed in SEEDS {
        let outcomes = simulate(&pulsing(), &[load.clone()], 3 * SECOND, seed);
        let slowest = outcomes.iter().filter_map(|outcome| outcome.served).max().expect("some are served");
        assert!(slowest <= 4 * MILLI + WORK, "seed {seed}: {slowest:?}");
        let done = served(&outcomes) as f64 / (3.0 * CAPACITY);
        assert!(done > 0.97, "seed {seed}: no work is spent on answers that nobody waits for: {done}");
    }
}

#[test]
fn writes_and_training_sets_go_on_slowly_beside_reads_beyond_what_can_be_done() {
    let mut writes = Load::online(20_000.0, 5 * MILLI);
    writes.class = Class::Ingest;
    let mut training = Load::online(100.0, 100 * MILLI);
    training.class = Class::Training;
    for seed in SEEDS {
        let loads = [Load::online(2.0 * CAPACITY, WORK), writes.clone(), training.clone()];
        let outcomes = simulate(&pulsing(), &loads, 3 * SECOND, seed);
        let reads = served(&within(&outcomes, 0, Duration::ZERO, 3 * SECOND)) as f64 / (3.0 * CAPACITY);
        assert!(reads > 0.98, "seed {seed}: {reads}");
        // An eighth of the places of writes, and one training set at a time.
        let (written, made) = (
            served(&within(&outcomes, 1, Duration::ZERO, 3 * SECOND)),
            served(&within(&outcomes, 2, Duration::ZERO, 3 * SECOND)),
        );
        assert!((4_500..12_000).contains(&written), "seed {seed}: {written}");
        assert!((29..60).contains(&made), "seed {seed}: {made}");
    }
}

#[test]
fn the_same_seed_gives_the_same_seconds() {
    let loads = [Load::online(CAPACITY, WORK), Load::online(CAPACITY, 2 * WORK)];
    let run = || format!("{:?}", simulate(&pulsing(), &loads, SECOND, 7));
    assert_eq!(run(), run());
}
