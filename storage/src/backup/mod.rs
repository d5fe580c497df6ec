//! Backups as they lie on disk: a directory of files, and a manifest that has a checksum of each. A
//! backup appears whole under its name or not at all. What the files mean, and in which order they
//! have to be taken so that they fit together, is not known here; and nothing here ever changes a file
//! that it was not asked to make.

mod manifest;
mod restore;
mod shelf;
mod writer;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

pub use manifest::{About, BackedUpFile, MANIFEST, Manifest};
pub use restore::{Problem, RESTORING, Verified, restore, verify};
pub use shelf::{Shelf, Shelved};
pub use writer::BackupWriter;

use crate::files::Files;
use crate::names::Name;

/// How far a backup, a verification or a restore has come. Bytes of one file are counted once: as
/// linked or as copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub files: u64,
    /// Bytes of files that share their blocks with the original.
    pub linked_bytes: u64,
    pub copied_bytes: u64,
    /// Bytes read for checksums: of linked files those that no earlier backup has a checksum of.
    pub read_bytes: u64,
}

/// Is told how far the work has come, after each piece; `false` ends the work with
/// [`BackupError::Stopped`].
pub type Proceed<'a> = dyn FnMut(&Counts) -> bool + Send + 'a;

/// Why a backup could not be made, read or restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("{} can't be {action}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("there is a backup '{name}' already")]
    Taken { name: Name },
    #[error("'{name}' can't be the name of a backup: something that is none lies at {}", path.display())]
    InTheWay { name: Name, path: PathBuf },
    #[error("there is no backup '{name}'")]
    Unknown { name: Name },
    #[error("{} is no backup: it has no file '{MANIFEST}'", path.display())]
    NoBackup { path: PathBuf },
    #[error("{} was written by another version of Hydrant: its format is {found}, and this version reads {known}", path.display())]
    Format { path: PathBuf, found: u32, known: u32 },
    /// Bytes aren't what was written.
    #[error("{} is damaged: {problem}", path.display())]
    Damaged { path: PathBuf, problem: String },
    #[error("{} is not empty", path.display())]
    NotEmpty { path: PathBuf },
    #[error("{} lies in the backup {}, which would not be whole any more", path.display(), backup.display())]
    InBackup { path: PathBuf, backup: PathBuf },
    /// Whoever asked for it has gone, or the process ends.
    #[error("the work was stopped before its end")]
    Stopped,
}

impl BackupError {
    pub(crate) fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    /// Whether there was no room, so that the same may succeed once there is.
    pub fn is_out_of_space(&self) -> bool {
        matches!(self, Self::Io { source, .. } if crate::files::is_out_of_space(source))
    }
}

/// The bytes that are read, summed and written at a time.
const PIECE: u64 = 4 << 20;

/// The checksum of the first `len` bytes of a file, which are handed to `take` piece by piece.
fn read_through(
    files: &dyn Files,
    path: &Path,
    len: u64,
    take: &mut dyn FnMut(&[u8]) -> Result<(), BackupError>,
) -> Result<u32, BackupError> {
    let mut sum = crc32fast::Hasher::new();
    let mut offset = 0;
    while offset < len {
        // Far below the least `usize`.
        let piece = PIECE.min(len - offset) as usize;
        let bytes = files.read_range(path, offset, piece).map_err(BackupError::io("read", path))?;
        sum.update(&bytes);
        take(&bytes)?;
        offset += bytes.len() as u64;
    }
    Ok(sum.finalize())
}
