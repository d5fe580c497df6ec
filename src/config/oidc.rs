//! Issuers of tokens (OpenID Connect) as they are configured: whose tokens are taken, which signatures,
//! where their keys are found, and what the groups of a caller are given. It says what is well formed, and
//! opens no address and no file.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::Deserialize;

/// Issuers at most: each has a task of its own.
const MAX_ISSUERS: usize = 16;
/// Grants of one issuer.
const MAX_GRANTS: usize = 1_000;
/// Names in one list of an issuer.
const MAX_NAMES: usize = 100;
/// Bytes of one text.
const MAX_TEXT: usize = 512;

/// One `[[auth.oidc]]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// As the claim `iss` has it, to the letter.
    pub issuer: String,
    /// The claim `aud` has one of them at least.
    pub audiences: Vec<String>,
    pub algorithms: Vec<SignatureAlgorithm>,
    /// Empty: as the issuer's discovery document says, unless there is a file.
    #[serde(default)]
    pub jwks_uri: String,
    /// Empty: no file.
    #[serde(default)]
    pub jwks_file: PathBuf,
    /// Authorities (PEM) that sign the issuer's certificate; empty: those of the system.
    #[serde(default)]
    pub ca_file: PathBuf,
    /// Every token is of this one; empty: the claim says which.
    #[serde(default)]
    pub tenant: String,
    #[serde(default)]
    pub tenant_claim: String,
    /// Those that the claim may name; `*`: any.
    #[serde(default)]
    pub tenants: Vec<String>,
    #[serde(default = "default_groups_claim")]
    pub groups_claim: String,
    #[serde(default = "default_subject_claim")]
    pub subject_claim: String,
    #[serde(default)]
    pub grants: Vec<GrantConfig>,
}

/// What the members of a group are given.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantConfig {
    pub group: String,
    pub roles: Vec<String>,
    /// With the services; both empty: not limited.
    #[serde(default)]
    pub views: Vec<String>,
    #[serde(default)]
    pub services: Vec<String>,
}

/// How tokens may be signed: with a key of which everybody may know the public half. There is no other
/// kind here, so that none can be configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
pub enum SignatureAlgorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

impl SignatureAlgorithm {
    pub const ALL: [Self; 9] = [
        Self::RS256,
        Self::RS384,
        Self::RS512,
        Self::PS256,
        Self::PS384,
        Self::PS512,
        Self::ES256,
        Self::ES384,
        Self::EdDSA,
    ];

    /// As tokens and key sets name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
            Self::PS256 => "PS256",
            Self::PS384 => "PS384",
            Self::PS512 => "PS512",
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::EdDSA => "EdDSA",
        }
    }
}

/// Whether what is fetched from an address can be trusted to be the issuer's: it is `https`, or stays on
/// this machine. The error says which rule is broken.
pub fn check_address(url: &str) -> Result<(), String> {
    // Programs read such letters differently, and so would see another host than is checked here.
    let is_plain = url.len() <= MAX_TEXT && url.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if !is_plain || authority.is_empty() || authority.contains('@') {
        return Err("is of the form https://HOST/PATH, in ASCII and without a user".to_owned());
    }
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    let is_here = host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    match scheme {
        "https" => Ok(()),
        "http" if is_here => Ok(()),
        "http" => Err("is of the form https://HOST/PATH: keys that come in the clear can be anybody's".to_owned()),
        _ => Err("is of the form https://HOST/PATH".to_owned()),
    }
}

/// What is wrong with the issuers, one line each.
pub(super) fn breaches(issuers: &[IssuerConfig]) -> Vec<String> {
    let mut breaches = Vec::new();
    if issuers.len() > MAX_ISSUERS {
        breaches.push(format!("{} issuers of at most {MAX_ISSUERS}", issuers.len()));
    }
    for (index, issuer) in issuers.iter().enumerate() {
        let name: String = issuer.issuer.chars().take(80).collect();
        if issuers[..index].iter().any(|other| other.issuer == issuer.issuer) {
            breaches.push(format!("issuer '{name}' stands there twice"));
        }
        breaches.extend(issuer.breaches().into_iter().map(|breach| format!("issuer '{name}': {breach}")));
    }
    breaches
}

impl IssuerConfig {
    fn breaches(&self) -> Vec<String> {
        let mut breaches = Vec::new();
        let mut demand = |holds: bool, rule: &str| {
            if !holds {
                breaches.push(rule.to_owned());
            }
        };
        let address = check_address(&self.issuer);
        demand(address.is_ok(), &format!("issuer {}", address.err().unwrap_or_default()));
        demand(!self.issuer.contains(['?', '#']), "issuer has neither query nor fragment");
        demand(is_list(&self.audiences), "audiences names 1 to 100, none empty");
        let is_pinned = !self.algorithms.is_empty();
        demand(is_pinned, "algorithms names those that the issuer signs with, such as [\"RS256\"]");
        let (has_uri, has_file) = (!self.jwks_uri.is_empty(), !self.jwks_file.as_os_str().is_empty());
        demand(!(has_uri && has_file), "jwks_uri and jwks_file exclude each other");
        let address = if has_uri { check_address(&self.jwks_uri) } else { Ok(()) };
        demand(address.is_ok(), &format!("jwks_uri {}", address.err().unwrap_or_default()));
        demand(
            self.tenant.is_empty() != self.tenant_claim.is_empty(),
            "either tenant (every token is of this one) or tenant_claim (the claim says of which)",
        );
        let has_tenants = is_list(&self.tenants);
        demand(
            if self.tenant_claim.is_empty() { self.tenants.is_empty() } else { has_tenants },
            "tenants names those that the claim tenant_claim may name (\"*\": any), and stands beside it only",
        );
        demand(is_text(&self.groups_claim) && is_text(&self.subject_claim), "a claim's name has 1 to 512 bytes");
        demand(self.grants.len() <= MAX_GRANTS, "grants are 1,000 at most");
        for grant in &self.grants {
            let is_bounded = grant.views.len() <= MAX_NAMES && grant.services.len() <= MAX_NAMES;
            demand(is_text(&grant.group) && is_bounded, "a grant has a group, and 100 views and 100 services at most");
        }
        breaches
    }
}

fn is_text(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_TEXT
}

fn is_list(texts: &[String]) -> bool {
    (1..=MAX_NAMES).contains(&texts.len()) && texts.iter().all(|text| is_text(text))
}

fn default_groups_claim() -> String {
    "groups".to_owned()
}

fn default_subject_claim() -> String {
    "sub".to_owned()
}

#[cfg(test)]
mod tests {
    use crate::config::Loader;

    const GOOD: &str = r#"
        [[auth.oidc]]
        issuer = "https://login.example.com/realms/ml"
        audiences = ["hydrant"]
        algorithms = ["RS256", "ES256"]
        tenant_claim = "tenant"
        tenants = ["acme"]
        [[auth.oidc.grants]]
        group = "scoring"
        roles = ["reader"]
        services = ["delay_model"]
    "#;

    fn load(text: &str) -> Result<(), String> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("written");
        Loader::new().file(file.path()).load().map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn an_issuer_is_configured_whole_or_refused_with_what_is_wrong() {
        load(GOOD).expect("it is well formed");
        for (from, to, told) in [
            ("https://login", "http://login", "in the clear"),
            ("https://login", "https://ann@login", "without a user"),
            ("https://login.example.com", "http://127.0.0.1\\\\@login.example.com", "in ASCII"),
            ("https://login", "ldap://login", "https://HOST/PATH"),
            ("realms/ml", "realms?ml", "query"),
            ("\"RS256\", \"ES256\"", "\"HS256\"", "unknown variant `HS256`"),
            ("\"RS256\", \"ES256\"", "\"none\"", "unknown variant `none`"),
            ("\"RS256\", \"ES256\"", "", "algorithms"),
            ("[\"hydrant\"]", "[]", "audiences"),
            ("tenants = [\"acme\"]", "", "tenants"),
            ("tenant_claim = \"tenant\"", "tenant = \"acme\"", "tenants"),
            ("tenant_claim = \"tenant\"", "", "either tenant"),
            ("tenant_claim", "jwks_uri = \"http://keys.example.com/\"\ntenant_claim", "jwks_uri"),
            ("tenant_claim", "jwks_uri = \"https://k/\"\njwks_file = \"k\"\ntenant_claim", "exclude"),
            ("group = ", "gruop = ", "unknown field `gruop`"),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let refused = load(&GOOD.replacen(from, to, 1)).expect_err(to);
            assert!(refused.contains("auth.oidc") && refused.contains(told), "{refused}");
        }
        let twice = load(&format!("{GOOD}{GOOD}")).expect_err("twice");
        assert!(twice.contains("twice"), "{twice}");
    }

    #[test]
    fn keys_come_in_the_clear_from_this_machine_only() {
        for here in ["http://127.0.0.1:80/a", "http://[::1]:80/a", "http://localhost/a", "https://far.example/a"] {
            super::check_address(here).expect(here);
        }
        for far in ["http://localhost.example/", "http://127.0.0.1.example/", "http://10.0.0.1/", "http://", "x"] {
            assert!(super::check_address(far).is_err(), "{far}");
        }
    }
}
