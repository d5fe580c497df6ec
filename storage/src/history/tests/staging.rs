//! Rows that are staged and taken in, beside rows that land, against the model; and the power cut at every
//! operation on the way.

use std::collections::HashSet;
use std::path::PathBuf;

use super::*;
use crate::files::LossyFiles;
use crate::files::lossy::Fault;
use crate::history::{Sought, StagedFile, StagedRows, Staging, StagingOptions, StagingWatch, TakenIn};

const RUNS: &str = "/data/backfill";
const BACKFILL: &str = "00ff";
const DAY: i64 = 86_400_000_000;

/// Rows of one backfill, as they came, and what they are once they are taken in.
struct Load {
    spec: HistoryViewSpec,
    rows: Vec<Row>,
}

impl Load {
    /// So many rows of few keys, many of one instant.
    fn new(spec: HistoryViewSpec, count: u32, seed: u64) -> Self {
        let features = spec.features.len();
        let draw = |ordinal: u32| {
            let mixed = (u64::from(ordinal) + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
            let (event_time, known_time) = ((mixed % 40) as i64 - 20, (mixed / 64 % 3) as i64);
            let row = with_values(row((mixed % 13) as u16, event_time, known_time, 0, ordinal), &spec, features, mixed);
            if mixed.is_multiple_of(11) { Row { deleted: true, values: Vec::new(), ..row } } else { row }
        };
        let rows = (0..count).map(draw).collect();
        Self { spec, rows }
    }

    fn taken(&self, taken: TakenIn) -> Vec<Row> {
        let of_row = |row: &Row| {
            let mut row = row.clone();
            row.version.position.frame = taken.frame;
            row.ingest_time = taken.ingest_time;
            if taken.known_on_arrival {
                row.version.known_time = taken.ingest_time;
            }
            row
        };
        self.rows.iter().map(of_row).collect()
    }

    /// The model says a row's revision by its frame, which a staged row doesn't have yet.
    fn batch(&self, rows: &[Row], taken: TakenIn) -> RunBatch {
        let all: Vec<usize> = (0..self.spec.features.len()).collect();
        // Of rows that are known on arrival nothing is known yet.
        let known = |row: &Row| if taken.known_on_arrival { 0 } else { row.version.known_time };
        RunBatch {
            known_times: rows.iter().map(known).collect(),
            revisions: rows.iter().map(|_| taken.frame * 3 + 1).collect(),
            feature_counts: rows.iter().map(|row| row.values.len() as u16).collect(),
            ..to_batch(&self.spec, &all, rows)
        }
    }

    /// Stages all rows, a run for each so many, and merges them.
    fn stage(
        &self,
        files: &Arc<dyn Files>,
        table: &Path,
        run_rows: usize,
        taken: TakenIn,
        options: &StagingOptions,
    ) -> Result<Vec<StagedFile>, HistoryError> {
        files.create_dir_all(Path::new(RUNS)).map_err(HistoryError::io(RUNS))?;
        let staging = Staging { files, spec: &self.spec, runs: Path::new(RUNS), table, backfill: BACKFILL };
        let mut runs = Vec::new();
        for (number, rows) in self.rows.chunks(run_rows).enumerate() {
            let mut staged = StagedRows::default();
            for rows in rows.chunks(7) {
                staged.push(self.batch(rows, taken));
            }
            runs.push(staged.write(&staging, format!("run-{number}"))?);
        }
        staging.merge(&runs, options, &StagingWatch::new(|_| true))
    }
}

const OPTIONS: StagingOptions = StagingOptions { memory: 1 << 30, threads: 2, file_bytes: 1 << 20, level: 2 };

fn taken(frame: u64, known_on_arrival: bool) -> TakenIn {
    TakenIn { frame, ingest_time: frame as i64 * 10 + 3, known_on_arrival }
}

/// As in the log: every row of the model is known by its revision too.
fn shared(files: &LossyFiles) -> Arc<dyn Files> {
    Arc::new(files.clone())
}

#[test]
fn rows_staged_outside_memory_read_back_as_the_sorted_whole() {
    for (seed, count, run_rows, memory, known_on_arrival) in
        [(1, 1, 100, 1 << 30, false), (2, 300, 37, 1 << 30, true), (3, 400, 20, 0, false), (4, 90, 1_000, 0, true)]
    {
        for spec in [spec(), small_spec()] {
            let load = Load::new(spec, count, seed);
            block_on(async {
                let files = LossyFiles::new(seed);
                let table = open(&files, &load.spec).await;
                let options = StagingOptions { memory, ..OPTIONS };
                let taken = taken(5, known_on_arrival);
                let staged = load.stage(&shared(&files), table.directory(), run_rows, taken, &options).expect("staged");
                assert!(table.snapshot().files.is_empty(), "nothing of it is seen before it is taken in");
                assert!(table.take_in(BACKFILL, staged.clone(), taken, 7).await.expect("taken in"));
                assert_table(&table.snapshot(), &sorted(load.taken(taken)));
                assert_eq!(table.snapshot().chains_with(None, None).len(), 1, "it is one run");
                assert_eq!(table.snapshot().chains_with(None, Some(52)).len(), 0, "it is ingested at 53");
                assert!(!table.take_in(BACKFILL, staged, taken, 8).await.expect("it is there"), "it is taken in once");
                assert_table(&open(&files, &load.spec).await.snapshot(), &sorted(load.taken(taken)));
                assert_eq!(table.taken_in(BACKFILL).await.expect("known"), Some(5));
                assert_eq!(names_in(&files, Path::new(RUNS)).len(), (count as usize).div_ceil(run_rows), "leftovers");
            });
        }
    }
}

#[test]
fn what_is_taken_in_and_what_lands_are_merged_with_their_own_positions_and_times() {
    let load = Load::new(small_spec(), 200, 9);
    let landed = |frame: u64| {
        let rows = (0..30).map(|ordinal| {
            let row = row((ordinal % 5) as u16, i64::from(ordinal) - 15, 1, frame, ordinal);
            with_values(row, &load.spec, 1, frame + u64::from(ordinal))
        });
        rows.collect::<Vec<_>>()
    };
    block_on(async {
        let files = LossyFiles::new(3);
        let table = open(&files, &load.spec).await;
        let mut all = Vec::new();
        for frame in [1, 2] {
            let rows = landed(frame);
            table.land(ModelRun::new(&load.spec, &sorted(rows.clone()), 9), frame, 0).await.expect("landed");
            all.extend(rows);
        }
        for (number, (frame, known_on_arrival)) in [(7, true), (9, false)].into_iter().enumerate() {
            let taken = taken(frame, known_on_arrival);
            let options = StagingOptions { level: 0, ..OPTIONS };
            let staged = load.stage(&shared(&files), table.directory(), 50, taken, &options).expect("staged");
            table.take_in(&format!("{number}"), staged, taken, 0).await.expect("taken in");
            all.extend(load.taken(taken));
            for name in names_in(&files, Path::new(RUNS)) {
                files.remove(&Path::new(RUNS).join(name)).expect("removed");
            }
        }
        // Frames after the one through which rows have landed are in the table already.
        assert_eq!((table.snapshot().landed_through, table.snapshot().newest_frame()), (2, 9));
        assert_table(&table.snapshot(), &sorted(all.clone()));
        let rows = landed(12);
        table.land(ModelRun::new(&load.spec, &sorted(rows.clone()), 9), 12, 0).await.expect("landed");
        all.extend(rows);
        let mut merges = 0;
        while compact(&table, EAGER, 0).await.expect("merged").is_some() {
            merges += 1;
            assert_table(&table.snapshot(), &sorted(all.clone()));
        }
        assert!(merges > 0, "nothing was merged");
        table.vacuum(DAY, DAY).await.expect("deleted");
        let table = open(&files, &load.spec).await;
        assert_table(&table.snapshot(), &sorted(all));
        let directory = table.directory().to_owned();
        assert_eq!(names_in(&files, &directory).len() - 1, table.snapshot().files.len(), "leftovers");
    });
}

#[test]
fn what_is_staged_and_not_taken_in_goes_unless_it_is_kept() {
    let load = Load::new(small_spec(), 40, 2);
    block_on(async {
        let files = LossyFiles::new(3);
        let table = open(&files, &load.spec).await;
        let staged = load.stage(&shared(&files), table.directory(), 10, taken(5, false), &OPTIONS).expect("staged");
        let table = open(&files, &load.spec).await;
        let directory: PathBuf = table.directory().to_owned();
        table.remove_staged(HashSet::from([BACKFILL.to_owned()])).await.expect("kept");
        table.take_in(BACKFILL, staged, taken(5, false), 0).await.expect("it was kept");
        table.remove_staged(HashSet::new()).await.expect("removed");
        assert_table(&table.snapshot(), &sorted(load.taken(taken(5, false))));
        load.stage(&shared(&files), &directory, 40, taken(6, false), &OPTIONS).expect_err("the run is there already");
        for name in names_in(&files, Path::new(RUNS)) {
            files.remove(&Path::new(RUNS).join(name)).expect("removed");
        }
        load.stage(&shared(&files), &directory, 40, taken(6, false), &OPTIONS).expect("staged");
        table.remove_staged(HashSet::new()).await.expect("removed");
        assert_eq!(names_in(&files, &directory).len() - 1, table.snapshot().files.len(), "leftovers");
    });
}

#[test]
fn a_staged_file_that_is_not_as_it_was_written_is_not_taken_in() {
    let load = Load::new(small_spec(), 40, 2);
    block_on(async {
        let files = LossyFiles::new(3);
        let table = open(&files, &load.spec).await;
        let staged = load.stage(&shared(&files), table.directory(), 10, taken(5, false), &OPTIONS).expect("staged");
        let path = table.directory().join(&staged[0].name);
        files.open_append(&path).and_then(|mut file| file.set_len(staged[0].bytes - 1)).expect("cut");
        let refused = table.take_in(BACKFILL, staged.clone(), taken(5, false), 0).await.expect_err("it is short");
        assert!(refused.is_damage() && refused.to_string().contains(&staged[0].name), "{refused}");
        assert!(table.snapshot().files.is_empty());
        files.remove(&path).expect("removed");
        table.take_in(BACKFILL, staged, taken(5, false), 0).await.expect_err("it is gone");
        assert_eq!(table.taken_in(BACKFILL).await.expect("known"), None);
    });
}

#[test]
fn a_merge_that_nobody_waits_for_leaves_nothing() {
    let load = Load::new(small_spec(), 400, 2);
    block_on(async {
        let files = LossyFiles::new(3);
        let table = open(&files, &load.spec).await;
        load.stage(&shared(&files), table.directory(), 50, taken(5, false), &OPTIONS).expect("staged");
        table.remove_staged(HashSet::new()).await.expect("removed");
        let shared = shared(&files);
        let (runs, directory) = (Path::new(RUNS), table.directory());
        let staging = Staging { files: &shared, spec: &load.spec, runs, table: directory, backfill: BACKFILL };
        let mut staged = StagedRows::default();
        staged.push(load.batch(&load.rows, taken(5, false)));
        let run = staged.write(&staging, "again".to_owned()).expect("written");
        let watch = StagingWatch::new(|_| false);
        let given_up = staging.merge(&[run], &OPTIONS, &watch).expect_err("nobody waits");
        assert!(matches!(given_up, HistoryError::GivenUp), "{given_up}");
        assert_eq!(names_in(&files, directory).len(), 1, "only the log");
    });
}

/// A landing, then a backfill, then a landing.
async fn live(load: &Load, files: &LossyFiles, known: &mut (u64, bool, u64)) -> Result<(), HistoryError> {
    let table = try_open(files, &load.spec).await?;
    land(load, &table, 1).await?;
    known.0 = 1;
    let single = StagingOptions { threads: 1, ..OPTIONS };
    let staged = load.stage(&shared(files), table.directory(), 20, taken(5, true), &single)?;
    // What the log's control record names from here on.
    known.1 = true;
    table.take_in(BACKFILL, staged, taken(5, true), 0).await?;
    known.2 = 5;
    land(load, &table, 6).await?;
    known.0 = 6;
    Ok(())
}

fn landed_rows(load: &Load, frame: u64) -> Vec<Row> {
    let rows = (0..10).map(|ordinal| {
        let row = row((ordinal % 3) as u16, i64::from(ordinal), 1, frame, ordinal);
        with_values(row, &load.spec, 1, frame)
    });
    rows.collect()
}

async fn land(load: &Load, table: &HistoryTable, frame: u64) -> Result<(), HistoryError> {
    let rows = sorted(landed_rows(load, frame));
    table.land(ModelRun::new(&load.spec, &rows, 9), frame, 0).await.map(drop)
}

#[test]
fn a_power_cut_at_any_operation_of_a_backfill_leaves_all_of_it_or_nothing() {
    let load = Load::new(small_spec(), 60, 5);
    block_on(async {
        let files = LossyFiles::new(0);
        live(&load, &files, &mut (0, false, 0)).await.expect("nothing fails");
        for operation in 0..=files.operations() {
            let files = LossyFiles::new(operation);
            files.fail_on(operation, Fault::Device);
            let mut known = (0, false, 0);
            let _ = live(&load, &files, &mut known).await;
            files.heal();
            files.crash();
            let context = format!("power cut at operation {operation}, {known:?}");
            let table = open(&files, &load.spec).await;
            let is_taken_in = table.taken_in(BACKFILL).await.expect("readable") == Some(5);
            assert!(is_taken_in || known.2 == 0, "{context}: it is gone");
            let landed = table.snapshot().landed_through;
            assert!(landed >= known.0, "{context}");
            let mut expected = Vec::new();
            for frame in [1, 6].into_iter().filter(|frame| *frame <= landed) {
                expected.extend(landed_rows(&load, frame));
            }
            if is_taken_in {
                expected.extend(load.taken(taken(5, true)));
            }
            assert_table(&table.snapshot(), &sorted(expected));
            // All that was staged was durable before the log named it.
            let kept = if known.1 { HashSet::from([BACKFILL.to_owned()]) } else { HashSet::new() };
            table.remove_staged(kept).await.unwrap_or_else(|error| panic!("{context}: {error}"));
            if !known.1 {
                let directory = table.directory().to_owned();
                assert_eq!(
                    names_in(&files, &directory).len() - 1,
                    table.snapshot().files.len(),
                    "{context}: leftovers"
                );
            }
        }
    });
}

/// Some rows of a frame, few keys and fewer instants, so that mostly their positions tell them apart. Each has
/// a number of its own, from the first on.
fn tied(random: &mut u64, frame: u64, first: i64, count: u64) -> Vec<Row> {
    let tied = (0..count as u32).map(|ordinal| {
        let row = row(drawn(random, 3) as u16, drawn(random, 3) as i64, drawn(random, 2) as i64, frame, ordinal);
        let number = first + i64::from(ordinal);
        match drawn(random, 6) {
            0 => Row { deleted: true, ..row },
            _ => Row { values: vec![Value::Int64(number)], ..row },
        }
    });
    tied.collect()
}

fn drawn(random: &mut u64, below: u64) -> u64 {
    *random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
    (*random >> 33) % below
}

/// Names the seed of what failed.
struct Failing(u64);

impl Drop for Failing {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the history of seed {} fails", self.0);
        }
    }
}

/// Slot, key, event time, known time, whether it deletes, and its number.
type Met = (u16, Vec<u8>, i64, i64, bool, Option<i64>);

/// The rows of a table and a tail up to a cut-off, as a join meets them: all that orders them but positions,
/// and their values.
fn met(snapshot: &TableSnapshot, tail: &[Row], cutoff: Option<i64>, is_in_order: bool) -> Vec<Met> {
    let sought = Arc::new(Sought::default());
    let open = |chain| {
        let run = match is_in_order {
            true => snapshot.open_chain_in_order(&chain, &[0], &sought, cutoff),
            false => snapshot.open_chain_for(&chain, &[0], &sought),
        };
        Box::new(run.expect("open")) as Box<dyn Run>
    };
    let mut runs: Vec<Box<dyn Run>> = snapshot.chains_with(None, cutoff).into_iter().map(open).collect();
    runs.push(Box::new(ModelRun::new(snapshot.spec(), &sorted(tail.to_vec()), 4)));
    let mut rows = MergedRuns::new(runs, cutoff).expect("merged");
    let mut met = Vec::new();
    while let Some(row) = rows.peek() {
        let value = value_at(&row.batch.features[0], snapshot.spec().features[0].1, row.index).expect("a number");
        let number = if let Value::Int64(number) = value { Some(number) } else { None };
        let RowVersion { event_time, known_time, .. } = row.version();
        met.push((row.slot(), row.key().to_vec(), event_time, known_time, row.deleted(), number));
        rows.advance().expect("readable");
    }
    met
}

/// Over random writes, landings, backfills and merges: positions that are stood in for order rows as their own
/// do, and cut-offs leave out the same ones.
async fn check_order(seed: u64, tally: &mut [usize; 3]) {
    let _failing = Failing(seed);
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let files = LossyFiles::new(seed);
    let table = open(&files, &small_spec()).await;
    let (mut frame, mut tail) = (0, Vec::new());
    for _ in 0..drawn(&mut random, 12) + 3 {
        match drawn(&mut random, 10) {
            0..=3 => {
                frame += 1;
                let count = drawn(&mut random, 5) + 1;
                tail.extend(tied(&mut random, frame, frame as i64 * 100, count));
            }
            4..=5 if !tail.is_empty() => {
                let rows = sorted(std::mem::take(&mut tail));
                table.land(ModelRun::new(&small_spec(), &rows, 3), frame, 0).await.expect("landed");
            }
            6..=7 => {
                frame += 1;
                let taken = taken(frame, drawn(&mut random, 2) == 0);
                let count = drawn(&mut random, 7) + 1;
                let load = Load { spec: small_spec(), rows: tied(&mut random, 0, frame as i64 * 100, count) };
                let options = StagingOptions { level: drawn(&mut random, 2) as u32, file_bytes: 1, ..OPTIONS };
                let staged = load.stage(&shared(&files), table.directory(), 3, taken, &options).expect("staged");
                table.take_in(&format!("{frame}"), staged, taken, 0).await.expect("taken in");
                for name in names_in(&files, Path::new(RUNS)) {
                    files.remove(&Path::new(RUNS).join(name)).expect("removed");
                }
                tally[0] += 1;
            }
            8..=9 => tally[1] += usize::from(compact(&table, EAGER, 0).await.expect("merged").is_some()),
            _ => {}
        }
        let cutoff = drawn(&mut random, frame + 2) as i64 * 10 + drawn(&mut random, 2) as i64 * 3;
        for cutoff in [None, Some(cutoff)] {
            let snapshot = table.snapshot();
            let plain = met(&snapshot, &tail, cutoff, false);
            assert_eq!(met(&snapshot, &tail, cutoff, true), plain, "cut-off {cutoff:?}, frame {frame}");
            tally[2] += plain.len();
        }
    }
}

#[test]
fn positions_that_are_stood_in_for_order_rows_as_their_own_do() {
    let mut tally = [0; 3];
    block_on(async {
        for seed in 0..300 {
            check_order(seed, &mut tally).await;
        }
    });
    let [taken_in, merged, rows] = tally;
    assert!(taken_in > 300 && merged > 50 && rows > 10_000, "{taken_in} backfills, {merged} merges, {rows} rows");
}
