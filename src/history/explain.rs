//! What a training set would take, before it is made: the plan of the use case itself, and how it
//! would read its views now. Nothing of a view is read.

use std::sync::Arc;

use arrow_schema::{Field, Schema, SchemaRef};
use hydrant_storage::order::Micros;
use hydrant_storage::value::ScalarType;

use super::plan::Plan;
use super::reading::{Reading, SpineFacts, TableFacts};
use super::service::{HistoricalRequest, History};
use super::sources::Cut;
use crate::error::Result;
use crate::registry::masking::Masking;
use crate::tenancy::{Action, Permit};

/// How a training set would be made.
#[derive(Clone, Debug)]
pub struct Explained {
    pub plan: Plan,
    pub reading: Reading,
    /// Ingest time: no later row would be read.
    pub cutoff: Micros,
}

impl History {
    /// How a training set of a spine of so many rows would be made now. Refuses what making it would
    /// refuse before it reads. RESOURCE_EXHAUSTED where as many reads of the past are under way as may be.
    pub async fn explain(&self, permit: &Permit, request: &HistoricalRequest, rows: u64) -> Result<Explained> {
        let _place = self.take_place()?;
        let parts = &self.inner.parts;
        let snapshot = parts.snapshots.load();
        let plan = Self::plan_in(&snapshot, permit, request, Masking::AsGranted)?;
        self.inner.options.check_rows(rows)?;
        let patience = self.inner.options.patience;
        let cut = Cut::take(parts.log.as_ref(), &parts.partitions, request.cutoff, patience).await?;
        let mut tables: Vec<TableFacts> = Vec::with_capacity(plan.joins.len());
        for join in &plan.joins {
            tables.push(cut.rows_of(&parts.tables, &snapshot, &join.view).await?.facts(cut.cutoff));
        }
        let budget = self.budget(permit);
        let is_spilled = budget.spills_sort(&plan, rows);
        let reading = Reading::new(&plan, SpineFacts { rows, times: None, is_spilled }, &tables, &budget);
        Ok(Explained { plan, reading, cutoff: cut.cutoff })
    }

    /// The spine that would do for some services and features: their keys, and a column of event times.
    pub fn least_spine(
        &self,
        permit: &Permit,
        services: &[String],
        features: &[String],
        event_time: &str,
    ) -> Result<SchemaRef> {
        permit.require(Action::ReadHistory)?;
        permit.check_reads(services, features)?;
        let snapshot = self.inner.parts.snapshots.load();
        let selection = snapshot.select(snapshot.tenant(permit.tenant())?, services, features)?;
        let keys = selection.request_columns.iter();
        let keys = keys.map(|key| Field::new(key.name.as_str(), key.key_type.to_arrow(), true));
        let time = Field::new(event_time, ScalarType::Timestamp.to_arrow(), true);
        Ok(Arc::new(Schema::new(keys.chain([time]).collect::<Vec<_>>())))
    }
}
