//! Random definitions: entities of one or two join keys, sources under every known-time rule, several
//! views over each with and without a ttl, and services that take whole views, single features, or a
//! view under another key.

use hydrant::config::durations;
use hydrant::registry::definition::{Definition, KnownTimeRule};
use hydrant::registry::{documents, values::to_json};
use hydrant_storage::value::{DataType, ScalarType, Value};
use serde_json::{Value as Json, json};

use super::values::{any_default, any_type, key_type};
use crate::support::random::Random;

/// The grid on which most times lie, so that they meet.
pub const TICK: i64 = 100_000;

pub type TypedColumn = (String, DataType);
pub type JoinKey = (String, ScalarType);

#[derive(Clone, Debug)]
pub struct World {
    pub entities: Vec<Vec<JoinKey>>,
    pub sources: Vec<WorldSource>,
    pub views: Vec<WorldView>,
    pub services: Vec<WorldService>,
}

#[derive(Clone, Debug)]
pub struct WorldSource {
    pub name: String,
    pub known_time: KnownTimeRule,
    pub max_future: i64,
    pub columns: Vec<TypedColumn>,
}

#[derive(Clone, Debug)]
pub struct WorldView {
    pub name: String,
    entities: Vec<usize>,
    pub keys: Vec<JoinKey>,
    pub source: usize,
    pub ttl: Option<i64>,
    pub features: Vec<WorldFeature>,
    pub offline: bool,
}

#[derive(Clone, Debug)]
pub struct WorldFeature {
    pub name: String,
    pub column: String,
    pub data_type: DataType,
    pub default: Option<Value>,
}

#[derive(Clone, Debug)]
pub struct WorldService {
    pub name: String,
    pub items: Vec<Item>,
}

/// What a service takes of a view.
#[derive(Clone, Debug)]
pub struct Item {
    pub view: usize,
    /// `None`: all.
    pub features: Option<Vec<usize>>,
    pub alias: Option<String>,
    /// A join key and the request column in its place.
    pub mapped: Option<(String, String)>,
}

/// The event time of every source, and the known time of those that have a column of it.
pub const EVENT_TIME: &str = "happened";
pub const KNOWN_TIME: &str = "noticed";

impl World {
    pub fn random(random: &mut Random) -> Self {
        let entities = (0..random.between(2, 3))
            .map(|entity| {
                (0..random.between(1, 2)).map(|key| (format!("e{entity}_k{key}"), key_type(random))).collect()
            })
            .collect();
        let mut world = Self { entities, sources: Vec::new(), views: Vec::new(), services: Vec::new() };
        let any_rule = |random: &mut Random| match random.below(3) {
            0 => KnownTimeRule::Event { delay: 0 },
            1 => KnownTimeRule::Event { delay: random.between(1, 15) * TICK },
            _ => KnownTimeRule::Column(KNOWN_TIME.parse().expect("a name")),
        };
        // The first is pure: known on arrival, by rule and by request.
        for (source, known_time) in [KnownTimeRule::Arrival, any_rule(random), any_rule(random)].into_iter().enumerate()
        {
            let timestamp = DataType::Scalar(ScalarType::Timestamp);
            let mut columns = vec![(EVENT_TIME.to_owned(), timestamp)];
            if let KnownTimeRule::Column(name) = &known_time {
                columns.push((name.to_string(), timestamp));
            }
            let max_future = random.between(0, 40) * TICK;
            world.sources.push(WorldSource { name: format!("s{source}"), known_time, max_future, columns });
        }
        for view in 0..random.between(4, 6) {
            // Two over the pure source, one over each other, the rest anywhere.
            let source = match view {
                0 | 1 => 0,
                2 | 3 => usize::try_from(view).expect("small") - 1,
                _ => random.below(world.sources.len()),
            };
            world.add_view(random, usize::try_from(view).expect("small"), source);
        }
        world.add_services(random);
        world
    }

    fn add_view(&mut self, random: &mut Random, number: usize, source: usize) {
        let mut entities: Vec<usize> = (0..self.entities.len()).collect();
        random.shuffle(&mut entities);
        entities.truncate(if random.chance(30) { 2 } else { 1 });
        let keys: Vec<JoinKey> = entities.iter().flat_map(|entity| self.entities[*entity].clone()).collect();
        for (name, key_type) in &keys {
            self.sources[source].declare(name, DataType::Scalar(*key_type));
        }
        let mut view = WorldView {
            name: format!("v{number}"),
            entities,
            keys,
            source,
            ttl: random.chance(70).then(|| random.between(3, 60) * TICK),
            features: Vec::new(),
            // One pure view always has a history to compare.
            offline: !random.chance(12) || number == 0,
        };
        for _ in 0..random.between(1, 4) {
            view.add_feature(random, &mut self.sources[source]);
        }
        self.views.push(view);
    }

    fn add_services(&mut self, random: &mut Random) {
        let (landing, online_only): (Vec<usize>, Vec<usize>) =
            (0..self.views.len()).partition(|view| self.views[*view].offline);
        let whole = |view: &usize| Item { view: *view, features: None, alias: None, mapped: None };
        let mut items: Vec<Item> = landing.iter().map(whole).collect();
        if let Some(view) = landing.first() {
            let key = self.views[*view].keys[0].0.clone();
            let mapped = Some((key.clone(), format!("other_{key}")));
            items.push(Item { view: *view, features: None, alias: Some("again".to_owned()), mapped });
            self.services.push(WorldService { name: "whole".to_owned(), items });
            let part = |view: &usize| {
                let features = (0..self.views[*view].features.len()).rev().filter(|_| random.chance(60)).collect();
                Item { view: *view, features: Some(features), alias: None, mapped: None }
            };
            let items: Vec<Item> = landing.iter().map(part).collect();
            let items: Vec<Item> =
                items.into_iter().filter(|item| item.features.as_ref().is_some_and(|list| !list.is_empty())).collect();
            if !items.is_empty() {
                self.services.push(WorldService { name: "part".to_owned(), items });
            }
        }
        if !online_only.is_empty() {
            let items = online_only.iter().map(whole).collect();
            self.services.push(WorldService { name: "online".to_owned(), items });
        }
    }

    /// Changes what can be changed in place: more features, shorter and longer ttls.
    pub fn evolve(&mut self, random: &mut Random) {
        for view in &mut self.views {
            if random.chance(60) {
                view.add_feature(random, &mut self.sources[view.source]);
            }
            if random.chance(40) {
                let shorter = |ttl: i64| (ttl / TICK / 2).max(1) * TICK;
                view.ttl = Some(view.ttl.map_or(20 * TICK, shorter));
            } else if view.offline && random.chance(60) {
                view.ttl = view.ttl.filter(|_| random.chance(70)).map(|ttl| ttl + random.between(1, 60) * TICK);
            }
        }
    }

    /// Renames features, which makes new versions of their views: how many.
    pub fn rename(&mut self, random: &mut Random) -> usize {
        let mut renamed = 0;
        for view in self.views.iter_mut().filter(|view| view.offline) {
            let columns: Vec<String> = view.features.iter().map(|feature| feature.column.clone()).collect();
            // Of one column twice it couldn't be told which of them was renamed.
            let is_alone = |column: &str| columns.iter().filter(|other| *other == column).count() == 1;
            let feature = random.below(view.features.len());
            if random.chance(60) && is_alone(&view.features[feature].column) {
                view.features[feature].name = format!("renamed{feature}");
                renamed += 1;
            }
        }
        renamed
    }

    pub fn definitions(&self) -> Vec<Definition> {
        let entities = self.entities.iter().enumerate().map(|(number, keys)| {
            let keys: Vec<Json> =
                keys.iter().map(|(name, key_type)| json!({"name": name, "type": key_type.as_str()})).collect();
            document("Entity", &format!("e{number}"), json!({"joinKeys": keys}))
        });
        let sources = self.sources.iter().map(WorldSource::document);
        let views = self.views.iter().map(|view| view.document(&self.sources[view.source].name));
        let services = self.services.iter().map(|service| {
            let items: Vec<Json> = service.items.iter().map(|item| self.item_document(item)).collect();
            document("FeatureService", &service.name, json!({"features": items}))
        });
        let documents: Vec<Json> = entities.chain(sources).chain(views).chain(services).collect();
        documents.iter().map(|document| documents::from_json(document).expect("a valid document")).collect()
    }

    fn item_document(&self, item: &Item) -> Json {
        let view = &self.views[item.view];
        let mut document = json!({"view": view.name});
        if let Some(features) = &item.features {
            document["features"] = features.iter().map(|feature| json!(view.features[*feature].name)).collect();
        }
        if let Some(alias) = &item.alias {
            document["as"] = json!(alias);
        }
        if let Some((key, column)) = &item.mapped {
            document["keys"] = json!({key: column});
        }
        document
    }
}

impl WorldSource {
    /// Whether its rows are always known on arrival.
    pub fn is_pure(&self) -> bool {
        self.known_time == KnownTimeRule::Arrival
    }

    fn declare(&mut self, name: &str, data_type: DataType) {
        if !self.columns.iter().any(|(known, _)| known == name) {
            self.columns.push((name.to_owned(), data_type));
        }
    }

    fn document(&self) -> Json {
        let columns: Vec<Json> =
            self.columns.iter().map(|(name, data_type)| json!({"name": name, "type": data_type.to_string()})).collect();
        let known_time = match &self.known_time {
            KnownTimeRule::Arrival => json!("arrival"),
            KnownTimeRule::Event { delay: 0 } => json!("event"),
            KnownTimeRule::Event { delay } => json!({"event": format!("+{}", durations::format(*delay))}),
            KnownTimeRule::Column(column) => json!({"column": column}),
        };
        let max_future = durations::format(self.max_future);
        let spec = json!({
            "type": "push",
            "eventTime": EVENT_TIME,
            "knownTime": known_time,
            "maxFuture": max_future,
            "columns": columns,
        });
        document("Source", &self.name, spec)
    }
}

impl WorldView {
    /// Of a column of its own, or of one that another view takes too; sometimes wider than it.
    fn add_feature(&mut self, random: &mut Random, source: &mut WorldSource) {
        let name = format!("f{}", self.features.len());
        let is_key = |column: &str| column.starts_with('e') || column == EVENT_TIME || column == KNOWN_TIME;
        let shared: Vec<TypedColumn> = source.columns.iter().filter(|(column, _)| !is_key(column)).cloned().collect();
        let (column, column_type) = if random.chance(25) && !shared.is_empty() {
            random.pick(&shared).clone()
        } else {
            (format!("c_{}_{name}", self.name), any_type(random))
        };
        source.declare(&column, column_type);
        let widened = column_type == DataType::Scalar(ScalarType::Int32) && random.chance(50);
        let data_type = if widened { DataType::Scalar(ScalarType::Int64) } else { column_type };
        let default = any_default(random, data_type);
        self.features.push(WorldFeature { name, column, data_type, default });
    }

    fn document(&self, source: &str) -> Json {
        let feature = |feature: &WorldFeature| {
            let mut document =
                json!({"name": feature.name, "column": feature.column, "type": feature.data_type.to_string()});
            if let Some(default) = &feature.default {
                document["default"] = to_json(default);
            }
            document
        };
        let entities: Vec<String> = self.entities.iter().map(|entity| format!("e{entity}")).collect();
        let features: Vec<Json> = self.features.iter().map(feature).collect();
        let mut spec = json!({"entities": entities, "source": source, "features": features, "offline": self.offline});
        if let Some(ttl) = self.ttl {
            spec["ttl"] = json!(durations::format(ttl));
        }
        document("FeatureView", &self.name, spec)
    }
}

fn document(kind: &str, name: &str, spec: Json) -> Json {
    json!({"apiVersion": "hydrant/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}
