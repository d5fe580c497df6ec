//! Makes one backup: files are linked where they are of the same file system, and copied where not;
//! when all are there, those are read that have no checksum yet; the manifest comes last, everything
//! is synced, and only then the backup has its name. Dropping a writer that has not finished removes
//! what it made.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write as _};
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::shelf::remove_all;
use super::{About, BackedUpFile, BackupError, Counts, MANIFEST, Manifest, Proceed, Shelf, read_through};
use crate::files::Files;
use crate::names::Name;

/// A backup under way.
pub struct BackupWriter<'a> {
    files: Arc<dyn Files>,
    shelf: Shelf,
    name: Name,
    /// Where it is until it is whole; empty once it is.
    making: PathBuf,
    directories: HashSet<PathBuf>,
    made: Vec<Made>,
    counts: Counts,
    earlier: Option<Earlier>,
    proceed: &'a mut Proceed<'a>,
}

/// A file that is in place.
struct Made {
    path: String,
    bytes: u64,
    /// `None`: to be read when all files are in place, so that nobody has to hold still for it.
    crc32: Option<u32>,
}

/// The newest backup before this one. A file that both have needs not be read again.
struct Earlier {
    directory: PathBuf,
    files: HashMap<String, BackedUpFile>,
}

impl<'a> BackupWriter<'a> {
    /// Begins a backup under a name that is free. Its checksums of linked files are those of the newest
    /// backup that is there, where it has the very same file.
    pub fn begin(shelf: &Shelf, name: &Name, proceed: &'a mut Proceed<'a>) -> Result<Self, BackupError> {
        let files = shelf.files.clone();
        let whole = shelf.path_of(name);
        let is_there = |path: &Path| files.exists(path).map_err(BackupError::io("looked at", path));
        if is_there(&whole.join(MANIFEST))? {
            return Err(BackupError::Taken { name: name.clone() });
        }
        if is_there(&whole)? {
            return Err(BackupError::InTheWay { name: name.clone(), path: whole });
        }
        let newest = shelf.list()?.into_iter().rev().find_map(|shelved| Some((shelved.name, shelved.manifest.ok()?)));
        let earlier = newest.map(|(name, manifest)| Earlier {
            directory: shelf.path_of(&name),
            files: manifest.files.into_iter().map(|file| (file.path.clone(), file)).collect(),
        });
        let making = shelf.making(name);
        remove_all(&making)?;
        let writer = Self {
            files,
            shelf: shelf.clone(),
            name: name.clone(),
            making: making.clone(),
            directories: HashSet::new(),
            made: Vec::new(),
            counts: Counts::default(),
            earlier,
            proceed,
        };
        writer.files.create_dir_all(&making).map_err(BackupError::io("made", &making))?;
        Ok(writer)
    }

    /// Where something else may put files, to be taken up by [`BackupWriter::adopt`]: the directory
    /// above it is there, and it itself is not.
    pub fn place_for(&mut self, path: &str) -> Result<PathBuf, BackupError> {
        self.make_parent(path)
    }

    /// Takes a file whose bytes never change, as long as it has the name `from`.
    pub fn link(&mut self, from: &Path, path: &str) -> Result<(), BackupError> {
        let to = self.make_parent(path)?;
        match self.files.hard_link(from, &to) {
            Ok(()) => {}
            Err(error) if cannot_link(&error) => {
                let bytes = self.files.len(from).map_err(BackupError::io("looked at", from))?;
                return self.copy(from, bytes, path);
            }
            Err(error) => return Err(BackupError::io("linked", from)(error)),
        }
        let bytes = self.files.len(&to).map_err(BackupError::io("looked at", &to))?;
        self.counts.linked_bytes += bytes;
        self.note(path, bytes, None)
    }

    /// As [`BackupWriter::link`], where there is such a file; whether there is.
    pub fn link_if_there(&mut self, from: &Path, path: &str) -> Result<bool, BackupError> {
        let there = self.files.exists(from).map_err(BackupError::io("looked at", from))?;
        if there {
            self.link(from, path)?;
        }
        Ok(there)
    }

    /// Puts a small file of its own into the backup.
    pub fn write(&mut self, path: &str, bytes: &[u8]) -> Result<(), BackupError> {
        let to = self.make_parent(path)?;
        let written = self.files.create_new(&to).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync()
        });
        written.map_err(BackupError::io("written", &to))?;
        self.counts.copied_bytes += bytes.len() as u64;
        self.note(path, bytes.len() as u64, Some(crc32fast::hash(bytes)))
    }

    /// Copies the first `bytes` of a file, which may be written to behind them.
    pub fn copy(&mut self, from: &Path, bytes: u64, path: &str) -> Result<(), BackupError> {
        let to = self.make_parent(path)?;
        let mut copy = self.files.create_new(&to).map_err(BackupError::io("made", &to))?;
        let mut begun = self.counts;
        let proceed = &mut *self.proceed;
        let crc32 = read_through(self.files.as_ref(), from, bytes, &mut |piece| {
            copy.write_all(piece).map_err(BackupError::io("written", &to))?;
            begun.copied_bytes += piece.len() as u64;
            if proceed(&begun) { Ok(()) } else { Err(BackupError::Stopped) }
        })?;
        copy.sync().map_err(BackupError::io("synced", &to))?;
        self.counts.copied_bytes += bytes;
        self.note(path, bytes, Some(crc32))
    }

    /// Takes up the files that something else has put in a directory of this backup, as links to those of
    /// `original` or as copies. Links are of files that were durable.
    pub fn adopt(&mut self, directory: &str, original: &Path) -> Result<(), BackupError> {
        let place = self.making.join(directory);
        self.directories.insert(place.clone());
        for entry in self.files.list(&place).map_err(BackupError::io("listed", &place))? {
            let at = place.join(&entry.name);
            let Some(name) = entry.name.to_str().filter(|_| !entry.metadata.is_dir) else {
                let problem = "it is no file that a backup can hold".to_owned();
                return Err(BackupError::Damaged { path: at, problem });
            };
            let path = format!("{directory}/{name}");
            // One whose original is gone by now is this backup's alone, as a copy is.
            let linked = self.files.is_same_file(&original.join(name), &at).unwrap_or(false);
            if !linked {
                let mut file = self.files.open_append(&at).map_err(BackupError::io("opened", &at))?;
                file.sync().map_err(BackupError::io("synced", &at))?;
            }
            let bytes = entry.metadata.len;
            if linked {
                self.counts.linked_bytes += bytes;
            } else {
                self.counts.copied_bytes += bytes;
            }
            self.note(&path, bytes, None)?;
        }
        Ok(())
    }

    /// Takes the checksums that are missing, and makes it whole: `about` tells what is not known here.
    pub fn finish(mut self, about: impl FnOnce(&Counts) -> About) -> Result<Manifest, BackupError> {
        let mut listed = Vec::with_capacity(self.made.len());
        for Made { path, bytes, crc32 } in mem::take(&mut self.made) {
            let crc32 = match crc32 {
                Some(crc32) => crc32,
                None => self.sum(&path, bytes)?,
            };
            listed.push(BackedUpFile { path, bytes, crc32 });
        }
        let Counts { files, linked_bytes, copied_bytes, read_bytes } = self.counts;
        let mut about = about(&self.counts);
        about = About { format: About::FORMAT, name: self.name.clone(), ..about };
        about = About { files, linked_bytes, copied_bytes, read_bytes, ..about };
        let manifest = Manifest { about, files: listed };
        let path = self.making.join(MANIFEST);
        let written = manifest.encode().and_then(|bytes| {
            let mut file = self.files.create_new(&path)?;
            file.write_all(&bytes)?;
            file.sync()
        });
        written.map_err(BackupError::io("written", &path))?;
        // Names are durable from below upwards, so that the whole has its name last.
        let mut directories: Vec<&PathBuf> = self.directories.iter().collect();
        directories.sort_by_key(|directory| std::cmp::Reverse(directory.components().count()));
        for directory in directories.into_iter().chain([&self.making]) {
            self.files.sync_dir(directory).map_err(BackupError::io("synced", directory))?;
        }
        if !(self.proceed)(&self.counts) {
            return Err(BackupError::Stopped);
        }
        let whole = self.shelf.path_of(&self.name);
        self.files.rename(&self.making, &whole).map_err(BackupError::io("given its name", &whole))?;
        self.making = PathBuf::new();
        let shelf = self.shelf.directory();
        if let Err(error) = self.files.sync_dir(shelf) {
            // Whether it would outlive a power cut is not known, so it must not be counted on.
            let undone = self.shelf.delete(&self.name);
            if let Err(undone) = undone {
                tracing::warn!(backup = %self.name, error = %undone, "a backup that is not known to be durable stays");
            }
            return Err(BackupError::io("synced", shelf)(error));
        }
        Ok(manifest)
    }

    fn make_parent(&mut self, path: &str) -> Result<PathBuf, BackupError> {
        let to = self.making.join(path);
        let mut missing = to.parent();
        while let Some(directory) = missing.filter(|directory| *directory != self.making) {
            if !self.directories.insert(directory.to_path_buf()) {
                break;
            }
            missing = directory.parent();
        }
        if let Some(parent) = to.parent() {
            self.files.create_dir_all(parent).map_err(BackupError::io("made", parent))?;
        }
        Ok(to)
    }

    /// The checksum of a file of this backup: that of the earlier one if it has the same file.
    fn sum(&mut self, path: &str, bytes: u64) -> Result<u32, BackupError> {
        let at = self.making.join(path);
        if let Some(earlier) = &self.earlier
            && let Some(file) = earlier.files.get(path).filter(|file| file.bytes == bytes)
            && self.files.is_same_file(&earlier.directory.join(path), &at).unwrap_or(false)
        {
            return Ok(file.crc32);
        }
        let mut begun = self.counts;
        let proceed = &mut *self.proceed;
        let crc32 = read_through(self.files.as_ref(), &at, bytes, &mut |piece| {
            begun.read_bytes += piece.len() as u64;
            if proceed(&begun) { Ok(()) } else { Err(BackupError::Stopped) }
        })?;
        self.counts.read_bytes = begun.read_bytes;
        Ok(crc32)
    }

    fn note(&mut self, path: &str, bytes: u64, crc32: Option<u32>) -> Result<(), BackupError> {
        self.made.push(Made { path: path.to_owned(), bytes, crc32 });
        self.counts.files += 1;
        if (self.proceed)(&self.counts) { Ok(()) } else { Err(BackupError::Stopped) }
    }
}

impl Drop for BackupWriter<'_> {
    fn drop(&mut self) {
        if self.making.as_os_str().is_empty() {
            return;
        }
        if let Err(error) = remove_all(&self.making) {
            tracing::warn!(%error, "what was made of a backup is left until the next one or the next start");
        }
    }
}

/// Whether links are impossible between two places, and copies are not.
fn cannot_link(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::CrossesDevices | io::ErrorKind::Unsupported | io::ErrorKind::TooManyLinks)
}
