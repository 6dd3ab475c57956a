//! The keys under `sessions.redis`.

use std::time::Duration;

use secrecy::SecretString;

use super::{Redis, RedisTls, Topology};
use crate::context::Context;
use crate::field::Field;
use crate::listen::read_pem;
use crate::section::Section;

#[derive(Default)]
pub(super) struct Keys {
    pub(super) username: Option<String>,
    pub(super) password: Option<SecretString>,
    pub(super) database: Option<u8>,
    tls: Option<RedisTls>,
    sentinel_username: Option<String>,
    sentinel_password: Option<SecretString>,
    replicas_to_acknowledge: Option<u8>,
    acknowledge_within: Option<Duration>,
    command_timeout: Option<Duration>,
    connect_timeout: Option<Duration>,
    key_prefix: Option<String>,
    allow_unsafe: bool,
}

const MS: Duration = Duration::from_millis(1);

// === impl Keys ===

impl Keys {
    pub(super) fn read(&mut self, section: &mut Section<'_>) {
        self.username = section.text("username").filter(|text| !text.is_empty());
        self.password = section.secret("password", 0).filter(is_some);
        self.database = read_small(section, "database", 255);
        self.tls = read_tls(section);
        self.sentinel_username = section.text("sentinel_username").filter(|text| !text.is_empty());
        self.sentinel_password = section.secret("sentinel_password", 0).filter(is_some);
        self.replicas_to_acknowledge =
            read_small(section, "replicas_to_acknowledge", MOST_REPLICAS);
        let mut time = |key, most| {
            let range = MS * 50..=most;
            section.field(key).and_then(|field| field.duration(&range))
        };
        self.acknowledge_within = time("acknowledge_within", MS * 5_000);
        self.command_timeout = time("command_timeout", MS * 10_000);
        self.connect_timeout = time("connect_timeout", MS * 10_000);
        self.key_prefix = section.field("key_prefix").and_then(|field| read_prefix(&field));
        section.flag("allow_unsafe", &mut self.allow_unsafe);
    }

    pub(super) fn put(self, redis: &mut Redis, context: &Context<'_>) {
        fn over<T>(into: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *into = value;
            }
        }
        redis.username = redis.username.take().or(self.username);
        redis.password = redis.password.take().or(self.password);
        over(&mut redis.database, self.database);
        redis.tls = self.tls.or_else(|| redis.tls.take());
        let sentinel = matches!(redis.topology, Topology::Sentinel { .. });
        for key in ["sentinel_username", "sentinel_password"] {
            let key = format!("sessions.redis.{key}");
            if !sentinel && context.is_in_file(&key) {
                let found = format!("{key} has no effect: no Sentinel is asked");
                context.notice(found);
            }
        }
        redis.sentinel_username = self.sentinel_username;
        redis.sentinel_password = self.sentinel_password;
        over(&mut redis.replicas_to_acknowledge, self.replicas_to_acknowledge);
        over(&mut redis.command_timeout, self.command_timeout);
        // Whoever lowers the whole lowers the part with it.
        redis.acknowledge_within = redis.acknowledge_within.min(redis.command_timeout);
        over(&mut redis.acknowledge_within, self.acknowledge_within);
        over(&mut redis.connect_timeout, self.connect_timeout);
        over(&mut redis.key_prefix, self.key_prefix);
        redis.allow_unsafe = self.allow_unsafe;
        if redis.replicas_to_acknowledge == 0
            && !redis.allow_unsafe
            && !matches!(redis.topology, Topology::Standalone(_))
        {
            context.report(
                "sessions.redis.replicas_to_acknowledge",
                "0: whatever the primary had not passed on is lost in a failover".to_owned(),
                "1 or more with Sentinels and in a Redis Cluster",
                "set it to 1, or sessions.redis.allow_unsafe: true",
            );
        }
    }
}

/// More replicas than this are nobody's; a number above it is a slip.
const MOST_REPLICAS: u8 = 10;

fn is_some(secret: &SecretString) -> bool {
    use secrecy::ExposeSecret as _;
    !secret.expose_secret().is_empty()
}

fn read_small(section: &mut Section<'_>, key: &'static str, most: u8) -> Option<u8> {
    let count = section.field(key)?.count(&(0..=u64::from(most)))?;
    u8::try_from(count).ok()
}

fn read_prefix(field: &Field<'_>) -> Option<String> {
    let prefix = field.text()?;
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    if (1..=32).contains(&prefix.len()) && prefix.bytes().all(known) {
        return Some(prefix);
    }
    let allowed = "1 to 32 letters, digits, dashes and underscores";
    field.wrong("a prefix", allowed, "write something like holdfast");
    None
}

fn read_tls(section: &mut Section<'_>) -> Option<RedisTls> {
    let field = section.field("tls")?;
    let mut tls = field.section()?;
    let ca = read_pem(&mut tls, "ca", "CERTIFICATE");
    let client_cert = read_pem(&mut tls, "client_cert", "CERTIFICATE");
    let client_key = read_pem(&mut tls, "client_key", "PRIVATE KEY");
    if let [one] = tls.given(&["client_cert", "client_key"])[..]
        && (client_cert.is_some() || client_key.is_some())
    {
        field.problem(
            format!("{one} alone"),
            "client_cert and client_key together",
            "name both files, or neither",
        );
    }
    tls.finish();
    Some(RedisTls { ca, client_cert, client_key })
}
