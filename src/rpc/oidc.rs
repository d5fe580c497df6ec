//! What issuers of tokens publish, fetched by HTTP: discovery documents and key sets. It follows no
//! redirect, uses no proxy, sends nothing but the address, and stops to read where a bound is passed. What
//! a document says is judged elsewhere.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{ACCEPT, USER_AGENT};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client};

use super::webhook::told;
use crate::access::oidc::Fetches;
use crate::config::IssuerConfig;

/// From the connection to the last byte.
const TIMEOUT: Duration = Duration::from_secs(4);
/// Bytes of a file of authorities.
const MAX_AUTHORITIES: u64 = 1 << 20;

/// Why documents can't be fetched at all.
#[derive(Debug, thiserror::Error)]
pub enum KeyFetcherError {
    #[error("ca_file {}: {problem}", path.display())]
    Authorities { path: PathBuf, problem: String },
    #[error("its keys can't be fetched: {0}")]
    Client(String),
}

/// Fetches for one issuer.
#[derive(Debug)]
pub struct KeyFetcher(Client);

impl KeyFetcher {
    /// Trusts the authorities of the issuer's configuration, and those of the system where it names none.
    pub fn open(issuer: &IssuerConfig) -> Result<Self, KeyFetcherError> {
        let client = Client::builder().redirect(Policy::none()).no_proxy().timeout(TIMEOUT).connect_timeout(TIMEOUT);
        let client = match issuer.ca_file.as_path() {
            none if none.as_os_str().is_empty() => client,
            path => client.tls_certs_only(authorities(path)?),
        };
        client.build().map(Self).map_err(|error| KeyFetcherError::Client(told(&error)))
    }

    pub fn shared(self) -> Arc<dyn Fetches> {
        Arc::new(self)
    }
}

#[async_trait]
impl Fetches for KeyFetcher {
    async fn get(&self, url: &str, limit: usize) -> Result<Vec<u8>, String> {
        let agent = concat!("hydrant/", env!("CARGO_PKG_VERSION"));
        let request = self.0.get(url).header(ACCEPT, "application/json").header(USER_AGENT, agent);
        let mut answer = request.send().await.map_err(|error| told(&error))?;
        let status = answer.status();
        if !status.is_success() {
            return Err(format!("{url} answered {status}"));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| told(&error))? {
            if bytes.len() + chunk.len() > limit {
                return Err(format!("{url} answered more than {limit} bytes"));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

fn authorities(path: &Path) -> Result<Vec<Certificate>, KeyFetcherError> {
    let wrong = |problem: String| KeyFetcherError::Authorities { path: path.to_owned(), problem };
    let bytes = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
    if bytes > MAX_AUTHORITIES {
        return Err(wrong(format!("it has {bytes} bytes, and at most {MAX_AUTHORITIES} are read")));
    }
    let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| wrong(told(&error)))?;
    if certificates.is_empty() { Err(wrong("it has no certificate in PEM".to_owned())) } else { Ok(certificates) }
}
