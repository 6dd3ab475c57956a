//! `servers.NAME.health` as it stands in YAML.

use std::time::Duration;

use holdfast_engine::health::resources::Resource;

use super::read::read_http_url;
use super::{Check, CheckKind, CheckTarget, MetricSource, ServerHealth, Transport};
use crate::field::Field;
use crate::health::{Health, LEAST_INTERVAL, MOST_INTERVAL, check_timeout};
use crate::node::read_id;
use crate::section::Section;
use crate::units::show_duration;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Checks of one server; more would be a load of their own.
const MOST: usize = 20;

impl ServerHealth {
    /// The section over the defaults of `health`.
    pub(crate) fn read(mut section: Section<'_>, defaults: &Health, transport: &Transport) -> Self {
        let mut health = Self::of(defaults);
        section.flag("enabled", &mut health.enabled);
        section.flag("critical", &mut health.critical);
        if health.critical {
            health.interval = defaults.critical_interval;
        }
        section.duration("interval", LEAST_INTERVAL..=MOST_INTERVAL, &mut health.interval);
        // Whoever shortens the whole shortens the part with it.
        health.timeout = health.timeout.min(health.interval);
        section.duration("timeout", MS * 100..=SECOND * 60, &mut health.timeout);
        section.number("retries", 0..=10, &mut health.retries);
        if let Some(field) = section.field("checks") {
            health.checks = read_checks(&field).unwrap_or(health.checks);
            fit(&health.checks, transport, &field);
        }
        check_timeout(&section, health.timeout, health.interval);
        section.finish();
        health
    }

    /// What a server has that says nothing of its own.
    pub(crate) fn of(defaults: &Health) -> Self {
        Self {
            interval: defaults.interval,
            timeout: defaults.timeout.min(defaults.interval),
            retries: defaults.retries,
            ..Self::default()
        }
    }
}

fn read_checks(field: &Field<'_>) -> Option<Vec<Check>> {
    let items = field.items()?;
    let counts = [(items.is_empty(), "an empty list"), (items.len() > MOST, "too many checks")];
    if let Some((_, found)) = counts.iter().find(|(wrong, _)| *wrong) {
        let cure = "write - { type: ping }, or health: { enabled: false } to check nothing";
        field.problem((*found).to_owned(), &format!("1 to {MOST} checks"), cure);
        return None;
    }
    let mut checks: Vec<Check> = Vec::new();
    let mut whole = true;
    for item in &items {
        let Some((check, named)) = read_check(item) else {
            whole = false;
            continue;
        };
        let check = if named { check } else { numbered(check, &checks) };
        if checks.iter().any(|known| known.name == check.name) {
            let found = format!("the name {} stands here a second time", check.name);
            item.problem(found, "each name once", "choose another name");
            whole = false;
        } else {
            checks.push(check);
        }
    }
    whole.then_some(checks)
}

/// `tool`, then `tool-2`.
fn numbered(mut check: Check, known: &[Check]) -> Check {
    let label = check.kind.label();
    let taken = |name: &str| known.iter().any(|check| check.name == name);
    let mut number = 1;
    while taken(&check.name) {
        number += 1;
        check.name = format!("{label}-{number}");
    }
    check
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Connect,
    Ping,
    Initialize,
    Tools,
    Tool,
    Http,
    Latency,
    Metric,
    Resource(Resource),
}

const WORDS: [(&str, Word); 12] = [
    ("connect", Word::Connect),
    ("ping", Word::Ping),
    ("discover", Word::Ping),
    ("initialize", Word::Initialize),
    ("tools", Word::Tools),
    ("tool", Word::Tool),
    ("http", Word::Http),
    ("latency", Word::Latency),
    ("metric", Word::Metric),
    ("cpu", Word::Resource(Resource::Cpu)),
    ("memory", Word::Resource(Resource::Memory)),
    ("io_wait", Word::Resource(Resource::IoWait)),
];

/// A check, and whether it has a name of its own.
fn read_check(item: &Field<'_>) -> Option<(Check, bool)> {
    let mut section = item.section()?;
    let Some(word) = section.field("type") else {
        let cure = "write { type: ping }";
        item.problem("a check without a type".into(), &words(), cure);
        return None;
    };
    let word = word.choice(&WORDS)?;
    let kind = read_kind(word, &mut section, item);
    let name = section.field("name");
    let named = name.is_some();
    let name = name.map(|field| read_id(&field));
    let (mut weight, mut critical, mut external) = (1.0, false, false);
    // What a resource counts stands below health.passive.
    if !matches!(word, Word::Resource(_)) {
        let given = section.field("weight").and_then(|field| field.decimal(&(0.01..=100.0)));
        weight = given.unwrap_or(weight);
        section.flag("critical", &mut critical);
    }
    if matches!(word, Word::Http | Word::Metric) {
        section.flag("external", &mut external);
    }
    section.finish();
    let mut check = Check { weight, critical, external, ..Check::new(kind?) };
    if external && !is_from_outside(&check, item) {
        return None;
    }
    if let Some(name) = name {
        check.name = name?;
    }
    Some((check, named))
}

/// Whether what calls itself external is.
fn is_from_outside(check: &Check, item: &Field<'_>) -> bool {
    let (found, cure) = match check.kind.target() {
        Some(CheckTarget::Url(_)) if !check.critical => return true,
        Some(CheckTarget::Url(_)) => (
            "an external check that is critical: one voice alone would fail the server over",
            "remove critical",
        ),
        Some(CheckTarget::Path(_)) | None => (
            "an external check that asks the instance itself",
            "write the monitor's address as url: http://monitor:9115/probe?target={instance}",
        ),
    };
    item.problem(found.into(), "a monitor's url, not critical", cure);
    false
}

fn words() -> String {
    WORDS.map(|(word, _)| word).join(", ")
}

fn read_kind(word: Word, section: &mut Section<'_>, item: &Field<'_>) -> Option<CheckKind> {
    Some(match word {
        Word::Connect => CheckKind::Connect,
        Word::Ping => CheckKind::Ping,
        Word::Initialize => CheckKind::Initialize,
        Word::Tools => {
            let mut expected = Vec::new();
            section.names("expected", 1000, &mut expected);
            CheckKind::Tools { expected }
        }
        Word::Tool => {
            let call = read_call(section);
            let contains = section.text("contains");
            lacks(item, section, &["tool"], "write { type: tool, tool: NAME, arguments: {} }")?;
            let (tool, arguments) = call?;
            CheckKind::Tool { tool, arguments, contains }
        }
        Word::Http => {
            let target = read_target(section);
            let status = section.field("status").and_then(|field| field.count(&(100..=599)));
            let contains = section.text("contains");
            let target = one_target(target, item)?;
            let status = status.and_then(|status| u16::try_from(status).ok());
            CheckKind::Http { target: target?, status, contains }
        }
        Word::Latency => {
            let (mut good, mut bad) = (MS * 500, SECOND * 5);
            section.duration("good", MS..=SECOND * 600, &mut good);
            section.duration("bad", MS..=SECOND * 600, &mut bad);
            if bad <= good {
                let (good, bad) = (show_duration(good), show_duration(bad));
                item.problem(
                    format!("bad, {bad}, is not above good, {good}"),
                    "good below bad",
                    "write good: 500ms and bad: 5s",
                );
                return None;
            }
            CheckKind::Latency { good, bad }
        }
        Word::Metric => return read_metric(section, item),
        Word::Resource(resource) => return read_resource(resource, section, item),
    })
}

/// What `url` and `path` say, as far as they stand there.
fn read_target(section: &mut Section<'_>) -> [Option<Option<CheckTarget>>; 2] {
    let url = section.field("url");
    let url = url.map(|field| read_http_url(&field).map(CheckTarget::Url));
    let path = section.field("path");
    [url, path.map(|field| read_path(&field).map(CheckTarget::Path))]
}

fn one_target(
    given: [Option<Option<CheckTarget>>; 2],
    item: &Field<'_>,
) -> Option<Option<CheckTarget>> {
    let found = match given {
        [Some(one), None] | [None, Some(one)] => return Some(one),
        [None, None] => "a check without an address",
        [Some(_), Some(_)] => "url and path together",
    };
    let allowed = "path, at each instance's own host and port; or url, the same for all of them";
    item.problem(found.into(), allowed, "write path: /healthz");
    None
}

fn read_path(field: &Field<'_>) -> Option<String> {
    let path = field.text()?;
    if path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        return Some(path);
    }
    field.wrong("a path", "/ and what follows the host and port of an instance", "write /healthz");
    None
}

/// What the checks mean for where the server is.
fn fit(checks: &[Check], transport: &Transport, field: &Field<'_>) {
    let instances = match transport {
        Transport::Http { instances } => instances.len(),
        Transport::Sse { .. } | Transport::WebSocket { .. } => 1,
        Transport::Stdio(_) => 0,
    };
    if !checks.is_empty() && !checks.iter().any(Check::asks) {
        let found = "no check that asks an instance whether it answers".to_owned();
        let allowed = "one more than external ones, latency, and those of cpu, memory and io_wait";
        field.problem(found, allowed, "add { type: ping }");
    }
    for check in checks {
        match check.kind.target() {
            Some(CheckTarget::Path(path)) if instances == 0 => {
                let found =
                    format!("check {}: path {path}, of a server that is a process", check.name);
                field.problem(found, "url, or another type of check", "write its whole url");
            }
            Some(CheckTarget::Url(url)) if instances > 1 && check.critical => {
                field.context.notice(format!(
                    "{}: check {} asks {} for every instance, so its failure makes all {instances} of \
                     them unhealthy: write path: instead of url: to ask each at its own address",
                    field.path,
                    check.name,
                    url.authority(),
                ));
            }
            Some(_) | None => {}
        }
    }
}

fn read_metric(section: &mut Section<'_>, item: &Field<'_>) -> Option<CheckKind> {
    const CURE: &str = "write { type: metric, path: /metrics, metric: NAME, good: 0, bad: 100 } or \
                        { type: metric, tool: NAME, pointer: /a/b, … }";
    let number = -1e15..=1e15;
    let good = section.field("good").and_then(|field| field.decimal(&number));
    let bad = section.field("bad").and_then(|field| field.decimal(&number));
    let source = read_source(section, item, &["good", "bad"], CURE)?;
    let (good, bad) = (good?, bad?);
    if good.total_cmp(&bad).is_eq() {
        let cure = "write the value that is fine as good, and the one that is hopeless as bad";
        item.problem(format!("good and bad are both {good}"), "two different numbers", cure);
        return None;
    }
    Some(CheckKind::Metric { source, good, bad })
}

fn read_resource(
    resource: Resource,
    section: &mut Section<'_>,
    item: &Field<'_>,
) -> Option<CheckKind> {
    const CURE: &str = "write { type: cpu, path: /metrics, metric: NAME, full: 100 } or \
                        { type: cpu, tool: NAME, pointer: /a/b, full: 1 }";
    let (mut full, mut counter) = (1.0, false);
    if let Some(given) = section.field("full").and_then(|field| field.decimal(&(1e-6..=1e15))) {
        full = given;
    }
    section.flag("counter", &mut counter);
    let source = read_source(section, item, &[], CURE)?;
    Some(CheckKind::Resource { resource, source, full, counter })
}

/// Where a number stands. `more`: the other keys that must be there.
fn read_source(
    section: &mut Section<'_>,
    item: &Field<'_>,
    more: &[&'static str],
    cure: &str,
) -> Option<MetricSource> {
    let target = match read_target(section) {
        [None, None] => None,
        given => Some(one_target(given, item)?),
    };
    let name = section.field("metric").and_then(|field| read_series(&field));
    let tool = section.field("tool").is_some();
    let call = if tool { read_call(section) } else { section.field("arguments").and(None) };
    let pointer = section.field("pointer").and_then(|field| read_pointer(&field));
    match (target, tool) {
        (Some(target), false) => {
            lacks(item, section, &[&["metric"], more].concat(), cure)?;
            Some(MetricSource::Http { target: target?, name: name? })
        }
        (None, true) => {
            lacks(item, section, &[&["pointer"], more].concat(), cure)?;
            let (tool, arguments) = call?;
            Some(MetricSource::Tool { tool, arguments, pointer: pointer? })
        }
        (Some(_), true) | (None, false) => {
            let found = if tool { "an address and tool together" } else { "a metric from nowhere" };
            item.problem(found.into(), "one of path, url and tool", cure);
            None
        }
    }
}

/// `tool` and `arguments`.
pub(super) fn read_call(section: &mut Section<'_>) -> Option<(String, String)> {
    let arguments = section.field("arguments").map(|field| field.json_object());
    let tool = section.field("tool")?.name()?;
    let arguments = match arguments {
        Some(arguments) => arguments?,
        None => "{}".to_owned(),
    };
    Some((tool, arguments))
}

/// Reports keys that must be there and are not.
fn lacks(item: &Field<'_>, section: &Section<'_>, keys: &[&'static str], cure: &str) -> Option<()> {
    let lacking: Vec<_> = keys.iter().filter(|key| !section.has(key)).copied().collect();
    if lacking.is_empty() {
        return Some(());
    }
    item.problem(format!("a check without {}", lacking.join(" and ")), &keys.join(", "), cure);
    None
}

fn read_series(field: &Field<'_>) -> Option<String> {
    let name = field.text()?;
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b"_:".contains(&b));
    if first && name.len() <= 512 && !name.chars().any(char::is_control) {
        return Some(name);
    }
    let allowed = "a series as it stands in the metrics text, with or without labels";
    field.wrong("a series", allowed, "write something like queue_depth{pool=\"a\"}");
    None
}

fn read_pointer(field: &Field<'_>) -> Option<String> {
    let pointer = field.text()?;
    if pointer.is_empty() || pointer.starts_with('/') {
        return Some(pointer);
    }
    let cure = format!("write /{}", pointer.replace('.', "/"));
    field.wrong("a JSON pointer", "/ before each step: /queue/depth", &cure);
    None
}
