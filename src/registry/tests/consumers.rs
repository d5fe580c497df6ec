//! Consumers: what models and jobs say that they use, and what that keeps from going.

use super::*;
use crate::error::Code;

async fn with_consumers() -> Registry {
    let registry = flights().await;
    apply(&registry, definitions(CONSUMERS)).await.expect("what they use is there");
    registry
}

#[tokio::test]
async fn a_consumer_is_a_definition_like_any_other() {
    let files = LossyFiles::new(1);
    let registry = open(&files).await.expect("an empty disk opens");
    let all = [definitions(CONSUMERS), definitions(FLIGHTS)].concat();
    apply(&registry, all.clone()).await.expect("in one request, in any order");
    let again = apply(&registry, all).await.expect("as before");
    assert!(again.plan.is_empty());
    let registry = open(&files.after_power_cut(3)).await.expect("it opens again");
    let read = permit(Action::ReadDefinitions);
    let found = registry.get(&read, Kind::Consumer, &name("delay_predictor")).expect("it is there");
    assert_eq!(found.applied.definition, definitions(CONSUMERS)[0]);
    let page = registry.list(&read, Kind::Consumer, 1, "").expect("a page");
    assert_eq!(page.items[0].applied.definition.name().as_str(), "delay_board");
    let page = registry.list(&read, Kind::Consumer, 1, &page.next_page_token).expect("a page");
    assert_eq!(page.items[0].applied.definition.name().as_str(), "delay_predictor");
    delete(&registry, Kind::Consumer, "delay_board").await.expect("nothing uses a consumer");
}

#[tokio::test]
async fn a_consumer_of_what_is_not_there_is_refused_and_needs_an_owner_and_a_version() {
    let registry = flights().await;
    let changed = |from: &str, to: &str| {
        let text = CONSUMERS.replacen(from, to, 1);
        assert_ne!(text, CONSUMERS, "{from}");
        definitions(&text)
    };
    for (from, to, problem) in [
        (
            "[delay_model@1]",
            "[delay_model@3]",
            "definitions[0].spec.services[0]: feature service 'delay_model' has no version 3; it has 1; the consumer's owner is ml@example.com",
        ),
        (
            "[delay_model@1]",
            "[other]",
            "definitions[0].spec.services[0]: there is no feature service 'other'; the consumer's owner is ml@example.com",
        ),
        (
            "carrier_departures:dep_delay",
            "carriers:dep_delay",
            "definitions[0].spec.features[0]: there is no feature view 'carriers'; the consumer's owner is ml@example.com",
        ),
        (
            "carrier_departures:dep_delay",
            "carrier_departures:x",
            "definitions[0].spec.features[0]: feature view 'carrier_departures' has no feature 'x'; the consumer's owner is ml@example.com",
        ),
        (
            "[delay_model@1]",
            "[delay_model@1, delay_model@1]",
            "definitions[0].spec.services[1]: 'delay_model@1' stands here twice",
        ),
        (
            "owner: ml@example.com",
            "owner: \" \"",
            "definitions[0].metadata.owner: a consumer needs an owner: who is told before what it uses changes",
        ),
        (
            "version: \"2026-01\"",
            "version: \"\"",
            "definitions[0].spec.version: a consumer needs a version: of its model or job, as you count",
        ),
        (
            "services: [delay_model]",
            "services: []",
            "definitions[1].spec.services: a consumer uses at least one service or feature",
        ),
    ] {
        let refused = apply(&registry, changed(from, to)).await.expect_err(problem);
        assert_eq!((refused.code, refused.reason), (Code::InvalidArgument, "INVALID_DEFINITION"));
        assert_eq!(lines(&refused), [problem]);
    }
    // A version that the same request makes is there.
    let both = [flights_with(&[("ttl: 3h", "ttl: 2h")]), changed("delay_model@1", "delay_model@2")].concat();
    apply(&registry, both).await.expect("it is made first");
}

#[tokio::test]
async fn what_a_consumer_uses_is_not_deleted_and_the_refusal_names_it_with_its_owner() {
    let registry = with_consumers().await;
    apply(&registry, flights_with(&[("ttl: 3h", "ttl: 2h")])).await.expect("another version is current");
    let change = permit(Action::ChangeDefinitions);
    let version = registry.delete_version(&change, &name("delay_model"), 1, String::new()).await;
    let version = version.expect_err("it is pinned");
    assert_eq!(version.reason, "DEFINITION_IN_USE");
    assert_eq!(
        version.message,
        "FeatureService 'delay_model@1' is in use by Consumer/delay_predictor (ml@example.com)"
    );
    let whole = delete(&registry, Kind::FeatureService, "delay_model").await.expect_err("it is used");
    assert!(whole.message.contains("Consumer/delay_board (web@example.com), Consumer/delay_predictor (ml@"), "{whole}");
    let view = delete(&registry, Kind::FeatureView, "carrier_departures").await.expect_err("a feature of it is used");
    assert!(view.message.ends_with("Consumer/delay_predictor (ml@example.com)"), "{view}");

    delete(&registry, Kind::Consumer, "delay_predictor").await.expect("nothing uses it");
    // The other follows the service and pins no version.
    registry.delete_version(&change, &name("delay_model"), 1, String::new()).await.expect("nothing pins it");
}

#[tokio::test]
async fn lineage_of_definitions_ends_at_consumers() {
    let registry = with_consumers().await;
    let read = permit(Action::ReadDefinitions);
    let found = registry.lineage(&read, Kind::Source, &name("departures")).expect("it is there");
    let consumers: Vec<String> = found
        .downstream
        .iter()
        .filter(|edge| edge.to.0 == Kind::Consumer)
        .map(|edge| format!("{} -> {}", edge.from.1, edge.to.1))
        .collect();
    assert_eq!(
        consumers,
        ["carrier_departures -> delay_predictor", "delay_model -> delay_board", "delay_model -> delay_predictor"]
    );
    apply(&registry, flights_with(&[("ttl: 3h", "ttl: 2h")])).await.expect("another version is current");
    let users = |number: u32| {
        let found = registry.lineage_of_version(&read, &name("delay_model"), number).expect("it is there");
        found.downstream.into_iter().map(|edge| edge.to.1.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(users(1), ["delay_predictor"]);
    assert_eq!(users(2), ["delay_board"]);
}
