//! Who may do what, how much, and when: the one place that turns a caller into a [`Permit`]. Use
//! cases demand a permit and take the tenant from it, from nowhere else; nothing outside this module
//! can make one.
//!
//! A request is asked, in this order: whether its caller still waits; whether its tenant's rates and
//! its number of concurrent requests allow it; and then it takes its turn among all tenants.

mod account;
pub mod admission;
mod backpressure;
mod charges;
mod gate;
pub mod grants;
pub mod identity;
pub mod metrics;
mod pulses;
pub mod quota;
pub mod rate;
mod reach;
mod rules;
mod settings;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use hydrant_storage::names::Name;

use crate::clock::{SystemTicker, Ticker};
use crate::error::{Code, Error, Result};
pub use account::{Account, Held};
pub use admission::Class;
pub use backpressure::Backpressure;
pub use charges::DefinitionLimits;
pub use grants::{Action, Role, Roles};
pub use identity::{
    ASK_FOR_KEY, ASK_FOR_TOKEN, Authenticates, CHECK_INTERVAL, Credential, Identity, LoopbackOnly, Subject,
};
pub use quota::{Limits, Measure, Quota, Usage};
pub use reach::{OUT_OF_REACH, Reach};
pub use settings::AdmissionSettings;

use self::admission::{Asked, Refused};
use self::gate::{Gate, Place};
use self::metrics::{Reason, Waits};

/// The tenant that exists from the first start on.
pub const DEFAULT_TENANT: &str = "default";

/// The reason of a refusal where more comes in than can be done.
pub const OVERLOADED: &str = "OVERLOADED";

/// The gate before every use case.
#[derive(Debug)]
pub struct Tenancy {
    gate: Gate,
    default: Arc<Account>,
    /// Of every tenant; there are as many as the registry has made.
    accounts: DashMap<Name, Arc<Account>>,
    /// Of API keys that have limits of their own, by the name of their identity; there are as many as were
    /// given some.
    keys: ArcSwap<HashMap<String, Arc<Account>>>,
}

/// What a request will take.
#[derive(Clone, Copy, Debug, Default)]
pub struct Demand {
    /// Work, in any unit that all requests of its class share; tenants share by it.
    pub cost: u64,
    /// Bytes that the request holds while it waits.
    pub bytes: usize,
    /// Afterwards nobody waits for the answer.
    pub useful_until: Option<Instant>,
}

/// Leave to do one thing as one tenant, for as long as it is held. A clone is the same leave: what it
/// holds of the quota, and its place among the requests worked on, are given back when the last one
/// is dropped.
#[derive(Clone, Debug)]
pub struct Permit {
    identity: Identity,
    action: Action,
    leave: Arc<Leave>,
}

/// Leave to wait for a disk, until it is dropped.
#[derive(Debug)]
pub struct DiskTurn {
    _place: Option<Place>,
}

#[derive(Debug)]
struct Leave {
    account: Arc<Account>,
    /// One of the tenant's requests.
    is_charged: bool,
    /// One of the tenant's training sets.
    is_training: bool,
    place: Option<Place>,
}

impl Tenancy {
    /// One tenant, `default`, under `limits`.
    pub fn new(limits: Limits) -> Self {
        Self::with(limits, &AdmissionSettings::default(), Arc::new(SystemTicker))
    }

    pub fn with(limits: Limits, settings: &AdmissionSettings, ticker: Arc<dyn Ticker>) -> Self {
        let tenant: Name = DEFAULT_TENANT.parse().expect("the default tenant's name is valid");
        let gate = Gate::new(settings.rules(), ticker.clone());
        let index = gate.add_tenant(limits.share());
        let default = Arc::new(Account::new(tenant.clone(), index, limits, ticker));
        let accounts = DashMap::from_iter([(tenant, default.clone())]);
        Self { gate, default, accounts, keys: ArcSwap::default() }
    }

    /// Lets `identity` do `action` at once, in no place: for what is short and rare, and in tests.
    /// PERMISSION_DENIED without a grant, RESOURCE_EXHAUSTED where the tenant's quota is used up.
    pub fn authorize(&self, identity: &Identity, action: Action) -> Result<Permit> {
        grants::check(identity, action)?;
        let account = self.account_of(identity);
        let is_charged = action.is_charged();
        if is_charged {
            let now = self.gate.now();
            account.take(Quota::RequestsPerSecond, 1, now)?;
            account.hold(false, now)?;
        }
        Ok(Permit::new(identity, action, Leave { account, is_charged, is_training: false, place: None }))
    }

    /// Lets `identity` do `action` when it is its turn. Refusals as of [`Self::authorize`], and
    /// DEADLINE_EXCEEDED where the deadline has passed, RESOURCE_EXHAUSTED (with when to try again) where
    /// more comes in than can be done, or than can be done by the deadline. What is refused was not charged
    /// to a rate.
    pub async fn admit(&self, identity: &Identity, action: Action, demand: Demand) -> Result<Permit> {
        let Some(class) = action.class() else { return self.authorize(identity, action) };
        grants::check(identity, action)?;
        let account = self.account_of(identity);
        let permit = self.admit_to(account, identity, action, class, demand).await;
        let (reason, account) = match permit {
            Ok(permit) => {
                permit.account().counts().admit(class);
                return Ok(permit);
            }
            Err(refused) => refused,
        };
        let (reason, error) = match reason {
            Turned::Quota(error) => (Reason::Quota, error),
            Turned::Away(Refused::Late) => (Reason::Deadline, too_late()),
            Turned::Away(Refused::Overloaded) => (Reason::Overloaded, overloaded(action, class)),
        };
        account.counts().refuse(class, reason);
        Err(error)
    }

    async fn admit_to(
        &self,
        account: Arc<Account>,
        identity: &Identity,
        action: Action,
        class: Class,
        demand: Demand,
    ) -> Result<Permit, (Turned, Arc<Account>)> {
        let now = self.gate.now();
        if demand.useful_until.is_some_and(|end| end <= now) {
            return Err((Turned::Away(Refused::Late), account));
        }
        if let Err(error) = account.take(Quota::RequestsPerSecond, 1, now) {
            return Err((Turned::Quota(error), account));
        }
        let asked = Asked { cost: demand.cost, bytes: demand.bytes, useful_until: demand.useful_until };
        let is_training = action == Action::ReadHistory;
        if let Err(error) = account.hold(is_training, now) {
            account.give_back(Quota::RequestsPerSecond, 1);
            return Err((Turned::Quota(error), account));
        }
        // What is held is given back with it, also where the caller goes away meanwhile.
        let mut leave = Leave { account, is_charged: true, is_training, place: None };
        match self.gate.enter(now, class, &leave.account, asked).await {
            Ok(place) => {
                leave.place = Some(place);
                Ok(Permit::new(identity, action, leave))
            }
            Err(refused) => {
                leave.account.give_back(Quota::RequestsPerSecond, 1);
                Err((Turned::Away(refused), leave.account.clone()))
            }
        }
    }

    /// Makes `limits` those of a tenant, from its next request on.
    pub fn set_limits(&self, tenant: &Name, limits: Limits) {
        let account = self.accounts.entry(tenant.clone()).or_insert_with(|| {
            let index = self.gate.add_tenant(limits.share());
            Arc::new(Account::new(tenant.clone(), index, Limits::default(), self.gate.ticker()))
        });
        self.gate.set_weight(account.index, limits.share());
        account.set_limits(limits);
    }

    /// Makes `limits` those of one key of a tenant, beside its tenant's, from its next request on. One that
    /// never had any is not told apart from its tenant.
    pub fn set_key_limits(&self, tenant: &Name, key: &str, limits: Limits) {
        let identity = identity::name_of_key(key);
        if let Some(account) = self.keys.load().get(&identity).filter(|account| account.tenant() == tenant) {
            account.set_limits(limits);
            return;
        }
        if limits == Limits::default() {
            return;
        }
        let account = Arc::new(Account::nested(&self.account_of_tenant(tenant), key, limits));
        self.keys.rcu(|keys| {
            let mut keys = HashMap::clone(keys);
            keys.insert(identity.clone(), account.clone());
            keys
        });
    }

    /// Of one key, if it has limits of its own.
    pub fn key_account(&self, tenant: &Name, key: &str) -> Option<Arc<Account>> {
        let keys = self.keys.load();
        keys.get(&identity::name_of_key(key)).filter(|account| account.tenant() == tenant).cloned()
    }

    /// Of all keys that have limits of their own.
    pub fn key_accounts(&self) -> Vec<Arc<Account>> {
        self.keys.load().values().cloned().collect()
    }

    /// Every tenant that there is.
    pub fn accounts(&self) -> Vec<Arc<Account>> {
        let mut accounts: Vec<_> = self.accounts.iter().map(|account| account.value().clone()).collect();
        accounts.sort_by(|one, other| one.tenant().cmp(other.tenant()));
        accounts
    }

    /// A tenant's, if it has one.
    pub fn account(&self, tenant: &Name) -> Option<Arc<Account>> {
        self.accounts.get(tenant).map(|account| account.value().clone())
    }

    /// Of the online reads of an identity's tenant.
    pub fn backpressure(&self, identity: &Identity) -> Backpressure {
        Backpressure::new(self.gate.clone(), self.account_of(identity))
    }

    /// As rates and waits are measured.
    pub fn now(&self) -> Instant {
        self.gate.now()
    }

    /// What a tenant uses of its limited quotas.
    pub fn usage(&self, tenant: &Name) -> Vec<Usage> {
        self.accounts.get(tenant).map(|account| account.usage()).unwrap_or_default()
    }

    /// Requests of the class that have begun and not ended.
    pub fn in_flight(&self, class: Class) -> usize {
        self.gate.in_flight(class)
    }

    /// Requests of the class that are worked on.
    pub fn working(&self, class: Class) -> usize {
        self.gate.working(class)
    }

    /// Requests of the class that wait for their turn.
    pub fn waiting(&self, class: Class) -> usize {
        self.gate.waiting(class)
    }

    pub fn waits(&self) -> &Waits {
        self.gate.waits()
    }

    /// The identity's own where it has one, or else that of its tenant.
    fn account_of(&self, identity: &Identity) -> Arc<Account> {
        let own = self.keys.load().get(identity.name()).cloned();
        match own.filter(|account| account.tenant() == identity.tenant()) {
            Some(account) => account,
            None => self.account_of_tenant(identity.tenant()),
        }
    }

    /// Of a tenant that exists: whoever verified its caller has seen to that.
    fn account_of_tenant(&self, tenant: &Name) -> Arc<Account> {
        if tenant == self.default.tenant() {
            return self.default.clone();
        }
        if let Some(account) = self.accounts.get(tenant) {
            return account.value().clone();
        }
        let new = || {
            let limits = Limits::default();
            let index = self.gate.add_tenant(limits.share());
            Arc::new(Account::new(tenant.clone(), index, limits, self.gate.ticker()))
        };
        self.accounts.entry(tenant.clone()).or_insert_with(new).value().clone()
    }
}

impl Default for Tenancy {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

/// Why a request was not let in.
#[derive(Debug)]
enum Turned {
    Quota(Error),
    Away(Refused),
}

impl Drop for Leave {
    fn drop(&mut self) {
        if self.is_charged {
            self.account.let_go(self.is_training);
        }
    }
}

impl Permit {
    fn new(identity: &Identity, action: Action, leave: Leave) -> Self {
        Self { identity: identity.clone(), action, leave: Arc::new(leave) }
    }

    /// The tenant in whose name the caller acts.
    pub fn tenant(&self) -> &Name {
        self.account().tenant()
    }

    fn account(&self) -> &Account {
        &self.leave.account
    }

    fn shared_account(&self) -> &Arc<Account> {
        &self.leave.account
    }

    /// Whether the caller looks after the server and all its tenants.
    pub fn oversees_all(&self) -> bool {
        self.identity.may(Action::ManageTenants)
    }

    /// Whether the caller may know of a tenant: its own, or any for whoever looks after them.
    pub fn oversees(&self, tenant: &Name) -> bool {
        self.oversees_all() || tenant == self.tenant()
    }

    /// Whether the caller has the grant for what is personal (tagged pii); whoever has not gets it masked.
    pub fn may_see_pii(&self) -> bool {
        self.identity.roles().contains(Role::Pii)
    }

    /// Who is calling, for records of who changed what.
    pub fn caller(&self) -> &str {
        self.identity.name()
    }

    /// What was verified about the caller.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub fn action(&self) -> Action {
        self.action
    }

    /// Refuses (UNAUTHENTICATED) to go on where the caller's credential was revoked or has expired since:
    /// for work that takes long, asked before each of its steps.
    pub fn check_still(&self) -> Result<()> {
        self.identity.check_still()
    }

    /// As [`Self::check_still`], again and again while `work` is under way, which is dropped where it is
    /// refused.
    pub async fn while_known<F: Future>(&self, work: F) -> Result<F::Output> {
        self.identity.while_known(work).await
    }

    /// Refuses (PERMISSION_DENIED) a caller whose roles don't allow `action` either: for the few use cases
    /// that are open to two kinds of callers.
    pub fn require_identity(&self, action: Action) -> Result<()> {
        grants::check(&self.identity, action)
    }

    /// Refuses (PERMISSION_DENIED) a permit that was given for something else.
    pub fn require(&self, action: Action) -> Result<()> {
        if self.action == action {
            // Definitions as a whole are no limited caller's; single ones ask [`Self::require_definition`].
            return if action == Action::ReadDefinitions { self.check_unlimited(action.as_str()) } else { Ok(()) };
        }
        let message = format!("a permit to {} doesn't allow to {}", self.action.as_str(), action.as_str());
        Err(Error::new(Code::PermissionDenied, "PERMISSION_DENIED", message)
            .with("permitted", self.action.as_str())
            .with("wanted", action.as_str()))
    }

    /// A turn at the disk, to read so many rows that are not in memory; tenants share it by weight. To be held while
    /// they are read. It has no limit of time of its own: the caller puts its request's around it.
    pub async fn turn_at_disk(&self, rows: usize) -> Result<DiskTurn> {
        // Who was let in without a place waits for nobody.
        let Some(place) = &self.leave.place else { return Ok(DiskTurn { _place: None }) };
        let cost = u64::try_from(rows).unwrap_or(u64::MAX);
        let entered = place.enter(Class::Disk, self.account(), Asked { cost, bytes: 0, useful_until: None }).await;
        let place = entered.map_err(|_| overloaded(self.action, Class::Disk))?;
        self.account().counts().admit(Class::Disk);
        Ok(DiskTurn { _place: Some(place) })
    }

    /// Lets others have the thread for a moment, in the middle of [`Permit::run`]: the place is kept, since the work
    /// goes on, unless another tenant's request goes before the next of this one.
    pub async fn give_way(&self) {
        match &self.leave.place {
            Some(place) => place.give_way().await,
            None => tokio::task::yield_now().await,
        }
    }

    /// Runs `work`, and lets others have this request's place while it waits for something else than
    /// a processor. For work that takes no processor to speak of in its waits, such as a read whose
    /// rows are not in memory.
    pub async fn run<F: Future>(&self, work: F) -> F::Output {
        match &self.leave.place {
            Some(place) => place.run(work).await,
            None => work.await,
        }
    }
}

fn too_late() -> Error {
    Error::new(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", "the deadline passed before the request began")
}

fn overloaded(action: Action, class: Class) -> Error {
    let refusal = |reason, message: &str, retry_after| {
        Error::new(Code::ResourceExhausted, reason, message).retry_after(Duration::from_millis(retry_after))
    };
    match class {
        Class::Online => refusal(OVERLOADED, "more online reads come in than can be answered in time", 50),
        Class::Ingest => refusal(OVERLOADED, "more write requests come in than can be taken", 100),
        Class::Training if action == Action::ReadInBulk => {
            refusal(OVERLOADED, "more is asked for offline than may be done at a time", 1_000)
        }
        Class::Disk => refusal(OVERLOADED, "more rows are to be read from disk than can be in time", 50),
        Class::Training => refusal("TOO_MANY_JOINS", "as many training sets as may be are being made already", 1_000),
    }
}
