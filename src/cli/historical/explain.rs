//! `hydrant historical explain`: how a training set would be made, before it is.

use std::path::PathBuf;

use clap::ArgGroup;
use hydrant_proto::v1;
use hydrant_storage::order::Micros;
use indicatif::HumanBytes;
use serde_json::{Value as Json, json};

use super::super::input::ParquetInput;
use super::super::output::{self, Format, Tone};
use super::super::{Done, Failure, Server, time};
use super::with_columns;
use crate::registry::selection::is_of_another;

/// Show how a training set would be made: what is read, how, and what it takes
#[derive(Debug, clap::Args)]
#[command(
    group = ArgGroup::new("asked").args(["spine", "rows"]).required(true),
    after_help = "Examples:\n  hydrant historical explain --service delay_model --spine requests.parquet --event-time event_timestamp\n  \
    hydrant historical explain --service delay_model --rows 1000000 --format json"
)]
pub struct ExplainArgs {
    /// The feature service: NAME (its current version) or NAME@N
    #[arg(long, value_name = "SERVICE")]
    service: String,

    /// The rows that features would be found for; only the file's columns and its number of rows are looked at
    #[arg(long, value_name = "FILE.parquet", requires = "event_time")]
    spine: Option<PathBuf>,

    /// How many rows they would be, where there is no file yet
    #[arg(long, value_name = "N")]
    rows: Option<u64>,

    /// The spine's column that says as of when
    #[arg(long, value_name = "COLUMN", conflicts_with = "rows")]
    event_time: Option<String>,

    /// See later corrections too: every row counts as if known when it happened
    #[arg(long = "final")]
    final_values: bool,

    /// Only rows accepted until this instant (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    cutoff: Option<Micros>,

    /// How to print
    #[arg(long, value_name = "FORMAT", default_value = "table", value_parser = output::table_or_json())]
    pub format: Format,
}

/// The column of event times of a spine that isn't there yet; no join key may be called so.
const EVENT_TIME: &str = "__event_time";

pub async fn run(args: ExplainArgs, server: &Server) -> Result<Done, Failure> {
    let spine = args.spine.as_deref().map(ParquetInput::open).transpose()?;
    let client = server.connect().await?;
    let command = v1::HistoricalFeaturesCommand {
        services: vec![args.service],
        event_time: args.event_time.unwrap_or_else(|| EVENT_TIME.to_owned()),
        r#final: args.final_values,
        cutoff: args.cutoff,
        ..Default::default()
    };
    let rows = spine.as_ref().map(ParquetInput::rows).or(args.rows).unwrap_or_default();
    let explained = client.explain_training_set(command, spine.as_ref().map(ParquetInput::schema), rows).await;
    let explained = explained.map_err(|refusal| match &spine {
        Some(spine) => with_columns(refusal, spine),
        None => refusal.into(),
    })?;
    output::print_as(args.format, &as_json(&explained), || text(&explained))?;
    Ok(Done::Done)
}

fn text(explained: &v1::ExplainTrainingSetResponse) -> String {
    let mode = if explained.r#final { "final" } else { "as known" };
    let mut text = format!(
        "{}, {mode}, cut-off {}, registry revision {}\n",
        output::on_stdout(&explained.services.join(", "), Tone::Strong),
        time::show(explained.cutoff),
        explained.registry_revision
    );
    let sorts: Vec<String> = explained.sorts.iter().map(|sort| format!("({})", sort.columns.join(", "))).collect();
    text.push_str(&format!(
        "{} of a spine, sorted by {}\n\n",
        output::counted(explained.rows, "row"),
        sorts.join(", by ")
    ));
    let line = |view: &v1::ViewReading| {
        let sort = sorts.get(view.sort as usize).cloned().unwrap_or_default();
        let figures = [
            output::count(view.files),
            format!("{} of {}", output::count(view.read_rows), output::count(view.table_rows)),
            HumanBytes(view.read_bytes).to_string(),
            output::count(view.tail_rows),
        ];
        // Of another tenant's none is told.
        let figures = if is_of_another(&view.view) { Default::default() } else { figures };
        let line = [view.view.clone(), how(view).to_owned(), sort].into_iter().chain(figures);
        line.chain([view.reason.clone()]).collect::<Vec<String>>()
    };
    let lines: Vec<Vec<String>> = explained.views.iter().map(line).collect();
    let header = ["view", "how", "beside", "files", "rows", "bytes", "not landed", "why"];
    text.push_str(&output::table(&header, &lines, &[3, 4, 5, 6]));
    let spilled = match explained.spilled_bytes {
        0 => "nothing goes to disk".to_owned(),
        bytes => format!("about {} go to disk", HumanBytes(bytes)),
    };
    text.push_str(&format!(
        "\n\n{}, each sort in {}; {} of memory at most, of which the spine takes about {}; {spilled}",
        output::counted(explained.threads.into(), "thread"),
        output::counted(explained.parts.into(), "part"),
        HumanBytes(explained.memory),
        HumanBytes(explained.spine_bytes),
    ));
    text
}

fn how(view: &v1::ViewReading) -> &'static str {
    match view.access() {
        v1::Access::Seek => "seek",
        v1::Access::Merge => "merge",
        v1::Access::Unspecified => "not told",
    }
}

fn as_json(explained: &v1::ExplainTrainingSetResponse) -> Json {
    let view = |view: &v1::ViewReading| {
        let mut shown = json!({
            "view": format!("{}@{}", view.view, view.view_version), "access": how(view), "reason": view.reason,
            "sort": view.sort, "features": view.features,
        });
        let figures = json!({
            "delta_version": view.delta_version, "runs": view.runs, "files": view.files,
            "table_rows": view.table_rows, "table_bytes": view.table_bytes, "read_rows": view.read_rows,
            "read_bytes": view.read_bytes, "tail_rows": view.tail_rows,
        });
        if let (Json::Object(shown), Json::Object(figures)) = (&mut shown, figures)
            && !is_of_another(&view.view)
        {
            shown.extend(figures);
        }
        shown
    };
    json!({
        "services": explained.services, "mode": if explained.r#final { "final" } else { "as_known" },
        "cutoff": time::show(explained.cutoff), "registry_revision": explained.registry_revision,
        "rows": explained.rows, "sorts": explained.sorts.iter().map(|sort| &sort.columns).collect::<Vec<_>>(),
        "views": explained.views.iter().map(view).collect::<Vec<_>>(), "threads": explained.threads,
        "parts": explained.parts, "memory": explained.memory, "spine_bytes": explained.spine_bytes,
        "spilled_bytes": explained.spilled_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained() -> v1::ExplainTrainingSetResponse {
        v1::ExplainTrainingSetResponse {
            services: vec!["delay_model@1".into()],
            rows: 1_000,
            sorts: vec![v1::SpineSort { columns: vec!["origin".into()] }],
            views: vec![v1::ViewReading {
                view: "airport_weather".into(),
                view_version: 1,
                access: v1::Access::Seek.into(),
                reason: "seeks touch about 2048000 of 50000000 rows".into(),
                files: 3,
                table_rows: 50_000_000,
                read_rows: 2_048_000,
                read_bytes: 5 << 20,
                tail_rows: 7,
                ..Default::default()
            }],
            threads: 2,
            parts: 1,
            memory: 256 << 20,
            spine_bytes: 40_960,
            ..Default::default()
        }
    }

    #[test]
    fn a_view_that_is_sought_says_so_and_why() {
        let shown = text(&explained());
        let line = shown.lines().find(|line| line.starts_with("airport_weather")).expect("a line for each view");
        assert!(
            line.contains("seek") && line.contains("2,048,000 of 50,000,000") && line.contains("(origin)"),
            "{line}"
        );
        assert!(shown.contains("nothing goes to disk") && shown.contains("2 threads, each sort in 1 part"), "{shown}");
    }

    #[test]
    fn of_another_tenants_view_no_figures_are_told() {
        let mut explained = explained();
        explained.views[0] = v1::ViewReading {
            view: "bank/last_purchase".into(),
            reason: "another tenant's".into(),
            ..Default::default()
        };
        let shown = text(&explained);
        let line = shown.lines().find(|line| line.starts_with("bank/last_purchase")).expect("a line for each view");
        assert_eq!(
            line.split_whitespace().collect::<Vec<_>>(),
            ["bank/last_purchase", "not", "told", "(origin)", "another", "tenant's"]
        );
        assert!(as_json(&explained)["views"][0].get("table_rows").is_none());
    }

    #[test]
    fn programs_get_the_same_plan() {
        let json = as_json(&explained());
        assert_eq!(json["views"][0]["access"], "seek");
        assert_eq!(json["views"][0]["tail_rows"], 7);
        assert_eq!(json["sorts"], json!([["origin"]]));
    }
}
