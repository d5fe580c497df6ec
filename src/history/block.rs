//! History rows in columns, shared by whoever still needs one of them, and how rows of several
//! blocks are gathered into one. It knows nothing of keys or times.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arrow_array::{Array, ArrayRef, UInt16Array};
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
        Self { feature_counts, features, bytes }
    }

    /// The memory that it holds.
    pub fn bytes(&self) -> usize {
        self.bytes
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
        let Some(first) = self.blocks.first() else { return Ok(Vec::new()) };
        let mut gathered = Vec::with_capacity(first.features.len());
        for feature in 0..first.features.len() {
            let arrays: Vec<&dyn Array> = self.blocks.iter().map(|block| block.features[feature].as_ref()).collect();
            gathered.push(interleave(&arrays, rows)?);
        }
        Ok(gathered)
    }

    pub fn clear(&mut self) {
        self.blocks.clear();
        self.known.clear();
        self.bytes = 0;
    }
}
