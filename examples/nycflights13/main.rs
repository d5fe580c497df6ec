//! The whole story on a year of real flights: serve, apply, ingest, read online, train, ingest
//! again. It runs the `hydrant` binary as a user would and prints each command; only the timed
//! reads go through the library's client. The server runs on free ports with a folder of its own,
//! and both are gone at the end, however it ends.
//!
//!     make demo

mod reads;
mod server;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tokio::signal::unix::{SignalKind, signal};

use server::Server;

const FOLDER: &str = "examples/nycflights13";
const SOURCES: [&str; 4] = ["departures", "arrivals", "weather", "planes"];
const AT: &str = "2013-12-30T22:30:00Z";
/// A flight of that evening, and one whose aircraft nobody knows.
const KEYS: [&str; 2] =
    ["origin=EWR,carrier=UA,tailnum=N64809,dest=SFO", "origin=JFK,carrier=B6,tailnum=N00000,dest=BQN"];
const SHOWN_ROWS: usize = 4;

#[tokio::main]
async fn main() -> ExitCode {
    let ended = tokio::select! {
        told = tell() => told,
        interrupted = interrupted() => interrupted,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\ndemo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn interrupted() -> Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated.recv() => {}
    }
    anyhow::bail!("interrupted; everything is taken away again")
}

async fn tell() -> Result<()> {
    ensure!(Path::new(FOLDER).is_dir(), "there is no {FOLDER} here: run it from the top of the repository");
    title("A server on one machine, with a folder of its own");
    let server = Server::start().await?;
    let told = chapters(&server).await;
    if told.is_err() {
        server.show_log();
    }
    server.stop().await?;
    told
}

async fn chapters(server: &Server) -> Result<()> {
    server.hydrant(&["version"]).await?;

    title("Definitions: entities, sources, views, a service");
    server.hydrant(&["apply", "-f", &format!("{FOLDER}/definitions")]).await?;
    server.hydrant(&["get", "views"]).await?;

    title("A year of flights goes in");
    ingest_all(server).await?;

    title(&format!("What the model would have seen on {AT}"));
    server.hydrant(&online_get(&KEYS, Some(AT), "table")).await?;
    println!("The second aircraft is in no register and never left: NOT_FOUND, with the default where there is one.");
    let before = server.output(&online_get(&KEYS, Some(AT), "json")).await?;

    title("The same, now");
    server.hydrant(&online_get(&KEYS[..1], None, "table")).await?;
    println!("The newest weather is of 2013, and counts for 3 h: EXPIRED. The other views have no ttl.");

    title("20,000 online reads, one after the other, one row of all features each");
    reads::time(server.address(), &format!("{FOLDER}/data/requests.parquet")).await?;

    title("The training set: for each of 336,776 flights, what was known two hours before");
    let training = server.folder().join("training.parquet");
    let training = training.to_str().context("the temporary folder has a name in UTF-8")?;
    let spine = format!("{FOLDER}/data/requests.parquet");
    let get = ["historical", "get", "--service", "delay_model", "--spine", &spine];
    server.hydrant(&[&get[..], &["--event-time", "event_timestamp", "-o", training]].concat()).await?;
    first_rows(Path::new(training))?;

    title("The same files again");
    ingest_all(server).await?;
    let after = server.output(&online_get(&KEYS, Some(AT), "json")).await?;
    ensure!(values_of(&before)? == values_of(&after)?, "ingesting again has changed what is read");
    println!("Nothing has changed: the same read as before gives the same values.");
    Ok(())
}

async fn ingest_all(server: &Server) -> Result<()> {
    for source in SOURCES {
        server.hydrant(&["ingest", source, &format!("{FOLDER}/data/{source}.parquet")]).await?;
    }
    Ok(())
}

fn online_get<'a>(keys: &[&'a str], at: Option<&'a str>, format: &'a str) -> Vec<&'a str> {
    let mut arguments = vec!["online", "get", "--service", "delay_model", "-o", format];
    arguments.extend(keys.iter().flat_map(|key| ["--key", *key]));
    arguments.extend(at.iter().flat_map(|at| ["--at", *at]));
    arguments
}

/// The rows of an answer, without how complete the store was then.
fn values_of(answer: &str) -> Result<serde_json::Value> {
    let mut answer: serde_json::Value = serde_json::from_str(answer).context("the answer is no JSON")?;
    Ok(answer["rows"].take())
}

/// Prints the first rows of a file, each as a column, since there are more features than would fit
/// side by side.
fn first_rows(path: &Path) -> Result<()> {
    let file = std::fs::File::open(path)?;
    let mut batches = ParquetRecordBatchReaderBuilder::try_new(file)?.with_batch_size(SHOWN_ROWS).build()?;
    let batch = batches.next().context("the training set is empty")??;
    println!("\nThe first rows:");
    let options = FormatOptions::default().with_null("-");
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let cells = ArrayFormatter::try_new(column, &options)?;
        let row: Vec<String> =
            (0..batch.num_rows()).map(|row| format!("{:<22}", cells.value(row).to_string())).collect();
        println!("  {:<34}{}", field.name(), row.concat().trim_end());
    }
    Ok(())
}

fn title(text: &str) {
    println!("\n== {text}");
}
