//! `hydrant serve` as a process of its own: started on free ports, waited for until it serves, killed
//! or stopped. Nothing here looks into what it stores, and nothing sleeps: that a server serves is
//! told by its health service, and that it has ended by the kernel.

#![allow(dead_code, reason = "several test programs share this, and each uses a part")]

use std::fmt;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use hydrant::rpc::client::Client;
use tokio::time::timeout;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// The longest that a server may take to start, to replay its log, or to stop.
pub const PATIENCE: Duration = Duration::from_secs(60);

const LOG: &str = "server.log";
const CONFIG: &str = "server.toml";

/// Bytes of a server's log that are shown when something fails.
const LOG_SHOWN: usize = 6_000;

/// How servers of one data directory are started: one after the other, each in `folder`.
#[derive(Clone, Debug)]
pub struct Setup {
    folder: PathBuf,
    config: String,
    file_limit: Option<u64>,
    environment: Vec<(&'static str, &'static str)>,
}

impl Setup {
    /// In `folder` lie the data directory, the configuration and the log of its servers.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), config: String::new(), file_limit: None, environment: Vec::new() }
    }

    /// TOML, beside the defaults.
    #[must_use]
    pub fn config(mut self, toml: &str) -> Self {
        self.config = toml.to_owned();
        self
    }

    /// A variable of its environment.
    #[must_use]
    pub fn variable(mut self, name: &'static str, value: &'static str) -> Self {
        self.environment.push((name, value));
        self
    }

    /// No file may grow beyond so many bytes, until [`ServerProcess::lift_file_limit`] is called:
    /// what lies behind a full disk, for a process that may not mount a small one.
    #[must_use]
    pub fn file_limit(mut self, bytes: u64) -> Self {
        self.file_limit = Some(bytes);
        self
    }

    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Starts a server and waits until it says where it listens; its partitions may still be opening.
    #[track_caller]
    pub fn spawn(&self) -> ServerProcess {
        match self.try_spawn() {
            Ok(server) => server,
            Err(log) => panic!("the server did not start:\n{log}"),
        }
    }

    /// Starts a server and waits until it serves.
    pub async fn start(&self) -> ServerProcess {
        let server = self.spawn();
        server.wait_serving().await;
        server
    }

    /// What a server says that can't start; its exit code is 1.
    #[track_caller]
    pub fn refusal(&self) -> String {
        match self.try_spawn() {
            Ok(server) => panic!("the server started at {}", server.grpc()),
            Err(log) => log,
        }
    }

    /// `Err` with its log where the server ended before it told its ports.
    #[track_caller]
    fn try_spawn(&self) -> Result<ServerProcess, String> {
        std::fs::create_dir_all(&self.folder).expect("a folder");
        let config = self.folder.join(CONFIG);
        std::fs::write(&config, &self.config).expect("written");
        let log = self.folder.join(LOG);
        let mut command = self.program();
        command.envs(self.environment.iter().copied());
        command.arg("serve").arg("--data-dir").arg(self.data()).arg("--config").arg(&config);
        command.args(["--grpc-addr", "127.0.0.1:0", "--flight-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log).expect("created"));
        let mut process = Process(command.spawn().expect("the binary runs"));
        let mut line = String::new();
        let stdout = process.0.stdout.take().expect("it is piped");
        // Ends with the line, or with the process.
        BufReader::new(stdout).read_line(&mut line).expect("text");
        let address = |name: &str| {
            let of_name =
                |part: &str| part.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')).map(str::to_owned);
            line.split_whitespace().find_map(of_name)
        };
        let (Some(grpc), Some(flight), Some(http)) = (address("grpc"), address("flight"), address("http")) else {
            let status = process.0.wait().expect("a child");
            let log = read_log(&log);
            assert_eq!(status.code(), Some(1), "{log}");
            return Err(log);
        };
        Ok(ServerProcess { process, grpc, flight, http, log })
    }

    fn program(&self) -> Command {
        let binary = env!("CARGO_BIN_EXE_hydrant");
        let Some(bytes) = self.file_limit else { return Command::new(binary) };
        // The soft limit only, in blocks of 512 bytes; a write beyond it is to fail and not to kill.
        let mut command = Command::new("sh");
        let limited = format!("trap '' XFSZ; ulimit -S -f {} && exec \"$0\" \"$@\"", bytes / 512);
        command.arg("-c").arg(limited).arg(binary);
        command
    }
}

/// A running server. Dropping it kills it.
pub struct ServerProcess {
    process: Process,
    grpc: String,
    flight: String,
    http: String,
    log: PathBuf,
}

impl ServerProcess {
    /// `HOST:PORT`, as are the others.
    pub fn grpc(&self) -> &str {
        &self.grpc
    }

    pub fn flight(&self) -> &str {
        &self.flight
    }

    pub fn http(&self) -> &str {
        &self.http
    }

    pub async fn client(&self) -> Client {
        match Client::connect(&self.grpc).await {
            Ok(client) => client,
            Err(error) => panic!("{error}\n{}", self.log()),
        }
    }

    /// Waits until every partition can be read.
    pub async fn wait_serving(&self) {
        let mut health = HealthClient::new(self.client().await.channel());
        let serving = async {
            let request = HealthCheckRequest { service: String::new() };
            let mut states = health.watch(request).await.ok()?.into_inner();
            while let Some(state) = states.message().await.ok()? {
                if state.status() == ServingStatus::Serving {
                    return Some(());
                }
            }
            None
        };
        if !matches!(timeout(PATIENCE, serving).await, Ok(Some(()))) {
            panic!("the server does not serve:\n{}", self.log());
        }
    }

    /// kill -9; the process is gone when this returns.
    pub fn kill(mut self) {
        self.process.kill();
    }

    /// What another task kills it by.
    pub fn id(&self) -> u32 {
        self.process.0.id()
    }

    /// Whether it is still there.
    pub fn is_running(&mut self) -> bool {
        self.process.0.try_wait().expect("a child").is_none()
    }

    /// Stops it as an operator would; it has to end in order.
    pub async fn stop(self) {
        let log = self.log.clone();
        send_signal("TERM", self.id());
        let ended = tokio::task::spawn_blocking(move || self.process.into_status());
        match timeout(PATIENCE, ended).await {
            Ok(Ok(status)) => assert!(status.success(), "the server stopped with {status}:\n{}", read_log(&log)),
            _ => panic!("the server does not stop:\n{}", read_log(&log)),
        }
    }

    /// From now on files may grow as they like.
    pub fn lift_file_limit(&self) {
        self.limit_files("unlimited");
    }

    /// From now on no file may grow beyond so many bytes. The server must have been started with a
    /// limit, so that a write beyond it fails and does not kill.
    pub fn set_file_limit(&self, bytes: u64) {
        self.limit_files(&bytes.to_string());
    }

    fn limit_files(&self, limit: &str) {
        let mut command = Command::new("prlimit");
        let output = command.arg("--pid").arg(self.id().to_string()).arg(format!("--fsize={limit}:")).output();
        let output = output.expect("prlimit runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// The end of what it has written on stderr.
    pub fn log(&self) -> String {
        read_log(&self.log)
    }
}

impl fmt::Debug for ServerProcess {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ServerProcess").field("grpc", &self.grpc).finish_non_exhaustive()
    }
}

/// A child that doesn't outlive its owner.
struct Process(Child);

impl Process {
    fn kill(&mut self) {
        // It has ended by itself, or ends now.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    fn into_status(mut self) -> ExitStatus {
        self.0.wait().expect("a child")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a command of the command line to its end.
pub fn hydrant(server: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hydrant"));
    command.args(arguments).env("HYDRANT_SERVER", server).stdin(Stdio::null()).output().expect("the binary runs")
}

pub fn send_signal(name: &str, process: u32) {
    // Built into every shell, where `kill` as a program is not on every machine.
    let sent = Command::new("sh").arg("-c").arg(format!("kill -{name} {process}")).status().expect("sh runs");
    assert!(sent.success(), "the process can't be told");
}

fn read_log(path: &Path) -> String {
    let log = std::fs::read(path).unwrap_or_default();
    let shown = &log[log.len().saturating_sub(LOG_SHOWN)..];
    String::from_utf8_lossy(shown).into_owned()
}
