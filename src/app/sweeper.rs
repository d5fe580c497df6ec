//! What is looked after by the minute: spines that nobody needs, when API keys were used last, and what was
//! read.

use std::time::Duration;

use tokio::task::JoinSet;

use crate::access::Access;
use crate::history::sets::TrainingSets;
use crate::usage::Usages;

/// Looks now and then for spines and findings that nobody needs any more, and keeps when API keys were
/// used last and what was read, until it is dropped.
#[derive(Debug)]
pub(super) struct Sweeper(JoinSet<()>);

impl Sweeper {
    const INTERVAL: Duration = Duration::from_mins(1);

    /// How often reads that were counted are put together, so that each is told to within that time.
    const FOLD: Duration = Duration::from_secs(10);
    const PERSISTED_EACH: u32 = 6;

    pub fn start(training_sets: TrainingSets, access: Access, usage: Usages) -> Self {
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
        let mut tasks = JoinSet::new();
        tasks.spawn(sweep);
        tasks.spawn(keep(usage));
        Self(tasks)
    }

    pub async fn end(mut self) {
        self.0.shutdown().await;
    }
}

/// Puts together what was read, and makes it durable each minute.
async fn keep(usage: Usages) {
    let mut interval = tokio::time::interval(Sweeper::FOLD);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for round in 1_u32.. {
        interval.tick().await;
        if !round.is_multiple_of(Sweeper::PERSISTED_EACH) {
            let usage = usage.clone();
            if let Err(error) = tokio::task::spawn_blocking(move || usage.fold()).await {
                tracing::warn!(%error, "what was read was not put together");
            }
        } else if let Err(error) = usage.persist().await {
            tracing::warn!(%error, "what was read last was not kept");
        }
    }
}
