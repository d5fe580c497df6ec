//! Record batches as messages of Arrow Flight: the schema, dictionaries where they are new, and rows
//! in messages of bounded size. Every type is sent as what it is; nothing is decoded here.

use arrow_array::RecordBatch;
use arrow_flight::FlightData;
use arrow_ipc::writer::{DictionaryTracker, EncodedData, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};
use arrow_schema::{ArrowError, Schema};
use hydrant_storage::slices::{slice_bytes, without_shared};

/// About how large a message gets where clients don't say what they take: gRPC's own default is 4 MiB.
pub const MESSAGE_BYTES: usize = 2 << 20;

/// Encodes the batches of one stream, in their order.
#[derive(Debug)]
pub struct FlightEncoder {
    generator: IpcDataGenerator,
    dictionaries: DictionaryTracker,
    options: IpcWriteOptions,
    context: IpcWriteContext,
    target: usize,
}

impl FlightEncoder {
    /// An encoder, and the message with the schema, which goes before all others. Batches that would
    /// take more than about `target` bytes are cut by rows.
    pub fn begin(schema: &Schema, target: usize) -> (Self, FlightData) {
        let generator = IpcDataGenerator::default();
        let mut dictionaries = DictionaryTracker::new(false);
        let options = IpcWriteOptions::default();
        // Gives the dictionaries their numbers too.
        let encoded = generator.schema_to_bytes_with_dictionary_tracker(schema, &mut dictionaries, &options);
        (Self { generator, dictionaries, options, context: IpcWriteContext::default(), target }, encoded.into())
    }

    /// The messages of a batch, the last of which holds rows; one message with no rows for a batch
    /// without rows.
    pub fn encode(&mut self, batch: &RecordBatch) -> Result<Vec<FlightData>, ArrowError> {
        let bytes: usize = batch.columns().iter().map(|column| slice_bytes(column)).sum();
        let pieces = bytes.div_ceil(self.target).clamp(1, batch.num_rows().max(1));
        let rows = batch.num_rows().div_ceil(pieces).max(1);
        let mut messages = Vec::with_capacity(pieces);
        let mut from = 0;
        loop {
            let piece = without_shared(&batch.slice(from, rows.min(batch.num_rows() - from)))?;
            let (dictionaries, held) = self.encode_piece(&piece)?;
            messages.extend(dictionaries.into_iter().map(FlightData::from));
            messages.push(held.into());
            from += rows;
            if from >= batch.num_rows() {
                return Ok(messages);
            }
        }
    }

    fn encode_piece(&mut self, piece: &RecordBatch) -> Result<(Vec<EncodedData>, EncodedData), ArrowError> {
        self.generator.encode(piece, &mut self.dictionaries, &self.options, &mut self.context)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::builder::{LargeListBuilder, StringBuilder};
    use arrow_array::types::Int8Type;
    use arrow_array::{ArrayRef, DictionaryArray, Int64Array, StringViewArray, StructArray};
    use arrow_schema::{DataType, Field};

    use super::super::ipc::{Decoded, IpcDecoder};
    use super::*;

    fn dictionary(words: &[&str]) -> ArrayRef {
        Arc::new(words.iter().map(|word| Some(*word)).collect::<DictionaryArray<Int8Type>>())
    }

    /// Sends the batches and takes them in again: the batches that came, and the bytes sent.
    fn sent(batches: &[RecordBatch], target: usize) -> (Vec<RecordBatch>, usize) {
        let (mut encoder, schema) = FlightEncoder::begin(&batches[0].schema(), target);
        let mut messages = vec![schema];
        for batch in batches {
            messages.extend(encoder.encode(batch).expect("encoded"));
        }
        let bytes = messages.iter().map(|message| message.data_body.len()).sum();
        let mut decoder = IpcDecoder::new(1 << 30, u64::MAX);
        let decoded = messages.into_iter().map(|message| decoder.decode(&message.data_header, message.data_body));
        let came = decoded.filter_map(|decoded| match decoded.expect("decoded") {
            Decoded::Batch(batch) => Some(batch),
            Decoded::Schema(_) | Decoded::Nothing => None,
        });
        (came.collect(), bytes)
    }

    #[test]
    fn types_are_sent_as_what_they_are_those_inside_of_others_too() {
        let mut lists = LargeListBuilder::new(StringBuilder::new());
        lists.append_value([Some("a"), None]);
        lists.append_null();
        let word: ArrayRef = dictionary(&["x", "y"]);
        let field = Arc::new(Field::new("word", word.data_type().clone(), true));
        let inside: ArrayRef = Arc::new(StructArray::from(vec![(field, word.clone())]));
        let lists: ArrayRef = Arc::new(lists.finish());
        assert!(matches!(lists.data_type(), DataType::LargeList(_)));
        let batch =
            RecordBatch::try_from_iter([("inside", inside), ("lists", lists), ("word", word)]).expect("a batch");
        let (came, _) = sent(std::slice::from_ref(&batch), MESSAGE_BYTES);
        assert_eq!(came, std::slice::from_ref(&batch));
        assert_eq!(came[0].schema(), batch.schema());
    }

    #[test]
    fn a_batch_without_rows_is_a_message_with_dictionaries_or_without() {
        let full = RecordBatch::try_from_iter([("word", dictionary(&["a", "b"]))]).expect("a batch");
        let empty = RecordBatch::new_empty(full.schema());
        let (came, _) = sent(&[full.clone(), empty.clone()], MESSAGE_BYTES);
        assert_eq!(came, [full, empty]);
    }

    #[test]
    fn dictionaries_may_change_from_batch_to_batch() {
        let batch = |words| RecordBatch::try_from_iter([("word", dictionary(words))]).expect("a batch");
        let batches = [batch(&["a", "b"]), batch(&["c"]), batch(&["b", "a", "d"])];
        assert_eq!(sent(&batches, MESSAGE_BYTES).0, batches);
    }

    #[test]
    fn a_large_batch_is_cut_by_rows_and_sends_nothing_twice() {
        let texts: ArrayRef = Arc::new(StringViewArray::from_iter_values((0..10_000).map(|row| format!("{row:0200}"))));
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..10_000));
        let batch = RecordBatch::try_from_iter([("text", texts), ("number", numbers)]).expect("a batch");
        let (came, bytes) = sent(&[batch.slice(0, 9_000), batch.slice(9_000, 1_000)], 100_000);
        assert!(came.len() > 20, "{}", came.len());
        assert!(bytes < 3_000_000, "{bytes} bytes were sent for some 2,250,000");
        let came = arrow_select::concat::concat_batches(&batch.schema(), &came).expect("one schema");
        assert_eq!(came, batch);
    }
}
