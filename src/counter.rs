//! Numbers that the hot path adds to and telemetry reads: an atomic each, under the name, unit and
//! help that operators see. Nothing here knows an exporter, and counting never fails or blocks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A count that only rises while the process lives.
#[derive(Debug)]
pub struct Counter {
    /// Dotted, as telemetry's metrics are.
    pub name: &'static str,
    /// As in UCUM; empty for what is simply counted.
    pub unit: &'static str,
    pub help: &'static str,
    value: AtomicU64,
}

impl Counter {
    pub fn new(name: &'static str, unit: &'static str, help: &'static str) -> Arc<Self> {
        Arc::new(Self { name, unit, help, value: AtomicU64::new(0) })
    }

    /// Of what is simply counted.
    pub fn count(name: &'static str, help: &'static str) -> Arc<Self> {
        Self::new(name, "", help)
    }

    pub fn add(&self, by: u64) {
        self.value.fetch_add(by, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
}
