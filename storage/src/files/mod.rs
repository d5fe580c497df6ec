//! Files as the log and the history tables need them: what is durable, and when, is said by the
//! type. [`LocalFiles`] is the real thing; [`LossyFiles`] is a disk in memory that tests may cut
//! the power of. Nothing here knows what the bytes mean, and nothing retries.

pub mod local;
pub mod lossy;

use std::ffi::OsString;
use std::fmt::Debug;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub use local::LocalFiles;
pub use lossy::LossyFiles;

/// A file system. Paths are absolute or relative to the process, as the implementation was told;
/// parents must exist. Bytes are durable after [`FileWriter::sync`] and names after
/// [`Files::sync_dir`] of their directory, not before.
pub trait Files: Send + Sync + Debug {
    /// A new, empty file; `AlreadyExists` if the name is taken.
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn FileWriter>>;

    /// An existing file, positioned at its end.
    fn open_append(&self, path: &Path) -> io::Result<Box<dyn FileWriter>>;

    /// The whole of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Exactly `length` bytes from `offset`; `UnexpectedEof` if the file ends before.
    fn read_range(&self, path: &Path, offset: u64, length: usize) -> io::Result<Vec<u8>>;

    /// `NotFound` if there is nothing.
    fn metadata(&self, path: &Path) -> io::Result<FileMetadata>;

    /// Gives a file another name, atomically, replacing what had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives a file another name; `AlreadyExists` if that is taken. A crash in between may leave
    /// the file under both names, never under none.
    fn rename_no_replace(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives a file a second name; `AlreadyExists` if that is taken.
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// What is directly in a directory, by name.
    fn list(&self, directory: &Path) -> io::Result<Vec<DirEntry>>;

    /// Creates a directory and its missing parents, all durable on return.
    fn create_dir_all(&self, directory: &Path) -> io::Result<()>;

    /// Makes durable what names a directory holds.
    fn sync_dir(&self, directory: &Path) -> io::Result<()>;

    /// Whether two names are of one file.
    fn is_same_file(&self, one: &Path, other: &Path) -> io::Result<bool>;

    /// The length of a file in bytes.
    fn len(&self, path: &Path) -> io::Result<u64> {
        self.metadata(path).map(|metadata| metadata.len)
    }

    /// Whether there is a file or directory of that name; an error if it can't be told.
    fn exists(&self, path: &Path) -> io::Result<bool> {
        match self.metadata(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// An open file. [`Write`] appends.
pub trait FileWriter: Write + Send {
    /// Makes durable all that was written. After a failure nothing is known of what was written
    /// since the last success, and trying again proves nothing: the caller must give up.
    fn sync(&mut self) -> io::Result<()>;

    /// Cuts the file off, or extends it by zeros; the next write goes to its new end.
    fn set_len(&mut self, len: u64) -> io::Result<()>;

    /// Overwrites in place, extending the file if need be. Where [`Write`] goes on is not touched,
    /// so the two are not to be mixed on one file.
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMetadata {
    pub len: u64,
    pub is_dir: bool,
    pub modified: SystemTime,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    pub name: OsString,
    pub metadata: FileMetadata,
}

/// Writes a whole file so that a crash leaves the old content or the new, durable on return. One
/// writer a path.
pub fn replace(files: &dyn Files, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary_name(path)?;
    remove_if_there(files, &temporary)?;
    let written = write_new(files, &temporary, bytes).and_then(|()| files.rename(&temporary, path));
    if let Err(error) = written {
        // What is left would only take room; the next replacement removes it if this fails too.
        let _ = remove_if_there(files, &temporary);
        return Err(error);
    }
    files.sync_dir(parent(path)?)
}

/// Removes a file; no error if there is none.
pub fn remove_if_there(files: &dyn Files, path: &Path) -> io::Result<()> {
    match files.remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Whether an error says that there is no room left, so that the same may succeed later.
pub fn is_out_of_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

fn write_new(files: &dyn Files, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = files.create_new(path)?;
    file.write_all(bytes)?;
    file.sync()
}

fn temporary_name(path: &Path) -> io::Result<PathBuf> {
    let mut name = path.file_name().ok_or_else(|| no_name(path))?.to_owned();
    name.push(".tmp");
    Ok(path.with_file_name(name))
}

fn parent(path: &Path) -> io::Result<&Path> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Ok(Path::new(".")),
        Some(parent) => Ok(parent),
        None => Err(no_name(path)),
    }
}

fn no_name(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{} is not the path of a file", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What every implementation keeps to.
    fn check(files: &dyn Files, root: &Path) {
        let directory = root.join("a/b");
        files.create_dir_all(&directory).expect("create directories");
        files.create_dir_all(&directory).expect("directories that are there are fine");
        let path = directory.join("one");
        let kind = |result: io::Result<()>| result.map_err(|error| error.kind());

        let mut file = files.create_new(&path).expect("create");
        file.write_all(b"0123456789").expect("write");
        file.sync().expect("sync");
        assert_eq!(kind(files.create_new(&path).map(drop)), Err(io::ErrorKind::AlreadyExists));
        assert_eq!(kind(files.create_new(&root.join("no/one")).map(drop)), Err(io::ErrorKind::NotFound));
        assert_eq!(files.read_range(&path, 3, 4).expect("read"), b"3456");
        assert_eq!(kind(files.read_range(&path, 7, 4).map(drop)), Err(io::ErrorKind::UnexpectedEof));

        file.set_len(4).expect("cut off");
        file.write_all(b"ab").expect("write at the new end");
        drop(file);
        assert_eq!(files.read(&path).expect("read"), b"0123ab");
        let mut file = files.open_append(&path).expect("open");
        file.write_all(b"cd").expect("write");
        drop(file);
        assert_eq!(files.read(&path).expect("read"), b"0123abcd");
        let mut file = files.open_append(&path).expect("open");
        file.write_all_at(b"XY", 1).expect("overwrite");
        file.write_all_at(b"Z", 9).expect("overwrite past the end");
        assert_eq!(files.read(&path).expect("read"), b"0XY3abcd\0Z");
        assert_eq!(files.len(&path).expect("len"), 10);
        assert_eq!(kind(files.open_append(&directory.join("none")).map(drop)), Err(io::ErrorKind::NotFound));

        let two = directory.join("two");
        files.hard_link(&path, &two).expect("link");
        assert_eq!(kind(files.hard_link(&path, &two)), Err(io::ErrorKind::AlreadyExists));
        assert!(files.is_same_file(&path, &two).expect("both are there"));
        let other = directory.join("other");
        drop(files.create_new(&other).expect("create"));
        assert!(!files.is_same_file(&path, &other).expect("both are there"));
        files.remove(&other).expect("remove");
        assert_eq!(kind(files.is_same_file(&path, &other).map(drop)), Err(io::ErrorKind::NotFound));
        assert_eq!(kind(files.rename_no_replace(&path, &two)), Err(io::ErrorKind::AlreadyExists));
        let three = directory.join("three");
        files.rename_no_replace(&path, &three).expect("rename");
        assert!(!files.exists(&path).expect("exists"));
        replace(files, &three, b"new").expect("replace");
        replace(files, &three, b"newer").expect("replace again");
        assert_eq!(files.read(&three).expect("read"), b"newer");
        assert_eq!(files.read(&two).expect("a link keeps the old content"), b"0XY3abcd\0Z");
        files.rename(&two, &three).expect("rename over");
        assert_eq!(files.read(&three).expect("read"), b"0XY3abcd\0Z");
        files.sync_dir(&directory).expect("sync");

        let names = |directory: &Path| {
            let entries = files.list(directory).expect("list");
            entries
                .into_iter()
                .map(|entry| (entry.name.into_string().expect("UTF-8"), entry.metadata.is_dir))
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&root.join("a")), [("b".to_owned(), true)]);
        assert_eq!(names(&directory), [("three".to_owned(), false)]);
        files.remove(&three).expect("remove");
        remove_if_there(files, &three).expect("removed already");
        assert_eq!(kind(files.remove(&three)), Err(io::ErrorKind::NotFound));
        assert_eq!(kind(files.list(&three).map(drop)), Err(io::ErrorKind::NotFound));
        assert_eq!(names(&directory), []);
    }

    #[test]
    fn the_local_file_system_keeps_to_the_trait() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        check(&LocalFiles, directory.path());
    }

    #[test]
    fn the_lossy_file_system_keeps_to_the_trait() {
        check(&LossyFiles::new(1), Path::new("/data"));
    }
}
