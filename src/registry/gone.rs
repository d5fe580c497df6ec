//! Before which instant rows of each version of a view are gone, since its rows are kept only for so long. Who
//! takes rows out of history says so here before they go, and whoever answers or plans reads it. It is kept in
//! memory alone: the tables of history keep it, and it is read from them at the start.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use hydrant_storage::names::ViewId;
use hydrant_storage::order::Micros;

/// Clones are the same. Reading takes no lock and allocates nothing.
#[derive(Clone, Debug, Default)]
pub struct Gone(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Rows of any version are gone: most stores keep all, and no read of theirs looks any further.
    any: AtomicBool,
    before: ArcSwap<HashMap<ViewId, Micros>>,
}

impl Gone {
    /// Whether no row of any version of any view is gone.
    pub fn is_nothing(&self) -> bool {
        !self.0.any.load(Ordering::Acquire)
    }

    /// Rows of a version that happened before are gone, or about to go; `None`: none are.
    pub fn before(&self, version: ViewId) -> Option<Micros> {
        if self.is_nothing() {
            return None;
        }
        self.0.before.load().get(&version).copied()
    }

    /// To be said before the rows go, so that no answer lacks them in silence. Never goes back.
    pub fn note(&self, version: ViewId, before: Micros) {
        self.0.before.rcu(|known| {
            let mut next = HashMap::clone(known);
            let noted = next.entry(version).or_insert(before);
            *noted = before.max(*noted);
            next
        });
        self.0.any.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_stays_gone_for_its_version_alone() {
        let (gone, one, other) = (Gone::default(), ViewId(1), ViewId(2));
        assert!(gone.is_nothing() && gone.before(one).is_none());
        gone.note(one, 5);
        gone.note(one, 3);
        assert_eq!((gone.before(one), gone.before(other), gone.is_nothing()), (Some(5), None, false));
        gone.clone().note(one, 7);
        assert_eq!(gone.before(one), Some(7));
    }
}
