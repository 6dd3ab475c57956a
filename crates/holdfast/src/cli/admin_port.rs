//! Which admin port a command asks, and what to say when it does not answer.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use holdfast_admin::{Client, ClientError};
use holdfast_config::{Admin, SecretString};
use serde::Serialize;

use super::output::{say, say_json, screen};
use super::{ConfigArgs, Failure, Format, Outcome, OutputArgs, config_file};

/// How often `--watch` asks.
const EVERY: Duration = Duration::from_secs(1);
/// The token for `--admin`; on a command line every user of the machine could read it.
const TOKEN: &str = "HOLDFAST_ADMIN_TOKEN";

#[derive(Args)]
pub(crate) struct AdminArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The admin port to ask, as HOST:PORT or https://HOST:PORT; its token is read from
    /// $HOLDFAST_ADMIN_TOKEN [default: that of the configuration]
    #[arg(long, value_name = "ADDRESS", conflicts_with = "config")]
    admin: Option<String>,
}

/// What a command shows, once or again and again.
#[derive(Args)]
pub(crate) struct ViewArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Ask again every second until Ctrl-C
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    output: OutputArgs,
}

impl ViewArgs {
    /// As [`AdminArgs::present`].
    pub(crate) fn present<T: Serialize>(
        &self,
        ask: impl AsyncFn(&Client) -> Result<T, ClientError>,
        page: impl Fn(&T) -> String,
    ) -> Outcome {
        self.admin.present(self.watch, self.output.output, ask, page)
    }
}

impl AdminArgs {
    /// Runs `command` with a client of the admin port that is meant.
    pub(crate) fn run(&self, command: impl AsyncFnOnce(Client) -> Outcome) -> Outcome {
        // The client's https needs one named provider.
        crate::install_crypto()?;
        let client = self.client()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(command(client))
    }

    /// Asks the admin port, once or, where `watched`, every second until Ctrl-C, and shows each answer:
    /// as `page` writes it, or as JSON.
    pub(crate) fn present<T: Serialize>(
        &self,
        watched: bool,
        format: Format,
        ask: impl AsyncFn(&Client) -> Result<T, ClientError>,
        page: impl Fn(&T) -> String,
    ) -> Outcome {
        self.run(async |client| {
            if watched {
                let show = |answer| show(format, answer, &page);
                return watch(async || ask(&client).await, show).await;
            }
            let answer = ask(&client).await.map_err(|error| self.explain(error))?;
            match format {
                Format::Table => say(&page(&answer))?,
                Format::Json => say_json(&serde_json::to_value(&answer)?)?,
            }
            Ok(ExitCode::SUCCESS)
        })
    }

    /// Says where this command takes its token from, which the client cannot know.
    pub(crate) fn explain(&self, error: ClientError) -> anyhow::Error {
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

/// What a node says of a change that it refuses, without the address and status around it: it says all.
pub(crate) fn explain(admin: &AdminArgs, error: ClientError) -> anyhow::Error {
    match error {
        ClientError::Refused { said, .. } => anyhow::anyhow!(said),
        other => admin.explain(other),
    }
}

/// Asks every second until Ctrl-C. Goes on while the node is away: whoever watches a restart wants to
/// see it come back.
async fn watch<T>(
    ask: impl AsyncFn() -> Result<T, ClientError>,
    show: impl Fn(Result<T, ClientError>) -> anyhow::Result<()>,
) -> Outcome {
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
        show(ask().await)?;
    }
}

/// One of many answers, or why there is none this time.
fn show<T: Serialize>(
    format: Format,
    answer: Result<T, ClientError>,
    page: &impl Fn(&T) -> String,
) -> anyhow::Result<()> {
    match (format, answer) {
        (Format::Table, Ok(answer)) => say(&screen(&page(&answer)))?,
        (Format::Table, Err(error)) => say(&screen(&error.to_string()))?,
        // One object a line, so that another program can read along.
        (Format::Json, Ok(answer)) => say(&serde_json::to_string(&answer)?)?,
        (Format::Json, Err(error)) => {
            say(&serde_json::json!({ "error": error.to_string() }).to_string())?;
        }
    }
    Ok(())
}
