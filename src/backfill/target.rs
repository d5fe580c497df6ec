//! What a backfill is to be brought into: a source and its views as they were defined when it began. It
//! is the same as long as the definitions that its rows depend on are.

use std::sync::Arc;

use hydrant_storage::history::HistoryViewSpec;
use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;
use xxhash_rust::xxh3::xxh3_128;

use super::BackfillRequest;
use crate::error::{Code, Error, Result};
use crate::registry::catalog::{Snapshot, Source, View};
use crate::registry::definition::KnownTimeRule;
use crate::rows::source_of;
use crate::runs;
use crate::tenancy::Permit;

#[derive(Debug)]
pub(super) struct Target {
    /// The definitions that it was made by.
    pub snapshot: Arc<Snapshot>,
    pub tenant: Name,
    pub source: String,
    /// The views over the source that keep history.
    pub views: Vec<Arc<View>>,
    pub known_time: KnownTimeRule,
    /// Event times, from the first until before the second.
    pub from: Option<Micros>,
    pub to: Option<Micros>,
    pub ignore_extra: bool,
    /// The backfill's id, as the names of files have it: hexadecimal digits.
    pub id: String,
}

impl Target {
    pub fn new(permit: &Permit, snapshot: Arc<Snapshot>, request: &BackfillRequest) -> Result<Self> {
        const MAX_ID_BYTES: usize = 256;
        if request.id.is_empty() || request.id.len() > MAX_ID_BYTES {
            return Err(Error::invalid("BAD_BACKFILL", format!("a backfill's id has 1 to {MAX_ID_BYTES} bytes")));
        }
        runs::check(&request.origins)?;
        if let (Some(from), Some(to)) = (request.from, request.to)
            && from >= to
        {
            return Err(Error::invalid("BAD_BACKFILL", "the range of event times ends before it begins"));
        }
        let tenant = snapshot.tenant(permit.tenant())?;
        let found = tenant.sources.get(request.source.as_str());
        permit.check_source(&request.source, found.map(|source| source.views.iter().map(|view| &view.name)))?;
        let source = source_of(tenant, &request.source)?;
        let views: Vec<Arc<View>> = source.views.iter().filter(|view| view.offline).cloned().collect();
        if views.is_empty() {
            let message = format!("source '{}' has no view that keeps history: its rows would go nowhere", source.name);
            return Err(Error::new(Code::FailedPrecondition, "SOURCE_WITHOUT_HISTORY", message)
                .with("source", &source.name)
                .hint("apply a FeatureView over the source with `offline: true`, the default, first"));
        }
        let known_time = request.known_time.clone().unwrap_or_else(|| source.known_time.clone());
        let identity = [tenant.id.0.to_le_bytes().as_slice(), request.id.as_bytes()].concat();
        let id = format!("{:032x}", xxh3_128(&identity));
        let (source, tenant) = (request.source.clone(), permit.tenant().clone());
        let BackfillRequest { from, to, ignore_extra, .. } = *request;
        Ok(Self { tenant, source, views, known_time, from, to, ignore_extra, id, snapshot })
    }

    pub fn source(&self) -> Result<&Source> {
        source_of(self.snapshot.tenant(&self.tenant)?, &self.source)
    }

    pub fn spec_of(&self, view: &View) -> HistoryViewSpec {
        view.history_spec(&self.tenant)
    }

    /// Differs wherever rows that were checked under one target would be other rows under the other.
    pub fn fingerprint(&self) -> Result<String> {
        let source = self.source()?;
        let columns: Vec<String> =
            source.columns.iter().map(|column| format!("{} {}", column.name, column.data_type)).collect();
        let of_view = |view: &Arc<View>| {
            let keys: Vec<String> =
                view.join_keys.iter().map(|key| format!("{} {:?}", key.name, key.key_type)).collect();
            let features: Vec<String> = view
                .features
                .iter()
                .map(|feature| format!("{} {} {}", feature.name, feature.data_type, feature.column))
                .collect();
            format!("{} {} {} {keys:?} {features:?}", view.id.0, view.version, view.slot_seed)
        };
        let views: Vec<String> = self.views.iter().map(of_view).collect();
        let (event_time, known_time, from, to) = (&source.event_time, &self.known_time, self.from, self.to);
        let all = format!("{columns:?} {event_time} {known_time:?} {from:?} {to:?} {views:?}");
        Ok(format!("{:032x}", xxh3_128(all.as_bytes())))
    }

    /// Whether the same rows would be made under newer definitions.
    pub fn is_same_under(&self, permit: &Permit, snapshot: Arc<Snapshot>, request: &BackfillRequest) -> Result<bool> {
        let newer = Self::new(permit, snapshot, request)?;
        Ok(newer.fingerprint()? == self.fingerprint()?)
    }
}
