//! The settings of one server. Every field is taken apart by name, so that a new one that is left out
//! does not compile.

use holdfast_engine::class::ToolClass;

use super::lines::Lines;
use crate::server::{
    Balance, Breaker, Check, CheckKind, CheckTarget, Consistency, Failover, Fallback,
    FallbackCache, Instance, InstanceRate, MetricSource, Objectives, Pool, Server, ServerHealth,
    Stdio, ToolRule, Transport,
};

impl Server {
    pub(super) fn write(&self, lines: &mut Lines) {
        let Self {
            transport,
            timeout,
            max_duration,
            connect_timeout,
            trust_annotations,
            tools,
            headers,
            forward_authorization,
            tier,
            requests_per_minute,
            burst,
            class,
            breaker,
            health,
            balance,
            failover,
            fallback,
            depends_on,
            pool,
            objectives,
        } = self;
        transport.write(lines);
        lines.time("timeout", *timeout);
        lines.time("max_duration", *max_duration);
        lines.time("connect_timeout", *connect_timeout);
        lines.put("trust_annotations", trust_annotations);
        for (name, rule) in tools {
            lines.below(&format!("tools.{name}"), |lines| rule.write(lines));
        }
        for (name, value) in headers {
            lines.secret(&format!("headers.{name}"), Some(value));
        }
        lines.put("forward_authorization", forward_authorization);
        lines.put("tier", tier.number());
        lines.maybe("requests_per_minute", *requests_per_minute);
        lines.maybe("burst", *burst);
        lines.put("class", class.label());
        lines.below("breaker", |lines| breaker.write(lines));
        lines.below("health", |lines| health.write(lines));
        lines.below("balance", |lines| balance.write(lines));
        lines.put("failover.enabled", failover.is_some());
        if let Some(failover) = failover {
            lines.below("failover", |lines| failover.write(lines));
        }
        lines.below("fallback", |lines| fallback.write(lines));
        lines.list("depends_on", depends_on);
        lines.below("pool", |lines| pool.write(lines));
        lines.below("objectives", |lines| objectives.write(lines));
    }
}

impl Transport {
    fn write(&self, lines: &mut Lines) {
        lines.put("transport", self.label());
        match self {
            Self::Http { instances } => lines.each("instances", instances, Instance::write),
            Self::Sse { url } => lines.url("url", url),
            Self::WebSocket { url } => lines.url("url", url),
            Self::Stdio(stdio) => stdio.write(lines),
        }
    }
}

impl Instance {
    fn write(&self, lines: &mut Lines) {
        let Self { id, url, role, region, weight } = self;
        lines.put("id", id);
        lines.url("url", url);
        lines.put("role", role.label());
        lines.maybe("region", region.as_ref());
        lines.put("weight", weight);
    }
}

impl Stdio {
    fn write(&self, lines: &mut Lines) {
        let Self { command, args, env, cwd, stop_grace } = self;
        lines.text("command", command);
        lines.list("args", args);
        for (name, value) in env {
            lines.secret(&format!("env.{name}"), Some(value));
        }
        lines.maybe_text("cwd", cwd.as_deref().map(|path| path.to_string_lossy()).as_deref());
        lines.time("stop_grace", *stop_grace);
    }
}

impl ToolRule {
    fn write(&self, lines: &mut Lines) {
        let Self { effect, class, requests_per_minute, burst } = self;
        let word = |effect: &ToolClass| match effect {
            ToolClass::Read => "read",
            ToolClass::Idempotent => "idempotent",
            ToolClass::Write => "write",
        };
        lines.maybe("effect", effect.as_ref().map(word));
        lines.maybe("class", class.map(|class| class.label()));
        lines.maybe("requests_per_minute", *requests_per_minute);
        lines.maybe("burst", *burst);
    }
}

impl Breaker {
    fn write(&self, lines: &mut Lines) {
        let Self {
            enabled,
            consecutive_failures,
            failure_rate,
            window,
            minimum_calls,
            slow_call,
            open_for,
            max_open_for,
            half_open_share,
            probe_interval,
            half_open_successes,
            ramp_over,
            per_tool,
        } = self;
        lines.put("enabled", enabled);
        lines.put("consecutive_failures", consecutive_failures);
        lines.put("failure_rate", failure_rate);
        lines.time("window", *window);
        lines.put("minimum_calls", minimum_calls);
        if let Some(slow_call) = slow_call {
            lines.time("slow_call", *slow_call);
        }
        lines.time("open_for", *open_for);
        lines.time("max_open_for", *max_open_for);
        lines.put("half_open_share", half_open_share);
        lines.time("probe_interval", *probe_interval);
        lines.put("half_open_successes", half_open_successes);
        lines.time("ramp_over", *ramp_over);
        lines.list("per_tool", per_tool);
    }
}

impl ServerHealth {
    fn write(&self, lines: &mut Lines) {
        let Self { enabled, interval, timeout, retries, critical, checks } = self;
        lines.put("enabled", enabled);
        lines.time("interval", *interval);
        lines.time("timeout", *timeout);
        lines.put("retries", retries);
        lines.put("critical", critical);
        lines.each("checks", checks, Check::write);
    }
}

impl Check {
    fn write(&self, lines: &mut Lines) {
        let Self { name, kind, weight, critical, external } = self;
        lines.put("name", name);
        lines.put("type", kind.label());
        lines.put("weight", weight);
        lines.put("critical", critical);
        lines.put("external", external);
        match kind {
            CheckKind::Connect | CheckKind::Ping | CheckKind::Initialize => {}
            CheckKind::Tools { expected } => lines.list("expected", expected),
            CheckKind::Tool { tool, arguments, contains } => {
                lines.text("tool", tool);
                lines.put("arguments", arguments);
                lines.maybe_text("contains", contains.as_deref());
            }
            CheckKind::Http { target, status, contains } => {
                target.write(lines);
                lines.maybe("status", *status);
                lines.maybe_text("contains", contains.as_deref());
            }
            CheckKind::Latency { good, bad } => {
                lines.time("good", *good);
                lines.time("bad", *bad);
            }
            CheckKind::Metric { source, good, bad } => {
                source.write(lines);
                lines.put("good", good);
                lines.put("bad", bad);
            }
            CheckKind::Resource { resource: _, source, full, counter } => {
                source.write(lines);
                lines.put("full", full);
                lines.put("counter", counter);
            }
        }
    }
}

impl CheckTarget {
    fn write(&self, lines: &mut Lines) {
        match self {
            Self::Url(url) => lines.url("url", url),
            Self::Path(path) => lines.text("path", path),
        }
    }
}

impl MetricSource {
    fn write(&self, lines: &mut Lines) {
        match self {
            Self::Http { target, name } => {
                target.write(lines);
                lines.text("metric", name);
            }
            Self::Tool { tool, arguments, pointer } => {
                lines.text("tool", tool);
                lines.put("arguments", arguments);
                lines.text("pointer", pointer);
            }
        }
    }
}

impl Balance {
    fn write(&self, lines: &mut Lines) {
        let Self { strategy, hash_on, panic_threshold, slow_start, rate } = self;
        lines.put("strategy", strategy.label());
        lines.list("hash_on", hash_on);
        lines.put("panic_threshold", panic_threshold);
        lines.time("slow_start", *slow_start);
        if let Some(InstanceRate { per_minute, burst }) = rate {
            lines.put("rate.per_minute", per_minute);
            lines.put("rate.burst", burst);
        }
    }
}

impl Failover {
    fn write(&self, lines: &mut Lines) {
        let Self {
            threshold,
            failback_delay,
            automatic_failback,
            good_checks,
            consistency,
            drain,
            ramp_step,
            ramp_over,
            shift_over,
            degradation,
            error_rate,
            tier,
        } = self;
        lines.put("threshold", threshold);
        lines.time("failback_delay", *failback_delay);
        lines.put("automatic_failback", automatic_failback);
        lines.put("good_checks", good_checks);
        if let Some(Consistency { tool, arguments }) = consistency {
            lines.text("consistency.tool", tool);
            lines.put("consistency.arguments", arguments);
        }
        lines.time("drain", *drain);
        lines.put("ramp_step", ramp_step);
        lines.time("ramp_over", *ramp_over);
        lines.time("shift_over", *shift_over);
        lines.put("degradation", degradation);
        lines.put("error_rate", error_rate);
        lines.put("tier", tier.label());
    }
}

impl Fallback {
    fn write(&self, lines: &mut Lines) {
        let Self { cache, server, answer, tools } = self;
        if let Some(FallbackCache { ttl, max_bytes }) = cache {
            lines.time("cache.ttl", *ttl);
            lines.size("cache.max_bytes", *max_bytes);
        }
        lines.maybe("server", server.as_ref());
        lines.maybe("static", answer.as_ref());
        lines.list("tools", tools);
    }
}

impl Pool {
    fn write(&self, lines: &mut Lines) {
        let Self { max_connections, queue, queue_timeout, idle_timeout } = self;
        lines.put("max_connections", max_connections);
        lines.put("queue", queue);
        lines.time("queue_timeout", *queue_timeout);
        lines.time("idle_timeout", *idle_timeout);
    }
}

impl Objectives {
    fn write(&self, lines: &mut Lines) {
        let Self { rto, rpo } = self;
        lines.time("rto", *rto);
        lines.time("rpo", *rpo);
    }
}
