//! Tells a lineage service, by OpenLineage's events, what ran: ingest by the hour, backfills,
//! materializations, training sets that are saved or pulled. Events wait in an outbox that is durable and
//! bounded; whoever works tells of it and goes on at once. How an event is sent is not known here, and no data
//! is in it but counts.

mod event;
mod metrics;
mod outbox;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;
use tokio::sync::Notify;

pub use self::metrics::OpenLineageMetrics;

use self::event::{About, Datasets, Describes, Kind, event, job, origin, pulled_name, stable_id};
use self::outbox::{Kept, OUTBOX, Waiting};
use crate::clock::StoreTime;
use crate::cluster::MetadataStore;
use crate::error::{Error, Result};
use crate::registry::SnapshotReader;
use crate::runs::{News, Run, WatchesRuns, Written};
use crate::sending::{SendError, delay, host_of};

/// Kinds of jobs, and of what they make.
const SAVED: &str = "training_set";
const PULLED: &str = "pulled_training_set";

/// How often it is looked what is to be kept and sent.
const LOOK: Duration = Duration::from_millis(250);

/// What was sent, and the rows that were counted, are kept as often as that. A crash sends so much again, and
/// loses count of as much.
const LAZY: Micros = 5_000_000;

/// Sends events.
#[async_trait]
pub trait SendsEvents: Send + Sync + Debug {
    /// Returns once the receiver has taken it.
    async fn send(&self, event: &str) -> Result<(), SendError>;
}

#[derive(Clone, Debug)]
pub struct OpenLineageOptions {
    /// Only its host is ever logged.
    pub url: String,
    pub namespace: String,
    pub max_queued: usize,
    /// Of all events that wait, as text.
    pub max_bytes: u64,
    /// The rows that are ingested into a source in so long are one run.
    pub ingest_interval: Micros,
}

#[derive(Debug)]
pub struct OpenLineageParts {
    pub snapshots: SnapshotReader,
    pub store_time: Arc<StoreTime>,
    pub metadata: Arc<dyn MetadataStore>,
    pub sender: Arc<dyn SendsEvents>,
}

/// The use case. Clones are the same.
#[derive(Clone, Debug)]
pub struct OpenLineage {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    parts: OpenLineageParts,
    options: OpenLineageOptions,
    state: Mutex<State>,
    /// One write at a time; holds the version of what is persisted.
    writer: tokio::sync::Mutex<u64>,
    news: Notify,
    metrics: OpenLineageMetrics,
}

#[derive(Debug)]
struct State {
    kept: Kept,
    /// Events up to this number are durable, and only those are sent.
    durable: u64,
    /// There is something that waits to be durable: at once, or soon.
    is_new: bool,
    is_changed: bool,
    saved_at: Micros,
}

impl OpenLineage {
    /// Finds what waits from before; of runs that were under way when the server ended, it tells that.
    /// DATA_LOSS where what is kept can't be read.
    pub async fn open(parts: OpenLineageParts, options: OpenLineageOptions) -> Result<Self> {
        let (kept, version) = match parts.metadata.get(OUTBOX).await? {
            Some(stored) => (Kept::decode(&stored.value)?, stored.version),
            None => (Kept::default(), 0),
        };
        let now = parts.store_time.read();
        let state = State { durable: kept.next, kept, is_new: false, is_changed: false, saved_at: now };
        let inner = Inner {
            parts,
            options,
            state: Mutex::new(state),
            writer: tokio::sync::Mutex::new(version),
            news: Notify::new(),
            metrics: OpenLineageMetrics::default(),
        };
        let opened = Self { inner: Arc::new(inner) };
        opened.abort_what_was_open(now);
        opened.save().await?;
        Ok(opened)
    }

    /// What keeps and sends, until it is dropped.
    pub fn tasks(&self) -> [futures::future::BoxFuture<'static, ()>; 2] {
        let (keeper, sender) = (self.clone(), self.clone());
        let keep = async move {
            let mut told = None;
            loop {
                let news = keeper.inner.news.notified();
                let _ = tokio::time::timeout(LOOK, news).await;
                let failed = keeper.keep().await.err().map(|error| error.to_string());
                if let Some(error) = failed.as_ref().filter(|_| failed != told) {
                    tracing::error!(error, "events of lineage could not be kept; they are not sent before that");
                }
                told = failed;
            }
        };
        let send = async move {
            loop {
                if !sender.send_one().await {
                    tokio::time::sleep(LOOK).await;
                }
            }
        };
        [Box::pin(keep), Box::pin(send)]
    }

    /// Tells of stretches of ingest that have ended, and makes durable what is new.
    pub async fn keep(&self) -> Result<()> {
        let now = self.inner.parts.store_time.read();
        self.close_stretches(now);
        let is_due = {
            let state = self.inner.lock();
            state.is_new || (state.is_changed && now.saturating_sub(state.saved_at) >= LAZY)
        };
        if is_due { self.save().await } else { Ok(()) }
    }

    /// Tries the event that waits in front, if it is due; whether there was one. Later events wait behind it,
    /// so that those of a run are told in order.
    pub async fn send_one(&self) -> bool {
        let inner = &self.inner;
        let now = inner.parts.store_time.read();
        let Some(waiting) = inner.lock().due(now) else { return false };
        let sent = inner.parts.sender.send(&waiting.event).await;
        let (to, attempts) = (host_of(&inner.options.url), waiting.attempts + 1);
        let is_over = match &sent {
            Ok(()) => {
                inner.metrics.sent.add(1);
                true
            }
            Err(SendError::TryAgain(problem)) => {
                inner.metrics.failed.add(1);
                tracing::warn!(to, attempts, problem, "an event of lineage was not taken; it is tried again");
                false
            }
            Err(SendError::Refused(problem)) => {
                inner.metrics.failed.add(1);
                inner.metrics.dropped.add(1);
                tracing::error!(to, attempts, problem, "an event of lineage is given up");
                true
            }
        };
        let now = inner.parts.store_time.read();
        let mut state = inner.lock();
        state.is_changed = true;
        // It may have made room for a newer one meanwhile.
        let front = state.kept.outbox.front_mut().filter(|front| front.number == waiting.number);
        match (front, is_over) {
            (Some(_), true) => drop(state.kept.outbox.pop_front()),
            (Some(front), false) => {
                (front.attempts, front.due) = (attempts, now.saturating_add(delay(waiting.number, waiting.attempts)));
            }
            (None, _) => {}
        }
        true
    }

    /// Events that are not yet sent.
    pub fn waiting(&self) -> usize {
        self.inner.lock().kept.outbox.len()
    }

    pub fn metrics(&self) -> &OpenLineageMetrics {
        &self.inner.metrics
    }

    /// Keeps what there is, whatever it is; to the end, whoever stops waiting.
    pub async fn save(&self) -> Result<()> {
        let told = self.clone();
        let saved = tokio::spawn(async move { told.save_now().await });
        saved.await.unwrap_or_else(|error| Err(Error::internal(format!("the outbox was not kept: {error}"))))
    }

    async fn save_now(&self) -> Result<()> {
        let inner = &self.inner;
        let mut version = inner.writer.lock().await;
        let now = inner.parts.store_time.read();
        // Encoding takes longer than copying, and whoever ingests waits for the lock.
        let kept = {
            let mut state = inner.lock();
            (state.is_new, state.is_changed) = (false, false);
            state.kept.clone()
        };
        let last = kept.next;
        match inner.parts.metadata.put_if_version(OUTBOX, Bytes::from(kept.encode()), *version).await {
            Ok(newer) => {
                *version = newer;
                let mut state = inner.lock();
                state.durable = state.durable.max(last);
                state.saved_at = now;
                Ok(())
            }
            Err(error) => {
                inner.lock().is_new = true;
                Err(error.into())
            }
        }
    }

    /// Puts an event in the outbox; the oldest make room.
    fn put(&self, state: &mut State, event: &serde_json::Value, now: Micros) {
        let options = &self.inner.options;
        state.kept.put(event.to_string(), now);
        state.is_new = true;
        let dropped = state.kept.make_room(options.max_queued, options.max_bytes);
        if dropped > 0 {
            self.inner.metrics.dropped.add(dropped);
            let to = host_of(&options.url);
            tracing::warn!(to, dropped, "the oldest events of lineage are given up: too many wait");
        }
    }

    fn about(&self, tenant: &Name, run: &Run, kind: Kind, at: Micros) -> About {
        let namespace = self.inner.options.namespace.clone();
        let (job_type, name, id) = match run {
            Run::Backfill { source, id, .. } => ("backfill", source.to_string(), id.clone()),
            Run::Materialize { view, begun } => ("materialize", view.to_string(), begun.to_string()),
            Run::TrainingSet { name, begun, .. } => (SAVED, name.to_string(), begun.to_string()),
            Run::Pull { made_of, begun, number } => (PULLED, pulled_name(&made_of.asked), format!("{begun}/{number}")),
        };
        let run_id = stable_id(&[&namespace, tenant.as_str(), job_type, &name, &id]);
        let told = match run {
            Run::Backfill { .. } => "BACKFILL",
            Run::Materialize { .. } => "MATERIALIZE",
            Run::TrainingSet { .. } | Run::Pull { .. } => "TRAINING_SET",
        };
        let job = job(tenant, job_type, &name);
        About { kind, at, run_id, namespace, job, job_type: told, nominal: None, failure: None }
    }

    /// What a run reads and writes; nothing where it was deleted meanwhile.
    fn datasets(&self, tenant: &Name, run: &Run, written: &[Written]) -> Datasets {
        let snapshot = self.inner.parts.snapshots.load();
        let Ok(catalog) = snapshot.tenant(tenant) else { return Datasets::default() };
        let describes = Describes { namespace: &self.inner.options.namespace, catalog };
        let of = |name: &Name| written.iter().find(|written| written.name == name.as_str());
        match run {
            Run::Backfill { source, origins, .. } => {
                let Some(source) = catalog.sources.get(source) else { return Datasets::default() };
                let views = source.views.iter().filter(|view| view.is_served() && view.offline);
                let outputs = views.map(|view| describes.view(view, of(&view.name))).collect();
                let inputs = std::iter::once(describes.source(source)).chain(origins.iter().map(origin));
                Datasets { inputs: inputs.collect(), outputs }
            }
            Run::Materialize { view, .. } => {
                let Some(view) = catalog.views.get(view) else { return Datasets::default() };
                Datasets {
                    inputs: vec![describes.view(view, None)],
                    outputs: vec![describes.online(view, of(&view.name))],
                }
            }
            Run::TrainingSet { name, made_of, .. } => {
                describes.training_set(SAVED, name.as_str(), made_of, written.first())
            }
            Run::Pull { made_of, .. } => {
                describes.training_set(PULLED, &pulled_name(&made_of.asked), made_of, written.first())
            }
        }
    }

    fn abort_what_was_open(&self, now: Micros) {
        let inner = &self.inner;
        let open = std::mem::take(&mut inner.lock().kept.open);
        for (run_id, opened) in open {
            let failure = Some("the server ended before the run did".to_owned());
            let about = About {
                kind: Kind::Abort,
                at: now,
                run_id,
                namespace: inner.options.namespace.clone(),
                job: opened.job,
                job_type: outbox::job_type(&opened.job_type),
                nominal: None,
                failure,
            };
            let mut state = inner.lock();
            self.put(&mut state, &event(&about, Datasets::default()), now);
        }
    }

    /// Two events of each stretch of ingest that is over.
    fn close_stretches(&self, now: Micros) {
        let inner = &self.inner;
        let interval = inner.options.ingest_interval;
        let over: Vec<_> = {
            let mut state = inner.lock();
            let is_over = |from: Micros| from.saturating_add(interval) <= now;
            let (over, open) = std::mem::take(&mut state.kept.ingested).into_iter().partition(|of| is_over(of.from));
            state.kept.ingested = open;
            over
        };
        for stretch in over {
            let (tenant, to) = (&stretch.tenant, stretch.from.saturating_add(interval));
            let namespace = inner.options.namespace.clone();
            let from = stretch.from.to_string();
            let run_id = stable_id(&[&namespace, tenant.as_str(), "ingest", stretch.source.as_str(), &from]);
            let snapshot = inner.parts.snapshots.load();
            let datasets = |is_end: bool| {
                let Ok(catalog) = snapshot.tenant(tenant) else { return Datasets::default() };
                let Some(source) = catalog.sources.get(&stretch.source) else { return Datasets::default() };
                let describes = Describes { namespace: &inner.options.namespace, catalog };
                let written = |view: &Name| {
                    let rows = stretch.views.get(view).copied().unwrap_or_default();
                    is_end.then(|| Written { name: view.to_string(), rows, bytes: None })
                };
                let served = source.views.iter().filter(|view| view.is_served());
                let outputs = served.map(|view| describes.view(view, written(&view.name).as_ref()));
                Datasets { inputs: vec![describes.source(source)], outputs: outputs.collect() }
            };
            for (kind, at) in [(Kind::Start, stretch.from), (Kind::Complete, to)] {
                let about = About {
                    kind,
                    at,
                    run_id: run_id.clone(),
                    namespace: namespace.clone(),
                    job: job(tenant, "ingest", stretch.source.as_str()),
                    job_type: "INGEST",
                    nominal: Some((stretch.from, to)),
                    failure: None,
                };
                let told = event(&about, datasets(kind == Kind::Complete));
                self.put(&mut inner.lock(), &told, now);
            }
        }
    }
}

impl WatchesRuns for OpenLineage {
    fn tell(&self, tenant: &Name, run: &Run, news: News) {
        let now = self.inner.parts.store_time.read();
        let (kind, written, failure) = match news {
            News::Begun => (Kind::Start, Vec::new(), None),
            News::Done(written) => (Kind::Complete, written, None),
            News::Failed(message) => (Kind::Fail, Vec::new(), Some(message)),
            News::Stopped => (Kind::Abort, Vec::new(), None),
        };
        let mut about = self.about(tenant, run, kind, now);
        about.failure = failure;
        let told = event(&about, self.datasets(tenant, run, &written));
        let mut state = self.inner.lock();
        if kind == Kind::Start {
            state.kept.open(about.run_id, about.job, about.job_type);
        } else {
            state.kept.open.remove(&about.run_id);
        }
        self.put(&mut state, &told, now);
        drop(state);
        self.inner.news.notify_one();
    }

    fn ingested(&self, tenant: &Name, source: &str, rows: u64, views: &mut dyn Iterator<Item = (&Name, u64)>) {
        let Ok(source) = source.parse::<Name>() else { return };
        let interval = self.inner.options.ingest_interval;
        let now = self.inner.parts.store_time.read();
        let from = now - now.rem_euclid(interval);
        let views: BTreeMap<Name, u64> = views.map(|(view, rows)| (view.clone(), rows)).collect();
        let mut state = self.inner.lock();
        state.kept.count(tenant, &source, from, rows, views);
        state.is_changed = true;
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn due(&self, now: Micros) -> Option<Waiting> {
        let front = self.kept.outbox.front()?;
        (front.number <= self.durable && front.due <= now).then(|| front.clone())
    }
}
