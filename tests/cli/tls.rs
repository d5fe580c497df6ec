//! Commands against a server that speaks TLS, and what they say where something about it is wrong.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value as Json;

use crate::authority::Authority;
use crate::scene::text;

/// A serving process for `localhost`.
struct Server {
    process: Child,
    port: String,
}

impl Server {
    fn start(folder: &Path, variables: &[(&str, &Path)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hydrant"));
        command.arg("serve").arg("--data-dir").arg(folder.join("data"));
        for address in ["--grpc-addr", "--flight-addr", "--http-addr"] {
            command.args([address, "127.0.0.1:0"]);
        }
        let mut process = command
            .envs(variables.iter().copied())
            .env("HYDRANT_STORAGE__PARTITIONS", "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it runs");
        let mut told = String::new();
        let stdout = process.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut told).expect("it tells its addresses");
        let grpc = told.split_whitespace().find_map(|part| part.strip_prefix("grpc=127.0.0.1:"));
        let port = grpc.unwrap_or_else(|| panic!("'{told}'")).to_owned();
        Self { process, port }
    }

    fn address(&self, scheme: &str) -> String {
        format!("{scheme}localhost:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn hydrant(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hydrant")).args(arguments).output().expect("it runs")
}

fn refused(arguments: &[&str]) -> Json {
    let output = hydrant(&[arguments, &["-o", "json"]].concat());
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", text(&output.stderr));
    let told: Json = serde_json::from_slice(&output.stderr).expect("one JSON object on stderr");
    told["error"].clone()
}

#[test]
fn commands_speak_tls_where_the_address_says_so_and_tell_what_is_missing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (authority, clients) = (Authority::new(), Authority::new());
    let ca = authority.write(folder.path(), "ca.pem");
    let other_ca = clients.write(folder.path(), "clients.pem");
    let signed = authority.sign(folder.path(), "server");
    let (ca, other_ca) = (ca.to_str().expect("UTF-8"), other_ca.to_str().expect("UTF-8"));
    let variables: [(&str, &Path); 2] =
        [("HYDRANT_TLS__CERTIFICATE", &signed.certificate), ("HYDRANT_TLS__KEY", &signed.key)];
    let server = Server::start(folder.path(), &variables);
    let (secure, plain) = (server.address("https://"), server.address(""));

    let output = hydrant(&["get", "views", "--server", &secure, "--ca", ca, "-o", "json"]);
    assert_eq!(text(&output.stdout).trim(), "[]", "{}", text(&output.stderr));

    let told = refused(&["get", "views", "--server", &plain]);
    assert_eq!(told["reason"], "TLS_ONLY", "{told}");
    assert!(told["hint"].as_str().is_some_and(|hint| hint.contains(&secure)), "{told}");

    for options in [&[][..], &["--ca", other_ca]] {
        let told = refused(&[&["get", "views", "--server", &secure], options].concat());
        assert_eq!(told["reason"], "SERVER_UNREACHABLE", "{told}");
        assert!(told["hint"].as_str().is_some_and(|hint| hint.contains("--ca")), "{told}");
    }

    let key = signed.key.to_str().expect("UTF-8");
    let told = refused(&["get", "views", "--server", &secure, "--ca", key]);
    assert_eq!(told["reason"], "BAD_TLS_FILE", "{told}");
    let missing = folder.path().join("none.pem");
    let told = refused(&["get", "views", "--server", &secure, "--ca", missing.to_str().expect("UTF-8")]);
    assert_eq!(told["reason"], "FILE_FAILED", "{told}");

    let usage = hydrant(&["get", "views", "--server", &plain, "--ca", ca]);
    assert_eq!(usage.status.code(), Some(2), "{}", text(&usage.stderr));
    assert!(text(&usage.stderr).contains(&secure), "{}", text(&usage.stderr));
}

#[test]
fn commands_that_talk_to_no_server_run_where_the_environment_names_one() {
    let named = ["HYDRANT_CA", "HYDRANT_CLIENT_CERT", "HYDRANT_CLIENT_KEY", "HYDRANT_TOKEN_FILE"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_hydrant"));
    command.args(["completions", "bash"]).envs(named.map(|name| (name, "some.pem")));
    let output = command.env("HYDRANT_SERVER", "https://localhost:7600").output().expect("it runs");
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn a_client_shows_its_certificate_where_the_server_demands_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let (authority, clients) = (Authority::new(), Authority::new());
    let ca = authority.write(folder.path(), "ca.pem");
    let client_ca = clients.write(folder.path(), "clients.pem");
    let signed = authority.sign(folder.path(), "server");
    let own = clients.sign(folder.path(), "client");
    let server = Server::start(
        folder.path(),
        &[
            ("HYDRANT_TLS__CERTIFICATE", &signed.certificate),
            ("HYDRANT_TLS__KEY", &signed.key),
            ("HYDRANT_TLS__CLIENT_CA", &client_ca),
        ],
    );
    let secure = server.address("https://");
    let (ca, certificate, key) =
        (ca.to_str().expect("UTF-8"), own.certificate.to_str().expect("UTF-8"), own.key.to_str().expect("UTF-8"));
    let asked = ["get", "views", "--server", &secure, "--ca", ca];

    let shown = [&asked[..], &["--client-cert", certificate, "--client-key", key, "-o", "json"]].concat();
    let output = hydrant(&shown);
    assert_eq!(text(&output.stdout).trim(), "[]", "{}", text(&output.stderr));
    let told = refused(&asked);
    assert_eq!(told["reason"], "SERVER_UNREACHABLE", "{told}");
    assert!(told["hint"].as_str().is_some_and(|hint| hint.contains("--client-cert")), "{told}");

    let usage = hydrant(&[&asked[..], &["--client-cert", certificate]].concat());
    assert_eq!(usage.status.code(), Some(2), "{}", text(&usage.stderr));
}

#[test]
fn a_server_does_not_start_with_certificates_that_it_can_not_use() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new();
    let (one, other) = (authority.sign(folder.path(), "one"), authority.sign(folder.path(), "other"));
    let start = |certificate: &Path, key: Option<&Path>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hydrant"));
        command.args(["serve", "--grpc-addr", "127.0.0.1:0", "--flight-addr", "127.0.0.1:0"]);
        command.args(["--http-addr", "127.0.0.1:0"]).arg("--data-dir").arg(folder.path().join("data"));
        command.env("HYDRANT_TLS__CERTIFICATE", certificate).envs(key.map(|key| ("HYDRANT_TLS__KEY", key)));
        let output = command.output().expect("it runs");
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        text(&output.stderr)
    };
    let told = start(&one.certificate, Some(&other.key));
    assert!(told.contains("'tls.key'") && told.contains("other.key"), "{told}");
    let told = start(&folder.path().join("none.pem"), Some(&one.key));
    assert!(told.contains("'tls.certificate'") && told.contains("none.pem"), "{told}");
    let told = start(&one.certificate, None);
    assert!(told.contains("'tls.certificate'") && told.contains("tls.key"), "{told}");
    assert!(!folder.path().join("data").exists(), "nothing was made");
}
