//! docker-compose.ha.yml is a compose file: every key is one that Docker Compose knows, at the place
//! where it knows it, with a value of the right form. No container engine runs here, and nothing else
//! would notice a key that is misspelt.

use std::path::Path;

use serde_json::Value;

use crate::workspace::{none, read};

const FILE: &str = "docker-compose.ha.yml";

/// What a value has to be. Of the compose specification, as much as the file uses.
enum Form {
    Text,
    Yes,
    /// One of these.
    Of(&'static [&'static str]),
    /// Digits and a unit, several times over.
    Duration,
    Count,
    /// A mapping with keys of its own choice.
    Named(&'static Self),
    /// A mapping with these keys and no others.
    Keys(&'static [(&'static str, Self)]),
    /// A list of such.
    List(&'static Self),
    /// Nothing, or this.
    Maybe(&'static Self),
}

use Form::{Count, Duration, Keys, List, Maybe, Named, Of, Text, Yes};

const TEXTS: Form = List(&Text);

const SERVICE: Form = Keys(&[
    ("image", Text),
    ("build", Keys(&[("context", Text), ("target", Text)])),
    ("pull_policy", Of(&["always", "never", "missing", "build"])),
    ("user", Text),
    ("init", Yes),
    ("restart", Of(&["no", "always", "on-failure", "unless-stopped"])),
    ("stop_grace_period", Duration),
    ("entrypoint", TEXTS),
    ("command", TEXTS),
    ("environment", Named(&Text)),
    ("volumes", TEXTS),
    ("ports", TEXTS),
    ("cap_add", TEXTS),
    ("network_mode", Text),
    ("networks", Named(&Keys(&[("ipv4_address", Text)]))),
    ("depends_on", Named(&Keys(&[("condition", Of(&["service_started", "service_healthy"]))]))),
    (
        "healthcheck",
        Keys(&[("test", TEXTS), ("interval", Duration), ("timeout", Duration), ("retries", Count)]),
    ),
]);

const NETWORK: Form =
    Keys(&[("ipam", Keys(&[("config", List(&Keys(&[("subnet", Text), ("gateway", Text)])))]))]);

/// What a value is not, with its place.
fn check(form: &Form, value: &Value, at: &str, findings: &mut Vec<String>) {
    let wrong = |what: &str| format!("{at}: {what} and not {value}");
    let fits = match form {
        Text => value.is_string().then_some(()).ok_or_else(|| wrong("text")),
        Yes => value.is_boolean().then_some(()).ok_or_else(|| wrong("true or false")),
        Count => value.is_u64().then_some(()).ok_or_else(|| wrong("a number")),
        Duration => value
            .as_str()
            .filter(|it| is_duration(it))
            .map(|_| ())
            .ok_or_else(|| wrong("a duration")),
        Of(known) => {
            let fits = value.as_str().is_some_and(|it| known.contains(&it));
            fits.then_some(()).ok_or_else(|| wrong(&known.join(" or ")))
        }
        Maybe(form) if !value.is_null() => return check(form, value, at, findings),
        Maybe(_) => Ok(()),
        List(form) => match value.as_array() {
            None => Err(wrong("a list")),
            Some(items) => {
                for (number, item) in items.iter().enumerate() {
                    check(form, item, &format!("{at}[{number}]"), findings);
                }
                Ok(())
            }
        },
        Named(_) | Keys(_) => match value.as_object() {
            None => Err(wrong("a mapping")),
            Some(entries) => {
                for (key, value) in entries {
                    let place = format!("{at}.{key}");
                    match form {
                        Named(form) => check(form, value, &place, findings),
                        Keys(known) => match known.iter().find(|(name, _)| name == key) {
                            Some((_, form)) => check(form, value, &place, findings),
                            None => findings.push(format!("{place}: no such key")),
                        },
                        _ => {}
                    }
                }
                Ok(())
            }
        },
    };
    findings.extend(fits.err());
}

/// `1m30s`: what compose takes.
fn is_duration(text: &str) -> bool {
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        let unit = ["us", "ms", "s", "m", "h"].into_iter().find(|unit| digits.starts_with(unit));
        match unit {
            Some(unit) if digits.len() < rest.len() => rest = &digits[unit.len()..],
            _ => return false,
        }
    }
    !text.is_empty()
}

fn parsed(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|e| panic!("{FILE}: {e}"))
}

fn findings(compose: &Value) -> Vec<String> {
    let mut findings = Vec::new();
    for (key, value) in compose.as_object().expect("a mapping") {
        let form = match key.as_str() {
            "name" => Text,
            "services" => Named(&SERVICE),
            "networks" => Named(&NETWORK),
            "volumes" => Named(&Maybe(&Keys(&[]))),
            // Templates: their keys are those of the services that take them in.
            other if other.starts_with("x-") => continue,
            _ => {
                findings.push(format!("{key}: no such key"));
                continue;
            }
        };
        check(&form, value, key, &mut findings);
    }
    let services = &compose["services"];
    for (name, service) in services.as_object().expect("services") {
        if service.get("network_mode").is_some() == service.get("networks").is_some() {
            findings.push(format!("{name}: either network_mode or networks"));
        }
        if service.get("network_mode").is_some() && service.get("ports").is_some() {
            findings.push(format!("{name}: ports belong to the service whose network it is in"));
        }
        let waited = service["depends_on"].as_object().into_iter().flatten().map(|(it, _)| it);
        let unknown = waited.filter(|it| services.get(it.as_str()).is_none());
        findings.extend(unknown.map(|it| format!("{name} depends on {it}, which is not there")));
    }
    findings
}

#[test]
fn every_key_is_one_that_compose_knows() {
    none(&findings(&parsed(&read(Path::new(FILE)))), "keys and values of docker-compose.ha.yml:");
}

/// The check sees what it is for.
#[test]
fn what_is_misspelt_is_found() {
    let text = read(Path::new(FILE));
    for (right, wrong) in [
        ("stop_grace_period: 10s", "stop_grace_perod: 10s"),
        ("stop_grace_period: 10s", "stop_grace_period: 10sec"),
        ("condition: service_started", "condition: started"),
        ("restart: unless-stopped", "restart: unless_stopped"),
        ("ipv4_address:", "ipv4_adress:"),
        ("retries: 3", "retries: three"),
        ("gateway-3: { condition", "gateway-4: { condition"),
        ("cap_add: [NET_ADMIN", "cap_ad: [NET_ADMIN"),
        ("volumes:\n", "volume:\n"),
        ("subnet:", "sub_net:"),
        ("network_mode: \"service:balancer\"", "networks: {}\n    network_mode: \"service:x\""),
    ] {
        let broken = text.replace(right, wrong);
        assert_ne!(broken, text, "{FILE} has no {right:?} any more");
        assert!(!findings(&parsed(&broken)).is_empty(), "{wrong:?} is not found");
    }
}
