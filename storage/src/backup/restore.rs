//! What is done with a backup where no server runs: it is held to its checksums, and copied into an
//! empty directory for a server to start on. A backup is never changed by it.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::shelf::remove_all;
use super::{BackupError, Counts, MANIFEST, Manifest, Proceed, read_through};
use crate::files::{FileWriter, Files, remove_if_there};

/// A file that is in a directory only while a backup is restored into it: no server may start there.
pub const RESTORING: &str = "RESTORING";

/// What came of holding a backup to its checksums.
#[derive(Clone, Debug)]
pub struct Verified {
    pub manifest: Manifest,
    /// Everything that is wrong, in the order of the paths.
    pub problems: Vec<Problem>,
    /// Files and bytes that were read.
    pub counts: Counts,
}

/// A file of a backup that isn't as it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Below the backup's directory.
    pub path: String,
    pub problem: String,
}

/// Reads every file of a backup and holds it to the manifest. Finds what is damaged, missing, or does
/// not belong to it.
///
/// # Errors
/// Where the manifest itself is damaged or missing, so that nothing can be said of the files.
pub fn verify(files: &dyn Files, backup: &Path, proceed: &mut Proceed<'_>) -> Result<Verified, BackupError> {
    let manifest = Manifest::read(files, backup)?;
    let mut found = HashMap::new();
    list_below(files, backup, "", &mut found)?;
    found.remove(MANIFEST);
    let (mut problems, mut counts) = (Vec::new(), Counts::default());
    for file in &manifest.files {
        let problem = match found.remove(&file.path) {
            None => Some("it is missing".to_owned()),
            Some(bytes) if bytes != file.bytes => Some(format!("it has {bytes} bytes, and not {}", file.bytes)),
            Some(bytes) => {
                let path = backup.join(&file.path);
                let read = read_through(files, &path, bytes, &mut |piece| {
                    counts.read_bytes += piece.len() as u64;
                    if proceed(&counts) { Ok(()) } else { Err(BackupError::Stopped) }
                });
                match read {
                    Ok(sum) => (sum != file.crc32).then(|| "it does not match its checksum".to_owned()),
                    Err(BackupError::Io { source, .. }) => Some(format!("it can't be read: {source}")),
                    Err(error) => return Err(error),
                }
            }
        };
        counts.files += 1;
        problems.extend(problem.map(|problem| Problem { path: file.path.clone(), problem }));
    }
    let foreign = found.into_keys().map(|path| Problem { path, problem: "it is no part of the backup".to_owned() });
    problems.extend(foreign);
    problems.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(Verified { manifest, problems, counts })
}

/// Copies a backup into a directory that is empty or not there, holds it to its checksums on the way,
/// and makes it durable. Where that fails, the directory is as it was; where the process dies, it has
/// the file [`RESTORING`], and no server starts there.
pub fn restore(
    files: &dyn Files,
    backup: &Path,
    data_directory: &Path,
    proceed: &mut Proceed<'_>,
) -> Result<Manifest, BackupError> {
    let manifest = Manifest::read(files, backup)?;
    refuse_within_backup(files, data_directory)?;
    match files.list(data_directory) {
        Ok(entries) if entries.is_empty() => {}
        Ok(_) => return Err(BackupError::NotEmpty { path: data_directory.to_path_buf() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(BackupError::io("listed", data_directory)(error)),
    }
    let was_there = files.exists(data_directory).map_err(BackupError::io("looked at", data_directory))?;
    files.create_dir_all(data_directory).map_err(BackupError::io("made", data_directory))?;
    let mark = data_directory.join(RESTORING);
    // Two may restore into one directory: only who has made the mark takes away what is there.
    let file = files.create_new(&mark).map_err(|error| {
        if !was_there {
            // Where it is empty; what another has put there stays.
            let _stays = std::fs::remove_dir(data_directory);
        }
        BackupError::io("made", &mark)(error)
    })?;
    let marked = sign(files, file, backup, data_directory);
    let restored = marked.and_then(|()| copy_all(files, backup, &manifest, data_directory, proceed));
    if let Err(error) = restored {
        let undone = if was_there { empty(data_directory) } else { remove_all(data_directory) };
        if let Err(undone) = undone {
            tracing::warn!(error = %undone, "what was restored is left, and no server will start on it");
        }
        return Err(error);
    }
    Ok(manifest)
}

/// A backup has nothing in it but what it was made with.
fn refuse_within_backup(files: &dyn Files, data_directory: &Path) -> Result<(), BackupError> {
    let path = std::path::absolute(data_directory).map_err(BackupError::io("looked at", data_directory))?;
    for directory in path.ancestors() {
        let manifest = directory.join(MANIFEST);
        if files.exists(&manifest).map_err(BackupError::io("looked at", &manifest))? {
            return Err(BackupError::InBackup { path: data_directory.to_path_buf(), backup: directory.to_path_buf() });
        }
    }
    Ok(())
}

/// Says in the mark what is being restored, and makes it durable.
fn sign(
    files: &dyn Files,
    mut mark: Box<dyn FileWriter>,
    backup: &Path,
    data_directory: &Path,
) -> Result<(), BackupError> {
    let written = writeln!(mark, "from {}", backup.display()).and_then(|()| mark.sync());
    written.and_then(|()| files.sync_dir(data_directory)).map_err(BackupError::io("written", data_directory))
}

fn copy_all(
    files: &dyn Files,
    backup: &Path,
    manifest: &Manifest,
    data_directory: &Path,
    proceed: &mut Proceed<'_>,
) -> Result<(), BackupError> {
    let mark = data_directory.join(RESTORING);
    let mut counts = Counts::default();
    let mut directories: BTreeSet<PathBuf> = BTreeSet::new();
    for file in &manifest.files {
        let (from, to) = (backup.join(&file.path), data_directory.join(&file.path));
        if let Some(parent) = to.parent()
            && directories.insert(parent.to_path_buf())
        {
            files.create_dir_all(parent).map_err(BackupError::io("made", parent))?;
        }
        let found = files.len(&from).map_err(BackupError::io("read", &from))?;
        if found != file.bytes {
            let problem = format!("it has {found} bytes, and not {}", file.bytes);
            return Err(BackupError::Damaged { path: from, problem });
        }
        let mut copy = files.create_new(&to).map_err(BackupError::io("made", &to))?;
        let sum = read_through(files, &from, file.bytes, &mut |piece| {
            copy.write_all(piece).map_err(BackupError::io("written", &to))?;
            counts.copied_bytes += piece.len() as u64;
            if proceed(&counts) { Ok(()) } else { Err(BackupError::Stopped) }
        })?;
        if sum != file.crc32 {
            let problem = "it does not match its checksum".to_owned();
            return Err(BackupError::Damaged { path: from, problem });
        }
        copy.sync().map_err(BackupError::io("synced", &to))?;
        counts.files += 1;
    }
    // Directories are durable in those above them since they were made.
    for directory in &directories {
        files.sync_dir(directory).map_err(BackupError::io("synced", directory))?;
    }
    remove_if_there(files, &mark).map_err(BackupError::io("removed", &mark))?;
    files.sync_dir(data_directory).map_err(BackupError::io("synced", data_directory))
}

/// The files below a directory, with their lengths, by their paths.
fn list_below(
    files: &dyn Files,
    directory: &Path,
    prefix: &str,
    found: &mut HashMap<String, u64>,
) -> Result<(), BackupError> {
    for entry in files.list(directory).map_err(BackupError::io("listed", directory))? {
        let path = format!("{prefix}{}", entry.name.to_string_lossy());
        if entry.metadata.is_dir {
            list_below(files, &directory.join(&entry.name), &format!("{path}/"), found)?;
        } else {
            found.insert(path, entry.metadata.len);
        }
    }
    Ok(())
}

/// Removes what is in a directory, and leaves the directory.
fn empty(directory: &Path) -> Result<(), BackupError> {
    let failed = |source| BackupError::Io { action: "emptied", path: directory.to_path_buf(), source };
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() { remove_all(&path)? } else { std::fs::remove_file(&path).map_err(failed)? }
    }
    Ok(())
}
