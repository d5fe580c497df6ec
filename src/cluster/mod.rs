//! What the members of a cluster agree on: small values under names, changed one version at a time.
//! On one machine the members are one process and its files; data never passes through here.

pub mod single;

use std::fmt::Debug;
use std::io;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use crate::error::{Code, Error};

pub use single::LocalMetadata;

/// The largest value.
pub const MAX_VALUE_BYTES: usize = 64 << 20;

/// Named values, each changed by compare-and-set. A value that was put is durable.
#[async_trait]
pub trait MetadataStore: Send + Sync + Debug {
    /// The value and its version; `None` if there never was one.
    async fn get(&self, key: &str) -> Result<Option<Versioned>, MetadataError>;

    /// Replaces a value whose version is `expected` (0: there is none), and tells the new version.
    /// A crash leaves the old value or the new one.
    async fn put_if_version(&self, key: &str, value: Bytes, expected: u64) -> Result<u64, MetadataError>;

    /// Follows the version of a value; 0 while there is none.
    async fn watch(&self, key: &str) -> Result<watch::Receiver<u64>, MetadataError>;
}

/// A value as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    pub value: Bytes,
    /// Counts the changes of this value, from 1.
    pub version: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    #[error("'{key}' is no key for metadata: use [a-z][a-z0-9_]{{0,62}}")]
    InvalidKey { key: String },
    #[error("'{key}' is at version {found}, not {expected}")]
    Conflict { key: String, expected: u64, found: u64 },
    #[error("'{key}' would take {bytes} bytes; at most {MAX_VALUE_BYTES}")]
    TooLarge { key: String, bytes: usize },
    /// The stored bytes are not what was written.
    #[error("{} is damaged: {detail}", path.display())]
    Damaged { path: PathBuf, detail: String },
    /// Nothing was changed.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// Whether the last change holds can't be told before a restart, so nothing more is changed.
    #[error("whether the last change of '{key}' is on disk is not known; restart to find out")]
    Uncertain { key: String },
}

impl From<MetadataError> for Error {
    fn from(error: MetadataError) -> Self {
        let message = error.to_string();
        match error {
            MetadataError::InvalidKey { .. } => Self::internal(message),
            MetadataError::Conflict { .. } => Self::new(Code::Aborted, "METADATA_CONFLICT", message),
            MetadataError::TooLarge { .. } => Self::new(Code::ResourceExhausted, "METADATA_TOO_LARGE", message)
                .hint("delete definitions that are no longer used"),
            MetadataError::Damaged { path, .. } => {
                Self::new(Code::DataLoss, "METADATA_DAMAGED", message).hint(format!(
                    "restore {} from a backup of this data directory; don't delete it alone, since it holds the ids under which \
                     rows are stored. Without a backup, start with an empty data directory, apply the definitions and load the \
                     history again",
                    path.display()
                ))
            }
            MetadataError::Io { .. } => Self::new(Code::Unavailable, "METADATA_UNAVAILABLE", message),
            MetadataError::Uncertain { .. } => Self::new(Code::Unavailable, "METADATA_UNCERTAIN", message)
                .hint("restart the server: it then reads what is on disk"),
        }
    }
}
