//! Stored spines, endpoints with tickets, and saved training sets over the sockets; and strangers with
//! tickets of their own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{ArrayRef, Int32Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_flight::{Action, Empty, FlightDescriptor, Ticket};
use arrow_select::concat::concat_batches;
use bytes::Bytes;
use futures::StreamExt as _;
use hydrant::error::Code;
use hydrant::rpc::client::{Client, ContentDigest, Refusal};
use hydrant::rpc::status::from_status;
use hydrant::rpc::v1;
use prost::Message as _;

use crate::access::Guarded;
use crate::support::{HOUR, NOON, PATIENCE, TestServer};

pub fn spine(rows: usize) -> RecordBatch {
    let numbers: ArrayRef = Arc::new(Int32Array::from_iter_values(0..i32::try_from(rows).expect("few")));
    let origins: ArrayRef = Arc::new((0..rows).map(|row| ["EWR", "JFK", "LGA"].get(row % 4)).collect::<StringArray>());
    let times = (0..rows as i64).map(|row| NOON + row % 5 * HOUR);
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"));
    RecordBatch::try_from_iter_with_nullable([
        ("row", numbers, false),
        ("origin", origins, true),
        ("asked_at", times, false),
    ])
    .expect("a batch")
}

async fn store(server: &TestServer, spine: &RecordBatch) -> v1::StoredSpine {
    let batches = tokio_stream::iter([Ok(spine.clone())]);
    server.client.store_spine(spine.schema(), batches).await.expect("stored")
}

pub fn command(spine: &str, endpoint_rows: u64) -> v1::flight_command::Command {
    v1::flight_command::Command::HistoricalFeatures(v1::HistoricalFeaturesCommand {
        services: vec!["delay_model".to_owned()],
        event_time: "asked_at".to_owned(),
        spine: spine.to_owned(),
        endpoint_rows,
        ..Default::default()
    })
}

async fn pull(server: &TestServer, ticket: Bytes) -> Result<Vec<RecordBatch>, Refusal> {
    let mut endpoint = server.client.pull(ticket).await?;
    let mut batches = Vec::new();
    while let Some(batch) = endpoint.next().await? {
        batches.push(batch);
    }
    Ok(batches)
}

async fn server() -> TestServer {
    let server = TestServer::start().await;
    server.apply_weather().await;
    server.ingest_weather().await;
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_spine_is_pulled_in_parts_at_once_and_gives_what_one_exchange_gives() {
    let server = server().await;
    let wanted = spine(1_000);
    let stored = store(&server, &wanted).await;
    assert_eq!((stored.rows, stored.was_there), (1_000, false));
    assert!(store(&server, &wanted).await.was_there);
    let endpoints = server.client.endpoints(command(&stored.id, 130)).await.expect("endpoints");
    assert_eq!((endpoints.tickets.len(), endpoints.prepared.rows), (8, 1_000));
    assert_eq!(endpoints.prepared.services, ["delay_model@1"]);
    let progress = server.client.training_set_progress(endpoints.tickets[0].clone()).await.expect("told");
    assert_eq!((progress.state(), progress.rows), (v1::training_set_progress::State::NotBegun, 1_000));

    let parts = futures::future::join_all(endpoints.tickets.iter().map(|ticket| pull(&server, ticket.clone()))).await;
    let parts: Vec<RecordBatch> = parts.into_iter().flat_map(|part| part.expect("pulled")).collect();
    let rows = concat_batches(&endpoints.schema, &parts).expect("one schema");
    let progress = server.client.training_set_progress(endpoints.tickets[7].clone()).await.expect("told");
    assert_eq!(progress.state(), v1::training_set_progress::State::Found);

    let exchange = v1::HistoricalFeaturesCommand {
        services: vec!["delay_model".to_owned()],
        event_time: "asked_at".to_owned(),
        cutoff: Some(endpoints.prepared.cutoff),
        ..Default::default()
    };
    let batches = tokio_stream::iter([Ok(wanted.clone())]);
    let mut set = server.client.training_set(exchange, wanted.schema(), batches).await.expect("a training set");
    let mut whole = Vec::new();
    while let Some(batch) = set.next().await.expect("rows") {
        whole.push(batch);
    }
    assert_eq!(rows, concat_batches(&set.schema(), &whole).expect("one schema"));
    let mut digest = ContentDigest::new(&endpoints.schema, endpoints.prepared.spine_columns as usize);
    digest.update(&rows).expect("hashed");
    assert_eq!(digest.finish(), set.report().expect("it ended").content_hash);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spine_without_rows_has_one_endpoint_without_rows() {
    let server = server().await;
    let stored = store(&server, &spine(0)).await;
    let endpoints = server.client.endpoints(command(&stored.id, 0)).await.expect("endpoints");
    assert_eq!((stored.rows, endpoints.tickets.len()), (0, 1));
    assert_eq!(pull(&server, endpoints.tickets[0].clone()).await.expect("pulled").len(), 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn made_up_tickets_are_refused_and_the_server_goes_on() {
    let server = server().await;
    let stored = store(&server, &spine(100)).await;
    let endpoints = server.client.endpoints(command(&stored.id, 0)).await.expect("endpoints");
    let good = endpoints.tickets[0].clone();
    let changed = |change: fn(&mut v1::TrainingSetTicket)| {
        // As somebody makes it who knows how tickets are made.
        let mut message = v1::TrainingSetTicket::decode(&good[12..]).expect("a ticket");
        change(&mut message);
        let body = message.encode_to_vec();
        Bytes::from([&good[..4], &xxhash_rust::xxh3::xxh3_64(&body).to_le_bytes(), &body].concat())
    };
    let mut flipped = good.to_vec();
    flipped[20] ^= 1;
    for (ticket, reason) in [
        (Bytes::new(), "BAD_TICKET"),
        (Bytes::from(vec![0xff; 5_000]), "BAD_TICKET"),
        (Bytes::from(flipped), "BAD_TICKET"),
        (good.slice(..good.len() - 1), "BAD_TICKET"),
        (changed(|ticket| ticket.rows += 1), "BAD_TICKET"),
        (changed(|ticket| ticket.first_row = u64::MAX), "BAD_TICKET"),
        (changed(|ticket| ticket.spine = "../../log".to_owned()), "BAD_TICKET"),
        (changed(|ticket| ticket.spine = "0".repeat(32)), "SPINE_NOT_FOUND"),
        (changed(|ticket| ticket.services = vec!["nobody@1".to_owned()]), "SERVICE_NOT_FOUND"),
        (changed(|ticket| ticket.services = vec!["delay_model@1".to_owned(); 20_000]), "BAD_TICKET"),
        (changed(|ticket| ticket.event_time = "row".to_owned()), "SPINE_MISMATCH"),
        (changed(|ticket| ticket.fingerprint ^= 1), "TICKET_OUTDATED"),
        (changed(|ticket| ticket.cutoff = i64::MAX), "CUTOFF_IN_FUTURE"),
    ] {
        let refusal = pull(&server, ticket.clone()).await.expect_err(reason);
        assert_eq!(refusal.reason, reason, "{refusal:?}");
        if reason == "BAD_TICKET" && ticket.len() < 100 {
            let refusal = server.client.training_set_progress(ticket).await.expect_err(reason);
            assert_eq!(refusal.reason, reason);
        }
    }
    assert_eq!(pull(&server, good).await.expect("it is good")[0].num_rows(), 100);
    let endpoints = server.client.endpoints(command(&stored.id, 1)).await.expect("a hundred");
    assert_eq!(endpoints.tickets.len(), 100);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_endpoints_is_refused_with_the_way_out() {
    let server = server().await;
    let stored = store(&server, &spine(2_000)).await;
    for (command, code, reason) in [
        (command(&stored.id, 1), Code::InvalidArgument, "TOO_MANY_ENDPOINTS"),
        (command("nonsense", 0), Code::InvalidArgument, "BAD_SPINE_ID"),
        (command(&"0".repeat(32), 0), Code::NotFound, "SPINE_NOT_FOUND"),
        (command("", 10), Code::InvalidArgument, "BAD_DESCRIPTOR"),
        (
            v1::flight_command::Command::TrainingSet(v1::TrainingSetCommand {
                name: "none".to_owned(),
                endpoint_rows: 0,
            }),
            Code::NotFound,
            "TRAINING_SET_NOT_FOUND",
        ),
        (v1::flight_command::Command::StoreSpine(v1::StoreSpineCommand {}), Code::InvalidArgument, "BAD_DESCRIPTOR"),
    ] {
        let refusal = server.client.endpoints(command).await.expect_err(reason);
        assert_eq!(
            (refusal.code, refusal.reason.as_str(), refusal.hint.is_some()),
            (code, reason, true),
            "{refusal:?}"
        );
    }
    let mut flight = server.client.flight().await.expect("it listens");
    let actions = flight.list_actions(Empty {}).await.expect("a list").into_inner();
    let actions: Vec<_> = actions.map(|action| action.expect("told").r#type).collect().await;
    assert_eq!(actions, ["training_set.progress"]);
    let unknown = Action { r#type: "drop_all".to_owned(), body: Bytes::new() };
    let refusal = from_status(&flight.do_action(unknown).await.map(drop).expect_err("there is none"));
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::NotFound, "UNKNOWN_ACTION"));
    let exchange = v1::HistoricalFeaturesCommand { spine: stored.id, ..Default::default() };
    let batches = tokio_stream::iter([Ok(spine(1))]);
    let refusal = server.client.training_set(exchange, spine(1).schema(), batches).await.map(drop);
    assert_eq!(refusal.expect_err("it has no use for it").reason, "BAD_DESCRIPTOR");
    server.stop().await;
}

/// The work of an endpoint ends with its client, whether it walks or sends.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_on_an_endpoint_ends_its_work() {
    let server = TestServer::start_with(|config| {
        config.training_sets.max_pulls = 1;
        config.history.max_joins = 1;
    })
    .await;
    server.apply_weather().await;
    server.ingest_weather().await;
    let stored = store(&server, &spine(300_000)).await;
    let small = store(&server, &spine(1)).await;
    let endpoints = server.client.endpoints(command(&stored.id, 300_000)).await.expect("endpoints");
    let ticket = endpoints.tickets[0].clone();
    let mut longest = Duration::ZERO;
    for round in 0..4 {
        let mut flight = server.client.flight().await.expect("it listens");
        let asked = Ticket { ticket: ticket.clone() };
        let mut pulling = Box::pin(async move { flight.do_get(asked).await });
        if round % 2 == 0 {
            // While it walks.
            let walking = async {
                loop {
                    let progress = server.client.training_set_progress(ticket.clone()).await.expect("told");
                    if progress.state() != v1::training_set_progress::State::NotBegun {
                        return;
                    }
                }
            };
            tokio::select! { biased; _ = &mut pulling => {}, () = walking => {} }
        } else {
            // While it sends and nobody takes.
            let answer = pulling.as_mut().await.expect("an answer");
            drop(answer);
        }
        drop(pulling);
        // The next one needs its places, and waits for them.
        let hung_up = Instant::now();
        let endpoints = server.client.endpoints(command(&small.id, 0)).await.expect("endpoints");
        assert_eq!(pull(&server, endpoints.tickets[0].clone()).await.expect("pulled").len(), 1);
        assert!(hung_up.elapsed() < PATIENCE, "the work goes on");
        longest = longest.max(hung_up.elapsed());
    }
    println!("{longest:?} after a client had gone the next one had been served in its place, at the latest");
    assert_eq!(
        pull(&server, ticket).await.expect("the place is free").iter().map(RecordBatch::num_rows).sum::<usize>(),
        300_000
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn saved_training_sets_are_listed_page_by_page_and_a_client_that_hangs_up_saves_nothing() {
    let server = server().await;
    let stored = store(&server, &spine(10)).await;
    let request = |name: String| v1::CreateTrainingSetRequest {
        name,
        services: vec!["delay_model".to_owned()],
        spine: stored.id.clone(),
        event_time: "asked_at".to_owned(),
        ..Default::default()
    };
    for number in 0..3 {
        let created = server.client.create_training_set(request(format!("set_{number}")), |_| ()).await.expect("saved");
        assert_eq!(created.training_set.expect("a set").rows, 10);
    }
    let large = store(&server, &spine(200_000)).await;
    let given_up = v1::CreateTrainingSetRequest { spine: large.id, ..request("given_up".to_owned()) };
    let mut begun = false;
    let mut creating = Box::pin(server.client.create_training_set(given_up, |_| begun = true));
    // It has told of progress once when it is polled long enough; then its client goes.
    let told = tokio::time::timeout(Duration::from_millis(1), creating.as_mut()).await;
    drop(creating);
    assert!(told.is_err() || begun, "it was asked for");
    let names = async || {
        let sets = server.client.list_training_sets().await.expect("listed");
        sets.into_iter().map(|set| set.name).collect::<Vec<_>>()
    };
    assert_eq!(names().await, ["set_0", "set_1", "set_2"]);
    let channel = server.client.channel();
    let mut service = v1::training_set_service_client::TrainingSetServiceClient::new(channel);
    let page = v1::ListTrainingSetsRequest { page_size: 2, page_token: String::new() };
    let page = service.list_training_sets(page).await.expect("a page").into_inner();
    assert_eq!(page.training_sets.len(), 2);
    let next = v1::ListTrainingSetsRequest { page_size: 2, page_token: page.next_page_token };
    let page = service.list_training_sets(next).await.expect("a page").into_inner();
    assert_eq!((page.training_sets[0].name.as_str(), page.next_page_token.as_str()), ("set_2", ""));
    let wrong = v1::ListTrainingSetsRequest { page_size: 0, page_token: "%%".to_owned() };
    assert_eq!(from_status(&service.list_training_sets(wrong).await.expect_err("no token")).reason, "BAD_PAGE_TOKEN");
    assert!(server.client.verify_training_set("set_1", |_| ()).await.expect("verified").is_same);
    let lineage = server.client.get_training_set_lineage("set_1").await.expect("told");
    assert_eq!(lineage.downstream, [], "there is no consumer");
    let edges: Vec<(&str, &str)> =
        lineage.upstream.iter().map(|edge| (edge.from_name.as_str(), edge.to_name.as_str())).collect();
    assert!(edges.contains(&("weather", "airport_weather")), "{edges:?}");
    assert_eq!(edges.last(), Some(&("delay_model@1", "set_1@1")));
    // Whoever knows its name needs no command.
    let descriptor = |name: &str| FlightDescriptor::new_path(vec!["training_set".to_owned(), name.to_owned()]);
    let mut flight = server.client.flight().await.expect("it listens");
    let info = flight.get_flight_info(descriptor("set_1@1")).await.expect("endpoints").into_inner();
    assert_eq!((info.endpoint.len(), info.total_records), (1, 10));
    let refusal = from_status(&flight.get_flight_info(descriptor("set_1@2")).await.expect_err("there is none"));
    assert_eq!(refusal.reason, "TRAINING_SET_NOT_FOUND");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_view_that_another_tenant_shares_an_explanation_tells_nothing_of_how_much_there_is() {
    let guarded = Guarded::start().await;
    let share = v1::CreateShareRequest {
        of: Some(v1::create_share_request::Of::Service("delay_model".to_owned())),
        to: "rival".to_owned(),
        rights: v1::share::Rights::ReadAndTrain.into(),
        ..Default::default()
    };
    guarded.first.create_share(share).await.expect("an admin may");
    let explained = async |client: &Client, service: &str, rows: u64| {
        let command = v1::HistoricalFeaturesCommand {
            services: vec![service.to_owned()],
            event_time: "asked_at".to_owned(),
            ..Default::default()
        };
        client.explain_training_set(command, None, rows).await.expect("it is explained").views
    };
    let owners = explained(&guarded.first, "delay_model", 1).await;
    assert!(!owners.is_empty() && owners.iter().all(|view| view.access() != v1::Access::Unspecified), "{owners:?}");
    // However many rows it would be for, by which the access changes.
    for rows in [1, 1_000, 10_000_000] {
        for view in explained(&guarded.rival, "default/delay_model", rows).await {
            let said = v1::ViewReading {
                view: view.view.clone(),
                view_version: view.view_version,
                sort: view.sort,
                features: view.features.clone(),
                reason: view.reason.clone(),
                ..Default::default()
            };
            assert_eq!(view, said);
            assert!(view.view.starts_with("default/") && view.reason.contains("not told"), "{view:?}");
        }
    }
}
