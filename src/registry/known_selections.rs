//! Selections that were made before. A client asks for the same services again and again; to resolve
//! their names each time would cost more than to read the rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use hydrant_storage::names::TenantId;
use xxhash_rust::xxh3::Xxh3Default;

use super::selection::Selection;
use crate::error::Result;

/// Beyond so many, or so many columns of them together (some hundred bytes each), all are forgotten
/// and made anew: requests that are all different are not kept.
const MAX_KNOWN: usize = 1_024;
const MAX_COLUMNS: usize = 1 << 17;
/// A longer request is resolved each time.
const MAX_NAMES: usize = 256;

/// Of one snapshot.
#[derive(Debug, Default)]
pub struct KnownSelections {
    by_request: DashMap<u128, Arc<Known>>,
    columns: AtomicUsize,
}

#[derive(Debug)]
struct Known {
    tenant: TenantId,
    may_see_pii: bool,
    services: Vec<String>,
    features: Vec<String>,
    selection: Arc<Selection>,
}

impl KnownSelections {
    /// Whether a request's selection is kept for the next.
    pub fn keeps(services: &[String], features: &[String]) -> bool {
        services.len() + features.len() <= MAX_NAMES
    }

    /// The selection that was made for this request, or the one that is made now. A refusal is not
    /// kept.
    pub fn get_or_make(
        &self,
        tenant: TenantId,
        services: &[String],
        features: &[String],
        may_see_pii: bool,
        make: impl FnOnce() -> Result<Selection>,
    ) -> Result<Arc<Selection>> {
        if !Self::keeps(services, features) {
            return make().map(Arc::new);
        }
        let request = digest(tenant, services, features, may_see_pii);
        let known = self.by_request.get(&request).map(|known| Arc::clone(&known));
        // Equal digests are no proof of equal requests.
        let same = |known: &Arc<Known>| {
            known.tenant == tenant
                && known.may_see_pii == may_see_pii
                && known.services == services
                && known.features == features
        };
        if let Some(known) = known.filter(same) {
            return Ok(Arc::clone(&known.selection));
        }
        let selection = Arc::new(make()?);
        let columns = selection.columns.len();
        if self.by_request.len() >= MAX_KNOWN
            || self.columns.fetch_add(columns, Ordering::Relaxed) + columns > MAX_COLUMNS
        {
            self.by_request.clear();
            self.columns.store(columns, Ordering::Relaxed);
        }
        let (services, features) = (services.to_vec(), features.to_vec());
        let known = Known { tenant, may_see_pii, services, features, selection: Arc::clone(&selection) };
        self.by_request.insert(request, Arc::new(known));
        Ok(selection)
    }
}

fn digest(tenant: TenantId, services: &[String], features: &[String], may_see_pii: bool) -> u128 {
    let mut digest = Xxh3Default::new();
    digest.update(&tenant.0.to_le_bytes());
    digest.update(&[u8::from(may_see_pii)]);
    for names in [services, features] {
        digest.update(&(names.len() as u64).to_le_bytes());
        for name in names {
            digest.update(&(name.len() as u64).to_le_bytes());
            digest.update(name.as_bytes());
        }
    }
    digest.digest128()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn empty() -> Result<Selection> {
        Selection::new(Vec::new(), Vec::new(), Vec::new(), Vec::new(), 1)
    }

    #[test]
    fn a_request_is_resolved_once_and_another_by_itself() {
        let known = KnownSelections::default();
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let first = known.get_or_make(TenantId(1), &names(&["a", "b"]), &[], true, empty).expect("made");
        let again = known.get_or_make(TenantId(1), &names(&["a", "b"]), &[], true, || panic!("it is known"));
        assert!(Arc::ptr_eq(&first, &again.expect("known")));
        for (tenant, services, features, may_see_pii) in [
            (2, names(&["a", "b"]), names(&[]), true),
            (1, names(&["a", "b"]), names(&[]), false),
            (1, names(&["b", "a"]), names(&[]), true),
            (1, names(&["a"]), names(&["b"]), true),
            (1, names(&["ab"]), names(&[]), true),
        ] {
            let other = known.get_or_make(TenantId(tenant), &services, &features, may_see_pii, empty).expect("made");
            assert!(!Arc::ptr_eq(&first, &other), "{tenant} {services:?} {features:?} {may_see_pii}");
        }
    }

    #[test]
    fn a_refusal_is_not_kept_and_no_more_are_kept_than_the_bound() {
        let known = KnownSelections::default();
        let refused =
            known.get_or_make(TenantId(1), &[], &[], true, || Err(Error::invalid("NOTHING_SELECTED", "nothing")));
        assert!(refused.is_err());
        assert!(known.get_or_make(TenantId(1), &[], &[], true, empty).is_ok());
        for number in 0..3 * MAX_KNOWN {
            known.get_or_make(TenantId(1), &[number.to_string()], &[], true, empty).expect("made");
            assert!(known.by_request.len() <= MAX_KNOWN);
        }
    }
}
