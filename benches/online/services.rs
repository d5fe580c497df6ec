//! Ten services in one `ads` request, which together cover the cells of the one service, against a
//! request for that one.

use anyhow::Result;
use serde_json::Value;

use crate::rows::{self, both_cpu};
use crate::support::load::Outcome;
use crate::support::process::definitions;
use crate::support::promise::Bound;
use crate::support::random::Choice;
use crate::support::transport::Calls;
use crate::support::views::ADS;
use crate::{CONNECTIONS, ROW_CACHE, Run};

const SERVICES: usize = 10;
/// Each is measured so often, in turn.
const ROUNDS: usize = 2;

pub async fn measure(run: &mut Run) -> Result<()> {
    run.for_closed_loops(ROW_CACHE).await?;
    let client = run.systems.hydrant.client().await?;
    client.apply(&definitions(&parts())?, None).await?;
    let names: Vec<String> = (0..SERVICES).map(name).collect();

    let drawn = run.draw(&ADS, Choice::Uniform);
    let one = run.warm(&ADS, &drawn).await?;
    let requests = drawn.iter().map(|keys| ADS.encode_for(&names, keys)).collect::<Result<Vec<_>>>()?;
    let ten = Calls::connect(run.systems.hydrant.address(), CONNECTIONS, requests.into()).await?;
    run.closed(&ten, run.duration()).await?;

    let (mut of_one, mut of_ten) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for (system, calls, outcomes) in
            [("1 service", &one, &mut of_one), ("10 services, the same cells", &ten, &mut of_ten)]
        {
            let outcome = run.closed(calls, run.duration()).await?;
            let title = "ads: one service against ten, closed loop, CPU a request";
            run.report.row(title, Value::Object(rows::closed("uniform", system, &outcome)))?;
            outcomes.push(outcome);
        }
    }
    let mean = |outcomes: &[Outcome], cost: fn(&Outcome) -> f64| {
        outcomes.iter().map(cost).sum::<f64>() / outcomes.len() as f64
    };
    let of = "ads, uniform, 10 services in one request";
    let server = mean(&of_ten, Outcome::server_cpu_per_request) / mean(&of_one, Outcome::server_cpu_per_request);
    run.promise(of, "server CPU / that of the one service", server, Bound::AtMost(2.0))?;
    let both = mean(&of_ten, both_cpu) / mean(&of_one, both_cpu);
    run.promise(of, "CPU of both / that of the one service", both, Bound::AtMost(2.0))
}

fn name(service: usize) -> String {
    format!("ads_part_{service}")
}

/// Services that deal the features of all views out among them.
fn parts() -> String {
    let document = |service: usize| {
        let of_view = ADS.views.iter().map(|view| {
            let names = view.feature_names();
            let dealt: Vec<String> = names.into_iter().skip(service).step_by(SERVICES).collect();
            format!("    - {{view: {}, features: [{}]}}\n", view.name, dealt.join(", "))
        });
        let features: String = of_view.collect();
        let name = name(service);
        format!(
            "---\napiVersion: hydrant/v1\nkind: FeatureService\nmetadata: {{name: {name}}}\nspec:\n  features:\n{features}"
        )
    };
    (0..SERVICES).map(document).collect()
}
