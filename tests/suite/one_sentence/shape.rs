//! What a request for a service should answer with, worked out from the world's definitions when they
//! were applied: columns in order, each with where its value comes from.

use hydrant_storage::value::{DataType, Value};

use super::world::{Item, JoinKey, World};

/// A frozen service version, or a list of features under current definitions.
#[derive(Clone, Debug)]
pub struct Shape {
    /// As a request names it.
    pub what: Vec<String>,
    pub columns: Vec<ShapeColumn>,
    /// Whether all its views keep history.
    pub offline: bool,
}

#[derive(Clone, Debug)]
pub struct ShapeColumn {
    pub name: String,
    pub data_type: DataType,
    pub view: usize,
    pub feature: usize,
    /// The request column for each join key of the view.
    pub keys: Vec<JoinKey>,
    pub ttl: Option<i64>,
    pub default: Option<Value>,
}

impl Shape {
    pub fn of_service(world: &World, service: usize, version: u32) -> Self {
        let service = &world.services[service];
        let columns = service.items.iter().flat_map(|item| columns_of(world, item)).collect();
        Self::new(world, vec![format!("{}@{version}", service.name)], columns)
    }

    /// Single features: under their views' names, current ttls and defaults.
    pub fn of_features(world: &World, features: &[(usize, usize)]) -> Self {
        let whole = |view| Item { view, features: None, alias: None, mapped: None };
        let columns = features.iter().map(|(view, feature)| columns_of(world, &whole(*view)).swap_remove(*feature));
        let reference = |(view, feature): &(usize, usize)| {
            format!("{}:{}", world.views[*view].name, world.views[*view].features[*feature].name)
        };
        Self::new(world, features.iter().map(reference).collect(), columns.collect())
    }

    fn new(world: &World, what: Vec<String>, columns: Vec<ShapeColumn>) -> Self {
        let offline = columns.iter().all(|column| world.views[column.view].offline);
        Self { what, columns, offline }
    }

    /// Every request column, once.
    pub fn request_columns(&self) -> Vec<JoinKey> {
        let mut columns: Vec<JoinKey> = Vec::new();
        for key in self.columns.iter().flat_map(|column| &column.keys) {
            if !columns.contains(key) {
                columns.push(key.clone());
            }
        }
        columns
    }

    pub fn names(&self) -> Vec<&str> {
        self.columns.iter().map(|column| column.name.as_str()).collect()
    }
}

fn columns_of(world: &World, item: &Item) -> Vec<ShapeColumn> {
    let view = &world.views[item.view];
    let request_column = |(name, key_type): &JoinKey| match &item.mapped {
        Some((key, column)) if key == name => (column.clone(), *key_type),
        _ => (name.clone(), *key_type),
    };
    let keys: Vec<JoinKey> = view.keys.iter().map(request_column).collect();
    let features = item.features.clone().unwrap_or_else(|| (0..view.features.len()).collect());
    let column = |feature: usize| {
        let defined = &view.features[feature];
        ShapeColumn {
            name: format!("{}__{}", item.alias.as_ref().unwrap_or(&view.name), defined.name),
            data_type: defined.data_type,
            view: item.view,
            feature,
            keys: keys.clone(),
            ttl: view.ttl,
            default: defined.default.clone(),
        }
    };
    features.into_iter().map(column).collect()
}
