//! What was read of a tenant's definitions so far, as a value: a change of definitions takes the reads of
//! what it deletes along, so whoever is to be told of them asks before. It knows no other tenant's reads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;

use super::Listing;
use super::kept::{Defined, ReadsOfThing, Record};
use crate::error::{Error, Result};
use crate::registry::catalog::{Applied, Snapshot, Source, TenantCatalog, View};
use crate::registry::definition::KnownTimeRule;
use crate::registry::graph::NodeKind;
use crate::registry::plan::Part;
use crate::registry::reads::{Counts, Readable, Thing, mean_a_day};

/// What was read of one tenant's definitions by an instant.
#[derive(Debug)]
pub struct SoFar {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) tenant: Name,
    /// Of this tenant's things, as they are defined in the snapshot.
    pub(super) records: BTreeMap<Thing, Record>,
    /// Since when reads are counted.
    pub(super) since: Micros,
    pub(super) now: Micros,
}

/// How much each of some parts of definitions is read. What isn't there, or isn't read, is not in it.
pub type ReadsOfParts = BTreeMap<Part, ReadSummary>;

/// How much something is read: by itself and, of what services are made of, by their versions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReadSummary {
    pub last_online: Option<Micros>,
    pub last_training: Option<Micros>,
    /// The mean of the days in which they could be counted, 30 at most.
    pub a_day: f64,
    /// Callers of the tenant, and other tenants, that have read it within 30 days.
    pub readers: usize,
    /// There are more, who are not told apart.
    pub has_more_readers: bool,
    /// Since when reads are counted.
    pub since: Micros,
}

impl SoFar {
    /// How much these were read. It takes its time where there are many, on a thread for that.
    pub async fn told(self, parts: BTreeSet<Part>) -> Result<ReadsOfParts> {
        let told = tokio::task::spawn_blocking(move || -> Result<ReadsOfParts> {
            let defined = Defined::of(&self.snapshot);
            let catalog = self.snapshot.tenant(&self.tenant)?;
            let listing = Listing::of(catalog, &self.records, &defined);
            let told = parts.into_iter().filter_map(|part| {
                let (applied, things) = read_as(catalog, &listing, &part)?;
                Some((part, self.summary(applied.created, things)))
            });
            Ok(told.collect())
        });
        told.await.map_err(|failed| Error::internal(format!("a look at reads ended early: {failed}")))?
    }

    fn summary(&self, created: Micros, things: BTreeSet<Thing>) -> ReadSummary {
        let mut reads = ReadsOfThing::default();
        for record in things.iter().filter_map(|thing| self.records.get(thing)) {
            reads.merge(&record.reads);
        }
        let sum = reads.days.values().copied().map(Counts::sum).fold(0, u64::saturating_add);
        ReadSummary {
            last_online: reads.last_online,
            last_training: reads.last_training,
            a_day: mean_a_day(sum, created, self.since, self.now),
            readers: reads.readers.len(),
            has_more_readers: reads.others.is_some(),
            since: self.since,
        }
    }
}

/// Under which names a part of a definition is read, each once, and of which definition it is a part.
fn read_as<'a>(
    catalog: &'a TenantCatalog,
    listing: &Listing<'_>,
    (kind, name): &Part,
) -> Option<(&'a Applied, BTreeSet<Thing>)> {
    let of_views = |takes: &dyn Fn(&View, &Name) -> bool| {
        let taken = catalog.views.values().flat_map(|view| {
            let names = view.features.iter().map(|feature| &feature.name);
            names.filter(|name| takes(view, name)).map(|name| Readable::Feature(view.name.clone(), name.clone()))
        });
        let things = taken.flat_map(|feature| {
            let services = listing.services_with(&feature).to_vec();
            services.into_iter().chain([listing.thing(feature)])
        });
        things.collect::<BTreeSet<Thing>>()
    };
    match kind {
        NodeKind::Entity => {
            let (entity, found) = catalog.entities.get_key_value(name.as_str())?;
            Some((&found.applied, of_views(&|view, _| view.entities().contains(entity))))
        }
        NodeKind::Source => {
            let source = catalog.sources.get(name.as_str())?;
            Some((&source.applied, of_views(&|view, _| view.source == source.name)))
        }
        NodeKind::Column => {
            let (source, column) = name.split_once('.')?;
            let source = catalog.sources.get(source)?;
            let is_there = source.columns.iter().any(|known| known.name.as_str() == column);
            let takes =
                |view: &View, feature: &Name| view.source == source.name && is_made_of(view, feature, source, column);
            is_there.then(|| (&source.applied, of_views(&takes)))
        }
        NodeKind::FeatureView => {
            let view = catalog.views.get(name.as_str())?;
            Some((&view.applied, of_views(&|other, _| other.name == view.name)))
        }
        NodeKind::Feature => {
            let (view, feature) = name.split_once(':')?;
            let view = catalog.views.get(view)?;
            let is_there = view.features.iter().any(|known| known.name.as_str() == feature);
            is_there
                .then(|| (&view.applied, of_views(&|other, name| other.name == view.name && name.as_str() == feature)))
        }
        NodeKind::FeatureService => {
            let (service, number) = name.split_once('@').unzip();
            let service = catalog.services.get(service.unwrap_or(name))?;
            let versions = service.versions.iter().map(|version| version.number);
            let meant: Vec<u32> = match number {
                None => versions.collect(),
                Some(number) => versions.filter(|known| number.parse::<u32>().ok() == Some(*known)).collect(),
            };
            let things = meant.iter().map(|number| listing.thing(Readable::Service(service.name.clone(), *number)));
            (!meant.is_empty()).then(|| (&service.applied, things.collect()))
        }
        // These are not read under their names.
        NodeKind::Spine | NodeKind::TrainingSet | NodeKind::Consumer | NodeKind::Share => None,
    }
}

/// Whether a column has a part in what is read of a feature: by its values, or by which row counts.
fn is_made_of(view: &View, feature: &Name, source: &Source, column: &str) -> bool {
    let known_time = match &source.known_time {
        KnownTimeRule::Column(name) => Some(name),
        _ => None,
    };
    let of_rows = view.join_keys.iter().map(|key| &key.name).chain([&source.event_time]).chain(known_time);
    let of_values = view.features.iter().filter(|known| known.name == *feature).map(|known| &known.column);
    of_rows.chain(of_values).any(|name| name.as_str() == column)
}
