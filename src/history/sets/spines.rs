//! Stored spines, by tenant: put once however often they are sent, within bounds, kept for some days
//! since they were put last, and for as long as somebody holds them: a saved training set, or who reads
//! one. Nothing here reads history.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use arrow_select::concat::concat_batches;
use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;
use hydrant_storage::slices::{slice_bytes, without_shared};
use hydrant_storage::spines::{
    NewSpine, ShelvedSpine, SpineAbout, SpineChunk, SpineError, SpineFile, SpineId, SpineShelf,
};

use super::super::digest::TableDigest;
use super::super::failure::JoinError;
use super::super::spill::{decode_batch, decode_schema, encode_batches};
use super::super::work::blocking;
use crate::clock::StoreTime;
use crate::error::{Code, Error, Result};
use crate::tenancy::{Action, Held, Permit};

/// The bounds of stored spines.
#[derive(Clone, Debug)]
pub struct SpineOptions {
    /// Bytes of disk of each tenant's spines.
    pub max_bytes: u64,
    /// Spines of each tenant.
    pub max_count: usize,
    /// How long a spine is kept since it was put last, in microseconds, where nobody holds it.
    pub keep: Micros,
    pub max_rows: u64,
}

/// The stored spines of all tenants. Clones are the same.
#[derive(Clone)]
pub struct Spines {
    inner: Arc<Inner>,
}

struct Inner {
    shelf: SpineShelf,
    options: SpineOptions,
    time: Arc<StoreTime>,
    state: Mutex<State>,
    /// One spine gets its name at a time, so that none replaces another that is whole.
    naming: Mutex<()>,
}

#[derive(Default)]
struct State {
    tenants: BTreeMap<Name, BTreeMap<SpineId, Arc<StoredSpine>>>,
    /// Bytes of spines that are being put.
    incoming: BTreeMap<Name, u64>,
    /// How many want that no file goes for now.
    holds: usize,
}

/// A spine on disk, which stays as long as this is held.
pub struct StoredSpine {
    pub tenant: Name,
    pub id: SpineId,
    shelf: SpineShelf,
    last_put: AtomicI64,
    /// An erasure has removed it: whoever holds it reads no further.
    is_erased: AtomicBool,
    /// Replaced where it was damaged and is put again.
    content: Mutex<Arc<Content>>,
}

/// What the file holds, or why that can't be read.
type Content = Result<Whole, String>;

struct Whole {
    file: SpineFile,
    schema: SchemaRef,
}

/// What a put came to.
#[derive(Clone, Debug)]
pub struct Put {
    pub spine: Arc<StoredSpine>,
    /// When it goes if it isn't put again, nor saved with a training set.
    pub expires: Micros,
    /// It was not there before.
    pub is_new: bool,
}

/// Takes a spine that is to be stored.
pub struct SpineUpload {
    spines: Spines,
    /// `None`: a batch was refused, or its push was given up.
    writing: Option<Writing>,
}

struct Writing {
    new: NewSpine,
    room: Room,
    schema: SchemaRef,
    encoded_schema: Vec<u8>,
    digest: TableDigest,
    rows: u64,
    buffered: Vec<RecordBatch>,
    buffered_rows: usize,
    buffered_bytes: usize,
    _permit: Permit,
}

/// What a spine that is being put takes of its tenant's bytes, given back when it is dropped.
struct Room {
    spines: Spines,
    tenant: Name,
    bytes: u64,
    /// Of the tenant's quota of storage.
    storage: Held,
}

/// While it lives, no spine's file goes.
pub struct SpinesHeld(Spines);

/// A chunk has at most so many rows...
const CHUNK_ROWS: usize = 16_384;
/// ...and, if it has several, about so many bytes.
const CHUNK_BYTES: usize = 4 << 20;
/// A spine that comes in more pieces that can't be put together is refused.
const MAX_CHUNKS: usize = 1 << 20;

impl Spines {
    /// Finds the spines that are there; those that should go by now go. Blocks.
    pub fn open(shelf: SpineShelf, options: SpineOptions, time: Arc<StoreTime>) -> Result<Self> {
        let mut state = State::default();
        for found in shelf.recover().map_err(to_error)? {
            if let Err(error) = &found.file {
                tracing::error!(tenant = %found.tenant, spine = %found.id, %error, "a stored spine can't be read");
            }
            let spine = StoredSpine::found(&shelf, found);
            state.tenants.entry(spine.tenant.clone()).or_default().insert(spine.id, Arc::new(spine));
        }
        Ok(Self { inner: Arc::new(Inner { shelf, options, time, state: Mutex::new(state), naming: Mutex::new(()) }) })
    }

    /// Begins to store a spine of these columns.
    pub async fn begin(&self, permit: Permit, schema: SchemaRef) -> Result<SpineUpload> {
        permit.require(Action::ReadHistory)?;
        let spines = self.clone();
        let writing = blocking(move |_| {
            spines.sweep();
            let tenant = permit.tenant().clone();
            let mut new = spines.inner.shelf.begin(&tenant).map_err(to_error)?;
            let encoded_schema = encode_batches(&schema, None)?;
            new.append(&encoded_schema, 0).map_err(to_error)?;
            Ok(Writing {
                new,
                room: Room { spines, tenant, bytes: 0, storage: permit.hold_storage() },
                digest: TableDigest::new(&schema),
                schema,
                encoded_schema,
                rows: 0,
                buffered: Vec::new(),
                buffered_rows: 0,
                buffered_bytes: 0,
                _permit: permit,
            })
        });
        Ok(SpineUpload { spines: self.clone(), writing: Some(writing.await?) })
    }

    /// A spine by its id. NOT_FOUND, with the way out, if there is none, or not any more.
    pub fn get(&self, tenant: &Name, id: SpineId) -> Result<Arc<StoredSpine>> {
        let state = self.lock();
        let found = state.tenants.get(tenant).and_then(|spines| spines.get(&id)).cloned();
        found.ok_or_else(|| {
            Error::not_found("SPINE_NOT_FOUND", format!("there is no stored spine '{id}'"))
                .hint("put it again (DoPut): its id stays the same. Spines that no training set was saved with go after `training_sets.keep_spines`")
                .with("spine", id)
        })
    }

    /// Removes what has been kept long enough and nobody holds. Blocks.
    pub fn sweep(&self) {
        let oldest = self.inner.time.read().saturating_sub(self.inner.options.keep);
        let mut state = self.lock();
        if state.holds > 0 {
            return;
        }
        for spines in state.tenants.values_mut() {
            spines.retain(|id, spine| {
                // Under the lock nobody else comes to hold it.
                let goes = Arc::strong_count(spine) == 1 && spine.last_put.load(Ordering::Relaxed) < oldest;
                if !goes {
                    return true;
                }
                match self.inner.shelf.remove(&spine.tenant, *id) {
                    Ok(()) => false,
                    Err(error) => {
                        tracing::warn!(spine = %id, %error, "a spine that nobody needs can't be removed");
                        true
                    }
                }
            });
        }
    }

    /// How many a tenant has, and their bytes of disk.
    pub fn usage(&self, tenant: &Name) -> (usize, u64) {
        let state = self.lock();
        let stored = state.tenants.get(tenant);
        stored.map_or((0, 0), |spines| (spines.len(), spines.values().map(|spine| spine.bytes()).sum()))
    }

    /// All of a tenant's.
    pub(super) fn of(&self, tenant: &Name) -> Vec<Arc<StoredSpine>> {
        self.lock().tenants.get(tenant).into_iter().flat_map(BTreeMap::values).cloned().collect()
    }

    /// Stores what is left of a spine, under the name of its content. It takes no more room than the whole
    /// did, so nobody is asked for any. Blocks.
    pub(super) fn store_rewritten(
        &self,
        spine: &StoredSpine,
        batches: impl Iterator<Item = Result<RecordBatch, JoinError>>,
    ) -> Result<Arc<StoredSpine>, JoinError> {
        let (tenant, schema) = (&spine.tenant, spine.schema()?);
        let mut new = self.inner.shelf.begin(tenant).map_err(to_error)?;
        let encoded_schema = encode_batches(&schema, None)?;
        new.append(&encoded_schema, 0).map_err(to_error)?;
        let (mut digest, mut rows) = (TableDigest::new(&schema), 0);
        for batch in batches {
            let batch = batch?;
            if batch.num_rows() == 0 {
                continue;
            }
            digest.update(&batch)?;
            rows += batch.num_rows() as u64;
            // As many rows as a chunk had before, at most.
            new.append(&encode_batches(&schema, Some(&batch))?, batch.num_rows() as u32).map_err(to_error)?;
        }
        let spine_hash = digest.finish(&schema);
        let id = SpineId::of(&spine_hash, &encoded_schema);
        let about = SpineAbout { rows, spine_hash, stored: spine.about()?.stored };
        let _naming = self.inner.naming.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = self.lock().tenants.get(tenant).and_then(|spines| spines.get(&id)).cloned() {
            there.check()?;
            return Ok(there);
        }
        let file = new.finish(id, about).map_err(to_error)?;
        let last_put = spine.last_put.load(Ordering::Relaxed);
        self.inner.shelf.note_put(tenant, id, last_put).map_err(to_error)?;
        let stored = Arc::new(StoredSpine {
            tenant: tenant.clone(),
            id,
            shelf: self.inner.shelf.clone(),
            last_put: AtomicI64::new(last_put),
            is_erased: AtomicBool::new(false),
            content: Mutex::new(Arc::new(Ok(Whole { file, schema }))),
        });
        self.lock().tenants.entry(tenant.clone()).or_default().insert(id, stored.clone());
        Ok(stored)
    }

    /// Removes a spine, whoever holds it. Blocks.
    pub(super) fn erase(&self, spine: &StoredSpine) -> Result<()> {
        spine.is_erased.store(true, Ordering::Release);
        self.inner.shelf.remove(&spine.tenant, spine.id).map_err(to_error)?;
        if let Some(spines) = self.lock().tenants.get_mut(&spine.tenant) {
            spines.remove(&spine.id);
        }
        Ok(())
    }

    /// Lets no file go until what is returned is dropped.
    pub fn hold(&self) -> SpinesHeld {
        self.lock().holds += 1;
        SpinesHeld(self.clone())
    }

    /// Every spine's file, and its path below where spines lie.
    pub fn files(&self) -> Vec<(PathBuf, String)> {
        let state = self.lock();
        let all = state.tenants.values().flat_map(BTreeMap::values);
        all.map(|spine| self.inner.shelf.place(&spine.tenant, spine.id)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up what was written, unless it is there already. Blocks.
    fn keep(&self, tenant: &Name, id: SpineId, new: NewSpine, about: SpineAbout, schema: SchemaRef) -> Result<Put> {
        let now = about.stored;
        let expires = now.saturating_add(self.inner.options.keep);
        let _naming = self.inner.naming.lock().unwrap_or_else(PoisonError::into_inner);
        let there = self.lock().tenants.get(tenant).and_then(|spines| spines.get(&id)).cloned();
        if let Some(spine) = there {
            if let Err(error) = spine.check() {
                tracing::warn!(spine = %id, %error, "a damaged spine is replaced by the same that was put again");
                let file = new.finish(id, about).map_err(to_error)?;
                *spine.lock() = Arc::new(Ok(Whole { file, schema }));
            } else {
                drop(new);
            }
            self.inner.shelf.note_put(tenant, id, now).map_err(to_error)?;
            spine.last_put.fetch_max(now, Ordering::Relaxed);
            return Ok(Put { spine, expires, is_new: false });
        }
        let (count, limit) = (self.lock().tenants.get(tenant).map_or(0, BTreeMap::len), self.inner.options.max_count);
        if count >= limit {
            let told = format!("{count} spines are stored already, and 'training_sets.max_spines' is {limit}");
            return Err(full(told, limit as u64));
        }
        let file = new.finish(id, about).map_err(to_error)?;
        let spine = StoredSpine {
            tenant: tenant.clone(),
            id,
            shelf: self.inner.shelf.clone(),
            last_put: AtomicI64::new(now),
            is_erased: AtomicBool::new(false),
            content: Mutex::new(Arc::new(Ok(Whole { file, schema }))),
        };
        let spine = Arc::new(spine);
        self.lock().tenants.entry(tenant.clone()).or_default().insert(id, spine.clone());
        Ok(Put { spine, expires, is_new: true })
    }
}

impl StoredSpine {
    fn found(shelf: &SpineShelf, found: ShelvedSpine) -> Self {
        let ShelvedSpine { tenant, id, last_put, file } = found;
        let content = file.map_err(|error| error.to_string()).and_then(|file| {
            let first = file.chunks.first().ok_or("it has no schema")?;
            let bytes = shelf.read_chunk(&tenant, id, first).map_err(|error| error.to_string())?;
            let schema = decode_schema(&bytes).map_err(|error| error.to_string())?;
            Ok(Whole { file, schema })
        });
        let content = Mutex::new(Arc::new(content));
        Self {
            tenant,
            id,
            shelf: shelf.clone(),
            last_put: AtomicI64::new(last_put),
            is_erased: AtomicBool::new(false),
            content,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Content>> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `of` tells of the whole. DATA_LOSS, with the way out, where the file is damaged.
    fn of_whole<T>(&self, of: impl FnOnce(&Whole) -> T) -> Result<T> {
        self.check_not_erased()?;
        let content = self.lock().clone();
        content.as_ref().as_ref().map(of).map_err(|problem| damaged(&self.id, problem))
    }

    pub fn schema(&self) -> Result<SchemaRef> {
        self.of_whole(|whole| whole.schema.clone())
    }

    pub fn about(&self) -> Result<SpineAbout> {
        self.of_whole(|whole| whole.file.about.clone())
    }

    /// On disk.
    pub fn bytes(&self) -> u64 {
        self.of_whole(|whole| whole.file.bytes).unwrap_or_default()
    }

    /// The rows, batch after batch, each checked. Blocks.
    pub fn batches(&self) -> Result<impl Iterator<Item = Result<RecordBatch, JoinError>> + '_> {
        let chunks = self.of_whole(|whole| whole.file.chunks.clone())?;
        Ok(chunks.into_iter().skip(1).map(|chunk| decode_batch(&self.read(&chunk)?)))
    }

    /// Reads every byte. Blocks.
    fn check(&self) -> Result<()> {
        let chunks = self.of_whole(|whole| whole.file.chunks.clone())?;
        chunks.iter().try_for_each(|chunk| self.read(chunk).map(drop))
    }

    fn check_not_erased(&self) -> Result<()> {
        if !self.is_erased.load(Ordering::Acquire) {
            return Ok(());
        }
        let message = format!("rows of the stored spine '{}' were erased, so it is there no more", self.id);
        Err(Error::new(Code::FailedPrecondition, "SPINE_ERASED", message)
            .hint("put a spine without the erased key, or ask for the saved training set again, which goes on without these rows")
            .with("spine", self.id))
    }

    fn read(&self, chunk: &SpineChunk) -> Result<Vec<u8>> {
        self.check_not_erased()?;
        self.shelf.read_chunk(&self.tenant, self.id, chunk).map_err(|error| match error.is_damage() {
            true => damaged(&self.id, &error.to_string()),
            false => to_error(error),
        })
    }
}

impl fmt::Debug for StoredSpine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("StoredSpine")
            .field("tenant", &self.tenant)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Spines {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Spines").field("shelf", &self.inner.shelf).finish_non_exhaustive()
    }
}

impl SpineUpload {
    /// Takes the next rows. After an error, or if the future is dropped, nothing is stored.
    pub async fn push(&mut self, batch: RecordBatch) -> Result<()> {
        let mut writing = self.writing.take().ok_or_else(abandoned)?;
        let limit = self.spines.inner.options.max_rows;
        if writing.rows.saturating_add(batch.num_rows() as u64) > limit {
            let message = format!("the spine has more than {limit} rows");
            let error = Error::new(Code::ResourceExhausted, "SPINE_TOO_LONG", message).with("limit", limit);
            return Err(error.hint("put it in several parts, or raise `history.max_spine_rows`"));
        }
        let pushed = blocking(move |_| {
            writing.push(&batch)?;
            Ok(writing)
        });
        self.writing = Some(pushed.await?);
        Ok(())
    }

    /// The spine is whole: makes it durable.
    pub async fn finish(self) -> Result<Put> {
        let Self { spines, writing } = self;
        let mut writing = writing.ok_or_else(abandoned)?;
        blocking(move |_| {
            writing.flush()?;
            let Writing { new, room, schema, encoded_schema, digest, rows, .. } = writing;
            let spine_hash = digest.finish(&schema);
            let id = SpineId::of(&spine_hash, &encoded_schema);
            let about = SpineAbout { rows, spine_hash, stored: spines.inner.time.read() };
            let put = spines.keep(&room.tenant, id, new, about, schema)?;
            room.end(put.is_new);
            Ok(put)
        })
        .await
    }
}

impl Writing {
    fn push(&mut self, batch: &RecordBatch) -> Result<(), JoinError> {
        if batch.schema().fields() != self.schema.fields() {
            let told = "a batch of the spine has other columns than the first";
            return Err(Error::invalid("SPINE_SCHEMA_CHANGED", told).into());
        }
        self.digest.update(batch)?;
        self.rows += batch.num_rows() as u64;
        let mut from = 0;
        while from < batch.num_rows() {
            let rows = (CHUNK_ROWS - self.buffered_rows).min(batch.num_rows() - from);
            let piece = without_shared(&batch.slice(from, rows))?;
            self.buffered_bytes += piece.columns().iter().map(|column| slice_bytes(column)).sum::<usize>();
            self.buffered.push(piece);
            self.buffered_rows += rows;
            from += rows;
            if self.buffered_rows == CHUNK_ROWS || self.buffered_bytes >= CHUNK_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), JoinError> {
        let buffered = std::mem::take(&mut self.buffered);
        (self.buffered_rows, self.buffered_bytes) = (0, 0);
        if buffered.len() <= 1 {
            return buffered.iter().try_for_each(|piece| self.store(piece));
        }
        match concat_batches(&self.schema, &buffered) {
            Ok(joined) => self.store(&joined),
            // Dictionaries whose keys are too narrow for all their values together.
            Err(_) => buffered.iter().try_for_each(|piece| self.store(piece)),
        }
    }

    fn store(&mut self, batch: &RecordBatch) -> Result<(), JoinError> {
        if self.new.chunks() >= MAX_CHUNKS {
            let told = format!("the spine comes in more than {MAX_CHUNKS} pieces that can't be put together");
            return Err(Error::new(Code::ResourceExhausted, "SPINE_IN_PIECES", told)
                .hint("send larger batches")
                .into());
        }
        let bytes = encode_batches(&self.schema, Some(batch))?;
        self.room.grow_to(self.new.bytes() + bytes.len() as u64)?;
        // A chunk has at most CHUNK_ROWS rows.
        self.new.append(&bytes, batch.num_rows() as u32).map_err(to_error)?;
        Ok(())
    }
}

impl Room {
    /// Takes as many bytes as the spine has by now, or refuses them.
    fn grow_to(&mut self, bytes: u64) -> Result<()> {
        self.storage.grow_to(bytes)?;
        let max_bytes = self.spines.inner.options.max_bytes;
        let (_, held) = self.spines.usage(&self.tenant);
        let mut state = self.spines.lock();
        let incoming = state.incoming.get(&self.tenant).copied().unwrap_or_default();
        let wanted = held.saturating_add(incoming - self.bytes).saturating_add(bytes);
        if wanted > max_bytes {
            let told =
                format!("stored spines would take {wanted} bytes, and 'training_sets.spine_bytes' is {max_bytes}");
            return Err(full(told, max_bytes));
        }
        *state.incoming.entry(self.tenant.clone()).or_default() += bytes.saturating_sub(self.bytes);
        self.bytes = self.bytes.max(bytes);
        Ok(())
    }
}

impl Room {
    /// The spine is stored, or was there before.
    fn end(mut self, is_new: bool) {
        // What holds its place in the tenant's spines goes with `self`.
        if is_new {
            self.storage.stays();
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut state = self.spines.lock();
        if let Some(incoming) = state.incoming.get_mut(&self.tenant) {
            *incoming = incoming.saturating_sub(self.bytes);
        }
    }
}

impl Drop for SpinesHeld {
    fn drop(&mut self) {
        self.0.lock().holds -= 1;
    }
}

fn full(told: String, limit: u64) -> Error {
    let hint = "spines go by themselves once they are older than `training_sets.keep_spines` and no saved training set has them; delete \
                training sets that are not needed (`hydrant training-set delete`), or raise the option";
    Error::new(Code::ResourceExhausted, "TOO_MANY_SPINES", told).hint(hint).with("limit", limit)
}

fn damaged(id: &SpineId, problem: &str) -> Error {
    Error::new(Code::DataLoss, "SPINE_DAMAGED", format!("the stored spine '{id}' can't be read: {problem}"))
        .hint("put the same spine again (DoPut), which replaces it; or restore a backup")
        .with("spine", id)
}

fn to_error(error: SpineError) -> Error {
    let message = format!("spines can't be stored or read: {error}");
    if error.is_out_of_space() {
        return Error::new(Code::ResourceExhausted, "SPINE_DISK_FULL", message)
            .hint("free space under the data directory's `spines`; nothing of this spine is left");
    }
    let code = if error.is_damage() { Code::DataLoss } else { Code::Unavailable };
    Error::new(code, "SPINE_STORE_FAILED", message)
}

fn abandoned() -> Error {
    Error::new(Code::FailedPrecondition, "SPINE_ABANDONED", "an earlier batch of the spine was not taken")
}
