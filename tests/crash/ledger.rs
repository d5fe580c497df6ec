//! What was sent, and what is known of it. A request is acknowledged, or sent without an answer; of
//! the latter an answer to a read, or to the same request sent again, tells whether it was taken.

use std::collections::{BTreeMap, HashMap};

use crate::answers::{Answer, Seen};
use crate::rows::Row;

/// Where an acknowledged request is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub frame: u64,
    pub ingest_time: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Sent, and the server was killed before it answered: taken or not.
    Unanswered,
    /// Never answered, but its rows have been seen.
    Seen,
    /// Never answered, and its rows are not there.
    NotTaken,
    Acknowledged(Place),
}

#[derive(Clone, Debug)]
pub struct Sent {
    pub writer: usize,
    pub sequence: u64,
    pub rows: Vec<Row>,
    pub fate: Fate,
    /// Its writer has given it up and will not send it again.
    pub abandoned: bool,
}

impl Sent {
    /// Whether its rows have to be there.
    fn is_taken(&self) -> bool {
        matches!(self.fate, Fate::Seen | Fate::Acknowledged(_))
    }
}

/// A key of one of the two views.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    Device(usize),
    Site(i64),
}

#[derive(Debug, Default)]
pub struct Ledger {
    pub requests: Vec<Sent>,
    /// The number of the next row.
    pub next_tick: i64,
    /// By key, the row that counts among those that have to be there.
    newest: HashMap<Key, Row>,
    /// Acknowledged requests by their place in the log.
    frames: BTreeMap<u64, i64>,
    /// The greatest frame and instant ever told.
    last_frame: u64,
    last_instant: i64,
}

impl Ledger {
    pub fn sends(&mut self, writer: usize, sequence: u64, rows: Vec<Row>) -> usize {
        self.requests.push(Sent { writer, sequence, rows, fate: Fate::Unanswered, abandoned: false });
        self.requests.len() - 1
    }

    /// The server has answered that a request is durable, or was already.
    pub fn acknowledge(&mut self, request: usize, place: Place, already: bool) {
        let sent = &mut self.requests[request];
        let name = format!("request {} of writer {}", sent.sequence, sent.writer);
        match sent.fate {
            Fate::Acknowledged(before) => {
                assert!(already, "{name} was acknowledged, and is taken again");
                assert_eq!(place, before, "{name} is answered otherwise than before");
                return;
            }
            Fate::Seen => assert!(already, "the rows of {name} were seen, and it is taken again"),
            Fate::NotTaken => assert!(!already, "{name} was not there, and is said to have been taken"),
            Fate::Unanswered => {}
        }
        sent.fate = Fate::Acknowledged(place);
        let rows = sent.rows.clone();
        self.counts(&rows);
        let twice = self.frames.insert(place.frame, place.ingest_time);
        assert_eq!(twice, None, "two requests are frame {}", place.frame);
        let (before, after) =
            (self.frames.range(..place.frame).next_back(), self.frames.range(place.frame + 1..).next());
        assert!(before.is_none_or(|(_, time)| *time < place.ingest_time), "ingest times fall: {before:?}, {place:?}");
        assert!(after.is_none_or(|(_, time)| *time > place.ingest_time), "ingest times fall: {place:?}, {after:?}");
        self.last_frame = self.last_frame.max(place.frame);
        self.last_instant = self.last_instant.max(place.ingest_time);
    }

    /// The greatest frame that was acknowledged: every frame given out later is greater.
    pub fn last_frame(&self) -> u64 {
        self.last_frame
    }

    /// The server has told an instant of a read: store time never runs backwards.
    pub fn instant(&mut self, t: i64) {
        assert!(t >= self.last_instant, "store time was {} and is {t}", self.last_instant);
        self.last_instant = t;
    }

    /// How many requests have to be in the log, and how many may be besides.
    pub fn taken_and_possible(&self) -> (u64, u64) {
        let taken = self.requests.iter().filter(|sent| sent.is_taken()).count();
        let possible = self.requests.iter().filter(|sent| sent.fate == Fate::Unanswered).count();
        (taken as u64, possible as u64)
    }

    /// Every row that was ever sent.
    pub fn sent_rows(&self) -> Vec<Row> {
        self.requests.iter().flat_map(|sent| sent.rows.iter().copied()).collect()
    }

    /// The rows that have to be there.
    pub fn taken_rows(&self) -> impl Iterator<Item = &Row> {
        self.requests.iter().filter(|sent| sent.is_taken()).flat_map(|sent| &sent.rows)
    }

    pub fn unanswered(&self) -> Vec<usize> {
        let is_open = |request: &usize| !self.requests[*request].abandoned && !self.is_acknowledged(*request);
        (0..self.requests.len()).filter(is_open).collect()
    }

    pub fn is_acknowledged(&self, request: usize) -> bool {
        matches!(self.requests[request].fate, Fate::Acknowledged(_))
    }

    /// Checks a read that went on beside writes: each value is of a row that was sent for its key.
    pub fn check_glance(&mut self, answer: &Answer) {
        for (key, seen) in &answer.cells {
            let Seen::Tick(tick) = *seen else { continue };
            // Requests are entered in the order of their ticks.
            let after = self.requests.partition_point(|sent| sent.rows[0].tick <= tick);
            let sent = after.checked_sub(1).and_then(|index| self.requests.get(index));
            let row = sent.and_then(|sent| sent.rows.iter().find(|row| row.tick == tick));
            let row = row.unwrap_or_else(|| panic!("{key:?} answers {tick}, which was never sent"));
            let of_key = [Key::Device(row.device), Key::Site(row.site)].contains(key);
            assert!(of_key && !row.deleted, "{key:?} answers {row:?}");
        }
        self.last_instant = self.last_instant.max(answer.t);
    }

    /// Checks a read of every key against what has to be there and what may be, and learns from it
    /// which requests without an answer were taken. All of a request or nothing of it is there.
    pub fn check_read(&mut self, answer: &Answer) {
        self.instant(answer.t);
        let mut open: HashMap<Key, Vec<(usize, Row)>> = HashMap::new();
        for (index, sent) in self.requests.iter().enumerate().filter(|(_, sent)| sent.fate == Fate::Unanswered) {
            for row in &sent.rows {
                open.entry(Key::Device(row.device)).or_default().push((index, *row));
                open.entry(Key::Site(row.site)).or_default().push((index, *row));
            }
        }
        let mut taken: BTreeMap<usize, (Key, bool)> = BTreeMap::new();
        for (key, seen) in &answer.cells {
            let newest = self.newest.get(key);
            let candidates = open.get(key).map(Vec::as_slice).unwrap_or_default();
            for (request, is_taken) in evidence(*key, *seen, newest, candidates) {
                let (other, before) = *taken.entry(request).or_insert((*key, is_taken));
                let sent = &self.requests[request];
                assert_eq!(
                    before, is_taken,
                    "of request {} of writer {} the row of {key:?} is there: {is_taken}, that of {other:?}: {before}",
                    sent.sequence, sent.writer
                );
            }
        }
        for (request, (_, is_taken)) in taken {
            self.settle(request, is_taken);
        }
        // With what was learned from other keys, each key's answer is still the one that counts.
        for (key, seen) in &answer.cells {
            let newest = self.newest.get(key);
            let possible = |row: &Row| newest.is_none_or(|newest| row.event_time > newest.event_time);
            let open = open.get(key).into_iter().flatten();
            let mut open =
                open.filter(|(request, row)| self.requests[*request].fate == Fate::Unanswered && possible(row));
            let is_newest = matches(*seen, newest);
            assert!(is_newest || open.any(|(_, row)| matches(*seen, Some(row))), "{key:?}: {seen:?}, not {newest:?}");
        }
    }

    /// What a training set told of a request that was never answered.
    pub fn settle(&mut self, request: usize, is_taken: bool) {
        let sent = &mut self.requests[request];
        let told = if is_taken { Fate::Seen } else { Fate::NotTaken };
        let name = format!("request {} of writer {}", sent.sequence, sent.writer);
        match sent.fate {
            Fate::Unanswered => sent.fate = told,
            before => assert_eq!(before, told, "{name} has changed its fate"),
        }
        if is_taken {
            let rows = sent.rows.clone();
            self.counts(&rows);
        }
    }

    fn counts(&mut self, rows: &[Row]) {
        for row in rows {
            for key in [Key::Device(row.device), Key::Site(row.site)] {
                let newest = self.newest.entry(key).or_insert(*row);
                if row.event_time > newest.event_time {
                    *newest = *row;
                }
            }
        }
    }
}

/// What the answer for a key tells of requests: (request, whether it was taken).
fn evidence(key: Key, seen: Seen, newest: Option<&Row>, open: &[(usize, Row)]) -> Vec<(usize, bool)> {
    let later: Vec<&(usize, Row)> =
        open.iter().filter(|(_, row)| newest.is_none_or(|newest| row.event_time > newest.event_time)).collect();
    let matching: Vec<&&(usize, Row)> = later.iter().filter(|(_, row)| matches(seen, Some(row))).collect();
    let is_newest = matches(seen, newest);
    assert!(
        is_newest || !matching.is_empty(),
        "{key:?} answers {seen:?}; {newest:?} was acknowledged, and these may have been taken: {later:?}"
    );
    // A deleted key may be so for several reasons; what is certain is that nothing later is there.
    let latest_reason = matching.iter().map(|(_, row)| row.event_time).max();
    let latest_reason = latest_reason.or(newest.map(|newest| newest.event_time));
    let mut told = Vec::new();
    for (request, row) in &later {
        if latest_reason.is_none_or(|reason| row.event_time > reason) {
            told.push((*request, false));
        }
    }
    if let ([(request, _)], false) = (matching.as_slice(), is_newest) {
        told.push((*request, true));
    }
    told
}

fn matches(seen: Seen, row: Option<&Row>) -> bool {
    match (seen, row) {
        (Seen::NotFound, None) => true,
        (Seen::NotFound, Some(row)) => row.deleted,
        (Seen::Tick(tick), Some(row)) => row.tick == tick && !row.deleted,
        (Seen::Tick(_), None) => false,
    }
}
