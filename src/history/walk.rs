//! Walks one sort of the spine beside the history of every view that is asked for under it, once,
//! and puts down the rows that count. It also counts where the two modes differ.

use hydrant_storage::order::{Micros, Position, RowStatus, row_status};

use super::asof::{AsOf, Candidate, HistoryRows, Mode};
use super::failure::JoinError;
use super::hits::{HitWriter, Hits};
use super::sort::SortedSpine;
use super::work::Stop;

/// One view beside the spine.
#[derive(Debug)]
pub struct JoinWalk<R> {
    as_of: AsOf<R>,
    mode: Mode,
    hits: HitWriter,
    ttls: Vec<Option<Micros>>,
    differing: u64,
}

/// What a view's walk found.
#[derive(Debug)]
pub struct Walked {
    pub hits: Hits,
    /// For how many (row, lookup) the other mode would have answered otherwise.
    pub differing: u64,
}

impl<R: HistoryRows> JoinWalk<R> {
    /// `ttls` are those of the lookups that are answered from this walk.
    pub fn new(as_of: AsOf<R>, mode: Mode, hits: HitWriter, ttls: Vec<Option<Micros>>) -> Self {
        Self { as_of, mode, hits, ttls, differing: 0 }
    }
}

/// Walks to the end, or until stopped.
pub fn walk<R: HistoryRows>(
    mut spine: SortedSpine,
    mut joins: Vec<JoinWalk<R>>,
    stop: &Stop,
) -> Result<Vec<Walked>, JoinError> {
    const ROWS_BETWEEN_LOOKS: u32 = 1_024;
    let mut rows = 0u32;
    while let Some(wanted) = spine.next()? {
        rows = rows.wrapping_add(1);
        if rows.is_multiple_of(ROWS_BETWEEN_LOOKS) {
            stop.check()?;
        }
        for join in &mut joins {
            let counted = join.as_of.at(&wanted, stop)?;
            for ttl in &join.ttls {
                let as_known = answer(counted.as_known, wanted.time, *ttl);
                join.differing += u64::from(as_known != answer(counted.finally, wanted.time, *ttl));
            }
            let row = match join.mode {
                Mode::AsKnown => counted.as_known,
                Mode::Final => counted.finally,
            };
            // What a tombstone hides is not found, as if there were no row.
            if let Some(row) = row.filter(|row| !row.deleted) {
                join.hits.push(wanted.ordinal, row)?;
            }
        }
    }
    let walked = |join: JoinWalk<R>| Ok(Walked { hits: join.hits.finish()?, differing: join.differing });
    joins.into_iter().map(walked).collect()
}

/// What tells two answers apart: the status, and for live rows which row it is.
fn answer(row: Option<&Candidate>, t: Micros, ttl: Option<Micros>) -> (RowStatus, Option<Position>) {
    let status = row_status(row.map(|row| (row.version.event_time, row.deleted)), t, ttl);
    (status, row.filter(|_| status == RowStatus::Live).map(|row| row.version.position))
}
