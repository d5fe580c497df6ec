//! Events of lineage by HTTP POST to the address of the configuration, with an API key where there is one. It
//! follows no redirect, uses no proxy, reads no answer beyond its status, and never logs or tells the key.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Certificate, Client};

use super::webhook::{self, WebhookError};
use crate::openlineage::SendsEvents;
use crate::sending::SendError;

/// Bytes of the file with the key, and of the one with authorities.
const MOST_KEY_BYTES: u64 = 4 << 10;
const MOST_CA_BYTES: u64 = 1 << 20;

/// Sends what it is given. Its `Debug` has no key.
pub struct EventSender {
    client: Client,
    url: String,
    /// `Bearer …`.
    authorization: Option<HeaderValue>,
}

impl EventSender {
    /// `key`: the file whose content, without blanks and line ends around it, is shown as a bearer's token.
    /// `ca`: authorities to check the receiver by, as PEM, in place of the system's.
    pub fn open(url: &str, key: Option<&Path>, ca: Option<&Path>, timeout: Duration) -> Result<Self, WebhookError> {
        let authorization = key.map(authorization).transpose()?;
        let authorities = ca.map(|path| {
            let read = webhook::read_bounded("openlineage.ca", path, MOST_CA_BYTES)?;
            let found = Certificate::from_pem_bundle(&read).ok().filter(|found| !found.is_empty());
            found.ok_or_else(|| webhook::wrong("openlineage.ca", path, "it holds no certificate".to_owned()))
        });
        let client = webhook::client(timeout, authorities.transpose()?)?;
        Ok(Self { client, url: url.to_owned(), authorization })
    }
}

#[async_trait]
impl SendsEvents for EventSender {
    async fn send(&self, event: &str) -> Result<(), SendError> {
        let mut request = webhook::post(&self.client, &self.url, event.to_owned());
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        webhook::taken(request).await
    }
}

fn authorization(path: &Path) -> Result<HeaderValue, WebhookError> {
    const OPTION: &str = "openlineage.api_key_file";
    let read = webhook::read_bounded(OPTION, path, MOST_KEY_BYTES)?;
    let key = std::str::from_utf8(read.trim_ascii()).ok().filter(|key| !key.is_empty());
    let value = key.and_then(|key| HeaderValue::from_str(&format!("Bearer {key}")).ok());
    let mut value = value.ok_or_else(|| webhook::wrong(OPTION, path, "it holds no key on one line".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

impl fmt::Debug for EventSender {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("EventSender").field("has_key", &self.authorization.is_some()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_line_and_never_shown() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let open = |content: &str| {
            std::fs::write(file.path(), content).expect("written");
            EventSender::open("http://host/api", Some(file.path()), None, Duration::from_secs(1))
        };
        assert!(!format!("{:?}", open(" secret-key \n").expect("a key")).contains("secret-key"));
        for bad in ["", "two\nlines", &"x".repeat(5_000)] {
            let refused = open(bad).expect_err("no key").to_string();
            assert!(refused.contains("openlineage.api_key_file"), "{refused}");
        }
        let no_ca = EventSender::open("https://host", None, Some(file.path()), Duration::from_secs(1));
        assert!(no_ca.expect_err("no certificate").to_string().contains("openlineage.ca"));
    }
}
