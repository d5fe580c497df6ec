//! Whether definitions fit together: with one another and with what is defined already. Every
//! problem is found at once, each with its path. What a change would do to data that is there is
//! asked in `compatibility`, not here.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use hydrant_storage::names::Name;
use hydrant_storage::value::{DataType, ScalarType, Value};

use crate::error::Violation;

use super::catalog::JoinKey;
use super::definition::{
    ConsumerSpec, Definition, EntitySpec, FeatureServiceSpec, FeatureSpec, FeatureViewSpec, Kind, KnownTimeRule,
    Metadata, SourceSpec, Spec, TypedName,
};
use super::promise::FreshnessSpec;
use super::world::{Referred, World};
use super::{masking, values};
use crate::config::durations;

/// The most definitions of one request.
pub const MAX_DEFINITIONS: usize = 10_000;
pub const MAX_JOIN_KEYS: usize = 16;
pub const MAX_COLUMNS: usize = 4_096;
pub const MAX_FEATURES: usize = 4_096;
pub const MAX_SERVICE_FEATURES: usize = 4_096;
pub const MAX_TAGS: usize = 64;
pub const MAX_TEXT_BYTES: usize = 4_096;

const TIMESTAMP: DataType = DataType::Scalar(ScalarType::Timestamp);

/// Whether a source's column of type `column` can feed a feature or join key of type `target`
/// without loss.
pub fn feeds(column: DataType, target: DataType) -> bool {
    use ScalarType::{Float32, Float64, Int32, Int64};
    match (column, target) {
        (DataType::Scalar(Int32), DataType::Scalar(Int64 | Float64)) => true,
        (DataType::Scalar(Float32), DataType::Scalar(Float64)) => true,
        (DataType::List(Float32), DataType::Vector(_)) => true,
        (column, target) => column == target,
    }
}

/// A view with its references followed and its types worked out.
#[derive(Clone, Debug)]
pub(super) struct ResolvedView {
    pub join_keys: Vec<JoinKey>,
    /// In the order of the definition.
    pub features: Vec<ResolvedFeature>,
    /// False where a definition that it refers to couldn't be read.
    pub is_whole: bool,
}

#[derive(Clone, Debug)]
pub(super) struct ResolvedFeature {
    pub name: Name,
    pub data_type: DataType,
    pub column: Name,
    pub default: Option<Value>,
}

/// Collects violations under paths.
#[derive(Debug, Default)]
pub(super) struct Violations(Vec<Violation>);

impl Violations {
    pub fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(Violation { path: path.into(), message: message.into() });
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn into_vec(self) -> Vec<Violation> {
        self.0
    }
}

/// Checks each definition of a request within `world`. Answers the views that could be resolved.
pub(super) fn check(
    world: &World<'_>,
    definitions: &[Definition],
    violations: &mut Violations,
) -> BTreeMap<Name, ResolvedView> {
    if definitions.len() > MAX_DEFINITIONS {
        let message = format!("a request holds at most {MAX_DEFINITIONS} definitions, not {}", definitions.len());
        violations.add("definitions", message);
        return BTreeMap::new();
    }
    let mut first: HashMap<(Kind, &Name), usize> = HashMap::new();
    let mut resolved = BTreeMap::new();
    for (index, definition) in definitions.iter().enumerate() {
        let path = format!("definitions[{index}]");
        let (kind, name) = (definition.kind(), definition.name());
        let first = *first.entry((kind, name)).or_insert(index);
        if first != index {
            let message = format!("{} '{name}' is defined twice; first at definitions[{first}]", kind.as_str());
            violations.add(format!("{path}.metadata.name"), message);
        }
        check_metadata(&definition.metadata, &format!("{path}.metadata"), violations);
        let path = format!("{path}.spec");
        match &definition.spec {
            Spec::Tenant(_) => violations.add(
                format!("definitions[{index}].kind"),
                "tenants are applied by themselves, by a caller with the role platform",
            ),
            Spec::Entity(spec) => check_entity(spec, &path, violations),
            Spec::Source(spec) => {
                let is_whole = !world.unread.covers(Kind::Source, name);
                check_source(spec, is_whole, &path, violations);
            }
            Spec::FeatureView(spec) => {
                let before = violations.len();
                let view = resolve_view(world, spec, &path, violations);
                let is_sure = view.is_whole && !world.unread.covers(Kind::FeatureView, name);
                if is_sure && violations.len() == before {
                    resolved.insert(name.clone(), view);
                }
            }
            Spec::FeatureService(spec) => check_service(world, spec, &path, violations),
            Spec::Consumer(spec) => check_consumer(&definition.metadata, spec, index, violations),
        }
    }
    resolved
}

/// Follows a view's references and works out its types. What is wrong with it becomes violations,
/// and what is right with it is resolved all the same.
pub(super) fn resolve_view(
    world: &World<'_>,
    spec: &FeatureViewSpec,
    path: &str,
    violations: &mut Violations,
) -> ResolvedView {
    let (join_keys, mut is_whole) = resolve_join_keys(world, spec, path, violations);
    let source = match world.source(&spec.source) {
        Referred::Read(source) => Some(source),
        Referred::Unread => {
            is_whole = false;
            None
        }
        Referred::Absent => {
            violations.add(format!("{path}.source"), format!("there is no source '{}'", spec.source));
            None
        }
    };
    if let Some(source) = source {
        check_join_keys_in_source(&join_keys, &spec.source, source, path, violations);
    }
    check_count(spec.features.len(), MAX_FEATURES, "feature", &format!("{path}.features"), violations);
    check_unique(spec.features.iter().map(|feature| &feature.name), "feature", &format!("{path}.features"), violations);
    let mut features = Vec::with_capacity(spec.features.len());
    for (index, feature) in spec.features.iter().enumerate() {
        let path = format!("{path}.features[{index}]");
        check_tags(&feature.tags, &format!("{path}.tags"), violations);
        check_text(&feature.description, &format!("{path}.description"), violations);
        if join_keys.iter().any(|join_key| join_key.name == feature.name) {
            let message = format!("'{}' is a join key of the view; give the feature another name", feature.name);
            violations.add(format!("{path}.name"), message);
        }
        if let Some(source) = source {
            features.extend(resolve_feature(feature, &spec.source, source, &path, violations));
        }
    }
    check_positive(spec.ttl, &format!("{path}.ttl"), violations);
    check_retention(spec, &format!("{path}.retention"), violations);
    for (field, message) in spec.freshness.iter().flat_map(FreshnessSpec::breaches) {
        violations.add(format!("{path}.freshness.{field}"), message);
    }
    if !spec.online && !spec.offline {
        violations.add(format!("{path}.online"), "a view that is neither online nor offline keeps nothing");
    }
    ResolvedView { join_keys, features, is_whole }
}

/// Rows that still count don't go.
fn check_retention(spec: &FeatureViewSpec, path: &str, violations: &mut Violations) {
    let Some(retention) = spec.retention else { return };
    let shown = durations::format(retention);
    match spec.ttl {
        None => violations.add(
            path,
            format!("rows of a view without a ttl count for ever, so none can go after {shown}: set a ttl too"),
        ),
        Some(ttl) if retention < ttl => {
            let ttl = durations::format(ttl);
            violations
                .add(path, format!("rows count for {ttl} (ttl), so they can't go after {shown}: at least the ttl"));
        }
        Some(_) => check_positive(spec.retention, path, violations),
    }
}

/// A view's join keys, and whether these are all.
fn resolve_join_keys(
    world: &World<'_>,
    spec: &FeatureViewSpec,
    path: &str,
    violations: &mut Violations,
) -> (Vec<JoinKey>, bool) {
    let path = format!("{path}.entities");
    if spec.entities.is_empty() {
        violations.add(&path, "a view is over at least one entity");
    }
    check_unique(spec.entities.iter(), "entity", &path, violations);
    let mut join_keys: Vec<JoinKey> = Vec::new();
    let mut owners: HashMap<&Name, &Name> = HashMap::new();
    let mut seen = HashSet::new();
    let mut are_all = true;
    for (index, name) in spec.entities.iter().enumerate() {
        let entity = match world.entity(name) {
            Referred::Read(entity) => entity,
            Referred::Unread => {
                are_all = false;
                continue;
            }
            Referred::Absent => {
                violations.add(format!("{path}[{index}]"), format!("there is no entity '{name}'"));
                continue;
            }
        };
        if !seen.insert(name) {
            continue;
        }
        for typed in &entity.join_keys {
            match owners.insert(&typed.name, name) {
                // A repetition within the entity itself is the entity's problem.
                Some(owner) if owner == name => {}
                Some(owner) => violations.add(
                    format!("{path}[{index}]"),
                    format!("entities '{owner}' and '{name}' both have a join key '{}'", typed.name),
                ),
                None => {
                    if let DataType::Scalar(key_type) = typed.data_type {
                        join_keys.push(JoinKey { name: typed.name.clone(), key_type });
                    }
                }
            }
        }
    }
    if join_keys.len() > MAX_JOIN_KEYS {
        violations.add(&path, format!("a view has at most {MAX_JOIN_KEYS} join keys, not {}", join_keys.len()));
    }
    (join_keys, are_all)
}

fn check_join_keys_in_source(
    join_keys: &[JoinKey],
    source_name: &Name,
    source: &SourceSpec,
    path: &str,
    violations: &mut Violations,
) {
    for join_key in join_keys {
        let (name, wanted) = (&join_key.name, DataType::Scalar(join_key.key_type));
        match column_type(source, name) {
            None => violations.add(
                format!("{path}.source"),
                format!("source '{source_name}' has no column '{name}' for the view's join key"),
            ),
            Some(column) if !feeds(column, wanted) => violations.add(
                format!("{path}.source"),
                format!("column '{name}' of source '{source_name}' is {column}; the join key is {wanted}"),
            ),
            Some(_) => {}
        }
    }
}

fn resolve_feature(
    feature: &FeatureSpec,
    source_name: &Name,
    source: &SourceSpec,
    path: &str,
    violations: &mut Violations,
) -> Option<ResolvedFeature> {
    let column = feature.column.as_ref().unwrap_or(&feature.name);
    let Some(column_type) = column_type(source, column) else {
        let field = if feature.column.is_some() { "column" } else { "name" };
        violations.add(format!("{path}.{field}"), format!("source '{source_name}' has no column '{column}'"));
        return None;
    };
    let data_type = feature.data_type.unwrap_or(column_type);
    if !feeds(column_type, data_type) {
        let message = format!(
            "column '{column}' of source '{source_name}' is {column_type}, which doesn't become {data_type} without loss"
        );
        violations.add(format!("{path}.type"), message);
        return None;
    }
    let default = match &feature.default {
        None => None,
        Some(json) => match values::from_json(json, data_type) {
            Ok(Value::Null) => {
                violations.add(format!("{path}.default"), "a default can't be null; leave it out");
                return None;
            }
            Ok(value) => Some(value),
            Err(message) => {
                violations.add(format!("{path}.default"), message);
                return None;
            }
        },
    };
    Some(ResolvedFeature { name: feature.name.clone(), data_type, column: column.clone(), default })
}

fn check_entity(spec: &EntitySpec, path: &str, violations: &mut Violations) {
    let path = format!("{path}.joinKeys");
    check_count(spec.join_keys.len(), MAX_JOIN_KEYS, "join key", &path, violations);
    check_unique(spec.join_keys.iter().map(|typed| &typed.name), "join key", &path, violations);
    for (index, typed) in spec.join_keys.iter().enumerate() {
        let data_type = typed.data_type;
        if !matches!(data_type, DataType::Scalar(scalar) if scalar.is_key_type()) {
            let message =
                format!("a join key can't be {data_type}: use bool, int32, int64, string, bytes or timestamp");
            violations.add(format!("{path}[{index}].type"), message);
        }
    }
}

/// Of a source that was read in part, columns may be there that aren't seen.
fn check_source(spec: &SourceSpec, is_whole: bool, path: &str, violations: &mut Violations) {
    let columns = format!("{path}.columns");
    check_count(spec.columns.len(), MAX_COLUMNS, "column", &columns, violations);
    check_unique(spec.columns.iter().map(|typed| &typed.name), "column", &columns, violations);
    check_time_column(spec, is_whole, &spec.event_time, &format!("{path}.eventTime"), violations);
    match &spec.known_time {
        KnownTimeRule::Column(column) => {
            check_time_column(spec, is_whole, column, &format!("{path}.knownTime.column"), violations);
        }
        KnownTimeRule::Event { delay } if *delay < 0 => {
            violations.add(format!("{path}.knownTime.event"), "a row can't be known before it happened");
        }
        KnownTimeRule::Event { .. } | KnownTimeRule::Arrival => {}
    }
    if spec.max_future < 0 {
        violations.add(format!("{path}.maxFuture"), "must not be negative");
    }
}

fn check_time_column(spec: &SourceSpec, is_whole: bool, column: &Name, path: &str, violations: &mut Violations) {
    match column_type(spec, column) {
        None if is_whole => violations.add(path, format!("the source declares no column '{column}'")),
        None => {}
        Some(TIMESTAMP) => {}
        Some(other) => violations.add(path, format!("column '{column}' is {other}; a time must be timestamp")),
    }
}

/// What of a service can be checked by names alone; types and columns are checked when it is
/// frozen.
fn check_service(world: &World<'_>, spec: &FeatureServiceSpec, path: &str, violations: &mut Violations) {
    check_positive(spec.latency_budget, &format!("{path}.latencyBudget"), violations);
    let path = format!("{path}.features");
    check_count(spec.features.len(), MAX_SERVICE_FEATURES, "feature", &path, violations);
    for (index, item) in spec.features.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let view = match world.view(&item.view) {
            Referred::Read(view) => view,
            Referred::Unread => continue,
            Referred::Absent => {
                violations.add(format!("{path}.view"), format!("there is no feature view '{}'", item.view));
                continue;
            }
        };
        check_unique(item.features.iter(), "feature", &format!("{path}.features"), violations);
        for (index, feature) in item.features.iter().enumerate() {
            if !view.features.iter().any(|known| known.name == *feature) {
                let message = format!("feature view '{}' has no feature '{feature}'", item.view);
                violations.add(format!("{path}.features[{index}]"), message);
            }
        }
        let mut join_keys = BTreeSet::new();
        let mut are_all = true;
        for entity in &view.entities {
            match world.entity(entity) {
                Referred::Read(entity) => join_keys.extend(entity.join_keys.iter().map(|typed| &typed.name)),
                Referred::Unread => are_all = false,
                // The view's own problem.
                Referred::Absent => {}
            }
        }
        if !are_all {
            continue;
        }
        for key in item.keys.keys().filter(|key| !join_keys.contains(key)) {
            let message = format!("feature view '{}' has no join key '{key}'", item.view);
            violations.add(format!("{path}.keys.{key}"), message);
        }
    }
}

/// What of a consumer can be checked by itself; whether what it uses is there is asked when all else is
/// in place.
fn check_consumer(metadata: &Metadata, spec: &ConsumerSpec, index: usize, violations: &mut Violations) {
    if metadata.owner.trim().is_empty() {
        let path = format!("definitions[{index}].metadata.owner");
        violations.add(path, "a consumer needs an owner: who is told before what it uses changes");
    }
    let path = format!("definitions[{index}].spec");
    check_text(&spec.version, &format!("{path}.version"), violations);
    if spec.version.trim().is_empty() {
        violations.add(format!("{path}.version"), "a consumer needs a version: of its model or job, as you count");
    }
    if spec.services.is_empty() && spec.features.is_empty() {
        violations.add(format!("{path}.services"), "a consumer uses at least one service or feature");
    }
    for (name, count) in [("services", spec.services.len()), ("features", spec.features.len())] {
        if count > MAX_SERVICE_FEATURES {
            violations.add(format!("{path}.{name}"), format!("at most {MAX_SERVICE_FEATURES}, not {count}"));
        }
    }
    check_listed_once(&spec.services, &format!("{path}.services"), violations);
    check_listed_once(&spec.features, &format!("{path}.features"), violations);
}

fn check_listed_once<T: Ord + std::fmt::Display>(references: &[T], path: &str, violations: &mut Violations) {
    let mut seen = BTreeSet::new();
    for (index, reference) in references.iter().enumerate() {
        if !seen.insert(reference) {
            violations.add(format!("{path}[{index}]"), format!("'{reference}' stands here twice"));
        }
    }
}

pub(super) fn check_metadata(metadata: &Metadata, path: &str, violations: &mut Violations) {
    check_text(&metadata.description, &format!("{path}.description"), violations);
    check_text(&metadata.owner, &format!("{path}.owner"), violations);
    check_tags(&metadata.tags, &format!("{path}.tags"), violations);
}

fn check_tags(tags: &BTreeMap<String, String>, path: &str, violations: &mut Violations) {
    if tags.len() > MAX_TAGS {
        violations.add(path, format!("at most {MAX_TAGS} tags, not {}", tags.len()));
        return;
    }
    for (name, value) in tags {
        if name.is_empty() {
            violations.add(path, "a tag needs a name");
        }
        check_text(name, path, violations);
        check_text(value, &format!("{path}.{name}"), violations);
        if name == masking::PII
            && let Some(problem) = masking::problem_of(value)
        {
            violations.add(format!("{path}.{name}"), problem);
        }
    }
}

fn check_text(text: &str, path: &str, violations: &mut Violations) {
    if text.len() > MAX_TEXT_BYTES {
        violations.add(path, format!("a text has at most {MAX_TEXT_BYTES} bytes, not {}", text.len()));
    }
}

fn check_positive(duration: Option<i64>, path: &str, violations: &mut Violations) {
    if duration.is_some_and(|duration| duration <= 0) {
        violations.add(path, "must be longer than zero");
    }
}

fn check_count(count: usize, most: usize, what: &str, path: &str, violations: &mut Violations) {
    if count == 0 {
        violations.add(path, format!("at least one {what} is needed"));
    } else if count > most {
        violations.add(path, format!("at most {most}, not {count}"));
    }
}

fn check_unique<'a>(names: impl Iterator<Item = &'a Name>, what: &str, path: &str, violations: &mut Violations) {
    let mut seen = HashSet::new();
    for (index, name) in names.enumerate() {
        if !seen.insert(name) {
            violations.add(format!("{path}[{index}]"), format!("{what} '{name}' stands here twice"));
        }
    }
}

fn column_type(source: &SourceSpec, name: &Name) -> Option<DataType> {
    source.columns.iter().find(|column: &&TypedName| column.name == *name).map(|column| column.data_type)
}
