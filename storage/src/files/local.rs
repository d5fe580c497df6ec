//! The local file system. It adds nothing to what the operating system does but the syncs that
//! durable names need; it never caches and never retries.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use super::{DirEntry, FileMetadata, FileWriter, Files};

#[derive(Clone, Copy, Debug, Default)]
pub struct LocalFiles;

#[expect(clippy::disallowed_methods, reason = "the layer through which names are given, and folders synced")]
impl Files for LocalFiles {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn FileWriter>> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        Ok(Box::new(LocalWriter { file }))
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn FileWriter>> {
        // Not O_APPEND: under it, Linux appends what is written at an offset too.
        let mut file = OpenOptions::new().write(true).open(path)?;
        file.seek(SeekFrom::End(0))?;
        Ok(Box::new(LocalWriter { file }))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn read_range(&self, path: &Path, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let file = File::open(path)?;
        let available = file.metadata()?.len().saturating_sub(offset);
        if available < length as u64 {
            // Told before the room for it is taken.
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{length} bytes wanted at offset {offset}, {available} there"),
            ));
        }
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn metadata(&self, path: &Path) -> io::Result<FileMetadata> {
        to_metadata(&fs::metadata(path)?)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn rename_no_replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)?;
        fs::remove_file(from)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            match entry.metadata() {
                Ok(metadata) => {
                    entries.push(DirEntry { name: entry.file_name(), metadata: to_metadata(&metadata)? });
                }
                // Removed since the directory was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn is_same_file(&self, one: &Path, other: &Path) -> io::Result<bool> {
        let (one, other) = (fs::metadata(one)?, fs::metadata(other)?);
        Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
    }

    fn create_dir_all(&self, directory: &Path) -> io::Result<()> {
        if directory.as_os_str().is_empty() || directory.is_dir() {
            return Ok(());
        }
        let parent = super::parent(directory)?;
        self.create_dir_all(parent)?;
        match fs::create_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => {}
            result => result?,
        }
        self.sync_dir(parent)
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }
}

struct LocalWriter {
    file: File,
}

impl Write for LocalWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl FileWriter for LocalWriter {
    fn sync(&mut self) -> io::Result<()> {
        // The length belongs to the data here: fdatasync writes what is needed to read them back.
        self.file.sync_data()
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)?;
        self.file.seek(SeekFrom::Start(len)).map(drop)
    }

    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }
}

fn to_metadata(metadata: &fs::Metadata) -> io::Result<FileMetadata> {
    Ok(FileMetadata { len: metadata.len(), is_dir: metadata.is_dir(), modified: metadata.modified()? })
}
