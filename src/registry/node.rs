//! A document before it is understood: scalars, sequences and mappings, each with its place in a
//! file if it came from one. YAML and JSON both become nodes, so that one reader serves both.

use serde_json::{Number, Value as Json};

/// Where something stands in a file. Lines and columns count from 1; 0 means that there is no file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

#[derive(Clone, Debug)]
pub struct Node {
    pub place: Place,
    pub content: Content,
}

#[derive(Clone, Debug)]
pub enum Content {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    Sequence(Vec<Node>),
    /// In the order of the document; no key stands twice.
    Mapping(Vec<(Key, Node)>),
    /// Something that was reported when it was read, and is not to be reported again.
    Unreadable,
}

#[derive(Clone, Debug)]
pub struct Key {
    pub place: Place,
    pub text: String,
}

impl Node {
    pub fn of_json(json: &Json) -> Self {
        let content = match json {
            Json::Null => Content::Null,
            Json::Bool(value) => Content::Bool(*value),
            Json::Number(number) => match number.as_i64() {
                Some(integer) => Content::Integer(integer),
                None => Content::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Content::Text(text.clone()),
            Json::Array(elements) => Content::Sequence(elements.iter().map(Self::of_json).collect()),
            Json::Object(fields) => {
                let fields = fields.iter();
                let key = |text: &String| Key { place: Place::default(), text: text.clone() };
                Content::Mapping(fields.map(|(name, value)| (key(name), Self::of_json(value))).collect())
            }
        };
        Self { place: Place::default(), content }
    }

    /// What JSON can say of it; NaN and infinities by name.
    pub fn to_json(&self) -> Json {
        match &self.content {
            Content::Null | Content::Unreadable => Json::Null,
            Content::Bool(value) => Json::Bool(*value),
            Content::Integer(value) => Json::from(*value),
            Content::Float(value) => match Number::from_f64(*value) {
                Some(number) => Json::Number(number),
                None if value.is_nan() => Json::from("NaN"),
                None if *value > 0.0 => Json::from("Infinity"),
                None => Json::from("-Infinity"),
            },
            Content::Text(text) => Json::from(text.as_str()),
            Content::Sequence(elements) => Json::Array(elements.iter().map(Self::to_json).collect()),
            Content::Mapping(fields) => {
                Json::Object(fields.iter().map(|(key, value)| (key.text.clone(), value.to_json())).collect())
            }
        }
    }

    /// For messages.
    pub fn describe(&self) -> &'static str {
        match self.content {
            Content::Null => "nothing",
            Content::Bool(_) => "true or false (quote it if it is meant as a text)",
            Content::Integer(_) | Content::Float(_) => "a number (quote it if it is meant as a text)",
            Content::Text(_) => "a text",
            Content::Sequence(_) => "a list",
            Content::Mapping(_) => "a mapping",
            Content::Unreadable => "something unreadable",
        }
    }
}
