//! The power is cut at every operation between the first row and the commit: a backfill is then history as
//! a whole or not at all, and the same command goes on.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use hydrant_storage::files::lossy::Fault;
use hydrant_storage::files::{Files, LossyFiles};
use hydrant_storage::history::{Abandon, HistoryTable, HistoryTables, MergedRuns, Run, TakeIn};
use hydrant_storage::order::Micros;
use hydrant_storage::record::SharedFrame;

use super::*;
use crate::clock::ManualClock;
use crate::cluster::LocalMetadata;
use crate::error::FatalHook;
use crate::log::conformance::read_all;
use crate::log::{LocalLog, LogOptions};
use crate::registry::{Registry, yaml};
use crate::testing::{HOUR, START, permit};

const DEFINITIONS: &str = "
apiVersion: hydrant/v1
kind: Entity
metadata: {name: user}
spec: {joinKeys: [{name: user_id, type: int64}]}
---
apiVersion: hydrant/v1
kind: Source
metadata: {name: facts}
spec:
  type: push
  eventTime: happened
  knownTime: event
  columns: [{name: user_id, type: int64}, {name: happened, type: timestamp}, {name: score, type: float64}]
---
apiVersion: hydrant/v1
kind: FeatureView
metadata: {name: user_facts}
spec: {entities: [user], source: facts, features: [{name: score}]}
---
apiVersion: hydrant/v1
kind: FeatureView
metadata: {name: more_facts}
spec: {entities: [user], source: facts, features: [{name: score}]}
";

const VIEWS: [&str; 2] = ["more_facts", "user_facts"];
const BATCHES: i64 = 6;
const BATCH_ROWS: i64 = 4;

/// What landing does with control records, without the partitions that it needs for rows.
#[derive(Debug)]
struct Taker {
    log: Arc<dyn WriteLog>,
    tables: Arc<HistoryTables>,
    snapshots: SnapshotReader,
    /// As if what is staged were damaged.
    refuses: Arc<AtomicBool>,
}

#[async_trait]
impl TakesIn for Taker {
    async fn take_in_now(&self) -> Result<()> {
        let snapshot = self.snapshots.load();
        let tenant = snapshot.tenants.values().next().expect("the tenant");
        let records = self.log.unsettled();
        let given_up = |frame: &SharedFrame| frame.control.as_ref().and_then(|record| Abandon::decode(record));
        let abandoned: Vec<u64> = records.iter().filter_map(given_up).map(|record| record.abandoned).collect();
        for frame in records {
            if given_up(&frame).is_some() || abandoned.contains(&frame.number) {
                self.log.settle(frame.number);
                continue;
            }
            if self.refuses.load(Ordering::Relaxed) {
                return Err(Error::new(Code::DataLoss, "LANDING_FAILED", "a staged file is damaged"));
            }
            let take_in = TakeIn::decode(frame.control.as_ref().expect("a control record")).expect("readable");
            let taken = take_in.taken_in(frame.number, frame.ingest_time);
            for table in take_in.tables {
                let view = tenant.views.values().find(|view| view.id == table.view()).expect("it is there");
                let name = snapshot.owner_of(view)?;
                let history =
                    self.tables.table(view.history_spec(name)).await.map_err(|error| staging_error(&error))?;
                let taking = history.take_in(&take_in.backfill, table.files, taken, START);
                taking.await.map_err(|error| staging_error(&error))?;
            }
            self.log.settle(frame.number);
        }
        Ok(())
    }
}

/// A server as far as backfills go, over a disk of which the power may be cut.
struct Machine {
    backfills: Backfills,
    log: Arc<dyn WriteLog>,
    tables: Vec<HistoryTable>,
    refuses: Arc<AtomicBool>,
}

async fn start(files: &LossyFiles, metadata: &LossyFiles) -> Option<Machine> {
    let shared: Arc<dyn Files> = Arc::new(files.clone());
    let options = LogOptions { on_fatal: FatalHook::new(|_| ()), ..LogOptions::default() };
    let clock = Arc::new(ManualClock::new(START));
    let (log, store_time) = LocalLog::open(shared.clone(), Path::new("/log"), options, clock).ok()?;
    let log: Arc<dyn WriteLog> = Arc::new(log);
    log.seal().await.ok()?;
    let metadata = LocalMetadata::open(Arc::new(metadata.clone()), Path::new("/registry")).expect("metadata");
    let barrier = Arc::new(NoBarrier);
    let registry = Registry::open(Arc::new(metadata), store_time.clone(), barrier).await.expect("a registry");
    let definitions = yaml::parse("test.yaml", DEFINITIONS).expect("definitions").definitions;
    let definitions = definitions.into_iter().map(|located| located.definition).collect();
    registry.apply(&permit(Action::ChangeDefinitions), definitions, None).await.expect("they apply");

    let all = Arc::new(HistoryTables::new(shared.clone(), "/history".into()));
    let snapshot = registry.snapshot();
    let mut tables = Vec::new();
    for view in VIEWS {
        let view = &snapshot.tenants.values().next().expect("the tenant").views[view];
        let spec = view.history_spec(snapshot.owner_of(view).expect("its owner"));
        tables.push(all.table(spec).await.ok()?);
    }
    let refuses = Arc::new(AtomicBool::new(false));
    let (snapshots, refusing) = (registry.reader(), refuses.clone());
    let takes_in = Arc::new(Taker { log: log.clone(), tables: all.clone(), snapshots, refuses: refusing });
    takes_in.take_in_now().await.ok()?;
    let parts = BackfillParts {
        watcher: None,
        files: shared,
        snapshots: registry.reader(),
        log: log.clone(),
        tables: all,
        store_time,
        takes_in,
        taking_in: Arc::default(),
    };
    let options = BackfillOptions {
        directory: "/backfill".into(),
        // Each batch is staged by itself.
        memory: 1,
        threads: 1,
        max_staged: 1 << 30,
        bytes_per_second: u64::MAX,
        max_key_bytes: 100,
        file_bytes: 1 << 20,
        runs_per_level: 4,
        landing_bytes: 1 << 20,
        // What has failed fails until the next start.
        patience: Duration::ZERO,
    };
    let backfills = Backfills::open(parts, options).await.ok()?;
    Some(Machine { backfills, log, tables, refuses })
}

#[derive(Debug)]
struct NoBarrier;

#[async_trait]
impl crate::registry::RevisionBarrier for NoBarrier {
    async fn raise(&self, _: u64) {}
}

fn batch(number: i64) -> RecordBatch {
    let rows: Vec<i64> = (number * BATCH_ROWS..(number + 1) * BATCH_ROWS).collect();
    let users: ArrayRef = Arc::new(rows.iter().map(|row| Some(row % 3)).collect::<Int64Array>());
    let happened: ArrayRef =
        Arc::new(rows.iter().map(|row| Some(happened(*row))).collect::<TimestampMicrosecondArray>());
    let scores: ArrayRef = Arc::new(rows.iter().map(|row| Some(*row as f64)).collect::<Float64Array>());
    RecordBatch::try_from_iter([("user_id", users), ("happened", happened), ("score", scores)]).expect("a batch")
}

fn happened(row: i64) -> Micros {
    START - (row * 7 % 11) * HOUR
}

fn request() -> BackfillRequest {
    BackfillRequest {
        source: "facts".to_owned(),
        id: "the backfill".to_owned(),
        rows: (BATCHES * BATCH_ROWS) as u64,
        first_row: 0,
        known_time: None,
        from: None,
        to: None,
        ignore_extra: false,
        validate_only: false,
        origins: Vec::new(),
    }
}

/// As the command line does it: asks how far it is, and goes on.
async fn run(machine: &Machine) -> Result<Standing> {
    let permit = permit(Action::Write);
    let Standing::Staged { rows } = machine.backfills.standing(&permit, &request()).await? else {
        return machine.backfills.standing(&permit, &request()).await;
    };
    let mut intake = machine.backfills.begin(&permit, BackfillRequest { first_row: rows, ..request() }).await?;
    assert!(rows.is_multiple_of(BATCH_ROWS as u64));
    for number in rows as i64 / BATCH_ROWS..BATCHES {
        intake.push(batch(number)).await?;
    }
    let report = intake.finish().await?.done().await?;
    Ok(Standing::TakenIn { frame: report.frame.expect("it was taken in") })
}

/// The scores in a table, in history order, or none.
fn scores(table: &HistoryTable) -> Vec<i64> {
    let snapshot = table.snapshot();
    let open = |chain| Box::new(snapshot.open_chain(&chain, &[0], None).expect("open")) as Box<dyn Run>;
    let runs = snapshot.chains_with(None, None).into_iter().map(open).collect();
    let mut rows = MergedRuns::new(runs, None).expect("merged");
    let mut scores = Vec::new();
    while let Some(row) = rows.peek() {
        let column = row.batch.features[0].as_any().downcast_ref::<Float64Array>().expect("numbers");
        let score = column.value(row.index) as i64;
        assert_eq!((row.version().event_time, row.version().known_time), (happened(score), happened(score)));
        scores.push(score);
        rows.advance().expect("readable");
    }
    scores.sort_unstable();
    scores
}

async fn check_power_cut(operation: u64) {
    let (files, metadata) = (LossyFiles::new(operation), LossyFiles::new(0));
    files.fail_on(operation, Fault::Device);
    let mut acknowledged = None;
    if let Some(machine) = start(&files, &metadata).await {
        acknowledged = run(&machine).await.ok();
        machine.backfills.shutdown().await;
    }
    files.heal();
    files.crash();

    let context = format!("power cut at operation {operation}, {acknowledged:?}");
    let machine = start(&files, &metadata).await.unwrap_or_else(|| panic!("{context}: no start"));
    let standing = machine.backfills.standing(&permit(Action::Write), &request()).await.expect("it is told");
    if let Some(acknowledged) = acknowledged {
        assert_eq!(standing, acknowledged, "{context}: what was acknowledged is gone");
    }
    let whole: Vec<i64> = (0..BATCHES * BATCH_ROWS).collect();
    let expected = if matches!(standing, Standing::TakenIn { .. }) { whole.clone() } else { Vec::new() };
    for table in &machine.tables {
        assert_eq!(scores(table), expected, "{context}: {standing:?}");
    }
    let done = run(&machine).await.unwrap_or_else(|error| panic!("{context}: it does not go on: {error:?}"));
    for table in &machine.tables {
        assert_eq!(scores(table), whole, "{context}");
        let files_in = |table: &HistoryTable| files.list(table.directory()).expect("listed").len() - 1;
        assert_eq!(files_in(table), table.snapshot().files.len(), "{context}: leftovers");
    }
    assert!(files.list(Path::new("/backfill")).expect("listed").is_empty(), "{context}: leftovers");
    let frames = read_all(machine.log.as_ref(), 0).expect("readable");
    let [only] = frames.as_slice() else { panic!("{context}: {} frames", frames.len()) };
    assert_eq!(done, Standing::TakenIn { frame: only.number });
    assert!(machine.log.unsettled().is_empty(), "{context}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_at_any_operation_leaves_a_backfill_whole_or_unseen_and_it_goes_on_once() {
    let (files, metadata) = (LossyFiles::new(0), LossyFiles::new(0));
    let machine = start(&files, &metadata).await.expect("nothing fails");
    run(&machine).await.expect("nothing fails");
    machine.backfills.shutdown().await;
    let operations = files.operations();
    drop(machine);
    assert!(operations > 100, "only {operations} operations");
    for operation in 0..=operations {
        check_power_cut(operation).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_that_was_given_up_is_seen_by_nobody_and_can_be_made_again() {
    let (files, metadata) = (LossyFiles::new(0), LossyFiles::new(0));
    let mut machine = start(&files, &metadata).await.expect("nothing fails");
    let permit = permit(Action::Write);
    let mut frames = Vec::new();
    for _ in 0..2 {
        machine.refuses.store(true, Ordering::Relaxed);
        let pending = run(&machine).await.expect_err("it can't become history");
        assert_eq!(pending.reason, "BACKFILL_PENDING");
        let standing = machine.backfills.standing(&permit, &request()).await.expect("it is told");
        let Standing::TakenIn { frame } = standing else { panic!("{standing:?}") };
        machine.backfills.abandon(&permit, frame).await.expect("none of it is history");
        frames.push(frame);
        assert_eq!(machine.backfills.abandon(&permit, frame).await.expect_err("once").reason, "BACKFILL_NOT_FOUND");
        // Over a restart, which finds all records again.
        machine.backfills.shutdown().await;
        drop(machine);
        machine = start(&files, &metadata).await.expect("nothing fails");
        assert!(machine.log.unsettled().is_empty());
        assert!(machine.tables.iter().all(|table| scores(table).is_empty()));
        let standing = machine.backfills.standing(&permit, &request()).await.expect("it is told");
        assert!(matches!(standing, Standing::Staged { .. }), "{standing:?}");
    }
    let Standing::TakenIn { frame } = run(&machine).await.expect("nothing fails") else { panic!("not taken in") };
    assert!(!frames.contains(&frame));
    let whole: Vec<i64> = (0..BATCHES * BATCH_ROWS).collect();
    assert!(machine.tables.iter().all(|table| scores(table) == whole));
    // What has become history is not given up.
    let refused = machine.backfills.abandon(&permit, frame).await.expect_err("it is history");
    assert_eq!(refused.reason, "BACKFILL_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_of_which_a_part_is_history_is_not_given_up() {
    let (files, metadata) = (LossyFiles::new(0), LossyFiles::new(0));
    let machine = start(&files, &metadata).await.expect("nothing fails");
    let permit = permit(Action::Write);
    machine.refuses.store(true, Ordering::Relaxed);
    run(&machine).await.expect_err("it can't become history");
    let record = machine.log.unsettled().remove(0);
    let take_in = TakeIn::decode(record.control.as_ref().expect("a control record")).expect("readable");
    let taken = take_in.taken_in(record.number, record.ingest_time);
    let first = take_in.tables[0].files.clone();
    machine.tables[0].take_in(&take_in.backfill, first, taken, START).await.expect("taken in");
    let refused = machine.backfills.abandon(&permit, record.number).await.expect_err("a part is history");
    assert_eq!((refused.code, refused.reason), (Code::FailedPrecondition, "BACKFILL_HALF_TAKEN_IN"));
    machine.refuses.store(false, Ordering::Relaxed);
    let refused = machine.backfills.abandon(&permit, record.number).await.expect_err("it was only late");
    assert_eq!(refused.reason, "BACKFILL_TAKEN_IN");
}
