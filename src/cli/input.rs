//! Parquet files as commands read and write them: in record batches, never whole in memory. A file
//! that is written appears under its name only when it is complete.

use std::io;
use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use arrow_schema::{Schema, SchemaRef};
use hydrant_storage::sources::{self, ParquetFile, SourceError, Wanted};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use tempfile::NamedTempFile;
use tokio::sync::mpsc;

use super::Failure;

/// Of the rows that a written file's next group has so far.
const GROUP_BYTES: usize = 256 << 20;

/// Batches read ahead of whoever takes them.
const READ_AHEAD: usize = 4;

/// A Parquet file whose footer has been read; of a backfill, perhaps an object or a Delta table's.
#[derive(Clone, Debug)]
pub struct ParquetInput {
    path: PathBuf,
    file: ParquetFile,
}

impl ParquetInput {
    pub fn open(path: &Path) -> Result<Self, Failure> {
        Ok(Self { path: path.to_owned(), file: ParquetFile::open_local(path)? })
    }

    /// All files that paths and URLs mean, each location's in its order.
    pub async fn open_all(written: &[String], wanted: Wanted) -> Result<Vec<Self>, Failure> {
        let mut inputs = Vec::new();
        for written in written {
            let files = sources::open(written, wanted).await?;
            inputs.extend(files.into_iter().map(|file| Self { path: PathBuf::from(file.location()), file }));
        }
        Ok(inputs)
    }

    /// What messages name it by: its path, or its URL.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn schema(&self) -> &SchemaRef {
        self.file.schema()
    }

    pub fn rows(&self) -> u64 {
        self.file.rows()
    }

    /// The size of the values, decompressed, as the footer says.
    pub fn uncompressed_bytes(&self) -> u64 {
        self.file.uncompressed_bytes()
    }

    /// A hash over every byte of the file; of an object, over what tells it from every other.
    pub fn content_hash(&self) -> Result<u128, Failure> {
        Ok(self.file.content_hash()?)
    }

    /// The file's rows in its order, `rows` at a time (the last batch may be shorter), with all
    /// columns or those named.
    pub fn batches(
        &self,
        rows: usize,
        columns: Option<&[String]>,
    ) -> Result<impl Iterator<Item = Result<RecordBatch, Failure>> + Send + use<>, Failure> {
        let batches = self.file.batches_from(rows, 0, columns)?;
        Ok(batches.map(|batch| batch.map_err(Failure::from)))
    }

    /// The same with all columns, from a row on.
    pub fn batches_from(
        &self,
        rows: usize,
        first: u64,
    ) -> Result<impl Iterator<Item = Result<RecordBatch, Failure>> + Send + use<>, Failure> {
        let batches = self.file.batches_from(rows, first, None)?;
        Ok(batches.map(|batch| batch.map_err(Failure::from)))
    }

    /// All rows, decoded on a thread of its own while the receiver works on earlier ones. The
    /// thread ends when the receiver is dropped.
    pub fn read_ahead(&self, rows: usize) -> Result<mpsc::Receiver<Result<RecordBatch, Failure>>, Failure> {
        let batches = self.batches(rows, None)?;
        let (sender, receiver) = mpsc::channel(READ_AHEAD);
        tokio::task::spawn_blocking(move || {
            for batch in batches {
                let failed = batch.is_err();
                if sender.blocking_send(batch).is_err() || failed {
                    return;
                }
            }
        });
        Ok(receiver)
    }
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        let (reason, hint) = match &error {
            SourceError::Unreadable { .. } | SourceError::Nothing { .. } => ("FILE_FAILED", ""),
            SourceError::NotParquet { .. } => (
                "FILE_FAILED",
                "files are Parquet: make one of others first, such as by DuckDB: COPY (FROM 'rows.csv') TO 'rows.parquet'",
            ),
            SourceError::Changed { .. } => (
                "FILE_CHANGED",
                "run the same command again: what is there now is another load, of which nothing was taken in yet",
            ),
            SourceError::Unsupported { hint, .. } => ("FILE_UNSUPPORTED", *hint),
        };
        let failure = Self::new(reason, error.to_string()).with("file", error.location());
        if hint.is_empty() { failure } else { failure.hint(hint) }
    }
}

/// A place for a Parquet file, taken before the work whose result it is to hold.
#[derive(Debug)]
pub struct ReservedOutput {
    path: PathBuf,
    file: NamedTempFile,
}

impl ReservedOutput {
    /// Refuses what a file can't be written to: a folder, or a name in a folder that isn't there or
    /// may not be written. Nothing stays of it unless a file is finished.
    pub fn new(path: &Path) -> Result<Self, Failure> {
        if path.is_dir() {
            return Err(Failure::file(path, "be written", &"it is a folder"));
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !folder.is_dir() {
            return Err(Failure::file(path, "be written", &format!("there is no folder {}", folder.display())));
        }
        let file = tempfile::Builder::new().prefix(".hydrant-").suffix(".parquet.tmp").tempfile_in(folder);
        // The error itself names the temporary file, which says nothing to anybody.
        let file = file.map_err(|error| Failure::file(path, "be written", &error.kind()))?;
        Ok(Self { path: path.to_owned(), file })
    }

    pub fn begin(self, schema: &Schema) -> Result<ParquetOutput, Failure> {
        let level = ZstdLevel::try_new(1).expect("a level of zstd");
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
        let writer = ArrowWriter::try_new(self.file, schema.clone().into(), Some(properties))
            .map_err(|error| Failure::file(&self.path, "be written", &told(&error)))?;
        Ok(ParquetOutput { path: self.path, writer, group_bytes: GROUP_BYTES })
    }
}

/// Whether two paths lead to one file, whichever way they are written.
pub fn is_same_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let identity = |path: &Path| std::fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    identity(a).is_some_and(|file| identity(b) == Some(file))
}

/// A Parquet file that appears under its name when it is finished, or not at all.
pub struct ParquetOutput {
    path: PathBuf,
    writer: ArrowWriter<NamedTempFile>,
    /// A group of rows is ended where it takes so much memory.
    group_bytes: usize,
}

impl ParquetOutput {
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), Failure> {
        let written = self.writer.write(batch).and_then(|()| match self.writer.memory_size() < self.group_bytes {
            true => Ok(()),
            // Else the writer holds as many rows as a group may have, however wide they are.
            false => self.writer.flush(),
        });
        written.map_err(|error| Failure::file(&self.path, "be written", &told(&error)))
    }

    /// The same where it is not waited for: encoding and compressing take their time.
    pub async fn write_apart(mut self, batch: RecordBatch) -> Result<Self, Failure> {
        let written = tokio::task::spawn_blocking(move || self.write(&batch).map(|()| self)).await;
        written.map_err(|error| Failure::new("INTERNAL", format!("writing ended early: {error}")))?
    }

    /// Writes the footer, with notes beside it, and gives the file its name.
    pub fn finish(mut self, notes: Vec<(&str, String)>) -> Result<(), Failure> {
        let path = self.path;
        let failed = |error: &dyn std::fmt::Display| Failure::file(&path, "be written", error);
        for (key, value) in notes {
            self.writer.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
        }
        let file = self.writer.into_inner().map_err(|error| failed(&told(&error)))?;
        file.as_file().sync_all().map_err(|error| failed(&error))?;
        let (_, temporary) = file.keep().map_err(|error| failed(&error.error))?;
        publish(&temporary, &path).map_err(|error| {
            // What couldn't be named is of no use to anybody.
            let _ = std::fs::remove_file(&temporary);
            failed(&error)
        })
    }
}

/// Gives a finished file its name, readable as the user's other files are.
#[expect(clippy::disallowed_methods, reason = "a user's file: whole or absent, and nothing of the store's")]
fn publish(temporary: &Path, path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    // A temporary file is its owner's alone; a result is as public as a newly made file: what the
    // replaced file had, or else the usual.
    let mode = std::fs::metadata(path).map_or(0o644, |replaced| replaced.permissions().mode() & 0o777);
    std::fs::set_permissions(temporary, std::fs::Permissions::from_mode(mode))?;
    std::fs::rename(temporary, path)
}

/// Parquet's errors begin with their kind ("Parquet error: …"); what follows tells more.
fn told(error: &ParquetError) -> String {
    match error {
        ParquetError::General(message) | ParquetError::EOF(message) | ParquetError::ArrowError(message) => {
            message.clone()
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Int64Array, StringArray};
    use arrow_schema::{DataType, Field};
    use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};

    use super::*;

    fn schema() -> SchemaRef {
        let fields = vec![Field::new("id", DataType::Int64, false), Field::new("name", DataType::Utf8, true)];
        Arc::new(Schema::new(fields))
    }

    fn batch(ids: std::ops::Range<i64>) -> RecordBatch {
        let names: StringArray = ids.clone().map(|id| (id % 2 == 0).then(|| id.to_string())).collect();
        RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from_iter_values(ids)), Arc::new(names)])
            .expect("equal lengths")
    }

    fn written(folder: &Path) -> PathBuf {
        let path = folder.join("out.parquet");
        let mut output = ReservedOutput::new(&path).and_then(|file| file.begin(&schema())).expect("created");
        output.write(&batch(0..7)).expect("written");
        output.write(&batch(7..10)).expect("written");
        output.finish(vec![("note", "told".to_owned())]).expect("finished");
        path
    }

    #[test]
    fn rows_that_take_much_memory_are_written_before_there_are_many() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("out.parquet");
        let mut output = ReservedOutput::new(&path).and_then(|file| file.begin(&schema())).expect("created");
        output.group_bytes = 1;
        for row in 0..3 {
            output.write(&batch(row..row + 1)).expect("written");
        }
        output.finish(Vec::new()).expect("finished");
        let input = ParquetInput::open(&path).expect("opened");
        let file = std::fs::File::open(&path).expect("there");
        let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).expect("Parquet");
        assert_eq!((input.rows(), metadata.metadata().num_row_groups()), (3, 3));
    }

    #[test]
    fn what_is_written_is_read_back_in_batches_of_any_size() {
        let folder = tempfile::tempdir().expect("a folder");
        let input = ParquetInput::open(&written(folder.path())).expect("opened");
        assert_eq!((input.rows(), input.schema().fields().len()), (10, 2));
        let sizes = |rows, columns: Option<&[String]>| -> Vec<(usize, usize)> {
            let batches = input.batches(rows, columns).expect("readable");
            batches.map(|batch| batch.expect("sound")).map(|batch| (batch.num_rows(), batch.num_columns())).collect()
        };
        assert_eq!(sizes(4, None), [(4, 2), (4, 2), (2, 2)]);
        assert_eq!(sizes(100, Some(&["name".to_owned()])), [(10, 1)]);
    }

    #[test]
    fn an_unfinished_file_leaves_nothing_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("out.parquet");
        let mut output = ReservedOutput::new(&path).and_then(|file| file.begin(&schema())).expect("created");
        output.write(&batch(0..7)).expect("written");
        drop(output);
        assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 0);
    }

    #[test]
    fn a_place_that_no_file_can_take_is_refused_before_anything_is_made() {
        let folder = tempfile::tempdir().expect("a folder");
        for (path, told) in
            [(folder.path().join("absent/out.parquet"), "there is no folder"), (folder.path().into(), "folder")]
        {
            let failure = ReservedOutput::new(&path).expect_err("refused");
            assert!(failure.message.starts_with(&*path.to_string_lossy()), "{}", failure.message);
            assert!(failure.message.contains(told) && !failure.message.contains(".hydrant-"), "{}", failure.message);
        }
        assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 0);
    }

    #[test]
    fn one_file_is_known_by_all_its_names() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = written(folder.path());
        let link = folder.path().join("link.parquet");
        std::os::unix::fs::symlink(&path, &link).expect("linked");
        assert!(is_same_file(&path, &link) && is_same_file(&path, &folder.path().join("./out.parquet")));
        assert!(!is_same_file(&path, &folder.path().join("other.parquet")));
        assert!(!is_same_file(&folder.path().join("absent"), &folder.path().join("absent")));
    }

    #[test]
    fn the_same_bytes_have_the_same_hash_and_others_another() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = written(folder.path());
        let hash = || ParquetInput::open(&path).and_then(|input| input.content_hash()).expect("readable");
        let first = hash();
        assert_eq!(first, hash());
        let mut output = ReservedOutput::new(&path).and_then(|file| file.begin(&schema())).expect("created");
        output.write(&batch(1..8)).expect("written");
        output.finish(Vec::new()).expect("finished");
        assert_ne!(first, hash());
    }

    #[test]
    fn a_file_that_is_no_parquet_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notes.txt");
        std::fs::write(&path, "hello").expect("written");
        let failure = ParquetInput::open(&path).expect_err("refused");
        assert!(failure.message.contains("notes.txt") && failure.message.contains("Parquet"), "{}", failure.message);
        let failure = ParquetInput::open(&folder.path().join("absent.parquet")).expect_err("refused");
        assert!(failure.message.contains("absent.parquet"), "{}", failure.message);
    }
}
