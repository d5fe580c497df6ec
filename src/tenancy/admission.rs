//! Who may begin, and who of those that wait is next: a state machine without threads, clocks and
//! futures, so that a simulation can drive it. Classes go before one another, tenants of a class
//! share by weight, and a tenant whose own queue stands is served newest first, sheds its oldest and, where
//! nobody else waits, is kept short. It never looks at what a request is about.
//!
//! Tenants share by start-time fair queueing (Goyal, Vin and Cheng 1996): each request is stamped
//! with the virtual time at which it would begin if its tenant had only its share, and the smallest
//! stamp is next. So a tenant within its share, whose queue is mostly empty, waits for the request
//! under way and for nobody's backlog. A standing queue is told much as CoDel does (RFC 8289), by how
//! long the wait of its oldest has been beyond a target, but also by whether it still grows, since what
//! came together while the machine stood still is long too and is being worked off, and by whether it is
//! long for its tenant's share: where much more waits of a neighbour, that one's excess goes first (the queue
//! that is longest for its share is the one to drop from: Suter et al., "Buffer management schemes for
//! supporting TCP in gigabit routers with per-flow queueing", 1999). Of a queue that stands the newest is
//! served first, since it is the one whose caller still waits (Maurer, "Fail at scale", ACM Queue 2015);
//! of any other the oldest, whose caller would wait longest.

mod terms;
mod unread;

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

pub use self::terms::{Arrival, Asked, Class, Refused, Start, TenantIndex, Ticket, Verdicts};
use self::unread::Unread;
use super::pulses::Pulses;
use super::rules::{ClassRules, Rules, Standing};

/// No request counts for more: neither what waits nor virtual time, which only grows, becomes too large.
const MAX_COST: u64 = 1 << 24;

/// The state machine. `W` is the handle of a waiting request.
#[derive(Debug)]
pub struct Queue<W> {
    classes: [ClassQueue<W>; Class::ALL.len()],
    pulses: Pulses,
    unread: Unread,
}

#[derive(Debug)]
struct ClassQueue<W> {
    rules: ClassRules,
    working: usize,
    in_flight: usize,
    waiting: usize,
    /// Of those working, the ones that were told so and haven't woken up yet.
    handed: usize,
    tenants: Vec<TenantQueue<W>>,
    /// The tenants with waiting requests, by the virtual time at which their next begins.
    backlogged: BTreeSet<(u64, TenantIndex)>,
    virtual_time: u64,
    /// How long a request works, smoothed; of those that ended while others waited.
    mean_work: Duration,
    /// When that was changed last.
    learned: Option<Instant>,
    /// When something happened here last.
    stirred: Option<Instant>,
    backlog: Backlog,
}

/// What waits of all tenants, as it was looked at last.
#[derive(Debug, Default)]
struct Backlog {
    looked: Option<Instant>,
    /// The tenant of which most waits, for its weight, and how much that is, in virtual time.
    most: (u64, TenantIndex),
    /// Of all tenants of which some wait.
    weights: u64,
}

#[derive(Debug)]
struct TenantQueue<W> {
    /// The oldest in front.
    waiting: VecDeque<Waiting<W>>,
    bytes: usize,
    /// Their costs together.
    cost: u64,
    weight: u64,
    /// As its class has them.
    in_flight: usize,
    handed: usize,
    /// Since when its oldest has waited beyond the target, as far as that was watched.
    late_since: Option<Instant>,
    /// The most that have waited since it was empty, or was watched anew, and when it was so many last.
    peak: usize,
    peaked: Option<Instant>,
    /// Since it was found to stand: when it was, or when one of it was refused for that last.
    standing: Option<Instant>,
    /// When one of it waited in vain, which proved that there was too much; for a while from then on none proves it
    /// anew.
    proven: Option<Instant>,
    /// When one of it was refused for having stood, last.
    stood: Option<Instant>,
    /// When it was emptied last.
    emptied: Option<Instant>,
    /// The virtual time at which what has begun would have ended.
    paid: u64,
    /// Its stamp among the backlogged.
    stamp: u64,
    next_number: u64,
}

#[derive(Debug)]
struct Waiting<W> {
    number: u64,
    since: Instant,
    asked: Asked,
    handle: W,
}

impl<W> Queue<W> {
    pub fn new(rules: &Rules) -> Self {
        Self {
            classes: rules.classes.map(ClassQueue::new),
            pulses: Pulses::new(rules.pulse, rules.shared_pulse),
            unread: Unread::default(),
        }
    }

    /// A further tenant.
    pub fn add_tenant(&mut self, weight: u32) -> TenantIndex {
        for class in &mut self.classes {
            class.tenants.push(TenantQueue::default());
        }
        let tenant = self.classes[0].tenants.len() - 1;
        self.set_weight(tenant, weight);
        tenant
    }

    /// Holds for what begins from now on, and for how what waits is looked at.
    pub fn set_weight(&mut self, tenant: TenantIndex, weight: u32) {
        for class in &mut self.classes {
            class.tenants[tenant].weight = u64::from(weight.max(1));
        }
    }

    /// A request comes in. `handle` is made only if it has to wait.
    pub fn arrive(
        &mut self,
        now: Instant,
        class: Class,
        tenant: TenantIndex,
        asked: Asked,
        handle: impl FnOnce() -> W,
        verdicts: &mut Verdicts<W>,
    ) -> Arrival {
        if asked.useful_until.is_some_and(|end| end <= now) {
            return Arrival::Refused(Refused::Late);
        }
        let asked = Asked { cost: asked.cost.clamp(1, MAX_COST), ..asked };
        let is_online = class == Class::Online;
        if is_online {
            self.pulses.note_asker(now, tenant);
        }
        let lets_in = is_online && self.pulses.is_under_way();
        let queue = &self.classes[class as usize];
        let is_next = queue.leaves_room(tenant) && queue.first_to_begin().is_none() && self.may_begin(class);
        if !lets_in && is_next {
            return Arrival::Begins(self.begin(now, class, tenant, asked.cost));
        }
        if !lets_in && self.classes[class as usize].may_pass(tenant) {
            let start = self.begin(now, class, tenant, asked.cost);
            self.dispatch_where_held_back_no_longer(now, class, verdicts);
            return Arrival::Begins(start);
        }
        let queue = &mut self.classes[class as usize];
        queue.stir(now);
        queue.shed(now, tenant, verdicts);
        match queue.wait(now, tenant, asked, handle, verdicts) {
            Ok(number) => Arrival::Waits(Ticket { class, tenant, number }),
            Err(refused) => {
                if !verdicts.refused.is_empty() {
                    self.dispatch_where_held_back_no_longer(now, class, verdicts);
                }
                Arrival::Refused(refused)
            }
        }
    }

    /// A request that had begun has ended. `begun` is given where it was worked on throughout. The
    /// clock is asked only where somebody waits.
    pub fn leave(
        &mut self,
        now: impl FnOnce() -> Instant,
        class: Class,
        tenant: TenantIndex,
        is_working: bool,
        begun: Option<Instant>,
        verdicts: &mut Verdicts<W>,
    ) {
        let is_awaited = self.classes.iter().any(|queue| queue.waiting > 0);
        let queue = &mut self.classes[class as usize];
        queue.in_flight -= 1;
        queue.tenants[tenant].in_flight -= 1;
        queue.working -= usize::from(is_working);
        if !is_awaited {
            return;
        }
        let now = now();
        if let Some(begun) = begun {
            queue.learn_work(now, now.saturating_duration_since(begun));
        }
        self.dispatch(now, verdicts);
    }

    /// A request that has begun waits for something else than a processor.
    pub fn pause(&mut self, now: Instant, class: Class, verdicts: &mut Verdicts<W>) {
        self.classes[class as usize].working -= 1;
        self.dispatch(now, verdicts);
    }

    /// It goes on. It is not made to wait again, so for a moment more may work than there are places.
    pub fn resume(&mut self, class: Class) {
        self.classes[class as usize].working += 1;
    }

    /// A request that waited, and was told to begin, begins now, or never will.
    pub fn take_up(&mut self, class: Class, tenant: TenantIndex) {
        let queue = &mut self.classes[class as usize];
        queue.handed -= 1;
        queue.tenants[tenant].handed -= 1;
    }

    /// Whether another tenant's request goes before this one's next.
    pub fn goes_another_first(&self, class: Class, tenant: TenantIndex) -> bool {
        let queue = &self.classes[class as usize];
        let first = queue.first_to_begin();
        first.is_some_and(|(stamp, other)| other != tenant && stamp < queue.next_stamp(tenant))
    }

    /// Everything that had arrived has been let in.
    pub fn end_pulse(&mut self, now: Instant, verdicts: &mut Verdicts<W>) {
        self.pulses.end(now);
        self.dispatch(now, verdicts);
    }

    /// A waiting request is given up by its caller. Its handle, unless it was told already.
    pub fn give_up(&mut self, now: Instant, ticket: Ticket, verdicts: &mut Verdicts<W>) -> Option<W> {
        let handle = self.classes[ticket.class as usize].remove(now, ticket.tenant, ticket.number)?;
        // A class behind this one may have waited for it.
        self.dispatch(now, verdicts);
        Some(handle)
    }

    pub fn working(&self, class: Class) -> usize {
        self.classes[class as usize].working
    }

    pub fn in_flight(&self, class: Class) -> usize {
        self.classes[class as usize].in_flight
    }

    pub fn waiting(&self, class: Class) -> usize {
        self.classes[class as usize].waiting
    }

    fn may_begin(&self, class: Class) -> bool {
        let (before, rest) = self.classes.split_at(class as usize);
        let ClassQueue { rules, working, in_flight, .. } = &rest[0];
        let held_back = *working >= rules.floor && before.iter().any(|queue| queue.first_to_begin().is_some());
        *working < rules.places && *in_flight < rules.in_flight && !held_back
    }

    fn begin(&mut self, now: Instant, class: Class, tenant: TenantIndex, cost: u64) -> Start {
        let queue = &mut self.classes[class as usize];
        queue.working += 1;
        queue.in_flight += 1;
        queue.tenants[tenant].in_flight += 1;
        queue.charge(tenant, cost);
        let pulse = class == Class::Online && self.pulses.begin(now, queue.first_to_begin().is_some());
        Start { class, tenant, pulse }
    }

    /// Classes behind this one may have waited for those of it that wait no longer, or that may not begin any more.
    fn dispatch_where_held_back_no_longer(&mut self, now: Instant, class: Class, verdicts: &mut Verdicts<W>) {
        let is_behind_awaited = self.classes[class as usize + 1..].iter().any(|queue| queue.waiting > 0);
        if is_behind_awaited && self.classes[class as usize].first_to_begin().is_none() {
            self.dispatch(now, verdicts);
        }
    }

    fn dispatch(&mut self, now: Instant, verdicts: &mut Verdicts<W>) {
        for class in Class::ALL {
            self.classes[class as usize].stir(now);
            while self.may_begin(class) {
                let Some((tenant, next)) = self.classes[class as usize].next(now, verdicts) else { break };
                if next.asked.useful_until.is_some_and(|end| end <= now) {
                    verdicts.refused.push((next.handle, Refused::Late));
                    continue;
                }
                let start = self.begin(now, class, tenant, next.asked.cost);
                let queue = &mut self.classes[class as usize];
                queue.restamp(tenant);
                queue.handed += 1;
                queue.tenants[tenant].handed += 1;
                verdicts.begin.push((next.handle, start));
            }
        }
    }
}

impl<W> ClassQueue<W> {
    fn new(rules: ClassRules) -> Self {
        Self {
            rules,
            working: 0,
            in_flight: 0,
            waiting: 0,
            handed: 0,
            tenants: Vec::new(),
            backlogged: BTreeSet::new(),
            virtual_time: 0,
            mean_work: Duration::ZERO,
            learned: None,
            stirred: None,
            backlog: Backlog::default(),
        }
    }

    /// Something happens here. Where nothing did for long, that is no time that a queue has stood.
    fn stir(&mut self, now: Instant) {
        /// Longer than requests work now and then.
        const LONG: u32 = 4;
        let longest = self.rules.standing.map(|standing| standing.target.max(self.mean_work * LONG));
        let still = self.stirred.replace(now).map(|stirred| now.saturating_duration_since(stirred));
        if let Some((still, _)) = still.zip(longest).filter(|(still, longest)| still > longest) {
            for (_, tenant) in &self.backlogged {
                self.tenants[*tenant].pass_over(still, now);
            }
        }
    }

    /// Whether a place may be used that stands idle until whoever was told to have it is woken; then, for a moment, more
    /// work than there are places. To wait and be woken takes a processor about as long as a small read does, so a queue
    /// that everybody had to join would feed itself. Not past other tenants, and not where the tenant's queue stands.
    fn may_pass(&self, tenant: TenantIndex) -> bool {
        let own = &self.tenants[tenant];
        self.handed > 0
            && self.handed == own.handed
            && own.standing.is_none()
            && self.rules.standing.is_some()
            && self.working < self.rules.places + self.handed
            && self.in_flight < self.rules.in_flight
            && self.leaves_room(tenant)
            && self.competes_with_nobody(tenant)
    }

    /// Whether the tenant leaves room for others where it begins one more: tenants that have all that they may under
    /// way leave some for whoever comes (Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet
    /// switches", 1998).
    fn leaves_room(&self, tenant: TenantIndex) -> bool {
        let free = self.rules.in_flight.saturating_sub(self.in_flight);
        let most = self.rules.for_each_free.map_or(usize::MAX, |times| free.saturating_mul(times));
        self.tenants[tenant].in_flight < most
    }

    /// Stamp and tenant of the first of those waiting that may begin where there is a place.
    fn first_to_begin(&self) -> Option<(u64, TenantIndex)> {
        if self.rules.for_each_free.is_some() && self.in_flight >= self.rules.in_flight {
            return None;
        }
        self.backlogged.iter().find(|(_, tenant)| self.leaves_room(*tenant)).copied()
    }

    /// Whether none of another tenant's waits that could begin if there were a place.
    fn competes_with_nobody(&self, tenant: TenantIndex) -> bool {
        self.backlogged.iter().all(|(_, other)| *other == tenant || !self.leaves_room(*other))
    }

    /// The virtual time at which the tenant's next begins.
    fn next_stamp(&self, tenant: TenantIndex) -> u64 {
        let own = &self.tenants[tenant];
        if own.waiting.is_empty() { self.virtual_time.max(own.paid) } else { own.stamp }
    }

    /// Takes note of how long a request has worked.
    fn learn_work(&mut self, now: Instant, worked: Duration) {
        /// One that the machine stood still in may not count for many.
        const OUTLIER: u32 = 8;
        /// So that the first are not taken for outliers.
        const SHORT: Duration = Duration::from_millis(1);
        let worked = worked.min((self.mean_work * OUTLIER).max(SHORT));
        // An eighth of the new, as round-trip times are smoothed (RFC 6298).
        self.mean_work = (self.mean_work * 7 + worked) / 8;
        self.learned = Some(now);
    }

    /// Work is measured only where somebody waits. If it was once too long for anybody to wait, the estimate must
    /// fade by itself, or nobody would ever wait again. But not by how many are refused: whoever sends requests that
    /// nobody could answer in time says nothing of how long the others work.
    fn fade_work(&mut self, now: Instant) {
        let is_old = |learned: Instant| now.saturating_duration_since(learned) >= self.mean_work;
        if self.learned.is_none_or(is_old) {
            self.mean_work -= self.mean_work / 8;
            self.learned = Some(now);
        }
    }

    fn wait(
        &mut self,
        now: Instant,
        tenant: TenantIndex,
        asked: Asked,
        handle: impl FnOnce() -> W,
        verdicts: &mut Verdicts<W>,
    ) -> Result<u64, Refused> {
        if asked.bytes > self.rules.max_waiting_bytes {
            return Err(Refused::Overloaded);
        }
        if self.is_kept_short(now, tenant) {
            self.tenants[tenant].standing = Some(now);
            return Err(Refused::Overloaded);
        }
        let newest_first = self.is_newest_first(now, tenant);
        // Behind all of its tenant's own, or, newest first, behind the one under way.
        let ahead = if newest_first { 0 } else { self.tenants[tenant].waiting.len() / self.rules.places.max(1) };
        let wait = self.mean_work * u32::try_from(ahead + 1).unwrap_or(u32::MAX);
        if asked.useful_until.is_some_and(|end| end <= now + wait) {
            self.fade_work(now);
            return Err(Refused::Overloaded);
        }
        while !self.has_room(tenant, asked.bytes) {
            // Where the newest is served first, it is the oldest that is of no more use.
            if !newest_first {
                return Err(Refused::Overloaded);
            }
            let Some(oldest) = self.tenants[tenant].waiting.front().map(|oldest| oldest.number) else { break };
            verdicts.refused.extend(self.remove(now, tenant, oldest).map(|handle| (handle, Refused::Overloaded)));
            self.note_refused(now, tenant);
        }
        let queue = &mut self.tenants[tenant];
        if queue.waiting.is_empty() {
            queue.watch(now);
            queue.stamp = self.virtual_time.max(queue.paid);
            self.backlogged.insert((queue.stamp, tenant));
        }
        let number = queue.next_number;
        queue.next_number += 1;
        queue.bytes += asked.bytes;
        queue.cost += asked.cost;
        queue.waiting.push_back(Waiting { number, since: now, asked, handle: handle() });
        if queue.waiting.len() >= queue.peak {
            queue.peak = queue.waiting.len();
            queue.peaked = Some(now);
        }
        self.waiting += 1;
        Ok(number)
    }

    /// The next to begin, taken out; whoever has waited too long before it is refused.
    fn next(&mut self, now: Instant, verdicts: &mut Verdicts<W>) -> Option<(TenantIndex, Waiting<W>)> {
        loop {
            let (_, tenant) = self.first_to_begin()?;
            self.shed(now, tenant, verdicts);
            let newest_first = self.is_newest_first(now, tenant);
            let queue = &mut self.tenants[tenant].waiting;
            let next = if newest_first { queue.pop_back() } else { queue.pop_front() };
            if let Some(next) = next {
                self.taken_out(now, tenant, next.asked);
                return Some((tenant, next));
            }
        }
    }

    /// Refuses those of the tenant that have waited for too long.
    fn shed(&mut self, now: Instant, tenant: TenantIndex, verdicts: &mut Verdicts<W>) {
        self.judge(now, tenant);
        let longest = match self.rules.standing {
            Some(standing) if self.tenants[tenant].standing.is_some() => standing.target,
            _ => self.rules.patience,
        };
        while let Some(oldest) = self.tenants[tenant].waiting.front() {
            if now.saturating_duration_since(oldest.since) <= longest {
                return;
            }
            let number = oldest.number;
            verdicts.refused.extend(self.remove(now, tenant, number).map(|handle| (handle, Refused::Overloaded)));
            self.note_refused(now, tenant);
        }
    }

    /// Whether the tenant's queue stands, has lately proven to be too much, and takes no more. Not while others wait:
    /// whoever is refused at once is refused before those have their turn, and a tenant within its share would feel it.
    fn is_kept_short(&self, now: Instant, tenant: TenantIndex) -> bool {
        /// With fewer a place stands idle by chance. Where a twentieth more comes in than one place can do, 0.89 of
        /// what it can do is done with two more than there are places, and 0.94 with six, as with any number
        /// (simulated).
        const SPARE: usize = 6;
        let queue = &self.tenants[tenant];
        let Some(Standing { room, .. }) = self.rules.standing else { return false };
        if queue.standing.is_none() || !self.is_proven(now, tenant) {
            return false;
        }
        // How long requests work is not known before one has ended while another waited.
        let in_room = (self.rules.places as u128 * room.as_nanos()).checked_div(self.mean_work.as_nanos());
        let Some(in_room) = in_room else { return false };
        let most = usize::try_from(in_room).unwrap_or(usize::MAX).max(self.rules.places + SPARE);
        queue.waiting.len() >= most.min(self.rules.max_waiting) && self.competes_with_nobody(tenant)
    }

    fn is_proven(&self, now: Instant, tenant: TenantIndex) -> bool {
        let proof = self.rules.standing.map_or(Duration::ZERO, |standing| standing.proof);
        self.tenants[tenant].proven.is_some_and(|proven| now.saturating_duration_since(proven) <= proof)
    }

    /// While somebody has to be refused a queue goes on standing.
    fn note_refused(&mut self, now: Instant, tenant: TenantIndex) {
        // Those in front of a short queue may wait in vain by chance, which proves nothing anew.
        let is_proven = self.is_proven(now, tenant);
        let queue = &mut self.tenants[tenant];
        if let Some(standing) = &mut queue.standing {
            *standing = now;
            if !is_proven {
                queue.proven = Some(now);
            }
        }
    }

    /// Whether the tenant's queue stands, from now on.
    fn judge(&mut self, now: Instant, tenant: TenantIndex) {
        let Some(Standing { target, after, again, .. }) = self.rules.standing else { return };
        let is_late = self.waits_beyond(now, tenant, target);
        let queue = &mut self.tenants[tenant];
        let waited =
            |since: Option<Instant>| since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        queue.late_since = is_late.then(|| queue.late_since.unwrap_or(now));
        if let Some(standing) = queue.standing {
            // Chance empties a queue now and then although more comes in than can be done.
            let is_idle = queue.waiting.is_empty() && waited(queue.emptied) >= target;
            if is_idle || (!is_late && now.saturating_duration_since(standing) > after) {
                queue.stood = queue.standing.take();
            }
            return;
        }
        let stood_lately = queue.stood.is_some_and(|stood| now.saturating_duration_since(stood) < again);
        let (late_for, peaked_within) = if stood_lately { (target, target / 2) } else { (after, target * 2) };
        let is_growing = waited(queue.peaked) <= peaked_within;
        if waited(queue.late_since) > late_for && is_growing && !self.is_short_for_its_share(now, tenant, target) {
            self.tenants[tenant].standing = Some(now);
        }
    }

    /// Whether much more waits of another tenant, for its weight: then that one's excess is what has to go first. But
    /// no longer than it takes to do what waits of this one, with its share.
    fn is_short_for_its_share(&mut self, now: Instant, tenant: TenantIndex, target: Duration) -> bool {
        /// A neighbour whose queue stands has as much waiting as comes of it within the target. With a quarter, one at
        /// ten times its share spares whoever waits for no longer than those who send two and a half times theirs.
        const TIMES: u64 = 4;
        // There may be many tenants, and this is asked for each request.
        if self.backlog.looked.is_none_or(|looked| now.saturating_duration_since(looked) > target) {
            self.look_at_backlog(now);
        }
        let (most, longest) = self.backlog.most;
        let own = &self.tenants[tenant];
        let places = self.rules.places.max(1) as f64 * own.weight as f64 / self.backlog.weights.max(own.weight) as f64;
        let takes = self.mean_work.as_secs_f64() * own.waiting.len() as f64 / places;
        longest != tenant && most / TIMES > own.share_of_waiting() && takes <= 2.0 * target.as_secs_f64()
    }

    fn look_at_backlog(&mut self, now: Instant) {
        let mut backlog = Backlog { looked: Some(now), ..Backlog::default() };
        for (_, tenant) in self.backlogged.iter().filter(|(_, tenant)| self.leaves_room(*tenant)) {
            let queue = &self.tenants[*tenant];
            backlog.most = backlog.most.max((queue.share_of_waiting(), *tenant));
            backlog.weights += queue.weight;
        }
        self.backlog = backlog;
    }

    fn is_newest_first(&self, now: Instant, tenant: TenantIndex) -> bool {
        let standing = self.tenants[tenant].standing;
        standing.is_some() || self.rules.standing.is_some_and(|rules| self.waits_beyond(now, tenant, rules.in_order))
    }

    /// Whether the oldest has waited for longer.
    fn waits_beyond(&self, now: Instant, tenant: TenantIndex, longest: Duration) -> bool {
        let oldest = self.tenants[tenant].waiting.front();
        oldest.is_some_and(|oldest| now.saturating_duration_since(oldest.since) > longest)
    }

    fn has_room(&self, tenant: TenantIndex, bytes: usize) -> bool {
        let queue = &self.tenants[tenant];
        queue.waiting.len() < self.rules.max_waiting
            && queue.bytes.saturating_add(bytes) <= self.rules.max_waiting_bytes
    }

    fn remove(&mut self, now: Instant, tenant: TenantIndex, number: u64) -> Option<W> {
        let waiting = &mut self.tenants[tenant].waiting;
        let at = waiting.binary_search_by_key(&number, |waiting| waiting.number).ok()?;
        let removed = waiting.remove(at)?;
        self.taken_out(now, tenant, removed.asked);
        Some(removed.handle)
    }

    fn taken_out(&mut self, now: Instant, tenant: TenantIndex, asked: Asked) {
        self.waiting -= 1;
        let queue = &mut self.tenants[tenant];
        queue.bytes -= asked.bytes;
        queue.cost -= asked.cost;
        if queue.waiting.is_empty() {
            self.backlogged.remove(&(queue.stamp, tenant));
            queue.emptied = Some(now);
        }
    }

    /// What begins is paid for by its tenant, in virtual time.
    fn charge(&mut self, tenant: TenantIndex, cost: u64) {
        let queue = &mut self.tenants[tenant];
        let begun = self.virtual_time.max(queue.paid);
        self.virtual_time = begun;
        queue.paid = begun.saturating_add(queue.share_of(cost).max(1));
    }

    /// The tenant's next request begins after the one that has just begun.
    fn restamp(&mut self, tenant: TenantIndex) {
        let queue = &mut self.tenants[tenant];
        if !queue.waiting.is_empty() {
            self.backlogged.remove(&(queue.stamp, tenant));
            queue.stamp = queue.paid;
            self.backlogged.insert((queue.stamp, tenant));
        }
    }
}

impl<W> TenantQueue<W> {
    /// From now on it is watched whether it stands.
    fn watch(&mut self, now: Instant) {
        self.late_since = None;
        self.watch_length(now);
    }

    /// For so long nothing happened, until now.
    fn pass_over(&mut self, still: Duration, now: Instant) {
        self.late_since = self.late_since.map(|since| since + still);
        self.watch_length(now);
    }

    fn watch_length(&mut self, now: Instant) {
        self.peak = self.waiting.len();
        self.peaked = Some(now);
    }

    /// So much work, in virtual time.
    fn share_of(&self, cost: u64) -> u64 {
        /// So that the weights of cheap requests tell too.
        const SCALE: u64 = 1 << 10;
        cost.saturating_mul(SCALE) / self.weight
    }

    fn share_of_waiting(&self) -> u64 {
        self.share_of(self.cost)
    }
}

impl<W> Default for TenantQueue<W> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            bytes: 0,
            cost: 0,
            weight: 1,
            in_flight: 0,
            handed: 0,
            late_since: None,
            peak: 0,
            peaked: None,
            standing: None,
            proven: None,
            stood: None,
            emptied: None,
            paid: 0,
            stamp: 0,
            next_number: 0,
        }
    }
}
