//! Tokens of issuers elsewhere (OpenID Connect), as a credential beside API keys: read strictly, held to
//! the keys of the issuer that they name, to its algorithms, audiences and times, and only then believed.
//! Tenant, roles and reach come of the configuration of that issuer. It never fetches while a request is
//! looked at, never lets a token choose how it is verified, and never logs or tells one.

mod grants;
mod issuer;
mod keys;
#[cfg(test)]
mod tests;
mod token;
mod verified;

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aws_lc_rs::digest;
use futures::future::BoxFuture;
use hydrant_storage::names::{Name, TenantId};
use hydrant_storage::order::Micros;
use serde_json::{Map, Value};

use crate::clock::StoreTime;
use crate::config::{AuthConfig, IssuerConfig, SignatureAlgorithm};
use crate::error::{Code, Error, Result};
use crate::registry::SnapshotReader;
use crate::tenancy::{ASK_FOR_TOKEN, Credential, Identity, Role, Subject};

use self::grants::{Given, Grant, given};
use self::issuer::{Ages, Issuer, LEAST_INTERVAL, Source};
use self::keys::Key;
use self::token::{Parts, is_token};
use self::verified::{TokenHash, Verified};

pub use self::issuer::Fetches;

/// Tokens that are remembered as verified.
const MAX_VERIFIED: usize = 8_192;
/// Bytes of a token; the door takes no longer credential either.
pub const MAX_TOKEN: usize = 8 * 1024;
/// Bytes of a subject (OpenID Connect Core 1.0, 2).
const MAX_SUBJECT: usize = 255;
/// Of `tenants`: whatever the claim names.
const ANY: &str = "*";

/// Those whose tokens are taken. Clones are the same.
#[derive(Clone, Debug)]
pub struct Oidc {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    trusted: Vec<Trusted>,
    skew: Micros,
    snapshots: SnapshotReader,
    time: Arc<StoreTime>,
    verified: Verified<Arc<Known>>,
}

/// An issuer, and what is made of its tokens.
#[derive(Debug)]
struct Trusted {
    issuer: Arc<Issuer>,
    audiences: Vec<String>,
    algorithms: Vec<SignatureAlgorithm>,
    tenant: OfTenant,
    groups_claim: String,
    subject_claim: String,
    grants: Vec<Grant>,
}

/// Which tenant tokens are of.
#[derive(Debug)]
enum OfTenant {
    Always(Name),
    /// The claim names it, and may name these.
    Claimed {
        claim: String,
        among: Vec<String>,
    },
}

/// A token that was verified.
#[derive(Debug)]
struct Known {
    identity: Identity,
    tenant: TenantId,
    expires: Micros,
    issuer: Arc<Issuer>,
    key: Arc<Key>,
}

impl Oidc {
    /// Nothing is fetched yet: see [`Self::keep`]. `fetches` makes what fetches an issuer's documents. The
    /// error says which rule of the configuration is broken.
    pub fn new<E: fmt::Display>(
        config: &AuthConfig,
        snapshots: SnapshotReader,
        time: Arc<StoreTime>,
        fetches: impl Fn(&IssuerConfig) -> Result<Arc<dyn Fetches>, E>,
    ) -> Result<Self, String> {
        let ages = Ages { fresh: config.oidc_keys_max_age.as_micros(), stale: config.oidc_keys_stale.as_micros() };
        let mut trusted = Vec::new();
        for of in &config.oidc {
            let told = |error: String| format!("option 'auth.oidc': issuer '{}': {error}", of.issuer);
            let source = match (of.jwks_uri.as_str(), of.jwks_file.as_path()) {
                (url, _) if !url.is_empty() => Source::Address(url.to_owned()),
                (_, file) if !file.as_os_str().is_empty() => Source::File(file.to_owned()),
                _ => Source::Discovery,
            };
            let fetches = fetches(of).map_err(|error| told(error.to_string()))?;
            let issuer = Issuer::new(of.issuer.clone(), source, fetches, time.clone(), ages);
            trusted.push(Trusted::new(of, Arc::new(issuer)).map_err(told)?);
        }
        let skew = config.oidc_clock_skew.as_micros();
        let shared = Shared { trusted, skew, snapshots, time, verified: Verified::new(MAX_VERIFIED) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Whether a credential has the form of a token.
    pub fn is_token(credential: &str) -> bool {
        is_token(credential)
    }

    /// Keeps the keys of all issuers for as long as it is polled.
    pub async fn keep(self) {
        let keeping = self.shared.trusted.iter().map(|trusted| trusted.issuer.keep());
        futures::future::join_all(keeping).await;
    }

    /// What has to be waited for before a token can be known: the keys of its issuer, where one is missing.
    pub fn awaits(&self, token: &str) -> Option<BoxFuture<'static, ()>> {
        if self.shared.trusted.is_empty() || self.shared.verified.get(&hash(token)).is_some() {
            return None;
        }
        let parts = Parts::read(bounded(token).ok()?).ok()?;
        let trusted = self.shared.issuer_of(&parts.claims)?;
        trusted.algorithm(&parts)?;
        trusted.issuer.awaits(&parts.key)
    }

    /// Whose the token is. UNAUTHENTICATED with a reason of its own for each rule, UNAVAILABLE where its
    /// issuer's keys aren't known. Audience, times and tenant are told only of a token that is genuine.
    pub fn authenticate(&self, token: &str) -> Result<Identity> {
        let (shared, hash) = (self.shared.as_ref(), hash(token));
        let now = shared.time.read();
        if let Some(known) = shared.verified.get(&hash) {
            if shared.still_holds(&known, now) {
                return Ok(known.identity.clone());
            }
            // Looked at anew, so that the reason is of what is true now.
            shared.verified.remove(&hash);
        }
        let known = shared.verify(token, now)?;
        let identity = known.identity.clone();
        shared.verified.put(hash, Arc::new(known));
        Ok(identity)
    }
}

impl Shared {
    fn issuer_of(&self, claims: &Map<String, Value>) -> Option<&Trusted> {
        let issuer = claims.get("iss")?.as_str()?;
        self.trusted.iter().find(|trusted| trusted.issuer.name() == issuer)
    }

    fn still_holds(&self, known: &Known, now: Micros) -> bool {
        let tenant_is_there = || {
            let snapshot = self.snapshots.load();
            snapshot.tenants.get(known.identity.tenant()).is_some_and(|tenant| tenant.id == known.tenant)
        };
        now < known.expires
            && !known.key.withdrawn().load(Ordering::Acquire)
            && known.issuer.is_usable(now)
            && tenant_is_there()
    }

    fn verify(&self, token: &str, now: Micros) -> Result<Known> {
        let malformed = |what: &str| refused("TOKEN_MALFORMED", format!("the token can't be taken: {what}"));
        let parts = Parts::read(bounded(token)?).map_err(malformed)?;
        let trusted = self.issuer_of(&parts.claims).ok_or_else(|| {
            refused("TOKEN_ISSUER_UNKNOWN", "the token is of no issuer (iss) whose tokens are taken here")
                .hint("an operator configures issuers: [[auth.oidc]]")
        })?;
        let algorithm = trusted.algorithm(&parts).ok_or_else(|| {
            refused("TOKEN_ALGORITHM", "the token is not signed by an algorithm (alg) that its issuer is pinned to")
        })?;
        if !trusted.issuer.is_usable(now) {
            return Err(unavailable(&trusted.issuer));
        }
        let key = trusted.issuer.key(&parts.key).ok_or_else(unknown_key)?;
        if !key.verifies(algorithm, parts.message, &parts.signature) {
            return Err(refused("TOKEN_SIGNATURE", "the token's signature is not its issuer's"));
        }
        // From here on it is known to be what the issuer has said.
        let claims = &parts.claims;
        let expires = instant(claims, "exp").map_err(malformed)?;
        let expires = expires.ok_or_else(|| malformed("it never expires (exp)"))?;
        if expires <= now {
            return Err(expired());
        }
        for claim in ["nbf", "iat"] {
            let begins = instant(claims, claim).map_err(malformed)?;
            if begins.is_some_and(|begins| begins > now.saturating_add(self.skew)) {
                let message = format!("the token is of a time that is still to come ({claim})");
                return Err(refused("TOKEN_NOT_YET_VALID", message).hint("the clocks of issuer and server may differ"));
            }
        }
        if !trusted.is_for_us(claims) {
            return Err(refused("TOKEN_AUDIENCE", "the token is for somebody else (aud)"));
        }
        let subject =
            trusted.subject(claims).ok_or_else(|| malformed("it has no subject, or one that can't be told"))?;
        let snapshot = self.snapshots.load();
        let (tenant, catalog) = trusted
            .tenant_of(claims)
            .and_then(|name| snapshot.tenants.get_key_value(name.as_str()))
            .ok_or_else(no_tenant)?;
        let given = given(&trusted.grants, &trusted.groups(claims));
        let Given { roles, reach } = given.ok_or_else(|| {
            refused(
                "TOKEN_GRANTS_DIFFER",
                "the grants of the token's groups don't add up: they limit different roles differently",
            )
            .hint("an operator gives the groups one grant, or the subject other groups")
        })?;
        // The platform is of the server, and so of the tenant that every server has.
        if roles.contains(Role::Platform) && tenant.as_str() != crate::tenancy::DEFAULT_TENANT {
            return Err(no_tenant());
        }
        let issuer = trusted.issuer.name();
        let credential = Credential {
            withdrawn: key.withdrawn().clone(),
            until: Some((self.time.clone(), expires)),
            subject: Some(Subject { issuer: issuer.to_owned(), subject: subject.to_owned() }),
        };
        // An issuer has no fragment: so the first # ends it.
        let name = format!("oidc/{issuer}#{subject}");
        let identity = Identity::by(&name, tenant.clone(), roles, reach, credential);
        Ok(Known { identity, tenant: catalog.id, expires, issuer: trusted.issuer.clone(), key })
    }
}

impl Trusted {
    fn new(config: &IssuerConfig, issuer: Arc<Issuer>) -> Result<Self, String> {
        let tenant = match config.tenant.as_str() {
            "" => OfTenant::Claimed { claim: config.tenant_claim.clone(), among: config.tenants.clone() },
            tenant => OfTenant::Always(tenant.parse().map_err(|error| format!("tenant '{tenant}': {error}"))?),
        };
        Ok(Self {
            issuer,
            audiences: config.audiences.clone(),
            algorithms: config.algorithms.clone(),
            tenant,
            groups_claim: config.groups_claim.clone(),
            subject_claim: config.subject_claim.clone(),
            grants: config.grants.iter().map(Grant::new).collect::<Result<_, _>>()?,
        })
    }

    /// The one that the token names, where its issuer is pinned to it.
    fn algorithm(&self, parts: &Parts<'_>) -> Option<SignatureAlgorithm> {
        self.algorithms.iter().copied().find(|algorithm| algorithm.as_str() == parts.algorithm)
    }

    fn is_for_us(&self, claims: &Map<String, Value>) -> bool {
        let ours = |audience: &str| self.audiences.iter().any(|own| own == audience);
        match claims.get("aud") {
            Some(Value::String(audience)) => ours(audience),
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).any(ours),
            _ => false,
        }
    }

    fn subject<'a>(&self, claims: &'a Map<String, Value>) -> Option<&'a str> {
        let subject = claim(claims, &self.subject_claim)?.as_str()?;
        let is_told = !subject.is_empty() && subject.len() <= MAX_SUBJECT && !subject.chars().any(char::is_control);
        is_told.then_some(subject)
    }

    fn groups<'a>(&self, claims: &'a Map<String, Value>) -> HashSet<&'a str> {
        match claim(claims, &self.groups_claim) {
            Some(Value::String(group)) => HashSet::from([group.as_str()]),
            Some(Value::Array(groups)) => groups.iter().filter_map(Value::as_str).collect(),
            _ => HashSet::new(),
        }
    }

    fn tenant_of(&self, claims: &Map<String, Value>) -> Option<Name> {
        match &self.tenant {
            OfTenant::Always(tenant) => Some(tenant.clone()),
            OfTenant::Claimed { claim: named, among } => {
                let tenant = claim(claims, named)?.as_str()?;
                let is_allowed = among.iter().any(|allowed| allowed == ANY || allowed == tenant);
                tenant.parse().ok().filter(|_| is_allowed)
            }
        }
    }
}

/// A claim by its name, or by a pointer (RFC 6901) such as `/realm_access/roles`.
fn claim<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let Some(path) = name.strip_prefix('/') else { return claims.get(name) };
    let (first, rest) = path.split_once('/').map_or((path, ""), |(first, _)| (first, &name[1 + first.len()..]));
    claims.get(&first.replace("~1", "/").replace("~0", "~"))?.pointer(rest)
}

/// In seconds of a token; the error is told.
fn instant(claims: &Map<String, Value>, name: &str) -> Result<Option<Micros>, &'static str> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    // Fractions are allowed (RFC 7519, 2), and cut off: a token never holds longer than it says.
    let seconds = value.as_i64().or_else(|| {
        let fraction = value.as_f64()?;
        // Beyond this not every second is a number; no clock shows such a time.
        (fraction.abs() < 9e15).then_some(fraction.floor() as i64)
    });
    let seconds = seconds.ok_or("one of its times is no number of seconds")?;
    Ok(Some(seconds.saturating_mul(1_000_000)))
}

fn bounded(token: &str) -> Result<&str> {
    let is_bounded = token.len() <= MAX_TOKEN;
    is_bounded
        .then_some(token)
        .ok_or_else(|| refused("TOKEN_MALFORMED", format!("the token has more than {MAX_TOKEN} bytes")))
}

fn hash(token: &str) -> TokenHash {
    digest::digest(&digest::SHA256, token.as_bytes()).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn refused(reason: &'static str, message: impl Into<String>) -> Error {
    Error::new(Code::Unauthenticated, reason, message).hint(ASK_FOR_TOKEN)
}

fn expired() -> Error {
    refused("TOKEN_EXPIRED", "the token has expired (exp)")
}

fn unknown_key() -> Error {
    refused("TOKEN_KEY_UNKNOWN", "the token was signed with a key (kid) that its issuer doesn't have, or has no more")
}

/// The same for one that there isn't and for one that the issuer may not speak for.
fn no_tenant() -> Error {
    refused("TOKEN_TENANT", "the token names no tenant that its issuer speaks for here")
}

fn unavailable(issuer: &Issuer) -> Error {
    let message = format!("the keys of issuer '{}' are not known: it could not be reached lately", issuer.name());
    let again = Duration::from_micros(LEAST_INTERVAL.unsigned_abs());
    Error::new(Code::Unavailable, "ISSUER_UNAVAILABLE", message).retry_after(again)
}
