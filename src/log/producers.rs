//! What each producer has sent, so that a request is taken once. Held in memory, rebuilt from the
//! log, and from a checkpoint for what was trimmed from it. Producers are numbers here; nothing is
//! known of tenants.

use std::collections::{HashMap, VecDeque};
use std::mem::size_of;
use std::sync::Arc;

use hydrant_storage::order::Micros;
use hydrant_storage::record::ProducerStamp;

/// How much is remembered, and for how long. Within the horizon nothing is forgotten to make room:
/// what finds none is refused.
#[derive(Clone, Copy, Debug)]
pub struct Horizon {
    /// Since a producer's last use.
    pub unused: Micros,
    /// The answers kept for each producer.
    pub answers: usize,
    /// The memory that all of it may take.
    pub bytes: usize,
}

#[derive(Debug)]
pub struct Producers {
    horizon: Horizon,
    /// By their id, which is a hash. A checkpoint shares them; what changes meanwhile is copied, piece
    /// by piece.
    shards: Vec<Arc<Shard>>,
    bytes: usize,
    /// How to take back what was recorded since the last [`Producers::commit`], newest last.
    undo: Vec<Undo>,
    cleaned_until: Micros,
    clean_next: usize,
}

type Shard = HashMap<u128, Arc<Producer>>;

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
    /// New, and there is no room to remember it.
    NoRoom,
}

impl Producers {
    pub fn new(horizon: Horizon) -> Self {
        let shards = vec![Arc::default(); SHARDS];
        Self { horizon, shards, bytes: 0, undo: Vec::new(), cleaned_until: Micros::MIN, clean_next: 0 }
    }

    /// The memory that it may take.
    pub fn limit(&self) -> usize {
        self.horizon.bytes
    }

    /// Judges a request that is sent `now`.
    pub fn judge(&mut self, stamp: &ProducerStamp, now: Micros) -> Verdict {
        let known = self.shards[shard_of(stamp.producer)].get(&stamp.producer);
        let verdict = known.map_or(Verdict::New, |producer| producer.judge(stamp));
        let more = match known {
            None => Producer::default().growth(self.horizon.answers) + PRODUCER_BYTES,
            Some(producer) => producer.growth(self.horizon.answers),
        };
        if known.is_some() {
            self.change(stamp.producer, |producer| producer.last_use = producer.last_use.max(now));
        }
        let fits = more == 0 || self.bytes.saturating_add(more) <= self.horizon.bytes;
        if verdict == Verdict::New && !fits { Verdict::NoRoom } else { verdict }
    }

    /// Remembers that a request was taken.
    pub fn record(&mut self, stamp: &ProducerStamp, frame: u64, ingest_time: Micros) {
        let answer = Answer { sequence: stamp.sequence, payload_hash: stamp.payload_hash, frame, ingest_time };
        let known_before = self.shards[shard_of(stamp.producer)].contains_key(&stamp.producer);
        let most = self.horizon.answers;
        let undo = self.change(stamp.producer, |producer| {
            let (last_use, forgotten_through) = (producer.last_use, producer.forgotten_through);
            if producer.answers.back().is_some_and(|last| last.sequence >= stamp.sequence) {
                // Replayed from the log: the producer had been forgotten before it began anew.
                *producer = Producer::default();
            }
            producer.last_use = producer.last_use.max(ingest_time);
            let dropped = producer.push(answer, most);
            Undo { producer: stamp.producer, known_before, last_use, forgotten_through, dropped }
        });
        self.undo.push(undo);
    }

    /// What was recorded is durable.
    pub fn commit(&mut self) {
        self.undo.clear();
    }

    /// What was recorded since the last commit was not written after all.
    pub fn roll_back(&mut self) {
        while let Some(undo) = self.undo.pop() {
            if !undo.known_before {
                self.forget(undo.producer);
                continue;
            }
            self.change(undo.producer, |producer| {
                producer.answers.pop_back();
                if let Some(dropped) = undo.dropped {
                    producer.answers.push_front(dropped);
                }
                producer.forgotten_through = undo.forgotten_through;
                producer.last_use = undo.last_use;
            });
        }
    }

    /// Forgets producers that were not used within the horizon: a few at a time, and all of them within
    /// [`CLEAN_UP_EVERY`].
    pub fn forget_unused(&mut self, now: Micros) {
        const STEP: Micros = CLEAN_UP_EVERY / SHARDS as Micros;
        let elapsed = now.saturating_sub(self.cleaned_until);
        let due = usize::try_from(elapsed / STEP).unwrap_or(0);
        if due > 0 {
            self.cleaned_until = now - elapsed % STEP;
        }
        let oldest = now.saturating_sub(self.horizon.unused);
        for _ in 0..due.min(SHARDS) {
            let shard = self.shards[self.clean_next].iter();
            let unused: Vec<u128> =
                shard.filter(|(_, producer)| producer.last_use < oldest).map(|(id, _)| *id).collect();
            unused.into_iter().for_each(|producer| self.forget(producer));
            self.clean_next = (self.clean_next + 1) % SHARDS;
        }
    }

    /// Everything, as it is `now`, after frame `through`. Takes no longer for many producers than for
    /// few; encoding it does, and is for another thread.
    pub fn checkpoint(&self, through: u64, now: Micros) -> Checkpoint {
        Checkpoint { through, oldest_use: now.saturating_sub(self.horizon.unused), shards: self.shards.clone() }
    }

    fn change<T>(&mut self, id: u128, change: impl FnOnce(&mut Producer) -> T) -> T {
        let shard = Arc::make_mut(&mut self.shards[shard_of(id)]);
        let before = shard.get(&id).map_or(0, |producer| producer.bytes());
        let producer = Arc::make_mut(shard.entry(id).or_default());
        let changed = change(producer);
        self.bytes = self.bytes - before + producer.bytes();
        changed
    }

    fn forget(&mut self, id: u128) {
        let forgotten = Arc::make_mut(&mut self.shards[shard_of(id)]).remove(&id);
        self.bytes -= forgotten.map_or(0, |producer| producer.bytes());
    }

    /// What [`Checkpoint::encode`] gave, and the frame through which it tells; or what is wrong.
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
            let (id, decoded) = Producer::decode(&mut rest).ok_or(CUT)?;
            producers.change(id, |producer| *producer = decoded);
        }
        if rest.is_empty() { Ok((through, producers)) } else { Err("has bytes behind its end") }
    }
}

/// The state of all producers at one moment, shared with [`Producers`] that go on.
#[derive(Debug)]
pub struct Checkpoint {
    /// It tells of the frames up to this one.
    pub through: u64,
    /// Producers used before this are left out.
    oldest_use: Micros,
    shards: Vec<Arc<Shard>>,
}

impl Checkpoint {
    pub fn encode(&self) -> Vec<u8> {
        let used = || {
            let all = self.shards.iter().flat_map(|shard| shard.iter());
            all.filter(|(_, producer)| producer.last_use >= self.oldest_use)
        };
        let (count, answers) =
            used().fold((0, 0), |(count, answers), (_, producer)| (count + 1, answers + producer.answers.len()));
        let mut out = Vec::with_capacity(HEAD_LEN + count * PRODUCER_LEN + answers * ANSWER_LEN + 4);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&self.through.to_le_bytes());
        out.extend_from_slice(&(count as u64).to_le_bytes());
        for (id, producer) in used() {
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
}

const MAGIC: [u8; 8] = *b"HYDPRD\0\x01";
const HEAD_LEN: usize = 8 + 8 + 8;
const PRODUCER_LEN: usize = 16 + 8 + 1 + 8 + 4;
const ANSWER_LEN: usize = 8 + 16 + 8 + 8;
/// How long it takes until all producers were looked at for whether they can be forgotten: 1 min.
const CLEAN_UP_EVERY: Micros = 60_000_000;
/// So many that a copy of one, which a write after a checkpoint may have to make, is soon made: of a
/// million producers it has a thousand.
const SHARDS: usize = 1024;
/// What a producer takes without its answers: itself, its place in a table that may be half empty, and
/// what the allocator adds.
const PRODUCER_BYTES: usize = size_of::<Producer>() + 2 * (size_of::<u128>() + size_of::<Arc<Producer>>() + 1) + 48;

fn shard_of(producer: u128) -> usize {
    (producer % SHARDS as u128) as usize
}

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

impl Clone for Producer {
    /// With the same room to grow, so that it takes as much memory as before.
    fn clone(&self) -> Self {
        let mut answers = VecDeque::with_capacity(self.answers.capacity());
        answers.extend(&self.answers);
        Self { last_use: self.last_use, forgotten_through: self.forgotten_through, answers }
    }
}

impl Producer {
    /// The memory that it takes.
    fn bytes(&self) -> usize {
        PRODUCER_BYTES + self.answers.capacity() * size_of::<Answer>()
    }

    /// The memory that one more answer takes, where `most` are kept.
    fn growth(&self, most: usize) -> usize {
        self.places_for_one_more(most) * size_of::<Answer>()
    }

    fn places_for_one_more(&self, most: usize) -> usize {
        let (len, capacity) = (self.answers.len(), self.answers.capacity());
        if len < capacity || len >= most { 0 } else { (capacity / 2).clamp(1, most - len) }
    }

    /// Adds an answer; gives back the one that is kept no more.
    fn push(&mut self, answer: Answer, most: usize) -> Option<Answer> {
        self.answers.reserve_exact(self.places_for_one_more(most));
        let dropped = if self.answers.len() >= most { self.answers.pop_front() } else { None };
        if let Some(dropped) = dropped {
            self.forgotten_through = Some(dropped.sequence);
        }
        self.answers.push_back(answer);
        dropped
    }

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

    const HORIZON: Horizon = Horizon { unused: 1_000, answers: 3, bytes: 1 << 20 };

    fn encode(producers: &Producers, through: u64) -> Vec<u8> {
        producers.checkpoint(through, 0).encode()
    }

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
        let before = encode(&producers, 3);
        producers.record(&stamp(1, 40, 7), 4, 400);
        producers.record(&stamp(1, 50, 7), 5, 500);
        producers.record(&stamp(2, 1, 7), 6, 600);
        producers.roll_back();
        assert_eq!(encode(&producers, 3), before);
    }

    #[test]
    fn producers_are_forgotten_after_the_horizon_since_their_last_use() {
        let unused = 30 * CLEAN_UP_EVERY;
        let mut producers = Producers::new(Horizon { unused, ..HORIZON });
        producers.record(&stamp(1, 10, 7), 1, 100);
        producers.commit();
        producers.judge(&stamp(1, 10, 7), 900);
        producers.forget_unused(900 + unused);
        assert_eq!(producers.judge(&stamp(1, 11, 7), 0), Verdict::New);
        assert_eq!(producers.judge(&stamp(1, 10, 7), 0), Verdict::Taken { frame: 1, ingest_time: 100 });
        // All are looked at within the minute after they may be forgotten, a few at a time.
        let mut forgotten = 0;
        for part in 1..=100 {
            producers.forget_unused(901 + unused + part * CLEAN_UP_EVERY / 100);
            forgotten += i64::from(producers.judge(&stamp(1, 9, 7), 0) == Verdict::New);
        }
        assert!((1..=100).contains(&forgotten), "after {} of 100 parts of a minute", 100 - forgotten);
        assert_eq!(producers.bytes, 0);
    }

    #[test]
    fn what_finds_no_room_is_refused_and_nothing_is_forgotten_for_it() {
        let bytes = 2 * PRODUCER_BYTES + 4 * size_of::<Answer>();
        let mut producers = Producers::new(Horizon { bytes, ..HORIZON });
        let send = |producers: &mut Producers, producer, sequence, frame| {
            let verdict = producers.judge(&stamp(producer, sequence, 7), 100);
            if verdict == Verdict::New {
                producers.record(&stamp(producer, sequence, 7), frame, 100);
                producers.commit();
                assert!(producers.bytes <= bytes, "{} of {bytes} bytes", producers.bytes);
            }
            verdict
        };
        for sequence in 1..=3 {
            assert_eq!(send(&mut producers, 1, sequence, sequence), Verdict::New);
        }
        assert_eq!(send(&mut producers, 2, 1, 4), Verdict::New);
        assert_eq!(send(&mut producers, 2, 2, 5), Verdict::NoRoom, "one more answer of one that is known");
        assert_eq!(send(&mut producers, 3, 1, 5), Verdict::NoRoom, "one more producer");
        // What was taken is answered as before, and who has all its answers takes no more room.
        for sequence in 1..=3 {
            let frame = sequence;
            assert_eq!(send(&mut producers, 1, sequence, 5), Verdict::Taken { frame, ingest_time: 100 });
        }
        assert_eq!(send(&mut producers, 1, 4, 5), Verdict::New);
        assert_eq!(send(&mut producers, 2, 1, 6), Verdict::Taken { frame: 4, ingest_time: 100 });
        // What is taken back gives its room back.
        let mut producers = Producers::new(Horizon { bytes, ..HORIZON });
        producers.record(&stamp(1, 1, 7), 1, 100);
        producers.record(&stamp(2, 1, 7), 2, 100);
        producers.roll_back();
        assert_eq!(producers.bytes, 0);
    }

    #[test]
    fn a_checkpoint_tells_what_was_when_it_was_taken_whatever_is_recorded_meanwhile() {
        let mut producers = three_taken();
        let before = encode(&producers, 3);
        let checkpoint = producers.checkpoint(3, 0);
        producers.record(&stamp(1, 40, 7), 4, 400);
        producers.record(&stamp(1 + SHARDS as u128, 1, 7), 5, 500);
        producers.commit();
        producers.judge(&stamp(1, 40, 7), 600);
        assert_eq!(checkpoint.encode(), before);
        assert_eq!(producers.judge(&stamp(1, 40, 7), 600), Verdict::Taken { frame: 4, ingest_time: 400 });
        let bytes: usize = producers.shards.iter().flat_map(|shard| shard.values()).map(|known| known.bytes()).sum();
        assert_eq!(producers.bytes, bytes, "copies are counted as what they were copied from");
    }

    #[test]
    fn a_checkpoint_leaves_out_who_was_not_used_within_the_horizon() {
        let mut producers = three_taken();
        producers.record(&stamp(2, 1, 7), 4, 1_500);
        producers.commit();
        let (_, mut again) = Producers::decode(&producers.checkpoint(4, 2_000).encode(), HORIZON).expect("whole");
        assert_eq!(again.judge(&stamp(1, 10, 7), 2_000), Verdict::New);
        assert_eq!(again.judge(&stamp(2, 1, 7), 2_000), Verdict::Taken { frame: 4, ingest_time: 1_500 });
    }

    #[test]
    fn a_checkpoint_reads_as_it_was_written_and_not_at_all_if_damaged() {
        let mut producers = three_taken();
        producers.record(&stamp(1, 40, 7), 4, 400);
        producers.record(&stamp(2, 1, 9), 5, 500);
        let bytes = encode(&producers, 5);
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
