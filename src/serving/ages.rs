//! How old the rows are that answer online reads, by view. One read of [`SHARE`] is looked at, so that the
//! others pay a multiplication; nothing waits for it and nothing is looked up for it.

use std::sync::{Arc, OnceLock};

use dashmap::DashMap;
use hydrant_storage::names::{Name, ViewId};
use hydrant_storage::order::Micros;

use super::read::{Found, RowsRead};
use crate::counter::Spread;
use crate::registry::selection::Selection;
use crate::telemetry::{Histogram, Instruments, Label, Metric};

const SERVED_AGE: Metric = Metric {
    name: "hydrant.freshness.served_age",
    unit: Metric::SECONDS,
    help: "Age of the rows that answered online reads of now, by tenant and view; of one read of 64.",
};

/// One read of so many, a power of two.
const SHARE: u64 = 64;

/// Rows of a view that are looked at in one read.
const MAX_ROWS: usize = 16;

/// From a second to a month.
const BUCKETS: [f64; 16] = [
    0.1,
    1.0,
    5.0,
    15.0,
    60.0,
    300.0,
    900.0,
    1_800.0,
    3_600.0,
    7_200.0,
    14_400.0,
    43_200.0,
    86_400.0,
    259_200.0,
    604_800.0,
    2_592_000.0,
];

/// What was served.
#[derive(Debug, Default)]
pub struct ServedRows {
    ages: DashMap<ViewId, Arc<Spread>>,
    histogram: OnceLock<Histogram<f64>>,
}

impl ServedRows {
    pub fn export(&self, instruments: &Instruments) {
        // A second exporter of one process would see the ages of the first only.
        self.histogram.get_or_init(|| instruments.buckets(&SERVED_AGE, &BUCKETS));
    }

    /// Ages in microseconds; `None` where no row of the view was looked at.
    pub fn ages_of(&self, view: ViewId) -> Option<Arc<Spread>> {
        self.ages.get(&view).map(|spread| spread.value().clone())
    }

    /// Looks at some rows of a read of now, if it is its turn.
    #[inline]
    pub(super) fn note(&self, tenant: &Name, selection: &Selection, read: &RowsRead) {
        if is_looked_at(read.t) {
            self.look(tenant, selection, read);
        }
    }

    #[cold]
    fn look(&self, tenant: &Name, selection: &Selection, read: &RowsRead) {
        for (of_view, found) in selection.views.iter().zip(&read.rows) {
            let rows = found.iter().filter_map(|found| match found {
                Found::Row(row) => Some(read.t.saturating_sub(row.header().version.event_time).max(0)),
                Found::Absent | Found::Damaged | Found::NotReady => None,
            });
            let ages: Vec<Micros> = rows.take(MAX_ROWS).collect();
            if ages.is_empty() {
                continue;
            }
            let spread = self.ages.entry(of_view.view.id).or_default().value().clone();
            let owner = of_view.owner.as_ref().unwrap_or(tenant);
            let labels = [Label::new("tenant", owner.to_string()), Label::new("view", of_view.view.name.to_string())];
            for age in ages {
                spread.add(age.unsigned_abs());
                if let Some(histogram) = self.histogram.get() {
                    histogram.record(age as f64 / 1e6, &labels);
                }
            }
        }
    }
}

/// Instants are as good as chance, and cost no counter that all threads would share.
fn is_looked_at(t: Micros) -> bool {
    // Mixed, since a clock may tick in steps.
    t.unsigned_abs().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (u64::BITS - SHARE.ilog2()) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_read_of_64_is_looked_at_however_the_clock_ticks() {
        let begin = 1_704_067_200_000_000;
        for step in [1, 7, 64, 1_000, 15_625, 1_000_000] {
            let looked_at = (0..64_000).filter(|tick| is_looked_at(begin + tick * step)).count();
            assert!((500..2_000).contains(&looked_at), "{looked_at} of 64,000 in steps of {step} µs");
        }
    }
}
