//! Definitions of the wire and definitions as the registry has them, both ways. What comes in is
//! only put into shape here, every place that doesn't fit told at once; what it means together is
//! the registry's to judge.

use std::collections::BTreeMap;
use std::str::FromStr;

use hydrant_proto::v1;
use hydrant_proto::v1::definition::Spec as WireSpec;
use hydrant_proto::v1::definition_status::BuildStep as BuildStepOnWire;
use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;
use hydrant_storage::value::DataType;

use super::retention::encode_held_back;
use crate::config::durations;
use crate::error::{Error, Result, Violation};
use crate::registry::catalog::{JoinKey, ServiceVersion};
use crate::registry::definition::{
    ConsumerSpec, Definition, EntitySpec, FeatureServiceSpec, FeatureSpec, FeatureViewSpec, Kind, KnownTimeRule,
    Metadata, ServiceFeature, SourceSpec, SourceType, Spec, TenantSpec, TypedName,
};
use crate::registry::listing::Described;
use crate::registry::promise::FreshnessSpec;
use crate::registry::selection::is_of_another;
use crate::registry::world::Unread;
use crate::registry::{BuildStep, MAX_DEFINITIONS, values};

/// Definitions as they came in. A refusal lists every place that doesn't fit, as
/// `definitions[2].spec.features[0].type`.
pub fn decode_definitions(definitions: Vec<v1::Definition>) -> Result<Vec<Definition>> {
    let mut violations = Vec::new();
    let mut decoded = Vec::with_capacity(definitions.len());
    for (index, definition) in definitions.into_iter().enumerate() {
        let mut reader = Reader { path: format!("definitions[{index}]"), violations: &mut violations };
        decoded.extend(reader.definition(definition));
    }
    if violations.is_empty() {
        return Ok(decoded);
    }
    let message = match violations.len() {
        1 => format!("{}: {}", violations[0].path, violations[0].message),
        count => format!(
            "the definitions have {count} problems; the first: {}: {}",
            violations[0].path, violations[0].message
        ),
    };
    Err(Error::invalid("INVALID_DEFINITION", message).violations(violations))
}

pub fn decode_kind(kind: i32) -> Result<Kind> {
    match v1::Kind::try_from(kind) {
        Ok(v1::Kind::Entity) => Ok(Kind::Entity),
        Ok(v1::Kind::Source) => Ok(Kind::Source),
        Ok(v1::Kind::FeatureView) => Ok(Kind::FeatureView),
        Ok(v1::Kind::FeatureService) => Ok(Kind::FeatureService),
        Ok(v1::Kind::Tenant) => Ok(Kind::Tenant),
        Ok(v1::Kind::Consumer) => Ok(Kind::Consumer),
        Ok(
            v1::Kind::Unspecified
            | v1::Kind::TrainingSet
            | v1::Kind::Column
            | v1::Kind::Feature
            | v1::Kind::Share
            | v1::Kind::Spine,
        )
        | Err(_) => Err(Error::invalid("UNKNOWN_KIND", format!("there is no kind {kind}"))
            .hint("use ENTITY, SOURCE, FEATURE_VIEW, FEATURE_SERVICE, CONSUMER or TENANT")),
    }
}

/// What was written beside a request's definitions and couldn't be read.
pub fn decode_unread(unread: Vec<v1::UnreadDefinition>) -> Result<Unread> {
    if unread.len() > MAX_DEFINITIONS {
        let message = format!("a request names at most {MAX_DEFINITIONS} unread definitions, not {}", unread.len());
        return Err(Error::invalid("INVALID_DEFINITION", message));
    }
    let mut decoded = Unread::default();
    for v1::UnreadDefinition { kind, name } in unread {
        let kind = if kind == v1::Kind::Unspecified as i32 { None } else { Some(decode_kind(kind)?) };
        let name = if name.is_empty() { None } else { Some(decode_name("unread.name", &name)?) };
        decoded.insert(kind, name);
    }
    Ok(decoded)
}

pub fn encode_unread(unread: &Unread) -> Vec<v1::UnreadDefinition> {
    let one = |(kind, name): (Option<Kind>, Option<&Name>)| v1::UnreadDefinition {
        kind: kind.map_or(v1::Kind::Unspecified, encode_kind).into(),
        name: name.map(Name::to_string).unwrap_or_default(),
    };
    unread.iter().map(one).collect()
}

pub fn encode_kind(kind: Kind) -> v1::Kind {
    match kind {
        Kind::Entity => v1::Kind::Entity,
        Kind::Source => v1::Kind::Source,
        Kind::FeatureView => v1::Kind::FeatureView,
        Kind::FeatureService => v1::Kind::FeatureService,
        Kind::Tenant => v1::Kind::Tenant,
        Kind::Consumer => v1::Kind::Consumer,
    }
}

/// A name that a request gives.
pub fn decode_name(field: &str, text: &str) -> Result<Name> {
    text.parse().map_err(|error| Error::invalid("INVALID_NAME", format!("{field}: {error}")))
}

/// A definition's name, for a service or a view perhaps with a version: `name` or `name@N`.
pub fn decode_versioned_name(kind: Kind, text: &str) -> Result<(Name, Option<u32>)> {
    if is_of_another(text) {
        let message =
            format!("'{}' names what another tenant has, whose definitions are that tenant's", shortened(text));
        return Err(Error::invalid("INVALID_NAME", message)
            .hint("`hydrant share list --with-me` shows what other tenants share with yours, and `hydrant share get OWNER/NAME` its keys and columns"));
    }
    let Some((name, number)) = text.split_once('@') else { return Ok((decode_name("name", text)?, None)) };
    let shown = shortened(text);
    if !matches!(kind, Kind::FeatureService | Kind::FeatureView) {
        let message = format!(
            "'{shown}': only a FeatureService or FeatureView is asked for by version, and this is a {}",
            kind.as_str()
        );
        return Err(Error::invalid("INVALID_NAME", message).hint("leave out what stands behind the name, from '@' on"));
    }
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let number = number.parse().ok().filter(|_| digits).ok_or_else(|| {
        Error::invalid("BAD_SERVICE_REFERENCE", format!("'{shown}' names no version: use `name` or `name@N`"))
    })?;
    Ok((decode_name("name", name)?, Some(number)))
}

/// A definition, without what the server knows of it.
pub fn encode_definition(definition: &Definition) -> v1::Definition {
    let Metadata { name, description, owner, tags } = &definition.metadata;
    let metadata = v1::Metadata {
        name: name.to_string(),
        description: description.clone(),
        owner: owner.clone(),
        tags: tags.clone().into_iter().collect(),
    };
    let spec = match &definition.spec {
        Spec::Tenant(TenantSpec {}) => WireSpec::Tenant(v1::TenantSpec {}),
        Spec::Entity(spec) => WireSpec::Entity(v1::EntitySpec { join_keys: encode_typed_names(&spec.join_keys) }),
        Spec::Source(spec) => WireSpec::Source(v1::SourceSpec {
            r#type: match spec.source_type {
                SourceType::Push => PUSH.to_owned(),
            },
            event_time: spec.event_time.to_string(),
            known_time: encode_known_time(&spec.known_time),
            max_future_micros: u64::try_from(spec.max_future).ok(),
            columns: encode_typed_names(&spec.columns),
        }),
        Spec::FeatureView(spec) => WireSpec::FeatureView(v1::FeatureViewSpec {
            entities: spec.entities.iter().map(Name::to_string).collect(),
            source: spec.source.to_string(),
            ttl_micros: encode_micros(spec.ttl),
            retention_micros: encode_micros(spec.retention),
            features: spec.features.iter().map(encode_feature).collect(),
            online: Some(spec.online),
            offline: Some(spec.offline),
            freshness_max_age_micros: encode_micros(spec.freshness.map(|freshness| freshness.max_age)),
            freshness_target: spec.freshness.map(|freshness| freshness.target.to_string()).unwrap_or_default(),
            freshness_window_micros: encode_micros(spec.freshness.map(|freshness| freshness.window)),
            freshness_severity: spec
                .freshness
                .map(|freshness| freshness.severity.as_str())
                .unwrap_or_default()
                .to_owned(),
        }),
        Spec::FeatureService(spec) => WireSpec::FeatureService(v1::FeatureServiceSpec {
            latency_budget_micros: encode_micros(spec.latency_budget),
            features: spec.features.iter().map(encode_service_feature).collect(),
        }),
        Spec::Consumer(spec) => WireSpec::Consumer(v1::ConsumerSpec {
            version: spec.version.clone(),
            services: spec.services.iter().map(ToString::to_string).collect(),
            features: spec.features.iter().map(ToString::to_string).collect(),
        }),
    };
    v1::Definition { metadata: Some(metadata), spec: Some(spec), status: None }
}

/// What the server knows of a definition that was applied.
pub fn encode_status(described: &Described) -> v1::DefinitionStatus {
    let Described { applied, version, frozen, versions, refilling_from, served, built, held_back, gone_before } =
        described;
    v1::DefinitionStatus {
        version: *version,
        revision: applied.revision,
        created_micros: applied.created,
        updated_micros: applied.updated,
        updated_by: applied.updated_by.clone(),
        etag: applied.etag.clone(),
        columns: frozen.as_deref().map(encode_frozen_columns).unwrap_or_default(),
        shape_hash: frozen.as_ref().map(|version| version.shape_hash.clone()).unwrap_or_default(),
        versions: versions.clone(),
        refilling_from_micros: *refilling_from,
        served_version: *served,
        built_rows: built.map(|built| built.rows),
        rows_to_build: built.map(|built| built.total_rows),
        build_step: match built.map(|built| built.step) {
            None => BuildStepOnWire::Unspecified,
            Some(BuildStep::History) => BuildStepOnWire::BuildHistory,
            Some(BuildStep::Online) => BuildStepOnWire::BuildOnline,
        }
        .into(),
        held_back: held_back.iter().map(encode_held_back).collect(),
        rows_gone_before_micros: *gone_before,
    }
}

pub fn encode_known_time(rule: &KnownTimeRule) -> String {
    match rule {
        KnownTimeRule::Arrival => "arrival".to_owned(),
        KnownTimeRule::Event { delay: 0 } => "event".to_owned(),
        KnownTimeRule::Event { delay } => format!("event+{}", durations::format(*delay)),
        KnownTimeRule::Column(column) => format!("column:{column}"),
    }
}

/// `arrival`, `event`, `event+10m` or `column:NAME`; empty is `arrival`.
pub fn decode_known_time(text: &str) -> Result<KnownTimeRule, String> {
    match text {
        "" | "arrival" => Ok(KnownTimeRule::Arrival),
        "event" => Ok(KnownTimeRule::Event { delay: 0 }),
        _ => match (text.strip_prefix("event+"), text.strip_prefix("column:")) {
            (Some(delay), _) => {
                let delay = durations::parse(delay).map_err(|error| error.to_string())?;
                Ok(KnownTimeRule::Event { delay })
            }
            (_, Some(column)) => column.parse().map(KnownTimeRule::Column).map_err(|error| format!("{error}")),
            _ => Err(format!("'{}' is no rule: use arrival, event, event+10m or column:NAME", shortened(text))),
        },
    }
}

/// The rule of one ingest request, instead of its source's.
pub fn decode_request_known_time(rule: Option<v1::KnownTime>) -> Result<Option<KnownTimeRule>> {
    use v1::known_time::Rule;
    let Some(rule) = rule.and_then(|known_time| known_time.rule) else { return Ok(None) };
    match rule {
        Rule::Arrival(true) => Ok(Some(KnownTimeRule::Arrival)),
        Rule::Arrival(false) => Ok(None),
        Rule::EventPlusMicros(delay) => {
            let delay = Micros::try_from(delay)
                .map_err(|_| Error::invalid("INVALID_KNOWN_TIME", format!("a delay of {delay} µs is too long")))?;
            Ok(Some(KnownTimeRule::Event { delay }))
        }
        Rule::Column(column) => Ok(Some(KnownTimeRule::Column(decode_name("known_time.column", &column)?))),
    }
}

/// The rule of one ingest request, for the wire.
pub fn encode_request_known_time(rule: &KnownTimeRule) -> v1::KnownTime {
    use v1::known_time::Rule;
    let rule = match rule {
        KnownTimeRule::Arrival => Rule::Arrival(true),
        KnownTimeRule::Event { delay } => Rule::EventPlusMicros(u64::try_from(*delay).unwrap_or_default()),
        KnownTimeRule::Column(column) => Rule::Column(column.to_string()),
    };
    v1::KnownTime { rule: Some(rule) }
}

/// Of refusals that the registry makes: which definition a path leads into, and the rest of it.
pub fn encode_problem(violation: &Violation) -> v1::DefinitionProblem {
    let parts = violation.path.strip_prefix("definitions[").and_then(|rest| rest.split_once(']'));
    let located = parts.and_then(|(index, path)| Some((index.parse().ok()?, path.trim_start_matches('.'))));
    let (definition, path) = located.unwrap_or((0, &violation.path));
    v1::DefinitionProblem { definition, path: path.to_owned(), message: violation.message.clone() }
}

const PUSH: &str = "push";

/// Puts one definition into shape and notes each place that doesn't fit.
struct Reader<'a> {
    path: String,
    violations: &'a mut Vec<Violation>,
}

impl Reader<'_> {
    fn definition(&mut self, definition: v1::Definition) -> Option<Definition> {
        let v1::Definition { metadata, spec, status: _ } = definition;
        let metadata = metadata.unwrap_or_default();
        let name = self.parse("metadata.name", &metadata.name);
        let spec = match spec {
            Some(spec) => self.spec(spec),
            None => self.wrong("spec", "it is missing"),
        };
        let metadata = Metadata {
            name: name?,
            description: metadata.description,
            owner: metadata.owner,
            tags: metadata.tags.into_iter().collect(),
        };
        Some(Definition { metadata, spec: spec? })
    }

    fn spec(&mut self, spec: WireSpec) -> Option<Spec> {
        match spec {
            WireSpec::Tenant(v1::TenantSpec {}) => Some(Spec::Tenant(TenantSpec {})),
            WireSpec::Entity(spec) => {
                Some(Spec::Entity(EntitySpec { join_keys: self.typed_names("spec.joinKeys", &spec.join_keys)? }))
            }
            WireSpec::Source(spec) => self.source(&spec).map(Spec::Source),
            WireSpec::FeatureView(spec) => self.view(spec).map(Spec::FeatureView),
            WireSpec::FeatureService(spec) => self.service(&spec).map(Spec::FeatureService),
            WireSpec::Consumer(spec) => self.consumer(spec).map(Spec::Consumer),
        }
    }

    fn source(&mut self, spec: &v1::SourceSpec) -> Option<SourceSpec> {
        let source_type = match spec.r#type.as_str() {
            PUSH | "" => Some(SourceType::Push),
            other => self.wrong("spec.type", &format!("'{}' is no type of source: use push", shortened(other))),
        };
        let event_time = self.parse("spec.eventTime", &spec.event_time);
        let known_time = match decode_known_time(&spec.known_time) {
            Ok(rule) => Some(rule),
            Err(told) => self.wrong("spec.knownTime", &told),
        };
        let max_future = match spec.max_future_micros {
            Some(micros) => self.micros("spec.maxFuture", micros),
            None => Some(SourceSpec::DEFAULT_MAX_FUTURE),
        };
        let columns = self.typed_names("spec.columns", &spec.columns);
        Some(SourceSpec {
            source_type: source_type?,
            event_time: event_time?,
            known_time: known_time?,
            max_future: max_future?,
            columns: columns?,
        })
    }

    fn view(&mut self, spec: v1::FeatureViewSpec) -> Option<FeatureViewSpec> {
        let entities = self.each("spec.entities", &spec.entities, |reader, path, name| reader.parse(path, name));
        let source = self.parse("spec.source", &spec.source);
        let ttl = self.optional_micros("spec.ttl", spec.ttl_micros);
        let retention = self.optional_micros("spec.retention", spec.retention_micros);
        let features = self.each("spec.features", &spec.features, Self::feature);
        let freshness = self.freshness(&spec);
        Some(FeatureViewSpec {
            entities: entities?,
            source: source?,
            ttl: ttl?,
            retention: retention?,
            features: features?,
            online: spec.online.unwrap_or(true),
            offline: spec.offline.unwrap_or(true),
            freshness: freshness?,
        })
    }

    /// The outer `None`: something of it is wrong, which is told.
    fn freshness(&mut self, spec: &v1::FeatureViewSpec) -> Option<Option<FreshnessSpec>> {
        let max_age = self.optional_micros("spec.freshness.maxAge", spec.freshness_max_age_micros);
        let target = self.parse_unless_empty("spec.freshness.target", &spec.freshness_target);
        let window = self.optional_micros("spec.freshness.window", spec.freshness_window_micros);
        let severity = self.parse_unless_empty("spec.freshness.severity", &spec.freshness_severity);
        let (max_age, target, window, severity) = (max_age?, target?, window?, severity?);
        let Some(max_age) = max_age else {
            if target.is_some() || window.is_some() || severity.is_some() {
                return self
                    .wrong("spec.freshness.maxAge", "it is missing, and is what the rest of a promise is about");
            }
            return Some(None);
        };
        let default = FreshnessSpec::of(max_age);
        Some(Some(FreshnessSpec {
            target: target.unwrap_or(default.target),
            window: window.unwrap_or(default.window),
            severity: severity.unwrap_or(default.severity),
            ..default
        }))
    }

    fn feature(&mut self, path: &str, feature: &v1::FeatureSpec) -> Option<FeatureSpec> {
        let name = self.parse(&format!("{path}.name"), &feature.name);
        let data_type = self.parse_unless_empty(&format!("{path}.type"), &feature.r#type);
        let column = self.parse_unless_empty(&format!("{path}.column"), &feature.column);
        let default = match feature.default_json.as_deref().map(serde_json::from_str).transpose() {
            Ok(default) => Some(default),
            Err(error) => self.wrong(&format!("{path}.default"), &format!("it is no JSON: {error}")),
        };
        Some(FeatureSpec {
            name: name?,
            description: feature.description.clone(),
            data_type: data_type?,
            column: column?,
            default: default?,
            tags: feature.tags.clone().into_iter().collect(),
        })
    }

    fn service(&mut self, spec: &v1::FeatureServiceSpec) -> Option<FeatureServiceSpec> {
        let latency_budget = self.optional_micros("spec.latencyBudget", spec.latency_budget_micros);
        let features = self.each("spec.features", &spec.features, |reader, path, feature: &v1::ServiceFeature| {
            let view = reader.parse(&format!("{path}.view"), &feature.view);
            let names = reader
                .each(&format!("{path}.features"), &feature.features, |reader, path, name| reader.parse(path, name));
            let alias = reader.parse_unless_empty(&format!("{path}.as"), &feature.r#as);
            let mut keys = Some(BTreeMap::new());
            for (key, column) in &feature.keys {
                let path = format!("{path}.keys.{}", shortened(key));
                let mapping = reader.parse(&path, key).zip(reader.parse(&path, column));
                keys = keys.zip(mapping).map(|(mut keys, (key, column))| {
                    keys.insert(key, column);
                    keys
                });
            }
            Some(ServiceFeature { view: view?, features: names?, alias: alias?, keys: keys? })
        });
        Some(FeatureServiceSpec { latency_budget: latency_budget?, features: features? })
    }

    fn consumer(&mut self, spec: v1::ConsumerSpec) -> Option<ConsumerSpec> {
        let services = self.each("spec.services", &spec.services, |reader, path, text| reader.parse(path, text));
        let features = self.each("spec.features", &spec.features, |reader, path, text| reader.parse(path, text));
        Some(ConsumerSpec { version: spec.version, services: services?, features: features? })
    }

    fn typed_names(&mut self, path: &str, names: &[v1::TypedName]) -> Option<Vec<TypedName>> {
        self.each(path, names, |reader, path, typed| {
            let name = reader.parse(&format!("{path}.name"), &typed.name);
            let data_type = reader.parse::<DataType>(&format!("{path}.type"), &typed.r#type);
            Some(TypedName { name: name?, data_type: data_type? })
        })
    }

    /// Reads every element, also behind one that doesn't fit.
    fn each<T, U>(
        &mut self,
        path: &str,
        elements: &[T],
        mut read: impl FnMut(&mut Self, &str, &T) -> Option<U>,
    ) -> Option<Vec<U>> {
        let read: Vec<Option<U>> = elements
            .iter()
            .enumerate()
            .map(|(index, element)| read(self, &format!("{path}[{index}]"), element))
            .collect();
        read.into_iter().collect()
    }

    fn parse<T: FromStr<Err: std::fmt::Display>>(&mut self, path: &str, text: &str) -> Option<T> {
        match text.parse() {
            Ok(parsed) => Some(parsed),
            Err(error) => self.wrong(path, &error.to_string()),
        }
    }

    fn parse_unless_empty<T: FromStr<Err: std::fmt::Display>>(&mut self, path: &str, text: &str) -> Option<Option<T>> {
        if text.is_empty() { Some(None) } else { self.parse(path, text).map(Some) }
    }

    fn micros(&mut self, path: &str, micros: u64) -> Option<Micros> {
        match Micros::try_from(micros) {
            Ok(micros) => Some(micros),
            Err(_) => self.wrong(path, &format!("{micros} µs is too long")),
        }
    }

    fn optional_micros(&mut self, path: &str, micros: Option<u64>) -> Option<Option<Micros>> {
        match micros {
            Some(micros) => self.micros(path, micros).map(Some),
            None => Some(None),
        }
    }

    fn wrong<T>(&mut self, path: &str, message: &str) -> Option<T> {
        self.violations.push(Violation { path: format!("{}.{path}", self.path), message: message.to_owned() });
        None
    }
}

fn encode_typed_names(names: &[TypedName]) -> Vec<v1::TypedName> {
    let encode =
        |typed: &TypedName| v1::TypedName { name: typed.name.to_string(), r#type: typed.data_type.to_string() };
    names.iter().map(encode).collect()
}

fn encode_feature(feature: &FeatureSpec) -> v1::FeatureSpec {
    v1::FeatureSpec {
        name: feature.name.to_string(),
        description: feature.description.clone(),
        r#type: feature.data_type.map(|data_type| data_type.to_string()).unwrap_or_default(),
        column: feature.column.as_ref().map(Name::to_string).unwrap_or_default(),
        default_json: feature.default.as_ref().map(serde_json::Value::to_string),
        tags: feature.tags.clone().into_iter().collect(),
    }
}

fn encode_service_feature(feature: &ServiceFeature) -> v1::ServiceFeature {
    v1::ServiceFeature {
        view: feature.view.to_string(),
        features: feature.features.iter().map(Name::to_string).collect(),
        r#as: feature.alias.as_ref().map(Name::to_string).unwrap_or_default(),
        keys: feature.keys.iter().map(|(key, column)| (key.to_string(), column.to_string())).collect(),
    }
}

fn encode_frozen_columns(version: &ServiceVersion) -> Vec<v1::FrozenColumn> {
    let key = |(column, key): (&Name, &JoinKey)| v1::TypedName {
        name: column.to_string(),
        r#type: DataType::Scalar(key.key_type).to_string(),
    };
    let encode = |column: &crate::registry::catalog::ServiceColumn| {
        let lookup = &version.lookups[column.lookup];
        let view = &lookup.view;
        v1::FrozenColumn {
            name: column.name.clone(),
            r#type: column.data_type.to_string(),
            view: view.name.to_string(),
            view_version: view.version,
            feature: view.features[column.feature].name.to_string(),
            ttl_micros: encode_micros(lookup.ttl),
            default_json: column.default.as_ref().map(|default| values::to_json(default).to_string()),
            keys: lookup.keys.iter().zip(&view.join_keys).map(key).collect(),
        }
    };
    version.columns.iter().map(encode).collect()
}

fn encode_micros(micros: Option<Micros>) -> Option<u64> {
    micros.and_then(|micros| u64::try_from(micros).ok())
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests;
