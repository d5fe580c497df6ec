//! Rows that are too old leave a table, and whatever is cut off in the middle leaves it whole.

use super::*;
use crate::files::LossyFiles;
use crate::files::lossy::Fault;
use crate::history::DataFile;
use crate::order::Micros;

const LANDINGS: u64 = 4;
const BEFORE: Micros = 12;

fn all_rows() -> Vec<Row> {
    rows_of_landings(LANDINGS, |ordinal| i64::from(ordinal * 3 % 20))
}

fn left() -> Vec<Row> {
    let young = all_rows().into_iter().filter(|row| row.version.event_time >= BEFORE);
    of_frames(&young.collect::<Vec<_>>(), 1, LANDINGS)
}

async fn take_out(table: &HistoryTable, before: Micros) -> Result<u64, HistoryError> {
    let mut rows = 0;
    while let Some(merge) = table.without_older(before, Box::new(|_| true)).await? {
        rows += merge.rows_too_old();
        table.commit(merge, 7).await?;
    }
    Ok(rows)
}

#[test]
fn rows_that_are_too_old_are_taken_out_and_all_others_stay_in_their_order() {
    block_on(async {
        let files = LossyFiles::new(1);
        land_all(&files, &all_rows()).await;
        let table = open(&files, &small_spec()).await;
        let old = table.snapshot();
        assert_eq!(old.retained_from, None);
        let rows = take_out(&table, BEFORE).await.expect("taken out");
        assert_eq!(rows as usize, all_rows().len() - left().len());
        assert_table(&table.snapshot(), &left());
        assert_eq!(table.snapshot().retained_from, Some(BEFORE));
        // A reader of before goes on with the files of before.
        assert_table(&old, &of_frames(&all_rows(), 1, LANDINGS));
        drop(old);
        assert_eq!(take_out(&table, BEFORE).await.expect("looked"), 0);
        while compact(&table, EAGER, 9).await.expect("merged").is_some() {}
        assert_table(&table.snapshot(), &left());
        let table = open(&files, &small_spec()).await;
        assert_table(&table.snapshot(), &left());
        assert_eq!(table.snapshot().retained_from, Some(BEFORE));
        // Files of which nothing is left go whole.
        take_out(&table, Micros::MAX).await.expect("taken out");
        assert_table(&table.snapshot(), &[]);
        assert!(table.snapshot().files.is_empty());
    });
}

#[test]
fn a_power_cut_at_any_operation_leaves_a_file_with_its_old_rows_or_without() {
    block_on(async {
        let before = LossyFiles::new(3);
        land_all(&before, &all_rows()).await;
        for operation in 0.. {
            let files = before.after_power_cut(operation);
            let table = open(&files, &small_spec()).await;
            let untroubled = files.operations();
            files.fail_on(operation, Fault::Device);
            let outcome = take_out(&table, BEFORE).await;
            let was_hit = files.operations() - untroubled > operation;
            files.heal();
            assert!(was_hit || outcome.is_ok(), "{outcome:?}");
            drop(table);
            files.crash();
            let table = open(&files, &small_spec()).await;
            let snapshot = table.snapshot();
            let found: u64 = snapshot.files.iter().map(DataFile::rows).sum();
            let is_told = snapshot.retained_from == Some(BEFORE);
            assert!(is_told || found as usize == all_rows().len(), "rows are gone, and nothing says so");
            take_out(&table, BEFORE).await.expect("again");
            assert_table(&table.snapshot(), &left());
            if !was_hit {
                break;
            }
        }
    });
}
