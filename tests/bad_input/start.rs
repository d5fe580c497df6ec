//! A server that can't start says why, and touches nothing.

use crate::process::{Setup, hydrant};
use crate::scene::{Scene, text};

#[track_caller]
fn assert_told(shown: &str, told: &[&str]) {
    assert!(told.iter().all(|told| shown.contains(told)), "{told:?} are not all in: {shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_in_use_is_refused_and_its_server_serves_on() {
    let scene = Scene::with_definitions("").await;
    scene.ingest_airports(2);
    let data = scene.setup.data();
    let any = "127.0.0.1:0";
    let serve = ["serve", "--data-dir", data.to_str().expect("UTF-8"), "--grpc-addr", any, "--flight-addr", any];
    let output = hydrant("", &[&serve[..], &["--http-addr", any]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert_told(&text(&output.stderr), &["in use", data.to_str().expect("UTF-8"), "--data-dir"]);
    assert_eq!(scene.temperature("A001").0, "PRESENT");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_refused_naming_the_option() {
    let scene = Scene::empty("").await;
    let folder = tempfile::tempdir().expect("a folder");
    let (data, any) = (folder.path().join("data"), "127.0.0.1:0");
    let serve = ["serve", "--data-dir", data.to_str().expect("UTF-8"), "--grpc-addr", scene.server.grpc()];
    let output = hydrant("", &[&serve[..], &["--flight-addr", any, "--http-addr", any]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert_told(&text(&output.stderr), &["server.grpc_addr", scene.server.grpc()]);
}

#[test]
fn a_configuration_that_is_wrong_is_refused_naming_option_and_rule() {
    let folder = tempfile::tempdir().expect("a folder");
    let setup = Setup::new(folder.path());
    for (config, told) in [
        ("[storage]\npartition = 4", &["partition", "server.toml"][..]),
        ("[storage]\npartitions = 0", &["storage.partitions", "between"]),
        ("[log]\nsegment = \"large\"", &["segment", "large"]),
        ("[landing]\ninterval = \"0s\"", &["landing.interval"]),
        ("[storage", &["server.toml"]),
        ("[landing]\ntail = \"900GiB\"", &["partitions.max_tail", "landing.tail"]),
        ("[admission]\nmax_waiting_bytes = \"15MiB\"", &["admission.max_waiting_bytes", "server.grpc_max_message"]),
        ("[ingest]\nmax_request = \"65MiB\"", &["admission.max_waiting_bytes", "ingest.max_request"]),
    ] {
        assert_told(&setup.clone().config(config).refusal(), told);
        assert!(!setup.data().exists(), "{config}: it has begun to write");
    }
    let addresses = ["--flight-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"];
    let output = hydrant("", &[&["serve", "--grpc-addr", "0.0.0.0:0"][..], &addresses].concat());
    assert_eq!(output.status.code(), Some(1));
    assert_told(&text(&output.stderr), &["server.grpc_addr", "0.0.0.0", "loopback"]);
}

#[test]
fn a_data_directory_that_is_a_file_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let setup = Setup::new(folder.path());
    std::fs::write(setup.data(), "I am a file").expect("written");
    assert_told(&setup.refusal(), &[setup.data().to_str().expect("UTF-8")]);
    assert_eq!(std::fs::read(setup.data()).expect("readable"), b"I am a file");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_number_of_partitions_is_refused_and_the_old_one_serves_again() {
    let scene = Scene::with_definitions("[storage]\npartitions = 4").await;
    scene.ingest_airports(2);
    let stopped = scene.stop().await;
    let other = stopped.setup.clone().config("[storage]\npartitions = 2").refusal();
    assert_told(&other, &["4", "2", "partitions"]);
    assert_eq!(stopped.start().await.temperature("A001").0, "PRESENT");
}
