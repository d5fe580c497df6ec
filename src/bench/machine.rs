//! What the operating system knows of a process and of the machine, read from /proc. Figures are the
//! kernel's; nothing is estimated.

use std::fs;
use std::io;

use serde_json::{Value, json};

/// Clock ticks a second in /proc/PID/stat: fixed in the kernel's interface to user space.
const TICKS_PER_SECOND: u64 = 100;

/// CPU time that a process has used so far, in all its threads, in microseconds. It counts in steps
/// of 10 ms: take the difference over seconds.
pub fn cpu_micros(process: u32) -> io::Result<u64> {
    let path = format!("/proc/{process}/stat");
    let stat = read(&path)?;
    let unknown = || malformed(&path, "the times");
    // The program's name stands in brackets and may hold spaces.
    let (_, rest) = stat.rsplit_once(')').ok_or_else(unknown)?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok());
    let (user, system) = ticks(11).zip(ticks(12)).ok_or_else(unknown)?;
    Ok((user + system) * (1_000_000 / TICKS_PER_SECOND))
}

/// The most memory that a process has held at a time, in bytes.
pub fn peak_memory(process: u32) -> io::Result<u64> {
    let kibibytes = field(&format!("/proc/{process}/status"), "VmHWM:")?;
    Ok(kibibytes * 1_024)
}

/// Bytes that a process has read from files and sockets.
pub fn bytes_read(process: u32) -> io::Result<u64> {
    field(&format!("/proc/{process}/io"), "rchar:")
}

/// The machine, for whoever reads the figures.
pub fn describe() -> Value {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processors.lines().find_map(|line| line.strip_prefix("model name"));
    let memory = field("/proc/meminfo", "MemTotal:").unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        "cpu": model.unwrap_or_default().trim_start_matches([' ', '\t', ':']),
        "cores": processors.lines().filter(|line| line.starts_with("processor")).count(),
        "memory_gib": (memory as f64 / 1_048_576.0 * 10.0).round() / 10.0,
        "kernel": kernel.trim(),
        "load_average": fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').next().unwrap_or_default(),
    })
}

fn field(path: &str, name: &str) -> io::Result<u64> {
    let text = read(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_ascii_whitespace().next()).and_then(|number| number.parse().ok());
    number.ok_or_else(|| malformed(path, name))
}

fn read(path: &str) -> io::Result<String> {
    fs::read_to_string(path).map_err(|error| io::Error::new(error.kind(), format!("can't read {path}: {error}")))
}

fn malformed(path: &str, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{path} doesn't tell {what}"))
}
