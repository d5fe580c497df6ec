//! `hydrant delete`: takes a definition out of the registry. What is still used is not deleted; the
//! refusal lists by whom.

use serde_json::json;

use super::definitions::KindParser;
use super::output::{self, ResultOutput};
use super::{Done, Failure, Server};
use crate::registry::definition::Kind;

/// Delete a definition that nothing uses, or one version of a service
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  hydrant delete service delay_model@1    # this version, which is not the current one\n  \
    hydrant delete service delay_model      # all its versions"
)]
pub struct Args {
    /// What kind of definition; plurals will do
    #[arg(value_parser = KindParser)]
    kind: Kind,

    /// NAME, or NAME@N for one version of a service
    name: String,

    /// Delete only what still has this etag, as `get -o json` shows it
    #[arg(long, default_value = "", hide_default_value = true)]
    etag: String,

    #[command(flatten)]
    pub output: ResultOutput,
}

pub(super) async fn run(args: Args, server: &Server) -> Result<Done, Failure> {
    let client = server.connect().await?;
    let revision = client.delete_definition(args.kind, &args.name, &args.etag).await?;
    let deleted = format!("{}/{}", args.kind.as_str(), args.name);
    output::print_as(args.output.format, &json!({"deleted": deleted, "registry_revision": revision}), || {
        format!("deleted {deleted} (registry revision {revision})")
    })?;
    Ok(Done::Done)
}
