//! What each producer has sent, so that a request is taken once. Held in memory, rebuilt from the
//! log, and from a checkpoint for what was trimmed from it. Producers are numbers here; nothing is
//! known of tenants.

use std::collections::{HashMap, VecDeque};

use hydrant_storage::order::Micros;
use hydrant_storage::record::ProducerStamp;

/// How much is remembered, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Horizon {
    /// Since a producer's last use.
    pub unused: Micros,
    /// The answers kept for each producer.
    pub answers: usize,
    /// How many producers are remembered at once.
    pub producers: usize,
}

#[derive(Debug)]
pub struct Producers {
    horizon: Horizon,
    known: HashMap<u128, Producer>,
    /// How to take back what was recorded since the last [`Producers::commit`], newest last.
    undo: Vec<Undo>,
    last_clean_up: Micros,
}

/// What to do with a stamped request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    New,
    /// Taken before, there.
    Taken {
        frame: u64,
        ingest_time: Micros,
    },
    /// Taken before with another payload.
    Reused,
    /// Never taken, and lower than `last`.
    TooOld {
        last: u64,
    },
    TooManyProducers,
}

impl Producers {
    pub fn new(horizon: Horizon) -> Self {
        Self { horizon, known: HashMap::new(), undo: Vec::new(), last_clean_up: Micros::MIN }
    }

    /// How many producers are remembered at once.
    pub fn limit(&self) -> usize {
        self.horizon.producers
    }

    /// Judges a request that is sent `now`.
    pub fn judge(&mut self, stamp: &ProducerStamp, now: Micros) -> Verdict {
        let Some(producer) = self.known.get_mut(&stamp.producer) else {
            if self.known.len() >= self.horizon.producers && self.last_clean_up < now.saturating_sub(CLEAN_UP_EVERY) {
                self.forget_unused(now);
            }
            return if self.known.len() < self.horizon.producers { Verdict::New } else { Verdict::TooManyProducers };
        };
        producer.last_use = producer.last_use.max(now);
        producer.judge(stamp)
    }

    /// Remembers that a request was taken.
    pub fn record(&mut self, stamp: &ProducerStamp, frame: u64, ingest_time: Micros) {
        let answer = Answer { sequence: stamp.sequence, payload_hash: stamp.payload_hash, frame, ingest_time };
        let known_before = self.known.contains_key(&stamp.producer);
        let producer = self.known.entry(stamp.producer).or_default();
        let mut undo = Undo {
            producer: stamp.producer,
            known_before,
            last_use: producer.last_use,
            forgotten_through: producer.forgotten_through,
            dropped: None,
        };
        if producer.answers.back().is_some_and(|last| last.sequence >= stamp.sequence) {
            // Replayed from the log: the producer had been forgotten before it began anew.
            *producer = Producer::default();
        }
        producer.last_use = producer.last_use.max(ingest_time);
        producer.answers.push_back(answer);
        if producer.answers.len() > self.horizon.answers {
            undo.dropped = producer.answers.pop_front();
            producer.forgotten_through = undo.dropped.map(|dropped| dropped.sequence);
        }
        self.undo.push(undo);
    }

    /// What was recorded is durable.
    pub fn commit(&mut self) {
        self.undo.clear();
    }

    /// What was recorded since the last commit was not written after all.
    pub fn roll_back(&mut self) {
        while let Some(undo) = self.undo.pop() {
            let Some(producer) = self.known.get_mut(&undo.producer) else { continue };
            producer.answers.pop_back();
            if let Some(dropped) = undo.dropped {
                producer.answers.push_front(dropped);
            }
            producer.forgotten_through = undo.forgotten_through;
            producer.last_use = undo.last_use;
            if !undo.known_before {
                self.known.remove(&undo.producer);
            }
        }
    }

    /// Forgets the producers that were not used within the horizon.
    pub fn forget_unused(&mut self, now: Micros) {
        let oldest = now.saturating_sub(self.horizon.unused);
        self.known.retain(|_, producer| producer.last_use >= oldest);
        self.last_clean_up = now;
    }

    /// Everything, as it is after frame `through`.
    pub fn encode(&self, through: u64) -> Vec<u8> {
        let answers: usize = self.known.values().map(|producer| producer.answers.len()).sum();
        let mut out = Vec::with_capacity(HEAD_LEN + self.known.len() * PRODUCER_LEN + answers * ANSWER_LEN + 4);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&through.to_le_bytes());
        out.extend_from_slice(&(self.known.len() as u64).to_le_bytes());
        for (id, producer) in &self.known {
            out.extend_from_slice(&id.to_le_bytes());
            out.extend_from_slice(&producer.last_use.to_le_bytes());
            out.push(u8::from(producer.forgotten_through.is_some()));
            out.extend_from_slice(&producer.forgotten_through.unwrap_or(0).to_le_bytes());
            out.extend_from_slice(&(producer.answers.len() as u32).to_le_bytes());
            for answer in &producer.answers {
                out.extend_from_slice(&answer.sequence.to_le_bytes());
                out.extend_from_slice(&answer.payload_hash.to_le_bytes());
                out.extend_from_slice(&answer.frame.to_le_bytes());
                out.extend_from_slice(&answer.ingest_time.to_le_bytes());
            }
        }
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// What [`Producers::encode`] gave, and the frame through which it tells; or what is wrong.
    pub fn decode(bytes: &[u8], horizon: Horizon) -> Result<(u64, Self), &'static str> {
        const CUT: &str = "ends early";
        let (content, crc) = bytes.split_last_chunk::<4>().ok_or(CUT)?;
        if crc32fast::hash(content) != u32::from_le_bytes(*crc) {
            return Err("does not match its checksum");
        }
        let mut rest = content;
        if take(&mut rest).ok_or(CUT)? != MAGIC {
            return Err("is of a format that is not known to this version of Hydrant");
        }
        let through = take(&mut rest).map(u64::from_le_bytes).ok_or(CUT)?;
        let count = take(&mut rest).map(u64::from_le_bytes).ok_or(CUT)?;
        let mut producers = Self::new(horizon);
        for _ in 0..count {
            let (id, producer) = Producer::decode(&mut rest).ok_or(CUT)?;
            producers.known.insert(id, producer);
        }
        if rest.is_empty() { Ok((through, producers)) } else { Err("has bytes behind its end") }
    }
}

const MAGIC: [u8; 8] = *b"HYDPRD\0\x01";
const HEAD_LEN: usize = 8 + 8 + 8;
const PRODUCER_LEN: usize = 16 + 8 + 1 + 8 + 4;
const ANSWER_LEN: usize = 8 + 16 + 8 + 8;
/// How often a full table is searched for producers to forget: 1 min.
const CLEAN_UP_EVERY: Micros = 60_000_000;

#[derive(Debug, Default)]
struct Producer {
    last_use: Micros,
    /// Answers through this sequence were given and are not kept.
    forgotten_through: Option<u64>,
    /// Ascending by sequence and by frame; never empty.
    answers: VecDeque<Answer>,
}

#[derive(Clone, Copy, Debug)]
struct Answer {
    sequence: u64,
    payload_hash: u128,
    frame: u64,
    ingest_time: Micros,
}

#[derive(Debug)]
struct Undo {
    producer: u128,
    known_before: bool,
    last_use: Micros,
    forgotten_through: Option<u64>,
    dropped: Option<Answer>,
}

impl Producer {
    fn judge(&self, stamp: &ProducerStamp) -> Verdict {
        let (Some(first), Some(last)) = (self.answers.front(), self.answers.back()) else { return Verdict::New };
        if stamp.sequence > last.sequence {
            return Verdict::New;
        }
        match self.answers.binary_search_by_key(&stamp.sequence, |answer| answer.sequence) {
            Ok(at) if self.answers[at].payload_hash == stamp.payload_hash => {
                Verdict::Taken { frame: self.answers[at].frame, ingest_time: self.answers[at].ingest_time }
            }
            Ok(_) => Verdict::Reused,
            // Where it was is forgotten, but not later than the oldest that is known.
            Err(_) if self.forgotten_through.is_some_and(|through| stamp.sequence <= through) => {
                Verdict::Taken { frame: first.frame, ingest_time: first.ingest_time }
            }
            Err(_) => Verdict::TooOld { last: last.sequence },
        }
    }

    fn decode(rest: &mut &[u8]) -> Option<(u128, Self)> {
        let id = take(rest).map(u128::from_le_bytes)?;
        let last_use = take(rest).map(Micros::from_le_bytes)?;
        let [has_forgotten] = take(rest)?;
        let forgotten = take(rest).map(u64::from_le_bytes)?;
        let count = take(rest).map(u32::from_le_bytes)? as usize;
        if count > rest.len() / ANSWER_LEN {
            return None;
        }
        let mut answers = VecDeque::with_capacity(count);
        for _ in 0..count {
            answers.push_back(Answer {
                sequence: take(rest).map(u64::from_le_bytes)?,
                payload_hash: take(rest).map(u128::from_le_bytes)?,
                frame: take(rest).map(u64::from_le_bytes)?,
                ingest_time: take(rest).map(Micros::from_le_bytes)?,
            });
        }
        Some((id, Self { last_use, forgotten_through: (has_forgotten == 1).then_some(forgotten), answers }))
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, behind) = rest.split_first_chunk::<N>()?;
    *rest = behind;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HORIZON: Horizon = Horizon { unused: 1_000, answers: 3, producers: 2 };

    fn stamp(producer: u128, sequence: u64, payload_hash: u128) -> ProducerStamp {
        ProducerStamp { producer, sequence, payload_hash }
    }

    /// Sequences 10, 20, 30 of producer 1, in frames 1, 2, 3 at times 100, 200, 300.
    fn three_taken() -> Producers {
        let mut producers = Producers::new(HORIZON);
        for frame in 1..=3 {
            producers.record(&stamp(1, frame * 10, 7), frame, frame.cast_signed() * 100);
        }
        producers.commit();
        producers
    }

    #[test]
    fn a_sequence_seen_before_is_answered_as_before() {
        let mut producers = three_taken();
        assert_eq!(producers.judge(&stamp(1, 20, 7), 400), Verdict::Taken { frame: 2, ingest_time: 200 });
        assert_eq!(producers.judge(&stamp(1, 20, 8), 400), Verdict::Reused);
        assert_eq!(producers.judge(&stamp(1, 25, 7), 400), Verdict::TooOld { last: 30 });
        assert_eq!(producers.judge(&stamp(1, 5, 7), 400), Verdict::TooOld { last: 30 });
        assert_eq!(producers.judge(&stamp(1, 31, 7), 400), Verdict::New);
        assert_eq!(producers.judge(&stamp(2, 1, 7), 400), Verdict::New);
    }

    #[test]
    fn a_sequence_whose_answer_is_not_kept_counts_as_taken() {
        let mut producers = three_taken();
        producers.record(&stamp(1, 40, 7), 4, 400);
        assert_eq!(producers.judge(&stamp(1, 10, 99), 500), Verdict::Taken { frame: 2, ingest_time: 200 });
        assert_eq!(producers.judge(&stamp(1, 5, 7), 500), Verdict::Taken { frame: 2, ingest_time: 200 });
        assert_eq!(producers.judge(&stamp(1, 15, 7), 500), Verdict::TooOld { last: 40 });
    }

    #[test]
    fn what_was_not_written_is_not_remembered() {
        let mut producers = three_taken();
        let before = producers.encode(3);
        producers.record(&stamp(1, 40, 7), 4, 400);
        producers.record(&stamp(1, 50, 7), 5, 500);
        producers.record(&stamp(2, 1, 7), 6, 600);
        producers.roll_back();
        assert_eq!(producers.encode(3), before);
    }

    #[test]
    fn producers_are_forgotten_after_the_horizon_since_their_last_use() {
        let mut producers = three_taken();
        producers.judge(&stamp(1, 10, 7), 900);
        producers.forget_unused(1_900);
        assert_eq!(producers.judge(&stamp(1, 10, 7), 1_900), Verdict::Taken { frame: 1, ingest_time: 100 });
        producers.forget_unused(2_901);
        assert_eq!(producers.judge(&stamp(1, 10, 7), 2_901), Verdict::New);
    }

    #[test]
    fn no_more_producers_are_remembered_than_the_bound() {
        let mut producers = three_taken();
        producers.record(&stamp(2, 1, 7), 4, 400);
        producers.commit();
        assert_eq!(producers.judge(&stamp(3, 1, 7), 500), Verdict::TooManyProducers);
        assert_eq!(producers.judge(&stamp(3, 1, 7), CLEAN_UP_EVERY * 2), Verdict::New);
    }

    #[test]
    fn a_checkpoint_reads_as_it_was_written_and_not_at_all_if_damaged() {
        let mut producers = three_taken();
        producers.record(&stamp(1, 40, 7), 4, 400);
        producers.record(&stamp(2, 1, 9), 5, 500);
        let bytes = producers.encode(5);
        let (through, mut again) = Producers::decode(&bytes, HORIZON).expect("whole");
        assert_eq!(through, 5);
        for sequence in [5, 10, 15, 20, 30, 35, 40, 41] {
            for producer in [1, 2] {
                let stamp = stamp(producer, sequence, 7);
                assert_eq!(again.judge(&stamp, 600), producers.judge(&stamp, 600), "{stamp:?}");
            }
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Producers::decode(&damaged, HORIZON).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(Producers::decode(&bytes[..len], HORIZON).is_err(), "{len} bytes");
        }
    }
}
