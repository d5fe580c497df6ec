//! The public keys of an issuer (RFC 7517), and signatures held to them. A key verifies what its kind and
//! its own word allow and nothing else, so that no token chooses how it is looked at. There are no
//! symmetric keys here, and none is made of what a set has.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, EcdsaVerificationAlgorithm, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
    RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::token::{MAX_KEY_NAME, object};
use crate::config::SignatureAlgorithm;

/// Keys of one set at most.
pub const MAX_KEYS: usize = 64;
/// Bytes of a set, or of a discovery document.
pub const MAX_DOCUMENT: usize = 64 << 10;

/// A key that verifies.
#[derive(Debug)]
pub struct Key {
    material: Material,
    /// The one that it is for, where it says so.
    algorithm: Option<String>,
    /// Its issuer has it no more: what it let in is let do nothing further.
    withdrawn: Arc<AtomicBool>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Material {
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    /// As an uncompressed point.
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// The keys of an issuer by name.
#[derive(Debug, Default)]
pub struct KeySet(HashMap<String, Arc<Key>>);

impl Key {
    pub fn withdrawn(&self) -> &Arc<AtomicBool> {
        &self.withdrawn
    }

    /// Whether this key has signed the message so.
    pub fn verifies(&self, algorithm: SignatureAlgorithm, message: &[u8], signature: &[u8]) -> bool {
        use SignatureAlgorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
        if self.algorithm.as_ref().is_some_and(|own| own != algorithm.as_str()) {
            return false;
        }
        let elliptic = |point: &[u8], how: &'static EcdsaVerificationAlgorithm| {
            UnparsedPublicKey::new(how, point).verify(message, signature).is_ok()
        };
        match (&self.material, algorithm) {
            (Material::Rsa { modulus, exponent }, RS256 | RS384 | RS512 | PS256 | PS384 | PS512) => {
                let key = RsaPublicKeyComponents { n: modulus, e: exponent };
                key.verify(rsa(algorithm), message, signature).is_ok()
            }
            (Material::P256(point), ES256) => elliptic(point, &ECDSA_P256_SHA256_FIXED),
            (Material::P384(point), ES384) => elliptic(point, &ECDSA_P384_SHA384_FIXED),
            (Material::Ed25519(key), EdDSA) => UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok(),
            _ => false,
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        self.material == other.material && self.algorithm == other.algorithm
    }

    /// `None`: it is not for signatures, or of a kind that isn't known here.
    fn read(key: &Map<String, Value>) -> Option<(String, Self)> {
        let text = |field: &str| key.get(field).and_then(Value::as_str);
        let bytes = |field: &str| URL_SAFE_NO_PAD.decode(text(field)?).ok();
        let is_for_signatures = key.get("use").is_none_or(|purpose| purpose == "sig");
        let verifies = match key.get("key_ops") {
            None => true,
            Some(Value::Array(operations)) => operations.iter().any(|operation| operation == "verify"),
            Some(_) => false,
        };
        let name = text("kid").filter(|name| (1..=MAX_KEY_NAME).contains(&name.len()))?;
        if !is_for_signatures || !verifies {
            return None;
        }
        let point = |size: usize| {
            let (x, y) = (bytes("x")?, bytes("y")?);
            (x.len() == size && y.len() == size).then(|| [&[4], x.as_slice(), &y].concat())
        };
        let material = match (text("kty")?, text("crv")) {
            ("RSA", None) => {
                let trimmed = |field| Some(bytes(field)?.into_iter().skip_while(|byte| *byte == 0).collect::<Vec<_>>());
                let (modulus, exponent) = (trimmed("n")?, trimmed("e")?);
                // 2,048 to 8,192 bits.
                let is_strong = (256..=1_024).contains(&modulus.len()) && (1..=8).contains(&exponent.len());
                is_strong.then_some(Material::Rsa { modulus, exponent })?
            }
            ("EC", Some("P-256")) => Material::P256(point(32)?),
            ("EC", Some("P-384")) => Material::P384(point(48)?),
            ("OKP", Some("Ed25519")) => Material::Ed25519(bytes("x").filter(|key| key.len() == 32)?),
            _ => return None,
        };
        let algorithm = text("alg").map(str::to_owned);
        Some((name.to_owned(), Self { material, algorithm, withdrawn: Arc::default() }))
    }
}

fn rsa(algorithm: SignatureAlgorithm) -> &'static RsaParameters {
    match algorithm {
        SignatureAlgorithm::RS384 => &RSA_PKCS1_2048_8192_SHA384,
        SignatureAlgorithm::RS512 => &RSA_PKCS1_2048_8192_SHA512,
        SignatureAlgorithm::PS256 => &RSA_PSS_2048_8192_SHA256,
        SignatureAlgorithm::PS384 => &RSA_PSS_2048_8192_SHA384,
        SignatureAlgorithm::PS512 => &RSA_PSS_2048_8192_SHA512,
        _ => &RSA_PKCS1_2048_8192_SHA256,
    }
}

impl KeySet {
    /// Reads a set. Keys of which nothing is known are passed over; the error says why there is none that
    /// can be used.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > MAX_DOCUMENT {
            return Err(format!("the key set has more than {MAX_DOCUMENT} bytes"));
        }
        let set = object(bytes).ok_or("the key set is no JSON object, or has a name twice")?;
        let Some(Value::Array(listed)) = set.get("keys") else { return Err("the key set has no list 'keys'".into()) };
        if listed.len() > MAX_KEYS {
            return Err(format!("the key set has {} keys, and at most {MAX_KEYS} are taken", listed.len()));
        }
        let mut keys = HashMap::new();
        for (name, key) in listed.iter().filter_map(|key| Key::read(key.as_object()?)) {
            if keys.insert(name, Arc::new(key)).is_some() {
                return Err("the key set has two keys of one name".to_owned());
            }
        }
        if keys.is_empty() {
            return Err("the key set has no key with a name that verifies signatures".to_owned());
        }
        Ok(Self(keys))
    }

    pub fn get(&self, name: &str) -> Option<&Arc<Key>> {
        self.0.get(name)
    }

    /// Takes over the keys that were there before, and withdraws those that are not there any more.
    #[must_use]
    pub fn following(mut self, before: &Self) -> Self {
        for (name, old) in &before.0 {
            match self.0.get_mut(name) {
                Some(new) if new.is_same(old) => *new = old.clone(),
                _ => old.withdrawn.store(true, Ordering::Release),
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verifies(jwk: &str, algorithm: SignatureAlgorithm, token: &str) -> bool {
        let set = format!(r#"{{"keys":[{jwk}]}}"#);
        let set = KeySet::read(set.as_bytes()).expect("a key that can be used");
        let (message, signature) = token.rsplit_once('.').expect("a token");
        let signature = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
        let key = set.get("a").expect("it is there");
        let verified = SignatureAlgorithm::ALL.map(|how| (how, key.verifies(how, message.as_bytes(), &signature)));
        let alone = verified.into_iter().all(|(how, verified)| !verified || how == algorithm);
        let changed = key.verifies(algorithm, &message.as_bytes()[1..], &signature);
        alone && !changed && key.verifies(algorithm, message.as_bytes(), &signature)
    }

    /// RFC 7515, appendices A.2 and A.3, and RFC 8037, appendix A.
    #[test]
    fn what_the_standards_signed_verifies_by_its_own_algorithm_alone() {
        let rsa = r#"{"kty":"RSA","kid":"a","e":"AQAB","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}"#;
        let token = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
        assert!(verifies(rsa, SignatureAlgorithm::RS256, token));
        let elliptic = r#"{"kty":"EC","kid":"a","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
        let token = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
        assert!(verifies(elliptic, SignatureAlgorithm::ES256, token));
        let edwards = r#"{"kty":"OKP","kid":"a","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
        let token = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
        assert!(verifies(edwards, SignatureAlgorithm::EdDSA, token));
    }

    #[test]
    fn a_key_that_is_for_something_else_verifies_nothing() {
        let key = r#""kid":"a","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo""#;
        let set = |key: &str| KeySet::read(format!(r#"{{"keys":[{key}]}}"#).as_bytes());
        set(&format!(r#"{{"kty":"OKP",{key}}}"#)).expect("it is for signatures");
        for unfit in [
            format!(r#"{{"kty":"OKP","use":"enc",{key}}}"#),
            format!(r#"{{"kty":"OKP","key_ops":["encrypt"],{key}}}"#),
            format!(r#"{{"kty":"EC",{key}}}"#),
            key.replace("\"kid\":\"a\",", "\"kty\":\"OKP\",").replacen("", "{", 1) + "}",
            r#"{"kty":"oct","kid":"a","k":"c2VjcmV0"}"#.to_owned(),
            r#"{"kty":"RSA","kid":"a","n":"AQAB","e":"AQAB"}"#.to_owned(),
            r#"{"kty":"EC","kid":"a","crv":"P-256","x":"AA","y":"AA"}"#.to_owned(),
            "7".to_owned(),
            String::new(),
        ] {
            assert!(set(&unfit).is_err(), "{unfit}");
        }
        let twice = format!(r#"{{"kty":"OKP",{key}}},{{"kty":"OKP",{key}}}"#);
        assert!(set(&twice).expect_err("twice").contains("one name"));
        let many = vec!["7"; MAX_KEYS + 1].join(",");
        assert!(set(&many).expect_err("too many").contains("at most 64"));
        assert!(set(&" ".repeat(MAX_DOCUMENT)).expect_err("too large").contains("more than"));
    }
}
