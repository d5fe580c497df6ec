//! Streams of online reads: many keys in one request, answered piece by piece.

use std::fs::File;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::cast::AsArray as _;
use arrow_array::types::Float64Type;
use arrow_array::{ArrayRef, RecordBatch, StringArray};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use hydrant::config::{ByteSize, Span};
use hydrant::error::Code;
use hydrant::registry::documents;
use hydrant::rpc::client::Refusal;
use hydrant::rpc::v1;
use hydrant::rpc::wire::ipc::decode_single_batch;
use hydrant::tenancy::{Action, Class, Demand, Identity, Limits, Quota};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::json;

use crate::support::{NOON, PATIENCE, TestServer, ingest_request, read_request, weather_batch};

/// Airports of which every third has a temperature, its number.
const AIRPORTS: usize = 10_000;

type Answers = BoxStream<'static, Result<v1::GetOnlineFeaturesResponse, Refusal>>;

fn airport(number: usize) -> String {
    format!("airport {number}")
}

fn read_of(numbers: std::ops::Range<usize>) -> v1::GetOnlineFeaturesRequest {
    let origins: Vec<String> = numbers.map(airport).collect();
    read_request(&origins.iter().map(String::as_str).collect::<Vec<_>>())
}

async fn with_airports() -> TestServer {
    with_airports_and(|_| {}).await
}

async fn with_airports_and(change: impl FnOnce(&mut hydrant::config::Config)) -> TestServer {
    let server = TestServer::start_with(change).await;
    server.apply_weather().await;
    let numbers: Vec<usize> = (0..AIRPORTS).step_by(3).collect();
    let origins: Vec<String> = numbers.iter().map(|number| airport(*number)).collect();
    let origins: Vec<Option<&str>> = origins.iter().map(|origin| Some(origin.as_str())).collect();
    let temps: Vec<f64> = numbers.iter().map(|number| *number as f64).collect();
    let rows = weather_batch(&origins, &vec![NOON; origins.len()], &temps);
    server.client.ingest(ingest_request(&rows)).await.expect("good rows");
    server
}

async fn stream(server: &TestServer, request: v1::GetOnlineFeaturesRequest, batch_size: u32) -> Answers {
    let request = v1::StreamOnlineFeaturesRequest { request: Some(request), batch_size, unpinned: false };
    server.client.stream_online_features(request).await.expect("a stream")
}

async fn refused(server: &TestServer, request: v1::StreamOnlineFeaturesRequest) -> Refusal {
    match server.client.stream_online_features(request).await {
        Err(refusal) => refusal,
        Ok(mut answers) => answers.next().await.expect("an end").expect_err("a refusal"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_answers_piece_by_piece_what_single_reads_answer_as_of_its_instant() {
    let server = with_airports().await;
    let mut request = read_of(0..AIRPORTS);
    request.include_event_times = true;
    let mut answers = stream(&server, request.clone(), 0).await;
    let first = answers.next().await.expect("a first answer").expect("no refusal");
    let t = first.provenance.as_ref().expect("always told").t;
    // What happens after that instant is in no answer of the stream.
    let last = airport(AIRPORTS - 1);
    let newer = weather_batch(&[Some(&last)], &[t + 1], &[-1.0]);
    server.client.ingest(ingest_request(&newer)).await.expect("good rows");
    let mut all = vec![first];
    while let Some(answer) = answers.next().await {
        all.push(answer.expect("no refusal"));
    }
    assert_eq!(all.len(), AIRPORTS / 1_000);
    for (piece, answer) in all.iter().enumerate() {
        let rows = piece * 1_000..(piece + 1) * 1_000;
        assert_eq!((answer.first_row, answer.rows), (rows.start as u64, 1_000));
        let mut single = read_of(rows);
        (single.at, single.include_event_times) = (Some(t), true);
        let single = server.client.get_online_features(single).await.expect("an answer");
        let provenance = |answer: &v1::GetOnlineFeaturesResponse| answer.provenance.clone().expect("always told");
        assert_eq!(provenance(answer).t, t);
        assert_eq!(provenance(answer).rows_from_history, provenance(&single).rows_from_history);
        assert_eq!((&answer.columns, &answer.services), (&single.columns, &single.services), "piece {piece}");
        assert_eq!(answer.event_times, single.event_times, "piece {piece}");
    }
    let from_history = all.last().and_then(|answer| answer.provenance.as_ref()).map(|told| told.rows_from_history);
    assert_eq!(from_history, Some(1), "the airport with a newer row");

    request.format = v1::AnswerFormat::ArrowIpc.into();
    request.at = Some(t);
    let mut answers = stream(&server, request, 777).await;
    let mut temps = Vec::new();
    while let Some(answer) = answers.next().await {
        let answer = answer.expect("no refusal");
        assert_eq!(answer.first_row, temps.len() as u64);
        let batch = decode_single_batch(&answer.arrow_ipc, 1 << 24, 1_000).expect("one batch");
        assert_eq!(batch.column(0).as_string::<i32>().value(0), airport(temps.len()));
        temps.extend(batch.column(1).as_primitive::<Float64Type>().iter());
    }
    let expected = |number: usize| number.is_multiple_of(3).then_some(number as f64);
    assert_eq!(temps, (0..AIRPORTS).map(expected).collect::<Vec<_>>());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_rows_has_one_answer_that_tells_its_columns() {
    let server = with_airports().await;
    let request = v1::GetOnlineFeaturesRequest { format: v1::AnswerFormat::ArrowIpc.into(), ..read_of(0..0) };
    let answers: Vec<_> = stream(&server, request, 0).await.collect().await;
    let [Ok(answer)] = answers.as_slice() else { panic!("one answer: {answers:?}") };
    let batch = decode_single_batch(&answer.arrow_ipc, 1 << 20, 1).expect("one batch");
    assert_eq!((answer.rows, batch.num_rows(), batch.num_columns()), (0, 0, 2));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_read_than_a_client_takes_and_one_that_hangs_up_gives_its_place_back() {
    const KEYS: usize = 100_000;
    let server = with_airports_and(|config| config.serving.max_streams = 1).await;
    // All answers together are far more than what a client takes that doesn't read on.
    let arrow = v1::AnswerFormat::ArrowIpc.into();
    let request = v1::GetOnlineFeaturesRequest { format: arrow, with_status: true, ..read_of(0..KEYS) };
    let mut answers = stream(&server, request, 10).await;
    answers.next().await.expect("a first answer").expect("no refusal");
    let second =
        v1::StreamOnlineFeaturesRequest { request: Some(read_of(0..10)), ..v1::StreamOnlineFeaturesRequest::default() };
    let refusal = refused(&server, second.clone()).await;
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::ResourceExhausted, "TOO_MANY_STREAMS"));
    assert!(refusal.retry_after.is_some());
    drop(answers);
    let given_back = async {
        loop {
            if let Ok(mut answers) = server.client.stream_online_features(second.clone()).await
                && answers.next().await.is_some_and(|answer| answer.is_ok())
            {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, given_back).await.expect("the place is given back");
    let (_, metrics) = server.http("/metrics").await;
    let read = metrics.lines().find_map(|line| line.strip_prefix("hydrant_serving_keys_read_total"));
    let read: f64 = read.and_then(|line| line.rsplit(' ').next()?.parse().ok()).expect("it is counted");
    assert!(read < KEYS as f64 / 2.0, "{read} keys were read for one answer of 10");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_client_takes_nothing_gives_its_place_back_and_says_so_when_it_reads_on() {
    let server = with_airports_and(|config| {
        config.serving.max_streams = 1;
        config.serving.stream_idle_time = Span(Duration::from_millis(200));
    })
    .await;
    // All answers together are far more than what HTTP/2 has room for.
    let arrow = v1::AnswerFormat::ArrowIpc.into();
    let request = v1::GetOnlineFeaturesRequest { format: arrow, with_status: true, ..read_of(0..100_000) };
    let mut stands_still = stream(&server, request, 10).await;
    stands_still.next().await.expect("a first answer").expect("no refusal");
    let second =
        v1::StreamOnlineFeaturesRequest { request: Some(read_of(0..10)), ..v1::StreamOnlineFeaturesRequest::default() };
    let given_back = async {
        while server.client.stream_online_features(second.clone()).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, given_back).await.expect("the place is given back");
    let mut answered = 10;
    let refusal = loop {
        match stands_still.next().await.expect("it ends with a refusal") {
            Ok(answer) => answered += answer.rows as usize,
            Err(refusal) => break refusal,
        }
    };
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::DeadlineExceeded, "STREAM_STANDS_STILL"));
    let told = refusal.metadata.iter().find(|(key, _)| key == "first_row").map(|(_, row)| row.clone());
    assert_eq!(told, Some(answered.to_string()), "where to go on");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_in_the_middle_tells_how_far_it_came_and_the_rest_can_be_asked_for() {
    let server = with_airports().await;
    let default = "default".parse().expect("a name");
    server.tenancy.set_limits(&default, Limits::default().with(Quota::KeysPerSecond, 10));
    let mut answers = stream(&server, read_of(0..1_000), 5).await;
    let (mut answered, mut t) = (0, None);
    let refusal = loop {
        match answers.next().await.expect("it ends with a refusal") {
            Ok(answer) => {
                answered += answer.rows as usize;
                t = answer.provenance.map(|told| told.t);
            }
            Err(refusal) => break refusal,
        }
    };
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::ResourceExhausted, "QUOTA_EXCEEDED"));
    assert!(refusal.retry_after.is_some() && answered >= 10, "{answered}: {refusal:?}");
    let told = refusal.metadata.iter().find(|(key, _)| key == "first_row").map(|(_, row)| row.clone());
    assert_eq!(told, Some(answered.to_string()));
    assert!(answers.next().await.is_none());

    server.tenancy.set_limits(&default, Limits::default());
    let rest = v1::GetOnlineFeaturesRequest { at: t, ..read_of(answered..1_000) };
    let rest: Vec<_> = stream(&server, rest, 100).await.collect().await;
    let rows: u32 = rest.iter().map(|answer| answer.as_ref().expect("no refusal").rows).sum();
    assert_eq!(rows as usize, 1_000 - answered);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_beyond_the_limit_of_messages_ends_the_stream() {
    let server = TestServer::start_with(|config| config.server.grpc_max_message = ByteSize(64 << 10)).await;
    server.apply_weather().await;
    let mut request = read_request(&vec![""; 12_000]);
    request.include_event_times = true;
    let of =
        |batch_size| v1::StreamOnlineFeaturesRequest { request: Some(request.clone()), batch_size, unpinned: false };
    assert_eq!(refused(&server, of(10_000)).await.reason, "MESSAGE_TOO_LARGE");
    let answers: Vec<_> = server.client.stream_online_features(of(1_000)).await.expect("a stream").collect().await;
    assert!(answers.len() == 12 && answers.iter().all(Result::is_ok));
    server.stop().await;
}

/// The temperatures of all airports, as the command scores a file of them.
async fn score(server: &TestServer, options: &[&str]) -> Vec<Option<f64>> {
    let names: ArrayRef = Arc::new(StringArray::from_iter_values((0..AIRPORTS).map(airport)));
    let keys = RecordBatch::try_from_iter([("origin", names)]).expect("a column");
    let (file, out) = (server.directory.path().join("keys.parquet"), server.directory.path().join("out.parquet"));
    let mut writer = ArrowWriter::try_new(File::create(&file).expect("created"), keys.schema(), None).expect("begun");
    writer.write(&keys).expect("written");
    writer.close().expect("finished");
    let mut command = Command::new(env!("CARGO_BIN_EXE_hydrant"));
    command
        .args(["online", "score", "--service", "delay_model"])
        .env("HYDRANT_SERVER", server.addresses.grpc.to_string());
    command.arg("--keys").arg(&file).arg("-o").arg(&out).args(options);
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let batches = ParquetRecordBatchReaderBuilder::try_new(File::open(&out).expect("there")).expect("Parquet");
    let mut temps = Vec::new();
    for batch in batches.build().expect("readable") {
        temps.extend(batch.expect("sound").column(1).as_primitive::<Float64Type>().iter());
    }
    temps
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_scored_in_requests_that_are_as_small_as_the_server_wants_them() {
    // Enough for the temperatures, and too little for the names of all airports.
    let server = with_airports_and(|config| config.server.grpc_max_message = ByteSize(112 << 10)).await;
    assert_eq!(
        refused(&server, v1::StreamOnlineFeaturesRequest { request: Some(read_of(0..AIRPORTS)), ..Default::default() })
            .await
            .reason,
        "MESSAGE_TOO_LARGE"
    );
    let temps = score(&server, &[]).await;
    let expected: Vec<_> = (0..AIRPORTS).map(|number| (number % 3 == 0).then_some(number as f64)).collect();
    assert_eq!(temps, expected);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_scored_although_beginning_a_stream_takes_of_a_small_quota_as_well() {
    let server = with_airports().await;
    let default = "default".parse().expect("a name");
    // A second's worth is there at once, and then one request every 50 ms: as much as beginning takes.
    server.tenancy.set_limits(&default, Limits::default().with(Quota::RequestsPerSecond, 20));
    let temps = tokio::time::timeout(PATIENCE, score(&server, &["--batch-size", "400"])).await.expect("it ends");
    assert_eq!(temps.len(), AIRPORTS);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_wait_behind_online_reads_and_beside_training_sets() {
    let server = with_airports_and(|config| config.history.max_joins = 1).await;
    let offline = server.tenancy.admit(&Identity::loopback(), Action::ReadHistory, Demand::default()).await;
    let request =
        v1::StreamOnlineFeaturesRequest { request: Some(read_of(0..10)), ..v1::StreamOnlineFeaturesRequest::default() };
    let client = server.client.clone();
    let waiting = tokio::spawn(async move { client.stream_online_features(request).await });
    let waits = async {
        while server.tenancy.waiting(Class::Training) == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waits).await.expect("the only place of offline work is taken");
    server.client.get_online_features(read_of(0..10)).await.expect("inference is not held up by either");
    drop(offline.expect("the only place"));
    let answers = waiting.await.expect("it ends").expect("its turn came");
    assert_eq!(answers.count().await, 1);
    assert_eq!((server.tenancy.in_flight(Class::Training), server.tenancy.waiting(Class::Training)), (0, 0));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_without_history_is_read_in_pieces_of_their_own_instants_or_not_at_all() {
    let server = with_airports().await;
    let view = json!({"apiVersion": "hydrant/v1", "kind": "FeatureView", "metadata": {"name": "weather_now"},
        "spec": {"entities": ["airport"], "source": "weather", "offline": false, "features": [{"name": "temp"}]}});
    let view = documents::from_json(&view).expect("a definition");
    server.client.create_definition(&view).await.expect("it fits");
    let request = v1::GetOnlineFeaturesRequest {
        services: Vec::new(),
        features: vec!["weather_now:temp".to_owned()],
        ..read_of(0..10)
    };
    let of = |unpinned| v1::StreamOnlineFeaturesRequest { request: Some(request.clone()), batch_size: 4, unpinned };
    let refusal = refused(&server, of(false)).await;
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::FailedPrecondition, "VIEW_WITHOUT_HISTORY"));
    assert!(refusal.hint.is_some_and(|hint| hint.contains("unpinned")));
    let answers: Vec<_> = server.client.stream_online_features(of(true)).await.expect("a stream").collect().await;
    let times: Vec<i64> = answers
        .iter()
        .map(|answer| answer.as_ref().expect("no refusal").provenance.as_ref().expect("always told").t)
        .collect();
    assert!(times.len() == 3 && times.is_sorted(), "{times:?}");
    server.stop().await;
}
