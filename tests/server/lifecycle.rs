//! Starting and stopping: one process a data directory, everything acknowledged is there again.

use std::sync::Arc;

use hydrant::app::{App, AppError};
use hydrant::rpc::client::Client;
use hydrant::rpc::server::ServerError;
use hydrant::rpc::v1;
use hydrant::rpc::v1::column::Values;
use hydrant::telemetry::Telemetry;
use hydrant_storage::files::{Files as _, LocalFiles};

use crate::support::{TestServer, config, read_request};

fn telemetry() -> Arc<Telemetry> {
    Arc::new(Telemetry::metrics_only().expect("metrics"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let server = TestServer::start().await;
    server.apply_weather().await;
    let acknowledged = server.ingest_weather().await;
    let directory = server.stop().await;

    let server = TestServer::start_in(directory, |_| {}).await;
    let mut request = read_request(&["EWR"]);
    request.at_least = acknowledged.position;
    let answer = server.client.get_online_features(request).await.expect("an answer");
    let values = answer.columns[0].column.as_ref().and_then(|column| column.values.clone());
    assert_eq!(values, Some(Values::Float64s(v1::Float64Values { values: vec![37.25] })));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_in_use_is_refused_and_its_server_undisturbed() {
    let server = TestServer::start().await;
    let second = App::build(&config(&server.directory), telemetry()).await;
    assert!(matches!(second, Err(AppError::DataDir(_))), "{second:?}");
    assert!(server.client.server_info().await.is_ok());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_refused_naming_its_option() {
    let server = TestServer::start().await;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut config = config(&directory);
    config.server.flight_addr = server.addresses.grpc;
    let error = App::build(&config, telemetry()).await.expect_err("the port is taken");
    assert!(matches!(error, AppError::Server(ServerError::Bind { option: "server.flight_addr", .. })), "{error:?}");
    assert!(error.hint().is_some_and(|hint| hint.contains("--flight-addr")), "{error:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_server_takes_no_more_requests() {
    let server = TestServer::start().await;
    let address = server.addresses.grpc.to_string();
    server.stop().await;
    let refusal = Client::connect(&address).await.expect_err("nobody listens");
    assert_eq!(refusal.reason, "SERVER_UNREACHABLE");
    assert!(refusal.message.contains(&address), "{refusal}");
}

/// What a server says that won't start over this directory.
async fn refusal(directory: &tempfile::TempDir) -> String {
    let error = App::build(&config(directory), telemetry()).await.expect_err("it doesn't belong together");
    let AppError::Open { error, .. } = error else { panic!("{error:?}") };
    format!("{}: {} ({})", error.reason, error.message, error.hint.unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn data_whose_definitions_are_lost_are_refused_with_the_way_out() {
    let server = TestServer::start().await;
    server.apply_weather().await;
    server.ingest_weather().await;
    let directory = server.stop().await;
    let (registry, kept) = (directory.path().join("registry"), directory.path().join("kept"));
    LocalFiles.rename(&registry, &kept).expect("moved");
    let refused = refusal(&directory).await;
    assert!(refused.starts_with("DEFINITIONS_LOST") && refused.contains("put back"), "{refused}");

    std::fs::remove_dir_all(&registry).ok();
    LocalFiles.rename(&kept, &registry).expect("moved back");
    TestServer::start_in(directory, |_| {}).await.stop().await;
}
