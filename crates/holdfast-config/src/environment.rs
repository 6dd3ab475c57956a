//! Environment variables that override the file: one image and one file serve many nodes.
//!
//! A variable that is set but empty counts as not set, since that is what Compose and Kubernetes
//! pass for an unset one. Variables whose function this version does not have are checked all the
//! same, and a notice says that they change nothing.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use crate::context::Context;
use crate::field::quoted;
use crate::problem::{Place, Problem};
use crate::{Breaker, Config, health, listen, log, node, sessions};

/// Names the file that `load` reads when it is given none.
pub(crate) const CONFIG: &str = "HOLDFAST_CONFIG";

/// Puts every variable on top of what the file says.
pub(crate) fn apply(config: &mut Config, context: &Context<'_>) {
    node_variables(config, context);
    listener_variables(config, context);
    store_variables(config, context);
}

/// Checks the variables that change nothing, or nothing the way this node runs, and says so.
pub(crate) fn without_effect(config: &Config, context: &Context<'_>) {
    let clustered = config.cluster.is_some();
    match flag(context, "SESSION_FAILOVER_ENABLED") {
        Some((true, variable)) if !clustered => variable.notice("this node runs alone"),
        Some((false, variable)) if clustered => {
            variable.notice("the nodes of a cluster always share sessions");
        }
        Some(_) | None => {}
    }
}

fn node_variables(config: &mut Config, context: &Context<'_>) {
    if let Some(id) = read(context, "HA_NODE_ID", "node.id") {
        if node::is_id(&id.text) {
            config.node.id = id.text;
        } else {
            id.wrong("an id", node::ID_RULE, "set something like gateway-1");
        }
    }
    if let Some(dir) = read(context, "HOLDFAST_DATA_DIR", "node.data_dir") {
        config.node.data_dir = Some(PathBuf::from(dir.text));
    }
    if let Some(secret) = read(context, "HOLDFAST_CLUSTER_SECRET", "node.secret") {
        let characters = secret.text.chars().count();
        if characters >= node::LEAST_SECRET {
            config.node.secret = Some(secret.text.into());
        } else {
            secret.problem(
                format!("a secret of {characters} characters (not shown)"),
                &format!("at least {} characters", node::LEAST_SECRET),
                "make a random one: openssl rand -hex 32",
            );
        }
    }
    if let Some(level) = read(context, "HOLDFAST_LOG", "log.level") {
        match log::check_level(&level.text) {
            Ok(()) => config.log.level = level.text,
            Err((found, cure)) => level.problem(found, log::LEVEL, &cure),
        }
    }
}

fn listener_variables(config: &mut Config, context: &Context<'_>) {
    if let Some(port) = read(context, "PORT", "listen.address") {
        match port.text.parse::<u16>() {
            Ok(number) => {
                let ip = config.listen.address.ip();
                config.listen.address = SocketAddr::new(ip, number);
            }
            Err(_) => port.wrong("a port", "0 (any free one) to 65535", "set 37373"),
        }
    }
    if let Some(address) = read(context, "HOLDFAST_ADMIN_LISTEN", "admin.address") {
        match listen::parse_address(&address.text) {
            Ok(parsed) => config.admin.address = parsed,
            Err(why) => {
                let found = format!("{} {why}", quoted(&address.text));
                address.problem(found, listen::ADDRESS, "set something like 127.0.0.1:37374");
            }
        }
    }
    if let Some(path) = read(context, "LB_HEALTH_CHECK_PATH", "listen.health_path") {
        // These answer already; `/` is nobody's.
        if ["/health", "/health/live", "/health/ready"].contains(&path.text.as_str()) {
            return;
        }
        match listen::check_health_path(&path.text) {
            Ok(()) => config.listen.health_path = Some(path.text),
            Err(why) => {
                let found = format!("{} {why}", quoted(&path.text));
                path.problem(found, listen::HEALTH_PATH, "set something like /healthz");
            }
        }
    }
}

fn store_variables(config: &mut Config, context: &Context<'_>) {
    if let Some(store) = read(context, "SESSION_STORE", "sessions.store") {
        match sessions::parse_store(&store.text) {
            Ok(kind) => config.sessions.store = kind,
            Err((found, cure)) => {
                store.problem(found, sessions::STORE, &cure.replace("remove it", "unset it"));
            }
        }
    }
}

/// The breaker of servers that say nothing of their own.
pub(crate) fn breaker(context: &Context<'_>) -> Breaker {
    let mut breaker = Breaker::default();
    if let Some((enabled, _)) = flag(context, "CIRCUIT_BREAKER_ENABLED") {
        breaker.enabled = enabled;
    }
    if let Some(failures) = number(context, "CIRCUIT_BREAKER_THRESHOLD", 3..=15, "failures") {
        breaker.consecutive_failures = u32::try_from(failures).unwrap_or(u32::MAX);
    }
    let range = 100..=3_600_000;
    if let Some(millis) = number(context, "CIRCUIT_BREAKER_TIMEOUT", range, "milliseconds") {
        breaker.open_for = Duration::from_millis(millis);
        breaker.max_open_for = breaker.max_open_for.max(breaker.open_for);
    }
    breaker
}

/// The interval of checks, in place of the file's.
pub(crate) fn check_interval(context: &Context<'_>) -> Option<Duration> {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let range = millis(health::LEAST_INTERVAL)..=millis(health::MOST_INTERVAL);
    let given = number(context, "HA_HEALTH_CHECK_INTERVAL", range, "milliseconds")?;
    Some(Duration::from_millis(given))
}

/// A switch that is set.
fn flag<'c>(context: &'c Context<'c>, name: &'static str) -> Option<(bool, Variable<'c>)> {
    let variable = read(context, name, "")?;
    match variable.text.to_ascii_lowercase().as_str() {
        "true" | "1" => Some((true, variable)),
        "false" | "0" => Some((false, variable)),
        _ => {
            variable.wrong("true or false", "true, false, 1, 0", "set true or false");
            None
        }
    }
}

/// A whole number that is set.
fn number(
    context: &Context<'_>,
    name: &'static str,
    range: RangeInclusive<u64>,
    unit: &str,
) -> Option<u64> {
    let variable = read(context, name, "")?;
    match variable.text.parse::<u64>() {
        Ok(value) if range.contains(&value) => Some(value),
        _ => {
            let allowed = format!("{} to {} {unit}", range.start(), range.end());
            variable.wrong("a number in range", &allowed, "set a whole number, without a unit");
            None
        }
    }
}

/// Whether a variable is set and not empty.
pub(crate) fn is_set(context: &Context<'_>, name: &str) -> bool {
    (context.env)(name).is_some_and(|text| !text.trim().is_empty())
}

/// A variable that is set, and the key that it stands for.
pub(crate) struct Variable<'c> {
    context: &'c Context<'c>,
    name: &'static str,
    pub(crate) text: String,
}

pub(crate) fn read<'c>(
    context: &'c Context<'c>,
    name: &'static str,
    key: &str,
) -> Option<Variable<'c>> {
    let text = (context.env)(name)?.trim().to_owned();
    if text.is_empty() {
        return None;
    }
    if !key.is_empty() {
        context.located(key, Place::Variable(name));
    }
    Some(Variable { context, name, text })
}

impl Variable<'_> {
    pub(crate) fn problem(&self, found: String, allowed: &str, cure: &str) {
        self.context.problem(Problem {
            place: Place::Variable(self.name),
            key: String::new(),
            found,
            allowed: allowed.to_owned(),
            cure: cure.to_owned(),
        });
    }

    pub(crate) fn wrong(&self, what: &str, allowed: &str, cure: &str) {
        self.problem(format!("{} is not {what}", quoted(&self.text)), allowed, cure);
    }

    fn notice(&self, because: &str) {
        self.context.notice(format!("{} has no effect: {because}", self.name));
    }
}
