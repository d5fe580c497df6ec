//! A receiver of notifications that answers as it is told: a status, or nothing at all.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value as Json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// What it does with a request.
#[derive(Clone, Debug)]
pub enum Answer {
    Status(u16),
    /// Says where else to ask.
    Redirect(String),
    /// Keeps the connection and says nothing.
    Hang,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Received {
    /// In lower case.
    pub head: String,
    pub body: Json,
    pub text: String,
}

pub struct Receiver {
    pub url: String,
    received: mpsc::Receiver<Received>,
    answers: Arc<Mutex<VecDeque<Answer>>>,
}

impl Receiver {
    /// Answers 200 where nothing else was told.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/hook?token=hidden", listener.local_addr().expect("bound"));
        let (sender, received) = mpsc::channel(100);
        let answers: Arc<Mutex<VecDeque<Answer>>> = Arc::default();
        let told = answers.clone();
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let Some(request) = read(&mut stream).await else { continue };
                let answer = told.lock().expect("not poisoned").pop_front().unwrap_or(Answer::Status(200));
                let (status, more) = match answer {
                    Answer::Hang => {
                        open.push(stream);
                        sender.send(request).await.ok();
                        continue;
                    }
                    Answer::Status(status) => (status, String::new()),
                    Answer::Redirect(to) => (307, format!("Location: {to}\r\n")),
                };
                let head = format!("HTTP/1.1 {status} Told\r\n{more}Content-Length: 0\r\nConnection: close\r\n\r\n");
                stream.write_all(head.as_bytes()).await.ok();
                sender.send(request).await.ok();
            }
        });
        Self { url, received, answers }
    }

    /// Of the requests to come, in order.
    pub fn answer(&self, answers: impl IntoIterator<Item = Answer>) {
        self.answers.lock().expect("not poisoned").extend(answers);
    }

    pub async fn next(&mut self) -> Received {
        let received = tokio::time::timeout(Duration::from_secs(60), self.received.recv());
        received.await.expect("something comes").expect("it listens")
    }

    pub fn nothing_more(&mut self) -> bool {
        self.received.try_recv().is_err()
    }
}

async fn read(stream: &mut TcpStream) -> Option<Received> {
    let mut bytes = Vec::new();
    loop {
        let mut some = [0; 4_096];
        match stream.read(&mut some).await.ok()? {
            0 => return None,
            count => bytes.extend_from_slice(&some[..count]),
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let head = head.to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok())?;
        if body.len() >= length {
            return Some(Received { head, body: serde_json::from_str(body).ok()?, text: body.to_owned() });
        }
    }
}
