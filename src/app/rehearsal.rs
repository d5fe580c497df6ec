//! Runs owners' tests of their definitions in this process: a node of its own for each, in a temporary
//! folder, under a clock that goes where the test says. The code that takes rows, serves and makes
//! training sets is the server's own; nothing here knows how a value comes about.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::cast::AsArray as _;
use arrow_array::{Array as _, ArrayRef, RecordBatch};
use futures::StreamExt as _;
use hydrant_storage::order::{CellStatus, Micros};
use hydrant_storage::row::{ColumnBuilder, value_at};
use hydrant_storage::value::{DataType, ScalarType, Value};
use serde_json::{Map, Value as Json};

use super::{AppError, Node};
use crate::clock::{ManualClock, rfc3339};
use crate::config::{ByteSize, Config, Span};
use crate::error::Error;
use crate::history::{HistoricalRequest, Mode};
use crate::ingest::IngestRequest;
use crate::registry::catalog::{Source, TenantCatalog};
use crate::registry::definition::{Definition, KnownTimeRule};
use crate::registry::scenario::{Expectation, Mismatch, Outcome, Read, Scenario};
use crate::registry::selection::Selection;
use crate::registry::values;
use crate::serving::OnlineRequest;
use crate::tenancy::{Action, Identity, Permit};

/// Definitions are applied at the beginning of all time; a test comes later.
const EARLIEST: Micros = 86_400_000_000;
/// Longer than anything of a test takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// The spine's column of event times; no request column is called so, names having no capitals.
const AT: &str = "AT";
/// A cell of a column, with its status.
struct Cell {
    value: Value,
    data_type: DataType,
    status: CellStatus,
}

/// Why a test can't be run to its end.
struct Broken(String);

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        let places: Vec<String> =
            error.violations.iter().map(|violation| format!("{}: {}", violation.path, violation.message)).collect();
        let places = if places.is_empty() { String::new() } else { format!(" ({})", places.join("; ")) };
        Self(format!("{}{places}", error.message))
    }
}

impl From<AppError> for Broken {
    fn from(error: AppError) -> Self {
        Self(format!("a node can't be started in a temporary folder: {error}"))
    }
}

/// Runs one test on `definitions`, and tells what came of it.
pub async fn rehearse(definitions: &[Definition], scenario: &Scenario) -> Outcome {
    let begun = Instant::now();
    let mut outcome = Outcome {
        scenario: scenario.name.clone(),
        file: Arc::clone(&scenario.file),
        line: scenario.line,
        took: Duration::ZERO,
        cells: 0,
        broken: None,
        mismatches: Vec::new(),
    };
    match Stage::open(definitions, scenario).await {
        Ok(stage) => {
            let run = stage.run(scenario, &mut outcome).await;
            stage.node.close().await;
            outcome.broken = run.err().map(|Broken(told)| told);
        }
        Err(Broken(told)) => outcome.broken = Some(told),
    }
    outcome.mismatches.sort_by_key(|mismatch| (mismatch.line, mismatch.column.clone(), mismatch.read));
    outcome.took = begun.elapsed();
    outcome
}

/// A node with the definitions of a test.
struct Stage {
    node: Node,
    clock: Arc<ManualClock>,
    catalog: Arc<TenantCatalog>,
    _folder: tempfile::TempDir,
}

/// Of one source, as they are written.
type Rows<'a> = Vec<&'a Map<String, Json>>;

/// What happens at one instant: first rows arrive, then reads are made.
#[derive(Default)]
struct Moment<'a> {
    /// By source, in the order in which they stand.
    rows: Vec<(&'a Arc<Source>, Rows<'a>)>,
    reads: Vec<&'a Expectation>,
}

impl Stage {
    async fn open(definitions: &[Definition], scenario: &Scenario) -> Result<Self, Broken> {
        let folder = tempfile::tempdir().map_err(|error| Broken(format!("no temporary folder: {error}")))?;
        let mut config = Config::embedded();
        config.storage.data_dir = folder.path().join("data");
        config.storage.partitions = 1;
        config.storage.block_cache = ByteSize::mib(8);
        config.storage.write_buffers = ByteSize::mib(8);
        // What a test is about doesn't depend on where rows lie, and it is over soon.
        config.landing.interval = Span(Duration::from_secs(1_000_000));
        config.compaction.enabled = false;
        // The first instant is known once the definitions are: until then it is before everything.
        let clock = Arc::new(ManualClock::new(0));
        let node = Node::open(&config, clock.clone()).await?;
        let change = permit(&node, Action::ChangeDefinitions)?;
        let use_cases = node.use_cases();
        let waited = use_cases.partitions.wait_serving(soon()).await;
        waited.map_err(|error| Broken(format!("the partitions don't open: {error}")))?;
        use_cases.registry.apply(&change, definitions.to_vec(), None).await?;
        let catalog = Arc::clone(use_cases.registry.snapshot().tenant(change.tenant())?);
        drop(change);
        let stage = Self { node, clock, catalog, _folder: folder };
        let first = stage.moments(scenario).map(|moments| moments.keys().next().copied());
        match first {
            Ok(first) if first.is_none_or(|first| first > EARLIEST) => Ok(stage),
            Ok(_) => stage.given_up(Broken("a test begins after 1970-01-02T00:00:00Z".to_owned())).await,
            Err(broken) => stage.given_up(broken).await,
        }
    }

    async fn given_up(self, broken: Broken) -> Result<Self, Broken> {
        self.node.close().await;
        Err(broken)
    }

    async fn run(&self, scenario: &Scenario, outcome: &mut Outcome) -> Result<(), Broken> {
        for (at, moment) in self.moments(scenario)? {
            // Each request is stamped with an instant of its own, right after the one that its rows are held
            // to, and the last of them with this one.
            let requests = Micros::try_from(moment.rows.len()).unwrap_or(Micros::MAX);
            self.let_time_follow(at.saturating_sub(requests + 1)).await?;
            for ((source, rows), number) in moment.rows.iter().zip(1..) {
                self.clock.set(at.saturating_sub(requests + 1 - number));
                self.ingest(source, rows, at).await?;
            }
            self.clock.set(at);
            for expectation in moment.reads {
                if expectation.only != Some(Read::Historical) {
                    let found = self.online(expectation).await?;
                    compare(expectation, Read::Online, &found, outcome)?;
                }
            }
        }
        for expectation in &scenario.expectations {
            if expectation.only != Some(Read::Online) {
                let found = self.historical(expectation).await?;
                compare(expectation, Read::Historical, &found, outcome)?;
            }
        }
        Ok(())
    }

    /// What happens, in the order of time.
    fn moments<'a>(&'a self, scenario: &'a Scenario) -> Result<BTreeMap<Micros, Moment<'a>>, Broken> {
        let mut moments: BTreeMap<Micros, Moment<'a>> = BTreeMap::new();
        for given in &scenario.rows {
            let source = self.catalog.sources.get(&given.source);
            let source = source.ok_or_else(|| {
                Broken(format!("{}:{}: there is no source '{}'", scenario.file, given.line, given.source))
            })?;
            for row in &given.rows {
                let arrives = match given.arrives {
                    Some(at) => at,
                    None => happened(source, row).map_err(|told| {
                        Broken(format!("{}:{}: a row of source '{}': {told}", scenario.file, given.line, given.source))
                    })?,
                };
                let moment = moments.entry(arrives).or_default();
                match moment.rows.last_mut() {
                    Some((last, rows)) if Arc::ptr_eq(last, source) => rows.push(row),
                    _ => moment.rows.push((source, vec![row])),
                }
            }
        }
        for expectation in &scenario.expectations {
            moments.entry(expectation.at).or_default().reads.push(expectation);
        }
        Ok(moments)
    }

    async fn ingest(&self, source: &Source, rows: &[&Map<String, Json>], at: Micros) -> Result<(), Broken> {
        let failed = |told: String| Broken(format!("rows of source '{}' at {}: {told}", source.name, rfc3339(at)));
        let batch = table(rows, |name| {
            let declared = source.columns.iter().find(|column| column.name.as_str() == name);
            let deleted = (name == "_deleted").then_some(DataType::Scalar(ScalarType::Bool));
            let data_type = declared.map(|column| column.data_type).or(deleted);
            data_type.ok_or_else(|| format!("the source declares no column '{name}'"))
        });
        let request = IngestRequest {
            source: source.name.to_string(),
            batch: batch.map_err(failed)?,
            producer: None,
            known_time: None,
            ignore_extra: false,
            validate_only: false,
        };
        let permit = self.permit(Action::Write)?;
        let taken = self.node.use_cases().ingest.ingest(&permit, request).await;
        let report = taken.map_err(|error| failed(Broken::from(error).0))?;
        if report.ingest_time.is_some_and(|taken| taken > at) {
            return Err(failed("too much arrives within a microsecond; give it another instant".to_owned()));
        }
        let Some(frame) = report.frame else { return Ok(()) };
        let applied = self.node.use_cases().partitions.wait_applied(frame, soon()).await;
        applied.map(drop).map_err(|error| failed(error.to_string()))
    }

    /// What the store answers now.
    async fn online(&self, expectation: &Expectation) -> Result<BTreeMap<String, Cell>, Broken> {
        let selection = self.selection(expectation)?;
        let mut entities = Vec::new();
        for wanted in &selection.request_columns {
            let data_type = DataType::Scalar(wanted.key_type);
            let value = key_value(expectation, wanted.name.as_str(), data_type)?;
            entities.push((wanted.name.to_string(), column(data_type, &[value])?));
        }
        let request = OnlineRequest {
            services: expectation.service.iter().cloned().collect(),
            features: expectation.features.clone(),
            entities,
            strict: true,
            ..OnlineRequest::default()
        };
        let permit = self.permit(Action::ReadOnline)?;
        let answer = self.node.use_cases().serving.get(&permit, request).await?;
        let mut cells = BTreeMap::new();
        for found in answer.to_columns()? {
            let value = value_at(&found.values, found.data_type, 0).map_err(|error| Broken(error.to_string()))?;
            let status = found.statuses.first().copied().unwrap_or(CellStatus::NotReady);
            cells.insert(found.name, Cell { value, data_type: found.data_type, status });
        }
        Ok(cells)
    }

    /// What a training set has, as known at the instant.
    async fn historical(&self, expectation: &Expectation) -> Result<BTreeMap<String, Cell>, Broken> {
        let selection = self.selection(expectation)?;
        let time = column(DataType::Scalar(ScalarType::Timestamp), &[Value::Timestamp(expectation.at)])?;
        let mut columns = vec![(AT.to_owned(), time)];
        for wanted in &selection.request_columns {
            let data_type = DataType::Scalar(wanted.key_type);
            let value = key_value(expectation, wanted.name.as_str(), data_type)?;
            columns.push((wanted.name.to_string(), column(data_type, &[value])?));
        }
        let columns = columns.into_iter().map(|(name, array)| (name, array, true));
        let spine = RecordBatch::try_from_iter_with_nullable(columns).map_err(|error| Broken(error.to_string()))?;
        let request = HistoricalRequest {
            services: expectation.service.iter().cloned().collect(),
            features: expectation.features.clone(),
            event_time: AT.to_owned(),
            mode: Mode::AsKnown,
            cutoff: None,
            with_status: true,
            with_event_time: false,
            spine: spine.schema(),
        };
        let permit = self.permit(Action::ReadHistory)?;
        let mut intake = self.node.use_cases().history.open(&permit, request)?;
        intake.push(spine).await?;
        let mut stream = intake.finish().await?;
        let mut cells = BTreeMap::new();
        while let Some(batch) = stream.next().await {
            let batch = batch?;
            for planned in &stream.plan().columns {
                let missing = || Broken(format!("the training set has no column '{}'", planned.name));
                let array = batch.column_by_name(&planned.name).ok_or_else(missing)?;
                let status = batch.column_by_name(&format!("{}__status", planned.name)).ok_or_else(missing)?;
                if array.is_empty() {
                    continue;
                }
                let value = value_at(array, planned.data_type, 0).map_err(|error| Broken(error.to_string()))?;
                let status = status_named(status.as_string::<i32>().value(0)).ok_or_else(missing)?;
                cells.insert(planned.name.clone(), Cell { value, data_type: planned.data_type, status });
            }
        }
        Ok(cells)
    }

    fn selection(&self, expectation: &Expectation) -> Result<Selection, Broken> {
        let snapshot = self.node.use_cases().registry.snapshot();
        let services: Vec<String> = expectation.service.iter().cloned().collect();
        let selection = snapshot.select(&self.catalog, &services, &expectation.features)?;
        let wanted: BTreeSet<&str> = selection.request_columns.iter().map(|column| column.name.as_str()).collect();
        let unknown = expectation.keys.keys().find(|key| !wanted.contains(key.as_str()));
        if let Some(unknown) = unknown {
            let wanted: Vec<&str> = wanted.into_iter().collect();
            let told = format!("'{unknown}' is no key of what is read, whose keys are {}", wanted.join(", "));
            return Err(Broken(format!("line {}: {told}", expectation.line)));
        }
        Ok(selection)
    }

    /// Moves the clock, and lets store time follow: what comes within seconds may be given out then.
    async fn let_time_follow(&self, now: Micros) -> Result<(), Broken> {
        self.clock.set(now);
        self.node.log().seal().await.map(drop).map_err(|error| Broken(format!("the clock can't be moved: {error}")))
    }

    fn permit(&self, action: Action) -> Result<Permit, Broken> {
        permit(&self.node, action)
    }
}

/// Everybody may do everything on a node that is nobody else's.
fn permit(node: &Node, action: Action) -> Result<Permit, Broken> {
    Ok(node.use_cases().tenancy.authorize(&Identity::loopback(), action)?)
}

fn soon() -> Instant {
    Instant::now() + PATIENCE
}

/// When a row that says nothing of its arrival comes in: when it happened, or when its column says that
/// it was known, if that is later.
fn happened(source: &Source, row: &Map<String, Json>) -> Result<Micros, String> {
    let time = |column: &str| {
        let written = row.get(column).ok_or_else(|| format!("it has no '{column}'"))?;
        match values::from_json(written, DataType::Scalar(ScalarType::Timestamp)) {
            Ok(Value::Timestamp(at)) => Ok(at),
            Ok(_) => Err(format!("its '{column}' is null")),
            Err(told) => Err(format!("its '{column}': {told}")),
        }
    };
    let event = time(source.event_time.as_str())?;
    match &source.known_time {
        KnownTimeRule::Column(column) => Ok(event.max(time(column.as_str())?)),
        KnownTimeRule::Arrival | KnownTimeRule::Event { .. } => Ok(event),
    }
}

/// Rows as a batch; what one row lacks is null.
fn table(
    rows: &[&Map<String, Json>],
    type_of: impl Fn(&str) -> Result<DataType, String>,
) -> Result<RecordBatch, String> {
    let names: BTreeSet<&str> = rows.iter().flat_map(|row| row.keys().map(String::as_str)).collect();
    let mut columns: Vec<(&str, ArrayRef, bool)> = Vec::with_capacity(names.len());
    for name in names {
        let data_type = type_of(name)?;
        let value = |row: &&Map<String, Json>| values::from_json(row.get(name).unwrap_or(&Json::Null), data_type);
        let values = rows.iter().map(value).collect::<Result<Vec<Value>, String>>();
        let values = values.map_err(|told| format!("column '{name}': {told}"))?;
        columns.push((name, column(data_type, &values).map_err(|Broken(told)| told)?, true));
    }
    RecordBatch::try_from_iter_with_nullable(columns).map_err(|error| error.to_string())
}

fn column(data_type: DataType, values: &[Value]) -> Result<ArrayRef, Broken> {
    let mut builder = ColumnBuilder::new(data_type, values.len());
    for value in values {
        builder.push_value(value).map_err(|error| Broken(error.to_string()))?;
    }
    Ok(builder.finish())
}

fn key_value(expectation: &Expectation, name: &str, data_type: DataType) -> Result<Value, Broken> {
    let missing = || Broken(format!("line {}: the key '{name}' is missing", expectation.line));
    let written = expectation.keys.get(name).ok_or_else(missing)?;
    values::from_json(written, data_type).map_err(|told| Broken(format!("line {}: '{name}': {told}", expectation.line)))
}

fn status_named(text: &str) -> Option<CellStatus> {
    CellStatus::ALL.into_iter().find(|status| status.as_str() == text)
}

fn compare(
    expectation: &Expectation,
    read: Read,
    found: &BTreeMap<String, Cell>,
    outcome: &mut Outcome,
) -> Result<(), Broken> {
    for (column, expected) in &expectation.values {
        let cell = found.get(column).ok_or_else(|| {
            let names: Vec<&str> = found.keys().map(String::as_str).collect();
            Broken(format!("line {}: there is no column '{column}', but {}", expectation.line, names.join(", ")))
        })?;
        let found = values::to_json(&cell.value);
        // Read by the type of the column, so that two ways to write one value are one value.
        let wanted = expected.value.as_ref().map(|written| values::from_json(written, cell.data_type)).transpose();
        let wanted = wanted.map_err(|told| Broken(format!("line {}: '{column}': {told}", expectation.line)))?;
        let wanted = wanted.map(|value| values::to_json(&value));
        outcome.cells += 1;
        if expected.status == cell.status && wanted.as_ref().is_none_or(|wanted| *wanted == found) {
            continue;
        }
        outcome.mismatches.push(Mismatch {
            line: expectation.line,
            read,
            column: column.clone(),
            at: expectation.at,
            expected: shown(wanted.as_ref(), expected.status),
            found: shown(Some(&found), cell.status),
        });
    }
    Ok(())
}

/// A cell as it is written in a test.
fn shown(value: Option<&Json>, status: CellStatus) -> String {
    match (value, status) {
        (Some(value), CellStatus::Present) => value.to_string(),
        (_, CellStatus::Null) => "null".to_owned(),
        (None | Some(Json::Null), status) => status.as_str().to_owned(),
        (Some(value), status) => format!("{} with {value}", status.as_str()),
    }
}
