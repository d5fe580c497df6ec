//! What is looked after by the minute: spines that nobody needs, and when API keys were used last.

use std::time::Duration;

use tokio::task::JoinSet;

use crate::access::Access;
use crate::history::sets::TrainingSets;

/// Looks now and then for spines and findings that nobody needs any more, and keeps when API keys were
/// used last, until it is dropped.
#[derive(Debug)]
pub(super) struct Sweeper(JoinSet<()>);

impl Sweeper {
    const INTERVAL: Duration = Duration::from_mins(1);

    pub fn start(training_sets: TrainingSets, access: Access) -> Self {
        let sweep = async move {
            let mut interval = tokio::time::interval(Self::INTERVAL);
            loop {
                interval.tick().await;
                let training_sets = training_sets.clone();
                if let Err(error) = tokio::task::spawn_blocking(move || training_sets.sweep()).await {
                    tracing::warn!(%error, "spines that nobody needs were not looked for");
                }
                if let Err(error) = access.persist_uses().await {
                    tracing::warn!(%error, "when API keys were used last was not kept");
                }
            }
        };
        Self(JoinSet::from_iter([sweep]))
    }

    pub async fn end(mut self) {
        self.0.shutdown().await;
    }
}
