//! What all answers to one selection have in common, written once: which columns its services have and,
//! where all columns are numbers, those of one entity. Most requests are for one entity all of whose values
//! are there; then only the values are put in.

use hydrant_proto::v1;
use hydrant_storage::order::CellStatus;
use prost::Message as _;

use super::{put_alone, services_of, width_alone};
use crate::registry::selection::Selection;
use crate::serving::AnswerCells;

/// Of one selection.
#[derive(Debug)]
pub(super) struct Template {
    /// The columns of one entity, present and zero; `None` where not all are numbers.
    columns: Option<Columns>,
    /// Which columns each service has.
    pub services: Vec<u8>,
}

#[derive(Debug)]
struct Columns {
    bytes: Vec<u8>,
    /// Where each column's value begins, and how many bytes it has.
    values: Vec<(usize, usize)>,
}

impl Template {
    /// That of a selection, which keeps it.
    pub fn of(selection: &Selection) -> &Self {
        let prepared = selection.prepared.get_or_make(|| Self::new(selection));
        prepared.expect("nothing else is made of a selection to be kept")
    }

    fn new(selection: &Selection) -> Self {
        let services = services_of(selection).collect();
        let services = v1::GetOnlineFeaturesResponse { services, ..Default::default() }.encode_to_vec();
        Self { columns: Columns::new(selection), services }
    }

    /// Appends the columns of an answer to one entity with all values; nothing, and false, of any other.
    pub fn write_columns(&self, cells: &AnswerCells<'_>, out: &mut Vec<u8>) -> bool {
        let Some(Columns { bytes, values }) = &self.columns else { return false };
        let start = out.len();
        out.extend_from_slice(bytes);
        for (&(begin, width), column) in values.iter().zip(cells.columns()) {
            let Some(value) = column.only_present() else {
                out.truncate(start);
                return false;
            };
            let place = &mut out[start + begin..][..width];
            match (<&mut [u8; 8]>::try_from(&mut *place), <&[u8; 8]>::try_from(value)) {
                (Ok(place), Ok(value)) => *place = *value,
                _ => place.copy_from_slice(value),
            }
        }
        true
    }
}

impl Columns {
    fn new(selection: &Selection) -> Option<Self> {
        const ZERO: [u8; 8] = [0; 8];
        let (mut bytes, mut values) = (Vec::new(), Vec::with_capacity(selection.columns.len()));
        for column in selection.columns.iter() {
            let width = width_alone(&column.name, column.data_type).filter(|_| !column.is_masked)?;
            let begin =
                put_alone(&column.name, column.data_type, (CellStatus::Present, &ZERO[..width], &[]), &mut bytes);
            values.push((begin, width));
        }
        Some(Self { bytes, values })
    }
}
