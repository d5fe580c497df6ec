//! `hydrant materialize`: what history has of a view, brought online. What is online and newer stays; the
//! same command again changes nothing.

use hydrant_proto::v1;
use serde_json::{Value, json};

use super::output::{self, Format, ResultOutput, counted};
use super::{Done, Failure, Server, progress};
use crate::rpc::client::Client;

/// Bring what history has of views online
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  hydrant materialize user_clicks\n\nOf each key the newest row comes online, unless what is \
    online is newer; and rows that are still to come. `hydrant backfill` does it by itself."
)]
pub struct Args {
    #[arg(required = true, value_name = "VIEW")]
    views: Vec<String>,

    #[command(flatten)]
    pub output: ResultOutput,
}

/// What holds after it was cut off.
pub(super) const GO_ON: &str = "run the same command again: it brings online what is not online yet";

pub(super) async fn run(args: Args, server: &Server) -> Result<Done, Failure> {
    let client = server.connect().await?;
    let mut all = Vec::new();
    for view in &args.views {
        let done = bring_online(&client, view, None).await?;
        if args.output.format == Format::Table {
            output::print(&text(view, &done))?;
        }
        all.push(json(view, &done));
    }
    if args.output.format == Format::Json {
        output::print_json(&json!({"views": all}))?;
    }
    Ok(Done::Done)
}

pub(super) async fn bring_online(
    client: &Client,
    view: &str,
    since_frame: Option<u64>,
) -> Result<v1::MaterializeResponse, Failure> {
    let bar = progress::rows(&format!("bringing {view} online"), 0);
    let done = client.materialize(view, since_frame, |told| {
        bar.set_length(told.total_rows);
        bar.set_position(told.rows);
    });
    let done = done.await;
    bar.finish_and_clear();
    done.map_err(|refusal| match Failure::from(refusal) {
        failure if failure.hint.is_none() && failure.reason != "VIEW_NOT_FOUND" => failure.hint(GO_ON),
        failure => failure,
    })
}

pub(super) fn text(view: &str, done: &v1::MaterializeResponse) -> String {
    match done.written {
        0 => format!("{view}: nothing newer than what is online ({} of history)", counted(done.rows, "row")),
        written => {
            format!("{view}: {} brought online of {} of history", counted(written, "row"), counted(done.rows, "row"))
        }
    }
}

pub(super) fn json(view: &str, done: &v1::MaterializeResponse) -> Value {
    json!({"view": view, "rows": done.rows, "keys": done.keys, "written": done.written})
}
