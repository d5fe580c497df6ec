//! What stands on the wire, into what stands in memory, and back: typed columns, Arrow IPC,
//! definitions, positions. Nothing here knows a service or a status code; every refusal names the
//! place in the message that is wrong.

pub mod answer;
pub mod cells;
pub mod columns;
pub mod definitions;
pub mod ipc;
pub mod messages;
pub mod plans;
pub mod reads;
pub mod retention;
pub mod roles;

use hydrant_proto::v1;

use crate::error::{Error, Result};

/// The layout of a position's token: a version byte, then the frame's number, little-endian.
const POSITION_VERSION: u8 = 1;

/// An opaque position out of a frame's number.
pub fn encode_position(frame: u64) -> v1::Position {
    let mut token = Vec::with_capacity(9);
    token.push(POSITION_VERSION);
    token.extend_from_slice(&frame.to_le_bytes());
    v1::Position { token }
}

/// The frame's number of a position that was given out before.
pub fn decode_position(position: &v1::Position) -> Result<u64> {
    let frame = match position.token.as_slice() {
        [POSITION_VERSION, frame @ ..] => <[u8; 8]>::try_from(frame).ok(),
        _ => None,
    };
    frame.map(u64::from_le_bytes).ok_or_else(|| {
        Error::invalid("MALFORMED_POSITION", "at_least holds no position that this store gave out")
            .hint("send back the position of an ingest answer, unchanged")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_read_as_they_were_given_out_and_nothing_else_is_one() {
        for frame in [0, 1, 77, u64::MAX] {
            assert_eq!(decode_position(&encode_position(frame)).expect("a position"), frame);
        }
        for token in [vec![], vec![1], vec![2, 1, 0, 0, 0, 0, 0, 0, 0], vec![1; 10]] {
            assert!(decode_position(&v1::Position { token }).is_err());
        }
    }
}
