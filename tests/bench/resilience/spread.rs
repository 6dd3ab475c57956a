//! How quickly the other nodes refuse what two have found out.

use std::thread::sleep;
use std::time::{Duration, Instant};

use holdfast_drill::bench::{Manner, load};

use super::{Failing, Table, paced};
use crate::Error;
use crate::options::Options;
use crate::targets::Gateway;

/// How often it is measured.
const TIMES: usize = 100;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Two of three nodes meet failures; the third, which is not called, refuses by the cluster's word. Every
/// node is looked at again and again, so a figure is as exact as a look takes.
pub(super) fn run(table: &mut Table, _options: &Options) -> Result<(), Error> {
    let bad = Failing::start(Manner::Status(500))?;
    let gateway = Gateway::cluster(
        3,
        &format!(
            "servers:\n  main: {{ url: \"{}\", tools: {{ echo: read }}, health: {{ enabled: false }} }}\n",
            bad.url()
        ),
    )?;
    let mut taken = Vec::new();
    for _ in 0..TIMES {
        // An operator's word takes back what is open, and lets them decide anew. Each node has to have heard the
        // first before the second: of two words at once it hears the last, and tries what was open half-open.
        for (action, state) in [("close", "forced_closed"), ("clear", "closed")] {
            gateway.order(
                0,
                "/api/breaker",
                &format!(r#"{{"server":"main","action":"{action}"}}"#),
            )?;
            for node in 0..3 {
                shows(&gateway, node, state)?;
            }
        }
        let opened = std::thread::scope(|scope| -> Result<Vec<Instant>, String> {
            for node in 0..2 {
                scope.spawn({
                    let mut plan = paced(gateway.address(node), "main", 200.0, 1);
                    (plan.warm_up, plan.connections) = (Duration::ZERO, 1);
                    plan.duration = Duration::from_millis(200);
                    move || drop(load(&plan))
                });
            }
            let looks: Vec<_> = (0..3)
                .map(|node| {
                    let gateway = &gateway;
                    scope.spawn(move || {
                        shows(gateway, node, "open").map_err(|error| error.to_string())
                    })
                })
                .collect();
            looks.into_iter().map(|it| it.join().map_err(|_| "a look failed".to_owned())?).collect()
        })?;
        let second = opened[0].max(opened[1]);
        taken.push(opened[2].saturating_duration_since(second));
    }
    taken.sort_unstable();
    let ms = |time: &Duration| time.as_secs_f64() * 1e3;
    let (median, slowest) = (&taken[TIMES / 2], &taken[TIMES - 1]);
    let p99 = &taken[TIMES * 99 / 100 - 1];
    let figure = format!(
        "median {:.0} ms, p99 of {TIMES} {:.0} ms, slowest {:.0} ms",
        ms(median),
        ms(p99),
        ms(slowest)
    );
    let what = "from the second node's opening until the third node refuses";
    table.put("spread", what, &figure, "p99 of 250 ms", ms(p99) <= 250.0);
    Ok(())
}

/// When the node's breaker is seen in this state.
fn shows(gateway: &Gateway, node: usize, state: &str) -> Result<Instant, Error> {
    let metric =
        format!("holdfast_breaker_state{{server_id=\"main\",instance=\"1\",state=\"{state}\"}}");
    let deadline = Instant::now() + PATIENCE;
    while gateway.metric(node, &metric)? != 1.0 {
        if Instant::now() > deadline {
            return Err(format!("node {node} never shows {metric}").into());
        }
        sleep(Duration::from_millis(1));
    }
    Ok(Instant::now())
}
