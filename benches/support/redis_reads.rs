//! Features in Redis as one would build it by hand: a hash for each (view, entity) read by HMGET, all
//! of a request in one pipeline, or a packed value for each, read by one MGET and taken apart. Either
//! way the answer ends in typed columns, and every key must be there.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use redis::Connection;

use super::load::Outcome;
use super::machine::cpu_micros;
use super::redis_server::RedisServer;
use super::views::{RequestKeys, ViewShape, Workload};

/// Connections, each with one request under way.
const CONNECTIONS: usize = 16;
/// Rows of one pipeline while loading.
const LOAD_ROWS: u64 = 500;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Layout {
    Hashes,
    Packed,
}

impl Layout {
    pub fn name(self) -> &'static str {
        match self {
            Self::Hashes => "Redis HMGET pipelined",
            Self::Packed => "Redis MGET packed",
        }
    }

    fn key(self, view: &ViewShape, key: u64) -> String {
        match self {
            Self::Hashes => format!("h:{}:{key}", view.name),
            Self::Packed => format!("p:{}:{key}", view.name),
        }
    }
}

/// The values of one feature for the rows of a request.
enum Column {
    Floats(Vec<f64>),
    Vectors(Vec<f32>),
}

/// Writes a row for each of so many keys of each view, in both layouts.
pub fn load(server: &RedisServer, views: &[(ViewShape, u64)]) -> Result<()> {
    let mut connection = server.connect()?;
    for (view, keys) in views {
        let names = view.feature_names();
        for start in (0..*keys).step_by(LOAD_ROWS as usize) {
            let mut pipeline = redis::pipe();
            for key in start..(*keys).min(start + LOAD_ROWS) {
                let packed = view.packed(key);
                let hash = pipeline.cmd("HSET").arg(Layout::Hashes.key(view, key));
                for (name, value) in names.iter().zip(split(view, &packed)) {
                    hash.arg(name).arg(value);
                }
                pipeline.cmd("SET").arg(Layout::Packed.key(view, key)).arg(packed);
            }
            pipeline.exec(&mut connection)?;
        }
    }
    Ok(())
}

/// Reads the requests over and over from many connections, for as long as asked for.
pub fn measure(
    server: &RedisServer,
    layout: Layout,
    workload: &Workload,
    drawn: &[RequestKeys],
    duration: Duration,
) -> Result<Outcome> {
    let lookups = server.lookups()?;
    let own = std::process::id();
    let (server_before, client_before) = (cpu_micros(server.id())?, cpu_micros(own)?);
    let begun = Instant::now();
    let next = AtomicU64::new(0);
    let workers = std::thread::scope(|scope| {
        let work = || -> Result<Histogram<u64>> {
            let mut connection = server.connect()?;
            let mut latency = Histogram::new_with_bounds(100, 120_000_000_000, 3)?;
            while begun.elapsed() < duration {
                let number = next.fetch_add(1, Ordering::Relaxed) as usize;
                let sent = Instant::now();
                let columns = read(&mut connection, layout, workload, &drawn[number % drawn.len()])?;
                black_box(columns);
                latency.saturating_record(u64::try_from(sent.elapsed().as_nanos())?);
            }
            Ok(latency)
        };
        let workers: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().expect("no worker panics")).collect::<Result<Vec<_>>>()
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    let (server_after, client_after) = (cpu_micros(server.id())?, cpu_micros(own)?);
    let mut latency = Histogram::new_with_bounds(100, 120_000_000_000, 3)?;
    for of_worker in workers {
        latency.add(of_worker)?;
    }
    server.check_hits(lookups, latency.len() * workload.keys_per_request() as u64)?;
    Ok(Outcome {
        latency,
        errors: 0,
        first_error: None,
        seconds,
        server_cpu_micros: server_after - server_before,
        client_cpu_micros: client_after - client_before,
    })
}

fn read(connection: &mut Connection, layout: Layout, workload: &Workload, keys: &RequestKeys) -> Result<Vec<Column>> {
    match layout {
        Layout::Hashes => read_hashes(connection, workload, keys),
        Layout::Packed => read_packed(connection, workload, keys),
    }
}

fn read_hashes(connection: &mut Connection, workload: &Workload, keys: &RequestKeys) -> Result<Vec<Column>> {
    let mut pipeline = redis::pipe();
    for (view, keys) in workload.views.iter().zip(keys) {
        let names = view.feature_names();
        for key in keys {
            pipeline.cmd("HMGET").arg(Layout::Hashes.key(view, *key)).arg(&names);
        }
    }
    let rows: Vec<Vec<Vec<u8>>> = pipeline.query(connection)?;
    let mut rows = rows.iter();
    let mut columns = Vec::new();
    for (view, keys) in workload.views.iter().zip(keys) {
        let mut of_view = empty_columns(view, keys.len());
        for row in rows.by_ref().take(keys.len()) {
            ensure!(row.len() == of_view.len(), "a hash has all its fields");
            for (column, value) in of_view.iter_mut().zip(row) {
                column.push(value)?;
            }
        }
        columns.append(&mut of_view);
    }
    Ok(columns)
}

fn read_packed(connection: &mut Connection, workload: &Workload, keys: &RequestKeys) -> Result<Vec<Column>> {
    let mut command = redis::cmd("MGET");
    for (view, keys) in workload.views.iter().zip(keys) {
        for key in keys {
            command.arg(Layout::Packed.key(view, *key));
        }
    }
    let rows: Vec<Vec<u8>> = command.query(connection)?;
    let mut rows = rows.iter();
    let mut columns = Vec::new();
    for (view, keys) in workload.views.iter().zip(keys) {
        let mut of_view = empty_columns(view, keys.len());
        for row in rows.by_ref().take(keys.len()) {
            for (column, value) in of_view.iter_mut().zip(split(view, row)) {
                column.push(value)?;
            }
        }
        columns.append(&mut of_view);
    }
    Ok(columns)
}

fn empty_columns(view: &ViewShape, rows: usize) -> Vec<Column> {
    let floats = (0..view.floats).map(|_| Column::Floats(Vec::with_capacity(rows)));
    floats.chain(view.vector.map(|dimension| Column::Vectors(Vec::with_capacity(rows * dimension)))).collect()
}

/// A packed row, feature by feature.
fn split<'a>(view: &ViewShape, packed: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    let (floats, vector) = packed.split_at(packed.len().min(view.floats as usize * 8));
    floats.chunks_exact(8).chain(view.vector.map(|_| vector))
}

impl Column {
    fn push(&mut self, value: &[u8]) -> Result<()> {
        match self {
            Self::Floats(values) => {
                let bytes = <[u8; 8]>::try_from(value).context("a float64 has eight bytes")?;
                values.push(f64::from_le_bytes(bytes));
            }
            Self::Vectors(values) => {
                let (floats, rest) = value.as_chunks::<4>();
                ensure!(rest.is_empty() && !floats.is_empty(), "a vector is a whole number of float32s");
                values.extend(floats.iter().map(|bytes| f32::from_le_bytes(*bytes)));
            }
        }
        Ok(())
    }
}
