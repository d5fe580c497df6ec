//! CPU a request in a closed loop: Hydrant without and with its row cache, the bare server, Redis in
//! both layouts, and RocksDB in this process, for every workload and choice of keys.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use serde_json::Value;

use crate::rows::{self, both_cpu};
use crate::support::load::{Outcome, closed_loop};
use crate::support::machine;
use crate::support::process::Process;
use crate::support::promise::{self, Bound};
use crate::support::random::Choice;
use crate::support::redis_reads::{self, Layout};
use crate::support::report::figure;
use crate::support::streams::Streams;
use crate::support::transport::{Calls, start_bare_server};
use crate::support::views::{ADS, RequestKeys, WIDE, Workload};
use crate::{CONNECTIONS, NO_ROW_CACHE, ROW_CACHE, Run, SERVER_CORE, UNDER_WAY, WARM_UP, encoded};

/// Answers that the bare server has in memory.
const RECORDED: usize = 256;
const WITHOUT: &str = "hydrant, no row cache";
const WITH: &str = "hydrant, rows in the row cache";
/// The same, answered in another form.
const AS_MATRIX: &str = "hydrant, rows in the row cache, as a matrix";

/// Percent of the keys that have to come from the row cache for its promise to be measured.
const NEARLY_ALL: f64 = 99.0;

/// What came of Hydrant.
struct Measured {
    outcome: Outcome,
    /// Percent of the keys.
    from_row_cache: f64,
}

/// Of the rivals, in microseconds a request.
struct Rivals {
    /// The bare server's alone.
    bare_server: f64,
    multi_get: f64,
    /// Server and client.
    hmget: f64,
    mget: f64,
}

/// A bare server under way, which ends when this is dropped.
pub struct Bare {
    pub process: Process,
    pub calls: Calls,
    address: String,
    requests: Arc<Vec<Bytes>>,
    _folder: tempfile::TempDir,
}

pub async fn measure(run: &mut Run) -> Result<()> {
    let mut without: HashMap<String, Measured> = HashMap::new();
    run.for_closed_loops(NO_ROW_CACHE).await?;
    for workload in run.workloads.clone() {
        for choice in run.options.choices.clone() {
            let measured = hydrant(run, &workload, choice, WITHOUT).await?;
            without.insert(format!("{} {choice}", workload.name), measured);
        }
    }
    run.for_closed_loops(ROW_CACHE).await?;
    for workload in run.workloads.clone() {
        for choice in run.options.choices.clone() {
            let with = hydrant(run, &workload, choice, WITH).await?;
            let as_matrix = hydrant(run, &workload, choice, AS_MATRIX).await?;
            let rivals = beside(run, &workload, choice).await?;
            let without = without.get(&format!("{} {choice}", workload.name)).context("measured before")?;
            tell_promises(run, &workload, choice, without, &with, &rivals)?;
            tell_promises_as_matrix(run, &workload, choice, &as_matrix, &rivals)?;
        }
    }
    // Their memory is no part of what is measured later.
    run.systems.rivals = None;
    Ok(())
}

async fn hydrant(run: &mut Run, workload: &Workload, choice: Choice, system: &str) -> Result<Measured> {
    let drawn = run.draw(workload, choice);
    let mut calls = run.warm(workload, &drawn).await?;
    if system == AS_MATRIX {
        let requests = drawn.iter().map(|keys| workload.encode_for_matrices(keys)).collect::<Result<Vec<_>>>()?;
        calls = Calls::connect(run.systems.hydrant.address(), CONNECTIONS, requests.into()).await?;
    }
    // New requests and connections: what is left to warm up.
    run.closed(&calls, run.duration().mul_f64(0.3)).await?;
    let before = run.systems.reads()?;
    let outcome = run.closed(&calls, run.duration()).await?;
    let after = run.systems.reads()?;
    let from_row_cache = after.row_cache_percent(&before);
    let mut row = rows::closed(&choice.to_string(), system, &outcome);
    row.insert("keys from the row cache %".to_owned(), figure(from_row_cache));
    row.insert("keys from disk %".to_owned(), figure(after.disk_percent(&before)));
    run.report.row(&rows::closed_title(workload), Value::Object(row))?;
    Ok(Measured { outcome, from_row_cache })
}

async fn beside(run: &mut Run, workload: &Workload, choice: Choice) -> Result<Rivals> {
    let (keys, duration) = (choice.to_string(), run.duration());
    let drawn = run.draw(workload, choice);
    let title = rows::closed_title(workload);

    let bare = Bare::start(run, workload, &drawn).await?;
    let outcome = closed_loop(&bare.calls, UNDER_WAY, duration, bare.process.id()).await?;
    ensure!(outcome.errors == 0, "the bare server failed: {:?}", outcome.first_error);
    run.report.row(&title, Value::Object(rows::closed(&keys, "bare tonic", &outcome)))?;
    drop(bare);

    let hmget = redis(run, Layout::Hashes, workload, &drawn, &keys)?;
    let mget = redis(run, Layout::Packed, workload, &drawn, &keys)?;
    let rivals = run.systems.rivals()?;
    let multi_get = rivals.rocks.measure(workload, &drawn, duration)?;
    let tuned = rivals.tuned_rocks.measure(workload, &drawn, duration)?;
    // What is promised was set against the first.
    for (system, micros) in
        [("RocksDB multi-get in process", multi_get), ("RocksDB multi-get in process, the store's blocks", tuned)]
    {
        run.report.row(&title, Value::Object(rows::server_cpu(&keys, system, micros)))?;
    }
    Ok(Rivals { bare_server: outcome.server_cpu_per_request(), multi_get, hmget, mget })
}

/// CPU of server and client a request, in microseconds. Every key must have been there.
fn redis(run: &mut Run, layout: Layout, workload: &Workload, drawn: &[RequestKeys], keys: &str) -> Result<f64> {
    let server = &run.systems.rivals()?.redis;
    redis_reads::measure(server, layout, workload, drawn, run.duration().mul_f64(0.3))?;
    let outcome = redis_reads::measure(server, layout, workload, drawn, run.duration())?;
    run.report.row(&rows::closed_title(workload), Value::Object(rows::closed(keys, layout.name(), &outcome)))?;
    Ok(both_cpu(&outcome))
}

impl Bare {
    /// A bare server that gives what Hydrant answers to these requests, warmed up.
    pub async fn start(run: &Run, workload: &Workload, drawn: &[RequestKeys]) -> Result<Self> {
        let requests = encoded(workload, drawn)?;
        let hydrant = Calls::connect(run.systems.hydrant.address(), CONNECTIONS, requests.clone()).await?;
        let mut answers = Vec::with_capacity(RECORDED);
        for number in 0..RECORDED {
            hydrant.call(number).await?;
            answers.push(hydrant.bytes(number).await?);
        }
        ensure!(!answers.iter().any(Bytes::is_empty), "an answer is empty");
        let folder = tempfile::tempdir()?;
        let (process, address) = start_bare_server(&answers, folder.path())?;
        machine::pin(process.id(), SERVER_CORE)?;
        let calls = Calls::connect(&address, CONNECTIONS, requests.clone()).await?;
        let warm_up: Duration = WARM_UP.div_f64(2.0);
        closed_loop(&calls, UNDER_WAY, warm_up, process.id()).await?;
        Ok(Self { process, calls, address, requests, _folder: folder })
    }

    /// Connections for loads of a fixed rate, as Hydrant has them.
    pub async fn load(&self) -> Result<Streams> {
        Streams::connect(&self.address, CONNECTIONS, &self.requests, None).await
    }
}

fn tell_promises(
    run: &mut Run,
    workload: &Workload,
    choice: Choice,
    without: &Measured,
    with: &Measured,
    rivals: &Rivals,
) -> Result<()> {
    for (system, measured, factor) in [(WITHOUT, without, 1.3), (WITH, with, 0.4)] {
        let outcome = &measured.outcome;
        let of = format!("{}, {choice}, {system}", workload.name);
        let limit = rivals.bare_server + factor * rivals.multi_get;
        let what = format!("server CPU / (bare tonic's + {factor} × multi-get)");
        if system == WITH && measured.from_row_cache < NEARLY_ALL {
            let why = format!("only {:.0} % of the keys came from the row cache", measured.from_row_cache);
            promise::tell_unmeasured(&mut run.report, &of, &what, Bound::AtMost(1.0), &why)?;
        } else {
            run.promise(&of, &what, outcome.server_cpu_per_request() / limit, Bound::AtMost(1.0))?;
        }
        // With Zipf keys the promise against Redis is made with the row cache.
        if choice == Choice::Uniform || system == WITH {
            tell_against_redis(run, workload, choice, &of, outcome, rivals)?;
        }
    }
    Ok(())
}

/// Other bytes than the bare server's, so only Redis is beside it.
fn tell_promises_as_matrix(
    run: &mut Run,
    workload: &Workload,
    choice: Choice,
    measured: &Measured,
    rivals: &Rivals,
) -> Result<()> {
    let of = format!("{}, {choice}, {AS_MATRIX}", workload.name);
    tell_against_redis(run, workload, choice, &of, &measured.outcome, rivals)
}

fn tell_against_redis(
    run: &mut Run,
    workload: &Workload,
    choice: Choice,
    of: &str,
    outcome: &Outcome,
    rivals: &Rivals,
) -> Result<()> {
    let (hmget, mget) = match workload.name {
        name if name == ADS.name && choice == Choice::Uniform => (0.5, 2.5),
        name if name == ADS.name => (0.5, 1.5),
        name if name == WIDE.name => (1.0, 2.5),
        _ => return Ok(()),
    };
    let both = both_cpu(outcome);
    run.promise(of, "CPU of both / Redis HMGET pipelined", both / rivals.hmget, Bound::AtMost(hmget))?;
    run.promise(of, "CPU of both / Redis MGET packed", both / rivals.mget, Bound::AtMost(mget))?;
    Ok(())
}
