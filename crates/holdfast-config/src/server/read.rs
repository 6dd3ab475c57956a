//! `servers` as it stands in YAML.

use std::collections::BTreeMap;
use std::time::Duration;

use super::instances::read_instances;
use super::program;
use super::values::{read_args, read_command, read_dir, read_env, read_headers, read_tools};
use super::{
    Balance, Breaker, Defaults, Failover, Fallback, HttpUrl, Instance, Objectives, Pool, Role,
    Server, ServerHealth, Stdio, Tier, Transport,
};
use crate::bulkheads::BulkheadClass;
use crate::context::Guard;
use crate::field::{Field, join, quoted};
use crate::problem::Problem;
use crate::section::Section;
use crate::tree::Entry;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// The ways to say where a server is; one of them must be there.
const PLACES: [&str; 3] = ["url", "instances", "command"];

/// Reads the section whose keys are the servers' names.
pub(crate) fn read_servers(
    field: &Field<'_>,
    defaults: &Defaults,
    into: &mut BTreeMap<String, Server>,
) {
    for (entry, field) in field.entries().unwrap_or_default() {
        check_name(entry, &field);
        if let Some(server) = read_server(&field, defaults) {
            into.insert(entry.key.clone(), server);
        }
    }
}

/// A server's name becomes part of a path and of metric labels. A bad one is reported, and the
/// server read all the same, so that its own problems show too.
pub(crate) fn check_name(entry: &Entry, field: &Field<'_>) {
    let name = entry.key.as_str();
    if is_name(name) {
        return;
    }
    let better: String = name
        .chars()
        .map(|c| if may_stand_in_name(c) { c } else { '-' })
        .take(LONGEST_NAME)
        .collect();
    let cure = match better.trim_matches('-') {
        "" => "write something like files".to_owned(),
        better => format!("write {better}"),
    };
    field.context.problem(Problem {
        place: entry.key_place.clone(),
        key: field.path.clone(),
        found: format!("{} is not a server's name", quoted(name)),
        allowed: "1 to 64 letters, digits, dashes and underscores".into(),
        cure,
    });
}

/// Whether a server may be called so.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=LONGEST_NAME).contains(&name.len()) && name.chars().all(may_stand_in_name)
}

/// The longest name of a server, in characters.
pub(crate) const LONGEST_NAME: usize = 64;

fn may_stand_in_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-')
}

fn read_server(field: &Field<'_>, defaults: &Defaults) -> Option<Server> {
    let mut section = field.section()?;
    let transport = read_transport(&mut section);
    let mut server = Server::new(transport.clone().unwrap_or_else(nowhere));

    section.duration("timeout", SECOND..=DAY, &mut server.timeout);
    section.duration("max_duration", SECOND..=DAY * 7, &mut server.max_duration);
    section.duration("connect_timeout", MS * 50..=SECOND * 60, &mut server.connect_timeout);
    section.flag("trust_annotations", &mut server.trust_annotations);
    if let Some(field) = section.field("tools") {
        server.tools = read_tools(&field);
    }
    if let Some(field) = section.field("headers") {
        server.headers = read_headers(&field);
    }
    section.flag("forward_authorization", &mut server.forward_authorization);
    let tiers = [("1", Tier::One), ("2", Tier::Two), ("3", Tier::Three)];
    if let Some(tier) = section.field("tier").and_then(|field| field.choice(&tiers)) {
        server.tier = tier;
    }
    section.rate(&mut server.requests_per_minute, &mut server.burst);
    read_resilience(&mut section, defaults, &mut server);

    if server.forward_authorization && server.headers.contains_key("authorization") {
        field.problem(
            "forward_authorization beside an Authorization header of its own".into(),
            "one of the two",
            "remove forward_authorization, or the header",
        );
    }
    section.finish();
    transport.map(|_| server)
}

/// What is done when the server fails, and so that it does not.
fn read_resilience(section: &mut Section<'_>, defaults: &Defaults, server: &mut Server) {
    let instances = server.instances().to_vec();
    let words = BulkheadClass::ALL.map(|class| (class.label(), class));
    if let Some(class) = section.field("class").and_then(|field| field.choice(&words)) {
        server.class = class;
    }
    server.breaker = Breaker::read(section.section("breaker"), &defaults.breaker);
    server.health =
        ServerHealth::read(section.section("health"), &defaults.health, &server.transport);
    let replicas = instances.iter().any(|instance| instance.role == Role::Replica);
    server.balance = Balance::read(section.section("balance"), replicas);
    server.failover = Failover::read(section.field("failover").as_ref(), &instances);
    server.fallback = Fallback::read(section.section("fallback"));
    section.names("depends_on", 100, &mut server.depends_on);
    server.pool = Pool::read(section.section("pool"));
    server.objectives = Objectives::read(section.section("objectives"), server.tier);
}

/// Stands in for a transport with a problem, so that the other keys are checked too.
fn nowhere() -> Transport {
    Transport::Http { instances: Vec::new() }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http,
    Sse,
    WebSocket,
}

fn read_transport(section: &mut Section<'_>) -> Option<Transport> {
    let place = section.place.clone();
    let given = section.given(&PLACES);
    let url = section.field("url");
    let instances = section.field("instances");
    let command = section.field("command");
    let kind = section.field("transport");
    let wanted = kind.as_ref().map(|field| {
        field.choice(&[
            ("http", Kind::Http),
            ("sse", Kind::Sse),
            ("websocket", Kind::WebSocket),
            ("streamable-http", Kind::Http),
            ("ws", Kind::WebSocket),
        ])
    });
    let stdio = read_stdio(section, command.as_ref());

    let one = match given.as_slice() {
        [one] => *one,
        [] => {
            section.context.problem(Problem {
                place,
                key: section.path.clone(),
                found: "a server that is nowhere".into(),
                allowed: PLACES.join(", "),
                cure: "write url: http://HOST:PORT/mcp, or command: PROGRAM".into(),
            });
            return None;
        }
        [_, ..] => {
            section.context.problem(Problem {
                place,
                key: section.path.clone(),
                found: format!("{} together", given.join(" and ")),
                allowed: format!("one of {}", PLACES.join(", ")),
                cure: "keep one; several addresses of one server go into instances".into(),
            });
            return None;
        }
    };
    match (one, url, instances) {
        ("url", Some(field), _) => {
            let (url, scheme) = read_url(&field)?;
            let kind = match wanted {
                Some(kind) => kind?,
                None if scheme == Kind::WebSocket => Kind::WebSocket,
                None => Kind::Http,
            };
            let fits = (scheme == Kind::WebSocket) == (kind == Kind::WebSocket);
            if !fits {
                let allowed =
                    "http:// and https:// for http and sse, ws:// and wss:// for websocket";
                field.wrong("an address of that transport", allowed, "change one of the two");
                return None;
            }
            Some(over(kind, url, &field))
        }
        ("instances", _, Some(field)) => {
            if let (Some(kind), Some(Some(Kind::Sse | Kind::WebSocket))) = (kind, wanted) {
                let cure = "write url for one address, or remove transport";
                kind.wrong("a transport of instances", "http", cure);
                return None;
            }
            read_instances(&field).map(|instances| Transport::Http { instances })
        }
        ("command", ..) => {
            if let Some(kind) = kind {
                kind.problem(
                    "a transport beside a command".into(),
                    "transport beside url",
                    "remove it: a command speaks over its standard input and output",
                );
            }
            refuse_http_keys(section);
            stdio.map(Transport::Stdio)
        }
        _ => {
            section.context.problem(Problem {
                place: section.place.clone(),
                key: join(&section.path, one),
                found: "nothing after the colon".into(),
                allowed: "a value".into(),
                cure: "write it, or remove the key".into(),
            });
            None
        }
    }
}

fn over(kind: Kind, url: HttpUrl, field: &Field<'_>) -> Transport {
    match kind {
        Kind::Sse => Transport::Sse { url },
        Kind::WebSocket => Transport::WebSocket { url },
        Kind::Http => {
            notice_sse(&url, field);
            Transport::Http { instances: vec![Instance::new("1", url)] }
        }
    }
}

/// Says so where an address looks as if it were the older transport's.
pub(crate) fn notice_sse(url: &HttpUrl, field: &Field<'_>) {
    let path = url.path.split('?').next().unwrap_or_default();
    if path.ends_with("/sse") {
        let server = field.path.rsplit_once('.').map_or(field.path.as_str(), |(server, _)| server);
        field.context.notice(format!(
            "{server}: the address ends in /sse but is called over Streamable HTTP; \
             if it is an HTTP+SSE server, say so (transport: sse, or \"type\": \"sse\")"
        ));
    }
}

/// Keys that mean something over HTTP only.
fn refuse_http_keys(section: &Section<'_>) {
    for key in section.given(&["headers", "forward_authorization", "connect_timeout"]) {
        section.context.problem(Problem {
            place: section.context.place_of(&join(&section.path, key)),
            key: join(&section.path, key),
            found: "this key beside a command".into(),
            allowed: "headers, forward_authorization and connect_timeout beside url".into(),
            cure: "remove it; a process gets what it needs from args and env".into(),
        });
    }
}

/// An address and the transport that its scheme asks for.
fn read_url(field: &Field<'_>) -> Option<(HttpUrl, Kind)> {
    field.guard(Guard::Query);
    let text = field.text()?;
    match text.parse::<HttpUrl>() {
        Ok(url) if text.to_ascii_lowercase().starts_with("ws") => Some((url, Kind::WebSocket)),
        Ok(url) => Some((url, Kind::Http)),
        Err(why) => {
            // What stands before `@` or after `?` may be a secret.
            let raw = field.raw();
            let shown = match raw.split_once('?') {
                _ if why == super::UrlError::Credentials => "this address (not shown)".to_owned(),
                Some((before, _)) => quoted(&format!("{before}?…")),
                None => field.shown(),
            };
            let cure = if why == super::UrlError::Scheme && !raw.contains("://") {
                format!("write http://{}", raw.split('?').next().unwrap_or_default())
            } else {
                "write something like http://127.0.0.1:3001/mcp".to_owned()
            };
            let allowed = "an address that begins with http://, https://, ws:// or wss://";
            field.problem(format!("{shown} cannot be called: {why}"), allowed, &cure);
            None
        }
    }
}

/// An `http` or `https` address, for whoever takes no other.
pub(crate) fn read_http_url(field: &Field<'_>) -> Option<HttpUrl> {
    let (url, kind) = read_url(field)?;
    if kind == Kind::Http {
        return Some(url);
    }
    field.wrong("an HTTP address", "http:// or https://", "write http:// in place of ws://");
    None
}

/// A `ws` or `wss` address, for whoever takes no other.
pub(crate) fn read_websocket_url(field: &Field<'_>) -> Option<HttpUrl> {
    let (url, kind) = read_url(field)?;
    if kind == Kind::WebSocket {
        return Some(url);
    }
    field.wrong("a WebSocket address", "ws:// or wss://", "write ws:// in place of http://");
    None
}

/// The keys of a process; asked for even beside `url`, so that they count as known.
fn read_stdio(section: &mut Section<'_>, command: Option<&Field<'_>>) -> Option<Stdio> {
    let mut stdio = Stdio::new(String::new());
    let args = section.field("args");
    let env = section.field("env");
    let cwd = section.field("cwd");
    let grace = section.field("stop_grace");
    let Some(command) = command else {
        for field in [args, env, cwd, grace].into_iter().flatten() {
            let cure = "remove it, or add command";
            field.problem("a process's key without a command".into(), "it beside command", cure);
        }
        return None;
    };
    stdio.args = args.map(|field| read_args(&field)).unwrap_or_default();
    stdio.env = env.map(|field| read_env(&field)).unwrap_or_default();
    stdio.cwd = cwd.and_then(|field| read_dir(&field));
    if let Some(grace) = grace.and_then(|field| field.duration(&(Duration::ZERO..=SECOND * 60))) {
        stdio.stop_grace = grace;
    }
    stdio.command = read_command(command)?;
    program::check(command, &stdio);
    Some(stdio)
}
