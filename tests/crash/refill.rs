//! kill -9 while a view is refilled from history, since its ttl was raised: it goes on after every start,
//! and until it has ended every key is answered by the old ttl, and then every key by the new one.

use std::sync::Arc;
use std::time::Duration;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use hydrant::clock::{Clock as _, SystemClock};
use hydrant::registry::definition::Definition;
use hydrant::registry::documents;
use hydrant::rpc::client::Client;
use hydrant::rpc::v1;
use hydrant::rpc::v1::column::Values;
use hydrant::rpc::wire::columns::encode_column;
use serde_json::json;

use crate::process::{PATIENCE, Setup};
use crate::random::Random;
use crate::rows;

/// Rows land at once, so that there is a history to refill from.
const CONFIG: &str = r#"
[storage]
partitions = 4
[partitions]
flush_interval = "100ms"
[landing]
tail = "64KiB"
interval = "100ms"
"#;

const SOURCE: &str = "clicks";
const KEYS: usize = 20_000;
const ROWS_OF_A_REQUEST: usize = 1_000;
/// Bytes of a value that is never read: with them a refill lasts longer than the first waits for a kill.
const TITLE: usize = 2_048;
/// How old each key's row is, in microseconds: older than the first ttl, younger than the second.
const AGE: i64 = 7_200_000_000;
const OLD_TTL: &str = "1h";
const NEW_TTL: &str = "30d";

/// What a read of all keys found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    AllExpired,
    AllPresent,
}

pub async fn is_refilled_however_often_it_is_killed(seed: u64) {
    let mut random = Random::new(seed);
    let folder = tempfile::tempdir().expect("a folder");
    let setup = Setup::new(folder.path()).config(CONFIG);
    let server = setup.start().await;
    let client = server.client().await;
    client.apply(&definitions(OLD_TTL), None).await.expect("they fit");
    let written = write(&client).await;
    assert_eq!(read_all(&client, &written).await, Seen::AllExpired, "older than its ttl");
    client.apply(&definitions(NEW_TTL), None).await.expect("a longer ttl");
    server.kill();

    let mut kills_before_the_end = 0;
    let begun = std::time::Instant::now();
    let mut least_wait = 0_usize;
    loop {
        assert!(begun.elapsed() < PATIENCE * 2, "it is never refilled");
        let server = setup.start().await;
        let client = server.client().await;
        // Each time a little later, so that some kills fall on every part of the work; the first one at once.
        let wait = Duration::from_millis(random.below(least_wait + 1) as u64 + least_wait as u64);
        tokio::time::sleep(wait).await;
        least_wait += 10;
        let seen = read_all(&client, &written).await;
        server.kill();
        match seen {
            Seen::AllExpired => kills_before_the_end += 1,
            Seen::AllPresent => break,
        }
    }
    assert!(kills_before_the_end > 0, "it had ended before it was killed, which was to be tested");
    // And it stays so.
    let server = setup.start().await;
    assert_eq!(read_all(&server.client().await, &written).await, Seen::AllPresent);
    server.stop().await;
}

fn definitions(ttl: &str) -> Vec<Definition> {
    let documents = [
        json!({"apiVersion": "hydrant/v1", "kind": "Entity", "metadata": {"name": "visitor"},
               "spec": {"joinKeys": [{"name": "visitor", "type": "int64"}]}}),
        json!({"apiVersion": "hydrant/v1", "kind": "Source", "metadata": {"name": SOURCE},
               "spec": {"type": "push", "eventTime": "clicked_at", "knownTime": "event",
                        "columns": [{"name": "visitor", "type": "int64"}, {"name": "clicked_at", "type": "timestamp"},
                                    {"name": "page", "type": "int64"}, {"name": "title", "type": "string"}]}}),
        json!({"apiVersion": "hydrant/v1", "kind": "FeatureView", "metadata": {"name": "last_click"},
               "spec": {"entities": ["visitor"], "source": SOURCE, "ttl": ttl, "features": [{"name": "page"}, {"name": "title"}]}}),
    ];
    documents.iter().map(|document| documents::from_json(document).expect("a definition")).collect()
}

/// One row of each key; told is where the last of them stand in the log.
async fn write(client: &Client) -> v1::Position {
    let clicked_at = SystemClock.now() - AGE;
    let mut written = None;
    for (sequence, first) in (0..KEYS).step_by(ROWS_OF_A_REQUEST).enumerate() {
        let visitors = first as i64..(first + ROWS_OF_A_REQUEST) as i64;
        let pages: ArrayRef = Arc::new(Int64Array::from_iter_values(visitors.clone().map(page_of)));
        let times = TimestampMicrosecondArray::from_iter_values(visitors.clone().map(|_| clicked_at));
        let titles = StringArray::from_iter_values(visitors.clone().map(|visitor| format!("{visitor:TITLE$}")));
        let columns: [(&str, ArrayRef); 4] = [
            ("visitor", Arc::new(Int64Array::from_iter_values(visitors))),
            ("clicked_at", Arc::new(times.with_timezone("UTC"))),
            ("page", pages),
            ("title", Arc::new(titles)),
        ];
        let columns = rows::columns(&RecordBatch::try_from_iter(columns).expect("columns of one length"));
        let request = v1::IngestRequest {
            source: SOURCE.to_owned(),
            producer: "clicks".to_owned(),
            sequence: sequence as u64 + 1,
            rows: Some(v1::ingest_request::Rows::Columns(v1::Columns { columns })),
            ..Default::default()
        };
        written = client.ingest(request).await.expect("rows that fit").position;
    }
    written.expect("a durable request has a position")
}

fn page_of(visitor: i64) -> i64 {
    visitor * 7 + 1
}

/// Reads every key at one instant, in one request; all of one status, and with their own values.
async fn read_all(client: &Client, written: &v1::Position) -> Seen {
    let visitors: ArrayRef = Arc::new(Int64Array::from_iter_values(0..KEYS as i64));
    let request = v1::GetOnlineFeaturesRequest {
        features: vec!["last_click:page".to_owned()],
        entities: vec![encode_column("visitor", &visitors).expect("int64s")],
        at_least: Some(written.clone()),
        strict: true,
        ..Default::default()
    };
    let answer = client.get_online_features(request).await.expect("an answer");
    let [column] = answer.columns.as_slice() else { panic!("one feature, {} columns", answer.columns.len()) };
    let of_one = |status: v1::CellStatus| column.statuses.iter().all(|told| *told == status as i32);
    assert!(!column.statuses.is_empty());
    if of_one(v1::CellStatus::Expired) {
        return Seen::AllExpired;
    }
    let count = |status: v1::CellStatus| column.statuses.iter().filter(|told| **told == status as i32).count();
    let (present, expired) = (count(v1::CellStatus::Present), count(v1::CellStatus::Expired));
    let all = column.statuses.len();
    assert!(of_one(v1::CellStatus::Present), "of {all} keys {present} are there and {expired} expired");
    match column.column.as_ref().and_then(|column| column.values.as_ref()) {
        Some(Values::Int64s(pages)) => {
            assert!(pages.values.iter().copied().eq((0..KEYS as i64).map(page_of)), "other values than were written");
        }
        other => panic!("{other:?}"),
    }
    Seen::AllPresent
}
