//! A table made from another's rows: those of one version of a view, as the next version has them. Rows keep
//! their keys, times and positions; of their features some are left out, some are called otherwise, and some
//! are of a wider type. It becomes part of the table in one commit, or not at all.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::ArrayRef;
use arrow_buffer::{BooleanBuffer, ScalarBuffer};

use crate::cast::to_exact;
use crate::files::Files;
use crate::history::delta::ListedFile;
use crate::history::outputs::{Outputs, Target, write_run};
use crate::history::schema::absent;
use crate::history::snapshot::{Chain, TableSnapshot};
use crate::history::table::{Inner, blocking, finished};
use crate::history::writer::{FileFacts, Purpose, RowChecks, RunPlace};
use crate::history::{HistoryError, HistoryTable, Pace, Run, RunBatch};
use crate::order::Micros;
use crate::value::DataType;

/// What a table is made from.
#[derive(Debug)]
pub struct Succession {
    pub from: Arc<TableSnapshot>,
    /// For each feature of the table the one of the other, by its place, whose values it has. Those that have
    /// one come first, in the other's order.
    pub origins: Vec<Option<usize>>,
    /// Rows of later frames are the table's own.
    pub through: u64,
    /// A file ends once it has about so many bytes.
    pub file_bytes: u64,
    /// Counts the rows of the other table that were gone through.
    pub rows: Arc<AtomicU64>,
}

impl HistoryTable {
    /// The frame that was noted in the table under a name, if one was.
    pub async fn noted(&self, name: &str) -> Result<Option<u64>, HistoryError> {
        self.inner.log.lock().await.taken_in(name).await
    }

    /// Notes a frame in the table under a name, unless one is already: which one is. Durable when it returns.
    ///
    /// # Errors
    /// Nothing has changed, but for [`HistoryError::SyncFailed`], as with [`HistoryTable::land`].
    pub async fn note(&self, name: &str, frame: u64, now: Micros) -> Result<u64, HistoryError> {
        let (inner, name) = (self.inner.clone(), name.to_owned());
        finished(tokio::spawn(async move { inner.commit_noted(&name, &[], frame, None, now).await })).await
    }

    /// Makes the rows of another table this one's too, but for those of frames of which it has rows of its own,
    /// and notes that under a name; does nothing if it is noted already. How many rows there were.
    ///
    /// # Errors
    /// Nothing has changed and nothing is left, but for [`HistoryError::SyncFailed`].
    pub async fn succeed(
        &self,
        succession: Succession,
        name: &str,
        now: Micros,
        pace: Pace,
    ) -> Result<u64, HistoryError> {
        let (inner, name) = (self.inner.clone(), name.to_owned());
        finished(tokio::spawn(async move { inner.succeed(succession, &name, now, pace).await })).await
    }
}

impl Inner {
    async fn succeed(
        &self,
        succession: Succession,
        name: &str,
        now: Micros,
        mut pace: Pace,
    ) -> Result<u64, HistoryError> {
        self.check_synced()?;
        if self.log.lock().await.taken_in(name).await?.is_some() {
            return Ok(0);
        }
        let (through, table) = (succession.through, self.current());
        let retained_from = succession.from.retained_from;
        let made = blocking(move || write_all(&succession, &table, &mut pace)).await?;
        // Merges number their runs by those that there are: none is made until these have theirs.
        let _alone = self.compacting().lock_owned().await;
        let numbers = self.current().files.iter().filter_map(|file| file.facts.place).map(|place| place.run).collect();
        let listed = listed(&made, numbers);
        let rows = made.iter().map(|(_, outputs)| outputs.rows()).sum();
        self.commit_noted(name, &listed, through, retained_from, now).await?;
        // They are the table's from here on.
        made.into_iter().for_each(|(_, mut outputs)| drop(outputs.keep()));
        Ok(rows)
    }

    /// Commits files and a note, unless it is there: the frame that is noted.
    async fn commit_noted(
        &self,
        name: &str,
        files: &[ListedFile],
        frame: u64,
        retained_from: Option<Micros>,
        now: Micros,
    ) -> Result<u64, HistoryError> {
        let mut log = self.log.lock().await;
        self.check_synced()?;
        if let Some(noted) = log.taken_in(name).await? {
            return Ok(noted);
        }
        if let Err(error) = log.commit_take_in(name, files, frame, retained_from, now).await {
            self.check_synced()?;
            // The commit may have been made all the same; only the log can tell.
            log.reload().await?;
            if log.taken_in(name).await?.is_none() {
                self.publish(&log, self.current().spec.clone()).await?;
                return Err(error);
            }
        }
        self.publish(&log, self.current().spec.clone()).await?;
        log.checkpoint_if_due().await;
        Ok(frame)
    }
}

/// The files with a number for each run that no other has.
fn listed(made: &[(u32, Outputs)], numbers: Vec<u64>) -> Vec<ListedFile> {
    let last = numbers.into_iter().filter(|run| *run < RunPlace::TAKEN_IN).max().unwrap_or(0);
    let mut listed = Vec::new();
    for ((level, outputs), number) in made.iter().zip(last + 1..) {
        for ((name, written), file) in outputs.written.iter().zip(0..) {
            let place = Some(RunPlace { run: number, level: *level, file });
            let facts = FileFacts { place, ..written.facts };
            listed.push(ListedFile { name: name.clone(), bytes: written.bytes, facts });
        }
    }
    listed
}

/// The runs of the other table as files of this one, each with its level. Blocks.
fn write_all(
    succession: &Succession,
    table: &TableSnapshot,
    pace: &mut Pace,
) -> Result<Vec<(u32, Outputs)>, HistoryError> {
    let from = &succession.from;
    let own = frames_through(table, succession.through)?;
    let mut projection: Vec<usize> = succession.origins.iter().flatten().copied().collect();
    projection.dedup();
    let mut made = Vec::new();
    for chain in from.chains_with(None, None) {
        let rows = from.open_chain(&chain, &projection, None)?;
        let mut rows = Succeeding { rows, succession, projection: &projection, own: &own, table };
        let files: &Arc<dyn Files> = &table.store;
        let target = Target {
            files,
            directory: &table.directory,
            spec: &table.spec,
            purpose: Purpose::Table(table.shape),
            file_bytes: succession.file_bytes,
        };
        let new_name = || table.new_name(succession.through);
        let checks = RowChecks::new(0, succession.through);
        made.push((chain.level(), write_run(&mut rows, &target, &new_name, checks, pace.as_mut())?));
    }
    Ok(made)
}

/// The frames through one of which a table has rows. Blocks.
fn frames_through(table: &TableSnapshot, through: u64) -> Result<HashSet<u64>, HistoryError> {
    let mut frames = HashSet::new();
    let has_some = |chain: &Chain<'_>| chain.files().iter().any(|file| file.facts.first_frame <= through);
    for chain in table.chains_with(None, None).into_iter().filter(has_some) {
        let mut rows = table.open_chain(&chain, &[], None)?;
        while let Some(batch) = rows.next()? {
            frames.extend(batch.frames.iter().copied().filter(|frame| *frame <= through));
        }
    }
    Ok(frames)
}

/// Rows of the other table as this one has them.
struct Succeeding<'a, R> {
    rows: R,
    succession: &'a Succession,
    projection: &'a [usize],
    own: &'a HashSet<u64>,
    table: &'a TableSnapshot,
}

impl<R: Run> Run for Succeeding<'_, R> {
    fn next(&mut self) -> Result<Option<Arc<RunBatch>>, HistoryError> {
        while let Some(batch) = self.rows.next()? {
            self.succession.rows.fetch_add(batch.rows() as u64, Ordering::Relaxed);
            let is_kept = |frame: &u64| *frame <= self.succession.through && !self.own.contains(frame);
            let keep: BooleanBuffer = batch.frames.iter().map(is_kept).collect();
            match keep.count_set_bits() {
                0 => {}
                all if all == batch.rows() => return self.succeeding(&batch).map(Some),
                _ => return self.succeeding(&batch.filtered(keep)?).map(Some),
            }
        }
        Ok(None)
    }
}

impl<R> Succeeding<'_, R> {
    fn succeeding(&self, batch: &RunBatch) -> Result<Arc<RunBatch>, HistoryError> {
        let origins = &self.succession.origins;
        let types = self.table.spec.features.iter().map(|(_, data_type)| *data_type);
        let features: Result<Vec<ArrayRef>, _> =
            origins.iter().zip(types).map(|(origin, data_type)| self.feature(batch, *origin, data_type)).collect();
        let known =
            |count: &u16| origins.iter().flatten().filter(|origin| **origin < usize::from(*count)).count() as u16;
        let feature_counts: ScalarBuffer<u16> = batch.feature_counts.iter().map(known).collect();
        Ok(Arc::new(RunBatch { features: features?, feature_counts, ..batch.clone() }))
    }

    fn feature(&self, batch: &RunBatch, origin: Option<usize>, data_type: DataType) -> Result<ArrayRef, HistoryError> {
        let place = origin.and_then(|origin| self.projection.iter().position(|known| *known == origin));
        let Some(place) = place else { return Ok(absent(data_type, batch.rows())) };
        let refused = |reason: String| HistoryError::BadRows { reason };
        let exact = to_exact(&batch.features[place], data_type).map_err(|error| refused(error.to_string()))?;
        match exact.misfits.first() {
            None => Ok(exact.array),
            Some(misfit) => {
                Err(refused(format!("the row at {}: {}", batch.version(misfit.row).position, misfit.reason)))
            }
        }
    }
}
