//! How much a tenant may use: its limits, what of them is in use, and its weight beside others. A
//! request over a limit is refused before it does anything, with the limit's name and when to try
//! again. Nothing waits here.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hydrant_storage::names::Name;
use serde::{Deserialize, Serialize};

use super::admission::TenantIndex;
use super::metrics::Counts;
use super::rate::Bucket;
use crate::clock::Ticker;
use crate::error::{Code, Error, QuotaUse, Result};

/// What can be limited. Who limits one thing more adds it here, and takes it from the [`Account`]
/// where it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quota {
    /// Requests of all kinds.
    RequestsPerSecond,
    /// Distinct entity keys of online reads: one of a request counts once, whatever is asked for it and
    /// however often it is named.
    KeysPerSecond,
    /// Requests of all kinds under way.
    ConcurrentRequests,
    IngestRowsPerSecond,
    /// Of the rows' columns, in memory.
    IngestBytesPerSecond,
    /// Training sets being made.
    ConcurrentTrainingSets,
}

/// How a quota is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// So many a second; at once as many as a second gives.
    Rate,
    /// So many at a time.
    Held,
}

/// A tenant's limits; without any at first. Each holds for all callers of the tenant together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// What is not in it is not limited.
    #[serde(default)]
    quotas: BTreeMap<Quota, u64>,
    /// The share of this tenant, beside the others', of what there is not enough of.
    #[serde(default = "even")]
    weight: u32,
}

/// A quota with what of it is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub quota: Quota,
    pub used: u64,
    pub limit: u64,
}

/// What one tenant (or later: one of its keys) may use and uses.
#[derive(Debug)]
pub struct Account {
    tenant: Name,
    /// Its number in the gate's queue.
    pub(super) index: TenantIndex,
    counts: Counts,
    ticker: Arc<dyn Ticker>,
    limits: Mutex<Limits>,
    meters: [Meter; Quota::ALL.len()],
}

#[derive(Debug)]
enum Meter {
    Rate(Bucket),
    Held { limit: AtomicU64, used: AtomicU64 },
}

impl Quota {
    pub const ALL: [Self; 6] = [
        Self::RequestsPerSecond,
        Self::KeysPerSecond,
        Self::ConcurrentRequests,
        Self::IngestRowsPerSecond,
        Self::IngestBytesPerSecond,
        Self::ConcurrentTrainingSets,
    ];

    /// As it is serialized and told.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RequestsPerSecond => "requests_per_second",
            Self::KeysPerSecond => "keys_per_second",
            Self::ConcurrentRequests => "concurrent_requests",
            Self::IngestRowsPerSecond => "ingest_rows_per_second",
            Self::IngestBytesPerSecond => "ingest_bytes_per_second",
            Self::ConcurrentTrainingSets => "concurrent_training_sets",
        }
    }

    pub fn measure(self) -> Measure {
        match self {
            Self::RequestsPerSecond | Self::KeysPerSecond | Self::IngestRowsPerSecond | Self::IngestBytesPerSecond => {
                Measure::Rate
            }
            Self::ConcurrentRequests | Self::ConcurrentTrainingSets => Measure::Held,
        }
    }
}

impl Limits {
    #[must_use]
    pub fn with(mut self, quota: Quota, limit: u64) -> Self {
        self.quotas.insert(quota, limit);
        self
    }

    /// Twice the weight is twice the share.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    pub fn of(&self, quota: Quota) -> Option<u64> {
        self.quotas.get(&quota).copied()
    }

    /// At least 1.
    pub fn share(&self) -> u32 {
        self.weight.max(1)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { quotas: BTreeMap::new(), weight: even() }
    }
}

impl Account {
    /// When something is given back is not known; so many requests are short.
    const RETRY_AFTER: Duration = Duration::from_millis(100);

    pub(super) fn new(tenant: Name, index: TenantIndex, limits: Limits, ticker: Arc<dyn Ticker>) -> Self {
        let now = ticker.now();
        let meter = |quota: Quota| match quota.measure() {
            Measure::Rate => Meter::Rate(Bucket::new(now)),
            Measure::Held => Meter::Held { limit: AtomicU64::new(u64::MAX), used: AtomicU64::new(0) },
        };
        let account = Self {
            tenant,
            index,
            counts: Counts::default(),
            ticker,
            limits: Mutex::new(Limits::default()),
            meters: Quota::ALL.map(meter),
        };
        account.set_limits(limits);
        account
    }

    pub fn tenant(&self) -> &Name {
        &self.tenant
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    pub fn limits(&self) -> Limits {
        self.limits.lock().expect("nobody panics with the limits in hand").clone()
    }

    /// Holds from the next request on. What is under way goes on, also where it is more than allowed.
    pub(super) fn set_limits(&self, limits: Limits) {
        let mut current = self.limits.lock().expect("nobody panics with the limits in hand");
        for quota in Quota::ALL {
            match self.meter(quota) {
                Meter::Rate(bucket) => bucket.set(limits.of(quota)),
                Meter::Held { limit, .. } => limit.store(limits.of(quota).unwrap_or(u64::MAX), Ordering::Relaxed),
            }
        }
        *current = limits;
    }

    /// Every limited quota. Of a rate, what of a second's worth has been taken and not flowed back.
    pub fn usage(&self) -> Vec<Usage> {
        let now = self.now();
        Quota::ALL.into_iter().filter_map(|quota| self.usage_of(quota, now)).collect()
    }

    fn usage_of(&self, quota: Quota, now: Instant) -> Option<Usage> {
        let (used, limit) = match self.meter(quota) {
            Meter::Rate(bucket) => (bucket.used(now), bucket.limit()?),
            Meter::Held { limit, used } => {
                let limit = limit.load(Ordering::Relaxed);
                (used.load(Ordering::Relaxed), (limit != u64::MAX).then_some(limit)?)
            }
        };
        Some(Usage { quota, used, limit })
    }

    pub(super) fn now(&self) -> Instant {
        self.ticker.now()
    }

    pub(super) fn is_limited(&self, quota: Quota) -> bool {
        match self.meter(quota) {
            Meter::Rate(bucket) => bucket.limit().is_some(),
            Meter::Held { limit, .. } => limit.load(Ordering::Relaxed) != u64::MAX,
        }
    }

    /// Takes from a rate; RESOURCE_EXHAUSTED where it is used up.
    pub(super) fn take(&self, quota: Quota, amount: u64, now: Instant) -> Result<()> {
        let Meter::Rate(bucket) = self.meter(quota) else { return Ok(()) };
        bucket.take(now, amount).map_err(|exhausted| self.exceeded(quota, now, exhausted.retry_after))
    }

    /// What was taken for a request that was then not served.
    pub(super) fn give_back(&self, quota: Quota, amount: u64) {
        if let Meter::Rate(bucket) = self.meter(quota) {
            bucket.give_back(amount);
        }
    }

    /// One more request under way; RESOURCE_EXHAUSTED where there are as many as may be.
    pub(super) fn hold(&self, is_training: bool, now: Instant) -> Result<()> {
        self.hold_one(Quota::ConcurrentRequests, now)?;
        if is_training {
            let held = self.hold_one(Quota::ConcurrentTrainingSets, now);
            return held.inspect_err(|_| self.let_go_one(Quota::ConcurrentRequests));
        }
        Ok(())
    }

    /// One that was held has ended.
    pub(super) fn let_go(&self, is_training: bool) {
        self.let_go_one(Quota::ConcurrentRequests);
        if is_training {
            self.let_go_one(Quota::ConcurrentTrainingSets);
        }
    }

    fn hold_one(&self, quota: Quota, now: Instant) -> Result<()> {
        let Meter::Held { limit, used } = self.meter(quota) else { return Ok(()) };
        let limit = limit.load(Ordering::Relaxed);
        let one_more = |used: u64| (used < limit).then_some(used + 1);
        match used.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more) {
            Ok(_) => Ok(()),
            Err(_) => Err(self.exceeded(quota, now, Some(Self::RETRY_AFTER))),
        }
    }

    fn let_go_one(&self, quota: Quota) {
        if let Meter::Held { used, .. } = self.meter(quota) {
            used.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn meter(&self, quota: Quota) -> &Meter {
        &self.meters[quota as usize]
    }

    fn exceeded(&self, quota: Quota, now: Instant, retry_after: Option<Duration>) -> Error {
        let usage = self.usage_of(quota, now).unwrap_or(Usage { quota, used: 0, limit: 0 });
        let tenant = &self.tenant;
        let message = match quota.measure() {
            Measure::Rate => format!("tenant '{tenant}' has used up its quota '{quota}' of {}", usage.limit),
            Measure::Held => {
                format!("tenant '{tenant}' has as many under way as its quota '{quota}' allows: {}", usage.limit)
            }
        };
        let mut error = Error::new(Code::ResourceExhausted, "QUOTA_EXCEEDED", message)
            .with("tenant", tenant)
            .with("quota", quota)
            .with("usage", usage.used)
            .with("limit", usage.limit);
        error.quota = Some(Box::new(QuotaUse {
            subject: format!("tenants/{tenant}"),
            quota: quota.as_str().to_owned(),
            usage: usage.used,
            limit: usage.limit,
        }));
        error.retry_after = retry_after;
        error
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

fn even() -> u32 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualTicker;

    fn account(limits: Limits) -> (Arc<Account>, Instant) {
        let ticker = Arc::new(ManualTicker::default());
        let now = ticker.now();
        (Arc::new(Account::new("acme".parse().expect("a name"), 0, limits, ticker)), now)
    }

    #[test]
    fn limits_survive_their_serialized_form_and_an_unknown_quota_is_refused() {
        let limits =
            Limits::default().with(Quota::KeysPerSecond, 5_000).with(Quota::ConcurrentTrainingSets, 2).weight(3);
        let text = serde_json::to_string(&limits).expect("it serializes");
        assert_eq!(text, r#"{"quotas":{"keys_per_second":5000,"concurrent_training_sets":2},"weight":3}"#);
        assert_eq!(serde_json::from_str::<Limits>(&text).expect("it reads back"), limits);
        assert_eq!(serde_json::from_str::<Limits>("{}").expect("nothing is limited"), Limits::default());
        assert!(serde_json::from_str::<Limits>(r#"{"quotas":{"cells_per_second":1}}"#).is_err());
        for quota in Quota::ALL {
            assert_eq!(serde_json::to_value(quota).expect("it serializes"), quota.as_str());
        }
    }

    #[test]
    fn a_refusal_names_the_quota_its_usage_and_its_limit() {
        let (account, now) = account(Limits::default().with(Quota::KeysPerSecond, 100));
        account.take(Quota::KeysPerSecond, 80, now).expect("within");
        let refused = account.take(Quota::KeysPerSecond, 30, now).expect_err("beyond");
        assert_eq!((refused.code, refused.reason), (Code::ResourceExhausted, "QUOTA_EXCEEDED"));
        assert_eq!(refused.retry_after, Some(Duration::from_millis(100)));
        let told = refused.quota.expect("of which quota");
        let QuotaUse { subject, quota, usage, limit } = *told;
        assert_eq!((subject.as_str(), quota.as_str(), usage, limit), ("tenants/acme", "keys_per_second", 80, 100));
        assert_eq!(account.usage(), [Usage { quota: Quota::KeysPerSecond, used: 80, limit: 100 }]);
    }

    #[test]
    fn what_is_held_is_given_back_and_a_changed_limit_holds_for_the_next() {
        let (account, now) = account(Limits::default().with(Quota::ConcurrentRequests, 2));
        account.hold(false, now).expect("one");
        account.hold(true, now).expect("two");
        assert!(account.hold(false, now).is_err());
        account.let_go(false);
        account.hold(false, now).expect("one was given back");
        account.set_limits(Limits::default().with(Quota::ConcurrentTrainingSets, 1));
        let refused = account.hold(true, now).expect_err("there is one training set");
        assert_eq!(refused.quota.expect("of which quota").quota, "concurrent_training_sets");
        account.hold(false, now).expect("the refused one holds nothing");
        assert_eq!(account.usage(), [Usage { quota: Quota::ConcurrentTrainingSets, used: 1, limit: 1 }]);
    }
}
