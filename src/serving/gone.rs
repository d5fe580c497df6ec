//! Which views of an answer may lack rows that counted, since the view keeps its rows only for so long. What it
//! costs where no rows are gone is one atomic load; it changes no value.

use hydrant_storage::order::{Micros, none_counts_from};

use super::{Serving, ViewProvenance};
use crate::registry::selection::Selection;

impl Serving {
    /// Notes it in each view, for an answer as of `t`. It is to be called once the rows were read: what was gone
    /// by then was noted before it went.
    pub(super) fn tell_gone(&self, views: &mut [ViewProvenance], selection: &Selection, t: Micros) {
        let gone = self.snapshots.gone();
        if gone.is_nothing() {
            return;
        }
        for (told, selected) in views.iter_mut().zip(&selection.views) {
            let whole_from = gone.before(selected.view.id).map(|gone| none_counts_from(gone, selected.longest_ttl));
            told.lacks_before = whole_from.filter(|whole_from| t < *whole_from);
        }
    }
}
