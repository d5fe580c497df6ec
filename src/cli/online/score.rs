//! `hydrant online score`: features for every row of a file, as of one instant: the keys go out
//! request by request, the answers come back as Arrow, piece by piece, and are written as they come.
//! No more of the file than one request is in memory.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{Schema, SchemaRef};
use futures::StreamExt as _;
use hydrant_proto::v1;
use hydrant_storage::order::Micros;
use hydrant_storage::slices::slice_bytes;
use serde_json::{Map, Value as Json, json};

use crate::cli::catalog::Catalog;
use crate::cli::input::{ParquetInput, ParquetOutput, ReservedOutput, is_same_file};
use crate::cli::key_file::KeyFile;
use crate::cli::output::{self, Format, counted};
use crate::cli::{Done, Failure, Server, progress, time};
use crate::error::Code;
use crate::rpc::client::{Client, Refusal};
use crate::rpc::wire::columns::encode_column;
use crate::rpc::wire::ipc::decode_single_batch;

/// Get the features of every row of a file, as of one instant, into a file
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  hydrant online score --service delay_model --keys requests.parquet -o features.parquet"
)]
pub(super) struct Args {
    /// The feature service: NAME (its current version) or NAME@N
    #[arg(long, value_name = "SERVICE")]
    service: String,

    /// The rows to find features for: a Parquet file with the join keys, and whatever else
    #[arg(long, value_name = "FILE.parquet")]
    keys: PathBuf,

    /// Where to write: the file's columns as they were, then one per feature
    #[arg(short = 'o', long = "output", value_name = "OUT.parquet")]
    output: PathBuf,

    /// Read as of this instant (RFC 3339) instead of that of the first read
    #[arg(long, value_name = "TIME", value_parser = time::parse, conflicts_with = "unpinned")]
    at: Option<Micros>,

    /// Read the newest values in each piece, not all as of one instant: for views without history,
    /// and faster where much is written meanwhile
    #[arg(long)]
    unpinned: bool,

    /// Fail if any partition isn't ready or any row is damaged
    #[arg(long)]
    strict: bool,

    /// Add a column <feature>__status for each feature
    #[arg(long)]
    with_status: bool,

    /// Add a column <feature>__event_time for each feature
    #[arg(long)]
    with_event_time: bool,

    /// Rows that the server reads and answers at a time; if left out, 1,000 or what its bounds allow
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: Option<u32>,

    /// How to print what came out, and refusals
    #[arg(long, value_name = "FORMAT", default_value = "table", value_parser = output::table_or_json())]
    pub format: Format,
}

/// Rows of one request, at most.
const REQUEST_ROWS: usize = 16_384;

/// Bytes of the keys of one request, about: far below what a server takes.
const REQUEST_BYTES: usize = 4 << 20;

/// How long refusals that say when to try again are waited out, since the last answer.
const PATIENCE: Duration = Duration::from_secs(600);

/// The key under which it is kept in the file's metadata how its rows were read.
const NOTE: &str = "hydrant.online_read";

pub(super) async fn run(args: Args, server: &Server) -> Result<Done, Failure> {
    let started = Instant::now();
    let input = ParquetInput::open(&args.keys)?;
    // Before the reads, which may take long.
    if is_same_file(&args.keys, &args.output) {
        let refused = Failure::file(&args.output, "be written", &"it is the file of keys, which would be lost");
        return Err(refused.hint("name another file with -o"));
    }
    let output = ReservedOutput::new(&args.output)?;
    let client = server.connect().await?;
    let catalog = Catalog::load(&client, &args.service).await?;
    let file = KeyFile::of(input, &catalog)?;
    let total = file.input.rows();
    let bar = progress::rows("scoring", total);
    let mut batches = file.input.read_ahead(REQUEST_ROWS)?;
    let mut scoring = Scoring::new(client, file, &args, Writing::Reserved(output));
    if total == 0 {
        // The columns are told by an answer without rows.
        scoring.score(&RecordBatch::new_empty(scoring.file.input.schema().clone()), &bar).await?;
    }
    while let Some(batch) = batches.recv().await {
        let batch = batch?;
        let keys: usize = scoring.file.keys_of(&batch, scoring.row)?.iter().map(|(_, keys)| slice_bytes(keys)).sum();
        let rows = batch.num_rows().div_ceil(keys.div_ceil(REQUEST_BYTES).max(1)).max(1);
        for from in (0..batch.num_rows()).step_by(rows) {
            scoring.score(&batch.slice(from, rows.min(batch.num_rows() - from)), &bar).await?;
        }
    }
    bar.finish_and_clear();
    let summary = scoring.finish(total)?;
    let (path, elapsed) = (args.output.display().to_string(), started.elapsed());
    output::print_as(args.format, &summary.json(&path, elapsed), || summary.text(&path, elapsed))?;
    Ok(Done::Done)
}

/// The file that is written, from the first answer on.
enum Writing {
    Reserved(ReservedOutput),
    Begun(Box<ParquetOutput>),
    /// While a batch is being written.
    Away,
}

/// Files of keys on their way through a server.
struct Scoring {
    client: Client,
    file: KeyFile,
    request: v1::StreamOnlineFeaturesRequest,
    unpinned: bool,
    /// The next row of the file.
    row: u64,
    output: Writing,
    schema: Option<SchemaRef>,
    summary: Summary,
}

/// What came out.
#[derive(Clone, Debug, Default)]
struct Summary {
    service: String,
    /// As of when; of unpinned reads, the last one.
    t: Micros,
    unpinned: bool,
    registry_revision: u64,
    rows: u64,
    rows_from_history: u64,
    /// Cells without a value, by feature.
    nulls: Vec<(String, u64)>,
}

impl Scoring {
    fn new(client: Client, file: KeyFile, args: &Args, output: Writing) -> Self {
        let request = v1::GetOnlineFeaturesRequest {
            services: vec![args.service.clone()],
            at: args.at,
            strict: args.strict,
            format: v1::AnswerFormat::ArrowIpc.into(),
            with_status: args.with_status,
            with_event_time: args.with_event_time,
            ..v1::GetOnlineFeaturesRequest::default()
        };
        let batch_size = args.batch_size.unwrap_or_default();
        let request = v1::StreamOnlineFeaturesRequest { request: Some(request), batch_size, unpinned: args.unpinned };
        let summary = Summary { unpinned: args.unpinned, ..Summary::default() };
        Self { client, file, request, unpinned: args.unpinned, row: 0, output, schema: None, summary }
    }

    /// Gets the features of some rows and writes them. A refusal that says when to try again is waited
    /// out, and the stream goes on where it was.
    async fn score(&mut self, rows: &RecordBatch, bar: &indicatif::ProgressBar) -> Result<(), Failure> {
        let mut done = 0;
        let mut since = Instant::now();
        loop {
            let before = done;
            let refusal = match self.stream(rows, &mut done, bar).await? {
                ControlFlow::Continue(()) => return Ok(()),
                ControlFlow::Break(refusal) => refusal,
            };
            if done > before {
                since = Instant::now();
            }
            let passes = matches!(refusal.code, Code::ResourceExhausted | Code::Unavailable);
            match refusal.retry_after.filter(|delay| passes && since.elapsed() + *delay < PATIENCE) {
                Some(delay) => tokio::time::sleep(delay).await,
                None => return Err(self.in_file(refusal.into())),
            }
        }
    }

    /// One request for the rows that are not `done`; why it ended before them.
    async fn stream(
        &mut self,
        rows: &RecordBatch,
        done: &mut usize,
        bar: &indicatif::ProgressBar,
    ) -> Result<ControlFlow<Refusal>, Failure> {
        let rest = rows.slice(*done, rows.num_rows() - *done);
        let keys = self.file.keys_of(&rest, self.row)?;
        let mut request = self.request.clone();
        let entities = keys.iter().map(|(name, keys)| encode_column(name, keys)).collect::<Result<_, _>>()?;
        request.request.get_or_insert_default().entities = entities;
        let mut answers = match self.client.stream_online_features(request).await {
            Ok(answers) => answers,
            Err(refusal) => return Ok(ControlFlow::Break(refusal)),
        };
        let mut answered = 0;
        while let Some(answer) = answers.next().await {
            let answer = match answer {
                Ok(answer) => answer,
                Err(refusal) => return Ok(ControlFlow::Break(refusal)),
            };
            let count = answer.rows as usize;
            if usize::try_from(answer.first_row) != Ok(answered) || answered + count > rest.num_rows() {
                return Err(unreadable("its rows are not those that were asked for"));
            }
            self.take(&rest.slice(answered, count), answer).await?;
            answered += count;
            *done += count;
            self.row += count as u64;
            bar.set_position(self.row);
        }
        match answered == rest.num_rows() {
            true => Ok(ControlFlow::Continue(())),
            false => Err(unreadable("it ended before the last row")),
        }
    }

    /// Writes some rows and what was answered to them.
    async fn take(&mut self, rows: &RecordBatch, answer: v1::GetOnlineFeaturesResponse) -> Result<(), Failure> {
        let features = decode_single_batch(&answer.arrow_ipc, u64::MAX, u64::MAX).map_err(unreadable)?;
        if features.num_rows() != rows.num_rows() {
            return Err(unreadable("its batch has another number of rows than it says"));
        }
        let provenance = answer.provenance.unwrap_or_default();
        if !self.unpinned {
            // Those that follow are as of the same instant.
            self.request.request.get_or_insert_default().at = Some(provenance.t);
        }
        let service = answer.services.into_iter().next().unwrap_or_default();
        // And of the same version.
        self.request.request.get_or_insert_default().services = vec![service.service.clone()];
        let places = service.columns.iter().map(|column| *column as usize);
        let summary = &mut self.summary;
        if summary.nulls.is_empty() {
            let names = places.clone().filter_map(|place| features.schema_ref().fields().get(place));
            summary.nulls = names.map(|field| (field.name().clone(), 0)).collect();
        }
        for ((_, nulls), place) in summary.nulls.iter_mut().zip(places) {
            *nulls += features.columns().get(place).map_or(0, |column| column.null_count() as u64);
        }
        summary.rows += rows.num_rows() as u64;
        summary.rows_from_history += u64::from(provenance.rows_from_history);
        (summary.service, summary.t) = (service.service, provenance.t);
        summary.registry_revision = provenance.registry_revision;
        let batch = self.beside(rows, &features)?;
        self.write(batch).await
    }

    /// The rows of the file with their features, without the keys that the answer repeats.
    fn beside(&mut self, rows: &RecordBatch, features: &RecordBatch) -> Result<RecordBatch, Failure> {
        let keys = self.file.names();
        let schema = features.schema();
        let added = schema.fields().iter().zip(features.columns()).filter(|(field, _)| !keys.contains(field.name()));
        let (fields, columns): (Vec<_>, Vec<ArrayRef>) =
            added.map(|(field, column)| (field.clone(), column.clone())).unzip();
        if let Some(taken) = fields.iter().find(|field| rows.schema_ref().column_with_name(field.name()).is_some()) {
            let (path, name) = (self.file.input.path().display(), taken.name());
            let message = format!("{path}: column '{name}' has the name of an output column");
            let refused = Failure::new("COLUMN_TAKEN", message).with("file", path).with("column", name);
            return Err(refused.hint("rename it in the file"));
        }
        let written = self.schema.get_or_insert_with(|| {
            let fields: Vec<_> = rows.schema_ref().fields().iter().cloned().chain(fields).collect();
            Arc::new(Schema::new_with_metadata(fields, rows.schema_ref().metadata().clone()))
        });
        let columns = rows.columns().iter().cloned().chain(columns).collect();
        RecordBatch::try_new(written.clone(), columns).map_err(unreadable)
    }

    async fn write(&mut self, batch: RecordBatch) -> Result<(), Failure> {
        let output = match std::mem::replace(&mut self.output, Writing::Away) {
            Writing::Reserved(output) => output.begin(batch.schema_ref())?,
            Writing::Begun(output) => *output,
            Writing::Away => return Err(Failure::new("INTERNAL", "the file is being written already")),
        };
        self.output = Writing::Begun(Box::new(output.write_apart(batch).await?));
        Ok(())
    }

    fn finish(self, total: u64) -> Result<Summary, Failure> {
        if self.summary.rows != total {
            let message = format!("the file has {total} rows, and {} were answered", self.summary.rows);
            return Err(Failure::new("ROWS_MISSING", message));
        }
        match self.output {
            Writing::Begun(output) => output.finish(vec![(NOTE, self.summary.note().to_string())])?,
            Writing::Reserved(_) | Writing::Away => return Err(Failure::new("ROWS_MISSING", "nothing was answered")),
        }
        Ok(self.summary)
    }

    /// Says which rows of the file a refusal is about.
    fn in_file(&self, mut failure: Failure) -> Failure {
        failure.metadata.retain(|(key, _)| key != "first_row");
        if self.row > 0 {
            failure.message = format!("from row {} on: {}", output::count(self.row), failure.message);
        }
        failure.with("row", self.row)
    }
}

impl Summary {
    /// What is kept in the file, and told to programs.
    fn note(&self) -> Json {
        json!({
            "service": self.service, "t": time::show(self.t), "unpinned": self.unpinned,
            "registry_revision": self.registry_revision, "rows": self.rows,
            "rows_from_history": self.rows_from_history,
        })
    }

    fn json(&self, path: &str, elapsed: Duration) -> Json {
        let nulls: Map<String, Json> =
            self.nulls.iter().map(|(feature, nulls)| (feature.clone(), json!(nulls))).collect();
        let mut json = json!({"file": path, "seconds": elapsed.as_secs_f64()});
        if let (Json::Object(json), Json::Object(note)) = (&mut json, self.note()) {
            json.extend(note);
            json.insert("nulls".to_owned(), Json::Object(nulls));
        }
        json
    }

    fn text(&self, path: &str, elapsed: Duration) -> String {
        let instant = if self.unpinned { "each as of its own instant, the last" } else { "as of" };
        let mut text = format!(
            "{path}: {}\n{}, {instant} {}, registry revision {}\n",
            output::rows_in(self.rows, elapsed),
            self.service,
            time::show(self.t),
            self.registry_revision,
        );
        if self.rows_from_history > 0 {
            text.push_str(&format!("{} from history\n", counted(self.rows_from_history, "key")));
        }
        text.push('\n');
        text.push_str(&output::nulls(self.nulls.iter().map(|(name, nulls)| (name.as_str(), *nulls)), self.rows));
        text
    }
}

fn unreadable(told: impl std::fmt::Display) -> Failure {
    Failure::new("UNREADABLE_ANSWER", format!("the server's answer can't be read: {told}"))
}
