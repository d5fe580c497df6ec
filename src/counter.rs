//! Numbers that the hot path adds to and telemetry reads: an atomic each, under the name, unit and
//! help that operators see. Nothing here knows an exporter, and counting never fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use hydrant_storage::names::Name;

/// A count that only rises while the process lives.
#[derive(Debug)]
pub struct Counter {
    /// Dotted, as telemetry's metrics are.
    pub name: &'static str,
    /// As in UCUM; empty for what is simply counted.
    pub unit: &'static str,
    pub help: &'static str,
    value: AtomicU64,
    /// The share of each tenant, where tenants are told apart. Tenants come from verified
    /// credentials, so there are no more than there are tenants.
    tenants: Option<DashMap<Name, AtomicU64>>,
}

impl Counter {
    pub fn new(name: &'static str, unit: &'static str, help: &'static str) -> Arc<Self> {
        Arc::new(Self { name, unit, help, value: AtomicU64::new(0), tenants: None })
    }

    /// Of what is simply counted.
    pub fn count(name: &'static str, help: &'static str) -> Arc<Self> {
        Self::new(name, "", help)
    }

    /// Of what is simply counted, for each tenant by itself.
    pub fn by_tenant(name: &'static str, help: &'static str) -> Arc<Self> {
        Self::new_by_tenant(name, "", help)
    }

    pub fn new_by_tenant(name: &'static str, unit: &'static str, help: &'static str) -> Arc<Self> {
        Arc::new(Self { name, unit, help, value: AtomicU64::new(0), tenants: Some(DashMap::new()) })
    }

    pub fn add(&self, by: u64) {
        self.value.fetch_add(by, Ordering::Relaxed);
    }

    /// Adds to the tenant's share and to the sum.
    pub fn add_for(&self, tenant: &Name, by: u64) {
        self.add(by);
        let Some(tenants) = &self.tenants else { return };
        if let Some(share) = tenants.get(tenant) {
            share.fetch_add(by, Ordering::Relaxed);
            return;
        }
        tenants.entry(tenant.clone()).or_default().fetch_add(by, Ordering::Relaxed);
    }

    /// The sum over all tenants.
    pub fn get(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }

    /// Each tenant's share so far; `None` where tenants are not told apart.
    pub fn shares(&self) -> Option<Vec<(Name, u64)>> {
        let tenants = self.tenants.as_ref()?;
        Some(tenants.iter().map(|share| (share.key().clone(), share.load(Ordering::Relaxed))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_are_counted_apart_and_together() {
        let counter = Counter::by_tenant("hydrant.test.reads", "reads, for the sake of this test");
        let [first, second]: [Name; 2] = ["first", "second"].map(|name| name.parse().expect("a name"));
        counter.add_for(&first, 2);
        counter.add_for(&second, 3);
        counter.add_for(&first, 5);
        let mut shares = counter.shares().expect("it tells tenants apart");
        shares.sort();
        assert_eq!((shares, counter.get()), (vec![(first, 7), (second, 3)], 10));
        assert_eq!(Counter::count("hydrant.test.starts", "starts").shares(), None);
    }
}
