//! The keys under which a partition stores rows. Numbers are big endian and times have their sign
//! bit flipped, so that bytes order as the numbers do; an entity key ends itself, so that what
//! follows it can be read and orders within it.

use super::{int64_of_ordered, ordered_int64};
use crate::names::{TenantId, ViewId};
use crate::order::{Micros, Position, RowVersion};

/// The length of what precedes the entity key in an online row's key: slot, tenant and view.
pub const ONLINE_PREFIX_LENGTH: usize = 10;

/// The full name of an online row: which key of which view. Its bytes are the row's key in the
/// online store, and lead the row's checksum, so that a row can't pass for another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OnlineKey<'a> {
    pub slot: u16,
    pub tenant: TenantId,
    pub view: ViewId,
    /// The encoded entity key.
    pub key: &'a [u8],
}

impl<'a> OnlineKey<'a> {
    /// slot, tenant, view: big endian, so that bytes order as numbers do.
    pub fn prefix(&self) -> [u8; ONLINE_PREFIX_LENGTH] {
        let mut prefix = [0; ONLINE_PREFIX_LENGTH];
        prefix[..2].copy_from_slice(&self.slot.to_be_bytes());
        prefix[2..6].copy_from_slice(&self.tenant.0.to_be_bytes());
        prefix[6..].copy_from_slice(&self.view.0.to_be_bytes());
        prefix
    }

    /// Appends the key's bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.prefix());
        out.extend_from_slice(self.key);
    }

    /// Reads what [`OnlineKey::encode`] wrote; `None` if it is too short to be one.
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (prefix, key) = bytes.split_first_chunk::<ONLINE_PREFIX_LENGTH>()?;
        let [s0, s1, t0, t1, t2, t3, v0, v1, v2, v3] = *prefix;
        Some(Self {
            slot: u16::from_be_bytes([s0, s1]),
            tenant: TenantId(u32::from_be_bytes([t0, t1, t2, t3])),
            view: ViewId(u32::from_be_bytes([v0, v1, v2, v3])),
            key,
        })
    }
}

/// The key of a row that isn't in history yet: `tenant | view | slot | key | event | known | frame |
/// ordinal`, so that a view's rows lie together in history's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TailKey<'a> {
    pub name: OnlineKey<'a>,
    pub version: RowVersion,
}

impl<'a> TailKey<'a> {
    const VERSION_LENGTH: usize = 8 + 8 + POSITION_LENGTH;

    pub fn encode(&self, out: &mut Vec<u8>) {
        Self::encode_seek(&self.name, out);
        out.extend_from_slice(&ordered_int64(self.version.event_time));
        out.extend_from_slice(&ordered_int64(self.version.known_time));
        encode_position(self.version.position, out);
    }

    /// Appends what begins the keys of all rows of a view, and of no other row.
    pub fn encode_view(tenant: TenantId, view: ViewId, out: &mut Vec<u8>) {
        out.extend_from_slice(&tenant.0.to_be_bytes());
        out.extend_from_slice(&view.0.to_be_bytes());
    }

    /// Appends what begins the keys of all rows of one entity key; those of later slots and keys are
    /// greater.
    pub fn encode_seek(name: &OnlineKey<'_>, out: &mut Vec<u8>) {
        Self::encode_view(name.tenant, name.view, out);
        out.extend_from_slice(&name.slot.to_be_bytes());
        out.extend_from_slice(name.key);
    }

    /// Reads what [`TailKey::encode`] wrote; `None` if it is too short to be one.
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (prefix, rest) = bytes.split_first_chunk::<ONLINE_PREFIX_LENGTH>()?;
        let (key, version) = rest.split_at_checked(rest.len().checked_sub(Self::VERSION_LENGTH)?)?;
        let (event_time, rest) = version.split_first_chunk()?;
        let (known_time, position) = rest.split_first_chunk()?;
        let [t0, t1, t2, t3, v0, v1, v2, v3, s0, s1] = *prefix;
        let name = OnlineKey {
            slot: u16::from_be_bytes([s0, s1]),
            tenant: TenantId(u32::from_be_bytes([t0, t1, t2, t3])),
            view: ViewId(u32::from_be_bytes([v0, v1, v2, v3])),
            key,
        };
        let version = RowVersion {
            event_time: int64_of_ordered(*event_time),
            known_time: int64_of_ordered(*known_time),
            position: decode_position(position)?,
        };
        Some(Self { name, version })
    }
}

/// The key of a row whose event or known time is still to come: `due | slot | tenant | view | key |
/// frame | ordinal`, so that the rows to promote come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingKey<'a> {
    /// See [`RowVersion::due_time`].
    pub due: Micros,
    pub name: OnlineKey<'a>,
    pub position: Position,
}

impl<'a> PendingKey<'a> {
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&ordered_int64(self.due));
        self.name.encode(out);
        encode_position(self.position, out);
    }

    /// Reads what [`PendingKey::encode`] wrote; `None` if it is too short to be one.
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (due, rest) = bytes.split_first_chunk()?;
        let (name, position) = rest.split_at_checked(rest.len().checked_sub(POSITION_LENGTH)?)?;
        Some(Self { due: int64_of_ordered(*due), name: OnlineKey::decode(name)?, position: decode_position(position)? })
    }
}

/// What begins the keys of all rows that are pending until `due`, and of none due later.
pub fn ordered_time(due: Micros) -> [u8; 8] {
    ordered_int64(due)
}

/// The least key after all those that begin with `prefix`; `None`: nothing comes after them.
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

const POSITION_LENGTH: usize = 12;

fn encode_position(position: Position, out: &mut Vec<u8>) {
    out.extend_from_slice(&position.frame.to_be_bytes());
    out.extend_from_slice(&position.ordinal.to_be_bytes());
}

fn decode_position(bytes: &[u8]) -> Option<Position> {
    let (frame, ordinal) = bytes.split_first_chunk()?;
    Some(Position { frame: u64::from_be_bytes(*frame), ordinal: u32::from_be_bytes(ordinal.try_into().ok()?) })
}
