//! What it costs a request to be asked who sends it: an API key read, recognized among many and held to
//! its hash, as every call does before anything else. Promised: 5 µs at most.
//!
//!     cargo bench --bench access -- --keys 1000

mod support;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use hydrant::access::{Access, NewKey};
use hydrant::app::Node;
use hydrant::clock::SystemClock;
use hydrant::config::Config;
use hydrant::tenancy::{Action, Authenticates, Identity, LoopbackOnly, Role};
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
    report.finish();
    runtime.block_on(node.close());
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
