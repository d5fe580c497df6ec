//! Training sets and landing over a whole store in one process: log, partitions, registry, history
//! tables. Rows are put into the log as ingest would.

#[path = "history/compaction.rs"]
mod compaction;
#[path = "history/seeking.rs"]
mod seeking;

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{Array, ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use futures::StreamExt;
use hydrant::clock::{ManualClock, SystemTicker};
use hydrant::cluster::LocalMetadata;
use hydrant::error::{Code, Error, FatalHook};
use hydrant::history::{
    HistoricalRequest, HistoricalStream, History, HistoryOptions, HistoryParts, Mode, Report, SpineIntake,
};
use hydrant::landing::{Landing, LandingOptions, LandingParts, landed_frames};
use hydrant::log::{AppendRequest, LocalLog, LogOptions, WriteLog};
use hydrant::partition::{PartitionSettings, Partitions, PartitionsConfig};
use hydrant::registry::catalog::{Snapshot, TenantCatalog, View};
use hydrant::registry::definition::Kind;
use hydrant::registry::{Registry, SnapshotReader, yaml};
use hydrant::tenancy::{Action, AdmissionSettings, Demand, Identity, Limits, Permit, Tenancy};
use hydrant_storage::files::lossy::Fault;
use hydrant_storage::files::{Files, LocalFiles, LossyFiles};
use hydrant_storage::history::HistoryTables;
use hydrant_storage::keys::{encode_values, slot_of};
use hydrant_storage::names::{Name, TenantId};
use hydrant_storage::partition::{PartitionOptions, SharedResources};
use hydrant_storage::record::RowRecord;
use hydrant_storage::row::RowPacker;
use hydrant_storage::value::Value;

const START: i64 = 1_700_000_000_000_000;

const DEFINITIONS: &str = "
apiVersion: hydrant/v1
kind: Entity
metadata: {name: user}
spec: {joinKeys: [{name: user_id, type: int64}]}
---
apiVersion: hydrant/v1
kind: Source
metadata: {name: clicks}
spec:
  type: push
  eventTime: event_timestamp
  columns:
    - {name: user_id, type: int64}
    - {name: event_timestamp, type: timestamp}
    - {name: amount, type: float64}
    - {name: page, type: string}
---
apiVersion: hydrant/v1
kind: FeatureView
metadata: {name: user_clicks}
spec:
  entities: [user]
  source: clicks
  ttl: 1h
  features: [{name: amount}, {name: page, default: none}]
---
apiVersion: hydrant/v1
kind: FeatureService
metadata: {name: model}
spec: {features: [user_clicks]}
";

/// It lands first, by its name.
const SECOND_VIEW: &str = "
apiVersion: hydrant/v1
kind: FeatureView
metadata: {name: a_broken_view}
spec:
  entities: [user]
  source: clicks
  features: [{name: amount}]
";

/// One store. Its history may lie on another disk than the rest.
struct World {
    clock: Arc<ManualClock>,
    registry: Registry,
    log: Arc<dyn WriteLog>,
    store_time: Arc<hydrant::clock::StoreTime>,
    partitions: Partitions,
    tables: Arc<HistoryTables>,
    landed: Arc<hydrant::partition::LandedFrames>,
    landing: Landing,
    history: History,
    /// One training set at a time.
    tenancy: Tenancy,
    spill: tempfile::TempDir,
}

/// The rows are made by the tests themselves, under the definitions that they have just applied.
#[derive(Debug)]
struct NobodyElseWrites;

#[async_trait::async_trait]
impl hydrant::registry::RevisionBarrier for NobodyElseWrites {
    async fn raise(&self, _: u64) {}
}

fn permit(action: Action) -> Permit {
    Tenancy::default().authorize(&Identity::loopback(), action).expect("the loopback caller may do all")
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

impl World {
    async fn start(directory: &Path, history: Arc<dyn Files>) -> Self {
        let files: Arc<dyn Files> = Arc::new(LocalFiles);
        let clock = Arc::new(ManualClock::new(START));
        let (log, store_time) =
            LocalLog::open(files.clone(), &directory.join("log"), LogOptions::default(), clock.clone()).expect("a log");
        let log: Arc<dyn WriteLog> = Arc::new(log);
        let metadata = LocalMetadata::open(files, &directory.join("registry")).expect("metadata");
        let barrier = Arc::new(NobodyElseWrites);
        let registry = Registry::open(Arc::new(metadata), store_time.clone(), barrier).await.expect("a registry");
        let definitions = yaml::parse("test.yaml", DEFINITIONS).expect("they are valid").definitions;
        let definitions = definitions.into_iter().map(|located| located.definition).collect();
        registry.apply(&permit(Action::ChangeDefinitions), definitions, None).await.expect("applied");

        let tables = Arc::new(HistoryTables::new(history, "/history".into()));
        let landed = landed_frames(&registry.snapshot(), &tables).await.expect("the tables are sound");
        let partitions = Partitions::start(PartitionsConfig {
            directory: directory.join("partitions"),
            settings: PartitionSettings::default(),
            storage: PartitionOptions::default(),
            resources: Arc::new(SharedResources::new(&PartitionOptions::default()).expect("threads")),
            log: log.clone(),
            snapshots: registry.reader(),
            store_time: store_time.clone(),
            landed: landed.clone(),
        })
        .expect("started");
        partitions.wait_serving(soon()).await.expect("serving");
        let spill = tempfile::tempdir().expect("a directory");
        let one_at_a_time = AdmissionSettings { training_places: 1, ..AdmissionSettings::default() };
        let mut world = Self {
            clock,
            landing: landing(registry.reader(), &log, &partitions, &tables, &landed, &store_time),
            history: history_of(registry.reader(), &log, &partitions, &tables, &store_time, spill.path()),
            registry,
            log,
            store_time,
            partitions,
            tables,
            landed,
            spill,
            tenancy: Tenancy::with(Limits::default(), &one_at_a_time, Arc::new(SystemTicker)),
        };
        world.clock.advance(Duration::from_secs(1));
        world.reopen_history(None).await;
        world
    }

    /// Begins anew with what the disk of history holds, as after a restart.
    async fn reopen_history(&mut self, files: Option<Arc<dyn Files>>) {
        let Some(files) = files else { return };
        self.landing.shutdown().await;
        self.tables = Arc::new(HistoryTables::new(files, "/history".into()));
        landed_frames(&self.registry.snapshot(), &self.tables).await.expect("the tables are sound");
        let Self { registry, log, partitions, tables, landed, store_time, .. } = self;
        self.landing = landing(registry.reader(), log, partitions, tables, landed, store_time);
        self.history = history_of(registry.reader(), log, partitions, tables, store_time, self.spill.path());
    }

    /// Lands and reads by other definitions than those of the registry.
    async fn read_by(&mut self, snapshots: &SnapshotReader) {
        self.landing.shutdown().await;
        let Self { log, partitions, tables, landed, store_time, .. } = self;
        self.landing = landing(snapshots.clone(), log, partitions, tables, landed, store_time);
        self.history = history_of(snapshots.clone(), log, partitions, tables, store_time, self.spill.path());
    }

    fn key(&self, user: i64) -> Vec<u8> {
        let mut key = Vec::new();
        let types: Vec<_> = self.view().join_keys.iter().map(|key| key.key_type).collect();
        assert!(encode_values(&[Value::Int64(user)], &types, &mut key).expect("a key"));
        key
    }

    fn view(&self) -> Arc<View> {
        let snapshot = self.registry.snapshot();
        let tenant = &snapshot.tenants[&"default".parse::<Name>().expect("a name")];
        tenant.views[&"user_clicks".parse::<Name>().expect("a name")].clone()
    }

    /// Puts rows (user, event time, amount, page) into the log as one request, known at their event
    /// time; a row without an amount is a delete.
    async fn append(&self, rows: &[(i64, i64, Option<f64>)]) -> i64 {
        let view = self.view();
        let amounts: ArrayRef = Arc::new(rows.iter().map(|row| row.2).collect::<Float64Array>());
        let pages: ArrayRef = Arc::new(rows.iter().map(|row| Some(format!("page {}", row.0))).collect::<StringArray>());
        let packer = RowPacker::new(&view.layout, vec![Some(amounts), Some(pages)]).expect("it fits");
        let mut records: Vec<RowRecord> = rows
            .iter()
            .enumerate()
            .map(|(ordinal, (user, event_time, amount))| {
                let (key, mut body) = (self.key(*user), Vec::new());
                if amount.is_some() {
                    packer.pack(ordinal, &mut body).expect("packed");
                }
                RowRecord {
                    tenant: view.tenant,
                    view: view.id,
                    slot: slot_of(view.slot_seed, &key),
                    ordinal: ordinal as u32,
                    key: key.into(),
                    event_time: *event_time,
                    known_time: Some(*event_time),
                    tombstone: amount.is_none(),
                    revision: view.applied.revision,
                    feature_count: packer.feature_count(),
                    body: body.into(),
                    origin: None,
                }
            })
            .collect();
        records.sort_by_key(|record| (record.slot, record.ordinal));
        let appended = self.log.append(AppendRequest::of_rows(records, None, 0)).await.expect("taken");
        self.clock.advance(Duration::from_millis(1));
        appended.ingest_time
    }

    async fn open(&self, cutoff: Option<i64>) -> Result<SpineIntake, Error> {
        let permit = self.tenancy.admit(&Identity::loopback(), Action::ReadHistory, Demand::default()).await?;
        self.history.open(&permit, request(cutoff))
    }

    async fn join(&self, spine: &RecordBatch, cutoff: Option<i64>) -> (RecordBatch, Report) {
        let mut intake = self.open(cutoff).await.expect("opened");
        intake.push(spine.clone()).await.expect("taken");
        let mut stream = intake.finish().await.expect("begun");
        collect(&mut stream).await
    }

    async fn tail_rows(&self) -> u64 {
        self.join(&spine(&[(0, START)]), None).await.1.tables[0].tail_rows
    }
}

fn landing(
    snapshots: SnapshotReader,
    log: &Arc<dyn WriteLog>,
    partitions: &Partitions,
    tables: &Arc<HistoryTables>,
    landed: &Arc<hydrant::partition::LandedFrames>,
    store_time: &Arc<hydrant::clock::StoreTime>,
) -> Landing {
    let parts = LandingParts {
        snapshots,
        log: log.clone(),
        partitions: partitions.clone(),
        tables: tables.clone(),
        landed: landed.clone(),
        store_time: store_time.clone(),
    };
    // The tests say when rows land.
    let never = Duration::from_secs(1_000_000);
    let options =
        LandingOptions { interval: never, check_every: never, on_fatal: FatalHook::new(|_| ()), ..Default::default() };
    Landing::start(parts, options).expect("started")
}

fn history_of(
    snapshots: SnapshotReader,
    log: &Arc<dyn WriteLog>,
    partitions: &Partitions,
    tables: &Arc<HistoryTables>,
    store_time: &Arc<hydrant::clock::StoreTime>,
    spill: &Path,
) -> History {
    let parts = HistoryParts {
        snapshots,
        log: log.clone(),
        partitions: partitions.clone(),
        tables: tables.clone(),
        store_time: store_time.clone(),
        watcher: None,
    };
    let options = HistoryOptions {
        max_lookups: 1,
        batch_rows: 64,
        max_spine_rows: 20_000,
        ..HistoryOptions::new(spill.to_owned())
    };
    History::new(parts, options).expect("a spill directory")
}

fn request(cutoff: Option<i64>) -> HistoricalRequest {
    HistoricalRequest {
        services: vec!["model".to_owned()],
        features: Vec::new(),
        event_time: "at".to_owned(),
        mode: Mode::AsKnown,
        cutoff,
        with_status: true,
        with_event_time: false,
        spine: spine(&[]).schema(),
    }
}

fn spine(rows: &[(i64, i64)]) -> RecordBatch {
    let users: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0)));
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.1)));
    RecordBatch::try_from_iter([("user_id", users), ("at", times)]).expect("a spine")
}

async fn collect(stream: &mut HistoricalStream) -> (RecordBatch, Report) {
    let schema = stream.schema();
    let mut batches = Vec::new();
    while let Some(batch) = stream.next().await {
        batches.push(batch.expect("joined"));
    }
    let table = arrow_select::concat::concat_batches(&schema, &batches).expect("one schema");
    (table, stream.report().expect("a report").clone())
}

fn column<'a, A: 'static>(table: &'a RecordBatch, name: &str) -> &'a A {
    table.column_by_name(name).expect("the column").as_any().downcast_ref().expect("its type")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_has_the_same_hash_whether_rows_have_landed_or_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let world = World::start(directory.path(), Arc::new(LossyFiles::new(1))).await;
    let rows: Vec<(i64, i64, Option<f64>)> =
        (0..500).map(|n| (n % 50, START - 1_000 + n, (n % 17 != 0).then_some(n as f64))).collect();
    for part in rows.chunks(100).take(3) {
        world.append(part).await;
    }
    let cutoff = world.append(&rows[300..400]).await;
    let wanted: Vec<(i64, i64)> = (0..300).map(|n| (n % 60, START - 1_100 + 3 * n)).collect();
    let spine = spine(&wanted);

    let (table, unlanded) = world.join(&spine, Some(cutoff)).await;
    assert_eq!(unlanded.tables[0].tail_rows, 400);
    assert_eq!(unlanded.tables[0].delta_version, None);
    let pages = column::<StringArray>(&table, "user_clicks__page");
    let statuses = column::<StringArray>(&table, "user_clicks__page__status");
    for (row, (user, _)) in wanted.iter().enumerate() {
        let expected = if statuses.value(row) == "PRESENT" { format!("page {user}") } else { "none".to_owned() };
        assert_eq!(pages.value(row), expected);
    }
    assert!(statuses.iter().any(|status| status == Some("NOT_FOUND")));

    // A part has landed, and more has come since.
    assert_eq!(world.landing.land_now().await.expect("landed").rows(), 400);
    world.append(&rows[400..]).await;
    let (_, half) = world.join(&spine, Some(cutoff)).await;
    assert_eq!(half.content_hash, unlanded.content_hash);
    assert_eq!(half.spine_hash, unlanded.spine_hash);
    assert_eq!(half.tables[0].tail_rows, 0);
    assert!(half.tables[0].delta_version.is_some());
    let (_, newer) = world.join(&spine, None).await;
    assert_eq!(newer.tables[0].tail_rows, 100);

    assert_eq!(world.landing.land_now().await.expect("landed").rows(), 100);
    let (_, whole) = world.join(&spine, Some(cutoff)).await;
    assert_eq!(whole.content_hash, unlanded.content_hash);
    assert_eq!(world.join(&spine, None).await.1.content_hash, newer.content_hash);
    assert_eq!(world.landing.land_now().await.expect("nothing to land").rows(), 0);
    world.landing.shutdown().await;
    world.partitions.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_changes_no_training_set() {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = LossyFiles::new(5);
    let wanted: Vec<(i64, i64)> = (0..100).map(|n| (n % 30, START + 50 * n)).collect();
    let spine = spine(&wanted);
    let mut expected: Option<(i64, String)> = None;
    for round in 0..3i64 {
        let world = World::start(directory.path(), Arc::new(disk.clone())).await;
        if let Some((cutoff, hash)) = &expected {
            let (_, report) = world.join(&spine, Some(*cutoff)).await;
            assert_eq!(&report.content_hash, hash, "after restart {round}");
        }
        for part in 0..3 {
            let rows: Vec<_> =
                (0..20).map(|user| (user, START + 1_000 * round + part, Some((round * part) as f64))).collect();
            world.append(&rows).await;
            if part == 1 {
                world.landing.land_now().await.expect("landed");
            }
        }
        let (_, report) = world.join(&spine, None).await;
        assert_eq!(report.tables[0].tail_rows, 20, "the last request has not landed");
        expected = Some((report.cutoff, report.content_hash));
        world.landing.shutdown().await;
        world.partitions.shutdown().await;
        disk.crash();
    }
}

/// Every row is unique to its key, so a row that was lost is missing from the join, and one that
/// landed twice makes the table longer.
#[tokio::test(flavor = "multi_thread")]
async fn rows_land_exactly_once_wherever_the_power_is_cut() {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = LossyFiles::new(7);
    let mut world = World::start(directory.path(), Arc::new(disk.clone())).await;
    let mut frames = Vec::new();
    let mut crashes = 0;
    for round in 0..60u64 {
        let first = frames.len() as i64 * 5;
        let rows: Vec<_> = (first..first + 5).map(|user| (user, START - 10, Some(user as f64))).collect();
        world.append(&rows).await;
        frames.push(rows.len() as u64);
        // Operations of a landing that don't fail yet; everything after it does, as if the process had died.
        disk.fail_on(round % 30, Fault::Device);
        let landed = world.landing.land_now().await;
        crashes += u64::from(landed.is_err());
        disk.heal();
        disk.crash();
        world.reopen_history(Some(Arc::new(disk.clone()))).await;

        let view = world.view();
        let snapshot = world.tables.table(view.history_spec(&"default".parse().expect("a name"))).await;
        let snapshot = snapshot.expect("the table is sound").snapshot();
        let in_files: u64 = snapshot.files.iter().map(|file| file.rows()).sum();
        let landed_rows: u64 = frames.iter().take(snapshot.landed_through as usize).sum();
        assert_eq!(in_files, landed_rows, "round {round}: the table has what it says, once");
        let wanted: Vec<(i64, i64)> = (0..first + 5).map(|user| (user, START)).collect();
        let (table, report) = world.join(&spine(&wanted), None).await;
        let amounts = column::<Float64Array>(&table, "user_clicks__amount");
        assert_eq!(amounts.null_count(), 0, "round {round}: no row is lost");
        assert_eq!(report.tables[0].tail_rows, wanted.len() as u64 - landed_rows, "round {round}: none is read twice");
        if round % 7 == 6 {
            world.landing.land_now().await.expect("landed");
            assert_eq!(world.tail_rows().await, 0);
        }
    }
    assert!(crashes > 10, "only {crashes} landings were cut short");
    world.landing.shutdown().await;
    world.partitions.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_landed_is_accounted_for_where_another_view_could_not_land() {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = LossyFiles::new(7);
    let world = World::start(directory.path(), Arc::new(disk.clone())).await;
    let definitions = yaml::parse("test.yaml", SECOND_VIEW).expect("they are valid").definitions;
    let definitions = definitions.into_iter().map(|located| located.definition).collect();
    world.registry.apply(&permit(Action::ChangeDefinitions), definitions, None).await.expect("applied");
    // What stands where its table would begin is no commit.
    let log = Path::new("/history/default/a_broken_view/v1/_delta_log");
    disk.create_dir_all(log).expect("a directory");
    let mut commit = disk.create_new(&log.join("00000000000000000000.json")).expect("a file");
    commit.write_all(b"no commit").expect("written");
    world.append(&[(1, START, Some(1.0)), (2, START, Some(2.0))]).await;

    let failed = world.landing.land_now().await.expect_err("one view can't land");
    assert_eq!(failed.error.reason, "LANDING_FAILED");
    let landed: Vec<_> = failed.landed.views.iter().map(|view| (view.view.as_str(), view.rows)).collect();
    assert_eq!((landed, failed.landed.through), (vec![("user_clicks", 2)], *world.log.durable().borrow()));
    let metrics = world.landing.metrics();
    assert_eq!((metrics.rows.get(), metrics.failures.get()), (2, 1));
    assert!(metrics.bytes.get() > 0);
    world.landing.shutdown().await;
    world.partitions.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tail_of_a_deleted_view_is_let_go_by_the_next_landing() {
    let directory = tempfile::tempdir().expect("a directory");
    let world = World::start(directory.path(), Arc::new(LossyFiles::new(7))).await;
    world.append(&[(1, START, Some(1.0)), (2, START, Some(2.0))]).await;
    let through = *world.log.durable().borrow();
    world.partitions.wait_applied(through, soon()).await.expect("applied");
    let tail_bytes = || world.partitions.lag().iter().map(|lag| lag.tail_bytes).sum::<u64>();
    assert!(tail_bytes() > 0);

    let permit = permit(Action::ChangeDefinitions);
    for (kind, name) in [(Kind::FeatureService, "model"), (Kind::FeatureView, "user_clicks")] {
        let name = name.parse::<Name>().expect("a name");
        world.registry.delete(&permit, kind, &name, String::new()).await.expect("deleted");
    }
    world.landing.land_now().await.expect("landed");
    assert_eq!(tail_bytes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_keeps_its_place_and_a_stream_that_is_dropped_gives_it_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let world = World::start(directory.path(), Arc::new(LossyFiles::new(2))).await;
    world.append(&[(1, START - 5, Some(1.0))]).await;
    let mut intake = world.open(None).await.expect("opened");
    for _ in 0..20 {
        intake.push(spine(&vec![(1, START); 1_000])).await.expect("taken");
    }
    let mut stream = intake.finish().await.expect("begun");
    assert_eq!(stream.rows(), 20_000);
    assert_eq!(stream.next().await.expect("a batch").expect("joined").num_rows(), 64);
    let mut next = Box::pin(world.open(None));
    assert!(futures::poll!(&mut next).is_pending(), "one at a time");
    drop(stream);
    next.await.expect("the work ends when nobody waits for it");
    assert_eq!(world.history.spilled_bytes(), 0);
    world.partitions.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spine_that_cannot_be_joined_is_refused_naming_what_is_wrong() {
    let directory = tempfile::tempdir().expect("a directory");
    let world = World::start(directory.path(), Arc::new(LossyFiles::new(3))).await;
    let tomorrow = START + 86_400_000_000;
    let ahead = world.open(Some(tomorrow)).await.expect("opened").finish().await.expect_err("not yet");
    assert_eq!(ahead.reason, "CUTOFF_IN_FUTURE");
    assert!(ahead.message.contains("2023-11-15T22:13:20Z") && ahead.message.contains("2023-11-14T22:13:"), "{ahead}");

    let mut intake = world.open(None).await.expect("opened");
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![Some(1), None, Some(2)]));
    let users: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    let bad = RecordBatch::try_new(request(None).spine, vec![users.clone(), times]);
    // The fields of the spine say that no time is null, so Arrow itself refuses such a batch.
    assert!(bad.is_err());
    let other = RecordBatch::try_from_iter([("user_id", users)]).expect("a batch");
    let changed = intake.push(other).await.expect_err("another schema");
    assert_eq!(changed.reason, "SPINE_SCHEMA_CHANGED");
    assert_eq!(intake.finish().await.expect_err("it was refused").reason, "SPINE_ABANDONED");

    let mut intake = world.open(None).await.expect("opened");
    let too_long = intake.push(spine(&vec![(1, START); 20_001])).await.expect_err("too long");
    assert_eq!(too_long.reason, "SPINE_TOO_LONG");
    drop(intake);

    let unknown = HistoricalRequest { services: vec!["nothing".to_owned()], ..request(None) };
    let refused = world.history.open(&permit(Action::ReadHistory), unknown).expect_err("no such service");
    assert_eq!(refused.code, Code::NotFound);
    let wrong = world.history.open(&permit(Action::ReadOnline), request(None)).expect_err("another permit");
    assert_eq!(wrong.code, Code::PermissionDenied);
    world.partitions.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn history_answers_what_counted_at_an_instant_in_the_past() {
    let directory = tempfile::tempdir().expect("a directory");
    let world = World::start(directory.path(), Arc::new(LossyFiles::new(4))).await;
    world.append(&[(1, START - 100, Some(1.0)), (2, START - 100, Some(2.0)), (1, START - 50, Some(3.0))]).await;
    world.landing.land_now().await.expect("landed");
    world.append(&[(1, START - 20, None), (3, START - 10, Some(4.0))]).await;
    world.partitions.wait_applied(2, soon()).await.expect("applied");
    let view = world.view();
    let permit = permit(Action::ReadOnline);
    let keys: Vec<Vec<u8>> = [3, 1, 9, 2, 1].map(|user| world.key(user)).to_vec();
    let at = |t: i64| world.history.rows_at(&permit, &view, keys.clone(), t);
    let amounts = |rows: Vec<Option<hydrant_storage::row::OwnedRow>>| -> Vec<Option<String>> {
        let amount = |row: hydrant_storage::row::OwnedRow| match row.header().kind {
            hydrant_storage::row::RowKind::Full => {
                format!("{:?}", row.cell(&view.layout, 0).expect("sound").to_value())
            }
            other => format!("{other:?}"),
        };
        rows.into_iter().map(|row| row.map(amount)).collect()
    };
    let some = |text: &str| Some(text.to_owned());
    let before = amounts(at(START - 60).await.expect("read"));
    assert_eq!(before, [None, some("Float64(1.0)"), None, some("Float64(2.0)"), some("Float64(1.0)")]);
    let between = amounts(at(START - 30).await.expect("read"));
    assert_eq!(between, [None, some("Float64(3.0)"), None, some("Float64(2.0)"), some("Float64(3.0)")]);
    let after = amounts(at(START).await.expect("read"));
    assert_eq!(after, [some("Float64(4.0)"), some("Tombstone"), None, some("Float64(2.0)"), some("Tombstone")]);
    world.landing.shutdown().await;
    world.partitions.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_of_the_past_that_nobody_waits_for_stops_and_gives_its_place_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = LossyFiles::new(6);
    let world = World::start(directory.path(), Arc::new(disk.clone())).await;
    for landing in 0..30 {
        world.append(&[(1, START - 100 + landing, Some(1.0))]).await;
        world.landing.land_now().await.expect("landed");
    }
    let (view, permit) = (world.view(), permit(Action::ReadOnline));
    let read = || world.history.rows_at(&permit, &view, vec![world.key(1)], START);
    // What the files' ends say is remembered from the first read on.
    read().await.expect("read");
    let before = disk.operations();
    assert!(read().await.expect("read")[0].is_some());
    let whole = disk.operations() - before;
    assert!(whole > 30, "every file is looked into");

    let held = disk.hold();
    let mut abandoned = Box::pin(read());
    assert!(futures::poll!(abandoned.as_mut()).is_pending());
    drop(abandoned);
    drop(held);
    let (before, deadline) = (disk.operations(), soon());
    while let Err(busy) = read().await {
        assert_eq!(busy.reason, "TOO_MANY_PINNED_READS");
        assert!(Instant::now() < deadline, "the place is not given back");
        tokio::task::yield_now().await;
    }
    let of_abandoned = disk.operations() - before - whole;
    assert!(of_abandoned < whole / 4, "{of_abandoned} of {whole} operations though nobody waited");
    world.partitions.shutdown().await;
}

/// The definitions as those of another tenant, of which `default` has the services alone.
fn of_another_tenant(snapshot: &Snapshot) -> Snapshot {
    let name = |text: &str| text.parse::<Name>().expect("a name");
    let all = &snapshot.tenants[&name("default")];
    let catalog = |tenant: &str, id: TenantId| TenantCatalog {
        applied: all.applied.clone(),
        id,
        name: name(tenant),
        entities: all.entities.clone(),
        sources: all.sources.clone(),
        views: all.views.clone(),
        versions: all.versions.clone(),
        services: all.services.clone(),
        consumers: Default::default(),
        shares: Default::default(),
        dropped: Default::default(),
    };
    let owner = TenantCatalog { services: Default::default(), ..catalog("owner", all.id) };
    let reader =
        TenantCatalog { views: Default::default(), versions: Default::default(), ..catalog("default", TenantId(99)) };
    let tenants = [owner, reader].map(|tenant| (tenant.name.clone(), Arc::new(tenant)));
    Snapshot::new(snapshot.revision, tenants.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_is_read_in_the_history_of_its_owner_whoever_asks() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut world = World::start(directory.path(), Arc::new(LossyFiles::new(8))).await;
    world.append(&[(1, START - 100, Some(1.0)), (2, START - 100, Some(2.0))]).await;
    let shared = of_another_tenant(&world.registry.snapshot());
    world.read_by(&SnapshotReader::fixed(Arc::new(shared))).await;
    let landed = world.landing.land_now().await.expect("landed");
    assert_eq!((landed.rows(), landed.views[0].tenant.as_str()), (2, "owner"));

    let (table, report) = world.join(&spine(&[(1, START), (2, START)]), None).await;
    assert_eq!(column::<Float64Array>(&table, "user_clicks__amount").values()[..], [1.0, 2.0]);
    assert_eq!((report.tables[0].tail_rows, report.tables[0].delta_version), (0, Some(1)));
    let rows = world.history.rows_at(&permit(Action::ReadOnline), &world.view(), vec![world.key(2)], START).await;
    assert!(rows.expect("read")[0].is_some());
    world.landing.shutdown().await;
    world.partitions.shutdown().await;
}
