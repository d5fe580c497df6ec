//! What all answers to one selection have in common, written once: which columns its services have and,
//! where all columns are numbers, those of one entity. Most requests are for one entity all of whose values
//! are there; then only the values are put in.

use std::ops::Range;

use hydrant_proto::v1;
use hydrant_storage::order::CellStatus;
use prost::Message as _;

use super::{put_alone, services_of, width_alone};
use crate::registry::catalog::ServiceColumn;
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
    runs: Vec<Run>,
}

/// Columns of consecutive features of one lookup, whose values have one width: they are read as a whole.
#[derive(Debug)]
struct Run {
    lookup: usize,
    features: Range<usize>,
    width: usize,
    /// Where the value of each begins.
    places: Vec<usize>,
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
        let Some(Columns { bytes, runs }) = &self.columns else { return false };
        let start = out.len();
        out.extend_from_slice(bytes);
        let columns = &mut out[start..];
        let is_written = runs.iter().all(|run| {
            let values = cells.only_present(run.lookup, run.features.clone());
            values.is_some_and(|values| run.put(values, columns))
        });
        if !is_written {
            out.truncate(start);
        }
        is_written
    }
}

impl Run {
    /// Puts the values into their places; `false` if they are others than the run's.
    fn put(&self, values: &[u8], columns: &mut [u8]) -> bool {
        match self.width {
            8 => self.put_wide::<8>(values, columns),
            4 => self.put_wide::<4>(values, columns),
            _ => false,
        }
    }

    fn put_wide<const WIDTH: usize>(&self, values: &[u8], columns: &mut [u8]) -> bool {
        let (values, []) = values.as_chunks::<WIDTH>() else { return false };
        if values.len() != self.places.len() {
            return false;
        }
        for (&place, value) in self.places.iter().zip(values) {
            columns[place..place + WIDTH].copy_from_slice(value);
        }
        true
    }
}

impl Columns {
    fn new(selection: &Selection) -> Option<Self> {
        const ZERO: [u8; 8] = [0; 8];
        let (mut bytes, mut runs) = (Vec::new(), Vec::<Run>::new());
        for ServiceColumn { name, data_type, lookup, feature, is_masked, .. } in selection.columns.iter() {
            let (lookup, feature) = (*lookup, *feature);
            let width = width_alone(name, *data_type).filter(|_| !is_masked)?;
            let place = put_alone(name, *data_type, (CellStatus::Present, &ZERO[..width], &[]), &mut bytes);
            match runs.last_mut() {
                Some(run) if (run.lookup, run.features.end, run.width) == (lookup, feature, width) => {
                    run.features.end += 1;
                    run.places.push(place);
                }
                _ => runs.push(Run { lookup, features: feature..feature + 1, width, places: vec![place] }),
            }
        }
        Some(Self { bytes, runs })
    }
}
