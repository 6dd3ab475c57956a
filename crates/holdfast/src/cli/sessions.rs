//! `holdfast sessions`: the client sessions that a node has in hand.

use clap::Args;
use holdfast_admin::Client;
use holdfast_admin::api::{SessionDto, SessionsDto};

use super::admin_port::AdminArgs;
use super::output::{many, span, table};
use super::{Outcome, OutputArgs};

#[derive(Args)]
pub(crate) struct Sessions {
    #[command(flatten)]
    admin: AdminArgs,
    /// How many to show, 1 to 1000
    #[arg(long, value_name = "NUMBER", default_value_t = 100,
          value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    #[command(flatten)]
    output: OutputArgs,
}

impl Sessions {
    pub(crate) fn run(&self) -> Outcome {
        let ask = async |client: &Client| client.sessions(0, usize::from(self.limit)).await;
        self.admin.present(false, self.output.output, ask, text)
    }
}

fn text(page: &SessionsDto) -> String {
    let at = if page.node.is_empty() { String::new() } else { format!(" at {}", page.node) };
    let mut text = format!("{}{at}", many(page.total as u64, "session"));
    if page.sessions.is_empty() {
        return text;
    }
    if page.sessions.len() < page.total {
        text.push_str(&format!(", the first {} of them", page.sessions.len()));
    }
    let heading = [
        "SESSION",
        "SERVER",
        "INSTANCE",
        "NODE",
        "PRINCIPAL",
        "CLIENT",
        "VERSION",
        "AGE",
        "IDLE",
        "REVISION",
    ];
    let rows: Vec<Vec<String>> = page.sessions.iter().map(row).collect();
    text.push_str(&format!("\n\n{}", table(&heading, &rows)));
    text
}

fn row(session: &SessionDto) -> Vec<String> {
    let or_any = |value: &Option<String>, none: &str| value.as_deref().unwrap_or(none).to_owned();
    vec![
        session.digest.clone(),
        session.server.clone(),
        or_any(&session.instance, "-"),
        // Bound to no connection: whichever node a call reaches can serve it.
        or_any(&session.node, "any"),
        session.principal.clone(),
        or_any(&session.client, "-"),
        session.version.clone(),
        span(session.age_s),
        span(session.idle_s),
        session.revision.to_string(),
    ]
}
