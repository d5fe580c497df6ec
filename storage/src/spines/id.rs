//! The name of a spine: 128 bits that its rows and columns make, as 32 hexadecimal digits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpineId(u128);

/// Why a text is no [`SpineId`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{shown}' is no id of a spine: 32 digits of 0-9 and a-f")]
pub struct InvalidSpineId {
    shown: String,
}

impl SpineId {
    /// Of the hash over the rows, and the schema as it is stored: rows that are alike and encoded
    /// otherwise are another spine.
    pub fn of(spine_hash: &str, schema: &[u8]) -> Self {
        let mut whole = Xxh3::new();
        whole.update(spine_hash.as_bytes());
        whole.update(schema);
        Self(whole.digest128())
    }
}

impl fmt::Display for SpineId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", self.0)
    }
}

impl FromStr for SpineId {
    type Err = InvalidSpineId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let parsed = digits.then(|| u128::from_str_radix(text, 16).ok()).flatten();
        parsed.map(Self).ok_or_else(|| InvalidSpineId { shown: text.chars().take(80).collect() })
    }
}

impl TryFrom<String> for SpineId {
    type Error = InvalidSpineId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SpineId> for String {
    fn from(id: SpineId) -> Self {
        id.to_string()
    }
}
