//! Durations as people write them, in the configuration and in definitions: a whole number and one
//! unit, such as `90s`, `5m`, `3h`, `7d`. Inside Hydrant they are microseconds.

use hydrant_storage::order::Micros;

/// Largest first.
const UNITS: [(&str, Micros); 6] =
    [("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1)];

/// Why a text is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{shown}' is no duration: use a whole number with one of d, h, m, s, ms, us, such as 90s, 5m, 3h or 7d")]
pub struct InvalidDuration {
    shown: String,
}

/// Reads a duration, in microseconds.
pub fn parse(text: &str) -> Result<Micros, InvalidDuration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let size = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, size)| *size);
    let duration = size.and_then(|size| number.parse::<Micros>().ok()?.checked_mul(size));
    duration.ok_or_else(|| InvalidDuration { shown: text.chars().take(40).collect() })
}

/// Writes a duration in its largest unit that divides it.
pub fn format(duration: Micros) -> String {
    if duration == 0 {
        return "0s".to_owned();
    }
    let unit = UNITS.iter().find(|(_, size)| duration % size == 0);
    let (name, size) = unit.expect("every whole number of microseconds is divided by one of them");
    format!("{}{name}", duration / size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_they_are_written() {
        for text in ["0s", "8ms", "90s", "5m", "3h", "7d", "1us", "36h", "1500ms"] {
            assert_eq!(format(parse(text).expect(text)), text);
        }
        assert_eq!(parse("120m"), parse("2h"));
        for text in ["", "5", "h", "-3h", "+3h", "1.5h", "3 h", "3H", "1h30m", "999999999999d", "5min"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
