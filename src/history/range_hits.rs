//! The hits of one join in one range of the spine, put in the spine's order. It knows nothing of
//! statuses, defaults or lookups.

use arrow_array::{Array, ArrayRef, UInt32Array, new_null_array};
use arrow_buffer::NullBuffer;
use arrow_select::concat::concat;
use arrow_select::interleave::interleave;
use arrow_select::take::take;
use hydrant_storage::order::Micros;
use hydrant_storage::slices::slice_bytes;

use super::failure::JoinError;
use super::hits::HitBatch;
use super::plan::Join;

/// One join's hits in one range, in the spine's order.
#[derive(Debug)]
pub struct RangeHits {
    /// How many features each hit was written with; `None`: there is no hit.
    pub feature_counts: Vec<Option<u16>>,
    /// Of each hit; `None`: nobody wants them.
    event_times: Option<Vec<Micros>>,
    places: Places,
    /// The projected features.
    features: Vec<RangeFeature>,
}

/// Where the rows of a range have their hits.
#[derive(Debug)]
struct Places {
    /// For each row the number of its hit among those of all batches; null without a hit.
    numbers: UInt32Array,
    /// The number of each batch's first hit.
    firsts: Vec<u32>,
}

/// One feature of a range's hits.
#[derive(Debug)]
enum RangeFeature {
    /// A value for each row of the range.
    Whole(ArrayRef),
    /// As the batches have it, and a null behind them: too large to be put together at once.
    Apart(Vec<ArrayRef>),
}

/// Of a feature's values in one range; what takes more is put together piece by piece.
const WHOLE_BYTES: usize = 16 << 20;

/// The number of no hit: where it is taken from, nothing lies.
const NO_HIT: u32 = u32::MAX;

impl RangeHits {
    /// Of a range of so many rows.
    pub fn new(join: &Join, batches: &[HitBatch], rows: usize) -> Result<Self, JoinError> {
        let mut numbers = vec![NO_HIT; rows];
        let mut feature_counts = vec![None; rows];
        let has_times = batches.first().is_some_and(|batch| batch.event_times.is_some());
        if batches.iter().any(|batch| batch.event_times.is_some() != has_times) {
            return Err(JoinError::DamagedSpill);
        }
        let mut event_times = has_times.then(|| vec![0; rows]);
        let (mut firsts, mut next) = (Vec::with_capacity(batches.len()), 0);
        for batch in batches {
            firsts.push(next);
            for (row, feature_count) in batch.ordinals.values().iter().zip(batch.feature_counts.values()) {
                let hit = numbers.get_mut(*row as usize).zip(feature_counts.get_mut(*row as usize));
                let (number, count) = hit.ok_or(JoinError::DamagedSpill)?;
                (*number, *count) = (next, Some(*feature_count));
                next += 1;
            }
            if let Some((all, times)) = event_times.as_mut().zip(batch.event_times.as_ref()) {
                for (row, time) in batch.ordinals.values().iter().zip(times.values()) {
                    all[*row as usize] = *time;
                }
            }
        }
        let has_hit: NullBuffer = numbers.iter().map(|number| *number != NO_HIT).collect();
        let nulls = Some(has_hit).filter(|has_hit| has_hit.null_count() > 0);
        let places = Places { numbers: UInt32Array::new(numbers.into(), nulls), firsts };
        let feature = |(projected, feature): (usize, &usize)| {
            let mut sources: Vec<ArrayRef> = batches.iter().map(|batch| batch.features[projected].clone()).collect();
            let bytes: usize = sources.iter().map(|source| slice_bytes(source)).sum();
            let data_type = join.view.features[*feature].data_type.to_arrow();
            if sources.is_empty() {
                return Ok(RangeFeature::Whole(new_null_array(&data_type, rows)));
            }
            if bytes > WHOLE_BYTES {
                sources.push(new_null_array(&data_type, 1));
                return Ok(RangeFeature::Apart(sources));
            }
            let sources: Vec<&dyn Array> = sources.iter().map(AsRef::as_ref).collect();
            Ok(RangeFeature::Whole(take(&concat(&sources)?, &places.numbers, None)?))
        };
        let features = join.features.iter().enumerate().map(feature).collect::<Result<_, JoinError>>()?;
        Ok(Self { feature_counts, event_times, places, features })
    }

    /// Whether the event times of its hits are known.
    pub fn has_times(&self) -> bool {
        self.event_times.is_some()
    }

    /// A hit's event time, if it is known.
    pub fn event_time(&self, row: usize) -> Option<Micros> {
        self.event_times.as_ref().map(|times| times[row])
    }

    /// A feature's values of some rows: null where there is no hit.
    pub fn values(&self, projected: usize, offset: usize, rows: usize) -> Result<ArrayRef, JoinError> {
        match &self.features[projected] {
            RangeFeature::Whole(values) => Ok(values.slice(offset, rows)),
            RangeFeature::Apart(sources) => {
                let sources: Vec<&dyn Array> = sources.iter().map(AsRef::as_ref).collect();
                Ok(interleave(&sources, &self.places.in_batches(offset, rows))?)
            }
        }
    }
}

impl Places {
    /// For each of some rows its batch and its place there; without a hit, that of the null behind them.
    fn in_batches(&self, offset: usize, rows: usize) -> Vec<(usize, usize)> {
        let place = |number: Option<u32>| match number {
            None => (self.firsts.len(), 0),
            Some(number) => {
                let batch = self.firsts.partition_point(|first| *first <= number) - 1;
                (batch, (number - self.firsts[batch]) as usize)
            }
        };
        self.numbers.slice(offset, rows).iter().map(place).collect()
    }
}
