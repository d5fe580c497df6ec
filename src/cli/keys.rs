//! Entity keys as they are written on a command line: `origin=EWR,carrier=UA`, one argument a row.
//! What type a key has is told by the definitions; text is never guessed to be a number.

use std::collections::BTreeMap;

use arrow_array::ArrayRef;
use hydrant_storage::names::Name;
use hydrant_storage::row::ColumnBuilder;
use hydrant_storage::value::{DataType, ScalarType};
use serde_json::Value as Json;

use super::Failure;
use crate::registry::definition::{Definition, Spec, TypedName};
use crate::registry::values;

/// One `--key`: join keys and their values, in the order written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyArgument(pub Vec<(String, String)>);

/// The request columns that carry keys, and their types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyTypes {
    types: BTreeMap<String, ScalarType>,
    /// For people: `the service`, `the entity`.
    whose: &'static str,
}

/// Reads `origin=EWR,carrier=UA`; `\` makes the next character part of a value (`\,`, `\=`, `\\`).
pub fn parse(text: &str) -> Result<KeyArgument, String> {
    let mut pairs = Vec::new();
    let (mut name, mut current) = (None, String::new());
    let mut characters = text.chars();
    loop {
        match characters.next() {
            Some('\\') => current.push(characters.next().ok_or("it ends in a lone '\\'")?),
            Some('=') if name.is_none() => name = Some(std::mem::take(&mut current)),
            Some(',') | None if name.is_none() => return Err(format!("'{current}' is no NAME=VALUE")),
            end @ (Some(',') | None) => {
                let name = name.take().expect("checked above");
                if pairs.iter().any(|(other, _)| *other == name) {
                    return Err(format!("'{name}' is given twice"));
                }
                pairs.push((name, std::mem::take(&mut current)));
                if end.is_none() {
                    return Ok(KeyArgument(pairs));
                }
            }
            Some('=') if ends_in_a_name(&current) => {
                let name = name.unwrap_or_default();
                return Err(format!(
                    "'{name}={current}=' looks like two keys: put a comma between them, or write '\\=' within a value"
                ));
            }
            Some(other) => current.push(other),
        }
    }
}

/// Whether the value so far is followed, after a space, by what could be another key's name.
fn ends_in_a_name(value: &str) -> bool {
    value.rsplit_once(' ').is_some_and(|(_, last)| last.parse::<Name>().is_ok())
}

impl KeyTypes {
    /// The join keys of entities.
    pub fn of_entities<'a>(entities: impl Iterator<Item = &'a Definition>) -> Self {
        let keys = entities.flat_map(|definition| match &definition.spec {
            Spec::Entity(entity) => entity.join_keys.as_slice(),
            _ => &[],
        });
        let typed = |key: &TypedName| match key.data_type {
            DataType::Scalar(scalar) => Some((key.name.to_string(), scalar)),
            _ => None,
        };
        Self { types: keys.filter_map(typed).collect(), whose: "the entity" }
    }

    /// Those of a service: names and names of types.
    pub fn of_service<'a>(keys: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let typed = |(name, data_type): (&str, &str)| match data_type.parse::<DataType>() {
            Ok(DataType::Scalar(scalar)) => Some((name.to_owned(), scalar)),
            _ => None,
        };
        Self { types: keys.filter_map(typed).collect(), whose: "the service" }
    }

    /// With the columns of others.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.types.extend(other.types.clone());
        self
    }

    /// The type of a request column, where it carries keys.
    pub fn type_of(&self, column: &str) -> Option<DataType> {
        self.types.get(column).copied().map(DataType::Scalar)
    }

    /// One column per name, one value a row. Every row must give the same names.
    pub fn columns(&self, rows: &[KeyArgument]) -> Result<Vec<(String, ArrayRef)>, Failure> {
        let first = rows.first().map(|row| row.0.as_slice()).unwrap_or_default();
        let column = |name: &String| {
            let scalar = *self.types.get(name).ok_or_else(|| self.unknown(name))?;
            let mut builder = ColumnBuilder::new(DataType::Scalar(scalar), rows.len());
            for (index, row) in rows.iter().enumerate() {
                let text = row.value(name).ok_or_else(|| {
                    Failure::new(
                        "KEYS_DIFFER",
                        format!("--key number {} lacks '{name}', which the first one has", index + 1),
                    )
                    .hint("give the same keys in every --key")
                })?;
                if row.0.len() != first.len() {
                    return Err(Failure::new(
                        "KEYS_DIFFER",
                        format!("--key number {} has other keys than the first one", index + 1),
                    )
                    .hint("give the same keys in every --key"));
                }
                let value = values::from_json(&as_json(text, scalar), DataType::Scalar(scalar)).map_err(|error| {
                    Failure::new("WRONG_KEY", format!("--key number {}: '{name}': {error}", index + 1))
                        .with("key", name)
                })?;
                builder.push_value(&value).expect("it was read by this type");
            }
            Ok((name.clone(), builder.finish()))
        };
        first.iter().map(|(name, _)| column(name)).collect()
    }

    fn unknown(&self, name: &str) -> Failure {
        let known: Vec<&str> = self.types.keys().map(String::as_str).collect();
        Failure::new("UNKNOWN_KEY", format!("'{name}' is no join key of {}", self.whose))
            .hint(format!("the join keys are: {}", known.join(", ")))
            .with("key", name)
    }
}

impl KeyArgument {
    /// The keys and their values as they were written.
    pub fn pairs(&self) -> BTreeMap<String, String> {
        self.0.iter().cloned().collect()
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

/// The text as the JSON from which a value of the type is read.
fn as_json(text: &str, scalar: ScalarType) -> Json {
    match (scalar, text) {
        (ScalarType::Bool, "true") => Json::Bool(true),
        (ScalarType::Bool, "false") => Json::Bool(false),
        _ => Json::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> KeyArgument {
        KeyArgument(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    fn types(types: &[(&str, ScalarType)]) -> KeyTypes {
        let types = types.iter().map(|(name, scalar)| ((*name).to_owned(), *scalar)).collect();
        KeyTypes { types, whose: "the service" }
    }

    #[test]
    fn a_key_is_a_list_of_names_and_values() {
        assert_eq!(parse("origin=EWR,carrier=UA"), Ok(pairs(&[("origin", "EWR"), ("carrier", "UA")])));
        assert_eq!(parse("a="), Ok(pairs(&[("a", "")])));
        assert_eq!(parse(r"a=x\,y,b=p=q\\"), Ok(pairs(&[("a", "x,y"), ("b", r"p=q\")])));
        for wrong in ["", "EWR", "a=1,", "a=1,b", "a=1,a=2", r"a=1\"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        let forgotten = parse("origin=EWR carrier=UA").expect_err("its comma is missing");
        assert!(forgotten.contains("put a comma between them"), "{forgotten}");
        assert_eq!(parse(r"a=b c\=d"), Ok(pairs(&[("a", "b c=d")])));
        assert_eq!(parse("a=b =="), Ok(pairs(&[("a", "b ==")])));
    }

    #[test]
    fn keys_take_the_type_of_their_entity_and_nothing_is_guessed() {
        let types = types(&[("id", ScalarType::Int64), ("code", ScalarType::String), ("flag", ScalarType::Bool)]);
        let columns = types.columns(&[pairs(&[("id", "007"), ("code", "007"), ("flag", "true")])]).expect("they fit");
        let shown: Vec<_> = columns.iter().map(|(name, array)| (name.as_str(), array.data_type().clone())).collect();
        let expected = [ScalarType::Int64, ScalarType::String, ScalarType::Bool].map(ScalarType::to_arrow);
        assert_eq!(shown, ["id", "code", "flag"].into_iter().zip(expected).collect::<Vec<_>>());
        for (name, text) in [("id", "1.5"), ("flag", "yes"), ("nothing", "1")] {
            assert!(types.columns(&[pairs(&[(name, text)])]).is_err(), "{name}={text}");
        }
    }

    #[test]
    fn every_row_gives_the_same_keys() {
        let types = types(&[("a", ScalarType::String), ("b", ScalarType::String)]);
        let row = |text: &str| parse(text).expect(text);
        assert!(types.columns(&[row("a=1,b=2"), row("b=3,a=4")]).is_ok());
        for other in ["a=1", "a=1,b=2,c=3"] {
            let failure = types.columns(&[row("a=1,b=2"), row(other)]).expect_err(other);
            assert!(failure.message.contains("number 2"), "{}", failure.message);
        }
    }
}
