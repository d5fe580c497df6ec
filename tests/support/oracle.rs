//! Which row counts, written from the words of docs/contract.md (sections 2 to 6) and from nothing
//! else: every row that was ever sent, looked at one by one. It shares no code with the product.

use hydrant_storage::value::Value;

/// One row of one view, as it was sent and accepted.
#[derive(Clone, Debug)]
pub struct SentRow {
    pub key: Vec<Value>,
    pub event_time: i64,
    pub known_time: i64,
    pub ingest_time: i64,
    /// Its place in the log: the how-manieth request, and the row in it.
    pub place: (usize, usize),
    /// The features that the view had then; `None` for a delete.
    pub features: Option<Vec<Value>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    AsKnown,
    Final,
}

/// What is asked of a view.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// `None` for a key with a null part.
    pub key: Option<&'a [Value]>,
    pub t: i64,
    pub mode: Mode,
    /// By ingest time.
    pub cutoff: Option<i64>,
    pub ttl: Option<i64>,
}

/// What a cell should be.
#[derive(Clone, Debug)]
pub struct Cell {
    pub value: Value,
    pub status: &'static str,
}

impl Cell {
    pub fn same(&self, value: &Value, status: &str) -> bool {
        self.status == status && self.value.same_bits(value)
    }
}

/// The row that counts, tombstone or expired though it be.
pub fn row_that_counts<'a>(rows: &'a [SentRow], question: Question<'_>) -> Option<&'a SentRow> {
    let key = question.key?;
    let mut best: Option<&SentRow> = None;
    for row in rows {
        let same_key = row.key.len() == key.len() && row.key.iter().zip(key).all(|(a, b)| a.same_bits(b));
        let before_the_cutoff = question.cutoff.is_none_or(|cutoff| row.ingest_time <= cutoff);
        let has_happened = row.event_time <= question.t;
        let counts_as_known = question.mode == Mode::Final || row.known_time <= question.t;
        if !(same_key && before_the_cutoff && has_happened && counts_as_known) {
            continue;
        }
        let rank = |row: &SentRow| (row.event_time, row.known_time, row.place);
        if best.is_none_or(|best| rank(row) > rank(best)) {
            best = Some(row);
        }
    }
    best
}

/// One feature of the row that counts, by its place among the view's features.
pub fn cell(rows: &[SentRow], question: Question<'_>, feature: usize, default: Option<&Value>) -> Cell {
    let missing = |status| Cell { value: default.cloned().unwrap_or(Value::Null), status };
    let Some(row) = row_that_counts(rows, question) else { return missing("NOT_FOUND") };
    let Some(features) = &row.features else { return missing("NOT_FOUND") };
    let Some(value) = features.get(feature) else { return missing("NOT_FOUND") };
    if question.ttl.is_some_and(|ttl| question.t - row.event_time > ttl) {
        return missing("EXPIRED");
    }
    match value {
        Value::Null => Cell { value: Value::Null, status: "NULL" },
        value => Cell { value: value.clone(), status: "PRESENT" },
    }
}

/// The event time that is told beside a cell: of the row that counts, unless nothing is found.
pub fn event_time(rows: &[SentRow], question: Question<'_>) -> Option<i64> {
    row_that_counts(rows, question).filter(|row| row.features.is_some()).map(|row| row.event_time)
}
