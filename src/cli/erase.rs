//! `hydrant erase`: an entity key erased from everywhere, with what was found place by place, and the
//! erasures that there were. It never prints a key.

use std::time::Duration;

use hydrant_proto::v1;
use serde_json::{Value as Json, json};

use super::keys::{self, KeyArgument, KeyTypes};
use super::output::{self, ResultOutput};
use super::{Done, Failure, Format, Server, confirm, definitions, time};
use crate::registry::definition::{Definition, Kind};
use crate::rpc::wire::columns::encode_column;

/// Erase an entity key from everywhere
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:\n  hydrant erase --entity user --key user_id=42 --dry-run\n  \
    hydrant erase --entity user --key user_id=42 --yes\n  hydrant erase list\n\nIt waits until the erasure is done; \
    interrupted, the server goes on with it. What is erased is gone for good; backups made before hold it still."
)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,

    /// The entity, whose rows go from every view that has it
    #[arg(long, value_name = "ENTITY", required = true)]
    entity: Option<String>,

    /// All join keys of the entity, such as origin=EWR,carrier=UA ('\,' for a comma in a value)
    #[arg(long, value_name = "KEY=VALUE,…", value_parser = keys::parse, required = true)]
    key: Option<KeyArgument>,

    /// Tell what there is of the key, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// Erase without asking
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    output: ResultOutput,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Get(GetArgs),
    List(ListArgs),
}

/// Show an erasure: how far it is, what was erased, and what a search found afterwards
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  hydrant erase get 7 -o json")]
struct GetArgs {
    /// Its number
    erasure: String,

    #[command(flatten)]
    output: ResultOutput,
}

/// List erasures, the newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  hydrant erase list --limit 20")]
struct ListArgs {
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u32,

    #[command(flatten)]
    output: ResultOutput,
}

/// How often it is asked whether an erasure is done.
const ASK_AGAIN: Duration = Duration::from_millis(200);

impl Args {
    pub fn format(&self) -> Format {
        match &self.command {
            Some(Command::Get(args)) => args.output.format,
            Some(Command::List(args)) => args.output.format,
            None => self.output.format,
        }
    }
}

pub(super) async fn run(args: Args, server: &Server) -> Result<Done, Failure> {
    match args.command {
        Some(Command::Get(args)) => get(&args, server).await,
        Some(Command::List(args)) => list(&args, server).await,
        None => erase(args, server).await,
    }
}

async fn erase(args: Args, server: &Server) -> Result<Done, Failure> {
    // Without a command clap demands both.
    let (entity, key) = (args.entity.unwrap_or_default(), args.key.unwrap_or_else(|| KeyArgument(Vec::new())));
    let client = server.connect().await?;
    let entities = definitions::decode(client.list_definitions(Kind::Entity).await?)?;
    // One that isn't there is the server's to refuse.
    let is_meant = |one: &&Definition| one.metadata.name.as_str() == entity;
    let is_there = entities.iter().any(|one| is_meant(&one));
    let types = KeyTypes::of_entities(entities.iter().filter(|one| !is_there || is_meant(one)));
    let columns = types.columns(std::slice::from_ref(&key))?;
    let keys: Vec<v1::Column> =
        columns.iter().map(|(name, column)| encode_column(name, column)).collect::<Result<_, _>>()?;
    let request = |validate_only| v1::EraseKeyRequest { entity: entity.clone(), keys: keys.clone(), validate_only };
    if args.dry_run || !args.yes {
        let found = client.erase_key(request(true)).await?;
        if args.dry_run {
            let mut shown = document(&found);
            shown["dry_run"] = json!(true);
            output::print_as(args.output.format, &shown, || {
                format!("nothing was changed; there is of this key\n{}", places(&found))
            })?;
            return Ok(Done::Done);
        }
        let hint = "look with --dry-run, then give --yes";
        confirm::ask(&places(&found), "erases rows", "erase all of it for good", hint)?;
    }
    let mut erasure = client.erase_key(request(false)).await?;
    let mut told = String::new();
    while erasure.finished_micros.is_none() {
        if erasure.problem != told {
            told.clone_from(&erasure.problem);
            if !told.is_empty() {
                output::warn(&format!("not done yet, and tried again: {told}"), args.output.format);
            }
        }
        tokio::time::sleep(ASK_AGAIN).await;
        erasure = client.get_erasure(&erasure.name).await?;
    }
    output::print_as(args.output.format, &document(&erasure), || described(&erasure))?;
    Ok(Done::Done)
}

async fn get(args: &GetArgs, server: &Server) -> Result<Done, Failure> {
    let erasure = server.connect().await?.get_erasure(&args.erasure).await?;
    output::print_as(args.output.format, &document(&erasure), || described(&erasure))?;
    Ok(Done::Done)
}

async fn list(args: &ListArgs, server: &Server) -> Result<Done, Failure> {
    let erasures = server.connect().await?.list_erasures(args.limit as usize).await?;
    let documents = json!({ "erasures": erasures.iter().map(document).collect::<Vec<_>>() });
    output::print_as(args.output.format, &documents, || {
        if erasures.is_empty() {
            return "no key was erased".to_owned();
        }
        let row = |erasure: &v1::Erasure| {
            vec![
                number(erasure).to_owned(),
                erasure.entity.clone(),
                time::show(erasure.requested_micros),
                erasure.requested_by.clone(),
                erasure.finished_micros.map_or_else(|| "not done".to_owned(), time::show),
                erasure.problem.clone(),
            ]
        };
        let header = ["erasure", "entity", "requested", "by", "done", "in the way"];
        output::table(&header, &erasures.iter().map(row).collect::<Vec<_>>(), &[])
    })?;
    Ok(Done::Done)
}

fn described(erasure: &v1::Erasure) -> String {
    let done = match erasure.finished_micros {
        Some(finished) => format!("done {}: a search of all places found nothing of it", time::show(finished)),
        None if erasure.problem.is_empty() => "not done yet".to_owned(),
        None => format!("not done yet, and tried again: {}", erasure.problem),
    };
    let mut text = format!(
        "erasure {} of a key of '{}', requested {} by {}\n{done}\n{}",
        number(erasure),
        erasure.entity,
        time::show(erasure.requested_micros),
        erasure.requested_by,
        places(erasure),
    );
    if !erasure.backups.is_empty() {
        text.push_str(&format!("\nbackups made before may hold the key still: {}", erasure.backups.join(", ")));
    }
    text
}

/// Place by place.
fn places(erasure: &v1::Erasure) -> String {
    let erased = erasure.erased.unwrap_or_default();
    let row = |place: &str, rows: u64, what: String| vec![place.to_owned(), output::count(rows), what];
    let files = |number: u64, what: &str| if number == 0 { String::new() } else { output::counted(number, what) };
    let rows = [
        row("online store", erased.online_rows, String::new()),
        row("not landed yet", erased.tail_rows, String::new()),
        row("log", erased.log_rows, files(erased.log_segments, "segment")),
        row("history", erased.history_rows, files(erased.history_files, "file")),
        row("stored spines", erased.spine_rows, files(erased.training_sets, "saved training set")),
    ];
    let mut text = output::table(&["place", "rows", "in"], &rows, &[1]);
    if erased.older_files > 0 {
        text.push_str(&format!("\n{} of older versions deleted", output::counted(erased.older_files, "file")));
    }
    if erased.staged_backfills > 0 {
        text.push_str(&format!("\n{} under way given up", output::counted(erased.staged_backfills, "backfill")));
    }
    text.push_str(&format!("\nviews: {}", erasure.views.join(", ")));
    text
}

/// For programs.
fn document(erasure: &v1::Erasure) -> Json {
    let places = |places: &v1::ErasedPlaces| {
        json!({
            "online_rows": places.online_rows, "tail_rows": places.tail_rows, "log_rows": places.log_rows,
            "log_segments": places.log_segments, "history_rows": places.history_rows,
            "history_files": places.history_files, "older_files": places.older_files,
            "staged_backfills": places.staged_backfills, "spine_rows": places.spine_rows, "spines": places.spines,
            "training_sets": places.training_sets,
        })
    };
    json!({
        "name": erasure.name, "entity": erasure.entity, "views": erasure.views,
        "requested": (erasure.requested_micros > 0).then(|| time::show(erasure.requested_micros)),
        "requested_by": erasure.requested_by, "finished": erasure.finished_micros.map(time::show),
        "through_frame": erasure.through_frame, "erased": erasure.erased.as_ref().map(places),
        "left": erasure.left.as_ref().map(places), "backups": erasure.backups, "problem": erasure.problem,
    })
}

fn number(erasure: &v1::Erasure) -> &str {
    erasure.name.rsplit('/').next().unwrap_or_default()
}
