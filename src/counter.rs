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

/// How often numbers of each size came: a cell for each eighth of a power of two, so that a number is
/// known to an eighth of itself. Fixed size, counted without a lock.
#[derive(Debug)]
pub struct Spread(Box<[AtomicU64]>);

/// Eighths of a power of two.
const STEPS: u64 = 8;
/// The numbers below it have a cell each.
const EXACT: u64 = 2 * STEPS;
/// Up to 2^52, which is a century and more of microseconds.
const CELLS: usize = (EXACT + (52 - 4) * STEPS) as usize;

impl Default for Spread {
    fn default() -> Self {
        Self((0..CELLS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Spread {
    pub fn add(&self, number: u64) {
        self.0[Self::cell_of(number)].fetch_add(1, Ordering::Relaxed);
    }

    pub fn counts(&self) -> Vec<u64> {
        self.0.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// The number that this share of those counted does not exceed, or up to an eighth above; `None` where
    /// nothing was counted.
    pub fn quantile(counts: &[u64], share: f64) -> Option<u64> {
        let total: u64 = counts.iter().sum();
        let rank = ((total as f64 * share).ceil() as u64).clamp(1, total.max(1));
        let mut seen = 0;
        let cell = counts.iter().position(|count| {
            seen += count;
            *count > 0 && seen >= rank
        })?;
        Some(Self::most_in(cell))
    }

    fn cell_of(number: u64) -> usize {
        if number < EXACT {
            return number as usize;
        }
        let power = u64::from(number.ilog2());
        let step = (number >> (power - 3)) - STEPS;
        let cell = EXACT + (power - 4) * STEPS + step;
        (cell as usize).min(CELLS - 1)
    }

    fn most_in(cell: usize) -> u64 {
        let cell = cell as u64;
        if cell < EXACT {
            return cell;
        }
        let (power, step) = ((cell - EXACT) / STEPS + 4, (cell - EXACT) % STEPS);
        ((STEPS + step + 1) << (power - 3)) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_knows_numbers_to_an_eighth() {
        for number in (0..200).chain((0..50).map(|power| (1_u64 << power) + (1 << power) / 3)) {
            let cell = Spread::cell_of(number);
            let most = Spread::most_in(cell);
            assert!(most >= number && most <= number + number / 8, "{number}: {most}");
            assert!(cell == 0 || Spread::most_in(cell - 1) < number, "{number}");
        }
        assert_eq!(Spread::cell_of(u64::MAX), CELLS - 1);
        let spread = Spread::default();
        assert_eq!(Spread::quantile(&spread.counts(), 0.5), None);
        (1..=100).for_each(|number| spread.add(number));
        let of = |share| Spread::quantile(&spread.counts(), share).expect("counted");
        assert!((50..=56).contains(&of(0.5)) && (99..=111).contains(&of(0.99)) && of(0.0) == 1);
    }

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
