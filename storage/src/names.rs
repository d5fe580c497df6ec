//! Names and ids that reach disk or wire, as types that are valid by construction.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The name of a tenant, an entity, a source, a column, a view, a feature or a service:
/// `[a-z][a-z0-9_]{0,62}`, without `__`, which separates view and feature in output columns. Every
/// answer carries some, so a clone is cheap.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

impl Name {
    /// The longest name, in bytes.
    pub const MAX_LENGTH: usize = 63;

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `owner/name`: a view or service of another tenant, as those name it to whom it is shared. No name of
/// one's own has a `/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SharedName(String);

/// Why a text is no [`Name`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{shown}' is not a valid name: use [a-z][a-z0-9_]{{0,62}}, without '__'")]
pub struct InvalidName {
    shown: String,
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let valid = text.len() <= Self::MAX_LENGTH
            && text.bytes().next().is_some_and(|first| first.is_ascii_lowercase())
            && text.bytes().all(allowed)
            && !text.contains("__");
        if valid { Ok(Self(text.into())) } else { Err(InvalidName { shown: text.chars().take(80).collect() }) }
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl SharedName {
    pub fn new(owner: &Name, name: &Name) -> Self {
        Self(format!("{owner}/{name}"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SharedName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (owner, name) = text.split_once('/').ok_or("what another tenant shares is named OWNER/NAME")?;
        let parsed = |part: &str| part.parse::<Name>().map_err(|error| error.to_string());
        Ok(Self::new(&parsed(owner)?, &parsed(name)?))
    }
}

impl TryFrom<String> for SharedName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<SharedName> for String {
    fn from(name: SharedName) -> Self {
        name.0
    }
}

impl Borrow<str> for SharedName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SharedName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A tenant's number: leads its keys and files. Given by the registry, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TenantId(pub u32);

/// The number of one version of one view: given by the registry, never reused, so that a new
/// version lives beside the old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ViewId(pub u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_words_without_double_underscores() {
        for valid in ["a", "airport_weather", "x9_", &"a".repeat(63)] {
            assert!(valid.parse::<Name>().is_ok(), "{valid}");
        }
        for invalid in ["", "9a", "_a", "A", "a-b", "a__b", "ä", &"a".repeat(64)] {
            assert!(invalid.parse::<Name>().is_err(), "{invalid}");
        }
    }
}
