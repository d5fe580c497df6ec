//! Many keys in one request, for offline scoring: checked as a whole, then read piece by piece, each
//! piece as a request of its own. All pieces are as of one instant unless the caller wants the newest
//! in each. Nothing is held between two pieces but the keys.

use std::ops::Range;
use std::time::Instant;

use arrow_array::{Array as _, ArrayRef};

use super::keys::{cast_columns, check_bounds, row_count};
use super::{OnlineRequest, Serving};
use crate::error::{Code, Error, Result};
use crate::registry::reads::ReadKind;
use crate::registry::selection::{SelectedService, Selection};
use crate::tenancy::{Action, Permit};

/// Rows of a piece, if the bounds of a request allow so many.
const PIECE_ROWS: usize = 1_000;

/// Rows of a piece, whatever the bounds of a request are: names of keys are made, and cells checked,
/// over a whole piece without giving way to what else is on the thread.
const MAX_PIECE_ROWS: usize = 10_000;

/// How a request of many keys is cut, and as of when it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pieces {
    /// Rows of each but the last; if `None`, as many as are fit.
    pub rows: Option<usize>,
    /// Each as of its own instant.
    pub unpinned: bool,
}

/// A request of many keys that can be read.
#[derive(Debug)]
pub struct BulkRead {
    /// What each piece asks for, without its keys.
    request: OnlineRequest,
    /// The entity columns, of exact types.
    entities: Vec<(String, ArrayRef)>,
    rows: usize,
    piece_rows: usize,
}

impl Serving {
    /// Checks a request of many keys and chooses its instant, without reading a row. Refusals as of
    /// [`Serving::get`], over all keys; INVALID_ARGUMENT for pieces that no request may have;
    /// FAILED_PRECONDITION for a view without history, unless pieces are unpinned. Casts the keys: not
    /// for a thread that others wait for.
    pub fn begin_bulk(&self, permit: &Permit, request: OnlineRequest, pieces: Pieces) -> Result<BulkRead> {
        permit.require(Action::ReadInBulk)?;
        let selection = self.select(permit, &request)?;
        if request.at.is_some() {
            selection.require_training_rights()?;
        }
        if pieces.unpinned && request.at.is_some() {
            let message = "'at' and 'unpinned' contradict each other: one instant for all answers, or one for each";
            return Err(Error::invalid("BAD_STREAM", message).hint("leave one of them out"));
        }
        if let Some(asked) = pieces.rows.filter(|rows| *rows > MAX_PIECE_ROWS) {
            let message = format!("'batch_size' is {asked} rows; an answer of a stream has {MAX_PIECE_ROWS} at most");
            let refused = Error::invalid("BAD_STREAM", message).with("limit", MAX_PIECE_ROWS);
            return Err(refused.hint("ask for fewer rows in one answer (--batch-size)"));
        }
        let rows = row_count(&request.entities)?;
        let columns = selection.columns.len();
        let piece_rows = match pieces.rows {
            Some(piece_rows) => piece_rows,
            None => PIECE_ROWS.min(self.settings.max_rows).min(self.settings.max_cells / columns.max(1)).max(1),
        };
        check_bounds(piece_rows, 0, &self.settings)?;
        check_bounds(piece_rows.min(rows), columns, &self.settings)?;
        let columns = cast_columns(&selection, &request.entities)?;
        let names = selection.request_columns.iter().map(|column| column.name.to_string());
        let entities = names.zip(columns).collect();
        let mut request = OnlineRequest { services: frozen(&selection), entities: Vec::new(), ..request };
        if !pieces.unpinned {
            refuse_views_without_history(&selection)?;
            request.at = Some(request.at.unwrap_or_else(|| self.store_time.read()));
            // What is durable by now is in the first piece as in the last. Taken after the instant, so
            // that nothing acknowledged before it is missing.
            request.at_least = request.at_least.max(Some(self.partitions.durable_frame()));
        }
        self.snapshots.reads().note(permit.caller(), selection.reads(), ReadKind::Online);
        Ok(BulkRead { request, entities, rows, piece_rows })
    }
}

impl BulkRead {
    /// The rows of the piece that begins at `first`.
    pub fn piece(&self, first: usize) -> Range<usize> {
        first..self.rows.min(first + self.piece_rows)
    }

    /// All rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The request for some rows.
    pub fn request(&self, rows: Range<usize>, deadline: Option<Instant>) -> OnlineRequest {
        let of_rows = |(name, column): &(String, ArrayRef)| {
            // One value holds for all rows.
            let column = if column.len() == self.rows { column.slice(rows.start, rows.len()) } else { column.clone() };
            (name.clone(), column)
        };
        OnlineRequest {
            entities: self.entities.iter().map(of_rows).collect(),
            deadline,
            arrived: Some(Instant::now()),
            ..self.request.clone()
        }
    }
}

/// `name@N` of each service, so that all pieces are of one version.
fn frozen(selection: &Selection) -> Vec<String> {
    let services = selection.services.iter();
    services.map(SelectedService::reference).collect()
}

fn refuse_views_without_history(selection: &Selection) -> Result<()> {
    let Some(without) = selection.views.iter().find(|of| !of.view.offline) else { return Ok(()) };
    let name = &without.view.name;
    let message = format!("view '{name}' keeps no history (offline: false), so answers can't all be as of one instant");
    Err(Error::new(Code::FailedPrecondition, "VIEW_WITHOUT_HISTORY", message)
        .with("view", name)
        .hint("set 'unpinned' (--unpinned): each answer is then as of its own instant"))
}
