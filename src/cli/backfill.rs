//! `hydrant backfill`: files straight into the history of a source's views, and then online. The server
//! checks, sorts and merges; the files are read here, so it needs no access to them. The same command
//! again goes on where the last one was cut off, or finds that all is done.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use hydrant_proto::v1::{self, backfill_progress::Phase, backfill_report::Outcome, get_backfill_response::Standing};
use hydrant_storage::order::Micros;
use hydrant_storage::sources::{self, Wanted};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use tokio_stream::wrappers::ReceiverStream;
use xxhash_rust::xxh3::Xxh3;

use super::ingest::source_spec;
use super::input::ParquetInput;
use super::output::{self, Format, ResultOutput, counted};
use super::{Done, Failure, Server, materialize, progress, time};
use crate::error::Violation;
use crate::registry::definition::{Kind, KnownTimeRule};
use crate::rpc::client::{Client, Refusal};
use crate::rpc::wire::definitions::{decode_known_time, encode_known_time, encode_request_known_time};
use crate::rpc::wire::retention::text_of_what_is_too_old;
use crate::runs::{MAX_ORIGINS, Origin};

/// Load files straight into history, and bring it online
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  hydrant backfill clicks clicks-2024.parquet clicks-2025.parquet --known event\n  \
    hydrant backfill clicks clicks/*.parquet --from 2025-01-01T00:00:00Z --no-materialize\n\n\
    Nothing of it can be seen before all of it is taken in. Cut off, the same command goes on; the same\n\
    files again change nothing."
)]
pub struct Args {
    /// The source that the rows belong to
    #[arg(required_unless_present = "abandon")]
    source: Option<String>,

    /// Parquet files, folders of them and Delta tables, here or at s3://, gs://, az:// or abfss:// URLs
    #[arg(required_unless_present = "abandon", value_name = "PATH-OR-URL")]
    locations: Vec<String>,

    /// What a location holds; unless given, a folder with _delta_log in it is a Delta table, and
    /// everything else is Parquet
    #[arg(long, value_enum, value_name = "FORMAT")]
    source_format: Option<SourceFormat>,

    /// The version of a Delta table, instead of its newest
    #[arg(long, value_name = "N")]
    delta_version: Option<u64>,

    /// Only rows that happened at or after this, such as 2025-01-01T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    from: Option<Micros>,

    /// Only rows that happened before this
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    to: Option<Micros>,

    /// When the rows count as known, instead of what the source says:
    /// event (when they happened), event+10m, column:NAME, or arrival (now)
    #[arg(long, value_name = "RULE", value_parser = decode_known_time)]
    known: Option<KnownTimeRule>,

    /// Leave out columns that the source doesn't declare
    #[arg(long)]
    ignore_extra: bool,

    /// Take files again that were taken in before, such as for a view that is newer than that. The
    /// label names this load: under the same label it is taken once
    #[arg(long, value_name = "LABEL")]
    again: Option<String>,

    /// Leave the online store as it is; `hydrant materialize` brings history online later
    #[arg(long)]
    no_materialize: bool,

    /// Check every row, and write nothing
    #[arg(long)]
    dry_run: bool,

    /// Give up a backfill that the log has taken in and history can't, such as since a staged file is
    /// damaged: none of it is loaded. FRAME is what the refusal BACKFILL_PENDING names
    #[arg(long, value_name = "FRAME", conflicts_with_all = ["source", "locations", "dry_run", "again"])]
    abandon: Option<u64>,

    #[command(flatten)]
    pub output: ResultOutput,
}

/// What holds after a backfill that was cut off.
pub(super) const GO_ON: &str = "run the same command again: it goes on where it was, and takes no row twice";

/// Rows of one message at most, and its bytes about.
const MAX_BATCH_ROWS: u64 = 65_536;
const BATCH_BYTES: u64 = 6 << 20;

/// Batches that are read ahead of the connection.
const READ_AHEAD: usize = 3;

pub(super) async fn run(args: Args, server: &Server) -> Result<Done, Failure> {
    if let Some(frame) = args.abandon {
        let said = server.connect().await?.abandon_backfill(frame).await?;
        match args.output.format {
            Format::Json => output::print_json(&json!({"abandoned": frame, "frame": said}))?,
            _ => output::print(&format!("the backfill of frame {frame} is given up: none of it is loaded"))?,
        }
        return Ok(Done::Done);
    }
    let files = ParquetInput::open_all(&args.locations, wanted(args.source_format, args.delta_version)).await?;
    if files.is_empty() {
        let told = "the Delta table has no files at that version, so there is nothing to load";
        return Err(Failure::new("FILE_FAILED", format!("{}: {told}", args.locations.join(", "))));
    }
    let name = args.source.clone().unwrap_or_default();
    let client = server.connect().await?;
    let definition = client.get_definition(Kind::Source, &name).await?;
    let source = source_spec(definition)?;
    let rows = files.iter().map(ParquetInput::rows).sum();
    let known = encode_known_time(args.known.as_ref().unwrap_or(&source.known_time));
    let columns: Vec<&str> = source.columns.iter().map(|column| column.name.as_str()).collect();
    let command = v1::BackfillCommand {
        source: name.clone(),
        id: id_of(&name, &args, &files, &known.to_string(), &columns.join(","))?,
        rows,
        first_row: 0,
        known_time: args.known.as_ref().map(encode_request_known_time),
        from: args.from,
        to: args.to,
        ignore_extra: args.ignore_extra,
        validate_only: args.dry_run,
        origins: origins(&args)?,
    };
    let backfill = Backfill { client, args, files, command };
    backfill.run().await
}

struct Backfill {
    client: Client,
    args: Args,
    files: Vec<ParquetInput>,
    command: v1::BackfillCommand,
}

impl Backfill {
    async fn run(mut self) -> Result<Done, Failure> {
        let started = Instant::now();
        let standing = self.client.get_backfill(self.command.clone()).await?;
        let report = match standing.standing {
            Some(Standing::TakenIn(frame)) if !self.args.dry_run => v1::BackfillReport {
                outcome: Outcome::AlreadyApplied.into(),
                frame: Some(frame),
                views: standing.views,
                ..Default::default()
            },
            Some(Standing::StagedRows(rows)) if !self.args.dry_run => {
                self.command.first_row = rows;
                self.send().await?
            }
            _ => self.send().await?,
        };
        let took = started.elapsed();
        let format = self.args.output.format;
        if format == Format::Table {
            output::print(&self.text(&report, took))?;
        }
        let mut online = Vec::new();
        if !self.args.no_materialize && !self.args.dry_run {
            for view in report.views.iter().filter(|view| view.online) {
                let done = materialize::bring_online(&self.client, &view.view, report.frame).await?;
                if format == Format::Table {
                    output::print(&materialize::text(&view.view, &done))?;
                }
                online.push((view.view.clone(), done));
            }
        }
        if format == Format::Json {
            output::print_json(&self.json(&report, took, &online))?;
        }
        Ok(Done::Done)
    }

    async fn send(&self) -> Result<v1::BackfillReport, Failure> {
        let label = if self.args.dry_run { "checking" } else { "loading" };
        let bar = progress::rows(&format!("{label} {}", self.command.source), self.command.rows);
        bar.set_position(self.command.first_row);
        // Every batch of an upload has the columns of its first message.
        let schema = self.files[0].schema().clone();
        for file in &self.files[1..] {
            if file.schema().fields() != schema.fields() {
                let message = format!(
                    "{} has other columns than {}: load files with the same columns together",
                    file.path().display(),
                    self.files[0].path().display()
                );
                return Err(Failure::new("FILES_DIFFER", message));
            }
        }
        let batches = self.batches()?;
        let mut phase = Phase::Reading;
        let sent = self.client.backfill(self.command.clone(), schema, batches, |told| {
            if told.phase() != phase {
                phase = told.phase();
                next_phase(&bar, phase, told.to_merge, &self.command.source);
            }
            bar.set_position(if phase == Phase::Reading { told.checked } else { told.merged });
        });
        let report = sent.await;
        bar.finish_and_clear();
        report.map_err(|refusal| self.in_files(refusal.into()))
    }

    /// The rows of all files from the first on that is to be sent, decoded on a thread of their own.
    fn batches(
        &self,
    ) -> Result<impl futures::Stream<Item = Result<arrow_array::RecordBatch, Refusal>> + Send + use<>, Failure> {
        let mut skip = self.command.first_row;
        let mut wanted = Vec::new();
        for file in &self.files {
            if skip >= file.rows() {
                skip -= file.rows();
                continue;
            }
            wanted.push((file.clone(), skip));
            skip = 0;
        }
        let (sender, batches) = tokio::sync::mpsc::channel(READ_AHEAD);
        tokio::task::spawn_blocking(move || {
            // One after the other, so that not all of a thousand files are open at once.
            for (file, first) in wanted {
                let read = file.batches_from(batch_rows(&file), first).and_then(|batches| {
                    for batch in batches {
                        if sender.blocking_send(Ok(batch?)).is_err() {
                            return Ok(false);
                        }
                    }
                    Ok(true)
                });
                match read {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(failure) => {
                        let _ = sender.blocking_send(Err(unreadable(failure)));
                        return;
                    }
                }
            }
        });
        Ok(ReceiverStream::new(batches).boxed())
    }

    /// Bad rows, told by their file and their place in it.
    fn in_files(&self, mut failure: Failure) -> Failure {
        for Violation { path, .. } in &mut failure.violations {
            let Some((row, rest)) = row_of(path) else { continue };
            let mut first = 0;
            for file in &self.files {
                if row < first + file.rows() {
                    *path = format!("{}: rows[{}]{rest}", file.path().display(), row - first);
                    break;
                }
                first += file.rows();
            }
        }
        failure
    }

    fn text(&self, report: &v1::BackfillReport, took: Duration) -> String {
        let (source, rows) = (&self.command.source, counted(report.rows, "row"));
        let files = match self.files.as_slice() {
            [only] => only.path().display().to_string(),
            all => format!("{} files", output::count(all.len() as u64)),
        };
        let mut text = match report.outcome() {
            Outcome::AlreadyApplied => return format!("{files} -> {source}: loaded before, nothing changed"),
            Outcome::Valid => format!("{files} -> {source}: {rows} checked, nothing written"),
            _ => format!(
                "{files} -> {source}: {rows} in history in {}, {} rows a second",
                output::seconds(took),
                output::rate(report.rows, took)
            ),
        };
        for view in report.views.iter().filter(|view| view.null_keys > 0) {
            text.push_str(&format!("\n  {} no part of {}: a key is null", counted(view.null_keys, "row"), view.view));
        }
        for view in report.views.iter().filter(|view| view.too_old > 0) {
            text.push_str(&format!("\n  {}", text_of_what_is_too_old(&view.view, view.too_old)));
        }
        text
    }

    fn json(&self, report: &v1::BackfillReport, took: Duration, online: &[(String, v1::MaterializeResponse)]) -> Value {
        let outcome = match report.outcome() {
            Outcome::Applied => "applied",
            Outcome::AlreadyApplied => "already_applied",
            Outcome::Valid => "valid",
            Outcome::Unspecified => "unknown",
        };
        let view = |view: &v1::BackfilledView| {
            json!({
                "view": view.view, "rows": view.rows, "null_keys": view.null_keys, "too_old": view.too_old,
                "bytes": view.bytes,
            })
        };
        json!({
            "source": self.command.source,
            "files": self.files.iter().map(|file| file.path().display().to_string()).collect::<Vec<_>>(),
            "outcome": outcome, "rows": report.rows, "seconds": took.as_secs_f64(),
            "frame": report.frame, "ingest_time": report.ingest_time.map(time::show),
            "views": report.views.iter().map(view).collect::<Vec<_>>(),
            "online": online.iter().map(|(view, done)| materialize::json(view, done)).collect::<Vec<_>>(),
        })
    }
}

/// What the locations are called by whoever is told of the backfill; as many as a backfill may name.
fn origins(args: &Args) -> Result<Vec<v1::BackfillOrigin>, Failure> {
    let mut origins = Vec::new();
    for written in args.locations.iter().take(MAX_ORIGINS) {
        let (namespace, name) = sources::dataset(written)?;
        let origin = Origin { namespace, name, version: args.delta_version.map(|version| version.to_string()) };
        // A name that can't be told is no reason to refuse rows.
        if origin.problem().is_none() {
            let Origin { namespace, name, version } = origin;
            origins.push(v1::BackfillOrigin { namespace, name, version });
        }
    }
    Ok(origins)
}

fn next_phase(bar: &ProgressBar, phase: Phase, to_merge: u64, source: &str) {
    let label = match phase {
        Phase::Merging => "merging",
        Phase::TakingIn => "taking in",
        _ => "loading",
    };
    bar.set_prefix(format!("{label} {source}"));
    if to_merge > 0 {
        bar.set_length(to_merge);
    }
    bar.reset_eta();
}

/// As what `hydrant backfill` and `hydrant ingest` read a location.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum SourceFormat {
    Parquet,
    Delta,
}

pub(super) fn wanted(format: Option<SourceFormat>, delta_version: Option<u64>) -> Wanted {
    let format = match format {
        None => sources::Format::Either,
        Some(SourceFormat::Parquet) => sources::Format::Parquet,
        Some(SourceFormat::Delta) => sources::Format::Delta,
    };
    Wanted { format, delta_version }
}

/// The same for the same columns of the same rows under the same rule, range and label.
fn id_of(source: &str, args: &Args, files: &[ParquetInput], known: &str, columns: &str) -> Result<String, Failure> {
    let mut hasher = Xxh3::new();
    let label = args.again.as_deref().unwrap_or_default();
    let range = format!("{:?} {:?}", args.from, args.to);
    for part in [source, known, columns, &range, label] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    for file in files {
        hasher.update(&file.content_hash()?.to_le_bytes());
    }
    Ok(format!("hydrant-backfill:{:032x}", hasher.digest128()))
}

/// Rows of a message: as many as take about as many bytes.
fn batch_rows(file: &ParquetInput) -> usize {
    let bytes_per_row = file.uncompressed_bytes().checked_div(file.rows()).unwrap_or(0).max(1);
    (BATCH_BYTES / bytes_per_row).clamp(1, MAX_BATCH_ROWS) as usize
}

fn unreadable(failure: Failure) -> Refusal {
    let refusal = Refusal::new(crate::error::Code::InvalidArgument, &failure.reason, failure.message);
    match failure.hint {
        Some(hint) => refusal.hint(&hint),
        None => refusal,
    }
}

/// The row that a place such as `rows[17].temp` names, and what comes behind it.
fn row_of(path: &str) -> Option<(u64, String)> {
    let (row, rest) = path.strip_prefix("rows[")?.split_once(']')?;
    Some((row.parse().ok()?, rest.to_owned()))
}
