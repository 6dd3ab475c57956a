//! Instructions per call: the figure that does not depend on what else the machine does.
//!
//! One client, one connection, one worker: the fixed script of `docs/performance.md`. Each form is run
//! twice under callgrind, with many calls and with few, and the difference is what a call costs in user
//! space. Both runs last equally long, so that what a node does by time falls out of the difference; where that
//! is much, only what serves the client's connection is counted. The fast server runs in this process and does
//! not count.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use holdfast_drill::bench::{self, Dialect, LoadPlan};
use holdfast_tests::ports::free_address;
use serde_json::json;

use crate::callgrind::{self, Profile, Share};
use crate::targets::{self, Process};
use crate::{Error, Options};

/// Few calls, after which caches, pools and timers are warm, and many.
const CALLS: [usize; 2] = [500, 1500];

/// The same of streams, whose events take their time.
const STREAMS: [usize; 2] = [40, 120];

/// Time between two events, in milliseconds: under callgrind the gateway needs a tenth of it.
const PAUSE: u64 = 4;

/// Callgrind is some fifty times as slow as the processor.
const PATIENCE: Duration = Duration::from_secs(120);

/// The longest that a cluster takes its node's silence for a pause.
const PATIENCE_OF_GROUP: &str = "60000";

/// What is measured.
struct Form {
    name: &'static str,
    /// What a call may cost in CI: what it cost when this was last written, and 5 % for what builds differ by.
    most: usize,
    dialect: Dialect,
    /// A header whose value is another in each call.
    counts: Option<&'static str>,
    /// Instances of the server.
    instances: usize,
    /// Servers in the configuration.
    servers: usize,
    /// What is called.
    tool: Tool,
    /// The function that is counted, with all that it calls: everything, if there is none.
    within: Option<&'static str>,
}

/// What is called, and where its call is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tool {
    /// A Read, of a node that stands alone.
    Echo,
    /// A Read whose answer is a stream of 20 events, each with a read, a wake and a write of its own.
    Events,
    /// A Write, in the journal of a cluster of one node with its store in Redis. What is written of it, before it
    /// is sent and when it is answered, goes there by itself: calls that come together share such groups, so this
    /// is the dearest that a Write can be.
    Write,
}

/// Serves a client's connection, and drives those to servers meanwhile: the whole of a call but for the runtime's
/// waits.
const CONNECTION: &str = "holdfast_proxy::listener::http1_connection::{{closure}}";

/// The fixed script of `docs/performance.md`: one server with one instance, called by a client of the era without
/// sessions.
const PLAIN: Form = Form {
    name: "one instance",
    most: 27_600,
    dialect: Dialect::Modern,
    counts: None,
    instances: 1,
    servers: 1,
    tool: Tool::Echo,
    within: None,
};

const FORMS: [Form; 8] = [
    PLAIN,
    Form { name: "two instances", most: 33_100, instances: 2, ..PLAIN },
    Form { name: "with a session", most: 27_500, dialect: Dialect::Legacy, ..PLAIN },
    // As every balancer gives calls one, the shipped ones too.
    Form { name: "each with a request id", most: 36_200, counts: Some("X-Request-ID"), ..PLAIN },
    Form { name: "each with another head", most: 44_700, counts: Some("X-Number"), ..PLAIN },
    // What the node does each second for a hundred servers is a tenth of a call when the machine is slow.
    Form {
        name: "one of 100 servers",
        most: 24_200,
        servers: 100,
        within: Some(CONNECTION),
        ..PLAIN
    },
    Form {
        name: "20 events, one by one",
        most: 477_000,
        dialect: Dialect::Legacy,
        tool: Tool::Events,
        ..PLAIN
    },
    Form {
        name: "a Write with Redis",
        // 84,500, and more slack than the others: such a node does more by time.
        most: 92_000,
        dialect: Dialect::Legacy,
        tool: Tool::Write,
        ..PLAIN
    },
];

/// Measures every form and says what it found.
///
/// # Errors
/// With `options.hold` when a form costs more than it may, beside what can go wrong.
pub(crate) fn run(options: &Options) -> Result<String, Error> {
    let servers = [
        bench::serve(TcpListener::bind("127.0.0.1:0")?, 1)?,
        bench::serve(TcpListener::bind("127.0.0.1:0")?, 1)?,
    ];
    let addresses = servers.each_ref().map(bench::Serving::address);
    let mut text = String::new();
    let mut over = Vec::new();
    let wanted = |form: &&Form| {
        options.cases.is_empty() || options.cases.iter().any(|part| form.name.contains(part))
    };
    for form in FORMS.iter().filter(wanted) {
        let [few, many] = if form.tool == Tool::Events { STREAMS } else { CALLS };
        let calls = many - few;
        let (many, lasted) = measure(form, &addresses, many, Duration::ZERO)?;
        let (few, _) = measure(form, &addresses, few, lasted)?;
        let shares = many.beyond(&few, calls);
        let each = match form.within {
            None => (many.total as f64 - few.total as f64) / calls as f64,
            Some(function) => whole(&shares, function)?,
        };
        writeln!(text, "{:<30} {each:>8.0} instructions per call", form.name)?;
        write_functions(&mut text, shares, options.functions)?;
        if options.hold && each > form.most as f64 {
            over.push(format!("{} ({} at most)", form.name, form.most));
        }
    }
    if over.is_empty() {
        return Ok(text);
    }
    Err(format!(
        "{text}\na call costs more instructions than it may (tests/bench/instructions.rs, docs/performance.md): {}; see where with `cargo xtask instructions --functions 40`",
        over.join(", ")
    )
    .into())
}

/// What a function costs with what it calls.
fn whole(shares: &[Share], function: &str) -> Result<f64, Error> {
    let share = shares.iter().find(|share| share.name == function);
    share.map(|share| share.whole).ok_or_else(|| format!("callgrind has seen no {function}").into())
}

fn write_functions(text: &mut String, mut shares: Vec<Share>, many: usize) -> Result<(), Error> {
    if many == 0 {
        return Ok(());
    }
    writeln!(text, "\n{:>8} {:>8}  dearest by themselves", "own", "whole")?;
    for Share { name, own, whole } in shares.iter().take(many) {
        writeln!(text, "{own:>8.0} {whole:>8.0}  {name}")?;
    }
    shares.sort_by(|a, b| b.whole.total_cmp(&a.whole));
    writeln!(text, "\n{:>8} {:>8}  dearest with what they call", "own", "whole")?;
    for Share { name, own, whole } in shares.iter().take(many) {
        writeln!(text, "{own:>8.0} {whole:>8.0}  {name}")?;
    }
    writeln!(text)?;
    Ok(())
}

/// One run of the script with so many calls, that serves for so long at least; and how long it served.
fn measure(
    form: &Form,
    servers: &[SocketAddr],
    calls: usize,
    at_least: Duration,
) -> Result<(Profile, Duration), Error> {
    let (folder, address, admin) =
        (targets::folder("instructions")?, free_address()?, free_address()?);
    let out = folder.join("callgrind.out");
    let config = folder.join("holdfast.yaml");
    let text = configuration(address, admin, &servers[..form.instances], form.servers);
    std::fs::write(&config, text)?;
    let mut command = callgrind::command(&PathBuf::from(targets::binary()?), &out);
    command.arg("serve").arg("--config").arg(&config);
    command.env("HOLDFAST_DATA_DIR", folder.join("data"));
    let redis = if form.tool == Tool::Write { Some(targets::redis()?) } else { None };
    if let Some((_, redis)) = redis {
        let (name, peer) = ("node-1", free_address()?);
        command.envs(targets::member(name, peer, &format!("{name}={peer}")));
        // In milliseconds; a node that callgrind slows down is to lose no lease.
        command.env("HA_FAILOVER_TIMEOUT", PATIENCE_OF_GROUP);
        command.envs(targets::stored_in(redis));
    }
    let gateway = Process::start("valgrind", command, address, folder, PATIENCE)?;
    gateway.wait_until_ready(address, PATIENCE)?;
    let began = Instant::now();
    let mut plan = LoadPlan::new(address);
    (plan.dialect, plan.counts) = (form.dialect, form.counts);
    if form.servers > 1 {
        plan.path = "/mcp/bench-1".to_owned();
    }
    plan.grace = PATIENCE;
    match form.tool {
        Tool::Echo => {}
        Tool::Events => {
            plan.tool = "events".to_owned();
            plan.arguments = json!({ "pause_ms": PAUSE });
        }
        Tool::Write => plan.tool = "write".to_owned(),
    }
    bench::call_in_turn(&plan, calls)?;
    std::thread::sleep(at_least.saturating_sub(began.elapsed()));
    let lasted = began.elapsed();
    Ok((gateway.ended(PATIENCE, || Profile::read(&out))?, lasted))
}

fn configuration(
    address: SocketAddr,
    admin: SocketAddr,
    instances: &[SocketAddr],
    servers: usize,
) -> String {
    let place = match instances {
        [only] => format!("url: \"http://{only}/mcp\""),
        many => {
            let listed: Vec<String> = many
                .iter()
                .enumerate()
                .map(|(at, server)| format!("{{ id: i{at}, url: \"http://{server}/mcp\" }}"))
                .collect();
            format!("instances: [{}]", listed.join(", "))
        }
    };
    let mut text = format!(
        "listen: {{ address: \"{address}\", workers: 1 }}
admin: {{ address: \"{admin}\" }}
servers:
"
    );
    for number in 1..=servers {
        text.push_str(&format!(
            "  bench-{number}:
    {place}
    tools: {{ echo: read, events: read, write: write }}
"
        ));
    }
    text
}
