//! `hydrant training-set`: training sets that are saved with all that makes them again, and the hash
//! that proves it.

mod pull;

use std::path::PathBuf;
use std::time::Instant;

use clap::Subcommand;
use hydrant_proto::v1;
use hydrant_storage::order::Micros;
use indicatif::ProgressBar;
use serde_json::{Value as Json, json};

use super::definitions::reference as edge_end;
use super::input::ParquetInput;
use super::output::{self, Format, ResultOutput, Tone};
use super::{Done, Failure, Server, historical, progress, time};
use crate::registry::selection::is_of_another;

/// Save training sets, pull them again, and prove that they are the same
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  hydrant training-set create flights --service delay_model --spine requests.parquet \
    --event-time event_timestamp\n  hydrant training-set pull flights@1 -o training.parquet\n  \
    hydrant training-set verify flights@1"
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(CreateArgs),
    Get(GetArgs),
    List(ListArgs),
    Pull(pull::PullArgs),
    Verify(VerifyArgs),
    Delete(DeleteArgs),
}

/// Make a training set and save it: its spine, its request, its hash and its statistics
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  hydrant training-set create flights --service delay_model --spine requests.parquet \
    --event-time event_timestamp\n\nThe same name again makes its next version, unless the rows are the same."
)]
struct CreateArgs {
    /// A name for it: [a-z][a-z0-9_]{0,62} without '__'
    name: String,

    /// The feature service: NAME (its current version) or NAME@N; several make one table
    #[arg(long = "service", value_name = "SERVICE", required = true)]
    services: Vec<String>,

    /// The rows to find features for: a Parquet file with the join keys, a time, and whatever else
    #[arg(long, value_name = "FILE.parquet")]
    spine: PathBuf,

    /// The spine's column that says as of when
    #[arg(long, value_name = "COLUMN")]
    event_time: String,

    /// See later corrections too: every row counts as if known when it happened
    #[arg(long = "final")]
    final_values: bool,

    /// Only rows accepted until this instant (RFC 3339); without it, until now
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    cutoff: Option<Micros>,

    /// Add a column <feature>__status for each feature
    #[arg(long)]
    with_status: bool,

    /// Add a column <feature>__event_time for each feature
    #[arg(long)]
    with_event_time: bool,

    #[command(flatten)]
    output: ResultOutput,
}

/// Show what a saved training set was made of, and its statistics
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  hydrant training-set get flights@1 -o json")]
struct GetArgs {
    /// NAME (its newest version) or NAME@N
    name: String,

    #[command(flatten)]
    output: ResultOutput,
}

/// List the saved training sets, every version
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  hydrant training-set list")]
struct ListArgs {
    #[command(flatten)]
    output: ResultOutput,
}

/// Make a saved training set again, and tell whether its rows are the same
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  hydrant training-set verify flights@1\n\nIt ends with 0 if they are the same, and with 1 if not."
)]
struct VerifyArgs {
    /// NAME (its newest version) or NAME@N
    name: String,

    #[command(flatten)]
    output: ResultOutput,
}

/// Delete a version of a saved training set, or all of them
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  hydrant training-set delete flights@1\n\nWithout @N all versions go. Their spines go \
    some days later, unless another training set has them."
)]
struct DeleteArgs {
    /// NAME@N, or NAME for all versions
    name: String,

    #[command(flatten)]
    output: ResultOutput,
}

impl Args {
    pub(super) fn format(&self) -> Format {
        match &self.command {
            Command::Create(args) => args.output.format,
            Command::Get(args) => args.output.format,
            Command::List(args) => args.output.format,
            Command::Pull(args) => args.format,
            Command::Verify(args) => args.output.format,
            Command::Delete(args) => args.output.format,
        }
    }

    /// What Ctrl-C leaves behind.
    pub(super) fn interrupted(&self) -> Option<&'static str> {
        match self.command {
            Command::Create(_) => Some("nothing was saved, unless it was whole: `hydrant training-set list` tells"),
            Command::Pull(_) => Some("no file was written; the same command begins again"),
            Command::Delete(_) => Some("it may have been deleted all the same; `hydrant training-set list` tells"),
            Command::Get(_) | Command::List(_) | Command::Verify(_) => None,
        }
    }
}

pub(super) async fn run(args: Args, server: &Server) -> Result<Done, Failure> {
    match args.command {
        Command::Create(args) => create(args, server).await,
        Command::Get(args) => get(&args, server).await,
        Command::List(args) => list(&args, server).await,
        Command::Pull(args) => pull::run(args, server).await,
        Command::Verify(args) => verify(&args, server).await,
        Command::Delete(args) => delete(&args, server).await,
    }
}

async fn create(args: CreateArgs, server: &Server) -> Result<Done, Failure> {
    let started = Instant::now();
    let spine = ParquetInput::open(&args.spine)?;
    let client = server.connect().await?;
    let sending = progress::rows("sending the spine", spine.rows());
    let stored = client.store_spine(spine.schema().clone(), historical::batches(&spine, sending.clone())?).await?;
    sending.finish_and_clear();
    let request = v1::CreateTrainingSetRequest {
        name: args.name,
        services: args.services,
        spine: stored.id,
        event_time: args.event_time,
        r#final: args.final_values,
        cutoff: args.cutoff,
        with_status: args.with_status,
        with_event_time: args.with_event_time,
    };
    let bar = progress::rows("joining", stored.rows);
    let created = client.create_training_set(request, |told| show(&bar, told)).await;
    bar.finish_and_clear();
    let created = created.map_err(|refusal| historical::with_columns(refusal, &spine))?;
    let set = created.training_set.ok_or_else(|| Failure::new("UNREADABLE_ANSWER", "no training set was answered"))?;
    let mut shown = document(&set);
    shown["created"] = json!(!created.was_there);
    output::print_as(args.output.format, &shown, || {
        let first = if created.was_there {
            format!("{} has these rows already: nothing was saved", reference(&set))
        } else {
            format!("{} saved: {}", reference(&set), output::rows_in(set.rows, started.elapsed()))
        };
        format!("{first}\n{}", summary(&set))
    })?;
    if !created.warning.is_empty() {
        output::warn(&created.warning, args.output.format);
    }
    Ok(Done::Done)
}

/// Moves the bar: each row is taken in, walked and gone through.
fn show(bar: &ProgressBar, told: &v1::TrainingSetProgress) {
    let (what, done, total) = match told.state() {
        v1::training_set_progress::State::Walking if told.rows_taken < told.rows => {
            ("taking the spine in", told.rows_taken, told.rows)
        }
        v1::training_set_progress::State::Walking => ("looking into history", told.rows_walked, told.rows_to_walk),
        v1::training_set_progress::State::Found => ("putting rows together", told.rows_done, told.rows),
        _ if told.rows_done > 0 => ("putting rows together", told.rows_done, told.rows),
        _ => ("waiting for its turn", 0, told.rows),
    };
    bar.set_prefix(what);
    bar.set_length(total);
    bar.set_position(done);
}

async fn get(args: &GetArgs, server: &Server) -> Result<Done, Failure> {
    let client = server.connect().await?;
    let set = client.get_training_set(&args.name).await?;
    let edge = |edge: v1::LineageEdge| {
        let (from, to) = (edge_end(edge.from_kind, &edge.from_name)?, edge_end(edge.to_kind, &edge.to_name)?);
        Ok(json!({"from": from, "to": to}))
    };
    let lineage = client.get_training_set_lineage(&reference(&set)).await?;
    let edges = |edges: Vec<v1::LineageEdge>| edges.into_iter().map(edge).collect::<Result<Vec<Json>, Failure>>();
    let mut shown = document(&set);
    shown["lineage"] = json!({ "upstream": edges(lineage.upstream)?, "downstream": edges(lineage.downstream)? });
    output::print_as(args.output.format, &shown, || described(&set, &shown["lineage"]))?;
    Ok(Done::Done)
}

async fn list(args: &ListArgs, server: &Server) -> Result<Done, Failure> {
    let sets = server.connect().await?.list_training_sets().await?;
    let documents = json!({ "training_sets": sets.iter().map(document).collect::<Vec<_>>() });
    output::print_as(args.output.format, &documents, || {
        if sets.is_empty() {
            return "there are no saved training sets".to_owned();
        }
        let row = |set: &v1::TrainingSet| {
            vec![
                reference(set),
                set.services.join(", "),
                mode(set).to_owned(),
                output::count(set.rows),
                time::show(set.cutoff),
                time::show(set.created_micros),
            ]
        };
        let header = ["name", "services", "mode", "rows", "cut-off", "created"];
        output::table(&header, &sets.iter().map(row).collect::<Vec<_>>(), &[3])
    })?;
    Ok(Done::Done)
}

async fn verify(args: &VerifyArgs, server: &Server) -> Result<Done, Failure> {
    let client = server.connect().await?;
    let bar = progress::rows("joining", 0);
    let verified = client.verify_training_set(&args.name, |told| show(&bar, told)).await;
    bar.finish_and_clear();
    let verified = verified?;
    // What is too old may have had no part in it.
    if !verified.lost.is_empty() || !verified.is_same && !verified.too_old.is_empty() {
        return Err(has_lost(&verified.name, &verified.lost, &verified.too_old));
    }
    if !verified.is_same {
        return Err(differs(&verified.name, &verified.content_hash, &verified.found_hash));
    }
    let shown = json!({
        "name": verified.name, "same": true, "rows": verified.rows, "content_hash": verified.content_hash,
    });
    output::print_as(args.output.format, &shown, || {
        let rows = output::counted(verified.rows, "row");
        format!("{}: the same {rows}, content hash {}", verified.name, verified.content_hash)
    })?;
    Ok(Done::Done)
}

async fn delete(args: &DeleteArgs, server: &Server) -> Result<Done, Failure> {
    let deleted = server.connect().await?.delete_training_set(&args.name).await?;
    output::print_as(args.output.format, &json!({ "deleted": deleted }), || format!("deleted {}", deleted.join(", ")))?;
    Ok(Done::Done)
}

/// A saved training set whose rows are others now.
fn differs(name: &str, saved: &str, found: &str) -> Failure {
    Failure::new(
        "TRAINING_SET_DIFFERS",
        format!("{name} has other rows than when it was saved: content hash {found}, not {saved}"),
    )
    .hint("its history was changed behind the server's back, or this is a defect: please report it")
    .with("training_set", name)
    .with("content_hash", saved)
    .with("found_hash", found)
}

/// A saved training set that an erasure has taken rows of, or retention rows of what it is made of.
fn has_lost(name: &str, lost: &[v1::LostRows], too_old: &[v1::RowsTooOld]) -> Failure {
    Failure::new("TRAINING_SET_LOST_ROWS", format!("{name} is not as it was saved: {}", losses(lost, too_old)))
        .hint("what is left can be pulled; save it under a new version to have a hash of it")
        .with("training_set", name)
}

/// `it lost 3 rows to erasure 7 (2026-01-01T00:00:00Z)`, and what history keeps no more.
fn losses(lost: &[v1::LostRows], too_old: &[v1::RowsTooOld]) -> String {
    let erased = |lost: &v1::LostRows| {
        let rows = output::counted(lost.rows, "row");
        format!("it lost {rows} to erasure {} ({})", lost.erasure, time::show(lost.at_micros))
    };
    let too_old = too_old.iter().map(|rows| {
        let (view, before) = (format!("{}@{}", rows.view, rows.view_version), time::show(rows.before_micros));
        format!(
            "rows of {view} that happened before {before} are gone by its retention ({})",
            time::show(rows.at_micros)
        )
    });
    lost.iter().map(erased).chain(too_old).collect::<Vec<_>>().join(", ")
}

fn reference(set: &v1::TrainingSet) -> String {
    format!("{}@{}", set.name, set.version)
}

fn mode(set: &v1::TrainingSet) -> &'static str {
    if set.r#final { "final" } else { "as_known" }
}

fn summary(set: &v1::TrainingSet) -> String {
    let report = v1::TrainingSetReport {
        differing_rows: set.differing_rows,
        row_view_pairs: set.row_view_pairs,
        r#final: set.r#final,
        ..Default::default()
    };
    let shown_mode = if set.r#final { "final" } else { "as known" };
    let mut text = format!(
        "{}, {shown_mode}, cut-off {}, registry revision {}\ncontent hash {}\n{}\n\n",
        set.services.join(", "),
        time::show(set.cutoff),
        set.registry_revision,
        set.content_hash,
        historical::difference(&report),
    );
    if set.lost.is_empty() && !set.statistics.is_empty() {
        text.push_str(&statistics(set));
        text.push('\n');
    }
    if !set.statistics_left_out.is_empty() {
        text.push_str(&format!("statistics are not told {}\n", set.statistics_left_out));
    }
    let told = losses(&set.lost, &set.too_old);
    if !set.lost.is_empty() {
        text.push_str(&format!("{told}; the content hash is of the rows before, and statistics are gone\n"));
    } else if !set.too_old.is_empty() {
        text.push_str(&format!("{told}; hash and statistics are of the set as it was saved\n"));
    }
    if !set.masked.is_empty() {
        let masked = set.masked.join(", ");
        text.push_str(&format!("masked, since who made it had no grant for personal data (pii): {masked}\n"));
    }
    text.truncate(text.trim_end().len());
    text
}

/// The statistics of each feature, line by line.
fn statistics(set: &v1::TrainingSet) -> String {
    let number = |value: Option<f64>| {
        value
            .map(|value| format!("{value:.6}").trim_end_matches('0').trim_end_matches('.').to_owned())
            .unwrap_or_default()
    };
    let row = |column: &v1::ColumnStatistics| {
        vec![
            column.name.clone(),
            column.r#type.clone(),
            output::count(column.nulls),
            output::count(column.not_found),
            output::count(column.expired),
            number(column.min),
            number(column.mean),
            number(column.max),
        ]
    };
    let header = ["feature", "type", "nulls", "not found", "expired", "min", "mean", "max"];
    output::table(&header, &set.statistics.iter().map(row).collect::<Vec<_>>(), &[2, 3, 4, 5, 6, 7])
}

fn described(set: &v1::TrainingSet, lineage: &Json) -> String {
    let title = output::on_stdout(&format!("TrainingSet/{}", reference(set)), Tone::Strong);
    let table = |table: &v1::TableVersion| {
        if is_of_another(&table.view) {
            return format!("  {}@{}", table.view, table.view_version);
        }
        let landed =
            table.delta_version.map_or("nothing landed".to_owned(), |version| format!("Delta version {version}"));
        format!(
            "  {}@{}: {landed}, {} not landed",
            table.view,
            table.view_version,
            output::counted(table.tail_rows, "row")
        )
    };
    let edge = |edge: &Json| {
        format!("  {} -> {}", edge["from"].as_str().unwrap_or_default(), edge["to"].as_str().unwrap_or_default())
    };
    let tables: Vec<String> = set.tables.iter().map(table).collect();
    let edges = |way: &str| lineage[way].as_array().into_iter().flatten().map(edge).collect::<Vec<_>>().join("\n");
    let trains = match edges("downstream") {
        none if none.is_empty() => String::new(),
        consumers => format!("\nmay train\n{consumers}"),
    };
    format!(
        "{title}\n  {}, created {} by {}\n  spine {} (hash {}), as of '{}'\nread\n{}\nmade of\n{}{trains}\n\n{}",
        output::counted(set.rows, "row"),
        time::show(set.created_micros),
        set.created_by,
        set.spine,
        set.spine_hash,
        set.event_time,
        tables.join("\n"),
        edges("upstream"),
        summary(set),
    )
}

fn lost_document(lost: &v1::LostRows) -> Json {
    json!({ "erasure": lost.erasure, "at": time::show(lost.at_micros), "rows": lost.rows })
}

fn too_old_document(rows: &v1::RowsTooOld) -> Json {
    json!({
        "view": format!("{}@{}", rows.view, rows.view_version), "before": time::show(rows.before_micros),
        "at": time::show(rows.at_micros),
    })
}

/// What is printed for programs, and kept in the metadata of a file that is pulled.
fn document(set: &v1::TrainingSet) -> Json {
    let column = |column: &v1::TrainingSetColumn| json!({"name": column.name, "type": column.r#type});
    let statistics = |column: &v1::ColumnStatistics| {
        json!({
            "name": column.name, "type": column.r#type, "nulls": column.nulls,
            "statuses": {
                "PRESENT": column.present, "NULL": column.written_null, "NOT_FOUND": column.not_found,
                "EXPIRED": column.expired, "MASKED": column.masked,
            },
            "min": column.min, "mean": column.mean, "max": column.max,
        })
    };
    json!({
        "name": reference(set), "services": set.services, "mode": mode(set), "cutoff": time::show(set.cutoff),
        "registry_revision": set.registry_revision, "rows": set.rows, "differing_rows": set.differing_rows,
        "row_view_pairs": set.row_view_pairs, "spine": set.spine, "spine_hash": set.spine_hash,
        "event_time": set.event_time, "with_status": set.with_status, "with_event_time": set.with_event_time,
        "content_hash": set.content_hash, "tables": set.tables.iter().map(historical::table_json).collect::<Vec<_>>(),
        "columns": set.columns.iter().map(column).collect::<Vec<_>>(),
        "statistics": set.statistics.iter().map(statistics).collect::<Vec<_>>(),
        "statistics_left_out": Some(&set.statistics_left_out).filter(|why| !why.is_empty()),
        "created": time::show(set.created_micros), "created_by": set.created_by, "masked": set.masked,
        "lost": set.lost.iter().map(lost_document).collect::<Vec<_>>(),
        "too_old": set.too_old.iter().map(too_old_document).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> v1::TrainingSet {
        v1::TrainingSet {
            name: "flights".to_owned(),
            version: 3,
            services: vec!["delay_model@1".to_owned()],
            rows: 1_000,
            content_hash: "abc".to_owned(),
            statistics: vec![v1::ColumnStatistics {
                name: "airport_weather__temp".to_owned(),
                r#type: "float64".to_owned(),
                nulls: 25,
                present: 975,
                not_found: 25,
                min: Some(-1.5),
                max: Some(100.0),
                mean: Some(40.25),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn the_summary_tells_hash_and_statistics() {
        let shown = summary(&set());
        assert!(
            shown.starts_with("delay_model@1, as known, cut-off ") && shown.contains("content hash abc"),
            "{shown}"
        );
        let line = shown.lines().last().expect("a line per feature");
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(words, ["airport_weather__temp", "float64", "25", "25", "0", "-1.5", "40.25", "100"]);
    }

    #[test]
    fn statistics_that_are_not_told_are_said_to_be_left_out_and_why() {
        let why = "of any column: there is no feature service 'bank/model'".to_owned();
        let told = v1::TrainingSet { statistics: Vec::new(), statistics_left_out: why.clone(), ..set() };
        let shown = summary(&told);
        assert!(shown.ends_with(&format!("statistics are not told {why}")) && !shown.contains("FEATURE"), "{shown}");
        assert_eq!(document(&told)["statistics_left_out"], json!(why));
    }

    #[test]
    fn what_is_read_of_another_tenants_view_is_told_by_its_owners_name_and_without_its_rows() {
        let table = |view: &str| v1::TableVersion { view: view.to_owned(), view_version: 1, ..Default::default() };
        let told = v1::TrainingSet { tables: vec![table("bank/last_purchase"), table("last_purchase")], ..set() };
        let shown = described(&told, &json!({}));
        let read: Vec<&str> = shown.lines().filter(|line| line.contains("last_purchase@1")).collect();
        assert_eq!(read, ["  bank/last_purchase@1", "  last_purchase@1: nothing landed, 0 rows not landed"]);
        let tables = &document(&told)["tables"];
        assert_eq!((&tables[0]["tail_rows"], &tables[1]["tail_rows"]), (&Json::Null, &json!(0)));
    }

    #[test]
    fn programs_get_everything() {
        let shown = document(&set());
        assert_eq!(
            (&shown["name"], &shown["mode"], &shown["rows"]),
            (&json!("flights@3"), &json!("as_known"), &json!(1_000))
        );
        assert_eq!(shown["statistics"][0]["statuses"]["NOT_FOUND"], json!(25));
        assert_eq!(shown["statistics"][0]["mean"], json!(40.25));
    }
}
