//! What came out of `hydrant online score`, counted answer by answer: for the file, for programs and
//! for people.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow_array::cast::AsArray as _;
use arrow_array::{Array as _, RecordBatch};
use hydrant_proto::v1::{self, CellStatus};
use hydrant_storage::order::Micros;
use serde_json::{Map, Value as Json, json};

use super::{status_place, unreadable};
use crate::cli::output::{self, Nulls, count, counted};
use crate::cli::{Failure, historical, time};
use crate::rpc::wire::retention::text_of_what_lacks;

#[derive(Clone, Debug, Default)]
pub(super) struct Summary {
    pub service: String,
    /// As of when; of unpinned reads, the last one.
    pub t: Micros,
    pub unpinned: bool,
    pub registry_revision: u64,
    pub rows: u64,
    pub rows_from_history: u64,
    /// Cells without a value, by feature.
    nulls: Vec<Nulls>,
    /// Cells that could not be read: the default or null stands in their place.
    not_ready: u64,
    damaged: u64,
    /// Views whose rows are gone that may have counted, and from which instant on they are whole.
    lacks_before: BTreeMap<String, Micros>,
}

impl Summary {
    pub fn new(unpinned: bool) -> Self {
        Self { unpinned, ..Self::default() }
    }

    /// Counts the cells of an answer whose features stand at these places, with their statuses.
    pub fn count_cells(&mut self, answer: &RecordBatch, places: &[usize]) -> Result<(), Failure> {
        let (schema, columns) = (answer.schema_ref(), answer.columns());
        for (index, place) in places.iter().enumerate() {
            let (Some(values), Some(statuses)) = (columns.get(*place), columns.get(status_place(*place))) else {
                return Err(unreadable("a feature lacks its column of values or that of statuses"));
            };
            let name = schema.field(*place).name();
            let is_status = *schema.field(status_place(*place)).name() == format!("{name}__status");
            let Some(statuses) = statuses.as_string_opt::<i32>().filter(|_| is_status) else {
                return Err(unreadable(format!("feature '{name}' has no column of statuses")));
            };
            if self.nulls.len() <= index {
                self.nulls.push(Nulls { feature: name.clone(), nulls: 0, is_masked: false });
            }
            let of = &mut self.nulls[index];
            of.nulls += values.null_count() as u64;
            for status in statuses.iter().flatten() {
                match CellStatus::from_str_name(status) {
                    Some(CellStatus::NotReady) => self.not_ready += 1,
                    Some(CellStatus::Damaged) => self.damaged += 1,
                    // Every cell of the column is, since it is a matter of who asks.
                    Some(CellStatus::Masked) => of.is_masked = true,
                    _ => (),
                }
            }
        }
        Ok(())
    }

    /// Notes what an answer may lack.
    pub fn note_lacking(&mut self, provenance: &v1::Provenance) {
        for view in &provenance.views {
            if let Some(whole_from) = view.lacks_before {
                let known = self.lacks_before.entry(view.view.clone()).or_insert(whole_from);
                *known = whole_from.max(*known);
            }
        }
    }

    /// What is kept in the file, and told to programs.
    pub fn note(&self) -> Json {
        json!({
            "service": self.service, "t": time::show(self.t), "unpinned": self.unpinned,
            "registry_revision": self.registry_revision, "rows": self.rows,
            "rows_from_history": self.rows_from_history,
            "not_ready": self.not_ready, "damaged": self.damaged,
            "lacks_before": self.lacks_before.iter()
                .map(|(view, whole_from)| (view.clone(), json!(historical::lacks_before(*whole_from))))
                .collect::<Map<_, _>>(),
        })
    }

    pub fn json(&self, path: &str, elapsed: Duration) -> Json {
        let mut json = json!({"file": path, "seconds": elapsed.as_secs_f64()});
        if let (Json::Object(json), Json::Object(note)) = (&mut json, self.note()) {
            json.extend(note);
            json.extend(output::nulls_json(&self.nulls).map(|(name, value)| (name.to_owned(), value)));
        }
        json
    }

    pub fn text(&self, path: &str, elapsed: Duration) -> String {
        let instant = if self.unpinned { "each as of its own instant, the last" } else { "as of" };
        let mut text = format!(
            "{path}: {}\n{}, {instant} {}, registry revision {}\n",
            output::rows_in(self.rows, elapsed),
            self.service,
            time::show(self.t),
            self.registry_revision,
        );
        if self.rows_from_history > 0 {
            text.push_str(&format!("{} from history\n", counted(self.rows_from_history, "key")));
        }
        if let Some(unread) = self.unread() {
            text.push_str(&format!("cells that could not be read: {unread}\n"));
        }
        text.push('\n');
        text.push_str(&output::nulls(&self.nulls, self.rows));
        text
    }

    /// Whoever computes on the file has to know that some of its values are made up.
    pub fn warnings(&self) -> Vec<String> {
        let unread = self.unread().map(|unread| {
            format!(
                "cells that could not be read have the feature's default or null: {unread}; \
                 --with-status tells which, and --strict fails instead"
            )
        });
        let lacking = self.lacks_before.iter().map(|(view, whole_from)| text_of_what_lacks(view, *whole_from));
        unread.into_iter().chain(lacking).collect()
    }

    fn unread(&self) -> Option<String> {
        let of = |number: u64, status: &str| (number > 0).then(|| format!("{} {status}", count(number)));
        let parts: Vec<String> =
            [of(self.not_ready, "NOT_READY"), of(self.damaged, "DAMAGED")].into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Float64Array, StringArray};

    use super::*;
    use crate::cli::online::score::without_statuses;

    fn answer(cells: &[(Option<f64>, &str)], statuses: &str) -> RecordBatch {
        let values: Float64Array = cells.iter().map(|cell| cell.0).collect();
        let texts = StringArray::from_iter_values(cells.iter().map(|cell| cell.1));
        let keys = StringArray::from_iter_values(cells.iter().map(|_| "EWR"));
        let columns: [(&str, ArrayRef); 3] =
            [("origin", Arc::new(keys)), ("temp", Arc::new(values)), (statuses, Arc::new(texts))];
        RecordBatch::try_from_iter(columns).expect("columns of one length")
    }

    #[test]
    fn cells_that_could_not_be_read_are_counted_and_told_everywhere() {
        let mut summary = Summary::default();
        summary.count_cells(&answer(&[(Some(1.0), "PRESENT"), (None, "NOT_FOUND")], "temp__status"), &[1]).expect("a");
        assert!(summary.warnings().is_empty());
        assert!(!summary.text("out", Duration::from_secs(1)).contains("could not be read"));
        // A default stands in the place of what is damaged.
        let second = answer(&[(None, "NOT_READY"), (Some(0.0), "DAMAGED"), (None, "NOT_READY")], "temp__status");
        summary.count_cells(&second, &[1]).expect("another");
        let (json, note) = (summary.json("out", Duration::from_secs(1)), summary.note());
        assert_eq!(json["nulls"], json!({"temp": 3}));
        for told in [&json, &note] {
            assert_eq!((&told["not_ready"], &told["damaged"]), (&json!(2), &json!(1)));
        }
        assert!(summary.text("out", Duration::from_secs(1)).contains("could not be read: 2 NOT_READY, 1 DAMAGED"));
        assert!(summary.warnings().concat().contains("2 NOT_READY, 1 DAMAGED"));
    }

    #[test]
    fn what_is_masked_is_told_as_that_and_not_as_missing() {
        let mut summary = Summary { rows: 2, ..Summary::default() };
        summary.count_cells(&answer(&[(None, "MASKED"), (None, "MASKED")], "temp__status"), &[1]).expect("an answer");
        let json = summary.json("out", Duration::from_secs(1));
        assert_eq!((&json["nulls"], &json["masked"]), (&json!({}), &json!(["temp"])));
        let text = summary.text("out", Duration::from_secs(1));
        assert!(text.contains("masked") && !text.contains("100.0 %"), "{text}");
    }

    #[test]
    fn statuses_are_left_out_by_their_place_and_not_by_a_name() {
        let answer = answer(&[(Some(1.0), "PRESENT")], "temp__status");
        let left = without_statuses(&answer, &[1]).expect("the rest");
        let names: Vec<&str> = left.schema_ref().fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names, ["origin", "temp"]);
    }

    #[test]
    fn an_answer_without_statuses_is_not_taken() {
        let refused = Summary::default().count_cells(&answer(&[(Some(1.0), "PRESENT")], "other"), &[1]);
        assert_eq!(refused.expect_err("no statuses").reason, "UNREADABLE_ANSWER");
    }
}
