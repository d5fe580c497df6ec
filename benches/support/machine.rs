//! What the operating system knows of a process and of the machine, and which cores a process may use.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

pub use hydrant::bench::machine::*;

/// Bytes that a process has had written to disks.
pub fn bytes_written(process: u32) -> Result<u64> {
    let path = format!("/proc/{process}/io");
    let text = fs::read_to_string(&path).with_context(|| format!("can't read {path}"))?;
    let field = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    field.and_then(|bytes| bytes.parse().ok()).with_context(|| format!("{path} has no write_bytes"))
}

/// Keeps a process, all its threads, on some cores (`0`, `0-1`).
pub fn pin(process: u32, cores: &str) -> Result<()> {
    let mut command = Command::new("taskset");
    command.args(["--all-tasks", "--cpu-list", "--pid", cores, &process.to_string()]).stdout(Stdio::null());
    ensure!(command.status().context("can't run taskset")?.success(), "process {process} can't be kept on {cores}");
    Ok(())
}
