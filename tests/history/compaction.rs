//! Compaction beside landing and joins: one consistent cut, whatever happens meanwhile, and what
//! happens when a table is damaged.

use std::sync::atomic::{AtomicBool, Ordering};

use hydrant::compaction::{
    Compacted, Compaction, CompactionOptions, CompactionParts, MergeOptions, NotesLosses, RowsTooOld,
};

use super::*;

/// Merges as soon as it can be done, and deletes at once what was merged.
fn compaction(world: &World) -> Compaction {
    let parts = CompactionParts {
        tables: world.tables.clone(),
        store_time: world.store_time.clone(),
        snapshots: world.registry.reader(),
        losses: Arc::new(NothingIsLost),
    };
    let merging = MergeOptions { runs_per_level: 2, file_bytes: 4 << 10, memory: 1 << 20, merge_bytes: 1 << 30 };
    let options = CompactionOptions {
        enabled: false,
        retention: Duration::ZERO,
        merging,
        on_fatal: FatalHook::new(|_| ()),
        ..CompactionOptions::default()
    };
    Compaction::start(parts, options).expect("started")
}

/// No view here says for how long its rows are kept.
#[derive(Debug)]
struct NothingIsLost;

#[async_trait::async_trait]
impl NotesLosses for NothingIsLost {
    async fn note(&self, rows: &RowsTooOld) -> hydrant::error::Result<()> {
        panic!("{rows:?} are about to go");
    }
}

fn amounts(round: i64) -> Vec<(i64, i64, Option<f64>)> {
    (0..60)
        .map(|n| (n % 20, START - 1_000 + round * 10 + n, (n % 13 != 5).then_some((round * 60 + n) as f64)))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn joins_beside_landing_and_compaction_see_one_cut() {
    const ROUNDS: i64 = 12;
    let directory = tempfile::tempdir().expect("a directory");
    let world = Arc::new(World::start(directory.path(), Arc::new(LossyFiles::new(21))).await);
    let compaction = Arc::new(compaction(&world));
    let wanted: Vec<(i64, i64)> = (0..200).map(|n| (n % 25, START - 1_010 + 2 * n)).collect();
    let spine = spine(&wanted);
    world.append(&amounts(0)).await;
    let (first, report) = world.join(&spine, None).await;
    let (cutoff, hash) = (report.cutoff, report.content_hash);

    let ended = Arc::new(AtomicBool::new(false));
    let (merging, stop) = (compaction.clone(), ended.clone());
    let merges = tokio::spawn(async move {
        let mut all = Compacted::default();
        // A last time after all rows have landed.
        let mut goes_on = true;
        while goes_on {
            goes_on = !stop.load(Ordering::Acquire);
            let some = merging.settle().await.expect("it is running");
            all.merges += some.merges;
            all.deleted_files += some.deleted_files;
            all.failures += some.failures;
        }
        all
    });
    let (landing, stop) = (world.clone(), ended.clone());
    let landings = tokio::spawn(async move {
        for round in 1..=ROUNDS {
            landing.append(&amounts(round)).await;
            landing.landing.land_now().await.expect("landed");
        }
        stop.store(true, Ordering::Release);
    });
    let mut joins = 0;
    while !ended.load(Ordering::Acquire) {
        let (table, report) = world.join(&spine, Some(cutoff)).await;
        assert_eq!((&table, &report.content_hash), (&first, &hash), "join {joins}");
        let key = world.key(joins % 20);
        let rows = world.history.rows_at(&permit(Action::ReadOnline), &world.view(), vec![key], START).await;
        assert!(rows.expect("read")[0].is_some());
        joins += 1;
    }
    landings.await.expect("no panic");
    let merges = merges.await.expect("no panic");
    assert!(merges.merges >= 1 && merges.deleted_files >= 2 && merges.failures == 0, "{merges:?}");
    assert!(joins >= 1);

    // All rows are there, once: as many as were sent, and the answers are those of the tails.
    let table = world.tables.table(world.view().history_spec(&"default".parse().expect("a name"))).await.expect("open");
    let rows: u64 = table.snapshot().files.iter().map(|file| file.rows()).sum();
    assert_eq!(rows, 60 * (ROUNDS as u64 + 1));
    let (table, report) = world.join(&spine, Some(cutoff)).await;
    assert_eq!((&table, &report.content_hash), (&first, &hash));
    compaction.shutdown().await;
    world.landing.shutdown().await;
    world.partitions.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_table_is_told_by_metrics_and_left_as_it_is_while_others_are_compacted() {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = LossyFiles::new(22);
    let world = World::start(directory.path(), Arc::new(disk.clone())).await;
    let compaction = compaction(&world);
    for round in 0..2 {
        world.append(&amounts(round)).await;
        world.landing.land_now().await.expect("landed");
    }
    let spec = world.view().history_spec(&"default".parse().expect("a name"));
    let table = world.tables.table(spec.clone()).await.expect("open");
    let before = table.snapshot();
    let path = Path::new("/history").join(spec.directory()).join(&before.files[0].name);
    disk.damage(&path, |bytes| bytes[100] ^= 1).expect("damage");

    let done = compaction.settle().await.expect("it is running");
    assert_eq!(done, Compacted { failures: 1, ..Compacted::default() });
    let metrics = compaction.metrics();
    assert_eq!((metrics.failures.get(), metrics.damaged.get(), metrics.merges.get()), (1, 1, 0));
    assert_eq!(table.snapshot().delta_version, before.delta_version);
    drop(before);

    disk.damage(&path, |bytes| bytes[100] ^= 1).expect("repair");
    let done = compaction.settle().await.expect("it is running");
    assert_eq!((done.merges, done.failures), (1, 0));
    assert_eq!(metrics.rows.get(), 120);
    compaction.shutdown().await;
    let refused = compaction.settle().await.expect_err("it has ended");
    assert_eq!(refused.reason, "SHUTTING_DOWN");
    world.landing.shutdown().await;
    world.partitions.shutdown().await;
}
