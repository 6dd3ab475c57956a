//! What the file and the environment say about the Redis, and what they make together.
//!
//! Its place is said in one way: by a url, or by one of the keys under `sessions.redis`. The
//! environment's url takes the place of whichever the file has.

use super::keys::Keys;
use super::places::{read_address, read_cluster, read_sentinel};
use super::url::{self, RedisUrl};
use super::{Redis, RedisTls, Topology};
use crate::Config;
use crate::context::Context;
use crate::environment;
use crate::field::Field;
use crate::problem::Place;
use crate::section::Section;
use crate::sessions::StoreKind;
use crate::units::show_duration;

/// What is known so far.
#[derive(Default)]
pub(crate) struct Draft {
    /// The url, where there is a good one, and the key or variable that it stands at.
    url: Option<RedisUrl>,
    /// The place by its own keys.
    topology: Option<Topology>,
    /// The keys that say where the Redis is; those that could not be read are among them.
    ways: Vec<&'static str>,
    keys: Keys,
}

const URL_KEY: &str = "sessions.url";
const VARIABLE: &str = "SESSION_STORE_URL";

impl Draft {
    /// Reads `url` and `redis` of the section `sessions`.
    pub(crate) fn read(sessions: &mut Section<'_>) -> Self {
        let mut draft = Self::default();
        // The variable takes its place, and has one problem of its own if it has any.
        let replaced = environment::is_set(sessions.context, VARIABLE);
        if let Some(field) = sessions.field("url") {
            let field = field.hidden();
            if !replaced {
                draft.ways.push(URL_KEY);
                draft.read_url(&field);
            }
        }
        let mut section = sessions.section("redis");
        draft.read_places(&mut section, replaced);
        draft.keys.read(&mut section);
        section.finish();
        draft
    }

    fn read_url(&mut self, field: &Field<'_>) {
        let Some(text) = field.text() else { return };
        match url::parse(&text) {
            Ok(url) => self.url = Some(url),
            Err(fault) => field.problem(fault.found, url::URL, &fault.cure),
        }
    }

    /// `address`, `sentinel` and `cluster`.
    fn read_places(&mut self, section: &mut Section<'_>, replaced: bool) {
        let address = section.field("address");
        let sentinel = section.field("sentinel");
        let cluster = section.field("cluster");
        let mut found = Vec::new();
        if let Some(field) = address {
            let host = read_address(&field, 6379);
            found.push(("sessions.redis.address", host.map(Topology::Standalone)));
        }
        if let Some(field) = sentinel {
            found.push(("sessions.redis.sentinel", read_sentinel(&field)));
        }
        if let Some(field) = cluster {
            found.push(("sessions.redis.cluster", read_cluster(&field)));
        }
        if replaced {
            return;
        }
        for (key, topology) in found {
            self.ways.push(key);
            self.topology = self.topology.take().or(topology);
        }
    }

    /// Puts `SESSION_STORE_URL` on top.
    pub(crate) fn apply(&mut self, context: &Context<'_>) {
        let Some(variable) = environment::read(context, VARIABLE, URL_KEY) else { return };
        self.ways = vec![URL_KEY];
        match url::parse(&variable.text) {
            Ok(url) => self.url = Some(url),
            Err(fault) => variable.problem(fault.found, url::URL, &fault.cure),
        }
    }

    /// Makes the configuration's Redis, where that is the store.
    pub(crate) fn settle(self, config: &mut Config, context: &Context<'_>) {
        if config.sessions.store != StoreKind::Redis {
            self.without_store(config.sessions.store, context);
            return;
        }
        match self.ways.as_slice() {
            [] => {
                context.report(
                    "sessions.store",
                    "redis, and nothing says where it is".into(),
                    "redis with sessions.url",
                    "write url: \"redis://HOST:6379\", or set SESSION_STORE_URL",
                );
                return;
            }
            [_] => {}
            [first, .., last] => {
                context.report(
                    last,
                    format!("the place of the Redis a second time: {first} says it too"),
                    "one of sessions.url, sessions.redis.address, .sentinel and .cluster",
                    "keep one of them",
                );
                return;
            }
        }
        config.sessions.redis = self.together(context);
    }

    /// Keys of a Redis that is not the store: probably a word that is missing.
    fn without_store(&self, store: StoreKind, context: &Context<'_>) {
        if context.is_doubtful("sessions.store") {
            return;
        }
        let keys = [URL_KEY, "sessions.redis"];
        let given: Vec<_> = keys.into_iter().filter(|key| context.is_given(key)).collect();
        let Some(key) = given.first() else { return };
        if context.is_doubtful(key) {
            return;
        }
        // Who says by a variable that this node keeps its sessions elsewhere knows about the file.
        let by_variable = matches!(context.place_of("sessions.store"), Place::Variable(_));
        if by_variable && given.iter().all(|key| context.is_in_file(key)) {
            context.notice(format!(
                "{} has no effect: SESSION_STORE is {}",
                given.join(" and "),
                store.label()
            ));
            return;
        }
        let cure = match context.place_of(key) {
            Place::Variable(_) => "set SESSION_STORE=redis, or unset SESSION_STORE_URL",
            Place::File | Place::At { .. } => "write store: redis beside it, or remove it",
        };
        let found = format!(
            "the place of a Redis, and sessions are kept in {}",
            match store {
                StoreKind::Memory => "memory",
                StoreKind::Replicated => "the cluster's own store",
                StoreKind::Redis => "it",
            }
        );
        context.report(key, found, "it with sessions.store: redis", cure);
    }

    fn together(self, context: &Context<'_>) -> Option<Redis> {
        let before = context.problem_count();
        let Self { url, topology, ways: _, keys } = self;
        let (topology, url) = match url {
            Some(url) => (url.topology.clone(), Some(url)),
            None => (topology?, None),
        };
        let mut redis = Redis::new(topology);
        twice(url.as_ref(), &keys, context);
        if let Some(url) = url {
            redis.username = url.username;
            redis.password = url.password;
            redis.database = url.database.unwrap_or_default();
            redis.tls = url.tls.then(RedisTls::default);
        }
        keys.put(&mut redis, context);
        fits(&redis, context);
        (context.problem_count() == before).then_some(redis)
    }
}

/// What stands both in the url and beside it.
fn twice(url: Option<&RedisUrl>, keys: &Keys, context: &Context<'_>) {
    let Some(url) = url else { return };
    let both = [
        ("username", url.username.is_some() && keys.username.is_some()),
        ("password", url.password.is_some() && keys.password.is_some()),
        ("database", url.database.is_some() && keys.database.is_some()),
    ];
    for (key, _) in both.iter().filter(|(_, both)| *both) {
        context.report(
            &format!("sessions.redis.{key}"),
            format!("the {key} a second time: the url says it too"),
            &format!("the {key} in one place"),
            "remove it here, or from the url",
        );
    }
}

/// What the parts must have of one another.
fn fits(redis: &Redis, context: &Context<'_>) {
    if redis.database != 0 && matches!(redis.topology, Topology::Cluster { .. }) {
        context.report(
            "sessions.redis.database",
            format!("the database {} with a Redis Cluster", redis.database),
            "0",
            "remove it: a Redis Cluster has no database but 0",
        );
    }
    if redis.acknowledge_within > redis.command_timeout {
        let (wait, command) =
            (show_duration(redis.acknowledge_within), show_duration(redis.command_timeout));
        context.report(
            "sessions.redis.acknowledge_within",
            format!("{wait} is longer than command_timeout, {command}"),
            "acknowledge_within up to command_timeout",
            &format!("write {command}, or a longer command_timeout"),
        );
    }
    if redis.username.is_some() && redis.password.is_none() {
        let key = "sessions.redis.username";
        context.report(
            if context.is_given(key) { key } else { URL_KEY },
            "a user without a password".into(),
            "both, a password alone, or neither",
            "a password alone is written :PASSWORD@; or add sessions.redis.password",
        );
    }
    if redis.sentinel_username.is_some() && redis.sentinel_password.is_none() {
        context.report(
            "sessions.redis.sentinel_username",
            "a user without a password".into(),
            "both, sentinel_password alone, or neither",
            "add sentinel_password",
        );
    }
}
