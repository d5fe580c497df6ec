//! How compaction, which takes rows out of history that are too old, has saved training sets say so.

use async_trait::async_trait;

use crate::compaction::{NotesLosses, RowsTooOld};
use crate::error::Result;
use crate::history::sets::{RowsOfView, TrainingSets};

#[derive(Debug)]
pub(super) struct SetsWithRowsTooOld(pub TrainingSets);

#[async_trait]
impl NotesLosses for SetsWithRowsTooOld {
    async fn note(&self, rows: &RowsTooOld) -> Result<()> {
        let RowsTooOld { tenant, view, version, before } = rows;
        self.0.note_too_old(RowsOfView { tenant, view, version: *version, before: *before }).await.map(drop)
    }
}
