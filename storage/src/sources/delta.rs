//! A Delta table of somebody else's at one version: which files it has, which columns, and what its log says
//! of each file beside its content. What would have to be read otherwise than column by name and row by row
//! (deletion vectors, mapped columns) is refused. It writes nothing.

use std::sync::Arc;

use arrow_array::{ArrayRef, StringArray, new_null_array};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, SchemaRef};
use deltalake::DeltaTable;
use deltalake::logstore::{StorageConfig, default_logstore};
use object_store::ObjectStore;
use object_store::path::Path as ObjectPath;
use object_store::prefix::PrefixStore;
use url::Url;

use super::SourceError;
use super::parquet_file::OfTable;

/// What a table may demand of its readers and be read here: of deletion vectors and mapped columns it is
/// looked at whether there are any.
const READ: [&str; 7] = [
    "columnMapping",
    "deletionVectors",
    "timestampNtz",
    "typeWidening",
    "typeWidening-preview",
    "v2Checkpoint",
    "vacuumProtocolCheck",
];

const REWRITE: &str = "rewrite the table without it (such as by REORG TABLE … APPLY (PURGE), or as a copy), or load \
                       from an export as Parquet";

/// A file of a table.
#[derive(Debug)]
pub(super) struct TableFile {
    /// In the store, not in the table.
    pub path: ObjectPath,
    pub of_table: OfTable,
}

/// The files of the table in `folder` of a store, in the order of their paths. `scheme` is that of the store's
/// URLs; `version` is the newest unless given.
pub(super) async fn files(
    store: Arc<dyn ObjectStore>,
    scheme: &str,
    folder: &ObjectPath,
    location: &str,
    version: Option<u64>,
) -> Result<Vec<TableFile>, SourceError> {
    let failed = |error: &dyn std::fmt::Display| {
        let told = format!("not a Delta table that can be read: {}", super::place::without_secrets(&error.to_string()));
        SourceError::Unreadable { location: location.to_owned(), told }
    };
    let refused = |what: String| SourceError::unsupported(location, what, REWRITE);
    // The store is given beside it, so the host is of no account; local listings have no order under others.
    let host = if scheme == "file" { "" } else { "store" };
    let url = Url::parse(&format!("{scheme}://{host}/")).map(|mut url| {
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.clear().extend(folder.parts().map(|part| part.as_ref().to_owned())).push("");
        }
        url
    });
    let url = url.map_err(|error| failed(&error))?;
    let in_table: Arc<dyn ObjectStore> = Arc::new(PrefixStore::new(store.clone(), folder.clone()));
    let mut table = DeltaTable::new(default_logstore(in_table, store, &url, &StorageConfig::default()));
    match version {
        Some(version) => table.load_version(version).await,
        None => table.load().await,
    }
    .map_err(|error| failed(&error))?;
    let state = table.snapshot().map_err(|error| failed(&error))?;
    if version.is_some_and(|version| version != state.version()) {
        return Err(SourceError::Nothing {
            location: location.to_owned(),
            told: format!("there is no such version: the newest is {}", state.version()),
        });
    }
    for feature in state.protocol().reader_features().unwrap_or_default() {
        if !READ.contains(&feature.to_string().as_str()) {
            return Err(refused(format!("the table needs '{feature}' of its readers, which isn't read here")));
        }
    }
    let mapping = state.metadata().configuration().get("delta.columnMapping.mode");
    if let Some(mode) = mapping.filter(|mode| *mode != "none") {
        return Err(refused(format!("the table's columns are mapped (mode '{mode}'), which isn't read here")));
    }
    let schema: SchemaRef = state.snapshot().arrow_schema();
    let partitions = state.metadata().partition_columns().to_vec();
    let mut files = Vec::new();
    for view in state.log_data().iter() {
        let path = view.path();
        if view.deletion_vector_descriptor().is_some() {
            return Err(refused(format!("rows of '{path}' are deleted by a deletion vector, which isn't read here")));
        }
        if path.contains("://") || path.starts_with('/') {
            return Err(refused(format!("the table has a file elsewhere, '{path}', which isn't read here")));
        }
        let values = view.partition_values_map();
        let constants = partitions.iter().map(|column| {
            let value = values.get(column).cloned().flatten();
            let value = constant(&schema, column, value.as_deref());
            value.map(|value| (column.clone(), value)).map_err(|why| {
                refused(format!("the partition value of column '{column}' of '{path}' can't be read: {why}"))
            })
        });
        let constants = constants.collect::<Result<_, _>>()?;
        let path = folder.parts().chain(view.object_store_path().parts()).collect();
        files.push(TableFile { path, of_table: OfTable { schema: schema.clone(), constants } });
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// A partition column's value as its type, an array of one.
fn constant(schema: &SchemaRef, column: &str, value: Option<&str>) -> Result<ArrayRef, String> {
    let field = schema.field_with_name(column).map_err(|error| error.to_string())?;
    let Some(value) = value.filter(|value| !value.is_empty()) else {
        return Ok(new_null_array(field.data_type(), 1));
    };
    if matches!(field.data_type(), DataType::Binary | DataType::LargeBinary | DataType::BinaryView) {
        return Err("bytes as a partition column aren't read here".to_owned());
    }
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(&StringArray::from(vec![value]), field.data_type(), &strict).map_err(|error| error.to_string())
}
