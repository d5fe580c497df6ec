//! What outboxes have in common: why something was not taken by its receiver, and when it is tried again.
//! Nothing here sends anything or reads a clock.

use std::time::Duration;

use hydrant_storage::order::Micros;
use xxhash_rust::xxh3::xxh3_64;

/// Delays before the second, third, ... attempt double from the first to the longest.
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_mins(5);

/// Why something was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// It may be taken later.
    #[error("{0}")]
    TryAgain(String),
    /// It will never be.
    #[error("{0}")]
    Refused(String),
}

/// Microseconds until what has this number is tried again, after so many attempts before the one that
/// failed: between three quarters of its length and all of it, so that what failed together is not tried
/// again together.
pub fn delay(id: u64, attempts: u32) -> Micros {
    let micros = |span: Duration| i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
    let doubled = micros(FIRST_DELAY).saturating_mul(1_i64 << attempts.min(20));
    let whole = doubled.min(micros(LONGEST_DELAY));
    let chance = xxh3_64(&[id.to_le_bytes(), u64::from(attempts).to_le_bytes()].concat());
    let quarter = whole / 4;
    whole - i64::try_from(chance % quarter.max(1).unsigned_abs()).unwrap_or(0)
}

/// Scheme, host and port: what follows may be what only the receiver is to know.
pub fn host_of(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    url[host..].find(['/', '?', '#']).map_or(url, |at| &url[..host + at])
}

/// Whether it is `https://HOST…` or `http://HOST…`, without a user.
pub fn is_address(url: &str) -> bool {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).unwrap_or_default();
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    !host.is_empty() && !host.contains('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_are_not_all_the_same() {
        for (attempts, seconds) in [(0, 1), (1, 2), (4, 16), (9, 300), (60, 300)] {
            let whole = seconds * 1_000_000;
            assert!((1..9).all(|id| (whole * 3 / 4..=whole).contains(&delay(id, attempts))), "{attempts}");
        }
        assert_ne!(delay(1, 5), delay(2, 5));
    }

    #[test]
    fn of_an_address_only_the_host_is_told() {
        assert_eq!(host_of("https://host:8/path?token=x"), "https://host:8");
        assert!(is_address("http://host/x") && !is_address("http://me@host/x") && !is_address("ftp://host"));
    }
}
