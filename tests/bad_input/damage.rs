//! Bytes that changed on the disk of a stopped server: they are never served as values. What is
//! damaged says so, naming where; what isn't is served on.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hydrant::error::Code;
use hydrant::rpc::client::Client;
use hydrant::rpc::v1;
use hydrant::rpc::wire::columns::encode_column;
use rocksdb::{ColumnFamilyDescriptor, DB, IteratorMode, Options};

use crate::scene::{HOUR, START, Scene, Stopped, airport, airports, files_below, mark, strings, times};

const AIRPORTS: usize = 300;

/// The airport whose bytes are changed.
const VICTIM: usize = 137;

/// Rows land soon.
const LANDING: &str = "[landing]\ninterval = \"50ms\"";

async fn stopped(config: &str) -> Stopped {
    let scene = Scene::with_definitions(config).await;
    scene.ingest_airports(AIRPORTS);
    scene.stop().await
}

/// Ingests, and stops once history has every row.
async fn landed() -> Stopped {
    let scene = Scene::with_definitions(LANDING).await;
    scene.ingest_airports(AIRPORTS);
    let client = scene.client().await;
    let begun = Instant::now();
    while tail_rows(&client).await > 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "rows don't land:\n{}", scene.server.log());
    }
    scene.stop().await
}

async fn tail_rows(client: &Client) -> u64 {
    let command = v1::HistoricalFeaturesCommand {
        services: vec!["model".to_owned()],
        event_time: "at".to_owned(),
        ..Default::default()
    };
    let spine =
        arrow_array::RecordBatch::try_from_iter([("origin", strings(&[Some("A000")])), ("at", times(&[Some(START)]))]);
    let spine = spine.expect("columns of one length");
    let set = client.training_set(command, spine.schema(), tokio_stream::iter([Ok(spine)])).await;
    let mut set = set.expect("a training set");
    while set.next().await.expect("rows").is_some() {}
    set.report().expect("it came with the end").tables[0].tail_rows
}

/// The stores of all partitions.
fn stores(stopped: &Stopped) -> Vec<DB> {
    let entries = std::fs::read_dir(stopped.data().join("partitions")).expect("readable");
    let paths = entries.map(|entry| entry.expect("readable").path());
    let open = |directory: PathBuf| {
        let families =
            ["default", "latest", "pending", "tail"].map(|name| ColumnFamilyDescriptor::new(name, Options::default()));
        DB::open_cf_descriptors(&Options::default(), &directory, families).expect("it opens")
    };
    paths.filter(|path| path.is_dir()).map(open).collect()
}

fn change_byte(path: &Path, offset: usize) {
    let mut bytes = std::fs::read(path).expect("readable");
    bytes[offset] ^= 0x40;
    std::fs::write(path, bytes).expect("written");
}

fn places_of(mark: &[u8], file: &Path) -> Vec<usize> {
    let bytes = std::fs::read(file).expect("readable");
    (0..bytes.len().saturating_sub(mark.len())).filter(|place| bytes[*place..].starts_with(mark)).collect()
}

fn with_extension(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files = files_below(folder);
    files.retain(|file| file.extension().is_some_and(|end| end == extension));
    files
}

fn read(origins: &[String], strict: bool) -> v1::GetOnlineFeaturesRequest {
    let origins: Vec<Option<&str>> = origins.iter().map(|origin| Some(origin.as_str())).collect();
    v1::GetOnlineFeaturesRequest {
        services: vec!["model".to_owned()],
        entities: vec![encode_column("origin", &strings(&origins)).expect("strings")],
        strict,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_row_of_the_online_store_is_damaged_and_the_others_are_served() {
    let stopped = stopped("").await;
    let mut changed = 0;
    for store in stores(&stopped) {
        let latest = store.cf_handle("latest").expect("a family");
        let rows: Vec<_> = store.iterator_cf(latest, IteratorMode::Start).map(|row| row.expect("sound")).collect();
        let mark = mark(VICTIM);
        for (key, row) in &rows {
            let Some(place) = row.windows(mark.len()).position(|bytes| bytes == mark.as_bytes()) else { continue };
            let mut row = row.to_vec();
            row[place] ^= 0x40;
            store.put_cf(latest, key, row).expect("written");
            changed += 1;
        }
        store.flush_cf(latest).expect("flushed");
    }
    assert_eq!(changed, 1, "a key has one row online");

    let scene = stopped.start().await;
    assert_eq!(scene.temperature(&airport(VICTIM)), ("DAMAGED".to_owned(), serde_json::Value::Null));
    for other in [0, VICTIM - 1, VICTIM + 1, AIRPORTS - 1] {
        assert_eq!(scene.temperature(&airport(other)), ("PRESENT".to_owned(), (other as f64).into()));
    }
    let client = scene.client().await;
    let both = [airport(VICTIM), airport(0)];
    let refusal = client.get_online_features(read(&both, true)).await.expect_err("a strict read takes all or nothing");
    assert_eq!(refusal.code, Code::DataLoss, "{refusal:?}");
    assert!(!refusal.reason.is_empty() && refusal.message.contains("airport_weather"), "{refusal:?}");
    // The same rows wait to land, undamaged: training has them.
    let spine = scene.parquet("spine.parquet", airports(VICTIM..VICTIM + 1));
    let out = scene.path("out.parquet");
    let get =
        ["historical", "get", "--service", "model", "--spine", &spine, "--event-time", "event_timestamp", "-o", &out];
    scene.succeed(&get);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_block_of_the_online_store_is_damaged_and_the_others_are_served() {
    let stopped = stopped("[partitions]\nflush_interval = \"50ms\"").await;
    let mark = mark(VICTIM);
    let mut changed = 0;
    for store in stores(&stopped) {
        let files = store.live_files().expect("told");
        let directory = store.path().to_owned();
        drop(store);
        for file in files.iter().filter(|file| file.column_family_name == "latest") {
            let path = directory.join(file.name.trim_start_matches('/'));
            for place in places_of(mark.as_bytes(), &path) {
                change_byte(&path, place);
                changed += 1;
            }
        }
    }
    assert!(changed >= 1, "the row lies in some file");

    let scene = stopped.start().await;
    let client = scene.client().await;
    let all: Vec<String> = (0..AIRPORTS).map(airport).collect();
    // For long enough that everything that goes on by itself has met the block.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        let answer = client.get_online_features(read(&all, false)).await.expect("an answer");
        let column = &answer.columns[0];
        let values = match column.column.as_ref().and_then(|column| column.values.as_ref()) {
            Some(v1::column::Values::Float64s(values)) => &values.values,
            other => panic!("{other:?}"),
        };
        let present = i32::from(v1::CellStatus::Present);
        let mut damaged = 0;
        for (row, status) in column.statuses.iter().enumerate() {
            match *status {
                status if status == present => assert_eq!(values[row], row as f64),
                status => {
                    assert_eq!(status, i32::from(v1::CellStatus::Damaged), "{}\n{}", airport(row), scene.server.log());
                    damaged += 1;
                }
            }
        }
        assert_ne!(column.statuses[VICTIM], present, "a damaged block was served");
        assert!(damaged <= AIRPORTS / 2, "one damaged block made {damaged} of {AIRPORTS} rows unreadable");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_frame_of_the_log_stops_the_start_with_the_way_out_and_nothing_is_touched() {
    let stopped = stopped("").await;
    // A later request, so that the damaged one is not the last.
    let scene = stopped.start().await;
    let file = scene.parquet("more.parquet", airports(AIRPORTS..AIRPORTS + 10));
    scene.succeed(&["ingest", "weather", &file]);
    let stopped = scene.stop().await;
    let segments = with_extension(&stopped.data().join("log"), "seg");
    let [segment] = segments.as_slice() else { panic!("one segment: {segments:?}") };
    let place = places_of(mark(VICTIM).as_bytes(), segment)[0];
    change_byte(segment, place);
    let before = std::fs::read(segment).expect("readable");
    for _ in 0..2 {
        let refusal = stopped.setup.refusal();
        for told in [segment.to_str().expect("UTF-8"), "damaged at offset", "frame", "restore"] {
            assert!(refusal.contains(told), "'{told}' is not in: {refusal}");
        }
        assert_eq!(std::fs::read(segment).expect("readable"), before, "a refused start has changed the log");
    }
    change_byte(segment, place);
    let scene = stopped.start().await;
    assert_eq!(scene.temperature(&airport(VICTIM)), ("PRESENT".to_owned(), (VICTIM as f64).into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_acknowledged_frame_is_never_taken_for_a_torn_write() {
    let stopped = stopped("").await;
    let segments = with_extension(&stopped.data().join("log"), "seg");
    let [segment] = segments.as_slice() else { panic!("one segment: {segments:?}") };
    change_byte(segment, places_of(mark(VICTIM).as_bytes(), segment)[0]);
    let refusal = stopped.setup.refusal();
    assert!(refusal.contains("damaged") && refusal.contains(segment.to_str().expect("UTF-8")), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_torn_write_left_at_the_end_of_the_log_is_cut_off() {
    let stopped = stopped("").await;
    let segments = with_extension(&stopped.data().join("log"), "seg");
    let [segment] = segments.as_slice() else { panic!("one segment: {segments:?}") };
    let mut bytes = std::fs::read(segment).expect("readable");
    let whole = bytes.len();
    // The beginning of a frame, and no more of it.
    bytes.extend_from_within(..60);
    std::fs::write(segment, bytes).expect("written");
    let scene = stopped.start().await;
    assert_eq!(scene.temperature(&airport(VICTIM)).0, "PRESENT");
    assert_eq!(std::fs::metadata(segment).expect("there").len(), whole as u64);
    let file = scene.parquet("more.parquet", airports(AIRPORTS..AIRPORTS + 1));
    scene.succeed(&["ingest", "weather", &file]);
    assert_eq!(scene.temperature(&airport(AIRPORTS)).0, "PRESENT");
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_definitions_and_a_lost_clock_stop_the_start_naming_the_file() {
    for (file, told) in [("registry/registry.value", "registry"), ("log/clock", "clock")] {
        let stopped = stopped("").await;
        let path = stopped.data().join(file);
        let whole = std::fs::read(&path).expect("readable");
        let damaged: Vec<u8> = whole.iter().map(|byte| byte ^ 0x40).collect();
        std::fs::write(&path, &damaged).expect("written");
        let refusal = stopped.setup.refusal();
        assert!(refusal.contains(path.to_str().expect("UTF-8")) && refusal.contains(told), "{refusal}");
        assert_eq!(std::fs::read(&path).expect("readable"), damaged, "a refused start has changed {file}");
        std::fs::write(&path, &whole).expect("written");
        assert_eq!(stopped.start().await.temperature(&airport(VICTIM)).0, "PRESENT");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_page_of_history_is_data_loss_naming_the_file_and_online_reads_go_on() {
    let stopped = landed().await;
    let files = with_extension(&stopped.data().join("history"), "parquet");
    assert!(!files.is_empty(), "rows have landed");
    for file in &files {
        let mut bytes = std::fs::read(file).expect("readable");
        let length = bytes.len();
        let footer = u32::from_le_bytes(bytes[length - 8..length - 4].try_into().expect("four bytes")) as usize;
        for place in (4..length - 8 - footer).step_by(64) {
            bytes[place] ^= 0x40;
        }
        std::fs::write(file, bytes).expect("written");
    }
    let scene = stopped.start().await;
    history_is_refused(&scene, &files);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_history_that_was_cut_short_is_data_loss_naming_the_file() {
    let stopped = landed().await;
    let files = with_extension(&stopped.data().join("history"), "parquet");
    for file in &files {
        let bytes = std::fs::read(file).expect("readable");
        std::fs::write(file, &bytes[..bytes.len() * 2 / 3]).expect("written");
    }
    let scene = stopped.start().await;
    history_is_refused(&scene, &files);
}

#[track_caller]
fn history_is_refused(scene: &Scene, files: &[PathBuf]) {
    let spine = scene.parquet("spine.parquet", airports(0..AIRPORTS));
    let out = scene.path("out.parquet");
    let get =
        ["historical", "get", "--service", "model", "--spine", &spine, "--event-time", "event_timestamp", "-o", &out];
    let shown = scene.refused(&get);
    let name = |file: &PathBuf| file.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(files.iter().any(|file| shown.contains(&name(file))), "no file is named: {shown}");
    assert!(!Path::new(&out).exists() && scene.left_behind().is_empty(), "something is half-written");

    // An instant before the online row: history is asked, and says of the cell that it is damaged.
    let at = hydrant_at(START + VICTIM as i64 * HOUR - 1);
    let key = format!("origin={}", airport(VICTIM));
    let read = ["online", "get", "--service", "model", "--key", &key, "--at", &at, "-o", "json"];
    let shown: serde_json::Value = serde_json::from_str(&scene.succeed(&read)).expect("JSON");
    let cell = &shown["rows"][0]["features"]["airport_weather__temp"];
    assert_eq!((&cell["status"], &cell["value"]), (&"DAMAGED".into(), &serde_json::Value::Null), "{shown}");
    assert_eq!(scene.temperature(&airport(VICTIM)), ("PRESENT".to_owned(), (VICTIM as f64).into()));
}

fn hydrant_at(micros: i64) -> String {
    let time = chrono::DateTime::from_timestamp_micros(micros).expect("in range");
    time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}
