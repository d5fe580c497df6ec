//! The state of a node as metrics: how far each partition is behind, what waits to land, what lies
//! in memory and on disk, and what the use cases have counted. It only reads.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use hydrant_storage::history::{HistoryTables, MergeOptions, TableSnapshot};
use hydrant_storage::names::Name;
use hydrant_storage::partition::SharedResources;

use super::Node;
use crate::counter::Counter;
use crate::landing::Landing;
use crate::quotas::metrics as quota;
use crate::rpc::UseCases;
use crate::telemetry::{AsyncInstrument, Instruments, Label, Metric};
use crate::tenancy::metrics::{ADMITTED, LEFT_UNREAD, QUEUED, REFUSED, Reason, WAITING, WORKING, labels};
use crate::tenancy::{Account, Class, Quota};

const LAG: Metric =
    Metric { name: "hydrant.partition.lag", unit: Metric::COUNT, help: "Durable requests that reads don't see yet." };
const BEHIND: Metric = Metric {
    name: "hydrant.partition.behind",
    unit: Metric::SECONDS,
    help: "How long the oldest durable request has waited that reads don't see yet; 0 where they see all.",
};
const TAIL: Metric = Metric {
    name: "hydrant.partition.tail",
    unit: Metric::BYTES,
    help: "Rows of a partition that have not landed in history yet.",
};
const SERVING: Metric =
    Metric { name: "hydrant.partition.serving", unit: Metric::COUNT, help: "1 where a partition can be read, else 0." };
const FRAMES: Metric =
    Metric { name: "hydrant.log.frames", unit: Metric::COUNT, help: "Requests that the log has made durable." };
const SPINES: Metric =
    Metric { name: "hydrant.spines.stored", unit: Metric::COUNT, help: "Spines that are stored, by tenant." };
const SPINE_BYTES: Metric =
    Metric { name: "hydrant.spines.disk", unit: Metric::BYTES, help: "Disk that stored spines take, by tenant." };
const REVISION: Metric =
    Metric { name: "hydrant.registry.revision", unit: Metric::COUNT, help: "The revision of the definitions." };
const CACHE: Metric =
    Metric { name: "hydrant.storage.block_cache", unit: Metric::BYTES, help: "Blocks of the online store in memory." };
const ROW_CACHE: Metric = Metric {
    name: "hydrant.storage.row_cache",
    unit: Metric::BYTES,
    help: "Checked rows of the online store in memory.",
};
const ROW_CACHE_HITS: Metric =
    Metric { name: "hydrant.storage.row_cache.hits", unit: Metric::COUNT, help: "Keys that the row cache answered." };
const ROW_CACHE_MISSES: Metric = Metric {
    name: "hydrant.storage.row_cache.misses",
    unit: Metric::COUNT,
    help: "Keys that the row cache did not answer; they were looked for in the online store.",
};
const WRITE_BUFFERS: Metric = Metric {
    name: "hydrant.storage.write_buffers",
    unit: Metric::BYTES,
    help: "Applied rows that are not flushed to the online store's files yet.",
};
const LANDED_AGE: Metric = Metric {
    name: "hydrant.landing.age",
    unit: Metric::SECONDS,
    help: "Time since the last landing that succeeded, or since the start; 0 while no rows wait to land.",
};
const BACKUP_AGE: Metric = Metric {
    name: "hydrant.backup.age",
    unit: Metric::SECONDS,
    help: "Time since the newest backup was made; nothing before the first.",
};
const JOINS: Metric = Metric {
    name: "hydrant.history.joins.under_way",
    unit: Metric::COUNT,
    help: "Training sets being made, and answers of streams of online reads.",
};
const SPILL: Metric =
    Metric { name: "hydrant.history.spill", unit: Metric::BYTES, help: "Spill files of the training sets being made." };

const FILES: Metric =
    Metric { name: "hydrant.history.files", unit: Metric::COUNT, help: "Files of a view's history table." };
const RUNS: Metric = Metric {
    name: "hydrant.history.runs",
    unit: Metric::COUNT,
    help: "Sorted runs of a view's history table, each of one or more files: what a training set merges.",
};
const TO_MERGE: Metric = Metric {
    name: "hydrant.compaction.to_merge",
    unit: Metric::COUNT,
    help: "Runs of a view's history table that are to be merged next, or are being merged.",
};
const RETIRED: Metric = Metric {
    name: "hydrant.compaction.retired",
    unit: Metric::BYTES,
    help: "Files that were merged with others, and stay for readers of older versions.",
};

/// What is asked when metrics are collected. The instruments hold it weakly: metrics outlive a node,
/// and must not keep it open.
#[derive(Debug)]
pub(super) struct Observed {
    use_cases: UseCases,
    resources: Arc<SharedResources>,
    landing: Landing,
    tables: Arc<HistoryTables>,
    /// `None` where files are not merged by themselves.
    merging: Option<MergeOptions>,
}

/// Has the node asked for as long as what is returned is held.
pub(super) fn observe(instruments: &Instruments, node: &Node) -> Arc<Observed> {
    let observed = Observed {
        use_cases: node.use_cases().clone(),
        resources: node.resources().clone(),
        landing: node.landing().clone(),
        tables: node.tables().clone(),
        merging: node.compaction().options().enabled.then_some(node.compaction().options().merging),
    };
    let observed = Arc::new(observed);
    let gauge = |metric: &Metric, tell: fn(&Observed, &dyn AsyncInstrument<f64>)| {
        let observed: Weak<Observed> = Arc::downgrade(&observed);
        instruments.observed(metric, move |gauge| {
            if let Some(observed) = observed.upgrade() {
                tell(&observed, gauge);
            }
        });
    };
    gauge(&LAG, |node, gauge| {
        for lag in node.use_cases.partitions.lag() {
            gauge.observe(lag.frames as f64, &[partition(lag.partition)]);
        }
    });
    gauge(&BEHIND, |node, gauge| {
        for (index, micros) in node.use_cases.partitions.behind() {
            gauge.observe(micros as f64 / 1e6, &[partition(index)]);
        }
    });
    gauge(&TAIL, |node, gauge| {
        for lag in node.use_cases.partitions.lag() {
            gauge.observe(lag.tail_bytes as f64, &[partition(lag.partition)]);
        }
    });
    gauge(&SERVING, |node, gauge| {
        for handle in node.use_cases.partitions.handles() {
            gauge.observe(f64::from(u8::from(handle.is_serving())), &[partition(handle.index())]);
        }
    });
    gauge(&FRAMES, |node, gauge| gauge.observe(node.use_cases.partitions.durable_frame() as f64, &[]));
    gauge(&REVISION, |node, gauge| gauge.observe(node.use_cases.registry.snapshot().revision as f64, &[]));
    gauge(&CACHE, |node, gauge| gauge.observe(node.resources.cached_bytes() as f64, &[]));
    gauge(&ROW_CACHE, |node, gauge| gauge.observe(node.resources.row_cache_bytes() as f64, &[]));
    let resources = node.resources().clone();
    instruments.observed_count(&ROW_CACHE_HITS, move || resources.row_cache_hits_and_misses().0);
    let resources = node.resources().clone();
    instruments.observed_count(&ROW_CACHE_MISSES, move || resources.row_cache_hits_and_misses().1);
    gauge(&WRITE_BUFFERS, |node, gauge| gauge.observe(node.resources.write_buffer_bytes() as f64, &[]));
    gauge(&LANDED_AGE, |node, gauge| {
        let waits = node.use_cases.partitions.lag().iter().any(|lag| lag.tail_bytes > 0);
        gauge.observe(if waits { node.landing.metrics().age().as_secs_f64() } else { 0.0 }, &[]);
    });
    gauge(&BACKUP_AGE, |node, gauge| {
        if let Some(micros) = node.use_cases.backups.age() {
            gauge.observe(micros as f64 / 1e6, &[]);
        }
    });
    gauge(&JOINS, |node, gauge| gauge.observe(node.use_cases.tenancy.in_flight(Class::Training) as f64, &[]));
    gauge(&SPILL, |node, gauge| gauge.observe(node.use_cases.history.spilled_bytes() as f64, &[]));
    gauge(&SPINES, |node, gauge| node.tell_spines(gauge, |spines, _| spines as f64));
    gauge(&SPINE_BYTES, |node, gauge| node.tell_spines(gauge, |_, bytes| bytes as f64));
    gauge(&FILES, |node, gauge| node.tell_tables(gauge, |table| table.files.len() as f64));
    gauge(&RUNS, |node, gauge| node.tell_tables(gauge, |table| table.chains_with(None, None).len() as f64));
    gauge(&TO_MERGE, |node, gauge| {
        let to_merge = |table: &TableSnapshot| node.merging.map_or(0, |merging| table.runs_to_merge(&merging).len());
        node.tell_tables(gauge, |table| to_merge(table) as f64);
    });
    gauge(&RETIRED, |node, gauge| {
        gauge.observe(node.tables.opened().iter().map(|table| table.retired_bytes()).sum::<u64>() as f64, &[]);
    });

    gauge(&WAITING, |node, gauge| {
        for class in Class::ALL {
            gauge.observe(node.use_cases.tenancy.waiting(class) as f64, &[Label::new("class", class.as_str())]);
        }
    });
    gauge(&WORKING, |node, gauge| {
        for class in Class::ALL {
            gauge.observe(node.use_cases.tenancy.working(class) as f64, &[Label::new("class", class.as_str())]);
        }
    });
    gauge(&quota::USAGE, |node, gauge| {
        node.tell_quotas(|account, quota, labels| {
            if let Some(used) = account.used(quota) {
                gauge.observe(used as f64, labels);
            }
        });
    });
    gauge(&quota::LIMIT, |node, gauge| {
        node.tell_quotas(|account, quota, labels| {
            if let Some(limit) = account.limit_of(quota) {
                gauge.observe(limit as f64, labels);
            }
        });
    });
    gauge(&quota::NEAR, |node, gauge| {
        for account in node.use_cases.tenancy.accounts() {
            for usage in account.usage() {
                gauge.observe(f64::from(u8::from(usage.is_near())), &quota_labels(&account, usage.quota));
            }
        }
    });
    let refused: Weak<Observed> = Arc::downgrade(&observed);
    instruments.observed_counts(&quota::REFUSED, move |observer| {
        if let Some(node) = refused.upgrade() {
            node.tell_quotas(|account, quota, labels| observer.observe(account.refused(quota), labels));
        }
    });
    count_admission(instruments, &observed);
    node.use_cases().tenancy.waits().export(instruments);

    let UseCases { partitions, ingest, serving, history, backfills, materialize, backups, audit, freshness, .. } =
        node.use_cases();
    freshness.export(instruments);
    serving.served().export(instruments);
    let counters = [
        node.log_metrics().counters(),
        partitions.metrics().counters(),
        ingest.metrics().counters(),
        serving.metrics().counters(),
        history.metrics().counters(),
        node.landing().metrics().counters(),
        node.compaction().metrics().counters(),
        backfills.metrics().counters(),
        materialize.metrics().counters(),
        node.background().counters(),
        backups.metrics().counters(),
        audit.metrics().counters(),
        freshness.metrics().counters(),
    ];
    let of_lineage = node.lineage().map(|told| {
        told.export(instruments);
        told.metrics().counters()
    });
    for counter in counters.into_iter().flatten().chain(of_lineage.into_iter().flatten()) {
        count(instruments, &observed, counter);
    }
    observed
}

impl Observed {
    /// A number of each tenant's stored spines.
    fn tell_spines(&self, gauge: &dyn AsyncInstrument<f64>, number: fn(usize, u64) -> f64) {
        let spines = self.use_cases.training_sets.spines();
        for tenant in self.use_cases.registry.snapshot().tenants.keys() {
            let (count, bytes) = spines.usage(tenant);
            gauge.observe(number(count, bytes), &[Label::new("tenant", tenant.to_string())]);
        }
    }

    /// Something of each tenant and quota.
    fn tell_quotas(&self, tell: impl Fn(&Account, Quota, &[Label])) {
        for account in self.use_cases.tenancy.accounts() {
            Quota::ALL.into_iter().for_each(|quota| tell(&account, quota, &quota_labels(&account, quota)));
        }
    }

    /// A number of each history table.
    fn tell_tables(&self, gauge: &dyn AsyncInstrument<f64>, number: impl Fn(&TableSnapshot) -> f64) {
        for table in self.tables.opened() {
            let table = table.snapshot();
            let (tenant, view) = (table.spec().tenant.to_string(), table.spec().view.to_string());
            let version = Label::new("version", i64::from(table.spec().version));
            gauge.observe(number(&table), &[Label::new("tenant", tenant), Label::new("view", view), version]);
        }
    }
}

/// Has a counter asked; where it tells tenants apart, for every tenant that there is, so that a count
/// is there from its zero on.
fn count(instruments: &Instruments, observed: &Arc<Observed>, counter: Arc<Counter>) {
    let Counter { name, unit, help, .. } = &*counter;
    let metric = Metric { name, unit, help };
    if counter.shares().is_none() {
        instruments.observed_count(&metric, move || counter.get());
        return;
    }
    let observed: Weak<Observed> = Arc::downgrade(observed);
    instruments.observed_counts(&metric, move |observer| {
        let Some(node) = observed.upgrade() else { return };
        let snapshot = node.use_cases.registry.snapshot();
        let mut shares: BTreeMap<Name, u64> = snapshot.tenants.keys().map(|tenant| (tenant.clone(), 0)).collect();
        shares.extend(counter.shares().into_iter().flatten());
        for (tenant, share) in shares {
            observer.observe(share, &[Label::new("tenant", tenant.to_string())]);
        }
    });
}

/// The counts of admission, each for every tenant, and class where it has one, from its zero on.
fn count_admission(instruments: &Instruments, observed: &Arc<Observed>) {
    let counts = |metric: &Metric, tell: fn(&Account, Class, &dyn AsyncInstrument<u64>)| {
        let observed: Weak<Observed> = Arc::downgrade(observed);
        instruments.observed_counts(metric, move |observer| {
            let Some(node) = observed.upgrade() else { return };
            for account in node.use_cases.tenancy.accounts() {
                Class::ALL.into_iter().for_each(|class| tell(&account, class, observer));
            }
        });
    };
    counts(&ADMITTED, |account, class, observer| {
        observer.observe(account.counts().admitted(class), &labels(account.tenant(), class));
    });
    counts(&QUEUED, |account, class, observer| {
        observer.observe(account.counts().queued(class), &labels(account.tenant(), class));
    });
    counts(&REFUSED, |account, class, observer| {
        for reason in Reason::ALL {
            let [tenant, of_class] = labels(account.tenant(), class);
            let told = [tenant, of_class, Label::new("reason", reason.as_str())];
            observer.observe(account.counts().refused(class, reason), &told);
        }
    });
    counts(&LEFT_UNREAD, |account, class, observer| {
        if class == Class::Online {
            let tenant = [Label::new("tenant", account.tenant().to_string())];
            observer.observe(account.counts().left_unread(), &tenant);
        }
    });
}

fn quota_labels(account: &Account, quota: Quota) -> [Label; 2] {
    [Label::new("tenant", account.tenant().to_string()), Label::new("quota", quota.as_str())]
}

fn partition(index: usize) -> Label {
    Label::new("partition", i64::try_from(index).unwrap_or(i64::MAX))
}
