//! How a partition's RocksDB is opened: its families and what each is tuned for. Every write goes
//! through [`Database::write`], without RocksDB's own log.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, fs, io};

use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DataBlockIndexType, Env,
    FlushOptions, LogLevel, Options, WriteBatch, WriteBufferManager, WriteOptions,
};

use super::row_cache::RowCache;
use super::{PartitionOptions, StoreError};
use crate::threads::{Work, standing_back};

/// Memory and threads that all partitions of a process share.
pub struct SharedResources {
    cache: Cache,
    rows: Arc<RowCache>,
    write_buffers: WriteBufferManager,
    env: Env,
}

impl SharedResources {
    pub fn new(options: &PartitionOptions) -> Result<Self, StoreError> {
        let mut env = Env::new().map_err(StoreError::of_rocksdb("starting background threads"))?;
        let threads = i32::from(options.background_threads.max(1));
        // The threads are started by these calls, and stand where the caller does.
        standing_back(Work::Upkeep, || env.set_background_threads(threads)).map_err(not_started)?;
        // Flushes have a thread of their own, so that no compaction keeps them waiting.
        let flushing = || env.set_high_priority_background_threads((threads + 1) / 2);
        standing_back(Work::Flushing, flushing).map_err(not_started)?;
        Ok(Self {
            cache: Cache::new_hyper_clock_cache(options.block_cache_bytes, 0),
            rows: Arc::new(RowCache::new(options.row_cache_bytes)),
            write_buffers: WriteBufferManager::new_write_buffer_manager(options.write_buffer_bytes, false),
            env,
        })
    }

    /// Bytes of cached blocks.
    pub fn cached_bytes(&self) -> usize {
        self.cache.get_usage()
    }

    /// Bytes of verified rows in the row cache.
    pub fn row_cache_bytes(&self) -> usize {
        self.rows.used_bytes()
    }

    /// Keys that the row cache answered, and that it did not, since the start.
    pub fn row_cache_hits_and_misses(&self) -> (u64, u64) {
        self.rows.hits_and_misses()
    }

    /// Bytes of rows not yet flushed.
    pub fn write_buffer_bytes(&self) -> usize {
        self.write_buffers.get_usage()
    }
}

impl fmt::Debug for SharedResources {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SharedResources").finish_non_exhaustive()
    }
}

/// The families. `meta` has the name that RocksDB insists on.
const LATEST: &str = "latest";
const PENDING: &str = "pending";
const TAIL: &str = "tail";
const META: &str = "default";

/// An open RocksDB with a partition's families. It stays open until the last reader has let go.
pub(super) struct Database {
    db: DB,
    rows: Arc<RowCache>,
    opened: u64,
}

impl Database {
    pub fn open(directory: &Path, options: &PartitionOptions, shared: &SharedResources) -> Result<Self, StoreError> {
        create_synced(directory).map_err(|error| StoreError::Io {
            action: "creating the store's directory",
            reason: format!("{}: {error}", directory.display()),
        })?;
        let families = [
            ColumnFamilyDescriptor::new(LATEST, latest_options(options, shared)?),
            ColumnFamilyDescriptor::new(PENDING, scanned_options(options.memtable_bytes / 4, shared)),
            ColumnFamilyDescriptor::new(TAIL, scanned_options(options.memtable_bytes, shared)),
            ColumnFamilyDescriptor::new(META, scanned_options(1 << 20, shared)),
        ];
        let db = DB::open_cf_descriptors(&database_options(options, shared)?, directory, families)
            .map_err(|error| open_error(directory, error))?;
        Ok(Self { db, rows: shared.rows.clone(), opened: shared.rows.next_version() })
    }

    pub fn rocksdb(&self) -> &DB {
        &self.db
    }

    pub fn row_cache(&self) -> &RowCache {
        &self.rows
    }

    /// Tells this opening of the store from all others.
    pub fn opened(&self) -> u64 {
        self.opened
    }

    pub fn directory(&self) -> PathBuf {
        self.db.path().to_path_buf()
    }

    pub fn latest(&self) -> &ColumnFamily {
        self.family(LATEST)
    }

    pub fn pending(&self) -> &ColumnFamily {
        self.family(PENDING)
    }

    pub fn tail(&self) -> &ColumnFamily {
        self.family(TAIL)
    }

    pub fn meta(&self) -> &ColumnFamily {
        self.family(META)
    }

    /// Writes a batch: all of it or none.
    pub fn write(&self, batch: WriteBatch) -> Result<(), StoreError> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(batch, &options).map_err(StoreError::of_rocksdb("writing"))
    }

    /// Makes everything written durable, in all families at once.
    pub fn flush(&self) -> Result<(), StoreError> {
        let families = [self.latest(), self.pending(), self.tail(), self.meta()];
        self.db.flush_cfs_opt(&families, &FlushOptions::default()).map_err(StoreError::of_rocksdb("flushing"))
    }

    /// Links what is on disk into a directory that is not there yet, or copies it where links are
    /// impossible. Nothing is flushed: what lies in memory only is not in it.
    pub fn checkpoint(&self, directory: &Path) -> Result<(), StoreError> {
        let checkpoint = Checkpoint::new(&self.db).map_err(StoreError::of_rocksdb("preparing a checkpoint"))?;
        // A write-ahead log of RocksDB's own would have to be longer than this for a flush.
        let made = checkpoint.create_checkpoint_with_log_size(directory, u64::MAX);
        made.map_err(StoreError::of_rocksdb("making a checkpoint"))
    }

    fn family(&self, name: &str) -> &ColumnFamily {
        self.db.cf_handle(name).expect("the store is opened with all its families")
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Database").field(&self.db.path()).finish()
    }
}

fn database_options(options: &PartitionOptions, shared: &SharedResources) -> Result<Options, StoreError> {
    // Dropping a store doesn't flush: what is durable is decided by flush() and by size alone. The list of
    // files is begun anew before it has twice its length, so that it doesn't name for ever what an erasure
    // has rewritten. The bindings have no setters for it.
    let mut database = Options::default()
        .get_options_from_string(
            "avoid_flush_during_shutdown=true;max_manifest_file_size=4096;max_manifest_space_amp_pct=50",
        )
        .map_err(StoreError::of_rocksdb("setting options"))?;
    database.create_if_missing(true);
    database.create_missing_column_families(true);
    database.set_atomic_flush(true);
    database.set_paranoid_checks(true);
    database.set_env(&shared.env);
    database.set_max_background_jobs(i32::from(options.background_threads.max(1)) + 1);
    database.set_write_buffer_manager(&shared.write_buffers);
    database.set_max_open_files(i32::from(options.open_files));
    database.set_use_direct_reads(options.direct_reads);
    // Files that a reader was the last to hold are removed in the background.
    database.set_avoid_unnecessary_blocking_io(true);
    database.set_bytes_per_sync(1 << 20);
    database.set_keep_log_file_num(2);
    database.set_max_log_file_size(1 << 20);
    database.set_log_level(LogLevel::Error);
    database.set_stats_dump_period_sec(0);
    database.set_stats_persist_period_sec(0);
    Ok(database)
}

/// Point lookups of small rows under hashed keys.
fn latest_options(options: &PartitionOptions, shared: &SharedResources) -> Result<Options, StoreError> {
    let mut blocks = block_options(shared);
    blocks.set_block_size(8 << 10);
    blocks.set_bloom_filter(10.0, false);
    blocks.set_whole_key_filtering(true);
    blocks.set_optimize_filters_for_memory(true);
    blocks.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
    // A row found by the hash index is at most this far from where the search begins.
    blocks.set_block_restart_interval(8);
    blocks.set_data_block_hash_ratio(0.5);
    let mut family = family_options(options.memtable_bytes);
    family.set_block_based_table_factory(&blocks);
    family.set_memtable_whole_key_filtering(true);
    family.set_memtable_prefix_bloom_ratio(0.02);
    // What is flushed or compacted is put into the cache: reads would meet it on the disk anew after
    // each compaction. Compacted blocks come in with the least priority, so they are the first to go;
    // where the data is many times the cache, they pass through it for nothing. Keys stand together in
    // a block, apart from values. As they begin with a hash, a file's index is searched where a key's
    // hash says that it is; by halves where a slot has many blocks, within which the hash says nothing:
    // then gaps between keys differ by more than the threshold. The bindings have no setters for these.
    let in_string = "block_based_table_factory={prepopulate_block_cache=kFlushAndCompaction;\
                     separate_key_value_in_data_block=true;index_block_search_type=kAuto;uniform_cv_threshold=3}";
    family.get_options_from_string(in_string).map_err(StoreError::of_rocksdb("setting options"))
}

/// Families that are written once and read in order.
fn scanned_options(memtable_bytes: usize, shared: &SharedResources) -> Options {
    let mut blocks = block_options(shared);
    blocks.set_block_size(16 << 10);
    let mut family = family_options(memtable_bytes);
    family.set_block_based_table_factory(&blocks);
    family
}

fn block_options(shared: &SharedResources) -> BlockBasedOptions {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&shared.cache);
    // Indexes and filters are held by the open files, not fetched through the cache: a miss costs
    // one read, never three.
    blocks.set_cache_index_and_filter_blocks(false);
    blocks.set_format_version(6);
    blocks
}

fn family_options(memtable_bytes: usize) -> Options {
    // Young levels are read and rewritten most.
    const NONE: DBCompressionType = DBCompressionType::None;
    const LZ4: DBCompressionType = DBCompressionType::Lz4;
    // The log holds back writers (a partition that lags is seen), so RocksDB never has to.
    const NEVER: i32 = 1 << 30;
    let mut family = Options::default();
    family.set_write_buffer_size(memtable_bytes.max(1 << 20));
    family.set_max_write_buffer_number(4);
    family.set_compression_per_level(&[NONE, NONE, LZ4, LZ4, LZ4, LZ4, LZ4]);
    family.set_level_compaction_dynamic_level_bytes(true);
    family.set_level_zero_file_num_compaction_trigger(4);
    family.set_level_zero_slowdown_writes_trigger(NEVER);
    family.set_level_zero_stop_writes_trigger(NEVER);
    family.set_soft_pending_compaction_bytes_limit(0);
    family.set_hard_pending_compaction_bytes_limit(0);
    family
}

/// Creates a directory and makes its entries in those above it durable: the log may be trimmed by
/// what this store has flushed, so the store mustn't vanish as a whole.
fn create_synced(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_synced(parent)?;
    match fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    fs::File::open(parent)?.sync_all()
}

fn not_started(error: io::Error) -> StoreError {
    StoreError::Io { action: "starting background threads", reason: error.to_string() }
}

fn open_error(directory: &Path, error: rocksdb::Error) -> StoreError {
    let directory = directory.to_path_buf();
    // RocksDB has no code of its own for a lock that is held.
    if error.kind() == rocksdb::ErrorKind::IOError && error.as_ref().contains("lock ") {
        return StoreError::InUse { directory };
    }
    match error.kind() {
        rocksdb::ErrorKind::InvalidArgument | rocksdb::ErrorKind::NotSupported => {
            StoreError::Format { directory, reason: error.into_string() }
        }
        _ => StoreError::of_rocksdb("opening the store")(error),
    }
}
