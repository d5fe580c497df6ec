//! Leaving out what no one asks for, in a file of several row groups and many pages.

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

    let before = files.operations();
    let mut cursor = merged(&snapshot, &[0], None, None);
    for slot in [10, 12, 30_000, 30_001, 57_000, 59_998] {
        let (_, key) = key(2);
        cursor.seek(slot, &key).expect("seek");
        let expected = rows.iter().find(|row| (row.slot, &row.key) >= (slot, &key)).expect("a row");
        assert_same(cursor.peek().expect("a row"), expected, &spec, &[0]);
    }
    let sought = files.operations() - before;
    let before = files.operations();
    assert_reads(merged(&snapshot, &[0], None, None), &rows, &spec, &[0]);
    let walked = files.operations() - before;
    assert!(sought * 2 < walked, "seeking took {sought} reads, walking {walked}");
}
