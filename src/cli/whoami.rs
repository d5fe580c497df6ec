//! `hydrant whoami`: whom the server takes the caller for.

use serde_json::json;

use super::key::role_names;
use super::output::{self, ResultOutput};
use super::{Done, Failure, Server, time};

/// Show the caller's tenant and roles, as the server knows them
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  hydrant whoami -o json")]
pub struct Args {
    #[command(flatten)]
    pub output: ResultOutput,
}

pub(super) async fn run(args: Args, server: &Server) -> Result<Done, Failure> {
    let who = server.connect().await?.who_am_i().await?;
    let roles = role_names(&who.roles);
    let document = json!({
        "name": who.name, "tenant": who.tenant, "roles": roles, "views": who.views, "services": who.services,
        "issuer": Some(&who.issuer).filter(|issuer| !issuer.is_empty()),
        "subject": Some(&who.subject).filter(|subject| !subject.is_empty()),
        "expires": who.expires_micros.map(time::show),
    });
    output::print_as(args.output.format, &document, || {
        let may = if roles.is_empty() { "no role".to_owned() } else { roles.join(", ") };
        let mut told = format!("{} in tenant {}: {may}", who.name, who.tenant);
        if !(who.views.is_empty() && who.services.is_empty()) {
            let names: Vec<&str> = who.views.iter().chain(&who.services).map(String::as_str).collect();
            told.push_str(&format!("\nlimited to {}", names.join(", ")));
        }
        if !who.issuer.is_empty() {
            told.push_str(&format!("\nby a token of {} about {}", who.issuer, who.subject));
        }
        if let Some(expires) = who.expires_micros {
            told.push_str(&format!("\nuntil {}", time::show(expires)));
        }
        told
    })?;
    Ok(Done::Done)
}
