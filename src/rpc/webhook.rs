//! Notifications by HTTP POST, signed, to the addresses of the configuration. It follows no redirect, uses
//! no proxy, reads no answer beyond its status, and never logs or tells the secret. How something is posted,
//! and what its answer means, is the same for all that the server sends by itself.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::hmac;
use hydrant_storage::order::Micros;
use reqwest::header::{CONTENT_TYPE, USER_AGENT};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, RequestBuilder, StatusCode};

use crate::freshness::Sends;
use crate::freshness::alerts::Delivery;
use crate::sending::SendError;

/// `t=SECONDS,v1=HEX`: HMAC-SHA256 of `SECONDS.BODY`.
pub const SIGNATURE_HEADER: &str = "hydrant-signature";
/// The same in every attempt of one notification.
pub const DELIVERY_HEADER: &str = "hydrant-delivery";

/// Shorter secrets can be guessed.
const LEAST_SECRET_BYTES: usize = 16;
const MOST_SECRET_BYTES: u64 = 4 << 10;

/// Why notifications can't be sent.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    #[error("option '{option}': {}: {problem}", path.display())]
    File { option: &'static str, path: PathBuf, problem: String },
    #[error("nothing can be sent: {0}")]
    Client(String),
}

/// Sends what it is given. Its `Debug` has no secret.
pub struct Webhooks {
    client: Client,
    /// `None`: notifications are not signed.
    key: Option<hmac::Key>,
}

impl Webhooks {
    /// `secret`: the file whose content, without blanks and line ends around it, signs what is sent.
    pub fn open(secret: Option<&Path>, timeout: Duration) -> Result<Self, WebhookError> {
        let key = secret.map(read_key).transpose()?;
        Ok(Self { client: client(timeout, None)?, key })
    }

    /// What [`SIGNATURE_HEADER`] is at `now`, wall time.
    fn signature(&self, body: &str, now: Micros) -> Option<String> {
        let key = self.key.as_ref()?;
        let seconds = now.div_euclid(1_000_000);
        let tag = hmac::sign(key, format!("{seconds}.{body}").as_bytes());
        let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Some(format!("t={seconds},v1={hex}"))
    }
}

#[async_trait]
impl Sends for Webhooks {
    async fn send(&self, delivery: &Delivery, now: Micros) -> Result<(), SendError> {
        let request = post(&self.client, &delivery.url, delivery.body.clone());
        let mut request = request.header(DELIVERY_HEADER, delivery.id.to_string());
        if let Some(signature) = self.signature(&delivery.body, now) {
            request = request.header(SIGNATURE_HEADER, signature);
        }
        taken(request).await
    }
}

/// `authorities`: in place of the system's, where there are any.
pub(super) fn client(timeout: Duration, authorities: Option<Vec<Certificate>>) -> Result<Client, WebhookError> {
    let mut client = Client::builder().redirect(Policy::none()).no_proxy().timeout(timeout).connect_timeout(timeout);
    if let Some(authorities) = authorities {
        client = client.tls_certs_only(authorities);
    }
    client.build().map_err(|error| WebhookError::Client(told(&error)))
}

/// A JSON document on its way.
pub(super) fn post(client: &Client, url: &str, body: String) -> RequestBuilder {
    client
        .post(url)
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, concat!("hydrant/", env!("CARGO_PKG_VERSION")))
        .body(body)
}

/// Whether it was taken, by the status alone.
pub(super) async fn taken(request: RequestBuilder) -> Result<(), SendError> {
    // The address may hold what others should not read.
    let answer = request.send().await.map_err(|error| SendError::TryAgain(told(&error.without_url())))?;
    let status = answer.status();
    match status {
        _ if status.is_success() => Ok(()),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Err(answered(status, SendError::TryAgain)),
        _ if status.is_server_error() => Err(answered(status, SendError::TryAgain)),
        _ => Err(answered(status, SendError::Refused)),
    }
}

fn answered(status: StatusCode, kind: fn(String) -> SendError) -> SendError {
    kind(format!("it answered {status}"))
}

/// An error with what caused it.
pub(super) fn told(error: &reqwest::Error) -> String {
    let mut told = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        told = format!("{told}: {error}");
        cause = error.source();
    }
    told
}

fn read_key(path: &Path) -> Result<hmac::Key, WebhookError> {
    const OPTION: &str = "alerts.secret_file";
    let read = read_bounded(OPTION, path, MOST_SECRET_BYTES)?;
    let secret = read.trim_ascii();
    if secret.len() < LEAST_SECRET_BYTES {
        let problem = format!("a secret has at least {LEAST_SECRET_BYTES} bytes, such as `openssl rand -hex 32` makes");
        return Err(wrong(OPTION, path, problem));
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, secret))
}

/// A file that an option names, of so many bytes at most.
pub(super) fn read_bounded(option: &'static str, path: &Path, most: u64) -> Result<Vec<u8>, WebhookError> {
    let failed = |error: std::io::Error| wrong(option, path, error.to_string());
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > most {
        return Err(wrong(option, path, format!("it has {bytes} bytes, and may have at most {most}")));
    }
    std::fs::read(path).map_err(failed)
}

pub(super) fn wrong(option: &'static str, path: &Path, problem: String) -> WebhookError {
    WebhookError::File { option, path: path.to_owned(), problem }
}

impl fmt::Debug for Webhooks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Webhooks").field("signs", &self.key.is_some()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(secret: &[u8]) -> Result<Webhooks, WebhookError> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), secret).expect("written");
        Webhooks::open(Some(file.path()), Duration::from_secs(1))
    }

    /// The expected tag was made by `openssl dgst -sha256 -hmac`.
    #[test]
    fn a_signature_covers_the_body_and_the_second_in_which_it_was_sent() {
        let webhooks = opened(b"  0123456789abcdef\n").expect("a secret");
        let signature = webhooks.signature("{}", 1_700_000_000_999_999).expect("it is signed");
        let tag = "e4f8e2ecae2295b2ddb2f0b5584c8275e226c0ebe9b3b819e70156bb67122e3e";
        assert_eq!(signature, format!("t=1700000000,v1={tag}"));
        assert_ne!(webhooks.signature("{}", 1_700_000_001_000_000), Some(signature));
    }

    #[test]
    fn a_secret_is_neither_short_nor_shown() {
        let refused = opened(b"0123456789abcde\n").expect_err("15 bytes").to_string();
        assert!(refused.contains("alerts.secret_file") && refused.contains("at least 16 bytes"), "{refused}");
        assert!(opened(&[b'x'; 5_000]).expect_err("too long").to_string().contains("5000 bytes"));
        assert!(!format!("{:?}", opened(b"0123456789abcdef").expect("a secret")).contains("0123456789"));
    }
}
