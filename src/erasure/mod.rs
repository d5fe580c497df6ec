//! Erasing an entity key: every row of it, wherever this server keeps rows, gone from the disk within a
//! stated time, and nothing kept but that it was done. It is durable before it begins and goes on over hang-ups
//! and restarts until a search of all places finds nothing. One is done at a time. It decides nothing about
//! who may ask, and never tells a key.

mod key;
mod state;
mod work;

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use arrow_array::ArrayRef;
use async_trait::async_trait;
use bytes::Bytes;
use hydrant_storage::history::HistoryTables;
use hydrant_storage::names::{Name, ViewId};
use hydrant_storage::order::Micros;
use hydrant_storage::value::ScalarType;
use tokio::sync::{Notify, RwLock, watch};
use tokio::task::JoinHandle;

use crate::clock::StoreTime;
use crate::cluster::{MetadataStore, Versioned};
use crate::error::{Code, Error, Result};
use crate::lands::Lands;
use crate::log::LocalLog;
use crate::partition::Partitions;
use crate::registry::SnapshotReader;
use crate::tenancy::{Action, Permit};

pub use self::state::{Erasure, Places};

use self::state::{Key, State};

/// Under which erasures are kept.
const METADATA_KEY: &str = "erasures";
/// Erasures of a tenant that wait to be done.
const MAX_WAITING: usize = 100;
/// Erasures of a tenant that are told of; the audit log tells of older ones. All are kept in one value.
const MAX_KEPT: usize = 500;
/// After an attempt failed.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// What backfills have staged.
#[async_trait]
pub trait GivesUpStaged: Send + Sync + Debug {
    /// Removes what is staged of these views, and tells of how many backfills; until what is returned is
    /// dropped, none begins.
    async fn give_up(&self, views: &[ViewId]) -> Result<(Box<dyn Send>, u64)>;
}

/// Columns of a spine that together name an entity, and the encoded key that is looked for in them.
#[derive(Clone)]
pub struct KeyColumns {
    pub entity: Name,
    pub columns: Vec<String>,
    pub types: Vec<ScalarType>,
    pub key: Vec<u8>,
}

/// Rows, spines and saved training sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpineRows {
    pub rows: u64,
    pub spines: u64,
    pub training_sets: u64,
}

/// Stored spines and saved training sets.
#[async_trait]
pub trait KeepsSpines: Send + Sync + Debug {
    async fn count(&self, tenant: &Name, keys: Vec<KeyColumns>) -> Result<SpineRows>;

    async fn erase(&self, tenant: &Name, keys: Vec<KeyColumns>, erasure: u64) -> Result<SpineRows>;
}

/// Backups, which don't change.
#[async_trait]
pub trait ListsBackups: Send + Sync + Debug {
    async fn names(&self) -> Result<Vec<Name>>;
}

/// What erasures work on.
#[derive(Clone, Debug)]
pub struct ErasureParts {
    pub snapshots: SnapshotReader,
    pub metadata: Arc<dyn MetadataStore>,
    pub store_time: Arc<StoreTime>,
    pub log: Arc<LocalLog>,
    pub partitions: Partitions,
    pub tables: Arc<HistoryTables>,
    pub lands: Arc<dyn Lands>,
    pub staged: Arc<dyn GivesUpStaged>,
    pub spines: Arc<dyn KeepsSpines>,
    pub backups: Arc<dyn ListsBackups>,
    /// Held by who takes files in or copies the data directory.
    pub taking_in: Arc<tokio::sync::Mutex<()>>,
    /// Held by who brings rows online that the log had before.
    pub bringing_online: Arc<RwLock<()>>,
    /// Of an encoded key, as of those of rows.
    pub max_key_bytes: usize,
}

/// The use case. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Erasures {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    parts: ErasureParts,
    state: ArcSwap<State>,
    /// One change at a time; holds the version of what is persisted.
    writer: tokio::sync::Mutex<u64>,
    asked: Notify,
    /// Counts the changes of `state`.
    changes: watch::Sender<u64>,
    stop: watch::Sender<bool>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

impl Erasures {
    /// Finds what was asked for, and goes on with what is not done. DATA_LOSS, with the way out, where that
    /// can't be read.
    pub async fn open(parts: ErasureParts) -> Result<Self> {
        let (state, version) = match parts.metadata.get(METADATA_KEY).await? {
            Some(Versioned { value, version }) => (State::decode(&value).map_err(damaged)?, version),
            None => (State::default(), 0),
        };
        let inner = Inner {
            parts,
            state: ArcSwap::from_pointee(state),
            writer: tokio::sync::Mutex::new(version),
            asked: Notify::new(),
            changes: watch::Sender::new(0),
            stop: watch::Sender::new(false),
            worker: Mutex::default(),
        };
        let erasures = Self { inner: Arc::new(inner) };
        let worker = tokio::spawn(erasures.inner.clone().work());
        *erasures.inner.worker.lock().unwrap_or_else(PoisonError::into_inner) = Some(worker);
        Ok(erasures)
    }

    /// Has a key of an entity erased, given by one column of one value for each of its join keys. It is
    /// durable when this returns, and then done whatever happens; asked for again before it has
    /// begun, it is the same one: from then on later rows are not of it.
    ///
    /// # Errors
    /// NOT_FOUND (no such entity), INVALID_ARGUMENT (its join keys are not given, each once and of its type; or
    /// longer than any row's), RESOURCE_EXHAUSTED (too many wait).
    pub async fn request(&self, permit: &Permit, entity: &Name, columns: &[(String, ArrayRef)]) -> Result<Erasure> {
        let (views, key) = self.key(permit, entity, columns)?;
        let (inner, entity) = (self.inner.clone(), entity.clone());
        let (tenant, caller) = (permit.tenant().clone(), permit.caller().to_owned());
        // What is persisted and what is known of it stay one, whoever stops waiting.
        let taken = tokio::spawn(async move { inner.take(tenant, caller, entity, views, key).await });
        taken.await.unwrap_or_else(|error| Err(Error::internal(format!("an erasure was not taken: {error}"))))
    }

    /// The views that an erasure of this key would be about, and what it would find in each place. Refusals
    /// as of [`Self::request`].
    pub async fn find(
        &self,
        permit: &Permit,
        entity: &Name,
        columns: &[(String, ArrayRef)],
    ) -> Result<(Vec<Name>, Places)> {
        let (views, key) = self.key(permit, entity, columns)?;
        let found = self.inner.count(permit.tenant(), entity, &key, u64::MAX).await?;
        Ok((views, found))
    }

    /// NOT_FOUND where the caller's tenant has none of this number.
    pub fn get(&self, permit: &Permit, id: u64) -> Result<Erasure> {
        permit.require(Action::Erase)?;
        permit.check_unlimited("see erasures")?;
        let state = self.inner.state.load();
        let found = state.erasures.iter().find(|erasure| erasure.id == id && erasure.tenant == *permit.tenant());
        found.cloned().ok_or_else(|| {
            Error::not_found("ERASURE_NOT_FOUND", format!("there is no erasure {id}"))
                .with("erasure", id)
                .hint("`hydrant erase list` lists them")
        })
    }

    /// Waits until an erasure is done. Refusals as of [`Self::get`].
    pub async fn finished(&self, permit: &Permit, id: u64) -> Result<Erasure> {
        let mut changes = self.inner.changes.subscribe();
        loop {
            changes.borrow_and_update();
            let erasure = self.get(permit, id)?;
            if erasure.is_done() || changes.changed().await.is_err() {
                return Ok(erasure);
            }
        }
    }

    /// Those of the caller's tenant, the newest first: of the numbers below `before`, `limit` at most.
    pub fn list(&self, permit: &Permit, before: Option<u64>, limit: usize) -> Result<Vec<Erasure>> {
        permit.require(Action::Erase)?;
        permit.check_unlimited("see erasures")?;
        let state = self.inner.state.load();
        let of_tenant = state.erasures.iter().rev().filter(|erasure| erasure.tenant == *permit.tenant());
        let wanted = of_tenant.filter(|erasure| before.is_none_or(|before| erasure.id < before));
        Ok(wanted.take(limit).cloned().collect())
    }

    /// Ends after the step that is under way; what is not done goes on at the next start.
    pub async fn shutdown(&self) {
        self.inner.stop.send_replace(true);
        let worker = self.inner.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(worker) = worker
            && let Err(error) = worker.await
        {
            tracing::error!(%error, "the worker of erasures ended early");
        }
    }

    fn key(&self, permit: &Permit, entity: &Name, columns: &[(String, ArrayRef)]) -> Result<(Vec<Name>, Key)> {
        permit.require(Action::Erase)?;
        permit.check_unlimited("erase keys")?;
        let snapshot = self.inner.parts.snapshots.load();
        let (views, key) = key::resolve(snapshot.tenant(permit.tenant())?, entity, columns)?;
        let (bytes, limit) = (key.longest(), self.inner.parts.max_key_bytes);
        if bytes > limit {
            let message = format!("the key has {bytes} bytes; 'ingest.max_key' allows {limit}");
            return Err(Error::invalid("BAD_ENTITY_COLUMNS", message)
                .with("limit", limit)
                .hint("no row has such a key"));
        }
        Ok((views, key))
    }
}

impl Inner {
    /// Does one after the other, until it is to stop. One that fails holds no other up.
    async fn work(self: Arc<Self>) {
        let mut stopped = self.stop.subscribe();
        // Those that failed, and when they are tried again.
        let mut resting: HashMap<u64, Instant> = HashMap::new();
        loop {
            let now = Instant::now();
            resting.retain(|_, until| *until > now);
            let next = self.state.load().next(|id| resting.contains_key(&id)).map(|erasure| erasure.id);
            if let Some(id) = next
                && let Err(error) = self.attempt(id).await
            {
                resting.insert(id, Instant::now() + TRY_AGAIN);
                tracing::error!(erasure = id, %error, "an erasure is not done yet; it is tried again");
                let problem = error.to_string();
                if let Err(error) = self.note(id, |erasure| erasure.problem = Some(problem)).await {
                    tracing::warn!(erasure = id, %error, "what is in the way of an erasure was not kept");
                }
            }
            if *stopped.borrow() {
                return;
            }
            let wait = async {
                match (next, resting.values().min()) {
                    (Some(_), _) => {}
                    (None, None) => self.asked.notified().await,
                    (None, Some(first)) => {
                        drop(tokio::time::timeout_at((*first).into(), self.asked.notified()).await);
                    }
                }
            };
            tokio::select! {
                () = wait => {}
                changed = stopped.changed() => {
                    drop(changed);
                    return;
                }
            }
        }
    }

    /// Takes one in, durably.
    async fn take(
        &self,
        tenant: Name,
        requested_by: String,
        entity: Name,
        views: Vec<Name>,
        key: Key,
    ) -> Result<Erasure> {
        let mut persisted = self.writer.lock().await;
        let mut state = State::clone(&self.state.load());
        let of_tenant = |erasure: &&Erasure| erasure.tenant == tenant;
        let waiting = state.erasures.iter().filter(of_tenant).filter(|erasure| erasure.key.is_some());
        if let Some(same) = waiting.clone().find(|erasure| erasure.through.is_none() && erasure.is_of(&entity, &key)) {
            return Ok(same.clone());
        }
        let (waiting, kept) = (waiting.count(), state.erasures.iter().filter(of_tenant).count());
        if waiting >= MAX_WAITING {
            let message = format!("{waiting} erasures wait to be done already");
            return Err(Error::new(Code::ResourceExhausted, "TOO_MANY_ERASURES", message)
                .with("limit", MAX_WAITING)
                .hint("`hydrant erase list` tells how far they are; ask again when some are done"));
        }
        if kept >= MAX_KEPT
            && let Some(oldest) = state.erasures.iter().position(|known| known.tenant == tenant && known.is_done())
        {
            state.erasures.remove(oldest);
        }
        state.last += 1;
        let erasure = Erasure {
            id: state.last,
            tenant,
            entity,
            views,
            requested: self.parts.store_time.read(),
            requested_by,
            finished: None,
            through: None,
            erased: Places::default(),
            left: None,
            backups: Vec::new(),
            problem: None,
            key: Some(key),
        };
        state.erasures.push(erasure.clone());
        self.persist(&mut persisted, state).await?;
        self.asked.notify_one();
        Ok(erasure)
    }

    /// Changes an erasure, durably.
    async fn note(&self, id: u64, change: impl FnOnce(&mut Erasure)) -> Result<Erasure> {
        let mut persisted = self.writer.lock().await;
        let mut state = State::clone(&self.state.load());
        let erasure = state.get_mut(id).ok_or_else(|| Error::internal(format!("erasure {id} is gone")))?;
        change(erasure);
        let changed = erasure.clone();
        self.persist(&mut persisted, state).await?;
        Ok(changed)
    }

    async fn persist(&self, persisted: &mut u64, next: State) -> Result<()> {
        let encoded = Bytes::from(next.encode());
        *persisted = self.parts.metadata.put_if_version(METADATA_KEY, encoded, *persisted).await?;
        self.state.store(Arc::new(next));
        self.changes.send_modify(|changes| *changes += 1);
        Ok(())
    }

    fn now(&self) -> Micros {
        self.parts.store_time.read()
    }
}

fn damaged(detail: String) -> Error {
    let message = format!("the list of erasures can't be read: {detail}");
    Error::new(Code::DataLoss, "ERASURES_DAMAGED", message).hint(
        "restore `registry/erasures.value` from a backup of this data directory; without one, move it away, and ask again for \
         the erasures that were not done",
    )
}
