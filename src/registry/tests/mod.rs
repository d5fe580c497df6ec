//! What the registry promises, driven through its public face over a disk that can lose power.

mod changes;
mod compatible;
mod consumers;
mod documents;
mod frozen;
mod history;
mod impact;
mod lineage;
mod problems;
mod properties;
mod searching;
mod selecting;
mod versions;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use hydrant_storage::files::LossyFiles;
use hydrant_storage::names::Name;

use super::catalog::TenantCatalog;
use super::definition::{Definition, Kind};
use super::graph::Used;
use super::{Registry, RevisionBarrier, yaml};
use crate::clock::{ManualClock, StoreTime};
use crate::cluster::LocalMetadata;
use crate::error::{Error, Result};
use crate::tenancy::{Action, Identity, Permit, Tenancy};

const NOW: i64 = 1_700_000_000_000_000;

/// The documents of docs/definitions.md, with what its service needs besides.
const FLIGHTS: &str = r#"
apiVersion: hydrant/v1
kind: Entity
metadata: {name: airport, description: "An airport", owner: ops@example.com, tags: {domain: flights}}
spec:
  joinKeys: [{name: origin, type: string}]           # several make a composite key
---
apiVersion: hydrant/v1
kind: Source                                         # where rows come from; several views may share one
metadata: {name: weather}
spec:
  type: push                                         # gRPC, Flight or `hydrant ingest`; later also kafka, files
  eventTime: event_timestamp
  knownTime: event                                   # arrival (default) | event | {event: +10m} | {column: created_timestamp}
  maxFuture: 5m                                      # the default
  columns:
    - {name: origin, type: string}
    - {name: event_timestamp, type: timestamp}
    - {name: temp, type: float64}
    - {name: wind_speed, type: float64}
---
apiVersion: hydrant/v1
kind: FeatureView
metadata: {name: airport_weather, description: "Hourly weather", owner: ops@example.com, tags: {tier: "1"}}
spec:
  entities: [airport]
  source: weather
  ttl: 3h                                            # absent: for ever
  features:
    - {name: temp, description: "Air temperature, °F"}             # type taken from the source's column
    - {name: wind, type: float64, column: wind_speed, default: 0.0, tags: {pii: "false"}}
  online: true
  offline: true
  freshness: {maxAge: 2h}
---
apiVersion: hydrant/v1
kind: FeatureService
metadata: {name: delay_model}
spec:
  latencyBudget: 8ms                                 # optional
  features:
    - airport_weather                                # all its features, frozen when applied
    - carrier_departures:dep_delay
    - {view: airport_weather, features: [temp], as: dest_weather, keys: {origin: dest}}   # the same view under another key: dest_weather__temp
---
apiVersion: hydrant/v1
kind: Entity
metadata: {name: carrier}
spec:
  joinKeys: [{name: carrier, type: string}]
---
apiVersion: hydrant/v1
kind: Source
metadata: {name: departures}
spec:
  type: push
  eventTime: event_timestamp
  columns:
    - {name: carrier, type: string}
    - {name: event_timestamp, type: timestamp}
    - {name: dep_delay, type: float64}
---
apiVersion: hydrant/v1
kind: FeatureView
metadata: {name: carrier_departures}
spec:
  entities: [carrier]
  source: departures
  features: [{name: dep_delay}]
"#;

fn permit(action: Action) -> Permit {
    Tenancy::default().authorize(&Identity::loopback(), action).expect("loopback may do everything")
}

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn definitions(text: &str) -> Vec<Definition> {
    let file = yaml::parse("test.yaml", text).unwrap_or_else(|bad| panic!("{:#?}", bad.problems));
    file.definitions.into_iter().map(|located| located.definition).collect()
}

/// A model that uses one version of the service and a feature beside it, and one that follows the service.
const CONSUMERS: &str = r#"
apiVersion: hydrant/v1
kind: Consumer
metadata: {name: delay_predictor, description: "Asked two hours before", owner: ml@example.com}
spec:
  version: "2026-01"
  services: [delay_model@1]
  features: [carrier_departures:dep_delay]
---
apiVersion: hydrant/v1
kind: Consumer
metadata: {name: delay_board, owner: web@example.com}
spec:
  version: "7"
  services: [delay_model]
"#;

/// The definitions of [`FLIGHTS`], with pieces of text exchanged; each must be there.
fn flights_with(changes: &[(&str, &str)]) -> Vec<Definition> {
    let mut text = FLIGHTS.to_owned();
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replacen(from, to, 1);
    }
    definitions(&text)
}

async fn open(files: &LossyFiles) -> Result<Registry> {
    let time = StoreTime::new(Arc::new(ManualClock::new(NOW)), 0);
    time.promise(i64::MAX);
    let store = LocalMetadata::open(Arc::new(files.clone()), Path::new("/data/registry"))?;
    Registry::open(Arc::new(store), Arc::new(time), Arc::new(NobodyWrites)).await
}

#[derive(Debug)]
struct NobodyWrites;

#[async_trait]
impl RevisionBarrier for NobodyWrites {
    async fn raise(&self, _: u64) {}
}

async fn apply(registry: &Registry, definitions: Vec<Definition>) -> Result<super::Applied> {
    registry.apply(&permit(Action::ChangeDefinitions), definitions, None).await
}

/// A registry in which [`FLIGHTS`] was applied.
async fn flights() -> Registry {
    let registry = open(&LossyFiles::new(1)).await.expect("an empty disk opens");
    apply(&registry, definitions(FLIGHTS)).await.expect("the examples fit together");
    registry
}

fn catalog(registry: &Registry) -> Arc<TenantCatalog> {
    Arc::clone(registry.snapshot().tenant(&name("default")).expect("it is made at the first start"))
}

fn delete_permit() -> Permit {
    permit(Action::ChangeDefinitions)
}

async fn delete(registry: &Registry, kind: Kind, target: &str) -> Result<u64> {
    registry.delete(&delete_permit(), kind, &name(target), String::new()).await
}

/// What a training set of the first version of the service uses.
fn version_1() -> Used {
    Used::Service { name: "delay_model".to_owned(), number: 1 }
}

/// The violations of a refusal as `path: message` lines.
fn lines(error: &Error) -> Vec<String> {
    error.violations.iter().map(|violation| format!("{}: {}", violation.path, violation.message)).collect()
}
