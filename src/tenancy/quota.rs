//! How much a tenant may use at once. A request over the quota is refused before it does anything,
//! with when to try again; nothing waits in a queue here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hydrant_storage::names::Name;

use crate::error::{Code, Error, Result};

/// What a tenant may use; unlimited by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests of all kinds that are under way at the same time.
    pub requests_in_flight: Option<u32>,
}

/// A tenant's limits and what of them is in use.
#[derive(Debug)]
pub struct Quota {
    limits: Limits,
    in_flight: Arc<AtomicU32>,
}

/// A place within the quota, given back on drop.
#[derive(Debug)]
pub(super) struct Admission {
    in_flight: Arc<AtomicU32>,
}

impl Quota {
    const RETRY_AFTER: Duration = Duration::from_millis(100);

    pub fn new(limits: Limits) -> Self {
        Self { limits, in_flight: Arc::default() }
    }

    pub(super) fn admit(&self, tenant: &Name) -> Result<Admission> {
        let limit = self.limits.requests_in_flight.unwrap_or(u32::MAX);
        let admitted = self.in_flight.fetch_update(Ordering::AcqRel, Ordering::Acquire, |in_flight| {
            (in_flight < limit).then_some(in_flight + 1)
        });
        match admitted {
            Ok(_) => Ok(Admission { in_flight: Arc::clone(&self.in_flight) }),
            Err(_) => {
                let message = format!("tenant '{tenant}' has {limit} requests under way, as many as its quota allows");
                Err(Error::new(Code::ResourceExhausted, "QUOTA_EXCEEDED", message)
                    .with("tenant", tenant)
                    .with("limit", limit)
                    .retry_after(Self::RETRY_AFTER))
            }
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}
