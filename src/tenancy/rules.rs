//! The bounds that the queue keeps to: how much is worked on at a time, how much may wait, and when a queue stands.
//! They only say so; what follows from them is the queue's.

use std::time::Duration;

use super::admission::Class;

/// The bounds of one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassRules {
    /// Requests that are worked on at a time.
    pub places: usize,
    /// Requests that have begun and not ended: those worked on, and those that wait for something
    /// else than a processor.
    pub in_flight: usize,
    /// One tenant begins no more while it has so many times as many under way as are left; `None`: it may have all.
    pub for_each_free: Option<usize>,
    /// As many as this begin although requests of a class before this one wait.
    pub floor: usize,
    /// Of one tenant.
    pub max_waiting: usize,
    /// Bytes of the waiting requests of one tenant.
    pub max_waiting_bytes: usize,
    /// Who waits longer is refused.
    pub patience: Duration,
    /// How a standing queue is treated; `None`: in order, as always.
    pub standing: Option<Standing>,
}

/// When a tenant's queue stands, and what then holds.
///
/// A queue stands whose oldest was found to wait beyond `target` for `after` on end, that was as long as
/// ever within the last two targets, and that is not short, for its tenant's weight, beside another's. It
/// stands no longer once it has been empty for `target`, or nobody had to be refused for `after`. When
/// nothing has happened for longer than `target`, and than requests usually work, the machine stood
/// still, or one request took all there is: what has come together meanwhile is no sign of more coming in
/// than can be done, so that time doesn't count, and how long the queue is is watched anew.
///
/// A queue that stands while no other tenant's requests wait is kept short: whoever comes to a full one is
/// refused at once, which costs less than to wait in vain and be refused then. By chance a short queue is full now and
/// then although everything could be done, so it is kept short only for `proof` after one has waited in vain,
/// perhaps beside others; then it may grow again until another does, and if nobody does it soon stands no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The longest wait in a queue that stands.
    pub target: Duration,
    /// No more wait in one that is kept short than all places together can do in so long, or some more than there are
    /// places, whichever is more; and never more than `max_waiting`.
    pub room: Duration,
    /// How long it is kept short after one has waited in vain.
    pub proof: Duration,
    pub after: Duration,
    /// So long after a queue has stood it stands again as soon as it is so for `target`.
    pub again: Duration,
    /// Once the oldest has waited for so long the newest is next, whether or not the queue stands: whoever has
    /// waited longer has probably given up.
    pub in_order: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// In the order of [`super::admission::Class::ALL`].
    pub classes: [ClassRules; Class::ALL.len()],
    /// How often an online request that is about to begin lets in first what has arrived.
    pub pulse: Duration,
    /// The same where some wait and several tenants ask, since only what has been let in takes its turn
    /// before a neighbour's.
    pub shared_pulse: Duration,
}
