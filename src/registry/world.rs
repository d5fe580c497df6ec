//! What definitions refer to while they are checked: what is defined already, what a request adds,
//! and what was written beside it but couldn't be read.

use std::collections::{BTreeMap, BTreeSet};

use hydrant_storage::names::Name;

use super::definition::{Definition, EntitySpec, FeatureViewSpec, Kind, SourceSpec, Spec};
use super::state::TenantState;

/// Definitions that stand beside those of a request and couldn't be read, in whole or in part. What
/// refers to them is neither right nor wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unread(BTreeSet<(Option<Kind>, Option<Name>)>);

/// What is defined once a request is applied.
pub(super) struct World<'a> {
    pub unread: &'a Unread,
    entities: BTreeMap<&'a Name, &'a EntitySpec>,
    sources: BTreeMap<&'a Name, &'a SourceSpec>,
    views: BTreeMap<&'a Name, &'a FeatureViewSpec>,
}

/// What stands under a name that a definition refers to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Referred<'a, T> {
    Read(&'a T),
    Unread,
    Absent,
}

impl Unread {
    /// One more; `None` is a kind or a name that isn't known.
    pub fn insert(&mut self, kind: Option<Kind>, name: Option<Name>) {
        self.0.insert((kind, name));
    }

    pub fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (Option<Kind>, Option<&Name>)> {
        self.0.iter().map(|(kind, name)| (*kind, name.as_ref()))
    }

    /// Whether it may be one of them.
    pub fn covers(&self, kind: Kind, name: &Name) -> bool {
        !self.0.is_empty()
            && [(None, None), (Some(kind), None), (None, Some(name.clone())), (Some(kind), Some(name.clone()))]
                .iter()
                .any(|one| self.0.contains(one))
    }
}

impl<'a> World<'a> {
    pub fn new(state: &'a TenantState, definitions: &'a [Definition], unread: &'a Unread) -> Self {
        let (entities, sources, views) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut world = Self { unread, entities, sources, views };
        // What the request says replaces what is there.
        for definition in state.definitions().chain(definitions) {
            let name = definition.name();
            match &definition.spec {
                Spec::Entity(spec) => drop(world.entities.insert(name, spec)),
                Spec::Source(spec) => drop(world.sources.insert(name, spec)),
                Spec::FeatureView(spec) => drop(world.views.insert(name, spec)),
                Spec::Tenant(_) | Spec::FeatureService(_) | Spec::Consumer(_) => {}
            }
        }
        world
    }

    pub fn entity(&self, name: &Name) -> Referred<'a, EntitySpec> {
        self.find(Kind::Entity, name, &self.entities)
    }

    pub fn source(&self, name: &Name) -> Referred<'a, SourceSpec> {
        self.find(Kind::Source, name, &self.sources)
    }

    pub fn view(&self, name: &Name) -> Referred<'a, FeatureViewSpec> {
        self.find(Kind::FeatureView, name, &self.views)
    }

    fn find<T>(&self, kind: Kind, name: &Name, among: &BTreeMap<&'a Name, &'a T>) -> Referred<'a, T> {
        if self.unread.covers(kind, name) {
            return Referred::Unread;
        }
        among.get(name).map_or(Referred::Absent, |spec| Referred::Read(spec))
    }
}

impl<'a, T> Referred<'a, T> {
    pub fn read(self) -> Option<&'a T> {
        match self {
            Self::Read(spec) => Some(spec),
            Self::Unread | Self::Absent => None,
        }
    }
}
