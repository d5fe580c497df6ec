//! The limit of the disk format: what reading and decoding the columns that a join needs takes by
//! itself, from the server's own files, by the same crate and codec.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use hydrant_storage::history::schema;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use serde_json::Value;

use crate::support::training::{FEATURES, VIEWS};

const BATCH_ROWS: usize = 8_192;

/// Scans all views on so many threads: the rows, and the seconds of the fastest of some runs.
pub fn scan(data: &Path, threads: usize, runs: usize) -> Result<(usize, f64)> {
    let mut files = Vec::new();
    for view in VIEWS {
        files.extend(live_files(&data.join("history/default").join(view.name).join("v1"))?);
    }
    let (mut rows, mut fastest) = (0, f64::INFINITY);
    for _ in 0..runs {
        let begun = Instant::now();
        rows = scan_once(&files, threads)?;
        fastest = fastest.min(begun.elapsed().as_secs_f64());
    }
    Ok((rows, fastest))
}

/// The bytes of the server's files.
pub fn bytes(data: &Path) -> Result<u64> {
    let mut bytes = 0;
    for view in VIEWS {
        for file in live_files(&data.join("history/default").join(view.name).join("v1"))? {
            bytes += std::fs::metadata(file)?.len();
        }
    }
    Ok(bytes)
}

/// The files of a table as its log has them. Logs here are short: there is no checkpoint yet.
fn live_files(table: &Path) -> Result<BTreeSet<PathBuf>> {
    let log = table.join("_delta_log");
    let entries = std::fs::read_dir(&log).with_context(|| format!("can't read {}", log.display()))?;
    let mut commits: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    commits.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    commits.sort();
    let mut files = BTreeSet::new();
    for commit in commits {
        for line in std::fs::read_to_string(&commit)?.lines() {
            let action: Value = serde_json::from_str(line)?;
            if let Some(path) = action["add"]["path"].as_str() {
                files.insert(table.join(path));
            }
            if let Some(path) = action["remove"]["path"].as_str() {
                files.remove(&table.join(path));
            }
        }
    }
    ensure!(!files.is_empty(), "{} lists no files", table.display());
    Ok(files)
}

fn scan_once(files: &[PathBuf], threads: usize) -> Result<usize> {
    let features = (0..FEATURES).map(|feature| format!("f{feature}"));
    let needed = [schema::SLOT, schema::KEY, schema::EVENT_TIME, schema::KNOWN_TIME];
    let needed: Vec<String> = needed.into_iter().map(str::to_owned).chain(features).collect();
    let mut groups = Vec::new();
    for file in files {
        let metadata = ArrowReaderMetadata::load(&File::open(file)?, ArrowReaderOptions::new())?;
        groups.extend((0..metadata.metadata().num_row_groups()).map(|group| (file, metadata.clone(), group)));
    }
    let left = Mutex::new(groups);
    let scan_groups = || -> Result<usize> {
        let mut rows = 0;
        loop {
            let next = left.lock().map_err(|_| anyhow::anyhow!("a scan has panicked"))?.pop();
            let Some((file, metadata, group)) = next else { return Ok(rows) };
            let roots = metadata.parquet_schema().root_schema().get_fields();
            let place = |name: &String| roots.iter().position(|root| root.name() == name);
            let mask = ProjectionMask::roots(metadata.parquet_schema(), needed.iter().filter_map(place));
            let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(File::open(file)?, metadata)
                .with_projection(mask)
                .with_row_groups(vec![group])
                .with_batch_size(BATCH_ROWS)
                .build()?;
            for batch in reader {
                rows += batch?.num_rows();
            }
        }
    };
    std::thread::scope(|scope| {
        let scans: Vec<_> = (0..threads).map(|_| scope.spawn(scan_groups)).collect();
        scans.into_iter().map(|scan| scan.join().map_err(|_| anyhow::anyhow!("a scan has panicked"))?).sum()
    })
}
