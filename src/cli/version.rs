//! `hydrant version`: this program's version, and the server's where one answers.

use serde_json::json;

use super::output::{self, ResultOutput};
use super::{Done, Failure, Server, time};

/// Show the versions of this program and of the server
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  hydrant version -o json")]
pub struct Args {
    #[command(flatten)]
    pub output: ResultOutput,
}

pub(super) async fn run(args: Args, server: &Server) -> Result<Done, Failure> {
    let own = env!("CARGO_PKG_VERSION");
    // Without a server there is still a version to tell.
    let info = match server.connect().await {
        Ok(client) => Some(client.server_info().await?),
        Err(_) => None,
    };
    let about_server = info.as_ref().map(|info| {
        json!({
            "version": info.version, "flight_port": info.flight_port, "http_port": info.http_port,
            "registry_revision": info.registry_revision, "store_time": time::show(info.store_time),
        })
    });
    output::print_as(args.output.format, &json!({"version": own, "server": about_server}), || {
        let mut text = format!("hydrant {own}\n");
        text.push_str(&match &info {
            Some(info) => format!(
                "server  {} at {} (Flight on port {}, HTTP on port {}; registry revision {}; store time {})",
                info.version,
                server.address(),
                info.flight_port,
                info.http_port,
                info.registry_revision,
                time::show(info.store_time)
            ),
            None => format!("server  none answers at {}", server.address()),
        });
        text
    })?;
    Ok(Done::Done)
}
