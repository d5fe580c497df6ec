//! What waits to be told, kept as JSON under one key of the metadata: events in their order, runs under way
//! with nobody having told their end, and the rows that were ingested in the stretch of time that is not over.
//! A value that can't be read stops the start: what was to be told is not forgotten in silence.

use std::collections::{BTreeMap, VecDeque};

use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;
use serde::{Deserialize, Serialize};

use crate::error::{Code, Error, Result};

pub const OUTBOX: &str = "openlineage_outbox";

const FORMAT: u32 = 1;

/// Runs under way that are remembered. There are no more at a time.
const MAX_OPEN: usize = 10_000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    format: u32,
    /// The number of the event that was put last.
    pub next: u64,
    /// The one made first in front.
    pub outbox: VecDeque<Waiting>,
    /// By the run's id.
    pub open: BTreeMap<String, Opened>,
    pub ingested: Vec<Stretch>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    pub number: u64,
    pub event: String,
    pub attempts: u32,
    /// Not before it.
    pub due: Micros,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    pub job: String,
    pub job_type: String,
}

/// Rows that came into a source in a stretch of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    pub tenant: Name,
    pub source: Name,
    pub from: Micros,
    pub rows: u64,
    pub views: BTreeMap<Name, u64>,
}

impl Default for Kept {
    fn default() -> Self {
        Self { format: FORMAT, next: 0, outbox: VecDeque::new(), open: BTreeMap::new(), ingested: Vec::new() }
    }
}

impl Kept {
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("names, texts and numbers are JSON")
    }

    pub fn decode(value: &[u8]) -> Result<Self> {
        let kept: Self = serde_json::from_slice(value).map_err(|error| damaged(&error.to_string()))?;
        match kept.format {
            FORMAT => Ok(kept),
            other => Err(damaged(&format!("format {other}, and {FORMAT} is known"))),
        }
    }

    pub fn put(&mut self, event: String, due: Micros) {
        self.next += 1;
        self.outbox.push_back(Waiting { number: self.next, event, attempts: 0, due });
    }

    /// How many of the oldest went.
    pub fn make_room(&mut self, max_queued: usize, max_bytes: u64) -> u64 {
        let mut bytes: u64 = self.outbox.iter().map(|waiting| waiting.event.len() as u64).sum();
        let mut dropped = 0;
        while self.outbox.len() > max_queued || (bytes > max_bytes && !self.outbox.is_empty()) {
            let oldest = self.outbox.pop_front();
            bytes -= oldest.map_or(0, |oldest| oldest.event.len() as u64);
            dropped += 1;
        }
        dropped
    }

    pub fn open(&mut self, run_id: String, job: String, job_type: &str) {
        if self.open.len() < MAX_OPEN {
            self.open.insert(run_id, Opened { job, job_type: job_type.to_owned() });
        }
    }

    pub fn count(&mut self, tenant: &Name, source: &Name, from: Micros, rows: u64, views: BTreeMap<Name, u64>) {
        let is_same = |of: &&mut Stretch| of.from == from && of.source == *source && of.tenant == *tenant;
        let stretch = match self.ingested.iter_mut().find(is_same) {
            Some(stretch) => stretch,
            None => {
                let (tenant, source) = (tenant.clone(), source.clone());
                self.ingested.push(Stretch { tenant, source, from, rows: 0, views: BTreeMap::new() });
                self.ingested.last_mut().expect("it was just put there")
            }
        };
        stretch.rows += rows;
        for (view, rows) in views {
            *stretch.views.entry(view).or_default() += rows;
        }
    }
}

/// As it is told; of what a later version has kept, in general.
pub fn job_type(kept: &str) -> &'static str {
    ["BACKFILL", "MATERIALIZE", "TRAINING_SET"].into_iter().find(|known| *known == kept).unwrap_or("JOB")
}

fn damaged(problem: &str) -> Error {
    let message = format!("what waits to be told of lineage can't be read: '{OUTBOX}' in registry: {problem}");
    Error::new(Code::DataLoss, "OPENLINEAGE_STATE_DAMAGED", message).hint(
        "use the version of Hydrant that wrote it, or a later one, or restore that file from a backup; without it what \
         waited is never told",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::name;

    #[test]
    fn what_waits_comes_back_and_the_oldest_make_room() {
        let mut kept = Kept::default();
        for number in 0..5 {
            kept.put(format!("event {number}"), 7);
        }
        kept.open("a run".to_owned(), "a job".to_owned(), "BACKFILL");
        kept.count(&name("default"), &name("weather"), 0, 3, BTreeMap::from([(name("view"), 2)]));
        kept.count(&name("default"), &name("weather"), 0, 1, BTreeMap::from([(name("view"), 1)]));
        assert_eq!((kept.ingested.len(), kept.ingested[0].rows, kept.ingested[0].views[&name("view")]), (1, 4, 3));
        assert_eq!(Kept::decode(&kept.encode()).expect("as it was written"), kept);
        assert_eq!(kept.make_room(3, 1_000), 2);
        assert_eq!(kept.outbox[0].event, "event 2");
        assert_eq!(kept.make_room(3, 8), 2);
        assert_eq!(kept.outbox[0].number, 5);
    }

    #[test]
    fn what_is_not_as_it_was_written_is_told_and_not_taken_for_nothing() {
        let later = String::from_utf8(Kept::default().encode()).expect("JSON").replace("\"format\":1", "\"format\":2");
        for value in ["", "{}", later.as_str()] {
            assert_eq!(Kept::decode(value.as_bytes()).expect_err(value).reason, "OPENLINEAGE_STATE_DAMAGED");
        }
    }
}
