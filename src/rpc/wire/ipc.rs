//! Arrow IPC from strangers: one message after the other into schemas, dictionaries and record
//! batches. A message is measured before it is decoded, so that neither a length that lies nor a
//! compression bomb takes the process's memory; and what the decoder takes for granted is looked at before.

mod check;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_buffer::Buffer;
use arrow_ipc::reader::{RecordBatchDecoder, read_dictionary};
use arrow_ipc::{CompressionType, MessageHeader, MetadataVersion};
use arrow_schema::{Schema, SchemaRef};
use bytes::Bytes;

use crate::error::{Error, Result};

/// What one message held.
#[derive(Clone, Debug)]
pub enum Decoded {
    Schema(SchemaRef),
    Batch(RecordBatch),
    /// A dictionary, kept for the batches that follow, or nothing.
    Nothing,
}

/// Decodes the messages of one stream, in their order.
#[derive(Debug)]
pub struct IpcDecoder {
    schema: Option<SchemaRef>,
    dictionaries: HashMap<i64, ArrayRef>,
    dictionary_bytes: u64,
    /// Of one message, and of the dictionaries together, when decompressed.
    max_bytes: u64,
    /// Of one batch.
    max_rows: u64,
}

/// A decompressed message may be this many times as large as a message on the wire.
pub const MAX_EXPANSION: u64 = 16;

/// Bytes before a compressed buffer that state its size.
const SIZE_PREFIX: usize = 8;

/// Stated where a buffer of a compressed message is not compressed itself.
const NOT_COMPRESSED: i64 = -1;

const CONTINUATION: [u8; 4] = [0xff; 4];

impl IpcDecoder {
    pub fn new(max_message: u64, max_rows: u64) -> Self {
        Self {
            schema: None,
            dictionaries: HashMap::new(),
            dictionary_bytes: 0,
            max_bytes: max_message.saturating_mul(MAX_EXPANSION),
            max_rows,
        }
    }

    pub fn schema(&self) -> Option<&SchemaRef> {
        self.schema.as_ref()
    }

    /// Decodes one message. After a refusal the stream can't be read on. Takes the time that
    /// decompressing and checking the batch takes: not for a thread that others wait for.
    pub fn decode(&mut self, header: &[u8], body: Bytes) -> Result<Decoded> {
        // What the decoder asserts beyond what was checked before: nothing of it is looked at after a panic.
        catch_unwind(AssertUnwindSafe(|| self.decode_message(header, body)))
            .unwrap_or_else(|_| Err(malformed("a message contradicts itself")))
    }

    fn decode_message(&mut self, header: &[u8], body: Bytes) -> Result<Decoded> {
        if header.is_empty() {
            return Ok(Decoded::Nothing);
        }
        let message = arrow_ipc::root_as_message(header).map_err(|error| malformed(&error.to_string()))?;
        let version = message.version();
        match message.header_type() {
            MessageHeader::NONE => Ok(Decoded::Nothing),
            MessageHeader::Schema => self.take_schema(header),
            MessageHeader::DictionaryBatch => {
                let dictionary =
                    message.header_as_dictionary_batch().ok_or_else(|| malformed("a dictionary is missing"))?;
                let batch = dictionary.data().ok_or_else(|| malformed("a dictionary has no values"))?;
                let schema = self.schema.clone().ok_or_else(|| malformed("a dictionary came before the schema"))?;
                self.dictionary_bytes = self.dictionary_bytes.saturating_add(self.measure(batch, &body)?.iter().sum());
                if self.dictionary_bytes > self.max_bytes {
                    return Err(self.too_large("the dictionaries of the stream", self.dictionary_bytes));
                }
                let body = aligned(body);
                read_dictionary(&body, dictionary, &schema, &mut self.dictionaries, &version).map_err(refused)?;
                Ok(Decoded::Nothing)
            }
            MessageHeader::RecordBatch => {
                let batch = message.header_as_record_batch().ok_or_else(|| malformed("a record batch is missing"))?;
                let schema = self.schema.clone().ok_or_else(|| malformed("a record batch came before the schema"))?;
                let sizes = self.measure(batch, &body)?;
                check::nulls(&schema, batch.nodes().into_iter().flatten(), sizes.into_iter()).map_err(malformed)?;
                self.read_batch(batch, &aligned(body), schema, version)
            }
            other => Err(malformed(&format!("a message of kind {other:?} has no place in a stream of record batches"))),
        }
    }

    fn take_schema(&mut self, header: &[u8]) -> Result<Decoded> {
        if self.schema.is_some() {
            return Err(malformed("the schema came twice"));
        }
        let message = arrow_ipc::root_as_message(header).map_err(|error| malformed(&error.to_string()))?;
        let schema = message.header_as_schema().ok_or_else(|| malformed("a schema is missing"))?;
        check::schema(schema).map_err(malformed)?;
        let schema = Arc::new(arrow_ipc::convert::fb_to_schema(schema));
        self.schema = Some(schema.clone());
        Ok(Decoded::Schema(schema))
    }

    fn read_batch(
        &self,
        batch: arrow_ipc::RecordBatch<'_>,
        body: &Buffer,
        schema: SchemaRef,
        version: MetadataVersion,
    ) -> Result<Decoded> {
        let decoder =
            RecordBatchDecoder::try_new(body, batch, schema, &self.dictionaries, &version).map_err(refused)?;
        let batch = decoder.read_record_batch().map_err(refused)?;
        Ok(Decoded::Batch(batch))
    }

    /// The sizes of a message's buffers when decompressed, refused where they or a length are beyond
    /// what can be.
    fn measure(&self, batch: arrow_ipc::RecordBatch<'_>, body: &[u8]) -> Result<Vec<u64>> {
        let rows = u64::try_from(batch.length()).map_err(|_| malformed("a batch has less than no rows"))?;
        if rows > self.max_rows {
            let told = format!("a batch has {rows} rows, and {} are allowed in one", self.max_rows);
            return Err(Error::invalid("BATCH_TOO_LARGE", told).hint("send smaller batches").with("rows", rows));
        }
        let codec = batch.compression().map(|compression| compression.codec());
        let (mut total, mut sizes) = (0_u64, Vec::new());
        for buffer in batch.buffers().into_iter().flatten() {
            let start = usize::try_from(buffer.offset()).ok();
            let length = usize::try_from(buffer.length()).ok();
            let end = start.zip(length).and_then(|(start, length)| start.checked_add(length));
            let bytes = start.zip(end).and_then(|(start, end)| body.get(start..end));
            let bytes = bytes.ok_or_else(|| malformed("a buffer lies outside of its message"))?;
            let size = match codec {
                Some(codec) if !bytes.is_empty() => decompressed_size(codec, bytes)?,
                _ => bytes.len() as u64,
            };
            total = total.saturating_add(size);
            sizes.push(size);
        }
        if total > self.max_bytes {
            return Err(self.too_large("a message", total));
        }
        Ok(sizes)
    }

    fn too_large(&self, what: &str, size: u64) -> Error {
        let told = format!("{what} would take {size} bytes when decompressed, and {} are allowed", self.max_bytes);
        Error::invalid("BATCH_TOO_LARGE", told).hint("send smaller batches")
    }
}

/// Reads a stream in Arrow's IPC format that holds the schema and one record batch.
pub fn decode_single_batch(stream: &[u8], max_message: u64, max_rows: u64) -> Result<RecordBatch> {
    let mut decoder = IpcDecoder::new(max_message, max_rows);
    let mut rest = stream;
    let mut found = None;
    while let Some((header, body)) = next_message(&mut rest)? {
        match decoder.decode(header, Bytes::copy_from_slice(body))? {
            Decoded::Batch(_) if found.is_some() => {
                return Err(malformed("the stream has several record batches; send each as a request of its own"));
            }
            Decoded::Batch(batch) => found = Some(batch),
            Decoded::Schema(_) | Decoded::Nothing => {}
        }
    }
    let empty = || decoder.schema().map(|schema| RecordBatch::new_empty(schema.clone()));
    found.or_else(empty).ok_or_else(|| malformed("the stream has no schema"))
}

/// The schema as a stream of the IPC format has it.
pub fn encode_schema(schema: &Schema) -> Result<Bytes> {
    let options = arrow_ipc::writer::IpcWriteOptions::default();
    let message: arrow_flight::IpcMessage = arrow_flight::SchemaAsIpc::new(schema, &options)
        .try_into()
        .map_err(|error| Error::internal(format!("a schema can't be encoded: {error}")))?;
    Ok(message.0)
}

/// Cuts the next encapsulated message off a stream; `None` at its end.
fn next_message<'a>(rest: &mut &'a [u8]) -> Result<Option<(&'a [u8], &'a [u8])>> {
    let cut_short = || malformed("the stream is cut short");
    if rest.is_empty() {
        return Ok(None);
    }
    let mut prefix = take(rest, 4).ok_or_else(cut_short)?;
    if prefix == CONTINUATION {
        prefix = take(rest, 4).ok_or_else(cut_short)?;
    }
    let length = i32::from_le_bytes(prefix.try_into().expect("four bytes were taken"));
    if length == 0 {
        return Ok(None);
    }
    let length = usize::try_from(length).map_err(|_| malformed("a message is shorter than nothing"))?;
    let header = take(rest, length).ok_or_else(cut_short)?;
    let message = arrow_ipc::root_as_message(header).map_err(|error| malformed(&error.to_string()))?;
    let body_length = usize::try_from(message.bodyLength()).map_err(|_| malformed("a body is shorter than nothing"))?;
    let body = take(rest, body_length).ok_or_else(cut_short)?;
    Ok(Some((header, body)))
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

/// How large a compressed buffer may get: what it states, and for LZ4, whose decoder doesn't stop
/// there, what its blocks can hold.
fn decompressed_size(codec: CompressionType, buffer: &[u8]) -> Result<u64> {
    let (prefix, compressed) =
        buffer.split_at_checked(SIZE_PREFIX).ok_or_else(|| malformed("a compressed buffer is cut short"))?;
    let stated = i64::from_le_bytes(prefix.try_into().expect("eight bytes were split off"));
    if stated == NOT_COMPRESSED {
        return Ok(compressed.len() as u64);
    }
    let stated = u64::try_from(stated).map_err(|_| malformed("a compressed buffer states a size below nothing"))?;
    if codec == CompressionType::LZ4_FRAME { Ok(stated.max(lz4_bound(compressed)?)) } else { Ok(stated) }
}

/// The most that the blocks of an LZ4 frame can hold
/// (<https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md>).
fn lz4_bound(frame: &[u8]) -> Result<u64> {
    const MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
    /// No byte of a block stands for more than this many.
    const MAX_RATIO: u64 = 255;
    let broken = || malformed("a buffer is no LZ4 frame");
    let mut rest = frame;
    if rest.is_empty() {
        return Ok(0);
    }
    if take(&mut rest, 4) != Some(&MAGIC) {
        return Err(broken());
    }
    let descriptor = take(&mut rest, 2).ok_or_else(broken)?;
    let flag = |bit: u8| usize::from(descriptor[0] >> bit & 1);
    let block_checksum = 4 * flag(4);
    let content_size = 8 * flag(3);
    let dictionary_id = 4 * flag(0);
    take(&mut rest, content_size + dictionary_id + 1).ok_or_else(broken)?;
    // 4: 64 KiB, 5: 256 KiB, 6: 1 MiB, 7: 4 MiB.
    let block_code = u64::from(descriptor[1] >> 4 & 7);
    if block_code < 4 {
        return Err(broken());
    }
    let block_size = 1_u64 << (8 + 2 * block_code);
    let mut bound = 0_u64;
    loop {
        let prefix = take(&mut rest, 4).ok_or_else(broken)?;
        let length = u32::from_le_bytes(prefix.try_into().expect("four bytes were taken")) & 0x7fff_ffff;
        if length == 0 {
            return Ok(bound);
        }
        let block = take(&mut rest, usize::try_from(length).map_err(|_| broken())?).ok_or_else(broken)?;
        take(&mut rest, block_checksum).ok_or_else(broken)?;
        bound = bound.saturating_add(block_size.min(MAX_RATIO.saturating_mul(block.len() as u64)));
    }
}

/// Arrow wants its buffers aligned; a body that is not is copied once.
fn aligned(body: Bytes) -> Buffer {
    const ALIGNMENT: usize = 64;
    if body.as_ptr().align_offset(ALIGNMENT) == 0 { Buffer::from(body) } else { Buffer::from(body.as_ref()) }
}

fn refused(error: arrow_schema::ArrowError) -> Error {
    malformed(&error.to_string())
}

fn malformed(told: &str) -> Error {
    Error::invalid("MALFORMED_ARROW", format!("the Arrow data is malformed: {told}"))
}

#[cfg(test)]
mod tests;
