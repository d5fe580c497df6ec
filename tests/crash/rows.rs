//! The rows that are written: each is told by its number alone, so that whatever comes back can be
//! checked without having been kept.

use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use hydrant::registry::definition::Definition;
use hydrant::registry::documents;
use hydrant::rpc::v1;
use hydrant::rpc::wire::columns::encode_column;
use serde_json::json;

use crate::random::Random;

pub const SOURCE: &str = "readings";
pub const SERVICE: &str = "everything";
pub const DEVICES: usize = 48;
pub const SITES: i64 = 16;

/// 2024-01-01T00:00:00Z, in microseconds.
const BASE: i64 = 1_704_067_200_000_000;

/// A row over which two views are: one by device, one by site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its number, and its value.
    pub tick: i64,
    pub device: usize,
    pub site: i64,
    /// No two rows share one, so of a key's rows the one with the greatest counts, whatever came when.
    pub event_time: i64,
    /// It deletes in both views.
    pub deleted: bool,
}

impl Row {
    /// Some rows are late: their event times lie before those of rows sent earlier.
    pub fn random(tick: i64, random: &mut Random) -> Self {
        let second = tick + random.between(-40, 0);
        Self {
            tick,
            device: random.below(DEVICES),
            site: random.between(0, SITES - 1),
            event_time: BASE + second * 1_000_000 + tick % 1_000_000,
            deleted: random.chance(5),
        }
    }

    pub fn note(&self) -> String {
        note(self.tick)
    }
}

/// The text of a row, of a length of its own.
pub fn note(tick: i64) -> String {
    let filling = usize::try_from(tick % 160).expect("it is not negative");
    format!("{tick}:{}", "x".repeat(filling))
}

pub fn device_name(device: usize) -> String {
    format!("device-{device:03}")
}

/// As the source wants them.
pub fn batch(rows: &[Row]) -> RecordBatch {
    let devices: ArrayRef = Arc::new(rows.iter().map(|row| Some(device_name(row.device))).collect::<StringArray>());
    let sites: ArrayRef = Arc::new(rows.iter().map(|row| row.site).collect::<Int64Array>());
    let values: ArrayRef = Arc::new(rows.iter().map(|row| row.tick).collect::<Int64Array>());
    let notes: ArrayRef = Arc::new(rows.iter().map(|row| Some(row.note())).collect::<StringArray>());
    let deleted: ArrayRef = Arc::new(rows.iter().map(|row| Some(row.deleted)).collect::<BooleanArray>());
    let columns = [
        ("device", devices),
        ("site", sites),
        ("happened_at", event_times(rows)),
        ("value", values),
        ("note", notes),
        ("_deleted", deleted),
    ];
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}

/// Each row's keys and time, as a spine.
pub fn spine(rows: &[Row]) -> RecordBatch {
    let devices: ArrayRef = Arc::new(rows.iter().map(|row| Some(device_name(row.device))).collect::<StringArray>());
    let sites: ArrayRef = Arc::new(rows.iter().map(|row| row.site).collect::<Int64Array>());
    let ticks: ArrayRef = Arc::new(rows.iter().map(|row| row.tick).collect::<Int64Array>());
    RecordBatch::try_from_iter([("tick", ticks), ("device", devices), ("site", sites), ("at", event_times(rows))])
        .expect("columns of one length")
}

fn event_times(rows: &[Row]) -> ArrayRef {
    let times = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.event_time));
    Arc::new(times.with_timezone("UTC"))
}

pub fn columns(batch: &RecordBatch) -> Vec<v1::Column> {
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns());
    columns.map(|(field, array)| encode_column(field.name(), array).expect("a type of Hydrant's")).collect()
}

/// What is defined; the description of a view is what changes while the server is killed.
pub fn definitions(description: &str) -> Vec<Definition> {
    let view = |name: &str, entity: &str| {
        json!({"apiVersion": "hydrant/v1", "kind": "FeatureView",
               "metadata": {"name": name, "description": description},
               "spec": {"entities": [entity], "source": SOURCE, "features": [{"name": "value"}, {"name": "note"}]}})
    };
    let entity = |name: &str, data_type: &str| {
        json!({"apiVersion": "hydrant/v1", "kind": "Entity", "metadata": {"name": name},
               "spec": {"joinKeys": [{"name": name, "type": data_type}]}})
    };
    let documents = [
        entity("device", "string"),
        entity("site", "int64"),
        json!({"apiVersion": "hydrant/v1", "kind": "Source", "metadata": {"name": SOURCE},
               "spec": {"type": "push", "eventTime": "happened_at", "knownTime": "event",
                        "columns": [{"name": "device", "type": "string"}, {"name": "site", "type": "int64"},
                                    {"name": "happened_at", "type": "timestamp"},
                                    {"name": "value", "type": "int64"}, {"name": "note", "type": "string"}]}}),
        view("by_device", "device"),
        view("by_site", "site"),
        json!({"apiVersion": "hydrant/v1", "kind": "FeatureService", "metadata": {"name": SERVICE},
               "spec": {"features": ["by_device", "by_site"]}}),
    ];
    documents.iter().map(|document| documents::from_json(document).expect("a definition")).collect()
}
