//! Two tenants of one server, each with its API key, its own rows and its weight: what a tenant within its
//! share feels of a neighbour that sends ten times its own. `ads` over the network, from one load that
//! sends for both; the queue by itself is measured by `benches/admission.rs`.

use std::time::Duration;

use anyhow::{Context as _, Result};
use hydrant::rpc::client::Client;
use hydrant_proto::v1;
use serde_json::json;

use crate::stalls::watched;
use crate::support::load::{Outcome, closed_loop, core_percent, open_loop, seek_highest_rate};
use crate::support::machine;
use crate::support::process::{Hydrant, definitions};
use crate::support::promise::{self, Bound};
use crate::support::random::Choice;
use crate::support::report::{Report, figure};
use crate::support::streams::Streams;
use crate::support::views::{ADS, Workload};
use crate::systems::{ROW_CACHE, SETTLE, sweep, unpin};
use crate::{CLIENT_CORE, CONNECTIONS, NOT_KEPT_UP, Options, SERVER_CORE, UNDER_WAY, WARM_UP, encoded, requests_of};

/// What is measured is fairness, not caches.
const KEYS: u64 = 50_000;
/// Of what the server can do, by their weights. Ten times the neighbour's is all of it: one core could
/// not send ten times a half.
const OBSERVED_WEIGHT: u32 = 9;
const NEIGHBOUR_WEIGHT: u32 = 1;
const OBSERVED_SHARE: f64 = 0.9;
const NEIGHBOUR_SHARE: f64 = 0.1;
/// What the observed tenant sends of its share, and its neighbour of its own where it keeps to it.
const WITHIN: f64 = 0.5;
const GREEDY: f64 = 10.0;
const NEIGHBOUR: &str = "neighbour";
/// Each is measured so often, in turn; the median is told.
pub const RUNS: usize = 5;

pub async fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let duration = Duration::from_secs_f64(options.seconds);
    unpin(std::process::id())?;
    let settings = [("AUTH__ENABLED", "true"), ROW_CACHE];
    let mut hydrant = Hydrant::start(&settings).await?;
    let keys = KEYS.min(options.keys);
    let [observed, neighbour] = tenants(&hydrant, keys).await?;
    hydrant.wait_until_quiet(SETTLE).await?;
    machine::pin(std::process::id(), CLIENT_CORE)?;
    // Started from one core, so that it is made for one.
    hydrant.restart(&settings).await?;
    machine::pin(hydrant.id(), SERVER_CORE)?;
    hydrant.wait_until_quiet(SETTLE).await?;

    let drawn = ADS.draw(requests_of(&ADS), Choice::Uniform, keys);
    let requests = encoded(&ADS, &drawn)?;
    for token in [&observed, &neighbour] {
        sweep(&ADS, hydrant.address(), keys, Some(token)).await?;
    }
    // Both loads are on one core: what it takes them to send and check would be in the observed tenant's latencies.
    let connect = |token| Streams::connect(hydrant.address(), CONNECTIONS, &requests, Some(token));
    let (observed, neighbour) = (connect(&observed).await?, connect(&neighbour).await?);
    // What it can do is sought by one tenant alone.
    let reached = closed_loop(&observed, UNDER_WAY, WARM_UP, hydrant.id()).await?;
    let sought = seek_highest_rate(&observed, reached.rate(), duration.div_f64(2.0), hydrant.id()).await?;

    let (of, bound) = ("ads, uniform, two tenants over the network", Bound::AtMost(1.5));
    let what = "p99 beside a neighbour at 10 times its share / beside one within it";
    if !sought.kept_up {
        return promise::tell_unmeasured(report, of, what, bound, NOT_KEPT_UP);
    }
    let mut p99s = [Vec::new(), Vec::new()];
    for _ in 0..RUNS {
        for (of_share, p99s) in [WITHIN, GREEDY].into_iter().zip(&mut p99s) {
            let rates = [WITHIN * OBSERVED_SHARE * sought.rate, of_share * NEIGHBOUR_SHARE * sought.rate];
            let load = async {
                futures::try_join!(
                    open_loop(&observed, rates[0], duration, hydrant.id()),
                    open_loop(&neighbour, rates[1], duration, hydrant.id()),
                )
            };
            let (outcomes, stalls) = watched(hydrant.id(), load).await?;
            let (observed, neighbour) = outcomes?;
            let refused = |of: &Outcome| figure(100.0 * of.errors as f64 / (of.answered() + of.errors) as f64);
            // Of their cores: both loads are one process, measured at once.
            let of_core = |micros| core_percent(micros, observed.seconds);
            let mut row = json!({
                "of its share, the neighbour sends": of_share,
                "tenant sent/s": rates[0].round(), "neighbour sent/s": rates[1].round(),
                "tenant p50 µs": figure(observed.percentile_micros(50.0)),
                "tenant p99 µs": figure(observed.percentile_micros(99.0)),
                "tenant p99.9 µs": figure(observed.percentile_micros(99.9)),
                "tenant refused %": refused(&observed),
                "neighbour p99 µs": figure(neighbour.percentile_micros(99.0)),
                "neighbour refused %": refused(&neighbour),
                "server's core %": of_core(observed.server_cpu_micros),
                "load's core %": of_core(observed.client_cpu_micros),
            });
            stalls.tell(&mut row);
            report.row("ads: a tenant at half of its share beside a neighbour, by API keys", row)?;
            p99s.push(observed.percentile_of_all_micros(99.0));
        }
    }
    let [within, greedy] = p99s.map(|mut of| {
        of.sort_by(f64::total_cmp);
        of[of.len() / 2]
    });
    promise::tell(report, of, what, greedy / within, bound)
}

/// Makes both tenants with their rows, and gives a key of each: of the observed one first.
async fn tenants(hydrant: &Hydrant, keys: u64) -> Result<[String; 2]> {
    let first = hydrant.token().context("a server with keys has a first one")?.to_owned();
    let platform = hydrant.client().await?;
    let tenant = format!("apiVersion: hydrant/v1\nkind: Tenant\nmetadata: {{name: {NEIGHBOUR}}}\nspec: {{}}\n");
    platform.apply(&definitions(&tenant)?, None).await?;
    let admin = v1::CreateKeyRequest {
        tenant: NEIGHBOUR.to_owned(),
        roles: vec![v1::Role::Admin.into()],
        ..Default::default()
    };
    let of_neighbour = platform.create_key(admin).await?.token;
    for (tenant, weight) in [("default", OBSERVED_WEIGHT), (NEIGHBOUR, NEIGHBOUR_WEIGHT)] {
        let name = format!("tenants/{tenant}/quotas");
        let request = v1::UpdateQuotasRequest { name, weight: Some(weight), ..Default::default() };
        platform.update_quotas(request).await?;
    }
    load(&ADS, &platform, keys).await?;
    load(&ADS, &hydrant.client_as(&of_neighbour).await?, keys).await?;
    Ok([first, of_neighbour])
}

async fn load(workload: &Workload, client: &Client, keys: u64) -> Result<()> {
    client.apply(&definitions(&workload.definitions())?, None).await?;
    futures::future::try_join_all(workload.views.iter().map(|view| view.load(client, keys))).await?;
    Ok(())
}
