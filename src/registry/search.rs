//! Finds definitions, features and columns by name, tag, owner, type, entity and words. A pure function
//! of what a tenant has defined and of what others share with it: it reads no data, and knows of nothing
//! else of other tenants.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;
use hydrant_storage::value::DataType;

use super::catalog::{Applied, TenantCatalog, View};
use super::definition::{Metadata, Spec};
use super::graph::NodeKind;
use super::shares::{Given, Share, Shared};
use crate::error::{Error, Result};

pub const DEFAULT_PAGE_SIZE: u32 = 50;
/// A larger page size is read as this.
pub const MAX_PAGE_SIZE: u32 = 1_000;
/// The longest text that is looked for, and the longest part of an owner, in bytes.
pub const MAX_TEXT_BYTES: usize = 256;
pub const MAX_WORDS: usize = 16;
pub const MAX_TAGS: usize = 16;
const MAX_TOKEN_BYTES: usize = 512;

/// What is looked for. All of it has to hold.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Words; each has to be found somewhere.
    pub text: String,
    /// Columns are found only where they are asked for.
    pub kind: Option<NodeKind>,
    /// Each has to be there; an empty value means any.
    pub tags: BTreeMap<String, String>,
    /// Part of an owner.
    pub owner: String,
    pub data_type: Option<DataType>,
    pub entity: Option<Name>,
    /// Only these, each with when it was read last: what nobody has read for long.
    pub unread: Option<BTreeMap<(NodeKind, String), Option<Micros>>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    pub kind: NodeKind,
    /// `weather.temp` of a column, `airport_weather:temp` of a feature.
    pub name: String,
    pub description: String,
    pub owner: String,
    /// Of a feature or column; empty of others.
    pub data_type: String,
    /// Where the words were found: `name`, `tag`, `owner`, `type`, `description`.
    pub matched: Vec<&'static str>,
    /// Whom it is shared with; of another tenant's, by what.
    pub shares: Vec<HitShare>,
    /// Where what is unread was asked for: when it was read last.
    pub last_read: Option<Micros>,
}

/// A share that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HitShare {
    /// `tenants/acme/shares/3`.
    pub name: String,
    pub to: Name,
    pub ends: Option<Micros>,
}

/// What others share with a tenant, each with its owner's catalog.
pub(super) type SharedWith<'a> = Vec<(Arc<Given>, &'a TenantCatalog)>;

/// A page of what was found, the best first.
#[derive(Clone, Debug)]
pub struct Found {
    pub hits: Vec<Hit>,
    /// Empty: there are no more.
    pub next_page_token: String,
    /// On whatever page.
    pub total: usize,
}

/// How well the words fit, then what it is, then its name.
type Rank = (u32, usize, String);

/// Looks through everything that a tenant has, and what others share with it. Refused where nothing is asked, or more than is allowed.
pub(super) fn find(
    catalog: &TenantCatalog,
    (shared, now): (&SharedWith<'_>, Micros),
    query: &Query,
    page_size: u32,
    page_token: &str,
) -> Result<Found> {
    let words = checked(query)?;
    let after = if page_token.is_empty() { None } else { Some(decode(page_token)?) };
    let size = if page_size == 0 { DEFAULT_PAGE_SIZE } else { page_size.min(MAX_PAGE_SIZE) } as usize;
    let mut found: Vec<(Rank, Hit)> = Vec::new();
    let mut look_at = |item: Item<'_>| {
        if !item.fits(query) {
            return;
        }
        let Some((score, matched)) = item.score(&words) else { return };
        let rank = (score, place(item.kind), item.name.clone());
        let mut hit = item.hit(matched);
        hit.last_read = query.unread.as_ref().and_then(|unread| unread.get(&item.key()).copied().flatten());
        found.push((rank, hit));
    };
    each_item(catalog, query.kind, now, &mut look_at);
    for (given, owner) in shared {
        each_shared(given, owner, &mut look_at);
    }
    let total = found.len();
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    let begin = after.map_or(0, |after| found.partition_point(|(rank, _)| *rank <= after));
    let page = &found[begin..(begin + size).min(total)];
    let next_page_token = match page.last() {
        Some((rank, _)) if begin + page.len() < total => encode(rank),
        _ => String::new(),
    };
    Ok(Found { hits: page.iter().map(|(_, hit)| hit.clone()).collect(), next_page_token, total })
}

/// The words, in lower case.
fn checked(query: &Query) -> Result<Vec<String>> {
    let bad = |message: String| Err(Error::invalid("BAD_SEARCH", message));
    for (what, text) in [("text", &query.text), ("owner", &query.owner)] {
        if text.len() > MAX_TEXT_BYTES {
            return bad(format!("the {what} to look for has at most {MAX_TEXT_BYTES} bytes, not {}", text.len()));
        }
    }
    let words: Vec<String> = query.text.split_whitespace().map(str::to_lowercase).collect();
    if words.len() > MAX_WORDS {
        return bad(format!("a search has at most {MAX_WORDS} words, not {}", words.len()));
    }
    let tags = query.tags.len();
    let is_long = |(name, value): (&String, &String)| name.len() > MAX_TEXT_BYTES || value.len() > MAX_TEXT_BYTES;
    if tags > MAX_TAGS || query.tags.iter().any(is_long) {
        return bad(format!("a search has at most {MAX_TAGS} tags of at most {MAX_TEXT_BYTES} bytes each"));
    }
    let asks = !words.is_empty()
        || query.kind.is_some()
        || tags > 0
        || !query.owner.is_empty()
        || query.data_type.is_some()
        || query.entity.is_some()
        || query.unread.is_some();
    if !asks {
        let error = Error::invalid("BAD_SEARCH", "the search looks for nothing");
        return Err(error.hint("give a text, a kind, a tag, an owner, a type, an entity or for how long it was unused"));
    }
    Ok(words)
}

/// What can be found.
struct Item<'a> {
    kind: NodeKind,
    name: String,
    description: &'a str,
    owner: &'a str,
    tags: &'a BTreeMap<String, String>,
    types: Vec<DataType>,
    entities: Vec<&'a Name>,
    shares: Vec<HitShare>,
}

impl<'a> Item<'a> {
    fn of(kind: NodeKind, applied: &'a Applied) -> Self {
        let Metadata { name, description, owner, tags } = &applied.definition.metadata;
        let (types, entities, shares) = (Vec::new(), Vec::new(), Vec::new());
        Self { kind, name: name.to_string(), description, owner, tags, types, entities, shares }
    }

    fn fits(&self, query: &Query) -> bool {
        let tag = |(name, value): (&String, &String)| {
            self.tags.get(name).is_some_and(|found| value.is_empty() || found == value)
        };
        query.kind.is_none_or(|kind| kind == self.kind)
            && query.tags.iter().all(tag)
            && (query.owner.is_empty() || self.owner.to_lowercase().contains(&query.owner.to_lowercase()))
            && query.data_type.is_none_or(|data_type| self.types.contains(&data_type))
            && query.entity.as_ref().is_none_or(|entity| self.entities.contains(&entity))
            && query.unread.as_ref().is_none_or(|unread| unread.contains_key(&self.key()))
    }

    fn key(&self) -> (NodeKind, String) {
        (self.kind, self.name.clone())
    }

    /// How well the words fit: less is better. `None` where one of them is nowhere.
    fn score(&self, words: &[String]) -> Option<(u32, Vec<&'static str>)> {
        let (description, owner) = (self.description.to_lowercase(), self.owner.to_lowercase());
        let mut sum = 0;
        let mut matched = BTreeSet::new();
        for word in words {
            let in_tags = || {
                let mut texts = self.tags.iter().flat_map(|(name, value)| [name, value]);
                texts.any(|text| text.to_lowercase().contains(word.as_str()))
            };
            let is_word = |text: &str| text.split(|letter: char| !letter.is_alphanumeric()).any(|part| part == word);
            let (score, place) = if let Some(score) = self.in_name(word) {
                (score, "name")
            } else if in_tags() {
                (4, "tag")
            } else if owner.contains(word.as_str()) {
                (5, "owner")
            } else if self.types.iter().any(|data_type| data_type.to_string() == *word) {
                (6, "type")
            } else if is_word(&description) {
                (7, "description")
            } else if description.contains(word.as_str()) {
                (8, "description")
            } else {
                return None;
            };
            sum += score;
            matched.insert(place);
        }
        Some((sum, matched.into_iter().collect()))
    }

    /// The name itself, its beginning, a word of it, a part of it.
    fn in_name(&self, word: &str) -> Option<u32> {
        let own = self.name.rsplit([':', '.']).next().unwrap_or(&self.name);
        if self.name == word || own == word {
            return Some(0);
        }
        if self.name.starts_with(word) || own.starts_with(word) {
            return Some(1);
        }
        if self.name.split(['_', ':', '.']).any(|part| part == word) {
            return Some(2);
        }
        self.name.contains(word).then_some(3)
    }

    fn hit(&self, matched: Vec<&'static str>) -> Hit {
        let is_typed = matches!(self.kind, NodeKind::Feature | NodeKind::Column);
        let data_type = self.types.first().filter(|_| is_typed).map(ToString::to_string);
        Hit {
            kind: self.kind,
            name: self.name.clone(),
            description: self.description.to_owned(),
            owner: self.owner.to_owned(),
            data_type: data_type.unwrap_or_default(),
            matched,
            shares: self.shares.clone(),
            last_read: None,
        }
    }
}

/// What people look for mostly comes first among equals.
fn place(kind: NodeKind) -> usize {
    let order = [
        NodeKind::FeatureView,
        NodeKind::Feature,
        NodeKind::FeatureService,
        NodeKind::Source,
        NodeKind::Entity,
        NodeKind::Consumer,
        NodeKind::Column,
    ];
    order.iter().position(|known| *known == kind).unwrap_or(order.len())
}

fn each_item<'a>(catalog: &'a TenantCatalog, kind: Option<NodeKind>, now: Micros, found: &mut impl FnMut(Item<'a>)) {
    static NO_TAGS: BTreeMap<String, String> = BTreeMap::new();
    for (name, entity) in &catalog.entities {
        let types = entity.join_keys.iter().map(|key| DataType::Scalar(key.key_type)).collect();
        found(Item { types, entities: vec![name], ..Item::of(NodeKind::Entity, &entity.applied) });
    }
    for source in catalog.sources.values() {
        found(Item::of(NodeKind::Source, &source.applied));
        for column in source.columns.iter().filter(|_| kind == Some(NodeKind::Column)) {
            found(Item {
                name: format!("{}.{}", source.name, column.name),
                description: "",
                tags: &NO_TAGS,
                types: vec![column.data_type],
                ..Item::of(NodeKind::Column, &source.applied)
            });
        }
    }
    for view in catalog.views.values() {
        let is_of_it = |share: &Share| matches!(&share.of, Shared::View(name) if *name == view.name);
        each_of_view(view, "", &shares_of(catalog, now, is_of_it), found);
    }
    for service in catalog.services.values() {
        let current = service.versions.last().into_iter().flat_map(|version| &version.lookups);
        let entities: BTreeSet<&Name> = current
            .filter_map(|lookup| catalog.views.get(&lookup.view.name))
            .flat_map(|view| entities_of(view))
            .collect();
        let entities = entities.into_iter().collect();
        let is_of_it = |share: &Share| matches!(&share.of, Shared::Service(name) if *name == service.name);
        let shares = shares_of(catalog, now, is_of_it);
        found(Item { entities, shares, ..Item::of(NodeKind::FeatureService, &service.applied) });
    }
    for consumer in catalog.consumers.values() {
        found(Item::of(NodeKind::Consumer, &consumer.applied));
    }
}

/// A view and its features, with `prefix` before their names.
fn each_of_view<'a>(view: &'a View, prefix: &str, shares: &[HitShare], found: &mut impl FnMut(Item<'a>)) {
    let (entities, shares) = (entities_of(view), shares.to_vec());
    for feature in &view.features {
        found(Item {
            name: format!("{prefix}{}:{}", view.name, feature.name),
            description: &feature.description,
            tags: &feature.tags,
            types: vec![feature.data_type],
            entities: entities.clone(),
            shares: shares.clone(),
            ..Item::of(NodeKind::Feature, &view.applied)
        });
    }
    let name = format!("{prefix}{}", view.name);
    found(Item { name, entities, shares, ..Item::of(NodeKind::FeatureView, &view.applied) });
}

/// What another tenant shares, and nothing that it is made of.
fn each_shared<'a>(given: &Given, owner: &'a TenantCatalog, found: &mut impl FnMut(Item<'a>)) {
    let (prefix, shares) = (format!("{}/", owner.name), vec![hit_share(owner, &given.share)]);
    match &given.share.of {
        Shared::View(name) => {
            if let Some(view) = owner.views.get(name) {
                each_of_view(view, &prefix, &shares, found);
            }
        }
        Shared::Service(name) => {
            if let Some(service) = owner.services.get(name) {
                let name = format!("{prefix}{name}");
                found(Item { name, shares, ..Item::of(NodeKind::FeatureService, &service.applied) });
            }
        }
    }
}

fn shares_of(catalog: &TenantCatalog, now: Micros, is_of_it: impl Fn(&Share) -> bool) -> Vec<HitShare> {
    let of_it = catalog.shares.values().filter(|share| share.stands(now) && is_of_it(share));
    of_it.map(|share| hit_share(catalog, share)).collect()
}

fn hit_share(owner: &TenantCatalog, share: &Share) -> HitShare {
    let name = format!("tenants/{}/shares/{}", owner.name, share.number);
    HitShare { name, to: share.to.clone(), ends: share.ends }
}

fn entities_of(view: &View) -> Vec<&Name> {
    match &view.applied.definition.spec {
        Spec::FeatureView(spec) => spec.entities.iter().collect(),
        _ => Vec::new(),
    }
}

fn encode((score, place, name): &Rank) -> String {
    URL_SAFE_NO_PAD.encode(format!("s/{score}/{place}/{name}"))
}

fn decode(token: &str) -> Result<Rank> {
    let decoded = if token.len() > MAX_TOKEN_BYTES { None } else { URL_SAFE_NO_PAD.decode(token).ok() };
    let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    let rank = text.and_then(|text| {
        let mut parts = text.strip_prefix("s/")?.splitn(3, '/');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.to_owned()))
    });
    rank.ok_or_else(|| {
        Error::invalid("BAD_PAGE_TOKEN", "the page token is none of a search")
            .hint("give back a token as it was answered, for the same search; or none, to start anew")
    })
}
