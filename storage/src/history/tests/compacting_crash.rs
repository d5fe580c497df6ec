//! The power is cut, or the disk fails, at every operation of a table that is compacted.

use super::*;
use crate::files::LossyFiles;
use crate::files::lossy::Fault;

const DAY: i64 = 86_400_000_000;

/// Landings, a merge of them, a landing between merge and commit, and what was merged deleted.
struct Life {
    spec: HistoryViewSpec,
    rows: Vec<Row>,
}

/// How far it is known to have come.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    landed: u64,
    merges: usize,
}

const LANDINGS: u64 = 4;

impl Life {
    fn new() -> Self {
        let spec = small_spec();
        let draw = |frame: u64, ordinal: u32| {
            let row = row((ordinal % 7) as u16, i64::from(ordinal), 0, frame, ordinal);
            with_values(row, &spec, 1, frame * 31 + u64::from(ordinal))
        };
        let rows = (1..=LANDINGS).flat_map(|frame| (0..20).map(move |ordinal| (frame, ordinal)));
        let rows = rows.map(|(frame, ordinal)| draw(frame, ordinal)).collect();
        Self { spec, rows }
    }

    async fn land(&self, table: &HistoryTable, through: u64) -> Result<(), HistoryError> {
        let rows = of_frames(&self.rows, table.snapshot().landed_through + 1, through);
        table.land(ModelRun::new(&self.spec, &rows, 9), through, 0).await.map(drop)
    }

    async fn live(&self, files: &LossyFiles, known: &mut Known) -> Result<(), HistoryError> {
        let table = try_open(files, &self.spec).await?;
        for through in 1..LANDINGS {
            self.land(&table, through).await?;
            known.landed = through;
        }
        let merge = table.merge(EAGER, unpaced()).await?.expect("three runs");
        self.land(&table, LANDINGS).await?;
        known.landed = LANDINGS;
        table.commit(merge, 0).await?;
        known.merges += 1;
        table.vacuum(DAY, DAY).await?;
        Ok(())
    }

    /// What must hold of a disk however it was left: all rows that had landed are there, once; no file
    /// is there of which the log doesn't know; and life goes on.
    async fn check(&self, files: &LossyFiles, known: Known, context: &str) {
        let table = open(files, &self.spec).await;
        let snapshot = table.snapshot();
        let landed = snapshot.landed_through;
        assert!((known.landed..=known.landed + 1).contains(&landed), "{context}: {landed} after {known:?}");
        assert_table(&snapshot, &of_frames(&self.rows, 1, landed));
        let merged = snapshot.chains_with(None, None).iter().any(|chain| chain.level() > 0);
        assert!(merged || known.merges == 0, "{context}: a merge that was committed is gone");

        // Either merged, and what was merged may be there still, or not.
        let directory = Path::new(ROOT).join(self.spec.directory());
        let on_disk = names_in(files, &directory).len() - 1;
        let retired = on_disk - snapshot.files.len();
        assert!(if merged { retired <= 3 } else { retired == 0 }, "{context}: {retired} files too many");
        table.vacuum(DAY, DAY).await.unwrap_or_else(|error| panic!("{context}: deleting fails: {error}"));
        assert_eq!(names_in(files, &directory).len() - 1, snapshot.files.len(), "{context}: leftovers");

        self.land(&table, LANDINGS).await.unwrap_or_else(|error| panic!("{context}: landing fails: {error}"));
        while compact(&table, EAGER, 0).await.unwrap_or_else(|error| panic!("{context}: {error}")).is_some() {}
        assert_eq!(table.snapshot().chains_with(None, None).len(), if merged { 2 } else { 1 }, "{context}");
        assert_table(&table.snapshot(), &of_frames(&self.rows, 1, LANDINGS));
        assert_table(&open(files, &self.spec).await.snapshot(), &of_frames(&self.rows, 1, LANDINGS));
    }
}

async fn operations_of_a_life(life: &Life) -> u64 {
    let files = LossyFiles::new(0);
    life.live(&files, &mut Known::default()).await.expect("nothing fails");
    files.operations()
}

#[test]
fn a_power_cut_at_any_operation_of_a_compaction_loses_and_repeats_no_row() {
    let life = Life::new();
    block_on(async {
        for operation in 0..=operations_of_a_life(&life).await {
            let files = LossyFiles::new(operation);
            // A dead process does nothing more: every operation fails from here on.
            files.fail_on(operation, Fault::Device);
            let mut known = Known::default();
            let _ = life.live(&files, &mut known).await;
            files.heal();
            files.crash();
            life.check(&files, known, &format!("power cut at operation {operation}")).await;
        }
    });
}

#[test]
fn a_process_that_dies_at_any_operation_of_a_compaction_loses_and_repeats_no_row() {
    let life = Life::new();
    block_on(async {
        for operation in (0..=operations_of_a_life(&life).await).step_by(3) {
            let files = LossyFiles::new(operation);
            files.fail_on(operation, Fault::Device);
            let mut known = Known::default();
            let _ = life.live(&files, &mut known).await;
            files.heal();
            // What was written and not synced is still there; then the power is cut after all.
            let table = open(&files, &life.spec).await;
            let landed = table.snapshot().landed_through;
            let merges = table.snapshot().chains_with(None, None).iter().filter(|chain| chain.level() > 0).count();
            drop(table);
            let files = files.after_power_cut(operation);
            let known = Known { landed: landed.max(known.landed), merges: merges.max(known.merges) };
            life.check(&files, known, &format!("death at operation {operation}")).await;
        }
    });
}

#[test]
fn a_full_disk_at_any_operation_of_a_merge_leaves_the_table_and_nothing_else() {
    let life = Life::new();
    block_on(async {
        let before = LossyFiles::new(1);
        let table = open(&before, &life.spec).await;
        for through in 1..LANDINGS {
            life.land(&table, through).await.expect("land");
        }
        let directory = Path::new(ROOT).join(life.spec.directory());
        for operation in 0.. {
            let files = before.after_power_cut(operation);
            let table = open(&files, &life.spec).await;
            let (names, version) = (names_in(&files, &directory), table.snapshot().delta_version);
            files.fail_once(operation, Fault::NoSpace);
            let compacted = compact(&table, EAGER, 0).await;
            if files.heal() {
                compacted.expect("nothing failed");
                break;
            }
            match compacted {
                Ok(_) => {}
                // A directory can't be synced: what is there is left to the next start.
                Err(HistoryError::SyncFailed { .. }) => {}
                Err(_) => {
                    assert_eq!(names_in(&files, &directory), names, "operation {operation}");
                    assert_eq!(table.snapshot().delta_version, version, "operation {operation}");
                    compact(&table, EAGER, 0).await.expect("with room again").expect("it goes on");
                    assert_table(&table.snapshot(), &of_frames(&life.rows, 1, LANDINGS - 1));
                }
            }
            life.check(&files, Known { landed: LANDINGS - 1, merges: 0 }, &format!("no space at {operation}")).await;
        }
    });
}
