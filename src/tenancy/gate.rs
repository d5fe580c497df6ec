//! The queue's asynchronous face. Who finds a free place passes with one short lock and no
//! allocation; who waits is told by whoever ends, or gives up by itself when waiting has become of no
//! use. It spawns nothing and has no task of its own.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use tokio::sync::{Notify, oneshot};

use super::account::Account;
use super::admission::{Arrival, Asked, Class, Queue, Refused, Start, TenantIndex, Ticket, Verdicts};
use super::metrics::Waits;
use super::rules::Rules;
use crate::clock::Ticker;

/// Where requests wait until they may begin. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    rules: Rules,
    queue: Mutex<Queue<Handle>>,
    ticker: Arc<dyn Ticker>,
    waits: Waits,
    /// Of tenants of which something was left unread: wakes whoever would read it.
    read_again: DashMap<TenantIndex, Arc<Notify>>,
}

/// Something is left unread, until this is dropped.
struct LeftUnread<'a> {
    gate: &'a Inner,
    tenant: TenantIndex,
}

/// A place is handed over through it, so that it is given back wherever it is lost.
type Handle = oneshot::Sender<Result<Place, Refused>>;

/// Leave to work, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    gate: Arc<Inner>,
    class: Class,
    tenant: TenantIndex,
    begun: Instant,
    /// It was waited for, and whoever did hasn't woken up yet.
    is_handed: AtomicBool,
    is_pulsing: AtomicBool,
    is_working: AtomicBool,
    /// Whether it was worked on all the time.
    unbroken: AtomicBool,
    /// The work gives way to others on its thread, and isn't waiting for anything.
    gives_way: AtomicBool,
}

/// Takes a request out of the queue that nobody waits for any more.
struct InQueue<'a> {
    gate: &'a Arc<Inner>,
    ticket: Option<Ticket>,
}

impl Gate {
    pub fn new(rules: Rules, ticker: Arc<dyn Ticker>) -> Self {
        let queue = Mutex::new(Queue::new(&rules));
        let inner = Inner { rules, queue, ticker, waits: Waits::default(), read_again: DashMap::new() };
        Self { inner: Arc::new(inner) }
    }

    pub fn add_tenant(&self, weight: u32) -> TenantIndex {
        self.inner.queue().add_tenant(weight)
    }

    pub fn set_weight(&self, tenant: TenantIndex, weight: u32) {
        self.inner.queue().set_weight(tenant, weight);
    }

    /// A place to work in, waited for as long as it makes sense.
    pub async fn enter(&self, now: Instant, class: Class, account: &Account, asked: Asked) -> Result<Place, Refused> {
        let (place, waited_since) = self.find_place(now, class, account, asked).await?;
        place.take_up();
        if place.is_pulsing.load(Ordering::Relaxed) {
            // The runtime polls what it has queued, and its sockets, before it comes back here.
            tokio::task::yield_now().await;
            place.end_pulse();
        }
        if let Some(since) = waited_since {
            let waited = self.inner.ticker.now().saturating_duration_since(since);
            self.inner.waits.record(account.tenant(), class, waited);
        }
        Ok(place)
    }

    async fn find_place(
        &self,
        now: Instant,
        class: Class,
        account: &Account,
        asked: Asked,
    ) -> Result<(Place, Option<Instant>), Refused> {
        let mut told = None;
        let handle = || {
            let (handle, receiver) = oneshot::channel();
            told = Some(receiver);
            handle
        };
        let arrival =
            self.inner.change(|queue, verdicts| queue.arrive(now, class, account.index, asked, handle, verdicts));
        let ticket = match arrival {
            Arrival::Begins(start) => return Ok((Place::new(&self.inner, now, start, false), None)),
            Arrival::Refused(refused) => return Err(refused),
            Arrival::Waits(ticket) => ticket,
        };
        account.counts().queue(class);
        let mut in_queue = InQueue { gate: &self.inner, ticket: Some(ticket) };
        let Some(told) = told else { return Err(Refused::Overloaded) };
        let patience = now + self.inner.rules.classes[class as usize].patience;
        let until = asked.useful_until.map_or(patience, |end| end.min(patience));
        match tokio::time::timeout_at(until.into(), told).await {
            Ok(Ok(verdict)) => {
                in_queue.ticket = None;
                verdict.map(|place| (place, Some(now)))
            }
            // The gate is held by this very call, so nobody drops a handle untold.
            Ok(Err(_)) => Err(Refused::Overloaded),
            Err(_) if asked.useful_until.is_some_and(|end| end <= until) => Err(Refused::Late),
            Err(_) => Err(Refused::Overloaded),
        }
    }

    /// As [`Queue::is_better_unread`] says.
    pub fn is_better_unread(&self, tenant: TenantIndex) -> bool {
        self.inner.queue().is_better_unread(tenant)
    }

    /// The wait beyond which a queue of online requests may stand.
    pub fn target(&self) -> Duration {
        let online = &self.inner.rules.classes[Class::Online as usize];
        online.standing.map_or(online.patience, |standing| standing.target)
    }

    /// Whether several tenants ask online.
    pub fn is_shared(&self) -> bool {
        let now = self.now();
        self.inner.queue().is_shared(now)
    }

    /// Until the tenant's requests aren't better left unread.
    pub async fn until_read(&self, tenant: TenantIndex) {
        let read_again = self.inner.read_again.entry(tenant).or_default().clone();
        self.inner.queue().begin_unread(tenant);
        let _left_unread = LeftUnread { gate: &self.inner, tenant };
        loop {
            // It hears of what happens after this.
            let told = read_again.notified();
            if !self.is_better_unread(tenant) {
                return;
            }
            told.await;
        }
    }

    pub fn waits(&self) -> &Waits {
        &self.inner.waits
    }

    pub fn now(&self) -> Instant {
        self.inner.ticker.now()
    }

    pub fn ticker(&self) -> Arc<dyn Ticker> {
        self.inner.ticker.clone()
    }

    pub fn working(&self, class: Class) -> usize {
        self.inner.queue().working(class)
    }

    pub fn in_flight(&self, class: Class) -> usize {
        self.inner.queue().in_flight(class)
    }

    pub fn waiting(&self, class: Class) -> usize {
        self.inner.queue().waiting(class)
    }
}

impl Inner {
    fn queue(&self) -> MutexGuard<'_, Queue<Handle>> {
        self.queue.lock().expect("nobody panics with the queue in hand")
    }

    /// Changes the queue, and tells those whom it concerns after the lock is released: who is told
    /// may come back here at once.
    fn change<T>(self: &Arc<Self>, change: impl FnOnce(&mut Queue<Handle>, &mut Verdicts<Handle>) -> T) -> T {
        let mut verdicts = Verdicts::default();
        let (outcome, to_be_read) = {
            let mut queue = self.queue();
            let outcome = change(&mut queue, &mut verdicts);
            (outcome, queue.to_be_read())
        };
        for tenant in to_be_read {
            if let Some(read_again) = self.read_again.get(&tenant) {
                read_again.notify_waiters();
            }
        }
        let Verdicts { begin, refused } = verdicts;
        for (handle, refused) in refused {
            // Who has given up meanwhile doesn't need to know.
            let _told = handle.send(Err(refused));
        }
        if !begin.is_empty() {
            let now = self.ticker.now();
            for (handle, start) in begin {
                // Nobody takes the place: it is given back as it is dropped here.
                let _place = handle.send(Ok(Place::new(self, now, start, true)));
            }
        }
        outcome
    }
}

impl Place {
    fn new(gate: &Arc<Inner>, begun: Instant, start: Start, is_handed: bool) -> Self {
        Self {
            gate: gate.clone(),
            class: start.class,
            tenant: start.tenant,
            begun,
            is_handed: AtomicBool::new(is_handed),
            is_pulsing: AtomicBool::new(start.pulse),
            is_working: AtomicBool::new(true),
            unbroken: AtomicBool::new(!start.pulse),
            gives_way: AtomicBool::new(false),
        }
    }

    /// Runs `work` in this place, which others have while it waits for something else than a
    /// processor.
    pub async fn run<F: Future>(&self, work: F) -> F::Output {
        let mut work = pin!(work);
        poll_fn(|context| {
            self.resume();
            let polled = work.as_mut().poll(context);
            if polled.is_pending() && !self.gives_way.swap(false, Ordering::AcqRel) {
                self.pause();
            }
            polled
        })
        .await
    }

    /// Lets others have the thread. The place is kept, unless another tenant's request goes before the next of this
    /// one: that one has it then, however long the work takes that goes on here.
    pub async fn give_way(&self) {
        let keeps = !self.gate.queue().goes_another_first(self.class, self.tenant);
        self.gives_way.store(keeps, Ordering::Release);
        tokio::task::yield_now().await;
    }

    /// A place of another class, beside this one.
    pub async fn enter(&self, class: Class, account: &Account, asked: Asked) -> Result<Self, Refused> {
        let gate = Gate { inner: self.gate.clone() };
        gate.enter(gate.now(), class, account, asked).await
    }

    fn resume(&self) {
        if !self.is_working.swap(true, Ordering::AcqRel) {
            self.gate.queue().resume(self.class);
        }
    }

    fn pause(&self) {
        if self.is_working.swap(false, Ordering::AcqRel) {
            self.unbroken.store(false, Ordering::Relaxed);
            let now = self.gate.ticker.now();
            self.gate.change(|queue, verdicts| queue.pause(now, self.class, verdicts));
        }
    }

    fn take_up(&self) {
        if self.is_handed.swap(false, Ordering::AcqRel) {
            self.gate.queue().take_up(self.class, self.tenant);
        }
    }

    fn end_pulse(&self) {
        if self.is_pulsing.swap(false, Ordering::AcqRel) {
            let now = self.gate.ticker.now();
            self.gate.change(|queue, verdicts| queue.end_pulse(now, verdicts));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.take_up();
        self.end_pulse();
        let begun = self.unbroken.load(Ordering::Relaxed).then_some(self.begun);
        let is_working = self.is_working.load(Ordering::Acquire);
        let now = || self.gate.ticker.now();
        self.gate.change(|queue, verdicts| queue.leave(now, self.class, self.tenant, is_working, begun, verdicts));
    }
}

impl Drop for LeftUnread<'_> {
    fn drop(&mut self) {
        self.gate.queue().end_unread(self.tenant);
    }
}

impl Drop for InQueue<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            let now = self.gate.ticker.now();
            // Its own handle, which nobody listens to any more.
            drop(self.gate.change(|queue, verdicts| queue.give_up(now, ticket, verdicts)));
        }
    }
}
