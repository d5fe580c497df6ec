//! What waits to be written, by tenant. Each tenant has room of its own and its turn among the others, so
//! however much one asks for, what another asks for is in the next group that is written. It writes
//! nothing, and knows neither files nor time but how long it waits for work.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::record::Record;
use crate::error::Result;

/// Changes of one tenant that wait at most; each is a call that waits for its record. What came of a
/// change always has room: there is one for each change under way.
pub const MAX_EACH: usize = 64;
/// Records that are written and synced together at most.
pub const MAX_GROUP: usize = 256;

/// A record, and who waits for its number; nobody where it tells what came of a change.
#[derive(Debug)]
pub struct Waiting {
    /// The tenant in whose turn it is written: of whoever asked, not of whom it tells.
    pub lane: String,
    pub record: Record,
    pub done: Option<oneshot::Sender<Result<u64>>>,
}

/// What is done between two groups, once all is written that was put in before.
#[derive(Debug)]
pub enum Between<L> {
    Look(oneshot::Sender<L>),
    Sweep(oneshot::Sender<()>),
    Stop(oneshot::Sender<()>),
}

/// What is next.
#[derive(Debug)]
pub enum Next<L> {
    Group(Vec<Waiting>),
    Between(Between<L>),
    /// For as long as was waited.
    Nothing,
    /// Nobody can put anything in any more.
    Over,
}

/// Why something was not put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// Of this tenant.
    Full,
    Closed,
}

#[derive(Debug)]
pub struct Queue<L> {
    state: Mutex<State<L>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<L> {
    lanes: HashMap<String, Lane>,
    /// Tenants that have something waiting, the next one first.
    turns: VecDeque<String>,
    /// With how much was put in before each.
    between: VecDeque<(u64, Between<L>)>,
    put_in: u64,
    is_closed: bool,
}

/// Of one tenant.
#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<(u64, Waiting)>,
    changes: usize,
}

impl<L> Default for Queue<L> {
    fn default() -> Self {
        let state = State {
            lanes: HashMap::new(),
            turns: VecDeque::new(),
            between: VecDeque::new(),
            put_in: 0,
            is_closed: false,
        };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }
}

impl<L> Queue<L> {
    pub fn put(&self, waiting: Waiting) -> Result<(), NoRoom> {
        let mut state = self.lock();
        if state.is_closed {
            return Err(NoRoom::Closed);
        }
        let (number, tenant) = (state.put_in, waiting.lane.clone());
        let lane = state.lanes.entry(tenant.clone()).or_default();
        let is_change = waiting.done.is_some();
        if is_change && lane.changes >= MAX_EACH {
            return Err(NoRoom::Full);
        }
        lane.changes += usize::from(is_change);
        let is_first = lane.waiting.is_empty();
        lane.waiting.push_back((number, waiting));
        state.put_in += 1;
        if is_first {
            state.turns.push_back(tenant);
        }
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    pub fn put_between(&self, between: Between<L>) -> Result<(), NoRoom> {
        let mut state = self.lock();
        if state.is_closed {
            return Err(NoRoom::Closed);
        }
        let number = state.put_in;
        state.between.push_back((number, between));
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Lets nothing in any more; what waits can still be taken.
    pub fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_one();
    }

    /// Takes what is next, and waits for it so long at most.
    pub fn next(&self, patience: Duration) -> Next<L> {
        let is_idle = |state: &mut State<L>| state.turns.is_empty() && state.between.is_empty() && !state.is_closed;
        let waited = self.changed.wait_timeout_while(self.lock(), patience, is_idle);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if let Some((number, _)) = state.between.front() {
            let number = *number;
            let is_before = |lane: &Lane| lane.waiting.front().is_some_and(|(own, _)| *own < number);
            if !state.lanes.values().any(is_before)
                && let Some((_, between)) = state.between.pop_front()
            {
                return Next::Between(between);
            }
        }
        match state.group() {
            group if !group.is_empty() => Next::Group(group),
            _ if state.is_closed => Next::Over,
            _ => Next::Nothing,
        }
    }

    /// How many records wait.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.lock().lanes.values().map(|lane| lane.waiting.len()).sum()
    }

    fn lock(&self) -> MutexGuard<'_, State<L>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<L> State<L> {
    /// One of each tenant in turn, until there are enough.
    fn group(&mut self) -> Vec<Waiting> {
        let mut group = Vec::new();
        while group.len() < MAX_GROUP
            && let Some(tenant) = self.turns.pop_front()
        {
            let Some(lane) = self.lanes.get_mut(&tenant) else { continue };
            if let Some((_, waiting)) = lane.waiting.pop_front() {
                lane.changes -= usize::from(waiting.done.is_some());
                group.push(waiting);
            }
            if lane.waiting.is_empty() {
                self.lanes.remove(&tenant);
            } else {
                self.turns.push_back(tenant);
            }
        }
        group
    }
}

#[cfg(test)]
mod tests {
    use super::super::Asked;
    use super::super::record::Outcome;
    use super::*;

    fn change(tenant: &str) -> Waiting {
        let asked = Asked { tenant: tenant.to_owned(), ..Asked::default() };
        let record = asked.into_record(0, Outcome::Asked);
        Waiting { lane: tenant.to_owned(), record, done: Some(oneshot::channel().0) }
    }

    fn next(queue: &Queue<()>) -> Vec<String> {
        match queue.next(Duration::ZERO) {
            Next::Group(group) => group.into_iter().map(|waiting| waiting.lane).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn whatever_one_tenant_asks_for_another_s_is_in_the_next_group() {
        let queue = Queue::default();
        for _ in 0..MAX_EACH {
            queue.put(change("flood")).expect("there is room");
        }
        assert_eq!(queue.put(change("flood")), Err(NoRoom::Full));
        for _ in 0..10 * MAX_GROUP {
            // What came of its changes.
            queue.put(Waiting { done: None, ..change("flood") }).expect("there is always room");
        }
        queue.put(change("acme")).expect("it has room of its own");
        let group = next(&queue);
        assert_eq!(group.len(), MAX_GROUP);
        assert_eq!(group[1], "acme");
        queue.put(change("flood")).expect("there is room again");
    }

    #[test]
    fn what_is_asked_between_sees_all_that_was_put_in_before_and_waits_for_nothing_else() {
        let queue = Queue::default();
        for _ in 0..=MAX_GROUP {
            queue.put(Waiting { done: None, ..change("acme") }).expect("there is room");
        }
        queue.put_between(Between::Sweep(oneshot::channel().0)).expect("it is open");
        queue.put(change("acme")).expect("there is room");
        assert_eq!(next(&queue).len(), MAX_GROUP);
        assert_eq!(next(&queue).len(), 2);
        assert!(matches!(queue.next(Duration::ZERO), Next::Between(Between::Sweep(_))));
        assert!(matches!(queue.next(Duration::ZERO), Next::Nothing));
        queue.put(change("acme")).expect("there is room");
        queue.close();
        assert_eq!(queue.put(change("acme")), Err(NoRoom::Closed));
        assert_eq!(next(&queue).len(), 1);
        assert!(matches!(queue.next(Duration::ZERO), Next::Over));
    }
}
