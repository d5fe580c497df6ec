//! What the operating system knows of a process and of the machine, and which cores a process may use.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

pub use hydrant::bench::machine::*;

/// Keeps a process, all its threads, on some cores (`0`, `0-1`).
pub fn pin(process: u32, cores: &str) -> Result<()> {
    let mut command = Command::new("taskset");
    command.args(["--all-tasks", "--cpu-list", "--pid", cores, &process.to_string()]).stdout(Stdio::null());
    ensure!(command.status().context("can't run taskset")?.success(), "process {process} can't be kept on {cores}");
    Ok(())
}
