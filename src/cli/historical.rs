//! `hydrant historical get`: a training set for a spine, each value as it was known then; `hydrant
//! historical explain`: how it would be made.

mod explain;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use clap::Subcommand;
use futures::StreamExt as _;
use hydrant_proto::v1;
use hydrant_storage::order::Micros;
use indicatif::ProgressBar;
use serde_json::{Value as Json, json};
use tokio_stream::wrappers::ReceiverStream;

use super::input::{ParquetInput, ReservedOutput, is_same_file};
use super::output::{self, Format, Nulls, share};
use super::{Done, Failure, Server, progress, time};
use crate::error::Code;
use crate::registry::selection::is_of_another;
use crate::rpc::client::Refusal;

/// Build training sets
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  hydrant historical get --service delay_model --spine requests.parquet --event-time event_timestamp -o training.parquet"
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Get(GetArgs),
    Explain(explain::ExplainArgs),
}

/// Join features to the rows of a spine, as of each row's time
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  hydrant historical get --service delay_model --spine requests.parquet --event-time event_timestamp -o training.parquet"
)]
struct GetArgs {
    /// The feature service: NAME (its current version) or NAME@N
    #[arg(long, value_name = "SERVICE")]
    service: String,

    /// The rows to find features for: a Parquet file with the join keys, a time, and whatever else
    #[arg(long, value_name = "FILE.parquet")]
    spine: PathBuf,

    /// The spine's column that says as of when
    #[arg(long, value_name = "COLUMN")]
    event_time: String,

    /// Where to write: the spine's columns as they were, then one per feature
    #[arg(short = 'o', long = "output", value_name = "OUT.parquet")]
    output: PathBuf,

    /// See later corrections too: every row counts as if known when it happened
    #[arg(long = "final")]
    final_values: bool,

    /// Only rows accepted until this instant (RFC 3339): the same cut-off, the same training set
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    cutoff: Option<Micros>,

    /// Add a column <feature>__status for each feature
    #[arg(long)]
    with_status: bool,

    /// Add a column <feature>__event_time for each feature
    #[arg(long)]
    with_event_time: bool,

    /// How to print what came out, and refusals
    #[arg(long, value_name = "FORMAT", default_value = "table", value_parser = output::table_or_json())]
    format: Format,
}

/// Rows of one record batch of the spine.
pub(super) const BATCH_ROWS: usize = 16_384;

/// The key under which the report is kept in the file's metadata.
pub(super) const REPORT: &str = "hydrant.training_set";

impl Args {
    pub(super) fn format(&self) -> Format {
        match &self.command {
            Command::Get(args) => args.format,
            Command::Explain(args) => args.format,
        }
    }

    /// Whether it writes its answer into a file.
    pub(super) fn writes_file(&self) -> bool {
        matches!(self.command, Command::Get(_))
    }
}

pub(super) async fn run(args: Args, server: &Server) -> Result<Done, Failure> {
    match args.command {
        Command::Get(args) => get(args, server).await,
        Command::Explain(args) => explain::run(args, server).await,
    }
}

async fn get(args: GetArgs, server: &Server) -> Result<Done, Failure> {
    let started = Instant::now();
    let spine = ParquetInput::open(&args.spine)?;
    // Before the join, which may take long.
    if is_same_file(&args.spine, &args.output) {
        let refused = Failure::file(&args.output, "be written", &"it is the spine, which would be lost");
        return Err(refused.hint("name another file with -o"));
    }
    let output = ReservedOutput::new(&args.output)?;
    let client = server.connect().await?;
    let command = v1::HistoricalFeaturesCommand {
        services: vec![args.service.clone()],
        features: Vec::new(),
        event_time: args.event_time.clone(),
        r#final: args.final_values,
        cutoff: args.cutoff,
        with_status: args.with_status,
        with_event_time: args.with_event_time,
        ..Default::default()
    };
    let sending = progress::rows("sending the spine", spine.rows());
    let set = client.training_set(command, spine.schema().clone(), batches(&spine, sending.clone())?).await;
    let mut set = set.map_err(|refusal| with_columns(refusal, &spine))?;
    sending.finish_and_clear();

    let joined = progress::rows("joining", spine.rows());
    let mut output = output.begin(&set.schema())?;
    let mut rows = 0;
    while let Some(batch) = set.next().await? {
        rows += batch.num_rows() as u64;
        output = output.write_apart(batch).await?;
        joined.set_position(rows);
    }
    joined.finish_and_clear();
    let report = set
        .report()
        .cloned()
        .ok_or_else(|| Failure::new("UNREADABLE_ANSWER", "the training set came without its report"))?;
    if rows != spine.rows() || report.rows != rows {
        let message = format!("the spine has {} rows and the training set {rows}", spine.rows());
        return Err(Failure::new("ROWS_MISSING", message));
    }
    output.finish(vec![(REPORT, report_json(&report).to_string())])?;

    let (file, elapsed) = (args.output.display().to_string(), started.elapsed());
    output::print_as(args.format, &result_json(&file, &report, elapsed), || summary(&file, &report, elapsed))?;
    if !report.warning.is_empty() {
        output::warn(&report.warning, args.format);
    }
    Ok(Done::Done)
}

/// The spine's batches on their way, counted on the bar.
pub(super) fn batches(
    spine: &ParquetInput,
    bar: ProgressBar,
) -> Result<impl futures::Stream<Item = Result<RecordBatch, Refusal>> + Send + use<>, Failure> {
    let batches = ReceiverStream::new(spine.read_ahead(BATCH_ROWS)?);
    Ok(batches.map(move |batch| match batch {
        Ok(batch) => {
            bar.inc(batch.num_rows() as u64);
            Ok(batch)
        }
        Err(failure) => Err(Refusal::new(Code::InvalidArgument, failure.reason, failure.message)),
    }))
}

/// A spine without a column that is needed has perhaps one of another name.
pub(super) fn with_columns(refusal: Refusal, spine: &ParquetInput) -> Failure {
    const SHOWN: usize = 50;
    let failure = Failure::from(refusal);
    if failure.reason != "SPINE_MISMATCH" || failure.hint.is_some() {
        return failure;
    }
    let names: Vec<&str> = spine.schema().fields().iter().map(|field| field.name().as_str()).take(SHOWN).collect();
    let more = if spine.schema().fields().len() > SHOWN { ", …" } else { "" };
    failure.hint(format!("the spine has the columns {}{more}", names.join(", ")))
}

/// What came out: rows, time, and how much of each feature is missing.
fn summary(path: &str, report: &v1::TrainingSetReport, elapsed: Duration) -> String {
    let mode = if report.r#final { "final" } else { "as known" };
    let mut text = format!(
        "{path}: {}\n{}, {mode}, cut-off {}, registry revision {}\ncontent hash {}\n{}\n\n",
        output::rows_in(report.rows, elapsed),
        report.services.join(", "),
        time::show(report.cutoff),
        report.registry_revision,
        report.content_hash,
        difference(report),
    );
    text.push_str(&output::nulls(&nulls(report), report.rows));
    text
}

fn nulls(report: &v1::TrainingSetReport) -> Vec<Nulls> {
    let nulls = |of: &v1::FeatureNulls| Nulls { feature: of.feature.clone(), nulls: of.nulls, is_masked: of.masked };
    report.features.iter().map(nulls).collect()
}

/// How often as known and final differ here, and which of the two the rows have.
pub(super) fn difference(report: &v1::TrainingSetReport) -> String {
    if report.differing_rows == 0 {
        return "as known and final are the same here".to_owned();
    }
    let (differing, pairs) = (report.differing_rows, report.row_view_pairs);
    let chosen = if report.r#final {
        "hold what was not known yet at the row's time; without --final they would not"
    } else {
        "leave out what had happened and was not known yet; with --final they would not"
    };
    format!(
        "{} of {} (row, view) pairs, {}, {chosen}",
        output::count(differing),
        output::count(pairs),
        share(differing, pairs)
    )
}

/// What is printed for programs: the report, and what came of this very run.
fn result_json(file: &str, report: &v1::TrainingSetReport, elapsed: Duration) -> Json {
    let mut json = json!({"file": file, "seconds": elapsed.as_secs_f64()});
    if let (Json::Object(json), Json::Object(known)) = (&mut json, report_json(report)) {
        json.extend(known);
        json.extend(output::nulls_json(&nulls(report)).map(|(name, value)| (name.to_owned(), value)));
    }
    json
}

/// Before which instants rows are missing; "always" where it is before all.
pub(super) fn lacks_before(at: i64) -> String {
    if at == i64::MAX { "always".to_owned() } else { time::show(at) }
}

/// What was read of a view; how many rows have not landed is told of one's own.
pub(super) fn table_json(table: &v1::TableVersion) -> Json {
    let tail_rows = (!is_of_another(&table.view)).then_some(table.tail_rows);
    json!({
        "view": format!("{}@{}", table.view, table.view_version), "delta_version": table.delta_version,
        "tail_rows": tail_rows, "definition_revision": table.definition_revision,
        "lacks_before": table.lacks_before.map(lacks_before),
    })
}

fn report_json(report: &v1::TrainingSetReport) -> Json {
    json!({
        "services": report.services, "mode": if report.r#final { "final" } else { "as_known" },
        "cutoff": time::show(report.cutoff), "registry_revision": report.registry_revision, "rows": report.rows,
        "differing_rows": report.differing_rows, "row_view_pairs": report.row_view_pairs,
        "spine_hash": report.spine_hash, "content_hash": report.content_hash,
        "tables": report.tables.iter().map(table_json).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(differing_rows: u64, is_final: bool) -> v1::TrainingSetReport {
        v1::TrainingSetReport {
            rows: 1_000,
            differing_rows,
            row_view_pairs: 7_000,
            r#final: is_final,
            services: vec!["delay_model@1".into()],
            features: vec![v1::FeatureNulls { feature: "airport_weather__temp".into(), nulls: 25, masked: false }],
            ..Default::default()
        }
    }

    #[test]
    fn the_summary_tells_how_much_of_each_feature_is_missing() {
        let shown = summary("o.parquet", &report(0, false), Duration::from_millis(500));
        assert!(
            shown.starts_with("o.parquet: 1,000 rows in 0.50 s, 2,000 rows a second\ndelay_model@1, as known"),
            "{shown}"
        );
        let line = shown.lines().last().expect("a line per feature");
        assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["airport_weather__temp", "25", "2.5", "%"]);
    }

    #[test]
    fn what_is_masked_is_told_as_that_and_not_as_missing() {
        let mut report = report(0, false);
        report.features.push(v1::FeatureNulls { feature: "profile__iban".into(), nulls: 1_000, masked: true });
        let shown = summary("o.parquet", &report, Duration::from_millis(500));
        let line = shown.lines().find(|line| line.starts_with("profile__iban")).expect("a line per feature");
        assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["profile__iban", "masked"]);
        assert!(shown.ends_with("that you may not see") && !shown.contains("100.0 %"), "{shown}");
        let json = result_json("o.parquet", &report, Duration::from_millis(500));
        assert_eq!(
            (&json["nulls"], &json["masked"]),
            (&json!({"airport_weather__temp": 25}), &json!(["profile__iban"]))
        );
    }

    #[test]
    fn the_summary_tells_how_often_the_two_modes_differ() {
        let told = |differing, is_final| summary("o.parquet", &report(differing, is_final), Duration::from_millis(500));
        assert!(told(0, false).contains("are the same here"));
        assert!(told(700, false).contains("700 of 7,000 (row, view) pairs, 10.0 %, leave out"), "{}", told(700, false));
        assert!(told(1, true).contains("1 of 7,000 (row, view) pairs, < 0.1 %, hold what was not known yet"));
    }

    #[test]
    fn programs_get_the_report_and_what_came_of_the_run() {
        let json = result_json("o.parquet", &report(7, false), Duration::from_millis(500));
        assert_eq!(
            (&json["file"], &json["rows"], &json["mode"]),
            (&json!("o.parquet"), &json!(1_000), &json!("as_known"))
        );
        assert_eq!((&json["nulls"], &json["seconds"]), (&json!({"airport_weather__temp": 25}), &json!(0.5)));
    }
}
