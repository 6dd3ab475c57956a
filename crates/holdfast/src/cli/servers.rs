//! `holdfast servers`: every server and instance with its health, its breaker, and where it stands.

use std::collections::BTreeMap;

use clap::Args;
use holdfast_admin::Client;
use holdfast_admin::api::{ControlDto, InstanceControlDto, ServerDto, ServersDto, ToolDto};
use holdfast_engine::health::{Grade, percent};

use super::Outcome;
use super::admin_port::ViewArgs;
use super::output::{many, table};

/// A dash for what there is not.
const NONE: &str = "-";

/// Whose word each column is: they differ where one node sees what most do not.
const LEGEND: &str = "HEALTH: what the cluster found by the votes of its nodes. SCORE, BREAKER, CALLS: of the node that was\n\
                      asked, by its own checks and calls; the two may differ";

#[derive(Args)]
pub(crate) struct Servers {
    #[command(flatten)]
    view: ViewArgs,
}

impl Servers {
    pub(crate) fn run(&self) -> Outcome {
        let ask = async |client: &Client| client.servers().await;
        self.view.present(ask, page)
    }
}

fn page(servers: &ServersDto) -> String {
    let servers = &servers.servers;
    let mut text = many(servers.len() as u64, "server");
    if servers.is_empty() {
        return text;
    }
    let heading = [
        "SERVER", "INSTANCE", "ROLE", "REGION", "HEALTH", "SCORE", "BREAKER", "CALLS", "ACTIVE",
        "WHY",
    ];
    let rows: Vec<Vec<String>> = servers.iter().flat_map(rows).collect();
    text.push_str(&format!("\n\n{}\n\n{LEGEND}", table(&heading, &rows)));
    let notices =
        servers.iter().flat_map(|server| notice(server).into_iter().chain(kept_back(server)));
    let notices: Vec<String> = notices.collect();
    if !notices.is_empty() {
        text.push_str(&format!("\n\n{}", notices.join("\n")));
    }
    text
}

fn rows(server: &ServerDto) -> Vec<Vec<String>> {
    let Some(control) = &server.control else {
        return server.instances.iter().map(|it| bare(server, &it.id)).collect();
    };
    let row = |it: &InstanceControlDto| {
        let why = it.kept.clone().or_else(|| it.why.first().cloned());
        vec![
            server.name.clone(),
            it.id.clone(),
            it.role.clone().unwrap_or_else(|| NONE.into()),
            it.region.clone().unwrap_or_else(|| NONE.into()),
            it.verdict.clone(),
            it.score.map_or_else(|| NONE.into(), graded),
            it.breaker.clone(),
            it.in_flight.to_string(),
            active(control, it),
            why.unwrap_or_else(|| NONE.into()),
        ]
    };
    control.instances.iter().map(row).collect()
}

/// A score of 0 to 1 as of 100, and the word for it.
fn graded(score: f64) -> String {
    let percent = percent(score);
    format!("{percent} {}", Grade::of(percent).label())
}

/// An instance of which nothing is known yet.
fn bare(server: &ServerDto, instance: &str) -> Vec<String> {
    let mut row = vec![server.name.clone(), instance.to_owned()];
    row.resize(10, NONE.to_owned());
    row
}

fn active(control: &ControlDto, it: &InstanceControlDto) -> String {
    match (it.share, &control.active) {
        (Some(share), _) => format!("{:.0} %", share * 100.0),
        (None, Some(active)) if *active == it.id => "yes".to_owned(),
        (None, Some(_)) => "no".to_owned(),
        // All of them are.
        (None, None) => NONE.to_owned(),
    }
}

/// What is out of the ordinary about a server, in one line.
fn notice(server: &ServerDto) -> Option<String> {
    let control = server.control.as_ref()?;
    let name = &server.name;
    if let Some(kept) = &control.kept {
        return Some(format!("{name}: breaker {kept}"));
    }
    let active = control.active.as_deref()?;
    Some(match control.phase.as_deref()? {
        "failing_over" | "failing_back" => format!("{name}: {}", progress(control)),
        "secondary_active" => {
            let waits = in_brackets(&control.reason);
            format!("{name}: on {active}, which is not its primary{waits}")
        }
        "failover_failed" => format!("{name}: failover failed: {}", control.reason),
        _ => return None,
    })
}

/// The tools of a server whose own breakers let not every call pass at the node that was asked, and those
/// whose breakers the cluster or an operator keeps.
fn kept_back(server: &ServerDto) -> impl Iterator<Item = String> {
    let kept: BTreeMap<&str, &str> = server
        .control
        .iter()
        .flat_map(|it| &it.kept_tools)
        .map(|it| (it.name.as_str(), it.kept.as_str()))
        .collect();
    let of = |tool: &str| format!("{}: breaker of its tool {tool}", server.name);
    let line = |it: &ToolDto| match kept.get(it.name.as_str()) {
        Some(kept) => Some(format!("{}: {} ({kept})", of(&it.name), it.breaker)),
        None if it.breaker != "closed" => Some(format!("{}: {}", of(&it.name), it.breaker)),
        None => None,
    };
    let without = kept.iter().filter(|(name, _)| !server.tools.iter().any(|it| it.name == **name));
    let without = without.map(|(name, kept)| format!("{}: {kept}; it has none now", of(name)));
    let lines: Vec<String> = server.tools.iter().filter_map(line).chain(without).collect();
    lines.into_iter()
}

/// How far a move is; the commands that begin one say it too.
pub(crate) fn progress(control: &ControlDto) -> String {
    let target = control.target.as_deref().unwrap_or(NONE);
    let tells = control.stage.as_deref() == Some("notify");
    // A move that is told of without having switched was taken back.
    if let Some(active) = control.active.as_deref().filter(|active| tells && *active != target) {
        return format!(
            "the move to {target} is taken back, {active} serves on: operators are told{}",
            in_brackets(&control.reason)
        );
    }
    let stage = match control.stage.as_deref().unwrap_or(NONE) {
        "pause" => "new calls wait".to_owned(),
        "drain" => "running calls end".to_owned(),
        "check" => "both sides are compared".to_owned(),
        "ramp" => {
            let share = control.instances.iter().find(|it| it.id == target).and_then(|it| it.share);
            format!("{:.0} % of the sessions", share.unwrap_or(0.0) * 100.0)
        }
        "switch" => "switched".to_owned(),
        "notify" => "operators are told".to_owned(),
        other => other.to_owned(),
    };
    format!("to {target}: {stage}{}", in_brackets(&control.reason))
}

fn in_brackets(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(" ({reason})") }
}
