//! What the log carries: frames of records. A frame is one request; a record is one row of one
//! view, packed once at ingest, or what is to be done beside the partitions. How frames become bytes, and that each record carries its kind, is
//! the log's affair.

use std::sync::Arc;

use bytes::Bytes;

use crate::names::{TenantId, ViewId};
use crate::order::{Micros, Position, RowVersion};

/// One row of one view, as ingest made it. Its ingest time and position are its frame's, unless it was
/// taken in before.
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
    /// Where and when the row was taken in first, where history has it and the frame only brings it online.
    pub origin: Option<Origin>,
}

/// Where and when a row was taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    pub position: Position,
    pub ingest_time: Micros,
}

impl RowRecord {
    /// What orders this row among its key's, once its frame is stamped.
    pub fn version(&self, frame: u64, ingest_time: Micros) -> RowVersion {
        let Origin { position, ingest_time } = self.taken_in(frame, ingest_time);
        RowVersion { event_time: self.event_time, known_time: self.known_time.unwrap_or(ingest_time), position }
    }

    /// Where and when the row was taken in: by its frame, unless history had it before.
    pub fn taken_in(&self, frame: u64, ingest_time: Micros) -> Origin {
        self.origin.unwrap_or(Origin { position: Position { frame, ordinal: self.ordinal }, ingest_time })
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

/// One request in the log: rows, or a control record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Counts from 1 without gaps.
    pub number: u64,
    /// Store time at which the request was accepted; rises strictly from frame to frame.
    pub ingest_time: Micros,
    pub stamp: Option<ProducerStamp>,
    /// In ascending order of (slot, ordinal), so that a partition finds its rows by bisection.
    pub rows: Vec<RowRecord>,
    /// What is to be done beside the partitions, which pass over it; such a frame has no rows.
    pub control: Option<Bytes>,
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
