//! An online answer as the bytes of a `GetOnlineFeaturesResponse`, written cell by cell from the
//! rows that were found: no message, array or value is made in between. The bytes are those that the
//! message would be encoded to. Its values may stand in one Arrow IPC stream, or in matrices, instead.

mod arrow;
mod matrix;
mod template;

use bytes::BufMut as _;
use hydrant_proto::v1;
use hydrant_storage::order::CellStatus;
use hydrant_storage::row::Cell;
use hydrant_storage::value::{DataType, ScalarType, Value};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use self::template::Template;
use super::columns::{encode_column, encode_statuses};
use crate::error::{Error, Result};
use crate::registry::selection::Selection;
use crate::registry::table::Beside;
use crate::rpc::status::{MessageLimit, message_too_large};
use crate::rpc::unary::Outgoing;
use crate::serving::{
    AnswerCells, AnswerColumn, AnswerShape, CellBytes, CellValue, ColumnCells, EventTimes, OnlineAnswer, Provenance,
    to_column,
};

// Field numbers of common.proto and online.proto.
const RESPONSE_COLUMNS: u32 = 1;
const FEATURE_COLUMN: u32 = 1;
const FEATURE_STATUSES: u32 = 2;
const COLUMN_NAME: u32 = 1;
const COLUMN_NULLS: u32 = 12;
const VALUES: u32 = 1;
const VECTOR_DIMENSION: u32 = 1;
const VECTOR_VALUES: u32 = 2;

/// A column with a name of this length and one number is shorter than 128 bytes.
const LONGEST_NAME_ALONE: usize = 64;
/// Bytes of lists in memory that are not worth counting.
const LIST_SLACK: usize = 64 << 10;

/// What the values of an answer come as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerForm {
    Columns,
    Arrow(Beside),
    Matrix,
}

impl AnswerForm {
    /// What it asks of the columns.
    pub fn shape(self) -> AnswerShape {
        match self {
            Self::Columns => AnswerShape::Columns,
            Self::Arrow(_) => AnswerShape::Table,
            Self::Matrix => AnswerShape::Matrix,
        }
    }

    /// What a request asks for.
    pub fn of(request: &v1::GetOnlineFeaturesRequest) -> Result<Self> {
        let beside = Beside { status: request.with_status, event_time: request.with_event_time };
        match v1::AnswerFormat::try_from(request.format) {
            Ok(v1::AnswerFormat::ArrowIpc) => Ok(Self::Arrow(beside)),
            Ok(v1::AnswerFormat::Columns | v1::AnswerFormat::Matrix) if beside != Beside::default() => {
                let message = "'with_status' and 'with_event_time' are of the format ARROW_IPC";
                let hint =
                    "leave them out: the other formats have statuses, and 'include_event_times' sends event times";
                Err(Error::invalid("BAD_FORMAT", message).hint(hint))
            }
            Ok(v1::AnswerFormat::Columns) => Ok(Self::Columns),
            Ok(v1::AnswerFormat::Matrix) => Ok(Self::Matrix),
            Err(_) => {
                let message = format!("there is no format {} of an answer", request.format);
                Err(Error::invalid("BAD_FORMAT", message).hint("use COLUMNS, ARROW_IPC or MATRIX"))
            }
        }
    }
}

/// The bytes of an answer, whose first row is the request's `first_row`. RESOURCE_EXHAUSTED as soon as
/// there are more than `limit` allows: a request of a few bytes can ask for a large row again and again.
pub fn encode_answer(answer: &OnlineAnswer, form: AnswerForm, first_row: u64, limit: MessageLimit) -> Result<Outgoing> {
    match form {
        AnswerForm::Columns => encode_columns(answer, first_row, limit),
        AnswerForm::Arrow(beside) => arrow::encode(answer, beside, first_row, limit),
        AnswerForm::Matrix => matrix::encode(answer, first_row, limit),
    }
}

fn encode_columns(answer: &OnlineAnswer, first_row: u64, limit: MessageLimit) -> Result<Outgoing> {
    let most = usize::try_from(limit.bytes).unwrap_or(usize::MAX);
    let cells = answer.cells();
    let template = Template::of(answer.selection());
    // Most cells are numbers of eight bytes.
    let likely = 256 + 64 * answer.selection().columns.len() + 9 * answer.cell_count();
    let mut out = Outgoing::with_capacity(likely.min(most));
    let too_large = || message_too_large(limit, "the answer is larger");
    if !template.write_columns(&cells, out.buffer()) && !write_columns(&cells, &mut out, most)? {
        return Err(too_large());
    }
    out.buffer().extend_from_slice(&template.services);
    out.append(&rest_of(answer, first_row))?;
    if out.len() > most { Err(too_large()) } else { Ok(out) }
}

/// Appends the columns cell by cell; `false` as soon as they take more than `most`.
fn write_columns(cells: &AnswerCells<'_>, out: &mut Outgoing, most: usize) -> Result<bool> {
    let mut column = ColumnWriter::default();
    for cells in cells.columns() {
        let Some(room) = most.checked_sub(out.len()) else { return Ok(false) };
        column.room = room;
        if write_alone(cells, out.buffer()) {
            continue;
        }
        if matches!(cells.data_type(), DataType::List(_)) {
            // In memory an element takes up to eight times what it takes in the message.
            let room = most.saturating_mul(8).saturating_add(LIST_SLACK);
            let Some(column) = to_column(cells, room)? else { return Ok(false) };
            let feature = encode_feature(&column)?;
            prost::encoding::message::encode(RESPONSE_COLUMNS, &feature, out.buffer());
        } else {
            if !column.read(cells)? {
                return Ok(false);
            }
            column.write(cells, out.buffer());
        }
    }
    Ok(true)
}

/// Appends a column of one number or time, if that is what it is: the commonest column of an answer
/// for one entity, whose every length fits into a byte.
fn write_alone(cells: ColumnCells<'_>, out: &mut Vec<u8>) -> bool {
    let (name, data_type) = (&cells.column.name, cells.data_type());
    let Some(width) = width_alone(name, data_type).filter(|_| cells.len() == 1) else { return false };
    let Some((status, value)) = cells.iter_bytes().next() else { return false };
    const NULL: [u8; 3] = [length_delimited(COLUMN_NULLS), 1, 1];
    match value {
        CellBytes::Stored(bytes) => put_alone(name, data_type, (status, bytes, &[]), out),
        CellBytes::Default => {
            let default = cells.column.default.as_ref().map(little_endian).unwrap_or_default();
            put_alone(name, data_type, (status, &default, &[]), out)
        }
        CellBytes::None => put_alone(name, data_type, (status, &[0; 8][..width], &NULL), out),
    };
    true
}

/// How many bytes a value of a column takes that can be written by [`put_alone`].
fn width_alone(name: &str, data_type: DataType) -> Option<usize> {
    let width = match data_type {
        DataType::Scalar(ScalarType::Float32) => 4,
        DataType::Scalar(ScalarType::Float64 | ScalarType::Timestamp) => 8,
        _ => return None,
    };
    (1..=LONGEST_NAME_ALONE).contains(&name.len()).then_some(width)
}

/// Appends a column of one cell: its status, its value, and its nulls as they stand in the message. Gives
/// the place of the value.
fn put_alone(
    name: &str,
    data_type: DataType,
    (status, value, nulls): (CellStatus, &[u8], &[u8]),
    out: &mut Vec<u8>,
) -> usize {
    let values = 2 + value.len();
    let column = 2 + name.len() + 2 + values + nulls.len();
    let feature = 2 + column + 3;
    out.extend_from_slice(&[
        length_delimited(RESPONSE_COLUMNS),
        feature as u8,
        length_delimited(FEATURE_COLUMN),
        column as u8,
        length_delimited(COLUMN_NAME),
        name.len() as u8,
    ]);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(&[
        length_delimited(values_field(data_type)),
        values as u8,
        length_delimited(VALUES),
        value.len() as u8,
    ]);
    let place = out.len();
    out.extend_from_slice(value);
    out.extend_from_slice(nulls);
    out.extend_from_slice(&[length_delimited(FEATURE_STATUSES), 1, status as u8]);
    place
}

/// An answer whose values stand in a message of it; what precedes them is written already.
fn encode_whole(first: &[u8], response: &v1::GetOnlineFeaturesResponse, limit: MessageLimit) -> Result<Outgoing> {
    let length = first.len() + response.encoded_len();
    if length as u64 > limit.bytes {
        return Err(message_too_large(limit, "the answer is larger"));
    }
    let mut out = Outgoing::with_capacity(length);
    out.buffer().extend_from_slice(first);
    out.append(response)?;
    Ok(out)
}

/// Which columns each service of a selection has.
fn services_of(selection: &Selection) -> impl Iterator<Item = v1::ServiceColumns> {
    selection.services.iter().map(|service| v1::ServiceColumns {
        service: service.reference(),
        columns: service.columns.iter().copied().map(to_u32).collect(),
    })
}

/// What stands behind columns and services.
fn rest_of(answer: &OnlineAnswer, first_row: u64) -> v1::GetOnlineFeaturesResponse {
    v1::GetOnlineFeaturesResponse {
        rows: to_u32(answer.rows()),
        event_times: answer.event_times().iter().map(encode_event_times).collect(),
        provenance: Some(encode_provenance(&answer.provenance)),
        first_row,
        ..Default::default()
    }
}

/// Where a status leaves a cell without a value and there is no default, the cell is null.
fn encode_feature(column: &AnswerColumn) -> Result<v1::FeatureColumn> {
    let statuses = encode_statuses(&column.statuses);
    Ok(v1::FeatureColumn { column: Some(encode_column(&column.name, &column.values)?), statuses })
}

fn encode_event_times(times: &EventTimes) -> v1::EventTimes {
    v1::EventTimes {
        view: times.view.clone(),
        keys: times.keys.iter().map(ToString::to_string).collect(),
        micros: times.times.iter().map(|time| time.unwrap_or_default()).collect(),
        found: times.times.iter().map(Option::is_some).collect(),
    }
}

fn encode_provenance(provenance: &Provenance) -> v1::Provenance {
    let views = provenance.views.iter().map(|view| v1::ViewProvenance {
        view: view.reference(),
        newest_event_time: view.newest_event_time,
        complete_through: view.complete_through,
        lacks_before: view.lacks_before,
    });
    v1::Provenance {
        t: provenance.t,
        registry_revision: provenance.registry_revision,
        views: views.collect(),
        rows_from_history: to_u32(provenance.rows_from_history),
        freshness: Vec::new(),
    }
}

/// Rows and columns are bounded far below.
fn to_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// One column at a time; its buffers are used again for the next.
#[derive(Debug, Default)]
struct ColumnWriter {
    /// The values as they stand in the message, without what precedes them.
    values: Vec<u8>,
    /// How long they may become.
    room: usize,
    statuses: Marks,
    nulls: Marks,
}

/// A byte for each cell, written one by one only from the first that differs.
#[derive(Debug, Default)]
struct Marks {
    first: u8,
    alike: usize,
    each: Vec<u8>,
}

impl ColumnWriter {
    /// `false` where the values have no room.
    fn read(&mut self, cells: ColumnCells<'_>) -> Result<bool> {
        self.values.clear();
        self.statuses.clear();
        self.nulls.clear();
        match cells.data_type() {
            DataType::Scalar(ScalarType::Float32) => Ok(self.read_bytes(cells, 4)),
            DataType::Scalar(ScalarType::Float64 | ScalarType::Timestamp) => Ok(self.read_bytes(cells, 8)),
            DataType::Vector(dimension) => Ok(self.read_bytes(cells, dimension as usize * 4)),
            DataType::Scalar(_) => self.read_values(cells),
            DataType::List(_) => Err(Error::internal("a list is written as a message")),
        }
    }

    /// Numbers that are stored as they are sent.
    fn read_bytes(&mut self, cells: ColumnCells<'_>, width: usize) -> bool {
        if cells.len().saturating_mul(width) > self.room {
            return false;
        }
        let default = cells.column.default.as_ref().map(little_endian);
        self.values.reserve(cells.len() * width);
        for (status, value) in cells.iter_bytes() {
            self.statuses.push(status as u8);
            let is_null = match value {
                CellBytes::Stored(bytes) => {
                    self.values.extend_from_slice(bytes);
                    false
                }
                CellBytes::Default => {
                    self.values.extend_from_slice(default.as_deref().unwrap_or_default());
                    false
                }
                CellBytes::None => {
                    self.values.resize(self.values.len() + width, 0);
                    true
                }
            };
            self.nulls.push(u8::from(is_null));
        }
        true
    }

    fn read_values(&mut self, cells: ColumnCells<'_>) -> Result<bool> {
        let DataType::Scalar(scalar) = cells.data_type() else {
            return Err(Error::internal("a column that is no scalar"));
        };
        for (status, value) in cells.iter() {
            if self.values.len() > self.room {
                return Ok(false);
            }
            self.statuses.push(status as u8);
            self.nulls.push(u8::from(matches!(value, CellValue::None)));
            match value {
                CellValue::Stored(Cell::Bool(value)) => self.values.put_u8(u8::from(value)),
                CellValue::Stored(Cell::Int32(value)) => encode_varint(zigzag(value.into()), &mut self.values),
                CellValue::Stored(Cell::Int64(value)) => encode_varint(zigzag(value), &mut self.values),
                CellValue::Stored(Cell::String(value)) => self.put_text(value.as_bytes()),
                CellValue::Stored(Cell::Bytes(value)) => self.put_text(value),
                CellValue::Default(Value::Bool(value)) => self.values.put_u8(u8::from(*value)),
                CellValue::Default(Value::Int32(value)) => encode_varint(zigzag((*value).into()), &mut self.values),
                CellValue::Default(Value::Int64(value)) => encode_varint(zigzag(*value), &mut self.values),
                CellValue::Default(Value::String(value)) => self.put_text(value.as_bytes()),
                CellValue::Default(Value::Bytes(value)) => self.put_text(value),
                CellValue::None => match scalar {
                    ScalarType::String | ScalarType::Bytes => self.put_text(&[]),
                    // Zero is one byte of zero, be it a bool or a varint.
                    _ => self.values.put_u8(0),
                },
                CellValue::Stored(_) | CellValue::Default(_) => {
                    return Err(Error::internal(format!("column '{}' holds another type", cells.column.name)));
                }
            }
        }
        Ok(self.values.len() <= self.room)
    }

    fn put_text(&mut self, text: &[u8]) {
        encode_key(VALUES, WireType::LengthDelimited, &mut self.values);
        encode_varint(text.len() as u64, &mut self.values);
        self.values.extend_from_slice(text);
    }

    /// Appends the column that was read, as a `FeatureColumn` of the response.
    fn write(&self, cells: ColumnCells<'_>, out: &mut Vec<u8>) {
        let name = cells.column.name.as_bytes();
        let data_type = cells.data_type();
        let values = values_length(data_type, self.values.len());
        let nulls = self.nulls.bytes_unless(0);
        let column = (if name.is_empty() { 0 } else { field_length(name.len()) })
            + field_length(values)
            + (if nulls.is_empty() { 0 } else { field_length(nulls.len()) });
        let statuses = self.statuses.bytes();
        let feature = field_length(column) + if statuses.is_empty() { 0 } else { field_length(statuses.len()) };

        put_field(RESPONSE_COLUMNS, feature, out);
        put_field(FEATURE_COLUMN, column, out);
        if !name.is_empty() {
            put_field(COLUMN_NAME, name.len(), out);
            out.extend_from_slice(name);
        }
        put_field(values_field(data_type), values, out);
        if let DataType::Vector(dimension) = data_type {
            encode_key(VECTOR_DIMENSION, WireType::Varint, out);
            encode_varint(dimension.into(), out);
        }
        if !self.values.is_empty() && !is_text(data_type) {
            let field = if matches!(data_type, DataType::Vector(_)) { VECTOR_VALUES } else { VALUES };
            put_field(field, self.values.len(), out);
        }
        out.extend_from_slice(&self.values);
        if !nulls.is_empty() {
            put_field(COLUMN_NULLS, nulls.len(), out);
            out.extend_from_slice(&nulls);
        }
        if !statuses.is_empty() {
            put_field(FEATURE_STATUSES, statuses.len(), out);
            out.extend_from_slice(statuses);
        }
    }
}

impl Marks {
    fn clear(&mut self) {
        self.alike = 0;
        self.each.clear();
    }

    fn push(&mut self, mark: u8) {
        if !self.each.is_empty() {
            self.each.push(mark);
        } else if self.alike == 0 || mark == self.first {
            self.first = mark;
            self.alike += 1;
        } else {
            self.each.resize(self.alike, self.first);
            self.each.push(mark);
        }
    }

    /// One each, or a single one where all are alike.
    fn bytes(&self) -> &[u8] {
        match (self.each.is_empty(), self.alike) {
            (true, 0) => &[],
            (true, _) => std::slice::from_ref(&self.first),
            (false, _) => &self.each,
        }
    }

    /// One each, or none where all are `usual`.
    fn bytes_unless(&self, usual: u8) -> std::borrow::Cow<'_, [u8]> {
        match self.each.is_empty() {
            false => (&self.each).into(),
            true if self.first == usual => Vec::new().into(),
            true => vec![self.first; self.alike].into(),
        }
    }
}

/// The length of the values' message, whose content has so many bytes.
fn values_length(data_type: DataType, content: usize) -> usize {
    let packed = if content == 0 || is_text(data_type) { content } else { field_length(content) };
    match data_type {
        DataType::Vector(dimension) => 1 + encoded_len_varint(dimension.into()) + packed,
        _ => packed,
    }
}

/// The field of `Column.values`.
fn values_field(data_type: DataType) -> u32 {
    match data_type {
        DataType::Scalar(ScalarType::Bool) => 2,
        DataType::Scalar(ScalarType::Int32) => 3,
        DataType::Scalar(ScalarType::Int64) => 4,
        DataType::Scalar(ScalarType::Float32) => 5,
        DataType::Scalar(ScalarType::Float64) => 6,
        DataType::Scalar(ScalarType::String) => 7,
        DataType::Scalar(ScalarType::Bytes) => 8,
        DataType::Scalar(ScalarType::Timestamp) => 9,
        DataType::List(_) => 10,
        DataType::Vector(_) => 11,
    }
}

fn is_text(data_type: DataType) -> bool {
    matches!(data_type, DataType::Scalar(ScalarType::String | ScalarType::Bytes))
}

/// What a field of bytes or a message takes whose number is below 16.
fn field_length(content: usize) -> usize {
    1 + encoded_len_varint(content as u64) + content
}

/// The byte before the length of a field of bytes or a message whose number is below 16.
const fn length_delimited(field: u32) -> u8 {
    (field << 3) as u8 | WireType::LengthDelimited as u8
}

fn put_field(field: u32, length: usize, out: &mut Vec<u8>) {
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(length as u64, out);
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// A number or a vector of them, such as a default, as a row would store it.
fn little_endian(value: &Value) -> Vec<u8> {
    match value {
        Value::Int32(value) => value.to_le_bytes().to_vec(),
        Value::Int64(value) => value.to_le_bytes().to_vec(),
        Value::Float32(value) => value.to_le_bytes().to_vec(),
        Value::Float64(value) => value.to_le_bytes().to_vec(),
        Value::Timestamp(value) => value.to_le_bytes().to_vec(),
        Value::Vector(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
