//! The alert rules and the dashboard that are shipped: Prometheus' own tool reads and tries them, and every
//! metric and label that they name is one that a running server exports.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hydrant::config::Span;
use serde_json::Value as Json;

use crate::support::{TestServer, ingest_request, read_request, weather_batch};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/monitoring")
}

/// Debian has it in the package `prometheus`; scripts/setup.sh installs it.
fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool").args(arguments).current_dir(folder()).output();
    let output = output.expect("promtool is installed: run scripts/setup.sh");
    let told = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "promtool {arguments:?}:\n{told}");
}

#[test]
fn promtool_accepts_the_rules_and_their_tests_hold() {
    promtool(&["check", "rules", "alerts.yaml"]);
    promtool(&["test", "rules", "alerts_test.yaml"]);
}

#[test]
fn every_rule_is_tried_by_a_test() {
    let read = |name| std::fs::read_to_string(folder().join(name)).expect("it is shipped");
    let (rules, tests) = (read("alerts.yaml"), read("alerts_test.yaml"));
    let names: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() >= 8, "{names:?}");
    let untried: Vec<_> = names.iter().filter(|name| !tests.contains(&format!("alertname: {name}"))).collect();
    assert!(untried.is_empty(), "no test tries {untried:?}");
}

/// Words that begin as Hydrant's metrics do.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("hydrant_")).map(str::to_owned).collect()
}

/// The queries of a dashboard, and what its variables ask.
fn queries(json: &Json, into: &mut String) {
    match json {
        Json::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Json::String(text) if matches!(name.as_str(), "expr" | "query") => {
                        into.push_str(text);
                        into.push('\n');
                    }
                    value => queries(value, into),
                }
            }
        }
        Json::Array(values) => values.iter().for_each(|value| queries(value, into)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_of_the_rules_and_the_dashboard_is_exported() {
    let server = TestServer::start_with(|config| {
        config.freshness.interval = Span(Duration::from_millis(20));
    })
    .await;
    server.apply_promised_weather().await;
    let rows = weather_batch(&[Some("EWR")], &[crate::support::NOON], &[1.0]);
    server.client.ingest(ingest_request(&rows)).await.expect("good rows");
    // One read of 64 is looked at for its ages, and each line comes with the first that there is.
    let mut exported = String::new();
    for _ in 0..10_000 {
        server.client.get_online_features(read_request(&["EWR"])).await.expect("it is read");
        exported = server.http("/metrics").await.1;
        if exported.contains("hydrant_freshness_served_age_seconds_bucket")
            && exported.contains("hydrant_freshness_attained{")
        {
            break;
        }
    }
    let lines = exported.lines().filter(|line| !line.starts_with('#'));
    let mut labels: BTreeMap<&str, &str> = BTreeMap::new();
    for line in lines {
        let name = line.split(['{', ' ']).next().expect("a name");
        labels.entry(name).or_insert(line);
    }
    let rules = std::fs::read_to_string(folder().join("alerts.yaml")).expect("it is shipped");
    let dashboard = std::fs::read(folder().join("dashboard.json")).expect("it is shipped");
    let dashboard: Json = serde_json::from_slice(&dashboard).expect("JSON");
    let mut asked = rules;
    queries(&dashboard, &mut asked);
    let named = metrics_in(&asked);
    assert!(named.len() >= 12, "{named:?}");
    let missing: Vec<_> = named.iter().filter(|name| !labels.contains_key(name.as_str())).collect();
    assert!(missing.is_empty(), "a server does not export {missing:?}:\n{exported}");
    for (metric, wanted) in [
        ("hydrant_freshness_state", vec!["tenant=", "view=", "severity=", "state="]),
        ("hydrant_freshness_burn_rate", vec!["tenant=", "view=", "span="]),
        ("hydrant_freshness_age_seconds", vec!["tenant=", "view="]),
        ("hydrant_freshness_budget_left", vec!["tenant=", "view="]),
    ] {
        assert!(wanted.iter().all(|label| labels[metric].contains(label)), "{}", labels[metric]);
    }
    // What the rules compare with is what is exported.
    for value in
        ["state=\"BREACHED\"", "state=\"NO_DATA\"", "span=\"1h\"", "span=\"5m\"", "span=\"6h\"", "span=\"30m\""]
    {
        assert!(exported.contains(value), "{value}");
    }
    server.stop().await;
}
