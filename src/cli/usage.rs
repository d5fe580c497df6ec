//! `hydrant usage`: what is read and by whom, and what nobody reads.

use hydrant_proto::v1;
use hydrant_storage::order::Micros;
use serde_json::{Value as Json, json};

use super::lineage::kind_name;
use super::output::{self, ResultOutput};
use super::{Done, Failure, Format, Server, time};
use crate::config::durations;
use crate::registry::reads::mean_a_day;

/// Readers that are named in a line of the table.
const NAMED: usize = 2;

/// Show which features and services are read, how often and by whom, and which are not
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  hydrant usage\n  hydrant usage airport_weather\n  \
    hydrant usage airport_weather:temp --by-caller\n  hydrant usage delay_model@1 -o json\n  hydrant usage --unused 30d\n\n\
    A read a day is one of the last 30 days, or of those since counting began. docs/usage.md tells what counts as a read.")]
pub struct Args {
    /// A view, VIEW:FEATURE, a service or SERVICE@N; without, all of them
    #[arg(value_name = "NAME")]
    name: Option<String>,

    /// Only what was not read for so long, or never, such as 30d
    #[arg(long, value_name = "DURATION", value_parser = parse_span)]
    unused: Option<Micros>,

    /// A line for each reader
    #[arg(long)]
    by_caller: bool,

    #[command(flatten)]
    pub output: ResultOutput,
}

/// A duration that is longer than nothing.
pub(super) fn parse_span(text: &str) -> Result<Micros, String> {
    match durations::parse(text) {
        Ok(0) => Err("write a duration longer than nothing, such as 30d".to_owned()),
        Ok(span) => Ok(span),
        Err(error) => Err(error.to_string()),
    }
}

pub(super) async fn run(args: Args, server: &Server) -> Result<Done, Failure> {
    let client = server.connect().await?;
    let of = args.name.unwrap_or_default();
    let listed = client.list_usage(&of, args.unused.unwrap_or_default().unsigned_abs()).await?;
    let (since, now) = (listed.counted_since_micros, listed.now_micros);
    let told: Vec<Json> = listed.usages.iter().map(usage_json).collect();
    let shown = json!({
        "usage": told, "counted_since": time::show(since), "now": time::show(now), "uncounted": listed.uncounted,
    });
    output::print_as(args.output.format, &shown, || {
        if listed.usages.is_empty() {
            let what = if args.unused.is_some() { "nothing is unused" } else { "there is nothing to read" };
            return what.to_owned();
        }
        if args.by_caller { by_reader(&listed.usages, now) } else { table(&listed.usages, since, now) }
    })?;
    if args.output.format == Format::Table {
        // What was read before is not known.
        if args.unused.is_some_and(|span| since > now.saturating_sub(span)) {
            output::note(&format!("reads are counted since {}: what was read before is not known", time::show(since)));
        }
        if listed.uncounted > 0 {
            output::note(&format!("{} reads are told nowhere: there was no room", output::count(listed.uncounted)));
        }
    }
    Ok(Done::Done)
}

/// Without its tenant.
fn of(usage: &v1::Usage) -> &str {
    usage.name.rsplit('/').next().unwrap_or(&usage.name)
}

fn ago(at: Option<Micros>, now: Micros) -> String {
    at.map_or_else(|| "never".to_owned(), |at| format!("{} ago", time::age(at, now)))
}

fn a_day(sum: u64, usage: &v1::Usage, since: Micros, now: Micros) -> String {
    mean_text(mean_a_day(sum, usage.created_micros, since, now))
}

/// A mean, as people read it; not nothing where there is something.
pub(super) fn mean_text(mean: f64) -> String {
    match mean {
        none if none <= 0.0 => "0".to_owned(),
        few if few < 0.05 => "< 0.1".to_owned(),
        few if few < 10.0 => format!("{few:.1}"),
        many => output::count(many.round() as u64),
    }
}

/// As the owner may know it.
fn reader_name(reader: &v1::UsageReader) -> String {
    match (reader.tenant.as_str(), reader.caller.as_str()) {
        ("", _) => "others".to_owned(),
        (tenant, "") => format!("tenant {tenant}"),
        (_, caller) => caller.to_owned(),
    }
}

fn table(usages: &[v1::Usage], since: Micros, now: Micros) -> String {
    let row = |usage: &v1::Usage| {
        let online = usage.days.iter().map(|day| day.online).sum();
        let training = usage.days.iter().map(|day| day.training).sum();
        let all = usage.readers.len() + usize::from(usage.others.is_some());
        let mut readers: Vec<String> = usage.readers.iter().chain(&usage.others).map(reader_name).take(NAMED).collect();
        if all > NAMED {
            readers.push(format!("{} more", all - NAMED));
        }
        vec![
            kind_name(usage.kind()).unwrap_or_default().to_owned(),
            of(usage).to_owned(),
            ago(usage.last_online_micros, now),
            a_day(online, usage, since, now),
            ago(usage.last_training_micros, now),
            a_day(training, usage, since, now),
            readers.join(", "),
            usage.owner.clone(),
        ]
    };
    let names = ["kind", "name", "read online", "a day", "trained on", "a day", "by", "owner"];
    output::table(&names, &usages.iter().map(row).collect::<Vec<_>>(), &[3, 5])
}

fn by_reader(usages: &[v1::Usage], now: Micros) -> String {
    let row = |usage: &v1::Usage, reader: &v1::UsageReader| {
        vec![
            of(usage).to_owned(),
            reader_name(reader),
            output::count(reader.online),
            output::count(reader.training),
            time::show(reader.first_micros),
            ago(Some(reader.last_micros), now),
        ]
    };
    let mut rows = Vec::new();
    for usage in usages {
        if usage.readers.is_empty() && usage.others.is_none() {
            let nobody = ["nobody", "0", "0", "", ""].map(str::to_owned);
            rows.push([of(usage).to_owned()].into_iter().chain(nobody).collect());
        }
        rows.extend(usage.readers.iter().chain(&usage.others).map(|reader| row(usage, reader)));
    }
    output::table(&["name", "by", "online", "training", "since", "last"], &rows, &[2, 3])
}

fn usage_json(usage: &v1::Usage) -> Json {
    let reader = |reader: &v1::UsageReader| {
        let caller = Some(&reader.caller).filter(|caller| !caller.is_empty());
        json!({
            "tenant": reader.tenant, "caller": caller, "online": reader.online, "training": reader.training,
            "first": time::show(reader.first_micros), "last": time::show(reader.last_micros),
        })
    };
    let others = |reader: &v1::UsageReader| {
        json!({
            "online": reader.online, "training": reader.training,
            "first": time::show(reader.first_micros), "last": time::show(reader.last_micros),
        })
    };
    let day = |day: &v1::UsageDay| {
        let date: String = time::show(day.day_micros).chars().take(10).collect();
        json!({"day": date, "online": day.online, "training": day.training})
    };
    json!({
        "name": of(usage), "resource": usage.name, "kind": kind_name(usage.kind()), "owner": usage.owner,
        "created": time::show(usage.created_micros), "last_online": usage.last_online_micros.map(time::show),
        "last_training": usage.last_training_micros.map(time::show),
        "days": usage.days.iter().map(day).collect::<Vec<_>>(),
        "readers": usage.readers.iter().map(reader).collect::<Vec<_>>(), "others": usage.others.as_ref().map(others),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_reads_a_day_are_not_told_as_none() {
        for (mean, told) in [(0.0, "0"), (0.03, "< 0.1"), (0.05, "0.1"), (5.0, "5.0"), (10.0, "10"), (1_234.4, "1,234")]
        {
            assert_eq!(mean_text(mean), told);
        }
    }

    #[test]
    fn a_span_is_longer_than_nothing() {
        assert_eq!(parse_span("30d"), Ok(30 * 24 * 3_600_000_000));
        assert!(parse_span("0d").is_err() && parse_span("soon").is_err());
    }
}
