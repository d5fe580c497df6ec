//! Reads as of an instant in the past: when the online row is the answer, and when only history can
//! tell. Which row counts is decided by `storage::order` alone.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use hydrant_storage::order::{Micros, is_expired};
use hydrant_storage::row::{OwnedRow, RowKind};

use crate::error::Result;
use crate::registry::catalog::View;
use crate::tenancy::Permit;

/// Answers what the online store can't: the row that counted for a key at an instant that has
/// passed. It keeps its own bound on how many such reads run at a time.
#[async_trait]
pub trait PinnedHistory: Send + Sync + fmt::Debug {
    /// For each key the greatest row of the view visible at `t`, be it a tombstone or expired;
    /// `None` where there is none. FAILED_PRECONDITION for a view without history.
    async fn rows_at(
        &self,
        permit: &Permit,
        view: &Arc<View>,
        keys: Vec<Vec<u8>>,
        t: Micros,
    ) -> Result<Vec<Option<OwnedRow>>>;
}

/// Whether the online row can't answer a read at `t`: it is not visible yet then, or only its stub
/// is left of a row that counted then. `ttl` is the longest of the lookups that share the row.
pub(super) fn needs_history(row: &OwnedRow, t: Micros, ttl: Option<Micros>) -> bool {
    let header = row.header();
    let lost = header.kind == RowKind::ExpiredStub && !is_expired(header.version.event_time, t, ttl);
    lost || !header.version.is_visible_at(t)
}
