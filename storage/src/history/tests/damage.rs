//! A flipped bit anywhere in a data file is an error, and never a wrong value.

use proptest::prelude::*;

use super::*;
use crate::files::LossyFiles;

fn read_all(snapshot: &TableSnapshot) -> Result<Vec<RowAt>, HistoryError> {
    let all: Vec<usize> = (0..snapshot.spec().features.len()).collect();
    let mut merged = MergedRuns::new(open_runs(snapshot, &all, None, None)?, None)?;
    let mut rows = Vec::new();
    while let Some(row) = merged.peek() {
        rows.push(row.clone());
        merged.advance()?;
    }
    Ok(rows)
}

fn landed() -> (LossyFiles, HistoryTable, Vec<Row>) {
    let spec = spec();
    let draw = |ordinal: u32| {
        let row = row((ordinal % 7) as u16, i64::from(ordinal), 3, 1, ordinal);
        with_values(row, &spec, spec.features.len(), u64::from(ordinal) * 3)
    };
    let rows = sorted((0..3_000).map(draw).collect());
    let files = LossyFiles::new(5);
    let table = block_on(async {
        let table = open(&files, &spec).await;
        table.land(ModelRun::new(&spec, &rows, 500), 1, 0).await.expect("land");
        table
    });
    (files, table, rows)
}

#[test]
fn a_flipped_bit_in_any_part_of_a_file_is_an_error_that_names_the_file() {
    let (files, table, rows) = landed();
    let snapshot = table.snapshot();
    let path = Path::new(ROOT).join(snapshot.spec().directory()).join(&snapshot.files[0].name);
    let length = files.read(&path).expect("read").len();
    assert!(length > 3 * 65_536, "{length} bytes: more than a block, so that a read is of several");
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { cases: 120, ..ProptestConfig::default() });
    let flips = (prop_oneof![0..length, length - 2_000..length, 0usize..64], 0u8..8);
    runner
        .run(&flips, |(at, bit)| {
            let flip = |bytes: &mut Vec<u8>| bytes[at] ^= 1 << bit;
            files.damage(&path, flip).expect("damage");
            let read = read_all(&snapshot);
            files.damage(&path, flip).expect("repair");
            match read {
                Err(HistoryError::DamagedPage { file, .. }) => prop_assert_eq!(&file, &path),
                Err(other) => prop_assert!(false, "byte {}: {}", at, other),
                Ok(_) => prop_assert!(false, "byte {at} of {length} was not missed"),
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}\n{runner}"));
    assert_eq!(read_all(&snapshot).expect("read").len(), rows.len());
}

#[test]
fn a_file_that_is_cut_off_or_grown_or_gone_is_an_error() {
    let (files, table, _) = landed();
    let snapshot = table.snapshot();
    let path = Path::new(ROOT).join(snapshot.spec().directory()).join(&snapshot.files[0].name);
    let whole = files.read(&path).expect("read");
    for length in [0, 1, 70_000, whole.len() - 1, whole.len() + 1] {
        files.damage(&path, |bytes| bytes.resize(length, 0)).expect("damage");
        let read = read_all(&snapshot).expect_err("a file of another length");
        assert!(read.is_damage(), "{length}: {read}");
        files.damage(&path, |bytes| *bytes = whole.clone()).expect("repair");
    }
    files.remove(&path).expect("remove");
    let read = read_all(&snapshot).expect_err("no file");
    assert!(matches!(&read, HistoryError::Io { path: named, .. } if *named == path), "{read}");
}

#[test]
fn a_file_of_another_writer_is_refused_by_name() {
    let (files, table, _) = landed();
    let spec = table.snapshot().spec().as_ref().clone();
    let log = Path::new(ROOT).join(spec.directory()).join("_delta_log");
    let foreign =
        br#"{"add":{"path":"foreign.parquet","partitionValues":{},"size":9,"modificationTime":0,"dataChange":true}}"#;
    let mut commit = files.create_new(&log.join("00000000000000000002.json")).expect("create");
    std::io::Write::write_all(&mut commit, foreign).expect("write");
    commit.sync().expect("sync");
    let refused = block_on(try_open(&files, &spec)).expect_err("a foreign file");
    assert!(matches!(&refused, HistoryError::ForeignFile { file } if file.ends_with("foreign.parquet")), "{refused}");
}
