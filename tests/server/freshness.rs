//! FreshnessService over its port, and answers that carry freshness.

use std::time::Duration;

use hydrant::config::Span;
use hydrant::error::Code;
use hydrant::rpc::v1;
use hydrant::rpc::v1::{FreshnessCause, FreshnessState};

use crate::support::{NOON, TestServer, ingest_request, read_request, weather_batch};

async fn server() -> TestServer {
    let server = TestServer::start_with(|config| config.freshness.interval = Span(Duration::from_millis(20))).await;
    server.apply_promised_weather().await;
    let rows = weather_batch(&[Some("EWR")], &[NOON], &[1.0]);
    server.client.ingest(ingest_request(&rows)).await.expect("good rows");
    server
}

/// The view, once it was looked at since its row came.
async fn looked_at(server: &TestServer) -> v1::Freshness {
    let look = async {
        loop {
            match server.client.get_freshness("airport_weather").await {
                Ok(view) if view.age_micros.is_some() => return view,
                Ok(_) => {}
                Err(refused) => assert_eq!(refused.reason, "FRESHNESS_NOT_MEASURED"),
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, look).await.expect("it is looked at")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_is_shown_and_an_answer_carries_its_state_where_it_is_asked_for() {
    let server = server().await;
    let view = looked_at(&server).await;
    assert_eq!((view.state(), view.cause()), (FreshnessState::Breached, FreshnessCause::Stale));
    assert_eq!((view.target.as_str(), view.severity.as_str()), ("99.5%", "page"));
    assert_eq!(view.budget_micros, view.window_micros / 200);
    let listed = server.client.list_freshness().await.expect("listed");
    assert_eq!(listed.iter().map(|view| view.view.as_str()).collect::<Vec<_>>(), ["airport_weather"]);

    let plain = server.client.get_online_features(read_request(&["EWR"])).await.expect("it is read");
    assert!(plain.provenance.as_ref().expect("provenance").freshness.is_empty());
    let request = v1::GetOnlineFeaturesRequest { include_freshness: true, ..read_request(&["EWR"]) };
    let carried = server.client.get_online_features(request).await.expect("it is read");
    assert_eq!(carried.columns, plain.columns);
    let provenance = carried.provenance.expect("provenance");
    assert_eq!(provenance.views, plain.provenance.expect("provenance").views, "the rest is as it was");
    assert!(provenance.t > 0);
    let [carried] = provenance.freshness.as_slice() else { panic!("one view is read: {provenance:?}") };
    assert_eq!((carried.view.as_str(), carried.state()), ("airport_weather", FreshnessState::Breached));
    assert_eq!(carried.max_age_micros, 300_000_000);
    assert!(carried.age_micros > Some(300_000_000) && carried.since_micros == view.since_micros);

    let request = v1::GetOnlineFeaturesRequest { include_freshness: true, ..read_request(&["EWR", "JFK"]) };
    let request = v1::StreamOnlineFeaturesRequest { request: Some(request), batch_size: 1, unpinned: false };
    let answers = server.client.stream_online_features(request).await.expect("it begins");
    let answers: Vec<_> = futures::StreamExt::collect(answers).await;
    assert_eq!(answers.len(), 2);
    for answer in answers {
        assert_eq!(answer.expect("an answer").provenance.expect("provenance").freshness.len(), 1);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silences_are_made_listed_and_ended_and_survive_a_restart() {
    let server = server().await;
    looked_at(&server).await;
    let silence = |view: &str, seconds: u64, reason: &str| v1::SilenceFreshnessRequest {
        view: view.to_owned(),
        duration_micros: seconds * 1_000_000,
        reason: reason.to_owned(),
    };
    let made = server.client.silence_freshness(silence("airport_weather", 3_600, "moving")).await.expect("made");
    assert_eq!(made.until_micros - made.created_micros, 3_600_000_000);
    for (request, reason) in [
        (silence("airport_weather", 0, "r"), "BAD_SILENCE"),
        (silence("airport_weather", u64::MAX / 1_000_000, "r"), "BAD_SILENCE"),
        (silence("airport_weather", 60, ""), "BAD_SILENCE"),
        (silence("airport_weather", 60, &"x".repeat(1_001)), "BAD_SILENCE"),
        (silence("nothing", 60, "r"), "VIEW_NOT_FOUND"),
        (silence("Not A Name", 60, "r"), "INVALID_NAME"),
    ] {
        let refused = server.client.silence_freshness(request).await.expect_err(reason);
        assert_eq!(refused.reason, reason);
    }
    let directory = server.stop().await;
    let server = TestServer::start_in(directory, |_| {}).await;
    assert_eq!(server.client.list_silences().await.expect("listed"), [made.clone()]);
    assert_eq!(server.client.delete_silence(made.id).await.expect("ended"), made);
    let refused = server.client.delete_silence(made.id).await.expect_err("it has ended");
    assert_eq!((refused.code, refused.reason.as_str()), (Code::NotFound, "SILENCE_NOT_FOUND"));
    assert!(server.client.list_silences().await.expect("listed").is_empty());
    server.stop().await;
}
