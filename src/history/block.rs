//! History rows in columns, shared by whoever still needs one of them, and how rows of several
//! blocks are gathered into one. It knows nothing of keys or times.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arrow_array::{Array, ArrayRef, UInt16Array, make_array};
use arrow_buffer::{ArrowNativeType, Buffer};
use arrow_select::interleave::interleave;
use hydrant_storage::slices::slice_bytes;

use super::failure::JoinError;

/// Some rows' features, projected.
#[derive(Debug)]
pub struct Block {
    /// How many features each row was written with.
    pub feature_counts: UInt16Array,
    pub features: Vec<ArrayRef>,
    bytes: usize,
    row_bytes: usize,
}

/// One row of a block.
#[derive(Clone, Debug)]
pub struct BlockRow {
    pub block: Arc<Block>,
    pub index: u32,
}

/// Rows of several blocks, to be gathered into one block in the order given.
#[derive(Debug, Default)]
pub struct Gather {
    blocks: Vec<Arc<Block>>,
    known: HashMap<*const Block, usize>,
    bytes: usize,
}

impl Block {
    pub fn new(feature_counts: UInt16Array, features: Vec<ArrayRef>) -> Self {
        let bytes = features.iter().map(|array| slice_bytes(array)).sum::<usize>() + 2 * feature_counts.len();
        let row_bytes = bytes / feature_counts.len().max(1);
        Self { feature_counts, features, bytes, row_bytes }
    }

    /// The memory that it holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Of that, what one row takes, on average.
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }
}

impl BlockRow {
    /// A row whose features nobody will ask for.
    pub fn without_features() -> Self {
        static EMPTY: LazyLock<Arc<Block>> =
            LazyLock::new(|| Arc::new(Block::new(UInt16Array::from(vec![0]), Vec::new())));
        Self { block: EMPTY.clone(), index: 0 }
    }

    pub fn feature_count(&self) -> u16 {
        self.block.feature_counts.value(self.index as usize)
    }
}

impl Gather {
    /// The number by which [`Gather::features`] knows the row's block.
    pub fn number_of(&mut self, block: &Arc<Block>) -> usize {
        // Rows come in runs of one block.
        if self.blocks.last().is_some_and(|last| Arc::ptr_eq(last, block)) {
            return self.blocks.len() - 1;
        }
        *self.known.entry(Arc::as_ptr(block)).or_insert_with(|| {
            self.blocks.push(block.clone());
            self.bytes += block.bytes();
            self.blocks.len() - 1
        })
    }

    /// The memory held by the blocks.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Each feature's values of the rows (block, index), in the order given.
    pub fn features(&self, rows: &[(usize, usize)]) -> Result<Vec<ArrayRef>, JoinError> {
        (0..self.feature_count()).map(|feature| self.feature(feature, rows)).collect()
    }

    /// The same of rows that ascend, mostly, each put at its place: a permutation of their numbers.
    pub fn features_at(&self, rows: &[(usize, usize)], places: &[u32]) -> Result<Vec<ArrayRef>, JoinError> {
        let mut rows_at: Vec<(usize, usize)> = Vec::new();
        let at_places = |feature: usize| {
            // Blocks are read from front to end, and what comes of that, which is little, is written out of order.
            let put = match self.blocks[0].features[feature].data_type().primitive_width() {
                Some(8) => self.put::<u64>(feature, rows, places)?,
                Some(4) => self.put::<u32>(feature, rows, places)?,
                _ => None,
            };
            if let Some(put) = put {
                return Ok(put);
            }
            if rows_at.is_empty() {
                rows_at = put_at(rows.iter().copied(), places);
            }
            self.feature(feature, &rows_at)
        };
        (0..self.feature_count()).map(at_places).collect()
    }

    /// A feature whose values are as wide as `T`, if none of them is null.
    fn put<T: ArrowNativeType>(
        &self,
        feature: usize,
        rows: &[(usize, usize)],
        places: &[u32],
    ) -> Result<Option<ArrayRef>, JoinError> {
        let arrays: Vec<_> = self.blocks.iter().map(|block| block.features[feature].to_data()).collect();
        if arrays.iter().any(|array| array.null_count() > 0) {
            return Ok(None);
        }
        let values: Vec<&[T]> = arrays.iter().map(|array| array.buffer::<T>(0)).collect();
        let put = put_at(rows.iter().map(|(block, row)| values[*block][*row]), places);
        let like = arrays[0].clone().into_builder();
        let data = like.nulls(None).offset(0).len(put.len()).buffers(vec![Buffer::from_vec(put)]);
        Ok(Some(make_array(data.build()?)))
    }

    fn feature_count(&self) -> usize {
        self.blocks.first().map_or(0, |block| block.features.len())
    }

    fn feature(&self, feature: usize, rows: &[(usize, usize)]) -> Result<ArrayRef, JoinError> {
        let arrays: Vec<&dyn Array> = self.blocks.iter().map(|block| block.features[feature].as_ref()).collect();
        Ok(interleave(&arrays, rows)?)
    }

    /// Lets go of all rows.
    pub fn clear(&mut self) {
        self.blocks.clear();
        self.known.clear();
        self.bytes = 0;
    }
}

/// Each value at its place; `places` are a permutation of the values' numbers.
pub fn put_at<T: Copy + Default>(values: impl Iterator<Item = T>, places: &[u32]) -> Vec<T> {
    let mut put = vec![T::default(); places.len()];
    for (value, place) in values.zip(places) {
        put[*place as usize] = value;
    }
    put
}
