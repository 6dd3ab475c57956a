//! Instructions per call: the figure that does not depend on what else the machine does.
//!
//! One client, one connection, one worker: the fixed script of `docs/performance.md`. Each form is run
//! twice under callgrind, with few calls and with many, and the difference is what a call costs in user
//! space. The fast server runs in this process and does not count.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use holdfast_drill::bench::{self, Dialect, LoadPlan};
use holdfast_tests::ports::free_address;
use serde_json::json;

use crate::callgrind::{self, Profile, Share};
use crate::targets::{self, Process};
use crate::{Error, Options};

/// Calls of the shorter run, after which caches, pools and timers are warm, and of the longer one.
const CALLS: [usize; 2] = [500, 1500];

/// The same of streams, whose events take their time.
const STREAMS: [usize; 2] = [40, 120];

/// Time between two events, in milliseconds: under callgrind the gateway needs a tenth of it.
const PAUSE: u64 = 4;

/// Callgrind is some fifty times as slow as the processor.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is measured: the dialect of the client and the number of the server's instances.
struct Form {
    name: &'static str,
    dialect: Dialect,
    instances: usize,
    /// Whether the answer is a stream of 20 events, each with a read, a wake and a write of its own.
    streams: bool,
}

const FORMS: [Form; 4] = [
    Form { name: "one instance", dialect: Dialect::Modern, instances: 1, streams: false },
    Form { name: "two instances", dialect: Dialect::Modern, instances: 2, streams: false },
    Form {
        name: "one instance, with a session",
        dialect: Dialect::Legacy,
        instances: 1,
        streams: false,
    },
    Form { name: "20 events, one by one", dialect: Dialect::Legacy, instances: 1, streams: true },
];

/// Measures every form and says what it found.
///
/// # Errors
/// When a form costs more than `options.at_most`, beside what can go wrong.
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
        let calls = if form.streams { STREAMS } else { CALLS };
        let [few, many] = calls.map(|calls| measure(form, &addresses, calls));
        let (few, many, calls) = (few?, many?, calls[1] - calls[0]);
        let shares = many.beyond(&few, calls);
        let each = (many.total as f64 - few.total as f64) / calls as f64;
        writeln!(text, "{:<30} {each:>8.0} instructions per call", form.name)?;
        write_functions(&mut text, shares, options.functions)?;
        if !form.streams && options.at_most.is_some_and(|most| each > most as f64) {
            over.push(format!("{}: {each:.0}", form.name));
        }
    }
    match options.at_most {
        Some(most) if !over.is_empty() => Err(format!(
            "{text}\na call may cost {most} instructions (docs/performance.md), and costs more with {}; see where with `cargo xtask instructions --functions 40`",
            over.join(", ")
        )
        .into()),
        _ => Ok(text),
    }
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

/// One run of the script with so many calls.
fn measure(form: &Form, servers: &[SocketAddr], calls: usize) -> Result<Profile, Error> {
    let (folder, address, admin) =
        (targets::folder("instructions")?, free_address()?, free_address()?);
    let out = folder.join("callgrind.out");
    let config = folder.join("holdfast.yaml");
    std::fs::write(&config, configuration(address, admin, &servers[..form.instances]))?;
    let mut command = callgrind::command(&PathBuf::from(targets::binary()?), &out);
    command.arg("serve").arg("--config").arg(&config);
    command.env("HOLDFAST_DATA_DIR", folder.join("data"));
    let gateway = Process::start("valgrind", command, address, folder, PATIENCE)?;
    let mut plan = LoadPlan::new(address);
    plan.dialect = form.dialect;
    plan.grace = PATIENCE;
    if form.streams {
        plan.tool = "events".to_owned();
        plan.arguments = json!({ "pause_ms": PAUSE });
    }
    bench::call_in_turn(&plan, calls)?;
    gateway.ended(PATIENCE, || Profile::read(&out))
}

fn configuration(address: SocketAddr, admin: SocketAddr, servers: &[SocketAddr]) -> String {
    let place = match servers {
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
    format!(
        "listen: {{ address: \"{address}\", workers: 1 }}
admin: {{ address: \"{admin}\" }}
servers:
  bench:
    {place}
    tools: {{ echo: read, events: read }}
"
    )
}
