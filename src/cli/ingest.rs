//! `hydrant ingest`: Parquet files into a source. Every file is checked whole before the first row
//! is sent; the same file twice changes nothing; it ends once the rows can be read.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray as _;
use arrow_array::types::TimestampMicrosecondType;
use arrow_ipc::writer::StreamWriter;
use futures::StreamExt as _;
use hydrant_proto::v1::{self, ingest_response::Outcome};
use hydrant_storage::order::Micros;
use hydrant_storage::value::ScalarType;
use serde_json::{Value as Json, json};
use tokio_stream::wrappers::ReceiverStream;
use xxhash_rust::xxh3::Xxh3;

use super::backfill::{SourceFormat, wanted};
use super::input::ParquetInput;
use super::output::{self, Format, ResultOutput, counted};
use super::{Done, Failure, Server, definitions, progress, time};
use crate::error::{Code, Violation};
use crate::registry::definition::{Kind, KnownTimeRule, SourceSpec, Spec};
use crate::rpc::client::{Client, Refusal};
use crate::rpc::wire::definitions::{decode_known_time, encode_known_time, encode_request_known_time};
use crate::rpc::wire::retention::text_of_what_is_too_old;

/// Load Parquet files into a source
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  hydrant ingest weather weather.parquet\n  hydrant ingest weather 2012.parquet 2013.parquet --known event --ignore-extra"
)]
pub struct Args {
    /// The source that the rows belong to
    source: String,

    /// Parquet files, folders of them and Delta tables, here or at s3://, gs://, az:// or abfss:// URLs
    #[arg(required = true, value_name = "PATH-OR-URL")]
    locations: Vec<String>,

    /// What a location holds; unless given, a folder with _delta_log in it is a Delta table, and
    /// everything else is Parquet
    #[arg(long, value_enum, value_name = "FORMAT")]
    source_format: Option<SourceFormat>,

    /// The version of a Delta table, instead of its newest
    #[arg(long, value_name = "N")]
    delta_version: Option<u64>,

    /// When the rows count as known, instead of what the source says:
    /// event (when they happened), event+10m, column:NAME, or arrival (now)
    #[arg(long, value_name = "RULE", value_parser = decode_known_time)]
    known: Option<KnownTimeRule>,

    /// Leave out columns that the source doesn't declare
    #[arg(long)]
    ignore_extra: bool,

    /// Take files again that were ingested before, such as for a view that is newer than that. The
    /// label names this load: under the same label a file is taken once
    #[arg(long, value_name = "LABEL")]
    again: Option<String>,

    #[command(flatten)]
    pub output: ResultOutput,
}

/// What holds after an ingest that was cut off.
pub(super) const GO_ON: &str = "run the same command again: it goes on where it was, and takes no row twice";

/// Rows of one request, at most.
const MAX_BATCH_ROWS: u64 = 10_000;

/// Bytes of one request's values, about: well under what a server takes by default.
const BATCH_BYTES: u64 = 4 << 20;

/// Bad rows that are named; a server names as many of one request.
const MAX_NAMED: usize = 20;

/// Rows that happened longer ago than this are history, not news.
const OLD: Micros = 86_400 * 1_000_000;

pub(super) async fn run(args: Args, server: &Server) -> Result<Done, Failure> {
    let files = ParquetInput::open_all(&args.locations, wanted(args.source_format, args.delta_version)).await?;
    let client = server.connect().await?;
    let definition = client.get_definition(Kind::Source, &args.source).await?;
    let now = client.server_info().await?.store_time;
    let source = source_spec(definition)?;
    let Args { source: name, known, ignore_extra, again, .. } = args;
    let sender = Sender { client, now, source: name, spec: source, known, ignore_extra, again };

    let mut old_rows = Vec::new();
    for file in &files {
        old_rows.push(sender.check(file).await?);
    }
    sender.warn_of_old_rows(&files, &old_rows, args.output.format);
    let mut reports = Vec::new();
    for file in &files {
        let report = sender.send(file).await?;
        if args.output.format == Format::Table {
            output::print(&report.text())?;
        }
        reports.push(report);
    }
    if args.output.format == Format::Json {
        output::print_json(&json!({"files": reports.iter().map(Report::json).collect::<Vec<_>>()}))?;
    }
    Ok(Done::Done)
}

/// Sends files into one source.
struct Sender {
    client: Client,
    /// Store time when the command began.
    now: Micros,
    source: String,
    spec: SourceSpec,
    known: Option<KnownTimeRule>,
    ignore_extra: bool,
    /// Names another load of files that were ingested before.
    again: Option<String>,
}

/// What became of one file.
#[derive(Debug, Default)]
struct Report {
    file: PathBuf,
    source: String,
    rows: u64,
    applied: u64,
    seconds: f64,
    /// Summed up over its requests.
    views: Vec<v1::ViewRows>,
}

impl Sender {
    /// Has the server check every row of a file, without writing any. Tells how many rows
    /// happened long ago.
    async fn check(&self, file: &ParquetInput) -> Result<u64, Failure> {
        let bar = progress::rows(&format!("checking {}", file_name(file.path())), file.rows());
        let mut batches = file.read_ahead(batch_rows(file))?;
        let (mut first_row, mut old_rows) = (0, 0);
        let mut bad = BadRows::default();
        while let Some(batch) = batches.recv().await {
            let batch = batch?;
            let rows = batch.num_rows() as u64;
            old_rows += self.old_rows(&batch);
            let request = v1::IngestRequest { validate_only: true, ..self.request(file.path(), &batch)? };
            if let Err(error) = self.client.ingest(request).await {
                bad.take(with_way_on(error), first_row).map_err(|failure| in_file(failure, file.path()))?;
            }
            first_row += rows;
            bar.inc(rows);
        }
        bar.finish_and_clear();
        bad.refusal(file, &self.source).map_or(Ok(old_rows), Err)
    }

    /// Sends a file that was checked, and waits until its last row can be read.
    async fn send(&self, file: &ParquetInput) -> Result<Report, Failure> {
        let started = Instant::now();
        let bar = progress::rows(&format!("ingesting {}", file_name(file.path())), file.rows());
        let producer = self.producer(file)?;
        let requests = self.requests(file, producer)?;
        let answers = self.client.ingest_stream(ReceiverStream::new(requests.requests)).await;
        let mut answers = answers.map_err(with_way_on)?;
        let mut report = Report { file: file.path().to_owned(), source: self.source.clone(), ..Report::default() };
        while let Some(answer) = answers.next().await {
            let answer = answer.map_err(|error| in_file(with_way_on(error), file.path()))?;
            report.take(&answer);
            bar.set_position(report.rows);
        }
        // To the server, a file that broke off looks like one that ended.
        requests.reader.await.map_err(|error| Failure::new("INTERNAL", format!("reading ended early: {error}")))??;
        bar.finish_and_clear();
        report.seconds = started.elapsed().as_secs_f64();
        Ok(report)
    }

    /// The file's requests, made on a thread of their own, a few ahead of the connection.
    fn requests(&self, file: &ParquetInput, producer: String) -> Result<Requests, Failure> {
        let mut batches = file.batches(batch_rows(file), None)?.peekable();
        let template = self.template();
        let path = file.path().to_owned();
        let (sender, requests) = tokio::sync::mpsc::channel(2);
        let reader = tokio::task::spawn_blocking(move || {
            let mut sequence = 0;
            while let Some(batch) = batches.next() {
                sequence += 1;
                let request = v1::IngestRequest {
                    rows: Some(v1::ingest_request::Rows::ArrowIpc(ipc(&path, &batch?)?)),
                    producer: producer.clone(),
                    sequence,
                    // The log is applied in order: once the last rows can be read, so can all.
                    wait_visible: batches.peek().is_none(),
                    ..template.clone()
                };
                if sender.blocking_send(request).is_err() {
                    // The stream has ended, with an answer that says why.
                    return Ok(());
                }
            }
            Ok(())
        });
        Ok(Requests { requests, reader })
    }

    fn request(&self, path: &Path, batch: &RecordBatch) -> Result<v1::IngestRequest, Failure> {
        let rows = Some(v1::ingest_request::Rows::ArrowIpc(ipc(path, batch)?));
        Ok(v1::IngestRequest { rows, ..self.template() })
    }

    fn template(&self) -> v1::IngestRequest {
        v1::IngestRequest {
            source: self.source.clone(),
            known_time: self.known.as_ref().map(encode_request_known_time),
            ignore_extra: self.ignore_extra,
            ..v1::IngestRequest::default()
        }
    }

    /// The producer's id: the same for the same columns of the same rows under the same rule and
    /// label, so that they are taken once.
    fn producer(&self, file: &ParquetInput) -> Result<String, Failure> {
        let known = encode_known_time(self.known.as_ref().unwrap_or(&self.spec.known_time));
        let columns: Vec<&str> = self.spec.columns.iter().map(|column| column.name.as_str()).collect();
        let label = self.again.as_deref().unwrap_or_default();
        let parts = format!(
            "{}\0{:032x}\0{known}\0{}\0{}\0{label}",
            self.source,
            file.content_hash()?,
            batch_rows(file),
            columns.join(","),
        );
        let mut hasher = Xxh3::new();
        hasher.update(parts.as_bytes());
        Ok(format!("hydrant-ingest:{:032x}", hasher.digest128()))
    }

    /// Rows of a batch that happened more than a day before the command began. A column that isn't
    /// there or is no time is the server's to refuse.
    fn old_rows(&self, batch: &RecordBatch) -> u64 {
        let Some(column) = batch.column_by_name(self.spec.event_time.as_str()) else { return 0 };
        let Ok(times) = arrow_cast::cast(column, &ScalarType::Timestamp.to_arrow()) else { return 0 };
        let times = times.as_primitive::<TimestampMicrosecondType>();
        times.iter().flatten().filter(|time| time.saturating_add(OLD) < self.now).count() as u64
    }

    /// Old rows that count as news are mostly a mistake. It can be mended afterwards: under another
    /// rule a file is taken once more, and its rows then count as known when they happened too.
    fn warn_of_old_rows(&self, files: &[ParquetInput], old_rows: &[u64], format: Format) {
        let known = self.known.as_ref().unwrap_or(&self.spec.known_time);
        if *known != KnownTimeRule::Arrival {
            return;
        }
        for (file, old) in files.iter().zip(old_rows).filter(|(_, old)| **old > 0) {
            let warning = format!(
                "{}: {} of {} happened more than a day ago and count as known from now on ({}), not from when they \
                 happened: training sets of earlier instants leave them out. If they are history, load the file again \
                 with --known event (this load may stay), or make training sets with --final",
                file.path().display(),
                output::count(*old),
                counted(file.rows(), "row"),
                time::show(self.now),
            );
            output::warn(&warning, format);
        }
    }
}

/// A file on its way.
struct Requests {
    requests: tokio::sync::mpsc::Receiver<v1::IngestRequest>,
    reader: tokio::task::JoinHandle<Result<(), Failure>>,
}

impl Report {
    fn take(&mut self, answer: &v1::IngestResponse) {
        self.rows += answer.rows;
        if answer.outcome() == Outcome::Applied {
            self.applied += answer.rows;
        }
        for view in &answer.views {
            match self.views.iter_mut().find(|known| known.view == view.view) {
                Some(known) => {
                    known.rows += view.rows;
                    known.null_keys += view.null_keys;
                    known.too_old += view.too_old;
                }
                None => self.views.push(view.clone()),
            }
        }
    }

    fn text(&self) -> String {
        let file = self.file.display();
        if self.applied == 0 {
            return format!(
                "{file} -> {}: ingested before, nothing changed ({})",
                self.source,
                counted(self.rows, "row")
            );
        }
        let known = match self.rows - self.applied {
            0 => String::new(),
            known => format!(" ({} ingested before)", output::count(known)),
        };
        let duration = std::time::Duration::from_secs_f64(self.seconds);
        let mut text = format!(
            "{file} -> {}: {}{known} in {}, {} rows a second, visible",
            self.source,
            counted(self.applied, "row"),
            output::seconds(duration),
            output::rate(self.rows, duration),
        );
        for v1::ViewRows { view, null_keys, .. } in self.views.iter().filter(|view| view.null_keys > 0) {
            text.push_str(&format!("\n  {} no part of {view}: a key is null", counted(*null_keys, "row")));
        }
        for view in self.views.iter().filter(|view| view.too_old > 0) {
            text.push_str(&format!("\n  {}", text_of_what_is_too_old(&view.view, view.too_old)));
        }
        text
    }

    fn json(&self) -> Json {
        let view = |view: &v1::ViewRows| {
            json!({
                "view": view.view, "rows": view.rows, "null_keys": view.null_keys, "too_old": view.too_old,
            })
        };
        json!({
            "file": self.file.display().to_string(), "source": self.source, "rows": self.rows, "applied": self.applied,
            "already_applied": self.rows - self.applied, "seconds": self.seconds,
            "views": self.views.iter().map(view).collect::<Vec<_>>(),
        })
    }
}

/// Bad rows of one file, as its requests were refused.
#[derive(Debug, Default)]
struct BadRows {
    count: u64,
    /// Rows are counted from the file's first.
    named: Vec<Violation>,
}

impl BadRows {
    /// Takes what a refusal says of rows. Any other refusal is about the whole file and given back.
    fn take(&mut self, refusal: Failure, first_row: u64) -> Result<(), Failure> {
        let named: Vec<Violation> =
            refusal.violations.iter().filter_map(|violation| in_rows_of_file(violation, first_row)).collect();
        let told: Option<u64> =
            refusal.metadata.iter().find(|(key, _)| key == "bad_rows").and_then(|(_, count)| count.parse().ok());
        let Some(count) = told.filter(|_| !named.is_empty()) else { return Err(refusal) };
        self.count += count;
        self.named.extend(named);
        self.named.truncate(MAX_NAMED);
        Ok(())
    }

    fn refusal(mut self, file: &ParquetInput, source: &str) -> Option<Failure> {
        let unnamed = self.count.checked_sub(self.named.len() as u64)?;
        if self.count == 0 {
            return None;
        }
        if unnamed > 0 {
            self.named
                .push(Violation { path: String::new(), message: format!("and {} more", counted(unnamed, "row")) });
        }
        let (path, rows) = (file.path().display(), output::count(file.rows()));
        let message = format!(
            "{path}: {} of {rows} rows are bad for source '{source}'; nothing was written",
            output::count(self.count)
        );
        let failure =
            Failure::new("BAD_ROWS", message).with("file", path).with("bad_rows", self.count).with("rows", file.rows());
        Some(failure.violations(self.named))
    }
}

/// `rows[7].temp` of a request as `row 10007, temp` of its file.
fn in_rows_of_file(violation: &Violation, first_row: u64) -> Option<Violation> {
    let (row, rest) = violation.path.strip_prefix("rows[")?.split_once(']')?;
    let row = first_row + row.parse::<u64>().ok()?;
    let column = rest.strip_prefix('.').map(|column| format!(", {column}")).unwrap_or_default();
    Some(Violation { path: format!("row {row}{column}"), message: violation.message.clone() })
}

pub(super) fn source_spec(definition: v1::Definition) -> Result<SourceSpec, Failure> {
    let decoded = definitions::decode(vec![definition])?;
    match decoded.into_iter().next().map(|definition| definition.spec) {
        Some(Spec::Source(source)) => Ok(source),
        _ => Err(Failure::new("UNREADABLE_ANSWER", "the server answered with something else than a source")),
    }
}

/// How many rows go into one request: told by the file alone, so that it is cut alike each time.
fn batch_rows(file: &ParquetInput) -> usize {
    let bytes_per_row = (file.uncompressed_bytes() / file.rows().max(1)).max(1);
    usize::try_from((BATCH_BYTES / bytes_per_row).clamp(1, MAX_BATCH_ROWS)).expect("a small number")
}

fn ipc(path: &Path, batch: &RecordBatch) -> Result<Vec<u8>, Failure> {
    let failed = |error: arrow_schema::ArrowError| Failure::file(path, "be sent", &error);
    // The file's own notes (such as pandas') are of no use to the server.
    let schema = Arc::new(arrow_schema::Schema::new(batch.schema().fields().clone()));
    let mut writer = StreamWriter::try_new(Vec::new(), &schema).map_err(failed)?;
    writer.write(&batch.clone().with_schema(schema.clone()).map_err(failed)?).map_err(failed)?;
    writer.into_inner().map_err(failed)
}

/// What can be tried again says so; what was taken of it already is not taken twice.
fn with_way_on(refusal: Refusal) -> Failure {
    let passing =
        matches!(refusal.code, Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded | Code::Aborted);
    let failure = Failure::from(refusal);
    if failure.reason == "SEQUENCE_REUSED" {
        return failure.hint(
            "this file was ingested before, when its source was defined otherwise; --again LABEL takes it once more",
        );
    }
    if !passing {
        return failure;
    }
    let hint = failure.hint.as_ref().map_or_else(|| GO_ON.to_owned(), |hint| format!("{hint}; then {GO_ON}"));
    failure.hint(hint)
}

fn in_file(mut failure: Failure, path: &Path) -> Failure {
    failure.message = format!("{}: {}", path.display(), failure.message);
    failure.with("file", path.display())
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use arrow_array::{ArrayRef, Int64Array};

    use super::super::input::ReservedOutput;
    use super::*;

    fn file(folder: &Path, rows: i64) -> ParquetInput {
        let path = folder.join("rows.parquet");
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
        let batch = RecordBatch::try_from_iter([("id", ids)]).expect("one column");
        let mut output = ReservedOutput::new(&path).and_then(|file| file.begin(&batch.schema())).expect("created");
        output.write(&batch).expect("written");
        output.finish(Vec::new()).expect("finished");
        ParquetInput::open(&path).expect("opened")
    }

    fn bad_rows(count: u64, rows: &[u64]) -> Failure {
        let violation = |row: &u64| Violation { path: format!("rows[{row}].id"), message: "is null".to_owned() };
        Failure::new("BAD_ROWS", "bad").with("bad_rows", count).violations(rows.iter().map(violation).collect())
    }

    #[test]
    fn bad_rows_of_all_batches_are_counted_and_the_first_named_by_their_row_in_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut bad = BadRows::default();
        bad.take(bad_rows(1, &[3]), 0).expect("about rows");
        bad.take(bad_rows(40, &(0..20).collect::<Vec<_>>()), 10_000).expect("about rows");
        let refusal = bad.refusal(&file(folder.path(), 20_000), "weather").expect("rows are bad");
        assert!(
            refusal
                .message
                .ends_with("rows.parquet: 41 of 20,000 rows are bad for source 'weather'; nothing was written"),
            "{}",
            refusal.message
        );
        assert_eq!(refusal.violations.len(), MAX_NAMED + 1);
        assert_eq!(refusal.violations[0].path, "row 3, id");
        assert_eq!(refusal.violations[1].path, "row 10000, id");
        assert_eq!(refusal.violations[MAX_NAMED].message, "and 21 rows more");
    }

    #[test]
    fn what_is_wrong_with_the_whole_file_is_told_at_once() {
        let wrong = Failure::new("UNKNOWN_COLUMN", "column 'x' is not declared");
        assert_eq!(BadRows::default().take(wrong.clone(), 0), Err(wrong));
    }

    #[test]
    fn what_broke_off_says_that_the_same_command_goes_on() {
        let unavailable = Refusal::new(Code::Unavailable, "SERVER_UNREACHABLE", "no server answers");
        assert_eq!(with_way_on(unavailable.clone()).hint.as_deref(), Some(GO_ON));
        let hinted = with_way_on(unavailable.hint("start one")).hint.expect("both");
        assert_eq!(hinted, format!("start one; then {GO_ON}"));
        let wrong = Refusal::new(Code::InvalidArgument, "BAD_COLUMNS", "they don't fit");
        assert_eq!(with_way_on(wrong).hint, None);
        let reused = with_way_on(Refusal::new(Code::AlreadyExists, "SEQUENCE_REUSED", "other rows"));
        assert!(reused.hint.is_some_and(|hint| hint.contains("--again")));
    }

    #[test]
    fn the_size_of_a_request_is_told_by_the_file_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(batch_rows(&file(folder.path(), 100_000)), 10_000);
        assert_eq!(batch_rows(&file(folder.path(), 0)), 10_000);
    }

    #[test]
    fn a_file_ingested_before_is_reported_as_no_change() {
        let mut report = Report { file: "w.parquet".into(), source: "weather".into(), ..Report::default() };
        let views = vec![v1::ViewRows { view: "airport_weather".into(), rows: 5, null_keys: 2, too_old: 1 }];
        let answer = |outcome: Outcome| v1::IngestResponse {
            outcome: outcome.into(),
            rows: 7,
            views: views.clone(),
            ..Default::default()
        };
        report.take(&answer(Outcome::AlreadyApplied));
        assert_eq!(report.text(), "w.parquet -> weather: ingested before, nothing changed (7 rows)");
        report.take(&answer(Outcome::Applied));
        report.seconds = 0.5;
        let shown = report.text();
        assert!(
            shown.starts_with("w.parquet -> weather: 7 rows (7 ingested before) in 0.50 s, 28 rows a second, visible"),
            "{shown}"
        );
        assert!(shown.contains("\n  4 rows no part of airport_weather: a key is null\n"), "{shown}");
        let too_old = "\n  2 rows of airport_weather are older than its retention and will not be kept";
        assert!(shown.ends_with(too_old), "{shown}");
    }
}
