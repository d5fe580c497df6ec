//! New versions of views: which changes make one, what is served while it is built, and ways back.

use super::*;
use crate::error::Code;
use crate::registry::catalog::{Standing, View};
use crate::registry::plan::{Class, Plan};
use crate::registry::revisions::What;
use crate::registry::{BuildProgress, BuildStep, Built};

const VIEW: &str = "airport_weather";

/// Everything but the service, which names features of the view's.
fn without_service(changes: &[(&str, &str)]) -> Vec<Definition> {
    let mut changed = flights_with(changes);
    changed.remove(3);
    changed
}

async fn change(registry: &Registry, changes: &[(&str, &str)]) -> super::super::Applied {
    apply(registry, without_service(changes)).await.unwrap_or_else(|refused| panic!("{refused}"))
}

fn served(registry: &Registry) -> Arc<View> {
    catalog(registry).views[VIEW].clone()
}

fn building(registry: &Registry) -> Option<Arc<View>> {
    let catalog = catalog(registry);
    let versions = catalog.versions.get(VIEW).into_iter().flatten();
    let mut building = versions.filter(|view| matches!(view.standing, Standing::Building { .. }));
    building.next().cloned()
}

fn older(registry: &Registry) -> Vec<u32> {
    let catalog = catalog(registry);
    let versions = catalog.versions.get(VIEW).into_iter().flatten();
    versions.filter(|view| view.standing == Standing::Older).map(|view| view.version).collect()
}

fn names(view: &View) -> Vec<String> {
    view.features.iter().map(|feature| feature.name.to_string()).collect()
}

/// As if it was complete.
async fn build(registry: &Registry) -> Option<u64> {
    let view = building(registry).expect("one is being built");
    let Standing::Building { since, .. } = view.standing else { panic!("{view:?}") };
    let tenant = catalog(registry).name.clone();
    assert_eq!(registry.built(&tenant, view.id, since - 1).await, Ok(None), "another change asked for it");
    registry.built(&tenant, view.id, since).await.expect("persisted")
}

const WIND: &str = "{name: wind, type: float64, column: wind_speed, default: 0.0, tags: {pii: \"false\"}}";
const BREEZE: &str = "{name: breeze, column: wind_speed}";
const TEMP: &str =
    "    - {name: temp, description: \"Air temperature, °F\"}             # type taken from the source's column\n";

#[tokio::test]
async fn how_far_a_version_is_is_told_until_it_is_served_and_what_is_to_be_applied_again_then() {
    let registry = flights().await;
    let changed = without_service(&[(TEMP, ""), (WIND, BREEZE)]);
    let plan = registry.plan(&permit(Action::ReadDefinitions), &changed).expect("valid");
    let of_view = plan.changes.iter().find(|change| change.name.as_str() == VIEW).expect("it changes");
    assert_eq!((of_view.coming_version, &of_view.apply_again), (Some(2), &vec![name("delay_model")]));
    let others = plan.changes.iter().filter(|change| change.name.as_str() != VIEW);
    assert!(others.into_iter().all(|change| change.coming_version.is_none() && change.apply_again.is_empty()));
    apply(&registry, changed.clone()).await.expect("a new version");
    let next = building(&registry).expect("it is being built");
    let described = || registry.get(&permit(Action::ReadDefinitions), Kind::FeatureView, &name(VIEW)).expect("there");
    assert_eq!((described().served, described().built), (Some(1), None), "nobody has begun");
    for (step, rows) in [(BuildStep::History, 3), (BuildStep::History, 9), (BuildStep::Online, 0)] {
        let progress = BuildProgress { step, rows: Arc::new(rows.into()), total_rows: 9 };
        registry.tell_progress(next.id, Some(progress));
        assert_eq!(described().built, Some(Built { step, rows, total_rows: 9 }));
    }
    build(&registry).await.expect("it is complete");
    assert_eq!((described().served, described().built), (None, None), "it is served");
    // What is gone back to is there at once.
    let plan = registry.plan(&permit(Action::ReadDefinitions), &without_service(&[])).expect("valid");
    assert!(plan.changes.iter().all(|change| change.coming_version.is_none() && change.apply_again.is_empty()));
}

#[tokio::test]
async fn a_feature_is_removed_or_renamed_by_a_new_version_and_reads_go_by_the_old_one_until_it_is_built() {
    let files = LossyFiles::new(1);
    let registry = open(&files).await.expect("an empty disk opens");
    apply(&registry, definitions(FLIGHTS)).await.expect("valid");
    let changed = without_service(&[(TEMP, ""), (WIND, BREEZE)]);
    let plan = registry.plan(&permit(Action::ReadDefinitions), &changed).expect("valid");
    assert_eq!(plan.refusals, []);
    let differences: Vec<(String, Class)> = differences(&plan);
    let class_of = |key: &str| differences.iter().find(|(text, _)| text.contains(key)).map(|(_, class)| *class);
    for key in ["features.temp.column", "features.wind.column", "new version: 2, built from the history of version 1"] {
        assert_eq!(class_of(key), Some(Class::NewViewVersion), "{key}: {differences:?}");
    }
    apply(&registry, changed.clone()).await.expect("a new version");

    let revision = registry.snapshot().revision;
    assert_eq!((served(&registry).version, names(&served(&registry))), (1, vec!["temp".to_owned(), "wind".to_owned()]));
    let next = building(&registry).expect("it is being built");
    assert_eq!((next.version, names(&next)), (2, vec!["breeze".to_owned()]));
    assert_eq!(next.origins_in(&served(&registry)), [Some(1)], "of the same column");
    let catalog_now = catalog(&registry);
    let ids: Vec<u32> = catalog_now.sources["weather"].views.iter().map(|view| view.version).collect();
    assert_eq!(ids, [1, 2], "rows go to both");
    let described =
        registry.get(&permit(Action::ReadDefinitions), Kind::FeatureView, &name(VIEW)).expect("it is there");
    assert_eq!((described.version, described.served, described.versions), (2, Some(1), vec![1]));
    apply(&registry, changed.clone()).await.expect("the same again");
    assert_eq!(registry.snapshot().revision, revision, "nothing has changed");

    // A service can't be made of what is not served yet.
    let service = |feature: &str| {
        definitions(&format!(
            "{{apiVersion: hydrant/v1, kind: FeatureService, metadata: {{name: m}}, spec: {{features: ['{VIEW}:{feature}']}}}}"
        ))
    };
    let refused = apply(&registry, service("breeze")).await.expect_err("it is not served");
    assert!(lines(&refused)[0].contains("and the service once the next one is served"), "{refused:?}");

    // It is durable, and switched to once.
    drop(registry);
    let registry = open(&files).await.expect("it opens again");
    assert_eq!(build(&registry).await, Some(revision + 1));
    assert_eq!((served(&registry).version, older(&registry)), (2, vec![1]));
    assert!(building(&registry).is_none());
    apply(&registry, service("breeze")).await.expect("it is served");
    let catalog = catalog(&registry);
    assert_eq!(catalog.services["m"].versions[0].lookups[0].view.version, 2);
    let frozen = &catalog.services["delay_model"].versions;
    assert_eq!((frozen.len(), frozen[0].lookups[0].view.version), (1, 1), "what was frozen stays so");
}

fn differences(plan: &Plan) -> Vec<(String, Class)> {
    let all = plan.changes.iter().flat_map(|change| &change.differences);
    all.map(|difference| (difference.text.clone(), difference.class)).collect()
}

#[tokio::test]
async fn a_feature_is_retyped_where_nothing_is_lost() {
    let registry = flights().await;
    let source = "{apiVersion: hydrant/v1, kind: Source, metadata: {name: cold}, spec: {type: push, eventTime: at, columns: [{name: at, type: timestamp}, {name: origin, type: string}, {name: temp, type: float32}, {name: days, type: list<float32>}]}}";
    apply(&registry, definitions(source)).await.expect("it is new");
    let view = |features: &str| {
        definitions(&format!(
            "{{apiVersion: hydrant/v1, kind: FeatureView, metadata: {{name: cold}}, spec: {{entities: [airport], source: cold, features: [{features}]}}}}"
        ))
    };
    apply(&registry, view("{name: temp}, {name: days}")).await.expect("it is new");
    apply(&registry, view("{name: temp, type: float64}, {name: days}")).await.expect("it is wider");
    let next = catalog(&registry).versions["cold"][0].clone();
    assert_eq!((next.version, next.features[0].data_type.to_string()), (2, "float64".to_owned()));
    let refused =
        apply(&registry, view("{name: temp}, {name: days, type: vector<3>}")).await.expect_err("some may not be");
    assert_eq!(refused.reason, "INCOMPATIBLE_CHANGE");
    assert!(lines(&refused).iter().any(|line| line.contains("without loss")), "{refused:?}");
    // Back to what is served: nothing is built any more.
    apply(&registry, view("{name: temp}, {name: days}")).await.expect("it is what is served");
    assert_eq!(catalog(&registry).versions.get("cold").map(Vec::len), None);
}

#[tokio::test]
async fn going_back_serves_the_version_that_was_kept_at_once() {
    let registry = flights().await;
    change(&registry, &[(WIND, BREEZE)]).await;
    build(&registry).await.expect("switched");
    let revision = registry.snapshot().revision;
    change(&registry, &[]).await;
    assert_eq!((served(&registry).version, older(&registry)), (1, vec![2]));
    assert_eq!(registry.snapshot().revision, revision + 1);
    // A rollback is a change as any other.
    change(&registry, &[(WIND, BREEZE)]).await;
    assert_eq!((served(&registry).version, older(&registry)), (2, vec![1]));
    let rolled = registry.rollback(&permit(Action::ChangeDefinitions), 2, None).await.expect("the first definitions");
    assert_eq!(rolled.revision, revision + 3);
    assert_eq!((served(&registry).version, older(&registry)), (1, vec![2]));
    // Back is also whoever gets a feature again that was taken away: rows have it there.
    let registry = flights().await;
    let wind = format!("    - {WIND}\n");
    change(&registry, &[(&wind, "")]).await;
    build(&registry).await.expect("switched");
    let plan = registry.plan(&permit(Action::ReadDefinitions), &without_service(&[])).expect("valid");
    assert!(differences(&plan).iter().any(|(text, _)| text == "served version: 2 -> 1"), "{plan}");
    change(&registry, &[]).await;
    assert_eq!((served(&registry).version, older(&registry)), (1, vec![2]));
    change(&registry, &[(WIND, BREEZE)]).await;
    assert_eq!(building(&registry).map(|view| view.version), Some(3), "version 2 has nothing of its column");
    build(&registry).await.expect("switched");
    assert_eq!((served(&registry).version, older(&registry)), (3, vec![1, 2]));
    // And forward, with a feature more.
    let more = [
        (WIND, "{name: breeze, column: wind_speed}\n    - {name: gust}"),
        (
            "- {name: wind_speed, type: float64}",
            "- {name: wind_speed, type: float64}\n    - {name: gust, type: float32}",
        ),
    ];
    change(&registry, &more).await;
    assert_eq!((served(&registry).version, older(&registry)), (3, vec![1, 2]));
    assert_eq!(names(&served(&registry)), ["temp", "breeze", "gust"]);
}

#[tokio::test]
async fn what_is_being_built_gives_way_to_another_change_and_its_number_does_not_come_back() {
    let registry = flights().await;
    change(&registry, &[(WIND, BREEZE)]).await;
    let first = building(&registry).expect("version 2");
    let Standing::Building { since, .. } = first.standing else { panic!("{first:?}") };
    // Words don't begin it anew.
    change(&registry, &[(WIND, BREEZE), ("\"Hourly weather\"", "\"Weather\"")]).await;
    assert_eq!(building(&registry).map(|view| view.id), Some(first.id));
    change(&registry, &[(WIND, BREEZE), ("ttl: 3h", "ttl: 9h")]).await;
    let second = building(&registry).expect("version 3");
    assert_eq!((second.version, second.ttl, second.longest_ttl), (3, Some(9 * HOUR), Some(9 * HOUR)));
    let tenant = catalog(&registry).name.clone();
    assert_eq!(registry.built(&tenant, first.id, since).await, Ok(None));
    change(&registry, &[]).await;
    assert!(building(&registry).is_none() && served(&registry).version == 1);
    change(&registry, &[(WIND, BREEZE)]).await;
    assert_eq!(building(&registry).map(|view| view.version), Some(4));
    // A view of the same name counts on, after the last of them.
    delete(&registry, Kind::FeatureService, "delay_model").await.expect("nothing uses it");
    delete(&registry, Kind::FeatureView, VIEW).await.expect("nothing uses it");
    change(&registry, &[]).await;
    assert_eq!(served(&registry).version, 5);
}

const HOUR: i64 = 3_600_000_000;

#[tokio::test]
async fn what_can_not_be_built_is_refused_with_the_way_out() {
    let refused = async |first: &[(&str, &str)], then: &[(&str, &str)], rule: &str| {
        let registry = open(&LossyFiles::new(1)).await.expect("an empty disk opens");
        apply(&registry, flights_with(first)).await.expect("valid");
        let changed = without_service(&[first, then].concat());
        let refused = apply(&registry, changed).await.expect_err(rule);
        assert_eq!((refused.code, refused.reason), (Code::FailedPrecondition, "INCOMPATIBLE_CHANGE"), "{refused:?}");
        assert!(refused.hint.as_ref().is_some_and(|hint| hint.contains("make a new view")));
        assert!(lines(&refused).iter().any(|line| line.contains(rule)), "{rule}: {:#?}", lines(&refused));
    };
    let nothing: &[(&str, &str)] = &[];
    refused(&[("offline: true", "offline: false")], &[(WIND, BREEZE)], "keeps no history").await;
    let pressure = [
        (
            "- {name: wind_speed, type: float64}",
            "- {name: wind_speed, type: float64}\n    - {name: pressure, type: float64}",
        ),
        (TEMP, ""),
        (WIND, "{name: pressure}"),
    ];
    refused(nothing, &pressure, "history has none of its columns").await;
    refused(nothing, &[(WIND, BREEZE), ("online: true", "online: false")], "true -> false").await;
    let registry = flights().await;
    change(&registry, &[("ttl: 3h", "ttl: 4h")]).await;
    let meanwhile = apply(&registry, without_service(&[(WIND, BREEZE), ("ttl: 3h", "ttl: 4h")])).await;
    let meanwhile = meanwhile.expect_err("it is being refilled");
    assert!(lines(&meanwhile).iter().any(|line| line.contains("before the raised ttl is in effect")), "{meanwhile:?}");
}

#[tokio::test]
async fn a_version_that_was_kept_is_deleted_once_nothing_reads_it() {
    let registry = flights().await;
    let delete_version =
        async |number| registry.delete_view_version(&delete_permit(), &name(VIEW), number, String::new()).await;
    change(&registry, &[(WIND, BREEZE)]).await;
    assert_eq!(delete_version(2).await.expect_err("it is being built").reason, "VERSION_IS_CURRENT");
    build(&registry).await.expect("switched");
    let used = delete_version(1).await.expect_err("a version of a service reads it");
    assert_eq!(used.reason, "DEFINITION_IN_USE");
    assert!(used.message.contains("FeatureService/delay_model@1"), "{used}");
    assert_eq!(delete_version(2).await.expect_err("it is served").reason, "VERSION_IS_CURRENT");
    assert_eq!(delete_version(7).await.expect_err("there is none").reason, "VIEW_VERSION_NOT_FOUND");
    delete(&registry, Kind::FeatureService, "delay_model").await.expect("nothing uses it");
    delete_version(1).await.expect("nothing reads it");
    assert_eq!((served(&registry).version, older(&registry)), (2, vec![]));
    // What it had is gone: another is built, under a number of its own.
    change(&registry, &[]).await;
    assert_eq!(building(&registry).map(|view| view.version), Some(3));
}

#[tokio::test]
async fn a_source_keeps_the_columns_of_every_version_that_is_kept() {
    let registry = flights().await;
    change(&registry, &[(&format!("    - {WIND}\n"), "")]).await;
    build(&registry).await.expect("switched");
    let without_wind =
        without_service(&[(&format!("    - {WIND}\n"), ""), ("    - {name: wind_speed, type: float64}\n", "")]);
    let refused = apply(&registry, without_wind.clone()).await.expect_err("version 1 takes it");
    assert!(lines(&refused).iter().any(|line| line.contains("'airport_weather@1'")), "{refused:?}");
    // Nor is one retyped, with the view that takes it or without.
    let retyped = without_service(&[
        ("    - {name: temp, type: float64}", "    - {name: temp, type: string}"),
        ("    - {name: wind_speed, type: float64}", "    - {name: wind_speed, type: float32}"),
    ]);
    let refused = apply(&registry, retyped).await.expect_err("rows are packed otherwise");
    assert!(lines(&refused).iter().any(|line| line.contains("would become string")), "{refused:?}");
    delete(&registry, Kind::FeatureService, "delay_model").await.expect("nothing uses it");
    registry.delete_view_version(&delete_permit(), &name(VIEW), 1, String::new()).await.expect("nothing reads it");
    apply(&registry, without_wind).await.expect("nothing takes it any more");
}

#[tokio::test]
async fn a_feature_that_a_consumer_uses_is_not_taken_away_by_a_new_version() {
    let registry = flights().await;
    let consumer = "{apiVersion: hydrant/v1, kind: Consumer, metadata: {name: board, owner: web@example.com}, spec: {version: '1', features: ['airport_weather:wind']}}";
    apply(&registry, definitions(consumer)).await.expect("valid");
    let refused = apply(&registry, without_service(&[(WIND, BREEZE)])).await.expect_err("it is used");
    assert_eq!(refused.reason, "DEFINITION_IN_USE");
    assert!(
        refused.message.contains("airport_weather:wind") && refused.message.contains("web@example.com"),
        "{refused}"
    );
}

#[tokio::test]
async fn each_switch_of_versions_and_each_that_is_deleted_is_in_the_history() {
    let files = LossyFiles::new(1);
    let registry = open(&files).await.expect("an empty disk opens");
    apply(&registry, definitions(FLIGHTS)).await.expect("valid");
    change(&registry, &[(WIND, BREEZE)]).await;
    let switched = build(&registry).await.expect("switched to");
    let back = change(&registry, &[]).await.revision;
    let delete = permit(Action::ChangeDefinitions);
    let deleted = registry.delete_view_version(&delete, &name(VIEW), 2, String::new()).await.expect("nothing reads it");
    drop((registry, delete));
    let registry = open(&files).await.expect("it opens again");
    let (read, view) = (permit(Action::ReadDefinitions), name(VIEW));
    let page = registry.revisions(&read, (Some(Kind::FeatureView), Some(&view)), 0, "").await.expect("told");
    let told: Vec<(u64, &str, Vec<What>)> = page
        .revisions
        .iter()
        .map(|told| (told.revision, told.by.as_str(), told.changes.iter().map(|change| change.what).collect()))
        .collect();
    let by = read.caller();
    assert_eq!(
        told[..3],
        [
            (deleted, by, vec![What::VersionDeleted(2)]),
            (back, by, vec![What::Updated, What::VersionServed(1)]),
            (switched, "new version", vec![What::VersionServed(2)]),
        ]
    );
    assert!(page.revisions[0].changes[0].details.is_empty() && page.revisions[2].changes[0].details.is_empty());
    // What was defined then can be gone back to, with the switch among the revisions.
    let plan = registry.plan_rollback(&read, switched, None).await.expect("it is kept");
    assert!(differences(&plan).iter().any(|(text, _)| text.contains("features.breeze")), "{plan}");
}

#[tokio::test]
async fn what_is_personal_now_is_masked_in_older_versions_too() {
    let registry = flights().await;
    change(&registry, &[(WIND, BREEZE)]).await;
    build(&registry).await.expect("switched");
    change(&registry, &[(WIND, "{name: breeze, column: wind_speed, tags: {pii: \"true\"}}")]).await;
    let catalog = catalog(&registry);
    let frozen = &catalog.services["delay_model"].versions[0];
    let view = &frozen.lookups[0].view;
    assert_eq!(view.version, 1);
    let wind = view.features.iter().position(|feature| feature.name.as_str() == "wind").expect("it has it");
    assert!(view.is_pii(wind) && !view.is_pii(1 - wind));
}

#[tokio::test]
async fn what_becomes_personal_while_a_version_is_built_is_masked_at_once_in_the_one_that_is_served() {
    let personal = |registry: &Registry| -> Vec<String> {
        let view = served(registry);
        assert_eq!(view.version, 1);
        let is_pii = |(place, _): &(usize, &crate::registry::catalog::Feature)| view.is_pii(*place);
        view.features.iter().enumerate().filter(is_pii).map(|(_, feature)| feature.name.to_string()).collect()
    };
    // A tag while the next version is built.
    let registry = flights().await;
    change(&registry, &[(WIND, BREEZE)]).await;
    assert_eq!(personal(&registry), Vec::<String>::new());
    change(&registry, &[(WIND, "{name: breeze, column: wind_speed, tags: {pii: \"true\"}}")]).await;
    assert_eq!(building(&registry).map(|view| view.version), Some(2), "a tag does not begin it anew");
    assert_eq!(personal(&registry), ["wind"]);
    let frozen = catalog(&registry).services["delay_model"].versions[0].lookups[0].view.clone();
    assert!(frozen.is_pii(1), "services read the same");
    build(&registry).await.expect("switched");
    assert!(served(&registry).is_pii(0) || served(&registry).is_pii(1));
    // A tag with the very change that asks for the next version.
    let registry = flights().await;
    let tagged = WIND.replace("\"false\"", "\"true\"");
    change(&registry, &[(TEMP, ""), (WIND, &tagged)]).await;
    assert!(building(&registry).is_some());
    assert_eq!(personal(&registry), ["wind"]);
}

#[tokio::test]
async fn versions_that_are_kept_are_bounded_and_the_way_out_is_told() {
    let registry = flights().await;
    let called = |number: usize| [(WIND.to_owned(), format!("{{name: breeze{number}, column: wind_speed}}"))];
    let change_to = async |number: usize| {
        let changes = called(number);
        let changes: Vec<(&str, &str)> = changes.iter().map(|(from, to)| (from.as_str(), to.as_str())).collect();
        apply(&registry, without_service(&changes)).await
    };
    for number in 0..16 {
        change_to(number).await.unwrap_or_else(|refused| panic!("{refused}"));
        build(&registry).await.expect("switched");
    }
    let (revision, kept) = (registry.snapshot().revision, older(&registry));
    assert_eq!(kept, (1..=16).collect::<Vec<_>>());
    let refused = change_to(16).await.expect_err("too many are kept");
    assert_eq!((refused.code, refused.reason), (Code::FailedPrecondition, "INCOMPATIBLE_CHANGE"));
    assert!(lines(&refused).iter().any(|line| line.contains("hydrant delete view airport_weather@")), "{refused:?}");
    assert_eq!(registry.snapshot().revision, revision);
    // Back to one that is kept is no other version.
    change_to(3).await.expect("it is kept");
    assert_eq!((served(&registry).version, older(&registry).len()), (5, 16));
    registry.delete_view_version(&delete_permit(), &name(VIEW), 2, String::new()).await.expect("nothing reads it");
    change_to(16).await.expect("there is room");
    assert_eq!(building(&registry).map(|view| view.version), Some(18));
}

#[tokio::test]
async fn versions_that_are_dropped_are_known_to_erasures_for_good() {
    let files = LossyFiles::new(1);
    let registry = open(&files).await.expect("an empty disk opens");
    apply(&registry, definitions(FLIGHTS)).await.expect("valid");
    let dropped = |registry: &Registry| -> Vec<(String, u32, u32)> {
        catalog(registry).dropped.iter().map(|view| (view.name.to_string(), view.version, view.id.0)).collect()
    };
    let of = |view: &View| (VIEW.to_owned(), view.version, view.id.0);
    // Another change gives up what is built; going back does; a kept one is deleted; the view is.
    change(&registry, &[(WIND, BREEZE)]).await;
    let second = of(&building(&registry).expect("version 2"));
    change(&registry, &[(WIND, "{name: gust, column: wind_speed}")]).await;
    assert_eq!(dropped(&registry), std::slice::from_ref(&second));
    let third = of(&building(&registry).expect("version 3"));
    build(&registry).await.expect("switched");
    change(&registry, &[(WIND, BREEZE)]).await;
    let fourth = of(&building(&registry).expect("version 4"));
    change(&registry, &[]).await;
    assert_eq!(dropped(&registry), [second.clone(), fourth.clone()]);
    registry.delete_view_version(&delete_permit(), &name(VIEW), 3, String::new()).await.expect("nothing reads it");
    let first = served(&registry);
    delete(&registry, Kind::FeatureService, "delay_model").await.expect("nothing uses it");
    // Pruned with the rest.
    let rest: Vec<Definition> =
        without_service(&[]).into_iter().filter(|definition| definition.name().as_str() != VIEW).collect();
    let change = permit(Action::ChangeDefinitions);
    let pruned = registry.apply_with(&change, rest, crate::registry::plan::Prune::KindsOfRequest, None).await;
    pruned.expect("nothing uses it");
    let all = [second, fourth, third, of(&first)];
    for _ in 0..2 {
        assert_eq!(dropped(&registry), all);
        let catalog = catalog(&registry);
        let last = catalog.dropped.last().expect("the view");
        assert_eq!((last.slot_seed, &last.join_keys), (first.slot_seed, &first.join_keys));
        let table = first.history_spec(&catalog.name);
        assert!(catalog.history_tables().any(|(id, spec)| id == first.id && spec == table));
        drop(catalog);
        let again = open(&files).await.expect("it opens again");
        assert_eq!(dropped(&again), all);
    }
}
