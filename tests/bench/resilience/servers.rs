//! Servers that fail: beside one that is well, as one of two replicas, now and then, and for good.

use std::time::Duration;

use holdfast_drill::bench::{Dialect, Manner, load};

use super::{Failing, Table, all, paced};
use crate::Error;
use crate::measure::median;
use crate::options::Options;
use crate::targets::Gateway;

/// The manners in which a server fails here, and whether the port answers at all.
fn manners() -> [(&'static str, Option<Manner>); 12] {
    [
        ("500", Some(Manner::Status(500))),
        ("429", Some(Manner::Status(429))),
        ("hang", Some(Manner::Freeze)),
        ("answers checks and no calls", Some(Manner::Hang)),
        ("garbage", Some(Manner::Garbage)),
        ("half a body", Some(Manner::Half)),
        ("half a stream", Some(Manner::HalfStream)),
        ("connection closed", Some(Manner::Close)),
        ("reset", Some(Manner::Reset)),
        ("forgets sessions", Some(Manner::Forget)),
        ("slow drip", Some(Manner::Drip(Duration::from_millis(500)))),
        ("refused", None),
    ]
}

fn server(name: &str, settings: &str) -> String {
    format!("  {name}: {{ tools: {{ echo: read }}, {settings} }}\n")
}

/// The 99th percentile of a server that is well, beside one that is not.
pub(super) fn beside(table: &mut Table, options: &Options) -> Result<(), Error> {
    const RATE: f64 = 300.0;
    for (name, manner) in manners() {
        let (well, other) = (Failing::start(Manner::Well)?, Failing::start(Manner::Well)?);
        // Nobody listens at a port that was just given back.
        let gone = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let (mut quiet, mut beside, mut errors) = (Vec::new(), Vec::new(), 0);
        for _ in 0..options.rounds {
            for fails in [false, true] {
                let bad = if fails { manner.clone() } else { Some(Manner::Well) };
                let url = match bad {
                    Some(manner) => {
                        other.manners.set(manner);
                        other.url()
                    }
                    None => format!("http://{gone}/mcp"),
                };
                // Each time a gateway that knows nothing of the server yet.
                let gateway = Gateway::alone(&format!(
                    "servers:\n{}{}",
                    server("well", &format!("url: \"{}\"", well.url())),
                    server("other", &format!("url: \"{url}\""))
                ))?;
                let seconds = options.duration.as_secs();
                let mine = paced(gateway.address(0), "well", RATE, seconds);
                let mut theirs = paced(gateway.address(0), "other", RATE, seconds);
                if let Some(Manner::Forget) = manner {
                    // Modern calls have no session that could be forgotten.
                    theirs.dialect = Dialect::Legacy;
                }
                // Those that hang hold on to their connections.
                (theirs.connections, theirs.grace) = (256, Duration::from_millis(200));
                let beside_it = std::thread::spawn(move || drop(load(&theirs)));
                let report = load(&mine)?;
                let _ = beside_it.join();
                errors += report.errors;
                if fails { &mut beside } else { &mut quiet }.push(report.p99_us);
            }
        }
        let (quiet, beside) = (median(quiet), median(beside));
        let ratio = beside / quiet;
        let figure = format!("{ratio:.2} ({beside:.0} µs, quiet {quiet:.0} µs), {errors} errors");
        let what = format!("p99 of another server beside one with: {name}");
        table.put("beside", &what, &figure, "≤ 1.5, no error", ratio <= 1.5 && errors == 0);
    }
    Ok(())
}

/// How long clients wait that say nothing else: those of the TypeScript SDK.
const PATIENCE: Duration = Duration::from_secs(60);

/// Reads of a server of two replicas, one of which is of no use. A result for which a real client would not
/// have waited is none.
pub(super) fn replica(table: &mut Table, _options: &Options) -> Result<(), Error> {
    // A hang is noticed after 45 s, and what hung then is repeated beside the calls of that time.
    for (name, manner, seconds) in [("500", Manner::Status(500), 50), ("hang", Manner::Hang, 80)] {
        let (well, bad) = (Failing::start(Manner::Well)?, Failing::start(manner)?);
        let instances = format!(
            "instances: [ {{ id: a, url: \"{}\" }}, {{ id: b, url: \"{}\" }} ]",
            well.url(),
            bad.url()
        );
        let gateway = Gateway::alone(&format!("servers:\n{}", server("main", &instances)))?;
        let mut plan = paced(gateway.address(0), "main", 1_000.0, seconds);
        (plan.warm_up, plan.connections) = (Duration::ZERO, 512);
        (plan.grace, plan.patience) = (PATIENCE, Some(PATIENCE));
        let report = load(&plan)?;
        let share = report.calls as f64 / all(&report) as f64;
        let figure = format!(
            "{:.4} % of {}; p99 {:.1} ms, slowest {:.1} s; {} calls reached it{}",
            (share * 1e6).floor() / 1e4,
            all(&report),
            report.p99_us / 1e3,
            report.max_us / 1e6,
            bad.manners.calls(),
            report.first_error.as_ref().map(|it| format!("; first: {it}")).unwrap_or_default()
        );
        let what = format!("Reads that succeed while one of two replicas answers with: {name}");
        table.put("replica", &what, &figure, "≥ 99.98 % of 50,000 or more", share >= 0.9998);
    }
    Ok(())
}

/// One call in a hundred fails: that is no reason to refuse any.
pub(super) fn noise(table: &mut Table, _options: &Options) -> Result<(), Error> {
    let noisy = Failing::start(Manner::Errors { one_in: 100 })?;
    let settings = format!("url: \"{}\"", noisy.url());
    let gateway = Gateway::alone(&format!("servers:\n{}", server("main", &settings)))?;
    let mut plan = paced(gateway.address(0), "main", 2_000.0, 50);
    plan.warm_up = Duration::ZERO;
    let report = load(&plan)?;
    let opened = gateway.metric(0, "holdfast_breaker_transitions_total")?;
    let refused = gateway.metric(0, "holdfast_refused_total")?;
    let figure = format!(
        "{opened:.0} changes of the breaker, {refused:.0} calls refused, of {} with {} failures at \
         the server",
        all(&report),
        noisy.manners.failed()
    );
    let reached = opened == 0.0 && refused == 0.0 && all(&report) >= 100_000;
    table.put("noise", "1 % of errors over 100,000 calls", &figure, "no false opening", reached);
    Ok(())
}

/// What still reaches a server that is of no use, of what is offered to it.
pub(super) fn dead(table: &mut Table, options: &Options) -> Result<(), Error> {
    const RATE: f64 = 200.0;
    for (name, manner) in
        [("500", Manner::Status(500)), ("closed", Manner::Close), ("hang", Manner::Hang)]
    {
        let bad = Failing::start(manner)?;
        let settings = format!("url: \"{}\"", bad.url());
        let gateway = Gateway::alone(&format!("servers:\n{}", server("main", &settings)))?;
        let seconds = options.duration.as_secs().max(5);
        let mut plan = paced(gateway.address(0), "main", RATE, seconds);
        (plan.warm_up, plan.connections) = (Duration::ZERO, 1_024);
        plan.grace = Duration::from_secs(1);
        let report = load(&plan)?;
        let (offered, came) = (all(&report).max(1), bad.manners.calls());
        let share = came as f64 / offered as f64;
        let figure = format!("{share:.3} ({came} of {offered})");
        let what = format!("Reads that reach a lone server with: {name}, to those offered");
        table.put("dead", &what, &figure, "≤ 1.1", share <= 1.1);
    }
    half_dead(table, options, RATE)
}

/// The same of two replicas that answer every other call, so that no breaker opens: each Read would be sent 1.75
/// times, and all that keeps them from it is the budget of repeats.
fn half_dead(table: &mut Table, options: &Options, rate: f64) -> Result<(), Error> {
    let errors = || Failing::start(Manner::Errors { one_in: 2 });
    let (one, other) = (errors()?, errors()?);
    let settings = format!(
        "breaker: {{ failure_rate: 1, consecutive_failures: 15 }}, instances: [ {{ id: a, url: \"{}\" }}, \
         {{ id: b, url: \"{}\" }} ]",
        one.url(),
        other.url()
    );
    let gateway = Gateway::alone(&format!("servers:\n{}", server("main", &settings)))?;
    let seconds = options.duration.as_secs().max(5);
    let mut plan = paced(gateway.address(0), "main", rate, seconds);
    // A Read whose repeat has to wait for its turn holds on to its connection meanwhile.
    (plan.warm_up, plan.connections) = (Duration::ZERO, 4_096);
    plan.grace = Duration::from_secs(10);
    let report = load(&plan)?;
    let (offered, came) = (all(&report).max(1), one.manners.calls() + other.manners.calls());
    let share = came as f64 / offered as f64;
    let denied = gateway.metric(0, "holdfast_repeats_denied_total")?;
    let figure = format!("{share:.3} ({came} of {offered}; {denied:.0} repeats denied)");
    let what = "Reads that reach two replicas that fail every other call, to those offered";
    let aim = "1.1 to 1.4, and repeats are denied";
    table.put("dead", what, &figure, aim, (1.1..=1.4).contains(&share) && denied > 0.0);
    Ok(())
}
