//! Walks one sort of the spine beside the history of every view that is asked for under it, once,
//! and puts down the rows that count. It also counts where the two modes differ.

use hydrant_storage::order::{Micros, Position, RowStatus, row_status};

use super::asof::{AsOf, Counted, HistoryRows, Seen};
use super::failure::JoinError;
use super::hits::{HitWriter, Hits};
use super::plan::Plan;
use super::sort::SortedSpine;
use super::work::Stop;

/// One view beside the spine.
#[derive(Debug)]
pub struct JoinWalk<R> {
    as_of: AsOf<R>,
    hits: HitWriter,
    kept: Kept,
    differing: u64,
}

/// Which rows that count are put down.
#[derive(Debug)]
pub struct Kept {
    /// Of the lookups that are answered from this walk.
    ttls: Vec<Option<Micros>>,
    tells_expired: bool,
}

/// What a view's walk found.
#[derive(Debug)]
pub struct Walked {
    pub hits: Hits,
    /// For how many (row, lookup) the other mode would have answered otherwise.
    pub differing: u64,
}

impl<R: HistoryRows> JoinWalk<R> {
    pub fn new(as_of: AsOf<R>, hits: HitWriter, kept: Kept) -> Self {
        Self { as_of, hits, kept, differing: 0 }
    }
}

impl Kept {
    /// Those of one of the plan's joins. Unless the answer tells which rows were there and had expired,
    /// those that have under the ttl of each of its lookups are no hits.
    pub fn new(plan: &Plan, join: usize) -> Self {
        let lookups = plan.lookups.iter().filter(|lookup| lookup.join == join);
        let ttls = lookups.map(|lookup| lookup.ttl).collect();
        Self { ttls, tells_expired: plan.with_status || plan.with_event_time }
    }

    /// Whether it takes a hit's event time to answer from it; else all hits are live for all lookups.
    pub fn has_times(&self) -> bool {
        self.tells_expired || self.ttls.windows(2).any(|ttls| ttls[0] != ttls[1])
    }

    fn is_hit(&self, row: &Seen, t: Micros) -> bool {
        let is_live =
            |ttl: &Option<Micros>| row_status(Some((row.version.event_time, false)), t, *ttl) == RowStatus::Live;
        // What a tombstone hides is not found, as if there were no row.
        !row.deleted && (self.tells_expired || self.ttls.iter().any(is_live))
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
            stop.note_passed(ROWS_BETWEEN_LOOKS.into());
        }
        for JoinWalk { as_of, hits, kept, differing } in &mut joins {
            let Counted { answered, otherwise } = as_of.at(&wanted, stop)?;
            let seen = answered.map(|row| row.seen);
            // Mostly both modes find the same row.
            if seen != otherwise {
                for ttl in &kept.ttls {
                    *differing += u64::from(answer(seen, wanted.time, *ttl) != answer(otherwise, wanted.time, *ttl));
                }
            }
            if let Some(row) = answered.filter(|row| kept.is_hit(&row.seen, wanted.time)) {
                hits.push(wanted.ordinal, row)?;
            }
        }
    }
    let walked = |join: JoinWalk<R>| Ok(Walked { hits: join.hits.finish()?, differing: join.differing });
    joins.into_iter().map(walked).collect()
}

/// What tells two answers apart: the status, and for live rows which row it is.
fn answer(row: Option<Seen>, t: Micros, ttl: Option<Micros>) -> (RowStatus, Option<Position>) {
    let status = row_status(row.map(|row| (row.version.event_time, row.deleted)), t, ttl);
    (status, row.filter(|_| status == RowStatus::Live).map(|row| row.version.position))
}
