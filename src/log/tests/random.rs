//! Random operations and disasters against the log and a simple model of what it owes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use hydrant_storage::files::lossy::Fault;
use hydrant_storage::order::Micros;
use hydrant_storage::record::ProducerStamp;
use proptest::prelude::*;

use super::disk::Machine;
use crate::clock::StoreTime;
use crate::log::conformance::{read_all, sample_request, sample_stamp};
use crate::log::{AppendError, AppendRequest, Appended, LocalLog, WriteLog};

#[derive(Clone, Debug)]
enum Step {
    /// So many requests at once, of so many rows, each of this producer if there is one.
    Append {
        requests: u64,
        rows: u32,
        producer: Option<u8>,
    },
    /// The n-th of all requests with a stamp so far, again.
    SendAgain(prop::sample::Index),
    MoveClock(i32),
    Fail {
        skipped: u64,
        fault: Fault,
        once: bool,
    },
    Trim(prop::sample::Index),
    Seal,
    /// The process starts again.
    Restart,
    /// The machine does.
    CutPower,
}

fn step() -> impl Strategy<Value = Step> {
    let append = (1..5_u64, 0..12_u32, prop::option::of(0..3_u8));
    let fault = (0..12_u64, prop::bool::ANY, prop::bool::ANY);
    prop_oneof![
        6 => append.prop_map(|(requests, rows, producer)| Step::Append { requests, rows, producer }),
        2 => any::<prop::sample::Index>().prop_map(Step::SendAgain),
        1 => any::<i32>().prop_map(Step::MoveClock),
        2 => fault.prop_map(|(skipped, full, once)| {
            Step::Fail { skipped, fault: if full { Fault::NoSpace } else { Fault::Device }, once }
        }),
        1 => any::<prop::sample::Index>().prop_map(Step::Trim),
        1 => Just(Step::Seal),
        1 => Just(Step::Restart),
        2 => Just(Step::CutPower),
    ]
}

/// What became of a request, as far as its sender knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Taken(Appended),
    Unknown,
    Refused,
}

struct Model {
    machine: Machine,
    log: Option<LocalLog>,
    time: Arc<StoreTime>,
    /// By tag, which is the request's revision too.
    sent: Vec<(AppendRequest, Fate)>,
    next_sequence: HashMap<u8, u64>,
    /// What readers were told or shown: the latest instant.
    latest: Micros,
    trimmed_through: u64,
}

impl Model {
    fn new(seed: u64) -> Self {
        let machine = Machine::new(seed);
        let (log, time) = machine.open().expect("the log opens");
        Self {
            machine,
            log: Some(log),
            time,
            sent: Vec::new(),
            next_sequence: HashMap::new(),
            latest: 0,
            trimmed_through: 0,
        }
    }

    fn log(&self) -> &LocalLog {
        self.log.as_ref().expect("open between steps")
    }

    async fn run(&mut self, step: &Step) {
        match step {
            Step::Append { requests, rows, producer } => {
                let tags: Vec<usize> = (0..*requests).map(|_| self.new_request(*rows, *producer)).collect();
                self.send(&tags).await;
            }
            Step::SendAgain(index) => {
                let stamped = |tag: &usize| self.sent[*tag].0.stamp.is_some();
                let tags: Vec<usize> = (0..self.sent.len()).filter(stamped).collect();
                if !tags.is_empty() {
                    let tag = tags[index.index(tags.len())];
                    // Twice at once: the second is a duplicate of the first in any case.
                    self.send(&[tag, tag]).await;
                }
            }
            Step::MoveClock(by) if *by >= 0 => {
                self.machine.clock.advance(Duration::from_micros(u64::from(by.unsigned_abs())))
            }
            Step::MoveClock(by) => self.machine.clock.set(self.time.wall() + i64::from(*by)),
            Step::Fail { skipped, fault, once: true } => self.machine.files.fail_once(*skipped, *fault),
            Step::Fail { skipped, fault, once: false } => self.machine.files.fail_on(*skipped, *fault),
            Step::Trim(index) => {
                let through = index.index(*self.log().durable().borrow() as usize + 1) as u64;
                self.trimmed_through = self.trimmed_through.max(through);
                // Fails if that was planned; what it must never do is checked at the next start.
                let _ = self.log().trim(through);
            }
            Step::Seal => {
                if let Ok(sealed) = self.log().seal().await {
                    assert!(sealed.time > self.latest);
                    self.latest = sealed.time;
                }
            }
            Step::Restart => self.start_again(false).await,
            Step::CutPower => self.start_again(true).await,
        }
        let read = self.time.read();
        assert!(read >= self.latest, "store time runs backwards");
        self.latest = read;
        if !self.machine.fatal.lock().expect("no panic").is_empty() {
            self.start_again(read % 2 == 0).await;
        }
    }

    fn new_request(&mut self, rows: u32, producer: Option<u8>) -> usize {
        let tag = self.sent.len();
        let stamp: Option<ProducerStamp> = producer.map(|producer| {
            let sequence = self.next_sequence.entry(producer).or_insert(0);
            *sequence += 1;
            sample_stamp(u128::from(producer), *sequence, tag as u128)
        });
        // At least a row, so that the tag is found again.
        self.sent.push((sample_request(tag as u64, rows + 1, stamp), Fate::Refused));
        tag
    }

    async fn send(&mut self, tags: &[usize]) {
        let answers = join_all(tags.iter().map(|tag| self.log().append(self.sent[*tag].0.clone()))).await;
        for (tag, answer) in tags.iter().zip(answers) {
            let fate = &mut self.sent[*tag].1;
            match (answer, *fate) {
                (Ok(appended), Fate::Taken(before)) => {
                    assert_eq!(appended, Appended { already: true, ..before }, "answered as before");
                }
                (Ok(appended), Fate::Unknown | Fate::Refused) => {
                    assert!(appended.already || appended.ingest_time > self.latest, "a stamp under a read");
                    *fate = Fate::Taken(Appended { already: true, ..appended });
                }
                (Err(_), Fate::Taken(_)) => {}
                (Err(AppendError::Closed), _) => *fate = Fate::Unknown,
                (Err(AppendError::SequenceTooOld { .. }), Fate::Refused) => {}
                (Err(AppendError::Full | AppendError::Storage(_)), _) => {}
                (Err(error), _) => panic!("request {tag}: {error}"),
            }
        }
    }

    async fn start_again(&mut self, power_cut: bool) {
        self.machine.files.heal();
        if power_cut {
            // With the log still there: its thread may be doing something just now.
            self.machine.files.crash();
        }
        self.log = None;
        self.machine.files.heal();
        self.machine.fatal.lock().expect("no panic").clear();
        let (log, time) = self.machine.open().expect("the log opens after any crash");
        assert!(time.read() >= self.latest, "store time runs backwards over a start");
        self.latest = time.read();
        (self.log, self.time) = (Some(log), time);
        self.check();
    }

    /// Compares the log with what it owes.
    fn check(&mut self) {
        let log = self.log.as_ref().expect("open");
        let oldest = log.oldest();
        assert!(oldest <= self.trimmed_through + 1, "more was trimmed than was let go of");
        let frames = read_all(log, oldest - 1).expect("readable");
        assert_eq!(frames.last().map_or(oldest - 1, |frame| frame.number), *log.durable().borrow());
        assert!(frames.iter().zip(oldest..).all(|(frame, number)| frame.number == number), "numbers have gaps");
        assert!(frames.is_sorted_by(|a, b| a.ingest_time < b.ingest_time), "ingest times don't rise");
        let mut found = HashSet::new();
        for frame in &frames {
            let tag = usize::try_from(frame.rows[0].revision).expect("a tag");
            let (request, fate) = &mut self.sent[tag];
            assert_eq!((&frame.rows, frame.stamp), (&request.rows, request.stamp), "a frame nobody sent");
            assert!(found.insert(tag), "request {tag} was taken twice");
            let here = Appended { frame: frame.number, ingest_time: frame.ingest_time, already: true };
            match fate {
                Fate::Taken(appended) => assert_eq!(*appended, here),
                Fate::Unknown => *fate = Fate::Taken(here),
                Fate::Refused => panic!("request {tag} was refused, and is in the log"),
            }
        }
        let durable = *log.durable().borrow();
        for (tag, (_, fate)) in self.sent.iter_mut().enumerate() {
            match fate {
                Fate::Taken(appended) if appended.frame >= oldest => {
                    assert!(found.contains(&tag), "request {tag} was acknowledged, and is lost");
                }
                Fate::Taken(appended) => assert!(appended.frame <= durable),
                // It must not come up later.
                Fate::Unknown => *fate = Fate::Refused,
                Fate::Refused => {}
            }
        }
        let taken: BTreeMap<u64, Micros> = self
            .sent
            .iter()
            .filter_map(|(_, fate)| match fate {
                Fate::Taken(appended) => Some((appended.frame, appended.ingest_time)),
                Fate::Unknown | Fate::Refused => None,
            })
            .collect();
        assert!(taken.values().is_sorted_by(|a, b| a < b), "ingest times don't rise over starts");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    // On failure the seed and the steps are printed, and replay the run but for the timing of
    // requests that are sent at once.
    #[test]
    fn what_was_acknowledged_survives_and_nothing_is_invented(
        seed in any::<u64>(), steps in prop::collection::vec(step(), 1..60)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let mut model = Model::new(seed);
            for step in &steps {
                model.run(step).await;
            }
            model.start_again(true).await;
        });
    }
}
