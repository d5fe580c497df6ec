//! What a permitted request takes of its tenant's quotas once it is known how much that is. Each is taken
//! before the work that needs it begins; what is refused has taken nothing.

use super::Permit;
use super::account::Held;
use super::metrics::Reason;
use super::quota::{Quota, Usage};
use crate::error::{Error, Result};

/// How many definitions a tenant may have. A value: the registry holds its drafts to it.
#[derive(Clone, Debug, Default)]
pub struct DefinitionLimits {
    subject: String,
    pub views: Option<u64>,
    pub features: Option<u64>,
}

impl Permit {
    /// Charges the distinct entity keys that a read asks for to the tenant's quota, or refuses it
    /// (RESOURCE_EXHAUSTED), and then it was no request. They are counted only where there is such a
    /// quota.
    pub fn charge_keys(&self, distinct_keys: impl FnOnce() -> u64) -> Result<()> {
        let account = self.account();
        if !account.is_limited(Quota::KeysPerSecond) {
            return Ok(());
        }
        let charged = account.take(Quota::KeysPerSecond, distinct_keys(), account.now());
        charged.inspect_err(|_| self.turn_away())
    }

    /// Charges a write request to the tenant's quotas of ingest, and where its rows are kept their bytes to that of
    /// storage, until what is kept is counted again; or refuses it (RESOURCE_EXHAUSTED), and then it was no request.
    pub fn charge_write(&self, rows: usize, bytes: usize, is_kept: bool) -> Result<()> {
        let account = self.account();
        let keep = || if is_kept { account.keep(Quota::StorageBytes, wide(bytes)) } else { Ok(()) };
        let charged = self.charge_rows(rows, bytes).and_then(|()| {
            keep().inspect_err(|_| {
                account.give_back(Quota::IngestRowsPerSecond, wide(rows));
                account.give_back(Quota::IngestBytesPerSecond, wide(bytes));
            })
        });
        charged.inspect_err(|_| self.turn_away())
    }

    /// One that was let in is refused after all.
    fn turn_away(&self) {
        let account = self.account();
        account.give_back(Quota::RequestsPerSecond, 1);
        if let Some(class) = self.action.class() {
            account.counts().refuse(class, Reason::Quota);
        }
    }

    /// Charges some rows of a request that has more to the tenant's quotas of ingest, or refuses them
    /// (RESOURCE_EXHAUSTED).
    pub fn charge_rows(&self, rows: usize, bytes: usize) -> Result<()> {
        let account = self.account();
        let now = account.now();
        account.take(Quota::IngestRowsPerSecond, wide(rows), now)?;
        let charged = account.take(Quota::IngestBytesPerSecond, wide(bytes), now);
        charged.inspect_err(|_| account.give_back(Quota::IngestRowsPerSecond, wide(rows)))
    }

    /// For work that makes something to be kept, bit by bit.
    pub fn hold_storage(&self) -> Held {
        self.shared_account().hold_nothing(Quota::StorageBytes)
    }

    /// Of so many bytes, what one training set may take.
    pub fn training_memory(&self, wanted: usize) -> usize {
        let limits = [Quota::TrainingSetMemoryBytes, Quota::TrainingMemoryBytes];
        let limits = limits.into_iter().filter_map(|quota| self.account().least_limit(quota));
        limits.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)).fold(wanted, usize::min)
    }

    /// The memory of a training set, as long as what is returned is held; RESOURCE_EXHAUSTED where the
    /// tenant's others have taken what there is.
    pub fn hold_training_memory(&self, bytes: usize) -> Result<Held> {
        self.shared_account().hold_amount(Quota::TrainingMemoryBytes, wide(bytes))
    }

    pub fn definition_limits(&self) -> DefinitionLimits {
        let account = self.account();
        DefinitionLimits {
            // Definitions are the tenant's, whoever makes them.
            subject: account.of_tenant().subject().to_owned(),
            views: account.least_limit(Quota::FeatureViews),
            features: account.least_limit(Quota::Features),
        }
    }
}

impl DefinitionLimits {
    /// Refuses (RESOURCE_EXHAUSTED) definitions by which there would be more than there may be. Where
    /// there were more before, fewer are taken.
    pub fn check(&self, before: (usize, usize), after: (usize, usize)) -> Result<()> {
        let check = |quota, limit: Option<u64>, before: usize, after: usize| match limit {
            Some(limit) if wide(after) > limit && after > before => Err(self.exceeded(quota, wide(before), limit)),
            _ => Ok(()),
        };
        check(Quota::FeatureViews, self.views, before.0, after.0)?;
        check(Quota::Features, self.features, before.1, after.1)
    }

    fn exceeded(&self, quota: Quota, used: u64, limit: u64) -> Error {
        Usage { quota, used, limit }.exceeded(&self.subject, None)
    }
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
