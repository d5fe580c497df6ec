//! Compaction: merges runs of a table into one that is read with one file open at a time, and deletes
//! files that only readers of older versions had a use for. Rows and all that they say stay as they
//! are; only which files hold them changes. It decides nothing about when.
//!
//! A file that landed is a run of level 0. Once a level has [`MergeOptions::runs_per_level`] runs
//! they become one of the next level, up to [`MOST_RUNS`] at a time. So with K runs a level, a run of
//! level n holds at least K^n landings; of N landings there are at most log_K(N) + 1 levels with fewer
//! than K runs each, and no row is written more than log_K(N) times beside its landing. Two bounds come
//! before that: what the runs of a merge take while they are open (memory; at least two are merged all
//! the same, so that K counts as 2 there), and the bytes of a merge (disk; runs of more than half of
//! that stay as they are).

use std::collections::BTreeMap;

use tokio::sync::OwnedMutexGuard;

use crate::history::gather::GatheredRun;
use crate::history::outputs::{Outputs, Target, write_run};
use crate::history::snapshot::{Chain, DataFile, TableSnapshot};
use crate::history::writer::{Purpose, RowChecks, RunPlace};
use crate::history::{HistoryError, MergedRuns, Run};
use crate::order::Micros;

/// Runs that are merged at a time at most, if `runs_per_level` isn't more.
const MOST_RUNS: usize = 16;

/// How tables are compacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeOptions {
    /// A level with so many runs is merged; at least 2.
    pub runs_per_level: usize,
    /// A run is cut into files of about so many bytes, wherever a row ends.
    pub file_bytes: u64,
    /// Bytes that the runs of a merge may take while they are open. A row group is written beside it.
    pub memory: usize,
    /// The bytes of the runs of a merge, and so of the disk that it takes before it is committed.
    pub merge_bytes: u64,
}

/// What a merge did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactReport {
    pub runs: usize,
    pub removed_files: usize,
    pub removed_bytes: u64,
    pub rows: u64,
    pub files: usize,
    pub bytes: u64,
    pub delta_version: u64,
}

/// Told the bytes that were made since it was last told; may let the work wait. False: give it up.
pub type Pace = Box<dyn FnMut(u64) -> bool + Send>;

/// A merge that is written, durable, and not yet part of its table. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct Merge {
    pub(super) runs: usize,
    pub(super) inputs: Vec<DataFile>,
    pub(super) outputs: Outputs,
    pub(super) kind: MergeKind,
    pub(super) _alone: OwnedMutexGuard<()>,
}

/// Whether what was written holds all rows of what it replaces, and if not, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MergeKind {
    Compaction,
    Erasure,
    /// Without so many rows that happened before an instant.
    Retention {
        before: Micros,
        rows: u64,
    },
}

impl Merge {
    /// How many rows it takes out of the table for their age.
    pub fn rows_too_old(&self) -> u64 {
        match self.kind {
            MergeKind::Retention { rows, .. } => rows,
            MergeKind::Compaction | MergeKind::Erasure => 0,
        }
    }
}

impl TableSnapshot {
    /// The runs to be merged next, the one that landed first in front; none, or at least two.
    pub fn runs_to_merge(&self, options: &MergeOptions) -> Vec<Chain<'_>> {
        let mut levels: BTreeMap<u32, Vec<Chain<'_>>> = BTreeMap::new();
        for chain in self.chains_with(None, None) {
            if chain.bytes() <= options.merge_bytes / 2 {
                levels.entry(chain.level()).or_default().push(chain);
            }
        }
        let enough = options.runs_per_level.max(2);
        let Some(level) = levels.into_values().find(|level| level.len() >= enough) else { return Vec::new() };
        let mut bytes = 0;
        let fits = |chain: &Chain<'_>| {
            bytes += chain.bytes();
            bytes <= options.merge_bytes
        };
        level.into_iter().take(enough.max(MOST_RUNS)).take_while(fits).collect()
    }
}

/// Merges what is to be merged next into files that are durable and of which nobody knows yet; `None`
/// if nothing is. Blocks.
pub(super) fn merge(
    snapshot: &TableSnapshot,
    options: &MergeOptions,
    pace: &mut Pace,
    alone: OwnedMutexGuard<()>,
) -> Result<Option<Merge>, HistoryError> {
    let chains = snapshot.runs_to_merge(options);
    let level = chains.iter().map(Chain::level).max().unwrap_or_default() + 1;
    let all: Vec<usize> = (0..snapshot.spec.features.len()).collect();
    let (mut runs, mut inputs, mut open_bytes) = (Vec::new(), Vec::new(), 0);
    for chain in &chains {
        let run = snapshot.open_chain(chain, &all, None)?;
        open_bytes += run.open_bytes();
        if runs.len() >= 2 && open_bytes > options.memory {
            break;
        }
        runs.push(Box::new(run) as Box<dyn Run>);
        inputs.extend(chain.files().iter().map(|file| (*file).clone()));
    }
    if runs.is_empty() {
        return Ok(None);
    }
    let merged_runs = runs.len();
    let mut outputs = write(snapshot, GatheredRun::new(MergedRuns::new(runs, None)?), options.file_bytes, pace)?;
    let numbers = snapshot.files.iter().filter_map(|file| file.facts.place).map(|place| place.run);
    // What a merge makes is numbered above all that merges have made, so that no number comes again.
    let run = numbers.filter(|run| *run < RunPlace::TAKEN_IN).max().unwrap_or(0) + 1;
    for ((_, written), file) in outputs.written.iter_mut().zip(0..) {
        written.facts.place = Some(RunPlace { run, level, file });
    }
    let (given, taken): (u64, u64) = (inputs.iter().map(DataFile::rows).sum(), outputs.rows());
    if given != taken {
        let reason = format!("{taken} rows came out of a merge of {given}");
        return Err(HistoryError::BadRows { reason });
    }
    Ok(Some(Merge { runs: merged_runs, inputs, outputs, kind: MergeKind::Compaction, _alone: alone }))
}

/// Writes rows into files of one run.
fn write(
    snapshot: &TableSnapshot,
    mut rows: GatheredRun,
    file_bytes: u64,
    pace: &mut Pace,
) -> Result<Outputs, HistoryError> {
    let through = snapshot.newest_frame();
    let (files, directory, spec) = (&snapshot.store, snapshot.directory.as_path(), snapshot.spec.as_ref());
    let target = Target { files, directory, spec, purpose: Purpose::Table(snapshot.shape), file_bytes };
    let new_name = || snapshot.new_name(through);
    write_run(&mut rows, &target, &new_name, RowChecks::new(0, through), pace.as_mut())
}
