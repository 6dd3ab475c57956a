//! The settings of the sections about the node and its listeners. Every field is taken apart by name,
//! so that a new one that is left out does not compile.

use super::lines::Lines;
use crate::{
    Admin, ApiKey, Auth, Cluster, Config, Limits, Listen, Log, LogFormat, Node, Reload, Streams,
    Tls, Webhook,
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
            reload,
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
        lines.below("reload", |lines| reload.write(lines));
    }
}

impl Node {
    fn write(&self, lines: &mut Lines) {
        let Self { id, data_dir, secret, regions, health } = self;
        lines.put("id", id);
        lines.maybe_text("data_dir", data_dir.as_deref().and_then(|dir| dir.to_str()));
        lines.secret("secret", secret.as_ref());
        lines.list("regions", regions);
        lines.below("health", |lines| health.write(lines));
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

impl Reload {
    fn write(&self, lines: &mut Lines) {
        let Self { watch, interval, together } = self;
        lines.put("watch", watch);
        lines.time("interval", *interval);
        lines.put("together", together);
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
