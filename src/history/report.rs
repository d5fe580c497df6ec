//! What a training set was made of, so that it can be made again and told apart from another.

use hydrant_storage::order::Micros;

use super::asof::Mode;
use crate::clock::rfc3339;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub rows: u64,
    /// How often the two modes differ, over all (row, view) pairs.
    pub differing_rows: u64,
    pub row_view_pairs: u64,
    pub mode: Mode,
    /// Ingest time: no later row was read.
    pub cutoff: Micros,
    /// Of the definitions.
    pub registry_revision: u64,
    /// `name@N` of each service.
    pub services: Vec<String>,
    /// Over the spine's rows, in hex.
    pub spine_hash: String,
    /// Over the answer's rows, in hex.
    pub content_hash: String,
    pub tables: Vec<TableVersion>,
    /// Nulls in each output column, by its name.
    pub nulls: Vec<(String, u64)>,
    /// The output columns that are masked.
    pub masked: Vec<String>,
}

/// Which state of a view's history was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableVersion {
    pub view: String,
    pub view_version: u32,
    /// `None`: nothing has landed yet.
    pub delta_version: Option<i64>,
    /// Rows read that had not landed yet.
    pub tail_rows: u64,
    pub definition_revision: u64,
    /// At instants of the spine before this one, rows that counted may be gone, since the view keeps rows
    /// only for so long. `None`: at none.
    pub lacks_before: Option<Micros>,
}

impl Report {
    /// From this share of differing pairs on, an `as_known` training set is probably not what was
    /// meant. It is small, since it is over all views, and the rows of one may be missing altogether.
    const LOUD_SHARE: f64 = 0.01;

    /// The share of (row, view) pairs that the other mode answers otherwise.
    pub fn differing_share(&self) -> f64 {
        share(self.differing_rows, self.row_view_pairs)
    }

    /// What people are to be warned of: a choice of mode that left much out, and rows that history keeps no more,
    /// each with the way out.
    pub fn warning(&self) -> Option<String> {
        let tables = self.tables.iter().map(|table| (table.view.as_str(), table.lacks_before));
        Self::warning_of(self.mode, self.differing_rows, self.row_view_pairs, tables)
    }

    /// The same of these numbers, and of tables by their views and what they lack.
    pub fn warning_of<'a>(
        mode: Mode,
        differing_rows: u64,
        row_view_pairs: u64,
        tables: impl Iterator<Item = (&'a str, Option<Micros>)>,
    ) -> Option<String> {
        let left_out = left_out(mode, differing_rows, row_view_pairs);
        let missing = tables.filter_map(|(view, lacks_before)| Some(missing(view, lacks_before?)));
        let all: Vec<String> = left_out.into_iter().chain(missing).collect();
        (!all.is_empty()).then(|| all.join("\n"))
    }
}

/// Said loudly.
fn left_out(mode: Mode, differing_rows: u64, row_view_pairs: u64) -> Option<String> {
    let share = share(differing_rows, row_view_pairs);
    (mode == Mode::AsKnown && share >= Report::LOUD_SHARE).then(|| {
        format!(
            "{} of {} (row, view) pairs ({:.1} %) leave out a row that had happened by the spine row's time and became \
             known later. If later corrections should count, ask for `final` (`--final`). If history was loaded as \
             news, load its files again with known time `event` (`hydrant ingest … --known event`): then it is found, \
             though the rows of the first load stay and are still counted here",
            differing_rows,
            row_view_pairs,
            100.0 * share
        )
    })
}

/// Where values may be missing that were there.
fn missing(view: &str, before: Micros) -> String {
    let when = match before {
        Micros::MAX => "at all instants".to_owned(),
        before => format!("at instants before {}", rfc3339(before)),
    };
    format!(
        "{when}, rows of {view} that counted may be gone: the view keeps rows only for so long (`retention`), so cells \
         are NOT_FOUND that had a value. Leave such rows of the spine out"
    )
}

fn share(differing_rows: u64, row_view_pairs: u64) -> f64 {
    if row_view_pairs == 0 { 0.0 } else { differing_rows as f64 / row_view_pairs as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_share_of_rows_not_known_yet_is_said_loudly_with_the_way_out() {
        let report = |mode, differing_rows| Report {
            rows: 100,
            differing_rows,
            row_view_pairs: 200,
            mode,
            cutoff: 0,
            registry_revision: 1,
            services: Vec::new(),
            spine_hash: String::new(),
            content_hash: String::new(),
            tables: Vec::new(),
            nulls: Vec::new(),
            masked: Vec::new(),
        };
        let warning = report(Mode::AsKnown, 120).warning().expect("a large share");
        assert!(warning.contains("60.0 %") && warning.contains("known time `event`"), "{warning}");
        assert!(report(Mode::AsKnown, 2).warning().is_some());
        assert_eq!(report(Mode::AsKnown, 1).warning(), None);
        assert_eq!(report(Mode::Final, 120).warning(), None);
    }
}
