//! A token as it was sent: three parts, read strictly and once, so that what is verified is what is used.
//! What comes twice, what isn't understood and must be, and what has no bound is refused. It never judges
//! a signature or a claim.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// A key's name has no more bytes.
pub const MAX_KEY_NAME: usize = 256;
/// Of a token's types (RFC 8725, 3.11), those of tokens that let their bearer in somewhere.
const TYPES: [&str; 4] = ["jwt", "application/jwt", "at+jwt", "application/at+jwt"];

/// The parts of a token.
pub struct Parts<'a> {
    pub algorithm: String,
    /// The key that it says it was signed with.
    pub key: String,
    pub claims: Map<String, Value>,
    /// What is signed.
    pub message: &'a [u8],
    pub signature: Vec<u8>,
}

/// Whether a text has the form of a token: three parts.
pub fn is_token(text: &str) -> bool {
    text.bytes().filter(|byte| *byte == b'.').count() == 2
}

impl<'a> Parts<'a> {
    /// The error says what is wrong, and nothing of what stands there.
    pub fn read(text: &'a str) -> Result<Self, &'static str> {
        let (message, signature) = text.rsplit_once('.').ok_or("it does not have three parts")?;
        let (head, claims) = message.split_once('.').ok_or("it does not have three parts")?;
        let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| "a part of it is not base64url");
        let mut head = object(&decoded(head)?).ok_or("its header is no JSON object, or has a name twice")?;
        let claims = object(&decoded(claims)?).ok_or("its claims are no JSON object, or have a name twice")?;
        let signature = decoded(signature)?;
        // What must be understood and isn't here: no extension is known (RFC 7515, 4.1.11).
        if head.contains_key("crit") || head.contains_key("b64") {
            return Err("its header demands an extension (crit)");
        }
        if head.contains_key("enc") || head.contains_key("zip") {
            return Err("it is encrypted or packed");
        }
        let is_of_type = match head.get("typ") {
            None => true,
            Some(Value::String(typ)) => TYPES.iter().any(|known| typ.eq_ignore_ascii_case(known)),
            Some(_) => false,
        };
        if !is_of_type {
            return Err("its type (typ) is not that of an access token");
        }
        let Some(Value::String(algorithm)) = head.remove("alg") else {
            return Err("its header has no algorithm (alg)");
        };
        let key = match head.remove("kid") {
            Some(Value::String(key)) if (1..=MAX_KEY_NAME).contains(&key.len()) => key,
            _ => return Err("its header names no key (kid), or one with too long a name"),
        };
        Ok(Self { algorithm, key, claims, message: message.as_bytes(), signature })
    }
}

/// A JSON object in which no name stands twice, at any depth.
pub fn object(bytes: &[u8]) -> Option<Map<String, Value>> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Strict.deserialize(&mut reader).ok()?;
    reader.end().ok()?;
    match value {
        Value::Object(object) => Some(object),
        _ => None,
    }
}

#[derive(Clone, Copy)]
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON without a name twice")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("no number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = access.next_element_seed(self)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            let value = access.next_value_seed(self)?;
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a name stands there twice"));
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(head: &str, claims: &str) -> Result<(String, String), &'static str> {
        let text = format!("{}.{}.AA", URL_SAFE_NO_PAD.encode(head), URL_SAFE_NO_PAD.encode(claims));
        Parts::read(&text).map(|parts| (parts.algorithm, parts.key))
    }

    #[test]
    fn a_token_that_can_be_read_in_two_ways_is_refused() {
        let good = r#"{"alg":"RS256","kid":"a","typ":"JWT"}"#;
        assert_eq!(read(good, r#"{"sub":"ann"}"#), Ok(("RS256".to_owned(), "a".to_owned())));
        let long = format!(r#"{{"alg":"RS256","kid":"{}"}}"#, "a".repeat(MAX_KEY_NAME + 1));
        for head in [
            r#"{"alg":"RS256","alg":"none","kid":"a"}"#,
            r#"{"alg":"RS256","kid":"a","kid":"b"}"#,
            r#"{"alg":"RS256","kid":"a","crit":["exp"]}"#,
            r#"{"alg":"RS256","kid":"a","b64":false}"#,
            r#"{"alg":"RS256","kid":"a","typ":"logout+jwt"}"#,
            r#"{"alg":"RS256","kid":"a","typ":7}"#,
            r#"{"alg":"dir","enc":"A256GCM","kid":"a"}"#,
            r#"{"alg":["RS256"],"kid":"a"}"#,
            r#"{"alg":"RS256"}"#,
            r#"{"alg":"RS256","kid":""}"#,
            r#"{"alg":"RS256","kid":7}"#,
            r#"{"kid":"a"}"#,
            r#"["alg"]"#,
            r#"{"alg":"RS256","kid":"a"} {}"#,
            "",
            &long,
        ] {
            assert!(read(head, "{}").is_err(), "{head}");
        }
        let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
        for claims in [
            r#"{"sub":"ann","sub":"eve"}"#,
            r#"{"sub":"ann","s\u0075b":"eve"}"#,
            r#"{"a":{"b":1,"b":2}}"#,
            r#"{"a":[{"b":1,"b":2}]}"#,
            "[]",
            "null",
            &format!(r#"{{"a":{deep}}}"#),
        ] {
            assert!(read(good, claims).is_err(), "{claims}");
        }
        for text in ["", ".", "..", "a.b", "e30.e30.e30.e30", "e30=.e30.AA", "e30.e3 0.AA", "e30.e30.A+/A"] {
            assert!(Parts::read(text).is_err(), "{text}");
        }
    }
}
