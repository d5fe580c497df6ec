//! Definitions as lines that people compare: `ttl: 3h -> 2h`. Two definitions are told apart here
//! wherever they differ, so that a plan never shows an update without saying what it is.

use std::collections::{BTreeMap, HashMap};

use hydrant_storage::names::Name;

use super::compatibility::{FOR_EVER, ttl_text};
use super::definition::{Definition, FeatureSpec, FeatureViewSpec, Kind, SourceSpec, SourceType, Spec, TypedName};
use super::documents::{known_time_to_json, service_feature_to_json};
use super::plan::Difference;
use super::promise::FreshnessSpec;
use super::state::{FrozenService, RowFeature, ServiceState, TenantState};
use crate::config::durations;

/// Under which key it is told that a version is being built.
pub(super) const NEXT_VERSION: &str = "new version";
/// Under which key a view's features are told in their order.
const IN_ORDER: &str = "features in order";

/// Under which keys it is told how long a view's rows count, and how long they are kept.
pub(super) const TTL: &str = "ttl";
pub(super) const RETENTION: &str = "retention";

/// One line for each thing that differs between two states of a definition; of one that is new, one
/// line for each thing it says, and of one that is gone none.
pub(super) fn lines(old: &TenantState, new: &TenantState, kind: Kind, name: &Name) -> Vec<Line> {
    let (before, after) = (old.stored(kind, name), new.stored(kind, name));
    let renamed = renamed(before.map(|stored| &stored.definition), after.map(|stored| &stored.definition));
    between(before.map(|_| facts(old, kind, name)), after.map(|_| facts(new, kind, name)), &renamed)
}

/// As [`lines`], between two definitions as they were written; `None`: there is none.
pub(super) fn lines_of(before: Option<&Definition>, after: Option<&Definition>) -> Vec<Line> {
    between(before.map(definition_facts), after.map(definition_facts), &renamed(before, after))
}

/// A feature that is the same under another name.
struct Renamed<'a> {
    from: &'a Name,
    to: &'a Name,
    column: &'a Name,
}

/// The features of a view that only their names tell apart from what was there before. Where several could be
/// meant by one, none is.
fn renamed<'a>(before: Option<&'a Definition>, after: Option<&'a Definition>) -> Vec<Renamed<'a>> {
    let spec = |definition: Option<&'a Definition>| match definition.map(|definition| &definition.spec) {
        Some(Spec::FeatureView(spec)) => Some(spec),
        _ => None,
    };
    let Some((before, after)) = spec(before).zip(spec(after)) else { return Vec::new() };
    let column = |feature: &'a FeatureSpec| feature.column.as_ref().unwrap_or(&feature.name);
    let only_in = |one: &'a FeatureViewSpec, other: &'a FeatureViewSpec| {
        let is_in = |feature: &&FeatureSpec| other.features.iter().any(|known| known.name == feature.name);
        one.features.iter().filter(move |feature| !is_in(feature)).collect::<Vec<_>>()
    };
    let (gone, new) = (only_in(before, after), only_in(after, before));
    let is_same = |one: &FeatureSpec, other: &FeatureSpec| {
        let said = |feature: &'_ FeatureSpec| {
            (feature.data_type, feature.default.clone(), feature.description.clone(), feature.tags.clone())
        };
        said(one) == said(other)
    };
    let mut renamed = Vec::new();
    for &from in &gone {
        let of_column = |feature: &&&'a FeatureSpec| column(feature) == column(from);
        let (mut others, olds) = (new.iter().filter(of_column), gone.iter().filter(of_column).count());
        if let (Some(&to), None, 1) = (others.next(), others.next(), olds)
            && is_same(from, to)
        {
            renamed.push(Renamed { from: &from.name, to: &to.name, column: column(to) });
        }
    }
    renamed
}

fn between(before: Option<Facts>, after: Option<Facts>, renamed: &[Renamed<'_>]) -> Vec<Line> {
    let Some(mut after) = after else { return Vec::new() };
    let Some(mut before) = before else {
        let line = |(key, value): (String, String)| {
            let what = if key == RETENTION { and_what_then(&value) } else { "" };
            Line { text: format!("{key}: {value}{what}"), key }
        };
        return after.into_iter().map(line).collect();
    };
    let mut lines = Vec::new();
    for Renamed { from, to, column } in renamed {
        let key = format!("features.{from}");
        before.retain(|(known, _)| !known.starts_with(&format!("{key}.")));
        after.retain(|(known, _)| !known.starts_with(&format!("features.{to}.")));
        for (_, names) in before.iter_mut().filter(|(known, _)| known == IN_ORDER) {
            let name = |name: &str| if name == from.as_str() { to.to_string() } else { name.to_owned() };
            *names = names.split(", ").map(name).collect::<Vec<_>>().join(", ");
        }
        lines.push(Line { text: format!("{key} is called {to} (column {column})"), key });
    }
    let before_by_key: HashMap<&str, &str> = before.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let after_keys: HashMap<&str, &str> = after.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    for (key, value) in &after {
        match before_by_key.get(key.as_str()) {
            Some(known) if known == value => {}
            Some(known) => {
                let what = if key == RETENTION { and_what_then(value) } else { "" };
                lines.push(Line { key: key.clone(), text: format!("{key}: {known} -> {value}{what}") });
            }
            None => lines.push(Line { key: key.clone(), text: format!("+ {key}: {value}") }),
        }
    }
    for (key, value) in before.iter().filter(|(key, _)| !after_keys.contains_key(key.as_str())) {
        lines.push(Line { key: key.clone(), text: format!("- {key}: {value}") });
    }
    lines
}

/// One thing that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// What it is about, such as `features.temp.default`.
    pub key: String,
    /// Such as `ttl: 3h -> 2h`.
    pub text: String,
}

impl Difference {
    /// Whether its text is the line of a key.
    pub(super) fn is_of(&self, key: &str) -> bool {
        self.text.strip_prefix(key).is_some_and(|rest| rest.starts_with(": "))
    }
}

type Facts = Vec<(String, String)>;

fn facts(tenant: &TenantState, kind: Kind, name: &Name) -> Facts {
    let Some(stored) = tenant.stored(kind, name) else { return Vec::new() };
    let mut facts = definition_facts(&stored.definition);
    if let Some(view) = tenant.views.get(name).filter(|view| kind == Kind::FeatureView && view.refilling.is_some()) {
        let serves = ttl_text(view.ttl_in_effect());
        add(&mut facts, "ttl in effect", format!("{serves}, until rows that count again are refilled from history"));
    }
    if let Some(view) = tenant.views.get(name).filter(|view| kind == Kind::FeatureView && !view.older.is_empty()) {
        add(&mut facts, "served version", view.version.to_string());
    }
    let next =
        tenant.views.get(name).filter(|_| kind == Kind::FeatureView).and_then(|view| Some((view, view.next.as_ref()?)));
    if let Some((view, next)) = next {
        let from = view.all().find(|version| version.id == next.from).unwrap_or(view);
        let is_new = |row: &&RowFeature| !from.row.iter().any(|known| known.column == row.column);
        let new: Vec<&str> = next.view.row.iter().filter(is_new).map(|row| row.name.as_str()).collect();
        let without = match new.as_slice() {
            [] => String::new(),
            new => format!("; rows from before have no value in {}, whose columns history has not", new.join(", ")),
        };
        let (number, served) = (next.view.version, view.version);
        let text = format!(
            "{number}, built from the history of version {}; version {served} is served until then{without}",
            from.version
        );
        add(&mut facts, NEXT_VERSION, text);
    }
    let current = tenant.services.get(name).filter(|_| kind == Kind::FeatureService).and_then(ServiceState::current);
    if let Some(current) = current {
        add_frozen(&mut facts, current);
    }
    facts
}

fn definition_facts(definition: &Definition) -> Facts {
    let mut facts = Vec::new();
    let metadata = &definition.metadata;
    add_text(&mut facts, "description", &metadata.description);
    add_text(&mut facts, "owner", &metadata.owner);
    add_tags(&mut facts, "tags", &metadata.tags);
    match &definition.spec {
        Spec::Tenant(_) => {}
        Spec::Entity(spec) => add(&mut facts, "joinKeys", typed_list(&spec.join_keys)),
        Spec::Source(spec) => add_source(&mut facts, spec),
        Spec::FeatureView(spec) => add_view(&mut facts, spec),
        Spec::FeatureService(spec) => {
            let budget = spec.latency_budget.map_or_else(|| "none".to_owned(), durations::format);
            add(&mut facts, "latencyBudget", budget);
            let features = spec.features.iter().map(|feature| match service_feature_to_json(feature) {
                serde_json::Value::String(text) => text,
                mapping => mapping.to_string(),
            });
            add(&mut facts, "features", features.collect::<Vec<_>>().join(", "));
        }
        Spec::Consumer(spec) => {
            add_text(&mut facts, "version", &spec.version);
            add(&mut facts, "services", list(&spec.services));
            add(&mut facts, "features", list(&spec.features));
        }
    }
    facts
}

fn add_source(facts: &mut Facts, spec: &SourceSpec) {
    let SourceType::Push = spec.source_type;
    add(facts, "type", "push");
    add(facts, "eventTime", spec.event_time.as_str());
    let known_time = match known_time_to_json(&spec.known_time) {
        serde_json::Value::String(text) => text,
        mapping => mapping.to_string(),
    };
    add(facts, "knownTime", known_time);
    add(facts, "maxFuture", durations::format(spec.max_future));
    for column in &spec.columns {
        add(facts, format!("columns.{}", column.name), column.data_type.to_string());
    }
    add(
        facts,
        "columns in order",
        spec.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", "),
    );
}

/// What becomes of rows after the time for which they are kept.
fn and_what_then(retention: &str) -> &'static str {
    if retention == FOR_EVER { "" } else { ", then rows are gone for good" }
}

fn add_view(facts: &mut Facts, spec: &FeatureViewSpec) {
    add(facts, "entities", spec.entities.iter().map(Name::as_str).collect::<Vec<_>>().join(", "));
    add(facts, "source", spec.source.as_str());
    add(facts, TTL, ttl_text(spec.ttl));
    add(facts, RETENTION, ttl_text(spec.retention));
    for feature in &spec.features {
        add_feature(facts, feature);
    }
    let names: Vec<&str> = spec.features.iter().map(|feature| feature.name.as_str()).collect();
    add(facts, IN_ORDER, names.join(", "));
    add(facts, "online", spec.online.to_string());
    add(facts, "offline", spec.offline.to_string());
    let promised = |text: fn(&FreshnessSpec) -> String| spec.freshness.as_ref().map_or_else(|| "none".to_owned(), text);
    add(facts, "freshness.maxAge", promised(|freshness| durations::format(freshness.max_age)));
    add(facts, "freshness.target", promised(|freshness| freshness.target.to_string()));
    add(facts, "freshness.window", promised(|freshness| durations::format(freshness.window)));
    add(facts, "freshness.severity", promised(|freshness| freshness.severity.as_str().to_owned()));
}

fn add_feature(facts: &mut Facts, feature: &FeatureSpec) {
    let path = format!("features.{}", feature.name);
    let data_type = feature.data_type.map_or_else(|| "the column's".to_owned(), |data_type| data_type.to_string());
    add(facts, format!("{path}.type"), data_type);
    let column = feature.column.as_ref().unwrap_or(&feature.name);
    // A column that is named although it is the feature's own name reads differently as text.
    let named = if feature.column.as_ref() == Some(&feature.name) { " (named)" } else { "" };
    add(facts, format!("{path}.column"), format!("{column}{named}"));
    if let Some(default) = &feature.default {
        add(facts, format!("{path}.default"), default.to_string());
    }
    add_text(facts, &format!("{path}.description"), &feature.description);
    add_tags(facts, &format!("{path}.tags"), &feature.tags);
}

fn add_frozen(facts: &mut Facts, frozen: &FrozenService) {
    add(facts, "version", frozen.number.to_string());
    for column in &frozen.columns {
        let lookup = &frozen.lookups[column.lookup];
        let mut text = format!(
            "{} of {}@{}:{}, ttl {}",
            column.data_type,
            lookup.view,
            lookup.view_version,
            column.feature,
            ttl_text(lookup.ttl)
        );
        if let Some(default) = &column.default {
            text.push_str(&format!(", default {default}"));
        }
        for (key, request_column) in lookup.keys.iter().filter(|(key, request_column)| key != request_column) {
            text.push_str(&format!(", {key} from {request_column}"));
        }
        add(facts, format!("columns.{}", column.name), text);
    }
}

fn typed_list(names: &[TypedName]) -> String {
    names.iter().map(|typed| format!("{} {}", typed.name, typed.data_type)).collect::<Vec<_>>().join(", ")
}

fn list(references: &[impl ToString]) -> String {
    references.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn add_text(facts: &mut Facts, key: &str, text: &str) {
    if !text.is_empty() {
        add(facts, key, format!("{text:?}"));
    }
}

fn add_tags(facts: &mut Facts, path: &str, tags: &BTreeMap<String, String>) {
    for (name, value) in tags {
        add(facts, format!("{path}.{name}"), format!("{value:?}"));
    }
}

fn add(facts: &mut Facts, key: impl Into<String>, value: impl Into<String>) {
    facts.push((key.into(), value.into()));
}
