//! A hash over a table's rows that doesn't depend on how they were cut into batches, nor on what
//! Arrow leaves open: offsets, bytes under nulls, dictionaries, slices. Two tables have the same
//! hash where they have the same columns, types and values, bit for bit.

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, UnionArray, make_array};
use arrow_buffer::NullBuffer;
use arrow_schema::{DataType, Schema};
use arrow_select::take::take;
use xxhash_rust::xxh3::Xxh3;

use super::failure::JoinError;

/// Hashes a table batch by batch.
#[derive(Debug)]
pub struct TableDigest {
    columns: Vec<ColumnDigest>,
    rows: u64,
}

/// Hashes a training set batch by batch as it comes, by its spine's columns and those that were added,
/// to the hash that its report has.
#[derive(Debug)]
pub struct ContentDigest {
    spine: Schema,
    added: Schema,
    spine_digest: TableDigest,
    added_digest: TableDigest,
}

/// Hashes one column: its nulls and its values as two streams of bytes, so that neither knows where
/// a batch ended, and the columns inside it likewise.
pub struct ColumnDigest {
    validity: Xxh3,
    values: Xxh3,
    children: Vec<ColumnDigest>,
}

impl std::fmt::Debug for ColumnDigest {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ColumnDigest").field("children", &self.children).finish_non_exhaustive()
    }
}

/// Of a training set: over the hash of its spine and that of the columns that were added.
pub fn content_hash(spine_hash: &str, added_hash: &str) -> String {
    let mut content = Xxh3::new();
    content.update(spine_hash.as_bytes());
    content.update(added_hash.as_bytes());
    format!("{:032x}", content.digest128())
}

impl ContentDigest {
    /// Of a training set of which so many columns are the spine's.
    pub fn new(schema: &Schema, spine_columns: usize) -> Self {
        let (spine, added) = schema.fields().split_at(spine_columns.min(schema.fields().len()));
        let (spine, added) = (Schema::new(spine.to_vec()), Schema::new(added.to_vec()));
        let (spine_digest, added_digest) = (TableDigest::new(&spine), TableDigest::new(&added));
        Self { spine, added, spine_digest, added_digest }
    }

    /// Takes the next rows. Refuses types that no spine can have.
    pub fn update(&mut self, batch: &RecordBatch) -> Result<(), crate::error::Error> {
        let (spine, added) = batch.columns().split_at(self.spine.fields().len());
        self.spine_digest.update_columns(spine, batch.num_rows())?;
        Ok(self.added_digest.update_columns(added, batch.num_rows())?)
    }

    /// The hash, in hex.
    pub fn finish(&self) -> String {
        content_hash(&self.spine_digest.finish(&self.spine), &self.added_digest.finish(&self.added))
    }
}

impl TableDigest {
    pub fn new(schema: &Schema) -> Self {
        Self { columns: schema.fields().iter().map(|field| ColumnDigest::new(field.data_type())).collect(), rows: 0 }
    }

    pub fn update(&mut self, batch: &RecordBatch) -> Result<(), JoinError> {
        self.update_columns(batch.columns(), batch.num_rows())
    }

    fn update_columns(&mut self, columns: &[ArrayRef], rows: usize) -> Result<(), JoinError> {
        self.rows += rows as u64;
        for (digest, column) in self.columns.iter_mut().zip(columns) {
            digest.update(column)?;
        }
        Ok(())
    }

    /// The hash, in hex, under the names and types of `schema`.
    pub fn finish(&self, schema: &Schema) -> String {
        let mut whole = Xxh3::new();
        whole.update(&self.rows.to_le_bytes());
        for (field, digest) in schema.fields().iter().zip(&self.columns) {
            for text in [field.name().clone(), canonical_type(field.data_type())] {
                whole.update(&(text.len() as u64).to_le_bytes());
                whole.update(text.as_bytes());
            }
            whole.update(&digest.finish().to_le_bytes());
        }
        format!("{:032x}", whole.digest128())
    }
}

impl ColumnDigest {
    pub fn new(data_type: &DataType) -> Self {
        let children = match data_type {
            DataType::List(child)
            | DataType::LargeList(child)
            | DataType::ListView(child)
            | DataType::LargeListView(child)
            | DataType::FixedSizeList(child, _)
            | DataType::Map(child, _) => vec![Self::new(child.data_type())],
            DataType::Struct(fields) => fields.iter().map(|field| Self::new(field.data_type())).collect(),
            DataType::Union(fields, _) => fields.iter().map(|(_, field)| Self::new(field.data_type())).collect(),
            DataType::Dictionary(_, values) => return Self::new(values),
            DataType::RunEndEncoded(_, values) => return Self::new(values.data_type()),
            _ => Vec::new(),
        };
        Self { validity: Xxh3::new(), values: Xxh3::new(), children }
    }

    pub fn update(&mut self, array: &dyn Array) -> Result<(), JoinError> {
        match array.data_type() {
            DataType::Dictionary(_, _) => {
                let dictionary = array.as_any_dictionary();
                return self.update(&take(dictionary.values(), dictionary.keys(), None)?);
            }
            DataType::RunEndEncoded(_, values) => {
                return self.update(&arrow_cast::cast(array, values.data_type())?);
            }
            DataType::Union(_, _) => return self.update_union(array.as_any().downcast_ref().expect("a union")),
            _ => {}
        }
        let nulls = array.logical_nulls().filter(|nulls| nulls.null_count() > 0);
        self.update_validity(nulls.as_ref(), array.len());
        let is_valid = |row: usize| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
        match array.data_type() {
            DataType::Null => {}
            DataType::Boolean => {
                let values = array.as_boolean();
                let bytes: Vec<u8> = (0..array.len()).map(|row| u8::from(is_valid(row) && values.value(row))).collect();
                self.values.update(&bytes);
            }
            DataType::Utf8 => self.update_bytes(array.as_string::<i32>().iter().map(|v| v.map(str::as_bytes))),
            DataType::LargeUtf8 => self.update_bytes(array.as_string::<i64>().iter().map(|v| v.map(str::as_bytes))),
            DataType::Utf8View => self.update_bytes(array.as_string_view().iter().map(|v| v.map(str::as_bytes))),
            DataType::Binary => self.update_bytes(array.as_binary::<i32>().iter()),
            DataType::LargeBinary => self.update_bytes(array.as_binary::<i64>().iter()),
            DataType::BinaryView => self.update_bytes(array.as_binary_view().iter()),
            DataType::FixedSizeBinary(_) => self.update_bytes(array.as_fixed_size_binary().iter()),
            DataType::List(_) => self.update_lists(array.as_list::<i32>().iter())?,
            DataType::LargeList(_) => self.update_lists(array.as_list::<i64>().iter())?,
            DataType::ListView(_) => self.update_lists(array.as_list_view::<i32>().iter())?,
            DataType::LargeListView(_) => self.update_lists(array.as_list_view::<i64>().iter())?,
            DataType::FixedSizeList(_, size) if nulls.is_none() => {
                let list = array.as_fixed_size_list();
                let from = list.value_offset(0) as usize;
                self.children[0].update(&list.values().slice(from, list.len() * *size as usize))?;
            }
            DataType::FixedSizeList(_, _) => {
                for list in array.as_fixed_size_list().iter().flatten() {
                    self.children[0].update(&list)?;
                }
            }
            DataType::Map(_, _) => {
                let map = array.as_map();
                let entries = (0..map.len()).map(|row| map.is_valid(row).then(|| make_array(map.value(row).into())));
                self.update_lists(entries)?;
            }
            DataType::Struct(_) => {
                for (child, column) in self.children.iter_mut().zip(array.as_struct().columns()) {
                    // What lies under a null struct isn't part of the value.
                    let data = column.to_data();
                    let hidden = NullBuffer::union(nulls.as_ref(), column.logical_nulls().as_ref());
                    match column.data_type() {
                        DataType::Null | DataType::Union(_, _) | DataType::RunEndEncoded(_, _) => {
                            child.update(column)?
                        }
                        _ => child.update(&make_array(data.into_builder().nulls(hidden).build()?))?,
                    }
                }
            }
            fixed => match fixed.primitive_width() {
                Some(width) => self.update_fixed(array, width, nulls.as_ref()),
                None => return Err(arrow_schema::ArrowError::NotYetImplemented(format!("hashing of {fixed}")).into()),
            },
        }
        Ok(())
    }

    fn update_validity(&mut self, nulls: Option<&NullBuffer>, length: usize) {
        const VALID: [u8; 1_024] = [1; 1_024];
        match nulls {
            None => {
                let mut left = length;
                while left > 0 {
                    let now = left.min(VALID.len());
                    self.validity.update(&VALID[..now]);
                    left -= now;
                }
            }
            Some(nulls) => {
                let bits = nulls.inner().bit_chunks();
                let mut bytes = [0; 64];
                for word in bits.iter() {
                    put_a_byte_a_bit(word, &mut bytes);
                    self.validity.update(&bytes);
                }
                put_a_byte_a_bit(bits.remainder_bits(), &mut bytes);
                self.validity.update(&bytes[..length % 64]);
            }
        }
    }

    fn update_fixed(&mut self, array: &dyn Array, width: usize, nulls: Option<&NullBuffer>) {
        let data = array.to_data();
        let bytes = &data.buffers()[0].as_slice()[data.offset() * width..][..data.len() * width];
        match nulls {
            None => self.values.update(bytes),
            Some(nulls) => {
                let mut bytes = bytes.to_vec();
                for row in (!nulls.inner()).set_indices() {
                    bytes[row * width..][..width].fill(0);
                }
                self.values.update(&bytes);
            }
        }
    }

    fn update_bytes<'a>(&mut self, values: impl Iterator<Item = Option<&'a [u8]>>) {
        for value in values.flatten() {
            self.values.update(&(value.len() as u64).to_le_bytes());
            self.values.update(value);
        }
    }

    fn update_lists(&mut self, lists: impl Iterator<Item = Option<ArrayRef>>) -> Result<(), JoinError> {
        for list in lists.flatten() {
            self.values.update(&(list.len() as u64).to_le_bytes());
            self.children[0].update(&list)?;
        }
        Ok(())
    }

    fn update_union(&mut self, union: &UnionArray) -> Result<(), JoinError> {
        let DataType::Union(fields, _) = union.data_type() else { return Ok(()) };
        for row in 0..union.len() {
            let type_id = union.type_id(row);
            self.values.update(&type_id.to_le_bytes());
            let place = fields.iter().position(|(id, _)| id == type_id).unwrap_or_default();
            self.children[place].update(&union.value(row))?;
        }
        Ok(())
    }

    pub fn finish(&self) -> u128 {
        let mut whole = Xxh3::new();
        whole.update(&self.validity.digest128().to_le_bytes());
        whole.update(&self.values.digest128().to_le_bytes());
        for child in &self.children {
            whole.update(&child.finish().to_le_bytes());
        }
        whole.digest128()
    }
}

fn put_a_byte_a_bit(word: u64, bytes: &mut [u8; 64]) {
    for (eight, bits) in bytes.as_chunks_mut().0.iter_mut().zip(word.to_le_bytes()) {
        *eight = a_byte_a_bit(bits);
    }
}

/// For each bit, the lowest first, a byte that is 0 or 1.
fn a_byte_a_bit(bits: u8) -> [u8; 8] {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    let alone = (u64::from(bits) * ONES) & u64::from_le_bytes([1, 2, 4, 8, 16, 32, 64, 128]);
    // A byte that holds any bit overflows into its highest.
    ((alone + ONES * 0x7f) >> 7 & ONES).to_le_bytes()
}

/// The type without how it is encoded: a dictionary of strings holds strings.
fn canonical_type(data_type: &DataType) -> String {
    match data_type {
        DataType::Dictionary(_, values) => canonical_type(values),
        DataType::RunEndEncoded(_, values) => canonical_type(values.data_type()),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::types::Int32Type;
    use arrow_array::{DictionaryArray, Float64Array, Int64Array, ListArray, StringArray, StructArray};
    use arrow_schema::Field;

    use super::*;

    fn table() -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Float64Array::from_iter((0..100).map(|n| (n % 7 != 0).then_some(n as f64))));
        let words: ArrayRef =
            Arc::new(StringArray::from_iter((0..100).map(|n| (n % 5 != 0).then(|| "x".repeat(n % 9)))));
        let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(
            (0..100i32).map(|n| (n % 3 != 0).then(|| (0..n % 4).map(|m| (m != 1).then_some(m)).collect::<Vec<_>>())),
        ));
        let fields =
            [Arc::new(Field::new("n", DataType::Float64, true)), Arc::new(Field::new("w", DataType::Utf8, true))];
        let valid: Vec<bool> = (0..100).map(|n| n % 11 != 0).collect();
        let structs: ArrayRef = Arc::new(StructArray::new(
            fields.into_iter().collect(),
            vec![numbers.clone(), words.clone()],
            Some(valid.into()),
        ));
        RecordBatch::try_from_iter([("n", numbers), ("w", words), ("l", lists), ("s", structs)]).expect("a table")
    }

    fn hash(batches: &[RecordBatch]) -> String {
        let schema = batches[0].schema();
        let mut digest = TableDigest::new(&schema);
        batches.iter().for_each(|batch| digest.update(batch).expect("hashed"));
        digest.finish(&schema)
    }

    #[test]
    fn a_content_hash_does_not_depend_on_how_rows_are_cut_into_batches() {
        let table = table();
        let whole = hash(std::slice::from_ref(&table));
        for piece in [1, 3, 64] {
            let pieces: Vec<_> = (0..100).step_by(piece).map(|from| table.slice(from, piece.min(100 - from))).collect();
            assert_eq!(hash(&pieces), whole, "pieces of {piece}");
        }
        assert_ne!(hash(&[table.slice(0, 99)]), whole);
    }

    #[test]
    fn a_bit_becomes_a_byte() {
        for bits in 0..=u8::MAX {
            assert_eq!(a_byte_a_bit(bits), std::array::from_fn(|bit| bits >> bit & 1));
        }
    }

    #[test]
    fn a_content_hash_sees_values_and_not_their_encoding() {
        let plain: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("b"), Some("a")]));
        let keys = arrow_array::Int8Array::from(vec![Some(2), None, Some(0), Some(2)]);
        let values: ArrayRef = Arc::new(StringArray::from(vec!["b", "never", "a"]));
        let encoded: ArrayRef = Arc::new(DictionaryArray::new(keys, values));
        let batch = |array: ArrayRef| RecordBatch::try_from_iter([("x", array)]).expect("a batch");
        assert_eq!(hash(&[batch(plain)]), hash(&[batch(encoded)]));
        let zero = |bits: f64| batch(Arc::new(Float64Array::from(vec![bits])));
        assert_ne!(hash(&[zero(0.0)]), hash(&[zero(-0.0)]));
        let number = |n: Option<i64>| batch(Arc::new(Int64Array::from(vec![n])));
        assert_ne!(hash(&[number(None)]), hash(&[number(Some(0))]));
    }
}
