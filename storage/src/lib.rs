//! Values, keys, RocksDB partitions and history tables: everything of Hydrant that touches a disk
//! format, except the log. This crate knows nothing of transport, actors or the registry; what it
//! needs of a definition (types, ttl, ids) is handed to it.

pub mod backup;
pub mod cast;
pub mod erased;
pub mod files;
pub mod history;
pub mod keys;
pub mod names;
pub mod order;
pub mod partition;
mod prefetch;
pub mod record;
pub mod row;
pub mod slices;
pub mod sources;
pub mod spines;
pub mod threads;
pub mod value;
