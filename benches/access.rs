//! What it costs a request to be asked who sends it: an API key read, recognized among many and held to
//! its hash, as every call does before anything else; and to be counted as a read. Promised: 5 µs at most,
//! and under 1 µs.
//!
//!     cargo bench --bench access -- --keys 1000

mod support;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use hydrant::access::{Access, NewKey};
use hydrant::app::Node;
use hydrant::clock::SystemClock;
use hydrant::config::Config;
use hydrant::registry::reads::{ReadKind, Readable, Reads, ReadsOf, Thing};
use hydrant::tenancy::{Action, Authenticates, Identity, LoopbackOnly, Role};
use hydrant_storage::names::TenantId;
use serde_json::json;
use support::machine;
use support::promise::{self, Bound};
use support::report::{Report, figure};

const TIMES: usize = 1_000_000;
const PROMISED_MICROS: f64 = 5.0;

#[derive(Debug, Parser)]
struct Options {
    /// API keys that there are; at most 1,000.
    #[arg(long, default_value_t = 200)]
    keys: usize,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let settings = json!({ "keys": options.keys, "times": TIMES });
    let mut report = Report::begin("access", json!({ "hydrant": env!("CARGO_PKG_VERSION") }), settings);
    let runtime = tokio::runtime::Runtime::new()?;
    let directory = tempfile::tempdir()?;
    let mut config = Config::embedded();
    config.storage.data_dir = directory.path().to_owned();
    let node = runtime.block_on(Node::open(&config, Arc::new(SystemClock)))?;
    let access = node.use_cases().access.clone();
    let mut tokens = Vec::new();
    for _ in 0..options.keys.max(1) {
        tokens.push(runtime.block_on(new_key(&node, &access))?);
    }
    let without = measure(&LoopbackOnly, &[None])?;
    let texts: Vec<Option<&str>> = tokens.iter().map(|token| Some(token.as_str())).collect();
    let with = measure(&access, &texts)?;
    let row = json!({ "keys": tokens.len(), "CPU µs without": figure(without), "CPU µs with a key": figure(with) });
    report.row("access: who is calling, CPU a request", row)?;
    let what = "an API key recognized, CPU µs more than without";
    promise::tell(&mut report, "who is calling, in process", what, with - without, Bound::AtMost(PROMISED_MICROS))?;
    counting(&mut report)?;
    report.finish();
    runtime.block_on(node.close());
    Ok(())
}

/// What it costs a read to be counted, by several callers of one selection, on one thread and on two.
fn counting(report: &mut Report) -> Result<()> {
    let service =
        |name: &str| Ok::<_, anyhow::Error>(Thing { owner: TenantId(1), of: Readable::Service(name.parse()?, 1) });
    let things = vec![service("first_model")?, service("second_model")?];
    for threads in [1, 2] {
        let reads = Reads::default();
        let of = ReadsOf::new(TenantId(1), things.clone(), true);
        let callers: Vec<String> = (0..16).map(|number| format!("key/abcdefgh{number:02}")).collect();
        callers.iter().for_each(|caller| reads.note(caller, &of, ReadKind::Online));
        let before = machine::cpu_micros(std::process::id())?;
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    for number in 0..TIMES {
                        reads.note(&callers[number % callers.len()], black_box(&of), ReadKind::Online);
                    }
                });
            }
        });
        let nanos = (machine::cpu_micros(std::process::id())? - before) as f64 * 1_000.0 / (TIMES * threads) as f64;
        let counted: u64 = reads.drain().reads.values().map(|counts| counts.online).sum();
        ensure!(counted == (things.len() * (TIMES * threads + callers.len())) as u64, "{counted} reads were counted");
        let row = json!({ "threads": threads, "CPU ns": figure(nanos), "promised": "under 1000" });
        report.row("usage: a read counted, CPU a request", row)?;
        let of = format!("{threads} threads");
        promise::tell(report, &of, "CPU ns to be counted as a read", nanos, Bound::Under(1_000.0))?;
    }
    Ok(())
}

async fn new_key(node: &Node, access: &Access) -> Result<String> {
    let permit = node.use_cases().tenancy.authorize(&Identity::loopback(), Action::ManageKeys)?;
    let new = NewKey {
        tenant: None,
        roles: [Role::Reader].into_iter().collect(),
        views: Vec::new(),
        services: Vec::new(),
        shared_views: Vec::new(),
        shared_services: Vec::new(),
        description: String::new(),
        expires_after: Some(Duration::from_hours(1)),
    };
    Ok(access.create(&permit, new).await?.1.reveal())
}

/// CPU microseconds of one look.
fn measure(authenticates: &dyn Authenticates, tokens: &[Option<&str>]) -> Result<f64> {
    let before = machine::cpu_micros(std::process::id())?;
    let mut known = 0;
    for number in 0..TIMES {
        let identity = authenticates.authenticate(tokens[number % tokens.len()])?;
        known += usize::from(identity.may(Action::ReadOnline));
    }
    ensure!(known == TIMES, "only {known} of {TIMES} were known");
    Ok((machine::cpu_micros(std::process::id())? - before) as f64 / TIMES as f64)
}
