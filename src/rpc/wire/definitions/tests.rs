//! Round trips of definitions, and what a stranger may get wrong in them.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::registry::promise::{Severity, Target};

fn name() -> impl Strategy<Value = Name> {
    proptest::sample::select(vec!["a", "airport", "dep_delay", "x9", "weather_hourly"])
        .prop_map(|text| text.parse().expect("a valid name"))
}

fn data_type() -> impl Strategy<Value = DataType> {
    proptest::sample::select(vec![
        "bool",
        "int32",
        "int64",
        "float32",
        "float64",
        "string",
        "bytes",
        "timestamp",
        "list<int64>",
        "vector<8>",
    ])
    .prop_map(|text| text.parse().expect("a valid type"))
}

fn micros() -> impl Strategy<Value = Micros> {
    0..i64::MAX
}

fn typed_name() -> impl Strategy<Value = TypedName> {
    (name(), data_type()).prop_map(|(name, data_type)| TypedName { name, data_type })
}

fn known_time() -> impl Strategy<Value = KnownTimeRule> {
    prop_oneof![
        Just(KnownTimeRule::Arrival),
        micros().prop_map(|delay| KnownTimeRule::Event { delay }),
        name().prop_map(KnownTimeRule::Column),
    ]
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        ".{0,8}".prop_map(serde_json::Value::from),
        vec(any::<i32>(), 0..3).prop_map(serde_json::Value::from),
    ]
}

fn feature() -> impl Strategy<Value = FeatureSpec> {
    let tags = btree_map("[a-z]{1,3}", ".{0,4}", 0..3);
    (name(), ".{0,8}", option::of(data_type()), option::of(name()), option::of(json()), tags).prop_map(
        |(name, description, data_type, column, default, tags)| FeatureSpec {
            name,
            description,
            data_type,
            column,
            default,
            tags,
        },
    )
}

fn service_feature() -> impl Strategy<Value = ServiceFeature> {
    (name(), vec(name(), 0..3), option::of(name()), btree_map(name(), name(), 0..3))
        .prop_map(|(view, features, alias, keys)| ServiceFeature { view, features, alias, keys })
}

fn freshness() -> impl Strategy<Value = FreshnessSpec> {
    let severity = prop_oneof![Just(Severity::Page), Just(Severity::Ticket), Just(Severity::Info)];
    (micros(), 500_000..1_000_000_u32, micros(), severity).prop_map(|(max_age, target, window, severity)| {
        FreshnessSpec { max_age, target: Target::try_from(target).expect("it is in bounds"), window, severity }
    })
}

fn spec() -> impl Strategy<Value = Spec> {
    let source = (name(), known_time(), micros(), vec(typed_name(), 0..4)).prop_map(
        |(event_time, known_time, max_future, columns)| {
            Spec::Source(SourceSpec { source_type: SourceType::Push, event_time, known_time, max_future, columns })
        },
    );
    let view = (
        vec(name(), 0..3),
        name(),
        option::of(micros()),
        option::of(micros()),
        vec(feature(), 0..4),
        any::<(bool, bool)>(),
        option::of(freshness()),
    )
        .prop_map(|(entities, source, ttl, retention, features, (online, offline), freshness)| {
            Spec::FeatureView(FeatureViewSpec {
                entities,
                source,
                ttl,
                retention,
                features,
                online,
                offline,
                freshness,
            })
        });
    prop_oneof![
        Just(Spec::Tenant(TenantSpec {})),
        vec(typed_name(), 0..3).prop_map(|join_keys| Spec::Entity(EntitySpec { join_keys })),
        source,
        view,
        (option::of(micros()), vec(service_feature(), 0..3)).prop_map(|(latency_budget, features)| {
            Spec::FeatureService(FeatureServiceSpec { latency_budget, features })
        }),
    ]
}

fn definition() -> impl Strategy<Value = Definition> {
    (name(), ".{0,12}", ".{0,12}", btree_map("[a-z]{1,3}", ".{0,4}", 0..3), spec()).prop_map(
        |(name, description, owner, tags, spec)| Definition {
            metadata: Metadata { name, description, owner, tags },
            spec,
        },
    )
}

proptest! {
    #[test]
    fn definitions_cross_the_wire_unchanged(definitions in vec(definition(), 0..4)) {
        let wire: Vec<v1::Definition> = definitions.iter().map(encode_definition).collect();
        prop_assert_eq!(decode_definitions(wire).expect("they were valid"), definitions);
    }

    #[test]
    fn a_request_s_known_time_crosses_the_wire_unchanged(rule in known_time()) {
        let wire = encode_request_known_time(&rule);
        prop_assert_eq!(decode_request_known_time(Some(wire)).expect("it was valid"), Some(rule));
    }
}

#[test]
fn every_problem_of_every_definition_is_told_at_once() {
    let metadata = |name: &str| Some(v1::Metadata { name: name.to_owned(), ..Default::default() });
    let view = v1::FeatureViewSpec {
        entities: vec!["Airport".to_owned()],
        source: "weather".to_owned(),
        features: vec![
            v1::FeatureSpec { name: "temp".to_owned(), r#type: "celsius".to_owned(), ..Default::default() },
            v1::FeatureSpec { name: "__".to_owned(), default_json: Some("{".to_owned()), ..Default::default() },
        ],
        ttl_micros: Some(u64::MAX),
        ..Default::default()
    };
    let source = v1::SourceSpec {
        r#type: "smoke_signals".to_owned(),
        event_time: "t".to_owned(),
        known_time: "someday".to_owned(),
        ..Default::default()
    };
    let error = decode_definitions(vec![
        v1::Definition { metadata: metadata("fine"), spec: Some(WireSpec::FeatureView(view)), status: None },
        v1::Definition { metadata: None, spec: None, status: None },
        v1::Definition { metadata: metadata("s"), spec: Some(WireSpec::Source(source)), status: None },
    ])
    .expect_err("they are full of problems");
    let paths: Vec<&str> = error.violations.iter().map(|violation| violation.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "definitions[0].spec.entities[0]",
            "definitions[0].spec.ttl",
            "definitions[0].spec.features[0].type",
            "definitions[0].spec.features[1].name",
            "definitions[0].spec.features[1].default",
            "definitions[1].metadata.name",
            "definitions[1].spec",
            "definitions[2].spec.type",
            "definitions[2].spec.knownTime",
        ]
    );
}

#[test]
fn a_problem_is_told_by_the_definition_it_is_in_and_the_place_there() {
    let violation = |path: &str| Violation { path: path.to_owned(), message: "wrong".to_owned() };
    let problem = encode_problem(&violation("definitions[12].spec.features[0].type"));
    assert_eq!((problem.definition, problem.path.as_str()), (12, "spec.features[0].type"));
    let problem = encode_problem(&violation("somewhere else"));
    assert_eq!((problem.definition, problem.path.as_str()), (0, "somewhere else"));
}
