//! How many rows a retention is about to take, as the files of history tell without being read. Rows that have not
//! landed are not among them.

use std::sync::Arc;

use hydrant_storage::order::Micros;

use super::service::History;
use super::work::blocking;
use crate::error::Result;
use crate::registry::catalog::View;
use crate::tenancy::Permit;

/// Rows of history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowsBefore {
    /// About so many happened before the instant,
    pub about: u64,
    /// of so many.
    pub of: u64,
}

impl History {
    /// About how many rows of versions of a view happened before an instant, each before its own; of those without
    /// an instant none is counted among them. `None`: they have no history, or more files than may be looked at,
    /// which are taken off `files`. Errors where a table can't be opened or a file not be read.
    pub async fn rows_before(
        &self,
        permit: &Permit,
        versions: &[(Arc<View>, Option<Micros>)],
        files: &mut usize,
    ) -> Result<Option<RowsBefore>> {
        if *files == 0 {
            return Ok(None);
        }
        let parts = &self.inner.parts;
        let mut tables = Vec::with_capacity(versions.len());
        for (view, before) in versions.iter().filter(|(view, _)| view.offline) {
            let spec = view.history_spec(permit.tenant());
            let table = parts.tables.table(spec).await.map_err(super::failure::history_error)?;
            tables.push((table.snapshot(), *before));
        }
        let wanted = tables.iter().map(|(table, _)| table.files.len()).sum();
        let Some(left) = files.checked_sub(wanted).filter(|_| !tables.is_empty()) else { return Ok(None) };
        *files = left;
        blocking(move |stop| {
            let mut rows = RowsBefore::default();
            for (table, before) in tables {
                stop.check()?;
                rows.of += table.files.iter().map(|file| file.rows()).sum::<u64>();
                rows.about += before.map_or(Ok(0), |before| table.rows_before(before))?;
            }
            Ok(Some(rows))
        })
        .await
    }
}
