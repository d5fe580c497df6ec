//! The writes of a story: rows late, early and at equal times, with null keys and missing columns,
//! upserts and deletes, now and then bad ones and such as were sent before.

use arrow_array::{ArrayRef, RecordBatch};
use hydrant::error::Code;
use hydrant::ingest::{DeleteRequest, IngestReport, IngestRequest, Outcome, Producer};
use hydrant::registry::definition::KnownTimeRule;
use hydrant::tenancy::Action;
use hydrant_storage::value::{DataType, ScalarType, Value};

use super::Story;
use crate::one_sentence::values::{any_value, key_part};
use crate::one_sentence::world::{EVENT_TIME, KNOWN_TIME, TICK, WorldFeature, WorldSource};
use crate::support::oracle::SentRow;
use crate::support::table;

const DELETED: &str = "_deleted";

/// The last request of the producer, to be sent again.
pub(super) struct Sending {
    request: IngestRequest,
    frame: u64,
    sequence: u64,
}

/// Columns by name, as they are sent.
pub(super) struct Columns(pub Vec<(String, DataType, Vec<Value>)>);

impl Columns {
    pub fn get(&self, name: &str, row: usize) -> Option<&Value> {
        self.0.iter().find(|(column, ..)| column == name).map(|(_, _, values)| &values[row])
    }

    pub fn micros(&self, name: &str, row: usize) -> i64 {
        match self.get(name, row) {
            Some(Value::Timestamp(micros)) => *micros,
            other => panic!("'{name}' is {other:?} and no time"),
        }
    }

    pub fn is_deleted(&self, row: usize) -> bool {
        matches!(self.get(DELETED, row), Some(Value::Bool(true)))
    }

    pub fn batch(&self) -> RecordBatch {
        let arrays = self.0.iter().map(|(name, data_type, values)| (name, table::column(*data_type, values), true));
        RecordBatch::try_from_iter_with_nullable(arrays).expect("columns of one length")
    }
}

impl Story {
    pub(super) async fn write(&mut self) {
        let source = self.random.below(self.world.sources.len());
        let known_time = self.override_of(source);
        let rule = known_time.clone().unwrap_or_else(|| self.world.sources[source].known_time.clone());
        let columns = self.columns(source, &rule);
        let mut request = self.request(source, &columns, known_time);
        let sequence = self.sending.as_ref().map_or(0, |sending| sending.sequence) + 1;
        let is_producers = self.random.chance(30);
        if is_producers {
            let sequence = sequence + self.random.next() % 2;
            request.producer = Some(Producer { id: "the producer".to_owned(), sequence });
        }
        let rows = request.batch.num_rows();
        let report = self.node.ingest(request.clone()).await.expect("the rows are good");
        let told = format!(
            "wrote {rows} rows of s{source}, {rule:?}, at {}: {:?}",
            report.ingest_time.unwrap_or(0),
            columns.0
        );
        self.note(told);
        self.taken(&report);
        if is_producers {
            let frame = report.frame.expect("it was written");
            let sequence = request.producer.as_ref().map_or(0, |producer| producer.sequence);
            self.sending = Some(Sending { request, frame, sequence });
        }
        let ingest_time = report.ingest_time.expect("it was written");
        self.remember(source, &columns, &rule, ingest_time, &report);
        self.tally.rows += rows;
        self.node.see(&report).await;
    }

    /// Sends the producer's last request again, which changes nothing.
    pub(super) async fn write_again(&mut self) {
        let Some(Sending { request, frame, .. }) = &self.sending else { return };
        let report = self.node.ingest(request.clone()).await.expect("it was taken before");
        assert_eq!((report.outcome, report.frame), (Outcome::AlreadyApplied, Some(*frame)));
        self.note("sent the last request of the producer again".to_owned());
    }

    /// A request with one bad row leaves nothing behind.
    pub(super) async fn write_bad_rows(&mut self) {
        let source = self.random.below(self.world.sources.len());
        let rule = self.world.sources[source].known_time.clone();
        let mut columns = self.columns(source, &rule);
        let row = self.random.below(columns.0[0].2.len());
        let latest = self.node.now() + self.world.sources[source].max_future;
        if self.random.chance(50) {
            columns.0[0].2[row] = Value::Timestamp(latest + DAY);
        } else {
            let key_names: Vec<String> = self.views_of(source).iter().flat_map(|view| self.key_names(*view)).collect();
            for (name, _, values) in &mut columns.0 {
                if key_names.contains(name) {
                    values[row] = Value::Null;
                }
            }
        }
        let request = self.request(source, &columns, None);
        let frames = self.node.frames();
        let refused = self.node.ingest(request).await.expect_err("a row is bad");
        assert_eq!((refused.code, refused.reason), (Code::InvalidArgument, "BAD_ROWS"), "{refused}");
        assert!(refused.violations.iter().any(|wrong| wrong.path.starts_with(&format!("rows[{row}]."))), "{refused:?}");
        assert_eq!(self.node.frames(), frames, "nothing is written");
        self.tally.refused += 1;
    }

    pub(super) async fn delete(&mut self) {
        let view = self.random.below(self.world.views.len());
        let source = self.world.views[view].source;
        let mut known_time = self.override_of(source);
        if known_time.is_none() && matches!(self.world.sources[source].known_time, KnownTimeRule::Column(_)) {
            known_time = Some(KnownTimeRule::Event { delay: 0 });
        }
        let rule = known_time.clone().unwrap_or_else(|| self.world.sources[source].known_time.clone());
        let count = self.random.below(3) + 1;
        let keys: Vec<Vec<Value>> = (0..count)
            .map(|_| self.world.views[view].keys.clone().iter().map(|key| key_part(&mut self.random, key.1)).collect())
            .collect();
        let times: Vec<i64> = (0..count).map(|_| self.event_time(source, &rule)).collect();
        let columns: Vec<(String, ArrayRef)> = self.world.views[view]
            .keys
            .iter()
            .enumerate()
            .map(|(part, (name, key_type))| {
                let values: Vec<Value> = keys.iter().map(|key| key[part].clone()).collect();
                (name.clone(), table::column(DataType::Scalar(*key_type), &values))
            })
            .collect();
        let name = self.world.views[view].name.clone();
        let request =
            DeleteRequest { view: name, keys: columns, event_times: times.clone(), producer: None, known_time };
        let permit = self.node.permit(Action::Write);
        let report = self.node.use_cases().ingest.delete(&permit, request).await.expect("the keys are good");
        self.note(format!("deleted {keys:?} of v{view}, {rule:?}, at {:?}: happened {times:?}", report.ingest_time));
        self.taken(&report);
        let ingest_time = report.ingest_time.expect("it was written");
        for (row, (key, event_time)) in keys.into_iter().zip(times).enumerate() {
            let known_time = match &rule {
                KnownTimeRule::Event { delay } => event_time + delay,
                _ => ingest_time,
            };
            let place = (self.requests, row);
            self.rows[view].push(SentRow { key, event_time, known_time, ingest_time, place, features: None });
        }
        self.node.see(&report).await;
    }

    fn taken(&mut self, report: &IngestReport) {
        let ingest_time = report.ingest_time.expect("it was written");
        assert!(ingest_time > self.given_out, "stamped {ingest_time}, and {} was given out before", self.given_out);
        self.given_out = ingest_time;
        self.requests += 1;
    }

    /// What the oracle is told of an accepted request, and whether the report tells the same.
    fn remember(
        &mut self,
        source: usize,
        columns: &Columns,
        rule: &KnownTimeRule,
        ingest_time: i64,
        report: &IngestReport,
    ) {
        let count = columns.0[0].2.len();
        for view in self.views_of(source) {
            let defined = &self.world.views[view];
            let (mut rows, mut null_keys) = (0, 0);
            for row in 0..count {
                let part = |(name, _): &(String, ScalarType)| columns.get(name, row).cloned().unwrap_or(Value::Null);
                let key: Vec<Value> = defined.keys.iter().map(part).collect();
                if key.iter().any(|part| matches!(part, Value::Null)) {
                    null_keys += 1;
                    continue;
                }
                rows += 1;
                let event_time = columns.micros(EVENT_TIME, row);
                let known_time = match rule {
                    KnownTimeRule::Arrival => ingest_time,
                    KnownTimeRule::Event { delay } => event_time + delay,
                    KnownTimeRule::Column(name) => columns.micros(name.as_str(), row),
                };
                let feature = |feature: &WorldFeature| value_of_feature(columns.get(&feature.column, row), feature);
                let features = (!columns.is_deleted(row)).then(|| defined.features.iter().map(feature).collect());
                let place = (self.requests, row);
                self.rows[view].push(SentRow { key, event_time, known_time, ingest_time, place, features });
            }
            let told = report.views.iter().find(|told| told.view.as_str() == defined.name).expect("every view is told");
            assert_eq!((told.rows, told.null_keys), (rows, null_keys), "{}", defined.name);
        }
    }

    pub(super) fn views_of(&self, source: usize) -> Vec<usize> {
        (0..self.world.views.len()).filter(|view| self.world.views[*view].source == source).collect()
    }

    pub(super) fn key_names(&self, view: usize) -> Vec<String> {
        self.world.views[view].keys.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Rows of a pure source are known on arrival, whatever the request.
    pub(super) fn override_of(&mut self, source: usize) -> Option<KnownTimeRule> {
        if self.world.sources[source].is_pure() || !self.random.chance(20) {
            return None;
        }
        Some(match self.random.below(2) {
            0 => KnownTimeRule::Arrival,
            _ => KnownTimeRule::Event { delay: self.random.between(0, 5) * TICK },
        })
    }

    fn request(&self, source: usize, columns: &Columns, known_time: Option<KnownTimeRule>) -> IngestRequest {
        IngestRequest {
            source: self.world.sources[source].name.clone(),
            batch: columns.batch(),
            producer: None,
            known_time,
            ignore_extra: false,
            validate_only: false,
        }
    }

    pub(super) fn columns(&mut self, source: usize, rule: &KnownTimeRule) -> Columns {
        let WorldSource { columns: declared, max_future, .. } = self.world.sources[source].clone();
        let views = self.views_of(source);
        let is_key = |name: &str| name.starts_with('e');
        let rows = self.random.below(6) + 1;
        let times: Vec<i64> = (0..rows).map(|_| self.event_time(source, rule)).collect();
        let latest = self.node.now() + max_future;
        let mut columns = Columns(Vec::new());
        for (name, data_type) in declared {
            let values: Vec<Value> = if name == EVENT_TIME {
                times.iter().copied().map(Value::Timestamp).collect()
            } else if name == KNOWN_TIME {
                let known = |time: &i64| (time + self.random.between(-5, 25) * TICK).min(latest);
                times.iter().map(known).map(Value::Timestamp).collect()
            } else if is_key(&name) {
                let DataType::Scalar(key_type) = data_type else { panic!("a key is a scalar") };
                let null_share = if self.random.chance(30) { 30 } else { 0 };
                (0..rows)
                    .map(|_| match self.random.chance(null_share) {
                        true => Value::Null,
                        false => key_part(&mut self.random, key_type),
                    })
                    .collect()
            } else if self.random.chance(10) {
                continue;
            } else {
                (0..rows)
                    .map(|_| match self.random.chance(15) {
                        true => Value::Null,
                        false => any_value(&mut self.random, data_type),
                    })
                    .collect()
            };
            columns.0.push((name, data_type, values));
        }
        // A row that is part of no view would be refused.
        for row in 0..rows {
            let has_key = |view: &usize| {
                self.key_names(*view).iter().all(|name| !matches!(columns.get(name, row), Some(Value::Null) | None))
            };
            if !views.iter().any(has_key) {
                let names = self.key_names(views[0]);
                for (name, data_type, values) in &mut columns.0 {
                    if let (true, DataType::Scalar(key_type)) = (names.contains(name), *data_type) {
                        values[row] = key_part(&mut self.random, key_type);
                    }
                }
            }
        }
        if self.random.chance(25) {
            let deleted = (0..rows).map(|_| Value::Bool(self.random.chance(35))).collect();
            columns.0.push((DELETED.to_owned(), DataType::Scalar(ScalarType::Bool), deleted));
        }
        columns
    }

    /// Now, a little or long ago, at a time that was used before, or ahead as far as the source lets.
    fn event_time(&mut self, source: usize, rule: &KnownTimeRule) -> i64 {
        let now = self.node.now();
        let ahead = self.world.sources[source].max_future;
        let delay = if let KnownTimeRule::Event { delay } = rule { *delay } else { 0 };
        let on_grid = now - now.rem_euclid(TICK);
        let picked = match self.random.below(20) {
            0..=7 => on_grid - self.random.between(0, 12) * TICK,
            8..=10 => on_grid - self.random.between(0, 200) * TICK,
            11..=14 if !self.used_times.is_empty() => *self.random.pick(&self.used_times),
            15..=17 => on_grid + self.random.between(0, 41) * TICK,
            18 => now,
            _ => now - self.random.between(-2, 2),
        };
        let time = picked.min(now + ahead - delay);
        self.used_times.push(time);
        time
    }
}

const DAY: i64 = 86_400_000_000;

pub(super) fn value_of_feature(sent: Option<&Value>, feature: &WorldFeature) -> Value {
    match sent {
        None => Value::Null,
        Some(Value::Int32(narrow)) if feature.data_type == DataType::Scalar(ScalarType::Int64) => {
            Value::Int64(i64::from(*narrow))
        }
        Some(value) => value.clone(),
    }
}
