//! Tokens of an issuer elsewhere, over sockets: who is let in by them, what it is told, and what an issuer
//! may do to a server that asks it for its keys.

use std::time::Duration;

use hydrant::access::oidc::Fetches as _;
use hydrant::clock::{Clock as _, SystemClock};
use hydrant::config::{Config, GrantConfig, IssuerConfig, SignatureAlgorithm};
use hydrant::error::Code;
use hydrant::rpc::client::{Client, Remote};
use hydrant::rpc::oidc::KeyFetcher;
use hydrant::rpc::v1;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::support::{PATIENCE, TestServer, ingest_request, read_request, weather, weather_rows};
use super::tls::authority::Authority;
use issuer::{Issuer, Published, Signer};

#[path = "../support/issuer.rs"]
mod issuer;

fn configured(url: &str) -> IssuerConfig {
    let grant = |group: &str, role: &str, services: &[&str]| GrantConfig {
        group: group.to_owned(),
        roles: vec![role.to_owned()],
        views: Vec::new(),
        services: services.iter().map(|service| (*service).to_owned()).collect(),
    };
    IssuerConfig {
        issuer: url.to_owned(),
        audiences: vec!["hydrant".to_owned()],
        algorithms: vec![SignatureAlgorithm::EdDSA],
        jwks_uri: String::new(),
        jwks_file: "".into(),
        ca_file: "".into(),
        tenant: "default".to_owned(),
        tenant_claim: String::new(),
        tenants: Vec::new(),
        groups_claim: "groups".to_owned(),
        subject_claim: "sub".to_owned(),
        grants: vec![
            grant("owners", "owner", &[]),
            grant("scoring", "reader", &["delay_model"]),
            grant("operators", "platform", &[]),
        ],
    }
}

fn claims(issuer: &Issuer, subject: &str, groups: &[&str]) -> Value {
    let now = SystemClock.now() / 1_000_000;
    json!({"iss": issuer.url, "aud": ["hydrant"], "sub": subject, "exp": now + 600, "iat": now, "groups": groups})
}

async fn start(issuer: &Issuer) -> TestServer {
    let url = issuer.url.clone();
    TestServer::start_with(|config: &mut Config| {
        config.auth.enabled = true;
        config.auth.oidc = vec![configured(&url)];
    })
    .await
}

async fn client(server: &TestServer, token: &str) -> Client {
    let remote = Remote::plain(&format!("127.0.0.1:{}", server.addresses.grpc.port()));
    Client::connect_to(remote.with_token(token).expect("it can be sent")).await.expect("it listens")
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_a_token_is_let_in_as_its_groups_say_and_is_named_by_issuer_and_subject() {
    let (issuer, signer) = (Issuer::start().await, Signer::new("a"));
    issuer.publish_keys(&[&signer]);
    let server = start(&issuer).await;
    let first = std::fs::read_to_string(server.directory.path().join("first-key")).expect("it was made");
    let first = client(&server, first.trim()).await;
    first.ingest(ingest_request(&weather_rows())).await.expect_err("there are no views yet");

    let owner_s = claims(&issuer, "ann", &["owners", "strangers"]);
    let owner = client(&server, &signer.sign(&owner_s)).await;
    let who = owner.who_am_i().await.expect("it is known");
    let name = format!("oidc/{}#ann", issuer.url);
    assert_eq!((who.name.as_str(), who.tenant.as_str()), (name.as_str(), "default"));
    assert_eq!((who.issuer.as_str(), who.subject.as_str()), (issuer.url.as_str(), "ann"));
    assert_eq!(who.roles, [i32::from(v1::Role::Owner)]);
    assert_eq!(who.expires_micros, Some(owner_s["exp"].as_i64().expect("seconds") * 1_000_000));
    owner.apply(&weather(), None).await.expect("an owner may");
    assert_eq!(owner.ingest(ingest_request(&weather_rows())).await.expect_err("an owner").code, Code::PermissionDenied);

    let scoring = client(&server, &signer.sign(&claims(&issuer, "scorer", &["scoring"]))).await;
    scoring.get_online_features(read_request(&["EWR"])).await.expect("the service is given");
    let nobody = client(&server, &signer.sign(&claims(&issuer, "eve", &[]))).await;
    assert!(nobody.who_am_i().await.expect("it is known").roles.is_empty());
    let refused = nobody.get_online_features(read_request(&["EWR"])).await.expect_err("nothing is granted");
    assert_eq!(refused.code, Code::PermissionDenied);
    let forged = client(&server, &Signer::new("a").sign(&owner_s)).await;
    let refused = forged.apply(&[], None).await.expect_err("it is forged");
    assert_eq!((refused.code, refused.reason.as_str()), (Code::Unauthenticated, "TOKEN_SIGNATURE"));

    // The port for operators knows tokens too.
    let metrics = async |groups: &[&str]| {
        let token = signer.sign(&claims(&issuer, "ops", groups));
        let url = format!("http://{}/metrics", server.addresses.http);
        reqwest::Client::new().get(&url).bearer_auth(token).send().await.expect("it answers").status().as_u16()
    };
    assert_eq!((metrics(&["operators"]).await, metrics(&["owners"]).await), (200, 403));

    let records = first.list_audit_records(v1::ListAuditRecordsRequest { page_size: 1_000, ..Default::default() });
    let records = records.await.expect("it may").records;
    let of = |caller: &str, outcome: &str| {
        let found = records.iter().filter(|record| record.caller == caller && record.outcome == outcome);
        found.map(|record| (record.action.as_str(), record.reason.as_str())).collect::<Vec<_>>()
    };
    assert_eq!(of(&name, "done"), [("RegistryService/Apply", "")]);
    let denied = ("OnlineService/GetOnlineFeatures", "PERMISSION_DENIED");
    assert_eq!(of(&format!("oidc/{}#eve", issuer.url), "refused"), [denied]);
    assert!(of("", "refused").contains(&("RegistryService/Apply", "TOKEN_SIGNATURE")), "{records:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_before_the_issuer_s_keys_is_let_in_when_they_come() {
    let (issuer, signer) = (Issuer::start().await, Signer::new("a"));
    issuer.publish("/keys", Published::Nothing);
    let server = start(&issuer).await;
    let early = client(&server, &signer.sign(&claims(&issuer, "ann", &["owners"]))).await;
    let mut asking = Box::pin(early.who_am_i());
    tokio::time::timeout(Duration::from_millis(100), &mut asking).await.expect_err("it waits");
    issuer.publish_keys(&[&signer]);
    let who = tokio::time::timeout(PATIENCE, asking).await.expect("in time").expect("the keys have come");
    assert_eq!(who.subject, "ann");
    // Of an issuer that isn't there at all it is said so, and keys of its own let in as ever.
    let url = "http://127.0.0.1:1".to_owned();
    let alone = TestServer::start_with(|config| {
        config.auth.enabled = true;
        config.auth.oidc = vec![configured(&url)];
    })
    .await;
    let mut lost = claims(&issuer, "ann", &["owners"]);
    lost["iss"] = url.into();
    let refused = client(&alone, &signer.sign(&lost)).await.who_am_i().await.expect_err("nobody has its keys");
    assert_eq!((refused.code, refused.reason.as_str()), (Code::Unavailable, "ISSUER_UNAVAILABLE"));
    let first = std::fs::read_to_string(alone.directory.path().join("first-key")).expect("it was made");
    client(&alone, first.trim()).await.who_am_i().await.expect("a key needs no issuer");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_is_followed_nowhere_and_read_no_further_than_its_bound() {
    let (issuer, elsewhere) = (Issuer::start().await, Issuer::start().await);
    elsewhere.publish("/keys", Published::Document(b"{}".to_vec()));
    let fetcher = KeyFetcher::open(&configured(&issuer.url)).expect("a client");
    let get = async |published: Published| {
        issuer.publish("/keys", published);
        fetcher.get(&format!("{}/keys", issuer.url), 64 << 10).await
    };
    assert_eq!(get(Published::Document(b"{}".to_vec())).await, Ok(b"{}".to_vec()));
    let redirected = get(Published::Elsewhere(format!("{}/keys", elsewhere.url))).await.expect_err("it leads away");
    assert!(redirected.contains("302"), "{redirected}");
    assert!(elsewhere.asked().is_empty(), "nobody went there");
    for status in [201, 404, 500] {
        let answered = get(Published::Status(status)).await;
        assert_eq!(answered.is_ok(), status == 201, "{answered:?}");
    }
    let endless = get(Published::Endless).await.expect_err("it has no end");
    assert!(endless.contains("more than 65536 bytes"), "{endless}");
    let large = get(Published::Document(vec![b' '; (64 << 10) + 1])).await.expect_err("one byte too many");
    assert!(large.contains("more than 65536 bytes"), "{large}");
    let silent = tokio::time::timeout(PATIENCE, get(Published::Nothing)).await.expect("it is given up");
    silent.expect_err("it said nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_come_by_tls_from_whom_the_authorities_vouch_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new();
    let signed = authority.sign(folder.path(), "issuer");
    let chain = vec![CertificateDer::from_pem_file(&signed.certificate).expect("PEM")];
    let key = PrivateKeyDer::from_pem_file(&signed.key).expect("PEM");
    let provider = std::sync::Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let config = tokio_rustls::rustls::ServerConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().expect("versions");
    let config = config.with_no_client_auth().with_single_cert(chain, key);
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config.expect("a certificate and its key")));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("https://localhost:{}", listener.local_addr().expect("bound").port());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => request.push(byte),
                    Err(_) => break,
                }
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}").await.ok();
            stream.shutdown().await.ok();
        }
    });
    let fetch = async |ca_file: std::path::PathBuf| {
        let fetcher =
            KeyFetcher::open(&IssuerConfig { ca_file, ..configured(&url) }).map_err(|error| error.to_string())?;
        fetcher.get(&url, 1_000).await
    };
    assert_eq!(fetch(authority.write(folder.path(), "ca.pem")).await, Ok(b"{}".to_vec()));
    fetch(Authority::new().write(folder.path(), "other.pem")).await.expect_err("another authority");
    fetch("".into()).await.expect_err("those of the system know nothing of it");
    let missing = fetch(folder.path().join("nothing.pem")).await.expect_err("there is no such file");
    assert!(missing.contains("nothing.pem"), "{missing}");
}
