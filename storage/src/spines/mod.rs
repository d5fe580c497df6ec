//! Spines as files: each lies whole under the name of its content, or not at all, in a directory of
//! its tenant. A file is chunks, each with a checksum in the file's end, which has one of its own. What
//! a chunk holds, who may store how much, and when a spine may go is not known here.

mod id;
mod writer;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::files::{self, Files};
use crate::names::Name;
use crate::order::Micros;

pub use id::{InvalidSpineId, SpineId};
pub use writer::NewSpine;

/// Begins and ends every file.
const MAGIC: &[u8; 8] = b"HYDRSPN1";
/// Behind the footer: its crc32, its length, and the magic again.
const TRAILER_BYTES: u64 = 4 + 4 + 8;
const EXTENSION: &str = "spine";
/// When the spine of the same name was put last.
const PUT_EXTENSION: &str = "put";
/// Of files that are being written.
const MAKING_EXTENSION: &str = "making";

/// Where spines lie. Clones are the same place.
#[derive(Clone, Debug)]
pub struct SpineShelf {
    files: Arc<dyn Files>,
    directory: PathBuf,
    /// Numbers the files that are being written by this process.
    made: Arc<AtomicU64>,
}

/// What a spine's file says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpineAbout {
    pub rows: u64,
    /// Over the rows, in hex.
    pub spine_hash: String,
    /// Store time when it was put first.
    pub stored: Micros,
}

/// A whole spine on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpineFile {
    pub about: SpineAbout,
    /// In the order of the rows; the first holds the schema and no rows.
    pub chunks: Vec<SpineChunk>,
    /// Of the whole file.
    pub bytes: u64,
}

/// Where a chunk lies in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpineChunk {
    offset: u64,
    length: u32,
    crc32: u32,
    pub rows: u32,
}

#[derive(Serialize, Deserialize)]
struct Footer {
    format: u32,
    about: SpineAbout,
    chunks: Vec<SpineChunk>,
}

/// The version of the footer.
const FORMAT: u32 = 1;

/// A spine as it is found at the start.
#[derive(Debug)]
pub struct ShelvedSpine {
    pub tenant: Name,
    pub id: SpineId,
    /// Store time.
    pub last_put: Micros,
    pub file: Result<SpineFile, SpineError>,
}

#[derive(Debug, thiserror::Error)]
pub enum SpineError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// The bytes aren't those that were written.
    #[error("{} is damaged: {problem}", path.display())]
    Damaged { path: PathBuf, problem: &'static str },
}

impl SpineError {
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. })
    }

    /// Whether there was no room, so that the same may succeed once there is.
    pub fn is_out_of_space(&self) -> bool {
        matches!(self, Self::Io { source, .. } if files::is_out_of_space(source))
    }

    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

impl SpineShelf {
    /// Spines in `directory`, which is made if it isn't there.
    pub fn open(files: Arc<dyn Files>, directory: &Path) -> Result<Self, SpineError> {
        files.create_dir_all(directory).map_err(SpineError::io(directory))?;
        Ok(Self { files, directory: directory.to_owned(), made: Arc::default() })
    }

    /// Every spine; what a crash left half written is removed. To be called before anything is put.
    pub fn recover(&self) -> Result<Vec<ShelvedSpine>, SpineError> {
        let mut found = Vec::new();
        for entry in self.list(&self.directory)? {
            let tenant = entry.name.to_str().and_then(|name| name.parse::<Name>().ok());
            let Some(tenant) = tenant.filter(|_| entry.metadata.is_dir) else { continue };
            let directory = self.directory.join(tenant.as_str());
            for entry in self.list(&directory)? {
                let path = directory.join(&entry.name);
                let has = |extension: &str| path.extension().is_some_and(|found| found == extension);
                if has(MAKING_EXTENSION) {
                    self.files.remove(&path).map_err(SpineError::io(&path))?;
                }
                let id = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<SpineId>().ok());
                let Some(id) = id.filter(|_| has(EXTENSION)) else { continue };
                let file = self.read(&tenant, id);
                let stored = file.as_ref().map_or(Micros::MIN, |file| file.about.stored);
                let last_put = self.last_put(&tenant, id).unwrap_or(stored).max(stored);
                found.push(ShelvedSpine { tenant: tenant.clone(), id, last_put, file });
            }
            // The names found may not be durable yet, and what is told of them must be.
            self.files.sync_dir(&directory).map_err(SpineError::io(&directory))?;
        }
        Ok(found)
    }

    /// Begins a spine of a tenant.
    pub fn begin(&self, tenant: &Name) -> Result<NewSpine, SpineError> {
        let directory = self.directory.join(tenant.as_str());
        self.files.create_dir_all(&directory).map_err(SpineError::io(&directory))?;
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        NewSpine::begin(self.files.clone(), directory, number)
    }

    /// What the file says of itself, checked; its chunks are checked when they are read.
    pub fn read(&self, tenant: &Name, id: SpineId) -> Result<SpineFile, SpineError> {
        let path = self.path(tenant, id);
        let damaged = |problem| SpineError::Damaged { path: path.clone(), problem };
        let bytes = self.files.len(&path).map_err(SpineError::io(&path))?;
        let range = |offset, length| self.files.read_range(&path, offset, length).map_err(SpineError::io(&path));
        let footer_end = bytes.checked_sub(TRAILER_BYTES).ok_or_else(|| damaged("it is too short"))?;
        let trailer = range(footer_end, TRAILER_BYTES as usize)?;
        let word = |at: usize| u32::from_le_bytes([trailer[at], trailer[at + 1], trailer[at + 2], trailer[at + 3]]);
        let (crc32, length) = (word(0), word(4));
        if trailer[8..] != *MAGIC {
            return Err(damaged("it doesn't end like a spine of this version"));
        }
        let begin = footer_end.checked_sub(u64::from(length)).filter(|begin| *begin >= MAGIC.len() as u64);
        let begin = begin.ok_or_else(|| damaged("its footer is longer than it"))?;
        let footer = range(begin, length as usize)?;
        if crc32fast::hash(&footer) != crc32 {
            return Err(damaged("its footer doesn't match its checksum"));
        }
        let footer: Footer = serde_json::from_slice(&footer).map_err(|_| damaged("its footer can't be read"))?;
        if footer.format != FORMAT {
            return Err(damaged("it is of another version of Hydrant"));
        }
        Ok(SpineFile { about: footer.about, chunks: footer.chunks, bytes })
    }

    /// The bytes of a chunk, checked.
    pub fn read_chunk(&self, tenant: &Name, id: SpineId, chunk: &SpineChunk) -> Result<Vec<u8>, SpineError> {
        let path = self.path(tenant, id);
        let bytes = match self.files.read_range(&path, chunk.offset, chunk.length as usize) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(SpineError::Damaged { path, problem: "it ends early" });
            }
            bytes => bytes.map_err(SpineError::io(&path))?,
        };
        if crc32fast::hash(&bytes) != chunk.crc32 {
            return Err(SpineError::Damaged { path, problem: "a chunk doesn't match its checksum" });
        }
        Ok(bytes)
    }

    /// Notes, durably, that a spine was put again.
    pub fn note_put(&self, tenant: &Name, id: SpineId, now: Micros) -> Result<(), SpineError> {
        let path = self.path(tenant, id).with_extension(PUT_EXTENSION);
        let time = now.to_le_bytes();
        let content = [&time[..], &crc32fast::hash(&time).to_le_bytes()].concat();
        files::replace(self.files.as_ref(), &path, &content).map_err(SpineError::io(&path))
    }

    /// Removes a spine, durably.
    pub fn remove(&self, tenant: &Name, id: SpineId) -> Result<(), SpineError> {
        let path = self.path(tenant, id);
        let note = path.with_extension(PUT_EXTENSION);
        let files = self.files.as_ref();
        let removed = files::remove_if_there(files, &note).and_then(|()| files::remove_if_there(files, &path));
        let directory = self.directory.join(tenant.as_str());
        removed.and_then(|()| files.sync_dir(&directory)).map_err(SpineError::io(&path))
    }

    /// Where a spine's file lies, and its path below the shelf. Its bytes never change.
    pub fn place(&self, tenant: &Name, id: SpineId) -> (PathBuf, String) {
        (self.path(tenant, id), format!("{tenant}/{id}.{EXTENSION}"))
    }

    fn last_put(&self, tenant: &Name, id: SpineId) -> Option<Micros> {
        let content = self.files.read(&self.path(tenant, id).with_extension(PUT_EXTENSION)).ok()?;
        let (time, crc32) = content.split_first_chunk::<8>()?;
        // Without the note a spine goes earlier than it might, and is put again.
        (crc32fast::hash(time).to_le_bytes() == *crc32).then(|| Micros::from_le_bytes(*time))
    }

    fn path(&self, tenant: &Name, id: SpineId) -> PathBuf {
        self.directory.join(tenant.as_str()).join(format!("{id}.{EXTENSION}"))
    }

    fn list(&self, directory: &Path) -> Result<Vec<files::DirEntry>, SpineError> {
        self.files.list(directory).map_err(SpineError::io(directory))
    }
}
