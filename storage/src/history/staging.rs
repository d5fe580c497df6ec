//! Rows on their way straight into history: as many as fit into memory are sorted and written as a run,
//! quick to write and to read; all runs are then merged into files of a table, several ranges of slots at
//! a time. Everything written is durable, and part of no table. It knows nothing of where rows come from.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::files::{Files, remove_if_there};
use crate::history::delta::ListedFile;
use crate::history::footers::Footers;
use crate::history::gather::{BATCH_ROWS, GatheredRun, gather};
use crate::history::outputs::{Outputs, Target, write_run};
use crate::history::parquet_run::{Asked, ParquetRun};
use crate::history::sought::Sought;
use crate::history::writer::{FileFacts, FileShape, OpenFile, Purpose, RowChecks, RunPlace, TakenIn};
use crate::history::{DistinctKeys, HistoryError, HistoryViewSpec, MergedRuns, Run, RunBatch, SlotSet};
use crate::keys::SlotRange;

/// The names of files that wait in a table's directory until they are taken in.
pub(super) const STAGED_PREFIX: &str = "staged-";

/// Runs that are merged at a time at most, and at least.
const MOST_RUNS: usize = 256;
const LEAST_RUNS: usize = 2;

/// A range of slots is merged by itself if it has so many bytes; more ranges than this aren't made.
const PART_BYTES: u64 = if cfg!(test) { 4 << 10 } else { 32 << 20 };
const MOST_PARTS: u64 = 512;

/// What a file is cut by that passes from merge to merge: not at all.
const WHOLE: u64 = u64::MAX;

/// A file that was written and is durable, and no table's yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedFile {
    pub name: String,
    pub bytes: u64,
    pub(super) facts: FileFacts,
}

/// How rows are merged.
#[derive(Clone, Copy, Debug)]
pub struct StagingOptions {
    /// Bytes that the open runs of all threads may take together. A row group is written beside, by each.
    pub memory: usize,
    pub threads: usize,
    /// A file ends once it has about so many bytes.
    pub file_bytes: u64,
    /// As which level's compaction is to see the files.
    pub level: u32,
}

/// How far a merge is, and whether it is to go on.
pub struct StagingWatch {
    /// Rows written for the table.
    pub merged: AtomicU64,
    go_on: Box<dyn Fn(u64) -> bool + Send + Sync>,
}

/// Rows in memory, as they came.
#[derive(Debug, Default)]
pub struct StagedRows {
    batches: Vec<Arc<RunBatch>>,
    rows: usize,
    bytes: usize,
}

/// What is merged, and where to.
#[derive(Clone, Copy, Debug)]
pub struct Staging<'a> {
    pub files: &'a Arc<dyn Files>,
    pub spec: &'a HistoryViewSpec,
    /// Where runs lie.
    pub runs: &'a Path,
    /// The table's directory.
    pub table: &'a Path,
    /// In the names of the table's files: hexadecimal digits.
    pub backfill: &'a str,
}

impl StagingWatch {
    /// `go_on` is told of bytes that were written; it may wait, and says whether the merge goes on.
    pub fn new(go_on: impl Fn(u64) -> bool + Send + Sync + 'static) -> Self {
        Self { merged: AtomicU64::new(0), go_on: Box::new(go_on) }
    }
}

impl std::fmt::Debug for StagingWatch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("StagingWatch").field("merged", &self.merged).finish_non_exhaustive()
    }
}

impl StagedFile {
    pub fn rows(&self) -> u64 {
        self.facts.rows
    }

    /// The file as its table lists it once it is taken in.
    pub(super) fn listed(&self, taken: TakenIn) -> ListedFile {
        let TakenIn { frame, ingest_time, .. } = taken;
        let place = self.facts.place.map(|place| RunPlace { run: RunPlace::TAKEN_IN | frame, ..place });
        let facts = FileFacts {
            first_frame: frame,
            last_frame: frame,
            first_ingest_time: ingest_time,
            last_ingest_time: ingest_time,
            taken_in: Some(taken),
            // When they are known was not known when they were written.
            known_at_once: self.facts.known_at_once && !taken.known_on_arrival,
            place,
            ..self.facts
        };
        ListedFile { name: self.name.clone(), bytes: self.bytes, facts }
    }
}

impl StagedRows {
    /// Takes rows in the order of their ordinals. What their frames and ingest times say means nothing.
    pub fn push(&mut self, batch: RunBatch) {
        if batch.rows() > 0 {
            self.rows += batch.rows();
            self.bytes += batch.rows() * (batch.row_bytes() + size_of::<u128>());
            self.batches.push(Arc::new(batch));
        }
    }

    /// About the memory that they take, with what it takes to sort them.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Sorts the rows and writes them into one file, a run; there must be some. Blocks.
    pub fn write(self, staging: &Staging<'_>, name: String) -> Result<StagedFile, HistoryError> {
        let order = self.sorted();
        let spec = passing(staging.spec);
        let path = staging.runs.join(&name);
        let mut file =
            OpenFile::create(staging.files.as_ref(), path, &spec, RowChecks::staged(), Purpose::Passing, None)?;
        let starts = self.starts();
        let mut places = Vec::with_capacity(BATCH_ROWS);
        for rows in order.chunks(BATCH_ROWS) {
            places.clear();
            places.extend(rows.iter().map(|entry| place_of(&starts, *entry as u32)));
            file.write(Arc::new(gather(&self.batches, &places)?))?;
        }
        let (written, _) = file.finish(None)?;
        Ok(StagedFile { name, bytes: written.bytes, facts: written.facts })
    }

    /// The number of each batch's first row, where rows are counted through.
    fn starts(&self) -> Vec<u32> {
        let mut next = 0;
        let starts = self.batches.iter().map(|batch| {
            let start = next;
            // What fits into memory is fewer than 2^32.
            next += batch.rows() as u32;
            start
        });
        starts.collect()
    }

    /// The rows in history order: a key's number, an event time and the row's own number in one that orders
    /// as they do.
    fn sorted(&self) -> Vec<u128> {
        const SIGN: u64 = 1 << 63;
        let mut keys = DistinctKeys::default();
        let mut entries: Vec<u128> = Vec::with_capacity(self.rows);
        let mut numbers = Vec::new();
        let mut number = 0u32;
        for batch in &self.batches {
            numbers.clear();
            keys.numbers_of((0..batch.rows()).map(|row| (batch.slots[row], batch.keys.value(row))), &mut numbers);
            for (row, key) in numbers.iter().enumerate() {
                let time = batch.event_times[row].cast_unsigned() ^ SIGN;
                entries.push(u128::from(*key) << 96 | u128::from(time) << 32 | u128::from(number));
                number += 1;
            }
        }
        let ranks = keys.sort();
        for entry in &mut entries {
            let rank = ranks[(*entry >> 96) as usize];
            *entry = *entry & (u128::MAX >> 32) | u128::from(rank) << 96;
        }
        entries.sort_unstable();
        // Of one key and event time the known times decide, and then the order in which they came.
        let starts = self.starts();
        let known = |entry: &u128| {
            let (batch, row) = place_of(&starts, *entry as u32);
            self.batches[batch].known_times[row]
        };
        for alike in entries.chunk_by_mut(|one, next| one >> 32 == next >> 32).filter(|alike| alike.len() > 1) {
            alike.sort_by_key(known);
        }
        entries
    }
}

/// Where a row lies that has this number: its batch, and its place there.
fn place_of(starts: &[u32], number: u32) -> (usize, usize) {
    let batch = starts.partition_point(|start| *start <= number) - 1;
    (batch, (number - starts[batch]) as usize)
}

/// What a passing file has of the view's columns: its key once.
fn passing(spec: &HistoryViewSpec) -> HistoryViewSpec {
    HistoryViewSpec { join_keys: Vec::new(), ..spec.clone() }
}

impl Staging<'_> {
    /// Merges runs into files in the table's directory; the runs stay. Nothing is left of it on an error,
    /// and [`HistoryError::GivenUp`] is one where the watch said to stop. Blocks, and starts threads.
    pub fn merge(
        &self,
        runs: &[StagedFile],
        options: &StagingOptions,
        watch: &StagingWatch,
    ) -> Result<Vec<StagedFile>, HistoryError> {
        let threads = options.threads.max(1);
        let mut reduced = Reduced { staging: self, made: Vec::new() };
        let runs = reduced.down_to_fan_in(runs, options, watch)?;
        let bytes: u64 = runs.iter().map(|run| run.bytes).sum();
        let parts = (bytes / PART_BYTES).clamp(1, MOST_PARTS) as u16;
        let ranges = SlotRange::split_evenly(parts);
        let next = AtomicU64::new(0);
        let made: Mutex<Vec<(usize, Outputs)>> = Mutex::default();
        let failed: Mutex<Option<HistoryError>> = Mutex::default();
        let work = || {
            loop {
                let part = next.fetch_add(1, Ordering::Relaxed) as usize;
                let Some(range) = ranges.get(part) else { return };
                match self.merge_part(&runs, *range, options.file_bytes, watch) {
                    Ok(outputs) => made.lock().unwrap_or_else(PoisonError::into_inner).push((part, outputs)),
                    Err(error) => {
                        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        // The others end before their next part.
                        next.store(u64::from(u32::MAX), Ordering::Relaxed);
                        return;
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            let begin = || std::thread::Builder::new().name("backfill".to_owned()).spawn_scoped(scope, work);
            // Where no more threads can be had, those that there are do all of it.
            let helpers: Vec<_> = (1..threads).map_while(|_| begin().ok()).collect();
            work();
            helpers.into_iter().for_each(|helper| {
                helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            });
        });
        if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let mut made = made.into_inner().unwrap_or_else(PoisonError::into_inner);
        made.sort_by_key(|(part, _)| *part);
        let given: u64 = runs.iter().map(StagedFile::rows).sum();
        let taken: u64 = made.iter().map(|(_, outputs)| outputs.rows()).sum();
        if given != taken {
            return Err(HistoryError::BadRows { reason: format!("{taken} rows came out of a merge of {given}") });
        }
        let written = made.iter_mut().flat_map(|(_, outputs)| outputs.keep());
        let place = |file| Some(RunPlace { run: 0, level: options.level, file });
        let staged = written.zip(0..).map(|((name, written), file)| StagedFile {
            name,
            bytes: written.bytes,
            facts: FileFacts { place: place(file), ..written.facts },
        });
        Ok(staged.collect())
    }

    /// Removes what was written for a table that is not to be its own.
    pub fn discard(&self, staged: &[StagedFile]) {
        for file in staged {
            if let Err(error) = remove_if_there(self.files.as_ref(), &self.table.join(&file.name)) {
                tracing::warn!(file = file.name, %error, "a file of a backfill is left until the next start");
            }
        }
    }

    fn merge_part(
        &self,
        runs: &[StagedFile],
        range: SlotRange,
        file_bytes: u64,
        watch: &StagingWatch,
    ) -> Result<Outputs, HistoryError> {
        let slots: SlotSet = (range.first..=range.last).collect();
        let in_range = |run: &&StagedFile| run.facts.first_slot <= range.last && range.first <= run.facts.last_slot;
        let open = |run: &StagedFile| -> Result<Box<dyn Run>, HistoryError> {
            Ok(Box::new(Within { run: self.open(run, Some(&slots))?, range }))
        };
        let opened: Result<Vec<Box<dyn Run>>, _> = runs.iter().filter(in_range).map(open).collect();
        let rows = GatheredRun::new(MergedRuns::new(opened?, None)?);
        let Self { files, spec, table: directory, .. } = *self;
        let target = Target { files, directory, spec, purpose: Purpose::Table(FileShape::default()), file_bytes };
        let new_name = || format!("{STAGED_PREFIX}{}-{}.parquet", self.backfill, uuid::Uuid::new_v4().simple());
        let mut pace = |bytes| (watch.go_on)(bytes);
        write_run(&mut Counted { run: rows, watch }, &target, &new_name, RowChecks::staged(), &mut pace)
    }

    fn open(&self, run: &StagedFile, slots: Option<&SlotSet>) -> Result<ParquetRun, HistoryError> {
        let all: Vec<usize> = (0..self.spec.features.len()).collect();
        let asked = Asked { projection: &all, sought: &Sought::of_slots(slots), stand_ins: None };
        // A run is read once.
        let footers = Footers::new(0);
        ParquetRun::open(self.files, self.runs.join(&run.name), (run.bytes, &run.facts), self.spec, asked, &footers)
    }
}

/// Runs merged into fewer, which go when it is over.
struct Reduced<'a> {
    staging: &'a Staging<'a>,
    made: Vec<StagedFile>,
}

impl Reduced<'_> {
    /// As many runs as each thread may have open within the memory.
    fn down_to_fan_in(
        &mut self,
        runs: &[StagedFile],
        options: &StagingOptions,
        watch: &StagingWatch,
    ) -> Result<Vec<StagedFile>, HistoryError> {
        let mut runs = runs.to_vec();
        let Some(first) = runs.first() else { return Ok(runs) };
        let of_each = self.staging.open(first, None)?.open_bytes().max(1);
        let fan_in = (options.memory / options.threads.max(1) / of_each).clamp(LEAST_RUNS, MOST_RUNS);
        while runs.len() > fan_in {
            let mut fewer = Vec::with_capacity(runs.len().div_ceil(fan_in));
            for group in runs.chunks(fan_in) {
                fewer.push(self.merge_group(group, watch)?);
            }
            runs = fewer;
        }
        Ok(runs)
    }

    fn merge_group(&mut self, group: &[StagedFile], watch: &StagingWatch) -> Result<StagedFile, HistoryError> {
        if let [only] = group {
            return Ok(only.clone());
        }
        let Staging { files, runs: directory, .. } = *self.staging;
        let open =
            |run: &StagedFile| -> Result<Box<dyn Run>, HistoryError> { Ok(Box::new(self.staging.open(run, None)?)) };
        let opened: Result<Vec<Box<dyn Run>>, _> = group.iter().map(open).collect();
        let mut rows = GatheredRun::new(MergedRuns::new(opened?, None)?);
        let spec = passing(self.staging.spec);
        let target = Target { files, directory, spec: &spec, purpose: Purpose::Passing, file_bytes: WHOLE };
        let new_name = || format!("{}.merged-{}.parquet", self.staging.backfill, uuid::Uuid::new_v4().simple());
        let mut pace = |bytes| (watch.go_on)(bytes);
        let mut outputs = write_run(&mut rows, &target, &new_name, RowChecks::staged(), &mut pace)?;
        let made = outputs.keep().into_iter().map(|(name, written)| {
            let (bytes, facts) = (written.bytes, written.facts);
            StagedFile { name, bytes, facts }
        });
        self.made.extend(made);
        self.made.last().cloned().ok_or_else(|| HistoryError::BadRows { reason: "runs without rows".to_owned() })
    }
}

impl Drop for Reduced<'_> {
    fn drop(&mut self) {
        for run in &self.made {
            // What is left goes with the directory.
            let _ = remove_if_there(self.staging.files.as_ref(), &self.staging.runs.join(&run.name));
        }
    }
}

/// Of a run the rows of some slots.
struct Within<R> {
    run: R,
    range: SlotRange,
}

impl<R: Run> Run for Within<R> {
    fn next(&mut self) -> Result<Option<Arc<RunBatch>>, HistoryError> {
        while let Some(batch) = self.run.next()? {
            let from = batch.slots.partition_point(|slot| *slot < self.range.first);
            let to = batch.slots.partition_point(|slot| *slot <= self.range.last);
            if to - from == batch.rows() {
                return Ok(Some(batch));
            }
            if from < to {
                return Ok(Some(Arc::new(batch.slice(from, to - from))));
            }
        }
        Ok(None)
    }
}

/// Tells how many rows have passed.
struct Counted<'a, R> {
    run: R,
    watch: &'a StagingWatch,
}

impl<R: Run> Run for Counted<'_, R> {
    fn next(&mut self) -> Result<Option<Arc<RunBatch>>, HistoryError> {
        let batch = self.run.next()?;
        let rows = batch.as_ref().map_or(0, |batch| batch.rows());
        self.watch.merged.fetch_add(rows as u64, Ordering::Relaxed);
        Ok(batch)
    }
}
