//! What the ends of data files say, read and checked once and kept within a bound: a read of few rows
//! would otherwise spend its time on page indexes. Data files never change, and no two have the same
//! name, so nothing that is kept becomes wrong.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use parquet::arrow::arrow_reader::ArrowReaderMetadata;

use crate::history::checked_file::Layout;

/// A file's metadata and page index, and where its checked blocks lie.
pub(crate) struct Footer {
    pub metadata: ArrowReaderMetadata,
    pub layout: Layout,
}

/// The footers of files that were opened lately; those that were used longest ago go first.
pub(crate) struct Footers {
    most_bytes: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    by_path: HashMap<PathBuf, Kept>,
    bytes: usize,
    /// Counts the uses.
    uses: u64,
}

struct Kept {
    footer: Arc<Footer>,
    bytes: usize,
    last_use: u64,
}

impl Footer {
    /// About the memory that it takes.
    pub fn bytes(&self) -> usize {
        self.metadata.metadata().memory_size() + self.layout.bytes()
    }
}

impl Footers {
    /// Keeps footers of so many bytes together; with 0 it keeps none.
    pub fn new(most_bytes: usize) -> Arc<Self> {
        Arc::new(Self { most_bytes, held: Mutex::default() })
    }

    pub fn get(&self, path: &Path) -> Option<Arc<Footer>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.uses += 1;
        let now = held.uses;
        let kept = held.by_path.get_mut(path)?;
        kept.last_use = now;
        Some(kept.footer.clone())
    }

    pub fn keep(&self, path: &Path, footer: &Arc<Footer>) {
        let bytes = footer.bytes();
        if bytes > self.most_bytes {
            return;
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.uses += 1;
        let kept = Kept { footer: footer.clone(), bytes, last_use: held.uses };
        held.bytes += bytes;
        if let Some(before) = held.by_path.insert(path.to_owned(), kept) {
            held.bytes -= before.bytes;
        }
        while held.bytes > self.most_bytes {
            let oldest = held.by_path.iter().min_by_key(|(_, kept)| kept.last_use).map(|(path, _)| path.clone());
            let Some(gone) = oldest.and_then(|path| held.by_path.remove(&path)) else { return };
            held.bytes -= gone.bytes;
        }
    }

    #[cfg(test)]
    pub fn held_bytes(&self) -> usize {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }
}

impl std::fmt::Debug for Footers {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Footers").field("most_bytes", &self.most_bytes).finish_non_exhaustive()
    }
}
