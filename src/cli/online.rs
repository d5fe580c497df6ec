//! `hydrant online get`: feature values for a few keys, as a model would get them; `hydrant online
//! score`: for all rows of a file.

mod score;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arrow_array::{Array as _, ArrayRef};
use clap::Subcommand;
use hydrant_proto::v1;
use hydrant_storage::order::Micros;
use hydrant_storage::row::value_at;
use serde_json::{Map, Value as Json, json};

use super::catalog::{Catalog, Mapping, prefix_of};
use super::input::ParquetInput;
use super::key_file::KeyFile;
use super::keys::{self, KeyArgument};
use super::output::{self, Format, ResultOutput, Tone};
use super::{Done, Failure, Server, historical, time};
use crate::registry::values;
use crate::rpc::wire::columns::{data_type_of, decode_column, encode_column};
use crate::rpc::wire::retention::text_of_what_lacks;

/// Read features online
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  hydrant online get --service delay_model --key origin=EWR,carrier=UA,tailnum=N64809,dest=SFO"
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Get(GetArgs),
    Score(score::Args),
}

/// Get the newest feature values of some keys
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  hydrant online get --service delay_model --key origin=EWR,carrier=UA,tailnum=N64809,dest=SFO\n  \
    hydrant online get --service delay_model --keys keys.parquet --at 2013-12-30T22:30:00Z -o json"
)]
struct GetArgs {
    /// The feature service: NAME (its current version) or NAME@N
    #[arg(long, value_name = "SERVICE")]
    service: String,

    #[command(flatten)]
    keys: KeyArgs,

    /// Read as of this instant (RFC 3339) instead of now
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    at: Option<Micros>,

    /// Fail if any partition isn't ready or any row is damaged
    #[arg(long)]
    strict: bool,

    #[command(flatten)]
    output: ResultOutput,
}

/// The rows to read, in one of two ways.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct KeyArgs {
    /// The join keys of one row, such as origin=EWR,carrier=UA ('\,' for a comma in a value); once per row
    #[arg(long = "key", value_name = "KEY=VALUE,…", value_parser = keys::parse)]
    rows: Vec<KeyArgument>,

    /// A Parquet file whose columns hold the join keys, one row each; other columns are left out
    #[arg(long = "keys", value_name = "FILE.parquet")]
    file: Option<PathBuf>,
}

/// Rows of one read, at most.
const MAX_ROWS: usize = 10_000;

impl Args {
    pub(super) fn format(&self) -> Format {
        match &self.command {
            Command::Get(args) => args.output.format,
            Command::Score(args) => args.format,
        }
    }

    /// Whether it writes its answer into a file.
    pub(super) fn writes_file(&self) -> bool {
        matches!(self.command, Command::Score(_))
    }
}

pub(super) async fn run(args: Args, server: &Server) -> Result<Done, Failure> {
    match args.command {
        Command::Get(args) => get(args, server).await,
        Command::Score(args) => score::run(args, server).await,
    }
}

async fn get(args: GetArgs, server: &Server) -> Result<Done, Failure> {
    let client = server.connect().await?;
    let catalog = Catalog::load(&client, &args.service).await?;
    let keys = match &args.keys.file {
        Some(path) => keys_of_file(path, &catalog)?,
        None => {
            let keys = catalog.key_types().columns(&args.keys.rows)?;
            let missing = catalog.missing_keys(|name| keys.iter().any(|(given, _)| given == name));
            if let Some(first) = missing.first() {
                let message = format!("the service needs the join key '{first}', and no --key gives it");
                return Err(Failure::new("NO_KEYS", message).hint(catalog.keyed_by()).with("key", first));
            }
            keys
        }
    };
    let entities: Vec<v1::Column> =
        keys.iter().map(|(name, column)| encode_column(name, column)).collect::<Result<_, _>>()?;
    let request = v1::GetOnlineFeaturesRequest {
        services: vec![args.service.clone()],
        entities,
        at: args.at,
        strict: args.strict,
        include_event_times: true,
        ..v1::GetOnlineFeaturesRequest::default()
    };
    let response = client.get_online_features(request).await?;
    let answer = Answer::of(response, keys, catalog.mappings())?;
    output::print_as(args.output.format, &answer.json(), || answer.text())?;
    for warning in lacking(&answer.provenance) {
        output::warn(&warning, args.output.format);
    }
    Ok(Done::Done)
}

/// What an answer may lack, view by view.
fn lacking(provenance: &v1::Provenance) -> impl Iterator<Item = String> {
    provenance.views.iter().filter_map(|view| Some(text_of_what_lacks(&view.view, view.lacks_before?)))
}

/// The columns of a file that are keys of the service.
fn keys_of_file(path: &Path, catalog: &Catalog) -> Result<Vec<(String, ArrayRef)>, Failure> {
    let file = KeyFile::of(ParquetInput::open(path)?, catalog)?;
    let total = file.input.rows();
    if total == 0 || total > MAX_ROWS as u64 {
        let (rows, most) = (output::counted(total, "row"), output::count(MAX_ROWS as u64));
        let told = format!("{}: {rows}; one read takes from 1 to {most}", path.display());
        let hint = "`hydrant online score` is for many rows";
        return Err(Failure::new("TOO_MANY_KEYS", told).with("file", path.display()).hint(hint));
    }
    let mut batches = file.input.batches(MAX_ROWS, Some(&file.names()))?;
    let empty = || Err(Failure::file(path, "be read as Parquet", &"it holds no rows"));
    file.keys_of(&batches.next().unwrap_or_else(empty)?, 0)
}

/// An answer, cell by cell.
struct Answer {
    keys: Vec<(String, ArrayRef)>,
    columns: Vec<Column>,
    rows: usize,
    service: String,
    provenance: v1::Provenance,
}

struct Column {
    name: String,
    cells: Vec<Cell>,
}

#[derive(Clone)]
struct Cell {
    value: Json,
    status: v1::CellStatus,
    event_time: Option<Micros>,
}

impl Answer {
    fn of(
        response: v1::GetOnlineFeaturesResponse,
        keys: Vec<(String, ArrayRef)>,
        mappings: &BTreeMap<String, Mapping>,
    ) -> Result<Self, Failure> {
        let rows = response.rows as usize;
        let event_times: BTreeMap<Mapping, v1::EventTimes> =
            response.event_times.into_iter().map(|times| ((times.view.clone(), times.keys.clone()), times)).collect();
        let column = |column: v1::FeatureColumn| {
            let statuses: Vec<v1::CellStatus> = column.statuses().collect();
            let decoded = decode_column(column.column.unwrap_or_default())?;
            let times = mappings.get(prefix_of(&decoded.name)).and_then(|mapping| event_times.get(mapping));
            let cell = |row: usize| {
                // A column or list of length 1 stands for all rows.
                let at = |length: usize| if length == 1 { 0 } else { row };
                let status = *statuses.get(at(statuses.len())).ok_or_else(|| unreadable(&decoded.name))?;
                let index = at(decoded.values.len());
                if index >= decoded.values.len() {
                    return Err(unreadable(&decoded.name));
                }
                let value =
                    value_at(&*decoded.values, decoded.data_type, index).map_err(|_| unreadable(&decoded.name))?;
                // Its row's time is told for the sake of other features of the view.
                let event_time = times.filter(|_| status != v1::CellStatus::Masked).and_then(|times| {
                    let index = at(times.micros.len());
                    times.found.get(index).copied().unwrap_or(false).then(|| times.micros.get(index).copied()).flatten()
                });
                Ok(Cell { value: values::to_json(&value), status, event_time })
            };
            let cells = (0..rows).map(cell).collect::<Result<Vec<_>, Failure>>()?;
            Ok(Column { name: decoded.name.clone(), cells })
        };
        let columns = response.columns.into_iter().map(column).collect::<Result<_, Failure>>()?;
        let service = response.services.into_iter().next().map(|service| service.service).unwrap_or_default();
        Ok(Self { keys, columns, rows, service, provenance: response.provenance.unwrap_or_default() })
    }

    /// The shape of docs/definitions.md.
    fn json(&self) -> Json {
        let cell = |cell: &Cell| {
            let mut json = json!({"value": cell.value, "status": cell.status.as_str_name()});
            if let Some(event_time) = cell.event_time {
                json["event_time"] = json!(time::show(event_time));
            }
            json
        };
        let row = |row: usize| {
            let key: Map<String, Json> =
                self.keys.iter().map(|(name, column)| (name.clone(), key_json(column, row))).collect();
            let features: Map<String, Json> =
                self.columns.iter().map(|column| (column.name.clone(), cell(&column.cells[row]))).collect();
            json!({"key": key, "features": features})
        };
        let view = |view: &v1::ViewProvenance| {
            let mut json = Map::new();
            if let Some(newest) = view.newest_event_time {
                json.insert("newest_event_time".to_owned(), json!(time::show(newest)));
            }
            // Of a view that was not looked up, since all of it is masked, nothing is told.
            if view.complete_through > 0 {
                json.insert("complete_through".to_owned(), json!(time::show(view.complete_through)));
            }
            if let Some(whole_from) = view.lacks_before {
                json.insert("lacks_before".to_owned(), json!(historical::lacks_before(whole_from)));
            }
            (view.view.clone(), Json::Object(json))
        };
        let mut json = json!({
            "rows": (0..self.rows).map(row).collect::<Vec<_>>(),
            "service": self.service,
            "registry_revision": self.provenance.registry_revision,
            "t": time::show(self.provenance.t),
            "views": self.provenance.views.iter().map(view).collect::<Map<_, _>>(),
        });
        if self.provenance.rows_from_history > 0 {
            json["rows_from_history"] = json!(self.provenance.rows_from_history);
        }
        json
    }

    /// A table for each row of keys, then what the answer is worth.
    fn text(&self) -> String {
        let t = self.provenance.t;
        let mut text = String::new();
        for row in 0..self.rows {
            let key: Vec<String> = self
                .keys
                .iter()
                .map(|(name, column)| format!("{name}={}", cell_text(&key_json(column, row))))
                .collect();
            text.push_str(&format!("{}\n", output::on_stdout(&key.join(", "), Tone::Strong)));
            let lines: Vec<Vec<String>> =
                self.columns.iter().map(|column| column.cells[row].line(&column.name, t)).collect();
            text.push_str(&output::table(&["feature", "value", "status", "event time", "age"], &lines, &[]));
            text.push_str("\n\n");
        }
        let from_history = match self.provenance.rows_from_history {
            0 => String::new(),
            rows => format!(", {} from history", output::counted(rows.into(), "row")),
        };
        text.push_str(&output::on_stdout(
            &format!(
                "{} at {} (registry revision {}{from_history})",
                self.service,
                time::show(t),
                self.provenance.registry_revision
            ),
            Tone::Faint,
        ));
        text
    }
}

impl Cell {
    fn line(&self, feature: &str, t: Micros) -> Vec<String> {
        let (time, age) = match self.event_time {
            Some(event_time) => (time::show(event_time), time::age(event_time, t)),
            None => (String::new(), String::new()),
        };
        vec![feature.to_owned(), cell_text(&self.value), self.status.as_str_name().to_owned(), time, age]
    }
}

/// One value of a key column.
pub(super) fn key_json(column: &ArrayRef, row: usize) -> Json {
    let value = data_type_of(column.data_type()).and_then(|data_type| value_at(&**column, data_type, row).ok());
    value.as_ref().map_or(Json::Null, values::to_json)
}

fn cell_text(value: &Json) -> String {
    match value {
        Json::Null => String::new(),
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn unreadable(column: &str) -> Failure {
    Failure::new("UNREADABLE_ANSWER", format!("the server's answer can't be read: column '{column}' is cut short"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Float64Array, Int64Array, StringArray};

    use super::*;

    fn feature(name: &str, values: &ArrayRef, statuses: &[v1::CellStatus]) -> v1::FeatureColumn {
        let column = Some(encode_column(name, values).expect("a type of ours"));
        v1::FeatureColumn { column, statuses: statuses.iter().map(|status| (*status).into()).collect() }
    }

    fn answer() -> Answer {
        let temps: ArrayRef = Arc::new(Float64Array::from(vec![Some(39.02), None]));
        let seats: ArrayRef = Arc::new(Int64Array::from(vec![Some(0)]));
        let response = v1::GetOnlineFeaturesResponse {
            columns: vec![
                feature("dest_weather__temp", &temps, &[v1::CellStatus::Present, v1::CellStatus::Expired]),
                feature("planes__seats", &seats, &[v1::CellStatus::NotFound]),
            ],
            services: vec![v1::ServiceColumns { service: "delay_model@1".into(), columns: vec![0, 1] }],
            rows: 2,
            event_times: vec![v1::EventTimes {
                view: "airport_weather".into(),
                keys: vec!["dest".into()],
                micros: vec![1_388_444_400_000_000, 0],
                found: vec![true, true],
            }],
            provenance: Some(v1::Provenance {
                t: 1_388_449_800_000_000,
                registry_revision: 7,
                views: vec![v1::ViewProvenance {
                    view: "airport_weather".into(),
                    newest_event_time: Some(1_388_444_400_000_000),
                    complete_through: 1_767_607_200_000_000,
                    lacks_before: Some(1_388_451_600_000_000),
                }],
                rows_from_history: 0,
                freshness: Vec::new(),
            }),
            ..Default::default()
        };
        let dests: ArrayRef = Arc::new(StringArray::from(vec!["EWR", "JFK"]));
        let mappings =
            BTreeMap::from([("dest_weather".to_owned(), ("airport_weather".to_owned(), vec!["dest".to_owned()]))]);
        Answer::of(response, vec![("dest".to_owned(), dests)], &mappings).expect("whole")
    }

    #[test]
    fn an_answer_has_the_shape_that_programs_read() {
        let expected = json!({
            "rows": [
                {"key": {"dest": "EWR"}, "features": {
                    "dest_weather__temp": {"value": 39.02, "status": "PRESENT", "event_time": "2013-12-30T23:00:00Z"},
                    "planes__seats": {"value": "0", "status": "NOT_FOUND"}}},
                {"key": {"dest": "JFK"}, "features": {
                    "dest_weather__temp": {"value": null, "status": "EXPIRED", "event_time": "1970-01-01T00:00:00Z"},
                    "planes__seats": {"value": "0", "status": "NOT_FOUND"}}},
            ],
            "service": "delay_model@1", "registry_revision": 7, "t": "2013-12-31T00:30:00Z",
            "views": {"airport_weather": {
                "newest_event_time": "2013-12-30T23:00:00Z", "complete_through": "2026-01-05T10:00:00Z",
                "lacks_before": "2013-12-31T01:00:00Z"}},
        });
        assert_eq!(answer().json(), expected);
    }

    #[test]
    fn of_a_view_that_was_not_looked_up_no_time_is_told() {
        let mut masked = answer();
        masked.provenance.views = vec![v1::ViewProvenance { view: "profile".into(), ..Default::default() }];
        assert_eq!(masked.json()["views"], json!({"profile": {}}));
    }

    #[test]
    fn people_see_how_old_each_value_is() {
        let shown = answer().text();
        let line = shown.lines().find(|line| line.starts_with("dest_weather__temp")).expect("a line per feature");
        assert_eq!(
            line.split_whitespace().collect::<Vec<_>>(),
            ["dest_weather__temp", "39.02", "PRESENT", "2013-12-30T23:00:00Z", "90", "min"]
        );
        assert!(shown.contains("delay_model@1 at 2013-12-31T00:30:00Z"), "{shown}");
    }

    #[test]
    fn an_answer_cut_short_is_refused() {
        let temps: ArrayRef = Arc::new(Float64Array::from(vec![1.0, 2.0]));
        let response = v1::GetOnlineFeaturesResponse {
            columns: vec![feature("v__temp", &temps, &[v1::CellStatus::Present])],
            rows: 3,
            ..Default::default()
        };
        assert!(Answer::of(response, Vec::new(), &BTreeMap::new()).is_err());
    }
}
