//! What there is to know of a saved training set's columns without reading it: nulls, statuses, and of
//! numbers the least, the greatest and the mean. Counted while the set is made, in one pass.

use arrow_array::cast::AsArray as _;
use arrow_array::types::Float64Type;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_cast::cast;
use arrow_schema::DataType as ArrowType;
use hydrant_storage::value::{DataType, ScalarType};
use serde::{Deserialize, Serialize};

use super::super::failure::JoinError;
use super::super::plan::Plan;
use super::super::zip::StatusCounts;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ColumnStatistics {
    pub name: String,
    /// As definitions write it.
    pub data_type: String,
    /// Values that are null; a default stands for what is missing.
    pub nulls: u64,
    pub statuses: StatusCounts,
    /// Of numbers, and of times in microseconds; `None`: there are none that are no NaN.
    pub numbers: Option<NumberStatistics>,
}

/// Of values that are neither null nor NaN.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct NumberStatistics {
    #[serde(with = "bits")]
    pub min: f64,
    #[serde(with = "bits")]
    pub max: f64,
    #[serde(with = "bits")]
    pub mean: f64,
}

/// JSON has no infinities.
mod bits {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        value.to_bits().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        u64::deserialize(deserializer).map(f64::from_bits)
    }
}

/// Counts batch by batch.
#[derive(Debug)]
pub struct Counting {
    /// For each feature the place of its values among the answer's columns.
    places: Vec<usize>,
    sums: Vec<Option<Sum>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    min: f64,
    max: f64,
    sum: f64,
    count: u64,
}

impl Counting {
    pub fn new(plan: &Plan) -> Self {
        let beside = 1 + usize::from(plan.with_status) + usize::from(plan.with_event_time);
        let first = plan.spine.fields().len();
        let places = (0..plan.columns.len()).map(|number| first + number * beside).collect();
        let is_number = |data_type| match data_type {
            DataType::Scalar(ScalarType::String | ScalarType::Bytes) | DataType::List(_) | DataType::Vector(_) => false,
            DataType::Scalar(_) => true,
        };
        let sums = plan.columns.iter().map(|column| is_number(column.data_type).then(Sum::default)).collect();
        Self { places, sums }
    }

    pub fn update(&mut self, batch: &RecordBatch) -> Result<(), JoinError> {
        for (place, sum) in self.places.iter().zip(&mut self.sums) {
            let Some(sum) = sum else { continue };
            let numbers = as_numbers(batch.column(*place))?;
            for value in numbers.as_primitive::<Float64Type>().iter().flatten().filter(|value| !value.is_nan()) {
                sum.add(value);
            }
        }
        Ok(())
    }

    pub fn finish(self, plan: &Plan, nulls: &[u64], statuses: &[StatusCounts]) -> Vec<ColumnStatistics> {
        let columns = plan.columns.iter().zip(nulls).zip(statuses).zip(self.sums);
        columns
            .map(|(((column, nulls), statuses), sum)| ColumnStatistics {
                name: column.name.clone(),
                data_type: column.data_type.to_string(),
                nulls: *nulls,
                statuses: *statuses,
                numbers: sum.and_then(Sum::finish),
            })
            .collect()
    }
}

impl Sum {
    fn add(&mut self, value: f64) {
        if self.count == 0 {
            (self.min, self.max) = (value, value);
        }
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.sum += value;
        self.count += 1;
    }

    #[expect(clippy::cast_precision_loss, reason = "a mean is rounded anyway")]
    fn finish(self) -> Option<NumberStatistics> {
        let Self { min, max, sum, count } = self;
        (count > 0).then(|| NumberStatistics { min, max, mean: sum / count as f64 })
    }
}

fn as_numbers(values: &ArrayRef) -> Result<ArrayRef, JoinError> {
    let values = match values.data_type() {
        ArrowType::Timestamp(..) => cast(values, &ArrowType::Int64)?,
        _ => values.clone(),
    };
    Ok(cast(&values, &ArrowType::Float64)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statistics_of(values: &[f64]) -> Option<NumberStatistics> {
        let mut sum = Sum::default();
        values.iter().for_each(|value| sum.add(*value));
        sum.finish()
    }

    #[test]
    fn numbers_come_back_as_they_were_kept_infinite_ones_too() {
        let found = statistics_of(&[f64::INFINITY, -0.0, f64::NEG_INFINITY]).expect("there are numbers");
        assert!(found.mean.is_nan() && (found.min, found.max) == (f64::NEG_INFINITY, f64::INFINITY));
        let kept = serde_json::to_string(&found).expect("JSON");
        let back: NumberStatistics = serde_json::from_str(&kept).expect("read");
        let bits = |numbers: NumberStatistics| [numbers.min, numbers.max, numbers.mean].map(f64::to_bits);
        assert_eq!(bits(back), bits(found));
    }

    #[test]
    fn least_greatest_and_mean_are_of_all_values() {
        assert_eq!(statistics_of(&[]), None);
        let expected = NumberStatistics { min: -3.0, max: 4.0, mean: 0.5 };
        assert_eq!(statistics_of(&[4.0, -3.0, 1.0, 0.0]), Some(expected));
    }
}
