//! `hydrant delete`: takes a definition out of the registry. What is still used is not deleted; the
//! refusal lists by whom.

use super::definitions::parse_kind;
use super::{Done, Failure, Server, output};
use crate::registry::definition::Kind;

/// Delete a definition that nothing uses
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  hydrant delete service delay_model")]
pub struct Args {
    /// entity, source, view, service or tenant
    #[arg(value_parser = parse_kind)]
    kind: Kind,

    name: String,

    /// Delete only what still has this etag, as `get -o json` shows it
    #[arg(long, default_value = "", hide_default_value = true)]
    etag: String,
}

pub(super) async fn run(args: Args, server: &Server) -> Result<Done, Failure> {
    let client = server.connect().await?;
    let revision = client.delete_definition(args.kind, &args.name, &args.etag).await?;
    output::print(&format!("deleted {}/{} (registry revision {revision})", args.kind.as_str(), args.name))?;
    Ok(Done::Done)
}
