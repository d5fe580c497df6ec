//! What of a backfill is on disk: sorted runs, and a manifest that names them and says through which row
//! of the backfill they go. After a crash it goes on from there. All backfills share a directory, which is
//! no part of history or of a backup, and costs nothing but time where it is lost.

use std::collections::BTreeMap;
use std::io;
use std::ops::AddAssign;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hydrant_storage::files::{self, Files, remove_if_there};
use hydrant_storage::history::{StagedFile, StagedRows, Staging};
use serde::{Deserialize, Serialize};

use super::failure::{disk_error, staging_error};
use super::target::Target;
use crate::error::Result;

/// Behind the backfill's id.
const MANIFEST: &str = "manifest";
const FORMAT: u32 = 1;

/// What was staged, durably.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    format: u32,
    fingerprint: String,
    /// Rows of the backfill that are checked, and in the runs if they are within its range.
    pub rows: u64,
    /// Of those, the ones within its range.
    pub selected: u64,
    /// By the view's id.
    pub views: BTreeMap<u32, StagedView>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StagedView {
    pub runs: Vec<StagedFile>,
    #[serde(flatten)]
    pub counts: ViewCounts,
}

/// What is told of a view's rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ViewCounts {
    /// Rows that are no part of it.
    pub null_keys: u64,
    /// Of its rows those that are older than its retention.
    #[serde(default)]
    pub too_old: u64,
}

impl AddAssign for ViewCounts {
    fn add_assign(&mut self, other: Self) {
        self.null_keys += other.null_keys;
        self.too_old += other.too_old;
    }
}

impl StagedView {
    pub fn rows(&self) -> u64 {
        self.runs.iter().map(StagedFile::rows).sum()
    }
}

/// Rows in memory, to be staged together.
#[derive(Debug, Default)]
pub(super) struct Piece {
    /// For each view of the target, in its order.
    pub views: Vec<StagedRows>,
    pub counts: Vec<ViewCounts>,
    /// Rows that are not kept, since they are only to be checked.
    pub only_counted: Vec<u64>,
    pub selected: u64,
    /// How many rows of the backfill there are up to its end.
    pub through: u64,
}

impl Piece {
    pub fn new(target: &Target, through: u64) -> Self {
        let views = target.views.len();
        let rows = (0..views).map(|_| StagedRows::default()).collect();
        Self {
            views: rows,
            counts: vec![ViewCounts::default(); views],
            only_counted: vec![0; views],
            selected: 0,
            through,
        }
    }

    pub fn bytes(&self) -> usize {
        self.views.iter().map(StagedRows::bytes).sum()
    }
}

/// The one who writes the files of a backfill.
#[derive(Debug)]
pub(super) struct Ledger {
    files: Arc<dyn Files>,
    directory: PathBuf,
    /// With which their names begin.
    backfill: String,
    pub manifest: Manifest,
}

/// Writes pieces, several at a time if need be.
#[derive(Clone, Debug)]
pub(super) struct PieceWriter {
    files: Arc<dyn Files>,
    directory: PathBuf,
    backfill: String,
    /// For the names of runs, which are never used again.
    next_run: u64,
}

/// A piece that is durable.
#[derive(Debug)]
pub(super) struct WrittenPiece {
    /// By the view's id.
    views: BTreeMap<u32, StagedView>,
    selected: u64,
    through: u64,
}

fn run_name(backfill: &str, view: u32, number: u64) -> String {
    format!("{backfill}.run-{view}-{number}.parquet")
}

/// A run's number: not every view has one of each.
fn number_of(name: &str) -> Option<u64> {
    name.strip_suffix(".parquet")?.rsplit_once('-')?.1.parse().ok()
}

impl WrittenPiece {
    pub fn bytes(&self) -> u64 {
        self.views.values().flat_map(|view| &view.runs).map(|run| run.bytes).sum()
    }
}

impl PieceWriter {
    /// One to write the next piece with; this one goes on with those after it.
    pub fn for_next(&mut self, target: &Target) -> Self {
        let next = self.clone();
        self.next_run += target.views.len() as u64;
        next
    }

    /// Sorts and writes rows. Blocks.
    pub fn write(self, target: &Target, piece: Piece) -> Result<WrittenPiece> {
        let Piece { views, counts, selected, through, .. } = piece;
        let mut written = WrittenPiece { views: BTreeMap::new(), selected, through };
        for (((view, rows), counts), number) in target.views.iter().zip(views).zip(counts).zip(self.next_run..) {
            let staged = written.views.entry(view.id.0).or_default();
            staged.counts = counts;
            if rows.is_empty() {
                continue;
            }
            let name = run_name(&self.backfill, view.id.0, number);
            let spec = target.spec_of(view);
            // Only its runs are written here.
            let (runs, table) = (self.directory.as_path(), self.directory.as_path());
            let staging = Staging { files: &self.files, spec: &spec, runs, table, backfill: &self.backfill };
            staged.runs.push(rows.write(&staging, name).map_err(|error| staging_error(&error))?);
        }
        Ok(written)
    }
}

impl Ledger {
    /// What is there of a backfill; what was staged under other definitions is removed. Blocks.
    pub fn open(files: &Arc<dyn Files>, directory: PathBuf, backfill: String, fingerprint: String) -> Result<Self> {
        let found = read(files.as_ref(), &directory, &backfill).map_err(|error| disk_error(&directory, &error))?;
        let fresh = Manifest { format: FORMAT, fingerprint, ..Manifest::default() };
        let manifest = match found {
            Some(found) if (found.format, &found.fingerprint) == (FORMAT, &fresh.fingerprint) => found,
            _ => {
                remove_all(files.as_ref(), &directory, &backfill).map_err(|error| disk_error(&directory, &error))?;
                fresh
            }
        };
        let ledger = Self { files: files.clone(), directory, backfill, manifest };
        ledger.remove_unknown()?;
        Ok(ledger)
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn runs(&self) -> impl Iterator<Item = &StagedFile> {
        self.manifest.views.values().flat_map(|view| &view.runs)
    }

    pub fn bytes(&self) -> u64 {
        self.runs().map(|run| run.bytes).sum()
    }

    /// Whoever writes pieces of rows for it.
    pub fn writer(&self) -> PieceWriter {
        let (files, directory, backfill) = (self.files.clone(), self.directory.clone(), self.backfill.clone());
        let next_run = self.runs().filter_map(|run| number_of(&run.name)).max().map_or(0, |last| last + 1);
        PieceWriter { files, directory, backfill, next_run }
    }

    /// Notes a piece that is durable; the one before it is noted already. Blocks.
    pub fn note(&mut self, piece: WrittenPiece) -> Result<()> {
        let mut manifest = self.manifest.clone();
        for (view, staged) in piece.views {
            let known = manifest.views.entry(view).or_default();
            known.runs.extend(staged.runs);
            known.counts += staged.counts;
        }
        manifest.rows = piece.through;
        manifest.selected += piece.selected;
        let bytes = encode(&manifest);
        let path = manifest_path(&self.directory, &self.backfill);
        files::replace(self.files.as_ref(), &path, &bytes).map_err(|error| disk_error(&path, &error))?;
        self.manifest = manifest;
        Ok(())
    }

    /// Nothing of it is needed any more. Blocks.
    pub fn remove(self) {
        if let Err(error) = remove_all(self.files.as_ref(), &self.directory, &self.backfill) {
            tracing::warn!(backfill = self.backfill, %error, "what a backfill had staged is left");
        }
    }

    /// What a crash left that the manifest doesn't name.
    fn remove_unknown(&self) -> Result<()> {
        let failed = |error| disk_error(&self.directory, &error);
        for name in names_of(self.files.as_ref(), &self.directory, &self.backfill).map_err(failed)? {
            if !name.ends_with(MANIFEST) && !self.runs().any(|run| run.name == name) {
                remove_if_there(self.files.as_ref(), &self.directory.join(&name)).map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// The rows that are staged of a backfill under this fingerprint. Blocks.
pub(super) fn staged_rows(files: &dyn Files, directory: &Path, backfill: &str, fingerprint: &str) -> Result<u64> {
    let found = read(files, directory, backfill).map_err(|error| disk_error(directory, &error))?;
    let found = found.filter(|found| found.format == FORMAT && found.fingerprint == fingerprint);
    Ok(found.map_or(0, |found| found.rows))
}

/// Removes all that is staged of a backfill; the manifest first, so that nothing passes for half of it.
fn remove_all(files: &dyn Files, directory: &Path, backfill: &str) -> io::Result<()> {
    remove_if_there(files, &manifest_path(directory, backfill))?;
    files.sync_dir(directory)?;
    for name in names_of(files, directory, backfill)? {
        remove_if_there(files, &directory.join(name))?;
    }
    Ok(())
}

/// The backfills of which something is staged, the one that was worked on last at the end. Blocks.
pub(super) fn unfinished(files: &dyn Files, directory: &Path) -> io::Result<Vec<String>> {
    let mut manifests = Vec::new();
    for entry in files.list(directory)? {
        let Some(name) = entry.name.to_str() else { continue };
        if let Some(backfill) = name.strip_suffix(MANIFEST).and_then(|name| name.strip_suffix('.')) {
            manifests.push((entry.metadata.modified, backfill.to_owned()));
        }
    }
    manifests.sort_unstable();
    Ok(manifests.into_iter().map(|(_, backfill)| backfill).collect())
}

/// Removes what is staged of backfills with one of these views; how many there were. What can't be read may
/// be of any. Blocks.
pub(super) fn remove_of_views(files: &dyn Files, directory: &Path, views: &[u32]) -> io::Result<u64> {
    let mut removed = 0;
    for backfill in unfinished(files, directory)? {
        let found = read(files, directory, &backfill)?;
        if found.is_none_or(|manifest| manifest.views.keys().any(|view| views.contains(view))) {
            remove_all(files, directory, &backfill)?;
            removed += 1;
        }
    }
    // Runs that no manifest names yet.
    for entry in files.list(directory)? {
        let view = |name: &str| name.split_once(".run-")?.1.split_once('-')?.0.parse::<u32>().ok();
        if entry.name.to_str().and_then(view).is_some_and(|view| views.contains(&view)) {
            remove_if_there(files, &directory.join(&entry.name))?;
        }
    }
    files.sync_dir(directory)?;
    Ok(removed)
}

/// Keeps what is staged of the backfills that were worked on last, and removes that of others and of those
/// that have come to their end. Blocks.
pub(super) fn keep_newest(files: &dyn Files, directory: &Path, done: &[String], kept: usize) -> io::Result<()> {
    for backfill in done {
        remove_all(files, directory, backfill)?;
    }
    let manifests = unfinished(files, directory)?;
    let surplus = manifests.len().saturating_sub(kept);
    for backfill in &manifests[..surplus] {
        tracing::info!(backfill, "what was staged of a backfill that did not come to its end is removed");
        remove_all(files, directory, backfill)?;
    }
    let kept: Vec<&str> = manifests[surplus..].iter().map(String::as_str).collect();
    for entry in files.list(directory)? {
        let of_kept = |name: &str| name.split('.').next().is_some_and(|backfill| kept.contains(&backfill));
        if !entry.metadata.is_dir && !entry.name.to_str().is_some_and(of_kept) {
            remove_if_there(files, &directory.join(&entry.name))?;
        }
    }
    Ok(())
}

fn manifest_path(directory: &Path, backfill: &str) -> PathBuf {
    directory.join(format!("{backfill}.{MANIFEST}"))
}

/// The files of a backfill.
fn names_of(files: &dyn Files, directory: &Path, backfill: &str) -> io::Result<Vec<String>> {
    let names = files.list(directory)?.into_iter().filter_map(|entry| entry.name.into_string().ok());
    Ok(names.filter(|name| name.split('.').next() == Some(backfill)).collect())
}

fn encode(manifest: &Manifest) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(manifest).expect("names and numbers are JSON");
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// `None`: there is none, or what there is can't be used, and it begins anew.
fn read(files: &dyn Files, directory: &Path, backfill: &str) -> io::Result<Option<Manifest>> {
    let bytes = match files.read(&manifest_path(directory, backfill)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes?,
    };
    let Some((content, crc)) = bytes.split_last_chunk::<4>() else { return Ok(None) };
    if crc32fast::hash(content) != u32::from_le_bytes(*crc) {
        tracing::warn!(backfill, "the manifest of a backfill is damaged: it begins anew");
        return Ok(None);
    }
    Ok(serde_json::from_slice(content).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Views without rows in a piece have no run of it, so runs can't be counted.
    #[test]
    fn a_runs_number_is_told_from_its_name() {
        for number in [0, 7, 1 << 40] {
            assert_eq!(number_of(&run_name("an-id-1", 3, number)), Some(number));
        }
        assert_eq!(number_of("ledger.json"), None);
    }
}
