//! New versions of views: whether a definition that its data doesn't allow in place makes one, what of it can
//! be built from the history of a version that is there, and how one takes the place of another. It changes
//! states and looks at no data.

use hydrant_storage::names::{Name, ViewId};
use hydrant_storage::order::Micros;
use hydrant_storage::value::DataType;

use super::compatibility::{self, Incompatibilities, Incompatible};
use super::definition::FeatureViewSpec;
use super::limits::MAX_KEPT_VERSIONS;
use super::plan::Class;
use super::state::{Next, RowFeature, State, Stored, TenantState, ViewState};
use super::validation::{ResolvedView, feeds};

/// What becomes of a view by a new definition.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Course {
    /// The version that is served changes in place; one that is being built is given up.
    InPlace,
    /// The version that is being built stays the one that is built.
    GoesOn,
    /// An earlier version, which was kept, is served again.
    Back {
        id: ViewId,
    },
    /// A new version is built from the history of one that is there.
    Beside {
        row: Vec<RowFeature>,
        from: ViewId,
    },
    Refused,
}

/// What becomes of a view. What its data doesn't allow in place is added to `found`, as refused only where no
/// other version comes of it. `kept` tells of a version the longest ttl under which its rows are online.
pub(super) fn course(
    view: &ViewState,
    kept: &dyn Fn(ViewId) -> Option<Micros>,
    new: &FeatureViewSpec,
    resolved: &ResolvedView,
    path: &str,
    found: &mut Incompatibilities,
) -> Course {
    let fits = |version: &ViewState| {
        let mut found = Incompatibilities::default();
        compatibility::view(version, kept(version.id), new, resolved, path, &mut found);
        found.0
    };
    let mut wrong = fits(view);
    let course = course_of(view, new, resolved, &mut wrong, &|version| fits(version).is_empty(), path);
    if course != Course::Refused {
        wrong.iter_mut().for_each(|incompatible| incompatible.is_refused = false);
    }
    found.0.extend(wrong);
    course
}

fn course_of(
    view: &ViewState,
    new: &FeatureViewSpec,
    resolved: &ResolvedView,
    wrong: &mut Vec<Incompatible>,
    fits: &dyn Fn(&ViewState) -> bool,
    path: &str,
) -> Course {
    if wrong.is_empty() {
        // A feature that was taken away and comes back is one that rows lack; in the version that had it they don't.
        let fitting = view.older.iter().rev().find(|older| has_all(older, resolved) && fits(older));
        return match fitting.filter(|_| !has_all(view, resolved)) {
            Some(back) => Course::Back { id: back.id },
            None => Course::InPlace,
        };
    }
    if !resolved.is_whole || !wrong.iter().all(|incompatible| incompatible.fact.starts_with("features.")) {
        return Course::Refused;
    }
    if view.next.as_ref().is_some_and(|next| has_same_rows(&next.view, new, resolved)) {
        return Course::GoesOn;
    }
    if let Some(back) = view.older.iter().rev().find(|older| has_all(older, resolved) && fits(older)) {
        return Course::Back { id: back.id };
    }
    let mut refuse = |message: String| {
        let (path, fact) = (format!("{path}.features"), "features".to_owned());
        wrong.push(Incompatible { path, message, fact, class: Class::Refused, is_refused: true });
        Course::Refused
    };
    if !view.offline() {
        return refuse("a new version can't be built: the view keeps no history (offline: false)".to_owned());
    }
    if view.older.len() >= MAX_KEPT_VERSIONS {
        let (count, name, oldest) = (view.older.len(), &view.stored.definition.metadata.name, view.older[0].version);
        return refuse(format!(
            "a new version can't be built: {count} versions are kept besides the one that is served, which is the most; \
             delete one that nothing reads (`hydrant delete view {name}@{oldest}`)"
        ));
    }
    if view.refilling.is_some() {
        return refuse("a new version can't be built before the raised ttl is in effect: apply it then".to_owned());
    }
    let built = view.older.iter().chain([view]).map(|from| (built_from(from, resolved), from.id));
    // Of those that have as many, the one that is served.
    let best = built.filter_map(|(row, id)| row.map(|(row, count)| (count, row, id)));
    match best.max_by_key(|(count, ..)| *count) {
        Some((count, row, from)) if count > 0 => Course::Beside { row, from },
        Some(_) => refuse("a new version can't be built: history has none of its columns".to_owned()),
        None => {
            refuse("a new version can't be built: values in history don't become another type without loss".to_owned())
        }
    }
}

/// Whether a definition leaves a version's rows as they are, and for how long they count.
fn has_same_rows(version: &ViewState, new: &FeatureViewSpec, resolved: &ResolvedView) -> bool {
    let spec = version.spec();
    let same = (&spec.entities, &spec.source, spec.ttl, spec.online, spec.offline)
        == (&new.entities, &new.source, new.ttl, new.online, new.offline);
    same && version.row.len() == resolved.features.len() && has_all(version, resolved)
}

/// Whether all features of a definition are in a version's rows.
fn has_all(version: &ViewState, resolved: &ResolvedView) -> bool {
    resolved.features.iter().all(|feature| {
        let is_it = |row: &RowFeature| {
            row.name == feature.name && row.data_type == feature.data_type && row.column == feature.column
        };
        version.row.iter().any(is_it)
    })
}

/// The features of a new version in the order of its rows, and how many of them a version's history has:
/// they come first, in the order of its rows, so that a row that knew the first few of those knows the first
/// few of these. `None`: history has a column whose values would lose something.
fn built_from(from: &ViewState, resolved: &ResolvedView) -> Option<(Vec<RowFeature>, usize)> {
    let old: Vec<Taken<'_>> = from.row.iter().map(|row| (&row.name, &row.column, row.data_type)).collect();
    let features = resolved.features.iter();
    let new: Vec<Taken<'_>> = features.map(|feature| (&feature.name, &feature.column, feature.data_type)).collect();
    let origins = origins(&old, &new);
    let is_lost = |(_, column, _): &Taken<'_>| old.iter().any(|(_, known, _)| known == column);
    if origins.iter().zip(&new).any(|(origin, new)| origin.is_none() && is_lost(new)) {
        return None;
    }
    let mut places: Vec<(usize, usize)> =
        origins.iter().enumerate().map(|(place, origin)| (origin.unwrap_or(usize::MAX), place)).collect();
    places.sort_unstable();
    let row = places.iter().map(|(_, place)| {
        let feature = &resolved.features[*place];
        RowFeature { name: feature.name.clone(), data_type: feature.data_type, column: feature.column.clone() }
    });
    Some((row.collect(), origins.iter().flatten().count()))
}

/// A feature: its name, the column of the source that it is taken from, and its type.
pub(super) type Taken<'a> = (&'a Name, &'a Name, DataType);

/// For each new feature the old one of the same column, if that may be of the same name, whose values become
/// its own without loss.
pub(super) fn origins(old: &[Taken<'_>], new: &[Taken<'_>]) -> Vec<Option<usize>> {
    // Whether a list is a vector only its values tell.
    let becomes = |from: DataType, to: DataType| from == to || (feeds(from, to) && !matches!(to, DataType::Vector(_)));
    let origin = |(name, column, data_type): &Taken<'_>| {
        let fits = |(_, known, from): &Taken<'_>| known == column && becomes(*from, *data_type);
        let same_name = old.iter().position(|known| known.0 == *name && fits(known));
        same_name.or_else(|| old.iter().position(fits))
    };
    new.iter().map(origin).collect()
}

impl ViewState {
    fn offline(&self) -> bool {
        self.spec().offline
    }

    /// With a version that is to be built beside it.
    pub(super) fn beside(self, stored: Stored, id: ViewId, row: Vec<RowFeature>, since: u64, from: ViewId) -> Self {
        let version = self.highest() + 1;
        let next = Next { view: Self::new(stored, id, version, row), since, from };
        Self { next: Some(Box::new(next)), highest: version, ..self }
    }

    /// With one of its older versions in its place, which is kept among them. What is being built is given up.
    pub(super) fn back_to(self, id: ViewId) -> Self {
        let highest = self.highest();
        let Some(place) = self.older.iter().position(|older| older.id == id) else { return self };
        let mut older = self.older;
        let chosen = older.remove(place);
        older.push(Self { next: None, older: Vec::new(), ..self });
        older.sort_by_key(|view| view.version);
        Self { older, highest, ..chosen }
    }

    /// With the version that was built in its place, and itself kept; `None`: it isn't this one that is built.
    fn switched(&self, id: ViewId, since: u64) -> Option<Self> {
        let next = self.next.as_ref().filter(|next| next.view.id == id && next.since == since)?;
        let mut older = self.older.clone();
        older.push(Self { next: None, older: Vec::new(), ..self.clone() });
        older.sort_by_key(|view| view.version);
        Some(Self { older, highest: self.highest(), ..next.view.clone() })
    }
}

/// The state in which a version that was built is served; `None`: it isn't to be built any more.
pub(super) fn switched(state: &State, tenant: &Name, id: ViewId, since: u64) -> Option<State> {
    let mut next = state.clone();
    let views = &mut next.tenants.get_mut(tenant)?.views;
    let (name, switched) = views.iter().find_map(|(name, view)| Some((name.clone(), view.switched(id, since)?)))?;
    views.insert(name, switched);
    next.revision += 1;
    Some(next)
}

/// The features, as `view:feature`, that consumers use and that a view would have no more, or has not yet.
pub(super) fn missing_to_consumers(tenant: &TenantState) -> Vec<(Name, String)> {
    let mut missing = Vec::new();
    for (consumer, stored) in &tenant.consumers {
        let super::definition::Spec::Consumer(spec) = &stored.definition.spec else { continue };
        for used in &spec.features {
            let Some(view) = tenant.views.get(&used.view) else { continue };
            let has = |version: &ViewState| version.spec().features.iter().any(|feature| feature.name == used.feature);
            if !has(view) || !has(view.newest()) {
                missing.push((
                    used.view.clone(),
                    format!("{used}, which Consumer/{consumer} ({}) uses", stored.definition.metadata.owner),
                ));
            }
        }
    }
    missing
}
