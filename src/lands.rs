//! What looks for rows in history has them land first, and knows nothing of landing itself.

use std::fmt::Debug;

use async_trait::async_trait;

use crate::error::Result;

/// Brings rows from the partitions' tails into history.
#[async_trait]
pub trait Lands: Send + Sync + Debug {
    /// All that is durable in the log is history when it returns; where it fails, whatever landing began before
    /// is over too.
    async fn land_now(&self) -> Result<()>;
}
