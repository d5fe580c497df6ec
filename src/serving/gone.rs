//! Which views of an answer may lack rows that counted, since the view keeps its rows only for so long. What it
//! costs where no rows are gone is one atomic load; it changes no value.

use hydrant_storage::order::{Micros, none_counts_from};

use super::{Serving, ViewProvenance};
use crate::registry::catalog::{View, retention_step};
use crate::registry::selection::Selection;

impl Serving {
    /// Notes it in each view, for an answer as of `t`. It is to be called once the rows were read: what was gone
    /// by then was noted before it went.
    pub(super) fn tell_gone(&self, views: &mut [ViewProvenance], selection: &Selection, t: Micros, is_pinned: bool) {
        let gone = self.snapshots.gone();
        // What is read now lacks rows only where history has lost some that a longer ttl would have count.
        if gone.is_nothing() && !is_pinned {
            return;
        }
        for (told, selected) in views.iter_mut().zip(&selection.views) {
            let online = if is_pinned { self.gone_online(&selected.view) } else { None };
            let before = gone.before(selected.view.id).max(online);
            let whole_from = before.map(|before| none_counts_from(before, selected.longest_ttl));
            told.lacks_before = whole_from.filter(|whole_from| t < *whole_from);
        }
    }

    /// Rows that happened before may be gone from the online store. It lets them go by their age alone, also
    /// where history has them still, and who finds none there asks history for none.
    fn gone_online(&self, view: &View) -> Option<Micros> {
        let kept = view.retention?;
        Some(self.store_time.read().saturating_sub(kept).saturating_sub(retention_step(kept)))
    }
}
