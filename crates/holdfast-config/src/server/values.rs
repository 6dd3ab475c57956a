//! The values that a server's two forms, YAML and `mcpServers`, have in common.

use std::collections::BTreeMap;
use std::path::PathBuf;

use holdfast_engine::class::ToolClass;
use secrecy::SecretString;

use super::ToolRule;
use crate::bulkheads::BulkheadClass;
use crate::context::Guard;
use crate::field::{Field, quoted};
use crate::tree::Value;

pub(crate) fn read_command(field: &Field<'_>) -> Option<String> {
    let command = field.text()?;
    if command.is_empty() || command.contains('\0') {
        field.wrong("a program", "a path, or a name that PATH finds", "write something like npx");
        return None;
    }
    if command.contains(' ') && !std::path::Path::new(&command).exists() {
        let mut words = field.raw().split_whitespace();
        let cure = format!(
            "write command: {} and args: [{}]",
            words.next().unwrap_or_default(),
            words.collect::<Vec<_>>().join(", ")
        );
        let allowed = "the program alone; no shell reads this line";
        field.problem(format!("{} is a command line", field.shown()), allowed, &cure);
        return None;
    }
    Some(command)
}

pub(crate) fn read_args(field: &Field<'_>) -> Vec<String> {
    let items = field.items().unwrap_or_default();
    items.iter().filter_map(Field::text).collect()
}

pub(crate) fn read_env(field: &Field<'_>) -> BTreeMap<String, SecretString> {
    let mut env = BTreeMap::new();
    for (entry, field) in field.entries().unwrap_or_default() {
        let name = &entry.key;
        if name.is_empty() || name.contains(['=', '\0']) {
            let found = format!("{} is not a variable's name", quoted(name));
            field.problem(found, "a name without = in it", "write NAME: value");
        } else if matches!(entry.node.value, Value::Null) {
            env.insert(name.clone(), SecretString::default());
        } else if let Some(value) = field.secret() {
            env.insert(name.clone(), value);
        }
    }
    env
}

pub(crate) fn read_dir(field: &Field<'_>) -> Option<PathBuf> {
    let path = PathBuf::from(field.text()?);
    if path.is_dir() {
        return Some(path);
    }
    field.wrong("a directory", "a directory that exists", "create it, or correct the path");
    None
}

/// Headers that belong to the connection or to the protocol, and so to the gateway.
const OWN_HEADERS: [&str; 18] = [
    "accept",
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "last-event-id",
    "mcp-protocol-version",
    "mcp-session-id",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "mcp-method",
];

pub(crate) fn read_headers(field: &Field<'_>) -> BTreeMap<String, SecretString> {
    let mut headers = BTreeMap::new();
    for (entry, field) in field.entries().unwrap_or_default() {
        let field = field.hidden();
        field.guard(Guard::Whole);
        let name = entry.key.to_ascii_lowercase();
        if !is_header_name(&name) {
            let found = format!("{} is not a header's name", quoted(&entry.key));
            field.problem(found, "letters, digits and dashes", "write Name: value");
        } else if OWN_HEADERS.contains(&name.as_str()) {
            let found = "the gateway sets this header itself".into();
            field.problem(found, "headers that the server alone understands", "remove it");
        } else if let Some(value) = read_header_value(&field)
            && headers.insert(name, value).is_some()
        {
            let found = "this header stands here a second time, in other letters".into();
            field.problem(found, "each header once", "keep one of the two");
        }
    }
    headers
}

fn read_header_value(field: &Field<'_>) -> Option<SecretString> {
    let value = field.text()?;
    if value.bytes().all(|b| b == b'\t' || b == b' ' || b.is_ascii_graphic()) {
        return Some(SecretString::from(value.trim()));
    }
    let allowed = "visible ASCII characters and blanks";
    field.wrong("a header's value", allowed, "remove line breaks and other letters");
    None
}

fn is_header_name(name: &str) -> bool {
    let known = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty() && name.len() <= 256 && name.bytes().all(known)
}

const EFFECTS: [(&str, ToolClass); 3] =
    [("read", ToolClass::Read), ("idempotent", ToolClass::Idempotent), ("write", ToolClass::Write)];

pub(crate) fn read_tools(field: &Field<'_>) -> BTreeMap<String, ToolRule> {
    let mut tools = BTreeMap::new();
    for (entry, field) in field.entries().unwrap_or_default() {
        if let Some(rule) = read_rule(&field) {
            tools.insert(entry.key.clone(), rule);
        }
    }
    tools
}

/// A word, which is the effect, or a mapping.
fn read_rule(field: &Field<'_>) -> Option<ToolRule> {
    let mut rule = ToolRule::default();
    if !matches!(field.node.value, Value::Map(_)) {
        rule.effect = Some(field.choice(&EFFECTS)?);
        return Some(rule);
    }
    let mut section = field.section()?;
    rule.effect = section.field("effect").and_then(|field| field.choice(&EFFECTS));
    let words = BulkheadClass::ALL.map(|class| (class.label(), class));
    rule.class = section.field("class").and_then(|field| field.choice(&words));
    section.rate(&mut rule.requests_per_minute, &mut rule.burst);
    section.finish();
    Some(rule)
}
