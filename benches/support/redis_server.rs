//! Debian's redis-server on a free port with a folder of its own, and what it counts.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use redis::{Client, Connection};
use tempfile::TempDir;

use super::process::{Process, free_address};

const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

pub struct RedisServer {
    client: Client,
    port: u16,
    process: Process,
    _folder: TempDir,
}

/// Lookups since a server began.
#[derive(Clone, Copy, Debug)]
pub struct Lookups {
    pub hits: u64,
    pub misses: u64,
}

impl RedisServer {
    pub async fn start(options: &[&str]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("hydrant-bench-redis-").tempdir()?;
        let address = free_address()?;
        let (_, port) = address.rsplit_once(':').context("an address has a port")?;
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", port, "--save", "", "--dir"]).arg(folder.path());
        let process = Process::spawn(command.args(options).stdout(Stdio::null()))
            .context("Redis is missing: install Debian's redis-server")?;
        let client = Client::open(format!("redis://{address}"))?;
        let server = Self { client, port: port.parse()?, process, _folder: folder };
        let answered = async {
            while server.connect().is_err() {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(PATIENCE, answered).await.context("redis-server didn't start")?;
        Ok(server)
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn connect(&self) -> Result<Connection> {
        Ok(self.client.get_connection()?)
    }

    pub fn lookups(&self) -> Result<Lookups> {
        let stats: String = redis::cmd("INFO").arg("stats").query(&mut self.connect()?)?;
        Ok(Lookups { hits: counter(&stats, "keyspace_hits:")?, misses: counter(&stats, "keyspace_misses:")? })
    }

    pub fn memory(&self) -> Result<u64> {
        let memory: String = redis::cmd("INFO").arg("memory").query(&mut self.connect()?)?;
        counter(&memory, "used_memory:")
    }

    /// The same, where the number of lookups is somebody else's affair.
    pub fn check_no_misses(&self, before: Lookups) -> Result<()> {
        let after = self.lookups()?;
        let (hits, misses) = (after.hits - before.hits, after.misses - before.misses);
        ensure!(misses == 0 && hits > 0, "Redis hit {hits} keys and missed {misses}");
        Ok(())
    }

    /// Refuses figures that were measured on keys that don't exist.
    pub fn check_hits(&self, before: Lookups, expected: u64) -> Result<()> {
        let after = self.lookups()?;
        let (hits, misses) = (after.hits - before.hits, after.misses - before.misses);
        ensure!(misses == 0 && hits == expected, "Redis hit {hits} keys and missed {misses}, of {expected}");
        Ok(())
    }
}

pub fn version() -> String {
    let output = Command::new("redis-server").arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let version = text.split_ascii_whitespace().find_map(|word| word.strip_prefix("v="));
    version.unwrap_or("missing").to_owned()
}

fn counter(info: &str, name: &str) -> Result<u64> {
    let number = info.lines().find_map(|line| line.trim().strip_prefix(name));
    number.and_then(|number| number.parse().ok()).with_context(|| format!("Redis tells no {name}"))
}
