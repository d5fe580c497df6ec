//! The point-in-time join: takes a spine and gives it back with the features that counted at each
//! row's time. Planning, taking the spine in, walking history, and putting the answer together are
//! parts of their own; none of them knows about transport.

mod asof;
mod block;
mod columns;
mod digest;
mod execute;
mod explain;
mod failure;
mod fan_in;
mod hits;
mod keeping;
mod lookup;
mod made_of;
mod metrics;
pub mod plan;
mod range_hits;
pub mod reading;
mod report;
mod service;
pub mod sets;
mod sort;
mod sources;
mod spill;
mod spine;
mod stream;
#[cfg(test)]
mod tests;
mod waiting;
mod walk;
mod why;
mod work;
mod zip;

pub use asof::Mode;
pub use digest::ContentDigest;
pub use explain::Explained;
pub use failure::JoinError;
pub use metrics::HistoryMetrics;
pub use report::{Report, TableVersion};
pub use service::{HistoricalRequest, History, HistoryOptions, HistoryParts, SpineIntake};
pub use stream::HistoricalStream;
pub use why::{Cause, Lost, Rule, ToldRow, Why, WhyCell, WhyLookup, WhyRequest};
