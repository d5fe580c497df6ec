//! One landing: a cut, one commit a view, and then the tails let go. A crash between any two steps
//! leaves rows in the tail, in history, or in both; how far a table has landed tells which count,
//! and the next landing drops the rest.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use hydrant_storage::history::{HistoryTable, HistoryTables, TailRun, tail_rows};
use hydrant_storage::names::{Name, TenantId, ViewId};
use hydrant_storage::partition::ReadView;
use tracing::Instrument as _;

use super::take_in::take_in;
use super::{Landed, LandedView, LandingFailed, LandingOptions, LandingParts, is_fatal};
use crate::error::{Code, Error, Result};
use crate::partition::LandedFrames;
use crate::registry::catalog::{Snapshot, View};

/// How far each view's rows have landed, by its table: what partitions must know before they start.
pub async fn landed_frames(snapshot: &Snapshot, tables: &HistoryTables) -> Result<Arc<LandedFrames>> {
    let mut landed = HashMap::new();
    for (tenant, view) in offline_views(snapshot) {
        let table = tables.table(view.history_spec(tenant)).await.map_err(|error| failed(view, &error))?;
        landed.insert(view.id, table.snapshot().landed_through);
    }
    Ok(Arc::new(LandedFrames::new(landed)))
}

/// Lands, for every view, what is durable in the log now. One view's failure keeps no other from
/// landing; the first is returned when all have been tried, with what landed.
pub(super) async fn land(parts: &LandingParts, options: &LandingOptions) -> Result<Landed, LandingFailed> {
    let through = *parts.log.durable().borrow();
    let tails = take_tails(parts, options, through).await?;
    // Taken after the cut, so that it has every view and feature of the rows up to it.
    let snapshot = parts.snapshots.load();

    let mut landed = Landed { through, views: Vec::new() };
    let mut first_failure = take_in(parts, options).await.err();
    for (tenant, view) in offline_views(&snapshot) {
        let span = tracing::debug_span!("land_view", %tenant, view = %view.name, through);
        let landing = land_view(parts, options, tenant, view, &tails, &mut landed);
        if let Err(error) = landing.instrument(span).await {
            tracing::error!(view = %view.name, %error, "rows did not land, or were not let go of by the partitions");
            first_failure.get_or_insert(error);
        }
    }
    if let Err(error) = drop_deleted(parts, options, &snapshot, &tails, through).await {
        tracing::error!(%error, "the tails of deleted views were not let go");
        first_failure.get_or_insert(error);
    }
    match first_failure {
        None => Ok(landed),
        Some(error) => Err(LandingFailed { landed, error }),
    }
}

/// What the partitions hold, once each has applied the log through `through`.
async fn take_tails(parts: &LandingParts, options: &LandingOptions, through: u64) -> Result<Arc<[Arc<ReadView>]>> {
    parts.partitions.wait_applied(through, Instant::now() + options.patience).await?;
    let tails: Result<Vec<Arc<ReadView>>, _> = parts.partitions.handles().iter().map(|handle| handle.view()).collect();
    Ok(tails?.into())
}

/// Lets go of the tail rows of views that are defined no more: they have no table to land in, and
/// would count for ever towards what makes a landing due and what stops writes.
async fn drop_deleted(
    parts: &LandingParts,
    options: &LandingOptions,
    snapshot: &Snapshot,
    tails: &[Arc<ReadView>],
    through: u64,
) -> Result<()> {
    let defined: HashSet<ViewId> = offline_views(snapshot).map(|(_, view)| view.id).collect();
    let states = tails.iter().flat_map(|tail| tail.view_states());
    let deleted: HashSet<(TenantId, ViewId)> = states
        .filter(|(id, state)| state.tail_rows > 0 && !defined.contains(id))
        .map(|(id, state)| (state.tenant, id))
        .collect();
    // The snapshot is younger than the cut: a view that it lacks was deleted, or has no row up to
    // the cut, so that nothing of it is dropped here.
    for (tenant, view) in deleted {
        for handle in parts.partitions.handles() {
            handle.drop_tail(tenant, view, through, Instant::now() + options.patience).await?;
        }
    }
    Ok(())
}

/// Lands the rows of one view and lets go of them; what is committed is in `account` whatever fails
/// after it.
async fn land_view(
    parts: &LandingParts,
    options: &LandingOptions,
    tenant: &Name,
    view: &View,
    tails: &Arc<[Arc<ReadView>]>,
    account: &mut Landed,
) -> Result<()> {
    let through = account.through;
    let history = |error| {
        if is_fatal(&error) {
            options.on_fatal.call(&error.to_string());
        }
        failed(view, &error)
    };
    let table = parts.tables.table(view.history_spec(tenant)).await.map_err(history)?;
    let landed = table.snapshot().landed_through;
    if landed < through {
        let rows = tail_rows(tails.clone(), view.tenant, view.id, landed);
        let features = (0..view.features.len()).collect();
        let run = TailRun::new(rows, view.layout.clone(), features, landed + 1..=through);
        let report = table.land(run, through, parts.store_time.read()).await.map_err(history)?;
        if let Some(delta_version) = report.delta_version {
            let (tenant, name) = (tenant.clone(), view.name.clone());
            tracing::info!(view = %name, rows = report.rows, bytes = report.bytes, through, "rows landed");
            let (rows, bytes) = (report.rows, report.bytes);
            account.views.push(LandedView { tenant, view: name, rows, bytes, delta_version });
        }
    }
    drop_tails(parts, options, view, &table).await
}

/// Lets go of the tail rows that the table has, those too that a crash kept from being let go.
async fn drop_tails(parts: &LandingParts, options: &LandingOptions, view: &View, table: &HistoryTable) -> Result<()> {
    let landed = table.snapshot().landed_through;
    if landed == 0 {
        return Ok(());
    }
    parts.landed.advance(view.id, landed);
    for handle in parts.partitions.handles() {
        handle.drop_tail(view.tenant, view.id, landed, Instant::now() + options.patience).await?;
    }
    Ok(())
}

pub(super) fn offline_views(snapshot: &Snapshot) -> impl Iterator<Item = (&Name, &Arc<View>)> {
    let tenants = snapshot.tenants.iter();
    let views = tenants.flat_map(|(name, tenant)| tenant.all_views().map(move |view| (name, view)));
    views.filter(|(_, view)| view.offline)
}

pub(super) fn failed(view: &View, error: &hydrant_storage::history::HistoryError) -> Error {
    let code = if error.is_damage() { Code::DataLoss } else { Code::Unavailable };
    Error::new(code, "LANDING_FAILED", format!("the history of view '{}': {error}", view.name)).with("view", &view.name)
}
