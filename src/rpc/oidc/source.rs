//! Where an issuer's keys come from: its key set, found by its discovery document or configured. Answers
//! are bounded in bytes and time, redirects are not followed, and nothing but loopback is asked in the
//! clear. It judges no key.

use std::error::Error as _;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use reqwest::header::ACCEPT;
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, StatusCode, Url};
use serde::Deserialize;

use super::OidcError;
use crate::config::OidcConfig;

/// No discovery document and no key set is larger.
const MAX_BODY_BYTES: usize = 1 << 20;
/// No file of certificates is larger.
const MAX_FILE_BYTES: u64 = 1 << 20;

const CONNECT_TIME: Duration = Duration::from_secs(5);
/// For one answer, from the first byte sent to the last received.
const ANSWER_TIME: Duration = Duration::from_secs(10);

const WELL_KNOWN: &str = "/.well-known/openid-configuration";

/// An issuer's key set, as it is asked for.
#[derive(Debug)]
pub struct Source {
    client: Client,
    issuer: String,
    place: Place,
    /// Whether the issuer is on this machine, as in tests: then its keys may be, too.
    is_local: bool,
}

#[derive(Debug)]
enum Place {
    Known(Url),
    /// The discovery document that tells it.
    Discovered(Url),
}

/// What is read of a discovery document.
#[derive(Debug, Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Source {
    pub fn new(config: &OidcConfig) -> Result<Self, OidcError> {
        let bad = |option: &'static str| move |problem: String| OidcError::Option { option, problem };
        let is_local = parse(&config.issuer, true).map(|url| is_loopback(&url)).map_err(bad("oidc.issuer"))?;
        let place = match config.jwks_url.as_str() {
            "" => {
                let document = format!("{}{WELL_KNOWN}", config.issuer.trim_end_matches('/'));
                Place::Discovered(parse(&document, true).map_err(bad("oidc.issuer"))?)
            }
            url => Place::Known(parse(url, true).map_err(bad("oidc.jwks_url"))?),
        };
        let asks_here = match &place {
            Place::Known(url) | Place::Discovered(url) => is_loopback(url),
        };
        let mut builder = Client::builder()
            .redirect(Policy::none())
            .connect_timeout(CONNECT_TIME)
            .timeout(ANSWER_TIME)
            .user_agent(concat!("hydrant/", env!("CARGO_PKG_VERSION")));
        if asks_here {
            builder = builder.no_proxy();
        }
        if !config.ca.as_os_str().is_empty() {
            let certificates = authorities(&config.ca).map_err(bad("oidc.ca"))?;
            builder = builder.tls_certs_only(certificates);
        }
        let client = builder.build().map_err(|error| OidcError::Client { problem: told(&error) })?;
        Ok(Self { client, issuer: config.issuer.clone(), place, is_local })
    }

    /// The key set's bytes, or what went wrong.
    pub async fn fetch(&self) -> Result<Vec<u8>, String> {
        match &self.place {
            Place::Known(url) => self.get(url).await,
            Place::Discovered(document) => {
                let body = self.get(document).await?;
                let discovery: Discovery = serde_json::from_slice(&body)
                    .map_err(|error| format!("{document} is no discovery document: {error}"))?;
                if discovery.issuer != self.issuer {
                    return Err(format!(
                        "{document} is of another issuer than '{}' (option 'oidc.issuer')",
                        self.issuer
                    ));
                }
                let url = parse(&discovery.jwks_uri, self.is_local);
                let url =
                    url.map_err(|problem| format!("{document} names a key set that is not asked for: {problem}"))?;
                self.get(&url).await
            }
        }
    }

    async fn get(&self, url: &Url) -> Result<Vec<u8>, String> {
        let failed = |error: reqwest::Error| format!("{url} can't be read: {}", told(&error.without_url()));
        let request = self.client.get(url.clone()).header(ACCEPT, "application/json");
        let mut response = request.send().await.map_err(failed)?;
        if response.status() != StatusCode::OK {
            return Err(format!("{url} answered with status {}", response.status().as_u16()));
        }
        let too_large = || format!("{url} answered with more than {MAX_BODY_BYTES} bytes");
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MAX_BODY_BYTES {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// An address that may be asked: encrypted, or on this machine if `local` is allowed.
fn parse(text: &str, local: bool) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|error| format!("it is no URL: {error}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a URL with a user or a password in it is not asked".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("a URL with '?' or '#' is not asked".to_owned());
    }
    let is_safe = url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url));
    if !is_safe {
        return Err("it must begin with https://, or be on this machine (http://127.0.0.1:PORT)".to_owned());
    }
    if is_loopback(&url) && !local {
        return Err("it is on this machine, and the issuer is not".to_owned());
    }
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn authorities(path: &Path) -> Result<Vec<Certificate>, String> {
    let shown = path.display();
    let unreadable = |error: std::io::Error| format!("{shown} can't be read: {error}");
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    if length > MAX_FILE_BYTES {
        return Err(format!("{shown} has {length} bytes, of {MAX_FILE_BYTES} at most"));
    }
    let certificates = Certificate::from_pem_bundle(&std::fs::read(path).map_err(unreadable)?);
    let certificates = certificates.map_err(|error| format!("{shown} has no certificates in PEM: {}", told(&error)))?;
    if certificates.is_empty() {
        return Err(format!("{shown} has no certificate"));
    }
    Ok(certificates)
}

/// With what it comes from, which alone says what went wrong.
fn told(error: &reqwest::Error) -> String {
    let mut told = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        told = format!("{told}: {cause}");
        source = cause.source();
    }
    told
}
