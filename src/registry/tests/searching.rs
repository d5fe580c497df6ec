//! Finding definitions: what is found, in which order, and page by page.

use super::super::graph::NodeKind;
use super::super::plan::Prune;
use super::super::search::{Found, MAX_TEXT_BYTES, Query};
use super::*;
use crate::error::Code;

async fn world() -> Registry {
    let registry = flights().await;
    apply(&registry, definitions(CONSUMERS)).await.expect("what they use is there");
    registry
}

async fn page(registry: &Registry, query: &Query, size: u32, token: &str) -> Result<Found> {
    let read = permit(Action::ReadDefinitions);
    registry.search(&read, query.clone(), size, token.to_owned()).await.map(|(found, _)| found)
}

async fn search(registry: &Registry, query: &Query) -> Result<Found> {
    page(registry, query, 0, "").await
}

async fn found(registry: &Registry, query: Query) -> Vec<String> {
    let hits = search(registry, &query).await.unwrap_or_else(|refused| panic!("{refused}")).hits;
    hits.iter().map(|hit| format!("{}/{}", hit.kind.as_str(), hit.name)).collect()
}

fn text(text: &str) -> Query {
    Query { text: text.to_owned(), ..Query::default() }
}

#[tokio::test]
async fn the_name_itself_comes_before_its_beginning_a_word_a_part_and_descriptions() {
    let registry = world().await;
    assert_eq!(
        found(&registry, text("weather")).await,
        [
            "Source/weather",
            "FeatureView/airport_weather",
            "Feature/airport_weather:temp",
            "Feature/airport_weather:wind"
        ]
    );
    // `airport` is the entity's name and begins the view's; a description has it as a word.
    let airport = found(&registry, text("AIRPORT")).await;
    assert_eq!(airport[..2], ["Entity/airport", "FeatureView/airport_weather"]);
    assert_eq!(found(&registry, text("eathe")).await[0], "FeatureView/airport_weather");
    assert_eq!(found(&registry, text("temperature")).await, ["Feature/airport_weather:temp"]);
    assert_eq!(found(&registry, text("temperat")).await, ["Feature/airport_weather:temp"]);
    // Every word has to be found.
    assert_eq!(found(&registry, text("air temp")).await, ["Feature/airport_weather:temp"]);
    assert!(found(&registry, text("air humidity")).await.is_empty());
    assert_eq!(found(&registry, text("airport_weather:wind")).await[0], "Feature/airport_weather:wind");
    assert_eq!(found(&registry, text("ml@example")).await, ["Consumer/delay_predictor"]);
}

#[tokio::test]
async fn kinds_tags_owners_types_and_entities_narrow_what_is_found() {
    let registry = world().await;
    let tag =
        |name: &str, value: &str| Query { tags: [(name.to_owned(), value.to_owned())].into(), ..Query::default() };
    assert_eq!(found(&registry, tag("tier", "1")).await, ["FeatureView/airport_weather"]);
    assert!(found(&registry, tag("tier", "2")).await.is_empty());
    assert_eq!(found(&registry, tag("pii", "")).await, ["Feature/airport_weather:wind"]);
    let owner = Query { owner: "OPS@".to_owned(), ..Query::default() };
    assert!(found(&registry, owner.clone()).await.iter().all(|hit| hit.contains("airport")));
    let kind = |kind| Query { kind: Some(kind), ..Query::default() };
    assert_eq!(found(&registry, kind(NodeKind::Consumer)).await.len(), 2);
    assert_eq!(found(&registry, Query { kind: Some(NodeKind::Entity), ..owner }).await, ["Entity/airport"]);
    let entity = Query { entity: Some(name("carrier")), ..Query::default() };
    assert_eq!(
        found(&registry, entity).await,
        [
            "FeatureView/carrier_departures",
            "Feature/carrier_departures:dep_delay",
            "FeatureService/delay_model",
            "Entity/carrier"
        ]
    );
    let typed =
        |kind| Query { kind: Some(kind), data_type: Some("string".parse().expect("a type")), ..Query::default() };
    assert_eq!(found(&registry, typed(NodeKind::Entity)).await, ["Entity/airport", "Entity/carrier"]);
    assert_eq!(found(&registry, typed(NodeKind::Column)).await, ["Column/departures.carrier", "Column/weather.origin"]);
    assert!(found(&registry, typed(NodeKind::Feature)).await.is_empty());
}

#[tokio::test]
async fn what_is_found_comes_page_by_page_each_once() {
    let registry = world().await;
    let query = text("a");
    let all = page(&registry, &query, 0, "").await.expect("found");
    assert!(all.total > 5 && all.hits.len() == all.total && all.next_page_token.is_empty());
    for size in [1, 2, 3, 1_000_000] {
        let (mut token, mut paged) = (String::new(), Vec::new());
        loop {
            let page = page(&registry, &query, size, &token).await.expect("a page");
            assert_eq!(page.total, all.total);
            paged.extend(page.hits);
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(paged, all.hits, "{size} a page");
    }
}

#[tokio::test]
async fn a_search_for_nothing_or_too_much_is_refused() {
    let registry = world().await;
    for query in [
        Query::default(),
        text(" \t "),
        text(&"x".repeat(MAX_TEXT_BYTES + 1)),
        text(&"x ".repeat(17)),
        Query { owner: "x".repeat(MAX_TEXT_BYTES + 1), ..Query::default() },
        Query { tags: (0..17).map(|tag| (tag.to_string(), String::new())).collect(), ..Query::default() },
        Query { tags: [("x".repeat(MAX_TEXT_BYTES + 1), String::new())].into(), ..Query::default() },
    ] {
        let refused = search(&registry, &query).await.expect_err("refused");
        assert_eq!((refused.code, refused.reason), (Code::InvalidArgument, "BAD_SEARCH"));
    }
    for token in ["x", "cy8w", "////"] {
        let refused = page(&registry, &text("a"), 0, token).await.expect_err("no token");
        assert_eq!(refused.reason, "BAD_PAGE_TOKEN", "{token}");
    }
}

#[tokio::test]
async fn reads_of_all_definitions_take_turns_and_too_many_are_refused_with_when_to_try_again() {
    let registry = world().await;
    let all_turns = registry.shared.reading.at_once.clone().acquire_many_owned(2).await.expect("they are free");
    let mut waiting = Vec::new();
    for _ in 0..64 {
        let mut search = Box::pin(search_owned(registry.clone()));
        assert!(futures::poll!(&mut search).is_pending(), "it waits for its turn");
        waiting.push(search);
    }
    let refused = search(&registry, &text("weather")).await.expect_err("too many wait");
    assert_eq!((refused.code, refused.reason), (Code::ResourceExhausted, "REGISTRY_BUSY"));
    assert!(refused.retry_after.is_some());
    // Changes don't wait behind them.
    let change = permit(Action::ChangeDefinitions);
    let (changed, _) = registry.changed_by(&change, &[], Prune::Nothing).await.expect("it has a turn of its own");
    assert_eq!(changed, Vec::<String>::new());
    // Who hangs up makes room.
    drop(waiting.pop());
    let mut late = Box::pin(search_owned(registry.clone()));
    assert!(futures::poll!(&mut late).is_pending());
    drop(all_turns);
    for waited in waiting {
        assert_eq!(waited.await.expect("its turn comes").total, 4);
    }
    assert_eq!(late.await.expect("its turn comes").total, 4);
}

async fn search_owned(registry: Registry) -> Result<Found> {
    search(&registry, &text("weather")).await
}
