//! Events of OpenLineage (<https://openlineage.io/spec/2-0-2/OpenLineage.json>) as JSON: what ran, from what
//! to what, column by column. A pure function of definitions; no data is in them but counts.

use std::collections::BTreeMap;

use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;
use serde_json::{Map, Value as Json, json};

use crate::clock::rfc3339;
use crate::registry::catalog::{Applied, Source, TenantCatalog, View};
use crate::runs::{Input, MadeOf, Origin, Written};

const EVENT: &str = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent";
const PRODUCER: &str = concat!("https://hydrant.dev/openlineage/", env!("CARGO_PKG_VERSION"));
/// The longest message of a failure, in bytes.
const MAX_MESSAGE: usize = 1_024;
/// Columns of one dataset that are told of; the others are left out.
const MAX_FIELDS: usize = 2_000;
/// The longest name that is made of several, in bytes.
const MAX_JOINED: usize = 200;

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

    /// A training set, `kind` saying whether it is kept; and what it is made of.
    pub fn training_set(&self, kind: &str, name: &str, made_of: &MadeOf, written: Option<&Written>) -> Datasets {
        let mut inputs: BTreeMap<String, Json> = BTreeMap::new();
        let mut datasets = Vec::with_capacity(made_of.inputs.len());
        for (index, input) in made_of.inputs.iter().enumerate() {
            let (name, described) = self.input(index, input, made_of);
            if let Some(described) = described {
                // A view is one dataset in all its versions.
                inputs.entry(name.clone()).or_insert(described);
            }
            datasets.push(name);
        }
        let made = made_of.columns.iter().filter_map(|column| {
            let (input, field) = column.from.as_ref()?;
            Some((column.name.clone(), datasets[*input].clone(), field.clone()))
        });
        let mut facets = Map::new();
        let columns = made_of.columns.iter().map(|column| (column.name.as_str(), column.data_type.clone(), ""));
        facets.insert("schema".to_owned(), schema(columns));
        facets.insert("dataSource".to_owned(), self.data_source());
        facets.insert("columnLineage".to_owned(), self.lineage(made));
        let version = written.and_then(|written| written.name.split_once('@')).map(|(_, number)| number);
        if let Some(version) = version {
            facets.insert("version".to_owned(), version_facet(version));
        }
        let outputs = vec![self.dataset(kind, name, facets, written)];
        Datasets { inputs: inputs.into_values().collect(), outputs }
    }

    /// The name of a dataset that a training set is made of, and the dataset; none where it was deleted
    /// meanwhile. Of what another tenant shares, the columns as its reader knows them are all that is told.
    fn input(&self, index: usize, input: &Input, made_of: &MadeOf) -> (String, Option<Json>) {
        match input {
            Input::View { name, version } => {
                let view = self.catalog.versions_of(name.as_str()).find(|view| view.version == *version);
                (self.name("view", name.as_str()), view.map(|view| self.view(view, None)))
            }
            Input::OfAnother { name, version } => {
                let columns =
                    made_of.columns.iter().filter(|column| column.from.as_ref().is_some_and(|(of, _)| *of == index));
                let columns = columns.map(|column| (column.name.as_str(), column.data_type.clone(), ""));
                let mut facets = Map::new();
                facets.insert("schema".to_owned(), schema(columns));
                facets.insert("dataSource".to_owned(), self.data_source());
                facets.insert("version".to_owned(), version_facet(&version.to_string()));
                (self.name("shared", name), Some(self.dataset("shared", name, facets, None)))
            }
        }
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
        facets.insert("version".to_owned(), version_facet(&version));
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

/// What others keep and was loaded.
pub fn origin(origin: &Origin) -> Json {
    let mut facets = Map::new();
    if let Some(version) = &origin.version {
        facets.insert("version".to_owned(), version_facet(version));
    }
    json!({"namespace": origin.namespace, "name": origin.name, "facets": facets})
}

fn version_facet(version: &str) -> Json {
    facet("1-0-1/DatasetVersionDatasetFacet", json!({"datasetVersion": version}))
}

/// What a training set that is not kept is called: by all that was asked for, whose versions are no part of it,
/// so that a new version is a run of the same job.
pub fn pulled_name(asked: &[String]) -> String {
    let whole = asked.join("+");
    if whole.len() <= MAX_JOINED {
        return whole;
    }
    let all: Vec<&str> = asked.iter().map(String::as_str).collect();
    let id = &stable_id(&all)[..8];
    format!("{}_and_more_{id}", &whole[..whole.floor_char_boundary(MAX_JOINED)])
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
    fn what_is_not_kept_is_called_by_what_was_asked_for_within_a_bound() {
        let asked = |count: usize| (0..count).map(|number| format!("service_{number}")).collect::<Vec<_>>();
        assert_eq!(pulled_name(&asked(2)), "service_0+service_1");
        let (long, longer) = (pulled_name(&asked(40)), pulled_name(&asked(41)));
        assert!(long.len() < 220 && longer.len() < 220);
        assert_ne!(long, longer);
    }

    #[test]
    fn a_run_has_the_same_id_whenever_it_is_told_of_and_another_one_another() {
        let id = stable_id(&["hydrant", "default", "backfill", "1"]);
        assert_eq!(id, stable_id(&["hydrant", "default", "backfill", "1"]));
        assert_ne!(id, stable_id(&["hydrant", "default", "backfill1", ""]));
        assert_eq!((id.len(), &id[14..15]), (36, "5"));
        assert!("89ab".contains(&id[19..20]), "{id}");
    }
}
