//! A server and its callers without threads and without waiting: events in virtual time, from a seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::super::admission::{Arrival, Asked, Class, Queue, Start, TenantIndex, Verdicts};
use super::super::rules::Rules;

/// Requests of one tenant.
#[derive(Clone, Debug)]
pub struct Load {
    pub class: Class,
    pub weight: u32,
    /// Requests a second, from these instants on; in ascending order.
    pub rates: Vec<(Duration, f64)>,
    /// What one takes of a place; longer ones cost more.
    pub work: Duration,
    pub cost: u64,
    /// How long its caller waits.
    pub deadline: Option<Duration>,
}

impl Load {
    pub fn online(rate: f64, work: Duration) -> Self {
        let rates = vec![(Duration::ZERO, rate)];
        Self { class: Class::Online, weight: 1, rates, work, cost: 100, deadline: None }
    }

    fn rate(&self, at: Duration) -> f64 {
        self.rates.iter().rev().find(|(from, _)| *from <= at).map_or(0.0, |(_, rate)| *rate)
    }
}

/// What became of one request.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub tenant: TenantIndex,
    pub at: Duration,
    /// From its arrival to its end; `None`: refused.
    pub served: Option<Duration>,
    /// From its arrival to the refusal.
    pub refused: Option<Duration>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives(TenantIndex),
    Ends(usize),
}

/// When nothing runs, whatever arrives or would end.
pub type Stall = std::ops::Range<Duration>;

struct Simulation<'a> {
    loads: &'a [Load],
    queue: Queue<usize>,
    begun: Instant,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    ordinal: u64,
    random: SplitMix,
    outcomes: Vec<Outcome>,
    /// When each request began, if it has.
    begins: Vec<Duration>,
}

/// Runs the loads, a tenant each, against a server for so long; deterministic by the seed.
pub fn simulate(rules: &Rules, loads: &[Load], lasting: Duration, seed: u64) -> Vec<Outcome> {
    simulate_stalling(rules, loads, &[], lasting, seed)
}

/// The same on a machine that stands still now and then.
pub fn simulate_stalling(
    rules: &Rules,
    loads: &[Load],
    stalls: &[Stall],
    lasting: Duration,
    seed: u64,
) -> Vec<Outcome> {
    let mut queue = Queue::new(rules);
    for load in loads {
        queue.add_tenant(load.weight);
    }
    let events = BinaryHeap::new();
    let begun = Instant::now();
    let random = SplitMix(seed);
    let mut simulation =
        Simulation { loads, queue, begun, events, ordinal: 0, random, outcomes: Vec::new(), begins: Vec::new() };
    for tenant in 0..loads.len() {
        simulation.schedule_arrival(tenant, Duration::ZERO, lasting);
    }
    while let Some(Reverse((due, _, event))) = simulation.events.pop() {
        let seen = stalls.iter().find(|stall| stall.contains(&due)).map_or(due, |stall| stall.end);
        match event {
            Event::Arrives(tenant) => {
                simulation.arrive(tenant, due, seen);
                simulation.schedule_arrival(tenant, due, lasting);
            }
            Event::Ends(request) => simulation.end(request, seen),
        }
    }
    simulation.outcomes
}

impl Simulation<'_> {
    /// A request sent at one instant is seen at another.
    fn arrive(&mut self, tenant: TenantIndex, sent: Duration, at: Duration) {
        let load = &self.loads[tenant];
        let request = self.outcomes.len();
        self.outcomes.push(Outcome { tenant, at: sent, served: None, refused: None });
        self.begins.push(at);
        let useful_until = load.deadline.map(|deadline| self.begun + at + deadline);
        let asked = Asked { cost: load.cost, bytes: 1_000, useful_until };
        let mut verdicts = Verdicts::default();
        let arrival = self.queue.arrive(self.begun + at, load.class, tenant, asked, || request, &mut verdicts);
        self.tell(verdicts, at);
        match arrival {
            Arrival::Begins(start) => self.begin(request, start, at),
            Arrival::Refused(_) => self.outcomes[request].refused = Some(at - sent),
            Arrival::Waits(_) => {}
        }
    }

    fn begin(&mut self, request: usize, start: Start, at: Duration) {
        let work = self.loads[start.tenant].work;
        self.begins[request] = at;
        self.schedule(at + work, Event::Ends(request));
        if start.pulse {
            let mut verdicts = Verdicts::default();
            self.queue.end_pulse(self.begun + at, &mut verdicts);
            self.tell(verdicts, at);
        }
    }

    fn end(&mut self, request: usize, at: Duration) {
        let outcome = &mut self.outcomes[request];
        outcome.served = Some(at - outcome.at);
        let tenant = outcome.tenant;
        let Load { class, .. } = self.loads[tenant];
        let mut verdicts = Verdicts::default();
        let (begun, now) = (self.begun + self.begins[request], self.begun + at);
        self.queue.leave(|| now, class, tenant, true, Some(begun), &mut verdicts);
        self.tell(verdicts, at);
    }

    fn tell(&mut self, verdicts: Verdicts<usize>, at: Duration) {
        for (request, _) in verdicts.refused {
            let outcome = &mut self.outcomes[request];
            outcome.refused = Some(at - outcome.at);
        }
        for (request, start) in verdicts.begin {
            self.queue.take_up(start.class, start.tenant);
            self.begin(request, start, at);
        }
    }

    /// Arrivals are independent of one another: the time to the next is exponential.
    fn schedule_arrival(&mut self, tenant: TenantIndex, at: Duration, lasting: Duration) {
        let uniform = self.random.uniform();
        let load = &self.loads[tenant];
        // Where the rate is nothing now, it may be something later.
        let from = load.rates.iter().map(|(from, _)| *from).find(|from| *from >= at && load.rate(*from) > 0.0);
        let (from, rate) = match load.rate(at) {
            rate if rate > 0.0 => (at, rate),
            _ => match from {
                Some(from) => (from, load.rate(from)),
                None => return,
            },
        };
        let next = from + Duration::from_secs_f64(-(1.0 - uniform).ln() / rate);
        if next < lasting {
            self.schedule(next, Event::Arrives(tenant));
        }
    }

    fn schedule(&mut self, at: Duration, event: Event) {
        self.ordinal += 1;
        self.events.push(Reverse((at, self.ordinal, event)));
    }
}

/// Random numbers from a seed (SplitMix64).
pub struct SplitMix(pub u64);

impl SplitMix {
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// In [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.uniform() * end as f64) as usize
    }
}

/// The requests of a tenant that arrived within a span.
pub fn within(outcomes: &[Outcome], tenant: TenantIndex, from: Duration, to: Duration) -> Vec<Outcome> {
    let wanted = |outcome: &&Outcome| outcome.tenant == tenant && outcome.at >= from && outcome.at < to;
    outcomes.iter().filter(wanted).copied().collect()
}

pub fn served(outcomes: &[Outcome]) -> usize {
    outcomes.iter().filter(|outcome| outcome.served.is_some()).count()
}

/// The `share`th of the times, such as 0.99.
pub fn percentile(times: impl Iterator<Item = Duration>, share: f64) -> Duration {
    let mut times: Vec<Duration> = times.collect();
    times.sort();
    assert!(!times.is_empty(), "there are none");
    times[((times.len() as f64 * share) as usize).min(times.len() - 1)]
}
