//! `holdfast edge`: a balancer in front of the nodes, for those who have none.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use holdfast_config::Log;
use holdfast_edge::Options;
use tokio_util::sync::CancellationToken;

use super::config_file::env;
use super::{Failure, Outcome};
use crate::shutdown::Signals;
use crate::{descriptors, telemetry};

/// Where an edge listens unless told otherwise.
const LISTEN: &str = "127.0.0.1:37373";

#[derive(Args)]
pub(crate) struct Edge {
    /// The port for clients [default: $HOLDFAST_EDGE_LISTEN, 127.0.0.1:37373]
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// The client port of a node; once for each node of the cluster
    /// [default: $HOLDFAST_EDGE_NODES, separated by commas]
    #[arg(long = "node", value_name = "HOST:PORT")]
    nodes: Vec<String>,
    /// How often each node is asked whether it is ready
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "150ms")]
    probe_interval: Duration,
    /// How long its answer may take before the node counts as frozen
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "400ms")]
    probe_deadline: Duration,
    /// How long requests are held while no node lives
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "30s")]
    hold: Duration,
    /// How long a request may wait for its response to begin [default: as long as a node has it]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    deadline: Option<Duration>,
    /// How long running requests may take once the edge is told to end
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10s")]
    drain_deadline: Duration,
    /// The largest body of a request; it is kept in memory, so that it can be sent again
    #[arg(long, value_name = "MIB", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    body_limit: u16,
    /// Connections of clients at once
    #[arg(long, value_name = "NUMBER", default_value_t = 8_000, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Worker threads; 0 is one per core
    #[arg(long, value_name = "NUMBER", default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=1024))]
    workers: u16,
}

impl Edge {
    pub(crate) fn run(&self) -> Outcome {
        let options = self.options()?;
        let log = Log::default();
        let level = env("HOLDFAST_LOG").filter(|level| !level.is_empty());
        telemetry::start(&Log { level: level.unwrap_or_else(|| log.level.clone()), ..log })?;
        descriptors::raise(options.connections, "--connections");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(serve(options))
    }

    fn options(&self) -> Result<Options, Failure> {
        let listen = match (self.listen, env("HOLDFAST_EDGE_LISTEN")) {
            (Some(listen), _) => listen,
            (None, Some(text)) if !text.is_empty() => text.parse().map_err(|_| {
                Failure::Usage(format!(
                    "holdfast: HOLDFAST_EDGE_LISTEN is {text:?}; write something like {LISTEN}"
                ))
            })?,
            (None, _) => LISTEN.parse()?,
        };
        let mut nodes = self.nodes.clone();
        if nodes.is_empty() {
            let listed = env("HOLDFAST_EDGE_NODES").unwrap_or_default();
            let listed = listed.split(',').map(str::trim).filter(|node| !node.is_empty());
            nodes = listed.map(str::to_owned).collect();
        }
        if self.probe_interval < SHORTEST || self.probe_deadline < SHORTEST {
            let text = "holdfast: probes need an interval and a deadline of 10ms or more";
            return Err(Failure::Usage(text.into()));
        }
        Ok(Options {
            workers: self.workers.into(),
            probe_interval: self.probe_interval,
            probe_deadline: self.probe_deadline,
            hold: self.hold,
            deadline: self.deadline,
            body: usize::from(self.body_limit) * 1024 * 1024,
            connections: usize::try_from(self.connections).unwrap_or(usize::MAX),
            drain_deadline: self.drain_deadline,
            ..Options::new(listen, nodes)
        })
    }
}

const SHORTEST: Duration = Duration::from_millis(10);

async fn serve(options: Options) -> Outcome {
    let signals = Signals::catch().context("signals cannot be caught")?;
    let drain = CancellationToken::new();
    let nodes = options.nodes.join(", ");
    let edge = holdfast_edge::Edge::bind(options).map_err(|error| match error {
        holdfast_edge::StartError::NoNode => Failure::Usage(
            "holdfast: an edge needs nodes: name each with --node HOST:PORT, or all in \
             $HOLDFAST_EDGE_NODES"
                .into(),
        ),
        error @ (holdfast_edge::StartError::Node { .. }
        | holdfast_edge::StartError::TooManyNodes(_)) => {
            Failure::Usage(format!("holdfast: {error}"))
        }
        error => Failure::from(error),
    })?;
    let address = edge.local_addr();
    let running = edge.run(drain.clone())?;
    let signals = tokio::spawn(signals.drive(drain));
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        clients = %address,
        nodes,
        "edge started"
    );
    running.finished().await;
    // Ready for a second signal until the very end.
    signals.abort();
    tracing::info!("edge ended");
    Ok(ExitCode::SUCCESS)
}

/// `150ms`, `30s`, `5m`.
fn duration(text: &str) -> Result<Duration, String> {
    const FORM: &str = "write a whole number and its unit: 150ms, 30s, 5m";
    let (number, unit) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    let number: u64 = number.parse().map_err(|_| FORM.to_owned())?;
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return Err(FORM.into()),
    };
    number.checked_mul(factor).map(Duration::from_millis).ok_or_else(|| FORM.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("150ms"), Ok(Duration::from_millis(150)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        for bad in ["", "30", "s", "1.5s", "-1s", "1h", "99999999999999999999s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
