//! The real file system, watched: any operation can be made to fail, and what is not synced is known.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::files::{DirEntry, FileMetadata, FileWriter, Files, LocalFiles};

#[derive(Clone, Debug, Default)]
pub struct WatchedFiles {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Operations until the one that fails; `None`: none will.
    until_fault: Option<(u64, io::ErrorKind)>,
    /// Files with bytes, and directories with names, that a power cut could take.
    unsynced: BTreeSet<PathBuf>,
    /// Directories that were renamed, with what was not synced in them at that moment.
    renamed: Vec<(PathBuf, Vec<PathBuf>)>,
}

impl WatchedFiles {
    /// Lets the operation after `skipped` more fail, once.
    pub fn fail_after(&self, skipped: u64, kind: io::ErrorKind) {
        self.lock().until_fault = Some((skipped, kind));
    }

    /// Nothing fails from now on; tells whether the fault was still to come.
    pub fn heal(&self) -> bool {
        self.lock().until_fault.take().is_some()
    }

    /// What was not synced when a directory got its name, for each that got one.
    pub fn renamed(&self) -> Vec<(PathBuf, Vec<PathBuf>)> {
        self.lock().renamed.clone()
    }

    pub fn unsynced(&self) -> Vec<PathBuf> {
        self.lock().unsynced.iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panicked here")
    }

    fn operation(&self) -> io::Result<()> {
        let mut state = self.lock();
        match state.until_fault {
            Some((0, kind)) => {
                state.until_fault = None;
                Err(kind.into())
            }
            Some((left, kind)) => {
                state.until_fault = Some((left - 1, kind));
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn touch(&self, path: &Path) {
        self.lock().unsynced.insert(path.to_path_buf());
    }

    fn touch_parent(&self, path: &Path) {
        self.touch(path.parent().expect("a name in a directory"));
    }
}

impl Files for WatchedFiles {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn FileWriter>> {
        self.operation()?;
        let writer = LocalFiles.create_new(path)?;
        self.touch(path);
        self.touch_parent(path);
        Ok(Box::new(WatchedWriter { files: self.clone(), path: path.to_path_buf(), writer }))
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn FileWriter>> {
        self.operation()?;
        let writer = LocalFiles.open_append(path)?;
        Ok(Box::new(WatchedWriter { files: self.clone(), path: path.to_path_buf(), writer }))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.operation()?;
        LocalFiles.read(path)
    }

    fn read_range(&self, path: &Path, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        self.operation()?;
        LocalFiles.read_range(path, offset, length)
    }

    fn metadata(&self, path: &Path) -> io::Result<FileMetadata> {
        self.operation()?;
        LocalFiles.metadata(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operation()?;
        LocalFiles.rename(from, to)?;
        let mut state = self.lock();
        let below = state.unsynced.iter().filter(|path| path.starts_with(from)).cloned().collect();
        state.renamed.push((to.to_path_buf(), below));
        drop(state);
        self.touch_parent(to);
        Ok(())
    }

    fn rename_no_replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operation()?;
        LocalFiles.rename_no_replace(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operation()?;
        LocalFiles.hard_link(from, to)?;
        self.touch_parent(to);
        Ok(())
    }

    fn is_same_file(&self, one: &Path, other: &Path) -> io::Result<bool> {
        self.operation()?;
        LocalFiles.is_same_file(one, other)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.operation()?;
        LocalFiles.remove(path)?;
        self.lock().unsynced.remove(path);
        self.touch_parent(path);
        Ok(())
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<DirEntry>> {
        self.operation()?;
        LocalFiles.list(directory)
    }

    fn create_dir_all(&self, directory: &Path) -> io::Result<()> {
        self.operation()?;
        LocalFiles.create_dir_all(directory)
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        self.operation()?;
        LocalFiles.sync_dir(directory)?;
        self.lock().unsynced.remove(directory);
        Ok(())
    }
}

struct WatchedWriter {
    files: WatchedFiles,
    path: PathBuf,
    writer: Box<dyn FileWriter>,
}

impl Write for WatchedWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.files.operation()?;
        self.files.touch(&self.path);
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl FileWriter for WatchedWriter {
    fn sync(&mut self) -> io::Result<()> {
        self.files.operation()?;
        self.writer.sync()?;
        self.files.lock().unsynced.remove(&self.path);
        Ok(())
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.files.operation()?;
        self.writer.set_len(len)
    }

    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.files.operation()?;
        self.writer.write_all_at(bytes, offset)
    }
}
