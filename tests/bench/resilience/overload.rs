//! Three times as many calls as can be served: what is served then, how the others are refused, and what
//! memory that takes.
//!
//! What is short is the server: it works on so many calls at once and takes so long for each, as servers
//! do that wait for something else. The gateway holds what its class has places for and refuses the rest.
//! (Generator, server and gateway share the machine's processors, so a gateway that is itself short of
//! them cannot be measured beside its generator.)

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use holdfast_drill::bench::{Busy, LoadReport, Manner, load};

use super::{Failing, Table, paced};
use crate::Error;
use crate::options::Options;
use crate::targets::Gateway;

/// A call's time at the server, and how many run there at once: 500 calls a second.
const TAKES: Duration = Duration::from_millis(20);
const AT_ONCE: usize = 10;
/// The rates of the ramp that finds the peak, in calls a second.
const RAMP: [f64; 8] = [200.0, 300.0, 400.0, 450.0, 500.0, 550.0, 600.0, 700.0];
/// More than all places and the queue of a class, so that the generator is never what is short.
const CONNECTIONS: usize = 4_000;

pub(super) fn run(table: &mut Table, options: &Options) -> Result<(), Error> {
    let server = Failing::start(Manner::Busy(Busy::new(TAKES, AT_ONCE)))?;
    let settings = format!("url: \"{}\", tools: {{ echo: read }}", server.url());
    let gateway = Gateway::alone(&format!("servers:\n  main: {{ {settings} }}\n"))?;
    let seconds = options.duration.as_secs().max(5);
    let offered = |rate: f64, seconds: u64| {
        let mut plan = paced(gateway.address(0), "main", rate, seconds);
        (plan.connections, plan.grace) = (CONNECTIONS, Duration::from_secs(30));
        // What waits in the queue when it begins is part of it.
        plan.warm_up = Duration::from_secs(3);
        load(&plan)
    };
    // What came while calls were due, not what was worked off afterwards.
    let goodput =
        |report: &LoadReport, seconds: u64| report.results_in_time as f64 / seconds as f64;
    // Before the ramp: its last steps fill queue and connections already.
    let before = gateway.rss(0);
    let mut peak: f64 = 0.0;
    for rate in RAMP {
        let report = offered(rate, seconds)?;
        let got = goodput(&report, seconds);
        println!("offered {rate:.0}/s: {got:.0}/s, {report}");
        peak = peak.max(got);
    }
    let (stop, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let report = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                most.fetch_max(gateway.rss(0), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let report = offered(peak * 3.0, seconds * 2);
        stop.store(true, Ordering::Relaxed);
        let _ = watch.join();
        report
    })?;
    let got = goodput(&report, seconds * 2);
    let share = got / peak;
    let what = "goodput at three times the peak";
    let figure = format!("{:.1} % ({got:.0}/s; peak {peak:.0}/s)", share * 100.0);
    table.put("overload", what, &figure, "≥ 90 %", share >= 0.9);
    let (refused, with_wait) = (report.errors_by_kind.no_result, report.refused_with_wait);
    let others = report.errors - refused;
    let figure = format!(
        "{refused}, of which {with_wait} say `retryAfterMs`; p99 {:.1} ms; {others} failed otherwise",
        report.refused_p99_us / 1e3,
    );
    let reached = refused > 0 && with_wait == refused && others == 0;
    let quick = report.refused_p99_us <= 10_000.0;
    let aim = "all say when to come back, within 10 ms";
    table.put("overload", "calls refused", &figure, aim, reached && quick);
    let grown = most.load(Ordering::Relaxed).saturating_sub(before) as f64 / f64::from(1 << 20);
    let figure =
        format!("{grown:.1} MiB more than before any load, {CONNECTIONS} connections included");
    table.put("overload", "memory", &figure, "bounded: ≤ 64 MiB more", grown <= 64.0);
    table.say(
        "overload",
        "latency of what was served",
        &format!("p50 {:.0} ms", report.p50_us / 1e3),
    );
    Ok(())
}
