//! Key bytes: how an entity key becomes bytes whose order is the order of its values, which slot it
//! falls into, and how the bytes become values again. This is the only place that makes or reads
//! key bytes; it never looks at a store.

use std::borrow::Cow;
use std::fmt;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray,
};
use arrow_schema::DataType as ArrowType;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64_with_seed};

use crate::names::{TenantId, ViewId};
use crate::order::{Micros, Position, RowVersion};
use crate::row::{Cell, ColumnBuilder, type_name};
use crate::value::{DataType, ScalarType, Value};

/// How many slots there are: every key hashes to one of them.
pub const SLOT_COUNT: u32 = 1 << 16;

/// A contiguous range of slots, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotRange {
    pub first: u16,
    pub last: u16,
}

impl SlotRange {
    pub const ALL: Self = Self { first: 0, last: u16::MAX };

    /// All slots cut into `count` ranges whose sizes differ by at most one, in ascending order.
    ///
    /// # Panics
    /// If `count` is 0.
    pub fn split_evenly(count: u16) -> Vec<Self> {
        assert!(count > 0, "slots can't be split into no ranges");
        let begin_of = |index: u32| SLOT_COUNT * index / u32::from(count);
        // Every bound is below SLOT_COUNT, which a u16 holds.
        (0..u32::from(count))
            .map(|index| Self { first: begin_of(index) as u16, last: (begin_of(index + 1) - 1) as u16 })
            .collect()
    }

    pub fn contains(self, slot: u16) -> bool {
        (self.first..=self.last).contains(&slot)
    }
}

impl fmt::Display for SlotRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}..={}", self.first, self.last)
    }
}

/// What leads the hash of a key: views of one tenant over the same entities, in the same order,
/// share it, and so share the slots of their keys.
pub fn slot_seed(tenant: TenantId, entities: &[&str]) -> u64 {
    let mut hasher = Xxh3Default::new();
    hasher.update(&tenant.0.to_le_bytes());
    for entity in entities {
        hasher.update(&(entity.len() as u64).to_le_bytes());
        hasher.update(entity.as_bytes());
    }
    hasher.digest()
}

/// The slot of an encoded entity key.
pub fn slot_of(seed: u64, key: &[u8]) -> u16 {
    (xxh3_64_with_seed(key, seed) >> 48) as u16
}

/// A hash of an encoded entity key for tables in memory. With a seed that callers can't know, they
/// can't choose keys that collide.
pub fn hash_key(seed: u64, key: &[u8]) -> u64 {
    xxh3_64_with_seed(key, seed)
}

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

    /// For tables in memory. With a seed that callers can't know, they can't choose keys that collide.
    pub fn hash(&self, seed: u64) -> u64 {
        hash_key(seed ^ u64::from(self.view.0).wrapping_mul(0x9E37_79B9_7F4A_7C15), self.key)
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

/// The key under which a partition keeps what it knows of a view as a whole: `"view" | tenant | view`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ViewStateKey {
    pub tenant: TenantId,
    pub view: ViewId,
}

impl ViewStateKey {
    /// What begins all such keys.
    pub const PREFIX: &[u8] = b"view";

    pub fn encode(&self) -> Vec<u8> {
        [Self::PREFIX, &self.tenant.0.to_be_bytes(), &self.view.0.to_be_bytes()].concat()
    }

    /// Reads what [`ViewStateKey::encode`] wrote; `None` if it isn't one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (tenant, view) = bytes.strip_prefix(Self::PREFIX)?.split_first_chunk()?;
        let view = ViewId(u32::from_be_bytes(view.try_into().ok()?));
        Some(Self { tenant: TenantId(u32::from_be_bytes(*tenant)), view })
    }
}

/// Why columns, values or bytes are no keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("a key of {expected} parts was given {given}")]
    PartCount { expected: usize, given: usize },
    #[error("key part {part} must be {expected}, not {given}")]
    WrongType { part: usize, expected: &'static str, given: String },
    #[error("key part {part} is of type {data_type}, which no key can have")]
    NotAKeyType { part: usize, data_type: &'static str },
    #[error("key column {part} has {given} rows where the first has {expected}")]
    UnevenColumns { part: usize, expected: usize, given: usize },
    #[error("damaged key: {reason} in part {part}")]
    Damaged { part: usize, reason: &'static str },
    #[error("the keys hold more text than one column can")]
    ColumnFull,
}

/// Encodes the keys of a batch, row by row, from its join key columns.
#[derive(Debug)]
pub struct KeyReader {
    columns: Vec<KeyColumn>,
    rows: usize,
}

#[derive(Debug)]
enum KeyColumn {
    Bool(BooleanArray),
    Int32(Int32Array),
    Int64(Int64Array),
    String(StringArray),
    Bytes(BinaryArray),
    Timestamp(TimestampMicrosecondArray),
}

impl KeyReader {
    /// `arrays` are the join key columns in the key's order, each of exactly the Arrow type of its
    /// part ([`ScalarType::to_arrow`]) and all of one length.
    pub fn new(arrays: &[ArrayRef], types: &[ScalarType]) -> Result<Self, KeyError> {
        if arrays.len() != types.len() {
            return Err(KeyError::PartCount { expected: types.len(), given: arrays.len() });
        }
        let rows = arrays.first().map_or(0, |array| array.len());
        let mut columns = Vec::with_capacity(arrays.len());
        for (part, (array, key_type)) in arrays.iter().zip(types).enumerate() {
            if array.len() != rows {
                return Err(KeyError::UnevenColumns { part, expected: rows, given: array.len() });
            }
            check_key_type(part, *key_type)?;
            if *array.data_type() != key_type.to_arrow() {
                let given = shown(array.data_type());
                return Err(KeyError::WrongType { part, expected: key_type.as_str(), given });
            }
            columns.push(match key_type {
                ScalarType::Bool => KeyColumn::Bool(array.as_boolean().clone()),
                ScalarType::Int32 => KeyColumn::Int32(array.as_primitive::<Int32Type>().clone()),
                ScalarType::Int64 => KeyColumn::Int64(array.as_primitive::<Int64Type>().clone()),
                ScalarType::String => KeyColumn::String(array.as_string::<i32>().clone()),
                ScalarType::Bytes => KeyColumn::Bytes(array.as_binary::<i32>().clone()),
                ScalarType::Timestamp => KeyColumn::Timestamp(array.as_primitive::<TimestampMicrosecondType>().clone()),
                ScalarType::Float32 | ScalarType::Float64 => {
                    return Err(KeyError::NotAKeyType { part, data_type: key_type.as_str() });
                }
            });
        }
        Ok(Self { columns, rows })
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Whether a part of the row's key is null: such a row has no key.
    pub fn is_null(&self, row: usize) -> bool {
        self.columns.iter().any(|column| column.array().is_null(row))
    }

    /// How many rows have no key.
    pub fn null_count(&self) -> usize {
        if self.columns.iter().all(|column| column.array().null_count() == 0) {
            return 0;
        }
        (0..self.rows).filter(|row| self.is_null(*row)).count()
    }

    /// Appends the row's key to `out`; `false` if a part is null, and then nothing is appended.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn encode(&self, row: usize, out: &mut Vec<u8>) -> bool {
        let begin = out.len();
        for column in &self.columns {
            if column.array().is_null(row) {
                out.truncate(begin);
                return false;
            }
            match column {
                KeyColumn::Bool(array) => encode_bool(array.value(row), out),
                KeyColumn::Int32(array) => encode_int32(array.value(row), out),
                KeyColumn::Int64(array) => encode_int64(TAG_INT64, array.value(row), out),
                KeyColumn::String(array) => encode_escaped(TAG_STRING, array.value(row).as_bytes(), out),
                KeyColumn::Bytes(array) => encode_escaped(TAG_BYTES, array.value(row), out),
                KeyColumn::Timestamp(array) => encode_int64(TAG_TIMESTAMP, array.value(row), out),
            }
        }
        true
    }
}

impl KeyColumn {
    fn array(&self) -> &dyn Array {
        match self {
            Self::Bool(array) => array,
            Self::Int32(array) => array,
            Self::Int64(array) => array,
            Self::String(array) => array,
            Self::Bytes(array) => array,
            Self::Timestamp(array) => array,
        }
    }
}

/// Appends the key of single values to `out`; `false` if a part is null, and then nothing is
/// appended. Values must be of exactly their part's type.
pub fn encode_values(values: &[Value], types: &[ScalarType], out: &mut Vec<u8>) -> Result<bool, KeyError> {
    if values.len() != types.len() {
        return Err(KeyError::PartCount { expected: types.len(), given: values.len() });
    }
    let begin = out.len();
    let mut null = false;
    for (part, (value, key_type)) in values.iter().zip(types).enumerate() {
        match (value, key_type) {
            (Value::Null, _) => null = true,
            (Value::Bool(value), ScalarType::Bool) => encode_bool(*value, out),
            (Value::Int32(value), ScalarType::Int32) => encode_int32(*value, out),
            (Value::Int64(value), ScalarType::Int64) => encode_int64(TAG_INT64, *value, out),
            (Value::String(value), ScalarType::String) => encode_escaped(TAG_STRING, value.as_bytes(), out),
            (Value::Bytes(value), ScalarType::Bytes) => encode_escaped(TAG_BYTES, value, out),
            (Value::Timestamp(value), ScalarType::Timestamp) => encode_int64(TAG_TIMESTAMP, *value, out),
            (_, key_type) => {
                out.truncate(begin);
                check_key_type(part, *key_type)?;
                let given = type_name(value).to_owned();
                return Err(KeyError::WrongType { part, expected: key_type.as_str(), given });
            }
        }
    }
    if null {
        out.truncate(begin);
    }
    Ok(!null)
}

/// The values of an encoded key.
pub fn decode_key(key: &[u8], types: &[ScalarType]) -> Result<Vec<Value>, KeyError> {
    let mut values = Vec::with_capacity(types.len());
    read_parts(key, types, |part| values.push(part.into_value()))?;
    Ok(values)
}

/// Makes join key columns out of encoded keys.
#[derive(Debug)]
pub struct KeyColumnsBuilder {
    types: Vec<ScalarType>,
    columns: Vec<ColumnBuilder>,
}

impl KeyColumnsBuilder {
    pub fn new(types: &[ScalarType], capacity: usize) -> Self {
        let columns = types.iter().map(|key_type| ColumnBuilder::new(DataType::Scalar(*key_type), capacity));
        Self { types: types.to_vec(), columns: columns.collect() }
    }

    /// Appends one key to the columns; on an error none of them has changed.
    pub fn append(&mut self, key: &[u8]) -> Result<(), KeyError> {
        let mut parts = Vec::with_capacity(self.types.len());
        read_parts(key, &self.types, |part| parts.push(part))?;
        if !self.columns.iter().zip(&parts).all(|(column, part)| column.has_room_for(&part.as_cell())) {
            return Err(KeyError::ColumnFull);
        }
        for (index, (column, part)) in self.columns.iter_mut().zip(&parts).enumerate() {
            column
                .push(part.as_cell())
                .map_err(|_| KeyError::NotAKeyType { part: index, data_type: self.types[index].as_str() })?;
        }
        Ok(())
    }

    /// The columns, in the key's order, of the Arrow types of their parts.
    pub fn finish(self) -> Vec<ArrayRef> {
        self.columns.into_iter().map(ColumnBuilder::finish).collect()
    }
}

/// What begins the keys of all rows that are pending until `due`, and of none due later.
pub(crate) fn ordered_time(due: Micros) -> [u8; 8] {
    ordered_int64(due)
}

/// The least key after all those that begin with `prefix`; `None`: nothing comes after them.
pub(crate) fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
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

// The tags. One leads each part, so that a key read under other types is refused. A number is never
// given to another type, even when its type is gone.
const TAG_BOOL: u8 = 0x01;
const TAG_INT32: u8 = 0x02;
const TAG_INT64: u8 = 0x03;
const TAG_STRING: u8 = 0x04;
const TAG_BYTES: u8 = 0x05;
const TAG_TIMESTAMP: u8 = 0x06;

// Inside text a zero byte becomes ZERO ESCAPED_ZERO; ZERO END ends it. END is the lower one, so that
// a text sorts before every longer text that it begins.
const ZERO: u8 = 0x00;
const END: u8 = 0x00;
const ESCAPED_ZERO: u8 = 0xFF;

fn encode_bool(value: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(&[TAG_BOOL, u8::from(value)]);
}

fn encode_int32(value: i32, out: &mut Vec<u8>) {
    out.push(TAG_INT32);
    out.extend_from_slice(&(value ^ i32::MIN).to_be_bytes());
}

fn encode_int64(tag: u8, value: i64, out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(&ordered_int64(value));
}

/// Eight bytes whose order is the numbers' order.
fn ordered_int64(value: i64) -> [u8; 8] {
    (value ^ i64::MIN).to_be_bytes()
}

/// Reads what [`ordered_int64`] wrote.
fn int64_of_ordered(bytes: [u8; 8]) -> i64 {
    i64::from_be_bytes(bytes) ^ i64::MIN
}

fn encode_escaped(tag: u8, text: &[u8], out: &mut Vec<u8>) {
    out.reserve(text.len() + 3);
    out.push(tag);
    let mut rest = text;
    while let Some(zero) = rest.iter().position(|byte| *byte == ZERO) {
        out.extend_from_slice(&rest[..zero]);
        out.extend_from_slice(&[ZERO, ESCAPED_ZERO]);
        rest = &rest[zero + 1..];
    }
    out.extend_from_slice(rest);
    out.extend_from_slice(&[ZERO, END]);
}

fn check_key_type(part: usize, key_type: ScalarType) -> Result<(), KeyError> {
    if key_type.is_key_type() { Ok(()) } else { Err(KeyError::NotAKeyType { part, data_type: key_type.as_str() }) }
}

/// An Arrow type, short enough for a message.
fn shown(arrow_type: &ArrowType) -> String {
    arrow_type.to_string().chars().take(80).collect()
}

enum KeyPart<'a> {
    Bool(bool),
    Int32(i32),
    Int64(i64),
    String(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
    Timestamp(i64),
}

impl KeyPart<'_> {
    fn into_value(self) -> Value {
        match self {
            Self::Bool(value) => Value::Bool(value),
            Self::Int32(value) => Value::Int32(value),
            Self::Int64(value) => Value::Int64(value),
            Self::String(value) => Value::String(value.into_owned()),
            Self::Bytes(value) => Value::Bytes(value.into_owned()),
            Self::Timestamp(value) => Value::Timestamp(value),
        }
    }

    fn as_cell(&self) -> Cell<'_> {
        match self {
            Self::Bool(value) => Cell::Bool(*value),
            Self::Int32(value) => Cell::Int32(*value),
            Self::Int64(value) => Cell::Int64(*value),
            Self::String(value) => Cell::String(value),
            Self::Bytes(value) => Cell::Bytes(value),
            Self::Timestamp(value) => Cell::Timestamp(*value),
        }
    }
}

/// Hands each part of a key to `take`, having checked the whole key only when it returns `Ok`.
fn read_parts<'a>(key: &'a [u8], types: &[ScalarType], mut take: impl FnMut(KeyPart<'a>)) -> Result<(), KeyError> {
    let mut rest = key;
    for (part, key_type) in types.iter().enumerate() {
        let damaged = |reason| KeyError::Damaged { part, reason };
        let (tag, after_tag) = rest.split_first().ok_or_else(|| damaged("nothing"))?;
        rest = after_tag;
        if *tag != tag_of(part, *key_type)? {
            return Err(damaged("another type's tag"));
        }
        take(match key_type {
            ScalarType::Bool => match take_chunk::<1>(&mut rest).ok_or_else(|| damaged("too few bytes"))? {
                [0] => KeyPart::Bool(false),
                [1] => KeyPart::Bool(true),
                _ => return Err(damaged("neither true nor false")),
            },
            ScalarType::Int32 => {
                let bytes = take_chunk::<4>(&mut rest).ok_or_else(|| damaged("too few bytes"))?;
                KeyPart::Int32(i32::from_be_bytes(bytes) ^ i32::MIN)
            }
            ScalarType::Int64 => {
                KeyPart::Int64(int64_of_ordered(take_chunk(&mut rest).ok_or_else(|| damaged("too few bytes"))?))
            }
            ScalarType::Timestamp => {
                KeyPart::Timestamp(int64_of_ordered(take_chunk(&mut rest).ok_or_else(|| damaged("too few bytes"))?))
            }
            ScalarType::Bytes => {
                KeyPart::Bytes(take_escaped(&mut rest).ok_or_else(|| damaged("bytes that don't end"))?)
            }
            ScalarType::String => {
                let text = take_escaped(&mut rest).ok_or_else(|| damaged("a string that doesn't end"))?;
                KeyPart::String(utf8(text).ok_or_else(|| damaged("a string that isn't UTF-8"))?)
            }
            ScalarType::Float32 | ScalarType::Float64 => {
                return Err(KeyError::NotAKeyType { part, data_type: key_type.as_str() });
            }
        });
    }
    if rest.is_empty() { Ok(()) } else { Err(KeyError::Damaged { part: types.len(), reason: "bytes after the end" }) }
}

fn tag_of(part: usize, key_type: ScalarType) -> Result<u8, KeyError> {
    Ok(match key_type {
        ScalarType::Bool => TAG_BOOL,
        ScalarType::Int32 => TAG_INT32,
        ScalarType::Int64 => TAG_INT64,
        ScalarType::String => TAG_STRING,
        ScalarType::Bytes => TAG_BYTES,
        ScalarType::Timestamp => TAG_TIMESTAMP,
        ScalarType::Float32 | ScalarType::Float64 => {
            return Err(KeyError::NotAKeyType { part, data_type: key_type.as_str() });
        }
    })
}

fn take_chunk<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (chunk, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*chunk)
}

fn take_escaped<'a>(rest: &mut &'a [u8]) -> Option<Cow<'a, [u8]>> {
    let mut owned: Option<Vec<u8>> = None;
    let bytes = *rest;
    let mut begin = 0;
    loop {
        let zero = begin + bytes[begin..].iter().position(|byte| *byte == ZERO)?;
        match *bytes.get(zero + 1)? {
            END => {
                *rest = &bytes[zero + 2..];
                return Some(match owned {
                    None => Cow::Borrowed(&bytes[begin..zero]),
                    Some(mut text) => {
                        text.extend_from_slice(&bytes[begin..zero]);
                        Cow::Owned(text)
                    }
                });
            }
            ESCAPED_ZERO => {
                let text = owned.get_or_insert_default();
                text.extend_from_slice(&bytes[begin..=zero]);
                begin = zero + 2;
            }
            _ => return None,
        }
    }
}

fn utf8(text: Cow<'_, [u8]>) -> Option<Cow<'_, str>> {
    match text {
        Cow::Borrowed(text) => std::str::from_utf8(text).ok().map(Cow::Borrowed),
        Cow::Owned(text) => String::from_utf8(text).ok().map(Cow::Owned),
    }
}

#[cfg(test)]
mod tests;
