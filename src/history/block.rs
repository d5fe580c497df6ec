//! History rows in columns, shared by whoever still needs one of them, and how rows of several
//! blocks are gathered into one. It knows nothing of keys or times.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arrow_array::{Array, ArrayRef, UInt16Array, UInt32Array};
use arrow_select::interleave::interleave;
use arrow_select::take::take;
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

    /// The same of rows that ascend, mostly, in the order that `places` says: their numbers.
    pub fn features_at(&self, rows: &[(usize, usize)], places: &UInt32Array) -> Result<Vec<ArrayRef>, JoinError> {
        let mut rows_at: Vec<(usize, usize)> = Vec::new();
        let at_places = |feature: usize| {
            if self.blocks[0].features[feature].data_type().is_primitive() {
                // Blocks are read from front to end, and only what comes of that, which is little, out of order.
                return Ok(take(&self.feature(feature, rows)?, places, None)?);
            }
            if rows_at.is_empty() {
                rows_at.extend(places.values().iter().map(|place| rows[*place as usize]));
            }
            self.feature(feature, &rows_at)
        };
        (0..self.feature_count()).map(at_places).collect()
    }

    fn feature_count(&self) -> usize {
        self.blocks.first().map_or(0, |block| block.features.len())
    }

    fn feature(&self, feature: usize, rows: &[(usize, usize)]) -> Result<ArrayRef, JoinError> {
        let arrays: Vec<&dyn Array> = self.blocks.iter().map(|block| block.features[feature].as_ref()).collect();
        Ok(interleave(&arrays, rows)?)
    }

    pub fn clear(&mut self) {
        self.blocks.clear();
        self.known.clear();
        self.bytes = 0;
    }
}
