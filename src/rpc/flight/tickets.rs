//! Tickets: all that it takes to make some rows of a training set again, on this server or after a
//! restart. A ticket gives nothing that its bearer could not ask for without it: whose data they are is
//! said by the bearer's identity. So it needs no signature, only to be what it was made as; and what it
//! says is checked as any request is.

use std::ops::Range;

use arrow_flight::Ticket;
use hydrant_proto::v1;
use prost::Message as _;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};
use crate::history::Mode;
use crate::history::sets::FixedRequest;
use crate::registry::selection::MAX_COLUMNS;

/// Begins every ticket.
const MAGIC: &[u8; 4] = b"HTK1";
/// Magic and checksum.
const HEAD: usize = 4 + 8;
/// No request has as much.
const MAX_BYTES: usize = 1 << 20;
/// Services and features of one request are bounded by columns later; this is for the decoder.
const MAX_NAMES: usize = 10_000;

pub(super) fn encode(request: &FixedRequest, rows: &Range<u64>) -> Ticket {
    let message = v1::TrainingSetTicket {
        spine: request.spine.to_string(),
        services: request.services.clone(),
        features: request.features.clone(),
        event_time: request.event_time.clone(),
        r#final: request.mode == Mode::Final,
        cutoff: request.cutoff,
        with_status: request.with_status,
        with_event_time: request.with_event_time,
        fingerprint: request.fingerprint,
        first_row: rows.start,
        rows: rows.end - rows.start,
        masked: request.masked.clone(),
    };
    let body = message.encode_to_vec();
    let bytes = [&MAGIC[..], &xxh3_64(&body).to_le_bytes(), &body].concat();
    Ticket { ticket: bytes.into() }
}

/// INVALID_ARGUMENT for whatever no server of this version has made.
pub(super) fn decode(ticket: &[u8]) -> Result<(FixedRequest, Range<u64>)> {
    let (head, body) = ticket.split_at_checked(HEAD).ok_or_else(bad)?;
    let (magic, sum) = head.split_at(MAGIC.len());
    if ticket.len() > MAX_BYTES || magic != MAGIC || sum != xxh3_64(body).to_le_bytes() {
        return Err(bad());
    }
    let message = v1::TrainingSetTicket::decode(body).map_err(|_| bad())?;
    if message.services.len() + message.features.len() > MAX_NAMES || message.masked.len() > MAX_COLUMNS {
        return Err(bad());
    }
    let end = message.first_row.checked_add(message.rows).ok_or_else(bad)?;
    let request = FixedRequest {
        spine: message.spine.parse().map_err(|_| bad())?,
        services: message.services,
        features: message.features,
        event_time: message.event_time,
        mode: if message.r#final { Mode::Final } else { Mode::AsKnown },
        cutoff: message.cutoff,
        with_status: message.with_status,
        with_event_time: message.with_event_time,
        masked: message.masked,
        fingerprint: message.fingerprint,
    };
    Ok((request, message.first_row..end))
}

fn bad() -> Error {
    Error::invalid("BAD_TICKET", "this is no ticket, or not as it was given out")
        .hint("use a ticket as GetFlightInfo gave it, byte for byte")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> FixedRequest {
        FixedRequest {
            spine: "0123456789abcdef0123456789abcdef".parse().expect("an id"),
            services: vec!["model@1".to_owned()],
            features: Vec::new(),
            event_time: "at".to_owned(),
            mode: Mode::Final,
            cutoff: -5,
            with_status: true,
            with_event_time: false,
            masked: vec!["user__email".to_owned()],
            fingerprint: u64::MAX,
        }
    }

    #[test]
    fn a_ticket_holds_the_whole_request_and_its_rows() {
        let ticket = encode(&request(), &(7..19));
        assert_eq!(decode(&ticket.ticket).expect("as it was made"), (request(), 7..19));
    }

    #[test]
    fn whatever_is_changed_about_a_ticket_is_refused() {
        let ticket = encode(&request(), &(0..1)).ticket.to_vec();
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(decode(&changed).expect_err("changed").reason, "BAD_TICKET", "byte {at}");
            assert_eq!(decode(&ticket[..at]).expect_err("cut off").reason, "BAD_TICKET", "at {at}");
        }
        for made_up in [&b""[..], b"HTK1", b"nonsense that is longer than a head", &[0xff; 4096]] {
            assert_eq!(decode(made_up).expect_err("made up").reason, "BAD_TICKET");
        }
        let turned = v1::TrainingSetTicket { first_row: u64::MAX, rows: 2, ..Default::default() }.encode_to_vec();
        let turned = [&MAGIC[..], &xxh3_64(&turned).to_le_bytes(), &turned].concat();
        assert_eq!(decode(&turned).expect_err("it runs over").reason, "BAD_TICKET");
    }
}
