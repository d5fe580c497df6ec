//! Seeking few keys at few instants: what is found is what looking at every row finds, and what is
//! read is a few pages and not the file.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;
use crate::files::{DirEntry, FileMetadata, FileWriter, LossyFiles};
use crate::history::footers::Footers;
use crate::history::{FileShape, Sought, SoughtKeys};

async fn open_shaped(files: impl Files + 'static, spec: &HistoryViewSpec, shape: FileShape) -> HistoryTable {
    let opened =
        HistoryTable::open_with(Arc::new(files), Path::new(ROOT), spec.clone(), (Footers::new(1 << 20), shape));
    opened.await.expect("open the table")
}

/// Which row counts at an instant, as known then and of all that had happened.
fn counting(rows: &[&Row], time: i64, cutoff: Option<i64>) -> [Option<RowVersion>; 2] {
    let taken = || rows.iter().filter(move |row| cutoff.is_none_or(|cutoff| row.ingest_time <= cutoff));
    let finally = taken().filter(move |row| row.version.event_time <= time).map(|row| row.version).max();
    [taken().map(|row| row.version).filter(|version| version.is_visible_at(time)).max(), finally]
}

/// What is asked at which instants, by key, as a reader hands it over.
fn sought_keys(asked: &BTreeMap<u16, Vec<i64>>) -> SoughtKeys {
    let mut keys: Vec<(u16, Vec<u8>, &Vec<i64>)> = asked
        .iter()
        .map(|(number, times)| (key(*number), times))
        .map(|((slot, key), times)| (slot, key, times))
        .collect();
    keys.sort();
    let mut sought = SoughtKeys::default();
    for (slot, key, times) in keys {
        times.iter().for_each(|time| sought.push(slot, &key, *time));
    }
    sought
}

fn late() -> impl Strategy<Value = i64> {
    prop_oneof![6 => Just(0i64), 2 => 0i64..30, 1 => Just(10_000), 1 => -20i64..0]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever is left out, the rows that count at the sought instants are there, in both modes and
    /// under any cut-off: of many rows a key and of few, known at once, late, early or never.
    #[test]
    fn no_row_that_counts_at_a_sought_instant_is_left_out(
        drawn in prop::collection::vec((0u16..6, 0i64..60, late(), 0u64..5), 1..300),
        asked in prop::collection::btree_map(0u16..8, prop::collection::btree_set(-5i64..120, 1..6), 1..6),
        cutoff in prop::option::of(0i64..50),
        page_rows in prop::sample::select(vec![1usize, 3, 8]),
        group_rows in prop::sample::select(vec![16usize, 1 << 20]),
        batch_rows in 1usize..40,
    ) {
        let spec = small_spec();
        let rows = drawn.iter().zip(0u32..).map(|((number, event, delay, frame), ordinal)| {
            with_values(row(*number, *event, event + delay, *frame + 1, ordinal), &spec, 1, u64::from(ordinal))
        });
        let rows = sorted(rows.collect());
        let files = LossyFiles::new(1);
        let table = block_on(async {
            let table = open_shaped(files, &spec, FileShape { group_rows, page_rows }).await;
            table.land(ModelRun::new(&spec, &rows, batch_rows), 6, 0).await.expect("land");
            table
        });
        let asked: BTreeMap<u16, Vec<i64>> =
            asked.into_iter().map(|(number, times)| (number, times.into_iter().collect())).collect();
        let until = asked.values().flatten().copied().max();
        let slots: SlotSet = asked.keys().map(|number| key(*number).0).collect();
        let keys = Some(Arc::new(sought_keys(&asked)));
        let sought = Arc::new(Sought { slots: Some(slots), until, cutoff, keys });
        let snapshot = table.snapshot();
        let chains = snapshot.chains_with(None, None);
        let run = snapshot.open_chain_for(&chains[0], &[0], &sought).expect("open");
        let mut read: Vec<Row> = Vec::new();
        let mut merged = MergedRuns::new(vec![Box::new(run)], cutoff).expect("merge");
        while let Some(at) = merged.peek() {
            let same = rows.iter().find(|row| row.order() == (at.slot(), at.key(), at.version())).expect("a row that landed");
            assert_same(at, same, &spec, &[0]);
            read.push(same.clone());
            merged.advance().expect("advance");
        }
        for (number, times) in &asked {
            let (slot, key) = key(*number);
            let of_key = |rows: &[Row]| -> Vec<Row> {
                rows.iter().filter(|row| (row.slot, &row.key) == (slot, &key)).cloned().collect()
            };
            let (all, found) = (of_key(&rows), of_key(&read));
            for time in times {
                let (all, found): (Vec<&Row>, Vec<&Row>) = (all.iter().collect(), found.iter().collect());
                prop_assert_eq!(counting(&found, *time, cutoff), counting(&all, *time, cutoff), "{} at {}", number, time);
            }
        }
    }
}

/// Files whose reads are counted.
#[derive(Clone, Debug)]
struct CountedFiles {
    files: LossyFiles,
    reads: Arc<AtomicUsize>,
    bytes: Arc<AtomicUsize>,
}

impl CountedFiles {
    fn new() -> Self {
        Self { files: LossyFiles::new(1), reads: Arc::default(), bytes: Arc::default() }
    }

    /// Reads and bytes since the last time.
    fn take(&self) -> (usize, usize) {
        (self.reads.swap(0, Ordering::Relaxed), self.bytes.swap(0, Ordering::Relaxed))
    }
}

impl Files for CountedFiles {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn FileWriter>> {
        self.files.create_new(path)
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn FileWriter>> {
        self.files.open_append(path)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.files.read(path)
    }

    fn read_range(&self, path: &Path, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(length, Ordering::Relaxed);
        self.files.read_range(path, offset, length)
    }

    fn metadata(&self, path: &Path) -> io::Result<FileMetadata> {
        self.files.metadata(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.files.rename(from, to)
    }

    fn rename_no_replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.files.rename_no_replace(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.files.hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.files.remove(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<DirEntry>> {
        self.files.list(directory)
    }

    fn create_dir_all(&self, directory: &Path) -> io::Result<()> {
        self.files.create_dir_all(directory)
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        self.files.sync_dir(directory)
    }

    fn is_same_file(&self, one: &Path, other: &Path) -> io::Result<bool> {
        self.files.is_same_file(one, other)
    }
}

const COLUMNS: usize = 12;

fn wide_spec() -> HistoryViewSpec {
    let feature = |number: usize| (name(&format!("f{number}")), DataType::Scalar(ScalarType::Float64));
    HistoryViewSpec { features: (0..COLUMNS).map(feature).collect(), ..small_spec() }
}

/// 200,000 rows of twelve features, of `keys` keys.
fn long_history(spec: &HistoryViewSpec, keys: u32) -> Vec<Row> {
    let rows = (0..200_000u32).map(|ordinal| {
        let mut row = row((ordinal % keys) as u16, i64::from(ordinal / keys), 0, 1, ordinal);
        row.version.known_time = row.version.event_time;
        row.slot = ((ordinal % keys) * 61) as u16;
        row.values = (0..COLUMNS).map(|n| Value::Float64(f64::from(ordinal.wrapping_mul(n as u32 * 2 + 1)))).collect();
        row
    });
    let rows = sorted(rows.collect());
    assert_eq!(rows[0].values.len(), spec.features.len());
    rows
}

#[test]
fn seeking_few_rows_reads_a_few_pages_of_the_columns_that_are_asked_for() {
    let spec = wide_spec();
    // Of few keys with many rows each, where the instants tell the pages, and of many with few.
    for keys in [20, 1_000] {
        let rows = long_history(&spec, keys);
        let files = CountedFiles::new();
        let table = block_on(async {
            let table = open_shaped(files.clone(), &spec, FileShape { group_rows: 32 * 1024, page_rows: 256 }).await;
            table.land(ModelRun::new(&spec, &rows, 8_192), 1, 0).await.expect("land");
            table
        });
        let snapshot = table.snapshot();
        let file = &snapshot.files[0];
        let read = |projection: &[usize], sought: &Sought| {
            files.take();
            let run = snapshot.open_run_for(file, projection, sought).expect("open");
            let (page_rows, mut merged) =
                (run.remaining_rows(), MergedRuns::new(vec![Box::new(run)], None).expect("merge"));
            while merged.peek().is_some() {
                merged.advance().expect("advance");
            }
            (page_rows, files.take())
        };
        let all: Vec<usize> = (0..COLUMNS).collect();
        read(&all, &Sought::default());
        let (_, (_, walked)) = read(&all, &Sought::default());
        assert!(walked as u64 > file.bytes / 2, "{walked} of {} bytes", file.bytes);

        let mut sought_keys = SoughtKeys::default();
        let wanted: Vec<&Row> = rows.iter().step_by(rows.len() / 4 + 1).collect();
        wanted.iter().for_each(|row| sought_keys.push(row.slot, &row.key, row.version.event_time));
        let slots = wanted.iter().map(|row| row.slot).collect();
        let sought = Sought { slots: Some(slots), until: None, cutoff: Some(100), keys: Some(Arc::new(sought_keys)) };
        let (page_rows, (reads, bytes)) = read(&all, &sought);
        // A page of the row, and one beside it where it lies at an end; each in a block or two.
        assert!(page_rows <= wanted.len() * 2 * 256, "{page_rows} rows of pages for {}", wanted.len());
        assert!(reads <= wanted.len() * 3 * (COLUMNS + 6), "{reads} reads for {} rows", wanted.len());
        assert!(bytes * 4 < walked, "seeking read {bytes} bytes, walking {walked}");
        // Only the columns that are asked for.
        let (_, (_, few)) = read(&[0], &sought);
        assert!(few * 2 < bytes, "one feature took {few} bytes, {COLUMNS} took {bytes}");
        // Nothing that happens before the first row, or is taken in before it.
        let before = Sought { until: Some(-1), ..sought.clone() };
        assert_eq!(read(&all, &before).0, 0);
        let before = Sought { cutoff: Some(9), ..sought };
        assert_eq!(read(&all, &before).0, 0);
    }
}

#[test]
fn footers_are_read_once_and_kept_within_their_bound() {
    let spec = small_spec();
    let rows = sorted((0..2_000).map(|n| with_values(row(n % 7, i64::from(n), 0, 1, n.into()), &spec, 1, 5)).collect());
    let files = CountedFiles::new();
    let footers = Footers::new(200_000);
    let shape = FileShape { group_rows: 1_000, page_rows: 10 };
    let table = block_on(async {
        let opened =
            HistoryTable::open_with(Arc::new(files.clone()), Path::new(ROOT), spec.clone(), (footers.clone(), shape));
        let table = opened.await.expect("open");
        for frame in 1..=20 {
            let rows: Vec<Row> = rows
                .iter()
                .map(|row| Row {
                    version: RowVersion {
                        position: Position { frame, ordinal: row.version.position.ordinal },
                        ..row.version
                    },
                    ..row.clone()
                })
                .collect();
            table.land(ModelRun::new(&spec, &rows[..100 * frame as usize], 500), frame, 0).await.expect("land");
        }
        table
    });
    let snapshot = table.snapshot();
    let open = |number: usize| {
        files.take();
        snapshot.open_run(&snapshot.files[number], &[0], None).expect("open");
        files.take().0
    };
    assert_eq!((open(0), open(0), open(1), open(0)), (1, 0, 1, 0));
    for number in 0..snapshot.files.len() {
        open(number);
        assert!(footers.held_bytes() <= 200_000, "{}", footers.held_bytes());
    }
    assert!(footers.held_bytes() > 0);
    assert_eq!(open(0), 1, "the one that was used longest ago went");
}
