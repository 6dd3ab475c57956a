//! The one-line form: `redis://USER:PASSWORD@HOST:6379/0` and its kin.
//!
//! A text that is not such an address may hold a password in a place where none belongs, so nothing
//! here shows any part of it but the scheme and what cannot be one.

use secrecy::SecretString;

use super::{HostPort, Topology};
use crate::nearest::nearest;
use crate::server::{UrlError, parse_port, split_port};

/// What a url says.
#[derive(Clone, Debug)]
pub(super) struct RedisUrl {
    pub(super) topology: Topology,
    pub(super) username: Option<String>,
    pub(super) password: Option<SecretString>,
    pub(super) database: Option<u8>,
    pub(super) tls: bool,
}

/// What is wrong with a url, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) found: String,
    pub(super) cure: String,
}

/// What `sessions.url` may be.
pub(super) const URL: &str = "redis://HOST:6379/0, rediss://… (TLS), \
    redis+sentinel://HOST:26379,HOST:26379/MASTER or redis+cluster://HOST:6379,HOST:6379, with \
    USER:PASSWORD@ before the first host where it asks for one";

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Standalone,
    Sentinel,
    Cluster,
}

const SCHEMES: [(&str, Kind, bool); 6] = [
    ("redis", Kind::Standalone, false),
    ("rediss", Kind::Standalone, true),
    ("redis+sentinel", Kind::Sentinel, false),
    ("rediss+sentinel", Kind::Sentinel, true),
    ("redis+cluster", Kind::Cluster, false),
    ("rediss+cluster", Kind::Cluster, true),
];

fn fault<T>(found: impl Into<String>, cure: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { found: found.into(), cure: cure.into() })
}

/// Takes a url apart.
pub(super) fn parse(text: &str) -> Result<RedisUrl, Fault> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return fault("an address without a scheme (not shown)", "write redis:// before it");
    };
    let (kind, tls) = scheme_of(scheme)?;
    let (authority, path) = match rest.split_once('/') {
        Some((authority, path)) => (authority, path),
        None => (rest, ""),
    };
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (Some(user), hosts),
        None => (None, authority),
    };
    // A stray `/`, `?` or `#` ends the authority early, and what should be the host holds the rest.
    if path.contains('@')
        || user.is_some_and(is_stray)
        || !text.bytes().all(|b| b.is_ascii_graphic())
    {
        return fault(
            "a user or password with characters that end it early, or that are not ASCII (not \
             shown)",
            "percent-encode them: %40 for @, %2F for /, %3A for :, %23 for #, %3F for ?, %25 for \
             %, %20 for a blank; or write sessions.redis.password",
        );
    }
    if rest.contains(['?', '#']) {
        return fault(
            "an address with something after ? or # (not shown)",
            "remove it: further keys go under sessions.redis",
        );
    }
    let (username, password) = match user {
        Some(user) => credentials(user)?,
        None => (None, None),
    };
    let port = if kind == Kind::Sentinel { SENTINEL_PORT } else { REDIS_PORT };
    let mut hosts = read_hosts(hosts, port)?;
    let (topology, database) = match kind {
        Kind::Standalone => {
            if hosts.len() > 1 {
                return fault(
                    "several addresses of one Redis",
                    "write redis+sentinel://…/MASTER or redis+cluster://…, whichever they are",
                );
            }
            (Topology::Standalone(hosts.remove(0)), read_database(path)?)
        }
        Kind::Sentinel => {
            let (master, database) = path.split_once('/').unwrap_or((path, ""));
            if !is_master(master) {
                return fault(
                    if master.is_empty() {
                        "no name of a master"
                    } else {
                        "a name of a master that no Sentinel takes (not shown)"
                    },
                    "write it after the last host: …:26379/mymaster, as `sentinel monitor` calls it",
                );
            }
            let topology = Topology::Sentinel { sentinels: hosts, master: master.to_owned() };
            (topology, read_database(database)?)
        }
        Kind::Cluster => {
            if !matches!(read_database(path)?, None | Some(0)) {
                return fault(
                    "a database's number with a Redis Cluster",
                    "remove it: a Redis Cluster has no database but 0",
                );
            }
            (Topology::Cluster { nodes: hosts }, None)
        }
    };
    Ok(RedisUrl { topology, username, password, database, tls })
}

fn scheme_of(scheme: &str) -> Result<(Kind, bool), Fault> {
    let lower = scheme.to_ascii_lowercase();
    if let Some((_, kind, tls)) = SCHEMES.iter().find(|(name, ..)| *name == lower) {
        return Ok((*kind, *tls));
    }
    let names = SCHEMES.map(|(name, ..)| name);
    let cure = match nearest(&lower, &names) {
        Some(name) => format!("did you mean {name}://?"),
        None => format!("write one of {}", names.join(", ")),
    };
    // A word that is a scheme beyond doubt; anything else could be a password out of place.
    let foreign = ["http", "https", "tcp", "unix", "memory", "memcached", "etcd", "postgres"];
    if foreign.contains(&lower.as_str()) || nearest(&lower, &names).is_some() {
        fault(format!("{lower}:// is not a Redis"), cure)
    } else {
        fault("an address of another kind (not shown)", cure)
    }
}

/// Whether a user and password hold what belongs percent-encoded.
fn is_stray(user: &str) -> bool {
    let mut rest = user.bytes();
    while let Some(byte) = rest.next() {
        let fits = match byte {
            b'@' | b'?' | b'#' | b'[' | b']' | b'\\' => false,
            b'%' => {
                [rest.next(), rest.next()].iter().all(|b| b.is_some_and(|b| b.is_ascii_hexdigit()))
            }
            _ => true,
        };
        if !fits {
            return true;
        }
    }
    false
}

type Credentials = (Option<String>, Option<SecretString>);

/// `USER:PASSWORD`, `:PASSWORD`, or `USER` alone, whose password is a key of its own.
fn credentials(text: &str) -> Result<Credentials, Fault> {
    let (user, password) = match text.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (text, None),
    };
    let not_text = Fault {
        found: "a user or password that is not UTF-8 once decoded (not shown)".into(),
        cure: "percent-encode the bytes of its UTF-8 form".into(),
    };
    let user = decode(user).ok_or_else(|| not_text.clone())?;
    let password = match password {
        Some(password) => Some(decode(password).ok_or(not_text)?),
        None => None,
    };
    let some = |text: String| (!text.is_empty()).then_some(text);
    Ok((some(user), password.and_then(some).map(SecretString::from)))
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        bytes.push(u8::from_str_radix(rest.get(at + 1..at + 3)?, 16).ok()?);
        rest = &rest[at + 3..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).ok()
}

fn read_hosts(text: &str, port: u16) -> Result<Vec<HostPort>, Fault> {
    let mut hosts = Vec::new();
    for part in text.split(',') {
        let host = parse_host(part, port).map_err(|why| Fault {
            found: format!("a host that cannot be called: {why}"),
            cure: format!("write something like redis:{port}"),
        })?;
        if hosts.contains(&host) {
            return fault(format!("{host} stands there a second time"), "keep one of the two");
        }
        hosts.push(host);
    }
    Ok(hosts)
}

/// `HOST` or `HOST:PORT`, IPv6 in brackets.
pub(super) fn parse_host(text: &str, default: u16) -> Result<HostPort, UrlError> {
    let (host, port) = split_port(text.trim())?;
    let port = match port {
        Some(port) => parse_port(port)?,
        None => default,
    };
    Ok(HostPort { host, port })
}

fn read_database(path: &str) -> Result<Option<u8>, Fault> {
    if path.is_empty() {
        return Ok(None);
    }
    let digits = path.bytes().all(|b| b.is_ascii_digit());
    match path.parse::<u8>() {
        Ok(number) if digits => Ok(Some(number)),
        _ => fault(
            "something after the host that is no database's number",
            "write a number from 0 to 255 there, or nothing",
        ),
    }
}

/// What Sentinel takes for a master's name.
pub(super) fn is_master(name: &str) -> bool {
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    (1..=64).contains(&name.len()) && name.bytes().all(known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let url = parse(text).unwrap_or_else(|fault| panic!("{text}: {fault:?}"));
        let hosts = |hosts: &[HostPort]| {
            hosts.iter().map(HostPort::to_string).collect::<Vec<_>>().join(" ")
        };
        let at = match &url.topology {
            Topology::Standalone(host) => host.to_string(),
            Topology::Sentinel { sentinels, master } => format!("{master} by {}", hosts(sentinels)),
            Topology::Cluster { nodes } => format!("cluster {}", hosts(nodes)),
        };
        let password = url.password.as_ref().map(|p| p.expose_secret().to_owned());
        let shown = format!(
            "{at} {} {} {} {}",
            url.username.as_deref().unwrap_or("-"),
            password.as_deref().unwrap_or("-"),
            url.database.map_or_else(|| "-".into(), |n| n.to_string()),
            if url.tls { "tls" } else { "plain" },
        );
        assert_eq!(shown, expected, "{text}");
    }

    #[test]
    fn every_form() {
        check("redis://redis", "redis:6379 - - - plain");
        check("redis://Redis:1/", "redis:1 - - - plain");
        check("REDISS://redis/3", "redis:6379 - - 3 tls");
        check("redis://[::1]:7/0", "[::1]:7 - - 0 plain");
        check("redis://app:s3cret@redis:6379/0", "redis:6379 app s3cret 0 plain");
        check("redis://:p%40ss%2Fw%25%3a@h", "h:6379 - p@ss/w%: - plain");
        check("redis://app@h", "h:6379 app - - plain");
        check("redis://a:b:c@h", "h:6379 a b:c - plain");
        check(
            "redis+sentinel://s1,s2:5,[::1]/mymaster",
            "mymaster by s1:26379 s2:5 [::1]:26379 - - - plain",
        );
        check("rediss+sentinel://u:p@s1/m.y-1/2", "m.y-1 by s1:26379 u p 2 tls");
        check("redis+cluster://a,b:7", "cluster a:6379 b:7 - - - plain");
        check("rediss+cluster://:p@a/0", "cluster a:6379 - p - tls");
    }

    #[track_caller]
    fn wrong(text: &str, found: &str, cure: &str) {
        let fault = parse(text).expect_err(text);
        assert!(fault.found.contains(found), "{text}: {fault:?}");
        assert!(fault.cure.contains(cure), "{text}: {fault:?}");
        assert!(!format!("{fault:?}").contains("hunter"), "{text}: {fault:?}");
    }

    #[test]
    fn every_mistake_has_its_cure_and_shows_no_password() {
        wrong("redis:6379", "without a scheme", "redis://");
        wrong("redi://h", "redi:// is not a Redis", "did you mean redis://");
        wrong("http://hunter@h", "http:// is not a Redis", "write one of redis, rediss");
        wrong("hunter hunter://h", "another kind (not shown)", "write one of");
        for stray in ["hun/ter", "hun@ter", "hun#ter", "hun?ter", "hun%ter", "hun ter", "hün"] {
            wrong(&format!("redis://u:{stray}@h"), "end it early", "%2F for /");
        }
        wrong("redis://:%ff@h", "not UTF-8", "percent-encode");
        wrong("redis://h?db=1", "after ?", "sessions.redis");
        wrong("redis://a,b", "several addresses", "redis+sentinel");
        wrong("redis://", "names no host", "redis:6379");
        wrong("redis://a:0", "port", "redis:6379");
        wrong("redis://h/mymaster", "no database's number", "0 to 255");
        wrong("redis://h/256", "no database's number", "0 to 255");
        wrong("redis+sentinel://s1,s2", "no name of a master", "26379/mymaster");
        wrong("redis+sentinel://s1/a b", "end it early", "");
        wrong("redis+sentinel://s1/a,b", "no Sentinel takes", "sentinel monitor");
        wrong("redis+sentinel://s1,s1/m", "second time", "keep one");
        wrong("redis+cluster://a/1", "database's number with a Redis Cluster", "no database but 0");
    }
}
