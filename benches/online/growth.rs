//! How CPU a request grows with the keys that are stored, each time a server loaded anew, and what a
//! second core adds.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::rows;
use crate::support::load::{Outcome, closed_loop};
use crate::support::machine;
use crate::support::random::Choice;
use crate::support::report::{Report, figure};
use crate::support::transport::Calls;
use crate::support::views::{ADS, POINT};
use crate::systems::{Systems, unpin};
use crate::{CLIENT_CORE, CONNECTIONS, NO_ROW_CACHE, Options, PATIENT, UNDER_WAY, WARM_UP, encoded, requests_of};

const TIMES: [u64; 3] = [1, 4, 16];

pub async fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let own = std::process::id();
    let duration = Duration::from_secs_f64(options.seconds);
    let mut costs: Vec<(u64, &str, f64)> = Vec::new();
    for times in TIMES {
        let keys = options.grow_keys * times;
        unpin(own)?;
        let options = Options { keys, ..options.clone() };
        let mut systems = Systems::load(&[POINT, ADS], &options, false, report).await?;
        machine::pin(own, CLIENT_CORE)?;
        systems.configure(&[NO_ROW_CACHE, PATIENT], report).await?;
        for workload in [POINT, ADS] {
            let drawn = workload.draw(requests_of(&workload), Choice::Uniform, keys);
            let outcome = closed(&mut systems, &workload, &drawn, keys, duration).await?;
            costs.push((keys, workload.name, outcome.server_cpu_per_request()));
            let mut row = rows::closed("uniform", "hydrant, no row cache", &outcome);
            row.insert("workload".to_owned(), workload.name.into());
            row.insert("keys of each view".to_owned(), json!(keys));
            report.row("growth: CPU a request by keys stored", Value::Object(row))?;
        }
        if Some(&times) == TIMES.last() {
            second_core(&mut systems, keys, duration, report).await?;
        }
    }
    for workload in [POINT, ADS] {
        let of_workload: Vec<_> = costs.iter().filter(|(_, name, _)| *name == workload.name).collect();
        let [(least, _, at_least), .., (most, _, at_most)] = of_workload.as_slice() else { continue };
        let exponent = (at_most / at_least).ln() / (*most as f64 / *least as f64).ln();
        let row = json!({ "workload": workload.name, "from keys": least, "to keys": most,
            "exponent of server CPU": figure(exponent) });
        report.row("growth: exponent", row)?;
    }
    Ok(())
}

/// The server on one core and on both, one of which the load keeps for itself as far as it needs it.
async fn second_core(systems: &mut Systems, keys: u64, duration: Duration, report: &mut Report) -> Result<()> {
    for cores in [1, 2] {
        if cores == 2 {
            let own = std::process::id();
            unpin(own)?;
            systems
                .hydrant
                .restart(&[("STORAGE__BLOCK_CACHE", crate::systems::BLOCK_CACHE), NO_ROW_CACHE, PATIENT])
                .await?;
            systems.settle().await?;
            systems.forget_filled();
        }
        for workload in [POINT, ADS] {
            let drawn = workload.draw(requests_of(&workload), Choice::Uniform, keys);
            let outcome = closed(systems, &workload, &drawn, keys, duration).await?;
            let mut row = rows::closed("uniform", "hydrant, no row cache", &outcome);
            row.insert("workload".to_owned(), workload.name.into());
            row.insert("server's cores".to_owned(), json!(cores));
            report.row("growth: one core against two, the second shared with the load", Value::Object(row))?;
        }
    }
    Ok(())
}

async fn closed(
    systems: &mut Systems,
    workload: &crate::Workload,
    drawn: &[crate::RequestKeys],
    keys: u64,
    duration: Duration,
) -> Result<Outcome> {
    let requests: Arc<Vec<_>> = encoded(workload, drawn)?;
    let calls = Calls::connect(systems.hydrant.address(), CONNECTIONS, requests).await?;
    if systems.fill(workload, keys).await? {
        closed_loop(&calls, UNDER_WAY, WARM_UP, systems.hydrant.id()).await?;
    }
    let outcome = closed_loop(&calls, UNDER_WAY, duration, systems.hydrant.id()).await?;
    ensure!(outcome.errors == 0, "{} requests failed: {:?}", outcome.errors, outcome.first_error);
    Ok(outcome)
}
