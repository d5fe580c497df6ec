//! When freshness is looked at and what it finds is sent, and how it learns which rows were served. It
//! measures and decides nothing.

use std::sync::Arc;
use std::time::Duration;

use hydrant_storage::names::ViewId;

use crate::config::Config;
use crate::counter::Spread;
use crate::freshness::{Freshness, FreshnessOptions, ServedAges};
use crate::serving::ServedRows;

/// Tells freshness which rows were served, of which serving counts the ages.
#[derive(Debug)]
pub(super) struct AgesOfServing(pub Arc<ServedRows>);

impl ServedAges for AgesOfServing {
    fn of(&self, view: ViewId) -> Option<Arc<Spread>> {
        self.0.ages_of(view)
    }
}

/// Has freshness looked at and notifications sent, each webhook by itself, until it is dropped. What is
/// measured goes by store time; this only says when.
#[derive(Debug)]
pub(super) struct FreshnessWatch(tokio::task::JoinSet<()>);

impl FreshnessWatch {
    /// How often a webhook's task looks whether something is due.
    const POLL: Duration = Duration::from_millis(250);

    pub fn start(freshness: &Freshness) -> Self {
        let mut tasks = tokio::task::JoinSet::new();
        let (looking, interval) = (freshness.clone(), freshness.options().interval);
        tasks.spawn(async move {
            let mut interval = tokio::time::interval(interval);
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut told = None;
            loop {
                interval.tick().await;
                let failed = looking.look().await.err().map(|error| error.to_string());
                // Once for as long as it is the same.
                if let Some(error) = failed.as_ref().filter(|_| failed != told) {
                    tracing::error!(error, "freshness was not measured, or not kept");
                }
                told = failed;
            }
        });
        for url in freshness.options().webhooks.clone() {
            let sending = freshness.clone();
            tasks.spawn(async move {
                loop {
                    match sending.deliver_one(&url).await {
                        Ok(true) => {}
                        Ok(false) => tokio::time::sleep(Self::POLL).await,
                        Err(error) => {
                            tracing::error!(%error, "that a notification was sent could not be kept; it may be sent again");
                            tokio::time::sleep(Self::POLL).await;
                        }
                    }
                }
            });
        }
        Self(tasks)
    }

    pub async fn end(mut self) {
        self.0.shutdown().await;
    }
}

pub(super) fn freshness_options(config: &Config) -> FreshnessOptions {
    FreshnessOptions {
        interval: config.freshness.interval.duration(),
        save_interval: config.freshness.save_interval.duration(),
        webhooks: config.alerts.urls(),
        repeat: config.alerts.repeat_interval.duration(),
        max_queued: config.alerts.max_queued,
    }
}
