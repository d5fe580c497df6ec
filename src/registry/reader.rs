//! Reads fields out of nodes by type. Whatever is wrong becomes a problem with its path and place,
//! and reading goes on, so that one pass finds everything.

use std::collections::BTreeMap;

use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;
use hydrant_storage::value::DataType;

use super::node::{Content, Node, Place};
use crate::config::durations;

/// One wrong place in a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Such as `spec.features[2].type`; empty for the document as a whole.
    pub path: String,
    pub place: Place,
    pub message: String,
}

/// Collects the problems of one document.
#[derive(Debug, Default)]
pub struct Problems {
    found: Vec<Problem>,
}

/// The fields of one mapping.
#[derive(Debug)]
pub struct Fields<'a> {
    path: String,
    place: Place,
    entries: Vec<(&'a str, &'a Node)>,
    /// The mapping itself couldn't be read: that its fields are missing was said already.
    broken: bool,
}

impl Problems {
    pub fn add(&mut self, path: impl Into<String>, place: Place, message: impl Into<String>) {
        self.found.push(Problem { path: path.into(), place, message: message.into() });
    }

    pub fn into_vec(self) -> Vec<Problem> {
        self.found
    }

    /// The fields of a mapping; unknown ones are problems.
    pub fn fields<'a>(&mut self, node: &'a Node, path: &str, known: &[&str]) -> Fields<'a> {
        let mut fields = Fields { path: path.to_owned(), place: node.place, entries: Vec::new(), broken: false };
        let Content::Mapping(entries) = &node.content else {
            self.wanted::<()>(node, path, "a mapping");
            fields.broken = true;
            return fields;
        };
        for (key, value) in entries {
            if known.contains(&key.text.as_str()) {
                fields.entries.push((&key.text, value));
            } else {
                let shown: String = key.text.chars().take(80).collect();
                let message = format!("unknown field '{shown}'; known here: {}", known.join(", "));
                self.add(join(path, &shown), key.place, message);
            }
        }
        fields
    }

    pub fn text(&mut self, node: &Node, path: &str) -> Option<String> {
        match &node.content {
            Content::Text(text) => Some(text.clone()),
            _ => self.wanted(node, path, "a text"),
        }
    }

    pub fn boolean(&mut self, node: &Node, path: &str) -> Option<bool> {
        match node.content {
            Content::Bool(value) => Some(value),
            _ => self.wanted(node, path, "true or false"),
        }
    }

    /// A text that a type reads: a name, a type, a duration.
    pub fn parsed<T, E: ToString>(
        &mut self,
        node: &Node,
        path: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text(node, path)?;
        parse(&text).map_err(|error| self.add(path, node.place, error.to_string())).ok()
    }

    pub fn name(&mut self, node: &Node, path: &str) -> Option<Name> {
        self.parsed(node, path, str::parse)
    }

    pub fn data_type(&mut self, node: &Node, path: &str) -> Option<DataType> {
        self.parsed(node, path, str::parse)
    }

    pub fn duration(&mut self, node: &Node, path: &str) -> Option<Micros> {
        self.parsed(node, path, durations::parse)
    }

    /// Each element with its path.
    pub fn sequence<'a>(&mut self, node: &'a Node, path: &str) -> Vec<(&'a Node, String)> {
        match &node.content {
            Content::Sequence(elements) => {
                let elements = elements.iter().enumerate();
                elements.map(|(index, element)| (element, format!("{path}[{index}]"))).collect()
            }
            _ => {
                self.wanted::<()>(node, path, "a list");
                Vec::new()
            }
        }
    }

    pub fn names(&mut self, node: &Node, path: &str) -> Vec<Name> {
        let elements = self.sequence(node, path);
        elements.into_iter().filter_map(|(element, path)| self.name(element, &path)).collect()
    }

    /// A mapping from texts to texts.
    pub fn texts(&mut self, node: &Node, path: &str) -> BTreeMap<String, String> {
        let Content::Mapping(entries) = &node.content else {
            self.wanted::<()>(node, path, "a mapping");
            return BTreeMap::new();
        };
        let mut texts = BTreeMap::new();
        for (key, value) in entries {
            if let Some(text) = self.text(value, &join(path, &key.text)) {
                texts.insert(key.text.clone(), text);
            }
        }
        texts
    }

    /// A mapping from names to names.
    pub fn name_pairs(&mut self, node: &Node, path: &str) -> BTreeMap<Name, Name> {
        let Content::Mapping(entries) = &node.content else {
            self.wanted::<()>(node, path, "a mapping");
            return BTreeMap::new();
        };
        let mut pairs = BTreeMap::new();
        for (key, value) in entries {
            let path = join(path, &key.text);
            let from = key.text.parse::<Name>().map_err(|error| self.add(&path, key.place, error.to_string())).ok();
            if let (Some(from), Some(to)) = (from, self.name(value, &path)) {
                pairs.insert(from, to);
            }
        }
        pairs
    }

    /// Says what was wanted instead of what stands there; nothing where that was reported already.
    pub fn wanted<T>(&mut self, node: &Node, path: &str, what: &str) -> Option<T> {
        if !matches!(node.content, Content::Unreadable) {
            self.add(path, node.place, format!("expected {what}, found {}", node.describe()));
        }
        None
    }
}

impl<'a> Fields<'a> {
    /// A field and its path; a problem if it is missing.
    pub fn required(&self, problems: &mut Problems, name: &str) -> Option<(&'a Node, String)> {
        let found = self.optional(name);
        if found.is_none() && !self.broken {
            problems.add(self.path_of(name), self.place, format!("'{name}' is missing"));
        }
        found
    }

    pub fn optional(&self, name: &str) -> Option<(&'a Node, String)> {
        let entry = self.entries.iter().find(|(known, _)| *known == name);
        entry.map(|(_, node)| (*node, self.path_of(name)))
    }

    /// An optional field that says nothing unless it has a value: `ttl:` alone means no ttl.
    pub fn optional_value(&self, name: &str) -> Option<(&'a Node, String)> {
        self.optional(name).filter(|(node, _)| !matches!(node.content, Content::Null))
    }

    fn path_of(&self, name: &str) -> String {
        join(&self.path, name)
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
