//! Contract, section 12: a wrong byte is told, and never a wrong value.

use std::fs;
use std::path::{Path, PathBuf};

use hydrant::error::Code;
use hydrant::serving::OnlineRequest;
use rocksdb::{DB, IteratorMode, Options};
use serde_json::json;

use super::{SHOP, audit};
use crate::support::node::{AS_KNOWN, START, TestNode};
use crate::support::table::spine;

/// Stops the node, changes one byte of the online row that holds `text`, and starts it again.
pub async fn damage_online_row(node: &mut TestNode, text: &str) {
    node.close().await;
    let mut damaged = 0;
    for partition in fs::read_dir(node.data_directory().join("partitions")).expect("a directory") {
        let path = partition.expect("an entry").path();
        if path.is_dir() {
            damaged += damage_rows(&path, text.as_bytes());
        }
    }
    assert!(damaged > 0, "no row holds '{text}'");
    node.open().await.expect("it opens: rows are looked at when they are read");
}

/// Rows are changed through RocksDB, so that its own checksums hold.
fn damage_rows(path: &Path, text: &[u8]) -> usize {
    let options = Options::default();
    let families = DB::list_cf(&options, path).expect("a partition's store");
    let db = DB::open_cf(&options, path, families).expect("it is closed");
    let latest = db.cf_handle("latest").expect("the family of online rows");
    let mut damaged = Vec::new();
    for entry in db.iterator_cf(latest, IteratorMode::Start) {
        let (key, mut value) = entry.expect("readable");
        if let Some(at) = value.windows(text.len()).position(|window| window == text) {
            value[at] ^= 1;
            damaged.push((key, value));
        }
    }
    for (key, value) in &damaged {
        db.put_cf(latest, key, value).expect("written");
    }
    db.flush_cf(latest).expect("flushed");
    damaged.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_row_is_a_damaged_cell_is_counted_and_never_a_wrong_value() {
    let mut node = TestNode::start(SHOP).await;
    node.put(
        "facts",
        json!([
            {"user_id": 1, "happened": START, "plan": "damage me", "level": 7},
            {"user_id": 2, "happened": START, "plan": "gold", "level": 8},
        ]),
    )
    .await;
    damage_online_row(&mut node, "damage me").await;
    let read = node.read(&["user_facts:plan", "user_facts:level"], json!({"user_id": [1, 2]})).await;
    assert_eq!(read.column("user_facts__plan"), ["DAMAGED", "gold"]);
    assert_eq!(read.column("user_facts__level"), ["DAMAGED=-1", "8"]);
    assert_eq!(node.use_cases().serving.metrics().damaged_rows.get(), 1);
    // History has its own bytes. Whether the damaged row was the greatest can't be told any more, so
    // that no row that is written for the key stands in for it.
    let trained = node.one_trained("user_facts:plan", json!({"user_id": 1}), &[START], AS_KNOWN).await;
    assert_eq!(trained, ["damage me"]);
    node.put("facts", json!([{"user_id": 1, "happened": START, "plan": "new"}])).await;
    assert_eq!(node.one("user_facts:plan", json!({"user_id": 1})).await, "DAMAGED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_page_of_history_is_data_loss_naming_the_file_and_is_counted() {
    let mut node = TestNode::start(SHOP).await;
    let rows =
        (0..500).map(|user| json!({"user_id": user, "happened": START, "plan": format!("plan {user}")})).collect();
    node.put("facts", rows).await;
    node.land().await;
    let files = files_under(&node.data_directory().join("history/default/user_facts"), "parquet");
    let [file] = files.as_slice() else { panic!("one landing, one file: {files:?}") };
    let whole = fs::read(file).expect("readable");
    let wanted: Vec<_> = (0..500).map(|user| json!({"user_id": user, "at": START})).collect();
    let wanted = spine(&wanted.into());
    for tenth in 1..10 {
        let mut bytes = whole.clone();
        let at = bytes.len() * tenth / 10;
        bytes[at] ^= 4;
        fs::write(file, &bytes).expect("written");
        // What the file's end says was checked when it was read, and is remembered.
        node.restart().await;
        let failed = node.try_train(&["user_facts:plan"], &wanted, AS_KNOWN).await;
        let failed = failed.expect_err("a byte is wrong");
        assert_eq!(failed.code, Code::DataLoss, "byte {at}: {failed}");
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(failed.message.contains(&name), "byte {at}: {failed}");
        assert_eq!(node.use_cases().history.metrics().damaged.get(), 1);
    }
    fs::write(file, &whole).expect("written");
    let trained = node.train(&["user_facts:plan"], &wanted, AS_KNOWN).await;
    assert_eq!(trained.column("user_facts__plan")[499], "plan 499");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_damaged_page_of_history_keeps_from_a_pinned_read_is_damaged_cells_and_no_others() {
    let node = TestNode::start(SHOP).await;
    let rows = |happened: i64| -> serde_json::Value {
        let row = |user: i64| json!({"user_id": user, "happened": happened, "plan": format!("plan {user}")});
        (0..50).map(row).collect()
    };
    node.put("facts", rows(START - 10)).await;
    node.put("audits", json!([audit(1, START - 10, START - 10, "fine")])).await;
    node.put("facts", json!([{"user_id": 1, "happened": START, "plan": "newer"}])).await;
    node.land().await;
    let files = files_under(&node.data_directory().join("history/default/user_facts"), "parquet");
    let mut bytes = fs::read(&files[0]).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&files[0], &bytes).expect("written");
    // Of the first user the online row lies after the instant; all the others' answer.
    let what = ["user_facts:plan", "user_audits:verdict"];
    let read = node.read_at(&what, json!({"user_id": [0, 1, 2]}), START - 5).await;
    assert_eq!(read.column("user_facts__plan"), ["plan 0", "DAMAGED", "plan 2"]);
    assert_eq!(read.column("user_audits__verdict"), ["NOT_FOUND", "fine", "NOT_FOUND"]);
    assert_eq!(node.use_cases().serving.metrics().damaged_rows.get(), 1);
    let question = node.question(&what, &json!({"user_id": [1]}));
    let strict = node.get(OnlineRequest { strict: true, at: Some(START - 5), ..question }).await;
    assert_eq!(strict.expect_err("a cell is damaged").code, Code::DataLoss);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_last_frame_of_the_log_is_cut_off_at_the_start() {
    let mut node = TestNode::start(SHOP).await;
    for level in 0..5 {
        node.put("facts", json!([{"user_id": 1, "happened": START, "level": level}])).await;
    }
    node.close().await;
    // The beginning of a frame that never was acknowledged.
    let segment = last_segment(&node);
    let mut bytes = fs::read(&segment).expect("readable");
    let torn = bytes[bytes.len() - 60..bytes.len() - 20].to_vec();
    bytes.extend(torn);
    fs::write(&segment, &bytes).expect("written");
    node.open().await.expect("it opens");
    assert_eq!(node.one("user_facts:level", json!({"user_id": 1})).await, "4");
    assert_eq!(node.frames(), 5);
    node.put("facts", json!([{"user_id": 1, "happened": START, "level": 5}])).await;
    assert_eq!((node.one("user_facts:level", json!({"user_id": 1})).await.as_str(), node.frames()), ("5", 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_frame_before_the_last_stops_the_start_with_the_way_out() {
    let mut node = TestNode::start(SHOP).await;
    for level in 0..9 {
        node.put("facts", json!([{"user_id": 1, "happened": START, "plan": format!("level {level}")}])).await;
    }
    node.close().await;
    let segment = last_segment(&node);
    let whole = fs::read(&segment).expect("readable");
    let at = whole.windows(7).position(|window| window == b"level 4").expect("the row's text");
    let mut bytes = whole.clone();
    bytes[at] ^= 1;
    fs::write(&segment, &bytes).expect("written");
    let refused = node.open().await.expect_err("it doesn't start").to_string();
    let name = segment.file_name().expect("a name").to_string_lossy().into_owned();
    for part in [name.as_str(), "damaged at offset", "frame 5", "restore"] {
        assert!(refused.contains(part), "'{part}' in: {refused}");
    }
    assert_eq!(fs::read(&segment).expect("readable"), bytes, "nothing is cut off");
    fs::write(&segment, &whole).expect("written");
    node.open().await.expect("it opens again");
    assert_eq!(node.one("user_facts:plan", json!({"user_id": 1})).await, "level 8");
}

fn last_segment(node: &TestNode) -> PathBuf {
    files_under(&node.data_directory().join("log"), "seg").pop().expect("the log has a segment")
}

/// The files of a kind below a directory, by name.
fn files_under(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a readable directory") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            found.extend(files_under(&path, extension));
        } else if path.extension().is_some_and(|known| known == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}
