//! `hydrant bench` against a real server, for a moment each: what it prints, what it writes, and that
//! every field that it prints is documented. How fast anything is is no test's affair.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use hydrant::bench::machine;
use hydrant::clock::{Clock as _, SystemClock};
use serde_json::Value as Json;

use super::{DEFINITIONS, Scene, text};

const MINUTE: i64 = 60_000_000;

impl Scene {
    /// With weather of this hour at EWR and JFK.
    async fn with_weather_of_today() -> (Self, String) {
        let scene = Self::with_definitions().await;
        let now = SystemClock.now();
        let weather = scene.weather(&[Some("EWR"), Some("JFK")], &[Some(now - MINUTE), Some(now - MINUTE)]);
        scene.succeed(&["ingest", "weather", &weather]);
        (scene, weather)
    }

    #[track_caller]
    fn bench(&self, arguments: &str) -> Json {
        let arguments: Vec<&str> = ["bench"].into_iter().chain(arguments.split(' ')).chain(["-o", "json"]).collect();
        let json = serde_json::from_str(&self.succeed(&arguments)).expect("one JSON object");
        assert_eq!(undocumented(&json), BTreeSet::new(), "docs/benchmark.md lacks fields");
        json
    }

    /// A page that the command wrote, checked to stand by itself.
    #[track_caller]
    fn page(&self, name: &str) -> String {
        let page = std::fs::read_to_string(self.folder.path().join(name)).expect("it was written");
        check_well_formed(&page);
        for outside in ["<script", "<link", "<img", "src=", "href=", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        page
    }
}

/// The process that listens on a port.
fn listener(port: u16) -> u32 {
    let processes =
        std::fs::read_dir("/proc").expect("readable").filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut processes = processes.filter_map(|name| name.parse::<u32>().ok());
    // Others' processes may end meanwhile, or not be looked at.
    processes
        .find(|process| machine::listening_ports(*process).is_ok_and(|ports| ports.contains(&port)))
        .expect("one listens")
}

/// Names of fields that the document doesn't have in backticks.
fn undocumented(json: &Json) -> BTreeSet<String> {
    let document =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/benchmark.md")).expect("readable");
    let mut missing = BTreeSet::new();
    let mut left = vec![json];
    while let Some(json) = left.pop() {
        match json {
            Json::Object(fields) => {
                missing.extend(fields.keys().filter(|name| !document.contains(&format!("`{name}`"))).cloned());
                left.extend(fields.values());
            }
            Json::Array(items) => left.extend(items),
            _ => {}
        }
    }
    missing
}

/// Every tag that is opened is closed, in order, and nothing but the document type lies outside.
#[track_caller]
fn check_well_formed(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = page.strip_prefix("<!DOCTYPE html>").expect("a document type");
    let mut elements = 0;
    while let Some(start) = rest.find('<') {
        let end = start + rest[start..].find('>').expect("a tag has an end");
        let tag = &rest[start + 1..end];
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        let name = tag.trim_start_matches('/').split([' ', '/']).next().expect("a name");
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "closed after {elements} elements");
        } else if !tag.ends_with('/') {
            open.push(name);
        }
        elements += 1;
        rest = &rest[end + 1..];
    }
    assert_eq!(open, [""; 0]);
    assert!(elements > 100, "{elements}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_benchmark_of_reads_tells_its_latencies_and_draws_them() {
    let (scene, _) = Scene::with_weather_of_today().await;
    let report = scene.folder.path().join("online.html");
    let arguments = format!(
        "online --service model --key origin=EWR,JFK --rates 40,80 --duration 500ms --warm-up 0s --deadline 30s \
         --decode values --report {}",
        report.display()
    );
    let told = scene.bench(&arguments.replace("  ", " "));
    assert_eq!((told["benchmark"].as_str(), told["interrupted"].as_bool()), (Some("online"), Some(false)));
    let steps = told["steps"].as_array().expect("steps");
    assert_eq!(steps.len(), 2);
    for (step, sent) in steps.iter().zip([20, 40]) {
        assert_eq!(
            (&step["sent"], &step["answered"], &step["failed"]),
            (&sent.into(), &sent.into(), &0.into()),
            "{step}"
        );
        assert_eq!((&step["cells"]["PRESENT"], &step["present_share"]), (&sent.into(), &1.0.into()), "{step}");
        let latency = |name: &str| step["latency_us"][name].as_f64().expect("a figure");
        assert!(latency("p50") > 0.0 && latency("p50") <= latency("p99_99") && latency("p99_99") <= latency("max"));
    }
    let sent_in_windows =
        |run: &Json| run.as_array().expect("windows").iter().map(|at| at["sent"].as_u64().expect("a count")).sum();
    let sent: Vec<u64> = told["windows"].as_array().expect("runs").iter().map(sent_in_windows).collect();
    assert_eq!(sent, [20, 40]);

    let page = scene.page("online.html");
    for plot in ["Latency by percentile", "Latency by rate", "Latency over time", "Requests a second"] {
        assert!(page.contains(plot), "{plot}");
    }
    assert_eq!(page.matches("<svg").count(), 6, "two, and two for each rate");
    assert!(page.contains("p99.9: ") && page.matches("<path d=\"M").count() >= 10, "lines with points");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_benchmark_of_misses_is_refused_or_says_what_it_is() {
    let (scene, _) = Scene::with_weather_of_today().await;
    let miss = ["bench", "online", "--service", "model", "--key", "origin=XX{0..9}", "--rate", "50", "--warm-up", "0s"];
    let refused = scene.refused(&miss);
    assert!(refused.contains("0 % are PRESENT") && refused.contains("--keys"), "{refused}");

    let keys = scene.parquet(
        "keys.parquet",
        vec![("origin", std::sync::Arc::new(arrow_array::StringArray::from(vec!["EWR", "XXX"])))],
    );
    let told = scene.bench(&format!(
        "online --service model --keys {keys} --candidates 20 --min-present 0 --rate 50 --duration 200ms --warm-up 0s"
    ));
    let step = &told["steps"][0];
    let cells = |status: &str| step["cells"][status].as_u64().expect("a count");
    assert!(cells("PRESENT") > 0 && cells("NOT_FOUND") > 0, "{step}");
    assert_eq!(cells("PRESENT") + cells("NOT_FOUND"), 10 * 20);
    assert!(told["warnings"][0].as_str().expect("a warning").contains("were PRESENT"), "{}", told["warnings"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_is_told_in_its_three_parts() {
    let (scene, _) = Scene::with_weather_of_today().await;
    let burst =
        "online --service model --key origin=EWR --rate 20 --burst 5x --duration 500ms --warm-up 100ms --threads 2";
    let told = scene.bench(burst);
    let steps = told["steps"].as_array().expect("steps");
    let shown = |step: &Json| (step["part"].as_str().map(str::to_owned), step["sent"].as_u64());
    let part = |name: &str, sent: u64| (Some(name.to_owned()), Some(sent));
    let expected = [part("before", 10), part("burst", 50), part("after", 10)];
    assert_eq!(steps.iter().map(shown).collect::<Vec<_>>(), expected);
    assert!(steps[0].get("settled_after_s").is_none() && steps[1].get("settled_after_s").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_benchmark_of_writes_asks_first_and_counts_rows() {
    let (scene, weather) = Scene::with_weather_of_today().await;
    let refused = scene.refused(&["bench", "ingest", "weather", &weather, "--rate", "10"]);
    assert!(refused.contains("source 'weather'") && refused.contains("--write"), "{refused}");

    let told = scene.bench(&format!(
        "ingest weather {weather} --batch 2 --rate 100 --duration 400ms --warm-up 0s --wait-visible --write --report {}",
        scene.folder.path().join("ingest.html").display()
    ));
    let step = &told["steps"][0];
    assert_eq!((&step["sent"], &step["answered"], &step["rows"]), (&20.into(), &20.into(), &40.into()), "{step}");
    assert_eq!(scene.page("ingest.html").matches("<svg").count(), 3);

    let too_large = scene.refused(&["bench", "ingest", "weather", &weather, "--batch", "3", "--rate", "10", "--write"]);
    assert!(too_large.contains("2 rows, fewer than one batch of 3"), "{too_large}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_benchmark_of_training_sets_tells_each_of_them() {
    let (scene, spine) = Scene::with_weather_of_today().await;
    let historical = "historical --service model --event-time event_timestamp --repeat 3 --parallel 2 --spine";
    let report = scene.folder.path().join("historical.html");
    let told = scene.bench(&format!("{historical} {spine} --report {}", report.display()));
    let sets = told["sets"].as_array().expect("sets");
    assert_eq!((sets.len(), &told["all"]["made"], &told["all"]["failed"]), (3, &3.into(), &0.into()));
    for set in sets {
        assert_eq!(set["rows"], 2);
        assert!(
            set["received_bytes"].as_u64() > Some(0) && set["first_batch_s"].as_f64() <= set["total_s"].as_f64(),
            "{set}"
        );
    }
    let page = scene.page("historical.html");
    assert!(page.contains("Rows received over time") && page.matches("<svg").count() == 1);

    let wrong =
        ["bench", "historical", "--service", "model", "--spine", &spine, "--event-time", "origin", "-o", "json"];
    assert!(scene.refused_json(&wrong)["message"].as_str().expect("text").contains("origin"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_benchmark_names_has_to_exist() {
    let (scene, _) = Scene::with_weather_of_today().await;
    let reason = |arguments: &str| {
        let arguments = format!("bench online --rate 10 -o json {arguments}");
        scene.refused_json(&arguments.split(' ').collect::<Vec<_>>())["reason"].as_str().expect("text").to_owned()
    };
    assert_eq!(reason("--service nobody --key origin=EWR"), "SERVICE_NOT_FOUND");
    assert_eq!(reason("--service model --key origin=EWR --key dest=JFK"), "UNKNOWN_KEY");
    assert_eq!(reason("--service model --key origin=EWR --shared dest"), "UNKNOWN_KEY");
    assert_eq!(reason("--service model --key dest=EWR"), "UNKNOWN_KEY");
    assert_eq!(reason("--service model --key origin=EWR --threads 9"), "BAD_LOAD");
    assert_eq!(reason("--service model --key origin=EWR --server-pid 4194305"), "CPU_UNKNOWN");
    assert_eq!(reason("--service model --key origin=EWR --report /nowhere/online.html"), "FILE_FAILED");
    assert!(DEFINITIONS.contains("name: model"), "the service that the others are about");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_process_that_listens_is_taken_for_the_server() {
    let (scene, spine) = Scene::with_weather_of_today().await;
    let port = scene.server.address().rsplit_once(':').expect("a port").1.to_owned();
    let server = listener(port.parse().expect("a number"));
    let mut stranger = Command::new("sleep").arg("600").spawn().expect("sleep runs");
    let historical = "historical --service model --event-time event_timestamp --repeat 1 --spine";
    for load in [
        "online --service model --key origin=EWR --rate 50 --duration 100ms --warm-up 0s",
        &format!("{historical} {spine}"),
    ] {
        let refused = format!("bench {load} --server-pid {} -o json", stranger.id());
        let error = scene.refused_json(&refused.split(' ').collect::<Vec<_>>());
        assert_eq!(error["reason"], "NOT_THE_SERVER", "{error}");
        let message = error["message"].as_str().expect("text");
        assert!(message.contains("('sleep')") && message.contains(&port) && message.contains("nowhere"), "{message}");
        scene.bench(&format!("{load} --server-pid {server}"));
    }
    stranger.kill().expect("it runs");
    stranger.wait().expect("it ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_cant_be_written_is_refused_before_anything_is_measured() {
    let (scene, spine) = Scene::with_weather_of_today().await;
    let online = "online --service model --key origin=EWR --rate 1 --duration 1h --report";
    let ingest = format!("ingest weather {spine} --batch 1 --rate 1 --duration 1h --write --report");
    let historical =
        format!("historical --service model --event-time event_timestamp --repeat 10000 --spine {spine} --report");
    for load in [online, &ingest, &historical] {
        // Would it measure first, this would take an hour.
        let refused = format!("bench {load} {}/missing/page.html -o json", scene.folder.path().display());
        let error = scene.refused_json(&refused.split(' ').collect::<Vec<_>>());
        assert_eq!(error["reason"], "FILE_FAILED", "{error}");
    }

    // What is refused for another reason leaves nothing behind, and an older page as it was.
    let (new, old) = (scene.path("new.html"), scene.path("old.html"));
    scene.file("old.html", "an older page");
    for page in [&new, &old] {
        scene.refused(&[
            "bench",
            "online",
            "--service",
            "nobody",
            "--key",
            "origin=EWR",
            "--rate",
            "1",
            "--report",
            page,
        ]);
    }
    assert!(!std::path::Path::new(&new).exists());
    assert_eq!(std::fs::read_to_string(&old).expect("it is there"), "an older page");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_have_expired_are_not_called_missing() {
    let scene = Scene::with_weather().await;
    let arguments = "online --service model --key origin=EWR --rate 50 --duration 200ms --warm-up 0s";
    let refused = format!("bench {arguments} -o json");
    let error = scene.refused_json(&refused.split(' ').collect::<Vec<_>>());
    assert_eq!(error["reason"], "FEW_PRESENT");
    assert!(error["message"].as_str().expect("text").contains("have expired"), "{error}");

    let told = scene.bench(&format!("{arguments} --min-present 0"));
    let warning = told["warnings"][0].as_str().expect("a warning");
    assert!(warning.contains("EXPIRED 100.0 %") && !warning.contains("aren't there"), "{warning}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_prints_what_was_measured_until_then() {
    let (scene, _) = Scene::with_weather_of_today().await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_hydrant"));
    command
        .args("bench online --service model --key origin=EWR --rate 100 --duration 1h --warm-up 0s -o json".split(' '));
    command.env("HYDRANT_SERVER", scene.server.address()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().expect("it runs");
    let mut told = BufReader::new(process.stderr.take().expect("it is piped")).lines();
    let begun = told.next().expect("a line").expect("text");
    assert!(begun.contains("100 a second"), "{begun}");
    let interrupted = Command::new("sh").arg("-c").arg(format!("kill -INT {}", process.id())).status();
    assert!(interrupted.expect("sh runs").success());
    let output = process.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    let shown: Json = serde_json::from_str(&text(&output.stdout)).expect("one JSON object");
    assert_eq!(shown["interrupted"], true);
    assert!(shown["steps"][0]["sent"].as_u64() > Some(0), "{shown}");
    assert!(shown["steps"][0]["seconds"].as_f64() < Some(600.0), "{shown}");
}
