//! How far store time may go, made durable ahead: a file with two slots, written in turn, so that a
//! torn write leaves the other. Beside the bound it keeps what was known to be durable in the log
//! when it was written, so that recovery can tell loss from a torn write.

use std::path::{Path, PathBuf};

use hydrant_storage::files::{self, FileWriter, Files};
use hydrant_storage::order::Micros;

use super::LogError;

/// What a slot says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockRecord {
    /// No instant after it was given out.
    pub bound: Micros,
    /// Frames up to it were synced.
    pub durable_frame: u64,
    /// The first frame of the segment that was written to; 0 before the first segment.
    pub active_segment: u64,
}

/// What was found at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundClock {
    /// There is no file, or no valid slot in it; the text says which.
    Lost(&'static str),
    /// An empty file, put there by the operator.
    GivenUp,
    Record(ClockRecord),
}

/// The file, with one writer.
pub struct ClockFile {
    path: PathBuf,
    writer: Box<dyn FileWriter>,
    generation: u64,
}

/// How a write of the bound failed.
pub enum ClockWriteError {
    /// The bound is as it was; the same may succeed later.
    Write(std::io::Error),
    /// Nothing is known of the file's bytes.
    Sync(std::io::Error),
}

impl ClockFile {
    /// Reads the file in `directory`.
    pub fn read(files: &dyn Files, directory: &Path) -> Result<FoundClock, LogError> {
        Ok(match read_slots(files, &Self::path_in(directory))? {
            Slots::NoFile => FoundClock::Lost("is missing"),
            Slots::Empty => FoundClock::GivenUp,
            Slots::Damaged => FoundClock::Lost("is damaged"),
            Slots::Found(_, record) => FoundClock::Record(record),
        })
    }

    /// Opens the file for writing, with `record` durable in it.
    pub fn open(files: &dyn Files, directory: &Path, record: ClockRecord) -> Result<Self, LogError> {
        let path = Self::path_in(directory);
        let io = |action| {
            let path = path.clone();
            move |source| LogError::Io { action, path, source }
        };
        let generation = match read_slots(files, &path)? {
            Slots::Found(generation, _) => generation + 1,
            Slots::NoFile | Slots::Empty | Slots::Damaged => 0,
        };
        // A new file, because what was read may be in memory only, if a sync failed before.
        files::replace(files, &path, &new_file(generation, &record)).map_err(io("replace"))?;
        let writer = files.open_append(&path).map_err(io("open"))?;
        Ok(Self { path, writer, generation })
    }

    /// The bytes of a file that says `record`, for another directory.
    pub fn bytes_of(record: &ClockRecord) -> Vec<u8> {
        new_file(0, record)
    }

    /// Where the file is.
    pub fn path_in(directory: &Path) -> PathBuf {
        directory.join(NAME)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes `record` durable.
    pub fn write(&mut self, record: ClockRecord) -> Result<(), ClockWriteError> {
        let generation = self.generation + 1;
        let offset = slot_offset(generation);
        self.writer.write_all_at(&encode(generation, &record), offset as u64).map_err(ClockWriteError::Write)?;
        self.writer.sync().map_err(ClockWriteError::Sync)?;
        // Only now: a failed write must be tried again in the same slot, not in the good one.
        self.generation = generation;
        Ok(())
    }
}

impl std::fmt::Debug for ClockFile {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ClockFile").field("path", &self.path).finish_non_exhaustive()
    }
}

pub const NAME: &str = "clock";
const MAGIC: [u8; 8] = *b"HYDCLK\0\x01";
const SLOT_LEN: usize = 8 + 8 + 8 + 8 + 8 + 4;
/// Far enough apart that no sector or page holds both.
const SLOT_DISTANCE: usize = 4096;
const FILE_LEN: usize = SLOT_DISTANCE + SLOT_LEN;

enum Slots {
    NoFile,
    Empty,
    Damaged,
    Found(u64, ClockRecord),
}

fn new_file(generation: u64, record: &ClockRecord) -> Vec<u8> {
    let mut bytes = vec![0; FILE_LEN];
    let offset = slot_offset(generation);
    bytes[offset..offset + SLOT_LEN].copy_from_slice(&encode(generation, record));
    bytes
}

fn slot_offset(generation: u64) -> usize {
    if generation.is_multiple_of(2) { 0 } else { SLOT_DISTANCE }
}

fn read_slots(files: &dyn Files, path: &Path) -> Result<Slots, LogError> {
    let bytes = match files.read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Slots::NoFile),
        Err(source) => return Err(LogError::Io { action: "read", path: path.to_owned(), source }),
    };
    if bytes.is_empty() {
        return Ok(Slots::Empty);
    }
    let slots = [0, SLOT_DISTANCE].into_iter().filter_map(|offset| decode(bytes.get(offset..)?));
    let newest = slots.max_by_key(|(generation, _)| *generation);
    Ok(newest.map_or(Slots::Damaged, |(generation, record)| Slots::Found(generation, record)))
}

fn encode(generation: u64, record: &ClockRecord) -> [u8; SLOT_LEN] {
    let mut slot = [0; SLOT_LEN];
    slot[..8].copy_from_slice(&MAGIC);
    slot[8..16].copy_from_slice(&generation.to_le_bytes());
    slot[16..24].copy_from_slice(&record.bound.to_le_bytes());
    slot[24..32].copy_from_slice(&record.durable_frame.to_le_bytes());
    slot[32..40].copy_from_slice(&record.active_segment.to_le_bytes());
    let crc = crc32fast::hash(&slot[..40]);
    slot[40..].copy_from_slice(&crc.to_le_bytes());
    slot
}

fn decode(bytes: &[u8]) -> Option<(u64, ClockRecord)> {
    let slot = bytes.first_chunk::<SLOT_LEN>()?;
    let number = |at: usize| slot[at..at + 8].try_into().ok().map(u64::from_le_bytes);
    let crc = slot[40..].try_into().ok().map(u32::from_le_bytes)?;
    if slot[..8] != MAGIC || crc != crc32fast::hash(&slot[..40]) {
        return None;
    }
    let bound = number(16)?.cast_signed();
    Some((number(8)?, ClockRecord { bound, durable_frame: number(24)?, active_segment: number(32)? }))
}

#[cfg(test)]
mod tests {
    use hydrant_storage::files::LossyFiles;

    use super::*;

    fn record(bound: Micros) -> ClockRecord {
        ClockRecord { bound, durable_frame: bound.unsigned_abs() * 2, active_segment: 1 }
    }

    fn disk(seed: u64) -> (LossyFiles, PathBuf) {
        let files = LossyFiles::new(seed);
        let directory = PathBuf::from("/log");
        files.create_dir_all(&directory).expect("create directory");
        (files, directory)
    }

    #[test]
    fn a_bound_that_was_written_is_never_lost_to_a_power_cut() {
        for seed in 0..300 {
            let (files, directory) = disk(seed);
            assert_eq!(ClockFile::read(&files, &directory).expect("read"), FoundClock::Lost("is missing"));
            let mut file = ClockFile::open(&files, &directory, record(1)).expect("open");
            for bound in 2..6 {
                file.write(record(bound)).ok().expect("write");
            }
            // The sixth is written, and the power is cut before it is synced.
            files.fail_once(1, hydrant_storage::files::lossy::Fault::Device);
            assert!(matches!(file.write(record(6)), Err(ClockWriteError::Sync(_))));
            files.crash();
            let found = ClockFile::read(&files, &directory).expect("read");
            assert!([5, 6].map(|bound| FoundClock::Record(record(bound))).contains(&found), "seed {seed}: {found:?}");
        }
    }

    #[test]
    fn a_file_without_a_valid_slot_is_told_from_an_empty_one() {
        let (files, directory) = disk(1);
        drop(ClockFile::open(&files, &directory, record(7)).expect("open"));
        let path = directory.join(NAME);
        files.damage(&path, |bytes| bytes.iter_mut().for_each(|byte| *byte ^= 1)).expect("damage");
        assert_eq!(ClockFile::read(&files, &directory).expect("read"), FoundClock::Lost("is damaged"));
        files.damage(&path, Vec::clear).expect("damage");
        assert_eq!(ClockFile::read(&files, &directory).expect("read"), FoundClock::GivenUp);
    }
}
