//! The point-in-time workloads: how long spine and history are, which history each is joined with, and
//! what is promised of it.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::support::training::{Keys, SpineShape};

/// A workload, which is a part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Workload {
    S,
    /// As S, one key in half of the spine's rows.
    Skew,
    M,
    /// A thousand rows against M's history.
    Small,
    /// Twice M's history, with the server's memory for the join capped at 1 GiB.
    L,
}

/// The histories, each of which is loaded once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    S,
    M,
    L,
}

impl Workload {
    pub fn name(self) -> &'static str {
        match self {
            Self::S => "S",
            Self::Skew => "skew",
            Self::M => "M",
            Self::Small => "small",
            Self::L => "L",
        }
    }

    pub fn history(self) -> History {
        match self {
            Self::S | Self::Skew => History::S,
            Self::M | Self::Small => History::M,
            Self::L => History::L,
        }
    }

    pub fn spine(self, scale: f64) -> SpineShape {
        let (rows, keys) = match self {
            Self::S => (1_000_000, Keys::Uniform),
            Self::Skew => (1_000_000, Keys::OneInHalfOfTheRows),
            Self::M | Self::L => (10_000_000, Keys::Uniform),
            Self::Small => (1_000, Keys::Uniform),
        };
        SpineShape { rows: (f64::from(rows) * scale) as usize, keys }
    }

    pub fn spine_path(self, folder: &Path) -> PathBuf {
        folder.join(format!("spine-{}.parquet", self.name().to_lowercase()))
    }

    /// The engines that are measured on the same rows: L is beyond the memory of both here.
    pub fn rivals(self) -> &'static [&'static str] {
        match self {
            Self::S | Self::M => &["duckdb", "polars"],
            Self::Skew | Self::Small | Self::L => &[],
        }
    }

    /// Runs of each engine: those of M and L take minutes.
    pub fn runs(self, wanted: usize) -> usize {
        match self {
            Self::M | Self::L => wanted.min(1),
            _ => wanted,
        }
    }
}

impl History {
    /// Rows of each view.
    pub fn rows(self, scale: f64) -> usize {
        let rows = match self {
            Self::S => 5_000_000,
            Self::M => 50_000_000,
            Self::L => 100_000_000,
        };
        (f64::from(rows) * scale) as usize
    }

    /// Of the server; a join is what takes memory here.
    pub fn options(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::L => &[("HISTORY__MEMORY", "1GiB")],
            // A fifth of what DuckDB takes.
            Self::M => &[("HISTORY__MEMORY", "4GiB")],
            Self::S => &[],
        }
    }

    /// Disk for the rows as Parquet files, and for the server's own files while compaction rewrites them.
    pub fn disk_bytes(self, scale: f64) -> u64 {
        const BYTES_PER_ROW: u64 = 100;
        3 * self.rows(scale) as u64 * BYTES_PER_ROW
    }
}
