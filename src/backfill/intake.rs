//! Takes the rows of a backfill in their order: checks them, and stages what has come together while the
//! next rows come. Dropped, it leaves what is durable, to go on with.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::RecordBatch;
use hydrant_storage::slices::slice_bytes;
use hydrant_storage::threads::{Work, standing_back};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use super::check::{Checked, check};
use super::finish::{EndOnDrop, Finishing, Whole};
use super::ledger::{Ledger, Piece, PieceWriter};
use super::target::Target;
use super::{BackfillRequest, Inner, blocking};
use crate::error::{Code, Error, Result, Violation};
use crate::pace::Pace;
use crate::rows::{BadRow, MAX_NAMED};
use crate::tenancy::{Held, Permit};

/// Pieces that are sorted and written at a time: one of them waits for the disk.
const WRITERS: usize = 2;
/// The share of the memory that rows take until they are staged: so many for each piece that is written,
/// one for the next, and as much for what is sorted.
const PIECE_SHARE: usize = WRITERS + 3;
/// What a piece takes at most: rows are numbered in 32 bits there.
const LARGEST_PIECE: usize = 1 << 30;

#[derive(Debug)]
pub struct Intake {
    inner: Arc<Inner>,
    permit: Permit,
    /// What its rows take of the tenant's quota, as they came; until history has them.
    storage: Held,
    /// Given back when nothing is staged any more, also after this was dropped.
    place: Arc<OwnedSemaphorePermit>,
    target: Arc<Target>,
    request: BackfillRequest,
    /// How often its views were given up before it began.
    given_up: u64,
    /// Rows of the backfill that were taken.
    rows: u64,
    /// Of it, what is durable.
    staged: Arc<Durable>,
    writers: Arc<Semaphore>,
    pace: Arc<Pace>,
    ending: EndOnDrop,
    /// `None`: an earlier batch was refused, or given up.
    taken: Option<Taken>,
}

#[derive(Debug)]
struct Taken {
    piece: Piece,
    /// Where rows are staged; `None` where they are only checked.
    ledger: Option<Staged>,
    writer: Option<PieceWriter>,
    bad_rows: u64,
    named: Vec<(u64, BadRow)>,
}

/// Pieces are written several at a time, and noted one after the other.
#[derive(Debug)]
enum Staged {
    Idle(Ledger),
    /// The last piece on its way; the one before it is noted first.
    Busy(JoinHandle<Result<Ledger>>),
}

/// What of a backfill is durable and noted.
#[derive(Debug, Default)]
struct Durable {
    rows: AtomicU64,
    bytes: AtomicU64,
}

impl Staged {
    async fn idle(self) -> Result<Ledger> {
        match self {
            Self::Idle(ledger) => Ok(ledger),
            Self::Busy(staging) => {
                let ended = |error| Err(Error::internal(format!("staging rows ended early: {error}")));
                staging.await.unwrap_or_else(ended)
            }
        }
    }
}

impl Intake {
    pub(super) fn new(
        inner: Arc<Inner>,
        (permit, storage): (Permit, Held),
        place: OwnedSemaphorePermit,
        target: Arc<Target>,
        request: BackfillRequest,
        ledger: Option<Ledger>,
    ) -> Self {
        let rows = request.first_row;
        let piece = Piece::new(&target, rows);
        let staged = Arc::new(Durable::default());
        staged.rows.store(rows, Ordering::Relaxed);
        staged.bytes.store(ledger.as_ref().map_or(0, Ledger::bytes), Ordering::Relaxed);
        let writer = ledger.as_ref().map(Ledger::writer);
        let taken = Taken { piece, ledger: ledger.map(Staged::Idle), writer, bad_rows: 0, named: Vec::new() };
        let (place, writers) = (Arc::new(place), Arc::new(Semaphore::new(WRITERS)));
        let ending = EndOnDrop::default();
        let pace = Arc::new(Pace::new(inner.options.bytes_per_second, ending.0.clone()));
        let given_up = inner.times_given_up(&target);
        let taken = Some(taken);
        Self { inner, permit, storage, place, target, request, given_up, rows, staged, writers, pace, ending, taken }
    }

    /// The rows of the backfill that were taken, and those that are durable.
    pub fn rows(&self) -> (u64, u64) {
        (self.rows, self.staged.rows.load(Ordering::Relaxed))
    }

    /// Takes the next rows; ready for more when it returns. Bad rows are told by [`Intake::finish`]: so many
    /// are looked for. After an error, or if the future is dropped, it takes no more. UNAUTHENTICATED where the
    /// caller's credential holds no more; what is durable by then can be gone on with.
    pub async fn push(&mut self, batch: RecordBatch) -> Result<()> {
        let mut taken = self.taken.take().ok_or_else(abandoned)?;
        self.permit.check_still()?;
        self.inner.check_not_given_up(&self.target, self.given_up)?;
        let rows = batch.num_rows() as u64;
        if self.rows + rows > self.request.rows {
            let message = format!("more rows came than the {} that were announced", self.request.rows);
            return Err(Error::invalid("BAD_BACKFILL", message));
        }
        let bytes: usize = batch.columns().iter().map(|column| slice_bytes(column)).sum();
        self.permit.charge_rows(batch.num_rows(), bytes)?;
        if !self.request.validate_only {
            self.storage.grow_to(self.storage.amount().saturating_add(bytes as u64))?;
        }
        let (target, first_row) = (self.target.clone(), self.rows);
        let (now, max_key_bytes) = (self.inner.parts.store_time.read(), self.inner.options.max_key_bytes);
        let checked = blocking(move || {
            let checked = standing_back(Work::Training, || check(&target, batch, first_row, now, max_key_bytes));
            checked.map_err(|error| Error::internal(format!("no thread for checking rows: {error}")))?
        });
        let checked = checked.await.map_err(|error| in_rows(error, first_row))?;
        self.inner.metrics.checked.add(rows);
        self.rows += rows;
        taken.take(checked, self.rows);
        let full = (self.inner.options.memory / PIECE_SHARE).min(LARGEST_PIECE);
        if taken.bad_rows == 0 && taken.piece.bytes() >= full {
            self.stage(&mut taken).await?;
        }
        self.taken = Some(taken);
        Ok(())
    }

    /// All rows were sent: stages the last ones, and then merges and takes in what was staged. Refuses
    /// (INVALID_ARGUMENT) where there are bad rows, naming the first.
    pub async fn finish(mut self) -> Result<Finishing> {
        let mut taken = self.taken.take().ok_or_else(abandoned)?;
        if taken.bad_rows > 0 {
            if let Some(ledger) = taken.ledger.take() {
                let ledger = ledger.idle().await?;
                blocking(move || {
                    ledger.remove();
                    Ok(())
                })
                .await?;
            }
            return Err(self.refusal(taken));
        }
        if self.rows < self.request.rows {
            // Who is told may go on at once, after what is durable by then.
            if let Some(ledger) = taken.ledger.take() {
                ledger.idle().await?;
            }
            let message = format!("{} of {} rows came, and then the upload ended", self.rows, self.request.rows);
            return Err(Error::invalid("BACKFILL_INCOMPLETE", message)
                .hint("run the same command again: what is staged is not sent again"));
        }
        if taken.ledger.is_none() {
            return Ok(Finishing::of_valid(&self.target, &taken.piece));
        }
        self.stage(&mut taken).await?;
        let Some(ledger) = taken.ledger else { return Err(abandoned()) };
        let ledger = ledger.idle().await?;
        let Self { inner, permit, storage, place, target, request, given_up, pace, ending, .. } = self;
        Ok(Finishing::begin(Whole { inner, permit, place, target, request, ledger, given_up, pace }, storage, ending))
    }

    /// Begins to stage what has come together, once not too many pieces are on their way.
    async fn stage(&mut self, taken: &mut Taken) -> Result<()> {
        let (bytes, limit) = (self.staged.bytes.load(Ordering::Relaxed), self.inner.options.max_staged);
        if bytes > limit {
            let message =
                format!("the backfill's sorted rows take {bytes} bytes; 'backfill.max_staged' allows {limit}");
            return Err(Error::new(Code::ResourceExhausted, "BACKFILL_TOO_LONG", message)
                .with("option", "backfill.max_staged")
                .with("limit", limit)
                .hint("load it in several parts, or raise the option"));
        }
        let turn = self.writers.clone().acquire_owned().await;
        let turn = turn.map_err(|_| Error::internal("nobody closes the turns of a backfill's writers"))?;
        let (Some(before), Some(writer)) = (taken.ledger.take(), &mut taken.writer) else { return Ok(()) };
        let writer = writer.for_next(&self.target);
        let next = Piece::new(&self.target, self.rows);
        let piece = std::mem::replace(&mut taken.piece, next);
        let (target, metrics, place) = (self.target.clone(), self.inner.metrics.clone(), self.place.clone());
        let (durable, pace) = (self.staged.clone(), self.pace.clone());
        let staging = async move {
            let written = blocking(move || {
                let written = standing_back(Work::Training, || writer.write(&target, piece));
                let written =
                    written.map_err(|error| Error::internal(format!("no thread for staging rows: {error}")))??;
                // What is written is kept, also where nothing is to follow.
                pace.may_go_on_after(written.bytes());
                Ok(written)
            });
            // Written beside the piece before it, and noted after it.
            let written = written.await;
            let (mut ledger, written) = (before.idle().await?, written?);
            let (rows, bytes) = (ledger.manifest.selected, written.bytes());
            let ledger = blocking(move || ledger.note(written).map(|()| ledger)).await?;
            metrics.staged.add(ledger.manifest.selected - rows);
            durable.rows.store(ledger.manifest.rows, Ordering::Relaxed);
            durable.bytes.fetch_add(bytes, Ordering::Relaxed);
            drop((turn, place));
            Ok(ledger)
        };
        taken.ledger = Some(Staged::Busy(tokio::spawn(staging)));
        Ok(())
    }

    fn refusal(&self, taken: Taken) -> Error {
        let Taken { bad_rows, named, .. } = taken;
        let rows = self.request.rows;
        let violations: Vec<Violation> = named
            .into_iter()
            .map(|(row, bad)| Violation { path: format!("rows[{row}].{}", bad.column), message: bad.reason })
            .collect();
        let first = violations.first().map(|first| format!("; {}: {}", first.path, first.message)).unwrap_or_default();
        let source = &self.request.source;
        let message =
            format!("{bad_rows} of {rows} rows for source '{source}' are bad and nothing was taken in{first}");
        Error::invalid("BAD_ROWS", message).with("bad_rows", bad_rows).with("rows", rows).violations(violations)
    }
}

impl Taken {
    /// `through`: the rows of the backfill up to the end of the batch.
    fn take(&mut self, checked: Checked, through: u64) {
        let Checked { views, selected, bad_rows, named } = checked;
        self.bad_rows += bad_rows;
        self.named.extend(named);
        self.named.truncate(MAX_NAMED);
        self.piece.through = through;
        if self.bad_rows > 0 {
            return;
        }
        self.piece.selected += selected;
        for (index, view) in views.into_iter().enumerate() {
            self.piece.counts[index].null_keys += view.null_keys;
            self.piece.counts[index].too_old += view.too_old;
            if self.ledger.is_some() {
                self.piece.views[index].push(view.rows);
            } else {
                self.piece.only_counted[index] += view.rows.rows() as u64;
            }
        }
    }
}

/// Which rows a refusal of their columns is about.
fn in_rows(error: Error, first_row: u64) -> Error {
    error.with("first_row", first_row)
}

fn abandoned() -> Error {
    Error::new(Code::FailedPrecondition, "BACKFILL_ABANDONED", "an earlier batch of the backfill was not taken")
        .hint("begin again: what is staged is not sent again")
}
