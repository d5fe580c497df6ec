//! A node in process: its real log, partitions, registry and history in a directory of its own, by
//! a clock that the test moves. Writes are seen by the next read; rows land, and files of history are
//! merged, when the test says so.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::cast::AsArray as _;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array as _, ArrayRef, RecordBatch};
use futures::StreamExt as _;
use hydrant::app::{AppError, Node};
use hydrant::backfill::{BackfillReport, BackfillRequest};
use hydrant::clock::ManualClock;
use hydrant::config::{ByteSize, Config, Span};
use hydrant::error::Result;
use hydrant::history::plan::Plan;
use hydrant::history::reading::Reading;
use hydrant::history::{HistoricalRequest, Mode, Report};
use hydrant::ingest::{DeleteRequest, IngestReport, IngestRequest, Producer};
use hydrant::materialize::Progress;
use hydrant::registry::catalog::{Standing, TenantCatalog};
use hydrant::registry::definition::{Definition, KnownTimeRule};
use hydrant::registry::selection::SelectedService;
use hydrant::registry::yaml;
use hydrant::rpc::UseCases;
use hydrant::serving::{AnswerColumn, EventTimes, OnlineRequest, Provenance};
use hydrant::tenancy::{Action, Identity, Permit};
use hydrant_storage::backup::{self, About};
use hydrant_storage::files::LocalFiles;
use hydrant_storage::order::{CellStatus, Micros};
use hydrant_storage::value::{DataType, ScalarType, Value};
use serde_json::Value as Json;

use super::table;

/// 2024-01-01T00:00:00Z, where the clock of every test begins.
pub const START: Micros = 1_704_067_200_000_000;
pub const SECOND: Micros = 1_000_000;
pub const MINUTE: Micros = 60 * SECOND;
pub const HOUR: Micros = 60 * MINUTE;
pub const DAY: Micros = 24 * HOUR;

/// Longer than anything takes; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct TestNode {
    node: Option<Node>,
    pub clock: Arc<ManualClock>,
    pub config: Config,
    directory: tempfile::TempDir,
}

/// An online answer, cells as text.
#[derive(Clone, Debug)]
pub struct Online(pub Answered);

#[derive(Clone, Debug)]
pub struct Answered {
    pub columns: Vec<AnswerColumn>,
    pub services: Vec<SelectedService>,
    pub rows: usize,
    pub event_times: Vec<EventTimes>,
    pub provenance: Provenance,
}

/// A training set with its statuses and event times.
#[derive(Clone, Debug)]
pub struct Training {
    pub table: RecordBatch,
    pub report: Report,
    pub plan: Arc<Plan>,
    pub reading: Arc<Reading>,
}

/// How a training set is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    pub mode: Mode,
    pub cutoff: Option<Micros>,
}

pub const AS_KNOWN: Ask = Ask { mode: Mode::AsKnown, cutoff: None };
pub const FINAL: Ask = Ask { mode: Mode::Final, cutoff: None };

impl Ask {
    pub fn up_to(self, cutoff: Micros) -> Self {
        Self { cutoff: Some(cutoff), ..self }
    }
}

/// Waits are given up after it.
pub fn patience() -> Instant {
    Instant::now() + PATIENCE
}

pub fn definitions_of(text: &str) -> Vec<Definition> {
    let parsed = yaml::parse("test.yaml", text).expect("the definitions are well written");
    parsed.definitions.into_iter().map(|located| located.definition).collect()
}

impl TestNode {
    /// A new node with these definitions (YAML), its clock at [`START`].
    pub async fn start(definitions: &str) -> Self {
        Self::start_with(definitions, |_| ()).await
    }

    pub async fn start_with(definitions: &str, change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut config = Config::embedded();
        config.storage.data_dir = directory.path().join("data");
        config.storage.partitions = 3;
        config.storage.block_cache = ByteSize::mib(8);
        config.storage.write_buffers = ByteSize::mib(8);
        config.landing.interval = Span(Duration::from_secs(1_000_000));
        config.freshness.interval = Span(Duration::from_secs(3_600));
        // When the test says so too, and then as much as can be, into small files.
        config.compaction.enabled = false;
        config.compaction.runs_per_level = 2;
        config.compaction.file = ByteSize(64 << 10);
        change(&mut config);
        let mut node = Self { node: None, clock: Arc::new(ManualClock::new(START)), config, directory };
        node.open().await.expect("a new node opens");
        if !definitions.is_empty() {
            node.apply(definitions).await;
        }
        node
    }

    /// Opens the data directory; the node must be closed.
    pub async fn open(&mut self) -> Result<(), AppError> {
        assert!(self.node.is_none(), "the node is open");
        let node = Node::open(&self.config, self.clock.clone()).await?;
        let partitions = &node.use_cases().partitions;
        if let Err(error) = partitions.wait_serving(patience()).await {
            let states: Vec<_> =
                partitions.handles().iter().map(|handle| (handle.state(), handle.flushed_frame())).collect();
            panic!(
                "the partitions don't open: {error}; {states:?}, and the log ends at {}",
                partitions.durable_frame()
            );
        }
        self.node = Some(node);
        Ok(())
    }

    pub async fn close(&mut self) {
        if let Some(node) = self.node.take() {
            node.close().await;
        }
    }

    /// Stops the node and starts it on the same directory.
    pub async fn restart(&mut self) {
        self.close().await;
        self.open().await.expect("the node opens again");
    }

    /// What is on disk now, copied as a machine that dies now would leave it at best; a new node runs
    /// on the log and the registry of it alone, and has to make everything else from them.
    pub async fn revive_from_log(&self) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut config = self.config.clone();
        config.storage.data_dir = directory.path().join("data");
        for part in ["log", "registry"] {
            copy_all(&self.data_directory().join(part), &config.storage.data_dir.join(part));
        }
        let mut revived = Self { node: None, clock: self.clock.clone(), config, directory };
        revived.open().await.expect("the copy opens");
        revived
    }

    /// Makes a backup of the running node.
    pub async fn back_up(&self, name: &str) -> Result<About> {
        let permit = self.permit(Action::BackUp);
        self.use_cases().backups.create(&permit, name.parse().expect("a name"))?.finish().await
    }

    /// A node on a backup of this one, verified, and restored into a directory of its own.
    pub async fn restored(&self, name: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut config = self.config.clone();
        config.storage.data_dir = directory.path().join("data");
        // What was to happen often beside the backup need not any more.
        config.partitions = Config::embedded().partitions;
        let backup = self.use_cases().backups.path_of(&name.parse().expect("a name"));
        let verified = backup::verify(&LocalFiles, &backup, &mut |_| true).expect("it has a manifest");
        assert_eq!(verified.problems, [], "{}", backup.display());
        backup::restore(&LocalFiles, &backup, &config.storage.data_dir, &mut |_| true).expect("it is restored");
        let mut restored = Self { node: None, clock: self.clock.clone(), config, directory };
        restored.open().await.expect("the restored directory opens");
        restored
    }

    pub fn data_directory(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub fn node(&self) -> &Node {
        self.node.as_ref().expect("the node is open")
    }

    pub fn use_cases(&self) -> &UseCases {
        self.node().use_cases()
    }

    pub fn permit(&self, action: Action) -> Permit {
        self.use_cases().tenancy.authorize(&Identity::loopback(), action).expect("the operator may do all")
    }

    pub fn catalog(&self) -> Arc<TenantCatalog> {
        let snapshot = self.use_cases().registry.snapshot();
        let (_, tenant) = snapshot.tenants.iter().next().expect("the default tenant");
        tenant.clone()
    }

    // Definitions.

    pub async fn apply(&self, text: &str) {
        self.try_apply(text).await.expect("the definitions are valid");
    }

    pub async fn try_apply(&self, text: &str) -> Result<u64> {
        self.apply_all(definitions_of(text)).await
    }

    /// The registry's revision afterwards.
    pub async fn apply_all(&self, definitions: Vec<Definition>) -> Result<u64> {
        let permit = self.permit(Action::ChangeDefinitions);
        Ok(self.use_cases().registry.apply(&permit, definitions, None).await?.revision)
    }

    // Time.

    /// Sets the clock, and lets store time follow.
    pub async fn set_clock(&self, now: Micros) {
        self.clock.set(now);
        self.node().log().seal().await.expect("the log works");
    }

    /// Moves the clock, and lets store time follow.
    pub async fn advance(&self, by: Micros) {
        self.clock.advance(Duration::from_micros(u64::try_from(by).expect("forwards")));
        self.node().log().seal().await.expect("the log works");
    }

    /// Store time, as a read would take it.
    pub fn now(&self) -> Micros {
        self.use_cases().store_time.read()
    }

    // Writes.

    /// Waits until every raised ttl is in effect.
    pub async fn refilled(&self) {
        let registry = &self.use_cases().registry;
        let is_refilled = |_: &u64| {
            let snapshot = registry.snapshot();
            snapshot.tenants.values().all(|tenant| tenant.views.values().all(|view| view.refill.is_none()))
        };
        let mut revisions = registry.subscribe();
        let refilled = tokio::time::timeout(PATIENCE, revisions.wait_for(is_refilled)).await;
        refilled.expect("refilled in time").expect("the registry is there");
    }

    /// Waits until every version of a view that is being built is served.
    pub async fn built(&self) {
        let registry = &self.use_cases().registry;
        let is_built = |_: &u64| {
            let snapshot = registry.snapshot();
            let mut versions = snapshot.tenants.values().flat_map(|tenant| tenant.versions.values().flatten());
            versions.all(|view| view.standing == Standing::Older)
        };
        let mut revisions = registry.subscribe();
        let built = tokio::time::timeout(PATIENCE, revisions.wait_for(is_built)).await;
        built.expect("built in time").expect("the registry is there");
    }

    /// Rows as a batch of the types that the source declares.
    pub fn batch(&self, source: &str, rows: &Json) -> RecordBatch {
        let catalog = self.catalog();
        let source = catalog.sources.get(source).expect("a source of the test").clone();
        table::batch(rows, |name| {
            let declared = source.columns.iter().find(|column| column.name.as_str() == name);
            declared.map_or(DataType::Scalar(ScalarType::Bool), |column| column.data_type)
        })
    }

    pub fn request(&self, source: &str, rows: &Json) -> IngestRequest {
        IngestRequest {
            source: source.to_owned(),
            batch: self.batch(source, rows),
            producer: None,
            known_time: None,
            ignore_extra: false,
            validate_only: false,
        }
    }

    pub async fn ingest(&self, request: IngestRequest) -> Result<IngestReport> {
        self.use_cases().ingest.ingest(&self.permit(Action::Write), request).await
    }

    pub async fn try_put(&self, source: &str, rows: Json) -> Result<IngestReport> {
        self.ingest(self.request(source, &rows)).await
    }

    /// Takes rows in, and waits until reads see them.
    pub async fn put(&self, source: &str, rows: Json) -> IngestReport {
        let report = self.try_put(source, rows).await.expect("the rows are good");
        self.see(&report).await;
        report
    }

    pub async fn put_known(&self, source: &str, rows: Json, known_time: KnownTimeRule) -> IngestReport {
        let request = IngestRequest { known_time: Some(known_time), ..self.request(source, &rows) };
        let report = self.ingest(request).await.expect("the rows are good");
        self.see(&report).await;
        report
    }

    /// As a producer that may send the same again.
    pub async fn put_once(&self, source: &str, rows: Json, producer: &str, sequence: u64) -> Result<IngestReport> {
        let producer = Some(Producer { id: producer.to_owned(), sequence });
        let report = self.ingest(IngestRequest { producer, ..self.request(source, &rows) }).await?;
        self.see(&report).await;
        Ok(report)
    }

    pub fn deletion(&self, view: &str, keys: &Json, event_time: Micros) -> DeleteRequest {
        let catalog = self.catalog();
        let known = catalog.views.get(view).expect("a view of the test").join_keys.clone();
        let type_of = |name: &str| known.iter().find(|key| key.name.as_str() == name).map(|key| key.key_type);
        let keys = columns_of(keys, |name| type_of(name).expect("a join key of the view"));
        DeleteRequest { view: view.to_owned(), keys, event_times: vec![event_time], producer: None, known_time: None }
    }

    /// Deletes keys (a column per join key), and waits until reads see it.
    pub async fn delete(&self, view: &str, keys: Json, event_time: Micros) -> IngestReport {
        let request = self.deletion(view, &keys, event_time);
        let deleted = self.use_cases().ingest.delete(&self.permit(Action::Write), request).await;
        let report = deleted.expect("the keys are good");
        self.see(&report).await;
        report
    }

    /// Waits until reads see what was acknowledged.
    pub async fn see(&self, report: &IngestReport) {
        let Some(frame) = report.frame else { return };
        self.use_cases().partitions.wait_applied(frame, patience()).await.expect("the partitions follow the log");
    }

    /// How many requests the log has taken so far.
    pub fn frames(&self) -> u64 {
        *self.node().log().durable().borrow()
    }

    /// Brings everything acknowledged so far into history.
    pub async fn land(&self) -> u64 {
        self.node().landing().land_now().await.expect("the rows land").rows()
    }

    /// Merges the files of history until there is nothing left to merge; how many merges that took.
    pub async fn compact(&self) -> u64 {
        let compacted = self.node().compaction().settle().await.expect("it is running");
        assert_eq!(compacted.failures, 0, "no table failed");
        compacted.merges
    }

    // Online reads.

    /// `what` names services (`s`, `s@1`) and features (`view:feature`); `keys` has a list for each
    /// request column.
    pub fn question(&self, what: &[&str], keys: &Json) -> OnlineRequest {
        let (services, features) = split(what);
        let snapshot = self.use_cases().registry.snapshot();
        let selected = snapshot.select(&self.catalog(), &services, &features).expect("they are defined");
        let wanted = &selected.request_columns;
        let type_of =
            |name: &str| wanted.iter().find(|column| column.name.as_str() == name).map(|column| column.key_type);
        let entities = columns_of(keys, |name| type_of(name).expect("a request column"));
        OnlineRequest { services, features, entities, include_event_times: true, ..OnlineRequest::default() }
    }

    pub async fn get(&self, request: OnlineRequest) -> Result<Online> {
        self.get_by(&self.permit(Action::ReadOnline), request).await
    }

    /// By a caller of one's own.
    pub async fn get_by(&self, permit: &Permit, request: OnlineRequest) -> Result<Online> {
        let answer = self.use_cases().serving.get(permit, request).await?;
        Ok(Online(Answered {
            columns: answer.to_columns()?,
            services: answer.selection().services.clone(),
            rows: answer.rows(),
            event_times: answer.event_times(),
            provenance: answer.provenance,
        }))
    }

    // Backfills.

    /// A backfill of these rows, all of which are new.
    pub fn backfill_of(&self, source: &str, id: &str, batches: &[RecordBatch]) -> BackfillRequest {
        BackfillRequest {
            source: source.to_owned(),
            id: id.to_owned(),
            rows: batches.iter().map(|batch| batch.num_rows() as u64).sum(),
            first_row: 0,
            known_time: None,
            from: None,
            to: None,
            ignore_extra: false,
            validate_only: false,
            origins: Vec::new(),
        }
    }

    /// Gives up the backfill that the log has taken in with a frame.
    pub async fn abandon(&self, frame: u64) -> Result<u64> {
        self.use_cases().backfills.abandon(&self.permit(Action::Write), frame).await
    }

    pub async fn backfill(&self, request: BackfillRequest, batches: &[RecordBatch]) -> Result<BackfillReport> {
        let mut intake = self.use_cases().backfills.begin(&self.permit(Action::Write), request).await?;
        for batch in batches {
            intake.push(batch.clone()).await?;
        }
        intake.finish().await?.done().await
    }

    /// Brings the history of a view online, and lets reads see it.
    pub async fn materialize(&self, view: &str, since_frame: Option<u64>) -> Result<Progress> {
        let permit = self.permit(Action::Write);
        self.use_cases().materialize.begin(&permit, view, since_frame).await?.done().await
    }

    pub async fn read(&self, what: &[&str], keys: Json) -> Online {
        self.get(self.question(what, &keys)).await.expect("the read is answered")
    }

    pub async fn try_read_at(&self, what: &[&str], keys: Json, at: Micros) -> Result<Online> {
        self.get(OnlineRequest { at: Some(at), ..self.question(what, &keys) }).await
    }

    pub async fn read_at(&self, what: &[&str], keys: Json, at: Micros) -> Online {
        self.try_read_at(what, keys, at).await.expect("the read is answered")
    }

    /// One feature for one key.
    pub async fn one(&self, feature: &str, key: Json) -> String {
        self.read(&[feature], each_a_list(&key)).await.only()
    }

    pub async fn one_at(&self, feature: &str, key: Json, at: Micros) -> String {
        self.read_at(&[feature], each_a_list(&key), at).await.only()
    }

    // Training sets.

    pub async fn train(&self, what: &[&str], spine: &RecordBatch, ask: Ask) -> Training {
        self.try_train(what, spine, ask).await.expect("the training set is made")
    }

    pub async fn try_train(&self, what: &[&str], spine: &RecordBatch, ask: Ask) -> Result<Training> {
        let request = HistoricalRequest { with_status: true, with_event_time: true, ..training_of(what, spine, ask) };
        self.join(request, spine).await
    }

    pub async fn join(&self, request: HistoricalRequest, spine: &RecordBatch) -> Result<Training> {
        self.join_by(&self.permit(Action::ReadHistory), request, spine).await
    }

    /// By a caller of one's own.
    pub async fn join_by(&self, permit: &Permit, request: HistoricalRequest, spine: &RecordBatch) -> Result<Training> {
        let mut intake = self.use_cases().history.open(permit, request)?;
        intake.push(spine.clone()).await?;
        let mut stream = intake.finish().await?;
        let mut batches = Vec::new();
        while let Some(batch) = stream.next().await {
            batches.push(batch?);
        }
        let table = arrow_select::concat::concat_batches(&stream.schema(), &batches).expect("one schema");
        let report = stream.report().expect("a whole training set has a report").clone();
        Ok(Training { table, report, plan: stream.plan().clone(), reading: stream.reading().clone() })
    }

    /// One feature for one key at some instants.
    pub async fn one_trained(&self, feature: &str, key: Json, instants: &[Micros], ask: Ask) -> Vec<String> {
        let trained = self.train(&[feature], &table::spine_at(&key, instants), ask).await;
        trained.column(&feature.replace(':', "__"))
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        let Some(node) = self.node.take() else { return };
        if !std::thread::panicking() {
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(node.close()));
        }
    }
}

impl Online {
    pub fn names(&self) -> Vec<&str> {
        self.0.columns.iter().map(|column| column.name.as_str()).collect()
    }

    pub fn find(&self, name: &str) -> &AnswerColumn {
        let found = self.0.columns.iter().find(|column| column.name == name);
        found.unwrap_or_else(|| panic!("no column '{name}' among {:?}", self.names()))
    }

    pub fn statuses(&self, name: &str) -> Vec<CellStatus> {
        let column = self.find(name);
        match column.statuses.as_slice() {
            [one] => vec![*one; column.values.len()],
            each => each.to_vec(),
        }
    }

    /// The column's cells as text; see [`table::shown`].
    pub fn column(&self, name: &str) -> Vec<String> {
        let column = self.find(name);
        let statuses: Vec<&str> = self.statuses(name).iter().map(|status| status.as_str()).collect();
        assert_eq!(statuses.len(), column.values.len(), "a status for each cell of '{name}'");
        table::shown_column(&column.values, column.data_type, &statuses)
    }

    /// The one cell of an answer to one feature and one key.
    pub fn only(&self) -> String {
        let [column] = self.0.columns.as_slice() else { panic!("not one column: {:?}", self.names()) };
        let [cell] = self.column(&column.name).try_into().expect("not one cell");
        cell
    }

    /// The event times of the only lookup.
    pub fn event_times(&self) -> Vec<Option<Micros>> {
        let [times] = self.0.event_times.as_slice() else { panic!("not one lookup: {:?}", self.0.event_times) };
        times.times.clone()
    }
}

impl Training {
    pub fn array(&self, name: &str) -> &ArrayRef {
        let found = self.table.column_by_name(name);
        found.unwrap_or_else(|| panic!("no column '{name}' in {:?}", self.names()))
    }

    pub fn names(&self) -> Vec<String> {
        self.table.schema().fields().iter().map(|field| field.name().clone()).collect()
    }

    pub fn statuses(&self, name: &str) -> Vec<String> {
        let statuses = self.array(&format!("{name}__status")).as_string::<i32>();
        statuses.iter().map(|status| status.expect("a status is never null").to_owned()).collect()
    }

    pub fn event_times(&self, name: &str) -> Vec<Option<Micros>> {
        let times = self.array(&format!("{name}__event_time")).as_primitive::<TimestampMicrosecondType>();
        times.iter().collect()
    }

    /// The column's cells as text; see [`table::shown`].
    pub fn column(&self, name: &str) -> Vec<String> {
        let planned = self.plan.columns.iter().find(|column| column.name == name).expect("a feature's column");
        let statuses = self.statuses(name);
        let statuses: Vec<&str> = statuses.iter().map(String::as_str).collect();
        table::shown_column(self.array(name), planned.data_type, &statuses)
    }
}

/// A training set of values alone.
pub fn training_of(what: &[&str], spine: &RecordBatch, ask: Ask) -> HistoricalRequest {
    let (services, features) = split(what);
    HistoricalRequest {
        services,
        features,
        event_time: "at".to_owned(),
        mode: ask.mode,
        cutoff: ask.cutoff,
        with_status: false,
        with_event_time: false,
        spine: spine.schema(),
    }
}

/// Services and feature references.
fn split(what: &[&str]) -> (Vec<String>, Vec<String>) {
    let all = what.iter().map(|name| (*name).to_owned());
    all.partition(|name| !name.contains(':'))
}

fn each_a_list(key: &Json) -> Json {
    let parts = key.as_object().expect("a value for each part of the key");
    parts.iter().map(|(name, value)| (name.clone(), Json::Array(vec![value.clone()]))).collect()
}

fn columns_of(lists: &Json, type_of: impl Fn(&str) -> ScalarType) -> Vec<(String, ArrayRef)> {
    let lists = lists.as_object().expect("a list for each column");
    let column = |(name, list): (&String, &Json)| {
        let data_type = DataType::Scalar(type_of(name));
        let list = list.as_array().expect("a list of values");
        let values: Vec<Value> = list.iter().map(|json| table::value_of(json, data_type)).collect();
        (name.clone(), table::column(data_type, &values))
    };
    lists.iter().map(column).collect()
}

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a new directory");
    for entry in std::fs::read_dir(from).expect("a readable directory") {
        let entry = entry.expect("a readable entry");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("a known type").is_dir() {
            true => copy_all(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).expect("copied")),
        }
    }
}
