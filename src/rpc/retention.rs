//! What a plan can't tell by itself of rows that go, or are gone already, by a view's retention: how many rows of
//! history those are, and which saved training sets lose some. It decides nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use hydrant_proto::v1;
use hydrant_storage::history::RowsTooOld;
use hydrant_storage::names::Name;
use hydrant_storage::order::none_counts_from;

use super::UseCases;
use super::wire::retention::encode_held_back;
use crate::error::Result;
use crate::registry::catalog::TenantCatalog;
use crate::registry::keeping::{Keeping, RowsThatGo, gone_before};
use crate::registry::plan::Plan;
use crate::tenancy::Permit;

/// How many training sets a difference names.
const SHOWN_SETS: usize = 20;

/// Of how many files the ends are read to tell how many rows go.
const MOST_FILES: usize = 1_000;

/// Adds it to the changes of a plan, as they are on the wire.
pub(super) async fn tell(use_cases: &UseCases, permit: &Permit, plan: &Plan, changes: &mut [v1::Change]) -> Result<()> {
    tell_from(use_cases, permit, plan, changes, MOST_FILES).await
}

/// The same of changes that are made, and whose caller waits for no more than that: rows aren't counted.
pub(super) async fn tell_done(
    use_cases: &UseCases,
    permit: &Permit,
    plan: &Plan,
    changes: &mut [v1::Change],
) -> Result<()> {
    tell_from(use_cases, permit, plan, changes, 0).await
}

async fn tell_from(
    use_cases: &UseCases,
    permit: &Permit,
    plan: &Plan,
    changes: &mut [v1::Change],
    mut files: usize,
) -> Result<()> {
    let snapshot = use_cases.registry.snapshot();
    let catalog = snapshot.tenant(permit.tenant())?;
    for (change, told) in plan.changes.iter().zip(changes) {
        for (difference, told) in change.differences.iter().zip(&mut told.differences) {
            match &difference.keeping {
                None => {}
                Some(Keeping::Goes(rows)) => {
                    told.rows_that_go =
                        Some(rows_that_go(use_cases, permit, (catalog, &change.name), rows, &mut files).await);
                }
                Some(Keeping::ComesBack { ttl }) => {
                    let reader = use_cases.registry.reader();
                    let gone = gone_before(reader.gone(), catalog, &change.name);
                    told.rows_gone = gone.map(|before| v1::RowsGone {
                        before_micros: before,
                        lacks_before_micros: none_counts_from(before, *ttl),
                    });
                }
            }
        }
    }
    Ok(())
}

async fn rows_that_go(
    use_cases: &UseCases,
    permit: &Permit,
    (catalog, view): (&TenantCatalog, &Name),
    rows: &RowsThatGo,
    files: &mut usize,
) -> v1::RowsThatGo {
    let mut losing = BTreeSet::new();
    for (version, before) in &rows.versions {
        if let Some(before) = *before {
            let (tenant, view, version) = (permit.tenant().clone(), view.clone(), *version);
            losing.extend(use_cases.training_sets.would_lose(&RowsTooOld { tenant, view, version, before }));
        }
    }
    let before = |number: u32| rows.versions.iter().find(|(version, _)| *version == number).and_then(|(_, at)| *at);
    let versions: Vec<_> =
        catalog.versions_of(view.as_str()).map(|version| (Arc::clone(version), before(version.version))).collect();
    let counted = use_cases.history.rows_before(permit, &versions, files).await.unwrap_or_else(|error| {
        // The plan is good without it.
        tracing::warn!(%view, %error, "how many rows a retention takes can't be told");
        None
    });
    v1::RowsThatGo {
        before_micros: rows.before(),
        declared_before_micros: rows.declared_before,
        held_back: rows.held_back.iter().map(encode_held_back).collect(),
        training_sets_more: u32::try_from(losing.len().saturating_sub(SHOWN_SETS)).unwrap_or(u32::MAX),
        training_sets: losing.into_iter().take(SHOWN_SETS).collect(),
        rows_about: counted.map(|counted| counted.about),
        of_rows: counted.map_or(0, |counted| counted.of),
    }
}
