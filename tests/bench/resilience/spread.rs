//! How quickly the other nodes refuse what two have found out.

use std::thread::sleep;
use std::time::{Duration, Instant};

use holdfast_drill::bench::{Manner, load};

use super::{Failing, Table, paced};
use crate::Error;
use crate::options::Options;
use crate::targets::Gateway;

/// How often it is measured.
const TIMES: usize = 20;
const STATE: &str = "holdfast_breaker_state{server_id=\"main\",instance=\"1\",state=\"open\"}";
const CLOSED: &str = "holdfast_breaker_state{server_id=\"main\",instance=\"1\",state=\"closed\"}";

/// Two of three nodes meet five failures; the third, which is not called, refuses by the cluster's word.
/// Both are looked at every few milliseconds, which is in the figure.
pub(super) fn run(table: &mut Table, _options: &Options) -> Result<(), Error> {
    let bad = Failing::start(Manner::Well)?;
    let gateway = Gateway::cluster(
        3,
        &format!(
            "servers:\n  main: {{ url: \"{}\", tools: {{ echo: read }}, breaker: {{ open_for: 1s, \
             max_open_for: 1s, probe_interval: 100ms, ramp_over: 0s }} }}\n",
            bad.url()
        ),
    )?;
    let mut taken = Vec::new();
    for _ in 0..TIMES {
        bad.manners.set(Manner::Well);
        until(&gateway, CLOSED, &[0, 1, 2], true)?;
        bad.manners.set(Manner::Status(500));
        calls(&gateway, &[0, 1])?;
        until(&gateway, STATE, &[0, 1], false)?;
        let known = Instant::now();
        until(&gateway, STATE, &[2], false)?;
        taken.push(known.elapsed());
    }
    taken.sort_unstable();
    let ms = |time: &Duration| time.as_secs_f64() * 1e3;
    let (median, slowest) = (&taken[TIMES / 2], &taken[TIMES - 1]);
    let figure = format!("median {:.0} ms, slowest of {TIMES} {:.0} ms", ms(median), ms(slowest));
    let what = "from the second node's opening until the third node refuses";
    table.put("spread", what, &figure, "250 ms", ms(slowest) <= 250.0);
    Ok(())
}

/// Some calls at each of these nodes.
fn calls(gateway: &Gateway, nodes: &[usize]) -> Result<(), Error> {
    for node in nodes {
        let mut plan = paced(gateway.address(*node), "main", 200.0, 1);
        plan.warm_up = Duration::ZERO;
        plan.duration = Duration::from_millis(100);
        plan.connections = 1;
        load(&plan)?;
    }
    Ok(())
}

/// Waits until all these nodes say so; calls help a breaker close.
fn until(gateway: &Gateway, metric: &str, nodes: &[usize], call: bool) -> Result<(), Error> {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut missing = nodes.to_vec();
    while let Some(node) = missing.last().copied() {
        if gateway.metric(node, metric)? == 1.0 {
            missing.pop();
            continue;
        }
        if Instant::now() > deadline {
            return Err(format!("node {node} never shows {metric}").into());
        }
        if call {
            calls(gateway, &[node])?;
        }
        sleep(Duration::from_millis(1));
    }
    Ok(())
}
