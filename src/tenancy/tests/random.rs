//! The queue under random operations, against what must hold whatever happens.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::super::admission::{Arrival, Asked, Class, Queue, Start, TenantIndex, Ticket, Verdicts};
use super::super::rules::Rules;
use super::simulator::SplitMix;
use super::{MILLI, rules};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waits(Ticket, Class, TenantIndex),
    Works(Start),
    Paused(Start),
}

struct Model {
    queue: Queue<u64>,
    now: Instant,
    /// Those not ended, by number.
    requests: BTreeMap<u64, State>,
    pulsing: bool,
    next: u64,
    seed: u64,
}

impl Model {
    fn act<T>(&mut self, act: impl FnOnce(&mut Queue<u64>, Instant, &mut Verdicts<u64>) -> T) -> T {
        let mut verdicts = Verdicts::default();
        let outcome = act(&mut self.queue, self.now, &mut verdicts);
        for (number, start) in verdicts.begin {
            self.queue.take_up(start.class, start.tenant);
            self.begin(number, start);
        }
        for (number, _) in verdicts.refused {
            let told = self.requests.remove(&number);
            assert!(matches!(told, Some(State::Waits(..))), "seed {}: {number} was told already: {told:?}", self.seed);
        }
        outcome
    }

    fn begin(&mut self, number: u64, start: Start) {
        let before = self.requests.insert(number, State::Works(start));
        let seed = self.seed;
        assert!(matches!(before, None | Some(State::Waits(..))), "seed {seed}: {number} has begun already: {before:?}");
        assert!(!(start.pulse && self.pulsing), "seed {seed}: one at a time lets in what has arrived");
        self.pulsing |= start.pulse;
    }

    fn arrive(&mut self, random: &mut SplitMix) {
        let class = Class::ALL[random.below(Class::ALL.len())];
        let useful_until = (random.below(3) == 0).then(|| self.now + MILLI * random.below(30) as u32);
        let asked = Asked { cost: random.below(100) as u64, bytes: random.below(300), useful_until };
        let (number, tenant) = (self.next, random.below(3));
        self.next += 1;
        match self.act(|queue, now, verdicts| queue.arrive(now, class, tenant, asked, || number, verdicts)) {
            Arrival::Begins(start) => self.begin(number, start),
            Arrival::Waits(ticket) => drop(self.requests.insert(number, State::Waits(ticket, class, tenant))),
            Arrival::Refused(_) => {}
        }
    }

    /// Something happens to a request under way.
    fn go_on(&mut self, random: &mut SplitMix) {
        let Some((&number, &state)) = self.requests.iter().nth(random.below(self.requests.len().max(1))) else {
            return;
        };
        match state {
            State::Waits(ticket, ..) => {
                if random.below(4) == 0 {
                    self.requests.remove(&number);
                    let given_up = self.act(|queue, now, verdicts| queue.give_up(now, ticket, verdicts));
                    assert_eq!(given_up, Some(number), "seed {}", self.seed);
                }
            }
            State::Works(start) if start.class == Class::Online && random.below(3) == 0 => {
                self.requests.insert(number, State::Paused(start));
                self.act(|queue, now, verdicts| queue.pause(now, start.class, verdicts));
            }
            State::Paused(start) if random.below(2) == 0 => {
                self.requests.insert(number, State::Works(start));
                self.queue.resume(start.class);
            }
            State::Works(start) | State::Paused(start) => {
                self.requests.remove(&number);
                let works = matches!(state, State::Works(_));
                let begun = works.then_some(self.now - MILLI);
                self.act(|queue, now, verdicts| queue.leave(|| now, start.class, start.tenant, works, begun, verdicts));
            }
        }
    }

    fn check(&self, rules: &Rules) {
        for class in Class::ALL {
            let count = |wanted: fn(&State) -> Option<Class>| {
                self.requests.values().filter(|state| wanted(state) == Some(class)).count()
            };
            let works = count(|state| if let State::Works(start) = state { Some(start.class) } else { None });
            let paused = count(|state| if let State::Paused(start) = state { Some(start.class) } else { None });
            let seed = self.seed;
            assert_eq!(self.queue.working(class), works, "seed {seed}: {class:?}");
            assert_eq!(self.queue.in_flight(class), works + paused, "seed {seed}: {class:?}");
            assert!(works + paused <= rules.classes[class as usize].in_flight, "seed {seed}: {class:?}");
        }
        let waits = self.requests.values().filter(|state| matches!(state, State::Waits(..))).count();
        assert_eq!(
            Class::ALL.iter().map(|class| self.queue.waiting(*class)).sum::<usize>(),
            waits,
            "seed {}",
            self.seed
        );
        // Nobody waits for nothing: the first class with waiting requests has no free place for them, or they are
        // of tenants that have as much under way as they may beside what is free.
        let first = Class::ALL.into_iter().find(|class| self.may_begin(*class, rules)).filter(|_| !self.pulsing);
        // The disk is held up by no other class.
        for first in first.into_iter().chain(Some(Class::Disk).filter(|disk| self.may_begin(*disk, rules))) {
            let bounds = rules.classes[first as usize];
            let full = self.queue.working(first) >= bounds.places || self.queue.in_flight(first) >= bounds.in_flight;
            assert!(full, "seed {}: {first:?} waits beside free places", self.seed);
        }
    }

    /// Whether one of the class waits whose tenant may have more under way.
    fn may_begin(&self, class: Class, rules: &Rules) -> bool {
        let bounds = rules.classes[class as usize];
        let free = bounds.in_flight - self.queue.in_flight(class);
        let may = |tenant| bounds.for_each_free.is_none_or(|times| self.under_way(class, tenant) < times * free);
        let waits = |state: &State| matches!(state, State::Waits(_, of, tenant) if *of == class && may(*tenant));
        self.requests.values().any(waits)
    }

    fn under_way(&self, class: Class, tenant: TenantIndex) -> usize {
        let of = |state: &&State| match state {
            State::Works(start) | State::Paused(start) => start.class == class && start.tenant == tenant,
            State::Waits(..) => false,
        };
        self.requests.values().filter(of).count()
    }
}

#[test]
fn whatever_happens_everybody_is_told_once_and_nobody_waits_beside_a_free_place() {
    for seed in 0..40 {
        let mut random = SplitMix(seed);
        let mut small = Rules { pulse: 3 * MILLI, shared_pulse: MILLI, ..rules(2) };
        small.classes[0].in_flight = 5;
        small.classes[0].for_each_free = Some(2);
        small.classes[1].places = 3;
        small.classes[1].in_flight = 3;
        small.classes[1].floor = 1;
        for class in &mut small.classes {
            (class.max_waiting, class.max_waiting_bytes) = (6, 1_000);
        }
        let mut queue = Queue::new(&small);
        for weight in 1..=3 {
            queue.add_tenant(weight);
        }
        let (now, requests) = (Instant::now(), BTreeMap::new());
        let mut model = Model { queue, now, requests, pulsing: false, next: 0, seed };
        for _ in 0..3_000 {
            match random.below(10) {
                0..4 => model.arrive(&mut random),
                4..8 => model.go_on(&mut random),
                8 => model.now += Duration::from_micros(random.below(3_000) as u64),
                _ if model.pulsing => {
                    model.pulsing = false;
                    model.act(|queue, now, verdicts| queue.end_pulse(now, verdicts));
                }
                _ => {}
            }
            model.check(&small);
        }
        assert!(model.next > 500, "seed {seed}");
    }
}
