//! The scrape, read by a strict parser of the text format.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

#[derive(Debug, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

#[derive(Debug, Default)]
struct Scrape {
    kinds: BTreeMap<String, String>,
    samples: Vec<Sample>,
}

impl Scrape {
    fn of(metrics: &Metrics) -> Self {
        let mut text = String::new();
        metrics.render(&mut text);
        parse(&text)
    }

    fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted: BTreeMap<String, String> =
            labels.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
        self.samples.iter().find(|s| s.name == name && s.labels == wanted).map(|s| s.value)
    }
}

/// Refuses everything that the format forbids: samples without a type, a family in two places, a
/// type or help twice, a series twice, bad names, bad escapes, a missing last line end.
fn parse(text: &str) -> Scrape {
    assert!(text.ends_with('\n'), "the last line must end");
    let mut scrape = Scrape::default();
    let mut helped = BTreeSet::new();
    let mut closed = BTreeSet::new();
    let mut current = String::new();
    let mut seen = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(!help.is_empty() && helped.insert(name.to_owned()), "help of {name}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{kind}");
            assert!(helped.contains(name), "{name} has no help before its type");
            assert!(closed.insert(std::mem::replace(&mut current, name.to_owned())));
            assert!(scrape.kinds.insert(name.to_owned(), kind.to_owned()).is_none());
            assert!(kind != "counter" || name.ends_with("_total"), "{name}");
        } else {
            let sample = parse_sample(line);
            let kind = scrape.kinds.get(&current).expect("a type before the sample");
            let family = match kind.as_str() {
                "histogram" => ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|suffix| sample.name.strip_suffix(suffix))
                    .expect("a histogram's suffix"),
                _ => &sample.name,
            };
            assert_eq!(family, current, "sample outside its family: {line}");
            assert!(seen.insert((sample.name.clone(), sample.labels.clone())), "twice: {line}");
            scrape.samples.push(sample);
        }
    }
    for name in scrape.kinds.keys() {
        assert!(scrape.samples.iter().any(|s| s.name.starts_with(name)), "{name} is empty");
    }
    scrape
}

fn parse_sample(line: &str) -> Sample {
    let name_len = line.find(['{', ' ']).expect("a name");
    let name = &line[..name_len];
    assert!(is_name(name), "{line}");
    let mut labels = BTreeMap::new();
    let mut rest = &line[name_len..];
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (key, after) = rest.split_once("=\"").expect("a label");
            assert!(is_name(key) && !key.contains(':'), "{line}");
            let (value, after) = parse_quoted(after);
            assert!(labels.insert(key.to_owned(), value).is_none(), "label twice: {line}");
            match after.split_at(1) {
                (",", next) => rest = next,
                ("}", next) => {
                    rest = next;
                    break;
                }
                _ => panic!("after a label: {line}"),
            }
        }
    }
    let value = rest.strip_prefix(' ').expect("a space");
    Sample { name: name.to_owned(), labels, value: value.parse().expect("a number") }
}

fn parse_quoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => match chars.next().expect("an escape").1 {
                'n' => value.push('\n'),
                c @ ('"' | '\\') => value.push(c),
                c => panic!("escape {c}"),
            },
            c => value.push(c),
        }
    }
    panic!("no closing quote")
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}

/// What a name may be, for all that the text format knows.
const WEIRD: &str = "we\"ird\\na\nme";

fn counted(metrics: &Metrics, names: &[&str]) -> impl Iterator<Item = Arc<ServerMetrics>> {
    names.iter().map(|name| metrics.server(name)).collect::<Vec<_>>().into_iter()
}

fn busy() -> Arc<Metrics> {
    let metrics = Metrics::new(&["github".to_owned(), WEIRD.to_owned()]);
    let ms = Duration::from_millis;
    metrics.server("github").call(Method::ToolsCall, CallOutcome::Ok, ms(3));
    metrics.server("github").call(Method::ToolsCall, CallOutcome::Ok, ms(700));
    for outcome in CallOutcome::ALL {
        metrics.server(WEIRD).call(Method::ToolsList, outcome, ms(90_000));
    }
    let fleet = crate::fleet::testing::fleet(
        r#"servers: { pair: { instances: [
            { id: a, url: "http://127.0.0.1:1/mcp" }, { id: b, url: "http://127.0.0.1:2/mcp" } ] } }"#,
    );
    metrics.tell_of(fleet, counted(&metrics, &["github", "pair", WEIRD]));
    metrics.tell_of_store(Arc::default());
    metrics.rejected(Rejection::Origin);
    metrics.server(WEIRD).process_exits.add(2);
    metrics.sessions.set(5);
    metrics
}

#[test]
fn an_idle_node_renders_valid_text() {
    let scrape = Scrape::of(&Metrics::new(&[]));
    assert_eq!(scrape.value("holdfast_sessions", &[]), Some(0.0));
    assert!(scrape.value("process_resident_memory_bytes", &[]).is_some_and(|v| v > 0.0));
    assert!(!scrape.kinds.contains_key("mcp_errors_total"), "no error yet");
    assert!(!scrape.kinds.contains_key("holdfast_server_sessions"), "no server");
}

#[test]
fn calls_are_a_histogram_with_cumulative_buckets() {
    let metrics = busy();
    let scrape = Scrape::of(&metrics);
    let labels = [("method", "tools/call"), ("server_id", "github"), ("status", "ok")];
    let bucket = |le: &'static str| {
        let mut with_le = labels.to_vec();
        with_le.push(("le", le));
        scrape.value("mcp_request_duration_seconds_bucket", &with_le)
    };
    assert_eq!(bucket("0.0025"), Some(0.0));
    assert_eq!(bucket("0.005"), Some(1.0));
    assert_eq!(bucket("0.5"), Some(1.0));
    assert_eq!(bucket("1"), Some(2.0));
    assert_eq!(bucket("+Inf"), Some(2.0));
    assert_eq!(scrape.value("mcp_request_duration_seconds_count", &labels), Some(2.0));
    assert_eq!(scrape.value("mcp_request_duration_seconds_sum", &labels), Some(0.703));
}

#[test]
fn each_error_type_is_its_own_series_and_success_is_none() {
    let scrape = Scrape::of(&busy());
    let name = "mcp_errors_total";
    let types: Vec<&str> = scrape
        .samples
        .iter()
        .filter(|s| s.name == name)
        .map(|s| {
            assert_eq!(s.labels["server_id"], "we\"ird\\na\nme", "escaped and back");
            assert_eq!((s.labels["method"].as_str(), s.value), ("tools/list", 1.0));
            s.labels["error_type"].as_str()
        })
        .collect();
    let expected = CallOutcome::ALL.iter().filter(|o| o.is_error()).map(|o| o.label());
    assert_eq!(types, expected.collect::<Vec<_>>());
}

#[test]
fn methods_that_were_never_called_are_not_rendered() {
    let scrape = Scrape::of(&busy());
    let methods: BTreeSet<_> =
        scrape.samples.iter().filter_map(|s| s.labels.get("method")).collect();
    assert_eq!(methods.len(), 2);
    assert_eq!(scrape.value("holdfast_rejected_total", &[("reason", "origin")]), Some(1.0));
    assert_eq!(scrape.value("holdfast_rejected_total", &[("reason", "host")]), None);
}

#[test]
fn servers_have_their_own_counts() {
    let metrics = busy();
    let _guard = metrics.server("github").in_flight.enter();
    let scrape = Scrape::of(&metrics);
    let of = |name, server| scrape.value(name, &[("server_id", server)]);
    assert_eq!(of("holdfast_server_in_flight", "github"), Some(1.0));
    assert_eq!(of("holdfast_server_process_exits_total", "we\"ird\\na\nme"), Some(2.0));
    assert_eq!(of("holdfast_server_process_exits_total", "github"), Some(0.0));
}

#[test]
fn a_server_that_leaves_takes_its_gauges_along_and_leaves_its_counters() {
    let metrics = busy();
    metrics.server("github").connects.add(3);
    let running = metrics.server("github").in_flight.enter();
    metrics.configure(counted(&metrics, &["pair", WEIRD]));
    let of = |name| Scrape::of(&metrics).value(name, &[("server_id", "github")]);
    // What still runs is shown until it ends.
    assert_eq!(of("holdfast_server_in_flight"), Some(1.0));
    assert_eq!(of("holdfast_server_sessions"), None);
    drop(running);
    assert_eq!(of("holdfast_server_in_flight"), None);
    assert_eq!(of("holdfast_server_connects_total"), Some(3.0));
    // It comes back, and is counted on from where it was.
    metrics.configure(counted(&metrics, &["github", "pair", WEIRD]));
    metrics.server("github").connects.inc();
    assert_eq!(of("holdfast_server_connects_total"), Some(4.0));
    assert_eq!(of("holdfast_server_in_flight"), Some(0.0));
}

#[test]
fn a_look_notes_successes_but_not_failures() {
    let metrics = Metrics::new(&["a".to_owned()]);
    metrics.server("a").call(Method::ToolsCall, CallOutcome::TimedOut, Duration::ZERO);
    metrics.look(Instant::now());
    assert_eq!(metrics.server("a").last_success(), None);
    metrics.server("a").call(Method::ToolsCall, CallOutcome::Ok, Duration::ZERO);
    metrics.look(Instant::now());
    assert!(metrics.server("a").last_success().is_some());
    metrics.server("a").failed(&"x".repeat(400));
    assert_eq!(metrics.server("a").last_error().map(|(_, text)| text.len()), Some(300));
}

#[test]
fn rejections_index_their_table() {
    for (index, why) in Rejection::ALL.into_iter().enumerate() {
        assert_eq!(why as usize, index);
    }
}

#[test]
fn the_documentation_names_every_metric_and_no_other() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
    let text = std::fs::read_to_string(path).unwrap();
    let documented: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(['`', '{']).next())
        .filter(|name| ["mcp_", "holdfast_", "process_"].iter().any(|p| name.starts_with(p)))
        // The operator's port adds these: the data plane does not know that there is a cluster.
        .filter(|name| !name.starts_with("holdfast_cluster_"))
        // And these: it does not know who decides about servers, or about configurations, either.
        .filter(|name| !name.starts_with("holdfast_control_") && *name != "mcp_server_health")
        .filter(|name| !name.starts_with("holdfast_config_"))
        // Only a store in Redis may be away.
        .filter(|name| *name != "holdfast_store_takes_writes")
        .collect();
    let scrape = Scrape::of(&busy());
    let rendered: BTreeSet<&str> = scrape.kinds.keys().map(String::as_str).collect();
    assert_eq!(documented, rendered);
}
