//! What one tenant, or one key inside it, may use and uses. A request over a limit is refused before it
//! does anything, with the limit's name, what is in use and, where waiting helps, when to try again.
//! What a key takes its tenant takes too. Nothing waits here.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hydrant_storage::names::Name;

use super::admission::TenantIndex;
use super::metrics::Counts;
use super::quota::{Limits, Measure, Quota, Usage};
use super::rate::Bucket;
use crate::clock::Ticker;
use crate::error::{Error, Result};

/// What one tenant, or one of its keys, may use and uses.
#[derive(Debug)]
pub struct Account {
    tenant: Name,
    /// Such as `tenants/acme` or `tenants/acme/keys/1`.
    subject: String,
    /// The tenant's, of a key.
    within: Option<Arc<Account>>,
    /// Its number in the gate's queue.
    pub(super) index: TenantIndex,
    counts: Counts,
    ticker: Arc<dyn Ticker>,
    limits: Mutex<Limits>,
    meters: [Meter; Quota::ALL.len()],
    refused: [AtomicU64; Quota::ALL.len()],
    /// When rates were measured last, and what had been taken by then.
    measured: Mutex<(Instant, [u64; Quota::ALL.len()])>,
}

#[derive(Debug)]
enum Meter {
    Rate {
        bucket: Bucket,
        /// Taken a second, when it was measured last.
        recent: AtomicU64,
    },
    Held {
        limit: AtomicU64,
        used: AtomicU64,
    },
    Kept {
        limit: AtomicU64,
        /// As it was counted last, with what has come since.
        kept: AtomicU64,
        /// Of work that has not ended.
        held: AtomicU64,
    },
    Each {
        limit: AtomicU64,
    },
}

const UNLIMITED: u64 = u64::MAX;

/// So much of something is held until this is dropped.
#[derive(Debug)]
pub struct Held {
    account: Arc<Account>,
    quota: Quota,
    amount: u64,
}

impl Account {
    /// When something is given back is not known; so many requests are short.
    const RETRY_AFTER: Duration = Duration::from_millis(100);
    /// A training set is not.
    const RETRY_TRAINING_AFTER: Duration = Duration::from_secs(1);

    pub(super) fn new(tenant: Name, index: TenantIndex, limits: Limits, ticker: Arc<dyn Ticker>) -> Self {
        let subject = format!("tenants/{tenant}");
        Self::of(tenant, subject, None, index, limits, ticker)
    }

    /// The account of one key inside a tenant's: what is taken from it is taken from both, and its limits
    /// hold beside the tenant's. It takes its turn as the tenant does.
    pub fn nested(within: &Arc<Self>, key: &str, limits: Limits) -> Self {
        let subject = format!("{}/keys/{key}", within.subject);
        let (tenant, ticker) = (within.tenant.clone(), within.ticker.clone());
        Self::of(tenant, subject, Some(within.clone()), within.index, limits, ticker)
    }

    fn of(
        tenant: Name,
        subject: String,
        within: Option<Arc<Self>>,
        index: TenantIndex,
        limits: Limits,
        ticker: Arc<dyn Ticker>,
    ) -> Self {
        let now = ticker.now();
        let (unlimited, zero) = (|| AtomicU64::new(UNLIMITED), || AtomicU64::new(0));
        let meter = |quota: Quota| match quota.measure() {
            Measure::Rate => Meter::Rate { bucket: Bucket::new(now), recent: zero() },
            Measure::Held => Meter::Held { limit: unlimited(), used: zero() },
            Measure::Kept => Meter::Kept { limit: unlimited(), kept: zero(), held: zero() },
            Measure::Each => Meter::Each { limit: unlimited() },
        };
        let account = Self {
            tenant,
            subject,
            within,
            index,
            counts: Counts::default(),
            ticker,
            limits: Mutex::new(Limits::default()),
            meters: Quota::ALL.map(meter),
            refused: Quota::ALL.map(|_| zero()),
            measured: Mutex::new((now, [0; Quota::ALL.len()])),
        };
        account.set_limits(limits);
        account
    }

    pub fn tenant(&self) -> &Name {
        &self.tenant
    }

    /// Whose it is, such as `tenants/acme`.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The tenant's, of whichever key it is.
    pub fn of_tenant(&self) -> &Self {
        self.within.as_ref().map_or(self, |within| within.of_tenant())
    }

    /// Counts are of the whole tenant.
    pub fn counts(&self) -> &Counts {
        self.within.as_ref().map_or(&self.counts, |within| within.counts())
    }

    pub fn limits(&self) -> Limits {
        self.limits.lock().expect("nobody panics with the limits in hand").clone()
    }

    /// Holds from the next request on. What is under way goes on, also where it is more than allowed.
    pub(super) fn set_limits(&self, limits: Limits) {
        let mut current = self.limits.lock().expect("nobody panics with the limits in hand");
        let now = self.now();
        for quota in Quota::ALL {
            match self.meter(quota) {
                Meter::Rate { bucket, .. } => bucket.set(now, limits.of(quota)),
                Meter::Held { limit, .. } | Meter::Kept { limit, .. } | Meter::Each { limit } => {
                    limit.store(limits.of(quota).unwrap_or(UNLIMITED), Ordering::Relaxed);
                }
            }
        }
        *current = limits;
    }

    /// Every limited quota that has a sum. Of a rate, the larger of what a second took when it was measured
    /// last and what of a second's worth has been taken and not flowed back.
    pub fn usage(&self) -> Vec<Usage> {
        let now = self.now();
        let limited = |quota: Quota| (quota.measure() != Measure::Each).then(|| self.usage_of(quota, now)).flatten();
        Quota::ALL.into_iter().filter_map(limited).collect()
    }

    /// What is in use, limited or not; `None` where there is no sum, or where it isn't counted without a
    /// limit (entity keys).
    pub fn used(&self, quota: Quota) -> Option<u64> {
        match self.meter(quota) {
            Meter::Rate { .. } if quota == Quota::KeysPerSecond && !self.is_limited(quota) => None,
            Meter::Rate { bucket, recent } => Some(recent.load(Ordering::Relaxed).max(bucket.used(self.now()))),
            Meter::Held { used, .. } => Some(used.load(Ordering::Relaxed)),
            Meter::Kept { kept, held, .. } => {
                Some(kept.load(Ordering::Relaxed).saturating_add(held.load(Ordering::Relaxed)))
            }
            Meter::Each { .. } => None,
        }
    }

    /// Requests that were refused because of the quota.
    pub fn refused(&self, quota: Quota) -> u64 {
        self.refused[quota as usize].load(Ordering::Relaxed)
    }

    fn usage_of(&self, quota: Quota, now: Instant) -> Option<Usage> {
        let limit = self.limit_of(quota)?;
        let used = match self.meter(quota) {
            Meter::Rate { bucket, recent } => bucket.used(now).max(recent.load(Ordering::Relaxed).min(limit)),
            _ => self.used(quota).unwrap_or(0),
        };
        Some(Usage { quota, used, limit })
    }

    /// The limit, if there is one.
    pub fn limit_of(&self, quota: Quota) -> Option<u64> {
        match self.meter(quota) {
            Meter::Rate { bucket, .. } => bucket.limit(),
            Meter::Held { limit, .. } | Meter::Kept { limit, .. } | Meter::Each { limit } => {
                Some(limit.load(Ordering::Relaxed)).filter(|limit| *limit != UNLIMITED)
            }
        }
    }

    pub(super) fn now(&self) -> Instant {
        self.ticker.now()
    }

    /// Here or in what it lies within.
    pub(super) fn is_limited(&self, quota: Quota) -> bool {
        self.limit_of(quota).is_some() || self.within.as_ref().is_some_and(|within| within.is_limited(quota))
    }

    /// The smaller of the limits that hold.
    pub(super) fn least_limit(&self, quota: Quota) -> Option<u64> {
        let of_tenant = self.within.as_ref().and_then(|within| within.least_limit(quota));
        [self.limit_of(quota), of_tenant].into_iter().flatten().min()
    }

    /// How much a second was taken since it was asked last; to be asked about once a second.
    pub fn measure_rates(&self) {
        let now = self.now();
        let mut measured = self.measured.lock().expect("nobody panics while measuring");
        let passed = now.saturating_duration_since(measured.0).as_micros();
        // Asked twice at once: the first has the figures.
        if passed < 1_000 {
            return;
        }
        for quota in Quota::ALL {
            let Meter::Rate { bucket, recent } = self.meter(quota) else { continue };
            let (taken, before) = (bucket.taken(), measured.1[quota as usize]);
            let rate = u128::from(taken.saturating_sub(before)) * 1_000_000 / passed;
            recent.store(u64::try_from(rate).unwrap_or(u64::MAX), Ordering::Relaxed);
            measured.1[quota as usize] = taken;
        }
        measured.0 = now;
    }

    /// States what is kept, as it was counted.
    pub fn note_kept(&self, quota: Quota, amount: u64) {
        if let Meter::Kept { kept, .. } = self.meter(quota) {
            kept.store(amount, Ordering::Relaxed);
        }
    }

    /// Takes from a rate; RESOURCE_EXHAUSTED where it is used up.
    pub(super) fn take(&self, quota: Quota, amount: u64, now: Instant) -> Result<()> {
        let Meter::Rate { bucket, .. } = self.meter(quota) else { return Ok(()) };
        bucket.take(now, amount).map_err(|exhausted| self.exceeded(quota, now, exhausted.retry_after))?;
        match &self.within {
            None => Ok(()),
            Some(within) => within.take(quota, amount, now).inspect_err(|_| bucket.give_back(amount)),
        }
    }

    /// What was taken for a request that was then not served.
    pub(super) fn give_back(&self, quota: Quota, amount: u64) {
        if let Meter::Rate { bucket, .. } = self.meter(quota) {
            bucket.give_back(amount);
        }
        if let Some(within) = &self.within {
            within.give_back(quota, amount);
        }
    }

    /// One more request under way; RESOURCE_EXHAUSTED where there are as many as may be.
    pub(super) fn hold(&self, is_training: bool, now: Instant) -> Result<()> {
        self.hold_so_many(Quota::ConcurrentRequests, 1, now)?;
        if is_training {
            let held = self.hold_so_many(Quota::ConcurrentTrainingSets, 1, now);
            return held.inspect_err(|_| self.let_go_so_many(Quota::ConcurrentRequests, 1));
        }
        Ok(())
    }

    /// One that was held has ended.
    pub(super) fn let_go(&self, is_training: bool) {
        self.let_go_so_many(Quota::ConcurrentRequests, 1);
        if is_training {
            self.let_go_so_many(Quota::ConcurrentTrainingSets, 1);
        }
    }

    /// Holds so much until what is returned is dropped.
    pub(super) fn hold_amount(self: &Arc<Self>, quota: Quota, amount: u64) -> Result<Held> {
        self.hold_so_many(quota, amount, self.now())?;
        Ok(Held { account: self.clone(), quota, amount })
    }

    /// Nothing yet, to which more can be added.
    pub(super) fn hold_nothing(self: &Arc<Self>, quota: Quota) -> Held {
        Held { account: self.clone(), quota, amount: 0 }
    }

    /// So much is kept from now on, until it is counted again.
    pub(super) fn keep(&self, quota: Quota, amount: u64) -> Result<()> {
        self.hold_so_many(quota, amount, self.now())?;
        self.keep_held(quota, amount);
        Ok(())
    }

    fn hold_so_many(&self, quota: Quota, amount: u64, now: Instant) -> Result<()> {
        let (limit, used, kept) = match self.meter(quota) {
            Meter::Held { limit, used } => (limit, used, 0),
            Meter::Kept { limit, kept, held } => (limit, held, kept.load(Ordering::Relaxed)),
            Meter::Rate { .. } | Meter::Each { .. } => return Ok(()),
        };
        let limit = limit.load(Ordering::Relaxed);
        let more = |used: u64| {
            let next = used.saturating_add(amount);
            (limit == UNLIMITED || next.saturating_add(kept) <= limit).then_some(next)
        };
        if used.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_err() {
            let retry_after = match quota {
                Quota::StorageBytes | Quota::FeatureViews | Quota::Features => None,
                // Where it is more than all of it, waiting is in vain.
                _ if amount > limit => None,
                Quota::TrainingMemoryBytes | Quota::ConcurrentTrainingSets => Some(Self::RETRY_TRAINING_AFTER),
                _ => Some(Self::RETRY_AFTER),
            };
            return Err(self.exceeded(quota, now, retry_after));
        }
        match &self.within {
            None => Ok(()),
            Some(within) => within.hold_so_many(quota, amount, now).inspect_err(|_| self.let_go_here(quota, amount)),
        }
    }

    fn let_go_so_many(&self, quota: Quota, amount: u64) {
        self.let_go_here(quota, amount);
        if let Some(within) = &self.within {
            within.let_go_so_many(quota, amount);
        }
    }

    fn let_go_here(&self, quota: Quota, amount: u64) {
        if let Meter::Held { used: held, .. } | Meter::Kept { held, .. } = self.meter(quota) {
            held.fetch_sub(amount, Ordering::AcqRel);
        }
    }

    /// What was held stays.
    fn keep_held(&self, quota: Quota, amount: u64) {
        if let Meter::Kept { kept, held, .. } = self.meter(quota) {
            // In this order there is never too little of it in between.
            kept.fetch_add(amount, Ordering::AcqRel);
            held.fetch_sub(amount, Ordering::AcqRel);
        }
        if let Some(within) = &self.within {
            within.keep_held(quota, amount);
        }
    }

    fn meter(&self, quota: Quota) -> &Meter {
        &self.meters[quota as usize]
    }

    pub(super) fn exceeded(&self, quota: Quota, now: Instant, retry_after: Option<Duration>) -> Error {
        self.note_refused(quota);
        let usage = self.usage_of(quota, now).unwrap_or(Usage { quota, used: 0, limit: 0 });
        usage.exceeded(&self.subject, retry_after)
    }

    pub(super) fn note_refused(&self, quota: Quota) {
        self.refused[quota as usize].fetch_add(1, Ordering::Relaxed);
    }
}

impl Held {
    /// Holds so much in all, if it is more than before; RESOURCE_EXHAUSTED where that is too much, and then
    /// as much as before is held.
    pub fn grow_to(&mut self, amount: u64) -> Result<()> {
        if let Some(more) = amount.checked_sub(self.amount).filter(|more| *more > 0) {
            self.account.hold_so_many(self.quota, more, self.account.now())?;
            self.amount = amount;
        }
        Ok(())
    }

    pub fn amount(&self) -> u64 {
        self.amount
    }

    /// The work is done, and what it made stays.
    pub fn stays(&mut self) {
        self.account.keep_held(self.quota, std::mem::take(&mut self.amount));
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.amount > 0 {
            self.account.let_go_so_many(self.quota, self.amount);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualTicker;
    use crate::error::{Code, QuotaUse};

    fn account(limits: Limits) -> (Arc<Account>, Arc<ManualTicker>) {
        let ticker = Arc::new(ManualTicker::default());
        (Arc::new(Account::new("acme".parse().expect("a name"), 0, limits, ticker.clone())), ticker)
    }

    fn quota_of(refused: Error) -> String {
        refused.quota.expect("of which quota").quota
    }

    #[test]
    fn a_refusal_names_the_quota_its_usage_and_its_limit() {
        let (account, ticker) = account(Limits::default().with(Quota::KeysPerSecond, 100));
        account.take(Quota::KeysPerSecond, 80, ticker.now()).expect("within");
        let refused = account.take(Quota::KeysPerSecond, 30, ticker.now()).expect_err("beyond");
        assert_eq!((refused.code, refused.reason), (Code::ResourceExhausted, "QUOTA_EXCEEDED"));
        assert_eq!(refused.retry_after, Some(Duration::from_millis(100)));
        let QuotaUse { subject, quota, usage, limit } = *refused.quota.expect("of which quota");
        assert_eq!((subject.as_str(), quota.as_str(), usage, limit), ("tenants/acme", "keys_per_second", 80, 100));
        assert_eq!(account.usage(), [Usage { quota: Quota::KeysPerSecond, used: 80, limit: 100 }]);
        assert_eq!(account.refused(Quota::KeysPerSecond), 1);
    }

    #[test]
    fn a_quota_that_is_raised_is_in_use_by_what_was_taken_and_no_more() {
        let limits = |per_second| Limits::default().with(Quota::RequestsPerSecond, per_second);
        let (tenant, ticker) = account(limits(10));
        let key = Account::nested(&tenant, "a", limits(10));
        key.take(Quota::RequestsPerSecond, 10, ticker.now()).expect("within both");
        for account in [&*tenant, &key] {
            account.set_limits(limits(10_000));
            assert_eq!(account.used(Quota::RequestsPerSecond), Some(10), "{}", account.subject());
            assert!(!account.usage()[0].is_near(), "{:?}", account.usage());
        }
        key.take(Quota::RequestsPerSecond, 9_990, ticker.now()).expect("the raise holds from the next request on");
    }

    #[test]
    fn what_is_held_is_given_back_and_a_changed_limit_holds_for_the_next() {
        let (account, ticker) = account(Limits::default().with(Quota::ConcurrentRequests, 2));
        let now = ticker.now();
        account.hold(false, now).expect("one");
        account.hold(true, now).expect("two");
        assert!(account.hold(false, now).is_err());
        account.let_go(false);
        account.hold(false, now).expect("one was given back");
        account.set_limits(Limits::default().with(Quota::ConcurrentTrainingSets, 1));
        assert_eq!(quota_of(account.hold(true, now).expect_err("there is one")), "concurrent_training_sets");
        account.hold(false, now).expect("the refused one holds nothing");
        assert_eq!(account.usage(), [Usage { quota: Quota::ConcurrentTrainingSets, used: 1, limit: 1 }]);
    }

    #[test]
    fn a_steady_rate_is_in_use_although_its_bucket_is_empty_again() {
        let (account, ticker) = account(Limits::default().with(Quota::RequestsPerSecond, 1_000));
        account.measure_rates();
        for _ in 0..900 {
            ticker.advance(Duration::from_micros(1_111));
            account.take(Quota::RequestsPerSecond, 1, ticker.now()).expect("within");
        }
        account.measure_rates();
        let usage = account.usage()[0];
        assert!((890..=910).contains(&usage.used) && usage.is_near(), "{usage:?}");
        ticker.advance(Duration::from_secs(10));
        account.measure_rates();
        assert_eq!(account.usage()[0].used, 0);
    }

    #[test]
    fn memory_is_held_by_amount_and_what_never_fits_is_not_to_be_tried_again() {
        let (account, _) = account(Limits::default().with(Quota::TrainingMemoryBytes, 100));
        let first = account.hold_amount(Quota::TrainingMemoryBytes, 60).expect("within");
        let refused = account.hold_amount(Quota::TrainingMemoryBytes, 60).expect_err("beyond");
        assert!(refused.retry_after.is_some());
        drop(first);
        account.hold_amount(Quota::TrainingMemoryBytes, 60).expect("it was given back");
        let refused = account.hold_amount(Quota::TrainingMemoryBytes, 101).expect_err("never");
        assert!(refused.retry_after.is_none() && refused.hint.is_some());
    }

    #[test]
    fn what_is_kept_counts_with_what_is_being_made_and_waiting_does_not_help() {
        let (account, _) = account(Limits::default().with(Quota::StorageBytes, 1_000));
        account.note_kept(Quota::StorageBytes, 700);
        let mut making = account.hold_nothing(Quota::StorageBytes);
        making.grow_to(200).expect("within");
        let refused = account.keep(Quota::StorageBytes, 101).expect_err("beyond");
        assert_eq!((refused.retry_after, quota_of(refused)), (None, "storage_bytes".to_owned()));
        account.keep(Quota::StorageBytes, 100).expect("exactly all of it");
        assert!(making.grow_to(201).is_err());
        assert_eq!(making.amount(), 200);
        drop(making);
        assert_eq!(account.used(Quota::StorageBytes), Some(800));
        let mut making = account.hold_nothing(Quota::StorageBytes);
        making.grow_to(200).expect("what failed was given back");
        making.stays();
        assert_eq!(account.used(Quota::StorageBytes), Some(1_000));
    }

    #[test]
    fn what_a_key_takes_its_tenant_takes_and_what_either_refuses_neither_has() {
        let limits = Limits::default().with(Quota::KeysPerSecond, 100).with(Quota::ConcurrentRequests, 2);
        let (tenant, ticker) = account(limits);
        let now = ticker.now();
        let own = Limits::default().with(Quota::KeysPerSecond, 80).with(Quota::ConcurrentRequests, 1);
        let [first, second] = ["a", "b"].map(|key| Arc::new(Account::nested(&tenant, key, own.clone())));
        first.take(Quota::KeysPerSecond, 60, now).expect("within both");
        let refused = first.take(Quota::KeysPerSecond, 30, now).expect_err("beyond the key's");
        let told = "key 'a' of tenant 'acme' has used up its quota 'keys_per_second': 60 of 80 are in use";
        assert_eq!((refused.message.as_str(), refused.retry_after), (told, Some(Duration::from_millis(125))));
        let QuotaUse { subject, quota, usage, limit } = *refused.quota.expect("of which quota");
        assert_eq!(
            (subject.as_str(), quota.as_str(), usage, limit),
            ("tenants/acme/keys/a", "keys_per_second", 60, 80)
        );
        let refused = second.take(Quota::KeysPerSecond, 50, now).expect_err("beyond the tenant's");
        assert_eq!(refused.quota.expect("of which quota").subject, "tenants/acme");
        second.take(Quota::KeysPerSecond, 40, now).expect("what was refused was given back");
        assert_eq!(tenant.used(Quota::KeysPerSecond), Some(100));

        first.hold(false, now).expect("one");
        assert!(first.hold(false, now).is_err());
        second.hold(false, now).expect("another key's");
        first.let_go(false);
        assert_eq!(tenant.used(Quota::ConcurrentRequests), Some(1));
        assert_eq!(first.used(Quota::ConcurrentRequests), Some(0));
    }
}
