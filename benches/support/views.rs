//! The made-up views of the online and ingest workloads: their definitions, rows and requests. A
//! value is a function of view, key and feature, so that every rival holds the same data.

use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use arrow_array::{
    ArrayRef, FixedSizeListArray, Float32Array, Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use bytes::Bytes;
use futures::StreamExt as _;
use hydrant::rpc::client::Client;
use hydrant_proto::v1;
use hydrant_proto::v1::column::Values;
use prost::Message as _;

use super::random::{Choice, Keys, mix};

/// Rows of one request while loading.
const LOAD_ROWS: u64 = 10_000;
/// Event times lie so far back at most: within every ttl.
const SPREAD_MICROS: u64 = 3_600_000_000;

/// A view over a source of its own, with one int64 join key.
#[derive(Clone, Copy, Debug)]
pub struct ViewShape {
    pub name: &'static str,
    pub key: &'static str,
    /// Features of type float64: `f0`, `f1`, ...
    pub floats: u64,
    /// The dimension of a vector feature beside them, named `embedding`.
    pub vector: Option<usize>,
}

/// What a request reads.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    pub name: &'static str,
    pub service: &'static str,
    /// The first view has `candidates` keys a request; each of the others has one for all.
    pub views: &'static [ViewShape],
    pub candidates: usize,
}

pub const POINT: Workload = Workload {
    name: "point",
    service: "point_model",
    views: &[ViewShape { name: "user_activity", key: "user_id", floats: 10, vector: None }],
    candidates: 1,
};

/// An answer of 16 KB: 100 ad rows of 160 bytes, a member row with an embedding, a context row.
pub const ADS: Workload = Workload {
    name: "ads",
    service: "ads_model",
    views: &[
        ViewShape { name: "ad_stats", key: "ad_id", floats: 20, vector: None },
        ViewShape { name: "member_profile", key: "member_id", floats: 19, vector: Some(64) },
        ViewShape { name: "context_stats", key: "context_id", floats: 10, vector: None },
    ],
    candidates: 100,
};

/// Keys of one request: per view, the first with all candidates.
pub type RequestKeys = Vec<Vec<u64>>;

impl ViewShape {
    pub fn feature_names(&self) -> Vec<String> {
        let floats = (0..self.floats).map(|feature| format!("f{feature}"));
        floats.chain(self.vector.map(|_| "embedding".to_owned())).collect()
    }

    pub fn float(&self, key: u64, feature: u64) -> f64 {
        let seed = mix(key.wrapping_add(1)) ^ mix(feature.wrapping_add(0x51_7c_c1)) ^ self.name.len() as u64;
        (mix(seed) >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub fn vector_values(&self, key: u64) -> Vec<f32> {
        let dimension = self.vector.unwrap_or(0) as u64;
        (0..dimension).map(|place| self.float(key, 1_000 + place) as f32).collect()
    }

    /// All features of a row, little endian, as one would pack them by hand.
    pub fn packed(&self, key: u64) -> Vec<u8> {
        let floats = (0..self.floats).flat_map(|feature| self.float(key, feature).to_le_bytes());
        let vector = self.vector_values(key).into_iter().flat_map(f32::to_le_bytes);
        floats.chain(vector).collect()
    }

    pub fn source(&self) -> String {
        format!("{}_rows", self.name)
    }

    /// Entity, source and view as YAML documents.
    pub fn definitions(&self) -> String {
        let Self { name, key, .. } = self;
        let mut yaml = String::new();
        let document = |yaml: &mut String, kind: &str, name: &str, spec: &str| {
            writeln!(yaml, "---\napiVersion: hydrant/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n{spec}")
        };
        let mut columns = format!("    - {{name: {key}, type: int64}}\n    - {{name: event_time, type: timestamp}}\n");
        let mut features = String::new();
        for feature in self.feature_names() {
            let data_type = if feature == "embedding" {
                format!("vector<{}>", self.vector.unwrap_or_default())
            } else {
                "float64".to_owned()
            };
            columns += &format!("    - {{name: {feature}, type: {data_type}}}\n");
            features += &format!("    - {{name: {feature}}}\n");
        }
        let source = self.source();
        let written = [
            document(
                &mut yaml,
                "Entity",
                &format!("{name}_entity"),
                &format!("  joinKeys: [{{name: {key}, type: int64}}]"),
            ),
            document(
                &mut yaml,
                "Source",
                &source,
                &format!("  type: push\n  eventTime: event_time\n  columns:\n{columns}"),
            ),
            document(
                &mut yaml,
                "FeatureView",
                name,
                &format!("  entities: [{name}_entity]\n  source: {source}\n  ttl: 30d\n  features:\n{features}"),
            ),
        ];
        written.into_iter().for_each(|written| written.expect("a string takes what is written"));
        yaml
    }

    pub fn schema(&self) -> SchemaRef {
        let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let mut fields = vec![Field::new(self.key, DataType::Int64, false), Field::new("event_time", micros, false)];
        fields.extend((0..self.floats).map(|feature| Field::new(format!("f{feature}"), DataType::Float64, false)));
        fields.extend(self.vector.map(|dimension| Field::new("embedding", vector_type(dimension), false)));
        Arc::new(Schema::new(fields))
    }

    /// Rows of these keys, none of them later than `now` (microseconds).
    pub fn rows(&self, keys: &[u64], now: i64) -> Result<RecordBatch> {
        let key_column = keys.iter().map(|key| i64::try_from(*key)).collect::<Result<Int64Array, _>>();
        let times = keys.iter().map(|key| now - 1 - (mix(*key) % SPREAD_MICROS) as i64);
        let times: TimestampMicrosecondArray = times.collect::<Vec<i64>>().into();
        let mut columns: Vec<ArrayRef> = vec![Arc::new(key_column?), Arc::new(times.with_timezone("UTC"))];
        for feature in 0..self.floats {
            let values: Vec<f64> = keys.iter().map(|key| self.float(*key, feature)).collect();
            columns.push(Arc::new(Float64Array::from(values)));
        }
        if let Some(dimension) = self.vector {
            let values: Vec<f32> = keys.iter().flat_map(|key| self.vector_values(*key)).collect();
            let DataType::FixedSizeList(field, size) = vector_type(dimension) else { unreachable!("it is made so") };
            columns.push(Arc::new(FixedSizeListArray::try_new(
                field,
                size,
                Arc::new(Float32Array::from(values)),
                None,
            )?));
        }
        Ok(RecordBatch::try_new(self.schema(), columns)?)
    }

    /// Ingests a row for each of `0..keys` by Flight, and waits until all can be read.
    pub async fn load(self, client: &Client, keys: u64) -> Result<()> {
        let now = client.server_info().await?.store_time;
        let starts = (0..keys).step_by(LOAD_ROWS as usize);
        let batches = starts.map(move |start| {
            let keys: Vec<u64> = (start..keys.min(start + LOAD_ROWS)).collect();
            self.rows(&keys, now).map_err(|error| {
                hydrant::rpc::client::Refusal::new(hydrant::error::Code::Internal, "ROWS", format!("{error:#}"))
            })
        });
        let command = v1::IngestCommand { source: self.source(), wait_visible: true, ..Default::default() };
        let mut answers = client.put(command, self.schema(), futures::stream::iter(batches)).await?;
        let mut rows = 0;
        while let Some(answer) = answers.next().await {
            rows += answer?.rows;
        }
        anyhow::ensure!(rows == keys, "{rows} of {keys} rows of {} were taken", self.name);
        Ok(())
    }
}

impl Workload {
    pub fn definitions(&self) -> String {
        let mut yaml: String = self.views.iter().map(ViewShape::definitions).collect();
        let views: Vec<&str> = self.views.iter().map(|view| view.name).collect();
        yaml += &format!(
            "---\napiVersion: hydrant/v1\nkind: FeatureService\nmetadata: {{name: {}}}\nspec: {{features: [{}]}}\n",
            self.service,
            views.join(", ")
        );
        yaml
    }

    /// Entity keys that a request reads.
    pub fn keys_per_request(&self) -> usize {
        self.candidates + self.views.len() - 1
    }

    /// Keys for so many requests, out of those that exist.
    pub fn draw(&self, requests: usize, choice: Choice, keys: u64) -> Vec<RequestKeys> {
        let mut drawn = Keys::new(choice, keys, 7);
        let per_view = |view: usize| if view == 0 { self.candidates } else { 1 };
        (0..requests)
            .map(|_| (0..self.views.len()).map(|view| (0..per_view(view)).map(|_| drawn.draw()).collect()).collect())
            .collect()
    }

    /// A request as it goes over the wire.
    pub fn encode(&self, keys: &RequestKeys) -> Result<Bytes> {
        let mut entities = Vec::new();
        for (view, keys) in self.views.iter().zip(keys) {
            let values = keys.iter().map(|key| i64::try_from(*key)).collect::<Result<_, _>>().context("a small key")?;
            let values = Some(Values::Int64s(v1::Int64Values { values }));
            entities.push(v1::Column { name: view.key.to_owned(), values, nulls: Vec::new() });
        }
        let services = vec![self.service.to_owned()];
        let request = v1::GetOnlineFeaturesRequest { services, entities, ..Default::default() };
        Ok(request.encode_to_vec().into())
    }
}

fn vector_type(dimension: usize) -> DataType {
    let size = i32::try_from(dimension).expect("a small dimension");
    DataType::FixedSizeList(Arc::new(Field::new("item", DataType::Float32, false)), size)
}
