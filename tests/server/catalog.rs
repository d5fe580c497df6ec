//! Lineage, search, revisions and rollback over the socket: what is asked well is answered, and whatever
//! else is asked is refused by a reason, changes nothing, and is no defect.

use hydrant::error::Code;
use hydrant::rpc::client::Refusal;
use hydrant::rpc::v1;
use hydrant::rpc::v1::lineage_arrow::Role;

use crate::support::TestServer;

fn graph_of(name: &str) -> v1::GetLineageGraphRequest {
    v1::GetLineageGraphRequest { name: name.to_owned(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_graph_the_past_and_what_is_searched_for_come_over_the_wire() {
    let server = TestServer::start().await;
    server.apply_weather().await;
    let graph = server.client.lineage_graph(graph_of("airport_weather:temp")).await.expect("it is there");
    let start = &graph.nodes[graph.starts[0] as usize];
    assert_eq!((start.kind(), start.about.as_str()), (v1::Kind::Feature, "float64"));
    let roles: Vec<Role> = graph.arrows.iter().map(v1::LineageArrow::role).collect();
    assert!([Role::Has, Role::Feeds, Role::Taken].iter().all(|role| roles.contains(role)), "{roles:?}");
    let names: Vec<(v1::Kind, &str)> = graph.nodes.iter().map(|node| (node.kind(), node.name.as_str())).collect();
    assert!(names.contains(&(v1::Kind::FeatureService, "delay_model@1")), "{names:?}");

    let found = server.client.search(v1::SearchRequest { text: "temp".to_owned(), ..Default::default() }).await;
    let found = found.expect("it is there");
    assert_eq!((found.total, found.hits[0].name.as_str()), (1, "airport_weather:temp"));
    assert_eq!(found.hits[0].matched, ["name"]);

    let told = server.client.list_revisions(v1::ListRevisionsRequest::default()).await.expect("one was made");
    assert_eq!((told.revisions.len(), told.oldest_revision), (1, 1));
    assert_eq!(told.revisions[0].changes.len(), 4);
    let request = v1::RollbackRequest { to_revision: 1, validate_only: true, expected_revision: None };
    let planned = server.client.rollback(request).await.expect("nothing is in the way");
    assert!(planned.changes.iter().all(|change| change.action() == v1::change::Action::Delete));
    let rolled = server.client.rollback(v1::RollbackRequest { validate_only: false, ..request }).await.expect("done");
    assert_eq!(rolled.registry_revision, told.registry_revision + 1);
    let told = server.client.list_revisions(v1::ListRevisionsRequest::default()).await.expect("two were made");
    assert_eq!((told.revisions[0].cause(), told.revisions[0].rolled_back_to), (v1::revision::Cause::Rollback, 1));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_else_is_asked_is_refused_and_changes_nothing() {
    let server = TestServer::start().await;
    server.apply_weather().await;
    let client = &server.client;
    let before = client.server_info().await.expect("it serves").registry_revision;
    let long = "x".repeat(100_000);
    let odd = ["", " ", "a:b:c", "..", "@", "weather@", "weather@99999999999", "\0", "é", "'; drop", long.as_str()];
    let kinds = [-1, 0, v1::Kind::Tenant as i32, 99, i32::MAX, i32::MIN];
    let mut refusals: Vec<(String, Refusal)> = Vec::new();
    for text in odd {
        for kind in kinds {
            let request = v1::GetLineageGraphRequest { kind, ..graph_of(text) };
            refusals.push((format!("{request:?}"), client.lineage_graph(request).await.expect_err("no name")));
            let request = v1::ListRevisionsRequest { kind, page_token: "?".to_owned(), ..Default::default() };
            refusals.push((format!("{request:?}"), client.list_revisions(request).await.expect_err("no token")));
        }
        for request in [
            v1::SearchRequest { r#type: format!("{text}?"), ..Default::default() },
            v1::SearchRequest { entity: format!("{text}?"), ..Default::default() },
            v1::SearchRequest { text: format!("{long}{text}"), ..Default::default() },
            v1::SearchRequest { text: "temp".to_owned(), page_token: format!("{text}?"), ..Default::default() },
            v1::SearchRequest { kind: v1::Kind::TrainingSet.into(), text: text.to_owned(), ..Default::default() },
            v1::SearchRequest { tags: [(long.clone(), text.to_owned())].into(), ..Default::default() },
        ] {
            let shown = format!("{:.200}", format!("{request:?}"));
            refusals.push((shown, client.search(request).await.expect_err("no search")));
        }
        let request = v1::ListRevisionsRequest { name: format!("{text}?"), ..Default::default() };
        refusals.push((format!("{request:?}"), client.list_revisions(request).await.expect_err("no name")));
    }
    let request = v1::GetLineageGraphRequest { direction: 7, ..graph_of("weather") };
    refusals.push(("a direction".to_owned(), client.lineage_graph(request).await.expect_err("no direction")));
    for to_revision in [0, before + 1, u64::MAX] {
        for validate_only in [false, true] {
            let request = v1::RollbackRequest { to_revision, validate_only, expected_revision: None };
            refusals.push((format!("{request:?}"), client.rollback(request).await.expect_err("no revision")));
        }
    }
    let request = v1::RollbackRequest { to_revision: 1, validate_only: false, expected_revision: Some(before - 1) };
    refusals.push((format!("{request:?}"), client.rollback(request).await.expect_err("it is another")));
    let expected = [Code::InvalidArgument, Code::NotFound, Code::Aborted];
    for (request, refusal) in &refusals {
        assert!(expected.contains(&refusal.code) && !refusal.reason.is_empty(), "{request:.300}: {refusal:?}");
    }
    assert_eq!(client.server_info().await.expect("it serves").registry_revision, before);
    server.stop().await;
}
