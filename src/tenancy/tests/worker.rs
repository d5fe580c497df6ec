//! Admission as a server on one core has it: its one thread reads what has arrived, works, answers and refuses,
//! all of which takes its time, and sees only now and then what has arrived. In virtual time, from a seed.
//! Its turns are those of tokio's worker: what is woken last is next, a task that gives way comes after all
//! that is ready, and sockets are looked at when nothing else is, or after 61 turns.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::super::admission::{Arrival, Asked, Class, Queue, Start, TenantIndex, Verdicts};
use super::super::settings::AdmissionSettings;
use super::MILLI;
use super::simulator::{SplitMix, percentile};

const SECONDS: f64 = 4.0;
const CONNECTIONS: usize = 4;
/// Of one tenant's connection, in one turn of it; its later requests get tasks.
const AT_ONCE: usize = 16;
const TURNS_BETWEEN_LOOKS: u64 = 61;
/// Tasks woken last that are run one after the other.
const WOKEN_LAST: u32 = 3;

/// Seconds of the thread, about those of an `ads` request: 7,500 a second.
const READ: f64 = 22e-6;
const WORK: f64 = 90e-6;
const ANSWER: f64 = 10e-6;
const REFUSE: f64 = 10e-6;
const TURN: f64 = 1e-6;
const LOOK: f64 = 3e-6;
const CAPACITY: f64 = 7_500.0;
/// Requests that are read at once from a socket.
const READ_AT_ONCE: usize = 6;
/// After a refusal more are expected for so long.
const LATELY: f64 = 0.1;
/// A connection is left unread for so long at most.
const LONGEST: f64 = 0.01;

/// What a tenant sends.
#[derive(Clone, Copy)]
struct Sends {
    weight: u32,
    rate: f64,
}

/// What becomes of a tenant's requests.
#[derive(Debug, Default)]
struct Outcome {
    served: Vec<Duration>,
    refused: Vec<Duration>,
}

impl Outcome {
    fn refused_share(&self) -> f64 {
        self.refused.len() as f64 / (self.served.len() + self.refused.len()) as f64
    }

    fn p99(&self) -> Duration {
        percentile(self.served.iter().copied(), 0.99)
    }
}

#[derive(Clone, Copy)]
enum Task {
    Connection(usize),
    Request(usize),
}

struct Request {
    tenant: TenantIndex,
    connection: usize,
    sent: f64,
    state: State,
    /// What it was told while it waited.
    told: Option<Told>,
}

#[derive(Clone, Copy)]
enum Told {
    Begin(Start),
    Refused,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// It has a task, and has not come to the queue yet.
    New,
    /// Its task, just made, gives way first.
    Made,
    GivesWay,
    Waits,
    LetsIn,
    Ended,
}

struct Worker {
    queue: Queue<usize>,
    begun: Instant,
    now: f64,
    ready: VecDeque<Task>,
    woken_last: Option<Task>,
    gave_way: Vec<Task>,
    sockets: Vec<VecDeque<usize>>,
    is_ready: Vec<bool>,
    /// Of each connection, when it had a request refused last.
    refused: Vec<f64>,
    /// Of those that are left unread, until when at most.
    put_off: Vec<Option<f64>>,
    /// Of each connection, with whether they were served.
    answers: Vec<Vec<(usize, bool)>>,
    requests: Vec<Request>,
    /// In order of their instants: connection and tenant.
    arrivals: VecDeque<(f64, usize, TenantIndex)>,
    /// When the machine stands still, in order.
    stalls: VecDeque<Range<f64>>,
    outcomes: Vec<Outcome>,
}

/// Something stands still: about so often, and up to so long, in milliseconds.
#[derive(Clone, Copy)]
struct Pauses {
    every: f64,
    lasting: f64,
}

const NONE: Pauses = Pauses { every: 1.0, lasting: 0.0 };
/// Of the client, which then sends what it has held back.
const HELD_BACK: Pauses = Pauses { every: 50.0, lasting: 5.0 };
/// Of the machine.
const STALLS: Pauses = Pauses { every: 100.0, lasting: 5.0 };
const FREQUENT_STALLS: Pauses = Pauses { every: 25.0, lasting: 12.0 };

impl Pauses {
    fn draw(self, random: &mut SplitMix) -> VecDeque<Range<f64>> {
        let mut pauses = VecDeque::new();
        let mut at = 0.0;
        while at < SECONDS && self.lasting > 0.0 {
            at += wait(random) * self.every * 1e-3;
            let end = at + self.lasting * 1e-3 * random.uniform();
            pauses.push_back(at..end);
            at = end;
        }
        pauses
    }
}

/// For what comes by chance once in a unit of time.
fn wait(random: &mut SplitMix) -> f64 {
    -(1.0 - random.uniform()).ln()
}

/// Lets the tenants send for [`SECONDS`], by chance, and serves them.
fn serve(tenants: &[Sends], held_back: Pauses, stalls: Pauses, seed: u64) -> Vec<Outcome> {
    let mut random = SplitMix(seed);
    let (held_back, stalls) = (held_back.draw(&mut random), stalls.draw(&mut random));
    let mut arrivals = Vec::new();
    for (tenant, sends) in tenants.iter().enumerate() {
        let mut due = 0.0;
        for number in 0.. {
            due += wait(&mut random) / sends.rate;
            if due > SECONDS {
                break;
            }
            let sent = held_back.iter().find(|pause| pause.contains(&due)).map_or(due, |pause| pause.end);
            arrivals.push((sent, tenant * CONNECTIONS + number % CONNECTIONS, tenant));
        }
    }
    arrivals.sort_by(|one, other| one.0.total_cmp(&other.0));
    let sent: Vec<usize> =
        (0..tenants.len()).map(|of| arrivals.iter().filter(|arrival| arrival.2 == of).count()).collect();

    let mut queue = Queue::new(&AdmissionSettings { online_places: 1, ..AdmissionSettings::default() }.rules());
    for sends in tenants {
        queue.add_tenant(sends.weight);
    }
    let connections = tenants.len() * CONNECTIONS;
    let mut worker = Worker {
        queue,
        begun: Instant::now(),
        now: 0.0,
        ready: VecDeque::new(),
        woken_last: None,
        gave_way: Vec::new(),
        sockets: vec![VecDeque::new(); connections],
        is_ready: vec![false; connections],
        refused: vec![f64::NEG_INFINITY; connections],
        put_off: vec![None; connections],
        answers: vec![Vec::new(); connections],
        requests: Vec::new(),
        arrivals: arrivals.into(),
        stalls,
        outcomes: tenants.iter().map(|_| Outcome::default()).collect(),
    };
    worker.run();
    for (outcome, sent) in worker.outcomes.iter().zip(sent) {
        assert_eq!(outcome.served.len() + outcome.refused.len(), sent, "everybody is told");
    }
    worker.outcomes
}

impl Worker {
    fn run(&mut self) {
        let mut woken_last = 0;
        for turn in 1.. {
            if turn % TURNS_BETWEEN_LOOKS == 0 {
                self.look();
            }
            let last = self.woken_last.take();
            woken_last = if last.is_some() { woken_last + 1 } else { 0 };
            let next = if woken_last <= WOKEN_LAST && last.is_some() {
                last
            } else {
                woken_last = 0;
                self.ready.extend(last);
                self.ready.pop_front()
            };
            match next {
                Some(Task::Connection(connection)) => self.see_to(connection),
                Some(Task::Request(request)) => self.go_on(request),
                None => {
                    if self.gave_way.is_empty() {
                        let put_off = self.put_off.iter().flatten().copied();
                        let next = put_off.chain(self.arrivals.front().map(|(sent, ..)| *sent)).reduce(f64::min);
                        let Some(next) = next else { return };
                        self.now = self.now.max(next);
                    }
                    self.look();
                }
            }
        }
    }

    fn spend(&mut self, seconds: f64) {
        self.now += seconds;
        while let Some(stall) = self.stalls.pop_front_if(|stall| stall.start <= self.now) {
            self.now = self.now.max(stall.end);
        }
    }

    /// At the sockets; and those that gave way have their turn again.
    fn look(&mut self) {
        self.spend(LOOK);
        while let Some((sent, connection, tenant)) = self.arrivals.pop_front_if(|(sent, ..)| *sent <= self.now) {
            self.sockets[connection].push_back(self.requests.len());
            self.requests.push(Request { tenant, connection, sent, state: State::New, told: None });
        }
        for connection in 0..self.sockets.len() {
            // It has been woken for what came before.
            if self.put_off[connection].is_some_and(|until| self.now < until) {
                continue;
            }
            if !self.sockets[connection].is_empty() && !std::mem::replace(&mut self.is_ready[connection], true) {
                self.ready.push_back(Task::Connection(connection));
            }
        }
        self.ready.extend(self.gave_way.drain(..));
    }

    fn wake(&mut self, task: Task) {
        let before = self.woken_last.replace(task);
        self.ready.extend(before);
    }

    fn see_to(&mut self, connection: usize) {
        self.spend(TURN);
        self.is_ready[connection] = false;
        let mut read = 0;
        while !self.sockets[connection].is_empty() && self.may_read(connection, read > 0) {
            for _ in 0..READ_AT_ONCE {
                let Some(request) = self.sockets[connection].pop_front() else { break };
                self.spend(READ);
                read += 1;
                if read <= AT_ONCE { self.arrive(request, true) } else { self.wake(Task::Request(request)) }
            }
        }
        for (request, is_served) in std::mem::take(&mut self.answers[connection]) {
            self.spend(ANSWER);
            let Request { tenant, sent, .. } = self.requests[request];
            let after = Duration::from_secs_f64(self.now - sent);
            let outcome = &mut self.outcomes[tenant];
            if is_served { outcome.served.push(after) } else { outcome.refused.push(after) }
        }
    }

    /// As a server's connections ask: of a tenant that is refused, nothing is read while that is better, and after
    /// something was read others come first.
    fn may_read(&mut self, connection: usize, has_read: bool) -> bool {
        let (now, tenant) = (self.begun + Duration::from_secs_f64(self.now), connection / CONNECTIONS);
        let is_refused = self.now - self.refused[connection] <= LATELY;
        let put_off = self.put_off[connection];
        let is_over = put_off.is_some_and(|until| self.now >= until);
        if (is_refused || put_off.is_some()) && !is_over && self.queue.is_better_unread(tenant) {
            self.put_off[connection] = Some(put_off.unwrap_or(self.now + LONGEST));
            return false;
        }
        self.put_off[connection] = None;
        if is_refused && has_read && self.queue.is_shared(now) {
            self.is_ready[connection] = true;
            self.gave_way.push(Task::Connection(connection));
            return false;
        }
        true
    }

    fn arrive(&mut self, request: usize, is_at_once: bool) {
        let asked = Asked { cost: 100, bytes: 1_000, useful_until: None };
        let tenant = self.requests[request].tenant;
        let arrival =
            self.change(|queue, now, verdicts| queue.arrive(now, Class::Online, tenant, asked, || request, verdicts));
        match arrival {
            Arrival::Begins(start) if start.pulse => {
                self.requests[request].told = Some(Told::Begin(start));
                self.wait(request, is_at_once, State::LetsIn);
            }
            Arrival::Begins(_) => self.work(request, is_at_once),
            Arrival::Refused(_) => self.end(request, false, is_at_once),
            Arrival::Waits(_) => self.wait(request, is_at_once, State::Waits),
        }
    }

    /// One that came at once gets a task first.
    fn wait(&mut self, request: usize, is_at_once: bool, state: State) {
        self.requests[request].state = if is_at_once { State::Made } else { state };
        match (is_at_once, state) {
            (true, _) => self.wake(Task::Request(request)),
            (false, State::LetsIn) => self.gave_way.push(Task::Request(request)),
            (false, _) => {}
        }
    }

    fn go_on(&mut self, request: usize) {
        self.spend(TURN);
        let Request { state, told, tenant, .. } = self.requests[request];
        match (state, told) {
            (State::New, _) => self.arrive(request, false),
            (State::Made, told) => {
                let lets_in = matches!(told, Some(Told::Begin(Start { pulse: true, .. })));
                self.requests[request].state = if lets_in { State::LetsIn } else { State::GivesWay };
                self.gave_way.push(Task::Request(request));
            }
            (State::GivesWay | State::Waits, None) => self.requests[request].state = State::Waits,
            (State::GivesWay | State::Waits, Some(Told::Refused)) => self.end(request, false, false),
            (State::GivesWay | State::Waits, Some(Told::Begin(start))) => {
                self.queue.take_up(Class::Online, tenant);
                if start.pulse { self.wait(request, false, State::LetsIn) } else { self.work(request, false) }
            }
            (State::LetsIn, _) => {
                self.change(|queue, now, verdicts| queue.end_pulse(now, verdicts));
                self.work(request, false);
            }
            (State::Ended, _) => unreachable!("it has no task any more"),
        }
    }

    fn work(&mut self, request: usize, is_at_once: bool) {
        let begun = self.begun + Duration::from_secs_f64(self.now);
        self.spend(WORK);
        let tenant = self.requests[request].tenant;
        self.change(|queue, now, verdicts| queue.leave(|| now, Class::Online, tenant, true, Some(begun), verdicts));
        self.end(request, true, is_at_once);
    }

    fn end(&mut self, request: usize, is_served: bool, is_at_once: bool) {
        if !is_served {
            self.spend(REFUSE);
        }
        self.requests[request].state = State::Ended;
        let connection = self.requests[request].connection;
        if !is_served {
            self.refused[connection] = self.now;
        }
        self.answers[connection].push((request, is_served));
        // Its connection's own turn goes on.
        if !is_at_once && !std::mem::replace(&mut self.is_ready[connection], true) {
            self.wake(Task::Connection(connection));
        }
    }

    fn change<T>(&mut self, change: impl FnOnce(&mut Queue<usize>, Instant, &mut Verdicts<usize>) -> T) -> T {
        let mut verdicts = Verdicts::default();
        let outcome = change(&mut self.queue, self.begun + Duration::from_secs_f64(self.now), &mut verdicts);
        let refused = verdicts.refused.into_iter().map(|(request, _)| (request, Told::Refused));
        let begin = verdicts.begin.into_iter().map(|(request, start)| (request, Told::Begin(start)));
        for (request, told) in refused.chain(begin) {
            self.requests[request].told = Some(told);
            if self.requests[request].state == State::Waits {
                self.wake(Task::Request(request));
            }
        }
        for connection in 0..self.put_off.len() {
            let is_eased = self.put_off[connection].is_some() && !self.queue.is_better_unread(connection / CONNECTIONS);
            if is_eased && !std::mem::replace(&mut self.is_ready[connection], true) {
                self.wake(Task::Connection(connection));
            }
        }
        outcome
    }
}

const SEEDS: Range<u64> = 0..4;
const OBSERVED: Sends = Sends { weight: 9, rate: 0.45 * CAPACITY };
/// Ten times its share.
const GREEDY: Sends = Sends { weight: 1, rate: CAPACITY };

fn alone(load: f64) -> [Sends; 1] {
    [Sends { weight: 1, rate: load * CAPACITY }]
}

fn millis(millis: f64) -> Duration {
    Duration::from_secs_f64(millis * 1e-3)
}

#[test]
fn a_tenant_within_its_share_is_not_refused_for_a_neighbour_s_excess_whatever_stands_still() {
    for seed in SEEDS {
        for (held_back, stalls, p99) in [(NONE, NONE, 3.0), (HELD_BACK, NONE, 6.0), (HELD_BACK, STALLS, 18.0)] {
            let outcomes = serve(&[OBSERVED, GREEDY], held_back, stalls, seed);
            let [observed, greedy] = outcomes.as_slice() else { unreachable!("there are two tenants") };
            assert!(observed.refused.is_empty(), "seed {seed}: {:?}", observed.refused);
            assert!(observed.p99() < millis(p99), "seed {seed}: {:?}", observed.p99());
            // It has what is left of the thread, beside what it takes to read and to refuse the rest of it.
            let served = greedy.served.len() as f64 / SECONDS;
            assert!((0.25..0.5).contains(&(served / CAPACITY)), "seed {seed}: {served} a second");
        }
    }
}

#[test]
fn a_tenant_within_its_share_hardly_feels_how_much_more_a_neighbour_sends() {
    for seed in SEEDS {
        for (held_back, stalls) in [(NONE, NONE), (HELD_BACK, NONE), (HELD_BACK, STALLS)] {
            let beside = |rate| {
                let mut outcomes =
                    serve(&[OBSERVED, Sends { weight: 1, rate: rate * CAPACITY }], held_back, stalls, seed);
                let outcome = outcomes.swap_remove(0);
                assert!(outcome.refused_share() < 0.01, "seed {seed}: {rate}: {}", outcome.refused_share());
                outcome.p99()
            };
            let [within, ten, fifteen, twenty] = [0.05, 1.0, 1.5, 2.0].map(beside);
            assert!(ten < within * 3 / 2 + 2 * MILLI, "seed {seed}: {ten:?}, beside one within its share {within:?}");
            // To read and to refuse these takes more than is left of the thread.
            for more in [fifteen, twenty] {
                assert!(more < within * 3 / 2 + 10 * MILLI, "seed {seed}: {more:?}, {within:?}");
            }
        }
    }
}

#[test]
fn tenants_beyond_their_shares_are_served_soon_by_their_weights() {
    for seed in SEEDS {
        // From a little more than its share, beside what it takes to read and to refuse, to twice as much.
        for (load, held_back) in [(0.6, NONE), (0.8, NONE), (0.8, HELD_BACK), (1.2, HELD_BACK)] {
            let outcomes = serve(&[Sends { rate: load * CAPACITY, ..OBSERVED }, GREEDY], held_back, NONE, seed);
            for (outcome, longest) in outcomes.iter().zip([16.0, 25.0]) {
                assert!(outcome.p99() < millis(longest), "seed {seed}: {load}: {:?}", outcome.p99());
                let median = percentile(outcome.served.iter().copied(), 0.5);
                assert!(median < millis(5.0), "seed {seed}: {load}: {median:?}");
            }
            let ratio = outcomes[0].served.len() as f64 / outcomes[1].served.len() as f64;
            // Who is within its share, and has all that it asks for, leaves the rest.
            let all_served = outcomes[0].refused_share() < 0.02;
            assert!(all_served || (5.0..14.0).contains(&ratio), "seed {seed}: {load}: {ratio}, by weight 9");
        }
    }
}

#[test]
fn a_neighbour_that_is_left_unread_keeps_its_share() {
    for seed in SEEDS {
        // Of the first some wait nearly always.
        for load in [0.35, 0.45, 0.6] {
            let first = Sends { weight: 1, rate: load * CAPACITY };
            let outcomes = serve(&[first, GREEDY], HELD_BACK, NONE, seed);
            let ratio = outcomes[0].served.len() as f64 / outcomes[1].served.len() as f64;
            assert!((0.7..1.3).contains(&ratio), "seed {seed}: {load}: {ratio}, by equal weights");
        }
    }
}

#[test]
fn a_little_less_than_can_be_done_and_a_little_more_are_served_soon() {
    for seed in SEEDS {
        for (load, refused) in [(0.8, 0.0..0.005), (0.95, 0.0..0.04), (1.0, 0.0..0.12), (1.1, 0.1..0.25)] {
            let outcomes = serve(&alone(load), HELD_BACK, STALLS, seed);
            let p99 = outcomes[0].p99();
            assert!(p99 < 12 * MILLI, "seed {seed}: {load}: {p99:?}");
            let share = outcomes[0].refused_share();
            assert!(refused.contains(&share), "seed {seed}: {load}: {share}");
        }
    }
}

#[test]
fn of_much_more_than_can_be_done_what_reading_and_refusing_leave_is_served_soon() {
    for seed in SEEDS {
        for (stalls, share) in [(NONE, 0.7), (STALLS, 0.65), (FREQUENT_STALLS, 0.4)] {
            let outcomes = serve(&alone(1.5), HELD_BACK, stalls, seed);
            let [outcome] = outcomes.as_slice() else { unreachable!("there is one tenant") };
            let served = outcome.served.len() as f64 / SECONDS;
            assert!(served > share * CAPACITY, "seed {seed}: {served} a second");
            let median = percentile(outcome.served.iter().copied(), 0.5);
            assert!(median < millis(1.5), "seed {seed}: {median:?}");
            // A stall holds up whoever is served or refused after it.
            let longest = millis(10.0 + 2.0 * stalls.lasting);
            assert!(outcome.p99() < longest, "seed {seed}: {:?}", outcome.p99());
            let soon = percentile(outcome.refused.iter().copied(), 0.5);
            assert!(soon < millis(3.0), "seed {seed}: half are refused after {soon:?}");
            let refused = percentile(outcome.refused.iter().copied(), 0.99);
            assert!(refused < longest, "seed {seed}: refused after {refused:?}");
        }
    }
}
