//! Sizes and durations as people write them in a configuration: `64MiB`, `15m`. They are parsed
//! here and printed in the same form; nothing else of the configuration lives here.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// A number of bytes: `512`, `64KiB`, `64MiB`, `2GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A span of time: `250us`, `5ms`, `90s`, `5m`, `3h`, `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// Why a text is no size or span.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{shown}' is no {what}: write {form}")]
pub struct InvalidUnit {
    shown: String,
    what: &'static str,
    form: &'static str,
}

const BYTE_UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

const SPAN_UNITS: [(&str, u64); 6] = [
    // `us` and `ms` before `s`: the first suffix that fits is taken.
    ("us", 1),
    ("ms", 1_000),
    ("s", 1_000_000),
    ("m", 60_000_000),
    ("h", 3_600_000_000),
    ("d", 86_400_000_000),
];

impl ByteSize {
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// For interfaces that count in `usize`.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl Span {
    pub fn duration(self) -> Duration {
        self.0
    }

    pub fn as_micros(self) -> i64 {
        i64::try_from(self.0.as_micros()).unwrap_or(i64::MAX)
    }
}

impl FromStr for ByteSize {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidUnit {
            shown: shortened(text),
            what: "size",
            form: "a whole number with B, KiB, MiB or GiB, such as 64MiB",
        };
        parse_with_units(text, &BYTE_UNITS).map(Self).ok_or_else(invalid)
    }
}

impl FromStr for Span {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidUnit {
            shown: shortened(text),
            what: "duration",
            form: "a whole number with us, ms, s, m, h or d, such as 90s",
        };
        let micros = parse_with_units(text, &SPAN_UNITS).ok_or_else(invalid)?;
        Ok(Self(Duration::from_micros(micros)))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = largest_unit(self.0, &BYTE_UNITS, |(_, factor)| *factor);
        write!(formatter, "{}{unit}", self.0 / factor)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX);
        let (unit, factor) = largest_unit(micros, &SPAN_UNITS, |(_, factor)| *factor);
        write!(formatter, "{}{unit}", micros / factor)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

fn parse_with_units(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// The largest unit that leaves no remainder; the smallest one for zero.
fn largest_unit<'a>(amount: u64, units: &'a [(&'a str, u64)], factor: impl Fn(&(&str, u64)) -> u64) -> (&'a str, u64) {
    let fitting = units.iter().filter(|unit| amount != 0 && amount.is_multiple_of(factor(unit)));
    let smallest = || units.iter().min_by_key(|unit| factor(unit)).expect("there are units");
    *fitting.max_by_key(|unit| factor(unit)).unwrap_or_else(smallest)
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_read_as_they_are_written() {
        for text in ["1B", "64KiB", "64MiB", "2GiB", "1000B"] {
            assert_eq!(text.parse::<ByteSize>().expect(text).to_string(), text);
        }
        for text in ["250us", "5ms", "90s", "5m", "3h", "7d"] {
            assert_eq!(text.parse::<Span>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn a_number_without_its_unit_is_refused() {
        for text in ["", "64", "64MB", "MiB", "-1MiB", "1.5GiB", "99999999999999GiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        for text in ["", "5", "5min", "m", "-5m", "1h30m", "300000000000d"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}
