//! Requests that are wrong, too large, out of place or given up: each gets a clear refusal that names
//! the thing, and the server goes on serving.

use std::pin::pin;
use std::sync::Arc;

use arrow_array::{ArrayRef, StringArray};
use hydrant::config::ByteSize;
use hydrant::error::Code;
use hydrant::rpc::client::{Client, Refusal};
use hydrant::rpc::v1;
use hydrant::rpc::wire::columns::encode_column;
use hydrant::rpc::wire::encode_position;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::codegen::http::uri::PathAndQuery;

use crate::support::{NOON, PATIENCE, TestServer, ingest_request, read_request, weather_batch, weather_rows};

async fn still_serves(server: &TestServer) {
    let answer = server.client.get_online_features(read_request(&["EWR"])).await;
    assert!(answer.is_ok(), "the server does not serve any more: {answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_questions_about_history_are_refused_and_odd_ones_answered() {
    let server = TestServer::start().await;
    server.apply_weather().await;
    server.ingest_weather().await;
    let entities = read_request(&["EWR"]).entities;
    let good = || v1::WhyRequest {
        services: vec!["delay_model".into()],
        entities: entities.clone(),
        at: Some(NOON),
        ..Default::default()
    };
    let cases: Vec<(v1::WhyRequest, Code, &str)> = vec![
        (v1::WhyRequest::default(), Code::InvalidArgument, "feature"),
        (v1::WhyRequest { services: vec!["nobody".into()], ..good() }, Code::NotFound, "nobody"),
        (v1::WhyRequest { entities: Vec::new(), ..good() }, Code::InvalidArgument, "entity columns"),
        (v1::WhyRequest { entities: vec![v1::Column::default()], ..good() }, Code::InvalidArgument, ""),
        (v1::WhyRequest { losers: Some(u32::MAX), ..good() }, Code::InvalidArgument, "100"),
        (v1::WhyRequest { columns: vec!["x".repeat(10_000)], ..good() }, Code::NotFound, "xxx"),
        (v1::WhyRequest { cutoff: Some(i64::MAX), ..good() }, Code::InvalidArgument, "cut-off"),
    ];
    for (request, code, named) in cases {
        let refusal = server.client.why(request.clone()).await.expect_err("refused");
        assert_eq!(refusal.code, code, "{request:?}: {refusal:?}");
        assert!(refusal.message.contains(named) && !refusal.reason.is_empty(), "{refusal:?}");
    }
    for at in [i64::MIN, i64::MAX] {
        for is_final in [false, true] {
            let told = server
                .client
                .why(v1::WhyRequest { at: Some(at), r#final: is_final, ..good() })
                .await
                .expect("explained");
            assert_eq!(told.views[0].winner.is_some(), at > 0);
        }
    }

    let command = v1::HistoricalFeaturesCommand {
        services: vec!["delay_model".into()],
        event_time: "at".into(),
        ..Default::default()
    };
    let mut history = v1::history_service_client::HistoryServiceClient::new(server.client.channel());
    let mut explain = async |command: &v1::HistoricalFeaturesCommand, spine_schema: Vec<u8>, rows: u64| {
        let request = v1::ExplainTrainingSetRequest { command: Some(command.clone()), spine_schema, rows };
        history.explain_training_set(request).await
    };
    for odd in [vec![0], vec![255; 64], vec![0; 100_000], b"no flatbuffer at all, not at all".to_vec()] {
        let refused = explain(&command, odd, 1).await.expect_err("refused");
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused:?}");
    }
    let refused = explain(&v1::HistoricalFeaturesCommand::default(), Vec::new(), 1).await.expect_err("refused");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused:?}");
    let refused = explain(&command, Vec::new(), u64::MAX).await.expect_err("refused");
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused:?}");
    let told = explain(&command, Vec::new(), 1_000_000).await.expect("told").into_inner();
    assert_eq!((told.rows, told.views.len()), (1_000_000, 1));
    still_serves(&server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_read_is_refused_naming_what_is_wrong() {
    let server = TestServer::start().await;
    server.apply_weather().await;
    server.ingest_weather().await;
    let good = || read_request(&["EWR"]);
    let context = encode_column("basket", &(Arc::new(StringArray::from(vec!["x"])) as ArrayRef)).expect("strings");
    let cases: Vec<(v1::GetOnlineFeaturesRequest, Code, &str)> = vec![
        (v1::GetOnlineFeaturesRequest { services: vec!["nobody".into()], ..good() }, Code::NotFound, "nobody"),
        (v1::GetOnlineFeaturesRequest { services: vec!["delay_model@9".into()], ..good() }, Code::NotFound, "9"),
        (v1::GetOnlineFeaturesRequest { features: vec!["airport_weather:x".into()], ..good() }, Code::NotFound, "x"),
        (v1::GetOnlineFeaturesRequest { entities: Vec::new(), ..good() }, Code::InvalidArgument, "origin"),
        (v1::GetOnlineFeaturesRequest { services: Vec::new(), ..good() }, Code::InvalidArgument, "feature"),
        (v1::GetOnlineFeaturesRequest { at: Some(i64::MAX), ..good() }, Code::InvalidArgument, ""),
        (
            v1::GetOnlineFeaturesRequest { at_least: Some(v1::Position { token: vec![9; 3] }), ..good() },
            Code::InvalidArgument,
            "at_least",
        ),
        (
            v1::GetOnlineFeaturesRequest { at_least: Some(encode_position(1_000_000)), ..good() },
            Code::InvalidArgument,
            "at_least",
        ),
        (
            v1::GetOnlineFeaturesRequest { request_context: vec![context], ..good() },
            Code::Unimplemented,
            "request_context",
        ),
    ];
    for (request, code, named) in cases {
        let refusal = server.client.get_online_features(request.clone()).await.expect_err("refused");
        assert_eq!(refusal.code, code, "{request:?}: {refusal:?}");
        assert!(refusal.message.contains(named) && !refusal.reason.is_empty(), "{refusal:?}");
    }
    still_serves(&server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_rows_are_refused_whole_naming_rows_and_columns() {
    let server = TestServer::start().await;
    server.apply_weather().await;
    let far_ahead = 4_102_444_800_000_000;
    let origins = [Some("EWR"), Some("JFK")];
    let request = ingest_request(&weather_batch(&origins, &[NOON, far_ahead], &[1.0, 2.0]));
    let refusal = server.client.ingest(request).await.expect_err("a row too far ahead");
    assert_eq!(refusal.code, Code::InvalidArgument);
    assert!(refusal.violations.iter().any(|violation| violation.path.contains('1')), "{refusal:?}");

    let empty = v1::IngestRequest { source: "weather".to_owned(), ..Default::default() };
    assert_eq!(server.client.ingest(empty).await.expect_err("no rows").reason, "NO_ROWS");
    let nothing = server.client.get_online_features(read_request(&["EWR"])).await.expect("an answer");
    assert_eq!(
        nothing.columns[0].statuses,
        [i32::from(v1::CellStatus::NotFound)],
        "half of a refused request is there"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_message_is_refused_in_both_directions_with_the_option_to_change() {
    let server = TestServer::start_with(|config| config.server.grpc_max_message = ByteSize(64 << 10)).await;
    server.apply_weather().await;
    server.ingest_weather().await;
    let check = |refusal: &Refusal| {
        assert_eq!(
            (refusal.code, refusal.reason.as_str()),
            (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"),
            "{refusal:?}"
        );
        assert!(refusal.message.contains("server.grpc_max_message") && refusal.hint.is_some(), "{refusal:?}");
    };
    let many: Vec<String> = (0..20_000).map(|row| format!("airport {row}")).collect();
    let request = read_request(&many.iter().map(String::as_str).collect::<Vec<_>>());
    check(&server.client.get_online_features(request).await.expect_err("a large request"));

    // Small keys ask for large answers.
    let many = vec![""; 12_000];
    let mut request = read_request(&many);
    request.include_event_times = true;
    check(&server.client.get_online_features(request).await.expect_err("a large answer"));
    still_serves(&server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_arrow_data_is_refused_and_never_ends_the_process() {
    let server = TestServer::start().await;
    server.apply_weather().await;
    let mut stream = Vec::new();
    let batch = weather_rows();
    let mut writer = arrow_ipc::writer::StreamWriter::try_new(&mut stream, &batch.schema()).expect("a schema");
    writer.write(&batch).expect("written");
    writer.finish().expect("finished");
    drop(writer);
    let request = |stream: Vec<u8>| v1::IngestRequest {
        source: "weather".to_owned(),
        rows: Some(v1::ingest_request::Rows::ArrowIpc(stream)),
        validate_only: true,
        ..Default::default()
    };
    let valid = server.client.ingest(request(stream.clone())).await.expect("well-formed");
    assert_eq!((valid.outcome(), valid.rows), (v1::ingest_response::Outcome::Valid, 3));
    for cut in (1..stream.len()).step_by(37) {
        let mut broken = stream.clone();
        broken[cut] ^= 0xff;
        // Some changes touch only values, which are then other values.
        for stream in [broken, stream[..cut].to_vec()] {
            if let Err(refusal) = server.client.ingest(request(stream)).await {
                assert_eq!(refusal.code, Code::InvalidArgument, "{refusal:?}");
            }
        }
    }
    server.ingest_weather().await;
    still_serves(&server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_services_methods_and_bytes_are_refused() {
    let server = TestServer::start().await;
    server.apply_weather().await;
    let mut grpc = tonic::client::Grpc::new(server.client.channel());
    grpc.ready().await.expect("connected");
    let codec = tonic_prost::ProstCodec::<v1::GetServerInfoRequest, v1::GetServerInfoResponse>::default();
    let path = PathAndQuery::from_static("/hydrant.v1.NoSuchService/NoSuchMethod");
    let request = tonic::Request::new(v1::GetServerInfoRequest {});
    let status = grpc.unary(request, path, codec).await.expect_err("there is none");
    assert_eq!(status.code(), tonic::Code::Unimplemented);
    assert!(!status.details().is_empty(), "{status:?}");

    // A message of another type: its bytes make no read.
    grpc.ready().await.expect("connected");
    let codec = tonic_prost::ProstCodec::<v1::Metadata, v1::GetOnlineFeaturesResponse>::default();
    let path = PathAndQuery::from_static("/hydrant.v1.OnlineService/GetOnlineFeatures");
    let nonsense = v1::Metadata { owner: "\u{7f}".repeat(9), ..Default::default() };
    let status = grpc.unary(tonic::Request::new(nonsense), path, codec).await.expect_err("no read");
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status:?}");

    for address in [server.addresses.grpc, server.addresses.flight, server.addresses.http] {
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("it listens");
        stream.write_all(b"\x00\xff\x13 no protocol at all\r\n\r\n").await.expect("sent");
        stream.shutdown().await.ok();
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it hangs up").ok();
    }
    still_serves(&server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_bound_wait_until_one_is_closed() {
    let server = TestServer::start_with(|config| config.server.max_connections = 2).await;
    let address = server.addresses.grpc.to_string();
    let second = Client::connect(&address).await.expect("the second of two");
    second.server_info().await.expect("it is served");
    // The system takes the connection, but nobody answers on it yet.
    let mut third = pin!(async { Client::connect(&address).await?.server_info().await });
    tokio::select! {
        biased;
        answer = &mut third => panic!("a third of two connections was served: {answer:?}"),
        () = async {
            for _ in 0..50 {
                second.server_info().await.expect("it is served");
            }
        } => {}
    }
    drop(second);
    tokio::time::timeout(PATIENCE, third).await.expect("a place was given back").expect("it is served");
    server.stop().await;
}
