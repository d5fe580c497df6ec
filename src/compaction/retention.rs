//! What is known of tables whose rows go after a time. The instant before which they go moves in steps, so that
//! files are written anew only now and then: rows go once they are as old as the view says, and a step later at
//! the latest, plus the time that it takes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use hydrant_storage::order::Micros;

/// What is known of each table, by its directory.
#[derive(Debug, Default)]
pub(super) struct Retained {
    /// Up to which instant it has no older rows, in which version.
    done: HashMap<PathBuf, (Micros, u64)>,
    /// Of rows before which instant it is noted that they go.
    noted: HashMap<PathBuf, Micros>,
}

impl Retained {
    /// Whether a table has been gone through for this instant, and nothing has come to it since.
    pub fn is_done(&self, table: &Path, before: Micros, delta_version: u64) -> bool {
        self.done.get(table) == Some(&(before, delta_version))
    }

    pub fn done(&mut self, table: PathBuf, before: Micros, delta_version: u64) {
        self.done.insert(table, (before, delta_version));
    }

    pub fn is_noted(&self, table: &Path, before: Micros) -> bool {
        self.noted.get(table) == Some(&before)
    }

    pub fn noted(&mut self, table: PathBuf, before: Micros) {
        self.noted.insert(table, before);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::registry::catalog::{retention_horizon, retention_step};

    proptest! {
        #[test]
        fn rows_go_when_they_are_old_enough_and_a_step_later_at_the_latest(
            now in 0..i64::MAX / 4,
            retention in 1..i64::MAX / 4,
        ) {
            let before = retention_horizon(now, retention);
            prop_assert!(before <= now - retention, "none goes that is younger");
            prop_assert!(now - retention - before < retention_step(retention), "none stays for much longer");
            prop_assert!(retention_step(retention) <= (retention / 20).max(1));
        }
    }

    #[test]
    fn a_table_is_gone_through_again_for_another_instant_and_when_rows_have_come() {
        let (mut retained, table) = (Retained::default(), Path::new("t"));
        assert!(!retained.is_done(table, 5, 1));
        retained.done(table.to_owned(), 5, 1);
        assert!(retained.is_done(table, 5, 1));
        assert!(!retained.is_done(table, 5, 2) && !retained.is_done(table, 4, 1) && !retained.is_done(table, 6, 1));
    }
}
