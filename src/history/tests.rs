//! The join against a naive oracle: for every spine row and lookup, look at every row.

mod data_sets;

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{
    Array, ArrayRef, BinaryArray, DictionaryArray, Int64Array, LargeStringArray, ListArray, RecordBatch, StringArray,
    TimestampMicrosecondArray, TimestampNanosecondArray, UInt8Array,
};
use arrow_schema::SchemaRef;
use arrow_select::concat::concat_batches;
use hydrant_storage::history::{HistoryError, MergedRuns, Run, RunBatch};
use hydrant_storage::keys::{encode_values, slot_of};
use hydrant_storage::names::Name;
use hydrant_storage::order::{CellStatus, Position, RowVersion, missing_cell_status, row_status};
use hydrant_storage::value::{DataType, ScalarType, Value};
use proptest::prelude::*;

use super::asof::Mode;
use super::execute::{Findings, Outcome, RunRows};
use super::failure::JoinError;
use super::fan_in::{FanIn, OpenRun};
use super::plan::{Plan, Shape};
use super::reading::{Access, Reading, SpineFacts, TableFacts};
use super::sort::SortedSpine;
use super::spill::SpillSpace;
use super::spine::{Budget, SpineWriter};
use super::work::{self, Stop};
use crate::registry::catalog::{Lookup, ServiceColumn, View};
use crate::registry::selection::Selection;
use crate::testing::{made_up_view as view, name};

/// One row of history: key parts, times, features.
#[derive(Clone, Debug)]
struct Row {
    key: Vec<Value>,
    version: RowVersion,
    ingest: i64,
    deleted: bool,
    feature_count: u16,
    number: Option<i64>,
    word: Option<String>,
}

#[derive(Clone, Debug)]
struct SpineRow {
    k: Option<i64>,
    k2: Option<i64>,
    s: Option<String>,
    t: i64,
}

#[derive(Debug)]
struct VecRun(std::vec::IntoIter<Arc<RunBatch>>);

impl Run for VecRun {
    fn next(&mut self) -> Result<Option<Arc<RunBatch>>, HistoryError> {
        Ok(self.0.next())
    }
}

const TYPES: [DataType; 2] = [DataType::Scalar(ScalarType::Int64), DataType::Scalar(ScalarType::String)];

fn history_order(view: &View, row: &Row) -> (u16, Vec<u8>, RowVersion) {
    let types: Vec<ScalarType> = view.join_keys.iter().map(|key| key.key_type).collect();
    let mut key = Vec::new();
    assert!(encode_values(&row.key, &types, &mut key).expect("key types"));
    (slot_of(view.slot_seed, &key), key, row.version)
}

fn run_of(view: &View, rows: &[Row], projection: &[usize], batch_rows: usize) -> Box<dyn Run> {
    let keyed = rows.iter().map(|row| (history_order(view, row), row));
    let mut keyed: Vec<(u16, Vec<u8>, &Row)> = keyed.map(|((slot, key, _), row)| (slot, key, row)).collect();
    keyed.sort_by(|a, b| (a.0, &a.1, a.2.version).cmp(&(b.0, &b.1, b.2.version)));
    let batches: Vec<Arc<RunBatch>> = keyed
        .chunks(batch_rows)
        .map(|rows| {
            let all: [ArrayRef; 2] = [
                Arc::new(rows.iter().map(|row| row.2.number).collect::<Int64Array>()),
                Arc::new(rows.iter().map(|row| row.2.word.clone()).collect::<StringArray>()),
            ];
            Arc::new(RunBatch {
                slots: rows.iter().map(|row| row.0).collect(),
                keys: BinaryArray::from_iter_values(rows.iter().map(|row| &row.1)),
                event_times: rows.iter().map(|row| row.2.version.event_time).collect(),
                known_times: rows.iter().map(|row| row.2.version.known_time).collect(),
                ingest_times: rows.iter().map(|row| row.2.ingest).collect(),
                frames: rows.iter().map(|row| row.2.version.position.frame).collect(),
                ordinals: rows.iter().map(|row| row.2.version.position.ordinal).collect(),
                revisions: rows.iter().map(|_| 1).collect(),
                feature_counts: rows.iter().map(|row| row.2.feature_count).collect(),
                deleted: rows.iter().map(|row| row.2.deleted).collect(),
                features: projection.iter().map(|feature| all[*feature].clone()).collect(),
            })
        })
        .collect();
    Box::new(VecRun(batches.into_iter()))
}

/// Two views, one of them under two keys and two ttls.
fn selection(ttls: [Option<i64>; 4]) -> Selection {
    let by_k =
        view(1, &[("k", ScalarType::Int64)], &[("number", TYPES[0], Some(Value::Int64(-7))), ("word", TYPES[1], None)]);
    let by_both = view(
        2,
        &[("k", ScalarType::Int64), ("s", ScalarType::String)],
        &[("number", TYPES[0], None), ("word", TYPES[1], Some(Value::String("default".into())))],
    );
    let lookup = |view: &Arc<View>, keys: &[&str], ttl| Lookup {
        view: view.clone(),
        keys: keys.iter().map(|key| name(key)).collect(),
        ttl,
    };
    let lookups = vec![
        lookup(&by_k, &["k"], ttls[0]),
        lookup(&by_k, &["k2"], ttls[1]),
        lookup(&by_both, &["k", "s"], ttls[2]),
        lookup(&by_k, &["k"], ttls[3]),
    ];
    let column = |prefix: &str, lookup: usize, feature: usize| ServiceColumn {
        name: format!("{prefix}__{}", ["number", "word"][feature]),
        lookup,
        feature,
        data_type: TYPES[feature],
        default: lookups[lookup].view.features[feature].default.clone(),
        is_masked: false,
    };
    let columns = vec![
        column("view1", 0, 1),
        column("view1", 0, 0),
        column("other", 1, 0),
        column("view2", 2, 1),
        column("view2", 2, 0),
        column("again", 3, 1),
    ];
    Selection::new(Vec::new(), Vec::new(), lookups, columns, 9).expect("the request columns agree")
}

fn spine_batch(rows: &[SpineRow]) -> RecordBatch {
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        ("carried", Arc::new(UInt8Array::from_iter_values(rows.iter().map(|row| row.t as u8))), false),
        ("k", Arc::new(rows.iter().map(|row| row.k).collect::<Int64Array>()), true),
        ("t", Arc::new(TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.t))), true),
        ("s", Arc::new(rows.iter().map(|row| row.s.clone()).collect::<StringArray>()), true),
        ("k2", Arc::new(rows.iter().map(|row| row.k2).collect::<Int64Array>()), true),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).expect("a spine")
}

struct Setting {
    mode: Mode,
    cutoff: i64,
    memory: usize,
    runs: usize,
    batch_rows: usize,
    spine_rows: usize,
    threads: usize,
    part_rows: usize,
    interleaved: bool,
    /// Whether statuses and event times are asked for.
    told: bool,
}

/// Nothing is cut into pieces or spilled.
fn plenty(mode: Mode) -> Setting {
    Setting {
        mode,
        cutoff: i64::MAX,
        memory: 1 << 28,
        runs: 1,
        batch_rows: 64,
        spine_rows: 64,
        threads: 1,
        part_rows: 1 << 20,
        interleaved: true,
        told: true,
    }
}

fn plan_of(selection: &Selection, spine: SchemaRef, mode: Mode) -> Arc<Plan> {
    let shape = Shape { event_time: "t".into(), mode, with_status: true, with_event_time: true };
    Arc::new(Plan::new(selection, spine, &shape).expect("a plan"))
}

fn join(selection: &Selection, views: &[Vec<Row>; 2], spine: &[SpineRow], setting: &Setting) -> (RecordBatch, Outcome) {
    let directory = tempfile::tempdir().expect("a directory");
    let budget = Budget {
        memory: setting.memory,
        spill: SpillSpace::new(directory.path(), 1 << 30, Arc::default()),
        batch_rows: 16,
        threads: setting.threads,
        part_rows: setting.part_rows,
    };
    let whole = spine_batch(spine);
    let shape = Shape { mode: setting.mode, with_status: setting.told, with_event_time: setting.told, ..shape() };
    let plan = Arc::new(Plan::new(selection, whole.schema(), &shape).expect("a plan"));
    let mut writer = SpineWriter::new(plan.clone(), &budget);
    for from in (0..spine.len()).step_by(setting.spine_rows) {
        writer.push(&whole.slice(from, setting.spine_rows.min(spine.len() - from)), &Stop::default()).expect("taken");
    }
    let open = |join: usize, part: &SortedSpine| -> Result<RunRows, JoinError> {
        let join = &plan.joins[join];
        let rows = &views[join.view.id.0 as usize - 1];
        let fan_in = FanIn {
            slots: &part.slots,
            cutoff: Some(setting.cutoff),
            memory: budget.for_runs(&plan),
            spill: &budget.spill,
        };
        let mut ordered = rows.clone();
        if !setting.interleaved {
            ordered.sort_by_cached_key(|row| history_order(&join.view, row));
        }
        let in_run = |n: usize| match setting.interleaved {
            true => n % setting.runs,
            // One behind the other, and a key may lie in two.
            false => n * setting.runs / rows.len(),
        };
        let runs = (0..setting.runs).map(|run| {
            let part: Vec<Row> =
                ordered.iter().enumerate().filter(|(n, _)| in_run(*n) == run).map(|(_, row)| row.clone()).collect();
            let run = run_of(&join.view, &part, &join.features, setting.batch_rows);
            Ok(OpenRun { run, bytes: 1_000 })
        });
        Ok(RunRows::new(MergedRuns::new(fan_in.reduce(runs)?, fan_in.cutoff)?))
    };
    let mut batches = Vec::new();
    let spine = writer.finish(&Stop::default()).expect("a spine");
    let emit = |batch| {
        batches.push(batch);
        Ok(())
    };
    let findings = Findings::walk(&plan, spine, &budget, open, &Stop::default()).expect("walked");
    let outcome = findings.answer(&Stop::default(), emit).expect("joined");
    assert_eq!(std::fs::read_dir(directory.path()).expect("listed").count(), 0);
    (concat_batches(&plan.output, &batches).expect("one schema"), outcome)
}

/// What counts, by looking at every row.
fn oracle<'a>(rows: &'a [Row], key: &[Option<Value>], t: i64, cutoff: i64, mode: Mode) -> Option<&'a Row> {
    let same_key = |row: &&Row| row.key.iter().zip(key).all(|(a, b)| b.as_ref().is_some_and(|b| a.same_bits(b)));
    rows.iter()
        .filter(same_key)
        .filter(|row| row.ingest <= cutoff && row.version.event_time <= t)
        .filter(|row| mode == Mode::Final || row.version.known_time <= t)
        .max_by_key(|row| row.version)
}

fn check(selection: &Selection, views: &[Vec<Row>; 2], spine: &[SpineRow], setting: &Setting) -> Outcome {
    let (table, outcome) = join(selection, views, spine, setting);
    assert_eq!(table.num_rows(), spine.len());
    assert_eq!(table.columns()[..5], spine_batch(spine).columns()[..]);
    let mut differing = 0;
    for (row, wanted) in spine.iter().enumerate() {
        for (number, lookup) in selection.lookups.iter().enumerate() {
            let part = |column: &Name| match column.as_str() {
                "k" => wanted.k.map(Value::Int64),
                "k2" => wanted.k2.map(Value::Int64),
                _ => wanted.s.clone().map(Value::String),
            };
            let key: Vec<Option<Value>> = lookup.keys.iter().map(part).collect();
            let rows = &views[lookup.view.id.0 as usize - 1];
            let counted = |mode| oracle(rows, &key, wanted.t, setting.cutoff, mode);
            let status = |row: Option<&Row>| {
                row_status(row.map(|row| (row.version.event_time, row.deleted)), wanted.t, lookup.ttl)
            };
            let (known, finally) = (counted(Mode::AsKnown), counted(Mode::Final));
            let live = hydrant_storage::order::RowStatus::Live;
            let same_row = known.map(|row| row.version) == finally.map(|row| row.version);
            // What is asked for twice is looked up once.
            let mut earlier = selection.lookups[..number].iter();
            let repeated = earlier
                .any(|other| (other.view.id, &other.keys, other.ttl) == (lookup.view.id, &lookup.keys, lookup.ttl));
            differing +=
                u64::from(!repeated && (status(known) != status(finally) || (status(known) == live && !same_row)));

            let counts = counted(setting.mode);
            for column in selection.columns.iter().filter(|column| column.lookup == number) {
                let missing = missing_cell_status(
                    status(counts),
                    column.feature,
                    usize::from(counts.map_or(0, |row| row.feature_count)),
                );
                let held = match (missing, column.feature) {
                    (Some(_), _) => Value::Null,
                    (None, 0) => counts.and_then(|row| row.number).map_or(Value::Null, Value::Int64),
                    (None, _) => counts.and_then(|row| row.word.clone()).map_or(Value::Null, Value::String),
                };
                let is_null = matches!(held, Value::Null);
                let expected_status = missing.unwrap_or(if is_null { CellStatus::Null } else { CellStatus::Present });
                let expected =
                    if expected_status.takes_default() { column.default.clone().unwrap_or(held) } else { held };
                let at = table.schema().index_of(&column.name).expect("the column");
                let values = table.column(at);
                let value = match () {
                    () if values.is_null(row) => Value::Null,
                    () if column.feature == 0 => Value::Int64(values.as_primitive::<Int64Type>().value(row)),
                    () => Value::String(values.as_string::<i32>().value(row).to_owned()),
                };
                assert!(value.same_bits(&expected), "row {row} {}: {value:?}, expected {expected:?}", column.name);
                if !setting.told {
                    continue;
                }
                assert_eq!(table.column(at + 1).as_string::<i32>().value(row), expected_status.as_str());
                let times = table.column(at + 2).as_primitive::<TimestampMicrosecondType>();
                let time = times.is_valid(row).then(|| times.value(row));
                let expected_time = counts.filter(|_| expected_status != CellStatus::NotFound);
                assert_eq!(time, expected_time.map(|row| row.version.event_time), "row {row} {}", column.name);
            }
        }
    }
    assert_eq!(outcome.differing, differing);
    assert_eq!(outcome.rows, spine.len() as u64);
    outcome
}

fn rows(parts: usize) -> impl Strategy<Value = Vec<Row>> {
    let row = (
        (0i64..3, 0u8..2),
        (0i64..20, prop_oneof![Just(0i64), -3i64..8], 0i64..40),
        prop::bool::weighted(0.15),
        1u16..=2,
        prop::option::weighted(0.8, any::<i64>()),
        prop::option::weighted(0.8, "[a-c]{0,3}"),
    );
    prop::collection::vec(row, 0..60).prop_map(move |rows| {
        rows.into_iter()
            .enumerate()
            .map(|(ordinal, ((k, s), (event, delay, ingest), deleted, feature_count, number, word))| {
                let key = [Value::Int64(k), Value::String(["", "x"][usize::from(s)].to_owned())];
                let position = Position { frame: ingest as u64 + 1, ordinal: ordinal as u32 };
                let version = RowVersion { event_time: event, known_time: event + delay, position };
                let word = word.filter(|_| feature_count == 2);
                Row { key: key[..parts].to_vec(), version, ingest, deleted, feature_count, number, word }
            })
            .collect()
    })
}

fn spine_rows() -> impl Strategy<Value = Vec<SpineRow>> {
    let key = || prop::option::weighted(0.9, -1i64..4);
    let row =
        (key(), key(), prop::option::weighted(0.9, prop_oneof![Just(String::new()), Just("x".to_owned())]), -1i64..30);
    prop::collection::vec(row.prop_map(|(k, k2, s, t)| SpineRow { k, k2, s, t }), 1..60)
}

fn ttl() -> impl Strategy<Value = Option<i64>> {
    prop::option::of(0i64..8)
}

fn refusal(spine: RecordBatch, shape: &Shape) -> crate::error::Error {
    Plan::new(&selection([None; 4]), spine.schema(), shape).expect_err("refused")
}

fn shape() -> Shape {
    Shape { event_time: "t".into(), mode: Mode::AsKnown, with_status: true, with_event_time: true }
}

#[test]
fn a_spine_that_does_not_fit_is_refused_with_every_problem_at_once() {
    let words: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
    let columns = [("k", words.clone()), ("t", words.clone()), ("view1__word__status", words)];
    let error = refusal(RecordBatch::try_from_iter(columns).expect("a spine"), &shape());
    let paths: Vec<&str> = error.violations.iter().map(|violation| violation.path.as_str()).collect();
    assert_eq!(paths, ["spine.t", "spine.k", "spine.k2", "spine.k", "spine.s", "spine.view1__word__status"]);
}

#[test]
fn a_view_without_history_is_refused_and_named() {
    let mut selection = selection([None; 4]);
    let mut hidden = view(1, &[("k", ScalarType::Int64)], &[("number", TYPES[0], None), ("word", TYPES[1], None)]);
    Arc::get_mut(&mut hidden).expect("the only one").offline = false;
    selection.lookups[0].view = hidden;
    let error = Plan::new(&selection, spine_batch(&[]).schema(), &shape()).expect_err("refused");
    assert_eq!(error.reason, "VIEW_WITHOUT_HISTORY");
    assert!(error.message.contains("view1"), "{}", error.message);
}

#[test]
fn a_plan_says_which_views_are_walked_under_which_keys() {
    let plan = plan_of(&selection([Some(5), None, None, Some(5)]), spine_batch(&[]).schema(), Mode::AsKnown);
    let expected = "\
as_known join of a spine with 5 columns at its 't', definitions at revision 9
  sort 0: the spine by (k)
    walk view1@v1, reading number, word
      ttl 5 µs: view1__word, view1__number, again__word
  sort 1: the spine by (k2)
    walk view1@v1, reading number
      no ttl: other__number
  sort 2: the spine by (k, s)
    walk view2@v1, reading number, word
      no ttl: view2__word, view2__number
";
    assert_eq!(plan.to_string(), expected);
}

#[test]
fn a_view_is_sought_where_few_rows_of_a_long_history_are_asked_for_and_merged_elsewhere() {
    let directory = tempfile::tempdir().expect("a directory");
    let spill = SpillSpace::new(directory.path(), 1 << 30, Arc::default());
    let budget = Budget { memory: 256 << 20, spill, batch_rows: 16, threads: 2, part_rows: 8_192 };
    let plan = plan_of(&selection([None; 4]), spine_batch(&[]).schema(), Mode::AsKnown);
    let reading = |rows: u64, is_spilled: bool, runs: &[u64]| {
        let table = TableFacts { runs: runs.to_vec(), files: 1, bytes: 1 << 30, ..TableFacts::default() };
        let spine = SpineFacts { rows, times: None, is_spilled };
        Reading::new(&plan, spine, &vec![table; plan.joins.len()], &budget)
    };
    let many = 50_000_000;
    let few = reading(1_000, false, &[many]);
    assert_eq!(few.access(0), Access::Seek);
    assert!(few.views[0].rows < many / 10 && few.views[0].bytes < 1 << 27, "{few:?}");
    assert_eq!((few.parts, few.threads, few.spilled), (1, 2, 0));
    // Beside a long run, short ones are read whole and cost little.
    assert_eq!(reading(1_000, false, &[many, 100_000, 90_000]).access(0), Access::Seek);
    for (rows, is_spilled, runs) in [
        (1_000_000, false, vec![many * 100]),
        (1_000, true, vec![many]),
        (1_000, false, vec![many / 50; 50]),
        (1_000, false, vec![1_000]),
        (1, false, vec![]),
    ] {
        assert_eq!(reading(rows, is_spilled, &runs).access(0), Access::Merge, "{rows} {is_spilled} {runs:?}");
    }
    assert!(reading(10_000_000, false, &[many]).spilled > 0);
    let shown = few.shown(&plan).to_string();
    assert!(shown.contains("seek view1 beside sort 0: seeks touch pages of about"), "{shown}");
}

#[test]
fn an_answer_has_the_spines_rows_even_if_there_are_none() {
    let spine = [SpineRow { k: Some(1), k2: None, s: None, t: 5 }];
    let setting = Setting { cutoff: 9, batch_rows: 4, spine_rows: 4, ..plenty(Mode::AsKnown) };
    let outcome = check(&selection([None; 4]), &[Vec::new(), Vec::new()], &spine, &setting);
    assert_eq!(outcome.differing, 0);
    assert_eq!(outcome.nulls, [1, 0, 0, 0, 1, 1]);
}

#[test]
fn every_column_of_the_spine_is_carried_through_as_it_came() {
    let words = ["red", "green", "blue", "never used", "nor this", "nor that"];
    let keys = arrow_array::Int32Array::from(vec![Some(2), None, Some(0), Some(2)]);
    let colours: ArrayRef = Arc::new(DictionaryArray::new(keys, Arc::new(StringArray::from(words.to_vec()))));
    let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>([
        Some(vec![Some(1), None]),
        None,
        Some(vec![]),
        Some(vec![Some(7)]),
    ]));
    let times: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![1_999, 0, -1, 5]).with_timezone("+01:00"));
    let texts: ArrayRef = Arc::new(LargeStringArray::from(vec![Some("a"), None, Some(""), Some("b")]));
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3, 4]));
    let columns = [("k", numbers.clone()), ("k2", numbers), ("s", texts), ("t", times), ("l", lists), ("c", colours)];
    let spine = RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true)));
    let spine = spine.expect("a spine");
    for memory in [1, 1 << 20] {
        let directory = tempfile::tempdir().expect("a directory");
        let space = SpillSpace::new(directory.path(), 1 << 30, Arc::default());
        let budget = Budget { memory, spill: space, batch_rows: 3, threads: 2, part_rows: 1 };
        let plan = plan_of(&selection([None; 4]), spine.schema(), Mode::AsKnown);
        let mut writer = SpineWriter::new(plan.clone(), &budget);
        writer.push(&spine, &Stop::default()).expect("taken");
        let open = |_: usize, _: &SortedSpine| Ok(RunRows::new(MergedRuns::new(Vec::new(), None)?));
        let findings =
            Findings::walk(&plan, writer.finish(&Stop::default()).expect("a spine"), &budget, open, &Stop::default());
        let mut batches = Vec::new();
        let emit = |batch| {
            batches.push(batch);
            Ok(())
        };
        findings.expect("walked").answer(&Stop::default(), emit).expect("joined");
        let table = concat_batches(&plan.output, &batches).expect("one schema");
        assert_eq!(table.schema().fields()[..6], spine.schema().fields()[..]);
        for (carried, given) in table.columns().iter().zip(spine.columns()).take(5) {
            assert_eq!(carried, given);
        }
        let plain = |array: &ArrayRef| arrow_cast::cast(array, &arrow_schema::DataType::Utf8).expect("strings");
        assert_eq!(&plain(table.column(5)), &plain(spine.column(5)));
    }
}

#[test]
fn a_join_that_nobody_waits_for_stops() {
    let directory = tempfile::tempdir().expect("a directory");
    let spilled = Arc::new(super::HistoryMetrics::default());
    let space = SpillSpace::new(directory.path(), 1 << 30, spilled.clone());
    let budget = Budget { memory: 1_000, spill: space, batch_rows: 16, threads: 2, part_rows: 1 };
    let rows: Vec<SpineRow> = (0..5_000).map(|t| SpineRow { k: Some(1), k2: None, s: None, t }).collect();
    let spine = spine_batch(&rows);
    let plan = plan_of(&selection([None; 4]), spine.schema(), Mode::AsKnown);
    let mut writer = SpineWriter::new(plan.clone(), &budget);
    writer.push(&spine, &Stop::default()).expect("taken");
    let open = |_: usize, _: &SortedSpine| Ok(RunRows::new(MergedRuns::new(Vec::new(), None)?));
    let spine = writer.finish(&Stop::default()).expect("a spine");
    let (waiter, stop) = work::begin();
    drop(waiter);
    let outcome = Findings::walk(&plan, spine, &budget, open, &stop);
    assert!(matches!(outcome, Err(JoinError::Stopped)));
    drop(outcome);
    assert_eq!(spilled.spilled_now(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn a_training_set_holds_what_the_naive_oracle_finds(
        by_k in rows(1),
        by_both in rows(2),
        spine in spine_rows(),
        ttls in [ttl(), ttl(), ttl(), ttl()],
        is_final in any::<bool>(),
        cutoff in 0i64..50,
        memory in prop::sample::select(vec![1usize, 3_000, 40_000, 1 << 26]),
        runs in 1usize..9,
        batch_rows in 1usize..9,
        spine_batch_rows in 1usize..70,
        threads in 1usize..4,
        part_rows in prop::sample::select(vec![1usize, 4, 1 << 20]),
        interleaved in any::<bool>(),
        told in any::<bool>(),
    ) {
        let mode = if is_final { Mode::Final } else { Mode::AsKnown };
        let selection = selection(ttls);
        let views = [by_k, by_both];
        let spine_rows = spine_batch_rows;
        let setting =
            Setting { mode, cutoff, memory, runs, batch_rows, spine_rows, threads, part_rows, interleaved, told };
        let outcome = check(&selection, &views, &spine, &setting);
        // Neither memory nor threads nor how rows lie in runs and batches change anything.
        prop_assert_eq!(join(&selection, &views, &spine, &Setting { cutoff, told, ..plenty(mode) }).1, outcome);
    }
}
