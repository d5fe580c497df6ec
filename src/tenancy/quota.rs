//! How much a tenant may use: what can be limited, and its limits, with its weight beside others. A limit
//! is a number; what is in use of it stands in the [`Account`](super::Account). Nothing here decides.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Code, Error, QuotaUse, Result};

/// What can be limited. Who limits one thing more adds it here, and takes it from the
/// [`Account`](super::Account) where it is used.
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
    /// Memory of each training set; it spills the more, the less it has.
    TrainingSetMemoryBytes,
    /// Memory of all training sets being made, together.
    TrainingMemoryBytes,
    /// What is kept: history, stored spines, and the online store by estimate.
    StorageBytes,
    FeatureViews,
    /// Of all views together.
    Features,
}

/// How a quota is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// So many a second; at once as many as a second gives.
    Rate,
    /// So many at a time: given back when it ends.
    Held,
    /// So many are kept: they go when they are deleted.
    Kept,
    /// So many for each one; there is no sum of them.
    Each,
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

impl Quota {
    pub const ALL: [Self; 11] = [
        Self::RequestsPerSecond,
        Self::KeysPerSecond,
        Self::ConcurrentRequests,
        Self::IngestRowsPerSecond,
        Self::IngestBytesPerSecond,
        Self::ConcurrentTrainingSets,
        Self::TrainingSetMemoryBytes,
        Self::TrainingMemoryBytes,
        Self::StorageBytes,
        Self::FeatureViews,
        Self::Features,
    ];

    /// The largest limit; more is the same as none.
    pub const MAX_LIMIT: u64 = 1 << 60;

    /// What a training set needs to be made at all, as the least of `history.memory`.
    pub const LEAST_TRAINING_MEMORY: u64 = 16 << 20;

    /// As it is serialized and told.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RequestsPerSecond => "requests_per_second",
            Self::KeysPerSecond => "keys_per_second",
            Self::ConcurrentRequests => "concurrent_requests",
            Self::IngestRowsPerSecond => "ingest_rows_per_second",
            Self::IngestBytesPerSecond => "ingest_bytes_per_second",
            Self::ConcurrentTrainingSets => "concurrent_training_sets",
            Self::TrainingSetMemoryBytes => "training_set_memory_bytes",
            Self::TrainingMemoryBytes => "training_memory_bytes",
            Self::StorageBytes => "storage_bytes",
            Self::FeatureViews => "feature_views",
            Self::Features => "features",
        }
    }

    /// The quota of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|quota| quota.as_str() == name)
    }

    pub fn measure(self) -> Measure {
        match self {
            Self::RequestsPerSecond | Self::KeysPerSecond | Self::IngestRowsPerSecond | Self::IngestBytesPerSecond => {
                Measure::Rate
            }
            Self::ConcurrentRequests | Self::ConcurrentTrainingSets | Self::TrainingMemoryBytes => Measure::Held,
            Self::StorageBytes | Self::FeatureViews | Self::Features => Measure::Kept,
            Self::TrainingSetMemoryBytes => Measure::Each,
        }
    }

    /// Whether a single key can have a limit of it: what is kept is the tenant's, whoever made it.
    pub fn is_of_keys(self) -> bool {
        self.measure() != Measure::Kept
    }

    /// Refuses (INVALID_ARGUMENT) what would be no limit, or one under which nothing could be done at all
    /// without being told why.
    pub fn check_limit(self, limit: u64) -> Result<()> {
        let least = match self {
            Self::TrainingSetMemoryBytes | Self::TrainingMemoryBytes => Self::LEAST_TRAINING_MEMORY,
            _ => 0,
        };
        if (least..=Self::MAX_LIMIT).contains(&limit) {
            return Ok(());
        }
        let message = format!("quota '{self}' can't be {limit}: it is from {least} to {}", Self::MAX_LIMIT);
        Err(Error::invalid("BAD_QUOTA", message)
            .with("quota", self)
            .with("limit", limit)
            .hint("leave a quota unset for no limit (`hydrant quota set --unset NAME`)"))
    }

    /// What to do where waiting doesn't help.
    fn way_out(self) -> &'static str {
        match self {
            Self::StorageBytes => {
                "delete views, saved training sets or spines that are not needed, or have the quota raised (`hydrant quota`)"
            }
            Self::FeatureViews | Self::Features => {
                "delete definitions that are not needed, or have the quota raised (`hydrant quota`)"
            }
            _ => "spread the load, or have the quota raised (`hydrant quota`)",
        }
    }
}

impl Limits {
    /// Weights are from 1 to this.
    pub const MAX_WEIGHT: u32 = 1_000;

    #[must_use]
    pub fn with(mut self, quota: Quota, limit: u64) -> Self {
        self.quotas.insert(quota, limit);
        self
    }

    #[must_use]
    pub fn without(mut self, quota: Quota) -> Self {
        self.quotas.remove(&quota);
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

    /// Every limit.
    pub fn all(&self) -> impl Iterator<Item = (Quota, u64)> + '_ {
        self.quotas.iter().map(|(quota, limit)| (*quota, *limit))
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

impl Usage {
    /// At so many percent of its limit it is warned of.
    pub const WARN_PERCENT: u64 = 80;

    /// Whether so much is in use that the next thing may be refused soon.
    pub fn is_near(&self) -> bool {
        // A limit of 0 is meant.
        self.limit > 0 && u128::from(self.used) * 100 >= u128::from(self.limit) * u128::from(Self::WARN_PERCENT)
    }

    /// The refusal of what would be beyond it (RESOURCE_EXHAUSTED): `subject` such as `tenants/acme`.
    pub(super) fn exceeded(self, subject: &str, retry_after: Option<std::time::Duration>) -> Error {
        let Self { quota, used, limit } = self;
        let tenant = subject.split('/').nth(1).unwrap_or_default();
        let whose = match subject.split_once("/keys/") {
            Some((_, key)) => format!("key '{key}' of tenant '{tenant}'"),
            None => format!("tenant '{tenant}'"),
        };
        let why = match quota.measure() {
            Measure::Rate => format!("has used up its quota '{quota}'"),
            Measure::Held => format!("has as much under way as its quota '{quota}' allows"),
            Measure::Kept | Measure::Each => format!("would have more than its quota '{quota}' allows"),
        };
        let in_use = QuotaUse { subject: subject.to_owned(), quota: quota.as_str().to_owned(), usage: used, limit };
        let message = format!("{whose} {why}: {in_use}");
        let mut error = Error::new(Code::ResourceExhausted, "QUOTA_EXCEEDED", message)
            .with("tenant", tenant)
            .with("subject", subject)
            .with("quota", quota)
            .with("usage", used)
            .with("limit", limit);
        error.quota = Some(Box::new(in_use));
        error.retry_after = retry_after;
        if retry_after.is_none() { error.hint(quota.way_out()) } else { error }
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

    #[test]
    fn limits_survive_their_serialized_form_and_an_unknown_quota_is_refused() {
        let limits =
            Limits::default().with(Quota::KeysPerSecond, 5_000).with(Quota::ConcurrentTrainingSets, 2).weight(3);
        let text = serde_json::to_string(&limits).expect("it serializes");
        assert_eq!(text, r#"{"quotas":{"keys_per_second":5000,"concurrent_training_sets":2},"weight":3}"#);
        assert_eq!(serde_json::from_str::<Limits>(&text).expect("it reads back"), limits);
        assert_eq!(serde_json::from_str::<Limits>("{}").expect("nothing is limited"), Limits::default());
        assert!(serde_json::from_str::<Limits>(r#"{"quotas":{"cells_per_second":1}}"#).is_err());
        for (index, quota) in Quota::ALL.into_iter().enumerate() {
            assert_eq!(serde_json::to_value(quota).expect("it serializes"), quota.as_str());
            assert_eq!(Quota::parse(quota.as_str()), Some(quota));
            assert_eq!(quota as usize, index, "meters are found by it");
        }
    }

    #[test]
    fn a_limit_under_which_no_training_set_could_be_made_is_refused() {
        let memory = [Quota::TrainingSetMemoryBytes, Quota::TrainingMemoryBytes];
        for quota in Quota::ALL {
            let allowed = quota.check_limit(0).is_ok();
            assert_eq!(allowed, !memory.contains(&quota), "{quota}");
            quota.check_limit(Quota::LEAST_TRAINING_MEMORY).expect("enough");
            let refused = quota.check_limit(Quota::MAX_LIMIT + 1).expect_err("no limit at all");
            assert_eq!(refused.reason, "BAD_QUOTA");
        }
    }

    #[test]
    fn what_is_counted_in_bytes_is_told_in_bytes() {
        let told = |quota| Usage { quota, used: 1_456, limit: 1_024 }.exceeded("tenants/acme", None).message;
        for quota in Quota::ALL {
            let is_of_bytes = quota.as_str().contains("bytes");
            assert_eq!(told(quota).ends_with("1456 of 1024 bytes are in use"), is_of_bytes, "{}", told(quota));
        }
    }

    #[test]
    fn it_is_warned_of_from_four_fifths_on() {
        let usage = |used, limit| Usage { quota: Quota::Features, used, limit };
        assert!(!usage(79, 100).is_near() && usage(80, 100).is_near() && usage(u64::MAX, u64::MAX).is_near());
        assert!(!usage(0, 0).is_near());
    }
}
