//! The server of the story, and the commands that talk to it. Whatever is still running when this
//! is dropped is killed, and its folder removed.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

/// How long the server may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(60);
const LOG: &str = "server.log";
const POLL: Duration = Duration::from_millis(20);
/// Lines of its log that are shown when something fails.
const LOG_LINES: usize = 30;

pub struct Server {
    binary: PathBuf,
    address: String,
    // Dropped in this order: the process before its folder.
    process: Process,
    folder: TempDir,
}

/// A child that doesn't outlive its owner.
struct Process(Child);

impl Server {
    /// Starts `hydrant serve` on free ports and waits until it tells which.
    #[allow(dead_code, reason = "stories that need options start it with them")]
    pub async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// The same, with options as variables of its environment.
    pub async fn start_with(options: &[(&str, &str)]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("hydrant-demo-").tempdir()?;
        let data = folder.path().join("data");
        Self::start_in(folder, &data, options).await
    }

    /// The same, on a data directory that is there.
    #[allow(dead_code, reason = "tests restore one; the story has no need to")]
    pub async fn start_on(data: &Path) -> Result<Self> {
        Self::start_in(tempfile::Builder::new().prefix("hydrant-demo-").tempdir()?, data, &[]).await
    }

    async fn start_in(folder: TempDir, data: &Path, options: &[(&str, &str)]) -> Result<Self> {
        let binary = binary()?;
        let mut command = Command::new(&binary);
        command.arg("serve").arg("--data-dir").arg(data);
        command.args(["--grpc-addr", "127.0.0.1:0", "--flight-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"]);
        let shown: String = options.iter().map(|(name, value)| format!("{name}={value} ")).collect();
        println!("$ {shown}hydrant serve --data-dir {} &", data.display());
        command.envs(options.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(folder.path().join(LOG))?);
        let mut process = Process(command.spawn().with_context(|| format!("can't run {}", binary.display()))?);
        let stdout = process.0.stdout.take().context("its stdout is piped")?;
        let server = Self { binary, address: String::new(), process, folder };
        match tokio::time::timeout(PATIENCE, ready_address(stdout)).await {
            Ok(Ok(address)) => Ok(Self { address, ..server }),
            _ => {
                server.show_log();
                bail!("the server didn't start");
            }
        }
    }

    #[allow(dead_code, reason = "only stories with clients of their own need it")]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A folder for what the story writes.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Shows and runs a command.
    #[allow(dead_code, reason = "not every story runs commands as the operator")]
    pub async fn hydrant(&self, arguments: &[&str]) -> Result<()> {
        println!("\n$ hydrant {}", arguments.join(" "));
        self.run(arguments, Stdio::inherit()).await.map(drop)
    }

    /// Runs a command with an API key, shows what it printed, and gives that and whether it succeeded.
    #[allow(dead_code, reason = "only stories with keys do")]
    pub async fn hydrant_as(&self, key: &str, arguments: &[&str]) -> Result<(bool, String)> {
        let mut command = Command::new(&self.binary);
        command.args(arguments).env("HYDRANT_SERVER", &self.address).env("HYDRANT_TOKEN", key);
        let output = tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output()).await??;
        let printed = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&printed).into_owned()))
    }

    /// Runs a command and gives what it printed.
    #[allow(dead_code, reason = "not every story looks at what commands print")]
    pub async fn output(&self, arguments: &[&str]) -> Result<String> {
        let path = self.folder.path().join("output");
        self.run(arguments, File::create(&path)?.into()).await?;
        Ok(std::fs::read_to_string(path)?)
    }

    /// Stops the server as an operator would.
    pub async fn stop(mut self) -> Result<()> {
        let asked = Command::new("kill").arg(self.process.0.id().to_string()).status()?;
        ensure!(asked.success(), "the server could not be asked to stop");
        let status = tokio::time::timeout(PATIENCE, self.process.ended()).await.context("the server didn't stop")??;
        ensure!(status.success(), "the server stopped with {status}");
        Ok(())
    }

    /// The end of the server's log, for whoever has to find out why.
    pub fn show_log(&self) {
        let log = std::fs::read_to_string(self.folder.path().join(LOG)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        eprintln!("\nThe server's last words:");
        lines[lines.len().saturating_sub(LOG_LINES)..].iter().for_each(|line| eprintln!("  {line}"));
    }

    async fn run(&self, arguments: &[&str], stdout: Stdio) -> Result<()> {
        let mut command = Command::new(&self.binary);
        command.args(arguments).env("HYDRANT_SERVER", &self.address).stdin(Stdio::null()).stdout(stdout);
        let status = Process(command.spawn()?).ended().await?;
        ensure!(status.success(), "`hydrant {}` ended with {status}", arguments.join(" "));
        Ok(())
    }
}

impl Process {
    /// Waits for the end without giving up the child: dropping the future drops and kills it.
    async fn ended(&mut self) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            tokio::time::sleep(POLL).await;
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

/// `hydrant` beside this program's folder, where cargo puts both.
fn binary() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().and_then(Path::parent).context("this program lies in no folder")?;
    let binary = folder.join("hydrant");
    ensure!(binary.is_file(), "there is no {}: build it with `cargo build --release`", binary.display());
    Ok(binary)
}

/// The server's first line, `grpc=HOST:PORT flight=… http=…`, says where it listens. Waits until it
/// is ready to be read from, and gives its gRPC address.
async fn ready_address(stdout: ChildStdout) -> Result<String> {
    let line = tokio::task::spawn_blocking(move || first_line(stdout)).await??;
    let address = |name: &str| line.split_whitespace().find_map(|part| part.strip_prefix(name));
    let addresses = address("grpc=").zip(address("http="));
    let (grpc, http) = addresses.with_context(|| format!("the server began with '{line}'"))?;
    while !is_ready(http)? {
        tokio::time::sleep(POLL).await;
    }
    Ok(grpc.to_owned())
}

fn is_ready(http: &str) -> Result<bool> {
    let mut connection = TcpStream::connect(http)?;
    write!(connection, "GET /readyz HTTP/1.0\r\n\r\n")?;
    Ok(first_line(connection)?.contains(" 200 "))
}

fn first_line(from: impl Read) -> Result<String> {
    let mut line = String::new();
    BufReader::new(from).read_line(&mut line)?;
    Ok(line)
}
