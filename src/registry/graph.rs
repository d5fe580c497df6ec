//! Lineage column by column, as a value: what there is, what each is made of, and who uses it. A
//! graph is made by a pure function of what a tenant has defined and of the training sets that are
//! saved; it never reads data, and knows of other tenants only what is shared with them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::rc::Rc;

use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;

use super::catalog::{Source, TenantCatalog, View};
use super::definition::{KnownTimeRule, Spec};
use super::selection::is_of_another;
use super::shares::Shared;
use crate::error::{Error, Result};

/// The longest name that is looked for, in bytes.
pub const MAX_NAME_BYTES: usize = 256;
/// The most nodes of an answer.
pub const MAX_NODES: usize = 20_000;
/// How many names a refusal lists.
const SHOWN: usize = 10;

/// What a node stands for, in the order in which one is made of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeKind {
    Entity,
    Source,
    Column,
    FeatureView,
    Feature,
    FeatureService,
    Spine,
    TrainingSet,
    Consumer,
    Share,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node {
    pub kind: NodeKind,
    /// `weather.temp` of a column, `airport_weather:temp` of a feature, `delay_model@1` of a version of
    /// a service, `acme/delay_model@1` of one that another tenant shares, the id of a spine, `flights@2` of
    /// a training set, the number of a share.
    pub name: String,
    /// Whom to ask: the definition's owner, of columns and features that of what they belong to, of what
    /// another tenant shares that tenant, of a share the tenant that it is to and its end.
    pub owner: String,
    /// The type of a column or feature, the version of a consumer's model, what a share is of; empty of
    /// others.
    pub about: String,
}

/// How one is made of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A source has the column.
    Has,
    /// The feature's values are the column's.
    Feeds,
    /// The column is a join key of the view.
    Key,
    /// The column is the event time of the view's rows.
    EventTime,
    /// The column says when the view's rows were known.
    KnownTime,
    /// The view is about the entity.
    Identifies,
    /// The feature belongs to the view.
    PartOf,
    /// The version of the service has the feature in its columns.
    Taken,
    /// The version of the service, or the consumer, looks up rows of the view.
    LookedUp,
    /// The training set is made of the version of the service.
    Trains,
    /// The training set has a row for each of the spine's.
    SpineOf,
    /// The consumer uses each service that the training set is made of, in the same version, so its model
    /// may be made of it. Nobody says which was.
    MayTrain,
    /// The consumer says that it uses it.
    UsedBy,
    /// The share lets another tenant read it.
    SharedBy,
}

/// `to` is made of `from`: indices into the nodes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    pub from: usize,
    pub to: usize,
    pub role: Role,
    /// The service's columns where a feature is taken; empty otherwise.
    pub label: String,
}

/// Whom one definition touches, found once.
type AllTouched = Rc<Vec<Touched>>;

/// A graph of which many are asked who lies downstream: what is found once is kept.
#[derive(Debug, Default)]
pub struct Downstream {
    graph: Graph,
    leaving: Vec<Vec<usize>>,
    by_name: HashMap<(NodeKind, String), Vec<usize>>,
    known: RefCell<HashMap<(NodeKind, String), AllTouched>>,
}

impl Downstream {
    pub fn new(graph: Graph) -> Self {
        let leaving = graph.leaving(true);
        let mut by_name: HashMap<(NodeKind, String), Vec<usize>> = HashMap::new();
        for (index, node) in graph.nodes.iter().enumerate() {
            by_name.entry((node.kind, node.name.clone())).or_default().push(index);
            if let Some((name, _)) = node.name.split_once('@') {
                by_name.entry((node.kind, name.to_owned())).or_default().push(index);
            }
        }
        Self { graph, leaving, by_name, known: RefCell::default() }
    }

    /// Who lies downstream of the nodes with a name, `name` meaning all versions, and is to be told before
    /// they change, in order; without themselves. Of what isn't there, nobody.
    pub fn of(&self, kind: NodeKind, name: &str) -> Rc<Vec<Touched>> {
        let key = (kind, name.to_owned());
        if let Some(known) = self.known.borrow().get(&key) {
            return Rc::clone(known);
        }
        let starts = self.by_name.get(&key).map(Vec::as_slice).unwrap_or_default();
        let mut found = Reached::default();
        self.graph.follow(starts, true, &self.leaving, &mut found);
        found.nodes.retain(|node| !starts.contains(node));
        let touched = Rc::new(self.graph.told_of(&found.nodes));
        self.known.borrow_mut().insert(key, Rc::clone(&touched));
        touched
    }
}

/// Nodes and edges, by their indices.
#[derive(Debug, Default)]
struct Reached {
    nodes: HashSet<usize>,
    edges: HashSet<usize>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Graph {
    /// By kind and name.
    pub nodes: Vec<Node>,
    pub edges: Vec<Edge>,
}

/// What a saved training set is made of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Used {
    /// A version of a service, by the name that the training set's tenant has for it: `owner/name` of
    /// another tenant's.
    Service { name: String, number: u32 },
    /// A stored spine, by its id.
    Spine(String),
}

/// A saved training set, `name@N`, and something that it is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainingSetUse {
    pub used: Used,
    pub training_set: String,
}

/// Which way to follow edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Up,
    Down,
    Both,
}

/// Somebody to tell: a version of a service, a training set, a consumer, or by a share another tenant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Touched {
    pub kind: NodeKind,
    pub name: String,
    pub owner: String,
}

impl NodeKind {
    pub const ALL: [Self; 10] = [
        Self::Entity,
        Self::Source,
        Self::Column,
        Self::FeatureView,
        Self::Feature,
        Self::FeatureService,
        Self::Spine,
        Self::TrainingSet,
        Self::Consumer,
        Self::Share,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Entity => "Entity",
            Self::Source => "Source",
            Self::Column => "Column",
            Self::FeatureView => "FeatureView",
            Self::Feature => "Feature",
            Self::FeatureService => "FeatureService",
            Self::Spine => "Spine",
            Self::TrainingSet => "TrainingSet",
            Self::Consumer => "Consumer",
            Self::Share => "Share",
        }
    }
}

impl Role {
    /// Completes "FROM … TO", as `weather.temp feeds airport_weather:temp`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Has => "has",
            Self::Feeds => "feeds",
            Self::Key => "is a join key of",
            Self::EventTime => "is the event time of",
            Self::KnownTime => "is the known time of",
            Self::Identifies => "identifies rows of",
            Self::PartOf => "is part of",
            Self::Taken => "is taken by",
            Self::LookedUp => "is looked up by",
            Self::Trains => "is trained on in",
            Self::SpineOf => "is the spine of",
            Self::MayTrain => "may train",
            Self::UsedBy => "is used by",
            Self::SharedBy => "is shared by",
        }
    }
}

impl std::fmt::Display for Touched {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", self.kind.as_str(), self.name)?;
        if self.owner.is_empty() { Ok(()) } else { write!(formatter, " ({})", self.owner) }
    }
}

/// Everything that a tenant has, and how it hangs together; with the shares that hold at `now`.
pub fn of(catalog: &TenantCatalog, training_sets: &[TrainingSetUse], now: Micros) -> Graph {
    let mut builder = Builder::default();
    for (name, entity) in &catalog.entities {
        builder.node(NodeKind::Entity, name.to_string(), owner(&entity.applied), String::new());
    }
    for source in catalog.sources.values() {
        builder.source(source);
    }
    // A view is one node in all its versions, with the features of all of them.
    for view in catalog.all_views() {
        builder.view(view, catalog.sources.get(&view.source).map(AsRef::as_ref));
    }
    for version in catalog.services.values().flat_map(|service| &service.versions) {
        let owned_by = catalog.services.get(&version.service).map(|service| owner(&service.applied));
        let name = format!("{}@{}", version.service, version.number);
        let to = builder.node(NodeKind::FeatureService, name, owned_by.unwrap_or_default(), String::new());
        for lookup in &version.lookups {
            let from = builder.find(NodeKind::FeatureView, lookup.view.name.as_str());
            builder.edge(from, Some(to), Role::LookedUp, "");
        }
        for column in &version.columns {
            let view = &version.lookups[column.lookup].view;
            let feature = format!("{}:{}", view.name, view.features[column.feature].name);
            let from = builder.find(NodeKind::Feature, &feature);
            builder.edge(from, Some(to), Role::Taken, &column.name);
        }
    }
    // The versions of services that each set is made of.
    let mut trained: BTreeMap<usize, BTreeSet<(&str, u32)>> = BTreeMap::new();
    for TrainingSetUse { used, training_set } in training_sets {
        let to = builder.node(NodeKind::TrainingSet, training_set.clone(), String::new(), String::new());
        match used {
            Used::Service { name, number } => {
                let from = builder.version(name, *number);
                builder.edge(from, Some(to), Role::Trains, "");
                trained.entry(to).or_default().insert((name, *number));
            }
            Used::Spine(id) => {
                let from = builder.node(NodeKind::Spine, id.clone(), String::new(), String::new());
                builder.edge(Some(from), Some(to), Role::SpineOf, "");
            }
        }
    }
    for (name, consumer) in &catalog.consumers {
        let about = consumer.version.clone();
        let to = builder.node(NodeKind::Consumer, name.to_string(), owner(&consumer.applied), about);
        let used: BTreeSet<(&str, u32)> =
            consumer.versions(catalog).map(|(service, number)| (service.as_str(), number)).collect();
        for (service, number) in &used {
            let from = builder.find(NodeKind::FeatureService, &format!("{service}@{number}"));
            builder.edge(from, Some(to), Role::UsedBy, "");
        }
        for (set, _) in trained.iter().filter(|(_, made_of)| made_of.is_subset(&used)) {
            builder.edge(Some(*set), Some(to), Role::MayTrain, "");
        }
        for used in &consumer.features {
            let from = builder.find(NodeKind::Feature, &used.to_string());
            builder.edge(from, Some(to), Role::UsedBy, "");
            let from = builder.find(NodeKind::FeatureView, used.view.as_str());
            builder.edge(from, Some(to), Role::LookedUp, "");
        }
    }
    for share in catalog.shares.values().filter(|share| share.stands(now)) {
        let (number, about) = (share.number.to_string(), share.of.to_string());
        let to = Some(builder.node(NodeKind::Share, number, share.receiver(), about));
        match &share.of {
            Shared::View(name) => {
                let from = builder.find(NodeKind::FeatureView, name.as_str());
                builder.edge(from, to, Role::SharedBy, "");
                let features = catalog.views.get(name).into_iter().flat_map(|view| &view.features);
                for feature in features {
                    let from = builder.find(NodeKind::Feature, &format!("{name}:{}", feature.name));
                    builder.edge(from, to, Role::SharedBy, "");
                }
            }
            Shared::Service(name) => {
                for version in catalog.services.get(name).into_iter().flat_map(|service| &service.versions) {
                    let from = builder.find(NodeKind::FeatureService, &format!("{name}@{}", version.number));
                    builder.edge(from, to, Role::SharedBy, "");
                }
            }
        }
    }
    builder.finish()
}

fn owner(applied: &super::catalog::Applied) -> String {
    applied.definition.metadata.owner.clone()
}

#[derive(Default)]
struct Builder {
    nodes: Vec<Node>,
    by_name: HashMap<(NodeKind, String), usize>,
    edges: BTreeMap<(usize, usize, Role), BTreeSet<String>>,
}

impl Builder {
    fn node(&mut self, kind: NodeKind, name: String, owner: String, about: String) -> usize {
        if let Some(known) = self.find(kind, &name) {
            return known;
        }
        self.by_name.insert((kind, name.clone()), self.nodes.len());
        self.nodes.push(Node { kind, name, owner, about });
        self.nodes.len() - 1
    }

    fn find(&self, kind: NodeKind, name: &str) -> Option<usize> {
        self.by_name.get(&(kind, name.to_owned())).copied()
    }

    /// A version of a service. Of another tenant's no more is known than the name by which it is read, and
    /// whose it is: what it is made of is that tenant's to know.
    fn version(&mut self, service: &str, number: u32) -> Option<usize> {
        let name = format!("{service}@{number}");
        match service.split_once('/') {
            None => self.find(NodeKind::FeatureService, &name),
            Some((owner, _)) => {
                Some(self.node(NodeKind::FeatureService, name, format!("tenant {owner}"), String::new()))
            }
        }
    }

    fn edge(&mut self, from: Option<usize>, to: Option<usize>, role: Role, label: &str) {
        let (Some(from), Some(to)) = (from, to) else { return };
        let labels = self.edges.entry((from, to, role)).or_default();
        if !label.is_empty() {
            labels.insert(label.to_owned());
        }
    }

    fn source(&mut self, source: &Source) {
        let owned_by = owner(&source.applied);
        let from = self.node(NodeKind::Source, source.name.to_string(), owned_by.clone(), String::new());
        for column in &source.columns {
            let name = format!("{}.{}", source.name, column.name);
            let to = self.node(NodeKind::Column, name, owned_by.clone(), column.data_type.to_string());
            self.edge(Some(from), Some(to), Role::Has, "");
        }
    }

    fn view(&mut self, view: &View, source: Option<&Source>) {
        let owned_by = owner(&view.applied);
        let this = Some(self.node(NodeKind::FeatureView, view.name.to_string(), owned_by.clone(), String::new()));
        if let Spec::FeatureView(spec) = &view.applied.definition.spec {
            for entity in &spec.entities {
                let from = self.find(NodeKind::Entity, entity.as_str());
                self.edge(from, this, Role::Identifies, "");
            }
        }
        let column = |name: &Name| format!("{}.{name}", view.source);
        for key in &view.join_keys {
            let from = self.find(NodeKind::Column, &column(&key.name));
            self.edge(from, this, Role::Key, "");
        }
        if let Some(source) = source {
            let from = self.find(NodeKind::Column, &column(&source.event_time));
            self.edge(from, this, Role::EventTime, "");
            if let KnownTimeRule::Column(name) = &source.known_time {
                let from = self.find(NodeKind::Column, &column(name));
                self.edge(from, this, Role::KnownTime, "");
            }
        }
        for feature in &view.features {
            let name = format!("{}:{}", view.name, feature.name);
            let to = self.node(NodeKind::Feature, name, owned_by.clone(), feature.data_type.to_string());
            let from = self.find(NodeKind::Column, &column(&feature.column));
            self.edge(from, Some(to), Role::Feeds, "");
            self.edge(Some(to), this, Role::PartOf, "");
        }
    }

    fn finish(self) -> Graph {
        let edge = |((from, to, role), labels): ((usize, usize, Role), BTreeSet<String>)| Edge {
            from,
            to,
            role,
            label: labels.into_iter().collect::<Vec<_>>().join(", "),
        };
        let graph = Graph { nodes: self.nodes, edges: self.edges.into_iter().map(edge).collect() };
        let all = Reached { nodes: (0..graph.nodes.len()).collect(), edges: (0..graph.edges.len()).collect() };
        graph.part(all)
    }
}

impl Graph {
    /// The nodes that a text names: `airport`, `weather.temp`, `airport_weather:temp`, `delay_model@1`, or
    /// `delay_model` for all versions. Refused where it names none, or nodes of several kinds.
    pub fn named(&self, text: &str, kind: Option<NodeKind>) -> Result<Vec<usize>> {
        if text.len() > MAX_NAME_BYTES {
            let message = format!("a name has at most {MAX_NAME_BYTES} bytes, not {}", text.len());
            return Err(Error::invalid("INVALID_NAME", message));
        }
        let is_meant = |node: &Node| {
            let unversioned = || node.name.split_once('@').is_some_and(|(name, _)| name == text);
            node.name == text || unversioned()
        };
        let found: Vec<usize> = self.each(|node| is_meant(node) && kind.is_none_or(|kind| node.kind == kind)).collect();
        let kinds: BTreeSet<NodeKind> = found.iter().map(|index| self.nodes[*index].kind).collect();
        if kinds.len() > 1 {
            let candidates: Vec<String> = kinds.iter().map(|kind| format!("{}/{text}", kind.as_str())).collect();
            let message = format!("'{text}' is the name of several things: {}", candidates.join(", "));
            let ways: Vec<String> = kinds.iter().map(|kind| format!("--kind {}", kind.as_str())).collect();
            return Err(Error::invalid("AMBIGUOUS_NAME", message)
                .hint(format!("say which is meant: {}", ways.join(", ")))
                .with("name", text)
                .with("candidates", candidates.join(", ")));
        }
        if found.is_empty() {
            return Err(self.unknown(text, kind));
        }
        Ok(found)
    }

    fn unknown(&self, text: &str, kind: Option<NodeKind>) -> Error {
        let shown: String = text.chars().take(80).collect();
        let what = kind.map_or_else(|| "nothing".to_owned(), |kind| format!("no {}", kind.as_str()));
        let last = text.rsplit(['.', ':']).next().unwrap_or(text).split('@').next().unwrap_or_default();
        let near = self.each(|node| !last.is_empty() && node.name.contains(last)).take(SHOWN);
        let near: Vec<String> =
            near.map(|index| format!("{}/{}", self.nodes[index].kind.as_str(), self.nodes[index].name)).collect();
        let hint = match near.as_slice() {
            _ if is_of_another(text) => {
                "of what another tenant shares, lineage knows what saved training sets are made of, and nothing else; \
                 `hydrant share list --with-me` shows what is shared"
                    .to_owned()
            }
            [] => "a column is named `source.column`, a feature `view:feature`, a version of a service `service@N`; \
                   `hydrant search TEXT` finds names"
                .to_owned(),
            near => format!("is it one of {}?", near.join(", ")),
        };
        Error::not_found("LINEAGE_NODE_NOT_FOUND", format!("there is {what} called '{shown}'"))
            .hint(hint)
            .with("name", shown)
    }

    fn each<'a>(&'a self, wanted: impl Fn(&Node) -> bool + 'a) -> impl Iterator<Item = usize> + 'a {
        self.nodes.iter().enumerate().filter(move |(_, node)| wanted(node)).map(|(index, _)| index)
    }

    /// The part of the graph that some nodes are made of, or that is made of them. Column by column: a
    /// view that is reached from one of its features leads to no service that does not take that feature.
    pub fn around(&self, starts: &[usize], direction: Direction) -> Result<Self> {
        let mut found = Reached { nodes: starts.iter().copied().collect(), edges: HashSet::new() };
        for (way, is_down) in [(Direction::Up, false), (Direction::Down, true)] {
            if direction == way || direction == Direction::Both {
                self.follow(starts, is_down, &self.leaving(is_down), &mut found);
            }
        }
        let count = found.nodes.len();
        if count > MAX_NODES {
            let message = format!("{count} things hang together with it; an answer has at most {MAX_NODES}");
            return Err(Error::invalid("LINEAGE_TOO_LARGE", message)
                .hint("ask for a single column, feature or version, or for one direction (--up, --down)"));
        }
        Ok(self.part(found))
    }

    /// Those of some nodes who are to be told before what they are made of changes, in order.
    fn told_of(&self, nodes: &HashSet<usize>) -> Vec<Touched> {
        let told = [NodeKind::FeatureService, NodeKind::TrainingSet, NodeKind::Consumer, NodeKind::Share];
        let reached = nodes.iter().map(|index| &self.nodes[*index]).filter(|node| told.contains(&node.kind));
        let touched =
            reached.map(|node| Touched { kind: node.kind, name: node.name.clone(), owner: node.owner.clone() });
        touched.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// A view is a whole only from itself, its keys and its times. Reached from a feature it says where
    /// the feature belongs, and reached from a service which rows are looked up; its other features have
    /// no part in that.
    fn follow(&self, starts: &[usize], is_down: bool, leaving: &[Vec<usize>], found: &mut Reached) {
        // Each node at most twice: in part, and then as a whole.
        let mut seen: HashSet<(usize, bool)> = HashSet::new();
        let mut open: Vec<(usize, bool)> = starts.iter().map(|start| (*start, true)).collect();
        while let Some((at, is_whole)) = open.pop() {
            if !seen.insert((at, is_whole)) {
                continue;
            }
            for index in &leaving[at] {
                let edge = &self.edges[*index];
                let is_view = self.nodes[at].kind == NodeKind::FeatureView;
                if is_view && !is_whole && (is_down || edge.role == Role::PartOf) {
                    continue;
                }
                let next = if is_down { edge.to } else { edge.from };
                found.edges.insert(*index);
                found.nodes.insert(next);
                let enters_in_part = match edge.role {
                    Role::PartOf => is_down,
                    Role::LookedUp => !is_down,
                    _ => false,
                };
                open.push((next, !enters_in_part));
            }
        }
    }

    /// The edges by which each node is left in one direction.
    fn leaving(&self, is_down: bool) -> Vec<Vec<usize>> {
        let mut leaving: Vec<Vec<usize>> = vec![Vec::new(); self.nodes.len()];
        for (index, edge) in self.edges.iter().enumerate() {
            leaving[if is_down { edge.from } else { edge.to }].push(index);
        }
        leaving
    }

    /// The nodes and edges that are kept, in order.
    fn part(&self, kept: Reached) -> Self {
        let mut nodes: Vec<usize> = kept.nodes.into_iter().collect();
        nodes.sort_by(|one, other| self.nodes[*one].cmp(&self.nodes[*other]));
        let place: HashMap<usize, usize> = nodes.iter().enumerate().map(|(new, old)| (*old, new)).collect();
        let edge = |index: usize| {
            let edge = &self.edges[index];
            let (from, to) = (*place.get(&edge.from)?, *place.get(&edge.to)?);
            Some(Edge { from, to, ..edge.clone() })
        };
        let mut edges: Vec<Edge> = kept.edges.into_iter().filter_map(edge).collect();
        edges.sort();
        Self { nodes: nodes.iter().map(|index| self.nodes[*index].clone()).collect(), edges }
    }
}
