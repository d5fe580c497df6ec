//! What the log carries: frames of records. A frame is one request; a record is one row of one
//! view, packed once at ingest. How frames become bytes, and that each record carries its kind, is
//! the log's affair.

use std::sync::Arc;

use bytes::Bytes;

use crate::names::{TenantId, ViewId};
use crate::order::{Micros, Position, RowVersion};

/// One row of one view, as ingest made it. Its ingest time and position are its frame's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowRecord {
    pub tenant: TenantId,
    pub view: ViewId,
    /// The slot of the view's entity key.
    pub slot: u16,
    /// The row's ordinal in its request; with the frame's number, its position.
    pub ordinal: u32,
    /// The encoded entity key (see [`crate::keys`]).
    pub key: Bytes,
    pub event_time: Micros,
    /// `None`: known on arrival, at the frame's ingest time.
    pub known_time: Option<Micros>,
    pub tombstone: bool,
    /// The revision of the view's definition that packed the body.
    pub revision: u64,
    /// How many features the body holds; fewer than the view has now, if some were added later.
    pub feature_count: u16,
    /// The packed features (see [`crate::row`]); empty for a tombstone.
    pub body: Bytes,
}

impl RowRecord {
    /// What orders this row among its key's, once its frame is stamped.
    pub fn version(&self, frame: u64, ingest_time: Micros) -> RowVersion {
        RowVersion {
            event_time: self.event_time,
            known_time: self.known_time.unwrap_or(ingest_time),
            position: Position { frame, ordinal: self.ordinal },
        }
    }
}

/// Who sent a request, so that it is taken once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerStamp {
    /// Hash of tenant and producer id.
    pub producer: u128,
    pub sequence: u64,
    /// Hash of the request's content.
    pub payload_hash: u128,
}

/// One request in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Counts from 1 without gaps.
    pub number: u64,
    /// Store time at which the request was accepted; rises strictly from frame to frame.
    pub ingest_time: Micros,
    pub stamp: Option<ProducerStamp>,
    /// In ascending order of (slot, ordinal), so that a partition finds its rows by bisection.
    pub rows: Vec<RowRecord>,
}

impl Frame {
    /// The rows of the slots `first..=last`.
    pub fn rows_of_slots(&self, first: u16, last: u16) -> &[RowRecord] {
        let from = self.rows.partition_point(|row| row.slot < first);
        let to = self.rows.partition_point(|row| row.slot <= last);
        &self.rows[from..to]
    }
}

/// Frames are shared by every partition that applies them.
pub type SharedFrame = Arc<Frame>;
