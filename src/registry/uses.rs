//! What outside of the definitions holds on to versions of services: saved training sets, which can be
//! made again only as long as the version is there; and of which spine each is, for lineage. It is kept in
//! memory by who holds; the registry asks it before it deletes, and shows it in lineage.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hydrant_storage::names::Name;

use super::graph::{TrainingSetUse, Used};

/// The kind of what holds, as lineage and refusals show it.
pub const TRAINING_SET: &str = "TrainingSet";

/// The tenant that uses something, and what that is.
type Held = (Name, Used);

/// Who uses what. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Uses {
    /// For each thing its users, and how often each holds it.
    held: Arc<Mutex<BTreeMap<Held, BTreeMap<String, usize>>>>,
}

/// While it lives, a version of one of the tenant's own services is not deleted.
#[derive(Debug)]
pub struct UseHold {
    uses: Uses,
    held: Held,
    user: String,
}

impl Uses {
    /// Holds something in the name of a training set. Whether a version of a service is there has to be looked
    /// at afterwards, once the registry is settled.
    pub fn hold(&self, tenant: &Name, used: Used, training_set: &str) -> UseHold {
        let held = (tenant.clone(), used);
        *self.lock().entry(held.clone()).or_default().entry(training_set.to_owned()).or_default() += 1;
        UseHold { uses: self.clone(), held, user: training_set.to_owned() }
    }

    /// The training sets that use a service, or one version of it, each by its version.
    pub fn of_service(&self, tenant: &Name, service: &Name, number: Option<u32>) -> Vec<(u32, String)> {
        let held = self.lock();
        let of_it = held.iter().filter_map(|((of, used), users)| match used {
            Used::Service { name, number } if of == tenant && name == service.as_str() => Some((*number, users)),
            _ => None,
        });
        let of_it = of_it.filter(|(found, _)| number.is_none_or(|number| number == *found));
        of_it.flat_map(|(number, users)| users.keys().map(move |user| (number, user.clone()))).collect()
    }

    /// Every use of a tenant.
    pub fn of_tenant(&self, tenant: &Name) -> Vec<TrainingSetUse> {
        let held = self.lock();
        let of_it = held.iter().filter(|((of, _), _)| of == tenant);
        let each = of_it.flat_map(|((_, used), users)| {
            users.keys().map(|user| TrainingSetUse { used: used.clone(), training_set: user.clone() })
        });
        each.collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Held, BTreeMap<String, usize>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UseHold {
    fn drop(&mut self) {
        let mut held = self.uses.lock();
        let Some(users) = held.get_mut(&self.held) else { return };
        if let Some(count) = users.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                users.remove(&self.user);
            }
        }
        if users.is_empty() {
            held.remove(&self.held);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::name;

    #[test]
    fn a_version_is_used_until_the_last_hold_of_it_is_dropped() {
        let (uses, tenant, service) = (Uses::default(), name("default"), name("model"));
        let version = |number| Used::Service { name: service.to_string(), number };
        let one = uses.hold(&tenant, version(1), "churn@1");
        let again = uses.hold(&tenant, version(1), "churn@1");
        let other = uses.hold(&tenant, version(2), "churn@2");
        let _of_another = uses.hold(&tenant, Used::Service { name: "acme/model".to_owned(), number: 1 }, "churn@1");
        assert_eq!(uses.of_service(&tenant, &service, Some(1)), [(1, "churn@1".to_owned())]);
        assert_eq!(uses.of_service(&tenant, &service, None).len(), 2);
        assert_eq!(uses.of_service(&name("other"), &service, None), []);
        drop(one);
        assert_eq!(uses.of_service(&tenant, &service, Some(1)).len(), 1);
        drop((again, other));
        assert_eq!(uses.of_service(&tenant, &service, None), []);
    }
}
