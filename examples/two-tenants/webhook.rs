//! A webhook of the story's own: takes notifications as Alertmanager sends them, and hands them out.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value as Json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

pub struct Webhook {
    pub url: String,
    received: mpsc::Receiver<Json>,
}

impl Webhook {
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/alerts", listener.local_addr()?);
        let (sender, received) = mpsc::channel(100);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // What is no notification is nobody's here.
                let Ok(notification) = take(stream).await else { continue };
                if sender.send(notification).await.is_err() {
                    return;
                }
            }
        });
        Ok(Self { url, received })
    }

    /// The next alert of this status about a view, told in a line.
    pub async fn next_of(&mut self, status: &str, (tenant, view): (&str, &str), patience: Duration) -> Result<String> {
        let wanted = async {
            while let Some(notification) = self.received.recv().await {
                let alerts = notification["alerts"].as_array().cloned().unwrap_or_default();
                // Another tenant has a view of the same name, whose promise is another one.
                let is_it = |labels: &Json| labels["tenant"] == tenant && labels["view"] == view;
                let about = |alert: &&Json| alert["status"] == status && is_it(&alert["labels"]);
                if let Some(alert) = alerts.iter().find(about) {
                    let name = alert["labels"]["alertname"].as_str().unwrap_or_default();
                    return Ok(format!("{status}: {name} of {tenant}/{view}"));
                }
            }
            bail!("the webhook has ended")
        };
        tokio::time::timeout(patience, wanted).await.with_context(|| format!("nobody was told that it is {status}"))?
    }
}

/// Takes one request and answers it.
async fn take(mut stream: TcpStream) -> Result<Json> {
    let mut bytes = Vec::new();
    let body = loop {
        let mut some = [0; 4_096];
        let count = stream.read(&mut some).await?;
        if count == 0 {
            bail!("it broke off");
        }
        bytes.extend_from_slice(&some[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.to_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            break body.to_owned();
        }
    };
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await?;
    Ok(serde_json::from_str(&body)?)
}
