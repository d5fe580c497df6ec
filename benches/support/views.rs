//! The made-up views of the online and ingest workloads: their definitions, rows and requests. A
//! value is a function of view, key and feature, so that every rival holds the same data.

use std::collections::BTreeSet;
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
use hydrant::rpc::wire::columns::encode_column;
use hydrant_proto::v1;
use hydrant_proto::v1::column::Values;
use prost::Message as _;

use super::random::{Choice, Keys, mix};

/// Rows of one request while loading.
const LOAD_ROWS: u64 = 10_000;
/// Rows of one request of a sweep.
const SWEEP_ROWS: u64 = 1_000;
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
    /// All views are about the same key.
    pub one_entity: bool,
}

pub const POINT: Workload = Workload {
    name: "point",
    service: "point_model",
    views: &[ViewShape { name: "user_activity", key: "user_id", floats: 10, vector: None }],
    candidates: 1,
    one_entity: true,
};

/// The field's customary benchmark: 250 features of one entity.
pub const WIDE: Workload = Workload {
    name: "wide",
    service: "wide_model",
    views: &[
        wide_view("wide_0"),
        wide_view("wide_1"),
        wide_view("wide_2"),
        wide_view("wide_3"),
        wide_view("wide_4"),
        wide_view("wide_5"),
        wide_view("wide_6"),
        wide_view("wide_7"),
        wide_view("wide_8"),
        wide_view("wide_9"),
    ],
    candidates: 1,
    one_entity: true,
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
    one_entity: false,
};

pub const ADS500: Workload = Workload { name: "ads500", candidates: 500, ..ADS };

/// What a request of one key, or of many, asks for over and over in [`Workload::draw_one_hot`].
const HOT_KEY: u64 = 1;
/// Bytes of a stored row beside its features, about.
const STORED_HEADER: u64 = 64;

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

    /// Its entity as a YAML document; views of one key share it.
    fn entity(&self) -> String {
        let mut yaml = String::new();
        let spec = format!("  joinKeys: [{{name: {}, type: int64}}]", self.key);
        document(&mut yaml, "Entity", &format!("{}_entity", self.key), &spec).expect("a string takes what is written");
        yaml
    }

    /// Source and view as YAML documents.
    pub fn definitions(&self) -> String {
        let Self { name, key, .. } = self;
        let mut yaml = String::new();
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
                "Source",
                &source,
                &format!("  type: push\n  eventTime: event_time\n  columns:\n{columns}"),
            ),
            document(
                &mut yaml,
                "FeatureView",
                name,
                &format!("  entities: [{key}_entity]\n  source: {source}\n  ttl: 30d\n  features:\n{features}"),
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

    /// Rows of these keys as one request by gRPC.
    pub fn ingest_request(&self, keys: &[u64], now: i64) -> Result<v1::IngestRequest> {
        let batch = self.rows(keys, now)?;
        let mut columns = Vec::with_capacity(batch.num_columns());
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            columns.push(encode_column(field.name(), column)?);
        }
        let rows = Some(v1::ingest_request::Rows::Columns(v1::Columns { columns }));
        Ok(v1::IngestRequest { source: self.source(), rows, ..Default::default() })
    }

    /// Reads of one feature of every key in `0..keys`, encoded: together they touch every row.
    pub fn sweep(&self, keys: u64) -> Result<Vec<Bytes>> {
        let requests = (0..keys).step_by(SWEEP_ROWS as usize).map(|start| {
            let values = (start..keys.min(start + SWEEP_ROWS)).map(i64::try_from).collect::<Result<_, _>>()?;
            let values = Some(Values::Int64s(v1::Int64Values { values }));
            let entities = vec![v1::Column { name: self.key.to_owned(), values, nulls: Vec::new() }];
            let features = vec![format!("{}:f0", self.name)];
            let request = v1::GetOnlineFeaturesRequest { features, entities, ..Default::default() };
            Ok(Bytes::from(request.encode_to_vec()))
        });
        requests.collect()
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
        let entities: BTreeSet<String> = self.views.iter().map(ViewShape::entity).collect();
        let mut yaml: String = entities.into_iter().collect();
        self.views.iter().for_each(|view| yaml += &view.definitions());
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
        let mut of_request = || {
            let candidates: Vec<u64> = (0..self.candidates).map(|_| drawn.draw()).collect();
            let mut other = || if self.one_entity { candidates[0] } else { drawn.draw() };
            let others: Vec<Vec<u64>> = self.views[1..].iter().map(|_| vec![other()]).collect();
            [vec![candidates], others].concat()
        };
        (0..requests).map(|_| of_request()).collect()
    }

    /// The same, drawn uniformly, but every second request asks for one and the same key of each view:
    /// of the candidates it is one.
    pub fn draw_one_hot(&self, requests: usize, keys: u64) -> Vec<RequestKeys> {
        let mut drawn = self.draw(requests, Choice::Uniform, keys);
        drawn.iter_mut().step_by(2).flatten().for_each(|of_view| of_view[0] = HOT_KEY % keys);
        drawn
    }

    /// A request as it goes over the wire.
    pub fn encode(&self, keys: &RequestKeys) -> Result<Bytes> {
        self.encode_for(&[self.service.to_owned()], keys)
    }

    /// The same, to be answered by matrices.
    pub fn encode_for_matrices(&self, keys: &RequestKeys) -> Result<Bytes> {
        let format = v1::AnswerFormat::Matrix.into();
        let request = v1::GetOnlineFeaturesRequest { format, ..self.request(&[self.service.to_owned()], keys)? };
        Ok(request.encode_to_vec().into())
    }

    /// A request for services over the workload's views.
    pub fn encode_for(&self, services: &[String], keys: &RequestKeys) -> Result<Bytes> {
        Ok(self.request(services, keys)?.encode_to_vec().into())
    }

    fn request(&self, services: &[String], keys: &RequestKeys) -> Result<v1::GetOnlineFeaturesRequest> {
        let mut entities = Vec::new();
        let columns = if self.one_entity { 1 } else { self.views.len() };
        for (view, keys) in self.views.iter().zip(keys).take(columns) {
            let values = keys.iter().map(|key| i64::try_from(*key)).collect::<Result<_, _>>().context("a small key")?;
            let values = Some(Values::Int64s(v1::Int64Values { values }));
            entities.push(v1::Column { name: view.key.to_owned(), values, nulls: Vec::new() });
        }
        Ok(v1::GetOnlineFeaturesRequest { services: services.to_vec(), entities, ..Default::default() })
    }

    /// What the store holds for the workload, in bytes, about.
    pub fn stored_bytes(&self, keys: u64) -> u64 {
        let of_row = |view: &ViewShape| view.packed(0).len() as u64 + STORED_HEADER;
        self.views.iter().map(of_row).sum::<u64>() * keys
    }
}

const fn wide_view(name: &'static str) -> ViewShape {
    ViewShape { name, key: "account_id", floats: 25, vector: None }
}

fn document(yaml: &mut String, kind: &str, name: &str, spec: &str) -> std::fmt::Result {
    writeln!(yaml, "---\napiVersion: hydrant/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n{spec}")
}

fn vector_type(dimension: usize) -> DataType {
    let size = i32::try_from(dimension).expect("a small dimension");
    DataType::FixedSizeList(Arc::new(Field::new("item", DataType::Float32, false)), size)
}
