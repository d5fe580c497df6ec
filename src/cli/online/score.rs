//! `hydrant online score`: features for every row of a file, as of one instant: the keys go out
//! request by request, the answers come back as Arrow, piece by piece, and are written as they come.
//! No more of the file than one request is in memory.

mod summary;

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

use self::summary::Summary;
use crate::cli::catalog::Catalog;
use crate::cli::input::{ParquetInput, ParquetOutput, ReservedOutput, is_same_file};
use crate::cli::key_file::KeyFile;
use crate::cli::output::{self, Format};
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

    /// Read as of this instant (RFC 3339); if left out, the instant of the first answer holds for all
    /// rows
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

    /// Rows of one answer, 10,000 at most; 1,000 or what the server's bounds allow if left out. Give
    /// fewer where answers are too large
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

const MESSAGE_TOO_LARGE: &str = "MESSAGE_TOO_LARGE";

/// In the metadata of a refusal: the row of the request whose answer it stands for.
const FIRST_ROW: &str = "first_row";

/// After a stream that gave no row at least so long is waited, after the next in vain twice as long, and so on.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

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
    let mut scoring = ScoredFile::new(client, file, &args, Writing::Reserved(output));
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
    for warning in summary.warnings() {
        output::warn(&warning, args.format);
    }
    Ok(Done::Done)
}

/// The file that is written, from the first answer on.
enum Writing {
    Reserved(ReservedOutput),
    Begun(Box<ParquetOutput>),
    /// While a batch is being written.
    Away,
}

/// A file of keys on its way through a server.
struct ScoredFile {
    client: Client,
    file: KeyFile,
    request: v1::StreamOnlineFeaturesRequest,
    unpinned: bool,
    /// Statuses are asked for in any case, and written only if they are wanted.
    with_status: bool,
    /// Rows of one request, at most: fewer once the server has refused so many.
    request_rows: usize,
    /// The next row of the file.
    row: u64,
    output: Writing,
    schema: Option<SchemaRef>,
    summary: Summary,
}

impl ScoredFile {
    fn new(client: Client, file: KeyFile, args: &Args, output: Writing) -> Self {
        let request = v1::GetOnlineFeaturesRequest {
            services: vec![args.service.clone()],
            at: args.at,
            strict: args.strict,
            format: v1::AnswerFormat::ArrowIpc.into(),
            with_status: true,
            with_event_time: args.with_event_time,
            ..v1::GetOnlineFeaturesRequest::default()
        };
        let batch_size = args.batch_size.unwrap_or_default();
        let request = v1::StreamOnlineFeaturesRequest { request: Some(request), batch_size, unpinned: args.unpinned };
        let summary = Summary::new(args.unpinned);
        let (unpinned, with_status) = (args.unpinned, args.with_status);
        let request_rows = REQUEST_ROWS;
        Self { client, file, request, unpinned, with_status, request_rows, row: 0, output, schema: None, summary }
    }

    /// Gets the features of some rows and writes them. A refusal that says when to try again is waited
    /// out, and the stream goes on where it was. To begin a stream is a request of the tenant's quotas too, so where
    /// no row came of it longer is waited each time: or the quota would be used up by beginning.
    async fn score(&mut self, rows: &RecordBatch, bar: &indicatif::ProgressBar) -> Result<(), Failure> {
        let mut done = 0;
        let mut since = Instant::now();
        let mut least_pause = FIRST_PAUSE;
        loop {
            let before = done;
            let rest = rows.slice(done, self.request_rows.min(rows.num_rows() - done));
            let refusal = match self.stream(&rest, &mut done, bar).await? {
                ControlFlow::Continue(()) if done == rows.num_rows() => return Ok(()),
                ControlFlow::Continue(()) => {
                    since = Instant::now();
                    continue;
                }
                ControlFlow::Break(refusal) => refusal,
            };
            if is_of_request(&refusal) && rest.num_rows() > 1 {
                self.request_rows = rest.num_rows() / 2;
                continue;
            }
            if done > before {
                since = Instant::now();
                least_pause = FIRST_PAUSE;
            }
            let passes = matches!(refusal.code, Code::ResourceExhausted | Code::Unavailable);
            let pause = refusal.retry_after.map(|delay| delay.max(least_pause));
            least_pause = (least_pause * 2).min(LONGEST_PAUSE);
            match pause.filter(|pause| passes && since.elapsed() + *pause < PATIENCE) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(self.in_file(with_way_out(refusal))),
            }
        }
    }

    /// One request for some rows, which are added to those `done` as they are answered; why it ended
    /// before the last.
    async fn stream(
        &mut self,
        rest: &RecordBatch,
        done: &mut usize,
        bar: &indicatif::ProgressBar,
    ) -> Result<ControlFlow<Refusal>, Failure> {
        let keys = self.file.keys_of(rest, self.row)?;
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
        let places: Vec<usize> = service.columns.iter().map(|column| *column as usize).collect();
        let summary = &mut self.summary;
        summary.count_cells(&features, &places)?;
        summary.rows += rows.num_rows() as u64;
        summary.rows_from_history += u64::from(provenance.rows_from_history);
        summary.note_lacking(&provenance);
        (summary.service, summary.t) = (service.service, provenance.t);
        summary.registry_revision = provenance.registry_revision;
        let features = if self.with_status { features } else { without_statuses(&features, &places)? };
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
        failure.metadata.retain(|(key, _)| key != FIRST_ROW);
        if self.row > 0 {
            failure.message = format!("from row {} on: {}", output::count(self.row), failure.message);
        }
        failure.with("row", self.row)
    }
}

/// The column of a feature's statuses in an answer is the next after that of its values.
fn status_place(feature: usize) -> usize {
    feature + 1
}

fn without_statuses(features: &RecordBatch, places: &[usize]) -> Result<RecordBatch, Failure> {
    let statuses: Vec<usize> = places.iter().map(|place| status_place(*place)).collect();
    let others: Vec<usize> = (0..features.num_columns()).filter(|place| !statuses.contains(place)).collect();
    features.project(&others).map_err(unreadable)
}

/// Whether the request itself was larger than a message may be. A refusal of an answer tells its row.
fn is_of_request(refusal: &Refusal) -> bool {
    refusal.reason == MESSAGE_TOO_LARGE && !is_of_answer(refusal)
}

fn is_of_answer(refusal: &Refusal) -> bool {
    refusal.metadata.iter().any(|(key, _)| key == FIRST_ROW)
}

/// An answer that is too large, or takes too long, is one of too many rows.
fn with_way_out(refusal: Refusal) -> Failure {
    let smaller = is_of_answer(&refusal) && matches!(refusal.reason.as_str(), MESSAGE_TOO_LARGE | "DEADLINE_EXCEEDED");
    let failure = Failure::from(refusal);
    if smaller { failure.hint("ask for fewer rows in one answer, with --batch-size") } else { failure }
}

fn unreadable(told: impl std::fmt::Display) -> Failure {
    Failure::new("UNREADABLE_ANSWER", format!("the server's answer can't be read: {told}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(code: Code, reason: &str, of_answer: bool) -> Refusal {
        let mut refusal = Refusal::new(code, reason, "refused");
        refusal.metadata.extend(of_answer.then(|| (FIRST_ROW.to_owned(), "7".to_owned())));
        refusal
    }

    #[test]
    fn fewer_rows_are_the_way_out_where_an_answer_is_too_large_or_too_late() {
        for (code, reason, of_answer, told) in [
            (Code::ResourceExhausted, MESSAGE_TOO_LARGE, true, true),
            (Code::DeadlineExceeded, "DEADLINE_EXCEEDED", true, true),
            (Code::ResourceExhausted, MESSAGE_TOO_LARGE, false, false),
            (Code::DataLoss, "DAMAGED", true, false),
        ] {
            let refusal = refusal(code, reason, of_answer);
            assert_eq!(is_of_request(&refusal), reason == MESSAGE_TOO_LARGE && !of_answer);
            let hint = with_way_out(refusal).hint;
            assert_eq!(hint.is_some_and(|hint| hint.contains("--batch-size")), told, "{reason}");
        }
    }
}
