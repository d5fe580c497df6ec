//! What a training set was made of, so that it can be made again and told apart from another.

use hydrant_storage::order::Micros;

use super::asof::Mode;

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
}
