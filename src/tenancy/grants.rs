//! What a caller may do. The lists of actions and roles are closed, every use case needs exactly one
//! action, and [`Action::roles`] is the one table of who may do what; what is not granted is refused.

use std::str::FromStr;

use crate::error::{Code, Error, Result};

use super::admission::Class;
use super::identity::Identity;

/// What there is to be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    ReadOnline,
    /// Online features of many keys, for nobody who waits for each.
    ReadInBulk,
    ReadHistory,
    Write,
    ReadDefinitions,
    ChangeDefinitions,
    /// State of the server: partitions, lag, metrics.
    Observe,
    /// Make, list and delete backups of the whole server.
    BackUp,
    /// Give, list, rotate and revoke API keys of the tenant.
    ManageKeys,
    /// Make and delete tenants, and give a tenant its first key.
    ManageTenants,
    ReadQuotas,
    ChangeQuotas,
    ReadAudit,
    /// Have entity keys of the tenant erased, and see which erasures there were.
    Erase,
    /// See which callers read what.
    ReadUsage,
}

/// What a credential may be for. Each but the last within one tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Reader,
    Trainer,
    Writer,
    Owner,
    Admin,
    /// Looks after the server and its tenants, and reads nothing of any of them.
    Platform,
    /// Sees what is personal (tagged pii) in whatever its other roles read; allows nothing by itself.
    Pii,
}

/// A set of roles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles(u8);

impl Action {
    pub const ALL: [Self; 15] = [
        Self::ReadOnline,
        Self::ReadInBulk,
        Self::ReadHistory,
        Self::Write,
        Self::ReadDefinitions,
        Self::ChangeDefinitions,
        Self::Observe,
        Self::BackUp,
        Self::ManageKeys,
        Self::ManageTenants,
        Self::ReadQuotas,
        Self::ChangeQuotas,
        Self::ReadAudit,
        Self::Erase,
        Self::ReadUsage,
    ];

    /// Who may do it: each of these roles by itself. The first is the least that will do.
    pub fn roles(self) -> &'static [Role] {
        use Role::{Admin, Owner, Platform, Reader, Trainer, Writer};
        match self {
            Self::ReadOnline | Self::ReadInBulk => &[Reader, Admin],
            Self::ReadHistory => &[Trainer, Admin],
            Self::Write => &[Writer, Admin],
            Self::ReadDefinitions => &[Reader, Trainer, Writer, Owner, Admin],
            Self::ChangeDefinitions | Self::ReadUsage => &[Owner, Admin],
            Self::ManageKeys | Self::Erase => &[Admin],
            // What a tenant may use is the server's to say: a limit that its own tenant could raise is none.
            Self::Observe | Self::BackUp | Self::ManageTenants | Self::ChangeQuotas => &[Platform],
            Self::ReadQuotas | Self::ReadAudit => &[Admin, Platform],
        }
    }

    /// Completes the sentence "not allowed to …".
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReadOnline => "read online features",
            Self::ReadInBulk => "read online features in bulk",
            Self::ReadHistory => "read historical features",
            Self::Write => "write rows",
            Self::ReadDefinitions => "read definitions",
            Self::ChangeDefinitions => "change definitions",
            Self::Observe => "observe the server",
            Self::BackUp => "back up the server",
            Self::ManageKeys => "manage API keys",
            Self::ManageTenants => "manage tenants",
            Self::ReadQuotas => "read quotas",
            Self::ChangeQuotas => "change quotas",
            Self::ReadAudit => "read the audit log",
            Self::Erase => "erase keys",
            Self::ReadUsage => "read usage",
        }
    }

    /// Among whom the action takes its turn; `None`: it is let in at once, being short and rare.
    pub fn class(self) -> Option<Class> {
        match self {
            Self::ReadOnline => Some(Class::Online),
            Self::Write => Some(Class::Ingest),
            // Both are offline work; a piece of a stream is short, and asks anew for the next.
            Self::ReadHistory | Self::ReadInBulk => Some(Class::Training),
            Self::ReadDefinitions
            | Self::ChangeDefinitions
            | Self::Observe
            | Self::BackUp
            | Self::ManageKeys
            | Self::ManageTenants
            | Self::ReadQuotas
            | Self::ChangeQuotas
            | Self::ReadAudit
            | Self::Erase
            | Self::ReadUsage => None,
        }
    }

    /// Whether it counts as a request of its tenant's quotas. Whoever has used them up must still be able
    /// to see that, to have them raised, and to revoke a key that leaked.
    pub fn is_charged(self) -> bool {
        !matches!(
            self,
            Self::ReadQuotas
                | Self::ChangeQuotas
                | Self::ReadAudit
                | Self::ManageKeys
                | Self::ManageTenants
                | Self::Erase
        )
    }
}

impl Role {
    pub const ALL: [Self; 7] =
        [Self::Reader, Self::Trainer, Self::Writer, Self::Owner, Self::Admin, Self::Platform, Self::Pii];

    /// As on the command line and in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Trainer => "trainer",
            Self::Writer => "writer",
            Self::Owner => "owner",
            Self::Admin => "admin",
            Self::Platform => "platform",
            Self::Pii => "pii",
        }
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            format!("there is no role '{}': use {known}", text.chars().take(80).collect::<String>())
        })
    }
}

impl Roles {
    pub fn contains(self, role: Role) -> bool {
        self.0 & (1 << role as u8) != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(move |role| self.contains(*role))
    }

    /// Whether any of them allows it.
    pub fn allow(self, action: Action) -> bool {
        action.roles().iter().any(|role| self.contains(*role))
    }

    /// `reader, writer`.
    pub fn names(self) -> String {
        self.iter().map(Role::as_str).collect::<Vec<_>>().join(", ")
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        Self(roles.into_iter().fold(0, |set, role| set | (1 << role as u8)))
    }
}

/// Refuses what is not granted (PERMISSION_DENIED), and who was known and is no more (UNAUTHENTICATED).
pub fn check(identity: &Identity, action: Action) -> Result<()> {
    identity.check_still()?;
    if identity.may(action) {
        return Ok(());
    }
    let roles = match identity.roles() {
        none if none.is_empty() => "it has no role".to_owned(),
        roles => format!("its roles ({}) don't include it", roles.names()),
    };
    let message = format!("'{}' may not {}: {roles}", identity.name(), action.as_str());
    let least = action.roles().first().map_or("", |role| role.as_str());
    let who =
        if action.roles().contains(&Role::Admin) { "an admin of the tenant" } else { "a caller with role platform" };
    let hint = match identity.subject() {
        None => format!("it takes the role {least}, which {who} can give (hydrant key create --role {least})"),
        Some(_) => {
            format!("it takes the role {least}, by a grant of one of the token's groups ([[auth.oidc]] of the server)")
        }
    };
    Err(Error::new(Code::PermissionDenied, "PERMISSION_DENIED", message)
        .hint(hint)
        .with("wanted", action.as_str())
        .with("role", least))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(roles: &[Role]) -> Identity {
        Identity::new("key/a", "acme".parse().expect("a name"), roles.iter().copied().collect(), None)
    }

    #[test]
    fn whatever_is_not_in_the_table_is_refused_and_the_refusal_names_the_role_that_would_do() {
        for action in Action::ALL {
            for role in Role::ALL {
                let allowed = action.roles().contains(&role);
                let checked = check(&identity(&[role]), action);
                assert_eq!(checked.is_ok(), allowed, "{role:?} {action:?}");
                if let Err(refused) = checked {
                    assert_eq!((refused.code, refused.reason), (Code::PermissionDenied, "PERMISSION_DENIED"));
                    let hint = refused.hint.expect("a way out");
                    assert!(hint.contains(action.roles()[0].as_str()), "{hint}");
                }
            }
            assert!(check(&identity(&[]), action).is_err() && check(&Identity::nobody(), action).is_err());
            check(&Identity::loopback(), action).expect("the operator may do all");
        }
    }

    #[test]
    fn nothing_of_a_tenant_s_data_is_the_platform_s() {
        use Action::{ChangeDefinitions, ReadDefinitions, ReadHistory, ReadInBulk, ReadOnline, Write};
        for action in [ReadOnline, ReadInBulk, ReadHistory, Write, ReadDefinitions, ChangeDefinitions] {
            assert!(!action.roles().contains(&Role::Platform), "{action:?}");
        }
    }

    #[test]
    fn the_manual_s_table_of_roles_is_this_one() {
        let manual = include_str!("../../docs/access.md");
        for action in Action::ALL {
            let cells = Role::ALL.map(|role| if action.roles().contains(&role) { "yes" } else { "–" });
            let line = format!("| {} | {} |", action.as_str(), cells.join(" | "));
            assert!(manual.contains(&line), "docs/access.md lacks the line: {line}");
        }
        let names = Role::ALL.map(Role::as_str).join(" | ");
        assert!(manual.contains(&format!("| may | {names} |")), "docs/access.md lacks the roles: {names}");
    }

    #[test]
    fn who_was_revoked_is_not_known_any_more() {
        let identity = identity(&Role::ALL);
        let stream = identity.clone();
        check(&stream, Action::ReadOnline).expect("as yet");
        identity.revoke();
        assert_eq!(check(&stream, Action::ReadOnline).expect_err("revoked").reason, "KEY_REVOKED");
    }
}
