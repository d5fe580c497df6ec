//! The audit log: who did what to what, from where, and what came of it; refused attempts included. What
//! is about to be changed is written down durably first, and a change that can't be is not made. It
//! protects from changes and gaps in what was written, which its chain of hashes tells, and not from
//! somebody who can write the whole log anew or cut off its end: for that its head is noted elsewhere.

mod chain;
mod metrics;
mod queue;
mod reading;
mod record;
mod refusals;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hydrant_storage::files::{self, Files};
use hydrant_storage::order::Micros;
use tokio::sync::oneshot;

use crate::clock::StoreTime;
use crate::error::{Code, Error, Result};
use crate::tenancy::{Action, Permit};

pub use self::chain::{Head, Segment};
pub use self::metrics::AuditMetrics;
pub use self::reading::{Filter, Page, Problem, Verified};
pub use self::record::{Hash, Outcome, Record, hex};

use self::chain::{Chain, ChainError, ChainOptions};
use self::queue::{Between, MAX_EACH, MAX_GROUP, Next, NoRoom, Queue, Waiting};
use self::reading::Reader;
use self::refusals::Refusals;

/// How often refusals are written that were counted, and old segments are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Records of one page at most.
pub const MAX_PAGE: usize = 1_000;

#[derive(Clone, Debug)]
pub struct AuditOptions {
    pub directory: PathBuf,
    pub segment_bytes: u64,
    /// How long records are kept at least.
    pub retention: Duration,
}

/// The audit log of a node. Clones are the same.
#[derive(Clone, Debug)]
pub struct Audit {
    shared: Arc<Shared>,
    /// Closes the queue when nobody can ask for anything any more.
    _open: Arc<Open>,
}

/// While it lives, the thread that writes does.
#[derive(Debug)]
struct Open(Arc<Shared>);

/// What a reader has to know: the segments, and where they end.
type Looked = (Vec<Segment>, Head);

#[derive(Debug)]
struct Shared {
    queue: Queue<Looked>,
    files: Arc<dyn Files>,
    store_time: Arc<StoreTime>,
    refusals: Mutex<Refusals>,
    metrics: AuditMetrics,
}

/// What somebody asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    pub tenant: String,
    pub caller: String,
    pub peer: String,
    pub action: String,
    pub resources: Vec<String>,
    pub trace: String,
}

/// A change that was written down and is under way. Dropped without a conclusion, its caller has gone.
#[derive(Debug)]
pub struct Entry {
    audit: Audit,
    lane: String,
    asked: Option<Asked>,
    of: u64,
}

/// How a change ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conclusion {
    /// With the revision of what was changed, before and after, where it has one.
    Done {
        before: Option<u64>,
        after: Option<u64>,
    },
    Failed {
        reason: String,
    },
}

impl Asked {
    fn into_record(self, time: Micros, outcome: Outcome) -> Record {
        let Self { tenant, caller, peer, action, resources, trace } = self;
        Record { sequence: 0, time, tenant, caller, peer, action, resources, trace, behind: 0, outcome }
    }
}

impl Audit {
    /// Finds what was written, and goes on after it. DATA_LOSS, with the way out, where the newest segment
    /// is damaged before its end. Blocks.
    pub fn open(files: Arc<dyn Files>, store_time: Arc<StoreTime>, options: AuditOptions) -> Result<Self> {
        let AuditOptions { directory, segment_bytes, retention } = options;
        let retention = Micros::try_from(retention.as_micros()).unwrap_or(Micros::MAX);
        let chain = Chain::open(files.clone(), &directory, ChainOptions { segment_bytes, retention });
        let chain = chain.map_err(to_error)?;
        let (queue, refusals) = (Queue::default(), Mutex::default());
        let shared = Arc::new(Shared { queue, files, store_time, refusals, metrics: AuditMetrics::default() });
        let of_thread = shared.clone();
        let thread = std::thread::Builder::new().name("hydrant-audit".to_owned());
        let started = thread.spawn(move || of_thread.write(chain));
        started.map_err(|error| Error::internal(format!("the thread of the audit log can't be started: {error}")))?;
        Ok(Self { _open: Arc::new(Open(shared.clone())), shared })
    }

    /// Writes down what is about to be done. When it returns, that is durable; an error means that it must
    /// not be done.
    pub async fn ask(&self, asked: Asked) -> Result<Entry> {
        let lane = asked.tenant.clone();
        self.ask_by(lane, asked).await
    }

    /// As [`Self::ask`], by a tenant of what another one is told of too: in the turn, and in the room, of
    /// whoever asks.
    pub async fn ask_by(&self, lane: String, asked: Asked) -> Result<Entry> {
        let record = asked.clone().into_record(self.now(), Outcome::Asked);
        let (done, written) = oneshot::channel();
        self.put(Waiting { lane: lane.clone(), record, done: Some(done) })?;
        let of = written.await.map_err(|_| stopped())??;
        Ok(Entry { audit: self.clone(), lane, asked: Some(asked), of })
    }

    /// Counts an attempt that was refused by what its caller may do, or since nobody knows who that is. It is
    /// written within a second; the same again within a minute is counted and written once.
    pub fn note_refused(&self, asked: Asked, reason: &str) {
        let now = self.now();
        self.shared.refusals().note(asked, reason, now);
    }

    /// Records, the newest first, at most [`MAX_PAGE`] and before a number; of the caller's tenant alone,
    /// unless they look after all.
    pub async fn list(&self, permit: &Permit, mut filter: Filter, before: Option<u64>, limit: usize) -> Result<Page> {
        permit.require(Action::ReadAudit)?;
        if !permit.oversees_all() {
            filter.tenant = permit.tenant().to_string();
        }
        let reader = self.reader().await?;
        blocking(move || reader.list(&filter, before, limit.clamp(1, MAX_PAGE))).await
    }

    /// Holds all that is kept to its checksums and its chain, and a record that was noted elsewhere to its
    /// hash.
    pub async fn verify(&self, permit: &Permit, noted: Option<(u64, Hash)>) -> Result<Verified> {
        permit.require(Action::ReadAudit)?;
        if !permit.oversees_all() {
            let message = "the audit log is one for all tenants: who looks after the server verifies it";
            return Err(Error::new(Code::PermissionDenied, "PERMISSION_DENIED", message));
        }
        let reader = self.reader().await?;
        blocking(move || Ok(reader.verify(noted))).await
    }

    /// Writes what was counted of refusals, and removes what is old.
    pub async fn sweep(&self) -> Result<()> {
        let (done, swept) = oneshot::channel();
        self.put_between(Between::Sweep(done))?;
        swept.await.map_err(|_| stopped())
    }

    /// The segments as they are now: for who copies them. Bytes that come later are not part of them.
    pub async fn segments(&self) -> Result<Vec<Segment>> {
        Ok(self.reader().await?.segments)
    }

    /// Writes what waits and ends; nothing is written any more.
    pub async fn close(&self) {
        let (done, stopped) = oneshot::channel();
        if self.put_between(Between::Stop(done)).is_ok() {
            // It has ended either way.
            let _ = stopped.await;
        }
    }

    pub fn metrics(&self) -> &AuditMetrics {
        &self.shared.metrics
    }

    async fn reader(&self) -> Result<Reader> {
        let (done, looked) = oneshot::channel();
        self.put_between(Between::Look(done))?;
        let (segments, head) = looked.await.map_err(|_| stopped())?;
        Ok(Reader { files: self.shared.files.clone(), segments, head })
    }

    fn put(&self, waiting: Waiting) -> Result<()> {
        self.shared.queue.put(waiting).map_err(|no_room| match no_room {
            NoRoom::Closed => stopped(),
            NoRoom::Full => {
                let message = format!("{MAX_EACH} changes of the tenant wait for the audit log already");
                Error::new(Code::ResourceExhausted, "AUDIT_BUSY", message).retry_after(Duration::from_millis(200))
            }
        })
    }

    fn put_between(&self, between: Between<Looked>) -> Result<()> {
        self.shared.queue.put_between(between).map_err(|_| stopped())
    }

    fn now(&self) -> Micros {
        self.shared.store_time.read()
    }
}

impl Entry {
    /// The number of the record that says what was asked.
    pub fn sequence(&self) -> u64 {
        self.of
    }

    pub fn conclude(mut self, conclusion: Conclusion) {
        let of = self.of;
        self.write(match conclusion {
            Conclusion::Done { before, after } => Outcome::Done { of, before, after },
            Conclusion::Failed { reason } => Outcome::Failed { of, reason },
        });
    }

    fn write(&mut self, outcome: Outcome) {
        let Some(asked) = self.asked.take() else { return };
        let record = asked.into_record(self.audit.now(), outcome);
        if let Err(error) = self.audit.put(Waiting { lane: std::mem::take(&mut self.lane), record, done: None }) {
            tracing::error!(of = self.of, %error, "what came of a change is not in the audit log");
            self.audit.shared.metrics.failures.add(1);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let of = self.of;
        self.write(Outcome::GivenUp { of });
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.queue.close();
    }
}

impl Shared {
    /// The thread's work: one group of records after the other.
    fn write(&self, mut chain: Chain) {
        let mut swept = Instant::now();
        let stop = loop {
            match self.queue.next(SWEEP_INTERVAL.saturating_sub(swept.elapsed())) {
                Next::Group(group) => self.append_group(&mut chain, group),
                Next::Between(Between::Look(done)) => {
                    // Whoever reads the log finds the refusals that were told before.
                    while self.sweep(&mut chain, false) {}
                    drop(done.send((chain.segments(), chain.head())));
                }
                Next::Between(Between::Sweep(done)) => {
                    while self.sweep(&mut chain, false) {}
                    let _ = done.send(());
                }
                Next::Nothing => {}
                Next::Between(Between::Stop(done)) => break Some(done),
                Next::Over => break None,
            }
            // However many changes there are.
            if swept.elapsed() >= SWEEP_INTERVAL && !self.sweep(&mut chain, false) {
                swept = Instant::now();
            }
        };
        self.queue.close();
        // What was put in since: none of it was said to be written.
        while let Next::Group(group) = self.queue.next(Duration::ZERO) {
            group.into_iter().filter_map(|waiting| waiting.done).for_each(|done| drop(done.send(Err(stopped()))));
        }
        while self.sweep(&mut chain, true) {}
        drop(chain);
        if let Some(done) = stop {
            let _ = done.send(());
        }
    }

    /// Writes a group, and tells everybody who waits. Whoever asked may have gone: so it is written too.
    fn append_group(&self, chain: &mut Chain, group: Vec<Waiting>) {
        let (records, waits): (Vec<Record>, Vec<_>) =
            group.into_iter().map(|waiting| (waiting.record, waiting.done)).unzip();
        let mut gone = Vec::new();
        match self.append(chain, records.clone()) {
            Ok(first) => {
                for ((record, done), of) in records.into_iter().zip(waits).zip(first..) {
                    if done.is_some_and(|done| done.send(Ok(of)).is_err()) {
                        gone.push(Record { time: self.store_time.read(), outcome: Outcome::GivenUp { of }, ..record });
                    }
                }
            }
            Err(error) => {
                let told = to_error(error);
                waits.into_iter().flatten().for_each(|done| drop(done.send(Err(told.clone()))));
            }
        }
        if !gone.is_empty() {
            drop(self.append(chain, gone));
        }
    }

    /// The number of the first.
    fn append(&self, chain: &mut Chain, records: Vec<Record>) -> Result<u64, ChainError> {
        let count = records.len() as u64;
        let appended = chain.append_all(records);
        match &appended {
            Ok(_) => self.metrics.records.add(count),
            Err(error) => {
                tracing::error!(%error, "the audit log can't be written");
                self.metrics.failures.add(count);
            }
        }
        appended
    }

    /// One group of refusals at most, so that changes needn't wait for more; whether there may be others.
    fn sweep(&self, chain: &mut Chain, all: bool) -> bool {
        let is_quiet = self.refusals().is_empty();
        if !is_quiet {
            let due = self.refusals().due(self.store_time.read(), all, MAX_GROUP);
            let is_full = due.len() == MAX_GROUP;
            if !due.is_empty() {
                drop(self.append(chain, due));
            }
            if is_full {
                return true;
            }
        }
        if chain.has_old(self.store_time.wall())
            && let Err(error) = chain.remove_old(self.store_time.read())
        {
            tracing::warn!(%error, "old records of the audit log were not removed");
        }
        false
    }

    fn refusals(&self) -> std::sync::MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stopped() -> Error {
    Error::new(Code::Unavailable, "SHUTTING_DOWN", "the audit log is closed: the server is stopping")
}

fn to_error(error: ChainError) -> Error {
    let message = format!("the change can't be audited, and was not made: {error}");
    match error {
        ChainError::Io { source, .. } if files::is_out_of_space(&source) => {
            Error::new(Code::ResourceExhausted, "AUDIT_DISK_FULL", message)
                .hint("free space where the data directory's `audit` lies; nothing was changed")
        }
        ChainError::Io { .. } => Error::new(Code::Unavailable, "AUDIT_UNAVAILABLE", message)
            .hint("check the disk under the data directory's `audit`; nothing was changed"),
        ChainError::Uncertain => Error::new(Code::Unavailable, "AUDIT_UNCERTAIN", message)
            .hint("restart the server: it then reads what is on disk"),
        ChainError::Damaged { path, offset, detail } => {
            let message = format!("the audit log is damaged: {} at byte {offset}: {detail}", path.display());
            Error::new(Code::DataLoss, "AUDIT_DAMAGED", message).hint(
                "restore the file from a backup; or move the whole directory `audit` away as it is, to be looked into: the log \
                 then begins anew",
            )
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let ended = |error| Error::internal(format!("reading the audit log ended early: {error}"));
    tokio::task::spawn_blocking(work).await.map_err(ended)?
}
