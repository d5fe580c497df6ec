//! `hydrant sla`: the board of freshness promises, and silences.

use std::time::Duration;

use hydrant_proto::v1;
use hydrant_storage::order::Micros;
use serde_json::{Value as Json, json};

use super::output::{self, Format, ResultOutput, Tone};
use super::{Done, Failure, Server, time};
use crate::config::durations;
use crate::rpc::client::Client;

/// Between two boards of `--watch`.
const WATCH_EVERY: Duration = Duration::from_secs(2);

/// Show how views stand to the freshness that is promised of them; silence their alerts
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  hydrant sla\n  hydrant sla airport_weather -o json\n  hydrant sla --watch\n  \
    hydrant sla silence airport_weather --for 2h --reason 'the feed is being moved'\n\n\
    States: OK, AT_RISK, BREACHED, NO_DATA; docs/freshness.md tells what to do at each."
)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,

    /// Only these views; without, all of which something is promised
    #[arg(value_name = "VIEW")]
    views: Vec<String>,

    /// Show it again and again until Ctrl-C
    #[arg(long)]
    watch: bool,

    #[command(flatten)]
    output: ResultOutput,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Silence(SilenceArgs),
    Silences(SilencesArgs),
    Unsilence(UnsilenceArgs),
}

/// Send no notification of a view for a while
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  hydrant sla silence airport_weather --for 2h --reason 'the feed is being moved'\n\n\
    What is measured goes on. What still holds at its end and was not told yet is told then."
)]
struct SilenceArgs {
    /// The view
    view: String,

    /// For how long, such as 30m, 2h or 1d; up to 30d
    #[arg(long = "for", value_name = "DURATION", value_parser = durations::parse)]
    duration: Micros,

    /// Why, for others to read
    #[arg(long)]
    reason: String,

    #[command(flatten)]
    output: ResultOutput,
}

/// List silences that have not ended
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  hydrant sla silences")]
struct SilencesArgs {
    #[command(flatten)]
    output: ResultOutput,
}

/// End a silence
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  hydrant sla unsilence 3")]
struct UnsilenceArgs {
    /// Its number, as `hydrant sla silences` shows it
    id: u64,

    #[command(flatten)]
    output: ResultOutput,
}

impl Args {
    pub fn format(&self) -> Format {
        match &self.command {
            None => self.output.format,
            Some(Command::Silence(args)) => args.output.format,
            Some(Command::Silences(args)) => args.output.format,
            Some(Command::Unsilence(args)) => args.output.format,
        }
    }

    /// What Ctrl-C leaves behind.
    pub fn interrupted(&self) -> Option<&'static str> {
        match self.command {
            Some(Command::Silence(_) | Command::Unsilence(_)) => {
                Some("it may have been done all the same; `hydrant sla silences` tells")
            }
            None | Some(Command::Silences(_)) => None,
        }
    }
}

pub(super) async fn run(args: Args, server: &Server) -> Result<Done, Failure> {
    let client = server.connect().await?;
    match args.command {
        None => board(&client, &args).await,
        Some(Command::Silence(args)) => silence(&client, args).await,
        Some(Command::Silences(args)) => silences(&client, &args).await,
        Some(Command::Unsilence(args)) => unsilence(&client, &args).await,
    }
}

async fn board(client: &Client, args: &Args) -> Result<Done, Failure> {
    loop {
        let views = views(client, &args.views).await?;
        let shown = json!({ "views": views.iter().map(shown).collect::<Vec<_>>() });
        match args.output.format {
            // One board a line, for programs that read along.
            Format::Json if args.watch => output::print(&shown.to_string())?,
            format => output::print_as(format, &shown, || table(&views))?,
        }
        if !args.watch {
            return Ok(Done::Done);
        }
        tokio::time::sleep(WATCH_EVERY).await;
        if args.output.format == Format::Table {
            output::print("")?;
        }
    }
}

async fn views(client: &Client, names: &[String]) -> Result<Vec<v1::Freshness>, Failure> {
    if names.is_empty() {
        return Ok(client.list_freshness().await?);
    }
    let mut views = Vec::with_capacity(names.len());
    for name in names {
        views.push(client.get_freshness(name).await?);
    }
    Ok(views)
}

async fn silence(client: &Client, args: SilenceArgs) -> Result<Done, Failure> {
    let SilenceArgs { view, duration, reason, output } = args;
    let request = v1::SilenceFreshnessRequest { view, duration_micros: duration.unsigned_abs(), reason };
    let silence = client.silence_freshness(request).await?;
    output::print_as(output.format, &shown_silence(&silence), || {
        format!(
            "silence {}: no notification of {} until {}",
            silence.id,
            silence.view,
            time::show(silence.until_micros)
        )
    })?;
    Ok(Done::Done)
}

async fn silences(client: &Client, args: &SilencesArgs) -> Result<Done, Failure> {
    let all = client.list_silences().await?;
    let shown = json!({ "silences": all.iter().map(shown_silence).collect::<Vec<_>>() });
    output::print_as(args.output.format, &shown, || {
        if all.is_empty() {
            return "there are no silences".to_owned();
        }
        let row = |silence: &v1::Silence| {
            let (until, by) = (time::show(silence.until_micros), silence.created_by.clone());
            vec![silence.id.to_string(), silence.view.clone(), until, by, silence.reason.clone()]
        };
        let rows: Vec<Vec<String>> = all.iter().map(row).collect();
        output::table(&["id", "view", "until", "by", "reason"], &rows, &[0])
    })?;
    Ok(Done::Done)
}

async fn unsilence(client: &Client, args: &UnsilenceArgs) -> Result<Done, Failure> {
    let silence = client.delete_silence(args.id).await?;
    output::print_as(args.output.format, &shown_silence(&silence), || {
        format!("silence {} of {} is ended", silence.id, silence.view)
    })?;
    Ok(Done::Done)
}

fn state_of(view: &v1::Freshness) -> &'static str {
    match view.state() {
        v1::FreshnessState::Unspecified => "UNKNOWN",
        state => state.as_str_name(),
    }
}

/// As docs/freshness.md words it; `None` where the state says it all.
fn cause_of(view: &v1::Freshness) -> Option<&'static str> {
    match view.cause() {
        v1::FreshnessCause::Unspecified => None,
        v1::FreshnessCause::Stale => Some("stale"),
        v1::FreshnessCause::Unreadable => Some("unreadable"),
        v1::FreshnessCause::BudgetSpent => Some("budget spent"),
        v1::FreshnessCause::BurningFast => Some("burning fast"),
        v1::FreshnessCause::NearLimit => Some("near the limit"),
    }
}

fn table(views: &[v1::Freshness]) -> String {
    if views.is_empty() {
        return "nothing is promised of any view, or it has not been measured yet: write `freshness: {maxAge: 1h}` in a definition".to_owned();
    }
    let span = |micros: u64| time::age(0, Micros::try_from(micros).unwrap_or(Micros::MAX));
    let row = |view: &v1::Freshness| {
        let state = match cause_of(view) {
            None => state_of(view).to_owned(),
            Some(cause) => format!("{} ({cause})", state_of(view)),
        };
        let tone = match view.state() {
            v1::FreshnessState::Ok => Tone::Good,
            v1::FreshnessState::Breached => Tone::Bad,
            _ => Tone::Changed,
        };
        let measured = view.good_micros + view.bad_micros;
        let attained = if measured == 0 {
            "-".to_owned()
        } else {
            format!("{:.3}%", view.good_micros as f64 / measured as f64 * 100.0)
        };
        vec![
            view.view.clone(),
            output::on_stdout(&state, tone),
            time::age(view.since_micros, view.looked_at_micros),
            view.age_micros.map_or_else(|| "-".to_owned(), span),
            span(view.max_age_micros),
            span(view.lag_micros),
            attained,
            view.target.clone(),
            format!("{:.1}%", view.budget_left * 100.0),
            format!("{:.1}/{:.1}", view.burn_rate_1h, view.burn_rate_6h),
            view.served.map_or_else(|| "-".to_owned(), |served| span(served.p99_micros)),
            view.silence
                .as_ref()
                .map(|silence| format!("until {}", time::show(silence.until_micros)))
                .unwrap_or_default(),
        ]
    };
    let rows: Vec<Vec<String>> = views.iter().map(row).collect();
    let names = [
        "view",
        "state",
        "for",
        "age",
        "promised",
        "lag",
        "attained",
        "target",
        "budget left",
        "burn 1h/6h",
        "served p99",
        "silenced",
    ];
    output::table(&names, &rows, &[2, 3, 4, 5, 6, 7, 8, 9, 10])
}

fn seconds(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64()
}

/// A view for programs.
fn shown(view: &v1::Freshness) -> Json {
    let optional = |micros: Option<u64>| micros.map(seconds);
    let served = |served: &v1::ServedAges| {
        json!({
            "rows": served.rows, "p50_seconds": seconds(served.p50_micros), "p90_seconds": seconds(served.p90_micros),
            "p99_seconds": seconds(served.p99_micros),
        })
    };
    json!({
        "view": view.view, "owner": view.owner, "state": state_of(view), "cause": cause_of(view),
        "since": time::show(view.since_micros), "looked_at": time::show(view.looked_at_micros),
        "max_age_seconds": seconds(view.max_age_micros), "target": view.target,
        "window_seconds": seconds(view.window_micros), "severity": view.severity,
        "age_seconds": optional(view.age_micros), "worst_partition": view.worst_partition,
        "partitions": view.partitions, "unreadable_partition": view.unreadable_partition,
        "newest_event_time": view.newest_event_time.map(time::show), "lag_seconds": seconds(view.lag_micros),
        "good_seconds": seconds(view.good_micros), "bad_seconds": seconds(view.bad_micros),
        "budget_seconds": seconds(view.budget_micros), "budget_left": view.budget_left,
        "burn_rate": {"5m": view.burn_rate_5m, "30m": view.burn_rate_30m, "1h": view.burn_rate_1h, "6h": view.burn_rate_6h},
        "served": view.served.as_ref().map(served), "silence": view.silence.as_ref().map(shown_silence),
    })
}

fn shown_silence(silence: &v1::Silence) -> Json {
    json!({
        "id": silence.id, "view": silence.view, "reason": silence.reason, "until": time::show(silence.until_micros),
        "created": time::show(silence.created_micros), "created_by": silence.created_by,
    })
}
