//! `holdfast breaker ACTION SERVER [INSTANCE | --tool TOOL]`: holds breakers open or closed on every node, or lets them
//! decide by themselves again.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use holdfast_admin::api::{BreakerActionDto, OrderedDto};
use serde_json::json;

use super::admin_port::{AdminArgs, explain};
use super::confirm::ConfirmArgs;
use super::output::{say, say_json};
use super::{Format, Outcome, OutputArgs};

#[derive(Args)]
pub(crate) struct Breaker {
    /// What to do
    #[arg(value_enum)]
    action: Action,
    /// The server's name
    server: String,
    /// One of its instances [default: all of them]
    instance: Option<String>,
    /// One of its tools, on all instances: one that is listed under breaker.per_tool
    #[arg(long, value_name = "TOOL", conflicts_with = "instance")]
    tool: Option<String>,
    #[command(flatten)]
    confirm: ConfirmArgs,
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Action {
    /// Refuse every call until it is cleared
    Open,
    /// Let every call pass until it is cleared, whatever fails
    Close,
    /// Let the breaker decide by itself again
    Clear,
}

impl Breaker {
    pub(crate) fn run(&self) -> Outcome {
        let whose = match (&self.instance, &self.tool) {
            (Some(instance), _) => format!("{} of {}", instance, self.server),
            (None, Some(tool)) => format!("tool {} of {}", tool, self.server),
            (None, None) => self.server.clone(),
        };
        let (action, does, done) = match self.action {
            Action::Open => {
                let does = format!("every call to {whose} is refused until it is cleared");
                (BreakerActionDto::Open, does, "held open on every node")
            }
            Action::Close => {
                let does = format!("every call to {whose} passes until it is cleared");
                (BreakerActionDto::Close, does, "held closed on every node")
            }
            Action::Clear => {
                let does = format!("the breaker of {whose} decides by itself again");
                (BreakerActionDto::Clear, does, "decides by itself again")
            }
        };
        self.admin.run(async |client| {
            self.confirm.confirm(&does, &format!("From now on {does}. Go on?"))?;
            let ordered = match &self.tool {
                Some(tool) => client.breaker_of_tool(&self.server, tool, action).await,
                None => client.breaker(&self.server, self.instance.as_deref(), action).await,
            };
            let ordered = ordered.map_err(|error| explain(&self.admin, error))?;
            match self.output.output {
                Format::Table => {
                    say(&format!("{whose}: breaker {done}"))?;
                    for line in self.held_besides(&ordered) {
                        say(&line)?;
                    }
                }
                Format::Json => say_json(&json!(ordered))?,
            }
            Ok(ExitCode::SUCCESS)
        })
    }

    /// What is held for itself of a server whose breaker is let go: that takes a word of its own.
    fn held_besides(&self, ordered: &OrderedDto) -> Vec<String> {
        let whole =
            matches!(self.action, Action::Clear) && self.instance.is_none() && self.tool.is_none();
        let server = &self.server;
        let instances = ordered.control.instances.iter().filter(|_| whole);
        let held = instances.filter_map(|it| Some((&it.id, it.kept.as_ref()?)));
        let line = |(id, kept)| {
            format!("{server}, {id}: {kept}; `holdfast breaker clear {server} {id}` lets it go")
        };
        held.map(line).collect()
    }
}
