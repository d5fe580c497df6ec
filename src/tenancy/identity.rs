//! Who is calling. An identity is what the transport has verified about a caller, and never what a
//! request claims about itself: the tenant it acts for, its roles, and the views and services that it is
//! limited to, if it is. What its roles allow is said by [`grants`](super::grants).

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures::future::BoxFuture;
use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;

use super::DEFAULT_TENANT;
use super::grants::{Action, Role, Roles};
use super::reach::Reach;
use crate::clock::StoreTime;
use crate::error::{Code, Error, Result};

/// Who knows callers by what they show.
pub trait Authenticates: fmt::Debug + Send + Sync {
    /// Whose the credential is. UNAUTHENTICATED where it is missing or no good; which of the two is told,
    /// and nothing of the credential. Called for every request: it takes microseconds at most.
    fn authenticate(&self, token: Option<&str>) -> Result<Identity>;

    /// What has to be waited for before [`Self::authenticate`] can know the credential: hardly ever
    /// anything, and never longer than some seconds.
    fn awaits(&self, token: Option<&str>) -> Option<BoxFuture<'static, ()>> {
        let _ = token;
        None
    }
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
    credential: Credential,
}

/// What a caller was known by, and for how long it holds.
#[derive(Debug, Default)]
pub struct Credential {
    /// It was revoked, or the key that vouched for it was withdrawn: whatever of it is under way is let do
    /// nothing further.
    pub withdrawn: Arc<AtomicBool>,
    /// From this instant on it holds no more.
    pub until: Option<(Arc<StoreTime>, Micros)>,
    /// Of a token.
    pub subject: Option<Subject>,
}

/// Whom a token is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub issuer: String,
    pub subject: String,
}

impl Identity {
    /// A caller that shows a credential. `name` is written into records of who changed what.
    pub fn new(name: &str, tenant: Name, roles: Roles, reach: Option<Reach>) -> Self {
        Self::by(name, tenant, roles, reach, Credential::default())
    }

    /// As [`Self::new`], by a credential that may stop to hold.
    pub fn by(name: &str, tenant: Name, roles: Roles, reach: Option<Reach>, credential: Credential) -> Self {
        Self { known: Arc::new(Known { name: name.into(), tenant, roles, reach, credential }) }
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

    /// Whom the token is about, where it was one.
    pub fn subject(&self) -> Option<&Subject> {
        self.known.credential.subject.as_ref()
    }

    /// From when on its credential holds no more, where that is known.
    pub fn until(&self) -> Option<Micros> {
        self.known.credential.until.as_ref().map(|(_, until)| *until)
    }

    /// Holds at once for every clone, in requests and streams that are under way too.
    pub fn revoke(&self) {
        self.known.credential.withdrawn.store(true, Ordering::Release);
    }

    /// Refuses (UNAUTHENTICATED) a caller whose credential was good and is no more.
    pub fn check_still(&self) -> Result<()> {
        let Credential { withdrawn, until, subject } = &self.known.credential;
        let gone = |reason, how: &str| {
            let error = Error::new(Code::Unauthenticated, reason, format!("'{}' {how}", self.name()));
            Err(error.hint(if subject.is_some() { ASK_FOR_TOKEN } else { ASK_FOR_KEY }))
        };
        let is_token = subject.is_some();
        if withdrawn.load(Ordering::Acquire) {
            return match is_token {
                true => gone("TOKEN_KEY_UNKNOWN", "shows a token signed with a key that its issuer has withdrawn"),
                false => gone("KEY_REVOKED", "was revoked"),
            };
        }
        match until {
            Some((time, until)) if *until <= time.read() => {
                gone(if is_token { "TOKEN_EXPIRED" } else { "KEY_EXPIRED" }, "has expired")
            }
            _ => Ok(()),
        }
    }

    /// Does what takes long for as long as the caller's credential holds. From then on it is dropped, within
    /// [`CHECK_INTERVAL`], and the caller refused (UNAUTHENTICATED).
    pub async fn while_known<F: Future>(&self, work: F) -> Result<F::Output> {
        let mut work = std::pin::pin!(work);
        loop {
            self.check_still()?;
            if let Ok(done) = tokio::time::timeout(CHECK_INTERVAL, work.as_mut()).await {
                return Ok(done);
            }
        }
    }
}

/// How often it is asked of work under way whether the credential still holds by which it was let in.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The way out of a key that is no good any more.
pub const ASK_FOR_KEY: &str = "an admin of the tenant can give another key (hydrant key create)";
/// The way out of a token that is no good any more.
pub const ASK_FOR_TOKEN: &str = "get another token from its issuer";

/// How an API key is called as an identity.
pub fn name_of_key(id: &str) -> String {
    format!("key/{id}")
}

fn default_tenant() -> Name {
    DEFAULT_TENANT.parse().expect("the default tenant's name is valid")
}
