//! What the groups of a token are given: by the grants of its issuer's configuration and by nothing else.
//! Several grants add up where the sum gives exactly what each of them gives, and are refused otherwise:
//! membership in one more group never widens what another one limits.

use std::collections::{BTreeSet, HashSet};

use hydrant_storage::names::{Name, SharedName};

use crate::config::GrantConfig;
use crate::registry::selection::is_of_another;
use crate::tenancy::{Reach, Role, Roles};

/// What the members of a group are given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    group: String,
    given: Given,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    pub roles: Roles,
    /// `None`: not limited.
    pub reach: Option<Reach>,
}

impl Grant {
    /// The error says which rule is broken.
    pub fn new(config: &GrantConfig) -> Result<Self, String> {
        let told = |error: String| format!("the grant of group '{}': {error}", config.group);
        let roles = config.roles.iter().map(|role| role.parse::<Role>()).collect::<Result<Roles, _>>().map_err(told)?;
        let (views, shared_views) = names(&config.views).map_err(told)?;
        let (services, shared_services) = names(&config.services).map_err(told)?;
        let reach = Reach { views, services, shared_views, shared_services };
        let is_limited = reach != Reach::default();
        if roles.is_empty() {
            return Err(told("it has one role at least".to_owned()));
        }
        if roles.contains(Role::Platform) && roles.iter().count() > 1 {
            return Err(told("the role platform stands alone: it reads no tenant's data".to_owned()));
        }
        let unlimited = [Role::Owner, Role::Admin, Role::Platform];
        if is_limited && (unlimited.into_iter().any(|role| roles.contains(role)) || roles.iter().eq([Role::Pii])) {
            let rule = "the roles owner, admin and platform, and pii alone, can't be limited to views and services";
            return Err(told(rule.to_owned()));
        }
        Ok(Self { group: config.group.clone(), given: Given { roles, reach: is_limited.then_some(reach) } })
    }
}

/// The tenant's own names, and those of others (`OWNER/NAME`).
fn names(texts: &[String]) -> Result<(BTreeSet<Name>, BTreeSet<SharedName>), String> {
    let (shared, own): (Vec<&String>, Vec<&String>) = texts.iter().partition(|text| is_of_another(text));
    let own = own.into_iter().map(|name| name.parse::<Name>().map_err(|error| format!("'{name}': {error}")));
    let shared =
        shared.into_iter().map(|name| name.parse::<SharedName>().map_err(|error| format!("'{name}': {error}")));
    Ok((own.collect::<Result<_, _>>()?, shared.collect::<Result<_, _>>()?))
}

/// What the groups are given by all their grants; `None`: they don't add up.
pub fn given(grants: &[Grant], groups: &HashSet<&str>) -> Option<Given> {
    let matched = grants.iter().filter(|grant| groups.contains(grant.group.as_str())).map(|grant| &grant.given);
    // It shows what others read, as far as they do.
    let (pii, mut rest): (Vec<&Given>, Vec<&Given>) = matched.partition(|given| given.roles.iter().eq([Role::Pii]));
    // What another one gives anyway, and of several that give the same the first.
    let all = rest.clone();
    let mut index = 0;
    rest.retain(|given| {
        let at = index;
        index += 1;
        !all.iter()
            .enumerate()
            .any(|(other, by)| other != at && given.is_within(by) && (other < at || !by.is_within(given)))
    });
    let mut sum = match rest.as_slice() {
        [] => Given::default(),
        [first, others @ ..] => {
            let has_platform = rest.iter().any(|given| given.roles.contains(Role::Platform));
            let same_roles = others.iter().all(|given| given.roles == first.roles);
            let same_reach = others.iter().all(|given| given.reach == first.reach);
            if !others.is_empty() && (has_platform || !(same_roles || same_reach)) {
                return None;
            }
            Given { roles: rest.iter().flat_map(|given| given.roles.iter()).collect(), reach: reach_of(&rest) }
        }
    };
    let is_platform = sum.roles.contains(Role::Platform);
    if !pii.is_empty() && !sum.roles.is_empty() && !is_platform {
        sum.roles = sum.roles.iter().chain([Role::Pii]).collect();
    }
    Some(sum)
}

/// All that any of them reaches.
fn reach_of(given: &[&Given]) -> Option<Reach> {
    let mut sum = Reach::default();
    for given in given {
        let reach = given.reach.as_ref()?;
        sum.extend(reach);
    }
    Some(sum)
}

impl Given {
    /// Whether the other gives all that this one does.
    fn is_within(&self, other: &Self) -> bool {
        let reaches = match (&self.reach, &other.reach) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(own), Some(all)) => own.is_within(all),
        };
        reaches && self.roles.iter().all(|role| other.roles.contains(role))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(group: &str, roles: &[&str], services: &[&str]) -> GrantConfig {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        GrantConfig { group: group.to_owned(), roles: owned(roles), views: Vec::new(), services: owned(services) }
    }

    fn told(groups: &[&str]) -> Option<String> {
        let grants = [
            config("readers", &["reader"], &[]),
            config("writers", &["writer"], &[]),
            config("one", &["reader"], &["one"]),
            config("one again", &["reader"], &["one"]),
            config("two", &["reader"], &["two"]),
            config("write one", &["writer"], &["one"]),
            config("write three", &["writer"], &["three"]),
            config("cleared", &["pii"], &[]),
            config("operators", &["platform"], &[]),
        ];
        let grants: Vec<Grant> = grants.iter().map(|grant| Grant::new(grant).expect("it makes sense")).collect();
        given(&grants, &groups.iter().copied().collect()).map(|given| {
            let services = given.reach.map(|reach| {
                let names: Vec<&str> = reach.services.iter().map(Name::as_str).collect();
                format!(" of {}", names.join("+"))
            });
            given.roles.names() + &services.unwrap_or_default()
        })
    }

    #[test]
    fn grants_add_up_to_exactly_what_each_of_them_gives_or_not_at_all() {
        for (groups, expected) in [
            (&[] as &[&str], Some("")),
            (&["strangers", "Readers"], Some("")),
            (&["readers", "strangers"], Some("reader")),
            (&["readers", "writers"], Some("reader, writer")),
            (&["readers", "one"], Some("reader")),
            (&["one", "one again"], Some("reader of one")),
            (&["one", "two"], Some("reader of one+two")),
            (&["one", "write one"], Some("reader, writer of one")),
            (&["one", "write three"], None),
            (&["one", "writers"], None),
            (&["one", "two", "write one"], None),
            (&["cleared"], Some("")),
            (&["one", "cleared"], Some("reader, pii of one")),
            (&["readers", "writers", "cleared"], Some("reader, writer, pii")),
            (&["operators"], Some("platform")),
            (&["operators", "cleared"], Some("platform")),
            (&["operators", "readers"], None),
        ] {
            assert_eq!(told(groups).as_deref(), expected, "{groups:?}");
        }
    }

    #[test]
    fn a_grant_that_makes_no_sense_is_refused() {
        for (roles, services, rule) in [
            (&[] as &[&str], &[] as &[&str], "one role"),
            (&["king"], &[], "there is no role 'king'"),
            (&["platform", "reader"], &[], "stands alone"),
            (&["admin"], &["one"], "can't be limited"),
            (&["pii"], &["one"], "can't be limited"),
            (&["reader"], &["No Name"], "'No Name'"),
        ] {
            let refused = Grant::new(&config("group", roles, services)).expect_err(rule);
            assert!(refused.contains("'group'") && refused.contains(rule), "{refused}");
        }
    }
}
