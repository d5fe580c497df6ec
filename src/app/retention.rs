//! How compaction, which takes rows out of history that are too old, has saved training sets say so.

use async_trait::async_trait;

use crate::compaction::{NotesLosses, RowsTooOld};
use crate::error::Result;
use crate::history::sets::TrainingSets;

#[derive(Debug)]
pub(super) struct SetsWithRowsTooOld(pub TrainingSets);

#[async_trait]
impl NotesLosses for SetsWithRowsTooOld {
    async fn note(&self, rows: &RowsTooOld) -> Result<()> {
        self.0.note_too_old(rows).await.map(drop)
    }
}
