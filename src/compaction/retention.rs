//! From which instant on a view keeps its rows. It moves in steps, so that files are written anew only now
//! and then: rows go once they are as old as the view says, and a twentieth of that later at the latest,
//! plus the time that it takes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use hydrant_storage::order::Micros;

/// Steps of the time for which rows are kept.
const STEPS: Micros = 20;

/// Up to which instant each table is known to have no older rows.
#[derive(Debug, Default)]
pub(super) struct Retained(HashMap<PathBuf, Micros>);

impl Retained {
    /// Whether a table has been gone through for this instant.
    pub fn is_done(&self, table: &Path, before: Micros) -> bool {
        self.0.get(table).is_some_and(|done| *done >= before)
    }

    pub fn done(&mut self, table: PathBuf, before: Micros) {
        self.0.insert(table, before);
    }
}

/// Rows that happened before are to go now.
pub(super) fn horizon(now: Micros, retention: Micros) -> Micros {
    let step = (retention / STEPS).max(1);
    now.saturating_sub(retention).div_euclid(step).saturating_mul(step)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_go_when_they_are_old_enough_and_a_twentieth_later_at_the_latest(
            now in 0..i64::MAX / 4,
            retention in 1..i64::MAX / 4,
        ) {
            let before = horizon(now, retention);
            prop_assert!(before <= now - retention, "none goes that is younger");
            prop_assert!(now - retention - before <= retention / STEPS, "none stays for much longer");
        }
    }
}
