//! The history tables of a process, each opened once and then shared: landing commits to them,
//! joins read them, compaction merges their files. A table is opened, or made, when it is first asked for; none is ever closed.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

use crate::files::Files;
use crate::history::footers::Footers;
use crate::history::table::{blocking, finished};
use crate::history::writer::FileShape;
use crate::history::{HistoryError, HistoryTable, HistoryViewSpec};

/// Bytes of the page indexes that are kept in memory, of all tables together.
const FOOTER_BYTES: usize = 64 << 20;

/// All tables under one root.
pub struct HistoryTables {
    files: Arc<dyn Files>,
    root: PathBuf,
    footers: Arc<Footers>,
    shape: FileShape,
    opened: Mutex<HashMap<PathBuf, Arc<OnceCell<HistoryTable>>>>,
}

impl HistoryTables {
    /// There must be no other process with tables under `root`.
    pub fn new(files: Arc<dyn Files>, root: PathBuf) -> Self {
        Self::shaped(files, root, FileShape::default())
    }

    /// The same; files that are written are cut as is said.
    pub fn shaped(files: Arc<dyn Files>, root: PathBuf, shape: FileShape) -> Self {
        Self { files, root, footers: Footers::new(FOOTER_BYTES), shape, opened: Mutex::default() }
    }

    /// The table of a view, with columns for at least the features that `spec` lists. Dropping the
    /// future doesn't interrupt the opening: half of it, left to end by itself, could take the first
    /// file of a landing for a leftover.
    pub async fn table(&self, spec: HistoryViewSpec) -> Result<HistoryTable, HistoryError> {
        let cell = {
            let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
            opened.entry(spec.directory()).or_default().clone()
        };
        let features = spec.features.clone();
        let table = match cell.get() {
            Some(table) => table.clone(),
            None => {
                let (files, root) = (self.files.clone(), self.root.clone());
                let reading = (self.footers.clone(), self.shape);
                let opening = async move {
                    let open = || HistoryTable::open_with(files, &root, spec, reading);
                    cell.get_or_try_init(open).await.cloned()
                };
                finished(tokio::spawn(opening)).await?
            }
        };
        // Features are only ever added, and last.
        if table.snapshot().spec().features.len() < features.len() {
            table.add_features(features).await?;
        }
        Ok(table)
    }

    /// Whether a view has a table, opened or not.
    pub async fn is_there(&self, spec: &HistoryViewSpec) -> Result<bool, HistoryError> {
        let (files, directory) = (self.files.clone(), self.root.join(spec.directory()));
        blocking(move || files.exists(&directory).map_err(HistoryError::io(&directory))).await
    }

    /// All tables that have been opened, in the order of their directories.
    pub fn opened(&self) -> Vec<HistoryTable> {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tables: Vec<(&PathBuf, HistoryTable)> =
            opened.iter().filter_map(|(directory, cell)| Some((directory, cell.get()?.clone()))).collect();
        tables.sort_by_key(|(directory, _)| *directory);
        tables.into_iter().map(|(_, table)| table).collect()
    }
}

impl fmt::Debug for HistoryTables {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("HistoryTables").field("root", &self.root).finish_non_exhaustive()
    }
}
