//! Any rows, landed in any cuts and merged at any moments, read back as if they had been sorted whole.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::files::LossyFiles;
use crate::history::{Chain, Sought};

/// (key, event time, known time, seed of the values, deleted)
type Drawn = (u16, i64, i64, u64, bool);

/// When files are taken out of a table. Delta Lake compares with the machine's clock when it forgets
/// them, a week later, and what is forgotten is deleted when the table is opened again.
const FAR_AHEAD: i64 = 4_000_000_000_000_000;

/// What happens to a table.
#[derive(Clone, Debug)]
enum Step {
    Land(Vec<Drawn>),
    /// Merges, with this many runs a level; rows may land before the commit.
    Merge(usize, Vec<Drawn>),
    AddFeature,
    Reopen,
}

fn drawn(most: usize) -> impl Strategy<Value = Vec<Drawn>> {
    let row = (0u16..9, -3i64..4, -3i64..4, any::<u32>().prop_map(u64::from), prop::bool::weighted(0.2));
    prop::collection::vec(row, 0..most)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => drawn(60).prop_map(Step::Land),
        4 => (2usize..4, drawn(20)).prop_map(|(runs, rows)| Step::Merge(runs, rows)),
        2 => Just(Step::AddFeature),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..24)
}

/// A table, and the rows that it must have.
struct Model {
    files: LossyFiles,
    spec: HistoryViewSpec,
    table: HistoryTable,
    rows: Vec<Row>,
    frame: u64,
}

impl Model {
    async fn new(seed: u64) -> Self {
        let (files, spec) = (LossyFiles::new(seed), spec());
        let table = open(&files, &spec).await;
        Self { files, spec, table, rows: Vec::new(), frame: 0 }
    }

    /// Rows of one request, which land.
    async fn land(&mut self, drawn: &[Drawn]) {
        self.frame += 1;
        let rows = drawn.iter().zip(0..).map(|((number, event, known, seed, deleted), ordinal)| {
            let mut row = row(*number, *event, *known, self.frame, ordinal);
            row.deleted = *deleted;
            with_values(row, &self.spec, self.spec.features.len(), *seed)
        });
        let rows = sorted(rows.collect());
        self.table.land(ModelRun::new(&self.spec, &rows, 7), self.frame, 0).await.expect("land");
        self.rows = sorted([std::mem::take(&mut self.rows), rows].concat());
    }

    async fn add_feature(&mut self) {
        let number = self.spec.features.len();
        let types = [
            DataType::Vector(2),
            DataType::Scalar(ScalarType::String),
            DataType::List(ScalarType::Bytes),
            DataType::Scalar(ScalarType::Bool),
        ];
        self.spec.features.push((name(&format!("more_{number}")), types[number % types.len()]));
        self.table.add_features(self.spec.features.clone()).await.expect("add");
    }

    async fn take(&mut self, step: &Step) {
        match step {
            Step::Land(rows) => self.land(rows).await,
            Step::AddFeature => self.add_feature().await,
            Step::Reopen => self.table = open(&self.files, &self.spec).await,
            Step::Merge(runs_per_level, meanwhile) => {
                let options = MergeOptions { runs_per_level: *runs_per_level, ..EAGER };
                let Some(merge) = self.table.merge(options, unpaced()).await.expect("merge") else { return };
                // The table may grow before the commit, in rows and features.
                self.land(meanwhile).await;
                if meanwhile.len() > 15 {
                    self.add_feature().await;
                }
                let runs = self.table.snapshot().chains_with(None, None).len();
                let report = self.table.commit(merge, FAR_AHEAD).await.expect("commit");
                assert_eq!(self.table.snapshot().chains_with(None, None).len(), runs - report.runs + 1);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn rows_landed_and_merged_at_any_moments_read_back_as_the_sorted_whole(
        steps in steps(),
        cutoff in prop::option::of(0i64..200),
        some_features in prop::collection::vec(0usize..17, 0..4),
        targets in prop::collection::btree_set(0u16..10, 0..6),
    ) {
        block_on(async {
            let mut model = Model::new(steps.len() as u64).await;
            let mut versions = vec![(model.table.snapshot(), Vec::new())];
            for step in &steps {
                model.take(step).await;
                assert_table(&model.table.snapshot(), &model.rows);
                versions.push((model.table.snapshot(), model.rows.clone()));
            }
            // What was read before is read still.
            for (snapshot, rows) in &versions {
                assert_table(snapshot, rows);
            }
            let Model { files, spec, table, rows, .. } = model;
            let snapshot = table.snapshot();
            assert_table(&open(&files, &spec).await.snapshot(), &rows);

            let in_time: Vec<Row> =
                rows.iter().filter(|row| cutoff.is_none_or(|cutoff| row.ingest_time <= cutoff)).cloned().collect();
            assert_reads(merged(&snapshot, &some_features, None, cutoff), &in_time, &spec, &some_features);
            let mut cursor = merged(&snapshot, &some_features, None, cutoff);
            let mut place = 0;
            for target in &targets {
                let (slot, key) = key(*target);
                cursor.seek(slot, &key).expect("seek");
                place = place.max(in_time.partition_point(|row| (row.slot, &row.key) < (slot, &key)));
                for _ in 0..3 {
                    match (cursor.peek(), in_time.get(place)) {
                        (Some(read), Some(expected)) => assert_same(read, expected, &spec, &some_features),
                        (read, expected) => assert!(read.is_none() && expected.is_none()),
                    }
                    cursor.advance().expect("advance");
                    place = (place + 1).min(in_time.len());
                }
            }
            assert_order(&snapshot, &in_time, &some_features, cutoff);
            // Leaving out slots leaves out no row of the others.
            let wanted: SlotSet = targets.iter().map(|number| key(*number).0).collect();
            let mut pruned = merged(&snapshot, &some_features, Some(&wanted), cutoff);
            for row in in_time.iter().filter(|row| wanted.contains(row.slot)) {
                while pruned.peek().is_some_and(|read| !wanted.contains(read.slot())) {
                    pruned.advance().expect("advance");
                }
                assert_same(pruned.peek().expect("a wanted row"), row, &spec, &some_features);
                pruned.advance().expect("advance");
            }
        });
    }
}

/// Read for their order only, the rows are the same in the same order, and their positions say of rows
/// at one instant which comes first.
fn assert_order(snapshot: &TableSnapshot, expected: &[Row], projection: &[usize], cutoff: Option<i64>) {
    let open = |chain: &Chain<'_>| {
        Box::new(
            snapshot.open_chain_in_order(chain, projection, &Arc::new(Sought::of_slots(None)), cutoff).expect("open"),
        ) as Box<dyn Run>
    };
    let runs = snapshot.chains_with(None, cutoff).iter().map(open).collect();
    let mut cursor = MergedRuns::new(runs, cutoff).expect("merge");
    let mut before: Option<RowAt> = None;
    for row in expected {
        let read = cursor.peek().unwrap_or_else(|| panic!("the row {:?} is missing", row.order())).clone();
        let told = RowVersion { position: row.version.position, ..read.version() };
        assert_eq!((read.slot(), read.key(), told), row.order());
        assert_eq!((read.deleted(), usize::from(read.feature_count())), (row.deleted, row.values.len()), "{row:?}");
        for (column, index) in read.batch.features.iter().zip(projection) {
            let found = value_at(column, snapshot.spec().features[*index].1, read.index).expect("the feature's type");
            let wanted = if row.deleted { None } else { row.values.get(*index) };
            assert!(found.same_bits(wanted.unwrap_or(&Value::Null)), "{found:?} in place of {wanted:?}");
        }
        assert!(before.is_none_or(|before| before.compare(&read).is_lt()), "{row:?}");
        assert!(read.version().position.frame <= snapshot.landed_through, "tails come after it");
        cursor.advance().expect("advance");
        before = Some(read);
    }
    assert!(cursor.peek().is_none(), "more rows than expected");
}

#[test]
fn what_tells_where_rows_come_from_is_not_read_where_only_their_order_is_wanted() {
    block_on(async {
        let (files, spec) = (LossyFiles::new(5), small_spec());
        let (table, _) = landed(&files, &spec, 3, 40).await;
        compact(&table, EAGER, FAR_AHEAD).await.expect("compact").expect("a merge");
        table.land(ModelRun::new(&spec, &[row(1, 0, 0, 4, 0)], 7), 4, 0).await.expect("land");
        let snapshot = table.snapshot();
        for chain in snapshot.chains_with(None, None) {
            let mut run =
                snapshot.open_chain_in_order(&chain, &[0], &Arc::new(Sought::of_slots(None)), None).expect("open");
            let mut frames = BTreeSet::new();
            while let Some(batch) = run.next().expect("read") {
                assert!(batch.revisions.iter().all(|revision| *revision == 0));
                frames.extend(batch.frames.iter().copied());
            }
            assert_eq!(frames.len(), 1, "{chain:?}");
        }
        // As if what was merged had been taken in while older rows are in the tails.
        let ahead = TableSnapshot { landed_through: 2, ..TableSnapshot::clone(&snapshot) };
        let merged = &ahead.chains_with(None, None)[0];
        let mut run = ahead.open_chain_in_order(merged, &[0], &Arc::new(Sought::of_slots(None)), None).expect("open");
        let mut frames = BTreeSet::new();
        while let Some(batch) = run.next().expect("read") {
            frames.extend(batch.frames.iter().copied());
        }
        assert_eq!(frames, BTreeSet::from([1, 2, 3]));
    });
}

/// So many landings of `rows` rows each.
async fn landed(files: &LossyFiles, spec: &HistoryViewSpec, landings: u64, rows: u32) -> (HistoryTable, Vec<Row>) {
    let table = open(files, spec).await;
    let draw = |frame: u64, ordinal: u32| {
        let row = row((ordinal % 7) as u16, i64::from(ordinal), 0, frame, ordinal);
        with_values(row, spec, spec.features.len(), frame * 31 + u64::from(ordinal))
    };
    let all: Vec<Row> = (1..=landings).flat_map(|frame| (0..rows).map(move |at| draw(frame, at))).collect();
    for frame in 1..=landings {
        let rows = of_frames(&all, frame, frame);
        table.land(ModelRun::new(spec, &rows, 9), frame, 0).await.expect("land");
    }
    (table, sorted(all))
}

#[test]
fn the_files_of_a_run_follow_one_another_and_one_key_may_span_many() {
    block_on(async {
        let (files, spec) = (LossyFiles::new(1), small_spec());
        let (table, rows) = landed(&files, &spec, 4, 60).await;
        let report = compact(&table, EAGER, 0).await.expect("compact").expect("there is something to merge");
        assert_eq!((report.runs, report.removed_files, report.rows), (4, 4, 240));
        let snapshot = table.snapshot();
        let chains = snapshot.chains_with(None, None);
        assert_eq!((chains.len(), report.files), (1, snapshot.files.len()));
        let files = chains[0].files();
        assert!(files.len() > 7, "{} files for 7 keys, so that some are of one key", files.len());
        for pair in files.windows(2) {
            assert!(pair[0].slots().1 <= pair[1].slots().0, "{:?} and {:?}", pair[0].slots(), pair[1].slots());
        }
        assert_table(&snapshot, &rows);
        // Of files that none of the wanted slots is in, none is read.
        let wanted: SlotSet = [files[0].slots().0].into_iter().collect();
        let few = snapshot.chains_with(Some(&wanted), None);
        assert!(few.len() == 1 && few[0].files().len() < files.len() / 2);
        assert!(snapshot.chains_with(None, Some(-1)).is_empty());
    });
}

#[test]
fn seeking_in_a_run_of_many_files_opens_few_of_them() {
    block_on(async {
        let (files, spec) = (LossyFiles::new(2), small_spec());
        let (table, rows) = landed(&files, &spec, 4, 200).await;
        compact(&table, EAGER, 0).await.expect("compact").expect("there is something to merge");
        let snapshot = table.snapshot();
        let last = rows.last().expect("a row");
        let before = files.operations();
        let mut cursor = merged(&snapshot, &[0], None, None);
        cursor.seek(last.slot, &last.key).expect("seek");
        let first_of_last = rows.iter().find(|row| (row.slot, &row.key) == (last.slot, &last.key)).expect("a row");
        assert_same(cursor.peek().expect("a row"), first_of_last, &spec, &[0]);
        let sought = files.operations() - before;
        let before = files.operations();
        assert_reads(merged(&snapshot, &[0], None, None), &rows, &spec, &[0]);
        let walked = files.operations() - before;
        assert!(sought * 4 < walked, "seeking took {sought} reads, walking {walked}");
    });
}

#[test]
fn runs_stay_few_and_rows_are_written_as_often_as_there_are_levels() {
    block_on(async {
        let (files, spec) = (LossyFiles::new(3), small_spec());
        let table = open(&files, &spec).await;
        let (landings, per_level) = (70u64, 4usize);
        let options = MergeOptions { runs_per_level: per_level, ..EAGER };
        // 4^3 is 64: at most three merges of a row, and so four levels.
        let levels = landings.ilog(per_level as u64) as usize;
        let (mut written, mut all) = (0, Vec::new());
        for frame in 1..=landings {
            let rows: Vec<Row> =
                (0..3).map(|at| with_values(row(at as u16, 1, 1, frame, at), &spec, 1, frame)).collect();
            let rows = sorted(rows);
            table.land(ModelRun::new(&spec, &rows, 9), frame, 0).await.expect("land");
            all.extend(rows);
            while let Some(report) = compact(&table, options, 0).await.expect("compact") {
                written += report.rows;
            }
            let runs = table.snapshot().chains_with(None, None).len();
            let most = (frame.ilog(per_level as u64) as usize + 1) * (per_level - 1);
            assert!(runs <= most, "{runs} runs after {frame} landings");
        }
        assert!(written <= all.len() as u64 * levels as u64, "{written} rows written for {}", all.len());
        assert_table(&table.snapshot(), &sorted(all));
    });
}

#[test]
fn what_does_not_fit_is_merged_two_by_two_and_what_is_too_large_is_left() {
    block_on(async {
        let (files, spec) = (LossyFiles::new(4), small_spec());
        let (table, rows) = landed(&files, &spec, 4, 40).await;
        let snapshot = table.snapshot();
        let bytes: Vec<u64> = snapshot.files.iter().map(|file| file.bytes).collect();
        let of = |merge_bytes| snapshot.runs_to_merge(&MergeOptions { merge_bytes, ..EAGER }).len();
        let (all, most) = (bytes.iter().sum(), *bytes.iter().max().expect("files"));
        assert_eq!((of(all), of(most * 2), of(most)), (4, 2, 0));

        let report = compact(&table, MergeOptions { memory: 1, ..EAGER }, 0).await.expect("compact");
        assert_eq!(report.expect("something to merge").runs, 2);
        assert_table(&table.snapshot(), &rows);
    });
}

#[test]
fn a_merge_that_is_given_up_or_dropped_leaves_nothing() {
    block_on(async {
        let (files, spec) = (LossyFiles::new(5), small_spec());
        let (table, rows) = landed(&files, &spec, 3, 60).await;
        let directory = Path::new(ROOT).join(spec.directory());
        let (before, names) = (table.snapshot().delta_version, names_in(&files, &directory));
        for calls in 0..12 {
            let mut left = calls;
            let pace: Pace = Box::new(move |_| {
                left -= 1;
                left >= 0
            });
            match table.merge(EAGER, pace).await {
                Err(HistoryError::GivenUp) => {}
                other => panic!("{other:?} after {calls} calls"),
            }
            assert_eq!(names_in(&files, &directory), names);
        }
        drop(table.merge(EAGER, unpaced()).await.expect("merge").expect("something to merge"));
        assert_eq!((names_in(&files, &directory), table.snapshot().delta_version), (names, before));
        compact(&table, EAGER, 0).await.expect("compact").expect("it goes on");
        assert_table(&table.snapshot(), &rows);
    });
}

#[test]
fn a_damaged_file_stops_its_merge_and_changes_nothing() {
    block_on(async {
        let (files, spec) = (LossyFiles::new(6), small_spec());
        let (table, rows) = landed(&files, &spec, 3, 300).await;
        let snapshot = table.snapshot();
        let directory = Path::new(ROOT).join(spec.directory());
        let names = names_in(&files, &directory);
        let path = directory.join(&snapshot.files[1].name);
        let length = files.read(&path).expect("read").len();
        for at in [0, length / 3, length / 2, length - 3] {
            files.damage(&path, |bytes| bytes[at] ^= 4).expect("damage");
            let refused = compact(&table, EAGER, 0).await.expect_err("a damaged file");
            assert!(matches!(&refused, HistoryError::DamagedPage { file, .. } if *file == path), "{refused}");
            assert_eq!(names_in(&files, &directory), names);
            files.damage(&path, |bytes| bytes[at] ^= 4).expect("repair");
        }
        assert_eq!(table.snapshot().delta_version, snapshot.delta_version);
        compact(&table, EAGER, 0).await.expect("compact").expect("it goes on");
        assert_table(&table.snapshot(), &rows);
    });
}

#[test]
fn landing_does_not_wait_for_a_merge() {
    block_on(async {
        let (files, spec) = (LossyFiles::new(7), small_spec());
        let (table, mut rows) = landed(&files, &spec, 3, 60).await;
        let (reached, merging) = std::sync::mpsc::sync_channel(1);
        let (go_on, may_go_on) = std::sync::mpsc::sync_channel::<()>(1);
        let pace: Pace = Box::new(move |_| reached.send(()).is_ok() && may_go_on.recv().is_ok());
        let of_merge = table.clone();
        let merge = tokio::spawn(async move { of_merge.merge(EAGER, pace).await });
        tokio::task::spawn_blocking(move || merging.recv()).await.expect("no panic").expect("it has begun");
        let more = [with_values(row(3, 9, 9, 4, 0), &spec, 1, 5)];
        table.land(ModelRun::new(&spec, &more, 1), 4, 0).await.expect("land");
        drop(go_on);
        assert!(matches!(merge.await.expect("no panic"), Err(HistoryError::GivenUp)));
        rows.extend(more);
        assert_table(&table.snapshot(), &sorted(rows));
    });
}
