//! A Parquet file, local or an object, or one of a Delta table's: opened by its footer, told from every
//! other by what it holds, and read in batches from any row on.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, UInt32Array, new_null_array};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use tokio::runtime::Handle;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::SourceError;
use super::object::{Object, ObjectReader, Reading};

/// A footer of more is not read.
const LONGEST_FOOTER: u64 = 256 << 20;
/// Its length and the magic number stand behind a footer.
const TRAILER: u64 = 8;
/// The magic number, and that of a file whose footer is encrypted.
const MAGICS: [&[u8]; 2] = [b"PAR1", b"PARE"];

/// Where a file's bytes are.
#[derive(Clone, Debug)]
pub(super) enum Bytewise {
    Local(PathBuf),
    Object(Object),
}

/// What a table says of a file beside what is in it.
#[derive(Clone, Debug)]
pub(super) struct OfTable {
    /// The table's columns; the file may lack some, or have narrower ones.
    pub schema: SchemaRef,
    /// Columns that have one value for the whole file, each an array of one.
    pub constants: Vec<(String, ArrayRef)>,
}

/// A Parquet file whose footer has been read. It isn't kept open, and its footer isn't kept.
#[derive(Clone, Debug)]
pub struct ParquetFile {
    location: String,
    bytes: Bytewise,
    rows: u64,
    uncompressed_bytes: u64,
    schema: SchemaRef,
    footer: u128,
    of_table: Option<Arc<OfTable>>,
}

impl ParquetFile {
    /// Reads the footer; blocks. `location` is how messages name it.
    pub(super) fn open(location: String, bytes: Bytewise, of_table: Option<OfTable>) -> Result<Self, SourceError> {
        let reader = Reader::of(&bytes, &location)?;
        let (metadata, footer) = reader.metadata(&location, None)?;
        let groups = metadata.metadata().row_groups();
        let rows = u64::try_from(metadata.metadata().file_metadata().num_rows()).unwrap_or(0);
        let uncompressed_bytes = groups.iter().map(|group| u64::try_from(group.total_byte_size()).unwrap_or(0)).sum();
        let schema = of_table.as_ref().map_or_else(|| metadata.schema().clone(), |table| table.schema.clone());
        Ok(Self { location, bytes, rows, uncompressed_bytes, schema, footer, of_table: of_table.map(Arc::new) })
    }

    /// Opens a file of this machine; blocks.
    pub fn open_local(path: &std::path::Path) -> Result<Self, SourceError> {
        Self::open(path.display().to_string(), Bytewise::Local(path.to_owned()), None)
    }

    /// Its path or URL.
    pub fn location(&self) -> &str {
        &self.location
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The size of the values, decompressed, as the footer says.
    pub fn uncompressed_bytes(&self) -> u64 {
        self.uncompressed_bytes
    }

    /// A hash that no other content has: of a local file over every byte of it; of an object over its
    /// address, size, entity tag and footer, since all its bytes would have to be fetched for it. Blocks.
    pub fn content_hash(&self) -> Result<u128, SourceError> {
        let of_file = match &self.bytes {
            Bytewise::Local(path) => {
                hash_file(path).map_err(|error| SourceError::unreadable(&self.location, &error))?
            }
            Bytewise::Object(object) => xxh3_128(format!("{}\0{:032x}", object.identity(), self.footer).as_bytes()),
        };
        let Some(table) = &self.of_table else { return Ok(of_file) };
        let of_table = format!("{of_file:032x}\0{:?}\0{:?}", table.schema.fields(), table.constants);
        Ok(xxh3_128(of_table.as_bytes()))
    }

    /// The rows from `first` on in the file's order, `rows` at a time (the last batch may be shorter), with all
    /// columns or those named. Reading blocks.
    pub fn batches_from(&self, rows: usize, first: u64, columns: Option<&[String]>) -> Result<Batches, SourceError> {
        let reader = Reader::of(&self.bytes, &self.location)?;
        let (metadata, footer) = reader.metadata(&self.location, self.of_table.as_deref())?;
        if footer != self.footer {
            return Err(SourceError::Changed { location: self.location.clone() });
        }
        let mut skipped = 0;
        let groups = metadata.metadata().row_groups().iter().enumerate();
        let wanted = groups.skip_while(|(_, group)| {
            let rows = u64::try_from(group.num_rows()).unwrap_or(0);
            let is_before = skipped + rows <= first;
            skipped += if is_before { rows } else { 0 };
            is_before
        });
        let wanted: Vec<usize> = wanted.map(|(index, _)| index).collect();
        let offset = usize::try_from(first.saturating_sub(skipped)).unwrap_or(usize::MAX);
        let reader = reader.of_groups(&metadata, &wanted)?;
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(reader.clone(), metadata);
        let mut builder = builder.with_batch_size(rows).with_row_groups(wanted).with_offset(offset);
        if let (Some(columns), None) = (columns, &self.of_table) {
            let names = columns.iter().map(String::as_str);
            let mask = ProjectionMask::columns(builder.parquet_schema(), names);
            builder = builder.with_projection(mask);
        }
        let inner = builder.build().map_err(|error| reader.not_parquet(&self.location, &told(&error)))?;
        let columns = columns.map(<[String]>::to_vec).filter(|_| self.of_table.is_some());
        Ok(Batches { location: self.location.clone(), inner, reader, of_table: self.of_table.clone(), columns })
    }
}

fn hash_file(path: &std::path::Path) -> io::Result<u128> {
    let mut file = File::open(path)?;
    let mut hasher = Xxh3::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.digest128()),
            length => hasher.update(&buffer[..length]),
        }
    }
}

/// The rows of a file.
pub struct Batches {
    location: String,
    inner: ParquetRecordBatchReader,
    reader: Reader,
    of_table: Option<Arc<OfTable>>,
    columns: Option<Vec<String>>,
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, SourceError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.inner.next()?;
        let batch = batch.map_err(|error| self.reader.not_parquet(&self.location, &error));
        Some(match &self.of_table {
            None => batch,
            Some(table) => batch.and_then(|batch| table.fitted(&self.location, &batch)).and_then(|batch| {
                let Some(columns) = &self.columns else { return Ok(batch) };
                let indices: Vec<usize> =
                    columns.iter().filter_map(|name| batch.schema().index_of(name).ok()).collect();
                batch.project(&indices).map_err(|error| SourceError::unreadable(&self.location, &error))
            }),
        })
    }
}

impl OfTable {
    /// A batch of a file with the columns of its table.
    fn fitted(&self, location: &str, batch: &RecordBatch) -> Result<RecordBatch, SourceError> {
        let rows = batch.num_rows();
        let columns = self.schema.fields().iter().map(|field| self.column(location, batch, field));
        let columns: Vec<ArrayRef> = columns.collect::<Result<_, _>>()?;
        let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .map_err(|error| SourceError::unreadable(location, &error))
    }

    fn column(&self, location: &str, batch: &RecordBatch, field: &Field) -> Result<ArrayRef, SourceError> {
        let (name, rows) = (field.name(), batch.num_rows());
        let failed = |error: arrow_schema::ArrowError| {
            let told = format!("its column '{name}' doesn't fit the table's: {error}");
            SourceError::Unreadable { location: location.to_owned(), told }
        };
        if let Some((_, value)) = self.constants.iter().find(|(column, _)| column == name) {
            let first = UInt32Array::from(vec![0; rows]);
            return arrow_select::take::take(value.as_ref(), &first, None).map_err(failed);
        }
        match column_of(batch.schema_ref(), name) {
            Some(index) if batch.column(index).data_type() == field.data_type() => Ok(batch.column(index).clone()),
            Some(index) => {
                let strict = CastOptions { safe: false, ..CastOptions::default() };
                cast_with_options(batch.column(index), field.data_type(), &strict).map_err(failed)
            }
            // It was added to the table after the file was written.
            None => Ok(new_null_array(field.data_type(), rows)),
        }
    }
}

/// A column by its name; Delta's names are the same whatever their case.
fn column_of(schema: &Schema, name: &str) -> Option<usize> {
    let exact = schema.fields().iter().position(|field| field.name() == name);
    exact.or_else(|| schema.fields().iter().position(|field| field.name().eq_ignore_ascii_case(name)))
}

/// A file's bytes, open.
#[derive(Clone, Debug)]
enum Reader {
    Local(Arc<File>),
    Object(ObjectReader),
}

impl Reader {
    fn of(bytes: &Bytewise, location: &str) -> Result<Self, SourceError> {
        match bytes {
            Bytewise::Local(path) => {
                let file = File::open(path).map_err(|error| SourceError::unreadable(location, &error))?;
                Ok(Self::Local(Arc::new(file)))
            }
            Bytewise::Object(object) => Ok(Self::Object(ObjectReader::new(object.clone(), Handle::current()))),
        }
    }

    /// What the footer says, with its hash.
    fn metadata(&self, location: &str, of_table: Option<&OfTable>) -> Result<(ArrowReaderMetadata, u128), SourceError> {
        let failed = |error: &ParquetError| self.not_parquet(location, &told(error));
        let length = self.len();
        let trailer = match length.checked_sub(TRAILER) {
            Some(start) => self.get_bytes(start, TRAILER as usize).map_err(|error| failed(&error))?,
            None => return Err(self.not_parquet(location, &"it is too short to be Parquet")),
        };
        // In another file the four bytes before these are no length.
        if !MAGICS.contains(&&trailer[4..]) {
            return Err(self.not_parquet(location, &"it doesn't end as Parquet files do"));
        }
        let footer = u64::from(u32::from_le_bytes([trailer[0], trailer[1], trailer[2], trailer[3]]));
        if footer > LONGEST_FOOTER {
            return Err(self.not_parquet(location, &format!("its footer would have {footer} bytes")));
        }
        // Whatever else may be wrong is for Parquet's reader to tell.
        let metadata = ArrowReaderMetadata::load(self, ArrowReaderOptions::new()).map_err(|error| failed(&error))?;
        let start = length.saturating_sub(TRAILER + footer);
        let end = self.get_bytes(start, usize::try_from(length - start).unwrap_or(0));
        let footer = xxh3_128(&end.map_err(|error| failed(&error))?);
        let Some(schema) = of_table.and_then(|table| whole_times(metadata.schema(), &table.schema)) else {
            return Ok((metadata, footer));
        };
        let options = ArrowReaderOptions::new().with_schema(Arc::new(schema));
        let metadata = ArrowReaderMetadata::try_new(metadata.metadata().clone(), options);
        Ok((metadata.map_err(|error| failed(&error))?, footer))
    }

    fn of_groups(&self, metadata: &ArrowReaderMetadata, groups: &[usize]) -> Result<Self, SourceError> {
        match self {
            Self::Local(_) => Ok(self.clone()),
            Self::Object(reader) => Ok(Self::Object(reader.of_groups(metadata.metadata(), groups)?)),
        }
    }

    /// What is wrong with a file, where Parquet's reader says `error`.
    fn not_parquet(&self, location: &str, error: &dyn std::fmt::Display) -> SourceError {
        let of_object = match self {
            Self::Object(reader) => reader.failed(),
            Self::Local(_) => None,
        };
        of_object.unwrap_or_else(|| SourceError::NotParquet { location: location.to_owned(), told: error.to_string() })
    }
}

/// Times of 96 bits as the table's microseconds: as nanoseconds, those far away would be others.
fn whole_times(of_file: &Schema, of_table: &Schema) -> Option<Schema> {
    let mut found = false;
    let fields = of_file.fields().iter().map(|field| {
        let wanted = column_of(of_table, field.name()).map(|index| of_table.field(index).data_type());
        match (field.data_type(), wanted) {
            (DataType::Timestamp(TimeUnit::Nanosecond, None), Some(DataType::Timestamp(TimeUnit::Microsecond, _))) => {
                found = true;
                let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
                Arc::new(field.as_ref().clone().with_data_type(micros))
            }
            _ => field.clone(),
        }
    });
    let fields: Vec<_> = fields.collect();
    found.then(|| Schema::new_with_metadata(fields, of_file.metadata().clone()))
}

impl Length for Reader {
    fn len(&self) -> u64 {
        match self {
            Self::Local(file) => Length::len(file.as_ref()),
            Self::Object(object) => Length::len(object),
        }
    }
}

impl ChunkReader for Reader {
    type T = FromAnywhere;

    fn get_read(&self, start: u64) -> Result<FromAnywhere, ParquetError> {
        Ok(match self {
            Self::Local(file) => FromAnywhere::Local(file.get_read(start)?),
            Self::Object(object) => FromAnywhere::Object(object.get_read(start)?),
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        match self {
            Self::Local(file) => file.get_bytes(start, length),
            Self::Object(object) => object.get_bytes(start, length),
        }
    }
}

enum FromAnywhere {
    Local(io::BufReader<File>),
    Object(Reading),
}

impl Read for FromAnywhere {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Local(file) => file.read(buffer),
            Self::Object(object) => object.read(buffer),
        }
    }
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
