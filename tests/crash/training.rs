//! A training set over every row that was ever sent: each stands in the spine at its own time, so
//! that not only the newest of a key is checked but all.

use std::collections::HashMap;

use arrow_array::cast::AsArray as _;
use arrow_array::types::Int64Type;
use arrow_array::{Array as _, RecordBatch};
use hydrant::rpc::client::Client;
use hydrant::rpc::v1;

use crate::answers::Seen;
use crate::ledger::{Fate, Key, Ledger};
use crate::rows::{self, Row, SERVICE, note};

/// Rows of one batch of the spine.
const BATCH: usize = 8_192;

#[derive(Debug)]
pub struct TrainingSet {
    pub report: v1::TrainingSetReport,
    /// What was found for a row: by device, by site.
    found: HashMap<i64, [Seen; 2]>,
}

impl TrainingSet {
    /// Over all rows that were ever sent, up to a cut-off.
    pub async fn of(client: &Client, all: &[Row], cutoff: Option<i64>) -> Self {
        let command = v1::HistoricalFeaturesCommand {
            services: vec![SERVICE.to_owned()],
            event_time: "at".to_owned(),
            cutoff,
            with_status: true,
            ..Default::default()
        };
        let batches: Vec<_> = all.chunks(BATCH).map(|rows| Ok(rows::spine(rows))).collect();
        let schema = rows::spine(&[]).schema();
        let set = client.training_set(command, schema, tokio_stream::iter(batches)).await;
        let mut set = set.unwrap_or_else(|refusal| panic!("{refusal:?}"));
        let mut found = HashMap::new();
        let mut ticks = Vec::new();
        while let Some(batch) = set.next().await.unwrap_or_else(|refusal| panic!("{refusal:?}")) {
            let of_batch = batch.column_by_name("tick").expect("carried through").as_primitive::<Int64Type>();
            let (by_device, by_site) = (seen(&batch, "by_device"), seen(&batch, "by_site"));
            for (row, tick) in of_batch.values().iter().enumerate() {
                found.insert(*tick, [by_device[row], by_site[row]]);
            }
            ticks.extend_from_slice(of_batch.values());
        }
        assert!(ticks.iter().copied().eq(all.iter().map(|row| row.tick)), "the spine's rows, in its order");
        let report = set.report().cloned().expect("it came with the end");
        assert_eq!(report.rows, all.len() as u64);
        Self { report, found }
    }

    /// Settles what was never answered, and then checks every row against what counts at its time.
    pub fn check(&self, ledger: &mut Ledger) {
        for index in 0..ledger.requests.len() {
            let sent = &ledger.requests[index];
            if sent.fate != Fate::Unanswered {
                continue;
            }
            // A row that deletes is told from one that isn't there by what lies before it, if at all.
            let telling = sent.rows.iter().find(|row| !row.deleted).copied();
            let is_there = telling.map(|row| self.found[&row.tick] == [Seen::Tick(row.tick); 2]);
            if let Some(is_taken) = is_there {
                ledger.settle(index, is_taken);
            }
        }
        let mut histories: HashMap<Key, Vec<Row>> = HashMap::new();
        for row in ledger.taken_rows() {
            for key in [Key::Device(row.device), Key::Site(row.site)] {
                histories.entry(key).or_default().push(*row);
            }
        }
        histories.values_mut().for_each(|rows| rows.sort_unstable_by_key(|row| row.event_time));
        // Requests that only delete and were never answered: their keys can't be told about.
        let untold = ledger.requests.iter().filter(|sent| sent.fate == Fate::Unanswered).flat_map(|sent| &sent.rows);
        let untold: Vec<Key> = untold.flat_map(|row| [Key::Device(row.device), Key::Site(row.site)]).collect();
        for row in ledger.requests.iter().flat_map(|sent| &sent.rows) {
            for (key, found) in [Key::Device(row.device), Key::Site(row.site)].into_iter().zip(self.found[&row.tick]) {
                let history = histories.get(&key).map(Vec::as_slice).unwrap_or_default();
                let before = history.partition_point(|other| other.event_time <= row.event_time);
                let counts = before.checked_sub(1).map(|index| history[index]);
                let expected = counts.filter(|row| !row.deleted).map_or(Seen::NotFound, |row| Seen::Tick(row.tick));
                let maybe_deleted = found == Seen::NotFound && untold.contains(&key);
                assert!(found == expected || maybe_deleted, "{key:?} at {row:?}: {found:?}, not {expected:?}");
            }
        }
    }
}

fn seen(batch: &RecordBatch, view: &str) -> Vec<Seen> {
    let column = |name: String| batch.column_by_name(&name).unwrap_or_else(|| panic!("there is no {name}")).clone();
    let (values, notes) = (column(format!("{view}__value")), column(format!("{view}__note")));
    let statuses = column(format!("{view}__value__status"));
    let statuses = statuses.as_string::<i32>();
    let (values, notes) = (values.as_primitive::<Int64Type>(), notes.as_string::<i32>());
    (0..batch.num_rows())
        .map(|row| match statuses.value(row) {
            "PRESENT" => {
                assert_eq!(notes.value(row), note(values.value(row)), "no such row was ever written");
                Seen::Tick(values.value(row))
            }
            "NOT_FOUND" => {
                assert!(values.is_null(row) && notes.is_null(row));
                Seen::NotFound
            }
            other => panic!("{view}: {other}"),
        })
        .collect()
}
