//! The entity keys that online reads are about: rows of a file, or values and ranges given on the
//! command line, in the types that the registry tells; and requests out of them, encoded beforehand.
//! Keys are drawn by a seed: two runs with the same options send the same requests.

use std::path::Path;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, Int32Array, Int64Array, StringArray, UInt64Array};
use bytes::Bytes;
use hydrant_proto::v1;
use hydrant_storage::cast::to_exact;
use hydrant_storage::value::{DataType, ScalarType};

use super::super::input::ParquetInput;
use super::super::keys::{KeyArgument, KeyTypes};
use super::super::{Failure, output};
use crate::bench::random::{Choice, Keys};
use crate::rpc::client::lean::encode_read;
use crate::rpc::wire::columns::encode_column;

/// `--key`: a join key and what it may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValues {
    name: String,
    values: String,
}

/// Where keys come from.
#[derive(Debug)]
pub struct KeySource {
    columns: Vec<KeyColumn>,
    /// Rows that go together; `None` where each key is drawn by itself.
    rows: Option<u64>,
}

/// A request column and the keys that it may hold.
#[derive(Debug)]
struct KeyColumn {
    name: String,
    values: Values,
    /// One value for all rows of a request.
    shared: bool,
}

#[derive(Debug)]
enum Values {
    Listed(ArrayRef),
    /// Whole numbers from `first` on.
    Range {
        first: i64,
        count: u64,
        scalar: ScalarType,
    },
    /// Texts with such a number in them.
    Text {
        before: String,
        first: i64,
        count: u64,
        after: String,
    },
}

/// How requests are made of keys.
#[derive(Clone, Copy, Debug)]
pub struct Drawing {
    /// Rows of one request.
    pub candidates: usize,
    pub choice: Choice,
    pub seed: u64,
}

/// Keys of a file, at most: they are held in memory.
const MAX_FILE_ROWS: u64 = 20_000_000;
const FILE_BATCH: usize = 65_536;
/// Requests that are encoded beforehand, and their bytes, at most.
const MAX_REQUESTS: usize = 1_000_000;
const MAX_REQUEST_BYTES: usize = 128 << 20;

/// Reads `user_id=0..1000000`, `origin=EWR,JFK,LGA` or `device=phone-{0..5000}`.
pub fn parse(text: &str) -> Result<KeyValues, String> {
    match text.split_once('=') {
        Some((name, values)) if !name.is_empty() && !values.is_empty() => {
            Ok(KeyValues { name: name.to_owned(), values: values.to_owned() })
        }
        _ => Err(format!("'{text}' is no KEY=VALUES")),
    }
}

impl KeySource {
    /// The columns of a file that are named like the service's request columns.
    pub fn of_file(path: &Path, wanted: &[String], shared: &[String], types: &KeyTypes) -> Result<Self, Failure> {
        let input = ParquetInput::open(path)?;
        let refused = |reason: &str, message: String| {
            Failure::new(reason, format!("{}: {message}", path.display())).with("file", path.display())
        };
        let missing: Vec<&str> =
            wanted.iter().filter(|name| input.schema().column_with_name(name).is_none()).map(String::as_str).collect();
        if !missing.is_empty() {
            let message = format!("the service's join keys {} are no columns of the file", missing.join(", "));
            return Err(refused("NO_KEYS", message));
        }
        if input.rows() == 0 || input.rows() > MAX_FILE_ROWS {
            let (rows, most) = (output::counted(input.rows(), "row"), output::count(MAX_FILE_ROWS));
            return Err(refused("TOO_MANY_KEYS", format!("{rows}; a benchmark takes keys from 1 to {most} rows")));
        }
        let mut pieces: Vec<Vec<ArrayRef>> = vec![Vec::new(); wanted.len()];
        for batch in input.batches(FILE_BATCH, Some(wanted))? {
            let batch = batch?;
            for (name, pieces) in wanted.iter().zip(&mut pieces) {
                let wrong = |message: String| refused("WRONG_KEY", format!("column '{name}': {message}"));
                let column = batch.column_by_name(name).ok_or_else(|| wrong("it can't be read".to_owned()))?;
                let exact = to_exact(column, type_of(name, types)?).map_err(|error| wrong(error.to_string()))?;
                if let Some(misfit) = exact.misfits.first() {
                    return Err(wrong(format!("row {} of a batch: {}", misfit.row, misfit.reason)).with("key", name));
                }
                pieces.push(exact.array);
            }
        }
        let column = |(name, pieces): (&String, Vec<ArrayRef>)| {
            let pieces: Vec<&dyn Array> = pieces.iter().map(AsRef::as_ref).collect();
            let joined = arrow_select::concat::concat(&pieces);
            let joined = joined.map_err(|error| refused("TOO_MANY_KEYS", format!("column '{name}': {error}")))?;
            Ok(KeyColumn { name: name.clone(), values: Values::Listed(joined), shared: shared.contains(name) })
        };
        let columns = wanted.iter().zip(pieces).map(column).collect::<Result<_, Failure>>()?;
        Ok(Self { columns, rows: Some(input.rows()) })
    }

    /// Keys as the arguments give them, one for each of the service's request columns.
    pub fn of_arguments(
        given: &[KeyValues],
        wanted: &[String],
        shared: &[String],
        types: &KeyTypes,
    ) -> Result<Self, Failure> {
        let column = |name: &String| {
            let mut of_name = given.iter().filter(|key| key.name == *name);
            let key = of_name.next().ok_or_else(|| {
                Failure::new("NO_KEYS", format!("the service needs the join key '{name}', and no --key gives it"))
                    .hint(format!("the service's join keys are: {}", wanted.join(", ")))
                    .with("key", name)
            })?;
            if of_name.next().is_some() {
                return Err(Failure::new("KEYS_DIFFER", format!("two --key give '{name}'")).with("key", name));
            }
            let values = Values::parse(key, types)?;
            Ok(KeyColumn { name: name.clone(), values, shared: shared.contains(name) })
        };
        if let Some(unknown) = given.iter().find(|key| !wanted.contains(&key.name)) {
            let message = format!("'{}' is no join key of the service", unknown.name);
            return Err(Failure::new("UNKNOWN_KEY", message)
                .hint(format!("the service's join keys are: {}", wanted.join(", ")))
                .with("key", &unknown.name));
        }
        Ok(Self { columns: wanted.iter().map(column).collect::<Result<_, Failure>>()?, rows: None })
    }

    /// How many keys there are, in words.
    pub fn described(&self) -> String {
        match self.rows {
            Some(rows) => format!("{} of keys", output::counted(rows, "row")),
            None => {
                let column =
                    |column: &KeyColumn| format!("{} of {}", output::count(column.values.count()), column.name);
                self.columns.iter().map(column).collect::<Vec<_>>().join(", ")
            }
        }
    }

    /// The greatest number of keys that one column may hold.
    pub fn keys(&self) -> u64 {
        self.rows.unwrap_or_else(|| self.columns.iter().map(|column| column.values.count()).max().unwrap_or(0))
    }

    /// Encoded requests to the service: as many as asked for, or fewer where they would take too
    /// much memory.
    pub fn requests(&self, service: &str, drawing: Drawing, wanted: usize) -> Result<Vec<Bytes>, Failure> {
        let mut draws: Vec<Keys> = match self.rows {
            Some(rows) => vec![Keys::new(drawing.choice, rows, drawing.seed)],
            None => (drawing.seed..)
                .zip(&self.columns)
                .map(|(seed, column)| Keys::new(drawing.choice, column.values.count(), seed))
                .collect(),
        };
        let (mut requests, mut bytes) = (Vec::new(), 0);
        while requests.len() < wanted.clamp(1, MAX_REQUESTS) && bytes < MAX_REQUEST_BYTES {
            let drawn: Vec<Vec<u64>> =
                draws.iter_mut().map(|keys| (0..drawing.candidates).map(|_| keys.draw()).collect()).collect();
            let entities = self.columns.iter().enumerate().map(|(index, column)| {
                // Keys of a file go together; others are drawn each by itself.
                let places = &drawn[if self.rows.is_some() { 0 } else { index }];
                let places = if column.shared { &places[..1] } else { places };
                encode_column(&column.name, &column.values.gather(places)?).map_err(Failure::from)
            });
            let request = v1::GetOnlineFeaturesRequest {
                services: vec![service.to_owned()],
                entities: entities.collect::<Result<_, Failure>>()?,
                ..Default::default()
            };
            let request = encode_read(&request);
            bytes += request.len();
            requests.push(request);
        }
        Ok(requests)
    }
}

impl Values {
    fn parse(key: &KeyValues, types: &KeyTypes) -> Result<Self, Failure> {
        let KeyValues { name, values } = key;
        let DataType::Scalar(scalar) = type_of(name, types)? else {
            return Err(Failure::new("WRONG_KEY", format!("'{name}' has a type that no key has")).with("key", name));
        };
        let wrong = |message: String| Failure::new("WRONG_KEY", format!("--key {name}: {message}")).with("key", name);
        match scalar {
            ScalarType::Int32 | ScalarType::Int64 if values.contains("..") => {
                let (first, count) = range(values).map_err(wrong)?;
                let least = i64::from(i32::MIN);
                let most = i64::from(i32::MAX);
                if scalar == ScalarType::Int32 && (first < least || first.saturating_add_unsigned(count - 1) > most) {
                    return Err(wrong(format!("'{values}' goes beyond int32")));
                }
                Ok(Self::Range { first, count, scalar })
            }
            ScalarType::String if values.contains('{') => {
                let inside = values.split_once('{').and_then(|(before, rest)| {
                    let (inside, after) = rest.split_once('}')?;
                    Some((before, inside, after))
                });
                let (before, inside, after) = inside.ok_or_else(|| wrong(format!("'{values}' has no '}}'")))?;
                let (first, count) = range(inside).map_err(wrong)?;
                Ok(Self::Text { before: before.to_owned(), first, count, after: after.to_owned() })
            }
            _ => {
                let listed = split(values).map(|value| KeyArgument(vec![(name.clone(), value)])).collect::<Vec<_>>();
                let mut columns = types.columns(&listed)?;
                let (_, column) = columns.pop().ok_or_else(|| wrong("it has no values".to_owned()))?;
                Ok(Self::Listed(column))
            }
        }
    }

    fn count(&self) -> u64 {
        match self {
            Self::Listed(values) => values.len() as u64,
            Self::Range { count, .. } | Self::Text { count, .. } => *count,
        }
    }

    fn gather(&self, places: &[u64]) -> Result<ArrayRef, Failure> {
        let number = |first: &i64, place: &u64| first.saturating_add_unsigned(*place);
        Ok(match self {
            Self::Listed(values) => {
                let places = UInt64Array::from(places.to_vec());
                arrow_select::take::take(values, &places, None)
                    .map_err(|error| Failure::new("INTERNAL", format!("keys can't be gathered: {error}")))?
            }
            Self::Range { first, scalar: ScalarType::Int32, .. } => {
                let narrow = |place| i32::try_from(number(first, place)).expect("the range was checked");
                Arc::new(places.iter().map(narrow).collect::<Vec<i32>>().into_iter().collect::<Int32Array>())
            }
            Self::Range { first, .. } => {
                Arc::new(Int64Array::from_iter_values(places.iter().map(|place| number(first, place))))
            }
            Self::Text { before, first, after, .. } => {
                let text = |place| format!("{before}{}{after}", number(first, place));
                Arc::new(StringArray::from_iter_values(places.iter().map(text)))
            }
        })
    }
}

/// `A..B`: the first number, and how many there are before `B`.
fn range(text: &str) -> Result<(i64, u64), String> {
    let ends = text.split_once("..").and_then(|(from, to)| from.parse::<i64>().ok().zip(to.parse::<i64>().ok()));
    let (from, to) = ends.ok_or_else(|| format!("'{text}' is no range A..B of whole numbers"))?;
    if from >= to {
        return Err(format!("the range '{text}' is empty: it goes up to, but not including, its end"));
    }
    Ok((from, to.abs_diff(from)))
}

/// Values between commas; `\,` is a comma in a value.
fn split(values: &str) -> impl Iterator<Item = String> + use<> {
    let mut split = vec![String::new()];
    let mut characters = values.chars();
    while let Some(character) = characters.next() {
        match character {
            ',' => split.push(String::new()),
            '\\' => split.last_mut().expect("there is one").extend(characters.next()),
            other => split.last_mut().expect("there is one").push(other),
        }
    }
    split.into_iter()
}

fn type_of(name: &str, types: &KeyTypes) -> Result<DataType, Failure> {
    types
        .type_of(name)
        .ok_or_else(|| Failure::new("UNKNOWN_KEY", format!("'{name}' is no join key of any entity")).with("key", name))
}
