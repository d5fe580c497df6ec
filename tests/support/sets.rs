//! Stored spines, endpoints and saved training sets of a node in process.

use std::ops::Range;

use arrow_array::RecordBatch;
use futures::StreamExt as _;
use hydrant::error::Result;
use hydrant::history::sets::{
    Admission, Created, NewSet, Prepared, Put, SavedSet, StoredRequest, TrainingSets, Verified,
};
use hydrant::tenancy::{Action, Demand, Identity};
use hydrant_storage::names::Name;
use hydrant_storage::spines::SpineId;

use super::node::{Ask, TestNode};

/// A request for a service by a stored spine, whose times are in `at`.
pub fn stored(spine: SpineId, services: &[&str], ask: Ask) -> StoredRequest {
    StoredRequest {
        spine,
        services: services.iter().map(|service| (*service).to_owned()).collect(),
        features: Vec::new(),
        event_time: "at".to_owned(),
        mode: ask.mode,
        cutoff: ask.cutoff,
        with_status: true,
        with_event_time: true,
    }
}

impl TestNode {
    pub fn sets(&self) -> &TrainingSets {
        &self.use_cases().training_sets
    }

    /// Leave to walk, when it is its turn.
    pub fn admission(&self) -> Admission {
        let tenancy = self.use_cases().tenancy.clone();
        let demand = Demand { cost: 1, ..Demand::default() };
        Box::new(move || {
            Box::pin(async move { tenancy.admit(&Identity::loopback(), Action::ReadHistory, demand).await })
        })
    }

    pub async fn try_store(&self, spine: &RecordBatch) -> Result<Put> {
        let permit = self.permit(Action::ReadHistory);
        let mut upload = self.sets().spines().begin(permit, spine.schema()).await?;
        upload.push(spine.clone()).await?;
        upload.finish().await
    }

    pub async fn store(&self, spine: &RecordBatch) -> SpineId {
        self.try_store(spine).await.expect("the spine is stored").spine.id
    }

    pub async fn prepare(&self, request: StoredRequest) -> Prepared {
        let prepared = self.sets().prepare(&self.permit(Action::ReadHistory), request).await;
        prepared.expect("it is a right request")
    }

    pub async fn try_pull(&self, prepared: &Prepared, rows: Range<u64>) -> Result<RecordBatch> {
        let permit = self.permit(Action::ReadHistory);
        let mut pulled = self.sets().pull(permit, prepared, rows, self.admission()).await?;
        let mut batches = Vec::new();
        while let Some(batch) = pulled.next().await {
            batches.push(batch?);
        }
        Ok(arrow_select::concat::concat_batches(&pulled.schema(), &batches).expect("one schema"))
    }

    pub async fn pull(&self, prepared: &Prepared, rows: Range<u64>) -> RecordBatch {
        self.try_pull(prepared, rows).await.expect("the endpoint is answered")
    }

    pub async fn try_save(&self, name: &str, request: StoredRequest) -> Result<Created> {
        let new = NewSet { name: set_name(name), request };
        let creation = self.sets().create(&self.permit(Action::ReadHistory), new).await?;
        creation.finish(self.admission()).await
    }

    pub async fn save(&self, name: &str, request: StoredRequest) -> SavedSet {
        self.try_save(name, request).await.expect("it is saved").set
    }

    pub async fn verify(&self, name: &str, version: u32) -> Verified {
        let permit = self.permit(Action::ReadHistory);
        let verification = self.sets().verify(&permit, &set_name(name), Some(version)).await.expect("it is saved");
        verification.finish(self.admission()).await.expect("it is made again")
    }

    /// All rows of a saved training set, endpoint after endpoint.
    pub async fn pull_saved(&self, name: &str, version: u32, endpoint_rows: u64) -> RecordBatch {
        let permit = self.permit(Action::ReadHistory);
        let (_, prepared) =
            self.sets().prepare_saved(&permit, &set_name(name), Some(version)).await.expect("it is saved");
        self.pull_all(&prepared, endpoint_rows).await
    }

    pub async fn pull_all(&self, prepared: &Prepared, endpoint_rows: u64) -> RecordBatch {
        let mut parts = Vec::new();
        for rows in prepared.endpoints(endpoint_rows, u64::MAX).expect("not too many") {
            parts.push(self.pull(prepared, rows).await);
        }
        arrow_select::concat::concat_batches(&prepared.plan.output, &parts).expect("one schema")
    }

    /// Walks for endpoints and saved training sets so far.
    pub fn walks(&self) -> u64 {
        self.use_cases().history.metrics().walks.get()
    }
}

pub fn set_name(name: &str) -> Name {
    name.parse().expect("a name")
}
