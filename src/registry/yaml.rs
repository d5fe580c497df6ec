//! Definitions out of YAML files. Every problem is listed at once with file, line and column. Size,
//! depth and what aliases expand to are bounded, so that no file can take memory or stack.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use saphyr::Scalar;
use saphyr_parser::{Event, Marker, Parser, Span, Tag};

use super::definition::Definition;
use super::documents;
use super::node::{Content, Key, Node, Place};
use super::partial::{Gap, Remainder, kind_and_name};
use super::world::Unread;

/// The largest file.
pub const MAX_BYTES: usize = 4 << 20;
/// How deep lists and mappings may lie in one another.
pub const MAX_DEPTH: usize = 32;
/// How many nodes a file may hold, with those that aliases stand for.
pub const MAX_NODES: usize = 400_000;

/// The definitions of one file.
#[derive(Clone, Debug, Default)]
pub struct DefinitionFile {
    pub definitions: Vec<Located>,
}

/// A file with problems, and what can be read in it all the same.
#[derive(Clone, Debug, Default)]
pub struct BadFile {
    /// In the order in which they stand.
    pub problems: Vec<FileProblem>,
    /// As far as they can be read; those with gaps are among `unread` too.
    pub definitions: Vec<Located>,
    pub unread: Unread,
}

/// A definition and where it was written.
#[derive(Clone, Debug)]
pub struct Located {
    pub definition: Definition,
    pub file: Arc<str>,
    /// The line on which the document's content begins.
    pub line: usize,
    places: BTreeMap<String, Place>,
    gaps: Vec<Gap>,
}

/// One wrong place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileProblem {
    pub file: Arc<str>,
    pub place: Place,
    /// In the document, such as `spec.features[2].type`; empty if the file can't be read that far.
    pub path: String,
    pub message: String,
}

/// Reads every document of a file. `file` is only shown.
pub fn parse(file: &str, text: &str) -> Result<DefinitionFile, BadFile> {
    let file: Arc<str> = file.into();
    let mut loader = Loader::new(Arc::clone(&file));
    loader.read(text);
    let Loader { documents, problems, is_whole, .. } = loader;
    let mut found = BadFile { problems, ..BadFile::default() };
    if !is_whole {
        found.unread.insert(None, None);
    }
    let broken: Vec<Place> = found.problems.iter().map(|problem| problem.place).collect();
    for (index, document) in documents.iter().enumerate() {
        let end = documents.get(index + 1).map(|next| next.place);
        let is_broken = broken.iter().any(|at| *at >= document.place && end.is_none_or(|end| *at < end));
        found.read(&file, document, is_broken);
    }
    found.problems.sort_by_key(|problem| problem.place);
    if found.problems.is_empty() { Ok(DefinitionFile { definitions: found.definitions }) } else { Err(found) }
}

/// The documents of a file before they are understood, for readers of other documents than
/// definitions. `file` is only shown.
pub(super) fn nodes(file: &str, text: &str) -> Result<Vec<Node>, Vec<FileProblem>> {
    let mut loader = Loader::new(file.into());
    loader.read(text);
    if loader.problems.is_empty() { Ok(loader.documents) } else { Err(loader.problems) }
}

impl BadFile {
    /// Reads a document, as far as it goes. `is_broken` are those that the parser had trouble with.
    fn read(&mut self, file: &Arc<str>, document: &Node, is_broken: bool) {
        let problems = match documents::read(document) {
            Ok(definition) if !is_broken => {
                self.definitions.push(Located::new(definition, file, document, Vec::new()));
                return;
            }
            Ok(_) => Vec::new(),
            Err(problems) => problems,
        };
        let (kind, name) = kind_and_name(document);
        self.unread.insert(kind, name);
        let remainder = Remainder::of(document, &problems);
        if let Ok(definition) = documents::read(&remainder.document) {
            self.definitions.push(Located::new(definition, file, &remainder.document, remainder.gaps));
        }
        self.problems.extend(problems.into_iter().map(|problem| FileProblem {
            file: Arc::clone(file),
            place: problem.place,
            path: problem.path,
            message: problem.message,
        }));
    }
}

impl Located {
    fn new(definition: Definition, file: &Arc<str>, document: &Node, gaps: Vec<Gap>) -> Self {
        let mut places = BTreeMap::new();
        collect_places(document, String::new(), &mut places);
        Self { definition, file: Arc::clone(file), line: document.place.line, places, gaps }
    }

    /// Whether what stands at a path is only a part of what was written there: what it lacks may be
    /// what couldn't be read.
    pub fn has_gap_at(&self, path: &str) -> bool {
        self.gaps.iter().any(|gap| gap.path == path)
    }

    /// A path as it is in the file, where elements before it couldn't be read.
    pub fn as_written(&self, path: &str) -> String {
        self.gaps.iter().find_map(|gap| gap.as_written(path)).unwrap_or_else(|| path.to_owned())
    }

    /// Where a path such as `spec.features[2].type` stands; for what isn't written, where the
    /// nearest thing around it is.
    pub fn place_of(&self, path: &str) -> Place {
        let mut path = path;
        loop {
            if let Some(place) = self.places.get(path) {
                return *place;
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return Place { line: self.line, column: 1 },
            }
        }
    }

    /// The line of a path.
    pub fn line_of(&self, path: &str) -> usize {
        self.place_of(path).line
    }
}

impl fmt::Display for FileProblem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}:{}: ", self.file, self.place.line, self.place.column)?;
        if !self.path.is_empty() {
            write!(formatter, "{}: ", self.path)?;
        }
        formatter.write_str(&self.message)
    }
}

fn collect_places(node: &Node, path: String, places: &mut BTreeMap<String, Place>) {
    match &node.content {
        Content::Sequence(elements) => {
            for (index, element) in elements.iter().enumerate() {
                collect_places(element, format!("{path}[{index}]"), places);
            }
        }
        Content::Mapping(entries) => {
            for (key, value) in entries {
                let path = if path.is_empty() { key.text.clone() } else { format!("{path}.{}", key.text) };
                collect_places(value, path, places);
            }
        }
        _ => {}
    }
    places.insert(path, node.place);
}

/// Builds nodes out of the parser's events.
struct Loader {
    file: Arc<str>,
    documents: Vec<Node>,
    problems: Vec<FileProblem>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    /// It was read to its end.
    is_whole: bool,
}

/// A list or mapping whose end hasn't come yet.
struct Open {
    place: Place,
    anchor: usize,
    content: OpenContent,
}

enum OpenContent {
    Sequence(Vec<Node>),
    Mapping { entries: Vec<(Key, Node)>, key: Option<PendingKey>, index: HashMap<String, Place> },
}

/// A mapping's key that waits for its value.
enum PendingKey {
    Good(Key),
    /// Reported; its value is dropped.
    Bad,
}

/// The file can't be read on; why is among the problems.
struct Stop;

impl Loader {
    fn new(file: Arc<str>) -> Self {
        let (documents, problems, open) = (Vec::new(), Vec::new(), Vec::new());
        Self { file, documents, problems, open, anchors: HashMap::new(), nodes: 0, is_whole: false }
    }

    fn read(&mut self, text: &str) {
        if text.len() > MAX_BYTES {
            let message = format!("the file has {} bytes; at most {MAX_BYTES}", text.len());
            self.problem(Place { line: 1, column: 1 }, message);
        } else {
            self.load(text);
        }
    }

    fn load(&mut self, text: &str) {
        let mut parser = Parser::new_from_str(text);
        while let Some(event) = parser.next_event() {
            match event {
                Ok((event, span)) => {
                    if let Err(Stop) = self.take(event, span) {
                        return;
                    }
                }
                Err(error) => {
                    self.problem(place(error.marker()), format!("no valid YAML: {}", error.info()));
                    return;
                }
            }
        }
        self.is_whole = true;
    }

    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Stop> {
        let place = place(&span.start);
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.anchors.clear();
                Ok(())
            }
            Event::Alias(anchor) => {
                let target = self.anchors.get(&anchor).cloned();
                let node = target.unwrap_or_else(|| {
                    self.problem(place, "an alias within what it stands for".to_owned());
                    Node { place, content: Content::Unreadable }
                });
                self.count(size(&node), place)?;
                self.add(Node { place, ..node }, 0)
            }
            Event::Scalar(text, style, anchor, tag) => {
                let scalar = Scalar::parse_from_cow_and_metadata(text, style, tag.as_ref());
                let known_tag = tag.as_deref().is_none_or(Tag::is_yaml_core_schema);
                let content = match scalar.filter(|_| known_tag) {
                    Some(scalar) => content(scalar),
                    None => {
                        self.problem(place, "its tag is not known, or doesn't fit".to_owned());
                        Content::Unreadable
                    }
                };
                self.add(Node { place, content }, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.check_collection_tag(tag.as_deref(), place);
                self.open(place, anchor, OpenContent::Sequence(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                self.check_collection_tag(tag.as_deref(), place);
                let content = OpenContent::Mapping { entries: Vec::new(), key: None, index: HashMap::new() };
                self.open(place, anchor, content)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(closed) = self.open.pop() else { return Ok(()) };
                let content = match closed.content {
                    OpenContent::Sequence(elements) => Content::Sequence(elements),
                    OpenContent::Mapping { entries, .. } => Content::Mapping(entries),
                };
                self.add(Node { place: closed.place, content }, closed.anchor)
            }
        }
    }

    fn open(&mut self, place: Place, anchor: usize, content: OpenContent) -> Result<(), Stop> {
        if self.open.len() == MAX_DEPTH {
            self.problem(place, format!("lists and mappings lie more than {MAX_DEPTH} deep in one another"));
            return Err(Stop);
        }
        self.open.push(Open { place, anchor, content });
        Ok(())
    }

    /// Puts a finished node where it belongs.
    fn add(&mut self, node: Node, anchor: usize) -> Result<(), Stop> {
        self.count(1, node.place)?;
        if anchor != 0 {
            self.count(size(&node), node.place)?;
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            // A document of nothing but comments defines nothing.
            if !matches!(node.content, Content::Null) {
                self.documents.push(node);
            }
            return Ok(());
        };
        match &mut open.content {
            OpenContent::Sequence(elements) => elements.push(node),
            OpenContent::Mapping { entries, key, index } => match key.take() {
                Some(PendingKey::Good(key)) => entries.push((key, node)),
                Some(PendingKey::Bad) => {}
                None => {
                    let place = node.place;
                    match key_text(node.content) {
                        None => {
                            *key = Some(PendingKey::Bad);
                            self.problem(place, "the key of a mapping must be a text".to_owned());
                        }
                        Some(text) => match index.get(&text).copied() {
                            None => {
                                index.insert(text.clone(), place);
                                *key = Some(PendingKey::Good(Key { place, text }));
                            }
                            Some(first) => {
                                *key = Some(PendingKey::Bad);
                                let shown: String = text.chars().take(80).collect();
                                let message = format!("'{shown}' stands here twice; first on line {}", first.line);
                                self.problem(place, message);
                            }
                        },
                    }
                }
            },
        }
        Ok(())
    }

    fn count(&mut self, nodes: usize, place: Place) -> Result<(), Stop> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes <= MAX_NODES {
            return Ok(());
        }
        self.problem(place, format!("the file holds more than {MAX_NODES} nodes, with those that aliases stand for"));
        Err(Stop)
    }

    fn check_collection_tag(&mut self, tag: Option<&Tag>, place: Place) {
        if let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema()) {
            let shown: String = tag.to_string().chars().take(80).collect();
            self.problem(place, format!("tag '{shown}' is not known"));
        }
    }

    fn problem(&mut self, place: Place, message: String) {
        self.problems.push(FileProblem { file: Arc::clone(&self.file), place, path: String::new(), message });
    }
}

fn size(node: &Node) -> usize {
    match &node.content {
        Content::Sequence(elements) => 1 + elements.iter().map(size).sum::<usize>(),
        Content::Mapping(entries) => 1 + entries.iter().map(|(_, value)| 1 + size(value)).sum::<usize>(),
        _ => 1,
    }
}

fn content(scalar: Scalar<'_>) -> Content {
    match scalar {
        Scalar::Null => Content::Null,
        Scalar::Boolean(value) => Content::Bool(value),
        Scalar::Integer(value) => Content::Integer(value),
        Scalar::FloatingPoint(value) => Content::Float(value.into_inner()),
        Scalar::String(text) => Content::Text(text.into_owned()),
    }
}

fn key_text(content: Content) -> Option<String> {
    match content {
        Content::Text(text) => Some(text),
        _ => None,
    }
}

fn place(marker: &Marker) -> Place {
    Place { line: marker.line(), column: marker.col() + 1 }
}
