//! `mcpServers` as desktop clients keep it, accepted as it is.
//!
//! Their files carry keys of their own (`disabled`, `autoApprove`, a `timeout` in a unit that
//! differs by client). These change nothing here and are named in a notice. A key that looks like
//! a mistyped one of ours is still a problem. Names are for people there, and part of a URL here: one
//! that cannot be is made into one that can.

use std::collections::BTreeMap;

use super::program;
use super::read::{
    LONGEST_NAME, check_name, is_name, notice_sse, read_http_url, read_websocket_url,
};
use super::values::{read_args, read_command, read_dir, read_env, read_headers};
use super::{Defaults, Instance, Server, Stdio, Transport};
use crate::context::Guard;
use crate::field::{Field, join, quoted};
use crate::problem::Problem;
use crate::section::Section;
use crate::tree::{Entry, Node, Value};

/// What known clients keep beside a server; without effect here.
const CLIENT_KEYS: [&str; 38] = [
    "alwaysAllow",
    "autoApprove",
    "baseUrl",
    "chatEnabled",
    "description",
    "dev",
    "disabledTools",
    "dxtPath",
    "enabledTools",
    "envFile",
    "excludeTools",
    "gallery",
    "headersHelper",
    "icon",
    "iconUrl",
    "id",
    "includeTools",
    "initTimeout",
    "installSource",
    "logoUrl",
    "longRunning",
    "name",
    "oauth",
    "provider",
    "providerUrl",
    "reference",
    "registryUrl",
    "requestTimeout",
    "searchKey",
    "startup_timeout_sec",
    "tags",
    "timeout",
    "title",
    "tools",
    "trust",
    "version",
    "watchPaths",
    "x-metadata",
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http,
    Sse,
    WebSocket,
    Stdio,
}

const KINDS: [(&str, Kind); 9] = [
    ("http", Kind::Http),
    ("streamable-http", Kind::Http),
    ("streamableHttp", Kind::Http),
    ("streamable_http", Kind::Http),
    ("sse", Kind::Sse),
    ("ws", Kind::WebSocket),
    ("websocket", Kind::WebSocket),
    ("stdio", Kind::Stdio),
    ("local", Kind::Stdio),
];

/// Gives the servers of a desktop client's file names that can stand in a URL, where theirs cannot:
/// `My Server` becomes `my-server`. Of two that become the same the second is reported and left out.
pub(crate) fn name_for_urls(tree: &mut Node, problems: &mut Vec<Problem>) {
    let Value::Map(sections) = &mut tree.value else { return };
    let servers = sections.iter_mut().find(|section| section.key == SECTION);
    let Some(Value::Map(entries)) = servers.map(|section| &mut section.node.value) else { return };
    for entry in entries.iter_mut() {
        let slug = slug(&entry.key);
        if !is_name(&entry.key) && is_name(&slug) {
            entry.written = Some(std::mem::replace(&mut entry.key, slug));
        }
    }
    let mut named: BTreeMap<String, String> = BTreeMap::new();
    entries.retain(|entry| {
        let Some(other) = named.insert(entry.key.clone(), written(entry).to_owned()) else {
            return true;
        };
        problems.push(Problem {
            place: entry.key_place.clone(),
            key: join(SECTION, &entry.key),
            found: format!(
                "{} and {} would both be served as {}",
                quoted(&other),
                quoted(written(entry)),
                entry.key
            ),
            allowed: "names that differ in letters, digits or underscores".into(),
            cure: "rename one of the two".into(),
        });
        false
    });
}

const SECTION: &str = "mcpServers";

/// What can stand in a URL of a name: its letters and digits, small, with one dash for whatever else
/// there is between them.
fn slug(name: &str) -> String {
    let mut slug = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            'a'..='z' | '0'..='9' | '_' => slug.push(c),
            'A'..='Z' => slug.push(c.to_ascii_lowercase()),
            _ if slug.is_empty() || slug.ends_with('-') => {}
            _ => slug.push('-'),
        }
    }
    slug.truncate(LONGEST_NAME);
    slug.truncate(slug.trim_end_matches('-').len());
    slug
}

/// The name as the file has it.
fn written(entry: &Entry) -> &str {
    entry.written.as_deref().unwrap_or(&entry.key)
}

/// Reads the section whose keys are the servers' names.
pub(crate) fn read_mcp_servers(
    field: &Field<'_>,
    defaults: &Defaults,
    into: &mut BTreeMap<String, Server>,
) {
    for (entry, field) in field.entries().unwrap_or_default() {
        let Some((server, is_off)) = read_server(&field) else { continue };
        if is_off {
            let notice = format!("{}: left out, because it is switched off there", field.path);
            field.context.notice(notice);
            continue;
        }
        check_name(entry, &field);
        if let Some(name) = &entry.written {
            let (path, key) = (&field.path, &entry.key);
            field.context.notice(format!("{path}: {} is served at /mcp/{key}", quoted(name)));
        }
        if into.contains_key(&entry.key) {
            let found = "a server of this name stands under servers too".into();
            field.problem(found, "each name once", "rename or remove one of the two");
        } else if let Some(mut server) = server {
            defaults.put(&mut server);
            into.insert(entry.key.clone(), server);
        }
    }
}

/// The server, and whether it is switched off.
fn read_server(field: &Field<'_>) -> Option<(Option<Server>, bool)> {
    let mut section = field.section()?;
    let off = is_off(&mut section);
    let server = read_transport(&mut section, field, off);
    tolerate(section);
    Some((server, off))
}

fn is_off(section: &mut Section<'_>) -> bool {
    let (mut disabled, mut enabled, mut active) = (false, true, true);
    section.flag("disabled", &mut disabled);
    section.flag("enabled", &mut enabled);
    section.flag("isActive", &mut active);
    disabled || !enabled || !active
}

fn read_transport(section: &mut Section<'_>, field: &Field<'_>, off: bool) -> Option<Server> {
    let kinds = [section.field("type"), section.field("transport"), section.field("transportType")];
    let kind = match kinds.into_iter().flatten().next() {
        Some(kind) => Some(kind.choice(&KINDS)?),
        None => None,
    };
    let streamable = section.field("httpUrl");
    let urls = [section.field("url"), section.field("serverUrl"), streamable];
    let mut urls = urls.into_iter().flatten();
    let url = urls.next();
    unused(urls);
    let command = section.field("command");
    let headers = section.field("headers");
    let args = section.field("args");
    let env = section.field("env");
    let cwd = section.field("cwd");

    match (kind, url, command) {
        (Some(Kind::Stdio) | None, url, Some(command)) => {
            let mut stdio = Stdio::new(read_command(&command)?);
            stdio.args = args.map(|field| read_args(&field)).unwrap_or_default();
            stdio.env = env.map(|field| read_env(&field)).unwrap_or_default();
            stdio.cwd = cwd.and_then(|field| read_dir(&field));
            if !off {
                program::check(&command, &stdio);
            }
            unused(url.into_iter().chain(headers));
            Some(Server::new(Transport::Stdio(stdio)))
        }
        (Some(Kind::Http | Kind::Sse | Kind::WebSocket) | None, Some(url), command) => {
            let mut server = Server::new(remote(kind, &url)?);
            server.headers = headers.map(|field| read_headers(&field)).unwrap_or_default();
            unused([command, args, env, cwd].into_iter().flatten());
            Some(server)
        }
        _ => {
            let lacks = if kind == Some(Kind::Stdio) { "command" } else { "url" };
            field.problem(
                format!("a server without {lacks}"),
                "command for a process, url for an address",
                "write \"command\": \"PROGRAM\", or \"type\": \"http\" and \"url\": \"…\"",
            );
            None
        }
    }
}

/// What other ways to the server there are in its entry, which may hold secrets, too.
fn unused<'a>(fields: impl Iterator<Item = Field<'a>>) {
    fields.for_each(|field| field.guard(Guard::Unused));
}

fn remote(kind: Option<Kind>, url: &Field<'_>) -> Option<Transport> {
    let scheme = url.text()?.to_ascii_lowercase();
    if kind == Some(Kind::WebSocket) || (kind.is_none() && scheme.starts_with("ws")) {
        return Some(Transport::WebSocket { url: read_websocket_url(url)? });
    }
    let address = read_http_url(url)?;
    if kind == Some(Kind::Sse) {
        return Some(Transport::Sse { url: address });
    }
    if kind.is_none() {
        notice_sse(&address, url);
    }
    Some(Transport::Http { instances: vec![Instance::new("1", address)] })
}

/// Names what has no effect here; a key that is nearly one of ours is a problem.
fn tolerate(section: Section<'_>) {
    let foreign: Vec<&str> = section
        .unknown()
        .map(|entry| entry.key.as_str())
        .filter(|key| CLIENT_KEYS.contains(key) || section.nearest(key).is_none())
        .collect();
    if !foreign.is_empty() {
        let keys = foreign.join(", ");
        section.context.notice(format!("{}: {keys}: no effect here", section.path));
    }
    section.finish_but(&foreign);
}
