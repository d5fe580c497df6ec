//! What a slice of an Arrow array holds. Slices share the buffers of the array that they were cut
//! from: how much of it they show is told here, and string views are freed from what they don't
//! show, since they would take all of it wherever they are written. Values are never changed.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::ByteViewType;
use arrow_array::{Array, ArrayRef, GenericByteViewArray, RecordBatch, RecordBatchOptions};
use arrow_schema::{ArrowError, DataType as ArrowType};

/// The bytes of what an array shows, without what it merely shares with other slices.
pub fn slice_bytes(array: &dyn Array) -> usize {
    let whole = array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size());
    whole + viewed_bytes(array).map_or(0, |(shown, _)| shown)
}

/// The same rows, in which no column of views holds much more than it shows.
pub fn without_shared(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let shares = |column: &ArrayRef| viewed_bytes(column).is_some_and(|(shown, held)| held > 2 * shown);
    if !batch.columns().iter().any(shares) {
        return Ok(batch.clone());
    }
    let columns = batch.columns().iter().map(|column| match column.data_type() {
        ArrowType::Utf8View if shares(column) => Arc::new(column.as_string_view().gc()) as ArrayRef,
        ArrowType::BinaryView if shares(column) => Arc::new(column.as_binary_view().gc()) as ArrayRef,
        _ => column.clone(),
    });
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns.collect(), &options)
}

/// Of a column of views: the bytes that its views show outside of themselves, and those that its
/// buffers hold.
fn viewed_bytes(array: &dyn Array) -> Option<(usize, usize)> {
    match array.data_type() {
        ArrowType::Utf8View => Some(bytes_of(array.as_string_view())),
        ArrowType::BinaryView => Some(bytes_of(array.as_binary_view())),
        _ => None,
    }
}

fn bytes_of<T: ByteViewType + ?Sized>(array: &GenericByteViewArray<T>) -> (usize, usize) {
    /// Shorter values lie in the view itself.
    const INLINE: usize = 12;
    let lengths = array.lengths().enumerate().filter(|(row, _)| array.is_valid(*row));
    let shown = lengths.map(|(_, length)| length as usize).filter(|length| *length > INLINE).sum();
    (shown, array.data_buffers().iter().map(|buffer| buffer.len()).sum())
}

#[cfg(test)]
mod tests {
    use arrow_array::{Int64Array, StringArray, StringViewArray};

    use super::*;

    fn views() -> RecordBatch {
        let texts: Vec<Option<String>> = (0..1_000).map(|row| (row % 3 != 0).then(|| format!("{row:0100}"))).collect();
        let views: ArrayRef = Arc::new(StringViewArray::from_iter(texts.iter().map(Option::as_deref)));
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1_000));
        RecordBatch::try_from_iter([("text", views), ("number", numbers)]).expect("a batch")
    }

    #[test]
    fn a_slice_of_views_is_as_large_as_what_it_shows() {
        let batch = views();
        assert_eq!(slice_bytes(batch.slice(0, 3).column(0)), 3 * 16 + 1 + 2 * 100);
        assert!(slice_bytes(batch.column(0)) > 66_000);
        let plain = StringArray::from(vec!["abc"; 100]);
        assert!(slice_bytes(&plain.slice(7, 2)) < 32);
    }

    #[test]
    fn a_slice_of_views_lets_go_of_what_it_does_not_show_and_keeps_its_values() {
        let slice = views().slice(300, 10);
        let alone = without_shared(&slice).expect("compacted");
        assert_eq!(alone, slice);
        let held = |batch: &RecordBatch| viewed_bytes(batch.column(0)).expect("views").1;
        assert!(held(&slice) > 60_000 && held(&alone) < 1_000);
        let whole = views();
        assert_eq!(held(&without_shared(&whole).expect("as it is")), held(&whole));
    }
}
