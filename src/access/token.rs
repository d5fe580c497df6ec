//! The text of an API key: `hyd_<id>_<secret>_<check>`. The prefix lets scanners of repositories find
//! keys, the checksum lets anybody tell a mistyped one without asking, the id leads to what is known of
//! it. Only the hash of the secret is ever kept.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::{digest, rand};
use serde::{Deserialize, Serialize};

use crate::error::{Code, Error, Result};

/// Begins every key.
pub const PREFIX: &str = "hyd_";

const ID_CHARACTERS: usize = 10;
/// None that is taken for another when it is read aloud.
const ID_ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
const SECRET_BYTES: usize = 32;
const CHECK_DIGITS: usize = 8;
const LENGTH: usize = PREFIX.len() + ID_CHARACTERS + 1 + 2 * SECRET_BYTES + 1 + CHECK_DIGITS;

/// Names a key. It is no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId([u8; ID_CHARACTERS]);

/// What is kept of a secret.
pub type SecretHash = [u8; digest::SHA256_OUTPUT_LEN];

/// A key as its bearer has it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    pub id: KeyId,
    secret: [u8; SECRET_BYTES],
}

impl KeyId {
    fn random() -> Result<Self> {
        let mut bytes = [0; ID_CHARACTERS];
        fill(&mut bytes)?;
        Ok(Self(bytes.map(|byte| ID_ALPHABET[usize::from(byte % 32)])))
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("an id is ASCII")
    }
}

impl Token {
    /// A new key with an id of its own.
    pub fn random() -> Result<Self> {
        Self::another(KeyId::random()?)
    }

    /// A new secret for an id.
    pub fn another(id: KeyId) -> Result<Self> {
        let mut secret = [0; SECRET_BYTES];
        fill(&mut secret)?;
        Ok(Self { id, secret })
    }

    /// Reads a key; UNAUTHENTICATED says that it is none, and nothing of what it is.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |what: &str| {
            Error::new(Code::Unauthenticated, "BAD_CREDENTIAL", format!("the credential {what}"))
                .hint("send a key as it was shown when it was made: hyd_… with all its characters")
        };
        let rest = text.strip_prefix(PREFIX).ok_or_else(|| bad("is no API key: these begin with 'hyd_'"))?;
        if text.len() != LENGTH || !text.is_ascii() {
            return Err(bad("is no whole API key: it was cut off, or something was added"));
        }
        let (before, check) = text.split_at(LENGTH - CHECK_DIGITS);
        // One text for each key: its separators, and its digits in lower case only, are as they are shown.
        let before = before.strip_suffix('_').ok_or_else(|| bad("is no API key"))?;
        if read_checksum(check) != Some(crc32fast::hash(before.as_bytes())) {
            return Err(bad("was mistyped: its checksum doesn't match"));
        }
        let (id, rest) = rest.split_at(ID_CHARACTERS);
        let digits = rest.as_bytes();
        if digits[0] != b'_' {
            return Err(bad("is no API key"));
        }
        let mut secret = [0; SECRET_BYTES];
        for (byte, pair) in secret.iter_mut().zip(digits[1..=2 * SECRET_BYTES].chunks_exact(2)) {
            *byte = (digit(pair[0]).ok_or_else(|| bad("is no API key"))? << 4)
                | digit(pair[1]).ok_or_else(|| bad("is no API key"))?;
        }
        let id = id.parse().map_err(|_: String| bad("is no API key"))?;
        Ok(Self { id, secret })
    }

    /// Of a secret of 256 random bits a plain SHA-256 is enough: what a slow hash makes up for is that
    /// people choose passwords that can be guessed, and nobody guesses these. It is asked for by every
    /// request.
    pub fn hash(&self) -> SecretHash {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(self.id.as_str().as_bytes());
        context.update(&self.secret);
        context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
    }

    /// The key's text: for whoever is given it, once.
    pub fn reveal(&self) -> String {
        let secret: String = self.secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let before = format!("{PREFIX}{}_{secret}", self.id.as_str());
        let check = crc32fast::hash(before.as_bytes());
        format!("{before}_{check:08x}")
    }
}

/// The checksum that stands at a key's end.
fn read_checksum(digits: &str) -> Option<u32> {
    digits.bytes().try_fold(0, |number, byte| Some(number << 4 | u32::from(digit(byte)?)))
}

fn fill(bytes: &mut [u8]) -> Result<()> {
    rand::fill(bytes).map_err(|_| Error::internal("the system has no random numbers"))
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

impl FromStr for KeyId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes: Option<[u8; ID_CHARACTERS]> = text.as_bytes().try_into().ok();
        let known = bytes.filter(|bytes| bytes.iter().all(|byte| ID_ALPHABET.contains(byte)));
        known.map(Self).ok_or_else(|| {
            format!("'{}' is no id of a key: `hydrant key list` shows them", text.chars().take(20).collect::<String>())
        })
    }
}

impl TryFrom<String> for KeyId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.as_str().to_owned()
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A secret is nobody's to read.
impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Token").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_as_it_was_shown_and_is_told_apart_from_any_other() {
        let (one, other) = (Token::random().expect("random"), Token::random().expect("random"));
        let text = one.reveal();
        assert_eq!(text.len(), LENGTH);
        assert_eq!(Token::parse(&text).expect("as it was shown"), one);
        assert_ne!(one.hash(), other.hash());
        assert_ne!(one.hash(), Token::another(one.id).expect("random").hash());
        assert!(!format!("{one:?}").contains(&text[15..40]), "a secret is in no log");
    }

    #[test]
    fn every_single_wrong_character_is_told_without_a_lookup() {
        let text = Token::random().expect("random").reveal();
        for at in 0..text.len() {
            for wrong in ['0', 'z', '_', 'F', 'é'] {
                let mut changed: Vec<char> = text.chars().collect();
                if changed[at] == wrong {
                    continue;
                }
                changed[at] = wrong;
                let changed: String = changed.into_iter().collect();
                let refused = Token::parse(&changed).expect_err(&changed);
                assert_eq!((refused.code, refused.reason), (Code::Unauthenticated, "BAD_CREDENTIAL"));
                assert!(!refused.message.contains(&text[16..30]), "no refusal repeats a key");
            }
            assert!(Token::parse(&text[..at]).is_err(), "cut off at {at}");
        }
        for made_up in ["", "hyd_", "password", "hyd_a_b_c", &"_".repeat(LENGTH), &format!("{text}x")] {
            assert!(Token::parse(made_up).is_err(), "{made_up}");
        }
    }
}
