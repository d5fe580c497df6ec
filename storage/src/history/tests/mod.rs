//! History against a simple model: a list of rows, sorted. The tests land it in pieces, merge it
//! again, cut the power and flip bits.

mod compacting;
mod compacting_crash;
mod crash;
mod damage;
mod erasing;
mod landing;
mod merging;
mod pruning;
mod retaining;
mod seeking;
mod staging;
mod succeeding;
mod vacuum;

use std::collections::VecDeque;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use arrow_array::BinaryArray;

use super::{
    CompactReport, HistoryError, HistoryTable, HistoryViewSpec, MergeOptions, MergedRuns, Pace, RowAt, Run, RunBatch,
    SlotSet, TableSnapshot,
};
use crate::files::{Files, LossyFiles};
use crate::keys::encode_values;
use crate::names::Name;
use crate::order::{Position, RowVersion};
use crate::row::{ColumnBuilder, value_at};
use crate::value::{DataType, ScalarType, Value};

pub(super) const ROOT: &str = "/data/history";

/// A row as the model has it; `values` has one for each feature that the row knew.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub slot: u16,
    pub key: Vec<u8>,
    pub version: RowVersion,
    pub ingest_time: i64,
    pub deleted: bool,
    pub values: Vec<Value>,
}

impl Row {
    pub fn order(&self) -> (u16, &[u8], RowVersion) {
        (self.slot, &self.key, self.version)
    }

    /// Under which revision a row is written doesn't matter here, so it follows from the row.
    fn revision(&self) -> u64 {
        self.version.position.frame * 3 + 1
    }
}

pub(super) fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

/// A view with every type.
pub(super) fn spec() -> HistoryViewSpec {
    let mut features: Vec<(Name, DataType)> = ScalarType::ALL
        .iter()
        .map(|scalar| (name(&format!("a_{scalar}", scalar = scalar.as_str())), DataType::Scalar(*scalar)))
        .collect();
    let lists =
        ScalarType::ALL.iter().map(|scalar| (name(&format!("list_{}", scalar.as_str())), DataType::List(*scalar)));
    features.extend(lists);
    features.push((name("embedding"), DataType::Vector(3)));
    narrow_spec(features)
}

/// A view with few features, for tests that need many rows.
pub(super) fn small_spec() -> HistoryViewSpec {
    narrow_spec(vec![(name("n"), DataType::Scalar(ScalarType::Int64))])
}

fn narrow_spec(features: Vec<(Name, DataType)>) -> HistoryViewSpec {
    HistoryViewSpec {
        tenant: name("acme"),
        view: name("flights"),
        version: 1,
        join_keys: vec![(name("airport"), ScalarType::String), (name("runway"), ScalarType::Int64)],
        features,
    }
}

/// The key with a number; its slot rises with it.
pub(super) fn key(number: u16) -> (u16, Vec<u8>) {
    let mut key = Vec::new();
    let values = [Value::String(format!("airport\0{}", number % 3)), Value::Int64(i64::from(number) - 2)];
    assert!(encode_values(&values, &[ScalarType::String, ScalarType::Int64], &mut key).expect("a key"));
    // Several keys a slot, so that the key's order counts too.
    (number / 2 * 5_000, key)
}

pub(super) fn row(number: u16, event_time: i64, known_time: i64, frame: u64, ordinal: u32) -> Row {
    let (slot, key) = key(number);
    let version = RowVersion { event_time, known_time, position: Position { frame, ordinal } };
    Row { slot, key, version, ingest_time: frame as i64 * 10, deleted: false, values: Vec::new() }
}

/// A value of a type that follows from a seed; the seeds 0 to 3 give the odd ones.
pub(super) fn value(data_type: DataType, seed: u64) -> Value {
    let number = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    match (data_type, seed % 8) {
        (_, 0) => Value::Null,
        (DataType::Scalar(scalar), _) => scalar_value(scalar, seed, number),
        (DataType::List(_), 1) => Value::List(Vec::new()),
        (DataType::List(scalar), length) => {
            let element = |index: u64| match (seed + index) % 5 {
                0 => Value::Null,
                _ => scalar_value(scalar, seed + index, number.wrapping_add(index)),
            };
            Value::List((0..length).map(element).collect())
        }
        (DataType::Vector(dimension), 1) => Value::Vector(vec![-0.0; dimension as usize]),
        (DataType::Vector(dimension), _) => {
            Value::Vector((0..dimension).map(|index| f32::from_bits((number >> 32) as u32 ^ index)).collect())
        }
    }
}

fn scalar_value(scalar: ScalarType, seed: u64, number: u64) -> Value {
    let odd = seed % 8;
    match scalar {
        ScalarType::Bool => Value::Bool(number.is_multiple_of(2)),
        ScalarType::Int32 => Value::Int32(if odd == 1 { i32::MIN } else { number as i32 }),
        ScalarType::Int64 => Value::Int64(if odd == 1 { i64::MIN } else { number as i64 }),
        ScalarType::Float32 => Value::Float32(match odd {
            1 => -0.0,
            2 => 0.0,
            3 => f32::from_bits(0x7fc0_1234),
            _ => f32::from_bits(number as u32),
        }),
        ScalarType::Float64 => Value::Float64(match odd {
            1 => -0.0,
            2 => 0.0,
            3 => f64::from_bits(0x7ff8_0000_0000_1234),
            _ => f64::from_bits(number),
        }),
        ScalarType::String => Value::String(if odd == 1 { String::new() } else { format!("\u{1f6eb}{number}\0") }),
        ScalarType::Bytes => Value::Bytes(if odd == 1 { Vec::new() } else { number.to_le_bytes().to_vec() }),
        ScalarType::Timestamp => Value::Timestamp(if odd == 1 { i64::MIN } else { number as i64 / 4 }),
    }
}

/// Fills in values for the first `count` features.
pub(super) fn with_values(mut row: Row, spec: &HistoryViewSpec, count: usize, seed: u64) -> Row {
    let types = spec.features[..count].iter().zip(0..);
    row.values = types.map(|((_, data_type), index)| value(*data_type, seed + index)).collect();
    row
}

/// Rows, which must be in order, as a batch of the projected features.
pub(super) fn to_batch(spec: &HistoryViewSpec, projection: &[usize], rows: &[Row]) -> RunBatch {
    let feature = |index: &usize| {
        let mut column = ColumnBuilder::new(spec.features[*index].1, rows.len());
        for row in rows {
            let value = if row.deleted { None } else { row.values.get(*index) };
            column.push_value(value.unwrap_or(&Value::Null)).expect("a value of the feature's type");
        }
        column.finish()
    };
    let version = |row: &Row| row.version;
    RunBatch {
        slots: rows.iter().map(|row| row.slot).collect(),
        keys: BinaryArray::from_iter_values(rows.iter().map(|row| &row.key)),
        event_times: rows.iter().map(|row| version(row).event_time).collect(),
        known_times: rows.iter().map(|row| version(row).known_time).collect(),
        ingest_times: rows.iter().map(|row| row.ingest_time).collect(),
        frames: rows.iter().map(|row| version(row).position.frame).collect(),
        ordinals: rows.iter().map(|row| version(row).position.ordinal).collect(),
        revisions: rows.iter().map(Row::revision).collect(),
        feature_counts: rows.iter().map(|row| row.values.len() as u16).collect(),
        deleted: rows.iter().map(|row| row.deleted).collect(),
        features: projection.iter().map(feature).collect(),
    }
}

/// A run over rows of the model.
pub(super) struct ModelRun {
    batches: VecDeque<RunBatch>,
}

impl ModelRun {
    /// All features of the rows, in batches of so many rows.
    pub fn new(spec: &HistoryViewSpec, rows: &[Row], batch_rows: usize) -> Self {
        let all: Vec<usize> = (0..spec.features.len()).collect();
        Self { batches: rows.chunks(batch_rows).map(|rows| to_batch(spec, &all, rows)).collect() }
    }
}

impl Run for ModelRun {
    fn next(&mut self) -> Result<Option<Arc<RunBatch>>, HistoryError> {
        Ok(self.batches.pop_front().map(Arc::new))
    }
}

pub(super) fn sorted(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort_by(|left, right| left.order().cmp(&right.order()));
    rows
}

pub(super) fn of_frames(rows: &[Row], from: u64, through: u64) -> Vec<Row> {
    let wanted = rows.iter().filter(|row| (from..=through).contains(&row.version.position.frame));
    sorted(wanted.cloned().collect())
}

/// Whether a row read from history is the model's, to the last bit.
pub(super) fn assert_same(read: &RowAt, expected: &Row, spec: &HistoryViewSpec, projection: &[usize]) {
    assert_eq!((read.slot(), read.key(), read.version()), expected.order());
    assert_eq!((read.ingest_time(), read.deleted()), (expected.ingest_time, expected.deleted), "{expected:?}");
    assert_eq!(read.revision(), expected.revision());
    assert_eq!(usize::from(read.feature_count()), expected.values.len(), "{expected:?}");
    for (column, index) in read.batch.features.iter().zip(projection) {
        let (feature, data_type) = &spec.features[*index];
        assert_eq!(*column.data_type(), data_type.to_arrow(), "{feature}");
        let found = value_at(column, *data_type, read.index).expect("the feature's type");
        let wanted = if expected.deleted { None } else { expected.values.get(*index) };
        let wanted = wanted.unwrap_or(&Value::Null);
        assert!(found.same_bits(wanted), "{feature}: {found:?} in place of {wanted:?}");
    }
}

/// Reads a cursor to its end and compares all rows.
pub(super) fn assert_reads(mut merged: MergedRuns, expected: &[Row], spec: &HistoryViewSpec, projection: &[usize]) {
    for row in expected {
        let read = merged.peek().unwrap_or_else(|| panic!("the row {:?} is missing", row.order()));
        assert_same(read, row, spec, projection);
        merged.advance().expect("advance");
    }
    assert!(merged.peek().is_none(), "more rows than expected");
}

/// Compares the table's rows of all features with the model's.
pub(super) fn assert_table(snapshot: &TableSnapshot, expected: &[Row]) {
    let all: Vec<usize> = (0..snapshot.spec().features.len()).collect();
    let merged = merged(snapshot, &all, None, None);
    assert_reads(merged, expected, snapshot.spec(), &all);
    assert_eq!(snapshot.files.iter().map(|file| file.rows()).sum::<u64>(), expected.len() as u64);
}

pub(super) fn merged(
    snapshot: &TableSnapshot,
    projection: &[usize],
    slots: Option<&SlotSet>,
    cutoff: Option<i64>,
) -> MergedRuns {
    MergedRuns::new(open_runs(snapshot, projection, slots, cutoff).expect("open"), cutoff).expect("merge")
}

pub(super) fn open_runs(
    snapshot: &TableSnapshot,
    projection: &[usize],
    slots: Option<&SlotSet>,
    cutoff: Option<i64>,
) -> Result<Vec<Box<dyn Run>>, HistoryError> {
    let open = |chain| Ok(Box::new(snapshot.open_chain(&chain, projection, slots)?) as Box<dyn Run>);
    snapshot.chains_with(slots, cutoff).into_iter().map(open).collect()
}

/// Twenty rows of each frame, which happened when their ordinals say.
pub(super) fn rows_of_landings(landings: u64, event_time: impl Fn(u32) -> i64) -> Vec<Row> {
    let spec = small_spec();
    let draw = |frame: u64, ordinal: u32| {
        let row = row((ordinal % 7) as u16, event_time(ordinal), 0, frame, ordinal);
        with_values(row, &spec, 1, frame * 31 + u64::from(ordinal))
    };
    (1..=landings).flat_map(|frame| (0..20).map(move |ordinal| (frame, ordinal))).map(|(f, o)| draw(f, o)).collect()
}

/// A landing for each frame, the first two of which are merged, so that older files lie there too.
pub(super) async fn land_all(files: &LossyFiles, rows: &[Row]) {
    let spec = small_spec();
    let table = open(files, &spec).await;
    let last = rows.iter().map(|row| row.version.position.frame).max().expect("there are rows");
    for through in 1..=last {
        let landing = of_frames(rows, through, through);
        table.land(ModelRun::new(&spec, &landing, 9), through, 0).await.expect("landed");
        if through == 2 {
            compact(&table, EAGER, 0).await.expect("merged").expect("two runs");
        }
    }
}

/// Merges as soon as it can be done, into files that are as small as can be.
pub(super) const EAGER: MergeOptions =
    MergeOptions { runs_per_level: 2, file_bytes: 1, memory: 64 << 20, merge_bytes: 1 << 40 };

/// As fast as it goes.
pub(super) fn unpaced() -> Pace {
    Box::new(|_| true)
}

/// One merge, if there is one to be made.
pub(super) async fn compact(
    table: &HistoryTable,
    options: MergeOptions,
    now: i64,
) -> Result<Option<CompactReport>, HistoryError> {
    match table.merge(options, unpaced()).await? {
        Some(merge) => table.commit(merge, now).await.map(Some),
        None => Ok(None),
    }
}

/// The names in a directory.
pub(super) fn names_in(files: &impl Files, directory: &Path) -> Vec<String> {
    let entries = files.list(directory).expect("list").into_iter();
    entries.map(|entry| entry.name.into_string().expect("UTF-8")).collect()
}

pub(super) async fn open(files: &(impl Files + Clone + 'static), spec: &HistoryViewSpec) -> HistoryTable {
    try_open(files, spec).await.expect("open the table")
}

pub(super) async fn try_open(
    files: &(impl Files + Clone + 'static),
    spec: &HistoryViewSpec,
) -> Result<HistoryTable, HistoryError> {
    HistoryTable::open_or_create(Arc::new(files.clone()), Path::new(ROOT), spec.clone()).await
}

pub(super) fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime").block_on(work)
}
