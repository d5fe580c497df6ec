//! A disk in memory for tests: the power may be cut at any moment, and any operation can be made to
//! fail. What was not synced survives a cut in part, by a seeded choice that is at least as unkind
//! as real file systems: writes torn, sectors out of order, directory changes lost one by one.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::{DirEntry, FileMetadata, FileWriter, Files};

/// The disk; clones are the same disk.
#[derive(Clone)]
pub struct LossyFiles {
    disk: Arc<Mutex<Disk>>,
}

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No room left: strikes only what may need room, so neither reads nor removals.
    NoSpace,
    /// A failing device: strikes whatever comes.
    Device,
}

/// While it lives, the disk does nothing.
pub struct DiskHeld<'a> {
    _disk: MutexGuard<'a, Disk>,
}

impl LossyFiles {
    pub fn new(seed: u64) -> Self {
        Self { disk: Arc::new(Mutex::new(Disk::new(seed))) }
    }

    /// Cuts the power and turns it on again: files opened before fail from now on.
    pub fn crash(&self) {
        let mut disk = self.lock();
        let epoch = disk.epoch + 1;
        let survivor = disk.survivor();
        *disk = survivor;
        disk.epoch = epoch;
    }

    /// The disk as it would be found if the power were cut now; this one works on.
    pub fn after_power_cut(&self, seed: u64) -> Self {
        let mut disk = self.lock().clone();
        disk.random = Random(seed);
        Self { disk: Arc::new(Mutex::new(disk.survivor())) }
    }

    /// How many operations were asked for so far.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Lets one operation fail: the first that the fault can strike after `skipped` more.
    pub fn fail_once(&self, skipped: u64, fault: Fault) {
        let mut disk = self.lock();
        disk.planned = Some(PlannedFault { at: disk.operations + skipped, fault, once: true });
    }

    /// Lets all operations that the fault can strike fail after `skipped` more, until
    /// [`LossyFiles::heal`].
    pub fn fail_on(&self, skipped: u64, fault: Fault) {
        let mut disk = self.lock();
        disk.planned = Some(PlannedFault { at: disk.operations + skipped, fault, once: false });
    }

    /// Nothing fails from now on; tells whether a fault is still to come or goes on.
    pub fn heal(&self) -> bool {
        self.lock().planned.take().is_some()
    }

    /// Lets every operation wait until what is returned is dropped.
    pub fn hold(&self) -> DiskHeld<'_> {
        DiskHeld { _disk: self.lock() }
    }

    /// Changes a file's bytes behind everybody's back, durably.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut disk = self.lock();
        let inode = disk.file(path)?;
        change(&mut inode.content);
        inode.durable = inode.content.clone();
        inode.unsynced.clear();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, inode: u64, epoch: u64) -> Box<dyn FileWriter> {
        Box::new(LossyWriter { files: self.clone(), inode, epoch })
    }
}

impl fmt::Debug for LossyFiles {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let disk = self.lock();
        formatter.debug_struct("LossyFiles").field("operations", &disk.operations).finish_non_exhaustive()
    }
}

impl Files for LossyFiles {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn FileWriter>> {
        let mut disk = self.lock();
        disk.operation(Needs::Room)?;
        disk.check_free(path)?;
        let inode = disk.inodes.len() as u64;
        disk.inodes.insert(inode, Inode::default());
        disk.rename_entries(vec![(path.to_owned(), Some(Entry::File(inode)))]);
        disk.touch(inode);
        Ok(self.open(inode, disk.epoch))
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn FileWriter>> {
        let mut disk = self.lock();
        disk.operation(Needs::Nothing)?;
        let inode = disk.file_number(path)?;
        Ok(self.open(inode, disk.epoch))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut disk = self.lock();
        disk.operation(Needs::Nothing)?;
        disk.file(path).map(|inode| inode.content.clone())
    }

    fn read_range(&self, path: &Path, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut disk = self.lock();
        disk.operation(Needs::Nothing)?;
        let content = &disk.file(path)?.content;
        let range = usize::try_from(offset).ok().and_then(|from| Some(from..from.checked_add(length)?));
        let bytes = range.and_then(|range| content.get(range));
        bytes.map(<[u8]>::to_vec).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn metadata(&self, path: &Path) -> io::Result<FileMetadata> {
        let mut disk = self.lock();
        disk.operation(Needs::Nothing)?;
        let entry = *disk.entry(path)?;
        Ok(disk.metadata(entry))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.lock();
        disk.operation(Needs::Room)?;
        let inode = disk.file_number(from)?;
        disk.check_parent(to)?;
        if from != to {
            disk.rename_entries(vec![(from.to_owned(), None), (to.to_owned(), Some(Entry::File(inode)))]);
        }
        Ok(())
    }

    fn rename_no_replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.hard_link(from, to)?;
        self.remove(from)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.lock();
        disk.operation(Needs::Room)?;
        let inode = disk.file_number(from)?;
        disk.check_free(to)?;
        disk.rename_entries(vec![(to.to_owned(), Some(Entry::File(inode)))]);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.lock();
        disk.operation(Needs::Nothing)?;
        disk.file_number(path)?;
        disk.rename_entries(vec![(path.to_owned(), None)]);
        Ok(())
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<DirEntry>> {
        let mut disk = self.lock();
        disk.operation(Needs::Nothing)?;
        disk.check_directory(directory)?;
        let inside = disk.live.iter().filter(|(path, _)| path.parent() == Some(directory));
        let named = inside.filter_map(|(path, entry)| Some((path.file_name()?.to_owned(), *entry)));
        Ok(named.map(|(name, entry)| DirEntry { name, metadata: disk.metadata(entry) }).collect())
    }

    fn is_same_file(&self, one: &Path, other: &Path) -> io::Result<bool> {
        let mut disk = self.lock();
        disk.operation(Needs::Nothing)?;
        Ok(disk.file_number(one)? == disk.file_number(other)?)
    }

    fn create_dir_all(&self, directory: &Path) -> io::Result<()> {
        let mut disk = self.lock();
        disk.operation(Needs::Room)?;
        for path in directory.ancestors().filter(|path| !path.as_os_str().is_empty()) {
            if let Some(Entry::File(_)) = disk.live.get(path) {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            disk.live.insert(path.to_owned(), Entry::Directory);
            disk.durable.insert(path.to_owned(), Entry::Directory);
        }
        Ok(())
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        let mut disk = self.lock();
        let failed = disk.operation(Needs::Room);
        disk.check_directory(directory)?;
        disk.sync_names(directory, failed.is_err());
        failed
    }
}

struct LossyWriter {
    files: LossyFiles,
    inode: u64,
    epoch: u64,
}

impl LossyWriter {
    fn disk(&self) -> io::Result<MutexGuard<'_, Disk>> {
        let disk = self.files.lock();
        if disk.epoch != self.epoch {
            return Err(io::Error::other("the power was cut since the file was opened"));
        }
        Ok(disk)
    }
}

impl Write for LossyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut disk = self.disk()?;
        let failed = disk.operation(Needs::Room).err();
        let len = bytes.len();
        // A write that fails may have written a part, and one that succeeds may be short.
        let short = failed.is_some() || disk.random.one_in(8);
        let taken = if short { disk.random.up_to(len) } else { len };
        let offset = disk.inodes[&self.inode].content.len();
        disk.change(self.inode, Change::Write { offset, bytes: bytes[..taken].to_vec() });
        match failed {
            Some(error) => Err(error),
            None if taken == 0 => Err(io::ErrorKind::Interrupted.into()),
            None => Ok(taken),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl FileWriter for LossyWriter {
    fn sync(&mut self) -> io::Result<()> {
        let mut disk = self.disk()?;
        let failed = disk.operation(Needs::Room);
        disk.sync_content(self.inode, failed.is_err());
        failed
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        let mut disk = self.disk()?;
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let grows = disk.inodes[&self.inode].content.len() < len;
        disk.operation(if grows { Needs::Room } else { Needs::Nothing })?;
        disk.change(self.inode, Change::SetLen(len));
        Ok(())
    }

    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut disk = self.disk()?;
        let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let failed = disk.operation(Needs::Room);
        let taken = if failed.is_err() { disk.random.up_to(bytes.len()) } else { bytes.len() };
        disk.change(self.inode, Change::Write { offset, bytes: bytes[..taken].to_vec() });
        failed
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Room,
    Nothing,
}

#[derive(Clone, Copy, Debug)]
struct PlannedFault {
    at: u64,
    fault: Fault,
    once: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Directory,
    File(u64),
}

/// Names that change together: set to an entry, or removed.
type NameChange = Vec<(PathBuf, Option<Entry>)>;

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => {
                let end = offset + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*offset..end].copy_from_slice(bytes);
            }
            Self::SetLen(len) => content.resize(*len, 0),
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Inode {
    content: Vec<u8>,
    /// What a crash leaves for certain; `unsynced` leads from it to what it may leave.
    durable: Vec<u8>,
    unsynced: Vec<Change>,
    /// Ticks of the disk's own clock.
    modified: u64,
}

#[derive(Clone, Debug)]
struct Disk {
    random: Random,
    epoch: u64,
    operations: u64,
    planned: Option<PlannedFault>,
    /// Never removed from: a name may come back to life after a crash.
    inodes: BTreeMap<u64, Inode>,
    live: BTreeMap<PathBuf, Entry>,
    durable: BTreeMap<PathBuf, Entry>,
    unsynced: Vec<NameChange>,
}

impl Disk {
    fn new(seed: u64) -> Self {
        Self {
            random: Random(seed),
            epoch: 0,
            operations: 0,
            planned: None,
            inodes: BTreeMap::new(),
            live: BTreeMap::new(),
            durable: BTreeMap::new(),
            unsynced: Vec::new(),
        }
    }

    /// Counts an operation and lets it fail if that is planned.
    fn operation(&mut self, needs: Needs) -> io::Result<()> {
        let number = self.operations;
        self.operations += 1;
        let Some(planned) = self.planned.filter(|planned| planned.at <= number) else { return Ok(()) };
        if planned.fault == Fault::NoSpace && needs == Needs::Nothing {
            return Ok(());
        }
        if planned.once {
            self.planned = None;
        }
        Err(match planned.fault {
            Fault::NoSpace => io::ErrorKind::StorageFull.into(),
            Fault::Device => io::Error::other("the device failed, as planned by the test"),
        })
    }

    fn entry(&self, path: &Path) -> io::Result<&Entry> {
        self.live.get(path).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn file_number(&self, path: &Path) -> io::Result<u64> {
        match self.entry(path)? {
            Entry::File(inode) => Ok(*inode),
            Entry::Directory => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    fn file(&mut self, path: &Path) -> io::Result<&mut Inode> {
        let number = self.file_number(path)?;
        Ok(self.inodes.get_mut(&number).expect("an entry has its inode"))
    }

    fn check_directory(&self, path: &Path) -> io::Result<()> {
        match self.entry(path)? {
            Entry::Directory => Ok(()),
            Entry::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn check_parent(&self, path: &Path) -> io::Result<()> {
        self.check_directory(super::parent(path)?)
    }

    fn check_free(&self, path: &Path) -> io::Result<()> {
        self.check_parent(path)?;
        if self.live.contains_key(path) { Err(io::ErrorKind::AlreadyExists.into()) } else { Ok(()) }
    }

    fn metadata(&self, entry: Entry) -> FileMetadata {
        let at = |ticks| SystemTime::UNIX_EPOCH + Duration::from_millis(ticks);
        match entry {
            Entry::Directory => FileMetadata { len: 0, is_dir: true, modified: at(0) },
            Entry::File(inode) => {
                let inode = &self.inodes[&inode];
                FileMetadata { len: inode.content.len() as u64, is_dir: false, modified: at(inode.modified) }
            }
        }
    }

    fn touch(&mut self, inode: u64) {
        let now = self.operations;
        self.inodes.get_mut(&inode).expect("an open file has its inode").modified = now;
    }

    fn change(&mut self, inode: u64, change: Change) {
        let file = self.inodes.get_mut(&inode).expect("an open file has its inode");
        change.apply(&mut file.content);
        file.unsynced.push(change);
        self.touch(inode);
    }

    fn rename_entries(&mut self, change: NameChange) {
        apply_names(&mut self.live, &change);
        self.unsynced.push(change);
    }

    /// A failed sync leaves a part durable and forgets the rest: a later sync won't write it.
    fn sync_content(&mut self, inode: u64, failed: bool) {
        let file = self.inodes.get_mut(&inode).expect("an open file has its inode");
        if failed {
            file.durable = partly_durable(file, &mut self.random);
        } else {
            for change in &file.unsynced {
                change.apply(&mut file.durable);
            }
        }
        file.unsynced.clear();
    }

    fn sync_names(&mut self, directory: &Path, failed: bool) {
        let touches = |change: &NameChange| change.iter().any(|(path, _)| path.parent() == Some(directory));
        for change in std::mem::take(&mut self.unsynced) {
            // Unlike bytes, changes of names stay in the journal's line after a failure.
            if touches(&change) && (!failed || self.random.one_in(2)) {
                apply_names(&mut self.durable, &change);
            } else {
                self.unsynced.push(change);
            }
        }
    }

    /// What the disk holds after the power was cut.
    fn survivor(&mut self) -> Self {
        let mut next = Self::new(self.random.next());
        next.operations = self.operations;
        next.durable = self.durable.clone();
        // File systems with a journal keep a prefix of the changes of names; others may keep any.
        let in_order = self.random.one_in(2);
        let prefix = self.random.up_to(self.unsynced.len());
        for (at, change) in self.unsynced.iter().enumerate() {
            let kept = if in_order { at < prefix } else { self.random.one_in(2) };
            if kept {
                apply_names(&mut next.durable, change);
            }
        }
        next.live = next.durable.clone();
        for (number, inode) in &self.inodes {
            let content = partly_durable(inode, &mut self.random);
            let survived = Inode { durable: content.clone(), content, unsynced: Vec::new(), modified: inode.modified };
            next.inodes.insert(*number, survived);
        }
        next
    }
}

fn apply_names(names: &mut BTreeMap<PathBuf, Entry>, change: &NameChange) {
    for (path, entry) in change {
        match entry {
            Some(entry) => names.insert(path.clone(), *entry),
            None => names.remove(path),
        };
    }
}

/// The content of a file of which some changes were never synced.
fn partly_durable(inode: &Inode, random: &mut Random) -> Vec<u8> {
    const SECTOR: usize = 512;
    let mut content = inode.durable.clone();
    match random.up_to(3) {
        // Nothing of it.
        0 => {}
        // All of it.
        1 => inode.unsynced.iter().for_each(|change| change.apply(&mut content)),
        // A prefix, its last write torn.
        2 => {
            let kept = random.up_to(inode.unsynced.len());
            inode.unsynced[..kept].iter().for_each(|change| change.apply(&mut content));
            if let Some(Change::Write { offset, bytes }) = inode.unsynced.get(kept) {
                let torn = bytes[..random.up_to(bytes.len())].to_vec();
                Change::Write { offset: *offset, bytes: torn }.apply(&mut content);
            }
        }
        // The lengths, and some of the sectors; the others are as they were, or zeros.
        _ => {
            for change in &inode.unsynced {
                let Change::Write { offset, bytes } = change else {
                    change.apply(&mut content);
                    continue;
                };
                let end = offset + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                let mut from = *offset;
                while from < end {
                    let to = ((from / SECTOR + 1) * SECTOR).min(end);
                    if random.one_in(2) {
                        content[from..to].copy_from_slice(&bytes[from - offset..to - offset]);
                    }
                    from = to;
                }
            }
        }
    }
    content
}

/// SplitMix64: small, and the same everywhere for a seed.
#[derive(Clone, Copy, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to `most`, both included.
    fn up_to(&mut self, most: usize) -> usize {
        (self.next() % (most as u64 + 1)) as usize
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk_with(bytes: &[u8], seed: u64) -> (LossyFiles, PathBuf, Box<dyn FileWriter>) {
        let files = LossyFiles::new(seed);
        files.create_dir_all(Path::new("/d")).expect("create directory");
        let path = PathBuf::from("/d/file");
        let mut file = files.create_new(&path).expect("create");
        file.write_all(bytes).expect("write");
        (files, path, file)
    }

    #[test]
    fn what_was_synced_survives_every_power_cut() {
        for seed in 0..200 {
            let (files, path, mut file) = disk_with(b"synced", seed);
            file.sync().expect("sync");
            files.sync_dir(Path::new("/d")).expect("sync the name");
            file.write_all(b" and more").expect("write");
            files.crash();
            let found = files.read(&path).expect("the file is there");
            assert!(found.starts_with(b"synced"), "seed {seed}: {found:?}");
            assert!(file.write_all(b"x").is_err(), "a file opened before the cut is gone");
        }
    }

    #[test]
    fn what_was_not_synced_survives_some_power_cuts_whole_some_torn_and_some_not_at_all() {
        let (mut lost, mut torn, mut whole, mut nameless) = (0, 0, 0, 0);
        for seed in 0..200 {
            let (files, path, _file) = disk_with(b"never synced", seed);
            match files.after_power_cut(seed).read(&path).ok().as_deref() {
                None => nameless += 1,
                Some(b"") => lost += 1,
                Some(b"never synced") => whole += 1,
                Some(_) => torn += 1,
            }
            assert_eq!(files.read(&path).expect("the disk itself works on"), b"never synced");
        }
        assert!(lost > 0 && torn > 0 && whole > 0 && nameless > 0, "{lost} {torn} {whole} {nameless}");
    }

    #[test]
    fn a_replaced_file_is_found_old_or_new_after_any_power_cut() {
        for skipped in 0..12 {
            for seed in 0..50 {
                let files = LossyFiles::new(seed);
                files.create_dir_all(Path::new("/d")).expect("create directory");
                let path = Path::new("/d/file");
                super::super::replace(&files, path, b"old").expect("replace");
                files.fail_on(skipped, Fault::Device);
                let replaced = super::super::replace(&files, path, b"new");
                files.heal();
                files.crash();
                let found = files.read(path).expect("never lost");
                let expected: &[&[u8]] = if replaced.is_ok() { &[b"new"] } else { &[b"old", b"new"] };
                assert!(expected.contains(&&found[..]), "seed {seed}, skipped {skipped}: {found:?}");
            }
        }
    }

    #[test]
    fn a_sync_after_a_failed_one_does_not_bring_back_what_was_lost() {
        let survived = (0..100).filter(|seed| {
            let (files, path, mut file) = disk_with(b"lost perhaps", *seed);
            files.sync_dir(Path::new("/d")).expect("sync the name");
            files.fail_once(0, Fault::Device);
            file.sync().expect_err("planned");
            file.sync().expect("the second one lies");
            files.crash();
            files.read(&path).expect("read") == b"lost perhaps"
        });
        assert!(survived.count() < 100);
    }

    #[test]
    fn a_full_disk_refuses_what_needs_room_and_nothing_else() {
        let (files, path, mut file) = disk_with(b"0123", 1);
        files.fail_on(0, Fault::NoSpace);
        assert_eq!(file.write_all(b"4").expect_err("full").kind(), io::ErrorKind::StorageFull);
        file.set_len(2).expect("cutting off needs no room");
        assert_eq!(files.read(&path).expect("reading needs no room"), b"01");
        files.remove(&path).expect("removing needs no room");
        assert!(files.heal());
    }
}
