//! How features stand in a table: names and types of their columns, for training sets and for online
//! answers in Arrow alike.

use arrow_schema::{DataType as ArrowType, Field, Schema};
use hydrant_storage::value::{DataType, ScalarType};

use super::selection::Selection;

/// What stands behind each feature's values, on request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// The status of each cell, as text.
    pub status: bool,
    /// When each value's row became true; null where no row counts.
    pub event_time: bool,
}

impl Beside {
    /// How many columns a feature has.
    pub fn width(self) -> usize {
        1 + usize::from(self.status) + usize::from(self.event_time)
    }

    /// The columns of a feature: values, statuses, event times.
    pub fn fields(self, feature: &str, data_type: DataType) -> Vec<Field> {
        let mut fields = vec![Field::new(feature, data_type.to_arrow(), true)];
        if self.status {
            fields.push(Field::new(format!("{feature}__status"), ArrowType::Utf8, false));
        }
        if self.event_time {
            fields.push(Field::new(format!("{feature}__event_time"), ScalarType::Timestamp.to_arrow(), true));
        }
        fields
    }

    /// The columns that the caller has to send, then those of each feature.
    pub fn schema(self, selection: &Selection) -> Schema {
        let keys = selection.request_columns.iter();
        let keys = keys.map(|key| Field::new(key.name.as_str(), key.key_type.to_arrow(), true));
        let columns = selection.columns.iter().flat_map(|column| self.fields(&column.name, column.data_type));
        Schema::new(keys.chain(columns).collect::<Vec<_>>())
    }
}
