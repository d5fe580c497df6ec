//! `hydrant why`: why a value is what it is, as a tired reader understands it: what was counted, since
//! when that was known, and which rows lost, each with the rule.

use std::collections::BTreeMap;

use hydrant_proto::v1;
use hydrant_storage::order::Micros;
use hydrant_storage::row::value_at;
use serde_json::{Map, Value as Json, json};

use super::catalog::Catalog;
use super::keys::{self, KeyArgument};
use super::output::{self, ResultOutput, Tone};
use super::{Done, Failure, Server, historical, time};
use crate::registry::values;
use crate::rpc::wire::columns::{decode_column, encode_column};
use crate::rpc::wire::retention::text_of_what_lacks;

/// Explain a value: the row that counted, and the rows that lost to it
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  hydrant why --service delay_model --key origin=EWR,carrier=UA,tailnum=N64809,dest=SFO --at 2013-12-31T00:30:00Z\n  \
    hydrant why --service delay_model --key origin=EWR,carrier=UA,tailnum=N64809,dest=SFO --at 2013-12-31T00:30:00Z --feature airport_weather__temp --final"
)]
pub struct Args {
    /// The feature service: NAME (its current version) or NAME@N
    #[arg(long, value_name = "SERVICE")]
    service: String,

    /// The join keys of one entity, such as origin=EWR,carrier=UA ('\,' for a comma in a value)
    #[arg(long, value_name = "KEY=VALUE,…", value_parser = keys::parse)]
    key: KeyArgument,

    /// The instant of the read, or of the training row (RFC 3339); left out: now
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    at: Option<Micros>,

    /// Only this feature, as the service calls it: VIEW__FEATURE or ALIAS__FEATURE; may be given again
    #[arg(long = "feature", value_name = "FEATURE")]
    features: Vec<String>,

    /// As in a training set made with --final: every row counts as if known when it happened
    #[arg(long = "final")]
    final_values: bool,

    /// As in a training set with this cut-off (RFC 3339): rows accepted later don't count
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    cutoff: Option<Micros>,

    /// How many of the rows that lost are shown, of each view; 100 at most
    #[arg(long, value_name = "N", default_value_t = 10)]
    losers: u32,

    #[command(flatten)]
    pub output: ResultOutput,
}

pub(super) async fn run(args: Args, server: &Server) -> Result<Done, Failure> {
    let client = server.connect().await?;
    let catalog = Catalog::load(&client, &args.service).await?;
    let keys = catalog.key_types().columns(std::slice::from_ref(&args.key))?;
    let entities: Vec<v1::Column> =
        keys.iter().map(|(name, column)| encode_column(name, column)).collect::<Result<_, _>>()?;
    let request = v1::WhyRequest {
        services: vec![args.service.clone()],
        columns: args.features.iter().map(|name| name.replace(':', "__")).collect(),
        entities,
        at: args.at,
        r#final: args.final_values,
        cutoff: args.cutoff,
        losers: Some(args.losers),
        ..Default::default()
    };
    let answer = Answer::of(client.why(request).await?, &args.key)?;
    output::print_as(args.output.format, &answer.json(), || answer.text())?;
    Ok(Done::Done)
}

/// What the server told, its values read.
struct Answer {
    told: v1::WhyResponse,
    /// The name and the value of each column.
    values: Vec<(String, Json)>,
    key: BTreeMap<String, String>,
}

impl Answer {
    fn of(told: v1::WhyResponse, key: &KeyArgument) -> Result<Self, Failure> {
        let read = |value: &v1::ExplainedValue| {
            let column = decode_column(value.value.clone().unwrap_or_default())?;
            let unreadable = || Failure::new("UNREADABLE_ANSWER", format!("column '{}' is cut short", column.name));
            if column.values.is_empty() || value.view as usize >= told.views.len() {
                return Err(unreadable());
            }
            let value = value_at(&*column.values, column.data_type, 0).map_err(|_| unreadable())?;
            Ok((column.name, values::to_json(&value)))
        };
        let values = told.values.iter().map(read).collect::<Result<_, Failure>>()?;
        Ok(Self { told, values, key: key.pairs() })
    }

    fn values_of(&self, view: usize) -> impl Iterator<Item = (&v1::ExplainedValue, &(String, Json))> {
        self.told.values.iter().zip(&self.values).filter(move |(value, _)| value.view as usize == view)
    }

    fn key_of(&self, view: &v1::ExplainedView) -> String {
        let part = |name: &String| format!("{name}={}", self.key.get(name).map_or("", String::as_str));
        view.keys.iter().map(part).collect::<Vec<_>>().join(", ")
    }

    /// View by view: the values, the row that counted, the rows that lost.
    fn text(&self) -> String {
        let v1::WhyResponse { at, cutoff, registry_revision, services, .. } = &self.told;
        let mode = if self.told.r#final { "final" } else { "as known" };
        let mut text = format!(
            "{} at {}, {mode} (cut-off {}, registry revision {registry_revision})\n",
            output::on_stdout(&services.join(", "), Tone::Strong),
            time::show(*at),
            time::show(*cutoff),
        );
        for (number, view) in self.told.views.iter().enumerate() {
            let title = format!("{} of {}", view.view, self.key_of(view));
            text.push_str(&format!("\n{}\n", output::on_stdout(&title, Tone::Strong)));
            let line = |(told, (name, value)): (&v1::ExplainedValue, &(String, Json))| {
                let shown = match value {
                    Json::Null => String::new(),
                    Json::String(text) => text.clone(),
                    other => other.to_string(),
                };
                vec![format!("  {name}"), shown, told.status().as_str_name().to_owned(), self.cause(told, view)]
            };
            let lines: Vec<Vec<String>> = self.values_of(number).map(line).collect();
            text.push_str(&output::table(&["  feature", "value", "status", "because"], &lines, &[]));
            let mut values = self.values_of(number).map(|(told, _)| told.status()).peekable();
            let is_masked = values.peek().is_some() && values.all(|status| status == v1::CellStatus::Masked);
            text.push_str(&format!("\n\n{}\n", self.winner(view, is_masked)));
            // A row that counts is the right one: those that are gone are older.
            if let Some(whole_from) = view.lacks_before.filter(|_| view.winner.is_none() && !is_masked) {
                let told = format!("  {}\n", text_of_what_lacks(&view.view, whole_from));
                text.push_str(&output::on_stdout(&told, Tone::Bad));
            }
            if !view.losers.is_empty() {
                let shown = view.losers.len() as u64;
                let of = match view.rows - u64::from(view.winner.is_some()) {
                    all if all > shown => format!("the nearest {shown} of {}", output::count(all)),
                    _ => "all of them, the nearest first".to_owned(),
                };
                text.push_str(&format!("  rows that don't count, {of}:\n"));
                let lines: Vec<Vec<String>> = view.losers.iter().map(|lost| self.loser(lost, view)).collect();
                let header = ["    event time", "known", "accepted", "position", "why it doesn't count"];
                text.push_str(&output::table(&header, &lines, &[]));
                text.push('\n');
            }
        }
        text
    }

    fn winner(&self, view: &v1::ExplainedView, is_masked: bool) -> String {
        let at = self.told.at;
        let Some(row) = &view.winner else {
            return match view.rows {
                0 if is_masked => "  not looked at: all that is asked about is personal, and masked for you".to_owned(),
                0 => "  no row counts: there is none of this key".to_owned(),
                rows => format!("  no row counts, of {} of this key", output::counted(rows, "row")),
            };
        };
        let what = if row.deleted { "a delete" } else { "the row" };
        let known = if row.known_time == row.event_time {
            "known when it happened".to_owned()
        } else {
            format!("known {}", time::show(row.known_time))
        };
        let sent = match row.sequence {
            Some(sequence) => format!("sent by producer {} as its sequence {sequence}", row.producer_hash),
            None => "by whom it was sent is not known any more, or was never said".to_owned(),
        };
        format!(
            "  counted: {what} of {} ({} before), {known}, accepted {}\n           at position {}, under definition revision {}, {}\n           {sent}",
            output::on_stdout(&time::show(row.event_time), Tone::Good),
            time::age(row.event_time, at),
            time::show(row.ingest_time),
            position(row),
            row.definition_revision,
            if row.landed { "landed in history" } else { "not landed yet" },
        )
    }

    fn loser(&self, lost: &v1::LostRow, view: &v1::ExplainedView) -> Vec<String> {
        let row = lost.row.clone().unwrap_or_default();
        let known = if row.known_time == row.event_time { "at once".to_owned() } else { time::show(row.known_time) };
        let event_time = format!("    {}{}", time::show(row.event_time), if row.deleted { " (delete)" } else { "" });
        vec![event_time, known, time::show(row.ingest_time), position(&row), self.rule(lost, &row, view)]
    }

    /// The rule in words.
    fn rule(&self, lost: &v1::LostRow, row: &v1::HistoryRow, view: &v1::ExplainedView) -> String {
        let at = self.told.at;
        match lost.rule() {
            v1::LostBy::AfterCutoff => "accepted after the cut-off".to_owned(),
            v1::LostBy::LaterThanInstant => format!("happened {} after the instant", time::age(at, row.event_time)),
            v1::LostBy::NotYetKnown => format!("known only {} after the instant", time::age(at, row.known_time)),
            v1::LostBy::SmallerEventTime => {
                let newer = view.winner.as_ref().map_or(row.event_time, |winner| winner.event_time);
                format!("{} older than the row that counts", time::age(row.event_time, newer))
            }
            v1::LostBy::SmallerKnownTime => "as old as the row that counts, and known before it".to_owned(),
            v1::LostBy::EarlierPosition => "same times as the row that counts, which came later in the log".to_owned(),
            v1::LostBy::Unspecified => "not told".to_owned(),
        }
    }

    /// Why a value has its status, in words.
    fn cause(&self, value: &v1::ExplainedValue, view: &v1::ExplainedView) -> String {
        let cause = match value.cause() {
            v1::StatusCause::Written if value.status() == v1::CellStatus::Null => "written as null".to_owned(),
            v1::StatusCause::Written => "written".to_owned(),
            v1::StatusCause::NullKey => "a part of the key is null, which finds nothing".to_owned(),
            v1::StatusCause::NoRow => "there is no row of this key".to_owned(),
            v1::StatusCause::NoneCounts => "there are rows of this key, and none counts".to_owned(),
            v1::StatusCause::Deleted => "deleted".to_owned(),
            v1::StatusCause::OlderThanFeature => "the row was written before the feature was added".to_owned(),
            v1::StatusCause::PastTtl => {
                let age = view.winner.as_ref().map_or(0, |row| self.told.at.saturating_sub(row.event_time));
                format!("{} old, and the ttl is {}", time::age(0, age), time::age(0, view.ttl.unwrap_or_default()))
            }
            v1::StatusCause::PerhapsGone => {
                "no row counts, and one that did may be gone by the view's retention".to_owned()
            }
            v1::StatusCause::NotGranted => "personal (pii), and you have no grant for it".to_owned(),
            v1::StatusCause::Unspecified => "not told".to_owned(),
        };
        if value.is_default { format!("{cause}; the default stands in") } else { cause }
    }

    fn json(&self) -> Json {
        let row = |row: &v1::HistoryRow| {
            let mut json = json!({
                "event_time": time::show(row.event_time), "known_time": time::show(row.known_time),
                "ingest_time": time::show(row.ingest_time), "position": position(row), "deleted": row.deleted,
                "definition_revision": row.definition_revision, "landed": row.landed, "expired": row.expired,
            });
            if let Some(sequence) = row.sequence {
                json["producer_hash"] = json!(row.producer_hash);
                json["sequence"] = json!(sequence.to_string());
            }
            json
        };
        let lost = |lost: &v1::LostRow| {
            let mut json = row(&lost.row.clone().unwrap_or_default());
            json["rule"] = json!(lost.rule().as_str_name());
            json
        };
        let view = |(number, view): (usize, &v1::ExplainedView)| {
            let key: Map<String, Json> = view
                .keys
                .iter()
                .map(|name| (name.clone(), self.key.get(name).map_or(Json::Null, |part| json!(part))))
                .collect();
            let feature = |(told, (name, value)): (&v1::ExplainedValue, &(String, Json))| {
                let told = json!({
                    "value": value, "status": told.status().as_str_name(), "cause": told.cause().as_str_name(),
                    "is_default": told.is_default,
                });
                (name.clone(), told)
            };
            json!({
                "view": format!("{}@{}", view.view, view.view_version), "key": key, "ttl_micros": view.ttl,
                "features": self.values_of(number).map(feature).collect::<Map<_, _>>(),
                "winner": view.winner.as_ref().map(row), "losers": view.losers.iter().map(lost).collect::<Vec<_>>(),
                "rows": view.rows, "lacks_before": view.lacks_before.map(historical::lacks_before),
            })
        };
        json!({
            "services": self.told.services, "at": time::show(self.told.at),
            "mode": if self.told.r#final { "final" } else { "as_known" }, "cutoff": time::show(self.told.cutoff),
            "registry_revision": self.told.registry_revision,
            "views": self.told.views.iter().enumerate().map(view).collect::<Vec<_>>(),
        })
    }
}

fn position(row: &v1::HistoryRow) -> String {
    format!("{}.{}", row.frame, row.ordinal)
}
