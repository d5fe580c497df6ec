//! `hydrant apply`: makes a folder of definitions so, all of them or none.

use std::path::PathBuf;

use super::definitions::DefinitionFiles;
use super::output::{self, ResultOutput};
use super::plan::{self, Changes};
use super::{Done, Failure, Server};

/// Apply definitions: all of them or none
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  hydrant apply -f definitions\n  hydrant apply -f definitions --prune --revision 7\n\n\
    A retention that is set or shortened takes rows for good: that is asked about, unless --yes is given."
)]
pub struct Args {
    /// Folder of YAML definitions, or a file; may be given again
    #[arg(short = 'f', long = "file", value_name = "DIR", required = true)]
    files: Vec<PathBuf>,

    /// Apply only if the registry is still at this revision, as `plan -o json` has told it
    #[arg(long, value_name = "N", alias = "expected-revision")]
    revision: Option<u64>,

    /// Also delete what is defined and not in the files, of the kinds that they hold; all of it or nothing
    #[arg(long)]
    prune: bool,

    /// Apply without asking where a retention takes rows for good
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    pub output: ResultOutput,
}

pub(super) async fn run(args: Args, server: &Server) -> Result<Done, Failure> {
    let files = DefinitionFiles::read(&args.files, args.output.format)?;
    let mut tries = 0;
    let applied = loop {
        tries += 1;
        // A plan tells every problem; a refusal only as many as fit.
        let (client, planned, refusal) = plan::made(&files, args.prune, server).await?;
        if let Some(refusal) = refusal {
            return Err(files.failure(Some(refusal)));
        }
        let revision = planned.confirm(args.yes, args.revision, "`hydrant plan`")?;
        match client.apply_with(&files.definitions(), args.prune, revision).await {
            Err(refusal) if Changes::is_outdated(&refusal, args.revision, tries) => {}
            applied => break applied.map_err(|error| files.failure(Some(error.into())))?,
        }
    };
    let shown = Changes::of(applied.changes, applied.registry_revision)?;
    output::print_as(args.output.format, &shown.done_json(), || shown.done_text())?;
    Ok(Done::Done)
}
