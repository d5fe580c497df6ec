//! Contract, section 14: a backup is a whole server at one moment, or nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hydrant::app::Node;
use hydrant::backup::{Making, Told};
use hydrant::config::{ByteSize, Config, Span};
use hydrant::error::Code;
use hydrant::tenancy::Action;
use hydrant_storage::backup::verify;
use hydrant_storage::files::LocalFiles;
use serde_json::{Value as Json, json};
use tokio::sync::watch;

use super::SHOP;
use crate::support::node::{AS_KNOWN, START, TestNode, patience};
use crate::support::table::spine;

const WRITERS: i64 = 3;
/// Users that each request of a writer is about; over all partitions.
const USERS: i64 = 12;
const ROUNDS: usize = 3;
/// Requests that each writer gets further between two backups.
const FURTHER: u64 = 15;
/// Requests of all writers between two landings.
const BETWEEN_LANDINGS: u64 = 8;

/// Everything that runs beside a backup runs often.
fn busy(config: &mut Config) {
    let often = Span(std::time::Duration::from_millis(50));
    (config.partitions.flush_interval, config.partitions.trim_interval) = (often, often);
    config.log.segment = ByteSize::mib(1);
    // Files of history are merged all the time, and deleted once nobody holds them.
    config.compaction.enabled = true;
    config.compaction.interval = often;
    config.compaction.retention = Span(std::time::Duration::ZERO);
}

fn users_of(writer: i64) -> Vec<i64> {
    (0..USERS).map(|user| writer * USERS + user).collect()
}

/// All users of a writer get the same score, and a text that fills segments.
fn request(writer: i64, number: u64) -> Json {
    let page = "a page that nobody reads ".repeat(120);
    let row = |user: &i64| json!({"user_id": user, "item_id": "i", "happened": START, "page": page, "score": number});
    users_of(writer).iter().map(row).collect()
}

/// What the users of a writer have, which has to be one and the same.
async fn score_of(node: &TestNode, writer: i64) -> u64 {
    let read = node.read(&["user_scores:score"], json!({ "user_id": users_of(writer) })).await;
    let mut scores = read.column("user_scores__score");
    scores.dedup();
    match scores.as_slice() {
        [one] if one == "NOT_FOUND" => 0,
        [one] => one.parse().expect("a number"),
        several => panic!("a request of writer {writer} is there in part: {several:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backup_under_load_holds_all_that_was_acknowledged_before_and_no_half_request() {
    let node = Arc::new(TestNode::start_with(SHOP, busy).await);
    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged = watch::Sender::new(vec![0; usize::try_from(WRITERS).expect("few")]);
    let mut tasks = Vec::new();
    for writer in 0..WRITERS {
        let (node, stop, acknowledged) = (node.clone(), stop.clone(), acknowledged.clone());
        tasks.push(tokio::spawn(async move {
            for number in 1.. {
                if stop.load(Ordering::Acquire) {
                    break;
                }
                // Waits until it is applied, so that writers don't run away from the partitions.
                node.put("clicks", request(writer, number)).await;
                acknowledged.send_modify(|all| all[usize::try_from(writer).expect("few")] = number);
            }
        }));
    }
    let (landing, mut follow) = (node.clone(), acknowledged.subscribe());
    tasks.push(tokio::spawn(async move {
        let mut landed = 0;
        loop {
            let wanted = landed + BETWEEN_LANDINGS;
            let further = follow.wait_for(|all| all.iter().sum::<u64>() >= wanted).await;
            // Until the writers have ended.
            let Ok(sum) = further.map(|all| all.iter().sum()) else { break };
            landed = sum;
            landing.land().await;
        }
    }));
    // Every backup begins when each writer has got further, and the log was trimmed meanwhile.
    let mut before_each: Vec<Vec<u64>> = Vec::new();
    for round in 0..ROUNDS {
        let begun: Vec<u64> = acknowledged.borrow().clone();
        let mut follow = acknowledged.subscribe();
        let further = |all: &Vec<u64>| all.iter().zip(&begun).all(|(number, begun)| *number >= begun + FURTHER);
        let before = follow.wait_for(further).await.expect("they write").clone();
        let made = node.back_up(&format!("round_{round}")).await.expect("the backup is made");
        assert!(made.frame >= FURTHER && made.files > 10, "{made:?}");
        before_each.push(before);
    }
    stop.store(true, Ordering::Release);
    drop(acknowledged);
    for task in tasks {
        task.await.expect("no panic");
    }
    let first_segment = node.data_directory().join("log").join(format!("{:020}.seg", 1));
    assert!(!first_segment.exists(), "the log was never trimmed");

    for (round, before) in before_each.into_iter().enumerate() {
        let restored = node.restored(&format!("round_{round}")).await;
        let durable = restored.frames();
        restored.use_cases().partitions.wait_applied(durable, patience()).await.expect("applied");
        let check = async |when: &str| {
            for (writer, before) in (0..).zip(&before) {
                let found = score_of(&restored, writer).await;
                assert!(found >= *before, "round {round}, {when}: writer {writer} has {found} and not {before}");
                // Known when they came: history has the last request too, and all of it.
                let now = restored.now();
                let wanted: Json = users_of(writer).iter().map(|user| json!({"user_id": user, "at": now})).collect();
                let trained = restored.train(&["user_scores:score"], &spine(&wanted), AS_KNOWN).await;
                let mut scores = trained.column("user_scores__score");
                scores.dedup();
                assert_eq!(scores, [found.to_string()], "round {round}, {when}: writer {writer}");
            }
        };
        check("as restored").await;
        restored.land().await;
        check("all landed").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_server_answers_the_past_as_the_original_does() {
    let node = TestNode::start_with(SHOP, busy).await;
    let what = ["user_clicks:amount", "user_scores:score"];
    let mut instants = Vec::new();
    for round in 0..6_i64 {
        let rows = (0..50).map(|user| {
            json!({"user_id": user, "item_id": "i", "happened": START + round * 100, "amount": round, "score": user * round})
        });
        node.put("clicks", rows.collect()).await;
        instants.push(node.now());
        node.advance(1_000_000).await;
        // In history, in both, and in the tail alone.
        if round % 2 == 1 && round < 4 {
            node.land().await;
        }
        if round == 4 {
            node.delete("user_scores", json!({"user_id": [7]}), START + 450).await;
        }
    }
    let users: Vec<i64> = (0..55).collect();
    let wanted = (0..200).map(|n| json!({"user_id": n % 55, "at": START + 5_000_000 * (n % 3)}));
    let wanted = spine(&wanted.collect::<Json>());
    node.back_up("then").await.expect("the backup is made");
    node.put("clicks", json!([{"user_id": 3, "item_id": "i", "happened": START + 400, "score": -1}])).await;
    node.land().await;

    let restored = node.restored("then").await;
    for at in &instants {
        let keys = json!({ "user_id": users });
        let (original, again) =
            (node.read_at(&what, keys.clone(), *at).await, restored.read_at(&what, keys, *at).await);
        for name in ["user_clicks__amount", "user_scores__score"] {
            assert_eq!(again.column(name), original.column(name), "{name} at {at}");
        }
        let ask = AS_KNOWN.up_to(*at);
        let (original, again) = (node.train(&what, &wanted, ask).await, restored.train(&what, &wanted, ask).await);
        assert_eq!(again.report.content_hash, original.report.content_hash, "up to {at}");
        assert_eq!(again.table, original.table);
    }
    let score = async |node: &TestNode| node.one("user_scores:score", json!({"user_id": 3})).await;
    assert_eq!(
        (score(&node).await.as_str(), score(&restored).await.as_str()),
        ("15", "15"),
        "a late row is late in both"
    );
    // It goes on by itself.
    restored.put("clicks", json!([{"user_id": 3, "item_id": "i", "happened": START + 9_000, "score": 99}])).await;
    assert_eq!((score(&node).await.as_str(), score(&restored).await.as_str()), ("15", "99"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_server_knows_which_requests_were_taken() {
    let node = TestNode::start_with(SHOP, busy).await;
    let row = |score: i64| json!([{"user_id": 1, "item_id": "i", "happened": START, "score": score}]);
    let first = node.put_once("clicks", row(1), "loader", 1).await.expect("taken");
    // So much that the log is trimmed: what was taken is known from the checkpoint.
    for number in 1..60 {
        node.put("clicks", request(0, number)).await;
    }
    let trimmed = || !node.data_directory().join("log").join(format!("{:020}.seg", 1)).exists();
    while !trimmed() {
        tokio::task::yield_now().await;
    }
    node.put_once("clicks", row(2), "loader", 2).await.expect("taken");
    node.back_up("then").await.expect("the backup is made");
    let restored = node.restored("then").await;
    let frames = restored.frames();
    let again = restored.put_once("clicks", row(1), "loader", 1).await.expect("answered");
    assert_eq!((again.frame, restored.frames()), (first.frame, frames), "nothing was written");
    restored.put_once("clicks", row(2), "loader", 2).await.expect("answered");
    assert_eq!(restored.frames(), frames);
    let other = restored.put_once("clicks", row(3), "loader", 2).await.expect_err("another payload");
    assert_eq!(other.reason, "SEQUENCE_REUSED");
}

fn hidden(node: &TestNode) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(node.data_directory().join("backups")) else { return Vec::new() };
    let paths = entries.map(|entry| entry.expect("readable").path());
    paths.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))).collect()
}

async fn listed(node: &TestNode) -> Vec<String> {
    let all = node.use_cases().backups.list(&node.permit(Action::BackUp)).await.expect("listed");
    all.into_iter().map(|listed| listed.name.to_string()).collect()
}

fn begin(node: &TestNode, name: &str) -> hydrant::error::Result<Making> {
    node.use_cases().backups.create(&node.permit(Action::BackUp), name.parse().expect("a name"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_nobody_waits_for_leaves_nothing() {
    let mut node = TestNode::start(SHOP).await;
    node.put("clicks", request(0, 1)).await;
    for round in 0..20 {
        let name = format!("round_{round}");
        let mut making = begin(&node, &name).expect("none is under way");
        // There is one at a time.
        match begin(&node, "another") {
            Err(refused) => assert_eq!((refused.code, refused.reason), (Code::ResourceExhausted, "BACKUP_BUSY")),
            Ok(_) => assert!(matches!(making.next().await, Told::Done(_)), "it has ended already"),
        }
        drop(making);
        // Waits for the work's end.
        node.restart().await;
        assert_eq!(hidden(&node), [] as [PathBuf; 0]);
        for whole in listed(&node).await {
            let path = node.data_directory().join("backups").join(&whole);
            assert_eq!(verify(&LocalFiles, &path, &mut |_| true).expect("a manifest").problems, []);
            let permit = node.permit(Action::BackUp);
            node.use_cases().backups.delete(&permit, whole.parse().expect("a name")).await.expect("deleted");
        }
    }
    node.back_up("at_last").await.expect("nothing is in its way");

    let backups = node.use_cases().backups.clone();
    node.close().await;
    assert_eq!(backups.metrics().made.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_not_backed_up() {
    let node = TestNode::start(SHOP).await;
    node.put("clicks", request(0, 1)).await;
    node.use_cases().partitions.park(1, "as the test wants it");
    let parked = node.use_cases().partitions.handles()[1].wait_applied(u64::MAX, patience()).await;
    assert!(parked.is_err(), "it is parked");
    let refused = node.back_up("monday").await.expect_err("a partition is closed");
    assert_eq!(refused.reason, "PARTITION_PARKED");
    assert_eq!((listed(&node).await, hidden(&node)), (Vec::new(), Vec::new()));
    node.use_cases().partitions.reopen(1);
    node.use_cases().partitions.wait_serving(patience()).await.expect("it is opened");
    node.back_up("monday").await.expect("all can be read");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_byte_of_any_part_is_found_and_the_file_named() {
    let node = TestNode::start_with(SHOP, busy).await;
    for number in 1..60 {
        node.put("clicks", request(0, number)).await;
    }
    node.land().await;
    node.back_up("monday").await.expect("the backup is made");
    let root = node.data_directory().join("backups/monday");
    let mut files = BTreeMap::new();
    for path in below(&root) {
        let relative = path.strip_prefix(&root).expect("below it").to_string_lossy().into_owned();
        let part = relative.split('/').next().expect("a part").to_owned();
        files.entry(part).or_insert_with(Vec::new).push(relative);
    }
    let parts: Vec<&str> = files.keys().map(String::as_str).collect();
    assert_eq!(parts, ["BACKUP", "history", "log", "partitions", "registry"]);
    files.remove("BACKUP");
    for relative in files.values().flatten() {
        let path = root.join(relative);
        let sound = fs::read(&path).expect("readable");
        let Some(at) = (sound.len() / 2).checked_sub(1) else { continue };
        let mut damaged = sound.clone();
        damaged[at] ^= 4;
        // A new file: the old one may be the server's too.
        fs::remove_file(&path).expect("removed");
        fs::write(&path, &damaged).expect("written");
        let found = verify(&LocalFiles, &root, &mut |_| true).expect("a manifest").problems;
        assert_eq!(found.iter().map(|problem| problem.path.as_str()).collect::<Vec<_>>(), [relative.as_str()]);
        fs::write(&path, &sound).expect("written");
    }
    node.restored("monday").await;
}

fn below(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("readable").map(|entry| entry.expect("readable").path());
    entries.flat_map(|path| if path.is_dir() { below(&path) } else { vec![path] }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_server_starts_in_a_backup() {
    let node = TestNode::start(SHOP).await;
    node.put("clicks", request(0, 1)).await;
    node.back_up("monday").await.expect("the backup is made");
    let mut config = node.config.clone();
    config.storage.data_dir = node.data_directory().join("backups/monday");
    let before = below(&config.storage.data_dir);
    let refused = Node::open(&config, node.clock.clone()).await.expect_err("it is a backup").to_string();
    assert!(refused.contains("is a backup") && refused.contains("hydrant backup restore"), "{refused}");
    assert_eq!(below(&config.storage.data_dir), before);
    // Unless it is meant.
    fs::remove_file(config.storage.data_dir.join("BACKUP")).expect("removed");
    let opened = Node::open(&config, node.clock.clone()).await.expect("a data directory");
    opened.close().await;
    assert_eq!(score_of(&node, 0).await, 1, "the original goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_are_kept_until_they_are_deleted_and_no_more_than_allowed() {
    let elsewhere = tempfile::tempdir().expect("a directory");
    let directory = elsewhere.path().join("kept");
    let mut node = TestNode::start_with(SHOP, |config| {
        config.backup.directory = directory.clone();
        config.backup.max_kept = 2;
    })
    .await;
    assert!(!directory.exists(), "nothing is made before it is needed");
    assert_eq!(node.use_cases().backups.age(), None);
    let first = node.back_up("first").await.expect("made");
    node.advance(2_000_000).await;
    let second = node.back_up("second").await.expect("made");
    assert!(second.made > first.made && node.use_cases().backups.age().is_some_and(|age| age < 2_000_000));
    assert!(second.read_bytes < first.read_bytes, "the checksums of what both have were known");
    node.restart().await;
    assert_eq!(listed(&node).await, ["first", "second"]);
    assert!(node.use_cases().backups.age().is_some());
    let refused = node.back_up("third").await.expect_err("two are kept");
    assert_eq!((refused.code, refused.reason), (Code::FailedPrecondition, "TOO_MANY_BACKUPS"));
    assert!(refused.hint.is_some_and(|hint| hint.contains("first")));

    let permit = node.permit(Action::BackUp);
    let delete = |name: &str| node.use_cases().backups.delete(&permit, name.parse().expect("a name"));
    delete("first").await.expect("deleted");
    assert_eq!(delete("first").await.expect_err("it is gone").reason, "BACKUP_NOT_FOUND");
    let taken = node.back_up("second").await.expect_err("it is there");
    assert_eq!((taken.code, taken.reason), (Code::AlreadyExists, "BACKUP_EXISTS"));
    node.back_up("third").await.expect("made");
    assert_eq!(listed(&node).await, ["second", "third"]);
    node.restored("second").await;
}
