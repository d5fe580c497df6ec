//! Definitions: what tenants have defined, whether it fits together, and what changes when they
//! apply something else. Everyone reads immutable snapshots; a change is persisted first and
//! published afterwards. The registry never sits on a read path and never touches data.

pub mod catalog;
pub mod definition;
pub mod selection;

use std::sync::Arc;

use arc_swap::ArcSwap;

use self::catalog::Snapshot;

/// Where to read what is defined now. Clones read the same place; loading one is wait-free.
#[derive(Clone, Debug)]
pub struct SnapshotReader(Arc<ArcSwap<Snapshot>>);

impl SnapshotReader {
    /// A place that nobody publishes to.
    pub fn fixed(snapshot: Arc<Snapshot>) -> Self {
        Self(Arc::new(ArcSwap::new(snapshot)))
    }

    /// The newest snapshot. A request loads one and sees nothing else to its end.
    pub fn load(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }
}
