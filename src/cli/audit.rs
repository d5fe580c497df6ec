//! `hydrant audit`: who did what to what, and what came of it; and whether the log of it is whole.

use hydrant_proto::v1;
use hydrant_storage::order::Micros;
use serde_json::{Value, json};

use super::output::{self, ResultOutput};
use super::{Done, Failure, Format, Server, time};
use crate::error::Violation;

/// Records that are asked for at a time.
const PAGE: u32 = 1_000;
/// Names that a line of the table has.
const NAMED: usize = 3;

/// List and verify the audit log
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  hydrant audit list --since 2026-11-28T00:00:00Z --outcome refused\n  hydrant audit verify"
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    List(ListArgs),
    Verify(VerifyArgs),
}

/// List what was asked for and what came of it, the newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  hydrant audit list --action Apply --resource airport_weather --limit 20 -o json")]
struct ListArgs {
    /// From this instant on, such as 2026-11-28T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    since: Option<Micros>,

    /// Before this instant
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    until: Option<Micros>,

    /// Of this caller
    #[arg(long, default_value = "")]
    caller: String,

    /// Of actions with this in their name, such as Apply or QuotaService
    #[arg(long, default_value = "")]
    action: String,

    /// About something with this in its name
    #[arg(long, default_value = "")]
    resource: String,

    /// asked, done, failed, given_up, refused or removed
    #[arg(long, default_value = "", hide_default_value = true)]
    outcome: String,

    /// Of this tenant
    #[arg(long, default_value = "")]
    tenant: String,

    /// So many at most
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,

    #[command(flatten)]
    output: ResultOutput,
}

/// Hold the whole log to its checksums and its chain of hashes
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  hydrant audit verify\n  hydrant audit verify --noted 41:9f…\n\nNote the head that it prints \
    where the server's machine can't write: with it, a log that was cut off or written anew is found out."
)]
struct VerifyArgs {
    /// A head that an earlier run printed
    #[arg(long, value_name = "SEQUENCE:HASH", default_value = "", hide_default_value = true)]
    noted: String,

    #[command(flatten)]
    output: ResultOutput,
}

impl Args {
    pub fn format(&self) -> Format {
        match &self.command {
            Command::List(args) => args.output.format,
            Command::Verify(args) => args.output.format,
        }
    }
}

pub(super) async fn run(args: Args, server: &Server) -> Result<Done, Failure> {
    match args.command {
        Command::List(args) => list(args, server).await,
        Command::Verify(args) => verify(&args, server).await,
    }
}

async fn list(args: ListArgs, server: &Server) -> Result<Done, Failure> {
    let ListArgs { since, until, caller, action, resource, outcome, tenant, limit, output } = args;
    let client = server.connect().await?;
    let mut records = Vec::new();
    let mut page_token = String::new();
    loop {
        let left = limit - u32::try_from(records.len()).unwrap_or(limit);
        let request = v1::ListAuditRecordsRequest {
            since_micros: since,
            until_micros: until,
            caller: caller.clone(),
            action: action.clone(),
            resource: resource.clone(),
            outcome: outcome.clone(),
            tenant: tenant.clone(),
            page_size: left.min(PAGE),
            page_token,
        };
        let page = client.list_audit_records(request).await?;
        records.extend(page.records);
        page_token = page.next_page_token;
        if page_token.is_empty() || records.len() >= limit as usize {
            break;
        }
    }
    let is_cut = !page_token.is_empty();
    let documents = json!({ "records": records.iter().map(shown).collect::<Vec<_>>(), "more": is_cut });
    output::print_as(output.format, &documents, || {
        if records.is_empty() {
            return "there are no such records".to_owned();
        }
        let rows: Vec<Vec<String>> = records.iter().map(row).collect();
        let table = output::table(&["#", "time", "tenant", "caller", "from", "action", "of", "outcome"], &rows, &[0]);
        if is_cut { format!("{table}\nthere are older ones: --limit, --until") } else { table }
    })?;
    Ok(Done::Done)
}

async fn verify(args: &VerifyArgs, server: &Server) -> Result<Done, Failure> {
    let verified = server.connect().await?.verify_audit(&args.noted).await?;
    if !verified.problems.is_empty() {
        let violation = |problem: &v1::AuditProblem| Violation {
            path: format!("{} at byte {}", problem.file, problem.offset),
            message: problem.message.clone(),
        };
        let told = output::counted(verified.problems.len() as u64, "problem");
        return Err(Failure::new("AUDIT_DAMAGED", format!("the audit log is not as it was written: {told}"))
            .with("problems", verified.problems.len())
            .violations(verified.problems.iter().map(violation).collect())
            .hint("keep the directory `audit` as it is, to be looked into; a backup has the records up to when it was made"));
    }
    let document = json!({ "records": verified.records, "first": verified.first, "head": verified.head });
    output::print_as(args.output.format, &document, || {
        format!("the audit log is whole: {}\nhead {}", output::counted(verified.records, "record"), verified.head)
    })?;
    Ok(Done::Done)
}

/// For people.
fn row(record: &v1::AuditRecord) -> Vec<String> {
    let outcome = match record.outcome.as_str() {
        "done" => match (record.revision_before, record.revision_after) {
            (Some(before), Some(after)) => format!("#{} done: revision {before} -> {after}", record.of),
            _ => format!("#{} done", record.of),
        },
        "failed" => format!("#{} failed: {}", record.of, record.reason),
        "given_up" => format!("#{} given up", record.of),
        "refused" if record.count > 1 => {
            format!("refused: {}, {} times since {}", record.reason, record.count, time::show(record.since_micros))
        }
        "refused" => format!("refused: {}", record.reason),
        "removed" => format!("removed through #{}", record.through),
        other => other.to_owned(),
    };
    vec![
        record.sequence.to_string(),
        time::show(record.time_micros),
        printable(&record.tenant),
        printable(&record.caller),
        printable(&record.peer),
        printable(&record.action),
        printable(&named(&record.resources)),
        printable(&outcome),
    ]
}

/// The first few; `-o json` has them all.
fn named(resources: &[String]) -> String {
    let more = resources.len().saturating_sub(NAMED);
    let more = (more > 0).then(|| format!("{more} more"));
    resources.iter().take(NAMED).cloned().chain(more).collect::<Vec<_>>().join(", ")
}

/// What strangers have sent must not move the cursor of who reads it.
fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

/// For programs.
fn shown(record: &v1::AuditRecord) -> Value {
    let mut shown = json!({
        "sequence": record.sequence, "time": time::show(record.time_micros), "tenant": record.tenant,
        "caller": record.caller, "peer": record.peer, "action": record.action, "resources": record.resources,
        "outcome": record.outcome,
    });
    if !record.trace.is_empty() {
        shown["trace"] = json!(record.trace);
    }
    match record.outcome.as_str() {
        "done" | "given_up" => shown["of"] = json!(record.of),
        "failed" => {
            shown["of"] = json!(record.of);
            shown["reason"] = json!(record.reason);
        }
        "refused" => {
            shown["reason"] = json!(record.reason);
            shown["count"] = json!(record.count);
            shown["since"] = json!(time::show(record.since_micros));
        }
        "removed" => shown["through"] = json!(record.through),
        _ => {}
    }
    if let (Some(before), Some(after)) = (record.revision_before, record.revision_after) {
        shown["revision_before"] = json!(before);
        shown["revision_after"] = json!(after);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_a_few_and_counts_the_others() {
        let resources = |count: usize| (0..count).map(|number| format!("Entity/e{number}")).collect::<Vec<_>>();
        assert_eq!(named(&resources(0)), "");
        assert_eq!(named(&resources(3)), "Entity/e0, Entity/e1, Entity/e2");
        assert_eq!(named(&resources(25)), "Entity/e0, Entity/e1, Entity/e2, 22 more");
    }
}
