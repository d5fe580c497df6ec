//! What lands, and what doesn't.

use std::time::{Duration, Instant};

use super::*;
use crate::files::LossyFiles;
use crate::history::delta::COMMITS_PER_CHECKPOINT;
use crate::history::{HistoryTables, LandReport};

/// Rows of three frames with all types, deletes and late rows.
fn rows(spec: &HistoryViewSpec) -> Vec<Row> {
    let mut rows = Vec::new();
    for frame in 1..=3 {
        for ordinal in 0..40 {
            let number = (ordinal * 7 % 11) as u16;
            let event_time = i64::from(ordinal * 31 % 17) - 5;
            let mut row = row(number, event_time, event_time + 3, frame, ordinal);
            row.deleted = ordinal % 9 == 4;
            rows.push(with_values(row, spec, spec.features.len(), frame * 100 + u64::from(ordinal)));
        }
    }
    rows
}

async fn land(table: &HistoryTable, rows: &[Row], through: u64) -> Result<LandReport, HistoryError> {
    let snapshot = table.snapshot();
    let landed = of_frames(rows, snapshot.landed_through + 1, through);
    table.land(ModelRun::new(snapshot.spec(), &landed, 7), through, 1_700_000_000_000_000).await
}

#[test]
fn values_of_every_type_come_back_to_the_last_bit() {
    block_on(async {
        let (files, spec) = (LossyFiles::new(1), spec());
        let (table, rows) = (open(&files, &spec).await, rows(&spec));
        let report = land(&table, &rows, 3).await.expect("land");
        assert_eq!((report.rows, report.delta_version), (120, Some(1)));
        assert_table(&table.snapshot(), &of_frames(&rows, 1, 3));

        // Some of the features, and in another order.
        let some = [16, 2, 12];
        let merged = merged(&table.snapshot(), &some, None, None);
        assert_reads(merged, &of_frames(&rows, 1, 3), &spec, &some);
    });
}

#[test]
fn what_has_landed_does_not_land_again() {
    block_on(async {
        let (files, spec) = (LossyFiles::new(2), small_spec());
        let (table, rows) = (open(&files, &spec).await, rows(&spec));
        assert_eq!(table.snapshot().landed_through, 0);
        land(&table, &rows, 2).await.expect("land");
        let before = table.snapshot();
        assert_eq!(before.landed_through, 2);
        for through in [1, 2] {
            let again = ModelRun::new(&spec, &of_frames(&rows, 1, through), 7);
            assert_eq!(table.land(again, through, 0).await.expect("nothing to do"), LandReport::default());
        }
        assert_eq!(table.snapshot().delta_version, before.delta_version);
        land(&table, &rows, 3).await.expect("land");
        assert_table(&table.snapshot(), &of_frames(&rows, 1, 3));
        assert_table(&before, &of_frames(&rows, 1, 2));

        let reopened = open(&files, &spec).await;
        assert_eq!(reopened.snapshot().landed_through, 3);
        assert_table(&reopened.snapshot(), &of_frames(&rows, 1, 3));
    });
}

#[test]
fn a_landing_without_rows_changes_nothing() {
    block_on(async {
        let (files, spec) = (LossyFiles::new(3), small_spec());
        let table = open(&files, &spec).await;
        assert_eq!(land(&table, &[], 9).await.expect("land"), LandReport::default());
        assert_eq!((table.snapshot().landed_through, table.snapshot().delta_version), (0, 0));
    });
}

#[test]
fn rows_that_break_a_promise_are_refused_and_leave_nothing() {
    block_on(async {
        let (files, spec) = (LossyFiles::new(4), small_spec());
        let table = open(&files, &spec).await;
        let all = rows(&spec);
        land(&table, &all, 1).await.expect("land");
        let names = files.list(&Path::new(ROOT).join(spec.directory())).expect("list");

        let mut unsorted = of_frames(&all, 2, 2);
        unsorted.swap(10, 11);
        let mut twice = of_frames(&all, 2, 2);
        twice.insert(5, twice[5].clone());
        let landed_before = of_frames(&all, 1, 2);
        let beyond = of_frames(&all, 2, 3);
        let mut unknown_feature = of_frames(&all, 2, 2);
        unknown_feature[3].values.push(Value::Int64(1));
        for broken in [unsorted, twice, landed_before, beyond, unknown_feature] {
            let refused = table.land(ModelRun::new(&spec, &broken, 7), 2, 0).await.expect_err("broken rows");
            assert!(matches!(refused, HistoryError::BadRows { .. }), "{refused}");
        }
        assert_eq!(files.list(&Path::new(ROOT).join(spec.directory())).expect("list"), names);
        land(&table, &all, 3).await.expect("later landings succeed");
        assert_table(&table.snapshot(), &of_frames(&all, 1, 3));
    });
}

#[test]
fn a_feature_added_later_is_missing_in_older_rows_and_not_null() {
    block_on(async {
        let (files, old) = (LossyFiles::new(5), small_spec());
        let mut new = old.clone();
        new.features.push((name("added"), DataType::Vector(3)));
        new.features.push((name("more"), DataType::List(ScalarType::String)));
        let older = |row: Row, seed| with_values(row, &old, 1, seed);
        let newer = |row: Row, seed| with_values(row, &new, 3, seed);
        let rows = [
            older(row(1, 1, 1, 1, 0), 4),
            older(row(3, 1, 1, 1, 1), 5),
            newer(row(1, 2, 2, 2, 0), 6),
            older(row(2, 2, 2, 2, 1), 7),
        ];
        let table = open(&files, &old).await;
        land(&table, &rows, 1).await.expect("land");
        table.add_features(new.features.clone()).await.expect("add");
        table.add_features(new.features.clone()).await.expect("adding again changes nothing");
        land(&table, &rows, 2).await.expect("land");
        assert_eq!(table.snapshot().delta_version, 3);
        assert_table(&table.snapshot(), &of_frames(&rows, 1, 2));

        let reopened = open(&files, &new).await;
        assert_table(&reopened.snapshot(), &of_frames(&rows, 1, 2));
        let fewer = try_open(&files, &old).await.expect_err("a view that forgot features");
        assert!(matches!(fewer, HistoryError::SchemaMismatch { .. }), "{fewer}");
        let mut retyped = new.clone();
        retyped.features[1].1 = DataType::Scalar(ScalarType::Int64);
        let retyped = try_open(&files, &retyped).await.expect_err("a view with another type");
        assert!(matches!(retyped, HistoryError::SchemaMismatch { .. }), "{retyped}");
    });
}

#[test]
fn rows_land_though_their_table_was_given_a_feature_since_they_were_read() {
    block_on(async {
        let (files, old) = (LossyFiles::new(8), small_spec());
        let mut new = old.clone();
        new.features.push((name("added"), DataType::Vector(3)));
        let rows = [with_values(row(1, 1, 1, 1, 0), &old, 1, 4), with_values(row(2, 1, 1, 1, 1), &old, 1, 5)];
        let table = open(&files, &old).await;
        table.add_features(new.features.clone()).await.expect("add");
        table.land(ModelRun::new(&old, &rows, 7), 1, 0).await.expect("land");
        assert_eq!(*table.snapshot().spec().as_ref(), new);
        assert_table(&table.snapshot(), &rows);

        let unknown = HistoryViewSpec { features: [new.features.clone(), old.features].concat(), ..new };
        let newer = [with_values(row(1, 1, 1, 2, 0), &unknown, 3, 6)];
        let refused = table.land(ModelRun::new(&unknown, &newer, 7), 2, 0).await.expect_err("an unknown feature");
        assert!(matches!(refused, HistoryError::BadRows { .. }), "{refused}");
    });
}

#[test]
fn a_table_goes_on_being_opened_when_who_asked_for_it_has_gone() {
    block_on(async {
        let (files, spec) = (LossyFiles::new(9), small_spec());
        let tables = HistoryTables::new(Arc::new(files.clone()), ROOT.into());
        let mut asking = Box::pin(tables.table(spec.clone()));
        assert!(futures::poll!(asking.as_mut()).is_pending());
        drop(asking);
        let first_commit = Path::new(ROOT).join(spec.directory()).join("_delta_log/00000000000000000000.json");
        let given_up = Instant::now() + Duration::from_secs(60);
        while !files.exists(&first_commit).expect("told") {
            assert!(Instant::now() < given_up, "the table is not made");
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_table_opened_with_more_features_than_it_has_grows() {
    block_on(async {
        let (files, old) = (LossyFiles::new(6), small_spec());
        open(&files, &old).await;
        let mut new = old.clone();
        new.features.push((name("added"), DataType::Scalar(ScalarType::String)));
        let table = open(&files, &new).await;
        let rows = [with_values(row(1, 1, 1, 1, 0), &new, 2, 9)];
        land(&table, &rows, 1).await.expect("land");
        assert_table(&table.snapshot(), &rows);
    });
}

#[test]
fn many_landings_and_a_checkpoint_of_the_log_later_all_rows_are_there() {
    block_on(async {
        let (files, spec) = (LossyFiles::new(7), small_spec());
        let table = open(&files, &spec).await;
        let last = COMMITS_PER_CHECKPOINT + 3;
        let rows: Vec<Row> = (1..=last).map(|frame| with_values(row(3, 1, 1, frame, 0), &spec, 1, frame)).collect();
        for frame in 1..=last {
            land(&table, &rows, frame).await.expect("land");
        }
        let log = Path::new(ROOT).join(spec.directory()).join("_delta_log");
        let names = files.list(&log).expect("list").into_iter().map(|entry| entry.name.into_string().expect("UTF-8"));
        let checkpoints: Vec<String> = names.filter(|name| name.contains("checkpoint")).collect();
        assert_eq!(checkpoints.len(), 2, "{checkpoints:?}");
        assert_table(&table.snapshot(), &of_frames(&rows, 1, last));

        // With the commits before the checkpoint gone, the checkpoint has to do.
        for version in 0..COMMITS_PER_CHECKPOINT {
            files.remove(&log.join(format!("{version:020}.json"))).expect("remove");
        }
        let reopened = open(&files, &spec).await;
        assert_eq!(reopened.snapshot().landed_through, last);
        assert_table(&reopened.snapshot(), &of_frames(&rows, 1, last));
    });
}
