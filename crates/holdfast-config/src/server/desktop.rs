//! `mcpServers` as desktop clients keep it, accepted as it is.
//!
//! Their files carry keys of their own (`disabled`, `autoApprove`, a `timeout` in a unit that
//! differs by client). These change nothing here and are named in a notice. A key that looks like
//! a mistyped one of ours is still a problem.

use std::collections::BTreeMap;

use super::read::{check_name, notice_sse, read_http_url, read_websocket_url};
use super::values::{read_args, read_command, read_dir, read_env, read_headers};
use super::{Defaults, Instance, Server, Stdio, Transport};
use crate::context::Guard;
use crate::field::Field;
use crate::section::Section;

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

/// Reads the section whose keys are the servers' names.
pub(crate) fn read_mcp_servers(
    field: &Field<'_>,
    defaults: &Defaults,
    into: &mut BTreeMap<String, Server>,
) {
    for (entry, field) in field.entries().unwrap_or_default() {
        check_name(entry, &field);
        if into.contains_key(&entry.key) {
            let found = "a server of this name stands under servers too".into();
            field.problem(found, "each name once", "rename or remove one of the two");
        } else if let Some(mut server) = read_server(&field) {
            defaults.put(&mut server);
            into.insert(entry.key.clone(), server);
        }
    }
}

/// `None` also for a server that is switched off.
fn read_server(field: &Field<'_>) -> Option<Server> {
    let mut section = field.section()?;
    let off = is_off(&mut section);
    let server = read_transport(&mut section, field);
    tolerate(section);
    if off {
        let notice = format!("{}: left out, because it is switched off there", field.path);
        field.context.notice(notice);
        return None;
    }
    server
}

fn is_off(section: &mut Section<'_>) -> bool {
    let (mut disabled, mut enabled, mut active) = (false, true, true);
    section.flag("disabled", &mut disabled);
    section.flag("enabled", &mut enabled);
    section.flag("isActive", &mut active);
    disabled || !enabled || !active
}

fn read_transport(section: &mut Section<'_>, field: &Field<'_>) -> Option<Server> {
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
