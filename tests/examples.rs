//! Runs the examples as a reader would: what the README shows has to work.

use std::path::Path;
use std::process::{Command, Output};

/// Runs an example from the top of the repository. `cargo test` builds all of them beside the
/// binary.
fn example(name: &str) -> Output {
    let binary = Path::new(env!("CARGO_BIN_EXE_hydrant")).with_file_name("examples").join(name);
    let ran = Command::new(&binary).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    ran.unwrap_or_else(|error| {
        panic!("can't run {} (`cargo build --release --examples` builds it): {error}", binary.display())
    })
}

#[test]
fn the_story_of_a_year_of_flights_is_told_to_its_end_and_leaves_nothing_behind() {
    let output = example("nycflights13");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}\n{stderr}");
    for told in [
        "16 created",
        "departures.parquet -> departures: 328,521 rows",
        "EXPIRED",
        "NOT_FOUND",
        "p99.9",
        "336,776 rows",
        "planes.parquet -> planes: ingested before, nothing changed (3,322 rows)",
        "the same read as before gives the same values",
    ] {
        assert!(stdout.contains(told), "'{told}' is missing:\n{stdout}\n{stderr}");
    }
    let data = stdout.split_whitespace().skip_while(|word| *word != "--data-dir").nth(1).expect("it shows its folder");
    assert!(!Path::new(data).exists(), "{data} is left behind");
}

#[test]
fn the_story_of_two_tenants_is_told_to_its_end_and_leaves_nothing_behind() {
    let output = example("two-tenants");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}\n{stderr}");
    for told in [
        "MASKED",
        "bank/model",
        "feature_views",
        "fraud_model",
        "risk@example.com",
        "firing: FreshnessBreached of bank/last_purchase",
        "resolved: FreshnessBreached of bank/last_purchase",
        "the audit log is whole",
    ] {
        assert!(stdout.contains(told), "'{told}' is missing:\n{stdout}\n{stderr}");
    }
    assert!(!stdout.contains("hyd_"), "a key was shown:\n{stdout}");
    let data = stdout.split_whitespace().skip_while(|word| *word != "--data-dir").nth(1).expect("it shows its folder");
    assert!(!Path::new(data).exists(), "{data} is left behind");
}
