//! Instants and ages as people read them.

use hydrant_storage::order::Micros;

pub use crate::clock::{parse_rfc3339 as parse, rfc3339 as show};

/// How long ago, in the largest unit that says something: `12 years`, `3 h`, `250 ms`.
pub fn age(from: Micros, to: Micros) -> String {
    const UNITS: [(&str, i64); 7] = [
        ("year", 31_557_600_000_000),
        ("day", 86_400_000_000),
        ("h", 3_600_000_000),
        ("min", 60_000_000),
        ("s", 1_000_000),
        ("ms", 1_000),
        ("us", 1),
    ];
    let age = to.saturating_sub(from);
    if age < 0 {
        return "in the future".to_owned();
    }
    if age == 0 {
        return "0 s".to_owned();
    }
    // A unit is taken from two of it on, so that 90 minutes aren't one hour.
    let (name, unit) = UNITS.into_iter().find(|(_, unit)| age >= 2 * unit).unwrap_or(("us", 1));
    let number = age / unit;
    let plural = if matches!(name, "year" | "day") { "s" } else { "" };
    format!("{number} {name}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_told_in_the_largest_unit_that_says_something() {
        assert_eq!(age(0, 90 * 60_000_000), "90 min");
        assert_eq!(age(0, 3 * 3_600_000_000), "3 h");
        assert_eq!(age(0, 13 * 31_557_600_000_000), "13 years");
        assert_eq!(age(0, 0), "0 s");
        assert_eq!(age(0, 1), "1 us");
        assert_eq!(age(5, 0), "in the future");
    }
}
