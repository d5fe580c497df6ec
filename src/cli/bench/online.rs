//! `hydrant bench online`: reads of a service's features at given rates, about keys that are said to
//! exist. Before anything is measured a few reads show whether they do, so that nobody takes the
//! speed of misses for the speed of reads.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use clap::{ArgGroup, ValueEnum};
use hydrant_proto::v1::CellStatus;
use serde_json::json;

use super::super::catalog::Catalog;
use super::super::output::{ResultOutput, count, counted, share};
use super::super::{Done, Failure, Server, time};
use super::drive::Drivers;
use super::keys::{self, Drawing, KeySource, KeyValues};
use super::options::LoadOptions;
use super::page::PageFile;
use super::process::ServerProcess;
use super::results::{Counted, Results};
use super::{Interrupt, finish, steps};
use crate::bench::load::Target;
use crate::bench::random::Choice;
use crate::bench::tally::{Answer, Reply};
use crate::clock::{Clock as _, SystemClock};
use crate::error::Code;
use crate::rpc::client::Refusal;
use crate::rpc::client::lean::{LeanClient, Method, decode_read};
use crate::rpc::wire::cells::{CellCounts, count_cells};

/// Read features at fixed rates and measure latencies from when each request was due
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("asked").args(["keys", "key"]).required(true), after_help = "Examples:\n  \
    hydrant bench online --service delay_model --keys requests.parquet --rates 1000,5000,10000 --report online.html\n  \
    hydrant bench online --service ads_model --key ad_id=0..1000000 --key member_id=0..50000 --shared member_id \\\n    \
    --candidates 100 --choice zipf --find-rate -o json\n  \
    hydrant bench online --service delay_model --keys requests.parquet --rate 500 --burst 10x --deadline 10ms\n\n\
    Ctrl-C ends the measuring and prints what was measured so far.")]
pub struct Args {
    /// The feature service: NAME (its current version) or NAME@N
    #[arg(long, value_name = "SERVICE")]
    service: String,

    /// A Parquet file whose columns hold join keys that exist; each request takes some of its rows
    #[arg(long, value_name = "FILE.parquet")]
    keys: Option<PathBuf>,

    /// What a join key may be: user_id=0..1000000 (without its end), origin=EWR,JFK,LGA or device=phone-{0..5000}
    #[arg(long = "key", value_name = "KEY=VALUES", value_parser = keys::parse)]
    key: Vec<KeyValues>,

    /// Rows of one request
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    candidates: u32,

    /// Join keys that all rows of a request have in common; they are sent once
    #[arg(long, value_name = "KEY,…", value_delimiter = ',')]
    shared: Vec<String>,

    /// How keys are chosen
    #[arg(long, value_enum, default_value_t = KeyChoice::Uniform)]
    choice: KeyChoice,

    /// The exponent of --choice zipf
    #[arg(long, value_name = "EXPONENT", default_value_t = 0.99)]
    zipf: f64,

    /// What is looked at of an answer
    #[arg(long, value_enum, default_value_t = Decode::Statuses)]
    decode: Decode,

    /// Refuse to measure if fewer of the cells are PRESENT, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    min_present: u8,

    #[command(flatten)]
    load: LoadOptions,

    #[command(flatten)]
    pub output: ResultOutput,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum KeyChoice {
    /// Every key as often
    Uniform,
    /// A few keys much more often than the others
    Zipf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Decode {
    /// How many cells there are of each status: cheap, and enough to see misses
    Statuses,
    /// All values too, into typed columns, as a model's client would
    Values,
}

/// Reads that are made before anything is measured.
const PROBES: u64 = 50;
const SEED: u64 = 7;
/// Requests that are encoded where their number isn't known beforehand.
const UNKNOWN_REQUESTS: f64 = 500_000.0;

pub(super) async fn run(args: Args, server: &Server, interrupt: &Interrupt) -> Result<Done, Failure> {
    args.load.check()?;
    let page = PageFile::begin(args.load.report.as_ref())?;
    if !(args.zipf > 0.0 && args.zipf <= 10.0) {
        return Err(Failure::new("BAD_LOAD", "--zipf lies above 0 and is at most 10"));
    }
    let client = server.connect().await?;
    let info = client.server_info().await?;
    let server_process = ServerProcess::find(args.load.server_pid, server.address())?;
    let catalog = Catalog::load(&client, &args.service).await?;
    let wanted = request_columns(&catalog);
    if let Some(unknown) = args.shared.iter().find(|name| !wanted.contains(name)) {
        let message = format!("'{unknown}' in --shared is no join key of the service");
        return Err(Failure::new("UNKNOWN_KEY", message)
            .hint(format!("the service's join keys are: {}", wanted.join(", ")))
            .with("key", unknown));
    }
    let types = catalog.key_types();
    let source = match &args.keys {
        Some(path) => KeySource::of_file(path, &wanted, &args.shared, types)?,
        None => KeySource::of_arguments(&args.key, &wanted, &args.shared, types)?,
    };
    let candidates = usize::try_from(args.candidates).unwrap_or(1);
    let drawing = Drawing { candidates, choice: args.choice(), seed: SEED };
    let requests: Arc<[Bytes]> = source.requests(&args.service, drawing, args.most_requests())?.into();

    let (remote, load) = (server.remote.clone(), args.load.clone());
    let reads = requests.clone();
    let decode = args.decode;
    let connect = move || {
        let (remote, reads) = (remote.clone(), reads.clone());
        let connections = usize::from(load.connections.div_ceil(load.threads));
        let deadline = load.deadline.map(|deadline| deadline.duration());
        async move {
            let client = LeanClient::connect(&remote, connections, deadline).await?;
            Ok(Reads { client, requests: reads, decode })
        }
    };
    let probe =
        Reads { client: LeanClient::connect(&server.remote, 1, None).await?, requests: requests.clone(), decode };
    let present = probe.share_present(args.min_present).await?;

    let began = time::show(SystemClock.now());
    let mut drivers = Drivers::start(args.load.threads, connect, server_process, interrupt).await?;
    let measured = steps::measure(&args.load, &mut drivers, 1.0).await?;
    let mut settings = args.load.settings();
    settings["service"] = json!(args.service);
    settings["candidates"] = json!(args.candidates);
    settings["shared"] = json!(args.shared.join(", "));
    settings["choice"] = json!(args.choice().to_string());
    settings["keys"] = json!(source.described());
    settings["distinct_requests"] = json!(requests.len());
    settings["decode"] = json!(if decode == Decode::Values { "values" } else { "statuses" });
    settings["present_before"] = json!(present);
    let results = Results {
        benchmark: "online",
        title: format!("Online reads of {}", args.service),
        began,
        server: json!({"address": server.address(), "version": info.version}),
        settings,
        described: format!(
            "{} a request, {} over {}, {}",
            counted(args.candidates.into(), "row"),
            args.choice(),
            source.described(),
            counted(args.load.connections.into(), "connection"),
        ),
        counted: Counted::Cells,
        measured,
        notes: args.notes(&source, requests.len()),
    };
    finish(&results, page, args.output.format)
}

/// The columns of keys that a request to the service has, in the order of their first use.
fn request_columns(catalog: &Catalog) -> Vec<String> {
    let mut wanted: Vec<String> = Vec::new();
    for name in catalog.mappings().values().flat_map(|(_, keys)| keys) {
        if !wanted.contains(name) {
            wanted.push(name.clone());
        }
    }
    wanted
}

impl Args {
    fn choice(&self) -> Choice {
        match self.choice {
            KeyChoice::Uniform => Choice::Uniform,
            KeyChoice::Zipf => Choice::Zipf(self.zipf),
        }
    }

    /// How many requests are sent in the longest run, so that none needs to be sent twice.
    fn most_requests(&self) -> usize {
        let highest = self.load.given_rates().into_iter().fold(0.0, f64::max);
        if highest == 0.0 {
            return UNKNOWN_REQUESTS as usize;
        }
        let burst = self.load.burst.map_or(1.0, |factor| 2.0 + factor);
        (highest * self.load.duration.duration().as_secs_f64() * burst).ceil() as usize
    }

    fn notes(&self, source: &KeySource, requests: usize) -> Vec<String> {
        let drawn = requests as u64 * u64::from(self.candidates);
        let repeated = requests < self.most_requests() && self.choice == KeyChoice::Uniform;
        if !repeated || drawn >= source.keys() {
            return Vec::new();
        }
        vec![format!(
            "{} are sent over and over; they hold {} keys of {}, so caches see fewer keys than there are",
            counted(requests as u64, "request"),
            count(drawn),
            count(source.keys()),
        )]
    }
}

/// Requests that are sent over and over.
#[derive(Clone, Debug)]
struct Reads {
    client: LeanClient,
    requests: Arc<[Bytes]>,
    decode: Decode,
}

impl Target for Reads {
    async fn call(&self, number: u64) -> Reply {
        match self.read(number).await {
            Ok((bytes, cells)) => {
                let partial = cells.of(CellStatus::NotReady) > 0;
                Reply::Answered(Answer { bytes, counts: cells.0, partial })
            }
            Err(refusal) => reply_of(refusal),
        }
    }
}

impl Reads {
    async fn read(&self, number: u64) -> Result<(u64, CellCounts), Refusal> {
        let index = usize::try_from(number % self.requests.len() as u64).unwrap_or_default();
        let answer = self.client.call(number, Method::GetOnlineFeatures, self.requests[index].clone()).await?;
        let cells = count_cells(&answer).map_err(|error| Refusal::new(error.code, error.reason, error.message))?;
        let bytes = answer.len() as u64;
        if self.decode == Decode::Values {
            std::hint::black_box(decode_read(answer)?);
        }
        Ok((bytes, cells))
    }

    /// The part of the cells that are PRESENT, of a few reads one after the other. Fewer than asked
    /// for are refused.
    async fn share_present(&self, least: u8) -> Result<f64, Failure> {
        let (mut present, mut expired, mut cells) = (0, 0, 0);
        for number in 0..PROBES.min(self.requests.len() as u64) {
            let (_, of_answer) = self.read(number).await?;
            present += of_answer.of(CellStatus::Present);
            expired += of_answer.of(CellStatus::Expired);
            cells += of_answer.total();
        }
        let part = present as f64 / (cells as f64).max(1.0);
        if part * 100.0 < f64::from(least) {
            let (what, hint) = if expired * 2 > cells - present {
                ("rows that have expired", "ingest newer rows, or say with --min-present how few will do")
            } else {
                (
                    "keys that aren't there",
                    "name keys that exist with --keys FILE.parquet, or say how few will do with --min-present",
                )
            };
            let message = format!(
                "of the cells of {}, {} are PRESENT: this would measure the reading of {what}",
                counted(PROBES.min(self.requests.len() as u64), "read"),
                share(present, cells),
            );
            return Err(Failure::new("FEW_PRESENT", message).hint(hint).with("present", present).with("cells", cells));
        }
        Ok(super::figures::rounded(part, 4))
    }
}

/// What a call that was not answered counts as.
pub(super) fn reply_of(refusal: Refusal) -> Reply {
    let too_much = refusal.code == Code::ResourceExhausted;
    // A message over the limit is refused however little there is to do.
    if too_much && refusal.reason != MESSAGE_TOO_LARGE {
        let reason = if refusal.reason.is_empty() { refusal.status().to_owned() } else { refusal.reason };
        return Reply::Refused { reason, retry_after: refusal.retry_after };
    }
    let status = match refusal.reason.as_str() {
        "" => refusal.status().to_owned(),
        reason if reason == refusal.status() => reason.to_owned(),
        reason => format!("{} {reason}", refusal.status()),
    };
    Reply::Failed { status, message: refusal.message }
}

const MESSAGE_TOO_LARGE: &str = "MESSAGE_TOO_LARGE";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn too_much_load_is_told_apart_from_failure() {
        let refusal = |code, reason: &str| Refusal {
            retry_after: Some(Duration::from_millis(20)),
            ..Refusal::new(code, reason, "because")
        };
        let refused =
            |reason: &str| Reply::Refused { reason: reason.to_owned(), retry_after: Some(Duration::from_millis(20)) };
        let failed = |status: &str| Reply::Failed { status: status.to_owned(), message: "because".to_owned() };
        assert_eq!(reply_of(refusal(Code::ResourceExhausted, "QUOTA_EXCEEDED")), refused("QUOTA_EXCEEDED"));
        assert_eq!(reply_of(refusal(Code::ResourceExhausted, "")), refused("RESOURCE_EXHAUSTED"));
        let too_large = failed("RESOURCE_EXHAUSTED MESSAGE_TOO_LARGE");
        assert_eq!(reply_of(refusal(Code::ResourceExhausted, MESSAGE_TOO_LARGE)), too_large);
        assert_eq!(reply_of(refusal(Code::DeadlineExceeded, "DEADLINE_EXCEEDED")), failed("DEADLINE_EXCEEDED"));
        assert_eq!(reply_of(refusal(Code::Unavailable, "")), failed("UNAVAILABLE"));
    }
}
