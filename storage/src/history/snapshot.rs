//! A history table at one version, and how it is read: as runs, each a chain of files whose rows
//! follow one another, of which one is open at a time. A snapshot in use keeps its files from being
//! deleted. It never changes, and never merges.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use crate::files::Files;
use crate::history::delta::ListedFile;
use crate::history::parquet_run::ParquetRun;
use crate::history::schema::HistoryViewSpec;
use crate::history::writer::FileFacts;
use crate::history::{HistoryError, Run, RunBatch, SlotSet};
use crate::order::Micros;

/// The table at one version. What it says and reads doesn't change with later landings and
/// compactions.
#[derive(Clone, Debug)]
pub struct TableSnapshot {
    pub delta_version: u64,
    /// Rows of frames up to this one are in the files; later ones are in the tails.
    pub landed_through: u64,
    /// Runs whose rows landed first in front, the files of a run in history order.
    pub files: Vec<DataFile>,
    pub(super) spec: Arc<HistoryViewSpec>,
    pub(super) directory: PathBuf,
    pub(super) store: Arc<dyn Files>,
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
pub(super) struct Pin(Arc<()>);

impl Pin {
    /// Whether somebody else holds it. Once a file is in no table, nobody new comes to hold it.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

/// Files of one run, in history order: no row of one comes before a row of an earlier one.
#[derive(Clone, Debug)]
pub struct Chain<'a> {
    files: Vec<&'a DataFile>,
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
        let path = self.directory.join(&file.name);
        ParquetRun::open(&self.store, path, file.bytes, &file.facts, &self.spec, projection, slots)
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
                None => chains.push(Chain { files: vec![file] }),
            }
        }
        chains
    }

    /// A chain as one run, as [`TableSnapshot::open_run`] gives one of a file. Blocks.
    pub fn open_chain(
        &self,
        chain: &Chain<'_>,
        projection: &[usize],
        slots: Option<&SlotSet>,
    ) -> Result<ChainRun, HistoryError> {
        let mut files: VecDeque<DataFile> = chain.files.iter().map(|file| (*file).clone()).collect();
        let open = match files.pop_front() {
            Some(first) => Some((self.open_run(&first, projection, slots)?, first)),
            None => None,
        };
        let projection = projection.to_vec();
        Ok(ChainRun { snapshot: self.without_files(), projection, slots: slots.cloned(), open, files })
    }

    /// What opening a file takes, without holding on to all files.
    fn without_files(&self) -> Self {
        let Self { delta_version, landed_through, .. } = *self;
        let (spec, directory, store) = (self.spec.clone(), self.directory.clone(), self.store.clone());
        Self { delta_version, landed_through, files: Vec::new(), spec, directory, store }
    }
}

/// The rows of a chain of files, of which one is open at a time.
pub struct ChainRun {
    /// Without files: it only opens them.
    snapshot: TableSnapshot,
    projection: Vec<usize>,
    slots: Option<SlotSet>,
    open: Option<(ParquetRun, DataFile)>,
    /// Those that come after it.
    files: VecDeque<DataFile>,
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
        let Some(file) = self.files.pop_front() else { return Ok(false) };
        let run = self.snapshot.open_run(&file, &self.projection, self.slots.as_ref())?;
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
            while self.files.front().is_some_and(ends_before) {
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
