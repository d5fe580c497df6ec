//! Definitions as documents: `apiVersion`, `kind`, `metadata`, `spec`, read from nodes (YAML or
//! JSON) and written as JSON. Reading lists every problem of a document at once; whether
//! definitions fit together is not asked here.

use std::str::FromStr;

use hydrant_storage::names::Name;
use serde_json::{Map, Value as Json, json};

use crate::config::durations;
use crate::error::Violation;

use super::definition::{
    ConsumerSpec, Definition, EntitySpec, FeatureServiceSpec, FeatureSpec, FeatureViewSpec, Kind, KnownTimeRule,
    Metadata, ServiceFeature, SourceSpec, SourceType, Spec, TenantSpec, TypedName,
};
use super::node::{Content, Node, Place};
use super::promise::{FreshnessSpec, Severity, Target};
use super::reader::{Fields, Problem, Problems};

/// The one version of the document format.
pub const API_VERSION: &str = "hydrant/v1";

/// Reads a document, or lists everything that is wrong with it.
pub fn from_json(document: &Json) -> Result<Definition, Vec<Violation>> {
    read(&Node::of_json(document)).map_err(|problems| {
        let violation = |problem: Problem| Violation { path: problem.path, message: problem.message };
        problems.into_iter().map(violation).collect()
    })
}

/// Writes a definition; [`from_json`] gives it back.
pub fn to_json(definition: &Definition) -> Json {
    let mut metadata = Map::new();
    metadata.insert("name".to_owned(), json!(definition.metadata.name));
    put_text(&mut metadata, "description", &definition.metadata.description);
    put_text(&mut metadata, "owner", &definition.metadata.owner);
    if !definition.metadata.tags.is_empty() {
        metadata.insert("tags".to_owned(), json!(definition.metadata.tags));
    }
    let spec = match &definition.spec {
        Spec::Tenant(TenantSpec {}) => json!({}),
        Spec::Entity(spec) => json!({"joinKeys": typed_names_to_json(&spec.join_keys)}),
        Spec::Source(spec) => source_to_json(spec),
        Spec::FeatureView(spec) => view_to_json(spec),
        Spec::FeatureService(spec) => service_to_json(spec),
        Spec::Consumer(spec) => consumer_to_json(spec),
    };
    json!({"apiVersion": API_VERSION, "kind": definition.spec.kind().as_str(), "metadata": metadata, "spec": spec})
}

/// A feature of a service as it is written shortest: `view`, `view:feature`, or a mapping.
pub fn service_feature_to_json(feature: &ServiceFeature) -> Json {
    let plain = feature.alias.is_none() && feature.keys.is_empty();
    match feature.features.as_slice() {
        [] if plain => json!(feature.view),
        [single] if plain => json!(format!("{}:{single}", feature.view)),
        features => {
            let mut mapping = Map::new();
            mapping.insert("view".to_owned(), json!(feature.view));
            if !features.is_empty() {
                mapping.insert("features".to_owned(), json!(features));
            }
            if let Some(alias) = &feature.alias {
                mapping.insert("as".to_owned(), json!(alias));
            }
            if !feature.keys.is_empty() {
                mapping.insert("keys".to_owned(), json!(feature.keys));
            }
            Json::Object(mapping)
        }
    }
}

/// A known-time rule as it is written.
pub fn known_time_to_json(rule: &KnownTimeRule) -> Json {
    match rule {
        KnownTimeRule::Arrival => json!("arrival"),
        KnownTimeRule::Event { delay: 0 } => json!("event"),
        KnownTimeRule::Event { delay } => json!({"event": format!("+{}", durations::format(*delay))}),
        KnownTimeRule::Column(column) => json!({"column": column}),
    }
}

/// Reads a document out of its nodes.
pub(super) fn read(node: &Node) -> Result<Definition, Vec<Problem>> {
    let mut problems = Problems::default();
    let definition = read_document(&mut problems, node);
    let problems = problems.into_vec();
    match definition {
        Some(definition) if problems.is_empty() => Ok(definition),
        _ => Err(problems),
    }
}

fn read_document(problems: &mut Problems, node: &Node) -> Option<Definition> {
    // `status` is what the server adds when it shows a definition; it says nothing on the way back.
    let document = problems.fields(node, "", &["apiVersion", "kind", "metadata", "spec", "status"]);
    if let Some((node, path)) = document.required(problems, "apiVersion")
        && let Some(version) = problems.text(node, &path)
        && version != API_VERSION
    {
        let shown: String = version.chars().take(80).collect();
        problems.add(path, node.place, format!("'{shown}' is not known: this server reads {API_VERSION}"));
    }
    let kind = document.required(problems, "kind").and_then(|(node, path)| read_kind(problems, node, &path));
    let metadata =
        document.required(problems, "metadata").and_then(|(node, path)| read_metadata(problems, node, &path));
    let spec = match kind? {
        Kind::Tenant => {
            if let Some((node, path)) = document.optional_value("spec") {
                problems.fields(node, &path, &[]);
            }
            Some(Spec::Tenant(TenantSpec {}))
        }
        kind => {
            let (node, path) = document.required(problems, "spec")?;
            read_spec(problems, kind, node, &path)
        }
    };
    Some(Definition { metadata: metadata?, spec: spec? })
}

fn read_kind(problems: &mut Problems, node: &Node, path: &str) -> Option<Kind> {
    let text = problems.text(node, path)?;
    let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == text);
    if kind.is_none() {
        let known = Kind::ALL.map(Kind::as_str).join(", ");
        let shown: String = text.chars().take(80).collect();
        problems.add(path, node.place, format!("'{shown}' is no kind; there are {known}"));
    }
    kind
}

fn read_metadata(problems: &mut Problems, node: &Node, path: &str) -> Option<Metadata> {
    let fields = problems.fields(node, path, &["name", "description", "owner", "tags"]);
    let name = fields.required(problems, "name").and_then(|(node, path)| problems.name(node, &path));
    let description = optional_text(problems, &fields, "description");
    let owner = optional_text(problems, &fields, "owner");
    let tags = fields.optional_value("tags").map(|(node, path)| problems.texts(node, &path)).unwrap_or_default();
    Some(Metadata { name: name?, description, owner, tags })
}

fn read_spec(problems: &mut Problems, kind: Kind, node: &Node, path: &str) -> Option<Spec> {
    match kind {
        Kind::Tenant => Some(Spec::Tenant(TenantSpec {})),
        Kind::Entity => read_entity(problems, node, path).map(Spec::Entity),
        Kind::Source => read_source(problems, node, path).map(Spec::Source),
        Kind::FeatureView => read_view(problems, node, path).map(Spec::FeatureView),
        Kind::FeatureService => read_service(problems, node, path).map(Spec::FeatureService),
        Kind::Consumer => read_consumer(problems, node, path).map(Spec::Consumer),
    }
}

fn read_entity(problems: &mut Problems, node: &Node, path: &str) -> Option<EntitySpec> {
    let fields = problems.fields(node, path, &["joinKeys"]);
    let (node, path) = fields.required(problems, "joinKeys")?;
    Some(EntitySpec { join_keys: read_typed_names(problems, node, &path) })
}

fn read_source(problems: &mut Problems, node: &Node, path: &str) -> Option<SourceSpec> {
    let fields = problems.fields(node, path, &["type", "eventTime", "knownTime", "maxFuture", "columns"]);
    if let Some((node, path)) = fields.required(problems, "type")
        && let Some(text) = problems.text(node, &path)
        && text != "push"
    {
        let shown: String = text.chars().take(80).collect();
        problems.add(path, node.place, format!("'{shown}' is no type of source; there is 'push'"));
    }
    let event_time = fields.required(problems, "eventTime").and_then(|(node, path)| problems.name(node, &path));
    let known_time = match fields.optional_value("knownTime") {
        Some((node, path)) => read_known_time(problems, node, &path),
        None => Some(KnownTimeRule::Arrival),
    };
    let max_future = match fields.optional_value("maxFuture") {
        Some((node, path)) => problems.duration(node, &path),
        None => Some(SourceSpec::DEFAULT_MAX_FUTURE),
    };
    let columns = fields.required(problems, "columns").map(|(node, path)| read_typed_names(problems, node, &path));
    Some(SourceSpec {
        source_type: SourceType::Push,
        event_time: event_time?,
        known_time: known_time?,
        max_future: max_future?,
        columns: columns?,
    })
}

fn read_known_time(problems: &mut Problems, node: &Node, path: &str) -> Option<KnownTimeRule> {
    const FORMS: &str = "arrival, event, {event: +10m} or {column: NAME}";
    match &node.content {
        Content::Text(text) if text == "arrival" => Some(KnownTimeRule::Arrival),
        Content::Text(text) if text == "event" => Some(KnownTimeRule::Event { delay: 0 }),
        Content::Text(text) => {
            let shown: String = text.chars().take(80).collect();
            problems.add(path, node.place, format!("'{shown}' is no known time: use {FORMS}"));
            None
        }
        Content::Mapping(entries) if entries.len() == 1 => {
            let fields = problems.fields(node, path, &["event", "column"]);
            if let Some((node, path)) = fields.optional("event") {
                let delay =
                    problems.parsed(node, &path, |text| durations::parse(text.strip_prefix('+').unwrap_or(text)));
                return delay.map(|delay| KnownTimeRule::Event { delay });
            }
            let (node, path) = fields.optional("column")?;
            problems.name(node, &path).map(KnownTimeRule::Column)
        }
        _ => problems.wanted(node, path, FORMS),
    }
}

fn read_view(problems: &mut Problems, node: &Node, path: &str) -> Option<FeatureViewSpec> {
    let known = ["entities", "source", "ttl", "retention", "features", "online", "offline", "freshness"];
    let fields = problems.fields(node, path, &known);
    let entities = fields.required(problems, "entities").map(|(node, path)| problems.names(node, &path));
    let source = fields.required(problems, "source").and_then(|(node, path)| problems.name(node, &path));
    let ttl = fields.optional_value("ttl").and_then(|(node, path)| problems.duration(node, &path));
    let retention = fields.optional_value("retention").and_then(|(node, path)| problems.duration(node, &path));
    let features = fields.required(problems, "features").map(|(node, path)| {
        let elements = problems.sequence(node, &path);
        elements.into_iter().filter_map(|(node, path)| read_feature(problems, node, &path)).collect()
    });
    let online = optional_boolean(problems, &fields, "online", true);
    let offline = optional_boolean(problems, &fields, "offline", true);
    let freshness = fields.optional_value("freshness").and_then(|(node, path)| read_freshness(problems, node, &path));
    let (entities, source, features) = (entities?, source?, features?);
    Some(FeatureViewSpec { entities, source, ttl, retention, features, online, offline, freshness })
}

/// What is left out has its default; what is wrong is told, and then there is no promise.
fn read_freshness(problems: &mut Problems, node: &Node, path: &str) -> Option<FreshnessSpec> {
    let fields = problems.fields(node, path, &["maxAge", "target", "window", "severity"]);
    let max_age = fields.required(problems, "maxAge").and_then(|(node, path)| problems.duration(node, &path));
    let target = fields.optional_value("target").map(|(node, path)| problems.parsed(node, &path, Target::from_str));
    let window = fields.optional_value("window").map(|(node, path)| problems.duration(node, &path));
    let severity =
        fields.optional_value("severity").map(|(node, path)| problems.parsed(node, &path, Severity::from_str));
    let default = FreshnessSpec::of(max_age?);
    Some(FreshnessSpec {
        target: target.unwrap_or(Some(default.target))?,
        window: window.unwrap_or(Some(default.window))?,
        severity: severity.unwrap_or(Some(default.severity))?,
        ..default
    })
}

fn read_feature(problems: &mut Problems, node: &Node, path: &str) -> Option<FeatureSpec> {
    let fields = problems.fields(node, path, &["name", "description", "type", "column", "default", "tags"]);
    let name = fields.required(problems, "name").and_then(|(node, path)| problems.name(node, &path));
    let description = optional_text(problems, &fields, "description");
    let data_type = fields.optional_value("type").and_then(|(node, path)| problems.data_type(node, &path));
    let column = fields.optional_value("column").and_then(|(node, path)| problems.name(node, &path));
    let default = fields.optional("default").map(|(node, _)| node.to_json());
    let tags = fields.optional_value("tags").map(|(node, path)| problems.texts(node, &path)).unwrap_or_default();
    Some(FeatureSpec { name: name?, description, data_type, column, default, tags })
}

fn read_service(problems: &mut Problems, node: &Node, path: &str) -> Option<FeatureServiceSpec> {
    let fields = problems.fields(node, path, &["latencyBudget", "features"]);
    let latency_budget = fields.optional_value("latencyBudget").and_then(|(node, path)| problems.duration(node, &path));
    let (node, path) = fields.required(problems, "features")?;
    let elements = problems.sequence(node, &path);
    let features = elements.into_iter().filter_map(|(node, path)| read_service_feature(problems, node, &path));
    Some(FeatureServiceSpec { latency_budget, features: features.collect() })
}

fn read_service_feature(problems: &mut Problems, node: &Node, path: &str) -> Option<ServiceFeature> {
    match &node.content {
        Content::Text(text) => read_reference(problems, text, node.place, path),
        Content::Mapping(_) => {
            let fields = problems.fields(node, path, &["view", "features", "as", "keys"]);
            let view = fields.required(problems, "view").and_then(|(node, path)| problems.name(node, &path));
            let features = fields.optional_value("features").map(|(node, path)| {
                if matches!(&node.content, Content::Sequence(elements) if elements.is_empty()) {
                    problems.add(&path, node.place, "an empty list takes nothing; leave it out to take all features");
                }
                problems.names(node, &path)
            });
            let alias = fields.optional_value("as").and_then(|(node, path)| problems.name(node, &path));
            let keys = fields.optional_value("keys").map(|(node, path)| problems.name_pairs(node, &path));
            Some(ServiceFeature {
                view: view?,
                features: features.unwrap_or_default(),
                alias,
                keys: keys.unwrap_or_default(),
            })
        }
        _ => problems.wanted(node, path, "`view`, `view:feature` or {view: …, features: […], as: …, keys: {…}}"),
    }
}

fn read_reference(problems: &mut Problems, text: &str, place: Place, path: &str) -> Option<ServiceFeature> {
    let mut name = |text: &str| -> Option<Name> {
        text.parse()
            .map_err(|error: hydrant_storage::names::InvalidName| problems.add(path, place, error.to_string()))
            .ok()
    };
    let (view, features) = match text.split_once(':') {
        None => (name(text)?, Vec::new()),
        Some((view, feature)) => {
            let (view, feature) = (name(view), name(feature));
            (view?, vec![feature?])
        }
    };
    Some(ServiceFeature { view, features, alias: None, keys: Default::default() })
}

fn read_consumer(problems: &mut Problems, node: &Node, path: &str) -> Option<ConsumerSpec> {
    let fields = problems.fields(node, path, &["version", "services", "features"]);
    let version = fields.required(problems, "version").and_then(|(node, path)| problems.text(node, &path));
    let services = read_references(problems, &fields, "services");
    let features = read_references(problems, &fields, "features");
    Some(ConsumerSpec { version: version?, services, features })
}

fn read_references<T: FromStr<Err = String>>(problems: &mut Problems, fields: &Fields<'_>, name: &str) -> Vec<T> {
    let Some((node, path)) = fields.optional_value(name) else { return Vec::new() };
    let elements = problems.sequence(node, &path);
    let read = |(node, path): (&Node, String)| {
        let text = problems.text(node, &path)?;
        let shown: String = text.chars().take(80).collect();
        text.parse().map_err(|told: String| problems.add(path, node.place, format!("'{shown}': {told}"))).ok()
    };
    elements.into_iter().filter_map(read).collect()
}

fn read_typed_names(problems: &mut Problems, node: &Node, path: &str) -> Vec<TypedName> {
    let elements = problems.sequence(node, path);
    let read = |(node, path): (&Node, String)| {
        let fields = problems.fields(node, &path, &["name", "type"]);
        let name = fields.required(problems, "name").and_then(|(node, path)| problems.name(node, &path));
        let data_type = fields.required(problems, "type").and_then(|(node, path)| problems.data_type(node, &path));
        Some(TypedName { name: name?, data_type: data_type? })
    };
    elements.into_iter().filter_map(read).collect()
}

fn optional_text(problems: &mut Problems, fields: &Fields<'_>, name: &str) -> String {
    let text = fields.optional_value(name).and_then(|(node, path)| problems.text(node, &path));
    text.unwrap_or_default()
}

fn optional_boolean(problems: &mut Problems, fields: &Fields<'_>, name: &str, default: bool) -> bool {
    fields.optional_value(name).and_then(|(node, path)| problems.boolean(node, &path)).unwrap_or(default)
}

fn source_to_json(spec: &SourceSpec) -> Json {
    let SourceType::Push = spec.source_type;
    json!({
        "type": "push",
        "eventTime": spec.event_time,
        "knownTime": known_time_to_json(&spec.known_time),
        "maxFuture": durations::format(spec.max_future),
        "columns": typed_names_to_json(&spec.columns),
    })
}

fn view_to_json(spec: &FeatureViewSpec) -> Json {
    let mut json = Map::new();
    json.insert("entities".to_owned(), json!(spec.entities));
    json.insert("source".to_owned(), json!(spec.source));
    if let Some(ttl) = spec.ttl {
        json.insert("ttl".to_owned(), json!(durations::format(ttl)));
    }
    if let Some(retention) = spec.retention {
        json.insert("retention".to_owned(), json!(durations::format(retention)));
    }
    json.insert("features".to_owned(), spec.features.iter().map(feature_to_json).collect());
    json.insert("online".to_owned(), json!(spec.online));
    json.insert("offline".to_owned(), json!(spec.offline));
    if let Some(freshness) = &spec.freshness {
        json.insert("freshness".to_owned(), freshness_to_json(freshness));
    }
    Json::Object(json)
}

fn freshness_to_json(freshness: &FreshnessSpec) -> Json {
    json!({
        "maxAge": durations::format(freshness.max_age),
        "target": freshness.target.to_string(),
        "window": durations::format(freshness.window),
        "severity": freshness.severity.as_str(),
    })
}

fn feature_to_json(feature: &FeatureSpec) -> Json {
    let mut json = Map::new();
    json.insert("name".to_owned(), json!(feature.name));
    put_text(&mut json, "description", &feature.description);
    if let Some(data_type) = feature.data_type {
        json.insert("type".to_owned(), json!(data_type.to_string()));
    }
    if let Some(column) = &feature.column {
        json.insert("column".to_owned(), json!(column));
    }
    if let Some(default) = &feature.default {
        json.insert("default".to_owned(), default.clone());
    }
    if !feature.tags.is_empty() {
        json.insert("tags".to_owned(), json!(feature.tags));
    }
    Json::Object(json)
}

fn service_to_json(spec: &FeatureServiceSpec) -> Json {
    let mut json = Map::new();
    if let Some(budget) = spec.latency_budget {
        json.insert("latencyBudget".to_owned(), json!(durations::format(budget)));
    }
    json.insert("features".to_owned(), spec.features.iter().map(service_feature_to_json).collect());
    Json::Object(json)
}

fn consumer_to_json(spec: &ConsumerSpec) -> Json {
    let mut json = Map::new();
    json.insert("version".to_owned(), json!(spec.version));
    if !spec.services.is_empty() {
        json.insert("services".to_owned(), spec.services.iter().map(|used| json!(used.to_string())).collect());
    }
    if !spec.features.is_empty() {
        json.insert("features".to_owned(), spec.features.iter().map(|used| json!(used.to_string())).collect());
    }
    Json::Object(json)
}

fn typed_names_to_json(names: &[TypedName]) -> Json {
    names.iter().map(|typed| json!({"name": typed.name, "type": typed.data_type.to_string()})).collect()
}

fn put_text(json: &mut Map<String, Json>, name: &str, text: &str) {
    if !text.is_empty() {
        json.insert(name.to_owned(), json!(text));
    }
}
