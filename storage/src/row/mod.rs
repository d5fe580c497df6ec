//! The packed row: one value holds all features of a view for one key, behind a header and a
//! checksum over the row's full name and content. Reading is offsets, not parsing, and nothing is
//! handed out that the checksum doesn't vouch for. What a row means at an instant is not decided
//! here (see [`crate::order`]).

mod cell;
mod column;
mod layout;
mod packer;

pub use cell::{Cell, ListCell, VectorCell, type_name, value_at};
pub use column::{ColumnBuilder, ColumnError};
pub use layout::{OpenRow, RowLayout};
pub use packer::{PackError, RowPacker};

use bytes::Bytes;

use crate::keys::OnlineKey;
use crate::order::{Micros, Position, RowVersion};
use crate::prefetch::prefetch;

/// The longest packed body, in bytes.
pub const MAX_BODY_LENGTH: usize = 64 << 20;

/// What a stored row holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowKind {
    Full,
    /// A delete: header only. What it hides is NOT_FOUND.
    Tombstone,
    /// A row that expired under the longest ttl of its view: header only.
    ExpiredStub,
}

/// All of a stored row but its features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowHeader {
    pub kind: RowKind,
    pub version: RowVersion,
    pub ingest_time: Micros,
    /// The revision of the view's definition that packed the body.
    pub revision: u64,
    /// How many features the body holds, or held before it became a stub.
    pub feature_count: u16,
}

/// A row that isn't what was written, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("damaged row: {reason}")]
pub struct DamagedRow {
    pub reason: &'static str,
}

impl DamagedRow {
    pub(crate) const fn new(reason: &'static str) -> Self {
        Self { reason }
    }
}

// crc32 | kind u8 | revision u64 | feature_count u16 | event i64 | known i64 | ingest i64 | frame u64 |
// ordinal u32 | body. Little endian.
const CRC_LENGTH: usize = 4;
const HEADER_LENGTH: usize = CRC_LENGTH + 1 + 8 + 2 + 8 + 8 + 8 + 8 + 4;

// Kinds as stored; a number is never given to another kind.
const KIND_FULL: u8 = 1;
const KIND_TOMBSTONE: u8 = 2;
const KIND_EXPIRED_STUB: u8 = 3;

/// Appends a stored row to `out`. `body` must be empty unless the row is full.
pub fn encode_row(name: &OnlineKey<'_>, header: &RowHeader, body: &[u8], out: &mut Vec<u8>) {
    debug_assert!(header.kind == RowKind::Full || body.is_empty(), "only a full row has a body");
    let begin = out.len();
    out.reserve(HEADER_LENGTH + body.len());
    out.extend_from_slice(&[0; CRC_LENGTH]);
    out.push(match header.kind {
        RowKind::Full => KIND_FULL,
        RowKind::Tombstone => KIND_TOMBSTONE,
        RowKind::ExpiredStub => KIND_EXPIRED_STUB,
    });
    out.extend_from_slice(&header.revision.to_le_bytes());
    out.extend_from_slice(&header.feature_count.to_le_bytes());
    out.extend_from_slice(&header.version.event_time.to_le_bytes());
    out.extend_from_slice(&header.version.known_time.to_le_bytes());
    out.extend_from_slice(&header.ingest_time.to_le_bytes());
    out.extend_from_slice(&header.version.position.frame.to_le_bytes());
    out.extend_from_slice(&header.version.position.ordinal.to_le_bytes());
    out.extend_from_slice(body);
    let crc = checksum(name, &out[begin + CRC_LENGTH..]);
    out[begin..begin + CRC_LENGTH].copy_from_slice(&crc.to_le_bytes());
}

/// A stored row whose checksum has been verified.
#[derive(Clone, Copy, Debug)]
pub struct RowRef<'a> {
    header: RowHeader,
    body: &'a [u8],
}

impl<'a> RowRef<'a> {
    /// Reads and verifies what [`encode_row`] wrote under the same name.
    pub fn read(name: &OnlineKey<'_>, bytes: &'a [u8]) -> Result<Self, DamagedRow> {
        let (crc, rest) = bytes.split_first_chunk::<CRC_LENGTH>().ok_or(DamagedRow::new("too short"))?;
        if bytes.len() < HEADER_LENGTH {
            return Err(DamagedRow::new("too short"));
        }
        if u32::from_le_bytes(*crc) != checksum(name, rest) {
            return Err(DamagedRow::new("checksum mismatch"));
        }
        Self::parse(rest)
    }

    pub fn header(&self) -> &RowHeader {
        &self.header
    }

    /// The packed features; empty unless the row is full.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// The value of feature `index` of the view that `layout` is of. The row must be full, and of a
    /// view of this layout; it may hold fewer or more features than the layout. A feature beyond
    /// the row's [`RowHeader::feature_count`] isn't in it, which is for the caller to tell
    /// ([`crate::order::missing_cell_status`]); asked for anyway it is null.
    pub fn cell(&self, layout: &RowLayout, index: usize) -> Result<Cell<'a>, DamagedRow> {
        if self.header.kind != RowKind::Full {
            return Err(DamagedRow::new("a value asked of a row without body"));
        }
        layout.cell(self.body, usize::from(self.header.feature_count), index)
    }

    /// Opens a full row for many of its cells to be read; see [`RowRef::cell`] for what the row and
    /// the layout must be.
    pub fn open(&self, layout: &RowLayout) -> Result<OpenRow<'a>, DamagedRow> {
        if self.header.kind != RowKind::Full {
            return Err(DamagedRow::new("a value asked of a row without body"));
        }
        OpenRow::open(layout, self.body, usize::from(self.header.feature_count))
    }

    /// Reads what follows a checksum that has been verified.
    fn parse(rest: &'a [u8]) -> Result<Self, DamagedRow> {
        let mut fields = Fields(rest);
        let kind = match fields.take::<1>()? {
            [KIND_FULL] => RowKind::Full,
            [KIND_TOMBSTONE] => RowKind::Tombstone,
            [KIND_EXPIRED_STUB] => RowKind::ExpiredStub,
            _ => return Err(DamagedRow::new("unknown kind of row")),
        };
        let revision = u64::from_le_bytes(fields.take()?);
        let feature_count = u16::from_le_bytes(fields.take()?);
        let event_time = Micros::from_le_bytes(fields.take()?);
        let known_time = Micros::from_le_bytes(fields.take()?);
        let ingest_time = Micros::from_le_bytes(fields.take()?);
        let frame = u64::from_le_bytes(fields.take()?);
        let ordinal = u32::from_le_bytes(fields.take()?);
        let version = RowVersion { event_time, known_time, position: Position { frame, ordinal } };
        let body = fields.0;
        if kind != RowKind::Full && !body.is_empty() {
            return Err(DamagedRow::new("a header-only row with a body"));
        }
        Ok(Self { header: RowHeader { kind, version, ingest_time, revision, feature_count }, body })
    }
}

/// A stored row, verified and kept: what a lookup or a scan hands out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedRow {
    header: RowHeader,
    body: Bytes,
}

impl OwnedRow {
    /// A row from its parts: of a frame, or of a history file.
    pub fn new(header: RowHeader, body: Bytes) -> Self {
        Self { header, body }
    }

    /// Reads and verifies a stored row, which must be all of `stored`, and keeps a copy of its body.
    pub fn read(name: &OnlineKey<'_>, stored: &[u8]) -> Result<Self, DamagedRow> {
        let row = RowRef::read(name, stored)?;
        Ok(Self { header: row.header, body: Bytes::copy_from_slice(row.body) })
    }

    pub fn header(&self) -> &RowHeader {
        &self.header
    }

    pub fn body(&self) -> &Bytes {
        &self.body
    }

    pub fn as_row(&self) -> RowRef<'_> {
        RowRef { header: self.header, body: &self.body }
    }

    /// See [`RowRef::cell`].
    pub fn cell(&self, layout: &RowLayout, index: usize) -> Result<Cell<'_>, DamagedRow> {
        self.as_row().cell(layout, index)
    }

    /// Says that the body will be read soon, so that the processor fetches it while others are looked
    /// up. Of a long one it is the beginning, whence the processor goes on by itself.
    pub(crate) fn soon_read(&self) {
        const LINE: usize = 64;
        const LINES: usize = 4;
        for line in self.body.chunks(LINE).take(LINES) {
            prefetch(line.as_ptr());
        }
    }
}

fn checksum(name: &OnlineKey<'_>, rest: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&name.prefix());
    hasher.update(name.key);
    hasher.update(rest);
    hasher.finalize()
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DamagedRow> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(DamagedRow::new("too short"))?;
        self.0 = rest;
        Ok(*field)
    }
}

#[cfg(test)]
mod tests;
