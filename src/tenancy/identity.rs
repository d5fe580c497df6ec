//! Who is calling. An identity is what the transport has verified about a caller, and never what a
//! request claims about itself: the tenant it acts for, its roles, and the views and services that it is
//! limited to, if it is. What its roles allow is said by [`grants`](super::grants).

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use hydrant_storage::names::Name;

use super::DEFAULT_TENANT;
use super::grants::{Action, Role, Roles};
use super::reach::Reach;
use crate::error::Result;

/// Who knows callers by what they show.
pub trait Authenticates: fmt::Debug + Send + Sync {
    /// Whose the credential is. UNAUTHENTICATED where it is missing or no good; which of the two is told,
    /// and nothing of the credential. Called for every request: it takes microseconds at most.
    fn authenticate(&self, token: Option<&str>) -> Result<Identity>;
}

/// Where no credential is asked for: every caller is the operator on this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoopbackOnly;

impl Authenticates for LoopbackOnly {
    fn authenticate(&self, _: Option<&str>) -> Result<Identity> {
        Ok(Identity::loopback())
    }
}

/// A verified caller. A clone is the same.
#[derive(Clone, Debug)]
pub struct Identity {
    known: Arc<Known>,
}

#[derive(Debug)]
struct Known {
    name: Arc<str>,
    tenant: Name,
    roles: Roles,
    reach: Option<Reach>,
    /// Its credential was revoked: whatever of it is under way is let do nothing further.
    revoked: AtomicBool,
}

impl Identity {
    /// A caller that shows a credential. `name` is written into records of who changed what.
    pub fn new(name: &str, tenant: Name, roles: Roles, reach: Option<Reach>) -> Self {
        let known = Known { name: name.into(), tenant, roles, reach, revoked: AtomicBool::new(false) };
        Self { known: Arc::new(known) }
    }

    /// A caller on this machine's loopback interface where no credential is asked for: the operator.
    pub fn loopback() -> Self {
        static LOOPBACK: LazyLock<Identity> =
            LazyLock::new(|| Identity::new("loopback", default_tenant(), Role::ALL.into_iter().collect(), None));
        LOOPBACK.clone()
    }

    /// Whether nobody asked who it is: the operator, on this machine.
    pub fn is_loopback(&self) -> bool {
        Arc::ptr_eq(&self.known, &Self::loopback().known)
    }

    /// A caller of what is everybody's. Nothing is granted to it.
    pub fn nobody() -> Self {
        static NOBODY: LazyLock<Identity> =
            LazyLock::new(|| Identity::new("nobody", default_tenant(), Roles::default(), None));
        NOBODY.clone()
    }

    /// As written into records of who changed what.
    pub fn name(&self) -> &str {
        &self.known.name
    }

    /// In whose name it acts.
    pub fn tenant(&self) -> &Name {
        &self.known.tenant
    }

    pub fn roles(&self) -> Roles {
        self.known.roles
    }

    /// The views and services that it is limited to; `None`: all of its tenant.
    pub fn reach(&self) -> Option<&Reach> {
        self.known.reach.as_ref()
    }

    /// Whether any of its roles allows it.
    pub fn may(&self, action: Action) -> bool {
        self.known.roles.allow(action)
    }

    /// Holds at once for every clone, in requests and streams that are under way too.
    pub fn revoke(&self) {
        self.known.revoked.store(true, Ordering::Release);
    }

    pub(super) fn is_revoked(&self) -> bool {
        self.known.revoked.load(Ordering::Acquire)
    }
}

/// How an API key is called as an identity.
pub fn name_of_key(id: &str) -> String {
    format!("key/{id}")
}

fn default_tenant() -> Name {
    DEFAULT_TENANT.parse().expect("the default tenant's name is valid")
}
