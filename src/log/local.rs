//! The embedded log: segmented files in one directory of this machine, one appender thread. It is
//! the only writer there and takes no lock: that the directory is used once is the data
//! directory's affair.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use hydrant_storage::files::{self, Files};
use hydrant_storage::order::Micros;
use hydrant_storage::record::{Frame, RowRecord, SharedFrame};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tracing::Instrument as _;

use super::appender::{ActiveSegment, Appender, AppenderLimits, Command, Fatal, QueuedRequest};
use super::clock_file::{ClockFile, ClockRecord, FoundClock};
use super::codec::{self, EncodedRecords};
use super::controls::Controls;
use super::metrics::LogMetrics;
use super::producers::{Checkpoint, Horizon, Producers};
use super::recent::{RecentFrames, SizedFrame};
use super::recovery::{self, Recovered};
use super::segments::{Segment, Segments, segment_path};
use super::{AppendError, AppendRequest, Appended, LogError, Sealed, WriteLog};
use crate::clock::{Clock, StoreTime};
use crate::error::FatalHook;

/// The bounds of a log. Bytes are of frames as they are on disk.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// A segment is closed before it would grow beyond this, unless one group alone does.
    pub segment_bytes: u64,
    pub max_request_bytes: usize,
    /// Requests, and their bytes, that may wait before more are refused. A single request always
    /// finds room in an empty queue.
    pub queue_requests: usize,
    pub queue_bytes: usize,
    /// A write takes no more requests once it has as many, or as many bytes.
    pub group_requests: usize,
    pub group_bytes: usize,
    /// For the newest frames, kept decoded.
    pub recent_bytes: usize,
    /// How far ahead store time is made durable: after a crash, store time stands still for as long
    /// at most.
    pub time_ahead: Duration,
    pub producer_horizon: Duration,
    pub answers_per_producer: usize,
    /// For what is remembered of producers; what needs more is refused.
    pub producers_bytes: usize,
    /// If it returns (in tests), the log is closed.
    pub on_fatal: FatalHook,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 * MIB as u64,
            max_request_bytes: 32 * MIB,
            queue_requests: 4096,
            queue_bytes: 256 * MIB,
            group_requests: 1024,
            group_bytes: 8 * MIB,
            recent_bytes: 64 * MIB,
            time_ahead: Duration::from_secs(3),
            producer_horizon: Duration::from_hours(30 * 24),
            answers_per_producer: 1000,
            producers_bytes: 256 * MIB,
            on_fatal: FatalHook::default(),
        }
    }
}

/// The log of this machine. Dropping it writes what waits, and ends its thread.
pub struct LocalLog {
    pub(super) files: Arc<dyn Files>,
    pub(super) directory: PathBuf,
    max_request_bytes: usize,
    pub(super) time: Arc<StoreTime>,
    pub(super) segments: Arc<Segments>,
    pub(super) recent: Arc<RecentFrames>,
    controls: Arc<Controls>,
    pub(super) durable: watch::Receiver<u64>,
    queue: Queue,
    metrics: Arc<LogMetrics>,
    /// One trim at a time, and none while the log is held.
    pub(super) trimming: Mutex<()>,
    thread: Option<JoinHandle<()>>,
}

impl LocalLog {
    /// Opens the log in `directory`, creating it if there is none. Reads and verifies every frame,
    /// and blocks for it. Store time goes on from where it was, and is the log's to keep ahead.
    pub fn open(
        files: Arc<dyn Files>,
        directory: &Path,
        options: LogOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, Arc<StoreTime>), LogError> {
        let io = |action| move |source| LogError::Io { action, path: directory.to_owned(), source };
        files.create_dir_all(directory).map_err(io("create"))?;
        let found_clock = ClockFile::read(&*files, directory)?;
        let known = if let FoundClock::Record(record) = found_clock { record } else { ClockRecord::default() };
        let mut dedup = Dedup::read(&*files, directory, &options)?;
        let recent = Arc::new(RecentFrames::new(options.recent_bytes));
        let controls = Arc::new(Controls::default());
        let recovered = recovery::recover(&*files, directory, known, &mut |frame, len| {
            dedup.replay(&frame);
            let frame = Arc::new(frame);
            controls.note(&frame);
            recent.push(SizedFrame { frame, len });
        })?;
        let producers = dedup.finish(&*files, directory, &recovered)?;
        let (time, clock_file) = begin_time(&*files, directory, &options, clock, found_clock, &recovered)?;
        let Recovered { mut segments, last_frame, .. } = recovered;
        let next_frame = last_frame + 1;
        let active = open_active(&*files, directory, &mut segments, next_frame)?;
        let segments = Arc::new(Segments::new(files.clone(), directory.to_owned(), segments));
        let (durable_sender, durable) = watch::channel(last_frame);
        let metrics = Arc::new(LogMetrics::default());
        let appender = Appender {
            files: files.clone(),
            directory: directory.to_owned(),
            limits: AppenderLimits {
                segment_bytes: options.segment_bytes,
                group_bytes: options.group_bytes,
                group_requests: options.group_requests,
                time_ahead: options.time_ahead,
                tick: LONGEST_TICK.min(options.time_ahead / 4),
            },
            time: time.clone(),
            clock_file,
            producers,
            active,
            next_frame,
            required: 0,
            segments: segments.clone(),
            recent: recent.clone(),
            controls: controls.clone(),
            durable: durable_sender,
            metrics: metrics.clone(),
            bound_stuck: false,
        };
        let (queue, commands) = Queue::new(&options);
        let on_fatal = options.on_fatal.clone();
        let work = move || {
            let problem = match catch_unwind(AssertUnwindSafe(|| appender.run(&commands))) {
                Ok(Ok(())) => return,
                Ok(Err(Fatal(problem))) => problem,
                Err(_) => "the log's thread panicked".to_owned(),
            };
            tracing::error!(%problem, "it is not known what of the log is durable: the process ends");
            on_fatal.call(&problem);
        };
        let thread =
            std::thread::Builder::new().name("log".to_owned()).spawn(work).map_err(io("start a thread for"))?;
        let log = Self {
            files,
            directory: directory.to_owned(),
            max_request_bytes: options.max_request_bytes,
            time: time.clone(),
            segments,
            recent,
            controls,
            durable,
            queue,
            metrics,
            trimming: Mutex::new(()),
            thread: Some(thread),
        };
        Ok((log, time))
    }

    /// The number of the oldest frame that can still be read.
    pub fn oldest(&self) -> u64 {
        self.segments.oldest()
    }

    pub fn metrics(&self) -> &Arc<LogMetrics> {
        &self.metrics
    }

    /// Lets what is written from now on go into a new segment, so that the one before never changes.
    /// Blocks.
    pub(super) fn close_segment(&self) -> Result<(), LogError> {
        let (answer, answered) = sync_channel(1);
        self.queue.send(Command::Roll(answer))?;
        let closed = answered.recv().map_err(|_| LogError::Closed)?;
        let path = self.directory.clone();
        closed.map_err(|refusal| LogError::Io { action: "begin a segment in", path, source: io::Error::other(refusal) })
    }

    /// Has the thread do what can't be refused, and waits until it has.
    async fn command(&self, command: impl FnOnce(oneshot::Sender<()>) -> Command) {
        let Some(commands) = self.queue.commands.clone() else { return };
        let (answer, answered) = oneshot::channel();
        let command = command(answer);
        // Waits for a place: a refusal would leave the caller no way out.
        let sent = tokio::task::spawn_blocking(move || commands.send(command));
        // A log that has stopped answers no request any more.
        if matches!(sent.await, Ok(Ok(()))) {
            answered.await.ok();
        }
    }

    async fn append_one(&self, request: AppendRequest) -> Result<Appended, AppendError> {
        let AppendRequest { rows, control, stamp, prepared } = request;
        let limit = self.max_request_bytes;
        let (rows, records) = match &control {
            None => encode(rows, limit).await?,
            Some(_) if !rows.is_empty() => return Err(AppendError::Unordered),
            Some(record) => {
                let records = EncodedRecords::control(record, limit);
                (rows, records.map_err(|bytes| AppendError::TooLarge { bytes, limit })?)
            }
        };
        let bytes = records.frame_len(stamp.is_some());
        if bytes > limit {
            return Err(AppendError::TooLarge { bytes, limit });
        }
        let permits = self.queue.enter(bytes)?;
        let (answer, answered) = oneshot::channel();
        let queued = QueuedRequest { rows, control, records, stamp, prepared, answer, permits };
        self.queue.send(Command::Append(queued)).map_err(|refused| match refused {
            QueueRefusal::Full => AppendError::Overloaded { retry_after: RETRY_AFTER },
            QueueRefusal::Closed => AppendError::Closed,
        })?;
        answered.await.unwrap_or(Err(AppendError::Closed))
    }
}

/// Encodes rows; many where nobody waits for the copying.
async fn encode(rows: Vec<RowRecord>, limit: usize) -> Result<(Vec<RowRecord>, EncodedRecords), AppendError> {
    let is_large = EncodedRecords::len_of(&rows) > INLINE_BYTES;
    let encode = move || {
        if !codec::is_ordered(&rows) {
            return Err(AppendError::Unordered);
        }
        let records = EncodedRecords::new(&rows, limit).map_err(|bytes| AppendError::TooLarge { bytes, limit })?;
        Ok((rows, records))
    };
    if !is_large {
        return encode();
    }
    // It ends early only with the runtime, and then nobody learns what became of the request.
    tokio::task::spawn_blocking(encode).await.unwrap_or(Err(AppendError::Closed))
}

#[async_trait]
impl WriteLog for LocalLog {
    async fn append(&self, request: AppendRequest) -> Result<Appended, AppendError> {
        let span = tracing::debug_span!("append", rows = request.rows.len());
        let appended = self.append_one(request).instrument(span).await;
        match &appended {
            Ok(appended) if appended.already => self.metrics.duplicates.add(1),
            Ok(_) => {}
            Err(_) => self.metrics.refused.add(1),
        }
        appended
    }

    fn read_from(&self, after: u64, max_bytes: usize) -> Result<Vec<SharedFrame>, LogError> {
        let through = *self.durable.borrow();
        if after >= through {
            return Ok(Vec::new());
        }
        if let Some(frames) = self.recent.read_from(after, max_bytes) {
            return Ok(frames);
        }
        let read = self.segments.read(after, through, max_bytes);
        if matches!(read, Err(LogError::Damaged { .. })) {
            self.metrics.damaged_frames.add(1);
        }
        read
    }

    async fn require(&self, preparation: u64) {
        self.command(|answer| Command::Require(preparation, answer)).await;
    }

    async fn close(&self) {
        self.command(Command::Close).await;
    }

    fn durable(&self) -> watch::Receiver<u64> {
        self.durable.clone()
    }

    async fn seal(&self) -> Result<Sealed, LogError> {
        let (answer, answered) = oneshot::channel();
        self.queue.send(Command::Seal(answer))?;
        answered.await.unwrap_or(Err(LogError::Closed))
    }

    fn unsettled(&self) -> Vec<SharedFrame> {
        self.controls.unsettled()
    }

    fn settle(&self, frame: u64) {
        self.controls.settle(frame);
    }

    fn settled(&self) -> watch::Receiver<u64> {
        self.controls.settled()
    }

    fn trim(&self, through: u64) -> Result<(), LogError> {
        let _one_at_a_time = self.trimming.lock().unwrap_or_else(PoisonError::into_inner);
        let through = through.min(*self.controls.settled().borrow());
        if !self.segments.can_trim(through) {
            return Ok(());
        }
        let (answer, answered) = sync_channel(1);
        self.queue.send(Command::Checkpoint(answer))?;
        let checkpoint = answered.recv().map_err(|_| LogError::Closed)?;
        write_producers(&*self.files, &self.directory, &checkpoint)?;
        self.segments.trim(through.min(checkpoint.through))
    }
}

impl Drop for LocalLog {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(thread) = self.thread.take() {
            // A panic in it was reported by the thread itself.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for LocalLog {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let durable = *self.durable.borrow();
        let mut out = formatter.debug_struct("LocalLog");
        out.field("directory", &self.directory).field("durable", &durable).finish_non_exhaustive()
    }
}

const MIB: usize = 1024 * 1024;
/// Requests up to this are encoded on the calling thread.
const INLINE_BYTES: usize = MIB / 4;
/// How long reads may be capped by a bound that wasn't raised yet, after a jump of the clock.
const LONGEST_TICK: Duration = Duration::from_millis(50);
/// A group takes a few milliseconds.
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// Places in the queue beside those for requests.
const CONTROL_PLACES: usize = 64;
/// What a permit for bytes stands for.
const BYTES_PER_PERMIT: usize = 1024;
/// A clock that is further behind store time than this is worth a warning.
const SUSPICIOUS_LEAD: Micros = 60_000_000;
pub(super) const PRODUCERS_NAME: &str = "producers";

/// The way to the appender: bounded in requests and bytes, and never waited for.
struct Queue {
    commands: Option<SyncSender<Command>>,
    requests: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

enum QueueRefusal {
    Full,
    Closed,
}

impl From<QueueRefusal> for LogError {
    fn from(refusal: QueueRefusal) -> Self {
        match refusal {
            QueueRefusal::Full => Self::Overloaded,
            QueueRefusal::Closed => Self::Closed,
        }
    }
}

impl Queue {
    fn new(options: &LogOptions) -> (Self, Receiver<Command>) {
        let (commands, receiver) = sync_channel(options.queue_requests + CONTROL_PLACES);
        let bytes = permits_for(options.queue_bytes.max(options.max_request_bytes));
        let queue = Self {
            commands: Some(commands),
            requests: Arc::new(Semaphore::new(options.queue_requests)),
            bytes: Arc::new(Semaphore::new(bytes as usize)),
        };
        (queue, receiver)
    }

    /// A place for a request of so many bytes.
    fn enter(&self, bytes: usize) -> Result<[OwnedSemaphorePermit; 2], AppendError> {
        let overloaded = |_| AppendError::Overloaded { retry_after: RETRY_AFTER };
        let request = self.requests.clone().try_acquire_owned().map_err(overloaded)?;
        let bytes = self.bytes.clone().try_acquire_many_owned(permits_for(bytes)).map_err(overloaded)?;
        Ok([request, bytes])
    }

    fn send(&self, command: Command) -> Result<(), QueueRefusal> {
        let commands = self.commands.as_ref().ok_or(QueueRefusal::Closed)?;
        commands.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => QueueRefusal::Full,
            TrySendError::Disconnected(_) => QueueRefusal::Closed,
        })
    }

    fn close(&mut self) {
        self.commands = None;
    }
}

fn permits_for(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(BYTES_PER_PERMIT)).unwrap_or(u32::MAX).max(1)
}

/// The producers' state on its way from checkpoint and log into memory.
struct Dedup {
    producers: Producers,
    /// The checkpoint holds what was sent up to this frame.
    through: u64,
    /// What is wrong with the checkpoint.
    lost: Option<String>,
    given_up: bool,
}

impl Dedup {
    fn read(files: &dyn Files, directory: &Path, options: &LogOptions) -> Result<Self, LogError> {
        let horizon = Horizon {
            unused: to_micros(options.producer_horizon),
            answers: options.answers_per_producer.max(1),
            bytes: options.producers_bytes,
        };
        let path = directory.join(PRODUCERS_NAME);
        let mut dedup = Self { producers: Producers::new(horizon), through: 0, lost: None, given_up: false };
        match files.read(&path) {
            Ok(bytes) if bytes.is_empty() => dedup.given_up = true,
            Ok(bytes) => match Producers::decode(&bytes, horizon) {
                Ok((through, producers)) => (dedup.through, dedup.producers) = (through, producers),
                Err(problem) => dedup.lost = Some(problem.to_owned()),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => dedup.lost = Some("is missing".to_owned()),
            Err(source) => return Err(LogError::Io { action: "read", path, source }),
        }
        Ok(dedup)
    }

    fn replay(&mut self, frame: &Frame) {
        if let Some(stamp) = frame.stamp.filter(|_| frame.number > self.through) {
            self.producers.record(&stamp, frame.number, frame.ingest_time);
            self.producers.commit();
        }
    }

    fn finish(self, files: &dyn Files, directory: &Path, recovered: &Recovered) -> Result<Producers, LogError> {
        let path = directory.join(PRODUCERS_NAME);
        let oldest = recovered.segments.first().map_or(1, |segment| segment.first);
        let hole = self.through + 1 < oldest;
        if hole && self.given_up {
            tracing::warn!(path = %path.display(), oldest, "requests from before the log begins may be taken again");
        } else if hole {
            let problem = self.lost.unwrap_or_else(|| format!("tells only through frame {}", self.through));
            return Err(LogError::ProducersLost { path, problem, oldest });
        }
        if self.through > recovered.last_frame {
            // The log lost frames that the checkpoint knew; their numbers will be given again.
            write_producers(files, directory, &self.producers.checkpoint(recovered.last_frame, Micros::MIN))?;
        }
        Ok(self.producers)
    }
}

fn write_producers(files: &dyn Files, directory: &Path, checkpoint: &Checkpoint) -> Result<(), LogError> {
    let path = directory.join(PRODUCERS_NAME);
    files::replace(files, &path, &checkpoint.encode()).map_err(|source| LogError::Io { action: "write", path, source })
}

/// Store time as it goes on from the last run, with a durable bound ahead of it.
fn begin_time(
    files: &dyn Files,
    directory: &Path,
    options: &LogOptions,
    clock: Arc<dyn Clock>,
    found: FoundClock,
    recovered: &Recovered,
) -> Result<(Arc<StoreTime>, ClockFile), LogError> {
    let wall = clock.now();
    let given_out = match found {
        FoundClock::Record(record) => record.bound,
        FoundClock::Lost(_) if recovered.segments.is_empty() => 0,
        FoundClock::Lost(problem) => return Err(LogError::ClockLost { path: ClockFile::path_in(directory), problem }),
        // No further than that, if the wall clock is right.
        FoundClock::GivenUp => wall.saturating_add(to_micros(options.time_ahead)),
    };
    let floor = recovered.newest_ingest_time.map_or(given_out, |newest| newest.max(given_out));
    if floor.saturating_sub(wall) > SUSPICIOUS_LEAD {
        tracing::warn!(
            store_time = floor,
            wall_clock = wall,
            "the clock is behind store time, which stands still until it has caught up"
        );
    }
    let time = Arc::new(StoreTime::new(clock, floor));
    let record = ClockRecord {
        bound: time.wanted_bound(options.time_ahead),
        durable_frame: recovered.last_frame,
        active_segment: recovered.segments.last().map_or(0, |segment| segment.first),
    };
    let clock_file = ClockFile::open(files, directory, record)?;
    time.promise(record.bound);
    Ok((time, clock_file))
}

fn open_active(
    files: &dyn Files,
    directory: &Path,
    segments: &mut Vec<Segment>,
    next_frame: u64,
) -> Result<ActiveSegment, LogError> {
    let io = |action, path: &Path| {
        let path = path.to_owned();
        move |source| LogError::Io { action, path, source }
    };
    let Some(Segment { first, len, .. }) = segments.last().cloned() else {
        segments.push(Segment::empty(next_frame));
        let path = segment_path(directory, next_frame);
        let writer = files.create_new(&path).map_err(io("create", &path))?;
        files.sync_dir(directory).map_err(io("sync", directory))?;
        return Ok(ActiveSegment { first: next_frame, len: 0, writer });
    };
    let path = segment_path(directory, first);
    let writer = files.open_append(&path).map_err(io("open", &path))?;
    Ok(ActiveSegment { first, len, writer })
}

fn to_micros(duration: Duration) -> Micros {
    Micros::try_from(duration.as_micros()).unwrap_or(Micros::MAX)
}
