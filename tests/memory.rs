//! Bounds of memory, held against what the kernel says that a serving process took.

#[path = "support/process.rs"]
mod process;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use hydrant::rpc::client::Client;
use hydrant::rpc::v1;
use parquet::arrow::ArrowWriter;
use process::{ServerProcess, Setup};

/// Rows of the history of each view, and of the spine.
const ROWS: i64 = 600_000;
const KEYS: [(&str, i64); 2] = [("member", 50_000), ("ad", 5_000)];
const FEATURES: usize = 6;
/// 2024-01-01T00:00:00Z, in microseconds.
const BASE: i64 = 1_704_067_200_000_000;
const MIB: u64 = 1 << 20;
/// What a training set may take for itself.
const CAP: u64 = 16 * MIB;
/// What it takes beside that: batches on their way to and from the client, and a page of each open file on
/// each thread.
const BESIDE: u64 = 64 * MIB;

#[tokio::test(flavor = "multi_thread")]
async fn a_training_set_that_needs_more_than_its_memory_spills_and_the_process_stays_within_the_cap() {
    let folder = tempfile::tempdir().expect("a folder");
    load(folder.path()).await;
    let (capped, spilled) = peak_of_a_training_set(folder.path(), CAP).await;
    assert!(capped <= CAP + BESIDE, "{} MiB more were taken than before", capped / MIB);
    assert!(spilled > 2 * CAP, "only {} MiB were spilled", spilled / MIB);
    // With enough memory the same training set takes more than that: the cap was what held it.
    let (free, spilled) = peak_of_a_training_set(folder.path(), 1024 * MIB).await;
    assert!(free > CAP + BESIDE, "{} MiB are all that it needs, so nothing was tested", free / MIB);
    assert_eq!(spilled, 0);
}

fn setup(folder: &Path, memory: u64) -> Setup {
    let memory = memory / MIB;
    // What is freed is given back at once: how much the allocator keeps for a second depends on how fast
    // the machine is.
    Setup::new(folder).variable("MIMALLOC_PURGE_DELAY", "0").config(&format!(
        "[storage]\npartitions = 2\nblock_cache = \"8MiB\"\nrow_cache = \"1MiB\"\nwrite_buffers = \"16MiB\"\n\
         [backfill]\nmemory = \"64MiB\"\n[history]\nmemory = \"{memory}MiB\"\nthreads = 2\n"
    ))
}

async fn load(folder: &Path) {
    let server = setup(folder, CAP).start().await;
    let definitions = folder.join("definitions.yaml");
    std::fs::write(&definitions, documents()).expect("written");
    hydrant(&server, &["apply", "-f", &definitions.to_string_lossy()]);
    for (name, keys) in KEYS {
        let file = folder.join(format!("{name}.parquet"));
        write_history(&file, name, keys);
        hydrant(&server, &["backfill", &format!("{name}_events"), &file.to_string_lossy(), "--no-materialize"]);
    }
    server.stop().await;
}

fn hydrant(server: &ServerProcess, arguments: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hydrant"));
    let done = command.args(arguments).args(["--server", server.grpc()]).output().expect("it runs");
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

fn documents() -> String {
    let features: Vec<String> = (0..FEATURES).map(|n| format!("{{name: f{n}}}")).collect();
    let columns: Vec<String> = (0..FEATURES).map(|n| format!("{{name: f{n}, type: float64}}")).collect();
    let (features, columns) = (features.join(", "), columns.join(", "));
    let of_key = |(name, _): &(&str, i64)| {
        format!(
            "apiVersion: hydrant/v1\nkind: Entity\nmetadata: {{name: {name}}}\n\
             spec: {{joinKeys: [{{name: {name}, type: int64}}]}}\n---\n\
             apiVersion: hydrant/v1\nkind: Source\nmetadata: {{name: {name}_events}}\n\
             spec:\n  type: push\n  eventTime: at\n  knownTime: event\n  \
             columns: [{{name: {name}, type: int64}}, {{name: at, type: timestamp}}, {columns}]\n---\n\
             apiVersion: hydrant/v1\nkind: FeatureView\nmetadata: {{name: of_{name}}}\n\
             spec: {{entities: [{name}], source: {name}_events, features: [{features}]}}\n---\n"
        )
    };
    let views: Vec<String> = KEYS.iter().map(|(name, _)| format!("of_{name}")).collect();
    let service = format!(
        "apiVersion: hydrant/v1\nkind: FeatureService\nmetadata: {{name: all}}\nspec: {{features: [{}]}}\n",
        views.join(", ")
    );
    KEYS.iter().map(of_key).collect::<String>() + &service
}

fn at(row: i64) -> i64 {
    BASE + row * 1_000_000
}

fn times(rows: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter_values(rows.map(at)).with_timezone("UTC"))
}

/// Values that do not compress, so that what is spilled is as much as it was.
fn value(row: i64, feature: usize) -> f64 {
    let mixed = (row.cast_unsigned() * 64 + feature as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 11) as f64
}

fn write_history(path: &Path, name: &str, keys: i64) {
    let mut columns: Vec<(String, ArrayRef)> = vec![
        (name.to_owned(), Arc::new(Int64Array::from_iter_values((0..ROWS).map(|row| row * 7 % keys)))),
        ("at".to_owned(), times(0..ROWS)),
    ];
    for feature in 0..FEATURES {
        let values = Float64Array::from_iter_values((0..ROWS).map(|row| value(row, feature)));
        columns.push((format!("f{feature}"), Arc::new(values)));
    }
    let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
    let file = std::fs::File::create(path).expect("created");
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).expect("a writer");
    writer.write(&batch).expect("written");
    writer.close().expect("closed");
}

/// Some rows of the spine.
fn spine(rows: std::ops::Range<i64>) -> RecordBatch {
    let key =
        |keys: i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values(rows.clone().map(|row| row * 13 % keys))) };
    let labels = Float64Array::from_iter_values(rows.clone().map(|row| value(row, FEATURES)));
    let columns: [(&str, ArrayRef); 4] = [
        ("at", times(rows.clone())),
        (KEYS[0].0, key(KEYS[0].1)),
        (KEYS[1].0, key(KEYS[1].1)),
        ("label", Arc::new(labels)),
    ];
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}

/// The bytes that the process of a server took more than before it made a training set, at the most, and
/// those that were spilled meanwhile.
async fn peak_of_a_training_set(folder: &Path, memory: u64) -> (u64, u64) {
    const BATCH: i64 = 16_384;
    let server = setup(folder, memory).start().await;
    let client = server.client().await;
    // Files are opened, and threads begun, by one that needs no memory.
    assert_eq!(pull(&client, vec![spine(0..10)]).await, 10);
    reset_peak(server.id());
    let before = peak(server.id());
    let batches = (0..ROWS).step_by(BATCH as usize).map(|first| spine(first..ROWS.min(first + BATCH))).collect();
    assert_eq!(pull(&client, batches).await, ROWS as u64);
    let taken = peak(server.id()) - before;
    let metrics = reqwest::get(format!("http://{}/metrics", server.http())).await.expect("metrics");
    let metrics = metrics.text().await.expect("text");
    let spilled = metrics.lines().find(|line| line.starts_with("hydrant_history_spilled_bytes_total"));
    let spilled =
        spilled.and_then(|line| line.rsplit(' ').next()).expect("it is told").parse::<f64>().expect("a number");
    server.stop().await;
    (taken, spilled as u64)
}

/// How many rows came, each of which found its rows of history.
async fn pull(client: &Client, batches: Vec<RecordBatch>) -> u64 {
    let command = v1::HistoricalFeaturesCommand {
        services: vec!["all".to_owned()],
        event_time: "at".to_owned(),
        ..Default::default()
    };
    let schema = batches[0].schema();
    let batches = tokio_stream::iter(batches.into_iter().map(Ok));
    let mut set = client.training_set(command, schema, batches).await.expect("it begins");
    let mut rows = 0;
    while let Some(batch) = set.next().await.expect("it goes on") {
        rows += batch.num_rows() as u64;
    }
    rows
}

fn reset_peak(process: u32) {
    std::fs::write(format!("/proc/{process}/clear_refs"), "5").expect("the kernel counts anew");
}

/// Bytes that were resident at the most.
fn peak(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel tells");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") << 10
}
