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

impl TableVersion {
    /// Said where values may be missing, with what to do.
    pub fn warning_of(view: &str, lacks_before: Option<Micros>) -> Option<String> {
        let before = lacks_before?;
        let when = if before == Micros::MAX {
            "at all instants".to_owned()
        } else {
            format!("at instants before {}", rfc3339(before))
        };
        Some(format!(
            "{when}, rows of {view} that counted may be gone: the view keeps rows only for so long (`retention`), so cells \
             are NOT_FOUND that had a value. Leave such rows of the spine out"
        ))
    }
}

impl Report {
    /// From this share of differing pairs on, an `as_known` training set is probably not what was
    /// meant. It is small, since it is over all views, and the rows of one may be missing altogether.
    const LOUD_SHARE: f64 = 0.01;

    /// The share of (row, view) pairs that the other mode answers otherwise.
    pub fn differing_share(&self) -> f64 {
        share(self.differing_rows, self.row_view_pairs)
    }

    /// Said loudly where the choice of mode left much out, with the way out.
    pub fn warning(&self) -> Option<String> {
        let of_tables =
            self.tables.iter().filter_map(|table| TableVersion::warning_of(&table.view, table.lacks_before));
        let of_mode = Self::warning_of(self.mode, self.differing_rows, self.row_view_pairs);
        joined(of_mode.into_iter().chain(of_tables))
    }

    /// The same of these numbers.
    pub fn warning_of(mode: Mode, differing_rows: u64, row_view_pairs: u64) -> Option<String> {
        let share = share(differing_rows, row_view_pairs);
        (mode == Mode::AsKnown && share >= Self::LOUD_SHARE).then(|| {
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
}

/// What people are warned of, in one text.
pub fn joined(warnings: impl Iterator<Item = String>) -> Option<String> {
    let all: Vec<String> = warnings.collect();
    (!all.is_empty()).then(|| all.join("\n"))
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
        };
        let warning = report(Mode::AsKnown, 120).warning().expect("a large share");
        assert!(warning.contains("60.0 %") && warning.contains("known time `event`"), "{warning}");
        assert!(report(Mode::AsKnown, 2).warning().is_some());
        assert_eq!(report(Mode::AsKnown, 1).warning(), None);
        assert_eq!(report(Mode::Final, 120).warning(), None);
    }
}
