//! Bad documents and what is said about them: everything at once, each at its place.

use super::super::yaml;
use super::*;

/// What a file's problems are shown as.
fn problems(text: &str) -> Vec<String> {
    let found = yaml::parse("f.yaml", text).expect_err("it is bad");
    found.problems.into_iter().map(|problem| problem.to_string()).collect()
}

#[test]
fn every_problem_of_a_file_is_listed_at_once_with_its_place() {
    let text = "\
apiVersion: hydrant/v2
kind: Entity
metadata: {name: Airport, colour: red, tags: {tier: 1}}
spec:
  joinKeys: [{name: origin, type: text}, {name: dest}]
---
apiVersion: hydrant/v1
kind: FeatureView
metadata: {name: weather}
spec:
  entities: airport
  source: weather
  ttl: 3 hours
  features:
    - {name: temp, name: heat}
  online: 'yes'
  online: true
";
    assert_eq!(
        problems(text),
        [
            "f.yaml:1:13: apiVersion: 'hydrant/v2' is not known: this server reads hydrant/v1",
            "f.yaml:3:18: metadata.name: 'Airport' is not a valid name: use [a-z][a-z0-9_]{0,62}, without '__'",
            "f.yaml:3:27: metadata.colour: unknown field 'colour'; known here: name, description, owner, tags",
            "f.yaml:3:53: metadata.tags.tier: expected a text, found a number (quote it if it is meant as a text)",
            "f.yaml:5:35: spec.joinKeys[0].type: 'text' is no type: use bool, int32, int64, float32, float64, string, bytes, timestamp, list<T> or vector<N> with N from 1 to 65536",
            "f.yaml:5:42: spec.joinKeys[1].type: 'type' is missing",
            "f.yaml:11:13: spec.entities: expected a list, found a text",
            "f.yaml:13:8: spec.ttl: '3 hours' is no duration: use a whole number with one of d, h, m, s, ms, us, such as 90s, 5m, 3h or 7d",
            "f.yaml:15:20: 'name' stands here twice; first on line 15",
            "f.yaml:16:11: spec.online: expected true or false, found a text",
            "f.yaml:17:3: 'online' stands here twice; first on line 16",
        ]
    );
}

#[test]
fn bad_documents_are_told_by_the_rule_they_break() {
    for (text, expected) in [
        ("a: [", "f.yaml:2:1: no valid YAML"),
        ("just text", "f.yaml:1:1: expected a mapping, found a text"),
        ("{kind: Entity, metadata: {name: a}, spec: {joinKeys: []}}", "apiVersion: 'apiVersion' is missing"),
        (
            "{apiVersion: hydrant/v1, kind: View, metadata: {name: a}, spec: {}}",
            "'View' is no kind; there are Tenant, Entity",
        ),
        (
            "{apiVersion: hydrant/v1, kind: Source, metadata: {name: a}, spec: {type: kafka, eventTime: t, columns: []}}",
            "'kafka' is no type of source",
        ),
        (
            "{apiVersion: hydrant/v1, kind: Source, metadata: {name: a}, spec: {type: push, eventTime: t, columns: [], knownTime: never}}",
            "'never' is no known time",
        ),
        (
            "{apiVersion: hydrant/v1, kind: Source, metadata: {name: a}, spec: {type: push, eventTime: t, columns: [], knownTime: {event: +1m, column: c}}}",
            "spec.knownTime: expected arrival, event",
        ),
        (
            "{apiVersion: hydrant/v1, kind: Source, metadata: {name: a}, spec: {type: push, eventTime: t, columns: [], knownTime: {events: +1m}}}",
            "unknown field 'events'",
        ),
        (
            "{apiVersion: hydrant/v1, kind: FeatureService, metadata: {name: a}, spec: {features: ['v:f:g']}}",
            "'f:g' is not a valid name",
        ),
        (
            "{apiVersion: hydrant/v1, kind: FeatureService, metadata: {name: a}, spec: {features: [{view: v, features: []}]}}",
            "an empty list takes nothing",
        ),
        (
            "{apiVersion: hydrant/v1, kind: FeatureService, metadata: {name: a}, spec: {features: [[v]]}}",
            "found a list",
        ),
        (
            "{apiVersion: hydrant/v1, kind: Entity, metadata: {name: !secret a}, spec: {joinKeys: []}}",
            "its tag is not known",
        ),
        (
            "{apiVersion: hydrant/v1, kind: Entity, metadata: {name: a, 5: b}, spec: {joinKeys: []}}",
            "the key of a mapping must be a text",
        ),
    ] {
        let found = problems(text);
        assert!(found.iter().any(|problem| problem.contains(expected)), "{text}: {found:#?}");
    }
}

#[test]
fn no_file_takes_memory_or_stack_by_size_depth_or_aliases() {
    let deep = "[".repeat(yaml::MAX_DEPTH + 1);
    assert!(problems(&deep)[0].contains("more than 32 deep"));
    let dashes = "- ".repeat(1_000_000);
    assert!(problems(&dashes)[0].contains("more than 32 deep"));
    let large = "#".repeat(yaml::MAX_BYTES + 1);
    assert!(problems(&large)[0].contains("at most 4194304"));
    let mut laughs = String::from("a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
    for level in 1..12 {
        let before = level - 1;
        laughs.push_str(&format!("a{level}: &a{level} [{}]\n", vec![format!("*a{before}"); 9].join(", ")));
    }
    assert!(problems(&laughs)[0].contains("aliases stand for"));
}

/// Definitions that can be read but don't fit; the expected `path: message`, all of them.
#[tokio::test]
async fn definitions_that_do_not_fit_are_refused_with_every_problem() {
    let entity = |name: &str, keys: &str| document("Entity", name, &format!("{{joinKeys: [{keys}]}}"));
    let source = |name: &str, rest: &str| document("Source", name, &format!("{{type: push, {rest}}}"));
    let view = |name: &str, rest: &str| document("FeatureView", name, &format!("{{{rest}}}"));
    let service = |name: &str, rest: &str| document("FeatureService", name, &format!("{{{rest}}}"));
    let columns = "eventTime: at, columns: [{name: at, type: timestamp}, {name: origin, type: string}, {name: n, type: int32}, {name: f, type: float64}, {name: l, type: list<float32>}]";
    for (documents, expected) in [
        (
            vec![document("Tenant", "other", "{}")],
            vec!["definitions[0].kind: tenants are applied by themselves, by a caller with the role platform"],
        ),
        (
            vec![entity("a", "{name: k, type: float64}, {name: k, type: list<int32>}")],
            vec![
                "definitions[0].spec.joinKeys[1]: join key 'k' stands here twice",
                "definitions[0].spec.joinKeys[0].type: a join key can't be float64: use bool, int32, int64, string, bytes or timestamp",
                "definitions[0].spec.joinKeys[1].type: a join key can't be list<int32>: use bool, int32, int64, string, bytes or timestamp",
            ],
        ),
        (vec![entity("a", "")], vec!["definitions[0].spec.joinKeys: at least one join key is needed"]),
        (
            vec![entity("a", "{name: k, type: string}"), entity("a", "{name: k, type: string}")],
            vec!["definitions[1].metadata.name: Entity 'a' is defined twice; first at definitions[0]"],
        ),
        (
            vec![source(
                "s",
                "eventTime: at, knownTime: {column: f}, columns: [{name: f, type: float64}, {name: f, type: float64}]",
            )],
            vec![
                "definitions[0].spec.columns[1]: column 'f' stands here twice",
                "definitions[0].spec.eventTime: the source declares no column 'at'",
                "definitions[0].spec.knownTime.column: column 'f' is float64; a time must be timestamp",
            ],
        ),
        (
            vec![
                source("s", columns),
                view(
                    "v",
                    "entities: [nobody, airport], source: nothing, features: [{name: origin}], online: false, offline: false, ttl: 0s",
                ),
            ],
            vec![
                "definitions[1].spec.entities[0]: there is no entity 'nobody'",
                "definitions[1].spec.source: there is no source 'nothing'",
                "definitions[1].spec.features[0].name: 'origin' is a join key of the view; give the feature another name",
                "definitions[1].spec.ttl: must be longer than zero",
                "definitions[1].spec.online: a view that is neither online nor offline keeps nothing",
            ],
        ),
        (
            vec![
                source("s", columns),
                view(
                    "v",
                    "entities: [airport], source: s, features: [{name: n, type: float32}, {name: f, type: float32}, {name: x}, {name: y, column: z}, {name: l, type: vector<2>, default: [1]}, {name: d, column: n, default: 1.5}, {name: e, column: n, default: ~}, {name: d, column: n}]",
                ),
            ],
            vec![
                "definitions[1].spec.features[7]: feature 'd' stands here twice",
                "definitions[1].spec.features[0].type: column 'n' of source 's' is int32, which doesn't become float32 without loss",
                "definitions[1].spec.features[1].type: column 'f' of source 's' is float64, which doesn't become float32 without loss",
                "definitions[1].spec.features[2].name: source 's' has no column 'x'",
                "definitions[1].spec.features[3].column: source 's' has no column 'z'",
                "definitions[1].spec.features[4].default: a vector<2> has 2 elements, not 1",
                "definitions[1].spec.features[5].default: 1.5 is no int32: give a whole number of 32 bits",
                "definitions[1].spec.features[6].default: a default can't be null; leave it out",
            ],
        ),
        (
            vec![
                entity("twin", "{name: origin, type: string}"),
                view("v", "entities: [airport, twin], source: weather, features: [{name: temp}]"),
            ],
            vec!["definitions[1].spec.entities[1]: entities 'airport' and 'twin' both have a join key 'origin'"],
        ),
        (
            vec![
                entity("flight", "{name: number, type: int64}"),
                entity("gate", "{name: temp, type: int32}"),
                view("v", "entities: [flight, gate], source: weather, features: [{name: wind_speed}]"),
            ],
            vec![
                "definitions[2].spec.source: source 'weather' has no column 'number' for the view's join key",
                "definitions[2].spec.source: column 'temp' of source 'weather' is float64; the join key is int32",
            ],
        ),
        (
            vec![service("m", "features: [nothing, 'airport_weather:hail', {view: airport_weather, keys: {dest: x}}]")],
            vec![
                "definitions[0].spec.features[0].view: there is no feature view 'nothing'",
                "definitions[0].spec.features[1].features[0]: feature view 'airport_weather' has no feature 'hail'",
                "definitions[0].spec.features[2].keys.dest: feature view 'airport_weather' has no join key 'dest'",
            ],
        ),
        (
            vec![service(
                "m",
                "features: [airport_weather, {view: airport_weather, features: [temp], keys: {origin: dest}}]",
            )],
            vec![
                "definitions[0].spec.features[1]: the service would have two columns 'airport_weather__temp'; give one an alias (`as`)",
            ],
        ),
        (
            vec![
                entity("number", "{name: n, type: int64}"),
                source("s", columns),
                view("numbered", "entities: [number], source: s, features: [{name: f}]"),
                service("m", "features: [airport_weather, {view: numbered, keys: {n: origin}}]"),
            ],
            vec![
                "definitions[3].spec.features[1].keys: request column 'origin' would be string for view 'airport_weather' and int64 for view 'numbered'; map one to another column (`keys`)",
            ],
        ),
    ] {
        let registry = flights().await;
        let documents = documents.join("\n---\n");
        let refused = apply(&registry, definitions(&documents)).await.expect_err(&documents);
        assert_eq!(refused.reason, "INVALID_DEFINITION");
        assert_eq!(lines(&refused), expected, "{documents}");
    }
}

/// Whatever piece of good definitions can't be read, nothing else is said to be wrong for it: not
/// what refers to it, and not what it seems to lack.
#[tokio::test]
async fn what_can_not_be_read_makes_nothing_else_wrong() {
    let empty = open(&LossyFiles::new(1)).await.expect("an empty disk opens");
    let applied = flights().await;
    let permit = permit(Action::ReadDefinitions);
    let mut broken = 0;
    for (at, _) in FLIGHTS.match_indices(": ") {
        for damage in ["{nope: 1}", "!unknown ", "[[x]]", "{"] {
            let text = format!("{}: {damage} #{}", &FLIGHTS[..at], &FLIGHTS[at + 2..]);
            let Err(bad) = yaml::parse("f.yaml", &text) else { continue };
            broken += 1;
            assert!(!bad.unread.is_empty(), "{text}");
            let readable: Vec<Definition> = bad.definitions.iter().map(|located| located.definition.clone()).collect();
            for registry in [&empty, &applied] {
                let found = registry.check_beside(&permit, &readable, &bad.unread).err();
                let said = found.map(|error| error.violations).unwrap_or_default().into_iter().filter(|violation| {
                    let (index, path) = violation.path["definitions[".len()..].split_once(']').expect("an index");
                    let index: usize = index.parse().expect("an index");
                    !bad.definitions[index].has_gap_at(path.trim_start_matches('.'))
                });
                let said: Vec<_> = said.collect();
                assert!(said.is_empty(), "{:#?} {said:#?}\n{text}", bad.problems);
            }
        }
    }
    assert!(broken > 100, "{broken}");
}

#[tokio::test]
async fn what_can_be_read_beside_what_can_not_is_checked() {
    let registry = open(&LossyFiles::new(1)).await.expect("an empty disk opens");
    let text = FLIGHTS
        .replacen("ttl: ", "ttl: soon # ", 1)
        .replacen("carrier_departures:dep_delay", "carrier_departures:delay", 1)
        .replacen("source: departures", "source: depatures", 1);
    let bad = yaml::parse("f.yaml", &text).expect_err("the ttl is bad");
    assert_eq!(bad.problems.len(), 1, "{:#?}", bad.problems);
    let readable: Vec<Definition> = bad.definitions.iter().map(|located| located.definition.clone()).collect();
    let refused = registry
        .check_beside(&permit(Action::ReadDefinitions), &readable, &bad.unread)
        .expect_err("names that nothing has");
    let said = lines(&refused);
    assert_eq!(said.len(), 2, "{said:#?}");
    assert!(said[0].ends_with("feature view 'carrier_departures' has no feature 'delay'"), "{said:#?}");
    assert!(said[1].ends_with("there is no source 'depatures'"), "{said:#?}");
}

#[tokio::test]
async fn columns_feed_features_of_their_type_and_of_wider_ones() {
    let registry = flights().await;
    let documents = [
        document("Entity", "number", "{joinKeys: [{name: n, type: int64}]}"),
        document(
            "Source",
            "s",
            "{type: push, eventTime: at, columns: [{name: at, type: timestamp}, {name: n, type: int32}, {name: f, type: float32}, {name: l, type: list<float32>}]}",
        ),
        document(
            "FeatureView",
            "v",
            "{entities: [number], source: s, features: [{name: same, column: n}, {name: long, column: n, type: int64}, {name: real, column: n, type: float64}, {name: wide, column: f, type: float64}, {name: v, column: l, type: vector<8>}, {name: l}]}",
        ),
    ];
    apply(&registry, definitions(&documents.join("\n---\n")))
        .await
        .unwrap_or_else(|refused| panic!("{:#?}", lines(&refused)));
    let catalog = catalog(&registry);
    let types: Vec<String> = catalog.views["v"].features.iter().map(|feature| feature.data_type.to_string()).collect();
    assert_eq!(types, ["int32", "int64", "float64", "float64", "vector<8>", "list<float32>"]);
}

fn document(kind: &str, name: &str, spec: &str) -> String {
    format!("{{apiVersion: hydrant/v1, kind: {kind}, metadata: {{name: {name}}}, spec: {spec}}}")
}
