//! What tells one request of a producer from another: a hash over everything that was sent for the
//! source's columns, the same however the columns were ordered or encoded.

use arrow_array::{Array, BooleanArray};
use hydrant_storage::names::{Name, TenantId};
use hydrant_storage::record::ProducerStamp;
use hydrant_storage::row::{PackError, RowLayout, RowPacker};
use hydrant_storage::value::DataType;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::Producer;
use crate::error::{Error, Result};
use crate::registry::definition::KnownTimeRule;

/// The stamp of a request of `producer`, whose content hashes to `payload_hash`.
pub(super) fn stamp(tenant: TenantId, producer: &Producer, payload_hash: u128) -> Result<ProducerStamp> {
    const MAX_ID_BYTES: usize = 256;
    if producer.id.is_empty() || producer.id.len() > MAX_ID_BYTES {
        return Err(Error::invalid("BAD_PRODUCER", format!("a producer's id has 1 to {MAX_ID_BYTES} bytes")));
    }
    let identity = [tenant.0.to_le_bytes().as_slice(), producer.id.as_bytes()].concat();
    Ok(ProducerStamp { producer: xxh3_128(&identity), sequence: producer.sequence, payload_hash })
}

/// A hash that grows piece by piece. Every piece carries its length, so that pieces can't flow into
/// one another.
pub(super) struct PayloadHash(Xxh3);

impl PayloadHash {
    pub fn new(what: &str, name: &Name, rule: &KnownTimeRule) -> Self {
        let mut hash = Self(Xxh3::new());
        hash.piece(what.as_bytes());
        hash.piece(name.as_str().as_bytes());
        // The kind of rule leads, so that a column named like a rule can't pass for it.
        let (kind, detail): (&[u8], &[u8]) = match rule {
            KnownTimeRule::Arrival => (b"arrival", b""),
            KnownTimeRule::Event { delay } => (b"event", &delay.to_le_bytes()),
            KnownTimeRule::Column(column) => (b"column", column.as_str().as_bytes()),
        };
        hash.piece(kind);
        hash.piece(detail);
        hash
    }

    pub fn piece(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// All columns, by name ascending, row by row.
    pub fn columns<'a>(
        &mut self,
        columns: impl Iterator<Item = (&'a Name, &'a arrow_array::ArrayRef, DataType)>,
        deleted: Option<&BooleanArray>,
        rows: usize,
    ) -> Result<()> {
        let (mut types, mut arrays) = (Vec::new(), Vec::new());
        for (name, array, data_type) in columns {
            self.piece(name.as_str().as_bytes());
            types.push(data_type);
            arrays.push(Some(array.clone()));
        }
        let layout = RowLayout::new(&types);
        let unpackable = |error: PackError| match error {
            PackError::TooLong { row } => Error::invalid("ROW_TOO_LARGE", format!("rows[{row}]: {error}")),
            _ => Error::internal(format!("columns of exact types could not be packed: {error}")),
        };
        let packer = RowPacker::new(&layout, arrays).map_err(unpackable)?;
        let mut packed = Vec::new();
        for row in 0..rows {
            packed.clear();
            packer.pack(row, &mut packed).map_err(unpackable)?;
            packed.push(u8::from(deleted.is_some_and(|deleted| deleted.is_valid(row) && deleted.value(row))));
            self.piece(&packed);
        }
        Ok(())
    }

    pub fn finish(&self) -> u128 {
        self.0.digest128()
    }
}
