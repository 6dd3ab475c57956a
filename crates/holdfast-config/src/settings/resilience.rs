//! The settings of the sections about what fails: health, bulkheads, notifications, the store. Every
//! field is taken apart by name, so that a new one that is left out does not compile.

use std::fmt::Display;
use std::time::Duration;

use holdfast_engine::health::Bars;

use super::lines::Lines;
use crate::health::{Health, Indicator, Levels, NodeHealth, Passive, Votes};
use crate::redis::{Redis, RedisTls, Topology};
use crate::units::show_duration;
use crate::{Bulkhead, BulkheadClass, Bulkheads, RetryBudget, Sessions, Webhook};

impl NodeHealth {
    pub(super) fn write(&self, lines: &mut Lines) {
        let Self { cpu, memory, disk, success, p95, connections, certificate_expiry } = self;
        fn levels<T, D: Display>(
            key: &str,
            value: &Levels<T>,
            show: impl Fn(&T) -> D,
            lines: &mut Lines,
        ) {
            let Levels { warning, critical, emergency } = value;
            lines.list(key, [show(warning), show(critical), show(emergency)]);
        }
        let time = |time: &Duration| show_duration(*time);
        levels("cpu", cpu, f64::to_string, lines);
        levels("memory", memory, f64::to_string, lines);
        levels("disk", disk, f64::to_string, lines);
        levels("success", success, f64::to_string, lines);
        levels("p95", p95, time, lines);
        levels("connections", connections, u64::to_string, lines);
        levels("certificate_expiry", certificate_expiry, time, lines);
    }
}

impl Sessions {
    pub(super) fn write(&self, lines: &mut Lines) {
        let Self { store, redis, ttl } = self;
        lines.put("store", store.label());
        if let Some(redis) = redis {
            lines.below("redis", |lines| redis.write(lines));
        }
        lines.time("ttl", *ttl);
    }
}

impl Redis {
    pub(super) fn write(&self, lines: &mut Lines) {
        let Self {
            topology,
            username,
            password,
            database,
            tls,
            sentinel_username,
            sentinel_password,
            replicas_to_acknowledge,
            acknowledge_within,
            command_timeout,
            connect_timeout,
            key_prefix,
            allow_unsafe,
        } = self;
        match topology {
            Topology::Standalone(at) => lines.put("address", at),
            Topology::Sentinel { sentinels, master } => {
                lines.list("sentinel.sentinels", sentinels);
                lines.put("sentinel.master", master);
            }
            Topology::Cluster { nodes } => lines.list("cluster.nodes", nodes),
        }
        lines.maybe_text("username", username.as_deref());
        lines.secret("password", password.as_ref());
        lines.put("database", database);
        if let Some(RedisTls { ca, client_cert, client_key }) = tls {
            lines.put("tls", "true");
            let files = [("ca", ca), ("client_cert", client_cert), ("client_key", client_key)];
            for (key, file) in files {
                let file = file.as_deref().map(|path| path.to_string_lossy());
                lines.maybe_text(&format!("tls.{key}"), file.as_deref());
            }
        }
        lines.maybe_text("sentinel_username", sentinel_username.as_deref());
        lines.secret("sentinel_password", sentinel_password.as_ref());
        lines.put("replicas_to_acknowledge", replicas_to_acknowledge);
        lines.time("acknowledge_within", *acknowledge_within);
        lines.time("command_timeout", *command_timeout);
        lines.time("connect_timeout", *connect_timeout);
        lines.put("key_prefix", key_prefix);
        lines.put("allow_unsafe", allow_unsafe);
    }
}

impl Bulkheads {
    pub(super) fn write(&self, lines: &mut Lines) {
        let Self { critical: _, user: _, background: _, emergency: _, total, quarantine } = self;
        for class in BulkheadClass::ALL {
            let Bulkhead { concurrency, queue, queue_timeout, priority } = self.of(class);
            lines.below(class.label(), |lines| {
                lines.put("concurrency", concurrency);
                lines.put("queue", queue);
                lines.time("queue_timeout", *queue_timeout);
                lines.put("priority", priority);
            });
        }
        lines.maybe("total", *total);
        lines.time("quarantine", *quarantine);
    }
}

impl RetryBudget {
    pub(super) fn write(&self, lines: &mut Lines) {
        let Self { share, at_least, attempts } = self;
        lines.put("share", share);
        lines.put("at_least", at_least);
        lines.put("attempts", attempts);
    }
}

impl Health {
    pub(super) fn write(&self, lines: &mut Lines) {
        let Self { interval, critical_interval, timeout, retries, votes, passive, measures } = self;
        lines.time("interval", *interval);
        lines.time("critical_interval", *critical_interval);
        lines.time("timeout", *timeout);
        lines.put("retries", retries);
        lines.below("votes", |lines| votes.write(lines));
        lines.below("passive", |lines| passive.write(lines));
        lines.below("measures", |lines| {
            let Bars { watch, degrade, fail_over, emergency } = measures;
            lines.put("watch", watch);
            lines.put("degrade", degrade);
            lines.put("fail_over", fail_over);
            lines.put("emergency", emergency);
        });
    }
}

impl Votes {
    pub(super) fn write(&self, lines: &mut Lines) {
        let Self { local, peers, external, users, least_nodes, fail, round, timeout } = self;
        lines.put("local", local);
        lines.put("peers", peers);
        lines.put("external", external);
        lines.put("users", users);
        lines.put("least_nodes", least_nodes);
        lines.put("fail", fail);
        lines.time("round", *round);
        lines.time("timeout", *timeout);
    }
}

impl Passive {
    pub(super) fn write(&self, lines: &mut Lines) {
        let Self { response_time, error_rate, connect_success, cpu, memory, io_wait } = self;
        lines.below("response_time", |lines| {
            let Indicator { good, bad, weight } = response_time;
            lines.time("good", *good);
            lines.time("bad", *bad);
            lines.put("weight", weight);
        });
        let shares = [
            ("error_rate", error_rate),
            ("connect_success", connect_success),
            ("cpu", cpu),
            ("memory", memory),
            ("io_wait", io_wait),
        ];
        for (key, value) in shares {
            let Indicator { good, bad, weight } = value;
            lines.below(key, |lines| {
                lines.put("good", good);
                lines.put("bad", bad);
                lines.put("weight", weight);
            });
        }
    }
}

impl Webhook {
    pub(super) fn write(&self, lines: &mut Lines) {
        let Self { url, secret, events, retries, timeout } = self;
        lines.hook("url", url);
        lines.secret("secret", secret.as_ref());
        lines.list("events", events.iter().map(|event| event.label()));
        lines.put("retries", retries);
        lines.time("timeout", *timeout);
    }
}
