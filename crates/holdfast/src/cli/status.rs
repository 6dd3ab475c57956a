//! `holdfast status`: what a running node says about itself, read from its admin port.

use std::io::{self, IsTerminal as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use holdfast_admin::api::{GaugedDto, RecentDto, ServerDto, StatusDto};
use holdfast_admin::{Client, ClientError};
use holdfast_config::{Admin, SecretString};

use super::output::{say, say_json, table};
use super::{ConfigArgs, Failure, Format, Outcome, OutputArgs, config_file};

/// How often `--watch` asks.
const EVERY: Duration = Duration::from_secs(1);
/// The token for `--admin`; on a command line every user of the machine could read it.
const TOKEN: &str = "HOLDFAST_ADMIN_TOKEN";

#[derive(Args)]
pub(crate) struct Status {
    #[command(flatten)]
    config: ConfigArgs,
    /// The admin port to ask, as HOST:PORT or https://HOST:PORT; its token is read from
    /// $HOLDFAST_ADMIN_TOKEN [default: that of the configuration]
    #[arg(long, value_name = "ADDRESS", conflicts_with = "config")]
    admin: Option<String>,
    /// Ask again every second until Ctrl-C
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    output: OutputArgs,
}

impl Status {
    pub(crate) fn run(&self) -> Outcome {
        // The client's https needs one named provider.
        crate::install_crypto()?;
        let client = self.client()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            if self.watch {
                return self.watch(&client).await;
            }
            let status = client.status().await.map_err(|error| self.explain(error))?;
            match self.output.output {
                Format::Table => say(&page(&status))?,
                Format::Json => say_json(&serde_json::to_value(&status)?)?,
            }
            Ok(ExitCode::SUCCESS)
        })
    }

    /// Goes on while the node is away: whoever watches a restart wants to see it come back.
    async fn watch(&self, client: &Client) -> Outcome {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                interrupted = tokio::signal::ctrl_c() => {
                    interrupted.context("cannot wait for Ctrl-C")?;
                    return Ok(ExitCode::SUCCESS);
                }
            }
            let answer = client.status().await;
            match (self.output.output, answer) {
                (Format::Table, answer) => say(&screen(&answer))?,
                // One object a line, so that another program can read along.
                (Format::Json, Ok(status)) => say(&serde_json::to_string(&status)?)?,
                (Format::Json, Err(error)) => {
                    say(&serde_json::json!({ "error": error.to_string() }).to_string())?;
                }
            }
        }
    }

    /// Says where this command takes its token from, which the client cannot know.
    fn explain(&self, error: ClientError) -> anyhow::Error {
        let wants_token = matches!(error, ClientError::Unauthorized { .. });
        let error = anyhow::Error::from(error);
        if wants_token && self.admin.is_some() {
            return error.context(format!("with --admin, the token is read from {TOKEN}"));
        }
        error
    }

    fn client(&self) -> Result<Client, Failure> {
        if let Some(address) = &self.admin {
            let token = config_file::env(TOKEN).filter(|token| !token.is_empty());
            return Client::new(address, token.map(SecretString::from))
                .map_err(|error| Failure::Usage(format!("holdfast: {error}")));
        }
        let section = self.section()?;
        if section.address.port() == 0 {
            return Err(Failure::Usage(
                "holdfast: admin.address lets the system choose the port; \
                 name it with --admin HOST:PORT"
                    .into(),
            ));
        }
        Ok(Client::for_section(&section))
    }

    /// The configuration's admin section; without a configuration, the default one.
    fn section(&self) -> Result<Admin, Failure> {
        if config_file::is_there(&self.config) {
            let config = config_file::load(&self.config).map_err(|failure| match failure {
                Failure::Usage(text) => {
                    Failure::Usage(format!("{text}\nor name the admin port: --admin HOST:PORT"))
                }
                other => other,
            })?;
            return Ok(config.admin);
        }
        let listen = config_file::env("HOLDFAST_ADMIN_LISTEN").filter(|text| !text.is_empty());
        let Some(listen) = listen else { return Ok(Admin::default()) };
        let address: SocketAddr = listen
            .parse()
            .map_err(|_| Failure::Usage("holdfast: HOLDFAST_ADMIN_LISTEN is not IP:PORT".into()))?;
        let token = config_file::env(TOKEN).map(SecretString::from);
        Ok(Admin { address, token, ..Admin::default() })
    }
}

fn screen(answer: &Result<StatusDto, ClientError>) -> String {
    let text = match answer {
        Ok(status) => page(status),
        Err(error) => error.to_string(),
    };
    // Home and clear, on a terminal only.
    if io::stdout().is_terminal() { format!("\x1b[H\x1b[2J{text}") } else { format!("{text}\n") }
}

fn page(status: &StatusDto) -> String {
    let node = &status.node;
    let mut text = format!(
        "{} (holdfast {}, pid {}): {}, up {}\n{}\n\n",
        node.id,
        node.version,
        node.pid,
        status.verdict.state,
        span(node.uptime_s),
        status.verdict.text
    );
    let usage = &status.usage;
    for (name, gauged) in [
        ("connections", usage.connections),
        ("sessions", usage.sessions),
        ("streams", usage.streams),
        ("calls", usage.in_flight),
    ] {
        text.push_str(&format!("{name:<13}{}\n", gauge(gauged)));
    }
    for listener in &status.listeners {
        let scheme = if listener.tls { "https" } else { "http" };
        let closed = if listener.accepting { "" } else { " (accepts nothing)" };
        let name = format!("{} port", listener.name);
        text.push_str(&format!("{name:<13}{scheme}://{}{closed}\n", listener.address));
    }
    text.push_str(&format!("last minute  {}\n\n", recent(&status.recent)));

    let heading =
        ["SERVER", "STATE", "TRANSPORT", "SESSIONS", "CALLS/S", "GOOD", "P50", "P99", "TOTAL"];
    let rows: Vec<Vec<String>> = status.servers.iter().map(row).collect();
    text.push_str(&table(&heading, &rows));
    for server in &status.servers {
        if let Some(reason) = &server.reason {
            text.push_str(&format!("\n{}: {reason}", server.name));
        }
        if let Some(error) = &server.last_error {
            let ago = span(error.age_s);
            text.push_str(&format!("\n{}: last error {ago} ago: {}", server.name, error.text));
        }
    }
    for check in status.checks.iter().filter(|check| !check.ok) {
        let detail = check.detail.as_deref().unwrap_or("no detail");
        text.push_str(&format!("\ncheck {} failed: {detail}", check.name));
    }
    text
}

fn row(server: &ServerDto) -> Vec<String> {
    let recent = &server.recent;
    vec![
        server.name.clone(),
        server.state.clone(),
        server.transport.clone(),
        server.sessions.to_string(),
        format!("{:.1}", recent.rate),
        recent.success.map_or_else(|| "-".into(), percent),
        millis(recent.p50_ms),
        millis(recent.p99_ms),
        server.total.calls.to_string(),
    ]
}

fn recent(recent: &RecentDto) -> String {
    match recent.success {
        None => "no calls".into(),
        Some(good) => format!(
            "{} calls, {} good, half within {}, 99 of 100 within {}",
            recent.calls,
            percent(good),
            millis(recent.p50_ms),
            millis(recent.p99_ms)
        ),
    }
}

fn gauge(gauged: GaugedDto) -> String {
    format!("{} of {}", gauged.now, gauged.limit)
}

/// Never rounded up to 100 %: one failure in a million is still one.
fn percent(share: f64) -> String {
    format!("{:.1}%", (share * 1000.0).floor() / 10.0)
}

fn millis(value: Option<f64>) -> String {
    match value {
        None => "-".into(),
        Some(ms) if ms < 10.0 => format!("{ms:.1}ms"),
        Some(ms) if ms < 1000.0 => format!("{ms:.0}ms"),
        Some(ms) => format!("{:.1}s", ms / 1000.0),
    }
}

fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m {}s", seconds % 60),
        3600..86_400 => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!(percent(0.999_999), "99.9%");
        assert_eq!(percent(1.0), "100.0%");
        assert_eq!(millis(Some(0.25)), "0.2ms");
        assert_eq!(millis(Some(1500.0)), "1.5s");
        assert_eq!(millis(None), "-");
        assert_eq!(span(59), "59s");
        assert_eq!(span(3_661), "1h 1m");
        assert_eq!(span(90_000), "1d 1h");
    }
}
