//! What operators see of quotas, for each tenant and quota.

use crate::telemetry::Metric;

pub const USAGE: Metric = Metric {
    name: "hydrant.quota.usage",
    unit: Metric::COUNT,
    help: "What a tenant uses of a quota, limited or not; of a rate, what a second took lately.",
};
pub const LIMIT: Metric = Metric {
    name: "hydrant.quota.limit",
    unit: Metric::COUNT,
    help: "The limit that holds, raises included; nothing where there is none.",
};
pub const NEAR: Metric = Metric {
    name: "hydrant.quota.near",
    unit: Metric::COUNT,
    help: "1 where at least 80 % of a quota is in use, else 0; nothing where there is no limit.",
};
pub const REFUSED: Metric = Metric {
    name: "hydrant.quota.refused",
    unit: Metric::COUNT,
    help: "How often something was refused because a quota was used up.",
};
