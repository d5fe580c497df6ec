//! `hydrant historical get`: a training set for a spine, each value as it was known then.

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

use super::input::{ParquetInput, ParquetOutput};
use super::output::{self, counted, share};
use super::{Done, Failure, Server, progress, time};
use crate::error::Code;
use crate::rpc::client::Refusal;

/// Build training sets
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Get(GetArgs),
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
}

/// Rows of one record batch of the spine.
const BATCH_ROWS: usize = 16_384;

/// A share of differing rows from which on it is said loudly.
const LARGE_SHARE: f64 = 0.01;

/// The key under which the report is kept in the file's metadata.
const REPORT: &str = "hydrant.training_set";

pub(super) async fn run(args: Args, server: &Server) -> Result<Done, Failure> {
    let Command::Get(args) = args.command;
    let started = Instant::now();
    let spine = ParquetInput::open(&args.spine)?;
    let client = server.connect().await?;
    let command = v1::HistoricalFeaturesCommand {
        services: vec![args.service.clone()],
        features: Vec::new(),
        event_time: args.event_time.clone(),
        r#final: args.final_values,
        cutoff: args.cutoff,
        with_status: args.with_status,
        with_event_time: args.with_event_time,
    };
    let sending = progress::rows("sending the spine", spine.rows());
    let mut set = client.training_set(command, spine.schema().clone(), batches(&spine, sending.clone())?).await?;
    sending.finish_and_clear();

    let joined = progress::rows("joining", spine.rows());
    let mut output = ParquetOutput::create(&args.output, &set.schema())?;
    let mut rows = 0;
    while let Some(batch) = set.next().await? {
        rows += batch.num_rows() as u64;
        output = write(output, batch).await?;
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

    output::print(&summary(&args.output.display().to_string(), &report, started.elapsed()))?;
    if let Some(warning) = warning(&report) {
        output::warn(&warning);
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

/// Encoding and compressing take their time: not on a thread that others wait for.
async fn write(mut output: ParquetOutput, batch: RecordBatch) -> Result<ParquetOutput, Failure> {
    let written = tokio::task::spawn_blocking(move || output.write(&batch).map(|()| output)).await;
    written.map_err(|error| Failure::new("INTERNAL", format!("writing ended early: {error}")))?
}

/// What came out: rows, time, and how much of each feature is missing.
fn summary(path: &str, report: &v1::TrainingSetReport, elapsed: Duration) -> String {
    let mode = if report.r#final { "final" } else { "as known" };
    let mut text = format!(
        "{path}: {} in {}, {} rows a second\n{}, {mode}, cut-off {}, registry revision {}\n\n",
        counted(report.rows, "row"),
        output::seconds(elapsed),
        output::rate(report.rows, elapsed),
        report.services.join(", "),
        time::show(report.cutoff),
        report.registry_revision,
    );
    let line = |feature: &v1::FeatureNulls| {
        vec![feature.feature.clone(), output::count(feature.nulls), share(feature.nulls, report.rows)]
    };
    let lines: Vec<Vec<String>> = report.features.iter().map(line).collect();
    text.push_str(&output::table(&["feature", "nulls", "share"], &lines, &[1, 2]));
    text
}

/// How much the choice between as-known and final matters here, if it does.
#[expect(clippy::cast_precision_loss, reason = "a share for people")]
fn warning(report: &v1::TrainingSetReport) -> Option<String> {
    if report.differing_rows == 0 {
        return None;
    }
    let (differing, pairs) = (report.differing_rows, report.row_view_pairs);
    let found = format!(
        "{} of {} (row, view) pairs, {}",
        output::count(differing),
        output::count(pairs),
        share(differing, pairs)
    );
    if report.r#final {
        return Some(format!(
            "{found}, hold values that were not yet known at the row's time; without --final a model sees what was known"
        ));
    }
    let large = differing as f64 >= LARGE_SHARE * pairs as f64;
    let advice = if large {
        "; that is much: were rows loaded long after they happened? Ingest them with --known event, or use --final"
    } else {
        "; --final shows them"
    };
    Some(format!("{found}, leave out a row that had happened but was not yet known{advice}"))
}

fn report_json(report: &v1::TrainingSetReport) -> Json {
    let table = |table: &v1::TableVersion| {
        json!({
            "view": format!("{}@{}", table.view, table.view_version), "delta_version": table.delta_version,
            "tail_rows": table.tail_rows, "definition_revision": table.definition_revision,
        })
    };
    json!({
        "services": report.services, "mode": if report.r#final { "final" } else { "as_known" },
        "cutoff": time::show(report.cutoff), "registry_revision": report.registry_revision, "rows": report.rows,
        "differing_rows": report.differing_rows, "row_view_pairs": report.row_view_pairs,
        "spine_hash": report.spine_hash, "content_hash": report.content_hash,
        "tables": report.tables.iter().map(table).collect::<Vec<_>>(),
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
            features: vec![v1::FeatureNulls { feature: "airport_weather__temp".into(), nulls: 25 }],
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
    fn a_large_share_left_out_is_said_with_the_way_out() {
        assert_eq!(warning(&report(0, false)), None);
        assert!(warning(&report(1, false)).expect("said").ends_with("--final shows them"));
        assert!(warning(&report(700, false)).expect("said").contains("--known event"));
        assert!(warning(&report(700, true)).expect("said").contains("not yet known"));
    }
}
