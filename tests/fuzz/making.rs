//! Requests that are wrong: made field by field by the descriptors, of values that nobody expects, or of
//! good requests whose bytes are changed.

use prost_types::FieldDescriptorProto;
use prost_types::field_descriptor_proto::{Label, Type};

use crate::methods::Schema;
use crate::random::Random;

/// No message of ours is larger.
const MAX_BYTES: usize = 200 << 10;
const MAX_DEPTH: u32 = 9;

/// Names that the store of these tests knows.
const KNOWN: [&str; 14] = [
    "weather",
    "airport_weather",
    "delay_model",
    "delay_model@1",
    "airport_weather:temp",
    "airport",
    "origin",
    "temp",
    "event_timestamp",
    "flights@1",
    "tenants/default/quotas",
    "training_set.progress",
    "float64",
    "push",
];

/// None of these is a name of anything.
const HOSTILE: [&str; 24] = [
    " ",
    "\0",
    "a\0b",
    "../../etc/passwd",
    "/",
    "weather ",
    "Weäther",
    "\u{202e}rehtaew",
    "@",
    "delay_model@",
    "@1",
    "delay_model@99999999999999999999",
    "delay_model@-1",
    ":",
    "airport_weather:",
    ":temp",
    "a:b:c",
    "%s%n%x",
    "${jndi:ldap://x}",
    "'; DROP TABLE rows; --",
    "\r\nset-cookie: x",
    "1e999",
    "tenants//quotas",
    "{\"a\":[[[[",
];

/// Lengths of strings that are much too long.
const LENGTHS: [usize; 5] = [65, 257, 5_000, 20_000, 70_000];

const NUMBERS: [u64; 20] = [
    0,
    u64::MAX,
    u64::MAX - 1,
    i64::MAX as u64,
    i64::MIN as u64,
    u32::MAX as u64,
    u32::MAX as u64 + 1,
    i32::MAX as u64,
    i32::MIN as i64 as u64,
    1 << 40,
    1_388_444_400_000_000,
    1_388_444_400_000_000_000,
    1_000_000,
    65_536,
    10_001,
    100_001,
    1 << 53,
    (1 << 53) + 1,
    86_400_000_000,
    0xdead_beef,
];

pub struct Maker<'a> {
    pub schema: &'a Schema,
    pub random: &'a mut Random,
    /// For a request that must not be good by chance: every name in it is wrong, and no number is small.
    pub never_good: bool,
}

impl Maker<'_> {
    /// A message of a type, as bytes.
    pub fn message(&mut self, name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.fields(name, 0, &mut bytes);
        match self.random.below(40) {
            0 => self.unknown_field(&mut bytes),
            1 => bytes.extend(std::iter::repeat_n(0x0b, 1 + self.random.below(20_000))),
            2 => {
                // As if a field had more than there is.
                bytes.extend([0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]);
            }
            _ => {}
        }
        bytes
    }

    fn fields(&mut self, name: &str, depth: u32, bytes: &mut Vec<u8>) {
        let schema = self.schema;
        for field in &schema.message(name).field {
            if bytes.len() > MAX_BYTES {
                return;
            }
            let must = self.never_good && depth == 0 && field.r#type() == Type::String;
            if !must && !self.random.chance(60) {
                continue;
            }
            let times = match field.label() {
                Label::Repeated => *self.random.pick(&[1, 1, 1, 2, 3, 17, 300]),
                _ if self.random.chance(4) => 2,
                _ => 1,
            };
            for _ in 0..times {
                if bytes.len() > MAX_BYTES {
                    return;
                }
                self.field(field, depth, bytes);
            }
        }
    }

    fn field(&mut self, field: &FieldDescriptorProto, depth: u32, bytes: &mut Vec<u8>) {
        let number = u64::try_from(field.number()).expect("a field's number");
        if self.random.chance(2) {
            // Of another wire type than its own.
            tag(number, self.random.next() % 8, bytes);
            let junk = self.random.below(12);
            return self.junk(junk, bytes);
        }
        match field.r#type() {
            Type::Double | Type::Fixed64 | Type::Sfixed64 => {
                tag(number, 1, bytes);
                let value = self.number();
                bytes.extend(value.to_le_bytes());
            }
            Type::Float | Type::Fixed32 | Type::Sfixed32 => {
                tag(number, 5, bytes);
                let value = self.number() as u32;
                bytes.extend(value.to_le_bytes());
            }
            Type::Int64 | Type::Uint64 | Type::Int32 | Type::Uint32 | Type::Sint32 | Type::Sint64 => {
                tag(number, 0, bytes);
                let value = self.number();
                varint(value, bytes);
            }
            Type::Bool => {
                tag(number, 0, bytes);
                varint(self.random.next() % 3, bytes);
            }
            Type::Enum => {
                tag(number, 0, bytes);
                let value = if self.random.chance(80) { self.random.next() % 10 } else { self.number() };
                varint(value, bytes);
            }
            Type::String => {
                let text = self.text();
                tag(number, 2, bytes);
                varint(text.len() as u64, bytes);
                bytes.extend(text);
            }
            Type::Bytes => {
                let inner = self.inner_bytes(depth);
                tag(number, 2, bytes);
                varint(inner.len() as u64, bytes);
                bytes.extend(inner);
            }
            Type::Message | Type::Group => {
                let mut inner = Vec::new();
                if depth < MAX_DEPTH {
                    self.fields(field.type_name().trim_start_matches('.'), depth + 1, &mut inner);
                }
                let told = if self.random.chance(1) { self.random.next() % 1_000 } else { inner.len() as u64 };
                tag(number, 2, bytes);
                varint(told, bytes);
                bytes.extend(inner);
            }
        }
    }

    fn number(&mut self) -> u64 {
        match self.random.below(4) {
            0 if !self.never_good => self.random.next() % 20,
            1 => self.random.next() | 1 << 40,
            _ => *self.random.pick(&NUMBERS),
        }
    }

    fn text(&mut self) -> Vec<u8> {
        match self.random.below(20) {
            0..=9 if !self.never_good => self.random.pick(&KNOWN).as_bytes().to_vec(),
            10 if !self.never_good => Vec::new(),
            11 => {
                let length = *self.random.pick(&LENGTHS);
                vec![b'x'; length]
            }
            // No UTF-8.
            12 => vec![0xff, 0xfe, 0x80],
            13 => vec![0xed, 0xa0, 0x80],
            14 => "\u{1F4A9}".repeat(1 + self.random.below(90)).into_bytes(),
            _ => self.random.pick(&HOSTILE).as_bytes().to_vec(),
        }
    }

    fn inner_bytes(&mut self, depth: u32) -> Vec<u8> {
        let mut inner = Vec::new();
        match self.random.below(4) {
            0 if depth < MAX_DEPTH => self.fields("hydrant.v1.FlightCommand", depth + 1, &mut inner),
            1 => {
                // Arrow's beginning of a message, and a length.
                inner.extend([0xff, 0xff, 0xff, 0xff]);
                inner.extend((self.number() as u32).to_le_bytes());
                self.junk(64, &mut inner);
            }
            _ => {
                let length = *self.random.pick(&[0, 1, 8, 64, 3_000]);
                self.junk(length, &mut inner);
            }
        }
        inner
    }

    fn junk(&mut self, length: usize, bytes: &mut Vec<u8>) {
        for _ in 0..length {
            bytes.push(self.random.next() as u8);
        }
    }

    fn unknown_field(&mut self, bytes: &mut Vec<u8>) {
        tag(*self.random.pick(&[999, 19_000, (1 << 29) - 1, 1 << 29, 0]), 2, bytes);
        let length = self.random.below(5_000);
        varint(length as u64, bytes);
        self.junk(length, bytes);
    }
}

/// The same bytes, some of them changed.
pub fn mutate(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..=random.below(4) {
        if bytes.is_empty() {
            bytes.push(random.next() as u8);
        }
        let at = random.below(bytes.len());
        match random.below(9) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => bytes[at] = *random.pick(&[0, 0x7f, 0x80, 0xff]),
            3 => bytes.truncate(at),
            4 => drop(bytes.remove(at)),
            5 => {
                let end = (at + 1 + random.below(40)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            6 => {
                let end = (at + 1 + random.below(40)).min(bytes.len());
                bytes.drain(at..end);
            }
            7 if !other.is_empty() => {
                let from = random.below(other.len());
                let to = (from + 1 + random.below(200)).min(other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            _ => bytes.splice(at..at, [0xff; 5]).for_each(drop),
        }
    }
}

fn tag(number: u64, wire_type: u64, bytes: &mut Vec<u8>) {
    varint(number << 3 | wire_type, bytes);
}

fn varint(mut value: u64, bytes: &mut Vec<u8>) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}
