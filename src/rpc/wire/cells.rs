//! The cells of an online answer counted by their status, from its bytes, without decoding a value:
//! for callers that want to know what they got and not what it was.

use hydrant_proto::v1::CellStatus;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::error::{Error, Result};

/// One more than the greatest number of a status.
pub const STATUSES: usize = 8;

/// Fields of `GetOnlineFeaturesResponse`...
const COLUMNS: u32 = 1;
const ROWS: u32 = 3;
/// ...and of `FeatureColumn`.
const COLUMN_STATUSES: u32 = 2;

/// Cells by the number of their status; a number that no status has counts as the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CellCounts(pub [u64; STATUSES]);

impl CellCounts {
    pub fn of(&self, status: CellStatus) -> u64 {
        self.0[status as usize]
    }

    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// Counts the cells of an encoded `GetOnlineFeaturesResponse`. A status that stands for all rows of
/// its column counts as many times.
pub fn count_cells(answer: &[u8]) -> Result<CellCounts> {
    let (mut counts, mut alike) = (CellCounts::default(), [0; STATUSES]);
    let mut rows = 0;
    let mut rest = answer;
    while !rest.is_empty() {
        match decode_key(&mut rest).map_err(unreadable)? {
            (COLUMNS, WireType::LengthDelimited) => count_column(take(&mut rest)?, &mut counts.0, &mut alike)?,
            (ROWS, WireType::Varint) => rows = decode_varint(&mut rest).map_err(unreadable)?,
            (tag, kind) => skip_field(kind, tag, &mut rest, DecodeContext::default()).map_err(unreadable)?,
        }
    }
    for (count, columns) in counts.0.iter_mut().zip(alike) {
        *count += columns * rows;
    }
    Ok(counts)
}

fn count_column(column: &[u8], counts: &mut [u64; STATUSES], alike: &mut [u64; STATUSES]) -> Result<()> {
    let (mut of_column, mut statuses) = ([0; STATUSES], 0_u64);
    let mut count = |status: u64| {
        of_column[usize::try_from(status).ok().filter(|status| *status < STATUSES).unwrap_or_default()] += 1;
        statuses += 1;
    };
    let mut rest = column;
    while !rest.is_empty() {
        match decode_key(&mut rest).map_err(unreadable)? {
            (COLUMN_STATUSES, WireType::LengthDelimited) => {
                let mut packed = take(&mut rest)?;
                while !packed.is_empty() {
                    count(decode_varint(&mut packed).map_err(unreadable)?);
                }
            }
            (COLUMN_STATUSES, WireType::Varint) => count(decode_varint(&mut rest).map_err(unreadable)?),
            (tag, kind) => skip_field(kind, tag, &mut rest, DecodeContext::default()).map_err(unreadable)?,
        }
    }
    let sum = if statuses == 1 { alike } else { counts };
    sum.iter_mut().zip(of_column).for_each(|(sum, more)| *sum += more);
    Ok(())
}

fn take<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8]> {
    let length = decode_varint(rest).map_err(unreadable)?;
    let split = usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length));
    let (taken, left) = split.ok_or_else(|| unreadable("a field is cut short"))?;
    *rest = left;
    Ok(taken)
}

fn unreadable(told: impl std::fmt::Display) -> Error {
    Error::invalid("MALFORMED_MESSAGE", format!("the answer can't be read: {told}"))
}

#[cfg(test)]
mod tests {
    use hydrant_proto::v1;
    use hydrant_proto::v1::column::Values;
    use prost::Message as _;

    use super::*;

    fn column(name: &str, statuses: &[CellStatus]) -> v1::FeatureColumn {
        let values = Some(Values::Float64s(v1::Float64Values { values: vec![1.5; statuses.len()] }));
        let column = Some(v1::Column { name: name.to_owned(), values, nulls: Vec::new() });
        v1::FeatureColumn { column, statuses: statuses.iter().map(|status| (*status).into()).collect() }
    }

    fn answer() -> v1::GetOnlineFeaturesResponse {
        use CellStatus::{Expired, NotFound, NotReady, Present};
        v1::GetOnlineFeaturesResponse {
            columns: vec![
                column("a", &[Present, NotFound, Present]),
                column("b", &[Present]),
                column("c", &[Expired]),
                column("d", &[NotReady, NotReady, Present]),
            ],
            services: vec![v1::ServiceColumns { service: "s@1".to_owned(), columns: vec![0, 1, 2, 3] }],
            rows: 3,
            provenance: Some(v1::Provenance { t: 7, ..Default::default() }),
            ..Default::default()
        }
    }

    #[test]
    fn cells_are_counted_as_a_decoded_answer_has_them() {
        let counts = count_cells(&answer().encode_to_vec()).expect("it is whole");
        assert_eq!(counts.of(CellStatus::Present), 2 + 3 + 1);
        assert_eq!(counts.of(CellStatus::NotFound), 1);
        assert_eq!(counts.of(CellStatus::Expired), 3);
        assert_eq!(counts.of(CellStatus::NotReady), 2);
        assert_eq!(counts.total(), 12);
    }

    #[test]
    fn an_answer_that_is_cut_short_is_refused_or_has_fewer_cells_and_never_panics() {
        let whole = answer().encode_to_vec();
        for length in 0..whole.len() {
            if let Ok(counts) = count_cells(&whole[..length]) {
                assert!(counts.total() <= 12, "{length}");
            }
        }
        assert!(count_cells(&whole[..5]).is_err());
    }

    #[test]
    fn a_status_of_a_later_version_is_a_cell_too() {
        let mut answer = answer();
        answer.columns[0].statuses[1] = 99;
        let counts = count_cells(&answer.encode_to_vec()).expect("it is whole");
        assert_eq!((counts.0[0], counts.total()), (1, 12));
    }
}
