//! The rows of a request that can't be taken, and why. All are counted and the first few named;
//! one is enough to refuse the request, before anything is written.

use std::collections::BTreeMap;

use crate::error::{Error, Violation};

/// How many bad rows a refusal names.
pub const MAX_NAMED: usize = 20;

/// A row that can't be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRow {
    /// Its place in the request.
    pub row: usize,
    pub column: String,
    /// The first problem found of it.
    pub reason: String,
}

#[derive(Debug)]
pub struct BadRows {
    is_bad: Vec<bool>,
    /// The first problem found of each of the first rows: (column, reason).
    named: BTreeMap<usize, (String, String)>,
}

impl BadRows {
    pub fn new(rows: usize) -> Self {
        Self { is_bad: vec![false; rows], named: BTreeMap::new() }
    }

    /// Notes a problem of a row; only the first one of each row is told.
    pub fn add(&mut self, row: usize, column: &str, reason: impl FnOnce() -> String) {
        if std::mem::replace(&mut self.is_bad[row], true) {
            return;
        }
        let last_named = self.named.last_key_value().map(|(row, _)| *row);
        if self.named.len() == MAX_NAMED && last_named.is_some_and(|last| row > last) {
            return;
        }
        self.named.insert(row, (column.to_owned(), reason()));
        if self.named.len() > MAX_NAMED {
            self.named.pop_last();
        }
    }

    pub fn contains(&self, row: usize) -> bool {
        self.is_bad[row]
    }

    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    /// How many rows are bad, and the first of them.
    pub fn into_named(self) -> (usize, Vec<BadRow>) {
        let bad = self.is_bad.iter().filter(|bad| **bad).count();
        let named = self.named.into_iter().map(|(row, (column, reason))| BadRow { row, column, reason });
        (bad, named.collect())
    }

    /// The refusal, where there is a bad row.
    pub fn refusal(self, what: &str) -> Result<(), Error> {
        let bad = self.is_bad.iter().filter(|bad| **bad).count();
        if bad == 0 {
            return Ok(());
        }
        let violations: Vec<Violation> = self
            .named
            .into_iter()
            .map(|(row, (column, message))| Violation { path: format!("rows[{row}].{column}"), message })
            .collect();
        let rows = self.is_bad.len();
        let first = violations.first().map(|first| format!("; {}: {}", first.path, first.message)).unwrap_or_default();
        let message = format!("{bad} of {rows} rows for {what} are bad and nothing was written{first}");
        Err(Error::invalid("BAD_ROWS", message).with("bad_rows", bad).with("rows", rows).violations(violations))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bad_rows_are_counted_and_the_first_twenty_named_in_order() {
        let mut bad_rows = BadRows::new(100);
        for row in (0..100).rev().step_by(2) {
            bad_rows.add(row, "temp", || format!("bad {row}"));
            bad_rows.add(row, "wind", || unreachable!("only the first problem of a row is told"));
        }
        let refusal = bad_rows.refusal("source 'weather'").expect_err("rows are bad");
        assert_eq!(refusal.metadata[0], ("bad_rows", "50".to_owned()));
        let paths: Vec<&str> = refusal.violations.iter().map(|violation| violation.path.as_str()).collect();
        let expected: Vec<String> = (0..20).map(|index| format!("rows[{}].temp", index * 2 + 1)).collect();
        assert_eq!(paths, expected);
    }
}
