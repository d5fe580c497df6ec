//! What is kept of quotas: limits as they were set, and raises with their ends. A value; changes make a
//! new one. Which limit holds at an instant follows from it alone.

use std::collections::BTreeMap;
use std::time::Duration;

use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;
use serde::{Deserialize, Serialize};

use crate::error::{Code, Error, Result};
use crate::tenancy::{Limits, Quota};

/// The version of the persisted form.
const FORMAT: u32 = 1;

/// A raise is for a live event, and not for ever.
pub const LONGEST_RAISE: Duration = Duration::from_hours(30 * 24);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    format: u32,
    pub tenants: BTreeMap<Name, TenantState>,
}

/// Keys of one tenant that have, or had, quotas of their own.
pub const MAX_KEYS: usize = 1_000;

/// A tenant's, or a key's. It stays when nothing is limited any more, so that its revision goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TenantState {
    pub limits: Limits,
    #[serde(default)]
    raises: BTreeMap<Quota, Raised>,
    /// Of a tenant: those of its keys, by their ids.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<String, TenantState>,
    /// Counts the changes, from 1.
    revision: u64,
    updated: Micros,
    updated_by: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raised {
    limit: u64,
    /// It doesn't hold at this instant any more.
    until: Micros,
}

/// A change of what is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    pub set: Vec<(Quota, u64)>,
    pub unset: Vec<Quota>,
    pub weight: Option<u32>,
}

/// Limits that are to hold for a while; and raises that are to end now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Raise {
    pub limits: Vec<(Quota, u64)>,
    pub lasts: Duration,
    pub end: Vec<Quota>,
}

impl State {
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let state: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if state.format != FORMAT {
            return Err(format!("it has format {}, and this version of Hydrant reads {FORMAT}", state.format));
        }
        Ok(state)
    }

    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("quotas have names and numbers only")
    }
}

impl Default for State {
    fn default() -> Self {
        Self { format: FORMAT, tenants: BTreeMap::new() }
    }
}

impl TenantState {
    pub fn etag(&self) -> String {
        self.revision.to_string()
    }

    pub fn updated(&self) -> Option<(Micros, String)> {
        (self.revision > 0).then(|| (self.updated, self.updated_by.clone()))
    }

    pub fn note_change(&mut self, at: Micros, by: String) {
        self.revision += 1;
        (self.updated, self.updated_by) = (at, by);
    }

    /// The limits that hold. A raise never lowers one, and limits nothing by itself.
    pub fn effective(&self, now: Micros) -> Limits {
        let raised = self.limits.all().filter_map(|(quota, limit)| {
            let raise = self.raises.get(&quota).filter(|raise| raise.until > now)?;
            (raise.limit > limit).then_some((quota, raise.limit))
        });
        raised.fold(self.limits.clone(), |limits, (quota, limit)| limits.with(quota, limit))
    }

    /// Until when a quota is higher than it was set.
    pub fn raised_until(&self, quota: Quota, now: Micros) -> Option<Micros> {
        let raise = self.raises.get(&quota).filter(|raise| raise.until > now)?;
        self.limits.of(quota).filter(|limit| raise.limit > *limit).map(|_| raise.until)
    }

    /// A key's, which is made where there is none. RESOURCE_EXHAUSTED where as many keys as may be are
    /// limited.
    pub fn of_key(&mut self, key: &str) -> Result<&mut Self> {
        if self.keys.len() >= MAX_KEYS && !self.keys.contains_key(key) {
            self.keys.retain(|_, of_key| of_key.limits != Limits::default());
        }
        if self.keys.len() >= MAX_KEYS && !self.keys.contains_key(key) {
            let message = format!("{MAX_KEYS} keys of the tenant have quotas of their own, as many as may be");
            return Err(Error::new(Code::ResourceExhausted, "TOO_MANY_KEY_QUOTAS", message)
                .hint("unset those of keys that are gone (`hydrant quota get TENANT --keys` lists them)"));
        }
        Ok(self.keys.entry(key.to_owned()).or_default())
    }

    pub fn forget_ended(&mut self, now: Micros) {
        self.raises.retain(|_, raise| raise.until > now);
    }
}

impl Change {
    /// Refuses (INVALID_ARGUMENT) what only a whole tenant has.
    pub fn check_of_key(&self) -> Result<()> {
        if self.weight.is_some() {
            return Err(bad("a weight is a tenant's: its keys take their turns as one"));
        }
        check_of_key(self.set.iter().map(|(quota, _)| *quota).chain(self.unset.iter().copied()))
    }

    pub fn apply(self, state: &mut TenantState) -> Result<()> {
        let Self { set, unset, weight } = self;
        if set.is_empty() && unset.is_empty() && weight.is_none() {
            return Err(bad("nothing is to be changed: no quota is set or unset, and no weight given"));
        }
        no_quota_twice(set.iter().map(|(quota, _)| *quota).chain(unset.iter().copied()))?;
        for (quota, limit) in set {
            quota.check_limit(limit)?;
            state.limits = state.limits.clone().with(quota, limit);
        }
        for quota in unset {
            state.limits = state.limits.clone().without(quota);
            state.raises.remove(&quota);
        }
        if let Some(weight) = weight {
            if !(1..=Limits::MAX_WEIGHT).contains(&weight) {
                return Err(bad(format!("a weight is from 1 to {}, not {weight}", Limits::MAX_WEIGHT)));
            }
            state.limits = state.limits.clone().weight(weight);
        }
        Ok(())
    }
}

impl Raise {
    /// Refuses (INVALID_ARGUMENT) what only a whole tenant has.
    pub fn check_of_key(&self) -> Result<()> {
        check_of_key(self.limits.iter().map(|(quota, _)| *quota).chain(self.end.iter().copied()))
    }

    pub fn apply(self, state: &mut TenantState, now: Micros) -> Result<()> {
        let Self { limits, lasts, end } = self;
        if limits.is_empty() && end.is_empty() {
            return Err(bad("no quota is to be raised"));
        }
        no_quota_twice(limits.iter().map(|(quota, _)| *quota).chain(end.iter().copied()))?;
        if !limits.is_empty() && !(Duration::from_secs(1)..=LONGEST_RAISE).contains(&lasts) {
            return Err(bad("a raise lasts from one second to 30 days")
                .hint("for longer than that set the quota (`hydrant quota set`)"));
        }
        let until = now.saturating_add(Micros::try_from(lasts.as_micros()).unwrap_or(Micros::MAX));
        for (quota, limit) in limits {
            quota.check_limit(limit)?;
            let Some(set) = state.limits.of(quota) else {
                let message = format!("quota '{quota}' has no limit that could be raised");
                return Err(Error::new(Code::FailedPrecondition, "QUOTA_NOT_SET", message)
                    .with("quota", quota)
                    .hint("nothing has to be done: without a limit all of it may be used"));
            };
            if limit <= set {
                let message = format!("quota '{quota}' is {set}, and {limit} would not raise it");
                return Err(bad(message)
                    .with("quota", quota)
                    .with("limit", set)
                    .hint("to lower a quota set it (`hydrant quota set`)"));
            }
            state.raises.insert(quota, Raised { limit, until });
        }
        for quota in end {
            state.raises.remove(&quota);
        }
        Ok(())
    }
}

fn check_of_key(mut quotas: impl Iterator<Item = Quota>) -> Result<()> {
    let Some(quota) = quotas.find(|quota| !quota.is_of_keys()) else { return Ok(()) };
    let message = format!("quota '{quota}' is of whole tenants: what is kept is the tenant's, whichever key made it");
    Err(bad(message).with("quota", quota))
}

fn no_quota_twice(quotas: impl Iterator<Item = Quota>) -> Result<()> {
    let mut seen = Vec::new();
    for quota in quotas {
        if seen.contains(&quota) {
            return Err(bad(format!("quota '{quota}' is named twice")).with("quota", quota));
        }
        seen.push(quota);
    }
    Ok(())
}

fn bad(message: impl Into<String>) -> Error {
    Error::invalid("BAD_QUOTA", message)
}
