//! What holds for whatever is applied. A failing case prints its input and its seed.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use serde_json::json;

use super::super::definition::{
    EntitySpec, FeatureServiceSpec, FeatureSpec, FeatureViewSpec, KnownTimeRule, Metadata, ServiceFeature, SourceSpec,
    SourceType, Spec, TypedName,
};
use super::super::documents;
use super::super::plan::Plan;
use super::*;

const SOURCE_COLUMNS: usize = 6;

/// What a request after `step` others may say. Later steps mostly grow views and lower ttls, so that
/// most requests can be applied; some are broken or incompatible. The first names everything, later
/// ones leave things out.
fn request(step: usize) -> impl Strategy<Value = Vec<Definition>> {
    let entities = (0..3_u8).map(|number| "[a-zé ]{0,3}".prop_map(move |words| entity(number, &words)).boxed());
    let sources =
        (0..2_u8).map(|number| (0..4_u8, 0..3_i64).prop_map(move |(rule, delay)| source(number, rule, delay)).boxed());
    let views = (0..4_u8).map(|number| {
        let ttl = prop_oneof![20 => Just(Some(100 - 10 * step as i64)), 1 => prop::option::of(1..200_i64)];
        let features = prop_oneof![20 => Just(2 + step), 1 => 1..=SOURCE_COLUMNS];
        let entity = prop_oneof![40 => Just(number % 3), 1 => 0..4_u8];
        let view = (entity, ttl, any::<f64>(), features, any::<bool>());
        view.prop_map(move |(entity, ttl, default, features, reversed)| {
            view_of(number, entity, number % 2, ttl, default, features, reversed)
        })
        .boxed()
    });
    let services = (0..3_u8).map(|number| {
        let items = prop::collection::vec((0..4_u8, any::<bool>(), any::<bool>()), 1..4);
        (items, prop::option::of(1..3_i64)).prop_map(move |(items, budget)| service(number, &items, budget)).boxed()
    });
    let all: Vec<_> = entities.chain(sources).chain(views).chain(services).collect();
    let count = all.len();
    let kept = prop::collection::vec(prop::bool::weighted(if step == 0 { 1.0 } else { 0.6 }), count);
    (all, kept, any::<bool>()).prop_map(|(all, kept, reversed)| {
        let mut request: Vec<_> = all.into_iter().zip(kept).filter_map(|(one, kept)| kept.then_some(one)).collect();
        if reversed {
            request.reverse();
        }
        request
    })
}

fn requests() -> impl Strategy<Value = Vec<Vec<Definition>>> {
    (request(0), request(1), request(2), request(3)).prop_map(|(a, b, c, d)| vec![a, b, c, d])
}

fn definition(prefix: &str, number: u8, words: &str, spec: Spec) -> Definition {
    let metadata = Metadata {
        name: name(&format!("{prefix}{number}")),
        description: words.to_owned(),
        owner: String::new(),
        tags: BTreeMap::new(),
    };
    Definition { metadata, spec }
}

fn typed(column: &str, data_type: &str) -> TypedName {
    TypedName { name: name(column), data_type: data_type.parse().expect("a type") }
}

fn entity(number: u8, words: &str) -> Definition {
    let join_keys = vec![typed(&format!("key{number}"), "string")];
    definition("entity", number, words, Spec::Entity(EntitySpec { join_keys }))
}

fn source(number: u8, rule: u8, delay: i64) -> Definition {
    let known_time = match rule {
        0 => KnownTimeRule::Arrival,
        1 => KnownTimeRule::Event { delay },
        _ => KnownTimeRule::Column(name("created")),
    };
    let mut columns = vec![typed("at", "timestamp"), typed("created", "timestamp")];
    columns.extend((0..3).map(|key| typed(&format!("key{key}"), "string")));
    columns.extend((0..SOURCE_COLUMNS).map(|column| typed(&format!("c{column}"), "float64")));
    let spec =
        SourceSpec { source_type: SourceType::Push, event_time: name("at"), known_time, max_future: delay, columns };
    definition("source", number, "", Spec::Source(spec))
}

fn view_of(
    number: u8,
    entity: u8,
    source: u8,
    ttl: Option<i64>,
    default: f64,
    features: usize,
    reversed: bool,
) -> Definition {
    let feature = |column: usize| FeatureSpec {
        name: name(&format!("c{column}")),
        description: String::new(),
        data_type: None,
        column: None,
        default: (column == 0).then(|| if default.is_finite() { json!(default) } else { json!("NaN") }),
        tags: BTreeMap::new(),
    };
    let mut features: Vec<FeatureSpec> = (0..features).map(feature).collect();
    if reversed {
        features.reverse();
    }
    let spec = FeatureViewSpec {
        retention: None,
        entities: vec![name(&format!("entity{entity}"))],
        source: name(&format!("source{source}")),
        ttl,
        features,
        online: true,
        offline: true,
        freshness: None,
    };
    definition("view", number, "", Spec::FeatureView(spec))
}

fn service(number: u8, items: &[(u8, bool, bool)], latency_budget: Option<i64>) -> Definition {
    let item = |(index, (view, all, mapped)): (usize, &(u8, bool, bool))| ServiceFeature {
        view: name(&format!("view{view}")),
        features: if *all { Vec::new() } else { vec![name("c0")] },
        alias: Some(name(&format!("item{index}"))),
        keys: if *mapped && view % 3 == 0 { BTreeMap::from([(name("key0"), name("other"))]) } else { BTreeMap::new() },
    };
    let features = items.iter().enumerate().map(item).collect();
    definition("service", number, "", Spec::FeatureService(FeatureServiceSpec { latency_budget, features }))
}

fn check(requests: Vec<Vec<Definition>>) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let files = LossyFiles::new(1);
        let registry = open(&files).await.expect("an empty disk opens");
        let (read, change) = (permit(Action::ReadDefinitions), permit(Action::ChangeDefinitions));
        let mut frozen: BTreeMap<String, String> = BTreeMap::new();
        for definitions in requests {
            let before = registry.snapshot();
            let planned = registry.plan(&read, &definitions).and_then(Plan::allowed);
            let applied = registry.apply(&change, definitions.clone(), Some(before.revision)).await;
            let after = registry.snapshot();
            match (planned, applied) {
                (Ok(planned), Ok(applied)) => {
                    prop_assert_eq!(&planned, &applied.plan);
                    prop_assert_eq!(planned.is_empty(), Arc::ptr_eq(&before, &after));
                    for change in &planned.changes {
                        let silent = change.differences.is_empty();
                        let unchanged = change.action == super::super::plan::Action::Unchanged;
                        prop_assert_eq!(silent, unchanged, "{}", planned);
                    }
                    let again = registry.plan(&read, &definitions).expect("what was applied fits");
                    prop_assert!(again.is_empty(), "{}", again);
                }
                (Err(planned), Err(applied)) => {
                    prop_assert_eq!(lines(&planned), lines(&applied));
                    prop_assert!(!planned.violations.is_empty());
                    prop_assert!(Arc::ptr_eq(&before, &after));
                }
                (planned, applied) => prop_assert!(false, "planned {:?}, applied {:?}", planned, applied),
            }
            for service in catalog(&registry).services.values() {
                for version in &service.versions {
                    let key = format!("{}@{}", version.service, version.number);
                    let ttls: Vec<_> = version.lookups.iter().map(|lookup| (&lookup.keys, lookup.ttl)).collect();
                    let shown = format!("{ttls:?} {:?} {}", version.columns, version.shape_hash);
                    let known = frozen.entry(key.clone()).or_insert_with(|| shown.clone());
                    prop_assert_eq!(&*known, &shown, "{} changed", key);
                }
            }
            let reopened = open(&files.after_power_cut(3)).await.expect("nothing is damaged");
            prop_assert_eq!(format!("{:?}", reopened.snapshot()), format!("{:?}", registry.snapshot()));
        }
        Ok(())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_applied_is_what_was_planned_and_is_still_there_after_a_restart(
        requests in requests()
    ) {
        check(requests)?;
    }

    #[test]
    fn documents_and_definitions_are_two_forms_of_one_thing(definitions in request(0)) {
        for definition in definitions {
            prop_assert_eq!(documents::from_json(&documents::to_json(&definition)), Ok(definition));
        }
    }
}
