//! What a caller may do. The list of actions is closed, and every use case needs exactly one of
//! them; what is not granted is refused.

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
}

impl Action {
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
        }
    }

    /// Among whom the action takes its turn; `None`: it is let in at once, being short and rare.
    pub fn class(self) -> Option<Class> {
        match self {
            Self::ReadOnline => Some(Class::Online),
            Self::Write => Some(Class::Ingest),
            // Both are offline work; a piece of a stream is short, and asks anew for the next.
            Self::ReadHistory | Self::ReadInBulk => Some(Class::Training),
            Self::ReadDefinitions | Self::ChangeDefinitions | Self::Observe | Self::BackUp => None,
        }
    }
}

/// Refuses (PERMISSION_DENIED) what is not granted. The loopback caller is the operator and may do
/// everything within the default tenant; nobody else may do anything.
pub fn check(identity: &Identity, action: Action) -> Result<()> {
    if identity == &Identity::loopback() {
        return Ok(());
    }
    let message = format!("'{}' may not {}", identity.name(), action.as_str());
    Err(Error::new(Code::PermissionDenied, "PERMISSION_DENIED", message).with("wanted", action.as_str()))
}
