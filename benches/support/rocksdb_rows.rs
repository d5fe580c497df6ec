//! RocksDB in this process with rows of the store's size under hashed keys: what the engine alone
//! takes for the keys of a request, and for making rows durable.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rocksdb::{BlockBasedOptions, Cache, DB, DBCompressionType, DataBlockIndexType, Options, WriteBatch, WriteOptions};
use tempfile::TempDir;

use super::machine::cpu_micros;
use super::random::mix;
use super::views::{RequestKeys, ViewShape, Workload};

/// Checksum, flags, revision, times and position of a stored row, beside its features.
const ROW_HEADER: usize = 64;
const CACHE_BYTES: usize = 3 << 30;
const LOAD_ROWS: u64 = 5_000;
const FAMILY: &str = "default";
/// What the bindings have no setters for.
const OF_THE_STORE: &str = "block_based_table_factory={separate_key_value_in_data_block=true;index_block_search_type=kAuto;uniform_cv_threshold=3}";

pub struct RocksRows {
    db: DB,
    _folder: TempDir,
}

/// How blocks are made and searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocks {
    /// As RocksDB is commonly set up for lookups: bloom filters and a hash index.
    Common,
    /// As the store sets it up (`latest_options` in `storage/src/partition/database.rs`).
    OfTheStore,
}

impl RocksRows {
    pub fn open(made: Blocks) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("hydrant-bench-rocksdb-").tempdir()?;
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(&Cache::new_hyper_clock_cache(CACHE_BYTES, 0));
        blocks.set_block_size(8 << 10);
        blocks.set_bloom_filter(10.0, false);
        blocks.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
        blocks.set_data_block_hash_ratio(0.75);
        blocks.set_format_version(6);
        if made == Blocks::OfTheStore {
            blocks.set_data_block_hash_ratio(0.5);
            blocks.set_block_restart_interval(8);
        }
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_block_based_table_factory(&blocks);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_max_background_jobs(2);
        if made == Blocks::OfTheStore {
            options = options.get_options_from_string(OF_THE_STORE)?;
        }
        let db = DB::open_cf_with_opts(&options, folder.path(), [(FAMILY, options.clone())])?;
        Ok(Self { db, _folder: folder })
    }

    /// Writes a row for each of so many keys of each view, and compacts them all.
    pub fn load(&self, views: &[(ViewShape, u64)]) -> Result<()> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        for (view, keys) in views {
            for start in (0..*keys).step_by(LOAD_ROWS as usize) {
                let mut batch = WriteBatch::default();
                (start..(*keys).min(start + LOAD_ROWS)).for_each(|key| batch.put(name(view, key), row(view, key)));
                self.db.write_opt(batch, &options)?;
            }
        }
        self.db.flush()?;
        self.db.compact_range(None::<&[u8]>, None::<&[u8]>);
        Ok(())
    }

    /// CPU microseconds that one request's multi-get takes on one thread.
    pub fn measure(&self, workload: &Workload, drawn: &[RequestKeys], duration: Duration) -> Result<f64> {
        // A first pass over the requests fills the cache.
        for keys in drawn.iter().take(50_000) {
            self.read(workload, keys)?;
        }
        let own = std::process::id();
        let before = cpu_micros(own)?;
        let begun = Instant::now();
        let mut requests = 0_usize;
        while begun.elapsed() < duration {
            self.read(workload, &drawn[requests % drawn.len()])?;
            requests += 1;
        }
        ensure!(requests > 0, "nothing was read");
        Ok((cpu_micros(own)? - before) as f64 / requests as f64)
    }

    /// Makes rows durable: one synced batch.
    pub fn write_synced(&self, view: &ViewShape, keys: impl Iterator<Item = u64>) -> Result<()> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        let mut batch = WriteBatch::default();
        keys.for_each(|key| batch.put(name(view, key), row(view, key)));
        Ok(self.db.write_opt(batch, &options)?)
    }

    /// Reads the keys of one request, all at once.
    pub fn read(&self, workload: &Workload, keys: &RequestKeys) -> Result<()> {
        let views = workload.views.iter().zip(keys);
        let mut names: Vec<Vec<u8>> = views.flat_map(|(view, keys)| keys.iter().map(|key| name(view, *key))).collect();
        names.sort_unstable();
        let family = self.db.cf_handle(FAMILY).context("the default family")?;
        let sorted = names.iter().map(Vec::as_slice);
        for found in self.db.batched_multi_get_cf(family, sorted, true) {
            black_box(found?.context("every key exists")?.len());
        }
        Ok(())
    }
}

/// As the store's: slot, tenant and view (here of its name) before the key.
fn name(view: &ViewShape, key: u64) -> Vec<u8> {
    let mut name = Vec::with_capacity(20);
    name.extend_from_slice(&(mix(key) as u16).to_le_bytes());
    name.extend_from_slice(&[0, 0, 0, 1]);
    let view = view.name.bytes().fold(0, |hash, byte| mix(hash ^ u64::from(byte)));
    name.extend_from_slice(&(view as u32).to_be_bytes());
    name.push(b'i');
    name.extend_from_slice(&key.to_le_bytes());
    name
}

fn row(view: &ViewShape, key: u64) -> Vec<u8> {
    let mut row = mix(key).to_le_bytes().repeat(ROW_HEADER / 8);
    row.append(&mut view.packed(key));
    row
}
