//! An issuer of tokens: what it publishes over HTTP, as the test says, and tokens signed by it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// What is at a path.
#[derive(Clone, Debug)]
pub enum Published {
    Document(Vec<u8>),
    Status(u16),
    /// Says where else to ask.
    Elsewhere(String),
    /// Sends bytes without end.
    Endless,
    /// Says nothing until it is replaced.
    Nothing,
}

#[derive(Clone)]
pub struct Issuer {
    pub url: String,
    published: Arc<watch::Sender<HashMap<String, Published>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

pub struct Signer {
    name: String,
    pair: Ed25519KeyPair,
}

impl Issuer {
    /// With its discovery document, and nothing else.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let document = json!({"issuer": url, "jwks_uri": format!("{url}/keys")}).to_string().into_bytes();
        let discovery = "/.well-known/openid-configuration".to_owned();
        let published = HashMap::from([(discovery, Published::Document(document))]);
        let issuer = Self { url, published: Arc::new(watch::Sender::new(published)), asked: Arc::default() };
        let told = issuer.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(told.clone().answer(stream));
            }
        });
        issuer
    }

    pub fn publish(&self, path: &str, published: Published) {
        self.published.send_modify(|all| drop(all.insert(path.to_owned(), published)));
    }

    pub fn publish_keys(&self, signers: &[&Signer]) {
        let keys: Vec<Value> = signers.iter().map(|signer| signer.jwk()).collect();
        self.publish("/keys", Published::Document(json!({ "keys": keys }).to_string().into_bytes()));
    }

    /// The paths that were asked for.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("nobody panicked").clone()
    }

    async fn answer(self, mut stream: tokio::net::TcpStream) -> Option<()> {
        let (mut head, mut some) = (Vec::new(), [0; 1_024]);
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read(&mut some).await.ok()? {
                0 => return None,
                count => head.extend_from_slice(&some[..count]),
            }
        }
        let path = String::from_utf8_lossy(&head).split(' ').nth(1)?.to_owned();
        self.asked.lock().expect("nobody panicked").push(path.clone());
        let mut published = self.published.subscribe();
        let is_there = |all: &HashMap<_, _>| !matches!(all.get(&path), Some(Published::Nothing));
        let answer = published.wait_for(is_there).await.ok()?.get(&path).cloned();
        let head = |status: &str| format!("HTTP/1.1 {status}\r\nConnection: close\r\n").into_bytes();
        let bytes = match answer.unwrap_or(Published::Status(404)) {
            Published::Status(status) => {
                [head(&format!("{status} Told")), b"Content-Length: 0\r\n\r\n".into()].concat()
            }
            Published::Elsewhere(to) => {
                [head("302 Found"), format!("Location: {to}\r\nContent-Length: 0\r\n\r\n").into_bytes()].concat()
            }
            Published::Document(document) => [head("200 OK"), b"\r\n".into(), document].concat(),
            Published::Nothing => return None,
            Published::Endless => {
                stream.write_all(&[head("200 OK"), b"\r\n".into()].concat()).await.ok()?;
                loop {
                    stream.write_all(&[b' '; 4_096]).await.ok()?;
                }
            }
        };
        stream.write_all(&bytes).await.ok()
    }
}

impl Signer {
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), pair: Ed25519KeyPair::generate().expect("a key") }
    }

    pub fn jwk(&self) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.pair.public_key().as_ref());
        json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": self.name, "x": x})
    }

    pub fn sign(&self, claims: &Value) -> String {
        let head = json!({"alg": "EdDSA", "kid": self.name, "typ": "JWT"});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&head), part(claims));
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(self.pair.sign(message.as_bytes())))
    }
}
