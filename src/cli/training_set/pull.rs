//! `hydrant training-set pull`: a saved training set into one file in the spine's order, several
//! endpoints at a time, each begun again where it broke off, and held to its hash.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use bytes::Bytes;
use hydrant_proto::v1;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{differs, document, has_lost, losses, lost_document, reference, too_old_document};
use crate::cli::input::ReservedOutput;
use crate::cli::output::{self, Format};
use crate::cli::{Done, Failure, Server, historical, progress};
use crate::error::Code;
use crate::rpc::client::{Client, ContentDigest, Refusal};

/// Write a saved training set into a Parquet file, and hold it to its hash
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  hydrant training-set pull flights@1 -o training.parquet")]
pub(super) struct PullArgs {
    /// NAME (its newest version) or NAME@N
    name: String,

    /// Where to write: the same rows as when it was saved
    #[arg(short = 'o', long = "output", value_name = "OUT.parquet")]
    output: PathBuf,

    /// Endpoints that are pulled at the same time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=64))]
    parallel: u64,

    /// How to print what came out, and refusals
    #[arg(long, value_name = "FORMAT", default_value = "table", value_parser = output::table_or_json())]
    pub(super) format: Format,
}

/// Batches of each endpoint that wait for those before them.
const AHEAD: usize = 8;
/// How often an endpoint that broke off is begun again.
const TRIES: u32 = 3;
/// Before it is.
const PAUSE: Duration = Duration::from_millis(500);

/// An endpoint that is being pulled; dropping it ends that.
struct Pulling {
    batches: mpsc::Receiver<Result<RecordBatch, Refusal>>,
    task: JoinHandle<()>,
}

impl Drop for Pulling {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) async fn run(args: PullArgs, server: &Server) -> Result<Done, Failure> {
    let started = Instant::now();
    let output = ReservedOutput::new(&args.output)?;
    let client = server.connect().await?;
    let mut set = client.get_training_set(&args.name).await?;
    // The version that was just shown, whatever is saved meanwhile.
    let command = v1::TrainingSetCommand { name: reference(&set), endpoint_rows: 0 };
    let endpoints = client.endpoints(v1::flight_command::Command::TrainingSet(command)).await?;

    let bar = progress::rows("pulling", set.rows);
    let mut output = output.begin(&endpoints.schema)?;
    let mut digest = ContentDigest::new(&endpoints.schema, endpoints.prepared.spine_columns as usize);
    let mut waiting = endpoints.tickets.into_iter();
    let mut pulling: VecDeque<Pulling> = VecDeque::new();
    let mut rows = 0;
    loop {
        while pulling.len() < args.parallel as usize
            && let Some(ticket) = waiting.next()
        {
            // On one connection the endpoints that wait for the first would hold up the first: they share
            // what a connection may have under way.
            pulling.push_back(begin(client.with_own_flight(), ticket));
        }
        let Some(mut first) = pulling.pop_front() else { break };
        while let Some(batch) = first.batches.recv().await {
            let batch = batch?;
            rows += batch.num_rows() as u64;
            digest.update(&batch)?;
            output = output.write_apart(batch).await?;
            bar.set_position(rows);
        }
    }
    bar.finish_and_clear();
    let found = digest.finish();
    // What was saved can't be held to its hash any more once rows of it are erased.
    let is_whole = set.lost.is_empty();
    if !is_whole && rows != set.rows {
        // An erasure was under way meanwhile.
        return Err(has_lost(&reference(&set), &set.lost, &set.too_old));
    }
    let is_same = rows == set.rows && found == set.content_hash;
    if !is_same {
        // Rows may have gone meanwhile, and it says so since.
        set = client.get_training_set(&reference(&set)).await?;
    }
    // Nor where rows are gone that it was made of, as they may be.
    if is_whole && !is_same && (rows != set.rows || set.too_old.is_empty()) {
        return Err(differs(&reference(&set), &set.content_hash, &found));
    }
    let mut note = document(&set);
    if let Some(note) = note.as_object_mut() {
        // A file has its columns, and people look statistics up.
        note.retain(|field, _| field != "columns" && field != "statistics");
    }
    output.finish(vec![(historical::REPORT, note.to_string())])?;

    let (file, elapsed) = (args.output.display().to_string(), started.elapsed());
    let shown = json!({
        "file": file, "name": reference(&set), "rows": rows, "content_hash": found, "seconds": elapsed.as_secs_f64(),
        "lost": set.lost.iter().map(lost_document).collect::<Vec<_>>(),
        "too_old": set.too_old.iter().map(too_old_document).collect::<Vec<_>>(), "same": is_same,
    });
    output::print_as(args.format, &shown, || {
        format!(
            "{file}: {}\n{}, content hash {found}, {}",
            output::rows_in(rows, elapsed),
            reference(&set),
            match (is_same, is_whole) {
                (true, _) => "as it was saved",
                (false, true) => "without values that history keeps no more",
                (false, false) => "without rows that were erased",
            },
        )
    })?;
    if !is_same {
        let told = losses(&set.lost, &set.too_old);
        output::warn(&format!("{} is not as it was saved: {told}", reference(&set)), args.format);
    }
    Ok(Done::Done)
}

fn begin(client: Client, ticket: Bytes) -> Pulling {
    let (sender, batches) = mpsc::channel(AHEAD);
    let task = tokio::spawn(async move {
        if let Err(refusal) = pull(&client, ticket, &sender).await {
            // Nobody may be waiting any more.
            let _ = sender.send(Err(refusal)).await;
        }
    });
    Pulling { batches, task }
}

/// Sends an endpoint's rows, from the first that were not sent yet where it breaks off.
async fn pull(
    client: &Client,
    ticket: Bytes,
    sender: &mpsc::Sender<Result<RecordBatch, Refusal>>,
) -> Result<(), Refusal> {
    let (mut sent, mut tries) = (0, 1);
    loop {
        match pull_from(client, ticket.clone(), &mut sent, sender).await {
            Err(refusal) if refusal.code == Code::Unavailable && tries < TRIES => {
                tries += 1;
                tokio::time::sleep(PAUSE).await;
            }
            ended => return ended,
        }
    }
}

async fn pull_from(
    client: &Client,
    ticket: Bytes,
    sent: &mut u64,
    sender: &mpsc::Sender<Result<RecordBatch, Refusal>>,
) -> Result<(), Refusal> {
    let mut endpoint = client.pull(ticket).await?;
    let mut row = 0;
    while let Some(batch) = endpoint.next().await? {
        let known = sent.saturating_sub(row).min(batch.num_rows() as u64) as usize;
        row += batch.num_rows() as u64;
        if known == batch.num_rows() {
            continue;
        }
        if sender.send(Ok(batch.slice(known, batch.num_rows() - known))).await.is_err() {
            return Ok(());
        }
        *sent = row;
    }
    Ok(())
}
