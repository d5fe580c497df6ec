//! Writes one spine's file: chunks, then the footer, all synced, and only then its name. Dropping a
//! writer that has not finished removes what it wrote.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use super::{
    EXTENSION, FORMAT, Footer, MAGIC, MAKING_EXTENSION, SpineAbout, SpineChunk, SpineError, SpineFile, SpineId,
};
use crate::files::{self, FileWriter, Files};

/// A spine that is being written.
pub struct NewSpine {
    files: Arc<dyn Files>,
    directory: PathBuf,
    making: PathBuf,
    file: Box<dyn FileWriter>,
    chunks: Vec<SpineChunk>,
    offset: u64,
    named: bool,
}

impl NewSpine {
    pub(super) fn begin(files: Arc<dyn Files>, directory: PathBuf, number: u64) -> Result<Self, SpineError> {
        let making = directory.join(format!("{number}.{MAKING_EXTENSION}"));
        let failed = SpineError::io(&making);
        // Nobody else of this process has the number.
        let begun = files::remove_if_there(files.as_ref(), &making).and_then(|()| files.create_new(&making));
        let file = begun.map_err(failed)?;
        let offset = MAGIC.len() as u64;
        let mut new = Self { files, directory, making, file, chunks: Vec::new(), offset, named: false };
        new.file.write_all(MAGIC).map_err(SpineError::io(&new.making))?;
        Ok(new)
    }

    /// Appends a chunk of some rows: first the schema, with none.
    pub fn append(&mut self, bytes: &[u8], rows: u32) -> Result<(), SpineError> {
        let length = u32::try_from(bytes.len())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a chunk is longer than 4 GiB"))
            .map_err(SpineError::io(&self.making))?;
        self.file.write_all(bytes).map_err(SpineError::io(&self.making))?;
        self.chunks.push(SpineChunk { offset: self.offset, length, crc32: crc32fast::hash(bytes), rows });
        self.offset += u64::from(length);
        Ok(())
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.offset
    }

    pub fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// Makes it whole and durable under its name. What had that name is replaced: it holds the same,
    /// unless it is damaged.
    pub fn finish(mut self, id: SpineId, about: SpineAbout) -> Result<SpineFile, SpineError> {
        let footer = Footer { format: FORMAT, about, chunks: std::mem::take(&mut self.chunks) };
        let encoded = serde_json::to_vec(&footer).map_err(io::Error::from);
        let written = encoded.and_then(|encoded| {
            let length = u32::try_from(encoded.len())
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a footer is longer than 4 GiB"))?;
            self.file.write_all(&encoded)?;
            self.file.write_all(&crc32fast::hash(&encoded).to_le_bytes())?;
            self.file.write_all(&length.to_le_bytes())?;
            self.file.write_all(MAGIC)?;
            self.file.sync()
        });
        written.map_err(SpineError::io(&self.making))?;
        let path = self.directory.join(format!("{id}.{EXTENSION}"));
        self.files.rename(&self.making, &path).map_err(SpineError::io(&path))?;
        self.named = true;
        self.files.sync_dir(&self.directory).map_err(SpineError::io(&self.directory))?;
        let bytes = self.files.len(&path).map_err(SpineError::io(&path))?;
        let Footer { about, chunks, .. } = footer;
        Ok(SpineFile { about, chunks, bytes })
    }
}

impl Drop for NewSpine {
    fn drop(&mut self) {
        if self.named {
            return;
        }
        if let Err(error) = files::remove_if_there(self.files.as_ref(), &self.making) {
            tracing::warn!(%error, "what was written of a spine is left until the next start");
        }
    }
}

impl std::fmt::Debug for NewSpine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("NewSpine").field("making", &self.making).finish_non_exhaustive()
    }
}
