//! The data of the point-in-time workloads: three views of four float64 over thirty days, one of many
//! keys, one of some and one of few, and a spine that asks for all of them. All of it as Parquet, in
//! order of time, so that every engine reads the same files.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use super::random::{Random, mix};

/// 2026-01-01T00:00:00Z.
const START: i64 = 1_767_225_600_000_000;
const SECOND: i64 = 1_000_000;
const DAYS: i64 = 30;
pub const TTL_DAYS: i64 = 7;
pub const FEATURES: usize = 4;
pub const SERVICE: &str = "training_model";
const BATCH_ROWS: usize = 20_000;

/// A view of the history: its name, its join key and how many entities there are.
#[derive(Clone, Copy, Debug)]
pub struct HistoryShape {
    pub name: &'static str,
    pub key: &'static str,
    pub entities: u64,
}

pub const VIEWS: [HistoryShape; 3] = [
    HistoryShape { name: "member_history", key: "member_id", entities: 200_000 },
    HistoryShape { name: "ad_history", key: "ad_id", entities: 20_000 },
    HistoryShape { name: "campaign_history", key: "campaign_id", entities: 500 },
];

impl HistoryShape {
    pub fn path(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.parquet", self.name))
    }

    pub fn source(&self) -> String {
        format!("{}_rows", self.name)
    }

    /// `seq` tells the rivals which of two rows at one time came later; the log's order tells Hydrant.
    fn schema(&self) -> SchemaRef {
        let mut fields = vec![
            Field::new(self.key, DataType::Int64, false),
            Field::new("event_timestamp", micros(), false),
            Field::new("seq", DataType::Int64, false),
        ];
        fields.extend((0..FEATURES).map(|feature| Field::new(format!("f{feature}"), DataType::Float64, false)));
        Arc::new(Schema::new(fields))
    }

    /// Writes so many rows, in order of time; times are whole seconds, so that some are equal.
    pub fn write(&self, folder: &Path, rows: usize) -> Result<()> {
        let mut random = Random::new(mix(self.entities));
        let mut writer = writer(&self.path(folder), self.schema())?;
        for start in (0..rows).step_by(BATCH_ROWS) {
            let numbers = start..rows.min(start + BATCH_ROWS);
            let keys: Int64Array = numbers.clone().map(|_| random.below(self.entities) as i64).collect();
            let times: TimestampMicrosecondArray =
                numbers.clone().map(|row| time_of(row, rows)).collect::<Vec<_>>().into();
            let sequence: Int64Array = numbers.clone().map(|row| row as i64).collect();
            let mut columns: Vec<ArrayRef> =
                vec![Arc::new(keys), Arc::new(times.with_timezone("UTC")), Arc::new(sequence)];
            for _ in 0..FEATURES {
                let values = numbers.clone().map(|_| random.below(10_000) as f64 / 100.0);
                columns.push(Arc::new(values.collect::<Float64Array>()));
            }
            writer.write(&RecordBatch::try_new(self.schema(), columns)?)?;
        }
        writer.close()?;
        Ok(())
    }

    fn definitions(&self) -> String {
        let Self { name, key, .. } = self;
        let source = self.source();
        let columns: String =
            (0..FEATURES).map(|feature| format!("    - {{name: f{feature}, type: float64}}\n")).collect();
        let features: String = (0..FEATURES).map(|feature| format!("    - {{name: f{feature}}}\n")).collect();
        let head =
            |kind: &str, name: &str| format!("---\napiVersion: hydrant/v1\nkind: {kind}\nmetadata: {{name: {name}}}\n");
        format!(
            "{}spec: {{joinKeys: [{{name: {key}, type: int64}}]}}\n\
             {}spec:\n  type: push\n  eventTime: event_timestamp\n  knownTime: event\n  columns:\n\
             \x20   - {{name: {key}, type: int64}}\n    - {{name: event_timestamp, type: timestamp}}\n{columns}\
             {}spec:\n  entities: [{name}_entity]\n  source: {source}\n  ttl: {TTL_DAYS}d\n  online: false\n  features:\n{features}",
            head("Entity", &format!("{name}_entity")),
            head("Source", &source),
            head("FeatureView", name),
        )
    }
}

/// Entities, sources, views and the service over all of them, as YAML.
pub fn definitions() -> String {
    let views: Vec<&str> = VIEWS.iter().map(|view| view.name).collect();
    let documents: String = VIEWS.iter().map(HistoryShape::definitions).collect();
    let views = views.join(", ");
    format!(
        "{documents}---\napiVersion: hydrant/v1\nkind: FeatureService\nmetadata: {{name: {SERVICE}}}\nspec: {{features: [{views}]}}\n"
    )
}

/// How long a spine is, and which keys it asks for.
#[derive(Clone, Copy, Debug)]
pub struct SpineShape {
    pub rows: usize,
    pub keys: Keys,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    Uniform,
    OneInHalfOfTheRows,
}

/// Writes a spine in no order of time or key: a row number, a key of each view, an event time.
pub fn write_spine(path: &Path, shape: SpineShape) -> Result<()> {
    let rows = shape.rows;
    let mut random = Random::new(3);
    let mut writer = writer(path, spine_schema())?;
    for start in (0..rows).step_by(BATCH_ROWS) {
        let numbers = start..rows.min(start + BATCH_ROWS);
        let mut columns: Vec<ArrayRef> = vec![Arc::new(numbers.clone().map(|row| row as i64).collect::<Int64Array>())];
        for view in VIEWS {
            let key = |row: usize| match shape.keys {
                Keys::OneInHalfOfTheRows if row.is_multiple_of(2) => 0,
                _ => random.below(view.entities) as i64,
            };
            columns.push(Arc::new(numbers.clone().map(key).collect::<Int64Array>()));
        }
        let span = (DAYS * 86_400) as u64;
        let times = numbers.clone().map(|_| START + random.below(span) as i64 * SECOND);
        let times: TimestampMicrosecondArray = times.collect::<Vec<_>>().into();
        columns.push(Arc::new(times.with_timezone("UTC")));
        writer.write(&RecordBatch::try_new(spine_schema(), columns)?)?;
    }
    writer.close()?;
    Ok(())
}

pub fn spine_schema() -> SchemaRef {
    let mut fields = vec![Field::new("row", DataType::Int64, false)];
    fields.extend(VIEWS.iter().map(|view| Field::new(view.key, DataType::Int64, false)));
    fields.push(Field::new("event_timestamp", micros(), false));
    Arc::new(Schema::new(fields))
}

pub fn writer(path: &Path, schema: SchemaRef) -> Result<ArrowWriter<File>> {
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    Ok(ArrowWriter::try_new(File::create(path)?, schema, Some(properties))?)
}

/// Row `row` of `rows` spread evenly over the days.
fn time_of(row: usize, rows: usize) -> i64 {
    let seconds = (row as u128 * (DAYS * 86_400) as u128 / rows as u128) as i64;
    START + seconds * SECOND
}

fn micros() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}
