//! What the services answer to those who ask as they should.

use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use hydrant::registry::world::Unread;
use hydrant::rpc::v1;
use hydrant::rpc::v1::column::Values;
use hydrant::rpc::wire::ipc::decode_single_batch;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::support::{HOUR, NOON, TestServer, ingest_request, read_request, weather, weather_rows};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_ingested_is_read_online_with_its_provenance() {
    let server = TestServer::start().await;
    server.apply_weather().await;
    let acknowledged = server.ingest_weather().await;
    assert_eq!((acknowledged.rows, acknowledged.outcome()), (3, v1::ingest_response::Outcome::Applied));

    let mut request = read_request(&["EWR", "JFK", "LGA"]);
    request.include_event_times = true;
    request.at_least = acknowledged.position.clone();
    let answer = server.client.get_online_features(request).await.expect("an answer");
    let [column] = answer.columns.as_slice() else { panic!("one column: {answer:?}") };
    let values = column.column.as_ref().expect("a column");
    assert_eq!(values.name, "airport_weather__temp");
    assert_eq!(values.values, Some(Values::Float64s(v1::Float64Values { values: vec![37.25, 40.5, 0.0] })));
    assert_eq!(values.nulls, [false, false, true], "a cell without a value is null");
    let statuses = [v1::CellStatus::Present, v1::CellStatus::Present, v1::CellStatus::NotFound].map(i32::from);
    assert_eq!(column.statuses, statuses);
    assert_eq!(answer.services[0].service, "delay_model@1");
    assert_eq!(answer.event_times[0].micros[..2], [NOON + HOUR, NOON]);
    assert_eq!(answer.event_times[0].found, [true, true, false]);
    let provenance = answer.provenance.expect("it is always told");
    assert_eq!(provenance.views[0].newest_event_time, Some(NOON + HOUR));
    assert!(provenance.views[0].complete_through >= acknowledged.ingest_time && provenance.registry_revision > 0);

    let mut pinned = read_request(&["EWR"]);
    pinned.at = Some(NOON);
    let answer = server.client.get_online_features(pinned).await.expect("an answer");
    let values = answer.columns[0].column.as_ref().and_then(|column| column.values.clone());
    assert_eq!(values, Some(Values::Float64s(v1::Float64Values { values: vec![39.0] })));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_may_come_as_one_batch_of_arrow_in_the_columns_of_a_training_set() {
    let server = TestServer::start().await;
    server.apply_weather().await;
    server.ingest_weather().await;
    let arrow = v1::AnswerFormat::ArrowIpc.into();
    let request = v1::GetOnlineFeaturesRequest { format: arrow, with_status: true, ..read_request(&["EWR", "LGA"]) };
    let answer = server.client.get_online_features(request.clone()).await.expect("an answer");
    assert!(answer.columns.is_empty() && answer.rows == 2 && answer.provenance.is_some());
    assert_eq!((answer.services[0].service.as_str(), answer.services[0].columns[0]), ("delay_model@1", 1));
    let batch = decode_single_batch(&answer.arrow_ipc, 1 << 20, 10).expect("one batch");
    let origins: ArrayRef = Arc::new(StringArray::from(vec!["EWR", "LGA"]));
    let temps: ArrayRef = Arc::new(Float64Array::from(vec![Some(37.25), None]));
    let statuses: ArrayRef = Arc::new(StringArray::from(vec!["PRESENT", "NOT_FOUND"]));
    let columns = [
        ("origin", origins, true),
        ("airport_weather__temp", temps, true),
        ("airport_weather__temp__status", statuses, false),
    ];
    assert_eq!(batch, RecordBatch::try_from_iter_with_nullable(columns).expect("a batch"));

    let of_columns = v1::GetOnlineFeaturesRequest { format: v1::AnswerFormat::Columns.into(), ..request.clone() };
    for wrong in [v1::GetOnlineFeaturesRequest { format: 9, ..request }, of_columns] {
        let refused = server.client.get_online_features(wrong).await.expect_err("no such format");
        assert_eq!((refused.reason.as_str(), refused.hint.is_some()), ("BAD_FORMAT", true));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_key_is_not_found_and_a_repeated_request_changes_nothing() {
    let server = TestServer::start().await;
    server.apply_weather().await;
    let request = v1::IngestRequest { producer: "p".to_owned(), sequence: 7, ..ingest_request(&weather_rows()) };
    let first = server.client.ingest(request.clone()).await.expect("good rows");
    let second = server.client.ingest(request).await.expect("the same again");
    assert_eq!(second.outcome(), v1::ingest_response::Outcome::AlreadyApplied);
    assert_eq!(second.position, first.position);

    let key = read_request(&["EWR"]).entities;
    let delete = v1::DeleteRequest {
        view: "airport_weather".to_owned(),
        keys: key,
        event_times: vec![NOON + 2 * HOUR],
        ..Default::default()
    };
    let deleted = server.client.delete(delete).await.expect("deleted");
    let mut request = read_request(&["EWR"]);
    request.at_least = deleted.position;
    let answer = server.client.get_online_features(request).await.expect("an answer");
    assert_eq!(answer.columns[0].statuses, [i32::from(v1::CellStatus::NotFound)]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_tells_what_would_change_or_everything_that_is_wrong() {
    let server = TestServer::start().await;
    let plan = server.client.plan(&weather(), &Unread::default()).await.expect("they fit together");
    assert_eq!(plan.changes.len(), 4);
    assert!(plan.changes.iter().all(|change| change.action() == v1::change::Action::Create));
    // Without what they refer to, both the view and the service are wrong.
    let refusal = server.client.plan(&weather()[2..], &Unread::default()).await.expect_err("they refer to nothing");
    assert!(refusal.violations.len() >= 2, "{refusal:?}");
    assert!(refusal.violations[0].path.starts_with("definitions[0]."), "{refusal:?}");

    server.apply_weather().await;
    let plan = server.client.plan(&weather(), &Unread::default()).await.expect("they fit together");
    assert!(plan.changes.iter().all(|change| change.action() == v1::change::Action::Unchanged));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_are_listed_described_and_traced() {
    use hydrant::registry::definition::Kind;
    let server = TestServer::start().await;
    server.apply_weather().await;
    let services = server.client.list_definitions(Kind::FeatureService).await.expect("a list");
    let status = services[0].status.clone().expect("the server tells it");
    assert_eq!((status.version, status.columns[0].name.as_str()), (1, "airport_weather__temp"));
    let lineage = server.client.get_lineage(Kind::Source, "weather").await.expect("it is there");
    assert_eq!((lineage.upstream.len(), lineage.downstream.len()), (0, 2));

    let used = server.client.delete_definition(Kind::Source, "weather", "").await.expect_err("it is used");
    assert!(used.message.contains("airport_weather"), "{used}");
    server.client.delete_definition(Kind::FeatureService, "delay_model", "").await.expect("nothing uses it");
    let gone = server.client.get_definition(Kind::FeatureService, "delay_model").await.expect_err("it is gone");
    assert!(!gone.reason.is_empty() && gone.message.contains("delay_model"), "{gone:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_tells_its_other_ports_and_whether_it_serves() {
    let server = TestServer::start().await;
    let info = server.client.server_info().await.expect("an answer");
    assert_eq!(info.flight_port, u32::from(server.addresses.flight.port()));
    assert_eq!(info.http_port, u32::from(server.addresses.http.port()));

    for service in [
        "hydrant.v1.OnlineService",
        "hydrant.v1.IngestService",
        "hydrant.v1.RegistryService",
        "hydrant.v1.BackupService",
        "hydrant.v1.CatalogService",
        "hydrant.v1.LineageService",
    ] {
        server.wait_until_serving(service).await;
    }
    assert_eq!(server.http("/healthz").await.0, 200);
    assert_eq!(server.http("/readyz").await, (200, "ready\n".to_owned()));
    assert_eq!(server.http("/nothing").await.0, 404);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_describes_every_service() {
    let server = TestServer::start().await;
    let mut reflection = ServerReflectionClient::new(server.client.channel());
    let request = |message| ServerReflectionRequest { host: String::new(), message_request: Some(message) };
    let requests = vec![
        request(MessageRequest::ListServices(String::new())),
        request(MessageRequest::FileContainingSymbol("hydrant.v1.OnlineService".to_owned())),
    ];
    let answers = reflection.server_reflection_info(tokio_stream::iter(requests)).await.expect("it answers");
    let mut answers = answers.into_inner();
    let listed = answers.message().await.expect("told").expect("an answer").message_response;
    let Some(MessageResponse::ListServicesResponse(listed)) = listed else { panic!("{listed:?}") };
    let names: Vec<String> = listed.service.into_iter().map(|service| service.name).collect();
    for service in
        ["OnlineService", "IngestService", "RegistryService", "CatalogService", "LineageService", "BackupService"]
    {
        assert!(names.contains(&format!("hydrant.v1.{service}")), "{names:?}");
    }
    let file = answers.message().await.expect("told").expect("an answer").message_response;
    assert!(matches!(file, Some(MessageResponse::FileDescriptorResponse(_))), "{file:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_calls_by_method_and_the_state_of_the_partitions() {
    let server = TestServer::start().await;
    server.apply_weather().await;
    server.ingest_weather().await;
    let (code, text) = server.http("/metrics").await;
    assert_eq!(code, 200);
    for line in [
        "hydrant_rpc_duration_seconds_bucket{code=\"OK\",method=\"hydrant.v1.IngestService/Ingest\"",
        "hydrant_partition_lag{",
        "partition=\"1\"",
        "hydrant_registry_revision",
        "hydrant_partition_behind_seconds{",
        "hydrant_partition_tail_bytes{",
        "hydrant_partition_rows_applied_total{",
        "hydrant_partition_rows_damaged_total{",
        "hydrant_log_appends_total{",
        "hydrant_log_syncs_total{",
        "hydrant_log_duplicates_total{",
        "hydrant_log_refused_total{",
        "hydrant_log_frames_damaged_total{",
        "hydrant_ingest_rows_total{tenant=\"default\"",
        "hydrant_serving_requests_total{tenant=\"default\"",
        "hydrant_serving_rows_damaged_total{",
        "hydrant_history_joins_total{tenant=\"default\"",
        "hydrant_history_rows_total{tenant=\"default\"",
        "hydrant_history_spilled_bytes_total{",
        "hydrant_history_damaged_total{",
        "hydrant_landing_runs_total{",
        "hydrant_landing_rows_total{tenant=\"default\"",
        "hydrant_landing_failures_total{",
        "hydrant_landing_age_seconds{",
        "# HELP hydrant_landing_damaged_total ",
        "le=\"0.00001\"",
    ] {
        assert!(text.contains(line), "{line} is missing from:\n{text}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_requests_is_answered_one_by_one_until_the_first_refusal() {
    use futures::StreamExt as _;
    let server = TestServer::start().await;
    server.apply_weather().await;
    let good = ingest_request(&weather_rows());
    let bad = v1::IngestRequest { source: "nowhere".to_owned(), ..good.clone() };
    let requests = tokio_stream::iter([good.clone(), bad, good]);
    let answers = server.client.ingest_stream(requests).await.expect("a stream");
    let answers: Vec<_> = answers.collect().await;
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[0].as_ref().expect("good rows").rows, 3);
    let refusal = answers[1].as_ref().expect_err("no such source");
    assert!(refusal.message.starts_with("request 1:") && refusal.message.contains("nowhere"), "{refusal}");
    server.stop().await;
}
