//! Who uses which features: what was read last and when, how often a day, by whom, and what nobody reads.
//! Reads are counted where they are made (`registry::reads`); here they are put together now and then, kept
//! and told. It is on no read path, and refuses nobody anything.

mod kept;
mod so_far;
mod stored;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use hydrant_storage::names::{Name, TenantId};
use hydrant_storage::order::Micros;

use self::kept::{Defined, Kept, OfReader, ReadsOfThing, Record, features_of};
use crate::clock::StoreTime;
use crate::cluster::{MetadataStore, Versioned};
use crate::error::{Error, Result};
use crate::registry::SnapshotReader;
use crate::registry::catalog::TenantCatalog;
use crate::registry::graph::NodeKind;
use crate::registry::reads::{Counts, DAY, Readable, Thing};
use crate::registry::selection::is_of_another;
use crate::tenancy::{Action, Permit};

pub use self::so_far::{ReadSummary, ReadsOfParts, SoFar};

const PAGE: usize = 100;
const LARGEST_PAGE: usize = 1_000;
/// The longest name that is asked about, and the longest page token, in bytes.
const MAX_TEXT: usize = 512;

/// What it is made with.
#[derive(Debug)]
pub struct UsageParts {
    pub snapshots: SnapshotReader,
    pub metadata: Arc<dyn MetadataStore>,
    pub store_time: Arc<StoreTime>,
}

/// The use case. Clones are the same.
#[derive(Clone, Debug)]
pub struct Usages {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    parts: UsageParts,
    kept: Mutex<Kept>,
    /// One writer at a time.
    writer: tokio::sync::Mutex<Writer>,
    /// Listings go through everything that a tenant has, one at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct Writer {
    version: u64,
    persisted: Bytes,
}

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// A view, `view:feature`, a service or `service@N`; empty: all.
    pub of: String,
    /// Only what was not read for so long, or never.
    pub unused_for: Option<Micros>,
    /// 0: as many as suit the server.
    pub page_size: u32,
    /// Empty: the first.
    pub page_token: String,
}

/// A page of what is used, by name.
#[derive(Clone, Debug)]
pub struct Page {
    pub tenant: Name,
    pub usages: Vec<Usage>,
    /// Empty: there are no more.
    pub next_page_token: String,
    /// Since when reads are counted.
    pub since: Micros,
    /// Store time of the listing.
    pub now: Micros,
    /// Reads of all tenants that are told nowhere, since there was no room.
    pub uncounted: u64,
}

/// How one feature, or one version of a service, is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    pub of: Readable,
    /// Of the view or service, as it is defined.
    pub owner: String,
    /// When the view or service was made.
    pub created: Micros,
    pub last_online: Option<Micros>,
    pub last_training: Option<Micros>,
    /// Each with its first instant, ascending; those without reads are left out.
    pub days: Vec<(Micros, Counts)>,
    /// The one that read last in front.
    pub readers: Vec<ToldReader>,
    /// Of all that are not told apart.
    pub others: Option<ReadBy>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToldReader {
    pub tenant: Name,
    /// `None` of another tenant.
    pub caller: Option<String>,
    pub reads: ReadBy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadBy {
    /// Since `first`.
    pub counts: Counts,
    pub first: Micros,
    pub last: Micros,
}

/// What nobody read for long, by kind and name; and when it was read last.
pub type Unread = BTreeMap<(NodeKind, String), Option<Micros>>;

impl Usages {
    pub async fn open(parts: UsageParts) -> Result<Self> {
        let (kept, writer) = match parts.metadata.get(stored::USAGE).await? {
            Some(Versioned { value, version }) => (stored::read(&value)?, Writer { version, persisted: value }),
            None => (Kept::new(parts.store_time.read()), Writer::default()),
        };
        let (kept, writer) = (Mutex::new(kept), tokio::sync::Mutex::new(writer));
        Ok(Self { inner: Arc::new(Inner { parts, kept, writer, turn: Arc::default() }) })
    }

    /// Adds what was read since. What was read is of the instant at which it is added.
    pub fn fold(&self) {
        let snapshot = self.inner.parts.snapshots.load();
        self.fold_in(&Defined::of(&snapshot));
    }

    /// Makes durable what was read, if something was.
    pub async fn persist(&self) -> Result<()> {
        let mut writer = self.inner.writer.lock().await;
        let usages = self.clone();
        let written = tokio::task::spawn_blocking(move || {
            let snapshot = usages.inner.parts.snapshots.load();
            let defined = Defined::of(&snapshot);
            usages.fold_in(&defined);
            let kept = {
                let mut kept = usages.kept();
                kept.forget(&defined, usages.now());
                kept.clone()
            };
            stored::write(&kept)
        });
        let written =
            written.await.map_err(|failed| Error::internal(format!("writing usage ended early: {failed}")))?;
        if written != writer.persisted {
            let put = self.inner.parts.metadata.put_if_version(stored::USAGE, written.clone(), writer.version);
            (writer.version, writer.persisted) = (put.await?, written);
        }
        Ok(())
    }

    /// A page of what the caller's tenant has. NOT_FOUND where there is nothing of the name asked for.
    pub async fn list(&self, permit: &Permit, wanted: Wanted) -> Result<Page> {
        permit.require(Action::ReadUsage)?;
        self.apart(permit, move |usages, tenant, listing| usages.page(tenant, listing, &wanted)).await
    }

    /// One feature, or one version of a service. NOT_FOUND where there is none.
    pub async fn get(&self, permit: &Permit, of: Readable) -> Result<Usage> {
        permit.require(Action::ReadUsage)?;
        self.apart(permit, move |_, tenant, listing| {
            let is_there = things(tenant).any(|thing| thing == of);
            if is_there { Ok(listing.told(tenant, of)) } else { Err(unknown(&of.to_string())) }
        })
        .await
    }

    /// Features and services that were not read for so long, or never, and views of which no feature was.
    pub async fn unread(&self, permit: &Permit, span: Micros) -> Result<Unread> {
        permit.require_identity(Action::ReadUsage)?;
        self.apart(permit, move |usages, tenant, listing| {
            let oldest = usages.now().saturating_sub(span);
            let mut lasts: Unread = BTreeMap::new();
            let mut note = |kind, name: String, last: Option<Micros>| {
                let known = lasts.entry((kind, name)).or_default();
                *known = (*known).max(last);
            };
            for of in things(tenant) {
                let last = listing.last(&of);
                match &of {
                    Readable::Feature(name, _) => {
                        note(NodeKind::FeatureView, name.to_string(), last);
                        note(NodeKind::Feature, of.to_string(), last);
                    }
                    Readable::Service(service, _) => note(NodeKind::FeatureService, service.to_string(), last),
                }
            }
            lasts.retain(|_, last| last.is_none_or(|last| last < oldest));
            Ok(lasts)
        })
        .await
    }

    /// What was read so far of what the caller's tenant has, for whoever is about to change it. `None` where the
    /// caller may not see usage: it changes what it may all the same.
    pub async fn so_far(&self, permit: &Permit) -> Result<Option<SoFar>> {
        if permit.require_identity(Action::ReadUsage).is_err() {
            return Ok(None);
        }
        self.gathered(permit, |_, so_far| Ok(Some(so_far))).await
    }

    /// Runs what goes through all that the tenant has, off the thread that answers.
    async fn apart<T: Send + 'static>(
        &self,
        permit: &Permit,
        work: impl FnOnce(&Self, &TenantCatalog, &Listing<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.gathered(permit, move |usages, so_far| {
            let catalog = so_far.snapshot.tenant(&so_far.tenant)?;
            let defined = Defined::of(&so_far.snapshot);
            work(usages, catalog, &Listing::of(catalog, &so_far.records, &defined))
        })
        .await
    }

    async fn gathered<T: Send + 'static>(
        &self,
        permit: &Permit,
        work: impl FnOnce(&Self, SoFar) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let turn = self.inner.turn.clone().lock_owned().await;
        let (usages, tenant) = (self.clone(), permit.tenant().clone());
        let read = tokio::task::spawn_blocking(move || {
            let read = usages.gather(tenant).and_then(|so_far| work(&usages, so_far));
            drop(turn);
            read
        });
        read.await.map_err(|failed| Error::internal(format!("a listing of usage ended early: {failed}")))?
    }

    fn gather(&self, tenant: Name) -> Result<SoFar> {
        let snapshot = self.inner.parts.snapshots.load();
        let catalog = snapshot.tenant(&tenant)?;
        let defined = Defined::of(&snapshot);
        self.fold_in(&defined);
        self.kept().forget(&defined, self.now());
        // Readers and days of the caller's tenant, and no other.
        let of_tenant = |(thing, _): &(&Thing, &Record)| thing.owner == catalog.id;
        let kept = self.kept();
        let (records, since) = (kept.records.iter().filter(of_tenant), kept.since);
        let mut records: BTreeMap<Thing, Record> =
            records.map(|(thing, record)| (thing.clone(), record.clone())).collect();
        drop(kept);
        records.retain(|thing, record| created(catalog, &thing.of) == Some(record.created));
        let now = self.now();
        Ok(SoFar { snapshot, tenant, records, since, now })
    }

    fn page(&self, tenant: &TenantCatalog, listing: &Listing<'_>, wanted: &Wanted) -> Result<Page> {
        let Wanted { of, unused_for, page_size, page_token } = wanted;
        let after = if page_token.is_empty() { None } else { Some(decode(page_token)?) };
        let size = match *page_size as usize {
            0 => PAGE,
            size => size.min(LARGEST_PAGE),
        };
        let mut named = things(tenant).filter(|thing| is_named(thing, of)).peekable();
        if !of.is_empty() && named.peek().is_none() {
            return Err(unknown(of));
        }
        let now = self.now();
        let oldest = unused_for.map(|span| now.saturating_sub(span));
        let is_unused = |of: &Readable| oldest.is_none_or(|oldest| listing.last(of).is_none_or(|last| last < oldest));
        let mut left = named.filter(|of| after.as_ref().is_none_or(|after| of > after)).filter(is_unused);
        let page: Vec<Readable> = left.by_ref().take(size).collect();
        let next = left.next().and_then(|_| page.last()).map(encode);
        let kept = self.kept();
        let (since, uncounted) = (kept.since, kept.uncounted);
        drop(kept);
        Ok(Page {
            tenant: tenant.name.clone(),
            usages: page.into_iter().map(|of| listing.told(tenant, of)).collect(),
            next_page_token: next.unwrap_or_default(),
            since,
            now,
            uncounted,
        })
    }

    fn fold_in(&self, defined: &Defined<'_>) {
        let mut kept = self.kept();
        // Under the lock, so that whoever looks afterwards finds what was read before.
        let drained = self.inner.parts.snapshots.reads().drain();
        kept.add(drained, defined, self.now());
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.inner.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Micros {
        self.inner.parts.store_time.read()
    }
}

/// What is kept of one tenant, to be told of.
struct Listing<'a> {
    records: &'a BTreeMap<Thing, Record>,
    /// The versions of services that have a feature and were read.
    services_of: HashMap<(Name, Name), Vec<Thing>>,
    defined: &'a Defined<'a>,
    tenant: TenantId,
}

impl<'a> Listing<'a> {
    fn of(tenant: &TenantCatalog, records: &'a BTreeMap<Thing, Record>, defined: &'a Defined<'a>) -> Self {
        let mut services_of: HashMap<(Name, Name), Vec<Thing>> = HashMap::new();
        for version in tenant.services.values().flat_map(|service| &service.versions) {
            let of = Readable::Service(version.service.clone(), version.number);
            let thing = Thing { owner: tenant.id, of };
            if records.contains_key(&thing) {
                for feature in features_of(version) {
                    services_of.entry(feature).or_default().push(thing.clone());
                }
            }
        }
        Self { records, services_of, defined, tenant: tenant.id }
    }

    /// The reads of it by itself, and of a feature those of each service that has it.
    fn reads_of(&self, of: &Readable) -> impl Iterator<Item = &ReadsOfThing> {
        let services = self.services_with(of).iter().filter_map(|thing| self.records.get(thing));
        self.records.get(&self.thing(of.clone())).into_iter().chain(services).map(|record| &record.reads)
    }

    /// The versions of services that have a feature and were read.
    fn services_with(&self, of: &Readable) -> &[Thing] {
        let services = match of {
            Readable::Feature(view, feature) => self.services_of.get(&(view.clone(), feature.clone())),
            Readable::Service(..) => None,
        };
        services.map(Vec::as_slice).unwrap_or_default()
    }

    fn thing(&self, of: Readable) -> Thing {
        Thing { owner: self.tenant, of }
    }

    fn last(&self, of: &Readable) -> Option<Micros> {
        self.reads_of(of).map(ReadsOfThing::last).max().flatten()
    }

    fn told(&self, tenant: &TenantCatalog, of: Readable) -> Usage {
        let mut reads = ReadsOfThing::default();
        for other in self.reads_of(&of) {
            reads.merge(other);
        }
        let read_by = |read: OfReader| ReadBy { counts: read.counts, first: read.first, last: read.last };
        let mut readers: Vec<ToldReader> = Vec::with_capacity(reads.readers.len());
        for (reader, read) in &reads.readers {
            // A tenant that is gone is forgotten soon.
            let Some(name) = self.defined.tenant_name(reader.tenant) else { continue };
            let caller = (!reader.caller.is_empty()).then(|| reader.caller.to_string());
            readers.push(ToldReader { tenant: name.clone(), caller, reads: read_by(*read) });
        }
        readers.sort_by(|one, other| {
            let rank =
                |told: &ToldReader| (std::cmp::Reverse(told.reads.last), told.tenant.clone(), told.caller.clone());
            rank(one).cmp(&rank(other))
        });
        Usage {
            owner: owner_of(tenant, &of),
            created: created(tenant, &of).unwrap_or_default(),
            last_online: reads.last_online,
            last_training: reads.last_training,
            days: reads.days.iter().map(|(day, counts)| (day * DAY, *counts)).collect(),
            readers,
            others: reads.others.map(read_by),
            of,
        }
    }
}

/// All that a tenant has that can be read, in order.
fn things(tenant: &TenantCatalog) -> impl Iterator<Item = Readable> {
    let features = tenant.views.keys().flat_map(|view| {
        let features = tenant.read_versions_of(view.as_str()).flat_map(|version| &version.features);
        let names: BTreeSet<&Name> = features.map(|feature| &feature.name).collect();
        names.into_iter().map(|name| Readable::Feature(view.clone(), name.clone()))
    });
    let versions = tenant.services.values().flat_map(|service| &service.versions);
    features.chain(versions.map(|version| Readable::Service(version.service.clone(), version.number)))
}

/// Whether a thing is what a name means: itself, a feature of the view, a version of the service.
fn is_named(thing: &Readable, name: &str) -> bool {
    let whole = match thing {
        Readable::Feature(view, _) => view,
        Readable::Service(service, _) => service,
    };
    name.is_empty() || whole.as_str() == name || Readable::parse(name).as_ref() == Some(thing)
}

fn created(tenant: &TenantCatalog, of: &Readable) -> Option<Micros> {
    match of {
        Readable::Feature(view, _) => tenant.views.get(view).map(|view| view.applied.created),
        Readable::Service(service, _) => tenant.services.get(service).map(|service| service.applied.created),
    }
}

fn owner_of(tenant: &TenantCatalog, of: &Readable) -> String {
    let applied = match of {
        Readable::Feature(view, _) => tenant.views.get(view).map(|view| &view.applied),
        Readable::Service(service, _) => tenant.services.get(service).map(|service| &service.applied),
    };
    applied.map(|applied| applied.definition.metadata.owner.clone()).unwrap_or_default()
}

fn encode(of: &Readable) -> String {
    URL_SAFE_NO_PAD.encode(format!("u/{of}"))
}

fn decode(token: &str) -> Result<Readable> {
    let decoded = if token.len() > MAX_TEXT { None } else { URL_SAFE_NO_PAD.decode(token).ok() };
    let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    let of = text.and_then(|text| Readable::parse(text.strip_prefix("u/")?));
    of.ok_or_else(|| {
        Error::invalid("BAD_PAGE_TOKEN", "the page token is none of a listing of usage")
            .hint("give back a token as it was answered, for the same listing; or none, to start anew")
    })
}

/// That there is nothing of this name, whoever has it.
pub fn unknown(name: &str) -> Error {
    let shown: String = name.chars().take(160).collect();
    let hint = match is_of_another(name) {
        true => "how often something is read that another tenant shares is told to that tenant",
        false => "name a view, VIEW:FEATURE, a service or SERVICE@N; `hydrant usage` lists them",
    };
    Error::not_found("USAGE_NOT_FOUND", format!("there is no view, feature or service '{shown}'"))
        .hint(hint)
        .with("name", shown)
}
