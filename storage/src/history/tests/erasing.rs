//! Rows are erased for good: whatever is cut off in the middle, doing the same again ends it.

use std::time::Duration;

use super::*;
use crate::erased::ErasedKey;
use crate::files::LossyFiles;
use crate::files::lossy::Fault;
use crate::names::{TenantId, ViewId};

const LANDINGS: u64 = 4;
/// Rows of later frames stay.
const THROUGH: u64 = 3;

fn all_rows() -> Vec<Row> {
    rows_of_landings(LANDINGS, i64::from)
}

fn whole() -> ErasedKey {
    let types = vec![ScalarType::String, ScalarType::Int64];
    let values = vec![None, None];
    ErasedKey { tenant: TenantId(1), view: ViewId(1), types, values, whole: Some(key(3)), through: THROUGH }
}

/// Every key with this airport.
fn part() -> ErasedKey {
    let mut airport = Vec::new();
    encode_values(&[Value::String("airport\u{0}1".to_owned())], &[ScalarType::String], &mut airport).expect("a key");
    ErasedKey { values: vec![Some(airport), None], whole: None, ..whole() }
}

fn left(erased: &ErasedKey) -> Vec<Row> {
    let stays = |row: &Row| row.version.position.frame > THROUGH || !erased.is_key(row.slot, &row.key);
    of_frames(&all_rows().into_iter().filter(stays).collect::<Vec<_>>(), 1, LANDINGS)
}

/// Exactly the files that the table names.
fn assert_no_other_files(files: &LossyFiles, table: &HistoryTable) {
    let mut named: Vec<String> = table.snapshot().files.iter().map(|file| file.name.clone()).collect();
    named.push("_delta_log".to_owned());
    let mut there = names_in(files, &Path::new(ROOT).join(small_spec().directory()));
    named.sort();
    there.sort();
    assert_eq!(there, named);
}

#[test]
fn erased_rows_are_in_no_file_and_all_others_stay_in_their_order() {
    block_on(async {
        for erased in [whole(), part()] {
            let files = LossyFiles::new(1);
            land_all(&files, &all_rows()).await;
            let table = open(&files, &small_spec()).await;
            let before = table.count_erasable(vec![erased.clone()]).await.expect("counted");
            let expected = left(&erased);
            assert_eq!(before.rows as usize, all_rows().len() - expected.len());
            let done = table.erase(vec![erased.clone()], 5, Duration::ZERO).await.expect("erased");
            assert_eq!((done.rows, done.files), (before.rows, before.files));
            assert!(done.older_files > 0, "what was merged is still there");
            assert_table(&table.snapshot(), &expected);
            assert_no_other_files(&files, &table);
            assert_eq!(table.count_erasable(vec![erased.clone()]).await.expect("counted").rows, 0);
            // Life goes on, and a start finds the same.
            while compact(&table, EAGER, 9).await.expect("merged").is_some() {}
            assert_table(&table.snapshot(), &expected);
            assert_table(&open(&files, &small_spec()).await.snapshot(), &expected);
        }
    });
}

#[test]
fn a_power_cut_at_any_operation_of_an_erasure_is_made_good_by_doing_it_again() {
    block_on(async {
        let erased = whole();
        let before = LossyFiles::new(3);
        land_all(&before, &all_rows()).await;
        for operation in 0.. {
            let files = before.after_power_cut(operation);
            let table = open(&files, &small_spec()).await;
            let untroubled = files.operations();
            files.fail_on(operation, Fault::Device);
            let outcome = table.erase(vec![erased.clone()], 5, Duration::ZERO).await;
            let was_hit = files.operations() - untroubled > operation;
            files.heal();
            assert!(was_hit || outcome.is_ok(), "{outcome:?}");
            drop(table);
            files.crash();
            let table = open(&files, &small_spec()).await;
            table.erase(vec![erased.clone()], 6, Duration::ZERO).await.expect("again");
            assert_table(&table.snapshot(), &left(&erased));
            assert_no_other_files(&files, &table);
            if !was_hit {
                break;
            }
        }
    });
}

#[test]
fn a_reader_who_takes_too_long_is_told_that_rows_were_erased() {
    block_on(async {
        let files = LossyFiles::new(4);
        land_all(&files, &all_rows()).await;
        let table = open(&files, &small_spec()).await;
        let old = table.snapshot();
        table.erase(vec![whole()], 5, Duration::ZERO).await.expect("erased");
        let refused = old.files.iter().filter_map(|file| old.open_run(file, &[], None).err());
        let refused: Vec<HistoryError> = refused.collect();
        assert!(!refused.is_empty());
        assert!(refused.iter().all(|error| matches!(error, HistoryError::Erased { .. })), "{refused:?}");
    });
}
