//! Definitions as they are shown, one or page by page. A page's token holds the last name shown, so
//! that a listing goes on where it was whatever is changed meanwhile.

use std::ops::Bound;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hydrant_storage::names::Name;

use crate::error::{Error, Result};

use super::catalog::{Applied, ServiceVersion, TenantCatalog};
use super::definition::Kind;

pub const DEFAULT_PAGE_SIZE: u32 = 100;
/// A larger page size is read as this.
pub const MAX_PAGE_SIZE: u32 = 1_000;
const MAX_TOKEN_BYTES: usize = 256;

/// A definition with what the server knows about it.
#[derive(Clone, Debug)]
pub struct Described {
    pub applied: Applied,
    /// The current version of a view or service; 1 for other kinds.
    pub version: u32,
    /// The current version of a service.
    pub frozen: Option<Arc<ServiceVersion>>,
}

#[derive(Clone, Debug)]
pub struct Page {
    /// By name.
    pub items: Vec<Described>,
    /// Empty: there are no more.
    pub next_page_token: String,
    /// The revision that the page was read at.
    pub revision: u64,
}

pub(super) fn get(catalog: &TenantCatalog, kind: Kind, name: &Name) -> Option<Described> {
    let simple = |applied: &Applied| Described { applied: applied.clone(), version: 1, frozen: None };
    match kind {
        Kind::Tenant => (catalog.name == *name).then(|| simple(&catalog.applied)),
        Kind::Entity => catalog.entities.get(name).map(|entity| simple(&entity.applied)),
        Kind::Source => catalog.sources.get(name).map(|source| simple(&source.applied)),
        Kind::FeatureView => catalog.views.get(name).map(|view| Described {
            applied: view.applied.clone(),
            version: view.version,
            frozen: None,
        }),
        Kind::FeatureService => catalog.services.get(name).map(|service| {
            let frozen = service.versions.last().cloned();
            let version = frozen.as_ref().map_or(1, |frozen| frozen.number);
            Described { applied: service.applied.clone(), version, frozen }
        }),
    }
}

/// A page of a kind: at most `page_size` (0: the default), after the one that gave `page_token`
/// (empty: from the start).
pub(super) fn list(
    catalog: &TenantCatalog,
    revision: u64,
    kind: Kind,
    page_size: u32,
    page_token: &str,
) -> Result<Page> {
    let after = if page_token.is_empty() { None } else { Some(decode(kind, page_token)?) };
    let size = if page_size == 0 { DEFAULT_PAGE_SIZE } else { page_size.min(MAX_PAGE_SIZE) } as usize;
    // One more than fits tells whether there is another page.
    let mut names = names_after(catalog, kind, after.as_ref(), size + 1);
    let more = names.len() > size;
    names.truncate(size);
    let next_page_token = match names.last() {
        Some(last) if more => encode(kind, last),
        _ => String::new(),
    };
    let items = names.iter().filter_map(|name| get(catalog, kind, name)).collect();
    Ok(Page { items, next_page_token, revision })
}

fn names_after(catalog: &TenantCatalog, kind: Kind, after: Option<&Name>, count: usize) -> Vec<Name> {
    let range = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
    match kind {
        Kind::Tenant => {
            [&catalog.name].into_iter().filter(|name| after.is_none_or(|after| *name > after)).cloned().collect()
        }
        Kind::Entity => catalog.entities.range::<Name, _>(range).map(|(name, _)| name.clone()).take(count).collect(),
        Kind::Source => catalog.sources.range::<Name, _>(range).map(|(name, _)| name.clone()).take(count).collect(),
        Kind::FeatureView => catalog.views.range::<Name, _>(range).map(|(name, _)| name.clone()).take(count).collect(),
        Kind::FeatureService => {
            catalog.services.range::<Name, _>(range).map(|(name, _)| name.clone()).take(count).collect()
        }
    }
}

fn encode(kind: Kind, last: &Name) -> String {
    URL_SAFE_NO_PAD.encode(format!("1/{}/{last}", kind.as_str()))
}

fn decode(kind: Kind, token: &str) -> Result<Name> {
    let decoded = if token.len() > MAX_TOKEN_BYTES { None } else { URL_SAFE_NO_PAD.decode(token).ok() };
    let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    let name = text.and_then(|text| {
        let mut parts = text.splitn(3, '/');
        let known = parts.next() == Some("1") && parts.next() == Some(kind.as_str());
        parts.next().filter(|_| known)?.parse().ok()
    });
    name.ok_or_else(|| {
        Error::invalid("BAD_PAGE_TOKEN", format!("the page token is none of a listing of {}", kind.as_str()))
            .hint("give back a token as it was answered, for the same kind; or none, to start anew")
    })
}
