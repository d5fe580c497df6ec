//! What is kept of reads: for each feature that is read by itself and each version of a service, when it was
//! read last, how often on each day, and by whom. A feature of a service is read by the service, and what is
//! told of it is put together when it is asked for. It measures nothing and reads no clock.

use std::collections::BTreeMap;
use std::sync::Arc;

use hydrant_storage::names::{Name, TenantId};
use hydrant_storage::order::Micros;

use crate::registry::catalog::{Service, ServiceVersion, Snapshot, TenantCatalog, View};
use crate::registry::reads::{Counts, DAY, Drained, KEPT_DAYS, MAX_CALLERS, OTHERS, Readable, Reader, Thing};

/// Whoever has not read for longer is forgotten.
const KEPT_READER: Micros = KEPT_DAYS * DAY;
/// Things of all tenants that are kept: about 1 KiB each at most, beside their readers.
const MAX_RECORDS: usize = 32_768;
/// Readers of all of them that are told apart: about 100 bytes each.
const MAX_READERS: usize = 1 << 17;

/// Everything that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Since when reads are counted.
    pub since: Micros,
    pub records: BTreeMap<Thing, Record>,
    /// Reads of which it isn't known what they were of, since there was no room.
    pub uncounted: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When the view or service was made: another one of its name has other reads.
    pub created: Micros,
    /// What a version of a service reads, for when the version is gone.
    pub features: Vec<(Name, Name)>,
    pub reads: ReadsOfThing,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadsOfThing {
    pub last_online: Option<Micros>,
    pub last_training: Option<Micros>,
    /// By the day, counted from 1970 in UTC.
    pub days: BTreeMap<i64, Counts>,
    pub readers: BTreeMap<Reader, OfReader>,
    /// Of all that are not told apart.
    pub others: Option<OfReader>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfReader {
    /// Since `first`.
    pub counts: Counts,
    pub first: Micros,
    pub last: Micros,
}

/// What is defined, by the numbers of tenants.
pub struct Defined<'a>(BTreeMap<TenantId, (&'a Name, &'a TenantCatalog)>);

impl<'a> Defined<'a> {
    pub fn of(snapshot: &'a Snapshot) -> Self {
        Self(snapshot.tenants.iter().map(|(name, tenant)| (tenant.id, (name, tenant.as_ref()))).collect())
    }

    pub fn tenant_name(&self, tenant: TenantId) -> Option<&'a Name> {
        self.0.get(&tenant).map(|(name, _)| *name)
    }

    /// When it was made, if it is there.
    fn created(&self, thing: &Thing) -> Option<Micros> {
        let (_, catalog) = self.0.get(&thing.owner)?;
        match &thing.of {
            Readable::Feature(view, feature) => {
                let mut versions = catalog.read_versions_of(view.as_str());
                let is_there = versions.any(|version| has_feature(version, feature));
                catalog.views.get(view).filter(|_| is_there).map(|view| view.applied.created)
            }
            Readable::Service(service, number) => {
                let service = catalog.services.get(service)?;
                version_of(service, *number).map(|_| service.applied.created)
            }
        }
    }

    fn features(&self, thing: &Thing) -> Vec<(Name, Name)> {
        let Readable::Service(service, number) = &thing.of else { return Vec::new() };
        let service = self.0.get(&thing.owner).and_then(|(_, catalog)| catalog.services.get(service));
        service.and_then(|service| version_of(service, *number)).map(|version| features_of(version)).unwrap_or_default()
    }
}

fn has_feature(view: &View, feature: &Name) -> bool {
    view.features.iter().any(|known| known.name == *feature)
}

fn version_of(service: &Service, number: u32) -> Option<&Arc<ServiceVersion>> {
    service.versions.iter().find(|version| version.number == number)
}

/// View and feature, each once.
pub fn features_of(version: &ServiceVersion) -> Vec<(Name, Name)> {
    let name = |lookup: usize, feature: usize| {
        let view = &version.lookups[lookup].view;
        (view.name.clone(), view.features[feature].name.clone())
    };
    let mut features: Vec<_> = version.columns.iter().map(|column| name(column.lookup, column.feature)).collect();
    features.sort_unstable();
    features.dedup();
    features
}

impl Kept {
    pub fn new(since: Micros) -> Self {
        Self { since, records: BTreeMap::new(), uncounted: 0 }
    }

    /// Adds what was counted, as of now. What isn't defined any more has no reads.
    pub fn add(&mut self, drained: Drained, defined: &Defined<'_>, now: Micros) {
        let mut readers: usize = self.records.values().map(|record| record.reads.readers.len()).sum();
        self.uncounted = self.uncounted.saturating_add(drained.uncounted);
        for ((thing, reader), counts) in drained.reads {
            let Some(created) = defined.created(&thing) else { continue };
            if self.records.get(&thing).is_some_and(|record| record.created != created) {
                self.records.remove(&thing);
            }
            if !self.records.contains_key(&thing) {
                if self.records.len() >= MAX_RECORDS {
                    self.uncounted = self.uncounted.saturating_add(counts.sum());
                    continue;
                }
                let features = defined.features(&thing);
                self.records.insert(thing.clone(), Record { created, features, reads: ReadsOfThing::default() });
            }
            let Some(record) = self.records.get_mut(&thing) else { continue };
            let before = record.reads.readers.len();
            record.reads.add(reader, counts, now, readers < MAX_READERS);
            readers += record.reads.readers.len() - before;
        }
    }

    /// Forgets what is older than is kept, and what isn't there any more. The reads of a version of a service
    /// that is gone stay those of its features.
    pub fn forget(&mut self, defined: &Defined<'_>, now: Micros) {
        let gone: Vec<Thing> = self
            .records
            .iter()
            .filter(|(thing, record)| defined.created(thing) != Some(record.created))
            .map(|(thing, _)| thing.clone())
            .collect();
        for thing in gone {
            let Some(record) = self.records.remove(&thing) else { continue };
            for (view, feature) in record.features {
                let thing = Thing { owner: thing.owner, of: Readable::Feature(view, feature) };
                let Some(created) = defined.created(&thing) else { continue };
                if self.records.len() < MAX_RECORDS || self.records.contains_key(&thing) {
                    let new = || Record { created, features: Vec::new(), reads: ReadsOfThing::default() };
                    self.records.entry(thing).or_insert_with(new).reads.merge(&record.reads);
                }
            }
        }
        for record in self.records.values_mut() {
            record.reads.forget(defined, now);
        }
    }
}

impl ReadsOfThing {
    /// When it was read last, however.
    pub fn last(&self) -> Option<Micros> {
        self.last_online.max(self.last_training)
    }

    fn add(&mut self, reader: Reader, counts: Counts, now: Micros, has_room: bool) {
        if counts.online > 0 {
            self.last_online = self.last_online.max(Some(now));
        }
        if counts.training > 0 {
            self.last_training = self.last_training.max(Some(now));
        }
        self.days.entry(now.div_euclid(DAY)).or_default().add(counts);
        let read = OfReader { counts, first: now, last: now };
        self.add_reader(reader, read, has_room);
    }

    fn add_reader(&mut self, reader: Reader, read: OfReader, has_room: bool) {
        if let Some(known) = self.readers.get_mut(&reader) {
            return known.add(read);
        }
        // Tenants, and callers of one's own, each up to the bound.
        let is_alike = |known: &&Reader| known.caller.is_empty() == reader.caller.is_empty();
        if &*reader.caller != OTHERS && has_room && self.readers.keys().filter(is_alike).count() < MAX_CALLERS {
            self.readers.insert(reader, read);
            return;
        }
        self.add_other(read);
    }

    fn add_other(&mut self, read: OfReader) {
        match &mut self.others {
            Some(others) => others.add(read),
            None => self.others = Some(read),
        }
    }

    /// Adds the reads of something else.
    pub fn merge(&mut self, other: &Self) {
        self.last_online = self.last_online.max(other.last_online);
        self.last_training = self.last_training.max(other.last_training);
        for (day, counts) in &other.days {
            self.days.entry(*day).or_default().add(*counts);
        }
        for (reader, read) in &other.readers {
            self.add_reader(reader.clone(), *read, true);
        }
        if let Some(others) = other.others {
            self.add_other(others);
        }
    }

    fn forget(&mut self, defined: &Defined<'_>, now: Micros) {
        let oldest = now.div_euclid(DAY) - KEPT_DAYS + 1;
        self.days.retain(|day, _| *day >= oldest);
        self.readers.retain(|_, read| now - read.last <= KEPT_READER);
        self.others = self.others.filter(|read| now - read.last <= KEPT_READER);
        let is_gone = |reader: &&Reader| defined.tenant_name(reader.tenant).is_none();
        let gone: Vec<Reader> = self.readers.keys().filter(is_gone).cloned().collect();
        for read in gone.iter().filter_map(|reader| self.readers.remove(reader)).collect::<Vec<_>>() {
            self.add_other(read);
        }
    }
}

impl OfReader {
    fn add(&mut self, other: Self) {
        self.counts.add(other.counts);
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(tenant: u32, caller: &str) -> Reader {
        Reader { tenant: TenantId(tenant), caller: caller.into() }
    }

    fn one() -> Counts {
        Counts { online: 1, training: 0 }
    }

    #[test]
    fn callers_and_tenants_are_told_apart_up_to_the_bound_and_no_read_is_lost() {
        let mut reads = ReadsOfThing::default();
        for number in 0..100 {
            reads.add(reader(1, &format!("key/{number}")), one(), number, true);
        }
        for tenant in 0..100 {
            reads.add(reader(100 + tenant, ""), one(), 200, true);
        }
        reads.add(reader(1, "key/late"), one(), 300, false);
        assert_eq!(reads.readers.len(), 2 * MAX_CALLERS);
        let others = reads.others.expect("some");
        assert_eq!((others.counts.online, others.first, others.last), (36 + 36 + 1, 64, 300));
        let mut other = reads.clone();
        other.merge(&reads);
        let sum: u64 = other.readers.values().chain(&other.others).map(|read| read.counts.online).sum();
        assert_eq!((sum, other.days[&0].online), (402, 402));
    }

    #[test]
    fn what_is_older_than_a_month_is_forgotten_but_when_it_was_read_last() {
        let snapshot = Snapshot::default();
        let mut reads = ReadsOfThing::default();
        reads.add(reader(1, OTHERS), one(), 0, true);
        reads.add(reader(1, OTHERS), Counts { online: 0, training: 2 }, 40 * DAY, true);
        reads.forget(&Defined::of(&snapshot), 40 * DAY);
        assert_eq!(reads.days.keys().copied().collect::<Vec<_>>(), [40]);
        assert_eq!((reads.last_online, reads.last()), (Some(0), Some(40 * DAY)));
        reads.forget(&Defined::of(&snapshot), 80 * DAY);
        assert!(reads.days.is_empty() && reads.others.is_none());
        assert_eq!(reads.last(), Some(40 * DAY));
    }
}
