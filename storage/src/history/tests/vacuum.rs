//! Files that were merged stay for as long as somebody may read them, and then go.

use super::*;
use crate::files::LossyFiles;
use crate::history::delta::COMMITS_PER_CHECKPOINT;

const SECOND: i64 = 1_000_000;
const RETENTION: i64 = 3_600 * SECOND;

async fn merged_at(files: &LossyFiles, spec: &HistoryViewSpec, now: i64) -> (HistoryTable, Vec<Row>) {
    let rows: Vec<Row> = (1..=3).map(|frame| with_values(row(1, 1, 1, frame, 0), spec, 1, frame + 3)).collect();
    let table = open(files, spec).await;
    for frame in 1..=3 {
        table.land(ModelRun::new(spec, &of_frames(&rows, frame, frame), 1), frame, now).await.expect("land");
    }
    compact(&table, EAGER, now).await.expect("compact").expect("something to merge");
    (table, rows)
}

fn data_files(files: &LossyFiles, spec: &HistoryViewSpec) -> usize {
    names_in(files, &Path::new(ROOT).join(spec.directory())).len() - 1
}

#[test]
fn merged_files_stay_for_the_retention_over_restarts_too_and_then_go() {
    block_on(async {
        let (files, spec, now) = (LossyFiles::new(1), small_spec(), 1_700_000_000 * SECOND);
        let (table, rows) = merged_at(&files, &spec, now).await;
        assert_eq!(table.vacuum(now + RETENTION - SECOND, RETENTION).await.expect("vacuum").files, 0);
        assert!(table.retired_bytes() > 0);
        let retired = table.retired_bytes();
        drop(table);
        let table = open(&files, &spec).await;
        assert_eq!((table.retired_bytes(), data_files(&files, &spec)), (retired, 4));
        assert_eq!(table.vacuum(now + RETENTION - SECOND, RETENTION).await.expect("vacuum").files, 0);
        let report = table.vacuum(now + RETENTION, RETENTION).await.expect("vacuum");
        assert_eq!((report.files, report.bytes), (3, retired));
        assert_eq!((table.retired_bytes(), data_files(&files, &spec)), (0, 1));
        assert_eq!(table.vacuum(now + RETENTION, RETENTION).await.expect("vacuum").files, 0);
        assert_table(&table.snapshot(), &rows);
        drop(table);
        let reopened = open(&files, &spec).await;
        assert_eq!(reopened.retired_bytes(), 0);
        assert_table(&reopened.snapshot(), &rows);
    });
}

#[test]
fn merged_files_are_known_by_a_checkpoint_of_the_log_too() {
    block_on(async {
        // Far ahead, since Delta Lake compares with the machine's clock when it forgets.
        let (files, spec, now) = (LossyFiles::new(4), small_spec(), 4_000_000_000 * SECOND);
        let (table, mut rows) = merged_at(&files, &spec, now).await;
        let retired = table.retired_bytes();
        for frame in 4..=2 * COMMITS_PER_CHECKPOINT {
            let more = [with_values(row(2, 1, 1, frame, 0), &spec, 1, frame)];
            table.land(ModelRun::new(&spec, &more, 1), frame, now).await.expect("land");
            rows.extend(more);
        }
        drop(table);
        let log = Path::new(ROOT).join(spec.directory()).join("_delta_log");
        assert!(names_in(&files, &log).iter().any(|name| name.contains("checkpoint")));
        for version in 0..COMMITS_PER_CHECKPOINT {
            files.remove(&log.join(format!("{version:020}.json"))).expect("remove");
        }
        let table = open(&files, &spec).await;
        assert_eq!(table.retired_bytes(), retired);
        assert_table(&table.snapshot(), &sorted(rows));
    });
}

#[test]
fn a_file_that_somebody_reads_stays_however_long_that_takes() {
    block_on(async {
        let (files, spec, now) = (LossyFiles::new(2), small_spec(), 1_700_000_000 * SECOND);
        let rows: Vec<Row> = (1..=2).map(|frame| with_values(row(1, 1, 1, frame, 0), &spec, 1, frame + 3)).collect();
        let table = open(&files, &spec).await;
        for frame in 1..=2 {
            let landed = of_frames(&rows, frame, frame);
            table.land(ModelRun::new(&spec, &landed, 1), frame, now).await.expect("land");
        }
        let snapshot = table.snapshot();
        compact(&table, EAGER, now).await.expect("compact").expect("something to merge");
        let later = now + 100 * RETENTION;
        assert_eq!(table.vacuum(later, RETENTION).await.expect("vacuum").files, 0);
        assert_table(&snapshot, &rows);

        // A run that is open holds its file by itself.
        let chains = snapshot.chains_with(None, None);
        let mut run = snapshot.open_chain(&chains[0], &[0], None).expect("open");
        drop(chains);
        drop(snapshot);
        assert_eq!(table.vacuum(later, RETENTION).await.expect("vacuum").files, 1);
        assert_eq!(run.next().expect("read").expect("a batch").rows(), 1);
        drop(run);
        assert_eq!(table.vacuum(later, RETENTION).await.expect("vacuum").files, 1);
        assert_table(&table.snapshot(), &rows);
    });
}

#[test]
fn a_file_that_can_not_be_deleted_is_tried_again() {
    block_on(async {
        let (files, spec, now) = (LossyFiles::new(3), small_spec(), 1_700_000_000 * SECOND);
        let (table, rows) = merged_at(&files, &spec, now).await;
        let retired = table.retired_bytes();
        files.fail_once(1, crate::files::lossy::Fault::Device);
        let refused = table.vacuum(now + RETENTION, RETENTION).await.expect_err("a failing disk");
        assert!(matches!(refused, HistoryError::Io { .. }), "{refused}");
        files.heal();
        assert!((1..retired).contains(&table.retired_bytes()), "one is gone, the others are not forgotten");
        assert_eq!(table.vacuum(now + RETENTION, RETENTION).await.expect("vacuum").files, 2);
        assert_table(&table.snapshot(), &rows);
    });
}
