//! A disk without room: here no file may grow any more, which needs no small disk to be mounted.
//! Requests are refused whole, what was acknowledged stays, and with room again all goes on.

use std::time::{Duration, Instant};

use hydrant::error::Code;
use hydrant::rpc::client::{Client, Refusal};
use hydrant::rpc::v1;
use hydrant::rpc::v1::ingest_response::Outcome;
use hydrant::rpc::wire::columns::encode_column;

use crate::scene::{DEFINITIONS, START, Scene, airport, floats, strings, times};

const LIMIT: u64 = 2 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// One row with a long text, which nothing compresses.
fn request(number: usize) -> v1::IngestRequest {
    let mut state = number as u64;
    let mut letter = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        char::from(33 + u8::try_from((state >> 33) % 90).expect("below 90"))
    };
    let note: String = (0..100_000).map(|_| letter()).collect();
    let origin = airport(number);
    let columns = [
        ("origin", strings(&[Some(&origin)])),
        ("event_timestamp", times(&[Some(START)])),
        ("temp", floats(&[number as f64])),
        ("note", strings(&[Some(&note)])),
    ];
    let columns = columns.iter().map(|(name, column)| encode_column(name, column).expect("a type of Hydrant's"));
    v1::IngestRequest {
        source: "weather".to_owned(),
        producer: "filler".to_owned(),
        sequence: number as u64 + 1,
        rows: Some(v1::ingest_request::Rows::Columns(v1::Columns { columns: columns.collect() })),
        wait_visible: true,
        ..Default::default()
    }
}

/// Writes until the disk is full; how many requests were taken.
async fn fill(client: &Client) -> (usize, Refusal) {
    for number in 0..100 {
        if let Err(refusal) = client.ingest(request(number)).await {
            return (number, refusal);
        }
    }
    panic!("a hundred requests of 100 kB don't fill {LIMIT} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_requests_are_refused_whole_and_with_room_again_they_are_taken() {
    let scene = Scene::of(|setup| setup.file_limit(LIMIT)).await;
    scene.apply();
    let client = scene.client().await;
    let (taken, refusal) = fill(&client).await;
    assert!(taken > 10, "the disk was full after {taken} requests");
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::ResourceExhausted, "DISK_FULL"), "{refusal:?}");
    assert!(refusal.hint.is_some() && refusal.retry_after.is_some(), "{refusal:?}");
    let log = scene.setup.data().join("log");
    let size = || std::fs::metadata(log.join(format!("{:020}.seg", 1))).expect("the segment").len();
    let before = size();
    for _ in 0..3 {
        let refusal = client.ingest(request(taken)).await.expect_err("still full");
        assert_eq!(refusal.reason, "DISK_FULL");
        assert_eq!(size(), before, "a refused request has left something in the log");
    }
    assert_eq!(scene.temperature(&airport(taken - 1)), ("PRESENT".to_owned(), ((taken - 1) as f64).into()));
    assert_eq!(scene.temperature(&airport(taken)).0, "NOT_FOUND", "the refused request");

    scene.server.lift_file_limit();
    let answer = client.ingest(request(taken)).await.expect("there is room");
    assert_eq!(answer.outcome(), Outcome::Applied);
    assert_eq!(scene.temperature(&airport(taken)).0, "PRESENT");

    // All of it is durable.
    drop(client);
    let scene = scene.killed().start().await;
    let client = scene.client().await;
    for number in 0..=taken {
        let answer = client.ingest(request(number)).await.expect("known");
        assert_eq!(answer.outcome(), Outcome::AlreadyApplied, "request {number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_find_no_room_in_history_wait_and_land_later() {
    // Without a limit: more than may land at once.
    let scene = Scene::with_definitions("").await;
    let client = scene.client().await;
    for number in 0..40 {
        client.ingest(request(number)).await.expect("there is room");
    }
    let stopped = scene.stop().await;
    let folder = stopped.setup.clone();
    let setup = folder.config("[landing]\ninterval = \"50ms\"").file_limit(LIMIT);
    let server = setup.start().await;
    let client = server.client().await;
    let begun = Instant::now();
    while !server.log().contains("did not land") {
        assert!(begun.elapsed() < PATIENCE, "the landing does not fail:\n{}", server.log());
        assert_eq!(training_set(&client).await.0, 40, "it serves on");
    }
    let (rows, waiting) = training_set(&client).await;
    assert_eq!((rows, waiting), (40, 40), "what did not land waits");
    server.lift_file_limit();
    let begun = Instant::now();
    while training_set(&client).await.1 > 0 {
        assert!(begun.elapsed() < PATIENCE, "the rows don't land:\n{}", server.log());
    }
    assert_eq!(training_set(&client).await, (40, 0));
    server.stop().await;
    drop(stopped);
}

/// How many airports have a temperature, and how many rows of the answer came from the tail.
async fn training_set(client: &Client) -> (usize, u64) {
    use arrow_array::Array as _;
    let origins: Vec<String> = (0..40).map(airport).collect();
    let origins = strings(&origins.iter().map(|origin| Some(origin.as_str())).collect::<Vec<_>>());
    let columns = [("origin", origins), ("at", times(&[Some(START); 40]))];
    let spine = arrow_array::RecordBatch::try_from_iter(columns).expect("columns of one length");
    let command = v1::HistoricalFeaturesCommand {
        services: vec!["model".to_owned()],
        event_time: "at".to_owned(),
        ..Default::default()
    };
    let set = client.training_set(command, spine.schema(), tokio_stream::iter([Ok(spine)])).await;
    let mut set = set.expect("a training set");
    let mut found = 0;
    while let Some(batch) = set.next().await.expect("rows") {
        let temps = batch.column_by_name("airport_weather__temp").expect("a feature");
        found += temps.len() - temps.null_count();
    }
    (found, set.report().expect("it came with the end").tables[0].tail_rows)
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_that_find_no_room_are_refused_and_the_old_ones_stay() {
    // Room for the log's and the store's beginnings, and for little more in one file.
    let scene = Scene::of(|setup| setup.file_limit(64 << 10)).await;
    scene.apply();
    let service = |number: usize| {
        let description = "x".repeat(4_000);
        format!(
            "---\napiVersion: hydrant/v1\nkind: FeatureService\nmetadata: {{name: model_{number}, description: {description}}}\n\
             spec: {{features: [airport_weather]}}\n"
        )
    };
    let many: String = (0..40).map(service).collect();
    let file = scene.file("many.yaml", &format!("{DEFINITIONS}{many}"));
    let error = scene.refused_json(&["apply", "-f", &file]);
    let message = error["message"].as_str().expect("text");
    assert!(message.contains("registry"), "{error}");
    let services = scene.succeed(&["get", "services", "-o", "json"]);
    assert!(services.contains("\"model\"") && !services.contains("model_0"), "{services}");
    scene.ingest_airports(2);
    scene.server.lift_file_limit();
    scene.succeed(&["apply", "-f", &file]);
    assert!(scene.succeed(&["get", "services", "-o", "json"]).contains("model_39"));
    assert_eq!(scene.temperature("A001").0, "PRESENT");
}
