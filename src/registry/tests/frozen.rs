//! Feature services: what is frozen stays as it was.

use super::super::catalog::ServiceVersion;
use super::*;
use crate::error::Code;

fn columns(version: &ServiceVersion) -> Vec<String> {
    version.columns.iter().map(|column| column.name.clone()).collect()
}

async fn version(registry: &Registry, number: usize) -> Arc<ServiceVersion> {
    Arc::clone(&catalog(registry).services["delay_model"].versions[number - 1])
}

#[tokio::test]
async fn a_service_freezes_its_columns_in_the_order_it_names_them() {
    let registry = flights().await;
    let first = version(&registry, 1).await;
    assert_eq!(
        columns(&first),
        ["airport_weather__temp", "airport_weather__wind", "carrier_departures__dep_delay", "dest_weather__temp"]
    );
    assert_eq!(first.latency_budget, Some(8_000));
    // One lookup for each view under each key.
    assert_eq!(first.lookups.len(), 3);
    assert_eq!(first.lookups[2].keys, [name("dest")]);
    assert_eq!(first.lookups[0].ttl, Some(10_800_000_000));
    assert!(
        first.columns[1]
            .default
            .as_ref()
            .is_some_and(|value| value.same_bits(&hydrant_storage::value::Value::Float64(0.0)))
    );
    assert_eq!(first.shape_hash.len(), 32);
}

#[tokio::test]
async fn frozen_versions_do_not_change_when_their_views_do() {
    let files = LossyFiles::new(1);
    let registry = open(&files).await.expect("an empty disk opens");
    apply(&registry, definitions(FLIGHTS)).await.expect("the examples fit together");
    let before = version(&registry, 1).await;
    let mut changed = flights_with(&[
        ("ttl: 3h", "ttl: 1h"),
        ("default: 0.0", "default: 9.5"),
        ("features:\n    - {name: temp", "features:\n    - {name: temp_too, column: temp}\n    - {name: temp"),
    ]);
    let service = changed.remove(3);
    apply(&registry, changed).await.expect("the views may change so");
    for registry in [registry.clone(), open(&files).await.expect("it opens again")] {
        let after = version(&registry, 1).await;
        assert_eq!(catalog(&registry).services["delay_model"].versions.len(), 1);
        assert_eq!(after.shape_hash, before.shape_hash);
        assert_eq!(columns(&after), columns(&before));
        assert_eq!(after.lookups[0].ttl, before.lookups[0].ttl);
        assert_eq!(format!("{:?}", after.columns), format!("{:?}", before.columns));
    }
    // Applied again, the same words mean what the views are now.
    let applied = apply(&registry, vec![service]).await.expect("it fits");
    assert_eq!(applied.plan.changes[0].details()[0], "version: 1 -> 2");
    let second = version(&registry, 2).await;
    assert_eq!(columns(&second)[..3], ["airport_weather__temp_too", "airport_weather__temp", "airport_weather__wind"]);
    assert_eq!(second.lookups[0].ttl, Some(3_600_000_000));
    assert_ne!(second.shape_hash, before.shape_hash);
    let first = version(&registry, 1).await;
    assert_eq!((columns(&first), first.lookups[0].ttl), (columns(&before), before.lookups[0].ttl));
}

#[tokio::test]
async fn another_latency_budget_is_another_version_of_the_same_shape() {
    let registry = flights().await;
    apply(&registry, flights_with(&[("latencyBudget: 8ms", "latencyBudget: 20ms")])).await.expect("it fits");
    let (first, second) = (version(&registry, 1).await, version(&registry, 2).await);
    assert_eq!((first.latency_budget, second.latency_budget), (Some(8_000), Some(20_000)));
    assert_eq!(first.shape_hash, second.shape_hash);
}

#[tokio::test]
async fn other_words_about_a_service_make_no_version() {
    let registry = flights().await;
    let words = ("metadata: {name: delay_model}", "metadata: {name: delay_model, description: \"Late?\"}");
    let before = registry.snapshot().revision;
    apply(&registry, flights_with(&[words])).await.expect("it fits");
    assert_eq!(registry.snapshot().revision, before + 1);
    assert_eq!(catalog(&registry).services["delay_model"].versions.len(), 1);
}

#[tokio::test]
async fn rows_stay_for_the_longest_ttl_among_view_and_services() {
    let registry = flights().await;
    apply(&registry, flights_with(&[("ttl: 3h", "ttl: 1h")])).await.expect("a ttl may be lowered");
    assert_eq!(catalog(&registry).views["airport_weather"].longest_ttl, Some(10_800_000_000));
    delete(&registry, Kind::FeatureService, "delay_model").await.expect("nothing uses it");
    assert_eq!(catalog(&registry).views["airport_weather"].longest_ttl, Some(3_600_000_000));
    assert_eq!(catalog(&registry).views["carrier_departures"].longest_ttl, None);
}

#[tokio::test]
async fn a_version_is_described_as_it_was_frozen_and_not_as_the_service_is_now() {
    let registry = flights().await;
    let before = registry.get(&permit(Action::ReadDefinitions), Kind::FeatureService, &name("delay_model"));
    let without = flights_with(&[("    - carrier_departures:dep_delay\n", ""), ("ttl: 3h", "ttl: 1h")]);
    apply(&registry, without).await.expect("a service may take less");
    let read = permit(Action::ReadDefinitions);
    let described = |number| registry.get_version(&read, &name("delay_model"), number).expect("it is served");
    let first = described(1);
    assert_eq!((first.version, first.versions.as_slice()), (1, [1, 2].as_slice()));
    let frozen = first.frozen.expect("a service has columns");
    assert_eq!(frozen.columns.len(), 4);
    // Written out, it freezes to the same columns.
    let mut again = first.applied.definition.clone();
    again.metadata.name = name("again");
    let mut definitions = flights_with(&[("ttl: 3h", "ttl: 1h")]);
    definitions.push(again);
    apply(&registry, definitions).await.expect("it is a definition like others");
    let again = Arc::clone(&catalog(&registry).services["again"].versions[0]);
    assert_eq!(columns(&again), columns(&frozen));
    let keys = |version: &ServiceVersion| version.lookups.iter().map(|lookup| lookup.keys.clone()).collect::<Vec<_>>();
    assert_eq!(keys(&again), keys(&frozen));

    let current = registry.get(&read, Kind::FeatureService, &name("delay_model")).expect("it is there");
    assert_eq!(described(current.version).applied.definition, current.applied.definition);
    let before = before.expect("it was there").applied.definition;
    assert_eq!(current.applied.definition, before, "the last apply has put it back");
    let upstream = |number| {
        let lineage = registry.lineage_of_version(&read, &name("delay_model"), number).expect("it is served");
        lineage.upstream.iter().filter(|edge| edge.to.0 == Kind::FeatureService).count()
    };
    assert_eq!((upstream(1), upstream(2)), (2, 1));
}

#[tokio::test]
async fn a_version_that_is_not_current_is_deleted_alone_and_its_number_does_not_come_back() {
    let files = LossyFiles::new(1);
    let registry = open(&files).await.expect("an empty disk opens");
    apply(&registry, definitions(FLIGHTS)).await.expect("the examples fit together");
    let without = flights_with(&[("    - carrier_departures:dep_delay\n", "")]);
    apply(&registry, without.clone()).await.expect("a service may take less");
    let service = name("delay_model");
    let seen = registry.get(&permit(Action::ReadDefinitions), Kind::FeatureService, &service).expect("it is there");
    let delete_version = async |registry: &Registry, number, etag: &str| {
        registry.delete_version(&delete_permit(), &service, number, etag.to_owned()).await
    };
    let current = delete_version(&registry, 2, "").await.expect_err("it is current");
    assert_eq!((current.code, current.reason), (Code::FailedPrecondition, "VERSION_IS_CURRENT"));
    let absent = delete_version(&registry, 3, "").await.expect_err("it isn't there");
    assert_eq!((absent.code, absent.reason), (Code::NotFound, "SERVICE_VERSION_NOT_FOUND"));
    delete_version(&registry, 1, &seen.applied.etag).await.expect("nobody changed it since");
    let stale = delete_version(&registry, 1, &seen.applied.etag).await.expect_err("it was changed since");
    assert_eq!(stale.code, Code::Aborted);

    // What only version 1 needed is free, and applying the same again still changes nothing.
    delete(&registry, Kind::FeatureView, "carrier_departures").await.expect("nothing uses it any more");
    drop(registry);
    let registry = open(&files).await.expect("it opens again");
    let numbers = |registry: &Registry| {
        catalog(registry).services["delay_model"].versions.iter().map(|version| version.number).collect::<Vec<_>>()
    };
    assert_eq!(numbers(&registry), [2]);
    let service_alone: Vec<Definition> =
        without.into_iter().filter(|definition| definition.kind() == Kind::FeatureService).collect();
    assert!(apply(&registry, service_alone).await.expect("it fits").plan.is_empty());
    apply(&registry, definitions(FLIGHTS)).await.expect("it fits");
    assert_eq!(numbers(&registry), [2, 3]);
}
