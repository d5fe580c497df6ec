//! Feast's feature server in a virtual environment of its own (`scripts/feast.sh`), and a client that
//! asks it by HTTP as a user's service would: JSON out, JSON in, decoded into typed columns.

use std::fs;
use std::hint::black_box;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::load::Outcome;
use super::machine::cpu_micros;
use super::process::{Process, free_address};
use super::views::{RequestKeys, ViewShape, Workload};

/// Connections, each with one request under way: a single process of Python answers.
const CONNECTIONS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(20);

pub struct FeastServer {
    address: String,
    process: Process,
    _folder: TempDir,
}

/// What Feast answers.
#[derive(Deserialize)]
struct Answer {
    results: Vec<Column>,
}

#[derive(Deserialize)]
struct Column {
    values: Vec<Cell>,
    statuses: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Cell {
    Float(f64),
    Vector(Vec<f32>),
}

/// The version that is installed, or that there is none.
pub fn version() -> String {
    let mut command = Command::new(python());
    let output = command.args(["-c", "import importlib.metadata as m; print(m.version('feast'))"]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    if text.is_empty() { "not installed".to_owned() } else { text }
}

fn python() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/feast/bin/python")
}

impl FeastServer {
    /// Defines the workloads' views, writes their rows by Feast itself, and serves.
    pub async fn start(workloads: &[Workload], redis_port: u16, keys: u64) -> Result<Self> {
        let python = python();
        ensure!(python.is_file(), "there is no {}: scripts/feast.sh makes it", python.display());
        let folder = tempfile::Builder::new().prefix("hydrant-bench-feast-").tempdir()?;
        let shape = |view: &ViewShape| json!({ "name": view.name, "key": view.key, "floats": view.floats, "vector": view.vector });
        let services: Map<String, Value> = workloads
            .iter()
            .map(|workload| (workload.service.to_owned(), workload.views.iter().map(shape).collect()))
            .collect();
        let views = folder.path().join("views.json");
        fs::write(&views, Value::Object(services).to_string())?;
        let address = free_address()?;
        let (_, port) = address.rsplit_once(':').context("an address has a port")?;
        let log = folder.path().join("feast.log");
        let mut command = Command::new(python);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/support/feast_server.py"));
        command.arg(&views).arg(folder.path()).args([&redis_port.to_string(), port, &keys.to_string()]);
        command.env("FEAST_USAGE", "False").stdout(Stdio::piped()).stderr(fs::File::create(&log)?);
        let mut process = Process::spawn(&mut command)?;
        let told = || fs::read_to_string(&log).unwrap_or_default();
        process.first_line().with_context(told)?;
        let listening = async {
            while TcpStream::connect(&address).is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, listening).await.context("it doesn't listen").with_context(told)?;
        Ok(Self { address, process, _folder: folder })
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Sends the requests over and over. The server's CPU is Feast's and that of its Redis.
    pub fn measure(
        &self,
        workload: &Workload,
        drawn: &[RequestKeys],
        duration: Duration,
        redis: u32,
    ) -> Result<Outcome> {
        let bodies: Vec<String> = drawn.iter().map(|keys| body(workload, keys)).collect();
        let own = std::process::id();
        let cpu = || anyhow::Ok((cpu_micros(self.id())? + cpu_micros(redis)?, cpu_micros(own)?));
        let (server_before, client_before) = cpu()?;
        let (begun, next) = (Instant::now(), AtomicU64::new(0));
        let work = || -> Result<Histogram<u64>> {
            let mut stream = BufReader::new(TcpStream::connect(&self.address)?);
            stream.get_ref().set_nodelay(true)?;
            let mut latency = Histogram::new_with_bounds(100, 120_000_000_000, 3)?;
            while begun.elapsed() < duration {
                let number = next.fetch_add(1, Ordering::Relaxed) as usize;
                let sent = Instant::now();
                let answer = ask(&mut stream, &self.address, &bodies[number % bodies.len()])?;
                check(&answer, workload)?;
                black_box(answer);
                latency.saturating_record(u64::try_from(sent.elapsed().as_nanos())?);
            }
            Ok(latency)
        };
        let latencies = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(work)).collect();
            workers.into_iter().map(|worker| worker.join().expect("no worker panics")).collect::<Result<Vec<_>>>()
        })?;
        let seconds = begun.elapsed().as_secs_f64();
        let (server_after, client_after) = cpu()?;
        let mut latency = Histogram::new_with_bounds(100, 120_000_000_000, 3)?;
        for of_worker in latencies {
            latency.add(of_worker)?;
        }
        Ok(Outcome {
            latency,
            errors: 0,
            first_error: None,
            seconds,
            server_cpu_micros: server_after - server_before,
            client_cpu_micros: client_after - client_before,
        })
    }
}

/// Feast wants as many keys of each entity as there are rows.
fn body(workload: &Workload, keys: &RequestKeys) -> String {
    let repeated = |keys: &Vec<u64>| -> Vec<u64> { keys.iter().cycle().take(workload.candidates).copied().collect() };
    let columns = workload.views.iter().zip(keys).map(|(view, keys)| (view.key.to_owned(), json!(repeated(keys))));
    let entities: Map<String, Value> = columns.collect();
    json!({ "feature_service": workload.service, "entities": entities }).to_string()
}

fn ask(stream: &mut BufReader<TcpStream>, address: &str, body: &str) -> Result<Answer> {
    let head = format!(
        "POST /get-online-features HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.get_mut().write_all([head.as_bytes(), body.as_bytes()].concat().as_slice())?;
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let status = line.trim().to_owned();
    let mut length = None;
    while line.trim_end() != "" {
        line.clear();
        ensure!(stream.read_line(&mut line)? > 0, "the connection was closed: {status}");
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = Some(value.trim().parse::<usize>()?);
        }
    }
    let mut answer = vec![0; length.context("an answer has a length")?];
    stream.read_exact(&mut answer)?;
    ensure!(status.contains(" 200 "), "{status}: {}", String::from_utf8_lossy(&answer));
    Ok(serde_json::from_slice(&answer)?)
}

/// All features of all rows, and every one PRESENT.
fn check(answer: &Answer, workload: &Workload) -> Result<()> {
    let features: usize = workload.views.iter().map(|view| view.feature_names().len()).sum();
    ensure!(answer.results.len() == features + workload.views.len(), "{} columns", answer.results.len());
    for column in &answer.results {
        let present = column.statuses.iter().all(|status| status == "PRESENT");
        ensure!(present && column.values.len() == workload.candidates, "an answer lacks values");
        let filled = column.values.iter().all(|cell| match cell {
            Cell::Float(value) => value.is_finite(),
            Cell::Vector(values) => !values.is_empty(),
        });
        ensure!(filled, "an answer has an empty value");
    }
    Ok(())
}
