//! The power is cut, or the disk fails, at every operation of a table's life.

use super::*;
use crate::files::LossyFiles;
use crate::files::lossy::Fault;
use crate::history::delta::COMMITS_PER_CHECKPOINT;

/// What a table goes through: landings, a feature added before the last of them.
struct Life {
    old: HistoryViewSpec,
    new: HistoryViewSpec,
    rows: Vec<Row>,
    last: u64,
}

impl Life {
    fn new(last: u64) -> Self {
        let old = small_spec();
        let mut new = old.clone();
        new.features.push((name("added"), DataType::Scalar(ScalarType::String)));
        let draw = |frame: u64, ordinal: u32| {
            let spec = if frame == last { &new } else { &old };
            let row = row((ordinal % 7) as u16, i64::from(ordinal), 0, frame, ordinal);
            with_values(row, spec, spec.features.len(), frame * 31 + u64::from(ordinal))
        };
        let rows = (1..=last).flat_map(|frame| (0..20).map(move |ordinal| (frame, ordinal)));
        let rows = rows.map(|(frame, ordinal)| draw(frame, ordinal)).collect();
        Self { old, new, rows, last }
    }

    /// Opens, lands, adds a feature, lands; says what is known to have landed.
    async fn live(&self, files: &LossyFiles, acknowledged: &mut u64) -> Result<(), HistoryError> {
        let table = try_open(files, &self.old).await?;
        for through in 1..self.last {
            self.land(&table, through).await?;
            *acknowledged = through;
        }
        table.add_features(self.new.features.clone()).await?;
        self.land(&table, self.last).await?;
        *acknowledged = self.last;
        Ok(())
    }

    async fn land(&self, table: &HistoryTable, through: u64) -> Result<(), HistoryError> {
        let snapshot = table.snapshot();
        let rows = of_frames(&self.rows, snapshot.landed_through + 1, through);
        table.land(ModelRun::new(snapshot.spec(), &rows, 9), through, 0).await.map(drop)
    }

    /// What must hold of a disk however it was left: the table is one of before or after, there is
    /// nothing else, and life goes on.
    async fn check(&self, files: &LossyFiles, acknowledged: u64, context: &str) {
        let table = open(files, &self.new).await;
        let snapshot = table.snapshot();
        let landed = snapshot.landed_through;
        assert!((acknowledged..=acknowledged + 1).contains(&landed), "{context}: {landed} after {acknowledged}");
        assert_table(&snapshot, &of_frames(&self.rows, 1, landed));

        let directory = Path::new(ROOT).join(self.new.directory());
        let names = |directory: &Path| {
            let entries = files.list(directory).expect("list").into_iter();
            entries.map(|entry| entry.name.into_string().expect("UTF-8")).collect::<Vec<_>>()
        };
        let mut expected: Vec<&str> = snapshot.files.iter().map(|file| file.name.as_str()).collect();
        expected.push("_delta_log");
        expected.sort_unstable();
        assert_eq!(names(&directory), expected, "{context}: orphans are removed");
        assert!(names(&directory.join("_delta_log")).iter().all(|name| !name.ends_with(".tmp")), "{context}");

        self.land(&table, self.last).await.unwrap_or_else(|error| panic!("{context}: later landings fail: {error}"));
        assert_table(&table.snapshot(), &of_frames(&self.rows, 1, self.last));
        assert_table(&open(files, &self.new).await.snapshot(), &of_frames(&self.rows, 1, self.last));
    }
}

async fn operations_of_a_life(life: &Life) -> u64 {
    let files = LossyFiles::new(0);
    life.live(&files, &mut 0).await.expect("nothing fails");
    files.operations()
}

#[test]
fn a_power_cut_at_any_operation_leaves_the_table_of_before_or_after() {
    let life = Life::new(3);
    block_on(async {
        let operations = operations_of_a_life(&life).await;
        for operation in 0..=operations {
            let files = LossyFiles::new(operation);
            // A dead process does nothing more: every operation fails from here on.
            files.fail_on(operation, Fault::Device);
            let mut acknowledged = 0;
            let lived = life.live(&files, &mut acknowledged).await;
            files.heal();
            files.crash();
            assert_eq!(lived.is_ok(), acknowledged == life.last, "operation {operation}");
            life.check(&files, acknowledged, &format!("power cut at operation {operation}")).await;
        }
    });
}

#[test]
fn a_process_that_dies_at_any_operation_leaves_the_table_of_before_or_after() {
    let life = Life::new(3);
    block_on(async {
        let operations = operations_of_a_life(&life).await;
        for operation in (0..=operations).step_by(3) {
            let files = LossyFiles::new(operation);
            files.fail_on(operation, Fault::Device);
            let mut acknowledged = 0;
            let _ = life.live(&files, &mut acknowledged).await;
            files.heal();
            // What was written and not synced is still there; then the power is cut after all.
            let table = open(&files, &life.new).await;
            let landed = table.snapshot().landed_through;
            drop(table);
            let files = files.after_power_cut(operation);
            life.check(&files, landed.max(acknowledged), &format!("death at operation {operation}")).await;
        }
    });
}

#[test]
fn a_disk_that_is_full_for_a_while_delays_landings_and_loses_nothing() {
    let life = Life::new(3);
    block_on(async {
        let operations = operations_of_a_life(&life).await;
        for operation in 0..operations {
            let files = LossyFiles::new(operation);
            let table = open(&files, &life.old).await;
            files.fail_once(operation, Fault::NoSpace);
            let mut failed = 0;
            for through in 1..life.last {
                // The same table goes on, unless it can't know what is durable.
                while let Err(error) = life.land(&table, through).await {
                    failed += 1;
                    assert!(failed == 1 || matches!(error, HistoryError::SyncFailed { .. }), "{error}");
                    if matches!(error, HistoryError::SyncFailed { .. }) {
                        break;
                    }
                }
            }
            if files.heal() {
                // No operation was left to fail.
                break;
            }
            let landed = table.snapshot().landed_through;
            drop(table);
            files.crash();
            life.check(&files, landed, &format!("no space at operation {operation}")).await;
        }
    });
}

#[test]
fn a_power_cut_while_the_log_is_checkpointed_leaves_the_table_whole() {
    let life = Life::new(COMMITS_PER_CHECKPOINT + 1);
    block_on(async {
        let before = LossyFiles::new(1);
        let table = open(&before, &life.new).await;
        for through in 1..COMMITS_PER_CHECKPOINT {
            life.land(&table, through).await.expect("land");
        }
        assert_eq!(
            table.snapshot().delta_version + 1,
            COMMITS_PER_CHECKPOINT,
            "the next commit is followed by a checkpoint"
        );
        for operation in 0.. {
            let files = before.after_power_cut(operation);
            let table = open(&files, &life.new).await;
            let first = files.operations();
            files.fail_on(operation, Fault::Device);
            // A checkpoint that fails doesn't fail the landing.
            let landed = life.land(&table, COMMITS_PER_CHECKPOINT).await;
            let acknowledged = COMMITS_PER_CHECKPOINT - u64::from(landed.is_err());
            let spared = files.operations() <= first + operation;
            files.heal();
            files.crash();
            life.check(&files, acknowledged, &format!("power cut at operation {operation}")).await;
            if spared {
                break;
            }
        }
    });
}

#[test]
fn a_commit_whose_sync_failed_ends_landing_and_is_made_durable_by_the_next_start() {
    let life = Life::new(3);
    block_on(async {
        let before = LossyFiles::new(1);
        life.land(&open(&before, &life.old).await, 1).await.expect("land");
        let mut doubtful = 0;
        for operation in 0..40 {
            for seed in 0..4 {
                let files = before.after_power_cut(seed);
                let table = open(&files, &life.old).await;
                files.fail_once(operation, Fault::Device);
                let landed = life.land(&table, 2).await;
                files.heal();
                if !matches!(landed, Err(HistoryError::SyncFailed { .. })) {
                    continue;
                }
                doubtful += 1;
                let again = life.land(&table, 2).await.expect_err("nothing is known any more");
                assert!(matches!(again, HistoryError::SyncFailed { .. }), "{again}");
                // The commit can be seen, so tails are let go: from now on it must stay.
                let reopened = open(&files, &life.old).await.snapshot().landed_through;
                assert_eq!(reopened, 2);
                let files = files.after_power_cut(seed);
                life.check(&files, reopened, &format!("failed sync at operation {operation}, seed {seed}")).await;
            }
        }
        assert!(doubtful > 0, "no sync of a commit failed");
    });
}

#[test]
fn a_table_lives_on_a_runtime_of_one_thread_too() {
    let life = Life::new(COMMITS_PER_CHECKPOINT + 1);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let files = LossyFiles::new(1);
        let mut acknowledged = 0;
        life.live(&files, &mut acknowledged).await.expect("nothing fails");
        life.check(&files, acknowledged, "nothing happened").await;
    });
}
