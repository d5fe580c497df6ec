//! Callers whom an OpenID Connect issuer knows: its signed tokens (JWT) are verified by its keys, which
//! are fetched in the background, kept for a stated time where it can't be asked, and never waited for by
//! a request. It gives no role that the token doesn't name, and never asks the issuer about one token.

mod claims;
mod keys;
mod known;
mod source;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use hydrant_storage::order::Micros;
use jsonwebtoken::Algorithm;
use tokio::sync::Notify;

use self::claims::{Bearer, Rules, refused};
use self::keys::{KeySet, NotVerified, bad_signature, is_asymmetric};
use self::known::{Known, digest_of};
use self::source::Source;
use crate::clock::StoreTime;
use crate::config::OidcConfig;
use crate::error::{Code, Error, Result};
use crate::registry::SnapshotReader;
use crate::telemetry::{Instruments, Metric};
use crate::tenancy::{Authenticates, Identity};

/// No token is longer; the door's bound on credentials is the same.
const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// Bearers that are remembered: some 300 bytes each.
const MAX_KNOWN: usize = 1 << 16;

/// Tokens that name unknown keys have the issuer asked so often at most.
const MIN_BETWEEN: Micros = 10_000_000;
/// When a caller is to try again while the issuer is asked, and while it can't be.
const SOON: Duration = Duration::from_millis(250);
const LATER: Duration = Duration::from_secs(10);

const REFRESHES: Metric =
    Metric { name: "hydrant.oidc.refreshes", unit: Metric::COUNT, help: "Times that the issuer's keys were fetched." };
const REFRESH_FAILURES: Metric = Metric {
    name: "hydrant.oidc.refresh_failures",
    unit: Metric::COUNT,
    help: "Times that the issuer's keys could not be fetched or used; those before them stay for oidc.keep.",
};
const KEYS: Metric =
    Metric { name: "hydrant.oidc.keys", unit: Metric::COUNT, help: "Keys of the issuer that tokens are verified by." };
const KEYS_AGE: Metric = Metric {
    name: "hydrant.oidc.keys.age",
    unit: Metric::SECONDS,
    help: "Time since the issuer's keys were fetched; nothing before the first time.",
};
const VERIFIED: Metric = Metric {
    name: "hydrant.oidc.verified",
    unit: Metric::COUNT,
    help: "Tokens whose signature was verified; the same token again is remembered.",
};
const REFUSED: Metric =
    Metric { name: "hydrant.oidc.refused", unit: Metric::COUNT, help: "Requests refused for their token." };
const REMEMBERED: Metric =
    Metric { name: "hydrant.oidc.remembered", unit: Metric::COUNT, help: "Verified tokens that are remembered." };

/// Why an issuer can't be made use of as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    #[error("option '{option}': {problem}")]
    Option { option: &'static str, problem: String },
    #[error("the issuer of option 'oidc.issuer' can't be asked: {problem}")]
    Client { problem: String },
}

/// The tokens of one issuer. Clones are the same.
#[derive(Clone, Debug)]
pub struct Oidc {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    rules: Rules,
    source: Source,
    refresh: Duration,
    keep: Micros,
    snapshots: SnapshotReader,
    time: Arc<StoreTime>,
    /// `None` until they were fetched once.
    keys: ArcSwapOption<Fetched>,
    known: Known,
    wanted: Notify,
    /// When the issuer was asked last.
    asked: AtomicI64,
    is_asking: AtomicBool,
    /// What went wrong the last time; `None`: nothing.
    failure: Mutex<Option<String>>,
    counts: Counts,
}

#[derive(Debug)]
struct Fetched {
    keys: KeySet,
    body: Vec<u8>,
    /// Another with every change: what was verified by others has to be again.
    version: u64,
    /// The last time that the issuer told them.
    at: AtomicI64,
}

#[derive(Debug, Default)]
struct Counts {
    refreshes: AtomicU64,
    refresh_failures: AtomicU64,
    verified: AtomicU64,
    refused: AtomicU64,
}

impl Oidc {
    /// `None` where no issuer is configured. Nothing is fetched yet: [`Self::watch`] does.
    pub fn open(
        config: &OidcConfig,
        snapshots: SnapshotReader,
        time: Arc<StoreTime>,
    ) -> Result<Option<Self>, OidcError> {
        if !config.is_on() {
            return Ok(None);
        }
        let algorithm = |name: &str| name.parse::<Algorithm>().ok().filter(|algorithm| is_asymmetric(*algorithm));
        let algorithms = config.algorithm_names().map(|name| {
            algorithm(name).ok_or_else(|| OidcError::Option {
                option: "oidc.algorithms",
                problem: format!("tokens can't be verified by '{name}'"),
            })
        });
        let rules = Rules {
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            algorithms: algorithms.collect::<Result<_, _>>()?,
            tenant_claim: config.tenant_claim.clone(),
            roles_claim: config.roles_claim.clone(),
            role_prefix: config.role_prefix.clone(),
            allow_platform: config.allow_platform,
            leeway: micros(config.leeway.duration()),
        };
        let shared = Shared {
            rules,
            source: Source::new(config)?,
            refresh: config.refresh.duration(),
            keep: micros(config.keep.duration()),
            snapshots,
            time,
            keys: ArcSwapOption::empty(),
            known: Known::new(MAX_KNOWN),
            wanted: Notify::new(),
            asked: AtomicI64::new(Micros::MIN),
            is_asking: AtomicBool::new(false),
            failure: Mutex::default(),
            counts: Counts::default(),
        };
        Ok(Some(Self { shared: Arc::new(shared) }))
    }

    /// Fetches the issuer's keys, now and then and where a token names one that isn't known, for as long as
    /// the server runs.
    pub async fn watch(self) {
        loop {
            self.refresh().await;
            let has_failed = self.shared.last_failure().is_some();
            let pause = if has_failed { LATER.min(self.shared.refresh) } else { self.shared.refresh };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.shared.wanted.notified() => {}
            }
        }
    }

    pub fn observe(&self, instruments: &Instruments) {
        let count = |of: fn(&Counts) -> &AtomicU64| {
            let shared = self.shared.clone();
            move || of(&shared.counts).load(Ordering::Relaxed)
        };
        instruments.observed_count(&REFRESHES, count(|counts| &counts.refreshes));
        instruments.observed_count(&REFRESH_FAILURES, count(|counts| &counts.refresh_failures));
        instruments.observed_count(&VERIFIED, count(|counts| &counts.verified));
        instruments.observed_count(&REFUSED, count(|counts| &counts.refused));
        // Of counts and seconds a float loses nothing to speak of.
        #[allow(clippy::cast_precision_loss)]
        let gauge = |metric: &Metric, tell: fn(&Shared) -> Option<i64>, scale: f64| {
            let shared = self.shared.clone();
            instruments.observed(metric, move |observed| {
                if let Some(number) = tell(&shared) {
                    observed.observe(number as f64 / scale, &[]);
                }
            });
        };
        gauge(&KEYS, |shared| Some(shared.keys.load().as_ref().map_or(0, |fetched| to_i64(fetched.keys.len()))), 1.0);
        gauge(&REMEMBERED, |shared| Some(to_i64(shared.known.len())), 1.0);
        gauge(&KEYS_AGE, |shared| shared.keys.load().as_ref().map(|fetched| fetched.age(shared.time.read())), 1e6);
    }

    /// Asks the issuer for its keys. What can't be used never takes the place of what can.
    async fn refresh(&self) {
        let shared = self.shared.as_ref();
        shared.asked.store(shared.time.read(), Ordering::SeqCst);
        shared.is_asking.store(true, Ordering::SeqCst);
        let fetched = shared.source.fetch().await.and_then(|body| shared.take(body));
        let mut failure = shared.failure.lock().unwrap_or_else(PoisonError::into_inner);
        match fetched {
            Ok(has_changed) => {
                shared.counts.refreshes.fetch_add(1, Ordering::Relaxed);
                if has_changed || failure.is_some() {
                    tracing::info!(issuer = %shared.rules.issuer, has_changed, "the issuer's keys were fetched");
                }
                *failure = None;
            }
            Err(problem) => {
                shared.counts.refresh_failures.fetch_add(1, Ordering::Relaxed);
                // Told once, and not every few seconds for as long as it lasts.
                if failure.as_ref() != Some(&problem) {
                    let issuer = &shared.rules.issuer;
                    tracing::error!(%issuer, problem, "the issuer's keys can't be fetched; those before them stay");
                }
                *failure = Some(problem);
            }
        }
        drop(failure);
        shared.is_asking.store(false, Ordering::SeqCst);
    }
}

impl Authenticates for Oidc {
    fn authenticate(&self, token: Option<&str>) -> Result<Identity> {
        let known = self.shared.authenticate(token.unwrap_or_default());
        known.inspect_err(|_| {
            self.shared.counts.refused.fetch_add(1, Ordering::Relaxed);
        })
    }
}

impl Shared {
    fn authenticate(&self, token: &str) -> Result<Identity> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(refused("JWT_MALFORMED", format!("the token has more than {MAX_TOKEN_BYTES} bytes")));
        }
        let now = self.time.read();
        let fetched = self.keys.load();
        let fetched = fetched.as_ref().ok_or_else(|| {
            self.want(now);
            self.unavailable("the keys of the issuer have not been fetched yet")
        })?;
        if fetched.age(now) > self.keep {
            self.want(now);
            return Err(self.unavailable("the keys of the issuer were fetched too long ago (option 'oidc.keep')"));
        }
        let digest = digest_of(token);
        let bearer = match self.known.get(&digest, fetched.version) {
            Some(bearer) => bearer,
            None => {
                let bearer = self.verify(token, fetched, now)?;
                bearer.check_time(now)?;
                self.known.put(digest, bearer.clone(), fetched.version);
                bearer
            }
        };
        bearer.check_time(now)?;
        let tenant = bearer.identity.tenant();
        if !self.snapshots.load().tenants.contains_key(tenant) {
            return Err(refused("JWT_TENANT", format!("the token is of tenant '{tenant}', which there is not"))
                .hint("hydrant get tenants lists those that there are")
                .with("tenant", tenant));
        }
        Ok(bearer.identity)
    }

    fn verify(&self, token: &str, fetched: &Fetched, now: Micros) -> Result<Bearer> {
        let parts = self.rules.take_apart(token)?;
        match fetched.keys.verify(&parts) {
            Ok(()) => {
                self.counts.verified.fetch_add(1, Ordering::Relaxed);
                self.rules.bearer(&parts)
            }
            Err(NotVerified::BadSignature) => Err(bad_signature()),
            // A new key is told by the issuer before it signs; whether this is one, it is asked.
            Err(NotVerified::UnknownKey) => {
                let is_asked = self.want(now);
                if is_asked || self.last_failure().is_some() {
                    let error = self.unavailable("the token names a key that is not known yet");
                    return Err(if is_asked { error.retry_after(SOON) } else { error });
                }
                Err(refused("JWT_KEY", "the token is signed by a key that its issuer doesn't have"))
            }
        }
    }

    /// Has the issuer asked, unless it was lately. Whether it is being asked.
    fn want(&self, now: Micros) -> bool {
        let asked = self.asked.load(Ordering::SeqCst);
        let is_due = now.saturating_sub(asked) >= MIN_BETWEEN;
        if is_due && self.asked.compare_exchange(asked, now, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            self.is_asking.store(true, Ordering::SeqCst);
            self.wanted.notify_one();
        }
        self.is_asking.load(Ordering::SeqCst)
    }

    /// Takes a key set. Whether it is another than before.
    fn take(&self, body: Vec<u8>) -> Result<bool, String> {
        let now = self.time.read();
        let before = self.keys.load();
        if let Some(before) = before.as_ref().filter(|before| before.body == body) {
            before.at.store(now, Ordering::SeqCst);
            return Ok(false);
        }
        let keys = KeySet::parse(&body, &self.rules.algorithms)?;
        let version = before.as_ref().map_or(0, |before| before.version + 1);
        self.keys.store(Some(Arc::new(Fetched { keys, body, version, at: AtomicI64::new(now) })));
        Ok(true)
    }

    fn unavailable(&self, problem: &str) -> Error {
        let error =
            Error::new(Code::Unavailable, "OIDC_KEYS_UNAVAILABLE", format!("{problem}: '{}'", self.rules.issuer));
        match self.last_failure() {
            // What exactly went wrong is for the operator, and stands in the log.
            Some(_) => error.retry_after(LATER).hint("the issuer can't be reached from the server: its log says why"),
            None => error.retry_after(SOON),
        }
    }

    fn last_failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Fetched {
    fn age(&self, now: Micros) -> Micros {
        now.saturating_sub(self.at.load(Ordering::SeqCst))
    }
}

/// Tells API keys from an issuer's tokens by how they begin.
#[derive(Debug)]
pub struct KeysAndTokens {
    pub keys: Arc<dyn Authenticates>,
    /// Begins every API key.
    pub key_prefix: &'static str,
    pub oidc: Oidc,
}

impl Authenticates for KeysAndTokens {
    fn authenticate(&self, token: Option<&str>) -> Result<Identity> {
        match token {
            Some(text) if !text.starts_with(self.key_prefix) => self.oidc.authenticate(token),
            // With none, the refusal is the same.
            _ => self.keys.authenticate(token),
        }
    }
}

fn micros(duration: Duration) -> Micros {
    Micros::try_from(duration.as_micros()).unwrap_or(Micros::MAX)
}

fn to_i64(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
