//! Two answers to the same keys, cell by cell: which features both have, whose values differ and by how
//! much, whose statuses do. It keeps counts and a few examples, whatever the number of rows.

use std::collections::BTreeMap;

use hydrant_proto::v1::CellStatus;
use hydrant_storage::value::{DataType, Value};
use serde_json::{Map, Value as Json};

/// Examples that are kept of a feature.
const EXAMPLES: usize = 3;

/// A feature of an answer.
#[derive(Debug)]
pub struct Column {
    pub name: String,
    pub data_type: DataType,
    pub cells: Vec<Cell>,
}

#[derive(Clone, Debug)]
pub struct Cell {
    pub value: Value,
    pub status: CellStatus,
}

/// What differs between two services.
#[derive(Debug)]
pub struct Comparison {
    tolerance: f64,
    pub rows: u64,
    /// In the order of the first service.
    pub features: Vec<Feature>,
    /// Columns that only one of them has.
    pub only_left: Vec<String>,
    pub only_right: Vec<String>,
}

/// A feature that both have.
#[derive(Debug)]
pub struct Feature {
    pub name: String,
    /// Their types, which may differ.
    pub types: (DataType, DataType),
    pub equal: u64,
    /// The same status, and another value.
    pub values_differ: u64,
    pub statuses_differ: u64,
    /// How many cells have which statuses, where these differ.
    pub statuses: BTreeMap<(&'static str, &'static str), u64>,
    /// Of pairs of numbers: how far they are apart.
    pub distance: Distance,
    pub examples: Vec<Example>,
}

/// How far apart pairs of finite numbers are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Distance {
    pub pairs: u64,
    pub max: f64,
    sum: f64,
}

#[derive(Debug)]
pub struct Example {
    pub key: Map<String, Json>,
    pub left: Cell,
    pub right: Cell,
}

impl Comparison {
    pub fn new(tolerance: f64) -> Self {
        let (features, only_left, only_right) = (Vec::new(), Vec::new(), Vec::new());
        Self { tolerance, rows: 0, features, only_left, only_right }
    }

    pub fn tolerance(&self) -> f64 {
        self.tolerance
    }

    /// Adds the answers to some rows. A service has the same columns in all its answers.
    pub fn add(
        &mut self,
        rows: usize,
        key: impl Fn(usize) -> Map<String, Json>,
        left: Vec<Column>,
        right: Vec<Column>,
    ) {
        let mut others: BTreeMap<String, Column> =
            right.into_iter().map(|column| (column.name.clone(), column)).collect();
        let is_first = self.rows == 0;
        for column in left {
            let Some(other) = others.remove(&column.name) else {
                if is_first {
                    self.only_left.push(column.name);
                }
                continue;
            };
            let known = self.features.iter().position(|feature| feature.name == column.name);
            let place = known.unwrap_or_else(|| {
                self.features.push(Feature::new(column.name.clone(), (column.data_type, other.data_type)));
                self.features.len() - 1
            });
            let feature = &mut self.features[place];
            for (row, (left, right)) in column.cells.into_iter().zip(other.cells).enumerate() {
                feature.add(|| key(row), left, right, self.tolerance);
            }
        }
        if is_first {
            self.only_right = others.into_keys().collect();
        }
        self.rows += rows as u64;
    }

    pub fn differs(&self) -> bool {
        !self.only_left.is_empty() || !self.only_right.is_empty() || self.features.iter().any(Feature::differs)
    }
}

impl Feature {
    fn new(name: String, types: (DataType, DataType)) -> Self {
        Self {
            name,
            types,
            equal: 0,
            values_differ: 0,
            statuses_differ: 0,
            statuses: BTreeMap::new(),
            distance: Distance::default(),
            examples: Vec::new(),
        }
    }

    fn add(&mut self, key: impl FnOnce() -> Map<String, Json>, left: Cell, right: Cell, tolerance: f64) {
        self.distance.add(&left.value, &right.value);
        if left.status != right.status {
            self.statuses_differ += 1;
            *self.statuses.entry((left.status.as_str_name(), right.status.as_str_name())).or_default() += 1;
        } else if are_equal(&left.value, &right.value, tolerance) {
            self.equal += 1;
            return;
        } else {
            self.values_differ += 1;
        }
        if self.examples.len() < EXAMPLES {
            self.examples.push(Example { key: key(), left, right });
        }
    }

    /// Another type is a difference of its own: a model may see it even where the numbers are the same.
    pub fn differs(&self) -> bool {
        self.types.0 != self.types.1 || self.values_differ + self.statuses_differ > 0
    }
}

impl Distance {
    fn add(&mut self, left: &Value, right: &Value) {
        match (left, right) {
            (Value::List(left), Value::List(right)) if left.len() == right.len() => {
                left.iter().zip(right).for_each(|(left, right)| self.add(left, right));
            }
            (Value::Vector(left), Value::Vector(right)) if left.len() == right.len() => {
                let pairs = left.iter().zip(right);
                pairs.for_each(|(left, right)| self.add(&Value::Float32(*left), &Value::Float32(*right)));
            }
            _ => {
                if let Some(apart) = apart(left, right).filter(|apart| apart.is_finite()) {
                    self.pairs += 1;
                    self.max = self.max.max(apart);
                    self.sum += apart;
                }
            }
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    pub fn mean(&self) -> f64 {
        if self.pairs == 0 { 0.0 } else { self.sum / self.pairs as f64 }
    }
}

/// Whether two values are the same, also across types of numbers: NaN is NaN, and numbers may be so far
/// apart.
fn are_equal(left: &Value, right: &Value, tolerance: f64) -> bool {
    match (left, right) {
        (Value::List(left), Value::List(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| are_equal(left, right, tolerance))
        }
        (Value::Vector(left), Value::Vector(right)) => {
            let same =
                |(left, right): (&f32, &f32)| are_equal(&Value::Float32(*left), &Value::Float32(*right), tolerance);
            left.len() == right.len() && left.iter().zip(right).all(same)
        }
        _ => match (float(left), float(right)) {
            (Some(left), Some(right)) if left.is_nan() || right.is_nan() => left.is_nan() && right.is_nan(),
            // Infinities are equal without being apart by a number.
            (Some(_), Some(_)) => {
                numbers_are_same(left, right)
                    || apart(left, right).is_some_and(|apart| apart <= tolerance && apart > 0.0)
            }
            _ => left.same_bits(right),
        },
    }
}

/// Exactly the same number, also where a float can't tell it from its neighbours.
fn numbers_are_same(left: &Value, right: &Value) -> bool {
    match (whole(left), whole(right)) {
        (Some(left), Some(right)) => left == right,
        _ => float(left) == float(right),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a distance of 64-bit integers is told as a float")]
fn apart(left: &Value, right: &Value) -> Option<f64> {
    if let (Some(left), Some(right)) = (whole(left), whole(right)) {
        return Some((left - right).unsigned_abs() as f64);
    }
    Some((float(left)? - float(right)?).abs())
}

fn whole(value: &Value) -> Option<i128> {
    match value {
        Value::Int32(number) => Some((*number).into()),
        Value::Int64(number) => Some((*number).into()),
        _ => None,
    }
}

#[expect(clippy::cast_precision_loss, reason = "compared with a float it is one")]
fn float(value: &Value) -> Option<f64> {
    match value {
        Value::Int32(number) => Some((*number).into()),
        Value::Int64(number) => Some(*number as f64),
        Value::Float32(number) => Some((*number).into()),
        Value::Float64(number) => Some(*number),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use hydrant_storage::value::ScalarType;

    use super::*;

    fn column(name: &str, values: Vec<Value>) -> Column {
        let cells = values.into_iter().map(|value| {
            let status = if matches!(value, Value::Null) { CellStatus::NotFound } else { CellStatus::Present };
            Cell { value, status }
        });
        Column { name: name.to_owned(), data_type: DataType::Scalar(ScalarType::Float64), cells: cells.collect() }
    }

    fn compared(tolerance: f64, left: Vec<Value>, right: Vec<Value>) -> Feature {
        let mut comparison = Comparison::new(tolerance);
        let rows = left.len();
        comparison.add(rows, |_| Map::new(), vec![column("f", left)], vec![column("f", right)]);
        comparison.features.remove(0)
    }

    #[test]
    fn numbers_within_the_tolerance_are_equal_and_their_distance_is_told_all_the_same() {
        let numbers = |numbers: &[f64]| numbers.iter().copied().map(Value::Float64).collect::<Vec<_>>();
        let (left, right) = (numbers(&[1.0, 2.0, f64::NAN, 5.0]), numbers(&[1.25, 2.0, f64::NAN, 6.0]));
        let feature = compared(0.5, left, right);
        assert_eq!((feature.equal, feature.values_differ, feature.statuses_differ), (3, 1, 0));
        assert!((feature.distance.max - 1.0).abs() < 1e-12 && feature.distance.pairs == 3);
        assert!((feature.distance.mean() - 1.25 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn a_number_is_the_same_in_another_type_and_large_ones_are_told_apart() {
        let same =
            compared(0.0, vec![Value::Int32(7), Value::Float32(0.5)], vec![Value::Int64(7), Value::Float64(0.5)]);
        assert_eq!(same.equal, 2);
        let large = compared(0.0, vec![Value::Int64(i64::MAX)], vec![Value::Int64(i64::MAX - 1)]);
        assert_eq!((large.values_differ, large.distance.max), (1, 1.0));
        let widest = compared(0.0, vec![Value::Int64(i64::MIN)], vec![Value::Int64(i64::MAX)]);
        assert_eq!(widest.values_differ, 1);
        let infinite = compared(
            1.0,
            vec![Value::Float64(f64::INFINITY); 2],
            vec![Value::Float64(f64::INFINITY), Value::Float64(f64::NEG_INFINITY)],
        );
        assert_eq!((infinite.equal, infinite.values_differ, infinite.distance.pairs), (1, 1, 0));
    }

    #[test]
    fn statuses_lists_and_columns_of_one_side_differ() {
        let found = compared(9.0, vec![Value::Float64(1.0), Value::Null], vec![Value::Null, Value::Null]);
        assert_eq!((found.equal, found.statuses_differ, found.examples.len()), (1, 1, 1));
        assert_eq!(found.statuses, BTreeMap::from([(("PRESENT", "NOT_FOUND"), 1)]));
        let list = |numbers: &[i64]| Value::List(numbers.iter().copied().map(Value::Int64).collect());
        let lists = compared(1.0, vec![list(&[1, 2]), list(&[1, 2])], vec![list(&[1, 3]), list(&[1])]);
        assert_eq!((lists.equal, lists.values_differ), (1, 1));

        let mut comparison = Comparison::new(0.0);
        let one = |name: &str| column(name, vec![Value::Float64(1.0)]);
        comparison.add(1, |_| Map::new(), vec![one("a"), one("b")], vec![one("b"), one("c")]);
        assert_eq!(
            (comparison.only_left.as_slice(), comparison.only_right.as_slice()),
            (&["a".to_owned()][..], &["c".to_owned()][..])
        );
        assert!(comparison.differs() && !comparison.features[0].differs());
    }
}
