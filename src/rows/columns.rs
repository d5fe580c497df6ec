//! A request's columns against those that its source declares: every declared column is found and
//! cast to its exact type, or is absent where it may be; all that is wrong is told at once.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch, cast::AsArray};
use hydrant_storage::cast::{Exact, micros_of, to_exact};
use hydrant_storage::names::Name;
use hydrant_storage::value::{DataType, ScalarType};

use super::DELETED_COLUMN;
use super::bad_rows::BadRows;
use super::times::TimeColumn;
use crate::error::{Error, Result, Violation};
use crate::registry::catalog::{Source, TenantCatalog};
use crate::registry::definition::KnownTimeRule;

/// The columns of a batch by name, each of the exact type that the source declares.
#[derive(Debug)]
pub struct SourceColumns {
    columns: BTreeMap<Name, ArrayRef>,
    pub deleted: Option<BooleanArray>,
}

impl SourceColumns {
    /// Checks and casts. Needed: the event time, the column of `rule`, and every join key of the
    /// source's views; another declared column may be missing, and is then null.
    pub fn read(
        source: &Source,
        rule: &KnownTimeRule,
        batch: &RecordBatch,
        ignore_extra: bool,
        bad_rows: &mut BadRows,
    ) -> Result<Self> {
        let (mut wrong, mut extra, mut missing) = (Vec::new(), 0, 0);
        let needed = needed_columns(source, rule, &mut wrong);
        let mut columns = BTreeMap::new();
        let mut deleted = None;
        let mut seen = BTreeSet::new();
        let schema = batch.schema();
        for (field, array) in schema.fields().iter().zip(batch.columns()) {
            let name = field.name().as_str();
            if !seen.insert(name) {
                wrong.push(violation(name, "the column is given twice".to_owned()));
                continue;
            }
            if name == DELETED_COLUMN {
                deleted = read_deleted(array, bad_rows, &mut wrong);
                continue;
            }
            let Some(declared) = source.columns.iter().find(|column| column.name.as_str() == name) else {
                if !ignore_extra {
                    wrong.push(violation(name, "the source does not declare this column".to_owned()));
                    extra += 1;
                }
                continue;
            };
            match to_exact(array, declared.data_type) {
                Ok(Exact { array, misfits }) => {
                    for misfit in misfits {
                        bad_rows.add(misfit.row, name, || misfit.reason);
                    }
                    columns.insert(declared.name.clone(), array);
                }
                Err(lossy) => wrong.push(violation(name, lossy.to_string())),
            }
        }
        for name in needed {
            if !seen.contains(name.as_str()) {
                wrong.push(violation(name.as_str(), "the column is missing".to_owned()));
                missing += 1;
            }
        }
        if wrong.is_empty() {
            return Ok(Self { columns, deleted });
        }
        let hint = match (wrong.len(), extra, missing) {
            (all, extra, _) if all == extra => Some(
                "declare them in the source, or leave them out: `ignore_extra` of a request, `--ignore-extra` of `hydrant ingest`"
                    .to_owned(),
            ),
            (_, _, 1..) => Some(format!("columns are found by their names; the source has {}", names_of(source))),
            _ => None,
        };
        let what = format!("the columns don't fit source '{}'", source.name);
        let error = Error::wrong_places("BAD_COLUMNS", what, wrong).with("source", &source.name);
        Err(hint.into_iter().fold(error, Error::hint))
    }

    /// A column of times, which was declared as such and was needed.
    pub fn times<'a>(&'a self, name: &'a Name) -> Result<TimeColumn<'a>> {
        let gone = || Error::internal(format!("column '{name}' was checked and is gone"));
        let array = self.get(name).ok_or_else(gone)?;
        let other = || Error::internal(format!("column '{name}' is declared as no timestamp"));
        let micros = micros_of(array).ok_or_else(other)?;
        Ok(TimeColumn { name: name.as_str(), micros, nulls: array.nulls() })
    }

    pub fn get(&self, name: &Name) -> Option<&ArrayRef> {
        self.columns.get(name)
    }

    /// The column as `wanted`, where the request has it; `wanted` may be wider than declared, or a
    /// vector of a declared list.
    pub fn get_as(&self, name: &Name, wanted: DataType, bad_rows: &mut BadRows) -> Result<Option<ArrayRef>> {
        let Some(array) = self.columns.get(name) else { return Ok(None) };
        let cast = to_exact(array, wanted);
        let exact = cast.map_err(|lossy| Error::internal(format!("column '{name}' of a checked source: {lossy}")))?;
        for misfit in exact.misfits {
            bad_rows.add(misfit.row, name.as_str(), || misfit.reason);
        }
        Ok(Some(exact.array))
    }

    /// By name, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &ArrayRef)> {
        self.columns.iter()
    }
}

pub fn source_of<'a>(tenant: &'a TenantCatalog, name: &str) -> Result<&'a Source> {
    let source = tenant.sources.get(name).map(AsRef::as_ref);
    source.ok_or_else(|| Error::not_found("SOURCE_NOT_FOUND", format!("there is no source '{name}'")))
}

fn needed_columns(source: &Source, rule: &KnownTimeRule, wrong: &mut Vec<Violation>) -> BTreeSet<Name> {
    let mut needed = BTreeSet::from([source.event_time.clone()]);
    if let KnownTimeRule::Column(column) = rule {
        let declared = source.columns.iter().find(|declared| declared.name == *column);
        match declared.map(|declared| declared.data_type) {
            Some(DataType::Scalar(ScalarType::Timestamp)) => {
                needed.insert(column.clone());
            }
            Some(other) => {
                wrong.push(violation(column.as_str(), format!("a known time must be a timestamp, not {other}")));
            }
            None => wrong
                .push(violation(column.as_str(), "the known time's column is not declared by the source".to_owned())),
        }
    }
    needed.extend(source.views.iter().flat_map(|view| view.join_keys.iter().map(|key| key.name.clone())));
    needed
}

fn read_deleted(array: &ArrayRef, bad_rows: &mut BadRows, wrong: &mut Vec<Violation>) -> Option<BooleanArray> {
    let cast = to_exact(array, DataType::Scalar(ScalarType::Bool));
    let exact = match cast {
        Ok(exact) => exact.array,
        Err(lossy) => {
            wrong.push(violation(DELETED_COLUMN, lossy.to_string()));
            return None;
        }
    };
    for row in (0..exact.len()).filter(|row| exact.is_null(*row)) {
        bad_rows.add(row, DELETED_COLUMN, || "null is neither true nor false".to_owned());
    }
    Some(exact.as_boolean().clone())
}

fn violation(column: &str, message: String) -> Violation {
    Violation { path: format!("columns.{column}"), message }
}

fn names_of(source: &Source) -> String {
    source.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ")
}
