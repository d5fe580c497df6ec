//! `hydrant delete`: takes a definition out of the registry, and tells how much it was read. What is still
//! used is not deleted; the refusal lists by whom.

use hydrant_proto::v1;
use serde_json::json;

use super::definitions::KindParser;
use super::output::{self, ResultOutput};
use super::{Done, Failure, Server, plan};
use crate::registry::definition::Kind;
use crate::rpc::wire::reads::reads_text;

/// Delete a definition that nothing uses, or one version of a service or view
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  hydrant delete service delay_model@1    # this version, which is not the current one\n  \
    hydrant delete service delay_model      # all its versions\n  \
    hydrant delete view airport_weather@1   # this version, in whose place a newer one is served"
)]
pub struct Args {
    /// What kind of definition; plurals will do
    #[arg(value_parser = KindParser)]
    kind: Kind,

    /// NAME, or NAME@N for one version of a service or view
    name: String,

    /// Delete only what still has this etag, as `get -o json` shows it
    #[arg(long, default_value = "", hide_default_value = true)]
    etag: String,

    #[command(flatten)]
    pub output: ResultOutput,
}

pub(super) async fn run(args: Args, server: &Server) -> Result<Done, Failure> {
    let client = server.connect().await?;
    let v1::DeleteDefinitionResponse { registry_revision: revision, reads } =
        client.delete_definition(args.kind, &args.name, &args.etag).await?;
    let deleted = format!("{}/{}", args.kind.as_str(), args.name);
    let shown =
        json!({"deleted": deleted, "registry_revision": revision, "reads": reads.as_ref().map(plan::reads_json)});
    output::print_as(args.output.format, &shown, || {
        let was = reads.as_ref().map(|reads| format!("; it was {}", reads_text(reads))).unwrap_or_default();
        format!("deleted {deleted} (registry revision {revision}){was}")
    })?;
    Ok(Done::Done)
}
