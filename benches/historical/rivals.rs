//! DuckDB and Polars on the same files, in a process of their own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::server::{Sink, Sums};
use crate::support::report::figure;
use crate::support::training::TTL_DAYS;

pub struct Rival {
    pub name: &'static str,
    pub threads: usize,
    pub runs: usize,
}

/// What the rivals' script tells.
#[derive(Debug, Deserialize)]
pub struct OfRival {
    seconds: Vec<f64>,
    pub peak_bytes: u64,
    rows: usize,
    sums: Sums,
    version: String,
}

impl Rival {
    pub fn run(&self, sink: Sink, folder: &Path, spine: &Path) -> Result<OfRival> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/support/rivals.py");
        let mut command = Command::new(python());
        command.arg(script).arg(self.name).arg(folder).arg(spine).arg(self.threads.to_string());
        command.arg(self.runs.to_string()).arg(sink.name()).arg(TTL_DAYS.to_string());
        let output = command.output().context("can't run .venv's Python")?;
        ensure!(output.status.success(), "{} failed: {}", self.name, String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).with_context(|| format!("{} told something else", self.name))
    }
}

impl OfRival {
    pub fn fastest(&self) -> f64 {
        self.seconds.iter().copied().fold(f64::INFINITY, f64::min)
    }

    pub fn row(&self, name: &str, rows: usize, sink: Sink) -> Value {
        let seconds = self.fastest();
        json!({ "system": format!("{name} {}", self.version), "answer as": sink.name(), "seconds": figure(seconds),
            "rows/s": (rows as f64 / seconds).round() as u64, "peak memory MiB": self.peak_bytes >> 20 })
    }

    /// Refuses figures for an answer that is another one.
    pub fn check_same(&self, name: &str, rows: usize, sums: &Sums) -> Result<()> {
        ensure!(self.rows == rows, "{name} gave {} rows, not {rows}", self.rows);
        for (column, (sum, nulls)) in sums {
            let (other_sum, other_nulls) = self.sums.get(column).with_context(|| format!("{name} has no {column}"))?;
            let same = nulls == other_nulls && (sum - other_sum).abs() <= 1e-6 * sum.abs().max(1.0);
            ensure!(same, "{column}: {sum} and {nulls} nulls, by {name} {other_sum} and {other_nulls}");
        }
        Ok(())
    }
}

pub fn version_of(package: &str) -> String {
    let script = format!("import {package}; print({package}.__version__)");
    let output = Command::new(python()).args(["-c", &script]).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

pub fn python() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python")
}
