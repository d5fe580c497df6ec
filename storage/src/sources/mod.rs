//! What others keep and Hydrant loads: Parquet files, folders of them and Delta tables, on this machine or
//! in an object store. They are found, opened and read in batches, with a bounded part of a file in memory.
//! Nothing is written here, and nothing is left out quietly: what can't be honoured is refused.

mod delta;
mod find;
mod object;
mod parquet_file;
mod place;

#[cfg(test)]
mod tests;

pub use self::find::{Format, Wanted, open};
pub use self::parquet_file::{Batches, ParquetFile};
pub use self::place::dataset;

/// Why something of others can't be read. Every message begins with its location.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SourceError {
    #[error("{location}: can't be read: {told}")]
    Unreadable { location: String, told: String },
    #[error("{location}: can't be read as Parquet: {told}")]
    NotParquet { location: String, told: String },
    #[error("{location}: it was changed since it was first looked at")]
    Changed { location: String },
    /// There is nothing to read there.
    #[error("{location}: {told}")]
    Nothing { location: String, told: String },
    /// Reading it would leave something out, or give what isn't meant.
    #[error("{location}: {told}")]
    Unsupported { location: String, told: String, hint: &'static str },
}

impl SourceError {
    pub fn location(&self) -> &str {
        match self {
            Self::Unreadable { location, .. }
            | Self::NotParquet { location, .. }
            | Self::Changed { location }
            | Self::Nothing { location, .. }
            | Self::Unsupported { location, .. } => location,
        }
    }

    fn unreadable(location: &str, error: &dyn std::fmt::Display) -> Self {
        Self::Unreadable { location: location.to_owned(), told: place::without_secrets(&error.to_string()) }
    }

    fn unsupported(location: &str, told: impl Into<String>, hint: &'static str) -> Self {
        Self::Unsupported { location: location.to_owned(), told: told.into(), hint }
    }
}
