//! Feast's feature server over Redis, as one would run it: `point` and `ads` by HTTP and JSON, decoded
//! into typed columns, in a closed loop; and Hydrant on as many keys, out of its row cache. Every value
//! must be PRESENT.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::rows::{self, both_cpu};
use crate::support::feast::FeastServer;
use crate::support::load::{Outcome, closed_loop};
use crate::support::machine;
use crate::support::random::Choice;
use crate::support::redis_server::RedisServer;
use crate::support::report::{Report, figure};
use crate::support::transport::Calls;
use crate::support::views::{ADS, POINT, Workload};
use crate::systems::{Systems, unpin};
use crate::{
    CLIENT_CORE, CONNECTIONS, Options, PATIENT, ROW_CACHE, SERVER_CORE, UNDER_WAY, WARM_UP, encoded, requests_of,
};

const WORKLOADS: [Workload; 2] = [POINT, ADS];

pub async fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let keys = options.feast_keys.min(options.keys);
    let duration = Duration::from_secs_f64(options.seconds);
    let of_hydrant = hydrant(&Options { keys, ..options.clone() }, report).await.context("Hydrant beside Feast")?;
    unpin(std::process::id())?;
    let redis = RedisServer::start(&["--appendonly", "no"]).await?;
    let feast = FeastServer::start(&WORKLOADS, redis.port(), keys).await.context("Feast's feature server")?;
    for process in [redis.id(), feast.id()] {
        machine::pin(process, SERVER_CORE)?;
    }
    machine::pin(std::process::id(), CLIENT_CORE)?;
    for workload in WORKLOADS {
        let drawn = workload.draw(requests_of(&workload).min(5_000), Choice::Uniform, keys);
        feast.measure(&workload, &drawn, duration, redis.id())?;
        let lookups = redis.lookups()?;
        let of_feast = feast.measure(&workload, &drawn, duration * 2, redis.id())?;
        // Feast reads one hash for each view and entity.
        redis.check_no_misses(lookups)?;
        let of_hydrant = of_hydrant.get(workload.name).context("measured before")?;
        let title = format!("{}: Feast, closed loop, CPU a request (server: Feast and Redis)", workload.name);
        for (system, outcome) in [("Feast's feature server and Redis", &of_feast), ("hydrant", of_hydrant)] {
            let mut row = Value::Object(rows::closed("uniform", system, outcome));
            row["keys of each view"] = json!(keys);
            row["of Feast's both CPU"] = figure(both_cpu(outcome) / both_cpu(&of_feast));
            report.row(&title, row)?;
        }
    }
    Ok(())
}

/// By workload.
async fn hydrant(options: &Options, report: &mut Report) -> Result<HashMap<&'static str, Outcome>> {
    unpin(std::process::id())?;
    let mut systems = Systems::load(&WORKLOADS, options, false, report).await?;
    machine::pin(std::process::id(), CLIENT_CORE)?;
    systems.configure(&[ROW_CACHE, PATIENT], report).await?;
    let mut outcomes = HashMap::new();
    for workload in WORKLOADS {
        let drawn = workload.draw(requests_of(&workload), Choice::Uniform, options.keys);
        let calls = Calls::connect(systems.hydrant.address(), CONNECTIONS, encoded(&workload, &drawn)?).await?;
        systems.fill(&workload, options.keys).await?;
        closed_loop(&calls, UNDER_WAY, WARM_UP, systems.hydrant.id()).await?;
        let duration = Duration::from_secs_f64(options.seconds);
        let outcome = closed_loop(&calls, UNDER_WAY, duration, systems.hydrant.id()).await?;
        ensure!(outcome.errors == 0, "{} requests failed: {:?}", outcome.errors, outcome.first_error);
        outcomes.insert(workload.name, outcome);
    }
    Ok(outcomes)
}
