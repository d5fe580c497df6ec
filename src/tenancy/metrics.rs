//! What admission has counted, for each tenant and class: who began, who waited and for how long, who
//! was refused and why.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hydrant_storage::names::Name;

use super::admission::Class;
use crate::telemetry::{Histogram, Instruments, Label, Metric};

pub const ADMITTED: Metric = Metric {
    name: "hydrant.admission.admitted",
    unit: Metric::COUNT,
    help: "Requests that began, by tenant and class (online, ingest, training; disk: reads of rows that are not in memory, up to 64 in one).",
};
pub const QUEUED: Metric = Metric {
    name: "hydrant.admission.queued",
    unit: Metric::COUNT,
    help: "Requests that had to wait before they began or were refused; of the class disk: reads of rows.",
};
pub const REFUSED: Metric = Metric {
    name: "hydrant.admission.refused",
    unit: Metric::COUNT,
    help: "Requests that were refused, by reason: those of a quota of keys, rows or bytes had begun, and did nothing.",
};
pub const LEFT_UNREAD: Metric = Metric {
    name: "hydrant.admission.left_unread",
    unit: Metric::COUNT,
    help: "Times that a connection whose online reads are refused was left unread for a moment, by tenant.",
};
pub const WAITING: Metric =
    Metric { name: "hydrant.admission.waiting", unit: Metric::COUNT, help: "Requests that wait to begin, by class." };
pub const WORKING: Metric =
    Metric { name: "hydrant.admission.working", unit: Metric::COUNT, help: "Requests worked on, by class." };
const WAIT: Metric = Metric {
    name: "hydrant.admission.wait",
    unit: Metric::SECONDS,
    help: "How long requests waited that had to wait and then began, by tenant and class.",
};

/// Why admission refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Before it was asked.
    Deadline,
    Quota,
    Overloaded,
}

impl Reason {
    pub const ALL: [Self; 3] = [Self::Deadline, Self::Quota, Self::Overloaded];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deadline => "deadline",
            Self::Quota => "quota",
            Self::Overloaded => "overloaded",
        }
    }
}

/// The counts of one tenant, by class.
#[derive(Debug, Default)]
pub struct Counts {
    classes: [ClassCounts; Class::ALL.len()],
    left_unread: AtomicU64,
}

#[derive(Debug, Default)]
struct ClassCounts {
    admitted: AtomicU64,
    queued: AtomicU64,
    refused: [AtomicU64; Reason::ALL.len()],
}

impl Counts {
    pub(super) fn leave_unread(&self) {
        self.left_unread.fetch_add(1, Ordering::Relaxed);
    }

    pub fn left_unread(&self) -> u64 {
        self.left_unread.load(Ordering::Relaxed)
    }

    pub(super) fn admit(&self, class: Class) {
        self.classes[class as usize].admitted.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn queue(&self, class: Class) {
        self.classes[class as usize].queued.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refuse(&self, class: Class, reason: Reason) {
        self.classes[class as usize].refused[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn admitted(&self, class: Class) -> u64 {
        self.classes[class as usize].admitted.load(Ordering::Relaxed)
    }

    pub fn queued(&self, class: Class) -> u64 {
        self.classes[class as usize].queued.load(Ordering::Relaxed)
    }

    pub fn refused(&self, class: Class, reason: Reason) -> u64 {
        self.classes[class as usize].refused[reason as usize].load(Ordering::Relaxed)
    }
}

/// How long was waited; recorded once somebody has asked for it.
#[derive(Debug, Default)]
pub struct Waits(OnceLock<Histogram<f64>>);

impl Waits {
    pub fn export(&self, instruments: &Instruments) {
        // A second exporter of one process would see the waits of the first only.
        self.0.get_or_init(|| instruments.latency(&WAIT));
    }

    pub(super) fn record(&self, tenant: &Name, class: Class, waited: Duration) {
        if let Some(histogram) = self.0.get() {
            histogram.record(waited.as_secs_f64(), &labels(tenant, class));
        }
    }
}

pub fn labels(tenant: &Name, class: Class) -> [Label; 2] {
    [Label::new("tenant", tenant.to_string()), Label::new("class", class.as_str())]
}
