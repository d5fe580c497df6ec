//! Those who write until the server is gone: one request after the other, over a stream, or over
//! Flight. Every request stands in the ledger before it is sent.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use futures::StreamExt as _;
use futures::stream::BoxStream;
use hydrant::rpc::client::{Client, Refusal};
use hydrant::rpc::v1;
use hydrant::rpc::v1::ingest_response::Outcome;
use tokio::sync::{Notify, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use crate::answers;
use crate::ledger::{Ledger, Place};
use crate::random::Random;
use crate::rows::{self, Row, SOURCE};

/// Requests that a stream has under way.
const AHEAD: usize = 8;

const MAX_ROWS: usize = 40;

/// Acknowledged requests of one round after which no more are sent.
const ENOUGH: usize = 400;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// One call a request.
    Calls,
    Stream,
    Flight,
}

/// The writers' ways, by their numbers.
pub const WRITERS: [Way; 4] = [Way::Calls, Way::Calls, Way::Stream, Way::Flight];

/// What the tasks of one round share.
#[derive(Debug)]
pub struct Round {
    pub client: Client,
    ledger: Arc<Mutex<Ledger>>,
    acknowledged: AtomicUsize,
    /// Told with each acknowledgement and each read.
    pub progress: Notify,
    killed: watch::Sender<bool>,
}

impl Round {
    pub fn new(client: Client, ledger: Arc<Mutex<Ledger>>) -> Arc<Self> {
        let (acknowledged, killed) = (AtomicUsize::new(0), watch::Sender::new(false));
        Arc::new(Self { client, ledger, acknowledged, progress: Notify::new(), killed })
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("no other task has failed")
    }

    /// Requests acknowledged in this round.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Acquire)
    }

    /// From now on calls may break off.
    pub fn will_be_killed(&self) {
        self.killed.send_replace(true);
    }

    /// Whether writers have written enough: then they wait to see the server killed.
    fn is_enough(&self) -> bool {
        self.acknowledged() >= ENOUGH
    }

    async fn until_killed(&self) {
        // The sender lives as long as this does.
        let _ = self.killed.subscribe().wait_for(|killed| *killed).await;
    }

    /// A call breaks off because the server was killed, and for no other reason.
    fn assert_over(&self, refusal: &Refusal) {
        let is_killed = *self.killed.borrow();
        assert!(is_killed && refusal.reason == "SERVER_UNREACHABLE", "{refusal:?}; killed: {is_killed}");
    }

    fn acknowledge(&self, request: usize, answer: &v1::IngestResponse) {
        acknowledge(&mut self.ledger(), request, answer);
        self.acknowledged.fetch_add(1, Ordering::AcqRel);
        self.progress.notify_one();
    }
}

/// Enters an answer to a request that was sent for the first time, or again.
pub fn acknowledge(ledger: &mut Ledger, request: usize, answer: &v1::IngestResponse) {
    let already = match answer.outcome() {
        Outcome::Applied => false,
        Outcome::AlreadyApplied => true,
        other => panic!("{other:?}"),
    };
    assert_eq!(answer.rows, ledger.requests[request].rows.len() as u64);
    let frame = frame_of(answer.position.as_ref().expect("a durable request has a position"));
    ledger.acknowledge(request, Place { frame, ingest_time: answer.ingest_time }, already);
}

/// Callers may not look into a position; a test that they rise has to.
fn frame_of(position: &v1::Position) -> u64 {
    let (kind, frame) = position.token.split_first().expect("a position says what it is");
    assert_eq!(*kind, 1);
    u64::from_le_bytes(frame.try_into().expect("eight bytes"))
}

/// A writer, whose sequences go on over all rounds.
#[derive(Debug)]
pub struct Writer {
    number: usize,
    sequence: u64,
    random: Random,
}

impl Writer {
    pub fn new(number: usize, seed: u64) -> Self {
        Self { number, sequence: 0, random: Random::new(seed ^ (number as u64 + 1)) }
    }

    /// Writes until the server is killed.
    pub async fn write(mut self, round: Arc<Round>) -> Self {
        match WRITERS[self.number] {
            Way::Calls => self.call(&round).await,
            Way::Stream | Way::Flight => self.stream(&round).await,
        }
        self
    }

    async fn call(&mut self, round: &Round) {
        while !round.is_enough() {
            let request = self.next(round);
            let message = message(&round.ledger(), request);
            match round.client.ingest(message).await {
                Ok(answer) => round.acknowledge(request, &answer),
                Err(refusal) => return round.assert_over(&refusal),
            }
        }
        round.until_killed().await;
    }

    async fn stream(&mut self, round: &Round) {
        let (sender, receiver) = mpsc::channel(AHEAD);
        let mut waiting = VecDeque::new();
        let first = self.sequence + 1;
        for _ in 0..AHEAD {
            let request = self.next(round);
            waiting.push_back(request);
            sender.send(request).await.expect("there is room");
        }
        let mut answers = match self.open(round, first, receiver).await {
            Ok(answers) => answers,
            Err(refusal) => return round.assert_over(&refusal),
        };
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(answer) => round.acknowledge(waiting.pop_front().expect("one answer a request"), &answer),
                Err(refusal) => return round.assert_over(&refusal),
            }
            if round.is_enough() {
                if waiting.is_empty() {
                    return round.until_killed().await;
                }
                continue;
            }
            let request = self.next(round);
            waiting.push_back(request);
            // If the connection has gone, the next answer says so.
            let _ = sender.send(request).await;
        }
        panic!("the stream of answers ended while requests were under way");
    }

    async fn open(
        &self,
        round: &Round,
        first_sequence: u64,
        requests: mpsc::Receiver<usize>,
    ) -> Result<BoxStream<'static, Result<v1::IngestResponse, Refusal>>, Refusal> {
        let requests = ReceiverStream::new(requests);
        let ledger = round.ledger.clone();
        let sent = move |request: usize| ledger.lock().expect("no other task has failed").requests[request].clone();
        if WRITERS[self.number] == Way::Stream {
            let ledger = round.ledger.clone();
            let messages =
                requests.map(move |request| message(&ledger.lock().expect("no other task has failed"), request));
            return round.client.ingest_stream(messages).await;
        }
        let command = v1::IngestCommand {
            source: SOURCE.to_owned(),
            producer: producer(self.number),
            first_sequence,
            ..Default::default()
        };
        let batches = requests.map(move |request| Ok(rows::batch(&sent(request).rows)));
        round.client.put(command, rows::batch(&[]).schema(), batches).await
    }

    /// Enters the next request into the ledger.
    fn next(&mut self, round: &Round) -> usize {
        self.sequence += 1;
        let count = 1 + self.random.below(MAX_ROWS);
        let mut ledger = round.ledger();
        let first = ledger.next_tick;
        let ticks = first..first + i64::try_from(count).expect("a few");
        ledger.next_tick = ticks.end;
        let rows = ticks.map(|tick| Row::random(tick, &mut self.random)).collect();
        ledger.sends(self.number, self.sequence, rows)
    }
}

pub fn producer(writer: usize) -> String {
    format!("writer-{writer}")
}

/// A request as it is sent, each time alike.
pub fn message(ledger: &Ledger, request: usize) -> v1::IngestRequest {
    let sent = &ledger.requests[request];
    v1::IngestRequest {
        source: SOURCE.to_owned(),
        producer: producer(sent.writer),
        sequence: sent.sequence,
        rows: Some(as_columns(&sent.rows)),
        ..Default::default()
    }
}

pub fn as_columns(rows: &[Row]) -> v1::ingest_request::Rows {
    v1::ingest_request::Rows::Columns(v1::Columns { columns: rows::columns(&rows::batch(rows)) })
}

/// Reads while others write: whatever is answered was written once, and time goes on.
pub async fn read(round: Arc<Round>) {
    let mut last = 0;
    loop {
        match answers::read_all(&round.client, None).await {
            Ok(answer) => {
                assert!(answer.t >= last, "store time was {last} and is {}", answer.t);
                last = answer.t;
                round.ledger().check_glance(&answer);
                round.progress.notify_one();
            }
            Err(refusal) => return round.assert_over(&refusal),
        }
    }
}

/// Changes a description while others write; gives back the last that was acknowledged and the
/// last that was sent.
pub async fn describe(round: Arc<Round>, number: usize) -> (Option<String>, String) {
    let mut acknowledged = None;
    for step in 0.. {
        let description = format!("round {number}, step {step}");
        match round.client.apply(&rows::definitions(&description), None).await {
            Ok(_) => acknowledged = Some(description),
            Err(refusal) => {
                round.assert_over(&refusal);
                return (acknowledged, description);
            }
        }
    }
    unreachable!("the server is killed before")
}
