//! What a backup says of itself: a line about the whole, a line for each file, and the checksum of
//! these lines, as text. It is written last.

use std::fmt::Write as _;
use std::io;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use super::BackupError;
use crate::files::Files;
use crate::names::Name;
use crate::order::Micros;

/// The manifest's file. A directory that has one is a backup, and no data directory.
pub const MANIFEST: &str = "BACKUP";

/// Raised when a line changes its meaning.
const FORMAT: u32 = 1;
const SUM_PREFIX: &str = "crc32 ";

/// What there is to know of a backup as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    pub format: u32,
    pub name: Name,
    /// The version of Hydrant that made it.
    pub hydrant: String,
    /// Store time at its end: what it holds was there by then.
    pub made: Micros,
    /// The newest request of the log that it holds; it holds all before it, too.
    pub frame: u64,
    /// The revision of the definitions when it began; it may hold a later one.
    pub revision: u64,
    /// How long it took to make.
    pub took_micros: u64,
    pub files: u64,
    pub linked_bytes: u64,
    pub copied_bytes: u64,
    pub read_bytes: u64,
}

impl About {
    pub(super) const FORMAT: u32 = FORMAT;

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.linked_bytes + self.copied_bytes
    }
}

/// A file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackedUpFile {
    /// Below the backup's directory, with `/` between its parts, none of which leads upwards.
    pub path: String,
    pub bytes: u64,
    pub crc32: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub about: About,
    pub files: Vec<BackedUpFile>,
}

/// Of any format.
#[derive(Deserialize)]
struct OnlyFormat {
    format: u32,
}

impl Manifest {
    /// Reads the manifest of the backup in a directory.
    pub fn read(files: &dyn Files, directory: &Path) -> Result<Self, BackupError> {
        let path = directory.join(MANIFEST);
        let bytes = match files.read(&path) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(BackupError::NoBackup { path: directory.to_path_buf() });
            }
            bytes => bytes.map_err(BackupError::io("read", &path))?,
        };
        Self::decode(&bytes, &path)
    }

    pub(super) fn encode(&self) -> io::Result<Vec<u8>> {
        let mut text = serde_json::to_string(&self.about)?;
        text.push('\n');
        for file in &self.files {
            text.push_str(&serde_json::to_string(file)?);
            text.push('\n');
        }
        let sum = crc32fast::hash(text.as_bytes());
        let _ = writeln!(text, "{SUM_PREFIX}{sum:08x}");
        Ok(text.into_bytes())
    }

    fn decode(bytes: &[u8], path: &Path) -> Result<Self, BackupError> {
        let damaged = |problem: &str| BackupError::Damaged { path: path.to_path_buf(), problem: problem.to_owned() };
        let text = std::str::from_utf8(bytes).map_err(|_| damaged("it is no text"))?;
        let begin = text.rfind(SUM_PREFIX).ok_or_else(|| damaged("it ends early"))?;
        let (content, sum) = text.split_at(begin);
        if sum != format!("{SUM_PREFIX}{:08x}\n", crc32fast::hash(content.as_bytes())) {
            return Err(damaged("it does not match its checksum"));
        }
        let mut lines = content.lines();
        let first = lines.next().unwrap_or_default();
        let OnlyFormat { format } = serde_json::from_str(first).map_err(|error| damaged(&error.to_string()))?;
        if format != FORMAT {
            return Err(BackupError::Format { path: path.to_path_buf(), found: format, known: FORMAT });
        }
        let about = serde_json::from_str(first).map_err(|error| damaged(&error.to_string()))?;
        let mut files = Vec::new();
        for line in lines {
            let file: BackedUpFile = serde_json::from_str(line).map_err(|error| damaged(&error.to_string()))?;
            // A checksum proves no good will: what is restored stays below its directory.
            if !stays_below(&file.path) {
                return Err(damaged(&format!("'{}' is no path below a directory", file.path)));
            }
            files.push(file);
        }
        Ok(Self { about, files })
    }
}

fn stays_below(path: &str) -> bool {
    let parts = Path::new(path).components();
    !path.is_empty() && parts.into_iter().all(|part| matches!(part, Component::Normal(_)))
}
