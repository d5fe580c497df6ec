//! What callers hold of a partition: bounded, typed, and never an actor's address. Reads go through
//! a lent view that is taken back the moment the partition is moved, parked or fails; everything
//! else is a command with a deadline, an in-flight cap and a stated reason when it is refused.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use hydrant_storage::keys::SlotRange;
use hydrant_storage::names::{TenantId, ViewId};
use hydrant_storage::order::Micros;
use hydrant_storage::partition::{Erasable, ReadView};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use crate::error::{Code, Error};

/// What a partition is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartitionState {
    /// Its files are being opened.
    Opening,
    /// It applies what the log held when it was opened; it is not read before that, so that an
    /// answer never goes back behind one given before a restart.
    Replaying {
        through: u64,
    },
    Serving,
    /// It failed and will be opened again after the delay.
    Reopening {
        reason: Arc<str>,
        delay: Duration,
        attempt: u32,
    },
    /// It stays closed until an operator acts.
    Parked {
        reason: Arc<str>,
    },
    /// The node is shutting down.
    Stopped,
}

/// Why a partition did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartitionError {
    #[error("partition {partition} is not ready: {state}")]
    NotReady { partition: usize, state: PartitionState },
    #[error("partition {partition} is parked: {reason}")]
    Parked { partition: usize, reason: Arc<str> },
    #[error("partition {partition} has {limit} commands under way already")]
    Busy { partition: usize, limit: usize },
    #[error("partition {partition} did not {what} before the deadline")]
    DeadlineExceeded { partition: usize, what: &'static str },
    #[error("partition {partition} has stopped")]
    Stopped { partition: usize },
}

/// A partition, as its callers see it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PartitionHandle {
    shared: Arc<Shared>,
}

impl PartitionHandle {
    pub fn index(&self) -> usize {
        self.shared.index
    }

    /// The slots that the partition holds.
    pub fn range(&self) -> SlotRange {
        self.shared.range
    }

    pub fn state(&self) -> PartitionState {
        self.shared.progress.borrow().state.clone()
    }

    pub fn is_serving(&self) -> bool {
        matches!(self.shared.progress.borrow().state, PartitionState::Serving)
    }

    /// The newest frame that reads see.
    pub fn applied_frame(&self) -> u64 {
        self.shared.progress.borrow().applied
    }

    /// The newest frame that is on disk: a reopened partition would begin after it.
    pub fn flushed_frame(&self) -> u64 {
        self.shared.flushed.load(Ordering::Acquire)
    }

    /// Bytes of rows that are not yet in history.
    pub fn tail_bytes(&self) -> u64 {
        self.shared.tail_bytes.load(Ordering::Acquire)
    }

    /// The newest view of the partition: immutable, and read where the caller stands.
    pub fn view(&self) -> Result<Arc<ReadView>, PartitionError> {
        self.shared.view.load_full().ok_or_else(|| self.shared.unavailable())
    }

    /// Waits until reads see `frame`. A partition that is being reopened is waited for, a parked
    /// one is not.
    pub async fn wait_applied(&self, frame: u64, deadline: Instant) -> Result<(), PartitionError> {
        self.wait_for("apply the log", deadline, |progress| progress.applied >= frame).await
    }

    /// Waits until reads can be had at all.
    pub async fn wait_serving(&self, deadline: Instant) -> Result<(), PartitionError> {
        self.wait_for("open", deadline, |_| true).await
    }

    /// Waits until every row due at or before `through` can be read; `through` is an instant that
    /// store time has given out. Any number of callers cost the partition one message.
    pub async fn promote(&self, through: Micros, deadline: Instant) -> Result<(), PartitionError> {
        if self.shared.progress.borrow().promoted < through {
            self.shared.nudge();
        }
        self.wait_for("promote due rows", deadline, |progress| progress.promoted >= through).await
    }

    /// Drops the tail rows of a view that history holds: those of frames through `through`.
    pub async fn drop_tail(
        &self,
        tenant: TenantId,
        view: ViewId,
        through: u64,
        deadline: Instant,
    ) -> Result<(), PartitionError> {
        let (reply, dropped) = oneshot::channel();
        self.command(Command::DropTail { tenant, view, through, reply: self.reply(reply)? })?;
        self.answer(dropped, "drop its tail", deadline).await
    }

    /// Writes everything applied so far to disk; answers the newest frame on disk.
    pub async fn flush(&self, deadline: Instant) -> Result<u64, PartitionError> {
        let (reply, flushed) = oneshot::channel();
        self.command(Command::Flush { reply: self.reply(reply)? })?;
        self.answer(flushed, "flush", deadline).await
    }

    /// Deletes rows that a view of this partition has told, of frames up to `through`. Durable when it
    /// returns; views that were lent before still show them.
    pub async fn erase(&self, rows: Erasable, through: u64, deadline: Instant) -> Result<(), PartitionError> {
        let (reply, erased) = oneshot::channel();
        self.command(Command::Erase { rows, through, reply: self.reply(reply)? })?;
        self.answer(erased, "erase rows", deadline).await
    }

    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The order to open a parked partition is on its way: that it was parked is no answer any more.
    pub(super) fn expect_opening(&self) {
        self.shared.progress.send_if_modified(|progress| {
            let parked = matches!(progress.state, PartitionState::Parked { .. });
            if parked {
                progress.state = PartitionState::Opening;
            }
            parked
        });
    }

    fn reply<T>(&self, sender: oneshot::Sender<T>) -> Result<Reply<T>, PartitionError> {
        let permit = self.shared.in_flight.clone().try_acquire_owned();
        let busy = PartitionError::Busy { partition: self.shared.index, limit: self.shared.max_in_flight };
        Ok(Reply { sender, _permit: permit.map_err(|_| busy)? })
    }

    fn command(&self, command: Command) -> Result<(), PartitionError> {
        match self.shared.mailbox.load_full() {
            Some(mailbox) => {
                mailbox.tell(command);
                Ok(())
            }
            None => Err(self.shared.unavailable()),
        }
    }

    async fn answer<T>(
        &self,
        receiver: oneshot::Receiver<T>,
        what: &'static str,
        deadline: Instant,
    ) -> Result<T, PartitionError> {
        match tokio::time::timeout_at(deadline.into(), receiver).await {
            Ok(Ok(answer)) => Ok(answer),
            // The actor ended with the command unanswered.
            Ok(Err(_)) => Err(self.shared.unavailable()),
            Err(_) => Err(PartitionError::DeadlineExceeded { partition: self.shared.index, what }),
        }
    }

    async fn wait_for(
        &self,
        what: &'static str,
        deadline: Instant,
        reached: impl Fn(&Progress) -> bool,
    ) -> Result<(), PartitionError> {
        let partition = self.shared.index;
        let mut progress = self.shared.progress.subscribe();
        let ended = |progress: &Progress| {
            let serving = matches!(progress.state, PartitionState::Serving);
            let closed = matches!(progress.state, PartitionState::Parked { .. } | PartitionState::Stopped);
            closed || (serving && reached(progress))
        };
        let waited = tokio::time::timeout_at(deadline.into(), progress.wait_for(ended)).await;
        match waited {
            Err(_) => Err(PartitionError::DeadlineExceeded { partition, what }),
            Ok(Err(_)) => Err(PartitionError::Stopped { partition }),
            Ok(Ok(progress)) => match &progress.state {
                PartitionState::Parked { reason } => Err(PartitionError::Parked { partition, reason: reason.clone() }),
                PartitionState::Stopped => Err(PartitionError::Stopped { partition }),
                _ => Ok(()),
            },
        }
    }
}

impl fmt::Display for PartitionState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opening => formatter.write_str("it is being opened"),
            Self::Replaying { through } => write!(formatter, "it replays the log through frame {through}"),
            Self::Serving => formatter.write_str("it is serving"),
            Self::Reopening { reason, delay, attempt } => {
                write!(formatter, "it is reopened in {delay:?} (attempt {attempt}) after: {reason}")
            }
            Self::Parked { reason } => write!(formatter, "it is parked: {reason}"),
            Self::Stopped => formatter.write_str("it has stopped"),
        }
    }
}

impl From<PartitionError> for Error {
    fn from(error: PartitionError) -> Self {
        let message = error.to_string();
        match error {
            PartitionError::NotReady { partition, .. } => Self::new(Code::Unavailable, "PARTITION_NOT_READY", message)
                .with("partition", partition)
                .retry_after(Duration::from_millis(100)),
            PartitionError::Parked { partition, .. } => Self::new(Code::Unavailable, "PARTITION_PARKED", message)
                .with("partition", partition)
                .hint("the server's log tells what happened; mend it and restart the node"),
            PartitionError::Busy { partition, .. } => Self::new(Code::ResourceExhausted, "PARTITION_BUSY", message)
                .with("partition", partition)
                .retry_after(Duration::from_millis(100)),
            PartitionError::DeadlineExceeded { partition, .. } => {
                Self::new(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", message).with("partition", partition)
            }
            PartitionError::Stopped { partition } => {
                Self::new(Code::Unavailable, "SHUTTING_DOWN", message).with("partition", partition)
            }
        }
    }
}

/// What a partition's actor can be told.
#[derive(Debug)]
pub(super) enum Command {
    /// Rows may be due, or frames may wait: look.
    Nudge,
    Flush {
        reply: Reply<u64>,
    },
    DropTail {
        tenant: TenantId,
        view: ViewId,
        through: u64,
        reply: Reply<()>,
    },
    Erase {
        rows: Erasable,
        through: u64,
        reply: Reply<()>,
    },
    Stop {
        why: StopReason,
    },
}

/// Why a partition's actor is told to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StopReason {
    Shutdown,
    Park(Arc<str>),
}

/// The way back to a caller. It holds the caller's place among those in flight.
#[derive(Debug)]
pub(super) struct Reply<T> {
    sender: oneshot::Sender<T>,
    _permit: OwnedSemaphorePermit,
}

impl<T> Reply<T> {
    pub fn send(self, answer: T) {
        // A caller that has gone away needs no answer.
        drop(self.sender.send(answer));
    }
}

/// Where commands go; the actor's module knows what stands behind it.
pub(super) trait Mailbox: Send + Sync + fmt::Debug {
    fn tell(&self, command: Command);
}

/// What the actor publishes for readers and waiters.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    pub state: PartitionState,
    /// The newest frame that the lent view holds.
    pub applied: u64,
    /// Every row due at or before it can be read.
    pub promoted: Micros,
}

/// The meeting place of a partition's actor, its supervisor and its callers. It outlives the actor.
#[derive(Debug)]
pub(super) struct Shared {
    pub index: usize,
    pub range: SlotRange,
    /// `None`: not lent, or revoked.
    pub view: ArcSwapOption<ReadView>,
    pub progress: watch::Sender<Progress>,
    pub mailbox: ArcSwapOption<Box<dyn Mailbox>>,
    pub flushed: AtomicU64,
    pub tail_bytes: AtomicU64,
    /// Whether a nudge is on its way that the actor hasn't seen yet.
    pub nudged: std::sync::atomic::AtomicBool,
    in_flight: Arc<Semaphore>,
    max_in_flight: usize,
}

impl Shared {
    pub fn new(index: usize, range: SlotRange, max_in_flight: usize) -> Arc<Self> {
        let opening = Progress { state: PartitionState::Opening, applied: 0, promoted: Micros::MIN };
        Arc::new(Self {
            index,
            range,
            view: ArcSwapOption::empty(),
            progress: watch::channel(opening).0,
            mailbox: ArcSwapOption::empty(),
            flushed: AtomicU64::new(0),
            tail_bytes: AtomicU64::new(0),
            nudged: std::sync::atomic::AtomicBool::new(false),
            in_flight: Arc::new(Semaphore::new(max_in_flight)),
            max_in_flight,
        })
    }

    /// Takes back the view and states what the partition is doing instead of serving.
    pub fn revoke(&self, state: PartitionState) {
        self.view.store(None);
        self.progress.send_modify(|progress| {
            progress.state = state;
            progress.promoted = Micros::MIN;
        });
    }

    fn nudge(&self) {
        if self.nudged.swap(true, Ordering::AcqRel) {
            return;
        }
        match self.mailbox.load_full() {
            Some(mailbox) => mailbox.tell(Command::Nudge),
            // No actor now; the next one looks by itself when it starts.
            None => self.nudged.store(false, Ordering::Release),
        }
    }

    fn unavailable(&self) -> PartitionError {
        let partition = self.index;
        match self.progress.borrow().state.clone() {
            PartitionState::Parked { reason } => PartitionError::Parked { partition, reason },
            PartitionState::Stopped => PartitionError::Stopped { partition },
            state => PartitionError::NotReady { partition, state },
        }
    }
}
