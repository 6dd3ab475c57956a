//! The settings of every section but `servers`. Every field is taken apart by name, so that a new one
//! that is left out does not compile.

use std::fmt::Display;
use std::time::Duration;

use super::lines::Lines;
use crate::health::{Health, Indicator, Levels, NodeHealth, Passive, Votes};
use crate::redis::{Redis, RedisTls, Topology};
use crate::units::show_duration;
use crate::{
    Admin, ApiKey, Auth, Bulkhead, BulkheadClass, Bulkheads, Cluster, Config, Limits, Listen, Log,
    LogFormat, Node, RetryBudget, Sessions, Streams, Tls, Webhook,
};

impl Config {
    pub(super) fn write(&self, lines: &mut Lines) {
        let Self {
            node,
            cluster,
            listen,
            admin,
            limits,
            sessions,
            streams,
            auth,
            servers,
            bulkheads,
            retry_budget,
            health,
            notify,
            log,
            notices: _,
        } = self;
        lines.below("node", |lines| node.write(lines));
        if let Some(cluster) = cluster {
            lines.below("cluster", |lines| cluster.write(lines));
        }
        lines.below("listen", |lines| listen.write(lines));
        lines.below("admin", |lines| admin.write(lines));
        lines.below("limits", |lines| limits.write(lines));
        lines.below("sessions", |lines| sessions.write(lines));
        lines.below("streams", |lines| streams.write(lines));
        lines.below("auth", |lines| auth.write(lines));
        lines.below("servers", |lines| {
            for (name, server) in servers {
                lines.below(name, |lines| server.write(lines));
            }
        });
        lines.below("bulkheads", |lines| bulkheads.write(lines));
        lines.below("retry_budget", |lines| retry_budget.write(lines));
        lines.below("health", |lines| health.write(lines));
        lines.each("notify", notify, Webhook::write);
        lines.below("log", |lines| log.write(lines));
    }
}

impl Node {
    fn write(&self, lines: &mut Lines) {
        let Self { id, data_dir, secret, region, health } = self;
        lines.put("id", id);
        lines.maybe_text("data_dir", data_dir.as_deref().and_then(|dir| dir.to_str()));
        lines.secret("secret", secret.as_ref());
        lines.maybe("region", region.as_ref());
        lines.below("health", |lines| health.write(lines));
    }
}

impl NodeHealth {
    fn write(&self, lines: &mut Lines) {
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

impl Cluster {
    fn write(&self, lines: &mut Lines) {
        let Self { node_id, secret, previous_secret, nodes, listen, advertise, failover_timeout } =
            self;
        lines.put("node_id", node_id);
        lines.secret("secret", Some(secret));
        lines.secret("previous_secret", previous_secret.as_ref());
        for (name, at) in nodes {
            lines.put(&format!("nodes.{name}"), at);
        }
        lines.put("listen", listen);
        lines.maybe("advertise", advertise.as_ref());
        lines.time("failover_timeout", *failover_timeout);
    }
}

impl Tls {
    fn write(&self, lines: &mut Lines) {
        let Self { certificate, key } = self;
        lines.text("tls.certificate", &certificate.to_string_lossy());
        lines.text("tls.key", &key.to_string_lossy());
    }
}

impl Listen {
    fn write(&self, lines: &mut Lines) {
        let Self {
            address,
            public_hosts,
            allowed_origins,
            trusted_proxies,
            tls,
            header_timeout,
            body_timeout,
            idle_timeout,
            workers,
            drain_deadline,
            health_path,
        } = self;
        lines.put("address", address);
        lines.list("public_hosts", public_hosts);
        lines.list("allowed_origins", allowed_origins);
        lines.list("trusted_proxies", trusted_proxies);
        if let Some(tls) = tls {
            tls.write(lines);
        }
        lines.time("header_timeout", *header_timeout);
        lines.time("body_timeout", *body_timeout);
        lines.time("idle_timeout", *idle_timeout);
        lines.put("workers", workers);
        lines.time("drain_deadline", *drain_deadline);
        lines.maybe_text("health_path", health_path.as_deref());
    }
}

impl Admin {
    fn write(&self, lines: &mut Lines) {
        let Self { address, token, tls, public_hosts } = self;
        lines.put("address", address);
        lines.secret("token", token.as_ref());
        if let Some(tls) = tls {
            tls.write(lines);
        }
        lines.list("public_hosts", public_hosts);
    }
}

impl Limits {
    fn write(&self, lines: &mut Lines) {
        let Self {
            body,
            header_bytes,
            header_count,
            connections,
            sessions,
            sessions_per_principal,
            streams,
            stream_queue,
            answer_buffer,
            in_flight,
            requests_per_minute,
            burst,
        } = self;
        lines.size("body", *body);
        lines.size("header_bytes", *header_bytes);
        lines.put("header_count", header_count);
        lines.put("connections", connections);
        lines.put("sessions", sessions);
        lines.put("sessions_per_principal", sessions_per_principal);
        lines.put("streams", streams);
        lines.size("stream_queue", *stream_queue);
        lines.size("answer_buffer", *answer_buffer);
        lines.put("in_flight", in_flight);
        lines.maybe("requests_per_minute", *requests_per_minute);
        lines.maybe("burst", *burst);
    }
}

impl Sessions {
    fn write(&self, lines: &mut Lines) {
        let Self { store, redis, ttl } = self;
        lines.put("store", store.label());
        if let Some(redis) = redis {
            lines.below("redis", |lines| redis.write(lines));
        }
        lines.time("ttl", *ttl);
    }
}

impl Redis {
    fn write(&self, lines: &mut Lines) {
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

impl Streams {
    fn write(&self, lines: &mut Lines) {
        let Self {
            commit_after,
            headers_by,
            keepalive,
            rotate_after,
            retry,
            strict,
            modern_grace,
            retain,
            retain_bytes,
        } = self;
        lines.time("commit_after", *commit_after);
        lines.time("headers_by", *headers_by);
        lines.time("keepalive", *keepalive);
        lines.time("rotate_after", *rotate_after);
        lines.time("retry", *retry);
        lines.put("strict", strict);
        lines.time("modern_grace", *modern_grace);
        lines.time("retain", *retain);
        lines.size("retain_bytes", *retain_bytes);
    }
}

impl Auth {
    fn write(&self, lines: &mut Lines) {
        let Self { keys } = self;
        lines.each("keys", keys, ApiKey::write);
    }
}

impl ApiKey {
    fn write(&self, lines: &mut Lines) {
        let Self { principal, sha256, requests_per_minute, burst } = self;
        lines.put("principal", principal);
        let digits: String = sha256.iter().map(|byte| format!("{byte:02x}")).collect();
        lines.put("sha256", digits);
        lines.maybe("requests_per_minute", *requests_per_minute);
        lines.maybe("burst", *burst);
    }
}

impl Bulkheads {
    fn write(&self, lines: &mut Lines) {
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
    fn write(&self, lines: &mut Lines) {
        let Self { share, at_least, attempts } = self;
        lines.put("share", share);
        lines.put("at_least", at_least);
        lines.put("attempts", attempts);
    }
}

impl Health {
    fn write(&self, lines: &mut Lines) {
        let Self { interval, critical_interval, timeout, retries, votes, passive } = self;
        lines.time("interval", *interval);
        lines.time("critical_interval", *critical_interval);
        lines.time("timeout", *timeout);
        lines.put("retries", retries);
        lines.below("votes", |lines| votes.write(lines));
        lines.below("passive", |lines| passive.write(lines));
    }
}

impl Votes {
    fn write(&self, lines: &mut Lines) {
        let Self { local, peers, external, users, least_nodes, degrade, fail, round, timeout } =
            self;
        lines.put("local", local);
        lines.put("peers", peers);
        lines.put("external", external);
        lines.put("users", users);
        lines.put("least_nodes", least_nodes);
        lines.put("degrade", degrade);
        lines.put("fail", fail);
        lines.time("round", *round);
        lines.time("timeout", *timeout);
    }
}

impl Passive {
    fn write(&self, lines: &mut Lines) {
        let Self { response_time, error_rate, connect_success } = self;
        lines.below("response_time", |lines| {
            let Indicator { good, bad, weight } = response_time;
            lines.time("good", *good);
            lines.time("bad", *bad);
            lines.put("weight", weight);
        });
        for (key, value) in [("error_rate", error_rate), ("connect_success", connect_success)] {
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
    fn write(&self, lines: &mut Lines) {
        let Self { url, secret, events, retries, timeout } = self;
        lines.hook("url", url);
        lines.secret("secret", secret.as_ref());
        lines.list("events", events.iter().map(|event| event.label()));
        lines.put("retries", retries);
        lines.time("timeout", *timeout);
    }
}

impl Log {
    fn write(&self, lines: &mut Lines) {
        let Self { format, level } = self;
        let word = match format {
            LogFormat::Logfmt => "logfmt",
            LogFormat::Json => "json",
        };
        lines.put("format", word);
        lines.text("level", level);
    }
}
