//! Who reads what, counted where it is read: by selection and caller, and not by feature, so that a read
//! costs one look into a small map and one addition. What is counted is taken out by whoever keeps it.
//! Nothing here reads a clock, and counting never fails.

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use hydrant_storage::names::{Name, TenantId};
use hydrant_storage::order::Micros;

pub const DAY: Micros = 24 * 3_600_000_000;
/// Days of which reads are kept, today among them.
pub const KEPT_DAYS: i64 = 30;
/// Callers of one selection, and of one thing, that are told apart.
pub const MAX_CALLERS: usize = 64;
/// Pairs of selection and caller that are counted without a lock: at most 2 KiB each.
const MAX_TALLIES: usize = 8_192;
/// Pairs of thing and reader that wait to be taken out. Beyond, reads are counted without saying of what.
const MAX_WAITING: usize = 1 << 18;
/// Threads count in so many places at most.
const MAX_SHARDS: usize = 16;

/// The name of all callers that are not told apart.
pub const OTHERS: &str = "others";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadKind {
    Online,
    Training,
}

/// What can be read under a name of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Readable {
    /// A view's feature, asked for by itself.
    Feature(Name, Name),
    /// A version of a service.
    Service(Name, u32),
}

/// What was read, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Thing {
    pub owner: TenantId,
    pub of: Readable,
}

/// Who read. Of another tenant than the owner's its tenant alone is known: the caller is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reader {
    pub tenant: TenantId,
    pub caller: Arc<str>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub online: u64,
    pub training: u64,
}

/// What was counted since it was taken out last.
#[derive(Debug, Default)]
pub struct Drained {
    pub reads: HashMap<(Thing, Reader), Counts>,
    /// Reads of which it isn't known what they were of.
    pub uncounted: u64,
}

/// Where all reads of a store are counted. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Reads {
    hub: Arc<Mutex<Hub>>,
}

#[derive(Debug, Default)]
struct Hub {
    tallies: Vec<Arc<Tally>>,
    waiting: Drained,
}

/// What one selection reads, and its readers. It lives as long as the selection.
#[derive(Debug)]
pub struct ReadsOf {
    asked: Arc<Asked>,
    tallies: ArcSwap<HashMap<Arc<str>, Arc<Tally>>>,
    /// Of all callers beyond [`MAX_CALLERS`].
    others: OnceLock<Arc<Tally>>,
    /// The selection is asked for again, so that there is something to gain by remembering its callers.
    is_kept: bool,
}

#[derive(Debug)]
struct Asked {
    tenant: TenantId,
    things: Vec<Thing>,
}

/// The reads of a selection by one caller.
struct Tally {
    asked: Arc<Asked>,
    caller: Arc<str>,
    shards: Box<[Shard]>,
}

/// Apart from its neighbours in every cache, so that threads don't write to the same line.
#[derive(Default)]
#[repr(align(128))]
struct Shard {
    online: AtomicU64,
    training: AtomicU64,
}

impl Counts {
    pub fn add(&mut self, other: Self) {
        self.online = self.online.saturating_add(other.online);
        self.training = self.training.saturating_add(other.training);
    }

    pub fn sum(self) -> u64 {
        self.online.saturating_add(self.training)
    }

    fn one(kind: ReadKind) -> Self {
        match kind {
            ReadKind::Online => Self { online: 1, training: 0 },
            ReadKind::Training => Self { online: 0, training: 1 },
        }
    }
}

/// Mean reads a day of `sum` on the days that are kept: of those in which they could be counted, so neither
/// before what was read was made nor before counting began.
pub fn mean_a_day(sum: u64, created: Micros, counted_since: Micros, now: Micros) -> f64 {
    let begin = counted_since.max(created).max((now.div_euclid(DAY) - KEPT_DAYS + 1) * DAY);
    // Less than a day is one.
    let days = (now.saturating_sub(begin) as f64 / DAY as f64).max(1.0);
    sum as f64 / days
}

impl fmt::Display for Readable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Feature(view, feature) => write!(formatter, "{view}:{feature}"),
            Self::Service(service, number) => write!(formatter, "{service}@{number}"),
        }
    }
}

impl Readable {
    /// `view:feature` or `service@N`.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some((view, feature)) = text.split_once(':') {
            return Some(Self::Feature(view.parse().ok()?, feature.parse().ok()?));
        }
        let (service, number) = text.split_once('@')?;
        let is_plain = number.bytes().all(|byte| byte.is_ascii_digit());
        Some(Self::Service(service.parse().ok()?, number.parse().ok().filter(|_| is_plain)?))
    }
}

impl ReadsOf {
    /// Of what a tenant asks for. `is_kept`: the same selection is used again.
    pub fn new(tenant: TenantId, things: Vec<Thing>, is_kept: bool) -> Arc<Self> {
        let asked = Arc::new(Asked { tenant, things });
        Arc::new(Self { asked, tallies: ArcSwap::default(), others: OnceLock::new(), is_kept })
    }

    /// What is read under a name of its own, each once.
    pub fn things(&self) -> &[Thing] {
        &self.asked.things
    }

    fn tally_of(&self, caller: &str, count: impl Fn(&Tally)) -> bool {
        let tallies = self.tallies.load();
        // There are others only where the map is full.
        let known = tallies.get(caller).or_else(|| self.others.get());
        known.inspect(|tally| count(tally)).is_some()
    }
}

impl Reads {
    /// Counts one read of a selection by a caller of the selection's tenant.
    #[inline]
    pub fn note(&self, caller: &str, of: &ReadsOf, kind: ReadKind) {
        if !of.tally_of(caller, |tally| tally.add(kind)) {
            self.note_first(caller, of, kind);
        }
    }

    /// The first read by this caller, or one of a selection that is used once.
    #[cold]
    fn note_first(&self, caller: &str, of: &ReadsOf, kind: ReadKind) {
        let mut hub = self.lock();
        // Another thread may have been first.
        if of.tally_of(caller, |tally| tally.add(kind)) {
            return;
        }
        if !of.is_kept || !hub.has_room() {
            hub.waiting.add(&of.asked, caller, Counts::one(kind));
            return;
        }
        let before = of.tallies.load();
        let is_told_apart = before.len() < MAX_CALLERS;
        let tally = Arc::new(Tally::new(of.asked.clone(), if is_told_apart { caller } else { OTHERS }));
        tally.add(kind);
        hub.tallies.push(tally.clone());
        if is_told_apart {
            let mut tallies = HashMap::clone(&before);
            tallies.insert(tally.caller.clone(), tally);
            of.tallies.store(Arc::new(tallies));
        } else {
            // Under the lock nobody else has set it.
            of.others.get_or_init(|| tally);
        }
    }

    /// Takes out what was counted since it was taken out last: each read once.
    pub fn drain(&self) -> Drained {
        let mut hub = self.lock();
        hub.collect();
        std::mem::take(&mut hub.waiting)
    }

    fn lock(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hub {
    /// Whether one more tally may be kept; those of selections that are gone make room.
    fn has_room(&mut self) -> bool {
        if self.tallies.len() >= MAX_TALLIES {
            self.collect();
        }
        self.tallies.len() < MAX_TALLIES
    }

    fn collect(&mut self) {
        let waiting = &mut self.waiting;
        self.tallies.retain_mut(|tally| {
            // Whose selection is gone counts no more, and what it has counted is seen by now.
            let is_last = Arc::get_mut(tally).is_some();
            let counts = tally.take();
            if counts.sum() > 0 {
                waiting.add(&tally.asked, &tally.caller, counts);
            }
            !is_last
        });
    }
}

impl Drained {
    fn add(&mut self, asked: &Asked, caller: &str, counts: Counts) {
        let caller: Arc<str> = caller.into();
        let stranger: Arc<str> = "".into();
        for thing in &asked.things {
            let is_own = thing.owner == asked.tenant;
            let reader = Reader { tenant: asked.tenant, caller: if is_own { &caller } else { &stranger }.clone() };
            let key = (thing.clone(), reader);
            if let Some(known) = self.reads.get_mut(&key) {
                known.add(counts);
            } else if self.reads.len() < MAX_WAITING {
                self.reads.insert(key, counts);
            } else {
                self.uncounted = self.uncounted.saturating_add(counts.sum());
            }
        }
    }
}

impl Tally {
    fn new(asked: Arc<Asked>, caller: &str) -> Self {
        static SHARDS: LazyLock<usize> = LazyLock::new(|| {
            let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
            threads.next_power_of_two().min(MAX_SHARDS)
        });
        Self { asked, caller: caller.into(), shards: (0..*SHARDS).map(|_| Shard::default()).collect() }
    }

    fn add(&self, kind: ReadKind) {
        // A power of two.
        let shard = &self.shards[thread_number() & (self.shards.len() - 1)];
        match kind {
            ReadKind::Online => shard.online.fetch_add(1, Ordering::Relaxed),
            ReadKind::Training => shard.training.fetch_add(1, Ordering::Relaxed),
        };
    }

    fn take(&self) -> Counts {
        let mut counts = Counts::default();
        for shard in &self.shards {
            let online = shard.online.swap(0, Ordering::Relaxed);
            let training = shard.training.swap(0, Ordering::Relaxed);
            counts.add(Counts { online, training });
        }
        counts
    }
}

impl fmt::Debug for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Tally").field("caller", &self.caller).finish_non_exhaustive()
    }
}

/// Of the calling thread, counted from 0 as threads first come here.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    NUMBER.with(|number| {
        if number.get() == usize::MAX {
            number.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        number.get()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feature(owner: u32, name: &str) -> Thing {
        let [view, feature] = ["view", name].map(|name| name.parse().expect("a name"));
        Thing { owner: TenantId(owner), of: Readable::Feature(view, feature) }
    }

    fn counted(drained: &Drained, thing: &Thing, caller: &str) -> Counts {
        let of_it = drained.reads.iter().filter(|((of, reader), _)| of == thing && &*reader.caller == caller);
        of_it.fold(Counts::default(), |mut sum, (_, counts)| {
            sum.add(*counts);
            sum
        })
    }

    #[test]
    fn reads_a_day_are_of_the_days_in_which_they_could_be_counted() {
        let now = 100 * DAY;
        assert_eq!(mean_a_day(40, now - 4 * DAY, 0, now), 10.0);
        assert_eq!(mean_a_day(40, now - 40 * DAY, now - 8 * DAY, now), 5.0);
        assert_eq!(mean_a_day(29, now - 90 * DAY, 0, now), 1.0);
        assert_eq!(mean_a_day(7, now, 0, now), 7.0);
        assert_eq!(mean_a_day(0, now, 0, now), 0.0);
    }

    #[test]
    fn each_read_is_taken_out_once_whichever_thread_made_it_and_however_often_it_is_looked() {
        const TIMES: u64 = 20_000;
        let reads = Reads::default();
        let thing = feature(1, "a");
        let of = ReadsOf::new(TenantId(1), vec![thing.clone()], true);
        let mut sum = Counts::default();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (reads, of) = (reads.clone(), of.clone());
                let kind = if thread == 0 { ReadKind::Training } else { ReadKind::Online };
                scope.spawn(move || (0..TIMES).for_each(|_| reads.note("key/a", &of, kind)));
            }
            for _ in 0..100 {
                sum.add(counted(&reads.drain(), &thing, "key/a"));
            }
        });
        // Its selection goes, and what was counted stays.
        drop(of);
        sum.add(counted(&reads.drain(), &thing, "key/a"));
        assert_eq!(sum, Counts { online: 3 * TIMES, training: TIMES });
        assert!(reads.lock().tallies.is_empty() && reads.drain().reads.is_empty());
    }

    #[test]
    fn callers_beyond_the_bound_are_others_and_tenants_are_told_without_their_callers() {
        let reads = Reads::default();
        let (own, shared) = (feature(1, "a"), feature(2, "b"));
        let of = ReadsOf::new(TenantId(1), vec![own.clone(), shared.clone()], true);
        for caller in 0..2 * MAX_CALLERS {
            for _ in 0..3 {
                reads.note(&format!("key/{caller}"), &of, ReadKind::Online);
            }
        }
        let drained = reads.drain();
        assert_eq!(counted(&drained, &own, "key/0").online, 3);
        assert_eq!(counted(&drained, &own, OTHERS).online, 3 * MAX_CALLERS as u64);
        assert_eq!(counted(&drained, &shared, "").online, 6 * MAX_CALLERS as u64);
        assert_eq!((drained.reads.len(), drained.uncounted), (MAX_CALLERS + 2, 0));
    }

    #[test]
    fn no_more_is_remembered_than_the_bounds() {
        let reads = Reads::default();
        let thing = feature(1, "a");
        let kept: Vec<_> = (0..MAX_TALLIES + 10)
            .map(|_| {
                let of = ReadsOf::new(TenantId(1), vec![thing.clone()], true);
                reads.note("key/a", &of, ReadKind::Online);
                of
            })
            .collect();
        assert_eq!(reads.lock().tallies.len(), MAX_TALLIES);
        drop(kept);
        let once = ReadsOf::new(TenantId(1), vec![thing.clone()], false);
        reads.note("key/a", &once, ReadKind::Training);
        let sum = counted(&reads.drain(), &thing, "key/a");
        assert_eq!(sum, Counts { online: MAX_TALLIES as u64 + 10, training: 1 });
        let things = (0..MAX_WAITING + 5).map(|number| feature(1, &format!("f{number}"))).collect();
        reads.note("key/a", &ReadsOf::new(TenantId(1), things, false), ReadKind::Online);
        let drained = reads.drain();
        assert_eq!((drained.reads.len(), drained.uncounted), (MAX_WAITING, 5));
    }
}
