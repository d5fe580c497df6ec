//! The data of the point-in-time workloads: three views of four float64 over thirty days, one of many
//! keys, one of some and one of few, and a spine that asks for all of them. All of it as Parquet, in
//! order of time, so that every engine reads the same files.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, ensure};
use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use futures::StreamExt as _;
use hydrant::error::Code;
use hydrant::rpc::client::{Client, Refusal};
use hydrant_proto::v1;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
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

    fn source(&self) -> String {
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

    /// Ingests the file by Flight and gives the number of rows.
    pub async fn load(self, client: &Client, folder: &Path) -> Result<u64> {
        let reader = read(&self.path(folder), BATCH_ROWS)?;
        let schema = reader.schema_without_metadata();
        let batches = futures::stream::iter(reader.0).map(|batch| {
            batch.map_err(|error| Refusal::new(Code::Internal, "ROWS", format!("the rows can't be read: {error}")))
        });
        let command = v1::IngestCommand { source: self.source(), ignore_extra: true, ..Default::default() };
        let mut answers = client.put(command, schema, batches).await?;
        let mut rows = 0;
        while let Some(answer) = answers.next().await {
            rows += answer?.rows;
        }
        Ok(rows)
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

pub fn spine_path(folder: &Path) -> PathBuf {
    folder.join("spine.parquet")
}

/// Writes a spine in no order of time or key: a row number, a key of each view, an event time.
pub fn write_spine(folder: &Path, rows: usize) -> Result<()> {
    let mut random = Random::new(3);
    let mut writer = writer(&spine_path(folder), spine_schema())?;
    for start in (0..rows).step_by(BATCH_ROWS) {
        let numbers = start..rows.min(start + BATCH_ROWS);
        let mut columns: Vec<ArrayRef> = vec![Arc::new(numbers.clone().map(|row| row as i64).collect::<Int64Array>())];
        for view in VIEWS {
            let keys = numbers.clone().map(|_| random.below(view.entities) as i64);
            columns.push(Arc::new(keys.collect::<Int64Array>()));
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

/// A Parquet file, batch by batch.
pub struct Batches(pub ParquetRecordBatchReader);

impl Batches {
    pub fn schema_without_metadata(&self) -> SchemaRef {
        use arrow_array::RecordBatchReader as _;
        self.0.schema()
    }
}

pub fn read(path: &Path, batch_rows: usize) -> Result<Batches> {
    ensure!(path.is_file(), "there is no {}", path.display());
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?;
    Ok(Batches(reader.with_batch_size(batch_rows).build()?))
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
