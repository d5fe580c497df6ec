//! The keys of one issuer, as they are now: fetched, kept, fetched anew when they are old or a token names
//! one that is not among them, and used for a stated time where the issuer can't be reached. Whatever
//! tokens come, an issuer is asked once in [`LEAST_INTERVAL`] at most, by one task.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use futures::future::BoxFuture;
use hydrant_storage::order::Micros;
use serde_json::Value;
use tokio::sync::{Notify, watch};

use super::keys::{Key, KeySet, MAX_DOCUMENT};
use super::token::object;
use crate::clock::StoreTime;
use crate::config::check_address;

/// Between two attempts to fetch the same keys.
pub const LEAST_INTERVAL: Micros = 10_000_000;
/// A file is looked into so often.
const FILE_AGE: Micros = 10_000_000;
/// How often it is looked whether keys are old.
const LOOK: Duration = Duration::from_secs(1);
/// Fetching takes no longer, and so nobody waits longer for it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where an issuer says how it is to be used (OpenID Connect Discovery 1.0, 4).
const DISCOVERY: &str = "/.well-known/openid-configuration";

/// Fetches documents of an issuer, and knows nothing of what they say.
#[async_trait]
pub trait Fetches: fmt::Debug + Send + Sync {
    /// What is at an address, `limit` bytes at most. It follows nothing that leads elsewhere.
    async fn get(&self, url: &str, limit: usize) -> Result<Vec<u8>, String>;
}

/// Where keys are found.
#[derive(Clone, Debug)]
pub enum Source {
    Discovery,
    Address(String),
    File(PathBuf),
}

/// How long keys are good.
#[derive(Clone, Copy, Debug)]
pub struct Ages {
    /// They are fetched anew from then on...
    pub fresh: Micros,
    /// ...and not used any more from then on.
    pub stale: Micros,
}

#[derive(Debug)]
pub struct Issuer {
    name: String,
    source: Source,
    fetches: Arc<dyn Fetches>,
    time: Arc<StoreTime>,
    ages: Ages,
    keys: ArcSwap<KeySet>,
    /// When the keys came; before they ever did, the least instant.
    fetched: AtomicI64,
    /// When it was last begun to fetch them.
    attempted: AtomicI64,
    is_fetching: AtomicBool,
    is_wanted: AtomicBool,
    wanted: Notify,
    /// Attempts that have ended.
    ended: watch::Sender<u64>,
}

impl Issuer {
    pub fn new(name: String, source: Source, fetches: Arc<dyn Fetches>, time: Arc<StoreTime>, ages: Ages) -> Self {
        let fresh = if matches!(source, Source::File(_)) { ages.fresh.min(FILE_AGE) } else { ages.fresh };
        Self {
            name,
            source,
            fetches,
            time,
            ages: Ages { fresh, ..ages },
            keys: ArcSwap::default(),
            fetched: AtomicI64::new(Micros::MIN),
            attempted: AtomicI64::new(Micros::MIN),
            is_fetching: AtomicBool::new(false),
            is_wanted: AtomicBool::new(false),
            wanted: Notify::new(),
            ended: watch::Sender::new(0),
        }
    }

    /// As the claim `iss` has it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether its keys may be used at all: they came, and not too long ago.
    pub fn is_usable(&self, now: Micros) -> bool {
        let fetched = self.fetched.load(Ordering::Acquire);
        fetched != Micros::MIN && now.saturating_sub(fetched) < self.ages.stale
    }

    pub fn key(&self, name: &str) -> Option<Arc<Key>> {
        self.keys.load().get(name).cloned()
    }

    /// What is to be waited for before it is known whether there is a key of this name: nothing where there
    /// is one, and where the issuer was asked a moment ago.
    pub fn awaits(self: &Arc<Self>, key: &str) -> Option<BoxFuture<'static, ()>> {
        let now = self.time.read();
        if self.is_usable(now) && self.keys.load().get(key).is_some() {
            return None;
        }
        // Seen before it is looked whether there is an attempt, so that its end isn't missed.
        let mut ended = self.ended.subscribe();
        if !self.is_fetching.load(Ordering::Acquire) {
            if !self.may_attempt(now) {
                return None;
            }
            self.is_wanted.store(true, Ordering::Release);
            self.wanted.notify_one();
        }
        Some(Box::pin(async move {
            // It is known afterwards either way.
            drop(tokio::time::timeout(PATIENCE, ended.changed()).await);
        }))
    }

    /// Keeps the keys for as long as it is polled.
    pub async fn keep(&self) {
        loop {
            self.fetch_if_due().await;
            tokio::select! {
                () = self.wanted.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Fetches the keys where they are old or somebody waits for another, unless that was tried a moment ago.
    pub async fn fetch_if_due(&self) {
        let now = self.time.read();
        let fetched = self.fetched.load(Ordering::Acquire);
        let is_old = fetched == Micros::MIN || now.saturating_sub(fetched) >= self.ages.fresh;
        if !self.may_attempt(now) || !(self.is_wanted.load(Ordering::Acquire) || is_old) {
            return;
        }
        self.is_fetching.store(true, Ordering::Release);
        self.is_wanted.store(false, Ordering::Release);
        self.attempted.store(now, Ordering::Release);
        let fetched = tokio::time::timeout(PATIENCE, self.fetch()).await;
        match fetched.unwrap_or_else(|_| Err(format!("it did not answer within {PATIENCE:?}"))) {
            Ok(keys) => {
                let keys = keys.following(&self.keys.load());
                self.keys.store(Arc::new(keys));
                self.fetched.store(now, Ordering::Release);
            }
            Err(problem) => {
                tracing::warn!(issuer = self.name, problem, "the keys of an issuer of tokens can't be fetched");
            }
        }
        self.is_fetching.store(false, Ordering::Release);
        self.ended.send_modify(|ended| *ended += 1);
    }

    fn may_attempt(&self, now: Micros) -> bool {
        now.saturating_sub(self.attempted.load(Ordering::Acquire)) >= LEAST_INTERVAL
    }

    async fn fetch(&self) -> Result<KeySet, String> {
        let bytes = match &self.source {
            Source::Discovery => {
                let url = self.discover().await?;
                self.fetches.get(&url, MAX_DOCUMENT).await?
            }
            Source::Address(url) => self.fetches.get(url, MAX_DOCUMENT).await?,
            Source::File(path) => read_file(path.clone()).await?,
        };
        KeySet::read(&bytes)
    }

    /// Where the issuer says that its keys are.
    async fn discover(&self) -> Result<String, String> {
        let url = format!("{}{DISCOVERY}", self.name.trim_end_matches('/'));
        let document = self.fetches.get(&url, MAX_DOCUMENT).await?;
        let document = object(&document).ok_or("the discovery document is no JSON object, or has a name twice")?;
        let text = |field: &str| document.get(field).and_then(Value::as_str);
        // Or else one issuer could pass itself off as another (OpenID Connect Discovery 1.0, 4.3).
        if text("issuer") != Some(&self.name) {
            return Err("the discovery document is of another issuer".to_owned());
        }
        let keys = text("jwks_uri").ok_or("the discovery document has no 'jwks_uri'")?;
        check_address(keys).map_err(|rule| format!("the discovery document's jwks_uri {rule}"))?;
        if self.name.starts_with("https://") && !keys.starts_with("https://") {
            return Err("the discovery document's jwks_uri leaves TLS".to_owned());
        }
        Ok(keys.to_owned())
    }
}

async fn read_file(path: PathBuf) -> Result<Vec<u8>, String> {
    use std::io::Read as _;

    let shown = path.display().to_string();
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        // Of a larger file enough for it to be refused as too large.
        std::fs::File::open(&path)?.take(MAX_DOCUMENT as u64 + 1).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    });
    let read = read.await.map_err(|error| format!("reading {shown} ended early: {error}"))?;
    read.map_err(|error| format!("{shown}: {error}"))
}
