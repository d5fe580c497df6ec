//! What a difference means for those downstream: whether it can be made in place, and whom it touches.
//! It judges what `compatibility` has found and decides nothing itself.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;

use hydrant_storage::names::Name;

use super::compatibility::Incompatible;
use super::definition::{Kind, ServiceReference, Spec};
use super::details::{Line, NEXT_VERSION};
use super::graph::{Downstream, Graph, NodeKind, Touched};
use super::plan::{Action, Change, Class, Difference, Part, Plan, Touches};
use super::state::TenantState;

/// How many names a message lists.
const SHOWN: usize = 20;
/// How many names a difference lists; of more it tells the number.
pub(super) const MAX_OF_DIFFERENCE: usize = 200;
/// How many names a whole plan lists.
const MAX_OF_PLAN: usize = 100_000;

/// What lies downstream of the state before a change.
pub(super) struct Impact<'a> {
    old: &'a TenantState,
    downstream: Downstream,
    /// How many names may still be listed.
    left: Cell<usize>,
}

impl<'a> Impact<'a> {
    pub fn new(old: &'a TenantState, graph: Graph) -> Self {
        Self { old, downstream: Downstream::new(graph), left: Cell::new(MAX_OF_PLAN) }
    }

    /// The lines of an update, each with what it means.
    pub fn differences(&self, kind: Kind, name: &Name, lines: Vec<Line>, found: &[Incompatible]) -> Vec<Difference> {
        let difference = |line: Line| {
            let about = |one: &&Incompatible| is_at_or_under(&line.key, &one.fact);
            // Words and order are nobody's business even where the thing around them can't change.
            let incompatible = found.iter().filter(|_| !is_words(&line.key)).find(about);
            let class = match (incompatible, kind) {
                (Some(incompatible), _) => incompatible.class,
                (None, Kind::FeatureService) if !is_words(&line.key) => Class::NewServiceVersion,
                (None, _) => Class::InPlace,
            };
            let class = if line.key == NEXT_VERSION { Class::NewViewVersion } else { class };
            let why = incompatible.filter(|found| found.is_refused).map(|incompatible| incompatible.message.clone());
            let part = part_of(kind, name, &line.key);
            let touches = self.touched(kind, name, &line.key);
            Difference { touches, text: line.text, class, why, part, keeping: None }
        };
        lines.into_iter().map(difference).collect()
    }

    /// Who is downstream of a part of a definition, as a line of its differences names it; of the whole
    /// definition where the key is empty.
    pub fn touched(&self, kind: Kind, name: &Name, key: &str) -> Touches {
        let all = self.all_touched(kind, name, key);
        let shown = all.len().min(MAX_OF_DIFFERENCE).min(self.left.get());
        self.left.set(self.left.get() - shown);
        Touches { named: all[..shown].to_vec(), more: all.len() - shown }
    }

    fn all_touched(&self, kind: Kind, name: &Name, key: &str) -> Rc<Vec<Touched>> {
        match part_of(kind, name, key) {
            None => Rc::default(),
            Some(_) if kind == Kind::FeatureService && !key.is_empty() => Rc::new(self.followers(name)),
            Some((node_kind, node)) => self.downstream.of(node_kind, &node),
        }
    }

    /// The consumers that a new version of a service reaches: those that pin none.
    fn followers(&self, service: &Name) -> Vec<Touched> {
        let follows = |used: &ServiceReference| used.service == *service && used.version.is_none();
        let of_it = self.old.consumers.iter().filter_map(|(name, stored)| match &stored.definition.spec {
            Spec::Consumer(spec) if spec.services.iter().any(follows) => Some(Touched {
                kind: NodeKind::Consumer,
                name: name.to_string(),
                owner: stored.definition.metadata.owner.clone(),
            }),
            _ => None,
        });
        of_it.collect()
    }
}

/// Which part of a definition a line of its differences is about; all of it where the key is empty, and `None`
/// of what changes no value.
pub(super) fn part_of(kind: Kind, name: &Name, key: &str) -> Option<Part> {
    if is_words(key) {
        return None;
    }
    let within = |prefix: &str| {
        let rest = key.strip_prefix(prefix)?.strip_prefix('.')?;
        Some(rest.split('.').next().unwrap_or(rest))
    };
    match kind {
        Kind::Tenant => None,
        Kind::Entity => Some((NodeKind::Entity, name.to_string())),
        Kind::Source => Some(match within("columns") {
            Some(column) => (NodeKind::Column, format!("{name}.{column}")),
            None => (NodeKind::Source, name.to_string()),
        }),
        Kind::FeatureView => Some(match within("features") {
            Some(feature) => (NodeKind::Feature, format!("{name}:{feature}")),
            None => (NodeKind::FeatureView, name.to_string()),
        }),
        Kind::FeatureService => Some((NodeKind::FeatureService, name.to_string())),
        Kind::Consumer => Some((NodeKind::Consumer, name.to_string())),
    }
}

/// A definition that is to be deleted, or one version of a service. A version of a view is no part that is read.
pub fn part_of_deleted(kind: Kind, name: &Name, version: Option<u32>) -> Option<Part> {
    match (kind, version) {
        (Kind::FeatureService, Some(number)) => Some((NodeKind::FeatureService, format!("{name}@{number}"))),
        (_, Some(_)) => None,
        (_, None) => part_of(kind, name, ""),
    }
}

impl Plan {
    /// The parts of definitions that it changes or takes away, or would.
    pub fn parts(&self) -> BTreeSet<Part> {
        let changed = self.changes.iter().flat_map(|change| change.differences.iter().map(|one| one.part.clone()));
        let deleted = self.changes.iter().map(Change::part);
        let refused = self.refusals.iter().map(|refusal| refusal.part.clone());
        changed.chain(deleted).chain(refused).flatten().collect()
    }
}

impl Change {
    /// What is deleted.
    pub fn part(&self) -> Option<Part> {
        if self.action == Action::Delete { part_of(self.kind, &self.name, "") } else { None }
    }
}

/// The message of a refusal, with the names of those whom the change would hurt.
pub(super) fn hurting(message: &str, touches: &Touches) -> String {
    if touches.named.is_empty() && touches.more == 0 {
        return message.to_owned();
    }
    let shown: Vec<String> = touches.named.iter().take(SHOWN).map(ToString::to_string).collect();
    let more = touches.named.len().saturating_sub(SHOWN) + touches.more;
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{message}; it would hurt {}{more}", shown.join(", "))
}

/// What changes no value: words, their order, and promises.
fn is_words(key: &str) -> bool {
    let last = |word: &str| key == word || key.ends_with(&format!(".{word}"));
    let tagged = key.starts_with("tags.") || key.contains(".tags.");
    tagged
        || key.starts_with("freshness.")
        || key.ends_with(" in order")
        || ["description", "owner"].iter().any(|word| last(word))
}

fn is_at_or_under(key: &str, fact: &str) -> bool {
    key.strip_prefix(fact).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_told_from_what_changes_values() {
        for key in ["description", "owner", "tags.tier", "features.temp.description", "features.temp.tags.pii"] {
            assert!(is_words(key), "{key}");
        }
        for key in ["ttl", "features.temp.default", "columns.owner_id", "features.description_of.type", "joinKeys"] {
            assert!(!is_words(key), "{key}");
        }
        assert!(is_at_or_under("features.temp.type", "features.temp"));
        assert!(!is_at_or_under("features.temperature.type", "features.temp"));
    }
}
