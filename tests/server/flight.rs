//! Arrow Flight: training sets, bulk ingest, what there is, and odd uploads.

use std::sync::Arc;
use std::time::Duration;

use arrow_array::cast::AsArray as _;
use arrow_array::types::Float64Type;
use arrow_array::{ArrayRef, Int32Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_flight::{Criteria, FlightData, FlightDescriptor, Ticket};
use futures::StreamExt as _;
use hydrant::error::Code;
use hydrant::rpc::client::Refusal;
use hydrant::rpc::status::from_status;
use hydrant::rpc::v1;
use tonic::Request;

use crate::support::{HOUR, NOON, PATIENCE, TestServer, read_request, weather_batch, weather_rows};

fn spine(origins: &[Option<&str>], times: &[i64]) -> RecordBatch {
    let rows: ArrayRef = Arc::new(Int32Array::from_iter_values(0..i32::try_from(times.len()).expect("few")));
    let origins: ArrayRef = Arc::new(origins.iter().copied().collect::<StringArray>());
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(times.to_vec()).with_timezone("UTC"));
    RecordBatch::try_from_iter([("row", rows), ("origin", origins), ("asked_at", times)]).expect("a batch")
}

fn command() -> v1::HistoricalFeaturesCommand {
    v1::HistoricalFeaturesCommand {
        services: vec!["delay_model".to_owned()],
        event_time: "asked_at".to_owned(),
        with_status: true,
        ..Default::default()
    }
}

async fn training_set(
    server: &TestServer,
    command: v1::HistoricalFeaturesCommand,
    spine: Vec<RecordBatch>,
) -> Result<(Vec<RecordBatch>, v1::TrainingSetReport), Refusal> {
    let schema = spine[0].schema();
    let batches = tokio_stream::iter(spine.into_iter().map(Ok));
    let mut set = server.client.training_set(command, schema, batches).await?;
    let mut rows = Vec::new();
    while let Some(batch) = set.next().await? {
        rows.push(batch);
    }
    let report = set.report().cloned().expect("it came with the end");
    Ok((rows, report))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spine_comes_back_in_its_order_with_its_features_and_a_report() {
    let server = TestServer::start().await;
    server.apply_weather().await;
    server.ingest_weather().await;
    let origins = [Some("JFK"), Some("EWR"), None, Some("EWR"), Some("EWR")];
    let times = [NOON + 5, NOON + HOUR, NOON, NOON + HOUR - 1, NOON - 1];
    let (rows, report) = training_set(&server, command(), vec![spine(&origins, &times)]).await.expect("a training set");
    let rows = arrow_select::concat::concat_batches(&rows[0].schema(), &rows).expect("one schema");
    assert_eq!(rows.num_rows(), 5);
    let names: Vec<String> = rows.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names[..4], ["row", "origin", "asked_at", "airport_weather__temp"]);
    let temps: Vec<Option<f64>> = rows.column(3).as_primitive::<Float64Type>().iter().collect();
    assert_eq!(temps, [Some(40.5), Some(37.25), None, Some(39.0), None]);
    assert_eq!((report.rows, report.row_view_pairs, report.services.len()), (5, 5, 1));
    assert!(!report.spine_hash.is_empty() && !report.content_hash.is_empty());

    let again = v1::HistoricalFeaturesCommand { cutoff: Some(report.cutoff), ..command() };
    let (_, second) = training_set(&server, again, vec![spine(&origins, &times)]).await.expect("the same again");
    assert_eq!((second.content_hash, second.spine_hash), (report.content_hash, report.spine_hash));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spine_without_rows_comes_back_without_rows() {
    let server = TestServer::start().await;
    server.apply_weather().await;
    let (rows, report) = training_set(&server, command(), vec![spine(&[], &[])]).await.expect("an empty training set");
    assert_eq!((rows.len(), report.rows), (0, 0));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_spine_is_refused_naming_what_is_wrong() {
    let server = TestServer::start().await;
    server.apply_weather().await;
    let spine = spine(&[Some("EWR")], &[NOON]);
    let renamed = RecordBatch::try_from_iter([("asked_at", spine.column(2).clone())]).expect("a batch");
    let no_time = v1::HistoricalFeaturesCommand { event_time: "when".to_owned(), ..command() };
    let nobody = v1::HistoricalFeaturesCommand { services: vec!["nobody".to_owned()], ..command() };
    for (command, spine, code, named) in [
        (command(), renamed, Code::InvalidArgument, "origin"),
        (no_time, spine.clone(), Code::InvalidArgument, "when"),
        (nobody, spine, Code::NotFound, "nobody"),
    ] {
        let refusal = training_set(&server, command, vec![spine]).await.expect_err("refused");
        assert_eq!(refusal.code, code, "{refusal:?}");
        let places = refusal.violations.iter().map(|violation| format!("{} {}", violation.path, violation.message));
        let told: String = places.chain([refusal.message.clone()]).collect();
        assert!(told.contains(named), "{refusal:?}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_batch_put_is_a_request_of_its_own_and_the_first_refusal_ends_the_stream() {
    let server = TestServer::start().await;
    server.apply_weather().await;
    let command = v1::IngestCommand {
        source: "weather".to_owned(),
        producer: "bulk".to_owned(),
        first_sequence: 10,
        ..Default::default()
    };
    let put = |batches: Vec<RecordBatch>| {
        let (client, command) = (server.client.clone(), command.clone());
        async move {
            let batches = tokio_stream::iter(batches.into_iter().map(Ok));
            let answers = client.put(command, weather_rows().schema(), batches).await.expect("a stream");
            answers.collect::<Vec<_>>().await
        }
    };
    let good = weather_rows();
    let bad = weather_batch(&[None], &[NOON], &[1.0]);
    let answers = put(vec![good.clone(), bad, good.clone()]).await;
    assert_eq!(answers.len(), 2);
    let first = answers[0].as_ref().expect("good rows");
    assert_eq!((first.rows, first.outcome()), (3, v1::ingest_response::Outcome::Applied));
    let refusal = answers[1].as_ref().expect_err("a row that is part of no view");
    assert!(refusal.message.starts_with("batch 1:"), "{refusal}");

    let again = put(vec![good]).await;
    assert_eq!(again[0].as_ref().expect("the same").outcome(), v1::ingest_response::Outcome::AlreadyApplied);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_put_in_bulk_can_be_read_at_once_by_a_client_that_waits_for_that() {
    let server = TestServer::start().await;
    server.apply_weather().await;
    for round in 0..10 {
        let command = v1::IngestCommand { source: "weather".to_owned(), wait_visible: true, ..Default::default() };
        let batch = weather_batch(&[Some("EWR")], &[NOON + round], &[30.0]);
        let batches = tokio_stream::iter([Ok(batch.clone())]);
        let answers = server.client.put(command, batch.schema(), batches).await.expect("a stream");
        let answers: Vec<_> = answers.collect().await;
        assert!(answers[0].is_ok(), "{answers:?}");
        let mut request = read_request(&["EWR"]);
        request.include_event_times = true;
        let answer = server.client.get_online_features(request).await.expect("an answer");
        assert_eq!(answer.event_times[0].micros, [NOON + round], "round {round}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flights_tell_sources_views_and_services_with_their_schemas() {
    let server = TestServer::start().await;
    server.apply_weather().await;
    let mut flight = server.client.flight().await.expect("it listens");
    let flights = flight.list_flights(Criteria::default()).await.expect("a list").into_inner();
    let flights: Vec<_> = flights.map(|info| info.expect("told")).collect().await;
    let paths: Vec<String> =
        flights.iter().map(|info| info.flight_descriptor.as_ref().expect("a descriptor").path.join("/")).collect();
    assert_eq!(paths, ["source/weather", "view/airport_weather", "service/delay_model"]);
    for (path, columns) in [
        (["source", "weather"], vec!["origin", "event_timestamp", "temp"]),
        (["view", "airport_weather"], vec!["origin", "temp"]),
        (["service", "delay_model@1"], vec!["origin", "airport_weather__temp"]),
    ] {
        let descriptor = FlightDescriptor::new_path(path.map(str::to_owned).to_vec());
        let schema = flight.get_schema(descriptor.clone()).await.expect("it is there").into_inner();
        let schema = arrow_schema::Schema::try_from(&schema).expect("a schema");
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names, columns);
        let info = flight.get_flight_info(descriptor).await.expect("it is there").into_inner();
        assert_eq!(info.try_decode_schema().expect("a schema"), schema);
    }
    let nothing = FlightDescriptor::new_path(vec!["view".to_owned(), "nothing".to_owned()]);
    let refusal = from_status(&flight.get_schema(nothing).await.expect_err("there is none"));
    assert!(refusal.code == Code::NotFound && refusal.message.contains("nothing"), "{refusal:?}");
    let refusal = from_status(&flight.do_get(Ticket::default()).await.map(drop).expect_err("that is no ticket"));
    assert!(refusal.reason == "BAD_TICKET" && refusal.hint.is_some(), "{refusal:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_uploads_are_refused_and_the_server_goes_on() {
    let server = TestServer::start().await;
    server.apply_weather().await;
    let mut flight = server.client.flight().await.expect("it listens");
    let described =
        |data: FlightData| data.with_descriptor(FlightDescriptor::new_path(vec!["source".into(), "weather".into()]));
    let garbage = FlightData::new().with_data_header(vec![7; 64]).with_data_body(vec![9; 64]);
    for upload in [
        Vec::new(),
        vec![FlightData::new()],
        vec![FlightData::new().with_descriptor(FlightDescriptor::new_cmd("nonsense"))],
        vec![described(garbage.clone())],
        vec![described(FlightData::new()), garbage],
    ] {
        let exchanged = flight.do_exchange(Request::new(tokio_stream::iter(upload.clone()))).await;
        let exchanged = match exchanged {
            Ok(answer) => answer.into_inner().message().await.map(drop),
            Err(status) => Err(status),
        };
        assert_eq!(from_status(&exchanged.expect_err("refused")).code, Code::InvalidArgument);
        let put = match flight.do_put(Request::new(tokio_stream::iter(upload.clone()))).await {
            Ok(answers) => answers.into_inner().message().await.map(|answer| answer.is_some()),
            Err(status) => Err(status),
        };
        match put {
            Ok(acknowledged) => assert!(!acknowledged, "nothing was sent: {upload:?}"),
            Err(status) => assert_eq!(from_status(&status).code, Code::InvalidArgument, "{status:?}"),
        }
    }
    server.ingest_weather().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_in_the_middle_of_its_spine_gives_its_place_back() {
    let server = TestServer::start_with(|config| config.history.max_joins = 1).await;
    server.apply_weather().await;
    let spine = spine(&[Some("EWR")], &[NOON]);
    for _ in 0..3 {
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let (client, schema) = (server.client.clone(), spine.schema());
        let batches = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let exchange = tokio::spawn(async move { client.training_set(command(), schema, batches).await.map(drop) });
        sender.send(Ok(spine.clone())).await.expect("taken");
        exchange.abort();
    }
    let joined = async {
        while training_set(&server, command(), vec![spine.clone()]).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, joined).await.expect("the place is given back");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_stands_still_is_given_up() {
    let server = TestServer::start_with(|config| config.server.idle_time = "50ms".parse().expect("a duration")).await;
    server.apply_weather().await;
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<RecordBatch, Refusal>>(1);
    let batches = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let stalled = server.client.training_set(command(), spine(&[], &[]).schema(), batches).await.map(drop);
    let refusal = stalled.expect_err("nothing was ever sent");
    assert_eq!(refusal.reason, "UPLOAD_STANDS_STILL", "{refusal:?}");
    drop(sender);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_s_deadline_is_honoured() {
    let server = TestServer::start().await;
    server.apply_weather().await;
    let mut flight = server.client.flight().await.expect("it listens");
    let (sender, receiver) = tokio::sync::mpsc::channel::<FlightData>(1);
    let mut request = Request::new(tokio_stream::wrappers::ReceiverStream::new(receiver));
    request.set_timeout(Duration::from_millis(50));
    // Nothing is ever sent, and the server would wait longer than its client does.
    let status = flight.do_exchange(request).await.map(drop).expect_err("the time is up");
    assert_eq!(from_status(&status).code, Code::DeadlineExceeded, "{status:?}");
    drop(sender);
    server.stop().await;
}
