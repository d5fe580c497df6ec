//! What one request asks for: feature services and single features, resolved in one snapshot into
//! the rows to look up and the columns to take from them. A row or column that several services
//! need stands here once. Nothing here reads a row.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use hydrant_storage::names::{Name, TenantId, ViewId};
use hydrant_storage::order::Micros;
use hydrant_storage::value::{DataType, ScalarType, Value};

use crate::error::{Code, Error, Result};

use super::catalog::{Lookup, Service, ServiceColumn, ServiceVersion, Snapshot, TenantCatalog, View};
use super::key_sets::KeySets;
use super::known_selections::KnownSelections;
use super::masking::Masking;
use super::prepared::Prepared;
use super::reads::{Readable, ReadsOf, Thing};
use super::shares::{self, Given, Share};

/// The most services that one request may name.
pub const MAX_SERVICES: usize = 64;
/// The most columns that one request may ask for, over all its services.
pub const MAX_COLUMNS: usize = 16_384;

/// A request's features, resolved.
#[derive(Clone, Debug)]
pub struct Selection {
    /// In the request's order.
    pub services: Vec<SelectedService>,
    /// The columns of the request's feature references, in its order: indices into `columns`.
    pub features: Vec<usize>,
    /// The rows to look up, each once.
    pub lookups: Vec<Lookup>,
    /// In the order in which services, then references, first ask for them.
    pub columns: Vec<ServiceColumn>,
    /// The registry revision of the snapshot.
    pub revision: u64,
    /// The columns that the caller has to send, each once, in the order of first use.
    pub request_columns: Vec<RequestColumn>,
    /// The views of the lookups, each once.
    pub views: Vec<SelectedView>,
    /// For each lookup the index of its view among `views`.
    pub view_of: Vec<usize>,
    /// Which of the views have the same keys.
    pub key_sets: KeySets,
    /// For each lookup whether all its columns are masked, so that it is not made; empty where none is.
    unread: Vec<bool>,
    /// By which shares of others it reads, each once.
    shares: Vec<Arc<Given>>,
    /// Where its reads are counted; nothing of one that no tenant asked for.
    reads: Arc<ReadsOf>,
    /// For whoever sends its answers.
    pub prepared: Prepared,
}

/// A view of a request, whichever lookups need it.
#[derive(Clone, Debug)]
pub struct SelectedView {
    pub view: Arc<View>,
    /// The longest ttl among the request's lookups of the view.
    pub longest_ttl: Option<Micros>,
    /// Whose it is, where it is another tenant's.
    pub owner: Option<Name>,
}

/// A service of a request, and where its columns stand in the answer.
#[derive(Clone, Debug)]
pub struct SelectedService {
    /// Whose it is, where it is another tenant's.
    pub owner: Option<Name>,
    pub version: Arc<ServiceVersion>,
    /// Indices into the selection's columns, in the frozen order.
    pub columns: Vec<usize>,
}

/// A column that the caller has to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestColumn {
    pub name: Name,
    pub key_type: ScalarType,
}

impl Snapshot {
    /// As [`Snapshot::select`], with what is personal masked for whoever has no grant for it; what was
    /// asked for before is not resolved again.
    pub fn selection(
        &self,
        tenant: &TenantCatalog,
        services: &[String],
        features: &[String],
        may_see_pii: bool,
    ) -> Result<Arc<Selection>> {
        let make = || {
            let mut selection = self.select(tenant, services, features)?;
            selection.mask(Masking::AsGranted, may_see_pii)?;
            if KnownSelections::keeps(services, features) {
                selection.reads = ReadsOf::new(tenant.id, selection.things(tenant.id), true);
            }
            Ok(selection)
        };
        let known = self.known_selections.get_or_make(tenant.id, services, features, may_see_pii, make)?;
        if known.shares.is_empty()
            || self.now().is_some_and(|now| known.shares.iter().all(|given| given.share.stands(now)))
        {
            return Ok(known);
        }
        // A share has ended since it was resolved: as if there were none.
        make().map(Arc::new)
    }

    /// The catalog of a tenant.
    pub fn tenant(&self, name: &Name) -> Result<&Arc<TenantCatalog>> {
        self.tenants.get(name).ok_or_else(|| {
            Error::not_found("TENANT_NOT_FOUND", format!("there is no tenant '{name}'")).with("tenant", name)
        })
    }

    /// Resolves services (`name` or `name@N`) and features (`view:feature`), and what others share with the
    /// tenant (`owner/name@N`, `owner/view:feature`). Single features use
    /// their view's current ttl and defaults, and are called `view__feature`. NOT_FOUND names what
    /// is missing; INVALID_ARGUMENT a reference that can't be read, an empty request, one over the
    /// bounds, or one in which two lookups want one request column in two types.
    pub fn select(&self, tenant: &TenantCatalog, services: &[String], features: &[String]) -> Result<Selection> {
        if services.is_empty() && features.is_empty() {
            return Err(Error::invalid("NOTHING_SELECTED", "the request names no feature service and no feature")
                .hint("name feature services (`name` or `name@N`) or features (`view:feature`)"));
        }
        if services.len() > MAX_SERVICES {
            let message = format!("the request names {} feature services; at most {MAX_SERVICES}", services.len());
            return Err(Error::invalid("TOO_MANY_SERVICES", message));
        }
        let mut builder = Builder::default();
        let mut selected = Vec::with_capacity(services.len());
        let mut seen = HashSet::new();
        for reference in services {
            let (version, given) = self.resolve_service(tenant, reference)?;
            let owner = given.map(|given| given.owner.clone());
            if !seen.insert((owner.clone(), version.service.clone(), version.number)) {
                let message =
                    format!("the request names feature service '{}@{}' twice", version.service, version.number);
                return Err(Error::invalid("DUPLICATE_SERVICE", message).with("service", &version.service));
            }
            let columns = builder.add_service(version, given);
            selected.push(SelectedService { owner, version: Arc::clone(version), columns });
            check_width(builder.columns.len())?;
        }
        check_width(builder.columns.len().saturating_add(features.len()))?;
        let mut references = Vec::with_capacity(features.len());
        for reference in features {
            let (view, feature, given) = self.resolve_feature(tenant, reference)?;
            references.push(builder.add_feature(view, feature, given));
        }
        let Builder { lookups, columns, shares, .. } = builder;
        let mut selection = Selection::new(selected, references, lookups, columns, self.revision)?;
        if !shares.is_empty() {
            for selected in selection.views.iter_mut().filter(|selected| selected.view.tenant != tenant.id) {
                selected.owner = Some(self.owner_of(&selected.view)?.clone());
            }
            selection.shares = shares;
        }
        selection.reads = ReadsOf::new(tenant.id, selection.things(tenant.id), false);
        Ok(selection)
    }

    fn resolve_service<'a>(
        &'a self,
        tenant: &'a TenantCatalog,
        reference: &str,
    ) -> Result<(&'a Arc<ServiceVersion>, Option<&'a Arc<Given>>)> {
        let shown: String = reference.chars().take(80).collect();
        let (name, number) = match reference.split_once('@') {
            None => (reference, None),
            Some((name, number)) => {
                let digits = number.bytes().all(|byte| byte.is_ascii_digit());
                let parsed = number.parse::<u32>().ok().filter(|_| digits).ok_or_else(|| {
                    Error::invalid(
                        "BAD_SERVICE_REFERENCE",
                        format!("'{shown}' names no service version: use `name` or `name@N`"),
                    )
                })?;
                (name, Some(parsed))
            }
        };
        let shared = if is_of_another(name) { self.shared_service(tenant, name) } else { None };
        let service = match shared {
            Some((given, owner)) => owner.services.get(given.share.of.name()),
            None => tenant.services.get(name),
        };
        let service = service.ok_or_else(|| {
            Error::not_found("SERVICE_NOT_FOUND", format!("there is no feature service '{shown}'"))
                .with("service", &shown)
        })?;
        let version = version_of(service, name, number)?;
        Ok((version, shared.map(|(given, _)| given)))
    }

    fn resolve_feature<'a>(&'a self, tenant: &'a TenantCatalog, reference: &str) -> Result<FoundFeature<'a>> {
        let shown: String = reference.chars().take(160).collect();
        let Some((view_name, feature_name)) = reference.split_once(':') else {
            let message = format!("'{shown}' names no feature: use `view:feature`");
            return Err(Error::invalid("BAD_FEATURE_REFERENCE", message));
        };
        let shared = if is_of_another(view_name) { self.shared_view(tenant, view_name) } else { None };
        let view = shared.map(|(_, view)| view).or_else(|| tenant.views.get(view_name)).ok_or_else(|| {
            Error::not_found("VIEW_NOT_FOUND", format!("there is no feature view for '{shown}'"))
                .with("feature", &shown)
        })?;
        let index =
            view.features.iter().position(|feature| feature.name.as_str() == feature_name).ok_or_else(|| {
                Error::not_found(
                    "FEATURE_NOT_FOUND",
                    format!("feature view '{view_name}' has no feature for '{shown}'"),
                )
                .with("feature", &shown)
            })?;
        Ok((view, index, shared.map(|(given, _)| given)))
    }
}

impl SelectedService {
    /// `name@N`, or `owner/name@N` of another tenant's: what names this very version again.
    pub fn reference(&self) -> String {
        let ServiceVersion { service, number, .. } = self.version.as_ref();
        match &self.owner {
            None => format!("{service}@{number}"),
            Some(owner) => format!("{owner}/{service}@{number}"),
        }
    }
}

impl SelectedView {
    /// `name`, or `owner/name` of another tenant's.
    pub fn reference(&self) -> String {
        match &self.owner {
            None => self.view.name.to_string(),
            Some(owner) => format!("{owner}/{}", self.view.name),
        }
    }
}

impl Selection {
    /// Puts a selection together. INVALID_ARGUMENT if two lookups want one request column in two
    /// types.
    pub fn new(
        services: Vec<SelectedService>,
        features: Vec<usize>,
        lookups: Vec<Lookup>,
        columns: Vec<ServiceColumn>,
        revision: u64,
    ) -> Result<Self> {
        let request_columns = request_columns(&lookups)?;
        let mut views: Vec<SelectedView> = Vec::new();
        let mut known: HashMap<ViewId, usize> = HashMap::new();
        let mut view_of = Vec::with_capacity(lookups.len());
        for lookup in &lookups {
            let index = *known.entry(lookup.view.id).or_insert(views.len());
            match views.get_mut(index) {
                Some(known) => {
                    known.longest_ttl = known.longest_ttl.zip(lookup.ttl).map(|(one, other)| one.max(other));
                }
                None => {
                    let (view, longest_ttl) = (Arc::clone(&lookup.view), lookup.ttl);
                    views.push(SelectedView { view, longest_ttl, owner: None });
                }
            }
            view_of.push(index);
        }
        let key_sets = KeySets::new(&lookups, &view_of, &request_columns, |_| true);
        let (unread, shares) = (Vec::new(), Vec::new());
        let reads = ReadsOf::new(TenantId(0), Vec::new(), false);
        Ok(Self {
            services,
            features,
            lookups,
            columns,
            revision,
            request_columns,
            views,
            view_of,
            key_sets,
            unread,
            shares,
            reads,
            prepared: Prepared::default(),
        })
    }

    /// What the caller calls a view of it: `name`, or `owner/name` of another tenant's.
    pub fn name_of(&self, view: &View) -> String {
        let selected = self.views.iter().find(|selected| selected.view.id == view.id);
        selected.map_or_else(|| view.name.to_string(), SelectedView::reference)
    }

    /// Where its reads are counted.
    pub fn reads(&self) -> &Arc<ReadsOf> {
        &self.reads
    }

    /// What a tenant reads by it under a name of its own: a feature that a service has is read by the service.
    fn things(&self, tenant: TenantId) -> Vec<Thing> {
        let of_services: HashSet<usize> = self.services.iter().flat_map(|service| &service.columns).copied().collect();
        let service = |service: &SelectedService| {
            let ServiceVersion { service, number, lookups, .. } = service.version.as_ref();
            let owner = lookups.first().map_or(tenant, |lookup| lookup.view.tenant);
            Thing { owner, of: Readable::Service(service.clone(), *number) }
        };
        let feature = |index: &usize| {
            let ServiceColumn { lookup, feature, .. } = self.columns[*index];
            let view = &self.lookups[lookup].view;
            let of = Readable::Feature(view.name.clone(), view.features[feature].name.clone());
            Thing { owner: view.tenant, of }
        };
        let mut seen = HashSet::new();
        let single = self.features.iter().filter(|index| !of_services.contains(index)).map(feature);
        self.services.iter().map(service).chain(single).filter(|thing| seen.insert(thing.clone())).collect()
    }

    /// Refuses (PERMISSION_DENIED) what another tenant shares for online reads alone.
    pub fn require_training_rights(&self) -> Result<()> {
        let Some(given) = self.shares.iter().find(|given| !given.share.may_train) else { return Ok(()) };
        let (owner, Share { of, number, .. }) = (&given.owner, given.share.as_ref());
        let message = format!("tenant '{owner}' shares {of} for online reads, and not for training sets or the past");
        Err(Error::new(Code::PermissionDenied, "SHARE_WITHOUT_TRAINING", message)
            .hint(format!(
                "ask tenant '{owner}' to withdraw share {number} and share it again with the right to train (hydrant \
                 share create --rights read-and-train)"
            ))
            .with("share", format!("tenants/{owner}/shares/{number}")))
    }

    /// Whether a lookup's rows are read: some column of it may be seen.
    pub fn is_read(&self, lookup: usize) -> bool {
        !self.unread.get(lookup).is_some_and(|unread| *unread)
    }

    /// Notes anew which lookups are read, where columns were masked.
    pub fn note_unread(&mut self) {
        self.unread.clear();
        if self.columns.iter().any(|column| column.is_masked) {
            self.unread.resize(self.lookups.len(), true);
            for column in self.columns.iter().filter(|column| !column.is_masked) {
                self.unread[column.lookup] = false;
            }
        }
        // What was made of it shows what is masked now.
        self.prepared = Prepared::default();
        let is_read = |lookup| self.is_read(lookup);
        self.key_sets = KeySets::new(&self.lookups, &self.view_of, &self.request_columns, is_read);
    }

    /// Refuses a selection in which two different columns have one name. Where columns are told
    /// apart by index (online answers) that is no problem; in a table it is.
    pub fn require_unique_names(&self) -> Result<()> {
        let mut seen = HashSet::new();
        for column in &self.columns {
            if !seen.insert(column.name.as_str()) {
                let message = format!("two different columns of the request are called '{}'", column.name);
                return Err(Error::invalid("AMBIGUOUS_COLUMN", message)
                    .hint("ask for the services one by one, or give one of them an alias (`as`)")
                    .with("column", &column.name));
            }
        }
        Ok(())
    }

    /// Refuses a selection with a column that is neither numbers, bools, times nor vectors.
    pub fn require_numbers(&self) -> Result<()> {
        let is_number = |data_type| match data_type {
            DataType::Scalar(ScalarType::String | ScalarType::Bytes) | DataType::List(_) => false,
            DataType::Scalar(_) | DataType::Vector(_) => true,
        };
        match self.columns.iter().find(|column| !is_number(column.data_type)) {
            None => Ok(()),
            Some(ServiceColumn { name, data_type, .. }) => {
                let message = format!("column '{name}' is of {data_type}, and a matrix holds numbers");
                Err(Error::invalid("COLUMN_NOT_NUMERIC", message)
                    .hint("ask for the others only, or for the answer as COLUMNS or ARROW_IPC")
                    .with("column", name))
            }
        }
    }
}

/// The request columns of some lookups, or that two of them want one column in two types.
pub(super) fn request_columns(lookups: &[Lookup]) -> Result<Vec<RequestColumn>> {
    let mut types: BTreeMap<&Name, (ScalarType, &Name)> = BTreeMap::new();
    let mut columns = Vec::new();
    for lookup in lookups {
        for (name, join_key) in lookup.keys.iter().zip(&lookup.view.join_keys) {
            let (known, first_view) = types.entry(name).or_insert((join_key.key_type, &lookup.view.name));
            if *known != join_key.key_type {
                let (wanted, view) = (join_key.key_type.as_str(), &lookup.view.name);
                let known = known.as_str();
                let message = format!(
                    "request column '{name}' would be {known} for view '{first_view}' and {wanted} for view '{view}'"
                );
                return Err(Error::invalid("REQUEST_COLUMN_TYPES_DIFFER", message)
                    .hint("map one of the join keys to another request column (`keys`)")
                    .with("column", name));
            }
            if !columns.iter().any(|column: &RequestColumn| column.name == *name) {
                columns.push(RequestColumn { name: name.clone(), key_type: join_key.key_type });
            }
        }
    }
    Ok(columns)
}

/// Collects lookups and columns, each once.
#[derive(Default)]
struct Builder {
    lookups: Vec<Lookup>,
    columns: Vec<ServiceColumn>,
    lookup_of: HashMap<(ViewId, Vec<Name>, Option<Micros>), usize>,
    /// The columns of each (lookup, feature); there are several only where names or defaults differ.
    columns_of: HashMap<(usize, usize), Vec<usize>>,
    shares: Vec<Arc<Given>>,
}

impl Builder {
    fn add_service(&mut self, version: &ServiceVersion, given: Option<&Arc<Given>>) -> Vec<usize> {
        self.note_share(given);
        let lookups: Vec<usize> = version.lookups.iter().map(|lookup| self.add_lookup(lookup.clone())).collect();
        let columns = version.columns.iter();
        columns
            .map(|column| {
                let column = ServiceColumn { lookup: lookups[column.lookup], ..column.clone() };
                self.add_column(column, given)
            })
            .collect()
    }

    fn add_feature(&mut self, view: &Arc<View>, feature: usize, given: Option<&Arc<Given>>) -> usize {
        self.note_share(given);
        let keys = view.join_keys.iter().map(|join_key| join_key.name.clone()).collect();
        let lookup = self.add_lookup(Lookup { view: Arc::clone(view), keys, ttl: view.ttl });
        let definition = &view.features[feature];
        let column = ServiceColumn {
            name: format!("{}__{}", view.name, definition.name),
            lookup,
            feature,
            data_type: definition.data_type,
            default: definition.default.clone(),
            is_masked: false,
            withholds_pii: false,
        };
        self.add_column(column, given)
    }

    fn note_share(&mut self, given: Option<&Arc<Given>>) {
        let is_known = |given: &Arc<Given>| self.shares.iter().any(|known| Arc::ptr_eq(known, given));
        if let Some(given) = given.filter(|given| !is_known(given)) {
            self.shares.push(given.clone());
        }
    }

    fn add_lookup(&mut self, lookup: Lookup) -> usize {
        let next = self.lookups.len();
        let index = *self.lookup_of.entry((lookup.view.id, lookup.keys.clone(), lookup.ttl)).or_insert(next);
        if index == next {
            self.lookups.push(lookup);
        }
        index
    }

    fn add_column(&mut self, mut column: ServiceColumn, given: Option<&Arc<Given>>) -> usize {
        if let Some(given) = given {
            column.name = shares::column_name(&given.owner, &column.name);
            column.withholds_pii = !given.share.with_pii;
        }
        let same_cell = self.columns_of.entry((column.lookup, column.feature)).or_default();
        let known = same_cell.iter().copied().find(|&index| {
            let known = &self.columns[index];
            known.name == column.name && same_default(known.default.as_ref(), column.default.as_ref())
        });
        // What one share withholds another may give.
        if let Some(known) = known {
            self.columns[known].withholds_pii &= column.withholds_pii;
        }
        known.unwrap_or_else(|| {
            let index = self.columns.len();
            same_cell.push(index);
            self.columns.push(column);
            index
        })
    }
}

fn same_default(a: Option<&Value>, b: Option<&Value>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => a.same_bits(b),
        _ => false,
    }
}

fn check_width(columns: usize) -> Result<()> {
    if columns <= MAX_COLUMNS {
        return Ok(());
    }
    let message = format!("the request asks for more than {MAX_COLUMNS} columns");
    Err(Error::invalid("TOO_MANY_COLUMNS", message).hint("split the request"))
}

/// A view, the index of its feature, and by which share it is read where it is another tenant's.
type FoundFeature<'a> = (&'a Arc<View>, usize, Option<&'a Arc<Given>>);

/// Whether a name is of what another tenant shares: none of a tenant's own has a slash.
pub fn is_of_another(name: &str) -> bool {
    name.contains('/')
}

/// The current version, or the one of a number; `name` is how it is asked for.
fn version_of<'a>(service: &'a Service, name: &str, number: Option<u32>) -> Result<&'a Arc<ServiceVersion>> {
    let current = service
        .versions
        .last()
        .ok_or_else(|| Error::new(Code::Internal, "INTERNAL", format!("feature service '{name}' has no version")))?;
    let Some(number) = number else { return Ok(current) };
    let found = service.versions.binary_search_by_key(&number, |version| version.number);
    found.map(|index| &service.versions[index]).map_err(|_| {
        let message =
            format!("feature service '{name}' has no version {number}; its current one is {}", current.number);
        Error::not_found("SERVICE_VERSION_NOT_FOUND", message)
            .with("service", name)
            .with("version", number)
            .with("current", current.number)
    })
}
