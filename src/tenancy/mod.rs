//! Who may do what, and how much: the one place that turns a caller into a [`Permit`]. Use cases
//! demand a permit and take the tenant from it, from nowhere else; nothing outside this module can
//! make one.

pub mod grants;
pub mod identity;
pub mod quota;

use std::sync::Arc;

use hydrant_storage::names::Name;

use crate::error::{Code, Error, Result};
pub use grants::Action;
pub use identity::Identity;
pub use quota::{Limits, Quota};

use self::quota::Admission;

/// The tenant that exists from the first start on.
pub const DEFAULT_TENANT: &str = "default";

/// The gate before every use case.
#[derive(Debug)]
pub struct Tenancy {
    tenant: Name,
    quota: Quota,
}

/// Leave to do one thing as one tenant, for as long as it is held. A clone is the same leave: the
/// caller's place within the quota is given back when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Permit {
    tenant: Name,
    caller: Arc<str>,
    action: Action,
    _admission: Arc<Admission>,
}

impl Tenancy {
    /// One tenant, `default`, under `limits`.
    pub fn new(limits: Limits) -> Self {
        let tenant = DEFAULT_TENANT.parse().expect("the default tenant's name is valid");
        Self { tenant, quota: Quota::new(limits) }
    }

    /// Lets `identity` do `action`, or says why not: PERMISSION_DENIED without a grant,
    /// RESOURCE_EXHAUSTED where the tenant's quota is used up.
    pub fn authorize(&self, identity: &Identity, action: Action) -> Result<Permit> {
        grants::check(identity, action)?;
        let admission = self.quota.admit(&self.tenant)?;
        Ok(Permit {
            tenant: self.tenant.clone(),
            caller: identity.name().into(),
            action,
            _admission: Arc::new(admission),
        })
    }
}

impl Default for Tenancy {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Permit {
    /// The tenant in whose name the caller acts.
    pub fn tenant(&self) -> &Name {
        &self.tenant
    }

    /// Who is calling, for records of who changed what.
    pub fn caller(&self) -> &str {
        &self.caller
    }

    pub fn action(&self) -> Action {
        self.action
    }

    /// Refuses (PERMISSION_DENIED) a permit that was given for something else.
    pub fn require(&self, action: Action) -> Result<()> {
        if self.action == action {
            return Ok(());
        }
        let message = format!("a permit to {} doesn't allow to {}", self.action.as_str(), action.as_str());
        Err(Error::new(Code::PermissionDenied, "PERMISSION_DENIED", message)
            .with("permitted", self.action.as_str())
            .with("wanted", action.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_caller_acts_as_the_default_tenant() {
        let permit = Tenancy::default().authorize(&Identity::loopback(), Action::Write).expect("it is granted");
        assert_eq!(permit.tenant().as_str(), DEFAULT_TENANT);
        assert_eq!(permit.caller(), "loopback");
        assert!(permit.require(Action::Write).is_ok());
    }

    #[test]
    fn a_permit_for_one_action_is_no_permit_for_another() {
        let permit = Tenancy::default().authorize(&Identity::loopback(), Action::ReadOnline).expect("it is granted");
        let refused = permit.require(Action::ChangeDefinitions).expect_err("it was given for reads");
        assert_eq!(refused.code, Code::PermissionDenied);
    }

    #[test]
    fn a_place_within_the_quota_is_held_until_the_last_clone_of_the_permit_is_gone() {
        let tenancy = Tenancy::new(Limits { requests_in_flight: Some(1) });
        let first = tenancy.authorize(&Identity::loopback(), Action::Write).expect("the quota is free");
        let clone = first.clone();
        drop(first);
        let refused = tenancy.authorize(&Identity::loopback(), Action::Write).expect_err("the quota is used up");
        assert_eq!(refused.code, Code::ResourceExhausted);
        assert!(refused.retry_after.is_some());
        drop(clone);
        assert!(tenancy.authorize(&Identity::loopback(), Action::Write).is_ok());
    }
}
