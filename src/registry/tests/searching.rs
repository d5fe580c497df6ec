//! Finding definitions: what is found, in which order, and page by page.

use super::super::graph::NodeKind;
use super::super::search::{Found, MAX_TEXT_BYTES, Query};
use super::*;
use crate::error::Code;

async fn world() -> Registry {
    let registry = flights().await;
    apply(&registry, definitions(CONSUMERS)).await.expect("what they use is there");
    registry
}

fn search(registry: &Registry, query: &Query) -> Result<Found> {
    registry.search(&permit(Action::ReadDefinitions), query, 0, "").map(|(found, _)| found)
}

fn found(registry: &Registry, query: Query) -> Vec<String> {
    let hits = search(registry, &query).unwrap_or_else(|refused| panic!("{refused}")).hits;
    hits.iter().map(|hit| format!("{}/{}", hit.kind.as_str(), hit.name)).collect()
}

fn text(text: &str) -> Query {
    Query { text: text.to_owned(), ..Query::default() }
}

#[tokio::test]
async fn the_name_itself_comes_before_its_beginning_a_word_a_part_and_descriptions() {
    let registry = world().await;
    assert_eq!(
        found(&registry, text("weather")),
        [
            "Source/weather",
            "FeatureView/airport_weather",
            "Feature/airport_weather:temp",
            "Feature/airport_weather:wind"
        ]
    );
    // `airport` is the entity's name and begins the view's; a description has it as a word.
    let airport = found(&registry, text("AIRPORT"));
    assert_eq!(airport[..2], ["Entity/airport", "FeatureView/airport_weather"]);
    assert_eq!(found(&registry, text("eathe"))[0], "FeatureView/airport_weather");
    assert_eq!(found(&registry, text("temperature")), ["Feature/airport_weather:temp"]);
    assert_eq!(found(&registry, text("temperat")), ["Feature/airport_weather:temp"]);
    // Every word has to be found.
    assert_eq!(found(&registry, text("air temp")), ["Feature/airport_weather:temp"]);
    assert!(found(&registry, text("air humidity")).is_empty());
    assert_eq!(found(&registry, text("airport_weather:wind"))[0], "Feature/airport_weather:wind");
    assert_eq!(found(&registry, text("ml@example")), ["Consumer/delay_predictor"]);
}

#[tokio::test]
async fn kinds_tags_owners_types_and_entities_narrow_what_is_found() {
    let registry = world().await;
    let tag =
        |name: &str, value: &str| Query { tags: [(name.to_owned(), value.to_owned())].into(), ..Query::default() };
    assert_eq!(found(&registry, tag("tier", "1")), ["FeatureView/airport_weather"]);
    assert!(found(&registry, tag("tier", "2")).is_empty());
    assert_eq!(found(&registry, tag("pii", "")), ["Feature/airport_weather:wind"]);
    let owner = Query { owner: "OPS@".to_owned(), ..Query::default() };
    assert!(found(&registry, owner.clone()).iter().all(|hit| hit.contains("airport")));
    let kind = |kind| Query { kind: Some(kind), ..Query::default() };
    assert_eq!(found(&registry, kind(NodeKind::Consumer)).len(), 2);
    assert_eq!(found(&registry, Query { kind: Some(NodeKind::Entity), ..owner }), ["Entity/airport"]);
    let entity = Query { entity: Some(name("carrier")), ..Query::default() };
    assert_eq!(
        found(&registry, entity),
        [
            "FeatureView/carrier_departures",
            "Feature/carrier_departures:dep_delay",
            "FeatureService/delay_model",
            "Entity/carrier"
        ]
    );
    let typed =
        |kind| Query { kind: Some(kind), data_type: Some("string".parse().expect("a type")), ..Query::default() };
    assert_eq!(found(&registry, typed(NodeKind::Entity)), ["Entity/airport", "Entity/carrier"]);
    assert_eq!(found(&registry, typed(NodeKind::Column)), ["Column/departures.carrier", "Column/weather.origin"]);
    assert!(found(&registry, typed(NodeKind::Feature)).is_empty());
}

#[tokio::test]
async fn what_is_found_comes_page_by_page_each_once() {
    let registry = world().await;
    let (read, query) = (permit(Action::ReadDefinitions), text("a"));
    let (all, _) = registry.search(&read, &query, 0, "").expect("found");
    assert!(all.total > 5 && all.hits.len() == all.total && all.next_page_token.is_empty());
    for size in [1, 2, 3, 1_000_000] {
        let (mut token, mut paged) = (String::new(), Vec::new());
        loop {
            let (page, _) = registry.search(&read, &query, size, &token).expect("a page");
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
        let refused = search(&registry, &query).expect_err("refused");
        assert_eq!((refused.code, refused.reason), (Code::InvalidArgument, "BAD_SEARCH"));
    }
    for token in ["x", "cy8w", "////"] {
        let refused = registry.search(&permit(Action::ReadDefinitions), &text("a"), 0, token).expect_err("no token");
        assert_eq!(refused.reason, "BAD_PAGE_TOKEN", "{token}");
    }
}
