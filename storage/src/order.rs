//! Which row counts: the one comparator and the one expiry rule, used by online reads, by the
//! partition's writer and by the point-in-time join. Nothing here reads a clock or a store.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Microseconds since 1970-01-01T00:00:00Z.
pub type Micros = i64;

/// A row's place in the log: the frame of its request, and its ordinal in that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    pub frame: u64,
    pub ordinal: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.frame, self.ordinal)
    }
}

/// What orders the rows of one view and one entity key: the greatest that is visible counts.
/// The derived order is the contract's: event time, then known time, then log position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowVersion {
    pub event_time: Micros,
    pub known_time: Micros,
    pub position: Position,
}

impl RowVersion {
    /// The instant from which the row can be seen: both its times have come.
    pub fn due_time(&self) -> Micros {
        self.event_time.max(self.known_time)
    }

    /// Whether the row had happened and was known at `t`.
    pub fn is_visible_at(&self, t: Micros) -> bool {
        self.due_time() <= t
    }
}

/// Whether a row that became true at `event_time` no longer counts at `t`. It counts while
/// `t - event_time <= ttl`, both ends included; without a ttl it counts for ever.
pub fn is_expired(event_time: Micros, t: Micros, ttl: Option<Micros>) -> bool {
    // A ttl so long that the sum leaves the time line never ends.
    ttl.is_some_and(|ttl| event_time.checked_add(ttl).is_some_and(|last| t > last))
}

/// From which instant on no row counts that happened before `before`; without a ttl there is none.
pub fn none_counts_from(before: Micros, ttl: Option<Micros>) -> Micros {
    ttl.map_or(Micros::MAX, |ttl| before.saturating_add(ttl))
}

/// Whether a cell holds a value, and if not, why. The numbers are those of the wire and of the
/// status columns of a training set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum CellStatus {
    Present = 1,
    Null = 2,
    NotFound = 3,
    Expired = 4,
    NotReady = 5,
    Damaged = 6,
    Masked = 7,
}

impl CellStatus {
    pub const ALL: [Self; 7] =
        [Self::Present, Self::Null, Self::NotFound, Self::Expired, Self::NotReady, Self::Damaged, Self::Masked];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Present => "PRESENT",
            Self::Null => "NULL",
            Self::NotFound => "NOT_FOUND",
            Self::Expired => "EXPIRED",
            Self::NotReady => "NOT_READY",
            Self::Damaged => "DAMAGED",
            Self::Masked => "MASKED",
        }
    }

    /// Whether a feature's default stands in for the missing value.
    pub fn takes_default(self) -> bool {
        !matches!(self, Self::Present | Self::Null | Self::Masked)
    }
}

/// What the row that counts says about all its cells at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowStatus {
    /// The row's cells hold values or nulls.
    Live,
    /// No row, or a tombstone.
    NotFound,
    Expired,
}

/// The status at `t` of the row that counts for a key, under a ttl. A tombstone is NOT_FOUND
/// however old it is: what it hides doesn't come back.
pub fn row_status(row: Option<(Micros, bool)>, t: Micros, ttl: Option<Micros>) -> RowStatus {
    match row {
        None | Some((_, true)) => RowStatus::NotFound,
        Some((event_time, false)) if is_expired(event_time, t, ttl) => RowStatus::Expired,
        Some(_) => RowStatus::Live,
    }
}

/// The status of one cell whose value isn't read yet: `None` means that the row holds it, as a
/// value or as a null. A row written before the feature was added doesn't have it.
pub fn missing_cell_status(row: RowStatus, feature_index: usize, row_feature_count: usize) -> Option<CellStatus> {
    match row {
        RowStatus::NotFound => Some(CellStatus::NotFound),
        _ if feature_index >= row_feature_count => Some(CellStatus::NotFound),
        RowStatus::Expired => Some(CellStatus::Expired),
        RowStatus::Live => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(event_time: Micros, known_time: Micros, frame: u64, ordinal: u32) -> RowVersion {
        RowVersion { event_time, known_time, position: Position { frame, ordinal } }
    }

    #[test]
    fn rows_are_ordered_by_event_time_then_known_time_then_position() {
        let ascending =
            [version(1, 9, 9, 9), version(2, 1, 9, 9), version(2, 2, 1, 9), version(2, 2, 2, 0), version(2, 2, 2, 1)];
        assert!(ascending.is_sorted());
    }

    #[test]
    fn a_row_counts_until_its_ttl_has_passed_both_ends_included() {
        assert!(!is_expired(100, 110, Some(10)));
        assert!(is_expired(100, 111, Some(10)));
        assert!(!is_expired(100, i64::MAX, None));
        let from = none_counts_from(100, Some(10));
        assert!(is_expired(99, from, Some(10)) && !is_expired(99, from - 1, Some(10)));
        assert_eq!((none_counts_from(100, None), none_counts_from(i64::MAX, Some(1))), (i64::MAX, i64::MAX));
        assert!(!is_expired(i64::MAX - 5, i64::MAX, Some(10)));
        assert!(!is_expired(i64::MIN, i64::MIN, Some(0)));
    }

    #[test]
    fn a_tombstone_is_not_found_even_when_it_is_older_than_the_ttl() {
        assert_eq!(row_status(Some((0, true)), 1_000, Some(1)), RowStatus::NotFound);
    }
}
