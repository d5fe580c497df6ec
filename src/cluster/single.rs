//! Metadata on one machine: a file for each value, replaced as a whole and checked by a checksum.
//! All values are held in memory, so reading one never touches the disk after the start.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use hydrant_storage::files::{self, Files};
use hydrant_storage::names::Name;
use tokio::sync::watch;

use super::{MAX_VALUE_BYTES, MetadataError, MetadataStore, Versioned};

/// Begins every file.
const MAGIC: &[u8; 8] = b"HYDRMET1";
/// Magic, crc32, version, length of the value.
const HEADER_BYTES: usize = 8 + 4 + 8 + 8;
const EXTENSION: &str = "value";

/// The embedded [`MetadataStore`]. One process at a time opens a directory.
#[derive(Clone, Debug)]
pub struct LocalMetadata {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    files: Arc<dyn Files>,
    directory: PathBuf,
    slots: Mutex<BTreeMap<Name, Slot>>,
}

#[derive(Debug)]
struct Slot {
    value: Option<Bytes>,
    version: watch::Sender<u64>,
    uncertain: bool,
}

impl LocalMetadata {
    /// Reads every value in `directory`, which is made if it isn't there. A value that fails its
    /// checksum is [`MetadataError::Damaged`]: nothing is opened then.
    pub fn open(files: Arc<dyn Files>, directory: &Path) -> Result<Self, MetadataError> {
        let io_error = |source| MetadataError::Io { path: directory.to_owned(), source };
        files.create_dir_all(directory).map_err(io_error)?;
        let mut slots = BTreeMap::new();
        for entry in files.list(directory).map_err(io_error)? {
            let path = directory.join(&entry.name);
            let is_value = path.extension().is_some_and(|extension| extension == EXTENSION);
            let key = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<Name>().ok());
            let (true, Some(key)) = (is_value, key) else { continue };
            let Versioned { value, version } = read(files.as_ref(), &path)?;
            slots.insert(key, Slot { value: Some(value), version: watch::Sender::new(version), uncertain: false });
        }
        // The names of files found may not be durable yet, and what is answered from them must be.
        files.sync_dir(directory).map_err(io_error)?;
        let shared = Shared { files, directory: directory.to_owned(), slots: Mutex::new(slots) };
        Ok(Self { shared: Arc::new(shared) })
    }
}

#[async_trait]
impl MetadataStore for LocalMetadata {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, MetadataError> {
        let key = parse_key(key)?;
        let slots = self.shared.slots.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(slots.get(&key).and_then(|slot| {
            let value = slot.value.clone()?;
            Some(Versioned { value, version: *slot.version.borrow() })
        }))
    }

    async fn put_if_version(&self, key: &str, value: Bytes, expected: u64) -> Result<u64, MetadataError> {
        let key = parse_key(key)?;
        let shared = Arc::clone(&self.shared);
        let path = shared.path(&key);
        // The write runs to its end even if the caller stops waiting.
        let put = tokio::task::spawn_blocking(move || shared.put(key, value, expected)).await;
        put.unwrap_or_else(|failed| Err(MetadataError::Io { path, source: std::io::Error::other(failed) }))
    }

    async fn watch(&self, key: &str) -> Result<watch::Receiver<u64>, MetadataError> {
        let key = parse_key(key)?;
        let mut slots = self.shared.slots.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(slots.entry(key).or_default().version.subscribe())
    }
}

impl Shared {
    fn path(&self, key: &Name) -> PathBuf {
        self.directory.join(format!("{key}.{EXTENSION}"))
    }

    fn put(&self, key: Name, value: Bytes, expected: u64) -> Result<u64, MetadataError> {
        if value.len() > MAX_VALUE_BYTES {
            return Err(MetadataError::TooLarge { key: key.to_string(), bytes: value.len() });
        }
        let path = self.path(&key);
        // Held over the write: one change at a time. A reader of another value waits for it, which
        // happens outside every read path.
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.entry(key.clone()).or_default();
        if slot.uncertain {
            return Err(MetadataError::Uncertain { key: key.to_string() });
        }
        let found = *slot.version.borrow();
        if found != expected {
            return Err(MetadataError::Conflict { key: key.to_string(), expected, found });
        }
        let version = found + 1;
        if let Err(source) = files::replace(self.files.as_ref(), &path, &encode(version, &value)) {
            if self.is_still_at(&path, found) {
                return Err(MetadataError::Io { path, source });
            }
            tracing::error!(key = %key, error = %source, "a metadata value may or may not have been replaced");
            slot.uncertain = true;
            return Err(MetadataError::Uncertain { key: key.to_string() });
        }
        slot.value = Some(value);
        slot.version.send_replace(version);
        Ok(version)
    }

    fn is_still_at(&self, path: &Path, version: u64) -> bool {
        if version == 0 {
            return self.files.exists(path).is_ok_and(|exists| !exists);
        }
        read(self.files.as_ref(), path).is_ok_and(|found| found.version == version)
    }
}

impl Default for Slot {
    fn default() -> Self {
        Self { value: None, version: watch::Sender::new(0), uncertain: false }
    }
}

fn parse_key(key: &str) -> Result<Name, MetadataError> {
    key.parse().map_err(|_| MetadataError::InvalidKey { key: key.chars().take(80).collect() })
}

fn encode(version: u64, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + value.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&checksum(version, value).to_le_bytes());
    bytes.extend_from_slice(&version.to_le_bytes());
    bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
    bytes.extend_from_slice(value);
    bytes
}

fn checksum(version: u64, value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&version.to_le_bytes());
    hasher.update(&(value.len() as u64).to_le_bytes());
    hasher.update(value);
    hasher.finalize()
}

fn read(files: &dyn Files, path: &Path) -> Result<Versioned, MetadataError> {
    let bytes = files.read(path).map_err(|source| MetadataError::Io { path: path.to_owned(), source })?;
    decode(&bytes).map_err(|detail| MetadataError::Damaged { path: path.to_owned(), detail: detail.to_owned() })
}

fn decode(bytes: &[u8]) -> Result<Versioned, &'static str> {
    let (magic, rest) = bytes.split_first_chunk::<8>().ok_or("it is too short")?;
    if magic != MAGIC {
        return Err("it doesn't begin like a metadata file of this version");
    }
    let (stored, rest) = rest.split_first_chunk::<4>().ok_or("it is too short")?;
    let (version, rest) = rest.split_first_chunk::<8>().ok_or("it is too short")?;
    let (length, value) = rest.split_first_chunk::<8>().ok_or("it is too short")?;
    let version = u64::from_le_bytes(*version);
    if u64::from_le_bytes(*length) != value.len() as u64 {
        return Err("its length is not the one written");
    }
    if checksum(version, value) != u32::from_le_bytes(*stored) {
        return Err("its checksum doesn't match");
    }
    Ok(Versioned { value: Bytes::copy_from_slice(value), version })
}

#[cfg(test)]
mod tests {
    use hydrant_storage::files::LossyFiles;
    use hydrant_storage::files::lossy::Fault;

    use super::*;

    const DIRECTORY: &str = "/data/registry";
    const OLD: &[u8] = b"the old value";
    const NEW: &[u8] = b"the new value, which is longer";

    fn open(files: &LossyFiles) -> Result<LocalMetadata, MetadataError> {
        LocalMetadata::open(Arc::new(files.clone()), Path::new(DIRECTORY))
    }

    async fn value(store: &LocalMetadata, key: &str) -> Option<(Vec<u8>, u64)> {
        let found = store.get(key).await.expect("the key is valid");
        found.map(|found| (found.value.to_vec(), found.version))
    }

    #[tokio::test]
    async fn a_value_changes_only_from_the_version_that_the_writer_has_seen() {
        let store = open(&LossyFiles::new(1)).expect("an empty directory opens");
        let mut versions = store.watch("one").await.expect("the key is valid");
        assert_eq!(store.put_if_version("one", OLD.into(), 0).await.expect("there is none"), 1);
        let refused = store.put_if_version("one", NEW.into(), 0).await.expect_err("there is one");
        assert!(matches!(refused, MetadataError::Conflict { expected: 0, found: 1, .. }), "{refused}");
        assert_eq!(store.put_if_version("one", NEW.into(), 1).await.expect("it was seen"), 2);
        assert_eq!(value(&store, "one").await, Some((NEW.to_vec(), 2)));
        assert_eq!(value(&store, "two").await, None);
        assert_eq!(*versions.borrow_and_update(), 2);
        assert!(matches!(store.get("../x").await, Err(MetadataError::InvalidKey { .. })));
    }

    #[tokio::test]
    async fn values_and_versions_are_there_after_a_restart() {
        let files = LossyFiles::new(2);
        let store = open(&files).expect("an empty directory opens");
        store.put_if_version("one", OLD.into(), 0).await.expect("there is none");
        store.put_if_version("one", NEW.into(), 1).await.expect("it was seen");
        store.put_if_version("two", OLD.into(), 0).await.expect("there is none");
        files.crash();
        let store = open(&files).expect("it opens again");
        assert_eq!(value(&store, "one").await, Some((NEW.to_vec(), 2)));
        assert_eq!(value(&store, "two").await, Some((OLD.to_vec(), 1)));
    }

    /// A device that fails from its n-th operation on, for every n, and then the power goes.
    #[tokio::test]
    async fn a_crash_anywhere_leaves_the_old_value_or_the_new_one() {
        for seed in 0..8 {
            for skipped in 0.. {
                let files = LossyFiles::new(seed);
                let store = open(&files).expect("an empty directory opens");
                store.put_if_version("one", OLD.into(), 0).await.expect("nothing fails yet");
                files.fail_on(skipped, Fault::Device);
                let put = store.put_if_version("one", NEW.into(), 1).await;
                let struck = put.is_err();
                let shown = value(&store, "one").await.expect("it is in memory").1;
                assert_eq!(shown, if struck { 1 } else { 2 }, "seed {seed}, operation {skipped}");
                files.heal();
                let reopened = open(&files.after_power_cut(seed + 100)).expect("nothing is damaged");
                let found = value(&reopened, "one").await;
                let old = found == Some((OLD.to_vec(), 1));
                let new = found == Some((NEW.to_vec(), 2));
                assert!(new || (struck && old), "seed {seed}, operation {skipped}: {found:?}");
                let on_disk = value(&open(&files).expect("nothing is damaged"), "one").await.expect("it is on disk").1;
                // What may be on disk already is not overwritten by somebody who hasn't seen it.
                let next = store.put_if_version("one", OLD.into(), shown).await;
                match put {
                    Ok(_) => break,
                    Err(MetadataError::Io { .. }) if on_disk == 2 => {
                        panic!("seed {seed}, operation {skipped}: it was changed")
                    }
                    Err(MetadataError::Io { .. }) => assert_eq!(next.expect("nothing was changed"), 2),
                    Err(_) => assert!(matches!(next, Err(MetadataError::Uncertain { .. })), "{next:?}"),
                }
            }
        }
    }

    #[tokio::test]
    async fn a_full_disk_refuses_a_change_and_the_next_one_goes_through() {
        let files = LossyFiles::new(3);
        let store = open(&files).expect("an empty directory opens");
        store.put_if_version("one", OLD.into(), 0).await.expect("there is room");
        files.fail_once(0, Fault::NoSpace);
        let refused = store.put_if_version("one", NEW.into(), 1).await.expect_err("there is no room");
        assert!(matches!(refused, MetadataError::Io { .. }), "{refused}");
        assert_eq!(store.put_if_version("one", NEW.into(), 1).await.expect("there is room again"), 2);
        files.crash();
        assert_eq!(value(&open(&files).expect("it opens"), "one").await, Some((NEW.to_vec(), 2)));
    }

    #[tokio::test]
    async fn any_damaged_byte_stops_the_start_and_names_the_file() {
        let files = LossyFiles::new(4);
        let path = Path::new(DIRECTORY).join("one.value");
        open(&files).expect("it opens").put_if_version("one", OLD.into(), 0).await.expect("there is room");
        let length = files.read(&path).expect("the file is there").len();
        for at in 0..length {
            files.damage(&path, |bytes| bytes[at] ^= 0x40).expect("the file is there");
            let refused = open(&files).expect_err("a byte is wrong");
            assert!(
                matches!(&refused, MetadataError::Damaged { path: named, .. } if *named == path),
                "{at}: {refused}"
            );
            files.damage(&path, |bytes| bytes[at] ^= 0x40).expect("the file is there");
        }
        files.damage(&path, |bytes| bytes.truncate(length - 1)).expect("the file is there");
        assert!(matches!(open(&files), Err(MetadataError::Damaged { .. })));
    }
}
