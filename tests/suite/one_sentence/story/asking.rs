//! What a story asks: unpinned reads, which are recorded; pinned ones; training sets of both modes
//! with and without a cut-off. Whatever is answered is compared with the oracle.

mod whys;

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use hydrant::error::Code;
use hydrant::history;
use hydrant::serving::OnlineRequest;
use hydrant_storage::row::value_at;
use hydrant_storage::value::{DataType, Value};

use super::{Kept, Keys, Record, Story};
use crate::one_sentence::shape::{Shape, ShapeColumn};
use crate::one_sentence::values::{key_part, key_parts};
use crate::one_sentence::world::TICK;
use crate::support::node::{AS_KNOWN, Ask, FINAL, Online, START, Training};
use crate::support::oracle::{self, Cell, Mode, Question};
use crate::support::table;

/// The keys of an online read, in columns that may be shorter than the answer.
struct Asked {
    columns: Vec<(String, Vec<Value>)>,
    rows: Vec<Keys>,
    entities: Vec<(String, ArrayRef)>,
}

impl Story {
    pub(super) async fn read_unpinned(&mut self) {
        let shape = self.random.below(self.shapes.len());
        let asked = self.asked(shape);
        let request = self.online_request(shape, &asked, None);
        let answer = self.node.get(request).await.expect("an unpinned read is answered");
        let t = answer.0.provenance.t;
        self.note(format!("read {:?} at {t} for {:?}", self.shapes[shape].what, asked.rows));
        assert!(t >= self.given_out.min(self.node.now()), "the instant {t} lies before one that was given out");
        assert_eq!(answer.0.provenance.rows_from_history, 0);
        self.given_out = self.given_out.max(t);
        let rows = self.check_online(shape, &asked, &answer, t);
        self.tally.unpinned_cells += rows.iter().map(Vec::len).sum::<usize>();
        for (keys, cells) in asked.rows.into_iter().zip(rows) {
            self.records.push(Record { shape, t, keys, cells });
        }
    }

    pub(super) async fn read_pinned(&mut self) {
        let shape = self.random.below(self.shapes.len());
        let asked = self.asked(shape);
        let at = self.past_instant();
        self.note(format!("read {:?} pinned at {at} for {:?}", self.shapes[shape].what, asked.rows));
        let request = self.online_request(shape, &asked, Some(at));
        match self.node.get(request).await {
            Ok(answer) => {
                assert_eq!(answer.0.provenance.t, at);
                let rows = self.check_online(shape, &asked, &answer, at);
                self.tally.pinned_cells += rows.iter().map(Vec::len).sum::<usize>();
                self.tally.from_history += answer.0.provenance.rows_from_history;
            }
            Err(error) => {
                assert!(!self.shapes[shape].offline, "{error}");
                assert_eq!(error.code, Code::FailedPrecondition, "{error}");
            }
        }
    }

    /// A training set of made-up keys and instants.
    pub(super) async fn train(&mut self) {
        let Some(shape) = self.offline_shape() else { return };
        let count = self.random.below(30);
        let wanted: Vec<(i64, Keys)> = (0..count)
            .map(|_| {
                let ahead = self.random.chance(10);
                let t = if ahead { self.node.now() + 100 * TICK } else { self.past_instant() };
                (t, self.keys(shape))
            })
            .collect();
        let ask = self.any_ask();
        self.note(format!("trained {:?}, {ask:?}, on {wanted:?}", self.shapes[shape].what));
        let spine = self.spine(shape, &wanted);
        let trained = self.trained(shape, &spine, ask).await;
        self.check_training(shape, &wanted, &trained, ask);
        let ask = ask.up_to(trained.report.cutoff);
        self.given_out = self.given_out.max(trained.report.cutoff);
        self.kept.push(Kept { shape, spine, ask, content_hash: trained.report.content_hash });
    }

    /// What was recorded, as training sets: the records themselves where known time is arrival, and the
    /// oracle everywhere.
    pub(super) async fn train_records(&mut self) {
        for shape in (0..self.shapes.len()).filter(|shape| self.shapes[*shape].offline).collect::<Vec<_>>() {
            let of_shape = self.records.iter().filter(|record| record.shape == shape);
            let wanted: Vec<(i64, Keys)> = of_shape.map(|record| (record.t, record.keys.clone())).collect();
            let spine = self.spine(shape, &wanted);
            let trained = self.trained(shape, &spine, AS_KNOWN).await;
            self.check_training(shape, &wanted, &trained, AS_KNOWN);
            self.compare_with_records(shape, &trained);
            for ask in [FINAL, self.any_ask()] {
                let trained = self.trained(shape, &spine, ask).await;
                self.check_training(shape, &wanted, &trained, ask);
            }
        }
    }

    pub(super) async fn repeat_kept(&mut self) {
        for kept in std::mem::take(&mut self.kept) {
            let trained = self.trained(kept.shape, &kept.spine, kept.ask).await;
            assert_eq!(
                trained.report.content_hash, kept.content_hash,
                "{:?} has changed",
                self.shapes[kept.shape].what
            );
        }
    }

    fn compare_with_records(&mut self, shape: usize, trained: &Training) {
        let records: Vec<&Record> = self.records.iter().filter(|record| record.shape == shape).collect();
        for (index, column) in self.shapes[shape].columns.iter().enumerate() {
            let source = self.world.views[column.view].source;
            if !self.world.sources[source].is_pure() {
                continue;
            }
            let statuses = trained.statuses(&column.name);
            for (row, record) in records.iter().enumerate() {
                let value = value_in(trained.array(&column.name), column, row);
                let recorded = &record.cells[index];
                assert!(
                    recorded.same(&value, &statuses[row]),
                    "{} for {:?} at {}: online answered {recorded:?}, training says {value:?} {}",
                    column.name,
                    record.keys,
                    record.t,
                    statuses[row]
                );
                self.tally.recorded_cells += 1;
            }
        }
    }

    async fn trained(&self, shape: usize, spine: &RecordBatch, ask: Ask) -> Training {
        let what: Vec<&str> = self.shapes[shape].what.iter().map(String::as_str).collect();
        self.node.train(&what, spine, ask).await
    }

    fn check_training(&mut self, shape: usize, wanted: &[(i64, Keys)], trained: &Training, ask: Ask) {
        let Shape { columns, what, .. } = &self.shapes[shape];
        assert_eq!(trained.table.num_rows(), wanted.len());
        assert_eq!(trained.report.rows, wanted.len() as u64);
        let mode = if ask.mode == history::Mode::Final { Mode::Final } else { Mode::AsKnown };
        for column in columns {
            let statuses = trained.statuses(&column.name);
            let event_times = trained.event_times(&column.name);
            for (row, (t, keys)) in wanted.iter().enumerate() {
                let key = key_of(column, keys);
                let question =
                    Question { key: key.as_deref(), t: *t, mode, cutoff: Some(trained.report.cutoff), ttl: column.ttl };
                let rows = &self.rows[column.view];
                let expected = oracle::cell(rows, question, column.feature, column.default.as_ref());
                let value = value_in(trained.array(&column.name), column, row);
                assert!(
                    expected.same(&value, &statuses[row]),
                    "{what:?} {ask:?}: {} for {key:?} at {t}: {expected:?} was expected, training says {value:?} {}",
                    column.name,
                    statuses[row]
                );
                if expected.status != "NOT_FOUND" {
                    assert_eq!(
                        event_times[row],
                        oracle::event_time(rows, question),
                        "the event time of {}",
                        column.name
                    );
                }
                self.tally.training_cells += 1;
            }
        }
    }

    /// Checks every cell of an answer; gives them back by row.
    fn check_online(&mut self, shape: usize, asked: &Asked, answer: &Online, t: i64) -> Vec<Vec<Cell>> {
        let Shape { columns, what, .. } = &self.shapes[shape];
        assert_eq!(answer.names(), self.shapes[shape].names(), "the frozen order of {what:?}");
        assert_eq!(answer.0.rows, asked.rows.len());
        let mut rows: Vec<Vec<Cell>> = asked.rows.iter().map(|_| Vec::new()).collect();
        for column in columns {
            let found = answer.find(&column.name);
            let statuses = answer.statuses(&column.name);
            let is_short =
                |(name, _): &(String, _)| asked.columns.iter().any(|(asked, list)| asked == name && list.len() == 1);
            let length = if column.keys.iter().all(is_short) { 1 } else { asked.rows.len() };
            assert_eq!(found.values.len(), length, "the length of {}", column.name);
            let names: Vec<&str> = column.keys.iter().map(|(name, _)| name.as_str()).collect();
            let view = self.world.views[column.view].name.as_str();
            let lookup = answer.0.event_times.iter().find(|times| {
                times.view.as_str() == view && times.keys.iter().map(|name| name.as_str()).eq(names.iter().copied())
            });
            let event_times = &lookup.expect("event times of every lookup").times;
            for (row, keys) in asked.rows.iter().enumerate() {
                let at = row.min(length - 1);
                let key = key_of(column, keys);
                let question = Question { key: key.as_deref(), t, mode: Mode::AsKnown, cutoff: None, ttl: column.ttl };
                let sent = &self.rows[column.view];
                let expected = oracle::cell(sent, question, column.feature, column.default.as_ref());
                let value = value_in(&found.values, column, at);
                let status = statuses[at].as_str();
                assert!(
                    expected.same(&value, status),
                    "{what:?}: {} for {key:?} at {t}: {expected:?} was expected, online answered {value:?} {status}",
                    column.name
                );
                assert_eq!(event_times[at], oracle::event_time(sent, question), "the event time of {}", column.name);
                match expected.status {
                    "PRESENT" => self.tally.present += 1,
                    "EXPIRED" => self.tally.expired += 1,
                    _ => {}
                }
                rows[row].push(Cell { value, status: expected.status });
            }
        }
        rows
    }

    fn asked(&mut self, shape: usize) -> Asked {
        let request_columns = self.shapes[shape].request_columns();
        let count = self.random.below(5) + 1;
        let mut columns = Vec::new();
        for (name, key_type) in &request_columns {
            let length = if self.random.chance(20) { 1 } else { count };
            let values: Vec<Value> = (0..length).map(|_| self.any_part(*key_type)).collect();
            columns.push((name.clone(), values));
        }
        let count = columns.iter().map(|(_, values)| values.len()).max().unwrap_or(1);
        let row = |row: usize| {
            let of_row =
                |(name, values): &(String, Vec<Value>)| (name.clone(), values[row.min(values.len() - 1)].clone());
            columns.iter().map(of_row).collect()
        };
        let rows = (0..count).map(row).collect();
        let entities = columns
            .iter()
            .zip(&request_columns)
            .map(|((name, values), (_, key_type))| (name.clone(), table::column(DataType::Scalar(*key_type), values)));
        let entities = entities.collect();
        Asked { columns, rows, entities }
    }

    fn online_request(&self, shape: usize, asked: &Asked, at: Option<i64>) -> OnlineRequest {
        let what = self.shapes[shape].what.iter().cloned();
        let (features, services) = what.partition(|name| name.contains(':'));
        let entities = asked.entities.clone();
        OnlineRequest { services, features, entities, at, include_event_times: true, ..OnlineRequest::default() }
    }

    fn keys(&mut self, shape: usize) -> Keys {
        let columns = self.shapes[shape].request_columns();
        columns.into_iter().map(|(name, key_type)| (name, self.any_part(key_type))).collect()
    }

    /// A part that is written, one that never is, or null.
    fn any_part(&mut self, key_type: hydrant_storage::value::ScalarType) -> Value {
        match self.random.below(20) {
            0 => Value::Null,
            1 => key_parts(key_type).swap_remove(key_parts(key_type).len() - 1),
            _ => key_part(&mut self.random, key_type),
        }
    }

    fn spine(&mut self, shape: usize, wanted: &[(i64, Keys)]) -> RecordBatch {
        let times: Vec<i64> = wanted.iter().map(|(t, _)| *t).collect();
        let ordinals: ArrayRef = Arc::new(Int64Array::from_iter_values(0..wanted.len() as i64));
        let mut columns = vec![("row".to_owned(), ordinals, true), ("at".to_owned(), table::times(&times), true)];
        for (name, key_type) in self.shapes[shape].request_columns() {
            let values: Vec<Value> = wanted.iter().map(|(_, keys)| keys[&name].clone()).collect();
            columns.push((name, table::column(DataType::Scalar(key_type), &values), true));
        }
        self.random.shuffle(&mut columns);
        RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length")
    }

    fn offline_shape(&mut self) -> Option<usize> {
        let shapes: Vec<usize> = (0..self.shapes.len()).filter(|shape| self.shapes[*shape].offline).collect();
        if shapes.is_empty() { None } else { Some(*self.random.pick(&shapes)) }
    }

    fn any_ask(&mut self) -> Ask {
        let ask = if self.random.chance(50) { AS_KNOWN } else { FINAL };
        if self.random.chance(40) { ask } else { ask.up_to(self.past_instant()) }
    }

    /// An instant that has come: anywhere, at one that was read at, or where a row expires.
    fn past_instant(&mut self) -> i64 {
        let now = self.node.now();
        let picked = match self.random.below(4) {
            0 if !self.records.is_empty() => self.random.pick(&self.records).t,
            1 if !self.used_times.is_empty() => {
                let ttl = self.random.pick(&self.world.views).ttl.unwrap_or(0);
                *self.random.pick(&self.used_times) + ttl + self.random.between(0, 1)
            }
            2 => now - self.random.between(0, 30) * TICK,
            _ => self.random.between(START - 50 * TICK, now.max(START)),
        };
        picked.min(now)
    }
}

/// The key of the view that a column is of; `None` if a part is null.
fn key_of(column: &ShapeColumn, keys: &Keys) -> Option<Vec<Value>> {
    let parts: Vec<Value> = column.keys.iter().map(|(name, _)| keys[name].clone()).collect();
    (!parts.iter().any(|part| matches!(part, Value::Null))).then_some(parts)
}

fn value_in(array: &ArrayRef, column: &ShapeColumn, row: usize) -> Value {
    value_at(array, column.data_type, row).expect("a column of the feature's type")
}
