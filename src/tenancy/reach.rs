//! What a caller's credential is limited to. A limited caller is refused whatever touches anything else,
//! by what the request names and before it is looked up: so the refusal tells nothing of what there is.

use std::collections::BTreeSet;

use hydrant_storage::names::{Name, SharedName};

use super::{Action, Permit};
use crate::error::{Code, Error, Result};

/// The reason of every refusal by what a caller's credential is limited to.
pub const OUT_OF_REACH: &str = "OUT_OF_REACH";

/// Views and services by name. A service may be read as a whole, whatever views it is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    pub views: BTreeSet<Name>,
    pub services: BTreeSet<Name>,
    /// Of other tenants, where they share them.
    pub shared_views: BTreeSet<SharedName>,
    pub shared_services: BTreeSet<SharedName>,
}

impl Reach {
    /// Adds what another one reaches.
    pub fn extend(&mut self, other: &Self) {
        self.views.extend(other.views.iter().cloned());
        self.services.extend(other.services.iter().cloned());
        self.shared_views.extend(other.shared_views.iter().cloned());
        self.shared_services.extend(other.shared_services.iter().cloned());
    }

    /// Whether the other reaches all that this one does.
    pub fn is_within(&self, other: &Self) -> bool {
        self.views.is_subset(&other.views)
            && self.services.is_subset(&other.services)
            && self.shared_views.is_subset(&other.shared_views)
            && self.shared_services.is_subset(&other.shared_services)
    }
}

impl Permit {
    /// Refuses (PERMISSION_DENIED) features of views, and services, that the caller is not given. Services
    /// are `NAME` or `NAME@N`, features `VIEW:FEATURE`; of another tenant with `OWNER/` before them.
    pub fn check_reads(&self, services: &[String], features: &[String]) -> Result<()> {
        let Some(reach) = self.identity().reach() else { return Ok(()) };
        for service in services {
            let name = service.split_once('@').map_or(service.as_str(), |(name, _)| name);
            if !reach.services.contains(name) && !reach.shared_services.contains(name) {
                return Err(self.outside("service", name));
            }
        }
        for feature in features {
            let view = feature.split_once(':').map_or(feature.as_str(), |(view, _)| view);
            if !reach.views.contains(view) && !reach.shared_views.contains(view) {
                return Err(self.outside("view", view));
            }
        }
        Ok(())
    }

    /// Refuses (PERMISSION_DENIED) a view that the caller is not given.
    pub fn check_view(&self, view: &str) -> Result<()> {
        match self.identity().reach() {
            Some(reach) if !reach.views.contains(view) => Err(self.outside("view", view)),
            _ => Ok(()),
        }
    }

    /// Refuses (PERMISSION_DENIED) a permit that was not given to read definitions, and a definition that
    /// the caller is not given.
    pub fn require_definition(
        &self,
        kind: &'static str,
        name: &Name,
        is_given: impl FnOnce(&Reach) -> bool,
    ) -> Result<()> {
        let Some(reach) = self.identity().reach() else { return self.require(Action::ReadDefinitions) };
        if is_given(reach) && self.action() == Action::ReadDefinitions {
            return Ok(());
        }
        Err(self.outside(kind, name.as_str()))
    }

    /// Refuses (PERMISSION_DENIED) a source whose rows go to views that the caller is not given, or to
    /// none. `None`: there is no such source.
    pub fn check_source<'a>(&self, source: &str, views: Option<impl IntoIterator<Item = &'a Name>>) -> Result<()> {
        let Some(reach) = self.identity().reach() else { return Ok(()) };
        let mut views = views.into_iter().flatten().peekable();
        if views.peek().is_none() || views.any(|view| !reach.views.contains(view)) {
            return Err(self.outside("source", source));
        }
        Ok(())
    }

    /// Refuses (PERMISSION_DENIED) a caller who is limited at all: what is asked for is the whole tenant's.
    pub fn check_unlimited(&self, what: &str) -> Result<()> {
        match self.identity().reach() {
            Some(_) => {
                let message = format!("'{}' is limited to named views and services, and may not {what}", self.caller());
                Err(denied(message))
            }
            None => Ok(()),
        }
    }

    /// The same for what there is and what there isn't.
    pub fn outside(&self, kind: &'static str, name: &str) -> Error {
        let name: String = name.chars().take(80).collect();
        let message = format!("'{}' is limited to other views and services than {kind} '{name}'", self.caller());
        denied(message).with("kind", kind).with("name", name)
    }
}

fn denied(message: String) -> Error {
    Error::new(Code::PermissionDenied, OUT_OF_REACH, message)
        .hint("`hydrant whoami` tells what the key is limited to; an admin of the tenant can give another (hydrant key create)")
}
