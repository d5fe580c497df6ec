//! Instants as people write them: RFC 3339 in, RFC 3339 in UTC out. Finer than a microsecond is
//! floored, as everywhere.

use chrono::{DateTime, SecondsFormat, Utc};
use hydrant_storage::order::Micros;

/// Reads `2013-12-30T22:30:00Z`, with any offset.
pub fn parse(text: &str) -> Result<Micros, String> {
    let time = DateTime::parse_from_rfc3339(text)
        .map_err(|error| format!("{error}; write it like 2013-12-30T22:30:00Z (RFC 3339)"))?;
    // `timestamp_micros` floors, before 1970 too.
    Ok(time.timestamp_micros())
}

/// Writes an instant in UTC, with as many digits as it needs. What lies beyond the calendar is
/// shown as its number of microseconds.
pub fn show(micros: Micros) -> String {
    match DateTime::<Utc>::from_timestamp_micros(micros) {
        Some(time) => time.to_rfc3339_opts(SecondsFormat::AutoSi, true),
        None => format!("{micros}us"),
    }
}

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
    fn instants_are_utc_and_finer_than_a_microsecond_is_floored() {
        assert_eq!(show(parse("2013-12-30T22:30:00Z").expect("valid")), "2013-12-30T22:30:00Z");
        assert_eq!(show(parse("2013-12-30T17:30:00-05:00").expect("valid")), "2013-12-30T22:30:00Z");
        assert_eq!(show(parse("2013-12-30T22:30:00.1234569Z").expect("valid")), "2013-12-30T22:30:00.123456Z");
        assert_eq!(parse("1969-12-31T23:59:59.9999999Z"), Ok(-1));
        assert!(parse("2013-12-30").is_err());
        assert_eq!(show(i64::MAX), format!("{}us", i64::MAX));
    }

    #[test]
    fn ages_are_told_in_the_largest_unit_that_says_something() {
        assert_eq!(age(0, 90 * 60_000_000), "90 min");
        assert_eq!(age(0, 3 * 3_600_000_000), "3 h");
        assert_eq!(age(0, 13 * 31_557_600_000_000), "13 years");
        assert_eq!(age(0, 0), "0 us");
        assert_eq!(age(5, 0), "in the future");
    }
}
