//! Any rows, landed in any cuts, read back merged as if they had been sorted whole.

use proptest::prelude::*;

use super::*;
use crate::files::LossyFiles;
use crate::history::TailRun;
use crate::partition::TailRow;
use crate::row::{OwnedRow, RowHeader, RowKind, RowLayout, RowPacker};

/// (key, event time, known time, frame, seed of the values, deleted)
type Drawn = (u16, i64, i64, u64, u64, bool);

const FRAMES: u64 = 8;

fn drawn() -> impl Strategy<Value = Vec<Drawn>> {
    let row = (0u16..9, -3i64..4, -3i64..4, 1..=FRAMES, any::<u32>().prop_map(u64::from), prop::bool::weighted(0.2));
    prop::collection::vec(row, 0..120)
}

fn to_rows(spec: &HistoryViewSpec, drawn: &[Drawn]) -> Vec<Row> {
    let rows = drawn.iter().zip(0..).map(|((number, event, known, frame, seed, deleted), ordinal)| {
        let mut row = row(*number, *event, *known, *frame, ordinal);
        row.deleted = *deleted;
        with_values(row, spec, spec.features.len(), *seed)
    });
    sorted(rows.collect())
}

/// Rows as a partition's tail hands them out.
fn tail_run(spec: &HistoryViewSpec, rows: &[Row], projection: &[usize], after: u64) -> Box<dyn Run> {
    let types: Vec<DataType> = spec.features.iter().map(|(_, data_type)| *data_type).collect();
    let layout = Arc::new(RowLayout::new(&types));
    let tail: Vec<Result<TailRow, HistoryError>> = rows
        .iter()
        .map(|row| {
            let batch = to_batch(spec, &(0..types.len()).collect::<Vec<_>>(), std::slice::from_ref(row));
            let columns = batch.features.into_iter().map(Some).collect();
            let mut body = Vec::new();
            if !row.deleted {
                RowPacker::new(&layout, columns).expect("columns").pack(0, &mut body).expect("pack");
            }
            let kind = if row.deleted { RowKind::Tombstone } else { RowKind::Full };
            let (revision, feature_count) = (row.revision(), row.values.len() as u16);
            let header =
                RowHeader { kind, version: row.version, ingest_time: row.ingest_time, revision, feature_count };
            let owned = OwnedRow::new(header, body.into());
            Ok(TailRow { slot: row.slot, key: row.key.clone().into(), row: owned })
        })
        .collect();
    Box::new(TailRun::new(tail.into_iter(), layout, projection.to_vec(), after + 1..=u64::MAX))
}

/// Reads a cursor to its end in stretches, of which it passes so many rows at a time at most.
fn assert_stretches(mut merged: MergedRuns, expected: &[Row], steps: usize) {
    let mut place = 0;
    while let Some((batch, rows)) = merged.stretch() {
        assert!(!rows.is_empty());
        let passed = rows.len().min(steps);
        for (row, expected) in rows.zip(&expected[place..]) {
            assert_eq!((batch.slots[row], batch.keys.value(row), batch.version(row)), expected.order());
        }
        merged.pass(passed).expect("pass");
        place += passed;
    }
    assert_eq!(place, expected.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn rows_landed_in_any_cuts_and_the_tail_merge_to_the_sorted_whole(
        drawn in drawn(),
        cuts in prop::collection::btree_set(1..=FRAMES, 0..4),
        batch_rows in 1usize..20,
        cutoff in prop::option::of(0..=FRAMES as i64 * 10),
        some_features in prop::collection::vec(0usize..17, 0..4),
        targets in prop::collection::btree_set(0u16..10, 0..6),
        steps in 0usize..4,
    ) {
        let spec = spec();
        let rows = to_rows(&spec, &drawn);
        let (table, versions) = block_on(async {
            let files = LossyFiles::new(batch_rows as u64);
            let table = open(&files, &spec).await;
            let mut versions = vec![table.snapshot()];
            for cut in &cuts {
                let landed = of_frames(&rows, table.snapshot().landed_through + 1, *cut);
                table.land(ModelRun::new(&spec, &landed, batch_rows), *cut, 0).await.expect("land");
                versions.push(table.snapshot());
            }
            (table, versions)
        });
        // Each version of the table has the rows that had landed, also after later landings.
        for version in &versions {
            assert_table(version, &of_frames(&rows, 1, version.landed_through));
        }

        let snapshot = table.snapshot();
        let in_time: Vec<Row> =
            rows.iter().filter(|row| cutoff.is_none_or(|cutoff| row.ingest_time <= cutoff)).cloned().collect();
        let all = || -> MergedRuns {
            let mut runs = open_runs(&snapshot, &some_features, None, cutoff).expect("open");
            runs.push(tail_run(&spec, &rows, &some_features, snapshot.landed_through));
            MergedRuns::new(runs, cutoff).expect("merge")
        };
        assert_reads(all(), &in_time, &spec, &some_features);
        assert_stretches(all(), &in_time, steps + 1);

        // Seeking gives what walking would come to; it may be mixed with walking.
        let mut cursor = all();
        let mut place = 0;
        for target in targets {
            let (slot, key) = key(target);
            cursor.seek(slot, &key).expect("seek");
            place = place.max(in_time.partition_point(|row| (row.slot, &row.key) < (slot, &key)));
            for _ in 0..=steps {
                match (cursor.peek(), in_time.get(place)) {
                    (Some(read), Some(expected)) => assert_same(read, expected, &spec, &some_features),
                    (read, expected) => prop_assert!(read.is_none() && expected.is_none()),
                }
                cursor.advance().expect("advance");
                place = (place + 1).min(in_time.len());
            }
        }

        // Leaving out slots leaves out no row of the others.
        let wanted: SlotSet = some_features.iter().map(|number| key(*number as u16).0).collect();
        let mut pruned = merged(&snapshot, &some_features, Some(&wanted), cutoff);
        let landed = in_time.iter().filter(|row| row.version.position.frame <= snapshot.landed_through);
        for row in landed.filter(|row| wanted.contains(row.slot)) {
            while pruned.peek().is_some_and(|read| !wanted.contains(read.slot())) {
                pruned.advance().expect("advance");
            }
            assert_same(pruned.peek().expect("a wanted row"), row, &spec, &some_features);
            pruned.advance().expect("advance");
        }
    }
}
