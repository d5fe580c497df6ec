//! The log's one writer: a thread that stamps requests, removes duplicates, and writes and syncs
//! many of them at once. An answer leaves it only after the sync; if it can't know what is durable,
//! it ends the process and never guesses.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::time::Duration;

use bytes::Bytes;
use hydrant_storage::files::{FileWriter, Files, is_out_of_space};
use hydrant_storage::order::Micros;
use hydrant_storage::record::{Frame, ProducerStamp, RowRecord};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use super::clock_file::{ClockFile, ClockRecord, ClockWriteError};
use super::codec::{self, EncodedRecords, FrameHead};
use super::controls::Controls;
use super::metrics::LogMetrics;
use super::producers::{Checkpoint, Producers, Verdict};
use super::recent::{RecentFrames, SizedFrame};
use super::segments::{Segments, segment_path};
use super::{AppendError, Appended, LogError, Sealed};
use crate::clock::StoreTime;

/// What the thread is asked for.
pub enum Command {
    Append(QueuedRequest),
    Seal(oneshot::Sender<Result<Sealed, LogError>>),
    /// Requests that were prepared under less are handed back from now on.
    Require(u64, oneshot::Sender<()>),
    /// What is written from now on goes into a new segment, unless the one there is is empty.
    Roll(SyncSender<Result<(), AppendError>>),
    /// What is known of the producers through the newest durable frame. To encode it is not this
    /// thread's: writes would wait for it.
    Checkpoint(SyncSender<Checkpoint>),
    /// The last that it does; answered when it has.
    Close(oneshot::Sender<()>),
}

/// A request that waits for the log.
pub struct QueuedRequest {
    pub rows: Vec<RowRecord>,
    pub control: Option<Bytes>,
    pub records: EncodedRecords,
    pub stamp: Option<ProducerStamp>,
    pub prepared: u64,
    pub answer: oneshot::Sender<Result<Appended, AppendError>>,
    /// Its place in the queue, given back when it is answered.
    pub permits: [OwnedSemaphorePermit; 2],
}

impl QueuedRequest {
    fn frame_len(&self) -> usize {
        self.records.frame_len(self.stamp.is_some())
    }
}

/// The bounds that the thread keeps.
#[derive(Clone, Copy, Debug)]
pub struct AppenderLimits {
    pub segment_bytes: u64,
    pub group_bytes: usize,
    pub group_requests: usize,
    /// How far ahead of store time the durable bound is kept.
    pub time_ahead: Duration,
    /// How often it is looked after while nothing else happens.
    pub tick: Duration,
}

/// What the appender owns, and what it shares with readers.
pub struct Appender {
    pub files: Arc<dyn Files>,
    pub directory: PathBuf,
    pub limits: AppenderLimits,
    pub time: Arc<StoreTime>,
    pub clock_file: ClockFile,
    pub producers: Producers,
    pub active: ActiveSegment,
    /// The number that the next frame gets; the one before it is durable.
    pub next_frame: u64,
    /// What a request must have been prepared under, at least.
    pub required: u64,
    pub segments: Arc<Segments>,
    pub recent: Arc<RecentFrames>,
    pub controls: Arc<Controls>,
    pub durable: watch::Sender<u64>,
    pub metrics: Arc<LogMetrics>,
    /// Whether the last write of the bound failed, so that it is said once.
    pub bound_stuck: bool,
}

pub struct ActiveSegment {
    pub first: u64,
    /// The bytes that are durable in it; nothing is behind them between two writes.
    pub len: u64,
    pub writer: Box<dyn FileWriter>,
}

/// Nothing is known any more of what is on disk: the process must end. Tells why.
#[derive(Debug)]
pub struct Fatal(pub String);

/// Why a group was refused, with the disk as it was before.
type Refusal = AppendError;

enum Failure {
    Refused(Refusal),
    Fatal(Fatal),
}

impl From<Fatal> for Failure {
    fn from(fatal: Fatal) -> Self {
        Self::Fatal(fatal)
    }
}

/// A request whose rows are on their way.
struct Answerable {
    answer: oneshot::Sender<Result<Appended, AppendError>>,
    result: Result<Appended, AppendError>,
    permits: [OwnedSemaphorePermit; 2],
}

/// A group of requests on its way to disk.
#[derive(Default)]
struct Group {
    bytes: Vec<u8>,
    frames: Vec<SizedFrame>,
    answers: Vec<Answerable>,
}

impl Appender {
    /// Works until it is closed, or all senders are gone.
    pub fn run(mut self, commands: &Receiver<Command>) -> Result<(), Fatal> {
        let mut waiting = VecDeque::with_capacity(1);
        let mut closer = None;
        while closer.is_none() {
            let next = waiting.pop_front().map_or_else(|| commands.recv_timeout(self.limits.tick), Ok);
            match next {
                Ok(Command::Append(request)) => {
                    let mut group = vec![request];
                    waiting.extend(self.gather(&mut group, commands));
                    self.take(group)?;
                }
                Ok(Command::Seal(answer)) => {
                    // Whoever asked may have gone.
                    let _ = answer.send(self.seal()?);
                }
                Ok(Command::Require(preparation, answer)) => {
                    self.required = self.required.max(preparation);
                    let _ = answer.send(());
                }
                Ok(Command::Roll(answer)) => {
                    let _ = answer.send(self.begin_segment()?);
                }
                Ok(Command::Checkpoint(answer)) => {
                    let _ = answer.send(self.producers.checkpoint(self.next_frame - 1, self.time.wall()));
                }
                Ok(Command::Close(answer)) => closer = Some(answer),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.look_after_bound()?;
            self.producers.forget_unused(self.time.wall());
        }
        // So that the next start knows all of what was synced. The bound stays: readers may outlive
        // this thread.
        if let Err(Failure::Fatal(fatal)) = self.write_clock(self.time.bound()) {
            return Err(fatal);
        }
        if let Some(closer) = closer {
            // Whoever asked may have gone.
            let _ = closer.send(());
        }
        Ok(())
    }

    /// Adds what waits to the group, within bounds; gives back a command of another kind.
    fn gather(&self, group: &mut Vec<QueuedRequest>, commands: &Receiver<Command>) -> Option<Command> {
        let mut bytes: usize = group.iter().map(QueuedRequest::frame_len).sum();
        while bytes < self.limits.group_bytes && group.len() < self.limits.group_requests {
            match commands.try_recv() {
                Ok(Command::Append(request)) => {
                    bytes += request.frame_len();
                    group.push(request);
                }
                Ok(other) => return Some(other),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        None
    }

    fn take(&mut self, requests: Vec<QueuedRequest>) -> Result<(), Fatal> {
        let _span = tracing::debug_span!("write_group", requests = requests.len()).entered();
        let mut group = Group::default();
        match self.write_group(requests, &mut group) {
            Ok(()) => {
                self.producers.commit();
                self.publish(&mut group);
                group.answer_all(None);
                Ok(())
            }
            Err(Failure::Refused(refusal)) => {
                self.producers.roll_back();
                tracing::warn!(requests = group.answers.len(), %refusal, "the log refused requests");
                group.answer_all(Some((refusal, self.next_frame)));
                Ok(())
            }
            // Nobody is answered: the senders are dropped, which tells that it isn't known.
            Err(Failure::Fatal(fatal)) => Err(fatal),
        }
    }

    /// Gives requests their numbers, times and verdicts, and makes them durable. On refusal the disk
    /// is as it was, and every request is in `group` with an answer.
    fn write_group(&mut self, requests: Vec<QueuedRequest>, group: &mut Group) -> Result<(), Failure> {
        // First, so that ingest times are wall time if the wall clock has moved on.
        let mut failure = self.keep_bound_ahead().err();
        for request in requests {
            let QueuedRequest { rows, control, records, stamp, prepared, answer, permits } = request;
            let staged = match failure {
                None if prepared < self.required => {
                    Ok(Err(AppendError::Outdated { prepared, required: self.required }))
                }
                None => self.stage(rows, control, &records, stamp, group),
                Some(_) => Ok(Err(AppendError::Closed)),
            };
            let result = staged.unwrap_or_else(|failed| {
                failure = Some(failed);
                Err(AppendError::Closed)
            });
            group.answers.push(Answerable { answer, result, permits });
        }
        if let Some(failure) = failure {
            return Err(failure);
        }
        if group.frames.is_empty() { Ok(()) } else { self.write(&group.bytes) }
    }

    /// Judges one request and adds its frame to the group if it is new.
    fn stage(
        &mut self,
        rows: Vec<RowRecord>,
        control: Option<Bytes>,
        records: &EncodedRecords,
        stamp: Option<ProducerStamp>,
        group: &mut Group,
    ) -> Result<Result<Appended, AppendError>, Failure> {
        if let Some(stamp) = &stamp {
            match self.producers.judge(stamp, self.time.read()) {
                Verdict::New => {}
                Verdict::Taken { frame, ingest_time } => return Ok(Ok(Appended { frame, ingest_time, already: true })),
                Verdict::Reused => return Ok(Err(AppendError::SequenceReused { sequence: stamp.sequence })),
                Verdict::TooOld { last } => {
                    return Ok(Err(AppendError::SequenceTooOld { sequence: stamp.sequence, last }));
                }
                Verdict::NoRoom => return Ok(Err(AppendError::TooManyProducers { limit: self.producers.limit() })),
            }
        }
        let ingest_time = self.stamp()?;
        let number = self.next_frame + group.frames.len() as u64;
        // A group is bounded by requests, far below 32 bits.
        let head = FrameHead { number, in_group: group.frames.len() as u32, ingest_time, stamp };
        codec::encode(&head, records, &mut group.bytes);
        if let Some(stamp) = &stamp {
            self.producers.record(stamp, number, ingest_time);
        }
        let frame = Arc::new(Frame { number, ingest_time, stamp, rows, control });
        group.frames.push(SizedFrame { frame, len: records.frame_len(stamp.is_some()) });
        Ok(Ok(Appended { frame: number, ingest_time, already: false }))
    }

    /// Writes and syncs; on refusal the file is as it was, durably.
    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if self.active.len > 0 && self.active.len + bytes.len() as u64 > self.limits.segment_bytes {
            self.roll()?;
        }
        let active = &mut self.active;
        let path = || segment_path(&self.directory, active.first).display().to_string();
        if let Err(error) = active.writer.write_all(bytes) {
            // What was written of it must not come back after a crash: it is refused here and now.
            let undone = active.writer.set_len(active.len).and_then(|()| active.writer.sync());
            undone.map_err(|undo| Fatal(format!("can't take back a failed write to {}: {undo} ({error})", path())))?;
            return Err(Failure::Refused(to_refusal(error)));
        }
        active.writer.sync().map_err(|error| Fatal(format!("can't sync {}: {error}", path())))?;
        active.len += bytes.len() as u64;
        self.metrics.syncs.add(1);
        self.metrics.bytes.add(bytes.len() as u64);
        Ok(())
    }

    /// Begins a new segment with the next frame.
    fn roll(&mut self) -> Result<(), Failure> {
        let first = self.next_frame;
        self.active = create_segment(&*self.files, &self.directory, first)?;
        self.segments.add(first);
        tracing::debug!(first, "a new log segment was begun");
        Ok(())
    }

    fn begin_segment(&mut self) -> Result<Result<(), AppendError>, Fatal> {
        if self.active.len == 0 {
            return Ok(Ok(()));
        }
        match self.roll() {
            Ok(()) => Ok(Ok(())),
            Err(Failure::Refused(refusal)) => Ok(Err(refusal)),
            Err(Failure::Fatal(fatal)) => Err(fatal),
        }
    }

    /// Shows durable frames to readers.
    fn publish(&mut self, group: &mut Group) {
        if group.frames.is_empty() {
            return;
        }
        self.next_frame += group.frames.len() as u64;
        self.metrics.appends.add(group.frames.len() as u64);
        self.segments.extend(group.frames.iter().map(|sized| sized.len));
        for sized in group.frames.drain(..) {
            // Before the frame is told of: who then waits until it is settled finds it.
            self.controls.note(&sized.frame);
            self.recent.push(sized);
        }
        self.durable.send_replace(self.next_frame - 1);
    }

    fn seal(&mut self) -> Result<Result<Sealed, LogError>, Fatal> {
        let path = self.clock_file.path().to_owned();
        match self.keep_bound_ahead().and_then(|()| self.stamp()) {
            Ok(time) => Ok(Ok(Sealed { frame: self.next_frame - 1, time })),
            Err(Failure::Fatal(fatal)) => Err(fatal),
            Err(Failure::Refused(refusal)) => {
                let source = io::Error::other(refusal);
                Ok(Err(LogError::Io { action: "write", path, source }))
            }
        }
    }

    fn stamp(&mut self) -> Result<Micros, Failure> {
        if let Some(time) = self.time.stamp() {
            return Ok(time);
        }
        self.write_clock(self.time.wanted_bound(self.limits.time_ahead))?;
        self.time.stamp().ok_or_else(|| Fatal("store time has come to its end".to_owned()).into())
    }

    /// Raises the durable bound if less than half of what it should be ahead is left.
    fn keep_bound_ahead(&mut self) -> Result<(), Failure> {
        if self.time.wanted_bound(self.limits.time_ahead / 2) <= self.time.bound() {
            return Ok(());
        }
        self.write_clock(self.time.wanted_bound(self.limits.time_ahead))
    }

    /// The same, in the background: a failed write is tried again.
    fn look_after_bound(&mut self) -> Result<(), Fatal> {
        match self.keep_bound_ahead() {
            Ok(()) => self.bound_stuck = false,
            Err(Failure::Fatal(fatal)) => return Err(fatal),
            Err(Failure::Refused(refusal)) if !self.bound_stuck => {
                self.bound_stuck = true;
                tracing::warn!(path = %self.clock_file.path().display(), %refusal, "store time stands still");
            }
            Err(Failure::Refused(_)) => {}
        }
        Ok(())
    }

    fn write_clock(&mut self, bound: Micros) -> Result<(), Failure> {
        let record = ClockRecord { bound, durable_frame: self.next_frame - 1, active_segment: self.active.first };
        match self.clock_file.write(record) {
            Ok(()) => {
                self.time.promise(bound);
                Ok(())
            }
            Err(ClockWriteError::Write(error)) => Err(Failure::Refused(to_refusal(error))),
            Err(ClockWriteError::Sync(error)) => {
                Err(Fatal(format!("can't sync {}: {error}", self.clock_file.path().display())).into())
            }
        }
    }
}

impl Group {
    /// Answers all; after a refusal, what rests on a frame from `refused.1` on is refused too.
    fn answer_all(self, refused: Option<(Refusal, u64)>) {
        for Answerable { answer, result, permits } in self.answers {
            // Before the answer, so that who has it finds the place that it left.
            drop(permits);
            let result = match (&refused, result) {
                (None, result) => result,
                (Some((_, first)), Ok(appended)) if appended.frame < *first => Ok(appended),
                // A verdict on what would have come before may have rested on the group.
                (Some((refusal, _)), _) => Err(refusal.clone()),
            };
            // Whoever asked may have gone.
            let _ = answer.send(result);
        }
    }
}

fn create_segment(files: &dyn Files, directory: &std::path::Path, first: u64) -> Result<ActiveSegment, Failure> {
    let path = segment_path(directory, first);
    let writer = files.create_new(&path).map_err(|error| Failure::Refused(to_refusal(error)))?;
    files.sync_dir(directory).map_err(|error| Fatal(format!("can't sync {}: {error}", directory.display())))?;
    Ok(ActiveSegment { first, len: 0, writer })
}

fn to_refusal(error: io::Error) -> Refusal {
    if is_out_of_space(&error) { AppendError::Full } else { AppendError::Storage(Arc::new(error)) }
}
