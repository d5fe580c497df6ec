//! TLS on the three ports, as clients and strangers meet it.

#[path = "../support/authority.rs"]
pub mod authority;

use std::time::Duration;

use hydrant::config::TlsConfig;
use hydrant::rpc::client::{Client, Heard, Remote, TlsFiles};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::support::{PATIENCE, TestServer};
use authority::Authority;

/// A server for `localhost` whose certificate the authority signed, and the folder of its files.
async fn server(authority: &Authority, clients: Option<&Authority>) -> (TestServer, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let signed = authority.sign(folder.path(), "server");
    let client_ca = clients.map(|clients| clients.write(folder.path(), "clients.pem")).unwrap_or_default();
    let tls = TlsConfig { certificate: signed.certificate, key: signed.key, client_ca };
    let identity = clients.map(|clients| {
        let own = clients.sign(folder.path(), "client");
        (std::fs::read(own.certificate).expect("written"), std::fs::read(own.key).expect("written"))
    });
    let files = TlsFiles { ca: Some(authority.pem().into_bytes()), identity };
    let remote = |address: &str| Remote::secure(address, files).expect("they can be used");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let server = TestServer::start_at(directory, |config| config.tls = tls, remote).await;
    (server, folder)
}

/// What the HTTP port answers over TLS.
async fn https(server: &TestServer, authority: &Authority, path: &str) -> (u16, String) {
    let ca = reqwest::Certificate::from_pem(authority.pem().as_bytes()).expect("PEM");
    let client = reqwest::Client::builder().tls_certs_only([ca]).build().expect("a client");
    let answer = client.get(format!("https://localhost:{}{path}", server.addresses.http.port())).send();
    let answer = answer.await.expect("it answers");
    (answer.status().as_u16(), answer.text().await.expect("text"))
}

#[tokio::test(flavor = "multi_thread")]
async fn all_three_ports_speak_tls_and_nothing_else() {
    let authority = Authority::new();
    let (server, _files) = server(&authority, None).await;
    server.apply_weather().await;
    server.ingest_weather().await;
    server.client.flight().await.expect("Flight speaks it too");
    assert_eq!(https(&server, &authority, "/readyz").await.0, 200);

    for address in [server.addresses.grpc, server.addresses.flight, server.addresses.http] {
        let plain = Remote::plain(&format!("localhost:{}", address.port()));
        assert_eq!(plain.listen().await, Heard::Tls, "{address}");
        let answered = match Client::connect_to(plain).await {
            Ok(client) => client.server_info().await.is_ok(),
            Err(_) => false,
        };
        assert!(!answered, "{address}");
    }
    server.client.server_info().await.expect("it goes on");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_served_with_a_certificate_of_its_authority_only_where_one_is_demanded() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let (server, _files) = server(&authority, Some(&clients)).await;
    server.client.server_info().await.expect("it showed one");

    let address = format!("localhost:{}", server.addresses.grpc.port());
    let without = TlsFiles { ca: Some(authority.pem().into_bytes()), identity: None };
    let refused = match Client::connect_to(Remote::secure(&address, without).expect("good files")).await {
        Ok(client) => client.server_info().await.expect_err("it showed none"),
        Err(refusal) => refusal,
    };
    assert_eq!(refused.reason, "SERVER_UNREACHABLE", "{refused:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_never_agrees_on_tls_keeps_nobody_else_out_and_is_counted() {
    let authority = Authority::new();
    let (server, _files) = server(&authority, None).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(server.addresses.grpc).await.expect("it listens"));
    }
    for _ in 0..3 {
        let mut stranger = TcpStream::connect(server.addresses.grpc).await.expect("it listens");
        stranger.write_all(&[0x16, 0x03, 0x01, 0xff, 0xff, 0x00]).await.expect("sent");
        stranger.write_all(&[0xff; 4096]).await.ok();
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, stranger.read_to_end(&mut answer)).await.expect("it is closed").ok();
    }
    let remote = Remote::secure(
        &format!("localhost:{}", server.addresses.grpc.port()),
        TlsFiles { ca: Some(authority.pem().into_bytes()), identity: None },
    );
    let client = tokio::time::timeout(Duration::from_secs(5), Client::connect_to(remote.expect("good files")));
    client.await.expect("at once").expect("another one gets through").server_info().await.expect("it serves");

    let (_, metrics) = https(&server, &authority, "/metrics").await;
    let counted = metrics.lines().find_map(|line| line.strip_prefix("hydrant_tls_handshake_failures_total"));
    let counted = counted.and_then(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).expect("it is counted");
    assert!(counted >= 3.0, "{counted}");
    assert!(metrics.contains("hydrant_tls_certificate_left_seconds"), "{metrics}");
    drop(silent);
    server.stop().await;
}
