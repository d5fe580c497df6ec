//! What the operating system knows of a process and of the machine, read from /proc. Figures are the
//! kernel's; nothing is estimated.

use std::collections::{BTreeSet, HashSet};
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

/// The name of a process, as the kernel keeps it: the first 15 letters of its program's.
pub fn process_name(process: u32) -> io::Result<String> {
    Ok(read(&format!("/proc/{process}/comm"))?.trim().to_owned())
}

/// The TCP ports on which a process listens, in ascending order. Whose files may not be looked at, such
/// as another user's process, is an error.
pub fn listening_ports(process: u32) -> io::Result<Vec<u16>> {
    let folder = format!("/proc/{process}/fd");
    let unreadable = |error: io::Error| io::Error::new(error.kind(), format!("can't read {folder}: {error}"));
    let mut own = HashSet::new();
    for entry in fs::read_dir(&folder).map_err(unreadable)? {
        // What has been closed since is no socket that it listens on.
        let Ok(target) = fs::read_link(entry.map_err(unreadable)?.path()) else { continue };
        let socket = target.to_str().and_then(|name| name.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
        own.extend(socket.map(|inode: u64| inode));
    }
    let mut ports = BTreeSet::new();
    for table in ["tcp", "tcp6"] {
        // A kernel without IPv6 has no table of it.
        let table = fs::read_to_string(format!("/proc/{process}/net/{table}")).unwrap_or_default();
        ports
            .extend(table.lines().filter_map(listening).filter(|(inode, _)| own.contains(inode)).map(|(_, port)| port));
    }
    Ok(ports.into_iter().collect())
}

/// Whether a process sees the same network as this one: in a container it may see another.
pub fn shares_network(process: u32) -> io::Result<bool> {
    let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/net"));
    Ok(of(&process.to_string())? == of("self")?)
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

/// A socket's inode and port, if a line of /proc/net/tcp is about one that listens.
fn listening(line: &str) -> Option<(u64, u16)> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
    let port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
    (*state == LISTEN).then_some((inode.parse().ok()?, port))
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_process_listens_on_the_ports_that_it_has_opened() {
        let own = std::process::id();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        assert!(listening_ports(own).expect("readable").contains(&port));
        drop(listener);
        assert!(!listening_ports(own).expect("readable").contains(&port));
        assert!(shares_network(own).expect("readable"));
    }
}
