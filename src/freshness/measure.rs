//! What partitions show of views at one instant: the newest event time of each, which of them can't be
//! read, and for how long what was accepted has waited to be seen. It only reads what they publish.

use std::collections::HashMap;
use std::sync::Arc;

use hydrant_storage::names::ViewId;
use hydrant_storage::order::Micros;
use hydrant_storage::partition::ReadView;

use crate::partition::{PartitionState, Partitions};
use crate::registry::catalog::View;

/// What was seen of one view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Store time.
    pub at: Micros,
    /// Partitions that count: they have had rows of the view.
    pub partitions: usize,
    /// The one of them that is worst off, and its newest event time.
    pub worst: Option<(usize, Micros)>,
    /// The newest event time of all.
    pub newest: Option<Micros>,
    /// The first partition that can't be read.
    pub unreadable: Option<usize>,
    /// For how long the oldest accepted request has waited that reads of a partition that counts don't see.
    pub lag: Micros,
}

impl Seen {
    /// How old the newest row is in the partition that is worst off. Of a row of the future: 0.
    pub fn age(&self) -> Option<Micros> {
        self.worst.map(|(_, newest)| self.at.saturating_sub(newest).max(0))
    }

    /// Until when the rows seen are fresh; `None` where there are none.
    pub fn fresh_until(&self, max_age: Micros) -> Option<Micros> {
        match (self.unreadable, self.worst) {
            (Some(_), _) => Some(self.at),
            (None, worst) => worst.map(|(_, newest)| newest.saturating_add(max_age)),
        }
    }
}

/// All partitions at one instant.
#[derive(Debug)]
pub struct PartitionsSeen {
    at: Micros,
    views: Vec<Option<Arc<ReadView>>>,
    /// By partition, where it is known.
    behind: HashMap<usize, Micros>,
}

/// Which partitions have been serving, or failed, since the start: before that a partition says nothing.
#[derive(Debug, Default)]
pub struct Begun(Vec<bool>);

impl Begun {
    /// Whether every partition has begun by now.
    pub fn all(&mut self, partitions: &Partitions) -> bool {
        self.0.resize(partitions.handles().len(), false);
        for (begun, handle) in self.0.iter_mut().zip(partitions.handles()) {
            let is_starting = || matches!(handle.state(), PartitionState::Opening | PartitionState::Replaying { .. });
            *begun = *begun || !is_starting();
        }
        self.0.iter().all(|begun| *begun)
    }
}

impl PartitionsSeen {
    /// Blocks: how long requests have waited may have to be read from the log's files.
    pub fn take(partitions: &Partitions, now: impl FnOnce() -> Micros) -> Self {
        let behind = partitions.behind().into_iter().collect();
        let views = partitions.handles().iter().map(|handle| handle.view().ok()).collect();
        // Taken last: what the views show lies before it.
        Self { at: now(), views, behind }
    }

    pub fn at(&self) -> Micros {
        self.at
    }

    /// `had_rows`: whether rows of the view were ever seen, here or before a restart.
    pub fn of(&self, view: &View, had_rows: bool) -> Seen {
        let newest_in = |read: &Option<Arc<ReadView>>| read.as_ref().and_then(|read| read.newest_event_time(view.id));
        let all: Vec<Option<Micros>> = self.views.iter().map(newest_in).collect();
        let newest = all.iter().copied().flatten().max();
        // Where all rows have expired there is nothing to be fresh, as long as there is something elsewhere.
        let expired = |newest: Micros| view.ttl.is_some_and(|ttl| self.at.saturating_sub(newest) > ttl);
        let all_expired = newest.is_none_or(expired);
        let counts = |(_, newest): &(usize, Micros)| all_expired || !expired(*newest);
        let with_rows = || all.iter().enumerate().filter_map(|(index, newest)| newest.map(|newest| (index, newest)));
        let worst = with_rows().filter(counts).min_by_key(|(index, newest)| (*newest, *index));
        let has_rows = had_rows || newest.is_some();
        let unreadable = self.views.iter().position(Option::is_none).filter(|_| has_rows);
        let lag = with_rows().filter(counts).filter_map(|(index, _)| self.behind.get(&index)).max();
        Seen {
            at: self.at,
            partitions: with_rows().filter(counts).count(),
            worst,
            newest,
            unreadable,
            lag: lag.copied().unwrap_or(0),
        }
    }
}

/// Tells which rows are served of a view, as counts of their ages.
pub trait ServedAges: Send + Sync + std::fmt::Debug {
    /// `None`: none has been served since the start.
    fn of(&self, view: ViewId) -> Option<Arc<crate::counter::Spread>>;
}
