//! A history table at one version, and how it is read: as runs, each a chain of files whose rows
//! follow one another, of which one is open at a time. A snapshot in use keeps its files from being
//! deleted. It never changes, and never merges.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::files::Files;
use crate::history::delta::ListedFile;
use crate::history::footers::Footers;
use crate::history::parquet_run::{Asked, ParquetRun, StandIns};
use crate::history::schema::HistoryViewSpec;
use crate::history::sought::Sought;
use crate::history::writer::{FileFacts, FileShape};
use crate::history::{HistoryError, Run, RunBatch, SlotSet};
use crate::order::Micros;

/// The table at one version. What it says and reads doesn't change with later landings and
/// compactions.
#[derive(Clone, Debug)]
pub struct TableSnapshot {
    pub delta_version: u64,
    /// Rows of frames up to this one are in the files; later ones are in the tails.
    pub landed_through: u64,
    /// Rows that happened before may be gone: the view doesn't keep them for longer. `None`: none is.
    pub retained_from: Option<Micros>,
    /// Runs whose rows landed first in front, the files of a run in history order.
    pub files: Vec<DataFile>,
    pub(super) spec: Arc<HistoryViewSpec>,
    pub(super) directory: PathBuf,
    pub(super) store: Arc<dyn Files>,
    pub(super) footers: Arc<Footers>,
    /// Of the files that are written next.
    pub(super) shape: FileShape,
}

/// A data file: rows in history order.
#[derive(Clone, Debug)]
pub struct DataFile {
    pub name: String,
    pub bytes: u64,
    pub(super) facts: FileFacts,
    pub(super) pin: Pin,
}

/// Shared by all who list or read a file, so that it is known when nobody does any more.
#[derive(Clone, Debug, Default)]
pub(super) struct Pin(Arc<AtomicBool>);

impl Pin {
    /// Whether somebody else holds it. Once a file is in no table, nobody new comes to hold it.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// The file is deleted although it may still be held: an erasure waits for nobody for ever.
    pub fn tell_erased(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_erased(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Files of one run, in history order: no row of one comes before a row of an earlier one.
#[derive(Clone, Debug)]
pub struct Chain<'a> {
    files: Vec<&'a DataFile>,
    /// Whether all frames of its rows are before, or all are after, those of each of the chains that it
    /// was given with.
    is_apart: bool,
}

impl DataFile {
    pub fn rows(&self) -> u64 {
        self.facts.rows
    }

    /// The frame of its rows that is the newest.
    pub fn last_frame(&self) -> u64 {
        self.facts.last_frame
    }

    /// The least and the greatest slot of its rows.
    pub fn slots(&self) -> (u16, u16) {
        (self.facts.first_slot, self.facts.last_slot)
    }

    /// The least and the greatest ingest time of its rows.
    pub fn ingest_times(&self) -> (Micros, Micros) {
        (self.facts.first_ingest_time, self.facts.last_ingest_time)
    }

    pub(super) fn listed(&self) -> ListedFile {
        ListedFile { name: self.name.clone(), bytes: self.bytes, facts: self.facts }
    }

    fn is_of_one_run_with(&self, other: &Self) -> bool {
        match (self.facts.place, other.facts.place) {
            (Some(own), Some(other)) => own.run == other.run,
            _ => false,
        }
    }
}

impl<'a> Chain<'a> {
    pub fn files(&self) -> &[&'a DataFile] {
        &self.files
    }

    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// The first and the last frame of its rows.
    fn frames(&self) -> (u64, u64) {
        let first = self.files.iter().map(|file| file.facts.first_frame).min().unwrap_or_default();
        (first, self.files.iter().map(|file| file.facts.last_frame).max().unwrap_or_default())
    }

    fn rows(&self) -> u64 {
        self.files.iter().map(|file| file.rows()).sum()
    }

    /// How often its rows have been merged at most; 0: they are as they landed.
    pub fn level(&self) -> u32 {
        self.files.iter().filter_map(|file| file.facts.place).map(|place| place.level).max().unwrap_or(0)
    }
}

impl TableSnapshot {
    pub fn spec(&self) -> &Arc<HistoryViewSpec> {
        &self.spec
    }

    /// No row of the files is of a later frame.
    pub fn newest_frame(&self) -> u64 {
        let of_files = self.files.iter().map(|file| file.facts.last_frame);
        of_files.max().unwrap_or(0).max(self.landed_through)
    }

    /// A file as a run of the features with the given indices in the view's list. With slots, row
    /// groups and pages without any of them are left out; rows of other slots may come all the same.
    /// Blocks.
    pub fn open_run(
        &self,
        file: &DataFile,
        projection: &[usize],
        slots: Option<&SlotSet>,
    ) -> Result<ParquetRun, HistoryError> {
        self.open_run_for(file, projection, &Sought::of_slots(slots))
    }

    /// A file as a run, without the row groups and pages that hold nothing that is looked for; other
    /// rows may come all the same. Blocks.
    pub fn open_run_for(
        &self,
        file: &DataFile,
        projection: &[usize],
        sought: &Sought,
    ) -> Result<ParquetRun, HistoryError> {
        self.open_file(file, projection, sought, None)
    }

    /// All files that may hold rows of the slots ingested at or before the cut-off.
    pub fn files_with<'a>(
        &'a self,
        slots: Option<&'a SlotSet>,
        cutoff: Option<Micros>,
    ) -> impl Iterator<Item = &'a DataFile> {
        let in_time = move |file: &&DataFile| cutoff.is_none_or(|cutoff| file.ingest_times().0 <= cutoff);
        let in_slots = move |file: &&DataFile| {
            let (first, last) = file.slots();
            slots.is_none_or(|slots| slots.intersects(first, last))
        };
        self.files.iter().filter(in_time).filter(in_slots)
    }

    /// The same files, put together where they are of one run.
    pub fn chains_with<'a>(&'a self, slots: Option<&'a SlotSet>, cutoff: Option<Micros>) -> Vec<Chain<'a>> {
        let mut chains: Vec<Chain<'_>> = Vec::new();
        for file in self.files_with(slots, cutoff) {
            match chains.last_mut().filter(|chain| chain.files[0].is_of_one_run_with(file)) {
                Some(chain) => chain.files.push(file),
                None => chains.push(Chain { files: vec![file], is_apart: false }),
            }
        }
        note_those_apart(&mut chains);
        chains
    }

    /// A chain as one run, as [`TableSnapshot::open_run`] gives one of a file. Blocks.
    pub fn open_chain(
        &self,
        chain: &Chain<'_>,
        projection: &[usize],
        slots: Option<&SlotSet>,
    ) -> Result<ChainRun, HistoryError> {
        self.open_chain_for(chain, projection, &Arc::new(Sought::of_slots(slots)))
    }

    /// A chain as one run, as [`TableSnapshot::open_run_for`] gives one of a file. Blocks.
    pub fn open_chain_for(
        &self,
        chain: &Chain<'_>,
        projection: &[usize],
        sought: &Arc<Sought>,
    ) -> Result<ChainRun, HistoryError> {
        let files = chain.files.iter().map(|file| ((*file).clone(), None)).collect();
        self.chain_run(files, projection, sought)
    }

    /// A chain as one run whose rows are only to be put in order with those of the chains that it was
    /// given with, and to be left out by ingest time: where that allows it, their positions are
    /// stand-ins that order as their own do, their revisions 0, and their ingest times ones that are
    /// before the cut-off as theirs are. So these columns, which hardly compress, aren't read. Blocks.
    pub fn open_chain_in_order(
        &self,
        chain: &Chain<'_>,
        projection: &[usize],
        sought: &Arc<Sought>,
        cutoff: Option<Micros>,
    ) -> Result<ChainRun, HistoryError> {
        // All rows are in one frame then: the first, so that tails and later chains come after it. A backfill
        // may have been taken in after rows that are in the tails still, and merged with older ones.
        let (first, last) = chain.frames();
        let is_before_tails = last <= self.landed_through || first == last;
        let is_countable = u32::try_from(chain.rows()).is_ok();
        let frame = (chain.is_apart && is_before_tails && is_countable).then_some(first);
        let mut rows_before = 0;
        let stand_ins = |file: &DataFile| {
            let frame = frame?;
            let first_ordinal = rows_before;
            rows_before += file.rows() as u32;
            let last = file.ingest_times().1;
            let ingest_time = cutoff.is_none_or(|cutoff| last <= cutoff).then_some(last);
            Some(StandIns { frame, first_ordinal, ingest_time })
        };
        let files: Vec<DataFile> = chain.files.iter().map(|file| (*file).clone()).collect();
        let stand_ins: Vec<Option<StandIns>> = files.iter().map(stand_ins).collect();
        self.chain_run(files.into_iter().zip(stand_ins).collect(), projection, sought)
    }

    fn chain_run(
        &self,
        files: VecDeque<(DataFile, Option<StandIns>)>,
        projection: &[usize],
        sought: &Arc<Sought>,
    ) -> Result<ChainRun, HistoryError> {
        let (projection, sought) = (projection.to_vec(), sought.clone());
        let mut run = ChainRun { snapshot: self.without_files(), projection, sought, open: None, files };
        run.open_next()?;
        Ok(run)
    }

    fn open_file(
        &self,
        file: &DataFile,
        projection: &[usize],
        sought: &Sought,
        stand_ins: Option<StandIns>,
    ) -> Result<ParquetRun, HistoryError> {
        let (path, known) = (self.directory.join(&file.name), (file.bytes, &file.facts));
        let asked = Asked { projection, sought, stand_ins };
        if file.pin.is_erased() {
            return Err(HistoryError::Erased { file: path });
        }
        ParquetRun::open(&self.store, path, known, &self.spec, asked, &self.footers)
    }

    /// What opening a file takes, without holding on to all files.
    fn without_files(&self) -> Self {
        let Self { delta_version, landed_through, retained_from, shape, .. } = *self;
        let (spec, directory, store) = (self.spec.clone(), self.directory.clone(), self.store.clone());
        let footers = self.footers.clone();
        Self { delta_version, landed_through, retained_from, files: Vec::new(), spec, directory, store, footers, shape }
    }
}

/// Frames of a chain that lie between those of another can't be told apart by where the chains begin.
fn note_those_apart(chains: &mut [Chain<'_>]) {
    let mut frames: Vec<(u64, u64, usize)> =
        chains.iter().enumerate().map(|(index, chain)| (chain.frames().0, chain.frames().1, index)).collect();
    frames.sort_unstable();
    let mut last_before = None;
    for (place, (first, last, index)) in frames.iter().enumerate() {
        let is_after = last_before.is_none_or(|before| before < *first);
        let is_before = frames.get(place + 1).is_none_or(|(next, ..)| last < next);
        chains[*index].is_apart = is_after && is_before;
        last_before = last_before.max(Some(*last));
    }
}

/// The rows of a chain of files, of which one is open at a time.
pub struct ChainRun {
    /// Without files: it only opens them.
    snapshot: TableSnapshot,
    projection: Vec<usize>,
    sought: Arc<Sought>,
    open: Option<(ParquetRun, DataFile)>,
    /// Those that come after it.
    files: VecDeque<(DataFile, Option<StandIns>)>,
}

impl ChainRun {
    /// About the bytes that it takes while it is being read: those of its first file. Files of one run
    /// are alike, but for the last, which may be smaller.
    pub fn open_bytes(&self) -> usize {
        self.open.as_ref().map_or(0, |(run, _)| run.open_bytes())
    }

    fn open_next(&mut self) -> Result<bool, HistoryError> {
        // What the last one took goes before the next one takes its own.
        self.open = None;
        let Some((file, stand_ins)) = self.files.pop_front() else { return Ok(false) };
        let run = self.snapshot.open_file(&file, &self.projection, &self.sought, stand_ins)?;
        self.open = Some((run, file));
        Ok(true)
    }
}

impl Run for ChainRun {
    fn next(&mut self) -> Result<Option<Arc<RunBatch>>, HistoryError> {
        loop {
            if let Some((run, _)) = &mut self.open
                && let Some(batch) = run.next()?
            {
                return Ok(Some(batch));
            }
            if !self.open_next()? {
                return Ok(None);
            }
        }
    }

    fn skip_to(&mut self, slot: u16, key: &[u8]) -> Result<(), HistoryError> {
        let ends_before = |file: &DataFile| file.slots().1 < slot;
        if self.open.as_ref().is_some_and(|(_, file)| ends_before(file)) {
            self.open = None;
        }
        if self.open.is_none() {
            while self.files.front().is_some_and(|(file, _)| ends_before(file)) {
                self.files.pop_front();
            }
            self.open_next()?;
        }
        match &mut self.open {
            Some((run, _)) => run.skip_to(slot, key),
            None => Ok(()),
        }
    }
}
