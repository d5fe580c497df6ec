//! Leaving out what no one asks for, in a file of several row groups and many pages.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::files::LossyFiles;

const ROWS: u32 = 150_000;

fn many_rows(spec: &HistoryViewSpec) -> Vec<Row> {
    let rows = (0..ROWS).map(|ordinal| {
        let mut row = row((ordinal % 5) as u16, i64::from(ordinal), 0, 1, ordinal);
        row.slot = (ordinal / 5 * 2) as u16 % 60_000;
        with_values(row, spec, 1, u64::from(ordinal))
    });
    sorted(rows.collect())
}

#[test]
fn a_run_leaves_out_pages_and_row_groups_and_no_row_that_was_asked_for() {
    let spec = small_spec();
    let rows = many_rows(&spec);
    let files = LossyFiles::new(1);
    let table = block_on(async {
        let table = open(&files, &spec).await;
        table.land(ModelRun::new(&spec, &rows, 5_000), 1, 0).await.expect("land");
        table
    });
    let snapshot = table.snapshot();
    let run = |slots: Option<&SlotSet>| snapshot.open_run(&snapshot.files[0], &[0], slots).expect("open");
    assert_eq!(run(None).remaining_rows(), ROWS as usize);
    assert_eq!(run(Some(&SlotSet::new())).remaining_rows(), 0);
    // Slots beside those of the rows: one page may hold the first two, no page the last.
    let beside = run(Some(&[1, 3, 59_999].into_iter().collect())).remaining_rows();
    assert!((1..=10_000).contains(&beside), "{beside} rows of pages about the slots 1 and 3");

    for wanted in [vec![0], vec![59_998], vec![20_000, 20_002, 52_000], (0..60_000).step_by(9_000).collect()] {
        let slots: SlotSet = wanted.into_iter().collect();
        assert!(run(Some(&slots)).remaining_rows() < ROWS as usize * 3 / 4, "{slots:?}");
        let mut merged = MergedRuns::new(vec![Box::new(run(Some(&slots)))], None).expect("merge");
        for row in rows.iter().filter(|row| slots.contains(row.slot)) {
            while merged.peek().is_some_and(|read| !slots.contains(read.slot())) {
                merged.advance().expect("advance");
            }
            assert_same(merged.peek().expect("a wanted row"), row, &spec, &[0]);
            merged.advance().expect("advance");
        }
    }
}

#[test]
fn seeking_reads_a_part_of_the_file_and_finds_what_walking_finds() {
    let spec = small_spec();
    let rows = many_rows(&spec);
    let files = LossyFiles::new(1);
    let table = block_on(async {
        let table = open(&files, &spec).await;
        table.land(ModelRun::new(&spec, &rows, 5_000), 1, 0).await.expect("land");
        table
    });
    let snapshot = table.snapshot();
    let mut run = snapshot.open_run(&snapshot.files[0], &[0], None).expect("open");
    run.skip_to(59_990, &[]).expect("skip");
    assert!(run.remaining_rows() <= 2 * 8_192, "{} rows are left", run.remaining_rows());

    let read = Arc::new(AtomicUsize::new(0));
    let run = snapshot.open_run(&snapshot.files[0], &[0], None).expect("open");
    let counted = CountedRows { run, rows: read.clone() };
    let mut cursor = MergedRuns::new(vec![Box::new(counted)], None).expect("merge");
    for slot in [10, 12, 30_000, 30_001, 57_000, 59_998] {
        let (_, key) = key(2);
        cursor.seek(slot, &key).expect("seek");
        let expected = rows.iter().find(|row| (row.slot, &row.key) >= (slot, &key)).expect("a row");
        assert_same(cursor.peek().expect("a row"), expected, &spec, &[0]);
    }
    let read = read.load(Ordering::Relaxed);
    assert!(read * 2 < rows.len(), "seeking read {read} rows");
    assert_reads(merged(&snapshot, &[0], None, None), &rows, &spec, &[0]);
}

/// Counts the rows that come.
struct CountedRows<R> {
    run: R,
    rows: Arc<AtomicUsize>,
}

impl<R: Run> Run for CountedRows<R> {
    fn next(&mut self) -> Result<Option<Arc<RunBatch>>, HistoryError> {
        let batch = self.run.next()?;
        self.rows.fetch_add(batch.as_ref().map_or(0, |batch| batch.rows()), Ordering::Relaxed);
        Ok(batch)
    }

    fn skip_to(&mut self, slot: u16, key: &[u8]) -> Result<(), HistoryError> {
        self.run.skip_to(slot, key)
    }
}

#[test]
fn a_column_of_one_number_or_with_the_bytes_of_another_is_told_without_being_decoded() {
    let spec = small_spec();
    // The second row group is of several frames, and its last row is known late.
    let rows = (0..ROWS).map(|ordinal| {
        let is_last = ordinal + 1 == ROWS;
        let event = i64::from(ordinal / 3) * 17;
        let frame = 1 + u64::from(ordinal >= 140_000);
        let mut row = row((ordinal % 5) as u16, event, event + i64::from(is_last), frame, ordinal);
        row.slot = (ordinal / 5 * 2) as u16 % 60_000;
        row.deleted = is_last;
        with_values(row, &spec, 1, u64::from(ordinal))
    });
    let rows = sorted(rows.collect());
    let files = LossyFiles::new(1);
    let table = block_on(async {
        let table = open(&files, &spec).await;
        table.land(ModelRun::new(&spec, &rows, 5_000), 2, 0).await.expect("land");
        table
    });
    let snapshot = table.snapshot();
    assert_reads(merged(&snapshot, &[0], None, None), &rows, &spec, &[0]);
    let late = rows.iter().find(|row| row.deleted).expect("the last");
    let slots: SlotSet = [late.slot].into_iter().collect();
    let mut cursor = merged(&snapshot, &[0], Some(&slots), None);
    cursor.seek(late.slot, &late.key).expect("seek");
    let expected: Vec<&Row> = rows.iter().filter(|row| (row.slot, &row.key) == (late.slot, &late.key)).collect();
    for row in expected {
        assert_same(cursor.peek().expect("a row"), row, &spec, &[0]);
        cursor.advance().expect("advance");
    }
}
