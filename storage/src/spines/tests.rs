//! Spines over a disk whose power is cut, that is full, and whose bytes are changed.

use std::path::Path;

use super::*;
use crate::files::LossyFiles;
use crate::files::lossy::Fault;

const DIRECTORY: &str = "/data/spines";

fn shelf(files: &LossyFiles) -> SpineShelf {
    SpineShelf::open(Arc::new(files.clone()), Path::new(DIRECTORY)).expect("an empty directory opens")
}

fn tenant() -> Name {
    "default".parse().expect("a name")
}

/// The chunks of the `n`-th spine.
fn chunks_of(n: u8) -> Vec<Vec<u8>> {
    (0..3).map(|chunk| vec![n.wrapping_mul(31).wrapping_add(chunk); 700 + usize::from(n) * 13]).collect()
}

fn id_of(n: u8) -> SpineId {
    SpineId::of(&format!("{n:032x}"), b"schema")
}

fn put(shelf: &SpineShelf, n: u8) -> Result<SpineFile, SpineError> {
    let mut new = shelf.begin(&tenant())?;
    for (number, chunk) in chunks_of(n).iter().enumerate() {
        new.append(chunk, number as u32)?;
    }
    new.finish(id_of(n), SpineAbout { rows: 3, spine_hash: format!("{n:032x}"), stored: i64::from(n) })
}

fn read_whole(shelf: &SpineShelf, n: u8) -> Vec<Vec<u8>> {
    let file = shelf.read(&tenant(), id_of(n)).expect("it is there");
    assert_eq!((file.about.rows, file.about.stored), (3, i64::from(n)));
    let read = |chunk| shelf.read_chunk(&tenant(), id_of(n), chunk).expect("a chunk");
    file.chunks.iter().map(read).collect()
}

#[test]
fn a_spine_reads_back_as_it_was_put_and_is_gone_when_it_is_removed() {
    let files = LossyFiles::new(1);
    let shelf = shelf(&files);
    assert_eq!(put(&shelf, 7).expect("put"), shelf.read(&tenant(), id_of(7)).expect("it is there"));
    assert_eq!(read_whole(&shelf, 7), chunks_of(7));
    shelf.note_put(&tenant(), id_of(7), 99).expect("noted");
    let [found] = shelf.recover().expect("listed").try_into().expect("one spine");
    assert_eq!((found.tenant, found.id, found.last_put), (tenant(), id_of(7), 99));
    shelf.remove(&tenant(), id_of(7)).expect("removed");
    assert_eq!(shelf.recover().expect("listed").len(), 0);
    assert_eq!(files.list(&Path::new(DIRECTORY).join("default")).expect("listed"), []);
}

/// A device that fails from its n-th operation on, for every n, and then the power goes.
#[test]
fn after_a_power_cut_anywhere_every_spine_is_whole_or_not_there() {
    for seed in 0..12 {
        for skipped in 0.. {
            let files = LossyFiles::new(seed);
            let before = shelf(&files);
            put(&before, 1).expect("nothing fails yet");
            files.fail_on(skipped, Fault::Device);
            let second = put(&before, 2);
            // The same again, as a client does that did not hear the answer.
            let again = put(&before, 1);
            let noted = before.note_put(&tenant(), id_of(1), 50);
            let struck = second.is_err() || again.is_err() || noted.is_err();
            files.heal();
            let after = shelf(&files.after_power_cut(seed + 100));
            let found = after.recover().expect("it opens");
            let mut ids: Vec<SpineId> = found.iter().map(|spine| spine.id).collect();
            ids.sort();
            assert!(ids.contains(&id_of(1)), "seed {seed}, operation {skipped}: what was acknowledged is there");
            assert!(second.is_err() || ids.contains(&id_of(2)), "seed {seed}, operation {skipped}");
            for spine in &found {
                spine.file.as_ref().expect("nothing is half written");
                let n = if spine.id == id_of(1) { 1 } else { 2 };
                assert_eq!(read_whole(&after, n), chunks_of(n), "seed {seed}, operation {skipped}");
                let put_last = if n == 1 { [1, 50].as_slice() } else { &[2] };
                assert!(put_last.contains(&spine.last_put), "seed {seed}, operation {skipped}");
            }
            assert!(noted.is_err() || found.iter().any(|spine| spine.last_put == 50));
            put(&after, 2).expect("it goes on");
            if !struck {
                break;
            }
        }
    }
}

#[test]
fn a_full_disk_refuses_a_spine_and_leaves_nothing_of_it() {
    for skipped in 0..8 {
        let files = LossyFiles::new(3);
        let shelf = shelf(&files);
        put(&shelf, 1).expect("there is room");
        files.fail_once(skipped, Fault::NoSpace);
        if let Err(refused) = put(&shelf, 2) {
            assert!(refused.is_out_of_space(), "{refused}");
        }
        files.heal();
        let names = files.list(&Path::new(DIRECTORY).join("default")).expect("listed");
        assert!(names.iter().all(|entry| !entry.name.to_string_lossy().ends_with(MAKING_EXTENSION)), "{names:?}");
        put(&shelf, 2).expect("there is room again");
    }
}

#[test]
fn every_damaged_byte_is_found_and_putting_the_spine_again_mends_it() {
    let files = LossyFiles::new(4);
    let shelf = shelf(&files);
    put(&shelf, 1).expect("put");
    let (path, below) = shelf.place(&tenant(), id_of(1));
    assert_eq!(path, Path::new(DIRECTORY).join(below));
    let length = files.read(&path).expect("it is there").len();
    // What is before the first chunk says nothing.
    for at in MAGIC.len()..length {
        files.damage(&path, |bytes| bytes[at] ^= 0x10).expect("it is there");
        let read = shelf.read(&tenant(), id_of(1)).and_then(|file| {
            let chunks = file.chunks.iter();
            chunks.map(|chunk| shelf.read_chunk(&tenant(), id_of(1), chunk)).collect::<Result<Vec<_>, _>>()
        });
        assert!(read.expect_err("a byte is wrong").is_damage(), "byte {at}");
        files.damage(&path, |bytes| bytes[at] ^= 0x10).expect("it is there");
    }
    files.damage(&path, |bytes| bytes.truncate(length / 2)).expect("it is there");
    assert!(shelf.recover().expect("listed")[0].file.is_err());
    put(&shelf, 1).expect("put again");
    assert_eq!(read_whole(&shelf, 1), chunks_of(1));
}

#[test]
fn an_id_is_32_digits_and_nothing_else() {
    let id = id_of(1);
    assert_eq!(id.to_string().parse(), Ok(id));
    for wrong in ["", "../x", &"f".repeat(31), &"F".repeat(32), &"g".repeat(32), &"+1".repeat(16)] {
        assert!(wrong.parse::<SpineId>().is_err(), "{wrong}");
    }
}
