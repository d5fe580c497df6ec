//! Events of OpenLineage (<https://openlineage.io/spec/2-0-2/OpenLineage.json>) as JSON: what ran, from what
//! to what, column by column. A pure function of definitions; no data is in them but counts.

use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;
use serde_json::{Map, Value as Json, json};

use crate::clock::rfc3339;
use crate::registry::catalog::{Applied, Source, TenantCatalog, View};
use crate::runs::Written;

const EVENT: &str = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent";
const PRODUCER: &str = concat!("https://hydrant.dev/openlineage/", env!("CARGO_PKG_VERSION"));
/// The longest message of a failure, in bytes.
const MAX_MESSAGE: usize = 1_024;
/// Columns of one dataset that are told of; the others are left out.
const MAX_FIELDS: usize = 2_000;

/// The transition of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Start,
    Complete,
    Fail,
    Abort,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Start => "START",
            Self::Complete => "COMPLETE",
            Self::Fail => "FAIL",
            Self::Abort => "ABORT",
        }
    }
}

/// What an event is about, besides datasets.
#[derive(Clone, Debug)]
pub struct About {
    pub kind: Kind,
    pub at: Micros,
    pub run_id: String,
    pub namespace: String,
    pub job: String,
    /// `INGEST`, `BACKFILL`, `MATERIALIZE`, `TRAINING_SET`.
    pub job_type: &'static str,
    /// From, and to (excluded): of what is told by the time.
    pub nominal: Option<(Micros, Micros)>,
    pub failure: Option<String>,
}

/// The datasets of one event, inputs and outputs.
#[derive(Clone, Debug, Default)]
pub struct Datasets {
    pub inputs: Vec<Json>,
    pub outputs: Vec<Json>,
}

/// Makes datasets of one tenant.
#[derive(Clone, Copy, Debug)]
pub struct Describes<'a> {
    /// That of the configuration.
    pub namespace: &'a str,
    pub catalog: &'a TenantCatalog,
}

pub fn event(about: &About, datasets: Datasets) -> Json {
    let mut of_run = Map::new();
    let engine = json!({"name": "hydrant", "version": env!("CARGO_PKG_VERSION")});
    of_run.insert("processing_engine".to_owned(), facet("1-1-1/ProcessingEngineRunFacet", engine));
    if let Some((from, to)) = about.nominal {
        let nominal = json!({"nominalStartTime": rfc3339(from), "nominalEndTime": rfc3339(to)});
        of_run.insert("nominalTime".to_owned(), facet("1-0-1/NominalTimeRunFacet", nominal));
    }
    if let Some(message) = &about.failure {
        let message = &message[..message.floor_char_boundary(MAX_MESSAGE)];
        let failure = json!({"message": message, "programmingLanguage": "rust"});
        of_run.insert("errorMessage".to_owned(), facet("1-0-1/ErrorMessageRunFacet", failure));
    }
    let job_type = json!({"processingType": "BATCH", "integration": "HYDRANT", "jobType": about.job_type});
    json!({
        "eventType": about.kind.as_str(),
        "eventTime": rfc3339(about.at),
        "producer": PRODUCER,
        "schemaURL": EVENT,
        "run": {"runId": about.run_id, "facets": of_run},
        "job": {
            "namespace": about.namespace,
            "name": about.job,
            "facets": {"jobType": facet("2-0-4/JobTypeJobFacet", job_type)},
        },
        "inputs": datasets.inputs,
        "outputs": datasets.outputs,
    })
}

impl Describes<'_> {
    /// Where datasets are.
    fn place(&self) -> String {
        format!("hydrant://{}", self.namespace)
    }

    fn name(&self, kind: &str, name: &str) -> String {
        format!("{}.{kind}.{name}", self.catalog.name)
    }

    pub fn source(&self, source: &Source) -> Json {
        let columns = source.columns.iter().map(|column| (column.name.as_str(), column.data_type.to_string(), ""));
        let facets = self.facets(columns, &source.applied, None);
        self.dataset("source", source.name.as_str(), facets, None)
    }

    /// The rows of a view, made of its source's columns.
    pub fn view(&self, view: &View, written: Option<&Written>) -> Json {
        let mut facets = self.facets(fields(view), &view.applied, Some(view.version.to_string()));
        let source = self.name("source", view.source.as_str());
        let keys = view.join_keys.iter().map(|key| (key.name.to_string(), key.name.to_string()));
        let features = view.features.iter().map(|feature| (feature.name.to_string(), feature.column.to_string()));
        let made = keys.chain(features).map(|(field, column)| (field, source.clone(), column));
        facets.insert("columnLineage".to_owned(), self.lineage(made));
        self.dataset("view", view.name.as_str(), facets, written)
    }

    /// What is online of a view, made of its history.
    pub fn online(&self, view: &View, written: Option<&Written>) -> Json {
        let mut facets = self.facets(fields(view), &view.applied, Some(view.version.to_string()));
        let history = self.name("view", view.name.as_str());
        let made = fields(view).map(|(field, ..)| (field.to_owned(), history.clone(), field.to_owned()));
        facets.insert("columnLineage".to_owned(), self.lineage(made));
        self.dataset("online", view.name.as_str(), facets, written)
    }

    /// A training set of versions of services, `name@N`; and the views that it is made of.
    pub fn training_set(&self, name: &str, services: &[String], written: Option<&Written>) -> Datasets {
        let mut inputs: Vec<Json> = Vec::new();
        let (mut columns, mut made, mut seen) = (Vec::new(), Vec::new(), std::collections::BTreeSet::new());
        for reference in services {
            let Some((service, number)) = reference.split_once('@') else { continue };
            let number: Option<u32> = number.parse().ok();
            let service = self.catalog.services.get(service);
            let version =
                service.and_then(|service| service.versions.iter().find(|version| Some(version.number) == number));
            let Some(version) = version else { continue };
            for lookup in &version.lookups {
                if seen.insert(lookup.view.name.clone()) {
                    inputs.push(self.view(&lookup.view, None));
                }
            }
            for column in &version.columns {
                let view = &version.lookups[column.lookup].view;
                let feature = &view.features[column.feature];
                columns.push((column.name.clone(), column.data_type.to_string()));
                let of_view = self.name("view", view.name.as_str());
                made.push((column.name.clone(), of_view, feature.name.to_string()));
            }
        }
        let mut facets = Map::new();
        let columns = columns.iter().map(|(name, data_type)| (name.as_str(), data_type.clone(), ""));
        facets.insert("schema".to_owned(), schema(columns));
        facets.insert("dataSource".to_owned(), self.data_source());
        facets.insert("columnLineage".to_owned(), self.lineage(made.into_iter()));
        let version = written.and_then(|written| written.name.split_once('@')).map(|(_, number)| number);
        if let Some(version) = version {
            let version = json!({"datasetVersion": version});
            facets.insert("version".to_owned(), facet("1-0-1/DatasetVersionDatasetFacet", version));
        }
        Datasets { inputs, outputs: vec![self.dataset("training_set", name, facets, written)] }
    }

    fn facets<'a>(
        &self,
        fields: impl Iterator<Item = (&'a str, String, &'a str)>,
        applied: &Applied,
        version: Option<String>,
    ) -> Map<String, Json> {
        let mut facets = Map::new();
        facets.insert("schema".to_owned(), schema(fields));
        facets.insert("dataSource".to_owned(), self.data_source());
        let version = version.unwrap_or_else(|| applied.revision.to_string());
        let version = json!({"datasetVersion": version});
        facets.insert("version".to_owned(), facet("1-0-1/DatasetVersionDatasetFacet", version));
        let owner = &applied.definition.metadata.owner;
        if !owner.is_empty() {
            let owners = json!({"owners": [{"name": owner, "type": "OWNER"}]});
            facets.insert("ownership".to_owned(), facet("1-0-1/OwnershipDatasetFacet", owners));
        }
        facets
    }

    fn data_source(&self) -> Json {
        facet("1-0-1/DatasourceDatasetFacet", json!({"name": self.namespace, "uri": self.place()}))
    }

    /// Of each field the dataset and the field that its values come from, as they are.
    fn lineage(&self, fields: impl Iterator<Item = (String, String, String)>) -> Json {
        let place = self.place();
        let of_field = |(field, dataset, column): (String, String, String)| {
            let as_it_is = json!({"type": "DIRECT", "subtype": "IDENTITY", "masking": false});
            let input = json!({"namespace": place, "name": dataset, "field": column, "transformations": [as_it_is]});
            (field, json!({"inputFields": [input]}))
        };
        let fields: Map<String, Json> = fields.take(MAX_FIELDS).map(of_field).collect();
        facet("1-2-0/ColumnLineageDatasetFacet", json!({"fields": fields}))
    }

    fn dataset(&self, kind: &str, name: &str, facets: Map<String, Json>, written: Option<&Written>) -> Json {
        let mut dataset = json!({"namespace": self.place(), "name": self.name(kind, name), "facets": facets});
        if let Some(Written { rows, bytes, .. }) = written {
            let mut counts = json!({"rowCount": rows});
            if let Some(bytes) = bytes {
                counts["size"] = json!(bytes);
            }
            let counts = facet("1-0-2/OutputStatisticsOutputDatasetFacet", counts);
            dataset["outputFacets"] = json!({"outputStatistics": counts});
        }
        dataset
    }
}

/// The entity key, and the features.
fn fields(view: &View) -> impl Iterator<Item = (&str, String, &str)> {
    let keys = view.join_keys.iter().map(|key| (key.name.as_str(), key.key_type.as_str().to_owned(), ""));
    let features = view.features.iter();
    keys.chain(
        features.map(|feature| (feature.name.as_str(), feature.data_type.to_string(), feature.description.as_str())),
    )
}

fn schema<'a>(fields: impl Iterator<Item = (&'a str, String, &'a str)>) -> Json {
    let field = |(name, data_type, description): (&str, String, &str)| {
        let mut field = json!({"name": name, "type": data_type});
        if !description.is_empty() {
            field["description"] = json!(description);
        }
        field
    };
    let fields: Vec<Json> = fields.take(MAX_FIELDS).map(field).collect();
    facet("1-2-0/SchemaDatasetFacet", json!({"fields": fields}))
}

/// A facet of the specification, `VERSION/NAME`.
fn facet(of: &str, mut content: Json) -> Json {
    let name = of.split_once('/').map_or(of, |(_, name)| name);
    content["_producer"] = json!(PRODUCER);
    content["_schemaURL"] = json!(format!("https://openlineage.io/spec/facets/{of}.json#/$defs/{name}"));
    content
}

/// The same for the same words, whenever and wherever: a UUID of version 5 (RFC 9562).
pub fn stable_id(words: &[&str]) -> String {
    use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
    /// Of names that begin with what they are names for (RFC 9562, 6.6: URLs).
    const NAMESPACE: [u8; 16] =
        [0x6b, 0xa7, 0xb8, 0x11, 0x9d, 0xad, 0x11, 0xd1, 0x80, 0xb4, 0x00, 0xc0, 0x4f, 0xd4, 0x30, 0xc8];
    let name = format!("https://hydrant.dev/run/{}", words.join("\0"));
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[&NAMESPACE[..], name.as_bytes()].concat());
    let mut id: [u8; 16] = hash.as_ref()[..16].try_into().expect("a SHA-1 has twenty bytes");
    id[6] = id[6] & 0x0f | 0x50;
    id[8] = id[8] & 0x3f | 0x80;
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// The name of a job of a tenant.
pub fn job(tenant: &Name, kind: &str, name: &str) -> String {
    format!("{tenant}.{kind}.{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_has_the_same_id_whenever_it_is_told_of_and_another_one_another() {
        let id = stable_id(&["hydrant", "default", "backfill", "1"]);
        assert_eq!(id, stable_id(&["hydrant", "default", "backfill", "1"]));
        assert_ne!(id, stable_id(&["hydrant", "default", "backfill1", ""]));
        assert_eq!((id.len(), &id[14..15]), (36, "5"));
        assert!("89ab".contains(&id[19..20]), "{id}");
    }
}
