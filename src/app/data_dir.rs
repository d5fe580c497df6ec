//! The data directory: one process at a time has it, and what a crash left behind of spill files is
//! taken away at the start. A backup is no data directory, and neither is one that is being restored.
//! What lies in it otherwise belongs to the parts of the node.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use hydrant_storage::backup::{MANIFEST, RESTORING};

/// Why the data directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error(
        "data directory '{}' is in use by another process: stop that server, or give this one a directory of its own (--data-dir)",
        path.display()
    )]
    InUse { path: PathBuf },
    #[error(
        "'{0}' is a backup, and a server that runs on it changes it: restore it into another directory \
         (`hydrant backup restore {0} DATA_DIR`) and start there; or, to give up the backup and make it the data \
         directory, remove the file '{MANIFEST}' in it",
        path.display()
    )]
    IsBackup { path: PathBuf },
    #[error(
        "'{}' holds backups, such as '{backup}', and is no data directory: name the directory above it, or restore a \
         backup into another one (`hydrant backup restore {}/{backup} DATA_DIR`) and start there",
        path.display(), path.display()
    )]
    HoldsBackups { path: PathBuf, backup: String },
    #[error(
        "a backup was being restored into '{}' and is not whole: remove that directory, and run `hydrant backup restore` \
         again",
        path.display()
    )]
    HalfRestored { path: PathBuf },
    #[error("data directory '{}' can't be used: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// A data directory that is this process's until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    /// The lock lasts as long as the file is open.
    _lock: File,
}

impl DataDir {
    pub fn open(root: &Path) -> Result<Self, DataDirError> {
        let failed = |source| DataDirError::Io { path: root.to_owned(), source };
        fs::create_dir_all(root).map_err(failed)?;
        if root.join(MANIFEST).try_exists().map_err(failed)? {
            return Err(DataDirError::IsBackup { path: root.to_owned() });
        }
        if root.join(RESTORING).try_exists().map_err(failed)? {
            return Err(DataDirError::HalfRestored { path: root.to_owned() });
        }
        if let Some(backup) = a_backup_in(root).map_err(failed)? {
            return Err(DataDirError::HoldsBackups { path: root.to_owned(), backup });
        }
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(root.join("LOCK"));
        let mut lock = lock.map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DataDirError::InUse { path: root.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        // For people who wonder who has it; the lock itself is the kernel's.
        lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())).map_err(failed)?;
        let directory = Self { root: root.to_owned(), _lock: lock };
        directory.empty_spill().map_err(failed)?;
        Ok(directory)
    }

    pub fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    pub fn registry(&self) -> PathBuf {
        self.root.join("registry")
    }

    pub fn partitions(&self) -> PathBuf {
        self.root.join("partitions")
    }

    pub fn history(&self) -> PathBuf {
        self.root.join("history")
    }

    /// Stored spines.
    pub fn spines(&self) -> PathBuf {
        self.root.join("spines")
    }

    /// Who changed what.
    pub fn audit(&self) -> PathBuf {
        self.root.join("audit")
    }

    /// Where backups lie, unless the configuration says otherwise.
    pub fn backups(&self) -> PathBuf {
        self.root.join("backups")
    }

    /// What is staged of backfills.
    pub fn backfill(&self) -> PathBuf {
        self.root.join("backfill")
    }

    pub fn spill(&self) -> PathBuf {
        self.root.join("spill")
    }

    fn empty_spill(&self) -> io::Result<()> {
        match fs::remove_dir_all(self.spill()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::create_dir_all(self.spill())
    }
}

/// A backup that lies directly in the directory. A data directory has them one level deeper.
fn a_backup_in(directory: &Path) -> io::Result<Option<String>> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() && entry.path().join(MANIFEST).try_exists()? {
            return Ok(Some(entry.file_name().to_string_lossy().into_owned()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_in_use_is_refused_naming_it_and_free_again_afterwards() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let first = DataDir::open(place.path()).expect("free");
        let error = DataDir::open(place.path()).expect_err("in use");
        assert!(matches!(error, DataDirError::InUse { .. }));
        assert!(
            error.to_string().contains(&*place.path().to_string_lossy()) && error.to_string().contains("--data-dir")
        );
        drop(first);
        assert!(DataDir::open(place.path()).is_ok());
    }

    #[test]
    fn neither_a_backup_nor_where_backups_lie_is_a_data_directory() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let backup = place.path().join("backups/monday");
        fs::create_dir_all(&backup).expect("made");
        fs::write(backup.join(MANIFEST), "").expect("written");
        assert!(matches!(DataDir::open(&backup), Err(DataDirError::IsBackup { .. })));
        let error = DataDir::open(&place.path().join("backups")).expect_err("it holds backups");
        assert!(error.to_string().contains("backups/monday DATA_DIR"), "{error}");
        assert!(DataDir::open(place.path()).is_ok(), "the directory above it");
    }

    #[test]
    fn spill_files_of_an_earlier_run_are_taken_away() {
        let place = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir_all(place.path().join("spill")).expect("made");
        fs::write(place.path().join("spill/left-behind"), "x").expect("written");
        let directory = DataDir::open(place.path()).expect("free");
        assert_eq!(fs::read_dir(directory.spill()).expect("there").count(), 0);
    }

    #[test]
    fn no_server_starts_in_a_backup_or_in_what_is_being_restored() {
        for (mark, told) in [(MANIFEST, "hydrant backup restore"), (RESTORING, "not whole")] {
            let place = tempfile::tempdir().expect("a temporary directory");
            fs::write(place.path().join(mark), "").expect("written");
            let error = DataDir::open(place.path()).expect_err("it is marked").to_string();
            assert!(error.contains(told) && error.contains(&*place.path().to_string_lossy()), "{error}");
            assert_eq!(fs::read_dir(place.path()).expect("there").count(), 1, "nothing is made in it");
            fs::remove_file(place.path().join(mark)).expect("removed");
            assert!(DataDir::open(place.path()).is_ok());
        }
    }

    #[test]
    fn a_data_directory_that_is_a_file_is_refused() {
        let place = tempfile::NamedTempFile::new().expect("a temporary file");
        assert!(matches!(DataDir::open(place.path()), Err(DataDirError::Io { .. })));
    }
}
