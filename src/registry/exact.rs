//! Persists a JSON value so that its numbers come back to the last bit. The JSON reader rounds
//! some decimal fractions by one unit in the last place, which would change a frozen default at a
//! restart; so fractions are written as the bits they are.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Number, Value as Json};

/// A JSON value whose fractions are bits.
#[derive(Serialize, Deserialize)]
enum Exact {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    FractionBits(u64),
    Text(String),
    List(Vec<Exact>),
    Mapping(Vec<(String, Exact)>),
}

pub fn serialize<S: Serializer>(json: &Option<Json>, serializer: S) -> Result<S::Ok, S::Error> {
    json.as_ref().map(to_exact).serialize(serializer)
}

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Json>, D::Error> {
    let exact = Option::<Exact>::deserialize(deserializer)?;
    Ok(exact.map(to_json))
}

fn to_exact(json: &Json) -> Exact {
    match json {
        Json::Null => Exact::Null,
        Json::Bool(value) => Exact::Bool(*value),
        Json::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
            (Some(value), _, _) => Exact::Unsigned(value),
            (None, Some(value), _) => Exact::Signed(value),
            (None, None, Some(value)) => Exact::FractionBits(value.to_bits()),
            (None, None, None) => Exact::Null,
        },
        Json::String(text) => Exact::Text(text.clone()),
        Json::Array(elements) => Exact::List(elements.iter().map(to_exact).collect()),
        Json::Object(fields) => {
            Exact::Mapping(fields.iter().map(|(name, value)| (name.clone(), to_exact(value))).collect())
        }
    }
}

fn to_json(exact: Exact) -> Json {
    match exact {
        Exact::Null => Json::Null,
        Exact::Bool(value) => Json::Bool(value),
        Exact::Unsigned(value) => Json::from(value),
        Exact::Signed(value) => Json::from(value),
        Exact::FractionBits(bits) => Number::from_f64(f64::from_bits(bits)).map_or(Json::Null, Json::Number),
        Exact::Text(text) => Json::String(text),
        Exact::List(elements) => Json::Array(elements.into_iter().map(to_json).collect()),
        Exact::Mapping(fields) => {
            Json::Object(fields.into_iter().map(|(name, value)| (name, to_json(value))).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Holder(#[serde(with = "super")] Option<Json>);

    fn there_and_back(json: Option<Json>) -> Option<Json> {
        let bytes = serde_json::to_vec(&Holder(json)).expect("it is written");
        serde_json::from_slice::<Holder>(&bytes).expect("it is read").0
    }

    #[test]
    fn what_is_persisted_comes_back() {
        for json in [None, Some(json!(null)), Some(json!([-1, u64::MAX, true, "x", {"a": [0.1, -0.0]}]))] {
            assert_eq!(there_and_back(json.clone()), json);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn fractions_come_back_to_the_last_bit(bits: u64) {
            let value = f64::from_bits(bits);
            prop_assume!(value.is_finite());
            let back = there_and_back(Some(json!(value))).and_then(|json| json.as_f64()).expect("a number");
            prop_assert_eq!(back.to_bits(), value.to_bits());
        }
    }
}
