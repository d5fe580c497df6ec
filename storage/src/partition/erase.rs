//! Erasing rows from a partition: deleted by its writer, in bounded steps, and then gone from the disk
//! too: no file holds them, and no entry of the list of files names their keys.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs;

use rocksdb::{BottommostLevelCompaction, CompactOptions, LiveFile, WriteBatch};

use super::StoreError;
use super::read_view::ReadView;
use super::store::PartitionStore;
use crate::erased::ErasedKey;
use crate::keys::{OnlineKey, PendingKey, TailKey, prefix_end};
use crate::row::RowRef;

/// How often the list of files is written further until it is begun anew; far more than it takes.
const MOST_LIST_ENTRIES: usize = 20_000;

/// Rows to be erased, by their stored keys.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Erasable {
    latest: Vec<Vec<u8>>,
    pending: Vec<Vec<u8>>,
    tail: Vec<Vec<u8>>,
}

/// How many rows were erased or would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErasedRows {
    /// Rows that reads could get, and those that were to come.
    pub online: u64,
    /// Rows that had not landed yet.
    pub tail: u64,
}

impl std::fmt::Debug for Erasable {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Erasable").field(&self.rows()).finish()
    }
}

impl Erasable {
    pub fn rows(&self) -> ErasedRows {
        ErasedRows { online: (self.latest.len() + self.pending.len()) as u64, tail: self.tail.len() as u64 }
    }

    pub fn is_empty(&self) -> bool {
        self.latest.is_empty() && self.pending.is_empty() && self.tail.is_empty()
    }

    /// Takes so many of them out, or all there are.
    #[must_use]
    pub fn take(&mut self, rows: usize) -> Self {
        let mut left = rows;
        let mut of = |keys: &mut Vec<Vec<u8>>| {
            let taken: Vec<Vec<u8>> = keys.drain(..keys.len().min(left)).collect();
            left -= taken.len();
            taken
        };
        Self { latest: of(&mut self.latest), pending: of(&mut self.pending), tail: of(&mut self.tail) }
    }

    fn len(&self) -> usize {
        self.latest.len() + self.pending.len() + self.tail.len()
    }
}

impl ReadView {
    /// The rows that an erasure is about, `limit` at most. It blocks, and leaves nothing in memory.
    pub fn erasable(&self, erased: &[ErasedKey], limit: usize) -> Result<Erasable, StoreError> {
        let mut found = Erasable::default();
        for erased in erased {
            let (mut begin, mut tail_begin) = (Vec::new(), Vec::new());
            match &erased.whole {
                Some((slot, key)) => {
                    let name = OnlineKey { slot: *slot, tenant: erased.tenant, view: erased.view, key };
                    name.encode(&mut begin);
                    TailKey::encode_seek(&name, &mut tail_begin);
                }
                None => TailKey::encode_view(erased.tenant, erased.view, &mut tail_begin),
            }
            self.scan(self.database().latest(), &begin, |stored_key, stored| {
                let is_one = OnlineKey::decode(stored_key).is_some_and(|name| {
                    // What is damaged can't be told from what is to go.
                    let frame = RowRef::read(&name, stored).map_or(0, |row| row.header().version.position.frame);
                    erased.is_row(&name, frame)
                });
                if is_one {
                    found.latest.push(stored_key.to_vec());
                }
                found.len() < limit
            })?;
            self.scan(self.database().tail(), &tail_begin, |stored_key, _| {
                let key = TailKey::decode(stored_key);
                if key.is_some_and(|key| erased.is_row(&key.name, key.version.position.frame)) {
                    found.tail.push(stored_key.to_vec());
                }
                found.len() < limit
            })?;
        }
        self.scan(self.database().pending(), &[], |stored_key, _| {
            let key = PendingKey::decode(stored_key);
            if key.is_some_and(|key| erased.iter().any(|erased| erased.is_row(&key.name, key.position.frame))) {
                found.pending.push(stored_key.to_vec());
            }
            found.len() < limit
        })?;
        Ok(found)
    }

    /// Rewrites the files that held erased rows, none of which this view sees any more: `false`, and to be
    /// tried again, while somebody still reads at an earlier instant than it. Blocks, and for long where only
    /// a part of the views' keys is given, since such rows may be anywhere.
    pub fn scrub(&self, erased: &[ErasedKey]) -> Result<bool, StoreError> {
        let (oldest, own) = self.oldest_instant_and_own()?;
        if oldest < own {
            return Ok(false);
        }
        let database = self.database();
        for erased in erased {
            let (mut name, mut tail) = (Vec::new(), Vec::new());
            match &erased.whole {
                Some((slot, key)) => {
                    let key = OnlineKey { slot: *slot, tenant: erased.tenant, view: erased.view, key };
                    key.encode(&mut name);
                    TailKey::encode_seek(&key, &mut tail);
                }
                None => TailKey::encode_view(erased.tenant, erased.view, &mut tail),
            }
            self.rewrite("latest", database.latest(), &name)?;
            self.rewrite("tail", database.tail(), &tail)?;
        }
        self.rewrite("pending", database.pending(), &[])?;
        // The least and the greatest key of each file stand in the list of files, also of files that are gone. One
        // that was begun while files were rewritten has those that were still to be.
        let old_lists = self.lists_of_files()?;
        for _ in 0..MOST_LIST_ENTRIES {
            self.rewrite("default", database.meta(), &[])?;
            if self.lists_of_files()?.is_disjoint(&old_lists) {
                return Ok(true);
            }
        }
        Err(StoreError::Io { action: "writing the list of files anew", reason: "it was not begun anew".to_owned() })
    }

    /// Whether files that the store doesn't need any more are still there: they go in the background.
    pub fn has_leftover_files(&self) -> Result<bool, StoreError> {
        let live = self.database().rocksdb().live_files().map_err(StoreError::of_rocksdb("listing files"))?;
        let live: HashSet<String> = live.into_iter().map(|file| file.name.trim_start_matches('/').to_owned()).collect();
        let names = self.names_in_directory()?;
        Ok(names.iter().filter_map(|name| name.to_str()).any(|name| name.ends_with(".sst") && !live.contains(name)))
    }

    /// Has every file of a family written anew that may hold keys of this beginning.
    fn rewrite(&self, name: &str, family: &rocksdb::ColumnFamily, begin: &[u8]) -> Result<(), StoreError> {
        let end = if begin.is_empty() { None } else { prefix_end(begin) };
        let begin = (!begin.is_empty()).then_some(begin);
        let compact = |begin: Option<&[u8]>, end: Option<&[u8]>| {
            let mut options = CompactOptions::default();
            options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
            self.database().rocksdb().compact_range_cf_opt(family, begin, end, &options);
        };
        let before = self.files_with(name, begin, end.as_deref())?;
        compact(begin, end.as_deref());
        // A file that has keys before and after these, but none of them, is left as it is; by its own first and last
        // key it isn't. So what is left after that could not be rewritten.
        for file in left_of(&before, &self.files_with(name, begin, end.as_deref())?) {
            compact(file.start_key.as_deref(), file.end_key.as_deref());
        }
        let after = self.files_with(name, begin, end.as_deref())?;
        if left_of(&before, &after).is_empty() {
            return Ok(());
        }
        // The binding doesn't tell why.
        Err(StoreError::Io { action: "rewriting files", reason: format!("files of '{name}' were not rewritten") })
    }

    fn files_with(&self, family: &str, begin: Option<&[u8]>, end: Option<&[u8]>) -> Result<Vec<LiveFile>, StoreError> {
        let live = self.database().rocksdb().live_files().map_err(StoreError::of_rocksdb("listing files"))?;
        let overlaps = |file: &LiveFile| {
            let is_after = end.is_some_and(|end| file.start_key.as_deref().is_some_and(|start| start >= end));
            let is_before = begin.is_some_and(|begin| file.end_key.as_deref().is_some_and(|last| last < begin));
            file.column_family_name == family && !is_after && !is_before
        };
        Ok(live.into_iter().filter(overlaps).collect())
    }

    fn lists_of_files(&self) -> Result<HashSet<OsString>, StoreError> {
        let is_list = |name: &OsString| name.to_str().is_some_and(|name| name.starts_with("MANIFEST-"));
        Ok(self.names_in_directory()?.into_iter().filter(is_list).collect())
    }

    fn names_in_directory(&self) -> Result<Vec<OsString>, StoreError> {
        let failed = |error: std::io::Error| StoreError::Io { action: "listing files", reason: error.to_string() };
        let entries = fs::read_dir(self.directory()).map_err(failed)?;
        entries.map(|entry| entry.map(|entry| entry.file_name()).map_err(failed)).collect()
    }

    fn scan(
        &self,
        family: &rocksdb::ColumnFamily,
        begin: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let mut options = self.read_options();
        options.fill_cache(false);
        if let Some(end) = prefix_end(begin).filter(|_| !begin.is_empty()) {
            options.set_iterate_upper_bound(end);
        }
        let mut rows = self.database().rocksdb().raw_iterator_cf_opt(family, options);
        rows.seek(begin);
        while let (Some(key), Some(stored)) = (rows.key(), rows.value()) {
            if !visit(key, stored) {
                return Ok(());
            }
            rows.next();
        }
        rows.status().map_err(StoreError::of_rocksdb("looking for rows to erase"))
    }
}

/// Those of the files of before that are still there.
fn left_of<'a>(before: &[LiveFile], after: &'a [LiveFile]) -> Vec<&'a LiveFile> {
    after.iter().filter(|file| before.iter().any(|known| known.name == file.name)).collect()
}

impl PartitionStore {
    /// Deletes rows that a view of this store has told, but for an online row that was replaced since by
    /// one of a later frame than `through`. Durable when it returns.
    pub fn erase(&mut self, rows: &Erasable, through: u64) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        let mut views = HashMap::new();
        let reading = StoreError::of_rocksdb("reading rows to erase");
        for key in &rows.pending {
            batch.delete_cf(self.database.pending(), key);
        }
        for key in &rows.tail {
            // It may have landed meanwhile, and been dropped.
            let stored = self.database.rocksdb().get_pinned_cf(self.database.tail(), key).map_err(reading)?;
            let (Some(stored), Some(decoded)) = (stored, TailKey::decode(key)) else { continue };
            let state = self.view_for(&mut views, decoded.name.tenant, decoded.name.view);
            state.tail_rows = state.tail_rows.saturating_sub(1);
            state.tail_bytes = state.tail_bytes.saturating_sub((key.len() + stored.len()) as u64);
            batch.delete_cf(self.database.tail(), key);
        }
        let mut changed = Vec::new();
        for key in &rows.latest {
            let stored = self.database.rocksdb().get_pinned_cf(self.database.latest(), key).map_err(reading)?;
            let (Some(stored), Some(name)) = (stored, OnlineKey::decode(key)) else { continue };
            if RowRef::read(&name, &stored).is_ok_and(|row| row.header().version.position.frame > through) {
                continue;
            }
            batch.delete_cf(self.database.latest(), key);
            changed.push(key.as_slice());
        }
        self.put_views(&mut batch, &views);
        self.changes_rows(changed.into_iter());
        self.database.write(batch)?;
        self.take_views(views);
        self.flush()
    }
}
