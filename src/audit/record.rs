//! A record of the audit log and its bytes: what somebody asked for and what came of it, with a checksum,
//! and with a hash over itself and the record before, so that none can be taken out or changed in the
//! middle without the next one telling. What is read is taken for hostile.

use aws_lc_rs::digest::{Context, SHA256};
use hydrant_storage::order::Micros;
use serde::{Deserialize, Serialize};

/// Bytes of one record at most, as JSON.
pub const MAX_PAYLOAD: usize = 128 << 10;
/// Length, checksum, hash.
pub const HEAD_BYTES: usize = 4 + 4 + HASH_BYTES;
pub const HASH_BYTES: usize = 32;

/// Names of one record; of more only how many there are is told.
const MAX_RESOURCES: usize = 64;
/// Bytes of one text.
const MAX_TEXT: usize = 256;
/// Bytes of a caller's name, which may be that of an issuer and of a subject.
const MAX_CALLER: usize = 1_024;

pub type Hash = [u8; HASH_BYTES];

/// One record. Texts and lists are bounded by [`Record::bounded`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Counts from 1, without gaps.
    pub sequence: u64,
    /// Store time, in microseconds.
    pub time: Micros,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tenant: String,
    /// Who: the name of the identity; empty where nobody could be told.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub caller: String,
    /// From where.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub peer: String,
    /// What was asked for, such as `RegistryService/Apply`.
    pub action: String,
    /// Of what, such as `FeatureView/airport_weather`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// The caller's trace, where there is one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub trace: String,
    /// How many records before this one were written in the same step: all or none of them were
    /// acknowledged.
    #[serde(default, skip_serializing_if = "is_first")]
    pub behind: u64,
    pub outcome: Outcome,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Outcome {
    /// It is about to be done. If no other record is of this one, what came of it is not known.
    Asked,
    /// The request of this record was done.
    Done { of: u64, before: Option<u64>, after: Option<u64> },
    /// It was refused or failed, for this reason.
    Failed { of: u64, reason: String },
    /// Its caller went away before it was answered: it may have been done.
    GivenUp { of: u64 },
    /// Somebody asked for what they may not do, so many times since then.
    Refused { reason: String, count: u64, since: Micros },
    /// The log's own: records through this one were kept for long enough and were removed.
    Removed { through: u64 },
}

impl Outcome {
    pub const ALL: [&'static str; 6] = ["asked", "done", "failed", "given_up", "refused", "removed"];

    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Done { .. } => "done",
            Self::Failed { .. } => "failed",
            Self::GivenUp { .. } => "given_up",
            Self::Refused { .. } => "refused",
            Self::Removed { .. } => "removed",
        }
    }
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    #[error("it ends in the middle of a record")]
    Short,
    #[error("a record's checksum doesn't match")]
    Checksum,
    #[error("a record can't be understood")]
    Content,
    #[error("a record's hash is not that of itself and the record before")]
    Chain,
    #[error("a record has another number than the one before demands")]
    Sequence,
}

impl Record {
    /// With no text longer and no list larger than may be kept.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        cut_to(&mut self.caller, MAX_CALLER);
        let texts = [&mut self.tenant, &mut self.peer, &mut self.action, &mut self.trace];
        texts.into_iter().for_each(cut);
        if let Outcome::Failed { reason, .. } | Outcome::Refused { reason, .. } = &mut self.outcome {
            cut(reason);
        }
        let named = self.resources.len();
        self.resources.truncate(MAX_RESOURCES);
        self.resources.iter_mut().for_each(cut);
        if named > MAX_RESOURCES {
            self.resources.push(format!("and {} more", named - MAX_RESOURCES));
        }
        self
    }

    /// Appends the record's bytes to `out` and tells its hash.
    pub fn encode(&self, before: &Hash, out: &mut Vec<u8>) -> Hash {
        let payload = serde_json::to_vec(self).expect("a record has texts and numbers only");
        assert!(payload.len() <= MAX_PAYLOAD, "a record is bounded before it is encoded");
        let hash = chained(before, &payload);
        out.extend_from_slice(&u32::try_from(payload.len()).expect("bounded").to_le_bytes());
        out.extend_from_slice(&checksum(&hash, &payload).to_le_bytes());
        out.extend_from_slice(&hash);
        out.extend_from_slice(&payload);
        hash
    }

    /// The record that `bytes` begin with, its hash and how many bytes it takes; it is held to its
    /// checksum, not yet to what stands before it.
    pub fn decode(bytes: &[u8]) -> Result<(Self, Hash, usize), Bad> {
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or(Bad::Short)?;
        let (sum, rest) = rest.split_first_chunk::<4>().ok_or(Bad::Short)?;
        let (hash, rest) = rest.split_first_chunk::<HASH_BYTES>().ok_or(Bad::Short)?;
        let length = u32::from_le_bytes(*length) as usize;
        if length == 0 || length > MAX_PAYLOAD {
            return Err(Bad::Checksum);
        }
        let payload = rest.get(..length).ok_or(Bad::Short)?;
        if checksum(hash, payload) != u32::from_le_bytes(*sum) {
            return Err(Bad::Checksum);
        }
        let record = serde_json::from_slice(payload).map_err(|_| Bad::Content)?;
        Ok((record, *hash, HEAD_BYTES + length))
    }

    /// The same, held to the record before too.
    pub fn decode_after(bytes: &[u8], sequence: u64, before: &Hash) -> Result<(Self, Hash, usize), Bad> {
        let (record, hash, length) = Self::decode(bytes)?;
        if chained(before, &bytes[HEAD_BYTES..length]) != hash {
            return Err(Bad::Chain);
        }
        if record.sequence != sequence + 1 {
            return Err(Bad::Sequence);
        }
        Ok((record, hash, length))
    }
}

fn is_first(behind: &u64) -> bool {
    *behind == 0
}

fn chained(before: &Hash, payload: &[u8]) -> Hash {
    let mut context = Context::new(&SHA256);
    context.update(before);
    context.update(payload);
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn checksum(hash: &Hash, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(hash);
    hasher.update(payload);
    hasher.finalize()
}

fn cut(text: &mut String) {
    cut_to(text, MAX_TEXT);
}

fn cut_to(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        let end = (0..=bytes).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
}

/// As people and programs write a hash.
pub fn hex(hash: &Hash) -> String {
    use std::fmt::Write as _;
    hash.iter().fold(String::with_capacity(2 * HASH_BYTES), |mut text, byte| {
        // Writing into a string never fails.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(sequence: u64) -> Record {
        Record {
            sequence,
            time: 7,
            tenant: "acme".to_owned(),
            caller: "ann".to_owned(),
            peer: "127.0.0.1:5".to_owned(),
            action: "RegistryService/Apply".to_owned(),
            resources: vec!["feature_view/weather".to_owned()],
            trace: String::new(),
            behind: 0,
            outcome: Outcome::Asked,
        }
    }

    #[test]
    fn a_record_reads_back_after_the_one_before_it_and_after_no_other() {
        let mut bytes = Vec::new();
        let first = record(1).encode(&[0; HASH_BYTES], &mut bytes);
        let at = bytes.len();
        record(2).encode(&first, &mut bytes);
        let (read, hash, length) = Record::decode_after(&bytes, 0, &[0; HASH_BYTES]).expect("whole");
        assert_eq!((read, hash, length), (record(1), first, at));
        assert_eq!(Record::decode_after(&bytes[at..], 1, &first).expect("whole").0, record(2));
        assert_eq!(Record::decode_after(&bytes[at..], 1, &[0; HASH_BYTES]), Err(Bad::Chain));
        assert_eq!(Record::decode_after(&bytes[at..], 2, &first), Err(Bad::Sequence));
    }

    #[test]
    fn every_damaged_or_missing_byte_is_found() {
        let mut bytes = Vec::new();
        record(1).encode(&[0; HASH_BYTES], &mut bytes);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert!(Record::decode(&damaged).is_err(), "bit {bit} of byte {at}");
            }
            assert!(Record::decode(&bytes[..at]).is_err(), "{at} bytes of {}", bytes.len());
        }
    }

    #[test]
    fn whatever_is_asked_for_fits_into_a_record() {
        let long = "ü\u{0}\"".repeat(10_000);
        let record = Record {
            sequence: u64::MAX,
            time: Micros::MIN,
            tenant: long.clone(),
            caller: long.clone(),
            peer: long.clone(),
            action: long.clone(),
            resources: vec![long.clone(); 10_000],
            trace: long.clone(),
            behind: u64::MAX,
            outcome: Outcome::Refused { reason: long, count: u64::MAX, since: Micros::MIN },
        };
        let record = record.bounded();
        let mut bytes = Vec::new();
        record.encode(&[7; HASH_BYTES], &mut bytes);
        assert_eq!(record.resources.last().map(String::as_str), Some("and 9936 more"));
        assert_eq!(Record::decode(&bytes).expect("whole").0, record);
    }
}
