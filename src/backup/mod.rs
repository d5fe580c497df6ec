//! Backups of the whole data directory while it serves: made under a name, listed, deleted. One is
//! made or deleted at a time, on a thread of its own that stands back behind online reads. It changes
//! no row and flushes nothing; the log begins a new segment for it. What can be done without a server
//! (to verify a backup, to restore it) is in `hydrant_storage::backup`.

mod make;
mod metrics;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hydrant_storage::backup::{About, BackupError, Counts, Shelf, Shelved};
use hydrant_storage::files::Files;
use hydrant_storage::history::HistoryTables;
use hydrant_storage::names::Name;
use hydrant_storage::threads::{Work, stand_back, standing_back};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

pub use self::metrics::BackupMetrics;

use crate::clock::StoreTime;
use crate::error::{Code, Error, Result};
use crate::log::LocalLog;
use crate::one_at_a_time::OneAtATime;
use crate::partition::Partitions;
use crate::registry::SnapshotReader;
use crate::tenancy::{Action, Permit};

/// What a backup is made of.
#[derive(Debug)]
pub struct BackupParts {
    pub files: Arc<dyn Files>,
    pub log: Arc<LocalLog>,
    pub partitions: Partitions,
    pub tables: Arc<HistoryTables>,
    pub snapshots: SnapshotReader,
    pub store_time: Arc<StoreTime>,
    /// Held by who has the log take files into tables, until they are there.
    pub taking_in: Arc<tokio::sync::Mutex<()>>,
    /// The parts of the data directory. In a backup they have the same names.
    pub directories: Directories,
    pub spines: Arc<dyn SpineFiles>,
    pub audit: Arc<dyn AuditFiles>,
}

/// The stored spines, which backups know only as files.
pub trait SpineFiles: fmt::Debug + Send + Sync {
    /// Until what is returned is dropped, none goes.
    fn hold(&self) -> Box<dyn Send>;

    /// Where each lies, and its path below where spines lie. The bytes never change.
    fn files(&self) -> Vec<(PathBuf, String)>;
}

/// The audit log, which backups know only as files.
#[async_trait]
pub trait AuditFiles: fmt::Debug + Send + Sync {
    /// Each with so many bytes that are durable; only the last gets more.
    async fn files(&self) -> Result<Vec<(PathBuf, u64)>>;
}

#[derive(Clone, Debug)]
pub struct Directories {
    pub log: PathBuf,
    pub partitions: PathBuf,
    pub history: PathBuf,
    pub registry: PathBuf,
    pub spines: PathBuf,
    pub audit: PathBuf,
}

#[derive(Clone, Debug)]
pub struct BackupOptions {
    /// Where backups lie. Links are possible only on the file system of the data directory.
    pub directory: PathBuf,
    pub max_kept: usize,
}

/// The backups of a node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Backups {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    parts: BackupParts,
    shelf: Shelf,
    max_kept: usize,
    /// One is made or deleted at a time.
    working: OneAtATime,
    stopping: AtomicBool,
    metrics: BackupMetrics,
}

/// A backup as it is listed.
#[derive(Clone, Debug)]
pub struct Listed {
    pub name: Name,
    /// Or why that can't be read.
    pub about: Result<About, String>,
}

/// A backup under way. Dropping it stops the work, and nothing of it is left.
#[derive(Debug)]
pub struct Making {
    progress: watch::Receiver<Counts>,
    outcome: oneshot::Receiver<Result<About>>,
}

/// What is told of a backup under way.
#[derive(Debug)]
pub enum Told {
    Progress(Counts),
    /// Nothing follows.
    Done(Result<About>),
}

/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

impl Backups {
    /// Removes what a crash left of backups; whole ones are kept. Blocks.
    pub fn open(parts: BackupParts, options: BackupOptions) -> Result<Self> {
        let shelf = Shelf::new(parts.files.clone(), options.directory);
        let removed = shelf.remove_leftovers().map_err(to_error)?;
        if removed > 0 {
            tracing::info!(removed, directory = %shelf.directory().display(), "unfinished backups were removed");
        }
        let newest = shelf.list().map_err(to_error)?.into_iter().rev().find_map(|shelved| shelved.manifest.ok());
        let metrics = BackupMetrics::new(newest.map(|manifest| manifest.about.made));
        let inner = Inner {
            parts,
            shelf,
            max_kept: options.max_kept,
            working: OneAtATime::default(),
            stopping: AtomicBool::new(false),
            metrics,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Begins a backup under a name that is free. It holds every request that was acknowledged before,
    /// and no part of any other.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED while another is made or deleted; what else goes wrong is told by
    /// [`Making::next`].
    pub fn create(&self, permit: &Permit, name: Name) -> Result<Making> {
        permit.require(Action::BackUp)?;
        let place = self.enter()?;
        let (told, progress) = watch::channel(Counts::default());
        let (done, outcome) = oneshot::channel();
        let (inner, runtime) = (self.inner.clone(), Handle::current());
        let thread = std::thread::Builder::new().name("hydrant-backup".to_owned());
        let started = thread.spawn(move || {
            stand_back(Work::Upkeep);
            inner.make(&name, &runtime, place, &told, done);
        });
        started.map_err(|error| Error::internal(format!("the backup's thread can't be started: {error}")))?;
        Ok(Making { progress, outcome })
    }

    /// Every backup, the one made first in front.
    pub async fn list(&self, permit: &Permit) -> Result<Vec<Listed>> {
        permit.require(Action::BackUp)?;
        let inner = self.inner.clone();
        let listed = blocking(move || inner.shelf.list().map_err(to_error)).await?;
        let listed = listed.into_iter().map(|Shelved { name, manifest }| {
            let about = manifest.map(|manifest| manifest.about).map_err(|error| error.to_string());
            Listed { name, about }
        });
        Ok(listed.collect())
    }

    /// The names of all backups, those that can't be read too.
    pub async fn names(&self) -> Result<Vec<Name>> {
        let inner = self.inner.clone();
        let listed = blocking(move || inner.shelf.list().map_err(to_error)).await?;
        Ok(listed.into_iter().map(|shelved| shelved.name).collect())
    }

    /// Deletes a backup; it runs to its end even if nobody waits for it.
    pub async fn delete(&self, permit: &Permit, name: Name) -> Result<()> {
        permit.require(Action::BackUp)?;
        let (place, inner) = (self.enter()?, self.inner.clone());
        blocking(move || {
            // Large files take their time to go.
            let deleted = standing_back(Work::Upkeep, || inner.shelf.delete(&name));
            let failed = |error| Error::internal(format!("the thread that deletes can't be started: {error}"));
            deleted.map_err(failed)?.map_err(to_error)?;
            let newest = inner.shelf.list().map_err(to_error)?.into_iter().rev().find_map(|left| left.manifest.ok());
            inner.metrics.note_newest(newest.map(|manifest| manifest.about.made));
            drop(place);
            Ok(())
        })
        .await
    }

    /// Where a backup lies, if there is one of that name.
    pub fn path_of(&self, name: &Name) -> PathBuf {
        self.inner.shelf.path_of(name)
    }

    pub fn metrics(&self) -> &BackupMetrics {
        &self.inner.metrics
    }

    /// How long ago the newest backup was made, in microseconds of store time; `None` before the first.
    pub fn age(&self) -> Option<i64> {
        let made = self.inner.metrics.newest()?;
        Some(self.inner.parts.store_time.read().saturating_sub(made).max(0))
    }

    /// Stops the backup under way and lets none begin.
    pub async fn shutdown(&self) {
        self.inner.stopping.store(true, Ordering::Release);
        self.inner.working.close().await;
    }

    fn enter(&self) -> Result<OwnedSemaphorePermit> {
        self.inner.working.enter(|| {
            Error::new(Code::ResourceExhausted, "BACKUP_BUSY", "another backup is being made or deleted")
                .hint("wait until it has ended: there is one at a time")
                .retry_after(Duration::from_secs(1))
        })
    }
}

impl Inner {
    /// To be called where it may block.
    fn make(
        &self,
        name: &Name,
        runtime: &Handle,
        place: OwnedSemaphorePermit,
        told: &watch::Sender<Counts>,
        done: oneshot::Sender<Result<About>>,
    ) {
        let mut last_told = Instant::now();
        let mut proceed = |counts: &Counts| {
            if last_told.elapsed() >= PROGRESS_INTERVAL {
                last_told = Instant::now();
                told.send_replace(*counts);
            }
            !done.is_closed() && !self.stopping.load(Ordering::Acquire)
        };
        let made = self.make_room().and_then(|()| make::make(&self.parts, &self.shelf, name, runtime, &mut proceed));
        match &made {
            Ok(about) => {
                self.metrics.note_made(about.made);
                let (files, frame, took_micros) = (about.files, about.frame, about.took_micros);
                tracing::info!(backup = %name, files, frame, took_micros, "a backup was made");
            }
            Err(error) if matches!(error.code, Code::AlreadyExists | Code::FailedPrecondition) => {
                tracing::info!(backup = %name, %error, "no backup was begun");
            }
            Err(error) => {
                self.metrics.failures.add(1);
                tracing::warn!(backup = %name, %error, "no backup was made");
            }
        }
        drop(place);
        // Whoever asked may have gone.
        let _ = done.send(made);
    }

    fn make_room(&self) -> Result<()> {
        let kept = self.shelf.list().map_err(to_error)?;
        if kept.len() < self.max_kept {
            return Ok(());
        }
        let message = format!("{} backups are kept already, and 'backup.max_kept' is {}", kept.len(), self.max_kept);
        let oldest = kept.first().map(|shelved| shelved.name.to_string()).unwrap_or_default();
        Err(Error::new(Code::FailedPrecondition, "TOO_MANY_BACKUPS", message)
            .hint(format!("`hydrant backup delete {oldest}` deletes the oldest; or raise the option")))
    }
}

impl Making {
    /// What there is to tell next: progress now and then, and in the end what came of it.
    pub async fn next(&mut self) -> Told {
        tokio::select! {
            biased;
            outcome = &mut self.outcome => Told::Done(outcome.unwrap_or_else(|_| {
                Err(Error::internal("the backup's thread ended early"))
            })),
            Ok(()) = self.progress.changed() => Told::Progress(*self.progress.borrow_and_update()),
        }
    }

    /// Waits for the end.
    pub async fn finish(mut self) -> Result<About> {
        loop {
            if let Told::Done(outcome) = self.next().await {
                return outcome;
            }
        }
    }
}

/// A failure of files, as a caller sees it.
fn to_error(error: BackupError) -> Error {
    let message = error.to_string();
    match error {
        BackupError::Taken { name } => Error::new(Code::AlreadyExists, "BACKUP_EXISTS", message)
            .hint(format!("take another name, or delete that one: `hydrant backup delete {name}`"))
            .with("backup", name),
        BackupError::InTheWay { name, path } => Error::new(Code::AlreadyExists, "BACKUP_EXISTS", message)
            .hint(format!("take another name, or move '{}' away", path.display()))
            .with("backup", name),
        BackupError::Unknown { name } => {
            Error::not_found("BACKUP_NOT_FOUND", message).with("backup", name).hint("`hydrant backup list` lists them")
        }
        error if error.is_out_of_space() => disk_full(message),
        BackupError::Stopped => Error::new(Code::Unavailable, "BACKUP_STOPPED", message),
        BackupError::Damaged { .. } => Error::new(Code::DataLoss, "BACKUP_DAMAGED", message),
        _ => Error::new(Code::Unavailable, "BACKUP_FAILED", message),
    }
}

fn disk_full(message: String) -> Error {
    Error::new(Code::ResourceExhausted, "BACKUP_DISK_FULL", message)
        .hint("free space where backups lie, such as by deleting one; nothing of this one is left")
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Error::internal(format!("work on backups ended early: {error}"))))
}
