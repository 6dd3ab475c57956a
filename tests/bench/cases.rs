//! The cases, their rounds, and the table that comes of them.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use holdfast_drill::bench::{self, Dialect, LoadPlan, Pace};
use serde_json::json;

use crate::Error;
use crate::measure::{cpu_ns, median, rss};
use crate::options::Options;
use crate::targets::{self, Form, Target};

struct Case {
    name: &'static str,
    what: &'static str,
    form: Form,
    work: Work,
    plan: fn(&mut LoadPlan),
    /// Where nginx gets the calls, if not where the gateway does.
    nginx: Option<&'static str>,
}

/// What the load generator does.
#[derive(Clone, Copy)]
enum Work {
    /// Calls.
    Calls,
    /// Announcements to the GET streams of as many sessions as the plan has connections.
    FanOut,
}

const fn case(name: &'static str, what: &'static str, form: Form, plan: fn(&mut LoadPlan)) -> Case {
    Case { name, what, form, work: Work::Calls, plan, nginx: None }
}

const CASES: [Case; 25] = [
    case("read-64", "a Read with 64 B, JSON, 32 connections", Form::Alone, |_| {}),
    case("read-4k", "a Read with 4 KiB, JSON, 32 connections", Form::Alone, |plan| {
        bytes(plan, 4096);
    }),
    case("read-64k", "a Read with 64 KiB, JSON, 32 connections", Form::Alone, |plan| {
        bytes(plan, 65_536);
    }),
    case("read-1m", "a Read with 1 MiB, JSON, 32 connections", Form::Alone, |plan| {
        bytes(plan, 1 << 20);
    }),
    large("read-64k-room", "as `read-64k`, nginx with a buffer for the whole answer", |plan| {
        bytes(plan, 65_536);
    }),
    large("read-1m-room", "as `read-1m`, the same nginx", |plan| bytes(plan, 1 << 20)),
    case("sse-20", "an answer of 20 events, 32 connections", Form::Alone, |plan| {
        plan.tool = "events".into();
    }),
    Case {
        name: "fan-out",
        what: "an event to the GET streams of 100 sessions; a call is one event at one client",
        form: Form::Alone,
        work: Work::FanOut,
        plan: |plan| plan.connections = 100,
        nginx: None,
    },
    case("modern-64", "a Read with 64 B in the era without sessions", Form::Alone, |plan| {
        plan.dialect = Dialect::Modern;
    }),
    case(
        "traced",
        "a Read with 64 B, each call with an `X-Request-ID` of its own",
        Form::Alone,
        |plan| {
            plan.counts = Some("X-Request-ID");
        },
    ),
    case(
        "other-heads",
        "the same, each call with a head that differs elsewhere",
        Form::Alone,
        |plan| {
            plan.counts = Some("X-Number");
        },
    ),
    case("one", "a Read with 64 B, 1 connection", Form::Alone, |plan| plan.connections = 1),
    case("many", "a Read with 64 B, 256 connections", Form::Alone, |plan| plan.connections = 256),
    case("paced-800", "a Read with 64 B at 800 calls/s", Form::Alone, |plan| {
        plan.pace = Pace::Open { per_second: 800.0 };
    }),
    case("paced-64k", "a Read with 64 KiB at 800 calls/s", Form::Alone, |plan| {
        bytes(plan, 65_536);
        plan.pace = Pace::Open { per_second: 800.0 };
    }),
    case("paced-sse-20", "an answer of 20 events at 800 calls/s", Form::Alone, |plan| {
        plan.tool = "events".into();
        plan.pace = Pace::Open { per_second: 800.0 };
    }),
    case("sessions-10k", "a Read with 64 B beside 10,000 sessions", Form::ManySessions, |_| {}),
    case("servers-100", "a Read with 64 B, 100 servers configured", Form::ManyServers, |_| {}),
    case("read-redis", "a Read with 64 B, a node with Redis", Form::Redis, |_| {}),
    case("write-redis", "a tier-1 Write with 64 B, a node with Redis", Form::Redis, write),
    case("paced-write-redis", "the same at 800 calls/s", Form::Redis, |plan| {
        write(plan);
        plan.pace = Pace::Open { per_second: 800.0 };
    }),
    case("read-replicated", "a Read with 64 B, one of three nodes", Form::Replicated, |_| {}),
    case(
        "write-replicated",
        "a tier-1 Write with 64 B, one of three nodes with their own store",
        Form::Replicated,
        write,
    ),
    case("paced-write-replicated", "the same at 800 calls/s", Form::Replicated, |plan| {
        write(plan);
        plan.pace = Pace::Open { per_second: 800.0 };
    }),
    case(
        "read-three",
        "a Read with 64 B, three nodes behind the shipped nginx; all four count",
        Form::ThreeBehindNginx,
        |_| {},
    ),
];

/// A case of large answers against an nginx that has room for them: one with its own buffer of 4 KiB reads and
/// writes an answer of 64 KiB in 18 pieces.
const fn large(name: &'static str, what: &'static str, plan: fn(&mut LoadPlan)) -> Case {
    Case { nginx: Some(targets::ROOMY), ..case(name, what, Form::Alone, plan) }
}

fn bytes(plan: &mut LoadPlan, many: u64) {
    plan.arguments = json!({ "bytes": many });
}

fn write(plan: &mut LoadPlan) {
    plan.tool = "write".into();
}

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
    let mut samples: Vec<[Vec<Sample>; 3]> = cases.iter().map(|_| Default::default()).collect();
    // A form at a time: nodes that are not measured take the others' time.
    let mut forms: Vec<Form> = cases.iter().map(|case| case.form).collect();
    forms.dedup();
    for form in forms {
        let gateway = Target::form(form, server)?;
        let mut mine: Vec<_> =
            cases.iter().zip(&mut samples).filter(|(case, _)| case.form == form).collect();
        for (case, samples) in &mut mine {
            rounds(case, samples, server, &nginx, &gateway, options)?;
        }
    }
    Ok(table(&cases, &samples, options))
}

/// Has the gateway serve every case once, so that whatever a node does for its clients has been seen. What
/// nodes behind a balancer do is in it: heads that are never the same.
pub(crate) fn train(server: SocketAddr, options: &Options) -> Result<(), Error> {
    let mut forms: Vec<Form> = CASES.iter().map(|case| case.form).collect();
    forms.dedup();
    for form in forms.into_iter().filter(|form| *form != Form::ThreeBehindNginx) {
        let gateway = Target::form(form, server)?;
        for case in CASES.iter().filter(|case| case.form == form) {
            let sample = measure(case, server, Some(&gateway), options.duration)?;
            println!(
                "{:17} {:7.0} calls/s  {} errors",
                case.name, sample.throughput, sample.errors
            );
        }
    }
    Ok(())
}

/// All rounds of a case: the targets in turn, so that a machine whose speed drifts treats them alike.
fn rounds(
    case: &Case,
    samples: &mut [Vec<Sample>; 3],
    server: SocketAddr,
    nginx: &Target,
    gateway: &Target,
    options: &Options,
) -> Result<(), Error> {
    for round in 0..options.rounds {
        // Another one begins in every round, so that none always follows the same one.
        for turn in 0..NAMES.len() {
            let at = (round + turn) % NAMES.len();
            let target = [None, Some(nginx), Some(gateway)][at];
            let sample = measure(case, server, target, options.duration)?;
            println!(
                "round {} {:17} {:8} {:7.0} calls/s {:6.1} µs CPU  p50 {:6.0} µs  p99 {:6.0} µs  {} errors",
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
    Ok(())
}

/// Load before a measurement, on its own connections.
const WARM_UP: Duration = Duration::from_millis(200);

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
    plan.duration = WARM_UP;
    if let Some(target) = target {
        let path = case.nginx.filter(|_| target.name == "nginx").unwrap_or(target.path);
        path.clone_into(&mut plan.path);
    }
    (case.plan)(&mut plan);
    let load = match case.work {
        Work::Calls => bench::load,
        Work::FanOut => bench::fan_out,
    };
    load(&plan)?;
    plan.duration = duration;
    let pids = target.map(Target::pids).unwrap_or_default();
    let before = cpu_ns(&pids);
    let report = load(&plan)?;
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
        "Medians of {} rounds of {} s. *CPU*: µs per call of the target's own threads; *÷ nginx*: the same as a ratio; *added*: latency above the direct connection; *RSS*: after the case, the cases of a form running one after the other on the same processes.\n\n",
        options.rounds,
        options.duration.as_secs_f64()
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
    text.push_str(&flatness(cases, samples));
    text
}

/// What a call costs beside many sessions or servers, against the same call beside none. Each is
/// taken by its ratio to nginx, which was measured in the same minutes.
fn flatness(cases: &[&Case], samples: &[[Vec<Sample>; 3]]) -> String {
    let ratio = |name: &str| {
        let at = cases.iter().position(|case| case.name == name)?;
        let cpu = |of: usize| median(samples[at][of].iter().map(|it| it.cpu_us));
        Some(cpu(2) / cpu(1))
    };
    let mut text = String::new();
    for (name, what) in
        [("sessions-10k", "from 1 to 10,000 sessions"), ("servers-100", "from 1 to 100 servers")]
    {
        if let (Some(one), Some(many)) = (ratio("read-64"), ratio(name)) {
            let change = (many / one - 1.0) * 100.0;
            let _ = writeln!(text, "* CPU per call {what}: {change:+.0} % (÷ nginx)");
        }
    }
    text
}
