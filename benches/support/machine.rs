//! What the operating system knows of a process and of the machine, and which cores a process may use.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

pub use hydrant::bench::machine::*;

/// Threads come and go for a while after a start, not for so often.
const PIN_ROUNDS: usize = 50;

/// Bytes that a process has had written to disks.
pub fn bytes_written(process: u32) -> Result<u64> {
    let path = format!("/proc/{process}/io");
    let text = fs::read_to_string(&path).with_context(|| format!("can't read {path}"))?;
    let field = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    field.and_then(|bytes| bytes.parse().ok()).with_context(|| format!("{path} has no write_bytes"))
}

/// From now on, [`peak_memory`] is the most that the process takes from now on.
pub fn reset_peak_memory(process: u32) -> Result<()> {
    let path = format!("/proc/{process}/clear_refs");
    fs::write(&path, "5").with_context(|| format!("can't write {path}"))
}

/// Free bytes of the disk that a folder is on.
pub fn free_disk(folder: &Path) -> Result<u64> {
    let output = Command::new("df").args(["--output=avail", "--block-size=1"]).arg(folder).output();
    let output = output.context("can't run df")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let free = text.lines().nth(1).and_then(|line| line.trim().parse().ok());
    free.with_context(|| format!("df told something else: {text}"))
}

/// CPU time that all processes of the machine have used so far, in microseconds; without what its host
/// took for others.
pub fn machine_cpu_micros() -> Result<u64> {
    let stat = fs::read_to_string("/proc/stat").context("can't read /proc/stat")?;
    let times = stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).context("/proc/stat has no times")?;
    // user, nice, system, idle, iowait, irq, softirq.
    let ticks = times.split_ascii_whitespace().map(str::parse::<u64>).collect::<Result<Vec<_>, _>>()?;
    ensure!(ticks.len() >= 7, "/proc/stat has too few times");
    let busy: u64 = [0, 1, 2, 5, 6].iter().map(|place| ticks[*place]).sum();
    Ok(busy * 10_000)
}

/// Keeps a process, all its threads, on some cores (`0`, `0-1`). While `taskset` goes from one thread to
/// the next, some end, at which it gives up, and others begin with the cores of whoever started them. So
/// it is run again until every thread is where it should be.
pub fn pin(process: u32, cores: &str) -> Result<()> {
    let mut told = String::new();
    for _ in 0..PIN_ROUNDS {
        let mut command = Command::new("taskset");
        command.args(["--all-tasks", "--cpu-list", "--pid", cores, &process.to_string()]);
        told = String::from_utf8_lossy(&command.output().context("can't run taskset")?.stderr).trim().to_owned();
        if all_threads_on(process, cores)? {
            return Ok(());
        }
    }
    bail!("process {process} can't be kept on {cores}: {told}")
}

fn all_threads_on(process: u32, cores: &str) -> Result<bool> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).with_context(|| format!("process {process} has ended"));
    for thread in threads? {
        // A thread without a status has ended since.
        let Ok(status) = fs::read_to_string(thread?.path().join("status")) else { continue };
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        if allowed.map(str::trim) != Some(cores) {
            return Ok(false);
        }
    }
    Ok(true)
}
