//! Hydrant: an actor-based, multi-tenant ML feature store, online and offline in one system.
//!
//! ARCHITECTURE.md tells how the parts fit together; the modules stand here in reading order.

pub mod access;
pub mod app;
pub mod audit;
pub mod backfill;
pub mod backup;
pub mod bench;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod compaction;
pub mod config;
pub mod counter;
pub mod erasure;
pub mod error;
pub mod freshness;
pub mod history;
pub mod ingest;
pub mod landing;
pub mod lands;
pub mod log;
pub mod materialize;
pub mod one_at_a_time;
pub mod openlineage;
pub mod pace;
pub mod partition;
pub mod quotas;
pub mod refill;
pub mod registry;
pub mod rows;
pub mod rpc;
pub mod runs;
pub mod sending;
pub mod serving;
pub mod telemetry;
pub mod tenancy;
pub mod usage;
pub mod versions;

#[cfg(test)]
pub(crate) mod testing;
