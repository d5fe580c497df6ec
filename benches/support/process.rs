//! The processes that a benchmark starts: `hydrant serve` on free ports with a folder of its own, and
//! whatever else. None outlives the benchmark, and their folders go with them.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use hydrant::registry::definition::Definition;
use hydrant::registry::yaml;
use hydrant::rpc::client::{Client, Remote};
use tempfile::TempDir;

use super::machine;

/// Options that begin so are the allocator's, and not the server's.
const OF_ALLOCATOR: &str = "MIMALLOC_";
/// How long a process may take to start.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(20);
/// Of servers. The system gives connections higher ones, and one of them would have a server's now and then before it
/// has begun, or while it is started again.
const PORTS: Range<u16> = 10_000..32_000;

/// A process is quiet when it uses less than this of one core...
const QUIET_SHARE: f64 = 0.03;
/// ...for as long as this.
const QUIET_TIME: Duration = Duration::from_secs(1);

/// A child that is killed when it is dropped.
pub struct Process(Child);

impl Process {
    pub fn spawn(command: &mut Command) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).spawn().map(Self).with_context(|| format!("can't run {program}"))
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// The first line that it prints, where its output is piped.
    pub fn first_line(&mut self) -> Result<String> {
        let stdout = self.0.stdout.take().context("its output is not piped")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(!line.trim().is_empty(), "it printed nothing before it ended");
        Ok(line.trim().to_owned())
    }

    /// Asks it to end, and waits until it has. One that has ended by itself is no obstacle to starting
    /// it again.
    pub async fn stop(&mut self) -> Result<()> {
        if self.0.try_wait()?.is_some() {
            return Ok(());
        }
        let asked = Command::new("kill").args(["-TERM", &self.id().to_string()]).status().context("can't run kill")?;
        ensure!(asked.success(), "process {} can't be asked to end", self.id());
        let ended = async {
            while self.0.try_wait()?.is_none() {
                tokio::time::sleep(POLL).await;
            }
            Ok(())
        };
        tokio::time::timeout(PATIENCE, ended).await.context("it didn't end when it was asked to")?
    }

    pub fn check_running(&mut self) -> Result<()> {
        match self.0.try_wait()? {
            Some(status) => bail!("it ended with {status}"),
            None => Ok(()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended by itself, or ends now; there is nobody left to tell.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server with the options that differ from the defaults.
pub struct Hydrant {
    address: String,
    http: String,
    /// Its first API key, where it asks for one.
    token: Option<String>,
    // Dropped in this order: the process before its folder.
    process: Process,
    folder: TempDir,
}

impl Hydrant {
    /// `options` are environment variables without their prefix (`STORAGE__BLOCK_CACHE`).
    pub async fn start(options: &[(&str, &str)]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("hydrant-bench-").tempdir()?;
        let (address, http) = (free_address()?, free_address()?);
        let process = serve(folder.path(), &address, &http, options)?;
        let mut server = Self { address, http, token: None, process, folder };
        server.wait_until_started().await?;
        Ok(server)
    }

    /// Stops it and starts it again on the same data, with these options and no others.
    pub async fn restart(&mut self, options: &[(&str, &str)]) -> Result<()> {
        self.process.stop().await.with_context(|| self.log())?;
        self.process = serve(self.folder.path(), &self.address, &self.http, options)?;
        self.wait_until_started().await
    }

    /// The sum of a metric over its labels, as /metrics tells it; 0 where there is none yet.
    pub fn counter(&self, name: &str) -> Result<f64> {
        Ok(self.metric(name)?.iter().map(|(_, value)| value).sum())
    }

    /// A metric's values, each with its labels as they are written, as /metrics tells it.
    pub fn metric(&self, name: &str) -> Result<Vec<(String, f64)>> {
        let mut stream = TcpStream::connect(&self.http)?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.http)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "no metrics: {answer}");
        let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        let to_value = |line: &str| {
            let (labels, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
            Some((labels.to_owned(), value.parse().ok()?))
        };
        Ok(answer.lines().filter(of_name).filter_map(to_value).collect())
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Where it keeps what it stores.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub async fn client(&self) -> Result<Client> {
        match &self.token {
            Some(token) => self.client_as(token).await,
            None => Ok(Client::connect(&self.address).await?),
        }
    }

    /// With an API key.
    pub async fn client_as(&self, token: &str) -> Result<Client> {
        Ok(Client::connect_to(Remote::plain(&self.address).with_token(token)?).await?)
    }

    /// The first API key, which may do everything in the tenant `default`.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// What the server logged, for whoever has to find out why.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("server.log")).unwrap_or_default()
    }

    /// Waits until what was loaded is flushed, compacted and landed: until the server idles.
    pub async fn wait_until_quiet(&self, at_most: Duration) -> Result<()> {
        wait_until_quiet(self.id(), at_most).await
    }

    async fn wait_until_started(&mut self) -> Result<()> {
        let started = tokio::time::timeout(PATIENCE, self.wait_until_ready()).await;
        started.context("the server didn't start").flatten().with_context(|| self.log())
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        loop {
            self.process.check_running()?;
            // There is none where the server doesn't ask for it.
            self.token = std::fs::read_to_string(self.data().join("first-key")).ok().map(|key| key.trim().to_owned());
            if let Ok(client) = self.client().await
                && client.server_info().await.is_ok()
            {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

fn serve(folder: &Path, address: &str, http: &str, options: &[(&str, &str)]) -> Result<Process> {
    let log = File::options().create(true).append(true).open(folder.join("server.log"))?;
    let mut command = Command::new(binary()?);
    command.arg("serve").arg("--data-dir").arg(folder.join("data")).args(["--grpc-addr", address]);
    command.args(["--flight-addr", "127.0.0.1:0", "--http-addr", http]);
    let variable = |option: &str| match option.starts_with(OF_ALLOCATOR) {
        true => option.to_owned(),
        false => format!("HYDRANT_{option}"),
    };
    command.envs(options.iter().map(|(option, value)| (variable(option), value)));
    command.stdout(log.try_clone()?).stderr(log);
    Process::spawn(&mut command)
}

/// Waits until a process idles, and says so where it doesn't within the time given.
pub async fn wait_until_quiet(process: u32, at_most: Duration) -> Result<()> {
    let begun = std::time::Instant::now();
    while begun.elapsed() < at_most {
        let before = machine::cpu_micros(process)?;
        tokio::time::sleep(QUIET_TIME).await;
        let used = machine::cpu_micros(process)? - before;
        if (used as f64) < QUIET_SHARE * QUIET_TIME.as_micros() as f64 {
            return Ok(());
        }
    }
    eprintln!("note: process {process} still works in the background after {at_most:?}");
    Ok(())
}

/// The definitions of a YAML text.
pub fn definitions(text: &str) -> Result<Vec<Definition>> {
    let parsed = yaml::parse("benchmark", text).map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
    Ok(parsed.definitions.into_iter().map(|located| located.definition).collect())
}

/// A free address for a server that is told its port, another each time.
pub fn free_address() -> Result<String> {
    static GIVEN: AtomicUsize = AtomicUsize::new(0);
    // Far from where another benchmark's process begins.
    let begun = std::process::id() as usize * 101;
    let free = std::iter::repeat_with(|| begun + GIVEN.fetch_add(1, Ordering::Relaxed))
        .take(PORTS.len())
        .filter_map(|number| PORTS.clone().nth(number % PORTS.len()))
        .find(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok());
    Ok(format!("127.0.0.1:{}", free.context("no port is free")?))
}

/// `hydrant` as cargo has built it for this program.
pub fn binary() -> Result<PathBuf> {
    let binary = Path::new(env!("CARGO_BIN_EXE_hydrant"));
    ensure!(binary.is_file(), "there is no {}: build it with `cargo build --release`", binary.display());
    Ok(binary.to_path_buf())
}
