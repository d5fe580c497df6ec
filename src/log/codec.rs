//! Frames as bytes. All numbers are little endian:
//!
//! `length u32 | crc32 u32 | format u8 | kind u8 | in_group u32 | number u64 | ingest_time i64 |
//! stamped u8 [producer u128 | sequence u64 | payload_hash u128] | count u32 | records`
//!
//! A frame's kind says whether its records are rows, `count` of them, or one control record of `count`
//! bytes, which mean nothing here.
//!
//! `length` counts what follows the checksum, which is over the length and what follows. `in_group`
//! counts the frames before it in the same write. Of a row that was erased the record stays, blanked
//! and marked, and decoding leaves it out. Decoding trusts nothing: any bytes give a frame or
//! an error, and take no more memory than they are long.

use bytes::Bytes;
use hydrant_storage::keys::OnlineKey;
use hydrant_storage::names::{TenantId, ViewId};
use hydrant_storage::order::{Micros, Position};
use hydrant_storage::record::{Frame, Origin, ProducerStamp, RowRecord};

/// Why bytes are no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// They end before the frame does, if its length can be believed.
    #[error("the frame takes {needed} bytes, {available} are there")]
    Incomplete { needed: usize, available: usize },
    #[error("the length {0} is too small for a frame")]
    Length(u32),
    #[error("the checksum is {found:08x}, the bytes give {computed:08x}")]
    Checksum { found: u32, computed: u32 },
    /// The checksum holds, so that this was written on purpose, by a Hydrant that knows more.
    #[error("{what} {tag} is not known to this version of Hydrant")]
    Unknown { what: &'static str, tag: u8 },
    /// The checksum holds, and the content makes no sense.
    #[error("{0}")]
    Malformed(&'static str),
}

impl FrameError {
    /// Whether a write that was cut short can look like this.
    pub fn may_be_torn(&self) -> bool {
        matches!(self, Self::Incomplete { .. } | Self::Length(_) | Self::Checksum { .. })
    }
}

/// What the appender adds to the records of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    pub number: u64,
    /// How many frames of the same write come before it.
    pub in_group: u32,
    pub ingest_time: Micros,
    pub stamp: Option<ProducerStamp>,
}

/// A frame as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    pub frame: Frame,
    pub in_group: u32,
    /// The bytes it takes.
    pub len: usize,
}

/// The records of a request: everything of its frame that does not depend on where it goes.
#[derive(Clone, Debug)]
pub struct EncodedRecords {
    kind: u8,
    count: u32,
    bytes: Vec<u8>,
}

impl EncodedRecords {
    /// `None` if there are more, or longer, rows than a frame can count. Takes room for
    /// `limit` bytes at most, and stops where it is exceeded.
    pub fn new(rows: &[RowRecord], limit: usize) -> Result<Self, usize> {
        let size = Self::len_of(rows);
        let largest = limit.min(MAX_LENGTH - FIXED_LEN - STAMP_LEN);
        if size > largest {
            return Err(size);
        }
        let mut bytes = Vec::with_capacity(size);
        rows.iter().for_each(|row| put_record(row, &mut bytes));
        let count = u32::try_from(rows.len()).expect("fewer rows than bytes");
        Ok(Self { kind: KIND_ROWS, count, bytes })
    }

    /// Of a control record; or the bytes that it takes, if they are more than `limit`.
    pub fn control(record: &[u8], limit: usize) -> Result<Self, usize> {
        if record.len() > limit.min(MAX_LENGTH - FIXED_LEN - STAMP_LEN) {
            return Err(record.len());
        }
        Ok(Self { kind: KIND_CONTROL, count: record.len() as u32, bytes: record.to_vec() })
    }

    /// The bytes that these rows take.
    pub fn len_of(rows: &[RowRecord]) -> usize {
        rows.iter().map(record_len).fold(0, usize::saturating_add)
    }

    /// The bytes that a frame of them takes.
    pub fn frame_len(&self, stamped: bool) -> usize {
        LEAD_LEN + FIXED_LEN + if stamped { STAMP_LEN } else { 0 } + self.bytes.len()
    }
}

/// Appends a frame to `out`.
pub fn encode(head: &FrameHead, records: &EncodedRecords, out: &mut Vec<u8>) {
    let start = out.len();
    let length = records.frame_len(head.stamp.is_some()) - LEAD_LEN;
    out.reserve(LEAD_LEN + length);
    put_u32(u32::try_from(length).expect("records are bounded"), out);
    put_u32(0, out);
    out.push(FORMAT);
    out.push(records.kind);
    put_u32(head.in_group, out);
    out.extend_from_slice(&head.number.to_le_bytes());
    out.extend_from_slice(&head.ingest_time.to_le_bytes());
    out.push(u8::from(head.stamp.is_some()));
    if let Some(stamp) = &head.stamp {
        out.extend_from_slice(&stamp.producer.to_le_bytes());
        out.extend_from_slice(&stamp.sequence.to_le_bytes());
        out.extend_from_slice(&stamp.payload_hash.to_le_bytes());
    }
    put_u32(records.count, out);
    out.extend_from_slice(&records.bytes);
    let crc = checksum(&out[start..start + 4], &out[start + LEAD_LEN..]);
    out[start + 4..start + LEAD_LEN].copy_from_slice(&crc.to_le_bytes());
}

/// Reads the frame at the beginning of `bytes`; keys and bodies share their memory.
pub fn decode(bytes: &Bytes) -> Result<Decoded, FrameError> {
    let len = check(bytes)?;
    let mut reader = Reader { bytes: bytes.slice(LEAD_LEN..len) };
    match reader.u8()? {
        FORMAT => {}
        tag => return Err(FrameError::Unknown { what: "frame format", tag }),
    }
    let kind = match reader.u8()? {
        kind @ (KIND_ROWS | KIND_CONTROL) => kind,
        tag => return Err(FrameError::Unknown { what: "frame kind", tag }),
    };
    let in_group = reader.u32()?;
    let number = reader.u64()?;
    let ingest_time = reader.i64()?;
    let stamp = match reader.u8()? {
        0 => None,
        1 => Some(ProducerStamp { producer: reader.u128()?, sequence: reader.u64()?, payload_hash: reader.u128()? }),
        _ => return Err(FrameError::Malformed("the stamp's flag is neither 0 nor 1")),
    };
    let count = reader.u32()? as usize;
    if u64::from(in_group) >= number {
        return Err(FrameError::Malformed("more frames of its write come before it than there are"));
    }
    if kind == KIND_CONTROL {
        if count != reader.bytes.len() {
            return Err(FrameError::Malformed("the control record is not as long as it says"));
        }
        let frame = Frame { number, ingest_time, stamp, rows: Vec::new(), control: Some(reader.bytes) };
        return Ok(Decoded { frame, in_group, len });
    }
    if count > reader.bytes.len() / RECORD_LEN {
        return Err(FrameError::Malformed("there are fewer bytes than the records take"));
    }
    let mut rows = Vec::with_capacity(count);
    for _ in 0..count {
        rows.extend(read_record(&mut reader)?);
    }
    if !reader.bytes.is_empty() {
        return Err(FrameError::Malformed("there are bytes behind the last record"));
    }
    if !is_ordered(&rows) {
        return Err(FrameError::Malformed("the records do not ascend by slot and ordinal"));
    }
    Ok(Decoded { frame: Frame { number, ingest_time, stamp, rows, control: None }, in_group, len })
}

/// The bytes that the whole frame takes at the beginning of `bytes`.
pub fn length(bytes: &[u8]) -> Result<usize, FrameError> {
    check(bytes)
}

/// Blanks the rows of a frame that `is_erased` says so of, by its name and the frame with which it came first: their keys, bodies
/// and times are gone, and nothing else is anywhere else than before. How many they were. The frame is the
/// whole of `bytes`, and has been read before.
pub fn blank(bytes: &mut [u8], is_erased: &dyn Fn(&OnlineKey<'_>, u64) -> bool) -> Result<u64, FrameError> {
    let whole = Bytes::copy_from_slice(bytes);
    let Decoded { frame, len, .. } = decode(&whole)?;
    if len != bytes.len() {
        return Err(FrameError::Malformed("there are bytes behind the frame"));
    }
    if frame.control.is_some() {
        return Ok(0);
    }
    let stamp_len = if frame.stamp.is_some() { STAMP_LEN } else { 0 };
    let begin = LEAD_LEN + FIXED_LEN + stamp_len;
    let mut reader = Reader { bytes: whole.slice(begin..) };
    let mut blanked = 0;
    while !reader.bytes.is_empty() {
        let at = len - reader.bytes.len();
        let Some(row) = read_record(&mut reader)? else { continue };
        let name = OnlineKey { slot: row.slot, tenant: row.tenant, view: row.view, key: &row.key };
        // A row that was brought online again is as old as it was when it came first.
        if !is_erased(&name, row.origin.map_or(frame.number, |origin| origin.position.frame)) {
            continue;
        }
        let end = len - reader.bytes.len();
        bytes[at + 1] |= FLAG_ERASED;
        // Kind, flags, tenant, view, slot and ordinal stay, and so do the lengths.
        let times = 8 + row.known_time.map_or(0, |_| 8);
        bytes[at + ROW_NAME_LEN..at + ROW_NAME_LEN + times].fill(0);
        bytes[end - row.key.len() - row.body.len()..end].fill(0);
        blanked += 1;
    }
    if blanked > 0 {
        let crc = checksum(&bytes[..4], &bytes[LEAD_LEN..]);
        bytes[4..LEAD_LEN].copy_from_slice(&crc.to_le_bytes());
    }
    Ok(blanked)
}

/// Whether rows ascend by slot and ordinal, as a frame has them.
pub fn is_ordered(rows: &[RowRecord]) -> bool {
    rows.is_sorted_by(|a, b| (a.slot, a.ordinal) <= (b.slot, b.ordinal))
}

/// Searches damaged bytes for a whole frame with a number after `after`: its offset, number, and
/// the number of the first frame of its write.
pub fn find_frame(bytes: &[u8], after: u64) -> Option<FoundFrame> {
    let most = after.saturating_add((bytes.len() / (LEAD_LEN + FIXED_LEN)) as u64 + 1);
    (0..bytes.len().saturating_sub(LEAD_LEN + FIXED_LEN - 1)).find_map(|offset| {
        let candidate = &bytes[offset..];
        // Cheap to tell, so that a checksum is computed for what is most likely a frame only.
        let body = &candidate[LEAD_LEN..];
        let in_group = u64::from(u32::from_le_bytes(body[2..6].try_into().ok()?));
        let number = u64::from_le_bytes(body[6..14].try_into().ok()?);
        let plausible = body[0] == FORMAT && number > after && number <= most && in_group < number;
        let len = if plausible { check(candidate).ok()? } else { return None };
        Some(FoundFrame { offset, len, number, group_first: number - in_group })
    })
}

/// A whole frame among damaged bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundFrame {
    pub offset: usize,
    pub len: usize,
    pub number: u64,
    /// The number of the first frame of its write: what came before that was synced.
    pub group_first: u64,
}

// Tags are never used again for something else.
const FORMAT: u8 = 1;
const KIND_ROWS: u8 = 1;
const KIND_CONTROL: u8 = 2;
const RECORD_ROW: u8 = 1;
const FLAG_TOMBSTONE: u8 = 1;
const FLAG_KNOWN_TIME: u8 = 2;
const FLAG_ORIGIN: u8 = 4;
/// Nothing is left of the row but its place.
const FLAG_ERASED: u8 = 8;

/// Length and checksum.
const LEAD_LEN: usize = 4 + 4;
/// What every frame has between checksum and records.
const FIXED_LEN: usize = 1 + 1 + 4 + 8 + 8 + 1 + 4;
const STAMP_LEN: usize = 16 + 8 + 16;
/// What every record has: all but known time, origin, key and body.
const RECORD_LEN: usize = 1 + 1 + 4 + 4 + 2 + 4 + 8 + 8 + 2 + 4 + 4;
/// What of a record comes before its times.
const ROW_NAME_LEN: usize = 1 + 1 + 4 + 4 + 2 + 4;
/// Frame, ordinal and ingest time.
const ORIGIN_LEN: usize = 8 + 4 + 8;
/// A length must fit in 32 bits; half of that leaves no sum to overflow.
const MAX_LENGTH: usize = 1 << 31;

/// The length of the frame at the beginning of `bytes`, if its checksum holds.
fn check(bytes: &[u8]) -> Result<usize, FrameError> {
    let Some((lead, rest)) = bytes.split_first_chunk::<LEAD_LEN>() else {
        return Err(FrameError::Incomplete { needed: LEAD_LEN, available: bytes.len() });
    };
    let [l0, l1, l2, l3, c0, c1, c2, c3] = *lead;
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    let found = u32::from_le_bytes([c0, c1, c2, c3]);
    let body_len = length as usize;
    if body_len < FIXED_LEN {
        return Err(FrameError::Length(length));
    }
    let Some(body) = rest.get(..body_len) else {
        return Err(FrameError::Incomplete { needed: LEAD_LEN + body_len, available: bytes.len() });
    };
    let computed = checksum(&lead[..4], body);
    if computed != found {
        return Err(FrameError::Checksum { found, computed });
    }
    Ok(LEAD_LEN + body_len)
}

fn checksum(length: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(length);
    hasher.update(body);
    hasher.finalize()
}

fn record_len(row: &RowRecord) -> usize {
    let optional = row.known_time.map_or(0, |_| 8) + row.origin.map_or(0, |_| ORIGIN_LEN);
    RECORD_LEN + optional + row.key.len() + row.body.len()
}

fn put_record(row: &RowRecord, out: &mut Vec<u8>) {
    let known_flag = row.known_time.map_or(0, |_| FLAG_KNOWN_TIME);
    let tombstone_flag = if row.tombstone { FLAG_TOMBSTONE } else { 0 };
    let origin_flag = row.origin.map_or(0, |_| FLAG_ORIGIN);
    out.push(RECORD_ROW);
    out.push(known_flag | tombstone_flag | origin_flag);
    put_u32(row.tenant.0, out);
    put_u32(row.view.0, out);
    out.extend_from_slice(&row.slot.to_le_bytes());
    put_u32(row.ordinal, out);
    out.extend_from_slice(&row.event_time.to_le_bytes());
    if let Some(known_time) = row.known_time {
        out.extend_from_slice(&known_time.to_le_bytes());
    }
    if let Some(Origin { position, ingest_time }) = row.origin {
        out.extend_from_slice(&position.frame.to_le_bytes());
        put_u32(position.ordinal, out);
        out.extend_from_slice(&ingest_time.to_le_bytes());
    }
    out.extend_from_slice(&row.revision.to_le_bytes());
    out.extend_from_slice(&row.feature_count.to_le_bytes());
    // The records of a frame are bounded by MAX_LENGTH together.
    put_u32(row.key.len() as u32, out);
    put_u32(row.body.len() as u32, out);
    out.extend_from_slice(&row.key);
    out.extend_from_slice(&row.body);
}

/// `None`: a row that was erased.
fn read_record(reader: &mut Reader) -> Result<Option<RowRecord>, FrameError> {
    match reader.u8()? {
        RECORD_ROW => {}
        tag => return Err(FrameError::Unknown { what: "record kind", tag }),
    }
    let flags = reader.u8()?;
    if flags & !(FLAG_TOMBSTONE | FLAG_KNOWN_TIME | FLAG_ORIGIN | FLAG_ERASED) != 0 {
        return Err(FrameError::Unknown { what: "record flags", tag: flags });
    }
    let tenant = TenantId(reader.u32()?);
    let view = ViewId(reader.u32()?);
    let slot = reader.u16()?;
    let ordinal = reader.u32()?;
    let event_time = reader.i64()?;
    let known_time = if flags & FLAG_KNOWN_TIME != 0 { Some(reader.i64()?) } else { None };
    let origin = if flags & FLAG_ORIGIN != 0 { Some(read_origin(reader)?) } else { None };
    let revision = reader.u64()?;
    let feature_count = reader.u16()?;
    let key_len = reader.u32()? as usize;
    let body_len = reader.u32()? as usize;
    let (key, body) = (reader.bytes(key_len)?, reader.bytes(body_len)?);
    let tombstone = flags & FLAG_TOMBSTONE != 0;
    let row = RowRecord {
        tenant,
        view,
        slot,
        ordinal,
        key,
        event_time,
        known_time,
        tombstone,
        revision,
        feature_count,
        body,
        origin,
    };
    Ok((flags & FLAG_ERASED == 0).then_some(row))
}

fn read_origin(reader: &mut Reader) -> Result<Origin, FrameError> {
    let position = Position { frame: reader.u64()?, ordinal: reader.u32()? };
    Ok(Origin { position, ingest_time: reader.i64()? })
}

fn put_u32(value: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&value.to_le_bytes());
}

struct Reader {
    bytes: Bytes,
}

impl Reader {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let array = *self.bytes.first_chunk::<N>().ok_or(FrameError::Malformed("a record ends early"))?;
        bytes::Buf::advance(&mut self.bytes, N);
        Ok(array)
    }

    fn u8(&mut self) -> Result<u8, FrameError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, FrameError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, FrameError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, FrameError> {
        self.array().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Result<i64, FrameError> {
        self.array().map(i64::from_le_bytes)
    }

    fn u128(&mut self) -> Result<u128, FrameError> {
        self.array().map(u128::from_le_bytes)
    }

    fn bytes(&mut self, len: usize) -> Result<Bytes, FrameError> {
        if len > self.bytes.len() {
            return Err(FrameError::Malformed("a key or body ends early"));
        }
        Ok(self.bytes.split_to(len))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows() -> impl Strategy<Value = Vec<RowRecord>> {
        let ids = (any::<u32>(), any::<u32>(), any::<u16>(), any::<u64>(), any::<u16>());
        let times = (any::<i64>(), any::<Option<i64>>(), any::<bool>());
        let bytes = (prop::collection::vec(any::<u8>(), 0..20), prop::collection::vec(any::<u8>(), 0..60));
        let origin = any::<Option<(u64, u32, i64)>>();
        let row =
            (ids, times, bytes, origin).prop_map(|(ids, (event_time, known_time, tombstone), (key, body), origin)| {
                let (tenant, view, slot, revision, feature_count) = ids;
                RowRecord {
                    tenant: TenantId(tenant),
                    view: ViewId(view),
                    slot,
                    ordinal: 0,
                    key: key.into(),
                    event_time,
                    known_time,
                    tombstone,
                    revision,
                    feature_count,
                    body: body.into(),
                    origin: origin.map(|(frame, ordinal, ingest_time)| Origin {
                        position: Position { frame, ordinal },
                        ingest_time,
                    }),
                }
            });
        prop::collection::vec(row, 0..6).prop_map(|mut rows| {
            rows.sort_by_key(|row| row.slot);
            rows.iter_mut().enumerate().for_each(|(at, row)| row.ordinal = at as u32);
            rows
        })
    }

    fn head() -> impl Strategy<Value = FrameHead> {
        let stamp = any::<Option<(u128, u64, u128)>>();
        (1..u64::MAX, any::<i64>(), stamp).prop_map(|(number, ingest_time, stamp)| FrameHead {
            number,
            in_group: u32::try_from(number - 1).unwrap_or(7),
            ingest_time,
            stamp: stamp.map(|(producer, sequence, payload_hash)| ProducerStamp { producer, sequence, payload_hash }),
        })
    }

    fn encoded(head: &FrameHead, rows: &[RowRecord]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(head, &EncodedRecords::new(rows, 1 << 20).expect("small"), &mut out);
        out
    }

    proptest! {
        #[test]
        fn a_frame_reads_as_it_was_written(head in head(), rows in rows(), behind in any::<[u8; 5]>()) {
            let records = EncodedRecords::new(&rows, 1 << 20).expect("small");
            let mut bytes = encoded(&head, &rows);
            let len = bytes.len();
            prop_assert_eq!(records.frame_len(head.stamp.is_some()), len);
            bytes.extend_from_slice(&behind);
            let decoded = decode(&bytes.into()).expect("a frame");
            prop_assert_eq!((decoded.len, decoded.in_group), (len, head.in_group));
            let FrameHead { number, ingest_time, stamp, .. } = head;
            prop_assert_eq!(decoded.frame, Frame { number, ingest_time, stamp, rows, control: None });
        }

        #[test]
        fn a_control_record_reads_as_it_was_written(
            head in head(), record in prop::collection::vec(any::<u8>(), 0..200), behind in any::<[u8; 5]>()
        ) {
            let records = EncodedRecords::control(&record, 1 << 20).expect("small");
            let mut bytes = Vec::new();
            encode(&head, &records, &mut bytes);
            let len = bytes.len();
            prop_assert_eq!(records.frame_len(head.stamp.is_some()), len);
            prop_assert!(decode(&Bytes::copy_from_slice(&bytes[..len - 1])).expect_err("cut short").may_be_torn());
            bytes.extend_from_slice(&behind);
            let decoded = decode(&bytes.into()).expect("a frame");
            prop_assert_eq!(decoded.len, len);
            let FrameHead { number, ingest_time, stamp, .. } = head;
            let control = Some(Bytes::from(record));
            prop_assert_eq!(decoded.frame, Frame { number, ingest_time, stamp, rows: Vec::new(), control });
        }

        #[test]
        fn a_frame_with_a_flipped_bit_is_refused(head in head(), rows in rows(), at in any::<prop::sample::Index>()) {
            let mut bytes = encoded(&head, &rows);
            let bit = at.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode(&bytes.into()).is_err());
        }

        #[test]
        fn a_frame_that_is_cut_short_is_refused(head in head(), rows in rows(), at in any::<prop::sample::Index>()) {
            let mut bytes = encoded(&head, &rows);
            bytes.truncate(at.index(bytes.len()));
            prop_assert!(decode(&bytes.into()).expect_err("cut short").may_be_torn());
        }

        #[test]
        fn hostile_bytes_under_a_good_checksum_are_refused_without_harm(
            head in head(), rows in rows(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)
        ) {
            let mut bytes = encoded(&head, &rows);
            let body = bytes.len() - LEAD_LEN;
            for (at, value) in changes {
                bytes[LEAD_LEN + at.index(body)] = value;
            }
            let crc = checksum(&bytes[..4], &bytes[LEAD_LEN..]);
            bytes[4..LEAD_LEN].copy_from_slice(&crc.to_le_bytes());
            if let Err(error) = decode(&bytes.into()) {
                prop_assert!(!error.may_be_torn());
            }
        }

        #[test]
        fn any_bytes_are_a_frame_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = find_frame(&bytes, 0);
            let _ = decode(&bytes.into());
        }

        #[test]
        fn a_frame_is_found_among_damaged_bytes(rows in rows(), before in prop::collection::vec(any::<u8>(), 0..90)) {
            let head = FrameHead { number: 8, in_group: 1, ingest_time: 5, stamp: None };
            let offset = before.len();
            let mut bytes = before;
            bytes.extend(encoded(&head, &rows));
            let len = bytes.len() - offset;
            prop_assert_eq!(find_frame(&bytes, 6), Some(FoundFrame { offset, len, number: 8, group_first: 7 }));
            prop_assert_eq!(find_frame(&bytes, 8), None);
        }
    }

    #[test]
    fn unknown_tags_are_refused_even_under_a_good_checksum() {
        let head = FrameHead { number: 1, in_group: 0, ingest_time: 5, stamp: None };
        for (at, what) in [(LEAD_LEN, "frame format"), (LEAD_LEN + 1, "frame kind")] {
            let mut bytes = encoded(&head, &[]);
            bytes[at] = 200;
            let crc = checksum(&bytes[..4], &bytes[LEAD_LEN..]);
            bytes[4..LEAD_LEN].copy_from_slice(&crc.to_le_bytes());
            assert_eq!(decode(&bytes.into()), Err(FrameError::Unknown { what, tag: 200 }));
        }
    }

    #[test]
    fn too_many_bytes_are_refused_before_they_are_copied() {
        let row = RowRecord {
            tenant: TenantId(1),
            view: ViewId(1),
            slot: 0,
            ordinal: 0,
            key: Bytes::from_static(b"key"),
            event_time: 0,
            known_time: None,
            tombstone: false,
            revision: 1,
            feature_count: 0,
            body: vec![0; 1000].into(),
            origin: None,
        };
        assert_eq!(EncodedRecords::new(&[row.clone(), row], 2_000).err(), Some(2 * (RECORD_LEN + 1003)));
        assert_eq!(EncodedRecords::control(&[0; 2_001], 2_000).err(), Some(2_001));
    }
}
