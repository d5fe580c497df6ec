//! A Parquet file whose columns hold the join keys of a feature service, one row each. Which columns
//! these are is told by the definitions; values are cast only where nothing is lost.

use std::path::Path;

use arrow_array::{ArrayRef, RecordBatch};
use hydrant_storage::cast::to_exact;
use hydrant_storage::value::DataType;

use super::Failure;
use super::catalog::Catalog;
use super::input::ParquetInput;

/// The file, and its columns that are keys.
#[derive(Debug)]
pub struct KeyFile {
    pub input: ParquetInput,
    columns: Vec<(String, DataType)>,
}

impl KeyFile {
    /// Refuses a file that lacks one of the service's keys.
    pub fn of(input: ParquetInput, catalog: &Catalog) -> Result<Self, Failure> {
        let (types, wanted) = (catalog.key_types(), catalog.keys());
        let names = input.schema().fields().iter().map(|field| field.name().clone());
        let columns: Vec<(String, DataType)> = names
            .filter(|name| wanted.contains(name.as_str()))
            .filter_map(|name| types.type_of(&name).map(|wanted| (name, wanted)))
            .collect();
        let missing = catalog.missing_keys(|name| columns.iter().any(|(given, _)| given == name));
        if !missing.is_empty() {
            let told = format!("the service's join keys {} are no columns of the file", missing.join(", "));
            return Err(refused(input.path(), "NO_KEYS", &told).hint(catalog.keyed_by()));
        }
        Ok(Self { input, columns })
    }

    /// The names of the key columns, in the file's order.
    pub fn names(&self) -> Vec<String> {
        self.columns.iter().map(|(name, _)| name.clone()).collect()
    }

    /// The keys of some rows, in the types of the join keys. `first_row` is the batch's first in the
    /// file.
    pub fn keys_of(&self, batch: &RecordBatch, first_row: u64) -> Result<Vec<(String, ArrayRef)>, Failure> {
        let in_type = |(name, wanted): &(String, DataType)| {
            let wrong = |message: String| {
                let told = format!("column '{name}': {message}");
                refused(self.input.path(), "WRONG_KEY", &told).with("key", name)
            };
            let column =
                batch.column_by_name(name).ok_or_else(|| wrong("it is missing in a part of the file".into()))?;
            let exact = to_exact(column, *wanted).map_err(|error| wrong(error.to_string()))?;
            match exact.misfits.first() {
                Some(misfit) => Err(wrong(format!("row {}: {}", first_row + misfit.row as u64, misfit.reason))),
                None => Ok((name.clone(), exact.array)),
            }
        };
        self.columns.iter().map(in_type).collect()
    }
}

fn refused(path: &Path, reason: &str, message: &str) -> Failure {
    Failure::new(reason, format!("{}: {message}", path.display())).with("file", path.display())
}
