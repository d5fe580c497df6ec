//! What is measured, all loaded with the same rows: Hydrant, which is started again with other
//! options on the same data, Redis and RocksDB.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::support::machine;
use crate::support::process::{Hydrant, definitions, wait_until_quiet};
use crate::support::redis_reads;
use crate::support::redis_server::RedisServer;
use crate::support::report::{Report, figure};
use crate::support::rocksdb_rows::{Blocks, RocksRows};
use crate::support::transport::Calls;
use crate::support::views::{ViewShape, Workload};
use crate::{BOTH_CORES, CONNECTIONS, Options, SERVER_CORE};

/// An option as an environment variable without its prefix, and its value.
pub type Setting = (&'static str, &'static str);

/// Held in memory: the rows of all workloads.
pub const BLOCK_CACHE: &str = "3GiB";
pub const ROW_CACHE: Setting = ("STORAGE__ROW_CACHE", "4GiB");
pub const NO_ROW_CACHE: Setting = ("STORAGE__ROW_CACHE", "0MiB");
/// Requests may wait for long before any is refused.
pub const PATIENT: Setting = ("ADMISSION__TARGET_WAIT", "10s");
/// Nothing lands while something is measured, unless a part asks for it.
const TAIL: Setting = ("LANDING__TAIL", "1GiB");
const LANDING_INTERVAL: Setting = ("LANDING__INTERVAL", "1d");
/// After loading or starting again, flushes, compactions and a landing may go on for a while.
pub const SETTLE: Duration = Duration::from_secs(90);

pub struct Systems {
    pub hydrant: Hydrant,
    pub rivals: Option<Rivals>,
    /// The options that Hydrant runs with, where they were chosen for a measurement.
    configured: Option<Vec<(String, String)>>,
    /// The workloads whose rows have been read since Hydrant was started.
    filled: HashSet<&'static str>,
}

pub struct Rivals {
    pub redis: RedisServer,
    pub rocks: RocksRows,
    /// With the store's blocks.
    pub tuned_rocks: RocksRows,
}

/// The share of the keys read that memory did not answer, or the row cache did.
#[derive(Clone, Copy, Debug)]
pub struct Reads {
    keys: f64,
    not_cached: f64,
    row_hits: f64,
    row_misses: f64,
}

impl Systems {
    /// Starts all, on both cores, and loads them.
    pub async fn load(workloads: &[Workload], options: &Options, rivals: bool, report: &mut Report) -> Result<Self> {
        let views = views(workloads, options);
        let hydrant = Hydrant::start(&[("STORAGE__BLOCK_CACHE", BLOCK_CACHE), TAIL, LANDING_INTERVAL]).await?;
        load_hydrant(&hydrant, workloads, &views, report).await?;
        let rivals = if rivals { Some(Rivals::load(views).await?) } else { None };
        if let Some(rivals) = &rivals {
            let redis = rivals.redis.memory()? >> 20;
            let memory = json!({ "hydrant, at most": machine::peak_memory(hydrant.id())? >> 20,
                "redis, hashes and packed": redis });
            report.row("memory after loading, MiB", memory)?;
            machine::pin(rivals.redis.id(), SERVER_CORE)?;
        }
        Ok(Self { hydrant, rivals, configured: None, filled: HashSet::new() })
    }

    /// Hydrant with these options beside the block cache that holds everything; a later one of the
    /// same name counts. It is started again only where it runs with others.
    pub async fn configure(&mut self, settings: &[(&str, &str)], report: &mut Report) -> Result<()> {
        let mut all = BTreeMap::from([("STORAGE__BLOCK_CACHE", BLOCK_CACHE), TAIL, LANDING_INTERVAL]);
        all.extend(settings.iter().copied());
        let named: Vec<(String, String)> =
            all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        if self.configured.as_ref() == Some(&named) {
            return Ok(());
        }
        let begun = Instant::now();
        self.configured = None;
        self.filled.clear();
        let settings: Vec<(&str, &str)> = all.into_iter().collect();
        // Started from the client's core alone, so that it is made for one core, as the bare server is.
        self.hydrant.restart(&settings).await?;
        machine::pin(self.hydrant.id(), SERVER_CORE)?;
        let seconds = figure(begun.elapsed().as_secs_f64());
        let options: Vec<String> = named.iter().map(|(name, value)| format!("{name}={value}")).collect();
        report.row("server started again", json!({ "options": options.join(" "), "seconds": seconds }))?;
        self.hydrant.wait_until_quiet(SETTLE).await?;
        self.configured = Some(named);
        Ok(())
    }

    /// Reads every row of a workload, so that caches hold what they can. `false`: that was done before.
    pub async fn fill(&mut self, workload: &Workload, keys: u64) -> Result<bool> {
        if self.filled.contains(workload.name) {
            return Ok(false);
        }
        sweep(workload, self.hydrant.address(), keys, None).await?;
        self.filled.insert(workload.name);
        Ok(true)
    }

    /// Hydrant was started again by other means: its caches are empty.
    pub fn forget_filled(&mut self) {
        self.configured = None;
        self.filled.clear();
    }

    /// Waits until Hydrant idles.
    pub async fn settle(&self) -> Result<()> {
        wait_until_quiet(self.hydrant.id(), SETTLE).await
    }

    pub fn rivals(&self) -> Result<&Rivals> {
        self.rivals.as_ref().context("the rivals were not loaded")
    }

    /// What Hydrant has counted so far.
    pub fn reads(&self) -> Result<Reads> {
        Ok(Reads {
            keys: self.hydrant.counter("hydrant_serving_keys_read_total")?,
            not_cached: self.hydrant.counter("hydrant_serving_keys_not_cached_total")?,
            row_hits: self.hydrant.counter("hydrant_storage_row_cache_hits_total")?,
            row_misses: self.hydrant.counter("hydrant_storage_row_cache_misses_total")?,
        })
    }
}

impl Reads {
    /// Percent of the keys that the row cache answered since then.
    pub fn row_cache_percent(&self, before: &Self) -> f64 {
        let hits = self.row_hits - before.row_hits;
        100.0 * hits / (hits + self.row_misses - before.row_misses).max(1.0)
    }

    /// Percent of the keys that were read from a disk since then.
    pub fn disk_percent(&self, before: &Self) -> f64 {
        100.0 * (self.not_cached - before.not_cached) / (self.keys - before.keys).max(1.0)
    }
}

impl Rivals {
    async fn load(views: Vec<(ViewShape, u64)>) -> Result<Self> {
        let server = RedisServer::start(&["--appendonly", "no", "--hash-max-listpack-value", "512"]).await?;
        let for_redis = views.clone();
        let redis = tokio::task::spawn_blocking(move || {
            redis_reads::load(&server, &for_redis)?;
            anyhow::Ok(server)
        });
        let rocks = tokio::task::spawn_blocking(move || {
            let [common, tuned] = [RocksRows::open(Blocks::Common)?, RocksRows::open(Blocks::OfTheStore)?];
            common.load(&views)?;
            tuned.load(&views)?;
            anyhow::Ok((common, tuned))
        });
        let redis = redis.await?.context("loading Redis")?;
        let (rocks, tuned_rocks) = rocks.await?.context("loading RocksDB")?;
        Ok(Self { redis, rocks, tuned_rocks })
    }
}

/// Reads every row of a workload once.
pub async fn sweep(workload: &Workload, address: &str, keys: u64, token: Option<&str>) -> Result<()> {
    for view in workload.views {
        let requests = view.sweep(keys)?;
        let count = requests.len();
        let calls = Calls::connect_as(address, CONNECTIONS, requests.into(), token).await?;
        // One at a time: none waits, so none is refused.
        for number in 0..count {
            calls.call(number).await.context("sweeping the rows")?;
        }
    }
    Ok(())
}

/// Each view once, with its keys.
fn views(workloads: &[Workload], options: &Options) -> Vec<(ViewShape, u64)> {
    let mut views: BTreeMap<&str, (ViewShape, u64)> = BTreeMap::new();
    for workload in workloads {
        views.extend(workload.views.iter().map(|view| (view.name, (*view, options.keys_of(workload)))));
    }
    views.into_values().collect()
}

async fn load_hydrant(
    hydrant: &Hydrant,
    workloads: &[Workload],
    views: &[(ViewShape, u64)],
    report: &mut Report,
) -> Result<()> {
    let client = hydrant.client().await?;
    for workload in workloads {
        client.apply(&definitions(&workload.definitions())?, None).await?;
    }
    let begun = Instant::now();
    // A few views at a time: as many streams as there are rows to make up in parallel.
    for few in views.chunks(4) {
        futures::future::try_join_all(few.iter().map(|(view, keys)| view.load(&client, *keys))).await?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let rows: u64 = views.iter().map(|(_, keys)| keys).sum();
    let row = json!({ "rows": rows, "seconds": figure(seconds), "rows/s": figure(rows as f64 / seconds) });
    report.row("loading by Flight DoPut, batches of 10,000 rows", row)?;
    hydrant.wait_until_quiet(SETTLE).await?;
    Ok(())
}

/// Gives a process both cores.
pub fn unpin(process: u32) -> Result<()> {
    machine::pin(process, BOTH_CORES)
}
