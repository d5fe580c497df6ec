//! Where each feature of a view lies in the view's packed rows. Offsets follow from the types
//! alone, so a feature that is added later moves none of those before it.

use std::ops::Range;

use super::cell::{Cell, ListCell, VectorCell};
use super::{DamagedRow, cell};
use crate::value::{DataType, ScalarType};

/// The layout of the packed rows of a view:
/// `fixed_end u32 | null bitmap | fixed region | variable region`, little endian.
///
/// The bitmap has one bit per feature, set where the feature is null. The fixed region has every
/// feature's value, or, for strings, bytes and lists, the u32 end of its value counted from
/// `fixed_end`, where the variable region begins; a value begins where the one before it ends. Since
/// `fixed_end` is stored, a row is readable under a layout with fewer features than the row has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowLayout {
    types: Vec<DataType>,
    /// For each feature, and one past the last: where its part of the fixed region begins.
    offsets: Vec<usize>,
    /// For each feature: the feature of variable length that comes last before it.
    variable_before: Vec<Option<usize>>,
}

/// The length of `fixed_end`.
pub(super) const PREFIX_LENGTH: usize = 4;

impl RowLayout {
    /// # Panics
    /// If there are more than 65,535 features.
    pub fn new(types: &[DataType]) -> Self {
        assert!(types.len() <= usize::from(u16::MAX), "a view has at most 65,535 features");
        let mut offsets = Vec::with_capacity(types.len() + 1);
        let mut variable_before = Vec::with_capacity(types.len());
        let (mut offset, mut last_variable) = (0, None);
        for (index, data_type) in types.iter().enumerate() {
            offsets.push(offset);
            variable_before.push(last_variable);
            offset += fixed_width(*data_type);
            if is_variable(*data_type) {
                last_variable = Some(index);
            }
        }
        offsets.push(offset);
        Self { types: types.to_vec(), offsets, variable_before }
    }

    /// The types of the features, in the order of the row.
    pub fn types(&self) -> &[DataType] {
        &self.types
    }

    pub fn len(&self) -> usize {
        self.types.len()
    }

    pub fn is_empty(&self) -> bool {
        self.types.is_empty()
    }

    /// Where the variable region of a row with all of the layout's features begins.
    pub(super) fn fixed_end(&self) -> usize {
        PREFIX_LENGTH + bitmap_length(self.len()) + self.offsets[self.len()]
    }

    /// The value of feature `index` in a body that holds `feature_count` features.
    pub(super) fn cell<'a>(&self, body: &'a [u8], feature_count: usize, index: usize) -> Result<Cell<'a>, DamagedRow> {
        if index >= self.types.len() {
            return Err(DamagedRow::new("a feature beyond the layout"));
        }
        if index >= feature_count {
            return Ok(Cell::Null);
        }
        OpenRow::open(self, body, feature_count)?.cell(self, index)
    }
}

/// The body of a full row, checked against its layout once, for many of its cells to be read.
#[derive(Clone, Copy, Debug)]
pub struct OpenRow<'a> {
    feature_count: usize,
    bitmap: &'a [u8],
    fixed: &'a [u8],
    variable: &'a [u8],
}

impl<'a> OpenRow<'a> {
    /// How many features the row has; the layout may have more or fewer.
    pub fn feature_count(&self) -> usize {
        self.feature_count
    }

    /// The value of feature `index`, which the row and the layout must have. `layout` is the one
    /// that the row was opened with.
    pub fn cell(&self, layout: &RowLayout, index: usize) -> Result<Cell<'a>, DamagedRow> {
        if self.is_null(index) {
            return Ok(Cell::Null);
        }
        let data_type = layout.types[index];
        let fixed = self.fixed(layout, index)?;
        match data_type {
            DataType::Scalar(scalar) if is_variable(data_type) => {
                cell::read_text(scalar, self.variable(layout, index)?)
            }
            DataType::Scalar(scalar) => cell::read_fixed(scalar, fixed),
            DataType::Vector(_) => Ok(Cell::Vector(VectorCell::new(fixed))),
            DataType::List(element) => Ok(Cell::List(ListCell::read(element, self.variable(layout, index)?)?)),
        }
    }

    /// The bytes of a feature of fixed width, little endian, as they are stored; `None` where it is
    /// null. Otherwise as [`OpenRow::cell`]. For a bool any byte may stand there.
    pub fn fixed_bytes(&self, layout: &RowLayout, index: usize) -> Result<Option<&'a [u8]>, DamagedRow> {
        debug_assert!(!is_variable(layout.types[index]), "a value of variable length");
        if self.is_null(index) {
            return Ok(None);
        }
        self.fixed(layout, index).map(Some)
    }

    /// The bytes of consecutive features of fixed width, one value behind the other, as they are stored; `None`
    /// where one of them is null, or isn't in the row. The layout must have them.
    pub fn fixed_run(&self, layout: &RowLayout, features: Range<usize>) -> Option<&'a [u8]> {
        debug_assert!(features.clone().all(|index| !is_variable(layout.types[index])), "a value of variable length");
        if features.end > self.feature_count || features.clone().any(|index| self.is_null(index)) {
            return None;
        }
        self.fixed.get(layout.offsets[features.start]..layout.offsets[features.end])
    }

    pub(super) fn open(layout: &RowLayout, body: &'a [u8], feature_count: usize) -> Result<Self, DamagedRow> {
        let (fixed_end, _) = body.split_first_chunk::<PREFIX_LENGTH>().ok_or(DamagedRow::new("body too short"))?;
        let fixed_end = u32::from_le_bytes(*fixed_end) as usize;
        let fixed_begin = PREFIX_LENGTH + bitmap_length(feature_count);
        let known_end = fixed_begin + layout.offsets[feature_count.min(layout.len())];
        // A row with features that the layout doesn't know is longer by their part.
        let fits = if feature_count <= layout.len() { fixed_end == known_end } else { fixed_end > known_end };
        if !fits || fixed_end > body.len() {
            return Err(DamagedRow::new("the body doesn't fit the layout"));
        }
        Ok(Self {
            feature_count,
            bitmap: &body[PREFIX_LENGTH..fixed_begin],
            fixed: &body[fixed_begin..fixed_end],
            variable: &body[fixed_end..],
        })
    }

    fn is_null(&self, index: usize) -> bool {
        bit(self.bitmap, index)
    }

    fn fixed(&self, layout: &RowLayout, index: usize) -> Result<&'a [u8], DamagedRow> {
        let range = layout.offsets[index]..layout.offsets[index + 1];
        self.fixed.get(range).ok_or(DamagedRow::new("the body doesn't fit the layout"))
    }

    fn variable(&self, layout: &RowLayout, index: usize) -> Result<&'a [u8], DamagedRow> {
        let begin = match layout.variable_before[index] {
            None => 0,
            Some(before) => self.end(layout, before)?,
        };
        let end = self.end(layout, index)?;
        self.variable.get(begin..end).ok_or(DamagedRow::new("a value beyond the body"))
    }

    fn end(&self, layout: &RowLayout, index: usize) -> Result<usize, DamagedRow> {
        let fixed = self.fixed(layout, index)?;
        let end = fixed.try_into().map_err(|_| DamagedRow::new("the body doesn't fit the layout"))?;
        Ok(u32::from_le_bytes(end) as usize)
    }
}

/// How many bytes of the fixed region a feature takes.
pub(super) fn fixed_width(data_type: DataType) -> usize {
    match data_type {
        DataType::Scalar(scalar) => scalar_width(scalar).unwrap_or(4),
        DataType::List(_) => 4,
        DataType::Vector(dimension) => dimension as usize * 4,
    }
}

/// The width of a scalar, if all values of its type have the same.
pub(super) fn scalar_width(scalar: ScalarType) -> Option<usize> {
    match scalar {
        ScalarType::Bool => Some(1),
        ScalarType::Int32 | ScalarType::Float32 => Some(4),
        ScalarType::Int64 | ScalarType::Float64 | ScalarType::Timestamp => Some(8),
        ScalarType::String | ScalarType::Bytes => None,
    }
}

pub(super) fn is_variable(data_type: DataType) -> bool {
    match data_type {
        DataType::Scalar(scalar) => scalar_width(scalar).is_none(),
        DataType::List(_) => true,
        DataType::Vector(_) => false,
    }
}

pub(super) fn bitmap_length(bits: usize) -> usize {
    bits.div_ceil(8)
}

pub(super) fn bit(bitmap: &[u8], index: usize) -> bool {
    bitmap[index / 8] & (1 << (index % 8)) != 0
}

pub(super) fn set_bit(bitmap: &mut [u8], index: usize) {
    bitmap[index / 8] |= 1 << (index % 8);
}
