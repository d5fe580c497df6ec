//! One training set as a training job gets it, and what it cost the server.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use hydrant::rpc::client::Client;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::rivals::python;
use crate::support::machine;
use crate::support::process::Hydrant;
use crate::support::report::figure;
use crate::support::training::SERVICE;

/// Per feature column: the sum of its values and the number of its nulls.
pub type Sums = BTreeMap<String, (f64, usize)>;

/// Where the answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    /// A table in memory.
    Arrow,
    Parquet,
}

impl Sink {
    pub fn name(self) -> &'static str {
        match self {
            Self::Arrow => "arrow",
            Self::Parquet => "parquet",
        }
    }
}

/// What is asked, of whom.
pub struct Join<'a> {
    pub server: &'a Hydrant,
    pub client: &'a Client,
    pub spine: &'a Path,
    pub runs: usize,
}

/// The fastest of some runs.
pub struct Joined {
    pub rows: usize,
    pub seconds: f64,
    /// From the last of the spine that was sent to the first rows.
    pub first_rows: f64,
    /// Inside the server, transport and waits for the client left out; of all runs on average.
    pub busy: f64,
    pub cpu: f64,
    pub read_bytes: u64,
    pub peak_bytes: u64,
    /// Of that, what it had not taken before.
    pub taken_bytes: u64,
    pub sums: Sums,
}

/// What the client tells.
#[derive(Debug, Deserialize)]
struct Told {
    seconds: Vec<f64>,
    first_rows: Vec<f64>,
    rows: usize,
    sums: Sums,
    tail_rows: u64,
}

impl Join<'_> {
    pub async fn run(&self, sink: Sink, folder: &Path) -> Result<Joined> {
        let Self { server, client, spine, runs } = self;
        let process = server.id();
        let flight = format!("127.0.0.1:{}", client.server_info().await?.flight_port);
        let output: PathBuf = match sink {
            Sink::Arrow => "arrow".into(),
            Sink::Parquet => folder.join("hydrant-answer.parquet"),
        };
        machine::reset_peak_memory(process)?;
        let resident = machine::peak_memory(process)?;
        let before = (machine::bytes_read(process)?, machine::cpu_micros(process)?, self.busy_micros()?);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/support/training_client.py");
        let mut command = Command::new(python());
        command.arg(script).args([server.address(), flight.as_str()]).arg(spine).arg(SERVICE);
        let done = command.arg(runs.to_string()).arg(&output).output().context("can't run .venv's Python")?;
        ensure!(done.status.success(), "the client failed: {}", String::from_utf8_lossy(&done.stderr));
        let told: Told = serde_json::from_slice(&done.stdout).context("the client told something else")?;
        ensure!(told.tail_rows == 0, "{} rows had not landed", told.tail_rows);
        let fastest = (0..told.seconds.len()).min_by(|a, b| told.seconds[*a].total_cmp(&told.seconds[*b]));
        let fastest = fastest.context("at least one run")?;
        let each = |after: u64, before: u64| (after - before) as f64 / *runs as f64;
        Ok(Joined {
            rows: told.rows,
            seconds: told.seconds[fastest],
            first_rows: told.first_rows[fastest],
            busy: each(self.busy_micros()?, before.2) / 1e6,
            cpu: each(machine::cpu_micros(process)?, before.1) / 1e6,
            read_bytes: each(machine::bytes_read(process)?, before.0) as u64,
            peak_bytes: machine::peak_memory(process)?,
            taken_bytes: machine::peak_memory(process)?.saturating_sub(resident),
            sums: told.sums,
        })
    }

    fn busy_micros(&self) -> Result<u64> {
        let phases = ["intake", "walk", "zip"];
        let names = phases.map(|phase| format!("hydrant_history_{phase}_time_microseconds_total"));
        let micros: Result<Vec<f64>> = names.iter().map(|name| self.server.counter(name)).collect();
        Ok(micros?.iter().sum::<f64>() as u64)
    }
}

impl Joined {
    pub fn row(&self, system: &str, sink: Sink) -> Value {
        json!({
            "system": system,
            "answer as": sink.name(),
            "seconds": figure(self.seconds),
            "rows/s": (self.rows as f64 / self.seconds).round() as u64,
            "first rows after the spine, s": figure(self.first_rows),
            "inside the server, s": figure(self.busy),
            "server CPU s": figure(self.cpu),
            "server read MiB": self.read_bytes >> 20,
            "peak memory MiB": self.peak_bytes >> 20,
            "of that not taken before, MiB": self.taken_bytes >> 20,
        })
    }
}
