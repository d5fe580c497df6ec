//! What a request selects out of a snapshot.

use super::super::selection::Selection;
use super::*;
use crate::error::Code;

fn select(registry: &Registry, services: &[&str], features: &[&str]) -> Result<Selection> {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    registry.snapshot().select(&catalog(registry), &owned(services), &owned(features))
}

#[tokio::test]
async fn columns_and_rows_that_several_need_are_selected_once() {
    let registry = flights().await;
    let other = "{apiVersion: hydrant/v1, kind: FeatureService, metadata: {name: other}, spec: {features: ['carrier_departures:dep_delay', 'airport_weather:wind']}}";
    apply(&registry, definitions(other)).await.expect("it fits");
    let selection = select(&registry, &["delay_model", "other@1"], &["airport_weather:temp"]).expect("all are there");
    assert_eq!(selection.lookups.len(), 3);
    assert_eq!(selection.columns.len(), 4);
    assert_eq!(selection.services[0].columns, [0, 1, 2, 3]);
    assert_eq!(selection.services[1].columns, [2, 1]);
    assert_eq!(selection.features, [0]);
    let request: Vec<_> = selection.request_columns.iter().map(|column| column.name.to_string()).collect();
    assert_eq!(request, ["origin", "carrier", "dest"]);
    selection.require_unique_names().expect("they are");
}

#[tokio::test]
async fn versions_are_selected_side_by_side() {
    let registry = flights().await;
    apply(&registry, flights_with(&[("ttl: 3h", "ttl: 2h")])).await.expect("it fits");
    let current = select(&registry, &["delay_model"], &[]).expect("it is there");
    assert_eq!(current.services[0].version.number, 2);
    let both = select(&registry, &["delay_model@1", "delay_model@2"], &[]).expect("both are there");
    // Another ttl is another lookup; what doesn't differ is shared.
    assert_eq!(both.lookups.len(), 5);
    let refused = both.require_unique_names().expect_err("two columns have one name");
    assert_eq!(refused.reason, "AMBIGUOUS_COLUMN");
}

#[tokio::test]
async fn what_is_missing_or_unreadable_is_named() {
    let registry = flights().await;
    for (services, features, code, reason) in [
        (&[][..], &[][..], Code::InvalidArgument, "NOTHING_SELECTED"),
        (&["nothing"][..], &[][..], Code::NotFound, "SERVICE_NOT_FOUND"),
        (&["delay_model@2"][..], &[][..], Code::NotFound, "SERVICE_VERSION_NOT_FOUND"),
        (&["delay_model@+1"][..], &[][..], Code::InvalidArgument, "BAD_SERVICE_REFERENCE"),
        (&["delay_model@"][..], &[][..], Code::InvalidArgument, "BAD_SERVICE_REFERENCE"),
        (&["delay_model", "delay_model@1"][..], &[][..], Code::InvalidArgument, "DUPLICATE_SERVICE"),
        (&[][..], &["airport_weather"][..], Code::InvalidArgument, "BAD_FEATURE_REFERENCE"),
        (&[][..], &["nothing:temp"][..], Code::NotFound, "VIEW_NOT_FOUND"),
        (&[][..], &["airport_weather:nothing"][..], Code::NotFound, "FEATURE_NOT_FOUND"),
    ] {
        let refused = select(&registry, services, features).expect_err(reason);
        assert_eq!((refused.code, refused.reason), (code, reason));
    }
}

#[tokio::test]
async fn a_request_column_has_one_type_over_a_whole_request() {
    let registry = flights().await;
    let numbered = r"
{apiVersion: hydrant/v1, kind: Entity, metadata: {name: gate}, spec: {joinKeys: [{name: origin, type: int64}]}}
---
{apiVersion: hydrant/v1, kind: Source, metadata: {name: gates}, spec: {type: push, eventTime: at, columns: [{name: at, type: timestamp}, {name: origin, type: int32}, {name: busy, type: bool}]}}
---
{apiVersion: hydrant/v1, kind: FeatureView, metadata: {name: gates}, spec: {entities: [gate], source: gates, features: [{name: busy}]}}
";
    apply(&registry, definitions(numbered)).await.expect("it fits");
    let refused = select(&registry, &["delay_model"], &["gates:busy"]).expect_err("origin would have two types");
    assert_eq!(refused.reason, "REQUEST_COLUMN_TYPES_DIFFER");
}
