//! What a token must say: which header is taken, and which claims, by the configured rules. It is given
//! the payload of a token whose signature holds, and makes an [`Identity`] of it; it knows no key.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

use crate::error::{Code, Error, Result};
use crate::tenancy::{Identity, Role, Roles};

/// As the specification bounds a subject.
const MAX_SUBJECT_BYTES: usize = 255;
/// More roles than there are, since an issuer knows those of other programs too.
const MAX_ROLES: usize = 1_000;
/// Far beyond every calendar, and far from the end of microseconds.
const MAX_SECONDS: i64 = 1 << 40;

/// What a token must say to be taken.
#[derive(Clone, Debug)]
pub struct Rules {
    pub issuer: String,
    pub audience: String,
    pub algorithms: Vec<Algorithm>,
    /// The claim's name, or a JSON pointer to it where it begins with `/`.
    pub tenant_claim: String,
    pub roles_claim: String,
    /// Begins the names of roles that are meant for this server.
    pub role_prefix: String,
    /// Whether a token may make its bearer a caller with role platform.
    pub allow_platform: bool,
    /// By which the issuer's clock may differ.
    pub leeway: Micros,
}

/// A token taken apart, nothing of it believed yet.
#[derive(Debug)]
pub struct Parts<'a> {
    pub algorithm: Algorithm,
    pub key_id: Option<String>,
    /// What was signed.
    pub message: &'a str,
    /// In base64.
    pub signature: &'a str,
    payload: &'a str,
}

/// A bearer, and when its token holds.
#[derive(Clone, Debug)]
pub struct Bearer {
    pub identity: Identity,
    /// The first instant at which it holds, leeway included.
    from: Micros,
    /// The first at which it does no more.
    until: Micros,
}

impl Rules {
    /// Takes a token apart. UNAUTHENTICATED where it is no signed JWT, or signed as is not allowed here.
    pub fn take_apart<'a>(&self, token: &'a str) -> Result<Parts<'a>> {
        let malformed = |problem: &str| refused("JWT_MALFORMED", format!("the token {problem}"));
        let (message, signature) =
            token.rsplit_once('.').ok_or_else(|| malformed("is neither an API key nor a JWT"))?;
        let (header, payload) = message.split_once('.').ok_or_else(|| malformed("has fewer than three parts"))?;
        if payload.contains('.') {
            return Err(malformed("has more than three parts"));
        }
        let header = object(header).ok_or_else(|| malformed("has a header that is no JSON object in base64url"))?;
        // Whatever is critical in it, it is nothing that is understood here.
        if header.contains_key("crit") {
            return Err(malformed("has a header that demands extensions ('crit')"));
        }
        let text = |name: &str| match header.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(malformed(&format!("has a header whose '{name}' is no string"))),
        };
        if let Some(kind) = text("typ")? {
            let kind = kind.to_ascii_lowercase();
            if !matches!(kind.trim_start_matches("application/"), "jwt" | "at+jwt") {
                return Err(malformed("is of another type than JWT or at+jwt"));
            }
        }
        let named = text("alg")?.unwrap_or_default();
        let algorithm = named.parse().ok().filter(|algorithm| self.algorithms.contains(algorithm));
        let algorithm = algorithm.ok_or_else(|| {
            let message = format!("tokens signed by '{}' are not taken", shorten(named));
            refused("JWT_ALGORITHM", message).hint("option 'oidc.algorithms' has those that are")
        })?;
        Ok(Parts { algorithm, key_id: text("kid")?.map(str::to_owned), message, signature, payload })
    }

    /// Whose the token is, whose signature holds. UNAUTHENTICATED where a claim is missing or another.
    pub fn bearer(&self, parts: &Parts<'_>) -> Result<Bearer> {
        let claims = object(parts.payload)
            .ok_or_else(|| refused("JWT_MALFORMED", "the token's claims are no JSON object in base64url"))?;
        if claims.get("iss").and_then(Value::as_str) != Some(self.issuer.as_str()) {
            return Err(refused("JWT_ISSUER", format!("the token is not of issuer '{}'", self.issuer)));
        }
        if !self.is_meant_for_us(claims.get("aud")) {
            return Err(refused("JWT_AUDIENCE", format!("the token is not meant for audience '{}'", self.audience)));
        }
        let expires = instant(&claims, "exp")?.ok_or_else(|| bad_claim("exp", "is missing"))?;
        let not_before = instant(&claims, "nbf")?.unwrap_or(Micros::MIN);
        let issued = instant(&claims, "iat")?.unwrap_or(Micros::MIN);
        Ok(Bearer {
            identity: self.identity(&claims)?,
            from: not_before.max(issued).saturating_sub(self.leeway),
            until: expires.saturating_add(self.leeway),
        })
    }

    /// In whose name, and in which roles. What is no role of this server is another's affair.
    fn identity(&self, claims: &Map<String, Value>) -> Result<Identity> {
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
        if subject.is_empty() || subject.len() > MAX_SUBJECT_BYTES || subject.chars().any(char::is_control) {
            return Err(bad_claim("sub", "is no text of 1 to 255 bytes without control characters"));
        }
        let tenant = find(claims, &self.tenant_claim).and_then(Value::as_str);
        let tenant: Option<Name> = tenant.and_then(|tenant| tenant.parse().ok());
        let tenant = tenant.ok_or_else(|| bad_claim(&self.tenant_claim, "doesn't name a tenant"))?;
        let roles = self.roles(find(claims, &self.roles_claim))?;
        Ok(Identity::new(&format!("oidc/{subject}"), tenant, roles, None))
    }

    /// From a list of names, or from one text with spaces between them, as scopes are written.
    fn roles(&self, claim: Option<&Value>) -> Result<Roles> {
        let names: Vec<&str> = match claim {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(text)) => text.split_ascii_whitespace().collect(),
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
            Some(_) => return Err(bad_claim(&self.roles_claim, "is neither a list nor a text")),
        };
        if names.len() > MAX_ROLES {
            return Err(bad_claim(&self.roles_claim, "has more than 1,000 names"));
        }
        let ours = names.into_iter().filter_map(|name| name.strip_prefix(&self.role_prefix)?.parse::<Role>().ok());
        Ok(ours.filter(|role| self.allow_platform || *role != Role::Platform).collect())
    }

    fn is_meant_for_us(&self, audience: Option<&Value>) -> bool {
        match audience {
            Some(Value::String(one)) => *one == self.audience,
            Some(Value::Array(several)) => several.iter().any(|one| one.as_str() == Some(&self.audience)),
            _ => false,
        }
    }
}

impl Bearer {
    /// UNAUTHENTICATED before and after the token's time.
    pub fn check_time(&self, now: Micros) -> Result<()> {
        if now >= self.until {
            return Err(refused("JWT_EXPIRED", "the token has expired").hint("get another from the issuer"));
        }
        if now < self.from {
            return Err(refused("JWT_NOT_YET_VALID", "the token doesn't hold yet")
                .hint("the server's clock and the issuer's differ by more than option 'oidc.leeway'"));
        }
        Ok(())
    }
}

/// A refusal that says what is wrong with a token, and nothing of what stands in it.
pub fn refused(reason: &'static str, message: impl Into<String>) -> Error {
    Error::new(Code::Unauthenticated, reason, message)
}

fn bad_claim(claim: &str, problem: &str) -> Error {
    refused("JWT_CLAIM", format!("the token's claim '{claim}' {problem}")).with("claim", claim)
}

/// By name, or by pointer.
fn find<'a>(claims: &'a Map<String, Value>, claim: &str) -> Option<&'a Value> {
    let Some(path) = claim.strip_prefix('/') else { return claims.get(claim) };
    let mut names = path.split('/').map(|name| name.replace("~1", "/").replace("~0", "~"));
    let mut found = claims.get(&names.next()?)?;
    for name in names {
        found = found.as_object()?.get(&name)?;
    }
    Some(found)
}

/// Seconds since 1970, also with a fraction.
fn instant(claims: &Map<String, Value>, claim: &str) -> Result<Option<Micros>> {
    let Some(value) = claims.get(claim) else { return Ok(None) };
    let whole = value.as_i64().filter(|seconds| seconds.abs() <= MAX_SECONDS);
    if let Some(seconds) = whole {
        return Ok(Some(seconds * 1_000_000));
    }
    #[expect(clippy::cast_precision_loss, reason = "the bound is a power of two")]
    let fractional = value.as_f64().filter(|seconds| seconds.abs() <= MAX_SECONDS as f64);
    #[expect(clippy::cast_possible_truncation, reason = "it is bounded, and finer than a microsecond is cut off")]
    let micros = fractional.map(|seconds| (seconds * 1e6) as Micros);
    micros.map(Some).ok_or_else(|| bad_claim(claim, "is no time in seconds since 1970"))
}

fn object(encoded: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()
}

fn shorten(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(20).collect()
}
