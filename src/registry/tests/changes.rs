//! Plan, apply, create, update, delete: what changes, what doesn't, and what is refused.

use hydrant_storage::files::LossyFiles;
use hydrant_storage::names::ViewId;

use super::super::definition::Kind;
use super::super::plan::Action as Planned;
use super::*;
use crate::error::Code;

#[tokio::test]
async fn the_first_start_makes_the_default_tenant() {
    let registry = open(&LossyFiles::new(1)).await.expect("an empty disk opens");
    let catalog = catalog(&registry);
    assert_eq!(catalog.name.as_str(), "default");
    assert!(catalog.views.is_empty());
    let page = registry.list(&permit(Action::ReadDefinitions), Kind::Tenant, 0, "").expect("tenants are listed");
    assert_eq!(page.items.len(), 1);
}

#[tokio::test]
async fn definitions_are_applied_in_whatever_order_they_stand() {
    let registry = open(&LossyFiles::new(1)).await.expect("an empty disk opens");
    let mut reversed = definitions(FLIGHTS);
    reversed.reverse();
    let applied = apply(&registry, reversed).await.expect("the order doesn't matter");
    let order: Vec<_> = applied.plan.changes.iter().map(|change| (change.kind, change.name.to_string())).collect();
    assert!(order.is_sorted(), "{order:?}");
    assert_eq!(order.len(), 7);
    assert!(applied.plan.changes.iter().all(|change| change.action == Planned::Create));
    assert_eq!(registry.snapshot().revision, applied.revision);
}

#[tokio::test]
async fn what_changes_nothing_makes_no_revision() {
    let registry = flights().await;
    let before = registry.snapshot();
    let again = apply(&registry, definitions(FLIGHTS)).await.expect("they fit as before");
    assert!(again.plan.is_empty());
    assert_eq!(again.revision, before.revision);
    assert!(Arc::ptr_eq(&before, &registry.snapshot()));
}

#[tokio::test]
async fn a_plan_shows_differences_as_readable_lines_and_changes_nothing() {
    let registry = flights().await;
    let before = registry.snapshot();
    let changed = flights_with(&[
        ("ttl: 3h", "ttl: 2h"),
        ("default: 0.0", "default: 1.5"),
        ("{maxAge: 2h}", "{maxAge: 90m}"),
        ("\"Hourly weather\"", "\"Weather\""),
    ]);
    let plan = registry.plan(&permit(Action::ReadDefinitions), &changed).expect("it is compatible");
    let lines = |name: &str| {
        let change = plan.changes.iter().find(|change| change.name.as_str() == name).expect("it is in the plan");
        (change.action, change.details(), change.affects.clone())
    };
    let (action, details, affects) = lines("airport_weather");
    assert_eq!(action, Planned::Update);
    assert_eq!(
        details,
        [
            "description: \"Hourly weather\" -> \"Weather\"",
            "ttl: 3h -> 2h",
            "features.wind.default: 0.0 -> 1.5",
            "freshness.maxAge: 2h -> 90m",
        ]
    );
    assert_eq!(affects, [(Kind::FeatureService, super::name("delay_model"))]);
    let (action, details, _) = lines("delay_model");
    assert_eq!(action, Planned::Update);
    assert_eq!(
        details,
        [
            "version: 1 -> 2",
            "columns.airport_weather__temp: float64 of airport_weather@1:temp, ttl 3h -> float64 of airport_weather@1:temp, ttl 2h",
            "columns.airport_weather__wind: float64 of airport_weather@1:wind, ttl 3h, default 0.0 -> float64 of airport_weather@1:wind, ttl 2h, default 1.5",
            "columns.dest_weather__temp: float64 of airport_weather@1:temp, ttl 3h, origin from dest -> float64 of airport_weather@1:temp, ttl 2h, origin from dest",
        ]
    );
    assert_eq!(lines("weather").0, Planned::Unchanged);
    assert!(Arc::ptr_eq(&before, &registry.snapshot()));
}

#[tokio::test]
async fn a_plan_names_downstream_only_what_is_not_as_before() {
    let registry = flights().await;
    let affects = |changes: &[(&str, &str)], left_out: Kind, changed: &str| {
        let mut definitions = flights_with(changes);
        definitions.retain(|definition| definition.kind() != left_out);
        let plan = registry.plan(&permit(Action::ReadDefinitions), &definitions).expect("it is compatible");
        let change = plan.changes.into_iter().find(|change| change.name.as_str() == changed).expect("it is planned");
        assert_eq!(change.action, Planned::Update);
        change.affects
    };
    let (view, service) = ((Kind::FeatureView, name("airport_weather")), (Kind::FeatureService, name("delay_model")));
    let ttl = [("ttl: 3h", "ttl: 2h")];
    // What is frozen stays so, until the service is applied too.
    assert!(affects(&ttl, Kind::FeatureService, "airport_weather").is_empty());
    assert_eq!(affects(&ttl, Kind::Tenant, "airport_weather"), std::slice::from_ref(&service));
    let words = [("\"Hourly weather\"", "\"Weather\"")];
    assert!(affects(&words, Kind::Tenant, "airport_weather").is_empty());
    assert!(affects(&[("\"An airport\"", "\"A port\"")], Kind::Tenant, "airport").is_empty());
    // When rows count as known is no part of what is frozen.
    let rule = [("knownTime: event ", "knownTime: arrival ")];
    assert_eq!(affects(&rule, Kind::FeatureService, "weather"), [view, service]);
    let column = [("    - {name: wind_speed", "    - {name: gust, type: float64}\n    - {name: wind_speed")];
    assert!(affects(&column, Kind::Tenant, "weather").is_empty());
}

#[tokio::test]
async fn an_apply_with_one_bad_definition_changes_nothing() {
    let registry = flights().await;
    let before = registry.snapshot();
    let changed =
        flights_with(&[("ttl: 3h", "ttl: 2h"), ("carrier_departures:dep_delay", "carrier_departures:nothing")]);
    let refused = apply(&registry, changed).await.expect_err("a feature is missing");
    assert_eq!((refused.code, refused.reason), (Code::InvalidArgument, "INVALID_DEFINITION"));
    assert!(Arc::ptr_eq(&before, &registry.snapshot()));
}

#[tokio::test]
async fn an_apply_of_a_plan_that_somebody_overtook_is_aborted() {
    let registry = flights().await;
    let permit = permit(Action::ChangeDefinitions);
    let seen = registry.snapshot().revision;
    let change = |ttl: &str| flights_with(&[("ttl: 3h", ttl)]);
    registry.apply(&permit, change("ttl: 2h"), Some(seen)).await.expect("nobody changed anything");
    let refused = registry.apply(&permit, change("ttl: 1h"), Some(seen)).await.expect_err("it was overtaken");
    assert_eq!((refused.code, refused.reason), (Code::Aborted, "REVISION_MISMATCH"));
}

#[tokio::test]
async fn a_definition_in_use_is_not_deleted_and_its_users_are_listed() {
    let registry = flights().await;
    for (kind, target, user) in [
        (Kind::Entity, "airport", "FeatureView/airport_weather"),
        (Kind::Source, "weather", "FeatureView/airport_weather"),
        (Kind::FeatureView, "airport_weather", "FeatureService/delay_model@1"),
    ] {
        let refused = delete(&registry, kind, target).await.expect_err("it is in use");
        assert_eq!((refused.code, refused.reason), (Code::FailedPrecondition, "DEFINITION_IN_USE"));
        assert!(refused.message.contains(user), "{refused}");
    }
}

#[tokio::test]
async fn a_view_is_in_use_as_long_as_any_version_of_a_service_needs_it() {
    let registry = flights().await;
    let without = flights_with(&[("    - carrier_departures:dep_delay\n", "")]);
    apply(&registry, without).await.expect("a service may take less");
    let refused = delete(&registry, Kind::FeatureView, "carrier_departures").await.expect_err("version 1 needs it");
    assert!(refused.message.contains("delay_model@1"), "{refused}");
    assert!(!refused.message.contains("delay_model@2"), "{refused}");
    delete(&registry, Kind::FeatureService, "delay_model").await.expect("nothing uses it");
    delete(&registry, Kind::FeatureView, "carrier_departures").await.expect("nothing uses it any more");
}

#[tokio::test]
async fn a_name_that_was_deleted_comes_back_with_a_new_id_and_the_next_version() {
    let files = LossyFiles::new(1);
    let registry = open(&files).await.expect("an empty disk opens");
    apply(&registry, definitions(FLIGHTS)).await.expect("the examples fit together");
    let first = catalog(&registry);
    let first = &first.views["airport_weather"];
    delete(&registry, Kind::FeatureService, "delay_model").await.expect("nothing uses it");
    delete(&registry, Kind::FeatureView, "airport_weather").await.expect("nothing uses it");
    drop(registry);
    let registry = open(&files).await.expect("it opens again");
    // What was refused before a deletion is allowed after it: this is another view.
    apply(&registry, flights_with(&[("ttl: 3h", "ttl: 9h")])).await.expect("it is new");
    let second = catalog(&registry);
    let view = &second.views["airport_weather"];
    assert_eq!((first.version, view.version), (1, 2));
    assert!(second.views.values().all(|view| view.id != first.id));
    assert!(view.id > ViewId(2));
    assert_eq!(second.services["delay_model"].versions[0].number, 2);
}

#[tokio::test]
async fn create_update_and_delete_keep_to_what_the_caller_has_seen() {
    let registry = flights().await;
    let change = permit(Action::ChangeDefinitions);
    let read = permit(Action::ReadDefinitions);
    let taken = registry.create(&change, definitions(FLIGHTS).remove(0)).await.expect_err("it is there");
    assert_eq!(taken.code, Code::AlreadyExists);

    let target = name("airport");
    let seen = registry.get(&read, Kind::Entity, &target).expect("it is there");
    let mut updated = seen.applied.definition.clone();
    updated.metadata.description = "An aerodrome".to_owned();
    let after = registry.update(&change, updated.clone(), seen.applied.etag.clone()).await.expect("it was seen");
    assert_eq!(after.applied.definition, updated);
    assert_ne!(after.applied.etag, seen.applied.etag);
    assert_eq!(after.applied.updated_by, "loopback");
    updated.metadata.description = "An airfield".to_owned();
    let refused = registry.update(&change, updated, seen.applied.etag.clone()).await.expect_err("it was changed");
    assert_eq!((refused.code, refused.reason), (Code::Aborted, "ETAG_MISMATCH"));
    let refused = registry.delete(&change, Kind::Entity, &target, seen.applied.etag).await.expect_err("it was changed");
    assert_eq!(refused.code, Code::Aborted);
    let missing = registry.get(&read, Kind::Entity, &name("nothing")).expect_err("it isn't there");
    assert_eq!(missing.code, Code::NotFound);
}

#[tokio::test]
async fn a_read_permit_changes_nothing() {
    let registry = flights().await;
    let refused =
        registry.apply(&permit(Action::ReadDefinitions), Vec::new(), None).await.expect_err("it may only read");
    assert_eq!(refused.code, Code::PermissionDenied);
}

#[tokio::test]
async fn pages_go_on_where_they_were_and_foreign_tokens_are_refused() {
    let registry = flights().await;
    let read = permit(Action::ReadDefinitions);
    let mut names = Vec::new();
    let mut token = String::new();
    loop {
        let page = registry.list(&read, Kind::FeatureView, 1, &token).expect("the token is good");
        names.extend(page.items.iter().map(|item| item.applied.definition.name().to_string()));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["airport_weather", "carrier_departures"]);
    let token = registry.list(&read, Kind::FeatureView, 1, "").expect("a first page").next_page_token;
    for bad in [token.as_str(), "!", "", &"a".repeat(10_000)].into_iter().filter(|token| !token.is_empty()) {
        let refused = registry.list(&read, Kind::Entity, 1, bad).expect_err("it is of another listing, or none");
        assert_eq!(refused.reason, "BAD_PAGE_TOKEN");
    }
}

#[tokio::test]
async fn lineage_leads_from_entities_and_sources_over_views_to_services() {
    let registry = flights().await;
    let read = permit(Action::ReadDefinitions);
    let show = |edges: &[super::super::lineage::Edge]| {
        let show = |edge: &super::super::lineage::Edge| format!("{} -> {}", edge.from.1, edge.to.1);
        edges.iter().map(show).collect::<Vec<_>>()
    };
    let lineage = registry.lineage(&read, Kind::FeatureView, &name("airport_weather")).expect("it is there");
    assert_eq!(show(&lineage.upstream), ["airport -> airport_weather", "weather -> airport_weather"]);
    assert_eq!(show(&lineage.downstream), ["airport_weather -> delay_model"]);
    let lineage = registry.lineage(&read, Kind::FeatureService, &name("delay_model")).expect("it is there");
    assert_eq!(lineage.upstream.len(), 6);
    let lineage = registry.lineage(&read, Kind::Source, &name("weather")).expect("it is there");
    assert_eq!(show(&lineage.downstream), ["weather -> airport_weather", "airport_weather -> delay_model"]);
}

#[tokio::test]
async fn a_snapshot_is_published_before_its_revision_is_told() {
    let registry = flights().await;
    let reader = registry.reader();
    let mut revisions = registry.subscribe();
    revisions.borrow_and_update();
    let applied = apply(&registry, flights_with(&[("ttl: 3h", "ttl: 2h")])).await.expect("it is compatible");
    assert_eq!(*revisions.borrow_and_update(), applied.revision);
    assert_eq!(reader.load().revision, applied.revision);
}

#[tokio::test]
async fn damaged_state_stops_the_start_with_the_way_out() {
    let files = LossyFiles::new(1);
    drop(open(&files).await.expect("an empty disk opens"));
    let path = Path::new("/data/registry/registry.value");
    files.damage(path, |bytes| *bytes.last_mut().expect("it isn't empty") ^= 1).expect("the file is there");
    let refused = open(&files).await.expect_err("a byte is wrong");
    assert_eq!(refused.code, Code::DataLoss);
    assert!(refused.message.contains("registry.value"), "{refused}");
    assert!(refused.hint.expect("there is a way out").contains("backup"));
}

#[tokio::test]
async fn a_change_that_cannot_be_persisted_is_not_published() {
    use hydrant_storage::files::lossy::Fault;
    for skipped in 0..12 {
        let files = LossyFiles::new(skipped);
        let registry = open(&files).await.expect("an empty disk opens");
        let before = registry.snapshot();
        files.fail_on(skipped, Fault::Device);
        let applied = apply(&registry, definitions(FLIGHTS)).await;
        files.heal();
        match applied {
            Err(refused) => {
                assert_eq!(refused.code, Code::Unavailable, "{refused}");
                assert!(Arc::ptr_eq(&before, &registry.snapshot()));
            }
            Ok(_) => assert_eq!(registry.snapshot().revision, before.revision + 1),
        }
        let reopened = open(&files.after_power_cut(7)).await.expect("nothing is damaged").snapshot();
        let whole = reopened.tenants.values().all(|tenant| tenant.views.is_empty() || tenant.views.len() == 2);
        assert!(whole && reopened.revision <= before.revision + 1, "operation {skipped}");
    }
}
