//! `hydrant rollback`: makes the definitions of an earlier revision those of a new one.

use hydrant_proto::v1;

use super::output::{self, ResultOutput};
use super::plan::{Changes, refusal_of};
use super::{Done, Failure, Server};

/// Go back to what was defined at a revision: all of it or nothing
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  hydrant rollback --to-revision 7 --dry-run\n  hydrant rollback --to-revision 7\n\n\
    What was defined since is deleted, what was deleted is defined again, as a new revision. What the rows that are \
    there or those who use a definition don't allow is refused. Versions of services stay and go on counting. Rows \
    that are gone by a retention stay gone; one that becomes shorter takes more, which is asked about unless --yes \
    is given."
)]
pub struct Args {
    /// The revision to go back to; `hydrant history` lists them
    #[arg(long, value_name = "N")]
    to_revision: u64,

    /// Only show what would change
    #[arg(long)]
    dry_run: bool,

    /// Only if the registry is still at this revision
    #[arg(long, value_name = "N")]
    revision: Option<u64>,

    /// Go back without asking where a retention takes rows for good
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    pub output: ResultOutput,
}

pub(super) async fn run(args: Args, server: &Server) -> Result<Done, Failure> {
    let client = server.connect().await?;
    let request = |validate_only, expected_revision| v1::RollbackRequest {
        to_revision: args.to_revision,
        validate_only,
        expected_revision,
    };
    let mut tries = 0;
    let applied = loop {
        tries += 1;
        // A plan tells every reason; a refusal only as many as fit.
        let planned = client.rollback(request(true, args.revision)).await?;
        let refusal = refusal_of(planned.refusals);
        let shown = Changes::of(planned.changes, planned.registry_revision)?;
        if args.dry_run || refusal.is_some() {
            if args.dry_run {
                output::print_as(args.output.format, &shown.json(), || shown.text())?;
            }
            return match refusal {
                Some(refusal) => Err(refusal.into()),
                None => Ok(Done::Done),
            };
        }
        let revision = shown.confirm(args.yes, args.revision, "--dry-run")?;
        match client.rollback(request(false, revision)).await {
            Err(refusal) if Changes::is_outdated(&refusal, args.revision, tries) => {}
            applied => break applied?,
        }
    };
    let shown = Changes::of(applied.changes, applied.registry_revision)?;
    output::print_as(args.output.format, &shown.done_json(), || shown.done_text())?;
    Ok(Done::Done)
}
