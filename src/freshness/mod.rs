//! Freshness promises, watched: how old the newest rows of each view are, in the partition that is worst
//! off; how much of the error budget is left; and who is told of it. It is looked at when whoever holds it
//! says so, by store time, and reads nothing but what partitions publish. No read waits for it, and it
//! changes no row and no definition.

pub mod alerts;
pub mod budget;
pub mod delivery;
pub mod measure;
pub mod state;

mod metrics;
mod payload;
mod standing;
mod stored;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hydrant_storage::names::{Name, ViewId};
use hydrant_storage::order::Micros;

pub use self::alerts::{Alert, Silence};
pub use self::delivery::Sends;
pub use self::measure::{Seen, ServedAges};
pub use self::metrics::FreshnessMetrics;
pub use self::standing::{ServedQuantiles, Standing};
pub use self::state::{Cause, State};

use self::alerts::{Book, MAX_SILENCES, Rules, Whose};
use self::budget::Budget;
use self::measure::{Begun, PartitionsSeen};
use self::standing::{RecentAges, told};
use self::state::{BurnRates, Facts, judge};
use self::stored::KeptView;
use crate::clock::{StoreTime, rfc3339};
use crate::cluster::{MetadataError, MetadataStore};
use crate::config::durations;
use crate::error::{Code, Error, Result};
use crate::partition::Partitions;
use crate::registry::SnapshotReader;
use crate::registry::catalog::View;
use crate::registry::promise::FreshnessSpec;
use crate::tenancy::{Action, Permit};

/// After so long without a look, or three times its interval, the time between was not measured.
const LONGEST_GAP: Duration = Duration::from_mins(1);

/// A silence is no shorter and no longer.
const SHORTEST_SILENCE: Micros = 1_000_000;
const LONGEST_SILENCE: Micros = 30 * 86_400_000_000;
const MAX_REASON_BYTES: usize = 1_000;

/// What it is made of.
#[derive(Debug)]
pub struct FreshnessParts {
    pub snapshots: SnapshotReader,
    pub partitions: Partitions,
    pub store_time: Arc<StoreTime>,
    pub metadata: Arc<dyn MetadataStore>,
    pub served: Arc<dyn ServedAges>,
    pub sender: Arc<dyn Sends>,
}

#[derive(Clone, Debug)]
pub struct FreshnessOptions {
    /// Between two looks, as whoever looks intends it.
    pub interval: Duration,
    /// Time spent is kept so often, besides at a stop: a crash loses no more.
    pub save_interval: Duration,
    /// Where notifications go.
    pub webhooks: Vec<String>,
    /// What lasts is told again after so long.
    pub repeat: Duration,
    /// Notifications that may wait; those made first make room.
    pub max_queued: usize,
}

/// The use case. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Freshness {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    parts: FreshnessParts,
    options: FreshnessOptions,
    metrics: FreshnessMetrics,
    board: Mutex<Board>,
    /// One look at a time.
    looking: tokio::sync::Mutex<Looking>,
    /// By webhook: one notification at a time.
    sending: HashMap<String, tokio::sync::Mutex<()>>,
    /// One value is written at a time, so that the newest is written last.
    versions: tokio::sync::Mutex<HashMap<&'static str, u64>>,
}

#[derive(Debug, Default)]
struct Looking {
    begun: Begun,
    saved_at: Micros,
}

#[derive(Debug, Default)]
struct Board {
    views: BTreeMap<Whose, Watched>,
    /// Of views that have not been looked at since the start.
    kept: HashMap<ViewId, KeptView>,
    book: Book,
}

/// A view with a promise.
#[derive(Debug)]
struct Watched {
    owner: String,
    promise: FreshnessSpec,
    kept: KeptView,
    seen: Seen,
    /// Until when the rows seen are fresh, where there are any.
    fresh_until: Option<Micros>,
    burn: BurnRates,
    ages: RecentAges,
}

impl Freshness {
    /// Reads what was kept. DATA_LOSS where it can't be read.
    pub async fn open(parts: FreshnessParts, options: FreshnessOptions) -> Result<Self> {
        let (mut board, mut versions) = (Board::default(), HashMap::new());
        if let Some(found) = parts.metadata.get(stored::BUDGETS).await? {
            let kept = stored::read_budgets(&found.value)?;
            board.kept = kept.into_iter().map(|view| (view.id, view)).collect();
            versions.insert(stored::BUDGETS, found.version);
        }
        if let Some(found) = parts.metadata.get(stored::ALERTS).await? {
            board.book = stored::read_book(&found.value)?;
            // Where nothing is sent any more.
            board.book.outbox.retain(|delivery| options.webhooks.contains(&delivery.url));
            versions.insert(stored::ALERTS, found.version);
        }
        let sending = options.webhooks.iter().map(|url| (url.clone(), tokio::sync::Mutex::default())).collect();
        let inner = Inner {
            sending,
            parts,
            options,
            metrics: FreshnessMetrics::default(),
            board: Mutex::new(board),
            looking: tokio::sync::Mutex::default(),
            versions: tokio::sync::Mutex::new(versions),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub fn options(&self) -> &FreshnessOptions {
        &self.inner.options
    }

    pub fn metrics(&self) -> &FreshnessMetrics {
        &self.inner.metrics
    }

    /// Measures every view with a promise, judges it, and notes what is to be told. Nothing is measured
    /// before every partition has begun to serve, or failed to. An error: what was measured could not be
    /// kept; it is in memory all the same.
    pub async fn look(&self) -> Result<()> {
        let looked = self.look_once().await;
        let metrics = &self.inner.metrics;
        if looked.is_ok() {
            metrics.looks.add(1)
        } else {
            metrics.looks_failed.add(1)
        }
        looked
    }

    async fn look_once(&self) -> Result<()> {
        let inner = &self.inner;
        let mut looking = inner.looking.lock().await;
        if !looking.begun.all(&inner.parts.partitions) {
            return Ok(());
        }
        let (partitions, store_time) = (inner.parts.partitions.clone(), inner.parts.store_time.clone());
        let take = move || PartitionsSeen::take(&partitions, || store_time.read());
        let seen = tokio::task::spawn_blocking(take).await;
        let seen = seen.map_err(|error| Error::internal(format!("the look at partitions ended early: {error}")))?;
        let now = seen.at();
        if inner.take_in(&seen) {
            inner.save_book().await?;
        }
        let save_interval = micros(inner.options.save_interval);
        if now.saturating_sub(looking.saved_at) >= save_interval {
            inner.save_budgets().await?;
            looking.saved_at = now;
        }
        Ok(())
    }

    /// Keeps what was measured. To be called when nobody looks any more.
    pub async fn close(&self) -> Result<()> {
        self.inner.save_budgets().await
    }

    /// Every view of the caller's tenant with a promise, by name, as of the last look.
    pub fn list(&self, permit: &Permit) -> Result<Vec<Standing>> {
        permit.require(Action::ReadDefinitions)?;
        let mut standings = self.inner.standings();
        standings.retain(|standing| standing.tenant == *permit.tenant());
        Ok(standings)
    }

    /// One view, as of the last look. NOT_FOUND where there is no such view, FAILED_PRECONDITION where
    /// nothing is promised of it or it has not been looked at yet.
    pub fn get(&self, permit: &Permit, view: &Name) -> Result<Standing> {
        permit.require(Action::ReadDefinitions)?;
        self.watched(permit.tenant(), view)?;
        let standing = self.inner.standing(&(permit.tenant().clone(), view.clone()));
        standing.ok_or_else(|| {
            let message = format!("the freshness of view '{view}' has not been measured yet");
            Error::new(Code::Unavailable, "FRESHNESS_NOT_MEASURED", message)
                .with("view", view)
                .retry_after(self.inner.options.interval)
        })
    }

    /// State and age of those views that have a promise, for the answer of a read; in their order.
    pub fn states(&self, tenant: &Name, views: impl Iterator<Item = Name>) -> Vec<Standing> {
        views.filter_map(|view| self.inner.standing(&(tenant.clone(), view))).collect()
    }

    /// Sends no notification of a view for `duration` microseconds. INVALID_ARGUMENT, NOT_FOUND, and
    /// RESOURCE_EXHAUSTED where there are as many silences as may be.
    pub async fn silence(&self, permit: &Permit, view: &Name, duration: Micros, reason: &str) -> Result<Silence> {
        permit.require(Action::ChangeDefinitions)?;
        self.watched(permit.tenant(), view)?;
        if !(SHORTEST_SILENCE..=LONGEST_SILENCE).contains(&duration) {
            let (least, most) = (durations::format(SHORTEST_SILENCE), durations::format(LONGEST_SILENCE));
            let message = format!("a silence of {} is not between {least} and {most}", durations::format(duration));
            return Err(Error::invalid("BAD_SILENCE", message));
        }
        if reason.trim().is_empty() || reason.len() > MAX_REASON_BYTES {
            let message = format!("a silence needs a reason of 1 to {MAX_REASON_BYTES} bytes");
            return Err(
                Error::invalid("BAD_SILENCE", message).hint("say why, and what will end it: others will read it")
            );
        }
        let now = self.inner.parts.store_time.read();
        let silence = {
            let mut board = self.inner.lock();
            board.book.forget_ended(now);
            if board.book.silences.len() >= MAX_SILENCES {
                let message = format!("there are {MAX_SILENCES} silences already");
                return Err(Error::new(Code::ResourceExhausted, "TOO_MANY_SILENCES", message)
                    .hint("`hydrant sla unsilence` ends one that is not needed any more"));
            }
            let silence = Silence {
                id: board.book.take_number(),
                tenant: permit.tenant().clone(),
                view: view.clone(),
                until: now.saturating_add(duration),
                reason: reason.to_owned(),
                created: now,
                created_by: permit.caller().to_owned(),
            };
            board.book.silences.insert(silence.id, silence.clone());
            silence
        };
        if let Err(error) = self.inner.save_book().await {
            // What is not kept must not hold.
            self.inner.lock().book.silences.remove(&silence.id);
            return Err(error);
        }
        tracing::info!(%view, until = rfc3339(silence.until), by = silence.created_by, "notifications are silenced");
        Ok(silence)
    }

    /// The tenant's silences that have not ended, the one made first in front.
    pub fn silences(&self, permit: &Permit) -> Result<Vec<Silence>> {
        permit.require(Action::ReadDefinitions)?;
        let now = self.inner.parts.store_time.read();
        let board = self.inner.lock();
        let lasting = |silence: &&Silence| silence.tenant == *permit.tenant() && now < silence.until;
        Ok(board.book.silences.values().filter(lasting).cloned().collect())
    }

    /// Ends a silence. NOT_FOUND where the tenant has none of this number.
    pub async fn unsilence(&self, permit: &Permit, id: u64) -> Result<Silence> {
        permit.require(Action::ChangeDefinitions)?;
        let now = self.inner.parts.store_time.read();
        let lasts = |silence: &Silence| silence.tenant == *permit.tenant() && now < silence.until;
        let removed = {
            let mut board = self.inner.lock();
            let found = board.book.silences.get(&id).filter(|silence| lasts(silence)).cloned();
            found.inspect(|_| drop(board.book.silences.remove(&id)))
        };
        let Some(removed) = removed else {
            let message = format!("there is no silence {id}, or it has ended");
            return Err(Error::not_found("SILENCE_NOT_FOUND", message).hint("`hydrant sla silences` lists them"));
        };
        if let Err(error) = self.inner.save_book().await {
            self.inner.lock().book.silences.insert(id, removed);
            return Err(error);
        }
        Ok(removed)
    }

    /// Refuses a view that isn't there or of which nothing is promised.
    fn watched(&self, tenant: &Name, view: &Name) -> Result<()> {
        let snapshot = self.inner.parts.snapshots.load();
        let Some(found) = snapshot.tenant(tenant)?.views.get(view) else {
            let message = format!("there is no view '{view}'");
            return Err(Error::not_found("VIEW_NOT_FOUND", message).with("view", view));
        };
        if found.freshness.is_some() {
            return Ok(());
        }
        let message = format!("nothing is promised of the freshness of view '{view}'");
        Err(Error::new(Code::FailedPrecondition, "NO_FRESHNESS_PROMISE", message)
            .with("view", view)
            .hint("write `freshness: {maxAge: 1h}` in its definition, and apply it"))
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rules(&self) -> Rules {
        Rules { repeat: micros(self.options.repeat), max_queued: self.options.max_queued }
    }

    /// Takes in a look at all partitions; whether the book has changed.
    fn take_in(&self, seen: &PartitionsSeen) -> bool {
        let snapshot = self.parts.snapshots.load();
        let now = seen.at();
        let longest_gap = micros(LONGEST_GAP.max(3 * self.options.interval));
        let mut guard = self.lock();
        let board = &mut *guard;
        let mut changed = board.book.forget_ended(now);
        let mut promised: BTreeSet<Whose> = BTreeSet::new();
        for (tenant, catalog) in &snapshot.tenants {
            for (name, view) in &catalog.views {
                let Some(promise) = view.freshness else { continue };
                let whose = (tenant.clone(), name.clone());
                let known = board.views.remove(&whose).filter(|watched| watched.kept.id == view.id);
                // Time since it was kept is unmeasured: nothing is known of what could be read meanwhile.
                let known = known.or_else(|| Some(Watched::begin(board.kept.remove(&view.id)?, promise, now)));
                let mut watched = known.unwrap_or_else(|| Watched::new(view, promise, now));
                let judged = watched.take_in(view, promise, seen, longest_gap);
                watched.ages.note(now, self.parts.served.of(view.id).as_deref());
                let holding = Alert::of(&judged);
                let told = || told(&whose.1, &watched, now);
                let noted = board.book.note(&whose, &holding, now, &self.options.webhooks, &self.rules(), told);
                changed |= noted.changed;
                self.metrics.dropped.add(noted.dropped);
                board.views.insert(whose.clone(), watched);
                promised.insert(whose);
            }
        }
        board.views.retain(|whose, _| promised.contains(whose));
        // What was kept of views that are not promised any more.
        board.kept.clear();
        let gone: Vec<Whose> = board.book.views.keys().filter(|whose| !promised.contains(whose)).cloned().collect();
        for whose in gone {
            let told = || standing::told_of_gone(&whose.1);
            let noted = board.book.note(&whose, &BTreeSet::new(), now, &self.options.webhooks, &self.rules(), told);
            changed |= noted.changed;
            self.metrics.dropped.add(noted.dropped);
        }
        changed
    }

    fn standings(&self) -> Vec<Standing> {
        let now = self.parts.store_time.read();
        let board = self.lock();
        board.views.iter().map(|(whose, watched)| self.standing_of(&board, whose, watched, now)).collect()
    }

    fn standing(&self, whose: &Whose) -> Option<Standing> {
        let now = self.parts.store_time.read();
        let board = self.lock();
        board.views.get(whose).map(|watched| self.standing_of(&board, whose, watched, now))
    }

    fn standing_of(&self, board: &Board, whose: &Whose, watched: &Watched, now: Micros) -> Standing {
        let spread = self.parts.served.of(watched.kept.id);
        Standing::of(whose, watched, board.book.silence_of(whose, now).cloned(), spread.as_deref())
    }

    fn waiting(&self) -> usize {
        self.lock().book.outbox.len()
    }

    async fn save_book(&self) -> Result<()> {
        self.save(stored::ALERTS, || stored::write_book(&self.lock().book)).await
    }

    async fn save_budgets(&self) -> Result<()> {
        let value = || {
            let board = self.lock();
            let seen = board.views.values().map(|watched| (&watched.kept, watched.promise.window));
            // Views that have not been looked at yet keep what they had.
            let unseen = board.kept.values().map(|kept| (kept, FreshnessSpec::LONGEST_WINDOW));
            stored::write_budgets(seen.chain(unseen))
        };
        self.save(stored::BUDGETS, value).await
    }

    async fn save(&self, key: &'static str, value: impl Fn() -> Bytes) -> Result<()> {
        let mut versions = self.versions.lock().await;
        let expected = versions.get(key).copied().unwrap_or(0);
        let put = self.parts.metadata.put_if_version(key, value(), expected).await;
        let put = match put {
            // A caller of an earlier write has gone away before it was told; nobody else writes it.
            Err(MetadataError::Conflict { found, .. }) => self.parts.metadata.put_if_version(key, value(), found).await,
            put => put,
        };
        versions.insert(key, put?);
        Ok(())
    }
}

impl Watched {
    fn new(view: &View, promise: FreshnessSpec, now: Micros) -> Self {
        let kept = KeptView {
            id: view.id,
            state: State::NoData,
            cause: None,
            since: now,
            looked_at: now,
            had_rows: false,
            budget: Budget::new(promise.window),
        };
        Self::begin(kept, promise, now)
    }

    fn begin(mut kept: KeptView, promise: FreshnessSpec, now: Micros) -> Self {
        kept.budget.set_window(promise.window);
        let seen = Seen { at: now, partitions: 0, worst: None, newest: None, unreadable: None, lag: 0 };
        let (burn, ages) = (BurnRates::default(), RecentAges::default());
        Self { owner: String::new(), promise, kept, seen, fresh_until: None, burn, ages }
    }

    /// Adds the time since the last look by what was seen then, and judges what is seen now.
    fn take_in(
        &mut self,
        view: &View,
        promise: FreshnessSpec,
        partitions: &PartitionsSeen,
        longest_gap: Micros,
    ) -> state::Judged {
        let seen = partitions.of(view, self.kept.had_rows);
        let now = seen.at;
        let from = self.kept.looked_at;
        if let Some(fresh_until) = self.fresh_until.filter(|_| now.saturating_sub(from) <= longest_gap) {
            self.kept.budget.add(from, now, fresh_until);
        }
        if promise.window != self.promise.window {
            self.kept.budget.set_window(promise.window);
        }
        self.promise = promise;
        self.owner.clone_from(&view.applied.definition.metadata.owner);
        self.kept.looked_at = now;
        self.kept.had_rows |= seen.newest.is_some();
        self.fresh_until = seen.fresh_until(promise.max_age);
        self.seen = seen;
        self.burn = BurnRates::of(&self.kept.budget, &promise, now);
        let judged = judge(&Facts {
            promise: &promise,
            age: seen.age(),
            is_unreadable: seen.unreadable.is_some(),
            bad: self.kept.budget.in_window(promise.window, now).bad,
            burn: self.burn,
        });
        if judged.state != self.kept.state {
            let (from, to) = (self.kept.state.as_str(), judged.state.as_str());
            tracing::info!(view = %view.name, from, to, cause = judged.cause.map(Cause::as_str), "freshness");
            (self.kept.state, self.kept.since) = (judged.state, now);
        }
        self.kept.cause = judged.cause;
        judged
    }
}

fn micros(span: Duration) -> Micros {
    Micros::try_from(span.as_micros()).unwrap_or(Micros::MAX)
}
