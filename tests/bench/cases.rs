//! The cases, their rounds, and the table that comes of them.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use holdfast_drill::bench::{self, Dialect, LoadPlan, Pace};
use serde_json::json;

use crate::Error;
use crate::measure::{cpu_ns, median, rss};
use crate::options::Options;
use crate::targets::Target;

struct Case {
    name: &'static str,
    what: &'static str,
    plan: fn(&mut LoadPlan),
}

const CASES: [Case; 4] = [
    Case { name: "read-64", what: "a Read with 64 B, JSON, 32 connections", plan: |_| {} },
    Case {
        name: "read-64k",
        what: "a Read with 64 KiB, JSON, 32 connections",
        plan: |plan| plan.arguments = json!({ "bytes": 65_536 }),
    },
    Case {
        name: "sse-20",
        what: "an answer of 20 events, 32 connections",
        plan: |plan| plan.tool = "events".into(),
    },
    Case {
        name: "paced-800",
        what: "a Read with 64 B at 800 calls/s",
        plan: |plan| plan.pace = Pace::Open { per_second: 800.0 },
    },
];

/// One measurement of one target.
struct Sample {
    throughput: f64,
    cpu_us: f64,
    p50_us: f64,
    p99_us: f64,
    errors: u64,
    rss_mib: f64,
}

const NAMES: [&str; 3] = ["direct", "nginx", "holdfast"];

/// Measures every case in every round and gives back the table as Markdown.
pub(crate) fn run(server: SocketAddr, options: &Options) -> Result<String, Error> {
    let cases: Vec<&Case> = CASES
        .iter()
        .filter(|case| options.cases.is_empty() || options.cases.iter().any(|it| it == case.name))
        .collect();
    if cases.is_empty() {
        let names: Vec<&str> = CASES.iter().map(|case| case.name).collect();
        return Err(format!("no such case; there are {}", names.join(", ")).into());
    }
    let nginx = Target::nginx(server)?;
    let gateway = Target::gateway(server, "")?;
    let mut samples: Vec<[Vec<Sample>; 3]> = cases.iter().map(|_| Default::default()).collect();
    for round in 0..options.rounds {
        for (case, samples) in cases.iter().zip(&mut samples) {
            // Another one begins in every round, so that none always follows the same one.
            for turn in 0..NAMES.len() {
                let at = (round + turn) % NAMES.len();
                let target = [None, Some(&nginx), Some(&gateway)][at];
                let sample = measure(case, server, target, options.duration)?;
                println!(
                    "round {} {:9} {:8} {:7.0} calls/s {:6.1} µs CPU  p50 {:6.0} µs  p99 {:6.0} µs  {} errors",
                    round + 1,
                    case.name,
                    NAMES[at],
                    sample.throughput,
                    sample.cpu_us,
                    sample.p50_us,
                    sample.p99_us,
                    sample.errors,
                );
                samples[at].push(sample);
            }
        }
    }
    Ok(table(&cases, &samples, options))
}

fn measure(
    case: &Case,
    server: SocketAddr,
    target: Option<&Target>,
    duration: Duration,
) -> Result<Sample, Error> {
    let mut plan = LoadPlan::new(target.map_or(server, |target| target.address));
    plan.dialect = Dialect::Legacy;
    // A warm-up of its own: what is on the CPU's account below is the counted part and no other.
    plan.warm_up = Duration::ZERO;
    plan.duration = Duration::from_millis(300);
    (case.plan)(&mut plan);
    bench::load(&plan)?;
    plan.duration = duration;
    let pids = target.map(Target::pids).unwrap_or_default();
    let before = cpu_ns(&pids);
    let report = bench::load(&plan)?;
    let spent = cpu_ns(&pids) - before;
    if let Some(error) = report.first_error.as_ref().filter(|_| report.calls == 0) {
        let name = target.map_or("the server itself", |target| target.name);
        return Err(format!("{}: {name} answers nothing: {error}", case.name).into());
    }
    Ok(Sample {
        throughput: report.throughput,
        cpu_us: spent as f64 / 1000.0 / report.calls.max(1) as f64,
        p50_us: report.p50_us,
        p99_us: report.p99_us,
        errors: report.errors,
        rss_mib: rss(&pids) as f64 / 1024.0 / 1024.0,
    })
}

fn table(cases: &[&Case], samples: &[[Vec<Sample>; 3]], options: &Options) -> String {
    let mut text = format!(
        "Medians of {} rounds of {} s. *CPU*: µs per call of the target's own threads; *÷ nginx*: the same as a ratio; *added*: latency above the direct connection.\n\n",
        options.rounds,
        options.duration.as_secs()
    );
    text.push_str("| case | target | calls/s | CPU | ÷ nginx | p50 µs | p99 µs | added p50 | added p99 | RSS MiB | errors |\n|---|---|---|---|---|---|---|---|---|---|---|\n");
    for (case, samples) in cases.iter().zip(samples) {
        let middle = |of: usize, figure: fn(&Sample) -> f64| median(samples[of].iter().map(figure));
        for (at, name) in NAMES.iter().enumerate() {
            let errors: u64 = samples[at].iter().map(|sample| sample.errors).sum();
            let (p50, p99) = (middle(at, |it| it.p50_us), middle(at, |it| it.p99_us));
            let _ =
                write!(text, "| {} | {name} | {:.0} ", case.name, middle(at, |it| it.throughput));
            if at == 0 {
                let _ = writeln!(text, "| – | – | {p50:.0} | {p99:.0} | – | – | – | {errors} |");
                continue;
            }
            let (cpu, nginx) = (middle(at, |it| it.cpu_us), middle(1, |it| it.cpu_us));
            let _ = writeln!(
                text,
                "| {cpu:.1} | {:.2} | {p50:.0} | {p99:.0} | {:.0} | {:.0} | {:.1} | {errors} |",
                cpu / nginx,
                p50 - middle(0, |it| it.p50_us),
                p99 - middle(0, |it| it.p99_us),
                middle(at, |it| it.rss_mib),
            );
        }
    }
    text.push('\n');
    for case in cases {
        let _ = writeln!(text, "* `{}`: {}", case.name, case.what);
    }
    text
}
