//! Feast's feature server over Redis, as one would run it: `point` and `ads` by HTTP and JSON, decoded
//! into typed columns, in a closed loop. Every value must be PRESENT.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::rows::{self, both_cpu};
use crate::support::feast::FeastServer;
use crate::support::machine;
use crate::support::random::Choice;
use crate::support::redis_server::RedisServer;
use crate::support::report::{Report, figure};
use crate::support::views::{ADS, POINT};
use crate::systems::unpin;
use crate::{CLIENT_CORE, Options, SERVER_CORE, requests_of};

/// `cpu` is Hydrant's, of server and client, by workload; empty where it was not measured.
pub async fn measure(options: &Options, cpu: &HashMap<&'static str, f64>, report: &mut Report) -> Result<()> {
    let keys = options.feast_keys.min(options.keys);
    let duration = Duration::from_secs_f64(options.seconds);
    unpin(std::process::id())?;
    let redis = RedisServer::start(&["--appendonly", "no"]).await?;
    let feast = FeastServer::start(&[POINT, ADS], redis.port(), keys).await.context("Feast's feature server")?;
    for process in [redis.id(), feast.id()] {
        machine::pin(process, SERVER_CORE)?;
    }
    machine::pin(std::process::id(), CLIENT_CORE)?;
    for workload in [POINT, ADS] {
        let drawn = workload.draw(requests_of(&workload).min(5_000), Choice::Uniform, keys);
        feast.measure(&workload, &drawn, duration, redis.id())?;
        let lookups = redis.lookups()?;
        let outcome = feast.measure(&workload, &drawn, duration * 2, redis.id())?;
        // Feast reads one hash for each view and entity.
        redis.check_no_misses(lookups)?;
        let mut row = rows::closed("uniform", "Feast's feature server and Redis", &outcome);
        row.insert("keys of each view".to_owned(), json!(keys));
        row.insert("hydrant's both CPU / Feast's".to_owned(), json!(null));
        if let Some(of_hydrant) = cpu.get(workload.name) {
            row.insert("hydrant's both CPU / Feast's".to_owned(), figure(of_hydrant / both_cpu(&outcome)));
        }
        let title = format!("{}: Feast, closed loop, CPU a request (server: Feast and Redis)", workload.name);
        report.row(&title, Value::Object(row))?;
    }
    Ok(())
}
