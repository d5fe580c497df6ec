//! Which changes go through in place and which are refused, one test each.

use hydrant_storage::value::DataType;

use super::*;
use crate::error::Code;
use crate::registry::promise::{FreshnessSpec, Severity};

const VIEW: &str = "definitions[2].spec";

async fn accepted(changes: &[(&str, &str)]) -> Arc<TenantCatalog> {
    let registry = flights().await;
    let before = registry.snapshot().revision;
    apply(&registry, flights_with(changes)).await.unwrap_or_else(|refused| panic!("{refused}"));
    assert_eq!(registry.snapshot().revision, before + 1);
    catalog(&registry)
}

async fn refused(changes: &[(&str, &str)], path: &str, rule: &str) {
    let registry = flights().await;
    // Without the service, whose own problems would stand beside the view's.
    let mut changed = flights_with(changes);
    changed.remove(3);
    let refused = apply(&registry, changed).await.expect_err("it doesn't fit the data that is there");
    assert_eq!((refused.code, refused.reason), (Code::FailedPrecondition, "INCOMPATIBLE_CHANGE"), "{refused:?}");
    assert!(refused.hint.as_ref().is_some_and(|hint| hint.contains("make a new view")));
    let found = refused.violations.iter().any(|found| found.path == path && found.message.contains(rule));
    assert!(found, "{:#?}", lines(&refused));
}

#[tokio::test]
async fn a_feature_is_added_at_the_end_of_the_row_wherever_it_stands() {
    let catalog = accepted(&[
        (
            "- {name: wind_speed, type: float64}",
            "- {name: wind_speed, type: float64}\n    - {name: gust, type: float32}",
        ),
        ("features:\n    - {name: temp", "features:\n    - {name: gust}\n    - {name: temp"),
    ])
    .await;
    let view = &catalog.views["airport_weather"];
    let names: Vec<&str> = view.features.iter().map(|feature| feature.name.as_str()).collect();
    assert_eq!(names, ["temp", "wind", "gust"]);
    assert_eq!((view.version, view.layout.types().len()), (1, 3));
    assert_eq!(view.layout.types()[2], "float32".parse::<DataType>().expect("a type"));
}

#[tokio::test]
async fn a_default_changes_in_place() {
    let catalog = accepted(&[("default: 0.0", "default: -1.0")]).await;
    assert_eq!(catalog.views["airport_weather"].version, 1);
}

#[tokio::test]
async fn words_change_in_place() {
    let changes = [("\"Hourly weather\"", "\"Weather\""), ("tier: \"1\"", "tier: \"2\""), ("owner: ops", "owner: dev")];
    let catalog = accepted(&changes).await;
    assert_eq!(catalog.views["airport_weather"].applied.definition.metadata.description, "Weather");
    // Words are no part of what a service freezes.
    assert_eq!(catalog.services["delay_model"].versions.len(), 1);
}

#[tokio::test]
async fn a_freshness_promise_changes_in_place() {
    let catalog = accepted(&[("{maxAge: 2h}", "{maxAge: 1h}")]).await;
    assert_eq!(catalog.views["airport_weather"].freshness, Some(FreshnessSpec::of(3_600_000_000)));
    let whole = "{maxAge: 5m, target: 99.5%, window: 7d, severity: page}";
    let catalog = accepted(&[("{maxAge: 2h}", whole)]).await;
    let promised = catalog.views["airport_weather"].freshness.expect("it is promised");
    assert_eq!((promised.max_age, promised.window), (300_000_000, 7 * 86_400_000_000));
    assert_eq!((promised.target.to_string().as_str(), promised.severity), ("99.5%", Severity::Page));
    let taken_back = accepted(&[("freshness: {maxAge: 2h}", "freshness: ")]).await;
    assert_eq!(taken_back.views["airport_weather"].freshness, None);
}

#[tokio::test]
async fn a_ttl_is_lowered_in_place_and_rows_stay_for_the_services_that_froze_the_old_one() {
    let catalog = accepted(&[("ttl: 3h", "ttl: 2h")]).await;
    let view = &catalog.views["airport_weather"];
    assert_eq!((view.ttl, view.longest_ttl), (Some(7_200_000_000), Some(10_800_000_000)));
}

const MINUTE: i64 = 60_000_000;
const HOUR: i64 = 60 * MINUTE;

/// The ttl in effect, the one that waits for a refill, and the longest for which rows are kept online.
fn ttls(registry: &Registry) -> (Option<i64>, Option<Option<i64>>, Option<i64>) {
    let view = catalog(registry).views["airport_weather"].clone();
    (view.ttl, view.refill.map(|refill| refill.ttl), view.longest_ttl)
}

async fn with_ttl(registry: &Registry, ttl: &str) {
    apply(registry, flights_with(&[("ttl: 3h", ttl)])).await.unwrap_or_else(|refused| panic!("{refused}"));
}

/// As if its rows were all online again.
async fn refilled(registry: &Registry) -> Option<u64> {
    let (catalog, view) = (catalog(registry), catalog(registry).views["airport_weather"].clone());
    let since = view.refill.expect("it waits for a refill").since;
    assert_eq!(registry.refilled(&catalog.name, view.id, since - 1).await, Ok(None), "another raise");
    registry.refilled(&catalog.name, view.id, since).await.expect("persisted")
}

#[tokio::test]
async fn a_raised_ttl_takes_effect_once_its_view_is_refilled() {
    let registry = flights().await;
    with_ttl(&registry, "ttl: 4h").await;
    assert_eq!(ttls(&registry), (Some(3 * HOUR), Some(Some(4 * HOUR)), Some(4 * HOUR)));
    let revision = registry.snapshot().revision;
    with_ttl(&registry, "ttl: 4h").await;
    assert_eq!(registry.snapshot().revision, revision, "nothing has changed");
    // A service goes by what is in effect.
    assert_eq!(catalog(&registry).services["delay_model"].versions.len(), 1);
    assert_eq!(refilled(&registry).await, Some(revision + 1));
    assert_eq!(ttls(&registry), (Some(4 * HOUR), None, Some(4 * HOUR)));
    with_ttl(&registry, "ttl: 4h").await;
    let versions = &catalog(&registry).services["delay_model"].versions;
    assert_eq!(
        versions.iter().map(|version| version.lookups[0].ttl).collect::<Vec<_>>(),
        [Some(3 * HOUR), Some(4 * HOUR)]
    );
}

#[tokio::test]
async fn a_ttl_taken_away_is_a_raised_one() {
    let registry = flights().await;
    with_ttl(&registry, "ttl: ").await;
    assert_eq!(ttls(&registry), (Some(3 * HOUR), Some(None), None));
    refilled(&registry).await;
    assert_eq!(ttls(&registry), (None, None, None));
}

#[tokio::test]
async fn a_raise_is_changed_or_taken_back_before_it_is_in_effect() {
    let registry = flights().await;
    let since = |registry: &Registry| catalog(registry).views["airport_weather"].refill.map(|refill| refill.since);
    with_ttl(&registry, "ttl: 4h").await;
    let first = since(&registry);
    // What is refilled for four hours is for less, and not for more.
    with_ttl(&registry, "ttl: 210m").await;
    assert_eq!(
        (ttls(&registry), since(&registry)),
        ((Some(3 * HOUR), Some(Some(210 * MINUTE)), Some(210 * MINUTE)), first)
    );
    with_ttl(&registry, "ttl: 5h").await;
    assert!(since(&registry) > first);
    with_ttl(&registry, "ttl: 2h").await;
    assert_eq!(ttls(&registry), (Some(2 * HOUR), None, Some(3 * HOUR)));
    // Rows were kept for the service that froze three hours.
    with_ttl(&registry, "ttl: 3h").await;
    assert_eq!(ttls(&registry), (Some(3 * HOUR), None, Some(3 * HOUR)));
}

#[tokio::test]
async fn a_raise_without_history_is_refused_and_one_of_what_is_not_online_needs_no_refill() {
    let changes = |flag: &'static str, ttl: &'static str| [("ttl: 3h", ttl), ("online: true\n  offline: true", flag)];
    let registry = open(&LossyFiles::new(1)).await.expect("an empty disk opens");
    apply(&registry, flights_with(&changes("online: true\n  offline: false", "ttl: 3h"))).await.expect("valid");
    let raised = flights_with(&changes("online: true\n  offline: false", "ttl: 4h"));
    let refused = apply(&registry, raised).await.expect_err("nothing to refill from");
    assert!(lines(&refused).iter().any(|line| line.contains("3h -> 4h") && line.contains("offline: false")));

    let registry = open(&LossyFiles::new(1)).await.expect("an empty disk opens");
    apply(&registry, flights_with(&changes("online: false\n  offline: true", "ttl: 3h"))).await.expect("valid");
    apply(&registry, flights_with(&changes("online: false\n  offline: true", "ttl: 4h"))).await.expect("compatible");
    assert_eq!(ttls(&registry).0, Some(4 * HOUR));
}

#[tokio::test]
async fn another_source_is_refused() {
    let twin = (
        "kind: Entity\nmetadata: {name: carrier}",
        "kind: Source\nmetadata: {name: sky}\nspec: {type: push, eventTime: at, columns: [{name: at, type: timestamp}, {name: origin, type: string}, {name: temp, type: float64}, {name: wind_speed, type: float64}]}\n---\napiVersion: hydrant/v1\nkind: Entity\nmetadata: {name: carrier}",
    );
    refused(&[("source: weather", "source: sky"), twin], &format!("{VIEW}.source"), "weather -> sky").await;
}

#[tokio::test]
async fn other_entities_are_refused() {
    let wider =
        ("- {name: origin, type: string}\n", "- {name: origin, type: string}\n    - {name: carrier, type: string}\n");
    refused(
        &[("entities: [airport]", "entities: [airport, carrier]"), wider],
        &format!("{VIEW}.entities"),
        "airport -> airport, carrier",
    )
    .await;
}

#[tokio::test]
async fn other_join_keys_of_an_entity_in_use_are_refused() {
    let changes = [
        ("[{name: origin, type: string}]", "[{name: origin, type: string}, {name: temp, type: string}]"),
        ("- {name: temp, type: float64}", "- {name: temp, type: string}"),
    ];
    let registry = flights().await;
    let refused = apply(&registry, flights_with(&changes)).await.expect_err("keys are stored under them");
    assert!(
        lines(&refused)
            .iter()
            .any(|line| line.starts_with("definitions[0].spec.joinKeys: the join keys of entity 'airport'"))
    );
}

#[tokio::test]
async fn join_keys_of_an_entity_that_nothing_uses_change_freely() {
    let registry = flights().await;
    let entity = |keys: &str| {
        definitions(&format!(
            "{{apiVersion: hydrant/v1, kind: Entity, metadata: {{name: plane}}, spec: {{joinKeys: [{keys}]}}}}"
        ))
    };
    apply(&registry, entity("{name: tailnum, type: string}")).await.expect("it is new");
    apply(&registry, entity("{name: tail, type: int64}")).await.expect("nothing is stored under it");
}

#[tokio::test]
async fn a_view_is_neither_taken_online_nor_offline_in_place() {
    refused(&[("online: true", "online: false")], &format!("{VIEW}.online"), "true -> false").await;
    refused(&[("offline: true", "offline: false")], &format!("{VIEW}.offline"), "true -> false").await;
}

#[tokio::test]
async fn a_source_gets_columns_and_other_rules_for_later_rows_in_place() {
    let catalog = accepted(&[
        (
            "- {name: wind_speed, type: float64}",
            "- {name: wind_speed, type: float64}\n    - {name: created, type: timestamp}",
        ),
        ("knownTime: event ", "knownTime: {column: created} "),
        ("maxFuture: 5m", "maxFuture: 1h"),
    ])
    .await;
    let source = &catalog.sources["weather"];
    assert_eq!((source.columns.len(), source.max_future), (5, 3_600_000_000));
}

#[tokio::test]
async fn a_column_that_a_view_takes_is_neither_removed_nor_retyped() {
    let registry = flights().await;
    let source = |column: &str| {
        let mut changed = flights_with(&[("    - {name: temp, type: float64}\n", column)]);
        vec![changed.remove(1)]
    };
    for (column, rule) in
        [("", "has no column 'temp'"), ("    - {name: temp, type: float32}\n", "would become float32")]
    {
        let refused = apply(&registry, source(column)).await.expect_err("a view takes it");
        assert_eq!(refused.code, Code::FailedPrecondition);
        let found = lines(&refused);
        assert!(
            found.iter().any(|line| line.starts_with("definitions[0].spec.columns") && line.contains(rule)),
            "{found:?}"
        );
    }
}

#[tokio::test]
async fn the_event_time_of_a_source_in_use_is_fixed() {
    let changes = [
        ("eventTime: event_timestamp", "eventTime: other"),
        (
            "- {name: event_timestamp, type: timestamp}",
            "- {name: event_timestamp, type: timestamp}\n    - {name: other, type: timestamp}",
        ),
    ];
    refused(&changes, "definitions[1].spec.eventTime", "can't change while views are over it: airport_weather").await;
}
