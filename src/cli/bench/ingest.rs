//! `hydrant bench ingest`: writes at given rates, each acknowledged when it is durable. The rows go
//! into the source for good, so it asks to be told that this is meant.

use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::RecordBatch;
use bytes::Bytes;
use hydrant_proto::v1::{self, ingest_response::Outcome};
use hydrant_storage::cast::to_exact;
use serde_json::json;

use super::super::ingest::source_spec;
use super::super::input::ParquetInput;
use super::super::output::{ResultOutput, count, counted};
use super::super::{Done, Failure, Server, time};
use super::drive::Drivers;
use super::online::reply_of;
use super::options::LoadOptions;
use super::page::PageFile;
use super::process::ServerProcess;
use super::results::{Counted, Results};
use super::{Interrupt, finish, steps};
use crate::bench::load::Target;
use crate::bench::tally::{Answer, KINDS, Reply};
use crate::clock::{Clock as _, SystemClock};
use crate::registry::definition::{Kind, SourceSpec};
use crate::rpc::client::Refusal;
use crate::rpc::client::lean::{LeanClient, Method, decode_write, encode_write};
use crate::rpc::wire::columns::encode_column;

/// Write a file's rows into a source at fixed rates, over and over; the rows stay
#[derive(Debug, clap::Args)]
#[command(
    mut_arg("rate", |arg| arg.help("Rows a second, in batches sent at even distances whatever the server does")),
    mut_arg("find_rate", |arg| arg.help("Find the highest rate that the server keeps up, then write at 25, 50, 75 and 150 % of it")),
    after_help = "Examples:\n  \
    hydrant bench ingest weather weather.parquet --batch 100 --rate 20000 --write\n  \
    hydrant bench ingest weather weather.parquet --batch 1 --rates 1000,2000,4000 --write --report ingest.html\n\n\
    The rows are written into the source, again and again, and stay there: name a source that is there to be measured.\n\
    Ctrl-C ends the measuring and prints what was measured so far."
)]
pub struct Args {
    /// The source that the rows are written into
    source: String,

    /// The rows to write: the first million of the file, then again from the first
    #[arg(value_name = "FILE.parquet")]
    file: PathBuf,

    /// Rows of one request
    #[arg(long, value_name = "ROWS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch: u32,

    /// Yes, write rows into the source
    #[arg(long)]
    write: bool,

    /// Measure until the rows can be read online, not only until they are durable
    #[arg(long)]
    wait_visible: bool,

    #[command(flatten)]
    load: LoadOptions,

    #[command(flatten)]
    pub output: ResultOutput,
}

/// Rows that are held in memory, encoded, and their bytes, at most.
const MAX_ROWS: usize = 1_000_000;
const MAX_BYTES: usize = 256 << 20;

pub(super) async fn run(args: Args, server: &Server, interrupt: &Interrupt) -> Result<Done, Failure> {
    args.load.check()?;
    if !args.write {
        let message = format!(
            "this writes the rows of {} into source '{}' over and over, and they stay there",
            args.file.display(),
            args.source
        );
        return Err(Failure::new("WRITE_NOT_CONFIRMED", message).hint("add --write if that is meant"));
    }
    let page = PageFile::begin(args.load.report.as_ref())?;
    let input = ParquetInput::open(&args.file)?;
    let client = server.connect().await?;
    let info = client.server_info().await?;
    let server_process = ServerProcess::find(args.load.server_pid, server.address())?;
    let source = source_spec(client.get_definition(Kind::Source, &args.source).await?)?;
    let requests: Arc<[Bytes]> = args.requests(&input, &source)?.into();

    let (remote, load) = (server.remote.clone(), args.load.clone());
    let writes = requests.clone();
    let connect = move || {
        let (remote, writes) = (remote.clone(), writes.clone());
        let connections = usize::from(load.connections.div_ceil(load.threads));
        let deadline = load.deadline.map(|deadline| deadline.duration());
        async move {
            let client = LeanClient::connect(&remote, connections, deadline).await?;
            Ok(Writes { client, requests: writes })
        }
    };
    // What the server refuses of the file, it tells at once.
    connect().await?.write(0).await?;

    let began = time::show(SystemClock.now());
    let mut drivers = Drivers::start(args.load.threads, connect, server_process, interrupt).await?;
    let measured = steps::measure(&args.load, &mut drivers, args.batch.into()).await?;
    let mut settings = args.load.settings();
    settings["source"] = json!(args.source);
    settings["file"] = json!(args.file.display().to_string());
    settings["batch_rows"] = json!(args.batch);
    settings["distinct_requests"] = json!(requests.len());
    settings["wait_visible"] = json!(args.wait_visible);
    let until = if args.wait_visible { "until it can be read" } else { "until it is durable" };
    let results = Results {
        benchmark: "ingest",
        title: format!("Writes into {}", args.source),
        began,
        server: json!({"address": server.address(), "version": info.version}),
        settings,
        described: format!(
            "{} a request, each {until}, {}",
            counted(args.batch.into(), "row"),
            counted(args.load.connections.into(), "connection"),
        ),
        counted: Counted::Rows { per_request: args.batch.into() },
        measured,
        notes: Vec::new(),
    };
    finish(&results, page, args.output.format)
}

impl Args {
    /// The file's rows in whole batches, encoded.
    fn requests(&self, input: &ParquetInput, source: &SourceSpec) -> Result<Vec<Bytes>, Failure> {
        let rows = usize::try_from(self.batch).unwrap_or(usize::MAX);
        let mut requests: Vec<Bytes> = Vec::new();
        let mut bytes = 0;
        for batch in input.batches(rows, None)? {
            let batch = batch?;
            if batch.num_rows() < rows || bytes >= MAX_BYTES || requests.len() * rows >= MAX_ROWS {
                break;
            }
            let request = encode_write(&self.request(&batch, source)?);
            bytes += request.len();
            requests.push(request);
        }
        if requests.is_empty() {
            let message = format!(
                "{}: it has {}, fewer than one batch of {}",
                input.path().display(),
                counted(input.rows(), "row"),
                count(self.batch.into())
            );
            return Err(Failure::new("BAD_LOAD", message).hint("name a larger file, or a smaller --batch"));
        }
        Ok(requests)
    }

    /// The columns that the source declares; the server says what is missing.
    fn request(&self, batch: &RecordBatch, source: &SourceSpec) -> Result<v1::IngestRequest, Failure> {
        let mut columns = Vec::new();
        for declared in &source.columns {
            let name = declared.name.as_str();
            let Some(column) = batch.column_by_name(name) else { continue };
            let wrong = |message: String| {
                Failure::new("BAD_COLUMNS", format!("{}: column '{name}': {message}", self.file.display()))
                    .with("file", self.file.display())
            };
            let exact = to_exact(column, declared.data_type).map_err(|error| wrong(error.to_string()))?;
            if let Some(misfit) = exact.misfits.first() {
                return Err(wrong(format!("row {} of a batch: {}", misfit.row, misfit.reason)));
            }
            columns.push(encode_column(name, &exact.array)?);
        }
        let rows = Some(v1::ingest_request::Rows::Columns(v1::Columns { columns }));
        let wait_visible = self.wait_visible;
        Ok(v1::IngestRequest { source: self.source.clone(), rows, wait_visible, ..Default::default() })
    }
}

/// Batches that are sent over and over.
#[derive(Clone, Debug)]
struct Writes {
    client: LeanClient,
    requests: Arc<[Bytes]>,
}

impl Writes {
    async fn write(&self, number: u64) -> Result<Answer, Refusal> {
        let index = usize::try_from(number % self.requests.len() as u64).unwrap_or_default();
        let answer = self.client.call(number, Method::Ingest, self.requests[index].clone()).await?;
        let bytes = answer.len() as u64;
        let answer = decode_write(answer)?;
        let mut counts = [0; KINDS];
        counts[usize::from(answer.outcome() == Outcome::AlreadyApplied)] = answer.rows;
        Ok(Answer { bytes, counts, partial: false })
    }
}

impl Target for Writes {
    async fn call(&self, number: u64) -> Reply {
        match self.write(number).await {
            Ok(answer) => Reply::Answered(answer),
            Err(refusal) => reply_of(refusal),
        }
    }
}
