//! What a partition keeps about itself, in the family `meta`: each value is followed by a checksum
//! over key and value, and written in the same batch as the rows that it tells of.

use rocksdb::{DBRawIterator, IteratorMode, ReadOptions, ReadTier, WriteBatch};

use super::database::Database;
use super::{Applied, StoreError, ViewState};
use crate::keys::{SlotRange, ViewStateKey};
use crate::names::{TenantId, ViewId};
use crate::order::Micros;

const FORMAT_KEY: &[u8] = b"format";
const APPLIED_KEY: &[u8] = b"applied";
/// There only while some rows of a frame are written, and not all.
const UNFINISHED_KEY: &[u8] = b"unfinished";

/// Raised when stored bytes change their meaning.
const FORMAT_VERSION: u32 = 1;

impl Database {
    /// Checks that the store is of this format and of these slots; a new one is made so.
    pub fn check_format(&self, range: SlotRange) -> Result<(), StoreError> {
        match self.get(FORMAT_KEY)? {
            None => self.write_format(range),
            Some(value) => {
                let (version, slots) = value.split_first_chunk().ok_or_else(|| short(FORMAT_KEY))?;
                let version = u32::from_le_bytes(*version);
                if version != FORMAT_VERSION {
                    let reason = format!("its format is {version}, and this version reads {FORMAT_VERSION}");
                    return Err(StoreError::Format { directory: self.directory(), reason });
                }
                let [f0, f1, l0, l1] = *slots else { return Err(short(FORMAT_KEY)) };
                let stored = SlotRange { first: u16::from_le_bytes([f0, f1]), last: u16::from_le_bytes([l0, l1]) };
                if stored == range {
                    return Ok(());
                }
                Err(StoreError::OtherSlots { directory: self.directory(), stored, wanted: range })
            }
        }
    }

    pub fn applied(&self) -> Result<Applied, StoreError> {
        decode_applied(self.get(APPLIED_KEY)?.as_deref())
    }

    /// How far the log was applied in what a reopened store would find: read from what is on disk.
    pub fn flushed(&self) -> Result<Applied, StoreError> {
        let mut options = ReadOptions::default();
        options.set_read_tier(ReadTier::Persisted);
        let value = self
            .rocksdb()
            .get_pinned_cf_opt(self.meta(), APPLIED_KEY, &options)
            .map_err(StoreError::of_rocksdb("reading the flushed position"))?;
        let value = value.map(|value| verified(APPLIED_KEY, &value).map(<[u8]>::to_vec)).transpose()?;
        decode_applied(value.as_deref())
    }

    /// The frame of which some rows are written, and not all.
    pub fn unfinished(&self) -> Result<Option<u64>, StoreError> {
        let Some(value) = self.get(UNFINISHED_KEY)? else { return Ok(None) };
        let frame = value.try_into().map_err(|_| short(UNFINISHED_KEY))?;
        Ok(Some(u64::from_le_bytes(frame)))
    }

    pub fn view_states(&self) -> Result<Vec<(ViewId, ViewState)>, StoreError> {
        let mut states = Vec::new();
        let read_all = IteratorMode::From(ViewStateKey::PREFIX, rocksdb::Direction::Forward);
        for entry in self.rocksdb().iterator_cf(self.meta(), read_all) {
            let (key, value) = entry.map_err(StoreError::of_rocksdb("reading the views' states"))?;
            if !key.starts_with(ViewStateKey::PREFIX) {
                break;
            }
            let ViewStateKey { tenant, view } = ViewStateKey::decode(&key).ok_or_else(|| short(&key))?;
            states.push((view, decode_view(tenant, &key, verified(&key, &value)?)?));
        }
        Ok(states)
    }

    pub fn put_applied(&self, batch: &mut WriteBatch, applied: Applied) {
        let mut value = Vec::with_capacity(20);
        value.extend_from_slice(&applied.frame.to_le_bytes());
        value.extend_from_slice(&applied.ingest_time.to_le_bytes());
        self.put(batch, APPLIED_KEY, value);
    }

    pub fn put_unfinished(&self, batch: &mut WriteBatch, frame: u64) {
        self.put(batch, UNFINISHED_KEY, frame.to_le_bytes().to_vec());
    }

    pub fn delete_unfinished(&self, batch: &mut WriteBatch) {
        batch.delete_cf(self.meta(), UNFINISHED_KEY);
    }

    pub fn put_view(&self, batch: &mut WriteBatch, view: ViewId, state: &ViewState) {
        let key = ViewStateKey { tenant: state.tenant, view }.encode();
        let mut value = Vec::with_capacity(29);
        value.push(u8::from(state.newest_event_time.is_some()));
        value.extend_from_slice(&state.newest_event_time.unwrap_or_default().to_le_bytes());
        value.extend_from_slice(&state.tail_rows.to_le_bytes());
        value.extend_from_slice(&state.tail_bytes.to_le_bytes());
        self.put(batch, &key, value);
    }

    fn write_format(&self, range: SlotRange) -> Result<(), StoreError> {
        for family in [self.latest(), self.pending(), self.tail(), self.meta()] {
            let mut rows: DBRawIterator<'_> = self.rocksdb().raw_iterator_cf(family);
            rows.seek_to_first();
            if rows.valid() {
                let reason = "it has rows and no format".to_owned();
                return Err(StoreError::Format { directory: self.directory(), reason });
            }
            rows.status().map_err(StoreError::of_rocksdb("reading a new store"))?;
        }
        let mut value = FORMAT_VERSION.to_le_bytes().to_vec();
        value.extend_from_slice(&range.first.to_le_bytes());
        value.extend_from_slice(&range.last.to_le_bytes());
        let mut batch = WriteBatch::default();
        self.put(&mut batch, FORMAT_KEY, value);
        self.write(batch)?;
        self.flush()
    }

    fn put(&self, batch: &mut WriteBatch, key: &[u8], mut value: Vec<u8>) {
        let crc = checksum(key, &value);
        value.extend_from_slice(&crc.to_le_bytes());
        batch.put_cf(self.meta(), key, value);
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self.rocksdb().get_cf(self.meta(), key).map_err(StoreError::of_rocksdb("reading meta"))?;
        value.map(|value| verified(key, &value).map(<[u8]>::to_vec)).transpose()
    }
}

fn decode_applied(value: Option<&[u8]>) -> Result<Applied, StoreError> {
    let Some(value) = value else { return Ok(Applied::default()) };
    let (frame, ingest_time) = value.split_first_chunk().ok_or_else(|| short(APPLIED_KEY))?;
    let ingest_time = ingest_time.try_into().map_err(|_| short(APPLIED_KEY))?;
    Ok(Applied { frame: u64::from_le_bytes(*frame), ingest_time: Micros::from_le_bytes(ingest_time) })
}

fn decode_view(tenant: TenantId, key: &[u8], value: &[u8]) -> Result<ViewState, StoreError> {
    let (has_newest, rest) = value.split_first().ok_or_else(|| short(key))?;
    let (newest, rest) = rest.split_first_chunk().ok_or_else(|| short(key))?;
    let (tail_rows, rest) = rest.split_first_chunk().ok_or_else(|| short(key))?;
    let tail_bytes = rest.try_into().map_err(|_| short(key))?;
    Ok(ViewState {
        tenant,
        newest_event_time: (*has_newest != 0).then(|| Micros::from_le_bytes(*newest)),
        tail_rows: u64::from_le_bytes(*tail_rows),
        tail_bytes: u64::from_le_bytes(tail_bytes),
    })
}

/// The value without its checksum, which must match.
fn verified<'a>(key: &[u8], stored: &'a [u8]) -> Result<&'a [u8], StoreError> {
    let (value, crc) = stored.split_last_chunk().ok_or_else(|| short(key))?;
    if u32::from_le_bytes(*crc) != checksum(key, value) {
        let reason = format!("checksum mismatch under '{}'", key.escape_ascii());
        return Err(StoreError::damaged("meta", reason));
    }
    Ok(value)
}

fn checksum(key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(value);
    hasher.finalize()
}

fn short(key: &[u8]) -> StoreError {
    StoreError::damaged("meta", format!("a value of another length under '{}'", key.escape_ascii()))
}
