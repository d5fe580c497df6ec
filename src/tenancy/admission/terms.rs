//! What is asked of the queue, and what it says.

use std::time::Instant;

/// What a request is for; the earlier goes before the later, but for the disk, which is read beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    Online,
    Ingest,
    Training,
    /// Some rows that are not in memory, of an online read or a piece of a stream that is under way.
    Disk,
}

impl Class {
    pub const ALL: [Self; 4] = [Self::Online, Self::Ingest, Self::Training, Self::Disk];

    /// As in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Ingest => "ingest",
            Self::Training => "training",
            Self::Disk => "disk",
        }
    }
}

/// A request as the queue knows it.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Work, in any unit that all of the class share.
    pub cost: u64,
    /// What it holds in memory while it waits.
    pub bytes: usize,
    /// Nobody waits for the answer any more.
    pub useful_until: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Nobody waits for its answer any more.
    Late,
    /// More comes in than can be done, or than can be done before nobody waits for it any more.
    Overloaded,
}

/// Leave to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    pub class: Class,
    pub tenant: TenantIndex,
    /// Before it begins it lets in what has arrived, and then says [`super::Queue::end_pulse`]. Until then
    /// whoever comes waits, so that what an executor holds unseen is seen, and put in order, here.
    pub pulse: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Arrival {
    Begins(Start),
    Waits(Ticket),
    Refused(Refused),
}

/// A tenant's number within one [`super::Queue`].
pub type TenantIndex = usize;

/// The place of a waiting request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub(super) class: Class,
    pub(super) tenant: TenantIndex,
    pub(super) number: u64,
}

/// What became of requests that waited: whoever holds their handles has to tell them.
#[derive(Debug)]
pub struct Verdicts<W> {
    pub begin: Vec<(W, Start)>,
    pub refused: Vec<(W, Refused)>,
}

impl<W> Default for Verdicts<W> {
    fn default() -> Self {
        Self { begin: Vec::new(), refused: Vec::new() }
    }
}
