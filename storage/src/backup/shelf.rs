//! The directory in which backups lie, each under its name. Names that begin with a dot are of
//! backups that are being made or deleted; what a crash left of them is removed at the next start.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{BackupError, MANIFEST, Manifest};
use crate::files::Files;
use crate::names::Name;

const MAKING: &str = ".making";
const DELETING: &str = ".deleting";

/// All backups of one directory. One process at a time makes and deletes them, one by one.
#[derive(Clone, Debug)]
pub struct Shelf {
    pub(super) files: Arc<dyn Files>,
    directory: PathBuf,
}

/// A backup that is there.
#[derive(Debug)]
pub struct Shelved {
    pub name: Name,
    /// Why its manifest can't be read, where it can't.
    pub manifest: Result<Manifest, BackupError>,
}

impl Shelf {
    pub fn new(files: Arc<dyn Files>, directory: PathBuf) -> Self {
        Self { files, directory }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn path_of(&self, name: &Name) -> PathBuf {
        self.directory.join(name.as_str())
    }

    /// Every backup, the one that was made first in front.
    pub fn list(&self) -> Result<Vec<Shelved>, BackupError> {
        let mut found = Vec::new();
        for entry in self.entries()? {
            let Some(name) = entry.to_str().and_then(|name| name.parse::<Name>().ok()) else { continue };
            let path = self.path_of(&name);
            let is_backup = self.files.exists(&path.join(MANIFEST)).map_err(BackupError::io("looked at", &path))?;
            if is_backup {
                found.push(Shelved { manifest: Manifest::read(self.files.as_ref(), &path), name });
            }
        }
        let made = |shelved: &Shelved| shelved.manifest.as_ref().map_or(i64::MIN, |manifest| manifest.about.made);
        found.sort_by(|left, right| (made(left), &left.name).cmp(&(made(right), &right.name)));
        Ok(found)
    }

    /// Takes a backup away: it is gone from the list first, and then file by file.
    pub fn delete(&self, name: &Name) -> Result<(), BackupError> {
        let (path, leaving) = (self.path_of(name), self.hidden(name, DELETING));
        if !self.files.exists(&path.join(MANIFEST)).map_err(BackupError::io("looked at", &path))? {
            return Err(BackupError::Unknown { name: name.clone() });
        }
        remove_all(&leaving)?;
        self.files.rename(&path, &leaving).map_err(BackupError::io("taken off the list", &path))?;
        self.files.sync_dir(&self.directory).map_err(BackupError::io("synced", &self.directory))?;
        remove_all(&leaving)
    }

    /// Removes what was being made or deleted when the process ended. Tells how many there were.
    pub fn remove_leftovers(&self) -> Result<usize, BackupError> {
        let mut removed = 0;
        for entry in self.entries()? {
            let is_ours = entry.to_str().is_some_and(|name| {
                let inner = [MAKING, DELETING].iter().find_map(|ending| name.strip_prefix('.')?.strip_suffix(ending));
                inner.is_some_and(|name| name.parse::<Name>().is_ok())
            });
            if is_ours {
                remove_all(&self.directory.join(&entry))?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Where a backup is until it is whole.
    pub(super) fn making(&self, name: &Name) -> PathBuf {
        self.hidden(name, MAKING)
    }

    fn hidden(&self, name: &Name, ending: &str) -> PathBuf {
        self.directory.join(format!(".{name}{ending}"))
    }

    fn entries(&self) -> Result<Vec<OsString>, BackupError> {
        match self.files.list(&self.directory) {
            Ok(entries) => Ok(entries.into_iter().map(|entry| entry.name).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(BackupError::io("listed", &self.directory)(error)),
        }
    }
}

/// Removes a directory with all that is in it; no error if there is none.
pub(super) fn remove_all(directory: &Path) -> Result<(), BackupError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(BackupError::io("removed", directory)(error)),
        _ => Ok(()),
    }
}
