//! What a location means: one file, all Parquet files of a folder in the order of their paths, or the files
//! of a Delta table. All of them are opened, several at a time.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt as _};

use super::object::Object;
use super::parquet_file::{Bytewise, OfTable, ParquetFile};
use super::place::{self, Place, StorePlace};
use super::{SourceError, delta};

/// Files of one folder or table at most.
const MAX_FILES: usize = 100_000;
/// Folders within folders.
const MAX_DEPTH: usize = 32;
/// Files that are opened at a time.
const OPENED_AT_ONCE: usize = 16;

const LOG_FOLDER: &str = "_delta_log";
const SUFFIX: &str = ".parquet";

/// As what a location is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// A folder with `_delta_log` in it is a Delta table; everything else is Parquet.
    #[default]
    Either,
    Parquet,
    Delta,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    pub format: Format,
    /// Of a Delta table; the newest unless given.
    pub delta_version: Option<u64>,
}

/// A file that was found and not opened yet.
struct Found {
    location: String,
    at: At,
    /// Its path within the folder that was named.
    within: Option<String>,
    of_table: Option<OfTable>,
}

enum At {
    Local(std::path::PathBuf),
    Object(Arc<dyn ObjectStore>, ObjectPath),
}

/// Opens all that a path or URL means, in its order: one file; of a folder, all `*.parquet` files in it and in
/// its folders in the bytewise order of their paths, but for names that begin with `_` or `.`; of a Delta
/// table, its files in the order of their paths. To be called within a runtime.
pub async fn open(written: &str, wanted: Wanted) -> Result<Vec<ParquetFile>, SourceError> {
    let (found, location, is_table) = match place::parse(written)? {
        Place::Local(path) => find_local(written, path, wanted).await?,
        Place::Store(place) => find_in_store(place, wanted).await?,
    };
    if wanted.delta_version.is_some() && !is_table {
        let told = "a version was asked for, and it is no Delta table";
        return Err(SourceError::unsupported(
            &location,
            told,
            "leave out --delta-version, or say --source-format delta",
        ));
    }
    if found.is_empty() && !is_table {
        let told = format!("there is no file in it whose name ends in {SUFFIX}");
        return Err(SourceError::Nothing { location, told });
    }
    if found.len() > MAX_FILES {
        return Err(too_many(&location));
    }
    let opened = futures::stream::iter(found).map(open_one).buffered(OPENED_AT_ONCE);
    opened.try_collect().await
}

async fn open_one(found: Found) -> Result<ParquetFile, SourceError> {
    let Found { location, at, within, of_table } = found;
    let bytes = match at {
        At::Local(path) => Bytewise::Local(path),
        At::Object(store, path) => match Object::look(store, path, location.clone()).await? {
            Some(object) => Bytewise::Object(object),
            None => return Err(SourceError::Nothing { location, told: "there is no such object".to_owned() }),
        },
    };
    let name = location.clone();
    let file = tokio::task::spawn_blocking(move || ParquetFile::open(location, bytes, of_table)).await;
    let file = file.map_err(|error| SourceError::unreadable(&name, &error))??;
    if let Some(column) = within.as_deref().and_then(|within| column_of_folders(within, &file)) {
        let told = format!("the folders' names hold the column '{column}', which the file has not");
        let hint = "load it as a Delta table, or write the column into the files";
        return Err(SourceError::unsupported(&name, told, hint));
    }
    Ok(file)
}

/// A column that folders such as `day=2024-01-01` give, and the file does not have.
fn column_of_folders(within: &str, file: &ParquetFile) -> Option<String> {
    let (folders, _) = within.rsplit_once('/')?;
    let columns = folders.split('/').filter_map(|folder| folder.split_once('=')).map(|(column, _)| column);
    columns.map(str::to_owned).find(|column| file.schema().field_with_name(column).is_err())
}

fn too_many(location: &str) -> SourceError {
    let told = format!("there are more than {MAX_FILES} files in it");
    SourceError::unsupported(location, told, "load it in parts, folder by folder")
}

fn is_hidden(name: &str) -> bool {
    name.starts_with(['_', '.'])
}

async fn find_local(
    written: &str,
    path: std::path::PathBuf,
    wanted: Wanted,
) -> Result<(Vec<Found>, String, bool), SourceError> {
    let location = path.display().to_string();
    let failed = |error: &dyn std::fmt::Display| SourceError::unreadable(&location, error);
    let is_folder = path.is_dir();
    let is_table = match wanted.format {
        Format::Either => is_folder && path.join(LOG_FOLDER).is_dir(),
        Format::Parquet => false,
        Format::Delta => true,
    };
    if is_table {
        let store: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new());
        let folder = ObjectPath::from_filesystem_path(&path).map_err(|error| failed(&error))?;
        let files = delta::files(store.clone(), "file", &folder, &location, wanted.delta_version).await?;
        let found = files.into_iter().map(|file| {
            let relative: Vec<String> =
                file.path.parts().skip(folder.parts().count()).map(|part| part.as_ref().to_owned()).collect();
            let at = path.join(relative.join("/"));
            Found { location: at.display().to_string(), at: At::Local(at), within: None, of_table: Some(file.of_table) }
        });
        return Ok((found.collect(), location, true));
    }
    if !is_folder {
        let (name, at) = (written.to_owned(), At::Local(path.clone()));
        return Ok((vec![Found { location: name, at, within: None, of_table: None }], location, false));
    }
    let mut found = BTreeSet::new();
    walk(&path, "", 0, &mut found).map_err(|error| failed(&error))?;
    let found = found.into_iter().map(|within| {
        let at = path.join(&within);
        Found { location: at.display().to_string(), at: At::Local(at), within: Some(within), of_table: None }
    });
    Ok((found.collect(), location, false))
}

/// The paths of all Parquet files in a folder, relative to the first.
fn walk(folder: &Path, within: &str, depth: usize, found: &mut BTreeSet<String>) -> std::io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(std::io::Error::other(format!("its folders are more than {MAX_DEPTH} deep")));
    }
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry
            .file_name()
            .into_string()
            .map_err(|name| std::io::Error::other(format!("the name {} in it is no text", name.display())))?;
        if is_hidden(&name) {
            continue;
        }
        let within = if within.is_empty() { name.clone() } else { format!("{within}/{name}") };
        if std::fs::metadata(entry.path())?.is_dir() {
            walk(&entry.path(), &within, depth + 1, found)?;
        } else if name.ends_with(SUFFIX) {
            found.insert(within);
        }
        if found.len() > MAX_FILES {
            return Ok(());
        }
    }
    Ok(())
}

async fn find_in_store(place: StorePlace, wanted: Wanted) -> Result<(Vec<Found>, String, bool), SourceError> {
    let location = place.name_of(&place.path);
    let StorePlace { store, path, is_folder, .. } = &place;
    let failed = |error: object_store::Error| SourceError::unreadable(&location, &error);
    let object = |path: ObjectPath, within, of_table| Found {
        location: place.name_of(&path),
        at: At::Object(store.clone(), path),
        within,
        of_table,
    };
    if !is_folder && !path.as_ref().is_empty() && wanted.format != Format::Delta {
        match store.head(path).await {
            Ok(_) => return Ok((vec![object(path.clone(), None, None)], location, false)),
            Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    let is_table = match wanted.format {
        Format::Parquet => false,
        Format::Delta => true,
        Format::Either => {
            let log = path.clone().join(LOG_FOLDER);
            store.list(Some(&log)).next().await.transpose().map_err(failed)?.is_some()
        }
    };
    if is_table {
        let scheme = location.split("://").next().unwrap_or_default();
        let files = delta::files(store.clone(), scheme, path, &location, wanted.delta_version).await?;
        let found = files.into_iter().map(|file| object(file.path, None, Some(file.of_table)));
        return Ok((found.collect(), location.clone(), true));
    }
    let mut found = BTreeSet::new();
    let mut listed = store.list(Some(path));
    let depth = path.parts().count();
    while let Some(meta) = listed.next().await.transpose().map_err(failed)? {
        let within: Vec<String> = meta.location.parts().skip(depth).map(|part| part.as_ref().to_owned()).collect();
        if within.iter().any(|name| is_hidden(name)) || !meta.location.as_ref().ends_with(SUFFIX) {
            continue;
        }
        found.insert((within.join("/"), meta.location));
        if found.len() > MAX_FILES {
            return Err(too_many(&location));
        }
    }
    let found = found.into_iter().map(|(within, path)| object(path, Some(within), None)).collect();
    Ok((found, location.clone(), false))
}
