//! An issuer's public keys: read from a JSON Web Key Set, and asked whether a signature is one of theirs.
//! A key verifies by the algorithms of its kind only, so that no token can choose how it is looked at.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde_json::{Map, Value};

use super::claims::{Parts, refused};
use crate::error::Error;

/// No issuer has more.
const MAX_KEYS: usize = 100;
/// Of a modulus: 2,048 and 8,192 bits.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1_024;

/// The keys of one time.
#[derive(Debug)]
pub struct KeySet {
    keys: Vec<Key>,
}

#[derive(Debug)]
struct Key {
    id: Option<String>,
    kind: Kind,
    /// The only one that it is for, where the set says so.
    algorithm: Option<Algorithm>,
    decoding: DecodingKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Rsa,
    P256,
    P384,
    Ed25519,
}

/// Why a signature isn't taken.
#[derive(Debug, PartialEq, Eq)]
pub enum NotVerified {
    /// There is no such key in the set, so far as is known.
    UnknownKey,
    BadSignature,
}

impl KeySet {
    /// Reads a key set; what can't verify by any of `algorithms` is passed over, as the standard has it.
    /// Refused where nothing is left.
    pub fn parse(body: &[u8], algorithms: &[Algorithm]) -> Result<Self, String> {
        let set: Value = serde_json::from_slice(body).map_err(|error| format!("the key set is no JSON: {error}"))?;
        let keys = set.get("keys").and_then(Value::as_array);
        let keys = keys.ok_or("the key set has no list 'keys'")?;
        if keys.len() > MAX_KEYS {
            return Err(format!("the key set has {} keys, of {MAX_KEYS} at most", keys.len()));
        }
        let usable = |key: &Key| algorithms.iter().any(|algorithm| key.is_for(*algorithm));
        let keys: Vec<Key> = keys.iter().filter_map(|key| Key::parse(key.as_object()?)).filter(usable).collect();
        if keys.is_empty() {
            return Err("the key set has no key for any of the algorithms in option 'oidc.algorithms'".to_owned());
        }
        Ok(Self { keys })
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether a key of the set that the token names, or any where it names none, has signed it.
    pub fn verify(&self, parts: &Parts<'_>) -> Result<(), NotVerified> {
        let named = |key: &&Key| parts.key_id.is_none() || key.id == parts.key_id;
        let mut suitable = self.keys.iter().filter(named).filter(|key| key.is_for(parts.algorithm)).peekable();
        if suitable.peek().is_none() {
            return Err(NotVerified::UnknownKey);
        }
        let signed = |key: &Key| {
            let verified = crypto::verify(parts.signature, parts.message.as_bytes(), &key.decoding, parts.algorithm);
            verified.unwrap_or(false)
        };
        if suitable.any(signed) { Ok(()) } else { Err(NotVerified::BadSignature) }
    }
}

impl Key {
    /// `None`: not for signatures, or of a kind that isn't known here.
    fn parse(key: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| key.get(name).and_then(Value::as_str);
        if text("use").is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let operations = key.get("key_ops").and_then(Value::as_array);
        if operations.is_some_and(|operations| !operations.iter().any(|operation| operation == "verify")) {
            return None;
        }
        let is_long = |name: &str, bytes: usize| bytes_of(text(name)).is_some_and(|value| value.len() == bytes);
        let point = |bytes: usize| is_long("x", bytes) && is_long("y", bytes);
        let (kind, decoding) = match (text("kty")?, text("crv")) {
            ("RSA", _) => {
                let modulus = bytes_of(text("n"))?;
                if !RSA_BYTES.contains(&modulus.len()) {
                    return None;
                }
                (Kind::Rsa, DecodingKey::from_rsa_components(text("n")?, text("e")?))
            }
            ("EC", Some("P-256")) if point(32) => (Kind::P256, DecodingKey::from_ec_components(text("x")?, text("y")?)),
            ("EC", Some("P-384")) if point(48) => (Kind::P384, DecodingKey::from_ec_components(text("x")?, text("y")?)),
            ("OKP", Some("Ed25519")) if is_long("x", 32) => {
                (Kind::Ed25519, DecodingKey::from_ed_components(text("x")?))
            }
            _ => return None,
        };
        // Of an algorithm that isn't known the key is for nothing.
        let algorithm = text("alg").map(|name| name.parse::<Algorithm>().ok());
        if algorithm == Some(None) {
            return None;
        }
        Some(Self {
            id: text("kid").map(str::to_owned),
            kind,
            algorithm: algorithm.flatten(),
            decoding: decoding.ok()?,
        })
    }

    fn is_for(&self, algorithm: Algorithm) -> bool {
        Kind::of(algorithm) == Some(self.kind) && self.algorithm.is_none_or(|only| only == algorithm)
    }
}

impl Kind {
    /// `None`: of a shared secret, which no public key is.
    fn of(algorithm: Algorithm) -> Option<Self> {
        use Algorithm::{ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384, RS512};
        match algorithm {
            RS256 | RS384 | RS512 | PS256 | PS384 | PS512 => Some(Self::Rsa),
            ES256 => Some(Self::P256),
            ES384 => Some(Self::P384),
            EdDSA => Some(Self::Ed25519),
            HS256 | HS384 | HS512 => None,
        }
    }
}

/// Whether a token may be signed by it at all: by a key that only its issuer has.
pub fn is_asymmetric(algorithm: Algorithm) -> bool {
    Kind::of(algorithm).is_some()
}

pub fn bad_signature() -> Error {
    refused("JWT_SIGNATURE", "the token's signature is not one of its issuer's keys")
}

fn bytes_of(text: Option<&str>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text?).ok()
}
