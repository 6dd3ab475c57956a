//! What failing servers cost: the other servers' calls, replicas' Reads, false alarms, how quickly all
//! nodes know, overload, and the load on what is dead. With the defaults, unless a part says otherwise.
//!
//! Every figure comes with the aim that it is held against. The generator, the servers and the gateway
//! share the machine, so a quiet one is needed, and latencies are compared within a part only.

mod overload;
mod servers;
mod spread;

use std::fmt::Write as _;
use std::net::TcpListener;
use std::time::Duration;

use holdfast_drill::bench::{self, Dialect, LoadPlan, LoadReport, Manner, Manners, Pace, Serving};

use crate::Error;
use crate::options::Options;

/// What is measured; its name and how.
type Part = (&'static str, fn(&mut Table, &Options) -> Result<(), Error>);

const PARTS: [Part; 6] = [
    ("beside", servers::beside),
    ("replica", servers::replica),
    ("noise", servers::noise),
    ("dead", servers::dead),
    ("spread", spread::run),
    ("overload", overload::run),
];

/// One line for each figure.
#[derive(Default)]
struct Table {
    text: String,
    missed: usize,
}

/// A server that can be made to fail.
struct Failing {
    manners: Manners,
    serving: Serving,
}

/// Measures the parts of these names, or all, and gives back a table as Markdown.
pub(crate) fn run(names: &[String], options: &Options) -> Result<String, Error> {
    let known = PARTS.map(|(name, _)| name);
    if let Some(unknown) = names.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(format!("no part {unknown}; there are {}", known.join(", ")).into());
    }
    let mut table = Table::default();
    for (name, part) in PARTS {
        if names.is_empty() || names.iter().any(|it| it == name) {
            part(&mut table, options)?;
        }
    }
    let parts =
        if names.is_empty() { String::new() } else { format!(" --part {}", names.join(",")) };
    let head = format!(
        "`cargo xtask bench --resilience{parts}`: {}.\n\n",
        match table.missed {
            0 => "every aim was reached".to_owned(),
            missed => format!("**{missed} aims were missed**"),
        }
    );
    Ok(format!("{head}| part | what | figure | aim |\n|---|---|---|---|\n{}", table.text))
}

// === impl Table ===

impl Table {
    /// A figure with its aim, and whether that was reached.
    fn put(&mut self, part: &str, what: &str, figure: &str, aim: &str, reached: bool) {
        self.missed += usize::from(!reached);
        let mark = if reached { "" } else { " **missed**" };
        let line = format!("| {part} | {what} | {figure}{mark} | {aim} |");
        println!("{line}");
        let _ = writeln!(self.text, "{line}");
    }

    /// A figure that is held against nothing.
    fn say(&mut self, part: &str, what: &str, figure: &str) {
        self.put(part, what, figure, "–", true);
    }
}

// === impl Failing ===

impl Failing {
    fn start(manner: Manner) -> Result<Self, Error> {
        let manners = Manners::default();
        manners.set(manner);
        let serving = bench::serve_with(TcpListener::bind("127.0.0.1:0")?, 1, &manners)?;
        Ok(Self { manners, serving })
    }

    fn url(&self) -> String {
        format!("http://{}/mcp", self.serving.address())
    }
}

/// Reads of a server in the era without sessions, at a fixed rate.
fn paced(address: std::net::SocketAddr, server: &str, rate: f64, seconds: u64) -> LoadPlan {
    LoadPlan {
        path: format!("/mcp/{server}"),
        dialect: Dialect::Modern,
        connections: 64,
        pace: Pace::Open { per_second: rate },
        duration: Duration::from_secs(seconds),
        ..LoadPlan::new(address)
    }
}

/// Calls of the counted part, whatever became of them.
fn all(report: &LoadReport) -> u64 {
    report.calls + report.errors
}
