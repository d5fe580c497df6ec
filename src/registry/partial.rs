//! What can be read of a document although something in it can't: so that what is wrong between
//! documents is found together with what is wrong within them.

use hydrant_storage::names::Name;

use super::definition::Kind;
use super::node::{Content, Node};
use super::reader::Problem;

/// A document without what can't be read.
pub(super) struct Remainder {
    pub document: Node,
    pub gaps: Vec<Gap>,
}

/// A list or mapping that something was taken out of: what it lacks says nothing.
#[derive(Clone, Debug)]
pub(super) struct Gap {
    pub path: String,
    /// Of a list, where the elements that are left stood.
    stood: Vec<usize>,
}

impl Gap {
    /// A path of the remainder as it is in the document, if it leads into this list.
    pub fn as_written(&self, path: &str) -> Option<String> {
        let (index, rest) = path.strip_prefix(&self.path)?.strip_prefix('[')?.split_once(']')?;
        let stood = self.stood.get(index.parse::<usize>().ok()?)?;
        Some(format!("{}[{stood}]{rest}", self.path))
    }
}

impl Remainder {
    /// Takes out the fields that have a problem, and of lists the elements with a problem anywhere in
    /// them.
    pub fn of(document: &Node, problems: &[Problem]) -> Self {
        let paths: Vec<&str> = problems.iter().map(|problem| problem.path.as_str()).collect();
        let mut gaps = Vec::new();
        let document = without(document, "", &paths, &mut gaps);
        Self { document, gaps }
    }
}

/// What kind of definition a document is of and under which name, as far as it says so.
pub(super) fn kind_and_name(document: &Node) -> (Option<Kind>, Option<Name>) {
    let kind = field(document, "kind").and_then(text);
    let kind = kind.and_then(|text| Kind::ALL.into_iter().find(|kind| kind.as_str() == text));
    let name = field(document, "metadata").and_then(|metadata| field(metadata, "name")).and_then(text);
    (kind, name.and_then(|text| text.parse().ok()))
}

fn without(node: &Node, path: &str, problems: &[&str], gaps: &mut Vec<Gap>) -> Node {
    let content = match &node.content {
        Content::Sequence(elements) => {
            let is_good = |(index, element): &(usize, &Node)| {
                let path = format!("{path}[{index}]");
                !problems.iter().any(|problem| is_at_or_under(problem, &path)) && !has_unreadable(element)
            };
            let (stood, good): (Vec<usize>, Vec<Node>) =
                elements.iter().enumerate().filter(is_good).map(|(index, node)| (index, node.clone())).unzip();
            if good.len() < elements.len() {
                gaps.push(Gap { path: path.to_owned(), stood });
            }
            Content::Sequence(good)
        }
        Content::Mapping(entries) => {
            let mut good = Vec::with_capacity(entries.len());
            for (key, value) in entries {
                let path = if path.is_empty() { key.text.clone() } else { format!("{path}.{}", key.text) };
                let is_bad = problems.contains(&path.as_str()) || matches!(value.content, Content::Unreadable);
                if !is_bad {
                    good.push((key.clone(), without(value, &path, problems, gaps)));
                }
            }
            if good.len() < entries.len() {
                gaps.push(Gap { path: path.to_owned(), stood: Vec::new() });
            }
            Content::Mapping(good)
        }
        other => other.clone(),
    };
    Node { place: node.place, content }
}

fn is_at_or_under(problem: &str, path: &str) -> bool {
    problem.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

fn has_unreadable(node: &Node) -> bool {
    match &node.content {
        Content::Unreadable => true,
        Content::Sequence(elements) => elements.iter().any(has_unreadable),
        Content::Mapping(entries) => entries.iter().any(|(_, value)| has_unreadable(value)),
        _ => false,
    }
}

fn field<'a>(node: &'a Node, name: &str) -> Option<&'a Node> {
    let Content::Mapping(entries) = &node.content else { return None };
    entries.iter().find(|(key, _)| key.text == name).map(|(_, value)| value)
}

fn text(node: &Node) -> Option<&str> {
    match &node.content {
        Content::Text(text) => Some(text),
        _ => None,
    }
}
