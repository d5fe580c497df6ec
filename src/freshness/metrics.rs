//! Every metric of freshness: name, unit, help. What is measured is told as of the last look.

use std::sync::{Arc, Weak};

use super::state::State;
use super::{Freshness, Inner, Standing};
use crate::counter::Counter;
use crate::telemetry::{AsyncInstrument, Instruments, Label, Metric};

const AGE: Metric = Metric {
    name: "hydrant.freshness.age",
    unit: Metric::SECONDS,
    help: "Store time minus the newest event time applied, in the partition that is worst off; nothing before the first row.",
};
const MAX_AGE: Metric =
    Metric { name: "hydrant.freshness.max_age", unit: Metric::SECONDS, help: "The age that a view's owner promises." };
const LAG: Metric = Metric {
    name: "hydrant.freshness.lag",
    unit: Metric::SECONDS,
    help: "For how long the oldest accepted request has waited that reads of a partition of the view don't see; 0 where they see all.",
};
const TARGET: Metric = Metric {
    name: "hydrant.freshness.target",
    unit: Metric::COUNT,
    help: "The share of time for which a view's owner promises it.",
};
const ATTAINED: Metric = Metric {
    name: "hydrant.freshness.attained",
    unit: Metric::COUNT,
    help: "The share of the window's measured time in which rows were fresh; nothing where none was measured.",
};
const BUDGET_LEFT: Metric = Metric {
    name: "hydrant.freshness.budget_left",
    unit: Metric::COUNT,
    help: "The share of the error budget that is left; below 0 where more was spent.",
};
const BURN_RATE: Metric = Metric {
    name: "hydrant.freshness.burn_rate",
    unit: Metric::COUNT,
    help: "How many times faster than it can bear the error budget was spent, over the last 5m, 30m, 1h and 6h.",
};
const STATE: Metric = Metric {
    name: "hydrant.freshness.state",
    unit: Metric::COUNT,
    help: "1 for the state of a view (OK, AT_RISK, BREACHED, NO_DATA), 0 for the others; with the severity that was promised.",
};
const WAITING: Metric = Metric {
    name: "hydrant.freshness.notifications.waiting",
    unit: Metric::COUNT,
    help: "Notifications that are not yet sent.",
};

/// What watching counts.
#[derive(Debug)]
pub struct FreshnessMetrics {
    pub looks: Arc<Counter>,
    pub looks_failed: Arc<Counter>,
    pub sent: Arc<Counter>,
    pub send_failed: Arc<Counter>,
    pub dropped: Arc<Counter>,
}

impl Default for FreshnessMetrics {
    fn default() -> Self {
        Self {
            looks: Counter::count("hydrant.freshness.looks", "times that the freshness of all views was measured"),
            looks_failed: Counter::count(
                "hydrant.freshness.looks.failed",
                "times that it could not be measured, or what was measured could not be kept",
            ),
            sent: Counter::count("hydrant.freshness.notifications.sent", "notifications that a webhook has taken"),
            send_failed: Counter::count(
                "hydrant.freshness.notifications.failed",
                "attempts to send a notification that failed",
            ),
            dropped: Counter::count(
                "hydrant.freshness.notifications.dropped",
                "notifications that were given up: refused by the webhook, too old, or too many",
            ),
        }
    }
}

impl FreshnessMetrics {
    pub fn counters(&self) -> Vec<Arc<Counter>> {
        let all = [&self.looks, &self.looks_failed, &self.sent, &self.send_failed, &self.dropped];
        all.into_iter().cloned().collect()
    }
}

impl Freshness {
    /// Has the gauges asked for as long as the use case lives.
    pub fn export(&self, instruments: &Instruments) {
        let gauge = |metric: &Metric, tell: fn(&Standing, &[Label], &dyn AsyncInstrument<f64>)| {
            let inner: Weak<Inner> = Arc::downgrade(&self.inner);
            instruments.observed(metric, move |gauge| {
                let Some(inner) = inner.upgrade() else { return };
                for standing in inner.standings() {
                    let labels = [
                        Label::new("tenant", standing.tenant.to_string()),
                        Label::new("view", standing.view.to_string()),
                    ];
                    tell(&standing, &labels, gauge);
                }
            });
        };
        gauge(&AGE, |standing, labels, gauge| {
            if let Some(age) = standing.age {
                gauge.observe(age as f64 / 1e6, labels);
            }
        });
        gauge(&MAX_AGE, |standing, labels, gauge| gauge.observe(standing.promise.max_age as f64 / 1e6, labels));
        gauge(&LAG, |standing, labels, gauge| {
            gauge.observe(standing.seen.lag as f64 / 1e6, labels);
        });
        gauge(&TARGET, |standing, labels, gauge| {
            gauge.observe(1.0 - standing.promise.target.allowance(), labels);
        });
        gauge(&ATTAINED, |standing, labels, gauge| {
            if let Some(attained) = standing.attained() {
                gauge.observe(attained, labels);
            }
        });
        gauge(&BUDGET_LEFT, |standing, labels, gauge| gauge.observe(standing.budget_left(), labels));
        gauge(&BURN_RATE, |standing, labels, gauge| {
            for (span, rate) in standing.burn.named() {
                let [tenant, view] = labels else { continue };
                gauge.observe(rate, &[tenant.clone(), view.clone(), Label::new("span", span)]);
            }
        });
        gauge(&STATE, |standing, labels, gauge| {
            for state in State::ALL {
                let [tenant, view] = labels else { continue };
                let severity = Label::new("severity", standing.promise.severity.as_str());
                let told = [tenant.clone(), view.clone(), severity, Label::new("state", state.as_str())];
                gauge.observe(f64::from(u8::from(state == standing.state)), &told);
            }
        });
        let inner: Weak<Inner> = Arc::downgrade(&self.inner);
        instruments.observed(&WAITING, move |gauge| {
            if let Some(inner) = inner.upgrade() {
                gauge.observe(inner.waiting() as f64, &[]);
            }
        });
    }
}
