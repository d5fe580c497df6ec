//! Backups of made-up files, with every operation failing once, and every kind of damage.

mod watched;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::files::LocalFiles;
use watched::WatchedFiles;

/// A directory to back up, a shelf, and room to restore into.
struct Place {
    folder: tempfile::TempDir,
    files: WatchedFiles,
}

/// More than one piece.
const LARGE: usize = PIECE as usize + 1_000;

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().expect("a folder"), files: WatchedFiles::default() };
        let data = place.data();
        fs::create_dir_all(data.join("tables/v1")).expect("made");
        fs::create_dir_all(data.join("store")).expect("made");
        fs::write(data.join("tables/v1/rows"), (0..LARGE).map(|n| n as u8).collect::<Vec<_>>()).expect("written");
        fs::write(data.join("store/1.sst"), "immutable").expect("written");
        fs::write(data.join("log"), "durable, and not yet").expect("written");
        place
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn shelf(&self) -> Shelf {
        Shelf::new(Arc::new(self.files.clone()), self.folder.path().join("backups"))
    }

    fn make(&self, name: &str) -> Result<Manifest, BackupError> {
        self.make_while(name, &mut |_| true)
    }

    /// Of a store, something else puts a link and a copy into the backup.
    fn make_while(&self, name: &str, proceed: &mut Proceed<'_>) -> Result<Manifest, BackupError> {
        let data = self.data();
        let shelf = self.shelf();
        let mut proceed = |counts: &Counts| proceed(counts);
        let mut backup = BackupWriter::begin(&shelf, &name_of(name), &mut proceed)?;
        let store = backup.place_for("store")?;
        fs::create_dir(&store).expect("made");
        fs::copy(data.join("log"), store.join("CURRENT")).expect("copied");
        #[expect(clippy::disallowed_methods, reason = "as RocksDB does it")]
        fs::hard_link(data.join("store/1.sst"), store.join("1.sst")).expect("linked");
        backup.adopt("store", &data.join("store"))?;
        backup.link(&data.join("tables/v1/rows"), "tables/v1/rows")?;
        assert!(!backup.link_if_there(&data.join("none"), "none")?);
        backup.copy(&data.join("log"), 7, "log")?;
        backup.write("clock", b"12:00")?;
        backup.finish(about)
    }

    fn names(&self) -> Vec<String> {
        self.shelf().list().expect("listed").into_iter().map(|shelved| shelved.name.to_string()).collect()
    }

    /// What lies in the shelf's directory, hidden or not.
    fn entries(&self) -> Vec<String> {
        entries(self.shelf().directory())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.shelf().path_of(&name_of(name))
    }

    fn problems(&self, name: &str) -> Vec<(String, String)> {
        let verified = verify(&LocalFiles, &self.path(name), &mut |_| true).expect("the manifest is sound");
        verified.problems.into_iter().map(|problem| (problem.path, problem.problem)).collect()
    }
}

fn name_of(name: &str) -> Name {
    name.parse().expect("a name")
}

fn about(_: &Counts) -> About {
    About {
        format: 0,
        name: name_of("overwritten"),
        hydrant: "0.0.0".to_owned(),
        made: 5,
        frame: 3,
        revision: 2,
        took_micros: 1,
        files: 0,
        linked_bytes: 0,
        copied_bytes: 0,
        read_bytes: 0,
    }
}

fn entries(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.map(|entry| entry.expect("readable").file_name().into_string().expect("UTF-8")).collect()
}

/// All files below a directory, by their paths.
fn content(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            found.extend(content(&path).into_iter().map(|(below, bytes)| (path.join(below), bytes)));
        } else {
            found.insert(path.clone(), fs::read(&path).expect("readable"));
        }
    }
    found
        .into_iter()
        .map(|(path, bytes)| (path.strip_prefix(directory).map_or(path.clone(), Path::to_owned), bytes))
        .collect()
}

#[test]
fn a_backup_holds_what_it_was_given_and_is_restored_byte_by_byte() {
    let place = Place::new();
    let manifest = place.make("monday").expect("made");
    let paths: Vec<&str> = manifest.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["store/1.sst", "store/CURRENT", "tables/v1/rows", "log", "clock"]);
    let About { linked_bytes, copied_bytes, read_bytes, files, ref name, .. } = manifest.about;
    assert_eq!((linked_bytes, copied_bytes), (9 + LARGE as u64, 20 + 7 + 5));
    assert_eq!((read_bytes, files, name.as_str()), (9 + 20 + LARGE as u64, 5, "monday"));
    assert_eq!(place.names(), ["monday"]);
    assert_eq!(place.problems("monday"), []);
    assert!(matches!(place.make("monday"), Err(BackupError::Taken { .. })));

    let target = place.folder.path().join("restored/data");
    let restored = restore(&place.files, &place.path("monday"), &target, &mut |_| true).expect("restored");
    assert_eq!(restored, manifest);
    let mut made = content(&place.path("monday"));
    assert!(made.remove(Path::new(MANIFEST)).is_some(), "a restored directory is no backup");
    assert_eq!(content(&target), made);
    assert_eq!(made[Path::new("log")], b"durable");
    let again = restore(&place.files, &place.path("monday"), &target, &mut |_| true);
    assert!(matches!(again, Err(BackupError::NotEmpty { .. })));

    place.shelf().delete(&name_of("monday")).expect("deleted");
    assert_eq!(place.entries(), [] as [&str; 0]);
    assert!(matches!(place.shelf().delete(&name_of("monday")), Err(BackupError::Unknown { .. })));
    assert_eq!(fs::read(place.data().join("store/1.sst")).expect("there"), b"immutable", "the original stays");
}

#[test]
fn a_backup_has_its_name_when_everything_in_it_is_durable_and_not_before() {
    let place = Place::new();
    place.make("monday").expect("made");
    let renamed = place.files.renamed();
    assert_eq!(renamed, [(place.path("monday"), Vec::new())], "what a power cut could have taken");
    assert_eq!(place.files.unsynced(), [] as [PathBuf; 0]);

    let target = place.folder.path().join("restored");
    restore(&place.files, &place.path("monday"), &target, &mut |_| true).expect("restored");
    assert_eq!(place.files.unsynced(), [] as [PathBuf; 0]);
}

#[test]
fn whatever_fails_leaves_nothing_of_a_backup() {
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
        let place = Place::new();
        place.make("before").expect("made");
        let mut failed = 0;
        for skipped in 0.. {
            place.files.fail_after(skipped, kind);
            let made = place.make("monday");
            if place.files.heal() {
                made.expect("nothing failed");
                break;
            }
            // What an earlier backup could have spared is read anew where that can't be told.
            if made.is_ok() {
                place.shelf().delete(&name_of("monday")).expect("deleted");
                continue;
            }
            let error = made.expect_err("something failed");
            assert_eq!(error.is_out_of_space(), kind == io::ErrorKind::StorageFull, "{error}");
            assert_eq!(place.entries(), ["before"], "after {skipped} operations: {error}");
            failed += 1;
        }
        assert!(failed > 20, "only {failed} operations");
        assert_eq!(place.names().len(), 2);
    }
}

#[test]
fn whoever_stops_a_backup_or_a_restore_finds_nothing_of_it() {
    let place = Place::new();
    let mut calls = 0;
    place
        .make_while("whole", &mut |_| {
            calls += 1;
            true
        })
        .expect("made");
    let target = place.folder.path().join("restored");
    for stop in 0..calls {
        let mut left = stop;
        let stopped = place.make_while("monday", &mut |_| {
            left -= 1;
            left >= 0
        });
        if let Err(error) = stopped {
            assert!(matches!(error, BackupError::Stopped), "{error}");
            assert_eq!(place.entries(), ["whole"]);
        } else {
            place.shelf().delete(&name_of("monday")).expect("fewer pieces, since an earlier backup has the sums");
        }
        let mut left = stop;
        let stopped = restore(&place.files, &place.path("whole"), &target, &mut |_| {
            left -= 1;
            left >= 0
        });
        match stopped {
            Err(error) => assert!(matches!(error, BackupError::Stopped) && !target.exists(), "{error}"),
            Ok(_) => fs::remove_dir_all(&target).expect("removed"),
        }
    }
}

#[test]
fn what_a_crash_left_is_never_listed_and_removed_at_the_next_start() {
    let place = Place::new();
    place.make("monday").expect("made");
    let shelf = place.shelf();
    for left in [".tuesday.making", ".sunday.deleting", ".of_somebody_else", "no_backup"] {
        let left = shelf.directory().join(left);
        fs::create_dir_all(left.join("log")).expect("made");
        fs::write(left.join("log/1"), "x").expect("written");
    }
    assert_eq!(place.names(), ["monday"]);
    assert_eq!(shelf.remove_leftovers().expect("removed"), 2);
    let mut left = place.entries();
    left.sort();
    assert_eq!(left, [".of_somebody_else", "monday", "no_backup"]);
    assert!(matches!(place.make("no_backup"), Err(BackupError::InTheWay { .. })), "it is not ours to replace");
    assert!(matches!(shelf.delete(&name_of("no_backup")), Err(BackupError::Unknown { .. })));
}

#[test]
fn every_damaged_byte_is_found_and_the_file_named() {
    let place = Place::new();
    let manifest = place.make("monday").expect("made");
    let root = place.path("monday");
    for file in &manifest.files {
        let path = root.join(&file.path);
        let sound = fs::read(&path).expect("readable");
        // Not in place: some are links, and the original is not to be harmed.
        fs::remove_file(&path).expect("removed");
        for at in (0..sound.len()).step_by((sound.len() / 7).max(1)).chain([sound.len() - 1]) {
            let mut damaged = sound.clone();
            damaged[at] ^= 0x10;
            fs::write(&path, damaged).expect("written");
            let expected = [(file.path.clone(), "it does not match its checksum".to_owned())];
            assert_eq!(place.problems("monday"), expected, "byte {at}");
        }
        fs::write(&path, &sound[..sound.len() - 1]).expect("written");
        assert!(place.problems("monday")[0].1.contains("bytes, and not"));
        fs::remove_file(&path).expect("removed");
        assert_eq!(place.problems("monday"), [(file.path.clone(), "it is missing".to_owned())]);
        fs::write(&path, sound).expect("written");
    }
    fs::write(root.join("store/more"), "x").expect("written");
    assert_eq!(place.problems("monday"), [("store/more".to_owned(), "it is no part of the backup".to_owned())]);

    let manifest = root.join(MANIFEST);
    let sound = fs::read(&manifest).expect("readable");
    for at in 0..sound.len() {
        let mut damaged = sound.clone();
        damaged[at] ^= 1;
        fs::write(&manifest, damaged).expect("written");
        let error = verify(&LocalFiles, &root, &mut |_| true).expect_err("nothing can be said");
        assert!(matches!(&error, BackupError::Damaged { path, .. } if *path == manifest), "byte {at}: {error}");
    }
    fs::remove_file(&manifest).expect("removed");
    assert!(matches!(verify(&LocalFiles, &root, &mut |_| true), Err(BackupError::NoBackup { .. })));
}

#[test]
fn a_damaged_backup_is_not_restored_and_neither_where_anything_fails() {
    let place = Place::new();
    place.make("monday").expect("made");
    let (root, target) = (place.path("monday"), place.folder.path().join("restored"));
    fs::create_dir(&target).expect("made");
    let mut failed = 0;
    for skipped in 0.. {
        place.files.fail_after(skipped, io::ErrorKind::StorageFull);
        let restored = restore(&place.files, &root, &target, &mut |_| true);
        if place.files.heal() {
            restored.expect("nothing failed");
            break;
        }
        assert!(restored.is_err(), "after {skipped} operations");
        assert_eq!(entries(&target), [] as [&str; 0], "the directory stays, and is empty");
        failed += 1;
    }
    assert!(failed > 20, "only {failed} operations");
    assert!(!target.join(RESTORING).exists());

    let within = restore(&LocalFiles, &root, &root.join("below/it"), &mut |_| true);
    assert!(matches!(within, Err(BackupError::InBackup { .. })), "it would not be whole any more");
    assert_eq!(place.problems("monday"), []);

    let target = place.folder.path().join("elsewhere");
    fs::write(root.join("log"), "Durable").expect("written");
    let error = restore(&LocalFiles, &root, &target, &mut |_| true).expect_err("damaged");
    assert!(matches!(&error, BackupError::Damaged { path, .. } if path.ends_with("log")), "{error}");
    assert!(!target.exists());
}

#[test]
fn a_file_that_an_earlier_backup_has_too_is_not_read_again_and_a_new_one_of_its_name_is() {
    let place = Place::new();
    let first = place.make("first").expect("made");
    let second = place.make("second").expect("made");
    assert_eq!(second.files, first.files);
    assert_eq!(second.about.read_bytes, 20, "the copy alone");
    let rows = place.data().join("tables/v1/rows");
    fs::remove_file(&rows).expect("removed");
    fs::write(&rows, vec![9; LARGE]).expect("written");
    let third = place.make("third").expect("made");
    assert_eq!(third.about.read_bytes, 20 + LARGE as u64);
    assert_eq!(place.problems("third"), []);
}

#[test]
fn a_manifest_leads_nowhere_else_and_one_of_another_version_is_told_so() {
    let place = Place::new();
    let manifest = place.make("monday").expect("made");
    let root = place.path("monday");
    let replace =
        |manifest: &Manifest| fs::write(root.join(MANIFEST), manifest.encode().expect("text")).expect("written");
    for path in ["../log", "/etc/passwd", "", "store/../../x"] {
        let mut bad = manifest.clone();
        bad.files[0].path = path.to_owned();
        replace(&bad);
        let target = place.folder.path().join("restored");
        let error = restore(&LocalFiles, &root, &target, &mut |_| true).expect_err("it leads away");
        assert!(matches!(error, BackupError::Damaged { .. }), "{error}");
    }
    let mut newer = manifest;
    newer.about.format = 2;
    replace(&newer);
    assert!(matches!(Manifest::read(&LocalFiles, &root), Err(BackupError::Format { found: 2, known: 1, .. })));
    assert!(place.shelf().list().expect("listed")[0].manifest.is_err(), "it is there, to be deleted");
}
