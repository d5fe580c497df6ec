//! Definitions as owners write them: one type a kind. Their serde form is what the registry
//! persists; the documents that owners see (`apiVersion`, `kind`, `metadata`, `spec`) are made in
//! `documents`. What they mean together is worked out in `catalog`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use hydrant_storage::names::{InvalidName, Name};
use hydrant_storage::order::Micros;
use hydrant_storage::value::DataType;
use serde::{Deserialize, Serialize};

use super::promise::FreshnessSpec;

/// What kinds of definition there are, in the order in which one refers to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    Tenant,
    Entity,
    Source,
    FeatureView,
    FeatureService,
    Consumer,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    pub name: Name,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Definition {
    pub metadata: Metadata,
    pub spec: Spec,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Spec {
    Tenant(TenantSpec),
    Entity(EntitySpec),
    Source(SourceSpec),
    FeatureView(FeatureViewSpec),
    FeatureService(FeatureServiceSpec),
    Consumer(ConsumerSpec),
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TenantSpec {}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EntitySpec {
    pub join_keys: Vec<TypedName>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TypedName {
    pub name: Name,
    #[serde(rename = "type")]
    pub data_type: DataType,
}

/// When the rows of a source count as known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KnownTimeRule {
    /// At their ingest time.
    Arrival,
    /// At their event time plus a delay, microseconds.
    Event { delay: Micros },
    /// When a timestamp column of the source says.
    Column(Name),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceType {
    Push,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceSpec {
    pub source_type: SourceType,
    pub event_time: Name,
    pub known_time: KnownTimeRule,
    /// How far ahead of store time a row's event or known time may lie, microseconds.
    pub max_future: Micros,
    pub columns: Vec<TypedName>,
}

impl SourceSpec {
    pub const DEFAULT_MAX_FUTURE: Micros = 5 * 60 * 1_000_000;
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeatureViewSpec {
    pub entities: Vec<Name>,
    pub source: Name,
    /// Microseconds; `None`: for ever.
    pub ttl: Option<Micros>,
    /// Microseconds after which rows go for good, at least the ttl; `None`: history is kept for ever.
    #[serde(default)]
    pub retention: Option<Micros>,
    pub features: Vec<FeatureSpec>,
    pub online: bool,
    pub offline: bool,
    #[serde(default, alias = "freshness_max_age")]
    pub freshness: Option<FreshnessSpec>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeatureSpec {
    pub name: Name,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// `None`: the type of the source's column.
    pub data_type: Option<DataType>,
    /// `None`: the feature's name.
    pub column: Option<Name>,
    /// As JSON (the mapping of proto3), read by the feature's type when the catalog is made.
    #[serde(default, with = "super::exact")]
    pub default: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeatureServiceSpec {
    /// Microseconds.
    pub latency_budget: Option<Micros>,
    pub features: Vec<ServiceFeature>,
}

/// What a service takes of one view.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceFeature {
    pub view: Name,
    /// Empty: all that the view has when the service is applied.
    pub features: Vec<Name>,
    /// The prefix of the columns, instead of the view's name.
    pub alias: Option<Name>,
    /// Join key of the view → request column.
    pub keys: BTreeMap<Name, Name>,
}

/// A model or a job that says what it uses: who is told before it changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConsumerSpec {
    /// Of the model or job, as its owner counts.
    pub version: String,
    pub services: Vec<ServiceReference>,
    pub features: Vec<FeatureReference>,
}

/// A service as it is asked for: `name@N`, or `name` for whichever version is current.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServiceReference {
    pub service: Name,
    pub version: Option<u32>,
}

/// `view:feature`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FeatureReference {
    pub view: Name,
    pub feature: Name,
}

impl fmt::Display for ServiceReference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            Some(version) => write!(formatter, "{}@{version}", self.service),
            None => write!(formatter, "{}", self.service),
        }
    }
}

impl fmt::Display for FeatureReference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.view, self.feature)
    }
}

impl FromStr for ServiceReference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (service, version) = match text.split_once('@') {
            None => (text, None),
            Some((service, number)) => {
                let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
                let number = number.parse().ok().filter(|_| digits);
                let number = number.ok_or_else(|| "it names no service version: use `name` or `name@N`".to_owned())?;
                (service, Some(number))
            }
        };
        Ok(Self { service: service.parse().map_err(|error: InvalidName| error.to_string())?, version })
    }
}

impl FromStr for FeatureReference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (view, feature) =
            text.split_once(':').ok_or_else(|| "it names no feature: use `view:feature`".to_owned())?;
        let name = |text: &str| text.parse().map_err(|error: InvalidName| error.to_string());
        Ok(Self { view: name(view)?, feature: name(feature)? })
    }
}

impl Definition {
    pub fn kind(&self) -> Kind {
        self.spec.kind()
    }

    pub fn name(&self) -> &Name {
        &self.metadata.name
    }
}

impl Spec {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Tenant(_) => Kind::Tenant,
            Self::Entity(_) => Kind::Entity,
            Self::Source(_) => Kind::Source,
            Self::FeatureView(_) => Kind::FeatureView,
            Self::FeatureService(_) => Kind::FeatureService,
            Self::Consumer(_) => Kind::Consumer,
        }
    }
}

impl Kind {
    pub const ALL: [Self; 6] =
        [Self::Tenant, Self::Entity, Self::Source, Self::FeatureView, Self::FeatureService, Self::Consumer];

    /// As written in the `kind` of a document.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "Tenant",
            Self::Entity => "Entity",
            Self::Source => "Source",
            Self::FeatureView => "FeatureView",
            Self::FeatureService => "FeatureService",
            Self::Consumer => "Consumer",
        }
    }
}
